//! Which keys a name stood for: the client's own memory, as ssh has of hosts.
//!
//! A cluster's names are remembered with the cluster. Who trusts admins, and not one cluster, remembers besides what was
//! admitted into any cluster of theirs: those names keep their keys over restarts (`judge_lasting`).
//!
//! Held: a server cannot put another principal, an older record or a forked one under a name that this client has
//! resolved before. Not held: the first resolution believes the enrollers.

use bulla_crypto::evidence::RecordChain;
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is remembered of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The principal.
    pub principal: PrincipalId,
    /// The version of its newest record seen.
    pub version: u32,
    /// The serial of the admission seen with it; 0 if a document was the admission.
    pub serial: u64,
    /// SHA-256 of that record.
    pub record_sha256: Digest,
}

/// A name stands for something that it must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownError {
    /// Another principal has the name now.
    OtherPrincipal {
        /// The name.
        name: Name,
        /// Who had it.
        known: PrincipalId,
        /// Who has it now.
        told: PrincipalId,
    },
    /// The record or its admission is older than one seen before.
    Older {
        /// The name.
        name: Name,
        /// Version and serial seen.
        known: (u32, u64),
        /// Version and serial told.
        told: (u32, u64),
    },
    /// The record seen before is not among the records that led to the newest one.
    Forked {
        /// The name.
        name: Name,
        /// The version that differs.
        version: u32,
    },
}

impl fmt::Display for KnownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPrincipal { name, known, told } => {
                write!(f, "{name} was {known}, and is now said to be {told}, which is somebody else")
            }
            Self::Older { name, known, told } => write!(
                f,
                "{name} is said to have record version {} (admission {}), but version {} ({}) was seen before",
                told.0, told.1, known.0, known.1
            ),
            Self::Forked { name, version } => {
                write!(f, "the keys of {name} changed without a signature by the keys known before (version {version})")
            }
        }
    }
}

impl std::error::Error for KnownError {}

/// Judges a verified chain under a name by what was known of it, and gives what is to be remembered.
pub(crate) fn judge(name: &Name, known: Option<&Known>, chain: &RecordChain, serial: u64) -> Result<Known, KnownError> {
    let newest = chain.newest();
    let told =
        Known { principal: chain.principal(), version: newest.version(), serial, record_sha256: newest.digest() };
    let Some(known) = known else { return Ok(told) };
    if known.principal != told.principal {
        return Err(KnownError::OtherPrincipal { name: name.clone(), known: known.principal, told: told.principal });
    }
    // The newest document's word is older than no admission.
    let told = Known { serial: if serial == 0 { known.serial } else { serial }, ..told };
    let (before, now) = ((known.version, known.serial), (told.version, told.serial));
    if now < before {
        return Err(KnownError::Older { name: name.clone(), known: before, told: now });
    }
    let same = chain.iter().find(|record| record.version() == known.version);
    if same.is_none_or(|record| record.digest() != known.record_sha256) {
        return Err(KnownError::Forked { name: name.clone(), version: known.version });
    }
    Ok(told)
}

/// As [`judge`], by what is remembered over all clusters of the same admins. `serial` is that of an admission into any of
/// them; without one the name is another's business, and only what is known already is held against the chain.
pub(crate) fn judge_lasting(
    name: &Name,
    known: Option<&Known>,
    chain: &RecordChain,
    serial: Option<u64>,
) -> Result<Option<Known>, KnownError> {
    match (known, serial) {
        (None, None) => Ok(None),
        (_, Some(serial)) => judge(name, known, chain, serial).map(Some),
        // The serials of two scopes do not compare. A newer record begins anew, since its admission into any cluster may
        // have been signed before the one into this cluster.
        (Some(known), None) if chain.newest().version() > known.version => judge(name, Some(known), chain, 0).map(Some),
        (Some(known), None) => judge(name, Some(known), chain, known.serial).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::evidence::{PrincipalKey, record_payload, sign_in_memory};
    use bulla_crypto::identity::{Identity, IdentityKind};
    use bulla_crypto::secret::SecretKey;

    fn identity(seed: u8) -> Identity {
        Identity::from_seed(IdentityKind::Classical, SecretKey::filled(|bytes| bytes.fill(seed))).unwrap()
    }

    /// A chain in which each identity takes over from the one before.
    fn chain(seeds: &[u8]) -> RecordChain {
        let mut chain: Option<RecordChain> = None;
        let mut before: Option<Identity> = None;
        for seed in seeds {
            let identity = identity(*seed);
            let key = PrincipalKey {
                public: identity.signing_key().unwrap().public_key().clone(),
                recipients: identity.recipients().to_vec(),
                dual_use: false,
            };
            let newest = chain.as_ref().map(RecordChain::newest);
            let payload = record_payload("bob".parse().unwrap(), newest, &[key]).unwrap();
            let mut keys = vec![identity.signing_key().unwrap()];
            keys.extend(before.as_ref().and_then(Identity::signing_key));
            let envelope = sign_in_memory(&payload, &keys).unwrap();
            match &mut chain {
                None => chain = Some(RecordChain::open(&[envelope]).unwrap()),
                Some(chain) => drop(chain.push(&envelope).unwrap().clone()),
            }
            before = Some(identity);
        }
        chain.unwrap()
    }

    #[test]
    fn names() {
        let name: Name = "bob".parse().unwrap();
        let first = judge(&name, None, &chain(&[1]), 5).unwrap();
        assert_eq!((first.version, first.serial), (1, 5));
        // The same again, and a newer admission.
        assert_eq!(judge(&name, Some(&first), &chain(&[1]), 5).unwrap(), first);
        assert_eq!(judge(&name, Some(&first), &chain(&[1]), 6).unwrap().serial, 6);
        // A key that the old one handed over to, even with another enroller's lower serial.
        let second = judge(&name, Some(&first), &chain(&[1, 2]), 4).unwrap();
        assert_eq!(second.version, 2);
        // The document vouches for it now: the admission that was seen stays the oldest one taken.
        assert_eq!(judge(&name, Some(&first), &chain(&[1]), 0).unwrap(), first);
        // Another principal, an older admission, an older record.
        let refused = |known, chain: &RecordChain, serial| judge(&name, Some(known), chain, serial).unwrap_err();
        assert!(matches!(refused(&first, &chain(&[2]), 6), KnownError::OtherPrincipal { .. }));
        assert!(matches!(refused(&first, &chain(&[1]), 4), KnownError::Older { .. }));
        assert!(matches!(refused(&second, &chain(&[1]), 9), KnownError::Older { .. }));
        // A second version 2, made with a stolen first key.
        assert!(matches!(refused(&second, &chain(&[1, 3]), 9), KnownError::Forked { .. }));
        assert!(matches!(refused(&second, &chain(&[1, 3, 4]), 9), KnownError::Forked { .. }));
    }

    #[test]
    fn names_of_any_cluster_of_the_admins() {
        let name: Name = "bob".parse().unwrap();
        let lasting = |known, chain: &RecordChain, serial| judge_lasting(&name, known, chain, serial);
        // A name that only one cluster knows does not last.
        assert_eq!(lasting(None, &chain(&[1]), None).unwrap(), None);
        let first = lasting(None, &chain(&[1]), Some(5)).unwrap().unwrap();
        // A cluster's own admission is judged by the keys, and leaves the serial as it was.
        assert_eq!(lasting(Some(&first), &chain(&[1]), None).unwrap(), Some(first.clone()));
        assert!(matches!(lasting(Some(&first), &chain(&[2]), None), Err(KnownError::OtherPrincipal { .. })));
        assert!(matches!(lasting(Some(&first), &chain(&[1]), Some(4)), Err(KnownError::Older { .. })));
        // Keys that changed within a cluster stay changed; a newer bundle is taken, the older one is not.
        let second = lasting(Some(&first), &chain(&[1, 2]), None).unwrap().unwrap();
        assert_eq!((second.version, second.serial), (2, 5));
        assert!(lasting(Some(&second), &chain(&[1, 2]), Some(6)).is_ok());
        assert!(matches!(lasting(Some(&second), &chain(&[1, 2]), Some(4)), Err(KnownError::Older { .. })));
        assert!(matches!(lasting(Some(&second), &chain(&[1]), Some(5)), Err(KnownError::Older { .. })));
        assert!(matches!(lasting(Some(&second), &chain(&[1, 3]), Some(9)), Err(KnownError::Forked { .. })));
    }
}
