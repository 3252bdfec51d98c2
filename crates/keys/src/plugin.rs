//! Keys that an age plugin uses: `age-plugin-yubikey`, `age-plugin-tpm` and others, as their clients know them (C2SP
//! `age-plugin.md`, the state machine `identity-v1`).
//!
//! A plugin is a program that the person installed. It sees the stanzas of a header and gives the file key; whether that
//! is the right one, the header's MAC tells. Nothing is encrypted by plugins, since a server must do that too.

mod error;
mod talk;

pub use error::PluginError;
pub use talk::{Dialogue, file_key};

use crate::wait::{Running, beside, within};
use bulla_crypto::BoxFuture;
use bulla_crypto::envelope::{Decrypter, FileKey, OpenError, Stanza};
use bulla_crypto::identity::PluginIdentity;
use bulla_crypto::recipient::Recipient;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How long a plugin may take for one envelope, with all that the person is asked and has to touch.
const LIMIT: Duration = Duration::from_secs(120);

/// A decryption key behind a plugin. The plugin runs anew for each envelope.
pub struct Plugin {
    identity: Arc<PluginIdentity>,
    program: PathBuf,
    dialogue: Arc<dyn Dialogue>,
    limit: Duration,
}

impl Plugin {
    /// Finds the plugin in the absolute folders of `path`, the value of `PATH`, and nowhere else.
    ///
    /// # Errors
    /// [`PluginError::NotFound`].
    pub fn new(
        identity: PluginIdentity,
        path: Option<&OsStr>,
        dialogue: Arc<dyn Dialogue>,
    ) -> Result<Self, PluginError> {
        let name = format!("age-plugin-{}", identity.name());
        let folders = std::env::split_paths(path.unwrap_or_default());
        let mut found = folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(&name));
        let program = found.find(|program| is_program(program)).ok_or(PluginError::NotFound { name })?;
        Ok(Self { identity: Arc::new(identity), program, dialogue, limit: LIMIT })
    }

    /// The same with at most this time for one envelope.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit: self.limit.min(limit), ..self }
    }

    async fn file_key(&self, stanzas: &[Stanza]) -> Result<Option<FileKey>, OpenError> {
        let kind = self.identity.stanza_kind();
        let stanzas: Vec<_> = stanzas.iter().filter(|stanza| stanza.kind == kind).cloned().collect();
        // Others' envelopes are no reason to wake a device.
        if stanzas.is_empty() {
            return Ok(None);
        }
        let (program, limit) = (self.program.clone(), self.limit);
        let (identity, dialogue) = (self.identity.clone(), self.dialogue.clone());
        let asked = beside(move || ask(&program, limit, identity, stanzas, dialogue)).await;
        let plugin = || self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let asked = asked.unwrap_or(Err(PluginError::TimedOut { limit }));
        asked.map_err(|error| OpenError::Key(format!("{}: {error}", plugin())))
    }
}

impl Decrypter for Plugin {
    fn recipients(&self) -> &[Recipient] {
        self.identity.recipients()
    }

    fn unwrap_file_key<'a>(&'a self, stanzas: &'a [Stanza]) -> BoxFuture<'a, Result<Option<FileKey>, OpenError>> {
        Box::pin(self.file_key(stanzas))
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn ask(
    program: &Path,
    limit: Duration,
    identity: Arc<PluginIdentity>,
    stanzas: Vec<Stanza>,
    dialogue: Arc<dyn Dialogue>,
) -> Result<Option<FileKey>, PluginError> {
    let mut command = Command::new(program);
    command.arg("--age-plugin=identity-v1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // As age does, so that no plugin counts on the folder it is started in.
    command.current_dir(std::env::temp_dir());
    let mut child = command.spawn().map_err(PluginError::Start)?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut running = Running(child);
    let (Some(input), Some(output)) = (input, output) else { return Err(PluginError::Ended) };
    let talked = within(limit, move || talk::file_key(input, output, &identity, &stanzas, &*dialogue));
    match talked {
        Some(done) => {
            running.farewell();
            done
        }
        None => Err(PluginError::TimedOut { limit }),
    }
}
