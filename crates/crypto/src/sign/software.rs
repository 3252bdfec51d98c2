//! Signing keys held in memory.
//!
//! aws-lc wipes its own memory when it frees it, so a key is gone when its `SigningKey` is dropped. The bytes
//! it was made from are the caller's to wipe.

use super::{PublicKey, PublicKeyError, RsaMinimum, SignError};
use crate::random::{Rng, secret_key};
use crate::secret::{SecretBytes, SecretKey};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PSS_SHA512, RsaKeyPair,
};
use std::fmt;

/// Why bytes are no private key that may be used. Never says anything about the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKeyError {
    /// Not a PKCS#8 private key of one of the four algorithms, or its parts do not belong together.
    Malformed,
    /// The public half may not be used.
    Public(PublicKeyError),
}

impl fmt::Display for SigningKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a private key of a kind in use (Ed25519, P-256, P-384, RSA)"),
            Self::Public(_) => f.write_str("the private key's public half may not be used"),
        }
    }
}

impl std::error::Error for SigningKeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed => None,
            Self::Public(cause) => Some(cause),
        }
    }
}

/// A signing key in memory.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl SigningKey {
    /// An Ed25519 key from its 32-byte seed (RFC 8032 §5.1.5). Every seed is a key.
    ///
    /// # Errors
    /// [`SigningKeyError::Malformed`] if the library cannot take it, which means that memory is exhausted.
    pub fn from_seed(seed: &SecretKey) -> Result<Self, SigningKeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| SigningKeyError::Malformed)?;
        Self::ed25519(pair)
    }

    /// A new Ed25519 key. Who must store it draws a seed with [`secret_key`] and keeps that.
    ///
    /// # Errors
    /// As [`SigningKey::from_seed`].
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, SigningKeyError> {
        Self::from_seed(&secret_key(rng))
    }

    /// An Ed25519, P-256, P-384 or RSA key from DER PKCS#8 (RFC 5958). The library checks that the parts
    /// belong together.
    ///
    /// # Errors
    /// See [`SigningKeyError`].
    pub fn from_pkcs8(pkcs8: &[u8], rsa_minimum: RsaMinimum) -> Result<Self, SigningKeyError> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(pkcs8) {
            return Self::ed25519(pair);
        }
        for algorithm in [&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING] {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8) {
                return Self::ecdsa(pair);
            }
        }
        let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| SigningKeyError::Malformed)?;
        let spki = pair.public_key().as_der().map_err(|_| SigningKeyError::Malformed)?;
        let public = PublicKey::from_spki(spki.as_ref(), rsa_minimum).map_err(SigningKeyError::Public)?;
        Ok(Self { pair: Pair::Rsa(pair), public })
    }

    fn ed25519(pair: Ed25519KeyPair) -> Result<Self, SigningKeyError> {
        let spki = pair.public_key().as_der().map_err(|_| SigningKeyError::Malformed)?;
        let public = PublicKey::from_spki(spki.as_ref(), RsaMinimum::Bits3072).map_err(SigningKeyError::Public)?;
        Ok(Self { pair: Pair::Ed25519(pair), public })
    }

    fn ecdsa(pair: EcdsaKeyPair) -> Result<Self, SigningKeyError> {
        let spki = pair.public_key().as_der().map_err(|_| SigningKeyError::Malformed)?;
        let public = PublicKey::from_spki(spki.as_ref(), RsaMinimum::Bits3072).map_err(SigningKeyError::Public)?;
        Ok(Self { pair: Pair::Ecdsa(pair), public })
    }

    /// The key that verifies what this signs.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// DER PKCS#8 (RFC 5958, version 1), as [`SigningKey::from_pkcs8`] and OpenSSL read it.
    ///
    /// # Errors
    /// [`SignError::Library`] only.
    pub fn to_pkcs8(&self) -> Result<SecretBytes, SignError> {
        let failed = |_| SignError::Library;
        let bytes = match &self.pair {
            Pair::Ed25519(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                der.as_ref().to_vec()
            }
        };
        Ok(SecretBytes::new(bytes))
    }

    /// Signs `message`. Ed25519 is deterministic; the others draw from the library's own generator.
    ///
    /// # Errors
    /// [`SignError::Library`] only.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ed25519(pair) => {
                pair.try_sign(message).map(|signature| signature.as_ref().to_vec()).map_err(|_| SignError::Library)
            }
            Pair::Ecdsa(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError::Library),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PSS_SHA512, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| SignError::Library)?;
                Ok(signature)
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.public.algorithm(), self.public.key_id())
    }
}
