//! A TPM 2.0 in software (swtpm), each test's own, and its module for PKCS#11. Keys are made by `pkcs11-tool`.

use crate::tools;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The module, where Debian's package puts it.
const MODULE: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so";
/// Where the module finds its store and the TPM, and `tpm2-tools` the latter; the library reads it from the process that
/// loads it.
const STORE: &str = "TPM2_PKCS11_STORE";
const INTERFACES: [&str; 2] = ["TPM2_PKCS11_TCTI", "TPM2TOOLS_TCTI"];
/// What such a test needs.
pub const NEEDS: &str = "needs swtpm, tpm2-tools, libtpm2-pkcs11-1 and opensc";

/// A TPM, which ends with this.
#[derive(Debug)]
pub struct Tpm {
    environment: Vec<(&'static str, OsString)>,
    flush: PathBuf,
    process: Option<Child>,
    _folder: Option<TempDir>,
}

impl Drop for Tpm {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl Tpm {
    /// Whether one can be had here.
    pub fn can_start() -> bool {
        let programs = ["swtpm", "tpm2_flushcontext", "pkcs11-tool"];
        programs.iter().all(|program| tools::find(program).is_some()) && Path::new(MODULE).exists()
    }

    /// A new one with a token `tpm` and this user PIN, or `None` if a program is missing.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(pin: &str) -> Option<Self> {
        if !Self::can_start() {
            return None;
        }
        let (swtpm, flush) = (tools::find("swtpm")?, tools::find("tpm2_flushcontext")?);
        let folder = tempfile::Builder::new().prefix("bulla-tpm-").tempdir().expect("a temporary directory");
        let path = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
        for name in ["state", "store"] {
            std::fs::create_dir(path(name)).expect("a folder");
        }
        let process = Command::new(swtpm)
            .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", path("state"))])
            .args(["--server", &format!("type=unixio,path={}", path("sock"))])
            .args(["--ctrl", &format!("type=unixio,path={}", path("sock.ctrl"))])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm starts");
        let interface = OsString::from(format!("swtpm:path={}", path("sock")));
        let mut environment = vec![(STORE, path("store").into())];
        environment.extend(INTERFACES.map(|name| (name, interface.clone())));
        let tpm = Self { environment, flush, process: Some(process), _folder: Some(folder) };
        let begun = Instant::now();
        while !Path::new(&tpm.socket()).exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        tpm.tool(&["--slot-index", "0", "--init-token", "--label", "tpm", "--so-pin", "12345678"]);
        let so = ["--login-type", "so", "--so-pin", "12345678", "--init-pin", "--pin", pin];
        tpm.tool(&[&["--token-label", "tpm", "--login"], &so[..]].concat());
        Some(tpm)
    }

    /// One for a test that loads the module itself. The module reads the environment of its process, and tests of one
    /// process share theirs, so the test of this name is run again in a process of its own; there, and only there, this
    /// is `Some`. Without swtpm the test is skipped. `prepare` makes keys before: afterwards the module holds the TPM.
    ///
    /// # Panics
    /// If the test fails there.
    pub fn of_this_process(test: &str, pin: &str, prepare: impl FnOnce(&Self)) -> Option<Self> {
        if std::env::var_os(STORE).is_some() {
            let kept = |name| std::env::var_os(name).map(|value| (name, value));
            let environment = [STORE].into_iter().chain(INTERFACES).filter_map(kept).collect();
            let flush = tools::find("tpm2_flushcontext").expect("it was found before");
            return Some(Self { environment, flush, process: None, _folder: None });
        }
        let Some(own) = Self::start(pin) else {
            tools::skipped(test, NEEDS);
            return None;
        };
        prepare(&own);
        own.forget();
        let program = std::env::current_exe().expect("the test's own path");
        let mut again = Command::new(program);
        let ran = again.args(["--exact", test, "--nocapture"]).envs(own.environment.clone()).output();
        let ran = ran.expect("the test runs again");
        let text = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && text.contains("1 passed"), "{}\n{text}", ran.status);
        None
    }

    fn socket(&self) -> String {
        let interface = &self.environment.last().expect("an interface").1;
        interface.to_string_lossy().trim_start_matches("swtpm:path=").to_owned()
    }

    /// The module.
    pub fn module(&self) -> &'static str {
        MODULE
    }

    /// What a program needs to find this TPM.
    pub fn environment(&self) -> &[(&'static str, OsString)] {
        &self.environment
    }

    /// Forgets what the last program left in the TPM's three places, as a resource manager does (`/dev/tpmrm0`).
    ///
    /// # Panics
    /// If that fails.
    pub fn forget(&self) {
        for kind in ["-t", "-l", "-s"] {
            let done = Command::new(&self.flush).arg(kind).envs(self.environment.clone()).output();
            let done = done.expect("tpm2_flushcontext runs");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }

    /// Runs `pkcs11-tool` on the module.
    ///
    /// # Panics
    /// If it fails.
    pub fn tool(&self, args: &[&str]) {
        self.forget();
        let mut command = Command::new("pkcs11-tool");
        let done = command.args(["--module", MODULE]).args(args).envs(self.environment.clone()).output();
        let done = done.expect("pkcs11-tool runs");
        let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "pkcs11-tool: {text}");
    }

    /// Makes a key pair on the token `tpm`, such as `rsa:2048`.
    ///
    /// # Panics
    /// If that fails.
    pub fn pair(&self, pin: &str, kind: &str, label: &str, id: &str, usage: &str) {
        let login = ["--token-label", "tpm", "--login", "--pin", pin];
        let make = ["--keypairgen", "--key-type", kind, usage, "--label", label, "--id", id];
        self.tool(&[&login[..], &make].concat());
    }
}
