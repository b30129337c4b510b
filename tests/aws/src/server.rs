//! A server for the AWS stand-in: HTTP/1.1 without TLS, in its own thread, until it is dropped.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{runtime, sync::oneshot, time::sleep};

use crate::{
    admin,
    aws::{Answer, Aws},
    failure::answer,
};

/// A running server. Drop aborts its connections and waits for its thread.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on a free port of 127.0.0.1, with the real clock.
    pub fn start(aws: Arc<Aws>) -> io::Result<Self> {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, aws)
    }

    /// Starts on this listener, with the real clock.
    pub fn on(listener: TcpListener, aws: Arc<Aws>) -> io::Result<Self> {
        // Not deterministic from here on: sockets need the real clock.
        #[allow(clippy::disallowed_methods)]
        Self::with_clock(listener, aws, SystemTime::now)
    }

    /// Starts on this listener, with the time of `clock`.
    pub fn with_clock(
        listener: TcpListener,
        aws: Arc<Aws>,
        clock: impl Fn() -> SystemTime + Clone + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("strict-aws".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, aws, clock) => {}
                }
            });
            // Dropping the runtime closes all connections.
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL: the endpoint for SDKs, and the base of `/v1/credentials` for pods.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until the process exits.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: TcpListener,
    aws: Arc<Aws>,
    clock: impl Fn() -> SystemTime + Clone + Send + Sync + 'static,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely out of file descriptors; wait until one is closed.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        // A failure only delays small responses.
        let _ = stream.set_nodelay(true);
        let (aws, clock) = (Arc::clone(&aws), clock.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| respond(&aws, request, clock()));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // Errors are caused by the client or by a fault.
            let _ = connection.await;
        });
    }
}

async fn respond(
    aws: &Aws,
    request: Request<Incoming>,
    now: SystemTime,
) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LARGEST_REQUEST).collect().await else {
        return Ok(whole(answer(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "")));
    };
    let request = Request::from_parts(head, body.to_bytes());
    if let Some(response) = admin::answer(aws, &request) {
        return Ok(whole(response));
    }
    Ok(match aws.answer(&request, now) {
        Answer::After(delay, response) => {
            sleep(delay).await;
            whole(response)
        }
        Answer::CloseAfter(response) => broken_off(response),
        Answer::Hang => std::future::pending().await,
        Answer::Response(response) => whole(response),
    })
}

fn whole(response: Response<Bytes>) -> Response<Body> {
    response.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync())
}

/// Sends half of the announced body.
fn broken_off(response: Response<Bytes>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    let half = body.slice(..body.len() / 2);
    let frames = stream::iter([Ok(Frame::data(half))]).chain(stream::once(async {
        // Waits until the first half is sent.
        sleep(Duration::from_millis(50)).await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    }));
    Response::from_parts(head, StreamBody::new(frames).boxed_unsync())
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Maximum size of a request body, larger than any request of STS.
const LARGEST_REQUEST: usize = 16 << 20;
