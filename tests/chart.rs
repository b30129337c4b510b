//! The chart as the real Helm renders it, against the program that it installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cluster/helm.rs"]
mod helm;
#[path = "cluster/process.rs"]
#[allow(dead_code, reason = "of it, only the programs' places are needed")]
mod process;

use std::path::{Path, PathBuf};

use clap::Parser;
use fab_session_injector::{
    cli::{Cli, Command},
    config::Config,
    directory,
};
use serde_json::{Value, json};

fn render(values: &[(&str, &str)]) -> Result<Vec<Value>, String> {
    let text = helm::render(&chart(), "injector", "fab-session-injector", values, None)?;
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    Ok(manifests.into_iter().filter(|manifest| !manifest.is_null()).collect())
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/fab-session-injector")
}

fn of_kind(manifests: &[Value], kind: &str) -> Value {
    manifests.iter().find(|manifest| manifest["kind"] == kind).cloned().unwrap()
}

#[test]
fn each_argument_is_one_that_the_program_takes() {
    let deployment = of_kind(&render(&[]).unwrap(), "Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container.get("command"), None, "the image's entry point is the program");
    let arguments =
        container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
    let cli = Cli::try_parse_from(["fab-session-injector"].into_iter().chain(arguments)).unwrap();
    let Command::Webhook(webhook) = cli.command else { panic!("{:?}", cli.command) };
    let mounted = |path: &Path| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        mounts.iter().any(|mount| {
            path.starts_with(mount["mountPath"].as_str().unwrap()) && mount.get("subPath").is_none()
        })
    };
    for path in [webhook.config.unwrap(), webhook.tls_certificate, webhook.tls_key] {
        assert!(
            mounted(&path),
            "{} is not mounted whole, so changes would not come",
            path.display()
        );
    }
}

#[test]
fn the_default_values_are_the_programs_own() {
    let config = of_kind(&render(&[]).unwrap(), "ConfigMap")["data"]["config.yaml"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut rendered = Config::parse(&config).unwrap();
    // Without a cluster's name SSM cannot be asked: the static file, which is empty, answers.
    assert!(rendered.roles.ssm.is_none());
    assert_eq!(
        rendered.roles.file.take(),
        Some(PathBuf::from("/etc/fab-session-injector/roles.yaml"))
    );
    assert_eq!(format!("{rendered:#?}"), format!("{:#?}", Config::default()));

    let config = of_kind(&render(&[("config.cluster", "prod")]).unwrap(), "ConfigMap")["data"]["config.yaml"].as_str().unwrap().to_owned();
    let own = Config::parse("cluster: prod\nroles: {ssm: {}}\n").unwrap();
    assert_eq!(
        format!("{:#?}", Config::parse(&config).unwrap().roles),
        format!("{:#?}", own.roles)
    );
}

#[test]
fn values_that_there_are_not_are_refused() {
    let cases = [
        ("nope", "1", "additional properties 'nope' not allowed"),
        ("config.nope", "1", "additional properties 'nope' not allowed"),
        ("config.sidecar.port", "70000", "port"),
        ("config.sidecar.durationSeconds", "7200", "durationSeconds"),
        ("config.podSecurity", "loose", "podSecurity"),
        ("replicaCount", "-1", "replicaCount"),
        ("config.components[0].name", "x", "components"),
        ("config.sidecar.resources.limits.memory", "65536K", "memory"),
    ];
    for (key, value, want) in cases {
        let said = render(&[(key, value)]).expect_err(key);
        assert!(said.contains(want), "{key}={value}: {said}");
    }
}

/// What the program refuses to start with, the chart refuses to render: an upgrade must not
/// take a rule to the API server that the webhook does not go by.
#[test]
fn contradictions_fail_the_render_and_the_program() {
    let cases = [
        (
            json!([{"name": "runtime", "fenced": true, "credentials": "exempt"}]),
            "takes the fence away",
        ),
        (
            json!([{"name": "runtime", "selectors": ["a=b"], "credentials": "env"}, {"name": "fence", "fenced": true}]),
            "a tenant writes labels",
        ),
        (json!([{"name": "runtime", "selectors": ["a=b"]}]), "fenced: true"),
        (json!([{"name": "a", "fenced": true}, {"name": "a", "creators": ["x"]}]), "same name"),
    ];
    let components = cases.map(|(components, want)| (json!({"components": components}), want));
    let of = |requests, limits| json!({"sidecar": {"resources": {"requests": requests, "limits": limits}}});
    let resources = [
        (
            of(json!({"cpu": "10m", "memory": "65Mi"}), json!({"cpu": 1, "memory": "64Mi"})),
            "requests.memory is more",
        ),
        (
            of(json!({"cpu": 2, "memory": "32Mi"}), json!({"cpu": "1999m", "memory": "1Gi"})),
            "requests.cpu is more",
        ),
        (
            of(json!({"cpu": "1000m", "memory": "1Mi"}), json!({"cpu": 2, "memory": "1Gi"})),
            "the shortest form",
        ),
        (
            of(json!({"cpu": "1m", "memory": "1Mi"}), json!({"cpu": 2, "memory": "1024Mi"})),
            "the shortest form",
        ),
    ];
    for (config, want) in components.into_iter().chain(resources) {
        let values = process::own_directory();
        let file = values.path().join("values.yaml");
        std::fs::write(&file, json!({"config": config}).to_string()).unwrap();
        let said =
            helm::render(&chart(), "injector", "injector", &[], Some(&file)).expect_err(want);
        assert!(said.contains(want), "{said}");
        assert!(Config::parse(&config.to_string()).is_err(), "{config}");
    }
}

#[test]
fn a_static_role_that_is_not_allowed_fails_the_render_and_the_program() {
    let role = "arn:aws:iam::111122223333:role/agents/acme";
    let cases = [
        (json!({"partitions": ["aws-cn"]}), Some("config.roles.allow.partitions")),
        (json!({"accounts": ["999999999999"]}), Some("config.roles.allow.accounts")),
        (json!({"pathPrefixes": ["/other/"]}), Some("config.roles.allow.pathPrefixes")),
        (
            json!({"partitions": ["aws"], "accounts": ["111122223333"], "pathPrefixes": ["/other/", "/agents/"]}),
            None,
        ),
    ];
    for (allow, want) in cases {
        let values = process::own_directory();
        let file = values.path().join("values.yaml");
        let roles = json!({"acme": role});
        let config = json!({"roles": {"allow": allow}});
        let all = json!({"staticRoles": roles, "config": config});
        std::fs::write(&file, all.to_string()).unwrap();
        let rendered = helm::render(&chart(), "injector", "injector", &[], Some(&file));
        let allowed = Config::parse(&config.to_string()).unwrap().roles.allowed;
        let read = directory::file::parse(&json!({"roles": roles}).to_string(), &allowed);
        assert_eq!((rendered.is_ok(), read.is_ok()), (want.is_none(), want.is_none()), "{allow}");
        let said = rendered.err().unwrap_or_default();
        assert!(said.contains(want.unwrap_or_default()), "{said}");
    }
}

#[test]
fn two_renders_are_the_same() {
    let once = || {
        helm::render(
            &chart(),
            "injector",
            "fab-session-injector",
            &[("config.cluster", "prod")],
            None,
        )
        .unwrap()
    };
    assert_eq!(once(), once());
}

#[test]
fn the_configuration_fails_closed_and_narrowly() {
    let configuration = of_kind(&render(&[]).unwrap(), "MutatingWebhookConfiguration");
    assert_eq!(configuration["metadata"]["name"], "fab-session-injector");
    let webhooks = configuration["webhooks"].as_array().unwrap();
    let summary: Vec<Value> = webhooks
        .iter()
        .map(|webhook| {
            json!([
                webhook["name"],
                webhook["failurePolicy"],
                webhook["clientConfig"]["service"]["path"],
                webhook["sideEffects"],
                webhook["reinvocationPolicy"],
                webhook["timeoutSeconds"]
            ])
        })
        .collect();
    let want = [
        json!(["enabled.session.fab.nanohype.dev", "Fail", "/enabled", "None", "IfNeeded", 5]),
        json!(["audit.session.fab.nanohype.dev", "Ignore", "/audit", "None", "IfNeeded", 5]),
    ];
    assert_eq!(summary, want);
    for webhook in webhooks {
        assert_eq!(webhook["matchConditions"].as_array().unwrap().len(), 1);
        assert!(
            webhook["namespaceSelector"].to_string().contains("fab.nanohype.dev/session-injection")
        );
    }
}

#[test]
fn every_value_is_described() {
    let schema: Value =
        serde_json::from_slice(&std::fs::read(chart().join("values.schema.json")).unwrap())
            .unwrap();
    let mut undescribed = Vec::new();
    fn walk(schema: &Value, at: &str, undescribed: &mut Vec<String>) {
        for (key, child) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{key}");
            if child["description"].as_str().unwrap_or_default().is_empty()
                && child.get("$ref").is_none()
            {
                undescribed.push(at.clone());
            }
            walk(child, &at, undescribed);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], &format!("{at}[]"), undescribed);
        }
    }
    walk(&schema, "", &mut undescribed);
    assert!(undescribed.is_empty(), "{undescribed:?}");
}

/// Descriptions are those of the schema, defaults those of values.yaml. `UPDATE=1` writes the
/// table anew.
#[test]
fn the_readme_lists_every_value() {
    let read = |file: &str| std::fs::read_to_string(chart().join(file)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let mut table = "| key | default | description |\n| --- | --- | --- |\n".to_owned();
    rows(&schema, &values, "", &mut table);
    let readme = read("README.md");
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if is_update() {
        let whole = format!("{before}{BEGIN}{table}{END}{after}");
        std::fs::write(chart().join("README.md"), whole).unwrap();
    } else {
        assert!(found == table, "the table of values is not current; UPDATE=1 writes it anew");
    }
}

fn rows(schema: &Value, values: &Value, within: &str, table: &mut String) {
    let properties = schema["properties"].as_object().unwrap();
    for (name, child) in properties.iter().filter(|(name, _)| *name != "global") {
        let key = format!("{within}{name}");
        // The parts of a component have no value of their own, but a default.
        let value = values.get(name).or(child.get("default"));
        let mut row = |shown: &str| {
            let description = child["description"].as_str().unwrap();
            table.push_str(&format!("| `{key}` | {shown} | {description} |\n"));
        };
        match value {
            Some(Value::Array(components)) if key == "config.components" => {
                let names: Vec<String> = components
                    .iter()
                    .map(|component| format!("`{}`", component["name"].as_str().unwrap()))
                    .collect();
                row(&names.join(", "));
                rows(&child["items"], &json!({}), "config.components[].", table);
            }
            Some(Value::Object(entries))
                if !entries.is_empty() && child["properties"].is_object() =>
            {
                if child["type"].to_string().contains("null") {
                    row("as below");
                }
                rows(child, &json!(entries), &format!("{key}."), table);
            }
            Some(value) => row(&format!("`{value}`")),
            None => row(""),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a test has no command line")]
fn is_update() -> bool {
    std::env::var("UPDATE").is_ok()
}

const BEGIN: &str = "<!-- values: begin -->\n";
const END: &str = "<!-- values: end -->\n";
