//! JSON Web Tokens (RFC 7519) that this program signs to say who it is, as clouds want them: by RSA, which they know.
//!
//! Not for anything of Bulla's own: what is signed here is read by others. Nothing here verifies.

use crate::pem;
use crate::pkcs8;
use crate::secret::SecretBytes;
use crate::sign::{PublicKey, PublicKeyError, RsaMinimum, SignError, SigningKeyError};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};
use bulla_wire::encoding::base64url;
use std::fmt;

/// How a token is signed (RFC 7518 §3.3, §3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256 and a salt of 32 bytes.
    Ps256,
}

impl Algorithm {
    /// Its name in a token's header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }
}

/// An RSA key of 2048 bits or more that signs tokens.
pub struct JwtKey {
    pair: RsaKeyPair,
    public: PublicKey,
}

impl JwtKey {
    /// From the one block of a PEM file: `PRIVATE KEY` or `RSA PRIVATE KEY`.
    ///
    /// # Errors
    /// [`SigningKeyError`], which says nothing of the bytes.
    pub fn from_pem(text: &str) -> Result<Self, SigningKeyError> {
        let pkcs8 = pem::read("PRIVATE KEY", text)
            .or_else(|| pem::read("RSA PRIVATE KEY", text).map(|der| pkcs8::of_rsa(der.expose())))
            .ok_or(SigningKeyError::Malformed)?;
        let pair = RsaKeyPair::from_pkcs8(pkcs8.expose()).map_err(|_| SigningKeyError::Malformed)?;
        let spki = pair.public_key().as_der().map_err(|_| SigningKeyError::Malformed)?;
        let public = PublicKey::from_spki(spki.as_ref(), RsaMinimum::Bits2048);
        Ok(Self { pair, public: public.map_err(|error: PublicKeyError| SigningKeyError::Public(error))? })
    }

    /// The key that verifies what this signs.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// A signed token. `header` is one more field of the header with its value, such as `kid`, which has no character
    /// that JSON escapes; `claims` is a JSON object.
    ///
    /// # Errors
    /// [`SignError::Library`] only.
    pub fn token(&self, algorithm: Algorithm, header: (&str, &str), claims: &[u8]) -> Result<SecretBytes, SignError> {
        let (name, value) = header;
        let head = format!(r#"{{"alg":"{}","typ":"JWT","{name}":"{value}"}}"#, algorithm.as_str());
        let signed = format!("{}.{}", base64url(head.as_bytes()), base64url(claims));
        let padding = match algorithm {
            Algorithm::Rs256 => &RSA_PKCS1_SHA256,
            Algorithm::Ps256 => &RSA_PSS_SHA256,
        };
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| SignError::Library)?;
        Ok(SecretBytes::new(format!("{signed}.{}", base64url(&signature)).into_bytes()))
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtKey({})", self.public.key_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SystemRng;
    use crate::transit;
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
    use bulla_wire::api::KeyKind;
    use bulla_wire::encoding::base64url_decode;

    fn pem_of(kind: KeyKind) -> String {
        let der = transit::generate(kind, &mut SystemRng).unwrap();
        String::from_utf8(pem::write("PRIVATE KEY", der.expose()).expose().clone()).unwrap()
    }

    #[test]
    fn a_token_is_what_its_header_says() {
        let key = JwtKey::from_pem(&pem_of(KeyKind::Rsa2048)).unwrap();
        assert!(format!("{key:?}").starts_with("JwtKey("));
        for (algorithm, verified) in
            [(Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256), (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256)]
        {
            let token = key.token(algorithm, ("kid", "one"), br#"{"iss":"a"}"#).unwrap();
            let token = std::str::from_utf8(token.expose()).unwrap();
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let public = UnparsedPublicKey::new(verified, key.public_key().spki());
            let signature = base64url_decode(signature).unwrap();
            public.verify(signed.as_bytes(), &signature).unwrap();
            assert!(public.verify(b"something else", &signature).is_err());
            let (head, claims) = signed.split_once('.').unwrap();
            let head = String::from_utf8(base64url_decode(head).unwrap()).unwrap();
            assert_eq!(head, format!(r#"{{"alg":"{}","typ":"JWT","kid":"one"}}"#, algorithm.as_str()));
            assert_eq!(base64url_decode(claims).unwrap(), br#"{"iss":"a"}"#);
        }
    }

    #[test]
    fn what_is_no_rsa_key_signs_nothing() {
        for text in ["", "PRIVATE KEY", &pem_of(KeyKind::Ed25519), &pem_of(KeyKind::EcdsaP256)] {
            assert_eq!(JwtKey::from_pem(text).map(|_| ()), Err(SigningKeyError::Malformed));
        }
    }

    /// RFC 7518 §3.1: whoever verifies chooses how by these names.
    #[test]
    fn algorithms_have_the_names_of_the_registry() {
        assert_eq!([Algorithm::Rs256, Algorithm::Ps256].map(Algorithm::as_str), ["RS256", "PS256"]);
    }

    /// Clouds hand keys out in both forms.
    #[test]
    fn the_older_form_of_a_key_is_the_same_key() {
        let der = transit::generate(KeyKind::Rsa2048, &mut SystemRng).unwrap();
        // Before the octets of the key: two heads of four bytes, version and algorithm (RFC 5958 §2).
        let older = &der.expose()[4 + 3 + 15 + 4..];
        let [new, old] = [("PRIVATE KEY", der.expose().as_slice()), ("RSA PRIVATE KEY", older)].map(|(label, der)| {
            let text = String::from_utf8(pem::write(label, der).expose().clone()).unwrap();
            JwtKey::from_pem(&text).unwrap()
        });
        assert_eq!(new.public_key(), old.public_key());
    }
}
