//! What the plugin for Kubernetes reads: ciphertexts, key files, configurations, what Kubernetes and backends say.

use crate::wire::one_spelling;
use bulla_crypto::envelope::seal;
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SeededRng;
use bulla_crypto::sealed;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_kms::bound::{BoundIdentity, MAX_BOUND_BYTES};
use bulla_kms::checkup::loops::Cidr;
use bulla_kms::combine::Combination;
use bulla_kms::config::{Settled, Written};
use bulla_kms::envelope::{self as envelopes, Envelope, EnvelopeError, MAX_CIPHERTEXT_BYTES, MAX_MEMBERS, Place};
use bulla_kms::finding::Verdict;
use bulla_kms::identity::KmsIdentity;
use bulla_kms::key::KeyId;
use bulla_kms::keyfile::{KeyFile, KeyFileError, MAX_KEYS, MAX_NODES};
use bulla_kms::kubernetes::encryption::{Encryption, duration};
use bulla_kms::kubernetes::metrics::{Apiserver, is_hash};
use bulla_kms::kubernetes::rotation::{Retired, Rotation};
use bulla_kms::kubernetes::{judge, yaml};
use bulla_kms::migrate::{Before, Migration, Target, kleidi, trousseau};
use bulla_kms::promotion::MAX_PAST;
use bulla_kms::provider::ProviderError;
use bulla_kms::provider::http::Origin;
use bulla_kms::provider::parsers;
use bulla_kms::provider::vault::answer as vault;
use bulla_kms::socket::Place as SocketPlace;
use bulla_kms::state::StateFile;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// Stands in the seeds wherever a secret would, so that one that is repeated is seen.
pub const CANARY: &str = "hunter2-canary";
/// More than any error of a reader says.
const TOLD_BYTES_MAX: usize = 512;

/// The key and the key id of all seeds.
pub fn kms_place() -> (SecretKey, KeyId) {
    (SecretKey::filled(|key| key.fill(0x4b)), KeyId::of("fuzz", 1, [], 0))
}

/// An error is a short text that a terminal does not obey, and repeats no secret.
fn told(error: &str) {
    assert!(!error.is_empty() && error.len() <= TOLD_BYTES_MAX, "{error}");
    assert!(!error.contains(char::is_control), "an error that a terminal obeys: {error:?}");
    assert!(!error.contains(CANARY), "a secret in an error: {error}");
}

/// A ciphertext is written as it was read; one that opens does so there only, and with no byte changed.
pub fn envelope(bytes: &[u8]) {
    let (key, key_id) = kms_place();
    let place = Place { cluster: "fuzz", key_id: &key_id };
    let Ok(read) = Envelope::parse(bytes) else { return };
    assert!(bytes.len() <= MAX_CIPHERTEXT_BYTES && (1..=MAX_MEMBERS).contains(&read.parts.len()));
    let mut head = vec![1, read.mode.byte(), u8::try_from(read.parts.len()).unwrap_or_default()];
    for part in &read.parts {
        head.extend(part.tag.0);
        head.extend(u16::try_from(part.wrapped.len()).unwrap_or_default().to_be_bytes());
        head.extend(&part.wrapped);
    }
    let rest = bytes.strip_prefix(head.as_slice());
    let rest = rest.unwrap_or_else(|| unreachable!("an envelope is written in another way"));
    let within = sealed::OVERHEAD..=sealed::OVERHEAD.saturating_add(envelopes::MAX_SEED_BYTES);
    assert!(within.contains(&rest.len()), "a seed of {} bytes", rest.len());
    if read.open(place, &key).is_ok() {
        (0..bytes.len()).for_each(|at| altered(bytes, at, place, &key));
    }
    anew(&read, bytes, place, &key);
}

/// A byte changed at this place, and everything from there on left out.
fn altered(bytes: &[u8], at: usize, place: Place<'_>, key: &SecretKey) {
    let opens = |bytes: &[u8]| Envelope::parse(bytes).is_ok_and(|read| read.open(place, key).is_ok());
    let mut changed = bytes.to_vec();
    if let Some(byte) = changed.get_mut(at) {
        *byte ^= 1;
    }
    assert!(!opens(&changed), "byte {at} is changed, and it opens");
    assert!(!opens(bytes.get(..at).unwrap_or_default()), "only {at} bytes, and it opens");
}

/// What the members of an envelope wrapped, around another seed.
fn anew(read: &Envelope, bytes: &[u8], place: Place<'_>, key: &SecretKey) {
    let seed = SecretBytes::new(bytes.iter().copied().take(32).collect());
    let size = envelopes::size(read.parts.iter().map(|part| part.wrapped.len()), seed.expose().len());
    let mut rng = SeededRng::from_u64(1);
    let made = match envelopes::seal(place, read.mode, &read.parts, key, &seed, &mut rng) {
        Ok(made) => made,
        Err(error) => return assert!(error == EnvelopeError::TooLarge && size > MAX_CIPHERTEXT_BYTES),
    };
    assert_eq!(made.len(), size);
    let again = Envelope::parse(&made).unwrap_or_else(|error| unreachable!("made and not read: {error}"));
    assert_eq!((again.mode, &again.parts), (read.mode, &read.parts));
    assert!(again.open(place, key).is_ok_and(|opened| opened.expose() == seed.expose()));
    let later = KeyId::of("fuzz", 1, [], 1);
    for elsewhere in [Place { cluster: "fuzs", ..place }, Place { key_id: &later, ..place }] {
        assert_eq!(again.open(elsewhere, key).err(), Some(EnvelopeError::OtherPlace));
    }
    let at = bytes.iter().fold(0_usize, |sum, byte| sum.saturating_add(usize::from(*byte)));
    altered(&made, at.checked_rem(made.len()).unwrap_or_default(), place, key);
}

/// The content of a key file, and identities that are bound to a token or wrapped by members: each has one spelling,
/// and its limits.
pub fn key_file(bytes: &[u8]) {
    static OWN: LazyLock<Identity> = LazyLock::new(|| crate::identity(IdentityKind::Classical, 1));
    if let Ok(bound) = BoundIdentity::parse(bytes) {
        assert!(bound.to_text().as_bytes() == bytes && bytes.len() <= MAX_BOUND_BYTES, "a second spelling");
    }
    match KmsIdentity::parse(bytes) {
        Ok(wrapped) => assert!(wrapped.to_text().as_bytes() == bytes, "a second spelling"),
        Err(error) => told(&error.to_string()),
    }
    let file = match KeyFile::parse_content(bytes) {
        Ok(file) => file,
        Err(error) => {
            if let KeyFileError::Line { line, .. } = error {
                let lines = bytes.split(|byte| *byte == b'\n').count();
                assert!((1..=lines.saturating_add(1)).contains(&line), "line {line} of {lines}");
            }
            return told(&error.to_string());
        }
    };
    assert!(file.content().expose() == bytes, "a second spelling of a key file");
    assert!((1..=MAX_NODES).contains(&file.nodes().len()) && (1..=MAX_KEYS).contains(&file.keys().len()));
    let hybrid = |hybrid| file.nodes().iter().any(|node| node.recipient.is_hybrid() == hybrid);
    assert!(hybrid(true) != hybrid(false), "a weaker recipient beside others");
    let numbers = |at: u64| file.active(at).map(|kek| kek.number);
    assert_eq!(numbers(u64::MAX), file.keys().last().map(|kek| kek.number), "the last key never begins");
    assert!(file.keys().iter().all(|kek| numbers(kek.begins) >= Some(kek.number)), "a key does not begin");
    assert!(file.continues(&file).is_ok(), "it does not go on as itself");
    let sealed = seal(OWN.recipients(), None, bytes);
    let opened = sealed.ok().map(|sealed| crate::crypto::now(KeyFile::open(&sealed, &*OWN)));
    let same = |opened: &KeyFile| opened.content().expose() == bytes;
    assert!(opened.is_some_and(|opened| opened.as_ref().is_ok_and(same)), "encrypted, it is another");
}

/// YAML as a tree, which as JSON is the same tree; the tree as an EncryptionConfiguration.
pub fn encryption(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(duration(text).is_none_or(|duration| !duration.is_zero()));
    let tree = match yaml::parse(text) {
        Ok(tree) => tree,
        Err(error) => return told(&error),
    };
    if is_plain(&tree, 32) {
        assert_eq!(yaml::parse(&tree.to_string()).as_ref(), Ok(&tree), "the same as JSON is another tree");
    }
    let read = Encryption::read(&tree);
    match &read {
        Ok(read) => {
            assert!(!read.groups.is_empty() && read.groups.iter().all(|group| !group.providers.is_empty()));
            assert!(read.plugins().all(|kms| !kms.name.is_empty() && !kms.endpoint.is_empty()));
        }
        Err(error) => told(error),
    }
    for place in ["/run/bulla-kms/kms.sock", "@bulla-kms"] {
        let Ok(place) = place.parse() else { unreachable!("a place") };
        let findings = judge::judge(&read, &place);
        assert!(!findings.is_empty(), "nothing is said");
        assert!(findings.iter().all(|one| one.hint.is_some() == (one.verdict != Verdict::Ok)), "{findings:?}");
        assert!(read.is_ok() || findings.iter().all(|one| one.verdict == Verdict::Fail));
    }
}

/// Whether it is within these levels, and in characters that YAML and JSON write alike; names of more than 1,024 are none
/// of YAML's in one line.
fn is_plain(tree: &Value, levels: usize) -> bool {
    let text = |text: &str| text.len() <= 512 && text.chars().all(|c| c == '\n' || (' '..='~').contains(&c));
    match tree {
        Value::String(value) => text(value),
        Value::Array(list) => {
            assert!(levels > 0, "too many levels");
            list.iter().all(|value| is_plain(value, levels.saturating_sub(1)))
        }
        Value::Object(table) => {
            assert!(levels > 0, "too many levels");
            table.iter().all(|(name, value)| text(name) && is_plain(value, levels.saturating_sub(1)))
        }
        _ => true,
    }
}

/// What is read of a kube-apiserver's metrics is read again when it is written down, and proves nothing while the old key
/// stands anywhere in it.
pub fn metrics(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = match Apiserver::parse(text) {
        Ok(read) => read,
        Err(error) => return told(&error),
    };
    let maps = |of: &bulla_kms::kubernetes::metrics::OfProvider| [of.told.clone(), of.written.clone(), of.read.clone()];
    let all: Vec<BTreeMap<String, f64>> = read.providers.values().flat_map(maps).collect();
    assert!(all.iter().flatten().all(|(hash, at)| is_hash(hash) && at.is_finite() && *at >= 0.0));
    assert_eq!(Apiserver::parse(&written(&read)), Ok(read.clone()), "not read as it is written");
    let hashes: Vec<String> = all.iter().flat_map(|map| map.keys().cloned()).collect();
    let files = [("node1".to_owned(), read.clone())];
    for provider in read.providers.keys() {
        for own in hashes.iter().take(8) {
            let rotation = Rotation { provider, own, apiservers: &files };
            for old in hashes.iter().take(8) {
                let findings = rotation.retirable(Retired { old, apiservers: 1 });
                let proven = findings.iter().all(|one| one.verdict != Verdict::Fail);
                assert!(!proven, "{old} stands in the metrics, and may go");
            }
        }
    }
}

fn written(read: &Apiserver) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let id = read.id.as_deref().map(|id| format!("apiserver_id_hash=\"{}\",", quoted(id))).unwrap_or_default();
    let mut text = "# HELP other is passed over\nother{a=\"}\"} 1\n".to_owned();
    if let Some(started) = read.started {
        let _ = writeln!(text, "process_start_time_seconds {started:?}");
    }
    let stem = "apiserver_envelope_encryption_key_id_hash";
    for (name, of) in &read.providers {
        let name = quoted(name);
        for (series, kind, map) in [
            ("_status_last_timestamp_seconds", "", &of.told),
            ("_last_timestamp_seconds", ",transformation_type=\"to_storage\"", &of.written),
            ("_last_timestamp_seconds", ",transformation_type=\"from_storage\"", &of.read),
        ] {
            for (hash, at) in map {
                let _ = writeln!(
                    text,
                    "{stem}{series}{{{id}key_id_hash=\"{hash}\",provider_name=\"{name}\"{kind}}} {at:?}"
                );
            }
        }
    }
    text
}

/// The plugin's configuration, judged before anything is opened: what is taken is within its limits.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(written) = toml::from_str::<Written>(text) else { return };
    let Settled { access, combination, times: (timing, rules), .. } = match written.settle() {
        Ok(settled) => settled,
        Err(error) => {
            assert!(error.text.contains(": "), "{error} names no field");
            return told(&error.to_string());
        }
    };
    assert!((1..=MAX_MEMBERS).contains(&written.count()));
    assert!(
        access.mode <= 0o770 && access.mode & 0o007 == 0 && !access.uids.is_empty(),
        "everybody or nobody connects"
    );
    let needed = combination.needed(written.count());
    assert!((1..=written.count()).contains(&needed), "{needed} of {} are needed", written.count());
    assert!(combination != Combination::Split || written.count() > 1);
    assert!(timing.stale >= timing.period.saturating_mul(2) && timing.stale <= Duration::from_secs(170));
    assert!(timing.attempt < Duration::from_secs(3) && !timing.attempt.is_zero() && rules.observations > 0);
}

/// Configurations of other plugins: a translation is TOML and an EncryptionConfiguration of both, the old one second.
pub fn migrate(bytes: &[u8]) {
    let tree = std::str::from_utf8(bytes).ok().and_then(|text| yaml::parse(text).ok());
    let Some(tree) = tree else { return };
    let before = Before { name: "old".to_owned(), endpoint: "unix:///old/\"x.sock".to_owned() };
    let target = Target { cluster: "prod".to_owned(), resources: vec!["secrets".to_owned()] };
    let both = [
        kleidi::translate(&tree, &before, &target),
        trousseau::translate(std::slice::from_ref(&tree), &before, &target),
    ];
    for made in both {
        let Migration { config, encryption, left, steps } = match made {
            Ok(made) => made,
            Err(error) => {
                told(&error);
                continue;
            }
        };
        let config: Result<toml::Table, _> = toml::from_str(&config);
        let members = config.as_ref().ok().and_then(|config| config.get("members")?.as_table());
        assert!(members.is_some_and(|members| !members.is_empty()), "no configuration: {config:?}");
        let read = yaml::parse(&encryption).and_then(|tree| Encryption::read(&tree));
        let plugins: Option<Vec<_>> = read
            .as_ref()
            .ok()
            .map(|read| read.plugins().map(|kms| (kms.name.as_str(), kms.endpoint.as_str())).collect());
        assert_eq!(plugins, Some(vec![("bulla", "unix:///run/bulla-kms/kms.sock"), ("old", "unix:///old/\"x.sock")]));
        assert!(!left.iter().chain(&steps).any(|line| line.contains(char::is_control)), "{left:?}");
    }
}

/// What the plugin remembers of its members is read as it is written, in its own epoch alone; names have one spelling.
pub fn state(bytes: &[u8]) {
    let at = |epoch| StateFile::new(PathBuf::new(), epoch);
    match at(3).parse(bytes) {
        Ok(read) => {
            assert!(read.values().all(|member| member.past.len() <= MAX_PAST), "more than is ever remembered");
            let written = at(3).to_bytes(read.clone());
            let written = written.unwrap_or_else(|error| unreachable!("read and not written: {error}"));
            assert_eq!(at(3).parse(&written).ok(), Some(read), "not read as it is written");
            assert!(at(4).parse(&written).is_ok_and(|read| read.is_empty()), "a new epoch remembers an old one");
            assert!(at(2).parse(&written).is_err(), "an epoch fell");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(id) = one_spelling::<KeyId>(text) {
        assert!(id.hash().len() == 71 && id.hash().starts_with("sha256:"));
    }
    if let Some(SocketPlace::Path(path)) = one_spelling::<SocketPlace>(text) {
        assert!(path.is_absolute());
    }
    if let Ok(range) = text.parse::<Cidr>() {
        assert_eq!(range.to_string().parse(), Ok(range), "not read as it is written");
    }
}

fn refused(error: &ProviderError) {
    told(&error.to_string());
}

/// Answers and files of credentials of the clouds and of Vault: no secret in an error, nothing of an answer but words.
pub fn answer(bytes: &[u8]) {
    static FROM: LazyLock<Origin> = LazyLock::new(|| {
        let origin = "https://kms.example".parse();
        origin.unwrap_or_else(|error| unreachable!("an origin: {error}"))
    });
    parsers::refusals(&FROM, "default", bytes).iter().for_each(refused);
    for word in parsers::words(bytes) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(word == "an unknown code" || (word.len() <= 64 && word.bytes().all(plain)), "{word:?} is repeated");
    }
    if let Some(value) = parsers::field(&FROM, bytes, 256) {
        assert!((1..=256).contains(&value.expose().len()));
        assert_eq!(bulla_wire::encoding::base64(value.expose()).as_bytes(), bytes.trim_ascii());
    }
    of_vault(&SecretBytes::new(bytes.to_vec()));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(origin) = text.parse::<Origin>() {
        assert_eq!(origin.as_str(), text.strip_suffix('/').unwrap_or(text), "a second spelling of an origin");
        assert!(!origin.host().is_empty() && Origin::link_local(text).is_ok());
    }
    if let Ok(origin) = Origin::link_local(text) {
        assert!(text.starts_with(origin.as_str()) && !origin.host().is_empty());
    }
    assert!(parsers::place(text).is_none_or(|place| place == text), "a second spelling of a place");
    for name in ["Code", "SessionToken"] {
        let whole = parsers::element(text, name).map(|content| format!("<{name}>{content}</{name}>"));
        assert!(whole.is_none_or(|whole| text.matches(&whole).count() == 1), "an element that stands twice");
    }
}

fn of_vault(body: &SecretBytes) {
    const CENTURY: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
    match vault::key(body) {
        Ok(key) => {
            assert!(key.versions.contains_key(&key.latest) && key.min_decryption <= key.latest);
            assert!(!key.versions.contains_key(&0), "a version 0");
        }
        Err(error) => refused(&error),
    }
    for version in [1, 12] {
        match vault::wrapped(body, version) {
            Ok(wrapped) => {
                assert!((48..=vault::MAX_WRAPPED_BYTES).contains(&wrapped.len()), "no key of 32 bytes");
                let again = serde_json::json!({"data": {"ciphertext": vault::ciphertext(&wrapped, version)}});
                let again = SecretBytes::new(again.to_string().into_bytes());
                assert_eq!(vault::wrapped(&again, version), Ok(wrapped));
                assert!(vault::wrapped(&again, version.saturating_add(1)).is_err(), "another version");
            }
            Err(error) => refused(&error),
        }
    }
    for token in [vault::login(body), vault::lookup(body)] {
        match token {
            Ok(token) => {
                assert!(token.ttl.is_none_or(|ttl| ttl <= CENTURY));
                assert!(token.token.is_none_or(|token| token.is_sensitive() && !token.is_empty()));
            }
            Err(error) => refused(&error),
        }
    }
    match vault::cluster_id(body) {
        Ok(id) => assert!(id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')),
        Err(error) => refused(&error),
    }
    let others = [vault::plain(body).err(), vault::creation_path(body).err(), vault::secret_id(body).err()];
    others.iter().flatten().for_each(refused);
    let said = vault::said(body, CANARY.as_bytes());
    assert!(said.chars().count() <= 200 && !said.contains(CANARY) && !said.contains(char::is_control), "{said:?}");
    assert!(!vault::is_absence(body) || said.is_empty(), "nothing is there, and something is said");
    let _ = vault::may_create(body, "transit/encrypt/k");
}
