//! The static role file: `roles: {<tenant>: <arn>}`.

use std::{collections::HashMap, fmt};

use serde_json::Value;

use super::{Entry, Role, Unusable};
use crate::{
    config::Allowed,
    session::{NotARoleArn, NotATenant, TenantName},
};

/// Everything that is wrong with a role file, one problem a line.
#[derive(Debug)]
pub struct NotARoleFile(Vec<Problem>);

#[derive(Debug)]
enum Problem {
    Arn(String, NotARoleArn),
    NotAllowed(String, &'static str),
    Shape,
    Syntax(Box<serde_saphyr::Error>),
    Tenant(String, NotATenant),
    Text(String),
    UnknownKey(String),
}

/// Reads the file's text, in full or not at all.
pub fn parse(text: &str, allowed: &Allowed) -> Result<HashMap<TenantName, Entry>, NotARoleFile> {
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| NotARoleFile(vec![Problem::Syntax(Box::new(error))]))?;
    let Value::Object(mut root) = value else {
        return Err(NotARoleFile(vec![Problem::Shape]));
    };
    let entries = match root.shift_remove("roles") {
        Some(Value::Object(entries)) => entries,
        Some(Value::Null) => serde_json::Map::new(),
        _ => return Err(NotARoleFile(vec![Problem::Shape])),
    };
    let mut problems: Vec<Problem> =
        root.into_iter().map(|(key, _)| Problem::UnknownKey(key)).collect();
    let mut roles = HashMap::with_capacity(entries.len());
    for (tenant, value) in entries {
        match entry(&tenant, &value, allowed) {
            Ok((tenant, role)) => {
                roles.insert(tenant, role.into());
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(roles) } else { Err(NotARoleFile(problems)) }
}

fn entry(tenant: &str, value: &Value, allowed: &Allowed) -> Result<(TenantName, Role), Problem> {
    let name: TenantName =
        tenant.parse().map_err(|rule| Problem::Tenant(tenant.to_owned(), rule))?;
    let text = value.as_str().ok_or_else(|| Problem::Text(tenant.to_owned()))?;
    match Role::judge(text, allowed) {
        Role::Unusable(Unusable::Malformed(rule)) => Err(Problem::Arn(tenant.to_owned(), rule)),
        Role::Unusable(Unusable::NotAllowed { list }) => {
            Err(Problem::NotAllowed(tenant.to_owned(), list))
        }
        role => Ok((name, role)),
    }
}

impl std::error::Error for NotARoleFile {}

impl fmt::Display for NotARoleFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arn(tenant, rule) => write!(f, "roles.{tenant}: not the ARN of a role: {rule}"),
            Self::NotAllowed(tenant, list) => {
                write!(f, "roles.{tenant}: the config's roles.allow.{list} does not have this role")
            }
            Self::Shape => write!(f, "want a mapping `roles: {{<tenant>: <role ARN>}}`"),
            Self::Syntax(error) => write!(f, "not YAML: {error}"),
            Self::Tenant(tenant, rule) => write!(f, "roles.{tenant}: not a tenant: {rule}"),
            Self::Text(tenant) => write!(f, "roles.{tenant}: want the ARN of a role, as text"),
            Self::UnknownKey(key) => write!(f, "{key}: unknown key; only `roles` is read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_roles() {
        let text = "roles:\n  acme: arn:aws:iam::111122223333:role/a\n";
        let roles = parse(text, &Allowed::default()).unwrap();
        let want = Role::Known("arn:aws:iam::111122223333:role/a".parse().unwrap());
        assert_eq!(*roles.get("acme").unwrap().role, want);
        assert!(parse("roles:\n", &Allowed::default()).unwrap().is_empty());
    }

    #[test]
    fn tells_every_problem() {
        let text = "roles: {A: x, b: 7, c: 'arn:aws:iam::1:role/r', d: 'arn:aws:iam::111122223333:role/r'}\nmore: 1\n";
        let allowed = Allowed { accounts: vec!["999999999999".to_owned()], ..Allowed::default() };
        let error = parse(text, &allowed).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 5, "{error}");
        for text in ["roles: []", "[]", "", "other: {}"] {
            assert!(parse(text, &Allowed::default()).is_err(), "{text:?}");
        }
    }
}
