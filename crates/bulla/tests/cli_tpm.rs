//! Somebody whose signing key is in a TPM 2.0, through its module for PKCS#11: swtpm, which is a TPM in software.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::{Cli, Options, Server, bulla, skip, tools};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TEST: &str = "a_key_in_a_tpm_signs";
const MODULE: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so";
const PIN: &str = "1234";

/// A TPM of the test's own, which ends with it.
struct Tpm {
    process: Child,
    directory: tempfile::TempDir,
    flush: PathBuf,
}

impl Drop for Tpm {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Tpm {
    /// `None` if a program is missing.
    fn start() -> Option<Self> {
        let (swtpm, flush) = (tools::find("swtpm")?, tools::find("tpm2_flushcontext")?);
        tools::find("pkcs11-tool").filter(|_| Path::new(MODULE).exists())?;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for name in ["state", "store"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let process = Command::new(swtpm)
            .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", path("state"))])
            .args(["--server", &format!("type=unixio,path={}", path("sock"))])
            .args(["--ctrl", &format!("type=unixio,path={}", path("sock.ctrl"))])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !Path::new(&path("sock")).exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { process, directory, flush })
    }

    fn environment(&self) -> [(&'static str, String); 3] {
        let path = |name: &str| self.directory.path().join(name).to_str().unwrap().to_owned();
        let interface = format!("swtpm:path={}", path("sock"));
        [("TPM2_PKCS11_STORE", path("store")), ("TPM2_PKCS11_TCTI", interface.clone()), ("TPM2TOOLS_TCTI", interface)]
    }

    /// Forgets what the last program left in the TPM's three places, as a resource manager does (`/dev/tpmrm0`).
    fn forget(&self) {
        for kind in ["-t", "-l", "-s"] {
            let done = Command::new(&self.flush).arg(kind).envs(self.environment()).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }

    fn tool(&self, cli: &Cli, args: &[&str]) {
        self.forget();
        let tool = tools::find("pkcs11-tool").unwrap();
        let done = cli.run_program(&tool, [&["--module", MODULE], args].concat(), b"");
        assert_eq!(done.code, 0, "{}{}", done.text(), done.errors());
    }
}

#[test]
fn a_key_in_a_tpm_signs() {
    let Some(tpm) = Tpm::start() else {
        skip!(TEST, "needs swtpm, tpm2-tools, libtpm2-pkcs11-1 and opensc");
    };
    let mut ann = Cli::new(bulla!());
    tpm.environment().into_iter().for_each(|(name, value)| {
        ann.env(name, value);
    });
    tpm.tool(&ann, &["--slot-index", "0", "--init-token", "--label", "tpm", "--so-pin", "12345678"]);
    let login = ["--token-label", "tpm", "--login"];
    let so = ["--login-type", "so", "--so-pin", "12345678", "--init-pin", "--pin", PIN];
    tpm.tool(&ann, &[&login[..], &so].concat());
    let make = ["--pin", PIN, "--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--label", "ann"];
    tpm.tool(&ann, &[&login[..], &make, &["--id", "01"]].concat());

    let pin = ann.file("pin", PIN.as_bytes());
    std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o600)).unwrap();
    let key = format!("pkcs11:token=tpm;object=ann?module-path={MODULE}&pin-source=file:{}", pin.display());
    let run = |args: &[&str]| {
        tpm.forget();
        ann.run(args)
    };
    // It signs only: tpm2-pkcs11 1.9 agrees on no key, so a second one decrypts.
    run(&["keygen", "-q", "-o", "opens.key"]).ok();
    assert!(run(&["keygen", "--from", &key, "-o", "ann.pub"]).failed(64).contains("--decrypt-with"));
    run(&["keygen", "--from", &key, "--decrypt-with", "opens.key", "-o", "ann.pub"]).ok();

    // An admin: the seal, an admission, a wrap there and back, and a request for something secret.
    let server = Server::start(Options::transient(bulla!()).admin(ann.work().join("ann.pub")));
    let ready = server.directory().join("ready-1.json");
    let both = ["--identity", &key, "--decrypt-with", "opens.key"];
    let run = |args: &[&str]| run(&[&both[..], args].concat());
    let init = ["--name", "test", "--any", "--admin", "ann.pub", "--ready-file", ready.to_str().unwrap()];
    run(&[&["init"], &init[..], &["--save-context", "test"]].concat()).ok();
    run(&["unseal", "--yes"]).ok();
    assert!(run(&["whoami"]).ok().contains("ann"));
    ann.file("all.cedar", b"permit (principal, action in Bulla::Action::\"kv\", resource);\n");
    run(&["policy", "put", "all", "all.cedar"]).ok();
    run(&["kv", "put", "app/db", "password=x"]).ok();
    assert_eq!(run(&["kv", "get", "app/db", "--field", "password"]).ok(), "x");
    ann.file("letter", b"to myself");
    let slip = run(&["wrap", "create", "--to", "ann", "letter"]).ok();
    assert_eq!(run(&["open", &slip]).ok(), "to myself");
}
