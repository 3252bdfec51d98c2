//! Making keys on a token, where they stay.

use crate::agree::AGREES;
use crate::error::{TokenError, tried};
use crate::object::{self, P256, SEED_APPLICATION};
use crate::token::Connection;
use bulla_crypto::kem::ML_KEM_SEED_BYTES;
use bulla_crypto::random::{Rng, draw};
use bulla_crypto::secret::Secret;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// A key that signs alone.
    Signing,
    /// A key that signs, and one that decrypts `p256tag`.
    Classical,
    /// A key that signs, one that decrypts, and an ML-KEM seed beside it, for `mlkem768p256tag`.
    Hybrid,
}

/// What is random about new keys. Ids only tie the halves of a pair together.
pub(crate) struct Drawn {
    signing: [u8; 8],
    agreeing: [u8; 8],
    seed: Secret<[u8; ML_KEM_SEED_BYTES]>,
}

impl Drawn {
    pub fn new(rng: &mut dyn Rng) -> Self {
        let (signing, agreeing) = (draw(rng), draw(rng));
        Self { signing, agreeing, seed: Secret::filled(|seed| rng.fill(seed)) }
    }
}

/// Makes the keys. What was made before a failure is destroyed again.
pub(crate) fn generate(connection: &Connection, label: &str, make: Make, drawn: &Drawn) -> Result<(), TokenError> {
    connection.demand((MechanismType::ECC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN"), "make P-256 keys")?;
    connection.demand((MechanismType::ECDSA, "CKM_ECDSA"), "sign with them")?;
    if make != Make::Signing {
        connection.demand(AGREES, "decrypt")?;
    }
    let session = connection.writing()?;
    object::demand_free(&session, connection.label(), label)?;
    let mut made = Vec::new();
    let done = all(&session, label, make, drawn, &mut made);
    if done.is_err() {
        for object in made {
            // The first failure is what has to be told.
            drop(session.destroy_object(object));
        }
    }
    done
}

fn all(
    session: &Session,
    label: &str,
    make: Make,
    drawn: &Drawn,
    made: &mut Vec<ObjectHandle>,
) -> Result<(), TokenError> {
    pair(session, label, &drawn.signing, true, made)?;
    if make != Make::Signing {
        pair(session, label, &drawn.agreeing, false, made)?;
    }
    if make == Make::Hybrid {
        let template = [
            Attribute::Class(ObjectClass::DATA),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Modifiable(false),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Application(SEED_APPLICATION.to_vec()),
            Attribute::Value(drawn.seed.expose().to_vec()),
        ];
        made.push(session.create_object(&template).map_err(tried("keep the seed"))?);
    }
    Ok(())
}

/// A P-256 pair that either signs or agrees, never both.
fn pair(
    session: &Session,
    label: &str,
    id: &[u8],
    signs: bool,
    made: &mut Vec<ObjectHandle>,
) -> Result<(), TokenError> {
    let common = || [Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(id.to_vec())];
    let public = [Attribute::Private(false), Attribute::EcParams(P256.to_vec()), Attribute::Verify(signs)];
    let private = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(signs),
        Attribute::Derive(!signs),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
    ];
    let public: Vec<_> = common().into_iter().chain(public).collect();
    let private: Vec<_> = common().into_iter().chain(private).collect();
    let pair = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).map_err(tried("make a key"))?;
    made.extend([pair.0, pair.1]);
    Ok(())
}
