//! RSA keys of a token that decrypt by OAEP: what a TPM can do whose module agrees on no key (`docs/decisions/tpm.md`).
//!
//! Held: the padding is checked by the token, never here, where its timing would tell; the public half is that of the
//! private key object, and whoever encrypts to it lets the private key prove it first.

use crate::error::{TokenError, tried};
use crate::token::Connection;
use crate::uri::TokenUri;
use crate::worker::TokenWorker;
use bulla_crypto::oaep::OaepPublicKey;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use std::sync::Arc;

const OAEP: (MechanismType, &str) = (MechanismType::RSA_PKCS_OAEP, "CKM_RSA_PKCS_OAEP");

/// An RSA key on a token, for decryption of what was encrypted by OAEP with SHA-256 and no label.
pub struct OaepKey {
    worker: Arc<TokenWorker>,
    uri: TokenUri,
    public: OaepPublicKey,
}

impl OaepKey {
    /// The key that `uri` names on the token of `worker`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn find(worker: Arc<TokenWorker>, uri: &TokenUri) -> Result<Self, TokenError> {
        let wanted = uri.clone();
        let found = worker.run("show its keys", move |session, connection| {
            connection.demand(OAEP, "decrypt")?;
            public(session, find(session, connection, &wanted)?)
        });
        let public = found.await?;
        Ok(Self { worker, uri: uri.clone(), public })
    }

    /// The public half, as the token tells it.
    pub fn public(&self) -> &OaepPublicKey {
        &self.public
    }

    /// Decrypts a 32-byte key.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn decrypt(&self, sealed: &[u8]) -> Result<SecretKey, TokenError> {
        let (uri, sealed) = (self.uri.clone(), sealed.to_vec());
        let done = self.worker.run("decrypt", move |session, connection| {
            let key = find(session, connection, &uri)?;
            let params = PkcsOaepParams::new(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, PkcsOaepSource::empty());
            let plain = session.decrypt(&Mechanism::RsaPkcsOaep(params), key, &sealed).map(SecretBytes::new);
            SecretKey::from_slice(plain.map_err(tried("decrypt"))?.expose())
                .ok_or(TokenError::WrongAnswer { what: "the length of a key" })
        });
        done.await
    }
}

/// The one private key that fits and decrypts.
fn find(session: &Session, connection: &Connection, uri: &TokenUri) -> Result<ObjectHandle, TokenError> {
    let mut template = vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(true),
        Attribute::Decrypt(true),
    ];
    // Where there is a PIN, a key that could be written without it may be anybody's.
    template.extend(connection.has_pin().then_some(Attribute::Private(true)));
    template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template.extend(uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
    let token = || connection.label().to_owned();
    match session.find_objects(&template).map_err(tried("find its key"))?.as_slice() {
        [] => Err(TokenError::NoKey { token: token(), purpose: "decrypts by RSA-OAEP", there: Vec::new() }),
        [key] => Ok(*key),
        several => {
            let there = vec![format!("{} keys", several.len())];
            Err(TokenError::SeveralKeys { token: token(), purpose: "decrypt by RSA-OAEP", there })
        }
    }
}

fn public(session: &Session, key: ObjectHandle) -> Result<OaepPublicKey, TokenError> {
    let (mut modulus, mut exponent) = (Vec::new(), Vec::new());
    let asked = [AttributeType::Modulus, AttributeType::PublicExponent];
    for attribute in session.get_attributes(key, &asked).map_err(tried("describe its key"))? {
        match attribute {
            Attribute::Modulus(bytes) => modulus = bytes,
            Attribute::PublicExponent(bytes) => exponent = bytes,
            _ => {}
        }
    }
    OaepPublicKey::new(&modulus, &exponent).map_err(|why| TokenError::Unfit { key: "for RSA-OAEP".to_owned(), why })
}
