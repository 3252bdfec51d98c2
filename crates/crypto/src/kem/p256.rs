//! P-256, for keys in hardware, which seldom can do another curve: DHKEM(P-256, HKDF-SHA256) (RFC 9180 §4.1) and
//! MLKEM768-P256 (draft-ietf-hpke-pq, C2SP hpke-hybrids).
//!
//! The private key is not here: what its holder gives is the x coordinate of the shared point
//! ([`crate::identity::P256Agreement`]), and everything after it happens here.

use super::ml_kem::{ML_KEM_CIPHERTEXT_BYTES, ML_KEM_PUBLIC_BYTES, MlKemKey, MlKemPublicKey};
use super::{KemError, combine, labeled_expand, labeled_extract};
use crate::secret::{Secret, SecretKey};
use crate::sign::P256_FRONT;
use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use std::fmt;

/// Length of an uncompressed point, 0x04 ‖ x ‖ y (SEC 1 §2.3.3).
pub const P256_BYTES: usize = 65;
/// Length of a compressed point, 0x02 or 0x03 ‖ x (SEC 1 §2.3.3).
pub const P256_COMPRESSED_BYTES: usize = 33;
/// Length of a public key of MLKEM768-P256: ML-KEM-768 encapsulation key, then the uncompressed point.
const ML_KEM_P256_PUBLIC_BYTES: usize = ML_KEM_PUBLIC_BYTES + P256_BYTES;
/// Length of an encapsulation of MLKEM768-P256: ML-KEM-768 ciphertext, then the uncompressed ephemeral point.
pub(crate) const ML_KEM_P256_ENCAPSULATION_BYTES: usize = ML_KEM_CIPHERTEXT_BYTES + P256_BYTES;

/// `"KEM" ‖ kem_id` of DHKEM(P-256, HKDF-SHA256) (RFC 9180 §4.1).
const DHKEM_SUITE_ID: &[u8] = b"KEM\x00\x10";
/// What ends the combiner's input (draft-irtf-cfrg-concrete-hybrid-kems).
const ML_KEM_P256_LABEL: &[u8] = b"MLKEM768-P256";

/// A point of P-256: on the curve and not its identity, which has no encoding of these lengths. The group has prime
/// order, so no such point has a small one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct P256Point([u8; P256_BYTES]);

impl P256Point {
    /// Takes 0x04 ‖ x ‖ y.
    ///
    /// # Errors
    /// [`KemError::Key`] for anything else, and for a point that is not on the curve.
    pub fn from_uncompressed(bytes: &[u8]) -> Result<Self, KemError> {
        Self::parse(bytes).filter(|point| point.0 == bytes).ok_or(KemError::Key)
    }

    /// Takes 0x02 or 0x03 ‖ x.
    ///
    /// # Errors
    /// [`KemError::Key`] for anything else, and if no point of the curve has this x.
    pub fn from_compressed(bytes: &[u8]) -> Result<Self, KemError> {
        Self::parse(bytes).filter(|point| point.compressed() == bytes).ok_or(KemError::Key)
    }

    /// Whatever encoding the library takes. It checks that the point is on the curve.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).ok()?;
        let spki = key.as_der().ok()?;
        spki.as_ref().strip_prefix(&P256_FRONT)?.try_into().ok().map(Self)
    }

    /// 0x04 ‖ x ‖ y.
    pub fn uncompressed(&self) -> &[u8; P256_BYTES] {
        &self.0
    }

    /// 0x02 or 0x03 ‖ x, by the parity of y.
    pub fn compressed(&self) -> [u8; P256_COMPRESSED_BYTES] {
        let mut bytes = [0; P256_COMPRESSED_BYTES];
        for (to, from) in bytes.iter_mut().zip(self.0) {
            *to = from;
        }
        let [first, ..] = &mut bytes;
        let [.., last] = self.0;
        *first = 2 | (last & 1);
        bytes
    }

    /// A fresh key's share, and the x coordinate that whoever holds this point's private key agrees on with it.
    ///
    /// # Errors
    /// [`KemError::Library`].
    pub fn ephemeral(&self) -> Result<(Self, SecretKey), KemError> {
        let private = PrivateKey::generate(&ECDH_P256).map_err(|_| KemError::Library)?;
        let share = private.compute_public_key().map_err(|_| KemError::Library)?;
        let share = Self(share.as_ref().try_into().map_err(|_| KemError::Library)?);
        let own = UnparsedPublicKey::new(&ECDH_P256, self.uncompressed());
        let agreed = agreement::agree(&private, own, KemError::Library, |bytes| {
            Secret::from_slice(bytes).ok_or(KemError::Library)
        })?;
        Ok((share, agreed))
    }
}

impl fmt::Debug for P256Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P256Point({})", data_encoding::HEXLOWER.encode(&self.compressed()))
    }
}

/// DHKEM's Encap: the share, which is the encapsulated key, and the shared secret.
pub(crate) fn encapsulate(to: &P256Point) -> Result<(P256Point, SecretKey), KemError> {
    let (share, agreed) = to.ephemeral()?;
    let secret = extract_and_expand(&agreed, &share, to)?;
    Ok((share, secret))
}

/// DHKEM's ExtractAndExpand of what was agreed, with `share` and the recipient's key as context.
pub(crate) fn extract_and_expand(
    agreed: &SecretKey,
    share: &P256Point,
    public: &P256Point,
) -> Result<SecretKey, KemError> {
    let prk = Secret::new(labeled_extract(DHKEM_SUITE_ID, &[], b"eae_prk", agreed.expose()));
    let context = [share.0, public.0].concat();
    let mut secret = SecretKey::filled(|_| ());
    labeled_expand(DHKEM_SUITE_ID, &prk, b"shared_secret", &context, secret.expose_mut())?;
    Ok(secret)
}

/// A public key of MLKEM768-P256, both halves checked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MlKemP256PublicKey {
    ml_kem: MlKemPublicKey,
    p256: P256Point,
}

impl MlKemP256PublicKey {
    pub(crate) fn new(ml_kem: &MlKemKey, p256: &P256Point) -> Self {
        Self { ml_kem: ml_kem.public().clone(), p256: *p256 }
    }

    /// Parses `ML-KEM-768 encapsulation key ‖ 0x04 ‖ x ‖ y`.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, KemError> {
        let bytes: &[u8; ML_KEM_P256_PUBLIC_BYTES] = bytes.try_into().map_err(|_| KemError::Key)?;
        let (ml_kem, p256) = bytes.split_at(ML_KEM_PUBLIC_BYTES);
        Ok(Self { ml_kem: MlKemPublicKey::from_bytes(ml_kem)?, p256: P256Point::from_uncompressed(p256)? })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [self.ml_kem.as_bytes().as_slice(), &self.p256.0].concat()
    }

    /// The half that hardware holds.
    pub(crate) fn p256(&self) -> &P256Point {
        &self.p256
    }

    /// Encaps: the encapsulated key, and the shared secret.
    pub(crate) fn encapsulate(&self) -> Result<(Vec<u8>, SecretKey), KemError> {
        let (mut encapsulated, ml_kem_secret) = self.ml_kem.encapsulate()?;
        let (share, agreed) = self.p256.ephemeral()?;
        encapsulated.extend_from_slice(&share.0);
        let secret = combine(&ml_kem_secret, &agreed, &share.0, &self.p256.0, ML_KEM_P256_LABEL)?;
        Ok((encapsulated, secret))
    }
}

/// Decaps of MLKEM768-P256, the agreement with `share` having taken place.
pub(crate) fn combine_ml_kem_p256(
    ml_kem: &MlKemKey,
    ciphertext: &[u8],
    agreed: &SecretKey,
    share: &P256Point,
    public: &P256Point,
) -> Result<SecretKey, KemError> {
    let ml_kem_secret = ml_kem.decapsulate(ciphertext)?;
    combine(&ml_kem_secret, agreed, &share.0, &public.0, ML_KEM_P256_LABEL)
}

#[cfg(test)]
mod tests;
