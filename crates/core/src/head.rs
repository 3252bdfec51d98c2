//! The head row: how far the store's history has come (`spec/barrier.md`).
//!
//! One row a store transaction, with a MAC under a key of the keyring that is checked at unseal. Held: no
//! field can be altered without the key, and a head of another epoch's history is refused. Not held: a
//! store that puts back an older head of the *same* history together with everything else; that is what
//! the audit file and the clients' memory are for.

pub use crate::audit::AuditPosition;
use crate::record::{HEAD_TAG, RecordError, Revision, SealedValue, Sequence};
use bulla_crypto::digest::{equal, framed, hmac_sha256};
use bulla_crypto::secret::SecretKey;
use bulla_wire::evidence::Position;
use bulla_wire::id::{ClusterId, Digest, Lineage};
use std::fmt;

/// Length of the row.
pub const HEAD_BYTES: usize = 141;
const MAC_BYTES: usize = 32;

/// The content of the head row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many store transactions there were. Never restarts.
    pub sequence: Sequence,
    /// The history that the transaction belongs to.
    pub lineage: Lineage,
    /// Unix minute below which nonces are refused. Never falls.
    pub mark: u32,
    /// Milliseconds for which the cluster was unsealed, ever.
    pub active_ms: u64,
    /// When the transaction was committed, Unix milliseconds.
    pub commit_ms: u64,
    /// The last audit line known to be on disk.
    pub audit: AuditPosition,
}

/// Why a row is no head of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// It has not the form of a head row.
    Form,
    /// It was altered, or it is another cluster's.
    Mac,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "the head row has not the form of one",
            Self::Mac => "the head row was altered in the store, or is another cluster's",
        })
    }
}

impl std::error::Error for HeadError {}

impl Head {
    /// The position in the store's history.
    pub fn position(&self) -> Position {
        Position { lineage: self.lineage, sequence: self.sequence.0 }
    }

    /// Writes the row.
    ///
    /// # Errors
    /// None occurs: the row's length lies within the store's limits.
    pub fn encode(&self, key: &SecretKey, cluster: &ClusterId, revision: Revision) -> Result<SealedValue, RecordError> {
        let Self { sequence, lineage, mark, active_ms, commit_ms, audit } = self;
        let AuditPosition { file, offset, n, hash } = audit;
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.push(HEAD_TAG);
        bytes.extend([0; 4]);
        bytes.extend(revision.0.to_be_bytes());
        bytes.extend(sequence.0.to_be_bytes());
        bytes.extend(lineage.as_bytes());
        bytes.extend(mark.to_be_bytes());
        bytes.extend(active_ms.to_be_bytes());
        bytes.extend(commit_ms.to_be_bytes());
        bytes.extend(file.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(n.to_be_bytes());
        bytes.extend(hash.as_bytes());
        bytes.extend(mac(key, cluster, &bytes));
        SealedValue::new(bytes)
    }

    /// Reads a row and checks its MAC.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn verify(row: &SealedValue, key: &SecretKey, cluster: &ClusterId) -> Result<Self, HeadError> {
        let head = Self::parse_unverified(row)?;
        let (body, claimed) = row.as_bytes().split_last_chunk::<MAC_BYTES>().ok_or(HeadError::Form)?;
        if equal(&mac(key, cluster, body), claimed) { Ok(head) } else { Err(HeadError::Mac) }
    }

    /// Reads a row without its key: what a sealed node shows. Nobody may rely on it.
    ///
    /// # Errors
    /// [`HeadError::Form`].
    pub fn parse_unverified(row: &SealedValue) -> Result<Self, HeadError> {
        let bytes: &[u8; HEAD_BYTES] = row.as_bytes().try_into().map_err(|_| HeadError::Form)?;
        let mut rest = Fields(bytes.as_slice());
        if rest.take::<5>()? != [HEAD_TAG, 0, 0, 0, 0] {
            return Err(HeadError::Form);
        }
        let _revision = rest.take::<8>()?;
        Ok(Self {
            sequence: Sequence(u64::from_be_bytes(rest.take()?)),
            lineage: Lineage::new(rest.take()?),
            mark: u32::from_be_bytes(rest.take()?),
            active_ms: u64::from_be_bytes(rest.take()?),
            commit_ms: u64::from_be_bytes(rest.take()?),
            audit: AuditPosition {
                file: u32::from_be_bytes(rest.take()?),
                offset: u64::from_be_bytes(rest.take()?),
                n: u64::from_be_bytes(rest.take()?),
                hash: Digest::new(rest.take()?),
            },
        })
    }
}

fn mac(key: &SecretKey, cluster: &ClusterId, body: &[u8]) -> [u8; MAC_BYTES] {
    hmac_sha256(key.expose(), &[b"bulla/v1/head", &framed(&[cluster.as_bytes()]), body])
}

/// Fixed-size fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], HeadError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(HeadError::Form)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            sequence: Sequence(0x0102_0304),
            lineage: Lineage::new([5; 16]),
            mark: 29_000_000,
            active_ms: 7,
            commit_ms: 1_800_000_000_000,
            audit: AuditPosition { file: 3, offset: 4096, n: 12, hash: Digest::new([9; 32]) },
        }
    }

    #[test]
    fn a_head_comes_back_and_shows_its_sequence_to_the_store() {
        let key = SecretKey::new([1; 32]);
        let cluster = ClusterId::new([2; 32]);
        let row = head().encode(&key, &cluster, Revision(77)).unwrap();
        assert_eq!(row.as_bytes().len(), HEAD_BYTES);
        assert_eq!((row.revision(), row.head_sequence()), (Revision(77), Some(Sequence(0x0102_0304))));
        assert_eq!(Head::verify(&row, &key, &cluster), Ok(head()));
        assert_eq!(Head::parse_unverified(&row), Ok(head()));
        assert_eq!(Head::verify(&row, &SecretKey::new([2; 32]), &cluster), Err(HeadError::Mac));
        assert_eq!(Head::verify(&row, &key, &ClusterId::new([1; 32])), Err(HeadError::Mac));
    }

    #[test]
    fn every_byte_of_a_head_counts() {
        let key = SecretKey::new([1; 32]);
        let cluster = ClusterId::new([2; 32]);
        let row = head().encode(&key, &cluster, Revision(77)).unwrap().into_bytes();
        for place in 0..row.len() {
            let mut bytes = row.clone();
            bytes[place] ^= 0x10;
            assert!(Head::verify(&SealedValue::new(bytes).unwrap(), &key, &cluster).is_err(), "byte {place}");
        }
        for length in [13, HEAD_BYTES - 1] {
            let cut = SealedValue::new(&row[..length]).unwrap();
            assert_eq!(Head::verify(&cut, &key, &cluster), Err(HeadError::Form));
        }
        let longer = SealedValue::new([&row[..], &[0]].concat()).unwrap();
        assert_eq!(Head::verify(&longer, &key, &cluster), Err(HeadError::Form));
    }
}
