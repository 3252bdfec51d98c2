//! X-Wing and HPKE against published values and against the `hpke` crate.

use crate::support::{unhex, vectors};
use bulla_crypto::kem::{self, HYBRID_ENCAPSULATION_BYTES, HybridPublicKey, HybridSecretKey, KemError};
use bulla_crypto::random::{SeededRng, draw, secret_key};
use bulla_crypto::secret::SecretKey;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde_json::Value;

fn published() -> Value {
    serde_json::from_slice(&std::fs::read(vectors("hpke").join("x-wing.json")).unwrap()).unwrap()
}

fn field(value: &Value, name: &str) -> Vec<u8> {
    unhex(value.get(name).unwrap().as_str().unwrap())
}

fn key(value: &Value) -> HybridSecretKey {
    HybridSecretKey::from_seed(&SecretKey::from_slice(&field(value, "seed")).unwrap()).unwrap()
}

#[test]
fn x_wing_as_published() {
    let published = published();
    let vectors = published.get("x-wing").unwrap().as_array().unwrap();
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        let key = key(vector);
        assert_eq!(key.public().to_bytes(), field(vector, "pk"));
        assert_eq!(key.decapsulate(&field(vector, "ct")).unwrap().expose().as_slice(), field(vector, "ss"));
    }
}

#[test]
fn hpke_opens_the_published_ciphertext() {
    let published = published();
    let vector = published.get("hpke").unwrap();
    let (key, enc, info) = (key(vector), field(vector, "enc"), field(vector, "info"));
    assert_eq!(key.public().to_bytes(), field(vector, "pk"));
    assert_eq!(key.decapsulate(&enc).unwrap().expose().as_slice(), field(vector, "shared_secret"));
    let (aad, ciphertext) = (field(vector, "aad"), field(vector, "ct"));
    assert_eq!(kem::open(&key, &enc, &info, &aad, &ciphertext).unwrap().expose(), &field(vector, "pt"));
    assert_eq!(kem::open(&key, &enc, &info, b"", &ciphertext).unwrap_err(), KemError::Open);
    assert_eq!(kem::open(&key, &enc, b"", &aad, &ciphertext).unwrap_err(), KemError::Open);
}

#[test]
fn both_ways_with_another_implementation() {
    let mut rng = SeededRng::from_u64(1);
    for round in 0_u8..16 {
        let seed = secret_key(&mut rng);
        let ours = HybridSecretKey::from_seed(&seed).unwrap();
        let theirs = <XWing as Kem>::PrivateKey::from_bytes(seed.expose()).unwrap();
        let their_public = XWing::sk_to_pk(&theirs);
        assert_eq!(ours.public().to_bytes(), their_public.to_bytes().as_slice());

        let info: [u8; 20] = draw(&mut rng);
        let plaintext = vec![round; usize::from(round) * 7];
        let (enc, ciphertext) = kem::seal(ours.public(), &info, &[round], &plaintext).unwrap();
        let enc = <XWing as Kem>::EncappedKey::from_bytes(&enc).unwrap();
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeR::Base,
            &theirs,
            &enc,
            &info,
            &ciphertext,
            &[round],
        );
        assert_eq!(opened.unwrap(), plaintext);

        let (enc, ciphertext) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeS::Base,
            &their_public,
            &info,
            &plaintext,
            &[round],
        )
        .unwrap();
        let opened = kem::open(&ours, enc.to_bytes().as_slice(), &info, &[round], &ciphertext).unwrap();
        assert_eq!(opened.expose(), &plaintext);
    }
}

#[test]
fn a_zero_shared_secret_is_refused_where_plain_x_wing_takes_it() {
    let seed = secret_key(&mut SeededRng::from_u64(2));
    let ours = HybridSecretKey::from_seed(&seed).unwrap();
    let (enc, _) = ours.public().encapsulate().unwrap();
    let mut order_4 = [0; 32];
    if let Some(first) = order_4.first_mut() {
        *first = 1;
    }
    for point in [[0; 32], order_4] {
        let enc = [enc.get(..HYBRID_ENCAPSULATION_BYTES - 32).unwrap(), &point].concat();
        assert_eq!(ours.decapsulate(&enc).unwrap_err(), KemError::SmallOrder);
        // The reason why the check is ours: another implementation has none.
        let theirs = <XWing as Kem>::PrivateKey::from_bytes(&seed.expose()[..]).unwrap();
        let enc = <XWing as Kem>::EncappedKey::from_bytes(&enc).unwrap();
        assert!(XWing::decap(&theirs, None, &enc).is_ok());

        let mut public = ours.public().to_bytes();
        public.truncate(1184);
        public.extend_from_slice(&point);
        assert_eq!(HybridPublicKey::from_bytes(&public).err(), Some(KemError::SmallOrder));
    }
}

#[test]
fn public_keys_have_one_spelling() {
    let key = HybridSecretKey::from_seed(&secret_key(&mut SeededRng::from_u64(3))).unwrap();
    let public = key.public().to_bytes();
    let changed = |place: usize, value: u8| {
        let mut bytes = public.clone();
        *bytes.get_mut(place).unwrap() = value;
        HybridPublicKey::from_bytes(&bytes).err()
    };
    assert!(HybridPublicKey::from_bytes(&public).is_ok());
    assert_eq!(HybridPublicKey::from_bytes(public.get(1..).unwrap()).err(), Some(KemError::Key));
    // The top bit of the X25519 half is ignored by RFC 7748, so it would be a second name.
    assert_eq!(changed(1215, public.last().unwrap() | 0x80), Some(KemError::Key));
    // A coefficient of 0xfff is not reduced modulo 3329 (FIPS 203 §7.2).
    let mut bytes = public.clone();
    bytes.splice(0..2, [0xff, 0xff]);
    assert_eq!(HybridPublicKey::from_bytes(&bytes).err(), Some(KemError::Key));
    // 2^255 - 19 + 9 is another way to write 9.
    let mut bytes = public.clone();
    bytes.truncate(1184);
    bytes.push(0xed + 9);
    bytes.extend([0xff; 30]);
    bytes.push(0x7f);
    assert_eq!(HybridPublicKey::from_bytes(&bytes).err(), Some(KemError::Key));
}

#[test]
fn damage_is_noticed() {
    let key = HybridSecretKey::from_seed(&secret_key(&mut SeededRng::from_u64(4))).unwrap();
    let (enc, ciphertext) = kem::seal(key.public(), b"info", b"", b"text").unwrap();
    assert_eq!(kem::open(&key, &enc, b"info", b"", &ciphertext).unwrap().expose(), b"text");
    for place in [0, 500, 1087, 1088, 1119] {
        let mut bad = enc.clone();
        *bad.get_mut(place).unwrap() ^= 1;
        assert_eq!(kem::open(&key, &bad, b"info", b"", &ciphertext).unwrap_err(), KemError::Open, "{place}");
    }
    assert_eq!(kem::open(&key, enc.get(1..).unwrap(), b"info", b"", &ciphertext).unwrap_err(), KemError::Encapsulation);
}
