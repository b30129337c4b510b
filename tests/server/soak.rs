//! Runs the real cache and the real SDK client for 30 simulated days, in a few seconds. Their
//! transport is in memory, to the strict AWS. Faults of AWS and of the clocks follow each
//! other all the time. `FAB_SOAK_SEED` repeats a run.

mod clock;
mod transport;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sts::{
    Client,
    config::{Credentials, SharedCredentialsProvider, retry::RetryConfig},
};
use aws_smithy_async::rt::sleep::TokioSleep;
use clock::{Clock, Truth};
use fab_session_injector::{
    credentials::{cache, sts::Sts},
    session::KnownSession,
};
use serde_json::{Value, json};
use strict_aws::{
    Association, Aws, Cluster, Fault, Role, Target, Times, World,
    tokens::{Issuer, Pod as TokenPod},
};
use tokio::time::sleep;
use transport::Transport;

const BASE: &str = "arn:aws:iam::111122223333:role/base";
const BROKER: &str = "arn:aws:iam::111122223333:role/broker";
const IDENTITY: &str = "agent.acme.fab-coder-x7k2p";
const DAYS: u64 = 30;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Fault(Target, Fault),
    /// The wall clock is wrong by this number of seconds, for a while.
    Skew(i64),
    /// The machine is suspended: the wall clocks advance, the timers do not.
    Suspend,
}

const TROUBLES: [Trouble; 20] = [
    Trouble::Fault(Target::AssumeRole, Fault::Throttle),
    Trouble::Fault(Target::AssumeRole, Fault::InternalError),
    Trouble::Fault(Target::AssumeRole, Fault::Denied),
    Trouble::Fault(Target::AssumeRole, Fault::Garbage),
    Trouble::Fault(Target::AssumeRole, Fault::Empty),
    Trouble::Fault(Target::AssumeRole, Fault::Huge),
    Trouble::Fault(Target::AssumeRole, Fault::Hang),
    Trouble::Fault(Target::AssumeRole, Fault::CloseMidBody),
    Trouble::Fault(Target::AssumeRole, Fault::Malformed),
    Trouble::Fault(Target::AssumeRole, Fault::Nameless),
    Trouble::Fault(Target::AssumeRole, Fault::Slow(Duration::from_secs(5))),
    Trouble::Fault(Target::AssumeRole, Fault::Slow(Duration::from_secs(60))),
    Trouble::Fault(Target::PodIdentity, Fault::Denied),
    Trouble::Fault(Target::PodIdentity, Fault::InternalError),
    Trouble::Fault(Target::PodIdentity, Fault::Garbage),
    Trouble::Skew(90),
    Trouble::Skew(-90),
    Trouble::Skew(7200),
    Trouble::Skew(-7200),
    Trouble::Suspend,
];

#[tokio::test(start_paused = true)]
async fn thirty_days_of_faults_serve_no_wrong_credentials() {
    #[allow(clippy::disallowed_methods, reason = "a test has no command line")]
    let seed = match std::env::var("FAB_SOAK_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..),
    };
    println!("FAB_SOAK_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let clock = Clock::new();
    let issuer = Issuer::new("https://oidc.test/id").unwrap();
    let aws = Arc::new(Aws::new(world(&issuer)).unwrap());
    let transport = Transport::new(Arc::clone(&aws), clock.clone());
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .http_client(transport.clone())
        .sleep_impl(TokioSleep::new())
        .time_source(clock.clone())
        .build();
    let base = transport.base(issuer, TokenPod::new("tenants-acme", "tenant-runtime", "agent-0"));
    let session = KnownSession {
        tenant: "acme".parse().unwrap(),
        name: "fab-coder-x7k2p".parse().unwrap(),
        role: BROKER.parse().unwrap(),
        duration: "3600".parse().unwrap(),
    };
    let sts = Sts::new(&config, SharedCredentialsProvider::new(base), session);
    let wall = clock.clone();
    let (cache, task) =
        cache::start(sts, move || wall.shown(), fastrand::Rng::with_seed(random.u64(..)));
    let task = tokio::spawn(task);

    let mut fired: BTreeMap<String, u64> = BTreeMap::new();
    let (mut served, mut refused, mut trouble_time) = (0_u64, 0_u64, Duration::ZERO);
    let mut troubles = 0_u32;
    let ends = clock.truth() + Duration::from_secs(DAYS * 86_400);
    let mut ahead = Vec::new();
    while clock.truth() < ends {
        // All faults, in a random order, again and again.
        let trouble = ahead.pop().unwrap_or_else(|| {
            ahead.extend(TROUBLES);
            random.shuffle(&mut ahead);
            ahead.remove(0)
        });
        // A fault lasts long enough for a call, and often longer than the credentials are valid.
        // The huge response is slow, so that fault is short and starts when a call is due.
        let huge = matches!(trouble, Trouble::Fault(_, Fault::Huge));
        let due = cache.state().issued.and_then(|it| it.due.duration_since(clock.shown()).ok());
        if huge && let Some(due) = due {
            sleep(due.saturating_sub(Duration::from_secs(1))).await;
        }
        let lasts = Duration::from_secs(random.u64(60..if huge { 90 } else { 10_800 }));
        let calls = cache.state().assumed;
        let struck = match trouble {
            // One huge response is enough, since it is slow.
            Trouble::Fault(target, fault) => {
                let times = if huge { Times::Next(1) } else { Times::UntilCleared };
                Some(aws.inject(target, fault, times))
            }
            Trouble::Skew(seconds) => {
                clock.skew(seconds);
                None
            }
            Trouble::Suspend => {
                clock.suspend(lasts);
                None
            }
        };
        let felt = if trouble == Trouble::Suspend { Duration::from_secs(60) } else { lasts };
        for (quiet, time) in [(false, felt), (true, Duration::from_secs(random.u64(600..7200)))] {
            let until = clock.truth() + time;
            if quiet {
                aws.clear_faults();
                clock.skew(0);
            } else {
                trouble_time += time;
            }
            while clock.truth() < until {
                sleep(Duration::from_millis(random.u64(1_000..900_000))).await;
                match cache.credentials(Duration::from_millis(900)).await {
                    Ok(issued) => {
                        served += 1;
                        let good = &issued.credentials;
                        assert!(good.expiration > clock.truth(), "{trouble:?}: expired");
                        assert!(good.expiration > clock.shown(), "{trouble:?}: expired for SDKs");
                        prove(&config, &clock, &aws, good).await;
                    }
                    Err(_) => {
                        refused += 1;
                        let state = cache.state();
                        assert!(state.failed.is_some(), "{trouble:?}: refused without a failure");
                    }
                }
            }
        }
        // A clock fault counts if a call was made during it.
        let times = match struck {
            Some(struck) => struck.fired(),
            None => cache.state().assumed - calls,
        };
        *fired.entry(format!("{trouble:?}")).or_default() += times;
        troubles += 1;
    }
    // The run ends with a time without a fault.
    let last = cache.credentials(Duration::from_secs(1)).await;
    assert!(last.is_ok(), "{last:?} {:?}", cache.state());
    assert!(!task.is_finished());

    let calls = cache.state().assumed;
    // One call per 60 % of an hour. Up to 12 more per fault, when it starts or ends. And during
    // a fault one per pause of 1 to 60 s, which is half of the bound on average.
    let days = Duration::from_secs(DAYS * 86_400);
    let refreshes = days.as_secs() / (3600 * 6 / 10);
    let most = refreshes + u64::from(troubles) * 12 + trouble_time.as_secs() / 15;
    println!(
        "{calls} calls of STS (at most {most}), {served} served, {refused} refused, {troubles} troubles: {fired:?}"
    );
    assert!(calls <= most && calls >= refreshes / 2, "{calls} calls, {most} at most");
    assert!(served > 1000 && refused > 10, "{served} served, {refused} refused");
    for trouble in TROUBLES {
        assert!(fired.get(&format!("{trouble:?}")).is_some_and(|times| *times > 0), "{trouble:?}");
    }
}

/// Makes a call with the credentials and checks its event. The agent's clock is right.
async fn prove(
    config: &SdkConfig,
    clock: &Clock,
    aws: &Aws,
    good: &fab_session_injector::credentials::Credentials,
) {
    let keys = Credentials::new(
        &good.access_key_id,
        good.secret_access_key.expose(),
        Some(good.session_token.expose().clone()),
        None,
        "test",
    );
    let agent = aws_sdk_sts::config::Builder::from(config)
        .credentials_provider(keys)
        .retry_config(RetryConfig::disabled())
        .time_source(Truth(clock.clone()));
    Client::from_conf(agent.build()).get_caller_identity().send().await.unwrap();
    let events = aws.events();
    let event = events.last().unwrap();
    assert_eq!(event["eventName"], "GetCallerIdentity");
    assert_eq!(event["userIdentity"]["sessionContext"]["sourceIdentity"], IDENTITY);
    aws.clear_events();
}

fn world(issuer: &Issuer) -> World {
    let policy = |statements: Value| json!({"Version": "2012-10-17", "Statement": statements});
    let trust = policy(json!([
        {
            "Effect": "Allow", "Principal": {"AWS": BASE},
            "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
            "Condition": {"StringLike": {"sts:SourceIdentity": "agent.acme.*"}},
        },
        {"Effect": "Allow", "Principal": {"AWS": BASE}, "Action": "sts:TagSession"},
    ]));
    let base_trust = policy(json!([{
        "Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"},
        "Action": ["sts:AssumeRole", "sts:TagSession"],
    }]));
    let base_policy = policy(json!([{
        "Effect": "Allow", "Resource": BROKER,
        "Action": ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
    }]));
    World::new("111122223333", "eu-west-1")
        .cluster(Cluster::new("prod", issuer.url(), issuer.jwks()))
        .role(Role::new(BASE).trust(base_trust).policy(base_policy))
        .role(Role::new(BROKER).trust(trust))
        .association(Association::new("tenants-acme", "tenant-runtime", BASE))
}
