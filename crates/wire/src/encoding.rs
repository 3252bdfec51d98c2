//! Text encodings, one accepted spelling each.
//!
//! A second spelling of the same bytes is a second name for the same thing, and caches, logs and
//! signatures would disagree about it. So every decoder here refuses padding where none belongs,
//! non-zero trailing bits, upper case where lower is written, and white space.

use data_encoding::{BASE64, BASE64URL_NOPAD, Encoding, Specification};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::sync::LazyLock;

/// RFC 4648 §5 base64url without padding, as used in identifiers and headers.
pub fn base64url(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// Decodes [`base64url`]; `None` for any other spelling.
pub fn base64url_decode(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

/// RFC 4648 §4 base64 with padding, as DSSE and RFC 9421 write byte strings.
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Decodes [`base64`]; `None` for any other spelling.
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    // The library takes padded texts one behind the other, too.
    let ends = !text.trim_end_matches('=').contains('=');
    if ends { BASE64.decode(text.as_bytes()).ok() } else { None }
}

/// Bytes that stand in JSON as [`base64`]. They may be secret, so they do not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}
impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64(&self.0))
    }
}
impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        base64_decode(&text).map(Self).ok_or_else(|| de::Error::custom("expected padded base64"))
    }
}
impl JsonSchema for Base64 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Base64".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "contentEncoding": "base64"})
    }
}

#[expect(clippy::expect_used, reason = "a constant specification, exercised by every test of this module")]
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().expect("the alphabet is well formed")
});

/// RFC 4648 §6 base32 in lower case without padding: ids that people read aloud.
pub fn base32(bytes: &[u8]) -> String {
    BASE32.encode(bytes)
}

/// Decodes [`base32`]; `None` for any other spelling.
pub fn base32_decode(text: &str) -> Option<Vec<u8>> {
    BASE32.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_each() {
        assert_eq!(base64url_decode("_-8"), Some(vec![0xff, 0xef]));
        for other in ["_-8=", "/+8", "_-9", " _-8", "_-8\n"] {
            assert_eq!(base64url_decode(other), None, "{other:?}");
        }
        assert_eq!(base64_decode("/+8="), Some(vec![0xff, 0xef]));
        assert_eq!(base64_decode("/+8"), None);
        assert_eq!(base64_decode("/+9="), None);
        for other in ["/+8=/+8=", "AA==AAAA", "/+8====="] {
            assert_eq!(base64_decode(other), None, "{other:?}");
        }
        assert_eq!(base32(&[0; 16]).len(), 26);
        assert_eq!(base32_decode(&base32(&[7; 16])), Some(vec![7; 16]));
        for other in ["AA", "ab=", "a1"] {
            assert_eq!(base32_decode(other), None, "{other:?}");
        }
    }
}
