{{/*
Contradictions between values, which a schema cannot say. Every problem is told
at once: what is wrong, the rule, and the remedy.
*/}}
{{- define "fab-session-injector.validate" -}}
{{- $problems := list -}}
{{- $config := .Values.config -}}

{{- with .Values.image.digest -}}
  {{- if not (regexMatch "^sha256:[0-9a-f]{64}$" .) -}}
    {{- $problems = append $problems (printf "image.digest is %q, but a digest is sha256: and 64 lower-case hexadecimal digits: copy it whole from the registry, or leave it empty to use image.tag." .) -}}
  {{- end -}}
{{- end -}}

{{- if not .Values.serviceAccount.create -}}
  {{- if not .Values.serviceAccount.name -}}
    {{- $problems = append $problems "serviceAccount.create is false and serviceAccount.name is empty, but the webhook's rights must not go to an account that other pods share: name the service account that you made, or set create to true." -}}
  {{- end -}}
  {{- if .Values.serviceAccount.annotations -}}
    {{- $problems = append $problems "serviceAccount.annotations is set while serviceAccount.create is false, but the chart annotates only an account that it makes: annotate yours yourself, or set create to true." -}}
  {{- end -}}
{{- end -}}

{{- if eq .Values.serviceAccount.name (include "fab-session-injector.certsName" .) -}}
  {{- $problems = append $problems (printf "serviceAccount.name is %q, but that is the account that writes the serving certificate, and the webhook may write nothing: choose another name." .Values.serviceAccount.name) -}}
{{- end -}}

{{- with .Values.certificates -}}
  {{- if and (eq .mode "existingSecret") (not .existingSecret.secretName) -}}
    {{- $problems = append $problems "certificates.mode is existingSecret and certificates.existingSecret.secretName is empty, but the webhook serves nothing without a certificate: name the Secret." -}}
  {{- end -}}
  {{- if and (ne .mode "existingSecret") (or .existingSecret.secretName .existingSecret.caBundle) -}}
    {{- $problems = append $problems (printf "certificates.existingSecret is set, but certificates.mode is %s, which makes its own Secret and CA: empty it, or set certificates.mode to existingSecret." .mode) -}}
  {{- end -}}
  {{- if contains "PRIVATE KEY" .existingSecret.caBundle -}}
    {{- $problems = append $problems "certificates.existingSecret.caBundle holds a private key, but it is published in the webhook configuration: give only the certificate of the CA." -}}
  {{- end -}}
  {{- if and (ne .mode "certManager") .certManager.issuerRef.name -}}
    {{- $problems = append $problems (printf "certificates.certManager.issuerRef.name is set, but certificates.mode is %s, which asks no issuer: empty it, or set certificates.mode to certManager." .mode) -}}
  {{- end -}}
{{- end -}}

{{- with .Values.networkPolicy -}}
  {{- $everywhere := true -}}
  {{- range .apiServerCidrs -}}
    {{- $everywhere = and $everywhere (has . (list "0.0.0.0/0" "::/0")) -}}
  {{- end -}}
  {{- if and .podCidrs (not $everywhere) -}}
    {{- $problems = append $problems "networkPolicy.podCidrs and a narrow networkPolicy.apiServerCidrs are both set, but Kubernetes takes an exception only within the block that it is excepted from: empty podCidrs, since no other address gets in, or leave apiServerCidrs as it is." -}}
  {{- end -}}
  {{- if and (eq .kind "cilium") (or .podCidrs (not $everywhere)) -}}
    {{- $problems = append $problems "networkPolicy.apiServerCidrs or podCidrs is set, but networkPolicy.kind is cilium, which knows API servers and pods by identity, and never by address: leave both as they are, or set networkPolicy.kind to kubernetes." -}}
  {{- end -}}
{{- end -}}

{{- with .Values.metrics -}}
  {{- if and .serviceMonitor.enabled $.Values.networkPolicy.enabled (not $.Values.networkPolicy.metricsNamespaces) -}}
    {{- $problems = append $problems "metrics.serviceMonitor.enabled is true and networkPolicy.metricsNamespaces is empty, but then nobody but the kubelet reaches the metrics: name the namespace of your Prometheus." -}}
  {{- end -}}
  {{- range $kind := list "serviceMonitor" "prometheusRule" -}}
    {{- $values := get $.Values.metrics $kind -}}
    {{- if and $values.labels (not $values.enabled) -}}
      {{- $problems = append $problems (printf "metrics.%s.labels is set, but metrics.%s.enabled is false and nothing gets them: set it to true, or empty the labels." $kind $kind) -}}
    {{- end -}}
  {{- end -}}
  {{- $left := get (dict "selfManaged" 10 "certManager" 30) $.Values.certificates.mode | default 366 -}}
  {{- if and .prometheusRule.enabled (ge (int .prometheusRule.certificateDays) $left) -}}
    {{- $problems = append $problems (printf "metrics.prometheusRule.certificateDays is %v, but certificates.mode %s renews a certificate %d days before its end, so that each one would be alerted on: make it less." .prometheusRule.certificateDays $.Values.certificates.mode $left) -}}
  {{- end -}}
  {{- if and .dashboard.enabled (not .dashboard.labels) -}}
    {{- $problems = append $problems "metrics.dashboard.enabled is true and metrics.dashboard.labels is empty, but Grafana's sidecar finds a dashboard by its label: give it the one that yours looks for." -}}
  {{- end -}}
{{- end -}}

{{- if and $config.region (hasKey .Values.extraEnv "AWS_REGION") -}}
  {{- $problems = append $problems "config.region and extraEnv.AWS_REGION are both set, but the first becomes the second: keep one of them." -}}
{{- end -}}

{{- $names := dict -}}
{{- $fence := false -}}
{{- range $index, $component := $config.components -}}
  {{- $where := printf "config.components[%d] (%s)" $index .name -}}
  {{- $fence = or $fence .fenced -}}
  {{- if hasKey $names .name -}}
    {{- $problems = append $problems (printf "%s has the same name as config.components[%v], but names appear in metrics and annotations and must differ: rename one." $where (get $names .name)) -}}
  {{- else -}}
    {{- $_ := set $names .name $index -}}
  {{- end -}}
  {{- range $selector := .selectors -}}
    {{- if not (regexMatch (include "fab-session-injector.selectorPattern" .) $selector) -}}
      {{- $problems = append $problems (printf "%s has the selector %q, but a selector is key or key=value, and several joined by commas: write other operators as components of their own." $where $selector) -}}
    {{- end -}}
  {{- end -}}
  {{- if and (has .credentials (list "env" "exempt")) .selectors -}}
    {{- $problems = append $problems (printf "%s has credentials: %s and selectors, but a tenant writes labels and could choose it for any pod: match it by serviceAccounts or creators only." $where .credentials) -}}
  {{- end -}}
  {{- if and (has .credentials (list "env" "exempt")) .fenced -}}
    {{- $problems = append $problems (printf "%s has credentials: %s and fenced: true, but that takes the fence away from every service account in config.fencedServiceAccounts: list the accounts that it is for in serviceAccounts." $where .credentials) -}}
  {{- end -}}
  {{- if not (or .selectors .serviceAccounts .creators .fenced) -}}
    {{- $problems = append $problems (printf "%s matches no pod, but a component needs one of selectors, serviceAccounts, creators or fenced: true: add one, or remove the component." $where) -}}
  {{- end -}}
{{- end -}}
{{- if not $fence -}}
  {{- $problems = append $problems "config.components has no component with fenced: true, but every pod of a service account that carries base credentials is an agent, whatever its labels say: set it on the last one." -}}
{{- end -}}

{{- with $config.baseCredentials -}}
  {{- if and (eq .source "irsa") (not .roleArn) -}}
    {{- $problems = append $problems "config.baseCredentials.source is irsa and roleArn is empty, but IRSA assumes a role by its ARN: set config.baseCredentials.roleArn." -}}
  {{- else if and (ne .source "irsa") .roleArn -}}
    {{- $problems = append $problems (printf "config.baseCredentials.roleArn is set, but source %s does not read it: empty it, or set config.baseCredentials.source to irsa." .source) -}}
  {{- else if and (contains "{cluster}" .roleArn) (not $config.cluster) -}}
    {{- $problems = append $problems "config.baseCredentials.roleArn holds {cluster} and config.cluster is empty: name the cluster, or write the ARN without {cluster}." -}}
  {{- end -}}
{{- end -}}

{{- if eq (toString (int $config.sidecar.uid)) (include "fab-session-injector.pod.uid" .) -}}
  {{- $problems = append $problems (printf "config.sidecar.uid is %d, the user of the chart's own pods, with which every sidecar would share the kernel's limits for a user: choose another number." (int $config.sidecar.uid)) -}}
{{- end -}}

{{- range $name, $value := $config.sidecar.env -}}
  {{- if hasPrefix "FAB_SESSION_" $name -}}
    {{- $problems = append $problems (printf "config.sidecar.env sets %s, but variables that begin with FAB_SESSION_ are the webhook's own: remove it." $name) -}}
  {{- end -}}
  {{- if contains "$(" $value -}}
    {{- $problems = append $problems (printf "config.sidecar.env.%s holds $(, but the kubelet expands that: write the value itself." $name) -}}
  {{- end -}}
{{- end -}}

{{- $resources := $config.sidecar.resources -}}
{{- range $kind := list "cpu" "memory" -}}
  {{- $amounts := dict -}}
  {{- range $of := list "requests" "limits" -}}
    {{- $amount := toString (get (get $resources $of) $kind) -}}
    {{- $unit := regexFind "[A-Za-z]*$" $amount -}}
    {{- $number := trimSuffix $unit $amount | int64 -}}
    {{- $next := ternary 1024 1000 (hasSuffix "i" $unit) -}}
    {{- if eq 0 (mod $number $next) -}}
      {{- $problems = append $problems (printf "config.sidecar.resources.%s.%s is %q, but the API server stores the shortest form, with which the sidecar is compared: divide by %d and take the next unit." $of $kind $amount $next) -}}
    {{- end -}}
    {{- $_ := set $amounts $of (mul $number (get (dict "m" 1 "" 1000 "Ki" 1024000 "Mi" 1048576000 "Gi" 1073741824000) $unit)) -}}
  {{- end -}}
  {{- if gt $amounts.requests $amounts.limits -}}
    {{- $problems = append $problems (printf "config.sidecar.resources.requests.%s is more than its limit, and the API server would refuse every pod: lower it, or raise the limit." $kind) -}}
  {{- end -}}
{{- end -}}

{{- $file := include "fab-session-injector.staticRolesFile" . -}}
{{- if and $config.roles.file (ne $config.roles.file $file) -}}
  {{- $problems = append $problems (printf "config.roles.file is %q, but the chart mounts static roles at %s only: put the roles into staticRoles and leave config.roles.file empty." $config.roles.file $file) -}}
{{- end -}}

{{- $allow := default dict $config.roles.allow -}}
{{- range $tenant, $arn := .Values.staticRoles -}}
  {{- $parts := splitList ":" $arn -}}
  {{- $path := trimPrefix "role" (last $parts) -}}
  {{- $prefixed := false -}}
  {{- range $allow.pathPrefixes -}}
    {{- $prefixed = or $prefixed (hasPrefix . $path) -}}
  {{- end -}}
  {{- $refusing := "" -}}
  {{- if and $allow.partitions (not (has (index $parts 1) $allow.partitions)) -}}
    {{- $refusing = "partitions" -}}
  {{- else if and $allow.accounts (not (has (index $parts 4) $allow.accounts)) -}}
    {{- $refusing = "accounts" -}}
  {{- else if and $allow.pathPrefixes (not $prefixed) -}}
    {{- $refusing = "pathPrefixes" -}}
  {{- end -}}
  {{- with $refusing -}}
    {{- $problems = append $problems (printf "staticRoles.%s is %s, but config.roles.allow.%s does not have it, and the webhook does not start with such a file: name another role, or add to the list." $tenant $arn .) -}}
  {{- end -}}
{{- end -}}

{{- with .Values.guard -}}
  {{- $image := (include "fab-session-injector.config" $ | fromYaml).sidecar.image -}}
  {{- if has $image .previousImages -}}
    {{- $problems = append $problems (printf "guard.previousImages lists %s, but that is the image that new pods get: list the one before, or none." $image) -}}
  {{- end -}}
  {{- range .tokenCreators -}}
    {{- if regexMatch "^[*]+$" . -}}
      {{- $problems = append $problems (printf "guard.tokenCreators lists %q, but then everybody may make tokens for AWS: name the users that sync pods from elsewhere." .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- if $problems -}}
  {{- fail (printf "\n\n- %s\n" (join "\n- " $problems)) -}}
{{- end -}}
{{- end -}}

{{- define "fab-session-injector.selectorPattern" -}}
{{- $name := "[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?" -}}
{{- $requirement := printf "([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?%s(=(%s)?)?" $name $name -}}
^{{ $requirement }}(, *{{ $requirement }})*$
{{- end -}}
