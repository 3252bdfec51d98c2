//! Who opens a key file: the caller's key that decrypts, or an identity that is bound to a key on a token.

use crate::exit::{Exit, Failure};
use crate::keys::{self, key_source};
use crate::session::Session;
use bulla_crypto::envelope::Decrypter;
use bulla_keys::pin::PinError;
use bulla_keys::uri::TokenUri;
use bulla_keys::{KeySource, OaepKey, TokenError, TokenWorker};
use bulla_kms::bound::{BoundError, BoundIdentity};
use clap::Args;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a token may take for one answer: some want to be touched first.
const ANSWER: Duration = Duration::from_secs(60);

/// How the file of --identity is to be understood.
#[derive(Debug, Args)]
pub struct Opens {
    /// The RSA key on a token to which the identity file is bound (`bulla kms bind`)
    #[arg(long, value_name = "URI", value_parser = key_source())]
    bound_to: Option<KeySource>,
}

impl Opens {
    /// What opens key files of the caller.
    pub async fn decrypter(&self, session: &Session<'_>) -> Result<Arc<dyn Decrypter>, Failure> {
        let source = session.decrypting_source()?;
        let bound = match &source {
            KeySource::File(path) => bound_in(path)?,
            _ => None,
        };
        match (bound, &self.bound_to) {
            (None, None) => session.decrypter(&source),
            (Some(bound), Some(place)) => {
                let key = oaep_key(place, session).await?;
                let identity = bound.open(&key).await.map_err(|error| bound_failure(&error))?;
                Ok(Arc::new(identity))
            }
            (Some(_), None) => Err(Failure::usage(format!("{source} is bound to a key on a token"))
                .hint("name that key with --bound-to URI")),
            (None, Some(_)) => {
                Err(Failure::usage(format!("{source} is no identity that is bound to a key on a token"))
                    .hint("leave out --bound-to, or name a file of `bulla kms bind` with --identity"))
            }
        }
    }
}

/// The bound identity in a file, if it is meant as one.
fn bound_in(path: &Path) -> Result<Option<BoundIdentity>, Failure> {
    let bytes = keys::read(path)?;
    if !BoundIdentity::is_meant(bytes.expose()) {
        return Ok(None);
    }
    let bound = BoundIdentity::parse(bytes.expose());
    bound.map(Some).map_err(|error| bound_failure(&error))
}

/// The RSA key that a URI names.
pub fn on_token(place: &KeySource) -> Result<&TokenUri, Failure> {
    match place {
        KeySource::Token(uri) => Ok(uri),
        _ => Err(Failure::usage(format!("{place} is no URI of a token")).hint("give pkcs11:token=…;object=…")),
    }
}

/// The RSA key on a token that decrypts.
pub async fn oaep_key(place: &KeySource, session: &Session<'_>) -> Result<OaepKey, Failure> {
    let uri = on_token(place)?;
    let limit = session.global.timeout.map_or(ANSWER, |limit| limit.min(ANSWER));
    let worker = TokenWorker::start(uri, session.global.pin_file.clone(), limit);
    let worker = worker.map_err(|error| token_failure(&error))?;
    OaepKey::find(Arc::new(worker), uri).await.map_err(|error| token_failure(&error))
}

/// What came of a token whose PIN is in a file, and of which an RSA key is wanted.
fn token_failure(error: &TokenError) -> Failure {
    let failure = keys::failure(error);
    match error {
        TokenError::Pin(PinError::NoSource { .. }) => {
            failure.instead("add ?pin-source=file:/PATH to the URI, or give --pin-file FILE")
        }
        TokenError::NoKey { .. } => failure.instead(
            "check object= in the URI: it names an RSA key that decrypts, such as one that `tpm2_ptool addkey` makes",
        ),
        _ => failure,
    }
}

/// What came of a bound identity.
pub fn bound_failure(error: &BoundError) -> Failure {
    let hint = match error {
        BoundError::Token(error) => return token_failure(error),
        BoundError::OtherKey => "--bound-to names the key that `bulla kms bind --to` named",
        BoundError::Format(_) | BoundError::Altered => {
            "take the file from a copy, or make another with `bulla kms bind` and have its recipient enrolled"
        }
        BoundError::NotProven | BoundError::Crypto => "name another RSA key with --to",
    };
    Failure::new(Exit::Failed, error.to_string()).hint(hint)
}
