//! The keyring: every key that a cluster keeps, sealed under the root key of one epoch.
//!
//! Held: it does not print, is wiped when dropped, and opens under one root key, cluster and epoch. Not
//! held: the JSON parser's own working memory is not wiped.

use super::SealError;
use super::root::RootKey;
use crate::barrier::Barrier;
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{Rng, secret_key};
use bulla_crypto::secret::{Secret, SecretBytes, SecretKey};
use bulla_wire::api::LineageEntry;
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::id::{ClusterId, Lineage};
use bulla_wire::json::{self, V1};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Most barrier terms. With [`LINEAGES_MAX`] it keeps the keyring below the largest value of a store. A cluster
/// that is unsealed more often goes on under its last term.
pub const TERMS_MAX: u32 = 4096;
/// Most histories remembered; the oldest is forgotten first. A client that was away for longer must pin anew.
pub const LINEAGES_MAX: usize = 2048;
/// Largest keyring as JSON: 46 bytes a term, at most 104 a history, and 1 KiB for the rest.
const JSON_BYTES_MAX: usize = 46 * TERMS_MAX as usize + 104 * LINEAGES_MAX + 1024;

/// All keys of a cluster. Lives while the cluster is unsealed.
pub struct Keyring {
    /// Keys of the barrier; the highest term seals.
    pub terms: BTreeMap<u32, SecretKey>,
    /// Hides names in store keys. Made at init, never changed.
    pub path: SecretKey,
    /// Authenticates challenges.
    pub challenge: SecretKey,
    /// The epoch that made the challenge key.
    pub challenge_epoch: u64,
    /// Opens secret bytes in requests: the seed of a hybrid identity.
    pub ingress: SecretKey,
    /// The ingress seed before the last change.
    pub ingress_previous: Option<SecretKey>,
    /// Hides names in the audit log, where that is asked for.
    pub audit: SecretKey,
    /// Authenticates the head row.
    pub head: SecretKey,
    /// The newest cluster document when the epoch began; an older newest one is a rollback.
    pub document: u32,
    /// Histories of the store, oldest first.
    pub lineages: Vec<LineageEntry>,
}

impl Keyring {
    /// Makes all keys of a new cluster: term 1, epoch 1, one history that begins with sequence 1.
    pub(super) fn generate(lineage: Lineage, rng: &mut dyn Rng) -> Self {
        Self {
            terms: BTreeMap::from([(1, secret_key(rng))]),
            path: secret_key(rng),
            challenge: secret_key(rng),
            challenge_epoch: 1,
            ingress: secret_key(rng),
            ingress_previous: None,
            audit: secret_key(rng),
            head: secret_key(rng),
            document: 0,
            lineages: vec![LineageEntry { epoch: 1, lineage, first_sequence: 1 }],
        }
    }

    /// Begins an epoch: a challenge key, a barrier term and a history of its own. The caller saw to it that
    /// `epoch` is one above the last.
    pub(super) fn begin_epoch(&mut self, entry: LineageEntry, document: u32, rng: &mut dyn Rng) {
        let newest = self.terms.keys().next_back().copied().unwrap_or_default();
        if newest < TERMS_MAX {
            self.terms.insert(newest.saturating_add(1), secret_key(rng));
        }
        self.challenge = secret_key(rng);
        self.challenge_epoch = entry.epoch;
        self.document = document;
        self.lineages.push(entry);
        let surplus = self.lineages.len().saturating_sub(LINEAGES_MAX);
        self.lineages.drain(..surplus);
    }

    /// Takes the ingress key of a rekey, and makes an audit key of its own: who held shares before must not read what
    /// is written from now on.
    pub(super) fn rekey(&mut self, ingress: SecretKey, rng: &mut dyn Rng) {
        self.ingress_previous = Some(std::mem::replace(&mut self.ingress, ingress));
        self.audit = secret_key(rng);
    }

    /// A second copy, on purpose: a rekey changes one and keeps the other until its commit.
    pub fn copy(&self) -> Self {
        Self {
            terms: self.terms.iter().map(|(term, key)| (*term, key.copy())).collect(),
            path: self.path.copy(),
            challenge: self.challenge.copy(),
            challenge_epoch: self.challenge_epoch,
            ingress: self.ingress.copy(),
            ingress_previous: self.ingress_previous.as_ref().map(SecretKey::copy),
            audit: self.audit.copy(),
            head: self.head.copy(),
            document: self.document,
            lineages: self.lineages.clone(),
        }
    }

    /// The history that is being written.
    pub fn lineage(&self) -> Option<&LineageEntry> {
        self.lineages.last()
    }

    /// The barrier under this keyring's terms.
    pub fn barrier(&self, cluster: ClusterId) -> Option<Barrier> {
        let terms = self.terms.iter().map(|(term, key)| (*term, key.copy())).collect();
        Barrier::new(cluster, terms, self.path.copy())
    }

    /// The identities that open secret bytes in requests, the current one first.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn ingress_identities(&self) -> Result<Vec<Identity>, SealError> {
        std::iter::once(&self.ingress)
            .chain(&self.ingress_previous)
            .map(|seed| Identity::from_seed(IdentityKind::Hybrid, seed.copy()).map_err(SealError::Identity))
            .collect()
    }

    /// The content of the keyring row.
    pub(super) fn seal(&self, root: &RootKey, cluster: &ClusterId, epoch: u64, rng: &mut dyn Rng) -> Vec<u8> {
        root.seal_keyring(cluster, epoch, self.to_json().expose(), rng)
    }

    /// Reads the content of the keyring row.
    pub(super) fn open(root: &RootKey, cluster: &ClusterId, epoch: u64, row: &[u8]) -> Result<Self, SealError> {
        Self::from_json(root.open_keyring(cluster, epoch, row)?.expose())
    }

    fn to_json(&self) -> SecretBytes {
        let form = Form {
            v: V1,
            terms: self.terms.values().map(|key| Key(key.copy())).collect(),
            path: Key(self.path.copy()),
            challenge: Key(self.challenge.copy()),
            challenge_epoch: self.challenge_epoch,
            ingress: std::iter::once(&self.ingress).chain(&self.ingress_previous).map(|key| Key(key.copy())).collect(),
            audit: Key(self.audit.copy()),
            head: Key(self.head.copy()),
            document: self.document,
            lineages: self.lineages.clone(),
        };
        // Its final size at once, so that no shorter copy is left behind by growing.
        let mut bytes = SecretBytes::new(Vec::with_capacity(JSON_BYTES_MAX));
        #[expect(clippy::expect_used, reason = "writing these types into memory has no way to fail")]
        serde_json::to_writer(bytes.expose_mut(), &form).expect("a keyring serialises");
        bytes
    }

    /// The error says nothing of what was found.
    fn from_json(bytes: &[u8]) -> Result<Self, SealError> {
        let Form { v: V1, terms, path, challenge, challenge_epoch, ingress, audit, head, document, lineages } =
            json::parse(bytes, JSON_BYTES_MAX).map_err(|_| SealError::Keyring)?;
        let mut ingress = ingress.into_iter().map(|key| key.0);
        let keyring = Self {
            terms: (1..).zip(terms).map(|(term, key)| (term, key.0)).collect(),
            path: path.0,
            challenge: challenge.0,
            challenge_epoch,
            ingress: ingress.next().ok_or(SealError::Keyring)?,
            ingress_previous: ingress.next(),
            audit: audit.0,
            head: head.0,
            document,
            lineages,
        };
        let whole = !keyring.terms.is_empty() && !keyring.lineages.is_empty() && ingress.next().is_none();
        if whole { Ok(keyring) } else { Err(SealError::Keyring) }
    }
}

/// The JSON inside the seal. Terms are numbered from 1 in their order; ingress is current, then previous.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    v: V1,
    terms: Vec<Key>,
    path: Key,
    challenge: Key,
    challenge_epoch: u64,
    ingress: Vec<Key>,
    audit: Key,
    head: Key,
    document: u32,
    lineages: Vec<LineageEntry>,
}

/// A key as unpadded base64url, without an unwiped copy of the text.
struct Key(SecretKey);

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Secret::new(base64url(self.0.expose())).expose())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
                let bytes = base64url_decode(text).map(SecretBytes::new);
                let key = bytes.and_then(|bytes| SecretKey::from_slice(bytes.expose()));
                key.map(Key).ok_or_else(|| E::custom("not a key"))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::random::SeededRng;

    fn lineage(n: u64) -> LineageEntry {
        LineageEntry { epoch: n, lineage: Lineage::new([7; 16]), first_sequence: u64::MAX }
    }

    #[test]
    fn a_keyring_comes_back() {
        let mut rng = SeededRng::from_u64(1);
        let mut keyring = Keyring::generate(Lineage::new([1; 16]), &mut rng);
        keyring.begin_epoch(lineage(2), 3, &mut rng);
        keyring.ingress_previous = Some(secret_key(&mut rng));
        let json = keyring.to_json();
        let again = Keyring::from_json(json.expose()).unwrap();
        assert_eq!(again.to_json().expose(), json.expose());
        assert_eq!(again.terms.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!((again.challenge_epoch, again.document), (2, 3));
        assert_ne!(again.terms[&1].expose(), again.terms[&2].expose());
        assert_eq!(again.ingress_identities().unwrap().len(), 2);
    }

    #[test]
    fn a_keyring_never_outgrows_its_row() {
        let mut rng = SeededRng::from_u64(1);
        let mut keyring = Keyring::generate(Lineage::new([1; 16]), &mut rng);
        for _ in 0..5000 {
            keyring.begin_epoch(lineage(u64::MAX), u32::MAX, &mut rng);
        }
        keyring.ingress_previous = Some(secret_key(&mut rng));
        assert_eq!(keyring.terms.len(), TERMS_MAX as usize);
        assert_eq!(keyring.lineages.len(), LINEAGES_MAX);
        let json = keyring.to_json();
        // Equal capacity: it was not moved while it was written.
        assert_eq!(json.expose().capacity(), JSON_BYTES_MAX);
        let sealed = json.expose().len() + bulla_crypto::sealed::OVERHEAD + 13;
        assert!(sealed <= crate::record::SEALED_VALUE_BYTES_MAX, "{sealed}");
        assert!(Keyring::from_json(json.expose()).is_ok());
    }

    /// The same with nothing in one of its lists.
    fn emptied(json: &str, list: &str) -> String {
        let (before, rest) = json.split_once(&format!("\"{list}\":[")).unwrap();
        let (_, after) = rest.split_once(']').unwrap();
        format!("{before}\"{list}\":[]{after}")
    }

    #[test]
    fn a_rekey_exchanges_what_former_admins_knew() {
        let mut rng = SeededRng::from_u64(1);
        let mut keyring = Keyring::generate(Lineage::new([1; 16]), &mut rng);
        let before = keyring.copy();
        keyring.rekey(SecretKey::filled(|bytes| bytes.fill(9)), &mut rng);
        assert_eq!(keyring.ingress.expose(), &[9; 32]);
        assert_eq!(keyring.ingress_previous.unwrap().expose(), before.ingress.expose());
        assert_ne!(keyring.audit.expose(), before.audit.expose());
    }

    #[test]
    fn a_damaged_keyring_is_refused_without_a_word() {
        let mut rng = SeededRng::from_u64(1);
        let keyring = Keyring::generate(Lineage::new([1; 16]), &mut rng);
        let json = String::from_utf8(keyring.to_json().expose().clone()).unwrap();
        let key = base64url(keyring.path.expose());
        for bad in [
            json.replace("\"v\":1", "\"v\":2"),
            json.replace(&key, &key[1..]),
            json.replace("\"path\"", "\"x\""),
            json.replace("\"lineages\":[{", "\"lineages\":[],\"x\":[{"),
            emptied(&json, "lineages"),
            emptied(&json, "terms"),
            emptied(&json, "ingress"),
            json.replace("\"ingress\":[", &format!("\"ingress\":[\"{key}\",\"{key}\",")),
            format!("{json}x"),
        ] {
            assert_ne!(bad, json);
            let error = Keyring::from_json(bad.as_bytes()).err().unwrap();
            assert!(matches!(error, SealError::Keyring));
            assert!(!format!("{error:?} {error}").contains(&key[1..]));
        }
    }
}
