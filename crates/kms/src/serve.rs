//! The plugin as a process: connections of kube-apiserver, the listener for monitors, and the watch over the members.

use crate::audit::{Audit, Peer};
use crate::config::Config;
use crate::grpc::Service;
use crate::operations;
use crate::plugin::Plugin;
use crate::socket::{self, Bound};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at once. A kube-apiserver has one for each configured provider.
const CONNECTIONS: usize = 64;
/// Requests at once in one connection.
const STREAMS: u32 = 64;
/// Largest header list in bytes.
const HEADERS_BYTES: u32 = 16 * 1024;
/// A client that does not answer a ping within the second time, sent after the first, is gone.
const PING: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// What is under way at the end may take so long.
const DRAIN: Duration = Duration::from_secs(3);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Everything that is opened before anything is served.
pub struct Opened {
    plugin: Arc<Plugin>,
    audit: Arc<Audit>,
    socket: Bound,
    uids: Vec<u32>,
    operations: Option<TcpListener>,
}

/// Opens what the configuration names. `held` is a socket that whoever started this process listens on already.
///
/// # Errors
/// [`io::Error`], whose text says what to do.
pub async fn open(config: Config, held: Option<std::os::unix::net::UnixListener>) -> io::Result<Opened> {
    let with = |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let Config { plugin, socket, access, operations, audit } = config;
    let audit = match audit {
        None => Audit::none(),
        Some(path) => Audit::open(&path).map_err(with(format!("audit {}", path.display())))?,
    };
    let socket = match (held, socket) {
        (Some(listener), _) => Bound::held(listener),
        (None, Some(place)) => socket::bind(&place, &access).map_err(with(format!("socket {place}")))?,
        (None, None) => {
            let text = "no socket: set socket.path, or start it by a systemd socket unit";
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
    };
    socket.listener.set_nonblocking(true)?;
    let operations = match operations {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.map_err(with(format!("operations.address {address}")))?),
    };
    Ok(Opened { plugin: Arc::new(Plugin::new(plugin)), audit: Arc::new(audit), socket, uids: access.uids, operations })
}

impl Opened {
    /// Where the listener for monitors is, if there is one.
    ///
    /// # Errors
    /// [`io::Error`].
    pub fn operations(&self) -> io::Result<Option<std::net::SocketAddr>> {
        self.operations.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// The plugin.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Serves until `stop` ends, and then lets what is under way finish. It serves before any backend answers, and goes on
    /// when none does: a plugin that ends because its backend is away comes back later than it had to.
    ///
    /// # Errors
    /// [`io::Error`] if the socket cannot be used at all.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let Self { plugin, audit, socket, uids, operations } = self;
        let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
        let mut around = JoinSet::new();
        around.spawn(Arc::clone(&plugin).supervise());
        if let Some(operations) = operations {
            around.spawn(operations::serve(operations, Arc::clone(&plugin)));
        }
        let (ending, ended) = watch::channel(false);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let stream = tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "no connection could be taken");
                        sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            let Some(peer) = admitted(&stream, &uids) else { continue };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(limit = CONNECTIONS, "a connection too many is hung up on");
                continue;
            };
            let service = Service::new(Arc::clone(&plugin), Arc::clone(&audit), peer);
            connections.spawn(connection(stream, service, ended.clone(), place));
        }
        // Nobody new comes, and what is under way ends by itself.
        ending.send_replace(true);
        drop(listener);
        let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
        drop(socket);
        Ok(())
    }
}

/// Who is on the other end, if it is a user that is answered.
fn admitted(stream: &UnixStream, uids: &[u32]) -> Option<Peer> {
    let credentials = stream.peer_cred().ok()?;
    let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
    if uids.contains(&peer.uid) {
        return Some(peer);
    }
    tracing::warn!(uid = peer.uid, pid = peer.pid, "a user who is not among socket.allow_uids is hung up on");
    None
}

async fn connection(
    stream: UnixStream,
    service: Service,
    mut ended: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS_BYTES)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let answer = service_fn(move |request| service.clone().answer(request));
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), answer));
    // A connection that fails is its client's.
    tokio::select! {
        _ = served.as_mut() => {}
        () = async { drop(ended.wait_for(|ended| *ended).await) } => {
            served.as_mut().graceful_shutdown();
            let _ = served.await;
        }
    }
}
