//! The vectors of `spec/kms-keyfile.md`, and each rule of key files.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_crypto::envelope;
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{SeededRng, SystemRng};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::sign::RsaMinimum;
use bulla_kms::bound::{BoundError, BoundIdentity};
use bulla_kms::keyfile::{KeyFile, KeyFileError, MAX_FILE_BYTES, MAX_KEYS, MAX_NODES, Node, NodeName};
use bulla_wire::encoding::{base32, base64, base64_decode};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    /// An identity file.
    identity: String,
    /// A key file for it, in base64.
    file: String,
    /// Its content.
    content: String,
    id: String,
    keys: Vec<KeyCase>,
    /// Contents that are refused: what is wrong, the text, and the number of the line.
    refused: Vec<(String, String, usize)>,
    /// Bound identities that are refused: what is wrong, and the text.
    bound_refused: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct KeyCase {
    number: u32,
    created: u64,
    begins: u64,
    check: String,
}

fn path() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/kms-keyfile/vectors.json")
}

fn identity(seed: u64, kind: IdentityKind) -> Identity {
    Identity::generate(kind, &mut SeededRng::from_u64(seed)).unwrap()
}

fn recipient(seed: u64, kind: IdentityKind) -> Recipient {
    identity(seed, kind).recipients().first().unwrap().clone()
}

fn node(name: &str, seed: u64) -> Node {
    Node { name: name.parse().unwrap(), recipient: recipient(seed, IdentityKind::Classical) }
}

fn keys(file: &KeyFile) -> Vec<KeyCase> {
    let case = |kek: &bulla_kms::keyfile::Kek| KeyCase {
        number: kek.number.get(),
        created: kek.created,
        begins: kek.begins,
        check: base32(&kek.check(file.id())),
    };
    file.keys().iter().map(case).collect()
}

/// A content that age encrypts, whoever wrote it.
fn opened(content: &str) -> Result<KeyFile, KeyFileError> {
    let own = identity(1, IdentityKind::Classical);
    let sealed = envelope::seal(own.recipients(), None, content.as_bytes()).unwrap();
    now(KeyFile::open(&sealed, &own))
}

fn content(file: &[u8], own: &Identity) -> String {
    let opened = now(envelope::open(&[own], file, 1 << 20)).unwrap();
    String::from_utf8(opened.plaintext.expose().clone()).unwrap()
}

fn written() -> Vectors {
    let rng = &mut SeededRng::from_u64(7);
    let mut file = KeyFile::create(vec![node("cp-1", 1), node("cp-2", 2)], 1_790_000_000, rng).unwrap();
    file.rotate(1_800_000_000, 1_800_086_400, rng).unwrap();
    let own = identity(1, IdentityKind::Classical);
    let sealed = file.seal().unwrap();
    let content = content(&sealed, &own);
    let text = own.to_file_text(None, None).unwrap();
    Vectors {
        identity: String::from_utf8(text.expose().clone()).unwrap(),
        file: base64(&sealed),
        id: file.id().to_string(),
        keys: keys(&file),
        refused: refusals(&content),
        bound_refused: bound_refusals(),
        content,
    }
}

fn refusals(content: &str) -> Vec<(String, String, usize)> {
    let lines: Vec<&str> = content.lines().collect();
    let replaced = |number: usize, line: &str| {
        let mut lines = lines.clone();
        *lines.get_mut(number - 1).unwrap() = line;
        format!("{}\n", lines.join("\n"))
    };
    let line = |number: usize| *lines.get(number - 1).unwrap();
    let (first_node, second_node, first_key, second_key) = (line(3), line(4), line(5), line(6));
    let key = first_key.rsplit_once(' ').unwrap().1;
    let cases: Vec<(&str, String, usize)> = vec![
        ("empty", String::new(), 1),
        ("another version", replaced(1, "bulla kms key file v2"), 1),
        ("lines ended by CR LF", content.replace('\n', "\r\n"), 1),
        ("an id that is too short", replaced(2, "id: aaaaaaaaaaaaaaaaaaaaaaaa"), 2),
        ("an id in capitals", replaced(2, &line(2).to_uppercase().replace("ID", "id")), 2),
        ("no id", content.replace(&format!("{}\n", line(2)), ""), 2),
        ("a node without a recipient", replaced(3, "node: cp-1"), 3),
        ("a name in capitals", replaced(3, &first_node.replace("cp-1", "CP-1")), 3),
        ("a recipient that is damaged", replaced(3, &first_node.replace("age1", "age1q")), 3),
        ("two nodes of one name", replaced(4, &second_node.replace("cp-2", "cp-1")), 4),
        ("two nodes with one recipient", replaced(4, &first_node.replace("cp-1", "cp-3")), 4),
        ("no node", content.replace(&format!("{first_node}\n{second_node}\n"), ""), 3),
        ("a key of number 0", replaced(5, &first_key.replace("key: 1", "key: 0")), 5),
        ("a number with a leading zero", replaced(5, &first_key.replace("key: 1", "key: 01")), 5),
        ("a number with a sign", replaced(5, &first_key.replace("key: 1", "key: +1")), 5),
        ("a key that begins before it was made", replaced(5, &format!("key: 1 1790000000 1789999999 {key}")), 5),
        ("a time in milliseconds", replaced(5, &format!("key: 1 1790000000 1790000000000 {key}")), 5),
        ("a key of 31 bytes", replaced(5, &first_key.replace(key, &key[..42])), 5),
        ("a key with padding", replaced(5, &format!("{first_key}=")), 5),
        ("a fifth word", replaced(5, &format!("{first_key} x")), 5),
        ("two keys of one number", replaced(6, &second_key.replace("key: 2", "key: 1")), 6),
        ("a later key that was made earlier", replaced(6, &second_key.replace("1800000000", "1789999999")), 6),
        ("no key", content.replace(&format!("{first_key}\n{second_key}\n"), ""), 5),
        ("no line feed at the end", content.trim_end().to_owned(), 7),
        ("an empty line", format!("{content}\n"), 8),
        ("something after it", format!("{content}more"), 7),
    ];
    cases.into_iter().map(|(what, text, line)| (what.to_owned(), text, line)).collect()
}

fn bound_refusals() -> Vec<(String, String)> {
    let head = "# bulla bound identity v1";
    let recipient = recipient(1, IdentityKind::Classical);
    let (key, bytes) = (base64(&[1; 32]), base64(&[2; 256]));
    let good = format!("{head}\nrecipient: {recipient}\nkey: {key}\nwrapped: {bytes}\nsealed: {bytes}\n");
    BoundIdentity::parse(good.as_bytes()).unwrap();
    let cases = [
        ("another version", good.replace("v1", "v2")),
        ("no recipient", good.replace("recipient", "Recipient")),
        ("a digest that is too short", good.replace(&key, &base64(&[1; 31]))),
        ("another order", format!("{head}\nkey: {key}\nrecipient: {recipient}\nwrapped: {bytes}\nsealed: {bytes}\n")),
        ("base64 without padding", good.replace(&key, key.trim_end_matches('='))),
        ("no line feed at the end", good.trim_end().to_owned()),
        ("something after it", format!("{good}more\n")),
        ("too large", good.replace(&bytes, &"A".repeat(8192))),
    ];
    cases.into_iter().map(|(what, text)| (what.to_owned(), text)).collect()
}

#[test]
fn the_vectors() {
    if bulla_testkit::blessing() {
        std::fs::write(path(), serde_json::to_string_pretty(&written()).unwrap() + "\n").unwrap();
    }
    let vectors: Vectors = serde_json::from_slice(&std::fs::read(path()).unwrap()).unwrap();
    let own = Identity::parse(vectors.identity.as_bytes(), RsaMinimum::Bits3072, &|| None::<SecretBytes>).unwrap();
    let sealed = base64_decode(&vectors.file).unwrap();
    let file = now(KeyFile::open(&sealed, &own)).unwrap();
    assert_eq!((file.id().to_string(), keys(&file)), (vectors.id, vectors.keys));
    assert_eq!(content(&sealed, &own), vectors.content);
    // What is written again is the same.
    assert_eq!(content(&file.seal().unwrap(), &own), vectors.content);
    assert!(vectors.refused.len() > 20);
    for (what, text, expected) in vectors.refused {
        match opened(&text) {
            Err(KeyFileError::Line { line, .. }) => assert_eq!(line, expected, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    for (what, text) in vectors.bound_refused {
        assert!(matches!(BoundIdentity::parse(text.as_bytes()), Err(BoundError::Format(_))), "{what}");
    }
}

#[test]
fn a_file_has_limits() {
    let own = identity(1, IdentityKind::Classical);
    assert!(matches!(now(KeyFile::open(&vec![b'a'; MAX_FILE_BYTES + 1], &own)), Err(KeyFileError::TooLarge)));
    let large = envelope::seal(own.recipients(), None, &[b'a'; 200 * 1024]).unwrap();
    assert!(matches!(now(KeyFile::open(&large, &own)), Err(KeyFileError::Open(_))));
    // The largest one that there may be is one that opens.
    let hybrid = |seed| recipient(seed, IdentityKind::Hybrid);
    let name = |seed: u64| -> NodeName { format!("{seed:a>63}").parse().unwrap() };
    let many = 0..MAX_NODES as u64;
    let nodes = many.map(|seed| Node { name: name(seed), recipient: hybrid(seed) }).collect();
    let mut file = KeyFile::create(nodes, 1, &mut SystemRng).unwrap();
    let more = file.enrol(Node { name: name(99), recipient: hybrid(99) });
    assert!(matches!(more, Err(KeyFileError::Node(_))));
    while file.keys().len() < MAX_KEYS {
        file.rotate(253_402_300_799, 253_402_300_799, &mut SystemRng).unwrap();
    }
    assert!(matches!(file.rotate(253_402_300_799, 253_402_300_799, &mut SystemRng), Err(KeyFileError::TooManyKeys)));
    let opened = now(KeyFile::open(&file.seal().unwrap(), &identity(63, IdentityKind::Hybrid))).unwrap();
    assert_eq!((opened.nodes().len(), opened.keys().len()), (MAX_NODES, MAX_KEYS));
    let mut text = format!("bulla kms key file v1\nid: {}\n", file.id());
    (0..=MAX_NODES).for_each(|seed| {
        let node = node(&format!("n{seed}"), seed as u64);
        text += &format!("node: {} {}\n", node.name.as_str(), node.recipient);
    });
    assert!(matches!(self::opened(&text), Err(KeyFileError::Line { line: 67, .. })));
}

#[test]
fn who_is_a_node_and_who_is_none() {
    let mut file = KeyFile::create(vec![node("cp-1", 1), node("cp-2", 2)], 100, &mut SystemRng).unwrap();
    let opens = |file: &KeyFile, seed| {
        now(KeyFile::open(&file.seal().unwrap(), &identity(seed, IdentityKind::Classical))).is_ok()
    };
    assert!(opens(&file, 1) && opens(&file, 2) && !opens(&file, 3));
    file.enrol(node("cp-3", 3)).unwrap();
    file.remove(&"cp-1".parse().unwrap()).unwrap();
    assert!(!opens(&file, 1) && opens(&file, 2) && opens(&file, 3));
    let hybrid = Node { name: "cp-4".parse().unwrap(), recipient: recipient(4, IdentityKind::Hybrid) };
    for twice in [node("cp-2", 9), node("cp-9", 2), hybrid] {
        assert!(matches!(file.enrol(twice), Err(KeyFileError::Node(_))));
    }
    assert!(matches!(file.remove(&"cp-1".parse().unwrap()), Err(KeyFileError::NoNode)));
    file.remove(&"cp-2".parse().unwrap()).unwrap();
    assert!(matches!(file.remove(&"cp-3".parse().unwrap()), Err(KeyFileError::Last)));
    assert!(matches!(KeyFile::create(Vec::new(), 100, &mut SystemRng), Err(KeyFileError::Last)));
    for bad in ["", "-a", ".a", "A", "a_b", "a b", &"a".repeat(64)] {
        assert!(bad.parse::<NodeName>().is_err(), "{bad}");
    }
}

#[test]
fn a_key_begins_when_it_says() {
    let rng = &mut SystemRng;
    let mut file = KeyFile::create(vec![node("cp-1", 1)], 100, rng).unwrap();
    let active = |file: &KeyFile, now| file.active(now).unwrap().number.get();
    assert_eq!(file.rotate(200, 300, rng).unwrap().get(), 2);
    for (now, number) in [(0, 1), (100, 1), (299, 1), (300, 2), (1000, 2)] {
        assert_eq!(active(&file, now), number, "{now}");
    }
    for (now, begins) in [(400, 399), (250, 299), (199, 500), (200, u64::MAX)] {
        assert!(matches!(file.rotate(now, begins, rng), Err(KeyFileError::Time)), "{now} {begins}");
    }
    let two = NonZeroU32::new(2).unwrap();
    assert!(matches!(file.drop_before(two, 299), Err(KeyFileError::InUse)));
    file.drop_before(two, 300).unwrap();
    assert_eq!((file.keys().len(), active(&file, 0)), (1, 2));
    assert_eq!(file.rotate(400, 400, rng).unwrap().get(), 3);
}

#[test]
fn a_file_continues_the_one_before() {
    let make = |seed, times: &[u64]| {
        let rng = &mut SeededRng::from_u64(seed);
        let mut file = KeyFile::create(vec![node("cp-1", 1)], 100, rng).unwrap();
        for time in times {
            file.rotate(*time, *time, rng).unwrap();
        }
        file
    };
    let (first, second, third) = (make(5, &[]), make(5, &[200]), make(5, &[200, 300]));
    for (newer, older) in [(&first, &first), (&second, &first), (&third, &first), (&third, &second)] {
        newer.continues(older).unwrap();
    }
    let mut dropped = make(5, &[200, 300]);
    dropped.drop_before(NonZeroU32::new(2).unwrap(), 300).unwrap();
    dropped.continues(&second).unwrap();
    // Older, another one, one that lacks the newest key, one with other keys under the same id.
    let text = |file: &KeyFile| content(&file.seal().unwrap(), &identity(1, IdentityKind::Classical));
    let stranger = text(&make(6, &[200])).replace(&make(6, &[]).id().to_string(), &second.id().to_string());
    let forged = opened(&stranger).unwrap();
    for (newer, older) in [(&first, &second), (&make(6, &[]), &first), (&dropped, &first), (&forged, &second)] {
        assert!(matches!(newer.continues(older), Err(KeyFileError::Another(_))));
    }
}
