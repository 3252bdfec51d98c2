//! Transit keys, one rule of `spec/transit.md` after the other.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(dead_code, reason = "the world serves several test programs")]

mod wrap_world;

use bulla_core::barrier::Kind;
use bulla_core::engine::transit::{
    Backup, Configure, Create, Datakey, Decrypt, Delete, Encrypt, Export, Hmac, Import, List, Read, Restore, Rewrap,
    Rotate, Sign, Verify, VerifyHmac,
};
use bulla_core::operation::{Operation, Refusal, Reply};
use bulla_wire::api::{self, KeyKind, MAX_TRANSIT_VERSIONS};
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::error::Code;
use bulla_wire::json::V1;
use bulla_wire::name::Name;
use serde::de::DeserializeOwned;
use wrap_world::World;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A world of transit keys.
struct Keys(World);

impl Keys {
    fn new() -> Self {
        Self(World::new(5))
    }

    fn run(&mut self, op: impl Operation + 'static) -> Result<Reply, Refusal> {
        self.0.run(Box::new(op), Some("alice")).result
    }

    fn told<T: DeserializeOwned>(&mut self, op: impl Operation + 'static) -> T {
        match self.run(op).unwrap() {
            Reply::Json(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Reply::Secret(bytes) => serde_json::from_slice(bytes.expose()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The code of a refusal, which says what to do.
    fn refused(&mut self, op: impl Operation + 'static) -> Code {
        let refusal = self.run(op).unwrap_err();
        assert!(refusal.hint.is_some() && !refusal.message.is_empty(), "{refusal:?}");
        refusal.code
    }

    fn create(&mut self, key: &str, kind: KeyKind) -> api::TransitKey {
        let body = api::CreateTransitKey { kind, exportable: false, deletion_allowed: false };
        self.told(Create { name: name(key), body })
    }

    fn rotate(&mut self, key: &str) -> api::TransitKey {
        self.told(Rotate { name: name(key) })
    }

    fn read(&mut self, key: &str) -> api::TransitKey {
        self.told(Read { name: name(key) })
    }

    fn encrypt(&mut self, key: &str, plaintext: &[u8]) -> String {
        let made: api::Ciphertexts = self.told(encrypt(key, plaintext, None));
        made.items[0].ciphertext.clone().unwrap()
    }

    fn decrypt(&mut self, key: &str, ciphertext: &str) -> Result<Vec<u8>, Code> {
        match self.run(decrypt(key, ciphertext)) {
            Ok(Reply::Secret(bytes)) => {
                let made: api::Plaintexts = serde_json::from_slice(bytes.expose()).unwrap();
                Ok(base64url_decode(made.items[0].plaintext.as_ref().unwrap()).unwrap())
            }
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.code),
        }
    }

    fn configure(&mut self, key: &str, body: api::ConfigureTransitKey) -> Result<Reply, Refusal> {
        self.run(Configure { name: name(key), body })
    }
}

fn encrypt(key: &str, plaintext: &[u8], version: Option<u32>) -> Encrypt {
    let item = api::EncryptItem { plaintext: base64url(plaintext), associated_data: None };
    Encrypt { name: name(key), body: api::Encrypt { items: vec![item], version } }
}

fn item(ciphertext: &str) -> api::DecryptItem {
    api::DecryptItem { ciphertext: ciphertext.to_owned(), associated_data: None }
}

fn decrypt(key: &str, ciphertext: &str) -> Decrypt {
    Decrypt { name: name(key), body: api::Decrypt { items: vec![item(ciphertext)] } }
}

fn rewrap(key: &str, ciphertext: &str) -> Rewrap {
    Rewrap { name: name(key), body: api::Decrypt { items: vec![item(ciphertext)] } }
}

fn sign(key: &str, message: &[u8]) -> Sign {
    let item = api::SignItem { message: Some(base64url(message)), digest: None };
    Sign { name: name(key), body: api::Sign { items: vec![item], version: None, digest_algorithm: None } }
}

fn verify(key: &str, message: &[u8], signature: &str) -> Verify {
    let item = api::VerifyItem { message: Some(base64url(message)), digest: None, signature: signature.into() };
    Verify { name: name(key), body: api::Verify { items: vec![item], digest_algorithm: None } }
}

fn datakey(key: &str, bytes: u32, wrapped: bool) -> Datakey {
    Datakey { name: name(key), body: api::NewDatakey { bytes, associated_data: None }, wrapped }
}

#[test]
fn a_key_encrypts_for_itself_alone() {
    let mut keys = Keys::new();
    let made = keys.create("orders", KeyKind::Aes256Gcm);
    assert_eq!((made.latest_version, made.min_decryption_version, made.min_encryption_version), (1, 1, 0));
    assert!(!made.exportable && !made.deletion_allowed && made.versions[0].public_key.is_none());
    keys.create("invoices", KeyKind::ChaCha20Poly1305);
    let ciphertext = keys.encrypt("orders", b"card 42");
    assert!(ciphertext.starts_with("bulla:v1:"));
    assert_eq!(keys.decrypt("orders", &ciphertext).unwrap(), b"card 42");
    assert_eq!(keys.decrypt("invoices", &ciphertext), Err(Code::CiphertextOfOtherKey));
    assert_eq!(keys.decrypt("nothing", &ciphertext), Err(Code::NotFound));
    let list: api::TransitKeys = keys.told(List { after: None, limit: 10 });
    assert_eq!(list.names, [name("invoices"), name("orders")]);
    let first: api::TransitKeys = keys.told(List { after: None, limit: 1 });
    assert!(first.next.is_some() && first.names.len() == 1);
    assert_eq!(
        keys.refused(Create {
            name: name("orders"),
            body: api::CreateTransitKey { kind: KeyKind::Ed25519, exportable: false, deletion_allowed: false }
        }),
        Code::Exists
    );
}

#[test]
fn each_failure_has_its_code() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::Aes256Gcm);
    keys.create("release", KeyKind::Ed25519);
    let good = keys.encrypt("orders", b"x");
    let bytes = base64url_decode(good.strip_prefix("bulla:v1:").unwrap()).unwrap();
    let mut bent = bytes.clone();
    *bent.last_mut().unwrap() ^= 1;
    for (text, code) in [
        (format!("bulla:v1:{}", base64url(&bent)), Code::CiphertextDamaged),
        ("bulla:v1:AAAA".into(), Code::CiphertextDamaged),
        (format!("bulla:v2:{}", base64url(&bytes)), Code::UnknownVersion),
        (format!("bulla:v4294967295:{}", base64url(&bytes)), Code::UnknownVersion),
        (format!("bulla:v0:{}", base64url(&bytes)), Code::Malformed),
        (base64url(&bytes), Code::Malformed),
        (String::new(), Code::Malformed),
    ] {
        assert_eq!(keys.refused(decrypt("orders", &text)), code, "{text}");
        assert_eq!(keys.refused(rewrap("orders", &text)), code, "{text}");
    }
    assert_eq!(keys.refused(encrypt("release", b"x", None)), Code::WrongKeyKind);
    assert_eq!(keys.refused(decrypt("release", &good)), Code::WrongKeyKind);
    assert_eq!(keys.refused(datakey("release", 32, false)), Code::WrongKeyKind);
    assert_eq!(keys.refused(sign("orders", b"x")), Code::WrongKeyKind);
    assert_eq!(keys.refused(verify("orders", b"x", &good)), Code::WrongKeyKind);
    let hmac = |key: &str| Hmac {
        name: name(key),
        body: api::Hmac { items: vec![api::HmacItem { message: base64url(b"x") }], version: None },
    };
    assert_eq!(keys.refused(hmac("orders")), Code::WrongKeyKind);
    assert_eq!(keys.refused(hmac("nothing")), Code::NotFound);
    assert_eq!(keys.refused(datakey("orders", 33, true)), Code::Malformed);
    for version in [0, 2, u32::MAX] {
        assert_eq!(keys.refused(encrypt("orders", b"x", Some(version))), Code::UnknownVersion);
    }
    let spoilt = api::EncryptItem { plaintext: "x=".into(), associated_data: None };
    let body = api::Encrypt { items: vec![spoilt], version: None };
    assert_eq!(keys.refused(Encrypt { name: name("orders"), body }), Code::Malformed);
}

#[test]
fn versions_follow_each_other() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::Aes256Gcm);
    let first = keys.encrypt("orders", b"old");
    assert_eq!(keys.rotate("orders").latest_version, 2);
    assert_eq!(keys.rotate("orders").latest_version, 3);
    let third = keys.encrypt("orders", b"new");
    assert!(third.starts_with("bulla:v3:"));
    assert_eq!(keys.decrypt("orders", &first).unwrap(), b"old");
    // The version is part of what a ciphertext is bound to.
    let renamed = first.replacen("v1", "v2", 1);
    assert_eq!(keys.decrypt("orders", &renamed), Err(Code::CiphertextOfOtherKey));
    let made: api::Ciphertexts = keys.told(rewrap("orders", &first));
    let anew = made.items[0].ciphertext.clone().unwrap();
    assert!(anew.starts_with("bulla:v3:"));
    assert_eq!(keys.decrypt("orders", &anew).unwrap(), b"old");
    // The newest alone encrypts, until the settings say otherwise.
    assert_eq!(keys.refused(encrypt("orders", b"x", Some(2))), Code::VersionArchived);
    let setting = |min_decryption_version, min_encryption_version| api::ConfigureTransitKey {
        min_decryption_version,
        min_encryption_version,
        ..api::ConfigureTransitKey::default()
    };
    keys.configure("orders", setting(Some(2), Some(2))).unwrap();
    let made: api::Ciphertexts = keys.told(encrypt("orders", b"x", Some(2)));
    assert!(made.items[0].ciphertext.as_ref().unwrap().starts_with("bulla:v2:"));
    assert_eq!(keys.refused(encrypt("orders", b"x", Some(1))), Code::VersionArchived);
    assert_eq!(keys.refused(decrypt("orders", &first)), Code::VersionArchived);
    assert_eq!(keys.refused(rewrap("orders", &first)), Code::VersionArchived);
    keys.configure("orders", setting(Some(1), None)).unwrap();
    assert_eq!(keys.decrypt("orders", &first).unwrap(), b"old", "archived is not gone");
    for bad in [setting(Some(0), None), setting(Some(4), None), setting(Some(3), Some(2)), setting(None, Some(4))] {
        let refusal = keys.configure("orders", bad).unwrap_err();
        assert!(refusal.code == Code::Malformed && refusal.field.is_some() && refusal.hint.is_some());
    }
    assert_eq!(keys.read("orders").versions.iter().map(|one| one.version).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(keys.refused(Rotate { name: name("nothing") }), Code::NotFound);
}

#[test]
fn a_key_has_so_many_versions() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::Aes256Gcm);
    for version in 2..=MAX_TRANSIT_VERSIONS {
        assert_eq!(keys.rotate("orders").latest_version, version);
    }
    assert_eq!(keys.refused(Rotate { name: name("orders") }), Code::TooManyVersions);
    assert_eq!(keys.read("orders").versions.len(), 100);
    // One ciphertext of each version, in one request.
    let all = |min| api::ConfigureTransitKey { min_encryption_version: Some(min), ..Default::default() };
    keys.configure("orders", all(1)).unwrap();
    let mut items = Vec::new();
    for version in 1..=MAX_TRANSIT_VERSIONS {
        let made: api::Ciphertexts = keys.told(encrypt("orders", &version.to_be_bytes(), Some(version)));
        items.push(item(made.items[0].ciphertext.as_ref().unwrap()));
    }
    let made: api::Plaintexts = keys.told(Decrypt { name: name("orders"), body: api::Decrypt { items } });
    for (version, item) in (1..=MAX_TRANSIT_VERSIONS).zip(made.items) {
        assert_eq!(item.plaintext, Some(base64url(&version.to_be_bytes())));
    }
    let allowed = api::ConfigureTransitKey { deletion_allowed: Some(true), ..Default::default() };
    keys.configure("orders", allowed).unwrap();
    keys.run(Delete { name: name("orders") }).unwrap();
    assert_eq!(keys.0.count(Kind::TransitVersion), 0);
}

#[test]
fn a_batch_fails_item_by_item() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::Aes256Gcm);
    let (good, other) = (keys.encrypt("orders", b"a"), keys.encrypt("orders", b"b"));
    let mut bound = item(&good);
    bound.associated_data = Some(base64url(b"row"));
    let items = vec![item(&good), item("bulla:v9:AAAA"), bound, item("nonsense"), item(&other)];
    let made: api::Plaintexts =
        keys.told(Decrypt { name: name("orders"), body: api::Decrypt { items: items.clone() } });
    let codes: Vec<_> = made.items.iter().map(|item| item.error.as_ref().map(|error| error.code)).collect();
    let damaged = Some(Code::CiphertextDamaged);
    assert_eq!(codes, [None, Some(Code::UnknownVersion), damaged, Some(Code::Malformed), None]);
    assert!(made.items.iter().all(|item| item.error.as_ref().is_none_or(|error| error.hint.is_some())));
    assert_eq!(made.items[4].plaintext, Some(base64url(b"b")));
    let made: api::Ciphertexts = keys.told(Rewrap { name: name("orders"), body: api::Decrypt { items } });
    assert_eq!(made.items.iter().filter(|item| item.ciphertext.is_some()).count(), 2);
    // Sizes.
    let batch = |count| {
        let item = api::EncryptItem { plaintext: base64url(b"x"), associated_data: Some(base64url(b"row")) };
        Encrypt { name: name("orders"), body: api::Encrypt { items: vec![item; count], version: None } }
    };
    let made: api::Ciphertexts = keys.told(batch(1000));
    assert_eq!(made.items.len(), 1000);
    assert_eq!(keys.refused(batch(1001)), Code::TooLarge);
    // RSA's private key takes its time.
    keys.create("rsa", KeyKind::Rsa2048);
    let mut signing = sign("rsa", b"x");
    let one = signing.body.items[0].clone();
    signing.body.items.resize(101, one);
    assert_eq!(keys.refused(signing), Code::TooLarge);
    assert_eq!(keys.refused(batch(0)), Code::Malformed);
}

#[test]
fn data_keys_open_again() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::ChaCha20Poly1305);
    for bytes in [16, 32, 64] {
        let made: api::Datakey = keys.told(datakey("orders", bytes, false));
        let plaintext = base64url_decode(&made.plaintext).unwrap();
        assert_eq!(plaintext.len(), bytes as usize);
        assert_eq!(keys.decrypt("orders", &made.ciphertext).unwrap(), plaintext);
        let Reply::Json(wrapped) = keys.run(datakey("orders", bytes, true)).unwrap() else { panic!("a secret") };
        let wrapped: api::WrappedDatakey = serde_json::from_slice(&wrapped).unwrap();
        assert_eq!(keys.decrypt("orders", &wrapped.ciphertext).unwrap().len(), bytes as usize);
    }
}

#[test]
fn signatures_and_macs_of_every_version() {
    let mut keys = Keys::new();
    keys.create("release", KeyKind::EcdsaP256);
    let made: api::Signatures = keys.told(sign("release", b"message"));
    let old = made.items[0].signature.clone().unwrap();
    keys.rotate("release");
    let made: api::Signatures = keys.told(sign("release", b"message"));
    let new = made.items[0].signature.clone().unwrap();
    assert!(old.starts_with("bulla:v1:") && new.starts_with("bulla:v2:"));
    let holds = |keys: &mut Keys, message: &[u8], signature: &str| {
        let made: api::Verdicts = keys.told(verify("release", message, signature));
        made.items[0].valid.unwrap()
    };
    assert!(holds(&mut keys, b"message", &old) && holds(&mut keys, b"message", &new));
    assert!(!holds(&mut keys, b"massage", &new));
    assert!(!holds(&mut keys, b"message", &old.replacen("v1", "v2", 1)));
    assert_eq!(keys.refused(verify("release", b"x", &old.replacen("v1", "v3", 1))), Code::UnknownVersion);
    let public: Vec<_> = keys.read("release").versions.into_iter().map(|one| one.public_key.unwrap()).collect();
    assert!(public.iter().all(|pem| pem.starts_with("-----BEGIN PUBLIC KEY-----\n")) && public[0] != public[1]);
    let body = api::ConfigureTransitKey { min_decryption_version: Some(2), ..Default::default() };
    keys.configure("release", body).unwrap();
    assert_eq!(keys.refused(verify("release", b"message", &old)), Code::VersionArchived);

    let with = |message: Option<&[u8]>, digest: Option<&[u8]>, digest_algorithm| {
        let item = api::SignItem { message: message.map(base64url), digest: digest.map(base64url) };
        Sign { name: name("release"), body: api::Sign { items: vec![item], version: None, digest_algorithm } }
    };
    let sha256 = bulla_crypto::digest::sha256(&[b"message"]);
    let made: api::Signatures = keys.told(with(None, Some(&sha256), Some(api::DigestAlgorithm::Sha256)));
    assert!(holds(&mut keys, b"message", made.items[0].signature.as_ref().unwrap()));
    for (op, code) in [
        (with(None, Some(&sha256), None), Code::Malformed),
        (with(None, None, None), Code::Malformed),
        (with(Some(b"x"), Some(&sha256), Some(api::DigestAlgorithm::Sha256)), Code::Malformed),
        (with(None, Some(&sha256[1..]), Some(api::DigestAlgorithm::Sha256)), Code::Malformed),
        (with(Some(b"x"), None, Some(api::DigestAlgorithm::Sha512)), Code::WrongKeyKind),
    ] {
        assert_eq!(keys.refused(op), code);
    }

    keys.create("hooks", KeyKind::HmacSha256);
    let hmac = || {
        let body = api::Hmac { items: vec![api::HmacItem { message: base64url(b"m") }], version: None };
        Hmac { name: name("hooks"), body }
    };
    let made: api::Macs = keys.told(hmac());
    let mac = made.items[0].mac.clone().unwrap();
    keys.rotate("hooks");
    let again: api::Macs = keys.told(hmac());
    assert_ne!(again.items[0].mac.as_ref(), Some(&mac));
    for (message, mac, valid) in
        [(&b"m"[..], &mac, true), (b"n", &mac, false), (b"m", &mac.replacen("v1", "v2", 1), false)]
    {
        let item = api::VerifyHmacItem { message: base64url(message), mac: mac.clone() };
        let body = api::VerifyHmac { items: vec![item] };
        let made: api::Verdicts = keys.told(VerifyHmac { name: name("hooks"), body });
        assert_eq!(made.items[0].valid, Some(valid));
    }
}

#[test]
fn a_key_leaves_and_is_deleted_only_if_it_may() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::Aes256Gcm);
    let export = |version| Export { name: name("orders"), body: api::ExportTransitKey { version } };
    assert_eq!(keys.refused(export(None)), Code::KeyProtected);
    assert_eq!(keys.refused(Backup { name: name("orders") }), Code::KeyProtected);
    assert_eq!(keys.refused(Delete { name: name("orders") }), Code::KeyProtected);
    let export = |version| Export { name: name("legacy"), body: api::ExportTransitKey { version } };
    let body = api::CreateTransitKey { kind: KeyKind::Aes256Gcm, exportable: true, deletion_allowed: false };
    let _: api::TransitKey = keys.told(Create { name: name("legacy"), body });
    keys.rotate("legacy");
    let (first, second): (api::ExportedKey, api::ExportedKey) = (keys.told(export(Some(1))), keys.told(export(None)));
    assert_eq!((first.version, second.version), (1, 2));
    assert_ne!(first.key, second.key);
    assert_eq!(keys.refused(export(Some(3))), Code::UnknownVersion);
    assert_eq!(keys.refused(export(Some(0))), Code::UnknownVersion);
}

#[test]
fn a_backup_comes_back_under_its_name() {
    let mut keys = Keys::new();
    for kind in [KeyKind::Aes256Gcm, KeyKind::EcdsaP384] {
        let key = format!("key-{kind}");
        let body = api::CreateTransitKey { kind, exportable: true, deletion_allowed: true };
        let _: api::TransitKey = keys.told(Create { name: name(&key), body });
        keys.rotate(&key);
        let before = keys.read(&key);
        let ciphertext = kind.encrypts().then(|| keys.encrypt(&key, b"kept"));
        let backup: api::TransitBackup = keys.told(Backup { name: name(&key) });
        let restore = |to: &str, body: &api::TransitBackup| Restore { name: name(to), body: body.clone() };
        assert_eq!(keys.refused(restore(&key, &backup)), Code::Exists);
        assert_eq!(keys.refused(restore("other", &backup)), Code::Malformed);
        let _: api::Done = keys.told(Delete { name: name(&key) });
        assert_eq!(keys.refused(Read { name: name(&key) }), Code::NotFound);
        let spoils: [fn(&mut api::TransitBackup); 7] = [
            |backup| backup.versions.clear(),
            |backup| backup.versions = vec![backup.versions[0].clone(); 101],
            |backup| backup.min_decryption_version = 3,
            |backup| backup.min_encryption_version = 3,
            |backup| backup.versions[1].key = base64url(&[1; 31]),
            |backup| backup.versions[1].key = "?".into(),
            |backup| backup.kind = KeyKind::Rsa2048,
        ];
        for spoil in spoils {
            let mut spoilt = backup.clone();
            spoil(&mut spoilt);
            assert_eq!(keys.refused(restore(&key, &spoilt)), Code::Malformed);
        }
        let _: api::TransitKey = keys.told(restore(&key, &backup));
        assert_eq!(keys.read(&key), before);
        if let Some(ciphertext) = ciphertext {
            assert_eq!(keys.decrypt(&key, &ciphertext).unwrap(), b"kept");
        }
        let body = api::ConfigureTransitKey { deletion_allowed: Some(false), ..Default::default() };
        keys.configure(&key, body).unwrap();
    }
}

#[test]
fn somebodys_key_is_taken_if_it_is_one() {
    let mut keys = Keys::new();
    let import = |key: &str, kind, bytes: &[u8]| {
        let body = api::ImportTransitKey { kind, key: base64url(bytes), exportable: true, deletion_allowed: false };
        Import { name: name(key), body }
    };
    let made: api::TransitKey = keys.told(import("legacy", KeyKind::Aes256Gcm, &[7; 32]));
    assert!(made.exportable && made.latest_version == 1);
    let body = api::ExportTransitKey::default();
    let exported: api::ExportedKey = keys.told(Export { name: name("legacy"), body });
    assert_eq!(exported.key, base64url(&[7; 32]));
    assert_eq!(keys.refused(import("legacy", KeyKind::Aes256Gcm, &[7; 32])), Code::Exists);
    for (kind, bytes) in [
        (KeyKind::Aes256Gcm, &[7; 31][..]),
        (KeyKind::HmacSha256, &[7; 31]),
        (KeyKind::HmacSha256, &[7; 65]),
        (KeyKind::Ed25519, &[7; 32]),
        (KeyKind::Rsa2048, &[7; 300]),
    ] {
        let refusal = keys.run(import("x", kind, bytes)).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (Code::Malformed, Some("key")), "{kind}");
    }
}

/// Two rotations that read the same state: both happen, one after the other.
#[test]
fn rotations_do_not_overtake_each_other() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::Aes256Gcm);
    let alice = keys.0.actor("alice");
    let rotate = || wrap_world::Task::new(Box::new(Rotate { name: name("orders") }), Some(alice.clone()));
    let (mut one, mut two) = (rotate(), rotate());
    let (mut first, mut second) = (None, None);
    while first.is_none() || second.is_none() {
        first = first.or_else(|| one.tick(&mut keys.0));
        second = second.or_else(|| two.tick(&mut keys.0));
    }
    let version = |answered: Option<wrap_world::Answered>| answered.unwrap().json::<api::TransitKey>().latest_version;
    let mut versions = [version(first), version(second)];
    versions.sort_unstable();
    assert_eq!(versions, [2, 3]);
}

/// The form of a backup has a version, and takes no other.
#[test]
fn a_backup_of_another_form_is_none() {
    let mut keys = Keys::new();
    let body = api::CreateTransitKey { kind: KeyKind::HmacSha256, exportable: true, deletion_allowed: false };
    let _: api::TransitKey = keys.told(Create { name: name("hooks"), body });
    let backup: api::TransitBackup = keys.told(Backup { name: name("hooks") });
    assert_eq!(backup.v, V1);
    let text = String::from_utf8(bulla_wire::json::to_vec(&backup)).unwrap();
    assert!(bulla_wire::json::parse::<api::TransitBackup>(text.as_bytes(), 1 << 20).is_ok());
    let newer = text.replacen("\"v\":1", "\"v\":2", 1);
    assert!(bulla_wire::json::parse::<api::TransitBackup>(newer.as_bytes(), 1 << 20).is_err());
}

#[test]
fn associated_data_stays_with_what_it_was_given_for() {
    let mut keys = Keys::new();
    let with = |ciphertext: &str, data: Option<&[u8]>| api::Decrypt {
        items: vec![api::DecryptItem { ciphertext: ciphertext.to_owned(), associated_data: data.map(base64url) }],
    };
    for kind in [KeyKind::Aes256Gcm, KeyKind::Rsa2048] {
        let key = format!("key-{kind}");
        keys.create(&key, kind);
        let one = api::EncryptItem { plaintext: base64url(b"x"), associated_data: Some(base64url(b"row")) };
        let body = api::Encrypt { items: vec![one], version: None };
        let made: api::Ciphertexts = keys.told(Encrypt { name: name(&key), body });
        let first = made.items[0].ciphertext.clone().unwrap();
        keys.rotate(&key);
        let made: api::Ciphertexts = keys.told(Rewrap { name: name(&key), body: with(&first, Some(b"row")) });
        let anew = made.items[0].ciphertext.clone().unwrap();
        assert!(anew.starts_with("bulla:v2:"));
        let body = api::NewDatakey { bytes: 32, associated_data: Some(base64url(b"row")) };
        let datakey: api::WrappedDatakey = keys.told(Datakey { name: name(&key), body, wrapped: true });
        for ciphertext in [&first, &anew, &datakey.ciphertext] {
            assert!(keys.run(Decrypt { name: name(&key), body: with(ciphertext, Some(b"row")) }).is_ok());
            for other in [None, Some(&b"raw"[..])] {
                let refused = keys.refused(Decrypt { name: name(&key), body: with(ciphertext, other) });
                assert_eq!(refused, Code::CiphertextDamaged);
            }
        }
        let refused = keys.refused(Rewrap { name: name(&key), body: with(&first, None) });
        assert_eq!(refused, Code::CiphertextDamaged);
    }
}

#[test]
fn a_private_key_of_rsa_works_on_a_hundred_items() {
    let mut keys = Keys::new();
    keys.create("rsa", KeyKind::Rsa2048);
    let mut signing = sign("rsa", b"x");
    let one = signing.body.items[0].clone();
    signing.body.items.resize(100, one);
    let made: api::Signatures = keys.told(signing);
    assert_eq!(made.items.len(), 100);
    let ciphertext = keys.encrypt("rsa", b"x");
    let many = |count| api::Decrypt { items: vec![item(&ciphertext); count] };
    let made: api::Plaintexts = keys.told(Decrypt { name: name("rsa"), body: many(100) });
    assert_eq!(made.items.len(), 100);
    assert_eq!(keys.refused(Decrypt { name: name("rsa"), body: many(101) }), Code::TooLarge);
    assert_eq!(keys.refused(Rewrap { name: name("rsa"), body: many(101) }), Code::TooLarge);
}

#[test]
fn a_key_of_all_versions_comes_back() {
    let mut keys = Keys::new();
    let body = api::CreateTransitKey { kind: KeyKind::Aes256Gcm, exportable: true, deletion_allowed: true };
    let _: api::TransitKey = keys.told(Create { name: name("full"), body });
    (2..=MAX_TRANSIT_VERSIONS).for_each(|_| drop(keys.rotate("full")));
    let before = keys.read("full");
    let backup: api::TransitBackup = keys.told(Backup { name: name("full") });
    let _: api::Done = keys.told(Delete { name: name("full") });
    let _: api::TransitKey = keys.told(Restore { name: name("full"), body: backup });
    assert_eq!(keys.read("full"), before);
}

/// What takes long takes turns; what does not goes without.
#[test]
fn what_may_take_long_says_so() {
    let batch = |count| {
        let one = api::EncryptItem { plaintext: base64url(b"x"), associated_data: None };
        Encrypt { name: name("k"), body: api::Encrypt { items: vec![one; count], version: None } }
    };
    let undo = |count| api::Decrypt { items: vec![item("x"); count] };
    let signed = |count| {
        let mut op = sign("k", b"x");
        op.body.items = vec![op.body.items[0].clone(); count];
        op
    };
    let verified = |count| {
        let mut op = verify("k", b"x", "s");
        op.body.items = vec![op.body.items[0].clone(); count];
        op
    };
    let hmac = |count| Hmac {
        name: name("k"),
        body: api::Hmac { items: vec![api::HmacItem { message: base64url(b"x") }; count], version: None },
    };
    let macs = |count| {
        let one = api::VerifyHmacItem { message: base64url(b"x"), mac: "m".into() };
        VerifyHmac { name: name("k"), body: api::VerifyHmac { items: vec![one; count] } }
    };
    assert!(!batch(16).may_take_long() && batch(17).may_take_long());
    assert!(!verified(16).may_take_long() && verified(17).may_take_long());
    assert!(!hmac(16).may_take_long() && hmac(17).may_take_long());
    assert!(!macs(16).may_take_long() && macs(17).may_take_long());
    assert!(!signed(1).may_take_long() && signed(2).may_take_long());
    let decrypt = |count| Decrypt { name: name("k"), body: undo(count) };
    let rewrap = |count| Rewrap { name: name("k"), body: undo(count) };
    assert!(!decrypt(1).may_take_long() && decrypt(2).may_take_long());
    assert!(!rewrap(1).may_take_long() && rewrap(2).may_take_long());
    for (kind, long) in [(KeyKind::Aes256Gcm, false), (KeyKind::Rsa2048, true)] {
        let body = api::CreateTransitKey { kind, exportable: false, deletion_allowed: false };
        assert_eq!(Create { name: name("k"), body }.may_take_long(), long);
        let body = api::ImportTransitKey { kind, key: String::new(), exportable: false, deletion_allowed: false };
        assert_eq!(Import { name: name("k"), body }.may_take_long(), long);
    }
    assert!(Rotate { name: name("k") }.may_take_long() && !Read { name: name("k") }.may_take_long());
}

#[test]
fn what_is_not_said_stays_and_a_single_item_is_named() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::Aes256Gcm);
    let allow = api::ConfigureTransitKey { deletion_allowed: Some(true), ..Default::default() };
    keys.configure("orders", allow).unwrap();
    keys.rotate("orders");
    let min = api::ConfigureTransitKey { min_decryption_version: Some(2), ..Default::default() };
    keys.configure("orders", min).unwrap();
    keys.configure("orders", api::ConfigureTransitKey::default()).unwrap();
    let read = keys.read("orders");
    assert_eq!((read.deletion_allowed, read.min_decryption_version), (true, 2));
    let refusal = keys.run(decrypt("orders", "nonsense")).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("items[0]"));
}

#[test]
fn a_restore_may_take_long() {
    let backup = api::TransitBackup {
        v: V1,
        name: name("k"),
        kind: KeyKind::Aes256Gcm,
        min_decryption_version: 1,
        min_encryption_version: 0,
        deletion_allowed: false,
        versions: vec![],
    };
    assert!(Restore { name: name("k"), body: backup }.may_take_long());
}

/// The versions are asked for together with the settings.
#[test]
fn what_a_key_made_is_undone_after_one_reading() {
    let mut keys = Keys::new();
    keys.create("orders", KeyKind::Aes256Gcm);
    let ciphertext = keys.encrypt("orders", b"x");
    let alice = keys.0.actor("alice");
    let mut task = wrap_world::Task::new(Box::new(decrypt("orders", &ciphertext)), Some(alice));
    assert!(task.tick(&mut keys.0).is_none() && task.decided.is_none());
    assert!(task.tick(&mut keys.0).is_none() && task.decided.is_some());
}
