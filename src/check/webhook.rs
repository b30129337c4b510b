//! Checks whether API servers call the webhook, in the right order, and trust its certificate.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    CheckId, Findings, Objects, Seen, WebhookFacts, difference::differences, items, name, objects,
};
use crate::{
    certificates::{self, Distrust},
    json::Json,
};

pub(super) fn check_webhook(webhook: &WebhookFacts, now: SystemTime) -> Findings {
    let mut found = Findings::default();
    let WebhookFacts { configurations, deployment, endpoints, installed, certs_deployment, secret } =
        webhook;
    if let Some(all) = configurations.or_report(CheckId::WebhookMissing, SUBJECT, &mut found) {
        match ours(all) {
            Some(ours) => {
                check_entries(&ours, &mut found);
                check_order(&ours, all, &mut found);
                check_as_installed(&ours, installed, &mut found);
                check_ca_bundle(&ours, secret, now, &mut found);
            }
            None => found.error(
                CheckId::WebhookMissing,
                SUBJECT,
                format!("MutatingWebhookConfiguration {CONFIGURATION} does not exist"),
            ),
        }
    }
    certificate_lasts(secret, now, &mut found);
    check_rollout(deployment, "Deployment of the webhook", true, &mut found);
    check_rollout(certs_deployment, "Deployment of certs", false, &mut found);
    if let Some(slices) =
        endpoints.or_report(CheckId::Endpoints, "service of the webhook", &mut found)
    {
        check_endpoints(slices, &mut found);
    }
    found
}

/// Checks whether all replicas of a Deployment are up to date and available. `needed`: the
/// Deployment must exist; not every release has a Deployment of certs.
fn check_rollout(
    deployment: &Seen<Option<Value>>,
    subject: &str,
    needed: bool,
    found: &mut Findings,
) {
    let Some(deployment) = deployment.or_report(CheckId::Rollout, subject, found) else { return };
    let Some(deployment) = deployment else {
        if needed {
            found.error(CheckId::Rollout, subject, "does not exist");
        }
        return;
    };
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let wanted = spec["replicas"].as_u64().unwrap_or(1);
    let [all, updated, available] = ["replicas", "updatedReplicas", "availableReplicas"]
        .map(|key| status[key].as_u64().unwrap_or(0));
    // https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#complete-deployment
    let is_seen =
        status["observedGeneration"].as_u64() >= deployment["metadata"]["generation"].as_u64();
    let message = format!(
        "{wanted} replicas wanted: {updated} up to date, {available} available, {all} in total"
    );
    if is_seen && [all, updated, available] == [wanted; 3] {
        found.ok(CheckId::Rollout, subject, message);
    } else {
        found.error(CheckId::Rollout, subject, message);
    }
}

/// Returns the namespace and the name of the service in the injector's webhook configuration.
pub fn service(configurations: &Objects) -> Option<(String, String)> {
    let ours = ours(configurations)?;
    let webhook = items(&ours, "webhooks").next()?;
    let service = &webhook["clientConfig"]["service"];
    Some((service["namespace"].as_str()?.to_owned(), service["name"].as_str()?.to_owned()))
}

/// Returns the injector's webhook configuration: by its name, else by its webhooks, in case it was
/// renamed.
fn ours(configurations: &Objects) -> Option<Value> {
    let is_named = |configuration: &Json<'_>| objects::name(*configuration) == CONFIGURATION;
    let has_ours = |configuration: &Json<'_>| {
        let mut webhooks = configuration.at("webhooks").items();
        webhooks.any(|webhook| webhook.at("name").string().is_some_and(|it| it == WEBHOOKS[0]))
    };
    let named = configurations.iter().find(is_named);
    named.or_else(|| configurations.iter().find(has_ours)).map(Json::tree)
}

fn check_entries(ours: &Value, found: &mut Findings) {
    let lacks = |wanted: &&str| items(ours, "webhooks").all(|webhook| webhook["name"] != **wanted);
    let lacking: Vec<&str> = WEBHOOKS.into_iter().filter(lacks).collect();
    if lacking.is_empty() {
        found.ok(CheckId::WebhookMissing, name(ours), "both webhooks exist");
    } else {
        found.error(
            CheckId::WebhookMissing,
            name(ours),
            format!("has no webhook {}", lacking.join(" and no ")),
        );
    }
}

/// API servers sort webhooks by the names of their configurations, byte by byte.
/// <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>
fn check_order(ours: &Value, all: &Objects, found: &mut Findings) {
    let own = name(ours);
    let mut names: Vec<_> = all.iter().map(objects::name).collect();
    names.sort_unstable();
    let order = names.join(", ");
    if names.iter().any(|name| name == EKS) && own > EKS {
        found.error(
            CheckId::WebhookOrder,
            own,
            format!("API servers call it after {EKS}, in this order: {order}"),
        );
    } else if own != CONFIGURATION {
        found.error(
            CheckId::WebhookOrder,
            own,
            format!(
                "has the webhooks of the injector, but certs and `helm upgrade` use the name {CONFIGURATION}"
            ),
        );
    } else {
        found.ok(
            CheckId::WebhookOrder,
            own,
            format!("API servers call webhooks in this order: {order}"),
        );
    }
}

fn check_as_installed(ours: &Value, installed: &Seen<Option<Value>>, found: &mut Findings) {
    let subject = name(ours);
    let Some(installed) = installed.or_report(CheckId::WebhookEdited, subject, found) else {
        return;
    };
    let Some(installed) = installed else {
        found.unknown(CheckId::WebhookEdited, subject, NOT_SAID);
        return;
    };
    // A missing webhook is reported by `check_entries`.
    let live = |wanted: &Value| items(ours, "webhooks").find(|it| it["name"] == wanted["name"]);
    let mut changed = changed_annotations(ours, installed);
    for wanted in items(installed, "webhooks") {
        let webhook = wanted["name"].as_str().unwrap_or_default();
        let pair = live(wanted).map(|live| (trustless(wanted), trustless(live)));
        let places = pair.map(|(wanted, live)| differences(&wanted, &live)).unwrap_or_default();
        changed.extend(places.into_iter().map(|place| format!("{webhook}: {place}")));
    }
    if changed.is_empty() {
        found.ok(CheckId::WebhookEdited, subject, "as rendered by the release");
    } else {
        found.error(CheckId::WebhookEdited, subject, changed.join("; "));
    }
}

/// Returns the differences of the annotations that the release renders, such as the one by which
/// cert-manager's cainjector finds the configuration. Helm and GitOps tools add others.
fn changed_annotations(ours: &Value, installed: &Value) -> Vec<String> {
    let annotations = |of: &Value| of["metadata"]["annotations"].clone();
    let (wanted, live) = (annotations(installed), annotations(ours));
    let wanted = wanted.as_object().into_iter().flatten();
    let changed = wanted
        .flat_map(|(key, value)| differences(&json!({ key: value }), &json!({ key: live[key] })));
    changed.map(|place| format!("annotation {place}")).collect()
}

/// Returns the webhook without `caBundle`, which certs or cert-manager set.
fn trustless(webhook: &Value) -> Value {
    let mut webhook = webhook.clone();
    if let Some(client) = webhook["clientConfig"].as_object_mut() {
        client.shift_remove("caBundle");
    }
    webhook
}

fn check_ca_bundle(
    ours: &Value,
    secret: &Seen<Option<Value>>,
    now: SystemTime,
    found: &mut Findings,
) {
    let Some(certificate) = served(secret, CheckId::CaBundle, found) else { return };
    for webhook in items(ours, "webhooks") {
        let client = &webhook["clientConfig"];
        let subject = webhook["name"].as_str().unwrap_or_default();
        let bundle = text(&client["caBundle"]);
        let service = &client["service"];
        let (Some(service), Some(namespace)) =
            (service["name"].as_str(), service["namespace"].as_str())
        else {
            found.unknown(
                CheckId::CaBundle,
                subject,
                "clientConfig has a URL instead of a service",
            );
            continue;
        };
        let host = format!("{service}.{namespace}.svc");
        match certificates::trust(&bundle, &certificate, &host, now) {
            Ok(_) => {
                found.ok(CheckId::CaBundle, subject, format!("trusts the certificate of {host}"))
            }
            Err(unknown @ Distrust::AuthorityServed) => {
                found.unknown(CheckId::CaBundle, subject, format!("{unknown} ({host})"));
            }
            Err(distrust) => {
                found.error(CheckId::CaBundle, subject, format!("{distrust} ({host})"));
            }
        }
    }
}

fn certificate_lasts(secret: &Seen<Option<Value>>, now: SystemTime, found: &mut Findings) {
    let Some(certificate) = served(secret, CheckId::Certificate, found) else { return };
    let stored = certificates::SecretData { certificate, ..certificates::SecretData::default() };
    let (Some(ends), Some(life)) = (stored.certificate_ends(), stored.certificate_life()) else {
        found.error(CheckId::Certificate, CERTIFICATE, "is missing or not a certificate");
        return;
    };
    let ahead = ends.checked_sub(life).and_then(|begins| begins.duration_since(now).ok());
    if let Some(ahead) = ahead.filter(|ahead| !ahead.is_zero()) {
        found.error(
            CheckId::Certificate,
            CERTIFICATE,
            format!("is not yet valid; it becomes valid in {}", span(ahead)),
        );
        return;
    }
    match ends.duration_since(now) {
        Ok(left) if left >= OVERDUE.min(life * 3 / 10) => {
            found.ok(CheckId::Certificate, CERTIFICATE, format!("expires in {}", span(left)));
        }
        Ok(left) => found.error(
            CheckId::Certificate,
            CERTIFICATE,
            format!("expires in {}; renewal is overdue", span(left)),
        ),
        Err(expired) => found.error(
            CheckId::Certificate,
            CERTIFICATE,
            format!("expired {} ago", span(expired.duration())),
        ),
    }
}

/// Returns the certificate in the Secret, as PEM: the webhook serves it once the kubelet has
/// updated the mounted file. An empty text if the Secret does not exist.
fn served(secret: &Seen<Option<Value>>, check: CheckId, found: &mut Findings) -> Option<String> {
    let secret = secret.or_report(check, CERTIFICATE, found)?;
    Some(secret.as_ref().map(|secret| text(&secret["data"][CERTIFICATE_KEY])).unwrap_or_default())
}

fn check_endpoints(slices: &Objects, found: &mut Findings) {
    let ready = slices
        .iter()
        .flat_map(|slice| slice.at("endpoints").items())
        // A missing condition counts as ready.
        // https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#ready
        .filter(|endpoint| endpoint.at("conditions").at("ready").text() != "false")
        .count();
    match ready {
        0 => found.error(CheckId::Endpoints, "service of the webhook", "no endpoint is ready"),
        _ => found.ok(
            CheckId::Endpoints,
            "service of the webhook",
            format!("number of ready endpoints: {ready}"),
        ),
    }
}

/// Returns the text of a field with base64-encoded bytes. Empty if it is not valid base64 or UTF-8.
fn text(field: &Value) -> String {
    let bytes = field.as_str().and_then(|field| STANDARD.decode(field).ok());
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// Returns the time in whole hours, or from 48 hours on in whole days.
fn span(time: Duration) -> String {
    match time.as_secs() / 3600 {
        hours @ ..48 => format!("{hours} hours"),
        hours => format!("{} days", hours / 24),
    }
}

/// The name does not depend on the release: it decides the order in which API servers call
/// webhooks.
pub const CONFIGURATION: &str = "fab-session-injector";
const WEBHOOKS: [&str; 2] = ["enabled.session.fab.nanohype.dev", "audit.session.fab.nanohype.dev"];
/// The name of EKS's webhook configuration, whose webhook gives pods base credentials.
/// <https://github.com/aws/amazon-eks-pod-identity-webhook>
pub(super) const EKS: &str = "pod-identity-webhook";
const SUBJECT: &str = "webhook configuration";
const CERTIFICATE: &str = "serving certificate";
const CERTIFICATE_KEY: &str = "tls.crt";
/// Remaining lifetime below which renewal is overdue, or three tenths of a shorter lifetime. Each
/// certificate mode renews earlier: docs/certificates.md.
const OVERDUE: Duration = Duration::from_secs(9 * 86_400);
pub(super) const NOT_SAID: &str = "cannot compare with the release: the chart's ConfigMap <name>-installed is missing or incomplete";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certificates::{PublishedBundles, SecretData, Step, plan},
        check::Level,
    };

    /// Returns the Secret that the Deployment of certs writes at this time.
    fn secret(made_at: SystemTime) -> Value {
        let mut stored = SecretData::default();
        let mut published = PublishedBundles { bundles: vec![String::new()], since: Some(made_at) };
        loop {
            match plan(&stored, &published, "webhook.platform.svc", made_at).unwrap() {
                Step::Publish(bundle) => published.bundles = vec![bundle],
                Step::Store(next, _) => stored = *next,
                Step::WaitUntil(_) => {
                    return json!({"data": {"tls.crt": STANDARD.encode(&stored.certificate)}});
                }
            }
        }
    }

    #[test]
    fn a_certificate_is_an_error_outside_its_validity() {
        let made_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let hour = Duration::from_secs(3600);
        // The certificate is backdated by an hour and is valid for 30 days.
        let cases = [
            (made_at, Level::Ok, "expires in 30 days"),
            (made_at - hour, Level::Ok, "expires in 30 days"),
            (made_at - 5 * hour, Level::Error, "is not yet valid; it becomes valid in 4 hours"),
            (made_at - 100 * hour, Level::Error, "is not yet valid; it becomes valid in 4 days"),
            (made_at + 25 * 24 * hour, Level::Error, "expires in 5 days; renewal is overdue"),
            (made_at + 31 * 24 * hour, Level::Error, "expired 24 hours ago"),
        ];
        let secret = Seen::Known(Some(secret(made_at)));
        for (now, level, begins) in cases {
            let mut found = Findings::default();
            certificate_lasts(&secret, now, &mut found);
            let [finding] = found.iter().collect::<Vec<_>>()[..] else { panic!("{found:?}") };
            assert!(finding.level == level && finding.message.starts_with(begins), "{finding}");
        }
    }

    #[test]
    fn only_annotations_of_the_release_are_compared() {
        let of = |annotations: Value| json!({"metadata": {"annotations": annotations}});
        let inject = "cert-manager.io/inject-ca-from";
        let rendered = of(json!({inject: "platform/webhook"}));
        let gone = format!("annotation {inject} is null instead of \"platform/webhook\"");
        let other = format!("annotation {inject} is \"a/b\" instead of \"platform/webhook\"");
        let cases = [
            (
                &rendered,
                json!({inject: "platform/webhook", "meta.helm.sh/release-name": "a"}),
                None,
            ),
            (&rendered, json!({"meta.helm.sh/release-name": "a"}), Some(gone.as_str())),
            (&rendered, Value::Null, Some(gone.as_str())),
            (&rendered, json!({inject: "a/b"}), Some(other.as_str())),
            // The release of another certificate mode.
            (&of(Value::Null), json!({inject: "a/b"}), None),
        ];
        for (installed, live, want) in cases {
            let changed = changed_annotations(&of(live.clone()), installed);
            assert_eq!(changed.first().map(String::as_str), want, "{live}");
        }
    }
}
