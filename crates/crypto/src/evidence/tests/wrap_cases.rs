//! Statements and receipts.

use super::*;
use bulla_wire::evidence::{Actor, NodeState};
use bulla_wire::id::{Lineage, PrincipalId, WrapId};
use bulla_wire::json::V1;
use bulla_wire::kv::SealedStatement;
use bulla_wire::wrap::{
    Addressee, Ciphertext, MAX_CIPHERTEXT_BYTES, MAX_LIFE_MS, Mode, Origin, Receipt, ReceiptKind, Statement,
};

const NOW_MS: u64 = 1_700_000_000_000;

fn statement(w: &World) -> Statement {
    Statement {
        v: V1,
        cluster: w.view.id(),
        wrap: WrapId::new([5; 16]),
        from: w.alice.record.principal(),
        to: vec![Addressee {
            principal: w.bob.record.principal(),
            record_sha256: w.bob.record.digest(),
            recipients: w.bob.record.recipients().iter().map(|recipient| recipient.digest()).collect(),
        }],
        mode: Mode::First,
        ct: Ciphertext { sha256: Digest::new([6; 32]), len: 300 },
        nbf_ms: 0,
        exp_ms: NOW_MS + 1000,
        ack_s: 600,
        label: None,
        origin: None,
    }
}

/// Statements about stored secrets that the server cannot read (`spec/kv.md`).
#[test]
fn sealed_secrets() {
    let w = world();
    let alice = w.alice.identity.signing_key().unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut SealedStatement), by: &[&SigningKey], expect: &str| {
        let Statement { v, cluster, wrap: id, from, to, ct, .. } = statement(&w);
        let (path, version) = ("app/db".parse().unwrap(), 3);
        let mut payload = SealedStatement { v, cluster, path, version, id, from, to, ct };
        change(&mut payload);
        let envelope = sign_in_memory(&payload, by).unwrap();
        let input = json!({"cluster": w.view.id(), "records": [w.alice.record.envelope()], "statement": envelope});
        case(name, input, expect)
    };
    let bad = |name: &str, change: &dyn Fn(&mut SealedStatement), field: &str| {
        changed(name, change, &[alice], &format!("rule {field}"))
    };
    let bob = w.bob.identity.signing_key().unwrap();
    check_vectors(
        "sealed",
        vec![
            changed("by the writer", &|_| {}, &[alice], "ok"),
            changed("the first version", &|p| p.version = 1, &[alice], "ok"),
            changed("by another", &|_| {}, &[bob], "no_known_key"),
            changed("by nobody", &|_| {}, &[], "rule signatures"),
            changed("by two", &|_| {}, &[alice, bob], "rule signatures"),
            bad("another cluster", &|p| p.cluster = ClusterId::new([0; 32]), "cluster"),
            bad("from another", &|p| p.from = w.bob.record.principal(), "from"),
            bad("version 0", &|p| p.version = 0, "version"),
            bad("to nobody", &|p| p.to.clear(), "to"),
            bad("to one twice", &|p| p.to.push(p.to[0].clone()), "to.principal"),
            bad("an empty ciphertext", &|p| p.ct.len = 0, "ct.len"),
            bad("a larger ciphertext", &|p| p.ct.len = MAX_CIPHERTEXT_BYTES + 1, "ct.len"),
            {
                // A statement about a wrap, signed well, is none about a secret.
                let envelope = sign_in_memory(&statement(&w), &[alice]).unwrap();
                let records = [w.alice.record.envelope()];
                let input = json!({"cluster": w.view.id(), "records": records, "statement": envelope});
                case("a statement about a wrap", input, "other_type")
            },
        ],
    );
}

#[test]
fn statements() {
    let w = world();
    let alice = w.alice.identity.signing_key().unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut Statement), by: &[&SigningKey], expect: &str| {
        let mut payload = statement(&w);
        change(&mut payload);
        let envelope = sign_in_memory(&payload, by).unwrap();
        let records = [w.alice.record.envelope()];
        let input = json!({"cluster": w.view.id(), "records": records, "statement": envelope, "now_ms": NOW_MS});
        case(name, input, expect)
    };
    let good = |name: &str, change: &dyn Fn(&mut Statement)| changed(name, change, &[alice], "ok");
    let bad = |name: &str, change: &dyn Fn(&mut Statement), field: &str| {
        changed(name, change, &[alice], &format!("rule {field}"))
    };
    let to = |i: usize| Addressee {
        principal: PrincipalId::new([u8::try_from(i).unwrap(); 32]),
        record_sha256: Digest::new([0; 32]),
        recipients: vec![Digest::new([0; 32])],
    };
    let bob = w.bob.identity.signing_key().unwrap();
    check_vectors(
        "statement",
        vec![
            good("by the writer", &|_| {}),
            changed("by another", &|_| {}, &[bob], "no_known_key"),
            changed("by nobody", &|_| {}, &[], "rule signatures"),
            changed("by two", &|_| {}, &[alice, bob], "rule signatures"),
            bad("another cluster", &|p| p.cluster = ClusterId::new([0; 32]), "cluster"),
            bad("from another", &|p| p.from = w.bob.record.principal(), "from"),
            bad("to nobody", &|p| p.to.clear(), "to"),
            good("to 64", &|p| p.to = (0..64).map(to).collect()),
            bad("to 65", &|p| p.to = (0..65).map(to).collect(), "to"),
            bad("to one twice", &|p| p.to.push(p.to[0].clone()), "to.principal"),
            bad("without recipients", &|p| p.to[0].recipients.clear(), "to.recipients"),
            bad("a recipient twice", &|p| p.to[0].recipients.extend_from_within(..1), "to.recipients"),
            bad("an empty ciphertext", &|p| p.ct.len = 0, "ct.len"),
            good("the largest ciphertext", &|p| p.ct.len = MAX_CIPHERTEXT_BYTES),
            bad("a larger ciphertext", &|p| p.ct.len = MAX_CIPHERTEXT_BYTES + 1, "ct.len"),
            bad("ends before it begins", &|p| p.nbf_ms = p.exp_ms, "exp_ms"),
            bad("already over", &|p| p.exp_ms = NOW_MS, "exp_ms"),
            good("366 days", &|p| p.exp_ms = NOW_MS + MAX_LIFE_MS),
            bad("longer than 366 days", &|p| p.exp_ms = NOW_MS + MAX_LIFE_MS + 1, "exp_ms"),
            bad("ack_s 9", &|p| p.ack_s = 9, "ack_s"),
            good("ack_s 10", &|p| p.ack_s = 10),
            good("ack_s of a day", &|p| p.ack_s = 86_400),
            bad("ack_s above a day", &|p| p.ack_s = 86_401, "ack_s"),
            good("a label of 256 bytes", &|p| p.label = Some("x".repeat(256))),
            bad("a label of 257 bytes", &|p| p.label = Some("x".repeat(257)), "label"),
        ],
    );
}

fn receipt(w: &World, kind: ReceiptKind, prev: Option<&Envelope>) -> Receipt {
    Receipt {
        v: V1,
        cluster: w.view.id(),
        node: w.node.public_key().key_id(),
        kind,
        wrap: WrapId::new([5; 16]),
        slot: 0,
        statement_sha256: Digest::new([8; 32]),
        actor: Some(Actor {
            principal: w.bob.record.principal(),
            key: w.bob.identity.signing_key().unwrap().public_key().key_id(),
            address: Some("192.0.2.1".into()),
        }),
        claim_sha256: prev.map(|_| Digest::new([9; 32])),
        at_ms: NOW_MS,
        doc: 1,
        epoch: 3,
        lineage: Lineage::new([4; 16]),
        prev: prev.map(payload_digest),
    }
}

/// The same cluster, one document further, in which the node has another state.
fn with_node_state(w: &World, state: NodeState, since_ms: u64) -> Value {
    let mut view = w.view.clone();
    let mut draft = DocumentDraft::of(view.newest());
    let mut spare = draft.nodes[0].clone();
    spare.key = identity(92, IdentityKind::Classical).signing_key().unwrap().public_key().clone();
    draft.nodes[0].state = state;
    draft.nodes[0].since_ms = since_ms;
    draft.nodes.push(spare);
    let next = view.next_document(&draft).unwrap();
    let signers = [w.alice.identity.signing_key().unwrap(), w.bob.identity.signing_key().unwrap()];
    view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap();
    chain(&view)
}

#[test]
fn receipts() {
    let w = world();
    let sign = |receipt: &Receipt| sign_in_memory(receipt, &[&w.node]).unwrap();
    let created = sign(&receipt(&w, ReceiptKind::Created, None));
    let opened = sign(&receipt(&w, ReceiptKind::Opened, Some(&created)));
    let acked = sign(&receipt(&w, ReceiptKind::Acked, Some(&opened)));
    let documents = chain(&w.view);
    let row = |name: &str, documents: &Value, receipts: &[&Envelope], expect: &str| {
        case(name, json!({"documents": documents, "receipts": receipts}), expect)
    };
    let alone = |name: &str, change: &dyn Fn(&mut Receipt), expect: &str| {
        let mut payload = receipt(&w, ReceiptKind::Created, None);
        change(&mut payload);
        row(name, &documents, &[&sign(&payload)], expect)
    };
    let second = |name: &str, change: &dyn Fn(&mut Receipt), expect: &str| {
        let mut payload = receipt(&w, ReceiptKind::Acked, Some(&opened));
        change(&mut payload);
        row(name, &documents, &[&created, &opened, &sign(&payload)], expect)
    };
    let forged =
        sign_in_memory(&receipt(&w, ReceiptKind::Created, None), &[w.bob.identity.signing_key().unwrap()]).unwrap();
    let later = Receipt { doc: 2, ..receipt(&w, ReceiptKind::Created, None) };
    let cases = vec![
        row("created, opened, acked", &documents, &[&created, &opened, &acked], "ok"),
        row("a receipt left out", &documents, &[&created, &acked], "rule prev"),
        row("not beginning with created", &documents, &[&opened, &acked], "rule kind"),
        row("signed by no node", &documents, &[&forged], "no_known_key"),
        row("retired since", &with_node_state(&w, NodeState::Retired, NOW_MS), &[&created], "ok"),
        row("compromised before", &with_node_state(&w, NodeState::Compromised, NOW_MS), &[&created], "ok"),
        row("compromised after", &with_node_state(&w, NodeState::Compromised, NOW_MS + 1), &[&created], "ok"),
        row("when it was retired", &with_node_state(&w, NodeState::Retired, 0), &[&sign(&later)], "ok"),
        row("by a newer document", &documents, &[&sign(&later)], "document_ahead"),
        alone("another cluster", &|p| p.cluster = ClusterId::new([0; 32]), "rule cluster"),
        alone("another node", &|p| p.node = KeyId::new([0; 32]), "unknown_node"),
        alone("created with prev", &|p| p.prev = Some(Digest::new([0; 32])), "rule prev"),
        alone("opened without prev", &|p| p.kind = ReceiptKind::Opened, "rule prev"),
        second("of another wrap", &|p| p.wrap = WrapId::new([0; 16]), "rule wrap"),
        second("of another slot", &|p| p.slot = 1, "rule slot"),
        second("of another statement", &|p| p.statement_sha256 = Digest::new([0; 32]), "rule statement_sha256"),
        second("after another", &|p| p.prev = Some(payload_digest(&created)), "rule prev"),
    ];
    // What each proves: judged here too, so that the published outputs cannot be wrong unseen.
    let standings: Vec<_> = cases.iter().filter_map(|case| judge("receipt", &case["input"]).ok()).collect();
    assert_eq!(
        standings,
        [
            json!(["Valid", "Valid", "Valid"]),
            json!(["Valid"]),
            json!(["NotProof"]),
            json!(["Valid"]),
            json!(["NotProof"])
        ]
    );
    check_vectors("receipt", cases);
}

/// What a node says of where a wrap's content is from, against the statement that carries it.
#[test]
fn origins() {
    let w = world();
    let stated = statement(&w);
    let origin = || Origin {
        v: V1,
        cluster: w.view.id(),
        node: w.node.public_key().key_id(),
        wrap: stated.wrap,
        from: stated.from,
        to: stated.to[0].principal,
        action: "kv.get".into(),
        resource: "kv/app/db".into(),
        ct: stated.ct.clone(),
        at_ms: NOW_MS,
        doc: 1,
    };
    let documents = chain(&w.view);
    let row = |name: &str, documents: &Value, statement: &Statement, expect: &str| {
        case(name, json!({"documents": documents, "statement": statement}), expect)
    };
    let by = |key: &SigningKey, change: &dyn Fn(&mut Origin)| {
        let mut payload = origin();
        change(&mut payload);
        Statement { origin: Some(sign_in_memory(&payload, &[key]).unwrap()), ..stated.clone() }
    };
    let bad =
        |name: &str, change: &dyn Fn(&mut Origin), expect: &str| row(name, &documents, &by(&w.node, change), expect);
    let good = by(&w.node, &|_| {});
    let two = Statement { to: [&good.to[..], &good.to[..]].concat(), ..good.clone() };
    let moved = Statement { wrap: WrapId::new([0; 16]), ..good.clone() };
    let swapped = Statement { ct: Ciphertext { sha256: Digest::new([0; 32]), len: 300 }, ..good.clone() };
    let cases = vec![
        row("none", &documents, &stated, "ok"),
        row("a secret that was read", &documents, &good, "ok"),
        row("by a node that was compromised", &with_node_state(&w, NodeState::Compromised, NOW_MS), &good, "ok"),
        row("in another wrap", &documents, &moved, "rule origin.wrap"),
        row("over another ciphertext", &documents, &swapped, "rule origin.ct"),
        row("to more than one", &documents, &two, "rule origin.to"),
        row("signed by the writer", &documents, &by(w.alice.identity.signing_key().unwrap(), &|_| {}), "no_known_key"),
        bad("another cluster", &|p| p.cluster = ClusterId::new([0; 32]), "rule origin.cluster"),
        bad("asked by another", &|p| p.from = PrincipalId::new([0; 32]), "rule origin.from"),
        bad("for another", &|p| p.to = PrincipalId::new([0; 32]), "rule origin.to"),
        bad("another node", &|p| p.node = KeyId::new([0; 32]), "unknown_node"),
        bad("by a newer document", &|p| p.doc = 2, "document_ahead"),
    ];
    let told: Vec<_> = cases.iter().filter_map(|case| judge("origin", &case["input"]).ok()).collect();
    let from = |standing: &str| json!(["kv.get", "kv/app/db", standing]);
    assert_eq!(told, [Value::Null, from("Valid"), from("NotProof")]);
    check_vectors("origin", cases);
}

/// Eight keys with eight recipients each: the most that a record has.
#[test]
fn an_addressee_has_at_most_64_recipients() {
    let w = world();
    let judged = |count: u8| {
        let mut payload = statement(&w);
        payload.to[0].recipients = (0..count).map(|i| Digest::new([i; 32])).collect();
        let envelope = sign_in_memory(&payload, &[w.alice.identity.signing_key().unwrap()]).unwrap();
        let verified = verify_statement(&envelope, &w.view.id(), &w.alice.record);
        verified.as_ref().map_or_else(class, |_| "ok".to_owned())
    };
    assert_eq!((judged(64).as_str(), judged(65).as_str()), ("ok", "rule to.recipients"));
}
