//! A steady stream of agent pods on a real API server, while the webhook and its dependencies fail
//! in various ways. No pod is admitted without its sidecar, and no pod is refused without need.

mod balancer;
mod clock;

use std::{
    collections::BTreeSet, fs, net::SocketAddr, process::Command, thread::sleep, time::Duration,
};

use harness::{
    api_server::{ApiServer, NotCreated, agent},
    parameter_store::{Fault, ParameterStore},
    process::{self, Process, free_port, get, wait_until},
    stream::{Stream, Tally},
    webhook::client::{Protocol, shake_hands},
    world::{World, parameter, role},
};
use rustls::version::TLS13;
use tokio::runtime::Runtime;

use balancer::Balancer;
use clock::Clock;

/// Two replicas behind one address, as in the chart, and an SSM stand-in with faults.
struct Holding {
    world: World,
    store: ParameterStore,
    balancer: Balancer,
    clock: Clock,
    ports: [(u16, u16); 2],
    replicas: [Option<Process>; 2],
    stream: Stream,
}

impl Holding {
    fn start() -> Self {
        let store = ParameterStore::start(40.0);
        store.put(&parameter("acme"), &role("acme"));
        let endpoint = store.endpoint();
        let file = role("acme");
        let values = [
            ("config.roles.ssm.endpoint", &*endpoint),
            ("config.roles.ssm.refreshSeconds", "2"),
            ("staticRoles.acme", &*file),
        ];
        let mut world = World::without_configuration(&values, None);
        let clock = Clock::make();
        world.environment.extend(clock.environment());
        let ports = [(); 2].map(|()| (free_port(), free_port()));
        world.make_certificate(&[]);
        let [a, b] = ports;
        let replicas = [Some(world.start_replica("a", a)), Some(world.start_replica("b", b))];
        let balancer = Balancer::start(&ports);
        wait_until("both replicas are ready", Duration::from_secs(30), || {
            (balancer.ready() == 2).then_some(())
        });
        world.configure_at(balancer.port);
        world.namespace("tenants-acme", "enabled", "acme", &[]);
        let every = Duration::from_millis(50);
        let stream = Stream::start(&world.cluster.kubeconfig(), agent("tenants-acme"), every);
        Self { world, store, balancer, clock, ports, replicas, stream }
    }

    /// Returns the results of the stream during `happens` and for a while after it.
    fn during(&mut self, name: &str, happens: impl FnOnce(&mut Self)) -> Tally {
        sleep(Duration::from_millis(500));
        self.stream.take();
        happens(self);
        sleep(Duration::from_secs(2));
        let tally = self.stream.take();
        println!(
            "{name}: {} injected, refused {:?}, slowest {} ms",
            tally.injected,
            tally.refused,
            tally.slowest.as_millis()
        );
        assert_eq!(tally.bare, 0, "{name}: let in without the sidecar");
        tally
    }

    /// Checks that pods were created meanwhile and that none was refused.
    fn unnoticed(&mut self, name: &str, happens: impl FnOnce(&mut Self)) {
        let tally = self.during(name, happens);
        assert!(tally.injected > 10, "{name}: {tally:?}");
        assert!(tally.refused.is_empty(), "{name}: {tally:?}");
    }

    /// Returns the API server's result for a pod of a tenant that is not cached.
    fn first_pod_of(&self, tenant: &str) -> Result<(), String> {
        let api_server = ApiServer::of(&self.world.cluster.kubeconfig());
        let pod = agent(&format!("tenants-{tenant}"));
        match block_on(api_server.create(&pod)) {
            Ok(_) => Ok(()),
            Err(NotCreated::Refused(message)) => Err(message),
            Err(NotCreated::NoAnswer(why)) => Err(format!("no answer: {why}")),
        }
    }

    /// Returns the certificates for new connections, or the error of the TLS handshake.
    fn certificates(&self) -> Result<BTreeSet<Vec<u8>>, String> {
        let authority = fs::read(self.world.tls().join("ca.crt")).unwrap();
        let shown = self.ports.map(|(port, _)| {
            let stream = block_on(async {
                shake_hands(local(port), &authority, Protocol::Http2, &[&TLS13]).await
            });
            let stream = stream.map_err(|error| error.to_string())?;
            Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
        });
        shown.into_iter().collect()
    }

    /// Waits until the metrics of each replica show this state of the certificate.
    fn await_certificate(&self, said: &str) {
        for (_, health) in self.ports {
            let metric = format!("fab_session_injector_certificate_{said}\n");
            wait_until("the files are noticed", Duration::from_secs(20), || {
                get(local(health), "/metrics").contains(&metric).then_some(())
            });
        }
    }

    fn replace(&mut self, index: usize) {
        self.replicas[index] = None;
        let name = format!("replica-{}", fastrand::u32(..));
        self.replicas[index] = Some(self.world.start_replica(&name, self.ports[index]));
    }

    fn await_ready(&self, count: usize) {
        wait_until("as many replicas are ready", Duration::from_secs(30), || {
            (self.balancer.ready() == count).then_some(())
        });
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(future)
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn a_stream_of_pods_survives_each_fault() {
    let mut holding = Holding::start();
    holding.unnoticed("nothing happens", |_| {});

    // SSM fails: pods of cached tenants are admitted. Others are refused in time and with the
    // reason, and admitted when SSM works again.
    for (name, fault, code) in [
        ("an-error", Fault::InternalError, "[role-unavailable]"),
        ("silence", Fault::Hang, "[role-unavailable]"),
        ("slowness", Fault::Slow(Duration::from_secs(2)), "[role-unavailable]"),
        ("throttling", Fault::Throttled, "[role-unavailable]"),
        ("a-denial", Fault::Denied, "[role-denied]"),
        ("a-broken-answer", Fault::Malformed, "[role-unavailable]"),
    ] {
        holding.store.put(&parameter(name), &role(name));
        holding.unnoticed(&format!("SSM answers with {name}"), |holding| {
            holding.store.fail(Some(fault));
            holding.world.namespace(&format!("tenants-{name}"), "enabled", name, &[]);
            match holding.first_pod_of(name) {
                Err(said) => assert!(said.contains(code), "{name}: {said}"),
                // A refresh may take longer than a review.
                Ok(()) => assert!(matches!(fault, Fault::Slow(_)), "{name}"),
            }
            sleep(Duration::from_secs(2));
            holding.store.fail(None);
            wait_until("it is let in", Duration::from_secs(40), || holding.first_pod_of(name).ok());
        });
    }
    for (index, replica) in holding.replicas.iter().enumerate() {
        let log = replica.as_ref().unwrap().log();
        assert!(!log.contains("prod-a-broken-answer-broker\\\""), "an answer is in log {index}");
        assert!(log.contains("reading roles from SSM again"), "{log}");
    }

    // One denied name does not affect the others of its batch.
    holding.unnoticed("one name is denied", |holding| {
        holding.store.deny(&parameter("denied"));
        holding.world.namespace("tenants-denied", "enabled", "denied", &[]);
        for name in ["beside-one", "beside-two"] {
            holding.store.put(&parameter(name), &role(name));
            holding.world.namespace(&format!("tenants-{name}"), "enabled", name, &[]);
        }
        let said = holding.first_pod_of("denied").unwrap_err();
        assert!(said.contains("[role-denied]"), "{said}");
        for name in ["beside-one", "beside-two"] {
            holding.first_pod_of(name).unwrap();
        }
    });

    holding.unnoticed("namespaces are created a moment before their first pod", |holding| {
        for n in 0..5 {
            holding.world.namespace(&format!("tenants-fresh-{n}"), "enabled", "acme", &[]);
            holding.first_pod_of(&format!("fresh-{n}")).unwrap();
        }
    });

    holding.unnoticed("certificates are renewed, twice", |holding| {
        for renewal in 1..=2 {
            holding.world.make_certificate(&[]);
            holding.await_certificate(&format!("reloads_total{{outcome=\"loaded\"}} {renewal}"));
        }
    });

    // A certificate that does not match its key is not served; the previous one is kept.
    let before = holding.certificates().unwrap();
    assert_eq!(before.len(), 1);
    holding.unnoticed("the certificate cannot be read", |holding| {
        let file = holding.world.tls().join("tls.crt");
        let pem = fs::read(&file).unwrap();
        fs::write(&file, "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
        holding.await_certificate("reloads_total{outcome=\"failed\"} 1");
        assert_eq!(holding.certificates(), Ok(before.clone()));
        fs::remove_file(&file).unwrap();
        sleep(Duration::from_secs(2));
        assert_eq!(holding.certificates(), Ok(before.clone()));
        fs::write(&file, pem).unwrap();
        sleep(Duration::from_secs(2));
    });
    holding.unnoticed("the key is another certificate's", |holding| {
        holding.world.make_certificate(&["--wrong-pair"]);
        holding.await_certificate("reloads_total{outcome=\"failed\"} 2");
        assert_eq!(holding.certificates(), Ok(before.clone()));
        holding.world.make_certificate(&[]);
        holding.await_certificate("reloads_total{outcome=\"loaded\"} 3");
        assert!(holding.certificates().unwrap().is_disjoint(&before));
    });

    // Signatures use the wall clock: SSM rejects them until the SDK uses the time of SSM. Nothing
    // else in the handling of a pod depends on it.
    for (name, tenant, seconds) in [("ahead", "ahead", 3600), ("back", "behind", -3600)] {
        holding.store.put(&parameter(tenant), &role(tenant));
        holding.unnoticed(&format!("the clock jumps an hour {name}"), |holding| {
            let expired = holding.store.expired();
            holding.clock.jump(seconds);
            // Every role is refreshed meanwhile.
            sleep(Duration::from_secs(4));
            for replica in holding.replicas.iter().flatten() {
                let apart = clock::said(&replica.log());
                assert!((apart - seconds).abs() < 60, "the clock is {apart} s apart");
            }
            assert!(holding.store.expired() > expired, "SSM does not mind");
            holding.world.namespace(&format!("tenants-{tenant}"), "enabled", tenant, &[]);
            wait_until("a new tenant is let in", Duration::from_secs(20), || {
                holding.first_pod_of(tenant).ok()
            });
            holding.clock.jump(0);
            sleep(Duration::from_secs(4));
        });
    }

    holding.unnoticed("one replica after the other is restarted", |holding| {
        for index in 0..2 {
            let mut old = holding.replicas[index].take().unwrap();
            old.terminate();
            wait_until("it has ended", Duration::from_secs(30), || old.ended());
            holding.replace(index);
            holding.await_ready(2);
        }
    });

    // Requests in progress on a killed replica are lost; later ones are not.
    let killed = holding.during("a replica is killed", |holding| {
        holding.replicas[0] = None;
        sleep(Duration::from_secs(2));
    });
    assert!(killed.injected > 40 && killed.refused.values().sum::<usize>() <= 20, "{killed:?}");
    holding.unnoticed("with one replica", |holding| holding.replace(0));
    holding.await_ready(2);

    // After a restart while SSM is down, the roles come from the static file.
    let restarted = holding.during("both are restarted while SSM is down", |holding| {
        holding.store.fail(Some(Fault::Hang));
        for index in 0..2 {
            holding.replace(index);
        }
        holding.await_ready(2);
        let said = holding.first_pod_of("silence").unwrap_err();
        assert!(said.contains("[role-unavailable]"), "{said}");
        holding.store.fail(None);
    });
    // Except for requests in progress on the two replicas.
    assert!(restarted.injected > 10, "{restarted:?}");
    let lost = restarted.refused.get("webhook").copied().unwrap_or_default();
    assert!(restarted.refused.values().sum::<usize>() == lost && lost <= 20, "{restarted:?}");
    wait_until("who is not in it is let in", Duration::from_secs(40), || {
        holding.first_pod_of("silence").ok()
    });

    // Existing connections continue. New ones reject the expired certificate, and then no pod is
    // admitted without its sidecar.
    let ended = holding.during("the certificate has ended, and replicas are replaced", |holding| {
        holding.world.make_certificate(&["--expired"]);
        holding.await_certificate("expiry_timestamp_seconds 1577923200");
        for index in 0..2 {
            holding.replace(index);
        }
        holding.await_ready(2);
        holding.stream.take();
        let shown = holding.certificates().unwrap_err();
        assert!(shown.contains("certificate expired"), "{shown}");
        let said = holding.first_pod_of("acme").unwrap_err();
        let why = "failed to verify certificate: x509: certificate has expired";
        assert!(said.contains(why), "{said}");
    });
    let refused = ended.refused.get("webhook").copied().unwrap_or_default();
    assert!(refused > 10 && ended.injected == 0 && ended.refused.len() == 1, "{ended:?}");
    holding.world.make_certificate(&[]);
    wait_until("the new certificate is taken", Duration::from_secs(20), || {
        holding.first_pod_of("acme").ok()
    });
    holding.await_certificate("reloads_total{outcome=\"loaded\"} 1");
    holding.unnoticed("with a new certificate", |_| {});

    // The watch fails and is restarted; later changes are seen.
    let restart = holding.during("the API server is restarted", |holding| {
        holding.world.cluster.restart_api_server();
        holding.world.namespace("tenants-after", "enabled", "acme", &[]);
        wait_until("the first pod after it", Duration::from_secs(20), || {
            holding.first_pod_of("after").ok()
        });
    });
    let refused: Vec<&String> = restart.refused.keys().collect();
    assert!(
        restart.injected > 10 && refused.iter().all(|code| *code == "api-server"),
        "{restart:?}"
    );
    holding.unnoticed("afterwards", |_| {});

    // The control: the results of the stream without a webhook.
    let control = holding.during("both replicas are stopped", |holding| {
        holding.replicas = [None, None];
        sleep(Duration::from_secs(2));
    });
    assert!(control.refused.get("webhook").is_some_and(|count| *count > 10), "{control:?}");
    let others = Command::new(process::program("kubectl"))
        .arg("--kubeconfig")
        .arg(holding.world.cluster.kubeconfig())
        .args(["run", "other", "--image=i", "--namespace=default"])
        .output()
        .unwrap();
    assert!(others.status.success(), "another namespace goes on");
}
