//! What `bulla-core` and `bulla-store` read of what was stored: rows, records, policies, the journal.

use crate::json::document;
use bulla_core::action::{Action, Resource};
use bulla_core::barrier::{Barrier, Cursor, Kind, RecordKey};
use bulla_core::directory::{Principal, StoredPrincipal};
use bulla_core::engine::{chunk, due, policy as policies, wrap::slot};
use bulla_core::head::{HEAD_BYTES, Head, HeadError};
use bulla_core::operation::parse_record;
use bulla_core::policy::{MAX_TEXT_BYTES, PolicyError, PolicySet, Subject};
use bulla_core::record::{Answer, Page, SealedValue, Sequence, Snapshot, StoreKey, Table};
use bulla_core::seal::{SealConfig, Session, StoredSeal, row};
use bulla_core::seen::Seen;
use bulla_crypto::random::SeededRng;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_store::simulated::{journal_bodies, journal_writes};
use bulla_wire::id::{ClusterId, PrincipalId};
use bulla_wire::json::to_vec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

fn key(byte: u8) -> SecretKey {
    SecretKey::filled(|bytes| bytes.fill(byte))
}

/// A policy that is taken keeps its text and decides the same twice; a refusal names a place in the text.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let texts = BTreeMap::from([(crate::evidence::named("fuzz"), text.to_owned())]);
    let set = match PolicySet::parse(&texts) {
        Ok(set) => set,
        Err(PolicyError::Refused(refusal)) => {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&refusal.line), "line {} of {lines}", refusal.line);
            let line = text.split('\n').nth(refusal.line.saturating_sub(1)).unwrap_or_default();
            let end = line.chars().count().saturating_add(1);
            assert!((1..=end).contains(&refusal.column), "column {} of {end}", refusal.column);
            assert!(!refusal.message.is_empty() && !refusal.hint.is_empty());
            assert!(!refusal.to_string().contains(char::is_control), "a refusal that a terminal obeys: {refusal:?}");
            return;
        }
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(text.len() <= MAX_TEXT_BYTES);
    assert!(set.texts().eq([(&crate::evidence::named("fuzz"), text)]));
    let again = PolicySet::parse(&texts);
    assert!(again.as_ref().is_ok_and(|again| again.digest() == set.digest()));
    let subject = Subject {
        id: PrincipalId::new([1; 32]),
        name: crate::evidence::named("alice"),
        groups: vec![crate::evidence::named("ops")],
        attributes: BTreeMap::from([("team".to_owned(), "db".to_owned())]),
    };
    for (action, resource) in
        [(Action::KvGet, "kv/app/db"), (Action::WrapCreate, "wrap"), (Action::PolicyPut, "policy/x")]
    {
        let Ok(resource) = resource.parse::<Resource>() else { unreachable!("a resource") };
        let first = set.decide(&subject, action, &resource);
        assert_eq!(set.decide(&subject, action, &resource), first, "a remembered decision is another");
        assert_eq!(again.as_ref().map(|again| again.decide(&subject, action, &resource)).ok().as_ref(), Some(&first));
        assert!(!first.allowed || (first.errors.is_empty() && !first.because.is_empty()), "allowed for no reason");
    }
}

/// A head that is read is written as the same bytes, and no key vouches for a row that it did not make.
pub fn head(bytes: &[u8]) {
    let Ok(row) = SealedValue::new(bytes) else { return };
    let Ok(head) = Head::parse_unverified(&row) else { return };
    let (key, cluster) = (key(0x66), ClusterId::new([0x11; 32]));
    let written = head.encode(&key, &cluster, row.revision());
    let written = written.unwrap_or_else(|error| unreachable!("a head row has one length: {error}"));
    assert_eq!(written.as_bytes().get(..HEAD_BYTES - 32), bytes.get(..HEAD_BYTES - 32));
    assert_eq!(Head::verify(&written, &key, &cluster), Ok(head));
    assert_eq!(written.head_sequence(), Some(head.sequence));
    let position = head.position();
    assert_eq!((position.lineage, Sequence(position.sequence)), (head.lineage, head.sequence));
    let own = written == row;
    assert_eq!(Head::verify(&row, &key, &cluster), if own { Ok(head) } else { Err(HeadError::Mac) });
    assert_eq!(Head::verify(&written, &key, &ClusterId::new([0x12; 32])), Err(HeadError::Mac));
}

/// The barrier of the published vectors.
pub fn barrier_of_vectors() -> Barrier {
    let terms = BTreeMap::from([(1, key(0x22)), (2, key(0x33))]);
    let barrier = Barrier::new(ClusterId::new([0x11; 32]), terms, key(0x44));
    barrier.unwrap_or_else(|| unreachable!("it has terms"))
}

/// Table (1), kind (1), length of the store key (1), key, value: what opens does so there only. The whole input is
/// also read as a cursor, and as the key of something due.
pub fn barrier(bytes: &[u8]) {
    if let Some(cursor) = std::str::from_utf8(bytes).ok().and_then(Cursor::parse) {
        assert_eq!(cursor.to_text().as_bytes(), bytes);
    }
    for kind in [Kind::Due, Kind::DueActive] {
        if let Some(entry) = due::Entry::parse(kind, &Cursor::after_clear(bytes)) {
            assert_eq!(entry.key(), RecordKey::clear(kind, "", bytes), "an entry is written in another way");
        }
    }
    let Some(([table, kind, length], rest)) = bytes.split_first_chunk() else { return };
    let Some((store_key, value)) = rest.split_at_checked(usize::from(*length)) else { return };
    let (Ok(store_key), Ok(value)) = (StoreKey::new(store_key), SealedValue::new(value)) else { return };
    let tables = [Table::Plain, Table::Data, Table::Seen(u32::from(*table))];
    let table = tables.get(usize::from(*table)).copied().unwrap_or(Table::Seen(u32::from(*table)));
    let barrier = barrier_of_vectors();
    let Ok(plaintext) = barrier.open(table, &store_key, *kind, &value) else { return };
    assert_eq!(plaintext.expose().len().saturating_add(13 + bulla_crypto::sealed::OVERHEAD), value.as_bytes().len());
    assert!(barrier.open(table, &store_key, kind.wrapping_add(1), &value).is_err(), "of another kind");
    assert!(barrier.open(Table::Seen(7_777), &store_key, *kind, &value).is_err(), "in another table");
    let elsewhere = StoreKey::new([store_key.as_bytes(), b"x"].concat()).unwrap_or_else(|_| StoreKey::head());
    assert!(barrier.open(table, &elsewhere, *kind, &value).is_err(), "under another key");
    let mut altered = value.into_bytes();
    if let Some(revision) = altered.get_mut(5) {
        *revision ^= 1;
    }
    let altered = SealedValue::new(altered);
    assert!(altered.is_ok_and(|altered| barrier.open(table, &store_key, *kind, &altered).is_err()), "altered");
}

/// Pieces of a tag (1), a length (2) and bytes: `c` configuration, `k` keyring, `h` head, `s` the next share, `a` the
/// next approval, `r` that it was restored. What is taken as a seal holds what a session needs.
pub fn seal(bytes: &[u8]) {
    let (mut single, mut shares, mut approvals) = (BTreeMap::new(), Page::default(), Page::default());
    let mut rest = bytes;
    while let Some(([tag, length @ ..], after)) = rest.split_first_chunk::<3>() {
        let Some((piece, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { break };
        rest = after;
        let Ok(value) = SealedValue::new(piece) else { continue };
        let number = |page: &Page| u8::try_from(page.entries.len()).unwrap_or(u8::MAX);
        match tag {
            b's' => shares.entries.extend(row::share_key(number(&shares)).ok().map(|key| (key, value))),
            b'a' => approvals.entries.extend(row::approval_key(number(&approvals)).ok().map(|key| (key, value))),
            _ => drop(single.insert(*tag, value)),
        }
    }
    let mut value = |tag| Answer::Value(single.remove(&tag));
    let answers =
        vec![value(b'c'), value(b'k'), value(b'h'), Answer::Page(shares.clone()), Answer::Page(approvals), value(b'r')];
    let Ok(Some(stored)) = StoredSeal::parse(Snapshot { sequence: None, answers }) else { return };
    let config = stored.config();
    let n = config.n();
    assert!((1..=n).contains(&config.k) && usize::from(n) == shares.entries.len() && n <= 16, "k of n");
    for index in 0..n {
        let Some((_, admin)) = config.share(index) else { unreachable!("share {index} of {n} is nobody's") };
        assert_eq!(config.index_of(&admin.principal), Some(index));
        let row = shares.entries.get(usize::from(index)).map(|(_, value)| value.as_bytes()).unwrap_or_default();
        assert!(stored.key_file(index).is_some_and(|file| row.ends_with(file)));
    }
    assert!(config.share(n).is_none() && stored.key_file(n).is_none());
    let _ = (stored.head_unverified(), stored.approvals().len(), stored.config_digest());
    let Ok(session) = Session::open(0, Arc::new(stored), &mut SeededRng::from_u64(1)) else { return };
    assert!(session.describe().progress.have == 0 && session.progress().need == session.stored().config().k);
}

/// What must hold when a record is read as the type `T`: what was written is read as the same.
fn record<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let read = |bytes: &[u8]| parse_record::<T>("fuzzed", &SecretBytes::new(bytes.to_vec()));
    let value = read(bytes).ok()?;
    let written = to_vec(&value);
    let again = read(&written).map(|again| to_vec(&again));
    assert!(again.is_ok_and(|again| again == written), "what was written is not read as the same");
    Some(value)
}

/// The first byte picks the record: `p` principal, `l` policy, `u` upload, `s` slot, `n` nonce, `c` configuration of a
/// seal.
pub fn stored(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    match first {
        b'p' => {
            let Some(stored) = record::<StoredPrincipal>(rest) else { return };
            let Ok(principal) = Principal::from_stored(&stored) else { return };
            assert_eq!((principal.subject.id, principal.serial), (stored.id, stored.serial));
            let again = Principal::from_stored(&stored).map(|again| again.record_sha256);
            assert_eq!(again.ok(), Some(principal.record_sha256));
            assert!(principal.keys.iter().all(|key| key.reply_to().len() <= key.recipients.len()));
        }
        b'l' => drop(record::<policies::StoredPolicy>(rest)),
        b'u' => {
            if let Some(upload) = record::<chunk::Upload>(rest) {
                assert!(upload.queries(0, 3).len() <= 3 && upload.queries(upload.chunks(), 3).is_empty());
            }
        }
        b's' => drop(record::<slot::Slot>(rest)),
        b'n' => drop(record::<Seen>(rest)),
        b'c' => drop(document::<SealConfig>(rest)),
        _ => {}
    }
}

/// The store whose journal the corpus is.
pub const JOURNAL_OF: ([u8; 16], u64) = ([7; 16], 3);

/// Records as they stand behind a journal's header: what is given back is a beginning of what was written, and each
/// record's writes are written as they were read. The input is also read as one record's writes.
pub fn journal(bytes: &[u8]) {
    let (store, generation) = JOURNAL_OF;
    if let Some(writes) = journal_writes(bytes) {
        assert_eq!(writes, bytes, "writes are noted in another way");
    }
    let Ok(bodies) = journal_bodies(bytes, store, generation) else { return };
    let mut rest = bytes;
    for body in &bodies {
        let (head, after) = rest.split_at_checked(20).unwrap_or_default();
        let Some((raw, after)) = after.split_at_checked(body.len()) else { unreachable!("more than was written") };
        assert!(raw == body && head.starts_with(&generation.to_be_bytes()), "another record");
        rest = after.get(16..).unwrap_or_default();
    }
    // Under another store, nothing of it is believed.
    assert!(journal_bodies(bytes, [8; 16], generation).is_ok_and(|bodies| bodies.is_empty()));
}
