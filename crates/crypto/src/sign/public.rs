//! Public keys: parsed once, used often.

use crate::digest::sha256;
use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PSS_2048_8192_SHA512,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use bulla_wire::id::KeyId;
use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::CompressedEdwardsY;
use std::fmt;
use std::hint::black_box;
use std::sync::LazyLock;

/// The largest modulus that the library verifies with, 8192 bits.
const MAX_MODULUS_BYTES: usize = 1024;

/// The longest SPKI looked at: RSA with 8192 bits and the exponent 65537.
pub const MAX_SPKI_BYTES: usize = 1062;

/// What stands before the key bits of each kind. Both Ed25519 and EC keys have a fixed length, so the whole
/// front is constant; that makes the comparison a strict DER parser.
const ED25519_FRONT: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
pub(crate) const P256_FRONT: [u8; 26] =
    *b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const P384_FRONT: [u8; 23] =
    *b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
/// SEQUENCE { rsaEncryption, NULL }, after the four bytes of the outer header. An id-RSASSA-PSS key is refused:
/// it would be a second spelling, with parameters of its own.
const RSA_ALGORITHM: [u8; 15] = *b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

/// What a key signs with. The names are those of RFC 9421 §6.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA over P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA over P-384 with SHA-384.
    EcdsaP384,
    /// RSASSA-PSS with SHA-512, MGF1 with SHA-512 and a salt of 64 bytes.
    RsaPssSha512,
}

impl Algorithm {
    /// The name in RFC 9421's registry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256-sha256",
            Self::EcdsaP384 => "ecdsa-p384-sha384",
            Self::RsaPssSha512 => "rsa-pss-sha512",
        }
    }

    /// Finds the algorithm with this exact name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Ed25519, Self::EcdsaP256, Self::EcdsaP384, Self::RsaPssSha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// The length of every signature in bytes; `None` for RSA, where it is that of the modulus.
    pub const fn signature_len(self) -> Option<usize> {
        match self {
            Self::Ed25519 | Self::EcdsaP256 => Some(64),
            Self::EcdsaP384 => Some(96),
            Self::RsaPssSha512 => None,
        }
    }

    /// What the private key computes with: the message's digest, or for Ed25519 the message itself. For keys whose holder
    /// does not hash.
    #[must_use]
    pub fn prehashed(self, message: &[u8]) -> Vec<u8> {
        let hash = match self {
            Self::Ed25519 => return message.to_vec(),
            Self::EcdsaP256 => &SHA256,
            Self::EcdsaP384 => &SHA384,
            Self::RsaPssSha512 => &SHA512,
        };
        digest(hash, message).as_ref().to_vec()
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Ed25519 => &ED25519,
            Self::EcdsaP256 => &ECDSA_P256_SHA256_FIXED,
            Self::EcdsaP384 => &ECDSA_P384_SHA384_FIXED,
            Self::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The smallest RSA modulus that a caller takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RsaMinimum {
    /// 3072 bits, about as hard as P-256. The rule.
    #[default]
    Bits3072,
    /// 2048 bits, for existing cards that cannot do more, and only where the configuration says so.
    Bits2048,
}

impl RsaMinimum {
    const fn bits(self) -> usize {
        match self {
            Self::Bits3072 => 3072,
            Self::Bits2048 => 2048,
        }
    }
}

/// Why bytes are no public key that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKeyError {
    /// Not the SPKI of one of the four algorithms, or not written canonically.
    Malformed,
    /// The key parses but is written in a second way.
    NotCanonical,
    /// An Ed25519 key of small order: signatures under it can be forged by anyone.
    SmallOrder,
    /// An RSA modulus below the minimum.
    RsaTooShort {
        /// The modulus in bits.
        bits: usize,
        /// What was asked for.
        minimum: usize,
    },
    /// An RSA modulus above 8192 bits: verifying costs time that strangers would choose.
    RsaTooLong,
}

impl fmt::Display for PublicKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a public key of a kind in use (Ed25519, P-256, P-384, RSA)"),
            Self::NotCanonical => f.write_str("the public key is not written in its canonical form"),
            Self::SmallOrder => f.write_str("the Ed25519 public key is of small order, so anyone can forge for it"),
            Self::RsaTooShort { bits, minimum } => {
                write!(f, "the RSA key has {bits} bits; at least {minimum} are needed")
            }
            Self::RsaTooLong => f.write_str("the RSA key has more than 8192 bits"),
        }
    }
}

impl std::error::Error for PublicKeyError {}

/// The signature does not hold. There is no reason in it: an attacker would read it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyError;

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the signature does not verify")
    }
}

impl std::error::Error for VerifyError {}

/// A public key that was checked and may be used.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: Algorithm,
    key: ParsedPublicKey,
    spki: Box<[u8]>,
    id: KeyId,
}

impl PublicKey {
    /// Parses a canonical DER `SubjectPublicKeyInfo`. EC points are uncompressed (RFC 5480 §2.2).
    ///
    /// # Errors
    /// Whatever makes the key unusable; see [`PublicKeyError`].
    pub fn from_spki(spki: &[u8], rsa_minimum: RsaMinimum) -> Result<Self, PublicKeyError> {
        if spki.len() > MAX_SPKI_BYTES {
            return Err(if rsa_algorithm(spki) { PublicKeyError::RsaTooLong } else { PublicKeyError::Malformed });
        }
        let algorithm = if let Some(key) = spki.strip_prefix(&ED25519_FRONT) {
            check_ed25519(key.try_into().map_err(|_| PublicKeyError::Malformed)?)?;
            Algorithm::Ed25519
        } else if let Some(point) = spki.strip_prefix(&P256_FRONT) {
            check_uncompressed(point, 65)?;
            Algorithm::EcdsaP256
        } else if let Some(point) = spki.strip_prefix(&P384_FRONT) {
            check_uncompressed(point, 97)?;
            Algorithm::EcdsaP384
        } else if rsa_algorithm(spki) {
            check_rsa(spki, rsa_minimum)?;
            Algorithm::RsaPssSha512
        } else {
            return Err(PublicKeyError::Malformed);
        };
        let key = ParsedPublicKey::new(algorithm.verification(), spki).map_err(|_| PublicKeyError::Malformed)?;
        let canonical = key.as_der().map_err(|_| PublicKeyError::Malformed)?;
        if canonical.as_ref() != spki {
            return Err(PublicKeyError::NotCanonical);
        }
        Ok(Self { algorithm, key, spki: spki.into(), id: KeyId::new(sha256(&[spki])) })
    }

    /// Takes the 32 bytes of RFC 8032 §5.1.5, as OpenSSH and age carry them.
    ///
    /// # Errors
    /// As [`PublicKey::from_spki`].
    pub fn from_ed25519(key: &[u8; 32]) -> Result<Self, PublicKeyError> {
        Self::from_spki(&[ED25519_FRONT.as_slice(), key].concat(), RsaMinimum::Bits3072)
    }

    /// Takes an uncompressed SEC 1 point on P-256 (65 bytes), as OpenSSH and tokens carry it.
    ///
    /// # Errors
    /// As [`PublicKey::from_spki`].
    pub fn from_p256_point(point: &[u8]) -> Result<Self, PublicKeyError> {
        Self::from_spki(&[P256_FRONT.as_slice(), point].concat(), RsaMinimum::Bits3072)
    }

    /// Takes an uncompressed SEC 1 point on P-384 (97 bytes).
    ///
    /// # Errors
    /// As [`PublicKey::from_spki`].
    pub fn from_p384_point(point: &[u8]) -> Result<Self, PublicKeyError> {
        Self::from_spki(&[P384_FRONT.as_slice(), point].concat(), RsaMinimum::Bits3072)
    }

    /// Takes an RSA modulus and exponent, big-endian without leading zeros.
    ///
    /// # Errors
    /// As [`PublicKey::from_spki`].
    pub fn from_rsa(modulus: &[u8], exponent: &[u8], rsa_minimum: RsaMinimum) -> Result<Self, PublicKeyError> {
        if modulus.len() > MAX_MODULUS_BYTES {
            return Err(PublicKeyError::RsaTooLong);
        }
        let key = RsaPublicKeyComponents { n: modulus, e: exponent }
            .to_parsed_public_key(&RSA_PSS_2048_8192_SHA512)
            .map_err(|_| PublicKeyError::Malformed)?;
        Self::from_spki(key.as_ref(), rsa_minimum)
    }

    /// What the key signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// SHA-256 of the SPKI.
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// The canonical DER `SubjectPublicKeyInfo`.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The 32 bytes of an Ed25519 key; `None` for other algorithms.
    pub fn ed25519(&self) -> Option<&[u8; 32]> {
        self.spki.strip_prefix(&ED25519_FRONT)?.try_into().ok()
    }

    /// The uncompressed SEC 1 point of a P-256 or P-384 key; `None` for other algorithms.
    pub fn ec_point(&self) -> Option<&[u8]> {
        self.spki.strip_prefix(&P256_FRONT).or_else(|| self.spki.strip_prefix(&P384_FRONT))
    }

    /// Checks a signature over `message`.
    ///
    /// # Errors
    /// [`VerifyError`] for a signature that does not hold, whatever the reason.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
        if self.algorithm.signature_len().is_some_and(|len| len != signature.len()) {
            return Err(VerifyError);
        }
        // RFC 8032 §5.1.7 compares encodings, so only the canonical spelling of R can verify.
        let small_r = self.algorithm == Algorithm::Ed25519
            && signature.get(..32).is_some_and(|r| SMALL_ORDER.iter().any(|small| small == r));
        let holds = self.key.verify_sig(message, signature).is_ok();
        if holds && !small_r { Ok(()) } else { Err(VerifyError) }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm, self.id)
    }
}

/// Spends the time of one Ed25519 verification and tells nothing. Called when the key of a request is
/// unknown, so that its answer takes as long as that to a bad signature of the most common kind of key.
pub fn verify_dummy(message: &[u8], signature: &[u8]) {
    let _: Result<(), VerifyError> = black_box(DUMMY.verify(black_box(message), black_box(signature)));
}

/// The public key of RFC 8032 §7.1 test 1: any valid key serves, its owner gains nothing.
#[expect(clippy::expect_used, reason = "a constant, exercised by a test")]
static DUMMY: LazyLock<PublicKey> = LazyLock::new(|| {
    PublicKey::from_ed25519(
        b"\xd7\x5a\x98\x01\x82\xb1\x0a\xb7\xd5\x4b\xfe\xd3\xc9\x64\x07\x3a\x0e\xe1\x72\xf3\xda\xa6\x23\x25\xaf\x02\x1a\x68\xf7\x07\x51\x1a",
    )
    .expect("the key of RFC 8032 parses")
});

/// The canonical encodings of the eight points of small order.
static SMALL_ORDER: LazyLock<[[u8; 32]; 8]> = LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress().to_bytes()));

/// RFC 8032 §5.1.3 leaves non-canonical encodings to taste, and every library accepts small orders.
/// Both are refused here, once, so that no later verification has to.
fn check_ed25519(key: &[u8; 32]) -> Result<(), PublicKeyError> {
    let encoded = CompressedEdwardsY(*key);
    let point = encoded.decompress().ok_or(PublicKeyError::Malformed)?;
    if point.is_small_order() {
        return Err(PublicKeyError::SmallOrder);
    }
    if point.compress() != encoded {
        return Err(PublicKeyError::NotCanonical);
    }
    Ok(())
}

/// SEC 1 §2.3.3: 0x04 ‖ X ‖ Y. Whether the point lies on the curve is checked by the library.
fn check_uncompressed(point: &[u8], len: usize) -> Result<(), PublicKeyError> {
    if point.len() == len && point.first() == Some(&4) { Ok(()) } else { Err(PublicKeyError::Malformed) }
}

/// Every RSA key in use has more than 255 bytes and less than 64 KiB, so its outer header has four bytes.
fn rsa_algorithm(spki: &[u8]) -> bool {
    spki.starts_with(b"\x30\x82") && spki.get(4..19) == Some(RSA_ALGORITHM.as_slice())
}

fn check_rsa(spki: &[u8], minimum: RsaMinimum) -> Result<(), PublicKeyError> {
    // The library takes 2048 to 8192 bits.
    let bits = PublicEncryptingKey::from_der(spki).map_err(|_| PublicKeyError::Malformed)?.key_size_bits();
    let minimum = minimum.bits();
    if bits < minimum { Err(PublicKeyError::RsaTooShort { bits, minimum }) } else { Ok(()) }
}
