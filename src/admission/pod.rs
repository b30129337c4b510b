//! A pod of a review, as the decision sees it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    bounded::{ADDED, MOST_PICKED, Pairs, Picked},
    names::CONTAINER_NAME,
    pod_fields::{Container, Metadata, PodFields, PodJson, PodText, Spec},
    refusal::{Refusal, shown},
};
use crate::{
    config::{self, Creator},
    json::{Object, each},
};

/// A pod whose used fields match the Pod API schema.
pub(super) struct Pod<'a> {
    pub(super) metadata: &'a Metadata<'a>,
    pub(super) spec: &'a Spec<'a>,
    text: PodText<'a>,
    pub(super) creator: Creator<'a>,
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

impl<'a> Pod<'a> {
    pub(super) fn of(json: &'a PodJson<'a>, creator: Creator<'a>) -> Result<Self, Refusal> {
        match json {
            PodJson::Read(PodFields { metadata, spec }, text) => {
                Ok(Self { metadata: &metadata.0, spec: &spec.0, text: *text, creator })
            }
            PodJson::Unreadable(object) => Err(Refusal::UnreadablePod { place: place(object) }),
        }
    }

    /// Returns the start of the pod's name, or of the name to which the API server adds a suffix
    /// after the review.
    pub(super) fn name(&self) -> Option<String> {
        let Metadata { name, generate_name, .. } = self.metadata;
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
        let Metadata { annotations, .. } = self.metadata;
        let Spec { volumes, node_selector, .. } = self.spec;
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

    /// Returns the containers that are read: the first
    /// [`MOST_CONTAINERS`](super::pod_fields::MOST_CONTAINERS) and one more of each
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
        let Spec { containers, init_containers, .. } = self.spec;
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
        let OnlyLists { spec } = serde_json::from_str(self.text.pod()?.get()).ok()?;
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
        let Spec { service_account_name, service_account, .. } = self.spec;
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
