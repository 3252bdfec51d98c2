//! The gate: every request goes through here, in one order, cheap checks first.
//!
//! sizes → route → template → audience → challenge → key and signature → body → nonce → policy → audit → effect.
//! Up to the signature, what is refused is only counted, and the answer is of the open profile; from there on each
//! request has one audit line, and no effect happens without a place for it.

mod headers;

pub use headers::{Headers, body_refusal};

use crate::dispatch::bad_query;
use crate::listen::body::BODY_TIMEOUT;
use crate::listen::{Arrived, Failed, Handler, Peer, ReadBody, Unread, read_body};
use crate::node::{Node, Phase};
use crate::open;
use crate::reply::{Answer, RequestLine, internal, sign};
use crate::route::{self, Auth, Matched, Query, RequestBody};
use crate::sealed;
use crate::serve;
use bulla_core::audit::{Address, Facts, Method, RequestId};
use bulla_core::operation::Refusal;
use bulla_core::policy::Subject;
use bulla_crypto::BoxFuture;
use bulla_crypto::digest::equal;
use bulla_crypto::message::{request_digest, seen_key, verify_request};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::sign::PublicKey;
use bulla_wire::challenge::Challenge;
use bulla_wire::error::Code;
use bulla_wire::evidence::Actor;
use bulla_wire::id::{Digest, KeyId};
use bulla_wire::signature::{
    AUDIENCE_HEADER, Answered, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, RequestParameters, RequestParts,
    parse_content_digest, parse_signature,
};
use bytes::Bytes;
use headers::{anonymous, header_size, no_route, signed_headers, template};
use http::{HeaderMap, Response};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The handler of every listener.
pub struct Gate {
    /// The node.
    pub node: Arc<Node>,
}

/// A request whose signature was valid.
#[derive(Debug)]
pub struct Verified {
    /// The request line.
    pub line: RequestLine,
    /// The signed headers.
    pub headers: Headers,
    /// What `Signature-Input` says.
    pub parameters: RequestParameters,
    /// The digest that the body must have.
    pub digest: [u8; 32],
    /// Who signed.
    pub subject: Subject,
    /// Where secret replies to this key go.
    pub recipients: Vec<Recipient>,
    /// Who and from where, for receipts.
    pub actor: Actor,
    /// The same for the audit line.
    pub address: Address,
    /// The request's id.
    pub id: RequestId,
    /// When it arrived, Unix milliseconds.
    pub received_ms: u64,
}

impl Verified {
    /// What the signature covers.
    pub fn parts(&self) -> RequestParts<'_> {
        parts(&self.line, &self.headers)
    }

    /// What the audit line tells in any case.
    pub fn facts(&self, node: &Node, phase: &Phase) -> Facts {
        let (epoch, lineage) = match phase {
            Phase::Uninitialised => (0, None),
            Phase::Sealed(sealed) => (sealed.stored.config().epoch, None),
            Phase::Unsealed(unsealed) => (unsealed.epoch, Some(unsealed.lineage)),
        };
        Facts {
            id: self.id,
            received_ms: self.received_ms,
            node: node.id(),
            epoch,
            lineage,
            key: self.parameters.key,
            address: self.address,
            method: Method::new(&self.line.method),
        }
    }
}

fn parts<'a>(line: &'a RequestLine, headers: &'a Headers) -> RequestParts<'a> {
    RequestParts {
        method: &line.method,
        path: &line.path,
        query: &line.query,
        content_type: &headers.content_type,
        content_digest: &headers.content_digest,
        audience: &headers.audience,
        challenge: &headers.challenge,
    }
}

/// Who holds a key, as the phase knows it.
pub struct Holder {
    /// Verifies the signature.
    pub key: PublicKey,
    /// Who it is.
    pub subject: Subject,
    /// Where secret replies go.
    pub recipients: Vec<Recipient>,
}

impl Handler for Gate {
    fn handle(&self, arrived: Arrived) -> BoxFuture<'_, Response<Bytes>> {
        Box::pin(self.answer(arrived))
    }

    fn failed(&self, request: Failed) -> Response<Bytes> {
        let Failed { method, uri, peer } = request;
        let line = RequestLine::of(&method, &uri);
        let answer = anonymous(&internal(&"a request's handler panicked", "-"));
        self.node.parts.sink.anonymous("none", answer.code, address_of(peer));
        self.node.parts.metrics.request_answered("none", "none", answer.status, Duration::ZERO);
        sign(&self.node, &self.node.phase(), &open_profile(&line), answer)
    }
}

impl Gate {
    async fn answer(&self, arrived: Arrived) -> Response<Bytes> {
        let began = Instant::now();
        let Arrived { head, peer, body } = arrived;
        let line = RequestLine::of(&head.method, &head.uri);
        let phase = self.node.phase();
        let found = route::find(head.method.as_str(), &line.path);
        let (method, template) =
            found.as_ref().map_or(("none", "none"), |matched| (matched.route.method, matched.route.template));
        let sizes = header_size(&head.headers).map_err(|e| anonymous(&e));
        let outcome = match sizes.and_then(|()| found.map_err(|e| no_route(&e))) {
            Err(answer) => Err(answer),
            Ok(matched) if matched.route.auth == Auth::Open => self.open(&phase, &matched, &line, peer),
            Ok(matched) => self.signed(&phase, matched, &line, &head.headers, peer, body).await,
        };
        // Unsealing and sealing change the phase under way: challenge and state are those of now.
        let phase_now = self.node.phase();
        let (status, response) = match outcome {
            Ok((answer, Some(verified))) => {
                let answered = Answered::Signed {
                    request: verified.parts(),
                    signature_input: &verified.headers.signature_input,
                    signature: &verified.headers.signature,
                };
                (answer.status, sign(&self.node, &phase_now, &answered, answer))
            }
            Ok((answer, None)) => (answer.status, sign(&self.node, &phase_now, &open_profile(&line), answer)),
            Err(answer) => {
                let address = address_of(peer);
                self.node.parts.sink.anonymous(template, answer.code, address);
                if let Some(code) = answer.code {
                    self.node.parts.metrics.request_refused(code);
                }
                (answer.status, sign(&self.node, &phase_now, &open_profile(&line), answer))
            }
        };
        self.node.parts.metrics.request_answered(method, template, status, began.elapsed());
        response
    }

    fn open(
        &self,
        phase: &Phase,
        matched: &Matched<'_>,
        line: &RequestLine,
        peer: Peer,
    ) -> Result<(Answer, Option<Verified>), Answer> {
        let query = Query::parse(&line.query, matched.route.query).map_err(|e| anonymous(&bad_query(&e)))?;
        let answer = open::answer(&self.node, phase, matched.route.endpoint, &query).map_err(|e| anonymous(&e))?;
        self.node.parts.sink.anonymous(matched.route.template, answer.code, address_of(peer));
        Ok((answer, None))
    }

    async fn signed(
        &self,
        phase: &Phase,
        matched: Matched<'_>,
        line: &RequestLine,
        headers: &HeaderMap,
        peer: Peer,
        body: Unread,
    ) -> Result<(Answer, Option<Verified>), Answer> {
        let headers = signed_headers(headers).map_err(|e| anonymous(&e))?;
        if headers.content_type != matched.route.request.media_type() {
            let refusal =
                Refusal::new(Code::WrongMediaType, format!("this route takes {}", matched.route.request.media_type()));
            let refusal = refusal.field("content-type").hint("send the body in that form, and say so");
            return Err(anonymous(&refusal));
        }
        // Whoever makes a cluster speaks to the node, also again when its answer was lost.
        let addressed: &[&Phase] =
            if matched.route.auth == Auth::Init { &[phase, &Phase::Uninitialised] } else { &[phase] };
        let checked = self.check(addressed, line, headers, peer).map_err(|e| anonymous(&e))?;
        if matched.route.auth == Auth::Init {
            // Nothing of a stranger's body is read: it would cost memory, and each record in it a signature check.
            let (nonce, request) = (checked.nonce_key(), checked.request());
            if self.node.init_again(&nonce, &request).is_none() {
                sealed::may_init(&self.node, phase, &checked.parameters.key, peer).map_err(|e| anonymous(&e))?;
            }
            return self.init(phase, matched, checked, body).await;
        }
        let holder = match phase {
            Phase::Uninitialised => {
                let refusal = Refusal::new(Code::Uninitialised, "there is no cluster yet");
                return Err(anonymous(&refusal.hint("`bulla init` makes one")));
            }
            Phase::Sealed(_) if matched.route.auth != Auth::Sealed && !sealed::also_takes(matched.route.endpoint) => {
                let refusal = Refusal::new(Code::Sealed, "the cluster is sealed");
                return Err(anonymous(&refusal.hint("its admins open it with `bulla unseal`")));
            }
            Phase::Sealed(sealed) => sealed::holder(sealed, &checked.parameters.key),
            Phase::Unsealed(unsealed) => serve::holder(unsealed, &checked.parameters.key, matched.route.action),
        };
        let verified = checked.verify(holder).map_err(|e| anonymous(&e))?;
        let read = self.body(&verified, matched.route.request, body).await;
        let (body, _held) = match read.map(ReadBody::into_parts) {
            Ok((bytes, held)) => (Ok(bytes), Some(held)),
            Err(refusal) => (Err(refusal), None),
        };
        let answer = match phase {
            Phase::Sealed(sealed) => sealed::answer(&self.node, sealed, &verified, &matched, body).await,
            Phase::Unsealed(unsealed) => serve::answer(&self.node, unsealed, &verified, matched, body).await,
            Phase::Uninitialised => {
                return Err(anonymous(&Refusal::new(Code::Uninitialised, "there is no cluster yet")));
            }
        };
        Ok((answer, Some(verified)))
    }

    /// Init is signed by a key that only its own body tells, so the body is read before the signature is checked.
    async fn init(
        &self,
        phase: &Phase,
        matched: Matched<'_>,
        checked: Checked,
        body: Unread,
    ) -> Result<(Answer, Option<Verified>), Answer> {
        let read = read_body(body, matched.route.request.max_bytes(), &self.node.parts.bodies, BODY_TIMEOUT).await;
        let read = read.map_err(|e| anonymous(&body_refusal(&e)))?;
        let (init, holder) = sealed::init_holder(&read.bytes, &checked.parameters.key).map_err(|e| anonymous(&e))?;
        let verified = checked.verify(holder).map_err(|e| anonymous(&e))?;
        let answer = match digest_fits(&verified, read) {
            Ok(_) => sealed::init(&self.node, phase, &verified, &init).await,
            Err(refusal) => sealed::refuse(&self.node, phase, &verified, matched.route.action, &refusal).await,
        };
        Ok((answer, Some(verified)))
    }

    /// Template, audience and challenge, as the first of these phases would ask for them, or another.
    fn check(&self, phases: &[&Phase], line: &RequestLine, headers: Headers, peer: Peer) -> Result<Checked, Refusal> {
        let parameters = RequestParameters::parse(&headers.signature_input).map_err(|e| template(&e))?;
        let signature = parse_signature(&headers.signature).map_err(|e| template(&e))?;
        let digest = parse_content_digest(&headers.content_digest).map_err(|e| template(&e))?;
        let audiences: Vec<_> = phases.iter().map(|phase| (*phase, phase.audience(&self.node))).collect();
        if !audiences.iter().any(|(_, audience)| headers.audience == audience.to_string()) {
            let own = audiences.first().map(|(_, audience)| audience.to_string()).unwrap_or_default();
            let refusal = Refusal::new(Code::WrongAudience, format!("this is {own}")).field(AUDIENCE_HEADER);
            return Err(refusal.hint("check the context's cluster; `bulla context add` pins it"));
        }
        let stale = |detail: &dyn std::fmt::Display| {
            let refusal = Refusal::new(Code::StaleChallenge, detail.to_string()).field(CHALLENGE_HEADER);
            refusal.hint("sign again with the challenge of this response and the same nonce")
        };
        let challenge: Challenge =
            headers.challenge.parse().map_err(|e: bulla_wire::challenge::ParseChallengeError| stale(&e))?;
        let now_ms = self.node.now_ms();
        // A challenge is of the phase that gave it out.
        let mut checks =
            audiences.iter().map(|(phase, own)| phase.challenge_key(&self.node).check(&challenge, own, now_ms));
        let first = checks.next().unwrap_or(Ok(()));
        if let Err(error) = first
            && !checks.any(|other| other.is_ok())
        {
            return Err(stale(&error));
        }
        Ok(Checked { line: line.clone(), headers, parameters, signature, digest, address: address_of(peer), now_ms })
    }

    /// Reads the body. Its share of the memory for bodies is kept until the request has ended.
    async fn body(&self, verified: &Verified, kind: RequestBody, body: Unread) -> Result<ReadBody, Refusal> {
        let read = read_body(body, kind.max_bytes(), &self.node.parts.bodies, BODY_TIMEOUT).await;
        digest_fits(verified, read.map_err(|e| body_refusal(&e))?)
    }
}

fn digest_fits(verified: &Verified, read: ReadBody) -> Result<ReadBody, Refusal> {
    if equal(&read.sha256, &verified.digest) {
        return Ok(read);
    }
    Err(Refusal::new(Code::DigestMismatch, "the body has not the digest that its header tells")
        .field(CONTENT_DIGEST_HEADER)
        .hint("sign the digest of the bytes that are sent; something between may have changed them"))
}

/// A request that waits for its key.
struct Checked {
    line: RequestLine,
    headers: Headers,
    parameters: RequestParameters,
    signature: Vec<u8>,
    digest: [u8; 32],
    address: Address,
    now_ms: u64,
}

impl Checked {
    /// Under which the nonce is remembered.
    fn nonce_key(&self) -> Digest {
        seen_key(&self.parameters.key, &self.parameters.nonce)
    }

    /// Digest of the request.
    fn request(&self) -> Digest {
        request_digest(&parts(&self.line, &self.headers))
    }

    /// Verifies the signature; the same work and the same words whether the key is unknown or the signature bad.
    fn verify(self, holder: Option<Holder>) -> Result<Verified, Refusal> {
        let key = holder.as_ref().map(|holder| &holder.key);
        let valid = verify_request(&parts(&self.line, &self.headers), &self.parameters, &self.signature, key);
        let (Ok(()), Some(Holder { subject, recipients, .. })) = (valid, holder) else {
            let refusal =
                Refusal::new(Code::Unauthenticated, "the key is not known here, or the signature is not its own");
            return Err(refusal.hint("ask an enroller whether your key is admitted and enabled"));
        };
        let Self { line, headers, parameters, signature: _, digest, address, now_ms } = self;
        let address_text = match address {
            Address::Ip(ip) => Some(ip.to_string()),
            _ => None,
        };
        let actor = Actor { principal: subject.id, key: parameters.key, address: address_text };
        let id = RequestId::new(draw(&mut SystemRng));
        Ok(Verified { line, headers, parameters, digest, subject, recipients, actor, address, id, received_ms: now_ms })
    }
}

/// The address of a peer, for audit.
pub fn address_of(peer: Peer) -> Address {
    match peer {
        Peer::Network(ip) => Address::Ip(ip),
        Peer::Local { .. } => Address::Local,
    }
}

fn open_profile(line: &RequestLine) -> Answered<'_> {
    Answered::Open { method: &line.method, path: &line.path, query: &line.query }
}

/// The key ids of records, for a configured list of admins.
pub fn key_ids<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> Vec<KeyId> {
    keys.into_iter().map(PublicKey::key_id).collect()
}
