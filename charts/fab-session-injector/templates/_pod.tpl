{{/* Labels of the pods of one component, `webhook`, `certs` or `test`. */}}
{{- define "fab-session-injector.pod.labels" -}}
{{- $root := index . 0 -}}
{{ include "fab-session-injector.labels" $root }}
app.kubernetes.io/component: {{ index . 1 }}
{{- with $root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Common fields of the pods of one component, `webhook`, `certs` or `test`, so that all have the same
hardening.
*/}}
{{- define "fab-session-injector.pod.common" -}}
{{- $component := index . 1 -}}
{{- with index . 0 -}}
# A container that needs a token mounts a projected, short-lived one.
automountServiceAccountToken: false
enableServiceLinks: false
{{- if and .Values.hostNetwork (eq $component "webhook") }}
# Kubernetes does not allow a user namespace with the network of the node.
hostNetwork: true
{{- else }}
{{- with include "fab-session-injector.pod.hostUsers" . }}
hostUsers: {{ . }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ include "fab-session-injector.pod.uid" . }}
  runAsGroup: {{ include "fab-session-injector.pod.uid" . }}
  fsGroup: {{ include "fab-session-injector.pod.uid" . }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
UID and GID of the chart's pods, and of the image. The kernel counts some limits per UID,
over all pods of a node. So the number must be uncommon: with 65532, the UID of most
`nonroot` images, other pods would share these limits. The number is in the range 60706 to
61183, which systemd does not use (docs/UIDS-GIDS.md of systemd; its dynamic users start at
61184). It is below 65536, because a pod's user namespace has 65536 UIDs.
*/}}
{{- define "fab-session-injector.pod.uid" -}}
61017
{{- end -}}

{{/* The pods' field hostUsers. "": the field is not set. User namespaces are GA in 1.36. */}}
{{- define "fab-session-injector.pod.hostUsers" -}}
{{- if ne (toString .Values.hostUsers) "auto" -}}
{{- .Values.hostUsers -}}
{{- else if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
false
{{- end -}}
{{- end -}}

{{- define "fab-session-injector.container.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* The volume that a Kubernetes client expects at the service account's path. */}}
{{- define "fab-session-injector.pod.kubernetesApi" -}}
- name: kubernetes-api
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}
