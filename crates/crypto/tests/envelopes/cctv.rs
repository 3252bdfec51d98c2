//! The 143 published age vectors (`spec/vectors/age-cctv`).

use crate::support::{now, vectors};
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{self, Decrypter, OpenError};
use bulla_crypto::identity::Identity;
use bulla_crypto::sign::RsaMinimum;
use std::collections::BTreeMap;
use std::io::Read as _;

/// What a vector expects, or what we did.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Success,
    Armor,
    Header,
    Mac,
    NoMatch,
    Payload,
    /// Not among the published classes: Bulla refuses passphrases before it looks at anything else.
    Passphrase,
}

/// Where Bulla ends otherwise than the vector expects, by name, and how.
///
/// - Every file with a well-formed passphrase stanza is refused as such, whether it could be opened or not.
/// - Armor is not taken: all armored files are refused by their first line ([`ARMORED`] of them, not listed).
const EXCEPTIONS: &[(&str, End)] = &[
    ("scrypt", End::Passphrase),
    ("scrypt_and_x25519", End::Passphrase),
    ("scrypt_bad_tag", End::Passphrase),
    ("scrypt_double", End::Passphrase),
    ("scrypt_extra_argument", End::Passphrase),
    ("scrypt_long_file_key", End::Passphrase),
    ("scrypt_no_match", End::Passphrase),
    ("scrypt_not_canonical_salt", End::Passphrase),
    ("scrypt_salt_long", End::Passphrase),
    ("scrypt_salt_missing", End::Passphrase),
    ("scrypt_salt_short", End::Passphrase),
    ("scrypt_work_factor_23", End::Passphrase),
    ("scrypt_work_factor_hex", End::Passphrase),
    ("scrypt_work_factor_leading_garbage", End::Passphrase),
    ("scrypt_work_factor_leading_plus", End::Passphrase),
    ("scrypt_work_factor_leading_zero_decimal", End::Passphrase),
    ("scrypt_work_factor_leading_zero_octal", End::Passphrase),
    ("scrypt_work_factor_missing", End::Passphrase),
    ("scrypt_work_factor_negative", End::Passphrase),
    ("scrypt_work_factor_overflow", End::Passphrase),
    ("scrypt_work_factor_trailing_garbage", End::Passphrase),
    ("scrypt_work_factor_wrong", End::Passphrase),
    ("scrypt_work_factor_zero", End::Passphrase),
];

/// How many of the vectors are armored.
const ARMORED: usize = 33;

struct Vector {
    expect: End,
    payload: Option<String>,
    identities: Vec<Identity>,
    armored: bool,
    file: Vec<u8>,
}

fn parse(bytes: &[u8]) -> Vector {
    let split = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
    let (head, body) = bytes.split_at(split);
    let body = body.get(2..).unwrap();
    let mut vector =
        Vector { expect: End::Success, payload: None, identities: Vec::new(), armored: false, file: body.to_vec() };
    for line in std::str::from_utf8(head).unwrap().lines() {
        match line.split_once(": ").unwrap() {
            ("expect", "success") => vector.expect = End::Success,
            ("expect", "armor failure") => vector.expect = End::Armor,
            ("expect", "header failure") => vector.expect = End::Header,
            ("expect", "HMAC failure") => vector.expect = End::Mac,
            ("expect", "no match") => vector.expect = End::NoMatch,
            ("expect", "payload failure") => vector.expect = End::Payload,
            ("payload", hash) => vector.payload = Some(hash.to_owned()),
            ("identity", text) => {
                let identity = Identity::parse(text.as_bytes(), RsaMinimum::Bits3072, &|| None).unwrap();
                vector.identities.push(identity);
            }
            ("armored", "yes") => vector.armored = true,
            ("compressed", "zlib") => {
                vector.file.clear();
                flate2::read::ZlibDecoder::new(body).read_to_end(&mut vector.file).unwrap();
            }
            ("file key" | "passphrase" | "comment", _) => {}
            other => panic!("unknown line {other:?}"),
        }
    }
    vector
}

fn end(error: &OpenError) -> End {
    match error {
        OpenError::Header(_) => End::Header,
        OpenError::Passphrase => End::Passphrase,
        OpenError::Mac => End::Mac,
        OpenError::NoMatch => End::NoMatch,
        OpenError::Payload => End::Payload,
        OpenError::Binding(_)
        | OpenError::TooLarge { .. }
        | OpenError::Key(_)
        | OpenError::Crypto(_)
        | OpenError::Io(_) => panic!("no vector may end so: {error}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens the vector in one piece and as a stream; both must end alike. Returns the end and the SHA-256 of
/// what the stream released.
fn run(vector: &Vector) -> (End, String) {
    let file = vector.file.as_slice();
    let keys: Vec<&dyn Decrypter> = vector.identities.iter().map(|identity| identity as &dyn Decrypter).collect();
    let whole = now(envelope::open(&keys, file, 64 << 20));
    let mut released = Vec::new();
    let streamed = now(envelope::open_to(&keys, file, &mut released));
    let stream_end = streamed.as_ref().map_or_else(end, |_| End::Success);
    match &whole {
        Ok(opened) => {
            assert_eq!(stream_end, End::Success);
            assert_eq!(opened.plaintext.expose(), &released);
        }
        Err(error) => assert_eq!(end(error), stream_end, "whole: {error}"),
    }
    (stream_end, hex(&sha256(&[&released])))
}

#[test]
fn every_vector_ends_as_published_or_as_listed() {
    let exceptions: BTreeMap<_, _> = EXCEPTIONS.iter().cloned().collect();
    let (mut seen, mut armored) = (0, 0);
    let mut wrong = Vec::new();
    let mut used = Vec::new();
    for entry in std::fs::read_dir(vectors("age-cctv")).expect("the vectors are in the repository") {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "README.md" || name == ".gitattributes" {
            continue;
        }
        seen += 1;
        let vector = parse(&std::fs::read(&path).unwrap());
        let (got, released) = run(&vector);
        armored += usize::from(vector.armored);
        let otherwise = if vector.armored { Some(&End::Header) } else { exceptions.get(name.as_str()) };
        let expected = otherwise.unwrap_or(&vector.expect);
        if exceptions.contains_key(name.as_str()) {
            assert_ne!(*expected, vector.expect, "{name} is no exception");
            used.push(name.clone());
        }
        if got != *expected {
            wrong.push(format!("{name}: expected {expected:?}, got {got:?}"));
        } else if matches!(got, End::Success | End::Payload) && vector.payload.as_deref() != Some(released.as_str()) {
            wrong.push(format!("{name}: released other bytes than published"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!((seen, armored), (143, ARMORED));
    assert_eq!(used.len(), EXCEPTIONS.len());
}
