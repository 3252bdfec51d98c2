//! Sealing and opening: what holds for every envelope.

use crate::support::{identity, now, open};
use bulla_crypto::BoxFuture;
use bulla_crypto::digest::{hmac_sha256, sha256};
use bulla_crypto::envelope::{self, Binding, Decrypter, FileKey, OpenError, SealError, Stanza};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::recipient::Recipient;
use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
use std::io::{self, BufReader, Read};

fn binding() -> Binding {
    Binding {
        wrap: WrapId::new([1; 16]),
        cluster: ClusterId::new([2; 32]),
        from: PrincipalId::new([3; 32]),
        to_sha256: Digest::new([4; 32]),
    }
}

/// Seals `text` to `to` under stanzas of our choice, as an attacker who knows the recipient can: the file
/// key is his own.
fn forge(to: &Identity, extra: &[&str]) -> Vec<u8> {
    // An attacker's own envelope gives him a well-formed stanza and, with his own identity, the file key.
    let attacker = identity(IdentityKind::Hybrid, 666);
    let honest =
        envelope::seal(&[attacker.recipients()[0].clone(), to.recipients()[0].clone()], None, b"text").unwrap();
    let header_end = honest.windows(4).position(|window| window == b"\n---").unwrap() + 1;
    let mut header = honest[..header_end].to_vec();
    let stanzas = stanzas_of(&honest);
    let file_key = now(attacker.unwrap_file_key(&stanzas)).unwrap().unwrap();
    for stanza in extra {
        header.extend_from_slice(stanza.as_bytes());
    }
    header.extend_from_slice(b"---");
    let prk = hmac_sha256(&[0; 32], &[file_key.expose()]);
    let key = hmac_sha256(&prk, &[b"header", &[1]]);
    let mac = data_encoding::BASE64_NOPAD.encode(&hmac_sha256(&key, &[&header]));
    header.extend_from_slice(format!(" {mac}\n").as_bytes());
    let body = honest[header_end..].iter().position(|byte| *byte == b'\n').unwrap() + header_end + 1;
    [header.as_slice(), &honest[body..]].concat()
}

/// The stanzas of a header, read by the simplest of parsers.
fn stanzas_of(file: &[u8]) -> Vec<Stanza> {
    let end = file.windows(4).position(|window| window == b"\n---").unwrap();
    let text = std::str::from_utf8(&file[..end]).unwrap();
    text.split("\n-> ")
        .skip(1)
        .map(|stanza| {
            let (first, body) = stanza.split_once('\n').unwrap();
            let mut words = first.split(' ').map(str::to_owned);
            let body = data_encoding::BASE64_NOPAD.decode(body.replace('\n', "").as_bytes()).unwrap();
            Stanza { kind: words.next().unwrap(), args: words.collect(), body }
        })
        .collect()
}

#[test]
fn every_size_and_kind_round_trips_in_one_piece_and_as_a_stream() {
    for kind in [IdentityKind::Hybrid, IdentityKind::Classical] {
        let own = identity(kind, 1);
        for size in [0_usize, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
            let text: Vec<u8> = (0..size).map(|place| u8::try_from(place % 251).unwrap()).collect();
            let sealed = envelope::seal(own.recipients(), Some(&binding()), &text).unwrap();
            let mut streamed = Vec::new();
            // A reader that gives little at a time must make no difference.
            let slow = BufReader::with_capacity(7, text.as_slice());
            let total = envelope::seal_to(own.recipients(), Some(&binding()), slow, &mut streamed).unwrap();
            assert_eq!(total, u64::try_from(size).unwrap());
            assert_eq!(streamed.len(), sealed.len());
            for file in [&sealed, &streamed] {
                let opened = open(&own, file).unwrap();
                assert_eq!(opened.plaintext.expose(), &text);
                assert_eq!(opened.binding, Some(binding()));
                let mut content = Vec::new();
                let reader = BufReader::with_capacity(11, file.as_slice());
                let bound = now(envelope::open_to(&[&own], reader, &mut content)).unwrap();
                assert_eq!((content, bound), (text.clone(), Some(binding())));
                let seen = envelope::inspect(file).unwrap();
                assert_eq!((seen.binding, seen.plaintext_bytes), (Some(binding()), size));
                let stanza = if kind == IdentityKind::Hybrid { "mlkem768x25519" } else { "X25519" };
                assert_eq!(seen.kinds, [stanza, "bulla-wrap-v1"]);
            }
        }
    }
}

/// Keeps a file key elsewhere, as a cluster does for `bulla encrypt`.
struct Kept(FileKey);

impl Decrypter for Kept {
    fn recipients(&self) -> &[Recipient] {
        &[]
    }

    fn unwrap_file_key<'a>(&'a self, stanzas: &'a [Stanza]) -> BoxFuture<'a, Result<Option<FileKey>, OpenError>> {
        let own = stanzas.iter().any(|stanza| stanza.kind == "kept");
        let key = own.then(|| FileKey::from_slice(self.0.expose()).unwrap());
        Box::pin(std::future::ready(Ok(key)))
    }
}

#[test]
fn a_file_key_may_be_kept_by_somebody_else() {
    let kept = Kept(FileKey::from_slice(&[7; 16]).unwrap());
    let stanza = Stanza { kind: "kept".into(), args: vec!["here".into()], body: vec![1] };
    for size in [0, 5, 70_000] {
        let text = vec![3; size];
        let mut file = Vec::new();
        let total = envelope::seal_under(&kept.0, &stanza, text.as_slice(), &mut file).unwrap();
        assert_eq!(total, size as u64);
        let mut content = Vec::new();
        now(envelope::open_to(&[&kept], file.as_slice(), &mut content)).unwrap();
        assert_eq!(content, text);
        let other = Kept(FileKey::from_slice(&[8; 16]).unwrap());
        assert!(now(envelope::open_to(&[&other], file.as_slice(), &mut Vec::new())).is_err());
    }
}

#[test]
fn any_of_several_recipients_opens_and_nobody_else() {
    let people: Vec<_> = (0..5).map(|number| identity(IdentityKind::Hybrid, number)).collect();
    let recipients: Vec<_> = people.iter().flat_map(|person| person.recipients().to_vec()).collect();
    let file = envelope::seal(&recipients[..4], None, b"text").unwrap();
    for person in &people[..4] {
        assert_eq!(open(person, &file).unwrap().plaintext.expose(), b"text");
    }
    assert!(matches!(open(&people[4], &file), Err(OpenError::NoMatch)));
    let both: [&dyn Decrypter; 2] = [&people[4], &people[2]];
    assert!(now(envelope::open(&both, &file, 4)).is_ok());
    assert!(matches!(now(envelope::open(&[], &file, 4)), Err(OpenError::NoMatch)));
}

#[test]
fn hybrid_and_classical_recipients_are_never_mixed() {
    let hybrid = identity(IdentityKind::Hybrid, 1).recipients()[0].clone();
    let classical = identity(IdentityKind::Classical, 2).recipients()[0].clone();
    let ssh: Recipient =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea".parse().unwrap();
    let mixed = envelope::seal(&[hybrid.clone(), classical.clone(), ssh.clone()], None, b"");
    match mixed {
        Err(SealError::MixedRecipients { classical: named }) => assert_eq!(named, [classical.clone(), ssh.clone()]),
        other => panic!("{other:?}"),
    }
    assert!(envelope::seal(&[hybrid.clone(), hybrid.clone()], None, b"").is_ok());
    assert!(envelope::seal(&[classical, ssh], None, b"").is_ok());
    assert!(matches!(envelope::seal(&[], None, b""), Err(SealError::NoRecipient)));
    let many = vec![hybrid; envelope::MAX_RECIPIENTS + 1];
    assert!(matches!(envelope::seal(&many, None, b""), Err(SealError::TooManyRecipients)));
    assert!(envelope::seal(&many[1..], None, b"").is_ok(), "the most recipients fit in the largest header");
}

#[test]
fn the_limit_counts_plaintext() {
    let own = identity(IdentityKind::Classical, 1);
    let file = envelope::seal(own.recipients(), None, &[7; 100]).unwrap();
    assert!(now(envelope::open(&[&own], &file, 100)).is_ok());
    assert!(matches!(now(envelope::open(&[&own], &file, 99)), Err(OpenError::TooLarge { limit: 99 })));
}

#[test]
fn a_changed_byte_anywhere_is_noticed() {
    let own = identity(IdentityKind::Classical, 1);
    let file = envelope::seal(own.recipients(), Some(&binding()), b"text").unwrap();
    for place in 0..file.len() {
        for bit in [1, 0x80] {
            let mut bad = file.clone();
            bad[place] ^= bit;
            let whole = open(&own, &bad).unwrap_err();
            let mut content = Vec::new();
            let stream = now(envelope::open_to(&[&own], bad.as_slice(), &mut content)).unwrap_err();
            assert_eq!(format!("{whole}"), format!("{stream}"), "byte {place}");
            // Bad bytes in a header are a header's failure, however they are read.
            assert!(!matches!(stream, OpenError::Io(_)), "byte {place}: {stream}");
            assert!(content.is_empty());
        }
    }
    for length in 0..file.len() {
        assert!(open(&own, &file[..length]).is_err(), "cut to {length}");
        assert!(now(envelope::open_to(&[&own], &file[..length], io::sink())).is_err());
        // Without a key, only the header and the room for a tag can be missed.
        assert_eq!(envelope::inspect(&file[..length]).is_err(), length < file.len() - b"text".len());
    }
    assert!(matches!(open(&own, &[file.as_slice(), b"x"].concat()), Err(OpenError::Payload)));
}

#[test]
fn a_binding_stands_once_or_not_at_all() {
    let own = identity(IdentityKind::Hybrid, 1);
    let [wrap, a, b, c] = ["aeaqcaibaeaqcaibaeaqcaibae", "A", "B", "C"].map(str::to_owned);
    let id = |letter: &str| letter.repeat(42) + "A";
    let good = format!("-> bulla-wrap-v1 {wrap} {} {} {}\n\n", id(&a), id(&b), id(&c));
    let opened = open(&own, &forge(&own, &[&good])).unwrap();
    assert_eq!(opened.binding.unwrap().wrap.to_string(), wrap);
    assert_eq!(open(&own, &forge(&own, &[])).unwrap().binding, None);
    // Anything may stand beside it, as other age programs add such stanzas.
    assert!(open(&own, &forge(&own, &[&good, "-> x-grease y\n\n"])).unwrap().binding.is_some());

    let twice = forge(&own, &[&good, &good]);
    for file in [
        twice,
        forge(&own, &[&good.replace("bulla-wrap-v1 a", "bulla-wrap-v1 A")]),
        forge(&own, &[&good.replace(&id(&b), "B")]),
        forge(&own, &[&good.replace(&id(&b), &("B".repeat(42) + "B"))]),
        forge(&own, &[&good.replace(&format!(" {}", id(&c)), "")]),
        forge(&own, &[&good.replace("\n\n", " more\n\n")]),
        forge(&own, &[&good.replace("\n\n", "\nAAAA\n")]),
        forge(&own, &["-> bulla-wrap-v1\n\n"]),
    ] {
        assert!(matches!(open(&own, &file), Err(OpenError::Binding(_))), "{}", String::from_utf8_lossy(&file));
        assert!(matches!(now(envelope::open_to(&[&own], file.as_slice(), io::sink())), Err(OpenError::Binding(_))));
        assert!(matches!(envelope::inspect(&file), Err(OpenError::Binding(_))));
    }
}

#[test]
fn the_binding_is_authenticated() {
    let own = identity(IdentityKind::Hybrid, 1);
    let file = envelope::seal(own.recipients(), Some(&binding()), b"text").unwrap();
    let other = Binding { wrap: WrapId::new([9; 16]), ..binding() };
    let (old, new) = (binding().wrap.to_string(), other.wrap.to_string());
    let place = file.windows(26).position(|window| window == old.as_bytes()).unwrap();
    let mut bad = file;
    bad.splice(place..place + 26, new.bytes());
    assert_eq!(envelope::inspect(&bad).unwrap().binding, Some(other), "shown, but not proved");
    assert!(matches!(open(&own, &bad), Err(OpenError::Mac)));
}

#[test]
fn passphrases_are_refused_with_their_own_error() {
    let own = identity(IdentityKind::Hybrid, 1);
    let file = forge(&own, &["-> scrypt YWFhYWFhYWFhYWFhYWFhYQ 18\nYWFhYWFhYWFhYWFhYWFhYQ\n"]);
    for error in [
        open(&own, &file).map(|_| ()).unwrap_err(),
        now(envelope::open_to(&[&own], file.as_slice(), io::sink())).map(|_| ()).unwrap_err(),
        envelope::inspect(&file).map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "passphrase recipients are refused");
    }
}

#[test]
fn a_header_without_end_does_not_fill_the_memory() {
    let own = identity(IdentityKind::Classical, 1);
    for line in ["-> x y\nAAAA\n", "x"] {
        // Four times the largest header, were it ever read.
        let body = line.repeat(4 * envelope::MAX_HEADER_BYTES / line.len());
        let reader = BufReader::new(b"age-encryption.org/v1\n".chain(body.as_bytes()));
        let error = now(envelope::open_to(&[&own], reader, io::sink())).unwrap_err();
        assert!(matches!(error, OpenError::Header(_)), "{error}");
    }
}

#[test]
fn nothing_is_sealed_twice_alike() {
    let own = identity(IdentityKind::Classical, 1);
    let files: Vec<_> = (0..4).map(|_| envelope::seal(own.recipients(), None, b"text").unwrap()).collect();
    let mut digests: Vec<_> = files.iter().map(|file| sha256(&[file])).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 4);
}

/// Who reads as a stream learns what a file was made for before any of its content.
#[test]
fn a_stream_tells_its_binding_before_its_content() {
    let own = identity(IdentityKind::Classical, 1);
    for bound in [Some(binding()), None] {
        let file = envelope::seal(own.recipients(), bound.as_ref(), b"text").unwrap();
        let reader = now(envelope::Reader::begin(&[&own], file.as_slice())).unwrap();
        assert_eq!(reader.binding(), bound.as_ref());
        let mut content = Vec::new();
        assert_eq!(reader.copy_to(&mut content).unwrap(), bound);
        assert_eq!(content, b"text");
    }
}

/// 256 KiB are a header still; a longer one is told from one that is cut short.
#[test]
fn the_largest_header_is_read_and_no_larger_one() {
    let own = identity(IdentityKind::Hybrid, 1);
    // Nonce, content and tag follow it.
    let header = |file: &[u8]| file.len() - 16 - b"text".len() - 16;
    let bare = header(&forge(&own, &[]));
    let padded = |size: usize| forge(&own, &[&format!("-> x {}\n\n", "y".repeat(size - bare - 7))]);
    let most = padded(envelope::MAX_HEADER_BYTES);
    assert_eq!(header(&most), envelope::MAX_HEADER_BYTES);
    assert_eq!(open(&own, &most).unwrap().plaintext.expose(), b"text");
    assert!(now(envelope::open_to(&[&own], most.as_slice(), io::sink())).is_ok());
    let more = padded(envelope::MAX_HEADER_BYTES + 1);
    for error in [
        open(&own, &more).map(|_| ()).unwrap_err(),
        now(envelope::open_to(&[&own], more.as_slice(), io::sink())).map(|_| ()).unwrap_err(),
        envelope::inspect(&more).map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, OpenError::Header("the header is larger than any real one")), "{error}");
    }
    let cut = envelope::inspect(b"age-encryption.org/v1\n-> X25519").unwrap_err();
    assert!(matches!(cut, OpenError::Header("the header is cut short")), "{cut}");
}

/// As the words of a plugin come: one stanza after the other, each read to its end and no further.
#[test]
fn stanzas_of_a_conversation_are_read_one_by_one() {
    // Around whole lines of 48 bytes, after which an empty one is the last.
    for size in [0, 1, 47, 48, 49, 96, 100] {
        let stanza = Stanza { kind: "kind".into(), args: vec!["a".into(), "b".into()], body: vec![7; size] };
        let text = stanza.to_text();
        let length = text.expose().len();
        let twice = [text.expose().as_slice(), text.expose(), b"rest"].concat();
        let mut input = twice.as_slice();
        for _ in 0..2 {
            // Exactly as long as is allowed.
            assert_eq!(Stanza::read(&mut input, length).unwrap(), stanza, "{size}");
        }
        assert_eq!(input, b"rest");
        let long = Stanza::read(&mut twice.as_slice(), length - 1).unwrap_err();
        assert!(matches!(long, OpenError::Header("a stanza is too long")), "{size}: {long}");
        for end in 0..length {
            let cut = Stanza::read(&mut &text.expose()[..end], 1000).unwrap_err();
            let ended = matches!(&cut, OpenError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof);
            assert!(ended, "{size} cut to {end}: {cut}");
        }
    }
}

#[test]
fn a_word_of_bytes_has_one_spelling() {
    assert_eq!(envelope::decode_word("AQI"), Some(vec![1, 2]));
    assert_eq!(envelope::decode_word(""), Some(vec![]));
    for other in ["AQI=", "AQJ", "AQ I", "A"] {
        assert_eq!(envelope::decode_word(other), None, "{other}");
    }
}

/// By these four bytes other age programs find the stanza for their key (`spec/envelope.md`, "Stanzas").
#[test]
fn an_ssh_stanza_names_its_key_by_four_bytes() {
    let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
    let file = envelope::seal(&[line.parse::<Recipient>().unwrap()], None, b"text").unwrap();
    let blob = data_encoding::BASE64.decode(line.split_once(' ').unwrap().1.as_bytes()).unwrap();
    let stanzas = stanzas_of(&file);
    assert_eq!(stanzas[0].kind, "ssh-ed25519");
    assert_eq!(stanzas[0].args[0], data_encoding::BASE64_NOPAD.encode(&sha256(&[&blob])[..4]));
}

/// Whoever has a key of a kind takes no header with a malformed stanza of this kind. SSH's kinds are in no published
/// vector.
#[test]
fn malformed_stanzas_of_ssh_kinds_spoil_the_header() {
    use crate::support::{on_path, parse, skip, ssh_key};
    let folder = tempfile::tempdir().unwrap();
    if on_path("ssh-keygen").is_none() {
        return skip("malformed_stanzas_of_ssh_kinds_spoil_the_header", "ssh-keygen");
    }
    for args in [&["-t", "ed25519"][..], &["-t", "rsa", "-b", "3072"]] {
        let own = parse(&std::fs::read(ssh_key(folder.path(), args, "").unwrap()).unwrap()).unwrap();
        let good = stanzas_of(&envelope::seal(own.recipients(), None, b"text").unwrap()).remove(0);
        let found = |change: &dyn Fn(&mut Stanza)| {
            let mut stanza = good.clone();
            change(&mut stanza);
            now(own.unwrap_file_key(&[stanza])).map(|key| key.is_some())
        };
        assert!(matches!(found(&|_| {}), Ok(true)));
        // For somebody else, by its tag or since it does not open.
        assert!(matches!(found(&|stanza| stanza.args[0] = "AAAAAA".into()), Ok(false)));
        assert!(matches!(found(&|stanza| stanza.body[0] ^= 1), Ok(false)));
        let spoilt = |change: &dyn Fn(&mut Stanza)| assert!(matches!(found(change), Err(OpenError::Header(_))));
        spoilt(&|stanza| stanza.args.push("x".into()));
        spoilt(&|stanza| drop(stanza.args.pop()));
        spoilt(&|stanza| stanza.args[0].push('A'));
        spoilt(&|stanza| stanza.args[0].truncate(4));
        if good.kind == "ssh-ed25519" {
            spoilt(&|stanza| stanza.body.push(0));
            spoilt(&|stanza| stanza.args[1].truncate(40));
            // A share of small order, with which everybody agrees on zero.
            spoilt(&|stanza| stanza.args[1] = data_encoding::BASE64_NOPAD.encode(&[0; 32]));
        }
    }
}
