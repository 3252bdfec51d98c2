//! A server of OpenBao, each test's own: in memory, over TLS, on a free port, gone with the test.

use crate::{process, tools};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The token that may do everything there.
pub const ROOT: &str = "root-of-this-test";
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct OpenBao {
    binary: PathBuf,
    folder: TempDir,
    port: u16,
    child: Child,
}

impl OpenBao {
    /// A new one with a kv engine at `secret`, or `None` where OpenBao is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Option<Self> {
        let binary = tools::openbao()?;
        let folder = tempfile::Builder::new().prefix("bulla-bao-").tempdir().expect("a temporary directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut server = process::command(&binary);
        server.args(["server", "-dev", "-dev-tls", "-dev-no-store-token", "-log-level=error"]);
        server.arg(format!("-dev-root-token-id={ROOT}")).arg(format!("-dev-listen-address=127.0.0.1:{port}"));
        server.arg(format!("-dev-tls-cert-dir={}", folder.path().display()));
        // Nothing of the caller's environment configures it.
        server.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", folder.path());
        server.current_dir(folder.path()).stdin(Stdio::null());
        server.stdout(log.try_clone().expect("a log")).stderr(log);
        let child = process::spawn(server);
        let mut own = Self { binary, folder, port, child };
        let began = Instant::now();
        // The kv engine takes no writes until it has upgraded itself.
        while !(own.ca().is_file()
            && own.try_run(&["kv", "list", "secret"]).is_err_and(|said| said.contains("No value")))
        {
            let ended = own.child.try_wait().expect("its state");
            assert!(ended.is_none() && began.elapsed() < START, "OpenBao does not answer: {}", own.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(own)
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// PEM of who vouches for its certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("vault-ca.pem")
    }

    /// OpenBao's own program.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs `bao` with these arguments as the root; what it printed, or why not.
    ///
    /// # Errors
    /// What it says.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn try_run(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.binary);
        command.args(args).env_clear().env("HOME", self.folder.path()).current_dir(self.folder.path());
        command.env("BAO_ADDR", self.address()).env("BAO_CACERT", self.ca()).env("BAO_TOKEN", ROOT);
        let done = command.stdin(Stdio::null()).output().expect("bao runs");
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned());
        }
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// As [`OpenBao::try_run`], for what has to work.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        self.try_run(args).unwrap_or_else(|error| panic!("bao {}: {error}", args.join(" ")))
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
