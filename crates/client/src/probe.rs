//! One look at the server as it answers from here, for whoever searches what is wrong on the way to it.
//!
//! Unlike a call, nothing is tried again, and an answer that does not verify is not thrown away: it is told what of it
//! does not hold. Nothing of it is believed or remembered.

use crate::ClientError;
use crate::builder::Client;
use crate::call::now_ms;
use crate::certificate::Certificate;
use crate::transport::{ExchangeError, Received, Sent, Upload, causes};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::message::{ResponseError, SignatureHeaders, digest_header, sign_request, verify_response};
use bulla_crypto::random::{SystemRng, draw};
use bulla_wire::challenge::Challenge;
use bulla_wire::error::{Code, ErrorBody, ErrorEntry};
use bulla_wire::id::{KeyId, Nonce};
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::signature::{
    AGE_MEDIA_TYPE, AUDIENCE_HEADER, Answered, Audience, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, EMPTY_MEDIA_TYPE,
    JSON_MEDIA_TYPE, RequestParts, ResponseParts, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, STATE_HEADER,
    content_digest,
};
use bulla_wire::state::State;
use bytes::Bytes;
use rustls::pki_types::ServerName;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long one connection or exchange may take: a person waits for each.
const PATIENCE: Duration = Duration::from_secs(10);
/// The port where none is given.
const HTTPS_PORT: u16 = 443;
/// What a node's answer can carry.
const NODE_HEADERS: [&str; 12] = [
    "content-type",
    "cache-control",
    CONTENT_DIGEST_HEADER,
    CHALLENGE_HEADER,
    STATE_HEADER,
    SIGNATURE_INPUT_HEADER,
    SIGNATURE_HEADER,
    "allow",
    "retry-after",
    "content-length",
    "date",
    "connection",
];
/// What every answer of a node carries, once each.
const SIGNED_HEADERS: [&str; 6] =
    ["content-type", CONTENT_DIGEST_HEADER, CHALLENGE_HEADER, STATE_HEADER, SIGNATURE_INPUT_HEADER, SIGNATURE_HEADER];

/// How TLS was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The address that took the connection.
    pub peer: String,
    /// The key exchange, as TLS names it.
    pub group: String,
    /// It holds against quantum computers.
    pub is_hybrid: bool,
    /// Whose certificate was shown; none if it cannot be read.
    pub certificate: Option<Certificate>,
}

/// What came to one request.
#[derive(Debug, Clone)]
pub struct Look {
    /// The path that was sent, with GET.
    pub path: String,
    /// The query that was sent, without its question mark.
    pub query: String,
    /// The status.
    pub status: u16,
    /// The media type, if one was given.
    pub media: Option<String>,
    /// Headers that no node sends, so somebody on the way added them: name and value.
    pub foreign: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// The first error of the body, whoever wrote it.
    pub refusal: Option<ErrorEntry>,
    /// Whether the node said this.
    pub judged: Judged,
    /// The challenge that came with it.
    pub challenge: Option<Challenge>,
    /// Alarms that wait for the caller, as the answer says.
    pub alarms: u32,
    /// When it was sent, by this machine's clock, Unix milliseconds.
    pub sent_ms: u64,
    /// When it was answered, by this machine's clock.
    pub answered_ms: u64,
}

impl Look {
    /// The code of the refusal.
    pub fn code(&self) -> Option<Code> {
        self.refusal.as_ref().map(|entry| entry.code)
    }
}

/// Whether an answer is what a node signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// A node of the pinned cluster signed it as the answer to this.
    Whole {
        /// To any request with this method, path and query; otherwise to this very request.
        open: bool,
    },
    /// There are no documents to judge it by.
    Unjudged,
    /// These headers are missing, or stand there twice.
    Missing(Vec<&'static str>),
    /// A key signed it that no document names as an active node.
    Stranger(KeyId),
    /// A node of the pinned cluster signed it before this was changed.
    Altered(Altered),
    /// It names a node of the pinned cluster, whose signature does not hold, and no single change explains it.
    Unexplained,
}

/// What was changed on the way: the signature holds without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Altered {
    /// The body of the answer.
    Body,
    /// The status, which was this.
    Status(u16),
    /// The media type, which was this.
    Media(&'static str),
    /// The request line: the node was asked for this path and query.
    Line {
        /// The path.
        path: String,
        /// The query, without its question mark.
        query: String,
    },
}

impl Client {
    /// Connects and agrees on TLS, and closes again; `None` for the local socket, which has none.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], which says how far it came.
    pub async fn probe_tls(&self) -> Result<Option<Handshake>, ClientError> {
        let Some((authority, tls)) = self.0.transport.tls() else { return Ok(None) };
        let failed = |cause: String| ClientError::Unreachable { address: self.0.address.to_string(), cause };
        let uri: http::Uri = format!("https://{authority}/").parse().map_err(|_| failed("no such address".into()))?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
        let late = |what: &str| failed(format!("{what} took more than {} s", PATIENCE.as_secs()));
        let found = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(HTTPS_PORT)));
        let found = tokio::time::timeout(PATIENCE, found).await.map_err(|_| late("finding the host's addresses"))?;
        let addresses: Vec<_> = found.map_err(|error| failed(format!("cannot find {host}: {error}")))?.collect();
        let tried = reached(&addresses, PATIENCE, TcpStream::connect).await;
        let (peer, stream) = tried.map_err(|refused| failed(format!("cannot connect to {}", refused.join("; "))))?;
        let agreed = TlsConnector::from(tls).connect(name, stream);
        let agreed = tokio::time::timeout(PATIENCE, agreed).await.map_err(|_| late("the TLS handshake"))?;
        let agreed =
            agreed.map_err(|error| failed(format!("connected to {peer}, but TLS failed: {}", causes(&error))))?;
        let (_, connection) = agreed.get_ref();
        let group = connection.negotiated_key_exchange_group().map(|group| group.name());
        let certificate = connection.peer_certificates().and_then(|chain| Certificate::of(chain.first()?));
        Ok(Some(Handshake {
            peer: peer.to_string(),
            group: group.map_or_else(|| "unknown".to_owned(), |group| format!("{group:?}")),
            is_hybrid: group == Some(rustls::NamedGroup::X25519MLKEM768),
            certificate,
        }))
    }

    /// The documents to judge answers by: the newest that can be read, or else those that are known here, with the
    /// reason why no newer ones were read.
    pub async fn probe_documents(&self) -> (Option<Arc<ClusterView>>, Option<ClientError>) {
        match self.cluster().await {
            Ok(facts) => {
                let fewer = facts.whole().err();
                (Some(facts.view), fewer)
            }
            Err(error) => {
                // Those of an answer that does not hold prove themselves all the same.
                let held = self.held().trust.as_ref().map(|trust| Arc::clone(&trust.view));
                (held.or_else(|| self.kept_view().ok().flatten()), Some(error))
            }
        }
    }

    /// Asks an open route with GET.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn probe_open(&self, path: &str, query: &str, view: Option<&ClusterView>) -> Result<Look, ClientError> {
        let parts = RequestParts { method: "GET", path, query, ..EMPTY };
        self.probe(&parts, None, view).await
    }

    /// Signs and sends a GET with this challenge.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Sign`].
    pub async fn probe_signed(
        &self,
        path: &str,
        query: &str,
        challenge: Challenge,
        view: &ClusterView,
    ) -> Result<Look, ClientError> {
        let (digest, challenge_text) = (digest_header(b""), challenge.to_string());
        let audience = Audience::Cluster(view.id()).to_string();
        let parts = RequestParts {
            method: "GET",
            path,
            query,
            content_type: EMPTY_MEDIA_TYPE,
            content_digest: &digest,
            audience: &audience,
            challenge: &challenge_text,
        };
        let nonce = Nonce::new(challenge.minute(), draw(&mut SystemRng));
        let headers = sign_request(&parts, now_ms() / 1000, nonce, &**self.key()?).await?;
        self.probe(&parts, Some(&headers), Some(view)).await
    }

    async fn probe(
        &self,
        parts: &RequestParts<'_>,
        signed: Option<&SignatureHeaders>,
        view: Option<&ClusterView>,
    ) -> Result<Look, ClientError> {
        let headers = signed.map(|signed| {
            [
                ("content-type", parts.content_type),
                (CONTENT_DIGEST_HEADER, parts.content_digest),
                (AUDIENCE_HEADER, parts.audience),
                (CHALLENGE_HEADER, parts.challenge),
                (SIGNATURE_INPUT_HEADER, signed.signature_input.as_str()),
                (SIGNATURE_HEADER, signed.signature.as_str()),
            ]
        });
        let sent = Sent {
            method: parts.method,
            path: parts.path,
            query: parts.query,
            headers: headers.as_ref().map_or(&[], |headers| headers.as_slice()),
            body: Upload::empty(),
            limit: MAX_JSON_BYTES,
        };
        let failed = |cause: String| ClientError::Unreachable { address: self.0.address.to_string(), cause };
        let sent_ms = now_ms();
        let answered = tokio::time::timeout(PATIENCE, self.0.transport.exchange(sent)).await;
        let answered_ms = now_ms();
        let received = match answered {
            Ok(Ok(received)) => received,
            Ok(Err(ExchangeError::Network { cause, .. } | ExchangeError::Request(cause))) => return Err(failed(cause)),
            Ok(Err(ExchangeError::TooLarge)) => return Err(failed("the answer is larger than any".into())),
            Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        let judged = view.map_or(Judged::Unjudged, |view| judge(&received, parts, signed, view));
        Ok(look(parts, &received, judged, sent_ms, answered_ms))
    }
}

/// The first of these addresses that takes a connection, or what each of them said. One that says nothing takes its part of
/// the time from no other.
async fn reached<C, F: Future<Output = io::Result<C>>>(
    addresses: &[SocketAddr],
    patience: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(SocketAddr, C), Vec<String>> {
    let part = patience.checked_div(u32::try_from(addresses.len()).unwrap_or(u32::MAX)).unwrap_or(patience);
    let mut refused = Vec::new();
    for address in addresses {
        match tokio::time::timeout(part, connect(*address)).await {
            Ok(Ok(connection)) => return Ok((*address, connection)),
            Ok(Err(error)) => refused.push(format!("{address}: {error}")),
            Err(_) => refused.push(format!("{address}: no answer")),
        }
    }
    Err(refused)
}

/// What an open request has of a signed one.
const EMPTY: RequestParts<'static> = RequestParts {
    method: "GET",
    path: "",
    query: "",
    content_type: "",
    content_digest: "",
    audience: "",
    challenge: "",
};

fn look(parts: &RequestParts<'_>, received: &Received, judged: Judged, sent_ms: u64, answered_ms: u64) -> Look {
    let shown = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let added = received.headers.iter().filter(|(name, _)| !NODE_HEADERS.contains(&name.as_str()));
    let refusal = json::parse::<ErrorBody>(&received.body, MAX_JSON_BYTES).ok();
    let state: Option<State> = received.header(STATE_HEADER).and_then(|text| text.parse().ok());
    Look {
        path: parts.path.to_owned(),
        query: parts.query.to_owned(),
        status: received.status,
        media: received.headers.get("content-type").map(shown),
        foreign: added.map(|(name, value)| (name.as_str().to_owned(), shown(value))).collect(),
        body: received.body.clone(),
        refusal: refusal.and_then(|body| body.errors.into_iter().next()),
        judged,
        challenge: received.header(CHALLENGE_HEADER).and_then(|text| text.parse().ok()),
        alarms: state.map_or(0, |state| state.alarms),
        sent_ms,
        answered_ms,
    }
}

/// Verifies an answer, and if it does not hold, looks for the one change without which it would.
fn judge(
    received: &Received,
    parts: &RequestParts<'_>,
    signed: Option<&SignatureHeaders>,
    view: &ClusterView,
) -> Judged {
    let missing: Vec<_> = SIGNED_HEADERS.into_iter().filter(|name| received.header(name).is_none()).collect();
    if !missing.is_empty() {
        return Judged::Missing(missing);
    }
    let header = |name| received.header(name).unwrap_or_default();
    let headers = SignatureHeaders {
        signature_input: header(SIGNATURE_INPUT_HEADER).to_owned(),
        signature: header(SIGNATURE_HEADER).to_owned(),
    };
    let verify = |status: u16, content_type: &str, answered: &Answered<'_>| {
        let parts = ResponseParts {
            status,
            content_type,
            content_digest: header(CONTENT_DIGEST_HEADER),
            challenge: header(CHALLENGE_HEADER),
            state: header(STATE_HEADER),
        };
        verify_response(&parts, answered, &headers, |key| view.active_node(key))
    };
    let (status, media) = (received.status, header("content-type"));
    let RequestParts { method, path, query, .. } = *parts;
    let here = Answered::Open { method, path, query };
    let own = signed.map(|signed| Answered::Signed {
        request: *parts,
        signature_input: &signed.signature_input,
        signature: &signed.signature,
    });
    for (answered, open) in own.iter().map(|own| (own, false)).chain([(&here, true)]) {
        let holds = |status, media| verify(status, media, answered).is_ok();
        if holds(status, media) {
            let same = content_digest(&sha256(&[&received.body])) == header(CONTENT_DIGEST_HEADER);
            return if same { Judged::Whole { open } } else { Judged::Altered(Altered::Body) };
        }
        if let Some(was) = statuses().into_iter().find(|was| holds(*was, media)) {
            return Judged::Altered(Altered::Status(was));
        }
        let medias = [JSON_MEDIA_TYPE, AGE_MEDIA_TYPE, EMPTY_MEDIA_TYPE];
        if let Some(was) = medias.into_iter().find(|was| holds(status, was)) {
            return Judged::Altered(Altered::Media(was));
        }
    }
    if let Err(ResponseError::UnknownNode(key)) = verify(status, media, &here) {
        return Judged::Stranger(key);
    }
    let line = lines(path, query).into_iter().find(|(path, query)| {
        let answered = Answered::Open { method, path, query };
        verify(status, media, &answered).is_ok()
    });
    line.map_or(Judged::Unexplained, |(path, query)| Judged::Altered(Altered::Line { path, query }))
}

/// Every status that a node gives.
fn statuses() -> BTreeSet<u16> {
    Code::ALL.iter().map(|code| code.status()).chain([200, 501, 503]).collect()
}

/// What proxies are known to make of a path and a query: a prefix taken away or put before it again, a slash added,
/// letters made small, the query dropped.
fn lines(path: &str, query: &str) -> Vec<(String, String)> {
    let mut paths = vec![path.to_owned(), format!("{path}/"), format!("/{path}"), "/".to_owned(), path.to_lowercase()];
    let places: Vec<usize> = path.match_indices('/').map(|(place, _)| place).filter(|place| *place > 0).collect();
    for (front, rest) in places.iter().filter_map(|place| path.split_at_checked(*place)) {
        paths.extend([rest.to_owned(), format!("{front}{path}")]);
    }
    let queries = if query.is_empty() { vec![String::new()] } else { vec![query.to_owned(), String::new()] };
    paths.iter().flat_map(|path| queries.iter().map(|query| (path.clone(), query.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{World, world};
    use bulla_crypto::message::sign_response;
    use bulla_crypto::random::SeededRng;
    use bulla_crypto::sign::SigningKey;

    const BODY: &[u8] = b"{}";

    /// What a node answers to a GET of this path and query.
    fn answer(node: &SigningKey, path: &str, query: &str) -> Received {
        let digest = digest_header(BODY);
        let challenge = Challenge::new(Challenge::covered(0, 1, [0; 2], [0; 8]), [0; 16]).to_string();
        let state = "v1;0;-;-;doc=-;alarms=0";
        let parts = ResponseParts {
            status: 200,
            content_type: JSON_MEDIA_TYPE,
            content_digest: &digest,
            challenge: &challenge,
            state,
        };
        let signed = sign_response(&parts, &Answered::Open { method: "GET", path, query }, 1, node).unwrap();
        let mut headers = http::HeaderMap::new();
        for (name, value) in [
            ("content-type", JSON_MEDIA_TYPE),
            (CONTENT_DIGEST_HEADER, &digest),
            (CHALLENGE_HEADER, &challenge),
            (STATE_HEADER, state),
            (SIGNATURE_INPUT_HEADER, &signed.signature_input),
            (SIGNATURE_HEADER, &signed.signature),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        Received { status: 200, headers, body: Bytes::from_static(BODY) }
    }

    fn judged(world: &World, received: &Received, path: &str, query: &str) -> Judged {
        judge(received, &RequestParts { path, query, ..EMPTY }, None, &world.view)
    }

    #[test]
    fn each_change_on_the_way_is_named() {
        let world = world();
        let path = "/v1/health";
        let alter = |change: &dyn Fn(&mut Received)| {
            let mut received = answer(&world.node, path, "");
            change(&mut received);
            judged(&world, &received, path, "")
        };
        let set = |name: &'static str, value: &'static str| {
            move |received: &mut Received| drop(received.headers.insert(name, value.parse().unwrap()))
        };
        assert_eq!(alter(&|_| {}), Judged::Whole { open: true });
        let body = |received: &mut Received| received.body = Bytes::from_static(b"{ }");
        assert_eq!(alter(&body), Judged::Altered(Altered::Body));
        assert_eq!(alter(&|received| received.status = 203), Judged::Altered(Altered::Status(200)));
        let media = "application/json; charset=utf-8";
        assert_eq!(alter(&set("content-type", media)), Judged::Altered(Altered::Media(JSON_MEDIA_TYPE)));
        assert_eq!(alter(&set(STATE_HEADER, "v1;0;-;-;doc=-;alarms=1")), Judged::Unexplained);
        for name in SIGNED_HEADERS {
            let without = |received: &mut Received| drop(received.headers.remove(name));
            assert_eq!(alter(&without), Judged::Missing(vec![name]));
            let twice = |received: &mut Received| assert!(received.headers.append(name, "x".parse().unwrap()));
            assert_eq!(alter(&twice), Judged::Missing(vec![name]));
        }
    }

    #[test]
    fn the_line_that_the_node_saw_is_found() {
        let world = world();
        let seen = [
            ("/whoami", "a=1"),
            ("/v1/v1/whoami", "a=1"),
            ("/v1/whoami/", "a=1"),
            ("//v1/whoami", "a=1"),
            ("/v1/whoami", ""),
            ("/whoami", ""),
        ];
        for (path, query) in seen {
            let line = Altered::Line { path: path.to_owned(), query: query.to_owned() };
            let received = answer(&world.node, path, query);
            assert_eq!(judged(&world, &received, "/v1/whoami", "a=1"), Judged::Altered(line));
        }
        let elsewhere = answer(&world.node, "/other", "");
        assert_eq!(judged(&world, &elsewhere, "/v1/whoami", "a=1"), Judged::Unexplained);
    }

    /// The first address leads into nothing, as where IPv6 is half set up.
    #[tokio::test]
    async fn an_address_that_says_nothing_hides_no_other() {
        let [silent, closed, open] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let connect = move |address: SocketAddr| async move {
            match address {
                _ if address == silent => std::future::pending().await,
                _ if address == closed => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                _ => Ok(()),
            }
        };
        // How long is no matter: it is over at once, or never.
        let patience = Duration::from_millis(30);
        assert_eq!(reached(&[silent, closed, open], patience, connect).await, Ok((open, ())));
        let refused = reached(&[silent, closed], patience, connect).await.unwrap_err();
        assert_eq!(refused, ["127.0.0.1:1: no answer", "127.0.0.1:2: connection refused"]);
    }

    #[test]
    fn a_stranger_is_one() {
        let node = SigningKey::generate(&mut SeededRng::from_u64(5)).unwrap();
        let received = answer(&node, "/v1/health", "");
        let key = node.public_key().key_id();
        assert_eq!(judged(&world(), &received, "/v1/health", ""), Judged::Stranger(key));
    }

    #[test]
    fn headers_that_no_node_sends_are_shown() {
        let mut received = answer(&world().node, "/v1/health", "");
        for (name, value) in [("via", "1.1 front"), ("date", "today"), ("x-cache", "HIT")] {
            received.headers.insert(name, value.parse().unwrap());
        }
        let parts = RequestParts { path: "/v1/health", ..EMPTY };
        let look = look(&parts, &received, Judged::Unjudged, 0, 0);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(look.foreign, [pair("via", "1.1 front"), pair("x-cache", "HIT")]);
    }
}
