//! Each pod and pod template of a folder of manifests, as an agent: `inject`, the webhook and the
//! guard agree on it. The folder is `FAB_MANIFESTS` (`make foreign FOLDER=...`), else the goldens.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fab_session_injector::manifest::{self, PodIn};
use harness::{
    api_server::{ApiServer, NotCreated},
    case,
    foreign_fields::without_ours,
    process, program,
    world::{World, role},
};
use serde_json::{Map, Value, json};

use crate::guard;

/// The number of pods by their result.
#[derive(Debug, Default)]
struct Counts {
    files: usize,
    /// Files that are no YAML, such as templates of Helm.
    not_read: usize,
    injected: usize,
    /// Refused by the webhook, by code.
    refused: BTreeMap<String, usize>,
    /// The API server refuses them also without the webhook.
    invalid: usize,
}

/// What `inject` says about a pod.
enum Offline {
    Changed,
    Refused(String),
    Unchanged,
}

#[test]
fn each_pod_of_a_folder_is_injected_or_refused_with_a_code() {
    let folder = folder();
    let world = World::start(&[("config.podSecurity", "privileged")], None);
    world.publish("acme", &role("acme"));
    guard::await_guard(&world);
    let anything = [("pod-security.kubernetes.io/enforce", "privileged")];
    world.namespace(AGENTS, "enabled", "acme", &anything);
    world.namespace(PLAIN, "", "acme", &anything);
    let inject = Inject::of(&world);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let api_server = ApiServer::of(&world.cluster.kubeconfig());
    let mut counts = Counts::default();
    let mut violations = Vec::new();
    for file in files(&folder) {
        counts.files += 1;
        let text = fs::read_to_string(&file).unwrap_or_default();
        let Ok(objects) = manifest::read(&text) else {
            counts.not_read += 1;
            continue;
        };
        for pod in objects.iter().flat_map(PodIn::find) {
            let create =
                |namespace| runtime.block_on(api_server.create(&agent(&pod.pod, namespace)));
            let (plain, ours) = (create(PLAIN), create(AGENTS));
            if let Err(why) = judge(&inject, &agent(&pod.pod, AGENTS), plain, ours, &mut counts) {
                violations.push(format!("{}: {why}\n{}", file.display(), pod.pod));
            }
        }
    }
    println!("{folder:?}: {counts:?}");
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    assert!(counts.injected > 0, "{counts:?}");
}

/// Checks that `inject`, the webhook and the guard agree, that a second injection changes nothing,
/// and that foreign fields stay as they are.
fn judge(
    inject: &Inject,
    pod: &Value,
    plain: Result<Value, NotCreated>,
    ours: Result<Value, NotCreated>,
    counts: &mut Counts,
) -> Result<(), String> {
    match (inject.decide(pod)?, plain, ours) {
        (Offline::Refused(code), _, Err(NotCreated::Refused(said)))
            if said.contains(&format!("[{code}]")) =>
        {
            *counts.refused.entry(code).or_default() += 1;
            Ok(())
        }
        // The API server decodes a pod before it calls the webhook, and validates it afterwards.
        (
            Offline::Changed | Offline::Refused(_),
            Err(NotCreated::Refused(_)),
            Err(NotCreated::Refused(said)),
        ) if OF_OTHERS.iter().all(|other| !said.contains(other)) => {
            counts.invalid += 1;
            Ok(())
        }
        // A pod in the folder may be injected already.
        (Offline::Changed | Offline::Unchanged, plain, Ok(ours)) => {
            if ours["metadata"]["labels"][OF_EACH_AGENT] != "true" {
                return Err(format!("the webhook did not change it: {ours}"));
            }
            if !matches!(inject.decide(&ours)?, Offline::Unchanged) {
                return Err(format!("a second injection changes {ours}"));
            }
            // Without the webhook, a pod with a mount of a removed volume is not stored.
            let before = plain.ok().map(|plain| foreign(&plain));
            let after = foreign(&ours);
            if before.as_ref().is_some_and(|before| *before != after) {
                return Err(format!("foreign fields differ:\n{before:?}\n{after}"));
            }
            counts.injected += 1;
            Ok(())
        }
        (offline, plain, ours) => {
            let offline = match offline {
                Offline::Changed => "changes it".to_owned(),
                Offline::Refused(code) => format!("refuses it with {code}"),
                Offline::Unchanged => "leaves it unchanged".to_owned(),
            };
            let said = [plain, ours].map(|created| match created {
                Ok(_) => "stored".to_owned(),
                Err(error) => format!("{error:?}"),
            });
            let [plain, ours] = said;
            Err(format!("inject {offline}; without the webhook: {plain}; with it: {ours}"))
        }
    }
}

/// The command `inject` with the config of the cluster's webhook.
struct Inject {
    directory: tempfile::TempDir,
    namespace: Value,
}

impl Inject {
    fn of(world: &World) -> Self {
        let directory = process::own_directory();
        let config = world.manifest("ConfigMap")["data"]["config.yaml"].as_str().unwrap();
        fs::write(directory.path().join("config.yaml"), config).unwrap();
        let roles = json!({"roles": {"acme": role("acme")}});
        fs::write(directory.path().join("roles.yaml"), roles.to_string()).unwrap();
        let get = ["get", "namespace", AGENTS];
        Self { directory, namespace: world.cluster.kubectl(&get).json() }
    }

    fn decide(&self, pod: &Value) -> Result<Offline, String> {
        let mut command = Command::new(program());
        command
            .args(["inject", "--filename=-", "--roles=roles.yaml", "--config=config.yaml"])
            .args(["--patch", "--namespace", AGENTS])
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = format!("{}\n---\n{pod}\n", self.namespace);
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) if output.stdout.is_empty() => Ok(Offline::Unchanged),
            Some(0) => Ok(Offline::Changed),
            Some(1) => {
                // `Pod/NAME: SENTENCE [CODE]: REMEDY`; the first line is the webhook's.
                let line = said.lines().find(|line| line.starts_with("Pod/")).unwrap_or_default();
                let code = line.rsplit_once("]: ").and_then(|(start, _)| start.rsplit_once('['));
                code.map(|(_, code)| Offline::Refused(code.to_owned()))
                    .ok_or_else(|| format!("inject: {said}"))
            }
            code => Err(format!("inject ends with {code:?}: {said}")),
        }
    }
}

/// Returns the pod as one of an agent: its service account is fenced.
fn agent(pod: &Value, namespace: &str) -> Value {
    let mut pod = pod.clone();
    let kept = |key: &str| pod["metadata"][key].clone();
    let mut metadata = json!({"generateName": "s-", "namespace": namespace});
    for key in ["annotations", "labels"] {
        if !kept(key).is_null() {
            metadata[key] = kept(key);
        }
    }
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"] = metadata;
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.shift_remove("serviceAccount");
        spec.insert("serviceAccountName".to_owned(), "tenant-runtime".into());
    }
    pod.as_object_mut().unwrap().shift_remove("status");
    pod
}

/// Returns the foreign fields of a stored pod, without those that differ for each pod.
fn foreign(pod: &Value) -> Value {
    let mut pod = without_ours(pod);
    let metadata =
        ["annotations", "labels"].map(|key| (key.to_owned(), pod["metadata"][key].clone()));
    pod["metadata"] = metadata.into_iter().collect::<Map<_, _>>().into();
    pod.as_object_mut().unwrap().shift_remove("status");
    let mut text = pod.to_string();
    // The API server's own volume has a random name.
    let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    let names = volumes.iter().filter_map(|volume| volume["name"].as_str());
    for name in names.filter(|name| name.starts_with("kube-api-access-")) {
        text = text.replace(name, "kube-api-access");
    }
    let mut pod = serde_json::from_str(&text).unwrap();
    drop_empty(&mut pod);
    pod
}

/// Removes nulls, empty lists and empty maps: a list that had no item may now be empty.
fn drop_empty(value: &mut Value) {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(entries) => {
            entries.values_mut().for_each(drop_empty);
            entries.retain(|_, value| !is_empty(value));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

#[allow(clippy::disallowed_methods, reason = "the folder of `make foreign`")]
fn folder() -> PathBuf {
    env::var_os("FAB_MANIFESTS").map_or_else(case::directory, PathBuf::from)
}

/// Returns the JSON and YAML files below the folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|it| ["json", "yaml", "yml"].iter().any(|of| it == *of))
            {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Label that the webhook sets on each agent.
const OF_EACH_AGENT: &str = "eks.amazonaws.com/skip-pod-identity-webhook";
/// Texts in each refusal of the webhook and of the guard.
const OF_OTHERS: [&str; 2] = ["admission webhook", "ValidatingAdmissionPolicy"];
const AGENTS: &str = "tenants-shapes";
const PLAIN: &str = "plain-shapes";
