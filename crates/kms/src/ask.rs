//! Asks a plugin at a socket what kube-apiserver asks it three times a minute: who is there, and under which key id. Any
//! plugin answers that, so whoever holds the socket is told apart.

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
    timeout(PATIENCE, asked(place)).await.unwrap_or(Answered::Silent)
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

async fn asked(place: &Place) -> Answered {
    let stream = match connect(place).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Answered::Forbidden,
        Err(_) => return Answered::Nobody,
    };
    let Ok((mut sender, connection)) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await else {
        return Answered::HungUp;
    };
    let connection = tokio::spawn(connection);
    let answered = exchanged(&mut sender).await.unwrap_or(Answered::HungUp);
    connection.abort();
    answered
}

async fn exchanged(sender: &mut http2::SendRequest<Full<Bytes>>) -> Option<Answered> {
    let message = StatusRequest {}.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).ok()?.to_be_bytes());
    body.extend(message);
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://localhost/v2.KeyManagementService/Status")
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
    if code != "0" {
        let code: i32 = code.parse().ok()?;
        return Some(Answered::Refused(format!("{:?}", tonic::Code::from_i32(code))));
    }
    parsed(BytesMut::from(collected.to_bytes().as_ref()))
}

fn parsed(mut body: BytesMut) -> Option<Answered> {
    if body.len() < PREFIX_BYTES || body.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(body.get_u32()).ok()?;
    let message = StatusResponse::decode(body).ok().filter(|message| message.encoded_len() <= length)?;
    Some(Answered::Status { key_id: message.key_id, healthz: message.healthz })
}
