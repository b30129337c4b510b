{{/* Labels of the pods of one component: `webhook`, `certs`, `issuer`, `issuer-certs` or `test`. */}}
{{- define "fab-session-injector.pod.labels" -}}
{{- $root := index . 0 -}}
{{ include "fab-session-injector.labels" $root }}
app.kubernetes.io/component: {{ index . 1 }}
{{- with $root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Common fields of the pods of one component, of those above, so that all have the same hardening.
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

{{/*
Topology spread constraints of the pods of one component. If a zone or a node is lost, a replica
is to remain. Only replicas of one version are counted: in a rollout the old replicas would
otherwise push the new ones together. The constraint is soft: a replica in the wrong place is
better than none.
*/}}
{{- define "fab-session-injector.pod.spread" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- range index . 2 | default (list (dict "topologyKey" "topology.kubernetes.io/zone") (dict "topologyKey" "kubernetes.io/hostname")) }}
- topologyKey: {{ .topologyKey }}
  maxSkew: {{ .maxSkew | default 1 }}
  whenUnsatisfiable: {{ .whenUnsatisfiable | default "ScheduleAnyway" }}
  {{- with omit . "topologyKey" "maxSkew" "whenUnsatisfiable" }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if not (hasKey . "labelSelector") }}
  labelSelector:
    matchLabels:
      {{- include "fab-session-injector.componentLabels" (list $root $component) | nindent 6 }}
  {{- if not (hasKey . "matchLabelKeys") }}
  matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Environment of a container that calls AWS, with the variables `index . 1` of the values. */}}
{{- define "fab-session-injector.container.environment" -}}
{{- $region := (index . 0).Values.config.region -}}
{{- if or $region (index . 1) -}}
env:
  {{- with $region }}
  - name: AWS_REGION
    value: {{ . | quote }}
  {{- end }}
  {{- range $name, $value := index . 1 }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/*
Probes of a server. They check only the process itself: a restart fixes neither AWS nor the API
server. Their timeouts are longer than the default of 1 s, so that a busy node does not restart
a replica that only responds late.
*/}}
{{- define "fab-session-injector.container.probes" -}}
startupProbe:
  httpGet:
    path: /livez
    port: health
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 30
livenessProbe:
  httpGet:
    path: /livez
    port: health
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet:
    path: /readyz
    port: health
  periodSeconds: 5
  timeoutSeconds: 3
{{- end -}}

{{/* The volume of awsCa, if it is set. */}}
{{- define "fab-session-injector.pod.awsCa" -}}
{{- with .Values.awsCa -}}
{{- if or .configMap .secret -}}
- name: aws-ca
  {{- if .configMap }}
  configMap:
    name: {{ .configMap | quote }}
  {{- else }}
  secret:
    secretName: {{ .secret | quote }}
  {{- end }}
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The volume with the CA certificate of the session issuer, for a pod that injects it: only ca.crt
of the Secret.
*/}}
{{- define "fab-session-injector.pod.issuerCa" -}}
{{- if and .Values.issuer.enabled (not .Values.config.issuer.caBundle) -}}
- name: issuer-ca
  secret:
    secretName: {{ include "fab-session-injector.issuerSecretName" . | quote }}
    defaultMode: 0440
    items:
      - key: ca.crt
        path: ca.crt
{{- end -}}
{{- end -}}

{{/*
The container that writes a serving certificate into the Secret `.secret`, for the Service
`.service`, and its CA into the webhook configuration `.configuration`, if that is set.
*/}}
{{- define "fab-session-injector.container.certs" -}}
- name: certs
  image: {{ include "fab-session-injector.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    - certs
    - --namespace={{ .root.Release.Namespace }}
    - --secret={{ .secret }}
    - --service={{ .service }}
    {{- with .configuration }}
    - --webhook-configuration={{ . }}
    {{- end }}
    - --health-listen=[::]:8081
  ports:
    - name: health
      containerPort: 8081
      protocol: TCP
  livenessProbe:
    httpGet:
      path: /livez
      port: health
    periodSeconds: 20
    timeoutSeconds: 5
  readinessProbe:
    httpGet:
      path: /readyz
      port: health
    periodSeconds: 5
    timeoutSeconds: 3
  {{- with .root.Values.certs.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "fab-session-injector.container.security" . | nindent 2 }}
  volumeMounts:
    - name: kubernetes-api
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end -}}
