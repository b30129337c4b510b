//! The variables of an agent's container: base credentials out, the session in.

use k8s_openapi::api::core::v1::EnvVar;
use serde::Serialize;
use serde_json::Value;

use super::{
    decide::Gives,
    eks,
    list::{ListEdit, is},
    patch::{Patch, at, is_proxy},
    pod::{Container, Named, Placed},
    sidecar,
};
use crate::{
    config::{Config, Region},
    session::{Session, base, env},
};

pub(super) fn edit(placed: &Placed<'_, '_>, gives: &Gives, config: &Config, patch: &mut Patch) {
    let container = placed.container;
    let mut variables = Variables::of(container);
    if is_proxy(container, config) {
        if !gives.leaves_base_credentials() {
            variables.take_base_credentials_away();
            variables.take_endpoint_away();
        }
    } else {
        match gives {
            Gives::Env(session) | Gives::Keep(session) => variables.put_session(session),
            Gives::Nothing => {
                variables.take_base_credentials_away();
                variables.take_endpoint_away();
            }
            Gives::Sidecar(session) => {
                variables.take_base_credentials_away();
                variables.put_session(session);
                variables.put_endpoint(config.sidecar.port);
                variables.put_defaults(config.region.as_ref().map(Region::as_str));
                variables.keep_loopback_off_proxies();
            }
        }
        if !container.env_from.is_empty() {
            variables.warnings.push(format!(
                "container {:?} takes variables from envFrom, which are not seen here; AWS credentials in them go before the session's",
                &*container.name
            ));
        }
    }
    let Variables { container: _, present: _, exists, edit, warnings } = variables;
    edit.write(at(placed, "env"), exists, patch);
    for warning in warnings {
        patch.warn(&warning);
    }
}

/// The list as it came, and what becomes of it.
struct Variables<'p, 'a> {
    container: &'p str,
    present: &'p [Named<'a>],
    exists: bool,
    edit: ListEdit<Entry>,
    warnings: Vec<String>,
}

/// An item of the list that is ours, or a copy of one that came.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Copy(Value),
    Ours(Box<EnvVar>),
}

/// Where a variable of ours stands after the edit.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Position {
    InPlace(usize),
    Appended,
}

impl<'p, 'a> Variables<'p, 'a> {
    fn of(container: &'p Container<'a>) -> Self {
        Self {
            container: &container.name,
            present: container.env.as_deref().unwrap_or_default(),
            exists: container.env.is_some(),
            edit: ListEdit::default(),
            warnings: Vec::new(),
        }
    }

    fn take_base_credentials_away(&mut self) {
        for name in eks::VARIABLES {
            self.remove(name);
        }
    }

    fn take_endpoint_away(&mut self) {
        self.remove(base::URI);
        self.remove(base::TOKEN_FILE);
    }

    /// The kubelet expands `$(NAME)` from variables that stand before, so one that refers to
    /// another of ours must stand behind it.
    fn put_session(&mut self, session: &Session) {
        let variables = env::variables(session);
        let mut positions: Vec<(&str, Position)> = Vec::with_capacity(variables.len());
        for variable in &variables {
            let behind = positions
                .iter()
                .filter(|(name, _)| refers_to(&variable.value, name))
                .map(|&(_, position)| position);
            let behind = behind.fold(None, |latest, position| match latest {
                Some(latest) if latest > position => Some(latest),
                _ => Some(position),
            });
            let position =
                self.put(variable.name, Entry::Ours(Box::new(sidecar::entry(variable))), behind);
            positions.push((variable.name, position));
        }
    }

    fn put_endpoint(&mut self, port: u16) {
        self.put_text(base::URI, &sidecar::credentials_uri(port));
        self.put_text(base::TOKEN_FILE, &sidecar::token_file());
    }

    /// What SDKs need beside credentials, where the pod does not say it.
    fn put_defaults(&mut self, region: Option<&str>) {
        match (self.last("AWS_REGION"), self.last("AWS_DEFAULT_REGION"), region) {
            (Some(_), Some(_), _) | (None, None, None) => {}
            // boto3 and version 1 of the CLI read only the one, the other SDKs the other.
            (Some(found), None, _) => {
                self.append(Entry::Copy(renamed(found.whole(), "AWS_DEFAULT_REGION")))
            }
            (None, Some(found), _) => {
                self.append(Entry::Copy(renamed(found.whole(), "AWS_REGION")))
            }
            (None, None, Some(region)) => {
                self.append(text("AWS_REGION", region));
                self.append(text("AWS_DEFAULT_REGION", region));
            }
        }
        for (name, value) in
            [("AWS_STS_REGIONAL_ENDPOINTS", "regional"), ("AWS_EC2_METADATA_DISABLED", "true")]
        {
            if self.last(name).is_none() {
                self.append(text(name, value));
            }
        }
    }

    /// The Rust SDK sends even loopback requests through a proxy. It reads `no_proxy` or
    /// `NO_PROXY`, and others read only one of them.
    fn keep_loopback_off_proxies(&mut self) {
        if !sidecar::PROXIES.iter().any(|name| self.last(name).is_some()) {
            return;
        }
        for (name, other) in [("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")] {
            match self.position(name) {
                Some(index) => {
                    let found = self.present[index].whole();
                    if is_reference(&found) {
                        self.warnings.push(format!(
                            "container {:?} takes {name} from elsewhere; see that it has {LOOPBACK}, or its credential requests may go to the proxy",
                            self.container
                        ));
                    } else {
                        let value = value_of(&found);
                        self.edit.put(index, &found, text(name, &with_loopback(value)));
                    }
                }
                None => {
                    let other_whole = self.last(other).map(Named::whole);
                    let value = match &other_whole {
                        None => LOOPBACK.to_owned(),
                        Some(entry) if is_reference(entry) => format!("$({other}),{LOOPBACK}"),
                        Some(entry) => with_loopback(value_of(entry)),
                    };
                    self.append(text(name, &value));
                }
            }
        }
    }

    fn put_text(&mut self, name: &str, value: &str) {
        self.put(name, text(name, value), None);
    }

    /// Puts one variable where its name stands first, and drops its duplicates; at the end,
    /// where it is absent or does not stand behind what it refers to.
    fn put(&mut self, name: &str, wanted: Entry, behind: Option<Position>) -> Position {
        let mut indexes = self
            .present
            .iter()
            .enumerate()
            .filter(|(_, entry)| *entry.name == *name)
            .map(|(index, _)| index);
        let first = indexes.next();
        let duplicates: Vec<usize> = indexes.collect();
        let foreign = first
            .into_iter()
            .chain(duplicates.iter().copied())
            .any(|index| !is(&self.present[index].whole(), &wanted));
        if foreign {
            self.warnings.push(format!(
                "container {:?} sets {name} itself; the webhook's value stands instead",
                self.container
            ));
        }
        self.edit.removed.extend(duplicates);
        match first {
            Some(index) if behind.is_none_or(|other| other < Position::InPlace(index)) => {
                self.edit.put(index, &self.present[index].whole(), wanted);
                Position::InPlace(index)
            }
            first => {
                self.edit.removed.extend(first);
                self.append(wanted);
                Position::Appended
            }
        }
    }

    fn append(&mut self, entry: Entry) {
        self.edit.appended.push(entry);
    }

    fn remove(&mut self, name: &str) {
        let found = self.present.iter().enumerate().filter(|(_, entry)| *entry.name == *name);
        self.edit.removed.extend(found.map(|(index, _)| index));
    }

    /// The last of a name is the one that counts.
    fn last(&self, name: &str) -> Option<&'p Named<'a>> {
        self.position(name).map(|index| &self.present[index])
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.present.iter().rposition(|entry| *entry.name == *name)
    }
}

fn refers_to(value: &env::Value, name: &str) -> bool {
    matches!(value, env::Value::Text(text) if text.contains(&format!("$({name})")))
}

fn is_reference(entry: &Value) -> bool {
    entry.get("valueFrom").is_some_and(|from| !from.is_null())
}

fn value_of(entry: &Value) -> &str {
    entry.get("value").and_then(Value::as_str).unwrap_or_default()
}

fn with_loopback(value: &str) -> String {
    let listed: Vec<&str> = value.split(',').map(str::trim).collect();
    if listed.contains(&"*") {
        return value.to_owned();
    }
    let missing = LOOPBACK.split(',').filter(|host| !listed.contains(host));
    missing.fold(value.to_owned(), |all, host| {
        if all.is_empty() { host.to_owned() } else { format!("{all},{host}") }
    })
}

fn renamed(mut entry: Value, name: &str) -> Value {
    entry["name"] = name.into();
    entry
}

fn text(name: &str, value: &str) -> Entry {
    Entry::Ours(Box::new(sidecar::text(name, value)))
}

const LOOPBACK: &str = "127.0.0.1,localhost";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_added_once() {
        let cases = [
            ("", "127.0.0.1,localhost"),
            ("localhost", "localhost,127.0.0.1"),
            ("a.b, 127.0.0.1", "a.b, 127.0.0.1,localhost"),
            ("127.0.0.1,localhost", "127.0.0.1,localhost"),
            ("*", "*"),
            ("$(OTHER)", "$(OTHER),127.0.0.1,localhost"),
        ];
        for (input, want) in cases {
            assert_eq!(with_loopback(input), want, "{input:?}");
        }
    }
}
