//! Which key of the agent: `ssh-agent:SHA256:…`, `ssh-agent:FILE.pub`, or `ssh-agent:` for the only one.

use super::AgentError;
use bulla_crypto::openssh::agent::{Fingerprint, FingerprintError, fingerprint_of_line};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

const SCHEME: &str = "ssh-agent:";
/// The longest `.pub` file: RSA of 16,384 bits and a comment stay far below.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// Which key of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentKeyName {
    /// The only one that can be used.
    Only,
    /// The one with this fingerprint.
    Fingerprint(Fingerprint),
    /// The one whose public half is in this file.
    File(PathBuf),
}

/// Why text names no key of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentNameError {
    /// It begins with `ssh-agent:SHA256:` and goes on otherwise.
    Fingerprint(FingerprintError),
    /// An MD5 fingerprint, which names no key for sure.
    Md5,
}

impl fmt::Display for AgentNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fingerprint(error) => error.fmt(f),
            Self::Md5 => f.write_str("an MD5 fingerprint names no key for sure; `ssh-add -l` shows that of SHA-256"),
        }
    }
}

impl std::error::Error for AgentNameError {}

impl AgentKeyName {
    /// Reads what follows `ssh-agent:`; `None` for text that does not begin so.
    ///
    /// # Errors
    /// [`AgentNameError`].
    pub fn parse(written: &OsStr) -> Result<Option<Self>, AgentNameError> {
        let Some(rest) = written.as_bytes().strip_prefix(SCHEME.as_bytes()) else { return Ok(None) };
        Ok(Some(match std::str::from_utf8(rest) {
            Ok("") => Self::Only,
            Ok(text) if text.starts_with("SHA256:") => {
                Self::Fingerprint(text.parse().map_err(AgentNameError::Fingerprint)?)
            }
            Ok(text) if text.starts_with("MD5:") => return Err(AgentNameError::Md5),
            _ => Self::File(OsStr::from_bytes(rest).into()),
        }))
    }

    /// The same, wherever it is read.
    ///
    /// # Errors
    /// As [`std::path::absolute`].
    pub fn absolute(self) -> io::Result<Self> {
        match self {
            Self::File(path) => std::path::absolute(path).map(Self::File),
            named => Ok(named),
        }
    }

    /// As it is written, also where the path is no text.
    pub fn to_os_string(&self) -> OsString {
        match self {
            Self::File(path) => {
                let mut written = OsString::from(SCHEME);
                written.push(path);
                written
            }
            named => named.to_string().into(),
        }
    }

    /// The fingerprint of the key that is meant; `None` for the only one.
    pub(super) fn fingerprint(&self) -> Result<Option<Fingerprint>, AgentError> {
        let path = match self {
            Self::Only => return Ok(None),
            Self::Fingerprint(fingerprint) => return Ok(Some(*fingerprint)),
            Self::File(path) => path,
        };
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut text));
        read.map_err(|cause| AgentError::File { path: path.clone(), cause })?;
        let found = std::str::from_utf8(&text).ok().and_then(fingerprint_of_line);
        found.map(Some).ok_or_else(|| AgentError::NotPublic { path: path.clone() })
    }
}

impl fmt::Display for AgentKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str(SCHEME),
            Self::Fingerprint(fingerprint) => write!(f, "{SCHEME}{fingerprint}"),
            Self::File(path) => write!(f, "{SCHEME}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let parse = |text: &str| AgentKeyName::parse(OsStr::new(text));
        let fingerprint = "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8";
        for (text, name) in [
            ("ssh-agent:".to_owned(), AgentKeyName::Only),
            (format!("ssh-agent:{fingerprint}"), AgentKeyName::Fingerprint(fingerprint.parse().unwrap())),
            ("ssh-agent:/home/a b/id.pub".to_owned(), AgentKeyName::File("/home/a b/id.pub".into())),
            ("ssh-agent:./SHA256:x".to_owned(), AgentKeyName::File("./SHA256:x".into())),
        ] {
            assert_eq!((name.to_string(), name.to_os_string()), (text.clone(), text.clone().into()));
            assert_eq!(parse(&text), Ok(Some(name)));
        }
        for other in ["id.pub", "./ssh-agent:", "SSH-AGENT:", "pkcs11:", ""] {
            assert_eq!(parse(other), Ok(None), "{other}");
        }
        assert_eq!(parse("ssh-agent:SHA256:x"), Err(AgentNameError::Fingerprint(FingerprintError)));
        assert_eq!(parse("ssh-agent:MD5:00:11"), Err(AgentNameError::Md5));
        let relative = AgentKeyName::File("id.pub".into()).absolute().unwrap();
        assert!(matches!(relative, AgentKeyName::File(path) if path.is_absolute()));
    }
}
