//! The epoch advance: every unseal replaces root key, shares, intermediate keys, challenge key, barrier term and
//! history in one commit, so that what opened the seal yesterday opens only yesterday's copy.

use super::epoch::Epoch;
use super::keyring::Keyring;
use super::open::{Accounted, Opened};
use super::{SealError, row};
use crate::head::{AuditPosition, Head};
use crate::record::{Batch, Precondition, Sequence, StoreKey, Table};
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::random::{Rng, draw};
use bulla_wire::api::LineageEntry;
use bulla_wire::dsse::Envelope;
use bulla_wire::id::{ClusterId, Digest, Lineage};
use bulla_wire::json;

/// What goes into the commit besides the keys.
#[derive(Debug)]
pub struct AdvanceRequest<'a> {
    /// The documents; the admins of the newest one get the shares.
    pub view: &'a ClusterView,
    /// Number of the first document that is not in the store yet, or one above the newest.
    pub documents_from: u32,
    /// Approvals of genesis that came with the shares, each at its admin's place in genesis.
    pub approvals: &'a [(u8, Envelope)],
    /// Number of the first free consent row.
    pub consents_from: u32,
    /// Where the audit log stands.
    pub audit: AuditPosition,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// A new epoch, not yet committed. If its commit fails, all of it is dropped and the seal is read again.
pub struct Advance {
    /// Conditional on configuration and head being as they were read. It writes the head row itself, so no head
    /// source may be set yet.
    pub batch: Batch,
    /// The cluster's keys from the commit on.
    pub keyring: Keyring,
    /// The head row in the batch: the next transaction's sequence is above its own.
    pub head: Head,
    /// The new history.
    pub lineage: LineageEntry,
    /// The new epoch.
    pub epoch: u64,
    /// SHA-256 of the new configuration.
    pub config_sha256: Digest,
    /// The cluster.
    pub cluster: ClusterId,
}

/// Makes the batch that begins the next epoch. Every share in it was opened again, and the keyring with them.
///
/// # Errors
/// See [`SealError`]; nothing was written.
pub fn advance(
    opened: Opened,
    accounted: Accounted,
    request: &AdvanceRequest<'_>,
    rng: &mut dyn Rng,
) -> Result<Advance, SealError> {
    let Opened { mut keyring, head, config, config_digest, config_revision, head_revision, restored } = opened;
    let newest = request.view.newest();
    if request.view.id() != config.cluster {
        return Err(SealError::OtherCluster);
    }
    if newest.number() < keyring.document {
        return Err(SealError::DocumentRolledBack { newest: newest.number(), known: keyring.document });
    }
    if accounted.kept != head.position() {
        return Err(SealError::NotAccounted);
    }
    let sequence = head.sequence.0.checked_add(1).ok_or(SealError::Exhausted("sequence"))?;
    let epoch = config.epoch.checked_add(1).ok_or(SealError::Exhausted("epoch"))?;
    let lineage = LineageEntry { epoch, lineage: Lineage::new(draw(rng)), first_sequence: sequence };
    keyring.begin_epoch(lineage.clone(), newest.number(), rng);
    let made = Epoch::deal(config.cluster, Some(config_digest), newest, &keyring, rng)?;

    let mut batch = Batch::default();
    batch.require(Table::Plain, row::key(row::CONFIG)?, Precondition::At(config_revision));
    batch.require(Table::Plain, StoreKey::head(), Precondition::At(head_revision));
    if restored {
        batch.delete(Table::Plain, row::key(row::RESTORED)?);
    }
    for (key, value) in made.rows(rng)? {
        batch.put(Table::Plain, key, value);
    }
    for index in made.config.n()..config.n() {
        batch.delete(Table::Plain, row::share_key(index)?);
    }
    statements(&mut batch, request, &accounted, rng)?;
    let head = Head {
        sequence: Sequence(sequence),
        lineage: lineage.lineage,
        commit_ms: request.now_ms,
        audit: request.audit,
        ..head
    };
    let row = head.encode(&keyring.head, &config.cluster, row::fresh_revision(rng))?;
    batch.put(Table::Plain, StoreKey::head(), row);
    batch.admissible()?;
    let (config_sha256, cluster) = (made.config_digest(), config.cluster);
    Ok(Advance { batch, keyring, head, lineage, epoch, config_sha256, cluster })
}

/// Documents, approvals and the consent that came while the node was sealed.
fn statements(
    batch: &mut Batch,
    request: &AdvanceRequest<'_>,
    accounted: &Accounted,
    rng: &mut dyn Rng,
) -> Result<(), SealError> {
    let new = request.view.documents().filter(|document| document.number() >= request.documents_from);
    for document in new {
        let value = row::encode(&json::to_vec(document.envelope()), rng)?;
        batch.create(Table::Plain, row::document_key(document.number())?, value);
    }
    for (index, approval) in request.approvals {
        batch.put(Table::Plain, row::approval_key(*index)?, row::encode(&json::to_vec(approval), rng)?);
    }
    if let Some(consent) = &accounted.consent {
        let value = row::encode(&json::to_vec(consent), rng)?;
        batch.create(Table::Plain, row::consent_key(request.consents_from)?, value);
    }
    Ok(())
}
