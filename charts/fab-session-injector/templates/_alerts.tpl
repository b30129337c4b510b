{{/*
The alerts, as a YAML list. prometheusrule.yaml makes rules of it. docs/metrics.md describes each
alert and what to do.

Counters are evaluated over five minutes or more, so that a scrape interval of up to one minute
gives several samples.
*/}}
{{- define "fab-session-injector.alerts" -}}
{{- $config := include "fab-session-injector.config" . | fromYaml -}}
{{- $ssm := $config.roles.ssm -}}
{{- /* The transient refusals: those with status 503. */ -}}
{{- $transient := "internal|namespace-unknown|role-denied|role-unavailable" -}}
- alert: FabSessionInjectorDown
  expr: absent(fab_session_injector_ready == 1)
  for: 2m
  severity: critical
  summary: No replica of the webhook is ready.
  description: Agent pods in enabled namespaces are refused until a replica is ready. Run kubectl describe on the webhook's pods, and read the log of a running one. If the pods are ready, check that Prometheus reaches port {{ int $.Values.ports.health }}.
- alert: FabSessionInjectorReplicaNotReady
  expr: fab_session_injector_ready == 0
  for: 15m
  severity: warning
  summary: {{ `Replica {{ $labels.instance }} of the webhook is not ready.` }}
  description: It waits for its first list of namespaces. Read its log (message "namespace watch failed"), and allow it to reach the API server (networkPolicy.apiServerPorts).
- alert: FabSessionInjectorWebhookCallsFailing
  expr: sum by (name, error_type) (increase(apiserver_admission_webhook_rejection_count{name="enabled.session.fab.nanohype.dev",error_type="calling_webhook_error"}[5m])) > 0
  for: 2m
  severity: critical
  summary: API servers cannot call the webhook, and refuse agent pods.
  description: The message of such a refusal contains the cause, usually a certificate or the network. The table in docs/operations.md explains the API server's messages.
- alert: FabSessionInjectorTransientRefusals
  expr: sum by (code) (increase(fab_session_injector_reviews_total{mode="enabled",decision="refuse",code=~"{{ $transient }}"}[5m])) > 0
  for: 5m
  severity: critical
  summary: {{ `Agent pods are refused with HTTP 503, code {{ $labels.code }}.` }}
  description: The pods are valid. The webhook's log has the cause, and docs/refusals.md the remedy for the code.
- alert: FabSessionInjectorRefusals
  expr: sum by (code) (increase(fab_session_injector_reviews_total{mode="enabled",decision="refuse",code!~"{{ $transient }}"}[15m])) >= 5
  severity: warning
  summary: {{ `Agent pods are refused repeatedly, code {{ $labels.code }}.` }}
  description: A controller retries a pod that stays refused until the pod, its namespace or its role changes. The webhook's log names namespace and pod. The events there contain the message and the remedy.
- alert: FabSessionInjectorUnattributed
  # The first pod creates the series, which is no increase.
  expr: |-
    sum by (decision, component) (increase(fab_session_injector_reviews_total{mode="enabled",decision=~"env|keep"}[1h])) > 0
    or
    sum by (decision, component) (fab_session_injector_reviews_total{mode="enabled",decision=~"env|keep"} unless fab_session_injector_reviews_total{mode="enabled",decision=~"env|keep"} offset 1h) > 0
  severity: warning
  summary: {{ `Pods of component {{ $labels.component }} keep base credentials, decision {{ $labels.decision }}.` }}
  description: Their AWS calls are not attributed to a session. If this is not intended, remove the label fab.nanohype.dev/operator from the namespace (keep), or set the component's credentials to sidecar (env).
# Only for pods that exist and have not completed: in a completed pod no container is ready, and a
# range still has the samples of a deleted pod, whose name another pod may have.
- alert: FabSessionInjectorSidecarNotReady
  expr: |-
    max by (namespace, pod) (kube_pod_init_container_status_ready{container="fab-session-credentials"}) == 0
    and
    max by (namespace, pod) (kube_pod_status_phase{phase=~"Pending|Running"}) == 1
  for: 5m
  severity: warning
  summary: {{ `Agent pod {{ $labels.namespace }}/{{ $labels.pod }} has no session credentials.` }}
  description: {{ `Its sidecar is not ready, so the agent has not started, or its AWS calls fail. The reason is in the pod's events and in the sidecar's log (kubectl -n {{ $labels.namespace }} logs {{ $labels.pod }} -c fab-session-credentials).` }}
- alert: FabSessionInjectorSidecarRestarting
  expr: |-
    max by (namespace, pod) (
      max by (namespace, pod, uid) (increase(kube_pod_init_container_status_restarts_total{container="fab-session-credentials"}[1h])) >= 3
      and
      max by (namespace, pod, uid) (kube_pod_status_phase{phase=~"Pending|Running"}) == 1
    )
  severity: warning
  summary: {{ `The sidecar of agent pod {{ $labels.namespace }}/{{ $labels.pod }} restarts repeatedly.` }}
  description: {{ `While it is down, the agent's AWS calls fail if the SDK has no valid credentials. The sidecar's last state has the exit code and the reason (kubectl -n {{ $labels.namespace }} describe pod {{ $labels.pod }}).` }}
{{- if .Values.guard.enabled }}
- alert: FabSessionInjectorGuardRefusals
  {{- $refused := `apiserver_validating_admission_policy_check_total{policy=~"fab-session-injector-(bindings|ephemeral-containers|exec|issuer-pods|issuer-tokens|pod-updates|pods|sandbox-pods|sandboxes|services|tokens)",enforcement_action="deny"}` }}
  # The first refusal creates the series, as above.
  expr: |-
    sum by (policy) (increase({{ $refused }}[10m])) > 0
    or
    sum by (policy) ({{ $refused }} unless {{ $refused }} offset 10m) > 0
  severity: warning
  summary: {{ `The guard refused requests, policy {{ $labels.policy }}.` }}
  description: Either a user tried to bypass the webhook, or the guard and the webhook disagree, such as on the sidecar's image during an upgrade. docs/guard.md describes each policy. The API server's audit log names the user.
{{- end }}
- alert: FabSessionInjectorSlow
  expr: histogram_quantile(0.99, sum by (le) (rate(fab_session_injector_review_duration_seconds_bucket[5m]))) > 1
  for: 10m
  severity: warning
  summary: One percent of reviews take longer than one second.
  description: After 3 s the webhook refuses the pod. A review waits for SSM if the role is not cached, and for the API server if the namespace is not cached. Check the other alerts and the webhook's CPU usage.
- alert: FabSessionInjectorInvalidRequests
  expr: sum by (status) (increase(fab_session_injector_rejected_requests_total[10m])) >= 5
  severity: warning
  summary: {{ `The webhook port receives invalid requests, HTTP {{ $labels.status }}.` }}
  description: If API servers send them (408, 413, 503), the failure policy refuses pods, and the webhook's log has the reason. Close the port to all other clients (networkPolicy).
- alert: FabSessionInjectorNamespacesMisconfigured
  expr: max by (code) (fab_session_injector_misconfigured_namespaces) > 0
  for: 10m
  severity: warning
  summary: "{{ `{{ $value }} opted-in namespaces are misconfigured, code {{ $labels.code }}.` }}"
  description: Because of their labels the webhook refuses agent pods, or would refuse them (audit). The webhook's log names each namespace and the reason. docs/operations.md names the wrong label of each code.
- alert: FabSessionInjectorNamespaceWatchFailing
  expr: sum(increase(fab_session_injector_namespace_watch_errors_total[5m])) > 0
  for: 10m
  severity: warning
  summary: The webhook's watch of namespaces fails.
  description: Cached namespaces are served, and others are looked up one at a time. The webhook's log has the error. Restore the webhook's RBAC on namespaces, or its connection to the API server.
- alert: FabSessionInjectorRolesUnknown
  expr: max by (state) (fab_session_injector_roles{state=~"missing|unreachable|unusable"}) > 0
  for: 30m
  severity: warning
  summary: "{{ `{{ $value }} tenants have no usable role, state {{ $labels.state }}.` }}"
  description: Their agent pods are refused in enabled namespaces, and would be in audit. The webhook's log names the tenants. Publish the role (missing), correct the published value (unusable), or allow the webhook to read it (unreachable).
{{- if $ssm }}
- alert: FabSessionInjectorSsmDenied
  expr: sum(increase(fab_session_injector_role_calls_total{outcome="denied"}[10m])) > 0
  for: 10m
  severity: critical
  summary: AWS denies the webhook's IAM role access to the tenants' parameters.
  description: Cached roles are served for config.roles.ssm.staleSeconds. In enabled namespaces agent pods of other tenants are refused with role-denied. Attach the policy that fab-session-injector iam prints as webhook-policy to the webhook's IAM role.
- alert: FabSessionInjectorSsmUnreachable
  expr: sum(increase(fab_session_injector_role_calls_total{outcome=~"failed|no-answer|no-credentials"}[5m])) > 0
  for: 10m
  severity: critical
  summary: The webhook's calls to SSM fail.
  description: Cached roles are served for config.roles.ssm.staleSeconds. In enabled namespaces agent pods of other tenants are refused with role-unavailable. The webhook's log has the cause. Restore the connection to SSM on port 443, or the webhook's AWS credentials.
- alert: FabSessionInjectorSsmThrottled
  expr: sum(increase(fab_session_injector_role_calls_total{outcome="throttled"}[5m])) > 0
  for: 15m
  severity: warning
  summary: SSM throttles the webhook.
  description: All clients in the AWS account share the rate limit. Find the other callers of GetParameters, lower config.roles.ssm.callsPerSecond, or request a higher quota from AWS.
- alert: FabSessionInjectorRolesStale
  # Three quarters of config.roles.ssm.staleSeconds.
  expr: max(fab_session_injector_oldest_role_age_seconds) > {{ div (mul 3 (int64 $ssm.staleSeconds)) 4 }}
  for: 5m
  severity: critical
  summary: {{ `The oldest cached role is {{ $value | humanizeDuration }} old, and soon becomes stale.` }}
  description: After config.roles.ssm.staleSeconds agent pods of its tenant are refused in enabled namespaces. Restore access to SSM, or set the roles in staticRoles.
{{- end }}
- alert: FabSessionInjectorCertificateExpiring
  expr: min(fab_session_injector_certificate_expiry_timestamp_seconds > 0) - time() < {{ .Values.metrics.prometheusRule.certificateDays }} * 86400
  for: 5m
  severity: critical
  summary: {{ `The serving certificate expires in {{ $value | humanizeDuration }}.` }}
  description: After that API servers refuse agent pods. Renewal has failed. Check the issuer of certificates.mode, and whether all replicas serve the same certificate.
- alert: FabSessionInjectorCertificateReloadFailing
  expr: sum(increase(fab_session_injector_certificate_reloads_total{outcome="failed"}[10m])) > 0
  severity: warning
  summary: The webhook cannot load the certificate in the Secret.
  description: The webhook serves the previous certificate until it expires. The webhook's log has the error. Store a certificate and its matching key in the Secret.
- alert: FabSessionInjectorLogLinesDropped
  expr: sum(increase(fab_session_injector_log_lines_dropped_total[10m])) > 0
  severity: warning
  summary: The webhook drops log lines.
  description: The container runtime does not read the log in time. Check the node's disk and container runtime.
{{- if .Values.issuer.enabled }}
- alert: FabSessionInjectorIssuerLogLinesDropped
  expr: sum(increase(fab_session_injector_issuer_log_lines_dropped_total[10m])) > 0
  severity: warning
  summary: The session issuer drops log lines.
  description: The line of a token may be missing, so a query for forged sessions finds genuine ones, too. Check the node's disk and container runtime.
- alert: FabSessionInjectorIssuerDown
  expr: absent(fab_session_injector_issuer_ready == 1)
  for: 2m
  severity: critical
  summary: No replica of the session issuer is ready.
  description: Sidecars without base credentials serve their credentials until these expire, and new agents with such a sidecar have none. Run kubectl describe on the issuer's pods, and read the log of a running one. If the pods are ready, check that Prometheus reaches port 8081.
- alert: FabSessionInjectorIssuerRefusals
  # The sidecar of a completed pod may run, and be refused, a little longer. A pod of a warm pool
  # waits, and each of its requests ends with `unbound`.
  expr: sum by (code) (increase(fab_session_injector_issuer_tokens_total{code!="",code!~"pod-gone|unbound"}[15m])) >= 5
  severity: warning
  summary: {{ `The session issuer refuses sidecars, code {{ $labels.code }}.` }}
  description: Their agents have no credentials, or none soon. The issuer's log names namespace and pod, and docs/refusals.md has the remedy for the code. Without a pod in the log, a client without a pod's token sends the requests (token-invalid, api-unavailable). Then restrict the port 8443 of the issuer by a network policy.
- alert: FabSessionInjectorIssuerForeignKey
  expr: max(fab_session_injector_issuer_foreign_keys) > 0
  severity: critical
  summary: The public files of the session issuer are not those of issuer export.
  description: They have a key that is not in config.issuer.keys, name another URL of the keys, or cannot be parsed. The owner of such a key can assume every role that trusts the issuer. Unless it is the key of an unfinished rotation, another writer has access to the files. The issuer's log has the problem. Remove the client ID from the IAM OIDC provider first. Then follow docs/issuer.md.
- alert: FabSessionInjectorIssuerKeyUnpublished
  expr: min(fab_session_injector_issuer_key_published) == 0
  for: 5m
  severity: critical
  summary: The signing key of the session issuer is not in the published keys.
  description: The issuer signs nothing, because STS would reject it. Publish the keys that fab-session-injector issuer export writes, at config.issuer.url.
- alert: FabSessionInjectorIssuerKeysUnread
  expr: sum(increase(fab_session_injector_issuer_published_key_errors_total[10m])) > 0
  for: 10m
  severity: warning
  summary: The session issuer cannot read its public files.
  description: It continues with what it read last, and would not see a foreign key. STS reads the same files. Check config.issuer.url, and the issuer's way to it. Its log has the error.
- alert: FabSessionInjectorIssuerCertificateExpiring
  expr: min(fab_session_injector_issuer_certificate_expiry_timestamp_seconds > 0) - time() < {{ .Values.metrics.prometheusRule.certificateDays }} * 86400
  for: 5m
  severity: critical
  summary: {{ `The certificate of the session issuer expires in {{ $value | humanizeDuration }}.` }}
  description: After that sidecars do not call the issuer. Renewal has failed. Check the Deployment {{ include "fab-session-injector.issuerCertsName" . }}, cert-manager, or your Secret.
{{- end }}
{{- if eq .Values.certificates.mode "selfManaged" }}
- alert: FabSessionInjectorCertsDown
  {{- if and .Values.issuer.enabled (eq (include "fab-session-injector.issuerCertificateMode" .) "selfManaged") }}
  # The one of the webhook, and the one of the issuer.
  expr: count(fab_session_injector_certs_ready == 1) < 2 or absent(fab_session_injector_certs_ready == 1)
  {{- else }}
  expr: absent(fab_session_injector_certs_ready == 1)
  {{- end }}
  for: 15m
  severity: warning
  summary: A deployment certs is down, or was not ready since its start.
  description: The current certificate stays valid for at least ten days. Run kubectl describe on the pod of certs, and read its log. With a session issuer there are two, certs and issuer-certs.
- alert: FabSessionInjectorCertsFailing
  expr: sum(increase(fab_session_injector_certs_failures_total[10m])) > 0
  for: 10m
  severity: warning
  summary: The deployment certs cannot manage the serving certificate.
  description: The log of the deployment certs has the error. If the Secret or the webhook configuration was deleted, re-run helm upgrade. Otherwise restore the RBAC of certs.
- alert: FabSessionInjectorCAExpiring
  # The CA is replaced when a third of its year remains: 121 days before it expires.
  expr: (fab_session_injector_certs_ca_expiry_timestamp_seconds > 0) - time() < 115 * 86400
  for: 5m
  severity: warning
  summary: {{ `The CA of the serving certificate expires in {{ $value | humanizeDuration }}, and was not replaced.` }}
  description: The replacement is days overdue. Read the log of the deployment certs. When the CA expires, API servers refuse agent pods.
{{- end }}
{{- end -}}
