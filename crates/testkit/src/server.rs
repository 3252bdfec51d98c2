//! The real server, as a process.
//!
//! A [`Server`] listens on a port of the system's choice in a fresh directory, and is killed when dropped. It can be
//! killed and started again on the same data at any time; all its output goes to files that a test can search.

use crate::cli::Cli;
use crate::process;
use serde::Deserialize;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take until it listens. Debug builds on a loaded machine make keys slowly.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How often the ready file is looked for: measurements of the start end with it.
const READY_POLL: Duration = Duration::from_millis(2);
/// How long a graceful stop may take: the server drains for ten seconds at most.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What the server writes to its ready file.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// Where it listens, `127.0.0.1:port`.
    pub address: String,
    /// Where its metrics are, if it was asked for them.
    #[serde(default)]
    pub metrics: Option<String>,
    /// The key id of its node key.
    pub node: String,
    /// Its node key.
    pub spki: String,
    /// Its process id.
    pub pid: u32,
}

/// Where a server listens if nothing else is said: on loopback, on a port of the system's choice.
const ANY_PORT: &str = "127.0.0.1:0";

/// How a server is started. Its command line is `bulla server --listen ADDRESS --ready-file F`, then the store,
/// then `args`.
#[derive(Debug, Clone)]
pub struct Options {
    binary: PathBuf,
    transient: bool,
    listen: String,
    admins: Vec<PathBuf>,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    core: Option<usize>,
}

impl Options {
    /// A server on the embedded file, under `data/` of its directory.
    pub fn durable(binary: impl Into<PathBuf>) -> Self {
        let (admins, args, environment) = (Vec::new(), Vec::new(), Vec::new());
        let listen = ANY_PORT.into();
        Self { binary: binary.into(), transient: false, listen, admins, args, environment, core: None }
    }

    /// A server in memory, with its audit log in `audit.jsonl` of its directory.
    pub fn transient(binary: impl Into<PathBuf>) -> Self {
        Self { transient: true, ..Self::durable(binary) }
    }

    /// Lets the admin of this `.pub` file take part in init.
    #[must_use]
    pub fn admin(mut self, record: impl Into<PathBuf>) -> Self {
        self.admins.push(record.into());
        self
    }

    /// Has it listen there, where another server listened before.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.to_owned();
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Lets it run on this core alone, for measurements.
    #[must_use]
    pub fn core(mut self, core: usize) -> Self {
        self.core = Some(core);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Takes a variable out of it again.
    pub fn without_env(&mut self, name: &str) {
        self.environment.retain(|(set, _)| set != name);
    }
}

/// Why a server did not come up.
#[derive(Debug)]
pub struct StartFailure {
    /// How it ended; `None` if it still ran and was killed.
    pub status: Option<ExitStatus>,
    /// What it had printed.
    pub log: String,
}

/// A server process, or one that was stopped and may be started again.
#[derive(Debug)]
pub struct Server {
    options: Options,
    directory: TempDir,
    child: Option<Child>,
    ready: Option<Ready>,
    starts: u32,
}

impl Server {
    /// Starts one, and makes and unseals a cluster there whose one admin this person is, with a new key and the context
    /// `test`.
    pub fn with_admin(options: Options, admin: &mut Cli) -> Self {
        admin.run(["keygen", "-o", "admin.key"]).ok();
        admin.env("BULLA_IDENTITY", admin.work().join("admin.key"));
        let record = admin.work().join("admin.pub");
        let server = Self::start(options.admin(&record));
        let init: [&OsStr; 8] = [
            "init".as_ref(),
            "--name".as_ref(),
            "test".as_ref(),
            "--save-context".as_ref(),
            "test".as_ref(),
            "--admin".as_ref(),
            record.as_ref(),
            "--ready-file".as_ref(),
        ];
        let ready = server.directory().join("ready-1.json");
        admin.run(init.into_iter().chain([ready.as_os_str()])).ok();
        admin.run(["unseal", "--yes"]).ok();
        server
    }

    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// If it does not come up; the message holds what it printed.
    pub fn start(options: Options) -> Self {
        let mut server = Self::prepare(options);
        server.restart();
        server
    }

    /// A directory for a server that is not started yet, so that a test can put files there first.
    pub fn prepare(options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("bulla-test-").tempdir().expect("a temporary directory");
        Self { options, directory, child: None, ready: None, starts: 0 }
    }

    /// Starts it again on the same data, on a new port; kills it first if it runs.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn restart(&mut self) {
        if let Err(failure) = self.try_restart() {
            panic!("the server did not come up ({:?}):\n{}", failure.status, failure.log);
        }
    }

    /// As [`Self::restart`], for a test that expects the server to refuse.
    pub fn try_restart(&mut self) -> Result<(), StartFailure> {
        self.kill();
        self.starts += 1;
        let ready = self.directory.path().join(format!("ready-{}.json", self.starts));
        let log = File::create(self.log_path()).expect("a log file");
        let errors = log.try_clone().expect("a log file");
        let mut command = match self.options.core {
            None => process::command(&self.options.binary),
            Some(core) => {
                let mut command = process::command("taskset");
                command.args(["--cpu-list", &core.to_string()]).arg(&self.options.binary);
                command
            }
        };
        command.args(["server", "--listen", &self.options.listen, "--ready-file"]).arg(&ready);
        if self.options.transient {
            command.arg("--transient").arg("--audit").arg(self.audit());
        } else {
            command.arg("--data").arg(self.data());
        }
        for admin in &self.options.admins {
            command.arg("--admin").arg(admin);
        }
        command.args(&self.options.args);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.directory.path()).stdin(Stdio::null()).stdout(log).stderr(errors);
        let mut child = process::spawn(command);

        let deadline = Instant::now() + START_PATIENCE;
        let fail = |server: &Self, status| StartFailure { status, log: server.log() };
        loop {
            // The file is renamed into place, so it is whole once it is there.
            if let Ok(text) = std::fs::read(&ready) {
                self.ready = Some(serde_json::from_slice(&text).expect("the ready file is {address, node, spki, pid}"));
                self.child = Some(child);
                return Ok(());
            }
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return Err(fail(self, Some(status)));
            }
            if Instant::now() >= deadline {
                drop(child.kill());
                drop(child.wait());
                return Err(fail(self, None));
            }
            std::thread::sleep(READY_POLL);
        }
    }

    /// What it wrote to its ready file when it started last.
    ///
    /// # Panics
    /// If it never came up.
    pub fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("the server came up")
    }

    /// Where it listens, `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.ready().address
    }

    /// The key id of its node key.
    pub fn node(&self) -> &str {
        &self.ready().node
    }

    /// Its directory: data, audit log, output, ready files. Everything it could leave a secret in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory of a durable server.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The audit log: a file if transient, a directory of files otherwise.
    pub fn audit(&self) -> PathBuf {
        if self.options.transient { self.directory.path().join("audit.jsonl") } else { self.data().join("audit") }
    }

    /// What the last start printed.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Has it listen from now on where it listens now, so that clients find it again after a restart.
    ///
    /// # Panics
    /// If it never came up.
    pub fn keep_address(&mut self) {
        self.options.listen = self.address().to_owned();
    }

    /// How it is started from now on.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Kills it as a power cut would: nothing is flushed.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Asks it to stop and waits.
    ///
    /// # Panics
    /// If it does not end in time, or does not run.
    pub fn stop(&mut self) -> ExitStatus {
        process::terminate(self.child.as_ref().expect("the server runs"));
        self.wait(STOP_PATIENCE)
    }

    /// Sends it a signal, SIGHUP for one.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: rustix::process::Signal) {
        process::signal(self.child.as_ref().expect("the server runs"), signal);
    }

    /// Waits until it ends by itself, as it does at a failpoint.
    ///
    /// # Panics
    /// If it does not end in time; it is killed then.
    pub fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        process::wait(&mut child, at_most).unwrap_or_else(|| {
            drop(child.kill());
            drop(child.wait());
            panic!("the server did not end within {at_most:?}:\n{}", self.log())
        })
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join(format!("output-{}.log", self.starts))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- output of the server ---\n{}", self.log());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A program that takes the server's arguments and does what `body` says with them: `$ready` is the ready file.
    fn pretender(folder: &Path, body: &str) -> PathBuf {
        let path = folder.join("pretender");
        let text = format!("#!/bin/sh\nready=$5\necho started\n{body}\n");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    const READY: &str = r#"printf '{"address":"127.0.0.1:1","node":"sha256:n","spki":"MCow","pid":%s}' $$ > $ready.new
        mv $ready.new $ready"#;

    #[test]
    fn a_server_starts_is_killed_and_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let body = format!("trap 'exit 7' TERM\n{READY}\nwhile :; do sleep 0.05; done");
        let mut server = Server::start(Options::durable(pretender(folder.path(), &body)));
        let first = server.ready().pid;
        assert_eq!((server.address(), server.node()), ("127.0.0.1:1", "sha256:n"));
        assert_eq!(server.child.as_ref().unwrap().id(), first, "setpriv is replaced by the server");
        server.restart();
        assert_ne!(server.ready().pid, first);
        assert_eq!(server.stop().code(), Some(7));
        assert_eq!(server.log(), "started\n");
    }

    #[test]
    fn a_server_that_refuses_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::prepare(Options::transient(pretender(folder.path(), "echo no >&2; exit 3")));
        let failure = server.try_restart().unwrap_err();
        assert_eq!(failure.status.and_then(|status| status.code()), Some(3));
        assert_eq!(failure.log, "started\nno\n");
    }
}
