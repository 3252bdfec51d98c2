//! Init: from nothing to a sealed cluster, in one commit that must find nothing there.

use super::epoch::Epoch;
use super::keyring::Keyring;
use super::{SealError, row};
use crate::head::{AuditPosition, Head};
use crate::record::{Batch, Sequence, StoreKey, Table};
use bulla_crypto::evidence::{ClusterView, EvidenceError, Record, genesis_payload, sign_in_memory};
use bulla_crypto::random::{Rng, draw};
use bulla_crypto::recipient::{Recipient, RecipientKind};
use bulla_crypto::sign::PublicKey;
use bulla_wire::api::Init;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::MinKem;
use bulla_wire::id::{ClusterId, KeyId, Lineage};
use bulla_wire::json::{self, MAX_STATEMENT_BYTES};
use bulla_wire::name::Name;
use std::fmt;

/// The smallest RSA key that an admin's share is encrypted to, in bits.
pub const RSA_BITS_MIN: usize = 3072;

/// What a node is asked to become, and what it adds of its own.
#[derive(Debug)]
pub struct InitRequest<'a> {
    /// The body of the request.
    pub init: &'a Init,
    /// The key that signed the request.
    pub signer: KeyId,
    /// The node's key.
    pub node: &'a PublicKey,
    /// Where the audit log stands.
    pub audit: AuditPosition,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// A new cluster, not yet committed.
pub struct Initialised {
    /// Creates every row. The caller adds the first records of the data table, sealed under [`Self::keyring`].
    pub batch: Batch,
    /// The new cluster's id.
    pub cluster: ClusterId,
    /// Document 0 as it is answered and stored, without signatures.
    pub genesis: Envelope,
    /// The same, verified: the founding admins and the node.
    pub view: ClusterView,
    /// For the first records only. The caller drops it: the node stays sealed.
    pub keyring: Keyring,
    /// The head row in the batch.
    pub head: Head,
    /// Always 1.
    pub epoch: u64,
}

/// Why a cluster was not made.
#[derive(Debug)]
pub enum InitError {
    /// An admin's record does not hold.
    Record {
        /// Its place in the request.
        index: usize,
        /// Why.
        cause: EvidenceError,
    },
    /// A recipient's key encapsulation is weaker than the cluster is to take.
    KemTooWeak {
        /// The admin.
        name: Name,
        /// Its recipient.
        recipient: Recipient,
    },
    /// The document of these admins breaks a rule: their number, k, or somebody in it twice.
    Document(EvidenceError),
    /// The signer of the request is none of the admins.
    NotAdmin,
    /// The admins' records are too large together for a document.
    TooLarge {
        /// The size of the document in bytes.
        bytes: usize,
    },
    /// The seal could not be made.
    Seal(SealError),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { index, .. } => write!(f, "the record of admin {index} does not hold"),
            Self::KemTooWeak { name, recipient } => {
                write!(f, "the recipient {recipient} of {name} is weaker than the cluster is to take")
            }
            Self::Document(_) => f.write_str("no cluster can be made of this"),
            Self::NotAdmin => f.write_str("the request is not signed by one of the admins that it names"),
            Self::TooLarge { bytes } => {
                write!(f, "the document would have {bytes} bytes, at most {MAX_STATEMENT_BYTES} are allowed")
            }
            Self::Seal(_) => f.write_str("the seal could not be made"),
        }
    }
}

impl std::error::Error for InitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Record { cause, .. } | Self::Document(cause) => Some(cause),
            Self::Seal(cause) => Some(cause),
            Self::KemTooWeak { .. } | Self::NotAdmin | Self::TooLarge { .. } => None,
        }
    }
}

impl<E: Into<SealError>> From<E> for InitError {
    fn from(error: E) -> Self {
        Self::Seal(error.into())
    }
}

/// Makes all keys of a new cluster, its genesis document, and the shares of epoch 1.
///
/// # Errors
/// See [`InitError`].
pub fn init(request: &InitRequest<'_>, rng: &mut dyn Rng) -> Result<Initialised, InitError> {
    let InitRequest { init, signer, node: _, audit, now_ms } = request;
    let founders = founders(init)?;
    if !founders.iter().any(|founder| founder.key(signer).is_some()) {
        return Err(InitError::NotAdmin);
    }
    let keyring = Keyring::generate(Lineage::new(draw(rng)), rng);
    let genesis = genesis(request, &founders, &keyring, rng)?;
    // Judged as any client will judge it.
    let view = ClusterView::unpinned(&genesis).map_err(InitError::Document)?;
    let cluster = view.id();
    let made = Epoch::deal(cluster, None, view.genesis(), &keyring, rng)?;

    let mut batch = Batch::default();
    for (key, value) in made.rows(rng)? {
        batch.create(Table::Plain, key, value);
    }
    batch.create(Table::Plain, row::document_key(0)?, row::encode(&json::to_vec(&genesis), rng)?);
    let head = Head {
        sequence: Sequence(1),
        lineage: made.config.lineage,
        mark: crate::seen::next_mark(request.now_ms),
        active_ms: 0,
        commit_ms: *now_ms,
        audit: *audit,
    };
    batch.create(Table::Plain, StoreKey::head(), head.encode(&keyring.head, &cluster, row::fresh_revision(rng))?);
    batch.admissible()?;
    Ok(Initialised { batch, cluster, genesis, view, keyring, head, epoch: made.config.epoch })
}

fn founders(init: &Init) -> Result<Vec<Record>, InitError> {
    let mut founders = Vec::new();
    for (index, envelope) in init.admins.iter().enumerate() {
        let record = Record::open(envelope, None).map_err(|cause| InitError::Record { index, cause })?;
        if let Some(recipient) = record.recipients().into_iter().find(|to| !strong_enough(init.min_kem, to)) {
            return Err(InitError::KemTooWeak { name: record.name().clone(), recipient: recipient.clone() });
        }
        founders.push(record);
    }
    Ok(founders)
}

fn strong_enough(min_kem: MinKem, recipient: &Recipient) -> bool {
    match (min_kem, recipient.kind()) {
        (MinKem::Hybrid, _) => recipient.is_hybrid(),
        (MinKem::Classical, RecipientKind::SshRsa { bits }) => bits >= RSA_BITS_MIN,
        (MinKem::Classical, _) => true,
    }
}

fn genesis(
    request: &InitRequest<'_>,
    founders: &[Record],
    keyring: &Keyring,
    rng: &mut dyn Rng,
) -> Result<Envelope, InitError> {
    let Init { name, admins: _, mode, k, min_kem } = request.init;
    let ingress = keyring.ingress_identities()?;
    let ingress = ingress.first().and_then(|identity| identity.recipients().first()).ok_or(SealError::Keyring)?;
    let document =
        genesis_payload(name.clone(), draw(rng), founders, *mode, *k, request.node, request.now_ms, ingress, *min_kem);
    let genesis = sign_in_memory(&document, &[]).map_err(|_| SealError::SelfCheck)?;
    match genesis.payload.len() {
        bytes if bytes > MAX_STATEMENT_BYTES => Err(InitError::TooLarge { bytes }),
        _ => Ok(genesis),
    }
}
