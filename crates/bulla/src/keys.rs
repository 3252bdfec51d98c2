//! Whose keys this run uses: read from files with their passphrases, or held by tokens with their PINs.

use crate::ask;
use crate::exit::{Exit, Failure, told};
use crate::session::Global;
use bulla_client::{ClientError, identity};
use bulla_crypto::envelope::Decrypter;
use bulla_crypto::identity::Identity;
use bulla_crypto::random::SystemRng;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::sign::Signer as _;
use bulla_keys::pin::{self, PinError};
use bulla_keys::uri::TokenUri;
use bulla_keys::{KeySource, Make, TokenError, Tokens, pinentry};
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::cell::OnceCell;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest passphrase in bytes; longer is the wrong file.
const MAX_PASSPHRASE_BYTES: u64 = 4096;
/// Where programs ask for a PIN.
const TERMINAL: &str = "/dev/tty";

/// A file or a URI on the command line.
pub fn key_source() -> impl TypedValueParser<Value = KeySource> {
    OsStringValueParser::new().try_map(|written| KeySource::parse(&written))
}

/// The keys of one run. A token is logged in to once.
#[derive(Default)]
pub struct Keys {
    tokens: Tokens,
    /// The token that the PIN file was for.
    pin_file_for: Mutex<Option<String>>,
}

impl Keys {
    /// The identity with this key, and with another that decrypts if there is one.
    pub fn identity(
        &self,
        global: &Global,
        key: &KeySource,
        opens: Option<&KeySource>,
    ) -> Result<Arc<Identity>, Failure> {
        let identity = match key {
            KeySource::File(path) => file(global, path)?,
            KeySource::Token(uri) => {
                let identity = self.tokens.identity(uri, &|token| self.pin(global, token));
                Arc::new(identity.map_err(|error| failure(&error))?)
            }
        };
        let Some(opens) = opens else { return Ok(identity) };
        let (decrypter, dual_use) = match opens {
            KeySource::File(path) => {
                let other = file(global, path)?;
                let same = other.dual_use() && other.public_key() == identity.public_key();
                (other as Arc<dyn Decrypter>, same)
            }
            KeySource::Token(uri) => {
                let opened = self.tokens.decrypter(uri, &|token| self.pin(global, token));
                let (decrypter, public) = opened.map_err(|error| failure(&error))?;
                (decrypter, &public == identity.public_key())
            }
        };
        Ok(Arc::new(identity.decrypting_with(decrypter, dual_use)))
    }

    /// New keys on a token.
    pub fn generate(&self, global: &Global, uri: &TokenUri, make: Make) -> Result<Arc<Identity>, Failure> {
        let made = self.tokens.generate(uri, make, &mut SystemRng, &|token| self.pin(global, token));
        made.map(Arc::new).map_err(|error| failure(&error))
    }

    /// A key that only has to decrypt.
    pub fn decrypter(&self, global: &Global, key: &KeySource) -> Result<Arc<dyn Decrypter>, Failure> {
        match key {
            KeySource::File(path) => Ok(file(global, path)?),
            KeySource::Token(uri) => {
                let opened = self.tokens.decrypter(uri, &|token| self.pin(global, token));
                Ok(opened.map_err(|error| failure(&error))?.0)
            }
        }
    }

    fn pin(&self, global: &Global, token: &str) -> Result<SecretBytes, PinError> {
        if let Some(path) = &global.pin_file {
            let mut first = self.pin_file_for.lock().unwrap_or_else(PoisonError::into_inner);
            // Trying one token's PIN on another brings that one nearer to locking itself.
            if first.as_ref().is_some_and(|first| first != token) {
                return Err(PinError::SeveralTokens { token: token.to_owned() });
            }
            *first = Some(token.to_owned());
            return pin::read(path);
        }
        if let Some(program) = &global.pinentry {
            return pinentry::ask(program, token, ask::possible().then_some(Path::new(TERMINAL)));
        }
        if ask::possible() {
            return ask::hidden(&format!("PIN of token {token}: ")).map_err(PinError::Terminal);
        }
        Err(PinError::NoSource { token: token.to_owned() })
    }
}

/// What came of a token.
pub fn failure(error: &TokenError) -> Failure {
    let exit = match error {
        TokenError::NoToken { .. } | TokenError::NoKey { .. } => Exit::NotFound,
        TokenError::Exists { .. } => Exit::Conflict,
        TokenError::NoModule | TokenError::NoLabel | TokenError::Pin(PinError::NoSource { .. }) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, told(error)).hint(error.hint())
}

/// Reads an identity file, asking for the passphrase of an SSH key if it has one.
fn file(global: &Global, path: &Path) -> Result<Arc<Identity>, Failure> {
    let failed = OnceCell::new();
    let passphrase = || match passphrase(global, path) {
        Ok(passphrase) => passphrase,
        Err(failure) => {
            failed.get_or_init(|| failure);
            None
        }
    };
    let read = identity::read(path, &passphrase);
    match failed.into_inner() {
        Some(failure) => Err(failure),
        None => read.map_err(|error| match error {
            // The file is there, and is no key or not for this passphrase.
            ClientError::Io { ref cause, .. } if cause.kind() == std::io::ErrorKind::Other => {
                Failure::from(error).instead("--identity names the file of your key, --passphrase-file its passphrase")
            }
            _ => Failure::from(error).hint("--identity names the file of your key"),
        }),
    }
}

fn passphrase(global: &Global, key: &Path) -> Result<Option<SecretBytes>, Failure> {
    if let Some(path) = &global.passphrase_file {
        let failed = |error| Failure::file("cannot read", path, &error);
        let mut bytes = SecretBytes::new(Vec::with_capacity(MAX_PASSPHRASE_BYTES as usize + 1));
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_PASSPHRASE_BYTES).read_to_end(bytes.expose_mut()).map_err(failed)?;
        let end = bytes.expose().iter().position(|byte| *byte == b'\n').unwrap_or(bytes.expose().len());
        bytes.expose_mut().truncate(end);
        return Ok(Some(bytes));
    }
    if ask::possible() {
        let prompt = format!("Passphrase of {}: ", key.display());
        let asked = ask::hidden(&prompt);
        return asked.map(Some).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot ask: {error}")).hint("give --passphrase-file FILE")
        });
    }
    Err(Failure::usage(format!("{} is encrypted with a passphrase", key.display()))
        .hint("give --passphrase-file FILE or BULLA_PASSPHRASE_FILE, or run it at a terminal"))
}
