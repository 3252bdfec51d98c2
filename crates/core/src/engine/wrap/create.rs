//! Creating a wrap: everything of `spec/wrap.md` that a server can check is checked before it is stored.
//!
//! It cannot check that the age file is what the statement says beyond digest and length, since it cannot
//! read it. The opener checks that.

use super::records::{
    Commit, Head, TOMBSTONE_MS, caller, content_key, content_to_bytes, expiry_key, head_key, live_key, mine_key,
    new_live, receipts_reply, slot_key, strangers_key, tombstone_key,
};
use super::slot::Slot;
use crate::barrier::{Record, RecordKey, Records};
use crate::directory::Principal;
use crate::engine::chunk::CHUNK_BYTES;
use crate::operation::{Content, Context, Fault, Operation, Refusal, Reply, Step};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{
    EvidenceError, VerifiedStatement, check_statement_times, payload_digest, verify_origin, verify_statement_by,
};
use bulla_crypto::random::Rng;
use bulla_crypto::recipient::Recipient;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::Digest;
use bulla_wire::wrap::{Addressee, LABEL_RULE, ReceiptKind, Statement, is_label};
use std::collections::HashSet;

/// What is there under the id of a new wrap.
enum Found<'h> {
    /// Nothing, and the new one may be stored.
    Nothing,
    /// Something that decides the answer.
    Answer(Result<Reply, Refusal>),
    /// A wrap to which the caller is no party.
    Foreign(&'h Head),
}

/// A statement that is well formed and signed by the caller with the key that signed the request. What
/// depends on time or on others is checked when the wrap is stored.
#[derive(Debug, Clone)]
pub struct Draft {
    verified: VerifiedStatement,
}

/// What is known of a creation before its ciphertext was read.
#[derive(Debug)]
pub enum Early {
    /// The answer, whatever the ciphertext is.
    Answer(Result<Reply, Refusal>),
    /// The ciphertext is needed.
    Wanted,
}

impl Draft {
    /// Checks a statement as it stands in the request.
    ///
    /// # Errors
    /// `bad_statement` with the field at fault.
    pub fn check(envelope: &Envelope, context: &Context<'_>) -> Result<Self, Refusal> {
        let actor = caller(context).map_err(|_| Refusal::new(Code::Unauthenticated, "nobody asks"))?;
        // The request's signature was verified with this key; it is gone only if it was rotated meanwhile.
        let Some((_, key)) = context.directory.by_key(&actor.key) else {
            return Err(Refusal::new(Code::Unauthenticated, "the key that signed the request was rotated"));
        };
        verify_statement_by(envelope, &context.cluster, &actor.principal, &[&key.public])
            .map(|verified| Self { verified })
            .map_err(|error| bad_statement(&error))
    }

    /// What it says.
    pub fn statement(&self) -> &Statement {
        &self.verified.statement
    }

    /// The record that [`Draft::early`] looks at.
    pub fn head_key(&self) -> RecordKey {
        head_key(&self.statement().wrap)
    }

    /// Answers without the ciphertext where that is possible: the wrap is there already, or must be refused.
    /// A server asks before it writes the pieces of a large one. Of somebody else's wrap it says nothing: that
    /// answer comes with the operation, since the wrap's parties are told in the same commit.
    pub fn early(&self, head: Option<&Record>, context: &Context<'_>) -> Result<Early, Fault> {
        let found = head.map(Head::parse).transpose()?;
        Ok(match self.compare(found.as_ref(), context)? {
            Found::Nothing | Found::Foreign(_) => Early::Wanted,
            Found::Answer(answer) => Early::Answer(answer),
        })
    }

    fn compare<'h>(&self, found: Option<&'h Head>, context: &Context<'_>) -> Result<Found<'h>, Fault> {
        let Some(head) = found else {
            return Ok(match self.admissible(context) {
                Ok(()) => Found::Nothing,
                Err(refusal) => Found::Answer(Err(refusal)),
            });
        };
        Ok(if head.digest == self.verified.digest {
            Found::Answer(Ok(receipts_reply(vec![head.created.clone()])))
        } else if head.is_party(&caller(context)?.principal) {
            Found::Answer(Err(exists()))
        } else {
            Found::Foreign(head)
        })
    }

    /// Times, label, and recipients as they are now.
    fn admissible(&self, context: &Context<'_>) -> Result<(), Refusal> {
        let statement = self.statement();
        check_statement_times(statement, context.now.unix_ms).map_err(|error| bad_statement(&error))?;
        // Here and not among the reader's rules: a wrap that was made before this rule can still be opened.
        if !statement.label.as_deref().is_none_or(is_label) {
            let refusal = Refusal::new(Code::BadStatement, format!("label: {LABEL_RULE}")).field("label");
            return Err(refusal.hint("choose another label, or leave it out"));
        }
        verify_origin(context.directory.view(), statement).map_err(|error| bad_statement(&error))?;
        check_recipients(&statement.to, context)
    }
}

/// Whether all of these are known, could open something now, and have keys of one kind.
pub(in crate::engine) fn check_recipients(to: &[Addressee], context: &Context<'_>) -> Result<(), Refusal> {
    let mut classical = Vec::new();
    for (place, addressee) in to.iter().enumerate() {
        let principal = check_addressee(place, addressee, context)?;
        if principal.keys.iter().flat_map(|key| &key.recipients).any(|text| !Recipient::is_hybrid_text(text)) {
            classical.push(principal.subject.name.as_str());
        }
    }
    if classical.is_empty() || classical.len() == to.len() {
        return Ok(());
    }
    let message = format!("some recipients have hybrid keys, but these have classical ones: {}", classical.join(", "));
    let refusal = Refusal::new(Code::MixedRecipients, message).field("to");
    Err(refusal.hint("do it twice, once for each kind of keys"))
}

fn exists() -> Refusal {
    let refusal = Refusal::new(Code::Exists, "a wrap with this id exists, with another statement");
    refusal.field("wrap").hint("draw a new random id and sign again")
}

/// What a statement says of its ciphertext.
const AS_SENT: &str = "sign length and digest of the ciphertext as it is sent, and send all of it";

pub(in crate::engine) fn bad_statement(error: &EvidenceError) -> Refusal {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    let refusal = Refusal::new(Code::BadStatement, format!("{error}{cause}"));
    let refusal = refusal.hint("the specification lists the rules of a statement; make and sign it anew");
    match error {
        EvidenceError::Rule { field, .. } => refusal.field(*field),
        EvidenceError::Payload(json) => refusal.field(json.field.clone()),
        _ => refusal,
    }
}

fn check_addressee<'a>(place: usize, to: &Addressee, context: &Context<'a>) -> Result<&'a Principal, Refusal> {
    let Some(principal) = context.directory.by_id(&to.principal) else {
        let refusal = Refusal::new(Code::UnknownRecipient, format!("no principal has the id {}", to.principal));
        return Err(refusal.field(format!("to[{place}].principal")).hint("resolve the recipient by name"));
    };
    let name = &principal.subject.name;
    if !principal.may_sign() {
        let state = if principal.disabled { "disabled" } else { "void" };
        let refusal = Refusal::new(Code::UnknownRecipient, format!("{name} is {state} and could not open it"));
        return Err(refusal.field(format!("to[{place}].principal")).hint("leave it out, or ask an enroller"));
    }
    if principal.record_sha256 != to.record_sha256 {
        let refusal = Refusal::new(Code::VersionMismatch, format!("{name} has changed its keys since it was resolved"));
        return Err(refusal
            .field(format!("to[{place}].record_sha256"))
            .hint("resolve the recipient again and encrypt anew"));
    }
    let listed: HashSet<Digest> = principal
        .keys
        .iter()
        .flat_map(|key| &key.recipients)
        .map(|text| Digest::new(sha256(&[text.as_bytes()])))
        .collect();
    if to.recipients.iter().all(|recipient| listed.contains(recipient)) {
        return Ok(principal);
    }
    let refusal = Refusal::new(Code::BadStatement, format!("a recipient is none of those in the record of {name}"));
    Err(refusal.field(format!("to[{place}].recipients")).hint("encrypt to keys of the record that is named"))
}

/// `POST /v1/wrap`.
#[derive(Clone)]
pub struct Create {
    draft: Draft,
    content: Content,
}

impl std::fmt::Debug for Create {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Create({}, {} bytes)", self.draft.statement().wrap, self.draft.statement().ct.len)
    }
}

impl Create {
    /// Puts statement and ciphertext together. Pieces of a chunked one are written before, and were hashed then.
    ///
    /// # Errors
    /// If digest or length of the ciphertext are not the statement's.
    pub fn new(draft: Draft, content: Content) -> Result<Self, Refusal> {
        let (len, sha256) = match &content {
            Content::Inline(bytes) if bytes.len() > CHUNK_BYTES => {
                let refusal = Refusal::new(Code::TooLarge, format!("more than {CHUNK_BYTES} bytes go in chunks"));
                return Err(refusal);
            }
            Content::Inline(bytes) => (bytes.len() as u64, Digest::new(sha256(&[bytes]))),
            Content::Chunked(upload) => (upload.len, upload.sha256),
        };
        let stated = &draft.statement().ct;
        if stated.len != len {
            let message = format!("the ciphertext has {len} bytes, the statement says {}", stated.len);
            return Err(Refusal::new(Code::BadStatement, message).field("ct.len").hint(AS_SENT));
        }
        if stated.sha256 != sha256 {
            let refusal = Refusal::new(Code::BadStatement, "the ciphertext does not have the digest in the statement");
            return Err(refusal.field("ct.sha256").hint(AS_SENT));
        }
        Ok(Self { draft, content })
    }
}

impl Operation for Create {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = self.draft.head_key();
        let Some(found) = records.get(&key) else { return Ok(Step::need([key])) };
        let actor = caller(context)?;
        let VerifiedStatement { envelope, digest, statement, key: _ } = &self.draft.verified;
        let wrap = statement.wrap;
        let mut commit = Commit::new(context, wrap, *digest);
        let found = found.map(Head::parse).transpose()?;
        match self.draft.compare(found.as_ref(), context)? {
            Found::Nothing => {}
            Found::Answer(result) => return Ok(commit.done(result)),
            Found::Foreign(head) => {
                // The id was told, guessed or seen, and this answer confirms it.
                let counted = strangers_key(&wrap);
                let Some(counted) = records.get(&counted) else { return Ok(Step::need([counted])) };
                commit.stranger(counted, head, "somebody who is no party made another wrap under its id, and knows it");
                return Ok(commit.done(Err(exists())));
            }
        }
        let created = commit.sign(ReceiptKind::Created, 0, Some(actor), None, None)?;
        let head = Head {
            envelope: envelope.clone(),
            digest: *digest,
            statement: statement.clone(),
            created: created.clone(),
            created_ms: context.now.unix_ms,
        };
        let writes = &mut commit.writes;
        writes.create(key, head.to_bytes());
        writes.create(content_key(&wrap), content_to_bytes(&self.content));
        writes.create(live_key(&wrap), new_live(head.slots(), &self.content));
        let slot = bulla_wire::json::to_vec(&Slot::new(payload_digest(&created)));
        for index in 0..head.slots() {
            writes.create(slot_key(&wrap, index), slot.clone());
        }
        for party in head.parties() {
            writes.put(mine_key(&party, head.created_ms, &wrap), vec![]);
        }
        writes.put(expiry_key(&wrap, statement.exp_ms), vec![]);
        writes.put(tombstone_key(&wrap, statement.exp_ms.saturating_add(TOMBSTONE_MS)), vec![]);
        if let Content::Chunked(upload) = &self.content {
            upload.publish(writes);
        }
        Ok(commit.answer(vec![created]))
    }
}
