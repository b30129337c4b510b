//! A server in the cluster, from its start to its shutdown: its own port with TLS, and the health
//! port.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use axum::Router;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_rustls::TlsAcceptor;

use super::{CommandError, bind, now, terminated, until};
use crate::{
    cli::VERSION,
    serve::{
        Limits, Transport,
        health::{self, Readiness},
        serve,
        tls::Certificate,
    },
};

pub(super) struct TlsServer {
    pub(super) certificate: Arc<Certificate>,
    pub(super) listen: SocketAddr,
    pub(super) health_listen: SocketAddr,
    /// Limits of the port with TLS.
    pub(super) limits: Limits,
    pub(super) router: Router,
    pub(super) readiness: Readiness,
    /// Seconds to continue serving after a signal.
    pub(super) shutdown_delay: u64,
    /// Each keeps one snapshot up to date. Decisions from an old snapshot would be wrong, so the
    /// process exits with a task, and the kubelet restarts it.
    pub(super) tasks: JoinSet<()>,
}

impl TlsServer {
    /// Serves until a signal or the end of a task. `metrics` returns the text of a scrape.
    pub(super) async fn run(
        self,
        metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    ) -> Result<ExitCode, CommandError> {
        let Self {
            certificate,
            listen,
            health_listen,
            limits,
            router,
            readiness,
            shutdown_delay,
            mut tasks,
        } = self;
        let tls = certificate.server_config().context("TLS").map_err(CommandError::Internal)?;
        let port = bind(listen).await?;
        let health = bind(health_listen).await?;
        tasks.spawn(certificate.follow(now));
        let (stop, stopped) = watch::channel(false);
        let health = tokio::spawn(serve(
            health,
            Transport::Plain,
            health::LIMITS,
            health::router(readiness.clone(), metrics),
            until(stopped.clone()),
            HEALTH_GRACE,
        ));
        let transport = Transport::Tls(TlsAcceptor::from(Arc::new(tls)));
        let served = tokio::spawn(serve(port, transport, limits, router, until(stopped), GRACE));
        tracing::info!(version = VERSION, %listen, %health_listen, "serving");

        tokio::select! {
            signalled = terminated() => signalled?,
            _ = tasks.join_next() => {
                return Err(CommandError::Internal(anyhow!("a background task exited unexpectedly")));
            }
        }
        tracing::info!("shutting down");
        readiness.stop();
        sleep(Duration::from_secs(shutdown_delay)).await;
        stop.send_replace(true);
        let finished = served.await.unwrap_or(false);
        health.abort();
        tracing::info!(finished, "stopped");
        Ok(ExitCode::SUCCESS)
    }
}

/// Time limit at shutdown for requests in flight. A review ends within 3 s after its body arrived,
/// and bodies are small; a token takes 6 s at most.
const GRACE: Duration = Duration::from_secs(10);
/// The same for the health port.
const HEALTH_GRACE: Duration = Duration::from_secs(1);
