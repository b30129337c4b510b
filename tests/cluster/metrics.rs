//! Metrics, alerts and dashboard: a real Prometheus scrapes the webhook, `certs` and
//! kube-state-metrics while faults are injected.

mod expression;
mod kube_state_metrics;
mod kubelet;
mod log_queries;
mod prometheus;
mod sidecars;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    thread::{self, sleep},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use harness::{
    helm::{self, chart},
    parameter_store::{Fault, ParameterStore},
    process::{Process, free_port, get, own_directory, wait_until},
    webhook::client::{Client, Protocol},
    world::{World, parameter, role},
};
use rustls::version::TLS13;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use expression::selectors;
use kube_state_metrics::KubeStateMetrics;
use prometheus::{Administrator, Prometheus, promtool};

/// Alerts that [`each_fault_is_counted_scraped_and_alerted_on`] makes fire. docs/metrics.md
/// lists the same.
const SEEN: [&str; 22] = [
    "CertificateExpiring",
    "CertificateReloadFailing",
    "CertsDown",
    "CertsFailing",
    "Down",
    "GuardRefusals",
    "InvalidRequests",
    "NamespaceWatchFailing",
    "NamespacesMisconfigured",
    "Refusals",
    "ReplicaNotReady",
    "RolesStale",
    "RolesUnknown",
    "SidecarNotReady",
    "SidecarRestarting",
    "Slow",
    "SsmDenied",
    "SsmThrottled",
    "SsmUnreachable",
    "TransientRefusals",
    "Unattributed",
    "WebhookCallsFailing",
];

/// The faults are injected one after the other. Each is visible before the next.
#[test]
fn each_fault_is_counted_scraped_and_alerted_on() {
    let mut scene = Scene::start();
    scene.sidecars_go_wrong();
    scene.callers_go_wrong();
    scene.ssm_goes_wrong();
    scene.certificates_go_wrong();
    let (of_webhook, of_certs) =
        (scene.world.health("/metrics"), get(scene.certs_health, "/metrics"));
    scene.all_go_away();

    for (heading, text) in [(WEBHOOK_METRICS, of_webhook), (CERTS_METRICS, of_certs)] {
        assert_eq!(exposed(&text), listed(heading), "{heading}");
    }
    let seen: BTreeSet<String> = SEEN.iter().map(|name| alert_name(name)).collect();
    let fired = scene.prometheus.fired();
    assert!(seen.is_subset(&fired), "{:?} did not fire", seen.difference(&fired));

    let asked: Vec<String> = rules(&scene.rules)
        .iter()
        .map(|rule| rule["expr"].as_str().unwrap().to_owned())
        .chain(panels())
        .collect();
    assert!(asked.len() > 40, "{asked:?}");
    for expression in &asked {
        assert_eq!(unanswered(&scene.prometheus, expression), None, "{expression}");
    }
    // Negative control: a misspelt metric, label, value or function is detected.
    let sound = r#"sum(increase(fab_session_injector_role_calls_total{cluster="prod",outcome="denied"}[10m])) > 0"#;
    assert!(asked.contains(&sound.to_owned()));
    for (right, wrong) in [
        ("role_calls_total", "role_call_total"),
        ("outcome", "outcomes"),
        ("denied", "refused"),
        ("increase(", "increases("),
    ] {
        let wrong = sound.replace(right, wrong);
        assert!(unanswered(&scene.prometheus, &wrong).is_some(), "{wrong}");
    }
}

/// Returns the error of Prometheus, or a selector of the expression without any series.
fn unanswered(prometheus: &Prometheus, expression: &str) -> Option<String> {
    let expression = expression.replace("$__rate_interval", "5m").replace("$cluster", "prod");
    if let Err(said) = prometheus.query(&expression) {
        return Some(said);
    }
    let selectors = selectors(&expression);
    assert!(!selectors.is_empty(), "{expression}");
    selectors.into_iter().find(|selector| prometheus.series(selector).is_empty())
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    let directory = own_directory();
    let write = |rules: &Value| {
        fs::write(directory.path().join("rules.yaml"), rules.to_string()).unwrap();
    };
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/metrics/alerts.yaml");
    fs::copy(cases, directory.path().join("alerts.yaml")).unwrap();
    let test = || promtool(directory.path(), &["test", "rules", "alerts.yaml"]);

    let sound = all_rules(&[]);
    write(&sound);
    let said = promtool(directory.path(), &["check", "rules", "rules.yaml"]).unwrap();
    assert!(said.contains(&format!("{} rules found", rules(&sound).len())), "{said}");
    test().unwrap();
    let text = fs::read_to_string(cases).unwrap();
    for rule in rules(&sound) {
        let firing = format!(r#"labels: '{{alertname={}, alertstate="firing"}}'"#, rule["alert"]);
        assert!(text.contains(&firing), "{} has no case in which it fires", rule["alert"]);
    }

    // Negative control: each rule that never fires is detected.
    let mut broken = sound.clone();
    for rule in broken["groups"][0]["rules"].as_array_mut().unwrap() {
        rule["expr"] = "vector(1) == 2".into();
    }
    write(&broken);
    let said = test().unwrap_err();
    for rule in rules(&sound) {
        let firing = format!(r#"exp: {{alertname={}, alertstate="firing"}}"#, rule["alert"]);
        assert!(said.contains(&firing), "{}: {said}", rule["alert"]);
    }
}

#[test]
fn each_alert_has_a_summary_and_a_runbook() {
    let page = fs::read_to_string(repository("docs/metrics.md")).unwrap();
    let (_, told) = page.split_once("\n## Alerts\n").unwrap();
    let told = told.split("\n## ").next().unwrap();
    let told: BTreeMap<&str, &str> =
        told.split("\n### ").skip(1).map(|section| section.split_once("\n\n").unwrap()).collect();
    let all = all_rules(&[]);
    let rules = rules(&all);
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len());
    assert_eq!(names, told.keys().copied().collect());
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        let severity = rule["labels"]["severity"].as_str().unwrap();
        let begins = match rule["for"].as_str().map(|wait| wait.strip_suffix('m').unwrap()) {
            Some(minutes) => format!("*{severity}, after {minutes} minutes.* "),
            None => format!("*{severity}.* "),
        };
        let section = told[name];
        assert!(section.to_lowercase().starts_with(&begins), "{name}: {begins}");
        let annotations = &rule["annotations"];
        for key in ["summary", "description"] {
            let text = annotations[key].as_str().unwrap();
            assert!(text.ends_with('.') && !text.contains('\n'), "{name}: {text}");
        }
        let link = format!("{PAGE}#{}", name.to_lowercase());
        assert_eq!(annotations["runbook_url"], link);
    }

    let seen: BTreeSet<String> =
        SEEN.iter().map(|name| format!("- `{}`", alert_name(name))).collect();
    let (_, listed) = page.split_once("<!-- alerts seen: begin -->\n").unwrap();
    let listed = listed.split("<!-- alerts seen: end -->").next().unwrap();
    assert_eq!(listed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), seen);
}

/// A part that is not configured has no alerts.
#[test]
fn the_rules_match_the_configured_features() {
    let names = |values: &[(&str, &str)]| -> BTreeSet<String> {
        let manifest = rendered("PrometheusRule", values);
        let rules = rules(&manifest["spec"]);
        rules.iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect()
    };
    let all = names(&[("config.cluster", "prod")]);
    let missing = |values: &[(&str, &str)]| -> Vec<String> {
        all.difference(&names(values)).cloned().collect()
    };
    let alerts = |names: &[&str]| names.iter().map(|name| alert_name(name)).collect::<Vec<_>>();
    let of_ssm = ["RolesStale", "SsmDenied", "SsmThrottled", "SsmUnreachable"];
    assert_eq!(missing(&[]), alerts(&of_ssm));
    let of_certs = ["CAExpiring", "CertsDown", "CertsFailing"];
    let cert_manager = [("config.cluster", "prod"), ("certificates.mode", "certManager")];
    assert_eq!(missing(&cert_manager), alerts(&of_certs));
    let unguarded = [("config.cluster", "prod"), ("guard.enabled", "false")];
    assert_eq!(missing(&unguarded), alerts(&["GuardRefusals"]));
    let with_issuer = all_rules(&[]);
    let with_issuer = rules(&with_issuer).iter().map(|rule| rule["alert"].as_str().unwrap());
    let added: Vec<&str> = with_issuer.filter(|name| !all.contains(*name)).collect();
    let of_issuer = [
        "IssuerLogLinesDropped",
        "IssuerDown",
        "IssuerRefusals",
        "IssuerForeignKey",
        "IssuerKeyUnpublished",
        "IssuerKeysUnread",
        "IssuerCertificateExpiring",
    ];
    assert_eq!(added, alerts(&of_issuer));

    let values = [
        ("config.cluster", "prod"),
        ("config.roles.ssm.staleSeconds", "7200"),
        ("metrics.prometheusRule.certificateDays", "3"),
    ];
    let text = rendered("PrometheusRule", &values).to_string();
    assert!(text.contains("oldest_role_age_seconds) > 5400\""), "{text}");
    assert!(text.contains("time() < 3 * 86400\""), "{text}");
    // The transient refusals are those with 503.
    let page = fs::read_to_string(repository("docs/refusals.md")).unwrap();
    let of_webhook = page.split("\n## ").find(|section| section.starts_with("Webhook\n")).unwrap();
    let transient = |section: &str| {
        let (code, text) = section.split_once("`\n\n")?;
        text.starts_with("HTTP 503, ").then(|| code.to_owned())
    };
    let listed: BTreeSet<String> =
        of_webhook.split("\n### `").skip(1).filter_map(transient).collect();
    let codes = listed.into_iter().collect::<Vec<_>>().join("|");
    assert_eq!(text.matches(&codes).count(), 2, "{codes}");
}

/// A Prometheus with the series of several clusters: `absent` of all clusters would find the
/// replicas of the others.
#[test]
fn the_rules_of_a_cluster_query_its_series_only() {
    let cluster = [
        ("metrics.prometheusRule.clusterLabels.cluster", "prod"),
        ("metrics.prometheusRule.clusterLabels.region", "eu-west-1"),
    ];
    let spec = all_rules(&cluster);
    for rule in rules(&spec) {
        let expression = rule["expr"].as_str().unwrap();
        for selector in selectors(expression) {
            let matchers = r#"{cluster="prod",region="eu-west-1""#;
            assert_eq!(selector.matches(matchers).count(), 1, "{expression}");
        }
        assert_eq!(rule["labels"]["cluster"], "prod", "{rule}");
        assert_eq!(rule["labels"]["region"], "eu-west-1", "{rule}");
    }
    let without = all_rules(&[]);
    assert!(!without.to_string().contains("cluster="), "{without}");
    assert_eq!(rules(&spec).len(), rules(&without).len());

    let directory = own_directory();
    fs::write(directory.path().join("rules.yaml"), spec.to_string()).unwrap();
    let cases = repository("tests/cluster/metrics/clusters.yaml");
    fs::copy(cases, directory.path().join("clusters.yaml")).unwrap();
    promtool(directory.path(), &["test", "rules", "clusters.yaml"]).unwrap();
    // Negative control: rules of all clusters fire for none.
    fs::write(directory.path().join("rules.yaml"), without.to_string()).unwrap();
    let said = promtool(directory.path(), &["test", "rules", "clusters.yaml"]).unwrap_err();
    assert!(said.contains("FabSessionInjectorDown"), "{said}");

    for expression in panels() {
        let found = selectors(&expression);
        let selects = |selector: &String| selector.contains(r#"{cluster=~"$cluster""#);
        assert!(found.iter().all(selects), "{expression}");
    }
}

#[test]
fn each_alert_can_be_labelled_and_disabled() {
    let all = all_rules(&[]);
    let names: Vec<&str> = rules(&all).iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    let disabled = |index: usize| format!("metrics.prometheusRule.disabledAlerts[{index}]");
    // Each alert but the first.
    let keys: Vec<String> = (0..names.len() - 1).map(disabled).collect();
    let mut values: Vec<(&str, &str)> =
        keys.iter().map(String::as_str).zip(names[1..].iter().copied()).collect();
    values.push(("metrics.prometheusRule.alertLabels.team", "platform"));
    let kept = all_rules(&values);
    let [rule] = &rules(&kept)[..] else { panic!("{kept}") };
    assert_eq!(rule["alert"], names[0]);
    assert_eq!(rule["labels"], json!({"severity": "critical", "team": "platform"}));
    assert_eq!(rule["expr"], rules(&all)[0]["expr"]);

    let on = ("metrics.prometheusRule.enabled", "true");
    for (key, value) in [
        (&*disabled(0), "FabSessionInjectorUp"),
        ("metrics.prometheusRule.alertLabels.severity", "info"),
        ("metrics.prometheusRule.clusterLabels.alertname", "x"),
        ("metrics.prometheusRule.clusterLabels.cluster", "$prod"),
        ("metrics.prometheusRule.clusterLabels.a-b", "prod"),
    ] {
        let refused = helm::render(&chart(), "injector", "system", &[on, (key, value)], None);
        assert!(refused.unwrap_err().contains("metrics"), "{key}={value}");
    }
}

/// Its row is collapsed, because most clusters have no session issuer.
#[test]
fn the_dashboard_has_a_row_of_the_session_issuer() {
    let dashboard = dashboard();
    let row = dashboard["panels"].as_array().unwrap().last().unwrap();
    assert_eq!((&row["type"], &row["collapsed"]), (&json!("row"), &json!(true)));
    let panels = row["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions = targets.map(|target| target["expr"].as_str().unwrap());
    let shown: BTreeSet<String> = expressions.flat_map(selectors).collect();
    assert!(shown.iter().all(|selector| selector.contains(r#"{cluster=~"$cluster""#)), "{shown:?}");
    let listed = listed("`issuer` metrics");
    for metric in listed.keys() {
        let is_shown = shown.iter().any(|selector| selector.starts_with(metric.as_str()));
        assert!(is_shown, "{metric}");
    }
    for selector in &shown {
        let name = selector.split('{').next().unwrap().trim_end_matches("_bucket");
        assert!(listed.contains_key(name), "{name} is not in docs/metrics.md");
    }
}

#[test]
fn the_dashboard_shows_every_metric_without_overlaps() {
    let shown: BTreeSet<String> =
        panels().iter().flat_map(|expression| selectors(expression)).collect();
    let is_shown = |metric: &str| shown.iter().any(|selector| selector.starts_with(metric));
    for metric in listed(WEBHOOK_METRICS).keys().chain(listed(CERTS_METRICS).keys()) {
        assert!(is_shown(metric), "{metric}");
    }
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        assert!(titles.insert(panel["title"].as_str().unwrap()), "{}", panel["title"]);
        if panel["type"] != "row" {
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{}", panel["title"]);
        }
        // Grafana's own thresholds are green, and red from 80.
        if panel["type"] == "stat" {
            let steps = &panel["fieldConfig"]["defaults"]["thresholds"]["steps"];
            assert!(!steps.as_array().unwrap().is_empty(), "{}", panel["title"]);
        }
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{}", panel["title"]);
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{}", panel["title"]);
        }
    }
}

#[test]
fn the_links_of_the_pages_have_targets() {
    for page in ["docs/metrics.md", "docs/cloudtrail.md"] {
        let text = fs::read_to_string(repository(page)).unwrap();
        let mut found = 0;
        for link in text.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { page } else { &format!("docs/{file}") };
            let target = fs::read_to_string(repository(file)).expect(link);
            let anchors = target.lines().filter_map(|line| {
                let heading = line.strip_prefix('#')?.trim_start_matches('#').trim();
                let kept = heading.to_lowercase().replace(' ', "-");
                Some(kept.replace(|c: char| !(c.is_alphanumeric() || c == '-'), ""))
            });
            assert!(
                anchor.is_empty() || anchors.into_iter().any(|found| found == anchor),
                "{page}: {link}"
            );
            found += 1;
        }
        assert!(found > 3, "{page}: {found}");
    }
}

/// The running programs.
struct Scene {
    world: World,
    /// Dropping it ends the process.
    _kube_state_metrics: KubeStateMetrics,
    store: ParameterStore,
    certs: Option<Process>,
    certs_health: SocketAddr,
    /// A second replica of the webhook.
    other: (u16, u16),
    prometheus: Prometheus,
    /// The alert rules without their `for`.
    rules: Value,
    runtime: Runtime,
}

impl Scene {
    fn start() -> Self {
        let store = ParameterStore::start(1000.0);
        // The second is the tenant of the namespace by which the world awaits its configuration.
        for tenant in ["acme", "probe"] {
            store.put(&parameter(tenant), &role(tenant));
        }
        let endpoint = store.endpoint();
        // RolesStale fires after three quarters of it: 9 s.
        let stale = ("config.roles.ssm.staleSeconds", "12");
        let rule = ("metrics.prometheusRule.enabled", "true");
        let cluster = ("metrics.prometheusRule.clusterLabels.cluster", "prod");
        let values = [("config.roles.ssm.endpoint", &*endpoint), stale, rule, cluster];
        let world = World::start(&values, None);
        world.namespace("tenants-acme", "enabled", "acme", &[]);
        let certs_health = ([127, 0, 0, 1], free_port()).into();
        let certs = start_certs(&world, certs_health);
        let mut rules = world.manifest("PrometheusRule")["spec"].clone();
        for rule in rules["groups"][0]["rules"].as_array_mut().unwrap() {
            rule.as_object_mut().unwrap().shift_remove("for");
        }
        let other = (free_port(), free_port());
        let administrator = administrator(&world);
        let health = [world.health_address(), ([127, 0, 0, 1], other.1).into(), certs_health];
        let kube_state_metrics = KubeStateMetrics::start(&world);
        let prometheus =
            Prometheus::start(&health, kube_state_metrics.address, &administrator, &rules);
        let runtime = Runtime::new().unwrap();
        let scene = Self {
            world,
            _kube_state_metrics: kube_state_metrics,
            store,
            certs: Some(certs),
            certs_health,
            other,
            prometheus,
            rules,
            runtime,
        };
        for metric in ["fab_session_injector_ready", "fab_session_injector_certs_ready == 1"] {
            wait_until(metric, Duration::from_secs(30), || {
                scene.prometheus.query(metric).is_ok_and(|found| !found.is_empty()).then_some(())
            });
        }
        scene
    }

    fn callers_go_wrong(&mut self) {
        let weak = [("pod-security.kubernetes.io/enforce", "privileged")];
        let keeps = [("fab.nanohype.dev/operator", "keep")];
        thread::scope(|scope| {
            for (name, mode, tenant, labels) in [
                ("tenants-old", "enabled", "acme", &keeps[..]),
                ("tenants-lost", "enabled", "lost", &[]),
                ("tenants-trial", "audit", "lost", &[]),
                ("tenants-weak", "enabled", "weak", &weak),
            ] {
                let world = &self.world;
                scope.spawn(move || world.namespace(name, mode, tenant, labels));
            }
        });
        let on_the_host = |pod: &mut Value| pod["spec"]["hostPID"] = true.into();
        self.review("/enabled", "tenants-acme", |_| {});
        self.review("/audit", "tenants-trial", on_the_host);
        self.review("/enabled", "tenants-old", |pod| {
            let variable = json!({"name": "FAB_OPERATOR", "value": "ada@example.com"});
            pod["spec"]["containers"][0]["env"] = json!([variable]);
        });
        self.review("/enabled", "tenants-acme", on_the_host);
        self.post("/enabled", "[]");
        sleep(SCRAPED);
        for _ in 0..6 {
            self.review("/enabled", "tenants-acme", on_the_host);
            self.post("/enabled", "[]");
        }
        self.fires(&[
            "InvalidRequests",
            "NamespacesMisconfigured",
            "Refusals",
            "RolesUnknown",
            "Unattributed",
        ]);
        self.panel_shows("env|keep", "1");
        let token = ["create", "token", "tenant-runtime", "--namespace", "tenants-acme"];
        let token = [&token[..], &["--audience", "sts.amazonaws.com"]].concat();
        let refused = self.world.cluster.kubectl(&token).run();
        assert!(refused.stderr.contains("fab-session-injector-tokens"), "{}", refused.stderr);
        self.panel_shows("validating_admission_policy", "1");
        let lost = start_without_api_server(&self.world, self.other);
        self.fires(&["NamespaceWatchFailing", "ReplicaNotReady"]);
        drop(lost);
    }

    fn ssm_goes_wrong(&mut self) {
        for (fault, alerts) in [
            (Fault::Hang, &["RolesStale", "Slow", "SsmUnreachable", "TransientRefusals"][..]),
            (Fault::Throttled, &["SsmThrottled"]),
            (Fault::Denied, &["SsmDenied"]),
        ] {
            self.store.fail(Some(fault));
            wait_until(&format!("{alerts:?} fire"), Duration::from_secs(60), || {
                // The tenant's role is not cached, so the webhook calls SSM.
                self.review("/enabled", "tenants-lost", |_| {});
                sleep(SCRAPED);
                self.have_fired(alerts).then_some(())
            });
        }
        self.store.fail(None);
    }

    fn certificates_go_wrong(&mut self) {
        self.world.make_certificate(&["--wrong-pair"]);
        self.fires(&["CertificateReloadFailing"]);
        self.world.make_certificate(&["--expired"]);
        self.fires(&["CertificateExpiring"]);
        self.world.make_certificate(&[]);
        let delete = ["delete", "secret", KEPT, "--namespace", KEPT];
        assert!(self.world.cluster.kubectl(&delete).run().ok);
        self.fires(&["CertsFailing"]);
    }

    fn all_go_away(&mut self) {
        self.world.kill_webhook();
        self.certs = None;
        self.fires(&["CertsDown", "Down"]);
        self.world.create(&agent("tenants-trial"), None).expect("audit refuses no pod");
        let fail_open = "apiserver_admission_webhook_fail_open_count";
        wait_until("the API server counts it", Duration::from_secs(60), || {
            let said = self.world.create(&agent("tenants-acme"), None).unwrap_err();
            assert!(said.contains("failed calling webhook"), "{said}");
            sleep(SCRAPED);
            let is_counted = !self.prometheus.series(fail_open).is_empty();
            (is_counted && self.have_fired(&["WebhookCallsFailing"])).then_some(())
        });
    }

    fn fires(&self, alerts: &[&str]) {
        wait_until(&format!("{alerts:?} fire"), Duration::from_secs(60), || {
            self.have_fired(alerts).then_some(())
        });
    }

    /// Waits until the panel with this text in its expression shows the only event of its kind. The
    /// event creates its series, which is no increase.
    fn panel_shows(&self, text: &str, value: &str) {
        let expression = panels().into_iter().find(|expression| expression.contains(text)).unwrap();
        let expression = expression.replace("$cluster", "prod");
        wait_until(&format!("the panel shows {value}"), Duration::from_secs(60), || {
            let found = self.prometheus.query(&expression).unwrap();
            (found.len() == 1 && found[0]["value"][1] == *value).then_some(())
        });
    }

    fn have_fired(&self, alerts: &[&str]) -> bool {
        let fired = self.prometheus.fired();
        alerts.iter().all(|alert| fired.contains(&alert_name(alert)))
    }

    /// Sends the review of the recorded pod, changed and in another namespace.
    fn review(&self, path: &str, namespace: &str, change: impl FnOnce(&mut Value)) {
        let recorded = fs::read(repository("tests/reviews/runtime.json")).unwrap();
        let mut review: Value = serde_json::from_slice(&recorded).unwrap();
        let request = &mut review["request"];
        request["namespace"] = namespace.into();
        request["object"]["metadata"]["namespace"] = namespace.into();
        change(&mut request["object"]);
        let answer = self.post(path, &review.to_string());
        assert!(answer.contains("\"uid\""), "{answer}");
    }

    fn post(&self, path: &str, body: &str) -> String {
        let authority = fs::read(self.world.tls().join("ca.crt")).unwrap();
        let address = self.world.address();
        self.runtime.block_on(async {
            let client = Client::connect(address, &authority, Protocol::Http2, &[&TLS13]).await;
            let body = body.as_bytes().to_vec();
            let answer = client.unwrap().post(path, "application/json", body).await.unwrap();
            String::from_utf8_lossy(&answer.body).into_owned()
        })
    }
}

/// Returns an agent pod that satisfies `restricted`.
fn agent(namespace: &str) -> Value {
    let security = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let narrow = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "agent-", "namespace": namespace},
        "spec": {
            "serviceAccountName": "tenant-runtime", "securityContext": security,
            "containers": [{"name": "c", "image": "i", "securityContext": narrow}],
        },
    })
}

/// Starts `certs` with its own Secret and webhook configuration, because the world manages those of
/// the chart.
fn start_certs(world: &World, health: SocketAddr) -> Process {
    world.cluster.create_namespace(KEPT, &[]);
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": KEPT, "namespace": KEPT}}));
    world.apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": KEPT},
        "webhooks": [{
            "name": "kept.example.org", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"service": {"name": KEPT, "namespace": KEPT}},
        }],
    }));
    let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
    command.arg("certs").arg(format!("--health-listen={health}"));
    for name in ["namespace", "secret", "service", "webhook-configuration"] {
        command.arg(format!("--{name}={KEPT}"));
    }
    let kubeconfig = world.cluster.kubeconfig();
    command.env("KUBECONFIG", &kubeconfig);
    Process::start("certs", kubeconfig.parent().unwrap(), &command)
}

/// Starts a replica that never becomes ready.
fn start_without_api_server(world: &World, (port, health_port): (u16, u16)) -> Process {
    let directory = world.tls();
    let kubeconfig = directory.join("unreachable.kubeconfig");
    let cluster = json!({"name": "unreachable", "cluster": {"server": format!("http://127.0.0.1:{}", free_port())}});
    let context = json!({"name": "unreachable", "context": {"cluster": "unreachable", "user": "unreachable"}});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "unreachable", "contexts": [context],
        "clusters": [cluster], "users": [{"name": "unreachable", "user": {}}],
    });
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fab-session-injector"));
    command
        .arg("webhook")
        .arg(format!("--listen=127.0.0.1:{port}"))
        .arg(format!("--health-listen=127.0.0.1:{health_port}"))
        .arg("--tls-certificate")
        .arg(directory.join("tls.crt"))
        .arg("--tls-key")
        .arg(directory.join("tls.key"))
        .arg("--roles")
        .arg(repository("examples/demo/roles.yaml"))
        .env("KUBECONFIG", kubeconfig);
    Process::start("lost", &directory, &command)
}

fn administrator(world: &World) -> Administrator {
    let text = fs::read_to_string(world.cluster.kubeconfig()).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let pem =
        |key: &str| STANDARD.decode(config["users"][0]["user"][key].as_str().unwrap()).unwrap();
    Administrator {
        address: server.strip_prefix("https://").unwrap().to_owned(),
        certificate: pem("client-certificate-data"),
        key: pem("client-key-data"),
    }
}

/// Returns each metric of the text by its name in Prometheus, with its labels.
fn exposed(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket"],
                _ => &[""],
            };
            let series = format!("{name}{}", suffixes[0]);
            let labels = text
                .lines()
                .filter_map(|line| line.strip_prefix(&series)?.strip_prefix('{')?.split_once('}'))
                .flat_map(|(labels, _)| {
                    labels.split("\",").map(|label| label.split_once('=').unwrap().0)
                })
                .filter(|label| *label != "le")
                .map(str::to_owned)
                .collect();
            let name = if kind == "counter" { series } else { name.to_owned() };
            (name, labels)
        })
        .collect()
}

/// Returns the metrics and labels of the table below the heading in docs/metrics.md.
fn listed(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string(repository("docs/metrics.md")).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, labels, says, what_to_do] = cells[..] else { panic!("{row}") };
        assert!(!says.is_empty() && !what_to_do.is_empty(), "{row}");
        let quoted = |cell: &str| -> BTreeSet<String> {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        (quoted(name).pop_first().unwrap(), quoted(labels))
    })
    .collect()
}

/// Returns the object of this kind that the chart renders with monitoring enabled.
fn rendered(kind: &str, values: &[(&str, &str)]) -> Value {
    rendered_from(kind, values, None)
}

/// Returns the rules of all features: with roles from SSM, and with a session issuer.
fn all_rules(values: &[(&str, &str)]) -> Value {
    let file = repository("tests/cluster/chart/issuer.yaml");
    rendered_from("PrometheusRule", values, Some(&file))["spec"].take()
}

fn rendered_from(kind: &str, values: &[(&str, &str)], file: Option<&Path>) -> Value {
    let on = [("metrics.prometheusRule.enabled", "true"), ("metrics.dashboard.enabled", "true")];
    let text = helm::render(&chart(), "injector", "system", &[&on, values].concat(), file).unwrap();
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let is_it = |manifest: &Value| {
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
        manifest["kind"] == kind && (kind != "ConfigMap" || name.ends_with("-dashboard"))
    };
    manifests.into_iter().find(is_it).unwrap()
}

fn rules(spec: &Value) -> &Vec<Value> {
    spec["groups"][0]["rules"].as_array().unwrap()
}

fn dashboard() -> Value {
    let manifest = rendered("ConfigMap", &[]);
    serde_json::from_str(manifest["data"]["fab-session-injector.json"].as_str().unwrap()).unwrap()
}

/// Returns the expressions of the dashboard.
fn panels() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

fn alert_name(name: &str) -> String {
    format!("FabSessionInjector{name}")
}

fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Name of the Secret, the webhook configuration and the namespace of `certs`.
const KEPT: &str = "kept";
/// Headings of the tables in docs/metrics.md.
const WEBHOOK_METRICS: &str = "Webhook metrics";
const CERTS_METRICS: &str = "`certs` metrics";
/// The page of the chart's own version.
const PAGE: &str = concat!(
    "https://github.com/nanohype/fab-session-injector/blob/v",
    env!("CARGO_PKG_VERSION"),
    "/docs/metrics.md"
);
/// After this time each target but the API server was scraped.
const SCRAPED: Duration = Duration::from_millis(1500);
