//! ARNs of roles and of their sessions.

use std::{fmt, str::FromStr};

/// `arn:aws:iam::111122223333:role/path/name`.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-arns>
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct RoleArn {
    text: String,
    account: String,
    name: String,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} is not a role ARN; expected arn:aws:iam::<account>:role/<path><name>")]
pub struct NotARoleArn(String);

impl RoleArn {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the account of the role.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Returns the name without the path, as it appears in the ARN of a session.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the ARN of a session of the role.
    pub(crate) fn session(&self, name: &str) -> String {
        format!("arn:aws:sts::{}:assumed-role/{}/{name}", self.account, self.name)
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl FromStr for RoleArn {
    type Err = NotARoleArn;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refused = || NotARoleArn(s.to_owned());
        let rest = s.strip_prefix("arn:aws:iam::").ok_or_else(refused)?;
        let (account, path) = rest.split_once(":role/").ok_or_else(refused)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let legal = path.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-/".contains(c));
        if !is_account(account) || name.is_empty() || !legal {
            return Err(refused());
        }
        Ok(Self { text: s.to_owned(), account: account.to_owned(), name: name.to_owned() })
    }
}

pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_arn_names_account_and_role() {
        let role: RoleArn = "arn:aws:iam::111122223333:role/tenants/acme-base".parse().unwrap();
        assert_eq!((role.account(), role.name()), ("111122223333", "acme-base"));
        assert_eq!(role.session("s"), "arn:aws:sts::111122223333:assumed-role/acme-base/s");
        for text in [
            "",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role/*",
            "arn:aws:iam::11112222333:role/a",
            "arn:aws:iam::111122223333:user/a",
        ] {
            assert!(text.parse::<RoleArn>().is_err(), "{text:?}");
        }
    }
}
