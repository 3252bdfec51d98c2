//! Keys and signatures at the borders of what is accepted. Published vectors are in `tests/vectors.rs`.

use super::*;
use crate::random::SeededRng;
use crate::secret::SecretKey;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use data_encoding::{BASE64, HEXLOWER};

const MESSAGE: &[u8] = b"a message";

fn hex<const N: usize>(text: &str) -> [u8; N] {
    HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

fn pkcs8(algorithm: &'static EcdsaSigningAlgorithm) -> Vec<u8> {
    EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap().as_ref().to_vec()
}

fn rsa_pkcs8(size: KeySize) -> Vec<u8> {
    let pair = RsaKeyPair::generate(size).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der = pair.as_der().unwrap();
    der.as_ref().to_vec()
}

fn one_of_each() -> Vec<SigningKey> {
    vec![
        SigningKey::generate(&mut SeededRng::from_u64(1)).unwrap(),
        SigningKey::from_pkcs8(&pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING), RsaMinimum::Bits3072).unwrap(),
        SigningKey::from_pkcs8(&pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING), RsaMinimum::Bits3072).unwrap(),
        SigningKey::from_pkcs8(&rsa_pkcs8(KeySize::Rsa3072), RsaMinimum::Bits3072).unwrap(),
    ]
}

#[test]
fn a_private_key_is_written_as_it_is_read() {
    for key in one_of_each() {
        let again = SigningKey::from_pkcs8(key.to_pkcs8().unwrap().expose(), RsaMinimum::Bits3072).unwrap();
        assert_eq!(again.public_key(), key.public_key());
    }
}

/// RFC 8032 §7.1, tests 1 to 3: seed, public key, message, signature.
#[test]
fn rfc_8032_vectors() {
    for (seed, public, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let key = SigningKey::from_seed(&SecretKey::new(hex(seed))).unwrap();
        let message = HEXLOWER.decode(message.as_bytes()).unwrap();
        assert_eq!(key.public_key().ed25519().unwrap(), &hex(public));
        assert_eq!(HEXLOWER.encode(&key.sign(&message).unwrap()), signature);
        assert_eq!(PublicKey::from_ed25519(&hex(public)).unwrap().verify(&message, &hex::<64>(signature)), Ok(()));
    }
}

#[test]
fn what_one_signs_it_alone_verifies() {
    let keys = one_of_each();
    for (own, key) in keys.iter().enumerate() {
        let signature = key.sign(MESSAGE).unwrap();
        let spki = key.public_key().spki();
        let public = PublicKey::from_spki(spki, RsaMinimum::Bits3072).unwrap();
        assert_eq!(&public, key.public_key());
        assert_eq!(public.verify(MESSAGE, &signature), Ok(()));
        assert_eq!(public.verify(b"another message", &signature), Err(VerifyError));
        for (_, other) in keys.iter().enumerate().filter(|(number, _)| *number != own) {
            assert_ne!(other.public_key(), &public);
            assert_eq!(other.public_key().verify(MESSAGE, &signature), Err(VerifyError));
        }
        for place in [0, signature.len() / 2, signature.len() - 1] {
            let mut bent = signature.clone();
            *bent.get_mut(place).unwrap() ^= 1;
            assert_eq!(public.verify(MESSAGE, &bent), Err(VerifyError), "{public:?} {place}");
        }
        for wrong in [vec![], signature.get(1..).unwrap().to_vec(), [signature.as_slice(), &[0]].concat()] {
            assert_eq!(public.verify(MESSAGE, &wrong), Err(VerifyError));
        }
        assert_eq!(public.key_id(), bulla_wire::id::KeyId::new(crate::digest::sha256(&[spki])));
    }
}

#[test]
fn names_are_those_of_rfc_9421() {
    for name in ["ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha512"] {
        assert_eq!(Algorithm::from_name(name).unwrap().name(), name);
    }
    for name in ["ED25519", "rsa-v1_5-sha256", "hmac-sha256", "none", ""] {
        assert_eq!(Algorithm::from_name(name), None);
    }
}

/// Every encoding of the eight points of small order: the canonical ones, those with y + p instead of y
/// (y = 0 and y = 1 fit in 255 bits), and those with the sign bit set where x is 0.
fn small_order_encodings() -> Vec<[u8; 32]> {
    let mut all: Vec<[u8; 32]> = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
    for y in [
        "0100000000000000000000000000000000000000000000000000000000000080", // y = 1, "negative" zero
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", // y = -1, "negative" zero
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p + 1
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ] {
        all.push(hex(y));
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 14);
    all
}

/// RFC 8032 leaves it open; every library at hand verifies *any* message for a small-order key with R the same
/// point and S = 0 (for the identity) or one message in eight.
#[test]
fn ed25519_keys_of_small_order_are_refused() {
    for key in small_order_encodings() {
        let error = PublicKey::from_ed25519(&key).unwrap_err();
        assert!(matches!(error, PublicKeyError::SmallOrder | PublicKeyError::NotCanonical | PublicKeyError::Malformed));
    }
    // What the refusal prevents: the library itself takes this forgery.
    let identity = hex::<32>("0100000000000000000000000000000000000000000000000000000000000000");
    let forged = [identity.as_slice(), &[0; 32]].concat();
    let library = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, identity);
    assert!(library.verify(b"anything", &forged).is_ok());
}

#[test]
fn ed25519_keys_in_a_second_spelling_are_refused() {
    // y + p for the y between 2 and 18 that are on the curve: no small order, but two encodings each.
    let mut tried = 0;
    for low in 0xef_u8..=0xff {
        let mut key = hex::<32>("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
        *key.first_mut().unwrap() = low;
        match PublicKey::from_ed25519(&key) {
            Err(PublicKeyError::NotCanonical) => tried += 1,
            Err(PublicKeyError::Malformed) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(tried >= 4, "{tried}");
}

/// With a small-order R, S = h·a: the key's owner can make one signature that lenient verifiers take.
#[test]
fn ed25519_signatures_with_r_of_small_order_are_refused() {
    use aws_lc_rs::digest::{SHA512, digest};
    use curve25519_dalek::Scalar;
    let secret = Scalar::from(123_456_789_u64);
    let public = (ED25519_BASEPOINT_POINT * secret).compress().to_bytes();
    for r in EIGHT_TORSION.map(|point| point.compress().to_bytes()) {
        let hash = digest(&SHA512, &[r.as_slice(), &public, MESSAGE].concat());
        let challenge = Scalar::from_bytes_mod_order_wide(hash.as_ref().try_into().unwrap());
        let signature = [r, (challenge * secret).to_bytes()].concat();
        assert_eq!(PublicKey::from_ed25519(&public).unwrap().verify(MESSAGE, &signature), Err(VerifyError));
        if r == hex("0100000000000000000000000000000000000000000000000000000000000000") {
            let library = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public);
            assert!(library.verify(MESSAGE, &signature).is_ok(), "the library takes it, so the check is ours");
        }
    }
}

#[test]
fn ecdsa_in_der_is_refused() {
    let bytes = pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let key = SigningKey::from_pkcs8(&bytes, RsaMinimum::Bits3072).unwrap();
    let der = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &bytes).unwrap();
    for _ in 0..64 {
        let signature = der.sign(&SystemRandom::new(), MESSAGE).unwrap();
        assert_eq!(key.public_key().verify(MESSAGE, signature.as_ref()), Err(VerifyError));
    }
}

#[test]
fn an_spki_has_one_spelling() {
    for key in one_of_each() {
        let spki = key.public_key().spki();
        let refused = |bytes: &[u8], what: &str| {
            assert!(PublicKey::from_spki(bytes, RsaMinimum::Bits2048).is_err(), "{what} {:?}", key.public_key());
        };
        refused(&[spki, &[0]].concat(), "a trailing byte");
        refused(spki.get(..spki.len() - 1).unwrap(), "a missing byte");
        refused(&[], "nothing");
        // Each byte before the key bits is structure: none may be anything else.
        let structure = if key.public_key().algorithm() == Algorithm::Ed25519 { 12 } else { 23 };
        for place in 0..structure {
            for bit in 0..8 {
                let mut bent = spki.to_vec();
                *bent.get_mut(place).unwrap() ^= 1 << bit;
                refused(&bent, "a bent byte");
            }
        }
        if let Some(point) = key.public_key().ec_point() {
            // RFC 5480 allows compressed points; here they would be a second spelling.
            let front = spki.len() - point.len();
            let sign = 2 + (point.last().unwrap() & 1);
            let compressed = [&[sign], point.get(1..=point.len() / 2).unwrap()].concat();
            let mut short = [spki.get(..front).unwrap(), &compressed].concat();
            for place in [1, front - 2] {
                *short.get_mut(place).unwrap() -= u8::try_from(point.len() / 2).unwrap();
            }
            let library = aws_lc_rs::signature::ParsedPublicKey::new(
                if point.len() == 65 {
                    &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED
                } else {
                    &aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED
                },
                short.as_slice(),
            );
            assert!(library.is_ok(), "the library takes it, so the check is ours");
            refused(&short, "a compressed point");
            let mut off_curve = spki.to_vec();
            *off_curve.last_mut().unwrap() ^= 1;
            refused(&off_curve, "a point off the curve");
        }
    }
}

#[test]
fn other_kinds_of_key_are_refused() {
    let p521 = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA512_FIXED_SIGNING, &pkcs8(&ECDSA_P521_SHA512_FIXED_SIGNING));
    let spki = p521.unwrap().public_key().as_der().unwrap();
    assert_eq!(PublicKey::from_spki(spki.as_ref(), RsaMinimum::Bits3072).unwrap_err(), PublicKeyError::Malformed);
    let private = pkcs8(&ECDSA_P521_SHA512_FIXED_SIGNING);
    assert_eq!(SigningKey::from_pkcs8(&private, RsaMinimum::Bits3072).unwrap_err(), SigningKeyError::Malformed);
    // X25519 differs from Ed25519 in one byte of its object identifier.
    let x25519 = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00".as_slice(), &[9; 32]].concat();
    assert_eq!(PublicKey::from_spki(&x25519, RsaMinimum::Bits3072).unwrap_err(), PublicKeyError::Malformed);
}

#[test]
fn rsa_needs_3072_bits_unless_told() {
    let small = rsa_pkcs8(KeySize::Rsa2048);
    let error = PublicKeyError::RsaTooShort { bits: 2048, minimum: 3072 };
    assert_eq!(
        SigningKey::from_pkcs8(&small, RsaMinimum::Bits3072).unwrap_err(),
        SigningKeyError::Public(error.clone())
    );
    let key = SigningKey::from_pkcs8(&small, RsaMinimum::Bits2048).unwrap();
    let spki = key.public_key().spki();
    assert_eq!(PublicKey::from_spki(spki, RsaMinimum::Bits3072).unwrap_err(), error);
    let again = PublicKey::from_spki(spki, RsaMinimum::Bits2048).unwrap();
    assert_eq!(again.verify(MESSAGE, &key.sign(MESSAGE).unwrap()), Ok(()));
}

#[test]
fn rsa_of_8192_bits_is_the_longest() {
    let longest = PublicKey::from_rsa(&[0xff; 1024], &[1, 0, 1], RsaMinimum::Bits3072).unwrap();
    assert_eq!(longest.spki().len(), MAX_SPKI_BYTES);
    let longer = [&[1], [0xff; 1024].as_slice()].concat();
    let error = PublicKey::from_rsa(&longer, &[1, 0, 1], RsaMinimum::Bits3072).unwrap_err();
    assert_eq!(error, PublicKeyError::RsaTooLong);
    let long = [longest.spki(), &[0]].concat();
    assert_eq!(PublicKey::from_spki(&long, RsaMinimum::Bits3072).unwrap_err(), PublicKeyError::RsaTooLong);
}

/// RSA keys have their own road: the modulus and exponent of a key give the same SPKI as its DER.
#[test]
fn keys_from_raw_parts_equal_those_from_der() {
    let [ed, p256, p384, rsa]: [SigningKey; 4] = one_of_each().try_into().map_err(|_| ()).unwrap();
    assert_eq!(&PublicKey::from_ed25519(ed.public_key().ed25519().unwrap()).unwrap(), ed.public_key());
    assert_eq!(&PublicKey::from_p256_point(p256.public_key().ec_point().unwrap()).unwrap(), p256.public_key());
    assert_eq!(&PublicKey::from_p384_point(p384.public_key().ec_point().unwrap()).unwrap(), p384.public_key());
    assert!(PublicKey::from_p256_point(p384.public_key().ec_point().unwrap()).is_err());
    // rsaEncryption SPKI of 3072 bits: 33 bytes of front (with the modulus' leading zero), then modulus, then
    // INTEGER 65537.
    let modulus = rsa.public_key().spki().get(33..33 + 384).unwrap();
    assert_eq!(&PublicKey::from_rsa(modulus, &[1, 0, 1], RsaMinimum::Bits3072).unwrap(), rsa.public_key());
    assert!(PublicKey::from_rsa(modulus, &[2], RsaMinimum::Bits3072).is_err());
    assert!(PublicKey::from_rsa(modulus, &[1], RsaMinimum::Bits3072).is_err());
}

/// RUSTSEC-2022-0093: whoever signs with another public key than the seed's gives the seed away.
#[test]
fn an_ed25519_pkcs8_with_a_foreign_public_key_is_refused() {
    let seed = SecretKey::new([5; 32]);
    let own = SigningKey::from_seed(&seed).unwrap();
    let good = Ed25519KeyPair::from_seed_unchecked(seed.expose()).unwrap().to_pkcs8().unwrap();
    assert_eq!(SigningKey::from_pkcs8(good.as_ref(), RsaMinimum::Bits3072).unwrap().public_key(), own.public_key());
    let mut bad = good.as_ref().to_vec();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(SigningKey::from_pkcs8(&bad, RsaMinimum::Bits3072).unwrap_err(), SigningKeyError::Malformed);
}

#[test]
fn private_keys_do_not_print() {
    for key in one_of_each() {
        let text = format!("{key:?}");
        let id = key.public_key().key_id();
        assert_eq!(text, format!("SigningKey({} {id})", key.public_key().algorithm()));
    }
    let garbage = SigningKey::from_pkcs8(b"canary", RsaMinimum::Bits3072).unwrap_err();
    assert!(!format!("{garbage} {garbage:?}").contains("canary"));
}

#[test]
fn the_dummy_verification_accepts_any_input() {
    // That its key parses is the point: a panic here would be a panic on the request path.
    verify_dummy(MESSAGE, &[0; 64]);
    verify_dummy(b"", b"");
    let rfc = BASE64.encode(&[1, 2, 3]);
    verify_dummy(rfc.as_bytes(), &[0xff; 4096]);
}

#[test]
fn a_software_key_is_a_signer() {
    use std::task::{Context, Poll, Waker};
    let key = SigningKey::generate(&mut SeededRng::from_u64(3)).unwrap();
    let signer: &dyn Signer = &key;
    let mut future = signer.sign(MESSAGE);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(signature) => assert_eq!(signer.public_key().verify(MESSAGE, &signature.unwrap()), Ok(())),
        Poll::Pending => panic!("software waits for nothing"),
    }
}

#[test]
fn signatures_are_as_long_as_their_algorithm_says() {
    for key in one_of_each() {
        let algorithm = key.public_key().algorithm();
        let expected = match algorithm {
            Algorithm::Ed25519 | Algorithm::EcdsaP256 => Some(64),
            Algorithm::EcdsaP384 => Some(96),
            Algorithm::RsaPssSha512 => None,
        };
        assert_eq!(algorithm.signature_len(), expected, "{algorithm}");
        assert_eq!(key.sign(MESSAGE).unwrap().len(), expected.unwrap_or(384), "{algorithm}");
    }
}

/// What is given to a holder that does not hash: the digests of "abc" in FIPS 180-4.
#[test]
fn a_message_is_hashed_as_its_algorithm_does() {
    let of = |algorithm: Algorithm| HEXLOWER.encode(&algorithm.prehashed(b"abc"));
    assert_eq!(Algorithm::Ed25519.prehashed(b"abc"), b"abc");
    assert_eq!(of(Algorithm::EcdsaP256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(
        of(Algorithm::EcdsaP384),
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
    );
    assert_eq!(
        of(Algorithm::RsaPssSha512),
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    );
}

#[test]
fn an_algorithm_prints_as_its_name() {
    assert_eq!(Algorithm::EcdsaP384.to_string(), "ecdsa-p384-sha384");
}

/// Of what is no RSA key nobody says that it is too long a one; both halves of what RSA begins with count.
#[test]
fn long_bytes_that_are_no_rsa_key_are_malformed() {
    let rsa = PublicKey::from_rsa(&[0xff; 1024], &[1, 0, 1], RsaMinimum::Bits3072).unwrap();
    let mut other_tag = [rsa.spki(), &[0]].concat();
    other_tag[0] = 0x31;
    let mut other_algorithm = [rsa.spki(), &[0]].concat();
    other_algorithm[16] ^= 1;
    for bytes in [other_tag, other_algorithm, vec![0; MAX_SPKI_BYTES + 1]] {
        assert_eq!(PublicKey::from_spki(&bytes, RsaMinimum::Bits3072).unwrap_err(), PublicKeyError::Malformed);
    }
}

/// SEC 1 §2.3.3 has a third form, 06 or 07 ‖ x ‖ y. It is as long as the uncompressed one, and the library takes it.
#[test]
fn a_point_in_hybrid_form_is_refused() {
    for key in one_of_each() {
        let public = key.public_key();
        let Some(point) = public.ec_point() else { continue };
        let mut spki = public.spki().to_vec();
        let place = spki.len() - point.len();
        spki[place] = 6 | (point[point.len() - 1] & 1);
        assert_eq!(PublicKey::from_spki(&spki, RsaMinimum::Bits3072).unwrap_err(), PublicKeyError::Malformed);
    }
}
