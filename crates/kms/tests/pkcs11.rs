//! Keys on tokens of SoftHSM, as a provider.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_crypto::random::SystemRng;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_keys::Tokens;
use bulla_keys::uri::TokenUri;
use bulla_kms::key::KeyRef;
use bulla_kms::provider::pkcs11::{Pkcs11, Settings};
use bulla_kms::provider::{Class, Context, Kind, Provider as _, ProviderError};
use bulla_testkit::softhsm::SoftHsm;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const PIN: &str = "1234";
const PRIVATE: &[&str] = &["--private", "--sensitive"];
const CONTEXT: fn() -> Context = || Context::new("prod", "b1.x");

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// A folder with the PIN in a file, and the module.
struct Desk {
    folder: tempfile::TempDir,
    module: &'static str,
}

impl Desk {
    fn new(hsm: &SoftHsm) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap(), module: hsm.module() };
        desk.pin(PIN);
        desk
    }

    fn pin_file(&self) -> PathBuf {
        self.folder.path().join("pin")
    }

    fn pin(&self, pin: &str) {
        fs::write(self.pin_file(), pin).unwrap();
        fs::set_permissions(self.pin_file(), Permissions::from_mode(0o600)).unwrap();
    }

    fn uri(&self, path: &str) -> String {
        format!("pkcs11:{path}?module-path={}", self.module)
    }

    /// A provider whose first key wraps.
    fn provider(&self, paths: &[&str]) -> Pkcs11 {
        self.opened(paths).unwrap()
    }

    fn opened(&self, paths: &[&str]) -> Result<Pkcs11, ProviderError> {
        let uris: Vec<String> = paths.iter().map(|path| self.uri(path)).collect();
        let (uri, also) = uris.split_first().unwrap();
        let settings = serde_json::json!({"uri": uri, "also": also, "pin_file": self.pin_file()});
        Pkcs11::open_with(&serde_json::from_value::<Settings>(settings).unwrap(), Duration::from_millis(1500))
    }

    /// Makes a key as `bulla kms keygen` does, and gives the path of its URI.
    fn make(&self, token: &str, label: &str) -> String {
        let uri: TokenUri = self.uri(&format!("token={token};object={label}")).parse().unwrap();
        let pin = |_: (&str, &str)| Ok(SecretBytes::new(PIN.as_bytes().to_vec()));
        let id = Tokens::default().generate_aes(&uri, &mut SystemRng, &pin).unwrap();
        let id: String = id.iter().map(|byte| format!("%{byte:02X}")).collect();
        format!("token={token};object={label};id={id}")
    }
}

fn plain() -> SecretKey {
    SecretKey::new([7; 32])
}

fn active(provider: &Pkcs11) -> KeyRef {
    now(provider.observe()).unwrap().active
}

fn class<T>(done: Result<T, ProviderError>) -> Class {
    let error = done.err().unwrap();
    assert!(!error.text.contains(PIN), "{error}");
    error.class
}

fn goes_round(provider: &Pkcs11) {
    let key = active(provider);
    let wrapped = now(provider.wrap(&key, &plain(), &CONTEXT())).unwrap();
    assert_eq!(now(provider.unwrap(&key, &wrapped, &CONTEXT())).unwrap().expose(), plain().expose());
}

#[test]
fn a_key_wraps_and_everything_counts() {
    let Some(hsm) = SoftHsm::of_this_process("a_key_wraps_and_everything_counts") else { return };
    hsm.token("ops", PIN);
    let desk = Desk::new(&hsm);
    let provider = desk.provider(&[&desk.make("ops", "kms")]);
    assert_eq!(provider.kind(), Kind::Pkcs11);
    let seen = now(provider.observe()).unwrap();
    let key = seen.active;
    assert_eq!(seen.readable, std::slice::from_ref(&key));
    assert!(key.backend.len() == "pkcs11:".len() + 32 && key.check.starts_with("gcm:"), "{key:?}");
    let wrapped = now(provider.wrap(&key, &plain(), &CONTEXT())).unwrap();
    assert_eq!(wrapped.len(), provider.max_wrapped_bytes());
    assert_ne!(wrapped, now(provider.wrap(&key, &plain(), &CONTEXT())).unwrap());
    assert_eq!(now(provider.unwrap(&key, &wrapped, &CONTEXT())).unwrap().expose(), plain().expose());
    let other = Context::new("test", "b1.x");
    assert_eq!(class(now(provider.unwrap(&key, &wrapped, &other))), Class::Corrupt);
    for place in 0..wrapped.len() {
        let mut bent = wrapped.clone();
        *bent.get_mut(place).unwrap() ^= 1;
        assert_eq!(class(now(provider.unwrap(&key, &bent, &CONTEXT()))), Class::Corrupt, "{place}");
    }
    for cut in [0, 12, wrapped.len() - 1] {
        assert_eq!(class(now(provider.unwrap(&key, wrapped.get(..cut).unwrap(), &CONTEXT()))), Class::Corrupt);
    }
    // Another key under the same id, as after an exchange on the token.
    let exchanged = KeyRef { check: format!("gcm:{}", "0".repeat(32)), ..key.clone() };
    assert_eq!(class(now(provider.wrap(&exchanged, &plain(), &CONTEXT()))), Class::UnknownKey);
    assert_eq!(class(now(provider.unwrap(&exchanged, &wrapped, &CONTEXT()))), Class::UnknownKey);
    let unknown = KeyRef { backend: "pkcs11:00".into(), ..key };
    assert_eq!(class(now(provider.unwrap(&unknown, &wrapped, &CONTEXT()))), Class::UnknownKey);
    goes_round(&provider);
    // What was made cannot leave, and does nothing else.
    let shown = hsm.tool("ops", PIN, &["--list-objects", "--type", "secrkey"]);
    assert!(shown.contains("sensitive, always sensitive, never extractable, local"), "{shown}");
    assert!(shown.contains("Usage:      encrypt, decrypt\n"), "{shown}");
}

#[test]
fn nodes_with_one_key_say_the_same_and_read_each_other() {
    const NAME: &str = "nodes_with_one_key_say_the_same_and_read_each_other";
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    let desk = Desk::new(&hsm);
    for (token, key) in [("cp-1", 1), ("cp-2", 1), ("cp-3", 3)] {
        hsm.token(token, PIN);
        hsm.aes(token, PIN, ("kms", "0a0b"), [key; 32], PRIVATE);
    }
    let [one, two, wrong] = ["cp-1", "cp-2", "cp-3"].map(|token| desk.provider(&[&format!("token={token};id=%0A%0B")]));
    let key = active(&one);
    assert_eq!(key, active(&two));
    assert_eq!(key.backend, "pkcs11:0a0b");
    // What everybody can compute who has AES: AES-256-GCM, IV "bulla/kcheck", and a hash.
    assert_eq!(key.check, "gcm:afde3d1c1bc7122c05b706742ca1fa6b");
    let wrapped = now(one.wrap(&key, &plain(), &CONTEXT())).unwrap();
    assert_eq!(now(two.unwrap(&key, &wrapped, &CONTEXT())).unwrap().expose(), plain().expose());
    // A node that was given a key of its own under the same label and id says so, and takes no part.
    let other = active(&wrong);
    assert_eq!(other.backend, key.backend);
    assert_ne!(other.digest(), key.digest());
    assert_eq!(class(now(wrong.unwrap(&key, &wrapped, &CONTEXT()))), Class::UnknownKey);
}

#[test]
fn keys_of_one_label_are_told_apart() {
    let Some(hsm) = SoftHsm::of_this_process("keys_of_one_label_are_told_apart") else { return };
    hsm.token("ops", PIN);
    let desk = Desk::new(&hsm);
    hsm.aes("ops", PIN, ("kms", "01"), [1; 32], PRIVATE);
    hsm.aes("ops", PIN, ("kms", "02"), [2; 32], PRIVATE);
    let label = now(desk.provider(&["token=ops;object=kms"]).observe()).unwrap_err();
    assert_eq!(label.class, Class::Config);
    assert!(label.text.contains("kms (id=%01), kms (id=%02)") && label.text.contains("add id="), "{label}");
    let [first, second] = ["01", "02"].map(|id| active(&desk.provider(&[&format!("token=ops;object=kms;id=%{id}")])));
    assert_ne!(first.digest(), second.digest());
    // Keys of one id are one too many, whatever their labels.
    hsm.aes("ops", PIN, ("copy", "02"), [3; 32], PRIVATE);
    assert_eq!(class(now(desk.provider(&["token=ops;id=%02"]).observe())), Class::Config);
    assert_eq!(active(&desk.provider(&["token=ops;object=kms;id=%02"])), second);
    // Who has no PIN puts no key there: it is not seen, beside the own one and alone.
    hsm.aes("ops", PIN, ("kms", "01"), [9; 32], &[]);
    assert_eq!(active(&desk.provider(&["token=ops;object=kms;id=%01"])), first);
    hsm.aes("ops", PIN, ("kms", "05"), [9; 32], &[]);
    let none = now(desk.provider(&["token=ops;id=%05"]).observe()).unwrap_err();
    assert_eq!(none.class, Class::UnknownKey);
    assert!(none.text.contains("copy (id=%02)") && !none.text.contains("%05"), "{none}");
    // One that could be read by who has the PIN.
    hsm.aes("ops", PIN, ("kms", "06"), [6; 32], &["--private"]);
    hsm.aes("ops", PIN, ("kms", "07"), [6; 32], &["--private", "--sensitive", "--extractable"]);
    for id in ["06", "07"] {
        assert_eq!(class(now(desk.provider(&[&format!("token=ops;id=%{id}")]).observe())), Class::Config);
    }
    // Said before anything is asked of the token.
    assert_eq!(class(desk.opened(&["token=ops;id=%01", "token=ops;id=%01"])), Class::Config);
}

#[test]
fn a_key_is_rotated() {
    let Some(hsm) = SoftHsm::of_this_process("a_key_is_rotated") else { return };
    hsm.token("ops", PIN);
    hsm.token("new", PIN);
    let desk = Desk::new(&hsm);
    let (old, new) = (desk.make("ops", "kms"), desk.make("new", "kms"));
    let before = desk.provider(&[&old]);
    let first = active(&before);
    let wrapped = now(before.wrap(&first, &plain(), &CONTEXT())).unwrap();
    drop(before);
    let after = desk.provider(&[&new, &old]);
    let seen = now(after.observe()).unwrap();
    assert_ne!(seen.active, first);
    assert_eq!(seen.readable, [seen.active.clone(), first.clone()]);
    assert_eq!(now(after.unwrap(&first, &wrapped, &CONTEXT())).unwrap().expose(), plain().expose());
    goes_round(&after);
    // The old one is deleted: new keys go on, and what it wrapped fails by its name.
    let id: String = old.rsplit_once("id=").unwrap().1.split('%').collect();
    hsm.tool("ops", PIN, &["--delete-object", "--type", "secrkey", "--id", &id]);
    let seen = now(after.observe()).unwrap();
    assert_eq!(seen.readable, [seen.active]);
    assert_eq!(class(now(after.unwrap(&first, &wrapped, &CONTEXT()))), Class::UnknownKey);
    goes_round(&after);
}

#[test]
fn a_module_that_comes_later_is_loaded() {
    let Some(hsm) = SoftHsm::of_this_process("a_module_that_comes_later_is_loaded") else { return };
    hsm.token("ops", PIN);
    let desk = Desk::new(&hsm);
    let path = desk.make("ops", "kms");
    let module = desk.folder.path().join("module.so");
    let uri = format!("pkcs11:{path}?module-path={}", module.display());
    let settings = serde_json::json!({"uri": uri, "pin_file": desk.pin_file()});
    let provider = Pkcs11::open(&serde_json::from_value(settings).unwrap()).unwrap();
    fs::write(&module, "not yet").unwrap();
    for _ in 0..2 {
        let early = now(provider.observe()).unwrap_err();
        assert_eq!(early.class, Class::Config);
        assert!(early.text.contains("module.so"), "{early}");
    }
    fs::remove_file(&module).unwrap();
    assert_eq!(class(now(provider.observe())), Class::Config);
    std::os::unix::fs::symlink(hsm.module(), &module).unwrap();
    goes_round(&provider);
}

/// That it really is not sent, `a_refused_pin_is_not_sent_though_it_became_right` of bulla-keys shows.
#[test]
fn a_refused_pin_is_never_sent_again() {
    let Some(hsm) = SoftHsm::of_this_process("a_refused_pin_is_never_sent_again") else { return };
    hsm.token("ops", PIN);
    let desk = Desk::new(&hsm);
    let path = desk.make("ops", "kms");
    desk.pin("98765");
    let provider = desk.provider(&[&path]);
    let refused = now(provider.observe()).unwrap_err();
    assert_eq!(refused.class, Class::Denied);
    assert!(refused.text.contains("refused the PIN;") && !refused.text.contains("98765"), "{refused}");
    let key = KeyRef { backend: String::new(), version: "1".into(), check: String::new(), created: None };
    for _ in 0..3 {
        let again = now(provider.observe()).unwrap_err();
        assert_eq!(again.class, Class::Denied);
        assert!(again.text.contains("does not get it again"), "{again}");
        assert_eq!(class(now(provider.wrap(&key, &plain(), &CONTEXT()))), Class::UnknownKey);
    }
    // Another one in the file is taken, without a restart.
    desk.pin(PIN);
    goes_round(&provider);
    fs::remove_file(desk.pin_file()).unwrap();
    assert_eq!(class(now(desk.provider(&[&path]).observe())), Class::Config);
}

#[test]
fn a_token_that_hung_is_used_again_and_one_that_is_gone_is_missed() {
    const NAME: &str = "a_token_that_hung_is_used_again_and_one_that_is_gone_is_missed";
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    if std::env::var_os(HOLD).is_some() {
        return Holder::hold(&hsm);
    }
    hsm.token("ops", PIN);
    let desk = Desk::new(&hsm);
    let provider = desk.provider(&[&desk.make("ops", "kms")]);
    let key = active(&provider);
    let wrapped = now(provider.wrap(&key, &plain(), &CONTEXT())).unwrap();
    let hung = Holder::start(NAME);
    for _ in 0..2 {
        let late = now(provider.unwrap(&key, &wrapped, &CONTEXT())).unwrap_err();
        assert_eq!(late.class, Class::Unavailable);
        assert!(late.text.contains("no answer within"), "{late}");
    }
    // What piles up is given up at once, and a call that is dropped leaves nothing behind.
    drop(now(async { tokio::time::timeout(Duration::from_millis(50), provider.observe()).await }));
    drop(hung);
    goes_round(&provider);
    // The token's files are taken away, as when it is pulled out.
    let tokens = hsm.configuration().with_file_name("tokens");
    fs::rename(&tokens, tokens.with_file_name("away")).unwrap();
    fs::create_dir(&tokens).unwrap();
    for _ in 0..2 {
        assert!(matches!(class(now(provider.observe())), Class::Unavailable | Class::UnknownKey));
        let gone = class(now(provider.unwrap(&key, &wrapped, &CONTEXT())));
        assert!(matches!(gone, Class::Unavailable | Class::UnknownKey), "{gone}");
    }
}

/// Another process that holds the token's files: locks of this one would be its own. It ends with its input.
struct Holder {
    process: Child,
    _output: BufReader<ChildStdout>,
}

const HOLD: &str = "BULLA_TEST_HOLD";

impl Holder {
    fn start(test: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(HOLD, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("held") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended");
        }
        Self { process, _output: output }
    }

    /// In that process.
    fn hold(hsm: &SoftHsm) {
        let locked = hsm.hang();
        println!("held");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        drop(locked);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}
