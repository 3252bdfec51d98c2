use super::*;
use crate::fixture::{World, world};
use bulla_crypto::evidence::{payload_digest, sign_in_memory};
use bulla_wire::id::{Digest, Lineage};
use bulla_wire::wrap::{Addressee, Ciphertext, Mode, Receipt, Statement};

fn receipt(world: &World, statement: &Envelope, kind: ReceiptKind, prev: Option<&Envelope>) -> Envelope {
    let payload = Receipt {
        v: V1,
        cluster: world.view.id(),
        node: world.node.public_key().key_id(),
        kind,
        wrap: WrapId::new([5; 16]),
        slot: 0,
        statement_sha256: payload_digest(statement),
        actor: None,
        claim_sha256: None,
        at_ms: 7,
        doc: 1,
        epoch: 1,
        lineage: Lineage::new([1; 16]),
        prev: prev.map(payload_digest),
    };
    sign_in_memory(&payload, &[&world.node]).unwrap()
}

fn proof(world: &World) -> Proof {
    let statement = Statement {
        v: V1,
        cluster: world.view.id(),
        wrap: WrapId::new([5; 16]),
        from: world.alice.record.principal(),
        to: vec![Addressee {
            principal: world.bob.record.principal(),
            record_sha256: world.bob.record.digest(),
            recipients: vec![Digest::new([1; 32])],
        }],
        mode: Mode::First,
        ct: Ciphertext { sha256: Digest::new([2; 32]), len: 9 },
        nbf_ms: 0,
        exp_ms: 1000,
        ack_s: 600,
        label: None,
        origin: None,
    };
    let statement = sign_in_memory(&statement, &[world.alice.identity.signing_key().unwrap()]).unwrap();
    let created = receipt(world, &statement, ReceiptKind::Created, None);
    let opened = receipt(world, &statement, ReceiptKind::Opened, Some(&created));
    let acked = receipt(world, &statement, ReceiptKind::Acked, Some(&opened));
    Proof {
        v: V1,
        cluster: world.view.id(),
        documents: world.view.documents().map(|document| document.envelope().clone()).collect(),
        writer: vec![world.alice.record.envelope().clone()],
        statement,
        created,
        slots: vec![vec![opened, acked]],
    }
}

#[test]
fn a_proof_shows_what_happened() {
    let world = world();
    let text = serde_json::to_string(&proof(&world)).unwrap();
    let proof: Proof = serde_json::from_str(&text).unwrap();
    let report = proof.verify(Some(&world.view.id())).unwrap();
    assert_eq!(report.from, world.alice.record.principal());
    let kinds: Vec<_> = report.receipts.iter().map(|line| (line.kind, line.standing)).collect();
    assert_eq!(
        kinds,
        [ReceiptKind::Created, ReceiptKind::Opened, ReceiptKind::Acked].map(|kind| (kind, Standing::Valid))
    );
    assert_eq!(proof.verify(None).unwrap().cluster, world.view.id());
}

/// What is done to a good proof.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Proof));

#[test]
fn every_part_counts() {
    let world = world();
    let good = proof(&world);
    let other_pin = good.verify(Some(&ClusterId::new([0; 32]))).unwrap_err();
    assert_eq!(other_pin, EvidenceError::OtherPin);
    let cases: &[Case<'_>] = &[
        ("no document", &|b| b.documents.clear()),
        ("without genesis", &|b| drop(b.documents.remove(0))),
        ("without the newest document", &|b| drop(b.documents.pop())),
        ("no writer", &|b| b.writer.clear()),
        ("another writer", &|b| b.writer = vec![world.bob.record.envelope().clone()]),
        ("another statement", &|b| b.statement.payload.push(b' ')),
        ("another created receipt", &|b| b.created = b.slots[0][0].clone()),
        ("a receipt left out", &|b| drop(b.slots[0].remove(0))),
        ("a receipt altered", &|b| b.slots[0][1].payload.push(b' ')),
        ("a receipt without signature", &|b| b.slots[0][1].signatures.clear()),
    ];
    for &(name, change) in cases {
        let mut proof = good.clone();
        change(&mut proof);
        assert!(proof.verify(Some(&world.view.id())).is_err(), "{name}");
    }
    // Receipts of another statement by the same writer.
    let mut other = good.clone();
    let elsewhere = receipt(&world, &good.created, ReceiptKind::Created, None);
    other.created = elsewhere;
    other.slots.clear();
    assert!(other.verify(None).is_err());
}
