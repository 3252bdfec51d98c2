//! What the corpus begins with: an input of each kind that its target takes, made by the crates themselves or taken from
//! `spec/vectors`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bulla_client::{Proof, Remembered};
use bulla_core::audit::AuditPosition;
use bulla_core::head::Head;
use bulla_core::record::{Revision, SealedValue, Sequence};
use bulla_crypto::envelope::{Binding, TransitStanza, seal};
use bulla_crypto::evidence::{BundleDraft, DocumentDraft, Record};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SeededRng;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_crypto::transit::TransitKey;
use bulla_crypto::{evidence as made, sealed, shamir};
use bulla_fuzz::{
    BODIES, CANARY, JOURNAL_OF, Keys, NOW_MS, identity, kms_place, record_of, sealed_place, share_context, sign,
    tag_keys,
};
use bulla_kms::envelope::{self as kms_envelope, MAX_CIPHERTEXT_BYTES, Mode, Part, Place};
use bulla_kms::identity::KmsIdentity;
use bulla_kms::key::{KeyTag, TAG_LEN};
use bulla_kms::keyfile::{KeyFile, Node};
use bulla_wire::api::{KeyKind, Versioned};
use bulla_wire::encoding::{base32, base64, base64_decode, base64url_decode};
use bulla_wire::evidence::{ADMISSION_TYPE, MinKem, PRINCIPAL_TYPE, Scope, SealMode};
use bulla_wire::id::{ClusterId, Digest, KeyId, LeaseId, Lineage, Nonce, WrapId};
use bulla_wire::json::{V1, to_vec};
use bulla_wire::wrap::{Parcel, RECEIPT_TYPE, STATEMENT_TYPE};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

type Seeds = Vec<(&'static str, String, Vec<u8>)>;

fn vectors(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors").join(path)
}

fn vector(path: &str) -> Value {
    serde_json::from_slice(&fs::read(vectors(path)).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    base64url_decode(value.as_str().unwrap()).unwrap()
}

/// Texts under numbers.
fn texts(seeds: &mut Seeds, target: &'static str, texts: &[&str]) {
    seeds.extend(texts.iter().enumerate().map(|(at, text)| (target, format!("{at:02}"), text.as_bytes().to_vec())));
}

/// Every seed is made, and read by what it is for. With `BULLA_BLESS=1` what is missing of the corpus is written; a file
/// that stands already is left as it is, since age files differ each time.
#[test]
fn the_corpus_is_whole() {
    let bless = std::env::var_os("BULLA_BLESS").is_some();
    let mut seeds = Seeds::new();
    documents(&mut seeds);
    wire(&mut seeds);
    keys(&mut seeds);
    transit(&mut seeds);
    age(&mut seeds);
    held(&mut seeds);
    programs(&mut seeds);
    evidence(&mut seeds);
    proofs(&mut seeds);
    remembered(&mut seeds);
    rows(&mut seeds);
    policies(&mut seeds);
    audit(&mut seeds);
    databases(&mut seeds);
    names(&mut seeds);
    server(&mut seeds);
    requests(&mut seeds);
    kms(&mut seeds);
    key_files(&mut seeds);
    kubernetes(&mut seeds);
    configurations(&mut seeds);
    migrations(&mut seeds);
    states(&mut seeds);
    answers(&mut seeds);
    for (target, name, input) in seeds {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let path = folder.join(name);
        if bless && !path.exists() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, input).unwrap();
        }
        assert!(path.exists(), "{} is missing: run with BULLA_BLESS=1", path.display());
    }
}

/// A document of every type, in the order of [`BODIES`].
#[expect(clippy::too_many_lines, reason = "one table of documents")]
fn documents(seeds: &mut Seeds) {
    let Keys { records, view, .. } = Keys::get();
    let (id, digest) = (records[0].principal(), Digest::new([3; 32]));
    let (key, cluster, wrap) = (KeyId::new([4; 32]), ClusterId::new([5; 32]), WrapId::new([6; 16]));
    let (lineage, lease) = (Lineage::new([7; 16]), LeaseId::new([8; 16]));
    let signed =
        json!({"payloadType": "application/x", "payload": "e30=", "signatures": [{"keyid": key, "sig": "AAEC"}]});
    let progress = json!({"have": 1, "need": 2});
    let summary = json!({"id": id, "name": "alice", "version": 1, "groups": ["ops"], "attributes": {"team": "db"},
        "disabled": false, "void": false});
    let actor = json!({"principal": id, "key": key, "address": "192.0.2.1"});
    let alarm = json!({"id": "AAAB", "kind": "second_claim", "at_ms": NOW_MS, "wrap": wrap, "actor": actor,
        "receipt": signed, "message": "somebody"});
    let entry = json!({"epoch": 1, "lineage": lineage, "first_sequence": 1});
    let consent = consent(cluster);
    let policy = json!({"name": "team", "text": "permit(principal, action, resource);", "sha256": digest});
    let kept: Vec<Value> = vec![
        json!({}),
        json!({"state": "sealed", "version": "0.1.0", "node": key, "cluster": cluster, "name": "test", "transient": false,
            "audit_ok": true, "clock_ok": true, "unseal": progress}),
        json!({"challenge": "AQACAaH-CfDSwKUyREVrayHUYC_BpBKqhOvpl-etMcxj7BA", "lifetime_ms": 60_000}),
        json!({"documents": [signed], "newest": 1, "approvals": [signed], "lineages": [entry], "consents": [signed]}),
        json!({"envelope": signed}),
        json!({"record": signed, "admission": signed}),
        json!({"id": id, "name": "alice", "disabled": false, "void": true, "records": [signed], "admission": signed}),
        json!({"principals": [summary], "next": "alice"}),
        json!({"principal": summary, "key": key, "admin": true, "enroller": false}),
        alarm.clone(),
        json!({"up_to": "AAAB"}),
        json!({"alarms": [alarm], "next": null}),
        json!({"text": "permit(principal, action, resource);", "replaces": null}),
        policy.clone(),
        json!({"policies": [{"name": "team", "bytes": 37, "sha256": digest}]}),
        json!({"principal": "alice", "action": "kv.get", "resource": "kv/app/db"}),
        json!({"allowed": true, "because": ["team#0"], "errors": []}),
        json!({"id": "aaaqeayeaudaocajbifqydiob4"}),
        json!({"id": "aaaqeayeaudaocajbifqydiob4", "received_ms": NOW_MS, "principal": id, "name": "alice",
            "action": "kv.get", "resource": "kv/a", "allowed": false, "reasons": ["team#0"], "status": 403, "code": "denied"}),
        json!({"sha256": digest}),
        json!({"policies": "{}", "approval": signed}),
        json!({"lines": ["{}"], "next": "7"}),
        json!({"data": {"user": "app", "password": "x"}, "cas": 3}),
        json!({"version": 4}),
        json!({"path": "app/db", "version": 4, "written_ms": NOW_MS, "by": id, "data": {"user": "app"}}),
        json!({"names": ["app/", "db"], "next": "AAAB"}),
        json!({"name": "test", "admins": [signed], "mode": "quorum", "k": 2, "min_kem": "hybrid"}),
        json!({"cluster": cluster, "genesis": signed}),
        json!({"state": "unsealed", "epoch": 2, "mode": "any", "k": 1,
            "admins": [{"principal": id, "name": "alice", "given": true}], "warning": "one admin"}),
        json!({"id": "aaaqeayeaudaocajbifqydiob4", "recipient": "age1pq1x", "epoch": 2, "config_sha256": digest,
            "expires_ms": NOW_MS, "progress": progress}),
        json!({"index": 1, "file": "AAEC"}),
        json!({"index": 1, "file": "AAEC", "approval": signed}),
        json!({"state": "sealed", "progress": progress, "consent_needed": consent}),
        json!({"ingress": "age1pq1x"}),
        json!({"statement": signed, "created": signed,
            "slots": [{"principal": id, "state": "opened", "receipts": [signed]}]}),
        json!({"receipts": [signed]}),
        json!({"statement_sha256": digest, "claim": "age1pq1x"}),
        json!({"statement_sha256": digest, "claim_sha256": digest}),
        json!({"statement_sha256": digest}),
        json!({"wraps": [{"wrap": wrap, "statement_sha256": digest, "from": id, "to": [id], "created_ms": NOW_MS,
            "exp_ms": NOW_MS, "mode": "first", "states": ["sealed"], "label": "db"}], "next": null}),
        json!({"errors": [{"code": "not_found", "message": "no", "field": "path", "hint": "look", "id": "x",
            "receipt": signed}]}),
        json!({"id": "aaaqeayeaudaocajbifqydiob4", "sequence": 7, "saved_ms": NOW_MS}),
        json!({"v": 1, "cluster": cluster, "epoch": 1, "lineage": lineage, "sequence": 7, "doc": 0, "node": key,
            "saved_ms": NOW_MS, "audit": {"file": 1, "offset": 10, "n": 2, "sha256": digest}, "rows": 3, "bytes": 99,
            "sha256": digest}),
        serde_json::from_slice(&records[0].envelope().payload).unwrap(),
        admission(),
        serde_json::from_slice(&view.genesis().envelope().payload).unwrap(),
        json!({"v": 1, "cluster": cluster}),
        consent,
        json!({"v": 1, "cluster": cluster, "policies_sha256": digest, "replaces": digest, "at_ms": NOW_MS}),
        json!({"v": 1, "admins": [signed], "k": 1, "made_ms": 1, "exp_ms": 2,
            "principals": [{"records": [signed], "admission": signed}], "policies": {"team": "permit"}}),
        statement(),
        receipt(),
        signed.clone(),
        json!({"type": "bulla.alarm", "cluster": cluster, "node": key, "lineage": Lineage::new([7; 16]), "number": 1,
            "dropped": 0, "alarm": alarm}),
        json!({"data": {"user": "app", "old": null}, "cas": 3, "ttl_s": 60}),
        json!({"path": "app/db", "version": 4, "settings": {"max_versions": 10, "cas_required": false, "ttl_s": 0, "custom": {"team": "web"}},
            "versions": [{"version": 4, "written_ms": NOW_MS, "by": id, "state": "live"}]}),
        json!({"max_versions": 10, "cas_required": true, "ttl_s": 0, "custom": {"team": null}}),
        json!({"versions": [1, 2]}),
        json!({"versions": [1]}),
        json!({"name": "orders", "kind": "ed25519", "latest_version": 2, "min_decryption_version": 1,
            "min_encryption_version": 0, "exportable": false, "deletion_allowed": true,
            "versions": [{"version": 2, "created_ms": NOW_MS, "public_key": "-----BEGIN PUBLIC KEY-----"}]}),
        json!({"deletion_allowed": true, "min_decryption_version": 2}),
        json!({"items": [{"plaintext": "AAEC", "associated_data": "AA"}], "version": 3}),
        json!({"items": [{"ciphertext": "bulla:v1:AAEC"}]}),
        json!({"items": [{"ciphertext": "bulla:v1:AAEC"},
            {"error": {"code": "ciphertext_damaged", "message": "no", "hint": "look"}}]}),
        json!({"items": [{"digest": "AAEC", "signature": "bulla:v1:AAEC"}], "digest_algorithm": "sha-256"}),
        json!({"v": 1, "name": "orders", "kind": "aes256-gcm", "min_decryption_version": 1, "min_encryption_version": 0,
            "deletion_allowed": false, "versions": [{"created_ms": NOW_MS, "key": "AAEC"}]}),
        json!({"v": 1, "cluster": cluster, "node": key, "wrap": wrap, "from": id, "to": id, "action": "kv.get",
            "resource": "kv/app/db", "ct": {"sha256": digest, "len": 300}, "at_ms": NOW_MS, "doc": 1}),
        json!({"path": "app/db", "version": 4, "state": "live", "mark": "4-1-0"}),
        json!({"engine": "postgres", "host": "db.internal", "port": 5432, "database": "app", "user": "bulla", "password": "x",
            "tls": "verify", "connections": 4, "check": true}),
        json!({"name": "app", "engine": "mariadb", "host": "db.internal", "port": 3306, "database": null, "user": "bulla",
            "owner": null, "tls": "off", "ca": null, "connections": 4, "configured_ms": NOW_MS, "rotated_ms": null,
            "rotating": false, "parked": false}),
        json!({"creation": ["GRANT reader TO {{name}}"], "revocation": [], "renewal": [], "ttl_s": 3600, "max_ttl_s": 86400}),
        json!({"lease": lease, "user": "bulla-app", "password": "x", "expires_ms": NOW_MS, "max_ms": NOW_MS}),
        json!({"leases": [{"id": lease, "owner": id, "resource": "database/app/reader", "user": "bulla-app", "state": "stuck",
            "issued_ms": NOW_MS, "expires_ms": NOW_MS, "max_ms": NOW_MS, "attempts": 3, "error": "no route to host",
            "due_ms": NOW_MS}], "next": "AAEC"}),
        json!({"ttl_s": 3600}),
        json!({"resource": "database/app", "principal": id}),
        json!({"user": "billing", "rotate_every_s": 86400}),
        json!({"database": "app", "role": "billing", "user": "billing", "rotate_every_s": 86400, "rotated_ms": NOW_MS,
            "rotates_ms": NOW_MS, "rotating": false, "outdated": false, "attempts": 3, "error": "no route to host"}),
        json!({"user": "billing", "password": "x", "rotated_ms": NOW_MS, "rotates_ms": NOW_MS}),
        json!({"public_key": "MFkw", "ttl_s": 3600}),
        json!({"lease": lease, "user": "bulla_cert_x", "certificate": "-----BEGIN CERTIFICATE-----", "expires_ms": NOW_MS}),
        json!({"certificate": "-----BEGIN CERTIFICATE-----"}),
        json!({"kind": "aes256-gcm", "exportable": true, "deletion_allowed": false}),
        json!({"kind": "ed25519", "key": "MC4", "exportable": false, "deletion_allowed": true}),
        json!({"names": ["orders"], "next": null}),
        json!({"items": [{"plaintext": "AAEC"},
            {"error": {"code": "ciphertext_damaged", "message": "no", "hint": "look"}}]}),
        json!({"kind": "ed25519", "items": [{"signature": "bulla:v1:AAEC"}]}),
        json!({"items": [{"mac": "bulla:v1:AAEC"}]}),
        json!({"items": [{"valid": true}]}),
        json!({"bytes": 32, "associated_data": "AA"}),
        json!({"plaintext": "AAEC", "ciphertext": "bulla:v1:AAEC"}),
        json!({"ciphertext": "bulla:v1:AAEC"}),
        json!({"items": [{"message": "AAEC"}, {"digest": "AAEC"}], "version": 1, "digest_algorithm": "sha-512"}),
        json!({"items": [{"message": "AAEC"}], "version": 2}),
        json!({"items": [{"message": "AAEC", "mac": "bulla:v1:AAEC"}]}),
        json!({"version": 1}),
        json!({"name": "orders", "kind": "ed25519", "version": 1, "key": "MC4"}),
        json!({"names": ["app", "reader"], "next": "AAEC"}),
        json!({"database": "app", "role": "reader", "creation": ["CREATE USER {{name}}"], "revocation": [],
            "renewal": [], "ttl_s": 3600, "max_ttl_s": 86400, "certificate": true}),
        json!({"ttl_s": 3600}),
        json!({"id": lease, "owner": id, "resource": "database/app/reader", "user": "bulla-app", "state": "active",
            "issued_ms": NOW_MS, "expires_ms": NOW_MS, "max_ms": NOW_MS, "attempts": 0, "error": null,
            "due_ms": NOW_MS}),
        json!({"data": {"user": "app"}}),
        json!({"statement": signed, "file": "AAEC"}),
        sealed_statement(),
    ];
    assert_eq!(kept.len(), BODIES.len());
    for (at, (document, (name, check))) in kept.iter().zip(BODIES).enumerate() {
        let text = to_vec(document);
        assert!(check(&text), "{name} does not read {document}");
        let first = b'0' + u8::try_from(at).unwrap();
        let name = name.rsplit(' ').next().unwrap().rsplit("::").next().unwrap().to_lowercase();
        seeds.push(("body", format!("{at:02}-{name}"), [&[first][..], &text].concat()));
    }
    seeds.push(("envelope", "00".into(), to_vec(&signed)));
    seeds.push(("envelope", "record".into(), to_vec(records[0].envelope())));
    texts(
        seeds,
        "json",
        &[
            r#"{"data":{"user":"app","password":"x"},"cas":{}}"#,
            r#"{"a":[1,null,4294967295]}"#,
            r#"{"data":{"a":"\u00e9\ud83d\ude00\n"}}"#,
            r#"{"data":{"a":"1","a":"2"}}"#,
            r#"{"data":"77777"} "#,
        ],
    );
}

fn consent(cluster: ClusterId) -> Value {
    let at = |lineage: u8, sequence: u64| json!({"lineage": Lineage::new([lineage; 16]), "sequence": sequence});
    json!({"v": 1, "cluster": cluster, "lost": at(7, 9), "kept": at(7, 5), "earlier": [at(8, 3)], "excused_until_ms": NOW_MS})
}

fn admission() -> Value {
    let Keys { records, view, .. } = Keys::get();
    json!({"v": 1, "scope": Scope::Cluster(view.id()).to_string(), "principal": records[4].principal(), "name": "erin",
        "version": 1, "record_sha256": records[4].digest(), "groups": ["ops"], "attributes": {"team": "db"}, "serial": 5,
        "doc": 1})
}

fn statement() -> Value {
    let Keys { records, view, .. } = Keys::get();
    let recipient = records[1].recipients()[0].digest();
    let to =
        json!([{"principal": records[1].principal(), "record_sha256": records[1].digest(), "recipients": [recipient]}]);
    json!({"v": 1, "cluster": view.id(), "wrap": WrapId::new([6; 16]), "from": records[0].principal(), "to": to,
        "mode": "first", "ct": {"len": 500, "sha256": Digest::new([3; 32])}, "nbf_ms": NOW_MS, "exp_ms": NOW_MS + 1000,
        "ack_s": 600, "label": "db"})
}

fn receipt() -> Value {
    let Keys { records, view, node, .. } = Keys::get();
    let node = node.signing_key().unwrap().public_key().key_id();
    let actor = json!({"principal": records[0].principal(), "key": KeyId::new([4; 32]), "address": null});
    json!({"v": 1, "cluster": view.id(), "node": node, "kind": "created", "wrap": WrapId::new([6; 16]), "slot": 0,
        "statement_sha256": Digest::new([3; 32]), "actor": actor, "claim_sha256": null, "at_ms": NOW_MS, "doc": 1,
        "epoch": 1, "lineage": Lineage::new([7; 16]), "prev": null})
}

fn sealed_statement() -> Value {
    let Keys { records, view, .. } = Keys::get();
    json!({"v": 1, "cluster": view.id(), "path": "app/db", "version": 4, "id": WrapId::new([6; 16]),
        "from": records[0].principal(), "to": statement()["to"], "ct": {"sha256": Digest::new([3; 32]), "len": 300}})
}

fn origin() -> Value {
    let Keys { records, view, node, .. } = Keys::get();
    let node = node.signing_key().unwrap().public_key().key_id();
    json!({"v": 1, "cluster": view.id(), "node": node, "wrap": WrapId::new([6; 16]), "from": records[0].principal(),
        "to": records[1].principal(), "action": "kv.get", "resource": "kv/app/db",
        "ct": {"sha256": Digest::new([3; 32]), "len": 300}, "at_ms": NOW_MS, "doc": 1})
}

fn wire(seeds: &mut Seeds) {
    let exchanges = vector("exchange/exchange.json");
    let mut headers = Vec::new();
    for exchange in exchanges["exchanges"].as_array().unwrap().iter().take(4) {
        for side in ["request", "response"] {
            let found = exchange[side]["headers"].as_object().into_iter().flatten();
            headers.extend(found.map(|(_, value)| value.as_str().unwrap().to_owned()));
        }
    }
    headers.extend(
        ["node:sha256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE", "v1;0;-;-;doc=-;alarms=0"].map(str::to_owned),
    );
    headers.sort();
    headers.dedup();
    texts(seeds, "header", &headers.iter().map(String::as_str).collect::<Vec<_>>());
    let ids = [
        Nonce::new(28_333_333, [7; 12]).to_string(),
        WrapId::new([2; 16]).to_string(),
        Lineage::new([2; 16]).to_string(),
        Digest::new([2; 32]).to_string(),
        format!("admins:{}", Digest::new([2; 32])),
        exchanges["wrap"]["slip"].as_str().unwrap().to_owned(),
    ];
    texts(
        seeds,
        "name",
        &[
            "alice",
            "a@b.example",
            "app/db",
            "a/b/c/d/e",
            "AAEC",
            "AAECAw==",
            "mfrgg",
            "a label",
            "bulla:v12:AAEC",
            "größe",
            "aes256-gcm",
            "sha-384",
        ],
    );
    seeds.extend(ids.into_iter().enumerate().map(|(at, id)| ("name", format!("id{at}"), id.into_bytes())));
    let parcel = [&bulla_wire::wrap::Parcel::head(br#"{"a":1}"#)[..], b"age-encryption.org/v1\n"].concat();
    seeds.push(("parcel", "00".into(), parcel));
    for (at, file) in vector("snapshot/files.json").as_array().unwrap().iter().enumerate() {
        let file = base64_decode(file["file"].as_str().unwrap()).unwrap();
        if file.len() <= 8192 && (at < 2 || at % 4 == 0) {
            seeds.push(("snapshot", format!("{at:02}"), file.clone()));
            if at < 2 {
                seeds.push(("frame", format!("{at:02}"), file.get(16..).unwrap_or_default().to_vec()));
            }
        }
    }
    let mut frames = Vec::new();
    for (table, tag, key) in [
        (bulla_wire::snapshot::Table::Plain, 2, &b"seal/config"[..]),
        (bulla_wire::snapshot::Table::Data, 1, &[10, 1, 2]),
        (bulla_wire::snapshot::Table::Seen(28_000_000), 1, &[1; 32]),
    ] {
        let value = [&[tag][..], &[0; 20]].concat();
        bulla_wire::snapshot::Row { table, key, value: &value }.write(&mut frames).unwrap();
    }
    bulla_wire::snapshot::write_end(b"{}", &mut frames).unwrap();
    seeds.push(("frame", "rows".into(), frames));
}

fn keys(seeds: &mut Seeds) {
    let hybrid = identity(IdentityKind::Hybrid, 1);
    let classical = identity(IdentityKind::Classical, 1);
    for (name, identity) in [("hybrid", &hybrid), ("classical", &classical)] {
        let text = identity.to_file_text(Some("alice"), Some(r#"{"v":1}"#)).unwrap();
        seeds.push(("identity", name.into(), text.expose().clone()));
        seeds.push(("recipient", name.into(), identity.recipients()[0].to_string().into_bytes()));
    }
    for (name, text) in openssh() {
        let public = text.lines().next().unwrap();
        seeds.push(("recipient", name.clone(), bulla_crypto::openssh::without_comment(public).into_bytes()));
        seeds.push(("recipient", format!("{name}-line"), public.as_bytes().to_vec()));
        let private = text.split_once('\n').unwrap().1;
        seeds.push(("identity", name.clone(), private.as_bytes().to_vec()));
        if let Ok(found) = Identity::parse(private.as_bytes(), bulla_crypto::sign::RsaMinimum::Bits2048, &|| None) {
            seeds.push(("public-key", name, found.signing_key().unwrap().public_key().spki().to_vec()));
        }
    }
    let fingerprint = "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8";
    seeds.push(("recipient", "fingerprint".into(), fingerprint.as_bytes().to_vec()));
    let tag = "age1tag1qwe0kafsjrar4txm6heqnhpfuggzr0gvznz7fvygxrlq90u5mq2pysxtw6h";
    let file = format!("# recipient: {tag}\nAGE-PLUGIN-TAGTEST-1CXM4UC\n");
    texts(seeds, "age-plugin", &[&file, "-> file-key 0\nAAAAAAAAAAAAAAAAAAAAAA\n", "-> msg\ndG91Y2g\n", "-> done\n\n"]);
    let ssh = |parts: &[&[u8]]| -> Vec<u8> {
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap().to_be_bytes();
        parts.iter().flat_map(|part| [&length(part)[..], part].concat()).collect()
    };
    let (kind, p256) = (b"ssh-ed25519".as_slice(), b"ecdsa-sha2-nistp256".as_slice());
    let point = [&[0x58][..], &[0x66; 31]].concat();
    let own = ssh(&[&ssh(&[kind, &point]), b"a", &ssh(&[p256, b"nistp256", &elliptic(65)[26..]]), b"b"]);
    seeds.push(("ssh-agent", "list".into(), [&[12, 0, 0, 0, 2][..], &own].concat()));
    seeds.push(("ssh-agent", "signature".into(), [&[14][..], &ssh(&[&ssh(&[kind, &[7; 64]])])].concat()));
    seeds.push(("ssh-agent", "failure".into(), vec![5]));
    for (name, point) in [("p256", 65), ("p384", 97)] {
        seeds.push(("public-key", name.into(), elliptic(point)));
    }
    let (key, place) = sealed_place();
    let mut rng = SeededRng::from_u64(7);
    seeds.push(("sealed", "00".into(), sealed::seal(&key, place, b"content", &mut rng)));
    seeds.push(("sealed", "empty".into(), sealed::seal(&key, place, b"", &mut rng)));
    let context = share_context();
    let secret = SecretKey::filled(|bytes| bytes.fill(0x33));
    seeds.push(("share", "key".into(), context.key_plaintext(&secret).expose().to_vec()));
    let give = context.give_plaintext("aaaqeayeaudaocajbifqydiob4", &secret);
    seeds.push(("share", "give".into(), give.expose().to_vec()));
    let shares = shamir::split(&secret, 2, 3, &mut rng).unwrap();
    seeds.push((
        "share",
        "shares".into(),
        shares.iter().flat_map(|share| share.to_bytes().expose().to_vec()).collect(),
    ));
}

/// Keys of each kind that the vectors have, and what they made.
fn transit(seeds: &mut Seeds) {
    let hex = |value: &Value| -> Vec<u8> {
        let text = value.as_str().unwrap();
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    for file in ["ciphertexts", "signatures", "rsa"] {
        for case in vector(&format!("transit/{file}.json")).as_array().unwrap() {
            let kind: KeyKind = case["kind"].as_str().unwrap().parse().unwrap();
            let at = KeyKind::ALL.iter().position(|one| *one == kind).unwrap();
            let first = b'a' + u8::try_from(at).unwrap();
            let good = case["what"].as_str().unwrap().ends_with(": good");
            if !good || seeds.iter().any(|(target, name, _)| *target == "transit" && *name == kind.to_string()) {
                continue;
            }
            let key = hex(&case["key"]);
            TransitKey::parse(kind, &key).unwrap();
            seeds.push(("transit", kind.to_string(), [&[first][..], &key].concat()));
            if kind.is_symmetric() {
                let made: Versioned = case["ciphertext"].as_str().unwrap().parse().unwrap();
                seeds.push(("transit", format!("{kind}-ciphertext"), [&[first][..], &made.bytes].concat()));
            }
        }
    }
    seeds.push(("transit", "hmac-sha256".into(), [&b"i"[..], &[7; 32]].concat()));
    let stanza =
        TransitStanza { key: "orders".parse().unwrap(), wrapped: Versioned { version: 12, bytes: vec![7; 96] } };
    let text = stanza.stanza().to_text().expose().clone();
    seeds.push(("transit", "stanza".into(), [&b"a"[..], &text].concat()));
}

/// Key pairs of ssh-keygen: the public line, then the private file. Without the program there are none.
fn openssh() -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = Vec::new();
    for (name, kind, bits, passphrase) in [
        ("ed25519", "ed25519", "256", ""),
        ("rsa", "rsa", "2048", ""),
        ("encrypted", "ed25519", "256", "x"),
        ("ecdsa", "ecdsa", "256", ""),
    ] {
        let path = folder.path().join(name);
        let done = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-b", bits, "-N", passphrase, "-C", "a comment", "-f"])
            .arg(&path)
            .status();
        if done.is_ok_and(|status| status.success()) {
            let read = |path: &Path| fs::read_to_string(path).unwrap();
            pairs.push((name.to_owned(), read(&path.with_extension("pub")) + &read(&path)));
        }
    }
    pairs
}

/// The SPKI of the curve's base point.
fn elliptic(length: usize) -> Vec<u8> {
    const P256: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    const P384: &str = "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f";
    let text = if length == 65 { P256 } else { P384 };
    let point: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    let key = match length {
        65 => bulla_crypto::sign::PublicKey::from_p256_point(&point),
        _ => bulla_crypto::sign::PublicKey::from_p384_point(&point),
    };
    key.unwrap().spki().to_vec()
}

fn age(seeds: &mut Seeds) {
    let [hybrid, classical] =
        [IdentityKind::Hybrid, IdentityKind::Classical].map(|kind| identity(kind, 1).recipients()[0].clone());
    let Keys { records, view, .. } = Keys::get();
    let binding = Binding {
        wrap: WrapId::new([6; 16]),
        cluster: view.id(),
        from: records[0].principal(),
        to_sha256: Digest::new([3; 32]),
    };
    let file = |recipients: &[Recipient], binding, content: &[u8]| seal(recipients, binding, content).unwrap();
    seeds.push(("age", "hybrid".into(), file(&[hybrid], None, b"content")));
    seeds.push(("age", "classical".into(), file(std::slice::from_ref(&classical), None, b"content")));
    seeds.push(("age", "bound".into(), file(std::slice::from_ref(&classical), Some(&binding), b"content")));
    seeds.push(("age", "empty".into(), file(&[classical], None, b"")));
    // Published vectors have a head of their own before an empty line.
    for name in ["x25519", "x25519_grease", "hybrid", "stanza_empty_body", "stanza_long_line", "hmac_bad", "scrypt"] {
        let vector = fs::read(vectors("age-cctv").join(name)).unwrap();
        let start = vector.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
        seeds.push(("age", format!("cctv-{name}"), vector[start..].to_vec()));
    }
    for name in ["p256tag_sealed", "mlkem768p256tag_sealed"] {
        let vector = fs::read(vectors("tag").join(name)).unwrap();
        let start = vector.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
        seeds.push(("age", name.into(), vector[start..].to_vec()));
    }
    texts(seeds, "recipient", &["age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4e"]);
}

/// Keys that others hold.
fn held(seeds: &mut Seeds) {
    let keys = tag_keys().map(|key| key.recipient().clone());
    for (name, recipients) in [("p256tag", &keys[..1]), ("mlkem768p256tag", &keys[1..])] {
        let file = seal(recipients, None, b"content").unwrap();
        seeds.push(("tag", name.into(), file.clone()));
        // The stanza alone.
        let text = String::from_utf8_lossy(&file).into_owned();
        let stanza = text.split_once('\n').unwrap().1.split("\n---").next().unwrap();
        seeds.push(("tag", format!("{name}-stanza"), format!("{stanza}\n").into_bytes()));
        seeds.push(("tag", format!("{name}-stanzas"), format!("{stanza}\n").repeat(5).into_bytes()));
    }
    for name in ["p256tag_sealed_by_age", "p256tag_off_curve", "p256tag_collision", "mlkem768p256tag_bad_ml_kem"] {
        let vector = fs::read(vectors("tag").join(name)).unwrap();
        let start = vector.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
        seeds.push(("tag", name.into(), vector[start..].to_vec()));
    }
    let certificates = vector("mtls/mtls.json");
    for (kind, letter) in [("certificates", "good"), ("malformed", "bad")] {
        for (at, certificate) in certificates[kind].as_array().unwrap().iter().enumerate() {
            let der = base64_decode(certificate["der"].as_str().unwrap()).unwrap();
            seeds.push(("certificate", format!("{letter}{at:02}"), der));
        }
    }
    for (at, case) in vector("pkcs11/uri.json").as_array().unwrap().iter().enumerate().step_by(2) {
        seeds.push(("token-uri", format!("uri{at:02}"), case["uri"].as_str().unwrap().as_bytes().to_vec()));
    }
    texts(
        seeds,
        "token-uri",
        &["ssh-agent:", "ssh-agent:SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8", "ssh-agent:id.pub", "ann.key"],
    );
}

/// What programs say that ask a person for us.
fn programs(seeds: &mut Seeds) {
    let greeted = "OK Pleased to meet you\nOK\nOK\nOK\nOK\n";
    let data = "D 12%2534%0a\nS hint\n# a comment\nD 5%\nOK closing\n";
    texts(
        seeds,
        "pinentry",
        &[
            &format!("{greeted}{data}"),
            &format!("ops 100%\0{greeted}D {CANARY}\nERR 83886179 Operation cancelled <Pinentry>\n"),
            &format!("{greeted}D {CANARY}\nERR 83886142 Timeout <Pinentry>\n"),
            &format!("OK\nERR 83886254 Unknown option <Pinentry>\nOK\nOK\nOK\nD {CANARY}\nERR 536870981 no\n"),
            &format!("{greeted}OK\n"),
            &format!("{greeted}{}", "S x\n".repeat(65)),
            &format!("{greeted}D {}\nOK\n", "1".repeat(1000)),
            "ERR 83886340 Invalid IPC response <Pinentry>\n",
            "OK\r\nOK\r\n",
            "1234\r\nmore\n",
        ],
    );
    // The longest line of a file, cut at its return.
    seeds.push(("pinentry", "file-of-a-longer-line".into(), [&[b'1'; 1024][..], b"\r2\n"].concat()));
    let key = "-> file-key 0\nAAAAAAAAAAAAAAAAAAAAAA\n";
    let secret = "-> request-secret\nUElOOg\n";
    texts(
        seeds,
        "plugin",
        &[
            &format!("{key}-> done\n\n"),
            &format!("-> msg\ndG91Y2g\n{secret}{key}-> done\n\n"),
            "-> confirm eWVz bm8\ncmVhbGx5\n-> confirm eWVz\ncmVhbGx5\n-> done\n\n",
            "-> request-public\nc2VyaWFs\n-> grease 1 2\n\n-> done\n\n",
            &format!("{secret}-> error internal\nYmFkG1sySg\n"),
            &format!("{key}{key}"),
            "-> file-key 1\nAAAAAAAAAAAAAAAAAAAAAA\n",
            &format!("{}-> done\n\n", "-> msg\n\n".repeat(64)),
        ],
    );
}

fn evidence(seeds: &mut Seeds) {
    let Keys { people, records, view, .. } = Keys::get();
    let [alice, bob, ..] = people;
    let first = record_of(alice, "alice", None);
    let opened = Record::open(&sign(PRINCIPAL_TYPE, &first, &[alice, bob]), None).unwrap();
    let next = record_of(bob, "alice", Some(&opened));
    seeds.push(("record", "one".into(), first.clone()));
    seeds.push(("record", "two".into(), [&first[..], b"\n", &next].concat()));
    let genesis = &view.genesis().envelope().payload;
    let mut draft = DocumentDraft::of(view.newest());
    let second = to_vec(&view.next_document(&draft).unwrap());
    seeds.push(("document", "genesis".into(), genesis.clone()));
    seeds.push(("document", "two".into(), [&genesis[..], b"\n", &view.newest().envelope().payload].concat()));
    let solo = made::genesis_payload(
        "solo".parse().unwrap(),
        [7; 32],
        &records[..1],
        SealMode::Any,
        1,
        people[3].signing_key().unwrap().public_key(),
        1000,
        &people[4].recipients()[0],
        MinKem::Classical,
    );
    let solo = to_vec(&solo);
    let mut alone =
        bulla_crypto::evidence::ClusterView::unpinned(&sign(bulla_wire::evidence::DOCUMENT_TYPE, &solo, &[])).unwrap();
    let mut chain = vec![solo];
    for _ in 0..2 {
        draft = DocumentDraft::of(alone.newest());
        let next = to_vec(&alone.next_document(&draft).unwrap());
        alone.push(&sign(bulla_wire::evidence::DOCUMENT_TYPE, &next, &[alice])).unwrap();
        chain.push(next);
    }
    seeds.push(("document", "solo".into(), chain.join(&b'\n')));
    assert!(!second.is_empty());
    let recovery = json!({"v": 1, "cluster": view.id(), "policies_sha256": Digest::new(bulla_crypto::digest::sha256(&[b"{}"])),
        "replaces": Digest::new([9; 32]), "at_ms": NOW_MS});
    for (letter, value) in [
        ("a", admission()),
        ("s", statement()),
        ("r", receipt()),
        ("c", consent(view.id())),
        ("g", json!({"v": 1, "cluster": view.id()})),
        ("p", recovery),
        ("k", sealed_statement()),
        ("o", origin()),
    ] {
        seeds.push(("statement", letter.into(), [letter.as_bytes(), &to_vec(&value)].concat()));
    }
    let mut admitted = admission();
    let admins: Vec<_> = records[..2].iter().map(|record| record.envelope().clone()).collect();
    let set = made::AdminSet::of_records(&records[..2], 1).unwrap();
    admitted["scope"] = json!(set.scope().to_string());
    admitted["doc"] = json!(0);
    let admission = sign(ADMISSION_TYPE, &to_vec(&admitted), &[alice]);
    let bundle = json!({"v": 1, "admins": admins, "k": 1, "made_ms": NOW_MS, "exp_ms": NOW_MS + 1000,
        "principals": [{"records": [records[4].envelope()], "admission": admission}],
        "policies": {"team": "permit(principal, action, resource);"}});
    let bundle = to_vec(&bundle);
    let opened = BundleDraft::open(&sign(bulla_wire::evidence::BUNDLE_TYPE, &bundle, &[alice, bob]));
    assert_eq!(opened.err(), None);
    seeds.push(("bundle", "00".into(), bundle));
    let empty = json!({"v": 1, "admins": admins, "k": 1, "made_ms": NOW_MS, "exp_ms": NOW_MS + 1000, "principals": [],
        "policies": {}});
    seeds.push(("bundle", "empty".into(), to_vec(&empty)));
}

/// What proves a wrap's fate, as lines that the target signs.
fn proofs(seeds: &mut Seeds) {
    let Keys { people, records, node, view } = Keys::get();
    let stated = to_vec(&statement());
    let next = |kind: &str, prev: Option<&[u8]>| {
        let mut next = receipt();
        next["kind"] = json!(kind);
        next["statement_sha256"] = json!(digest(&stated));
        next["prev"] = json!(prev.map(digest));
        to_vec(&next)
    };
    let created = next("created", None);
    let opened = next("opened", Some(created.as_slice()));
    let acked = next("acked", Some(opened.as_slice()));
    seeds.push(("proof", "created".into(), [&stated[..], b"\n", &created].concat()));
    let lines = [&stated[..], &created, &opened, &acked].join(&b'\n');
    seeds.push(("proof", "acked".into(), lines.clone()));
    let signed = |line: &[u8]| sign(RECEIPT_TYPE, line, &[node]);
    let proof = Proof {
        v: V1,
        cluster: view.id(),
        documents: view.documents().map(|document| document.envelope().clone()).collect(),
        writer: vec![records[0].envelope().clone()],
        statement: sign(STATEMENT_TYPE, &stated, &[&people[0]]),
        created: signed(&created),
        slots: vec![vec![signed(&opened), signed(&acked)]],
    };
    assert_eq!(proof.verify(None).map(|report| report.receipts.len()), Ok(3));
    let expired = next("expired", Some(created.as_slice()));
    seeds.push(("proof", "two-slots".into(), [&lines[..], b"\n\n", &expired].concat()));
    // Whole, it is larger than what the corpus keeps.
    let whole = Proof { documents: Vec::new(), ..proof };
    seeds.push(("proof", "without-documents".into(), to_vec(&whole)));
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::new(bulla_crypto::digest::sha256(&[bytes]))
}

/// Files of a client, each behind its letter.
fn remembered(seeds: &mut Seeds) {
    let Keys { records, view, .. } = Keys::get();
    let seen = json!({"epoch": 3, "lineage": Lineage::new([7; 16]), "sequence": 9, "doc": 1, "at_ms": NOW_MS});
    let known =
        json!({"principal": records[1].principal(), "version": 1, "serial": 5, "record_sha256": records[1].digest()});
    let documents: Vec<_> = view.documents().map(|document| document.envelope()).collect();
    for (letter, name, value) in [
        ("s", "state", seen),
        ("e", "share", json!(3)),
        ("k", "known", json!({"bob": known, "a@b.example": known})),
        ("d", "documents", json!(documents)),
        ("c", "consents", json!([Digest::new([4; 32]), Digest::new([3; 32])])),
    ] {
        let text = to_vec(&value);
        assert!(Remembered::parse(&format!("{name}.json"), &text).unwrap().is_some());
        seeds.push(("remembered", name.into(), [letter.as_bytes(), &text].concat()));
    }
    let array = format!("s[3,\"{}\",9,1,{NOW_MS}]", Lineage::new([7; 16]));
    seeds.push(("remembered", "state-as-an-array".into(), array.into_bytes()));
}

fn rows(seeds: &mut Seeds) {
    let head = Head {
        sequence: Sequence(7),
        lineage: Lineage::new([5; 16]),
        mark: 29_000_000,
        active_ms: 7,
        commit_ms: NOW_MS,
        audit: AuditPosition { file: 3, offset: 4096, n: 12, hash: Digest::new([9; 32]) },
    };
    let key = SecretKey::filled(|bytes| bytes.fill(0x66));
    let row = head.encode(&key, &ClusterId::new([0x11; 32]), Revision(77)).unwrap();
    seeds.push(("head", "00".into(), row.as_bytes().to_vec()));
    for (at, record) in vector("barrier/records.json")["records"].as_array().unwrap().iter().enumerate() {
        let (store_key, value) = (bytes(&record["store_key"]), bytes(&record["value"]));
        let table = match record["table"].as_str().unwrap() {
            "plain" => 0,
            "data" => 1,
            _ => continue,
        };
        let kind = u8::try_from(record["kind"].as_u64().unwrap()).unwrap();
        let length = u8::try_from(store_key.len()).unwrap();
        seeds.push(("barrier", format!("{at:02}"), [&[table, kind, length][..], &store_key, &value].concat()));
    }
    seeds.push(("barrier", "cursor".into(), b"AAECAwQ".to_vec()));
    seeds.push(("barrier", "due".into(), [&NOW_MS.to_be_bytes()[..], &[1], &[6; 16]].concat()));
    for epoch in ["epoch-1-quorum-2-of-3", "epoch-2-any-of-2"] {
        let stored = vector(&format!("seal/{epoch}.json"))["rows"].clone();
        let mut pieces = Vec::new();
        for (name, row) in stored.as_object().unwrap() {
            let tag = match name.as_str() {
                "seal/config" => b'c',
                "seal/keyring" => b'k',
                "head" => b'h',
                "restored" => b'r',
                name if name.starts_with("seal/share/") => b's',
                name if name.starts_with("approval/") => b'a',
                _ => continue,
            };
            let row = bytes(row);
            // The key's file is not read before somebody opens it.
            let row = if tag == b's' { &row[..row.len().min(200)] } else { &row };
            pieces.push(tag);
            pieces.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
            pieces.extend_from_slice(row);
            SealedValue::new(row).unwrap();
        }
        seeds.push(("seal", epoch.into(), pieces));
    }
    stored(seeds);
    let (store, generation) = JOURNAL_OF;
    let write: Vec<u8> = [&[1, 1, 0, 0, 0, 2, 10, 1, 0, 0, 0, 13, 1][..], &[0; 12]].concat();
    let more =
        [&write[..], &[2, 0, 0, 0, 0, 4], b"head", &[2, 2, 0, 0, 0, 9, 0, 0, 0, 1, 5], &[3, 0, 0, 0, 9]].concat();
    let records = bulla_store::simulated::journal_records(&[&write, &more, b""], store, generation).unwrap();
    seeds.push(("journal", "record".into(), more));
    seeds.push(("journal", "records".into(), records.clone()));
    seeds.push(("journal", "torn".into(), records[..records.len() - 20].to_vec()));
}

fn policies(seeds: &mut Seeds) {
    texts(
        seeds,
        "policy",
        &[
            "permit(principal, action, resource);",
            "permit(principal in Bulla::Group::\"ops\", action == Bulla::Action::\"kv.get\", resource in Bulla::Kv::\"app\");",
            "// first\npermit(principal == Bulla::Principal::\"alice\", action, resource)\nwhen { principal.hasTag(\"team\") && principal.getTag(\"team\") == \"db\" };",
            "permit(principal, action in [Bulla::Action::\"kv.get\"], resource) unless { resource like \"a*\" };",
            "forbid(principal, action, resource is Bulla::Kv);\npermit(principal == ?principal, action, resource);",
        ],
    );
    for (at, (_, text)) in bulla_core::policy::first_texts().into_iter().enumerate() {
        seeds.push(("policy", format!("first{at}"), text.into_bytes()));
    }
}

fn stored(seeds: &mut Seeds) {
    let Keys { records, .. } = Keys::get();
    let principal = bulla_core::directory::Principal::founder(&records[0], vec!["admins".parse().unwrap()]);
    let upload =
        bulla_core::engine::chunk::Upload::new([1; 16], records[0].principal(), 200_000, Digest::new([3; 32]), NOW_MS);
    let slot = bulla_core::engine::wrap::slot::Slot::new(Digest::new([3; 32]));
    let line = fs::read_to_string(vectors("audit/logs.json")).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    let config = bytes(&vector("seal/epoch-1-quorum-2-of-3.json")["rows"]["seal/config"])[13 + 32..].to_vec();
    for (letter, text) in [
        ("p", to_vec(&principal)),
        ("l", bulla_core::engine::policy::StoredPolicy::to_bytes(&"team".parse().unwrap(), "permit")),
        ("u", to_vec(&upload)),
        ("s", to_vec(&slot)),
        ("n", to_vec(&json!({"request": Digest::new([3; 32]), "reply": "{}", "line": {"id": line["node"]}}))),
        ("c", config),
    ] {
        seeds.push(("stored", letter.into(), [letter.as_bytes(), &text].concat()));
    }
}

fn audit(seeds: &mut Seeds) {
    let logs = vector("audit/logs.json");
    let mut lines: Vec<String> = Vec::new();
    for (at, log) in logs["logs"].as_array().unwrap().iter().enumerate() {
        let files: Vec<Vec<&str>> = log["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file.as_array().into_iter().flatten().filter_map(Value::as_str).collect())
            .collect();
        lines.extend(files.iter().flatten().map(|line| (*line).to_owned()));
        let text = files.iter().map(|file| file.join("\n")).collect::<Vec<_>>().join("\n\n");
        if text.len() <= 8192 && at < 8 {
            seeds.push(("audit-log", format!("{at:02}"), text.into_bytes()));
        }
    }
    lines.sort_by_key(|line| serde_json::from_str::<Value>(line).ok().map(|line| line["kind"].to_string()));
    lines.dedup_by_key(|line| serde_json::from_str::<Value>(line).ok().map(|line| line["kind"].to_string()));
    for (at, line) in lines.iter().enumerate() {
        seeds.push(("audit-line", format!("{at:02}"), line.as_bytes().to_vec()));
        // What stands beside a nonce is a request without its place in the log.
        if let Ok(Value::Object(mut line)) = serde_json::from_str(line)
            && line["kind"] == "request"
        {
            for field in ["v", "n", "prev", "at_ms", "kind"] {
                line.remove(field);
            }
            seeds.push(("audit-line", format!("{at:02}-nonce"), to_vec(&line)));
        }
    }
}

fn databases(seeds: &mut Seeds) {
    texts(
        seeds,
        "template",
        &[
            "CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}",
            "CREATE ROLE {{name}}\0a\"b'c\0d'e\\f",
            "DO $x$ BEGIN PERFORM 1; END $x$",
            "SELECT 'it''s', \"a\"\"b\", f({{name}},{{password}}) WHERE a = {{password}}",
            "mCREATE USER {{name}}@'%' IDENTIFIED BY {{password}}\0a`b\0c'd\\e",
            "mGRANT SELECT ON `app`.* TO {{name}}@'10.0.0.%'",
            "CREATE ROLE \"{{name}}\"",
            "SELECT E'x' {{password}}",
            "DROP ROLE {{name}}; -- {{name}}",
        ],
    );
}

fn names(seeds: &mut Seeds) {
    texts(
        seeds,
        "resource",
        &[
            "kv/app/db",
            "kv",
            "kv.get",
            "database/app/reader",
            "database/app",
            "app/reader",
            "wrap/aydambqgaydambqgaydambqgay",
            "aaaqeayeaudaocajbifqydiob4",
            "principal/a@b.example",
            "seal",
            "kv/hidden:",
            "größe \"x\"",
        ],
    );
}

/// Requests with their bodies.
fn requests(seeds: &mut Seeds) {
    let Keys { people, records, view, .. } = Keys::get();
    let wrap = WrapId::new([6; 16]);
    let hybrid = identity(IdentityKind::Hybrid, 1).recipients()[0].to_string();
    let opened = json!({"statement_sha256": Digest::new([3; 32]), "claim": hybrid});
    texts(
        seeds,
        "dispatch",
        &[
            &format!("PUT /v1/kv/app/db\n{{\"data\":{{\"password\":\"{CANARY}\"}},\"cas\":3}}"),
            &format!("PUT /v1/kv/app/db\n{{\"data\":{{\"password\":\"{CANARY}\",\"password\":7}}}}"),
            "PATCH /v1/kv/app/db\n{\"data\":{\"old\":null},\"cas\":3}",
            "GET /v1/kv/app/db?version=4",
            "GET /v1/kv/app/db:watch?after=4-1-0&wait_s=30",
            "GET /v1/kv/app:list?after=AAEC&limit=10",
            "POST /v1/kv/app/db:destroy\n{\"versions\":[1]}",
            "PUT /v1/kv/app/db:metadata\n{\"max_versions\":10}",
            "PUT /v1/transit/orders\n{\"kind\":\"aes256-gcm\"}",
            &format!("POST /v1/transit/orders:import\n{{\"kind\":\"ed25519\",\"key\":\"{CANARY}\"}}"),
            &format!("POST /v1/transit/orders:encrypt\n{{\"items\":[{{\"plaintext\":\"{CANARY}\"}}]}}"),
            "POST /v1/transit/orders:datakey\n{\"bytes\":32}",
            &format!(
                "PUT /v1/database/app\n{{\"engine\":\"postgres\",\"host\":\"db\",\"port\":5432,\"database\":\"app\",\"user\":\"bulla\",\"password\":\"{CANARY}\",\"tls\":\"verify\"}}"
            ),
            "PUT /v1/database/app/reader\n{\"creation\":[\"CREATE ROLE {{name}}\"],\"ttl_s\":3600,\"max_ttl_s\":86400,\"certificate\":true}",
            "POST /v1/database/app/reader:issue\n{\"ttl_s\":3600}",
            "PUT /v1/database/app/billing:static\n{\"user\":\"billing\",\"rotate_every_s\":86400}",
            "GET /v1/lease:all?resource=database/app&stuck=true",
            "POST /v1/lease:revoke\n{\"resource\":\"database/app\"}",
            "GET /v1/audit?after=7&limit=10&resource=kv/app/db&principal=alice&action=kv.get",
            "GET /v1/alarms?all=true",
            "POST /v1/alarms:seen\n{\"up_to\":\"AAEC\"}",
            "PUT /v1/policy/team\n{\"text\":\"permit(principal, action, resource);\"}",
            "POST /v1/policy:check\n{\"principal\":\"alice\",\"action\":\"kv.get\",\"resource\":\"kv/app/db\"}",
            "POST /v1/policy:explain\n{\"id\":\"aaaqeayeaudaocajbifqydiob4\"}",
            "DELETE /v1/principal/alice",
            "GET /v1/whoami",
            &format!("POST /v1/wrap/{wrap}:open\n{opened}"),
            &format!(
                "POST /v1/wrap/{wrap}:ack\n{{\"statement_sha256\":\"{0}\",\"claim_sha256\":\"{0}\"}}",
                Digest::new([3; 32])
            ),
        ],
    );
    let document = json!({"envelope": view.newest().envelope()});
    seeds.push(("dispatch", "document".into(), [&b"POST /v1/document\n"[..], &to_vec(&document)].concat()));
    let record = json!({"record": records[4].envelope()});
    seeds.push(("dispatch", "record".into(), [&b"PUT /v1/principal/erin\n"[..], &to_vec(&record)].concat()));
    let stated = to_vec(&sign(STATEMENT_TYPE, &to_vec(&statement()), &[&people[0]]));
    let parcel = [&b"POST /v1/wrap\n"[..], &Parcel::head(&stated), b"age-encryption.org/v1\n"].concat();
    seeds.push(("dispatch", "wrap".into(), parcel));
}

fn server(seeds: &mut Seeds) {
    seeds.push(("config", "sample".into(), bulla_server::config::sample().into_bytes()));
    texts(
        seeds,
        "config",
        &[
            "data = \"/var/lib/bulla\"\nlisten = \"0.0.0.0:8250\"\n",
            "transient = true\n[init]\nadmins = [\"a.json\", \"b.json\"]\n[tls]\nrequire_pq = true\n",
            "data = \"/x\"\n[audit]\nsync = \"each\"\nnames = \"hashed\"\n[alarms]\nwebhook = \"https://a.example/b\"\n",
            "\0BULLA_SERVER_DATA=/x\nBULLA_SERVER_LISTEN=[::1]:8250\nBULLA_SERVER_TLS__REQUIRE_PQ=true\n",
            "\0BULLA_SERVER_TRANSIENT=true\nBULLA_SERVER_INIT__ADMINS=a.json:b.json\nBULLA_SERVER_LIMITS__BODY_MIB=1\n",
        ],
    );
    // The sample with every key set.
    let sample = bulla_server::config::sample();
    let set = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
        _ => String::new(),
    };
    let all: String =
        sample.lines().map(|line| if line.starts_with('[') { format!("{line}\n") } else { set(line) }).collect();
    seeds.push(("config", "all".into(), all.into_bytes()));
    for (at, route) in bulla_server::route::ROUTES.iter().enumerate() {
        let path = match route.parameter() {
            Some((before, name, _, after)) => {
                let wrap = WrapId::new([6; 16]).to_string();
                let value = if before == "/v1/wrap/" || name == "lease" {
                    wrap.as_str()
                } else if name == "path" {
                    "app/db"
                } else if name == "role" {
                    "app/reader"
                } else {
                    "alice"
                };
                format!("{before}{value}{after}")
            }
            None => route.template.to_owned(),
        };
        let query = route.query.iter().map(|name| format!("{name}=1")).collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        let line = format!("{} {path}{mark}{query}", route.method);
        bulla_server::route::find(route.method, &path).unwrap();
        seeds.push(("route", format!("{at:02}"), line.into_bytes()));
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let pem = parameters.self_signed(&key).unwrap().pem() + &key.serialize_pem();
    seeds.push(("tls", "p256".into(), pem.into_bytes()));
    let other = rcgen::KeyPair::generate().unwrap();
    let pem = parameters.self_signed(&key).unwrap().pem() + &other.serialize_pem();
    seeds.push(("tls", "other-key".into(), pem.into_bytes()));
}

/// What kube-apiserver stores: ciphertexts of the published vectors, and some that open.
fn kms(seeds: &mut Seeds) {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    for (at, case) in vector("kms/seeds.json")["ciphertexts"].as_array().unwrap().iter().enumerate() {
        // Those that differ from others by more than one byte.
        if at % 9 == 0 || at % 9 == 8 {
            seeds.push(("kms-envelope", format!("vector{at:02}"), hex(case["ciphertext"].as_str().unwrap())));
        }
    }
    let (key, key_id) = kms_place();
    let place = Place { cluster: "fuzz", key_id: &key_id };
    let part = |tag: u8, bytes: usize| Part { tag: KeyTag([tag; TAG_LEN]), wrapped: vec![tag; bytes] };
    let seed = SecretBytes::new(vec![5; 32]);
    let most = MAX_CIPHERTEXT_BYTES - kms_envelope::size([0], 32);
    for (name, mode, parts) in [
        ("one", Mode::Any, vec![part(1, 60)]),
        ("split", Mode::Split, vec![part(1, 48), part(2, 0), part(3, 72)]),
        ("eight", Mode::Any, (1..=8).map(|tag| part(tag, 20)).collect()),
        ("largest", Mode::Any, vec![part(9, most)]),
    ] {
        let sealed = kms_envelope::seal(place, mode, &parts, &key, &seed, &mut SeededRng::from_u64(1)).unwrap();
        seeds.push(("kms-envelope", name.into(), sealed));
    }
}

fn key_files(seeds: &mut Seeds) {
    let vectors = vector("kms-keyfile/vectors.json");
    texts(seeds, "kms-key-file", &[vectors["content"].as_str().unwrap()]);
    for kind in ["refused", "bound_refused"] {
        for (at, case) in vectors[kind].as_array().unwrap().iter().enumerate() {
            let text = case[1].as_str().unwrap();
            if text.len() <= 1024 && at % 3 == 1 {
                seeds.push(("kms-key-file", format!("{kind}{at:02}"), text.as_bytes().to_vec()));
            }
        }
    }
    for (name, kind) in [("hybrid", IdentityKind::Hybrid), ("classical", IdentityKind::Classical)] {
        let recipient = identity(kind, 1).recipients()[0].clone();
        let node = Node { name: "cp-1".parse().unwrap(), recipient: recipient.clone() };
        let mut rng = SeededRng::from_u64(1);
        let mut file = KeyFile::create(vec![node], 1_790_000_000, &mut rng).unwrap();
        file.rotate(1_800_000_000, 1_800_086_400, &mut rng).unwrap();
        seeds.push(("kms-key-file", name.into(), file.content().expose().clone()));
        let [key, wrapped, sealed] = [32, 256, 80].map(|bytes| base64(&vec![7; bytes]));
        let bound = format!(
            "# bulla bound identity v1\nrecipient: {recipient}\nkey: {key}\nwrapped: {wrapped}\nsealed: {sealed}\n"
        );
        seeds.push(("kms-key-file", format!("bound-{name}"), bound.into_bytes()));
        let (key, key_id) = kms_place();
        let place = Place { cluster: "fuzz", key_id: &key_id };
        let part = Part { tag: KeyTag([1; TAG_LEN]), wrapped: vec![1; 60] };
        let seed = SecretBytes::new(vec![5; 32]);
        let made = kms_envelope::seal(place, Mode::Any, &[part], &key, &seed, &mut SeededRng::from_u64(1)).unwrap();
        let ciphertext = base64(&made);
        let wrapped =
            format!("# bulla kms identity v1\nrecipient: {recipient}\nkey-id: {key_id}\nciphertext: {ciphertext}\n");
        KmsIdentity::parse(wrapped.as_bytes()).unwrap();
        seeds.push(("kms-key-file", format!("wrapped-{name}"), wrapped.into_bytes()));
    }
}

/// What Kubernetes is told, and what a kube-apiserver tells.
fn kubernetes(seeds: &mut Seeds) {
    let head =
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets";
    let kms = "kms: {apiVersion: v2, name: bulla, endpoint: 'unix:///run/bulla-kms/kms.sock', timeout: 3s}";
    texts(
        seeds,
        "kms-encryption",
        &[
            &format!("{head}]\n  providers:\n  - {kms}\n"),
            &format!(
                "{head}, configmaps]\n  providers:\n  - {kms}\n  - aescbc: {{keys: [{{name: a, secret: {CANARY}}}]}}\n  - identity: {{}}\n"
            ),
            &format!(
                "{head}]\n  providers:\n  - identity: {{}}\n  - kms:\n      name: x\n      endpoint: unix:///@bulla-kms\n      cachesize: 9\n"
            ),
            r#"{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [{"resources": ["*.*"], "providers": [{"secretbox": {"keys": []}}]}]}"#,
            "# a comment\n---\na:\n- 'it''s'\n- ~\n- |\n  two\n  lines\n- >-\n  one\n  line\n- \"\\u00e9\\n\"\n- 0x1f\n- -12\n- True\n...\n",
            &format!("a: &{CANARY} x\nb: *{CANARY}\n"),
            &format!("? {{a: {CANARY}}}\n: x\n"),
            "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
            "1m30s",
            "2.5s500ms7us",
        ],
    );
    let (old, new) = ("0".repeat(64), "a".repeat(64));
    let stem = "apiserver_envelope_encryption_key_id_hash";
    let told = |hash: &str, at: &str| {
        format!(
            "{stem}_status_last_timestamp_seconds{{apiserver_id_hash=\"sha256:x\",key_id_hash=\"sha256:{hash}\",provider_name=\"bulla\"}} {at}\n"
        )
    };
    let moved = |hash: &str, kind: &str, at: &str| {
        format!(
            "{stem}_last_timestamp_seconds{{apiserver_id_hash=\"sha256:x\",key_id_hash=\"sha256:{hash}\",provider_name=\"bulla\",transformation_type=\"{kind}\"}} {at}\n"
        )
    };
    let started = "# HELP process_start_time_seconds Start time\nprocess_start_time_seconds 1.69e+09\ngo_threads 9\n";
    texts(
        seeds,
        "kms-metrics",
        &[
            &format!(
                "{started}{}{}",
                told(&new, "1.7e+09"),
                moved(&new, "from_storage", "1.70000001e+09 1700000600000")
            ),
            &format!("{started}{}{}{}", told(&old, "1e9"), told(&new, "1.7e+09"), moved(&old, "to_storage", "1.6e+09")),
            &told(&new, "1").replace("apiserver_id_hash=\"sha256:x\",", "").replace("bulla", "a\\\"b\\\\c\\nd"),
            &told(&new, "+Inf"),
            &moved(&new, "elsewhere", "1"),
            &format!("{}{}", told(&new, "1"), told(&old, "2").replace("sha256:x", "sha256:y")),
        ],
    );
}

fn configurations(seeds: &mut Seeds) {
    let sample = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/samples/kms.toml")).unwrap();
    let said = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let whole: Vec<&str> = sample.lines().filter(said).collect();
    seeds.push(("kms-config", "sample".into(), whole.join("\n").into_bytes()));
    let member = |name: &str| format!("[members.{name}.age]\nfile = '/k'\nidentity = '/i'\n");
    let (one, two) = (member("a"), member("b"));
    texts(
        seeds,
        "kms-config",
        &[
            &format!("cluster = 'prod'\n{one}"),
            &format!("cluster = 'prod'\nepoch = 3\n[combine]\nmode = 'split'\n{one}{two}"),
            &format!("cluster = 'prod'\n[combine]\npolicy = 'quorum'\nminimum = 2\n{one}{two}"),
            &format!(
                "cluster = 'prod'\n[socket]\npath = '@k'\nallow_uids = [0, 7]\n[timing]\nperiod_s = 60\nstale_s = 120\nattempt_ms = 50\npromote_looks = 1\n{one}"
            ),
            &format!(
                "cluster = 'prod'\n[operations]\naddress = '[::1]:1'\n[socket]\nmode = '0600'\npath = '/k.sock'\n{one}"
            ),
            "cluster = 'p'\n[members.h.pkcs11]\nuri = 'pkcs11:token=t;id=%01?module-name=softhsm2'\nalso = ['pkcs11:token=t;id=%02?module-name=softhsm2']\npin_file = '/p'\n",
            "cluster = 'p'\n[members.v.vault]\naddress = 'https://v.example:8200'\nkey = 'k'\nnamespace = 'n'\n[members.v.vault.auth.approle]\nrole_id = 'r'\nsecret_id = '/s'\n",
            "cluster = 'p'\n[members.w.aws]\nkey = 'arn:aws:kms:eu-west-1:000000000000:key/af05ccec-0000-0000-0000-000000000000'\n[members.w.aws.credentials.container]\nuri = 'http://169.254.170.23/v1/credentials'\n",
            "cluster = 'p'\n[members.z.azure]\nkey = 'https://v.vault.azure.net/keys/k'\n[members.z.azure.credentials.client_secret]\ntenant = 't'\nclient = 'c'\nsecret_file = '/s'\n",
            "cluster = 'p'\n[members.g.gcp]\nkey = 'projects/p/locations/l/keyRings/r/cryptoKeys/k'\n[members.g.gcp.credentials.metadata]\nendpoint = 'http://169.254.169.254'\n",
        ],
    );
}

fn migrations(seeds: &mut Seeds) {
    texts(
        seeds,
        "kms-migrate",
        &[
            &format!(
                r#"{{"namespace": "admin/", "transitkey": "k", "vaultrole": "r", "address": "http://172.20.10.9:8200", "transitpath": "/transit/", "authmethod": "cert", "authpath": "certauth", "extra": "{CANARY}"}}"#
            ),
            r#"{"Namespace": "admin", "Transit": "k", "Role": "r", "Path": "https://v.example:8200"}"#,
            &format!(r#"{{"tokenLabel": "my token", "pin": "{CANARY}", "path": "/usr/lib64/softhsm/libsofthsm.so"}}"#),
            &format!("keyNames: [a, b]\naddress: https://v.example\ntoken: {CANARY}\ntlsServerName: v\n"),
            &format!(
                "keyNames: [a]\naddress: https://v.example\nroleID: r-1\nsecretID: {CANARY}\nauthPath: auth/team\n"
            ),
            &format!(
                "keyArn: arn:aws:kms:eu-west-1:000000000000:key/af05ccec\nprofile: p\nassumeRoleMFAToken: {CANARY}\n"
            ),
            "configFilePath: /etc/azure.json\nkeyVaultName: v\nkeyName: k\nkeyVersion: '1'\nmanagedHSM: true\n",
        ],
    );
}

/// What the plugin remembers, and its names.
fn states(seeds: &mut Seeds) {
    let [one, other] = [1, 2].map(|byte| base32(&[byte; 32]));
    let (_, key_id) = kms_place();
    texts(
        seeds,
        "kms-state",
        &[
            &format!(
                r#"{{"version":1,"epoch":3,"members":{{"central":{{"current":"{one}","past":["{other}"]}},"hsm":{{"past":[]}}}}}}"#
            ),
            r#"{"version":1,"epoch":2,"members":{}}"#,
            r#"{"version":1,"epoch":4,"members":{}}"#,
            r#"{"version":1,"epoch":3,"members":{"a":{"current":"x","past":[]}}}"#,
            key_id.as_str(),
            &format!("{key_id}.7"),
            "/run/bulla-kms/kms.sock",
            "@bulla-kms",
            "10.96.0.0/12",
            "fd00::/8",
        ],
    );
}

fn answers(seeds: &mut Seeds) {
    let wrapped = base64(&[9; 60]);
    let vault = [
        json!({"data": {"type": "aes256-gcm96", "keys": {"2": 1_795_855_148, "3": 1_795_855_150}, "latest_version": 3,
            "min_decryption_version": 2, "derived": false, "deletion_allowed": false}}),
        json!({"data": {"ciphertext": format!("vault:v12:{wrapped}")}}),
        json!({"data": {"ciphertext": format!("vault:v1:{wrapped}")}}),
        json!({"data": {"plaintext": base64(&[9; 32])}}),
        json!({"initialized": true, "sealed": false, "cluster_id": "3c7d3b5e-0000-4a3c-9d7e-6a2d3d0f4a11"}),
        json!({"auth": {"client_token": CANARY, "lease_duration": 3600, "renewable": true}}),
        json!({"data": {"ttl": 0, "creation_ttl": 3600, "expire_time": "2026-01-01T00:00:00Z", "num_uses": 0}}),
        json!({"errors": ["permission denied", format!("bad token {CANARY}\n\u{1b}[2J")]}),
        json!({"errors": []}),
        json!({"data": {"transit/encrypt/k": ["create", "update"], "creation_path": "auth/approle/role/r/secret-id", "secret_id": CANARY}}),
    ];
    let clouds = [
        json!({"KeyMetadata": {"Arn": "arn:aws:kms:x", "CreationDate": 1.7e9, "KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT",
            "KeySpec": "SYMMETRIC_DEFAULT", "CurrentKeyMaterialId": "m"}}),
        json!({"Rotations": [{"KeyMaterialId": "m", "KeyMaterialState": "CURRENT", "RotationDate": 1.7e9}], "Truncated": true,
            "NextMarker": "n"}),
        json!({"KeyId": "arn:aws:kms:x", "CiphertextBlob": wrapped, "Plaintext": CANARY, "KeyMaterialId": "m"}),
        json!({"__type": "com.amazonaws.kms#AccessDeniedException", "message": CANARY}),
        json!({"AccessKeyId": "AKIAONE", "SecretAccessKey": CANARY, "Token": CANARY, "Expiration": "2026-01-01T00:00:00Z"}),
        json!({"value": [{"kid": "https://v.vault.azure.net/keys/k/1", "attributes": {"enabled": true, "created": 1, "exp": 9}}],
            "nextLink": "https://v.vault.azure.net/keys/k"}),
        json!({"key": {"kid": "https://v.vault.azure.net/keys/k/1", "kty": "RSA", "n": "AQAB", "e": "AQAB"}}),
        json!({"kid": "https://v.vault.azure.net/keys/k/1", "value": "AQAB"}),
        json!({"error": {"code": "Forbidden", "message": CANARY, "innererror": {"code": "ForbiddenByFirewall"}}}),
        json!({"purpose": "ENCRYPT_DECRYPT", "primary": {"name": "projects/p/cryptoKeyVersions/1", "state": "ENABLED",
            "createTime": "2026-01-01T00:00:00Z"}}),
        json!({"cryptoKeyVersions": [{"name": "n", "state": "ENABLED", "createTime": "t"}], "nextPageToken": "p"}),
        json!({"name": "n", "ciphertext": wrapped, "ciphertextCrc32c": "7", "plaintext": wrapped, "plaintextCrc32c": "7"}),
        json!({"error": {"status": "FAILED_PRECONDITION", "message": CANARY}}),
        json!({"access_token": CANARY, "expires_in": "3599"}),
        json!({"type": "service_account", "client_email": "a@b", "private_key_id": "1", "private_key": CANARY, "token_uri": "https://t/x"}),
        json!({"type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": "https://t/x",
            "credential_source": {"file": "/f", "format": {"type": "json", "subject_token_field_name": "t"}}}),
    ];
    for (at, answer) in vault.iter().chain(&clouds).enumerate() {
        seeds.push(("kms-answer", format!("json{at:02}"), to_vec(answer)));
    }
    texts(
        seeds,
        "kms-answer",
        &[
            &format!(
                "[default]\naws_access_key_id = AKIAONE\naws_secret_access_key = {CANARY}\n[other]\naws_session_token=x"
            ),
            &format!("[default]\naws_access_key_id = AKIAONE\n# aws_secret_access_key = {CANARY}\n"),
            &format!("<R><Code>Throttling</Code><SessionToken>{CANARY}</SessionToken></R>"),
            "<Code>x</Code><Code>y</Code>",
            &wrapped,
            "https://kms.example:8200",
            "http://169.254.169.254",
            "http://[fe80::1]:80",
            "https://oauth2.example:444/token",
        ],
    );
}
