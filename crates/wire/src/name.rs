//! Names and paths: one accepted spelling, so that router, policy, storage key and signature cannot
//! disagree about which thing is meant.

use crate::id::text_serde;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// Longest name or path segment in bytes. Room for an e-mail address or a Kubernetes name (63) with suffixes.
pub const MAX_NAME_BYTES: usize = 128;
/// Most segments in a path: deep enough for any directory scheme, shallow enough to check ancestors each time.
pub const MAX_PATH_SEGMENTS: usize = 16;
/// Longest path in bytes. Fits a storage key and a log line.
pub const MAX_PATH_BYTES: usize = 512;

/// Why a text is no name or path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseNameError(&'static str);

impl fmt::Display for ParseNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
impl std::error::Error for ParseNameError {}

/// For byte fields, which are spelled in unpadded base64url.
pub(crate) const NOT_BASE64URL: ParseNameError = ParseNameError("expected unpadded base64url");

fn check_segment(text: &str) -> Result<(), ParseNameError> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err(ParseNameError("a name has 1 to 128 bytes"));
    }
    if text == "." || text == ".." {
        return Err(ParseNameError("a name is not \".\" or \"..\""));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~@+=-".contains(&b)) {
        return Err(ParseNameError("a name holds only A-Z a-z 0-9 . _ ~ @ + = -"));
    }
    Ok(())
}

/// One path segment, or the name of a principal, group or policy: `[A-Za-z0-9._~@+=-]{1,128}`, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for Name {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        check_segment(text)?;
        Ok(Self(text.into()))
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_serde!(Name, "^[A-Za-z0-9._~@+=-]{1,128}$");

/// Where a secret lies: one to sixteen segments joined by `/`, 512 bytes at most, no slash at either end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretPath(Box<str>);

impl SecretPath {
    /// The path's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The directory above (empty for a top-level path) and the last segment.
    pub fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }
    /// Every directory above, nearest first: `a/b/c` gives `a/b`, `a`.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(self.0.rsplit_once('/').map(|(up, _)| up), |path| path.rsplit_once('/').map(|(up, _)| up))
    }
}
impl FromStr for SecretPath {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        if text.len() > MAX_PATH_BYTES {
            return Err(ParseNameError("a path has at most 512 bytes"));
        }
        if text.starts_with('/') {
            return Err(ParseNameError("a path begins with a name, such as app/db, and not with /"));
        }
        if text.ends_with('/') {
            return Err(ParseNameError("a path ends with a name, such as app/db, and not with /"));
        }
        if text.contains("//") {
            return Err(ParseNameError("a path has one / between two names"));
        }
        let mut segments = 0;
        for segment in text.split('/') {
            check_segment(segment)?;
            segments += 1;
        }
        if segments > MAX_PATH_SEGMENTS {
            return Err(ParseNameError("a path has at most 16 segments"));
        }
        Ok(Self(text.into()))
    }
}
impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_serde!(SecretPath, "^[A-Za-z0-9._~@+=/-]{1,512}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "alice@example.com", "a.b-c_d~e+f=g", &"x".repeat(128)] {
            let name = good.parse::<Name>().expect(good);
            assert_eq!((name.as_str(), name.to_string().as_str()), (good, good));
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "ä", "a%2f", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        let path: SecretPath = "app/prod/db".parse().expect("a path");
        assert_eq!(path.split(), ("app/prod", "db"));
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["app/prod", "app"]);
        for bad in
            ["", "/", "/a", "a/", "a//b", "a/../b", "a/./b", "a\\b", &"a/".repeat(16), &format!("{}b", "a/".repeat(16))]
        {
            assert!(bad.parse::<SecretPath>().is_err(), "{bad}");
        }
        let long = |last: usize| format!("{}{}", format!("{}/", "x".repeat(128)).repeat(3), "x".repeat(last));
        for good in ["a", &format!("{}b", "a/".repeat(15)), &long(125)] {
            let path = good.parse::<SecretPath>().expect(good);
            assert_eq!((path.as_str(), path.to_string().as_str()), (good, good));
        }
        assert_eq!(long(126).len(), MAX_PATH_BYTES + 1);
        assert!(long(126).parse::<SecretPath>().is_err());
        for (bad, said) in
            [("/a", "begins"), ("a/", "ends"), ("/", "begins"), ("a//b", "one /"), ("", "1 to 128 bytes")]
        {
            let error = bad.parse::<SecretPath>().expect_err(bad).to_string();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
