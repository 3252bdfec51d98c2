//! Where an identity is: in a file, on a token, or with an SSH agent.

use crate::agent::{AgentKeyName, AgentNameError};
use crate::uri::{TokenUri, UriError};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where an identity is. A file whose name begins with `pkcs11:` or `ssh-agent:` is written `./pkcs11:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// An identity file or an SSH private key.
    File(PathBuf),
    /// Keys on a token.
    Token(Box<TokenUri>),
    /// A key of the SSH agent.
    Agent(AgentKeyName),
}

/// Why text that begins as the name of a key elsewhere is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceError {
    /// It is no URI of keys on a token.
    Token(UriError),
    /// It names no key of an agent.
    Agent(AgentNameError),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(error) => error.fmt(f),
            Self::Agent(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SourceError {}

impl KeySource {
    /// What a command line or a file of contexts names.
    ///
    /// # Errors
    /// [`SourceError`], for text that begins as a URI or with `ssh-agent:`.
    pub fn parse(written: &OsStr) -> Result<Self, SourceError> {
        if let Some(name) = AgentKeyName::parse(written).map_err(SourceError::Agent)? {
            return Ok(Self::Agent(name));
        }
        match written.to_str() {
            Some(text) if TokenUri::is_meant(text) => {
                text.parse().map(Box::new).map(Self::Token).map_err(SourceError::Token)
            }
            _ => Ok(Self::File(written.into())),
        }
    }

    /// The same, wherever it is read.
    ///
    /// # Errors
    /// As [`std::path::absolute`].
    pub fn absolute(self) -> io::Result<Self> {
        match self {
            Self::File(path) => std::path::absolute(path).map(Self::File),
            Self::Token(uri) => Ok(Self::Token(uri)),
            Self::Agent(name) => name.absolute().map(Self::Agent),
        }
    }

    /// As it is written, also where a path is no text.
    pub fn to_os_string(&self) -> OsString {
        match self {
            Self::File(path) => path.into(),
            Self::Token(uri) => uri.to_string().into(),
            Self::Agent(name) => name.to_os_string(),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Token(uri) => uri.fmt(f),
            Self::Agent(name) => name.fmt(f),
        }
    }
}
