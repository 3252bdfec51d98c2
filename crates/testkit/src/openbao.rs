//! A server of OpenBao, each test's own: over TLS, on a free port, gone with the test. Usually it keeps all in memory; one
//! that keeps it on disk can be killed, and comes back sealed.

use crate::{process, tls, tools};
use rustix::process::Signal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The token that may do everything there, if all is in memory.
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
    root: String,
    /// What opens one that keeps its data on disk.
    share: Option<String>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// Starts the server with these arguments. Nothing of the caller's environment configures it.
fn serve(binary: &Path, folder: &Path, args: &[String]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut server = process::command(binary);
    server.arg("server").args(args);
    server.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", folder);
    server.current_dir(folder).stdin(Stdio::null());
    server.stdout(log.try_clone().expect("a log")).stderr(log);
    process::spawn(server)
}

impl OpenBao {
    /// A new one with a kv engine at `secret`, or `None` where OpenBao is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Option<Self> {
        let binary = tools::openbao()?;
        let folder = tempfile::Builder::new().prefix("bulla-bao-").tempdir().expect("a temporary directory");
        let port = free_port();
        let mut args = ["-dev", "-dev-tls", "-dev-no-store-token", "-log-level=error"].map(str::to_owned).to_vec();
        args.push(format!("-dev-root-token-id={ROOT}"));
        args.push(format!("-dev-listen-address=127.0.0.1:{port}"));
        args.push(format!("-dev-tls-cert-dir={}", folder.path().display()));
        let child = serve(&binary, folder.path(), &args);
        let mut own = Self { binary, folder, port, child, root: ROOT.to_owned(), share: None };
        // The kv engine takes no writes until it has upgraded itself.
        own.wait(|own| own.try_run(&["kv", "list", "secret"]).is_err_and(|said| said.contains("No value")));
        Some(own)
    }

    /// A new one that keeps its data on disk, or `None` where OpenBao is not installed. It has no engines yet.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_on_disk() -> Option<Self> {
        let binary = tools::openbao()?;
        let folder = tempfile::Builder::new().prefix("bulla-bao-").tempdir().expect("a temporary directory");
        let (port, own) = (free_port(), folder.path());
        let (certificate, key) = tls::of_this_machine();
        std::fs::write(own.join("vault-ca.pem"), certificate).expect("a certificate");
        std::fs::write(own.join("key.pem"), key).expect("a key");
        std::fs::create_dir(own.join("data")).expect("a folder");
        let text = format!(
            "storage \"raft\" {{\n path = \"{0}/data\"\n node_id = \"a\"\n}}\nlistener \"tcp\" {{\n address = \
             \"127.0.0.1:{port}\"\n tls_cert_file = \"{0}/vault-ca.pem\"\n tls_key_file = \"{0}/key.pem\"\n}}\napi_addr = \
             \"https://127.0.0.1:{port}\"\ncluster_addr = \"https://127.0.0.1:{1}\"\ndisable_mlock = true\n",
            own.display(),
            free_port()
        );
        std::fs::write(own.join("bao.hcl"), text).expect("a configuration");
        let child = serve(&binary, own, &Self::on_disk(own));
        let mut own = Self { binary, folder, port, child, root: String::new(), share: None };
        own.wait_until_sealed();
        let made = own.run(&["operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json"]);
        let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
        own.root = made["root_token"].as_str().expect("a token").to_owned();
        own.share = Some(made["unseal_keys_b64"][0].as_str().expect("a share").to_owned());
        own.unseal();
        Some(own)
    }

    fn on_disk(folder: &Path) -> Vec<String> {
        vec![format!("-config={}", folder.join("bao.hcl").display()), "-log-level=error".to_owned()]
    }

    /// Waits until it is as it is to be.
    fn wait(&mut self, ready: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !(self.ca().is_file() && ready(self)) {
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none() && began.elapsed() < START, "OpenBao does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until it listens, sealed: `bao status` ends with 2 then.
    fn wait_until_sealed(&mut self) {
        self.wait(|own| own.command(&["status"]).output().expect("bao runs").status.code() == Some(2));
    }

    /// Kills it, as a machine that loses power does.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts one that was killed and keeps its data on disk; it is sealed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        self.child = serve(&self.binary, self.folder.path(), &Self::on_disk(self.folder.path()));
        self.wait_until_sealed();
    }

    /// Opens one that keeps its data on disk, and waits until it serves.
    ///
    /// # Panics
    /// If it does not open.
    pub fn unseal(&mut self) {
        let share = self.share.clone().expect("one on disk");
        self.run(&["operator", "unseal", &share]);
        // It opens before it serves.
        self.wait(|own| own.try_run(&["token", "lookup"]).is_ok());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(&self.child, signal);
    }

    /// Its folder, in which `bao` runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The token that may do everything.
    pub fn root(&self) -> &str {
        &self.root
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).env_clear().env("HOME", self.folder.path()).current_dir(self.folder.path());
        command.env("BAO_ADDR", self.address()).env("BAO_CACERT", self.ca()).env("BAO_TOKEN", &self.root);
        command.stdin(Stdio::null());
        command
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
        let done = self.command(args).output().expect("bao runs");
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
