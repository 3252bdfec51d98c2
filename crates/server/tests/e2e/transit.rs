//! Transit keys through the real server and client: cases for every route, versions, rights, failures, what stays.

use crate::cases::{Cast, Who};
use crate::support::{audit_path, finish, lines};
use bulla_client::ClientError;
use bulla_core::audit::Body;
use bulla_server::route::Endpoint;
use bulla_testkit::canary::{Canary, assert_absent};
use bulla_testkit::world::{Shape, World};
use bulla_wire::api::{self, KeyKind};
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::error::Code;
use bulla_wire::json;
use bulla_wire::name::Name;
use std::sync::atomic::{AtomicU32, Ordering};

/// Keys that everybody has at hand.
pub const KEYS: [(&str, KeyKind); 3] =
    [("orders", KeyKind::Aes256Gcm), ("release", KeyKind::Ed25519), ("hooks", KeyKind::HmacSha256)];

/// A name that no key has yet: each request of a case is to succeed.
fn fresh(prefix: &str) -> Name {
    static MADE: AtomicU32 = AtomicU32::new(0);
    name(&format!("{prefix}-{}", MADE.fetch_add(1, Ordering::SeqCst)))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn create(kind: KeyKind) -> api::CreateTransitKey {
    api::CreateTransitKey { kind, exportable: true, deletion_allowed: true }
}

fn encrypt(plaintext: &[u8]) -> api::Encrypt {
    let item = api::EncryptItem { plaintext: base64url(plaintext), associated_data: None };
    api::Encrypt { items: vec![item], version: None }
}

fn decrypt(ciphertext: &str) -> api::Decrypt {
    api::Decrypt { items: vec![api::DecryptItem { ciphertext: ciphertext.to_owned(), associated_data: None }] }
}

/// A good request to a route of the engine; none for other routes.
pub async fn good(cast: &mut Cast, endpoint: Endpoint) -> Option<(Who, (String, Vec<u8>))> {
    let message = || base64url(b"message");
    let at = |key: &str, verb: &str| format!("/v1/transit/{key}:{verb}");
    let writer = &cast.writer;
    let ciphertext = match endpoint {
        Endpoint::TransitDecrypt | Endpoint::TransitRewrap => {
            let made = writer.transit_encrypt(&name("orders"), &encrypt(b"x")).await.unwrap();
            made.items[0].ciphertext.clone().unwrap()
        }
        _ => String::new(),
    };
    let (target, body) = match endpoint {
        Endpoint::TransitList => ("/v1/transit?limit=2".into(), vec![]),
        Endpoint::TransitRead => ("/v1/transit/release".into(), vec![]),
        Endpoint::TransitCreate => {
            (format!("/v1/transit/{}", fresh("made")), json::to_vec(&create(KeyKind::ChaCha20Poly1305)))
        }
        Endpoint::TransitImport => {
            let key = base64url(&[7; 32]);
            let body =
                api::ImportTransitKey { kind: KeyKind::Aes256Gcm, key, exportable: false, deletion_allowed: false };
            (at(fresh("imported").as_str(), "import"), json::to_vec(&body))
        }
        Endpoint::TransitRestore => {
            let key = fresh("restored");
            let versions = vec![api::BackupVersion { created_ms: 1, key: base64url(&[8; 32]) }];
            let body = api::TransitBackup {
                v: json::V1,
                name: key.clone(),
                kind: KeyKind::HmacSha256,
                min_decryption_version: 1,
                min_encryption_version: 0,
                deletion_allowed: false,
                versions,
            };
            (at(key.as_str(), "restore"), json::to_vec(&body))
        }
        Endpoint::TransitDelete => {
            let key = fresh("doomed");
            writer.transit_create(&key, &create(KeyKind::Aes256Gcm)).await.unwrap();
            (format!("/v1/transit/{key}"), vec![])
        }
        Endpoint::TransitRotate => {
            let key = fresh("rotated");
            writer.transit_create(&key, &create(KeyKind::EcdsaP256)).await.unwrap();
            (at(key.as_str(), "rotate"), vec![])
        }
        Endpoint::TransitConfigure => {
            let body = api::ConfigureTransitKey { deletion_allowed: Some(false), ..Default::default() };
            (at("release", "configure"), json::to_vec(&body))
        }
        Endpoint::TransitExport => (at("orders", "export"), json::to_vec(&api::ExportTransitKey { version: Some(1) })),
        Endpoint::TransitBackup => (at("orders", "backup"), vec![]),
        Endpoint::TransitEncrypt => (at("orders", "encrypt"), json::to_vec(&encrypt(b"card 42"))),
        Endpoint::TransitDecrypt => (at("orders", "decrypt"), json::to_vec(&decrypt(&ciphertext))),
        Endpoint::TransitRewrap => (at("orders", "rewrap"), json::to_vec(&decrypt(&ciphertext))),
        Endpoint::TransitDatakey | Endpoint::TransitDatakeyWrapped => {
            let verb = if endpoint == Endpoint::TransitDatakey { "datakey" } else { "datakey-wrapped" };
            (at("orders", verb), json::to_vec(&api::NewDatakey { bytes: 32, associated_data: None }))
        }
        Endpoint::TransitSign => {
            let items = vec![api::SignItem { message: Some(message()), digest: None }];
            (at("release", "sign"), json::to_vec(&api::Sign { items, version: None, digest_algorithm: None }))
        }
        Endpoint::TransitVerify => {
            let signature = format!("bulla:v1:{}", base64url(&[1; 64]));
            let items = vec![api::VerifyItem { message: Some(message()), digest: None, signature }];
            (at("release", "verify"), json::to_vec(&api::Verify { items, digest_algorithm: None }))
        }
        Endpoint::TransitHmac => {
            let items = vec![api::HmacItem { message: message() }];
            (at("hooks", "hmac"), json::to_vec(&api::Hmac { items, version: None }))
        }
        Endpoint::TransitVerifyHmac => {
            let mac = format!("bulla:v1:{}", base64url(&[1; 32]));
            let items = vec![api::VerifyHmacItem { message: message(), mac }];
            (at("hooks", "verify-hmac"), json::to_vec(&api::VerifyHmac { items }))
        }
        _ => return None,
    };
    Some((Who::Alice, (target, body)))
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Code {
    let error = result.unwrap_err();
    assert!(!error.hint().is_empty(), "{error}");
    error.code().unwrap_or_else(|| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_serves_those_whom_policy_lets() {
    let world = World::new(Shape::durable()).await;
    let (shop_person, billing_person) = (world.admit("shop").await, world.admit("billing").await);
    let admin = world.client(&world.admins[0]);
    let text =
        "permit (principal, action == Bulla::Action::\"transit.encrypt\", resource == Bulla::Transit::\"orders\")
                when { principal.name == \"shop\" };
                permit (principal, action in [Bulla::Action::\"transit.decrypt\", Bulla::Action::\"transit.rewrap\"],
                        resource == Bulla::Transit::\"orders\") when { principal.name == \"billing\" };
                permit (principal in Bulla::Group::\"admins\",
                        action in [Bulla::Action::\"transit.create\", Bulla::Action::\"transit.rotate\"], resource);";
    let put = api::PutPolicy { text: text.to_owned(), replaces: None };
    admin.policy_put(&name("transit"), &put).await.unwrap();
    let (shop, billing, orders) = (world.client(&shop_person), world.client(&billing_person), name("orders"));
    assert_eq!(code(shop.transit_create(&orders, &create(KeyKind::Aes256Gcm)).await), Code::Denied);
    admin.transit_create(&orders, &create(KeyKind::Aes256Gcm)).await.unwrap();
    admin.transit_create(&name("invoices"), &create(KeyKind::Aes256Gcm)).await.unwrap();

    let made = shop.transit_encrypt(&orders, &encrypt(b"card 42")).await.unwrap();
    let ciphertext = made.items[0].ciphertext.clone().unwrap();
    assert_eq!(code(shop.transit_decrypt(&orders, &decrypt(&ciphertext)).await), Code::Denied);
    assert_eq!(code(shop.transit_encrypt(&name("invoices"), &encrypt(b"x")).await), Code::Denied);
    assert_eq!(code(admin.transit_decrypt(&orders, &decrypt(&ciphertext)).await), Code::Denied);
    let opened = billing.transit_decrypt(&orders, &decrypt(&ciphertext)).await.unwrap();
    assert_eq!(opened.items[0].plaintext, Some(base64url(b"card 42")));

    // Rotation, over a restart and a seal.
    assert_eq!(admin.transit_rotate(&orders).await.unwrap().latest_version, 2);
    let mut world = world;
    world.stop().await;
    world.start().await;
    world.unseal().await;
    let billing = world.client(&billing_person);
    let made = billing.transit_rewrap(&orders, &decrypt(&ciphertext)).await.unwrap();
    let anew = made.items[0].ciphertext.clone().unwrap();
    assert!(anew.starts_with("bulla:v2:"), "{anew}");
    let both = api::Decrypt { items: [decrypt(&ciphertext).items, decrypt(&anew).items].concat() };
    let opened = billing.transit_decrypt(&orders, &both).await.unwrap();
    assert!(opened.items.iter().all(|item| item.plaintext == Some(base64url(b"card 42"))));
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_key_or_plaintext_is_written_or_told() {
    let world = World::new(Shape::durable()).await;
    let cast = Cast::new(&world).await;
    let (writer, orders) = (&cast.writer, name("orders"));
    let [secret, row] = ["plaintext", "associated data"].map(Canary::text);
    let item = api::EncryptItem { plaintext: base64url(secret.bytes()), associated_data: Some(base64url(row.bytes())) };
    let made = writer.transit_encrypt(&orders, &api::Encrypt { items: vec![item], version: None }).await.unwrap();
    let ciphertext = made.items[0].ciphertext.clone().unwrap();
    let bound = |data: &[u8]| api::Decrypt {
        items: vec![api::DecryptItem { ciphertext: ciphertext.clone(), associated_data: Some(base64url(data)) }],
    };
    let opened = writer.transit_decrypt(&orders, &bound(row.bytes())).await.unwrap();
    assert_eq!(opened.items[0].plaintext, Some(base64url(secret.bytes())));
    assert_eq!(code(writer.transit_decrypt(&orders, &bound(b"other")).await), Code::CiphertextDamaged);
    assert_eq!(code(writer.transit_decrypt(&orders, &decrypt(&ciphertext)).await), Code::CiphertextDamaged);
    let sign = api::Sign {
        items: vec![api::SignItem { message: Some(base64url(secret.bytes())), digest: None }],
        version: None,
        digest_algorithm: None,
    };
    writer.transit_sign(&name("release"), &sign).await.unwrap();
    let exported = writer.transit_export(&orders, &api::ExportTransitKey::default()).await.unwrap();
    let key = Canary::of("key", &base64url_decode(&exported.key).unwrap());
    let file = writer.transit_backup(&orders).await.unwrap();
    assert!(file.starts_with(b"age-encryption.org/v1\n"));
    let backup = writer.transit_open_backup(&file).await.unwrap();
    assert_eq!(backup.versions[0].key, exported.key);
    // One line a request, with the key's name and nothing of what it worked on.
    let all = lines(&world).await;
    let told: Vec<_> = all
        .iter()
        .filter_map(|line| match &line.body {
            Body::Request(line) => line.action.as_ref().map(|action| (action.to_string(), line.outcome.status)),
            _ => None,
        })
        .filter(|(action, _)| action.starts_with("transit.") && action != "transit.create")
        .collect();
    let of = |action: &str, status: u16| (action.to_owned(), status);
    assert_eq!(
        told,
        [
            of("transit.encrypt", 200),
            of("transit.decrypt", 200),
            of("transit.decrypt", 400),
            of("transit.decrypt", 400),
            of("transit.sign", 200),
            of("transit.export", 200),
            of("transit.backup", 200),
        ]
    );
    let (folder, audit) = (world.data(), audit_path(&world));
    assert_absent(&[secret, row, key], [folder.as_path(), audit.as_path()]);
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_and_comes_back() {
    let world = World::new(Shape::durable()).await;
    let cast = Cast::new(&world).await;
    let (writer, key) = (&cast.writer, name("travels"));
    writer.transit_create(&key, &create(KeyKind::Rsa2048)).await.unwrap();
    writer.transit_rotate(&key).await.unwrap();
    let before = writer.transit_read(&key).await.unwrap();
    let made = writer.transit_encrypt(&key, &encrypt(b"kept")).await.unwrap();
    let ciphertext = made.items[0].ciphertext.clone().unwrap();
    let file = writer.transit_backup(&key).await.unwrap();
    let backup = writer.transit_open_backup(&file).await.unwrap();
    assert_eq!(code(writer.transit_restore(&key, &backup).await), Code::Exists);
    writer.transit_delete(&key).await.unwrap();
    assert_eq!(code(writer.transit_decrypt(&key, &decrypt(&ciphertext)).await), Code::NotFound);
    writer.transit_restore(&key, &backup).await.unwrap();
    assert_eq!(writer.transit_read(&key).await.unwrap(), before);
    let opened = writer.transit_decrypt(&key, &decrypt(&ciphertext)).await.unwrap();
    assert_eq!(opened.items[0].plaintext, Some(base64url(b"kept")));
    // Signed by the private key that was exported, verified by the cluster.
    let exported = writer.transit_export(&key, &api::ExportTransitKey { version: Some(2) }).await.unwrap();
    let own =
        bulla_crypto::transit::TransitKey::parse(exported.kind, &base64url_decode(&exported.key).unwrap()).unwrap();
    let signature = own.sign(bulla_crypto::transit::Signed::Message(b"message"), None).unwrap();
    let item = api::VerifyItem {
        message: Some(base64url(b"message")),
        digest: None,
        signature: format!("bulla:v2:{}", base64url(&signature)),
    };
    let verdict =
        writer.transit_verify(&key, &api::Verify { items: vec![item], digest_algorithm: None }).await.unwrap();
    assert_eq!(verdict.items[0].valid, Some(true));
    finish(world).await;
}

/// A thousand things in one request, and files of several chunks.
#[tokio::test(flavor = "multi_thread")]
async fn large_batches_and_files() {
    let world = World::new(Shape::default()).await;
    let cast = Cast::new(&world).await;
    let (writer, orders) = (&cast.writer, name("orders"));
    let item = |number: usize| api::EncryptItem {
        plaintext: base64url(&[number.to_le_bytes()[0]; 400]),
        associated_data: Some(base64url(&number.to_be_bytes())),
    };
    let body = api::Encrypt { items: (0..1000).map(item).collect(), version: None };
    let made = writer.transit_encrypt(&orders, &body).await.unwrap();
    let back = api::Decrypt {
        items: made
            .items
            .iter()
            .enumerate()
            .map(|(number, item)| api::DecryptItem {
                ciphertext: item.ciphertext.clone().unwrap(),
                associated_data: Some(base64url(&number.to_be_bytes())),
            })
            .collect(),
    };
    let opened = writer.transit_decrypt(&orders, &back).await.unwrap();
    let right =
        opened.items.iter().zip(&body.items).all(|(item, sent)| item.plaintext.as_ref() == Some(&sent.plaintext));
    assert!(right);
    let more = api::Encrypt { items: (0..1001).map(item).collect(), version: None };
    assert_eq!(code(writer.transit_encrypt(&orders, &more).await), Code::TooLarge);
    let large = writer.transit_encrypt(&orders, &encrypt(&vec![0; 1 << 20])).await.unwrap_err();
    assert!(large.to_string().contains("at most") && !large.hint().is_empty(), "{large}");

    for length in [0, 1, 65_536, 65_537, 300_000] {
        let content: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[1]).collect();
        let mut file = Vec::new();
        writer.transit_encrypt_file(&orders, content.as_slice(), &mut file).await.unwrap();
        let mut back = Vec::new();
        let by = writer.transit_decrypt_file(Some(&orders), file.as_slice(), &mut back).await.unwrap();
        assert_eq!(by, (orders.clone(), 1));
        assert_eq!(back, content);
        // Cut short, changed, and not ours.
        let mut cut = Vec::new();
        assert!(writer.transit_decrypt_file(None, &file[..file.len() - 1], &mut cut).await.is_err());
        let last = file.len() - 1;
        file[last] ^= 1;
        assert!(writer.transit_decrypt_file(None, file.as_slice(), &mut Vec::new()).await.is_err());
    }
    let mut file = Vec::new();
    writer.transit_encrypt_file(&orders, &b"x"[..], &mut file).await.unwrap();
    let text = String::from_utf8_lossy(&file).into_owned();
    assert!(text.contains("\n-> bulla-transit-v1 orders 1\n"), "{text}");
    // Another key than the one that is meant: refused before anything is asked.
    let strange =
        writer.transit_decrypt_file(Some(&name("other1")), file.as_slice(), &mut Vec::new()).await.unwrap_err();
    assert!(matches!(&strange, ClientError::Input { .. }) && strange.to_string().contains("orders"), "{strange}");
    // Another key's name in the header: refused by the cluster, in its words.
    let other = name("other1");
    writer.transit_create(&other, &create(KeyKind::Aes256Gcm)).await.unwrap();
    let at = file.windows(6).position(|word| word == b"orders").unwrap();
    file[at..at + 6].copy_from_slice(b"other1");
    let refused = writer.transit_decrypt_file(None, file.as_slice(), &mut Vec::new()).await;
    assert_eq!(code(refused), Code::CiphertextOfOtherKey);
    let age = bulla_crypto::envelope::seal(cast.bob_person.identity.recipients(), None, b"x").unwrap();
    let refused = writer.transit_decrypt_file(None, age.as_slice(), &mut Vec::new()).await.unwrap_err();
    assert!(refused.hint().contains("bulla encrypt"), "{refused}");
    finish(world).await;
}
