//! All tokens that a process uses.

use crate::aes::{self, AES_ID_BYTES};
use crate::agree::TokenAgreement;
use crate::error::TokenError;
use crate::generate::{Drawn, Make, generate};
use crate::module::{Module, TokenId};
use crate::object::{Key, Keys};
use crate::pin::{self, AskPin};
use crate::sign::TokenSigner;
use crate::token::{Limits, Token};
use crate::uri::TokenUri;
use crate::worker::Holder;
use bulla_crypto::envelope::Decrypter;
use bulla_crypto::identity::{Identity, TagKey};
use bulla_crypto::kem::{ML_KEM_SEED_BYTES, MlKemKey};
use bulla_crypto::random::{Rng, draw};
use bulla_crypto::secret::Secret;
use bulla_crypto::sign::PublicKey;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A token, through one module.
type Place = (PathBuf, TokenId);

/// The tokens that were logged in to. Each is logged in to once, however many keys on it are used.
#[derive(Default)]
pub struct Tokens {
    /// `None` for a token that refused, or hangs: nothing is sent to it any more.
    open: Mutex<HashMap<Place, Option<Arc<Token>>>>,
    limits: Limits,
    cautious: bool,
}

impl Tokens {
    /// The same for somebody who is not there: the last try before a token locks is left to people.
    #[must_use]
    pub fn cautious(self) -> Self {
        Self { cautious: true, ..self }
    }

    /// The same with at most this time for each answer of a token.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limits: self.limits.at_most(limit), ..self }
    }

    /// The identity whose keys the URI names: one that signs, and one that decrypts if there is one and its token can agree on
    /// keys. The PIN is read from the URI's file, or else asked for. Blocks.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn identity(&self, uri: &TokenUri, ask: AskPin<'_>) -> Result<Identity, TokenError> {
        let token = self.token(uri, ask)?;
        let Keys { signs, agrees } = keys(&token, uri)?;
        let missing = || TokenError::NoKey { token: token.label().to_owned(), purpose: "signs", there: Vec::new() };
        let signs = signs.ok_or_else(missing)?;
        let dual_use = agrees.as_ref().is_some_and(|agrees| agrees.public == signs.public);
        // What its token cannot use does not keep the other key from signing.
        let decrypter = match agrees.map(|key| opener(&token, &key)).transpose() {
            Err(TokenError::Mechanism { .. }) => None,
            opened => opened?,
        };
        let dual_use = dual_use && decrypter.is_some();
        Ok(Identity::from_parts(Arc::new(TokenSigner::new(token, signs)?), decrypter, dual_use))
    }

    /// The key that the URI names for decryption, whatever else there is, and its public half. Blocks.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decrypter(&self, uri: &TokenUri, ask: AskPin<'_>) -> Result<(Arc<dyn Decrypter>, PublicKey), TokenError> {
        let token = self.token(uri, ask)?;
        let missing = || TokenError::NoKey { token: token.label().to_owned(), purpose: "decrypts", there: Vec::new() };
        let key = keys(&token, uri)?.agrees.ok_or_else(missing)?;
        Ok((opener(&token, &key)?, key.public))
    }

    /// Makes the keys that the URI will name. Blocks.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn generate(
        &self,
        uri: &TokenUri,
        make: Make,
        rng: &mut dyn Rng,
        ask: AskPin<'_>,
    ) -> Result<Identity, TokenError> {
        let label = uri.object.clone().ok_or(TokenError::NoLabel)?;
        if uri.id.is_some() {
            return Err(TokenError::IdOfNewKeys);
        }
        let drawn = Drawn::new(rng);
        let token = self.token(uri, ask)?;
        token.call("make keys", move |_, connection| generate(connection, &label, make, &drawn))?;
        self.identity(uri, ask)
    }

    /// Makes an AES-256 key that cannot leave the token, and only encrypts and decrypts, under the label that the URI gives, and
    /// tells its id. There may be others of that label: rotation makes one more. Blocks.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn generate_aes(&self, uri: &TokenUri, rng: &mut dyn Rng, ask: AskPin<'_>) -> Result<Vec<u8>, TokenError> {
        let label = uri.object.clone().ok_or(TokenError::NoLabel)?;
        if uri.id.is_some() {
            return Err(TokenError::IdOfNewKeys);
        }
        let id = draw::<AES_ID_BYTES>(rng).to_vec();
        let made = id.clone();
        self.token(uri, ask)?.call("make a key", move |_, connection| aes::generate(connection, &label, &id))?;
        Ok(made)
    }

    fn token(&self, uri: &TokenUri, ask: AskPin<'_>) -> Result<Arc<Token>, TokenError> {
        let (module, id) = Module::with_token(uri, self.limits.answer)?;
        let place = (module.path.clone(), id.clone());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (label, serial) = (id.label.clone(), id.serial.clone());
        if let Some(token) = open.get(&place) {
            return token.clone().ok_or(TokenError::NotTriedAgain { token: label });
        }
        let pin = || match &uri.pin_source {
            Some(path) => Ok(pin::read(path)?),
            None => Ok(ask((&label, &serial))?),
        };
        match Token::open(module, id, self.limits, self.cautious, &pin) {
            Ok(token) => {
                let token = Arc::new(token);
                open.insert(place, Some(token.clone()));
                Ok(token)
            }
            Err(error) => {
                if error.ends_all() {
                    open.insert(place, None);
                }
                Err(error)
            }
        }
    }
}

fn keys(token: &Token, uri: &TokenUri) -> Result<Keys, TokenError> {
    let uri = uri.clone();
    token.call("show its keys", move |session, connection| Keys::find(session, connection, &uri))
}

fn opener(token: &Arc<Token>, key: &Key) -> Result<Arc<dyn Decrypter>, TokenError> {
    let name = key.name.clone();
    let seed = token.call("give the seed", move |session, _| name.seed(session))?;
    token.call("say what it can do", |_, connection| TokenAgreement::demand(connection))?;
    opener_of(Holder::Token(token.clone()), key, seed.as_ref())
}

/// What opens by a key of a token that can agree, and by the seed beside it.
pub(crate) fn opener_of(
    holder: Holder,
    key: &Key,
    seed: Option<&Secret<[u8; ML_KEM_SEED_BYTES]>>,
) -> Result<Arc<dyn Decrypter>, TokenError> {
    let agreement = Arc::new(TokenAgreement::new(holder, key)?);
    let damaged = |_| TokenError::WrongAnswer { what: "the recipient" };
    let ml_kem = seed.map(MlKemKey::from_seed).transpose().map_err(|_| TokenError::Seed)?;
    Ok(Arc::new(TagKey::new(agreement, ml_kem).map_err(damaged)?))
}
