//! `sidecar`: serves the session's credentials on the pod's loopback, and keeps them fresh.

use std::{
    fs::OpenOptions, io::Write, net::Ipv4Addr, path::Path, process::ExitCode, sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use aws_config::{BehaviorVersion, Region, SdkConfig, provider_config::ProviderConfig};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{
    Failure,
    aws_client::aws_client,
    bind,
    endpoint::{self, World},
    environment, now, terminated,
};
use crate::{
    credentials::{base, cache, sts::Sts, token::Token},
    serve::{Limits, Protocol, Transport, serve},
    session::{
        KnownSession,
        base::Base,
        env::{self, Serving},
    },
    telemetry::log,
};

pub(super) fn run() -> Result<ExitCode, Failure> {
    log::start();
    let ended = start();
    if let Err(failure) = &ended {
        leave_word(&failure.to_string());
    }
    ended
}

fn start() -> Result<ExitCode, Failure> {
    keep_memory_private().context("cannot keep the memory private").map_err(Failure::Ours)?;
    let session =
        env::read(environment).context("the session in the environment").map_err(Failure::Input)?;
    let serving = env::read_serving(environment)
        .context("how to serve, in the environment")
        .map_err(Failure::Input)?;
    let base = Base::read(environment)
        .context("base credentials in the environment")
        .map_err(Failure::Input)?;
    let region = environment("AWS_REGION")
        .context("AWS_REGION is not set; set the key region of the webhook's config")
        .map_err(Failure::Input)?;
    // The SDK ends the process where it finds no certificate in it.
    if let Some(path) = environment("SSL_CERT_FILE") {
        bundle(Path::new(&path))
            .with_context(|| {
                format!("SSL_CERT_FILE, {path}: want certificates of authorities, as PEM")
            })
            .map_err(Failure::Input)?;
    }
    // Everything here waits for the network or a clock.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::Ours)?;
    let ended = runtime.block_on(run_async(session, serving, base, Region::new(region)));
    // A name that is being resolved cannot be stopped, and is not waited for.
    runtime.shutdown_background();
    ended
}

fn bundle(path: &Path) -> anyhow::Result<()> {
    let mut certificates = CertificateDer::pem_file_iter(path)?;
    certificates.next().context("it holds none")??;
    Ok(())
}

async fn run_async(
    session: KnownSession,
    serving: Serving,
    base: Base,
    region: Region,
) -> Result<ExitCode, Failure> {
    // The gate is the probe's.
    let Serving { port, start_gate: _, token_file } = serving;
    let token = random()
        .and_then(|random| Token::keep(&token_file, &random).context("token"))
        .map_err(Failure::Ours)?;
    let listener = bind((Ipv4Addr::LOCALHOST, port).into()).await?;

    let client = aws_client();
    let config = sdk_config(region, client.clone()).await;
    let provider = ProviderConfig::without_region()
        .with_http_client(client)
        .with_region(config.region().cloned())
        .with_use_fips(config.use_fips())
        .with_use_dual_stack(config.use_dual_stack());
    let base = base::provider(base, &provider, &session.role_session_name());
    let sts = Sts::new(&config, base, session.clone());
    let (cache, keeper) = cache::start(sts, now, fastrand::Rng::new());
    let keeper = tokio::spawn(keeper);

    let (role, source_identity) = (session.role.to_string(), session.source_identity().to_string());
    tracing::info!(port, role, source_identity, "serving credentials of the session");
    let world =
        Arc::new(World { cache: cache.clone(), counts: Default::default(), port, session, token });
    let mut ended = Ok(());
    let stop = async {
        ended = tokio::select! {
            signalled = terminated() => signalled,
            _ = keeper => Err(Failure::Ours(anyhow!("the credentials are not kept any more"))),
        };
    };
    let router = endpoint::router(world);
    let finished = serve(listener, Transport::Plain, LIMITS, router, stop, GRACE).await;
    if let (Some(failed), true) = (cache.state().failed, cache.remaining().is_zero()) {
        leave_word(&failed.failure.to_string());
    }
    tracing::info!(finished, "stopped");
    ended.map(|()| ExitCode::SUCCESS)
}

/// Of the environment and nothing else: with region, credentials and (no) files given, the
/// SDK looks for no profile and no instance metadata.
async fn sdk_config(region: Region, client: SharedHttpClient) -> SdkConfig {
    #[allow(deprecated, reason = "the parameter's type has no other public name")]
    let no_files = aws_config::profile::profile_file::ProfileFiles::builder()
        .with_contents(aws_config::profile::profile_file::ProfileFileKind::Config, "")
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(client)
        .region(region)
        .no_credentials()
        .profile_files(no_files)
        .load()
        .await
}

/// Neither a core dump nor another process of the same user shows what is in memory.
fn keep_memory_private() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn random() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())
        .context("cannot get random bytes")?;
    Ok(bytes)
}

/// For `kubectl describe pod`, once this container has ended. Outside of Kubernetes there is
/// no such file, and none is made.
fn leave_word(text: &str) {
    if let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG) {
        let _ = file.write_all(text.as_bytes());
    }
}

/// <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>
const TERMINATION_LOG: &str = "/dev/termination-log";
/// For answers on their way: the agent's containers have ended before this one is told to.
const GRACE: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    // A thousand clients that start at once; some 20 KiB each, of a container that has 64 MiB.
    connections: 1024,
    idle: Duration::from_secs(5),
    first_request: Duration::from_secs(5),
    headers: 16 * 1024,
    protocol: Protocol::OneRequest,
};
