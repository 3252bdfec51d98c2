//! Tokens of SoftHSM as a service uses them.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_crypto::random::SystemRng;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_keys::pin::PinError;
use bulla_keys::uri::{ModuleName, TokenUri};
use bulla_keys::{AesKey, Outcome, TokenError, TokenWorker, Tokens};
use bulla_testkit::softhsm::SoftHsm;
use bulla_testkit::{skip, tools};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

const PIN: &str = "1234";

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn right(_: (&str, &str)) -> Result<SecretBytes, PinError> {
    Ok(SecretBytes::new(PIN.as_bytes().to_vec()))
}

/// Makes a key, and names it.
fn make(hsm: &SoftHsm) -> TokenUri {
    hsm.token("ops", PIN);
    let mut uri: TokenUri = format!("pkcs11:token=ops;object=k8s?module-path={}", hsm.module()).parse().unwrap();
    uri.id = Some(Tokens::default().generate_aes(&uri, &mut SystemRng, &right).unwrap());
    uri
}

fn write_pin(path: &Path, pin: &str) {
    fs::write(path, pin).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn key(uri: &TokenUri, pin: &Path) -> AesKey {
    let worker = TokenWorker::start(uri, Some(pin.into()), Duration::from_secs(5)).unwrap();
    AesKey::new(Arc::new(worker), uri).unwrap()
}

#[test]
fn a_lost_hsm_session_is_opened_again() {
    let Some(hsm) = SoftHsm::of_this_process("a_lost_hsm_session_is_opened_again") else { return };
    let (folder, uri) = (tempfile::tempdir().unwrap(), make(&hsm));
    let pin = folder.path().join("pin");
    write_pin(&pin, PIN);
    let key = key(&uri, &pin);
    let check = now(key.check()).unwrap();
    let sealed = now(key.encrypt(&check, &SecretKey::new([7; 32]), b"place".to_vec())).unwrap();
    // The PIN is kept while the token is in use: the file is not needed for this.
    fs::remove_file(&pin).unwrap();
    // The module forgets every session and who logged in, as when a token is plugged in again.
    let context = Pkcs11::new(hsm.module()).unwrap();
    context.clone().finalize().unwrap();
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    assert_eq!(now(key.decrypt(&check, &sealed, b"place".to_vec())).unwrap().expose(), &[7; 32]);
    let wrong = now(key.decrypt(&check, &sealed, b"elsewhere".to_vec())).unwrap_err();
    assert_eq!(wrong.outcome(), Outcome::NotAuthentic);
    assert_eq!(now(key.check()).unwrap(), check);
}

/// Proof that the PIN is not sent: it is the right one by then.
#[test]
fn a_refused_pin_is_not_sent_though_it_became_right() {
    const LATER: &str = "98765";
    let Some(hsm) = SoftHsm::of_this_process("a_refused_pin_is_not_sent_though_it_became_right") else { return };
    let (folder, uri) = (tempfile::tempdir().unwrap(), make(&hsm));
    let pin = folder.path().join("pin");
    write_pin(&pin, LATER);
    let key = key(&uri, &pin);
    let refused = now(key.check()).unwrap_err();
    assert!(matches!(refused, TokenError::WrongPin { .. }), "{refused}");
    // Through the module in this process, which remembers the PIN.
    let context = Pkcs11::new(hsm.module()).unwrap();
    let change = |from: &str, to: &str| change_pin(&context, from, to);
    change(PIN, LATER);
    for _ in 0..3 {
        let again = now(key.check()).unwrap_err();
        assert!(matches!(again, TokenError::RefusedBefore { .. }), "{again}");
        assert_eq!(again.outcome(), Outcome::Denied);
    }
    change(LATER, "5555");
    write_pin(&pin, "5555");
    now(key.check()).unwrap();
    // Nor by another worker, though it is the right one, nor by somebody else who is not there.
    drop(key);
    change("5555", LATER);
    write_pin(&pin, LATER);
    let again = now(self::key(&uri, &pin).check()).unwrap_err();
    assert!(matches!(again, TokenError::RefusedBefore { .. }), "{again}");
    let ask = |_: (&str, &str)| Ok(SecretBytes::new(LATER.as_bytes().to_vec()));
    let again = Tokens::default().cautious().identity(&uri, &ask).map(|_| ()).unwrap_err();
    assert!(matches!(again, TokenError::RefusedBefore { .. }), "{again}");
    // A person who knows what he does may; then it is known to be right. The AES key is no identity, for which it is asked.
    let found = Tokens::default().identity(&uri, &ask).map(|_| ()).unwrap_err();
    assert!(matches!(found, TokenError::NoKey { .. }), "{found}");
    now(self::key(&uri, &pin).check()).unwrap();
}

/// Has another PIN be the token's, beside whoever uses it.
fn change_pin(context: &Pkcs11, from: &str, to: &str) {
    let slot = *context.get_slots_with_initialized_token().unwrap().first().unwrap();
    let session = context.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::new(from.into()))).unwrap();
    session.set_pin(&AuthPin::new(from.into()), &AuthPin::new(to.into())).unwrap();
    session.logout().unwrap();
}

/// Proof that the second one does not send it: it is the right one again by then.
#[test]
fn of_two_that_hold_a_pin_from_before_one_sends_it() {
    const LATER: &str = "24680";
    let Some(hsm) = SoftHsm::of_this_process("of_two_that_hold_a_pin_from_before_one_sends_it") else { return };
    let (folder, uri) = (tempfile::tempdir().unwrap(), make(&hsm));
    let pin = folder.path().join("pin");
    write_pin(&pin, PIN);
    let (one, other) = (key(&uri, &pin), key(&uri, &pin));
    now(one.check()).unwrap();
    now(other.check()).unwrap();
    // The module forgets every session and who logged in, as when a token is plugged in again.
    let context = Pkcs11::new(hsm.module()).unwrap();
    context.clone().finalize().unwrap();
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let change = |from: &str, to: &str| change_pin(&context, from, to);
    change(PIN, LATER);
    let refused = now(one.check()).unwrap_err();
    assert!(matches!(refused, TokenError::WrongPin { .. }), "{refused}");
    change(LATER, PIN);
    for worker in [&other, &one, &other] {
        let again = now(worker.check()).unwrap_err();
        assert!(matches!(again, TokenError::RefusedBefore { .. }), "{again}");
    }
    change(PIN, LATER);
    write_pin(&pin, LATER);
    now(other.check()).unwrap();
    now(one.check()).unwrap();
}

#[test]
fn of_many_that_log_in_at_once_with_a_wrong_pin_one_sends_it() {
    const MANY: usize = 6;
    let Some(hsm) = SoftHsm::of_this_process("of_many_that_log_in_at_once_with_a_wrong_pin_one_sends_it") else {
        return;
    };
    let uri = make(&hsm);
    let wrong = |_: (&str, &str)| Ok(SecretBytes::new(b"13579".to_vec()));
    let start = Barrier::new(MANY);
    let log_in = || {
        start.wait();
        Tokens::default().cautious().identity(&uri, &wrong).map(|_| ()).unwrap_err()
    };
    let errors: Vec<TokenError> = thread::scope(|scope| {
        let all: Vec<_> = (0..MANY).map(|_| scope.spawn(log_in)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let sent = errors.iter().filter(|error| matches!(error, TokenError::WrongPin { .. })).count();
    let kept = errors.iter().filter(|error| matches!(error, TokenError::RefusedBefore { .. })).count();
    assert_eq!((sent, kept), (1, MANY - 1), "{errors:?}");
}

/// A module that hangs as soon as it is asked for its functions.
const HANGS: &str =
    "#include <unistd.h>\nunsigned long C_GetFunctionList(void **list) { *list = 0; for (;;) pause(); }\n";

#[test]
fn a_module_that_hangs_keeps_no_other_waiting() {
    const NAME: &str = "a_module_that_hangs_keeps_no_other_waiting";
    const LIMIT: Duration = Duration::from_millis(300);
    if tools::find("cc").is_none() {
        skip!(NAME, "needs a C compiler");
    }
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    let (folder, uri) = (tempfile::tempdir().unwrap(), make(&hsm));
    let pin = folder.path().join("pin");
    write_pin(&pin, PIN);
    let hangs = TokenUri { module: Some(build(folder.path(), HANGS, &[])), ..uri.clone() };
    let worker = Arc::new(TokenWorker::start(&hangs, Some(pin.clone()), LIMIT).unwrap());
    let stuck = AesKey::new(worker.clone(), &hangs).unwrap();
    for _ in 0..2 {
        let late = now(stuck.check()).unwrap_err();
        assert!(matches!(late, TokenError::TimedOut { .. }), "{late}");
    }
    // One that was loaded before, and one that is loaded only now.
    now(key(&uri, &pin).check()).unwrap();
    let other = TokenUri { module: Some(shim(&hsm, folder.path(), "-DMAKES_IV")), ..uri };
    now(key(&other, &pin).check()).unwrap();
    // Whoever comes again and again to the one that hangs leaves only so many threads there.
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    for _ in 0..24 {
        let late = Tokens::default().limit(Duration::from_millis(20)).identity(&hangs, &right).map(|_| ()).unwrap_err();
        assert!(matches!(late, TokenError::TimedOut { .. }), "{late}");
    }
    assert!(threads() <= before + 8, "{before} became {}", threads());
}

#[test]
fn sessions_that_hang_leave_only_so_many_threads() {
    const NAME: &str = "sessions_that_hang_leave_only_so_many_threads";
    if tools::find("cc").is_none() {
        skip!(NAME, "needs a C compiler");
    }
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    let (folder, uri) = (tempfile::tempdir().unwrap(), make(&hsm));
    let hangs = TokenUri { module: Some(shim(&hsm, folder.path(), "-DHANGS")), ..uri };
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    for _ in 0..24 {
        let tokens = Tokens::default().cautious().limit(Duration::from_millis(200));
        let late = tokens.identity(&hangs, &right).map(|_| ()).unwrap_err();
        assert!(matches!(late, TokenError::TimedOut { .. }), "{late}");
    }
    assert!(threads() <= before + 8, "{before} became {}", threads());
}

/// SoftHSM with rules of other tokens: who encrypts by AES-GCM brings no IV and finds one, as certified ones have it; a
/// wrong PIN would be the last; a session never opens.
const SHIM: &str = r#"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef struct { unsigned long type; void *parameter; unsigned long length; } Mechanism;
typedef struct { unsigned char *iv; unsigned long length; } Gcm;
typedef unsigned long (*Init)(unsigned long, Mechanism *, unsigned long);
typedef struct { unsigned char version[2]; void *functions[68]; } List;
static List list;
static Init init;
static unsigned long (*info)(unsigned long, unsigned char *);
static unsigned long encrypt_init(unsigned long session, Mechanism *mechanism, unsigned long key) {
    if (mechanism->type == 0x1087) {
        Gcm *gcm = mechanism->parameter;
        for (unsigned long i = 0; i < gcm->length; i++)
            if (gcm->iv[i]) return 0x71;
        if (getentropy(gcm->iv, gcm->length)) return 5;
    }
    return init(session, mechanism, key);
}
#define FINAL_TRY 0x20000
static unsigned long token_info(unsigned long slot, unsigned char *out) {
    unsigned long done = info(slot, out);
    if (!done) *(unsigned long *)(out + 96) |= FINAL_TRY;
    return done;
}
static unsigned long open_session(void) { for (;;) pause(); }
unsigned long C_GetFunctionList(List **out) {
    void *module = dlopen(SOFTHSM, RTLD_NOW);
    unsigned long (*get)(List **) = dlsym(module, "C_GetFunctionList");
    List *real;
    unsigned long done = get(&real);
    if (done) return done;
    memcpy(&list, real, sizeof list);
    init = (Init)list.functions[29];
    info = (unsigned long (*)(unsigned long, unsigned char *))list.functions[6];
#ifdef MAKES_IV
    list.functions[29] = encrypt_init;
#endif
#ifdef HANGS
    list.functions[12] = open_session;
#endif
#ifdef LAST_TRY
    list.functions[6] = token_info;
#endif
    *out = &list;
    return 0;
}
"#;

/// Builds it with one of the rules.
fn shim(hsm: &SoftHsm, folder: &Path, rule: &str) -> ModuleName {
    build(folder, SHIM, &[rule, &format!("-DSOFTHSM=\"{}\"", hsm.module())])
}

/// Builds a module of its source.
fn build(folder: &Path, source: &str, options: &[&str]) -> ModuleName {
    let name = if options.is_empty() { "module" } else { "shim" };
    let (file, module) = (folder.join(name).with_extension("c"), folder.join(name).with_extension("so"));
    fs::write(&file, source).unwrap();
    let mut built = Command::new("cc");
    built.args(["-shared", "-fPIC", "-D_DEFAULT_SOURCE"]).args(options).arg("-o").arg(&module).arg(&file).arg("-ldl");
    let built = built.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    ModuleName::Path(module)
}

/// The PIN is right, and is not sent all the same.
#[test]
fn the_last_try_is_left_to_people() {
    const NAME: &str = "the_last_try_is_left_to_people";
    if tools::find("cc").is_none() {
        skip!(NAME, "needs a C compiler");
    }
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    let (folder, uri) = (tempfile::tempdir().unwrap(), make(&hsm));
    let pin = folder.path().join("pin");
    write_pin(&pin, PIN);
    now(key(&uri, &pin).check()).unwrap();
    let last = key(&TokenUri { module: Some(shim(&hsm, folder.path(), "-DLAST_TRY")), ..uri }, &pin);
    for _ in 0..2 {
        let error = now(last.check()).unwrap_err();
        assert!(matches!(error, TokenError::LastTry { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::Denied);
    }
}

#[test]
fn a_token_may_make_its_own_ivs() {
    const NAME: &str = "a_token_may_make_its_own_ivs";
    if tools::find("cc").is_none() {
        skip!(NAME, "needs a C compiler");
    }
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    let (folder, uri) = (tempfile::tempdir().unwrap(), make(&hsm));
    let pin = folder.path().join("pin");
    write_pin(&pin, PIN);
    let key = key(&TokenUri { module: Some(shim(&hsm, folder.path(), "-DMAKES_IV")), ..uri }, &pin);
    let check = now(key.check()).unwrap();
    assert!(check.starts_with("kcv:") && check.len() == "kcv:".len() + 6, "{check}");
    let seal = || now(key.encrypt(&check, &SecretKey::new([7; 32]), b"place".to_vec())).unwrap();
    let (sealed, other) = (seal(), seal());
    assert_ne!(sealed.get(..12), other.get(..12));
    assert_eq!(now(key.decrypt(&check, &sealed, b"place".to_vec())).unwrap().expose(), &[7; 32]);
    let wrong = now(key.decrypt(&check, &sealed, b"elsewhere".to_vec())).unwrap_err();
    assert_eq!(wrong.outcome(), Outcome::NotAuthentic);
}

#[test]
fn what_is_not_there_has_its_outcome() {
    let Some(hsm) = SoftHsm::of_this_process("what_is_not_there_has_its_outcome") else { return };
    let (folder, uri) = (tempfile::tempdir().unwrap(), make(&hsm));
    let pin = folder.path().join("pin");
    write_pin(&pin, PIN);
    let outcome = |uri: &TokenUri| {
        let error = now(key(uri, &pin).check()).unwrap_err();
        assert!(!error.hint().is_empty());
        error.outcome()
    };
    assert_eq!(outcome(&TokenUri { token: Some("none".into()), ..uri.clone() }), Outcome::Away);
    assert_eq!(outcome(&TokenUri { id: Some(vec![9]), ..uri.clone() }), Outcome::NoKey);
    assert_eq!(outcome(&TokenUri { object: Some("other".into()), ..uri.clone() }), Outcome::NoKey);
    assert_eq!(outcome(&TokenUri { module: None, ..uri.clone() }), Outcome::Setup);
    fs::set_permissions(&pin, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(outcome(&uri), Outcome::Setup);
    assert!(
        AesKey::new(
            Arc::new(TokenWorker::start(&uri, None, Duration::from_secs(5)).unwrap()),
            &TokenUri { id: None, ..uri }
        )
        .is_none()
    );
}
