//! Identifiers: fixed-size, one spelling each, different types for different things.

use crate::encoding::{base32, base32_decode, base64url, base64url_decode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// Why a text is no identifier. The message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseIdError {
    expected: &'static str,
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.expected)
    }
}

impl std::error::Error for ParseIdError {}

/// Serialises by `Display` and parses by `FromStr`, so JSON, headers and the terminal share one spelling.
macro_rules! text_serde {
    ($type:ty, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    };
}
pub(crate) use text_serde;

macro_rules! digest_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type([u8; 32]);

        impl $type {
            /// Takes the 32 bytes of a SHA-256 digest.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
            /// The 32 bytes of the digest.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
            /// The 43 characters after `sha256:`.
            pub fn base64url(&self) -> String {
                base64url(&self.0)
            }
            /// Parses the 43 characters without the `sha256:` in front.
            pub fn from_base64url(text: &str) -> Option<Self> {
                base64url_decode(text)?.try_into().ok().map(Self)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", base64url(&self.0))
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }
        impl FromStr for $type {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix("sha256:").and_then(Self::from_base64url).ok_or(ParseIdError {
                    expected: "\"sha256:\" and 43 characters of unpadded base64url",
                })
            }
        }
        text_serde!($type, "^sha256:[A-Za-z0-9_-]{43}$");
    };
}

digest_id!(
    /// SHA-256 of some bytes that the field's name tells.
    Digest
);
digest_id!(
    /// SHA-256 over the DER `SubjectPublicKeyInfo` of a signing key (RFC 5280 §4.1.2.7).
    KeyId
);
digest_id!(
    /// SHA-256 of the payload bytes of a principal's version-1 record. Stable over key rotation.
    PrincipalId
);
digest_id!(
    /// SHA-256 of the bytes of the genesis document. What clients pin.
    ClusterId
);

macro_rules! sixteen_bytes {
    ($(#[$doc:meta])* $type:ident, $encode:ident, $decode:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type([u8; 16]);

        impl $type {
            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&$encode(&self.0))
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }
        impl FromStr for $type {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                $decode(text)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or(ParseIdError { expected: $expected })
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $type:ident, $encode:ident, $decode:ident, $expected:literal, $pattern:literal) => {
        sixteen_bytes!($(#[$doc])* $type, $encode, $decode, $expected);
        impl $type {
            /// Takes 16 random bytes.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }
        text_serde!($type, $pattern);
    };
}

random_id!(
    /// A wrap's id: 128 random bits chosen by the writer, written as 26 characters of lower-case base32.
    WrapId, base32, base32_decode, "26 characters of lower-case base32", "^[a-z2-7]{26}$"
);
random_id!(
    /// A lease's id: 128 bits, which the server makes of the request's nonce, written as 26 characters of lower-case
    /// base32. It names the lease and gives no right to it.
    LeaseId, base32, base32_decode, "26 characters of lower-case base32", "^[a-z2-7]{26}$"
);
random_id!(
    /// A random id of one history of the store: every unseal begins a new one. 16 bytes, base64url.
    Lineage, base64url, base64url_decode, "22 characters of unpadded base64url", "^[A-Za-z0-9_-]{22}$"
);

sixteen_bytes!(
    /// The client's 16-byte request nonce: u32 big-endian minute of the first attempt's challenge, then
    /// 12 random bytes. It is also the idempotency key (`spec/request.md`).
    Nonce, base64url, base64url_decode, "22 characters of unpadded base64url"
);

impl Nonce {
    /// Puts `minute` (Unix minutes) in front of 12 random bytes.
    pub fn new(minute: u32, random: [u8; 12]) -> Self {
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(4);
        head.copy_from_slice(&minute.to_be_bytes());
        tail.copy_from_slice(&random);
        Self(bytes)
    }
    /// The Unix minute in which the first attempt's challenge was issued.
    pub fn minute(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let id = KeyId::new([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        let text = id.to_string();
        for bad in [text.replace("sha256:", ""), text.replace("sha256:", "SHA256:"), format!("{text}="), String::new()]
        {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
        let wrap = WrapId::new([9; 16]);
        assert_eq!(wrap.to_string().parse(), Ok(wrap));
        assert!(wrap.to_string().to_uppercase().parse::<WrapId>().is_err());
    }

    #[test]
    fn a_nonce_carries_its_minute() {
        let nonce = Nonce::new(29_000_000, [1; 12]);
        assert_eq!(nonce.minute(), 29_000_000);
        assert_eq!(nonce.to_string().parse(), Ok(nonce));
    }
}
