use std::{fmt, str::FromStr};

/// The ARN of an IAM role: `arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+`.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html>
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoleArn {
    text: String,
    partition: usize,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotARoleArn {
    #[error("its account is not 12 digits")]
    Account,
    #[error("its role name or path has {found:?}; IAM allows letters, digits and _+=,.@/-")]
    Character { found: char },
    #[error("it has {0} characters; STS allows at most 2048")]
    Length(usize),
    #[error("its partition is not aws, aws-cn, aws-us-gov or another that starts with aws")]
    Partition,
    #[error("it does not have the form arn:aws:iam::<account>:role/<name>")]
    Shape,
}

impl RoleArn {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the partition: `aws`, `aws-cn`, `aws-us-gov`, ...
    pub fn partition(&self) -> &str {
        &self.text[ARN.len()..self.partition]
    }

    /// Returns the account id: twelve digits.
    pub fn account(&self) -> &str {
        &self.text[self.partition + IAM.len()..][..12]
    }

    /// Returns the role's path and name with a leading '/', as IAM writes paths.
    pub fn path_and_name(&self) -> &str {
        &self.text[self.partition + IAM.len() + 12 + ":role".len()..]
    }

    /// Returns the role's name without its path, as the IAM API takes it.
    pub fn name(&self) -> &str {
        self.path_and_name().rsplit('/').next().unwrap_or_default()
    }
}

/// Returns whether the text is the id of an AWS account: 12 digits.
/// <https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-identifiers.html>
pub fn is_account_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl FromStr for RoleArn {
    type Err = NotARoleArn;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() > 2048 {
            return Err(NotARoleArn::Length(s.len()));
        }
        let (partition, rest) =
            s.strip_prefix(ARN).and_then(|rest| rest.split_once(IAM)).ok_or(NotARoleArn::Shape)?;
        let (account, role) = rest.split_once(":role/").ok_or(NotARoleArn::Shape)?;
        let suffix = partition.strip_prefix("aws").ok_or(NotARoleArn::Partition)?;
        if !suffix.chars().all(|c| matches!(c, 'a'..='z' | '-')) {
            return Err(NotARoleArn::Partition);
        }
        if !is_account_id(account) {
            return Err(NotARoleArn::Account);
        }
        if role.is_empty() {
            return Err(NotARoleArn::Shape);
        }
        if let Some(found) =
            role.chars().find(|&c| !c.is_ascii_alphanumeric() && !"_+=,.@/-".contains(c))
        {
            return Err(NotARoleArn::Character { found });
        }
        Ok(Self { text: s.to_owned(), partition: ARN.len() + partition.len() })
    }
}

const ARN: &str = "arn:";
const IAM: &str = ":iam::";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_arn_has_partition_account_and_path() {
        let arn: RoleArn =
            "arn:aws-us-gov:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-session"
                .parse()
                .unwrap();
        assert_eq!(arn.partition(), "aws-us-gov");
        assert_eq!(arn.account(), "111122223333");
        assert_eq!(arn.path_and_name(), "/eks-agent-platform/tenants/prod-acme-session");
        assert_eq!(arn.name(), "prod-acme-session");
    }

    #[test]
    fn only_the_arn_of_a_role_is_valid() {
        let long = format!("arn:aws:iam::111122223333:role/{}", "a".repeat(2048));
        let cases = [
            ("arn:aws:iam::111122223333:role/r", Ok(())),
            ("arn:aws:iam::111122223333:role/p/q/r_+=,.@-", Ok(())),
            ("", Err(NotARoleArn::Shape)),
            ("arn:aws:iam::111122223333:role/", Err(NotARoleArn::Shape)),
            ("arn:aws:iam::111122223333:user/u", Err(NotARoleArn::Shape)),
            ("arn:aws:iam::11112222333:role/r", Err(NotARoleArn::Account)),
            ("arn:aws:iam::11112222333x:role/r", Err(NotARoleArn::Account)),
            ("arn:azure:iam::111122223333:role/r", Err(NotARoleArn::Partition)),
            ("arn:awsX:iam::111122223333:role/r", Err(NotARoleArn::Partition)),
            ("arn:aws:iam::111122223333:role/$(X)", Err(NotARoleArn::Character { found: '$' })),
            ("arn:aws:iam::111122223333:role/r\n", Err(NotARoleArn::Character { found: '\n' })),
            (" arn:aws:iam::111122223333:role/r", Err(NotARoleArn::Shape)),
            (&long, Err(NotARoleArn::Length(long.len()))),
        ];
        for (input, want) in cases {
            assert_eq!(input.parse::<RoleArn>().map(drop), want, "{input:?}");
        }
    }
}
