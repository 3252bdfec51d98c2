//! Identities: what proves who somebody is, and opens what was sealed to them (`spec/identity-file.md`).
//!
//! An identity file is an age identity file, so `age -i` takes it as it is. Its one secret, 32 bytes, is the
//! age key; the Ed25519 signing key is derived from it. SSH private keys serve as they are: there the same
//! key signs and decrypts, which records call `dual_use`. A key that a token or an agent holds is an identity too:
//! whoever talks to the holder gives the parts ([`Identity::from_parts`]).
//!
//! Nothing here touches a file: the caller reads the bytes, and refuses a file that others may read.

mod plugin;
mod software;
mod tag;

pub use plugin::PluginIdentity;
pub use tag::{P256Agreement, TagKey};

use crate::BoxFuture;
use crate::bech32;
use crate::envelope::{Decrypter, FileKey, OpenError, Stanza};
use crate::kdf;
use crate::kem::{self, HybridSecretKey, KemError};
use crate::openssh::{self, SshPrivateKey, SshPrivateKeyError, SshPublicKey};
use crate::random::{Rng, secret_key};
use crate::recipient::{Recipient, RecipientError};
use crate::secret::{SecretBytes, SecretKey};
use crate::sign::{PublicKey, RsaMinimum, SignError, Signer, SigningKey, SigningKeyError};
use software::{SoftwareDecrypter, SoftwareKey};
use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

/// The largest identity file. An SSH key of 8192 bits and a long record stay far below.
pub const MAX_IDENTITY_BYTES: usize = 64 * 1024;
/// What the signing seed is derived from the age secret for: `bulla/v1/identity/sign`.
const SIGN_PURPOSE: &str = "identity/sign";
/// The first line of an identity file that Bulla wrote.
const FIRST_LINE: &str = "# bulla identity v1";
const OPENSSH_BEGIN: &[u8] = b"-----BEGIN OPENSSH PRIVATE KEY-----";

/// The kinds of identities that Bulla makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityKind {
    /// ML-KEM-768 with X25519, safe against quantum computers: the default.
    Hybrid,
    /// X25519 alone, for age programs before 1.3.
    Classical,
}

impl IdentityKind {
    /// The bech32 prefix of the secret, in its case.
    fn prefix(self) -> &'static str {
        match self {
            Self::Hybrid => "AGE-SECRET-KEY-PQ-",
            Self::Classical => "AGE-SECRET-KEY-",
        }
    }
}

/// Why bytes are no identity that can be used. No variant holds anything of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityError {
    /// Larger than [`MAX_IDENTITY_BYTES`].
    TooLarge,
    /// No key in it.
    Empty,
    /// More than one key in it.
    Several,
    /// An age recipient: the public half.
    Recipient,
    /// An SSH public key.
    SshPublicKey,
    /// Encrypted by age to a passphrase.
    Encrypted,
    /// The identity of an age plugin, which decrypts and does not sign.
    Plugin,
    /// The identity of an age plugin is damaged, or names none.
    PluginName,
    /// The file of a plugin's identity names no recipient of a kind that everybody can encrypt to, or several.
    PluginRecipient,
    /// A PEM file of another kind than OpenSSH's.
    Pem,
    /// A line that is neither a comment nor a key; its number from 1.
    Line(usize),
    /// The line with the key is damaged.
    Damaged,
    /// A comment says something else than the key; which comment.
    Contradiction(&'static str),
    /// A comment to be written holds a line break or another control character; which comment.
    ControlCharacter(&'static str),
    /// Only an age secret can be written as an age identity file.
    NotAge,
    /// The SSH private key cannot be used.
    Ssh(SshPrivateKeyError),
    /// The key cannot encrypt.
    Public(RecipientError),
    /// The key cannot sign.
    Signing(SigningKeyError),
    /// The library failed.
    Crypto(KemError),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the file is larger than any identity",
            Self::Empty => "there is no key in the file",
            Self::Several => "there are several keys in the file; an identity is exactly one: split the file",
            Self::Recipient => "this is an age recipient, not an identity: the file with AGE-SECRET-KEY is needed",
            Self::SshPublicKey => "this is an SSH public key: the private key is the file without .pub",
            Self::Encrypted => "this file is encrypted with a passphrase: decrypt it first with age -d",
            Self::Plugin => "the identity of an age plugin decrypts and does not sign",
            Self::PluginName => "the identity of an age plugin is damaged, or its plugin's name is none",
            Self::PluginRecipient => {
                "the file of a plugin's identity names its recipient in a line \"# recipient: age1tag1…\" or age1tagpq1…, \
                 once; recipients of other kinds need the plugin to encrypt, which a server has not"
            }
            Self::Pem => "not an OpenSSH private key: convert it with ssh-keygen -p -f FILE",
            Self::Line(line) => {
                return write!(
                    f,
                    "line {line} is neither a comment nor a key (AGE-SECRET-KEY-PQ-1…, AGE-SECRET-KEY-1…)"
                );
            }
            Self::Damaged => "the key is damaged: its checksum or length is wrong",
            Self::Contradiction(what) => {
                return write!(f, "the comment \"{what}\" does not belong to the key in the same file");
            }
            Self::ControlCharacter(what) => return write!(f, "the {what} holds a control character"),
            Self::NotAge => "only an age secret is written to an identity file; other keys stay where they are",
            Self::Ssh(error) => return error.fmt(f),
            Self::Public(error) => return error.fmt(f),
            Self::Signing(error) => {
                error.fmt(f)?;
                return match std::error::Error::source(error) {
                    Some(cause) => write!(f, ": {cause}"),
                    None => Ok(()),
                };
            }
            Self::Crypto(error) => return error.fmt(f),
        })
    }
}

impl std::error::Error for IdentityError {}

impl From<KemError> for IdentityError {
    fn from(error: KemError) -> Self {
        Self::Crypto(error)
    }
}

impl From<RecipientError> for IdentityError {
    fn from(error: RecipientError) -> Self {
        Self::Public(error)
    }
}

impl From<SigningKeyError> for IdentityError {
    fn from(error: SigningKeyError) -> Self {
        Self::Signing(error)
    }
}

impl From<SshPrivateKeyError> for IdentityError {
    fn from(error: SshPrivateKeyError) -> Self {
        Self::Ssh(error)
    }
}

/// A signing key, and mostly a decryption key, of one person or program. Each is in memory or held elsewhere.
pub struct Identity {
    signer: Arc<dyn Signer>,
    /// The signer, if its key is in memory.
    in_memory: Option<Arc<SigningKey>>,
    decrypter: Option<Arc<dyn Decrypter>>,
    dual_use: bool,
    /// What the file holds, unless it is an SSH key's.
    seed: Option<(IdentityKind, SecretKey)>,
    name: Option<String>,
    record: Option<String>,
}

impl Identity {
    /// Makes a new identity.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] or [`IdentityError::Signing`], if the library fails.
    pub fn generate(kind: IdentityKind, rng: &mut dyn Rng) -> Result<Self, IdentityError> {
        Self::from_seed(kind, secret_key(rng))
    }

    /// The identity of a 32-byte age secret: the seed of X-Wing, or the scalar of X25519.
    ///
    /// # Errors
    /// As [`Identity::generate`].
    pub fn from_seed(kind: IdentityKind, seed: SecretKey) -> Result<Self, IdentityError> {
        let signing = SigningKey::from_seed(&kdf::derive(seed.expose(), SIGN_PURPOSE, &[]))?;
        let (key, recipient) = match kind {
            IdentityKind::Hybrid => {
                let key = HybridSecretKey::from_seed(&seed)?;
                let recipient = Recipient::from_hybrid(key.public())?;
                (SoftwareKey::Hybrid(Box::new(key)), recipient)
            }
            IdentityKind::Classical => {
                let private = kem::x25519_private(seed.expose())?;
                let public = kem::x25519_public(&private)?;
                (SoftwareKey::X25519 { private, public }, Recipient::from_x25519(&public)?)
            }
        };
        let identity = Self::in_memory(signing, SoftwareDecrypter { key, recipients: vec![recipient] }, false);
        Ok(Self { seed: Some((kind, seed)), ..identity })
    }

    /// An identity whose keys others hold. Without a decrypter it only signs. `dual_use` says that both are one key.
    pub fn from_parts(signer: Arc<dyn Signer>, decrypter: Option<Arc<dyn Decrypter>>, dual_use: bool) -> Self {
        Self { signer, in_memory: None, decrypter, dual_use, seed: None, name: None, record: None }
    }

    /// This identity's signing key with another decryption key: for keys that only sign.
    #[must_use]
    pub fn decrypting_with(&self, decrypter: Arc<dyn Decrypter>, dual_use: bool) -> Self {
        Self {
            signer: self.signer.clone(),
            in_memory: self.in_memory.clone(),
            decrypter: Some(decrypter),
            dual_use,
            seed: None,
            name: self.name.clone(),
            record: self.record.clone(),
        }
    }

    fn in_memory(signing: SigningKey, decrypter: SoftwareDecrypter, dual_use: bool) -> Self {
        let signing = Arc::new(signing);
        let parts = Self::from_parts(signing.clone(), Some(Arc::new(decrypter)), dual_use);
        Self { in_memory: Some(signing), ..parts }
    }

    /// Reads an identity file or an OpenSSH private key file.
    ///
    /// `passphrase` is asked at most once, and only for an encrypted SSH key. `rsa_minimum` is what an RSA
    /// key needs to sign; every RSA key needs 2048 bits to decrypt.
    ///
    /// # Errors
    /// See [`IdentityError`]: each says what was found, and none quotes it.
    pub fn parse(
        file: &[u8],
        rsa_minimum: RsaMinimum,
        passphrase: &dyn Fn() -> Option<SecretBytes>,
    ) -> Result<Self, IdentityError> {
        if file.len() > MAX_IDENTITY_BYTES {
            return Err(IdentityError::TooLarge);
        }
        let start = file.trim_ascii_start();
        if start.starts_with(OPENSSH_BEGIN) {
            return Self::from_ssh(openssh::parse_private_key(start, passphrase)?, rsa_minimum);
        }
        if start.starts_with(b"age-encryption.org/") || start.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") {
            return Err(IdentityError::Encrypted);
        }
        if start.starts_with(b"-----BEGIN ") {
            return Err(IdentityError::Pem);
        }
        Self::from_lines(file)
    }

    fn from_ssh(key: SshPrivateKey, rsa_minimum: RsaMinimum) -> Result<Self, IdentityError> {
        let (signing, public, key) = match key {
            SshPrivateKey::Ed25519 { seed, public } => {
                let signing = SigningKey::from_seed(&seed)?;
                if signing.public_key().ed25519() != Some(&public) {
                    return Err(SshPrivateKeyError::Malformed.into());
                }
                let public = SshPublicKey::Ed25519(public);
                let key = SoftwareKey::ssh_ed25519(&seed, public.blob())?;
                (signing, public, key)
            }
            SshPrivateKey::Rsa { pkcs8, modulus, exponent } => {
                let public = SshPublicKey::Rsa { modulus, exponent };
                let key = SoftwareKey::ssh_rsa(&pkcs8, public.blob())?;
                (SigningKey::from_pkcs8(pkcs8.expose(), rsa_minimum)?, public, key)
            }
        };
        let recipients = vec![Recipient::from_ssh(&public)?];
        Ok(Self::in_memory(signing, SoftwareDecrypter { key, recipients }, true))
    }

    fn from_lines(file: &[u8]) -> Result<Self, IdentityError> {
        let mut key = None;
        let mut comments = Vec::new();
        for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = std::str::from_utf8(line).map_err(|_| IdentityError::Line(index.saturating_add(1)))?;
            if let Some(comment) = line.strip_prefix('#') {
                comments.push(comment.strip_prefix(' ').unwrap_or(comment));
            } else if !line.is_empty() {
                let found = read_key(line, index.saturating_add(1))?;
                if key.replace(found).is_some() {
                    return Err(IdentityError::Several);
                }
            }
        }
        let (kind, seed) = key.ok_or(IdentityError::Empty)?;
        let mut identity = Self::from_seed(kind, seed)?;
        identity.take_comments(&comments)?;
        Ok(identity)
    }

    /// Takes over name and record, and checks what the other comments say about the key. `public key` is
    /// how age-keygen writes the recipient.
    fn take_comments(&mut self, comments: &[&str]) -> Result<(), IdentityError> {
        let key_id = self.public_key().key_id().to_string();
        for comment in comments {
            let Some((label, value)) = comment.split_once(": ") else { continue };
            match label {
                "name" => self.name = Some(value.to_owned()),
                "record" => self.record = Some(value.to_owned()),
                "key id" if value != key_id => return Err(IdentityError::Contradiction("key id")),
                "recipient" | "public key" if !self.recipients().iter().any(|own| own.as_str() == value) => {
                    return Err(IdentityError::Contradiction("recipient"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the identity file: mode 0600 is the caller's to set. `record` is one line of JSON.
    ///
    /// # Errors
    /// [`IdentityError::NotAge`] for an SSH key, [`IdentityError::ControlCharacter`] if a comment would not
    /// stay on its line.
    pub fn to_file_text(&self, name: Option<&str>, record: Option<&str>) -> Result<SecretBytes, IdentityError> {
        let (kind, seed) = self.seed.as_ref().ok_or(IdentityError::NotAge)?;
        let mut head = format!("{FIRST_LINE}\n");
        for (label, value) in [
            ("name", name),
            ("key id", Some(self.public_key().key_id().to_string().as_str())),
            ("recipient", self.recipients().first().map(Recipient::as_str)),
            ("record", record),
        ] {
            let Some(value) = value else { continue };
            if value.contains(char::is_control) {
                return Err(IdentityError::ControlCharacter(label));
            }
            head = format!("{head}# {label}: {value}\n");
        }
        let key = bech32::encode(kind.prefix(), seed.expose()).ok_or(IdentityError::Damaged)?;
        let mut text = Vec::with_capacity(head.len().saturating_add(key.len()).saturating_add(1));
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(key.as_bytes());
        text.push(b'\n');
        Ok(SecretBytes::new(text))
    }

    /// The key that signs, unless somebody else holds it.
    pub fn signing_key(&self) -> Option<&SigningKey> {
        self.in_memory.as_deref()
    }

    /// What can be sealed to for this identity to open. Empty if it only signs.
    pub fn recipients(&self) -> &[Recipient] {
        self.decrypter.as_ref().map_or(&[], |decrypter| decrypter.recipients())
    }

    /// Whether one key serves for signing and decryption, as with SSH keys.
    pub fn dual_use(&self) -> bool {
        self.dual_use
    }

    /// The name that the file's comment gives. Nothing proves it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The record that the file's comment holds, as it stands there.
    pub fn record(&self) -> Option<&str> {
        self.record.as_deref()
    }
}

/// Reads the one line that is not a comment, or says what it is instead.
fn read_key(line: &str, number: usize) -> Result<(IdentityKind, SecretKey), IdentityError> {
    for kind in [IdentityKind::Hybrid, IdentityKind::Classical] {
        // The prefix and bech32's separator, so that one kind is not taken for the other.
        if line.strip_prefix(kind.prefix()).is_some_and(|rest| rest.starts_with('1')) {
            let seed = bech32::decode(kind.prefix(), line).and_then(|bytes| SecretKey::from_slice(bytes.expose()));
            return seed.map(|seed| (kind, seed)).ok_or(IdentityError::Damaged);
        }
    }
    if line.starts_with("AGE-PLUGIN-") {
        return Err(IdentityError::Plugin);
    }
    match Recipient::from_str(&openssh::without_comment(line)) {
        Err(RecipientError::Unknown) => Err(IdentityError::Line(number)),
        Err(RecipientError::SecretKey) => Err(IdentityError::Damaged),
        Err(RecipientError::Ssh(_)) => Err(IdentityError::SshPublicKey),
        _ if line.starts_with("ssh-") => Err(IdentityError::SshPublicKey),
        _ => Err(IdentityError::Recipient),
    }
}

impl Signer for Identity {
    fn public_key(&self) -> &PublicKey {
        self.signer.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        self.signer.sign(message)
    }
}

impl Decrypter for Identity {
    fn recipients(&self) -> &[Recipient] {
        self.recipients()
    }

    fn unwrap_file_key<'a>(&'a self, stanzas: &'a [Stanza]) -> BoxFuture<'a, Result<Option<FileKey>, OpenError>> {
        match &self.decrypter {
            Some(decrypter) => decrypter.unwrap_file_key(stanzas),
            None => Box::pin(std::future::ready(Ok(None))),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public_key().key_id())
    }
}
