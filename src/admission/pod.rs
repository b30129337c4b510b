//! Reads a pod from the JSON of the review. It skips fields that the webhook does not use, and
//! copies none.
//!
//! The JSON is untrusted input, so the memory for it has a limit that does not depend on its
//! length: from each list it takes only the items that the webhook acts on, at most
//! [`MOST_PICKED`].

use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

use super::{
    bounded::{ADDED, AnyList, MOST_PICKED, Pairs, Picked},
    items::{Device, Mount, Named, PodVariable, Volume},
    names::CONTAINER_NAME,
    refusal::{Refusal, shown},
};
use crate::{
    config::{self, Config, Creator},
    json::{Each, Object, Scalar, Text, each, or_default},
};

/// A pod whose used fields match the Pod API schema.
pub(super) struct Pod<'a> {
    pub(super) metadata: Metadata<'a>,
    pub(super) spec: Spec<'a>,
    object: &'a RawValue,
    pub(super) creator: Creator<'a>,
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
    pub(super) os: Option<Object<Named<'a>>>,
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
    pub(super) env: Option<Picked<PodVariable<'a>>>,
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

/// A container's list of ports. Each item matches the schema of a port.
pub(super) struct Ports<'a>(&'a RawValue);

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

impl<'a> Pod<'a> {
    pub(super) fn read(object: &'a RawValue, creator: Creator<'a>) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct MetadataAndSpec<'a> {
            #[serde(borrow)]
            metadata: Object<Metadata<'a>>,
            #[serde(borrow)]
            spec: Object<Spec<'a>>,
        }
        let Object(MetadataAndSpec { metadata: Object(metadata), spec: Object(spec) }) =
            serde_json::from_str(object.get())
                .map_err(|_| Refusal::UnreadablePod { place: place(object) })?;
        Ok(Self { metadata, spec, object, creator })
    }

    /// Returns the start of the pod's name, or of the name to which the API server adds a suffix
    /// after the review.
    pub(super) fn name(&self) -> Option<String> {
        let Metadata { name, generate_name, .. } = &self.metadata;
        [name, generate_name].into_iter().find(|name| !name.is_empty()).map(|name| shown(name))
    }

    /// Refuses a pod with more labels than are read: the others might make it an agent.
    pub(super) fn refuse_excess_labels(&self) -> Result<(), Refusal> {
        match self.metadata.labels.as_ref().and_then(Pairs::excess) {
            Some((most, _)) => {
                Err(Refusal::TooManyItems { what: format!("the pod has more than {most} labels") })
            }
            None => Ok(()),
        }
    }

    /// Returns the lists that exceed the limits for agent pods, as sentences.
    pub(super) fn excess(&self) -> impl Iterator<Item = String> {
        let Metadata { annotations, .. } = &self.metadata;
        let Spec { volumes, node_selector, .. } = &self.spec;
        let acted_on = if self.has_sidecar() { MOST_PICKED + ADDED } else { MOST_PICKED };
        let audiences = volumes.iter().flat_map(Picked::iter).any(|(_, volume)| volume.too_many);
        let of_pod = [
            (annotations.as_ref().and_then(Pairs::excess), "annotations"),
            (node_selector.as_ref().and_then(Pairs::excess), "entries in its nodeSelector"),
            (volumes.as_ref().and_then(|volumes| volumes.excess(acted_on)), "volumes"),
            (audiences.then_some((MOST_PICKED, "")), "audiences in one volume"),
        ];
        let of_pod = of_pod.into_iter().filter_map(|(excess, what)| {
            let (most, which) = excess?;
            Some(format!("the pod has more than {most} {what}{which}"))
        });
        let of_containers = self.containers().flat_map(move |placed| {
            let Container { name, env, mounts, volume_devices, .. } = placed.container;
            let of_container = [
                (env.as_ref().and_then(|env| env.excess(acted_on)), "variables"),
                (mounts.as_ref().and_then(|mounts| mounts.excess(acted_on)), "mounts"),
                (volume_devices.excess(acted_on), "block devices"),
            ];
            of_container.into_iter().filter_map(move |(excess, what)| {
                let (most, which) = excess?;
                Some(format!("container {:?} has more than {most} {what}{which}", shown(name)))
            })
        });
        of_pod.chain(of_containers)
    }

    /// Returns the containers that are read: the first [`MOST_CONTAINERS`] and one more of each
    /// list, regular containers before init containers, in the order of their list.
    pub(super) fn containers(&self) -> impl Iterator<Item = Placed<'_, 'a>> {
        let placed = |list| move |(index, container)| Placed { list, index, container };
        let regular = self.spec.containers.first.iter().enumerate().map(placed(List::Containers));
        let init = self.spec.init_containers.iter().flat_map(|init| &init.first).enumerate();
        regular.chain(init.map(placed(List::InitContainers)))
    }

    pub(super) fn has_sidecar(&self) -> bool {
        self.containers().any(|placed| *placed.container.name == *CONTAINER_NAME)
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
        struct OnlyLists<'a> {
            #[serde(borrow)]
            spec: Lists<'a>,
        }
        // The pod was parsed before, so this cannot fail.
        let OnlyLists { spec } = serde_json::from_str(self.object.get()).ok()?;
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

impl config::PodProperties for Pod<'_> {
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

impl Container<'_> {
    /// Returns whether it is a container of a service mesh.
    pub(super) fn is_proxy(&self, config: &Config) -> bool {
        config.proxy_containers.iter().any(|name| **name == *self.name)
    }

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

/// Returns the part of the pod that does not match the schema, as text for a refusal.
fn place(object: &RawValue) -> String {
    #[derive(Deserialize)]
    struct RawParts<'a> {
        #[serde(borrow, default)]
        metadata: Option<&'a RawValue>,
        #[serde(borrow, default)]
        spec: Option<&'a RawValue>,
    }
    let Ok(Object(RawParts { metadata, spec })) = serde_json::from_str(object.get()) else {
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
