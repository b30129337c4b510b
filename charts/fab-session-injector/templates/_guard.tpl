{{/*
Parts of the guard's expressions that are rendered from the values. As in _agents.tpl, text
from the values enters CEL only as a JSON string, and no term may fail on an object that
lacks a field.
*/}}

{{/*
Name of the first component that matches; "" if none matches. Built from the last component
to the first.
*/}}
{{- define "fab-session-injector.guard.component" -}}
{{- $config := .Values.config -}}
{{- $rest := "\"\"" -}}
{{- range reverse $config.components -}}
  {{- $arguments := dict "component" . "config" $config -}}
  {{- $matches := join " ||\n" (include "fab-session-injector.agents.alternatives" $arguments | fromYaml).alternatives -}}
  {{- $rest = printf "(\n%s\n) ? %s :\n%s" (indent 2 $matches) (.name | toRawJson) $rest -}}
{{- end -}}
{{- $rest -}}
{{- end -}}

{{/* The key `.key` of each component, by its name, and "" for a pod of no component. */}}
{{- define "fab-session-injector.guard.by-component" -}}
{{- $values := dict "" "" -}}
{{- range .components -}}
  {{- $_ := set $values .name (default $.default (get . $.key)) -}}
{{- end -}}
{{- toRawJson $values -}}
{{- end -}}

{{/* The components, each with its startup gate: a pod of a warm pool starts without credentials. */}}
{{- define "fab-session-injector.guard.gates" -}}
{{- $components := list -}}
{{- range .components -}}
  {{- $gate := eq (default "creator-or-uid" .session) "sandbox-claim" | ternary "listening" "credentials" -}}
  {{- $components = append $components (dict "name" .name "startGate" (default $gate .startGate)) -}}
{{- end -}}
{{- toRawJson $components -}}
{{- end -}}

{{/*
Whether a selector contains the pod's value of the label fab.nanohype.dev/component, in CEL
on the optional `variables.label`. A selector with the key alone accepts every value.
*/}}
{{- define "fab-session-injector.guard.named" -}}
{{- $values := list -}}
{{- $all := false -}}
{{- range .Values.config.components -}}
  {{- range .selectors -}}
    {{- range splitList "," . -}}
      {{- $parts := splitn "=" 2 (trim .) -}}
      {{- if eq $parts._0 "fab.nanohype.dev/component" -}}
        {{- if contains "=" . -}}
          {{- $values = append $values $parts._1 -}}
        {{- else -}}
          {{- $all = true -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $all -}}
true
{{- else -}}
variables.label.orValue("") in {{ uniq $values | toRawJson }}
{{- end -}}
{{- end -}}

{{/*
Whether tokens for AWS of the service account `request.name` are refused, by its name only.
As with pods, the first component with that name is used. An exempt component refuses none.
A service account of no component is refused only with `denyAwsTokens: all`.
*/}}
{{- define "fab-session-injector.guard.account" -}}
{{- $config := .Values.config -}}
{{- $rest := eq .Values.guard.denyAwsTokens "all" | ternary "true" "false" -}}
{{- range reverse $config.components -}}
  {{- $globs := default list .serviceAccounts -}}
  {{- if .fenced -}}
    {{- $globs = concat $globs $config.fencedServiceAccounts | uniq -}}
  {{- end -}}
  {{- if $globs -}}
    {{- $matches := include "fab-session-injector.agents.any" (dict "of" "request.name" "globs" $globs) -}}
    {{- if eq (default "sidecar" .credentials) "exempt" -}}
      {{- $rest = printf "!(\n%s\n) && (\n%s\n)" (indent 2 $matches) (indent 2 $rest) -}}
    {{- else -}}
      {{- $rest = printf "%s ||\n%s" $matches $rest -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $rest -}}
{{- end -}}

{{/*
The forms of the image `.image` that a policy engine may write when it pins the image to one of
the digests `.digests`, or to the image's own: as in src/config/image.rs.
*/}}
{{- define "fab-session-injector.guard.pinned" -}}
{{- $parts := splitList "@" .image -}}
{{- $tagged := first $parts -}}
{{- $pinned := list -}}
{{- range $digest := concat .digests (rest $parts) -}}
  {{- range list $tagged (regexReplaceAll ":[^:/]*$" $tagged "") -}}
    {{- $pinned = append $pinned (printf "%s@%s" . $digest) -}}
  {{- end -}}
{{- end -}}
{{- toRawJson $pinned -}}
{{- end -}}

{{/* All images that the sidecar of a new pod may have. */}}
{{- define "fab-session-injector.guard.images" -}}
{{- $sidecar := (include "fab-session-injector.config" . | fromYaml).sidecar -}}
{{- $images := list $sidecar.image -}}
{{- $images = concat $images (include "fab-session-injector.guard.pinned" (dict "image" $sidecar.image "digests" $sidecar.imageDigests) | fromJsonArray) -}}
{{- $images = concat $images (include "fab-session-injector.guard.previous" . | fromJsonArray) -}}
{{- uniq $images | toRawJson -}}
{{- end -}}

{{/*
The images of guard.previousImages, and that of the release which this upgrade replaces: its replicas
inject it until the rollout is complete. While an earlier rollout is not, or did not begin because
the upgrade failed, also what the guard of that release accepted. Helm reads the cluster at `install` and `upgrade`, and Flux does; `helm template`
and Argo CD do not.
*/}}
{{- define "fab-session-injector.guard.previous" -}}
{{- $images := list -}}
{{- range .Values.guard.previousImages -}}
  {{- $images = append $images . -}}
  {{- $images = concat $images (include "fab-session-injector.guard.pinned" (dict "image" . "digests" list) | fromJsonArray) -}}
{{- end -}}
{{- $current := (include "fab-session-injector.config" . | fromYaml).sidecar.image -}}
{{- $name := include "fab-session-injector.fullname" . -}}
{{- if .Values.guard.acceptInstalledImage -}}
  {{- with (lookup "v1" "ConfigMap" .Release.Namespace (printf "%s-installed" $name)).data -}}
    {{- $sidecar := (index . "config.yaml" | default "" | fromYaml).sidecar | default dict -}}
    {{- if and $sidecar.image (ne $sidecar.image $current) -}}
      {{- $images = append $images $sidecar.image -}}
      {{- $images = concat $images (include "fab-session-injector.guard.pinned" (dict "image" $sidecar.image "digests" (default list $sidecar.imageDigests)) | fromJsonArray) -}}
    {{- end -}}
    {{- $deployment := lookup "apps/v1" "Deployment" $.Release.Namespace $name -}}
    {{- $status := default dict $deployment.status -}}
    {{- $updated := int (default 0 $status.updatedReplicas) -}}
    {{- $checksum := dig "spec" "template" "metadata" "annotations" "checksum/config" "" $deployment -}}
    {{- $complete := and $deployment
      (eq $checksum (index . "checksum" | default "none"))
      (eq (int (default 0 $status.observedGeneration)) (int $deployment.metadata.generation))
      (eq $updated (int (default 0 $status.replicas)))
      (eq $updated (int $deployment.spec.replicas)) -}}
    {{- if not $complete -}}
      {{- $images = concat $images (index . "previous-images.json" | default "[]" | fromJsonArray) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- without (uniq $images) $current | toRawJson -}}
{{- end -}}

{{/*
Text of the request in a message. The API server validates names after the guard, so a
malformed name could contain terminal escape sequences, or imitate a code.
*/}}
{{- define "fab-session-injector.guard.shown" -}}
({{ . }}.matches("^[A-Za-z0-9._:/@-]{1,512}$") ? {{ . }} : "(malformed)")
{{- end -}}

{{/* A list of names as a CEL map: a lookup does not iterate over all names. */}}
{{- define "fab-session-injector.guard.set" -}}
{{- $set := dict -}}
{{- range . -}}
  {{- $_ := set $set . true -}}
{{- end -}}
{{- toRawJson $set -}}
{{- end -}}

{{/*
Whether the variable `e` takes precedence over the session credentials: by its name, or by a
system property of a JVM that matches the expression `.`. `contains` costs less than `matches`.
*/}}
{{- define "fab-session-injector.guard.static" -}}
e.name in variables.staticNames ||
e.name in variables.javaNames && e.?value.orValue("").contains("-Daws.") &&
  e.?value.orValue("").matches({{ toRawJson . }})
{{- end -}}

{{/* The token audiences that AWS accepts, as a CEL list. */}}
{{- define "fab-session-injector.guard.audiences" -}}
{{- concat (list "sts.amazonaws.com" "pods.eks.amazonaws.com") (default list .Values.config.awsAudiences) | uniq | toRawJson -}}
{{- end -}}

{{/*
The sources of the projected volume `v`. The API server writes a missing list as null, which is
no list for CEL.
*/}}
{{- define "fab-session-injector.guard.sources" -}}
(v.?projected.?sources.orValue(null) == null ? [] : v.projected.sources)
{{- end -}}

{{/* The audience of the session issuer, or nothing without one. */}}
{{- define "fab-session-injector.guard.issuer-audience" -}}
{{- with (include "fab-session-injector.config" . | fromYaml).issuer -}}
{{- .audience -}}
{{- end -}}
{{- end -}}

{{/*
The names of the volumes in a CEL list that project a token for such an audience, or for the
session issuer.
*/}}
{{- define "fab-session-injector.guard.aws-volumes" -}}
{{- $audiences := include "fab-session-injector.guard.audiences" (index . 0) | fromJsonArray -}}
{{- with include "fab-session-injector.guard.issuer-audience" (index . 0) -}}
{{- $audiences = append $audiences . -}}
{{- end -}}
{{ index . 1 }}
  .filter(v, {{ include "fab-session-injector.guard.sources" . }}
    .exists(s, s.?serviceAccountToken.?audience.orValue("") in {{ toRawJson $audiences }}))
  .map(v, v.name)
{{- end -}}

{{/* Whether a pod has more volumes, or sources of volumes, than a policy for all pods can read. */}}
{{- define "fab-session-injector.guard.too-many-sources" -}}
size(object.spec.?volumes.orValue([])) > 4096 ||
dyn(object.spec).?volumes.orValue([]).map(v, size({{ include "fab-session-injector.guard.sources" . }})).sum() > 4096
{{- end -}}

{{/* Whether the requesting user may name the session of the component `variables.component`. */}}
{{- define "fab-session-injector.guard.may-name" -}}
variables.session == "creator-or-uid" && (
  {{- include "fab-session-injector.agents.listed" .Values.config.sessionCreators | nindent 2 }}
)
{{- end -}}

{{/*
The accounts of the controllers that create pods whose session comes with a SandboxClaim, as a JSON
list. Empty without a guard, without a session issuer, or if no component has this session.
*/}}
{{- define "fab-session-injector.guard.claim-creators" -}}
{{- $creators := list -}}
{{- if and .Values.guard.enabled .Values.issuer.enabled -}}
  {{- range .Values.config.components -}}
    {{- if eq (default "creator-or-uid" .session) "sandbox-claim" -}}
      {{- $creators = concat $creators (default list .creators) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- uniq $creators | toRawJson -}}
{{- end -}}

{{/* Whether the owner reference `.` makes a Sandbox the controller. */}}
{{- define "fab-session-injector.guard.sandbox-reference" -}}
{{ . }}.?controller.orValue(false) && {{ . }}.kind == "Sandbox" && {{ . }}.apiVersion.startsWith("agents.x-k8s.io/")
{{- end -}}

{{/* Whether the owner reference `.` makes a pool or a claim of Sandboxes the controller. */}}
{{- define "fab-session-injector.guard.claim-reference" -}}
{{ . }}.?controller.orValue(false) && {{ . }}.kind in ["SandboxWarmPool", "SandboxClaim"] && {{ . }}.apiVersion.startsWith("extensions.agents.x-k8s.io/")
{{- end -}}

{{/* Whether the variable `.` of the sidecar says that its session comes with a SandboxClaim. */}}
{{- define "fab-session-injector.guard.is-late" -}}
!has({{ . }}.valueFrom) && {{ . }}.?value.orValue("") == "<sandbox claim>"
{{- end -}}

{{/*
Annotations of the pod `.of` whose values allow a mesh's plugin to redirect connections to
the node's Pod Identity agent: for Istio always, for Linkerd if the pod has its proxy. The
sidecar's UID, `.uid`, is also its GID. `.base` is config.baseCredentials.
*/}}
{{- define "fab-session-injector.guard.redirected" -}}
({{ .of }}.metadata.?annotations[?"traffic.sidecar.istio.io/excludeOutboundIPRanges"].orValue("")
  .matches({{ eq .base.ipFamily "ipv6" | ternary "(^|,)fd00:ec2::23/128(,|$)" "(^|,)169[.]254[.]170[.]23/32(,|$)" | toRawJson }}) ? [] : ["traffic.sidecar.istio.io/excludeOutboundIPRanges"]) +
((dyn({{ .of }}.spec).?initContainers.orValue([]) + dyn({{ .of }}.spec).containers).exists(c, c.name == "linkerd-proxy") &&
  {{ .of }}.metadata.?annotations[?"config.linkerd.io/proxy-gid"].orValue("") != {{ toString (int .uid) | toRawJson }} ?
  ["config.linkerd.io/proxy-gid"] : [])
{{- end -}}

{{/*
Annotations and labels by which the pod `.` requests its own network configuration. The
pod's label enables or disables Istio's ambient mode; without it, the label of the namespace
does.
*/}}
{{- define "fab-session-injector.guard.own-network" -}}
{{ list "ambient.istio.io/redirection" "cni.projectcalico.org/ipAddrsNoIpam" "consul.hashicorp.com/redirect-traffic-config" "k8s.v1.cni.cncf.io/networks" "kuma.io/sidecar-injected" "v1.multus-cni.io/default-network" | toRawJson }}
  .filter(key, {{ . }}.metadata.?annotations[?key].hasValue()) +
({{ . }}.metadata.?labels[?"istio.io/dataplane-mode"]
  .or(namespaceObject.metadata.?labels[?"istio.io/dataplane-mode"]).orValue("none") == "none" ? [] : ["istio.io/dataplane-mode"])
{{- end -}}

{{/* The tenant of the namespace, as the webhook reads it; "" if there is none. */}}
{{- define "fab-session-injector.guard.tenant" -}}
{{- with .Values.config.tenant -}}
{{- range .labels -}}
namespaceObject.metadata.?labels[?{{ toRawJson . }}].or(
{{- end -}}
optional.none()
{{- range .labels -}})
{{- end -}}
.orValue(
{{- with .namespacePrefix }}
  request.namespace.startsWith({{ toRawJson . }}) ? request.namespace.substring({{ len . }}) : ""
{{- else }}
  ""
{{- end }}
)
{{- end -}}
{{- end -}}

{{/*
The sidecar's environment variables whose values are known here, as JSON, name to value in CEL: for
the source of credentials `index . 1`, which is config.baseCredentials.source or `issuer`.
`config.sidecar.env` takes precedence, as in the webhook.
*/}}
{{- define "fab-session-injector.guard.values" -}}
{{- $source := index . 1 -}}
{{- with index . 0 -}}
{{- $config := include "fab-session-injector.config" . | fromYaml -}}
{{- $own := $config.sidecar.env -}}
{{- $values := dict
  "FAB_SESSION_TENANT" "variables.tenant"
  "FAB_SESSION_DURATION" (toString (int $config.sidecar.durationSeconds) | toRawJson)
  "FAB_SESSION_PORT" (toString (int $config.sidecar.port) | toRawJson)
  "FAB_SESSION_START_GATE" (printf "%s[variables.component]" (include "fab-session-injector.guard.by-component" (dict "components" (include "fab-session-injector.guard.gates" $config | fromJsonArray) "key" "startGate" "default" "credentials")))
  "FAB_SESSION_TOKEN_FILE" (toRawJson "/var/run/fab-session/token")
  "AWS_STS_REGIONAL_ENDPOINTS" (toRawJson "regional")
  "AWS_EC2_METADATA_DISABLED" (toRawJson "true")
-}}
{{- if eq $source "issuer" -}}
  {{- $_ := set $values "FAB_SESSION_ISSUER" (regexReplaceAll "^(https://[^/:]+):443/" $config.issuer.endpoint "${1}/" | toRawJson) -}}
  {{- $_ := set $values "FAB_SESSION_ISSUER_TOKEN_FILE" (toRawJson "/var/run/fab-session-base/token") -}}
{{- else if eq $source "podIdentity" -}}
  {{- $_ := set $values "AWS_CONTAINER_CREDENTIALS_FULL_URI" (printf "http://%s/v1/credentials" (eq $config.baseCredentials.ipFamily "ipv6" | ternary "[fd00:ec2::23]" "169.254.170.23") | toRawJson) -}}
  {{- $_ := set $values "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" (toRawJson "/var/run/fab-session-base/token") -}}
{{- else if eq $source "irsa" -}}
  {{- $role := $config.baseCredentials.roleArn | replace "{cluster}" (default "" $config.cluster) -}}
  {{- $_ := set $values "AWS_ROLE_ARN" (printf "%s.replace(\"{tenant}\", variables.tenant).replace(\"{component}\", variables.component)" (toRawJson $role)) -}}
  {{- $_ := set $values "AWS_WEB_IDENTITY_TOKEN_FILE" (toRawJson "/var/run/fab-session-base/token") -}}
{{- end -}}
{{- with include "fab-session-injector.guard.region" . -}}
  {{- $_ := set $values "AWS_REGION" (toRawJson .) -}}
  {{- $_ := set $values "AWS_DEFAULT_REGION" (toRawJson .) -}}
{{- end -}}
{{- with $config.awsCaBundle -}}
  {{- $_ := set $values "FAB_SESSION_CA_BUNDLE" (toRawJson .) -}}
{{- end -}}
{{- range $name, $value := $own -}}
  {{- $_ := set $values $name (toRawJson $value) -}}
{{- end -}}
{{- /* The base token must not be sent through a proxy for STS. */ -}}
{{- $proxied := false -}}
{{- range list "HTTP_PROXY" "HTTPS_PROXY" "ALL_PROXY" "http_proxy" "https_proxy" "all_proxy" -}}
  {{- $proxied = or $proxied (hasKey $own .) -}}
{{- end -}}
{{- if and $proxied (eq $source "podIdentity") -}}
  {{- range $name, $other := dict "NO_PROXY" "no_proxy" "no_proxy" "NO_PROXY" -}}
    {{- $listed := default (get $own $other) (get $own $name) -}}
    {{- $hosts := append (compact (list $listed)) (eq $config.baseCredentials.ipFamily "ipv6" | ternary "fd00:ec2::23" "169.254.170.23") | join "," -}}
    {{- $_ := set $values $name (toRawJson $hosts) -}}
  {{- end -}}
{{- end -}}
{{- toRawJson $values -}}
{{- end -}}
{{- end -}}

{{/* The same as a CEL map. */}}
{{- define "fab-session-injector.guard.environment" -}}
{{- $entries := list -}}
{{- range $name, $value := include "fab-session-injector.guard.values" . | fromJson -}}
  {{- $entries = append $entries (printf "%s: %s" (toRawJson $name) $value) -}}
{{- end -}}
{
{{- range $index, $entry := $entries }}
  {{ $entry }}{{ if lt (add1 $index) (len $entries) }},{{ end }}
{{- end }}
}
{{- end -}}

{{/*
The sidecar's environment variables behind those of the session, as a CEL list in the webhook's
order. Values that are not known here are the sidecar's own, which `asInjected` checks.
*/}}
{{- define "fab-session-injector.guard.entries" -}}
{{- $config := include "fab-session-injector.config" (index . 0) | fromYaml -}}
{{- $values := include "fab-session-injector.guard.values" . | fromJson -}}
{{- $own := $config.sidecar.env -}}
{{- $proxies := list "NO_PROXY" "no_proxy" -}}
{{- if eq (index . 1) "issuer" -}}
  {{- $_ := set $values "FAB_SESSION_ISSUER_CA" "variables.issuerCa" -}}
{{- end -}}
{{- if not (include "fab-session-injector.guard.region" (index . 0)) -}}
  {{- range list "AWS_REGION" "AWS_DEFAULT_REGION" -}}
    {{- if not (hasKey $values .) -}}
      {{- $_ := set $values . "variables.region" -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $order := list "FAB_SESSION_PORT" "FAB_SESSION_START_GATE" "FAB_SESSION_TOKEN_FILE" "FAB_SESSION_ISSUER" "FAB_SESSION_ISSUER_CA" "FAB_SESSION_ISSUER_TOKEN_FILE" "AWS_ROLE_ARN" "AWS_WEB_IDENTITY_TOKEN_FILE" "AWS_CONTAINER_CREDENTIALS_FULL_URI" "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" "AWS_REGION" "AWS_DEFAULT_REGION" "FAB_SESSION_CA_BUNDLE" "AWS_STS_REGIONAL_ENDPOINTS" "AWS_EC2_METADATA_DISABLED" -}}
{{- /* What config.sidecar.env sets is at the end, and the proxies' exceptions behind it. */ -}}
{{- $last := list -}}
{{- range $name, $value := $own -}}
  {{- if not (has $name $proxies) -}}
    {{- $last = append $last $name -}}
  {{- end -}}
{{- end -}}
{{- range $proxies -}}
  {{- if hasKey $values . -}}
    {{- $last = append $last . -}}
  {{- end -}}
{{- end -}}
{{- range $last -}}
  {{- $order = without $order . -}}
{{- end -}}
{{- $entries := list -}}
{{- range concat $order $last -}}
  {{- $value := get $values . -}}
  {{- if eq $value "\"\"" -}}
    {{- $entries = append $entries (printf "{\"name\": %s}" (toRawJson .)) -}}
  {{- else if $value -}}
    {{- $entries = append $entries (printf "{\"name\": %s, \"value\": %s}" (toRawJson .) $value) -}}
  {{- end -}}
{{- end -}}
[
{{- range $index, $entry := $entries }}
  {{ $entry }}{{ if lt (add1 $index) (len $entries) }},{{ end }}
{{- end }}
]
{{- end -}}

{{/* The region of sidecars, if the chart knows it. */}}
{{- define "fab-session-injector.guard.region" -}}
{{- default (default "" .Values.extraEnv.AWS_REGION) .Values.config.region -}}
{{- end -}}

{{/* The role ARNs that the webhook accepts, as a regular expression. */}}
{{- define "fab-session-injector.guard.role" -}}
{{- $allow := default dict .Values.config.roles.allow -}}
{{- $prefixes := list -}}
{{- range $allow.pathPrefixes -}}
  {{- $prefixes = append $prefixes (regexQuoteMeta .) -}}
{{- end -}}
^arn:{{ with $allow.partitions }}({{ join "|" . }}){{ else }}aws[a-z-]*{{ end -}}
:iam::{{ with $allow.accounts }}({{ join "|" . }}){{ else }}[0-9]{12}{{ end -}}
:role{{ with $prefixes }}({{ join "|" . }}){{ else }}/{{ end }}[A-Za-z0-9_+=,.@/-]+$
{{- end -}}

{{/*
Whether an update keeps the image of the sidecar, in CEL on `variables.image` and `variables.oldImage`.
A policy engine may pin the image of a running pod at any update. `.`: config.sidecar.
*/}}
{{- define "fab-session-injector.guard.image-kept" -}}
variables.image == variables.oldImage
{{- with include "fab-session-injector.guard.pinned" (dict "image" .image "digests" .imageDigests) | fromJsonArray }} ||
variables.oldImage == [{{ $.image | toRawJson }}] && size(variables.image) == 1 &&
  variables.image[0] in {{ toRawJson . }}
{{- end }}
{{- end -}}

{{/* The binding of a policy to the namespaces in which the webhook injects, or to all if `.everywhere`. */}}
{{- define "fab-session-injector.guard.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "fab-session-injector.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
  {{- if not .everywhere }}
  matchResources:
    namespaceSelector:
      matchExpressions:
        - key: fab.nanohype.dev/session-injection
          operator: In
          values: [enabled]
        - key: kubernetes.io/metadata.name
          operator: NotIn
          values:
            {{- list "kube-system" .root.Release.Namespace | uniq | toYaml | nindent 12 }}
  {{- end }}
{{- end -}}
