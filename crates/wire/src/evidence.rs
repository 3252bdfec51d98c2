//! Payloads of signed statements: who exists, who says so, who runs the cluster (`spec/evidence.md`).
//!
//! A payload is JSON inside a DSSE envelope. What is signed and hashed are the payload's *bytes as they
//! were written*; nothing is ever serialised again before a check.

use crate::dsse::Envelope;
use crate::id::{ClusterId, Digest, KeyId, Lineage, PrincipalId};
use crate::json::{StrictMap, V1};
use crate::name::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `payloadType` of [`PrincipalRecord`].
pub const PRINCIPAL_TYPE: &str = "application/vnd.bulla.principal.v1+json";
/// `payloadType` of [`Admission`].
pub const ADMISSION_TYPE: &str = "application/vnd.bulla.admission.v1+json";
/// `payloadType` of [`Document`].
pub const DOCUMENT_TYPE: &str = "application/vnd.bulla.document.v1+json";
/// `payloadType` of [`GenesisApproval`].
pub const GENESIS_TYPE: &str = "application/vnd.bulla.genesis.v1+json";
/// Most earlier histories in a consent: a cluster keeps no more of them, and so many still fit into a statement.
pub const MAX_EARLIER: usize = 2048;
/// `payloadType` of [`Consent`].
pub const CONSENT_TYPE: &str = "application/vnd.bulla.consent.v1+json";
/// `payloadType` of [`PolicyRecovery`].
pub const POLICY_RECOVERY_TYPE: &str = "application/vnd.bulla.policy-recovery.v1+json";
/// `payloadType` of [`Bundle`].
pub const BUNDLE_TYPE: &str = "application/vnd.bulla.bundle.v1+json";

/// Most recipients of one key, and most keys of one record: one in a file, one in a token, one spare, doubled.
pub const MAX_KEYS: usize = 8;
/// Most admins of a cluster. Sixteen shares are more than any ceremony gathers; it bounds the document's size.
pub const MAX_ADMINS: usize = 16;
/// Most enrollers of a cluster, admins included.
pub const MAX_ENROLLERS: usize = 32;
/// Most groups of a principal, and most attributes.
pub const MAX_GROUPS: usize = 32;
/// How far ahead of whoever takes it the serial of an admission may be in milliseconds, a day: clocks are wrong by that much.
pub const MAX_SERIAL_AHEAD_MS: u64 = 24 * 3600 * 1000;
/// Most principals of a bundle. Some forty with post-quantum keys fill its payload; and their ids, with the names of
/// the policies, fit into one audit line.
pub const MAX_BUNDLE_PRINCIPALS: usize = 64;
/// Most policies of a bundle, for the same audit line. A policy holds up to a thousand statements.
pub const MAX_BUNDLE_POLICIES: usize = 16;
/// Longest life of a bundle in milliseconds, 366 days: whoever finds an old one can start a server with it until then.
pub const MAX_BUNDLE_LIFE_MS: u64 = 366 * 24 * 3600 * 1000;

/// Bytes written as unpadded base64url in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::encoding::base64url(&self.0))
    }
}
impl std::str::FromStr for Bytes {
    type Err = crate::name::ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        crate::encoding::base64url_decode(text).map(Self).ok_or(crate::name::NOT_BASE64URL)
    }
}
mod bytes_serde {
    use super::Bytes;
    use crate::id::text_serde;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    text_serde!(Bytes, "^[A-Za-z0-9_-]*$");
}

/// One key of a principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// DER `SubjectPublicKeyInfo` of the signing key.
    pub spki: Bytes,
    /// age recipients of the same holder, in canonical text, at least one.
    pub recipients: Vec<String>,
    /// The signing key and a recipient are one key, as with an SSH key.
    pub dual_use: bool,
}

/// A principal's own statement of its keys. Signed by every key in it and, from version 2 on, also by a
/// key of the version before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipalRecord {
    /// Format version.
    pub v: V1,
    /// The name that the holder asks for; the admission must agree.
    pub name: Name,
    /// 1, 2, 3, …: one more at each rotation.
    pub version: u32,
    /// SHA-256 of the payload bytes of the version before; null in version 1.
    pub prev: Option<Digest>,
    /// The keys, at least one.
    pub keys: Vec<KeyEntry>,
}

/// Where an admission holds: in one cluster, or under one set of admins whatever cluster they make.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One cluster, by id.
    Cluster(ClusterId),
    /// Any cluster of these admins: SHA-256 over `admins:`, the sorted key ids and k (`spec/evidence.md`).
    Admins(Digest),
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(id) => write!(f, "{id}"),
            Self::Admins(digest) => write!(f, "admins:{digest}"),
        }
    }
}
impl std::str::FromStr for Scope {
    type Err = crate::id::ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("admins:") {
            Some(digest) => digest.parse().map(Self::Admins),
            None => text.parse().map(Self::Cluster),
        }
    }
}
mod scope_serde {
    use super::Scope;
    use crate::id::text_serde;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    text_serde!(Scope, "^(admins:)?sha256:[A-Za-z0-9_-]{43}$");
}

/// An enroller's word that a name belongs to a principal's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Format version.
    pub v: V1,
    /// Where it holds.
    pub scope: Scope,
    /// Whom it admits.
    pub principal: PrincipalId,
    /// The name, equal to the record's.
    pub name: Name,
    /// The record's version.
    pub version: u32,
    /// SHA-256 of the record's payload bytes.
    pub record_sha256: Digest,
    /// Groups of the principal, for policy.
    pub groups: Vec<Name>,
    /// Attributes of the principal, for policy.
    pub attributes: StrictMap<String>,
    /// Grows with each admission that this enroller signs; Unix milliseconds, or one above its last.
    pub serial: u64,
    /// The number of the newest document that the enroller knew.
    pub doc: u32,
}

/// How many admins open the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SealMode {
    /// Any one admin.
    Any,
    /// k of the n admins.
    Quorum,
}

/// The weakest key encapsulation that the cluster takes for seal and ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MinKem {
    /// ML-KEM-768 with X25519 or P-256 only.
    Hybrid,
    /// X25519, P-256, ssh-ed25519 and ssh-rsa too.
    Classical,
}

/// Whether a node's signatures are to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It signs answers and receipts.
    Active,
    /// It signs no more; what it signed stays valid.
    Retired,
    /// What it signed at or after `since_ms` proves nothing.
    Compromised,
}

/// A node's key in a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// DER `SubjectPublicKeyInfo` of the node's signing key.
    pub spki: Bytes,
    /// Whether it is to be believed.
    pub state: NodeState,
    /// Since when it has this state, Unix milliseconds.
    pub since_ms: u64,
}

/// The cluster document: who the admins, enrollers and nodes are. Number 0 is genesis; its SHA-256 is the
/// cluster id. Number n+1 carries signatures of k admins of number n.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Format version.
    pub v: V1,
    /// The cluster's name, for people; binds nothing.
    pub name: Name,
    /// Null in genesis.
    pub cluster: Option<ClusterId>,
    /// 0, 1, 2, …
    pub number: u32,
    /// SHA-256 of the payload bytes of the document before; null in genesis.
    pub prev: Option<Digest>,
    /// 32 random bytes, the same in every document of a cluster.
    pub random: Bytes,
    /// Records (DSSE) of everyone named below.
    pub records: Vec<Envelope>,
    /// Principals who hold seal shares, in the order of the shares.
    pub admins: Vec<PrincipalId>,
    /// Any or quorum.
    pub mode: SealMode,
    /// How many admins open the seal and sign the next document; 1 with `any`.
    pub k: u8,
    /// Principals whose signature admits others.
    pub enrollers: Vec<PrincipalId>,
    /// The nodes.
    pub nodes: Vec<NodeEntry>,
    /// age recipient for secret bytes in requests.
    pub ingress: String,
    /// The weakest key encapsulation taken.
    pub min_kem: MinKem,
}

/// An admin's approval of a genesis document, given with its first share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenesisApproval {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
}

/// A point in the store's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Which history.
    pub lineage: Lineage,
    /// How far in it.
    pub sequence: u64,
}

/// How far ahead of the clock that judges it [`Consent::excused_until_ms`] may be, in milliseconds: five minutes, as far as
/// clocks of people's machines are apart that nobody has noticed yet.
pub const EXCUSE_SKEW_MS: u64 = 300_000;

/// k admins accept that the store lost commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// What was reached, as the audit file remembers it; the same as `kept` if that cannot tell.
    pub lost: Position,
    /// What the store holds.
    pub kept: Position,
    /// Histories between the two, oldest first, each as far as the audit file remembers it: their clients must learn
    /// of the loss too, however long ago they called.
    pub earlier: Vec<Position>,
    /// Unix milliseconds, if the admins know that the store was put back on purpose: whoever saw more than `kept` before
    /// this time goes on, whatever the audit file remembers. What is seen later is not excused, so the same signatures
    /// are of no use for a later loss.
    pub excused_until_ms: Option<u64>,
}

impl Consent {
    /// What the consent says of a history: how far it is known to have come, if it was lost or cut short. A consent to
    /// an unknown loss excuses nobody for having seen more.
    pub fn loss_of(&self, lineage: &Lineage) -> Option<Position> {
        let ends = [&self.lost, &self.kept].into_iter().filter(|_| !self.is_of_unknown_loss());
        let named = self.earlier.iter().chain(ends);
        named.copied().find(|position| position.lineage == *lineage)
    }

    /// Whether nobody can tell how much was lost, if anything.
    pub fn is_of_unknown_loss(&self) -> bool {
        self.lost == self.kept
    }
}

/// k admins replace the whole policy set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecovery {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the JSON bytes of the new set.
    pub policies_sha256: Digest,
    /// Digest of the set that it replaces, so that the admins' word is good once.
    pub replaces: Digest,
    /// Unix milliseconds; the server takes it for ten minutes.
    pub at_ms: u64,
}

/// A principal as it stands in a [`Bundle`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundledPrincipal {
    /// All its records (DSSE), version 1 first.
    pub records: Vec<Envelope>,
    /// The admission (DSSE) of the newest one, into any cluster of the admins.
    pub admission: Envelope,
}

/// What a new cluster of these admins begins with. Signed by k of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Format version.
    pub v: V1,
    /// The admins' records (DSSE), as init will name them, in any order.
    pub admins: Vec<Envelope>,
    /// How many of them open the seal, as init will say.
    pub k: u8,
    /// When it was made, Unix milliseconds. Nobody decides by it; it tells bundles apart.
    pub made_ms: u64,
    /// From when on no cluster begins with it, Unix milliseconds.
    pub exp_ms: u64,
    /// Who is admitted.
    pub principals: Vec<BundledPrincipal>,
    /// Cedar texts by the names of their policies.
    pub policies: StrictMap<String>,
}

/// Who did something, as the server verified it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// The principal.
    pub principal: PrincipalId,
    /// The key that signed the request.
    pub key: KeyId,
    /// The network address that the node saw, without port; null on the local socket.
    pub address: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_back() {
        let digest = Digest::new([7; 32]);
        for scope in [Scope::Cluster(ClusterId::new([7; 32])), Scope::Admins(digest)] {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        assert_eq!(Scope::Admins(digest).to_string(), format!("admins:{digest}"));
        assert_eq!(Bytes(vec![0xfb, 0xff]).to_string(), "-_8");
        assert_eq!("-_8".parse(), Ok(Bytes(vec![0xfb, 0xff])));
    }

    #[test]
    fn a_consent_speaks_of_the_histories_that_it_names() {
        let at = |lineage: u8, sequence| Position { lineage: Lineage::new([lineage; 16]), sequence };
        let consent = |lost, kept, earlier| {
            let cluster = ClusterId::new([1; 32]);
            Consent { v: V1, cluster, lost, kept, earlier, excused_until_ms: None }
        };
        let known = consent(at(2, 9), at(3, 4), vec![at(1, 5)]);
        assert!(!known.is_of_unknown_loss());
        for named in [at(1, 5), at(2, 9), at(3, 4)] {
            assert_eq!(known.loss_of(&named.lineage), Some(named));
        }
        assert_eq!(known.loss_of(&Lineage::new([4; 16])), None);
        // Within one history what was lost says how far it had come.
        assert_eq!(consent(at(2, 9), at(2, 4), vec![]).loss_of(&Lineage::new([2; 16])), Some(at(2, 9)));
        let unknown = consent(at(2, 4), at(2, 4), vec![at(1, 5)]);
        assert!(unknown.is_of_unknown_loss());
        assert_eq!(unknown.loss_of(&Lineage::new([2; 16])), None);
        assert_eq!(unknown.loss_of(&Lineage::new([1; 16])), Some(at(1, 5)));
    }
}
