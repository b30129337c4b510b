{{- define "fab-session-injector.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "fab-session-injector.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fab-session-injector.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fab-session-injector.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/*
Labels of the pods of one component, `webhook`, `certs`, `issuer` or `issuer-certs`. Every
selector uses them. Otherwise the Service would send reviews to the pods of `certs`.
*/}}
{{- define "fab-session-injector.componentLabels" -}}
{{- $root := index . 0 -}}
{{ include "fab-session-injector.selectorLabels" $root }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "fab-session-injector.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "fab-session-injector.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: fab-session-injector
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fab-session-injector.serviceAccountName" -}}
{{- default (include "fab-session-injector.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "fab-session-injector.image" -}}
{{- with .Values.image -}}
{{- .repository }}:{{ default $.Chart.AppVersion .tag }}{{ with .digest }}@{{ . }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "fab-session-injector.certsName" -}}
{{- include "fab-session-injector.fullname" . }}-certs
{{- end -}}

{{/* Name of the session issuer's objects. A Service's name has at most 63 characters. */}}
{{- define "fab-session-injector.issuerName" -}}
{{- include "fab-session-injector.fullname" . | trunc 56 | trimSuffix "-" }}-issuer
{{- end -}}

{{- define "fab-session-injector.issuerCertsName" -}}
{{- include "fab-session-injector.issuerName" . }}-certs
{{- end -}}

{{- define "fab-session-injector.issuerServiceAccountName" -}}
{{- default (include "fab-session-injector.issuerName" .) .Values.issuer.serviceAccount.name -}}
{{- end -}}

{{/* Who issues the session issuer's certificate: as certificates.mode, or existingSecret. */}}
{{- define "fab-session-injector.issuerCertificateMode" -}}
{{- empty .Values.issuer.certificate.existingSecret | ternary .Values.certificates.mode "existingSecret" -}}
{{- end -}}

{{/* Name of the Secret with the certificate of the session issuer. As below, one per mode. */}}
{{- define "fab-session-injector.issuerSecretName" -}}
{{- $mode := include "fab-session-injector.issuerCertificateMode" . -}}
{{- if eq $mode "existingSecret" -}}
{{- .Values.issuer.certificate.existingSecret -}}
{{- else if eq $mode "certManager" -}}
{{- include "fab-session-injector.issuerName" . }}-cert-manager
{{- else -}}
{{- include "fab-session-injector.issuerName" . }}-tls
{{- end -}}
{{- end -}}

{{/* File with the CA certificates of the session issuer, in the pods of the webhook. */}}
{{- define "fab-session-injector.issuerCaFile" -}}
/etc/fab-session-injector/issuer-ca/ca.crt
{{- end -}}

{{/* Directory with the signing keys of issuer.keySecret, in the pods of the session issuer. */}}
{{- define "fab-session-injector.issuerKeys" -}}
/etc/fab-session-injector/issuer-keys
{{- end -}}

{{/*
Name of the Service by which Prometheus finds the pods of one component. Prometheus uses
the name as its label `job`. A Service's name has at most 63 characters.
*/}}
{{- define "fab-session-injector.metricsName" -}}
{{- $fullname := include "fab-session-injector.fullname" (index . 0) -}}
{{- if eq (index . 1) "certs" -}}
{{- $fullname | trunc 49 | trimSuffix "-" }}-certs-metrics
{{- else if eq (index . 1) "issuer" -}}
{{- $fullname | trunc 48 | trimSuffix "-" }}-issuer-metrics
{{- else if eq (index . 1) "issuer-certs" -}}
{{- $fullname | trunc 42 | trimSuffix "-" }}-issuer-certs-metrics
{{- else -}}
{{- $fullname | trunc 55 | trimSuffix "-" }}-metrics
{{- end -}}
{{- end -}}

{{/*
Name of the Secret with the serving certificate. The Secret of cert-manager has a
different name: when the mode changes, Helm removes the Secret of the other mode, possibly
after cert-manager has written.
*/}}
{{- define "fab-session-injector.tlsSecretName" -}}
{{- with .Values.certificates -}}
{{- if eq .mode "existingSecret" -}}
{{- .existingSecret.secretName -}}
{{- else if eq .mode "certManager" -}}
{{- include "fab-session-injector.fullname" $ }}-cert-manager
{{- else -}}
{{- include "fab-session-injector.fullname" $ }}-tls
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fab-session-injector.staticRolesFile" -}}
/etc/fab-session-injector/roles.yaml
{{- end -}}

{{/*
The configuration file of the webhook: the values, and the settings that only the chart
knows. Without `config.cluster` and with a parameter that contains `{cluster}`, SSM is off.
The static roles are then the only source. Without a session issuer the config has no word of it.
*/}}
{{- define "fab-session-injector.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.issuer.enabled -}}
{{- $_ := set $config "issuer" (include "fab-session-injector.config.issuer" . | fromYaml) -}}
{{- else -}}
{{- $_ := unset $config "transport" -}}
{{- $_ := unset $config "issuer" -}}
{{- end -}}
{{- if not $config.sidecar.image -}}
{{- $_ := set $config.sidecar "image" (include "fab-session-injector.image" .) -}}
{{- end -}}
{{- $ssm := $config.roles.ssm -}}
{{- if not $ssm -}}
{{- $_ := set $config.roles "ssm" nil -}}
{{- else if and (not $config.cluster) (contains "{cluster}" $ssm.parameter) -}}
{{- $_ := set $config.roles "ssm" nil -}}
{{- end -}}
{{- if or .Values.staticRoles (not $config.roles.ssm) -}}
{{- $_ := set $config.roles "file" (include "fab-session-injector.staticRolesFile" .) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
The config's section of the session issuer. Names that contain the cluster are written out:
the guard is rendered with them.
*/}}
{{- define "fab-session-injector.config.issuer" -}}
{{- $issuer := dict -}}
{{- range $key, $value := .Values.config.issuer -}}
  {{- if $value -}}
    {{- $_ := set $issuer $key $value -}}
  {{- end -}}
{{- end -}}
{{- $cluster := default "" .Values.config.cluster -}}
{{- $host := printf "%s.%s.svc" (include "fab-session-injector.issuerName" .) .Release.Namespace -}}
{{- $defaults := dict
  "audience" (printf "fab-session-issuer.%s" $cluster)
  "clientId" (printf "fab-session/%s" $cluster)
  "endpoint" (printf "https://%s/v1/token" $host) -}}
{{- if not $issuer.caBundle -}}
{{- $_ := set $issuer "caFile" (include "fab-session-injector.issuerCaFile" .) -}}
{{- end -}}
{{- toYaml (merge $issuer $defaults) -}}
{{- end -}}

{{- define "fab-session-injector.staticRoles" -}}
{{- toYaml (dict "roles" .Values.staticRoles) -}}
{{- end -}}

{{/* The checksum of the configuration that the webhook reads. */}}
{{- define "fab-session-injector.checksum" -}}
{{- printf "%s\n%s" (include "fab-session-injector.config" .) (include "fab-session-injector.staticRoles" .) | sha256sum -}}
{{- end -}}
