//! Init: from nothing to a sealed cluster, in one commit that must find nothing there.

use super::epoch::Epoch;
use super::holder::{Holder, Holders, HoldersError};
use super::keyring::Keyring;
use super::{SealError, row};
use crate::head::{AuditPosition, Head};
use crate::record::{Batch, Sequence, StoreKey, Table};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{EvidenceError, Record};
use bulla_crypto::random::{Rng, draw};
use bulla_wire::api::Init;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Bytes, DOCUMENT_TYPE, Document, NodeEntry, NodeState};
use bulla_wire::id::{ClusterId, KeyId, Lineage};
use bulla_wire::json::{self, MAX_STATEMENT_BYTES, V1};
use std::fmt;

/// What a node is asked to become, and what it adds of its own.
#[derive(Debug)]
pub struct InitRequest<'a> {
    /// The body of the request.
    pub init: &'a Init,
    /// The key that signed the request.
    pub signer: KeyId,
    /// DER `SubjectPublicKeyInfo` of the node's key.
    pub node: &'a [u8],
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
    /// The founding admins.
    pub holders: Holders,
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
    /// The admins cannot hold a seal.
    Holders(HoldersError),
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
            Self::Holders(_) => f.write_str("these admins cannot hold the seal"),
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
            Self::Record { cause, .. } => Some(cause),
            Self::Holders(cause) => Some(cause),
            Self::Seal(cause) => Some(cause),
            Self::NotAdmin | Self::TooLarge { .. } => None,
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
    let InitRequest { init, signer, audit, now_ms, .. } = request;
    let holders = founders(init)?;
    holders.by_key(signer).ok_or(InitError::NotAdmin)?;
    let keyring = Keyring::generate(Lineage::new(draw(rng)), rng);
    let genesis = genesis(request, &holders, &keyring, rng)?;
    let cluster = ClusterId::new(sha256(&[&genesis.payload]));
    let made = Epoch::deal(cluster, None, &holders, &keyring, rng)?;

    let mut batch = Batch::default();
    for (key, value) in made.rows(rng)? {
        batch.create(Table::Plain, key, value);
    }
    batch.create(Table::Plain, row::document_key(0)?, row::encode(&json::to_vec(&genesis), rng)?);
    let head = Head {
        sequence: Sequence(1),
        lineage: made.config.lineage,
        mark: 0,
        active_ms: 0,
        commit_ms: *now_ms,
        audit: *audit,
    };
    batch.create(Table::Plain, StoreKey::head(), head.encode(&keyring.head, &cluster, row::fresh_revision(rng))?);
    batch.admissible()?;
    Ok(Initialised { batch, cluster, genesis, holders, keyring, head, epoch: made.config.epoch })
}

fn founders(init: &Init) -> Result<Holders, InitError> {
    let open = |(index, envelope): (usize, &Envelope)| {
        Record::open(envelope, None).map(|record| Holder::new(&record)).map_err(|cause| InitError::Record { index, cause })
    };
    let holders = init.admins.iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
    Holders::new(init.mode, init.k, init.min_kem, holders).map_err(InitError::Holders)
}

fn genesis(
    request: &InitRequest<'_>,
    holders: &Holders,
    keyring: &Keyring,
    rng: &mut dyn Rng,
) -> Result<Envelope, InitError> {
    let Init { name, admins, mode, k, min_kem } = request.init;
    let ingress = keyring.ingress_identities()?;
    let ingress = ingress.first().and_then(|identity| identity.recipients().first()).ok_or(SealError::Keyring)?;
    let principals: Vec<_> = holders.iter().map(|holder| holder.principal).collect();
    let document = Document {
        v: V1,
        name: name.clone(),
        cluster: None,
        number: 0,
        prev: None,
        random: Bytes(draw::<32>(rng).to_vec()),
        records: admins.clone(),
        admins: principals.clone(),
        mode: *mode,
        k: *k,
        enrollers: principals,
        nodes: vec![NodeEntry {
            spki: Bytes(request.node.to_vec()),
            state: NodeState::Active,
            since_ms: request.now_ms,
        }],
        ingress: ingress.to_string(),
        min_kem: *min_kem,
    };
    let payload = json::to_vec(&document);
    if payload.len() > MAX_STATEMENT_BYTES {
        return Err(InitError::TooLarge { bytes: payload.len() });
    }
    Ok(Envelope { payload_type: DOCUMENT_TYPE.to_owned(), payload, signatures: Vec::new() })
}
