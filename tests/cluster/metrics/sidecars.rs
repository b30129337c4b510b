//! Agents whose sidecar has no credentials: real sidecars fail by real faults.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use harness::{
    process::wait_until,
    sidecar::account::{Account, Policies, allow, statements},
};
use serde_json::json;
use strict_aws::{Fault, Target, Times};

use super::{SCRAPED, Scene, alert_name, kubelet::AgentPod};

impl Scene {
    /// Sidecars have no credentials or restart. Each alert names the pod, and falls silent when the
    /// fault or the pod is gone.
    pub(super) fn sidecars_go_wrong(&self) {
        let world = &self.world;
        let works = || Account::open(Policies::default());
        let mut healthy = AgentPod::create(world, "healthy", works(), |_| {});
        let mut ended = AgentPod::create(world, "ended", works(), |_| {});
        let mut killed = AgentPod::create(world, "killed", works(), |_| {});
        for pod in [&mut healthy, &mut ended, &mut killed] {
            pod.await_ready(world);
        }
        ended.complete(world);
        self.shows(r#"kube_pod_init_container_status_ready{pod="healthy"} == 1"#);
        self.shows(r#"kube_pod_init_container_status_ready{pod="ended"} == 0"#);
        sleep(2 * SCRAPED);
        assert!(self.prometheus.firing().is_empty(), "{:?}", self.prometheus.firing());

        let foreign = json!({"Principal": {"AWS": "arn:aws:iam::999999999999:root"}});
        let trust = statements(&[allow(&["sts:AssumeRole", "sts:SetSourceIdentity"], foreign)]);
        let broken = Account::open(Policies { trust, ..Policies::default() });
        let mut broken = AgentPod::create(world, "trust-broken", broken, |_| {});
        let mut removed = AgentPod::create(world, "role-removed", works(), |pod| {
            pod.role = "arn:aws:iam::111122223333:role/removed";
        });
        let away = works();
        away.aws.inject(Target::Sts, Fault::InternalError, Times::UntilCleared);
        let mut away = AgentPod::create(world, "sts-away", away, |_| {});
        for _ in 0..3 {
            killed.kill(world);
            self.shows(r#"kube_pod_init_container_status_waiting_reason{pod="killed"}"#);
            killed.restart(world);
        }
        for (pod, code) in [
            (&mut broken, "assume-role-denied"),
            (&mut removed, "assume-role-denied"),
            (&mut away, "sts-unavailable"),
        ] {
            wait_until("the log has the code", Duration::from_secs(60), || {
                assert!(!pod.probe(world), "{code}");
                pod.log().contains(&format!("\"code\":\"{code}\"")).then_some(())
            });
        }
        self.fires_for("SidecarNotReady", &["role-removed", "sts-away", "trust-broken"]);
        self.fires_for("SidecarRestarting", &["killed"]);

        away.account.aws.clear_faults();
        away.await_ready(world);
        self.fires_for("SidecarNotReady", &["role-removed", "trust-broken"]);
        for pod in [broken, removed, killed] {
            pod.delete(world);
        }
        self.fires_for("SidecarNotReady", &[]);
        self.fires_for("SidecarRestarting", &[]);
        let never = self.prometheus.series(r#"ALERTS{pod=~"ended|healthy"}"#);
        assert!(never.is_empty(), "{never:?}");
    }

    fn shows(&self, expression: &str) {
        wait_until(expression, Duration::from_secs(60), || {
            (!self.prometheus.query(expression).unwrap().is_empty()).then_some(())
        });
    }

    /// Waits until the alert fires for these pods and no other, with all labels that name them.
    fn fires_for(&self, alert: &str, pods: &[&str]) {
        let want: BTreeSet<_> = pods.iter().map(|pod| ["prod", "tenants-acme", pod]).collect();
        let name = alert_name(alert);
        wait_until(&format!("{alert} fires for {pods:?}"), Duration::from_secs(60), || {
            let firing = self.prometheus.firing();
            let firing: BTreeSet<_> = firing
                .iter()
                .filter(|labels| labels["alertname"] == *name)
                .map(|labels| {
                    ["cluster", "namespace", "pod"].map(|label| labels[label].as_str().unwrap())
                })
                .collect();
            (firing == want).then_some(())
        });
    }
}
