{{/* As in src/issuer/guard.rs. */}}
{{- define "fab-session-injector.guard.issuer-binding" -}}
fab-session-injector-issuer-pods-{{ include "fab-session-injector.guard.issuer-audience" . | sha256sum | trunc 8 }}
{{- end -}}

{{/*
The guard of the session issuer: policies that reserve its audience in all namespaces.
*/}}
{{- define "fab-session-injector.guard.issuer" -}}
{{- $config := include "fab-session-injector.config" . | fromYaml -}}
{{- $issuer := $config.issuer -}}
{{- $claims := include "fab-session-injector.guard.claim-creators" . | fromJsonArray -}}
# The audience of the session issuer, in all namespaces: a token for it names the pod that projects
# it, and the issuer trusts what the pods policy has compared in that pod. So only a pod which that
# policy evaluates as an agent with a sidecar may project it, and only for the sidecar.
#
# A pod that projects it keeps its sidecar also while its namespace is not `enabled`, because the
# issuer serves it again when the namespace is.
#
# The policy evaluates every pod of the cluster. It may fail on none, and its match condition is
# all that other pods cost. Only the policy fab-session-injector-pods compares the sidecar, but the
# name of the session is compared here, too: the two policies may see a namespace that just opted
# in at different times.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fab-session-injector-issuer-pods
  labels:
    {{- include "fab-session-injector.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [CREATE]
        resources: [pods]
        scope: Namespaced
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [UPDATE]
        resources: [pods, pods/ephemeralcontainers]
        scope: Namespaced
  matchConditions:
    # A pod with longer lists is matched unread at its creation, and refused: its expressions would
    # exceed the cost limit. No real pod has such lists.
    - name: projects-the-audience
      expression: |-
        (
          {{- include "fab-session-injector.guard.too-many-sources" . | nindent 10 }}
        ) ? request.operation == "CREATE" :
        dyn(object.spec).?volumes.orValue([]).exists(v, {{ include "fab-session-injector.guard.sources" . }}
          .exists(s, s.?serviceAccountToken.?audience.orValue("") == {{ toRawJson $issuer.audience }}))
  variables:
    - name: isUpdate
      expression: request.operation == "UPDATE"
    - name: tooMany
      expression: |-
        {{- include "fab-session-injector.guard.too-many-sources" . | nindent 8 }}
    # The volumes that project the audience and are not the sidecar's.
    - name: volumes
      expression: |-
        variables.tooMany ? [] :
        dyn(object.spec).?volumes.orValue([]).filter(v, v.name != "fab-session-base" &&
          {{ include "fab-session-injector.guard.sources" . }}.exists(s,
            s.?serviceAccountToken.?audience.orValue("") == {{ toRawJson $issuer.audience }}))
          .map(v, string(v.name))
    # Where the policy fab-session-injector-pods is bound.
    - name: isEnabled
      expression: |-
        namespaceObject.metadata.?labels[?"fab.nanohype.dev/session-injection"] == optional.of("enabled") &&
        !(request.namespace in {{ list "kube-system" .Release.Namespace | uniq | toRawJson }})
    - name: component
      expression: |-
        {{- include "fab-session-injector.guard.component" . | nindent 8 }}
    - name: credentials
      expression: >-
        {{ include "fab-session-injector.guard.by-component" (dict "components" $config.components "key" "credentials" "default" "sidecar") }}[variables.component]
    - name: session
      expression: >-
        {{ include "fab-session-injector.guard.by-component" (dict "components" $config.components "key" "session" "default" "creator-or-uid") }}[variables.component]
    - name: mayName
      expression: |-
        {{- include "fab-session-injector.guard.may-name" . | nindent 8 }}
    - name: sidecar
      expression: dyn(object.spec).?initContainers.orValue([]).filter(c, c.name == "fab-session-credentials")
    - name: ids
      expression: variables.sidecar[?0].?env.orValue([]).filter(e, e.name == "FAB_SESSION_ID")
    # For updates.
    - name: image
      expression: variables.sidecar.map(c, c.image)
    - name: oldImage
      expression: oldObject.spec.?initContainers.orValue([]).filter(c, c.name == "fab-session-credentials").map(c, c.image)
    - name: before
      expression: oldObject.spec.?ephemeralContainers.orValue([]).map(c, c.name)
    - name: added
      expression: dyn(object.spec).?ephemeralContainers.orValue([]).filter(c, !(c.name in variables.before))
  validations:
    - expression: '!variables.tooMany'
      message: 'the pod has more than 4096 volumes, or more than 4096 sources in its projected volumes [guard-too-many]: use fewer, or split the work over more pods'
      reason: Forbidden
    - expression: variables.isUpdate || variables.isEnabled
      messageExpression: '"the pod projects a token for the session issuer, and namespace \"" + request.namespace + "\" has not opted in to sessions [guard-issuer-volume]: remove the volume; in an opted-in namespace the webhook adds it"'
      reason: Forbidden
    - expression: variables.isUpdate || variables.credentials == "sidecar" && size(variables.sidecar) == 1
      messageExpression: '"the pod projects a token for the session issuer, but " + (variables.credentials == "sidecar" ? "has no container fab-session-credentials" : "the webhook adds no credential sidecar to " + (variables.component == "" ? "a pod that is not an agent" : "a pod of component " + variables.component)) + " [guard-issuer-volume]: remove the volume; the webhook adds it together with the sidecar"'
      reason: Forbidden
    - expression: variables.isUpdate || size(variables.volumes) == 0
      messageExpression: '"the volume " + {{ include "fab-session-injector.guard.shown" `variables.volumes[0]` }} + " projects a token for the session issuer, which only the credential sidecar may have [guard-issuer-volume]: remove the volume"'
      reason: Forbidden
    - expression: |-
        variables.isUpdate || size(variables.ids) == 1 && (
          {{- if $claims }}
          variables.session == "sandbox-claim" ? {{ include "fab-session-injector.guard.is-late" "variables.ids[0]" }} :
          {{- end }}
          variables.ids[0].?valueFrom.?fieldRef.?fieldPath.orValue("") == "metadata.uid" ||
          !has(variables.ids[0].valueFrom) && variables.mayName
          {{- if $claims }} && variables.ids[0].?value.orValue("") != "<sandbox claim>"{{ end }})
      message: 'the credential sidecar gets a session name that is neither the UID of the pod nor from a trusted creator [guard-issuer-session]: let only the webhook write this container'
      reason: Forbidden
    # Also while config.issuer.onBehalfOf is false: the issuer trusts the variable of each pod that is
    # younger than the binding.
    - expression: variables.isUpdate || variables.mayName || !variables.sidecar[?0].?env.orValue([]).exists(e, e.name == "FAB_SESSION_ON_BEHALF_OF")
      message: 'the credential sidecar gets FAB_SESSION_ON_BEHALF_OF, which is not from a trusted creator [guard-issuer-session]: let only the webhook write this container'
      reason: Forbidden
    - expression: |-
        !variables.isUpdate ||
        {{- include "fab-session-injector.guard.image-kept" $config.sidecar | nindent 8 }}
      message: 'the image of the container fab-session-credentials cannot change while the pod runs [guard-image-update]: replace the pod; the webhook sets the current image on the new one'
      reason: Forbidden
    - expression: '!variables.isUpdate || !variables.added.exists(c, c.?targetContainerName.orValue("") == "fab-session-credentials")'
      message: 'the ephemeral container targets fab-session-credentials [guard-ephemeral-target]: target a container of the agent'
      reason: Forbidden
    - expression: |-
        !variables.isUpdate || !variables.added.exists(c, c.?volumeMounts.orValue([]).exists(m,
          m.name in ["fab-session-token", "fab-session-base", "fab-session-empty"] || m.name in variables.volumes))
      message: 'the ephemeral container mounts a volume of the credential sidecar, or one with a token for the session issuer [guard-ephemeral-mount]: remove the mount'
      reason: Forbidden
---
# Bound to all namespaces, without exception. The issuer trusts no session name of a pod that is
# older than this binding. Its name contains a hash of the audience, so that another audience has a
# younger binding.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "fab-session-injector.guard.issuer-binding" . }}
  labels:
    {{- include "fab-session-injector.labels" . | nindent 4 }}
spec:
  policyName: fab-session-injector-issuer-pods
  validationActions: [Deny]
---
# Tokens for the session issuer that are requested, not projected: only kubelets, in all namespaces
# and for every service account, because a label makes every pod an agent. guard.tokenCreators are
# not excepted: a token may name any pod of its service account.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fab-session-injector-issuer-tokens
  labels:
    {{- include "fab-session-injector.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [CREATE]
        resources: [serviceaccounts/token]
        scope: Namespaced
  matchConditions:
    - name: not-a-kubelet
      expression: |-
        !(request.userInfo.?username.orValue("").startsWith("system:node:") &&
          "system:nodes" in request.userInfo.?groups.orValue([]))
    - name: for-the-issuer
      expression: |-
        dyn(object.spec).?audiences.orValue(null) != null && (
          size(object.spec.audiences) > 65536 || {{ toRawJson $issuer.audience }} in object.spec.audiences
        )
  validations:
    - expression: size(object.spec.audiences) <= 65536
      message: 'the token request has more than 65536 audiences [guard-too-many]: request fewer'
      reason: Forbidden
    - expression: 'false'
      messageExpression: '"a token of service account " + request.name + " for the session issuer lets its holder take the session of a pod [guard-issuer-token]: request another audience; only kubelets get such a token, for a pod"'
      reason: Forbidden
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fab-session-injector-issuer-tokens
  labels:
    {{- include "fab-session-injector.labels" . | nindent 4 }}
spec:
  policyName: fab-session-injector-issuer-tokens
  validationActions: [Deny]
{{- end -}}
