//! `check` on a real node. An intact installation has no error. Each fault is found, and nothing
//! else; once the fault is undone, nothing is found. A test pod also finds what is missing in AWS.
//! `tests/cluster/check.rs` has more faults, and pairs of faults.

use std::{collections::BTreeSet, process::Command, thread, time::Duration};

use harness::{
    cloud::{may_become, pods_of_the_cluster, under_a_name_of},
    helm::chart,
    platform::{self, Platform, SYSTEM, TENANT},
    process::own_directory,
    shell,
};
use serde_json::{Value, json};
use strict_aws::{Association, Role, World};
use tempfile::TempDir;

/// Commands that break the cluster, commands that restore it, and the expected findings in between
/// that are not ok: level and check.
struct Fault {
    breaks: &'static str,
    restores: &'static str,
    want: &'static [&'static str],
}

const fn fault(
    breaks: &'static str,
    restores: &'static str,
    want: &'static [&'static str],
) -> Fault {
    Fault { breaks, restores, want }
}

/// Saves an object and deletes it.
macro_rules! take {
    ($object:expr) => {
        concat!("kubectl get ", $object, " -o json > taken.json; kubectl delete ", $object)
    };
}

/// Saves an object and patches it.
macro_rules! patch {
    ($object:expr, $patch:expr) => {
        concat!(
            "kubectl get ",
            $object,
            " -o json > taken.json; kubectl patch ",
            $object,
            " --type json --patch '[",
            $patch,
            "]'"
        )
    };
}

/// Restores the saved object, without the fields that the API server sets.
const PUT_BACK: &str = "jq 'del(.metadata.resourceVersion, .metadata.uid, .metadata.managedFields, .status)' taken.json | kubectl replace --force -f -";

/// The remedies of edited objects.
const UPGRADE: &str = "helm upgrade fab-session-injector \"$CHART\" -n \"$SYSTEM\" --reuse-values --force-conflicts --wait --timeout 60s";
const DELETE_AND_UPGRADE: &str = "kubectl delete validatingadmissionpolicybinding fab-session-injector-pods; helm upgrade fab-session-injector \"$CHART\" -n \"$SYSTEM\" --reuse-values --wait --timeout 60s";

/// Faults of the release.
const RELEASE: [Fault; 15] = [
    // The webhook.
    fault(
        patch!(
            "mutatingwebhookconfiguration fab-session-injector",
            r#"{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}"#
        ),
        UPGRADE,
        &["error webhook-edited"],
    ),
    fault(
        patch!(
            "mutatingwebhookconfiguration fab-session-injector",
            r#"{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 30}"#
        ),
        PUT_BACK,
        &["error webhook-edited"],
    ),
    fault(
        patch!(
            "mutatingwebhookconfiguration fab-session-injector",
            r#"{"op": "replace", "path": "/webhooks/0/matchConditions/0/expression", "value": "true"}"#
        ),
        PUT_BACK,
        &["error webhook-edited"],
    ),
    fault(
        patch!(
            "mutatingwebhookconfiguration fab-session-injector",
            r#"{"op": "remove", "path": "/webhooks/1"}"#
        ),
        PUT_BACK,
        &["error webhook-missing"],
    ),
    fault(
        take!("mutatingwebhookconfiguration fab-session-injector"),
        PUT_BACK,
        &["error webhook-missing"],
    ),
    fault(
        concat!(
            take!("mutatingwebhookconfiguration fab-session-injector"),
            "; jq '.metadata = {name: \"zz-injector\"}' taken.json | kubectl create -f -"
        ),
        "kubectl delete mutatingwebhookconfiguration zz-injector; jq 'del(.metadata.resourceVersion, .metadata.uid)' taken.json | kubectl create -f -",
        // The annotations of the release are gone, too.
        &["error webhook-edited", "error webhook-order"],
    ),
    // certs would undo the next two faults, so they first stop it.
    fault(
        "kubectl -n \"$SYSTEM\" scale deployment/fab-session-injector-certs --replicas=0; kubectl -n \"$SYSTEM\" wait pod -l app.kubernetes.io/component=certs --for=delete --timeout=60s; kubectl patch mutatingwebhookconfiguration fab-session-injector --type json --patch '[{\"op\": \"remove\", \"path\": \"/webhooks/0/clientConfig/caBundle\"}]'",
        CERTS_BACK,
        &["error ca-bundle"],
    ),
    fault(
        "kubectl -n \"$SYSTEM\" scale deployment/fab-session-injector-certs --replicas=0; kubectl -n \"$SYSTEM\" wait pod -l app.kubernetes.io/component=certs --for=delete --timeout=60s; kubectl -n \"$SYSTEM\" patch secret fab-session-injector-tls --patch '{\"data\": {\"tls.crt\": \"\"}}'",
        CERTS_BACK,
        &["error ca-bundle", "error certificate"],
    ),
    fault(
        "kubectl -n \"$SYSTEM\" scale deployment/fab-session-injector --replicas=0; kubectl -n \"$SYSTEM\" wait pod -l app.kubernetes.io/component=webhook --for=delete --timeout=60s",
        "kubectl -n \"$SYSTEM\" scale deployment/fab-session-injector --replicas=2; kubectl -n \"$SYSTEM\" rollout status deployment --timeout=60s",
        &["error endpoints"],
    ),
    fault(
        "kubectl -n \"$SYSTEM\" set image deployment/fab-session-injector '*=node.test/none:1'",
        "kubectl -n \"$SYSTEM\" rollout undo deployment/fab-session-injector; kubectl -n \"$SYSTEM\" rollout status deployment --timeout=60s",
        &["error rollout"],
    ),
    // The guard and the config.
    fault(
        patch!(
            "validatingadmissionpolicybinding fab-session-injector-pods",
            r#"{"op": "replace", "path": "/spec/validationActions", "value": ["Audit"]}"#
        ),
        DELETE_AND_UPGRADE,
        &["error guard-edited"],
    ),
    fault(
        patch!(
            "validatingadmissionpolicy fab-session-injector-pods",
            r#"{"op": "replace", "path": "/spec/validations/0/expression", "value": "true"}"#
        ),
        UPGRADE,
        &["error guard-edited"],
    ),
    fault(
        take!("validatingadmissionpolicybinding fab-session-injector-exec"),
        PUT_BACK,
        &["error guard-missing"],
    ),
    fault(
        take!("validatingadmissionpolicy fab-session-injector-tokens"),
        PUT_BACK,
        &["error guard-missing"],
    ),
    fault(
        "kubectl -n \"$SYSTEM\" get configmap fab-session-injector -o json > taken.json; jq '.data[\"config.yaml\"] |= sub(\"podSecurity: restricted\"; \"podSecurity: baseline\")' taken.json | kubectl replace -f -",
        UPGRADE,
        &["error config-edited", "warning pod-security-lowered"],
    ),
];

/// Faults of the tenant's namespace.
const NAMESPACE: [Fault; 10] = [
    fault(
        "kubectl label namespace \"$NS\" --overwrite pod-security.kubernetes.io/enforce=baseline",
        "kubectl label namespace \"$NS\" --overwrite pod-security.kubernetes.io/enforce=restricted",
        &["error pod-security"],
    ),
    fault(
        "kubectl label namespace \"$NS\" --overwrite fab.nanohype.dev/session-injection=enable",
        OPT_IN,
        &["error namespace-label"],
    ),
    fault(
        "kubectl label namespace \"$NS\" --overwrite fab.nanohype.dev/tenant=No_Tenant",
        "kubectl label namespace \"$NS\" fab.nanohype.dev/tenant-",
        &["error tenant"],
    ),
    fault(
        "kubectl label namespace \"$NS\" --overwrite fab.nanohype.dev/operator=kept",
        "kubectl label namespace \"$NS\" fab.nanohype.dev/operator-",
        &["error operator-label"],
    ),
    fault(
        "kubectl label namespace \"$NS\" --overwrite fab.nanohype.dev/operator=keep",
        "kubectl label namespace \"$NS\" fab.nanohype.dev/operator-",
        &["warning operator-label"],
    ),
    fault(
        "kubectl -n \"$NS\" create quota small --hard=limits.memory=32Mi",
        "kubectl -n \"$NS\" delete quota small",
        &["error quota"],
    ),
    fault(
        "echo '{\"apiVersion\": \"v1\", \"kind\": \"LimitRange\", \"metadata\": {\"name\": \"small\"}, \"spec\": {\"limits\": [{\"type\": \"Container\", \"max\": {\"cpu\": \"50m\"}}]}}' | kubectl -n \"$NS\" create -f -",
        "kubectl -n \"$NS\" delete limitrange small",
        &["error limit-range"],
    ),
    fault(
        "kubectl -n \"$NS\" create rolebinding all --clusterrole=edit --group=system:authenticated",
        "kubectl -n \"$NS\" delete rolebinding all",
        &["error rbac"],
    ),
    fault(
        "kubectl -n \"$NS\" delete serviceaccount tenant-runtime",
        "kubectl -n \"$NS\" create serviceaccount tenant-runtime",
        &["warning service-account"],
    ),
    // The pod runs, and was created while its namespace had not opted in.
    fault(
        "kubectl label namespace \"$NS\" fab.nanohype.dev/session-injection-; until kubectl -n \"$NS\" create -f bare.json; do sleep 0.2; done; kubectl label namespace \"$NS\" fab.nanohype.dev/session-injection=enabled",
        "kubectl -n \"$NS\" delete pod bare --now",
        &["error pod-without-sidecar"],
    ),
];

const CERTS_BACK: &str = "kubectl -n \"$SYSTEM\" scale deployment/fab-session-injector-certs --replicas=1; kubectl -n \"$SYSTEM\" rollout status deployment/fab-session-injector-certs --timeout=60s";
const OPT_IN: &str =
    "kubectl label namespace \"$NS\" --overwrite fab.nanohype.dev/session-injection=enabled";

#[test]
fn each_fault_of_a_release_is_found_and_nothing_else() {
    find_each(&RELEASE);
}

#[test]
fn each_fault_of_a_namespace_is_found_and_nothing_else() {
    find_each(&NAMESPACE);
}

/// Checks that each fault is found, and that nothing is found once it is undone.
fn find_each(faults: &[Fault]) {
    let platform = Platform::start();
    let shell = Shell::open(&platform);
    let whole = shell.found(TENANT);
    let is_wrong = |finding: &String| !finding.starts_with("warning ");
    assert!(!whole.iter().any(is_wrong), "{whole:?}");
    for Fault { breaks, restores, want } in faults {
        shell.run(breaks);
        let want = want.iter().map(|finding| (*finding).to_owned());
        shell.finds(breaks, &whole.iter().cloned().chain(want).collect());
        shell.run(restores);
        shell.finds(restores, &whole);
    }
}

/// Tenants, and the code of the reason why their role cannot be assumed. An empty code: it can.
const TENANTS: [(&str, &str); 6] = [
    ("whole", ""),
    ("no-source", "set-source-identity-denied"),
    ("no-tags", "tag-session-denied"),
    ("other-names", "assume-role-denied"),
    ("no-right", "base-role-denied"),
    ("bounded", "boundary-denied"),
];

#[test]
fn a_test_pod_shows_faults_in_aws() {
    let roles = TENANTS.map(|(tenant, _)| (tenant, broker(tenant)));
    let roles: Vec<(&str, &str)> = roles.iter().map(|(tenant, role)| (*tenant, &**role)).collect();
    let platform = Platform::start_with(account, &roles);
    let shell = Shell::open(&platform);
    for (tenant, _) in TENANTS {
        let namespace = namespace(tenant);
        let labels = json!({
            "fab.nanohype.dev/session-injection": "enabled",
            "pod-security.kubernetes.io/enforce": "restricted",
        });
        platform.node.create(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant-runtime", "namespace": namespace}}),
        ]);
    }
    // Each thread waits for its own test pod.
    thread::scope(|scope| {
        for (tenant, code) in TENANTS {
            let shell = &shell;
            scope.spawn(move || {
                let findings = shell.check(&namespace(tenant), &["--as-pod"]);
                let mut tried = findings.iter().filter(|it| it["check"] == "assume-role");
                let (Some(tried), None) = (tried.next(), tried.next()) else {
                    panic!("{findings:#?}")
                };
                let message = tried["message"].as_str().unwrap();
                match code {
                    "" => assert_eq!(tried["level"], "ok", "{tenant}: {message}"),
                    code => {
                        assert_eq!(tried["level"], "error", "{tenant}: {message}");
                        assert!(message.contains(&format!("[{code}]")), "{tenant}: {message}");
                    }
                }
            });
        }
    });
}

fn account(mut world: World) -> World {
    for (tenant, _) in TENANTS {
        let base = format!("arn:aws:iam::111122223333:role/{tenant}-base");
        let broker = broker(tenant);
        let mut trust = under_a_name_of(tenant, &[&base]);
        let mut role = Role::new(&base).trust(pods_of_the_cluster());
        match tenant {
            "no-source" => trust["Statement"][0]["Action"] = "sts:AssumeRole".into(),
            "no-tags" => trust["Statement"].as_array_mut().unwrap().truncate(1),
            "other-names" => trust = under_a_name_of("other", &[&base]),
            "bounded" => {
                role = role.boundary(json!({"Version": "2012-10-17", "Statement": [
                    {"Effect": "Allow", "Action": "*", "Resource": "*"},
                    {"Effect": "Deny", "Action": "sts:AssumeRole", "Resource": "*"},
                ]}));
            }
            _ => {}
        }
        if tenant != "no-right" {
            role = role.policy(may_become(&broker));
        }
        world = world
            .role(role)
            .role(Role::new(broker).trust(trust))
            .association(Association::new(namespace(tenant), "tenant-runtime", base));
    }
    world
}

fn broker(tenant: &str) -> String {
    format!("arn:aws:iam::111122223333:role/{tenant}-broker")
}

fn namespace(tenant: &str) -> String {
    format!("tenants-{tenant}")
}

/// A shell with the administrator's kubeconfig.
struct Shell<'p> {
    platform: &'p Platform,
    directory: TempDir,
}

impl<'p> Shell<'p> {
    fn open(platform: &'p Platform) -> Self {
        let directory = own_directory();
        let mut bare = platform::session(TENANT, "bare", &["sleep"]);
        bare["metadata"]["name"] = "bare".into();
        std::fs::write(directory.path().join("bare.json"), bare.to_string()).unwrap();
        Self { platform, directory }
    }

    fn run(&self, line: &str) {
        shell::run(&format!("SYSTEM={SYSTEM}; NS={TENANT}; {line}"), |shell| {
            shell
                .current_dir(&self.directory)
                .env("KUBECONFIG", self.platform.node.kubeconfig())
                .env("CHART", chart());
            // Hides the plugins and repositories of the user who runs the tests.
            for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
                shell.env(variable, self.directory.path());
            }
        });
    }

    fn check(&self, namespace: &str, flags: &[&str]) -> Vec<Value> {
        let ran = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(["check", "--skip-aws", "--output=json", "--namespace", namespace])
            .args(flags)
            .env("KUBECONFIG", self.platform.node.kubeconfig())
            .output()
            .unwrap();
        let found: Value = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ran.stderr)));
        let has_errors = found["errors"] != 0;
        assert_eq!(ran.status.code(), Some(i32::from(has_errors)), "{found:#}");
        found["findings"].as_array().unwrap().clone()
    }

    /// Returns level and check of each finding that is not ok.
    fn found(&self, namespace: &str) -> BTreeSet<String> {
        let findings = self.check(namespace, &[]);
        let others = findings.iter().filter(|finding| finding["level"] != "ok");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        others.map(|it| format!("{} {}", text(&it["level"]), text(&it["check"]))).collect()
    }

    /// Waits for the findings, because controllers and kubelet may need a moment.
    fn finds(&self, after: &str, want: &BTreeSet<String>) {
        let mut found = BTreeSet::new();
        for _ in 0..MOMENTS {
            found = self.found(TENANT);
            if found == *want {
                return;
            }
            thread::sleep(MOMENT);
        }
        assert_eq!(found, *want, "after: {after}");
    }
}

/// Number of tries after a change: on a busy machine, controllers may need 30 seconds.
const MOMENTS: u32 = 30;
const MOMENT: Duration = Duration::from_secs(1);
