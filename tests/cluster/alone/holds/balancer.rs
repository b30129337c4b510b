//! A stand-in for a Service: one address that forwards to the ready replicas.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::sleep,
};

use harness::process::get;

pub(crate) struct Balancer {
    pub(crate) port: u16,
    replicas: Arc<Mutex<Vec<Replica>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug)]
struct Replica {
    address: SocketAddr,
    health: SocketAddr,
    is_ready: bool,
}

impl Balancer {
    pub(crate) fn start(replicas: &[(u16, u16)]) -> Self {
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let replicas = replicas.iter().map(|&(port, health)| Replica {
            address: local(port),
            health: local(health),
            is_ready: false,
        });
        let replicas = Arc::new(Mutex::new(replicas.collect()));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Arc::clone(&replicas);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = look(&shared) => {}
                    () = forward(&listener, &shared) => {}
                }
            });
        });
        Self { port, replicas, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn ready(&self) -> usize {
        self.replicas.lock().unwrap().iter().filter(|replica| replica.is_ready).count()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs readiness probes as the kubelet does, but more often.
async fn look(replicas: &Mutex<Vec<Replica>>) {
    loop {
        let all = replicas.lock().unwrap().clone();
        for (index, replica) in all.into_iter().enumerate() {
            let asked = tokio::task::spawn_blocking(move || get(replica.health, "/readyz"));
            let is_ready = asked.await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
            replicas.lock().unwrap()[index].is_ready = is_ready;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Forwards as kube-proxy does: a connection keeps its replica.
async fn forward(listener: &TcpListener, replicas: &Mutex<Vec<Replica>>) {
    let mut next = 0;
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let ready: Vec<SocketAddr> = {
            let replicas = replicas.lock().unwrap();
            replicas.iter().filter(|replica| replica.is_ready).map(|it| it.address).collect()
        };
        next += 1;
        let Some(&address) = ready.get(next % ready.len().max(1)) else { continue };
        tokio::spawn(async move {
            if let Ok(mut behind) = TcpStream::connect(address).await {
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            }
        });
    }
}
