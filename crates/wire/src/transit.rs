//! What transit keys are, and what they make (`spec/transit.md`).

use crate::encoding::{base64url, base64url_decode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "bulla:v";

macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $line:literal])* $variant:ident = $text:literal,)* } $unknown:literal) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            $($(#[doc = $line])* #[serde(rename = $text)] $variant,)*
        }
        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// Its one spelling.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl FromStr for $name {
            type Err = &'static str;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().find(|one| one.as_str() == text).copied().ok_or($unknown)
            }
        }
    };
}

words! {
    /// What a transit key is, and so what it can do.
    KeyKind {
        /// Encrypts with AES-256-GCM.
        Aes256Gcm = "aes256-gcm",
        /// Encrypts with ChaCha20-Poly1305.
        ChaCha20Poly1305 = "chacha20-poly1305",
        /// Signs with Ed25519.
        Ed25519 = "ed25519",
        /// Signs with ECDSA on P-256 and SHA-256.
        EcdsaP256 = "ecdsa-p256",
        /// Signs with ECDSA on P-384 and SHA-384.
        EcdsaP384 = "ecdsa-p384",
        /// RSA of 2048 bits: encrypts with OAEP and SHA-256, signs with PSS.
        Rsa2048 = "rsa-2048",
        /// The same with 3072 bits.
        Rsa3072 = "rsa-3072",
        /// The same with 4096 bits.
        Rsa4096 = "rsa-4096",
        /// Authenticates with HMAC-SHA-256.
        HmacSha256 = "hmac-sha256",
    }
    "expected aes256-gcm, chacha20-poly1305, ed25519, ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096 or hmac-sha256"
}

impl KeyKind {
    /// Whether it is RSA, whose private operations take milliseconds.
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }
    /// Whether it encrypts under a key that nobody but the cluster has.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Aes256Gcm | Self::ChaCha20Poly1305)
    }
    /// Whether it encrypts.
    pub const fn encrypts(self) -> bool {
        self.is_symmetric() || self.is_rsa()
    }
    /// Whether it signs, and has a public key.
    pub const fn signs(self) -> bool {
        self.is_rsa() || matches!(self, Self::Ed25519 | Self::EcdsaP256 | Self::EcdsaP384)
    }
}

words! {
    /// The digest of a message that is signed.
    DigestAlgorithm {
        /// SHA-256.
        Sha256 = "sha-256",
        /// SHA-384.
        Sha384 = "sha-384",
        /// SHA-512.
        Sha512 = "sha-512",
    }
    "expected sha-256, sha-384 or sha-512"
}

/// What a key made, with the version that made it: `bulla:v<version>:<base64url>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The version of the key, from 1.
    pub version: u32,
    /// Ciphertext, signature or MAC.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Versioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}", self.version, base64url(&self.bytes))
    }
}

impl FromStr for Versioned {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected bulla:v<version>:<base64url>";
        let (number, bytes) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':')).ok_or(EXPECTED)?;
        // One spelling: no sign, no leading zero.
        let version: u32 = number.parse().map_err(|_| EXPECTED)?;
        if version == 0 || version.to_string() != number {
            return Err(EXPECTED);
        }
        Ok(Self { version, bytes: base64url_decode(bytes).ok_or(EXPECTED)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_made_has_one_spelling() {
        let made = Versioned { version: 12, bytes: b"\xff\xef".to_vec() };
        assert_eq!(made.to_string(), "bulla:v12:_-8");
        assert_eq!("bulla:v12:_-8".parse(), Ok(made));
        for bad in [
            "",
            "bulla:v12",
            "bulla:12:_-8",
            "bulla:v0:_-8",
            "bulla:v012:_-8",
            "bulla:v+1:_-8",
            "bulla:v1:_-8=",
            "bulla:v1:/+8",
            "Bulla:v1:_-8",
            "bulla:v1:_-8 ",
            "bulla:v4294967296:_-8",
            "vault:v1:_-8",
            "bulla:v1:_-9",
        ] {
            assert!(bad.parse::<Versioned>().is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_have_one_spelling_and_a_use() {
        for kind in KeyKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
            assert_eq!(crate::json::to_vec(kind), format!("\"{kind}\"").into_bytes());
        }
        let of = |is: fn(KeyKind) -> bool| {
            KeyKind::ALL.iter().filter(|kind| is(**kind)).map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(KeyKind::is_rsa), "rsa-2048 rsa-3072 rsa-4096");
        assert_eq!(of(KeyKind::is_symmetric), "aes256-gcm chacha20-poly1305");
        assert_eq!(of(KeyKind::encrypts), "aes256-gcm chacha20-poly1305 rsa-2048 rsa-3072 rsa-4096");
        assert_eq!(of(KeyKind::signs), "ed25519 ecdsa-p256 ecdsa-p384 rsa-2048 rsa-3072 rsa-4096");
        assert!("AES256-GCM".parse::<KeyKind>().is_err() && "sha256".parse::<DigestAlgorithm>().is_err());
    }
}
