//! A key in a file that is encrypted by age to each node's own identity, which may be a file, a token or a TPM
//! (`spec/kms-keyfile.md`).
//!
//! Threat: somebody who can write the file, but has no key of it, puts in one that he knows; a file that is half copied,
//! or older. So a changed file is taken only if it continues the one before, and otherwise that one stays. Not held: what
//! lies there when the process starts is believed, so the file must be its owner's alone to write.

mod identity;

use self::identity::Opener;
use super::token::{ANSWER, KeyUri};
use super::{Answer, Class, Context, Kind, Observation, Provider, ProviderError};
use crate::key::KeyRef;
use crate::keyfile::{Kek, KeyFile, KeyFileError, MAX_FILE_BYTES};
use bulla_crypto::digest::{framed, sha256};
use bulla_crypto::envelope::OpenError;
use bulla_crypto::random::SystemRng;
use bulla_crypto::sealed;
use bulla_crypto::secret::{SecretKey, file};
use bulla_wire::encoding::base32;
use serde::Deserialize;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DOMAIN: &[u8] = b"bulla/kms/v1/age";

/// The key file, in the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key file, the same on all nodes. It is read again when it changes.
    pub file: PathBuf,
    /// The node's identity: a file, or the PKCS#11 URI of a key that decrypts.
    pub identity: String,
    /// The PKCS#11 URI of the RSA key to which the identity file is bound, such as one in the TPM.
    pub bound_to: Option<KeyUri>,
    /// The file with the token's PIN in its first line, for a URI without `pin-source=`.
    pub pin_file: Option<PathBuf>,
    /// The file with the passphrase of an encrypted SSH key in its first line.
    pub passphrase_file: Option<PathBuf>,
}

/// The keys of a key file.
pub struct Age {
    path: PathBuf,
    opener: Opener,
    /// One at a time opens the file.
    loading: tokio::sync::Mutex<()>,
    loaded: RwLock<Option<Arc<Loaded>>>,
    refused: Mutex<Option<ProviderError>>,
}

struct Loaded {
    file: KeyFile,
    /// SHA-256 of the file as it was read.
    digest: [u8; 32],
}

impl Age {
    /// Makes ready to use the file. Nothing is read yet.
    ///
    /// # Errors
    /// [`Class::Config`].
    pub fn open(settings: &Settings) -> Result<Self, ProviderError> {
        Self::open_with(settings, ANSWER)
    }

    /// The same, with another limit for each answer of a token.
    ///
    /// # Errors
    /// [`Class::Config`].
    pub fn open_with(settings: &Settings, limit: Duration) -> Result<Self, ProviderError> {
        Ok(Self {
            path: settings.file.clone(),
            opener: Opener::new(settings, limit)?,
            loading: tokio::sync::Mutex::default(),
            loaded: RwLock::default(),
            refused: Mutex::default(),
        })
    }

    fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in use; at the first time, what lies there.
    async fn current(&self) -> Result<Arc<Loaded>, ProviderError> {
        match self.loaded() {
            Some(loaded) => Ok(loaded),
            None => self.refresh().await,
        }
    }

    /// Reads the file again, and takes it if it continues the one in use. Otherwise that stays, and the log says why.
    async fn refresh(&self) -> Result<Arc<Loaded>, ProviderError> {
        let _alone = self.loading.lock().await;
        let before = self.loaded();
        let outcome = self.load(before.as_deref()).await;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match (outcome, before) {
            (Ok(None), Some(before)) => {
                *refused = None;
                Ok(before)
            }
            (Ok(Some(loaded)), _) => {
                *refused = None;
                let loaded = Arc::new(loaded);
                *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded.clone());
                Ok(loaded)
            }
            (Err(error), Some(before)) => {
                // Said once, not at every look.
                if refused.as_ref() != Some(&error) {
                    tracing::warn!(class = %error.class, "the key file that was read before stays in use: {error}");
                }
                *refused = Some(error);
                Ok(before)
            }
            (Err(error), None) => Err(error),
            (Ok(None), None) => Err(ProviderError::new(Class::Unavailable, "the key file was not read")),
        }
    }

    /// The file that lies there, unless it is the one in use.
    async fn load(&self, before: Option<&Loaded>) -> Result<Option<Loaded>, ProviderError> {
        let bytes = read(self.path.clone(), MAX_FILE_BYTES, Kept::FromWriting).await?;
        let digest = sha256(&[&bytes]);
        if before.is_some_and(|before| before.digest == digest) {
            return Ok(None);
        }
        let opened = self.opener.open(&bytes).await;
        self.opener.release().await;
        let unfit = |error: &KeyFileError| {
            ProviderError::new(class(error), format!("the key file {}: {error}", self.path.display()))
        };
        let file = opened?.map_err(|error| unfit(&error))?;
        if let Some(before) = before {
            file.continues(&before.file).map_err(|error| unfit(&error))?;
        }
        Ok(Some(Loaded { file, digest }))
    }

    async fn look(&self) -> Result<Observation, ProviderError> {
        let loaded = self.refresh().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let none = || ProviderError::new(Class::UnknownKey, "the key file has no key");
        let active = reference(&loaded.file, loaded.file.active(now).ok_or_else(none)?);
        let readable = loaded.file.keys().iter().map(|kek| reference(&loaded.file, kek)).collect();
        Ok(Observation { active, readable, older_wraps: true, credential_ends: None, credential_renewed: true })
    }
}

impl Loaded {
    /// The key that a reference means.
    fn find(&self, key: &KeyRef) -> Result<&Kek, ProviderError> {
        let found = self.file.keys().iter().find(|kek| reference(&self.file, kek).digest() == key.digest());
        found.ok_or_else(|| {
            let text = format!("the key file has no key {} of {}: copy the newest one here", key.version, key.backend);
            ProviderError::new(Class::UnknownKey, text)
        })
    }
}

fn reference(file: &KeyFile, kek: &Kek) -> KeyRef {
    KeyRef {
        backend: format!("age:{}", file.id()),
        version: kek.number.to_string(),
        check: base32(&kek.check(file.id())),
        created: Some(kek.created),
    }
}

fn aad(key: &KeyRef, context: &Context) -> Vec<u8> {
    framed(&[DOMAIN, &key.digest().0, context.bytes()])
}

fn class(error: &KeyFileError) -> Class {
    match error {
        KeyFileError::Open(OpenError::Key(_)) => Class::Unavailable,
        KeyFileError::Open(OpenError::NoMatch) => Class::Denied,
        KeyFileError::Open(_) | KeyFileError::Line { .. } | KeyFileError::TooLarge => Class::Corrupt,
        _ => Class::Config,
    }
}

/// What others must not be able to do with a file.
#[derive(Clone, Copy)]
enum Kept {
    /// Write it: what lies there is believed.
    FromWriting,
    /// Read it, as [`file::judge`] has it.
    Secret,
}

async fn read(path: PathBuf, limit: usize, kept: Kept) -> Result<Vec<u8>, ProviderError> {
    let done = tokio::task::spawn_blocking(move || read_now(&path, limit, kept)).await;
    done.unwrap_or_else(|_| Err(ProviderError::new(Class::Unavailable, "reading a file broke off")))
}

fn read_now(path: &Path, limit: usize, kept: Kept) -> Result<Vec<u8>, ProviderError> {
    const WRITING: u32 = 0o022;
    let shown = path.display();
    let failed = |error| ProviderError::new(Class::Config, format!("cannot read {shown}: {error}"));
    let opened = File::open(path).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    let mode = found.mode() & 0o777;
    let exposed = match kept {
        Kept::FromWriting if mode & WRITING != 0 => Some(format!("others may write it: chmod {:04o}", mode & !WRITING)),
        Kept::FromWriting => None,
        Kept::Secret => file::judge(found.uid(), mode, rustix::process::geteuid().as_raw())
            .err()
            .map(|exposed| format!("{} may read it: {}", exposed.who(), exposed.hint(&shown))),
    };
    if let Some(exposed) = exposed {
        return Err(ProviderError::new(Class::Config, format!("{shown} has mode {mode:04o}, so {exposed}")));
    }
    // Room for all of it from the start: a growing buffer would leave copies behind.
    let mut bytes = Vec::with_capacity(limit.saturating_add(2));
    opened.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

impl Provider for Age {
    fn kind(&self) -> Kind {
        Kind::Age
    }

    fn max_wrapped_bytes(&self) -> usize {
        32 + sealed::OVERHEAD
    }

    fn observe(&self) -> Answer<'_, Observation> {
        Box::pin(self.look())
    }

    fn refused(&self) -> Option<ProviderError> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, context: &'a Context) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let loaded = self.current().await?;
            let kek = loaded.find(key)?.key();
            Ok(sealed::seal(kek, &aad(key, context), plain.expose(), &mut SystemRng))
        })
    }

    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], context: &'a Context) -> Answer<'a, SecretKey> {
        Box::pin(async move {
            let corrupt =
                || ProviderError::new(Class::Corrupt, "what was to be unwrapped was altered, or is of another cluster");
            if wrapped.len() > self.max_wrapped_bytes() {
                return Err(corrupt());
            }
            let loaded = self.current().await?;
            let plain = sealed::open(loaded.find(key)?.key(), &aad(key, context), wrapped).map_err(|_| corrupt())?;
            SecretKey::from_slice(plain.expose()).ok_or_else(corrupt)
        })
    }
}
