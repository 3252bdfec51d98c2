//! ML-KEM-768 (FIPS 203), the half of the hybrids that a quantum computer does not break.
//!
//! Encapsulation and decapsulation are aws-lc's. `libcrux-ml-kem` only turns a seed into a key, which aws-lc cannot
//! import, and checks public keys.

use super::KemError;
use crate::secret::{Secret, SecretKey};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use libcrux_ml_kem::mlkem768;
use zeroize::Zeroize;

/// Length of an ML-KEM-768 encapsulation key (FIPS 203 table 3).
pub(super) const ML_KEM_PUBLIC_BYTES: usize = 1184;
/// Length of an ML-KEM-768 ciphertext (FIPS 203 table 3).
pub(super) const ML_KEM_CIPHERTEXT_BYTES: usize = 1088;
/// Length of an ML-KEM-768 seed `d ‖ z` (FIPS 203 §7.1).
pub const ML_KEM_SEED_BYTES: usize = 64;

/// An ML-KEM-768 encapsulation key, reduced modulo q (FIPS 203 §7.2).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MlKemPublicKey(Box<[u8; ML_KEM_PUBLIC_BYTES]>);

impl MlKemPublicKey {
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, KemError> {
        let bytes: [u8; ML_KEM_PUBLIC_BYTES] = bytes.try_into().map_err(|_| KemError::Key)?;
        if !mlkem768::validate_public_key(&mlkem768::MlKem768PublicKey::from(bytes)) {
            return Err(KemError::Key);
        }
        Ok(Self(Box::new(bytes)))
    }

    pub(super) fn as_bytes(&self) -> &[u8; ML_KEM_PUBLIC_BYTES] {
        &self.0
    }

    /// The ciphertext, and the shared secret.
    pub(super) fn encapsulate(&self) -> Result<(Vec<u8>, SecretKey), KemError> {
        let key = EncapsulationKey::new(&ML_KEM_768, self.0.as_slice()).map_err(|_| KemError::Key)?;
        let (ciphertext, secret) = key.encapsulate().map_err(|_| KemError::Library)?;
        Ok((ciphertext.as_ref().to_vec(), Secret::from_slice(secret.as_ref()).ok_or(KemError::Library)?))
    }
}

/// An ML-KEM-768 decapsulation key, expanded once from its seed and ready for use.
pub struct MlKemKey {
    private: DecapsulationKey,
    public: MlKemPublicKey,
}

impl MlKemKey {
    /// Expands a seed `d ‖ z`.
    ///
    /// The public key is derived here as well, never taken from a file: aws-lc does not check that a decapsulation
    /// key fits anything.
    ///
    /// # Errors
    /// [`KemError::Library`].
    pub fn from_seed(seed: &Secret<[u8; ML_KEM_SEED_BYTES]>) -> Result<Self, KemError> {
        let (private, public) = mlkem768::generate_key_pair(*seed.expose()).into_parts();
        let mut expanded: [u8; 2400] = private.into();
        let private = DecapsulationKey::new(&ML_KEM_768, &expanded);
        expanded.zeroize();
        let public = MlKemPublicKey(Box::new(public.into()));
        Ok(Self { private: private.map_err(|_| KemError::Library)?, public })
    }

    pub(crate) fn public(&self) -> &MlKemPublicKey {
        &self.public
    }

    /// A changed ciphertext gives another secret, not an error (FIPS 203 §6.3).
    pub(crate) fn decapsulate(&self, ciphertext: &[u8]) -> Result<SecretKey, KemError> {
        if ciphertext.len() != ML_KEM_CIPHERTEXT_BYTES {
            return Err(KemError::Encapsulation);
        }
        let secret = self.private.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| KemError::Library)?;
        Secret::from_slice(secret.as_ref()).ok_or(KemError::Library)
    }
}
