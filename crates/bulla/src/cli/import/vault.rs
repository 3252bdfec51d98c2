//! The other side: reading from a Vault or an OpenBao over HTTP. Nothing is written there.
//!
//! Threat: what answers may be anybody. Each answer has a limit and a time, no redirect is followed, what it says is
//! never a path or a name here before it was parsed as one, and errors repeat nothing of an answer that may hold secrets.

use crate::exit::{Exit, Failure};
use bulla_client::causes;
use bulla_crypto::secret::SecretBytes;
use bytes::Bytes;
use http::header::{HeaderValue, InvalidHeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer is waited for: longer than a busy server takes for one read.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer with a secret, a key or a policy, in bytes: a value of Vault has at most 1 MiB, and what is more than
/// Bulla takes is read to be able to say so; a hundred RSA keys have 400 KiB.
pub const MAX_ANSWER_BYTES: usize = 2 * 1024 * 1024;
/// Largest listing in bytes, which Vault gives in one answer: a directory of some 200,000 names.
pub const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;
/// As much of an error of Vault as is repeated, in characters.
const QUOTED_CHARS: usize = 200;

/// An address of a Vault: `https://host:port`, or http on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected https://HOST:PORT";
        let text = text.strip_suffix('/').unwrap_or(text);
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        let (scheme, host) = (uri.scheme_str().ok_or(FORM)?, uri.host().ok_or(FORM)?);
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        // Only host and port: no path, query, user or second spelling.
        if host.is_empty() || format!("{scheme}://{host}{port}") != text {
            return Err(FORM);
        }
        match (scheme, host) {
            ("https", _) | ("http", "localhost" | "127.0.0.1" | "[::1]") => Ok(Self(text.to_owned())),
            ("http", _) => Err("http to another machine, where everybody on the way reads the secrets; use https"),
            _ => Err(FORM),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What came of a read.
pub enum Answer {
    /// The body.
    Found(SecretBytes),
    /// There is no such thing.
    Absent,
    /// It is not shown, for this reason.
    Refused(String),
}

/// A Vault that is read.
pub struct Vault {
    address: Address,
    token: HeaderValue,
    namespace: Option<HeaderValue>,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// A mount, as a token sees it that may do something in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its path, without the slash at the end.
    pub path: String,
    /// Its engine.
    pub engine: Engine,
}

/// What a mount holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// Secrets without versions.
    Kv1,
    /// Secrets with versions.
    Kv2,
    /// Keys.
    Transit,
    /// Anything else, by Vault's word.
    Other(String),
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Listing {
    keys: Vec<String>,
}

#[derive(Deserialize)]
struct SeenMount {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    options: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    path: Option<String>,
}

impl SeenMount {
    fn mount(self, path: &str) -> Mount {
        let version = self.options.as_ref().and_then(|options| options.get("version")).and_then(Option::as_deref);
        let engine = match (self.kind.as_str(), version) {
            ("kv", Some("2")) => Engine::Kv2,
            ("kv" | "generic", _) => Engine::Kv1,
            ("transit", _) => Engine::Transit,
            _ => Engine::Other(self.kind),
        };
        Mount { path: path.trim_end_matches('/').to_owned(), engine }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kv1 => "kv, version 1",
            Self::Kv2 => "kv, version 2",
            Self::Transit => "transit",
            Self::Other(kind) => kind,
        })
    }
}

impl Vault {
    /// Makes ready to call it; nothing is sent.
    pub fn new(
        address: Address,
        token: &SecretBytes,
        namespace: Option<&str>,
        ca: Option<&Path>,
    ) -> Result<Self, Failure> {
        let unfit = |_: InvalidHeaderValue| {
            Failure::usage("the token is no text of one line")
                .hint("give the file that holds the token and nothing else")
        };
        let mut token = HeaderValue::from_bytes(token.expose()).map_err(unfit)?;
        token.set_sensitive(true);
        let namespace = namespace.map(HeaderValue::from_str).transpose();
        let namespace = namespace.map_err(|_| Failure::usage("the namespace has characters that no namespace has"))?;
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot set up TLS: {error}")))?
            .with_root_certificates(authorities(ca, &address)?)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { address, token, namespace, client })
    }

    /// Reads `/v1/{path}`. The path is made of segments that were parsed, so nothing in it needs another spelling.
    pub async fn get(&self, path: &str, limit: usize) -> Result<Answer, Failure> {
        let exchange = async {
            let mut request = Request::builder()
                .method(Method::GET)
                .uri(format!("{}/v1/{path}", self.address))
                .header(USER_AGENT, concat!("bulla/", env!("CARGO_PKG_VERSION")))
                .header("x-vault-request", "true")
                .header("x-vault-token", self.token.clone());
            if let Some(namespace) = &self.namespace {
                request = request.header("x-vault-namespace", namespace.clone());
            }
            let request = request.body(Empty::new()).map_err(|error| self.failed(path, &error.to_string()))?;
            let (head, body) =
                self.client.request(request).await.map_err(|error| self.unreachable(&causes(&error)))?.into_parts();
            let Some(body) = collect(body, limit).await.map_err(|error| self.unreachable(&causes(&error)))? else {
                return Err(self.failed(path, &format!("the answer has more than {limit} bytes")));
            };
            self.judged(path, head.status, body)
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err(self.unreachable(&format!("no answer within {} s", PATIENCE.as_secs()))))
    }

    fn judged(&self, path: &str, status: StatusCode, body: SecretBytes) -> Result<Answer, Failure> {
        match status {
            StatusCode::OK => Ok(Answer::Found(body)),
            StatusCode::NOT_FOUND => Ok(Answer::Absent),
            StatusCode::FORBIDDEN => Ok(Answer::Refused("the token may not read it".to_owned())),
            // About this path alone, such as a key that is deleted for the time being.
            StatusCode::BAD_REQUEST => Ok(Answer::Refused(format!("Vault says: {}", said(&body)))),
            status if status.is_redirection() => {
                Err(self.failed(path, "it points to another address").hint("give the address of the active node"))
            }
            status => Err(self.failed(path, &format!("{status} {}", said(&body)))),
        }
    }

    /// Reads something that must be there.
    pub async fn demand(&self, path: &str, limit: usize) -> Result<SecretBytes, Failure> {
        match self.get(path, limit).await? {
            Answer::Found(body) => Ok(body),
            Answer::Absent => Err(Failure::new(Exit::NotFound, format!("{} has no {path}", self.address))),
            Answer::Refused(why) => {
                Err(Failure::new(Exit::Denied, format!("cannot read {path} of {}: {why}", self.address))
                    .hint("give a token that may read and list what is imported"))
            }
        }
    }

    /// The names below a path; none if there is nothing. The inner error is why it is not listed.
    pub async fn list(&self, path: &str) -> Result<Result<Vec<String>, String>, Failure> {
        match self.get(&format!("{path}?list=true"), MAX_LIST_BYTES).await? {
            Answer::Found(body) => Ok(Ok(parse::<Data<Listing>>(&body, path)?.data.keys)),
            Answer::Absent => Ok(Ok(Vec::new())),
            Answer::Refused(why) => Ok(Err(why)),
        }
    }

    /// The mounts that the token sees.
    pub async fn mounts(&self) -> Result<Vec<Mount>, Failure> {
        #[derive(Deserialize)]
        struct Seen {
            secret: BTreeMap<String, SeenMount>,
        }
        let path = "sys/internal/ui/mounts";
        let body = self.demand(path, MAX_ANSWER_BYTES).await?;
        let seen: Data<Seen> = parse(&body, path)?;
        Ok(seen.data.secret.into_iter().map(|(path, mount)| mount.mount(&path)).collect())
    }

    /// The mount that a path lies in.
    pub async fn mount_of(&self, path: &str) -> Result<Mount, Failure> {
        let asked = format!("sys/internal/ui/mounts/{path}");
        let body = self.demand(&asked, MAX_ANSWER_BYTES).await.map_err(|failure| {
            failure.hint(format!("`bulla import vault {}` lists the mounts that the token sees", self.address))
        })?;
        let seen: SeenMount = parse::<Data<SeenMount>>(&body, &asked)?.data;
        let found = seen.path.clone().unwrap_or_default();
        let inside = found.trim_end_matches('/');
        if inside.is_empty() || !format!("{path}/").starts_with(&format!("{inside}/")) {
            return Err(self.failed(&asked, "it names a mount that the path is not in"));
        }
        Ok(seen.mount(inside))
    }

    fn unreachable(&self, cause: &str) -> Failure {
        Failure::new(Exit::Unreachable, format!("cannot reach {}: {cause}", self.address))
            .hint("run the command again: it goes on where it stopped")
    }

    fn failed(&self, path: &str, cause: &str) -> Failure {
        Failure::new(Exit::Failed, format!("cannot read {path} of {}: {}", self.address, cause.trim_end()))
    }
}

/// The errors that an answer names.
fn said(body: &SecretBytes) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let said = serde_json::from_slice::<Errors>(body.expose()).map(|said| said.errors.join("; "));
    said.unwrap_or_default().chars().take(QUOTED_CHARS).collect()
}

/// Parses an answer. The error repeats nothing of it: secrets may stand there.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a SecretBytes, path: &str) -> Result<T, Failure> {
    serde_json::from_slice(body.expose()).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        Failure::new(Exit::Failed, format!("the answer to {path} is not what Vault answers, at {place}"))
            .hint("compare the address with that of the Vault")
    })
}

/// The body, in memory that is wiped; `None` if it is larger than the limit.
async fn collect(mut body: Incoming, limit: usize) -> Result<Option<SecretBytes>, hyper::Error> {
    let hint = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    let mut whole = SecretBytes::new(Vec::with_capacity(hint.unwrap_or(0).min(limit)));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if data.len() > limit.saturating_sub(whole.expose().len()) {
            return Ok(None);
        }
        append(&mut whole, &data);
    }
    Ok(Some(whole))
}

/// Appends without leaving a copy behind, as a vector that grows does.
fn append(whole: &mut SecretBytes, data: &[u8]) {
    let needed = whole.expose().len().saturating_add(data.len());
    if needed > whole.expose().capacity() {
        let mut larger = SecretBytes::new(Vec::with_capacity(needed.saturating_mul(2)));
        larger.expose_mut().extend_from_slice(whole.expose());
        *whole = larger;
    }
    whole.expose_mut().extend_from_slice(data);
}

/// Who may have signed its certificate.
fn authorities(ca: Option<&Path>, address: &Address) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let unfit = |error: &dyn fmt::Display| {
                Failure::new(Exit::Failed, format!("cannot use {}: {error}", path.display()))
                    .hint("--ca names a PEM file of certificates")
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unfit(&error))? {
                roots.add(certificate.map_err(|error| unfit(&error))?).map_err(|error| unfit(&error))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() && address.0.starts_with("https:") {
        return Err(Failure::new(Exit::Failed, "there is no authority to judge the certificate of Vault by")
            .hint("give --ca FILE, or install the package ca-certificates"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in
            ["https://vault.example:8200", "https://vault.example", "http://127.0.0.1:8200", "http://[::1]:8200"]
        {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
            assert_eq!(format!("{good}/").parse::<Address>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "vault.example:8200",
            "http://vault.example:8200",
            "http://localhost.example:8200",
            "https://u:p@vault.example",
            "https://vault.example/path",
            "https://vault.example?x",
            "ftp://vault.example",
            "https://",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert!("http://vault.example".parse::<Address>().unwrap_err().contains("https"));
    }

    #[test]
    fn mounts_are_what_vault_calls_them() {
        let mount = |json: &str| serde_json::from_str::<SeenMount>(json).unwrap().mount("team/kv/");
        let of = |engine| Mount { path: "team/kv".to_owned(), engine };
        assert_eq!(mount(r#"{"type":"kv","options":{"version":"2"},"x":1}"#), of(Engine::Kv2));
        assert_eq!(mount(r#"{"type":"kv","options":{"version":"1"}}"#), of(Engine::Kv1));
        assert_eq!(mount(r#"{"type":"kv","options":null}"#), of(Engine::Kv1));
        assert_eq!(mount(r#"{"type":"transit"}"#), of(Engine::Transit));
        assert_eq!(mount(r#"{"type":"pki"}"#), of(Engine::Other("pki".to_owned())));
    }

    #[test]
    fn a_malformed_answer_is_not_repeated() {
        let body = SecretBytes::new(br#"{"data":{"keys":"canary"}}"#.to_vec());
        let failure = parse::<Data<Listing>>(&body, "secret/x").err().unwrap();
        assert!(failure.message.contains("line 1") && !failure.message.contains("canary"), "{failure:?}");
    }

    #[test]
    fn errors_are_repeated_in_short() {
        let body = |text: String| SecretBytes::new(text.into_bytes());
        assert_eq!(said(&body(r#"{"errors":["a","b"]}"#.to_owned())), "a; b");
        assert_eq!(said(&body("<html>".to_owned())), "");
        assert_eq!(said(&body(format!(r#"{{"errors":["{}"]}}"#, "x".repeat(5000)))).len(), QUOTED_CHARS);
    }

    #[test]
    fn bytes_are_appended_in_order() {
        let mut whole = SecretBytes::new(Vec::new());
        for part in [&b"abc"[..], b"", b"defg", &[0; 5000]] {
            append(&mut whole, part);
        }
        assert!(whole.expose().starts_with(b"abcdefg") && whole.expose().len() == 5007);
    }
}
