//! Keys that others hold: stanzas for keys in hardware, client certificates, URIs of keys on tokens.

use crate::crypto::{now, opens};
use bulla_crypto::BoxFuture;
use bulla_crypto::certificate::{Certificate, CertificateError};
use bulla_crypto::digest::{hmac_sha256, sha256};
use bulla_crypto::envelope::{Decrypter, OpenError, Stanza, decode_word};
use bulla_crypto::identity::{P256Agreement, TagKey};
use bulla_crypto::kem::{MlKemKey, P256_COMPRESSED_BYTES, P256Point};
use bulla_crypto::secret::{Secret, SecretKey};
use bulla_crypto::sign::{PublicKey, RsaMinimum};
use bulla_keys::KeySource;
use bulla_keys::uri::{MAX_URI_BYTES, TokenUri};
use bulla_wire::encoding::base64;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

/// The base point of P-256 (SEC 2 §2.4.2), which is the public key of the scalar 1.
const BASE: [u8; P256_COMPRESSED_BYTES] = [
    0x03, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03,
    0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
];
/// How often a key may be asked for one header.
const ASKED_MAX: usize = 4;
/// The longest stanza looked at: one with an encapsulation of ML-KEM-768 is below.
const STANZA_BYTES_MAX: usize = 4096;
const STANZAS_MAX: usize = 16;

/// The holder of the scalar 1, who agrees with a point on the x coordinate of that point.
struct One {
    point: P256Point,
    asked: AtomicUsize,
}

impl P256Agreement for One {
    fn public_key(&self) -> &P256Point {
        &self.point
    }

    fn agree<'a>(&'a self, peer: &'a P256Point) -> BoxFuture<'a, Result<SecretKey, OpenError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let x = peer.compressed().last_chunk::<32>().map(|x| SecretKey::filled(|to| to.copy_from_slice(x)));
        Box::pin(std::future::ready(x.ok_or_else(|| OpenError::Key("a point has an x".to_owned()))))
    }
}

struct Held {
    key: TagKey,
    holder: Arc<One>,
    kind: &'static str,
}

/// A key for each kind of stanza, with the same point.
static HELD: LazyLock<[Held; 2]> = LazyLock::new(|| {
    [false, true].map(|hybrid| {
        let point = P256Point::from_compressed(&BASE);
        let point = point.unwrap_or_else(|error| unreachable!("the base point is one: {error}"));
        let seed = Secret::filled(|seed| seed.fill(7));
        let ml_kem = hybrid.then(|| MlKemKey::from_seed(&seed));
        let ml_kem = ml_kem.transpose().unwrap_or_else(|error| unreachable!("a seed is a key: {error}"));
        let holder = Arc::new(One { point, asked: AtomicUsize::new(0) });
        let key = TagKey::new(Arc::<One>::clone(&holder), ml_kem);
        let key = key.unwrap_or_else(|error| unreachable!("both halves are keys: {error}"));
        Held { key, holder, kind: if hybrid { "mlkem768p256tag" } else { "p256tag" } }
    })
});

/// The keys that [`tag`] opens with: of `age1tag1…` and of `age1tagpq1…`.
pub fn tag_keys() -> [&'static TagKey; 2] {
    HELD.each_ref().map(|held| &held.key)
}

impl Held {
    /// The tag that names this key, written down anew from the age specification.
    fn tag(&self, encapsulated: &[u8]) -> Vec<u8> {
        let point = &self.holder.point;
        let hash =
            if self.kind == "p256tag" { sha256(&[&point.compressed()]) } else { sha256(&[point.uncompressed()]) };
        let label = format!("age-encryption.org/{}", self.kind);
        let short = |hash: [u8; 32]| hash.first_chunk::<4>().map(|tag| tag.to_vec()).unwrap_or_default();
        short(hmac_sha256(label.as_bytes(), &[encapsulated, &short(hash)]))
    }

    /// Opens with this key, which is asked only for stanzas that name it, and few times.
    fn open(&self, stanzas: &[Stanza]) {
        let named = stanzas.iter().filter(|stanza| match stanza.args.as_slice() {
            [tag, encapsulated] if stanza.kind == self.kind => {
                decode_word(encapsulated).is_some_and(|bytes| decode_word(tag) == Some(self.tag(&bytes)))
            }
            _ => false,
        });
        let (most, before) = (named.count().min(ASKED_MAX), self.holder.asked.load(Ordering::Relaxed));
        let found = now(self.key.unwrap_file_key(stanzas));
        let asked = self.holder.asked.load(Ordering::Relaxed).wrapping_sub(before);
        assert!(asked <= most, "asked {asked} times for {most} stanzas");
        assert!(asked > 0 || !matches!(found, Ok(Some(_))), "a file key without the private key");
    }
}

/// Stanzas for keys in hardware, in an age file or alone. Nobody finds a tag by chance, so stanzas are also read as if each
/// named the key.
pub fn tag(bytes: &[u8]) {
    let decrypters = HELD.each_ref().map(|held| &held.key as &dyn Decrypter);
    opens(bytes, &decrypters);
    let mut rest = bytes.strip_prefix(b"age-encryption.org/v1\n").unwrap_or(bytes);
    let mut stanzas = Vec::new();
    while stanzas.len() < STANZAS_MAX
        && let Ok(stanza) = Stanza::read(&mut rest, STANZA_BYTES_MAX)
    {
        stanzas.push(stanza);
    }
    for held in HELD.iter() {
        held.open(&stanzas);
        let mut tagged = stanzas.clone();
        for stanza in &mut tagged {
            stanza.kind = held.kind.to_owned();
            if let [tag, encapsulated] = stanza.args.as_mut_slice()
                && let Some(encapsulated) = decode_word(encapsulated)
            {
                *tag = base64(&held.tag(&encapsulated)).trim_end_matches('=').to_owned();
            }
        }
        held.open(&tagged);
    }
}

/// The last second of the year 9999, in Unix milliseconds.
const LAST_MS: u64 = 253_402_300_799_000;

/// The key of a client's certificate stands in one place, whoever issued it, and the certificate is valid for one stretch
/// of time. The input is also read as a server's, to be shown.
pub fn certificate(bytes: &[u8]) {
    if let Some(shown) = bulla_client::certificate::Certificate::of(bytes) {
        assert!(shown.ends_ms.is_none_or(|end| end <= LAST_MS), "an end that no certificate can have");
    }
    let Ok(found) = Certificate::parse(bytes) else { return };
    let spki = found.spki();
    assert_eq!(*found.key_id().as_bytes(), sha256(&[spki]));
    let place = bytes.as_ptr_range();
    assert!(place.contains(&spki.as_ptr()) && spki.len() < bytes.len(), "a key from elsewhere");
    let shorter = bytes.split_last().map(|(_, shorter)| shorter).unwrap_or_default();
    for other in [shorter, &[bytes, &[0]].concat()] {
        assert_eq!(Certificate::parse(other), Err(CertificateError::Malformed), "another end, and the same key");
    }
    if let Ok(key) = PublicKey::from_spki(spki, RsaMinimum::Bits2048) {
        assert_eq!((key.key_id(), key.spki()), (found.key_id(), spki), "one certificate, two keys");
    }
    // A quarter of a century from each to the next.
    let judged: Vec<_> = (0..8).map(|quarter| found.check_time(quarter * 25 * 31_556_952)).collect();
    let after = |one: &Result<(), CertificateError>| match one {
        Err(CertificateError::NotYet) => 0,
        Ok(()) => 1,
        Err(_) => 2,
    };
    assert!(judged.iter().map(after).is_sorted(), "valid again: {judged:?}");
    assert_eq!(found.check_time(u64::MAX), Err(CertificateError::Expired));
}

/// A URI that is taken has one canonical form, which is taken too; what is refused is told without a PIN.
pub fn token_uri(bytes: &[u8]) {
    let source = KeySource::parse(OsStr::from_bytes(bytes));
    if let Ok(source) = &source {
        assert_eq!(KeySource::parse(&source.to_os_string()).as_ref(), Ok(source), "not read as it is written");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let query = text.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let pin = || query.split('&').find_map(|part| part.strip_prefix("pin-value="));
    match text.parse::<TokenUri>() {
        Ok(uri) => {
            assert!(TokenUri::is_meant(text) && pin().is_none());
            let written = uri.to_string();
            assert!(written.len() <= MAX_URI_BYTES, "a canonical form that is not taken");
            assert_eq!(written.parse().as_ref(), Ok(&uri));
            assert_eq!(written.parse().map(|again: TokenUri| again.to_string()), Ok(written));
            assert_eq!(source, Ok(KeySource::Token(Box::new(uri))));
        }
        Err(error) => {
            let told = format!("{error} {error:?}");
            assert!(!told.contains(char::is_control), "an error that a terminal obeys");
            assert!(pin().is_none_or(|pin| pin.len() < 16 || !told.contains(pin)), "a PIN in an error");
            assert!(source.is_err() || !TokenUri::is_meant(text), "a URI that is taken for a file");
        }
    }
}
