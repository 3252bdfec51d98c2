//! Statements of writers and receipts of nodes.

use super::{ClusterView, EvidenceError, Payload, Record, parse, payload_digest, rule};
use crate::dsse::{self, DsseError};
use crate::sign::PublicKey;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{MAX_KEYS, NodeState};
use bulla_wire::id::{ClusterId, Digest, KeyId, PrincipalId};
use bulla_wire::json::V1;
use bulla_wire::wrap::{
    ACK_S_RANGE, Addressee, MAX_CIPHERTEXT_BYTES, MAX_LABEL_BYTES, MAX_LIFE_MS, MAX_RECIPIENTS, Origin, Receipt,
    ReceiptKind, STATEMENT_TYPE, Statement,
};
use std::collections::HashSet;

/// A writer's statement whose signature and form hold.
#[derive(Debug, Clone)]
pub struct VerifiedStatement {
    /// The envelope as it came.
    pub envelope: Envelope,
    /// SHA-256 of its payload: what the slip names.
    pub digest: Digest,
    /// What it says.
    pub statement: Statement,
    /// The writer's key that signed it.
    pub key: KeyId,
}

/// Verifies a statement about a wrap in `cluster` by the holder of `writer`. A reader tries all records of the
/// writer, newest first: the writer may have changed its keys since.
///
/// # Errors
/// See [`EvidenceError`].
pub fn verify_statement(
    envelope: &Envelope,
    cluster: &ClusterId,
    writer: &Record,
) -> Result<VerifiedStatement, EvidenceError> {
    verify_statement_by(envelope, cluster, &writer.principal(), &writer.public_keys().collect::<Vec<_>>())
}

/// As [`verify_statement`], for who knows the writer's keys from elsewhere, as a server does from its directory.
///
/// # Errors
/// See [`EvidenceError`].
pub fn verify_statement_by(
    envelope: &Envelope,
    cluster: &ClusterId,
    writer: &PrincipalId,
    keys: &[&PublicKey],
) -> Result<VerifiedStatement, EvidenceError> {
    let statement: Statement = parse(envelope)?;
    let Statement { v: V1, cluster: stated, wrap: _, from, to, mode: _, ct, nbf_ms, exp_ms, ack_s, label, origin: _ } =
        &statement;
    rule(stated == cluster, "cluster", "must be this cluster")?;
    rule(from == writer, "from", "must be the writer")?;
    check_addressees(to)?;
    rule((1..=MAX_CIPHERTEXT_BYTES).contains(&ct.len), "ct.len", "must be 1 to the largest ciphertext")?;
    rule(nbf_ms < exp_ms, "exp_ms", "must be after nbf_ms")?;
    rule(ACK_S_RANGE.contains(ack_s), "ack_s", "must be 10 to 86400")?;
    let short = label.as_ref().is_none_or(|label| label.len() <= MAX_LABEL_BYTES);
    rule(short, "label", "must be at most 256 bytes")?;
    rule(envelope.signatures.len() == 1, "signatures", "must be one")?;
    let verified = dsse::verify(envelope, STATEMENT_TYPE, keys)?;
    let key = verified.signers().first().copied().ok_or(EvidenceError::Signature(DsseError::NoKnownKey))?;
    Ok(VerifiedStatement { envelope: envelope.clone(), digest: payload_digest(envelope), statement, key })
}

pub(super) fn check_addressees(to: &[Addressee]) -> Result<(), EvidenceError> {
    rule((1..=MAX_RECIPIENTS).contains(&to.len()), "to", "must be 1 to 64 principals")?;
    let mut principals = HashSet::new();
    for Addressee { principal, record_sha256: _, recipients } in to {
        rule(principals.insert(principal), "to.principal", "must not stand there twice")?;
        let count = recipients.len();
        rule((1..=MAX_KEYS * MAX_KEYS).contains(&count), "to.recipients", "must be 1 to 64")?;
        let distinct = recipients.iter().collect::<HashSet<_>>().len() == count;
        rule(distinct, "to.recipients", "must not stand there twice")?;
    }
    Ok(())
}

/// Checks the statement's end against the time of creation: still ahead, and at most 366 days away.
///
/// # Errors
/// [`EvidenceError::Rule`].
pub fn check_statement_times(statement: &Statement, now_ms: u64) -> Result<(), EvidenceError> {
    rule(statement.exp_ms > now_ms, "exp_ms", "must be in the future")?;
    rule(statement.exp_ms <= now_ms.saturating_add(MAX_LIFE_MS), "exp_ms", "must be at most 366 days ahead")
}

/// What a receipt proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The node was to be believed when it signed.
    Valid,
    /// The node was not active in the document that the receipt quotes, or is known to have been compromised by
    /// the time of the receipt. It may be true; it proves nothing.
    NotProof,
}

/// A receipt whose signature is a node's.
#[derive(Debug, Clone)]
pub struct VerifiedReceipt {
    /// The envelope as it came.
    pub envelope: Envelope,
    /// SHA-256 of its payload: what the slot's next receipt names.
    pub digest: Digest,
    /// What it says.
    pub receipt: Receipt,
    /// Whether it proves it.
    pub standing: Standing,
}

/// Verifies a node's receipt by all documents known here.
///
/// # Errors
/// See [`EvidenceError`]; [`EvidenceError::DocumentAhead`] asks for newer documents first.
pub fn verify_receipt(view: &ClusterView, envelope: &Envelope) -> Result<VerifiedReceipt, EvidenceError> {
    let receipt: Receipt = parse(envelope)?;
    rule(receipt.cluster == view.id(), "cluster", "must be this cluster")?;
    let first = receipt.kind == ReceiptKind::Created;
    rule(first == receipt.prev.is_none(), "prev", "must be null for created and for nothing else")?;
    let standing = by_node::<Receipt>(view, envelope, &receipt.node, receipt.doc, receipt.at_ms)?;
    Ok(VerifiedReceipt { envelope: envelope.clone(), digest: payload_digest(envelope), receipt, standing })
}

/// What a node says, at a time, when the document of this number was the newest: whether it signed, and what that proves.
fn by_node<P: Payload>(
    view: &ClusterView,
    envelope: &Envelope,
    node: &KeyId,
    doc: u32,
    at_ms: u64,
) -> Result<Standing, EvidenceError> {
    let Some(quoted) = view.document(doc) else { return Err(EvidenceError::DocumentAhead { quoted: doc }) };
    let named = view.documents().find_map(|document| document.node(node));
    let signer = named.ok_or(EvidenceError::UnknownNode(*node))?;
    rule(envelope.signatures.len() == 1, "signatures", "must be one")?;
    dsse::verify(envelope, P::TYPE, &[&signer.key])?;
    let active = quoted.node(node).is_some_and(|node| node.state == NodeState::Active);
    let later = view.documents().filter(|document| document.number() > doc);
    let spoilt = later
        .filter_map(|document| document.node(node))
        .any(|node| node.state == NodeState::Compromised && node.since_ms <= at_ms);
    Ok(if active && !spoilt { Standing::Valid } else { Standing::NotProof })
}

/// What a node says of where a wrap's content is from.
#[derive(Debug, Clone)]
pub struct VerifiedOrigin {
    /// What it says.
    pub origin: Origin,
    /// Whether it proves it.
    pub standing: Standing,
}

/// Verifies what a statement says of its origin, if it says anything: that a node signed it, over this very wrap,
/// writer, recipient and ciphertext.
///
/// # Errors
/// See [`EvidenceError`]; [`EvidenceError::DocumentAhead`] asks for newer documents first.
pub fn verify_origin(view: &ClusterView, statement: &Statement) -> Result<Option<VerifiedOrigin>, EvidenceError> {
    let Some(envelope) = &statement.origin else { return Ok(None) };
    let origin: Origin = parse(envelope)?;
    rule(origin.cluster == view.id(), "origin.cluster", "must be this cluster")?;
    rule(origin.wrap == statement.wrap, "origin.wrap", "must be this wrap")?;
    rule(origin.from == statement.from, "origin.from", "must be the writer")?;
    let alone = statement.to.iter().map(|addressee| addressee.principal).eq([origin.to]);
    rule(alone, "origin.to", "must be the one recipient")?;
    rule(origin.ct == statement.ct, "origin.ct", "must be this ciphertext")?;
    let standing = by_node::<Origin>(view, envelope, &origin.node, origin.doc, origin.at_ms)?;
    Ok(Some(VerifiedOrigin { origin, standing }))
}

/// Checks that `receipts` are those of one slot, oldest first, and that none is missing between: each names the
/// one before, the first names `created`.
///
/// # Errors
/// [`EvidenceError::Rule`].
pub fn check_receipt_chain(created: &VerifiedReceipt, receipts: &[VerifiedReceipt]) -> Result<(), EvidenceError> {
    rule(created.receipt.kind == ReceiptKind::Created, "kind", "must be created for the first")?;
    let slot = receipts.first().map(|first| first.receipt.slot);
    let mut before = created.digest;
    for VerifiedReceipt { digest, receipt, .. } in receipts {
        rule(receipt.wrap == created.receipt.wrap, "wrap", "must be the same in all")?;
        let same = receipt.statement_sha256 == created.receipt.statement_sha256;
        rule(same, "statement_sha256", "must be the same in all")?;
        rule(Some(receipt.slot) == slot, "slot", "must be the same in all")?;
        rule(receipt.prev == Some(before), "prev", "must be the digest of the receipt before")?;
        before = *digest;
    }
    Ok(())
}
