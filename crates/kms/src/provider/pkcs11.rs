//! An AES-256 key on a token behind PKCS#11.
//!
//! Threat: keys of one label, of which a node takes the one and another node the other; a key that was exchanged under its
//! id; a PIN that a loop sends until the token locks. So a key is named by its id and known by its check value, which
//! enters what kube-apiserver is told; and a refused PIN is never sent again ([`bulla_keys::TokenWorker`]).

use super::token::{ANSWER, KeyUri, failure};
use super::{Answer, Class, Context, Kind, Observation, Provider, ProviderError};
use crate::key::KeyRef;
use bulla_crypto::digest::framed;
use bulla_crypto::secret::SecretKey;
use bulla_keys::uri::TokenUri;
use bulla_keys::{AesKey, TokenWorker};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a look waits for an older key, and for all of them: the newest one must not wait for a token that hangs.
const OLDER_KEY: Duration = Duration::from_millis(500);
const OLDER_KEYS: Duration = Duration::from_secs(2);

/// How many keys a member may have. Each is looked at every time.
const MAX_KEYS: usize = 16;
/// A key on a token has no versions: another key has another id.
const VERSION: &str = "1";
const DOMAIN: &[u8] = b"bulla/kms/v1/pkcs11";

/// The key, in the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key that wraps: a PKCS#11 URI with `id=`, the `CKA_ID` of an AES-256 key, and `module-path=`.
    pub uri: KeyUri,
    /// Older keys, which unwrap what they wrapped. To rotate, make a key, put its URI in `uri` and the one before here.
    #[serde(default)]
    pub also: Vec<KeyUri>,
    /// The file with the PIN in its first line, for URIs without `pin-source=`.
    pub pin_file: Option<PathBuf>,
}

/// Keys on tokens.
pub struct Pkcs11 {
    /// The first is the one to wrap by.
    entries: Vec<Entry>,
}

struct Entry {
    uri: TokenUri,
    worker: Arc<TokenWorker>,
    /// `None` if the URI names no id.
    key: Option<AesKey>,
    /// As it was found last.
    last: Mutex<Option<KeyRef>>,
}

impl Pkcs11 {
    /// Makes ready to use the keys. No module is loaded and no PIN read yet.
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
        let uris: Vec<&TokenUri> = std::iter::once(&settings.uri).chain(&settings.also).map(|uri| &uri.0).collect();
        if uris.len() > MAX_KEYS {
            let text = format!("also has more than {} keys: take out those that nothing is encrypted by", MAX_KEYS - 1);
            return Err(ProviderError::new(Class::Config, text));
        }
        let mut entries: Vec<Entry> = Vec::new();
        for uri in uris {
            if uri.module.is_none() {
                return Err(failure(&bulla_keys::TokenError::NoModule));
            }
            if uri.id.is_some() && entries.iter().any(|entry| entry.uri.id == uri.id) {
                let text = format!("two keys have the id of {uri}: a key stands once, in uri or in also");
                return Err(ProviderError::new(Class::Config, text));
            }
            // One thread for each token, however many keys on it are used.
            let place = TokenWorker::place(uri);
            let there = entries.iter().find(|entry| TokenWorker::place(&entry.uri) == place);
            let worker = match there {
                Some(entry) => entry.worker.clone(),
                None => {
                    let worker = TokenWorker::start(uri, settings.pin_file.clone(), limit);
                    Arc::new(worker.map_err(|error| failure(&error))?)
                }
            };
            entries.push(Entry {
                uri: uri.clone(),
                key: AesKey::new(worker.clone(), uri),
                worker,
                last: Mutex::default(),
            });
        }
        Ok(Self { entries })
    }

    async fn look(&self) -> Result<Observation, ProviderError> {
        let mut entries = self.entries.iter();
        let active = entries.next().ok_or_else(|| ProviderError::new(Class::Config, "no key is configured"))?;
        let active = active.look().await?;
        let mut readable = vec![active.clone()];
        let end = Instant::now() + OLDER_KEYS;
        for entry in entries {
            let until = end.min(Instant::now() + OLDER_KEY);
            match timeout_at(until, entry.look()).await {
                Ok(Ok(key)) => {
                    *lock(&entry.last) = Some(key.clone());
                    readable.push(key);
                }
                // An older key that is missing must not stop new ones; what it wrapped fails by its name.
                Ok(Err(error)) => {
                    *lock(&entry.last) = None;
                    tracing::warn!(class = %error.class, "an older key cannot be used: {error}");
                }
                // Nor one whose token is slow or hangs: that it was there is known, and whoever needs it waits for it.
                Err(_) => {
                    tracing::warn!("an older key's token does not answer in time");
                    readable.extend(lock(&entry.last).clone());
                }
            }
        }
        Ok(Observation { active, readable, older_wraps: true, credential_ends: None, credential_renewed: true })
    }

    /// The key that a reference means.
    fn find(&self, key: &KeyRef) -> Result<&AesKey, ProviderError> {
        let mut known = self.entries.iter().filter_map(|entry| entry.key.as_ref());
        known.find(|known| backend(known) == key.backend && key.version == VERSION).ok_or_else(|| {
            let text = format!("no URI in uri and also names the key {}: add it to also", key.backend);
            ProviderError::new(Class::UnknownKey, text)
        })
    }
}

impl Entry {
    async fn look(&self) -> Result<KeyRef, ProviderError> {
        let Some(key) = &self.key else {
            return Err(failure(&AesKey::ids(&self.worker, &self.uri).await));
        };
        let check = key.check().await.map_err(|error| failure(&error))?;
        Ok(KeyRef { backend: backend(key), version: VERSION.to_owned(), check, created: None })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The id alone: the same key lies in another slot of another token on every node.
fn backend(key: &AesKey) -> String {
    format!("pkcs11:{}", key.id())
}

fn aad(key: &KeyRef, context: &Context) -> Vec<u8> {
    framed(&[DOMAIN, &key.digest().0, context.bytes()])
}

impl Provider for Pkcs11 {
    fn kind(&self) -> Kind {
        Kind::Pkcs11
    }

    fn max_wrapped_bytes(&self) -> usize {
        AesKey::SEALED_BYTES
    }

    fn observe(&self) -> Answer<'_, Observation> {
        Box::pin(self.look())
    }

    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, context: &'a Context) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let wrapped = self.find(key)?.encrypt(&key.check, plain, aad(key, context)).await;
            wrapped.map_err(|error| failure(&error))
        })
    }

    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], context: &'a Context) -> Answer<'a, SecretKey> {
        Box::pin(async move {
            let plain = self.find(key)?.decrypt(&key.check, wrapped, aad(key, context)).await;
            plain.map_err(|error| failure(&error))
        })
    }
}
