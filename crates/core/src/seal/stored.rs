//! What the store holds of a seal: configuration, encrypted shares, keyring and head, read in one snapshot.
//!
//! Nothing here is believed when it is parsed. Shares prove themselves against the configuration's hashes, the
//! configuration against the root key that they give, the keyring and the head against keys under that.

use super::root::RootKey;
use super::{SealError, row};
use crate::head::Head;
use crate::record::{Answer, Read, Revision, SCAN_ENTRIES_MAX, SealedValue, Snapshot, StoreKey, Table};
use bulla_crypto::digest::{equal, sha256};
use bulla_crypto::sealed::{self, OVERHEAD};
use bulla_crypto::secret::{Secret, SecretKey};
use bulla_crypto::shamir::{self, Share};
use bulla_crypto::share::{ShareContext, ShareOf, context};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Bytes, MAX_ADMINS, SealMode};
use bulla_wire::id::{ClusterId, Digest, Lineage, PrincipalId};
use bulla_wire::json::{self, MAX_JSON_BYTES, V1};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Length of a share: x ‖ y, or 0 ‖ root key.
pub(super) const SHARE_BYTES: usize = 33;
/// Length of an encrypted share.
const SEALED_SHARE_BYTES: usize = OVERHEAD + SHARE_BYTES;
const MAC_BYTES: usize = 32;

/// The seal of one epoch: who holds the shares, and how to know a good one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealConfig {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// From 1; each unseal begins a new one.
    pub epoch: u64,
    /// SHA-256 of the configuration before; null in epoch 1.
    pub prev: Option<Digest>,
    /// The history that the epoch began.
    pub lineage: Lineage,
    /// Any or quorum.
    pub mode: SealMode,
    /// How many shares open it.
    pub k: u8,
    /// The holders in the order of their shares.
    pub admins: Vec<ConfigAdmin>,
    /// The root key's check value.
    pub kcv: Bytes,
}

/// A holder in a [`SealConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigAdmin {
    /// The principal.
    pub principal: PrincipalId,
    /// The record whose recipients the share's key is encrypted to.
    pub record_sha256: Digest,
    /// Hash of the share.
    pub share_sha256: Digest,
}

impl SealConfig {
    /// How many shares there are.
    pub fn n(&self) -> u8 {
        u8::try_from(self.admins.len()).unwrap_or(u8::MAX)
    }

    /// The context of share `index`, and its holder; `None` if there is no such share.
    pub fn share(&self, index: u8) -> Option<(ShareContext, &ConfigAdmin)> {
        let admin = self.admins.get(usize::from(index))?;
        let (cluster, epoch, k, n) = (self.cluster, self.epoch, self.k, self.n());
        Some((context(&ShareOf { cluster, epoch, index, k, n, principal: admin.principal }), admin))
    }

    /// The index of an admin's share.
    pub fn index_of(&self, admin: &PrincipalId) -> Option<u8> {
        self.admins.iter().position(|holder| holder.principal == *admin).and_then(|index| u8::try_from(index).ok())
    }

    fn is_sound(&self) -> bool {
        let threshold = match self.mode {
            SealMode::Any => self.k == 1,
            SealMode::Quorum => self.k >= 2,
        };
        let distinct = self.admins.iter().enumerate().all(|(at, admin)| {
            self.admins.iter().skip(at.saturating_add(1)).all(|other| other.principal != admin.principal)
        });
        threshold && distinct && self.admins.len() <= MAX_ADMINS && self.k <= self.n() && self.epoch >= 1
    }
}

/// The seal as it was read. Made by [`StoredSeal::parse`].
pub struct StoredSeal {
    pub(super) config: SealConfig,
    pub(super) config_bytes: Vec<u8>,
    pub(super) config_mac: [u8; MAC_BYTES],
    pub(super) config_revision: Revision,
    pub(super) shares: Vec<StoredShare>,
    pub(super) keyring: Vec<u8>,
    pub(super) head_row: SealedValue,
    approvals: Vec<Envelope>,
    pub(super) restored: bool,
}

/// An encrypted share, and its key encrypted to its admin.
pub(super) struct StoredShare {
    pub(super) sealed: Vec<u8>,
    pub(super) key_file: Vec<u8>,
}

impl fmt::Debug for StoredSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredSeal(epoch {}, {} shares)", self.config.epoch, self.shares.len())
    }
}

impl StoredSeal {
    /// What to read, in one snapshot.
    ///
    /// # Errors
    /// None occurs: the names are constants.
    pub fn reads() -> Result<Vec<Read>, SealError> {
        let scan = |prefix: &str| Read::Scan {
            table: Table::Plain,
            prefix: prefix.into(),
            after: None,
            limit: SCAN_ENTRIES_MAX,
        };
        Ok(vec![
            Read::Get(Table::Plain, row::key(row::CONFIG)?),
            Read::Get(Table::Plain, row::key(row::KEYRING)?),
            Read::Get(Table::Plain, StoreKey::head()),
            scan(row::SHARES),
            scan(row::APPROVALS),
            Read::Get(Table::Plain, row::key(row::RESTORED)?),
        ])
    }

    /// Parses the answers to [`StoredSeal::reads`]; `None` if there is no cluster yet.
    ///
    /// # Errors
    /// [`SealError::Row`] names the row that is missing or malformed.
    pub fn parse(snapshot: Snapshot) -> Result<Option<Self>, SealError> {
        let mut answers = snapshot.answers.into_iter();
        let mut next = || answers.next().ok_or(SealError::Row("snapshot"));
        let (config, keyring, head) = (next()?.into_value(), next()?.into_value(), next()?.into_value());
        let (shares, approvals) = (entries(next()?)?, entries(next()?)?);
        let restored = next()?.into_value().is_some();
        let (config_row, keyring, head_row) = match (config, keyring, head) {
            (None, None, None) if shares.is_empty() => return Ok(None),
            (Some(config), Some(keyring), Some(head)) => (config, keyring, head),
            (None, ..) => return Err(SealError::Row(row::CONFIG)),
            (_, None, _) => return Err(SealError::Row(row::KEYRING)),
            (_, _, None) => return Err(SealError::Row("head")),
        };
        let content = row::content(&config_row).ok_or(SealError::Row(row::CONFIG))?;
        let (config_mac, config_bytes) = content.split_first_chunk().ok_or(SealError::Row(row::CONFIG))?;
        let config: SealConfig = json::parse(config_bytes, MAX_JSON_BYTES).map_err(|_| SealError::Row(row::CONFIG))?;
        if !config.is_sound() {
            return Err(SealError::Row(row::CONFIG));
        }
        if shares.len() != config.admins.len() {
            return Err(SealError::Row(row::SHARES));
        }
        let shares = (0..config.n()).map(|index| StoredShare::find(index, &shares)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Self {
            config_bytes: config_bytes.to_vec(),
            config_mac: *config_mac,
            config_revision: config_row.revision(),
            shares,
            keyring: row::content(&keyring).ok_or(SealError::Row(row::KEYRING))?.to_vec(),
            head_row,
            approvals: parse_approvals(&approvals)?,
            restored,
            config,
        }))
    }

    /// The configuration. Not authenticated until the seal opens.
    pub fn config(&self) -> &SealConfig {
        &self.config
    }

    /// SHA-256 of the configuration's bytes.
    pub fn config_digest(&self) -> Digest {
        Digest::new(sha256(&[&self.config_bytes]))
    }

    /// The head as it stands there, to be shown while sealed. Not authenticated until the seal opens.
    ///
    /// # Errors
    /// If it has not the form of a head.
    pub fn head_unverified(&self) -> Result<Head, SealError> {
        Head::parse_unverified(&self.head_row).map_err(SealError::Head)
    }

    /// The approvals of genesis that the store has. Nothing is verified.
    pub fn approvals(&self) -> &[Envelope] {
        &self.approvals
    }

    /// Whether the store was filled from a snapshot and not opened since.
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// The encrypted key of a share, for its holder.
    pub fn key_file(&self, index: u8) -> Option<&[u8]> {
        self.shares.get(usize::from(index)).map(|share| share.key_file.as_slice())
    }

    /// As [`open_share`], of what was read.
    pub(super) fn open_share(&self, index: u8, key: &SecretKey) -> Option<Secret<[u8; SHARE_BYTES]>> {
        open_share(&self.config, index, &self.shares, key)
    }
}

/// The share under `key`, if it is the one that the configuration knows.
pub(super) fn open_share(
    config: &SealConfig,
    index: u8,
    shares: &[StoredShare],
    key: &SecretKey,
) -> Option<Secret<[u8; SHARE_BYTES]>> {
    let (context, admin) = config.share(index)?;
    let stored = shares.get(usize::from(index))?;
    let share = sealed::open(key, context.as_bytes(), &stored.sealed).ok()?;
    let hash = context.share_hash(share.expose());
    if !equal(hash.as_bytes(), admin.share_sha256.as_bytes()) {
        return None;
    }
    Secret::from_slice(share.expose())
}

/// The root key that the first k of the shares give, if it is the one that the configuration knows.
pub(super) fn combine<'a>(
    config: &SealConfig,
    shares: impl Iterator<Item = &'a Secret<[u8; SHARE_BYTES]>>,
) -> Result<RootKey, SealError> {
    let mut shares = shares.take(usize::from(config.k));
    let key = match config.mode {
        SealMode::Any => {
            let share = shares.next().and_then(|share| share.expose().split_first());
            let (_, key) = share.filter(|(x, _)| **x == 0).ok_or(SealError::CheckValue)?;
            SecretKey::from_slice(key).ok_or(SealError::CheckValue)?
        }
        SealMode::Quorum => {
            let shares: Option<Vec<_>> = shares.map(|share| Share::from_bytes(share.expose())).collect();
            shamir::combine(&shares.ok_or(SealError::CheckValue)?).map_err(|_| SealError::CheckValue)?
        }
    };
    let root = RootKey::new(key);
    let check_value = root.check_value(&config.cluster, config.epoch);
    if equal(check_value.expose(), &config.kcv.0) { Ok(root) } else { Err(SealError::CheckValue) }
}

impl StoredShare {
    fn find(index: u8, rows: &[(StoreKey, SealedValue)]) -> Result<Self, SealError> {
        let key = row::share_key(index)?;
        let (_, value) = rows.iter().find(|(found, _)| *found == key).ok_or(SealError::Row(row::SHARES))?;
        let content = row::content(value).ok_or(SealError::Row(row::SHARES))?;
        let (sealed, key_file) = content.split_at_checked(SEALED_SHARE_BYTES).ok_or(SealError::Row(row::SHARES))?;
        Ok(Self { sealed: sealed.to_vec(), key_file: key_file.to_vec() })
    }
}

fn entries(answer: Answer) -> Result<Vec<(StoreKey, SealedValue)>, SealError> {
    answer.into_page().map(|page| page.entries).ok_or(SealError::Row("snapshot"))
}

fn parse_approvals(rows: &[(StoreKey, SealedValue)]) -> Result<Vec<Envelope>, SealError> {
    rows.iter()
        .map(|(_, value)| {
            let content = row::content(value).ok_or(SealError::Row(row::APPROVALS))?;
            json::parse(content, MAX_JSON_BYTES).map_err(|_| SealError::Row(row::APPROVALS))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_nobody_dealt_is_refused() {
        let admin = |byte: u8| ConfigAdmin {
            principal: PrincipalId::new([byte; 32]),
            record_sha256: Digest::new([1; 32]),
            share_sha256: Digest::new([2; 32]),
        };
        let admins = |n: u8| (0..n).map(admin).collect::<Vec<_>>();
        let good = SealConfig {
            v: V1,
            cluster: ClusterId::new([1; 32]),
            epoch: 1,
            prev: None,
            lineage: Lineage::new([1; 16]),
            mode: SealMode::Quorum,
            k: 2,
            admins: admins(3),
            kcv: Bytes(vec![]),
        };
        assert!(good.is_sound());
        let any = SealConfig { mode: SealMode::Any, k: 1, ..good.clone() };
        let most = SealConfig { admins: admins(16), k: 16, ..good.clone() };
        assert!(any.is_sound() && most.is_sound());
        for bad in [
            SealConfig { epoch: 0, ..good.clone() },
            SealConfig { k: 1, ..good.clone() },
            SealConfig { k: 4, ..good.clone() },
            SealConfig { k: 2, ..any.clone() },
            SealConfig { k: 0, ..any },
            SealConfig { admins: admins(17), ..good.clone() },
            SealConfig { admins: vec![admin(1), admin(2), admin(1)], ..good.clone() },
            SealConfig { admins: vec![], k: 0, ..good },
        ] {
            assert!(!bad.is_sound(), "{bad:?}");
        }
    }
}
