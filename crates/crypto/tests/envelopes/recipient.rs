//! Recipients: one spelling, and no key that protects nothing.

use crate::support::identity;
use bulla_crypto::digest::sha256;
use bulla_crypto::identity::IdentityKind;
use bulla_crypto::openssh::{SshPublicKeyError, without_comment};
use bulla_crypto::recipient::{Recipient, RecipientError, RecipientKind};
use data_encoding::BASE64;

const X25519: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
const SSH_ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

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
    for (text, kind) in [
        (hybrid.as_str(), RecipientKind::Hybrid),
        (X25519, RecipientKind::X25519),
        (SSH_ED25519, RecipientKind::SshEd25519),
    ] {
        let recipient: Recipient = text.parse().unwrap();
        assert_eq!(recipient.kind(), kind);
        assert_eq!(recipient.is_hybrid(), kind == RecipientKind::Hybrid);
        assert_eq!(recipient.to_string(), text);
        assert_eq!(recipient.digest().as_bytes(), &sha256(&[text.as_bytes()]));
        assert_eq!(recipient, text.parse().unwrap());
    }
}

#[test]
fn one_spelling() {
    let hybrid = identity(IdentityKind::Hybrid, 1).recipients()[0].to_string();
    for text in [hybrid.as_str(), X25519] {
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
    assert_eq!(error("age1tag1qwertyuiop"), RecipientError::Unsupported);
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
