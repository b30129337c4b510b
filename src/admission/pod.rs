//! Reads a pod from the JSON of the review. It skips fields that the webhook does not use, and
//! copies none.
//!
//! The JSON is untrusted input, so the memory for it has a limit that does not depend on its
//! length: from each list it takes only the items that the webhook acts on, at most
//! [`MOST_PICKED`].

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    names,
    refusal::{Refusal, shown},
    review::{Object, Scalar, TEXT},
    sidecar::CONTAINER_NAME,
};
use crate::config::{self, Creator};

/// A pod whose used fields match the Pod API schema.
pub(super) struct Pod<'a> {
    pub(super) metadata: Metadata<'a>,
    pub(super) spec: Spec<'a>,
    object: &'a RawValue,
    creator: Creator<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub(super) name: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub(super) generate_name: Text<'a>,
    #[serde(borrow)]
    pub(super) labels: Option<Pairs<'a>>,
    #[serde(borrow)]
    pub(super) annotations: Option<Pairs<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    service_account_name: Text<'a>,
    /// Deprecated alias of `serviceAccountName`, to which the API server copies it.
    #[serde(borrow, default, deserialize_with = "or_default")]
    service_account: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    containers: Containers<'a>,
    #[serde(borrow)]
    init_containers: Option<Containers<'a>>,
    /// `None` if the pod has no such list.
    #[serde(borrow)]
    pub(super) volumes: Option<Picked<Volume<'a>>>,
    #[serde(borrow)]
    pub(super) node_selector: Option<Pairs<'a>>,
    #[serde(borrow)]
    pub(super) os: Option<Object<Name<'a>>>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) host_network: Scalar<bool>,
    #[serde(default, deserialize_with = "or_default", rename = "hostPID")]
    pub(super) host_pid: Scalar<bool>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) share_process_namespace: Scalar<bool>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) security_context: Object<SecurityContext>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    /// `None` if the container has no such list.
    #[serde(borrow)]
    pub(super) env: Option<Picked<Variable<'a>>>,
    #[serde(borrow, rename = "volumeMounts")]
    pub(super) mounts: Option<Picked<Mount<'a>>>,
    #[serde(default, deserialize_with = "or_default")]
    volume_devices: Picked<Device>,
    #[serde(borrow)]
    pub(super) ports: Option<Ports<'a>>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) env_from: AnyList,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) security_context: Object<SecurityContext>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecurityContext {
    pub(super) run_as_user: Option<Scalar<i64>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    container_port: Option<Scalar<i64>>,
    host_port: Option<Scalar<i64>>,
}

/// A list whose length alone is read.
#[derive(Default)]
pub(super) struct AnyList {
    pub(super) length: usize,
}

/// A container's list of ports. Each item matches the schema of a port.
pub(super) struct Ports<'a>(&'a RawValue);

#[derive(Deserialize)]
pub(super) struct Name<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
}

/// One of a pod's two lists of containers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum List {
    Containers,
    InitContainers,
}

/// A container and its position.
pub(super) struct Placed<'p, 'a> {
    pub(super) list: List,
    pub(super) index: usize,
    pub(super) container: &'p Container<'a>,
}

/// A list of containers: its first items, and its length.
#[derive(Default)]
struct Containers<'a> {
    first: Vec<Container<'a>>,
    found: usize,
}

/// The items that the webhook acts on in a list that Kubernetes keys by `name`.
pub(super) struct Picked<T> {
    /// Index and item.
    items: Vec<(usize, T)>,
    /// Length of the complete list.
    length: usize,
    /// Whether the list has more such items than are read.
    too_many: bool,
}

/// An item of a list that [`Picked`] reads.
pub(super) trait Pick<'a>: Sized {
    /// Returns the item, or `None` if the webhook does not act on it.
    fn pick(raw: &'a RawValue) -> serde_json::Result<Option<Self>>;
}

/// A variable whose name the webhook acts on, see [`names::of_variable`].
pub(super) struct Variable<'a> {
    pub(super) name: &'static str,
    pub(super) raw: &'a RawValue,
}

/// A mount of a volume that the webhook acts on, or one that hides the session token.
pub(super) struct Mount<'a> {
    pub(super) volume: Option<&'static str>,
    pub(super) path: Text<'a>,
    pub(super) raw: &'a RawValue,
}

/// A volume that the webhook acts on, or one that projects a service account's token.
pub(super) struct Volume<'a> {
    pub(super) name: Text<'a>,
    /// Audiences of the tokens that the volume projects.
    pub(super) audiences: Vec<Text<'a>>,
    /// Whether it has more than [`MOST_PICKED`] audiences.
    too_many: bool,
    pub(super) raw: &'a RawValue,
}

/// The token audiences in the sources of a projected volume.
#[derive(Default)]
struct Audiences<'a> {
    first: Vec<Text<'a>>,
    too_many: bool,
}

/// A block device with the name of one of the sidecar's volumes.
pub(super) struct Device {
    volume: &'static str,
}

/// A map of strings, in the order of the JSON.
pub(super) struct Pairs<'a> {
    first: Vec<(Text<'a>, Text<'a>)>,
    found: usize,
}

/// A JSON string, borrowed if it has no escapes.
#[derive(Default)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl<'a> Pod<'a> {
    pub(super) fn read(object: &'a RawValue, creator: Creator<'a>) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Read<'a> {
            #[serde(borrow)]
            metadata: Object<Metadata<'a>>,
            #[serde(borrow)]
            spec: Object<Spec<'a>>,
        }
        let Object(Read { metadata: Object(metadata), spec: Object(spec) }) =
            serde_json::from_str(object.get())
                .map_err(|_| Refusal::UnreadablePod { place: place(object) })?;
        let pod = Self { metadata, spec, object, creator };
        // The labels that are not read might make the pod an agent.
        match pod.metadata.labels.as_ref().and_then(Pairs::excess) {
            Some((most, _)) => {
                Err(Refusal::TooManyItems { what: format!("the pod has more than {most} labels") })
            }
            None => Ok(pod),
        }
    }

    /// Returns the first list that exceeds the limits for agent pods, as a sentence.
    pub(super) fn excess(&self) -> Option<String> {
        let Metadata { annotations, .. } = &self.metadata;
        let Spec { volumes, node_selector, .. } = &self.spec;
        let has_ours = self.containers().any(|placed| *placed.container.name == *CONTAINER_NAME);
        let acted_on = if has_ours { MOST_PICKED + ADDED } else { MOST_PICKED };
        let audiences = volumes.iter().flat_map(Picked::iter).any(|(_, volume)| volume.too_many);
        let of_pod = [
            (annotations.as_ref().and_then(Pairs::excess), "annotations"),
            (node_selector.as_ref().and_then(Pairs::excess), "entries in its nodeSelector"),
            (volumes.as_ref().and_then(|volumes| volumes.excess(acted_on)), "volumes"),
            (audiences.then_some((MOST_PICKED, "")), "audiences in one volume"),
        ];
        let sentence = |of: String, ((most, which), what): ((usize, &str), &str)| {
            format!("{of} has more than {most} {what}{which}")
        };
        let found =
            |(excess, what): (Option<(usize, &'static str)>, &'static str)| Some((excess?, what));
        if let Some(excess) = of_pod.into_iter().find_map(found) {
            return Some(sentence("the pod".to_owned(), excess));
        }
        self.containers().map(|placed| placed.container).find_map(|container| {
            let Container { name, env, mounts, volume_devices, .. } = container;
            let of_container = [
                (env.as_ref().and_then(|env| env.excess(acted_on)), "variables"),
                (mounts.as_ref().and_then(|mounts| mounts.excess(acted_on)), "mounts"),
                (volume_devices.excess(acted_on), "block devices"),
            ];
            let excess = of_container.into_iter().find_map(found)?;
            Some(sentence(format!("container {:?}", shown(name)), excess))
        })
    }

    /// Returns the containers that are read: the first [`MOST_CONTAINERS`] and one more of each
    /// list, regular containers before init containers, in the order of their list.
    pub(super) fn containers(&self) -> impl Iterator<Item = Placed<'_, 'a>> {
        let placed = |list| move |(index, container)| Placed { list, index, container };
        let regular = self.spec.containers.first.iter().enumerate().map(placed(List::Containers));
        let init = self.spec.init_containers.iter().flat_map(|init| &init.first).enumerate();
        regular.chain(init.map(placed(List::InitContainers)))
    }

    /// Returns the number of containers of both lists together.
    pub(super) fn count_containers(&self) -> usize {
        let Spec { containers, init_containers, .. } = &self.spec;
        containers.found + init_containers.as_ref().map_or(0, |init| init.found)
    }

    pub(super) fn has_init_containers(&self) -> bool {
        self.spec.init_containers.is_some()
    }

    /// Returns the JSON of a container. This parses the pod again; only a pod that already has the
    /// sidecar needs it.
    pub(super) fn text(&self, placed: &Placed<'_, '_>) -> Option<&'a RawValue> {
        #[derive(Deserialize)]
        struct Read<'a> {
            #[serde(borrow)]
            spec: Lists<'a>,
        }
        // The pod was parsed before, so this cannot fail.
        let Read { spec } = serde_json::from_str(self.object.get()).ok()?;
        let mut found = None;
        each(spec.of(placed.list)?, |index, container: &RawValue| {
            if index == placed.index {
                found = Some(container);
            }
            Ok(())
        })
        .ok()?;
        found
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.find(key)
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.find(key)
    }

    /// Returns the pod's service account. Without one it is `default`, which the API server sets
    /// before the webhook, but which a manifest on disk lacks.
    fn service_account(&self) -> &str {
        let Spec { service_account_name, service_account, .. } = &self.spec;
        [&**service_account_name, &**service_account, "default"]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default()
    }
}

impl config::Pod for Pod<'_> {
    fn creator(&self) -> Creator<'_> {
        self.creator
    }

    fn label(&self, key: &str) -> Option<&str> {
        Pod::label(self, key)
    }

    fn service_account(&self) -> &str {
        Pod::service_account(self)
    }
}

impl List {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
        }
    }
}

impl<T> Picked<T> {
    /// Returns the limit that the list exceeds, and the words for the items that it counts.
    fn excess(&self, acted_on: usize) -> Option<(usize, &'static str)> {
        if self.length - self.items.len() > MOST_ITEMS {
            Some((MOST_ITEMS, ""))
        } else {
            let too_many = self.too_many || self.items.len() > acted_on;
            too_many.then_some((MOST_PICKED, " that the webhook acts on"))
        }
    }

    /// Returns the items to act on, with their indexes.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &T)> {
        self.items.iter().map(|(index, item)| (*index, item))
    }
}

impl<T> Default for Picked<T> {
    fn default() -> Self {
        Self { items: Vec::new(), length: 0, too_many: false }
    }
}

impl Container<'_> {
    pub(super) fn sets(&self, variable: &str) -> bool {
        self.env.iter().flat_map(Picked::iter).any(|(_, entry)| entry.name == variable)
    }

    /// Returns the first volume of the sidecar that the container uses as a block device.
    pub(super) fn device(&self) -> Option<&'static str> {
        self.volume_devices.iter().map(|(_, device)| device.volume).next()
    }
}

impl Ports<'_> {
    /// Returns whether one of the ports is `port`, as container port or host port.
    pub(super) fn declare(&self, port: u16) -> bool {
        let port = Some(Scalar(i64::from(port)));
        let mut declared = false;
        // The list was parsed before, so this cannot fail.
        let _ = each(self.0, |_, Object(Port { container_port, host_port })| {
            declared |= [container_port, host_port].contains(&port);
            Ok(())
        });
        declared
    }
}

impl<'de: 'a, 'a> Pick<'de> for Variable<'a> {
    fn pick(raw: &'de RawValue) -> serde_json::Result<Option<Self>> {
        let Object(Name { name }) = serde_json::from_str(raw.get())?;
        Ok(names::of_variable(&name).map(|name| Self { name, raw }))
    }
}

impl<'de: 'a, 'a> Pick<'de> for Mount<'a> {
    fn pick(raw: &'de RawValue) -> serde_json::Result<Option<Self>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Read<'a> {
            #[serde(borrow)]
            name: Text<'a>,
            #[serde(borrow, default, deserialize_with = "or_default")]
            mount_path: Text<'a>,
        }
        let Object(Read { name, mount_path: path }) = serde_json::from_str(raw.get())?;
        let volume = names::of_volume(&name);
        let acted_on = volume.is_some() || names::covers_token(&path);
        Ok(acted_on.then_some(Self { volume, path, raw }))
    }
}

impl<'de: 'a, 'a> Pick<'de> for Volume<'a> {
    fn pick(raw: &'de RawValue) -> serde_json::Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Read<'a> {
            #[serde(borrow)]
            name: Text<'a>,
            #[serde(borrow)]
            projected: Option<Object<Projected<'a>>>,
        }
        #[derive(Deserialize)]
        struct Projected<'a> {
            #[serde(borrow, default, deserialize_with = "or_default")]
            sources: Audiences<'a>,
        }
        let Object(Read { name, projected }) = serde_json::from_str(raw.get())?;
        let Audiences { first: audiences, too_many } =
            projected.map(|Object(projected)| projected.sources).unwrap_or_default();
        let acted_on = !audiences.is_empty() || names::of_volume(&name).is_some();
        Ok(acted_on.then_some(Self { name, audiences, too_many, raw }))
    }
}

impl<'a> Pick<'a> for Device {
    fn pick(raw: &'a RawValue) -> serde_json::Result<Option<Self>> {
        let Object(Name { name }) = serde_json::from_str(raw.get())?;
        Ok(names::of_our_volume(&name).map(|volume| Self { volume }))
    }
}

impl Pairs<'_> {
    /// Returns the limit that the map exceeds.
    fn excess(&self) -> Option<(usize, &'static str)> {
        (self.found > MOST_ITEMS).then_some((MOST_ITEMS, ""))
    }

    pub(super) fn find(&self, key: &str) -> Option<&str> {
        self.first.iter().find(|(name, _)| **name == *key).map(|(_, value)| &**value)
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de, T: Pick<'de>> Deserialize<'de> for Picked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut picked = Self::default();
        let pick = |index, raw: &'de RawValue| {
            picked.length = index + 1;
            match T::pick(raw)? {
                None => {}
                Some(_) if picked.items.len() == MOST_PICKED + ADDED => picked.too_many = true,
                Some(item) => picked.items.push((index, item)),
            }
            Ok(())
        };
        deserializer.deserialize_any(Each(pick, PhantomData))?;
        Ok(picked)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Audiences<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Source<'a> {
            #[serde(borrow)]
            service_account_token: Option<Object<Token<'a>>>,
        }
        #[derive(Deserialize)]
        struct Token<'a> {
            #[serde(borrow)]
            audience: Option<Text<'a>>,
        }
        let mut audiences = Self::default();
        let push = |_, Object(Source { service_account_token: token }): Object<Source<'de>>| {
            match token.and_then(|Object(token)| token.audience) {
                Some(_) if audiences.first.len() == MOST_PICKED => audiences.too_many = true,
                audience => audiences.first.extend(audience),
            }
            Ok(())
        };
        deserializer.deserialize_any(Each(push, PhantomData))?;
        Ok(audiences)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Ports<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        each(raw, |_, _: Object<Port>| Ok(())).map_err(D::Error::custom)?;
        Ok(Self(raw))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Containers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut containers = Containers::default();
        let push = |index, Object(container): Object<Container<'de>>| {
            containers.found = index + 1;
            // At a reinvocation the sidecar is one more.
            if index <= MOST_CONTAINERS {
                containers.first.push(container);
            }
            Ok(())
        };
        deserializer.deserialize_any(Each(push, PhantomData))?;
        Ok(containers)
    }
}

impl<'de> Deserialize<'de> for AnyList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut length = 0;
        let count = |index, _: IgnoredAny| {
            length = index + 1;
            Ok(())
        };
        deserializer.deserialize_any(Each(count, PhantomData))?;
        Ok(Self { length })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfPairs;
        impl<'de> Visitor<'de> for OfPairs {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Pairs { first: Vec::new(), found: 0 };
                while let Some(pair) = map.next_entry()? {
                    pairs.found += 1;
                    if pairs.found <= MOST_ITEMS {
                        pairs.first.push(pair);
                    }
                }
                Ok(pairs)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom(TEXT))
            }
        }
        deserializer.deserialize_any(OfPairs)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText;
        impl<'de> Visitor<'de> for OfText {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(OfText)
    }
}

/// The two lists of containers, as JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lists<'a> {
    #[serde(borrow)]
    containers: Option<&'a RawValue>,
    #[serde(borrow)]
    init_containers: Option<&'a RawValue>,
}

impl<'a> Lists<'a> {
    fn of(&self, list: List) -> Option<&'a RawValue> {
        match list {
            List::Containers => self.containers,
            List::InitContainers => self.init_containers,
        }
    }
}

/// Calls a function for each item of a list, and keeps no item.
struct Each<F, T>(F, PhantomData<T>);

impl<'de, T, F> Visitor<'de> for Each<F, T>
where
    T: Deserialize<'de>,
    F: FnMut(usize, T) -> serde_json::Result<()>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(item) = items.next_element()? {
            (self.0)(index, item).map_err(A::Error::custom)?;
            index += 1;
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(TEXT))
    }
}

fn each<'a, T: Deserialize<'a>>(
    list: &'a RawValue,
    f: impl FnMut(usize, T) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    serde_json::Deserializer::from_str(list.get()).deserialize_any(Each(f, PhantomData))
}

/// Reads null as absent, as Kubernetes does.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Returns the part of the pod that does not match the schema, as text for a refusal.
fn place(object: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Read<'a> {
        #[serde(borrow, default)]
        metadata: Option<&'a RawValue>,
        #[serde(borrow, default)]
        spec: Option<&'a RawValue>,
    }
    let Ok(Object(Read { metadata, spec })) = serde_json::from_str(object.get()) else {
        return "the pod".to_owned();
    };
    if metadata.is_none_or(|metadata| {
        serde_json::from_str::<Object<Metadata<'_>>>(metadata.get()).is_err()
    }) {
        return "metadata".to_owned();
    }
    let lists = spec.and_then(|spec| serde_json::from_str::<Object<Lists<'_>>>(spec.get()).ok());
    for list in [List::Containers, List::InitContainers] {
        let mut wrong = None;
        if let Some(list) = lists.as_ref().and_then(|Object(lists)| lists.of(list)) {
            let _ = each(list, |index, item: &RawValue| {
                if wrong.is_none()
                    && serde_json::from_str::<Object<Container<'_>>>(item.get()).is_err()
                {
                    wrong = Some(index);
                }
                Ok(())
            });
        }
        if let Some(index) = wrong {
            return format!("spec.{}[{index}]", list.as_str());
        }
    }
    "spec".to_owned()
}

/// Maximum number of containers of an agent pod. Each gets a kilobyte of variables, and the
/// response must be written in time: a pod of thousands would delay the pods of all tenants.
pub(super) const MOST_CONTAINERS: usize = 256;
/// Maximum number of items in one list that the webhook acts on. It acts on some 50 names, and an
/// ordinary list repeats none of them.
const MOST_PICKED: usize = 128;
/// Maximum number of items that the webhook itself adds to a list. They are present at a
/// reinvocation.
const ADDED: usize = 32;
/// Maximum length of the lists of labels, annotations, node selector entries and volumes, and of
/// the variables and mounts of a container, not counting the items that the webhook acts on.
///
/// Kubernetes has no such limits. But the API server's time for an expression of the guard that
/// iterates a list grows with the square of its length, since it searches a complete stack at each
/// step (`refValStack.drop` in cel-go's `interpreter/runtimecost.go`, 0.29). The guard's limit is
/// the sum of [`MOST_PICKED`], [`ADDED`] and this number.
pub(super) const MOST_ITEMS: usize = 1024;
