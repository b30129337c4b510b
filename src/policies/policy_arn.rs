use std::{fmt, str::FromStr};

use crate::session::is_account_id;

/// The ARN of a managed policy: `arn:<partition>:iam::<account>:policy/<name>`. Policies of AWS
/// have `aws` as their account.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyArn {
    text: String,
    partition: String,
    account: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected the ARN of a managed policy: arn:aws:iam::<account>:policy/<name>")]
pub struct NotAPolicyArn;

impl PolicyArn {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn partition(&self) -> &str {
        &self.partition
    }

    /// Returns the account id; None for a policy of AWS.
    pub(super) fn account(&self) -> Option<&str> {
        Some(&*self.account).filter(|account| *account != AWS)
    }
}

impl fmt::Display for PolicyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for PolicyArn {
    type Err = NotAPolicyArn;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let rest = s.strip_prefix("arn:").ok_or(NotAPolicyArn)?;
        let (partition, rest) = rest.split_once(":iam::").ok_or(NotAPolicyArn)?;
        let (account, name) = rest.split_once(":policy/").ok_or(NotAPolicyArn)?;
        let is_partition =
            partition.starts_with("aws") && partition.chars().all(|c| matches!(c, 'a'..='z' | '-'));
        let is_account = account == AWS || is_account_id(account);
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_+=,.@/-".contains(c);
        let is_named = !name.is_empty() && !name.ends_with('/') && name.chars().all(is_name);
        if !is_partition || !is_account || !is_named {
            return Err(NotAPolicyArn);
        }
        Ok(Self {
            text: s.to_owned(),
            partition: partition.to_owned(),
            account: account.to_owned(),
        })
    }
}

const AWS: &str = "aws";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_arn_of_a_managed_policy_is_valid() {
        let own: PolicyArn = "arn:aws-cn:iam::111122223333:policy/a/b".parse().unwrap();
        assert_eq!((own.partition(), own.account()), ("aws-cn", Some("111122223333")));
        let aws: PolicyArn = "arn:aws:iam::aws:policy/PowerUserAccess".parse().unwrap();
        assert_eq!(aws.account(), None);
        for wrong in [
            "",
            "boundary",
            "arn:aws:iam::111122223333:role/r",
            "arn:aws:iam::111122223333:policy/",
            "arn:aws:iam::111122223333:policy/a/",
            "arn:aws:iam::1111:policy/a",
            "arn:aws:iam::111122223333:policy/a*",
            "arn:azure:iam::111122223333:policy/a",
        ] {
            assert_eq!(wrong.parse::<PolicyArn>(), Err(NotAPolicyArn), "{wrong:?}");
        }
    }
}
