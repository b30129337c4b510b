//! The guard of sessions that come with a SandboxClaim: only the controller of agent-sandbox creates
//! a pod whose session has no name yet.

use harness::sidecar::pod::{CONTROLLER, claim_components};

use super::*;

const MARKER: &str = "<sandbox claim>";

fn values() -> Value {
    let mut values = issuer::values();
    let components = values["config"]["components"].as_array_mut().unwrap();
    components.insert(0, claim_components()[0].clone());
    values
}

/// Returns the pod that `inject` prints for a pod of this user.
fn injected_for(manifests: &[Value], creator: &str) -> Value {
    let config = manifests.iter().find(|it| it["data"]["config.yaml"].is_string()).unwrap();
    let text = config["data"]["config.yaml"].as_str().unwrap();
    let mut config: Value = serde_saphyr::from_str(text).unwrap();
    config["roles"].as_object_mut().unwrap().shift_remove("file");
    let directory = process::own_directory();
    let file = |name: &str| directory.path().join(name);
    fs::write(file("config.yaml"), config.to_string()).unwrap();
    fs::write(file("pod.yaml"), original("fenced-without-labels").to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
        .args(["inject", "--region", moto::REGION, "--tenant=acme", "--namespace=tenants-acme"])
        .args(["--roles", "tests/golden/roles.yaml", "--as", creator])
        .arg("--config")
        .arg(file("config.yaml"))
        .arg("--filename")
        .arg(file("pod.yaml"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_saphyr::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_pod_without_a_name_is_of_the_controller_alone() {
    let values = values();
    let world = World::without_configuration(&[], None);
    world.namespace("tenants-held", "enabled", "acme", &[]);
    let manifests = render(&values).unwrap();
    let is_guard = |manifest: &&Value| {
        manifest["kind"].as_str().unwrap().starts_with("ValidatingAdmissionPolicy")
            && !is_of_certs(manifest["metadata"]["name"].as_str().unwrap())
    };
    let guard: Vec<&Value> = manifests.iter().filter(is_guard).collect();
    assert_eq!(guard.len(), 20);
    world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": guard}));
    await_guard(&world);
    issuer::await_issuer_guard(&world);

    let mut late = injected_for(&manifests, CONTROLLER);
    let of = |container: &Value, name: &str| {
        world::variable(container, name).map(|it| it.as_str().unwrap().to_owned())
    };
    assert_eq!(of(sidecar(&mut late), "FAB_SESSION_ID").as_deref(), Some(MARKER));
    assert_eq!(of(sidecar(&mut late), "FAB_SESSION_START_GATE").as_deref(), Some("listening"));
    assert!(of(sidecar(&mut late), "FAB_SESSION_ISSUER").is_some());
    for name in ["FAB_SESSION_ID", "FAB_SESSION_IDENTITY"] {
        assert_eq!(of(container(&mut late, "agent"), name), None, "{name}");
    }
    assert!(of(container(&mut late, "agent"), "FAB_SESSION_TENANT").is_some());
    let own = late["metadata"]["annotations"].clone();
    assert_eq!(own["fab.nanohype.dev/session-id"], MARKER);
    assert_eq!(own["fab.nanohype.dev/source-identity"], format!("agent.acme.{MARKER}"));
    let pod = |name: &str| named(late.clone(), "tenants-held", name);
    world.create(&pod("late"), Some(CONTROLLER)).unwrap();

    let uid =
        json!({"name": "FAB_SESSION_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}});
    let with_id = |name: &str, id: Value| {
        let mut pod = pod(name);
        let env = sidecar(&mut pod)["env"].as_array_mut().unwrap();
        *env.iter_mut().find(|variable| variable["name"] == "FAB_SESSION_ID").unwrap() = id;
        pod
    };
    let literal = json!({"name": "FAB_SESSION_ID", "value": "other"});
    let mut annotated = pod("annotated");
    annotations(&mut annotated).insert("fab.nanohype.dev/session-id".to_owned(), "other".into());
    let of_controller = injected_for(&manifests, "jane");
    let own_account = "system:serviceaccount:tenants-held:agent-sandbox-controller";
    // What a webhook with an older config injects: whole, with base credentials and the pod's UID.
    let mut older = values.clone();
    let component = &mut older["config"]["components"][0];
    component["session"] = "pod-uid".into();
    component["startGate"] = "listening".into();
    let older = injected_for(&render(&older).unwrap(), CONTROLLER);
    let attacks = [
        ("jane", pod("of-jane")),
        (world::OPERATOR, pod("of-a-trusted-creator")),
        (own_account, pod("of-an-own-account")),
        (CONTROLLER, with_id("with-its-uid", uid)),
        (CONTROLLER, with_id("with-a-name", literal)),
        (CONTROLLER, annotated),
        (CONTROLLER, named(older, "tenants-held", "of-an-older-config")),
        (CONTROLLER, named(of_controller, "tenants-held", "as-of-jane")),
    ];
    for (user, pod) in &attacks {
        let said = world.create(pod, Some(user)).unwrap_err();
        assert!(said.contains("[guard-"), "{user}: {said}");
    }
    let bindings = ["delete", "validatingadmissionpolicybindings", "--all"];
    assert!(world.cluster.kubectl(&bindings).run().ok);
    for (user, pod) in &attacks {
        let name = &pod["metadata"]["name"];
        wait_until(&format!("{name} without a guard"), Duration::from_secs(20), || {
            world.create(pod, Some(user)).ok()
        });
    }
}
