//! The root key of one epoch, and what is derived from it. It is never stored.

use super::SealError;
use bulla_crypto::digest::{equal, framed, hmac_sha256};
use bulla_crypto::kdf;
use bulla_crypto::random::{Rng, secret_key};
use bulla_crypto::sealed;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_wire::id::ClusterId;
use std::fmt;

/// Opens the keyring of one epoch. Exists for the moments of init and unseal.
pub struct RootKey(SecretKey);

impl RootKey {
    pub(super) fn generate(rng: &mut dyn Rng) -> Self {
        Self(secret_key(rng))
    }

    pub(super) fn new(key: SecretKey) -> Self {
        Self(key)
    }

    pub(super) fn key(&self) -> &SecretKey {
        &self.0
    }

    /// Whether both are the same key, in constant time.
    pub(super) fn equals(&self, other: &Self) -> bool {
        equal(self.0.expose(), other.0.expose())
    }

    /// Tells, without the keyring, whether this is the root key of an epoch.
    pub(super) fn check_value(&self, cluster: &ClusterId, epoch: u64) -> SecretKey {
        self.derive("seal/kcv", cluster, epoch)
    }

    /// Authenticates the seal configuration.
    pub(super) fn config_mac(&self, cluster: &ClusterId, epoch: u64, config: &[u8]) -> [u8; 32] {
        hmac_sha256(self.derive("seal/mac", cluster, epoch).expose(), &[config])
    }

    pub(super) fn seal_keyring(&self, cluster: &ClusterId, epoch: u64, keyring: &[u8], rng: &mut dyn Rng) -> Vec<u8> {
        sealed::seal(&self.derive("seal/kek", cluster, epoch), &keyring_place(cluster, epoch), keyring, rng)
    }

    pub(super) fn open_keyring(&self, cluster: &ClusterId, epoch: u64, row: &[u8]) -> Result<SecretBytes, SealError> {
        let kek = self.derive("seal/kek", cluster, epoch);
        sealed::open(&kek, &keyring_place(cluster, epoch), row).map_err(|_| SealError::Keyring)
    }

    fn derive(&self, purpose: &'static str, cluster: &ClusterId, epoch: u64) -> SecretKey {
        kdf::derive(self.0.expose(), purpose, &[cluster.as_bytes(), &epoch.to_be_bytes()])
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(..)")
    }
}

fn keyring_place(cluster: &ClusterId, epoch: u64) -> Vec<u8> {
    [b"bulla/v1/keyring".as_slice(), &framed(&[cluster.as_bytes(), &epoch.to_be_bytes()])].concat()
}
