//! Bodies of init and of the unseal ceremony.

use crate::dsse::Envelope;
use crate::evidence::{Bytes, Consent, MinKem, SealMode};
use crate::id::{ClusterId, Digest, PrincipalId};
use crate::name::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SealState {
    /// No cluster yet.
    Uninitialised,
    /// Keys are not in memory.
    Sealed,
    /// It serves.
    Unsealed,
}

/// `POST /v1/init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// The cluster's name.
    pub name: Name,
    /// The admins' records, in the order of their shares; the signer is one of them.
    pub admins: Vec<Envelope>,
    /// Any or quorum.
    pub mode: SealMode,
    /// How many admins open the seal; 1 with `any`.
    pub k: u8,
    /// The weakest key encapsulation taken.
    pub min_kem: MinKem,
}

/// Answer of `POST /v1/init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Initialised {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Document 0, without signatures.
    pub genesis: Envelope,
}

/// How far an unseal session is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Good shares so far.
    pub have: u8,
    /// Shares needed.
    pub need: u8,
}

/// `GET /v1/seal`: the seal as the admins made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Whether it is open.
    pub state: SealState,
    /// The epoch; each unseal advances it.
    pub epoch: u64,
    /// Any or quorum.
    pub mode: SealMode,
    /// How many admins open it.
    pub k: u8,
    /// The admins in the order of their shares.
    pub admins: Vec<SealAdmin>,
    /// What this mode means for a stolen copy of the storage.
    pub warning: Option<String>,
}

/// An admin of the seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealAdmin {
    /// The principal.
    pub principal: PrincipalId,
    /// Its name.
    pub name: Name,
    /// Its share was given in the current session.
    pub given: bool,
}

/// Answer of `POST /v1/seal/session`: where an admin's key must go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnsealSession {
    /// The session.
    pub id: String,
    /// age recipient made for this session.
    pub recipient: String,
    /// The epoch that it opens.
    pub epoch: u64,
    /// SHA-256 of the seal configuration.
    pub config_sha256: Digest,
    /// When it ends, Unix milliseconds.
    pub expires_ms: u64,
    /// How far it is.
    pub progress: Progress,
}

/// Answer of `GET /v1/seal/session/{id}/key`: the caller's encrypted intermediate key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptedShareKey {
    /// Which share it is the key of, from 0.
    pub index: u8,
    /// age file to the admin's recipients (`spec/seal.md`).
    pub file: Bytes,
}

/// `POST /v1/seal/session/{id}/share`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GiveShare {
    /// Which share, from 0.
    pub index: u8,
    /// age file to the session's recipient (`spec/seal.md`).
    pub file: Bytes,
    /// The admin's approval of genesis; required with its first share.
    pub approval: Option<Envelope>,
}

/// Answer of `POST /v1/seal/session/{id}/share`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareGiven {
    /// Sealed until the last share.
    pub state: SealState,
    /// How far it is.
    pub progress: Progress,
    /// The node waits for consent to lost commits (`POST /v1/seal:consent`).
    pub consent_needed: Option<Consent>,
}

/// The answer to `POST /v1/seal:rekey`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextIngress {
    /// The recipient that the next document's `ingress` must be, if it changes the seal.
    pub ingress: String,
}
