//! The fields of a pod that the webhook uses, as they are in the JSON of the review. It skips the
//! others, and copies none.
//!
//! The JSON is untrusted input, so the memory for it has a limit that does not depend on its
//! length: from each list it takes only the items that the webhook acts on, at most
//! [`MOST_PICKED`](super::bounded::MOST_PICKED).

use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

use super::{
    bounded::{AnyList, Pairs, Picked},
    items::{Device, Mount, Named, PodVariable, Volume},
};
use crate::{
    config::Config,
    json::{Each, Json, Object, Scalar, Text, each, or_default},
};

/// The JSON of a pod, with the used fields if they match the schema.
#[allow(clippy::large_enum_variant, reason = "there is one in each review")]
pub(super) enum PodJson<'a> {
    Read(PodFields<'a>, PodText<'a>),
    Unreadable(&'a RawValue),
}

/// The used fields of a pod.
#[derive(Deserialize)]
pub(super) struct PodFields<'a> {
    #[serde(borrow)]
    pub(super) metadata: Object<Metadata<'a>>,
    #[serde(borrow)]
    pub(super) spec: Object<Spec<'a>>,
}

/// A text that contains the pod.
#[derive(Clone, Copy)]
pub(super) enum PodText<'a> {
    Pod(&'a RawValue),
    Review(&'a str),
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
    pub(super) service_account_name: Text<'a>,
    /// Deprecated alias of `serviceAccountName`, to which the API server copies it.
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub(super) service_account: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub(super) containers: Containers<'a>,
    #[serde(borrow)]
    pub(super) init_containers: Option<Containers<'a>>,
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
    pub(super) volume_devices: Picked<Device>,
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

/// A list of containers: its first items, and its length.
#[derive(Default)]
pub(super) struct Containers<'a> {
    pub(super) first: Vec<Container<'a>>,
    pub(super) found: usize,
}

impl<'a> PodJson<'a> {
    pub(super) fn of(object: &'a RawValue) -> Self {
        match serde_json::from_str(object.get()) {
            Ok(Object(fields)) => Self::Read(fields, PodText::Pod(object)),
            Err(_) => Self::Unreadable(object),
        }
    }
}

impl<'a> PodText<'a> {
    /// Returns the JSON of the pod. This parses the text again.
    pub(super) fn pod(self) -> Option<&'a RawValue> {
        match self {
            Self::Pod(object) => Some(object),
            Self::Review(text) => {
                let review: &RawValue = serde_json::from_str(text).ok()?;
                Some(Json::from(review).at("request").at("object").raw())
            }
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

/// Maximum number of containers of an agent pod. Each gets a kilobyte of variables, and the
/// response must be written in time: a pod of thousands would delay the pods of all tenants.
pub(super) const MOST_CONTAINERS: usize = 256;
