//! How sidecars get session credentials, and the session issuer.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::{
    BaseCredentials,
    component::{Component, SessionSource},
    reader::Section,
    roles::Allowed,
};
use crate::session::{CaBundle, ClientId, IssuerEndpoint, IssuerUrl};

/// How a sidecar gets session credentials.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum SessionTransport {
    /// With base credentials of the pod's service account, it assumes the session role.
    #[default]
    RoleChain,
    /// With a token of the session issuer, and without base credentials.
    WebIdentity,
}

/// Where a sidecar gets session credentials from.
#[derive(Clone, Copy, Debug)]
pub enum CredentialSource<'c> {
    Base(&'c BaseCredentials),
    Issuer(&'c IssuerSettings),
}

/// The session issuer of this cluster.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// The claim `iss`: the URL of the IAM OIDC provider.
    pub url: IssuerUrl,
    /// The claim `aud`: a client ID of the IAM OIDC provider.
    pub client_id: ClientId,
    /// The audience of the token by which a pod proves itself to the issuer.
    pub audience: String,
    /// Where sidecars call the issuer.
    pub endpoint: IssuerEndpoint,
    /// The CA certificates that sidecars trust for [`Self::endpoint`].
    pub ca: IssuerCa,
    /// Lifetime of session credentials.
    pub duration: Duration,
    pub keys: Vec<IssuerKey>,
    /// Whether a trusted creator's annotation becomes a session tag.
    pub on_behalf_of: bool,
}

/// The CA certificates of the issuer's endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IssuerCa {
    /// A file, which the webhook reads once, at its start.
    File(PathBuf),
    Known(CaBundle),
}

/// A key of the issuer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerKey {
    pub source: KeySource,
    pub state: KeyState,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    /// PKCS #8 in PEM, of an elliptic curve key on P-256.
    File(PathBuf),
    Kms(KeyArn),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyState {
    /// Published, because tokens that it signed may still be valid.
    Old,
    /// Published, so that it can sign later.
    Next,
    /// Published, and signs. Exactly one key has this state.
    Signing,
}

/// The ARN of a KMS key. An alias is not accepted, because it can be moved to another key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyArn(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not the ARN of a KMS key: expected arn:PARTITION:kms:REGION:ACCOUNT:key/ID, no alias and no multi-Region key (mrk-)"
)]
pub struct NotAKeyArn;

impl IssuerSettings {
    /// Reads the section, or returns `None` without one.
    pub(super) fn read(
        root: &mut Section<'_>,
        cluster: &str,
        allowed: &Allowed,
        components: &[Component],
    ) -> Option<Self> {
        let mut section = root.optional_section("issuer")?;
        for key in ["url", "endpoint"] {
            if !section.has(key) {
                section.problem(key, "is required; set it");
            }
        }
        let url: Option<IssuerUrl> = section.optional("url");
        let endpoint: Option<IssuerEndpoint> = section.optional("endpoint");
        let name = |section: &mut Section<'_>, key: &str, prefix: &str| -> Option<ClientId> {
            if cluster.is_empty() && !section.has(key) {
                section.problem(
                    key,
                    "contains the config's key cluster by default, which is empty; set one of them",
                );
                return None;
            }
            let given: Option<ClientId> = section.optional(key);
            given.or_else(|| format!("{prefix}{cluster}").parse().ok())
        };
        let client_id = name(&mut section, "clientId", "fab-session/");
        let audience = name(&mut section, "audience", "fab-session-issuer.");
        if let (Some(client_id), Some(audience)) = (&client_id, &audience)
            && (client_id == audience || FOREIGN_AUDIENCES.contains(&audience.as_str()))
        {
            section.problem(
                "audience",
                "is the audience of other tokens, which the issuer would then receive; set one that only this issuer has, such as fab-session-issuer.prod",
            );
        }
        let ca = IssuerCa::read(&mut section);
        let duration = Duration::from_secs(section.number("durationSeconds", 3600, 900..=43_200));
        let keys = IssuerKey::read_all(&mut section);
        let on_behalf_of = section.truth("onBehalfOf");
        if allowed.accounts.is_empty() {
            root.problem(
                "roles.allow.accounts",
                "is empty. With a session issuer it must list the accounts of the session roles: STS checks no policy of the cluster's account, so a user that writes a role's parameter could send sessions to any account",
            );
        }
        for component in components {
            if component.session == SessionSource::PodName {
                root.problem(
                    "components",
                    format!(
                        "{} has session: pod-name, which a session issuer does not accept because tenants choose it; use pod-uid or creator-or-uid",
                        component.name
                    ),
                );
            }
        }
        section.close();
        let (url, client_id, audience) = (url?, client_id?, audience?.to_string());
        let (endpoint, ca) = (endpoint?, ca?);
        Some(Self { url, client_id, audience, endpoint, ca, duration, keys, on_behalf_of })
    }
}

impl IssuerCa {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let is_set = section.has("caBundle");
        let file: Option<PathBuf> = section.optional("caFile");
        let bundle: Option<CaBundle> = section.optional("caBundle");
        match (file, bundle) {
            (Some(_), Some(_)) => {
                section.problem("caFile", "and caBundle are both set; remove one");
                None
            }
            (Some(file), None) => Some(Self::File(file)),
            (None, Some(bundle)) => Some(Self::Known(bundle)),
            (None, None) => {
                if !is_set {
                    section.problem("caBundle", "is required, or caFile; set one");
                }
                None
            }
        }
    }

    /// Returns the certificates, if they are known.
    pub fn known(&self) -> Option<&CaBundle> {
        match self {
            Self::File(_) => None,
            Self::Known(bundle) => Some(bundle),
        }
    }
}

impl IssuerKey {
    fn read_all(section: &mut Section<'_>) -> Vec<Self> {
        let mut keys = Vec::new();
        let mut all_read = true;
        for mut key in section.sections("keys").unwrap_or_default() {
            let is_given = key.has("file") || key.has("kms");
            let file: Option<PathBuf> = key.optional("file");
            let kms: Option<KeyArn> = key.optional("kms");
            let state = key.choice("state", KeyState::Signing, STATES);
            let source = match (file, kms) {
                (Some(file), None) => Some(KeySource::File(file)),
                (None, Some(arn)) => Some(KeySource::Kms(arn)),
                (Some(_), Some(_)) => {
                    key.problem("", "has file and kms; remove one");
                    None
                }
                (None, None) => {
                    // A malformed one is a problem already.
                    if !is_given {
                        key.problem("", "has no source; set file or kms");
                    }
                    None
                }
            };
            key.close();
            all_read &= source.is_some();
            keys.extend(source.map(|source| Self { source, state }));
        }
        let signing = keys.iter().filter(|key| key.state == KeyState::Signing).count();
        if all_read && signing != 1 {
            section.problem(
                "keys",
                format!(
                    "{signing} keys have the state signing, which a key without a state has, too; exactly one must have it"
                ),
            );
        }
        if keys.len() > MOST_KEYS {
            section.problem(
                "keys",
                format!("has {} keys; at most {MOST_KEYS} are allowed", keys.len()),
            );
        }
        keys
    }
}

impl SessionTransport {
    /// Returns the transport of a value of the namespace label.
    pub fn of_label(value: &str) -> Option<Self> {
        LABEL_VALUES.iter().find(|(name, _)| *name == value).map(|&(_, transport)| transport)
    }
}

/// Writes the value of the namespace label.
impl fmt::Display for SessionTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoleChain => "role-chain",
            Self::WebIdentity => "web-identity",
        })
    }
}

impl KeyArn {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the region of the key.
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// <https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN>
impl FromStr for KeyArn {
    type Err = NotAKeyArn;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = s.split(':').collect();
        let [arn, partition, service, region, account, resource] = *parts else {
            return Err(NotAKeyArn);
        };
        let id = resource.strip_prefix("key/").ok_or(NotAKeyArn)?;
        let is_plain = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        let is_valid = arn == "arn"
            && service == "kms"
            && crate::session::is_account_id(account)
            && [partition, region, id].into_iter().all(is_plain)
            && !id.starts_with("mrk-");
        if is_valid { Ok(Self(s.to_owned())) } else { Err(NotAKeyArn) }
    }
}

/// Audiences of tokens that pods send to others.
const FOREIGN_AUDIENCES: [&str; 2] = ["https://kubernetes.default.svc", "pods.eks.amazonaws.com"];
/// Maximum number of keys. STS accepts 100 of a kind; a rotation needs three.
const MOST_KEYS: usize = 10;
const STATES: &[(&str, KeyState)] =
    &[("signing", KeyState::Signing), ("next", KeyState::Next), ("old", KeyState::Old)];
pub(super) const TRANSPORTS: &[(&str, SessionTransport)] =
    &[("roleChain", SessionTransport::RoleChain), ("webIdentity", SessionTransport::WebIdentity)];
const LABEL_VALUES: &[(&str, SessionTransport)] =
    &[("role-chain", SessionTransport::RoleChain), ("web-identity", SessionTransport::WebIdentity)];
