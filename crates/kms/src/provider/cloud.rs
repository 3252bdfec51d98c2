//! What the providers of the clouds have in common: JSON both ways in memory that is wiped, files of others, and
//! credentials that are kept ([`credentials`]) or obtained by OAuth ([`oauth`]).
//!
//! Threat: answers may be those of anybody who holds the endpoint, so every one is parsed strictly where it decides and
//! nothing of it is repeated in an error but a word of letters. Not held: what `serde_json` and `hyper` copy while they
//! work is not wiped, and a token stands in a header in memory that is not.

pub mod credentials;
pub mod oauth;

use super::http::{Origin, Reply};
use super::{Class, ProviderError};
use crate::key::KeyRef;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_wire::encoding::{base64, base64_decode};
use bulla_wire::json;
use http::HeaderValue;
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::path::Path;
use tokio::io::AsyncReadExt as _;

/// Largest file that is read: a credential, which has a few kilobytes at most.
const MAX_FILE_BYTES: usize = 64 * 1024;
/// Longest text that is taken for a token or a secret.
const MAX_TEXT_BYTES: usize = 32 * 1024;
/// Room for a request's body, so that it does not grow and leave copies behind.
const BODY_BYTES: usize = 8 * 1024;

/// A text that is secret, as it stands in JSON or in a file: printable ASCII, without white space.
pub struct Text(SecretBytes);

impl Text {
    /// Takes it from bytes; white space around it, such as the end of a line, is passed over.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.trim_ascii();
        let fits = (1..=MAX_TEXT_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
        fits.then(|| Self(SecretBytes::new(bytes.to_vec())))
    }

    /// Lends it.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(self.0.expose()).unwrap_or_default()
    }

    /// As a header's value, behind `before`.
    pub fn header(&self, before: &str) -> HeaderValue {
        let text = SecretBytes::new([before.as_bytes(), self.0.expose()].concat());
        // Every printable character may stand in a header.
        let mut value = HeaderValue::from_bytes(text.expose()).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text(..)")
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a printable text")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Text::new(text.as_bytes()).ok_or_else(|| E::custom("expected a printable text"))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

/// An [`Origin`] in configuration.
pub fn origin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Origin>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

/// A metadata service's [`Origin`] in configuration.
pub fn link_local<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Origin>, D::Error> {
    Origin::link_local(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// Where something is: an origin and a path, without a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its origin.
    pub origin: Origin,
    /// Its path, with a slash at its beginning.
    pub path: String,
}

impl Place {
    /// Parses a URL, whose origin is read by `origin`.
    pub fn parse(text: &str, origin: fn(&str) -> Result<Origin, &'static str>) -> Result<Self, &'static str> {
        const FORM: &str = "expected a URL with a path, without a query";
        let authority = text.split_once("://").ok_or(FORM)?.1;
        let at = text.len().saturating_sub(authority.find('/').map_or(0, |at| authority.len().saturating_sub(at)));
        let (before, path) = text.split_at_checked(at).ok_or(FORM)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~:@".contains(&byte);
        if path.is_empty() || !path.bytes().all(plain) {
            return Err(FORM);
        }
        Ok(Self { origin: origin(before)?, path: path.to_owned() })
    }
}

/// A body of JSON.
pub fn json(value: &impl Serialize) -> SecretBytes {
    let mut body = SecretBytes::new(Vec::with_capacity(BODY_BYTES));
    // Writing texts and numbers to memory does not fail.
    let _ = serde_json::to_writer(body.expose_mut(), value);
    body
}

/// A body as a form sends it (`application/x-www-form-urlencoded`).
pub fn form(fields: &[(&str, &str)]) -> SecretBytes {
    let length: usize = fields.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
    let mut body = SecretBytes::new(Vec::with_capacity(length.saturating_mul(3).saturating_add(BODY_BYTES)));
    for (name, value) in fields {
        let out = body.expose_mut();
        if !out.is_empty() {
            out.push(b'&');
        }
        encode(out, name);
        out.push(b'=');
        encode(out, value);
    }
    body
}

/// Percent-encodes everything that RFC 3986 §2.3 does not leave as it is.
fn encode(out: &mut Vec<u8>, text: &str) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |value: u8| DIGITS.get(usize::from(value)).map_or(b'0', |digit| *digit as u8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Parses a successful answer. `fields` are the names at its top, which an error may repeat.
///
/// # Errors
/// [`Class::Protocol`], with the field.
pub fn answer<T: DeserializeOwned>(
    from: &Origin,
    reply: &Reply,
    fields: &'static [&'static str],
) -> Result<T, ProviderError> {
    json::parse_secret(reply.body.expose(), super::http::MAX_ANSWER_BYTES, fields)
        .map_err(|error| ProviderError::new(Class::Protocol, format!("{from} answers what is not expected: {error}")))
}

/// What an answer's field holds in base64.
///
/// # Errors
/// [`Class::Protocol`] if it is none, empty, or has more than `max` bytes.
pub fn decoded(from: &Origin, field: &str, text: &Text, max: usize) -> Result<SecretBytes, ProviderError> {
    let bytes = base64_decode(text.expose()).map(SecretBytes::new);
    bytes.filter(|bytes| (1..=max).contains(&bytes.expose().len())).ok_or_else(|| {
        let text = format!("{from} answers with a {field} that is not base64 of 1 to {max} bytes");
        ProviderError::new(Class::Protocol, text)
    })
}

/// The 32-byte key that was unwrapped.
///
/// # Errors
/// [`Class::Protocol`] for another size.
pub fn key(from: &Origin, bytes: &SecretBytes) -> Result<SecretKey, ProviderError> {
    SecretKey::from_slice(bytes.expose()).ok_or_else(|| {
        let text = format!("{from} unwraps {} bytes, where a key of 32 was wrapped", bytes.expose().len());
        ProviderError::new(Class::Protocol, text)
    })
}

/// In base64, in memory that is wiped.
pub fn encoded(bytes: &[u8]) -> Text {
    Text(SecretBytes::new(base64(bytes).into_bytes()))
}

/// A word out of an answer, for an error: at most 64 letters, digits, `-`, `_` and `.`, so that nothing else of an answer
/// comes into a log.
pub fn word(text: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) { text } else { "an unknown code" }
}

/// Whether a key is one of this backend.
///
/// # Errors
/// [`Class::UnknownKey`].
pub fn is_of(key: &KeyRef, backend: &str) -> Result<(), ProviderError> {
    if key.backend == backend {
        return Ok(());
    }
    let text = format!("a key of {} is asked of {backend}", key.backend);
    Err(ProviderError::new(Class::UnknownKey, text))
}

/// Reads a file that holds a credential, which another program may replace at any time.
///
/// # Errors
/// [`Class::Config`], with the file.
pub async fn file(path: &Path) -> Result<SecretBytes, ProviderError> {
    let failed = |error: &dyn fmt::Display| {
        ProviderError::new(Class::Config, format!("cannot read {}: {error}", path.display()))
    };
    // To open a pipe waits for whoever writes into it, and takes a thread from everybody for as long.
    if !tokio::fs::metadata(path).await.map_err(|error| failed(&error))?.is_file() {
        return Err(failed(&"it is not a file"));
    }
    let opened = tokio::fs::File::open(path).await.map_err(|error| failed(&error))?;
    // Room for all of it from the start: a growing buffer would leave copies behind.
    let mut bytes = SecretBytes::new(Vec::with_capacity(2 * MAX_FILE_BYTES));
    let limit = MAX_FILE_BYTES as u64;
    opened.take(limit.saturating_add(1)).read_to_end(bytes.expose_mut()).await.map_err(|error| failed(&error))?;
    match bytes.expose().len() {
        0 => Err(failed(&"it is empty")),
        length if length > MAX_FILE_BYTES => Err(failed(&format!("it has more than {MAX_FILE_BYTES} bytes"))),
        _ => Ok(bytes),
    }
}

/// Reads a file that holds one token or secret.
///
/// # Errors
/// [`Class::Config`], with the file.
pub async fn text_file(path: &Path) -> Result<Text, ProviderError> {
    let bytes = file(path).await?;
    Text::new(bytes.expose()).ok_or_else(|| {
        let text = format!("{} does not hold one printable text alone", path.display());
        ProviderError::new(Class::Config, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr as _;

    #[test]
    fn a_form_is_encoded() {
        let body = form(&[("a", "b c"), ("https://x", "é+&=~")]);
        assert_eq!(body.expose(), b"a=b%20c&https%3A%2F%2Fx=%C3%A9%2B%26%3D~");
    }

    #[test]
    fn a_secret_text_is_printable_and_does_not_print() {
        let text = Text::new(b" s3cret/+=\n").unwrap();
        assert_eq!((text.expose(), format!("{text:?}").as_str()), ("s3cret/+=", "Text(..)"));
        assert_eq!(text.header("Bearer "), "Bearer s3cret/+=");
        assert!(text.header("").is_sensitive());
        for bad in [&b""[..], b" \n", b"a b", b"a\nb", b"\xc3\xa9", &[b'a'; MAX_TEXT_BYTES + 1]] {
            assert!(Text::new(bad).is_none());
        }
        assert!(serde_json::from_str::<Text>(r#""a\nb""#).is_err());
        assert_eq!(serde_json::from_str::<Text>(r#""a\u0062""#).unwrap().expose(), "ab");
    }

    #[test]
    fn a_place_is_an_origin_and_a_path() {
        let place = Place::parse("https://oauth2.example:444/token", Origin::from_str).unwrap();
        assert_eq!((place.origin.as_str(), place.path.as_str()), ("https://oauth2.example:444", "/token"));
        for bad in
            ["", "https://a", "a/b", "https://a/b?c", "https://a/b c", "https://a/b%20", "https://a/\r", "http://b/c"]
        {
            assert!(Place::parse(bad, Origin::from_str).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_word_is_repeated() {
        assert_eq!(word("AccessDeniedException"), "AccessDeniedException");
        for bad in ["", "a b", "a\nb", "<x>", &"a".repeat(65)] {
            assert_eq!(word(bad), "an unknown code");
        }
    }

    #[tokio::test]
    async fn a_file_has_a_limit_and_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let missing = file(&path).await.unwrap_err();
        assert!(missing.class == Class::Config && missing.text.contains(&path.display().to_string()), "{missing}");
        for (content, good) in
            [(vec![], false), (vec![b'a'; MAX_FILE_BYTES], true), (vec![b'a'; MAX_FILE_BYTES + 1], false)]
        {
            std::fs::write(&path, &content).unwrap();
            assert_eq!(file(&path).await.is_ok(), good, "{}", content.len());
        }
        std::fs::write(&path, "canary two").unwrap();
        assert!(!text_file(&path).await.unwrap_err().text.contains("canary"));
        // One that nobody writes into would be waited for.
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for other in [pipe.as_path(), folder.path()] {
            let error = file(other).await.unwrap_err();
            assert!(error.class == Class::Config && error.text.contains("not a file"), "{error}");
        }
    }
}
