//! What `bulla-crypto` reads besides evidence: age files, keys, shares, sealed bytes, snapshots.

use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{Decrypter, OpenError, Opened, Stanza, TransitStanza, inspect, open, open_to};
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::identity::{Identity, IdentityError, IdentityKind, PluginIdentity};
use bulla_crypto::openssh::agent::{self, AgentKey, Fingerprint, fingerprint_of_line};
use bulla_crypto::openssh::{SshPublicKey, without_comment};
use bulla_crypto::random::SeededRng;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretKey;
use bulla_crypto::shamir::{MAX_SHARES, Share, combine};
use bulla_crypto::share::{MESSAGE_BYTES, ShareContext, ShareOf, context};
use bulla_crypto::sign::{Algorithm, MAX_SPKI_BYTES, PublicKey, RsaMinimum, SigningKey};
use bulla_crypto::snapshot::Reader;
use bulla_crypto::transit::{Place, Signed, TransitError, TransitKey, Use};
use bulla_crypto::{sealed as sealing, snapshot as snapshots};
use bulla_wire::api::KeyKind;
use bulla_wire::id::{ClusterId, PrincipalId};
use bulla_wire::snapshot::Table;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

/// The longest stanza that is looked at alone.
const STANZA_BYTES_MAX: usize = 4096;
/// The most content that a target opens.
const OPENED_BYTES_MAX: usize = 1024 * 1024;

/// What a future with keys in memory gives: it has nothing to wait for.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("keys in memory answer at once"),
    }
}

/// The identity of a seed of one repeated byte: the fixed keys of all targets and of their corpora.
pub fn identity(kind: IdentityKind, seed: u8) -> Identity {
    let identity = Identity::from_seed(kind, SecretKey::filled(|bytes| bytes.fill(seed)));
    identity.unwrap_or_else(|error| unreachable!("a seed is a key: {error}"))
}

/// An age file, opened with keys in memory.
pub fn age(bytes: &[u8]) {
    static KEYS: LazyLock<[Identity; 2]> =
        LazyLock::new(|| [identity(IdentityKind::Hybrid, 1), identity(IdentityKind::Classical, 1)]);
    opens(bytes, &KEYS.each_ref().map(|key| key as &dyn Decrypter));
}

/// An age file opens the same in one piece and as a stream, and what its header tells to anybody fits what is in it.
pub(crate) fn opens(bytes: &[u8], decrypters: &[&dyn Decrypter]) {
    let seen = inspect(bytes);
    let whole = now(open(decrypters, bytes, OPENED_BYTES_MAX));
    let mut content = Vec::new();
    let piecemeal = now(open_to(decrypters, bytes, &mut content));
    if let Ok(Opened { plaintext, binding }) = &whole {
        let seen = seen.unwrap_or_else(|error| unreachable!("it opens, but its header is none: {error}"));
        assert_eq!((seen.plaintext_bytes, &seen.binding), (plaintext.expose().len(), binding));
        assert!(matches!(&piecemeal, Ok(found) if found == binding) && content == *plaintext.expose());
    } else {
        let too_large = matches!(whole, Err(OpenError::TooLarge { .. }));
        assert!(piecemeal.is_err() || too_large, "a stream opens what does not open at once");
        if let Ok(seen) = seen
            && let Some(binding) = seen.binding
        {
            let [cluster, from, to] =
                [binding.cluster.base64url(), binding.from.base64url(), binding.to_sha256.base64url()];
            let line = format!("\n-> bulla-wrap-v1 {} {cluster} {from} {to}\n", binding.wrap);
            assert!(bytes.windows(line.len()).any(|part| part == line.as_bytes()), "a second spelling of the binding");
        }
    }
}

/// A recipient has one text, and an OpenSSH line is a recipient exactly if its key is one. So has a fingerprint, which
/// is that of the key in the line.
pub fn recipient(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(recipient) = text.parse::<Recipient>() {
        assert_eq!((recipient.to_string().as_str(), recipient.as_str()), (text, text));
        assert_eq!(*recipient.digest().as_bytes(), sha256(&[bytes]));
        assert_eq!(recipient.is_hybrid(), Recipient::is_hybrid_text(text));
        assert_eq!(text.parse::<Recipient>().as_ref(), Ok(&recipient));
    }
    if let Ok(key) = SshPublicKey::parse(text) {
        assert_eq!(key.to_string(), text);
        assert_eq!(fingerprint_of_line(text), Some(Fingerprint::of(&key.blob())), "the fingerprint of another key");
        assert_eq!(Recipient::from_ssh(&key).ok(), text.parse().ok(), "two roads to one recipient");
    }
    let words = without_comment(text);
    assert_eq!(without_comment(&words), words);
    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string(), text, "a second spelling");
    }
    if let Some(fingerprint) = fingerprint_of_line(text) {
        assert_eq!(fingerprint_of_line(&format!("\n{text}\n")), Some(fingerprint), "empty lines name another key");
        assert_eq!(fingerprint_of_line(&format!("{text}\n{text}")), None, "one of two keys");
    }
}

/// A public key is the SPKI that it came from, and verifies nothing that was not signed.
pub fn public_key(bytes: &[u8]) {
    let Ok(key) = PublicKey::from_spki(bytes, RsaMinimum::Bits2048) else {
        assert!(PublicKey::from_spki(bytes, RsaMinimum::Bits3072).is_err(), "a higher limit takes more");
        return;
    };
    assert!(key.spki() == bytes && bytes.len() <= MAX_SPKI_BYTES);
    assert_eq!(*key.key_id().as_bytes(), sha256(&[bytes]));
    assert_eq!(Algorithm::from_name(key.algorithm().name()), Some(key.algorithm()));
    let signature = vec![0; key.algorithm().signature_len().unwrap_or(256)];
    assert!(key.verify(b"nobody signed this", &signature).is_err(), "zeros are a signature");
    if let Some(raw) = key.ed25519() {
        assert_eq!(PublicKey::from_ed25519(raw).as_ref(), Ok(&key));
    }
}

/// An identity that was read signs, and is written so that it is read as the same.
pub fn identity_file(bytes: &[u8]) {
    let Ok(found) = Identity::parse(bytes, RsaMinimum::Bits2048, &|| None) else { return };
    assert!(bytes.len() <= bulla_crypto::identity::MAX_IDENTITY_BYTES && !found.recipients().is_empty());
    let key = found.signing_key().unwrap_or_else(|| unreachable!("a file holds its key"));
    let signature = key.sign(b"message").unwrap_or_default();
    assert!(key.public_key().verify(b"message", &signature).is_ok(), "it signs, and not well");
    let obeyed = |text: Option<&str>| text.is_some_and(|text| text.contains(char::is_control));
    match found.to_file_text(found.name(), found.record()) {
        Ok(text) => {
            let again = Identity::parse(text.expose(), RsaMinimum::Bits2048, &|| None);
            let again = again.unwrap_or_else(|error| unreachable!("written and not read: {error}"));
            assert_eq!(again.signing_key().map(SigningKey::public_key), Some(key.public_key()));
            assert_eq!((again.name(), again.record()), (found.name(), found.record()));
            assert_eq!(again.recipients(), found.recipients());
            let twice = again.to_file_text(again.name(), again.record());
            assert!(twice.is_ok_and(|twice| twice.expose() == text.expose()), "a second spelling of a file");
        }
        Err(IdentityError::NotAge) => assert!(found.dual_use(), "an age key that cannot be written"),
        Err(error) => assert!(obeyed(found.name()) || obeyed(found.record()), "not written: {error}"),
    }
}

/// A key of an agent is named by its fingerprint in one text, and nothing that an agent says is a signature of a fixed
/// length without being one by its form.
pub fn ssh_agent(bytes: &[u8]) {
    static OWN: LazyLock<Vec<AgentKey>> = LazyLock::new(|| {
        let list = [&[12, 0, 0, 0, 1][..], &[0, 0, 0, 51], &SshPublicKey::Ed25519(ED25519).blob(), &[0; 4]].concat();
        agent::keys(&list).unwrap_or_default()
    });
    assert_eq!(OWN.len(), 1, "the list is well-formed");
    for key in OWN.iter() {
        if let Ok(signature) = key.signature(bytes) {
            assert!(bytes.ends_with(&signature), "a signature that the agent did not give");
        }
    }
    let Ok(keys) = agent::keys(bytes) else { return };
    for key in keys {
        let fingerprint = key.fingerprint();
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        let request = key.sign_request(b"message").unwrap_or_default();
        assert!(request.len() <= bytes.len().saturating_add(64), "a request is the key and the message");
        if let Ok(public) = key.public_key() {
            assert!(public.verify(b"message", &[0; 64]).is_err());
        }
        assert!(key.signature(bytes).is_err(), "a list is a signature");
    }
}

/// The base point of edwards25519 (RFC 8032 §5.1), a public key like others.
const ED25519: [u8; 32] = {
    let mut point = [0x66; 32];
    point[0] = 0x58;
    point
};

/// A file of a plugin signs nothing and names no path. A stanza has one spelling.
pub fn age_plugin(bytes: &[u8]) {
    if let Ok(Some(found)) = PluginIdentity::parse(bytes) {
        assert!(Identity::parse(bytes, RsaMinimum::Bits2048, &|| None).is_err(), "one file, two kinds of identities");
        assert!(!found.name().is_empty() && !found.name().contains(['/', '\\', '\0']));
        let line = found.line().expose();
        assert!(bytes.windows(line.len()).any(|part| part == line.as_slice()));
        assert_eq!(found.recipients().len(), 1);
    }
    if let Ok(stanza) = Stanza::read(&mut &*bytes, STANZA_BYTES_MAX) {
        assert!(bytes.starts_with(stanza.to_text().expose()), "a second spelling of a stanza");
    }
}

/// The fixed share that messages are checked against.
pub fn share_context() -> ShareContext {
    let (cluster, principal) = (ClusterId::new([0x11; 32]), PrincipalId::new([0x22; 32]));
    context(&ShareOf { cluster, epoch: 5, index: 1, k: 2, n: 3, principal })
}

/// Shares keep their bytes, and their order does not matter; a message for one use is none for the other.
pub fn share(bytes: &[u8]) {
    let (context, session) = (share_context(), "aaaqeayeaudaocajbifqydiob4");
    let [key, give] = [context.check_key_plaintext(bytes), context.check_give_plaintext(session, bytes)];
    assert!(key.is_err() || give.is_err(), "one message for two uses");
    if let Ok(key) = key {
        assert!(bytes.len() == MESSAGE_BYTES && context.key_plaintext(&key).expose() == bytes);
    }
    if let Ok(key) = give {
        assert!(bytes.len() == MESSAGE_BYTES && context.give_plaintext(session, &key).expose() == bytes);
    }
    let shares: Vec<Share> = bytes.as_chunks::<33>().0.iter().filter_map(Share::from_bytes).collect();
    for (share, chunk) in shares.iter().zip(bytes.as_chunks::<33>().0.iter().filter(|chunk| chunk.first() != Some(&0)))
    {
        assert_eq!(share.to_bytes().expose(), chunk);
    }
    if let Ok(secret) = combine(&shares) {
        assert!((2..=usize::from(MAX_SHARES)).contains(&shares.len()));
        assert!(combine(shares.iter().rev()).is_ok_and(|again| again.expose() == secret.expose()), "order matters");
    }
}

/// The key and the place of the corpus of [`sealed`].
pub fn sealed_place() -> (SecretKey, &'static [u8]) {
    (SecretKey::filled(|bytes| bytes.fill(0x55)), b"a place")
}

/// What opens does so under its key, at its place, and unaltered only.
pub fn sealed(bytes: &[u8]) {
    let (key, place) = sealed_place();
    let Ok(plaintext) = sealing::open(&key, place, bytes) else { return };
    assert_eq!(plaintext.expose().len().saturating_add(sealing::OVERHEAD), bytes.len());
    assert!(sealing::open(&key, b"another place", bytes).is_err());
    assert!(sealing::open(&SecretKey::filled(|bytes| bytes.fill(0x54)), place, bytes).is_err());
    let mut altered = bytes.to_vec();
    if let Some(last) = altered.last_mut() {
        *last ^= 1;
    }
    assert!(sealing::open(&key, place, &altered).is_err());
}

/// The key and the place of the ciphertexts in the corpus of [`transit`], and what must be given again to open them.
const TRANSIT_KEY: [u8; 32] = [0x42; 32];
const ORDERS: Place<'static> = Place { name: "orders", version: 1 };
const ROW: &[u8] = b"row 1";
/// What is encrypted for a try: the shortest RSA takes as much.
const TRIED_BYTES_MAX: usize = 64;

/// The first byte picks the kind, counted from `a`. The rest is read as a key of it, as a ciphertext for a fixed one,
/// and as the stanza of a file: a key that is taken does what its kind does, and what it made opens in its place only.
pub fn transit(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let kinds = KeyKind::ALL;
    let Some(&kind) = kinds.get(usize::from(first.wrapping_sub(b'a')) % kinds.len()) else { return };
    if let Ok(stanza) = Stanza::read(&mut &*rest, STANZA_BYTES_MAX) {
        let alone = TransitStanza::find(std::slice::from_ref(&stanza));
        if let Ok(Some(found)) = alone {
            assert_eq!(found.stanza(), stanza, "a second spelling of a stanza");
            assert!(TransitStanza::find(&[stanza.clone(), stanza]).is_err(), "one of two keys");
        }
    }
    if kind.is_symmetric()
        && let Ok(key) = TransitKey::parse(kind, &TRANSIT_KEY)
        && let Ok(plaintext) = key.decrypt(ORDERS, ROW, rest)
    {
        assert!(plaintext.expose().len() < rest.len());
        opens_there(&key, rest);
    }
    let key = match TransitKey::parse(kind, rest) {
        Ok(key) => key,
        Err(error) => return assert_eq!(error, TransitError::NoKey),
    };
    for taken_for in [Use::Encrypt, Use::Sign] {
        assert!(TransitKey::parse_for(taken_for, kind, rest).is_ok(), "a key for everything, and not for one thing");
    }
    assert!(TransitKey::parse(kind, &[rest, &[0]].concat()).is_err() || kind == KeyKind::HmacSha256, "a longer key");
    let plaintext = rest.get(..rest.len().min(TRIED_BYTES_MAX)).unwrap_or_default();
    match key.encrypt(ORDERS, ROW, plaintext, &mut SeededRng::from_u64(1)) {
        Ok(made) => {
            let opened = key.decrypt(ORDERS, ROW, &made);
            assert!(kind.encrypts() && opened.is_ok_and(|opened| opened.expose() == plaintext), "it does not open");
            opens_there(&key, &made);
        }
        Err(error) => assert!(!kind.encrypts() && error == TransitError::WrongKind, "{kind}: {error}"),
    }
    signs(kind, &key);
}

/// A ciphertext opens for its key's name and version, with its data and unaltered only.
fn opens_there(key: &TransitKey, made: &[u8]) {
    for place in [Place { name: "order", ..ORDERS }, Place { version: 2, ..ORDERS }] {
        assert_eq!(key.decrypt(place, ROW, made).err(), Some(TransitError::OtherKey));
    }
    assert_eq!(key.decrypt(ORDERS, b"row 2", made).err(), Some(TransitError::Damaged));
    for at in [0, made.len().saturating_sub(1)] {
        let mut altered = made.to_vec();
        if let Some(byte) = altered.get_mut(at) {
            *byte ^= 1;
        }
        assert!(key.decrypt(ORDERS, ROW, &altered).is_err(), "byte {at} is altered, and it opens");
    }
}

/// A signature or a MAC is that of its message alone, and comes from kinds that make one.
fn signs(kind: KeyKind, key: &TransitKey) {
    let (message, other) = (Signed::Message(b"message"), Signed::Message(b"another"));
    match key.sign(message, None) {
        Ok(signature) => {
            let held = (key.verify(message, None, &signature), key.verify(other, None, &signature));
            assert_eq!(held, (Ok(true), Ok(false)), "{kind}");
        }
        Err(error) => assert!(!kind.signs() && error == TransitError::WrongKind, "{kind}: {error}"),
    }
    assert_eq!(key.public_key().is_some(), kind.signs(), "{kind}");
    if let Some(public) = key.public_key() {
        assert_eq!(PublicKey::from_spki(public.spki(), RsaMinimum::Bits2048).as_ref(), Ok(public));
    }
    match key.hmac(b"message") {
        Ok(mac) => {
            assert_eq!((key.verify_hmac(b"message", &mac), key.verify_hmac(b"another", &mac)), (Ok(true), Ok(false)))
        }
        Err(error) => assert!(kind != KeyKind::HmacSha256 && error == TransitError::WrongKind, "{kind}: {error}"),
    }
}

/// A snapshot read in pieces is the one read at once, row by row and to the same end.
pub fn snapshot(bytes: &[u8]) {
    type Rows = Vec<(Table, Vec<u8>, Vec<u8>)>;
    let read = |pieces: usize| {
        let (mut reader, mut rows) = (Reader::new(), Rows::new());
        let taken = bytes.chunks(pieces).try_for_each(|piece| {
            reader.take(piece, &mut |row| {
                rows.push((row.table, row.key.to_vec(), row.value.to_vec()));
                Ok(())
            })
        });
        let end = taken.map_err(|error| error.name()).and_then(|()| reader.finish().map_err(|error| error.name()));
        (rows, end)
    };
    let (rows, whole) = read(bytes.len().max(1));
    assert!(rows.is_sorted_by(|a, b| (a.0, &a.1) < (b.0, &b.1)), "rows out of order");
    for (_, key, _) in rows.iter().filter(|(table, ..)| *table == Table::Plain) {
        if let Some(number) = key.strip_prefix(b"document/") {
            let number = std::str::from_utf8(number).unwrap_or_default();
            let parsed = number.parse::<u32>().map(|number| number.to_string());
            assert_eq!(parsed.as_deref(), Ok(number), "a second spelling of a document's number");
        }
    }
    for pieces in [1, 7, 100] {
        let (same, end) = read(pieces);
        assert!(same == rows, "other rows in pieces of {pieces}");
        assert_eq!(end.as_ref().err(), whole.as_ref().err(), "another end in pieces of {pieces}");
    }
    if let Ok(whole) = whole {
        let manifest = whole.manifest_unverified().clone();
        let pin = |cluster| move |genesis: &_, _: &[_]| ClusterView::pinned(cluster, genesis);
        let verified = whole.verify(pin(manifest.cluster), None, Some(manifest.sha256));
        if let Ok(snapshots::Verified { manifest: found, view }) = verified {
            assert_eq!((&found, found.cluster, found.doc), (&manifest, view.id(), view.newest().number()));
        }
    }
}
