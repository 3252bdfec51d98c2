//! The one way in which a call is made: challenge, sign, send, verify, judge, and if need be again.
//!
//! - A retry keeps nonce and body, so a change happens once however often it is sent.
//! - An answer without a valid signature is no answer: the outcome is unknown, as if the connection had broken.
//! - A change whose outcome is unknown is never sent under a new nonce, and never told as refused.

mod asked;
mod prepared;
mod tries;

pub(crate) use asked::{Call, CallBody};

use crate::answer::{Answer, Frame, OpenRequest, answered, refused, verify_open};
use crate::builder::{Client, Pin, Trust};
use crate::error::{ClientError, GENESIS, Untrusted, demand};
use crate::state::{Seen, StateError};
use crate::transport::{ExchangeError, Received, Sent, Upload};
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::message::{SignatureHeaders, sign_request};
use bulla_crypto::random::{Rng, SystemRng};
use bulla_wire::api::{ChallengeReply, Initialised};
use bulla_wire::challenge::Challenge;
use bulla_wire::error::ErrorEntry;
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::signature::{
    AUDIENCE_HEADER, Audience, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, RequestParts, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER,
};
use prepared::Prepared;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tries::{FEW_TRIES, Next, Tries};

/// Longest wait for one attempt: a full wrap over a slow line passes, and a hanging server leaves time for more.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a challenge is used here; the server takes it for 60 seconds.
const CHALLENGE_USE: Duration = Duration::from_secs(45);
const OVERSIZE: &str = "the answer is larger than any that was asked for";
const OTHER_CLUSTER: &str = "another cluster of the same admins answers there now than when the call began";
const OUTDATED: &str = "the answer names a newer cluster document than could be read here";
/// First wait before a retry; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait before a retry.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What was known when a request was sent.
struct Known {
    seen: Option<Seen>,
    /// Number of the newest document.
    newest: u32,
}

/// How one attempt ended.
enum Attempt {
    Answered(Answer),
    Refused {
        errors: Vec<ErrorEntry>,
        status: u16,
        verified: bool,
        /// Of the open profile: signed for method, path and query alone.
        open: bool,
        wait: Option<Duration>,
    },
    /// Nothing that may be believed came back. The request may have had its effect if `sent`.
    Lost {
        cause: ClientError,
        sent: bool,
        few: bool,
    },
    /// The node stands behind what was seen; another one may not.
    Lagging {
        cause: StateError,
        /// It was no refusal.
        done: bool,
    },
}

impl Client {
    /// Makes a call, tries again where that is safe, and gives a verified answer or the reason why there is none.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, ClientError> {
        if self.0.withhold.as_ref().is_some_and(|withhold| withhold(call.method, &call.path)) {
            return Err(ClientError::Withheld);
        }
        let started = Instant::now();
        let mut prepared = None;
        let mut tries = Tries::default();
        loop {
            let attempt = match self.attempt(&call, &mut prepared, started).await {
                Ok(attempt) => attempt,
                Err(error) => return Err(tries.outcome(call.changes, error)),
            };
            tries.all = tries.all.saturating_add(1);
            let (next, wait, error) = match attempt {
                Attempt::Answered(answer) => return Ok(answer),
                Attempt::Lagging { cause, done } => {
                    let next = if tries.lagging { Next::End } else { Next::Wait };
                    tries.lagging = true;
                    tries.unknown |= done;
                    (next, None, cause.into())
                }
                Attempt::Lost { cause, sent, few } => {
                    tries.unknown |= sent;
                    // Once a change may have happened only the cluster can tell: it is waited for.
                    let awaited = tries.unknown && call.changes && matches!(cause, ClientError::Unreachable { .. });
                    tries.few = tries.few.saturating_add(u32::from(few && !awaited));
                    (if tries.few >= FEW_TRIES { Next::End } else { Next::Wait }, None, cause)
                }
                Attempt::Refused { errors, status, verified, open, wait } => {
                    let code = errors.first().map(|entry| entry.code);
                    let next = tries.refused(call.changes, code, open);
                    let may_have_happened = call.changes && !verified;
                    let error = ClientError::Refused { status, errors, verified, may_have_happened };
                    if next == Next::End && Tries::is_told(code, open) {
                        return Err(error);
                    }
                    (next, wait, error)
                }
            };
            if next == Next::Again {
                continue;
            }
            let wait = wait.unwrap_or_else(|| back_off(tries.all));
            if next == Next::End || started.elapsed().saturating_add(wait) >= self.0.timeout {
                return Err(tries.outcome(call.changes, error));
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(
        &self,
        call: &Call,
        prepared: &mut Option<Prepared>,
        started: Instant,
    ) -> Result<Attempt, ClientError> {
        let key = self.key()?;
        let (trust, audience) = match &call.view {
            Some(view) => {
                let trust = Trust { view: Arc::clone(view), memory: self.memory(&view.id())? };
                (Some(trust), Audience::Cluster(view.id()))
            }
            None => self.within(started, Box::pin(self.audience())).await?,
        };
        let newest = trust.as_ref().map_or(0, |trust| trust.view.newest().number());
        // Whoever is believed by what it shows is looked at already.
        let looks = call.view.is_none();
        let challenge = match self.challenge_or_end(trust.as_ref(), looks, started).await? {
            Ok(challenge) => challenge,
            Err(ended) => return Ok(ended),
        };
        // Of the pinned admins another cluster may have come meanwhile. A change was made for the one before.
        let cluster = trust.as_ref().map(|trust| trust.view.id());
        if prepared.as_ref().is_some_and(|prepared| prepared.cluster != cluster) {
            demand(!call.changes, OTHER_CLUSTER)?;
            *prepared = None;
        }
        if prepared.is_none() {
            *prepared = Some(self.prepare(call, trust.as_ref(), &challenge)?);
        }
        let Some(Prepared { cluster: _, nonce, upload, content_digest, media }) = prepared else {
            return Err(ClientError::NoPin);
        };
        let (audience, challenge) = (audience.to_string(), challenge.to_string());
        let parts = RequestParts {
            method: call.method,
            path: &call.path,
            query: &call.query,
            content_type: media,
            content_digest,
            audience: &audience,
            challenge: &challenge,
        };
        let headers = sign_request(&parts, now_ms() / 1000, *nonce, &**key).await?;
        let known = Known { seen: trust.as_ref().and_then(|trust| trust.memory.seen()), newest };
        let sent = Sent {
            method: call.method,
            path: &call.path,
            query: &call.query,
            headers: &[
                ("content-type", media),
                (CONTENT_DIGEST_HEADER, content_digest),
                (AUDIENCE_HEADER, &audience),
                (CHALLENGE_HEADER, &challenge),
                (SIGNATURE_INPUT_HEADER, &headers.signature_input),
                (SIGNATURE_HEADER, &headers.signature),
            ],
            body: upload.clone(),
            limit: call.limit,
        };
        let left = self.left(started);
        if left.is_zero() {
            return Ok(Attempt::Lost { cause: self.late(self.0.timeout), sent: false, few: true });
        }
        let received = match self.exchange(sent, left).await {
            Ok(received) => received,
            Err((error @ ClientError::Input { .. }, _)) => return Err(error),
            Err((cause, sent)) => {
                // A connection that broke is tried as long as there is time; what will be the same again is not.
                let few = !sent || !matches!(cause, ClientError::Unreachable { .. });
                return Ok(Attempt::Lost { cause, sent, few });
            }
        };
        // It may ask the cluster for more. What it came to then is not known.
        let judged = Box::pin(self.judge_answer(call, trust, known, &parts, &headers, received));
        let left = self.0.timeout.saturating_sub(started.elapsed());
        let late = || Ok(Attempt::Lost { cause: self.late(self.0.timeout), sent: true, few: true });
        tokio::time::timeout(left, judged).await.unwrap_or_else(|_| late())
    }

    /// What is to be signed, or how the attempt ended without it.
    async fn challenge_or_end(
        &self,
        trust: Option<&Trust>,
        looks: bool,
        started: Instant,
    ) -> Result<Result<Challenge, Attempt>, ClientError> {
        let lost = |cause| Ok(Err(Attempt::Lost { cause, sent: false, few: true }));
        match self.within(started, Box::pin(self.challenge(trust, looks))).await {
            Ok(challenge) => Ok(Ok(challenge)),
            Err(cause @ ClientError::Unreachable { .. }) => lost(cause),
            Err(cause) if looks && (self.moved_on(&cause) || self.has_others(&cause).await) => lost(cause),
            Err(error) => Err(error),
        }
    }

    /// Verifies an answer and judges where the cluster says it stands.
    async fn judge_answer(
        &self,
        call: &Call,
        trust: Option<Trust>,
        mut known: Known,
        parts: &RequestParts<'_>,
        headers: &SignatureHeaders,
        received: Received,
    ) -> Result<Attempt, ClientError> {
        let Some(trust) = trust else { return self.judge_init(parts, headers, &received) };
        let lost = |cause: Untrusted| {
            let cause = cause.into();
            self.moved_on(&cause);
            Attempt::Lost { cause, sent: true, few: true }
        };
        let frame = match Frame::of(&received) {
            Ok(frame) => frame,
            Err(cause) => return Ok(lost(cause)),
        };
        let mut view = trust.view;
        if call.view.is_none() && frame.state.doc.is_some_and(|doc| doc > view.newest().number()) {
            // What the unverified header asks for is only a look at documents that verify themselves.
            if let Ok((facts, was_accepted)) = Box::pin(self.look()).await {
                view = facts.view;
                if was_accepted {
                    known = Known { seen: trust.memory.seen(), newest: view.newest().number() };
                }
            }
        }
        let open = frame.is_open();
        let checked = frame.verify(&answered(parts, headers, open), |key| view.active_node(key).cloned());
        if let Err(cause) = checked {
            return Ok(lost(cause));
        }
        if frame.state.doc.is_some_and(|doc| doc > view.newest().number()) {
            // It was not read, or somebody shows an old list of documents: the node may have been removed since.
            return Ok(lost(Untrusted::Contradiction { what: OUTDATED }));
        }
        if open && received.status < 400 {
            return Ok(lost(Untrusted::OpenProfile));
        }
        self.hold_challenge(frame.challenge);
        if !open {
            self.0.alarms.store(frame.state.alarms, Ordering::Relaxed);
            if call.judged && received.status != 503 {
                let done = received.status < 400;
                match self.judge_state(known.seen.as_ref(), known.newest, &frame.state).await {
                    Ok(None) => {}
                    Ok(Some(cause)) => return Ok(Attempt::Lagging { cause, done }),
                    // It happened: by its nonce it is asked for again, and never told as a failure.
                    Err(cause) if done && call.changes => {
                        return Ok(Attempt::Lost { cause, sent: true, few: true });
                    }
                    Err(cause) => return Err(cause),
                }
            }
        }
        if received.status < 400 {
            return Ok(Attempt::Answered(frame.answer(&received)));
        }
        Ok(refusal(&received, !(open && call.changes), open))
    }

    /// `init` is answered by a node that stands in the genesis it answers with, under the key that was pinned.
    /// A refusal before that cannot be verified; it is shown as such.
    fn judge_init(
        &self,
        parts: &RequestParts<'_>,
        headers: &SignatureHeaders,
        received: &Received,
    ) -> Result<Attempt, ClientError> {
        if let Some(challenge) = received.header(CHALLENGE_HEADER).and_then(|text| text.parse().ok()) {
            self.hold_challenge(challenge);
        }
        if received.status >= 400 {
            return Ok(refusal(received, false, false));
        }
        let frame = Frame::of(received)?;
        let Initialised { cluster: _, genesis } = json::parse(&received.body, MAX_JSON_BYTES)
            .map_err(|_| ClientError::contradiction("the answer is malformed"))?;
        let view = ClusterView::unpinned(&genesis).map_err(ClientError::statement(GENESIS))?;
        let pinned = match &self.0.pin {
            Some(Pin::Node(node)) => *node,
            _ => return Err(ClientError::NoPin),
        };
        frame.verify(&answered(parts, headers, false), |key| {
            view.active_node(key).filter(|_| *key == pinned).cloned()
        })?;
        Ok(Attempt::Answered(frame.answer(received)))
    }

    /// Sends without a signature, a few times if nothing comes back: open routes change nothing.
    pub(crate) async fn exchange_open(&self, request: &OpenRequest<'_>) -> Result<Received, ClientError> {
        let (started, mut tries) = (Instant::now(), 0);
        loop {
            let sent = Sent {
                method: request.method,
                path: request.path,
                query: request.query,
                headers: &[],
                body: Upload::empty(),
                limit: request.limit,
            };
            tries += 1;
            let cause = match self.exchange(sent, self.left(started)).await {
                Ok(received) => return Ok(received),
                Err((cause, _)) => cause,
            };
            let wait = back_off(tries);
            if tries >= FEW_TRIES || wait >= self.left(started) {
                return Err(cause);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// How long one exchange of a call that began then may take.
    fn left(&self, started: Instant) -> Duration {
        self.0.timeout.saturating_sub(started.elapsed()).min(ATTEMPT_TIMEOUT)
    }

    /// What a call asks besides, within the time that it has.
    async fn within<T>(
        &self,
        started: Instant,
        asked: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let left = self.0.timeout.saturating_sub(started.elapsed());
        tokio::time::timeout(left, asked).await.unwrap_or_else(|_| Err(self.late(self.0.timeout)))
    }

    fn late(&self, limit: Duration) -> ClientError {
        let cause = format!("no answer within {} s", limit.as_secs());
        ClientError::Unreachable { address: self.0.address.to_string(), cause }
    }

    /// One exchange within `limit`. An error says whether the request may have arrived.
    async fn exchange(&self, sent: Sent<'_>, limit: Duration) -> Result<Received, (ClientError, bool)> {
        let unreachable = |cause: String| ClientError::Unreachable { address: self.0.address.to_string(), cause };
        match tokio::time::timeout(limit, self.0.transport.exchange(sent)).await {
            Ok(Ok(received)) => Ok(received),
            Ok(Err(ExchangeError::Request(what))) => {
                Err((ClientError::input(what, "correct the path or the query"), false))
            }
            Ok(Err(ExchangeError::TooLarge)) => Err((ClientError::contradiction(OVERSIZE), true)),
            Ok(Err(ExchangeError::Network { cause, connected })) => Err((unreachable(cause), connected)),
            Err(_) => Err((self.late(limit), true)),
        }
    }

    /// Whom requests are for. Before init there is nothing to trust but the pinned node's key.
    async fn audience(&self) -> Result<(Option<Trust>, Audience), ClientError> {
        if let Some(Pin::Node(node)) = &self.0.pin {
            return Ok((None, Audience::Node(*node)));
        }
        let trust = self.trust().await?;
        let audience = Audience::Cluster(trust.view.id());
        Ok((Some(trust), audience))
    }

    /// The challenge of the last answer if it is fresh, else a new one.
    async fn challenge(&self, trust: Option<&Trust>, looks: bool) -> Result<Challenge, ClientError> {
        let held = self.held().challenge;
        if let Some((challenge, _)) = held.filter(|(_, since)| since.elapsed() < CHALLENGE_USE) {
            return Ok(challenge);
        }
        let request = OpenRequest { method: "POST", path: "/v1/challenge", query: "", limit: MAX_JSON_BYTES };
        let received = self.exchange_open(&request).await?;
        if received.status != 200 {
            return Err(refused(&received, false));
        }
        // A challenge is an input, not a statement: a wrong one makes a request that is refused. It is checked all
        // the same where it can be, to tell a wrong cluster early.
        if let Some(trust) = trust {
            let frame = Frame::of(&received)?;
            let newer = looks && frame.state.doc.is_some_and(|doc| doc > trust.view.newest().number());
            let view = if newer { Box::pin(self.cluster()).await?.view } else { Arc::clone(&trust.view) };
            verify_open(&request, &received, |key| view.active_node(key).cloned())?;
        }
        let reply: ChallengeReply = json::parse(&received.body, MAX_JSON_BYTES)
            .map_err(|_| ClientError::contradiction("the challenge is malformed"))?;
        let challenge =
            reply.challenge.parse().map_err(|_| ClientError::contradiction("the challenge is malformed"))?;
        self.hold_challenge(challenge);
        Ok(challenge)
    }

    fn hold_challenge(&self, challenge: Challenge) {
        self.held().challenge = Some((challenge, Instant::now()));
    }
}

fn refusal(received: &Received, verified: bool, open: bool) -> Attempt {
    let seconds = received.header("retry-after").and_then(|text| text.parse().ok());
    match refused(received, verified) {
        ClientError::Refused { status, errors, verified, may_have_happened: _ } => {
            let wait = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
            Attempt::Refused { errors, status, verified, open, wait }
        }
        cause => Attempt::Lost { cause, sent: true, few: true },
    }
}

/// Doubles with each try, up to [`LONGEST_WAIT`], less up to a half by chance, so that many clients that lost
/// one server do not come back at once.
fn back_off(tries: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(LONGEST_WAIT);
    let mut chance = [0; 1];
    SystemRng.fill(&mut chance);
    let [chance] = chance;
    doubled - (doubled / 2).mul_f64(f64::from(chance) / 255.0)
}

/// Unix milliseconds by this machine's clock.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
