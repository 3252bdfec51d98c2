//! Where an identity is: in a file, or on a token.

use crate::uri::{TokenUri, UriError};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where an identity is. A file whose name begins with `pkcs11:` is written `./pkcs11:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// An identity file or an SSH private key.
    File(PathBuf),
    /// Keys on a token.
    Token(Box<TokenUri>),
}

impl KeySource {
    /// What a command line or a file of contexts names.
    ///
    /// # Errors
    /// [`UriError`], for text that begins as a URI.
    pub fn parse(written: &OsStr) -> Result<Self, UriError> {
        match written.to_str() {
            Some(text) if TokenUri::is_meant(text) => text.parse().map(Box::new).map(Self::Token),
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
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Token(uri) => uri.fmt(f),
        }
    }
}
