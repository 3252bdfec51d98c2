//! Identity files and SSH private keys.

use crate::support::{identity, now, on_path, open, parse, parse_with, run, skip, ssh_key, unhex, vectors};
use bulla_crypto::envelope::{self, OpenError};
use bulla_crypto::identity::{Identity, IdentityError, IdentityKind, MAX_IDENTITY_BYTES};
use bulla_crypto::openssh::SshPrivateKeyError;
use bulla_crypto::secret::SecretKey;
use bulla_crypto::sign::{RsaMinimum, Signer, SigningKey};
use data_encoding::BASE64;
use serde_json::Value;
use std::sync::Arc;

#[test]
fn the_published_vectors() {
    let file = std::fs::read(vectors("identity").join("identity.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&file).unwrap();
    assert_eq!(cases.len(), 4);
    for case in &cases {
        let text = |name: &str| case.get(name).unwrap().as_str().unwrap();
        let secret = |name: &str| SecretKey::from_slice(&unhex(text(name))).unwrap();
        let kind = if text("kind") == "hybrid" { IdentityKind::Hybrid } else { IdentityKind::Classical };
        let identity = Identity::from_seed(kind, secret("seed")).unwrap();
        assert_eq!(identity.recipients()[0].as_str(), text("recipient"));
        assert_eq!(identity.recipients()[0].digest().to_string(), text("recipient_digest"));
        assert_eq!(identity.signing_key().unwrap().public_key().key_id().to_string(), text("key_id"));
        let signing = SigningKey::from_seed(&secret("sign_seed")).unwrap();
        assert_eq!(signing.public_key().key_id().to_string(), text("key_id"));
        let written = identity.to_file_text(None, None).unwrap();
        assert_eq!(
            std::str::from_utf8(written.expose()).unwrap(),
            format!(
                "# bulla identity v1\n# key id: {}\n# recipient: {}\n{}\n",
                text("key_id"),
                text("recipient"),
                text("secret")
            )
        );
        let read = parse(text("secret").as_bytes()).unwrap();
        assert_eq!(read.recipients(), identity.recipients());
    }
}

#[test]
fn keys_may_have_different_holders() {
    let (signs, opens) = (identity(IdentityKind::Classical, 1), identity(IdentityKind::Hybrid, 2));
    let file = envelope::seal(opens.recipients(), None, b"text").unwrap();
    let signs_only = Identity::from_parts(Arc::new(identity(IdentityKind::Classical, 1)), None, false);
    assert!(signs_only.recipients().is_empty() && signs_only.signing_key().is_none());
    assert!(matches!(open(&signs_only, &file), Err(OpenError::NoMatch)));
    assert!(matches!(signs_only.to_file_text(None, None), Err(IdentityError::NotAge)));
    let both = signs_only.decrypting_with(Arc::new(identity(IdentityKind::Hybrid, 2)), false);
    assert_eq!(both.public_key(), signs.public_key());
    assert_eq!(both.recipients(), opens.recipients());
    assert_eq!(open(&both, &file).unwrap().plaintext.expose(), b"text");
    let signature = now(Signer::sign(&both, b"message")).unwrap();
    assert!(signs.public_key().verify(b"message", &signature).is_ok());
    // Of a file's secret only half is at hand now, so it is not written again.
    let half = signs.decrypting_with(Arc::new(opens), false);
    assert!(matches!(half.to_file_text(None, None), Err(IdentityError::NotAge)));
}

#[test]
fn a_file_round_trips() {
    for kind in [IdentityKind::Hybrid, IdentityKind::Classical] {
        let own = identity(kind, 1);
        assert!(!own.dual_use());
        let text = own.to_file_text(Some("alice"), Some(r#"{"v":1}"#)).unwrap();
        let read = parse(text.expose()).unwrap();
        assert_eq!((read.name(), read.record()), (Some("alice"), Some(r#"{"v":1}"#)));
        assert_eq!(read.recipients(), own.recipients());
        assert_eq!(Signer::public_key(&read).key_id(), Signer::public_key(&own).key_id());
        let file = envelope::seal(own.recipients(), None, b"text").unwrap();
        assert_eq!(open(&read, &file).unwrap().plaintext.expose(), b"text");
        let signature = now(Signer::sign(&read, b"message")).unwrap();
        assert!(Signer::public_key(&own).verify(b"message", &signature).is_ok());
        // The same file from an editor on Windows, and without the last line's end.
        let crlf = std::str::from_utf8(text.expose()).unwrap().replace('\n', "\r\n");
        assert!(parse(crlf.trim_end().as_bytes()).is_ok());
        assert_eq!(text.expose(), read.to_file_text(read.name(), read.record()).unwrap().expose());
    }
    let own = identity(IdentityKind::Hybrid, 1);
    for bad in ["a\nb", "a\rb", "\u{7f}"] {
        assert_eq!(own.to_file_text(Some(bad), None).unwrap_err(), IdentityError::ControlCharacter("name"));
        assert_eq!(own.to_file_text(None, Some(bad)).unwrap_err(), IdentityError::ControlCharacter("record"));
    }
}

#[test]
fn every_other_file_is_named() {
    let own = identity(IdentityKind::Classical, 1);
    let text = String::from_utf8(own.to_file_text(None, None).unwrap().expose().clone()).unwrap();
    let key = text.lines().last().unwrap();
    let recipient = own.recipients()[0].to_string();
    let other = identity(IdentityKind::Classical, 2);
    let hybrid = identity(IdentityKind::Hybrid, 1).recipients()[0].to_string();
    let ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea a comment";
    let cases = [
        (String::new(), IdentityError::Empty),
        ("# only a comment\n\n".to_owned(), IdentityError::Empty),
        (format!("{key}\n{key}\n"), IdentityError::Several),
        (recipient.clone(), IdentityError::Recipient),
        (hybrid, IdentityError::Recipient),
        (ssh.to_owned(), IdentityError::SshPublicKey),
        ("ecdsa-sha2-nistp256 AAAA x".to_owned(), IdentityError::SshPublicKey),
        ("age-encryption.org/v1\n-> scrypt".to_owned(), IdentityError::Encrypted),
        ("-----BEGIN AGE ENCRYPTED FILE-----\n".to_owned(), IdentityError::Encrypted),
        ("AGE-PLUGIN-YUBIKEY-1QQQ".to_owned(), IdentityError::Plugin),
        ("-----BEGIN RSA PRIVATE KEY-----\n".to_owned(), IdentityError::Pem),
        ("# a\nhello\n".to_owned(), IdentityError::Line(2)),
        (key.to_lowercase(), IdentityError::Damaged),
        (key.replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-PQ-1"), IdentityError::Damaged),
        (format!("{key} "), IdentityError::Damaged),
        (key[..key.len() - 1].to_owned(), IdentityError::Damaged),
        (text.replace(&recipient, other.recipients()[0].as_str()), IdentityError::Contradiction("recipient")),
        (format!("# public key: {}\n{key}\n", other.recipients()[0]), IdentityError::Contradiction("recipient")),
        (
            text.replace(
                &Signer::public_key(&own).key_id().to_string(),
                &Signer::public_key(&other).key_id().to_string(),
            ),
            IdentityError::Contradiction("key id"),
        ),
        ("#".repeat(MAX_IDENTITY_BYTES + 1), IdentityError::TooLarge),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n".to_owned(), IdentityError::Ssh(SshPrivateKeyError::Malformed)),
    ];
    let body = key.get(20..40).unwrap();
    for (file, expected) in cases {
        let error = parse(file.as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(error, expected);
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains(body), "{shown}");
        }
    }
    assert_eq!(parse(b"# \xff\n").map(|_| ()).unwrap_err(), IdentityError::Line(1));
    assert!(!format!("{own:?}").contains(body));
}

#[test]
fn ssh_keys_serve_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    if on_path("ssh-keygen").is_none() {
        return skip("ssh_keys_serve_as_they_are", "ssh-keygen");
    }
    let ciphers = ["aes256-ctr", "aes256-cbc", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"];
    let mut keys = vec![
        (vec!["-t", "ed25519"], ""),
        (vec!["-t", "ed25519"], "correct horse"),
        (vec!["-t", "rsa", "-b", "3072"], ""),
        (vec!["-t", "rsa", "-b", "4096", "-a", "1"], "correct horse"),
    ];
    keys.extend(ciphers.map(|cipher| (vec!["-t", "ed25519", "-a", "1", "-Z", cipher], "correct horse")));
    for (number, (args, passphrase)) in keys.into_iter().enumerate() {
        let place = folder.path().join(number.to_string());
        std::fs::create_dir(&place).unwrap();
        let path = ssh_key(&place, &args, passphrase).unwrap();
        let file = std::fs::read(&path).unwrap();
        let own = if passphrase.is_empty() { parse(&file) } else { parse_with(&file, passphrase) }.unwrap();
        assert!(own.dual_use(), "{args:?}");
        let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        assert_eq!(own.recipients()[0].as_str(), bulla_crypto::openssh::without_comment(&line));
        let sealed = envelope::seal(own.recipients(), None, b"text").unwrap();
        assert_eq!(open(&own, &sealed).unwrap().plaintext.expose(), b"text");
        let signature = now(Signer::sign(&own, b"message")).unwrap();
        assert!(Signer::public_key(&own).verify(b"message", &signature).is_ok());
        assert_eq!(own.to_file_text(None, None).unwrap_err(), IdentityError::NotAge);
        if !passphrase.is_empty() {
            let wrong = parse_with(&file, "wrong").map(|_| ()).unwrap_err();
            assert_eq!(wrong, IdentityError::Ssh(SshPrivateKeyError::WrongPassphrase));
            let none = Identity::parse(&file, RsaMinimum::Bits3072, &|| None).map(|_| ()).unwrap_err();
            assert_eq!(none, IdentityError::Ssh(SshPrivateKeyError::PassphraseNeeded));
        }
    }
}

#[test]
fn ssh_keys_that_cannot_serve_are_named() {
    let folder = tempfile::tempdir().unwrap();
    if on_path("ssh-keygen").is_none() {
        return skip("ssh_keys_that_cannot_serve_are_named", "ssh-keygen");
    }
    for passphrase in ["", "correct horse"] {
        let place = folder.path().join(format!("ecdsa{}", passphrase.len()));
        std::fs::create_dir(&place).unwrap();
        let ecdsa = std::fs::read(ssh_key(&place, &["-t", "ecdsa", "-b", "256"], passphrase).unwrap()).unwrap();
        // Refused before anybody is asked for a passphrase.
        let error = parse(&ecdsa).map(|_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an SSH key of kind ecdsa-sha2-nistp256 cannot decrypt; take Ed25519 or RSA",
            "{passphrase}"
        );
    }
    let old = ssh_key(folder.path(), &["-t", "rsa", "-b", "2048", "-m", "PEM"], "").unwrap();
    assert_eq!(parse(&std::fs::read(&old).unwrap()).map(|_| ()).unwrap_err(), IdentityError::Pem);
    let keygen = on_path("ssh-keygen").unwrap();
    run(&keygen, &["-q", "-p", "-N", "", "-f", old.to_str().unwrap()], None, b"");
    let short = std::fs::read(&old).unwrap();
    let error = parse(&short).map(|_| ()).unwrap_err();
    assert!(matches!(error, IdentityError::Signing(_)), "{error}");
    // Where a cluster allows it for old cards, 2048 bits sign; they decrypt anyhow.
    let own = Identity::parse(&short, RsaMinimum::Bits2048, &|| None).unwrap();
    let sealed = envelope::seal(own.recipients(), None, b"text").unwrap();
    assert_eq!(open(&own, &sealed).unwrap().plaintext.expose(), b"text");
}

#[test]
fn a_stanza_for_another_ssh_key_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    if on_path("ssh-keygen").is_none() {
        return skip("a_stanza_for_another_ssh_key_is_passed_over", "ssh-keygen");
    }
    let make = |name: &str, args: &[&str]| {
        let place = folder.path().join(name);
        std::fs::create_dir(&place).unwrap();
        parse(&std::fs::read(ssh_key(&place, args, "").unwrap()).unwrap()).unwrap()
    };
    let people = [
        make("a", &["-t", "ed25519"]),
        make("b", &["-t", "ed25519"]),
        make("c", &["-t", "rsa", "-b", "3072"]),
        make("d", &["-t", "rsa", "-b", "3072"]),
    ];
    let to: Vec<_> = people.iter().flat_map(|person| person.recipients().to_vec()).collect();
    let file = envelope::seal(&to, None, b"text").unwrap();
    for person in &people {
        assert_eq!(open(person, &file).unwrap().plaintext.expose(), b"text");
    }
    let file = envelope::seal(&[to[0].clone(), to[2].clone()], None, b"text").unwrap();
    for person in [&people[1], &people[3]] {
        assert!(matches!(open(person, &file), Err(envelope::OpenError::NoMatch)));
    }
}

/// The largest file is read, and one with a byte more is not (`spec/identity-file.md`).
#[test]
fn a_file_of_exactly_64_kib_is_read() {
    let text = identity(IdentityKind::Classical, 1).to_file_text(None, None).unwrap();
    let filled = |size: usize| [vec![b'#'; size - 1 - text.expose().len()].as_slice(), b"\n", text.expose()].concat();
    assert!(parse(&filled(MAX_IDENTITY_BYTES)).is_ok());
    assert_eq!(parse(&filled(MAX_IDENTITY_BYTES + 1)).map(|_| ()).unwrap_err(), IdentityError::TooLarge);
}

/// A key file in which something is changed, in PEM as ssh-keygen writes it.
fn repacked(file: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut lines: Vec<&str> = std::str::from_utf8(file).unwrap().lines().collect();
    let (begin, end) = (lines.remove(0), lines.pop().unwrap());
    let mut bytes = BASE64.decode(lines.concat().as_bytes()).unwrap();
    change(&mut bytes);
    let encoded = BASE64.encode(&bytes);
    let body: Vec<&str> = encoded.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("{begin}\n{}\n{end}\n", body.join("\n")).into_bytes()
}

/// Who made a key file must not choose for how long others compute: 10,000 rounds are some minutes.
#[test]
fn bcrypt_rounds_are_judged_before_a_passphrase_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    if on_path("ssh-keygen").is_none() {
        return skip("bcrypt_rounds_are_judged_before_a_passphrase_is_asked_for", "ssh-keygen");
    }
    let path = ssh_key(folder.path(), &["-t", "ed25519", "-a", "1"], "correct horse").unwrap();
    let file = std::fs::read(path).unwrap();
    let with = |rounds: u32| {
        repacked(&file, |bytes| {
            // PROTOCOL.key: the KDF's name, length of its options, length of the salt, 16 bytes of salt, rounds.
            let start = bytes.windows(6).position(|six| six == b"bcrypt").unwrap() + 6 + 4 + 4 + 16;
            bytes[start..start + 4].copy_from_slice(&rounds.to_be_bytes());
        })
    };
    for rounds in [10_001, u32::MAX] {
        // `parse` panics when it is asked for a passphrase.
        let error = parse(&with(rounds)).map(|_| ()).unwrap_err();
        assert_eq!(error, IdentityError::Ssh(SshPrivateKeyError::TooManyRounds(rounds)));
    }
    let most = Identity::parse(&with(10_000), RsaMinimum::Bits3072, &|| None).map(|_| ()).unwrap_err();
    assert_eq!(most, IdentityError::Ssh(SshPrivateKeyError::PassphraseNeeded));
}
