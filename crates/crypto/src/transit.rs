//! Keys of the transit engine: encrypt, sign and authenticate for others (`spec/transit.md`).
//!
//! ```text
//! ciphertext = salt(32) ‖ commitment(32) ‖ AEAD(key, nonce = 0^96, associated data, plaintext) ‖ tag(16)
//! key(32) ‖ commitment(32) = HKDF-SHA-256(ikm = version's key, salt, info = "bulla/v1/transit" ‖ place)
//! place = lp(kind) ‖ lp(name) ‖ lp(version as u32 big-endian)
//! ```
//!
//! The salt is drawn for every call, so each AEAD key encrypts once and the constant nonce is never used twice: there
//! is no number of encryptions after which a version would have to be replaced. The commitment binds a ciphertext to
//! one key, name and version before anything is decrypted, so another key is told apart from damage.
//!
//! RSA encrypts with OAEP and SHA-256; the label is SHA-256 over `"bulla/v1/transit"`, the place and the associated
//! data, so that what was encrypted for one name or version opens under no other. SHA-256 over the place and the public
//! key stands before it, so that here too another key is told from damage. Whoever has the public key can encrypt.

mod rsa;

use crate::certificate::is_one_sequence;
use crate::digest::{equal, framed, hmac_sha256, sha256};
use crate::kdf::hkdf_sha256;
use crate::random::{Rng, draw, secret_key};
use crate::secret::{Secret, SecretBytes, SecretKey};
use crate::sign::{Algorithm as Signs, PublicKey, RsaMinimum, SigningKey};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{Digest, SHA256, SHA384, SHA512, digest};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair, RsaSignatureEncoding,
    UnparsedPublicKey, VerificationAlgorithm,
};
use bulla_wire::api::{DigestAlgorithm, KeyKind};
use rsa::Rsa;
use std::fmt;

const LABEL: &[u8] = b"bulla/v1/transit";
const SALT_LEN: usize = 32;
const HEAD_LEN: usize = 64;
const TAG_LEN: usize = 16;
const RSA_ID_LEN: usize = 32;
/// Shortest HMAC key in bytes: as long as the tag.
const HMAC_KEY_MIN: usize = 32;
/// Longest HMAC key in bytes: a block of SHA-256; HMAC would hash a longer one first.
const HMAC_KEY_MAX: usize = 64;
/// Longest private key in bytes: RSA with 4096 bits has less than 2,400, and PKCS#8 could carry attributes of any size.
const MAX_KEY_BYTES: usize = 4096;

/// Which version of which key: what a ciphertext is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The key's name.
    pub name: &'a str,
    /// Its version.
    pub version: u32,
}

/// What is signed.
#[derive(Clone, Copy)]
pub enum Signed<'a> {
    /// A message, which is hashed here.
    Message(&'a [u8]),
    /// The digest of a message.
    Digest(&'a [u8]),
}

/// Why a key did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransitError {
    /// A key of this kind cannot do that.
    WrongKind,
    /// The bytes are no key of this kind.
    NoKey,
    /// The ciphertext belongs to another key, name or version, or its head is damaged.
    OtherKey,
    /// The ciphertext was altered, or the associated data is another.
    Damaged,
    /// The plaintext is longer than this kind encrypts.
    TooLong {
        /// The most it takes, in bytes.
        max: usize,
    },
    /// A key of this kind does not sign this digest.
    WrongDigest,
    /// The digest has not the length that its algorithm gives.
    DigestLength,
    /// The library failed.
    Library,
}

impl fmt::Display for TransitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongKind => f.write_str("a key of this kind cannot do that"),
            Self::NoKey => f.write_str("these bytes are no key of this kind"),
            Self::OtherKey => f.write_str("the ciphertext belongs to another key, or its head is damaged"),
            Self::Damaged => f.write_str("the ciphertext was altered, or the associated data is another"),
            Self::TooLong { max } => write!(f, "a key of this kind encrypts at most {max} bytes"),
            Self::WrongDigest => f.write_str("a key of this kind does not sign this digest"),
            Self::DigestLength => f.write_str("the digest has not the length that its algorithm gives"),
            Self::Library => f.write_str("the cryptographic library failed"),
        }
    }
}

impl std::error::Error for TransitError {}

/// One version of a transit key.
pub struct TransitKey {
    kind: KeyKind,
    key: Key,
}

enum Key {
    Aead(SecretKey),
    Hmac(SecretBytes),
    Ed25519(SigningKey),
    Ecdsa(EcdsaKeyPair, PublicKey),
    Rsa(Box<Rsa>),
}

/// What a key is taken for. RSA's private half is another object of the library for each, and reading one checks its
/// primes: 0.2 ms for 2048 bits, 0.8 for 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// All that its kind does.
    Any,
    /// To encrypt and decrypt.
    Encrypt,
    /// To sign, verify and authenticate.
    Sign,
}

/// Draws the bytes of a new key: 32 random ones, or PKCS#8. ECDSA and RSA draw from the library's own generator; RSA
/// takes up to seconds.
///
/// # Errors
/// [`TransitError::Library`] only.
pub fn generate(kind: KeyKind, rng: &mut dyn Rng) -> Result<SecretBytes, TransitError> {
    let size = match kind {
        KeyKind::Aes256Gcm | KeyKind::ChaCha20Poly1305 | KeyKind::HmacSha256 => {
            return Ok(SecretBytes::new(secret_key(rng).expose().to_vec()));
        }
        KeyKind::Ed25519 => {
            let key = SigningKey::generate(rng).map_err(|_| TransitError::Library)?;
            return key.to_pkcs8().map_err(|_| TransitError::Library);
        }
        KeyKind::EcdsaP256 => return generate_ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
        KeyKind::EcdsaP384 => return generate_ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
        KeyKind::Rsa2048 => KeySize::Rsa2048,
        KeyKind::Rsa3072 => KeySize::Rsa3072,
        KeyKind::Rsa4096 => KeySize::Rsa4096,
    };
    let pair = RsaKeyPair::generate(size).map_err(|_| TransitError::Library)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| TransitError::Library)?;
    Ok(SecretBytes::new(der.as_ref().to_vec()))
}

fn generate_ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Result<SecretBytes, TransitError> {
    let pair = EcdsaKeyPair::generate(algorithm).map_err(|_| TransitError::Library)?;
    let der = pair.to_pkcs8v1().map_err(|_| TransitError::Library)?;
    Ok(SecretBytes::new(der.as_ref().to_vec()))
}

impl TransitKey {
    /// Takes the bytes of a key, be they [`generate`]d or somebody's own.
    ///
    /// # Errors
    /// [`TransitError::NoKey`].
    pub fn parse(kind: KeyKind, bytes: &[u8]) -> Result<Self, TransitError> {
        Self::parse_for(Use::Any, kind, bytes)
    }

    /// As [`TransitKey::parse`], for one use. Another one of an RSA key is then [`TransitError::WrongKind`].
    ///
    /// # Errors
    /// [`TransitError::NoKey`].
    pub fn parse_for(taken_for: Use, kind: KeyKind, bytes: &[u8]) -> Result<Self, TransitError> {
        // The library passes over what follows a key.
        if bytes.len() > MAX_KEY_BYTES || (kind.signs() && !is_one_sequence(bytes)) {
            return Err(TransitError::NoKey);
        }
        let key = match kind {
            KeyKind::Aes256Gcm | KeyKind::ChaCha20Poly1305 => {
                Key::Aead(Secret::from_slice(bytes).ok_or(TransitError::NoKey)?)
            }
            KeyKind::HmacSha256 if (HMAC_KEY_MIN..=HMAC_KEY_MAX).contains(&bytes.len()) => {
                Key::Hmac(SecretBytes::new(bytes.to_vec()))
            }
            KeyKind::HmacSha256 => return Err(TransitError::NoKey),
            KeyKind::Ed25519 => {
                let key = SigningKey::from_pkcs8(bytes, RsaMinimum::Bits3072).map_err(|_| TransitError::NoKey)?;
                if key.public_key().algorithm() != Signs::Ed25519 {
                    return Err(TransitError::NoKey);
                }
                Key::Ed25519(key)
            }
            KeyKind::EcdsaP256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes)?,
            KeyKind::EcdsaP384 => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, bytes)?,
            KeyKind::Rsa2048 => Key::Rsa(Box::new(Rsa::parse(taken_for, bytes, 2048)?)),
            KeyKind::Rsa3072 => Key::Rsa(Box::new(Rsa::parse(taken_for, bytes, 3072)?)),
            KeyKind::Rsa4096 => Key::Rsa(Box::new(Rsa::parse(taken_for, bytes, 4096)?)),
        };
        Ok(Self { kind, key })
    }

    /// The public key, for kinds that have one.
    pub fn public_key(&self) -> Option<&PublicKey> {
        match &self.key {
            Key::Aead(_) | Key::Hmac(_) => None,
            Key::Ed25519(key) => Some(key.public_key()),
            Key::Ecdsa(_, public) => Some(public),
            Key::Rsa(rsa) => Some(&rsa.public),
        }
    }

    /// Encrypts.
    ///
    /// # Errors
    /// [`TransitError::WrongKind`], [`TransitError::TooLong`].
    pub fn encrypt(
        &self,
        place: Place<'_>,
        associated_data: &[u8],
        plaintext: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, TransitError> {
        match &self.key {
            Key::Aead(key) => {
                let salt: [u8; SALT_LEN] = draw(rng);
                let derived = self.derive(key, &salt, place);
                let (single_use, commitment) = derived.expose().split_at(32);
                let length = plaintext.len().saturating_add(HEAD_LEN + TAG_LEN);
                let mut out = Vec::with_capacity(length);
                out.extend_from_slice(&salt);
                out.extend_from_slice(commitment);
                out.extend_from_slice(plaintext);
                let body = out.get_mut(HEAD_LEN..).ok_or(TransitError::Library)?;
                let tag = self.cipher(single_use)?.seal_in_place_separate_tag(zero(), Aad::from(associated_data), body);
                out.extend_from_slice(tag.map_err(|_| TransitError::Library)?.as_ref());
                Ok(out)
            }
            Key::Rsa(rsa) => {
                let max = rsa.encrypt.max_plaintext_size(&OAEP_SHA256_MGF1SHA256);
                if plaintext.len() > max {
                    return Err(TransitError::TooLong { max });
                }
                let mut body = vec![0; rsa.encrypt.ciphertext_size()];
                let label = self.oaep_label(place, associated_data);
                rsa.encrypt
                    .encrypt(&OAEP_SHA256_MGF1SHA256, plaintext, &mut body, Some(&label))
                    .map_err(|_| TransitError::Library)?;
                Ok([&self.rsa_id(rsa, place)[..], &body].concat())
            }
            Key::Hmac(_) | Key::Ed25519(_) | Key::Ecdsa(..) => Err(TransitError::WrongKind),
        }
    }

    /// Decrypts what [`TransitKey::encrypt`] made for the same place and associated data.
    ///
    /// # Errors
    /// [`TransitError::WrongKind`], [`TransitError::OtherKey`], [`TransitError::Damaged`].
    pub fn decrypt(
        &self,
        place: Place<'_>,
        associated_data: &[u8],
        ciphertext: &[u8],
    ) -> Result<SecretBytes, TransitError> {
        match &self.key {
            Key::Aead(key) => {
                if ciphertext.len() < HEAD_LEN + TAG_LEN {
                    return Err(TransitError::Damaged);
                }
                let (head, body) = ciphertext.split_at(HEAD_LEN);
                let (salt, claimed) = head.split_at(SALT_LEN);
                let derived = self.derive(key, salt, place);
                let (single_use, commitment) = derived.expose().split_at(32);
                if !equal(commitment, claimed) {
                    return Err(TransitError::OtherKey);
                }
                let mut plaintext = SecretBytes::new(body.to_vec());
                let opened =
                    self.cipher(single_use)?.open_in_place(zero(), Aad::from(associated_data), plaintext.expose_mut());
                let length = opened.map_err(|_| TransitError::Damaged)?.len();
                plaintext.expose_mut().truncate(length);
                Ok(plaintext)
            }
            Key::Rsa(rsa) => {
                let Some((id, body)) = ciphertext.split_at_checked(RSA_ID_LEN) else {
                    return Err(TransitError::Damaged);
                };
                if !equal(id, &self.rsa_id(rsa, place)) {
                    return Err(TransitError::OtherKey);
                }
                let key = rsa.decrypt.as_ref().ok_or(TransitError::WrongKind)?;
                if body.len() != key.key_size_bytes() {
                    return Err(TransitError::Damaged);
                }
                let mut plaintext = SecretBytes::new(vec![0; key.min_output_size()]);
                let label = self.oaep_label(place, associated_data);
                let opened = key.decrypt(&OAEP_SHA256_MGF1SHA256, body, plaintext.expose_mut(), Some(&label));
                let length = opened.map_err(|_| TransitError::Damaged)?.len();
                plaintext.expose_mut().truncate(length);
                Ok(plaintext)
            }
            Key::Hmac(_) | Key::Ed25519(_) | Key::Ecdsa(..) => Err(TransitError::WrongKind),
        }
    }

    /// Signs: Ed25519 the message itself, ECDSA (r ‖ s) and RSA-PSS (salt as long as the digest) its digest.
    ///
    /// # Errors
    /// [`TransitError::WrongKind`], [`TransitError::WrongDigest`], [`TransitError::DigestLength`].
    pub fn sign(&self, signed: Signed<'_>, with: Option<DigestAlgorithm>) -> Result<Vec<u8>, TransitError> {
        let library = |_| TransitError::Library;
        match &self.key {
            Key::Ed25519(key) => match (signed, with) {
                (Signed::Message(message), None) => key.sign(message).map_err(|_| TransitError::Library),
                _ => Err(TransitError::WrongDigest),
            },
            Key::Ecdsa(pair, public) => {
                let digest = digest_of(signed, digest_for(public, with)?)?;
                pair.sign_digest(&digest).map(|signature| signature.as_ref().to_vec()).map_err(library)
            }
            Key::Rsa(rsa) => {
                let with = digest_for(&rsa.public, with)?;
                let encoding: &'static RsaSignatureEncoding = match with {
                    DigestAlgorithm::Sha256 => &RSA_PSS_SHA256,
                    DigestAlgorithm::Sha384 => &RSA_PSS_SHA384,
                    DigestAlgorithm::Sha512 => &RSA_PSS_SHA512,
                };
                let key = rsa.sign.as_ref().ok_or(TransitError::WrongKind)?;
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign_digest(encoding, &digest_of(signed, with)?, &mut signature).map_err(library)?;
                Ok(signature)
            }
            Key::Aead(_) | Key::Hmac(_) => Err(TransitError::WrongKind),
        }
    }

    /// Whether a signature of this key holds.
    ///
    /// # Errors
    /// As [`TransitKey::sign`]; a signature that does not hold is no error.
    pub fn verify(
        &self,
        signed: Signed<'_>,
        with: Option<DigestAlgorithm>,
        signature: &[u8],
    ) -> Result<bool, TransitError> {
        verify(self.public_key().ok_or(TransitError::WrongKind)?, signed, with, signature)
    }

    /// HMAC-SHA-256 of the message.
    ///
    /// # Errors
    /// [`TransitError::WrongKind`].
    pub fn hmac(&self, message: &[u8]) -> Result<[u8; 32], TransitError> {
        match &self.key {
            Key::Hmac(key) => Ok(hmac_sha256(key.expose(), &[message])),
            _ => Err(TransitError::WrongKind),
        }
    }

    /// Whether a MAC is that of the message, in time that does not depend on where they differ.
    ///
    /// # Errors
    /// [`TransitError::WrongKind`].
    pub fn verify_hmac(&self, message: &[u8], mac: &[u8]) -> Result<bool, TransitError> {
        Ok(equal(&self.hmac(message)?, mac))
    }

    fn place(&self, place: Place<'_>) -> Vec<u8> {
        framed(&[self.kind.as_str().as_bytes(), place.name.as_bytes(), &place.version.to_be_bytes()])
    }

    fn derive(&self, key: &SecretKey, salt: &[u8], place: Place<'_>) -> Secret<[u8; HEAD_LEN]> {
        hkdf_sha256(key.expose(), salt, &[LABEL, &self.place(place)].concat())
    }

    fn oaep_label(&self, place: Place<'_>, associated_data: &[u8]) -> [u8; 32] {
        sha256(&[LABEL, &self.place(place), &framed(&[associated_data])])
    }

    /// Which key and place an RSA ciphertext belongs to; no secret.
    fn rsa_id(&self, rsa: &Rsa, place: Place<'_>) -> [u8; RSA_ID_LEN] {
        sha256(&[LABEL, &self.place(place), &framed(&[rsa.public.spki()])])
    }

    fn cipher(&self, key: &[u8]) -> Result<LessSafeKey, TransitError> {
        let algorithm: &'static Algorithm = match self.kind {
            KeyKind::Aes256Gcm => &AES_256_GCM,
            KeyKind::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            _ => return Err(TransitError::WrongKind),
        };
        UnboundKey::new(algorithm, key).map(LessSafeKey::new).map_err(|_| TransitError::Library)
    }
}

impl fmt::Debug for Signed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message(_) => "Message(..)",
            Self::Digest(_) => "Digest(..)",
        })
    }
}

impl fmt::Debug for TransitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransitKey({})", self.kind)
    }
}

/// The digest that is signed, if the key takes the one that was named.
fn digest_for(public: &PublicKey, named: Option<DigestAlgorithm>) -> Result<DigestAlgorithm, TransitError> {
    let own = match public.algorithm() {
        Signs::EcdsaP256 => DigestAlgorithm::Sha256,
        Signs::EcdsaP384 => DigestAlgorithm::Sha384,
        Signs::RsaPssSha512 => return Ok(named.unwrap_or(DigestAlgorithm::Sha256)),
        Signs::Ed25519 => return Err(TransitError::WrongDigest),
    };
    if named.is_none_or(|named| named == own) { Ok(own) } else { Err(TransitError::WrongDigest) }
}

/// Whether a signature holds that a transit key with this public half made.
///
/// # Errors
/// As [`TransitKey::sign`]; a signature that does not hold is no error.
pub fn verify(
    public: &PublicKey,
    signed: Signed<'_>,
    with: Option<DigestAlgorithm>,
    signature: &[u8],
) -> Result<bool, TransitError> {
    let algorithm: &'static dyn VerificationAlgorithm = match (public.algorithm(), with) {
        (Signs::Ed25519, None) => {
            return match signed {
                Signed::Message(message) => Ok(public.verify(message, signature).is_ok()),
                Signed::Digest(_) => Err(TransitError::WrongDigest),
            };
        }
        (Signs::Ed25519, Some(_)) => return Err(TransitError::WrongDigest),
        (Signs::EcdsaP256, _) => &ECDSA_P256_SHA256_FIXED,
        (Signs::EcdsaP384, _) => &ECDSA_P384_SHA384_FIXED,
        (Signs::RsaPssSha512, Some(DigestAlgorithm::Sha384)) => &RSA_PSS_2048_8192_SHA384,
        (Signs::RsaPssSha512, Some(DigestAlgorithm::Sha512)) => &RSA_PSS_2048_8192_SHA512,
        (Signs::RsaPssSha512, Some(DigestAlgorithm::Sha256) | None) => &RSA_PSS_2048_8192_SHA256,
    };
    let digest = digest_of(signed, digest_for(public, with)?)?;
    Ok(UnparsedPublicKey::new(algorithm, public.spki()).verify_digest(&digest, signature).is_ok())
}

/// Each derived key encrypts once, so the nonce may be constant.
fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn digest_of(signed: Signed<'_>, with: DigestAlgorithm) -> Result<Digest, TransitError> {
    let algorithm = match with {
        DigestAlgorithm::Sha256 => &SHA256,
        DigestAlgorithm::Sha384 => &SHA384,
        DigestAlgorithm::Sha512 => &SHA512,
    };
    match signed {
        Signed::Message(message) => Ok(digest(algorithm, message)),
        Signed::Digest(bytes) => Digest::import_less_safe(bytes, algorithm).map_err(|_| TransitError::DigestLength),
    }
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, bytes: &[u8]) -> Result<Key, TransitError> {
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, bytes).map_err(|_| TransitError::NoKey)?;
    let spki = pair.public_key().as_der().map_err(|_| TransitError::NoKey)?;
    let public = PublicKey::from_spki(spki.as_ref(), RsaMinimum::Bits3072).map_err(|_| TransitError::NoKey)?;
    Ok(Key::Ecdsa(pair, public))
}

/// An ECDSA signature r ‖ s as DER, the form of OpenSSL and X.509 (RFC 3279 §2.2.3); `None` if it is none of P-256 or
/// P-384.
pub fn ecdsa_der(fixed: &[u8]) -> Option<Vec<u8>> {
    if !matches!(fixed.len(), 64 | 96) {
        return None;
    }
    let (r, s) = fixed.split_at(fixed.len() / 2);
    let integer = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let digits = number.get(zeros..).unwrap_or_default();
        // A set highest bit would make it negative; zero itself never occurs, but is one byte.
        let pad: &[u8] = if digits.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
        let bytes = [pad, digits].concat();
        [&[0x02, u8::try_from(bytes.len()).unwrap_or(u8::MAX)], bytes.as_slice()].concat()
    };
    let content = [integer(r), integer(s)].concat();
    // At most 2 · (2 + 49) = 102 bytes, so one byte of length does.
    Some([&[0x30, u8::try_from(content.len()).ok()?], content.as_slice()].concat())
}

#[cfg(test)]
mod tests;
