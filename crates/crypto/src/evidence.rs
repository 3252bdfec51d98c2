//! Who exists, and who says so: records, admissions, cluster documents, statements and receipts, verified
//! (`spec/evidence.md`, `spec/wrap.md`).
//!
//! A type of this module exists only if everything its page demands was checked, so whoever holds a
//! [`Record`] or a [`ClusterView`] need not check again. Digests and signatures are always over the
//! payload's bytes as they came; nothing is serialised again before a check.
//!
//! The chain of belief: a pin (cluster id, or admins and k) → genesis → documents, each signed by k admins
//! of the one before → enrollers, whose admissions bind names to records → keys; and → nodes, whose
//! receipts tell what happened.
//!
//! Not held: a server can hide a newer document, record or admission. Whoever remembers the highest
//! numbers that it saw notices when they fall.

mod admission;
mod bundle;
mod cluster;
mod document;
mod kv;
mod record;
mod wrap;

pub use admission::{
    AdmissionDraft, VerifiedAdmission, VerifiedRecovery, verify_admission, verify_approvals, verify_consent,
    verify_policy_recovery,
};
pub use bundle::{BundleDraft, BundledPrincipal, VerifiedBundle};
pub use cluster::{AdminSet, ClusterView, genesis_payload};
pub use document::{DocumentDraft, Node, VerifiedDocument};
pub use kv::verify_sealed;
pub use record::{PrincipalKey, Record, RecordChain, record_payload};
pub use wrap::{
    Standing, VerifiedOrigin, VerifiedReceipt, VerifiedStatement, check_receipt_chain, check_statement_times,
    verify_origin, verify_receipt, verify_statement, verify_statement_by,
};

use crate::dsse::{self, DsseError};
use crate::recipient::RecipientError;
use crate::sign::{PublicKeyError, SignError, Signer, SigningKey};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence as wire;
use bulla_wire::id::{Digest, KeyId};
use bulla_wire::json::{self, JsonError, MAX_STATEMENT_BYTES};
use bulla_wire::kv::{SEALED_TYPE, SealedStatement};
use bulla_wire::snapshot::{MANIFEST_TYPE, Manifest};
use bulla_wire::wrap::{ORIGIN_TYPE, Origin, RECEIPT_TYPE, Receipt, STATEMENT_TYPE, Statement};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// A payload of a signed statement, with its media type.
pub trait Payload: Serialize + DeserializeOwned {
    /// `payloadType` of its envelopes.
    const TYPE: &'static str;
}

macro_rules! payloads {
    ($($type:ty = $media:expr;)*) => { $(impl Payload for $type { const TYPE: &'static str = $media; })* };
}
payloads! {
    wire::PrincipalRecord = wire::PRINCIPAL_TYPE;
    wire::Admission = wire::ADMISSION_TYPE;
    wire::Document = wire::DOCUMENT_TYPE;
    wire::GenesisApproval = wire::GENESIS_TYPE;
    wire::Consent = wire::CONSENT_TYPE;
    wire::PolicyRecovery = wire::POLICY_RECOVERY_TYPE;
    wire::Bundle = wire::BUNDLE_TYPE;
    Statement = STATEMENT_TYPE;
    Receipt = RECEIPT_TYPE;
    Origin = ORIGIN_TYPE;
    SealedStatement = SEALED_TYPE;
    Manifest = MANIFEST_TYPE;
}

/// Writes a payload and has it signed by all `signers`. Whoever makes an envelope opens it afterwards, as
/// strangers will: this checks nothing.
///
/// # Errors
/// The first signer's error; no envelope is made then.
pub async fn sign<P: Payload>(payload: &P, signers: &[&dyn Signer]) -> Result<Envelope, SignError> {
    dsse::sign(P::TYPE, json::to_vec(payload), signers).await
}

/// As [`sign`], with keys in memory, which need no waiting. Without keys it makes the unsigned envelope
/// of a genesis document.
///
/// # Errors
/// As [`sign`].
pub fn sign_in_memory<P: Payload>(payload: &P, keys: &[&SigningKey]) -> Result<Envelope, SignError> {
    dsse::sign_in_memory(P::TYPE, json::to_vec(payload), keys)
}

/// SHA-256 of an envelope's payload bytes: how statements name each other.
pub fn payload_digest(envelope: &Envelope) -> Digest {
    Digest::new(crate::digest::sha256(&[&envelope.payload]))
}

/// Why a signed statement is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvidenceError {
    /// The envelope does not verify.
    Signature(DsseError),
    /// The payload is not the JSON that it must be.
    Payload(JsonError),
    /// A signing key in it may not be used.
    Key(PublicKeyError),
    /// An age recipient in it may not be used.
    Recipient(RecipientError),
    /// A rule of the format is broken.
    Rule {
        /// The field at fault.
        field: &'static str,
        /// What must hold.
        rule: &'static str,
    },
    /// A key that must sign did not.
    NotSignedBy(KeyId),
    /// A record of a version above 1 cannot be judged without the one before.
    PreviousNeeded,
    /// Fewer admins signed than are needed.
    TooFewAdmins {
        /// How many did.
        have: usize,
        /// How many must.
        need: usize,
    },
    /// A node signed that stands in no document.
    UnknownNode(KeyId),
    /// The statement quotes a document that is newer than the newest one here: read the documents first.
    DocumentAhead {
        /// The document it quotes.
        quoted: u32,
    },
    /// The documents do not begin at what was pinned.
    OtherPin,
    /// The admins are not those that are expected.
    OtherAdmins,
    /// The admins are those that are expected, but another number of them decides.
    OtherK {
        /// How many are expected.
        pinned: u8,
        /// How many it says.
        told: u8,
    },
    /// It ended before now.
    Expired {
        /// When, Unix milliseconds.
        exp_ms: u64,
    },
    /// Something is wrong with a principal of a bundle.
    Bundled {
        /// Its place in the list.
        index: usize,
        /// What.
        cause: Box<Self>,
    },
}

/// Shorthand for the most common refusal.
pub(crate) fn rule(holds: bool, field: &'static str, rule: &'static str) -> Result<(), EvidenceError> {
    if holds { Ok(()) } else { Err(EvidenceError::Rule { field, rule }) }
}

/// Parses the payload of `envelope`, whose type must be `P`'s. Nothing is verified yet.
pub(crate) fn parse<P: Payload>(envelope: &Envelope) -> Result<P, EvidenceError> {
    if envelope.payload_type != P::TYPE {
        return Err(EvidenceError::Signature(DsseError::OtherType { found: envelope.payload_type.clone() }));
    }
    json::parse(&envelope.payload, MAX_STATEMENT_BYTES).map_err(EvidenceError::Payload)
}

impl fmt::Display for EvidenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature(_) => f.write_str("the signed statement does not verify"),
            Self::Payload(_) => f.write_str("the signed statement is not well formed"),
            Self::Key(_) => f.write_str("a signing key in it may not be used"),
            Self::Recipient(_) => f.write_str("an age recipient in it may not be used"),
            Self::Rule { field, rule } => write!(f, "{field}: {rule}"),
            Self::NotSignedBy(key) => write!(f, "the signature of {key} is missing"),
            Self::PreviousNeeded => f.write_str("this record can be judged only with the version before it"),
            Self::TooFewAdmins { have, need } => write!(f, "{have} admins signed, {need} are needed"),
            Self::UnknownNode(key) => write!(f, "signed by {key}, which is no node of this cluster"),
            Self::DocumentAhead { quoted } => write!(f, "it quotes document {quoted}, which is not known here yet"),
            Self::OtherPin => f.write_str("the cluster is not the one that was pinned"),
            Self::OtherAdmins => f.write_str("its admins are not those that are expected"),
            Self::OtherK { pinned, told } => write!(f, "{told} of its admins decide, but {pinned} are expected to"),
            Self::Expired { .. } => f.write_str("it has expired"),
            Self::Bundled { index, .. } => write!(f, "principals[{index}] does not hold"),
        }
    }
}

impl std::error::Error for EvidenceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Signature(cause) => Some(cause),
            Self::Payload(cause) => Some(cause),
            Self::Key(cause) => Some(cause),
            Self::Recipient(cause) => Some(cause),
            Self::Bundled { cause, .. } => Some(cause),
            Self::Rule { .. }
            | Self::NotSignedBy(_)
            | Self::PreviousNeeded
            | Self::TooFewAdmins { .. }
            | Self::UnknownNode(_)
            | Self::DocumentAhead { .. }
            | Self::OtherPin
            | Self::OtherAdmins
            | Self::OtherK { .. }
            | Self::Expired { .. } => None,
        }
    }
}

impl From<DsseError> for EvidenceError {
    fn from(error: DsseError) -> Self {
        Self::Signature(error)
    }
}

impl From<PublicKeyError> for EvidenceError {
    fn from(error: PublicKeyError) -> Self {
        Self::Key(error)
    }
}

impl From<RecipientError> for EvidenceError {
    fn from(error: RecipientError) -> Self {
        Self::Recipient(error)
    }
}

#[cfg(test)]
mod tests;
