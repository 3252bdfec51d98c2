//! Requests by hand, for what a client would never send, and a look at what a server inside the test holds.

use crate::tls;
use crate::world::{Person, World};
use bulla_core::record::{Answer, Read, SCAN_ENTRIES_MAX, StoreKey, Table};
use bulla_crypto::envelope;
use bulla_crypto::evidence::{self, ClusterView};
use bulla_crypto::identity::Identity;
use bulla_crypto::message::{SignatureHeaders, digest_header, ingress_line, verify_response};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::share::{self, ShareOf};
use bulla_crypto::sign::PublicKey;
use bulla_server::node::Phase;
use bulla_server::route::{RequestBody, Route};
use bulla_server::unsealed::Unsealed;
use bulla_wire::api;
use bulla_wire::challenge::Challenge;
use bulla_wire::error::{Code, ErrorBody, ErrorEntry};
use bulla_wire::evidence::{self as wire, GenesisApproval};
use bulla_wire::id::Nonce;
use bulla_wire::json::{self, MAX_JSON_BYTES, V1};
use bulla_wire::signature::{
    AUDIENCE_HEADER, Answered, Audience, CALLER_HEADER, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, EMPTY_MEDIA_TYPE,
    JSON_MEDIA_TYPE, NONCE_HEADER, RequestParameters, RequestParts, ResponseParts, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER, STATE_HEADER, signature,
};
use bulla_wire::state::State;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A request exactly as it goes over the wire.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET` and so on; anything at all.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Without the question mark.
    pub query: String,
    /// In the order in which they are sent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Puts another value in the place of a header's.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        self.headers.iter_mut().filter(|(given, _)| given == name).for_each(|(_, old)| old.clone_from(&value));
    }

    /// The request for hyper; `None` if it is no HTTP at all.
    pub fn http(&self, authority: Option<&str>) -> Option<http::Request<Full<Bytes>>> {
        let target = if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) };
        let target = authority.map_or_else(|| target.clone(), |authority| format!("https://{authority}{target}"));
        let mut request = http::Request::builder().method(self.method.as_str()).uri(target);
        if authority.is_none() {
            request = request.header("host", "localhost");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone().into())).ok()
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The errors; none if it is no error.
    pub fn error(&self) -> Option<ErrorEntry> {
        json::parse::<ErrorBody>(&self.body, MAX_JSON_BYTES).ok().map(|mut body| body.errors.remove(0))
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<Code> {
        self.error().map(|error| error.code)
    }

    /// The challenge that came with it.
    pub fn challenge(&self) -> Challenge {
        self.header(CHALLENGE_HEADER).parse().unwrap()
    }

    /// Where the cluster says it stands.
    pub fn state(&self) -> State {
        self.header(STATE_HEADER).parse().unwrap()
    }

    /// Whether it answers a request whose signature was valid.
    pub fn to_signed(&self) -> bool {
        self.header(SIGNATURE_INPUT_HEADER).ends_with("tag=\"bulla-res-v1\"")
    }

    /// Whether it answers a request whose caller was known by a client certificate.
    pub fn to_certificate(&self) -> bool {
        self.header(SIGNATURE_INPUT_HEADER).ends_with("tag=\"bulla-res-mtls-v1\"")
    }

    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        json::parse(&self.body, 8 * MAX_JSON_BYTES)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Takes a success only.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// Takes only a refusal of this kind, which a node of ours signed.
    #[track_caller]
    pub fn refused(self, code: Code) -> Self {
        assert_eq!(self.code(), Some(code), "{} {}", self.status, String::from_utf8_lossy(&self.body));
        assert_eq!(self.status, code.status());
        self
    }

    /// Checks the node's signature over this answer to `request`.
    pub fn verify(&self, request: &Request, node: &PublicKey) {
        for name in [CONTENT_DIGEST_HEADER, CHALLENGE_HEADER, STATE_HEADER, SIGNATURE_INPUT_HEADER, SIGNATURE_HEADER] {
            assert_eq!(self.headers.get_all(name).iter().count(), 1, "{name} of {self:?}");
        }
        assert_eq!(self.headers.get_all(CALLER_HEADER).iter().count(), usize::from(self.to_certificate()), "{self:?}");
        assert_eq!(self.header(CONTENT_DIGEST_HEADER), digest_header(&self.body));
        let parts = ResponseParts {
            status: self.status,
            content_type: self.header("content-type"),
            content_digest: self.header(CONTENT_DIGEST_HEADER),
            challenge: self.header(CHALLENGE_HEADER),
            state: self.header(STATE_HEADER),
        };
        let answered = if self.to_signed() {
            Answered::Signed {
                request: RequestParts {
                    method: &request.method,
                    path: &request.path,
                    query: &request.query,
                    content_type: request.header("content-type"),
                    content_digest: request.header(CONTENT_DIGEST_HEADER),
                    audience: request.header(AUDIENCE_HEADER),
                    challenge: request.header(CHALLENGE_HEADER),
                },
                signature_input: request.header(SIGNATURE_INPUT_HEADER),
                signature: request.header(SIGNATURE_HEADER),
            }
        } else if self.to_certificate() {
            Answered::Connection {
                method: &request.method,
                path: &request.path,
                query: &request.query,
                caller: self.header(CALLER_HEADER).parse().unwrap(),
                nonce: Some(request.header(NONCE_HEADER)).filter(|text| !text.is_empty()).map(|t| t.parse().unwrap()),
            }
        } else {
            Answered::Open { method: &request.method, path: &request.path, query: &request.query }
        };
        let headers = SignatureHeaders {
            signature_input: self.header(SIGNATURE_INPUT_HEADER).to_owned(),
            signature: self.header(SIGNATURE_HEADER).to_owned(),
        };
        let verified = verify_response(&parts, &answered, &headers, |key| (*key == node.key_id()).then_some(node));
        verified.unwrap_or_else(|error| panic!("{error} in {self:?} to {request:?}"));
    }
}

/// A connection over HTTP/1.1 that is made again when the server ends it.
pub struct Wire {
    address: SocketAddr,
    shown: Option<tls::Shown>,
    /// How many connections were made.
    pub made: usize,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Wire {
    /// No connection yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, shown: None, made: 0, sender: None }
    }

    /// No connection yet; each will show this certificate.
    pub fn showing(address: SocketAddr, shown: tls::Shown) -> Self {
        Self { shown: Some(shown), ..Self::new(address) }
    }

    /// Sends a request and reads the answer.
    pub async fn send(&mut self, request: &Request) -> Reply {
        for _ in 0..2 {
            if self.sender.as_ref().is_none_or(http1::SendRequest::is_closed) {
                let config = tls::client("http/1.1", self.shown.clone());
                let stream = TokioIo::new(tls::try_connect(self.address, config).await.unwrap());
                self.made += 1;
                let (sender, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                self.sender = Some(sender);
            }
            let sender = self.sender.as_mut().unwrap();
            let http = request.http(None).unwrap_or_else(|| panic!("no HTTP: {request:?}"));
            match sender.send_request(http).await {
                Ok(response) => return read(response).await,
                // It was never sent: the connection had ended meanwhile.
                Err(error) if error.is_canceled() || error.is_closed() => self.sender = None,
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("the server ends every connection");
    }
}

/// Sends only the head of a request, which announces its body, and gives the status of the answer.
pub async fn announce(address: SocketAddr, request: &Request) -> u16 {
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    let mut head = format!("{} {}{query} HTTP/1.1\r\nhost: x\r\n", request.method, request.path);
    head.push_str(&format!("content-length: {}\r\n", request.body.len()));
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = tls::connect(address, "http/1.1").await;
    stream.write_all((head + "\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut answer));
    read.await.expect("an answer without the body").unwrap();
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

/// Reads an answer.
pub async fn read(response: http::Response<hyper::body::Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}

/// A connection over HTTP/2, for many requests at once.
pub type Http2 = http2::SendRequest<Full<Bytes>>;

/// Makes one.
pub async fn h2(address: SocketAddr) -> Http2 {
    let stream = TokioIo::new(tls::connect(address, "h2").await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Somebody who signs by hand.
pub struct Caller {
    /// The connection.
    pub wire: Wire,
    /// The key that signs.
    pub key: Arc<Identity>,
    /// Whom the requests are for.
    pub audience: String,
    /// Checks answers.
    pub node: PublicKey,
    /// The newest that an answer brought.
    pub challenge: Challenge,
}

impl Caller {
    /// Somebody who knows the cluster.
    pub async fn new(world: &World, person: &Person) -> Self {
        Self::of(world, person.identity.clone(), Audience::Cluster(world.cluster)).await
    }

    /// Somebody who means this audience.
    pub async fn of(world: &World, key: Arc<Identity>, audience: Audience) -> Self {
        let node = world.server().node.parts.key.public_key().clone();
        let mut wire = Wire::new(world.server().ready.address);
        let request = open("POST", "/v1/challenge");
        let reply = wire.send(&request).await.ok();
        reply.verify(&request, &node);
        let challenge = reply.challenge();
        Self { wire, key, audience: audience.to_string(), node, challenge }
    }

    /// A nonce of the present minute.
    pub fn nonce(&self) -> Nonce {
        let minute = u32::try_from(self.challenge.issued_ms() / 60_000).unwrap();
        Nonce::new(minute, draw(&mut SystemRng))
    }

    /// A signed request. `target` may have a query.
    pub fn request(&self, method: &str, target: &str, media: &str, body: Vec<u8>, nonce: Nonce) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: vec![("content-type".to_owned(), media.to_owned())],
            body,
        };
        self.sign(request, nonce)
    }

    /// Signs a request anew, with the present challenge.
    pub fn sign(&self, request: Request, nonce: Nonce) -> Request {
        sign(&self.key, &self.audience, &self.challenge, request, nonce)
    }

    /// Sends a request, checks the node's signature under the answer, and keeps its challenge.
    pub async fn send(&mut self, request: &Request) -> Reply {
        let reply = self.wire.send(request).await;
        reply.verify(request, &self.node);
        self.challenge = reply.challenge();
        reply
    }

    /// A request without a body.
    pub async fn call(&mut self, method: &str, target: &str) -> Reply {
        let request = self.request(method, target, EMPTY_MEDIA_TYPE, vec![], self.nonce());
        self.send(&request).await
    }

    /// A request with JSON.
    pub async fn call_json<T: serde::Serialize>(&mut self, method: &str, target: &str, body: &T) -> Reply {
        let request = self.request(method, target, JSON_MEDIA_TYPE, json::to_vec(body), self.nonce());
        self.send(&request).await
    }

    /// A signed request to a route, its body encrypted if the route wants that.
    pub fn of_route(&self, world: &World, route: &Route, target: &str, body: Vec<u8>) -> Request {
        let nonce = self.nonce();
        let body = match route.request {
            RequestBody::Age { .. } => self.ingress(world, route.method, target, &nonce, &body),
            _ => body,
        };
        self.request(route.method, target, route.request.media_type(), body, nonce)
    }

    /// What an encrypted body must be for this request.
    pub fn ingress(&self, world: &World, method: &str, path: &str, nonce: &Nonce, body: &[u8]) -> Vec<u8> {
        ingress(&view(world), &self.key, method, path, nonce, body)
    }
}

/// Signs a request, in the place of any signature that it has.
pub fn sign(key: &Identity, audience: &str, challenge: &Challenge, mut request: Request, nonce: Nonce) -> Request {
    let media = request.header("content-type").to_owned();
    let digest = digest_header(&request.body);
    let key = key.signing_key().unwrap();
    let parameters = RequestParameters {
        created_s: challenge.issued_ms() / 1000,
        nonce,
        key: key.public_key().key_id(),
        algorithm: key.public_key().algorithm().name().to_owned(),
    };
    let challenge = challenge.to_string();
    let base = parameters.signature_base(&RequestParts {
        method: &request.method,
        path: &request.path,
        query: &request.query,
        content_type: &media,
        content_digest: &digest,
        audience,
        challenge: &challenge,
    });
    let signed = key.sign(base.as_bytes()).unwrap();
    request.headers = [
        ("content-type", media),
        (CONTENT_DIGEST_HEADER, digest),
        (AUDIENCE_HEADER, audience.to_owned()),
        (CHALLENGE_HEADER, challenge),
        (SIGNATURE_INPUT_HEADER, parameters.header()),
        (SIGNATURE_HEADER, signature(&signed)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    request
}

/// What an encrypted body must be for a request without a query.
pub fn ingress(view: &ClusterView, key: &Identity, method: &str, path: &str, nonce: &Nonce, body: &[u8]) -> Vec<u8> {
    let key = key.signing_key().unwrap().public_key().key_id();
    let mut plaintext = ingress_line(&view.id(), &key, method, path, "", nonce).into_bytes();
    plaintext.extend_from_slice(body);
    envelope::seal(std::slice::from_ref(view.newest().ingress()), None, &plaintext).unwrap()
}

/// An admin's share for a session, as the admin's client makes it.
pub fn share(
    view: &ClusterView,
    admin: &Person,
    session: &api::UnsealSession,
    key: &api::EncryptedShareKey,
) -> api::GiveShare {
    let document = view.newest();
    let me = document.admin_by_key(&admin.identity.signing_key().unwrap().public_key().key_id()).unwrap();
    let context = share::context(&ShareOf {
        cluster: view.id(),
        epoch: session.epoch,
        index: key.index,
        k: document.body().k,
        n: u8::try_from(document.body().admins.len()).unwrap(),
        principal: me.principal(),
    });
    let plaintext = share::open_in_memory(&admin.identity, &key.file.0, share::MESSAGE_BYTES).unwrap();
    let share_key = context.check_key_plaintext(plaintext.expose()).unwrap();
    let answer = context.give_plaintext(&session.id, &share_key);
    let file = envelope::seal(&[session.recipient.parse().unwrap()], None, answer.expose()).unwrap();
    let payload = GenesisApproval { v: V1, cluster: view.id() };
    let approve = || evidence::sign_in_memory(&payload, &[admin.identity.signing_key().unwrap()]).unwrap();
    let is_founder = view.genesis().admins().any(|founder| founder.principal() == me.principal());
    api::GiveShare { index: key.index, file: wire::Bytes(file), approval: is_founder.then(approve) }
}

/// An unsigned request.
pub fn open(method: &str, target: &str) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request { method: method.into(), path: path.into(), query: query.into(), headers: vec![], body: vec![] }
}

/// The keys of an unsealed world.
pub fn unsealed(world: &World) -> Arc<Unsealed> {
    match world.server().node.phase() {
        Phase::Unsealed(unsealed) => unsealed,
        other => panic!("not unsealed: {other:?}"),
    }
}

/// The cluster's documents.
pub fn view(world: &World) -> ClusterView {
    match world.server().node.phase() {
        Phase::Unsealed(unsealed) => unsealed.directory().view().clone(),
        Phase::Sealed(sealed) => sealed.view.clone(),
        Phase::Uninitialised => panic!("no cluster"),
    }
}

/// Every row of the store but the head, which tells of the audit log's position.
pub async fn rows(world: &World) -> BTreeMap<(String, Vec<u8>), Vec<u8>> {
    let store = &world.server().node.parts.store;
    let minute = u32::try_from(world.server().node.now_ms() / 60_000).unwrap();
    let buckets = (minute.saturating_sub(8)..=minute + 1).map(Table::Seen);
    let mut rows = BTreeMap::new();
    for table in [Table::Plain, Table::Data].into_iter().chain(buckets) {
        let mut after: Option<StoreKey> = None;
        loop {
            let scan = Read::Scan { table, prefix: vec![], after: after.take(), limit: SCAN_ENTRIES_MAX };
            let mut answers = store.read(vec![scan]).await.unwrap().answers;
            let page = answers.pop().and_then(Answer::into_page).unwrap();
            for (key, value) in &page.entries {
                if table == Table::Plain && *key == StoreKey::head() {
                    continue;
                }
                rows.insert((format!("{table:?}"), key.as_bytes().to_vec()), value.as_bytes().to_vec());
            }
            after = page.entries.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
    }
    rows
}
