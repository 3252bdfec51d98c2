//! Whose keys this run uses: read from files with their passphrases, or held by tokens with their PINs, by the SSH agent
//! or by age plugins.

use crate::ask::{self, TERMINAL};
use crate::exit::{Exit, Failure, told};
use crate::output::cell;
use crate::session::Global;
use bulla_client::{ClientError, identity};
use bulla_crypto::envelope::Decrypter;
use bulla_crypto::identity::{Identity, PluginIdentity};
use bulla_crypto::random::SystemRng;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::secret::file::judge;
use bulla_crypto::sign::{PublicKey, Signer as _};
use bulla_keys::pin::{self, PinError};
use bulla_keys::plugin::Dialogue;
use bulla_keys::uri::TokenUri;
use bulla_keys::{Agent, AgentError, KeySource, Make, Plugin, TokenError, Tokens, pinentry};
use clap::builder::TypedValueParser;
use std::cell::OnceCell;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest passphrase in bytes; longer is the wrong file.
const MAX_PASSPHRASE_BYTES: u64 = 4096;
/// Where the environment names the socket of the SSH agent.
const AGENT: &str = "SSH_AUTH_SOCK";

/// A file, a URI or a key of the agent on the command line.
pub fn key_source() -> impl TypedValueParser<Value = KeySource> {
    KeyParser
}

/// Tells what is wrong without a word of what was written: a PIN may stand there, where none is taken.
#[derive(Debug, Clone, Copy)]
struct KeyParser;

impl TypedValueParser for KeyParser {
    type Value = KeySource;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<KeySource, clap::Error> {
        KeySource::parse(value).map_err(|error| {
            let name = arg.map(|arg| format!(" for '{arg}'")).unwrap_or_default();
            let said = format!("invalid value{name}: {error}\n\nFor more information, try '--help'.\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, said).with_cmd(command)
        })
    }
}

/// The keys of one run. A token is logged in to once.
pub struct Keys {
    tokens: Tokens,
    /// The token that the PIN file was for.
    pin_file_for: Mutex<Option<(String, String)>>,
}

impl Keys {
    /// Those who hold keys are waited for at most so long, whatever else their limits are.
    pub fn new(timeout: Option<Duration>) -> Self {
        Self { tokens: Tokens::default().limit(timeout.unwrap_or(Duration::MAX)), pin_file_for: Mutex::default() }
    }

    /// The identity with this key, and with another that decrypts if there is one.
    pub fn identity(
        &self,
        global: &Global,
        key: &KeySource,
        opens: Option<&KeySource>,
    ) -> Result<Arc<Identity>, Failure> {
        let identity = match key {
            KeySource::File(path) => file(global, path, &read(path)?)?,
            KeySource::Token(uri) => {
                let identity = self.tokens.identity(uri, &|token| self.pin(global, token));
                Arc::new(identity.map_err(|error| failure(&error))?)
            }
            KeySource::Agent(name) => {
                let limit = global.timeout.unwrap_or(Duration::MAX);
                let identity = Agent::new(std::env::var_os(AGENT)).and_then(|agent| agent.limit(limit).identity(name));
                Arc::new(identity.map_err(|error| agent_failure(&error))?)
            }
        };
        let Some(opens) = opens else { return Ok(identity) };
        // A variable stays when the identity changes, so it replaces nothing. A flag is typed for this one.
        let by_variable = global.decrypt_with_by_variable && global.decrypt_with.as_ref() == Some(opens);
        if by_variable && !identity.recipients().is_empty() {
            let both = format!("{key} decrypts by itself, and BULLA_DECRYPT_WITH names another key for that");
            return Err(Failure::usage(both).hint(
                "unset BULLA_DECRYPT_WITH, or give --decrypt-with KEY to decrypt with the other one all the same",
            ));
        }
        let (decrypter, signs_too) = self.opener(global, opens)?;
        let dual_use = signs_too.as_ref() == Some(identity.public_key());
        Ok(Arc::new(identity.decrypting_with(decrypter, dual_use)))
    }

    /// New keys on a token.
    pub fn generate(&self, global: &Global, uri: &TokenUri, make: Make) -> Result<Arc<Identity>, Failure> {
        let made = self.tokens.generate(uri, make, &mut SystemRng, &|token| self.pin(global, token));
        made.map(Arc::new).map_err(|error| failure(&error))
    }

    /// A new AES key on a token, and its id.
    pub fn generate_aes(&self, global: &Global, uri: &TokenUri) -> Result<Vec<u8>, Failure> {
        let made = self.tokens.generate_aes(uri, &mut SystemRng, &|token| self.pin(global, token));
        made.map_err(|error| failure(&error))
    }

    /// A key that only has to decrypt.
    pub fn decrypter(&self, global: &Global, key: &KeySource) -> Result<Arc<dyn Decrypter>, Failure> {
        self.opener(global, key).map(|(decrypter, _)| decrypter)
    }

    /// A key that decrypts, and its public half if it is one that signs too.
    fn opener(&self, global: &Global, key: &KeySource) -> Result<(Arc<dyn Decrypter>, Option<PublicKey>), Failure> {
        let path = match key {
            KeySource::File(path) => path,
            KeySource::Token(uri) => {
                let opened = self.tokens.decrypter(uri, &|token| self.pin(global, token));
                let (decrypter, public) = opened.map_err(|error| failure(&error))?;
                return Ok((decrypter, Some(public)));
            }
            KeySource::Agent(_) => return Err(agent_failure(&AgentError::Decrypts)),
        };
        let bytes = read(path)?;
        let unusable = |error| {
            Failure::new(Exit::Failed, format!("cannot read {}: {error}", path.display()))
                .hint("have the plugin's own program write it anew, or name another key that decrypts")
        };
        if let Some(identity) = PluginIdentity::parse(bytes.expose()).map_err(unusable)? {
            let found = Plugin::new(identity, std::env::var_os("PATH").as_deref(), Arc::new(AtTerminal));
            let plugin = found.map_err(|error| Failure::new(Exit::NotFound, error.to_string()).hint(error.hint()))?;
            let plugin = plugin.limit(global.timeout.unwrap_or(Duration::MAX));
            // It may ask at the terminal by itself, and is ended when its time is over.
            ask::remember();
            return Ok((Arc::new(plugin), None));
        }
        let other = file(global, path, &bytes)?;
        let signs_too = other.dual_use().then(|| other.public_key().clone());
        Ok((other, signs_too))
    }

    /// `token` is its label and serial: several tokens may have one label.
    fn pin(&self, global: &Global, (token, serial): (&str, &str)) -> Result<SecretBytes, PinError> {
        if let Some(path) = &global.pin_file {
            let mut first = self.pin_file_for.lock().unwrap_or_else(PoisonError::into_inner);
            // Trying one token's PIN on another brings that one nearer to locking itself.
            let this = (token.to_owned(), serial.to_owned());
            if first.as_ref().is_some_and(|first| *first != this) {
                return Err(PinError::SeveralTokens { token: token.to_owned() });
            }
            *first = Some(this);
            return pin::read(path);
        }
        if let Some(program) = &global.pinentry {
            ask::remember();
            let limit = pinentry::LIMIT.min(global.timeout.unwrap_or(Duration::MAX));
            return pinentry::ask(program, token, ask::possible().then_some(Path::new(TERMINAL)), limit);
        }
        if ask::possible() {
            return ask::hidden(&format!("PIN of token {}: ", cell(token))).map_err(PinError::Terminal);
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

/// What came of the SSH agent.
fn agent_failure(error: &AgentError) -> Failure {
    let exit = match error {
        AgentError::Empty | AgentError::NoKey { .. } | AgentError::NoneUsable { .. } => Exit::NotFound,
        AgentError::NoSocket | AgentError::Several { .. } | AgentError::Decrypts => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, told(error)).hint(error.hint())
}

/// What a plugin asks and tells, at the terminal if there is one.
struct AtTerminal;

impl Dialogue for AtTerminal {
    fn tell(&self, message: &str) {
        // Whom nobody sees need not be told.
        drop(writeln!(std::io::stderr(), "{}", cell(message)));
    }

    fn secret(&self, prompt: &str) -> Option<SecretBytes> {
        if ask::possible() { ask::hidden(&format!("{} ", cell(prompt))).ok() } else { None }
    }

    fn public(&self, prompt: &str) -> Option<String> {
        if ask::possible() { ask::shown(&cell(prompt)).ok() } else { None }
    }

    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let choices = no.map_or_else(|| yes.to_owned(), |no| format!("{yes} or {no}"));
        let answer = self.public(&format!("{question} ({choices})"))?;
        if answer == yes { Some(true) } else { (no == Some(answer.as_str())).then_some(false) }
    }
}

/// The content of the file of a key, which only its owner can read.
pub fn read(path: &Path) -> Result<SecretBytes, Failure> {
    identity::bytes(path).map_err(unreadable)
}

/// An identity file, asking for the passphrase of an SSH key if it has one.
fn file(global: &Global, path: &Path, bytes: &SecretBytes) -> Result<Arc<Identity>, Failure> {
    let failed = OnceCell::new();
    let passphrase = || match passphrase(global, path) {
        Ok(passphrase) => passphrase,
        Err(failure) => {
            failed.get_or_init(|| failure);
            None
        }
    };
    let parsed = identity::parse(path, bytes, &passphrase);
    match failed.into_inner() {
        Some(failure) => Err(failure),
        None => parsed.map_err(|error| {
            if matches!(PluginIdentity::parse(bytes.expose()), Ok(None)) {
                unreadable(error)
            } else {
                unreadable(error).instead("name it with --decrypt-with, and a key that signs with --identity")
            }
        }),
    }
}

fn unreadable(error: ClientError) -> Failure {
    match error {
        // The file is there, and is no key or not for this passphrase.
        ClientError::Io { ref cause, .. } if cause.kind() == std::io::ErrorKind::Other => {
            Failure::from(error).instead("--identity names the file of your key, --passphrase-file its passphrase")
        }
        _ => Failure::from(error).hint("--identity names the file of your key"),
    }
}

fn passphrase(global: &Global, key: &Path) -> Result<Option<SecretBytes>, Failure> {
    if let Some(path) = &global.passphrase_file {
        let failed = |error| Failure::file("cannot read", path, &error);
        let mut bytes = SecretBytes::new(Vec::with_capacity(MAX_PASSPHRASE_BYTES as usize + 1));
        let file = std::fs::File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if judge(found.uid(), found.mode(), rustix::process::geteuid().as_raw()).is_err() {
            let message = format!("others here can read or change the passphrase in {}", path.display());
            return Err(Failure::new(Exit::Failed, message).hint(format!("chmod 600 {}", path.display())));
        }
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
