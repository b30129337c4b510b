//! Accept, stop, drain: a listener, a service, a future, a bound. Nothing here knows what is
//! served.

mod connections;
pub mod health;
pub mod tls;

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, http::Request, response::Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use rustix::net::sockopt::set_tcp_user_timeout;
use rustls::ServerConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

pub use self::connections::Connection;
use self::connections::{Connections, Slot};

/// How connections are taken.
#[derive(Clone)]
pub enum Transport {
    Plain,
    Tls(TlsAcceptor),
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

/// What one port bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One more ends another, see [`Connections`].
    pub connections: usize,
    /// Without a request: between the head of one and the next.
    pub idle: Duration,
    /// From the handshake to the head of the first request, which a client that has nothing
    /// to ask does not send.
    pub first_request: Duration,
    /// Of one request, in bytes.
    pub headers: u32,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2, whichever the client begins with, for many requests.
    Any,
    /// HTTP/1.1, and the connection ends with the answer: nothing is pipelined.
    OneRequest,
}

/// For few clients that send much, such as API servers.
impl Default for Limits {
    fn default() -> Self {
        Self {
            // A cluster has a handful of API servers, of a few connections each.
            connections: 256,
            // Longer than an API server keeps an idle connection, which is 90 s: it would not
            // repeat a review that crosses our end of it.
            idle: Duration::from_secs(120),
            first_request: Duration::from_secs(10),
            // An API server sends some hundred bytes.
            headers: 16 * 1024,
            protocol: Protocol::Any,
        }
    }
}

/// As the runtime's own listener, but that whoever does not read takes little of the kernel's
/// memory, which counts as this container's, and not for long.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Those that are accepted have the same of both.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    set_tcp_user_timeout(&socket, UNREAD)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` is ready, then finishes what is in flight, for `grace` at most.
/// Returns whether all of it was finished.
pub async fn serve(
    listener: TcpListener,
    transport: Transport,
    limits: Limits,
    router: Router,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> bool {
    let mut stop = std::pin::pin!(stop);
    let shutdown = GracefulShutdown::new();
    let connections = Connections::new(limits.connections);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    rest_after(&error).await;
                    continue;
                }
            },
        };
        let slot = tokio::select! {
            () = &mut stop => break,
            slot = connections.enter(peer.ip()) => slot,
        };
        let watcher = shutdown.watcher();
        let (transport, router) = (transport.clone(), router.clone());
        tokio::spawn(connection(stream, transport, limits, router, watcher, slot));
    }
    drop(listener);
    timeout(grace, shutdown.shutdown()).await.is_ok()
}

/// One connection, in a task of its own, so that a client that says nothing holds up nobody.
async fn connection(
    stream: TcpStream,
    transport: Transport,
    limits: Limits,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    slot: Slot,
) {
    // Only a delay of small answers, where it fails.
    let _ = stream.set_nodelay(true);
    let connection = slot.connection();
    let served = async {
        match transport {
            Transport::Plain => speak_http(stream, limits, router, watcher, connection).await,
            Transport::Tls(acceptor) => {
                let small = |tls: &mut ServerConnection| tls.set_buffer_limit(Some(TLS_BUFFER));
                let accepted = timeout(HANDSHAKE, acceptor.accept_with(stream, small)).await;
                if let Ok(Ok(stream)) = accepted {
                    speak_http(stream, limits, router, watcher, connection).await;
                }
            }
        }
    };
    tokio::select! {
        () = served => {}
        () = connection.is_cut() => {}
    }
}

/// Its errors are the client's.
async fn speak_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    limits: Limits,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    connection: &Connection,
) {
    let Limits { connections: _, idle, first_request, headers, protocol } = limits;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(headers as usize);
    if protocol == Protocol::OneRequest {
        builder.http1().keep_alive(false);
        builder = builder.http1_only();
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(HANDSHAKE)
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(headers);
    let (asks, is_answered) = (connection.clone(), connection.clone());
    let router = router
        .map_request(move |mut request: Request<_>| {
            asks.asks();
            request.extensions_mut().insert(asks.clone());
            request
        })
        .map_response(move |answer: Response| {
            if answer.status().is_success() {
                is_answered.is_answered();
            }
            answer
        });
    let service = TowerToHyperService::new(router);
    let served = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    // Until it knows which of the two protocols is spoken, the library waits without end.
    let silent = async {
        sleep(first_request).await;
        if connection.has_asked() {
            std::future::pending().await
        }
    };
    tokio::select! {
        _ = watcher.watch(served) => {}
        () = silent => {}
    }
}

/// Errors of one connection pass; without descriptors, accepting again at once would spin.
async fn rest_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(%error, "cannot accept connections");
        sleep(Duration::from_millis(100)).await;
    }
}

/// A client that is gone without a word is found out.
const PING: Duration = Duration::from_secs(30);
/// For the TLS handshake, which takes a client two round trips.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// One request a stream.
const MOST_STREAMS: u32 = 64;
/// What a stream may send ahead of being read, in bytes: what HTTP/2 begins with (RFC 9113,
/// section 6.9.2).
const STREAM_WINDOW: u32 = 65_535;
/// The same of a connection, whose streams share it. What all connections send ahead the memory
/// must bear.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW;
/// What the kernel keeps of answers on a connection, in bytes, of which it makes twice as many.
const SEND_BUFFER: u32 = 32 * 1024;
/// The same of what a client sends ahead of being read.
const RECEIVE_BUFFER: u32 = 32 * 1024;
/// The same of the TLS library: a usual answer.
const TLS_BUFFER: usize = 16 * 1024;
/// How long the kernel keeps what nobody takes, in milliseconds, before it ends the connection,
/// or what is left of one that was ended: as long as an API server waits for a review.
const UNREAD: u32 = 5_000;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
