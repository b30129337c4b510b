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
    names::{self, METADATA_DISABLED, NO_PROXIES, OLD_REGION, PROXIES, REGIONS, STS_ENDPOINTS},
    operations::{MOST_BYTES, Patch, at},
    pod::Placed,
    pod_fields::Container,
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
            Gives::Sidecar(session, _) => {
                variables.take_base_credentials_away();
                variables.put_session(session);
                variables.put_endpoint(config.sidecar.port);
                variables.put_defaults(config.region.as_ref().map(Region::as_str));
                variables.keep_loopback_off_proxies();
            }
        }
        if !matches!(gives, Gives::Keep) {
            variables.warn_of_env_from();
        }
    }
    let Variables { edit, too_long, warnings, .. } = variables;
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
    /// Whether the container has variables that the review does not contain, from `envFrom`.
    has_unread: bool,
    /// Whether the container mounts a volume of EKS's webhook.
    has_eks_volume: bool,
    edit: ListEdit<EnvEntry<'a>>,
    /// The variables that the webhook adds because `present` lacks them.
    defaults: Vec<&'static str>,
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

impl<'p, 'a> Variables<'p, 'a> {
    fn of(container: &'p Container<'a>) -> Self {
        let mut mounts = container.mounts.iter().flat_map(Picked::iter);
        Self {
            container: &container.name,
            present: container.env.as_ref(),
            has_unread: container.env_from.length > 0,
            has_eks_volume: mounts
                .any(|(_, mount)| mount.volume.is_some_and(|name| eks::VOLUMES.contains(&name))),
            edit: ListEdit::default(),
            defaults: Vec::new(),
            too_long: false,
            warnings: Vec::new(),
        }
    }

    /// Removes the variables by which SDKs find base credentials. Those of EKS's webhook come with
    /// its volumes; others are the pod's own.
    fn take_base_credentials_away(&mut self) {
        let found: Vec<&str> =
            eks::VARIABLES.into_iter().filter(|name| self.last(name).is_some()).collect();
        if !found.is_empty() && !self.has_eks_volume {
            self.warnings.push(format!(
                "container {:?} sets {}, which the webhook removes: SDKs would use other credentials than those of the session",
                shown(self.container),
                found.join(", ")
            ));
        }
        for name in found {
            self.remove(name);
        }
    }

    fn take_endpoint_away(&mut self) {
        self.remove(base_credentials::URI);
        self.remove(base_credentials::TOKEN_FILE);
    }

    /// Adds the session's variables. One that refers to another by `$(NAME)` is behind it: the
    /// kubelet expands references only to earlier variables.
    fn put_session(&mut self, session: &Session) {
        let (variables, unknown) = env::agent_variables(session);
        for name in unknown {
            self.remove(name);
        }
        let entries: Vec<EnvVar> = variables.iter().map(sidecar::entry).collect();
        let mut stays: Vec<Option<usize>> =
            entries.iter().map(|entry| self.in_place(&entry.name, entry)).collect();
        // From the last to the first, since a variable refers only to earlier ones.
        for (index, variable) in variables.iter().enumerate().rev() {
            for (other, referred) in variables.iter().enumerate() {
                if !refers_to(&variable.value, referred.name) {
                    continue;
                }
                match (stays[index], stays[other]) {
                    (Some(at), Some(before)) if before < at => {}
                    (Some(_), None) => {}
                    _ => (stays[index], stays[other]) = (None, None),
                }
            }
        }
        for ((variable, entry), stays) in variables.iter().zip(entries).zip(stays) {
            self.put(variable.name, entry, stays);
        }
    }

    fn put_endpoint(&mut self, port: u16) {
        let token_file = sidecar::token_file();
        for (name, value) in [
            (base_credentials::URI, &*sidecar::credentials_uri(port)),
            (base_credentials::TOKEN_FILE, &*token_file),
        ] {
            let wanted = sidecar::text(name, value);
            let stays = self.in_place(name, &wanted);
            self.put(name, wanted, stays);
        }
    }

    /// Adds region and SDK settings that the container does not set.
    fn put_defaults(&mut self, region: Option<&str>) {
        let [own, default] = REGIONS;
        // boto3 and version 1 of the CLI read only AWS_DEFAULT_REGION, most other SDKs only
        // AWS_REGION.
        let known = [own, default, OLD_REGION].into_iter().find_map(|name| self.last(name));
        for name in REGIONS {
            match (self.last(name), known, region) {
                (Some(_), _, _) | (None, None, None) => {}
                (None, Some((_, found)), _) => self.copy(found, name),
                (None, None, Some(region)) => self.add_default(name, region),
            }
        }
        for (name, value) in [(STS_ENDPOINTS, "regional"), (METADATA_DISABLED, "true")] {
            if self.last(name).is_none() {
                self.add_default(name, value);
            }
        }
    }

    /// Adds loopback to `NO_PROXY` and `no_proxy` if the container sets a proxy, or may do so by
    /// `envFrom`. A value of `envFrom` stays a part of the new one: the kubelet expands references
    /// to it, and leaves a reference to a variable that does not exist, which is no host's name.
    ///
    /// The Rust SDK sends even loopback requests through a proxy. It reads `no_proxy` or
    /// `NO_PROXY`. Other clients read only one of them.
    fn keep_loopback_off_proxies(&mut self) {
        if !self.has_unread && !PROXIES.iter().any(|name| self.last(name).is_some()) {
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
                (None, None) if self.has_unread => {
                    self.add_default(name, &format!("$({name}),$({other}),{LOOPBACK}"));
                }
                (None, None) => self.add_default(name, LOOPBACK),
                (None, Some((_, found))) => {
                    let value = match self.value(found) {
                        None => format!("$({other}),{LOOPBACK}"),
                        Some(value) => with_loopback(&value),
                    };
                    let unread =
                        if self.has_unread { format!("$({name}),") } else { String::new() };
                    self.edit.appended.push(text(name, &format!("{unread}{value}")));
                }
            }
        }
    }

    /// Warns that variables of `envFrom` may be credentials, and about those that lose to a default.
    fn warn_of_env_from(&mut self) {
        if !self.has_unread {
            return;
        }
        let container = shown(self.container);
        self.warnings.push(format!(
            "container {container:?} uses envFrom, whose variables the webhook cannot read; AWS credentials in them take precedence over the session credentials"
        ));
        let hidden = self.defaults.iter().filter(|name| !NO_PROXIES.contains(name));
        let hidden = hidden.copied().collect::<Vec<_>>().join(", ");
        if !hidden.is_empty() {
            self.warnings.push(format!(
                "container {container:?} gets {hidden}, which take precedence over variables of these names from envFrom; to use a value of envFrom, set the variable in env by valueFrom"
            ));
        }
    }

    /// Returns the variable's literal value, or `None` if it has a `valueFrom`.
    fn value(&mut self, found: &PodVariable<'a>) -> Option<Text<'a>> {
        self.source(found)?;
        found.value()
    }

    /// Adds a variable that the container lacks, before its own ones, which can refer to it.
    fn add_default(&mut self, name: &'static str, value: &str) {
        self.defaults.push(name);
        self.edit.prepended.push(text(name, value));
    }

    /// Adds a copy under another name. It is behind all variables to which its value may refer.
    fn copy(&mut self, found: &PodVariable<'a>, name: &'static str) {
        self.defaults.push(name);
        let source = self.source(found).unwrap_or_default();
        self.edit.appended.push(EnvEntry::Copy { name, source });
    }

    /// Returns the variable's value or reference, or `None` if it is too long for a patch.
    fn source(&mut self, found: &PodVariable<'a>) -> Option<ValueSource<'a>> {
        self.too_long |= found.raw.get().len() > MOST_BYTES;
        let source = serde_json::from_str(found.raw.get()).unwrap_or_default();
        (!self.too_long).then_some(source)
    }

    /// Returns the first position of the name, if the variable there is as wanted.
    fn in_place(&self, name: &str, wanted: &EnvVar) -> Option<usize> {
        let (index, found) = self.named(name).next()?;
        is(found.raw, wanted).then_some(index)
    }

    /// Removes all variables of the name except the one that stays. Without one, it adds the wanted
    /// variable before those of the pod, which can then refer to it.
    fn put(&mut self, name: &str, wanted: EnvVar, stays: Option<usize>) {
        let found: Vec<(usize, &RawValue)> =
            self.named(name).map(|(index, entry)| (index, entry.raw)).collect();
        if found.iter().any(|(_, raw)| !is(raw, &wanted)) {
            self.warnings.push(format!(
                "container {:?} sets {name}; the webhook replaces its value",
                shown(self.container)
            ));
        }
        let others = found.into_iter().map(|(index, _)| index);
        self.edit.removed.extend(others.filter(|index| Some(*index) != stays));
        if stays.is_none() {
            self.edit.prepended.push(EnvEntry::Ours(Box::new(wanted)));
        }
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
    let env::Value::Text(text) = value else { return false };
    let is_to = |rest: &str| {
        rest.strip_prefix('(')
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(')'))
    };
    text.split('$').skip(1).any(is_to)
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
