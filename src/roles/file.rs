//! The static role file: `roles: {<tenant>: <arn>}`.

use std::collections::HashMap;

use super::{Entry, Role, Unusable};
use crate::{
    config::{self, Allowed, Problems},
    session::TenantName,
};

/// Parses a role file. One problem makes the whole file invalid. Returns all problems.
pub fn parse(text: &str, allowed: &Allowed) -> Result<HashMap<TenantName, Entry>, Problems> {
    config::parse(text, |mut root| {
        if !root.has("roles") {
            root.problem("roles", "is missing; expected a mapping {<tenant>: <role ARN>}");
        }
        let mut roles = HashMap::new();
        for (tenant, arn) in root.pairs("roles") {
            let problem = match (tenant.parse::<TenantName>(), Role::from_arn(&arn, allowed)) {
                (Err(rule), _) => format!("not a valid tenant name: {rule}"),
                (_, Role::Unusable(Unusable::Malformed(rule))) => {
                    format!("not the ARN of an IAM role: {rule}")
                }
                (_, Role::Unusable(Unusable::NotAllowed { list })) => {
                    format!("not in roles.allow.{list} of the config")
                }
                (Ok(tenant), role) => {
                    roles.insert(tenant, role.into());
                    continue;
                }
            };
            root.problem(&format!("roles.{tenant}"), problem);
        }
        root.close();
        roles
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_of_a_file_are_parsed() {
        let text = "roles:\n  acme: arn:aws:iam::111122223333:role/a\n";
        let roles = parse(text, &Allowed::default()).unwrap();
        let want = Role::Known("arn:aws:iam::111122223333:role/a".parse().unwrap());
        assert_eq!(*roles.get("acme").unwrap().role, want);
        assert!(parse("roles:\n", &Allowed::default()).unwrap().is_empty());
    }

    #[test]
    fn all_problems_of_a_role_file_are_reported() {
        let text = "roles: {A: x, b: 7, c: 'arn:aws:iam::1:role/r', d: 'arn:aws:iam::111122223333:role/r'}\nmore: 1\n";
        let allowed = Allowed { accounts: vec!["999999999999".to_owned()], ..Allowed::default() };
        let error = parse(text, &allowed).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 5, "{error}");
        for text in ["roles: []", "[]", "", "other: {}"] {
            assert!(parse(text, &Allowed::default()).is_err(), "{text:?}");
        }
    }
}
