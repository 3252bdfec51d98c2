//! A transit key of a HashiCorp Vault or an OpenBao (`docs/manual/kms-vault.md`).
//!
//! What is relied on: the version that encrypts is named in the request and read from the answer, and after each
//! encryption the key is looked at, so what is kept was made by the version that was made when the [`KeyRef`] says. The
//! key is never made from here: an encryption makes a missing key if the policy allows that, so where it may, the key is
//! looked at before, too. A refusal that may have several reasons is explained by looking at the key, not by words.
//!
//! Not held: whoever administers that Vault reads all that its keys encrypt. A token lies in the memory of the process and
//! in buffers of the HTTP library, which are not wiped.

#[doc(hidden)]
pub mod answer;
mod api;
mod login;
mod session;
mod settings;

pub use settings::{Approle, Auth, Certificate, Jwt, KeyName, MountPath, RoleId, SecretId, Settings, TokenFile};

use super::{Answer, Class, Context, Kind, Observation, Provider, ProviderError};
use crate::key::KeyRef;
use answer::{KeyState, MAX_WRAPPED_BYTES};
use api::{Api, Call, refused};
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_wire::encoding::base64;
use http::StatusCode;
use serde::Serialize;
use session::{Session, Token};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One transit key.
pub struct Vault {
    session: Arc<Session>,
    /// Namespace, mount and key, as one path: Vault takes a namespace before a path as that in the header.
    place: String,
    keys: String,
    encrypt: String,
    decrypt: String,
    /// The key as it is named in a [`KeyRef`], once the cluster's id is known.
    backend: Mutex<Option<String>>,
    warned: AtomicBool,
}

/// Which direction something was refused in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Encrypting,
    Decrypting,
}

#[derive(Serialize)]
struct Encrypt<'a> {
    plaintext: &'a str,
    key_version: u64,
    associated_data: &'a str,
}

#[derive(Serialize)]
struct Decrypt<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
}

impl Vault {
    /// Makes ready; nothing is sent.
    ///
    /// # Errors
    /// [`Class::Config`] for a namespace that is none.
    pub fn open(settings: &Settings) -> Result<Self, ProviderError> {
        let (mount, key) = (&settings.mount, &settings.key);
        let namespace = settings.namespace.as_ref().map_or_else(String::new, |path| format!("{path}/"));
        let encrypt = format!("{mount}/encrypt/{key}");
        Ok(Self {
            session: Arc::new(Session::new(settings, encrypt.clone())?),
            place: format!("{namespace}{mount}/{key}"),
            keys: format!("{mount}/keys/{key}"),
            encrypt,
            decrypt: format!("{mount}/decrypt/{key}"),
            backend: Mutex::default(),
            warned: AtomicBool::new(false),
        })
    }

    /// The key's name, which begins with the id of the cluster: what is observed asks for it, a call knows it.
    async fn asked_backend(&self, api: &Api) -> Result<String, ProviderError> {
        let backend = format!("vault:{}/{}", api.cluster_id().await?, self.place);
        *self.backend.lock().unwrap_or_else(PoisonError::into_inner) = Some(backend.clone());
        Ok(backend)
    }

    /// The version that is meant, if it is of this key.
    async fn version(&self, key: &KeyRef, api: &Api) -> Result<u64, ProviderError> {
        let known = self.backend.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let backend = match known {
            Some(known) => known,
            None => self.asked_backend(api).await?,
        };
        let version = key.version.parse().ok().filter(|version: &u64| *version != 0);
        version.filter(|_| key.backend == backend).ok_or_else(|| {
            let text = format!("{} version {} is not a key of {backend}", key.backend, key.version);
            ProviderError::new(Class::UnknownKey, text)
        })
    }

    /// Looks at the key.
    async fn look(&self, api: &Api, token: &Token) -> Result<KeyState, ProviderError> {
        let reply = api.send(Call::get(&self.keys, Some(&token.header))).await?;
        match reply.status.as_u16() {
            200 => answer::key(&reply.body),
            404 if answer::is_absence(&reply.body) => {
                let text =
                    format!("there is no key {}: make it in Vault, or compare key, mount and namespace", self.place);
                Err(ProviderError::new(Class::UnknownKey, text))
            }
            403 => Err(self.denied(token, &self.keys, "read")),
            _ => Err(refused(reply.status, &self.keys, "")),
        }
    }

    fn denied(&self, token: &Token, path: &str, right: &str) -> ProviderError {
        self.session.suspect(token);
        let text = format!("{path} is denied: the token has ended, or its policies do not allow {right} there");
        ProviderError::new(Class::Denied, text)
    }

    /// Looks at the key as whoever observes: with a token that is kept, and once more if it was none any more.
    async fn looked(&self, way: [u8; 32]) -> Result<(KeyState, Arc<Token>), ProviderError> {
        let token = self.session.kept(way).await?;
        match self.look(self.session.api(), &token).await {
            Err(error) if error.class == Class::Denied => {
                let other = self.session.kept(way).await?;
                if other.is(&token) {
                    return Err(error);
                }
                Ok((self.look(self.session.api(), &other).await?, other))
            }
            state => Ok((state?, token)),
        }
    }

    async fn observed(&self) -> Result<Observation, ProviderError> {
        // Files that changed are read before the first request by them.
        let way = self.session.api().http.renewed().await?;
        let backend = self.asked_backend(self.session.api()).await?;
        let (state, token) = self.looked(way).await?;
        if let Some(unfit) = state.unfit {
            return Err(ProviderError::new(unfit.class, format!("{}: {}", self.place, unfit.text)));
        }
        if (state.leaves || state.deletable) && !self.warned.swap(true, Ordering::Relaxed) {
            if state.leaves {
                tracing::warn!(
                    key = self.place,
                    "the key may leave Vault by export or backup, and whoever has it decrypts"
                );
            }
            if state.deletable {
                tracing::warn!(key = self.place, "the key may be deleted, and all that it encrypts with it");
            }
        }
        let of = |(version, made): (&u64, &u64)| KeyRef {
            backend: backend.clone(),
            version: version.to_string(),
            check: made.to_string(),
            created: Some(*made),
        };
        let readable: Vec<KeyRef> = state.versions.range(state.min_decryption..=state.latest).map(of).collect();
        let active = state.versions.get_key_value(&state.latest).map(of);
        let active = active.ok_or_else(|| ProviderError::new(Class::Protocol, "the key has no newest version"))?;
        let older_wraps = state.min_encryption < state.latest;
        Ok(Observation {
            active,
            readable,
            older_wraps,
            credential_ends: token.ends(),
            credential_renewed: self.session.renews(&token),
        })
    }

    async fn wrapped(&self, key: &KeyRef, plain: &SecretKey, context: &Context) -> Result<Vec<u8>, ProviderError> {
        let api = self.session.api();
        let version = self.version(key, api).await?;
        let token = self.session.token().await?;
        if token.may_create != Some(false) {
            self.look(api, &token).await?;
        }
        let text = SecretBytes::new(base64(plain.expose()).into_bytes());
        let plaintext = std::str::from_utf8(text.expose()).unwrap_or_default();
        let body = Encrypt { plaintext, key_version: version, associated_data: &base64(context.bytes()) };
        let reply = api.send(Call::post(&self.encrypt, Some(&token.header), &body, plaintext.len())?).await?;
        if reply.status != StatusCode::OK {
            return Err(self.explained(reply.status, key, version, Doing::Encrypting, &token, api).await);
        }
        let wrapped = answer::wrapped(&reply.body, version)?;
        match difference(&self.look(api, &token).await?, key, version, Doing::Encrypting) {
            Some(error) => Err(error),
            None => Ok(wrapped),
        }
    }

    async fn unwrapped(&self, key: &KeyRef, wrapped: &[u8], context: &Context) -> Result<SecretKey, ProviderError> {
        if wrapped.is_empty() || wrapped.len() > MAX_WRAPPED_BYTES {
            return Err(ProviderError::new(Class::Corrupt, "what is to be decrypted was not made by a key of Vault"));
        }
        let api = self.session.api();
        let version = self.version(key, api).await?;
        let token = self.session.token().await?;
        let body =
            Decrypt { ciphertext: &answer::ciphertext(wrapped, version), associated_data: &base64(context.bytes()) };
        let reply = api.send(Call::post(&self.decrypt, Some(&token.header), &body, MAX_WRAPPED_BYTES)?).await?;
        if reply.status == StatusCode::OK {
            return answer::plain(&reply.body);
        }
        Err(self.explained(reply.status, key, version, Doing::Decrypting, &token, api).await)
    }

    /// Why something was refused. Of a request that is not taken, Vault says why in words alone; the key tells it better.
    async fn explained(
        &self,
        status: StatusCode,
        key: &KeyRef,
        version: u64,
        doing: Doing,
        token: &Token,
        api: &Api,
    ) -> ProviderError {
        let path = if doing == Doing::Encrypting { &self.encrypt } else { &self.decrypt };
        let refusal = match (status.as_u16(), doing) {
            (400, Doing::Decrypting) => ProviderError::new(
                Class::Corrupt,
                format!("{path} does not decrypt: it was altered, or encrypted by another key or for another cluster"),
            ),
            (403, _) => self.denied(token, path, "update"),
            _ => refused(status, path, ""),
        };
        if !matches!(status.as_u16(), 400 | 403 | 404) {
            return refusal;
        }
        match self.look(api, token).await {
            Ok(state) => difference(&state, key, version, doing).unwrap_or(refusal),
            Err(error) if error.class == Class::UnknownKey || (error.class.passes() && status == 400) => error,
            Err(_) => refusal,
        }
    }
}

/// What makes it impossible to use a version of a key as it is, or `None`.
fn difference(state: &KeyState, key: &KeyRef, version: u64, doing: Doing) -> Option<ProviderError> {
    if let Some(unfit) = state.unfit.as_ref().filter(|unfit| unfit.class == Class::KeyDisabled) {
        return Some(unfit.clone());
    }
    let (name, disabled) = (&key.backend, |why: &str| {
        Some(ProviderError::new(Class::KeyDisabled, format!("version {version} of {} is disabled: {why}", key.backend)))
    });
    if version < state.min_decryption {
        return disabled("min_decryption_version is higher; lower it as long as something needs this version");
    }
    if doing == Doing::Encrypting && version < state.min_encryption {
        return disabled("min_encryption_version is higher");
    }
    let text = match state.versions.get(&version) {
        None => format!("{name} has no version {version}"),
        Some(made) if made.to_string() != key.check => {
            format!("version {version} of {name} is another key than before, made at another time")
        }
        Some(_) => return None,
    };
    Some(ProviderError::new(Class::UnknownKey, text))
}

impl Provider for Vault {
    fn kind(&self) -> Kind {
        Kind::Vault
    }

    fn max_wrapped_bytes(&self) -> usize {
        MAX_WRAPPED_BYTES
    }

    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.session.api().http.renewed().await.map(|_| ()) })
    }

    fn observe(&self) -> Answer<'_, Observation> {
        Box::pin(self.observed())
    }

    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, context: &'a Context) -> Answer<'a, Vec<u8>> {
        Box::pin(self.wrapped(key, plain, context))
    }

    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], context: &'a Context) -> Answer<'a, SecretKey> {
        Box::pin(self.unwrapped(key, wrapped, context))
    }
}
