//! The sidecar's container and volumes.
//!
//! They set every field that the API server would default, so that a stored pod compares equal at a
//! reinvocation.

use std::{borrow::Cow, collections::BTreeMap, sync::LazyLock};

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction,
        ObjectFieldSelector, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile,
        SecurityContext, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::api::resource::Quantity as KubernetesQuantity,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    eks,
    names::{
        BASE_VOLUME, CONTAINER_NAME, EMPTY_VOLUME, METADATA_DISABLED, NO_PROXIES, PROXIES, REGIONS,
        STS_ENDPOINTS, TOKEN_DIRECTORY, TOKEN_VOLUME,
    },
};
use crate::{
    config::{
        BaseCredentials, Component, Config, CredentialSource, IpFamily, Quantity, Resources,
        Sidecar,
    },
    json::Text,
    session::{CaBundle, Session, base_credentials::BaseSource, env},
};

/// Returns the sidecar's container. `existing` is the pod's container of that name. Two of its
/// fields stay: the image, if a policy engine pinned it to a listed digest, and the ephemeral storage
/// that a LimitRange may have added to its resources.
pub(super) fn container(
    session: &Session,
    source: CredentialSource<'_>,
    component: &Component,
    config: &Config,
    existing: Option<&RawValue>,
) -> Container {
    let Sidecar { image, image_pull_policy, port: _, uid, duration: _, resources, env: _ } =
        &config.sidecar;
    let Existing { image: pinned, resources: stored } =
        existing.map(Existing::of).unwrap_or_default();
    let pinned = pinned.filter(|reference| image.is(reference));
    Container {
        name: CONTAINER_NAME.to_owned(),
        image: Some(pinned.as_deref().unwrap_or(image.as_str()).to_owned()),
        args: Some(vec!["sidecar".to_owned()]),
        env: Some(variables(session, source, component, config)),
        resources: Some(resources_beside(resources, stored.unwrap_or_default())),
        volume_mounts: Some(mounts(source)),
        restart_policy: Some("Always".to_owned()),
        // The time that an agent may wait for its credentials. Each probe waits for up to 3 s
        // itself, so the kubelet restarts the container after 15 minutes or more.
        startup_probe: Some(Probe {
            exec: Some(ExecAction {
                command: Some(vec!["/fab-session-injector".to_owned(), "probe".to_owned()]),
            }),
            timeout_seconds: Some(5),
            period_seconds: Some(1),
            success_threshold: Some(1),
            failure_threshold: Some(300),
            ..Probe::default()
        }),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("File".to_owned()),
        image_pull_policy: Some(image_pull_policy.as_str().to_owned()),
        security_context: Some(SecurityContext {
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            run_as_user: Some((*uid).into()),
            run_as_group: Some((*uid).into()),
            run_as_non_root: Some(true),
            read_only_root_filesystem: Some(true),
            allow_privilege_escalation: Some(false),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// Returns the sidecar's volumes by name. `None`: the name stays unused, and a volume of that name
/// is removed.
pub(super) fn volumes(
    source: CredentialSource<'_>,
) -> [(&'static str, Option<Cow<'static, Volume>>); 3] {
    static TOKEN: LazyLock<Volume> = LazyLock::new(|| in_memory(TOKEN_VOLUME));
    static EMPTY: LazyLock<Volume> = LazyLock::new(|| in_memory(EMPTY_VOLUME));
    static WEB_IDENTITY: LazyLock<Volume> = LazyLock::new(|| base(eks::WEB_IDENTITY_AUDIENCE));
    static POD_IDENTITY: LazyLock<Volume> = LazyLock::new(|| base(eks::POD_IDENTITY_AUDIENCE));
    let base = match source {
        CredentialSource::Base(BaseCredentials::Environment) => None,
        CredentialSource::Base(BaseCredentials::Irsa(_)) => Some(Cow::Borrowed(&*WEB_IDENTITY)),
        CredentialSource::Base(BaseCredentials::PodIdentity(_)) => {
            Some(Cow::Borrowed(&*POD_IDENTITY))
        }
        CredentialSource::Issuer(issuer) => Some(Cow::Owned(base(&issuer.audience))),
    };
    let ours = |volume| Some(Cow::Borrowed(volume));
    [(TOKEN_VOLUME, ours(&*TOKEN)), (BASE_VOLUME, base), (EMPTY_VOLUME, ours(&*EMPTY))]
}

fn in_memory(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(KubernetesQuantity("1Mi".to_owned())),
        }),
        ..Volume::default()
    }
}

fn base(audience: &str) -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(audience.to_owned()),
        expiration_seconds: Some(3600),
        path: "token".to_owned(),
    };
    let source =
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
    Volume {
        name: BASE_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o644),
            sources: Some(vec![source]),
        }),
        ..Volume::default()
    }
}

/// Returns the mount by which an agent reads the token of its credential endpoint.
pub(super) fn agent_token_mount() -> VolumeMount {
    mount(TOKEN_VOLUME, TOKEN_DIRECTORY, true)
}

/// Returns the URI of the sidecar's credential endpoint. A literal loopback address is the only form
/// that every AWS SDK accepts, also an old one.
pub(super) fn credentials_uri(port: u16) -> String {
    format!("http://127.0.0.1:{port}{}", env::CREDENTIALS_PATH)
}

pub(super) fn token_file() -> String {
    format!("{TOKEN_DIRECTORY}/token")
}

/// Returns an entry of a container's `env`, as the API server stores it.
pub(super) fn entry(variable: &env::Variable) -> EnvVar {
    let env::Variable { name, value } = variable;
    match value {
        env::Value::Field(path) => {
            let field = ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: (*path).to_owned(),
            };
            let value_from =
                Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() });
            EnvVar { name: (*name).to_owned(), value: None, value_from }
        }
        env::Value::Text(value) => text(name, value),
    }
}

/// Returns an entry of a container's `env` with a literal value. The API server stores no empty
/// value.
pub(super) fn text(name: &str, value: &str) -> EnvVar {
    let value = Some(value).filter(|value| !value.is_empty());
    EnvVar { name: name.to_owned(), value: value.map(str::to_owned), value_from: None }
}

fn variables(
    session: &Session,
    source: CredentialSource<'_>,
    component: &Component,
    config: &Config,
) -> Vec<EnvVar> {
    let serving = env::Serving {
        port: config.sidecar.port,
        start_gate: component.start_gate,
        token_file: token_file().into(),
    };
    let mut variables: Vec<EnvVar> = env::session_variables(session)
        .iter()
        .chain(&env::endpoint_variables(&serving))
        .map(entry)
        .collect();
    let token_file = format!("{BASE_DIRECTORY}/token");
    let base = |base: BaseSource| base.variables();
    let given = match source {
        CredentialSource::Base(BaseCredentials::Environment) => base(BaseSource::Environment),
        CredentialSource::Base(BaseCredentials::Irsa(template)) => {
            let role = template.of(&session.tenant, component);
            base(BaseSource::WebIdentity { role, token_file })
        }
        CredentialSource::Base(BaseCredentials::PodIdentity(family)) => {
            base(BaseSource::PodIdentity { uri: eks::pod_identity_uri(*family), token_file })
        }
        CredentialSource::Issuer(issuer) => {
            let ca = issuer.ca.known().map(CaBundle::as_str).unwrap_or_default();
            let mut given = env::issuer_variables(&issuer.endpoint, ca, &token_file).to_vec();
            given.extend(session.on_behalf_of.as_ref().map(env::on_behalf_of_variable));
            given
        }
    };
    variables.extend(given.iter().map(entry));
    if let Some(region) = &config.region {
        let [own, default] = REGIONS;
        variables.push(text(own, region.as_str()));
        variables.push(text(default, region.as_str()));
    }
    variables.extend(config.aws_ca_bundle.iter().map(env::ca_variable).map(|it| entry(&it)));
    variables.push(text(STS_ENDPOINTS, "regional"));
    variables.push(text(METADATA_DISABLED, "true"));
    // The values of `sidecar.env` take precedence: they are for clusters with other endpoints.
    for (name, value) in &config.sidecar.env {
        variables.retain(|variable| variable.name != *name);
        variables.push(text(name, value));
    }
    if let CredentialSource::Base(BaseCredentials::PodIdentity(family)) = source {
        keep_agent_off_proxies(&mut variables, *family);
    }
    variables
}

/// Adds the node's Pod Identity agent to `NO_PROXY` and `no_proxy`. The proxy is for STS. The agent
/// is not behind it, and its requests carry the base token without TLS.
fn keep_agent_off_proxies(variables: &mut Vec<EnvVar>, family: IpFamily) {
    if !variables.iter().any(|variable| PROXIES.contains(&&*variable.name)) {
        return;
    }
    let mut take = |name: &str| {
        let found = variables.iter().position(|variable| variable.name == name);
        found.and_then(|index| variables.remove(index).value)
    };
    let [upper, lower] = NO_PROXIES.map(&mut take);
    let agent = eks::pod_identity_address(family).to_string();
    // If only one of the two is set, its value is used for both.
    for (name, listed) in [
        (NO_PROXIES[0], upper.as_ref().or(lower.as_ref())),
        (NO_PROXIES[1], lower.as_ref().or(upper.as_ref())),
    ] {
        let hosts = listed.map(String::as_str).into_iter().chain([&*agent]);
        variables.push(text(name, &hosts.collect::<Vec<&str>>().join(",")));
    }
}

fn mounts(source: CredentialSource<'_>) -> Vec<VolumeMount> {
    let token = mount(TOKEN_VOLUME, TOKEN_DIRECTORY, false);
    // The ServiceAccount admission plugin mounts a token for the Kubernetes API here, unless the
    // container already has a mount at this path.
    let empty = mount(EMPTY_VOLUME, SERVICE_ACCOUNT_DIRECTORY, true);
    match source {
        CredentialSource::Base(BaseCredentials::Environment) => vec![token, empty],
        CredentialSource::Base(BaseCredentials::Irsa(_) | BaseCredentials::PodIdentity(_))
        | CredentialSource::Issuer(_) => {
            vec![token, mount(BASE_VOLUME, BASE_DIRECTORY, true), empty]
        }
    }
}

fn mount(volume: &str, directory: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: directory.to_owned(),
        // The API server stores no `false`.
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

/// Returns the configured CPU and memory, and the ephemeral storage that a LimitRange may have
/// added.
///
/// All other existing resources are dropped: with an extended resource a device plugin can add
/// variables, mounts and devices to the container that holds the base token.
fn resources_beside(resources: &Resources, stored: Kinds<'_>) -> ResourceRequirements {
    let Resources { cpu_request, memory_request, cpu_limit, memory_limit } = resources;
    let quantity = |quantity: &Quantity| KubernetesQuantity(quantity.as_str().to_owned());
    let beside = |storage: Option<String>, cpu: &Quantity, memory: &Quantity| {
        let mut all: BTreeMap<String, KubernetesQuantity> = BTreeMap::new();
        all.insert("cpu".to_owned(), quantity(cpu));
        all.insert("memory".to_owned(), quantity(memory));
        if let Some(storage) = storage {
            all.insert(STORAGE.to_owned(), KubernetesQuantity(storage));
        }
        Some(all)
    };
    let Kinds { limits, requests } = stored;
    ResourceRequirements {
        limits: beside(storage(limits), cpu_limit, memory_limit),
        requests: beside(storage(requests), cpu_request, memory_request),
        claims: None,
    }
}

/// The fields of a pod's sidecar that the webhook may leave as they are.
#[derive(Default, Deserialize)]
struct Existing<'a> {
    #[serde(borrow)]
    image: Option<Text<'a>>,
    #[serde(borrow)]
    resources: Option<Kinds<'a>>,
}

#[derive(Default, Deserialize)]
struct Kinds<'a> {
    #[serde(borrow)]
    limits: Option<StorageQuantity<'a>>,
    #[serde(borrow)]
    requests: Option<StorageQuantity<'a>>,
}

#[derive(Deserialize)]
struct StorageQuantity<'a> {
    #[serde(borrow, rename = "ephemeral-storage")]
    storage: Option<Text<'a>>,
}

impl<'a> Existing<'a> {
    fn of(container: &'a RawValue) -> Self {
        serde_json::from_str(container.get()).unwrap_or_default()
    }
}

fn storage(stored: Option<StorageQuantity<'_>>) -> Option<String> {
    let storage = stored?.storage?;
    (storage.len() <= LONGEST_QUANTITY).then(|| storage.to_string())
}

const STORAGE: &str = "ephemeral-storage";
/// Maximum length of a quantity, in bytes: many times that of the largest one.
const LONGEST_QUANTITY: usize = 64;
/// Annotation of a pod that the API server makes the AppArmor profile of the sidecar, after the
/// webhooks (`applyAppArmorVersionSkew` in its `pkg/registry/core/pod/strategy.go`).
pub(super) const APPARMOR_ANNOTATION: &str =
    "container.apparmor.security.beta.kubernetes.io/fab-session-credentials";
const BASE_DIRECTORY: &str = "/var/run/fab-session-base";
const SERVICE_ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
