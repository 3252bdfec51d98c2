//! The Unix socket: plain HTTP/1.1 for programs of this machine, who the kernel says they are.
//!
//! `GET /v1/value/NAME` answers with a value that the configuration names so, read when it is asked for; `GET
//! /v1/health` says how the agent fares. Nothing of a request but its method and path is looked at, and a path is
//! compared as it is: what is not named is not there, however it is spelled.

use super::config::SocketConfig;
use super::file;
use super::gathered::{Gathered, Users};
use super::health::Health;
use super::strangers::Strangers;
use super::wanted::Wanted;
use crate::exit::{Exit, Failure};
use crate::value::Values;
use bulla_client::Client;
use bulla_crypto::secret::SecretBytes;
use bulla_server::clock::{Clock as _, SystemClock};
use bulla_wire::name::Name;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Connections of those who may ask: a few programs with a few threads each.
const MAX_CONNECTIONS: usize = 32;
/// Connections of others, who are only told so.
const MAX_STRANGERS: usize = 4;
/// How long a request may take to arrive: its head is one line and a few headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay, its one answer included, for which the cluster may have to be waited for.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(90);
/// Most bytes of a request's head: no path that is answered has more than a name.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Most headers; curl sends three.
const MAX_HEADERS: usize = 32;
/// Between two tries to take a connection when the system has none to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket, for as long as this is there.
pub struct Serving {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
        // Whoever comes next finds nothing, or a socket where nobody answers, which it replaces.
        drop(fs::remove_file(&self.path));
    }
}

/// What is needed for an answer.
struct Shared {
    client: Client,
    users: Users,
    health: Health,
    values: BTreeMap<Name, Wanted>,
}

/// Who may ask.
struct Admitted {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

impl Admitted {
    fn admits(&self, uid: u32, gid: u32) -> bool {
        self.uids.contains(&uid) || self.gids.contains(&gid)
    }
}

/// Answers from now on.
pub fn serve(config: &SocketConfig, client: Client, users: Users, health: Health) -> Result<Serving, Failure> {
    let SocketConfig { path, uids, gids, values } = config;
    let others = !uids.is_empty() || !gids.is_empty();
    let listener = bind(path, others).map_err(|error| {
        let failure = Failure::new(Exit::Failed, format!("cannot listen on {}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::AddrInUse => failure.hint("stop the other agent, or give this one another socket.path"),
            _ => failure.hint("check socket.path: its folder is to be one in which nobody else may write"),
        }
    })?;
    let mut uids = uids.clone();
    uids.insert(rustix::process::geteuid().as_raw());
    let admitted = Admitted { uids, gids: gids.clone() };
    let shared = Arc::new(Shared { client, users, health, values: values.clone() });
    tracing::info!(socket = %path.display(), "answers");
    Ok(Serving { path: path.clone(), task: tokio::spawn(accept(listener, admitted, shared)) })
}

/// Makes the socket. Its mode lets those in who are asked for their names afterwards; a folder that is missing is made
/// for the agent alone unless others are to come in.
fn bind(path: &Path, others: bool) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(if others { 0o711 } else { 0o700 }).create(folder)?;
        let mode = fs::metadata(folder)?.permissions().mode();
        if mode & 0o022 != 0 {
            let problem = format!("others may write in {} (mode {:04o})", folder.display(), mode & 0o7777);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        if let Some(problem) = file::exposed(path) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if BlockingStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there"));
            }
            fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket lies there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Whoever comes in before is asked for its name like all others.
    fs::set_permissions(path, Permissions::from_mode(if others { 0o666 } else { 0o600 }))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, admitted: Admitted, shared: Arc<Shared>) {
    let (places, strangers) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(Semaphore::new(MAX_STRANGERS)));
    let (clock, mut turned_away) = (SystemClock::default(), Strangers::default());
    loop {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            let peer = stream.peer_cred()?;
            Ok((stream, peer))
        });
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the socket");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (uid, gid) = (peer.uid(), peer.gid());
        let known = admitted.admits(uid, gid);
        if !known && let Some(times) = turned_away.came(uid, clock.monotonic_ms()) {
            tracing::warn!(uid, gid, pid = peer.pid(), times, "somebody who may not asks on the socket");
        }
        // None is left: the connection is closed, and who needs it comes again.
        let Ok(place) = Arc::clone(if known { &places } else { &strangers }).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            connection(stream, known, shared).await;
            drop(place);
        });
    }
}

async fn connection(stream: UnixStream, known: bool, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let answer = if known { Box::pin(answer(&shared, &request)).await } else { Answer::stranger() };
            Ok::<_, Infallible>(answer.response())
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS).keep_alive(false);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    // Whoever breaks off or takes too long learns it by the end of its connection.
    drop(timeout(CONNECTION_TIMEOUT, serving).await);
}

/// What is answered.
enum Answer {
    Value(SecretBytes),
    Health(StatusCode, Vec<u8>),
    Refused { status: StatusCode, problem: Problem },
}

/// Why there is no value.
#[derive(Debug, Serialize)]
struct Problem {
    error: &'static str,
    message: String,
    hint: String,
}

impl Answer {
    fn refused(status: StatusCode, error: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { status, problem: Problem { error, message: message.into(), hint: hint.into() } }
    }

    fn stranger() -> Self {
        let hint = "the agent's socket.allow_uids and socket.allow_gids say who may";
        Self::refused(StatusCode::FORBIDDEN, "denied", "your user may not ask this agent", hint)
    }

    fn response(self) -> Response<Full<Bytes>> {
        const JSON: &str = "application/json";
        let (status, media, body) = match self {
            Self::Value(value) => (StatusCode::OK, "application/octet-stream", Bytes::from_owner(Wiped(value))),
            Self::Health(status, text) => (status, JSON, text.into()),
            Self::Refused { status, problem } => (status, JSON, bulla_wire::json::to_vec(&problem).into()),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}

/// A body that is wiped when it was sent.
struct Wiped(SecretBytes);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Answer {
    let unknown = || {
        let hint = "ask for /v1/health, or /v1/value/NAME with a name that stands in socket.values";
        Answer::refused(StatusCode::NOT_FOUND, "not_found", "there is no such value or path", hint)
    };
    if request.uri().query().is_some() {
        let hint = "give the name in the path alone";
        return Answer::refused(StatusCode::BAD_REQUEST, "malformed", "there are no parameters here", hint);
    }
    let path = request.uri().path();
    let named = path.strip_prefix("/v1/value/").and_then(|name| name.parse::<Name>().ok());
    let wanted = named.as_ref().and_then(|name| shared.values.get(name));
    if wanted.is_none() && path != "/v1/health" {
        return unknown();
    }
    if request.method() != Method::GET {
        return Answer::refused(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "only GET is known", "use GET");
    }
    let Some(wanted) = wanted else {
        let state = shared.health.state();
        let status = if state.started { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return Answer::Health(status, bulla_wire::json::to_vec(&state));
    };
    match value(shared, wanted).await {
        Ok(value) => Answer::Value(value),
        Err(failure) => {
            let name = named.as_ref().map_or("", Name::as_str);
            tracing::warn!(name, error = %failure.message, "a value was asked for and is not there");
            let status = match failure.exit {
                Exit::NotFound => StatusCode::NOT_FOUND,
                Exit::Denied => StatusCode::FORBIDDEN,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            // What the cluster said is for whoever runs the agent; its log has it.
            let message = format!("the agent could not get {name}");
            Answer::refused(status, "unavailable", message, "the agent's log says why; try again later")
        }
    }
}

async fn value(shared: &Shared, wanted: &Wanted) -> Result<SecretBytes, Failure> {
    let stored = if let Wanted::Stored(name) = wanted { Some(name) } else { None };
    let stored = Values::read(&shared.client, stored).await?;
    let values = Gathered { stored: &stored, users: shared.users.all() };
    values.get(wanted).map(|value| SecretBytes::new(value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_or_its_primary_group_lets_in() {
        let admitted = Admitted { uids: [7].into(), gids: [20].into() };
        assert!(admitted.admits(7, 1) && admitted.admits(1, 20));
        assert!(!admitted.admits(20, 7));
    }

    #[tokio::test]
    async fn a_socket_replaces_one_that_nobody_serves_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.sock");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let first = bind(&path, false).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(bind(&path, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = bind(&path, true).unwrap();
        assert_eq!(mode(&path), 0o666);
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert_eq!(bind(&path, false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&path).unwrap();
        fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
        assert!(bind(&path, false).unwrap_err().to_string().contains("others may write"));
    }
}
