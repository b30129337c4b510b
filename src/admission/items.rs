//! The items of a pod's lists that the webhook acts on.

use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    bounded::{MOST_PICKED, Pick},
    names,
};
use crate::json::{Each, Object, Text, or_default};

#[derive(Deserialize)]
pub(super) struct Named<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
}

/// A variable whose name the webhook acts on, see [`names::of_variable`].
pub(super) struct PodVariable<'a> {
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
    pub(super) too_many: bool,
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
    pub(super) volume: &'static str,
}

impl<'a> PodVariable<'a> {
    /// Returns the literal value, or `None` if the variable has a `valueFrom`.
    pub(super) fn value(&self) -> Option<Text<'a>> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct OnlyValue<'a> {
            #[serde(borrow)]
            value: Option<Text<'a>>,
            value_from: Option<IgnoredAny>,
        }
        let OnlyValue { value, value_from } =
            serde_json::from_str(self.raw.get()).unwrap_or_default();
        value_from.is_none().then(|| value.unwrap_or_default())
    }
}

impl<'de: 'a, 'a> Pick<'de> for PodVariable<'a> {
    fn pick(raw: &'de RawValue) -> serde_json::Result<Option<Self>> {
        let Object(Named { name }) = serde_json::from_str(raw.get())?;
        Ok(names::of_variable(&name).map(|name| Self { name, raw }))
    }
}

impl<'de: 'a, 'a> Pick<'de> for Mount<'a> {
    fn pick(raw: &'de RawValue) -> serde_json::Result<Option<Self>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct NameAndPath<'a> {
            #[serde(borrow)]
            name: Text<'a>,
            #[serde(borrow, default, deserialize_with = "or_default")]
            mount_path: Text<'a>,
        }
        let Object(NameAndPath { name, mount_path: path }) = serde_json::from_str(raw.get())?;
        let volume = names::of_volume(&name);
        let acted_on = volume.is_some() || names::covers_token(&path);
        Ok(acted_on.then_some(Self { volume, path, raw }))
    }
}

impl<'de: 'a, 'a> Pick<'de> for Volume<'a> {
    fn pick(raw: &'de RawValue) -> serde_json::Result<Option<Self>> {
        #[derive(Deserialize)]
        struct NameAndProjected<'a> {
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
        let Object(NameAndProjected { name, projected }) = serde_json::from_str(raw.get())?;
        let Audiences { first: audiences, too_many } =
            projected.map(|Object(projected)| projected.sources).unwrap_or_default();
        let acted_on = !audiences.is_empty() || names::of_volume(&name).is_some();
        Ok(acted_on.then_some(Self { name, audiences, too_many, raw }))
    }
}

impl<'a> Pick<'a> for Device {
    fn pick(raw: &'a RawValue) -> serde_json::Result<Option<Self>> {
        let Object(Named { name }) = serde_json::from_str(raw.get())?;
        Ok(names::of_our_volume(&name).map(|volume| Self { volume }))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Audiences<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct VolumeProjection<'a> {
            #[serde(borrow)]
            service_account_token: Option<Object<TokenProjection<'a>>>,
        }
        #[derive(Deserialize)]
        struct TokenProjection<'a> {
            #[serde(borrow)]
            audience: Option<Text<'a>>,
        }
        let mut audiences = Self::default();
        let push = |_,
                    Object(VolumeProjection { service_account_token: token }): Object<
            VolumeProjection<'de>,
        >| {
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
