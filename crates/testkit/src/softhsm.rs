//! Tokens of SoftHSM, each test's own. Keys are made by `pkcs11-tool`, as their users would.

use crate::tools;
use rustix::fs::{FlockOperation, fcntl_lock};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The module, where Debian's package puts it.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// Where SoftHSM finds its configuration; the library reads it from the process that loads it.
pub const CONFIGURATION: &str = "SOFTHSM2_CONF";

/// A folder of tokens.
#[derive(Debug)]
pub struct SoftHsm {
    configuration: PathBuf,
    _folder: Option<TempDir>,
}

impl SoftHsm {
    /// An empty one, or `None` where SoftHSM or `pkcs11-tool` is missing.
    ///
    /// # Panics
    /// If its folder cannot be made.
    pub fn new() -> Option<Self> {
        if !Path::new(MODULE).exists() || tools::find("softhsm2-util").is_none() || tools::find("pkcs11-tool").is_none()
        {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("bulla-hsm-").tempdir().expect("a temporary directory");
        let tokens = folder.path().join("tokens");
        std::fs::create_dir(&tokens).expect("a folder for tokens");
        let configuration = folder.path().join("softhsm2.conf");
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(&configuration, text).expect("a configuration");
        Some(Self { configuration, _folder: Some(folder) })
    }

    /// One for a test that loads the module itself. The module reads the environment of its process, and tests of one
    /// process share theirs, so the test of this name is run again in a process of its own; there, and only there, this
    /// is `Some`. Without SoftHSM the test is skipped.
    ///
    /// # Panics
    /// If the test fails there.
    pub fn of_this_process(test: &str) -> Option<Self> {
        if let Some(configuration) = std::env::var_os(CONFIGURATION) {
            return Some(Self { configuration: configuration.into(), _folder: None });
        }
        let Some(own) = Self::new() else {
            tools::skipped(test, "needs softhsm2 and opensc");
            return None;
        };
        let program = std::env::current_exe().expect("the test's own path");
        let mut again = Command::new(program);
        let ran = again.args(["--exact", test, "--nocapture"]).env(CONFIGURATION, &own.configuration).output();
        let ran = ran.expect("the test runs again");
        let text = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && text.contains("1 passed"), "{}\n{text}", ran.status);
        None
    }

    /// The file for [`CONFIGURATION`].
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Takes one mechanism away from all tokens, for modules that are loaded afterwards. SoftHSM 2.6 takes no notice of the
    /// first in its list.
    ///
    /// # Panics
    /// If the configuration cannot be written.
    pub fn without(&self, mechanism: &str) {
        let text = std::fs::read_to_string(&self.configuration).expect("the configuration");
        let text = format!("{text}slots.mechanisms = -CKM_DES_CBC_PAD,{mechanism}\n");
        std::fs::write(&self.configuration, text).expect("a configuration");
    }

    /// The module.
    pub fn module(&self) -> &'static str {
        MODULE
    }

    /// Locks every file of every token, until the files are dropped. SoftHSM in another process waits for that without end.
    ///
    /// # Panics
    /// If a file cannot be locked, which SoftHSM does for moments.
    pub fn hang(&self) -> Vec<File> {
        let tokens = self.configuration.with_file_name("tokens");
        let read =
            |folder: &Path| std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let files = read(&tokens).flat_map(|token| read(&token));
        let lock = |path: PathBuf| {
            let file = OpenOptions::new().read(true).write(true).open(path).expect("a file of a token");
            fcntl_lock(&file, FlockOperation::LockExclusive).expect("a lock");
            file
        };
        files.map(lock).collect()
    }

    /// Makes a token with this label and user PIN.
    ///
    /// # Panics
    /// If that fails.
    pub fn token(&self, label: &str, pin: &str) {
        let args = ["--init-token", "--free", "--label", label, "--so-pin", "87654321", "--pin", pin];
        let done = Command::new("softhsm2-util").args(args).env(CONFIGURATION, &self.configuration).output();
        succeeded("softhsm2-util", &done.expect("softhsm2-util runs"));
    }

    /// Runs `pkcs11-tool` on a token, logged in, and gives what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn tool(&self, token: &str, pin: &str, args: &[&str]) -> String {
        let mut command = Command::new("pkcs11-tool");
        command.args(["--module", MODULE, "--token-label", token, "--login", "--pin", pin]).args(args);
        let done = command.env(CONFIGURATION, &self.configuration).output().expect("pkcs11-tool runs");
        succeeded("pkcs11-tool", &done)
    }

    /// Puts an AES-256 key on the token that is known outside of it, as one that lies on several tokens; `access` are the
    /// options of `pkcs11-tool` that say who may see it.
    ///
    /// # Panics
    /// If that fails.
    pub fn aes(&self, token: &str, pin: &str, (label, id): (&str, &str), key: [u8; 32], access: &[&str]) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), key).expect("a key");
        let object = ["--write-object", file.path().to_str().expect("a path in UTF-8"), "--type", "secrkey"];
        let kind = ["--key-type", "AES:32", "--label", label, "--id", id, "--usage-decrypt"];
        self.tool(token, pin, &[&object[..], &kind, access].concat());
    }

    /// Makes a key pair, such as `EC:prime256v1`.
    ///
    /// # Panics
    /// If that fails.
    pub fn pair(&self, token: &str, pin: &str, kind: &str, label: &str, id: &str, usage: &[&str]) {
        let args = ["--keypairgen", "--key-type", kind, "--label", label, "--id", id];
        self.tool(token, pin, &[&args[..], usage].concat());
    }
}

fn succeeded(program: &str, done: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{program}: {text}");
    text
}
