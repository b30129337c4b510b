//! IAM OIDC providers, and the files that their issuers publish. STS reads the files at each call.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html>

use std::{fmt, sync::Arc};

use serde_json::{Value, json};

use crate::{arn::is_account, tokens::KeySet};

/// A description of an IAM OIDC provider. [`crate::Aws::new`] returns its errors.
#[derive(Clone, Debug)]
pub struct Provider {
    account: Option<String>,
    url: String,
    client_ids: Vec<String>,
    files: Option<Files>,
}

/// The reason why STS cannot read what an issuer publishes.
///
/// AWS documents both errors for an issuer that STS cannot reach, so a test chooses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outage {
    /// A file does not exist, or is late. The error is InvalidIdentityToken, "Couldn't retrieve
    /// verification key from your identity provider".
    /// <https://repost.aws/knowledge-center/iam-sts-invalididentitytoken>
    Missing,
    /// No connection. The error is IDPCommunicationError.
    /// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html#API_AssumeRoleWithWebIdentity_Errors>
    Unreachable,
}

/// The rule of IAM that a provider violates.
#[derive(Debug, thiserror::Error)]
pub enum NotAProvider {
    #[error("{0:?} is not an account ID; an account ID has 12 digits")]
    Account(String),
    #[error("a client ID has 1 to 255 characters; found {0:?}")]
    ClientId(String),
    #[error("it has {0} client IDs; IAM accepts 1 to 100")]
    ClientIds(usize),
    #[error(
        "its client ID is sts.amazonaws.com, which is the audience of every workload's token: \
         give the issuer a client ID of its own"
    )]
    SharedClientId,
    #[error("its URL {0}")]
    Url(&'static str),
}

/// A provider with a valid URL.
#[derive(Debug)]
pub(crate) struct StandingProvider {
    pub(crate) account: String,
    pub(crate) url: String,
    pub(crate) client_ids: Vec<String>,
}

/// What is published at the URL of an issuer.
#[derive(Clone, Debug)]
pub(crate) enum Publication {
    Documents { discovery: Value, jwks: Value },
    Files(Files),
    None(Outage),
}

/// Returns the content of a file below the URL of the issuer.
#[derive(Clone)]
pub(crate) struct Files(Arc<Read>);

type Read = dyn Fn(&str) -> Result<Vec<u8>, Outage> + Send + Sync;

/// The content of the files of an issuer.
#[derive(Debug)]
pub(crate) struct Published {
    /// Algorithms of signatures that the discovery document announces.
    pub(crate) algorithms: Vec<String>,
    pub(crate) keys: KeySet,
}

impl Provider {
    /// Takes the URL as in the claim `iss`. Nothing is published there until
    /// [`crate::Aws::publish`] is called.
    pub fn new<T: Into<String>>(
        url: impl Into<String>,
        client_ids: impl IntoIterator<Item = T>,
    ) -> Self {
        let client_ids = client_ids.into_iter().map(Into::into).collect();
        Self { account: None, url: url.into(), client_ids, files: None }
    }

    /// Sets the account that has the provider, instead of the account of the world.
    #[must_use]
    pub fn account(self, account: impl Into<String>) -> Self {
        Self { account: Some(account.into()), ..self }
    }

    /// Sets a function that reads a published file. Its argument is a path below the URL, such as
    /// `.well-known/openid-configuration`. STS reads two files in each call.
    #[must_use]
    pub fn files(
        self,
        read: impl Fn(&str) -> Result<Vec<u8>, Outage> + Send + Sync + 'static,
    ) -> Self {
        Self { files: Some(Files(Arc::new(read))), ..self }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn stand(
        self,
        account: &str,
    ) -> Result<(StandingProvider, Publication), NotAProvider> {
        let Self { account: own, url, client_ids, files } = self;
        let account = own.unwrap_or_else(|| account.to_owned());
        if !is_account(&account) {
            return Err(NotAProvider::Account(account));
        }
        check_url(&url)?;
        if !(1..=100).contains(&client_ids.len()) {
            return Err(NotAProvider::ClientIds(client_ids.len()));
        }
        if let Some(id) = client_ids.iter().find(|id| !(1..=255).contains(&id.chars().count())) {
            return Err(NotAProvider::ClientId(id.clone()));
        }
        if client_ids.iter().any(|id| id == STS) {
            return Err(NotAProvider::SharedClientId);
        }
        let publication = files.map_or(Publication::None(Outage::Missing), Publication::Files);
        Ok((StandingProvider { account, url, client_ids }, publication))
    }
}

impl StandingProvider {
    /// Returns the URL as in condition keys and in the ARN: without `https://`.
    pub(crate) fn name(&self) -> &str {
        self.url.strip_prefix("https://").unwrap_or(&self.url)
    }

    pub(crate) fn arn(&self) -> String {
        format!("arn:aws:iam::{}:oidc-provider/{}", self.account, self.name())
    }
}

impl Publication {
    /// Returns the documents of a cluster's issuer.
    pub(crate) fn of_cluster(issuer: &str, jwks: &Value) -> Self {
        let discovery = json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "claims_supported": ["sub", "iss"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256"],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
        });
        Self::Documents { discovery, jwks: jwks.clone() }
    }

    /// Returns what is published at `url`, or the reason why STS cannot use it.
    pub(crate) fn fetch(&self, url: &str) -> Result<Published, Outage> {
        match self {
            Self::None(outage) => Err(*outage),
            Self::Documents { discovery, jwks } => {
                let (algorithms, _) = check_discovery(discovery, url).ok_or(Outage::Missing)?;
                Published::of(algorithms, jwks)
            }
            Self::Files(files) => {
                let discovery = files.json(DISCOVERY_PATH)?;
                let (algorithms, jwks_uri) =
                    check_discovery(&discovery, url).ok_or(Outage::Missing)?;
                let path = jwks_uri.strip_prefix(url.trim_end_matches('/'));
                let path = path.and_then(|path| path.strip_prefix('/')).ok_or(Outage::Missing)?;
                Published::of(algorithms, &files.json(path)?)
            }
        }
    }
}

impl Published {
    fn of(algorithms: Vec<String>, jwks: &Value) -> Result<Self, Outage> {
        let keys = KeySet::read_as_sts(jwks).map_err(|_| Outage::Missing)?;
        Ok(Self { algorithms, keys })
    }
}

impl Files {
    fn json(&self, path: &str) -> Result<Value, Outage> {
        let Self(read) = self;
        serde_json::from_slice(&read(path)?).map_err(|_| Outage::Missing)
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Files")
    }
}

/// Checks the URL as IAM does: https, no port, no query.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateOpenIDConnectProvider.html>
fn check_url(url: &str) -> Result<(), NotAProvider> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Err(NotAProvider::Url("does not start with https://"));
    };
    let host = rest.split('/').next().unwrap_or_default();
    let why = if host.is_empty() {
        "has no host"
    } else if url.contains(['?', '#']) {
        "has a query or a fragment"
    } else if host.contains(':') {
        "has a port"
    } else if url.contains('@') || url.contains(char::is_whitespace) {
        "has a user or a space"
    } else if url.chars().count() > 255 {
        "is longer than 255 characters"
    } else if host.ends_with(".tokens.sts.global.api.aws") {
        // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound.html
        "is that of AWS's own tokens, which IAM refuses in the same partition"
    } else {
        return Ok(());
    };
    Err(NotAProvider::Url(why))
}

/// Returns the algorithms and the URL of the key set, if the document has all fields that IAM
/// requires. The issuer is equal to the URL, to the slash.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html#manage-oidc-provider-prerequisites>
fn check_discovery<'d>(discovery: &'d Value, url: &str) -> Option<(Vec<String>, &'d str)> {
    let texts = |name: &str| -> Option<Vec<String>> {
        let list = discovery.get(name)?.as_array()?.iter();
        list.map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let includes =
        |name: &str, wanted: &str| texts(name)?.iter().find(|it| *it == wanted).map(drop);
    (discovery.get("issuer")?.as_str()? == url).then_some(())?;
    includes("response_types_supported", "id_token")?;
    includes("subject_types_supported", "public")?;
    texts("claims_supported")?;
    let jwks_uri = discovery.get("jwks_uri")?.as_str()?;
    let host = jwks_uri.strip_prefix("https://")?.split('/').next()?;
    (!host.is_empty()).then_some(())?;
    Some((texts("id_token_signing_alg_values_supported")?, jwks_uri))
}

const DISCOVERY_PATH: &str = ".well-known/openid-configuration";

/// The audience of tokens that a workload presents to STS by default, such as those of IRSA.
pub(crate) const STS: &str = "sts.amazonaws.com";
