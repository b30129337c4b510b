//! The environment variables from which the sidecar gets base credentials: the webhook writes them,
//! the sidecar reads them. The names are those of the AWS SDKs.
//! <https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html>

use super::env::{Value, Variable};

/// The source of base credentials, one of three. The environment variables select it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BaseSource {
    /// Static keys in the environment, set by the platform team (test clusters).
    Environment,
    /// EKS Pod Identity: the container endpoint with its token file.
    PodIdentity { uri: String, token_file: String },
    /// IAM roles for service accounts: a web identity token file and a role.
    WebIdentity { role: String, token_file: String },
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotABaseSource {
    #[error(
        "no source of base credentials is set: set {URI} with {TOKEN_FILE}, or {WEB_IDENTITY_FILE} with {WEB_IDENTITY_ROLE}, or {ACCESS_KEY}"
    )]
    Absent,
    #[error("{0} is set, but {1} is not; set both")]
    Half(&'static str, &'static str),
    #[error("{0} and {1} are both set; unset one of them")]
    Two(&'static str, &'static str),
}

impl BaseSource {
    pub fn variables(&self) -> Vec<Variable> {
        let text = |name, value: &str| Variable { name, value: Value::Text(value.to_owned()) };
        match self {
            Self::Environment => Vec::new(),
            Self::PodIdentity { uri, token_file } => {
                vec![text(URI, uri), text(TOKEN_FILE, token_file)]
            }
            Self::WebIdentity { role, token_file } => {
                vec![text(WEB_IDENTITY_ROLE, role), text(WEB_IDENTITY_FILE, token_file)]
            }
        }
    }

    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, NotABaseSource> {
        let half = |has, lacks| variable(lacks).ok_or(NotABaseSource::Half(has, lacks));
        match (variable(URI), variable(WEB_IDENTITY_FILE)) {
            (Some(_), Some(_)) => Err(NotABaseSource::Two(URI, WEB_IDENTITY_FILE)),
            (Some(uri), None) => Ok(Self::PodIdentity { uri, token_file: half(URI, TOKEN_FILE)? }),
            (None, Some(token_file)) => Ok(Self::WebIdentity {
                role: half(WEB_IDENTITY_FILE, WEB_IDENTITY_ROLE)?,
                token_file,
            }),
            (None, None) if variable(ACCESS_KEY).is_some() => Ok(Self::Environment),
            (None, None) => Err(NotABaseSource::Absent),
        }
    }
}

const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
/// This variable and the next name the endpoint for agents, too.
pub const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
pub const URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
pub const WEB_IDENTITY_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
pub const WEB_IDENTITY_ROLE: &str = "AWS_ROLE_ARN";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<BaseSource, NotABaseSource> {
        BaseSource::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn pod_identity() -> BaseSource {
        BaseSource::PodIdentity { uri: "http://169.254.170.23/v1".into(), token_file: "/t".into() }
    }

    fn web_identity() -> BaseSource {
        BaseSource::WebIdentity { role: "r".into(), token_file: "/t".into() }
    }

    #[test]
    fn the_sidecar_reads_what_the_webhook_writes() {
        for base in [pod_identity(), web_identity()] {
            let written = base.variables();
            let written: Vec<(&str, &str)> = written
                .iter()
                .map(|Variable { name, value }| match value {
                    Value::Text(text) => (*name, text.as_str()),
                    Value::Field(field) => panic!("{name} is the field {field}"),
                })
                .collect();
            assert_eq!(read(&written), Ok(base));
            for (name, _) in &written {
                let lacks: Vec<_> = written.iter().copied().filter(|(it, _)| it != name).collect();
                assert!(read(&lacks).is_err(), "without {name}");
            }
        }
        assert_eq!(BaseSource::Environment.variables(), []);
        assert_eq!(read(&[(ACCESS_KEY, "AKIA")]), Ok(BaseSource::Environment));
    }

    #[test]
    fn exactly_one_credential_source_is_accepted() {
        let endpoint = (URI, "http://169.254.170.23/v1");
        // Static keys are ignored if the webhook wrote another source.
        let keys = [(ACCESS_KEY, "AKIA"), endpoint, (TOKEN_FILE, "/t")];
        assert_eq!(read(&keys), Ok(pod_identity()));
        assert_eq!(read(&[endpoint]), Err(NotABaseSource::Half(URI, TOKEN_FILE)));
        let both = [endpoint, (WEB_IDENTITY_FILE, "/t")];
        assert_eq!(read(&both), Err(NotABaseSource::Two(URI, WEB_IDENTITY_FILE)));
        assert_eq!(read(&[]), Err(NotABaseSource::Absent));
    }
}
