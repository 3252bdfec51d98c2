//! Recipients: public keys that an envelope can be sealed to.
//!
//! | text | stanza | hybrid |
//! |---|---|---|
//! | `age1pq1…` | `mlkem768x25519` | yes |
//! | `age1…` | `X25519` | no |
//! | `age1tagpq1…` | `mlkem768p256tag` | yes |
//! | `age1tag1…` | `p256tag` | no |
//! | `ssh-ed25519 AAAA…` | `ssh-ed25519` | no |
//! | `ssh-rsa AAAA…` | `ssh-rsa` | no |
//!
//! A recipient is parsed once, and then is a key that may be used: of full order, long enough, and
//! written in the only way it can be written. The last matters because records, statements and the check
//! "this recipient is taken" compare texts.

use crate::bech32;
use crate::digest::{hmac_sha256, sha256};
use crate::envelope::{FileKey, Stanza};
use crate::kdf::hkdf_sha256;
use crate::kem::p256::{self, MlKemP256PublicKey};
use crate::kem::{self, HybridPublicKey, KemError, MlKemKey, P256Point, Suite, X25519_BYTES};
use crate::openssh::{SshPublicKey, SshPublicKeyError};
use crate::secret::SecretKey;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents};
use bulla_wire::id::Digest;
use curve25519_dalek::edwards::CompressedEdwardsY;
use data_encoding::BASE64_NOPAD;
use std::fmt;
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;

/// The shortest RSA key that is sealed to. What a cluster takes for admins is stricter (`spec/envelope.md`).
const MIN_RSA_BITS: usize = 2048;

pub(crate) const HYBRID_PREFIX: &str = "age1pq";
pub(crate) const X25519_PREFIX: &str = "age";
pub(crate) const P256_TAG_PREFIX: &str = "age1tag";
pub(crate) const ML_KEM_P256_TAG_PREFIX: &str = "age1tagpq";
/// Labels of the age specification: stanza kind, and HPKE info or HKDF and OAEP label.
pub(crate) const HYBRID_KIND: &str = "mlkem768x25519";
pub(crate) const HYBRID_INFO: &[u8] = b"age-encryption.org/mlkem768x25519";
pub(crate) const X25519_KIND: &str = "X25519";
pub(crate) const X25519_LABEL: &[u8] = b"age-encryption.org/v1/X25519";
pub(crate) const SSH_ED25519_KIND: &str = "ssh-ed25519";
pub(crate) const SSH_ED25519_LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";
pub(crate) const SSH_RSA_KIND: &str = "ssh-rsa";
pub(crate) const SSH_RSA_LABEL: &[u8] = b"age-encryption.org/v1/ssh-rsa";
pub(crate) const P256_TAG_KIND: &str = "p256tag";
pub(crate) const P256_TAG_INFO: &[u8] = b"age-encryption.org/p256tag";
pub(crate) const ML_KEM_P256_TAG_KIND: &str = "mlkem768p256tag";
pub(crate) const ML_KEM_P256_TAG_INFO: &[u8] = b"age-encryption.org/mlkem768p256tag";
/// The nonce of a stanza's body: zero, since its key is used once.
pub(crate) const STANZA_NONCE: [u8; 12] = [0; 12];

/// The kinds of recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecipientKind {
    /// `mlkem768x25519`: ML-KEM-768 and X25519 together (X-Wing), the default.
    Hybrid,
    /// X25519.
    X25519,
    /// `mlkem768p256tag`: ML-KEM-768 and P-256 together, the latter in hardware.
    MlKem768P256Tag,
    /// `p256tag`: P-256, in hardware.
    P256Tag,
    /// An SSH Ed25519 key, used as X25519.
    SshEd25519,
    /// An SSH RSA key, with OAEP.
    SshRsa {
        /// The size of the modulus.
        bits: usize,
    },
}

/// Why a text is no recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientError {
    /// It begins like nothing that is known.
    Unknown,
    /// It is an age recipient of a kind that is not supported, such as a plugin's.
    Unsupported,
    /// It is a secret key. The text is not repeated here.
    SecretKey,
    /// It is damaged, or not the one way to write this key; which kind it wanted to be.
    Malformed(&'static str),
    /// The key is no key: a point of small order, with which everybody shares the secret.
    SmallOrder,
    /// An RSA key that is too short to protect anything.
    RsaTooShort {
        /// The size of its modulus.
        bits: usize,
    },
    /// An SSH key that cannot be used.
    Ssh(SshPublicKeyError),
}

impl fmt::Display for RecipientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not a recipient: expected age1pq1…, age1…, ssh-ed25519 … or ssh-rsa …"),
            Self::Unsupported => f.write_str("this kind of age recipient is not supported"),
            Self::SecretKey => f.write_str("this is a secret key, not a recipient: keep it to yourself"),
            Self::Malformed(kind) => write!(f, "malformed {kind} recipient"),
            Self::SmallOrder => f.write_str("this recipient is a point of small order, which protects nothing"),
            Self::RsaTooShort { bits } => write!(f, "an RSA recipient of {bits} bits; at least {MIN_RSA_BITS} needed"),
            Self::Ssh(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecipientError {}

/// A public key that an envelope can be sealed to.
#[derive(Clone)]
pub struct Recipient(Arc<Inner>);

struct Inner {
    text: String,
    key: Key,
}

enum Key {
    Hybrid(HybridPublicKey),
    X25519([u8; X25519_BYTES]),
    MlKemP256Tag(MlKemP256PublicKey),
    P256Tag(P256Point),
    SshEd25519 { blob: Vec<u8>, montgomery: [u8; X25519_BYTES] },
    SshRsa { blob: Vec<u8>, key: OaepPublicEncryptingKey },
}

impl Recipient {
    /// The recipient of an X-Wing key.
    pub fn from_hybrid(key: &HybridPublicKey) -> Result<Self, RecipientError> {
        let text = bech32::encode(HYBRID_PREFIX, &key.to_bytes()).ok_or(RecipientError::Malformed("age1pq"))?;
        Ok(Self::new(text.to_string(), Key::Hybrid(key.clone())))
    }

    /// The recipient of an X25519 public key.
    pub fn from_x25519(key: &[u8; X25519_BYTES]) -> Result<Self, RecipientError> {
        kem::check_x25519_public(key).map_err(|error| refused(error, "age1"))?;
        let text = bech32::encode(X25519_PREFIX, key).ok_or(RecipientError::Malformed("age1"))?;
        Ok(Self::new(text.to_string(), Key::X25519(*key)))
    }

    /// The recipient of a P-256 key in hardware.
    pub fn from_p256(point: &P256Point) -> Result<Self, RecipientError> {
        let text = bech32::encode(P256_TAG_PREFIX, &point.compressed()).ok_or(RecipientError::Malformed("age1tag"))?;
        Ok(Self::new(text.to_string(), Key::P256Tag(*point)))
    }

    /// The recipient of a P-256 key in hardware together with an ML-KEM-768 key.
    pub fn from_ml_kem_p256(ml_kem: &MlKemKey, point: &P256Point) -> Result<Self, RecipientError> {
        let key = MlKemP256PublicKey::new(ml_kem, point);
        let text = bech32::encode(ML_KEM_P256_TAG_PREFIX, &key.to_bytes());
        Ok(Self::new(text.ok_or(RecipientError::Malformed("age1tagpq"))?.to_string(), Key::MlKemP256Tag(key)))
    }

    /// The recipient of an SSH key.
    pub fn from_ssh(key: &SshPublicKey) -> Result<Self, RecipientError> {
        let blob = key.blob();
        let parsed = match key {
            SshPublicKey::Ed25519(point) => Key::SshEd25519 { blob, montgomery: montgomery(point)? },
            SshPublicKey::Rsa { modulus, exponent } => {
                Key::SshRsa { blob, key: rsa_encrypting_key(modulus, exponent)? }
            }
        };
        Ok(Self::new(key.to_string(), parsed))
    }

    fn new(text: String, key: Key) -> Self {
        Self(Arc::new(Inner { text, key }))
    }

    /// What kind of key this is.
    pub fn kind(&self) -> RecipientKind {
        match &self.0.key {
            Key::Hybrid(_) => RecipientKind::Hybrid,
            Key::X25519(_) => RecipientKind::X25519,
            Key::MlKemP256Tag(_) => RecipientKind::MlKem768P256Tag,
            Key::P256Tag(_) => RecipientKind::P256Tag,
            Key::SshEd25519 { .. } => RecipientKind::SshEd25519,
            Key::SshRsa { key, .. } => RecipientKind::SshRsa { bits: key.key_size_bits() },
        }
    }

    /// Whether this protects against a quantum computer too.
    pub fn is_hybrid(&self) -> bool {
        matches!(self.kind(), RecipientKind::Hybrid | RecipientKind::MlKem768P256Tag)
    }

    /// As [`Recipient::is_hybrid`], for the text of a recipient that was parsed before: its keys are not checked again.
    pub fn is_hybrid_text(text: &str) -> bool {
        [HYBRID_PREFIX, ML_KEM_P256_TAG_PREFIX].iter().any(|prefix| begins(text, prefix))
    }

    /// The canonical text, as `Display` writes it.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// SHA-256 of the canonical text.
    pub fn digest(&self) -> Digest {
        Digest::new(sha256(&[self.as_str().as_bytes()]))
    }

    /// Seals a file key: one stanza of the age specification.
    pub(crate) fn wrap(&self, file_key: &FileKey) -> Result<Stanza, KemError> {
        match &self.0.key {
            Key::Hybrid(key) => {
                let (encapsulated, body) = kem::seal(key, HYBRID_INFO, &[], file_key.expose())?;
                Ok(stanza(HYBRID_KIND, &[&encapsulated], body))
            }
            Key::X25519(public) => {
                let ephemeral = kem::x25519_ephemeral()?;
                let share = kem::x25519_public(&ephemeral)?;
                let secret = kem::agree(&ephemeral, public)?;
                let key = hkdf_sha256(secret.expose(), &[share, *public].concat(), X25519_LABEL);
                let body = kem::aead_seal(&key, STANZA_NONCE, &[], file_key.expose())?;
                Ok(stanza(X25519_KIND, &[&share], body))
            }
            Key::MlKemP256Tag(key) => {
                let (encapsulated, secret) = key.encapsulate()?;
                let body = kem::seal_with(Suite::MlKem768P256, &secret, ML_KEM_P256_TAG_INFO, &[], file_key.expose())?;
                let tag = ml_kem_p256_tag(key.p256(), &encapsulated);
                Ok(stanza(ML_KEM_P256_TAG_KIND, &[&tag, &encapsulated], body))
            }
            Key::P256Tag(point) => {
                let (share, secret) = p256::encapsulate(point)?;
                let body = kem::seal_with(Suite::DhkemP256, &secret, P256_TAG_INFO, &[], file_key.expose())?;
                let share = share.uncompressed();
                Ok(stanza(P256_TAG_KIND, &[&p256_tag(point, share), share], body))
            }
            Key::SshEd25519 { blob, montgomery } => {
                let ephemeral = kem::x25519_ephemeral()?;
                let share = kem::x25519_public(&ephemeral)?;
                let secret = kem::agree(&ephemeral, montgomery)?;
                let key = ssh_ed25519_key(blob, &secret, &share, montgomery)?;
                let body = kem::aead_seal(&key, STANZA_NONCE, &[], file_key.expose())?;
                Ok(stanza(SSH_ED25519_KIND, &[&ssh_tag(blob), &share], body))
            }
            Key::SshRsa { blob, key } => {
                let mut body = vec![0; key.ciphertext_size()];
                let length = key
                    .encrypt(&OAEP_SHA256_MGF1SHA256, file_key.expose(), &mut body, Some(SSH_RSA_LABEL))
                    .map_err(|_| KemError::Library)?
                    .len();
                body.truncate(length);
                Ok(stanza(SSH_RSA_KIND, &[&ssh_tag(blob)], body))
            }
        }
    }
}

fn stanza(kind: &str, args: &[&[u8]], body: Vec<u8>) -> Stanza {
    Stanza { kind: kind.to_owned(), args: args.iter().map(|arg| BASE64_NOPAD.encode(arg)).collect(), body }
}

/// The four bytes by which age's SSH stanzas name their key.
pub(crate) fn ssh_tag(blob: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256(&[blob]);
    [a, b, c, d]
}

/// The four bytes by which a `p256tag` stanza names its key, to those who know the key: nobody touches a device for
/// what is not theirs.
pub(crate) fn p256_tag(point: &P256Point, encapsulated: &[u8]) -> [u8; 4] {
    tag(P256_TAG_INFO, encapsulated, &point.compressed())
}

/// As [`p256_tag`], for `mlkem768p256tag`: the ML-KEM half is not in it.
pub(crate) fn ml_kem_p256_tag(point: &P256Point, encapsulated: &[u8]) -> [u8; 4] {
    tag(ML_KEM_P256_TAG_INFO, encapsulated, point.uncompressed())
}

/// HKDF-Extract (RFC 5869 §2.2) with `label` as salt, cut to four bytes.
fn tag(label: &[u8], encapsulated: &[u8], point: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256(&[point]);
    let [a, b, c, d, ..] = hmac_sha256(label, &[encapsulated, &[a, b, c, d]]);
    [a, b, c, d]
}

/// The key of an `ssh-ed25519` stanza's body. The shared secret is multiplied by a tweak that depends on
/// the whole SSH key, so that this use of the key is apart from every other.
pub(crate) fn ssh_ed25519_key(
    blob: &[u8],
    secret: &SecretKey,
    share: &[u8; X25519_BYTES],
    public: &[u8; X25519_BYTES],
) -> Result<SecretKey, KemError> {
    let tweak = hkdf_sha256::<32>(&[], blob, SSH_ED25519_LABEL);
    let secret = kem::agree(&kem::x25519_private(tweak.expose())?, secret.expose())?;
    Ok(hkdf_sha256(secret.expose(), &[*share, *public].concat(), SSH_ED25519_LABEL))
}

/// The X25519 form of an Ed25519 public key (RFC 7748 §4.1), if it is canonical and not of small order.
fn montgomery(point: &[u8; 32]) -> Result<[u8; X25519_BYTES], RecipientError> {
    let compressed = CompressedEdwardsY(*point);
    let edwards = compressed.decompress().ok_or(RecipientError::Malformed("ssh-ed25519"))?;
    if edwards.compress() != compressed {
        return Err(RecipientError::Malformed("ssh-ed25519"));
    }
    if edwards.is_small_order() {
        return Err(RecipientError::SmallOrder);
    }
    Ok(edwards.to_montgomery().to_bytes())
}

fn rsa_encrypting_key(modulus: &[u8], exponent: &[u8]) -> Result<OaepPublicEncryptingKey, RecipientError> {
    let leading = modulus.first().map_or(0, |first| first.leading_zeros());
    let bits = modulus.len().saturating_mul(8).saturating_sub(usize::try_from(leading).unwrap_or(0));
    if bits < MIN_RSA_BITS {
        return Err(RecipientError::RsaTooShort { bits });
    }
    let key: Result<PublicEncryptingKey, _> = PublicKeyComponents { n: modulus, e: exponent }.try_into();
    key.and_then(OaepPublicEncryptingKey::new).map_err(|_| RecipientError::Malformed("ssh-rsa"))
}

fn refused(error: KemError, kind: &'static str) -> RecipientError {
    match error {
        KemError::SmallOrder => RecipientError::SmallOrder,
        _ => RecipientError::Malformed(kind),
    }
}

/// Whether `text` is bech32 with this prefix, by its look.
fn begins(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('1'))
}

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, RecipientError> {
        if begins(text, HYBRID_PREFIX) {
            let bytes = bech32::decode(HYBRID_PREFIX, text).ok_or(RecipientError::Malformed("age1pq"))?;
            let key = HybridPublicKey::from_bytes(bytes.expose()).map_err(|error| refused(error, "age1pq"))?;
            return Ok(Self::new(text.to_owned(), Key::Hybrid(key)));
        }
        if begins(text, ML_KEM_P256_TAG_PREFIX) {
            let bytes = bech32::decode(ML_KEM_P256_TAG_PREFIX, text).ok_or(RecipientError::Malformed("age1tagpq"))?;
            let key = MlKemP256PublicKey::from_bytes(bytes.expose()).map_err(|error| refused(error, "age1tagpq"))?;
            return Ok(Self::new(text.to_owned(), Key::MlKemP256Tag(key)));
        }
        if begins(text, P256_TAG_PREFIX) {
            let bytes = bech32::decode(P256_TAG_PREFIX, text).ok_or(RecipientError::Malformed("age1tag"))?;
            let point = P256Point::from_compressed(bytes.expose()).map_err(|error| refused(error, "age1tag"))?;
            return Ok(Self::new(text.to_owned(), Key::P256Tag(point)));
        }
        if begins(text, X25519_PREFIX) {
            // `1` ends a bech32 prefix and does not occur after it, so a second one means another kind.
            if text.get(4..).is_some_and(|rest| rest.contains('1')) {
                return Err(RecipientError::Unsupported);
            }
            let bytes = bech32::decode(X25519_PREFIX, text).ok_or(RecipientError::Malformed("age1"))?;
            let key = bytes.expose().as_slice().try_into().map_err(|_| RecipientError::Malformed("age1"))?;
            return Self::from_x25519(key);
        }
        if text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.starts_with("sk-") {
            return SshPublicKey::parse(text).map_err(RecipientError::Ssh).and_then(|key| Self::from_ssh(&key));
        }
        if text.get(..15).is_some_and(|start| start.eq_ignore_ascii_case("AGE-SECRET-KEY-"))
            || text.contains("PRIVATE KEY-----")
        {
            return Err(RecipientError::SecretKey);
        }
        Err(RecipientError::Unknown)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hybrid recipient has some 2,000 characters; its beginning tells it apart in a log.
        write!(f, "Recipient({}…)", self.as_str().get(..40).unwrap_or_default())
    }
}

impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Recipient {}
