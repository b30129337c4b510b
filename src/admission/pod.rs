//! A pod for reading, over the JSON that came: what we do not look at is skipped, nothing is
//! copied, nothing is lost.

use std::{borrow::Cow, fmt, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::refusal::Refusal;
use crate::config;

/// A pod whose parts that we look at have the shapes that Kubernetes gives them.
pub(super) struct Pod<'a> {
    pub(super) metadata: Metadata<'a>,
    pub(super) spec: Spec<'a>,
    object: &'a RawValue,
    creator: &'a str,
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
    /// Its deprecated second name, which the API server copies to the first.
    #[serde(borrow, default, deserialize_with = "or_default")]
    service_account: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    containers: Vec<Container<'a>>,
    #[serde(borrow)]
    init_containers: Option<Vec<Container<'a>>>,
    /// None where the pod has no such list.
    #[serde(borrow)]
    pub(super) volumes: Option<Vec<Named<'a>>>,
    #[serde(borrow)]
    pub(super) node_selector: Option<Pairs<'a>>,
    #[serde(borrow)]
    pub(super) os: Option<Name<'a>>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) host_network: bool,
    #[serde(default, deserialize_with = "or_default", rename = "hostPID")]
    pub(super) host_pid: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) share_process_namespace: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    /// None where the container has no such list.
    #[serde(borrow)]
    pub(super) env: Option<Vec<Named<'a>>>,
    #[serde(borrow, rename = "volumeMounts")]
    pub(super) mounts: Option<Vec<Named<'a>>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub(super) volume_devices: Vec<Name<'a>>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ports: Vec<Port>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) env_from: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) container_port: Option<i64>,
    pub(super) host_port: Option<i64>,
}

#[derive(Deserialize)]
pub(super) struct Name<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
}

/// Which of the pod's two lists a container stands in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum List {
    Containers,
    InitContainers,
}

/// A container and where it stands.
pub(super) struct Placed<'p, 'a> {
    pub(super) list: List,
    pub(super) index: usize,
    pub(super) container: &'p Container<'a>,
}

/// An item of a list that Kubernetes keys by `name`.
pub(super) struct Named<'a> {
    pub(super) name: Text<'a>,
    raw: &'a RawValue,
}

/// A mapping of text to text, in the order in which it came.
pub(super) struct Pairs<'a>(Vec<(Text<'a>, Text<'a>)>);

/// Text of the JSON, borrowed where it has no escapes.
#[derive(Default)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl<'a> Pod<'a> {
    pub(super) fn read(object: &'a RawValue, creator: &'a str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Object<'a> {
            #[serde(borrow)]
            metadata: Metadata<'a>,
            #[serde(borrow)]
            spec: Spec<'a>,
        }
        let Object { metadata, spec } = serde_json::from_str(object.get())
            .map_err(|_| Refusal::UnreadablePod { place: place(object) })?;
        Ok(Self { metadata, spec, object, creator })
    }

    /// Regular containers, then init containers, each in the order of its list.
    pub(super) fn containers(&self) -> impl Iterator<Item = Placed<'_, 'a>> {
        let placed = |list| move |(index, container)| Placed { list, index, container };
        let regular = self.spec.containers.iter().enumerate().map(placed(List::Containers));
        let init = self.spec.init_containers.iter().flatten().enumerate();
        regular.chain(init.map(placed(List::InitContainers)))
    }

    pub(super) fn has_init_containers(&self) -> bool {
        self.spec.init_containers.is_some()
    }

    /// A container as it came, whole. It is read again for that, which is seldom needed.
    pub(super) fn whole(&self, placed: &Placed<'_, '_>) -> Value {
        #[derive(Deserialize)]
        struct Object<'a> {
            #[serde(borrow)]
            spec: Lists<'a>,
        }
        let lists = serde_json::from_str::<Object<'_>>(self.object.get()).map(|object| object.spec);
        let raw = lists.ok().and_then(|lists| lists.of(placed.list).get(placed.index).copied());
        raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.find(key)
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.find(key)
    }

    /// The API server's own default stands for none, since it is not there yet in a manifest
    /// on disk.
    fn service_account(&self) -> &str {
        let Spec { service_account_name, service_account, .. } = &self.spec;
        [&**service_account_name, &**service_account, "default"]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default()
    }
}

impl config::Pod for Pod<'_> {
    fn creator(&self) -> &str {
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

impl Named<'_> {
    /// The item as it came, whole.
    pub(super) fn whole(&self) -> Value {
        serde_json::from_str(self.raw.get()).unwrap_or_default()
    }
}

impl Named<'_> {
    /// The audiences of the service account tokens that a volume projects.
    pub(super) fn token_audiences(&self) -> Result<Vec<String>, Refusal> {
        #[derive(Deserialize)]
        struct Volume {
            projected: Option<Projected>,
        }
        #[derive(Deserialize)]
        struct Projected {
            #[serde(default, deserialize_with = "or_default")]
            sources: Vec<Source>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Source {
            service_account_token: Option<Token>,
        }
        #[derive(Deserialize)]
        struct Token {
            audience: Option<String>,
        }
        // What cannot be read might be such a token.
        let Volume { projected } = serde_json::from_str(self.raw.get())
            .map_err(|_| Refusal::UnreadablePod { place: format!("volume {:?}", &*self.name) })?;
        let sources = projected.map(|projected| projected.sources).unwrap_or_default();
        Ok(sources
            .into_iter()
            .filter_map(|source| source.service_account_token?.audience)
            .collect())
    }
}

impl Pairs<'_> {
    pub(super) fn find(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| **name == *key).map(|(_, value)| &**value)
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

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let Name { name } = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        Ok(Self { name, raw })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfPairs;
        impl<'de> Visitor<'de> for OfPairs {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of text to text")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or_default());
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(OfPairs)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText;
        impl<'de> Visitor<'de> for OfText {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lists<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    containers: Vec<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    init_containers: Vec<&'a RawValue>,
}

impl<'a> Lists<'a> {
    fn of(&self, list: List) -> &[&'a RawValue] {
        match list {
            List::Containers => &self.containers,
            List::InitContainers => &self.init_containers,
        }
    }
}

/// Kubernetes takes null for absent.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Which part of a pod that cannot be read is at fault, for people.
fn place(object: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow, default)]
        metadata: Option<&'a RawValue>,
        #[serde(borrow, default)]
        spec: Option<&'a RawValue>,
    }
    let Ok(Object { metadata, spec }) = serde_json::from_str(object.get()) else {
        return "the whole".to_owned();
    };
    if metadata.is_none_or(|metadata| serde_json::from_str::<Metadata<'_>>(metadata.get()).is_err())
    {
        return "metadata".to_owned();
    }
    let lists = spec.and_then(|spec| serde_json::from_str::<Lists<'_>>(spec.get()).ok());
    for list in [List::Containers, List::InitContainers] {
        let items = lists.as_ref().map(|lists| lists.of(list)).unwrap_or_default();
        let wrong = items
            .iter()
            .position(|item| serde_json::from_str::<Container<'_>>(item.get()).is_err());
        if let Some(index) = wrong {
            return format!("spec.{}[{index}]", list.as_str());
        }
    }
    "spec".to_owned()
}
