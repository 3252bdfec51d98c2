//! The other side: reading from a Vault or an OpenBao over HTTP. Nothing is written there.
//!
//! Threat: what answers may be anybody. Each answer has a limit and a time, no redirect is followed, what it says is
//! never a path or a name here before it was parsed as one, and errors repeat nothing of an answer that may hold secrets.

use crate::exit::{Exit, Failure};
use bulla_crypto::secret::SecretBytes;
use bulla_kms::provider::http::Http;
use bulla_kms::provider::{Class, ProviderError};
use http::header::{HeaderValue, InvalidHeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Where a Vault is: `https://host:port`, or http on this machine.
pub use bulla_kms::provider::http::Origin as Address;

/// How long an answer is waited for: longer than a busy server takes for one read.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer with a secret, a key or a policy, in bytes: a value of Vault has at most 1 MiB, and what is more than
/// Bulla takes is read to be able to say so; a hundred RSA keys have 400 KiB.
pub const MAX_ANSWER_BYTES: usize = 2 * 1024 * 1024;
/// Largest listing in bytes, which Vault gives in one answer: a directory of some 200,000 names.
pub const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;
/// As much of an error of Vault as is repeated, in characters.
const QUOTED_CHARS: usize = 200;

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
    http: Http,
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
        let http = Http::new(address.clone(), ca, None);
        http.read()
            .map_err(|error| Failure::new(Exit::Failed, error.text).hint("--ca names a PEM file of certificates"))?;
        Ok(Self { address, token, namespace, http })
    }

    /// Reads `/v1/{path}`. The path is made of segments that were parsed, so nothing in it needs another spelling.
    pub async fn get(&self, path: &str, limit: usize) -> Result<Answer, Failure> {
        let mut request = Request::builder()
            .method(Method::GET)
            .header(USER_AGENT, concat!("bulla/", env!("CARGO_PKG_VERSION")))
            .header("x-vault-request", "true")
            .header("x-vault-token", self.token.clone());
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace.clone());
        }
        let target = format!("/v1/{path}");
        let exchange = self.http.call_within(limit, request, &target, SecretBytes::new(Vec::new()));
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(reply)) => self.judged(path, reply.status, reply.body),
            Ok(Err(ProviderError { class: Class::Unavailable, text })) => Err(unreachable(text)),
            Ok(Err(error)) => Err(self.failed(path, &error.text)),
            Err(_) => {
                let cause = format!("no answer within {} s", PATIENCE.as_secs());
                Err(unreachable(format!("cannot reach {}: {cause}", self.address)))
            }
        }
    }

    fn judged(&self, path: &str, status: StatusCode, body: SecretBytes) -> Result<Answer, Failure> {
        match status {
            StatusCode::OK => Ok(Answer::Found(body)),
            StatusCode::NOT_FOUND => Ok(Answer::Absent),
            StatusCode::FORBIDDEN => Ok(Answer::Refused("the token may not read it".to_owned())),
            // About this path alone, such as a key that is deleted for the time being.
            StatusCode::BAD_REQUEST => {
                Ok(Answer::Refused(format!("Vault says: {}", said(&body, self.token.as_bytes()))))
            }
            status if status.is_redirection() => {
                Err(self.failed(path, "it points to another address").hint("give the address of the active node"))
            }
            status => Err(self.failed(path, &format!("{status} {}", said(&body, self.token.as_bytes())))),
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
            Answer::Found(body) => Ok(Ok(parse::<Listing>(&body, path)?.keys)),
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
        let seen: Seen = parse(&body, path)?;
        Ok(seen.secret.into_iter().map(|(path, mount)| mount.mount(&path)).collect())
    }

    /// The mount that a path lies in.
    pub async fn mount_of(&self, path: &str) -> Result<Mount, Failure> {
        let asked = format!("sys/internal/ui/mounts/{path}");
        let body = self.demand(&asked, MAX_ANSWER_BYTES).await.map_err(|failure| {
            failure.hint(format!("`bulla import vault {}` lists the mounts that the token sees", self.address))
        })?;
        let seen: SeenMount = parse(&body, &asked)?;
        let found = seen.path.clone().unwrap_or_default();
        let inside = found.trim_end_matches('/');
        if inside.is_empty() || !format!("{path}/").starts_with(&format!("{inside}/")) {
            return Err(self.failed(&asked, "it names a mount that the path is not in"));
        }
        Ok(seen.mount(inside))
    }

    fn failed(&self, path: &str, cause: &str) -> Failure {
        Failure::new(Exit::Failed, format!("cannot read {path} of {}: {}", self.address, cause.trim_end()))
    }
}

fn unreachable(text: String) -> Failure {
    Failure::new(Exit::Unreachable, text).hint("run the command again: it goes on where it stopped")
}

/// The errors that an answer names; nothing if it repeats the token, which would stand in a report then.
fn said(body: &SecretBytes, token: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let said = serde_json::from_slice::<Errors>(body.expose()).map(|said| said.errors.join("; "));
    let said = said.unwrap_or_default();
    if said.as_bytes().windows(token.len().max(1)).any(|part| part == token) {
        return String::new();
    }
    said.chars().take(QUOTED_CHARS).collect()
}

/// The `data` of an answer. The error repeats nothing of it: secrets may stand there.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a SecretBytes, path: &str) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Said<T> {
        data: T,
    }
    serde_json::from_slice::<Said<T>>(body.expose()).map(|said| said.data).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        Failure::new(Exit::Failed, format!("the answer to {path} is not what Vault answers, at {place}"))
            .hint("compare the address with that of the Vault")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let failure = parse::<Listing>(&body, "secret/x").err().unwrap();
        assert!(failure.message.contains("line 1") && !failure.message.contains("canary"), "{failure:?}");
    }

    #[test]
    fn errors_are_repeated_in_short() {
        let said = |text: &str| said(&SecretBytes::new(text.as_bytes().to_vec()), b"hvs.canary");
        assert_eq!(said(r#"{"errors":["a","b"]}"#), "a; b");
        assert_eq!(said("<html>"), "");
        assert_eq!(said(&format!(r#"{{"errors":["{}"]}}"#, "x".repeat(5000))).len(), QUOTED_CHARS);
        // A token that comes back stays here, wherever it stands.
        assert_eq!(said(r#"{"errors":["bad token hvs.canary, sorry"]}"#), "");
        assert_eq!(said(r#"{"errors":["a","\u0068vs.canary"]}"#), "");
        assert_eq!(said(&format!(r#"{{"errors":["{}hvs.canary"]}}"#, "x".repeat(QUOTED_CHARS - 5))), "");
    }
}
