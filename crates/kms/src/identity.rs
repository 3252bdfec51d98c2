//! Identities that the members of a configuration open, for an admin of a seal who is a machine (`spec/auto-unseal.md`).
//!
//! The identity is made of a seed, which is encrypted as a seed of kube-apiserver is, at a place of its own. So it has
//! everything that those have: several members, each of which opens it or all of which do, versions, and a check of what
//! comes back.
//!
//! Held: who copies the file opens nothing without the members. Not held: who may unwrap by a member, or reads the memory of
//! the process while a share is given, has the identity.

use crate::envelope::Envelope;
use crate::key::KeyId;
use crate::plugin::{Plugin, Refusal};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{Rng, secret_key};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_keys::{KeySource, Outcome, TokenError, Tokens, pin};
use bulla_wire::encoding::{base64, base64_decode};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const FIRST_LINE: &str = "# bulla kms identity v1";
/// The largest file: a recipient of 2,015 characters, a ciphertext of 1,024 bytes.
pub const MAX_IDENTITY_BYTES: usize = 8 * 1024;

/// Why such an identity is not made or does not open.
#[derive(Debug)]
pub enum IdentityError {
    /// It is no file of this kind; what should stand there.
    Format(&'static str),
    /// It opens, and is not what the file says.
    Altered,
    /// The library failed.
    Crypto,
    /// The members.
    Refused(Refusal),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(expected) => write!(f, "no identity that members open: expected {expected}"),
            Self::Altered => f.write_str("the members open it, and it is not the identity of the file's recipient"),
            Self::Crypto => f.write_str("the identity could not be made"),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for IdentityError {}

impl From<Refusal> for IdentityError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// An identity file that members open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsIdentity {
    recipient: Recipient,
    key_id: KeyId,
    ciphertext: Vec<u8>,
}

impl KmsIdentity {
    /// Whether bytes are meant as such a file.
    pub fn is_meant(file: &[u8]) -> bool {
        file.starts_with(FIRST_LINE.as_bytes())
    }

    /// Makes an identity that nothing but the plugin's members open, and has them prove it. They were looked at before.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn make(plugin: &Plugin, rng: &mut dyn Rng, until: Instant) -> Result<(Self, Identity), IdentityError> {
        let seed = secret_key(rng);
        let identity = identity(&seed)?;
        let recipient = identity.recipients().first().ok_or(IdentityError::Crypto)?.clone();
        Ok((Self::sealed(plugin, recipient, &seed, until).await?, identity))
    }

    /// Has the members open it.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn open(&self, plugin: &Plugin, until: Instant) -> Result<Identity, IdentityError> {
        self.opened(plugin, until).await.map(|(_, identity)| identity)
    }

    /// The same identity, encrypted by what the members use now.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn again(&self, plugin: &Plugin, until: Instant) -> Result<Self, IdentityError> {
        let (seed, _) = self.opened(plugin, until).await?;
        Self::sealed(plugin, self.recipient.clone(), &seed, until).await
    }

    async fn sealed(
        plugin: &Plugin,
        recipient: Recipient,
        seed: &SecretKey,
        until: Instant,
    ) -> Result<Self, IdentityError> {
        let encrypted = plugin.encrypt(SecretBytes::new(seed.expose().to_vec()), until).await?;
        let made = Self { recipient, key_id: encrypted.key_id, ciphertext: encrypted.ciphertext };
        made.opened(plugin, until).await?;
        Ok(made)
    }

    async fn opened(&self, plugin: &Plugin, until: Instant) -> Result<(SecretKey, Identity), IdentityError> {
        let decrypted = plugin.decrypt(self.key_id.as_str(), &self.ciphertext, until).await?;
        let seed = SecretKey::from_slice(decrypted.seed.expose()).ok_or(IdentityError::Altered)?;
        let identity = identity(&seed)?;
        if identity.recipients().first() == Some(&self.recipient) {
            Ok((seed, identity))
        } else {
            Err(IdentityError::Altered)
        }
    }

    /// By which keys it is encrypted.
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// What is encrypted to for it to open.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let (recipient, key_id, ciphertext) = (&self.recipient, &self.key_id, base64(&self.ciphertext));
        format!("{FIRST_LINE}\nrecipient: {recipient}\nkey-id: {key_id}\nciphertext: {ciphertext}\n")
    }

    /// Reads what [`KmsIdentity::to_text`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`IdentityError::Format`].
    pub fn parse(file: &[u8]) -> Result<Self, IdentityError> {
        let text = std::str::from_utf8(file).ok().filter(|text| text.len() <= MAX_IDENTITY_BYTES);
        let mut lines = text.ok_or(IdentityError::Format("at most 8 KiB of text"))?.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(IdentityError::Format("\"# bulla kms identity v1\" in its first line"));
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned);
        let recipient = field("recipient").and_then(|text| text.parse().ok());
        let key_id = field("key-id").and_then(|text| text.parse().ok());
        let ciphertext = field("ciphertext").and_then(|text| base64_decode(&text));
        let ciphertext = ciphertext.filter(|bytes| Envelope::parse(bytes).is_ok());
        let ended = lines.next() == Some("") && lines.next().is_none();
        match (recipient, key_id, ciphertext) {
            (Some(recipient), Some(key_id), Some(ciphertext)) if ended => Ok(Self { recipient, key_id, ciphertext }),
            _ => Err(IdentityError::Format("the lines recipient, key-id and ciphertext")),
        }
    }
}

/// Why an identity cannot be used without somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// What is wrong, for the operator.
    pub text: String,
    /// A token refused the PIN, or is about to lock: to try again would lock it.
    pub denied: bool,
    /// A token that is not there or does not answer; later it may.
    pub away: bool,
}

impl From<TokenError> for Unusable {
    fn from(error: TokenError) -> Self {
        let outcome = error.outcome();
        Self { text: error.to_string(), denied: outcome == Outcome::Denied, away: outcome == Outcome::Away }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Unusable {}

/// An identity that needs nobody: from a file without a passphrase, or on a token whose PIN is in a file. Blocks.
///
/// # Errors
/// [`Unusable`].
pub fn unattended(source: &KeySource, pin_file: Option<&Path>) -> Result<Arc<Identity>, Unusable> {
    let unusable = |text: String| Unusable { text, denied: false, away: false };
    match source {
        KeySource::File(path) => {
            bulla_client::identity::read(path, &|| None).map_err(|error| unusable(error.to_string()))
        }
        KeySource::Token(uri) => {
            let ask = |(token, _): (&str, &str)| match pin_file {
                Some(path) => pin::read(path),
                None => Err(pin::PinError::NoSource { token: token.to_owned() }),
            };
            Ok(Arc::new(Tokens::default().cautious().identity(uri, &ask)?))
        }
        KeySource::Agent(_) => {
            let text = "an SSH agent needs somebody who is logged in; name a file or a token";
            Err(unusable(text.to_owned()))
        }
    }
}

fn identity(seed: &SecretKey) -> Result<Identity, IdentityError> {
    Identity::from_seed(IdentityKind::Hybrid, seed.copy()).map_err(|_| IdentityError::Crypto)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_token_that_is_away_is_told_from_one_that_is_wrong() {
        let limit = Duration::from_secs(5);
        let of = |error: TokenError| {
            let Unusable { denied, away, .. } = error.into();
            (denied, away)
        };
        assert_eq!(of(TokenError::NoToken { there: Vec::new() }), (false, true));
        assert_eq!(of(TokenError::TimedOut { who: "ops".into(), what: "log in", limit }), (false, true));
        assert_eq!(of(TokenError::RefusedBefore { token: "ops".into() }), (true, false));
        assert_eq!(of(TokenError::NoModule), (false, false));
    }
}
