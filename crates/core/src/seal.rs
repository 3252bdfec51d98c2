//! The seal: how a cluster's keys come to be, and how admins give them back to a node (`spec/seal.md`).
//!
//! ```text
//! shares of k admins → root key of epoch e → keyring row → every key of the cluster
//! ```
//!
//! - [`init()`] makes the keys, the genesis document and epoch 1 in one batch, and leaves the node sealed.
//! - [`Sessions`] collect shares. Each is checked when it is given, so a bad one names its admin.
//! - [`open()`] checks configuration, keyring and head under the root key, and changes nothing.
//! - [`lost_commits`] compares the head with the audit file; only its answer lets [`advance()`] go on.
//! - [`advance()`] makes the batch that begins epoch e + 1. Only its commit makes the node unsealed.
//! - [`reopen()`] begins a rekey on a node that is unsealed; the same [`advance()`] deals to the admins of its document.
//!
//! Held: whatever the store altered in these rows, an unseal is refused, or gives the same keys. k − 1 admins
//! with the store learn nothing; k admins with an old copy of it open that copy, and nothing written after the
//! next unseal. Not held: with mode `any`, one admin key and a copy of the store open what the server can read.
//! A store rolled back as a whole is noticed by the audit file and the clients only.

mod advance;
mod epoch;
mod init;
mod keyring;
mod open;
mod root;
pub mod row;
mod session;
mod status;
mod stored;

pub use advance::{Advance, AdvanceRequest, advance};
pub use init::{InitError, InitRequest, Initialised, RSA_BITS_MIN, init};
pub use keyring::{Keyring, LINEAGES_MAX, TERMS_MAX};
pub use open::{Accounted, Lost, Opened, lost_commits, open, reopen};
pub use root::RootKey;
pub use session::{
    FILE_BYTES_MAX, Give, GiveOutcome, SESSION_MS, SESSIONS_MAX, Session, SessionError, Sessions, ShareFault,
};
pub use status::{Refused, Transition, diagram, next};
pub use stored::{ConfigAdmin, SealConfig, StoredSeal};

use crate::head::HeadError;
use crate::record::RecordError;
use bulla_crypto::envelope;
use bulla_crypto::evidence::EvidenceError;
use bulla_crypto::identity::IdentityError;
use bulla_crypto::shamir::SplitError;
use bulla_wire::name::Name;
use std::fmt;

/// Why the seal cannot be read, opened or made. Where the store is at fault, it says which row.
#[derive(Debug)]
pub enum SealError {
    /// A plain row is missing, malformed, or not in its place; its name, or what its name begins with.
    Row(&'static str),
    /// The shares gave no root key that the configuration knows: the configuration was altered.
    CheckValue,
    /// The configuration's MAC does not hold: it was altered.
    ConfigMac,
    /// The keyring does not open under the root key, or is not what was put there.
    Keyring,
    /// The head row does not hold.
    Head(HeadError),
    /// The head row is of another history than the epoch: it was put back or exchanged.
    HeadLineage,
    /// The newest document in the store is older than one that the keyring knows.
    DocumentRolledBack {
        /// The newest one there.
        newest: u32,
        /// The one that was there before.
        known: u32,
    },
    /// The documents are another cluster's than the seal.
    OtherCluster,
    /// The consent does not hold.
    Consent(EvidenceError),
    /// The consent is about other positions than those found.
    OtherConsent,
    /// The consent excuses what clients have yet to see.
    ConsentAhead,
    /// What was accounted for is not what was opened.
    NotAccounted,
    /// A number that only grows is used up.
    Exhausted(&'static str),
    /// An admin's share could not be encrypted to it.
    Encrypt {
        /// The admin.
        name: Name,
        /// Why.
        cause: envelope::SealError,
    },
    /// The root key could not be split.
    Split(SplitError),
    /// A hybrid identity could not be made.
    Identity(IdentityError),
    /// What was just made does not open: this machine computes wrongly. Nothing may be stored.
    SelfCheck,
    /// A row or the batch is too large for the store.
    Record(RecordError),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(name) => write!(f, "the plain row {name} is missing or damaged"),
            Self::CheckValue => f.write_str("good shares gave a wrong root key: the seal configuration was altered"),
            Self::ConfigMac => f.write_str("the seal configuration was altered in the store"),
            Self::Keyring => f.write_str("the keyring does not open: it was altered in the store"),
            Self::Head(cause) => cause.fmt(f),
            Self::HeadLineage => f.write_str("the head row is of another history than the seal"),
            Self::DocumentRolledBack { newest, known } => {
                write!(f, "the newest cluster document is {newest}, but {known} was there before")
            }
            Self::OtherCluster => f.write_str("the cluster documents are another cluster's than the seal"),
            Self::Consent(_) => f.write_str("the consent to lost commits does not hold"),
            Self::OtherConsent => f.write_str("the consent is about other positions than those found here"),
            Self::ConsentAhead => f.write_str("the consent excuses clients until a time that is still to come"),
            Self::NotAccounted => f.write_str("the store changed since its history was accounted for"),
            Self::Exhausted(what) => write!(f, "there is no further {what}"),
            Self::Encrypt { name, .. } => write!(f, "the share of {name} could not be encrypted"),
            Self::Split(_) => f.write_str("the root key could not be split"),
            Self::Identity(_) => f.write_str("a key for encryption could not be made"),
            Self::SelfCheck => f.write_str("the new seal does not open again; this machine computes wrongly"),
            Self::Record(_) => f.write_str("the seal does not fit the store"),
        }
    }
}

impl std::error::Error for SealError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Consent(cause) => Some(cause),
            Self::Encrypt { cause, .. } => Some(cause),
            Self::Split(cause) => Some(cause),
            Self::Identity(cause) => Some(cause),
            Self::Record(cause) => Some(cause),
            _ => None,
        }
    }
}

impl From<RecordError> for SealError {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}
