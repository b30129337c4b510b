//! The trust policy of a base role, for IAM roles for service accounts (IRSA).

use std::{fmt, str::FromStr};

use serde_json::{Value, json};

use super::{Account, policy};

/// The tokens that the base roles accept.
#[derive(Clone, Debug)]
pub struct BaseRoleTrust {
    pub issuer: OidcIssuer,
    /// The service accounts of the namespace.
    pub service_accounts: Vec<ServiceAccountPattern>,
}

/// The OIDC issuer of a cluster, without `https://`, as IAM names providers and condition keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OidcIssuer(String);

/// The name of a service account; `*` stands for any number of characters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceAccountPattern(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected the issuer of the cluster, such as https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"
)]
pub struct NotAnIssuer;

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected the name of a service account; it may contain *, but must not be only *")]
pub struct NotAServiceAccount;

/// Returns the trust policy of each base role. Null without [`BaseRoleTrust`].
pub(super) fn body(account: &Account) -> Value {
    let Some(BaseRoleTrust { issuer, service_accounts }) = &account.base_role_trust else {
        return Value::Null;
    };
    let subject = |name: &ServiceAccountPattern| {
        format!("system:serviceaccount:{}:{name}", account.namespace)
    };
    let subjects: Vec<String> = service_accounts.iter().map(subject).collect();
    let mut equal = json!({format!("{issuer}:aud"): "sts.amazonaws.com"});
    let key = format!("{issuer}:sub");
    let condition = if subjects.iter().any(|subject| subject.contains('*')) {
        json!({"StringEquals": equal, "StringLike": {key: subjects}})
    } else {
        equal[key] = json!(subjects);
        json!({"StringEquals": equal})
    };
    // The provider is in the role's account. All base roles have the same one.
    let role = account.base_roles.first();
    let (partition, owner) = role.map_or(("aws", account.cluster_account.as_str()), |role| {
        (role.partition(), role.account())
    });
    policy(&[json!({
        "Sid": "ServiceAccounts",
        "Effect": "Allow",
        "Principal": {"Federated": format!("arn:{partition}:iam::{owner}:oidc-provider/{issuer}")},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": condition,
    })])
}

impl fmt::Display for OidcIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ServiceAccountPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The length is that of a provider's ARN in IAM, less its other parts.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateOpenIDConnectProvider.html>
impl FromStr for OidcIssuer {
    type Err = NotAnIssuer;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let issuer = s.strip_prefix("https://").ok_or(NotAnIssuer)?;
        let valid = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        if issuer.is_empty()
            || issuer.len() > 255
            || issuer.starts_with('/')
            || issuer.ends_with('/')
            || !issuer.chars().all(valid)
        {
            return Err(NotAnIssuer);
        }
        Ok(Self(issuer.to_owned()))
    }
}

/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names>
impl FromStr for ServiceAccountPattern {
    type Err = NotAServiceAccount;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let valid = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.' | '*');
        if s.len() > 253 || !s.chars().all(valid) || s.chars().all(|c| c == '*') {
            return Err(NotAServiceAccount);
        }
        Ok(Self(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_named_without_its_scheme() {
        let issuer = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE";
        let parsed: OidcIssuer = format!("https://{issuer}").parse().unwrap();
        assert_eq!(parsed.to_string(), issuer);
        for text in
            ["", "https://", issuer, "http://a/b", "https://a/", "https:///a", "https://a b"]
        {
            assert_eq!(text.parse::<OidcIssuer>(), Err(NotAnIssuer), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_does_not_name_every_service_account() {
        for text in ["fab", "tenant-runtime-x-*", "a.b"] {
            assert_eq!(text.parse::<ServiceAccountPattern>().unwrap().to_string(), text);
        }
        for text in ["", "*", "**", "Fab", "a/b", "a?", "a:b"] {
            assert_eq!(text.parse::<ServiceAccountPattern>(), Err(NotAServiceAccount), "{text:?}");
        }
    }
}
