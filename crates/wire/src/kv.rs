//! Stored secrets that the server cannot read: what their writer signs, and how they travel (`spec/kv.md`).

use crate::dsse::Envelope;
use crate::encoding::Base64;
use crate::id::{ClusterId, PrincipalId, WrapId};
use crate::json::{StrictMap, V1};
use crate::name::SecretPath;
use crate::wrap::{Addressee, Ciphertext, is_obeyed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `payloadType` of [`SealedStatement`].
pub const SEALED_TYPE: &str = "application/vnd.bulla.kv.v1+json";

/// Longest name of a field in bytes: as long as any other name.
pub const MAX_FIELD_NAME_BYTES: usize = 128;

/// The name of a field, as it is written: 1 to 128 bytes without `=`, which ends it on a command line, and without characters
/// that a screen obeys. What was stored before under another name is read and removed under that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldName(Box<str>);

impl FieldName {
    /// Whether a field may be written under this name.
    ///
    /// # Errors
    /// [`ParseFieldError`].
    pub fn check(name: &str) -> Result<(), ParseFieldError> {
        let fits = !name.is_empty() && name.len() <= MAX_FIELD_NAME_BYTES;
        if fits && !name.chars().any(|c| c == '=' || is_obeyed(c)) { Ok(()) } else { Err(ParseFieldError) }
    }
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for FieldName {
    type Err = ParseFieldError;
    fn from_str(text: &str) -> Result<Self, ParseFieldError> {
        Self::check(text).map(|()| Self(text.into()))
    }
}

/// Why a text is no name of a field. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseFieldError;

impl fmt::Display for ParseFieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field has 1 to 128 bytes of any characters but = and control characters")
    }
}
impl std::error::Error for ParseFieldError {}

/// What a writer signs over a version that is encrypted to its readers. It names its place, so a server cannot show it in
/// another, nor as a version that it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedStatement {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// Where it lies.
    pub path: SecretPath,
    /// The version that it is: the next one when it was written.
    pub version: u64,
    /// Random. The age file's binding names it in place of a wrap.
    pub id: WrapId,
    /// The writer.
    pub from: PrincipalId,
    /// The readers, at least one, no principal twice.
    pub to: Vec<Addressee>,
    /// The age file.
    pub ct: Ciphertext,
}

/// A version that its readers alone can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedKv {
    /// The writer's [`SealedStatement`].
    pub statement: Envelope,
    /// The age file, which holds a [`KvContent`].
    pub file: Base64,
}

/// The content of a version: fields or bytes, one of the two.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvContent {
    /// The fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<StrictMap<String>>,
    /// The bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Base64>,
}

impl fmt::Debug for KvContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KvContent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields() {
        for good in ["a", " ", "a b", "tls/crt", "-a", "größe", "a#b", &"x".repeat(128)] {
            assert_eq!(good.parse::<FieldName>().map(|name| name.as_str().to_owned()), Ok(good.to_owned()));
        }
        for bad in ["", "a=b", "a\nb", "\0", "a\u{202e}b", &"x".repeat(129)] {
            assert!(bad.parse::<FieldName>().is_err(), "{bad:?}");
        }
    }
}
