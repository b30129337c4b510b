{{/* What every pod of the chart has in common, so that none is hardened less. */}}
{{- define "fab-session-injector.pod.common" -}}
# Whoever needs a token mounts one that is projected and short-lived.
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "fab-session-injector.pod.hostUsers" . }}
hostUsers: {{ . }}
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
{{- end -}}

{{/*
User and group of the chart's pods; the image has the same. The kernel counts some
limits by user, over all pods of a node, so that the number must be uncommon:
65532, the user of most `nonroot` images, would share them with these. It lies in
60706 to 61183, which systemd leaves unused (docs/UIDS-GIDS.md of systemd; from
61184 on are its dynamic users), and below 65536, of which a pod's user namespace
has its numbers.
*/}}
{{- define "fab-session-injector.pod.uid" -}}
61017
{{- end -}}

{{/* The pods' field of that name; "" leaves it out. User namespaces are GA in 1.36. */}}
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

{{/* The volume that a program looks for at the service account's path. */}}
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
