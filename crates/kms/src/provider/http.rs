//! HTTPS to a backend: one request and its answer, in memory that is wiped.
//!
//! Threat: what answers may be anybody on the way. Certificates are always judged, an answer has a limit, no redirect is
//! followed, and errors repeat nothing of a body. How long it may take, the caller says by dropping the call. Files of
//! authorities and certificates may come later than the process, and change.

mod papers;

use super::files::Reader;
use super::{Class, ProviderError};
use bulla_client::causes;
use bulla_crypto::secret::SecretBytes;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use papers::{Known, Papers};
use rustls::ClientConfig;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Largest answer in bytes: a description of a key with some hundred versions, and far more than any wrapped key.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// How long a connection without a request is kept. Requests come every few seconds or not at all.
const IDLE: Duration = Duration::from_secs(90);
/// How long making a connection may take, so that one that hangs does not take the whole second of an attempt.
const CONNECT: Duration = Duration::from_millis(700);
/// A connection whose other end was lost is found out so soon: by what is not acknowledged, or by asking it.
const DEAD: Duration = Duration::from_secs(3);
/// Idle connections that are kept: a look and a call.
const IDLE_MAX: usize = 2;

/// Where a backend is: `https://HOST[:PORT]`, or http on this machine, without path, query or user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected https://HOST[:PORT]";
        let text = text.strip_suffix('/').unwrap_or(text);
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        let (scheme, host) = (uri.scheme_str().ok_or(FORM)?, uri.host().ok_or(FORM)?);
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        if host.is_empty() || format!("{scheme}://{host}{port}") != text {
            return Err(FORM);
        }
        match (scheme, host) {
            ("https", _) | ("http", "localhost" | "127.0.0.1" | "[::1]") => Ok(Self(text.to_owned())),
            ("http", _) => Err("http to another machine, where everybody on the way reads the credential; use https"),
            _ => Err(FORM),
        }
    }
}

impl Origin {
    /// As text is parsed, and http also to a link-local address: a cloud's metadata service, which is the machine's host.
    ///
    /// # Errors
    /// What is expected.
    pub fn link_local(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "expected https://HOST[:PORT], or http to this machine or a link-local address";
        let Some(authority) = text.strip_prefix("http://") else { return text.parse() };
        let host = authority.rsplit_once(':').map_or(authority, |(host, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { authority }
        });
        let link_local = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            // The addresses that EC2 has for it, which are unique-local, besides those that are link-local.
            Some(host) => host
                .parse::<Ipv6Addr>()
                .is_ok_and(|host| host.is_unicast_link_local() || host.segments().starts_with(&[0xfd00, 0xec2])),
            None => host.parse::<Ipv4Addr>().is_ok_and(|host| host.is_link_local()),
        };
        let uri = text.parse::<Uri>().map_err(|_| FORM)?;
        let bare = uri.path() == "/" && uri.query().is_none() && !text.ends_with('/');
        if link_local && bare { Ok(Self(text.to_owned())) } else { text.parse().map_err(|_| FORM) }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its host.
    pub fn host(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, authority)| match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        })
    }

    fn is_plain(&self) -> bool {
        self.0.starts_with("http:")
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A certificate that is shown to the backend, and its key: PEM files.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// An answer.
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: SecretBytes,
}

/// The way to one backend. Connections are kept, until what they rely on changes.
pub struct Http {
    origin: Origin,
    papers: Papers,
    reader: Reader,
    made: Mutex<Option<Made>>,
    /// Why the files are not read now, so that the log has it once.
    said: Mutex<Option<ProviderError>>,
}

type Connections = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A way by the files as they were.
#[derive(Clone)]
struct Made {
    known: Known,
    client: Connections,
}

impl Http {
    /// The way to `origin`, whose certificate is judged by the authorities in the file `ca`, or by those of the system. No
    /// file is read yet.
    pub fn new(origin: Origin, ca: Option<&Path>, shown: Option<Shown>) -> Self {
        let papers = Papers { ca: ca.map(Path::to_owned), shown };
        Self { origin, papers, reader: Reader::default(), made: Mutex::default(), said: Mutex::default() }
    }

    /// Reads the files now, on this thread: for a command that is to say at once what is wrong with them.
    ///
    /// # Errors
    /// [`Class::Config`], with the file.
    pub fn read(&self) -> Result<(), ProviderError> {
        self.take(self.papers.read(&self.origin, None)?);
        Ok(())
    }

    /// Reads the files again, for whoever observes, and tells them from others. While one cannot be read, those that were
    /// read before are used.
    ///
    /// # Errors
    /// [`Class::Config`] if there are no authorities, or the key does not fit the certificate.
    pub async fn renewed(&self) -> Result<[u8; 32], ProviderError> {
        let known = self.made().map(|made| made.known);
        let (papers, origin) = (self.papers.clone(), self.origin.clone());
        let read = self.reader.read(move || papers.read(&origin, known)).await;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match (read, known) {
            (Ok(read), _) => {
                *said = None;
                Ok(self.take(read))
            }
            (Err(error), Some(known)) => {
                if said.as_ref() != Some(&error) {
                    tracing::warn!(%error, "the files as they were before are used");
                }
                *said = Some(error);
                Ok(known.digest)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn take(&self, (known, tls): (Known, Option<ClientConfig>)) -> [u8; 32] {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match (tls, made.as_mut()) {
            (Some(tls), _) => *made = Some(Made { known, client: connections(tls) }),
            (None, Some(made)) => made.known = known,
            (None, None) => {}
        }
        known.digest
    }

    fn made(&self) -> Option<Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connections by the files as they were read last.
    async fn connections(&self) -> Result<Connections, ProviderError> {
        if self.made().is_none() {
            self.renewed().await?;
        }
        let none = || ProviderError::new(Class::Config, format!("there is no way to {}", self.origin));
        self.made().map(|made| made.client).ok_or_else(none)
    }

    /// Where it leads.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Sends a request to `path`, which begins with a slash, and reads the answer, whatever its status.
    ///
    /// # Errors
    /// [`Class::Unavailable`] if nothing answers; [`Class::Protocol`] for an answer that is too large; as those of
    /// [`Http::renewed`] if no file was read yet.
    pub async fn call(
        &self,
        request: http::request::Builder,
        path: &str,
        body: SecretBytes,
    ) -> Result<Reply, ProviderError> {
        self.call_within(MAX_ANSWER_BYTES, request, path, body).await
    }

    /// As [`Http::call`], for an answer of at most `limit` bytes.
    ///
    /// # Errors
    /// As those of [`Http::call`].
    pub async fn call_within(
        &self,
        limit: usize,
        mut request: http::request::Builder,
        path: &str,
        body: SecretBytes,
    ) -> Result<Reply, ProviderError> {
        let unavailable = |error: &dyn std::error::Error| {
            ProviderError::new(Class::Unavailable, format!("cannot reach {}: {}", self.origin, causes(error)))
        };
        if let Some(headers) = request.headers_mut() {
            let agent = concat!("bulla-kms/", env!("CARGO_PKG_VERSION"));
            headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(agent));
        }
        let request: Request<Full<Bytes>> = request
            .uri(format!("{}{path}", self.origin))
            .body(Full::new(Bytes::from_owner(Wiped(body))))
            .map_err(|error| {
                ProviderError::new(Class::Config, format!("no request to {} can be made: {error}", self.origin))
            })?;
        let answer = self.connections().await?.request(request).await.map_err(|error| unavailable(&error))?;
        let (head, body) = answer.into_parts();
        let Some(body) = collect(body, limit).await.map_err(|error| unavailable(&error))? else {
            let text = format!("{} answers with more than {limit} bytes", self.origin);
            return Err(ProviderError::new(Class::Protocol, text));
        };
        Ok(Reply { status: head.status, headers: head.headers, body })
    }
}

/// A body that is wiped once it was sent.
struct Wiped(SecretBytes);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// The body, in memory that is wiped; `None` if it is too large.
async fn collect(mut body: Incoming, limit: usize) -> Result<Option<SecretBytes>, hyper::Error> {
    let hint = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    let mut whole = SecretBytes::new(Vec::with_capacity(hint.unwrap_or(0).min(limit)));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if data.len() > limit.saturating_sub(whole.expose().len()) {
            return Ok(None);
        }
        let needed = whole.expose().len().saturating_add(data.len());
        if needed > whole.expose().capacity() {
            // A vector that grows by itself leaves a copy behind.
            let mut larger = SecretBytes::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.expose_mut().extend_from_slice(whole.expose());
            whole = larger;
        }
        whole.expose_mut().extend_from_slice(&data);
    }
    Ok(Some(whole))
}

fn connections(tls: ClientConfig) -> Connections {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(DEAD));
    tcp.set_keepalive_interval(Some(DEAD));
    tcp.set_keepalive_retries(Some(2));
    tcp.set_tcp_user_timeout(Some(DEAD));
    tcp.enforce_http(false);
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_MAX).build(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_spelling_and_is_encrypted() {
        for good in ["https://kms.example", "https://kms.example:8200", "http://127.0.0.1:8200", "http://[::1]:1"] {
            assert_eq!(good.parse::<Origin>().unwrap().as_str(), good);
        }
        assert_eq!("https://kms.example/".parse::<Origin>().unwrap().as_str(), "https://kms.example");
        for bad in [
            "",
            "kms.example",
            "https://",
            "https://a/path",
            "https://user@a",
            "https://a?b",
            "http://kms.example",
            "ftp://a",
            "https://a:0x",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_metadata_service_is_beside_this_machine() {
        for good in [
            "http://169.254.169.254",
            "http://169.254.170.23:80",
            "http://127.0.0.1:1338",
            "http://[fd00:ec2::254]",
            "http://[fe80::1]:8080",
            "https://kms.example",
        ] {
            assert_eq!(Origin::link_local(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "http://169.254.169.254/latest",
            "http://169.254.169.254?a",
            "http://169.253.0.1",
            "http://169.254.169.254.example",
            "http://a@169.254.169.254",
            "http://169.254.169.254@a.example",
            "http://[fd00:ec3::254]",
            "http://metadata.google.internal",
            "http://[fe80::1",
        ] {
            assert!(Origin::link_local(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_is_without_its_port() {
        for (text, host) in
            [("https://kms.example:8200", "kms.example"), ("https://a", "a"), ("http://[::1]:1", "[::1]")]
        {
            assert_eq!(text.parse::<Origin>().unwrap().host(), host);
        }
    }
}
