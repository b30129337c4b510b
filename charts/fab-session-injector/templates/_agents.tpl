{{/*
Which pods are agents, in CEL, from the same `config` that the webhook reads.
No term can fail on a pod that lacks a field, because an expression that fails
counts as a failed webhook. Text from the values enters CEL only as a JSON
string, and every JSON string is a CEL string of the same meaning.
*/}}

{{/* One requirement of a selector: `key` or `key=value`. */}}
{{- define "fab-session-injector.agents.requirement" -}}
{{- $parts := splitn "=" 2 . -}}
object.metadata.?labels[?{{ $parts._0 | toRawJson }}]
{{- if contains "=" . }} == optional.of({{ $parts._1 | toRawJson }}){{ else }}.hasValue(){{ end -}}
{{- end -}}

{{/*
A glob as a regular expression. (?s) lets `*` run over a line break, as the
webhook does; $ without (?m) is the end of the text.
*/}}
{{- define "fab-session-injector.agents.regex" -}}
(?s)^{{ regexQuoteMeta . | replace "\\*" ".*" }}$
{{- end -}}

{{/* The glob `.glob` on the CEL string `.of`. */}}
{{- define "fab-session-injector.agents.glob" -}}
{{- if contains "*" .glob -}}
{{ .of }}.matches({{ include "fab-session-injector.agents.regex" .glob | toRawJson }})
{{- else -}}
{{ .of }} == {{ .glob | toRawJson }}
{{- end -}}
{{- end -}}

{{/* Whether one of the globs `.globs` holds of the CEL string `.of`. */}}
{{- define "fab-session-injector.agents.any" -}}
{{- $alternatives := list -}}
{{- range .globs -}}
  {{- $alternatives = append $alternatives (include "fab-session-injector.agents.glob" (dict "of" $.of "glob" .)) -}}
{{- end -}}
{{- join " ||\n" $alternatives | default "false" -}}
{{- end -}}

{{/*
Whether the user that asks is on the list of globs `.`. A service account of the
request's own namespace is on none: a tenant may impersonate it, and run pods as it.
*/}}
{{- define "fab-session-injector.agents.listed" -}}
{{- $user := "request.userInfo.?username.orValue(\"\")" -}}
!{{ $user }}.startsWith("system:serviceaccount:" + request.namespace + ":") && (
{{ include "fab-session-injector.agents.any" (dict "of" $user "globs" .) | indent 2 }}
)
{{- end -}}

{{/* The alternatives of one component, as YAML: {alternatives: [CEL, ...]}. */}}
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
  {{- /* An empty name runs as `default`, as a missing one does. */ -}}
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
The first component that matches decides, so the expression is folded from the
last one to the first. `m ? true : rest` is written `m || rest`, and
`m ? false : rest`, an exempt component, is `!(m) && (rest)`.
*/}}
{{- define "fab-session-injector.agents.expression" -}}
{{- $config := .Values.config -}}
{{- $rest := "// An unknown value of the label is sent too, to be refused.\nobject.metadata.?labels[?\"fab.nanohype.dev/component\"].hasValue()" -}}
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
