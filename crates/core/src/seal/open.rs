//! From a root key to the cluster's keys, and the question whether the store lost something.

use super::SealError;
use super::keyring::Keyring;
use super::root::RootKey;
use super::stored::{SealConfig, StoredSeal};
use crate::head::Head;
use crate::record::Revision;
use bulla_crypto::digest::equal;
use bulla_crypto::evidence::{ClusterView, verify_consent};
use bulla_crypto::random::Rng;
use bulla_crypto::secret::SecretKey;
use bulla_wire::api::LineageEntry;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Consent, EXCUSE_SKEW_MS, MAX_EARLIER, Position};
use bulla_wire::id::{ClusterId, Digest};
use bulla_wire::json::V1;
use std::fmt;

/// A seal whose every row was found true. The node is still sealed: the epoch must advance first.
pub struct Opened {
    /// All keys of the epoch that was opened.
    pub keyring: Keyring,
    /// The head, authenticated.
    pub head: Head,
    pub(super) config: SealConfig,
    pub(super) config_digest: Digest,
    pub(super) config_revision: Revision,
    pub(super) head_revision: Revision,
    pub(super) restored: bool,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened(epoch {})", self.config.epoch)
    }
}

impl Opened {
    /// The configuration, authenticated.
    pub fn config(&self) -> &SealConfig {
        &self.config
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.config.cluster
    }

    /// Whether the store was filled from a snapshot and not opened since: then it lost whatever came after.
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// Takes the ingress key of a rekey. The advance that follows deals the shares.
    #[must_use]
    pub fn rekeyed(mut self, ingress: SecretKey, rng: &mut dyn Rng) -> Self {
        self.keyring.rekey(ingress, rng);
        self
    }
}

/// Opens the seal with the root key of its epoch.
///
/// # Errors
/// [`SealError::CheckValue`], [`SealError::ConfigMac`], [`SealError::Keyring`], [`SealError::Head`] or
/// [`SealError::HeadLineage`], in the order of the checks.
pub fn open(root: &RootKey, stored: &StoredSeal) -> Result<Opened, SealError> {
    let SealConfig { cluster, epoch, lineage, kcv, .. } = &stored.config;
    if !equal(root.check_value(cluster, *epoch).expose(), &kcv.0) {
        return Err(SealError::CheckValue);
    }
    if !equal(&root.config_mac(cluster, *epoch, &stored.config_bytes), &stored.config_mac) {
        return Err(SealError::ConfigMac);
    }
    let keyring = Keyring::open(root, cluster, *epoch, &stored.keyring)?;
    let newest = keyring.lineage().ok_or(SealError::Keyring)?;
    if newest.epoch != *epoch || newest.lineage != *lineage {
        return Err(SealError::Keyring);
    }
    let head = Head::verify(&stored.head_row, &keyring.head, cluster).map_err(SealError::Head)?;
    if head.lineage != *lineage {
        return Err(SealError::HeadLineage);
    }
    Ok(Opened {
        keyring,
        head,
        config: stored.config.clone(),
        config_digest: stored.config_digest(),
        config_revision: stored.config_revision,
        head_revision: stored.head_row.revision(),
        restored: stored.restored,
    })
}

/// The seal of a running cluster, whose keys are at hand and whose root key is forgotten: what was dealt last must
/// still stand in the store. The marks of the head are those in memory, which are never behind.
///
/// # Errors
/// [`SealError::ConfigMac`] if the configuration is not the one that was dealt; [`SealError::Head`] or
/// [`SealError::HeadLineage`].
pub fn reopen(
    keyring: Keyring,
    config_sha256: &Digest,
    stored: &StoredSeal,
    mark: u32,
    active_ms: u64,
) -> Result<Opened, SealError> {
    if stored.config_digest() != *config_sha256 {
        return Err(SealError::ConfigMac);
    }
    let head = Head::verify(&stored.head_row, &keyring.head, &stored.config.cluster).map_err(SealError::Head)?;
    if head.lineage != stored.config.lineage {
        return Err(SealError::HeadLineage);
    }
    let head = Head { mark: head.mark.max(mark), active_ms: head.active_ms.max(active_ms), ..head };
    Ok(Opened {
        keyring,
        head,
        config: stored.config.clone(),
        config_digest: *config_sha256,
        config_revision: stored.config_revision,
        head_revision: stored.head_row.revision(),
        restored: stored.restored,
    })
}

/// The store holds less than the audit file remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// What was reached.
    pub lost: Position,
    /// What the store holds.
    pub kept: Position,
}

/// The store's history is complete as far as the audit file knows, or k admins accept what it lost. Made by
/// [`lost_commits`] and [`Lost::accept`] only; [`super::advance()`] demands it.
#[derive(Debug)]
pub struct Accounted {
    pub(super) kept: Position,
    pub(super) consent: Option<Envelope>,
}

/// Compares the head with the last position that the audit file quotes; `None` if it quotes none. A snapshot that was
/// put back always lost something, whether the audit file knows it or was put back with it.
///
/// # Errors
/// [`Lost`]: the node stays sealed.
pub fn lost_commits(opened: &Opened, quoted: Option<Position>) -> Result<Accounted, Lost> {
    let kept = opened.head.position();
    match quoted {
        Some(lost) if !reached(&opened.keyring.lineages, kept, lost) => Err(Lost { lost, kept }),
        _ if opened.restored => Err(Lost::unknown(opened)),
        _ => Ok(Accounted { kept, consent: None }),
    }
}

impl Lost {
    /// The audit log cannot tell what was reached, since it lacks lines or is no newer than the store: what the store
    /// holds, or more.
    pub fn unknown(opened: &Opened) -> Self {
        let kept = opened.head.position();
        Self { lost: kept, kept }
    }

    /// Whether a commit that the audit log quotes is one of those that the store lost.
    pub fn covers(&self, lineages: &[LineageEntry], quoted: Position) -> bool {
        !reached(lineages, self.kept, quoted)
    }

    /// The histories of what the audit log quotes and the store lost, but for the one in which the log ends: each with
    /// its highest quote, in the order of their first ones. The newest, if they are too many.
    pub fn earlier(&self, lineages: &[LineageEntry], quoted: impl IntoIterator<Item = Position>) -> Vec<Position> {
        let mut found: Vec<Position> = Vec::new();
        for position in quoted {
            if position.lineage == self.lost.lineage || !self.covers(lineages, position) {
                continue;
            }
            // Nearly all lines are of the history that was met last.
            match found.iter_mut().rev().find(|old| old.lineage == position.lineage) {
                Some(old) => old.sequence = old.sequence.max(position.sequence),
                None => found.push(position),
            }
        }
        found.split_off(found.len().saturating_sub(MAX_EARLIER))
    }

    /// What k admins are asked to sign.
    pub fn consent(&self, cluster: ClusterId, earlier: Vec<Position>) -> Consent {
        Consent { v: V1, cluster, lost: self.lost, kept: self.kept, earlier, excused_until_ms: None }
    }

    /// Takes the consent of k admins of the newest document to exactly this loss. Whether it excuses clients, and until
    /// when, is the admins' to say; but not for times to come.
    ///
    /// # Errors
    /// [`SealError::Consent`], [`SealError::OtherConsent`] or [`SealError::ConsentAhead`].
    pub fn accept(
        &self,
        view: &ClusterView,
        earlier: Vec<Position>,
        envelope: &Envelope,
        now_ms: u64,
    ) -> Result<Accounted, SealError> {
        let consent = verify_consent(view, envelope, view.newest().number()).map_err(SealError::Consent)?;
        let excused_until_ms = consent.excused_until_ms;
        if consent != (Consent { excused_until_ms, ..self.consent(view.id(), earlier) }) {
            return Err(SealError::OtherConsent);
        }
        if excused_until_ms.is_some_and(|until_ms| until_ms > now_ms.saturating_add(EXCUSE_SKEW_MS)) {
            return Err(SealError::ConsentAhead);
        }
        Ok(Accounted { kept: self.kept, consent: Some(envelope.clone()) })
    }
}

/// Whether a store at `kept` once stood at `quoted`. A history that has ended reached what lies below the first
/// sequence of the next.
fn reached(lineages: &[LineageEntry], kept: Position, quoted: Position) -> bool {
    if quoted.lineage == kept.lineage {
        return quoted.sequence <= kept.sequence;
    }
    let mut later = lineages.iter().skip_while(|entry| entry.lineage != quoted.lineage).skip(1);
    later.next().is_some_and(|next| quoted.sequence < next.first_sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_wire::id::Lineage;

    #[test]
    fn a_store_has_reached_what_its_histories_say() {
        let lineage = |n: u8| Lineage::new([n; 16]);
        let entry = |n: u8, first_sequence| LineageEntry { epoch: n.into(), lineage: lineage(n), first_sequence };
        let lineages = [entry(1, 1), entry(2, 10), entry(3, 10), entry(4, 20)];
        let kept = Position { lineage: lineage(4), sequence: 25 };
        for (n, sequence, expected) in [
            (4, 0, true),
            (4, 25, true),
            (4, 26, false),
            (3, 19, true),
            (3, 20, false),
            (2, 9, true),
            (2, 10, false),
            (1, 9, true),
            (1, 10, false),
            (5, 1, false),
        ] {
            let quoted = Position { lineage: lineage(n), sequence };
            assert_eq!(reached(&lineages, kept, quoted), expected, "{n} {sequence}");
        }
    }
}
