//! A transit key of a Bulla cluster.

use super::files::{MAX_CA_BYTES, Reader, digest, whole};
use super::token::failure;
use super::{Answer, Class, Context, Kind, Observation, Provider, ProviderError};
use crate::identity::unattended;
use crate::key::KeyRef;
use bulla_client::{Client, ClientError, Pin, State};
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_crypto::sign::SignError;
use bulla_keys::{KeySource, Outcome, TokenError};
use bulla_wire::api::{Decrypt, DecryptItem, Encrypt, EncryptItem, ItemError, KeyKind, Versioned};
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::error::Code;
use bulla_wire::id::ClusterId;
use bulla_wire::name::Name;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A ciphertext of 32 bytes has 112; room for other kinds of key.
const MAX_WRAPPED_BYTES: usize = 160;
/// How long a client stays although its token failed: many calls fail at once, and one opening is enough.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a call may go on with its retries: the caller gives up long before.
const PATIENCE: Duration = Duration::from_secs(10);

/// `[members.NAME.bulla]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The server: `https://HOST:PORT`, or `unix:/PATH`.
    pub address: String,
    /// The cluster's id, from which everything is verified.
    pub cluster: String,
    /// The transit key.
    pub key: String,
    /// The plugin's identity: a file of `bulla keygen`, an SSH private key without a passphrase, or a `pkcs11:` URI.
    pub identity: String,
    /// A file with the PIN of the identity's token.
    pub pin_file: Option<PathBuf>,
    /// PEM of authorities that have to vouch for the server's certificate besides. It is read again when it changes.
    pub ca: Option<PathBuf>,
    /// A folder in which it is remembered what was seen of the cluster, so that an older copy of it is noticed after a
    /// restart too.
    pub memory: Option<PathBuf>,
}

/// The provider.
pub struct Bulla {
    settings: Settings,
    source: KeySource,
    cluster: ClusterId,
    key: Name,
    reader: Reader,
    opened: Arc<Mutex<Option<Opened>>>,
}

/// A client, and the digest of the authorities that it was made with.
#[derive(Clone)]
struct Opened {
    client: Client,
    ca: Option<[u8; 32]>,
    at: Instant,
}

fn config(field: &str, error: &dyn std::fmt::Display) -> ProviderError {
    ProviderError::new(Class::Config, format!("{field}: {error}"))
}

impl Bulla {
    /// Judges what is written. Nothing is sent and no file is read, as they may come later.
    ///
    /// # Errors
    /// [`Class::Config`].
    pub fn open(settings: &Settings) -> Result<Self, ProviderError> {
        let cluster: ClusterId = settings.cluster.parse().map_err(|error| config("cluster", &error))?;
        let key = settings.key.parse().map_err(|error| config("key", &error))?;
        let source = KeySource::parse(settings.identity.as_ref()).map_err(|error| config("identity", &error))?;
        match &source {
            KeySource::Agent(_) => {
                return Err(config(
                    "identity",
                    &"an SSH agent needs somebody who is logged in; name a file or a token",
                ));
            }
            KeySource::Token(uri) if uri.module.is_none() => return Err(failure(&TokenError::NoModule)),
            KeySource::Token(_) | KeySource::File(_) => {}
        }
        // Without authorities, whose file is read where they are needed.
        Client::builder(&settings.address).build().map_err(|error| config("address", &error))?;
        let settings = settings.clone();
        Ok(Self { settings, source, cluster, key, reader: Reader::default(), opened: Arc::default() })
    }

    /// The client as it was opened last.
    fn known(&self) -> Option<Client> {
        lock(&self.opened).as_ref().map(|opened| opened.client.clone())
    }

    /// The client; opened now if there is none.
    async fn client(&self) -> Result<Client, ProviderError> {
        match self.known() {
            Some(client) => Ok(client),
            None => self.kept().await,
        }
    }

    /// The client by the files as they are now, for whoever observes. While authorities cannot be read, those that were read
    /// before are used.
    async fn kept(&self) -> Result<Client, ProviderError> {
        let (settings, source, cluster) = (self.settings.clone(), self.source.clone(), self.cluster);
        let opened = Arc::clone(&self.opened);
        // A token may take longer than whoever waits, who finds it opened when he comes again.
        let work = move || {
            let before = lock(&opened).clone();
            let now = match before {
                None => made(&settings, &source, cluster)?,
                Some(before) => before.read_again(settings.ca.as_deref()),
            };
            *lock(&opened) = Some(now.clone());
            Ok(now.client)
        };
        match self.known() {
            None => self.reader.apart(work).await,
            Some(known) if self.settings.ca.is_none() => Ok(known),
            Some(known) => Ok(self.reader.read(work).await.unwrap_or(known)),
        }
    }

    /// What a failed call came to. A client whose token gave up, or went away, is made anew by the next call: it is the one way
    /// back to a token that is there again, or whose PIN was changed. A PIN that was refused is sent to no token again.
    fn failed(&self, error: ClientError) -> ProviderError {
        let mends = of_token(&error).is_some_and(|error| matches!(error.outcome(), Outcome::Away | Outcome::Denied));
        if mends {
            let gone = lock(&self.opened).take_if(|opened| opened.at.elapsed() >= AGAIN);
            // The end of a token waits for it.
            drop(tokio::task::spawn_blocking(move || drop(gone)));
        }
        failed(error)
    }

    fn reference(&self, version: u32, created_ms: u64) -> KeyRef {
        KeyRef {
            backend: format!("bulla:{}/{}", self.cluster, self.key),
            version: version.to_string(),
            check: created_ms.to_string(),
            created: Some(created_ms / 1000),
        }
    }

    async fn look(&self) -> Result<Observation, ProviderError> {
        let client = self.kept().await?;
        let key = client.transit_read(&self.key).await.map_err(|error| self.failed(error))?;
        if !matches!(key.kind, KeyKind::Aes256Gcm | KeyKind::ChaCha20Poly1305) {
            let text =
                format!("the transit key {} is of kind {}; one of kind aes256-gcm is needed", self.key, key.kind);
            return Err(ProviderError::new(Class::Config, text));
        }
        let readable: Vec<KeyRef> = key
            .versions
            .iter()
            .filter(|version| version.version >= key.min_decryption_version)
            .map(|version| self.reference(version.version, version.created_ms))
            .collect();
        let latest = key.latest_version.to_string();
        let active = readable.iter().find(|version| version.version == latest).cloned();
        let none = || ProviderError::new(Class::Protocol, "the cluster names no newest version of the key");
        // What was seen of the cluster outlives a restart from here on.
        if let Err(error) = client.flush() {
            tracing::warn!(%error, "what was seen of the cluster could not be written");
        }
        // With 0 the cluster encrypts by the newest version alone, whatever it is asked.
        let older_wraps = key.min_encryption_version != 0 && key.min_encryption_version < key.latest_version;
        Ok(Observation {
            active: active.ok_or_else(none)?,
            readable,
            older_wraps,
            credential_ends: None,
            credential_renewed: true,
        })
    }

    async fn encrypt(&self, key: &KeyRef, plain: &SecretKey, context: &Context) -> Result<Vec<u8>, ProviderError> {
        let version = number(key)?;
        let item =
            EncryptItem { plaintext: base64url(plain.expose()), associated_data: Some(base64url(context.bytes())) };
        let body = Encrypt { items: vec![item], version: Some(version) };
        let answer =
            self.client().await?.transit_encrypt(&self.key, &body).await.map_err(|error| self.failed(error))?;
        let item = answer.items.into_iter().next().ok_or_else(|| nothing("ciphertext"))?;
        let text = item.ciphertext.ok_or_else(|| item.error.map_or_else(|| nothing("ciphertext"), refused))?;
        let made: Versioned = text.parse().map_err(|error| ProviderError::new(Class::Protocol, error))?;
        if made.version != version {
            let text = format!("version {} of the key was asked for, and version {} encrypted", version, made.version);
            return Err(ProviderError::new(Class::Protocol, text));
        }
        Ok(made.bytes)
    }

    async fn decrypt(&self, key: &KeyRef, wrapped: &[u8], context: &Context) -> Result<SecretKey, ProviderError> {
        let made = Versioned { version: number(key)?, bytes: wrapped.to_vec() };
        let item = DecryptItem { ciphertext: made.to_string(), associated_data: Some(base64url(context.bytes())) };
        let answer = self.client().await?.transit_decrypt(&self.key, &Decrypt { items: vec![item] }).await;
        let answer = answer.map_err(|error| self.failed(error))?;
        let item = answer.items.into_iter().next().ok_or_else(|| nothing("plaintext"))?;
        let text = item.plaintext.ok_or_else(|| item.error.map_or_else(|| nothing("plaintext"), refused))?;
        let text = SecretBytes::new(text.into_bytes());
        let text = std::str::from_utf8(text.expose()).unwrap_or_default();
        let bytes = base64url_decode(text).map(SecretBytes::new);
        let key = bytes.as_ref().and_then(|bytes| SecretKey::from_slice(bytes.expose()));
        key.ok_or_else(|| ProviderError::new(Class::Corrupt, "what was decrypted is no key of 32 bytes"))
    }
}

impl Provider for Bulla {
    fn kind(&self) -> Kind {
        Kind::Bulla
    }

    fn max_wrapped_bytes(&self) -> usize {
        MAX_WRAPPED_BYTES
    }

    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.kept().await.map(|_| ()) })
    }

    fn observe(&self) -> Answer<'_, Observation> {
        Box::pin(self.look())
    }

    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, context: &'a Context) -> Answer<'a, Vec<u8>> {
        Box::pin(self.encrypt(key, plain, context))
    }

    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], context: &'a Context) -> Answer<'a, SecretKey> {
        Box::pin(self.decrypt(key, wrapped, context))
    }
}

impl Opened {
    /// With the authorities as they are now.
    fn read_again(self, ca: Option<&Path>) -> Self {
        let Some(path) = ca else { return self };
        let read = authorities(path).and_then(|ca| {
            if self.ca != Some(ca) {
                self.client.read_authorities_again().map_err(|error| config("ca", &error))?;
            }
            Ok(ca)
        });
        match read {
            Ok(ca) => Self { ca: Some(ca), ..self },
            Err(error) => {
                tracing::warn!(%error, "the authorities that were read before are used");
                self
            }
        }
    }
}

/// Reads identity and authorities. Blocks.
fn made(settings: &Settings, source: &KeySource, cluster: ClusterId) -> Result<Opened, ProviderError> {
    let identity = unattended(source, settings.pin_file.as_deref()).map_err(|error| ProviderError {
        class: match (error.denied, error.away) {
            (true, _) => Class::Denied,
            // It may be plugged in again, or come back.
            (false, true) => Class::Unavailable,
            (false, false) => Class::Config,
        },
        ..config("identity", &error)
    })?;
    let mut builder =
        Client::builder(&settings.address).identity(identity).pin(Pin::Cluster(cluster)).timeout(PATIENCE);
    // Before the client reads the file: if it changes in between, it is read once more.
    let ca = settings.ca.as_deref().map(authorities).transpose()?;
    if let Some(ca) = &settings.ca {
        builder = builder.ca_file(ca.clone());
    }
    if let Some(memory) = &settings.memory {
        builder = builder.state(State::Directory(memory.clone()));
    }
    Ok(Opened { client: builder.build().map_err(|error| config("ca", &error))?, ca, at: Instant::now() })
}

/// What tells a file of authorities from another.
fn authorities(path: &Path) -> Result<[u8; 32], ProviderError> {
    let bytes = whole(path, MAX_CA_BYTES).map_err(|error| config("ca", &error))?;
    Ok(digest([bytes.expose().as_slice()]))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(key: &KeyRef) -> Result<u32, ProviderError> {
    key.version.parse().map_err(|_| ProviderError::new(Class::UnknownKey, "the version is no number"))
}

fn nothing(what: &str) -> ProviderError {
    ProviderError::new(Class::Protocol, format!("the cluster answers without a {what}"))
}

fn refused(error: ItemError) -> ProviderError {
    ProviderError::new(class(error.code), format!("{}: {}", error.code, error.message))
}

/// What the token of the identity said, if it was that.
fn of_token(error: &ClientError) -> Option<&TokenError> {
    match error {
        ClientError::Sign(SignError::Holder(cause)) => cause.downcast_ref(),
        _ => None,
    }
}

fn failed(error: ClientError) -> ProviderError {
    if let Some(token) = of_token(&error) {
        return failure(token);
    }
    let class = match &error {
        ClientError::Refused { errors, verified: true, .. } => {
            errors.first().map_or(Class::Unavailable, |first| class(first.code))
        }
        // Whoever stands between may have said it, and it may be no word about keys.
        ClientError::Refused { status: 429, .. } => Class::Throttled,
        ClientError::Refused { .. } => Class::Unavailable,
        ClientError::Unreachable { .. } | ClientError::UnknownOutcome { .. } => Class::Unavailable,
        ClientError::Untrusted(_) | ClientError::RolledBack(_) | ClientError::Tampered { .. } => Class::Protocol,
        _ => Class::Config,
    };
    ProviderError::new(class, bulla_client::causes(&error))
}

fn class(code: Code) -> Class {
    match code {
        Code::Sealed | Code::Uninitialised | Code::Busy => Class::Unavailable,
        Code::Denied | Code::Unauthenticated | Code::SignatureRequired => Class::Denied,
        Code::NotFound | Code::UnknownVersion => Class::UnknownKey,
        Code::VersionArchived => Class::KeyDisabled,
        Code::CiphertextOfOtherKey | Code::CiphertextDamaged => Class::Corrupt,
        Code::WrongKeyKind | Code::NoReplyRecipient => Class::Config,
        code if code.status() == 429 => Class::Throttled,
        code if code.status() >= 500 => Class::Unavailable,
        _ => Class::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_signed_says_nothing_of_keys() {
        use bulla_wire::error::ErrorEntry;
        let of = |code: Code, verified| {
            let entry = ErrorEntry { code, message: "no".into(), field: None, hint: None, id: None, receipt: None };
            let status = code.status();
            failed(ClientError::Refused { status, errors: vec![entry], verified, may_have_happened: false }).class
        };
        for code in [Code::NotFound, Code::VersionArchived, Code::CiphertextDamaged, Code::Denied, Code::Sealed] {
            assert_eq!((of(code, true), of(code, false)), (class(code), Class::Unavailable), "{code}");
        }
        assert_eq!(of(Code::Overloaded, false), class(Code::Overloaded));
    }

    #[test]
    fn a_token_that_does_not_sign_is_away() {
        let of = |error: TokenError| failed(ClientError::Sign(SignError::Holder(Box::new(error)))).class;
        assert_eq!(of(TokenError::NoToken { there: Vec::new() }), Class::Unavailable);
        assert_eq!(of(TokenError::RefusedBefore { token: "ops".into() }), Class::Denied);
    }

    #[tokio::test]
    async fn what_may_come_later_is_told_from_what_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let settings = |identity: &str| Settings {
            address: "https://localhost:1".into(),
            cluster: "sha256:UNhY4JhezH9gQYqvDMWrWH9CwlcKiECVqejMrND2VFw".into(),
            key: "k".into(),
            identity: identity.into(),
            pin_file: None,
            ca: Some(at("ca.pem").into()),
            memory: None,
        };
        let agent = "ssh-agent:SHA256:UNhY4JhezH9gQYqvDMWrWH9CwlcKiECVqejMrND2VFw";
        for never in [agent, "pkcs11:token=a;object=b", "pkcs11:nothing=a"] {
            assert_eq!(Bulla::open(&settings(never)).err().map(|error| error.class), Some(Class::Config), "{never}");
        }
        let bulla = Bulla::open(&settings(&at("identity"))).unwrap();
        let missing = async |field: &str| {
            let error = bulla.prepare().await.unwrap_err();
            assert!(error.class == Class::Config && error.text.starts_with(field), "{error}");
        };
        missing("identity: ").await;
        let made = bulla_crypto::identity::Identity::generate(
            bulla_crypto::identity::IdentityKind::Hybrid,
            &mut bulla_crypto::random::SystemRng,
        );
        std::fs::write(at("identity"), made.unwrap().to_file_text(None, None).unwrap().expose()).unwrap();
        std::fs::set_permissions(at("identity"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        missing("ca: ").await;
        let ca = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
        let digest = || lock(&bulla.opened).as_ref().and_then(|opened| opened.ca);
        std::fs::write(at("ca.pem"), ca()).unwrap();
        bulla.prepare().await.unwrap();
        let first = digest();
        // Another one takes its place, and what is none does not.
        std::fs::write(at("ca.pem"), ca()).unwrap();
        bulla.prepare().await.unwrap();
        let second = digest();
        assert!(first.is_some() && first != second);
        std::fs::write(at("ca.pem"), "none").unwrap();
        bulla.prepare().await.unwrap();
        assert_eq!(digest(), second);
    }
}
