//! Agents of OpenSSH, each test's own, with keys of `ssh-keygen`.

use crate::{process, tools};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where programs find their agent.
pub const SOCKET: &str = "SSH_AUTH_SOCK";
/// How long an agent may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent, which ends with this.
#[derive(Debug)]
pub struct SshAgent {
    folder: TempDir,
    child: Child,
}

impl SshAgent {
    /// One without keys, or `None` where OpenSSH is missing.
    ///
    /// # Panics
    /// If it does not start.
    pub fn new() -> Option<Self> {
        if ["ssh-agent", "ssh-add", "ssh-keygen"].iter().any(|program| tools::find(program).is_none()) {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("bulla-ssh-").tempdir().expect("a temporary directory");
        let child = start(folder.path());
        Some(Self { folder, child })
    }

    /// The socket, for [`SOCKET`].
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Where keys lie. `confirms` there lets the agent sign with keys that were added with `-c`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the agent, so that nobody answers at its socket.
    ///
    /// # Panics
    /// If it does not end.
    pub fn kill(&mut self) {
        self.child.kill().expect("the agent can be killed");
        self.child.wait().expect("the agent ends");
    }

    /// Starts it anew at the same place, without keys.
    pub fn restart(&mut self) {
        drop(std::fs::remove_file(self.socket()));
        self.child = start(self.folder.path());
    }

    /// Makes a key pair, such as `ed25519` or `ecdsa -b 384`, and gives the path of the private key.
    ///
    /// # Panics
    /// If that fails.
    pub fn pair(&self, name: &str, kind: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-N", "", "-C", name, "-t"]).args(kind.split(' ')).arg("-f").arg(&path);
        succeeded("ssh-keygen", &command.output().expect("ssh-keygen runs"));
        path
    }

    /// Runs `ssh-add` and gives what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn add<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        let mut command = Command::new("ssh-add");
        command.args(args).env(SOCKET, self.socket()).env("SSH_ASKPASS", self.folder.path().join("askpass"));
        let done = command.env("SSH_ASKPASS_REQUIRE", "force").stdin(Stdio::null()).output();
        succeeded("ssh-add", &done.expect("ssh-add runs"))
    }

    /// Makes a key pair and gives it to the agent; the path of the private key.
    pub fn key(&self, name: &str, kind: &str) -> PathBuf {
        let path = self.pair(name, kind);
        self.add([&path]);
        path
    }

    /// The fingerprint of a key, as `ssh-keygen -l` shows it.
    ///
    /// # Panics
    /// If there is no such key.
    pub fn fingerprint(&self, key: &Path) -> String {
        let done = Command::new("ssh-keygen").arg("-lf").arg(key).output().expect("ssh-keygen runs");
        let text = succeeded("ssh-keygen", &done);
        text.split(' ').nth(1).expect("a fingerprint").to_owned()
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn start(folder: &Path) -> Child {
    use std::os::unix::fs::PermissionsExt as _;
    let (socket, askpass) = (folder.join("agent"), folder.join("askpass"));
    // It says the word that unlocks, and yes as long as it is to confirm.
    let confirms = folder.join("confirms");
    let text = format!(
        "#!/bin/sh\ncase $1 in *assword*|*gain*) echo word;; *) test -e '{}' && echo yes;; esac\n",
        confirms.display()
    );
    std::fs::write(&askpass, text).expect("a program that asks");
    std::fs::set_permissions(&askpass, std::fs::Permissions::from_mode(0o700)).expect("a mode");
    let mut command = process::command("ssh-agent");
    command.args(["-D", "-a"]).arg(&socket).env("SSH_ASKPASS", &askpass).env("SSH_ASKPASS_REQUIRE", "force");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = process::spawn(command);
    let started = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(started.elapsed() < PATIENCE, "ssh-agent does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn succeeded(program: &str, done: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{program}: {text}");
    text
}
