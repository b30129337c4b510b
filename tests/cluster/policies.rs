//! Policy engines beside webhook and guard: each row of the table in docs/guard.md, by an engine that
//! is called before the webhook and by one that is called after it. Both are called again if another
//! webhook changed the pod, as Kyverno registers its webhook.

use std::{fs, sync::LazyLock};

use harness::{
    foreign::{Effect, Webhook},
    root,
    world::{self, World, role},
};
use serde_json::{Value, json};

use crate::explain::Terminal;

/// A change that an engine makes to each pod.
struct Row {
    /// The change, in the words of the table.
    change: &'static str,
    effect: Effect,
    /// With an engine that is called after the webhook. With one before it, the webhook has the last
    /// word on the sidecar, and the pod is created as injected.
    after: End,
}

enum End {
    Created,
    /// Created, but not as the webhook injects it.
    Changed,
    /// Refused by the guard, with this code.
    Refused(&'static str),
}

const LISTED: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const REPOSITORY: &str = "ghcr.io/nanohype/fab-session-injector";
const ROW: &str = "test.example/row";
const NAMESPACE: &str = "tenants-policed";

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let world = World::start(&[("config.sidecar.imageDigests[0]", LISTED)], None);
    world.publish("acme", &role("acme"));
    world.namespace(NAMESPACE, "enabled", "acme", &[("test.example/foreign", "policed")]);
    crate::guard::await_guard(&world);
    world
});

const ROWS: [Row; 16] = [
    Row {
        change: "adds a listed digest behind the tag (Kyverno `mutateDigest`)",
        effect: |pod| images(pod, |image| Some(format!("{image}@{LISTED}"))),
        after: End::Created,
    },
    Row {
        change: "replaces the tag with a listed digest (Sigstore policy-controller)",
        effect: |pod| images(pod, |image| Some(format!("{}@{LISTED}", image.rsplit_once(':')?.0))),
        after: End::Created,
    },
    Row {
        change: "adds another digest",
        effect: |pod| images(pod, |image| Some(format!("{image}@{OTHER}"))),
        after: End::Refused("guard-image"),
    },
    Row {
        change: "replaces the registry with a mirror",
        effect: |pod| {
            images(pod, |image| {
                let rest = image.strip_prefix("ghcr.io/")?;
                Some(format!("mirror.example/{rest}"))
            })
        },
        after: End::Refused("guard-image"),
    },
    Row {
        change: "sets `imagePullPolicy`",
        effect: |pod| fields(pod, "imagePullPolicy", &json!("Always")),
        after: End::Changed,
    },
    Row {
        change: "sets other quantities of CPU and memory",
        effect: |pod| {
            let half = json!({"cpu": "5m", "memory": "16Mi"});
            fields(pod, "resources", &json!({"requests": half, "limits": half}))
        },
        after: End::Changed,
    },
    Row {
        change: "sets an extended resource",
        effect: |pod| {
            fields(pod, "resources", &json!({"limits": {"cpu": "1", "example.com/gpu": "1"}}))
        },
        after: End::Refused("guard-sidecar-fields"),
    },
    Row {
        change: "adds missing fields of the pod's `securityContext`",
        effect: |pod| {
            vec![
                json!({"op": "add", "path": "/spec/securityContext/runAsNonRoot", "value": true}),
                json!({"op": "add", "path": "/spec/securityContext/fsGroup", "value": 2000}),
            ]
            .into_iter()
            .filter(|_| pod["spec"]["securityContext"]["fsGroup"].is_null())
            .collect()
        },
        after: End::Created,
    },
    Row {
        change: "adds missing fields of each container's `securityContext`",
        effect: |pod| fields(pod, "securityContext/privileged", &json!(false)),
        after: End::Changed,
    },
    Row {
        change: "sets `runAsUser` of each container",
        effect: |pod| fields(pod, "securityContext/runAsUser", &json!(1234)),
        after: End::Refused("guard-sidecar-fields"),
    },
    Row {
        change: "adds a variable to each container",
        effect: |pod| {
            let variable = json!({"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"});
            entries(pod, "env", &variable)
        },
        after: End::Refused("guard-sidecar-env"),
    },
    Row {
        change: "adds a mount to each container",
        effect: |pod| {
            let mount = json!({"name": "own-ca", "mountPath": "/etc/own-ca"});
            let mut operations = entries(pod, "volumeMounts", &mount);
            let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
            if !volumes.iter().any(|volume| volume["name"] == "own-ca") {
                volumes.push(json!({"name": "own-ca", "emptyDir": {}}));
                operations.push(json!({"op": "add", "path": "/spec/volumes", "value": volumes}));
            }
            operations
        },
        after: End::Refused("guard-sidecar-fields"),
    },
    Row {
        change: "adds labels and annotations",
        effect: |pod| {
            let metadata = |list: &str| {
                let mut all = pod["metadata"][list].as_object().cloned().unwrap_or_default();
                all.insert("team.example".to_owned(), "a".into());
                json!({"op": "add", "path": format!("/metadata/{list}"), "value": all})
            };
            vec![metadata("labels"), metadata("annotations")]
        },
        after: End::Created,
    },
    Row {
        change: "adds tolerations, a node selector and a topology spread",
        effect: |_| {
            let spread = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]);
            let tolerations = json!([{"key": "agents", "operator": "Exists"}]);
            vec![
                json!({"op": "add", "path": "/spec/tolerations", "value": tolerations}),
                json!({"op": "add", "path": "/spec/nodeSelector", "value": {"pool": "agents"}}),
                json!({"op": "add", "path": "/spec/topologySpreadConstraints", "value": spread}),
            ]
        },
        after: End::Created,
    },
    Row {
        change: "adds `imagePullSecrets`",
        effect: |_| {
            let secrets = json!([{"name": "registry"}]);
            vec![json!({"op": "add", "path": "/spec/imagePullSecrets", "value": secrets})]
        },
        after: End::Created,
    },
    Row {
        change: "sets `automountServiceAccountToken: false` and `dnsConfig`",
        effect: |_| {
            let dns = json!({"options": [{"name": "ndots", "value": "2"}]});
            vec![
                json!({"op": "add", "path": "/spec/automountServiceAccountToken", "value": false}),
                json!({"op": "add", "path": "/spec/dnsConfig", "value": dns}),
            ]
        },
        after: End::Created,
    },
];

#[test]
fn rewrites_of_policy_engines_end_as_the_docs_say() {
    let page = fs::read_to_string(root().join("docs/guard.md")).unwrap();
    let terminal = Terminal::open(&WORLD);
    for (name, is_last) in [("a-policy-engine", false), ("kyverno-resource-mutating", true)] {
        let engine = Webhook::start_engine(&WORLD, name, "policed", effect);
        for (index, row) in ROWS.iter().enumerate() {
            let Row { change, effect: _, after } = row;
            let what = format!("{name} {change}");
            let pod = format!("{name}-{index}");
            let outcome = WORLD.create(&agent(&pod, Some(index)), None);
            let (shown, code) = match after {
                _ if !is_last => (None, 0),
                End::Created => (Some("created".to_owned()), 0),
                End::Changed => (Some("created, reported as `pod-outdated`".to_owned()), 1),
                End::Refused(code) => {
                    let said = outcome.as_ref().err().unwrap_or_else(|| panic!("{what}: created"));
                    assert!(said.contains(&format!("[{code}]")), "{what}: {said}");
                    (Some(format!("refused with `{code}`")), 2)
                }
            };
            if code < 2 {
                outcome.unwrap_or_else(|said| panic!("{what}: {said}"));
                let said = terminal.said(code, &[&pod, "--namespace", NAMESPACE]);
                let status = if code == 0 { "up-to-date" } else { "changed" };
                assert_eq!(said["drift"]["status"], status, "{what}: {said}");
            }
            if let Some(shown) = shown {
                let line = format!("| {change} | {shown} |");
                assert!(page.contains(&line), "docs/guard.md lacks {line:?}");
            }
        }
        assert!(engine.calls() > ROWS.len(), "{name} was not called again");
    }
}

/// The webhook puts its own image in the place of each other one. Only the guard stands between a
/// tenant and an old image when the webhook is not called.
#[test]
fn a_tenant_chooses_no_digest_of_the_sidecar() {
    let sidecar = |digest: &str| {
        let mut pod = agent("own-digest", None);
        let image = format!("{REPOSITORY}:{}@{digest}", env!("CARGO_PKG_VERSION"));
        pod["spec"]["initContainers"] =
            json!([{"name": "fab-session-credentials", "image": image}]);
        let created = WORLD.create(&pod, None).unwrap();
        let stored = created.container("fab-session-credentials")["image"].clone();
        let delete = ["delete", "pod", "own-digest", "--namespace", NAMESPACE, "--now"];
        assert!(WORLD.cluster.kubectl(&delete).run().ok);
        (image, stored)
    };
    let (image, stored) = sidecar(LISTED);
    assert_eq!(stored, image, "control");
    let (_, stored) = sidecar(OTHER);
    assert_eq!(stored, format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_engine_may_pin_the_image_of_a_running_pod() {
    WORLD.create(&agent("running", None), None).unwrap();
    let tagged = format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"));
    let update = |image: &str| {
        let patch =
            json!([{"op": "replace", "path": "/spec/initContainers/0/image", "value": image}]);
        let patch = patch.to_string();
        let arguments =
            ["patch", "pod", "running", "--namespace", NAMESPACE, "--type=json", "--patch", &patch];
        WORLD.cluster.kubectl(&arguments).run()
    };
    for refused in [format!("{tagged}@{OTHER}"), format!("{REPOSITORY}:0@{LISTED}")] {
        let outcome = update(&refused);
        assert!(outcome.stderr.contains("[guard-image-update]"), "{refused}: {}", outcome.stderr);
    }
    let pinned = format!("{tagged}@{LISTED}");
    let outcome = update(&pinned);
    assert!(outcome.ok, "{}", outcome.stderr);
    assert!(update(&tagged).stderr.contains("[guard-image-update]"), "back to the tag");
    let said = Terminal::open(&WORLD).said(0, &["running", "--namespace", NAMESPACE]);
    assert_eq!(said["drift"]["status"], "up-to-date");
}

fn effect(pod: &Value) -> Vec<Value> {
    let row = pod["metadata"]["labels"][ROW].as_str().and_then(|index| index.parse::<usize>().ok());
    row.map(|row| (ROWS[row].effect)(pod)).unwrap_or_default()
}

/// Returns the operations that replace the injector's image, as an engine does whose policy matches
/// its repository.
fn images(pod: &Value, change: fn(&str) -> Option<String>) -> Vec<Value> {
    let change = |container: &Value| {
        let image = container["image"].as_str().unwrap();
        change(image).filter(|_| image.starts_with(REPOSITORY) && !image.contains('@'))
    };
    let replace = |(path, container): (String, &Value)| {
        let path = format!("{path}/image");
        change(container).map(|image| json!({"op": "replace", "path": path, "value": image}))
    };
    containers(pod).filter_map(replace).collect()
}

/// Returns the operations that set a field of each container.
fn fields(pod: &Value, field: &str, value: &Value) -> Vec<Value> {
    let set = |(path, _)| json!({"op": "add", "path": format!("{path}/{field}"), "value": value});
    containers(pod).map(set).collect()
}

/// Returns the operations that add an entry to a list of each container that has none of its name.
fn entries(pod: &Value, list: &str, entry: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    for (path, container) in containers(pod) {
        let mut all = container[list].as_array().cloned().unwrap_or_default();
        if !all.iter().any(|other| other["name"] == entry["name"]) {
            all.push(entry.clone());
            operations.push(json!({"op": "add", "path": format!("{path}/{list}"), "value": all}));
        }
    }
    operations
}

fn containers(pod: &Value) -> impl Iterator<Item = (String, &Value)> {
    ["initContainers", "containers"].into_iter().flat_map(|list| {
        let all = pod["spec"][list].as_array().into_iter().flatten().enumerate();
        all.map(move |(index, container)| (format!("/spec/{list}/{index}"), container))
    })
}

fn agent(name: &str, row: Option<usize>) -> Value {
    let row = row.map(|row| row.to_string()).unwrap_or_default();
    let mut pod = world::agent(NAMESPACE, name);
    pod["metadata"]["labels"] = json!({"fab.nanohype.dev/component": "runtime", ROW: row});
    pod
}
