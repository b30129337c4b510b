//! The guard of the session issuer, without the webhook: the audience of the issuer is reserved in
//! all namespaces, and a sidecar without base credentials is compared like one with them.

use harness::api_server::{ApiServer, NotCreated};

use super::*;

/// The audience of the issuer in a cluster named `prod`.
pub(crate) const AUDIENCE: &str = "fab-session-issuer.prod";
const WATCHED: &str = "tenants-watched";
const PLAIN: &str = "plain";
const KUBELET: [&str; 4] = ["--as", "system:node:a", "--as-group", "system:nodes"];

/// Returns chart values with the session issuer, and with components of each kind.
pub(crate) fn values() -> Value {
    let mut components = as_many_components_as_there_may_be();
    components.drain(..29);
    let given = |name: &str, credentials: &str| json!({"name": name, "serviceAccounts": [name], "credentials": credentials});
    let withheld = json!({"name": "fleet", "selectors": ["fleet"], "credentials": "none"});
    components.splice(..0, [given("exempted", "exempt"), given("legacy", "env"), withheld]);
    json!({
        "issuer": {"enabled": true},
        "guard": {"tokenCreators": ["vcluster-*"]},
        "config": {
            "cluster": "prod",
            "components": components,
            "roles": {"allow": {"accounts": ["111122223333"]}},
            "issuer": {
                "url": "https://issuer.example.com/prod",
                "caBundle": fs::read_to_string(authority()).unwrap(),
                "keys": [{"kms": "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"}],
            },
        },
    })
}

/// Returns the pod that `inject` prints with the chart's own config and this transport.
pub(crate) fn with_transport(values: &Value, transport: &str, pod: &Value) -> Value {
    let mut values = values.clone();
    values["config"]["transport"] = transport.into();
    let manifests = render(&values).unwrap();
    let config = manifests.iter().find(|it| it["data"]["config.yaml"].is_string()).unwrap();
    let directory = process::own_directory();
    let file = directory.path().join("config.yaml");
    let text = config["data"]["config.yaml"].as_str().unwrap();
    // The roles of the tests are those of `inject`, not a file of the chart.
    let mut config: Value = serde_saphyr::from_str(text).unwrap();
    config["roles"].as_object_mut().unwrap().shift_remove("file");
    fs::write(&file, config.to_string()).unwrap();
    offline(pod, Some(&file))
}

fn start(values: &Value) -> World {
    let world = World::without_configuration(&[], None);
    world.namespace("tenants-held", "enabled", "acme", &[]);
    world.namespace(WATCHED, "audit", "acme", &[]);
    world.namespace(PLAIN, "", "acme", &[]);
    for account in ["exempted", "legacy"] {
        world.service_account("tenants-held", account);
    }
    // Their labels do not opt them in: the webhook and the pods policy leave them out.
    for namespace in [SYSTEM, "kube-system"] {
        let labels = ["fab.nanohype.dev/session-injection=enabled", "fab.nanohype.dev/tenant=acme"];
        let label = [&["label", "namespace", namespace][..], &labels].concat();
        assert!(world.cluster.kubectl(&label).run().ok);
        world.cluster.await_service_account(namespace, "default");
        world.service_account(namespace, "tenant-runtime");
    }
    // It is older than the guard.
    let mut before = named(original("no-agent"), "tenants-held", "before");
    before["spec"]["serviceAccountName"] = "default".into();
    add_volume(&mut before, aws_volume("own", AUDIENCE));
    world.create(&before, None).unwrap();
    guard(&world, values);
    await_guard(&world);
    await_issuer_guard(&world);
    world
}

/// Waits until both policies of the issuer have refused a request.
pub(crate) fn await_issuer_guard(world: &World) {
    let token = ["create", "token", "default", "--audience", AUDIENCE];
    let mut pod = world::agent("default", "probe");
    pod["spec"]["serviceAccountName"] = "default".into();
    add_volume(&mut pod, aws_volume("own", AUDIENCE));
    wait_until("the guard reserves the audience", Duration::from_secs(20), || {
        let create = ["create", "--dry-run=server", "--filename=-"];
        let pod = world.cluster.kubectl(&create).stdin(&pod.to_string()).run().stderr;
        let token = world.cluster.kubectl(&token).run().stderr;
        (pod.contains("[guard-issuer-volume]") && token.contains("[guard-issuer-token]"))
            .then_some(())
    });
}

/// A request that one of the policies refuses. If several refuse it, the API server reports one.
struct Attack {
    attempt: Attempt,
    codes: &'static [&'static str],
}

fn creation(what: &str, codes: &'static [&'static str], pod: Value) -> Attack {
    let create = ["create", "--filename=-"];
    Attack { attempt: Attempt::new(what, &[], &create, pod.to_string()), codes }
}

/// Each attack is refused with one of its codes.
fn are_refused(attacks: &[Attack], world: &World) {
    for Attack { attempt, codes } in attacks {
        let outcome = attempt.run(world);
        assert!(!outcome.ok, "{}: admitted", attempt.what);
        let is_it = codes.iter().any(|code| outcome.stderr.contains(code));
        assert!(is_it, "{}: want one of {codes:?}\n{}", attempt.what, outcome.stderr);
    }
}

/// The control: once the guard's bindings are gone, each attack works.
fn are_admitted_without_a_guard(attacks: &[Attack], world: &World) {
    let bindings = ["delete", "validatingadmissionpolicybindings", "--all"];
    assert!(world.cluster.kubectl(&bindings).run().ok);
    for Attack { attempt, .. } in attacks {
        let outcome = wait_until(&attempt.what, Duration::from_secs(20), || {
            Some(attempt.run(world)).filter(|outcome| !outcome.stderr.contains("denied request"))
        });
        assert!(outcome.ok, "{}: without a guard\n{}", attempt.what, outcome.stderr);
    }
}

/// Deletes the binding of the pods policy; returns when this pod, with another sidecar's image, is
/// admitted.
fn unbind_the_pods_policy(world: &World, mut unseen: Value) {
    let pods = ["delete", "validatingadmissionpolicybinding", "fab-session-injector-pods"];
    assert!(world.cluster.kubectl(&pods).run().ok);
    sidecar(&mut unseen)["image"] = "other:1".into();
    wait_until("the pods policy refuses nothing", Duration::from_secs(20), || {
        world.create(&unseen, None).is_ok().then_some(())
    });
}

/// Adds a session name that no trusted creator gave.
fn forge(pod: &mut Value) {
    for name in [SIDECAR, "agent"] {
        set(container(pod, name), "FAB_SESSION_ID", "other");
        set(container(pod, name), "FAB_SESSION_IDENTITY", "agent.acme.other");
    }
    let own = annotations(pod);
    own.insert("fab.nanohype.dev/session-id".to_owned(), "other".into());
    own.insert("fab.nanohype.dev/source-identity".to_owned(), "agent.acme.other".into());
}

const VOLUME: &[&str] = &["[guard-issuer-volume]"];

#[test]
fn only_a_sidecar_gets_a_token_for_the_issuer() {
    let values = values();
    let world = start(&values);
    let golden = original("fenced-without-labels");
    let web = with_transport(&values, "webIdentity", &golden);
    let injected = |namespace: &str, name: &str| named(web.clone(), namespace, name);
    let plain = |namespace: &str, name: &str| {
        let mut pod = named(original("no-agent"), namespace, name);
        pod["spec"]["serviceAccountName"] = "default".into();
        add_volume(&mut pod, aws_volume("own", AUDIENCE));
        pod
    };

    // What the webhook injects, and what it injects with the other transport.
    world.create(&injected("tenants-held", "web"), None).unwrap();
    let chained = with_transport(&values, "roleChain", &golden);
    world.create(&named(chained.clone(), "tenants-held", "chained"), None).unwrap();
    let mut known = injected("tenants-held", "known");
    forge(&mut known);
    world.create(&known, Some(world::OPERATOR)).unwrap();

    let mut attacks = Vec::new();
    let mut attack = |what: &str, codes, pod| attacks.push(creation(what, codes, pod));
    // Namespaces that the pods policy is not bound to.
    for namespace in [PLAIN, WATCHED, SYSTEM, "kube-system", "default"] {
        attack(&format!("the audience in {namespace}"), VOLUME, plain(namespace, "own"));
    }
    for namespace in [PLAIN, WATCHED, SYSTEM, "kube-system"] {
        let mut forged = injected(namespace, "forged");
        forge(&mut forged);
        attack(&format!("a whole agent in {namespace}"), VOLUME, forged);
    }
    // Pods of an enabled namespace that are given no sidecar.
    attack("the audience in a pod that is no agent", VOLUME, plain("tenants-held", "no-agent"));
    for (account, label) in [("exempted", ""), ("legacy", ""), ("default", "fleet")] {
        let mut pod = injected("tenants-held", &format!("of-{account}"));
        forge(&mut pod);
        pod["spec"]["serviceAccountName"] = account.into();
        if !label.is_empty() {
            pod["metadata"]["labels"] = json!({label: ""});
        }
        let codes: &[&str] = match account {
            "exempted" => VOLUME,
            _ => &["[guard-issuer-volume]", "[guard-reserved-name]"],
        };
        attack(&format!("a whole agent as a pod of {account}"), codes, pod);
    }
    // Lists that are too long for the pods policy, which ignores exempt pods.
    let mut long = injected("tenants-held", "long");
    long["spec"]["serviceAccountName"] = "exempted".into();
    for n in 0..1200 {
        add_volume(&mut long, json!({"name": format!("v{n}"), "emptyDir": {}}));
    }
    attack("a whole agent behind 1,200 volumes", VOLUME, long);
    let no_sidecar = |name: &str| {
        let mut pod = named(golden.clone(), "tenants-held", name);
        add_volume(&mut pod, aws_volume("fab-session-base", AUDIENCE));
        pod
    };
    let codes = &["[guard-issuer-volume]", "[guard-sidecar]"];
    attack("the volume of a sidecar without the sidecar", codes, no_sidecar("bare"));
    // In the agent's own pod.
    let mut second = injected("tenants-held", "second");
    add_volume(&mut second, aws_volume("own", AUDIENCE));
    attack("a second volume", VOLUME, second);
    let mut mounted = injected("tenants-held", "mounted");
    add_volume(&mut mounted, aws_volume("own", AUDIENCE));
    mount(&mut mounted, "agent", json!({"name": "own", "mountPath": "/own"}));
    attack(
        "a second volume that the agent mounts",
        &["[guard-issuer-volume]", "[guard-aws-token]"],
        mounted,
    );
    for (name, audience) in [("two", "sts.amazonaws.com"), ("twice", AUDIENCE)] {
        let mut pod = injected("tenants-held", name);
        let token = json!({"serviceAccountToken": {"audience": audience, "path": "other"}});
        push(&mut volume(&mut pod)["projected"]["sources"], token);
        attack(&format!("two sources, the second for {audience}"), &["[guard-volume]"], pod);
    }
    let mut shared = injected("tenants-held", "shared");
    mount(&mut shared, "agent", json!({"name": "fab-session-base", "mountPath": "/own"}));
    attack("the sidecar's volume in the agent", &["[guard-mount]"], shared);
    let mut longer = injected("tenants-held", "longer");
    volume(&mut longer)["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] =
        86400.into();
    attack("a token of a day", &["[guard-volume]"], longer);
    let mut forged = injected("tenants-held", "forged");
    forge(&mut forged);
    attack(
        "the name of another session",
        &["[guard-issuer-session]", "[guard-sidecar-env]"],
        forged,
    );
    let mut by_name = injected("tenants-held", "by-name");
    let field = json!({"name": "FAB_SESSION_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    for name in [SIDECAR, "agent"] {
        let env = container(&mut by_name, name)["env"].as_array_mut().unwrap();
        *env.iter_mut().find(|variable| variable["name"] == "FAB_SESSION_ID").unwrap() =
            field.clone();
    }
    attack(
        "the name of the pod as session",
        &["[guard-issuer-session]", "[guard-sidecar-env]"],
        by_name,
    );
    // Mixtures of the two forms.
    let mut audience = named(chained.clone(), "tenants-held", "mixed");
    *volume(&mut audience) = volume(&mut injected("tenants-held", "mixed")).clone();
    attack("base credentials with the issuer's token", &["[guard-volume]"], audience);
    let mut base = injected("tenants-held", "base");
    *volume(&mut base) = volume(&mut named(chained, "tenants-held", "base")).clone();
    attack("the issuer with a base token", &["[guard-volume]"], base);
    for (name, value, codes) in variables() {
        let mut pod = injected("tenants-held", &format!("variable-{}", attacks.len()));
        let env = &mut sidecar(&mut pod)["env"];
        env.as_array_mut().unwrap().retain(|variable| variable["name"] != name);
        if !value.is_null() {
            let mut variable = value;
            variable["name"] = name.into();
            push(env, variable);
        }
        attacks.push(creation(&format!("{name} of the sidecar"), codes, pod));
    }

    // A debugger beside the sidecar.
    for (pod, volume) in [("web", "fab-session-base"), ("before", "own")] {
        let running = world.cluster.kubectl(&["get", "pod", pod, IN_HELD]).json();
        let own = json!({"volumeMounts": [{"name": volume, "mountPath": "/own"}]});
        let attempt = debug(&running, "", &own);
        attacks.push(Attack { attempt, codes: &["[guard-ephemeral-mount]"] });
    }
    attacks.extend(requests(&world));

    are_refused(&attacks, &world);

    // A namespace that just opted in: this policy sees it before the pods policy does.
    unbind_the_pods_policy(&world, injected("tenants-held", "unseen"));
    let mut forged = injected("tenants-held", "forged");
    forge(&mut forged);
    let said = world.create(&forged, None).unwrap_err();
    assert!(said.contains("[guard-issuer-session]"), "{said}");

    are_admitted_without_a_guard(&attacks, &world);
}

/// The issuer serves a pod again when its namespace is `enabled` again.
#[test]
fn a_sidecar_is_kept_while_its_namespace_has_not_opted_in() {
    let values = values();
    let world = World::without_configuration(&[], None);
    world.namespace("tenants-held", "enabled", "acme", &[]);
    guard(&world, &values);
    await_guard(&world);
    await_issuer_guard(&world);
    let web = with_transport(&values, "webIdentity", &original("fenced-without-labels"));
    let running = world.create(&named(web, "tenants-held", "web"), None).unwrap().pod;
    let label = |label: &str| {
        let arguments = ["label", "namespace", "tenants-held", label, "--overwrite"];
        assert!(world.cluster.kubectl(&arguments).run().ok);
    };
    let debugged = |codes: &'static [&'static str], own: &Value| Attack {
        attempt: debug(&running, "", own),
        codes,
    };
    let base = json!({"volumeMounts": [{"name": "fab-session-base", "mountPath": "/own"}]});
    let target = json!({"targetContainerName": SIDECAR});
    let image =
        r#"{"spec":{"initContainers":[{"name":"fab-session-credentials","image":"own:1"}]}}"#;
    let patch = ["patch", "pod", "web", IN_HELD, "--type=strategic", "--patch", image];
    let exec = ["exec", "web", IN_HELD, "--container=fab-session-credentials", "--", "id"];
    let attacks = [
        Attack {
            attempt: Attempt::new("the sidecar's image", &[], &patch, String::new()),
            codes: &["[guard-image-update]"],
        },
        debugged(&["[guard-ephemeral-mount]"], &base),
        debugged(&["[guard-ephemeral-target]"], &target),
        Attack {
            attempt: Attempt::new("exec", &[], &exec, String::new()),
            codes: &["[guard-exec]"],
        },
    ];
    for opt_in in
        ["fab.nanohype.dev/session-injection-", "fab.nanohype.dev/session-injection=audit"]
    {
        label(opt_in);
        // The pods policy is not bound any more.
        let name = format!("unseen-{}", opt_in.len());
        let unseen = named(original("fenced-without-labels"), "tenants-held", &name);
        wait_until("the namespace has not opted in", Duration::from_secs(20), || {
            world.create(&unseen, None).ok()
        });
        for Attack { attempt, codes } in &attacks {
            let outcome = attempt.run(&world);
            assert!(
                outcome.stderr.contains(codes[0]),
                "{opt_in}: {}\n{}",
                attempt.what,
                outcome.stderr
            );
        }
    }
    // What others change in a running pod.
    let annotate = ["annotate", "pod", "web", IN_HELD, "own=1"];
    assert!(world.cluster.kubectl(&annotate).run().ok);
    let other = json!({"volumeMounts": [{"name": "own", "mountPath": "/own"}]});
    assert!(!debug(&running, "", &other).run(&world).stderr.contains("denied request"));

    // The control.
    let bindings = ["delete", "validatingadmissionpolicybindings", "--all"];
    assert!(world.cluster.kubectl(&bindings).run().ok);
    for Attack { attempt, .. } in &attacks {
        wait_until(&attempt.what, Duration::from_secs(20), || {
            (!attempt.run(&world).stderr.contains("denied request")).then_some(())
        });
    }
}

/// On whose behalf a session runs is the word of a trusted creator, in the sidecar's variable and in
/// the annotation that the webhook copies. With `onBehalfOf: false` no sidecar has the variable.
#[test]
fn only_a_trusted_creator_gives_a_session_its_tag() {
    const NAME: &str = "FAB_SESSION_ON_BEHALF_OF";
    const KEY: &str = "fab.nanohype.dev/on-behalf-of";
    const SIDECARS: &[&str] = &["[guard-issuer-session]", "[guard-sidecar-env]"];
    let mut values = values();
    values["config"]["issuer"]["onBehalfOf"] = true.into();
    let world = start(&values);
    let golden = original("fenced-without-labels");
    let web = with_transport(&values, "webIdentity", &golden);
    let chained = with_transport(&values, "roleChain", &golden);
    let tagged = |pod: &Value, name: &str, variable: Value| {
        let mut pod = named(pod.clone(), "tenants-held", name);
        let mut variable = variable;
        variable["name"] = NAME.into();
        push(&mut sidecar(&mut pod)["env"], variable);
        pod
    };
    let jane = || json!({"value": "Jane Doe /idp/"});

    // What the webhook makes of a trusted creator's annotation, and a session without a tag.
    let mut given = tagged(&web, "given", jane());
    annotations(&mut given).insert(KEY.to_owned(), "Jane Doe /idp/".into());
    world.create(&given, Some(world::OPERATOR)).unwrap();
    world.create(&named(web.clone(), "tenants-held", "plain"), None).unwrap();

    let by = |what: &str, creator: &str, pod: &Value| {
        world.allow(creator);
        let create = ["create", "--filename=-", "--as", creator];
        let attempt = Attempt::new(what, &[], &create, pod.to_string());
        Attack { attempt, codes: SIDECARS }
    };
    // In the namespace of the pod, the operator's name would be the tenant's.
    let own = "system:serviceaccount:tenants-held:operator";
    let mut attacks = vec![
        by("a tenant's variable", "tenant", &tagged(&web, "of-tenant", jane())),
        by("the variable of an account of the namespace", own, &tagged(&web, "own", jane())),
        by("a variable without base credentials", "tenant", &tagged(&chained, "chained", jane())),
    ];
    let annotate = |pod: &str, change: &str| {
        let what = format!("{change} of {pod}");
        let arguments = ["annotate", "--overwrite", "pod", pod, IN_HELD, change];
        let attempt = Attempt::new(&what, &[], &arguments, String::new());
        Attack { attempt, codes: &["[guard-annotation]"] }
    };
    attacks.push(annotate("plain", &format!("{KEY}=mallory")));
    attacks.push(annotate("given", &format!("{KEY}=mallory")));
    attacks.push(annotate("given", &format!("{KEY}-")));
    // Of a trusted creator, but not as the webhook writes it.
    let field = json!({"valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['own']"}}});
    for (row, variable) in [
        field,
        json!({"value": "$(FAB_SESSION_ID)"}),
        json!({"value": "a\nb"}),
        json!({"value": "a".repeat(257)}),
        json!({"value": ""}),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = tagged(&web, &format!("shape-{row}"), variable.clone());
        attacks.push(by(&variable.to_string(), world::OPERATOR, &pod));
    }
    let twice = tagged(&tagged(&web, "twice", jane()), "twice", json!({"value": "mallory"}));
    attacks.push(by("the variable twice", world::OPERATOR, &twice));
    let chained = tagged(&chained, "chained-too", jane());
    attacks.push(by("a tag without a token", world::OPERATOR, &chained));
    are_refused(&attacks, &world);

    // The policy for all namespaces refuses a tenant's variable alone, too, and also while the
    // config does not have the tag.
    for on in [true, false] {
        values["config"]["issuer"]["onBehalfOf"] = on.into();
        guard(&world, &values);
        if !on {
            let pod = tagged(&web, "off", jane());
            wait_until("no sidecar may have the variable", Duration::from_secs(20), || {
                let said = world.create(&pod, Some(world::OPERATOR)).err()?;
                said.contains("[guard-sidecar-env]").then_some(())
            });
        }
        let unseen = named(web.clone(), "tenants-held", &format!("unseen-{on}"));
        unbind_the_pods_policy(&world, unseen);
        let forged = tagged(&web, &format!("forged-{on}"), jane());
        let said = world.create(&forged, Some("tenant")).unwrap_err();
        assert!(said.contains("[guard-issuer-session]"), "{said}");
    }

    are_admitted_without_a_guard(&attacks, &world);
}

/// Returns the volume with the sidecar's token.
fn volume(pod: &mut Value) -> &mut Value {
    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
    volumes.iter_mut().find(|volume| volume["name"] == "fab-session-base").unwrap()
}

/// Returns changes of one variable of the sidecar. Null: it is removed.
fn variables() -> Vec<(&'static str, Value, &'static [&'static str])> {
    const ENV: &[&str] = &["[guard-sidecar-env]"];
    // Without it, the sidecar has the other form, with another volume.
    const FORM: &[&str] = &["[guard-sidecar-env]", "[guard-volume]"];
    let value = |value: &str| json!({"value": value});
    let certificate = "-----BEGIN CERTIFICATE-----";
    vec![
        ("FAB_SESSION_ISSUER", value("https://other.example/v1/token"), ENV),
        ("FAB_SESSION_ISSUER", Value::Null, FORM),
        ("FAB_SESSION_ISSUER_TOKEN_FILE", value("/own/token"), ENV),
        ("FAB_SESSION_ISSUER_CA", Value::Null, ENV),
        ("FAB_SESSION_ISSUER_CA", value(""), ENV),
        ("FAB_SESSION_ISSUER_CA", value("none"), ENV),
        ("FAB_SESSION_ISSUER_CA", value(&format!("{certificate}$(FAB_SESSION_ID)")), ENV),
        ("FAB_SESSION_ISSUER_CA", value(&certificate.repeat(700)), ENV),
        ("FAB_SESSION_ISSUER_CA", value(&format!("{certificate}-----BEGIN PRIVATE KEY-----")), ENV),
        (
            "FAB_SESSION_ISSUER_CA",
            json!({"valueFrom": {"configMapKeyRef": {"name": "own", "key": "own"}}}),
            ENV,
        ),
        ("AWS_ROLE_ARN", value("arn:aws:iam::111122223333:role/r"), ENV),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", value("/var/run/fab-session-base/token"), ENV),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", value("http://169.254.170.23/v1/credentials"), ENV),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", value("/var/run/fab-session-base/token"), ENV),
        ("HTTPS_PROXY", value("http://own.example"), ENV),
    ]
}

/// Returns requests for tokens. First, those that are admitted.
fn requests(world: &World) -> Vec<Attack> {
    let request = |namespace: &str, account: &str, audiences: &[&str], by: &[&str]| {
        let mut arguments = vec!["create", "token", account, "--namespace", namespace];
        for audience in audiences {
            arguments.extend(["--audience", *audience]);
        }
        arguments.extend(by);
        let what = format!("a token of {namespace}/{account} for {audiences:?} by {by:?}");
        Attempt::new(&what, &[], &arguments, String::new())
    };
    let impersonated = "system:serviceaccount:tenants-held:tenant-runtime";
    for user in ["system:node:a", "vcluster-a", "tenant", impersonated] {
        world.allow(user);
    }
    for (account, audiences, by) in [
        ("tenant-runtime", &[AUDIENCE][..], &KUBELET[..]),
        ("tenant-runtime", &["vault"], &[]),
        ("default", &[], &["--as", "tenant"]),
        ("tenant-runtime", &["sts.amazonaws.com"], &["--as", "vcluster-a"]),
    ] {
        let attempt = request("tenants-held", account, audiences, by);
        let outcome = attempt.run(world);
        assert!(outcome.ok, "{}: {}", attempt.what, outcome.stderr);
    }
    let refused = [
        ("tenants-held", "tenant-runtime", &[AUDIENCE][..], &[][..]),
        ("tenants-held", "tenant-runtime", &[AUDIENCE], &["--as", "tenant"]),
        ("tenants-held", "tenant-runtime", &[AUDIENCE], &["--as", "vcluster-a"]),
        ("tenants-held", "default", &[AUDIENCE], &["--as", "vcluster-a"]),
        ("tenants-held", "tenant-runtime", &[AUDIENCE], &["--as", impersonated]),
        ("tenants-held", "tenant-runtime", &["vault", AUDIENCE, "other"], &["--as", "tenant"]),
        // Only in the group of the nodes, or only with the name of one.
        ("tenants-held", "default", &[AUDIENCE], &["--as", "tenant", "--as-group", "system:nodes"]),
        ("tenants-held", "default", &[AUDIENCE], &["--as", "system:node:a"]),
        (WATCHED, "tenant-runtime", &[AUDIENCE], &["--as", "tenant"]),
        (PLAIN, "default", &[AUDIENCE], &["--as", "tenant"]),
        (SYSTEM, "default", &[AUDIENCE], &["--as", "tenant"]),
        ("kube-system", "default", &[AUDIENCE], &["--as", "vcluster-a"]),
    ];
    let attack = |(namespace, account, audiences, by): (&str, &str, &[&str], &[&str])| {
        let attempt = request(namespace, account, audiences, by);
        Attack { attempt, codes: &["[guard-issuer-token]"] }
    };
    refused.into_iter().map(attack).collect()
}

/// Namespaces migrate one by one, and webhook and API servers see a changed label at different
/// times, so the guard admits both forms, each as a whole.
#[test]
fn each_source_of_base_credentials_exists_beside_the_issuer() {
    let world = World::without_configuration(&[], None);
    world.namespace("tenants-held", "enabled", "acme", &[]);
    let sources = [
        json!({"source": "podIdentity"}),
        json!({"source": "irsa", "roleArn": "arn:aws:iam::111122223333:role/{tenant}"}),
        json!({"source": "environment"}),
    ];
    let golden = original("fenced-without-labels");
    for (row, source) in sources.into_iter().enumerate() {
        let mut values = values();
        values["config"]["baseCredentials"] = source.clone();
        guard(&world, &values);
        let [web, chained] = ["webIdentity", "roleChain"]
            .map(|transport| with_transport(&values, transport, &golden));
        let create = |pod: &Value, name: &str| {
            world.create(&named(pod.clone(), "tenants-held", &format!("{name}-{row}")), None)
        };
        for (name, pod) in [("chained", &chained), ("web", &web)] {
            wait_until(
                &format!("{name} with {source} is admitted"),
                Duration::from_secs(20),
                || create(pod, name).ok(),
            );
        }
        let in_clear = source["source"] == "podIdentity";
        // No token of a web identity is sent in clear, so a plugin may redirect it.
        let networks = "k8s.v1.cni.cncf.io/networks";
        for (name, pod) in [("chained-network", &chained), ("web-network", &web)] {
            let mut pod = pod.clone();
            let own = pod["metadata"].as_object_mut().unwrap();
            own.entry("annotations").or_insert_with(|| json!({}))[networks] = "own".into();
            let result = create(&pod, name);
            let is_refused = in_clear && name.starts_with("chained");
            assert_eq!(result.is_err(), is_refused, "{source}: {name}");
            assert!(result.err().is_none_or(|said| said.contains("[guard-pod-network]")));
        }
        let annotation = format!("{networks}=own");
        for name in ["chained", "web"] {
            let pod = format!("{name}-{row}");
            let annotate = ["annotate", "pod", &pod, &annotation, IN_HELD];
            let outcome = world.cluster.kubectl(&annotate).run();
            assert_eq!(outcome.ok, !in_clear || name == "web", "{pod}: {}", outcome.stderr);
        }
        // Each form has its own volume.
        if source["source"] != "environment" {
            let mut mixed = web.clone();
            *volume(&mut mixed) = volume(&mut chained.clone()).clone();
            assert!(create(&mixed, "mixed").unwrap_err().contains("[guard-volume]"));
        }
    }
}

/// The policy for all namespaces admits every pod that does not project the audience.
#[test]
fn pods_of_other_namespaces_are_admitted_as_before() {
    let world = World::without_configuration(&[], None);
    world.namespace(PLAIN, "", "acme", &[("pod-security.kubernetes.io/enforce", "privileged")]);
    guard(&world, &values());
    await_issuer_guard(&world);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let api_server = ApiServer::of(&world.cluster.kubeconfig()).dry();
    let create = |pod: &Value| runtime.block_on(api_server.create(pod));
    for (what, volumes) in extremes() {
        let result = create(&carrier(volumes));
        assert!(result.is_ok(), "{what}: {result:?}");
    }
    let mut invalid = 0;
    for seed in 0..SHAPES {
        let pod = carrier(shape(seed));
        match create(&pod) {
            Ok(_) => {}
            Err(NotCreated::Refused(said)) if !said.contains("AdmissionPolicy") => invalid += 1,
            Err(error) => panic!("{seed}: {error:?}\n{pod}"),
        }
    }
    println!("{SHAPES} shapes: none refused by a policy, {invalid} invalid for the API server");
    assert!(invalid < SHAPES / 4, "{invalid}");

    // Longer lists are refused unread, with a code, and not by the cost limit of expressions.
    for (what, volumes) in [
        ("4,097 volumes", (0..4097).map(|n| json!({"name": format!("v{n}")})).collect::<Value>()),
        ("4,100 sources", (0..5).map(|n| projected(n, 820)).collect()),
        // The time of an expression grows with the square of a list.
        ("50,000 sources", json!([projected(0, 50_000)])),
    ] {
        match create(&carrier(volumes)) {
            Err(NotCreated::Refused(said)) => assert!(said.contains("[guard-too-many]"), "{said}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

fn carrier(volumes: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shaped", "namespace": PLAIN},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": volumes},
    })
}

/// Returns a volume with this number of sources.
fn projected(name: usize, sources: usize) -> Value {
    let source = json!({"configMap": {"name": "m"}});
    json!({"name": format!("v{name}"), "projected": {"sources": vec![source; sources]}})
}

fn extremes() -> Vec<(&'static str, Value)> {
    vec![
        ("null", Value::Null),
        ("no volumes", json!([])),
        ("no sources", json!([{"name": "v", "projected": {"sources": []}}])),
        (
            "null fields",
            json!([
                {"name": "a", "projected": null, "emptyDir": {}},
                {"name": "b", "projected": {"sources": null}},
                {"name": "c", "projected": {"sources": [{"serviceAccountToken": null, "configMap": {"name": "m"}}]}},
            ]),
        ),
        ("1,185 sources", json!([projected(0, 1185)])),
        ("1,185 volumes", (0..1185).map(|n| projected(n, 1)).collect()),
        // The API server adds that of the service account.
        ("4,096 volumes", (0..4095).map(|n| projected(n, n % 2)).collect()),
        ("4,000 sources in one volume", json!([projected(0, 4000)])),
        ("4,000 sources in 100 volumes", (0..100).map(|n| projected(n, 40)).collect()),
    ]
}

/// Returns volumes of different kinds, the same for the same seed.
fn shape(seed: u64) -> Value {
    let mut state = seed;
    // The generator of Knuth's MMIX.
    let mut below = |most: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    let mut volumes = Vec::new();
    for n in 0..below(9) {
        let mut source = || match below(9) {
            0 => {
                json!({"configMap": {"name": "m", "items": [{"key": "k", "path": format!("p{n}")}]}})
            }
            1 => json!({"secret": {"name": "s", "optional": true}}),
            2 => {
                json!({"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}})
            }
            3 => json!({"serviceAccountToken": {"path": "token"}}),
            4 => {
                json!({"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}})
            }
            5 => {
                json!({"serviceAccountToken": {"path": "token", "audience": format!("{AUDIENCE}.other")}})
            }
            6 => json!({"serviceAccountToken": null, "secret": {"name": "s"}}),
            7 => json!({"clusterTrustBundle": {"name": "b", "path": "b"}}),
            _ => json!({"configMap": {"name": AUDIENCE}}),
        };
        let own = match source() {
            json if json["configMap"]["name"] == AUDIENCE => {
                json!({"emptyDir": {"medium": "Memory"}})
            }
            first => match n {
                0 | 3 | 5 => {
                    json!({"projected": {"defaultMode": 420, "sources": [first, source()]}})
                }
                1 => json!({"projected": {"sources": [first]}}),
                2 => json!({"hostPath": {"path": "/var/log"}}),
                4 => json!({"csi": {"driver": "own.csi.example"}}),
                6 => json!({"projected": null, "configMap": {"name": "m"}}),
                _ => json!({"projected": {"sources": null}}),
            },
        };
        let mut volume = own;
        volume["name"] = format!("v{n}").into();
        volumes.push(volume);
    }
    volumes.into()
}

/// The number of generated pods.
const SHAPES: u64 = 5000;
