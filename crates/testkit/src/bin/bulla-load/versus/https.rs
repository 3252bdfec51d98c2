//! A client over HTTP/1.1 and TLS that keeps its connections, as our own client does for small requests.

use crate::Fault;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Largest answer that is read, in bytes: those that are measured hold 1 KiB of content.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// As much of an answer as an error quotes, in characters.
const QUOTED_CHARS: usize = 300;

/// A header.
pub type Header<'a> = (&'static str, &'a str);

/// A client of one server.
pub struct Https {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// An answer.
pub struct Answer {
    /// The status.
    pub status: u16,
    body: Bytes,
}

impl Answer {
    /// The JSON of a success; null if it has no body.
    pub fn json(&self) -> Result<Value, Fault> {
        let text = || String::from_utf8_lossy(&self.body).chars().take(QUOTED_CHARS).collect::<String>();
        match (self.status, &*self.body) {
            (200 | 204, []) => Ok(Value::Null),
            (200 | 204, body) => serde_json::from_slice(body).map_err(|error| format!("{error} in {}", text()).into()),
            (status, _) => Err(format!("{status}: {}", text()).into()),
        }
    }
}

impl Https {
    /// Without a connection yet.
    pub fn new(address: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        Self { address, tls, idle: Mutex::default() }
    }

    /// Sends a request over a connection that is free, or a new one, and reads the answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[Header<'_>],
        body: Option<&Value>,
    ) -> Result<Answer, Fault> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)))?;
        let mut sender = self.sender().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        self.idle().push(sender);
        Ok(Answer { status: head.status.as_u16(), body })
    }

    /// A connection on which nothing is under way.
    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, Fault> {
        while let Some(mut idle) = self.free() {
            // One that the server ended meanwhile is never ready.
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let (sender, connection) = handshake(TokioIo::new(self.connect().await?)).await?;
        // Its error is also the sender's.
        drop(tokio::spawn(connection));
        Ok(sender)
    }

    fn free(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.idle().pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection with nothing said on it yet.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, Fault> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(self.tls.clone());
        Ok(connector.connect(ServerName::try_from("localhost")?, stream).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_is_an_answer() {
        let json = |status, body: &'static str| Answer { status, body: Bytes::from_static(body.as_bytes()) }.json();
        assert_eq!(json(200, "{\"a\":1}").unwrap(), serde_json::json!({"a": 1}));
        assert_eq!(json(204, "").unwrap(), Value::Null);
        assert_eq!(json(403, "{\"errors\":[]}").unwrap_err().to_string(), "403: {\"errors\":[]}");
        assert!(json(200, "<html>").is_err());
    }
}
