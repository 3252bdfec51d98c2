//! Key files, as a provider: identities in files, on tokens of SoftHSM, and bound to a TPM (swtpm).
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SystemRng;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_keys::uri::TokenUri;
use bulla_keys::{Make, OaepKey, TokenWorker, Tokens};
use bulla_kms::bound::{BoundError, BoundIdentity};
use bulla_kms::keyfile::{KeyFile, Node};
use bulla_kms::member::{Member, Timing};
use bulla_kms::metrics::Metrics;
use bulla_kms::promotion::{Remembered, Rules};
use bulla_kms::provider::age::{Age, Settings};
use bulla_kms::provider::{Class, Context, Kind, Provider as _, ProviderError};
use bulla_testkit::softhsm::SoftHsm;
use bulla_testkit::tpm::Tpm;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PIN: &str = "1234";
const CONTEXT: fn() -> Context = || Context::new("prod", "b1.x");

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn plain() -> SecretKey {
    SecretKey::new([7; 32])
}

fn node(name: &str, recipient: &Recipient) -> Node {
    Node { name: name.parse().unwrap(), recipient: recipient.clone() }
}

fn class<T>(done: Result<T, ProviderError>) -> Class {
    done.err().unwrap().class
}

/// A folder of one node.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A new identity in a file.
    fn identity(&self) -> Recipient {
        let identity = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        self.write("identity", identity.to_file_text(None, None).unwrap().expose(), 0o600);
        identity.recipients().first().unwrap().clone()
    }

    fn put(&self, file: &KeyFile) {
        self.write("keys.age", &file.seal().unwrap(), 0o644);
    }

    fn provider(&self, more: serde_json::Value) -> Age {
        self.opened(more).unwrap()
    }

    fn opened(&self, more: serde_json::Value) -> Result<Age, ProviderError> {
        let mut settings = serde_json::json!({"file": self.path("keys.age"), "identity": self.path("identity")});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Age::open_with(&serde_json::from_value::<Settings>(settings).unwrap(), Duration::from_secs(5))
    }
}

fn none() -> serde_json::Value {
    serde_json::json!({})
}

/// What one node wraps, another one unwraps.
fn passes(from: &Age, to: &Age) {
    let (key, same) = (now(from.observe()).unwrap().active, now(to.observe()).unwrap().active);
    assert_eq!(key, same);
    let wrapped = now(from.wrap(&key, &plain(), &CONTEXT())).unwrap();
    assert_eq!(now(to.unwrap(&key, &wrapped, &CONTEXT())).unwrap().expose(), plain().expose());
}

#[test]
fn nodes_share_a_key_and_another_is_enrolled() {
    let [one, two, three] = [(); 3].map(|()| Desk::new());
    let [first, second, third] = [&one, &two, &three].map(Desk::identity);
    let mut file = KeyFile::create(vec![node("cp-1", &first), node("cp-2", &second)], clock(), &mut SystemRng).unwrap();
    for desk in [&one, &two, &three] {
        desk.put(&file);
    }
    let [a, b, c] = [&one, &two, &three].map(|desk| desk.provider(none()));
    assert_eq!(a.kind(), Kind::Age);
    passes(&a, &b);
    let stranger = now(c.observe()).unwrap_err();
    assert_eq!(stranger.class, Class::Denied);
    assert!(stranger.text.contains("enrol the node's recipient"), "{stranger}");
    // Whoever is a node enrols another.
    file.enrol(node("cp-3", &third)).unwrap();
    for desk in [&one, &two, &three] {
        desk.put(&file);
    }
    passes(&a, &c);
    passes(&c, &b);
    assert_eq!(a.refused(), None);
}

#[test]
fn everything_counts() {
    let desk = Desk::new();
    desk.put(&KeyFile::create(vec![node("cp-1", &desk.identity())], clock(), &mut SystemRng).unwrap());
    let provider = desk.provider(none());
    let key = now(provider.observe()).unwrap().active;
    assert!(key.backend.starts_with("age:") && key.version == "1" && key.created.is_some(), "{key:?}");
    let wrapped = now(provider.wrap(&key, &plain(), &CONTEXT())).unwrap();
    assert_eq!(wrapped.len(), provider.max_wrapped_bytes());
    assert_eq!(class(now(provider.unwrap(&key, &wrapped, &Context::new("test", "b1.x")))), Class::Corrupt);
    for place in 0..wrapped.len() {
        let mut bent = wrapped.clone();
        *bent.get_mut(place).unwrap() ^= 1;
        assert_eq!(class(now(provider.unwrap(&key, &bent, &CONTEXT()))), Class::Corrupt, "{place}");
    }
    assert_eq!(class(now(provider.unwrap(&key, &[wrapped.as_slice(), &[0]].concat(), &CONTEXT()))), Class::Corrupt);
    let mut other = key.clone();
    other.check = "another".into();
    assert_eq!(class(now(provider.wrap(&other, &plain(), &CONTEXT()))), Class::UnknownKey);
    // Files of others, and settings that do not fit.
    desk.write("keys.age", &fs::read(desk.path("keys.age")).unwrap(), 0o666);
    assert_eq!(class(now(desk.provider(none()).observe())), Class::Config);
    desk.write("keys.age", &fs::read(desk.path("keys.age")).unwrap(), 0o644);
    desk.write("identity", &fs::read(desk.path("identity")).unwrap(), 0o640);
    assert_eq!(class(now(desk.provider(none()).observe())), Class::Config);
    let uri = "pkcs11:token=a?module-path=/no.so";
    for more in [
        serde_json::json!({"pin_file": "/pin"}),
        serde_json::json!({"identity": uri, "bound_to": uri}),
        serde_json::json!({"identity": uri, "passphrase_file": "/p"}),
        serde_json::json!({"identity": "pkcs11:token=a"}),
        serde_json::json!({"identity": "pkcs11:pin-value=1"}),
    ] {
        assert_eq!(class(desk.opened(more)), Class::Config);
    }
}

/// User and group of a service, that are nobody's.
const SERVICE: u32 = 18_796;

/// Does something as that service, in a thread of its own, since the kernel keeps users by thread.
fn as_service<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
    let work = || {
        set_thread_groups(&[]).unwrap();
        set_thread_gid(Gid::from_raw(SERVICE)).unwrap();
        set_thread_uid(Uid::from_raw(SERVICE)).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
fn a_file_is_handed_over_by_root_to_a_service() {
    if !rustix::process::geteuid().is_root() {
        return bulla_testkit::tools::skipped(
            "a_file_is_handed_over_by_root_to_a_service",
            "only root hands files over",
        );
    }
    let desk = Desk::new();
    desk.put(&KeyFile::create(vec![node("cp-1", &desk.identity())], clock(), &mut SystemRng).unwrap());
    // As the kubelet lays out the volume of a Secret: links to the files of one of its versions.
    let (version, shown) = (desk.path("volume/..2026_11_28"), desk.path("volume/identity"));
    fs::create_dir_all(&version).unwrap();
    fs::rename(desk.path("identity"), version.join("identity")).unwrap();
    std::os::unix::fs::symlink("..2026_11_28", desk.path("volume/..data")).unwrap();
    std::os::unix::fs::symlink("..data/identity", &shown).unwrap();
    fs::set_permissions(desk.0.path(), Permissions::from_mode(0o755)).unwrap();
    let provider = || desk.provider(serde_json::json!({"identity": &shown}));
    let hand_over = |owner, mode| {
        std::os::unix::fs::chown(version.join("identity"), Some(owner), Some(SERVICE)).unwrap();
        fs::set_permissions(version.join("identity"), Permissions::from_mode(mode)).unwrap();
    };
    for (owner, mode, good) in [
        (0, 0o440, true),
        (0, 0o640, true),
        (SERVICE, 0o400, true),
        (SERVICE, 0o440, false),
        (0, 0o444, false),
        (0, 0o460, false),
    ] {
        hand_over(owner, mode);
        let read = as_service(|| {
            let opened = now(provider().observe()).map(|_| ()).map_err(|error| error.class);
            (opened, bulla_client::identity::bytes(&shown).is_ok(), bulla_keys::pin::read(&shown).is_ok())
        });
        let opened = if good { Ok(()) } else { Err(Class::Config) };
        assert_eq!(read, (opened, good, good), "{mode:o} of {owner}");
    }
    // Root is no service.
    hand_over(0, 0o440);
    let refused = now(provider().observe()).unwrap_err();
    assert!(refused.text.contains("mode 0440") && refused.text.contains("the user of that service"), "{refused}");
    assert!(bulla_client::identity::bytes(&shown).is_err() && bulla_keys::pin::read(&shown).is_err());
}

#[test]
fn a_file_that_is_not_taken_is_seen_in_metrics() {
    let desk = Desk::new();
    let nodes = vec![node("cp-1", &desk.identity())];
    let file = KeyFile::create(nodes.clone(), clock(), &mut SystemRng).unwrap();
    desk.put(&file);
    let second = Duration::from_secs(1);
    let timing = Timing { attempt: second, look: second * 5, period: second, stale: second * 60 };
    let rules = Rules { observations: 1, delay: Duration::ZERO };
    let metrics = Arc::new(Metrics::new());
    let provider = Box::new(desk.provider(none()));
    let member =
        Member::new("node".into(), provider, "prod", (timing, rules), Remembered::default(), Arc::clone(&metrics));
    let shown = |member: &Member| {
        now(member.look(false));
        let text = metrics.text();
        let of = |name: &str| {
            let series = format!("bulla_kms_member_{name}{{member=\"node\",kind=\"age\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("nothing").to_owned()
        };
        [of("up"), of("key_file_refused")]
    };
    assert_eq!(shown(&member), ["1", "0"]);
    // Another key file, whose keys nobody here ever had: the one before goes on.
    desk.put(&KeyFile::create(nodes, clock(), &mut SystemRng).unwrap());
    assert_eq!(shown(&member), ["1", "1"]);
    desk.put(&file);
    assert_eq!(shown(&member), ["1", "0"]);
}

#[test]
fn a_key_is_rotated_and_no_other_file_takes_the_place() {
    let desk = Desk::new();
    let recipient = desk.identity();
    let nodes = || vec![node("cp-1", &recipient)];
    let mut file = KeyFile::create(nodes(), clock(), &mut SystemRng).unwrap();
    desk.put(&file);
    let provider = desk.provider(none());
    let first = now(provider.observe()).unwrap().active;
    let wrapped = now(provider.wrap(&first, &plain(), &CONTEXT())).unwrap();
    // One that begins tomorrow can be read by today, and does not wrap yet.
    file.rotate(clock(), clock() + 86_400, &mut SystemRng).unwrap();
    desk.put(&file);
    let seen = now(provider.observe()).unwrap();
    assert_eq!((seen.active, seen.readable.len()), (first.clone(), 2));
    let mut sooner = KeyFile::create(nodes(), clock(), &mut SystemRng).unwrap();
    desk.put(&sooner);
    refuses(&provider, "another key file");
    // Who has the id but no key: the file is refused, and the one before stays.
    let older = desk.write("keys.age", &fs::read(desk.path("keys.age")).unwrap(), 0o644);
    fs::write(&older, b"age-encryption.org/v1\n").unwrap();
    refuses(&provider, "not a well-formed age file");
    fs::remove_file(&older).unwrap();
    refuses(&provider, "cannot read");
    assert_eq!(now(provider.unwrap(&first, &wrapped, &CONTEXT())).unwrap().expose(), plain().expose());
    // Rotated at once.
    desk.put(&file);
    assert_eq!(now(provider.observe()).unwrap().active, first);
    assert_eq!(provider.refused(), None);
    sooner.rotate(clock(), clock(), &mut SystemRng).unwrap();
    desk.put(&sooner);
    let fresh = desk.provider(none());
    let seen = now(fresh.observe()).unwrap();
    assert_eq!((seen.active.version.as_str(), seen.readable.len()), ("2", 2));
    sooner.drop_before(2.try_into().unwrap(), clock()).unwrap();
    desk.put(&sooner);
    assert_eq!(now(fresh.observe()).unwrap().readable, [seen.active]);
    assert_eq!(fresh.refused(), None);
}

fn refuses(provider: &Age, why: &str) {
    assert_eq!(now(provider.observe()).unwrap().active.version, "1");
    let refused = provider.refused().unwrap();
    assert!(refused.text.contains(why), "{refused}");
}

fn pin(_: (&str, &str)) -> Result<SecretBytes, bulla_keys::pin::PinError> {
    Ok(SecretBytes::new(PIN.as_bytes().to_vec()))
}

#[test]
fn a_token_opens_the_key_file() {
    let Some(hsm) = SoftHsm::of_this_process("a_token_opens_the_key_file") else { return };
    hsm.token("ops", PIN);
    let [one, two] = [(); 2].map(|()| Desk::new());
    let key = format!("pkcs11:token=ops;object=node?module-path={}", hsm.module());
    let uri: TokenUri = key.parse().unwrap();
    let made = Tokens::default().generate(&uri, Make::Hybrid, &mut SystemRng, &pin).unwrap();
    let on_token = made.recipients().first().unwrap().clone();
    drop(made);
    let nodes = vec![node("hsm", &on_token), node("file", &two.identity())];
    let file = KeyFile::create(nodes, clock(), &mut SystemRng).unwrap();
    one.put(&file);
    two.put(&file);
    let wrong = one.write("pin", b"4321", 0o600);
    let settings = serde_json::json!({"identity": key, "pin_file": wrong});
    let (a, b) = (one.provider(settings), two.provider(none()));
    let refused = now(a.observe()).unwrap_err();
    assert!(refused.class == Class::Denied && refused.text.contains("refused the PIN;"), "{refused}");
    let again = now(a.observe()).unwrap_err();
    assert!(again.class == Class::Denied && again.text.contains("does not get it again"), "{again}");
    one.write("pin", PIN.as_bytes(), 0o600);
    passes(&a, &b);
    passes(&b, &a);
    // The token is needed when the file changes, and not before.
    one.write("pin", b"4321", 0o600);
    passes(&a, &b);
}

/// A TPM whose module decrypts by RSA-OAEP alone holds a node's identity; the other node's is in a file.
#[test]
fn a_tpm_opens_the_key_file() {
    let prepare = |tpm: &Tpm| {
        tpm.pair(PIN, "rsa:2048", "node", "07", "--usage-decrypt");
        tpm.pair(PIN, "rsa:2048", "other", "08", "--usage-decrypt");
    };
    let Some(tpm) = Tpm::of_this_process("a_tpm_opens_the_key_file", PIN, prepare) else { return };
    let [one, two] = [(); 2].map(|()| Desk::new());
    let pin = one.write("pin", PIN.as_bytes(), 0o600);
    let [key, other] = ["node", "other"].map(|object| {
        let module = tpm.module();
        format!("pkcs11:token=tpm;object={object}?module-path={module}&pin-source=file:{}", pin.display())
    });
    let bound = now(bind(&key));
    assert_eq!(BoundIdentity::parse(bound.to_text().as_bytes()).unwrap(), bound);
    one.write("identity", bound.to_text().as_bytes(), 0o600);
    // Enrolment: the file of a node that is there, encrypted to one more.
    let mut file = KeyFile::create(vec![node("file", &two.identity())], clock(), &mut SystemRng).unwrap();
    let a = one.provider(serde_json::json!({"bound_to": key}));
    one.put(&file);
    assert_eq!(class(now(a.observe())), Class::Denied);
    file.enrol(node("tpm", bound.recipient())).unwrap();
    one.put(&file);
    two.put(&file);
    let b = two.provider(none());
    passes(&a, &b);
    passes(&b, &a);
    // The file alone opens nothing, and neither does another key of the same TPM.
    assert_eq!(class(now(one.provider(none()).observe())), Class::Config);
    let wrong = now(one.provider(serde_json::json!({"bound_to": other})).observe()).unwrap_err();
    assert!(wrong.class == Class::Config && wrong.text.contains("bound to another key"), "{wrong}");
    // An altered one says so.
    let text = bound.to_text();
    let bent = altered(&text, "sealed: ");
    assert!(matches!(now(open(&key, &bent)), Err(BoundError::Altered)));
    assert!(matches!(now(open(&key, &altered(&text, "wrapped: "))), Err(BoundError::Token(_) | BoundError::Altered)));
    assert!(now(open(&key, &text)).is_ok());
    // Rotated while the TPM is in use.
    file.rotate(clock(), clock(), &mut SystemRng).unwrap();
    one.put(&file);
    two.put(&file);
    passes(&a, &b);
    assert_eq!(now(a.observe()).unwrap().active.version, "2");
}

async fn key(uri: &str) -> OaepKey {
    let uri: TokenUri = uri.parse().unwrap();
    let worker = Arc::new(TokenWorker::start(&uri, None, Duration::from_secs(20)).unwrap());
    OaepKey::find(worker, &uri).await.unwrap()
}

async fn bind(uri: &str) -> BoundIdentity {
    BoundIdentity::make(&key(uri).await, &mut SystemRng).await.unwrap()
}

async fn open(uri: &str, text: &str) -> Result<Identity, BoundError> {
    BoundIdentity::parse(text.as_bytes()).unwrap().open(&key(uri).await).await
}

/// With another digit in the field.
fn altered(text: &str, field: &str) -> String {
    let place = text.find(field).unwrap() + field.len() + 10;
    let digit = if text.as_bytes().get(place) == Some(&b'A') { "B" } else { "A" };
    let mut bent = text.to_owned();
    bent.replace_range(place..=place, digit);
    bent
}

#[test]
fn an_encrypted_ssh_key_opens_the_key_file() {
    let desk = Desk::new();
    let Some(recipient) = ssh_key(&desk.path("identity")) else {
        bulla_testkit::skip!("an_encrypted_ssh_key_opens_the_key_file", "needs ssh-keygen");
    };
    desk.put(&KeyFile::create(vec![node("cp-1", &recipient)], clock(), &mut SystemRng).unwrap());
    let passphrase = desk.write("passphrase", b"open sesame\n", 0o600);
    let provider = desk.provider(serde_json::json!({"passphrase_file": passphrase}));
    passes(&provider, &provider);
    assert_eq!(class(now(desk.provider(none()).observe())), Class::Config);
}

fn ssh_key(path: &Path) -> Option<Recipient> {
    let keygen = bulla_testkit::tools::find("ssh-keygen")?;
    let mut command = std::process::Command::new(keygen);
    let done = command.args(["-q", "-t", "ed25519", "-a", "8", "-N", "open sesame", "-f"]).arg(path).status().unwrap();
    assert!(done.success());
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    let mut words = public.split(' ');
    Some(format!("{} {}", words.next().unwrap(), words.next().unwrap()).parse().unwrap())
}
