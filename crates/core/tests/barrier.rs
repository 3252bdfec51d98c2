//! `spec/vectors/barrier`: records at rest, where they lie, and what does not open. Randomness is seeded, so the file is
//! made again and compared; `BULLA_BLESS=1` writes it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bulla_core::barrier::{Barrier, BarrierError, Kind, RecordKey};
use bulla_core::record::{SealedValue, StoreKey, Table};
use bulla_crypto::random::SeededRng;
use bulla_crypto::secret::SecretKey;
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::id::ClusterId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const CLUSTER: ClusterId = ClusterId::new([0x11; 32]);

fn barrier(cluster: ClusterId) -> Barrier {
    let terms = BTreeMap::from([(1, SecretKey::new([0x22; 32])), (2, SecretKey::new([0x33; 32]))]);
    Barrier::new(cluster, terms, SecretKey::new([0x44; 32])).unwrap()
}

fn table_of(value: &Value) -> Table {
    match value.as_str().unwrap() {
        "plain" => Table::Plain,
        "data" => Table::Data,
        seen => Table::Seen(seen.strip_prefix("seen/").unwrap().parse().unwrap()),
    }
}

/// The record of the vectors: where it is to lie, its kind, and its value.
fn open(barrier: &Barrier, case: &Value) -> Result<Vec<u8>, BarrierError> {
    let bytes = |name: &str| base64url_decode(case[name].as_str().unwrap()).unwrap();
    let key = StoreKey::new(bytes("store_key")).unwrap();
    let kind = u8::try_from(case["kind"].as_u64().unwrap()).unwrap();
    let value = SealedValue::new(bytes("value")).unwrap();
    Ok(barrier.open(table_of(&case["table"]), &key, kind, &value)?.expose().to_vec())
}

fn records(barrier: &Barrier) -> Vec<Value> {
    let mut rng = SeededRng::from_u64(7);
    let cases: [(&str, RecordKey, &[u8]); 3] = [
        ("hidden", RecordKey::hidden(Kind::Kv, "app/prod", "db"), b"a secret"),
        ("hidden, without a directory", RecordKey::hidden(Kind::Policy, "", "dev"), b""),
        ("clear", RecordKey::clear(Kind::Chunk, "an upload", 3_u32.to_be_bytes()), &[0xaa; 40]),
    ];
    let made = cases.iter().map(|(about, key, plaintext)| {
        let kind = key.kind() as u8;
        let store_key = barrier.store_key(key).unwrap();
        let value = barrier.seal(Table::Data, &store_key, kind, plaintext, &mut rng).unwrap();
        json!({
            "about": about, "table": "data", "kind": kind,
            "store_key": base64url(store_key.as_bytes()),
            "plaintext": base64url(plaintext),
            "revision": base64url(&value.revision().0.to_be_bytes()),
            "value": base64url(value.as_bytes()),
        })
    });
    made.collect()
}

/// What a store could give in the place of a record, and why it is refused.
fn refused(records: &[Value]) -> Vec<Value> {
    let mut cases = Vec::new();
    let mut push = |about: &str, class: &str, change: &dyn Fn(&mut Value)| {
        let mut case = records[0].clone();
        change(&mut case);
        case["about"] = about.into();
        case["class"] = class.into();
        case.as_object_mut().unwrap().retain(|name, _| !["plaintext", "revision"].contains(&name.as_str()));
        cases.push(case);
    };
    let byte = |case: &mut Value, at: usize, to: &dyn Fn(u8) -> u8| {
        let mut bytes = base64url_decode(case["value"].as_str().unwrap()).unwrap();
        bytes[at] = to(bytes[at]);
        case["value"] = base64url(&bytes).into();
    };
    push("under the key of another record", "tampered", &|case| case["store_key"] = records[1]["store_key"].clone());
    push("in another table", "tampered", &|case| case["table"] = "seen/29000000".into());
    push("as another kind", "tampered", &|case| case["kind"] = 11.into());
    push("the value of another record", "tampered", &|case| case["value"] = records[1]["value"].clone());
    push("another revision", "tampered", &|case| byte(case, 5, &|byte| byte ^ 1));
    push("salt", "tampered", &|case| byte(case, 13, &|byte| byte ^ 1));
    push("commitment", "tampered", &|case| byte(case, 45, &|byte| byte ^ 1));
    push("ciphertext", "tampered", &|case| byte(case, 77, &|byte| byte ^ 1));
    push("the other term's number", "tampered", &|case| byte(case, 4, &|_| 1));
    push("a term that the keyring does not hold", "unknown_term", &|case| byte(case, 4, &|_| 3));
    push("a newer format", "unknown_format", &|case| byte(case, 0, &|_| 3));
    push("cut", "tampered", &|case| {
        let bytes = base64url_decode(case["value"].as_str().unwrap()).unwrap();
        case["value"] = base64url(&bytes[..bytes.len() - 1]).into();
    });
    cases
}

#[test]
fn the_vectors() {
    let barrier = barrier(CLUSTER);
    let records = records(&barrier);
    let refused = refused(&records);
    let vectors = json!({
        "cluster": CLUSTER,
        "terms": { "1": base64url(&[0x22; 32]), "2": base64url(&[0x33; 32]) },
        "path_key": base64url(&[0x44; 32]),
        "records": records,
        "refused": refused,
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/barrier/records.json");
    if std::env::var_os("BULLA_BLESS").is_some() {
        std::fs::write(&path, format!("{vectors:#}\n")).unwrap();
    }
    let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(written, vectors, "if this is meant, run with BULLA_BLESS=1");
    for case in written["records"].as_array().unwrap() {
        assert_eq!(base64url(&open(&barrier, case).unwrap()), case["plaintext"].as_str().unwrap(), "{case}");
        let elsewhere = open(&self::barrier(ClusterId::new([0x12; 32])), case);
        assert!(matches!(elsewhere, Err(BarrierError::Tampered { .. })), "of another cluster");
    }
    for case in written["refused"].as_array().unwrap() {
        let class = match open(&barrier, case).unwrap_err() {
            BarrierError::Tampered { .. } => "tampered",
            BarrierError::UnknownTerm { .. } => "unknown_term",
            BarrierError::UnknownFormat { .. } => "unknown_format",
            other => panic!("{other}"),
        };
        assert_eq!(case["class"], class, "{case}");
    }
}
