{{/*
Variables of the policy fab-session-injector-pods by which `refusal` recognizes a pod that breaks no
rule: an agent exactly as the webhook writes it, or another pod with nothing that a rule is about.

Parts of the pod are compared as a whole with what the webhook writes, which costs a fraction of
the rules. A pod that differs, also in what the rules allow, is not `asInjected`, and the rules
decide. So each term here must imply the rules it stands for, and may be stricter. If the webhook
writes something new, a pod with it costs more until it is added here, and is not refused by this.
*/}}
{{- define "fab-session-injector.guard.as-injected" -}}
{{- $names := index . 1 -}}
{{- with index . 0 -}}
{{- $config := include "fab-session-injector.config" . | fromYaml -}}
{{- $issuer := $config.issuer -}}
{{- $source := $config.baseCredentials.source -}}
{{- $inClear := eq $source "podIdentity" -}}
{{- $audiences := include "fab-session-injector.guard.audiences" . | fromJsonArray -}}
{{- with include "fab-session-injector.guard.issuer-audience" . -}}
{{- $audiences = append $audiences . -}}
{{- end -}}
{{- $images := include "fab-session-injector.guard.images" . -}}
{{- /* Mounts and volumes of the sidecar, with and without a token, in the webhook's order. */ -}}
{{- $mount := `{"mountPath": dyn("/var/run/fab-session"), "name": dyn("fab-session-token")}` -}}
{{- $baseMount := `{"mountPath": dyn("/var/run/fab-session-base"), "name": dyn("fab-session-base"), "readOnly": dyn(true)}` -}}
{{- $emptyMount := `{"mountPath": dyn("/var/run/secrets/kubernetes.io/serviceaccount"), "name": dyn("fab-session-empty"), "readOnly": dyn(true)}` -}}
{{- $mounts := printf "[%s, %s]" $mount $emptyMount -}}
{{- $mountsWith := printf "[%s, %s, %s]" $mount $baseMount $emptyMount -}}
{{- $volume := `dyn({"name": dyn("fab-session-token"), "emptyDir": dyn({"medium": "Memory", "sizeLimit": "1Mi"})})` -}}
{{- $emptyVolume := `dyn({"name": dyn("fab-session-empty"), "emptyDir": dyn({"medium": "Memory", "sizeLimit": "1Mi"})})` -}}
{{- $baseVolume := `dyn({"name": dyn("fab-session-base"), "projected": dyn({"defaultMode": dyn(420), "sources": dyn([{"serviceAccountToken": {"audience": dyn(%s), "expirationSeconds": dyn(3600), "path": dyn("token")}}])})})` -}}
{{- $baseAudience := eq $source "irsa" | ternary "sts.amazonaws.com" "pods.eks.amazonaws.com" | toRawJson -}}
{{- $ofBase := printf "[%s, %s, %s]" $volume (printf $baseVolume $baseAudience) $emptyVolume -}}
{{- if eq $source "environment" -}}
{{- $ofBase = printf "[%s, %s]" $volume $emptyVolume -}}
{{- else -}}
{{- $mounts = $mountsWith -}}
{{- end -}}
{{- $volumes := $ofBase -}}
{{- if $issuer -}}
{{- $mounts = printf "(variables.webIdentity ? %s : %s)" $mountsWith $mounts -}}
{{- $volumes = printf "(variables.webIdentity ? [%s, %s, %s] : %s)" $volume (printf $baseVolume (toRawJson $issuer.audience)) $emptyVolume $volumes -}}
{{- end -}}
# The session's variables, as the sidecar and the agents have them. Role and session name are the
# sidecar's own; `isInjected` checks them. "": the session is a field that only the kubelet knows.
- name: role
  expression: string(variables.sidecarEnv[?0].?value.orValue(""))
- name: sessionName
  expression: string(variables.sidecarEnv[?1].?value.orValue(""))
- name: identity
  expression: 'variables.sessionName == "" ? "agent." + variables.tenant + ".$(FAB_SESSION_ID)" : string(variables.sidecarEnv[?3].?value.orValue(""))'
- name: sessionEntries
  expression: |-
    [
      dyn({"name": "FAB_SESSION_ROLE_ARN", "value": variables.role}),
      variables.sessionName != "" ? dyn({"name": "FAB_SESSION_ID", "value": variables.sessionName}) :
        dyn({"name": dyn("FAB_SESSION_ID"), "valueFrom": dyn({"fieldRef": {"apiVersion": "v1", "fieldPath": variables.session == "pod-name" ? "metadata.name" : "metadata.uid"}})}),
      dyn({"name": "FAB_SESSION_TENANT", "value": variables.tenant}),
      dyn({"name": "FAB_SESSION_IDENTITY", "value": variables.identity}),
      dyn({"name": "FAB_SESSION_DURATION", "value": {{ toString (int $config.sidecar.durationSeconds) | toRawJson }}})
    ]
{{- if not (include "fab-session-injector.guard.region" .) }}
- name: region
  expression: string(variables.sidecarEnv.filter(e, e.name == "AWS_REGION")[?0].?value.orValue(""))
{{- end }}
{{- if $issuer }}
- name: issuerCa
  expression: string(variables.sidecarEnv[?9].?value.orValue(""))
{{- end }}
# Whether the sidecar is the injected container, in the order of the webhook's variables.
- name: isInjected
  expression: |-
    size(variables.sidecar) == 1 && variables.firstInit == "fab-session-credentials" &&
    variables.sidecar[0].?image.orValue("") in {{ $images }} &&
    {{- with $config.sidecar.resources }}
    (
      variables.sidecar[0].?resources == optional.of({{ pick . "requests" "limits" | toRawJson }}) ||
      !variables.sidecar[0].?resources.?claims.hasValue() &&
        variables.sidecar[0].?resources.?requests.orValue({}).all(k, k in ["cpu", "memory", "ephemeral-storage"]) &&
        variables.sidecar[0].?resources.?limits.orValue({}).all(k, k in ["cpu", "memory", "ephemeral-storage"])
    ) &&
    {{- end }}
    variables.role.matches({{ include "fab-session-injector.guard.role" . | toRawJson }}) &&
    (
      variables.sessionName == "" && variables.session != "sandbox-claim" ||
      variables.mayName && variables.sessionName.matches("^[A-Za-z0-9_.,+=@-]+$") &&
        variables.identity.startsWith("agent." + variables.tenant + ".") && variables.identity.matches("^[A-Za-z0-9_.,+=@-]+$")
    ) &&
    {{- if not (include "fab-session-injector.guard.region" .) }}
    variables.region.matches("^[a-z0-9-]+$") &&
    {{- end }}
    {{- if $issuer }}
    (
      !variables.webIdentity ||
      size(variables.issuerCa) <= 16384 && variables.issuerCa.contains("-----BEGIN CERTIFICATE-----") &&
        !variables.issuerCa.contains("PRIVATE KEY") && !variables.issuerCa.contains("$")
    ) &&
    {{- end }}
    dyn(variables.sidecar[0]) == {
      "name": dyn("fab-session-credentials"),
      ?"image": variables.sidecar[0].?image,
      ?"imagePullPolicy": variables.sidecar[0].?imagePullPolicy,
      "args": dyn(["sidecar"]),
      "env": dyn(variables.sessionEntries +
        {{- if $issuer }}
        dyn(variables.webIdentity ?
          {{- include "fab-session-injector.guard.entries" (list . "issuer") | nindent 10 }} :
          {{- include "fab-session-injector.guard.entries" (list . $source) | nindent 10 }})
        {{- else }}
        dyn({{- include "fab-session-injector.guard.entries" (list . $source) | nindent 10 }})
        {{- end }}),
      ?"resources": variables.sidecar[0].?resources,
      "restartPolicy": dyn("Always"),
      "securityContext": dyn({
        "allowPrivilegeEscalation": dyn(false),
        "capabilities": dyn({"drop": ["ALL"]}),
        "readOnlyRootFilesystem": dyn(true),
        "runAsGroup": dyn({{ int $config.sidecar.uid }}),
        "runAsNonRoot": dyn(true),
        "runAsUser": dyn({{ int $config.sidecar.uid }}),
        "seccompProfile": dyn({"type": "RuntimeDefault"})
      }),
      "startupProbe": dyn({
        "exec": dyn({"command": ["/fab-session-injector", "probe"]}),
        "failureThreshold": dyn(300), "periodSeconds": dyn(1), "successThreshold": dyn(1), "timeoutSeconds": dyn(5)
      }),
      "terminationMessagePath": dyn("/dev/termination-log"),
      "terminationMessagePolicy": dyn("File"),
      "volumeMounts": dyn({{ $mounts }})
    }
# What agents may have of the variables that the rules are about.
- name: agentEntries
  expression: |-
    variables.credentials != "sidecar" ? {"": dyn({})} : {
      "FAB_SESSION_ROLE_ARN": variables.sessionEntries[0],
      "FAB_SESSION_ID": variables.sessionEntries[1],
      "FAB_SESSION_TENANT": variables.sessionEntries[2],
      "FAB_SESSION_IDENTITY": variables.sessionEntries[3],
      "FAB_SESSION_DURATION": variables.sessionEntries[4],
      "AWS_CONTAINER_CREDENTIALS_FULL_URI": dyn({"name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": "http://127.0.0.1:{{ int $config.sidecar.port }}/v1/credentials"}),
      "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": dyn({"name": "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "value": "/var/run/fab-session/token"})
    }
# Whether no other container has what a rule is about. One pass over the containers.
- name: containersAreClean
  expression: |-
    (variables.init + variables.containers).all(c,
      c.name == "fab-session-credentials" ? variables.credentials == "sidecar" :
      !(c.?securityContext.?runAsUser.orValue(
        object.spec.?securityContext.?runAsUser.orValue(0)) in [{{ int $config.sidecar.uid }}, {{ include "fab-session-injector.pod.uid" . }}]) &&
      (variables.credentials == "" || c.?env.orValue([]).all(e,
        !(e.name in {{ $names }}) ||
        variables.agentEntries[?e.name] == optional.of(e) ||
        e.name in variables.javaNames && !e.?value.orValue("").contains("-Daws.") ||
        variables.credentials == "env" && (e.name.startsWith("FAB_SESSION_") || e.name in variables.baseNames))) &&
      (variables.credentials != "sidecar" || c.?volumeMounts.orValue([]).all(m,
        !(m.name in ["fab-session-token", "fab-session-base", "fab-session-empty"]) ||
        m == {"mountPath": dyn("/var/run/fab-session"), "name": dyn("fab-session-token"), "readOnly": dyn(true)} &&
          !(c.name in {{ $config.proxyContainers | toRawJson }}))))
# Whether the sidecar's volumes are the injected ones, and no other gives AWS credentials.
- name: volumesAreClean
  expression: |-
    (variables.credentials == "sidecar" ?
      variables.ourVolumes == {{ $volumes }} : size(variables.ourVolumes) == 0) &&
    ({{ if ne .Values.guard.denyAwsTokens "all" }}variables.credentials == "" || {{ end }}variables.credentials == "env" || variables.volumes.all(v,
      v.name == "fab-session-base" || !has(v.projected) || {{ include "fab-session-injector.guard.sources" . }}.all(s,
        !(s.?serviceAccountToken.?audience.orValue("") in {{ toRawJson $audiences }}))))
- name: annotationsAreInjected
  expression: |-
    {{- $key := "object.metadata.?annotations[?\"fab.nanohype.dev/%s\"]" }}
    variables.credentials == "sidecar" ?
      {{ printf $key "session-id" }} == optional.of(variables.sessionName != "" ? variables.sessionName :
        variables.session == "pod-name" ? "<pod name>" : "<pod uid>") &&
      {{ printf $key "source-identity" }} == optional.of(variables.sessionName != "" ? variables.identity :
        "agent." + variables.tenant + (variables.session == "pod-name" ? ".<pod name>" : ".<pod uid>")) &&
      {{ printf $key "session-role-arn" }} == optional.of(variables.role) &&
      {{ printf $key "component" }} == optional.of(variables.component) :
    variables.credentials == "env" ||
      !{{ printf $key "session-id" }}.hasValue() && !{{ printf $key "source-identity" }}.hasValue() &&
      !{{ printf $key "session-role-arn" }}.hasValue() && !{{ printf $key "component" }}.hasValue()
- name: asInjected
  expression: |-
    variables.credentials == "exempt" ||
    variables.isSmall && variables.isNamed &&
    (variables.credentials == "sidecar" || size(variables.reserved) == 0) &&
    (variables.credentials != "sidecar" || variables.isInjected) &&
    variables.containersAreClean && variables.volumesAreClean && variables.annotationsAreInjected &&
    {{- if $inClear }}
    (variables.credentials != "sidecar" || {{ if $issuer }}variables.webIdentity || {{ end }}size(variables.redirected) == 0 && size(variables.ownNetwork) == 0) &&
    {{- end }}
    (variables.credentials in ["", "env"] || size(variables.shared) == 0{{ if ne $config.podSecurity "privileged" }} && variables.isEnforced{{ end }})
{{- end -}}
{{- end -}}
