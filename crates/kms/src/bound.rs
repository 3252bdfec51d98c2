//! Identities bound to a token: an identity file whose secret only an RSA key on a token opens (`spec/kms-keyfile.md`).
//!
//! For TPMs whose module decrypts by RSA-OAEP and agrees on no key. The node's recipient is a hybrid one as any other; its
//! secret is in memory while a key file is opened, and on disk only as the token encrypted it.
//!
//! Held: who copies the file opens nothing without that token. Not held: RSA is broken by a quantum computer, so who
//! copied this file and the key file may open both one day; who reads the memory of the process has the keys anyway.

use bulla_crypto::digest::{equal, framed};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{Rng, secret_key};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::sealed;
use bulla_crypto::secret::SecretKey;
use bulla_keys::{OaepKey, TokenError};
use bulla_wire::encoding::{base64, base64_decode};
use std::fmt;

const FIRST_LINE: &str = "# bulla bound identity v1";
/// The largest file: a recipient of 2,015 characters, an RSA ciphertext of 8,192 bits.
pub const MAX_BOUND_BYTES: usize = 8 * 1024;
const DOMAIN: &[u8] = b"bulla/kms/v1/bound-identity";

/// Why a bound identity is not made or does not open.
#[derive(Debug)]
pub enum BoundError {
    /// It is no file of this kind; what should stand there.
    Format(&'static str),
    /// It is bound to another key than the token's.
    OtherKey,
    /// The token decrypts it, and its content was altered.
    Altered,
    /// The token told a public key that is not the private key's.
    NotProven,
    /// The library failed.
    Crypto,
    /// The token.
    Token(TokenError),
}

impl fmt::Display for BoundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(expected) => write!(f, "no bound identity: expected {expected}"),
            Self::OtherKey => {
                f.write_str("the identity is bound to another key than the one that the token has under this URI")
            }
            Self::Altered => f.write_str("the bound identity was altered"),
            Self::NotProven => f.write_str("the token's key does not decrypt what is encrypted to its public half"),
            Self::Crypto => f.write_str("the identity could not be encrypted to the token's key"),
            Self::Token(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BoundError {}

impl From<TokenError> for BoundError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

/// An identity file that a token's key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundIdentity {
    recipient: Recipient,
    /// SHA-256 of the RSA key's SPKI.
    key: Vec<u8>,
    wrapped: Vec<u8>,
    sealed: Vec<u8>,
}

impl BoundIdentity {
    /// Whether bytes are meant as such a file.
    pub fn is_meant(file: &[u8]) -> bool {
        file.starts_with(FIRST_LINE.as_bytes())
    }

    /// Makes an identity that nothing but `key` opens, and lets the key prove it.
    ///
    /// # Errors
    /// [`BoundError`].
    pub async fn make(key: &OaepKey, rng: &mut (dyn Rng + Send)) -> Result<Self, BoundError> {
        let (seed, wrapping) = (secret_key(rng), secret_key(rng));
        let digest = key.public().digest();
        let wrapped = key.public().encrypt(&wrapping).ok_or(BoundError::Crypto)?;
        if !equal(key.decrypt(&wrapped).await?.expose(), wrapping.expose()) {
            return Err(BoundError::NotProven);
        }
        let identity = Identity::from_seed(IdentityKind::Hybrid, seed.copy()).map_err(|_| BoundError::Crypto)?;
        let recipient = identity.recipients().first().ok_or(BoundError::Crypto)?.clone();
        let sealed = sealed::seal(&wrapping, &place(&recipient, &digest), seed.expose(), rng);
        Ok(Self { recipient, key: digest.to_vec(), wrapped, sealed })
    }

    /// Opens it with the token's key.
    ///
    /// # Errors
    /// [`BoundError`].
    pub async fn open(&self, key: &OaepKey) -> Result<Identity, BoundError> {
        if !equal(&key.public().digest(), &self.key) {
            return Err(BoundError::OtherKey);
        }
        let wrapping = key.decrypt(&self.wrapped).await?;
        let seed = sealed::open(&wrapping, &place(&self.recipient, &self.key), &self.sealed);
        let seed = seed.ok().and_then(|seed| SecretKey::from_slice(seed.expose())).ok_or(BoundError::Altered)?;
        Identity::from_seed(IdentityKind::Hybrid, seed).map_err(|_| BoundError::Altered)
    }

    /// What is encrypted to for it to open.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        format!(
            "{FIRST_LINE}\nrecipient: {}\nkey: {}\nwrapped: {}\nsealed: {}\n",
            self.recipient,
            base64(&self.key),
            base64(&self.wrapped),
            base64(&self.sealed)
        )
    }

    /// Reads what [`BoundIdentity::to_text`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`BoundError::Format`].
    pub fn parse(file: &[u8]) -> Result<Self, BoundError> {
        let text = std::str::from_utf8(file).ok().filter(|text| text.len() <= MAX_BOUND_BYTES);
        let mut lines = text.ok_or(BoundError::Format("at most 8 KiB of text"))?.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(BoundError::Format("\"# bulla bound identity v1\" in its first line"));
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned);
        let recipient = field("recipient").and_then(|text| text.parse().ok());
        let mut bytes = |name: &str| field(name).and_then(|text| base64_decode(&text));
        let (key, wrapped, sealed) = (bytes("key"), bytes("wrapped"), bytes("sealed"));
        let ended = lines.next() == Some("") && lines.next().is_none();
        match (recipient, key, wrapped, sealed) {
            (Some(recipient), Some(key), Some(wrapped), Some(sealed)) if ended && key.len() == 32 => {
                Ok(Self { recipient, key, wrapped, sealed })
            }
            _ => Err(BoundError::Format("the lines recipient, key, wrapped and sealed")),
        }
    }
}

fn place(recipient: &Recipient, key: &[u8]) -> Vec<u8> {
    framed(&[DOMAIN, recipient.as_str().as_bytes(), key])
}
