//! Each failure that the page names, alone, and the file that is good. They are the published vectors.

use super::*;
use crate::evidence::{
    DocumentDraft, Node, PrincipalKey, Record, VerifiedDocument, genesis_payload, record_payload, sign_in_memory,
};
use crate::identity::{Identity, IdentityKind};
use crate::secret::SecretKey;
use crate::sign::SigningKey;
use bulla_wire::encoding::{base64, base64_decode};
use bulla_wire::evidence::{MinKem, SealMode};
use bulla_wire::id::{ClusterId, Lineage};
use bulla_wire::json::V1;
use bulla_wire::snapshot::{AuditLine, write_end};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A cluster of one admin, and its node.
struct World {
    admin: Identity,
    node: SigningKey,
    view: ClusterView,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&SecretKey::filled(|bytes| bytes.fill(seed))).unwrap()
}

fn world(seed: u8) -> World {
    let admin = Identity::from_seed(IdentityKind::Classical, SecretKey::filled(|bytes| bytes.fill(seed))).unwrap();
    let entry = PrincipalKey {
        public: admin.signing_key().unwrap().public_key().clone(),
        recipients: admin.recipients().to_vec(),
        dual_use: false,
    };
    let payload = record_payload("ann".parse().unwrap(), None, &[entry]).unwrap();
    let record = Record::open(&sign_in_memory(&payload, &[admin.signing_key().unwrap()]).unwrap(), None).unwrap();
    let node = key(seed + 1);
    let genesis = genesis_payload(
        "test".parse().unwrap(),
        [seed; 32],
        &[record],
        SealMode::Any,
        1,
        node.public_key(),
        1000,
        admin.recipients().first().unwrap(),
        MinKem::Classical,
    );
    let view = ClusterView::unpinned(&sign_in_memory(&genesis, &[]).unwrap()).unwrap();
    World { admin, node, view }
}

impl World {
    /// The next document, in which `change` was done to the nodes.
    fn with_nodes(&self, change: impl FnOnce(&mut Vec<Node>)) -> ClusterView {
        let mut draft = DocumentDraft::of(self.view.newest());
        change(&mut draft.nodes);
        let next = self.view.next_document(&draft).unwrap();
        let mut view = self.view.clone();
        view.push(&sign_in_memory(&next, &[self.admin.signing_key().unwrap()]).unwrap()).unwrap();
        view
    }

    /// The cluster knows that the node's key was stolen, and has another node.
    fn compromised(&self, since_ms: u64) -> ClusterView {
        self.with_nodes(|nodes| {
            let other = Node { key: key(99).public_key().clone(), state: NodeState::Active, since_ms: 2000 };
            nodes.iter_mut().for_each(|node| (node.state, node.since_ms) = (NodeState::Compromised, since_ms));
            nodes.push(other);
        })
    }

    fn manifest(&self, view: &ClusterView) -> Manifest {
        Manifest {
            v: V1,
            cluster: view.id(),
            epoch: 2,
            lineage: Lineage::new([3; 16]),
            sequence: 40,
            doc: view.newest().number(),
            node: self.node.public_key().key_id(),
            saved_ms: 5000,
            audit: AuditLine { file: 1, offset: 900, n: 12, sha256: Digest::new([4; 32]) },
            rows: 0,
            bytes: 0,
            sha256: Digest::new([0; 32]),
        }
    }

    fn good(&self) -> Vec<u8> {
        file(&rows(&self.view), self.manifest(&self.view), &self.node)
    }
}

type Owned = (Table, Vec<u8>, Vec<u8>);

/// Rows of each table; what is sealed in them matters to no reader.
fn rows(view: &ClusterView) -> Vec<Owned> {
    let plain = |content: &[u8]| [&[2; 1][..], &[0; 4], &[7; 8], content].concat();
    let mut rows: Vec<Owned> = view
        .documents()
        .map(|document| {
            let name = format!("document/{}", document.number());
            (Table::Plain, name.into_bytes(), plain(&json::to_vec(document.envelope())))
        })
        .collect();
    rows.push((Table::Plain, b"head".to_vec(), plain(&[9; 128])));
    rows.push((Table::Data, [&[1][..], &[5; 32]].concat(), [&[1][..], &[6; 99]].concat()));
    rows.push((Table::Data, [&[10][..], &[5; 32]].concat(), [&[1][..], &[7; 200]].concat()));
    rows.push((Table::Seen(29_000_000), vec![8; 32], [&[1][..], &[8; 99]].concat()));
    rows
}

/// Frames as they come, whatever they are.
fn frames(rows: &[Owned]) -> Vec<u8> {
    let mut bytes = header().to_vec();
    for (table, key, value) in rows {
        let (tag, minute) = match table {
            Table::Plain => (1, 0),
            Table::Data => (2, 0),
            Table::Seen(minute) => (3, *minute),
        };
        bytes.push(tag);
        bytes.extend(u32::to_be_bytes(minute));
        bytes.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
        bytes.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend([key.as_slice(), value].concat());
    }
    bytes
}

/// A file with a manifest that fits its rows.
fn file(rows: &[Owned], manifest: Manifest, node: &SigningKey) -> Vec<u8> {
    let bytes = frames(rows);
    let manifest = Manifest {
        rows: u64::try_from(rows.len()).unwrap(),
        bytes: u64::try_from(bytes.len()).unwrap(),
        sha256: Digest::new(crate::digest::sha256(&[&bytes])),
        ..manifest
    };
    ended(bytes, &manifest, node)
}

fn ended(mut bytes: Vec<u8>, manifest: &Manifest, node: &SigningKey) -> Vec<u8> {
    write_end(&json::to_vec(&sign_in_memory(manifest, &[node]).unwrap()), &mut bytes).unwrap();
    bytes
}

/// What a reader is told of a file: in pieces of `piece` bytes.
fn read(
    file: &[u8],
    piece: usize,
    pin: ClusterId,
    known: Option<&ClusterView>,
    vouched: Option<Digest>,
) -> Result<Verified, SnapshotError> {
    let mut reader = Reader::new();
    for piece in file.chunks(piece) {
        reader.take(piece, &mut |_| Ok(()))?;
    }
    reader.finish()?.verify(|genesis, _| ClusterView::pinned(pin, genesis), known, vouched)
}

fn digest_of(file: &[u8]) -> Digest {
    let mut reader = Reader::new();
    reader.take(file, &mut |_| Ok(())).unwrap();
    reader.finish().unwrap().manifest_unverified().sha256
}

fn case(name: &str, file: &[u8], pin: &ClusterView, expect: &str) -> Value {
    json!({"name": name, "file": base64(file), "pin": pin.id(), "expect": expect})
}

fn cases() -> Vec<Value> {
    let (here, there) = (world(1), world(11));
    let (good, view) = (here.good(), &here.view);
    let own = |name: &str, file: &[u8], expect: &str| case(name, file, view, expect);
    let mut cases = vec![
        own("a whole file", &good, "ok"),
        own("nothing", b"", "truncated"),
        own("another file", b"SQLite format 3\0", "not_a_snapshot"),
        own("the beginning of a header", &good[..7], "truncated"),
        own("a header alone", &good[..16], "truncated"),
        own("cut within a row", &good[..100], "truncated"),
        own("cut behind the rows", &good[..frames(&rows(view)).len()], "truncated"),
        own("cut within the manifest", &good[..good.len() - 1], "truncated"),
        own("bytes behind the end", &[&good[..], b"\n"].concat(), "malformed"),
        own("two files, one behind the other", &good.repeat(2), "malformed"),
    ];
    let newer = [&good[..14], &[0, 2], &good[16..]].concat();
    cases.push(own("a newer version", &newer, "newer_version"));

    let sealed = frames(&rows(view)).len() - 1;
    let mut altered = good.clone();
    altered[sealed] ^= 1;
    cases.push(own("a bit of a row changed", &altered, "altered"));
    let spliced = |rows: &[Owned]| [frames(rows), good[frames(&self::rows(view)).len()..].to_vec()].concat();
    let mut fewer = rows(view);
    fewer.remove(3);
    cases.push(own("a row left out", &spliced(&fewer), "altered"));
    let mut mixed = rows(view);
    mixed[3].2 = [&[1][..], &[0x77; 200]].concat();
    cases.push(own("a row of another snapshot", &spliced(&mixed), "altered"));
    let mut more = rows(view);
    more.push((Table::Seen(29_000_001), vec![8; 32], [&[1][..], &[8; 99]].concat()));
    cases.push(own("a row more", &spliced(&more), "altered"));

    let with = |rows: &[Owned]| file(rows, here.manifest(view), &here.node);
    for (name, change) in CHANGES {
        let mut changed = rows(view);
        change(&mut changed);
        cases.push(own(name, &with(&changed), "malformed"));
    }
    let wrong = Manifest { doc: 1, ..here.manifest(view) };
    cases.push(own("a document that is not there", &file(&rows(view), wrong, &here.node), "altered"));
    let mut short = good[..=sealed].to_vec();
    write_end(b"{}", &mut short).unwrap();
    cases.push(own("a manifest that is none", &short, "malformed"));

    cases.push(case("of another cluster", &good, &there.view, "other_cluster"));
    let foreign = Manifest { cluster: there.view.id(), ..here.manifest(view) };
    cases.push(own("a manifest of another cluster", &file(&rows(view), foreign, &here.node), "other_cluster"));
    let stranger = Manifest { node: key(50).public_key().key_id(), ..here.manifest(view) };
    cases.push(own("signed by no node", &file(&rows(view), stranger, &key(50)), "untrusted"));
    cases.push(own("signed by another key", &file(&rows(view), here.manifest(view), &key(50)), "untrusted"));
    cases.extend(stolen(&here, &good));
    cases
}

/// What becomes of a file when its node's key is stolen.
fn stolen(here: &World, good: &[u8]) -> Vec<Value> {
    let chain = |view: &ClusterView| json!(view.documents().map(VerifiedDocument::envelope).collect::<Vec<_>>());
    let known = |name: &str, view: &ClusterView, vouched: Option<Digest>, expect: &str| {
        let mut case = case(name, good, view, expect);
        case["known"] = chain(view);
        if let Some(digest) = vouched {
            case["sha256"] = json!(digest);
        }
        case
    };
    let retired = here.with_nodes(|nodes| {
        let other = Node { key: key(99).public_key().clone(), state: NodeState::Active, since_ms: 2000 };
        nodes.iter_mut().for_each(|node| (node.state, node.since_ms) = (NodeState::Retired, 6000));
        nodes.push(other);
    });
    let within = here.compromised(9000);
    let file = file(&rows(&within), here.manifest(&within), &here.node);
    vec![
        known("its node has retired since", &retired, None, "ok"),
        known("its node was compromised before", &here.compromised(4000), None, "untrusted"),
        known("its node was compromised later", &here.compromised(9000), None, "untrusted"),
        known("compromised, with the digest", &here.compromised(4000), Some(digest_of(good)), "ok"),
        known("with another digest", &here.view, Some(Digest::new([5; 32])), "other_digest"),
        case("its own documents say that it is compromised", &file, &within, "untrusted"),
    ]
}

type Change = (&'static str, fn(&mut Vec<Owned>));

/// Files that are signed and break a rule.
const CHANGES: &[Change] = &[
    ("rows in another order", |rows| rows.swap(2, 3)),
    ("a row twice", |rows| rows.insert(3, rows[2].clone())),
    ("a table in another place", |rows| rows.swap(1, 2)),
    ("a wrap's row", |rows| rows[3].1[0] = 11),
    ("a row of no known kind", |rows| rows[3].1[0] = 99),
    ("a plain row in the data table", |rows| rows[2].2[0] = 2),
    ("a record in the plain table", |rows| rows[1].2[0] = 1),
    ("a value that is too short", |rows| rows[2].2.truncate(12)),
    ("a key that is too long", |rows| rows[2].1 = vec![1; 257]),
    ("a document that is none", |rows| rows[0].2.truncate(60)),
    ("a second spelling of a document's number", |rows| rows[0].1 = b"document/00".to_vec()),
];

fn judge(case: &Value, piece: usize) -> &'static str {
    let file = base64_decode(case["file"].as_str().unwrap()).unwrap();
    let pin: ClusterId = case["pin"].as_str().unwrap().parse().unwrap();
    let known: Vec<Envelope> = serde_json::from_value(case["known"].clone()).unwrap_or_default();
    let known = known.split_first().map(|(genesis, later)| {
        let mut view = ClusterView::unpinned(genesis).unwrap();
        later.iter().for_each(|document| view.push(document).unwrap());
        view
    });
    let vouched = case["sha256"].as_str().map(|digest| digest.parse().unwrap());
    read(&file, piece, pin, known.as_ref(), vouched).map_or_else(|error| error.name(), |_| "ok")
}

/// The expectation of each case stands in the test's source, not in what the code answered.
#[test]
fn the_vectors() {
    let cases = cases();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/snapshot/files.json");
    let read = || std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Vec<Value>>(&text).ok());
    // Not for another order of names alone, which comes from the features that serde_json is built with.
    if std::env::var_os("BULLA_BLESS").is_some() && read().as_ref() != Some(&cases) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let lines: Vec<_> = cases.iter().map(Value::to_string).collect();
        std::fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    }
    let published = read().unwrap();
    assert_eq!(published, cases, "run with BULLA_BLESS=1 if the format was meant to change");
    for case in &published {
        for piece in [1, 61, usize::MAX] {
            assert_eq!(judge(case, piece), case["expect"].as_str().unwrap(), "{} by {piece}", case["name"]);
        }
    }
}

/// No byte of a file is free, and no file that is cut is whole.
#[test]
fn each_byte_counts() {
    let here = world(1);
    let good = here.good();
    let pin = here.view.id();
    for place in 0..good.len() {
        let mut changed = good.clone();
        changed[place] ^= 0x20;
        assert!(read(&changed, usize::MAX, pin, None, None).is_err(), "byte {place}");
        assert!(read(&good[..place], usize::MAX, pin, None, None).is_err(), "{place} bytes");
    }
}

/// The rows come out as they went in.
#[test]
fn rows_are_handed_on() {
    let here = world(1);
    let mut found: Vec<Owned> = Vec::new();
    let mut reader = Reader::new();
    for piece in here.good().chunks(50) {
        reader
            .take(piece, &mut |row| {
                found.push((row.table, row.key.to_vec(), row.value.to_vec()));
                Ok(())
            })
            .unwrap();
    }
    assert!(reader.at_end());
    assert_eq!(found, rows(&here.view));
    let kept = |_: Row<'_>| Err(io::Error::other("full"));
    assert_eq!(Reader::new().take(&here.good(), &mut { kept }).unwrap_err().name(), "io");
}

/// Whoever saves asks for the next page until then.
#[test]
fn the_end_is_known_when_it_was_read() {
    let good = world(1).good();
    let (most, last) = good.split_at(good.len() - 1);
    let mut reader = Reader::new();
    assert!(!reader.at_end());
    reader.take(most, &mut |_| Ok(())).unwrap();
    assert!(!reader.at_end());
    reader.take(last, &mut |_| Ok(())).unwrap();
    assert!(reader.at_end());
}

/// What is kept until somebody is believed has a limit, since until then it is anybody's.
#[test]
fn documents_of_more_than_64_mib_are_refused() {
    let (table, key, value) = rows(&world(1).view).remove(0);
    let read_before = |bytes: usize| {
        let mut reader = Reader { statements_bytes: bytes, ..Reader::new() };
        reader.row(&Row { table, key: &key, value: &value })
    };
    assert!(read_before(MAX_STATEMENTS_BYTES - value.len()).is_ok());
    assert_eq!(read_before(MAX_STATEMENTS_BYTES - value.len() + 1).unwrap_err().name(), "malformed");
}

/// Whoever pins admins needs the approvals of genesis, which lie in the file too.
#[test]
fn approvals_in_the_file_are_handed_on() {
    let here = world(1);
    let payload = bulla_wire::evidence::GenesisApproval { v: V1, cluster: here.view.id() };
    let approval = sign_in_memory(&payload, &[here.admin.signing_key().unwrap()]).unwrap();
    let mut approved = rows(&here.view);
    let value = [&[2; 1][..], &[0; 4], &[7; 8], &json::to_vec(&approval)].concat();
    approved.insert(0, (Table::Plain, b"approval/0".to_vec(), value));
    let set = crate::evidence::AdminSet::of(here.view.genesis()).unwrap();
    let judged = |file: &[u8]| {
        let mut reader = Reader::new();
        reader.take(file, &mut |_| Ok(())).unwrap();
        let begin = |genesis: &Envelope, approvals: &[Envelope]| ClusterView::pinned_admins(&set, genesis, approvals);
        reader.finish().unwrap().verify(begin, None, None).map_or_else(|error| error.name(), |_| "ok")
    };
    assert_eq!(judged(&file(&approved, here.manifest(&here.view), &here.node)), "ok");
    assert_eq!(judged(&here.good()), "other_cluster");
}

/// One signature (`spec/snapshot.md`, "The manifest"): nobody adds to a file without the node's key.
#[test]
fn a_manifest_has_one_signature() {
    let here = world(1);
    let bytes = frames(&rows(&here.view));
    let manifest = Manifest {
        rows: u64::try_from(rows(&here.view).len()).unwrap(),
        bytes: u64::try_from(bytes.len()).unwrap(),
        sha256: Digest::new(crate::digest::sha256(&[&bytes])),
        ..here.manifest(&here.view)
    };
    let stranger = key(50);
    let signed = [(vec![&here.node], "ok"), (vec![&here.node, &stranger], "malformed"), (vec![], "malformed")];
    for (keys, expect) in signed {
        let mut file = bytes.clone();
        write_end(&json::to_vec(&sign_in_memory(&manifest, &keys).unwrap()), &mut file).unwrap();
        let told = read(&file, usize::MAX, here.view.id(), None, None).map_or_else(|error| error.name(), |_| "ok");
        assert_eq!(told, expect, "{} signatures", keys.len());
    }
}
