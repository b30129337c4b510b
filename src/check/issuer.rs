//! Checks what the session issuer needs outside of its pods: its published files, its provider in
//! IAM, and the guard's rule about its tokens.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::{CheckId, Findings, Objects, Seen, namespace, objects::name};
use crate::{
    admission::{has_ended, sidecar_variable},
    config::{Config, IssuerSettings, KeyState},
    issuer::{
        CallerPod, GuardRule, PublicKey, PublishedKeys, TokenFacts, TokenRefusal, decide,
        discovery_url, keys_url, problems_of_discovery,
    },
    json::Json,
    namespaces::{Mode, Namespace},
    roles::{Roles, Source},
    session::{CaBundle, env::ISSUER_CA},
};

/// What the issuer publishes, and its keys.
#[derive(Debug)]
pub struct IssuerFacts {
    pub discovery: PublishedText,
    pub keys: PublishedText,
    /// The public half of each key, in the order of the config.
    pub own: Vec<Seen<PublicKey>>,
}

/// A published file, read at its public URL.
#[derive(Debug)]
pub enum PublishedText {
    File(Vec<u8>),
    /// The server has not answered; with the reason.
    NoAnswer(String),
    /// The server has answered without the file; with its answer.
    Refused(String),
}

/// The client IDs of IAM OIDC providers, by ARN. None: there is no such provider.
pub type Providers = BTreeMap<String, Seen<Option<Vec<String>>>>;

impl PublishedText {
    fn or_report(&self, url: &str, found: &mut Findings) -> Option<&[u8]> {
        match self {
            Self::File(text) => return Some(text),
            Self::NoAnswer(why) => found.unreachable(
                CheckId::IssuerFiles,
                url,
                format!("cannot be read from here, and perhaps not by STS: {why}"),
            ),
            Self::Refused(why) => {
                found.error(CheckId::IssuerFiles, url, format!("cannot be read: {why}"));
            }
        }
        None
    }
}

/// Checks the published files as STS reads them.
pub(super) fn check_files(config: &Config, facts: Option<&IssuerFacts>) -> Findings {
    let mut found = Findings::default();
    let (Some(issuer), Some(facts)) = (&config.issuer, facts) else { return found };
    check_discovery(issuer, &facts.discovery, &mut found);
    check_keys(issuer, facts, &mut found);
    found
}

fn check_discovery(issuer: &IssuerSettings, published: &PublishedText, found: &mut Findings) {
    let url = discovery_url(&issuer.url);
    let Some(text) = published.or_report(&url, found) else { return };
    let problems = problems_of_discovery(&issuer.url, text);
    let right = problems.is_empty();
    for problem in problems {
        found.error(CheckId::IssuerFiles, &*url, problem);
    }
    if right {
        found.ok(CheckId::IssuerFiles, url, "names the issuer and its keys");
    }
}

fn check_keys(issuer: &IssuerSettings, facts: &IssuerFacts, found: &mut Findings) {
    let url = keys_url(&issuer.url);
    let Some(text) = facts.keys.or_report(&url, found) else { return };
    let published = match PublishedKeys::parse(text) {
        Ok(published) => published,
        Err(error) => {
            found.error(CheckId::IssuerFiles, url, error.to_string());
            return;
        }
    };
    let mut right = true;
    let mut known = Vec::new();
    for (index, (key, own)) in issuer.keys.iter().zip(&facts.own).enumerate() {
        let place = format!("issuer.keys[{index}]");
        let own = match own {
            Seen::Known(own) => own,
            Seen::Hidden(why) => {
                right = false;
                let message = format!("not compared with {place}: {why}");
                found.unknown(CheckId::IssuerFiles, &*url, message);
                continue;
            }
        };
        known.push(own.clone());
        let id = own.id();
        let message = match published.has(own) {
            Ok(true) => continue,
            Ok(false) => format!("lacks the key of {place} (kid {id})"),
            Err(why) => format!("STS does not accept the key of {place} (kid {id}): {why}"),
        };
        right = false;
        match key.state {
            KeyState::Signing => found.error(CheckId::IssuerFiles, &*url, message),
            KeyState::Next | KeyState::Old => {
                found.warning(CheckId::IssuerFiles, &*url, message);
            }
        }
    }
    // Each key of the config that is not known may be one of the others.
    let others = published.foreign(&known);
    if others.len() > issuer.keys.len() - known.len() {
        right = false;
        let ids: Vec<&str> = others.iter().map(|it| it.id.as_deref().unwrap_or("none")).collect();
        let message = format!(
            "has a key that is none of the config's: its owner can name any session of any tenant. Keys that are not known here (kid): {}",
            ids.join(", ")
        );
        found.error(CheckId::IssuerFiles, &*url, message);
    }
    if right {
        found.ok(CheckId::IssuerFiles, url, "has the keys of the config and no other");
    }
}

/// Checks the IAM OIDC providers of the accounts of session roles.
pub(super) fn check_providers(issuer: &IssuerSettings, providers: &Providers) -> Findings {
    let mut found = Findings::default();
    let client_id = issuer.client_id.as_str();
    for (arn, provider) in providers {
        match provider.or_report(CheckId::IssuerProvider, arn, &mut found) {
            None => {}
            Some(None) => found.error(CheckId::IssuerProvider, arn, "does not exist"),
            Some(Some(ids)) if ids.iter().any(|id| id == client_id) => {
                found.ok(CheckId::IssuerProvider, arn, format!("has the client ID {client_id}"));
            }
            Some(Some(_)) => {
                let message = format!("lacks the client ID {client_id}");
                found.error(CheckId::IssuerProvider, arn, message);
            }
        }
    }
    found
}

/// Checks whether the guard's rule about the issuer's tokens is bound. Returns since when.
pub(super) fn check_guard(
    objects: &Seen<Objects>,
    config: &Config,
) -> (Option<Timestamp>, Findings) {
    let mut found = Findings::default();
    let Some(issuer) = &config.issuer else {
        return (None, found);
    };
    let rule = GuardRule::of_audience(&issuer.audience);
    let subject = format!("ValidatingAdmissionPolicyBinding {}", rule.binding);
    let Some(objects) = objects.or_report(CheckId::IssuerGuard, &subject, &mut found) else {
        return (None, found);
    };
    let since = rule_since(&rule, objects);
    match since {
        Some(since) => found.ok(CheckId::IssuerGuard, subject, format!("denies since {since}")),
        None if binding_of(&rule, objects).is_none() => {
            found.error(CheckId::IssuerGuard, subject, "does not exist");
        }
        None => found.error(CheckId::IssuerGuard, subject, "does not deny in all namespaces"),
    }
    (since, found)
}

/// Returns since when the rule denies, by the objects of the cluster. None: it does not.
pub(super) fn rule_since(rule: &GuardRule, objects: &Objects) -> Option<Timestamp> {
    let mut policies = objects.of_kind("ValidatingAdmissionPolicy");
    let policy = policies.find(|it| name(*it) == rule.policy)?;
    rule.since(policy, binding_of(rule, objects)?)
}

fn binding_of<'o>(rule: &GuardRule, objects: &'o Objects) -> Option<Json<'o>> {
    objects.of_kind("ValidatingAdmissionPolicyBinding").find(|it| name(*it) == rule.binding)
}

/// Checks whether running pods name their session and are older than the guard's rule.
pub(super) fn check_pods(
    namespace: &Namespace,
    pods: &Seen<Objects>,
    guard_since: Option<Timestamp>,
    config: &Config,
) -> Findings {
    let mut found = Findings::default();
    let (Some(issuer), Some(_), Some(Mode::Enabled), Ok(tenant)) =
        (&config.issuer, guard_since, namespace.mode, &namespace.tenant)
    else {
        return found;
    };
    // The session is decided before the role.
    let roles = Roles::new(Source::None, HashMap::new());
    for pod in pods.iter() {
        let Some(facts) = TokenFacts::of_pod(pod) else { continue };
        let decided = CallerPod::of(&facts, Some(pod), issuer)
            .and_then(|pod| decide(&facts, tenant, &pod, &roles, guard_since, None));
        if let Err(refusal @ TokenRefusal::PredatesGuard { .. }) = decided {
            let subject = format!("pod {}/{}", namespace.name, facts.pod_name);
            found.denied(CheckId::PodPredatesGuard, subject, &refusal);
        }
    }
    let is_fine = found.iter().next().is_none();
    if is_fine && matches!(pods, Seen::Known(_)) {
        let message = "no running pod has a session name from before the guard";
        found.ok(CheckId::PodPredatesGuard, namespace::subject(namespace), message);
    }
    found
}

/// Checks whether running pods trust each CA of the issuer's endpoint in the config.
pub(super) fn check_ca(namespace: &Namespace, pods: &Seen<Objects>, config: &Config) -> Findings {
    let mut found = Findings::default();
    let Some(wanted) = config.issuer.as_ref().and_then(|issuer| issuer.ca.known()) else {
        return found;
    };
    let mut is_fine = true;
    let mut has_pods = false;
    for pod in pods.iter().filter(|pod| !has_ended(*pod)) {
        let Some(own) = ca_of(pod) else { continue };
        has_pods = true;
        if !own.contains(wanted) {
            is_fine = false;
            let subject = format!("pod {}/{}", namespace.name, name(pod));
            let message = "its sidecar does not have each CA certificate of issuer.caBundle";
            found.warning(CheckId::IssuerCa, subject, message);
        }
    }
    if is_fine && has_pods {
        let message = "each running pod has the CA certificates of issuer.caBundle";
        found.ok(CheckId::IssuerCa, namespace::subject(namespace), message);
    }
    found
}

/// Returns the CA certificates that the sidecar has for the issuer.
fn ca_of(pod: Json<'_>) -> Option<CaBundle> {
    sidecar_variable(pod, ISSUER_CA)?.at("value").string()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::issuer::{discovery_document, jwks_document};

    /// The key of RFC 7517, A.1, and that of RFC 7515, A.3.
    fn keys() -> [PublicKey; 2] {
        let key = |x, y| PublicKey::from_coordinates(x, y).unwrap();
        [
            key(
                "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
            ),
            key(
                "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            ),
        ]
    }

    fn file(document: &Value) -> PublishedText {
        PublishedText::File(document.to_string().into_bytes())
    }

    #[test]
    fn published_files_are_compared_with_the_config() {
        let config = Config::parse(
            "cluster: prod\nroles: {allow: {accounts: ['111122223333']}}\nissuer: {url: 'https://i.example.com', endpoint: 'https://i.s.svc/v1/token', caFile: ca.pem, keys: [{file: a}, {file: b, state: next}]}\n",
        );
        let config = config.unwrap();
        let issuer = config.issuer.clone().unwrap();
        let [signing, next] = keys();
        let both = || jwks_document(&[signing.clone(), next.clone()]);
        let one = |key: &PublicKey| jwks_document(std::slice::from_ref(key));
        let own = |key: &PublicKey| Seen::Known(key.clone());
        let hidden = || Seen::Hidden("KMS did not answer".to_owned());
        let mut with_foreign = both();
        with_foreign["keys"].as_array_mut().unwrap().push(json!({"kid": "theirs", "kty": "RSA"}));
        let mut with_operations = both();
        with_operations["keys"][0]["key_ops"] = json!(["verify"]);
        let is_foreign = "error has a key that is none of the config's: its owner can name any session of any tenant. Keys that are not known here (kid): theirs";
        let cases = [
            (file(&both()), [own(&signing), own(&next)], vec![]),
            (
                file(&one(&next)),
                [own(&signing), own(&next)],
                vec!["error lacks the key of issuer.keys[0] (kid cn-I_"],
            ),
            (
                file(&one(&signing)),
                [own(&signing), own(&next)],
                vec!["warning lacks the key of issuer.keys[1] (kid "],
            ),
            (file(&with_foreign), [own(&signing), own(&next)], vec![is_foreign]),
            (
                file(&with_operations),
                [own(&signing), own(&next)],
                vec![
                    "error STS does not accept the key of issuer.keys[0] (kid cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s): it has key_ops",
                ],
            ),
            // One of the two others may be the hidden key.
            (
                file(&both()),
                [own(&signing), hidden()],
                vec!["unknown not compared with issuer.keys[1]: KMS did not answer"],
            ),
            (
                file(&with_foreign),
                [hidden(), own(&next)],
                vec![
                    "unknown not compared with issuer.keys[0]",
                    "error has a key that is none of the config's",
                ],
            ),
            (
                PublishedText::File(b"<html>".to_vec()),
                [own(&signing), own(&next)],
                vec!["error it is not a JSON object with a list of keys"],
            ),
            (
                PublishedText::Refused("HTTP 403".to_owned()),
                [own(&signing), own(&next)],
                vec!["error cannot be read: HTTP 403"],
            ),
            (
                PublishedText::NoAnswer("no response in time".to_owned()),
                [own(&signing), own(&next)],
                vec![
                    "unknown cannot be read from here, and perhaps not by STS: no response in time",
                ],
            ),
        ];
        let discovery = || file(&discovery_document(&issuer.url));
        let shown = |facts: &IssuerFacts| -> Vec<String> {
            let found = check_files(&config, Some(facts));
            let wrong = found.iter().filter(|it| it.level != crate::check::Level::Ok);
            wrong.map(|it| format!("{} {}", it.level, it.message)).collect()
        };
        for (index, (keys, own, want)) in cases.into_iter().enumerate() {
            let found = shown(&IssuerFacts { discovery: discovery(), keys, own: own.to_vec() });
            assert_eq!(found.len(), want.len(), "{index}: {found:#?}");
            for (message, begins) in found.iter().zip(want) {
                assert!(message.starts_with(begins), "{index}: {message}\nwant {begins}");
            }
        }
        let mut elsewhere = discovery_document(&issuer.url);
        elsewhere["issuer"] = json!("https://i.example.com/");
        elsewhere.as_object_mut().unwrap().shift_remove("jwks_uri");
        let own = vec![own(&signing), own(&next)];
        let found = shown(&IssuerFacts { discovery: file(&elsewhere), keys: file(&both()), own });
        assert_eq!(
            found,
            [
                "error its member issuer is \"https://i.example.com/\", not \"https://i.example.com\"",
                "error its member jwks_uri is missing, not \"https://i.example.com/keys.json\"",
            ]
        );
    }
}
