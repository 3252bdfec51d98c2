//! Recipients: one spelling, and no key that protects nothing.

use crate::support::{identity, tag_key, unhex};
use bulla_crypto::digest::sha256;
use bulla_crypto::identity::IdentityKind;
use bulla_crypto::kem::P256Point;
use bulla_crypto::openssh::{SshPublicKeyError, without_comment};
use bulla_crypto::recipient::{Recipient, RecipientError, RecipientKind};
use data_encoding::BASE64;

const X25519: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
const SSH_ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

/// From the age specification.
const P256_TAG: &str = "age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4e";

fn hybrid_tag() -> String {
    tag_key(&"42".repeat(32), Some(&"43".repeat(64))).1.recipient().to_string()
}

const BECH32: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// Regroups bits, most significant first; the rest is filled with zeros, or must be them.
fn regroup(from: u32, to: u32, input: &[u8], fill: bool) -> Vec<u8> {
    let bits: Vec<u8> = input.iter().flat_map(|value| (0..from).rev().map(move |bit| value >> bit & 1)).collect();
    let whole = if fill { bits.len() } else { bits.len() - bits.len() % to as usize };
    let value = |bits: &[u8]| (0..to as usize).fold(0, |value, place| value << 1 | bits.get(place).unwrap_or(&0));
    bits[..whole].chunks(to as usize).map(value).collect()
}

/// Bech32 by BIP 173, of any bytes.
fn bech32(prefix: &str, bytes: &[u8]) -> String {
    let symbols = regroup(8, 5, bytes, true);
    let front = prefix.bytes().map(|byte| byte >> 5).chain([0]).chain(prefix.bytes().map(|byte| byte & 31));
    let checksum = front.chain(symbols.iter().copied()).chain([0; 6]).fold(1_u32, |sum, symbol| {
        let generator = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
        let next = (sum & 0x1ff_ffff) << 5 ^ u32::from(symbol);
        (0..5).filter(|bit| sum >> 25 >> bit & 1 == 1).fold(next, |next, bit| next ^ generator[bit])
    }) ^ 1;
    let checksum = (0..6).map(|place| u8::try_from(checksum >> (5 * (5 - place)) & 31).unwrap());
    let all = symbols.into_iter().chain(checksum).map(|symbol| char::from(BECH32[usize::from(symbol)]));
    format!("{prefix}1{}", all.collect::<String>())
}

fn unbech32(text: &str) -> Vec<u8> {
    let symbols = text.rsplit_once('1').unwrap().1.bytes();
    let symbols: Vec<u8> =
        symbols.map(|byte| u8::try_from(BECH32.iter().position(|one| *one == byte).unwrap()).unwrap()).collect();
    regroup(5, 8, &symbols[..symbols.len() - 6], false)
}

fn error(text: &str) -> RecipientError {
    match text.parse::<Recipient>() {
        Ok(_) => panic!("accepted {text}"),
        Err(error) => error,
    }
}

/// An SSH blob of these strings, as a recipient.
fn ssh(kind: &str, fields: &[&[u8]]) -> String {
    let mut blob = Vec::new();
    for field in fields {
        blob.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
        blob.extend_from_slice(field);
    }
    format!("{kind} {}", BASE64.encode(&blob))
}

#[test]
fn kinds_and_canonical_text() {
    let hybrid = identity(IdentityKind::Hybrid, 1).recipients()[0].clone();
    assert_eq!(hybrid.as_str().len(), 1959);
    let tagged = hybrid_tag();
    assert_eq!(tagged.len(), 2015);
    for (text, kind) in [
        (hybrid.as_str(), RecipientKind::Hybrid),
        (X25519, RecipientKind::X25519),
        (tagged.as_str(), RecipientKind::MlKem768P256Tag),
        (P256_TAG, RecipientKind::P256Tag),
        (SSH_ED25519, RecipientKind::SshEd25519),
    ] {
        let recipient: Recipient = text.parse().unwrap();
        assert_eq!(recipient.kind(), kind);
        let is_hybrid = matches!(kind, RecipientKind::Hybrid | RecipientKind::MlKem768P256Tag);
        assert_eq!((recipient.is_hybrid(), Recipient::is_hybrid_text(text)), (is_hybrid, is_hybrid));
        assert_eq!(recipient.to_string(), text);
        assert_eq!(recipient.digest().as_bytes(), &sha256(&[text.as_bytes()]));
        assert_eq!(recipient, text.parse().unwrap());
    }
}

#[test]
fn one_spelling() {
    let hybrid = identity(IdentityKind::Hybrid, 1).recipients()[0].to_string();
    for text in [hybrid.as_str(), X25519, P256_TAG, &hybrid_tag()] {
        for other in
            [text.to_uppercase(), format!("{text} "), format!(" {text}"), format!("{text}\n"), text.replace('1', "2")]
        {
            assert!(other.parse::<Recipient>().is_err(), "{other}");
        }
    }
    assert_eq!(error(&X25519.replace("ql3", "ql4")), RecipientError::Malformed("age1"));
    assert_eq!(error(&format!("{SSH_ED25519} alice@host")), RecipientError::Ssh(SshPublicKeyError::Comment));
    assert_eq!(without_comment(&format!("{SSH_ED25519} alice@host\n")), SSH_ED25519);
    let malformed = RecipientError::Ssh(SshPublicKeyError::Malformed);
    for other in [
        "ssh-ed25519".to_owned(),
        "ssh-ed25519 ".to_owned(),
        SSH_ED25519.replace("AAAAC3", "AAAAC4"),
        format!("{SSH_ED25519}="),
        SSH_ED25519.replace("ssh-ed25519", "ssh-rsa"),
        ssh("ssh-ed25519", &[b"ssh-ed25519", &[7; 32], b"more"]),
        ssh("ssh-ed25519", &[b"ssh-ed25519", &[7; 31]]),
        // A modulus with a needless zero, and a negative one.
        ssh("ssh-rsa", &[b"ssh-rsa", &[1, 0, 1], &[&[0, 0, 0x91], [7; 255].as_slice()].concat()]),
        ssh("ssh-rsa", &[b"ssh-rsa", &[1, 0, 1], &[&[0x91], [7; 255].as_slice()].concat()]),
        ssh("ssh-rsa", &[b"ssh-rsa", &[1, 0, 1], &[7; 1025]]),
    ] {
        assert_eq!(error(&other), malformed, "{other}");
    }
}

#[test]
fn x25519_points_are_canonical_and_of_full_order() {
    let of = |bytes: [u8; 32]| Recipient::from_x25519(&bytes).map(|_| ());
    let with = |low: u8, middle: u8, high: u8| {
        let mut bytes = [middle; 32];
        bytes[0] = low;
        bytes[31] = high;
        bytes
    };
    assert_eq!(of(with(9, 0, 0)), Ok(()), "the base point");
    // 0, 1 and p - 1 have small order; p and above, and anything with the top bit, are second spellings.
    for bytes in [with(0, 0, 0), with(1, 0, 0), with(0xec, 0xff, 0x7f)] {
        assert_eq!(of(bytes), Err(RecipientError::SmallOrder), "{bytes:?}");
    }
    for bytes in [with(0xed, 0xff, 0x7f), with(0xf6, 0xff, 0x7f), with(0xff, 0xff, 0x7f), with(9, 0, 0x80)] {
        assert_eq!(of(bytes), Err(RecipientError::Malformed("age1")), "{bytes:?}");
    }
    // The two points of order 8 (RFC 7748 does not list them; libsodium's blocklist does).
    for hex in [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ] {
        let bytes = crate::support::unhex(hex).try_into().unwrap();
        assert_eq!(of(bytes), Err(RecipientError::SmallOrder), "{hex}");
    }
}

#[test]
fn p256_points_are_on_the_curve_and_have_one_spelling() {
    let of = |bytes: &[u8]| bech32("age1tag", bytes).parse::<Recipient>().map(|_| ());
    let malformed = Err(RecipientError::Malformed("age1tag"));
    let x = unhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296");
    let y = unhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5");
    let prime = unhex("ffffffff00000001000000000000000000000000ffffffffffffffffffffffff");
    let with = |first: u8, rest: &[&[u8]]| [&[first], rest.concat().as_slice()].concat();
    for parity in [2, 3] {
        assert_eq!(of(&with(parity, &[&x])), Ok(()), "the base point, and its opposite");
    }
    let base = P256Point::from_uncompressed(&with(4, &[&x, &y])).unwrap();
    assert_eq!(Recipient::from_p256(&base).unwrap().as_str(), bech32("age1tag", &with(3, &[&x])));
    for bytes in [
        vec![0],                         // the identity
        with(0, &[&x]),                  // not a form
        with(4, &[&x]),                  // half of another form
        with(4, &[&x, &y]),              // the uncompressed form
        with(7, &[&x, &y]),              // SEC 1's hybrid form
        with(3, &[x.get(1..).unwrap()]), // short
        with(3, &[&x, &[0]]),            // long
        with(2, &[&[0; 31], &[1]]),      // no point has this x
        with(2, &[&prime]),              // p is another way to write 0, and 0 is the x of a point
    ] {
        assert_eq!(of(&bytes), malformed, "{bytes:?}");
    }
    assert_eq!(of(&with(2, &[&[0; 32]])), Ok(()));
    let off = [&y, &x].map(Vec::as_slice);
    for bytes in [with(3, &[&x]), with(7, &[&x, &y]), with(6, &[&x, &y]), with(4, &off), with(4, &[&[0; 64]])] {
        assert!(P256Point::from_uncompressed(&bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn both_halves_of_age1tagpq_are_checked() {
    let text = hybrid_tag();
    let bytes = unbech32(&text);
    assert_eq!(bytes.len(), 1184 + 65);
    let error = |bytes: &[u8]| error(&bech32("age1tagpq", bytes));
    let malformed = RecipientError::Malformed("age1tagpq");
    let mut coefficient = bytes.clone();
    // 0xfff is not reduced modulo 3329 (FIPS 203 §7.2).
    coefficient.splice(0..2, [0xff, 0xff]);
    let mut off_curve = bytes.clone();
    *off_curve.last_mut().unwrap() ^= 1;
    let compressed = [&bytes[..1184], &P256Point::from_uncompressed(&bytes[1184..]).unwrap().compressed()].concat();
    for bytes in [&coefficient, &off_curve, &compressed, &bytes[1..].to_vec(), &bytes[..1184].to_vec()] {
        assert_eq!(error(bytes), malformed);
    }
    // A prefix of its own: the bytes of one kind are none of the other.
    assert_eq!(bech32("age1tagpq", &bytes), text);
    assert!(bech32("age1tag", &bytes).parse::<Recipient>().is_err());
}

#[test]
fn ssh_ed25519_points_are_canonical_and_of_full_order() {
    let of = |hex: &str| error(&ssh("ssh-ed25519", &[b"ssh-ed25519", &crate::support::unhex(hex)]));
    // The eight points of small order in their canonical encodings: order 1, 2, 4, 4, 8, 8, 8, 8.
    for hex in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ] {
        assert_eq!(of(hex), RecipientError::SmallOrder, "{hex}");
    }
    // Second spellings of the identity, and bytes that are no point.
    for hex in [
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "0200000000000000000000000000000000000000000000000000000000000000",
    ] {
        assert_eq!(of(hex), RecipientError::Malformed("ssh-ed25519"), "{hex}");
    }
}

#[test]
fn rsa_keys_are_long_enough() {
    let modulus = |bytes: usize| [&[0, 0x91], vec![7; bytes - 1].as_slice()].concat();
    let rsa = |bytes: usize| ssh("ssh-rsa", &[b"ssh-rsa", &[1, 0, 1], &modulus(bytes)]);
    assert_eq!(error(&rsa(128)), RecipientError::RsaTooShort { bits: 1024 });
    assert_eq!(error(&rsa(255)), RecipientError::RsaTooShort { bits: 2040 });
    let recipient: Recipient = rsa(256).parse().unwrap();
    assert_eq!(recipient.kind(), RecipientKind::SshRsa { bits: 2048 });
    assert_eq!(recipient.to_string(), rsa(256));
    let one = ssh("ssh-rsa", &[b"ssh-rsa", &[1], &modulus(256)]);
    assert!(
        one.parse::<Recipient>().is_err() || {
            // Exponent 1 would be no encryption at all; if the library took it, sealing must still fail.
            let recipient: Recipient = one.parse().unwrap();
            bulla_crypto::envelope::seal(&[recipient], None, b"").is_err()
        }
    );
}

#[test]
fn other_things_are_named() {
    assert_eq!(error(""), RecipientError::Unknown);
    assert_eq!(error("alice"), RecipientError::Unknown);
    assert_eq!(error("age1tag1qwertyuiop"), RecipientError::Malformed("age1tag"));
    assert_eq!(error("age1tagpq1qwertyuiop"), RecipientError::Malformed("age1tagpq"));
    assert_eq!(error("age1yubikey1qwertyuiop"), RecipientError::Unsupported);
    let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA==";
    assert_eq!(error(ecdsa), RecipientError::Ssh(SshPublicKeyError::Kind("ecdsa-sha2-nistp256".to_owned())));
    let sk = "sk-ssh-ed25519@openssh.com AAAA";
    assert_eq!(error(sk), RecipientError::Ssh(SshPublicKeyError::Kind("sk-ssh-ed25519@openssh.com".to_owned())));
    let secret = "AGE-SECRET-KEY-1QQQSYQCYQ5RQWZQFPG9SCRGWPUGPZYSNZS23V9CCRYDPK8QARC0S5NNQPK";
    assert_eq!(error(secret), RecipientError::SecretKey);
    assert_eq!(error(&secret.to_lowercase()), RecipientError::SecretKey);
    assert!(!error(secret).to_string().contains("QQQ") && !format!("{:?}", error(secret)).contains("QQQ"));
    assert_eq!(error("-----BEGIN OPENSSH PRIVATE KEY-----"), RecipientError::SecretKey);
}

/// "This recipient is taken" is asked by comparing.
#[test]
fn recipients_are_equal_by_their_texts() {
    let [x25519, ssh] = [X25519, SSH_ED25519].map(|text| text.parse::<Recipient>().unwrap());
    assert_ne!(x25519, ssh);
    assert_eq!(x25519, X25519.parse().unwrap());
}
