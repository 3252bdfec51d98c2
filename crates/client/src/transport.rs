//! One HTTP exchange, over TLS 1.3 or the local socket. Nothing here is believed: the signature on the answer
//! decides (`crate::call`).

mod tls;
mod upload;

pub(crate) use tls::Authorities;
pub(crate) use upload::Upload;

use crate::ClientError;
use crate::progress::{Stage, Watch};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::UnixStream;
use upload::UploadBody;

/// How long a connection to nowhere is waited for: shorter than a call's own limit, so that a retry fits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A body of at most this many bytes goes over HTTP/1.1. It lies in the sockets' buffers before a refusal can come, so
/// none is lost to a connection that the server closes over the unread rest.
const SMALL_BODY_BYTES: u64 = 32 * 1024;
/// How long an idle connection is kept. Servers close theirs after a minute or more.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// `https://host:port`
    Https(String),
    /// `unix:/path/to/bulla.sock`
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let refused =
            || ClientError::input(format!("{text:?} is no address"), "give https://host:port, host:port or unix:/path");
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(refused()) };
        }
        let authority = text.strip_prefix("https://").unwrap_or(text);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let uri: Uri = format!("https://{authority}/").parse().map_err(|_| refused())?;
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        // Only host and port: no path, query, user or second spelling of the port.
        if host.is_empty() || format!("{host}{port}") != authority {
            return Err(refused());
        }
        Ok(Self::Https(authority.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https(authority) => write!(f, "https://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A request on the wire.
pub(crate) struct Sent<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Without its question mark.
    pub query: &'a str,
    pub headers: &'a [(&'static str, &'a str)],
    pub body: Upload,
    /// Largest body of an answer that is taken.
    pub limit: usize,
}

/// An answer as it came.
pub(crate) struct Received {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    /// The value of a header that stands there once.
    pub(crate) fn header(&self, name: &'static str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// Nothing came back, or not all of it.
    Network {
        /// What the network said.
        cause: String,
        /// Something may have been sent.
        connected: bool,
    },
    /// The answer is larger than any that was asked for.
    TooLarge,
    /// The request cannot be written down.
    Request(String),
}

pub(crate) struct Transport {
    way: Way,
    pub watch: Watch,
}

enum Way {
    Https { authority: String, authorities: Authorities, open: RwLock<Arc<Connections>> },
    Unix(PathBuf),
}

type Pool = Client<HttpsConnector<HttpConnector>, UploadBody>;

/// Connections by what goes over them, and how TLS is spoken there.
pub(crate) struct Connections {
    tls: Arc<ClientConfig>,
    /// HTTP/1.1: of one exchange after the other, HTTP/2 saves neither side anything, and costs both a tenth of the
    /// work of a small request.
    small: Pool,
    /// HTTP/2 if the server takes it: a refusal arrives although the body is still being sent.
    large: Pool,
}

impl Connections {
    fn new(authorities: &Authorities) -> Result<Self, ClientError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = tls::configuration(authorities)?;
        let builder = || HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_only().enable_http1();
        let pool = |connector| Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_TIMEOUT).build(connector);
        let small = pool(builder().wrap_connector(http.clone()));
        let large = pool(builder().enable_http2().wrap_connector(http));
        Ok(Self { small, large, tls: tls.into() })
    }

    fn of(&self, body: &Upload) -> &Pool {
        if body.bytes() > SMALL_BODY_BYTES { &self.large } else { &self.small }
    }
}

impl Transport {
    pub(crate) fn new(address: &Address, authorities: Authorities, watch: Watch) -> Result<Self, ClientError> {
        let way = match address {
            Address::Unix(path) => Way::Unix(path.clone()),
            Address::Https(authority) => {
                let open = RwLock::new(Arc::new(Connections::new(&authorities)?));
                Way::Https { authority: authority.clone(), authorities, open }
            }
        };
        Ok(Self { way, watch })
    }

    /// Where connections go and how TLS is spoken there; none on the local socket.
    pub(crate) fn tls(&self) -> Option<(&str, Arc<ClientConfig>)> {
        match &self.way {
            Way::Https { authority, open, .. } => Some((authority, Arc::clone(&opened(open).tls))),
            Way::Unix(_) => None,
        }
    }

    /// Reads the file of authorities again, and makes new connections by it. If it cannot be read, the ones before stay.
    pub(crate) fn read_again(&self) -> Result<(), ClientError> {
        if let Way::Https { authorities, open, .. } = &self.way {
            let made = Arc::new(Connections::new(authorities)?);
            *open.write().unwrap_or_else(PoisonError::into_inner) = made;
        }
        Ok(())
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn exchange(&self, sent: Sent<'_>) -> Result<Received, ExchangeError> {
        let limit = sent.limit;
        let response = match &self.way {
            Way::Https { authority, open, .. } => {
                let connections = opened(open);
                let pool = connections.of(&sent.body);
                let request = request(sent, Some(authority), &self.watch)?;
                pool.request(request)
                    .await
                    .map_err(|error| ExchangeError::Network { cause: causes(&error), connected: !error.is_connect() })?
            }
            Way::Unix(path) => {
                let network = |error: &dyn Error, connected| ExchangeError::Network { cause: causes(error), connected };
                let stream = UnixStream::connect(path).await.map_err(|error| network(&error, false))?;
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| network(&error, false))?;
                // It ends with the exchange; its error is also the sender's.
                drop(tokio::spawn(connection));
                let request = request(sent, None, &self.watch)?;
                sender.send_request(request).await.map_err(|error| network(&error, true))?
            }
        };
        let (head, body) = response.into_parts();
        let mut meter = self.watch.meter(Stage::Receiving, body.size_hint().exact());
        let body = body.map_frame(move |frame| {
            meter.add(frame.data_ref().map_or(0, Bytes::len));
            frame
        });
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return ExchangeError::TooLarge;
            }
            ExchangeError::Network { cause: causes(&*error), connected: true }
        })?;
        Ok(Received { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
    }
}

fn opened(open: &RwLock<Arc<Connections>>) -> Arc<Connections> {
    Arc::clone(&open.read().unwrap_or_else(PoisonError::into_inner))
}

fn request(sent: Sent<'_>, authority: Option<&str>, watch: &Watch) -> Result<Request<UploadBody>, ExchangeError> {
    let Sent { method, path, query, headers, body, limit: _ } = sent;
    let mark = if query.is_empty() { "" } else { "?" };
    let refused = |what: &dyn Error| ExchangeError::Request(what.to_string());
    let origin = authority.map_or_else(String::new, |authority| format!("https://{authority}"));
    let uri: Uri = format!("{origin}{path}{mark}{query}").parse().map_err(|error| refused(&error))?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|error| refused(&error))?;
    let mut request = Request::builder().method(method).uri(uri);
    if authority.is_none() {
        request = request.header(http::header::HOST, "localhost");
    }
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|error| refused(&error))?;
        request = request.header(HeaderName::from_static(name), value);
    }
    request.body(body.body(watch)).map_err(|error| refused(&error))
}

/// An error with all its causes: a network library says "error sending request" and hides the reason below.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let write = || {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            std::fs::write(&path, made.cert.pem()).unwrap();
        };
        let address = "https://localhost:1".parse().unwrap();
        let new = || Transport::new(&address, Authorities::File(path.clone()), Watch::default());
        assert!(new().is_err());
        write();
        let transport = new().unwrap();
        let tls = || transport.tls().unwrap().1;
        let first = tls();
        write();
        transport.read_again().unwrap();
        let second = tls();
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::write(&path, "").unwrap();
        assert!(transport.read_again().is_err());
        assert!(Arc::ptr_eq(&second, &tls()), "those before stay");
    }

    #[test]
    fn addresses() {
        let good = |text: &str| text.parse::<Address>().unwrap().to_string();
        assert_eq!(good("https://bulla.example:8250"), "https://bulla.example:8250");
        assert_eq!(good("https://bulla.example:8250/"), "https://bulla.example:8250");
        assert_eq!(good("127.0.0.1:8250"), "https://127.0.0.1:8250");
        assert_eq!(good("[::1]:8250"), "https://[::1]:8250");
        assert_eq!(good("unix:/run/bulla.sock"), "unix:/run/bulla.sock");
        for bad in [
            "",
            "http://x",
            "https://x/y",
            "https://x?y",
            "https://u@x",
            "unix:relative",
            "https://",
            "a b",
            "x:port",
            "x:",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }
}
