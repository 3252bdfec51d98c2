//! Decryption keys in memory: the other side of `Recipient::wrap`.

use super::IdentityError;
use crate::BoxFuture;
use crate::envelope::{Decrypter, FILE_KEY_BYTES, FileKey, OpenError, Stanza};
use crate::kdf::hkdf_sha256;
use crate::kem::{self, HYBRID_ENCAPSULATION_BYTES, HybridSecretKey, KemError, TAG_BYTES, X25519_BYTES};
use crate::openssh::SshPrivateKeyError;
use crate::recipient::{
    HYBRID_INFO, HYBRID_KIND, Recipient, SSH_ED25519_KIND, SSH_RSA_KIND, SSH_RSA_LABEL, STANZA_NONCE, X25519_KIND,
    X25519_LABEL, ssh_ed25519_key, ssh_tag,
};
use crate::secret::{SecretBytes, SecretKey};
use aws_lc_rs::agreement::PrivateKey;
use aws_lc_rs::digest::{SHA512, digest};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use data_encoding::BASE64_NOPAD;

/// A sealed file key has one length. A longer one could be made to open under several keys.
const SEALED_FILE_KEY_BYTES: usize = FILE_KEY_BYTES + TAG_BYTES;

/// A decryption key with what is sealed for it.
pub(super) struct SoftwareDecrypter {
    pub(super) key: SoftwareKey,
    pub(super) recipients: Vec<Recipient>,
}

impl Decrypter for SoftwareDecrypter {
    fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    fn unwrap_file_key<'a>(&'a self, stanzas: &'a [Stanza]) -> BoxFuture<'a, Result<Option<FileKey>, OpenError>> {
        Box::pin(std::future::ready(self.key.unwrap_file_key(stanzas)))
    }
}

/// A decryption key of one of the four kinds of recipients whose keys are in files.
pub(super) enum SoftwareKey {
    Hybrid(Box<HybridSecretKey>),
    X25519 { private: PrivateKey, public: [u8; X25519_BYTES] },
    SshEd25519 { private: PrivateKey, public: [u8; X25519_BYTES], blob: Vec<u8> },
    SshRsa { key: OaepPrivateDecryptingKey, blob: Vec<u8> },
}

impl SoftwareKey {
    /// The X25519 form of an Ed25519 seed: the first half of its SHA-512 (RFC 8032 §5.1.5).
    pub(super) fn ssh_ed25519(seed: &SecretKey, blob: Vec<u8>) -> Result<Self, IdentityError> {
        let hash = digest(&SHA512, seed.expose());
        let scalar = hash.as_ref().first_chunk().ok_or(KemError::Library)?;
        let private = kem::x25519_private(scalar)?;
        let public = kem::x25519_public(&private)?;
        Ok(Self::SshEd25519 { private, public, blob })
    }

    /// An RSA key from DER PKCS#8. aws-lc checks that its parts belong together.
    pub(super) fn ssh_rsa(pkcs8: &SecretBytes, blob: Vec<u8>) -> Result<Self, IdentityError> {
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8.expose()).map_err(|_| SshPrivateKeyError::Malformed)?;
        let key = OaepPrivateDecryptingKey::new(key).map_err(|_| SshPrivateKeyError::Malformed)?;
        Ok(Self::SshRsa { key, blob })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Hybrid(_) => HYBRID_KIND,
            Self::X25519 { .. } => X25519_KIND,
            Self::SshEd25519 { .. } => SSH_ED25519_KIND,
            Self::SshRsa { .. } => SSH_RSA_KIND,
        }
    }

    /// The file key from the first stanza that this key opens.
    fn unwrap_file_key(&self, stanzas: &[Stanza]) -> Result<Option<FileKey>, OpenError> {
        for stanza in stanzas.iter().filter(|stanza| stanza.kind == self.kind()) {
            match self.open_stanza(stanza) {
                Ok(file_key) => return Ok(Some(file_key)),
                // Made for another key: neither X25519 nor hybrid stanzas say for whom they are, and the
                // four bytes of SSH stanzas may collide.
                Err(error) => error.unless_not_mine()?,
            }
        }
        Ok(None)
    }

    fn open_stanza(&self, stanza: &Stanza) -> Result<FileKey, StanzaError> {
        let plaintext = match (self, stanza.args.as_slice()) {
            (Self::Hybrid(key), [encapsulated]) => {
                let encapsulated = decode::<HYBRID_ENCAPSULATION_BYTES>(encapsulated)?;
                kem::open(key, &encapsulated, HYBRID_INFO, &[], sealed_file_key(stanza)?)?
            }
            (Self::X25519 { private, public }, [share]) => {
                let share = decode(share)?;
                let body = sealed_file_key(stanza)?;
                let secret = kem::agree(private, &share)?;
                let key = hkdf_sha256(secret.expose(), &[share, *public].concat(), X25519_LABEL);
                kem::aead_open(&key, STANZA_NONCE, &[], body)?
            }
            (Self::SshEd25519 { private, public, blob }, [tag, share]) => {
                let (tag, share) = (decode(tag)?, decode(share)?);
                let body = sealed_file_key(stanza)?;
                if tag != ssh_tag(blob) {
                    return Err(StanzaError::NotMine);
                }
                let secret = kem::agree(private, &share)?;
                kem::aead_open(&ssh_ed25519_key(blob, &secret, &share, public)?, STANZA_NONCE, &[], body)?
            }
            (Self::SshRsa { key, blob }, [tag]) => {
                if decode(tag)? != ssh_tag(blob) {
                    return Err(StanzaError::NotMine);
                }
                if stanza.body.len() != key.key_size_bytes() {
                    return Err(StanzaError::Malformed);
                }
                let mut plaintext = SecretBytes::new(vec![0; key.min_output_size()]);
                let length = key
                    .decrypt(&OAEP_SHA256_MGF1SHA256, &stanza.body, plaintext.expose_mut(), Some(SSH_RSA_LABEL))
                    .map_err(|_| StanzaError::NotMine)?
                    .len();
                plaintext.expose_mut().truncate(length);
                plaintext
            }
            _ => return Err(StanzaError::Malformed),
        };
        FileKey::from_slice(plaintext.expose()).ok_or(StanzaError::Malformed)
    }
}

/// Why a stanza did not give the file key.
pub(super) enum StanzaError {
    NotMine,
    Malformed,
    Crypto(KemError),
}

impl StanzaError {
    /// A stanza for somebody else is passed over; anything else ends the search.
    pub(super) fn unless_not_mine(self) -> Result<(), OpenError> {
        match self {
            Self::NotMine => Ok(()),
            Self::Malformed => Err(OpenError::Header("malformed recipient stanza")),
            Self::Crypto(error) => Err(error.into()),
        }
    }
}

impl From<KemError> for StanzaError {
    fn from(error: KemError) -> Self {
        match error {
            KemError::Open => Self::NotMine,
            // Nobody makes such a share by accident.
            KemError::SmallOrder | KemError::Encapsulation | KemError::Key => Self::Malformed,
            KemError::Library => Self::Crypto(error),
        }
    }
}

/// An argument of exactly `N` bytes, in the one spelling of base64.
pub(super) fn decode<const N: usize>(arg: &str) -> Result<[u8; N], StanzaError> {
    BASE64_NOPAD.decode(arg.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(StanzaError::Malformed)
}

/// The body, if it has the one length.
pub(super) fn sealed_file_key(stanza: &Stanza) -> Result<&[u8], StanzaError> {
    if stanza.body.len() == SEALED_FILE_KEY_BYTES { Ok(&stanza.body) } else { Err(StanzaError::Malformed) }
}
