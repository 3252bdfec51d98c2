//! Signing with a key on a token.

use crate::error::{TokenError, tried};
use crate::object::Key;
use crate::token::Token;
use bulla_crypto::BoxFuture;
use bulla_crypto::sign::{Algorithm, PublicKey, SignError, Signer};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use std::sync::Arc;

/// The salt of RSA-PSS, as long as its hash (RFC 9421 §3.3.1).
const PSS_SALT_BYTES: u64 = 64;

/// A signing key that stays on its token.
pub(crate) struct TokenSigner {
    token: Arc<Token>,
    key: Key,
}

impl TokenSigner {
    /// Refuses a token that cannot sign with this key.
    pub fn new(token: Arc<Token>, key: Key) -> Result<Self, TokenError> {
        let needed = match key.public.algorithm() {
            Algorithm::Ed25519 => (MechanismType::EDDSA, "CKM_EDDSA"),
            Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => (MechanismType::ECDSA, "CKM_ECDSA"),
            Algorithm::RsaPssSha512 => (MechanismType::RSA_PKCS_PSS, "CKM_RSA_PKCS_PSS"),
        };
        token.call("say what it can do", move |_, connection| connection.demand(needed, "sign with this key"))?;
        Ok(Self { token, key })
    }

    async fn signature(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        // Few tokens hash with all that is needed, so what they sign is the digest; Ed25519 hashes by itself.
        let digest = self.key.public.algorithm().prehashed(message);
        let (name, algorithm) = (self.key.name.clone(), self.key.public.algorithm());
        let signature = self.token.run("sign", move |session, _| {
            let key = name.find(session)?;
            session.sign(&mechanism(algorithm), key, &digest).map_err(tried("sign"))
        });
        let signature = signature.await?;
        // Also the proof that the public key beside the private one is its own.
        let held = self.key.public.verify(message, &signature);
        held.map_err(|_| TokenError::WrongAnswer { what: "the signature" })?;
        Ok(signature)
    }
}

impl Signer for TokenSigner {
    fn public_key(&self) -> &PublicKey {
        &self.key.public
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        Box::pin(async move { self.signature(message).await.map_err(|error| SignError::Holder(Box::new(error))) })
    }
}

fn mechanism(algorithm: Algorithm) -> Mechanism<'static> {
    match algorithm {
        Algorithm::Ed25519 => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
        Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => Mechanism::Ecdsa,
        Algorithm::RsaPssSha512 => Mechanism::RsaPkcsPss(PkcsPssParams {
            hash_alg: MechanismType::SHA512,
            mgf: PkcsMgfType::MGF1_SHA512,
            s_len: PSS_SALT_BYTES.into(),
        }),
    }
}
