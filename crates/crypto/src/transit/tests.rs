use super::*;
use crate::random::{SeededRng, SystemRng};
use bulla_wire::api::Versioned;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

const ORDERS: Place<'_> = Place { name: "orders", version: 1 };

/// A key of each kind, made once: RSA takes long.
fn key(kind: KeyKind) -> TransitKey {
    TransitKey::parse(kind, &bytes(kind)).unwrap()
}

fn bytes(kind: KeyKind) -> Vec<u8> {
    static KEYS: OnceLock<Mutex<BTreeMap<&'static str, Vec<u8>>>> = OnceLock::new();
    let mut keys = KEYS.get_or_init(Mutex::default).lock().unwrap();
    let make = || generate(kind, &mut SystemRng).unwrap().expose().clone();
    keys.entry(kind.as_str()).or_insert_with(make).clone()
}

fn encrypting() -> impl Iterator<Item = KeyKind> {
    KeyKind::ALL.iter().copied().filter(|kind| kind.encrypts() && *kind != KeyKind::Rsa4096)
}

fn signing() -> impl Iterator<Item = KeyKind> {
    KeyKind::ALL.iter().copied().filter(|kind| kind.signs() && *kind != KeyKind::Rsa4096)
}

#[test]
fn what_is_encrypted_opens_in_its_place_alone() {
    for kind in encrypting() {
        let key = key(kind);
        for length in [0, 1, 16, 100] {
            let plaintext = vec![7; length];
            let made = key.encrypt(ORDERS, b"row 1", &plaintext, &mut SystemRng).unwrap();
            assert_eq!(key.decrypt(ORDERS, b"row 1", &made).unwrap().expose(), &plaintext, "{kind}");
        }
        let made = key.encrypt(ORDERS, b"row 1", b"secret", &mut SystemRng).unwrap();
        let other = TransitError::OtherKey;
        for place in [Place { version: 2, ..ORDERS }, Place { name: "order", ..ORDERS }] {
            assert_eq!(key.decrypt(place, b"row 1", &made).unwrap_err(), other, "{kind} {place:?}");
        }
        for associated_data in [&b""[..], b"row 2", b"row 1 "] {
            assert_eq!(key.decrypt(ORDERS, associated_data, &made).unwrap_err(), TransitError::Damaged, "{kind}");
        }
        let stranger =
            if kind.is_rsa() { generate(kind, &mut SystemRng).unwrap() } else { SecretBytes::new(vec![9; 32]) };
        let stranger = TransitKey::parse(kind, stranger.expose()).unwrap();
        assert_eq!(stranger.decrypt(ORDERS, b"row 1", &made).unwrap_err(), other, "{kind}");
    }
}

/// PKCS#8 may carry attributes, which the library passes over.
#[test]
fn a_key_is_as_long_as_its_kind() {
    let key = bytes(KeyKind::Rsa2048);
    assert_eq!(TransitKey::parse(KeyKind::Rsa3072, &key).unwrap_err(), TransitError::NoKey);
    let long = [&key[..], &vec![0; MAX_KEY_BYTES]].concat();
    assert_eq!(TransitKey::parse(KeyKind::Rsa2048, &long).unwrap_err(), TransitError::NoKey);
}

/// The same bytes under the other cipher are another key.
#[test]
fn a_key_taken_for_one_use_does_that_and_nothing_else() {
    let bytes = bytes(KeyKind::Rsa2048);
    let take = |taken_for| TransitKey::parse_for(taken_for, KeyKind::Rsa2048, &bytes).unwrap();
    let (encrypts, signs, any) = (take(Use::Encrypt), take(Use::Sign), take(Use::Any));
    let made = signs.encrypt(ORDERS, b"", b"text", &mut SystemRng).unwrap();
    for key in [&encrypts, &any] {
        assert_eq!(key.decrypt(ORDERS, b"", &made).unwrap().expose(), b"text");
    }
    assert_eq!(signs.decrypt(ORDERS, b"", &made).unwrap_err(), TransitError::WrongKind);
    let message = Signed::Message(b"text");
    for key in [&signs, &any] {
        let signature = key.sign(message, None).unwrap();
        assert!(encrypts.verify(message, None, &signature).unwrap());
    }
    assert_eq!(encrypts.sign(message, None).unwrap_err(), TransitError::WrongKind);
    for taken_for in [Use::Encrypt, Use::Sign] {
        assert!(TransitKey::parse_for(taken_for, KeyKind::Rsa3072, &bytes).is_err());
    }
}

#[test]
fn a_cipher_is_part_of_the_place() {
    let (aes, chacha) = (KeyKind::Aes256Gcm, KeyKind::ChaCha20Poly1305);
    let made = TransitKey::parse(aes, &[1; 32]).unwrap().encrypt(ORDERS, b"", b"x", &mut SystemRng).unwrap();
    let other = TransitKey::parse(chacha, &[1; 32]).unwrap();
    assert_eq!(other.decrypt(ORDERS, b"", &made).unwrap_err(), TransitError::OtherKey);
}

#[test]
fn every_bit_and_every_cut_is_noticed() {
    for kind in [KeyKind::Aes256Gcm, KeyKind::ChaCha20Poly1305] {
        let key = key(kind);
        let made = key.encrypt(ORDERS, b"", b"text", &mut SystemRng).unwrap();
        assert_eq!(made.len(), 4 + HEAD_LEN + TAG_LEN);
        for place in 0..made.len() {
            for bit in 0..8 {
                let mut bent = made.clone();
                bent[place] ^= 1 << bit;
                let expected = if place < HEAD_LEN { TransitError::OtherKey } else { TransitError::Damaged };
                assert_eq!(key.decrypt(ORDERS, b"", &bent).unwrap_err(), expected, "{kind} {place}");
            }
            assert_eq!(key.decrypt(ORDERS, b"", &made[..place]).unwrap_err(), TransitError::Damaged, "{kind} {place}");
        }
        let longer = [&made[..], &[0]].concat();
        assert_eq!(key.decrypt(ORDERS, b"", &longer).unwrap_err(), TransitError::Damaged);
    }
    let key = key(KeyKind::Rsa2048);
    let made = key.encrypt(ORDERS, b"", b"text", &mut SystemRng).unwrap();
    for place in (0..made.len()).step_by(17) {
        let mut bent = made.clone();
        bent[place] ^= 1;
        let expected = if place < RSA_ID_LEN { TransitError::OtherKey } else { TransitError::Damaged };
        assert_eq!(key.decrypt(ORDERS, b"", &bent).unwrap_err(), expected);
        assert_eq!(key.decrypt(ORDERS, b"", &made[..place]).unwrap_err(), TransitError::Damaged);
    }
}

#[test]
fn equal_plaintexts_have_nothing_in_common() {
    let key = key(KeyKind::Aes256Gcm);
    let mut rng = SeededRng::from_u64(4);
    let first = key.encrypt(ORDERS, b"", &[0; 64], &mut rng).unwrap();
    let second = key.encrypt(ORDERS, b"", &[0; 64], &mut rng).unwrap();
    assert!(first.chunks(16).all(|chunk| second.chunks(16).all(|other| chunk != other)));
}

#[test]
fn rsa_takes_what_fits() {
    for (kind, max) in [(KeyKind::Rsa2048, 190), (KeyKind::Rsa3072, 318)] {
        let key = key(kind);
        let made = key.encrypt(ORDERS, b"", &vec![1; max], &mut SystemRng).unwrap();
        assert_eq!(key.decrypt(ORDERS, b"", &made).unwrap().expose().len(), max);
        let refused = key.encrypt(ORDERS, b"", &vec![1; max + 1], &mut SystemRng).unwrap_err();
        assert_eq!(refused, TransitError::TooLong { max });
    }
}

#[test]
fn a_signature_holds_for_its_message_and_digest() {
    use DigestAlgorithm::{Sha256, Sha384, Sha512};
    let message = b"the message";
    for kind in signing() {
        let key = key(kind);
        let own: &[Option<DigestAlgorithm>] = match kind {
            KeyKind::Ed25519 => &[None],
            KeyKind::EcdsaP256 => &[None, Some(Sha256)],
            KeyKind::EcdsaP384 => &[None, Some(Sha384)],
            _ => &[None, Some(Sha256), Some(Sha384), Some(Sha512)],
        };
        for with in own {
            let signature = key.sign(Signed::Message(message), *with).unwrap();
            assert_eq!(key.verify(Signed::Message(message), *with, &signature), Ok(true), "{kind} {with:?}");
            assert_eq!(key.verify(Signed::Message(b"other"), *with, &signature), Ok(false), "{kind} {with:?}");
            assert_eq!(key.verify(Signed::Message(message), *with, &signature[1..]), Ok(false), "{kind} {with:?}");
            let mut bent = signature.clone();
            bent[40] ^= 1;
            assert_eq!(key.verify(Signed::Message(message), *with, &bent), Ok(false), "{kind} {with:?}");
            let Some(with) = *with else { continue };
            let digest = match with {
                Sha256 => digest(&SHA256, message),
                Sha384 => digest(&SHA384, message),
                Sha512 => digest(&SHA512, message),
            };
            let digest = digest.as_ref();
            assert_eq!(key.verify(Signed::Digest(digest), Some(with), &signature), Ok(true), "{kind} {with}");
            let signature = key.sign(Signed::Digest(digest), Some(with)).unwrap();
            assert_eq!(key.verify(Signed::Message(message), Some(with), &signature), Ok(true), "{kind} {with}");
            let short = Signed::Digest(&digest[1..]);
            assert_eq!(key.sign(short, Some(with)).unwrap_err(), TransitError::DigestLength, "{kind} {with}");
            assert_eq!(key.verify(short, Some(with), &signature).unwrap_err(), TransitError::DigestLength);
        }
        for with in [Some(Sha256), Some(Sha384), Some(Sha512)].iter().filter(|with| !own.contains(with)) {
            assert_eq!(key.sign(Signed::Message(message), *with).unwrap_err(), TransitError::WrongDigest, "{kind}");
            assert_eq!(key.verify(Signed::Message(message), *with, &[0; 64]).unwrap_err(), TransitError::WrongDigest);
        }
    }
    // RSA signatures of one digest do not hold for another.
    let rsa = key(KeyKind::Rsa2048);
    let signature = rsa.sign(Signed::Message(message), Some(Sha256)).unwrap();
    assert_eq!(rsa.verify(Signed::Message(message), Some(Sha512), &signature), Ok(false));
}

/// What this signs is what the rest of the world calls a signature of that kind.
#[test]
fn signatures_are_those_of_the_verifying_key() {
    let key = key(KeyKind::Ed25519);
    let signature = key.sign(Signed::Message(b"x"), None).unwrap();
    assert!(key.public_key().unwrap().verify(b"x", &signature).is_ok());
    for kind in [KeyKind::EcdsaP256, KeyKind::EcdsaP384] {
        let key = super::tests::key(kind);
        let signature = key.sign(Signed::Message(b"x"), None).unwrap();
        assert!(key.public_key().unwrap().verify(b"x", &signature).is_ok());
    }
    let key = super::tests::key(KeyKind::Rsa3072);
    let signature = key.sign(Signed::Message(b"x"), Some(DigestAlgorithm::Sha512)).unwrap();
    assert!(key.public_key().unwrap().verify(b"x", &signature).is_ok());
}

#[test]
fn a_mac_is_hmac_sha256() {
    // RFC 4231 case 6 has a longer key; case 2 a shorter one, which is refused.
    assert_eq!(TransitKey::parse(KeyKind::HmacSha256, b"Jefe").unwrap_err(), TransitError::NoKey);
    let key = TransitKey::parse(KeyKind::HmacSha256, &[0x0b; 40]).unwrap();
    let mac = key.hmac(b"Hi There").unwrap();
    assert_eq!(mac, hmac_sha256(&[0x0b; 40], &[b"Hi There"]));
    assert_eq!(key.verify_hmac(b"Hi There", &mac), Ok(true));
    for (message, mac) in [(&b"Hi There"[..], &mac[..31]), (b"Hi there", &mac), (b"Hi There", &[])] {
        assert_eq!(key.verify_hmac(message, mac), Ok(false));
    }
}

#[test]
fn a_kind_does_what_it_is_for() {
    for kind in KeyKind::ALL.iter().copied().filter(|kind| *kind != KeyKind::Rsa4096) {
        let key = key(kind);
        assert_eq!(key.encrypt(ORDERS, b"", b"x", &mut SystemRng).is_ok(), kind.encrypts(), "{kind}");
        assert_eq!(key.sign(Signed::Message(b"x"), None).is_ok(), kind.signs(), "{kind}");
        assert_eq!(key.public_key().is_some(), kind.signs(), "{kind}");
        assert_eq!(key.hmac(b"x").is_ok(), kind == KeyKind::HmacSha256, "{kind}");
        assert!(!format!("{key:?}").contains("Secret"));
        let wrong = TransitError::WrongKind;
        if !kind.encrypts() {
            assert_eq!(key.decrypt(ORDERS, b"", &[0; 100]).unwrap_err(), wrong);
        }
        if !kind.signs() {
            assert_eq!(key.verify(Signed::Message(b"x"), None, &[0; 64]).unwrap_err(), wrong);
        }
    }
}

#[test]
fn bytes_of_another_kind_are_no_key() {
    let kinds = || KeyKind::ALL.iter().copied().filter(|kind| *kind != KeyKind::Rsa4096);
    for made in kinds() {
        let bytes = bytes(made);
        for kind in KeyKind::ALL {
            // Symmetric keys and HMAC keys are any bytes of their lengths.
            let raw = |bytes: &[u8]| match kind {
                KeyKind::HmacSha256 => (32..=64).contains(&bytes.len()),
                _ => !kind.signs() && bytes.len() == 32,
            };
            assert_eq!(TransitKey::parse(*kind, &bytes).is_ok(), *kind == made || raw(&bytes), "{made} as {kind}");
            for bad in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
                assert_eq!(TransitKey::parse(*kind, bad).is_ok(), raw(bad), "{made} as {kind}");
            }
        }
    }
}

#[test]
fn ecdsa_as_der() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1};
    let check = |kind: KeyKind, algorithm: &'static dyn VerificationAlgorithm| {
        let key = key(kind);
        // Enough that leading zeros and high bits occur.
        for number in 0..300_u32 {
            let message = number.to_be_bytes();
            let signature = key.sign(Signed::Message(&message), None).unwrap();
            let der = ecdsa_der(&signature).unwrap();
            let public = UnparsedPublicKey::new(algorithm, key.public_key().unwrap().spki());
            public.verify(&message, &der).unwrap();
        }
    };
    check(KeyKind::EcdsaP256, &ECDSA_P256_SHA256_ASN1);
    check(KeyKind::EcdsaP384, &ECDSA_P384_SHA384_ASN1);
    assert!(ecdsa_der(&[1; 63]).is_none());
    let mut small = [0; 64];
    (small[31], small[63]) = (0x7f, 0x80);
    assert_eq!(ecdsa_der(&small).unwrap(), [0x30, 7, 2, 1, 0x7f, 2, 2, 0, 0x80]);
}

/// The format, spelled out a second time with the primitives alone.
#[test]
fn the_format_is_the_documented_one() {
    let key = TransitKey::parse(KeyKind::Aes256Gcm, &[1; 32]).unwrap();
    let made = key.encrypt(ORDERS, b"row", b"text", &mut SeededRng::new([9; 32])).unwrap();
    let salt: [u8; 32] = draw(&mut SeededRng::new([9; 32]));
    let info = [b"bulla/v1/transit".as_slice(), b"\0\0\0\x0aaes256-gcm", b"\0\0\0\x06orders", b"\0\0\0\x04\0\0\0\x01"]
        .concat();
    let derived: Secret<[u8; 64]> = hkdf_sha256(&[1; 32], &salt, &info);
    let (aead, commitment) = derived.expose().split_at(32);
    let mut body = b"text".to_vec();
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, aead).unwrap())
        .seal_in_place_append_tag(zero(), Aad::from(b"row"), &mut body)
        .unwrap();
    assert_eq!(made, [&salt[..], commitment, &body].concat());
}

fn vectors(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/transit").join(file)
}

fn publish(file: &str, cases: &[Value]) {
    std::fs::create_dir_all(vectors("")).unwrap();
    let lines: Vec<_> = cases.iter().map(Value::to_string).collect();
    std::fs::write(vectors(file), format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
}

fn published(file: &str) -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(vectors(file)).unwrap()).unwrap()
}

fn word(error: TransitError) -> &'static str {
    match error {
        TransitError::OtherKey => "ciphertext_of_other_key",
        TransitError::Damaged => "ciphertext_damaged",
        other => panic!("{other:?}"),
    }
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap()
}

fn decoded(case: &Value, field: &str) -> Vec<u8> {
    HEXLOWER.decode(text(case, field).as_bytes()).unwrap()
}

/// Opens a case as it is published: the plaintext, or the code of the failure.
fn judge(case: &Value) -> String {
    let key = TransitKey::parse(text(case, "kind").parse().unwrap(), &decoded(case, "key")).unwrap();
    let Ok(made) = text(case, "ciphertext").parse::<Versioned>() else { return "malformed".into() };
    let place = Place { name: text(case, "name"), version: made.version };
    match key.decrypt(place, &decoded(case, "associated_data"), &made.bytes) {
        Ok(plaintext) => HEXLOWER.encode(plaintext.expose()),
        Err(error) => word(error).to_owned(),
    }
}

fn cases(kind: KeyKind, bytes: &[u8], rng: &mut dyn Rng) -> Vec<Value> {
    let key = TransitKey::parse(kind, bytes).unwrap();
    let mut cases = Vec::new();
    let mut case = |what: &str, name: &str, associated_data: &[u8], ciphertext: String, expect: &str| {
        cases.push(json!({
            "what": format!("{kind}: {what}"), "kind": kind, "key": HEXLOWER.encode(bytes), "name": name,
            "associated_data": HEXLOWER.encode(associated_data), "ciphertext": ciphertext, "expect": expect,
        }));
    };
    let mut make = |version: u32, associated_data: &[u8], plaintext: &[u8]| {
        let place = Place { version, ..ORDERS };
        Versioned { version, bytes: key.encrypt(place, associated_data, plaintext, rng).unwrap() }
    };
    let good = make(1, b"row 1", b"attack at dawn");
    let plaintext = HEXLOWER.encode(b"attack at dawn");
    case("good", "orders", b"row 1", good.to_string(), &plaintext);
    case("empty", "orders", b"", make(3, b"", b"").to_string(), "");
    case("a later version", "orders", b"", make(4_294_967_295, b"", b"x").to_string(), "78");
    case("other associated data", "orders", b"row 2", good.to_string(), "ciphertext_damaged");
    let bent = |at: usize| {
        let mut bent = good.clone();
        let at = if at == usize::MAX { bent.bytes.len() - 1 } else { at };
        bent.bytes[at] ^= 1;
        bent.to_string()
    };
    let other = "ciphertext_of_other_key";
    case("another name", "invoices", b"row 1", good.to_string(), other);
    case("another version", "orders", b"row 1", Versioned { version: 2, ..good.clone() }.to_string(), other);
    case("first byte changed", "orders", b"row 1", bent(0), other);
    case("last byte changed", "orders", b"row 1", bent(usize::MAX), "ciphertext_damaged");
    let short = Versioned { version: 1, bytes: good.bytes[..79].to_vec() };
    case("cut short", "orders", b"row 1", short.to_string(), "ciphertext_damaged");
    case("version zero", "orders", b"row 1", Versioned { version: 0, ..good.clone() }.to_string(), "malformed");
    case("padded", "orders", b"row 1", format!("{good}="), "malformed");
    let stranger = good.to_string().replacen("bulla:v1", "vault:v1", 1);
    case("another prefix", "orders", b"row 1", stranger, "malformed");
    cases
}

#[test]
fn the_vectors() {
    let mut rng = SeededRng::from_u64(7);
    let made: Vec<Value> = [KeyKind::Aes256Gcm, KeyKind::ChaCha20Poly1305]
        .into_iter()
        .flat_map(|kind| cases(kind, &[0x42; 32], &mut rng))
        .collect();
    let bless = std::env::var_os("BULLA_BLESS").is_some();
    if bless {
        publish("ciphertexts.json", &made);
    }
    assert_eq!(published("ciphertexts.json"), made, "run with BULLA_BLESS=1 if the format was meant to change");
    // These are drawn anew each time, so they are made once and opened as they are published.
    if bless && !vectors("rsa.json").exists() {
        publish("rsa.json", &cases(KeyKind::Rsa2048, &bytes(KeyKind::Rsa2048), &mut rng));
        publish("signatures.json", &signature_cases());
    }
    for case in made.iter().chain(&published("rsa.json")) {
        assert_eq!(judge(case), text(case, "expect"), "{}", text(case, "what"));
    }
}

fn signature_cases() -> Vec<Value> {
    let mut cases = Vec::new();
    for kind in [KeyKind::Ed25519, KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Rsa2048] {
        let key = key(kind);
        let signature = key.sign(Signed::Message(b"the message"), None).unwrap();
        let mut bent = signature.clone();
        bent[9] ^= 1;
        for (what, message, signature, valid) in [
            ("good", "the message", &signature, true),
            ("another message", "the massage", &signature, false),
            ("a byte changed", "the message", &bent, false),
            ("cut short", "the message", &signature[..63].to_vec(), false),
        ] {
            cases.push(json!({
                "what": format!("{kind}: {what}"), "kind": kind, "key": HEXLOWER.encode(&bytes(kind)),
                "message": HEXLOWER.encode(message.as_bytes()),
                "signature": format!("bulla:v1:{}", BASE64URL_NOPAD.encode(signature)), "valid": valid,
            }));
        }
    }
    cases
}

#[test]
fn the_vectors_of_signatures() {
    let cases = published("signatures.json");
    assert_eq!(cases.len(), 16);
    for case in cases {
        let key = TransitKey::parse(text(&case, "kind").parse().unwrap(), &decoded(&case, "key")).unwrap();
        let made: Versioned = text(&case, "signature").parse().unwrap();
        let holds = key.verify(Signed::Message(&decoded(&case, "message")), None, &made.bytes).unwrap();
        assert_eq!(holds, case["valid"].as_bool().unwrap(), "{}", text(&case, "what"));
    }
}

/// PKCS#8 has at most 4,096 bytes (`spec/transit.md`), with the attributes that the library passes over.
#[test]
fn attributes_make_no_key_of_more_than_4096_bytes() {
    use crate::pkcs8::put_der;
    let key = bytes(KeyKind::Rsa2048);
    let with_attributes = |length: usize| {
        // RFC 5958 §2: [0] after the key. Both heads have four bytes.
        let mut content = key[4..].to_vec();
        let attributes = vec![0; length - content.len() - 4 - 4];
        put_der(&mut content, 0xa0, &attributes);
        let mut whole = Vec::new();
        put_der(&mut whole, 0x30, &content);
        assert_eq!(whole.len(), length);
        whole
    };
    let take = |length: usize| TransitKey::parse(KeyKind::Rsa2048, &with_attributes(length)).map(|_| ());
    assert_eq!(take(MAX_KEY_BYTES), Ok(()));
    assert_eq!(take(MAX_KEY_BYTES + 1), Err(TransitError::NoKey));
}

/// A buffer that grows leaves a copy of the plaintext behind.
#[test]
fn a_ciphertext_has_its_room_from_the_start() {
    for kind in [KeyKind::Aes256Gcm, KeyKind::ChaCha20Poly1305] {
        for length in [0, 1, 1000] {
            let made = key(kind).encrypt(ORDERS, b"", &vec![7; length], &mut SystemRng).unwrap();
            assert_eq!(made.len(), made.capacity(), "{kind} {length}");
        }
    }
}
