//! Which key: a version of a key somewhere, and the id that kube-apiserver is told.

use bulla_crypto::digest::{framed, sha256};
use bulla_wire::encoding::base32;
use std::fmt;
use std::str::FromStr;

/// Bytes of a [`KeyTag`]. Eight are enough: it finds a key among the few that a member has, and authenticates nothing.
pub const TAG_LEN: usize = 8;
/// Digits of base32 in a [`KeyId`]: 130 bits.
const ID_DIGITS: usize = 26;
const ID_PREFIX: &str = "b1.";

/// One version of one key in a backend. Two are the same key if and only if their digests are equal; what enters it is
/// known to the backend, so every node finds the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRef {
    /// The backend and the key in it, in one spelling that does not depend on how the backend is reached: a cluster's
    /// id and the key's name, an ARN, a key's URL. Never an address that differs between nodes.
    pub backend: String,
    /// The version, as the backend names it.
    pub version: String,
    /// What another key would have otherwise even if all names were the same: the time at which it was made, a hash of
    /// a public key, a check value. Empty only where the backend has nothing of the kind.
    pub check: String,
    /// When the version was made, in Unix seconds, where the backend says so. It is no part of the digest.
    pub created: Option<u64>,
}

impl KeyRef {
    /// SHA-256 over everything that tells it from other keys.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest(sha256(&[&framed(&[
            b"bulla/kms/v1/key",
            self.backend.as_bytes(),
            self.version.as_bytes(),
            self.check.as_bytes(),
        ])]))
    }
}

/// The digest of a [`KeyRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// Its first bytes, which stand in what was encrypted.
    pub fn tag(self) -> KeyTag {
        let mut tag = [0; TAG_LEN];
        tag.iter_mut().zip(self.0).for_each(|(to, from)| *to = from);
        KeyTag(tag)
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

/// The first bytes of a key's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyTag(pub [u8; TAG_LEN]);

/// What kube-apiserver is told: the name of the keys that encrypt now. It is public, stands in every object of the
/// cluster's store and tells nothing of the backend: `b1.` and 26 digits of base32, then `.` and the epoch if it is not 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The id of these keys together. `cluster` is the name of the Kubernetes cluster, `mode` how the keys are combined;
    /// the order of the keys means nothing.
    pub fn of(cluster: &str, mode: u8, keys: impl IntoIterator<Item = KeyDigest>, epoch: u32) -> Self {
        let mut keys: Vec<KeyDigest> = keys.into_iter().collect();
        keys.sort_unstable();
        let mut fields: Vec<&[u8]> = vec![b"bulla/kms/v1/id", cluster.as_bytes()];
        let mode = [mode];
        fields.push(&mode);
        fields.extend(keys.iter().map(|key| key.0.as_slice()));
        let digits = base32(&sha256(&[&framed(&fields)]));
        let digits = digits.get(..ID_DIGITS).unwrap_or_default();
        Self(if epoch == 0 { format!("{ID_PREFIX}{digits}") } else { format!("{ID_PREFIX}{digits}.{epoch}") })
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `sha256:` and the hex digits, as kube-apiserver shows it in its metrics.
    pub fn hash(&self) -> String {
        use fmt::Write as _;
        sha256(&[self.0.as_bytes()]).iter().fold("sha256:".to_owned(), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a key id of this plugin: b1., 26 digits, and an epoch if there is one";
        let rest = text.strip_prefix(ID_PREFIX).ok_or(EXPECTED)?;
        let (digits, epoch) = rest.split_once('.').map_or((rest, None), |(digits, epoch)| (digits, Some(epoch)));
        let known = |byte: u8| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte);
        let spelt = epoch.is_none_or(|epoch| epoch.parse::<u32>().is_ok_and(|n| n != 0 && n.to_string() == epoch));
        if digits.len() == ID_DIGITS && digits.bytes().all(known) && spelt {
            Ok(Self(text.to_owned()))
        } else {
            Err(EXPECTED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(backend: &str, version: &str, check: &str) -> KeyRef {
        KeyRef { backend: backend.into(), version: version.into(), check: check.into(), created: None }
    }

    #[test]
    fn a_key_is_told_by_backend_version_and_check_value() {
        let one = key("vault:c/transit/k8s", "3", "1700000000");
        assert_eq!(one.digest(), KeyRef { created: Some(5), ..one.clone() }.digest());
        for other in [
            key("vault:c/transit/k8", "s3", "1700000000"),
            key("vault:c/transit/k8s", "31", "700000000"),
            key("vault:c/transit/k8s", "3", "1700000001"),
        ] {
            assert_ne!(one.digest(), other.digest());
        }
    }

    #[test]
    fn an_id_names_the_keys_and_not_their_order() {
        let (a, b) = (key("a", "1", "").digest(), key("b", "1", "").digest());
        let id = KeyId::of("prod", 1, [a, b], 0);
        assert_eq!(id, KeyId::of("prod", 1, [b, a], 0));
        for other in [
            KeyId::of("prod", 1, [a], 0),
            KeyId::of("test", 1, [a, b], 0),
            KeyId::of("prod", 2, [a, b], 0),
            KeyId::of("prod", 1, [a, b], 1),
        ] {
            assert_ne!(id, other);
        }
        assert_eq!(id.as_str().len(), 29);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        let later = KeyId::of("prod", 1, [a, b], 7);
        assert_eq!(later.as_str(), format!("{id}.7"));
        assert_eq!(later.as_str().parse(), Ok(later));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = KeyId::of("prod", 1, [], 0);
        for bad in [
            "",
            "b1.",
            "k8s",
            &id.as_str().to_uppercase(),
            &format!("{id}."),
            &format!("{id}.0"),
            &format!("{id}.07"),
            &format!("{id}.+7"),
            &format!("{id}a"),
        ] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_hash_is_what_the_apiserver_prints() {
        // printf %s b1.aaaaaaaaaaaaaaaaaaaaaaaaaa | sha256sum
        let id: KeyId = "b1.aaaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap();
        assert_eq!(id.hash(), "sha256:e4ce578eaecaaf234e479d3c1d60f63f2339527c1022598e1f1fcdd98ee9d8ef");
    }
}
