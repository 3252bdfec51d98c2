//! The node's identity, with which it opens the key file: a file, a key on a token, or a file that is bound to one.

use super::super::token::failure;
use super::super::{Class, ProviderError};
use super::{Kept, Settings, read};
use crate::bound::{BoundError, BoundIdentity};
use crate::keyfile::{KeyFile, KeyFileError};
use bulla_crypto::envelope::Decrypter;
use bulla_crypto::identity::{Identity, MAX_IDENTITY_BYTES};
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::sign::RsaMinimum;
use bulla_keys::uri::TokenUri;
use bulla_keys::{OaepKey, TokenWorker, pin};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where the identity is.
enum Place {
    File { path: PathBuf, passphrase_file: Option<PathBuf> },
    Token { worker: Arc<TokenWorker>, uri: TokenUri },
    Bound { path: PathBuf, worker: Arc<TokenWorker>, uri: TokenUri },
}

/// What opens the key file.
pub(super) struct Opener(Place);

impl Opener {
    pub fn new(settings: &Settings, limit: Duration) -> Result<Self, ProviderError> {
        let config = |text: &str| ProviderError::new(Class::Config, text);
        let worker = |uri: &TokenUri| {
            if uri.module.is_none() {
                return Err(failure(&bulla_keys::TokenError::NoModule));
            }
            let worker = TokenWorker::start(uri, settings.pin_file.clone(), limit);
            worker.map(Arc::new).map_err(|error| failure(&error))
        };
        let on_token = TokenUri::is_meant(&settings.identity);
        let place = match (on_token, &settings.bound_to) {
            (true, Some(_)) => {
                return Err(config(
                    "identity is on a token already: leave bound_to out, or name a bound identity file",
                ));
            }
            (true, None) => {
                let uri: TokenUri = settings
                    .identity
                    .parse()
                    .map_err(|error| config(&format!("identity is no usable PKCS#11 URI: {error}")))?;
                Place::Token { worker: worker(&uri)?, uri }
            }
            (false, Some(uri)) => {
                Place::Bound { path: (&settings.identity).into(), worker: worker(&uri.0)?, uri: uri.0.clone() }
            }
            (false, None) => {
                Place::File { path: (&settings.identity).into(), passphrase_file: settings.passphrase_file.clone() }
            }
        };
        if settings.passphrase_file.is_some() && !matches!(place, Place::File { .. }) {
            return Err(config("passphrase_file is for an SSH key in a file: leave it out"));
        }
        if settings.pin_file.is_some() && matches!(place, Place::File { .. }) {
            return Err(config("pin_file is for an identity on a token or bound to one: leave it out"));
        }
        Ok(Self(place))
    }

    /// Opens a key file. The outer error says why there is no identity, the inner one what is wrong with the file.
    pub async fn open(&self, file: &[u8]) -> Result<Result<KeyFile, KeyFileError>, ProviderError> {
        match &self.0 {
            Place::File { path, passphrase_file } => {
                let identity = from_file(path, passphrase_file.as_deref()).await?;
                Ok(KeyFile::open(file, &identity).await)
            }
            Place::Token { worker, uri } => {
                let decrypter: Arc<dyn Decrypter> = worker.decrypter(uri).await.map_err(|error| failure(&error))?;
                Ok(KeyFile::open(file, &*decrypter).await)
            }
            Place::Bound { path, worker, uri } => {
                let bytes = read(path.clone(), MAX_IDENTITY_BYTES, Kept::Secret).await?;
                let told = |error: BoundError| match &error {
                    BoundError::Token(error) => failure(error),
                    _ => ProviderError::new(Class::Config, format!("{}: {error}", path.display())),
                };
                let bound = BoundIdentity::parse(&bytes).map_err(told)?;
                let key = OaepKey::find(worker.clone(), uri).await.map_err(|error| failure(&error))?;
                let identity = bound.open(&key).await.map_err(told)?;
                Ok(KeyFile::open(file, &identity).await)
            }
        }
    }

    /// Ends the session: the identity is needed again when the file changes.
    pub async fn release(&self) {
        if let Place::Token { worker, .. } | Place::Bound { worker, .. } = &self.0 {
            // A token that hangs has no session to end.
            drop(worker.release().await);
        }
    }
}

async fn from_file(
    path: &std::path::Path,
    passphrase_file: Option<&std::path::Path>,
) -> Result<Identity, ProviderError> {
    let bytes = SecretBytes::new(read(path.to_owned(), MAX_IDENTITY_BYTES, Kept::Secret).await?);
    let config = |text: String| ProviderError::new(Class::Config, text);
    if BoundIdentity::is_meant(bytes.expose()) {
        return Err(config(format!("{} is bound to a key on a token: name that key with bound_to", path.display())));
    }
    let passphrase = passphrase_file.map(pin::read).transpose();
    let passphrase = passphrase.map_err(|error| config(format!("passphrase_file: {error}; {}", error.hint())))?;
    let identity =
        Identity::parse(bytes.expose(), RsaMinimum::Bits3072, &|| passphrase.as_ref().map(SecretBytes::copy));
    identity.map_err(|error| config(format!("the identity {}: {error}", path.display())))
}
