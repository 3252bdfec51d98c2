//! From what an operation came to, to the answer: secrets encrypted to the reader or the claim, faults in public words,
//! and the count of alarms that the caller has not seen.

use super::{INLINE_SEAL_BYTES, Request, UNSEEN_MAX, nonce_expired, sealed_meanwhile};
use crate::drive::{DriveError, Driven};
use crate::failpoint;
use crate::listen::Held;
use crate::node::Phase;
use crate::reply::{Answer, internal};
use crate::route::ReplyKind;
use crate::unsealed::lock;
use bulla_core::audit::{Outcome, Quote};
use bulla_core::barrier::{Cursor, Query};
use bulla_core::engine::alarm;
use bulla_core::operation::{Content, Refusal, Reply};
use bulla_crypto::envelope;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::AlarmKind;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::wrap::{PARCEL_MEDIA_TYPE, Parcel};

impl Request<'_> {
    pub(super) async fn conclude(
        &self,
        driven: Driven,
        once: Option<(Digest, Digest)>,
        kind: ReplyKind,
        id: &str,
    ) -> (Answer, Outcome) {
        let Driven { result, read, committed, receipts, repeated: _, room } = driven;
        let sequence = committed.or(read).map(|sequence| sequence.0);
        let quote = committed.map(|sequence| Quote {
            cluster: self.unsealed.keys.cluster,
            lineage: self.unsealed.keys.lineage,
            sequence: sequence.0,
        });
        let finish = |outcome: Outcome| {
            let outcome = outcome.with_receipts(receipts.iter().copied());
            match quote {
                Some(quote) => outcome.committed(quote),
                None => outcome,
            }
        };
        let refusal = match result {
            Ok(reply) => match self.reply(reply, room, kind, id).await {
                Ok(answer) => return (answer.at(sequence), finish(Outcome::done(200))),
                Err(refusal) => refusal,
            },
            Err(refusal) => {
                if let Some((key, request)) = once {
                    let principal = self.verified.subject.id;
                    lock(&self.unsealed.refusals).keep(key, request, principal, &refusal, self.node.now_ms());
                }
                refusal
            }
        };
        (Answer::refusal(&refusal, Some(id.to_owned())).at(sequence), finish(Outcome::failed(refusal.code)))
    }

    pub(super) async fn reply(
        &self,
        reply: Reply,
        room: Option<Held>,
        kind: ReplyKind,
        id: &str,
    ) -> Result<Answer, Refusal> {
        let body = match (reply, kind) {
            (Reply::Json(body), ReplyKind::Json) | (Reply::Snapshot(body), ReplyKind::Snapshot) => body,
            (Reply::Secret(body), ReplyKind::Secret) if self.wrap_to.is_some() => self.wrapped(&body, id)?,
            (Reply::Secret(body), ReplyKind::Secret) => {
                let directory = self.unsealed.directory();
                let sealed = envelope::seal(self.recipients(&directory)?, None, body.expose());
                sealed.map_err(|error| internal(&error, id))?
            }
            (Reply::Claim { claim, receipt, content }, ReplyKind::Claim) => {
                self.claim_reply(claim, receipt, content, id).await?
            }
            _ => return Err(internal(&"a reply of another kind than the route's", id)),
        };
        let room = room.map(|mut room| {
            room.shrink(body.capacity());
            Box::new(room)
        });
        let media_type = match kind {
            ReplyKind::Secret if self.wrap_to.is_some() => PARCEL_MEDIA_TYPE,
            kind => kind.media_type(),
        };
        Ok(Answer { room, ..Answer::bytes(200, media_type, body) })
    }

    /// The answer for somebody else, as the content of a wrap.
    fn wrapped(&self, body: &SecretBytes, id: &str) -> Result<Vec<u8>, Refusal> {
        let Some(Ok(wrap_to)) = &self.wrap_to else { return Err(internal(&"nobody is named", id)) };
        let doc = self.unsealed.directory().view().newest().number();
        wrap_to.seal(self.node, self.unsealed.keys.cluster, doc, self.verified.subject.id, body, id)
    }

    async fn claim_reply(
        &self,
        claim: Recipient,
        receipt: Envelope,
        content: Content,
        id: &str,
    ) -> Result<Vec<u8>, Refusal> {
        let file = match content {
            Content::Inline(bytes) => bytes,
            Content::Chunked(upload) => match self.unsealed.fetch(self.machine(), &upload).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    let refusal = Refusal::new(Code::Unknown, "the wrap ended while it was delivered");
                    return Err(refusal.hint("ask again: the answer says how it ended"));
                }
                Err(error) => return Err(self.drive_refusal(&error, id)),
            },
        };
        let mut parcel = Parcel::head(&bulla_wire::json::to_vec(&receipt));
        parcel.reserve_exact(file.len());
        parcel.extend_from_slice(&file);
        let large = file.len() > INLINE_SEAL_BYTES;
        drop(file);
        let seal = move || envelope::seal(&[claim], None, &parcel);
        let sealed =
            if large { tokio::task::spawn_blocking(seal).await.map_err(|error| internal(&error, id))? } else { seal() };
        failpoint::hit(failpoint::SERVE_BEFORE_CLAIM_REPLY);
        sealed.map_err(|error| internal(&error, id))
    }

    pub(super) async fn fail(&self, error: &DriveError, once: Option<(Digest, Digest)>, id: &str) -> (Answer, Outcome) {
        let refusal = self.drive_refusal(error, id);
        if let (DriveError::NonceReused, Some((key, request))) = (error, once) {
            let principal = self.verified.subject.id;
            lock(&self.unsealed.refusals).keep(key, request, principal, &refusal, self.node.now_ms());
            let monotonic_ms = self.node.parts.clock.monotonic_ms();
            if lock(&self.unsealed.reuse_alarms).raise(principal, monotonic_ms) {
                self.alarm_reuse(id).await;
            }
        }
        (Answer::refusal(&refusal, Some(id.to_owned())), Outcome::failed(refusal.code))
    }

    pub(super) fn drive_refusal(&self, error: &DriveError, id: &str) -> Refusal {
        match error {
            DriveError::Busy => Refusal::new(Code::Busy, "too many others change the same thing").hint("try again"),
            DriveError::Crowded => {
                Refusal::new(Code::Overloaded, "too many requests that take long wait for their turn").hint("try again")
            }
            DriveError::Overloaded => {
                Refusal::new(Code::Overloaded, "too many large answers at once").hint("try again")
            }
            DriveError::NonceReused => Refusal::new(Code::NonceReused, "the nonce was used for another request")
                .field("nonce")
                .hint("draw a new nonce for each request; if you did, somebody plays with yours"),
            DriveError::NonceExpired => nonce_expired(),
            DriveError::Unknown(detail) => {
                tracing::error!(%detail, request = id, "the commit's outcome is unknown");
                Refusal::new(Code::Unknown, "the outcome is not known").hint("ask again with the same nonce")
            }
            // Who waits for a change is let go when the keys go.
            DriveError::Closed => match self.node.phase() {
                Phase::Unsealed(_) => {
                    Refusal::new(Code::Busy, "the cluster's keys were exchanged meanwhile").hint("try again")
                }
                _ => sealed_meanwhile(),
            },
            DriveError::Store(_) | DriveError::Barrier(_) | DriveError::Fault(_) => internal(error, id),
        }
    }

    /// Somebody plays with a used nonce: its owner is told.
    async fn alarm_reuse(&self, id: &str) {
        let raise = alarm::Raise {
            kind: AlarmKind::ReplayMutation,
            message: "a nonce of this principal came with another request",
            told: vec![self.verified.subject.id],
        };
        if let Err(error) = self.drive(&raise, None).await {
            tracing::error!(%error, request = id, "the alarm about a used nonce was not stored");
        }
    }

    /// How many alarms the caller has not seen; counted once, then kept up to date.
    /// Behind the mark of those that were seen. It is a small page, and counted once: it waits for no turn, or an answer that
    /// is made would wait.
    async fn count_unseen(&self, principal: &PrincipalId) -> Result<u32, DriveError> {
        let (store, mark) = (&self.node.parts.store, alarm::cursor_key(principal));
        let records = self.unsealed.read(store, &[Query::Get(mark.clone())]).await?;
        let seen = records.get(&mark).flatten().map(|record| Cursor::after_clear(record.bytes.expose().clone()));
        let query = alarm::scan(principal, seen, UNSEEN_MAX);
        let records = self.unsealed.read(store, std::slice::from_ref(&query)).await?;
        let count = records.page(&query).map_or(0, |(page, _)| page.len());
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    pub(super) async fn unseen(&self) -> u32 {
        let principal = self.verified.subject.id;
        let changes = {
            let unseen = lock(&self.unsealed.unseen);
            if let Some(count) = unseen.get(&principal) {
                return count;
            }
            unseen.changes()
        };
        let Ok(count) = self.count_unseen(&principal).await else { return 0 };
        lock(&self.unsealed.unseen).learn(principal, count, changes);
        count
    }
}
