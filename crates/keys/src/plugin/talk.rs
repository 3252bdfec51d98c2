//! The conversation with a plugin: stanzas both ways, first ours, then its questions and its answer.

use super::PluginError;
use bulla_crypto::envelope::{FileKey, OpenError, Stanza};
use bulla_crypto::identity::PluginIdentity;
use bulla_crypto::secret::SecretBytes;
use std::io::{BufReader, Read, Write};

/// The longest stanza from a plugin. What it says is a line or two for a person.
const MAX_STANZA_BYTES: usize = 16 * 1024;
/// The most stanzas from a plugin. One that says more would fill the terminal of whoever waits.
const MAX_STANZAS: usize = 64;

/// What a plugin may ask and tell the person. `None` is that nobody can be asked, or that nothing was answered.
pub trait Dialogue: Send + Sync {
    /// Shows a message, such as "touch your key".
    fn tell(&self, message: &str);
    /// Asks for something that is not shown while it is typed, such as a PIN.
    fn secret(&self, prompt: &str) -> Option<SecretBytes>;
    /// Asks for something that may be seen.
    fn public(&self, prompt: &str) -> Option<String>;
    /// Asks for one of two answers, or for the only one; whether it was the first.
    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool>;
}

/// What is said to a plugin, and what comes of its answers, whatever stands at the other end: `input` takes what it is
/// told, `output` gives what it says. The file key, or `None` if no stanza is for the plugin's key.
/// [`Plugin`](super::Plugin) has this conversation with a program.
///
/// # Errors
/// [`PluginError`].
pub fn file_key(
    mut input: impl Write,
    output: impl Read,
    identity: &PluginIdentity,
    stanzas: &[Stanza],
    dialogue: &dyn Dialogue,
) -> Result<Option<FileKey>, PluginError> {
    let line = std::str::from_utf8(identity.line().expose()).unwrap_or_default();
    say(&mut input, "add-identity", &[line], Vec::new())?;
    for stanza in stanzas {
        let words = [&["0", &stanza.kind][..], &stanza.args.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        say(&mut input, "recipient-stanza", &words, stanza.body.clone())?;
    }
    say(&mut input, "done", &[], Vec::new())?;

    let mut output = BufReader::with_capacity(MAX_STANZA_BYTES, output);
    let mut found = None;
    for _ in 0..MAX_STANZAS {
        let Stanza { kind, args, body } = Stanza::read(&mut output, MAX_STANZA_BYTES).map_err(unreadable)?;
        let body = SecretBytes::new(body);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match (kind.as_str(), args.as_slice()) {
            ("file-key", ["0"]) => {
                let key =
                    FileKey::from_slice(body.expose()).ok_or(PluginError::Malformed("a file key of another length"))?;
                if found.replace(key).is_some() {
                    return Err(PluginError::Malformed("two file keys"));
                }
                say(&mut input, "ok", &[], Vec::new())?;
            }
            ("file-key", _) => return Err(PluginError::Malformed("the key of another file")),
            ("error", _) => return Err(PluginError::Refused(shown(body.expose()))),
            ("done", []) => return Ok(found),
            ("confirm", choices) => {
                let answer = confirm(dialogue, &shown(body.expose()), choices)?;
                reply(&mut input, answer.map(|yes| if yes { "yes" } else { "no" }), None)?;
            }
            ("msg", _) => {
                dialogue.tell(&shown(body.expose()));
                say(&mut input, "ok", &[], Vec::new())?;
            }
            ("request-secret", _) => {
                let mut secret = dialogue.secret(&shown(body.expose()));
                let answer = secret.as_mut().map(|secret| std::mem::take(secret.expose_mut()));
                reply(&mut input, None, answer)?;
            }
            ("request-public", _) => {
                reply(&mut input, None, dialogue.public(&shown(body.expose())).map(String::into_bytes))?;
            }
            _ => say(&mut input, "unsupported", &[], Vec::new())?,
        }
    }
    Err(PluginError::Malformed("more than anybody would read"))
}

/// `ok` with an answer, or `fail` without one.
fn reply(input: &mut impl Write, word: Option<&str>, body: Option<Vec<u8>>) -> Result<(), PluginError> {
    match (word, body) {
        (None, None) => say(input, "fail", &[], Vec::new()),
        (word, body) => say(input, "ok", word.as_slice(), body.unwrap_or_default()),
    }
}

fn say(input: &mut impl Write, kind: &str, args: &[&str], body: Vec<u8>) -> Result<(), PluginError> {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let mut stanza = Stanza { kind: kind.to_owned(), args, body };
    let text = stanza.to_text();
    // A body may be a PIN.
    drop(SecretBytes::new(std::mem::take(&mut stanza.body)));
    input.write_all(text.expose()).and_then(|()| input.flush()).map_err(|_| PluginError::Ended)
}

fn confirm(dialogue: &dyn Dialogue, question: &str, choices: &[&str]) -> Result<Option<bool>, PluginError> {
    let decoded = |choice: &str| {
        let bytes = bulla_crypto::envelope::decode_word(choice);
        bytes.map(|bytes| shown(&bytes)).ok_or(PluginError::Malformed("a choice that is no text"))
    };
    match choices {
        [yes] => Ok(dialogue.confirm(question, &decoded(yes)?, None)),
        [yes, no] => Ok(dialogue.confirm(question, &decoded(yes)?, Some(&decoded(no)?))),
        _ => Err(PluginError::Malformed("a question without choices")),
    }
}

fn unreadable(error: OpenError) -> PluginError {
    match error {
        OpenError::Io(_) => PluginError::Ended,
        OpenError::Header(what) => PluginError::Malformed(what),
        _ => PluginError::Malformed("something that is no stanza"),
    }
}

/// Words of a plugin for a terminal, which they shall not steer.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(1000).collect()
}
