//! Sidecars of the session issuer, while the issuer and what it depends on fail in various ways.
//! Running sessions keep their credentials, new ones wait and come, and each has its own name.

use std::{
    cell::{Cell, RefCell},
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use harness::kms::{Kms, KmsFault};
use serde_json::{Value, json};
use strict_aws::{Fault, Outage};

use super::sessions::{Session, Sessions};
use crate::web_identity::issuer_process::{IssuerProcess, Projected, Settings};

/// Lifetime of the credentials, in seconds. A sidecar renews them when at least a third is left: 90
/// seconds. After a fault it needs at most 80, which are its pauses while the pod has no token left.
const LIFE: u64 = 270;
/// When the faults begin, after the first session. The first renewal is at three fifths of [`LIFE`].
const FAULTS: Duration = Duration::from_secs(150);
/// Time between two of the first sessions, so that each renews during another fault.
const APART: Duration = Duration::from_secs(8);
/// Duration of a fault: four attempts of a sidecar.
const AWAY: Duration = Duration::from_secs(8);
/// Number of sessions that run before the first fault.
const RUNNING: usize = 6;

struct Stream<'i> {
    issuer: &'i IssuerProcess,
    sessions: RefCell<Sessions>,
    created: Cell<u32>,
}

impl Stream<'_> {
    fn start(&self, name: &str) {
        let pod = self.pod();
        self.sessions.borrow_mut().start(name, &pod.uid, pod.sidecar());
    }

    fn pod(&self) -> Projected<'_> {
        let number = self.created.replace(self.created.get() + 1);
        self.issuer.pod(&format!("p{number}"), |_| {})
    }

    /// Starts a session during a fault. Its agent has no credentials until the fault ends, and the
    /// reason is one of `codes`.
    fn during(&self, fault: &str, codes: &[&str], begin: impl FnOnce(), end: impl FnOnce()) {
        let started = Instant::now();
        // The API server may be away during the fault.
        let pod = self.pod();
        let sidecar = pod.sidecar();
        begin();
        self.sessions.borrow_mut().start(fault, &pod.uid, sidecar);
        sleep(AWAY);
        assert!(!self.last(Session::is_ready), "{fault}: it has credentials");
        end();
        self.last(Session::await_credentials);
        let mut seen = self.last(Session::codes);
        seen.remove("starting");
        assert!(codes.iter().any(|code| seen.contains(*code)), "{fault}: {seen:?}");
        // On a busy machine the issuer may miss the sidecar's time limit.
        let is_known = |code: &String| codes.contains(&&**code) || code == "issuer-unavailable";
        assert!(seen.iter().all(is_known), "{fault}: {seen:?}");
        // The next fault finds no sidecar that still pauses for this one.
        self.sessions.borrow().settle();
        self.sessions.borrow().are_unbroken(fault);
        println!("{fault}: {seen:?}, {:.1} s", started.elapsed().as_secs_f64());
    }

    /// Starts a session after a change, which no session notices.
    fn unnoticed(&self, change: &str) {
        self.start(change);
        self.last(Session::await_credentials);
        let mut seen = self.last(Session::codes);
        seen.remove("starting");
        assert!(seen.is_empty(), "{change}: {seen:?}");
        self.sessions.borrow().are_unbroken(change);
    }

    /// Starts a session after a change, for which it may wait. Others do not notice the change.
    fn unnoticed_but_late(&self, change: &str) {
        self.start(change);
        self.last(Session::await_credentials);
        let mut seen = self.last(Session::codes);
        seen.remove("starting");
        assert!(seen.iter().all(|code| code == "issuer-unavailable"), "{change}: {seen:?}");
        self.sessions.borrow().are_unbroken(change);
    }

    fn last<T>(&self, of: impl FnOnce(&Session) -> T) -> T {
        of(self.sessions.borrow().last())
    }
}

#[test]
fn sessions_survive_each_fault_of_the_issuer() {
    let kms = Kms::start();
    let issuer = IssuerProcess::start_with(Settings {
        kms: Some(&kms),
        session_seconds: Some(LIFE),
        ..Settings::default()
    });
    let stream = Stream { issuer: &issuer, sessions: RefCell::default(), created: Cell::default() };
    let begun = Instant::now();
    for number in 0..RUNNING {
        stream.start(&format!("running {number}"));
        sleep(APART);
    }
    stream.sessions.borrow().await_all();

    // The service accounts' key. Tokens of running pods are signed by the previous one.
    issuer.rotate_token_key();
    stream.unnoticed_but_late("the API server has a new key for tokens");

    // The steps of docs/issuer.md.
    let arn = |index: usize| kms.arns()[index].clone();
    kms.create_key();
    let key = |index, state: &str| json!({"kms": arn(index), "state": state});
    let first = issuer.signing_key();
    let restart = |keys: Value| {
        drop(issuer.stop());
        issuer.set_keys(&keys);
        issuer.start_again();
        issuer.await_metric("key_published", |published| published == 1.0);
    };
    restart(json!([key(0, "signing"), key(1, "next")]));
    issuer.export();
    issuer.publish();
    stream.unnoticed("the next key is published");
    assert_eq!(issuer.signing_key(), first);
    restart(json!([key(0, "old"), key(1, "signing")]));
    stream.unnoticed("the next key signs");
    assert_ne!(issuer.signing_key(), first);
    issuer.set_keys(&json!([key(1, "signing")]));
    issuer.export();
    issuer.publish();
    stream.unnoticed("the previous key is removed");
    restart(json!([key(1, "signing")]));
    stream.unnoticed("the previous key is not in the config");
    assert_eq!(issuer.metric("foreign_keys"), 0.0);

    sleep(FAULTS.saturating_sub(begun.elapsed()));
    let unavailable = ["issuer-unavailable"];
    stream.during(
        "KMS throttles",
        &unavailable,
        || kms.fail(Some(KmsFault::Throttled)),
        || kms.fail(None),
    );
    stream.during(
        "the issuer is stopped",
        &unavailable,
        || drop(issuer.stop()),
        || {
            issuer.start_again();
        },
    );
    stream.during(
        "STS fails",
        &["sts-unavailable"],
        || issuer.fail_sts(Some(Fault::InternalError)),
        || issuer.fail_sts(None),
    );
    stream.during(
        "STS does not reach the public files",
        &["issuer-keys-unavailable"],
        || issuer.interrupt(Outage::Unreachable),
        || issuer.publish(),
    );
    let keys = issuer.published().join("keys.json");
    let text = fs::read(&keys).unwrap();
    stream.during(
        "the issuer is restarted without the public files",
        &unavailable,
        || {
            drop(issuer.stop());
            fs::remove_file(&keys).unwrap();
            issuer.start_again();
        },
        || fs::write(&keys, text).unwrap(),
    );
    stream.during(
        "the API server is away",
        &unavailable,
        || issuer.stop_api_server(),
        || {
            issuer.start_api_server();
        },
    );

    stream.sessions.borrow().await_renewals_of(RUNNING);
    let sessions = stream.sessions.borrow();
    sessions.are_unbroken("at the end");
    sessions.have_their_names(&issuer.events("AssumeRoleWithWebIdentity"));
    let (count, credentials, failures) = sessions.counts();
    println!(
        "{count} sessions, {credentials} credentials, {failures} failed attempts in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
}
