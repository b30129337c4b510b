//! The session issuer in the chart: nothing of it without `issuer.enabled`, and no right that it
//! does not need.

use fab_session_injector::config::{IssuerCa, SessionTransport};
use harness::{control_plane::ControlPlane, process::program};

use super::*;

/// Returns the values of issuer.yaml with changes.
fn values(changes: &[(&str, Value)]) -> Value {
    let text = include_str!("issuer.yaml");
    let mut values: Value = serde_saphyr::from_str(text).unwrap();
    for (pointer, value) in changes {
        let mut at = &mut values;
        for key in pointer.split('.') {
            at = &mut at[key];
        }
        *at = value.clone();
    }
    values
}

fn on(changes: &[(&str, Value)]) -> Vec<Value> {
    render_with(&values(changes)).unwrap()
}

/// Each way to get a certificate, with the name of the Secret.
fn ways() -> Vec<(&'static str, String, Vec<Value>)> {
    let mode = |mode: &str| ("certificates", json!({"mode": mode}));
    let own = ("issuer.certificate.existingSecret", json!("own-issuer"));
    let existing = (
        "certificates",
        json!({"mode": "existingSecret", "existingSecret": {"secretName": "own"}}),
    );
    vec![
        ("selfManaged", format!("{ISSUER}-tls"), on(&[mode("selfManaged")])),
        ("certManager", format!("{ISSUER}-cert-manager"), on(&[mode("certManager")])),
        ("existingSecret", "own-issuer".to_owned(), on(&[existing, own.clone()])),
        ("selfManaged, own", "own-issuer".to_owned(), on(&[mode("selfManaged"), own])),
    ]
}

fn config(manifests: &[Value]) -> String {
    of_kind(manifests, "ConfigMap")["data"]["config.yaml"].as_str().unwrap().to_owned()
}

#[test]
fn nothing_of_the_issuer_exists_unless_enabled() {
    for (way, manifests) in all_ways() {
        let text = json!(manifests).to_string();
        for absent in [
            ISSUER,
            "session-issuer",
            "issuer-pods",
            "issuer-tokens",
            "FAB_SESSION_ISSUER",
            "tokenreviews",
            "issuer-ca",
        ] {
            assert!(!text.contains(absent), "{way}: {absent}");
        }
        let config: Value = serde_saphyr::from_str(&config(&manifests)).unwrap();
        assert_eq!((config.get("transport"), config.get("issuer")), (None, None), "{way}");
    }
    // With it, other objects change only where they must: the config, what is rendered from it, the
    // webhook's mount, and the policy that then holds in all namespaces.
    let off =
        render_with(&values(&[("issuer.enabled", json!(false)), ("config.issuer", json!({}))]));
    let (off, on) = (off.unwrap(), on(&[]));
    let mut changed: Vec<String> = Vec::new();
    for manifest in &off {
        let (kind, name) =
            (manifest["kind"].as_str().unwrap(), manifest["metadata"]["name"].as_str().unwrap());
        if named(&on, kind, name).unwrap() != *manifest {
            changed.push(format!("{kind} {name}"));
        }
    }
    changed.sort();
    let want = [
        format!("ConfigMap {NAME}"),
        format!("ConfigMap {NAME}-installed"),
        format!("Deployment {NAME}"),
        "ValidatingAdmissionPolicy fab-session-injector-ephemeral-containers".to_owned(),
        "ValidatingAdmissionPolicy fab-session-injector-pod-updates".to_owned(),
        "ValidatingAdmissionPolicy fab-session-injector-pods".to_owned(),
        "ValidatingAdmissionPolicyBinding fab-session-injector-exec".to_owned(),
    ];
    assert_eq!(changed, want);
}

/// All rights of each account, exactly.
#[test]
fn each_account_has_its_rights_and_no_other() {
    let manifests = on(&[]);
    let rights = |account: &str| -> Vec<Value> {
        let bindings =
            manifests.iter().filter(|it| it["kind"].as_str().unwrap().ends_with("Binding"));
        let of_account = bindings.filter(|binding| {
            let subjects = binding["subjects"].as_array().into_iter().flatten();
            subjects.into_iter().any(|subject| subject["name"] == account)
        });
        of_account
            .flat_map(|binding| {
                let role = &binding["roleRef"];
                let (kind, name) = (role["kind"].as_str().unwrap(), role["name"].as_str().unwrap());
                let rules = named(&manifests, kind, name).unwrap()["rules"].take();
                let kind = json!(kind);
                rules.as_array().unwrap().iter().map(|rule| json!([kind, rule])).collect::<Vec<_>>()
            })
            .collect()
    };
    let want = [
        json!(["ClusterRole", {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]),
        json!(["ClusterRole", {"nonResourceURLs": ["/openid/v1/jwks"], "verbs": ["get"]}]),
        json!(["ClusterRole", {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
        json!(["ClusterRole", {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]}]),
        json!(["ClusterRole", {
            "apiGroups": ["admissionregistration.k8s.io"], "resources": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
            "resourceNames": ["fab-session-injector-issuer-pods", "fab-session-injector-issuer-pods-b90f6786"], "verbs": ["get"],
        }]),
    ];
    assert_eq!(rights(ISSUER), want);
    let secret = format!("{ISSUER}-tls");
    let want = json!(["Role", {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get", "list", "watch", "patch"]}]);
    assert_eq!(rights(&format!("{ISSUER}-certs")), [want]);
    // The others have what they had.
    let off = render(&[]).unwrap();
    for account in [NAME.to_owned(), format!("{NAME}-certs")] {
        let roles = |manifests: &[Value]| {
            ["Role", "ClusterRole"].map(|kind| named(manifests, kind, &account))
        };
        assert_eq!(roles(&manifests), roles(&off), "{account}");
    }
    for (name, pod) in pods(&manifests) {
        let want = if name.ends_with("-test") { "default".to_owned() } else { name.clone() };
        assert_eq!(pod["spec"]["serviceAccountName"], want);
    }
}

#[test]
fn the_program_accepts_the_arguments_and_the_config() {
    let manifests = on(&[]);
    let deployment = named(&manifests, "Deployment", ISSUER).unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let want = [
        "issuer",
        "--config=/etc/fab-session-injector/config.yaml",
        "--listen=[::]:8443",
        "--health-listen=[::]:8081",
        "--tls-certificate=/etc/fab-session-injector/tls/tls.crt",
        "--tls-key=/etc/fab-session-injector/tls/tls.key",
    ];
    assert_eq!(container["args"], json!(want));
    let cli = Cli::try_parse_from(["fab-session-injector"].into_iter().chain(want)).unwrap();
    let Command::Issuer(issuer) = cli.command else { panic!("{:?}", cli.command) };
    let grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
    assert!(grace.unwrap() > issuer.shutdown_delay + 10);

    let certs = named(&manifests, "Deployment", &format!("{ISSUER}-certs")).unwrap();
    let arguments = &certs["spec"]["template"]["spec"]["containers"][0]["args"];
    let want = [
        "certs".to_owned(),
        "--namespace=fab-session-injector".to_owned(),
        format!("--secret={ISSUER}-tls"),
        format!("--service={ISSUER}"),
        "--health-listen=[::]:8081".to_owned(),
    ];
    assert_eq!(arguments, &json!(want));
    let cli = ["fab-session-injector"].into_iter().chain(want.iter().map(String::as_str));
    let cli = Cli::try_parse_from(cli).unwrap();
    assert!(matches!(cli.command, Command::Certs(_)), "{:?}", cli.command);

    // Names of the cluster, of the Service and of the mounted file.
    let parsed = Config::parse(&config(&manifests)).unwrap();
    assert_eq!(parsed.transport, SessionTransport::RoleChain);
    let issuer = parsed.issuer.unwrap();
    assert_eq!(issuer.endpoint.host(), format!("{ISSUER}.fab-session-injector.svc"));
    let service = named(&manifests, "Service", ISSUER).unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], 443);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "https");
    assert_eq!(
        (issuer.client_id.to_string(), &*issuer.audience),
        ("fab-session/prod".to_owned(), "fab-session-issuer.prod")
    );
    let IssuerCa::File(file) = issuer.ca else { panic!("{:?}", issuer.ca) };
    let webhook = of_kind(&manifests, "Deployment")["spec"]["template"]["spec"].take();
    let mounts = webhook["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == "issuer-ca").unwrap();
    assert_eq!(file, Path::new(mount["mountPath"].as_str().unwrap()).join("ca.crt"));

    let given = on(&[
        ("config.transport", json!("webIdentity")),
        ("config.issuer.caBundle", json!(authority())),
        ("config.issuer.endpoint", json!("https://issuer.example.com:443/v1/token")),
    ]);
    let parsed = Config::parse(&config(&given)).unwrap();
    assert_eq!(parsed.transport, SessionTransport::WebIdentity);
    assert!(matches!(parsed.issuer.unwrap().ca, IssuerCa::Known(_)));
    assert!(!of_kind(&given, "Deployment").to_string().contains("issuer-ca"));
    // The webhook writes the endpoint without the default port.
    let text = json!(given).to_string();
    assert!(text.contains(r#"\"FAB_SESSION_ISSUER\": \"https://issuer.example.com/v1/token\""#));
}

fn authority() -> String {
    let directory = harness::scratch().join("chart-issuer-authority");
    harness::webhook::server::make_certificate(&directory, &[]);
    std::fs::read_to_string(directory.join("ca.crt")).unwrap()
}

/// The webhook gets the CA certificate only, and the issuer no key of a CA.
#[test]
fn each_pod_mounts_only_the_keys_that_it_needs() {
    for (way, secret, manifests) in ways() {
        let secrets = |name: &str| -> Vec<(String, Vec<String>)> {
            let deployment = named(&manifests, "Deployment", name).unwrap();
            let volumes =
                deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap().clone();
            let keys = |secret: &Value| {
                let items = secret["items"].as_array().unwrap().iter();
                items.map(|item| item["key"].as_str().unwrap().to_owned()).collect()
            };
            let secrets = volumes.iter().filter_map(|volume| volume.get("secret"));
            secrets.map(|it| (it["secretName"].as_str().unwrap().to_owned(), keys(it))).collect()
        };
        let of_webhook = secrets(NAME);
        let pair = vec!["tls.crt".to_owned(), "tls.key".to_owned()];
        assert_eq!(of_webhook[0].1, pair, "{way}");
        assert_eq!(of_webhook[1..], [(secret.clone(), vec!["ca.crt".to_owned()])], "{way}");
        assert_eq!(secrets(ISSUER), [(secret.clone(), pair)], "{way}");
        let certs = named(&manifests, "Deployment", &format!("{ISSUER}-certs"));
        assert_eq!(certs.is_some(), way == "selfManaged");
        let own = named(&manifests, "Secret", &format!("{ISSUER}-tls"));
        assert_eq!(own.as_ref().is_some_and(|own| own.get("data").is_none()), way == "selfManaged");
        let certificates = manifests.iter().filter(|it| it["kind"] == "Certificate");
        let ours: Vec<&Value> = certificates
            .filter(|it| it["metadata"]["name"].as_str().unwrap().contains(ISSUER))
            .map(|it| &it["spec"])
            .collect();
        if way != "certManager" {
            assert!(ours.is_empty(), "{way}");
            continue;
        }
        // A CA of its own, which keeps its key: pods contain its certificate.
        let [authority, leaf] = ours[..] else { panic!("{ours:?}") };
        assert_eq!(leaf["dnsNames"], json!([format!("{ISSUER}.fab-session-injector.svc")]));
        assert_eq!(leaf["secretName"], secret);
        assert_eq!(leaf["issuerRef"]["name"], format!("{ISSUER}-ca"));
        assert_eq!(authority["isCA"], true);
        assert_eq!(authority["duration"], "87600h0m0s");
        assert_eq!(authority["privateKey"]["rotationPolicy"], "Never");
    }
    // With an issuer of the platform for the webhook, the session issuer still has its own CA.
    let platform = json!({"mode": "certManager", "certManager": {"issuerRef": {"name": "platform", "kind": "ClusterIssuer"}}});
    let manifests = on(&[("certificates", platform)]);
    let leaf = named(&manifests, "Certificate", ISSUER).unwrap();
    assert_eq!(leaf["spec"]["issuerRef"]["name"], format!("{ISSUER}-ca"));

    // Keys in files: for the issuer only.
    let key = json!([{"file": "/etc/fab-session-injector/issuer-keys/2026.pem"}]);
    let manifests = on(&[("config.issuer.keys", key), ("issuer.keySecret", json!("keys"))]);
    for (name, pod) in pods(&manifests) {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let keys = volumes.iter().any(|volume| volume["secret"]["secretName"] == "keys");
        assert_eq!(keys, name == ISSUER, "{name}");
    }
    Config::parse(&config(&manifests)).unwrap();
}

#[test]
fn its_pods_are_hardened_spread_and_drained_like_the_webhooks() {
    for (way, _, manifests) in ways() {
        let all = pods(&manifests);
        let of =
            |name: &str| all.iter().find(|(found, _)| found == name).unwrap().1["spec"].clone();
        let webhook = of(NAME);
        for (name, pod) in all.iter().filter(|(name, _)| name.starts_with(ISSUER)) {
            let spec = &pod["spec"];
            for key in [
                "automountServiceAccountToken",
                "enableServiceLinks",
                "priorityClassName",
                "securityContext",
            ] {
                assert_eq!(spec[key], webhook[key], "{way}: {name} {key}");
            }
            let [container] = &spec["containers"].as_array().unwrap()[..] else { panic!("{name}") };
            let hardened = &webhook["containers"][0]["securityContext"];
            assert_eq!(&container["securityContext"], hardened, "{way}: {name}");
            let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
            assert!(mounts.all(|mount| mount["readOnly"] == true), "{way}: {name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{way}: {name}");
        }
        let spread = |spec: &Value| {
            json!(spec["topologySpreadConstraints"])
                .to_string()
                .replace("component\":\"issuer", "component\":\"webhook")
        };
        assert_eq!(spread(&of(ISSUER)), spread(&webhook), "{way}");
        let budget = named(&manifests, "PodDisruptionBudget", ISSUER).unwrap()["spec"].take();
        assert_eq!(
            (&budget["maxUnavailable"], &budget["unhealthyPodEvictionPolicy"]),
            (&json!(1), &json!("AlwaysAllow"))
        );
        let strategy =
            &named(&manifests, "Deployment", ISSUER).unwrap()["spec"]["strategy"]["rollingUpdate"];
        assert_eq!(strategy, &json!({"maxSurge": 1, "maxUnavailable": 0}));

        // Each selector selects the pods of its own name.
        for manifest in &manifests {
            let name = manifest["metadata"]["name"].as_str().unwrap();
            let place = match manifest["kind"].as_str().unwrap() {
                "Service" => "/spec/selector",
                "Deployment" | "PodDisruptionBudget" => "/spec/selector/matchLabels",
                "NetworkPolicy" => "/spec/podSelector/matchLabels",
                _ => continue,
            };
            let wanted = manifest.pointer(place).unwrap().as_object().unwrap();
            let chosen = all.iter().filter(|(_, pod)| {
                let labels = &pod["metadata"]["labels"];
                wanted.iter().all(|(key, value)| labels[key] == *value)
            });
            let chosen: Vec<&str> = chosen.map(|(name, _)| name.as_str()).collect();
            assert_eq!(chosen, [name], "{way}: {}", manifest["kind"]);
        }
    }
    let own = on(&[
        ("issuer.replicaCount", json!(5)),
        ("issuer.resources", json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}})),
        ("issuer.extraEnv", json!({"HTTPS_PROXY": "http://proxy"})),
        ("issuer.affinity", json!({"nodeAffinity": {}})),
        ("issuer.serviceAccount.annotations", json!({"eks.amazonaws.com/role-arn": "a"})),
        ("issuer.topologySpreadConstraints", json!([{"topologyKey": "rack"}])),
        ("awsCa", json!({"secret": "bundle"})),
        ("fullnameOverride", json!("n".repeat(63))),
    ]);
    let name = format!("{}-issuer", "n".repeat(56));
    let deployment = &named(&own, "Deployment", &name).unwrap()["spec"];
    assert_eq!(deployment["replicas"], 5);
    let pod = &deployment["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
    assert!(container["env"].to_string().contains("http://proxy"), "{container}");
    assert_eq!(pod["affinity"], json!({"nodeAffinity": {}}));
    assert_eq!(pod["topologySpreadConstraints"][0]["topologyKey"], "rack");
    assert!(
        container["args"]
            .to_string()
            .contains("--aws-ca-bundle=/etc/fab-session-injector/aws-ca/ca.crt")
    );
    let account = named(&own, "ServiceAccount", &name).unwrap();
    assert_eq!(account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"], "a");
    for service in own.iter().filter(|it| it["kind"] == "Service") {
        assert!(service["metadata"]["name"].as_str().unwrap().len() <= 63);
    }
}

#[test]
fn only_namespaces_that_opted_in_reach_the_issuer() {
    let policy = |kind: &str| {
        let manifests = on(&[("networkPolicy", json!({"kind": kind}))]);
        let kind = if kind == "cilium" { "CiliumNetworkPolicy" } else { "NetworkPolicy" };
        let certs = named(&manifests, kind, &format!("{ISSUER}-certs")).unwrap();
        let rules = certs["spec"]["ingress"].to_string();
        assert!(!rules.contains("8443") && rules.contains("8081"), "{rules}");
        let webhook = named(&manifests, kind, NAME).unwrap()["spec"]["egress"].take();
        (named(&manifests, kind, ISSUER).unwrap()["spec"].take(), webhook)
    };
    let monitoring = ["kubernetes.io/metadata.name", "k8s:io.kubernetes.pod.namespace"].map(|key| {
        json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["monitoring"]}]})
    });
    let ports = |port: u16| json!([{"port": port, "protocol": "TCP"}]);
    let (issuer, webhook) = policy("kubernetes");
    let opted_in = json!({"matchLabels": {"fab.nanohype.dev/session-injection": "enabled"}});
    let want = json!([
        {"from": [{"namespaceSelector": opted_in}], "ports": ports(8443)},
        {"from": [{"namespaceSelector": monitoring[0]}], "ports": ports(8081)},
    ]);
    assert_eq!(issuer["ingress"], want);
    assert_eq!(issuer["egress"], webhook);

    let (issuer, webhook) = policy("cilium");
    let ports = |port: &str| json!([{"ports": [{"port": port, "protocol": "TCP"}]}]);
    let label = "k8s:io.cilium.k8s.namespace.labels.fab.nanohype.dev/session-injection";
    let want = json!([
        {"fromEndpoints": [{"matchLabels": {label: "enabled"}}], "toPorts": ports("8443")},
        {"fromEntities": ["host"], "toPorts": ports("8081")},
        {"fromEndpoints": [monitoring[1]], "toPorts": ports("8081")},
    ]);
    assert_eq!(issuer["ingress"], want);
    assert_eq!(issuer["egress"], webhook);
}

/// Values, what the error says, and whether the program refuses the config, too.
type Contradiction = (Vec<(&'static str, Value)>, &'static str, bool);

/// The chart must not render a config with which the program does not start.
#[test]
fn contradictions_about_the_issuer_fail_the_render() {
    let key = |key: Value| ("config.issuer.keys", json!([key]));
    let kms = "arn:aws:kms:eu-west-1:111122223333:key/";
    let component =
        |session: &str| json!([{"name": "runtime", "fenced": true, "session": session}]);
    let cases: Vec<Contradiction> = vec![
        (vec![("guard", json!({"enabled": false}))], "only the guard keeps pods", false),
        (
            vec![("config.roles", json!({"allow": {"accounts": []}}))],
            "config.roles.allow.accounts is empty",
            true,
        ),
        (vec![("config.components", component("pod-name"))], "tenants choose the names", true),
        (vec![("config.issuer.url", json!(""))], "config.issuer.url is empty", true),
        (vec![("config.issuer.url", json!("http://issuer.example.com"))], "url", true),
        (vec![("config.issuer.url", json!("https://issuer.example.com/"))], "url", true),
        (vec![("config.issuer.url", json!("https://issuer.example.com:443"))], "url", true),
        (
            vec![("config.cluster", json!(""))],
            "config.issuer.audience and config.cluster are empty",
            true,
        ),
        (
            vec![("config.issuer.audience", json!("sts.amazonaws.com"))],
            "audience of every cluster",
            true,
        ),
        (
            vec![("config.issuer.clientId", json!("sts.amazonaws.com"))],
            "audience of every cluster",
            true,
        ),
        (
            vec![("config.issuer.audience", json!("pods.eks.amazonaws.com"))],
            "AWS accepts tokens",
            true,
        ),
        (
            vec![("config.issuer.audience", json!("https://kubernetes.default.svc"))],
            "audience of the API server",
            true,
        ),
        (vec![("config.issuer.audience", json!("a b"))], "audience", true),
        (vec![("config.issuer.durationSeconds", json!(43201))], "durationSeconds", true),
        (vec![("config.issuer.endpoint", json!("http://issuer/v1/token"))], "endpoint", true),
        (vec![("config.issuer.caFile", json!("/own"))], "config.issuer.caFile is set", false),
        (
            vec![("config.issuer.caBundle", json!("-----BEGIN EC PRIVATE KEY-----"))],
            "contains a private key",
            true,
        ),
        (
            vec![("config.issuer.caBundle", json!("ca.crt"))],
            "--set-file config.issuer.caBundle",
            true,
        ),
        (vec![("config.issuer.caBundle", json!(format!("# $(A)\n{CA}")))], "would expand it", true),
        (vec![("config.issuer.keys", json!([]))], "0 keys with the state signing", true),
        (
            vec![(
                "config.issuer.keys",
                json!([{"kms": format!("{kms}a")}, {"kms": format!("{kms}b")}]),
            )],
            "2 keys with the state signing",
            true,
        ),
        (
            vec![key(json!({"kms": format!("{kms}a"), "state": "next"}))],
            "0 keys with the state signing",
            true,
        ),
        (vec![key(json!({"kms": format!("{kms}mrk-a")}))], "multi-Region", true),
        (vec![key(json!({"kms": "alias/a"}))], "kms", true),
        (vec![key(json!({}))], "neither kms nor file", true),
        (
            vec![
                key(
                    json!({"kms": format!("{kms}a"), "file": "/etc/fab-session-injector/issuer-keys/a"}),
                ),
                ("issuer.keySecret", json!("keys")),
            ],
            "kms and file",
            true,
        ),
        (
            vec![key(json!({"file": "/etc/fab-session-injector/issuer-keys/a"}))],
            "issuer.keySecret is empty",
            false,
        ),
        (
            vec![key(json!({"file": "/etc/a"})), ("issuer.keySecret", json!("keys"))],
            "are files in",
            false,
        ),
        (vec![("issuer.keySecret", json!("keys"))], "has no key by file", false),
        (
            vec![(
                "certificates",
                json!({"mode": "existingSecret", "existingSecret": {"secretName": "own"}}),
            )],
            "issuer.certificate.existingSecret is empty",
            false,
        ),
        (
            vec![
                (
                    "certificates",
                    json!({"mode": "existingSecret", "existingSecret": {"secretName": "own"}}),
                ),
                ("issuer.certificate.existingSecret", json!("own")),
            ],
            "the webhook's certificate",
            false,
        ),
        (
            vec![("issuer.serviceAccount", json!({"create": false}))],
            "must not share the issuer's permissions",
            false,
        ),
        (vec![("issuer.serviceAccount.name", json!(NAME))], "only the issuer may sign", false),
        (vec![("issuer.nope", json!(1))], "additional properties 'nope' not allowed", false),
        (vec![("config.issuer.nope", json!(1))], "additional properties 'nope' not allowed", true),
        (
            vec![("config.sidecar", json!({"env": {"FAB_SESSION_ISSUER_CA": "x"}}))],
            "FAB_SESSION_ISSUER_CA",
            true,
        ),
        // Without an issuer.
        (
            vec![("issuer.enabled", json!(false))],
            "config.issuer.url is set, but issuer.enabled is false",
            false,
        ),
        (
            vec![
                ("issuer", json!({"enabled": false, "keySecret": "keys"})),
                ("config.issuer", json!({})),
            ],
            "issuer.keySecret is set",
            false,
        ),
        (
            vec![
                ("issuer.enabled", json!(false)),
                ("config.issuer", json!({})),
                ("config.transport", json!("webIdentity")),
            ],
            "config.transport is webIdentity",
            true,
        ),
        (vec![("config.transport", json!("own"))], "transport", true),
    ];
    let mut sound: Value = serde_saphyr::from_str(&config(&on(&[]))).unwrap();
    sound["roles"].as_object_mut().unwrap().shift_remove("file");
    Config::parse(&sound.to_string()).unwrap();
    for (changes, want, is_refused) in cases {
        let said = render_with(&values(&changes)).expect_err(want);
        assert!(said.contains(want), "{changes:?}: {said}");
        // The same change of the config that the chart renders.
        let mut config = json!({"config": sound});
        for (pointer, value) in changes.iter().filter(|(pointer, _)| pointer.starts_with("config."))
        {
            let (section, key) = pointer.rsplit_once('.').unwrap();
            let section = section.split('.').fold(&mut config, |at, key| &mut at[key]);
            section[key] = value.clone();
            if *pointer == "config.issuer" {
                section.as_object_mut().unwrap().shift_remove("issuer");
                continue;
            }
            // What the chart fills in, if the value is empty.
            if value == "" || *pointer == "config.issuer.caBundle" {
                let section = section.as_object_mut().unwrap();
                section.shift_remove(if value == "" { key } else { "caFile" });
            }
            if *pointer == "config.cluster" {
                let issuer = section["issuer"].as_object_mut().unwrap();
                issuer.retain(|key, _| !["audience", "clientId"].contains(&key.as_str()));
            }
        }
        let parsed = Config::parse(&config["config"].to_string());
        assert_eq!(parsed.is_err(), is_refused, "{changes:?}: {parsed:?}");
    }
}

/// All objects, with strict validation; and what RBAC lets the two accounts do.
#[test]
fn the_api_server_accepts_every_object_and_limits_the_accounts() {
    const NAMESPACE: &str = "fab-session-injector";
    let cluster = ControlPlane::start();
    for types in ["cert-manager-crds.yaml", "cilium-crds.yaml", "prometheus-crds.yaml"] {
        let file = program(types);
        let file = file.to_str().unwrap();
        assert!(cluster.kubectl(&["apply", "--server-side", "--filename", file]).run().ok);
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "--filename", file];
        assert!(cluster.kubectl(&wait).run().ok);
    }
    cluster.create_namespace(NAMESPACE, &[("pod-security.kubernetes.io/enforce", "restricted")]);
    let monitored = [
        ("networkPolicy", json!({"kind": "cilium"})),
        (
            "metrics",
            json!({"serviceMonitor": {"enabled": true}, "prometheusRule": {"enabled": true}, "dashboard": {"enabled": true}}),
        ),
    ];
    let mut all: Vec<(String, Vec<Value>)> =
        ways().into_iter().map(|(way, _, manifests)| (way.to_owned(), manifests)).collect();
    all.push(("monitored".to_owned(), on(&monitored)));
    for (way, mut manifests) in all {
        // The pod of `helm test` is not part of the release.
        manifests.retain(|manifest| manifest["kind"] != "Pod");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests}).to_string();
        let apply =
            ["apply", "--server-side", "--force-conflicts", "--validate=strict", "--filename=-"];
        let applied = cluster.kubectl(&apply).stdin(&list).run();
        assert!(applied.ok && !applied.stderr.contains("Warning"), "{way}: {}", applied.stderr);
    }

    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "none"},
    })
    .to_string();
    let binding = "validatingadmissionpolicybinding";
    let patch = ["--patch", r#"{"metadata":{"annotations":{"a":"b"}}}"#];
    let secret = format!("{ISSUER}-tls");
    // Whether it is allowed: for the issuer, for its certs.
    let cases: Vec<(Vec<&str>, [bool; 2])> = vec![
        (
            vec!["create", "--raw", "/apis/authentication.k8s.io/v1/tokenreviews", "--filename=-"],
            [true, false],
        ),
        // Kubernetes lets every service account read them, unless an administrator removes that.
        (vec!["get", "--raw", "/openid/v1/jwks"], [true, true]),
        (vec!["get", "pod", "none"], [true, false]),
        (vec!["get", "pods"], [false, false]),
        (vec!["delete", "pod", "none"], [false, false]),
        (vec!["get", "namespaces"], [true, false]),
        (vec!["label", "namespace", NAMESPACE, "a=b"], [false, false]),
        (vec!["get", binding, "fab-session-injector-issuer-pods-b90f6786"], [true, false]),
        (vec!["get", binding, "fab-session-injector-pods"], [false, false]),
        (vec!["get", binding], [false, false]),
        (vec!["delete", binding, "fab-session-injector-issuer-pods-b90f6786"], [false, false]),
        (vec!["create", "token", "default"], [false, false]),
        (vec!["get", "serviceaccounts"], [false, false]),
        (vec!["get", "secrets"], [false, false]),
        (vec!["get", "secret", &secret], [false, true]),
        ([&["patch", "secret", &*secret][..], &patch].concat(), [false, true]),
        (vec!["get", "secret", "none"], [false, false]),
        (vec!["create", "configmap", "new"], [false, false]),
        (vec!["get", "mutatingwebhookconfigurations"], [false, false]),
    ];
    for (attempt, want) in cases {
        let may = [ISSUER.to_owned(), format!("{ISSUER}-certs")].map(|account| {
            let user = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
            let mut attempt = attempt.clone();
            if attempt[1] != "--raw" {
                attempt.extend(["--namespace", NAMESPACE]);
            }
            attempt.push(&user);
            let tried = cluster.kubectl(&attempt).stdin(&review).run();
            let said = tried.stderr.to_lowercase();
            assert!(
                tried.ok || said.contains("forbidden") || said.contains("notfound"),
                "{tried:?}"
            );
            tried.ok || said.contains("notfound")
        });
        assert_eq!(may, want, "{attempt:?}");
    }
}

#[test]
fn the_notes_say_what_the_issuer_needs() {
    let directory = process::own_directory();
    let notes = |changes: &[(&str, Value)]| {
        let file = directory.path().join("values.yaml");
        std::fs::write(&file, values(changes).to_string()).unwrap();
        helm::notes_with(&chart(), &file)
    };
    let usual = notes(&[]);
    for wanted in [
        "rollout status deployment noted-fab-session-injector-issuer-certs",
        "put them at https://issuer.example.com/prod",
        "issuer export --config config.yaml --out public",
        "client ID\nfab-session/prod",
        "session-transport=web-identity",
        "Let no tenant use that namespace",
    ] {
        assert!(usual.contains(wanted), "{wanted}\n{usual}");
    }
    assert!(!usual.contains("backup of etcd"), "{usual}");
    let switched = notes(&[("config.transport", json!("webIdentity"))]);
    assert!(switched.contains("session-transport=role-chain"), "{switched}");
    let file = json!([{"file": "/etc/fab-session-injector/issuer-keys/a"}]);
    let by_file = notes(&[("config.issuer.keys", file), ("issuer.keySecret", json!("keys"))]);
    assert!(by_file.contains("backup of etcd"), "{by_file}");
    assert!(by_file.contains("$export --only keys > public/keys.json"), "{by_file}");
    let off = helm::notes(&chart(), &[], None);
    assert!(!off.contains("issuer"), "{off}");
}

/// Name of the issuer's objects of the release `injector`.
const ISSUER: &str = "injector-fab-session-injector-issuer";
