//! RSA among the transit keys: an object of the library for each use.

use super::{TransitError, Use};
use crate::sign::{PublicKey, RsaMinimum};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair};

/// A key of RSA.
pub struct Rsa {
    /// The public half.
    pub public: PublicKey,
    /// Encrypts.
    pub encrypt: OaepPublicEncryptingKey,
    /// Signs, if it was taken for that.
    pub sign: Option<RsaKeyPair>,
    /// Decrypts, if it was taken for that.
    pub decrypt: Option<OaepPrivateDecryptingKey>,
}

impl Rsa {
    /// A private key in PKCS#8, whose modulus has so many bits.
    pub fn parse(taken_for: Use, bytes: &[u8], modulus_bits: usize) -> Result<Self, TransitError> {
        let no_key = |_| TransitError::NoKey;
        let sign = (taken_for != Use::Encrypt).then(|| RsaKeyPair::from_pkcs8(bytes)).transpose().map_err(no_key)?;
        let decrypt = (taken_for != Use::Sign).then(|| PrivateDecryptingKey::from_pkcs8(bytes)).transpose();
        let decrypt = decrypt.map_err(no_key)?;
        let spki = match (&sign, &decrypt) {
            (Some(pair), _) => pair.public_key().as_der(),
            (None, Some(private)) => private.public_key().as_der(),
            (None, None) => return Err(TransitError::NoKey),
        };
        let spki = spki.map_err(|_| TransitError::NoKey)?;
        let public = PublicKey::from_spki(spki.as_ref(), RsaMinimum::Bits2048).map_err(|_| TransitError::NoKey)?;
        let encrypt = PublicEncryptingKey::from_der(spki.as_ref()).map_err(no_key)?;
        let encrypt = OaepPublicEncryptingKey::new(encrypt).map_err(|_| TransitError::NoKey)?;
        if encrypt.key_size_bits() != modulus_bits {
            return Err(TransitError::NoKey);
        }
        let decrypt = decrypt.map(OaepPrivateDecryptingKey::new).transpose().map_err(|_| TransitError::NoKey)?;
        Ok(Self { public, encrypt, sign, decrypt })
    }
}
