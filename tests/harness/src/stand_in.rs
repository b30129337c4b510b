//! The HTTP server of a stand-in for an AWS service.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread::JoinHandle,
    time::Duration,
};

use axum::Router;
use fab_session_injector::serve::{Limits, Transport, serve};
use tokio::{net::TcpListener, sync::oneshot};

/// A running server, without TLS. Once dropped, it accepts no connections.
pub struct StandIn {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Starts on a free port of the address.
    pub fn start(address: Ipv4Addr, router: Router) -> Self {
        let listener = std::net::TcpListener::bind((address, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let stop = async {
                    let _ = stopped.await;
                };
                serve(listener, Transport::Plain, Limits::default(), router, stop, Duration::ZERO)
                    .await;
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
