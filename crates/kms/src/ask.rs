//! Asks a plugin at a socket what kube-apiserver asks it three times a minute: who is there, and under which key id. Any
//! plugin answers that, so whoever holds the socket is told apart. And asks whether it lives at all, by a call that needs
//! no member and waits for none.

use crate::grpc::{StatusRequest, StatusResponse};
use crate::socket::Place;
use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// kube-apiserver waits as long.
const PATIENCE: Duration = Duration::from_secs(3);
const STATUS: &str = "/v2.KeyManagementService/Status";
/// The health protocol of gRPC. This plugin answers that it does not know it, at once: who cannot do that, does not live.
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// Largest answer in bytes: a key id has at most 1,024.
const MAX_ANSWER_BYTES: usize = 4096;
/// A message of gRPC begins with a byte that says whether it is compressed, and four with its length.
const PREFIX_BYTES: usize = 5;

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// Nobody accepts connections.
    Nobody,
    /// This process may not connect.
    Forbidden,
    /// Somebody accepts, and hangs up or speaks something else.
    HungUp,
    /// Somebody accepts, and does not answer in time.
    Silent,
    /// An error of gRPC, by its code.
    Refused(String),
    /// A key id, and what is said of health.
    Status {
        /// The key id.
        key_id: String,
        /// `ok`, or what is wrong.
        healthz: String,
    },
}

/// Asks for the status.
pub async fn status(place: &Place) -> Answered {
    timeout(PATIENCE, asked(place, STATUS)).await.unwrap_or(Err(Answered::Silent)).map_or_else(|how| how, read)
}

/// Whether the process at a socket does what it is asked, whatever that is: `Ok` with how it answered. Nothing is said of
/// its members, and none is asked.
///
/// # Errors
/// How it did not answer.
pub async fn alive(place: &Place) -> Result<Lives, Answered> {
    match timeout(PATIENCE, asked(place, HEALTH)).await.unwrap_or(Err(Answered::Silent)) {
        Ok(_) => Ok(Lives::Answers),
        // Whom the kernel alone lets in, waits; to hang up takes a process.
        Err(Answered::HungUp) => Ok(Lives::HangsUp),
        Err(other) => Err(other),
    }
}

/// How a process showed that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lives {
    /// It answered.
    Answers,
    /// It hung up, as it does on users who may not ask.
    HangsUp,
}

async fn connect(place: &Place) -> io::Result<UnixStream> {
    match place {
        Place::Path(path) => UnixStream::connect(path).await,
        Place::Abstract(name) => {
            let stream = std::os::unix::net::UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
    }
}

/// An answer of gRPC: its code, and the message with what stands before it.
struct Said {
    code: i32,
    body: BytesMut,
}

async fn asked(place: &Place, method: &'static str) -> Result<Said, Answered> {
    let stream = match connect(place).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(Answered::Forbidden),
        Err(_) => return Err(Answered::Nobody),
    };
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|_| Answered::HungUp)?;
    let connection = tokio::spawn(connection);
    let said = exchanged(&mut sender, method).await.ok_or(Answered::HungUp);
    connection.abort();
    said
}

async fn exchanged(sender: &mut http2::SendRequest<Full<Bytes>>, method: &'static str) -> Option<Said> {
    let message = StatusRequest {}.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).ok()?.to_be_bytes());
    body.extend(message);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))
        .ok()?;
    let answer = sender.send_request(request).await.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    let (head, body) = answer.into_parts();
    let collected = Limited::new(body, MAX_ANSWER_BYTES).collect().await.ok()?;
    let trailers = collected.trailers().unwrap_or(&head.headers);
    let code = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"))?.to_str().ok()?;
    let code = code.parse().ok()?;
    Some(Said { code, body: BytesMut::from(collected.to_bytes().as_ref()) })
}

/// What an answer to Status says.
fn read(said: Said) -> Answered {
    match said.code {
        0 => parsed(said.body).unwrap_or(Answered::HungUp),
        code => Answered::Refused(format!("{:?}", tonic::Code::from_i32(code))),
    }
}

fn parsed(mut body: BytesMut) -> Option<Answered> {
    if body.len() < PREFIX_BYTES || body.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(body.get_u32()).ok()?;
    let message = StatusResponse::decode(body).ok().filter(|message| message.encoded_len() <= length)?;
    Some(Answered::Status { key_id: message.key_id, healthz: message.healthz })
}
