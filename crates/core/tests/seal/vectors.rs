//! `spec/vectors/seal`: opened as published. Envelopes are made with their library's own randomness, so a vector
//! of an epoch cannot be made again byte for byte; `write_epoch` made it once.

use crate::world::{AUDIT, Admin, Map, NOW_MS, World};
use bulla_core::head::{Head, HeadError};
use bulla_core::record::{Revision, SealedValue, Sequence, StoreKey, Table};
use bulla_core::seal::{GiveOutcome, Opened, SealError, Session, SessionError, open};
use bulla_crypto::evidence::{ClusterView, Record};
use bulla_crypto::identity::Identity;
use bulla_crypto::random::SeededRng;
use bulla_crypto::secret::SecretKey;
use bulla_crypto::share::{ShareOf, context};
use bulla_crypto::sign::RsaMinimum;
use bulla_wire::dsse::Envelope;
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::evidence::SealMode;
use bulla_wire::id::{ClusterId, Lineage, PrincipalId};
use serde_json::{Value, json};
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/seal").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

fn write(name: &str, value: &Value) {
    std::fs::create_dir_all(path("")).unwrap();
    std::fs::write(path(name), format!("{value:#}\n")).unwrap();
}

/// Messages and heads have no randomness, so the whole file is made again and compared.
#[test]
fn messages_and_heads() {
    assert_eq!(read("messages.json"), messages());
    let vector = read("messages.json");
    let key = key_of(&vector["head"]["key"]);
    let cluster: ClusterId = vector["cluster"].as_str().unwrap().parse().unwrap();
    for bad in vector["head"]["refused"].as_array().unwrap() {
        let row = SealedValue::new(base64url_decode(bad["row"].as_str().unwrap()).unwrap()).unwrap();
        let class = match Head::verify(&row, &key, &cluster).unwrap_err() {
            HeadError::Form => "form",
            HeadError::Mac => "mac",
        };
        assert_eq!(bad["class"], class, "{bad}");
    }
}

fn messages() -> Value {
    let cluster = ClusterId::new([0x11; 32]);
    let principal = PrincipalId::new([0x22; 32]);
    let context = context(&ShareOf { cluster, epoch: 5, index: 1, k: 2, n: 3, principal });
    let (key, share) = (SecretKey::new([0x33; 32]), [&[2][..], &[0x44; 32]].concat());
    let session = "aaaqeayeaudaocajbifqydiob4";
    let head = Head {
        sequence: Sequence(1234),
        lineage: Lineage::new([0x55; 16]),
        mark: 30_000_000,
        active_ms: 86_400_000,
        commit_ms: NOW_MS,
        audit: AUDIT,
    };
    let head_key = SecretKey::new([0x66; 32]);
    let row = head.encode(&head_key, &cluster, Revision(7)).unwrap().into_bytes();
    let altered = |place: usize| {
        let mut row = row.clone();
        row[place] ^= 1;
        base64url(&row)
    };
    json!({
        "cluster": cluster, "epoch": 5, "index": 1, "k": 2, "n": 3, "principal": principal,
        "context": base64url(context.as_bytes()),
        "share": base64url(&share),
        "share_hash": context.share_hash(&share),
        "key": base64url(key.expose()),
        "key_plaintext": base64url(context.key_plaintext(&key).expose()),
        "session": session,
        "give_plaintext": base64url(context.give_plaintext(session, &key).expose()),
        "head": {
            "key": base64url(head_key.expose()), "revision": 7, "sequence": 1234, "lineage": head.lineage,
            "mark": head.mark, "active_ms": head.active_ms, "commit_ms": head.commit_ms,
            "audit": { "file": AUDIT.file, "offset": AUDIT.offset, "n": AUDIT.n, "hash": AUDIT.hash },
            "row": base64url(&row),
            "refused": [
                { "what": "another tag", "row": altered(0), "class": "form" },
                { "what": "a term", "row": altered(4), "class": "form" },
                { "what": "another revision", "row": altered(12), "class": "mac" },
                { "what": "another sequence", "row": altered(20), "class": "mac" },
                { "what": "another MAC", "row": altered(140), "class": "mac" },
                { "what": "cut short", "row": base64url(&row[..140]), "class": "form" },
            ],
        },
    })
}

fn key_of(value: &Value) -> SecretKey {
    SecretKey::from_slice(&base64url_decode(value.as_str().unwrap()).unwrap()).unwrap()
}

/// The cluster of an epoch vector, as its admins and their node find it.
fn world_of(vector: &Value) -> World {
    let genesis: Envelope = serde_json::from_value(vector["genesis"].clone()).unwrap();
    let cluster: ClusterId = vector["cluster"].as_str().unwrap().parse().unwrap();
    let view = ClusterView::pinned(cluster, &genesis).unwrap();
    let records: Vec<Record> = view.newest().admins().cloned().collect();
    let identities = vector["identities"].as_array().unwrap().iter();
    let admins = identities
        .zip(records)
        .map(|(text, record)| {
            let text = text.as_str().unwrap().as_bytes();
            Admin { identity: Identity::parse(text, RsaMinimum::Bits3072, &|| None).unwrap(), record }
        })
        .collect();
    let mut store = Map::default();
    for (name, row) in vector["rows"].as_object().unwrap() {
        store.put_plain(name, base64url_decode(row.as_str().unwrap()).unwrap());
    }
    World { rng: SeededRng::from_u64(1), admins, view, store }
}

fn secrets(opened: &Opened) -> Value {
    let keyring = &opened.keyring;
    json!({
        "epoch": opened.config().epoch,
        "lineage": opened.config().lineage,
        "sequence": opened.head.sequence.0,
        "terms": keyring.terms.values().map(|key| base64url(key.expose())).collect::<Vec<_>>(),
        "path": base64url(keyring.path.expose()),
        "challenge": base64url(keyring.challenge.expose()),
        "ingress": base64url(keyring.ingress.expose()),
        "audit": base64url(keyring.audit.expose()),
        "head": base64url(keyring.head.expose()),
    })
}

/// A whole unseal, up to the advance; why not, in one word.
fn class(world: &mut World, admins: &[usize]) -> Result<Opened, &'static str> {
    let seal_class = |error: SealError| match error {
        SealError::Row(_) => "row",
        SealError::CheckValue => "check_value",
        SealError::ConfigMac => "config_mac",
        SealError::Keyring => "keyring",
        SealError::Head(_) => "head",
        other => panic!("{other}"),
    };
    let stored = world.store.seal().map_err(seal_class)?;
    let mut session = Session::open(NOW_MS, stored, &mut world.rng).unwrap();
    for admin in admins {
        let (index, key) = world.fetch(&session, *admin).map_err(|_| "client")?;
        match world.give_key(&mut session, *admin, index, &key) {
            Ok(GiveOutcome::Progress(_)) => {}
            Ok(GiveOutcome::Complete(root)) => return open(&root, session.stored()).map_err(seal_class),
            Err(SessionError::BadShare { .. }) => return Err("bad_share"),
            Err(SessionError::Seal(error)) => return Err(seal_class(error)),
            Err(other) => panic!("{other}"),
        }
    }
    Err("too_few")
}

#[test]
fn epochs_open_as_published() {
    for name in ["epoch-1-quorum-2-of-3.json", "epoch-2-any-of-2.json"] {
        let vector = read(name);
        let good = world_of(&vector);
        let need = usize::from(good.view.newest().body().k);
        for subset in crate::world::subsets(good.admins.len(), need) {
            let opened = class(&mut world_of(&vector), &subset).unwrap();
            assert_eq!(secrets(&opened), vector["opened"], "{name} {subset:?}");
        }
        for refused in vector["refused"].as_array().unwrap() {
            let mut world = world_of(&vector);
            let (row, place) = (refused["row"].as_str().unwrap(), refused["byte"].as_u64().unwrap());
            let mut bytes = world.store.plain(row).into_bytes();
            bytes[usize::try_from(place).unwrap()] ^= 1;
            world.store.put_plain(row, bytes);
            let admins: Vec<usize> = (0..need).collect();
            assert_eq!(class(&mut world, &admins).err(), refused["class"].as_str(), "{name} {refused}");
        }
    }
}

/// Makes the published files anew: `cargo test -p bulla-core --test seal -- --ignored write_vectors`.
#[test]
#[ignore = "writes spec/vectors/seal"]
fn write_vectors() {
    write("messages.json", &messages());
    write("epoch-1-quorum-2-of-3.json", &epoch(World::with_seed(SealMode::Quorum, 2, 3, 11), &[0, 1]));
    let mut world = World::with_seed(SealMode::Any, 1, 2, 12);
    world.unseal([1]);
    write("epoch-2-any-of-2.json", &epoch(world, &[0]));
}

fn epoch(mut world: World, admins: &[usize]) -> Value {
    let names = ["seal/config", "seal/keyring", "head", "seal/share/0", "seal/share/1", "seal/share/2"].into_iter();
    let rows: serde_json::Map<_, _> = names
        .filter(|name| world.store.has_plain(name))
        .map(|name| (name.to_owned(), base64url(world.store.plain(name).as_bytes()).into()))
        .collect();
    let opened = secrets(&class(&mut world, admins).unwrap());
    let config = world.store.plain("seal/config").into_bytes();
    let kcv = config.windows(7).position(|window| window == b"\"kcv\":\"").unwrap() + 7;
    let share_key = StoreKey::new("seal/share/0").unwrap();
    let key_file_end = world.store.0[&(Table::Plain, share_key)].as_bytes().len() - 1;
    let mut refused = Vec::new();
    for (row, byte) in [
        ("seal/config", 0),
        ("seal/config", 13),
        ("seal/config", kcv),
        ("seal/keyring", 50),
        ("seal/keyring", 200),
        ("head", 20),
        ("seal/share/0", 13),
        ("seal/share/0", 13 + 112),
        ("seal/share/0", key_file_end),
    ] {
        let good = world.store.plain(row).into_bytes();
        let mut bytes = good.clone();
        bytes[byte] ^= 1;
        world.store.put_plain(row, bytes);
        refused.push(json!({ "row": row, "byte": byte, "class": class(&mut world, admins).unwrap_err() }));
        world.store.put_plain(row, good);
    }
    let identities = world.admins.iter().map(|admin| {
        let text = admin.identity.to_file_text(None, None).unwrap();
        let text = String::from_utf8(text.expose().clone()).unwrap();
        text.lines().find(|line| !line.starts_with('#')).unwrap().to_owned()
    });
    json!({
        "cluster": world.view.id(),
        "genesis": world.view.genesis().envelope(),
        "identities": identities.collect::<Vec<_>>(),
        "rows": rows,
        "opened": opened,
        "refused": refused,
    })
}
