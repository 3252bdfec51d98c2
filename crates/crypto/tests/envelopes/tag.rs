//! Keys whose P-256 half is in hardware: `p256tag` and `mlkem768p256tag`, by vectors (`spec/vectors/tag`) and by what
//! is asked of the device.

use crate::support::{SoftToken, identity, now, open, run, tag_key, vectors};
use bulla_crypto::BoxFuture;
use bulla_crypto::digest::{hmac_sha256, sha256};
use bulla_crypto::envelope::{self, Decrypter, OpenError, SealError};
use bulla_crypto::identity::{IdentityKind, P256Agreement, TagKey};
use bulla_crypto::kem::P256Point;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretKey;
use data_encoding::{BASE64_NOPAD, HEXLOWER};
use std::fmt::Write as _;
use std::sync::Arc;

/// The keys of `age-plugin-tagtest`, which age's own sources bring: DeriveKeyPair of that name, by RFC 9180 §7.1.3 and
/// by draft-ietf-hpke-pq.
pub const CLASSICAL: (&str, Option<&str>) = ("8dc9e8b609a4b6e8d8b41b853c64668789104b156ae642193a575f4b3f6b9148", None);
/// As [`CLASSICAL`], the hybrid.
pub const HYBRID: (&str, Option<&str>) = (
    "71dde28a4ba2b8e1cf086c112afae86ace9beb6c2567c52b670eafe14bb42e56",
    Some(concat!(
        "c08d945843f159d34919925793720aeaab3f7f3740ed095352d1aab6794e96a3",
        "597bc2a16031b66a0a9dce1057b8d9a1458ac56c8dae331d259c36c83706c2fb"
    )),
);
const TEXT: &[u8] = b"behind glass";

fn key((scalar, ml_kem_seed): (&str, Option<&str>)) -> (Arc<SoftToken>, TagKey) {
    tag_key(scalar, ml_kem_seed)
}

/// The tag, written down anew from the age specification.
fn tag(label: &str, encapsulated: &[u8], point: &[u8]) -> [u8; 4] {
    let hash = sha256(&[point]);
    hmac_sha256(label.as_bytes(), &[encapsulated, &hash[..4]])[..4].try_into().unwrap()
}

/// By what age 1.3.1 wrote. The example of p256tag in the specification's text has the tag of an earlier draft.
#[test]
fn the_tag_is_that_of_age() {
    for (name, halves) in [("p256tag_sealed_by_age", CLASSICAL), ("mlkem768p256tag_sealed_by_age", HYBRID)] {
        let vector = std::fs::read(vectors("tag").join(name)).unwrap();
        let start = vector.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
        let written = Parts::of(&vector[start..]);
        let tag = written.tag.clone();
        let (token, own) = key(halves);
        assert_eq!(written.retag(&own, &token).tag, tag);
    }
}

#[test]
fn what_is_sealed_opens_with_one_agreement() {
    for halves in [CLASSICAL, HYBRID] {
        let (token, key) = key(halves);
        assert_eq!(key.recipients(), std::slice::from_ref(key.recipient()));
        assert_eq!(key.recipient().as_str().parse::<Recipient>().unwrap(), *key.recipient());
        let file = envelope::seal(key.recipients(), None, TEXT).unwrap();
        let opened = now(envelope::open(&[&key], &file, 100)).unwrap();
        assert_eq!((opened.plaintext.expose().as_slice(), token.asked()), (TEXT, 1));
    }
}

/// A person touches the device for what is theirs, and for nothing else.
#[test]
fn nobody_is_asked_for_what_is_for_others() {
    let (own, key_of_own) = tag_key(&"42".repeat(32), None);
    let (hybrid, key_of_hybrid) = tag_key(&"42".repeat(32), Some(&"43".repeat(64)));
    let others = [key(CLASSICAL).1.recipient().clone(), identity(IdentityKind::Classical, 1).recipients()[0].clone()];
    let file = envelope::seal(&others, None, TEXT).unwrap();
    let keys: [&dyn Decrypter; 2] = [&key_of_own, &key_of_hybrid];
    assert!(matches!(now(envelope::open(&keys, &file, 100)), Err(OpenError::NoMatch)));
    // The same point in another kind of stanza, and the same ML-KEM half with another point.
    let (_, same_ml_kem) = tag_key(&"44".repeat(32), Some(&"43".repeat(64)));
    let file = envelope::seal(same_ml_kem.recipients(), None, TEXT).unwrap();
    assert!(matches!(now(envelope::open(&keys, &file, 100)), Err(OpenError::NoMatch)));
    let file = envelope::seal(key_of_hybrid.recipients(), None, TEXT).unwrap();
    assert!(matches!(now(envelope::open(&[&key_of_own], &file, 100)), Err(OpenError::NoMatch)));
    assert_eq!((own.asked(), hybrid.asked()), (0, 0));
    // Among many, one agreement; twice to one key, still one.
    let all = [others.as_slice(), key_of_own.recipients(), key_of_own.recipients()].concat();
    let file = envelope::seal(&all, None, TEXT).unwrap();
    assert!(now(envelope::open(&keys, &file, 100)).is_ok());
    assert_eq!((own.asked(), hybrid.asked()), (1, 0));
}

#[test]
fn hybrids_go_together_and_not_with_classical_keys() {
    let classical =
        [key(CLASSICAL).1.recipient().clone(), identity(IdentityKind::Classical, 1).recipients()[0].clone()];
    let own = identity(IdentityKind::Hybrid, 1);
    let hybrid = [key(HYBRID).1.recipient().clone(), own.recipients()[0].clone()];
    assert!(envelope::seal(&classical, None, TEXT).is_ok());
    let file = envelope::seal(&hybrid, None, TEXT).unwrap();
    assert_eq!(open(&own, &file).unwrap().plaintext.expose(), TEXT);
    assert!(now(envelope::open(&[&key(HYBRID).1], &file, 100)).is_ok());
    for (one, other) in [(0, 0), (0, 1), (1, 0)] {
        let mixed = [hybrid[one].clone(), classical[other].clone()];
        match envelope::seal(&mixed, None, TEXT) {
            Err(SealError::MixedRecipients { classical: named }) => assert_eq!(named, [classical[other].clone()]),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_device_that_refuses_is_no_missing_key() {
    struct Refuses(P256Point);
    impl P256Agreement for Refuses {
        fn public_key(&self) -> &P256Point {
            &self.0
        }
        fn agree<'a>(&'a self, _: &'a P256Point) -> BoxFuture<'a, Result<SecretKey, OpenError>> {
            Box::pin(std::future::ready(Err(OpenError::Key("not touched in time".to_owned()))))
        }
    }
    let (token, own) = key(CLASSICAL);
    let refuses = TagKey::new(Arc::new(Refuses(*token.public_key())), None).unwrap();
    assert_eq!(refuses.recipient(), own.recipient());
    let file = envelope::seal(own.recipients(), None, TEXT).unwrap();
    match now(envelope::open(&[&refuses, &own], &file, 100)) {
        Err(OpenError::Key(said)) => assert_eq!(said, "not touched in time"),
        other => panic!("{other:?}"),
    }
}

/// Four bytes of tag collide, or are forged by anybody who knows the recipient. The next stanza and the next key are
/// tried; but not for ever, since each may cost a touch.
#[test]
fn a_tag_that_lies_ends_nothing_and_costs_little() {
    for halves in [CLASSICAL, HYBRID] {
        let (other, key_of_other) = key(halves);
        let (token, own) = key(halves);
        let sealed = |times: usize| envelope::seal(&vec![own.recipient().clone(); times], None, TEXT).unwrap();

        other.lie(1);
        let opened = now(envelope::open(&[&key_of_other, &own], &sealed(1), 100)).unwrap();
        assert_eq!((opened.plaintext.expose().as_slice(), other.asked(), token.asked()), (TEXT, 1, 1));

        token.lie(3);
        assert!(now(envelope::open(&[&own], &sealed(4), 100)).is_ok());
        assert_eq!(token.asked(), 1 + 4);

        token.lie(usize::MAX);
        assert!(matches!(now(envelope::open(&[&own], &sealed(4), 100)), Err(OpenError::NoMatch)));
        assert_eq!(token.asked(), 5 + 4);
        assert!(matches!(now(envelope::open(&[&own], &sealed(5), 100)), Err(OpenError::Header(_))));
        assert_eq!(token.asked(), 9 + 4);
    }
}

/// How a vector ends.
fn end(result: &Result<envelope::Opened, OpenError>) -> &'static str {
    match result {
        Ok(_) => "success",
        Err(OpenError::Header(_)) => "header failure",
        Err(OpenError::Mac) => "HMAC failure",
        Err(OpenError::NoMatch) => "no match",
        Err(error) => panic!("no vector may end so: {error}"),
    }
}

#[test]
fn every_vector_ends_as_stated() {
    let mut seen = 0;
    for entry in std::fs::read_dir(vectors("tag")).expect("the vectors are in the repository") {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().contains("p256tag_") {
            continue;
        }
        seen += 1;
        let bytes = std::fs::read(&path).unwrap();
        let split = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
        let head = std::str::from_utf8(&bytes[..split]).unwrap();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let (token, own) = tag_key(field("p256").unwrap(), field("ml-kem seed"));
        assert_eq!(own.recipient().as_str(), field("recipient").unwrap(), "{path:?}");
        let result = now(envelope::open(&[&own], &bytes[split + 2..], 100));
        assert_eq!(end(&result), field("expect").unwrap(), "{path:?}: {result:?}");
        assert_eq!(token.asked().to_string(), field("agreements").unwrap(), "{path:?}");
        let payload = result.ok().map(|opened| HEXLOWER.encode(&sha256(&[opened.plaintext.expose()])));
        assert_eq!(payload.as_deref(), field("payload"), "{path:?}");
    }
    assert_eq!(seen, VECTORS);
}

/// How many files there are.
const VECTORS: usize = 42;

/// The first stanza of a file: kind, tag, encapsulated key, body; and what follows it.
struct Parts {
    kind: String,
    tag: Vec<u8>,
    encapsulated: Vec<u8>,
    body: Vec<u8>,
    rest: Vec<u8>,
}

impl Parts {
    fn of(file: &[u8]) -> Self {
        let version = b"age-encryption.org/v1\n";
        let end = file.windows(5).position(|five| five == b"\n--- ").unwrap() + 1;
        let head = std::str::from_utf8(&file[version.len()..end]).unwrap();
        let (words, body) = head.split_once('\n').unwrap();
        let words: Vec<&str> = words.split(' ').collect();
        let decode = |text: &str| BASE64_NOPAD.decode(text.as_bytes()).unwrap();
        let [_, kind, tag, encapsulated] = words.as_slice() else { panic!("{words:?}") };
        Self {
            kind: (*kind).to_owned(),
            tag: decode(tag),
            encapsulated: decode(encapsulated),
            body: decode(body.trim_end()),
            rest: file[end..].to_vec(),
        }
    }

    fn words(&self) -> [String; 3] {
        [self.kind.clone(), BASE64_NOPAD.encode(&self.tag), BASE64_NOPAD.encode(&self.encapsulated)]
    }

    /// The stanza with these words.
    fn stanza(&self, words: &[String]) -> String {
        let body = BASE64_NOPAD.encode(&self.body);
        let (line, rest) = body.split_at(body.len().min(64));
        format!("-> {}\n{line}\n{}", words.join(" "), if rest.is_empty() { String::new() } else { format!("{rest}\n") })
    }

    fn file(&self, stanzas: &[String]) -> Vec<u8> {
        [b"age-encryption.org/v1\n", stanzas.concat().as_bytes(), &self.rest].concat()
    }

    /// The tag that fits.
    fn retag(mut self, key: &TagKey, token: &SoftToken) -> Self {
        let point = token.public_key();
        let recipient = key.recipient();
        self.tag = if recipient.is_hybrid() {
            tag("age-encryption.org/mlkem768p256tag", &self.encapsulated, point.uncompressed()).to_vec()
        } else {
            tag("age-encryption.org/p256tag", &self.encapsulated, &point.compressed()).to_vec()
        };
        self
    }
}

/// A second spelling of canonical base64: the last symbol with its spare bits set.
fn spelled_otherwise(text: &str) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (front, last) = text.split_at(text.len() - 1);
    let place = alphabet.iter().position(|symbol| *symbol == last.as_bytes()[0]).unwrap();
    format!("{front}{}", char::from(alphabet[place | 1]))
}

/// The vectors of one kind: name, end, agreements, what it is, file.
fn made(halves: (&str, Option<&str>)) -> Vec<(&'static str, &'static str, usize, &'static str, Vec<u8>)> {
    let (token, own) = key(halves);
    let ours = envelope::seal(own.recipients(), None, TEXT).unwrap();
    let twice = envelope::seal(&[own.recipients(), own.recipients()].concat(), None, TEXT).unwrap();
    let age = std::env::var_os("BULLA_TEST_AGE").unwrap();
    let theirs = run(age.as_ref(), &["-r", own.recipient().as_str()], None, TEXT);
    let other = tag_key(&"42".repeat(32), halves.1).1;
    let foreign = envelope::seal(other.recipients(), None, TEXT).unwrap();
    let parts = || Parts::of(&ours);
    let [kind, tag_word, enc_word] = parts().words();
    let words = |words: &[&str]| {
        parts().file(&[parts().stanza(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())])
    };
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts();
        change(&mut parts);
        let parts = parts.retag(&own, &token);
        parts.file(&[parts.stanza(&parts.words())])
    };
    let forged = || {
        let mut parts = parts();
        parts.body = vec![7; 32];
        parts.stanza(&parts.words())
    };
    let cut = |bytes: &[u8]| BASE64_NOPAD.encode(&bytes[..bytes.len() - 1]);
    let longer = |bytes: &[u8]| BASE64_NOPAD.encode(&[bytes, &[0]].concat());
    vec![
        ("sealed", "success", 1, "", ours.clone()),
        ("sealed_by_age", "success", 1, "by age 1.3.1", theirs),
        ("twice", "success", 1, "two stanzas for the key: the first opens", twice),
        ("other_key", "no match", 0, "another P-256 key, so another tag", foreign),
        ("wrong_tag", "no match", 0, "", words(&[&kind, &BASE64_NOPAD.encode(&[0; 4]), &enc_word])),
        ("short_tag", "header failure", 0, "", words(&[&kind, &cut(&parts().tag), &enc_word])),
        ("long_tag", "header failure", 0, "", words(&[&kind, &longer(&parts().tag), &enc_word])),
        ("not_canonical_tag", "header failure", 0, "", words(&[&kind, &spelled_otherwise(&tag_word), &enc_word])),
        ("short_enc", "header failure", 0, "", words(&[&kind, &tag_word, &cut(&parts().encapsulated)])),
        ("long_enc", "header failure", 0, "", words(&[&kind, &tag_word, &longer(&parts().encapsulated)])),
        ("missing_enc", "header failure", 0, "", words(&[&kind, &tag_word])),
        ("extra_argument", "header failure", 0, "", words(&[&kind, &tag_word, &enc_word, "x"])),
        ("uppercase", "no match", 0, "another kind", words(&[&kind.to_uppercase(), &tag_word, &enc_word])),
        ("short_body", "header failure", 0, "", changed(&|parts| parts.body.truncate(31))),
        ("long_body", "header failure", 0, "", changed(&|parts| parts.body.push(0))),
        ("bad_body", "no match", 1, "does not open: the tag may collide", changed(&|parts| parts.body[0] ^= 1)),
        ("off_curve", "header failure", 0, "", changed(&|parts| *parts.encapsulated.last_mut().unwrap() ^= 1)),
        (
            "hybrid_form",
            "header failure",
            0,
            "SEC 1's 06 or 07 ‖ x ‖ y",
            changed(&|parts| {
                let start = parts.encapsulated.len() - 65;
                parts.encapsulated[start] = 6 | parts.encapsulated.last().unwrap() & 1;
            }),
        ),
        ("collision", "HMAC failure", 2, "a forged stanza, then the true one; the MAC is not made anew", {
            parts().file(&[forged(), parts().stanza(&parts().words())])
        }),
        ("five_claims", "header failure", 4, "at most four stanzas are tried", {
            parts().file(&[forged(), forged(), forged(), forged(), forged()])
        }),
    ]
}

#[test]
#[ignore = "writes spec/vectors/tag; BULLA_TEST_AGE names age 1.3.1"]
fn write_vectors() {
    for halves in [CLASSICAL, HYBRID] {
        let (_, own) = key(halves);
        let mut vectors_of_kind = made(halves);
        if let (_, Some(_)) = halves {
            let mut parts = Parts::of(&vectors_of_kind[0].4);
            parts.encapsulated[0] ^= 1;
            let parts = parts.retag(&own, &key(halves).0);
            let file = parts.file(&[parts.stanza(&parts.words())]);
            vectors_of_kind.push(("bad_ml_kem", "no match", 1, "ML-KEM rejects implicitly", file));
        } else {
            let mut parts = Parts::of(&vectors_of_kind[0].4);
            parts.encapsulated = P256Point::from_uncompressed(&parts.encapsulated).unwrap().compressed().to_vec();
            let parts = parts.retag(&own, &key(halves).0);
            let file = parts.file(&[parts.stanza(&parts.words())]);
            vectors_of_kind.push(("compressed_enc", "header failure", 0, "", file));
        }
        let name_of_kind = if halves.1.is_some() { "mlkem768p256tag" } else { "p256tag" };
        for (name, expect, agreements, comment, file) in vectors_of_kind {
            let mut head = format!("expect: {expect}\nagreements: {agreements}\n");
            if expect == "success" {
                writeln!(head, "payload: {}", HEXLOWER.encode(&sha256(&[TEXT]))).unwrap();
            }
            writeln!(head, "recipient: {}\np256: {}", own.recipient(), halves.0).unwrap();
            if let Some(seed) = halves.1 {
                writeln!(head, "ml-kem seed: {seed}").unwrap();
            }
            if !comment.is_empty() {
                writeln!(head, "comment: {comment}").unwrap();
            }
            let path = vectors("tag").join(format!("{name_of_kind}_{name}"));
            std::fs::write(path, [head.as_bytes(), b"\n", &file].concat()).unwrap();
        }
    }
}
