//! Key agreement and encapsulation: X25519, X-Wing, and the HPKE base mode that age uses with it and with P-256
//! (`p256`).
//!
//! The primitives are aws-lc's. Two things are ours, because no library offers them in a form that fits:
//! the hybrid combinations (draft-connolly-cfrg-xwing-kem and its sister for P-256), and HPKE's key schedule for
//! one message (RFC 9180 §5.1 and §6.1), whose private key may live in hardware.
//!
//! **The zero check.** An X25519 point of small order gives a shared secret of zero for every private
//! key. RFC 9180 §7.1.4 and the age specification demand a refusal, X-Wing alone does not. `agree` is
//! the only caller of X25519 here, and refuses.

mod ml_kem;
pub(crate) mod p256;

pub use ml_kem::{ML_KEM_SEED_BYTES, MlKemKey};
pub use p256::{P256_BYTES, P256_COMPRESSED_BYTES, P256Point};

use crate::digest::hmac_sha256;
use crate::secret::{Secret, SecretBytes, SecretKey};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest::{SHA3_256, digest as sha3};
use aws_lc_rs::hkdf;
use ml_kem::{ML_KEM_CIPHERTEXT_BYTES, ML_KEM_PUBLIC_BYTES, MlKemPublicKey};
use std::fmt;
use zeroize::Zeroize;

/// Length of an X25519 public key, private key and shared secret (RFC 7748 §6.1).
pub const X25519_BYTES: usize = 32;
/// Length of an X-Wing encapsulation: ML-KEM-768 ciphertext, then the ephemeral X25519 public key.
pub const HYBRID_ENCAPSULATION_BYTES: usize = ML_KEM_CIPHERTEXT_BYTES + X25519_BYTES;
/// Length of the tag of ChaCha20-Poly1305 (RFC 8439 §2.8).
pub const TAG_BYTES: usize = 16;

/// The label at the end of X-Wing's combiner: `\./` above `/^\`.
const XWING_LABEL: &[u8] = br"\.//^\";

/// What HPKE is used with: always HKDF-SHA256 and ChaCha20Poly1305, and one of three encapsulations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// X-Wing.
    XWing,
    /// DHKEM(P-256, HKDF-SHA256).
    DhkemP256,
    /// MLKEM768-P256.
    MlKem768P256,
}

impl Suite {
    /// `"HPKE" ‖ kem_id ‖ kdf_id 0x0001 ‖ aead_id 0x0003` (RFC 9180 §5.1; draft-ietf-hpke-pq for the hybrids).
    const fn id(self) -> &'static [u8] {
        match self {
            Self::XWing => b"HPKE\x64\x7a\x00\x01\x00\x03",
            Self::DhkemP256 => b"HPKE\x00\x10\x00\x01\x00\x03",
            Self::MlKem768P256 => b"HPKE\x00\x50\x00\x01\x00\x03",
        }
    }
}

/// Why a key or an encapsulation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KemError {
    /// The bytes are no key of this kind, or not its one canonical encoding.
    Key,
    /// The encapsulation has the wrong length.
    Encapsulation,
    /// The point has small order, so the shared secret would be known to everybody.
    SmallOrder,
    /// The message does not authenticate under this key.
    Open,
    /// The library failed for a reason of its own.
    Library,
}

impl fmt::Display for KemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "not a valid key of this kind",
            Self::Encapsulation => "the encapsulated key has the wrong length",
            Self::SmallOrder => "the X25519 point has small order",
            Self::Open => "the message was not made for this key, or was changed",
            Self::Library => "the cryptographic library failed",
        })
    }
}

impl std::error::Error for KemError {}

/// Loads an X25519 private key (RFC 7748 §5 clamps it when it is used).
pub(crate) fn x25519_private(scalar: &[u8; X25519_BYTES]) -> Result<PrivateKey, KemError> {
    PrivateKey::from_private_key(&X25519, scalar).map_err(|_| KemError::Key)
}

/// Makes an X25519 key for one use.
pub(crate) fn x25519_ephemeral() -> Result<PrivateKey, KemError> {
    PrivateKey::generate(&X25519).map_err(|_| KemError::Library)
}

/// The public key of an X25519 private key.
pub(crate) fn x25519_public(private: &PrivateKey) -> Result<[u8; X25519_BYTES], KemError> {
    let public = private.compute_public_key().map_err(|_| KemError::Library)?;
    public.as_ref().try_into().map_err(|_| KemError::Library)
}

/// X25519 (RFC 7748 §6.1). A shared secret of zero is [`KemError::SmallOrder`].
pub(crate) fn agree(private: &PrivateKey, peer: &[u8; X25519_BYTES]) -> Result<SecretKey, KemError> {
    let peer = UnparsedPublicKey::new(&X25519, peer.as_slice());
    let shared = agreement::agree(private, peer, KemError::SmallOrder, |bytes| {
        Secret::from_slice(bytes).ok_or(KemError::Library)
    })?;
    // aws-lc refuses a zero secret itself. It is cheap to hold the promise here and not there.
    if crate::digest::equal(shared.expose(), &[0; X25519_BYTES]) {
        return Err(KemError::SmallOrder);
    }
    Ok(shared)
}

/// Checks an X25519 public key that will be kept: canonical (below 2^255 - 19, top bit clear), so that
/// one key has one name, and not of small order.
pub(crate) fn check_x25519_public(public: &[u8; X25519_BYTES]) -> Result<(), KemError> {
    // 2^255 - 19 in little endian. Public data, so the comparison may take variable time.
    let mut prime = [0xff; X25519_BYTES];
    let [first, .., last] = &mut prime;
    *first = 0xed;
    *last = 0x7f;
    if !public.iter().rev().lt(prime.iter().rev()) {
        return Err(KemError::Key);
    }
    // Clamping makes every scalar a multiple of the cofactor 8, so any scalar sends a point of small
    // order to zero, and no other.
    agree(&x25519_private(&[0x42; X25519_BYTES])?, public).map(|_| ())
}

/// An X-Wing public key, checked: the ML-KEM half reduced modulo q (FIPS 203 §7.2), the X25519 half
/// canonical and not of small order.
#[derive(Clone, PartialEq, Eq)]
pub struct HybridPublicKey {
    ml_kem: MlKemPublicKey,
    x25519: [u8; X25519_BYTES],
}

impl HybridPublicKey {
    /// Parses `ML-KEM-768 encapsulation key ‖ X25519 public key`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KemError> {
        let (ml_kem, x25519) = bytes.split_at_checked(ML_KEM_PUBLIC_BYTES).ok_or(KemError::Key)?;
        let x25519: [u8; X25519_BYTES] = x25519.try_into().map_err(|_| KemError::Key)?;
        let ml_kem = MlKemPublicKey::from_bytes(ml_kem)?;
        check_x25519_public(&x25519)?;
        Ok(Self { ml_kem, x25519 })
    }

    /// The bytes that [`HybridPublicKey::from_bytes`] takes.
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.ml_kem.as_bytes().as_slice(), self.x25519.as_slice()].concat()
    }

    /// X-Wing encapsulation: the encapsulated key, and the shared secret.
    pub fn encapsulate(&self) -> Result<(Vec<u8>, SecretKey), KemError> {
        let (mut encapsulated, ml_kem_secret) = self.ml_kem.encapsulate()?;
        let ephemeral = x25519_ephemeral()?;
        let share = x25519_public(&ephemeral)?;
        let x25519_secret = agree(&ephemeral, &self.x25519)?;
        let secret = combine(&ml_kem_secret, &x25519_secret, &share, &self.x25519, XWING_LABEL)?;
        encapsulated.extend_from_slice(&share);
        Ok((encapsulated, secret))
    }
}

/// An X-Wing private key, expanded once from its 32-byte seed and ready for use.
pub struct HybridSecretKey {
    ml_kem: MlKemKey,
    x25519: PrivateKey,
    public: HybridPublicKey,
}

impl HybridSecretKey {
    /// Expands a seed: SHAKE256(seed) gives `d ‖ z` for ML-KEM (64 bytes), then the X25519 scalar (32).
    pub fn from_seed(seed: &SecretKey) -> Result<Self, KemError> {
        let mut expanded: [u8; ML_KEM_SEED_BYTES + X25519_BYTES] = libcrux_sha3::shake256(seed.expose());
        let (ml_kem_seed, scalar) = expanded.split_at(ML_KEM_SEED_BYTES);
        let halves = Secret::from_slice(ml_kem_seed).zip(scalar.try_into().ok());
        let result = match halves {
            Some((ml_kem_seed, scalar)) => Self::from_halves(&ml_kem_seed, scalar),
            None => Err(KemError::Library),
        };
        expanded.zeroize();
        result
    }

    fn from_halves(
        ml_kem_seed: &Secret<[u8; ML_KEM_SEED_BYTES]>,
        scalar: &[u8; X25519_BYTES],
    ) -> Result<Self, KemError> {
        let ml_kem = MlKemKey::from_seed(ml_kem_seed)?;
        let x25519 = x25519_private(scalar)?;
        let public = HybridPublicKey { ml_kem: ml_kem.public().clone(), x25519: x25519_public(&x25519)? };
        Ok(Self { ml_kem, x25519, public })
    }

    /// The public key.
    pub fn public(&self) -> &HybridPublicKey {
        &self.public
    }

    /// X-Wing decapsulation. ML-KEM rejects implicitly: a changed ciphertext gives another secret, not
    /// an error (FIPS 203 §6.3).
    pub fn decapsulate(&self, encapsulated: &[u8]) -> Result<SecretKey, KemError> {
        if encapsulated.len() != HYBRID_ENCAPSULATION_BYTES {
            return Err(KemError::Encapsulation);
        }
        let (ciphertext, share) = encapsulated.split_at(ML_KEM_CIPHERTEXT_BYTES);
        let share: [u8; X25519_BYTES] = share.try_into().map_err(|_| KemError::Encapsulation)?;
        let x25519_secret = agree(&self.x25519, &share)?;
        let ml_kem_secret = self.ml_kem.decapsulate(ciphertext)?;
        combine(&ml_kem_secret, &x25519_secret, &share, &self.public.x25519, XWING_LABEL)
    }
}

/// The combiner of the hybrids: SHA3-256(ss_PQ ‖ ss_T ‖ ct_T ‖ ek_T ‖ label), T being the curve's half.
fn combine(
    ml_kem: &SecretKey,
    agreed: &SecretKey,
    share: &[u8],
    public: &[u8],
    label: &[u8],
) -> Result<SecretKey, KemError> {
    let mut input = [ml_kem.expose().as_slice(), agreed.expose(), share, public, label].concat();
    let digest = sha3(&SHA3_256, &input);
    input.zeroize();
    Secret::from_slice(digest.as_ref()).ok_or(KemError::Library)
}

/// HPKE single-shot encryption in base mode (RFC 9180 §6.1): the encapsulated key, and the ciphertext.
pub fn seal(to: &HybridPublicKey, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<(Vec<u8>, Vec<u8>), KemError> {
    let (encapsulated, secret) = to.encapsulate()?;
    Ok((encapsulated, seal_with(Suite::XWing, &secret, info, aad, plaintext)?))
}

/// HPKE single-shot decryption in base mode (RFC 9180 §6.1).
pub fn open(
    key: &HybridSecretKey,
    encapsulated: &[u8],
    info: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<SecretBytes, KemError> {
    open_with(Suite::XWing, &key.decapsulate(encapsulated)?, info, aad, ciphertext)
}

/// What follows encapsulation in [`seal`].
pub(crate) fn seal_with(
    suite: Suite,
    secret: &SecretKey,
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, KemError> {
    let (key, nonce) = schedule(suite, secret, info)?;
    aead_seal(&key, nonce, aad, plaintext)
}

/// What follows decapsulation in [`open`].
pub(crate) fn open_with(
    suite: Suite,
    secret: &SecretKey,
    info: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<SecretBytes, KemError> {
    let (key, nonce) = schedule(suite, secret, info)?;
    aead_open(&key, nonce, aad, ciphertext)
}

/// The key schedule of RFC 9180 §5.1 for base mode: no pre-shared key, and nothing exported. The nonce
/// of message 0 is the base nonce itself.
fn schedule(suite: Suite, secret: &SecretKey, info: &[u8]) -> Result<(SecretKey, [u8; 12]), KemError> {
    let id = suite.id();
    let psk_id_hash = labeled_extract(id, &[], b"psk_id_hash", &[]);
    let info_hash = labeled_extract(id, &[], b"info_hash", info);
    const MODE_BASE: &[u8] = &[0];
    let context = [MODE_BASE, &psk_id_hash, &info_hash].concat();
    let prk = Secret::new(labeled_extract(id, secret.expose(), b"secret", &[]));
    let mut key = SecretKey::filled(|_| ());
    labeled_expand(id, &prk, b"key", &context, key.expose_mut())?;
    let mut nonce = [0; 12];
    labeled_expand(id, &prk, b"base_nonce", &context, &mut nonce)?;
    Ok((key, nonce))
}

/// RFC 9180 §4: LabeledExtract. HKDF-Extract is HMAC with the salt as key (RFC 5869 §2.2).
fn labeled_extract(suite_id: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> [u8; 32] {
    hmac_sha256(salt, &[b"HPKE-v1", suite_id, label, ikm])
}

/// RFC 9180 §4: LabeledExpand.
fn labeled_expand(suite_id: &[u8], prk: &SecretKey, label: &[u8], info: &[u8], out: &mut [u8]) -> Result<(), KemError> {
    let length = u16::try_from(out.len()).map_err(|_| KemError::Library)?.to_be_bytes();
    expand(prk, &[&length, b"HPKE-v1", suite_id, label, info], out)
}

/// HKDF-Expand (RFC 5869 §2.3) of a key that HKDF-Extract has made.
fn expand(prk: &SecretKey, info: &[&[u8]], out: &mut [u8]) -> Result<(), KemError> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, prk.expose())
        .expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| KemError::Library)
}

/// ChaCha20-Poly1305 (RFC 8439) under a key that is used for exactly this message.
pub(crate) fn aead_seal(key: &SecretKey, nonce: [u8; 12], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, KemError> {
    let mut message = Vec::with_capacity(plaintext.len().saturating_add(TAG_BYTES));
    message.extend_from_slice(plaintext);
    chacha(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut message)
        .map_err(|_| KemError::Library)?;
    Ok(message)
}

/// Opens what [`aead_seal`] made.
pub(crate) fn aead_open(
    key: &SecretKey,
    nonce: [u8; 12],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<SecretBytes, KemError> {
    let mut message = SecretBytes::new(ciphertext.to_vec());
    let length = chacha(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), message.expose_mut())
        .map_err(|_| KemError::Open)?
        .len();
    message.expose_mut().truncate(length);
    Ok(message)
}

/// Loads a ChaCha20-Poly1305 key.
pub(crate) fn chacha(key: &SecretKey) -> Result<LessSafeKey, KemError> {
    UnboundKey::new(&CHACHA20_POLY1305, key.expose()).map(LessSafeKey::new).map_err(|_| KemError::Library)
}

#[cfg(test)]
mod tests;
