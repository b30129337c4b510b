//! HTTP server with limits and a bounded shutdown. It does not depend on the routes that it
//! serves.

mod connections;
pub mod health;
pub mod tls;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::{Router, http::Request, response::Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use rustix::{
    io::Errno,
    net::sockopt::{set_ipv6_v6only, set_tcp_user_timeout},
};
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

/// How connections are accepted.
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

/// Limits of one port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of connections. If it is reached, a new connection closes another one: see
    /// [`Connections`].
    pub connections: usize,
    /// Maximum time from the headers of one request to the headers of the next.
    pub idle: Duration,
    /// Maximum time from the handshake to the headers of the first request. It closes connections
    /// of clients that send nothing.
    pub first_request: Duration,
    /// Maximum size of the headers of one request, in bytes.
    pub headers: u32,
    pub protocol: Protocol,
}

/// The protocols that a port accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2, as the client chooses, with many requests per connection.
    Any,
    /// HTTP/1.1 with one request per connection, without pipelining.
    OneRequest,
}

/// Limits for few clients that send many requests, such as API servers.
impl Default for Limits {
    fn default() -> Self {
        Self {
            // A cluster has few API servers, with a few connections each.
            connections: 256,
            // An API server closes idle connections after 90 s. The server closes later, because
            // an API server does not resend a review that was sent while the connection closed.
            idle: Duration::from_secs(120),
            first_request: Duration::from_secs(10),
            // An API server sends a few hundred bytes.
            headers: 16 * 1024,
            protocol: Protocol::Any,
        }
    }
}

/// Returns a listener whose connections have small kernel buffers and a time limit for unread
/// data. A client that does not read then uses little kernel memory, which counts towards this
/// container's limit, and not for long.
///
/// `[::]` accepts IPv4 as well, and on a node without IPv6 it means 0.0.0.0: the same command line
/// works in clusters of each IP family.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let everywhere = address.ip() == Ipv6Addr::UNSPECIFIED;
    let (socket, address) = match address {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, address),
        SocketAddr::V6(_) => match TcpSocket::new_v6() {
            Err(error) if everywhere && has_no_ipv6(&error) => {
                (TcpSocket::new_v4()?, (Ipv4Addr::UNSPECIFIED, address.port()).into())
            }
            socket => (socket?, address),
        },
    };
    if address.is_ipv6() {
        // The default is a setting of the node (net.ipv6.bindv6only).
        set_ipv6_v6only(&socket, !everywhere)?;
    }
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit both sizes.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    set_tcp_user_timeout(&socket, UNREAD)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Returns whether the kernel was started without IPv6.
fn has_no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Serves until `stop` is ready, then waits up to `grace` for requests in flight. Returns whether
/// all of them finished.
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

/// Serves one connection. It runs in its own task, so that a silent client delays no other client.
async fn connection(
    stream: TcpStream,
    transport: Transport,
    limits: Limits,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    slot: Slot,
) {
    // If this fails, small responses are only delayed.
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

/// Serves HTTP on one connection. Errors of the connection are ignored: they concern only the
/// client.
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
        .map_response(move |response: Response| {
            if response.status().is_success() {
                is_answered.is_answered();
            }
            response
        });
    let service = TowerToHyperService::new(router);
    let served = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    // The library has no time limit until it knows the protocol.
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

/// Ignores errors of one connection. After any other error, such as no free file descriptors, it
/// waits, because accepting again at once would fail again.
async fn rest_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(%error, "cannot accept connections");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Interval of HTTP/2 pings, which detect clients that have disappeared.
const PING: Duration = Duration::from_secs(30);
/// Time limit of the TLS handshake, which takes two round trips, and of the response to a ping.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Maximum number of HTTP/2 streams per connection. Each stream is one request.
const MOST_STREAMS: u32 = 64;
/// Flow-control window of a stream, in bytes: the initial value of HTTP/2 (RFC 9113, section
/// 6.9.2).
const STREAM_WINDOW: u32 = 65_535;
/// Flow-control window of a connection, which its streams share. It bounds the unread request bytes
/// of a connection.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW;
/// Kernel buffer for unsent response bytes of a connection, in bytes. Linux doubles the value.
const SEND_BUFFER: u32 = 32 * 1024;
/// Kernel buffer for unread request bytes of a connection, in bytes. Linux doubles the value.
const RECEIVE_BUFFER: u32 = 32 * 1024;
/// TLS library's buffer for unsent response bytes, in bytes: one usual response.
const TLS_BUFFER: usize = 16 * 1024;
/// How long the kernel keeps data that the client does not acknowledge, in milliseconds. Then it
/// drops the connection, even one that is already closed. The value is how long an API server waits
/// for a review.
const UNREAD: u32 = 5_000;
/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;
