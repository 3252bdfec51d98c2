//! The gate: every request goes through here, in one order, cheap checks first.
//!
//! sizes → route → template → audience → challenge → key and signature → body → nonce → policy → audit → effect.
//! Over a connection with a client certificate a request without a signature goes the same way without challenge and
//! signature, where the route takes it: the handshake was both. Up to the key, what is refused is only counted, and the answer is of the open profile; from there on each
//! request has one audit line, and no effect happens without a place for it.

mod headers;
mod mtls;
mod shares;

pub use headers::{Headers, body_refusal};
pub use shares::Share;

use crate::dispatch::bad_query;
use crate::drive::ROOMLESS_BYTES;
use crate::listen::body::BODY_TIMEOUT;
use crate::listen::{Arrived, BodyBudget, Failed, Handler, Peer, ReadBody, Standing, Unread, read_body};
use crate::node::{Node, Phase};
use crate::open;
use crate::reply::{Answer, RequestLine, internal, sign};
use crate::route::{self, Auth, Matched, Query, RequestBody, Route};
use crate::sealed;
use crate::serve;
use bulla_core::audit::{Address, Facts, Method, RequestId};
use bulla_core::operation::Refusal;
use bulla_core::policy::Subject;
use bulla_crypto::BoxFuture;
use bulla_crypto::digest::equal;
use bulla_crypto::message::{request_digest, seen_key, verify_request};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::sign::PublicKey;
use bulla_wire::challenge::Challenge;
use bulla_wire::error::Code;
use bulla_wire::evidence::Actor;
use bulla_wire::id::{Digest, KeyId, Nonce};
use bulla_wire::signature::{
    Answered, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, RequestParameters, RequestParts, content_digest,
    parse_content_digest, parse_signature,
};
use bytes::Bytes;
use headers::{
    anonymous, header_size, media_type, no_route, signed_headers, template, unauthenticated, uninitialised,
    wrong_audience,
};
use http::{HeaderMap, Response};
use shares::{REQUESTS_EACH, Shares, TooMany};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The handler of every listener.
pub struct Gate {
    node: Arc<Node>,
    shares: Arc<Shares>,
}

/// What proves that a request comes from its key.
#[derive(Debug)]
pub enum Proof {
    /// The request's signature, with the headers that nothing else needs.
    Signature {
        /// `Bulla-Audience`
        audience: String,
        /// `Bulla-Challenge`
        challenge: String,
        /// `Signature-Input`
        signature_input: String,
        /// `Signature`
        signature: String,
    },
    /// The certificate of the connection.
    Connection {
        /// `Bulla-Nonce`, if it was there.
        nonce: Option<Nonce>,
    },
}

/// What a request says, whoever sent it.
#[derive(Debug)]
pub struct Asked {
    /// The request line.
    pub line: RequestLine,
    /// `Content-Type`
    pub content_type: String,
    /// `Content-Digest`; over mTLS it may be left out, and is then that of the body, once it was read.
    pub content_digest: Option<String>,
    /// Whose it is.
    pub key: KeyId,
    /// Its nonce. A read over mTLS may have none; then one was drawn, which nobody remembers.
    pub nonce: Nonce,
    /// What proves it.
    pub proof: Proof,
    /// Where it came from.
    pub address: Address,
    /// When it arrived, Unix milliseconds.
    pub received_ms: u64,
}

impl Asked {
    /// What a signature covers; what a digest of the request is made of, in any case.
    fn parts(&self) -> RequestParts<'_> {
        let (audience, challenge) = match &self.proof {
            Proof::Signature { audience, challenge, .. } => (audience.as_str(), challenge.as_str()),
            Proof::Connection { .. } => ("", ""),
        };
        RequestParts {
            method: &self.line.method,
            path: &self.line.path,
            query: &self.line.query,
            content_type: &self.content_type,
            content_digest: self.content_digest.as_deref().unwrap_or_default(),
            audience,
            challenge,
        }
    }

    /// Under which its nonce is remembered.
    pub fn seen_key(&self) -> Digest {
        seen_key(&self.key, &self.nonce)
    }

    /// What a second attempt must have in common with this one.
    pub fn digest(&self) -> Digest {
        request_digest(&self.parts())
    }

    /// Now it is known who sent it.
    fn by(self, holder: Holder) -> Verified {
        let Holder { subject, key: _ } = holder;
        let address = match self.address {
            Address::Ip(ip) => Some(ip.to_string()),
            _ => None,
        };
        let actor = Actor { principal: subject.id, key: self.key, address };
        Verified { asked: self, subject, actor, id: RequestId::new(draw(&mut SystemRng)) }
    }
}

/// A request that comes from whoever it says.
#[derive(Debug)]
pub struct Verified {
    /// What it says.
    pub asked: Asked,
    /// Who sent it.
    pub subject: Subject,
    /// Who and from where, for receipts.
    pub actor: Actor,
    /// The request's id.
    pub id: RequestId,
}

impl Verified {
    /// What the signature of the answer covers of it.
    fn answered(&self) -> Answered<'_> {
        let Asked { line: RequestLine { method, path, query }, key, proof, .. } = &self.asked;
        match proof {
            Proof::Signature { signature_input, signature, .. } => {
                Answered::Signed { request: self.asked.parts(), signature_input, signature }
            }
            Proof::Connection { nonce } => Answered::Connection { method, path, query, caller: *key, nonce: *nonce },
        }
    }

    /// What the audit line tells in any case.
    pub fn facts(&self, node: &Node, phase: &Phase) -> Facts {
        let (epoch, lineage) = match phase {
            Phase::Uninitialised => (0, None),
            Phase::Sealed(sealed) => (sealed.stored.config().epoch, None),
            Phase::Unsealed(unsealed) => (unsealed.keys.epoch, Some(unsealed.keys.lineage)),
        };
        Facts {
            id: self.id,
            received_ms: self.asked.received_ms,
            node: node.id(),
            epoch,
            lineage,
            key: self.asked.key,
            mtls: matches!(self.asked.proof, Proof::Connection { .. }),
            address: self.asked.address,
            method: Method::new(&self.asked.line.method),
        }
    }
}

/// Who holds a key, as the phase knows it.
pub struct Holder {
    /// Verifies the signature.
    pub key: PublicKey,
    /// Who it is.
    pub subject: Subject,
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

/// A request whose route is known.
struct Routed<'a> {
    phase: &'a Phase,
    matched: Matched<'a>,
    line: &'a RequestLine,
    headers: &'a HeaderMap,
    peer: Peer,
    /// Of the connection. It is proven as soon as it is known whose the request is: to read the body and to answer may take
    /// a minute, in which nobody else may have its place.
    standing: &'a Standing,
}

/// An answer, and the request if it is known whose it is.
type Outcome = Result<(Answer, Option<Verified>), Answer>;

impl Gate {
    /// Of this node.
    pub fn new(node: Arc<Node>) -> Self {
        let shares = Shares::new(&node.parts.bodies, node.parts.requests_per_s);
        Self { node, shares }
    }

    async fn answer(&self, arrived: Arrived) -> Response<Bytes> {
        let began = Instant::now();
        let Arrived { head, peer, certificate, standing, body } = arrived;
        let line = RequestLine::of(&head.method, &head.uri);
        let phase = self.node.phase();
        let found = route::find(head.method.as_str(), &line.path);
        let (method, template) =
            found.as_ref().map_or(("none", "none"), |matched| (matched.route.method, matched.route.template));
        let sizes = header_size(&head.headers).map_err(|e| anonymous(&e));
        let outcome = match sizes.and_then(|()| found.map_err(|e| no_route(&e))) {
            Err(answer) => Err(answer),
            Ok(matched) => {
                let (headers, standing) = (&head.headers, standing.as_ref());
                let routed = Routed { phase: &phase, matched, line: &line, headers, peer, standing };
                match certificate {
                    _ if routed.matched.route.auth == Auth::Open => self.open(&routed),
                    // Whoever signs is known by the signature, whatever it comes over.
                    Some(key) if !mtls::is_signed(&head.headers) => {
                        Box::pin(self.by_certificate(routed, key, body)).await
                    }
                    _ => Box::pin(self.signed(routed, body)).await,
                }
            }
        };
        // Unsealing and sealing change the phase under way: challenge and state are those of now.
        let phase_now = self.node.phase();
        let (status, response) = match outcome {
            Ok((answer, Some(verified))) => (answer.status, sign(&self.node, &phase_now, &verified.answered(), answer)),
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

    fn open(&self, routed: &Routed<'_>) -> Outcome {
        let Routed { phase, matched, line, peer, .. } = routed;
        let query = Query::parse(&line.query, matched.route.query).map_err(|e| anonymous(&bad_query(&e)))?;
        let answer = open::answer(&self.node, phase, matched.route.endpoint, &query).map_err(|e| anonymous(&e))?;
        let answer = if answer.body.len() <= ROOMLESS_BYTES {
            answer
        } else {
            let body = self.shares.afloat(answer.body).ok_or_else(|| anonymous(&unfetched()))?;
            Answer { body, ..answer }
        };
        self.node.parts.sink.anonymous(matched.route.template, answer.code, address_of(*peer));
        Ok((answer, None))
    }

    async fn signed(&self, routed: Routed<'_>, body: Unread) -> Outcome {
        let Routed { phase, matched, line, headers, peer, standing } = routed;
        let headers = signed_headers(headers).map_err(|e| anonymous(&e))?;
        media_type(&headers.content_type, matched.route.request).map_err(|e| anonymous(&e))?;
        // Whoever makes a cluster speaks to the node, also again when its answer was lost.
        let addressed: &[&Phase] =
            if matched.route.auth == Auth::Init { &[phase, &Phase::Uninitialised] } else { &[phase] };
        let checked = self.check(addressed, line, headers, peer).map_err(|e| anonymous(&e))?;
        if matched.route.auth == Auth::Init {
            // Nothing of a stranger's body is read: it would cost memory, and each record in it a signature check.
            let (nonce, request) = (checked.asked.seen_key(), checked.asked.digest());
            if self.node.init_again(&nonce, &request).is_none() {
                sealed::may_init(&self.node, phase, &checked.asked.key, peer).map_err(|e| anonymous(&e))?;
            }
            return self.init(phase, matched, checked, body, standing).await;
        }
        let holder = holder(phase, matched.route, &checked.asked.key).map_err(|e| anonymous(&e))?;
        let verified = checked.verify(holder).map_err(|e| anonymous(&e))?;
        standing.prove(verified.subject.id);
        self.serve(phase, matched, verified, body).await
    }

    /// The caller is known by the certificate of its connection, and the request is not signed.
    async fn by_certificate(&self, routed: Routed<'_>, key: KeyId, body: Unread) -> Outcome {
        let asked = mtls::check(&self.node, &routed, key).map_err(|e| anonymous(&e))?;
        let Routed { phase, matched, standing, .. } = routed;
        let holder = holder(phase, matched.route, &key).map_err(|e| anonymous(&e))?;
        let verified = asked.by(holder.ok_or_else(|| anonymous(&unauthenticated()))?);
        self.node.parts.metrics.known_by_certificate();
        standing.prove(verified.subject.id);
        self.serve(phase, matched, verified, body).await
    }

    /// Reads the body and answers.
    async fn serve(&self, phase: &Phase, matched: Matched<'_>, mut verified: Verified, body: Unread) -> Outcome {
        let share = self.shares.enter(verified.subject.id, Instant::now());
        let read = match &share {
            Ok(share) => self.body(&mut verified.asked, matched.route.request, body, &share.bodies).await,
            Err(many) => Err(too_many(*many)),
        };
        let (body, _held) = match read.map(ReadBody::into_parts) {
            Ok((bytes, held)) => (Ok(bytes), Some(held)),
            Err(refusal) => (Err(refusal), None),
        };
        let share = share.ok();
        let bodies = share.as_ref().map_or(&self.node.parts.bodies, |share| &share.bodies);
        let answer = match phase {
            Phase::Sealed(sealed) => sealed::answer(&self.node, sealed, &verified, &matched, body).await,
            Phase::Unsealed(unsealed) => serve::answer(&self.node, unsealed, &verified, matched, body, bodies).await,
            Phase::Uninitialised => return Err(anonymous(&uninitialised())),
        };
        let answer = with_room(answer, bodies).unwrap_or_else(|e| Answer::refusal(&e, Some(verified.id.to_string())));
        Ok((Answer { share: share.map(Box::new), ..answer }, Some(verified)))
    }

    /// Init is signed by a key that only its own body tells, so the body is read before the signature is checked.
    async fn init(
        &self,
        phase: &Phase,
        matched: Matched<'_>,
        checked: Checked,
        body: Unread,
        standing: &Standing,
    ) -> Outcome {
        let read = read_body(body, matched.route.request.max_bytes(), &self.node.parts.bodies, BODY_TIMEOUT).await;
        let read = read.map_err(|e| anonymous(&body_refusal(&e)))?;
        let (init, holder) = sealed::init_holder(&read.bytes, &checked.asked.key).map_err(|e| anonymous(&e))?;
        let mut verified = checked.verify(holder).map_err(|e| anonymous(&e))?;
        standing.prove(verified.subject.id);
        let answer = match digest_fits(&mut verified.asked, read) {
            Ok(_) => sealed::init(&self.node, phase, &verified, &init).await,
            Err(refusal) => sealed::refuse(&self.node, phase, &verified, matched.route.action, &refusal).await,
        };
        Ok((answer, Some(verified)))
    }

    /// Template, audience and challenge, as the first of these phases would ask for them, or another.
    fn check(&self, phases: &[&Phase], line: &RequestLine, headers: Headers, peer: Peer) -> Result<Checked, Refusal> {
        let parameters = RequestParameters::parse(&headers.signature_input).map_err(|e| template(&e))?;
        let bytes = parse_signature(&headers.signature).map_err(|e| template(&e))?;
        parse_content_digest(&headers.content_digest).map_err(|e| template(&e))?;
        let audiences: Vec<_> = phases.iter().map(|phase| (*phase, phase.audience(&self.node))).collect();
        if !audiences.iter().any(|(_, audience)| headers.audience == audience.to_string()) {
            return Err(wrong_audience(audiences.first().map(|(_, audience)| audience)));
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
        let Headers { content_type, content_digest, audience, challenge, signature_input, signature } = headers;
        let asked = Asked {
            line: line.clone(),
            content_type,
            content_digest: Some(content_digest),
            key: parameters.key,
            nonce: parameters.nonce,
            proof: Proof::Signature { audience, challenge, signature_input, signature },
            address: address_of(peer),
            received_ms: now_ms,
        };
        Ok(Checked { asked, parameters, signature: bytes })
    }

    /// Reads the body. Its share of the memory for bodies is kept until the request has ended.
    async fn body(
        &self,
        asked: &mut Asked,
        kind: RequestBody,
        body: Unread,
        budget: &BodyBudget,
    ) -> Result<ReadBody, Refusal> {
        let read = read_body(body, kind.max_bytes(), budget, BODY_TIMEOUT).await;
        digest_fits(asked, read.map_err(|e| body_refusal(&e))?)
    }
}

/// The answer with its part of the memory: whoever fetches no answers gets no more of them.
fn with_room(answer: Answer, bodies: &BodyBudget) -> Result<Answer, Refusal> {
    if answer.room.is_some() || answer.body.len() <= ROOMLESS_BYTES {
        return Ok(answer);
    }
    let room = bodies.hold(answer.body.len()).map_err(|_| unfetched())?;
    Ok(Answer { room: Some(Box::new(room)), ..answer })
}

/// What was asked for may be done all the same; its nonce tells so.
fn unfetched() -> Refusal {
    let refusal = Refusal::new(Code::Overloaded, "too many large answers that nobody has fetched yet");
    refusal.hint("fetch them, then ask again, for a change with the same nonce")
}

fn too_many(many: TooMany) -> Refusal {
    let (message, hint) = match many {
        TooMany::AtOnce => (
            format!("more than {REQUESTS_EACH} of your requests are under way at once"),
            "wait for answers before you send more",
        ),
        TooMany::InASecond(rate) => (
            format!("more than {rate} of your requests came within a second"),
            "ask less often: this node has a limit for each principal",
        ),
    };
    Refusal::new(Code::Overloaded, message).hint(hint)
}

/// Compares the body with the digest that was told, or notes its own.
fn digest_fits(asked: &mut Asked, read: ReadBody) -> Result<ReadBody, Refusal> {
    let own = content_digest(&read.sha256);
    // The header has one spelling, so equal digests are equal texts.
    if equal(asked.content_digest.get_or_insert_with(|| own.clone()).as_bytes(), own.as_bytes()) {
        return Ok(read);
    }
    Err(Refusal::new(Code::DigestMismatch, "the body has not the digest that its header tells")
        .field(CONTENT_DIGEST_HEADER)
        .hint("sign the digest of the bytes that are sent; something between may have changed them"))
}

/// Who holds this key, if a node in this phase takes the route at all.
fn holder(phase: &Phase, route: &Route, key: &KeyId) -> Result<Option<Holder>, Refusal> {
    match phase {
        Phase::Uninitialised => Err(uninitialised()),
        Phase::Sealed(_) if route.auth != Auth::Sealed && !sealed::also_takes(route.endpoint) => {
            let refusal = Refusal::new(Code::Sealed, "the cluster is sealed");
            Err(refusal.hint("its admins open it with `bulla unseal`"))
        }
        Phase::Sealed(sealed) => Ok(sealed::holder(sealed, key)),
        Phase::Unsealed(unsealed) => Ok(serve::holder(unsealed, key, route.action)),
    }
}

/// A signed request that waits for its key.
struct Checked {
    asked: Asked,
    parameters: RequestParameters,
    signature: Vec<u8>,
}

impl Checked {
    /// Verifies the signature; the same work and the same words whether the key is unknown or the signature bad.
    fn verify(self, holder: Option<Holder>) -> Result<Verified, Refusal> {
        let key = holder.as_ref().map(|holder| &holder.key);
        let valid = verify_request(&self.asked.parts(), &self.parameters, &self.signature, key);
        match (valid, holder) {
            (Ok(()), Some(holder)) => Ok(self.asked.by(holder)),
            _ => Err(unauthenticated()),
        }
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
