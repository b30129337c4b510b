//! Whether API servers ask the webhook, in time and in the right order, and believe it.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Facts, Findings, Link, Seen, Webhook, difference::differences, items, name};
use crate::certificates::{self, Distrust};

pub(super) fn judge(facts: &Facts, found: &mut Findings) {
    let Webhook { configurations, deployment, endpoints, installed, keeper, secret } =
        &facts.webhook;
    if let Some(all) = configurations.or_tell(Link::WebhookMissing, SUBJECT, found) {
        match ours(all) {
            Some(ours) => {
                is_complete(ours, found);
                comes_first(ours, all, found);
                is_as_installed(ours, installed, found);
                is_believed(ours, secret, facts.now, found);
            }
            None => found.broken(
                Link::WebhookMissing,
                SUBJECT,
                format!("there is no MutatingWebhookConfiguration {CONFIGURATION}"),
            ),
        }
    }
    certificate_lasts(secret, facts.now, found);
    is_rolled_out(deployment, "Deployment of the webhook", true, found);
    is_rolled_out(keeper, "Deployment of certs", false, found);
    if let Some(slices) = endpoints.or_tell(Link::Endpoints, "service of the webhook", found) {
        answers(slices, found);
    }
}

/// Whether each replica is as the Deployment says, and ready. A keeper of the certificate is not in
/// every release.
fn is_rolled_out(
    deployment: &Seen<Option<Value>>,
    subject: &str,
    needed: bool,
    found: &mut Findings,
) {
    let Some(deployment) = deployment.or_tell(Link::Rollout, subject, found) else { return };
    let Some(deployment) = deployment else {
        if needed {
            found.broken(Link::Rollout, subject, "is not there");
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
    let says =
        format!("of {wanted} replicas {updated} are as it says, {available} ready, {all} there");
    if is_seen && [all, updated, available] == [wanted; 3] {
        found.ok(Link::Rollout, subject, says);
    } else {
        found.broken(Link::Rollout, subject, says);
    }
}

/// The namespace and the name of the service that our configuration has API servers call.
pub fn service(configurations: &[Value]) -> Option<(String, String)> {
    let webhook = items(ours(configurations)?, "webhooks").next()?;
    let service = &webhook["clientConfig"]["service"];
    Some((service["namespace"].as_str()?.to_owned(), service["name"].as_str()?.to_owned()))
}

/// By its name, else by the webhooks in it: somebody may have given it another.
fn ours(configurations: &[Value]) -> Option<&Value> {
    let named = configurations.iter().find(|configuration| name(configuration) == CONFIGURATION);
    named.or_else(|| {
        configurations.iter().find(|configuration| {
            items(configuration, "webhooks").any(|webhook| webhook["name"] == WEBHOOKS[0])
        })
    })
}

fn is_complete(ours: &Value, found: &mut Findings) {
    let lacks = |wanted: &&str| items(ours, "webhooks").all(|webhook| webhook["name"] != **wanted);
    let lacking: Vec<&str> = WEBHOOKS.into_iter().filter(lacks).collect();
    if lacking.is_empty() {
        found.ok(Link::WebhookMissing, name(ours), "both webhooks are there");
    } else {
        found.broken(
            Link::WebhookMissing,
            name(ours),
            format!("has no webhook {}", lacking.join(" and no ")),
        );
    }
}

/// API servers sort webhooks by the names of their configurations, byte by byte.
/// <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>
fn comes_first(ours: &Value, all: &[Value], found: &mut Findings) {
    let own = name(ours);
    let mut names: Vec<&str> = all.iter().map(name).collect();
    names.sort_unstable();
    let order = names.join(", ");
    if names.contains(&EKS) && own > EKS {
        found.broken(Link::WebhookOrder, own, format!("comes after {EKS}: {order}"));
    } else if own != CONFIGURATION {
        found.broken(
            Link::WebhookOrder,
            own,
            format!("holds our webhooks, and certs and the next release look for {CONFIGURATION}"),
        );
    } else {
        found.ok(Link::WebhookOrder, own, format!("webhooks are called in this order: {order}"));
    }
}

fn is_as_installed(ours: &Value, installed: &Seen<Option<Value>>, found: &mut Findings) {
    let subject = name(ours);
    let Some(installed) = installed.or_tell(Link::WebhookEdited, subject, found) else { return };
    let Some(installed) = installed else {
        found.unseen(Link::WebhookEdited, subject, NOT_SAID);
        return;
    };
    // Where one of the two is gone, that is said already.
    let live = |wanted: &Value| items(ours, "webhooks").find(|it| it["name"] == wanted["name"]);
    let mut changed: Vec<String> = Vec::new();
    for wanted in items(installed, "webhooks") {
        let webhook = wanted["name"].as_str().unwrap_or_default();
        let pair = live(wanted).map(|live| (trustless(wanted), trustless(live)));
        let places = pair.map(|(wanted, live)| differences(&wanted, &live)).unwrap_or_default();
        changed.extend(places.into_iter().map(|place| format!("{webhook}: {place}")));
    }
    if changed.is_empty() {
        found.ok(Link::WebhookEdited, subject, "as the release brought it");
    } else {
        found.broken(Link::WebhookEdited, subject, changed.join("; "));
    }
}

/// Without the one field that others fill in.
fn trustless(webhook: &Value) -> Value {
    let mut webhook = webhook.clone();
    if let Some(client) = webhook["clientConfig"].as_object_mut() {
        client.shift_remove("caBundle");
    }
    webhook
}

fn is_believed(ours: &Value, secret: &Seen<Option<Value>>, now: SystemTime, found: &mut Findings) {
    let Some(certificate) = served(secret, Link::CaBundle, found) else { return };
    for webhook in items(ours, "webhooks") {
        let client = &webhook["clientConfig"];
        let subject = webhook["name"].as_str().unwrap_or_default();
        let bundle = text(&client["caBundle"]);
        let service = &client["service"];
        let (Some(service), Some(namespace)) =
            (service["name"].as_str(), service["namespace"].as_str())
        else {
            found.unseen(Link::CaBundle, subject, "is not called by a service, but by a URL");
            continue;
        };
        let host = format!("{service}.{namespace}.svc");
        match certificates::trust(&bundle, &certificate, &host, now) {
            Ok(_) => found.ok(Link::CaBundle, subject, format!("trusts what {host} serves")),
            Err(unknown @ Distrust::AuthorityServed) => {
                found.unseen(Link::CaBundle, subject, format!("{unknown} ({host})"));
            }
            Err(distrust) => {
                found.broken(Link::CaBundle, subject, format!("{distrust} ({host})"));
            }
        }
    }
}

fn certificate_lasts(secret: &Seen<Option<Value>>, now: SystemTime, found: &mut Findings) {
    let Some(certificate) = served(secret, Link::Certificate, found) else { return };
    let stored = certificates::Stored { certificate, ..certificates::Stored::default() };
    let (Some(ends), Some(life)) = (stored.certificate_ends(), stored.certificate_life()) else {
        found.broken(Link::Certificate, CERTIFICATE, "there is none, or none that can be read");
        return;
    };
    let ahead = ends.checked_sub(life).and_then(|begins| begins.duration_since(now).ok());
    if let Some(ahead) = ahead.filter(|ahead| !ahead.is_zero()) {
        found.broken(Link::Certificate, CERTIFICATE, format!("begins in {}", span(ahead)));
        return;
    }
    match ends.duration_since(now) {
        Ok(left) if left >= OVERDUE.min(life * 3 / 10) => {
            found.ok(Link::Certificate, CERTIFICATE, format!("ends in {}", span(left)));
        }
        Ok(left) => found.broken(
            Link::Certificate,
            CERTIFICATE,
            format!("ends in {}, and should have been renewed", span(left)),
        ),
        Err(ended) => found.broken(
            Link::Certificate,
            CERTIFICATE,
            format!("ended {} ago", span(ended.duration())),
        ),
    }
}

/// The certificate that pods show once the kubelet has brought it, as PEM. A Secret that is not
/// there serves an empty one.
fn served(secret: &Seen<Option<Value>>, link: Link, found: &mut Findings) -> Option<String> {
    let secret = secret.or_tell(link, CERTIFICATE, found)?;
    Some(secret.as_ref().map(|secret| text(&secret["data"][CERTIFICATE_KEY])).unwrap_or_default())
}

fn answers(slices: &[Value], found: &mut Findings) {
    let ready = slices
        .iter()
        .flat_map(|slice| items(slice, "endpoints"))
        // None is to be taken for ready.
        // https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#ready
        .filter(|endpoint| endpoint["conditions"]["ready"] != false)
        .count();
    match ready {
        0 => found.broken(Link::Endpoints, "service of the webhook", "no endpoint is ready"),
        _ => found.ok(Link::Endpoints, "service of the webhook", format!("{ready} are ready")),
    }
}

/// A field that holds bytes.
fn text(field: &Value) -> String {
    let bytes = field.as_str().and_then(|field| STANDARD.decode(field).ok());
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// For people.
fn span(time: Duration) -> String {
    match time.as_secs() / 3600 {
        hours @ ..48 => format!("{hours} hours"),
        hours => format!("{} days", hours / 24),
    }
}

/// Whatever the release is called: the order is one of names.
pub const CONFIGURATION: &str = "fab-session-injector";
const WEBHOOKS: [&str; 2] = ["enabled.session.fab.nanohype.dev", "audit.session.fab.nanohype.dev"];
/// The configuration of EKS's own webhook, which gives pods base credentials.
/// <https://github.com/aws/amazon-eks-pod-identity-webhook>
const EKS: &str = "pod-identity-webhook";
const SUBJECT: &str = "webhook configuration";
const CERTIFICATE: &str = "serving certificate";
const CERTIFICATE_KEY: &str = "tls.crt";
/// Each mode renews earlier: docs/certificates.md. Of a short life it is three tenths.
const OVERDUE: Duration = Duration::from_secs(9 * 86_400);
pub(super) const NOT_SAID: &str =
    "nothing says how the release brought it (the chart's ConfigMap whose name ends in -installed)";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        certificates::{Published, Step, Stored, plan},
        check::Level,
    };

    /// As the certs deployment makes it at this time.
    fn secret(made_at: SystemTime) -> Value {
        let mut stored = Stored::default();
        let mut published = Published { bundles: vec![String::new()], since: Some(made_at) };
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
    fn a_certificate_holds_from_its_beginning_to_its_end() {
        let made_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let hour = Duration::from_secs(3600);
        // It is backdated by an hour, and lives for 30 days.
        let cases = [
            (made_at, Level::Ok, "ends in 30 days"),
            (made_at - hour, Level::Ok, "ends in 30 days"),
            (made_at - 5 * hour, Level::Broken, "begins in 4 hours"),
            (made_at - 100 * hour, Level::Broken, "begins in 4 days"),
            (made_at + 25 * 24 * hour, Level::Broken, "ends in 5 days, and should have been"),
            (made_at + 31 * 24 * hour, Level::Broken, "ended 24 hours ago"),
        ];
        let secret = Seen::Known(Some(secret(made_at)));
        for (now, level, begins) in cases {
            let mut found = Findings::default();
            certificate_lasts(&secret, now, &mut found);
            let [finding] = found.iter().collect::<Vec<_>>()[..] else { panic!("{found:?}") };
            assert!(finding.level == level && finding.says.starts_with(begins), "{finding}");
        }
    }
}
