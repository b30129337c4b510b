//! Edits the variables of a container: removes base credentials and adds the session.

use k8s_openapi::api::core::v1::EnvVar;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    bounded::Picked,
    decision::Gives,
    eks,
    items::PodVariable,
    list_edit::ListEdit,
    names::{self, METADATA_DISABLED, NO_PROXIES, PROXIES, REGIONS, STS_ENDPOINTS},
    operations::{MOST_BYTES, Patch, at},
    pod::{Container, Placed},
    refusal::shown,
    same::is,
    sidecar,
};
use crate::{
    config::{Config, Region},
    json::Text,
    session::{Session, base_credentials, env},
};

pub(super) fn edit(placed: &Placed<'_, '_>, gives: &Gives, config: &Config, patch: &mut Patch) {
    let container = placed.container;
    let mut variables = Variables::of(container);
    if container.is_proxy(config) {
        if !gives.leaves_base_credentials() {
            variables.take_base_credentials_away();
            variables.take_endpoint_away();
        }
    } else {
        match gives {
            Gives::Env(session) => variables.put_session(session),
            Gives::Keep => {}
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
        if container.env_from.length > 0 && !matches!(gives, Gives::Keep) {
            variables.warnings.push(format!(
                "container {:?} uses envFrom, whose variables the webhook cannot read; AWS credentials in them take precedence over the session credentials",
                shown(&container.name)
            ));
        }
    }
    let Variables { container: _, present: _, edit, too_long, warnings } = variables;
    patch.too_large |= too_long;
    edit.write(at(placed, "env"), container.env.is_some(), patch);
    for warning in warnings {
        patch.warn(&warning);
    }
}

/// A container's list of variables, and its edit.
struct Variables<'p, 'a> {
    container: &'p str,
    present: Option<&'p Picked<PodVariable<'a>>>,
    edit: ListEdit<EnvEntry<'a>>,
    /// Whether a value to be copied is longer than a patch may be.
    too_long: bool,
    warnings: Vec<String>,
}

/// An item of the list: a variable of the webhook's, or a copy of the pod's under another name.
#[derive(Serialize)]
#[serde(untagged)]
enum EnvEntry<'a> {
    Copy {
        name: &'static str,
        #[serde(flatten)]
        source: ValueSource<'a>,
    },
    Ours(Box<EnvVar>),
}

/// The value of a variable or its reference, as the JSON of the review.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ValueSource<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    value_from: Option<&'a RawValue>,
}

/// The position of one of the webhook's variables after the edit.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Position {
    InPlace(usize),
    Appended,
}

impl<'p, 'a> Variables<'p, 'a> {
    fn of(container: &'p Container<'a>) -> Self {
        Self {
            container: &container.name,
            present: container.env.as_ref(),
            edit: ListEdit::default(),
            too_long: false,
            warnings: Vec::new(),
        }
    }

    fn take_base_credentials_away(&mut self) {
        for name in eks::VARIABLES {
            self.remove(name);
        }
    }

    fn take_endpoint_away(&mut self) {
        self.remove(base_credentials::URI);
        self.remove(base_credentials::TOKEN_FILE);
    }

    /// Adds the session's variables. One that refers to another by `$(NAME)` is put behind it: the
    /// kubelet expands references only to earlier variables.
    fn put_session(&mut self, session: &Session) {
        let variables = env::session_variables(session);
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
                self.put(variable.name, EnvEntry::Ours(Box::new(sidecar::entry(variable))), behind);
            positions.push((variable.name, position));
        }
    }

    fn put_endpoint(&mut self, port: u16) {
        self.put_text(base_credentials::URI, &sidecar::credentials_uri(port));
        self.put_text(base_credentials::TOKEN_FILE, &sidecar::token_file());
    }

    /// Adds region and SDK settings that the container does not set.
    fn put_defaults(&mut self, region: Option<&str>) {
        let [own, default] = REGIONS;
        match (self.last(own), self.last(default), region) {
            (Some(_), Some(_), _) | (None, None, None) => {}
            // boto3 and version 1 of the CLI read only AWS_DEFAULT_REGION, the other SDKs only
            // AWS_REGION.
            (Some((_, found)), None, _) => self.copy(found, default),
            (None, Some((_, found)), _) => self.copy(found, own),
            (None, None, Some(region)) => {
                self.append(text(own, region));
                self.append(text(default, region));
            }
        }
        for (name, value) in [(STS_ENDPOINTS, "regional"), (METADATA_DISABLED, "true")] {
            if self.last(name).is_none() {
                self.append(text(name, value));
            }
        }
    }

    /// Adds loopback to `NO_PROXY` and `no_proxy` if the container sets a proxy.
    ///
    /// The Rust SDK sends even loopback requests through a proxy. It reads `no_proxy` or
    /// `NO_PROXY`. Other clients read only one of them.
    fn keep_loopback_off_proxies(&mut self) {
        if !PROXIES.iter().any(|name| self.last(name).is_some()) {
            return;
        }
        let [upper, lower] = NO_PROXIES;
        for (name, other) in [(upper, lower), (lower, upper)] {
            match (self.last(name), self.last(other)) {
                (Some((index, found)), _) => match self.value(found) {
                    None => self.warnings.push(format!(
                        "container {:?} sets {name} by valueFrom, which the webhook cannot extend; add {LOOPBACK} to its value, or credential requests may go to the proxy",
                        shown(self.container)
                    )),
                    Some(value) => {
                        self.edit.put(index, found.raw, text(name, &with_loopback(&value)));
                    }
                },
                (None, None) => self.append(text(name, LOOPBACK)),
                (None, Some((_, found))) => {
                    let value = match self.value(found) {
                        None => format!("$({other}),{LOOPBACK}"),
                        Some(value) => with_loopback(&value),
                    };
                    self.append(text(name, &value));
                }
            }
        }
    }

    /// Returns the variable's literal value, or `None` if it has a `valueFrom`.
    fn value(&mut self, found: &PodVariable<'a>) -> Option<Text<'a>> {
        self.source(found)?;
        found.value()
    }

    fn copy(&mut self, found: &PodVariable<'a>, name: &'static str) {
        let source = self.source(found).unwrap_or_default();
        self.append(EnvEntry::Copy { name, source });
    }

    /// Returns the variable's value or reference, or `None` if it is too long for a patch.
    fn source(&mut self, found: &PodVariable<'a>) -> Option<ValueSource<'a>> {
        self.too_long |= found.raw.get().len() > MOST_BYTES;
        let source = serde_json::from_str(found.raw.get()).unwrap_or_default();
        (!self.too_long).then_some(source)
    }

    fn put_text(&mut self, name: &str, value: &str) {
        self.put(name, text(name, value), None);
    }

    /// Puts the variable at the first position of its name and removes its duplicates. A variable
    /// that is absent, or that would precede one that it refers to, goes to the end.
    fn put(&mut self, name: &str, wanted: EnvEntry<'a>, behind: Option<Position>) -> Position {
        let mut named = self.named(name).map(|(index, entry)| (index, entry.raw));
        let first = named.next();
        let duplicates: Vec<(usize, &RawValue)> = named.collect();
        if first.iter().chain(&duplicates).any(|(_, raw)| !is(raw, &wanted)) {
            self.warnings.push(format!(
                "container {:?} sets {name}; the webhook replaces its value",
                shown(self.container)
            ));
        }
        self.edit.removed.extend(duplicates.into_iter().map(|(index, _)| index));
        match first {
            Some((index, raw)) if behind.is_none_or(|other| other < Position::InPlace(index)) => {
                self.edit.put(index, raw, wanted);
                Position::InPlace(index)
            }
            first => {
                self.edit.removed.extend(first.map(|(index, _)| index));
                self.append(wanted);
                Position::Appended
            }
        }
    }

    fn append(&mut self, entry: EnvEntry<'a>) {
        self.edit.appended.push(entry);
    }

    fn remove(&mut self, name: &str) {
        let found: Vec<usize> = self.named(name).map(|(index, _)| index).collect();
        self.edit.removed.extend(found);
    }

    /// Returns the last variable of the name, which is the effective one.
    fn last(&self, name: &str) -> Option<(usize, &'p PodVariable<'a>)> {
        self.named(name).next_back()
    }

    fn named<'n>(
        &self,
        name: &'n str,
    ) -> impl DoubleEndedIterator<Item = (usize, &'p PodVariable<'a>)> + use<'n, 'p, 'a> {
        debug_assert!(names::of_variable(name).is_some(), "{name} is not read");
        self.present.into_iter().flat_map(Picked::iter).filter(move |(_, entry)| entry.name == name)
    }
}

fn refers_to(value: &env::Value, name: &str) -> bool {
    matches!(value, env::Value::Text(text) if text.contains(&format!("$({name})")))
}

fn with_loopback(value: &str) -> String {
    let listed = |host: &str| value.split(',').any(|listed| listed.trim() == host);
    if listed("*") {
        return value.to_owned();
    }
    let missing = LOOPBACK.split(',').filter(|host| !listed(host));
    missing.fold(value.to_owned(), |all, host| {
        if all.is_empty() { host.to_owned() } else { format!("{all},{host}") }
    })
}

fn text<'a>(name: &str, value: &str) -> EnvEntry<'a> {
    EnvEntry::Ours(Box::new(sidecar::text(name, value)))
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
