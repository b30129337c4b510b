//! Compares the versions of this program, the chart, the webhook and the running sidecars.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{CheckId, Findings, Objects, Seen, items};
use crate::admission::{has_ended, sidecar};

/// The versions in a cluster, by labels and by the tags of images. A tag that is no version is not
/// compared.
#[derive(Debug)]
pub(super) struct Versions {
    deployment: Seen<Option<Value>>,
    /// The number of running sidecars of each version.
    sidecars: BTreeMap<String, usize>,
}

impl Versions {
    pub(super) fn of(deployment: &Seen<Option<Value>>) -> Self {
        Self { deployment: deployment.clone(), sidecars: BTreeMap::new() }
    }

    /// Notes the versions of the sidecars among these pods.
    pub(super) fn see(&mut self, pods: &Seen<Objects>) {
        let running = pods.iter().filter(|pod| !has_ended(*pod));
        for sidecar in running.filter_map(sidecar) {
            let image = sidecar.at("image").string().unwrap_or_default();
            if let Some(version) = of_image(&image) {
                *self.sidecars.entry(version.to_owned()).or_default() += 1;
            }
        }
    }

    /// Compares with `own`, the version of this program.
    pub(super) fn check(&self, own: &str) -> Findings {
        let mut found = Findings::default();
        let deployment = self.deployment.or_report(CheckId::Version, SUBJECT, &mut found);
        // A missing Deployment is a finding of its own.
        let Some(Some(deployment)) = deployment else { return found };
        let labels = &deployment["metadata"]["labels"];
        let chart = labels["helm.sh/chart"].as_str().and_then(|it| it.strip_prefix(CHART));
        let program = labels["app.kubernetes.io/version"].as_str();
        let image = items(&deployment["spec"]["template"]["spec"], "containers")
            .find(|container| container["name"] == "webhook")
            .and_then(|container| container["image"].as_str())
            .unwrap_or_default();
        let webhook = of_image(image);
        // The chart's own version may differ from that of the program that it is made for.
        let wanted = program.or(chart).unwrap_or(own);
        let mut warn = |subject: &str, message: String| {
            found.warning(CheckId::Version, subject, message);
        };
        if wanted != own {
            warn(
                "this program",
                format!(
                    "has version {own}, the chart is for version {wanted}: use the program of that version, because check and explain compare pods with what they would inject themselves"
                ),
            );
        }
        if let Some(webhook) = webhook.filter(|webhook| *webhook != wanted) {
            warn(
                "webhook",
                format!(
                    "its image {image} has version {webhook}, the chart is for version {wanted}: set image.tag in the chart values, or use the chart of version {webhook}"
                ),
            );
        }
        let wanted_of_sidecars = webhook.unwrap_or(wanted);
        let others = self.sidecars.iter().filter(|(version, _)| *version != wanted_of_sidecars);
        let others: Vec<String> =
            others.map(|(version, pods)| format!("{pods} of version {version}")).collect();
        if !others.is_empty() {
            warn(
                "sidecars",
                format!(
                    "the webhook has version {wanted_of_sidecars}; there are running sidecars of other versions ({}): replace their pods",
                    others.join(", ")
                ),
            );
        }
        if found.iter().next().is_none() {
            let sidecars: usize = self.sidecars.values().sum();
            let message = match webhook {
                Some(_) => format!(
                    "this program, the chart, the webhook's image and {sidecars} running sidecars have version {own}"
                ),
                None => format!(
                    "this program, the chart and {sidecars} running sidecars have version {own}; the webhook's image {image} is not compared, because its tag is no version"
                ),
            };
            found.ok(CheckId::Version, SUBJECT, message);
        }
        found
    }
}

/// Returns the version in the tag of an image: X.Y.Z, with or without a `v` in front.
fn of_image(image: &str) -> Option<&str> {
    let tagged = image.split('@').next().unwrap_or_default();
    let (_, tag) = tagged.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))?;
    let version = tag.strip_prefix('v').unwrap_or(tag);
    let core = version.split(['-', '+', '_']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    (numbers.len() == 3 && numbers.iter().all(is_number)).then_some(version)
}

const SUBJECT: &str = "versions";
/// Start of the label `helm.sh/chart`; the version follows.
const CHART: &str = "fab-session-injector-";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(label: &str, image: &str) -> Seen<Option<Value>> {
        Seen::Known(Some(json!({
            "metadata": {"labels": {
                "app.kubernetes.io/version": label,
                "helm.sh/chart": format!("fab-session-injector-{label}"),
            }},
            "spec": {"template": {"spec": {"containers": [{"name": "webhook", "image": image}]}}},
        })))
    }

    fn pods(images: &[&str]) -> Seen<Objects> {
        let pod = |image: &&str| json!({"spec": {"initContainers": [{"name": "fab-session-credentials", "image": image}]}});
        let pods: Vec<Value> = images.iter().map(pod).collect();
        Seen::Known(Objects::of("Pod", &pods))
    }

    #[test]
    fn the_tag_of_an_image_may_be_a_version() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        for (image, want) in [
            ("r.test/i:0.1.0", Some("0.1.0")),
            ("r.test:5000/i:v1.20.3", Some("1.20.3")),
            (&*format!("r.test/i:0.1.0{digest}"), Some("0.1.0")),
            ("i:1.2.3-rc.1", Some("1.2.3-rc.1")),
            ("r.test:5000/i", None),
            (&*format!("r.test/i{digest}"), None),
            ("i:latest", None),
            ("i:1.2", None),
            ("i:1.2.x", None),
            ("", None),
        ] {
            assert_eq!(of_image(image), want, "{image}");
        }
    }

    #[test]
    fn each_other_version_is_a_warning() {
        let cases: [(&str, &str, &[&str], &[&str]); 6] = [
            ("0.1.0", "r/i:0.1.0", &["r/i:0.1.0", "r/i:latest"], &[]),
            ("0.1.0", "r/i:latest", &["r/i:0.1.0"], &[]),
            ("0.2.0", "r/i:0.2.0", &["r/i:0.2.0"], &["this program"]),
            ("0.1.0", "r/i:0.2.0", &[], &["webhook"]),
            ("0.1.0", "r/i:0.1.0", &["r/i:0.0.9", "r/i:0.0.9", "r/i:0.1.0"], &["sidecars"]),
            ("0.2.0", "r/i:0.3.0", &["r/i:0.1.0"], &["this program", "webhook", "sidecars"]),
        ];
        for (label, image, sidecars, want) in cases {
            let mut versions = Versions::of(&deployment(label, image));
            versions.see(&pods(sidecars));
            let found = versions.check("0.1.0");
            let warned: Vec<&str> = found
                .iter()
                .filter(|finding| finding.level == crate::check::Level::Warning)
                .map(|finding| &*finding.subject)
                .collect();
            assert_eq!(warned, want, "{label} {image} {sidecars:?}");
        }
        let mut versions = Versions::of(&deployment("0.1.0", "r/i:0.1.0"));
        versions.see(&pods(&["r/i:0.0.9", "r/i:0.0.9"]));
        let found = versions.check("0.1.0");
        let message = &found.iter().next().unwrap().message;
        assert!(message.contains("(2 of version 0.0.9): replace their pods"), "{message}");
    }
}
