//! The vectors of `spec/kms.md`: what is told of keys, and ciphertexts that open or do not.

use bulla_crypto::random::SeededRng;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_kms::envelope::{self, Envelope, EnvelopeError, Mode, Part, Place};
use bulla_kms::key::{KeyId, KeyRef};
use bulla_kms::provider::Context;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn bytes(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn keys() -> Vec<KeyRef> {
    [
        ("bulla:p3f2m7q5x4k6w2z5r7t2n4b6dq/kubernetes", "1", "1700000000000"),
        ("bulla:p3f2m7q5x4k6w2z5r7t2n4b6dq/kubernetes", "2", "1710000000000"),
        ("vault:c/transit/k8s", "1", ""),
    ]
    .map(|(backend, version, check)| KeyRef {
        backend: backend.into(),
        version: version.into(),
        check: check.into(),
        created: None,
    })
    .into()
}

/// What the code makes of fixed inputs.
fn made() -> Value {
    let keys = keys();
    let told = keys.iter().map(|key| {
        json!({"backend": key.backend, "version": key.version, "check": key.check,
               "digest": hex(&key.digest().0), "tag": hex(&key.digest().tag().0)})
    });
    let told: Vec<Value> = told.collect();
    let digests = || keys.iter().map(KeyRef::digest);
    let id = |mode: Mode, count: usize, epoch: u32| KeyId::of("prod", mode.byte(), digests().take(count), epoch);
    let ids =
        [(Mode::Any, 1, 0), (Mode::Any, 3, 0), (Mode::Split, 3, 0), (Mode::Any, 3, 7)].map(|(mode, count, epoch)| {
            let id = id(mode, count, epoch);
            json!({"cluster": "prod", "mode": mode.byte(), "keys": count, "epoch": epoch, "key_id": id.as_str(),
               "hash": id.hash(), "context": hex(Context::new("prod", id.as_str()).bytes())})
        });
    let mut rng = SeededRng::from_u64(2026);
    let key = SecretKey::filled(|key| *key = std::array::from_fn(|at| u8::try_from(at).unwrap()));
    let seed = SecretBytes::new((100..132).collect());
    let parts: Vec<Part> = keys
        .iter()
        .zip(1_u8..)
        .map(|(key, at)| Part { tag: key.digest().tag(), wrapped: vec![at; usize::from(at) * 20] })
        .collect();
    let mut ciphertexts = Vec::new();
    for (name, mode, count) in
        [("one member", Mode::Any, 1), ("three members", Mode::Any, 3), ("split", Mode::Split, 3)]
    {
        let id = id(mode, count, 0);
        let place = Place { cluster: "prod", key_id: &id };
        let sealed = envelope::seal(place, mode, &parts[..count], &key, &seed, &mut rng).unwrap();
        let case = |name: String, cluster: &str, id: &KeyId, bytes: &[u8], outcome: Value| {
            json!({"name": name, "cluster": cluster, "key_id": id.as_str(), "key": hex(key.expose()),
                   "ciphertext": hex(bytes), "outcome": outcome})
        };
        ciphertexts.push(case(name.into(), "prod", &id, &sealed, json!({"seed": hex(seed.expose())})));
        let other = json!({"error": "other_place"});
        let form = json!({"error": "form"});
        let later = KeyId::of("prod", mode.byte(), [], 1);
        ciphertexts.push(case(format!("{name}, of another cluster"), "test", &id, &sealed, other.clone()));
        ciphertexts.push(case(format!("{name}, under another key id"), "prod", &later, &sealed, other.clone()));
        for (what, at, outcome) in [
            ("another format", 0, &form),
            ("another mode", 1, &form),
            ("another number of members", 2, &form),
            ("another tag", 3, &other),
            ("the end altered", sealed.len() - 1, &other),
        ] {
            let mut altered = sealed.clone();
            altered[at] ^= 0x40;
            ciphertexts.push(case(format!("{name}, {what}"), "prod", &id, &altered, outcome.clone()));
        }
        ciphertexts.push(case(format!("{name}, cut short"), "prod", &id, &sealed[..sealed.len() - 33], form.clone()));
    }
    json!({"keys": told, "key_ids": ids, "ciphertexts": ciphertexts})
}

#[test]
fn the_vectors_hold() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/kms/seeds.json");
    let text = serde_json::to_string_pretty(&made()).unwrap() + "\n";
    bulla_testkit::golden(&path, &text);
    // As whoever has the file alone would read it.
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for case in vectors["ciphertexts"].as_array().unwrap() {
        let key = SecretKey::from_slice(&bytes(&case["key"])).unwrap();
        let id: KeyId = case["key_id"].as_str().unwrap().parse().unwrap();
        let place = Place { cluster: case["cluster"].as_str().unwrap(), key_id: &id };
        let opened = Envelope::parse(&bytes(&case["ciphertext"])).and_then(|envelope| envelope.open(place, &key));
        let outcome = match opened {
            Ok(seed) => json!({"seed": hex(seed.expose())}),
            Err(EnvelopeError::Form) => json!({"error": "form"}),
            Err(EnvelopeError::OtherPlace) => json!({"error": "other_place"}),
            Err(EnvelopeError::TooLarge) => json!({"error": "too_large"}),
        };
        assert_eq!(outcome, case["outcome"], "{}", case["name"]);
    }
}
