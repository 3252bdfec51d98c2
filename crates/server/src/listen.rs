//! Sockets: TCP under TLS with HTTP/1.1 and HTTP/2, and a Unix socket with plain HTTP/1.1 for who works on the
//! machine itself. A request is handed on as it arrived, with its body unread, and no header is trusted to say where
//! it came from.
//!
//! Threat: everything here happens before a signature was checked, so each wait has an end and each amount a limit.
//! What hyper itself answers (a request line or header that is no HTTP, or far too long) is not signed by the node;
//! clients take no such answer for more than a failure.

mod activity;
pub mod body;
pub mod places;

pub use body::{BODY_TIMEOUT, BodyBudget, BodyError, DEFAULT_BODY_BUDGET_BYTES, Held, ReadBody, read_body};
pub use places::Standing;

use crate::metrics::Metrics;
use crate::tls::client;
use activity::{Activity, Sent};
use bulla_crypto::BoxFuture;
use bulla_wire::id::KeyId;
use bulla_wire::signature::MAX_HEADER_BYTES;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use places::Places;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

/// Connections over the network at once, unless configured. Each takes about 40 KiB when idle. See
/// [`places`] for who goes when more come.
pub const DEFAULT_MAX_CONNECTIONS: usize = 4096;
/// Connections over the Unix socket at once. Its own number, so that a flood from outside does not lock out who sits
/// on the machine.
pub const MAX_LOCAL_CONNECTIONS: usize = 64;
/// Time for the TLS handshake: three slow round trips and a token's signature.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from the handshake until the head of the first request is there. Later heads fall under the idle timeout.
pub const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a request ends after this, and one whose answers nobody reads: of an answer that is read slowly
/// a piece is taken more often. Longer than the pause between two commands of a person or a poll of an agent each minute.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// A connection takes no new request after this, so that load spreads over nodes, old TLS keys end, and whoever is
/// known by a certificate shows again that it holds the key.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);
/// Time that a connection has to finish what runs, once it takes no new request. 16 MiB at 280 KB/s.
pub const CONNECTION_GRACE: Duration = Duration::from_secs(60);
/// The same if another has its place already: it is over the number of places meanwhile.
const LEAVING_GRACE: Duration = Duration::from_secs(2);
/// Time for everything to finish at shutdown.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests at once in one HTTP/2 connection. Clients assume a hundred until they are told (RFC 9113 §6.5.2 advises no
/// less), so with fewer the first burst of a busy client would be refused in part.
pub const MAX_H2_STREAMS: u32 = 100;
/// Streams that a client may reset before they were taken up, before the connection ends (CVE-2023-44487).
pub const MAX_H2_PENDING_RESETS: usize = 20;
/// Streams that we reset for a client's errors before the connection ends (CVE-2024-27316's kind of flood).
pub const MAX_H2_LOCAL_RESETS: usize = 64;
/// Headers in one request. Ours send about fifteen.
pub const MAX_HEADERS: usize = 64;
/// Read buffer of an HTTP/1.1 connection in bytes; above the header limit, so that we refuse before hyper does.
const READ_BUFFER_BYTES: usize = 32 * 1024;
/// What HPACK counts for each header over its bytes (RFC 7541 §4.1).
const H2_HEADER_OVERHEAD_BYTES: usize = 32;
/// Unread body bytes of one HTTP/2 stream, and of all streams of a connection: 1 MiB keeps a fast line busy.
const H2_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Pause after a failed accept: no file descriptor is free, and none will be at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request came from, as the socket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Network(IpAddr),
    /// Over the Unix socket.
    Local {
        /// The peer's user, as the kernel says.
        uid: u32,
    },
}

/// A body that was not read yet, whatever it comes over.
pub type Unread = UnsyncBoxBody<Bytes, hyper::Error>;

/// A request whose body was not read yet.
#[derive(Debug)]
pub struct Arrived {
    /// Method, path and headers.
    pub head: http::request::Parts,
    /// Where it came from.
    pub peer: Peer,
    /// The key whose holder made the TLS connection, if a client certificate was shown. Whose it is, is asked anew for
    /// each request.
    pub certificate: Option<KeyId>,
    /// Where to note that the caller proved a key; connections that nobody proved one over give way to others.
    pub standing: Arc<Standing>,
    /// The body; see [`read_body`].
    pub body: Unread,
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. It runs to its end even if the client hangs up, so that what was committed is audited. A
    /// panic becomes a 500 without detail.
    fn handle(&self, request: Arrived) -> BoxFuture<'_, Response<Bytes>>;

    /// Answers, without detail, a request whose handling panicked.
    fn failed(&self, _request: Failed) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }
}

/// A request whose handling panicked.
#[derive(Debug)]
pub struct Failed {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Where it came from.
    pub peer: Peer,
}

/// The sockets to serve.
#[derive(Debug, Default)]
pub struct Listeners {
    /// TCP under TLS.
    pub network: Option<(TcpListener, Arc<ServerConfig>)>,
    /// The Unix socket.
    pub local: Option<UnixListener>,
}

/// How much and how long. An operator sets the first; the tests shorten the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections over the network at once.
    pub connections: usize,
    /// See [`FIRST_HEAD_TIMEOUT`].
    pub first_head: Duration,
    /// See [`IDLE_TIMEOUT`].
    pub idle: Duration,
    /// See [`MAX_CONNECTION_AGE`].
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: DEFAULT_MAX_CONNECTIONS,
            first_head: FIRST_HEAD_TIMEOUT,
            idle: IDLE_TIMEOUT,
            age: MAX_CONNECTION_AGE,
        }
    }
}

/// Serves until `shutdown` resolves, then takes no new connection, lets what runs finish for [`DRAIN_TIMEOUT`], and
/// returns. True if everything finished.
pub async fn serve(
    listeners: Listeners,
    handler: Arc<dyn Handler>,
    metrics: Arc<Metrics>,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> bool {
    let (stop, stopped) = watch::channel(false);
    let (alive, mut all_done) = mpsc::channel::<Infallible>(1);
    let shared = Shared { handler, metrics, limits, stopped, alive };
    let network = async {
        match listeners.network {
            Some((listener, tls)) => accept_network(listener, tls, shared.clone()).await,
            None => std::future::pending().await,
        }
    };
    let local = async {
        match listeners.local {
            Some(listener) => accept_local(listener, shared.clone()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shutdown => {}
        never = network => match never {},
        never = local => match never {},
    }
    let _ = stop.send(true);
    drop(shared);
    // Every connection and every running request holds a clone of the sender; no message is ever sent.
    timeout(DRAIN_TIMEOUT, all_done.recv()).await.is_ok()
}

/// Makes the Unix socket at `path`, readable by its owner alone, and replaces one that nobody serves any more.
pub fn bind_local(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers on this socket"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket lies there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Between the two calls only the data directory's mode, 0700, keeps others out.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[derive(Clone)]
struct Shared {
    handler: Arc<dyn Handler>,
    metrics: Arc<Metrics>,
    limits: Limits,
    stopped: watch::Receiver<bool>,
    alive: mpsc::Sender<Infallible>,
}

async fn accept_network(listener: TcpListener, tls: Arc<ServerConfig>, shared: Shared) -> Infallible {
    let places = Places::new(shared.limits.connections);
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Replies are written whole; waiting for more to send would only delay them. Failing to set it costs time only.
        let _ = stream.set_nodelay(true);
        let Some(place) = places.enter(address.ip()) else {
            shared.metrics.connection_turned_away();
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let standing = Arc::clone(&place.standing);
            let handshake = tokio::select! {
                handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => handshake,
                () = standing.asked_to_leave() => return shared.metrics.connection_turned_away(),
            };
            match handshake {
                Ok(Ok(stream)) => {
                    let certificate = client::key(stream.get_ref().1);
                    connection(stream, Peer::Network(address.ip()), certificate, shared, standing).await;
                    drop(place);
                }
                Ok(Err(error)) => {
                    shared.metrics.handshake_failed();
                    tracing::debug!(peer = %address.ip(), %error, "TLS handshake failed");
                }
                Err(_) => {
                    shared.metrics.handshake_failed();
                    tracing::debug!(peer = %address.ip(), "TLS handshake took too long");
                }
            }
        });
    }
}

async fn accept_local(listener: UnixListener, shared: Shared) -> Infallible {
    let places = Arc::new(Semaphore::new(MAX_LOCAL_CONNECTIONS));
    loop {
        let place = place(&places).await;
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            let uid = stream.peer_cred()?.uid();
            Ok((stream, uid))
        });
        match accepted {
            Ok((stream, uid)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    connection(stream, Peer::Local { uid }, None, shared, Arc::default()).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the Unix socket");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A place for one more connection. The semaphore is never closed, so the second arm is not taken.
async fn place(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    match Arc::clone(places).acquire_owned().await {
        Ok(place) => place,
        Err(_) => std::future::pending().await,
    }
}

async fn connection<S>(stream: S, peer: Peer, certificate: Option<KeyId>, shared: Shared, standing: Arc<Standing>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _open = shared.metrics.connection_opened();
    let activity = Activity::new(shared.limits);
    let (mut stopped, metrics) = (shared.stopped.clone(), Arc::clone(&shared.metrics));
    let builder = protocol(peer, shared.limits);
    let (seen, proof) = (Arc::clone(&activity), Arc::clone(&standing));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (shared, seen, proof) = (shared.clone(), Arc::clone(&seen), Arc::clone(&proof));
        async move {
            let _handled = seen.handle();
            let certificate = certificate.filter(|_| seen.is_young());
            let response = answer(shared, peer, certificate, proof, request).await;
            Ok::<_, Infallible>(finish(response.map(|body| seen.send(body))))
        }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let (mut closing, mut left): (Option<Instant>, bool) = (None, false);
    loop {
        let wake = closing.unwrap_or_else(|| activity.closes_at());
        let close = tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(?peer, %error, "connection ended");
                }
                break;
            }
            () = sleep_until(wake) => {
                if closing.is_some() || !activity.has_asked() || activity.is_stalled() {
                    break;
                }
                activity.closes_at() <= Instant::now()
            }
            changed = stopped.wait_for(|stop| *stop), if closing.is_none() => changed.is_ok(),
            // Its place is taken already: what runs is answered, and nothing more is waited for.
            () = standing.asked_to_leave() => {
                metrics.connection_turned_away();
                if !activity.is_busy() {
                    break;
                }
                left = true;
                true
            }
        };
        if close {
            serving.as_mut().graceful_shutdown();
            closing = Some(Instant::now() + if left { LEAVING_GRACE } else { CONNECTION_GRACE });
        }
    }
}

fn protocol(peer: Peer, limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_headers(MAX_HEADERS)
        .max_buf_size(READ_BUFFER_BYTES);
    // HPACK counts 32 bytes more for each header; what is still too much by our count is refused by the gate.
    let header_list_bytes = MAX_HEADER_BYTES + (MAX_HEADERS + 4) * H2_HEADER_OVERHEAD_BYTES;
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_H2_STREAMS)
        .max_pending_accept_reset_streams(MAX_H2_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_H2_LOCAL_RESETS)
        .max_header_list_size(u32::try_from(header_list_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES);
    match peer {
        Peer::Network(_) => builder,
        Peer::Local { .. } => builder.http1_only(),
    }
}

async fn answer(
    shared: Shared,
    peer: Peer,
    certificate: Option<KeyId>,
    standing: Arc<Standing>,
    request: http::Request<Incoming>,
) -> Response<Bytes> {
    let (head, body) = request.into_parts();
    let failed = Failed { method: head.method.clone(), uri: head.uri.clone(), peer };
    let Shared { handler, alive, .. } = shared;
    let running = handler.clone();
    // A task of its own: a client that hangs up cancels nothing, and a panic ends there.
    let running = tokio::spawn(async move {
        let response = running.handle(Arrived { head, peer, certificate, standing, body: body.boxed_unsync() }).await;
        drop(alive);
        response
    });
    running.await.unwrap_or_else(|error| {
        tracing::error!(panic = error.is_panic(), "a request's handler did not finish");
        handler.failed(failed)
    })
}

/// Nothing between here and the client may keep an answer or change its bytes.
fn finish(mut response: Response<Sent>) -> Response<Sent> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    response
}
