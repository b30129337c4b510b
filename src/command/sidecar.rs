//! `sidecar`: serves session credentials on the pod's loopback interface, and refreshes them.

mod endpoint;

use std::{
    fs::OpenOptions, io::Write, net::Ipv4Addr, path::Path, process::ExitCode, sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use aws_config::{BehaviorVersion, Region, SdkConfig, provider_config::ProviderConfig};
use aws_sdk_sts::config::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use zeroize::Zeroizing;

use self::endpoint::SidecarState;
use super::{
    CommandError,
    aws_client::{aws_client, direct_client},
    bind, environment, now, terminated,
};
use crate::{
    credentials::{
        base_provider, cache, issuer_client::IssuerClient, sts::Sts, token::Token,
        web_identity::WebIdentity,
    },
    serve::{Limits, Protocol, Transport, serve},
    session::{
        CaBundle, KnownSession, SidecarSession,
        base_credentials::BaseSource,
        env::{self, IssuerAccess, NotASession, Serving},
    },
    telemetry::log,
};

pub(super) fn run() -> Result<ExitCode, CommandError> {
    log::start();
    let ended = start();
    if let Err(failure) = &ended {
        leave_word(&failure.to_string());
    }
    ended
}

fn start() -> Result<ExitCode, CommandError> {
    keep_memory_private()
        .context("cannot protect the process memory")
        .map_err(CommandError::Internal)?;
    let session = env::read_sidecar(environment).map_err(invalid_session)?;
    let serving = env::read_serving(environment)
        .context("invalid endpoint settings in the environment")
        .map_err(CommandError::Input)?;
    let source = TokenSource::read()?;
    let region = environment("AWS_REGION")
        .context("AWS_REGION is not set; set the config key region of the webhook")
        .map_err(CommandError::Input)?;
    let trusted = env::read_ca(environment)
        .with_context(|| format!("invalid CA certificates in {}", env::CA_BUNDLE))
        .map_err(CommandError::Input)?;
    // The SDK exits the process if the file has no certificate.
    if let Some(path) = environment("SSL_CERT_FILE") {
        bundle(Path::new(&path))
            .with_context(|| format!("cannot read CA certificates (PEM) from SSL_CERT_FILE {path}"))
            .map_err(CommandError::Input)?;
    }
    // Everything here waits for the network or a clock.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .context("cannot start the runtime")
        .map_err(CommandError::Internal)?;
    let ended = runtime.block_on(run_async(session, serving, source, trusted, Region::new(region)));
    // A DNS lookup in progress cannot be cancelled, so the shutdown does not wait for it.
    runtime.shutdown_background();
    ended
}

fn bundle(path: &Path) -> anyhow::Result<()> {
    let mut certificates = CertificateDer::pem_file_iter(path)?;
    certificates.next().context("no certificate found")??;
    Ok(())
}

async fn run_async(
    session: SidecarSession,
    serving: Serving,
    source: TokenSource,
    trusted: Option<CaBundle>,
    region: Region,
) -> Result<ExitCode, CommandError> {
    // Only the probe uses the startup gate.
    let Serving { port, start_gate: _, token_file } = serving;
    let token = random()
        .and_then(|random| Token::keep(&token_file, &random).context("token"))
        .map_err(CommandError::Internal)?;
    let listener = bind((Ipv4Addr::LOCALHOST, port).into()).await?;

    let client = aws_client(trusted.as_ref().map(CaBundle::as_str));
    let config = sdk_config(region, client.clone()).await;
    let random = fastrand::Rng::new();
    let session = Arc::new(session);
    let (cache, task) = match source {
        TokenSource::Base(base, session) => {
            let base = base_credentials(base, client, &config, &session);
            let (cache, task) = cache::start(Sts::new(&config, base, session), now, random);
            (cache, tokio::spawn(task))
        }
        TokenSource::Issuer(calls) => {
            let issuer = IssuerClient::new(calls).context("TLS").map_err(CommandError::Internal)?;
            let (cache, task) =
                cache::start(WebIdentity::new(&config, issuer, Arc::clone(&session)), now, random);
            (cache, tokio::spawn(task))
        }
    };

    let (role, source_identity) = (session.role().to_string(), session.identity_for_people());
    tracing::info!(port, role, source_identity, "serving session credentials");
    let state = Arc::new(SidecarState {
        cache: cache.clone(),
        counts: Default::default(),
        port,
        session,
        token,
    });
    let mut ended = Ok(());
    let stop = async {
        ended = tokio::select! {
            signalled = terminated() => signalled,
            _ = task => Err(CommandError::Internal(anyhow!("the task that refreshes credentials exited unexpectedly"))),
        };
    };
    let router = endpoint::router(state);
    let finished = serve(listener, Transport::Plain, LIMITS, router, stop, GRACE).await;
    if let (Some(failed), true) = (cache.state().failed, cache.remaining().is_zero()) {
        leave_word(&failed.failure.to_string());
    }
    tracing::info!(finished, "stopped");
    ended.map(|()| ExitCode::SUCCESS)
}

/// What the sidecar gets session credentials with.
enum TokenSource {
    Base(BaseSource, KnownSession),
    Issuer(IssuerAccess),
}

impl TokenSource {
    fn read() -> Result<Self, CommandError> {
        let issuer = env::read_issuer(environment)
            .context("invalid settings of the session issuer in the environment")
            .map_err(CommandError::Input)?;
        if let Some(calls) = issuer {
            return Ok(Self::Issuer(calls));
        }
        // Without an issuer the session must have a name.
        let session = env::read(environment).map_err(invalid_session)?;
        BaseSource::read(environment)
            .map(|base| Self::Base(base, session))
            .context("invalid base credentials in the environment")
            .map_err(CommandError::Input)
    }
}

fn invalid_session(error: NotASession) -> CommandError {
    CommandError::Input(anyhow::Error::from(error).context("invalid session in the environment"))
}

fn base_credentials(
    base: BaseSource,
    client: SharedHttpClient,
    config: &SdkConfig,
    session: &KnownSession,
) -> SharedCredentialsProvider {
    let client = match base {
        BaseSource::PodIdentity { .. } => base_provider::agent_client(direct_client()),
        BaseSource::Environment | BaseSource::WebIdentity { .. } => client,
    };
    let provider = ProviderConfig::without_region()
        .with_http_client(client)
        .with_region(config.region().cloned())
        .with_use_fips(config.use_fips())
        .with_use_dual_stack(config.use_dual_stack());
    base_provider::provider(base, &provider, &session.role_session_name())
}

/// Returns an SDK configuration from the environment only. Region, credentials and profile files
/// (none) are given, so the SDK reads no profile and no instance metadata.
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

/// Prevents core dumps, and access to the memory by other processes of the same user.
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

/// Writes the termination message, which `kubectl describe pod` shows after the container exits.
/// Outside of Kubernetes the file does not exist, and none is created.
fn leave_word(text: &str) {
    if let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG) {
        let _ = file.write_all(text.as_bytes());
    }
}

/// <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Time to finish responses. The kubelet stops this container after the agent's containers.
const GRACE: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    // A thousand clients that start together. Each takes about 20 KiB; the container has 64 MiB.
    connections: 1024,
    idle: Duration::from_secs(5),
    first_request: Duration::from_secs(5),
    headers: 16 * 1024,
    protocol: Protocol::OneRequest,
};
