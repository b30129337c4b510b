{{/*
Contradictions between values, which a schema cannot express. All problems are reported at
once, each with the rule and the remedy.
*/}}
{{- define "fab-session-injector.validate" -}}
{{- $problems := list -}}
{{- $config := .Values.config -}}

{{- with .Values.image.digest -}}
  {{- if not (regexMatch "^sha256:[0-9a-f]{64}$" .) -}}
    {{- $problems = append $problems (printf "image.digest is %q, but a digest is sha256: and 64 lower-case hexadecimal digits: copy it whole from the registry, or leave it empty to use image.tag." .) -}}
  {{- end -}}
{{- end -}}

{{- $labels := dict -}}
{{- range $key := list "app.kubernetes.io/component" "app.kubernetes.io/instance" "app.kubernetes.io/managed-by" "app.kubernetes.io/name" "app.kubernetes.io/part-of" "app.kubernetes.io/version" "helm.sh/chart" -}}
  {{- $_ := set $labels $key "the chart" -}}
{{- end -}}
{{- $metrics := .Values.metrics -}}
{{- range $place := list (list "commonLabels" .Values.commonLabels) (list "podLabels" .Values.podLabels) (list "metrics.serviceMonitor.labels" $metrics.serviceMonitor.labels) (list "metrics.prometheusRule.labels" $metrics.prometheusRule.labels) (list "metrics.dashboard.labels" $metrics.dashboard.labels) -}}
  {{- range $key, $_ := index $place 1 -}}
    {{- with get $labels $key -}}
      {{- $problems = append $problems (printf "%s has the label %s, but %s sets it too: remove one of them." (index $place 0) $key .) -}}
    {{- end -}}
  {{- end -}}
  {{- if eq (index $place 0) "commonLabels" -}}
    {{- range $key, $_ := index $place 1 -}}
      {{- $_ := set $labels $key "commonLabels" -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $key, $_ := .Values.podAnnotations -}}
  {{- if has $key (list "checksum/config" "helm.sh/hook" "helm.sh/hook-delete-policy" "kubectl.kubernetes.io/default-container") -}}
    {{- $problems = append $problems (printf "podAnnotations has the annotation %s, but the chart sets it too: remove it." $key) -}}
  {{- end -}}
{{- end -}}

{{- if not .Values.serviceAccount.create -}}
  {{- if not .Values.serviceAccount.name -}}
    {{- $problems = append $problems "serviceAccount.create is false and serviceAccount.name is empty, but other pods must not share the webhook's permissions: set serviceAccount.name to the service account that you created, or set serviceAccount.create to true." -}}
  {{- end -}}
  {{- if .Values.serviceAccount.annotations -}}
    {{- $problems = append $problems "serviceAccount.annotations is set while serviceAccount.create is false, but the chart annotates only a service account that it creates: annotate yours yourself, or set serviceAccount.create to true." -}}
  {{- end -}}
{{- end -}}

{{- if eq .Values.serviceAccount.name (include "fab-session-injector.certsName" .) -}}
  {{- $problems = append $problems (printf "serviceAccount.name is %q, but that service account writes the serving certificate, and the webhook may write nothing: choose another name." .Values.serviceAccount.name) -}}
{{- end -}}

{{- with .Values.certificates -}}
  {{- if and (eq .mode "existingSecret") (not .existingSecret.secretName) -}}
    {{- $problems = append $problems "certificates.mode is existingSecret and certificates.existingSecret.secretName is empty, but the webhook serves nothing without a certificate: name the Secret." -}}
  {{- end -}}
  {{- if and (ne .mode "existingSecret") (or .existingSecret.secretName .existingSecret.caBundle) -}}
    {{- $problems = append $problems (printf "certificates.existingSecret is set, but certificates.mode is %s, which creates its own Secret and CA: remove it, or set certificates.mode to existingSecret." .mode) -}}
  {{- end -}}
  {{- if contains "PRIVATE KEY" .existingSecret.caBundle -}}
    {{- $problems = append $problems "certificates.existingSecret.caBundle contains a private key, but caBundle is published in the webhook configuration: set only the CA certificate." -}}
  {{- end -}}
  {{- if and (ne .mode "certManager") .certManager.issuerRef.name -}}
    {{- $problems = append $problems (printf "certificates.certManager.issuerRef.name is set, but certificates.mode is %s, which uses no issuer: remove it, or set certificates.mode to certManager." .mode) -}}
  {{- end -}}
{{- end -}}

{{- with .Values.awsCa -}}
  {{- if and .configMap .secret -}}
    {{- $problems = append $problems "awsCa.configMap and awsCa.secret are both set, but one object has the CA certificates: remove one of them." -}}
  {{- end -}}
{{- end -}}

{{- if and (not .Values.guard.enabled) (eq $config.baseCredentials.source "podIdentity") (eq $config.baseCredentials.ipFamily "ipv6") -}}
  {{- $problems = append $problems "guard.enabled is false, but with config.baseCredentials.ipFamily ipv6 only the guard keeps Services of tenants off the address of the Pod Identity agent: set guard.enabled: true, or baseCredentials.source: irsa." -}}
{{- end -}}

{{- with $config.awsCaBundle -}}
  {{- if contains "PRIVATE KEY" . -}}
    {{- $problems = append $problems "config.awsCaBundle contains a private key, but each agent pod gets its text: set only CA certificates." -}}
  {{- else if not (regexMatch "(?m)^-----BEGIN CERTIFICATE-----" .) -}}
    {{- $problems = append $problems "config.awsCaBundle has no certificate, but it is the text of CA certificates in PEM, not the path of a file: use `helm --set-file config.awsCaBundle=FILE`." -}}
  {{- else if contains "$" . -}}
    {{- $problems = append $problems "config.awsCaBundle has the character $, but the kubelet would expand it: remove the comment." -}}
  {{- end -}}
{{- end -}}

{{- $problems = concat $problems (include "fab-session-injector.validate.issuer" . | fromJsonArray) -}}

{{- if eq (int .Values.ports.webhook) (int .Values.ports.health) -}}
  {{- $problems = append $problems (printf "ports.webhook and ports.health are both %d, but each needs a port of its own: change one." (int .Values.ports.health)) -}}
{{- end -}}

{{- if and .Values.hostNetwork (eq .Values.dnsPolicy "ClusterFirst") -}}
  {{- $problems = append $problems "dnsPolicy is ClusterFirst and hostNetwork is true, but Kubernetes then uses the DNS of the node: leave dnsPolicy empty, or set Default." -}}
{{- end -}}

{{- with .Values.networkPolicy -}}
  {{- $everywhere := true -}}
  {{- range .apiServerCidrs -}}
    {{- $everywhere = and $everywhere (has . (list "0.0.0.0/0" "::/0")) -}}
  {{- end -}}
  {{- if and .podCidrs (not $everywhere) -}}
    {{- $problems = append $problems "networkPolicy.podCidrs and networkPolicy.apiServerCidrs are both set, but Kubernetes accepts an exception only within the block that it is excluded from: remove podCidrs, because no other address is admitted, or leave apiServerCidrs at its default." -}}
  {{- end -}}
  {{- if and (eq .kind "cilium") (or .podCidrs (not $everywhere)) -}}
    {{- $problems = append $problems "networkPolicy.apiServerCidrs or podCidrs is set, but networkPolicy.kind is cilium, which selects API servers and pods by identity, never by address: leave both at their defaults, or set networkPolicy.kind to kubernetes." -}}
  {{- end -}}
{{- end -}}

{{- with .Values.metrics -}}
  {{- if and .serviceMonitor.enabled $.Values.networkPolicy.enabled (not $.Values.networkPolicy.metricsNamespaces) -}}
    {{- $problems = append $problems "metrics.serviceMonitor.enabled is true and networkPolicy.metricsNamespaces is empty, but then only the kubelet reaches the metrics: add the namespace of your Prometheus." -}}
  {{- end -}}
  {{- range $kind := list "serviceMonitor" "prometheusRule" -}}
    {{- $values := get $.Values.metrics $kind -}}
    {{- if and $values.labels (not $values.enabled) -}}
      {{- $problems = append $problems (printf "metrics.%s.labels is set, but metrics.%s.enabled is false, so they have no effect: set enabled to true, or remove the labels." $kind $kind) -}}
    {{- end -}}
  {{- end -}}
  {{- $left := get (dict "selfManaged" 10 "certManager" 30) $.Values.certificates.mode | default 366 -}}
  {{- if and .prometheusRule.enabled (ge (int .prometheusRule.certificateDays) $left) -}}
    {{- $problems = append $problems (printf "metrics.prometheusRule.certificateDays is %v, but certificates.mode %s renews a certificate %d days before expiry, so each certificate would raise an alert: set a lower number." .prometheusRule.certificateDays $.Values.certificates.mode $left) -}}
  {{- end -}}
  {{- if and .dashboard.enabled (not .dashboard.labels) -}}
    {{- $problems = append $problems "metrics.dashboard.enabled is true and metrics.dashboard.labels is empty, but Grafana's sidecar selects dashboards by label: set the label that yours selects." -}}
  {{- end -}}
{{- end -}}

{{- if and $config.region (hasKey .Values.extraEnv "AWS_REGION") -}}
  {{- $problems = append $problems "config.region and extraEnv.AWS_REGION are both set, but the chart sets AWS_REGION to config.region: remove one of them." -}}
{{- end -}}

{{- $names := dict -}}
{{- $fence := false -}}
{{- /* The first component without session: sandbox-claim. */ -}}
{{- $first := dict -}}
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
      {{- $problems = append $problems (printf "%s has the selector %q, but a selector is key, key=value, or several of these joined by commas: write other conditions as separate components." $where $selector) -}}
    {{- end -}}
  {{- end -}}
  {{- if and (has .credentials (list "env" "exempt")) .selectors -}}
    {{- $problems = append $problems (printf "%s has credentials: %s and selectors, but a tenant writes labels and could select it for any pod: use serviceAccounts or creators only." $where .credentials) -}}
  {{- end -}}
  {{- if and (has .credentials (list "env" "exempt")) .fenced -}}
    {{- $problems = append $problems (printf "%s has credentials: %s and fenced: true, but that leaves all service accounts of config.fencedServiceAccounts unprotected: list the service accounts of this component in serviceAccounts." $where .credentials) -}}
  {{- end -}}
  {{- if eq (default "creator-or-uid" .session) "sandbox-claim" -}}
    {{- if hasKey $first "name" -}}
      {{- $problems = append $problems (printf "%s has session: sandbox-claim and comes after %s, but that may match the controller's pods first: put it before the others." $where $first.name) -}}
    {{- end -}}
    {{- if not $.Values.issuer.enabled -}}
      {{- $problems = append $problems (printf "%s has session: sandbox-claim and issuer.enabled is false, but only the session issuer reads which claim has a pod: set issuer.enabled: true." $where) -}}
    {{- end -}}
    {{- if or .selectors .serviceAccounts .fenced -}}
      {{- $problems = append $problems (printf "%s has session: sandbox-claim and selectors, serviceAccounts or fenced, but a tenant chooses these for any pod: use creators only, with the account of the agent-sandbox controller." $where) -}}
    {{- end -}}
    {{- if not .creators -}}
      {{- $problems = append $problems (printf "%s has session: sandbox-claim and no creators, but the session is trusted only for pods of the agent-sandbox controller: list its account." $where) -}}
    {{- end -}}
    {{- range .creators -}}
      {{- if contains "*" . -}}
        {{- $problems = append $problems (printf "%s has session: sandbox-claim and the creator %q, but a '*' may match an account of a tenant: list the account of the agent-sandbox controller in full." $where .) -}}
      {{- end -}}
      {{- $name := . -}}
      {{- range $config.sessionCreators -}}
        {{- if regexMatch (include "fab-session-injector.agents.regex" .) $name -}}
          {{- $problems = append $problems (printf "config.sessionCreators has %q, which matches the creator %s of %s, but that controller copies annotations that the author of a claim writes: remove it there." . $name $where) -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
    {{- if ne (default "sidecar" .credentials) "sidecar" -}}
      {{- $problems = append $problems (printf "%s has session: sandbox-claim and credentials: %s, but the sidecar waits for the claim: set credentials: sidecar." $where .credentials) -}}
    {{- end -}}
    {{- if eq (default "listening" .startGate) "credentials" -}}
      {{- $problems = append $problems (printf "%s has session: sandbox-claim and startGate: credentials, but a pod of a warm pool has no credentials until it is claimed: set startGate: listening." $where) -}}
    {{- end -}}
  {{- end -}}
  {{- if and (ne (default "creator-or-uid" .session) "sandbox-claim") (empty $first) -}}
    {{- $first = $component -}}
  {{- end -}}
  {{- if not (or .selectors .serviceAccounts .creators .fenced) -}}
    {{- $problems = append $problems (printf "%s matches no pod, but a component needs one of selectors, serviceAccounts, creators or fenced: true: add one, or remove the component." $where) -}}
  {{- end -}}
{{- end -}}
{{- if not $fence -}}
  {{- $problems = append $problems "config.components has no component with fenced: true, but every pod of a fenced service account must be an agent, whatever its labels: set fenced: true on the last component." -}}
{{- end -}}

{{- with $config.baseCredentials -}}
  {{- if and (eq .source "irsa") (not .roleArn) -}}
    {{- $problems = append $problems "config.baseCredentials.source is irsa and roleArn is empty, but IRSA assumes a role by its ARN: set config.baseCredentials.roleArn." -}}
  {{- else if and (ne .source "irsa") .roleArn -}}
    {{- $problems = append $problems (printf "config.baseCredentials.roleArn is set, but source %s does not use it: remove it, or set config.baseCredentials.source to irsa." .source) -}}
  {{- else if and (contains "{cluster}" .roleArn) (not $config.cluster) -}}
    {{- $problems = append $problems "config.baseCredentials.roleArn contains {cluster}, but config.cluster is empty: set config.cluster, or write the ARN without {cluster}." -}}
  {{- end -}}
  {{- if and (ne .source "podIdentity") (eq .ipFamily "ipv6") -}}
    {{- $problems = append $problems (printf "config.baseCredentials.ipFamily is ipv6, but source %s does not call the Pod Identity agent: remove it, or set config.baseCredentials.source to podIdentity." .source) -}}
  {{- end -}}
{{- end -}}

{{- if eq (toString (int $config.sidecar.uid)) (include "fab-session-injector.pod.uid" .) -}}
  {{- $problems = append $problems (printf "config.sidecar.uid is %d, but that is the UID of the chart's own pods, and the kernel counts limits per UID: choose another number." (int $config.sidecar.uid)) -}}
{{- end -}}

{{- range $name, $value := $config.sidecar.env -}}
  {{- if has $name (list "FAB_SESSION_CA_BUNDLE" "FAB_SESSION_DURATION" "FAB_SESSION_ID" "FAB_SESSION_IDENTITY" "FAB_SESSION_ISSUER" "FAB_SESSION_ISSUER_CA" "FAB_SESSION_ISSUER_TOKEN_FILE" "FAB_SESSION_PORT" "FAB_SESSION_ROLE_ARN" "FAB_SESSION_START_GATE" "FAB_SESSION_TENANT" "FAB_SESSION_TOKEN_FILE") -}}
    {{- $problems = append $problems (printf "config.sidecar.env sets %s, but the webhook sets this variable: remove it." $name) -}}
  {{- end -}}
  {{- if contains "$(" $value -}}
    {{- $problems = append $problems (printf "config.sidecar.env.%s contains $(, but the kubelet expands that: write the value itself." $name) -}}
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
      {{- $problems = append $problems (printf "config.sidecar.resources.%s.%s is %q, but the API server stores the shortest form, and the sidecar is compared with it: divide by %d and use the next unit." $of $kind $amount $next) -}}
    {{- end -}}
    {{- $_ := set $amounts $of (mul $number (get (dict "m" 1 "" 1000 "Ki" 1024000 "Mi" 1048576000 "Gi" 1073741824000) $unit)) -}}
  {{- end -}}
  {{- if gt $amounts.requests $amounts.limits -}}
    {{- $problems = append $problems (printf "config.sidecar.resources.requests.%s is more than its limit, but the API server denies such pods: lower it, or raise the limit." $kind) -}}
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
    {{- $problems = append $problems (printf "staticRoles.%s is %s, but config.roles.allow.%s does not accept it, and the webhook does not start with such a role: set another role, or extend the list." $tenant $arn .) -}}
  {{- end -}}
{{- end -}}

{{- with .Values.guard -}}
  {{- $image := (include "fab-session-injector.config" $ | fromYaml).sidecar.image -}}
  {{- if has $image .previousImages -}}
    {{- $problems = append $problems (printf "guard.previousImages lists %s, but that is the current image: list the previous image, or none." $image) -}}
  {{- end -}}
  {{- range .tokenCreators -}}
    {{- if regexMatch "^[*]+$" . -}}
      {{- $problems = append $problems (printf "guard.tokenCreators lists %q, but that lets every user request tokens for AWS: list only the users that sync pods from elsewhere." .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- if $problems -}}
  {{- fail (printf "\n\n- %s\n" (join "\n- " $problems)) -}}
{{- end -}}
{{- end -}}

{{/* Contradictions between values of the session issuer, as a JSON list. */}}
{{- define "fab-session-injector.validate.issuer" -}}
{{- $problems := list -}}
{{- $config := .Values.config -}}
{{- $own := $config.issuer -}}
{{- if not .Values.issuer.enabled -}}
  {{- if eq $config.transport "webIdentity" -}}
    {{- $problems = append $problems "config.transport is webIdentity and issuer.enabled is false, but sidecars then have no issuer to call: set issuer.enabled: true, or config.transport: roleChain." -}}
  {{- end -}}
  {{- range $key := list "audience" "caBundle" "caFile" "clientId" "endpoint" "keys" "url" -}}
    {{- if get $own $key -}}
      {{- $problems = append $problems (printf "config.issuer.%s is set, but issuer.enabled is false: set issuer.enabled: true, or remove it." $key) -}}
    {{- end -}}
  {{- end -}}
  {{- range $key, $value := dict "keySecret" .Values.issuer.keySecret "certificate.existingSecret" .Values.issuer.certificate.existingSecret "serviceAccount.name" .Values.issuer.serviceAccount.name "serviceAccount.annotations" .Values.issuer.serviceAccount.annotations -}}
    {{- if $value -}}
      {{- $problems = append $problems (printf "issuer.%s is set, but issuer.enabled is false: set issuer.enabled: true, or remove it." $key) -}}
    {{- end -}}
  {{- end -}}
{{- else -}}
  {{- if not .Values.guard.enabled -}}
    {{- $problems = append $problems "issuer.enabled is true and guard.enabled is false, but only the guard keeps pods from naming another session to the issuer: set guard.enabled: true, or issuer.enabled: false." -}}
  {{- end -}}
  {{- if not $own.url -}}
    {{- $problems = append $problems "issuer.enabled is true and config.issuer.url is empty, but AWS knows the issuer by its URL: set it to the URL of the IAM OIDC provider." -}}
  {{- end -}}
  {{- if not (default dict $config.roles.allow).accounts -}}
    {{- $problems = append $problems "issuer.enabled is true and config.roles.allow.accounts is empty, but STS checks no policy of the cluster's account, so the writer of a role's parameter could send sessions to any account: list the accounts of the session roles." -}}
  {{- end -}}
  {{- range $config.components -}}
    {{- if eq (default "creator-or-uid" .session) "pod-name" -}}
      {{- $problems = append $problems (printf "issuer.enabled is true and config.components has session: pod-name (%s), but tenants choose the names of pods: set pod-uid or creator-or-uid." .name) -}}
    {{- end -}}
  {{- end -}}
  {{- range $key := list "clientId" "audience" -}}
    {{- $value := get $own $key -}}
    {{- if not (or $value $config.cluster) -}}
      {{- $problems = append $problems (printf "config.issuer.%s and config.cluster are empty, but each cluster needs its own: set config.cluster, or both clientId and audience of config.issuer." $key) -}}
    {{- else if eq $value "sts.amazonaws.com" -}}
      {{- $problems = append $problems (printf "config.issuer.%s is sts.amazonaws.com, but that is the audience of every cluster's own tokens: choose one of this issuer." $key) -}}
    {{- end -}}
  {{- end -}}
  {{- if has $own.audience (append (default list $config.awsAudiences) "pods.eks.amazonaws.com") -}}
    {{- $problems = append $problems (printf "config.issuer.audience is %s, but AWS accepts tokens for that audience: choose one of this issuer." $own.audience) -}}
  {{- end -}}
  {{- if hasPrefix "https://kubernetes.default.svc" $own.audience -}}
    {{- $problems = append $problems (printf "config.issuer.audience is %s, but that is the audience of the API server, which the token of every pod has: choose one of this issuer." $own.audience) -}}
  {{- end -}}
  {{- if $own.caFile -}}
    {{- $problems = append $problems "config.issuer.caFile is set, but the chart mounts ca.crt of the issuer's Secret itself: remove it, or set config.issuer.caBundle." -}}
  {{- end -}}
  {{- with $own.caBundle -}}
    {{- if contains "PRIVATE KEY" . -}}
      {{- $problems = append $problems "config.issuer.caBundle contains a private key, but each agent pod gets its text: set only CA certificates." -}}
    {{- else if not (regexMatch "(?m)^-----BEGIN CERTIFICATE-----" .) -}}
      {{- $problems = append $problems "config.issuer.caBundle has no certificate, but it is the text of CA certificates in PEM, not the path of a file: use `helm --set-file config.issuer.caBundle=FILE`." -}}
    {{- else if contains "$" . -}}
      {{- $problems = append $problems "config.issuer.caBundle has the character $, but the kubelet would expand it: remove the comment." -}}
    {{- end -}}
  {{- end -}}
  {{- $signing := 0 -}}
  {{- $files := 0 -}}
  {{- $directory := printf "%s/" (include "fab-session-injector.issuerKeys" .) -}}
  {{- range $index, $key := $own.keys -}}
    {{- if eq (default "signing" .state) "signing" -}}
      {{- $signing = add1 $signing -}}
    {{- end -}}
    {{- if eq (empty .kms) (empty .file) -}}
      {{- $problems = append $problems (printf "config.issuer.keys[%d] has %s, but a key has one source: set kms or file." $index (empty .kms | ternary "neither kms nor file" "kms and file")) -}}
    {{- end -}}
    {{- if contains ":key/mrk-" (default "" .kms) -}}
      {{- $problems = append $problems (printf "config.issuer.keys[%d].kms is a multi-Region key, but a user that may replicate it can sign in another Region: create a single-Region key." $index) -}}
    {{- end -}}
    {{- with .file -}}
      {{- $files = add1 $files -}}
      {{- if not (regexMatch "^[A-Za-z0-9._-]+$" (trimPrefix $directory .)) -}}
        {{- $problems = append $problems (printf "config.issuer.keys[%d].file is %q, but the keys of issuer.keySecret are files in %s: set such a file." $index . $directory) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- if ne (int $signing) 1 -}}
    {{- $problems = append $problems (printf "config.issuer.keys has %d keys with the state signing, but exactly one signs: set the state of the others to next or old, or add a key." (int $signing)) -}}
  {{- end -}}
  {{- if and (gt (int $files) 0) (not .Values.issuer.keySecret) -}}
    {{- $problems = append $problems "config.issuer.keys has a key by file and issuer.keySecret is empty, but the issuer then finds no file: name the Secret with the keys." -}}
  {{- else if and .Values.issuer.keySecret (eq (int $files) 0) -}}
    {{- $problems = append $problems "issuer.keySecret is set, but config.issuer.keys has no key by file: add the key, or remove keySecret." -}}
  {{- end -}}
  {{- if and (eq .Values.certificates.mode "existingSecret") (not .Values.issuer.certificate.existingSecret) -}}
    {{- $problems = append $problems "certificates.mode is existingSecret and issuer.certificate.existingSecret is empty, but the issuer serves nothing without a certificate: name the Secret." -}}
  {{- end -}}
  {{- with .Values.issuer.certificate.existingSecret -}}
    {{- if eq . (include "fab-session-injector.tlsSecretName" $) -}}
      {{- $problems = append $problems (printf "issuer.certificate.existingSecret is %q, but that is the webhook's certificate, for another host name and of another CA: name a Secret of the issuer." .) -}}
    {{- end -}}
  {{- end -}}
  {{- $account := .Values.issuer.serviceAccount -}}
  {{- if not $account.create -}}
    {{- if not $account.name -}}
      {{- $problems = append $problems "issuer.serviceAccount.create is false and issuer.serviceAccount.name is empty, but other pods must not share the issuer's permissions: set issuer.serviceAccount.name to the service account that you created, or set issuer.serviceAccount.create to true." -}}
    {{- end -}}
    {{- if $account.annotations -}}
      {{- $problems = append $problems "issuer.serviceAccount.annotations is set while issuer.serviceAccount.create is false, but the chart annotates only a service account that it creates: annotate yours yourself, or set issuer.serviceAccount.create to true." -}}
    {{- end -}}
  {{- end -}}
  {{- $taken := list (include "fab-session-injector.serviceAccountName" .) (include "fab-session-injector.certsName" .) (include "fab-session-injector.issuerCertsName" .) -}}
  {{- if has (include "fab-session-injector.issuerServiceAccountName" .) $taken -}}
    {{- $problems = append $problems (printf "issuer.serviceAccount.name is %q, but other pods of the chart have that service account, and only the issuer may sign: choose another name." $account.name) -}}
  {{- end -}}
{{- end -}}
{{- toRawJson $problems -}}
{{- end -}}

{{- define "fab-session-injector.selectorPattern" -}}
{{- $name := "[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?" -}}
{{- $requirement := printf "([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?%s(=(%s)?)?" $name $name -}}
^{{ $requirement }}(, *{{ $requirement }})*$
{{- end -}}
