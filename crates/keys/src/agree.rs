//! Decrypting with a key on a token: it agrees on the shared point, and everything after it happens here.

use crate::error::{TokenError, tried};
use crate::object::{Key, KeyName, OCTET_STRING, P256_BYTES};
use crate::token::Connection;
use crate::worker::Holder;
use bulla_crypto::BoxFuture;
use bulla_crypto::digest::equal;
use bulla_crypto::envelope::OpenError;
use bulla_crypto::identity::P256Agreement;
use bulla_crypto::kem::P256Point;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use cryptoki::error::{Error as CryptokiError, RvError};
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};

/// The mechanism by which tokens agree on a point.
pub(crate) const AGREES: (MechanismType, &str) = (MechanismType::ECDH1_DERIVE, "CKM_ECDH1_DERIVE");
/// Length of the x coordinate.
const AGREED_BYTES: u64 = 32;

/// A P-256 key that stays on its token.
pub(crate) struct TokenAgreement {
    holder: Holder,
    name: KeyName,
    point: P256Point,
    /// The private key agreed as the holder of `point` must.
    proven: AtomicBool,
}

impl TokenAgreement {
    /// Refuses a token that cannot agree.
    pub fn demand(connection: &Connection) -> Result<(), TokenError> {
        connection.demand(AGREES, "decrypt")
    }

    /// On a token that can agree.
    pub fn new(holder: Holder, key: &Key) -> Result<Self, TokenError> {
        let point = key.public.ec_point().and_then(|point| P256Point::from_uncompressed(point).ok());
        let point = point.ok_or(TokenError::WrongAnswer { what: "the point" })?;
        Ok(Self { holder, name: key.name.clone(), point, proven: AtomicBool::new(false) })
    }

    /// What is agreed on with `peer`, by the private key of the point and no other.
    async fn agreed(&self, peer: &P256Point) -> Result<SecretKey, TokenError> {
        // Whoever writes public objects could put another's point beside the key. What was encrypted to that would not open,
        // and would look like somebody else's.
        if !self.proven.load(Ordering::Relaxed) {
            let wrong = || TokenError::WrongAnswer { what: "the agreed key" };
            let (share, expected) = self.point.ephemeral().map_err(|_| wrong())?;
            let agreed = self.times(&share).await?;
            if !equal(agreed.expose(), expected.expose()) {
                return Err(wrong());
            }
            self.proven.store(true, Ordering::Relaxed);
        }
        self.times(peer).await
    }

    /// The x coordinate of private key times `peer`.
    async fn times(&self, peer: &P256Point) -> Result<SecretKey, TokenError> {
        // Every token must take the plain point (PKCS#11 3.0 §6.3.14); some take only the one in DER.
        let plain = peer.uncompressed().to_vec();
        match self.derive(plain.clone()).await {
            Err(TokenError::Refused {
                cause: CryptokiError::Pkcs11(RvError::MechanismParamInvalid | RvError::ArgumentsBad, _),
                ..
            }) => {
                let length = u8::try_from(P256_BYTES).unwrap_or(u8::MAX);
                self.derive([vec![OCTET_STRING, length], plain].concat()).await
            }
            done => done,
        }
    }

    async fn derive(&self, peer: Vec<u8>) -> Result<SecretKey, TokenError> {
        let name = self.name.clone();
        self.holder.run("agree on a key", move |session, _| derive(session, name.find(session)?, &peer)).await
    }
}

impl P256Agreement for TokenAgreement {
    fn public_key(&self) -> &P256Point {
        &self.point
    }

    fn agree<'a>(&'a self, peer: &'a P256Point) -> BoxFuture<'a, Result<SecretKey, OpenError>> {
        Box::pin(async move { self.agreed(peer).await.map_err(|error| OpenError::Key(told(&error))) })
    }
}

/// The x coordinate, read out of a session object that is destroyed at once.
fn derive(session: &Session, key: ObjectHandle, peer: &[u8]) -> Result<SecretKey, TokenError> {
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), peer));
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen(AGREED_BYTES.into()),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ];
    let derived = session.derive_key(&mechanism, key, &template).map_err(tried("agree on a key"))?;
    let read = session.get_attributes(derived, &[AttributeType::Value]);
    let destroyed = session.destroy_object(derived);
    let value = match read.map_err(tried("give out the agreed key"))?.pop() {
        Some(Attribute::Value(value)) => SecretBytes::new(value),
        _ => return Err(TokenError::WrongAnswer { what: "the agreed key" }),
    };
    destroyed.map_err(tried("destroy the agreed key"))?;
    SecretKey::from_slice(value.expose()).ok_or(TokenError::WrongAnswer { what: "the length of the agreed key" })
}

fn told(error: &TokenError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
