{{/*
CEL expressions that select agent pods, rendered from the webhook's own `config`.
No term may fail on a pod that lacks a field, because the API server treats an error as
a failed webhook call. Text from the values enters CEL only as a JSON string. Every JSON
string is a CEL string with the same value.
*/}}

{{/* One requirement of a selector: `key` or `key=value`. */}}
{{- define "fab-session-injector.agents.requirement" -}}
{{- $parts := splitn "=" 2 . -}}
object.metadata.?labels[?{{ $parts._0 | toRawJson }}]
{{- if contains "=" . }} == optional.of({{ $parts._1 | toRawJson }}){{ else }}.hasValue(){{ end -}}
{{- end -}}

{{/*
A glob as a regular expression. With (?s), `*` also matches a line break, as in the
webhook. $ without (?m) matches only the end of the text.
*/}}
{{- define "fab-session-injector.agents.regex" -}}
(?s)^{{ regexQuoteMeta . | replace "\\*" ".*" }}$
{{- end -}}

{{/* Whether the CEL string `.of` matches the glob `.glob`. */}}
{{- define "fab-session-injector.agents.glob" -}}
{{- if contains "*" .glob -}}
{{ .of }}.matches({{ include "fab-session-injector.agents.regex" .glob | toRawJson }})
{{- else -}}
{{ .of }} == {{ .glob | toRawJson }}
{{- end -}}
{{- end -}}

{{/* Whether the CEL string `.of` matches one of the globs `.globs`. */}}
{{- define "fab-session-injector.agents.any" -}}
{{- $alternatives := list -}}
{{- range .globs -}}
  {{- $alternatives = append $alternatives (include "fab-session-injector.agents.glob" (dict "of" $.of "glob" .)) -}}
{{- end -}}
{{- join " ||\n" $alternatives | default "false" -}}
{{- end -}}

{{/*
Whether the requesting user matches one of the globs `.`. A service account of the
request's own namespace never matches: a tenant may impersonate it and run pods as it.
*/}}
{{- define "fab-session-injector.agents.listed" -}}
{{- $user := "request.userInfo.?username.orValue(\"\")" -}}
!{{ $user }}.startsWith("system:serviceaccount:" + request.namespace + ":") && (
{{ include "fab-session-injector.agents.any" (dict "of" $user "globs" .) | indent 2 }}
)
{{- end -}}

{{/* The expressions by which a pod matches one component, as YAML: {alternatives: [CEL, ...]}. */}}
{{- define "fab-session-injector.agents.alternatives" -}}
{{- $serviceAccount := "object.spec.?serviceAccountName.orValue(\"default\")" -}}
{{- $alternatives := list -}}
{{- range .component.selectors -}}
  {{- $requirements := list -}}
  {{- range splitList "," . -}}
    {{- $requirements = append $requirements (trim . | include "fab-session-injector.agents.requirement") -}}
  {{- end -}}
  {{- $all := join " && " $requirements -}}
  {{- $alternatives = append $alternatives (gt (len $requirements) 1 | ternary (printf "(%s)" $all) $all) -}}
{{- end -}}
{{- $globs := default list .component.serviceAccounts -}}
{{- if .component.fenced -}}
  {{- $globs = concat $globs .config.fencedServiceAccounts | uniq -}}
{{- end -}}
{{- range $globs -}}
  {{- $alternatives = append $alternatives (include "fab-session-injector.agents.glob" (dict "of" $serviceAccount "glob" .)) -}}
  {{- /* An empty name means `default`, like a missing name. */ -}}
  {{- if regexMatch (include "fab-session-injector.agents.regex" .) "default" -}}
    {{- $alternatives = append $alternatives (printf "%s == \"\"" $serviceAccount) -}}
  {{- end -}}
{{- end -}}
{{- with .component.creators -}}
  {{- $alternatives = append $alternatives (include "fab-session-injector.agents.listed" . | printf "(%s)") -}}
{{- end -}}
{{- toYaml (dict "alternatives" $alternatives) -}}
{{- end -}}

{{/*
The first component that matches is used, so the expression is built from the last
component to the first. `m ? true : rest` is written `m || rest`. For an exempt component,
`m ? false : rest` is written `!(m) && (rest)`.
*/}}
{{- define "fab-session-injector.agents.expression" -}}
{{- $config := .Values.config -}}
{{- $rest := "// A pod with an unknown value of this label is sent too, and refused.\nobject.metadata.?labels[?\"fab.nanohype.dev/component\"].hasValue()" -}}
{{- range reverse $config.components -}}
  {{- $arguments := dict "component" . "config" $config -}}
  {{- $matches := join " ||\n" (include "fab-session-injector.agents.alternatives" $arguments | fromYaml).alternatives -}}
  {{- $credentials := default "sidecar" .credentials -}}
  {{- if eq $credentials "exempt" -}}
    {{- $rest = printf "// %s (%s)\n!(\n%s\n) && (\n%s\n)" .name $credentials (indent 2 $matches) (indent 2 $rest) -}}
  {{- else -}}
    {{- $rest = printf "// %s (%s)\n%s ||\n%s" .name $credentials $matches $rest -}}
  {{- end -}}
{{- end -}}
{{- $rest -}}
{{- end -}}
