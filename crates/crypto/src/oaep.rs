//! Encrypting a key to an RSA key by OAEP with SHA-256 and no label (RFC 8017 §7.1): what TPMs decrypt.

use crate::digest::sha256;
use crate::secret::SecretKey;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents};
use std::fmt;

/// The shortest key, since many TPMs have no longer one, and the longest.
const MIN_BYTES: usize = 2048 / 8;
const MAX_BYTES: usize = 8192 / 8;

/// An RSA public key that a 32-byte key is encrypted to.
pub struct OaepPublicKey {
    key: OaepPublicEncryptingKey,
    spki: Vec<u8>,
}

impl OaepPublicKey {
    /// From modulus and exponent, big endian.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Result<Self, &'static str> {
        let modulus =
            modulus.iter().position(|byte| *byte != 0).and_then(|start| modulus.get(start..)).unwrap_or_default();
        if !(MIN_BYTES..=MAX_BYTES).contains(&modulus.len()) {
            return Err("is an RSA key of less than 2,048 or more than 8,192 bits");
        }
        let key: Result<PublicEncryptingKey, _> = PublicKeyComponents { n: modulus, e: exponent }.try_into();
        let key = key.map_err(|_| "is no RSA key that can be used")?;
        let spki: PublicKeyX509Der<'_> = key.as_der().map_err(|_| "is no RSA key that can be written")?;
        let spki = spki.as_ref().to_vec();
        Ok(Self { key: OaepPublicEncryptingKey::new(key).map_err(|_| "is no RSA key that can be used")?, spki })
    }

    /// SHA-256 of its DER `SubjectPublicKeyInfo`.
    pub fn digest(&self) -> [u8; 32] {
        sha256(&[&self.spki])
    }

    /// Encrypts a key; `None` if the library fails.
    pub fn encrypt(&self, plain: &SecretKey) -> Option<Vec<u8>> {
        let mut sealed = vec![0; self.key.ciphertext_size()];
        let length = self.key.encrypt(&OAEP_SHA256_MGF1SHA256, plain.expose(), &mut sealed, None).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

impl fmt::Debug for OaepPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OaepPublicKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};

    /// Modulus and exponent of an SPKI (RFC 8017 §A.1.1).
    fn parts(spki: &[u8]) -> (&[u8], &[u8]) {
        // The modulus of 2,048 bits begins with a zero, and ends before the exponent 65537.
        let (rest, exponent) = spki.split_at(spki.len() - 3);
        let modulus = &rest[rest.len() - 2 - 256..rest.len() - 2];
        (modulus, exponent)
    }

    #[test]
    fn what_is_encrypted_the_private_key_decrypts() {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let spki = private.public_key().as_der().unwrap();
        let (modulus, exponent) = parts(spki.as_ref());
        assert_eq!(exponent, [1, 0, 1]);
        let key = OaepPublicKey::new(modulus, exponent).unwrap();
        assert_eq!(key.digest(), sha256(&[spki.as_ref()]));
        // However many zeros stand before it.
        let longer = OaepPublicKey::new(&[&[0, 0], modulus].concat(), exponent).unwrap();
        assert_eq!(longer.digest(), key.digest());
        let plain = SecretKey::filled(|bytes| bytes.fill(7));
        let sealed = key.encrypt(&plain).unwrap();
        assert_eq!(sealed.len(), 256);
        let private = OaepPrivateDecryptingKey::new(private).unwrap();
        let mut room = vec![0; private.min_output_size()];
        let opened = private.decrypt(&OAEP_SHA256_MGF1SHA256, &sealed, &mut room, None).unwrap();
        assert_eq!(opened, plain.expose());
    }

    #[test]
    fn a_key_is_neither_short_nor_long() {
        let refused = |bytes: usize| OaepPublicKey::new(&vec![0xff; bytes], &[1, 0, 1]).err();
        let limits = "is an RSA key of less than 2,048 or more than 8,192 bits";
        assert_eq!((refused(255), refused(1025)), (Some(limits), Some(limits)));
        assert_eq!((refused(256), refused(1024)), (None, None));
        assert_eq!(OaepPublicKey::new(&[0; 300], &[1, 0, 1]).err(), Some(limits));
    }
}
