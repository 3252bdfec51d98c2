//! What `bulla-client` reads besides answers: files in which it remembers something, and proofs.

use crate::evidence::{Keys, altered, sign};
use crate::json::document;
use bulla_client::{Known, Proof, Remembered, Seen};
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::identity::Identity;
use bulla_wire::dsse::Envelope;
use bulla_wire::id::ClusterId;
use bulla_wire::json::{MAX_JSON_BYTES, V1, parse, to_vec};
use bulla_wire::name::Name;
use bulla_wire::wrap::{RECEIPT_TYPE, STATEMENT_TYPE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// The files of [`remembered`], by the first byte of the input.
const FILES: &[(u8, &str)] = &[
    (b's', "state.json"),
    (b'e', "share.json"),
    (b'k', "known.json"),
    (b'd', "documents.json"),
    (b'c', "consents.json"),
];
/// Receipts that one input may hold, so that it stays fast.
const RECEIPTS_MAX: usize = 8;

/// The first byte picks the file, the rest is what it holds: what is read of it is written so that it is read as the
/// same, also by the strict reader; and documents in it are believed as far as somebody signed them.
pub fn remembered(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let Some((_, name)) = FILES.iter().find(|(letter, _)| letter == first) else { return };
    let read = match Remembered::parse(name, rest) {
        Ok(Some(read)) => read,
        Ok(None) => unreachable!("{name} is a file of a client"),
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let written = read.to_bytes().unwrap_or_else(|error| unreachable!("read and not written: {error}"));
    let again = Remembered::parse(name, &written).ok().flatten();
    assert_eq!(again.as_ref(), Some(&read), "what was written is not read as the same");
    match &read {
        Remembered::State(seen) => {
            document::<Seen>(rest);
            alike(seen, rest);
        }
        Remembered::Share(epoch) => alike(epoch, rest),
        Remembered::Known(known) => {
            document::<BTreeMap<Name, Known>>(rest);
            alike(known, rest);
        }
        Remembered::Documents(documents) => {
            document::<Vec<Envelope>>(rest);
            alike(documents, rest);
            believed(documents);
        }
        // In a file they may stand in any order.
        Remembered::Consents(consents) => alike(consents, rest),
    }
}

/// The strict reader, where it takes these bytes, takes them for the same; and it takes what is written of them.
fn alike<T: Serialize + DeserializeOwned + PartialEq + Debug>(read: &T, bytes: &[u8]) {
    if let Ok(strict) = parse::<T>(bytes, MAX_JSON_BYTES) {
        assert_eq!(&strict, read, "two readers, two values");
    }
    assert_eq!(parse::<T>(&to_vec(read), usize::MAX).as_ref(), Ok(read));
}

/// A client that pinned the fixed cluster believes its documents, whatever else stands in the file.
fn believed(documents: &[Envelope]) {
    let view = &Keys::get().view;
    let Some((genesis, later)) = documents.split_first() else { return };
    let Ok(mut shown) = ClusterView::pinned(view.id(), genesis) else { return };
    for document in later {
        if shown.push(document).is_err() {
            break;
        }
    }
    for document in shown.documents() {
        let known = view.document(document.number()).map(|known| known.digest());
        assert_eq!(known, Some(document.digest()), "a document that nobody signed");
    }
}

/// The first line is a writer's statement, the second the receipt of the wrap's creation, and the others are those of
/// its slots, which empty lines part; all are signed on the way. What is proven is not once a part is altered or left
/// out. The whole input is also read as a proof.
pub fn proof(bytes: &[u8]) {
    document::<Proof>(bytes);
    if let Ok(proof) = parse::<Proof>(bytes, MAX_JSON_BYTES) {
        holds(&proof);
    }
    let Keys { people: [alice, ..], records, node, view } = Keys::get();
    let by = |payload_type: &str, line: &[u8], who: &Identity| sign(payload_type, line, &[who]);
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let statement = by(STATEMENT_TYPE, lines.next().unwrap_or_default(), alice);
    let created = by(RECEIPT_TYPE, lines.next().unwrap_or_default(), node);
    let mut slots: Vec<Vec<Envelope>> = vec![Vec::new()];
    for line in lines.take(RECEIPTS_MAX) {
        match slots.last_mut() {
            Some(slot) if !line.is_empty() => slot.push(by(RECEIPT_TYPE, line, node)),
            _ => slots.push(Vec::new()),
        }
    }
    let documents = view.documents().map(|document| document.envelope().clone()).collect();
    let writer = records.iter().take(1).map(|record| record.envelope().clone()).collect();
    holds(&Proof { v: V1, cluster: view.id(), documents, writer, statement, created, slots });
}

/// What must hold of a proof, whether it proves something or not.
fn holds(proof: &Proof) {
    let text = to_vec(proof);
    assert_eq!(parse::<Proof>(&text, usize::MAX).as_ref(), Ok(proof), "not read as it is written");
    let Ok(report) = proof.verify(None) else {
        return assert!(proof.verify(Some(&proof.cluster)).is_err(), "a pin proves what was not");
    };
    assert_eq!(report.cluster, proof.cluster);
    assert!(proof.verify(Some(&proof.cluster)).is_ok(), "its own pin does not fit");
    assert!(proof.verify(Some(&ClusterId::new([0; 32]))).is_err(), "another pin fits");
    let receipts: usize = proof.slots.iter().map(Vec::len).sum();
    assert_eq!(report.receipts.len(), receipts.saturating_add(1));
    let refuses = |change: &dyn Fn(&mut Proof)| {
        let mut other = proof.clone();
        change(&mut other);
        assert!(other.verify(None).is_err(), "it proves what was altered");
    };
    refuses(&|other| other.documents.clear());
    refuses(&|other| other.writer.clear());
    refuses(&|other| other.statement = altered(&other.statement));
    refuses(&|other| other.created = altered(&other.created));
    for (slot, receipts) in proof.slots.iter().enumerate() {
        for at in 0..receipts.len() {
            refuses(&|other| {
                let envelope = other.slots.get_mut(slot).and_then(|slot| slot.get_mut(at));
                envelope.into_iter().for_each(|envelope| *envelope = altered(envelope));
            });
        }
        // That the last one is missing, nothing tells.
        for at in 1..receipts.len() {
            refuses(&|other| {
                other.slots.get_mut(slot).into_iter().for_each(|slot| drop(slot.remove(at.saturating_sub(1))))
            });
        }
    }
}
