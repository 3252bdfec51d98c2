//! The chain of cluster documents: a new one enters with the signatures that the one before demands.

use crate::barrier::{Records, Writes};
use crate::directory::Change;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step};
use bulla_crypto::evidence::Record;
use bulla_crypto::random::Rng;
use bulla_wire::api::Done;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;

/// The name of a document's plain row.
pub fn row(number: u32) -> String {
    format!("document/{number}")
}

/// `POST /v1/document`.
#[derive(Debug, Clone)]
pub struct Put {
    /// The document with its signatures.
    pub envelope: Envelope,
    /// Records of those whom it names and the document before does not, so that later versions can be followed.
    pub known: Vec<Record>,
}

impl Operation for Put {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let before = context.directory.view();
        if bulla_crypto::evidence::payload_digest(&self.envelope) == before.newest().digest() {
            return Ok(Outcome::read(Reply::json(&Done {})));
        }
        let mut view = before.clone();
        if let Err(reason) = view.push(&self.envelope, &self.known) {
            let refusal = Refusal::new(Code::BadStatement, format!("the document does not hold: {reason}"));
            return Ok(Outcome::refuse(
                refusal.field("envelope").hint("make it from the newest document, signed by k admins"),
            ));
        }
        let (old, new) = (before.newest().body(), view.newest().body());
        let seal_same =
            old.admins == new.admins && old.mode == new.mode && old.k == new.k && old.ingress == new.ingress;
        if !seal_same {
            let refusal = Refusal::new(
                Code::BadStatement,
                "admins, mode, k and ingress change by a rekey of the seal, not by a document alone",
            );
            return Ok(Outcome::refuse(refusal.field("envelope")));
        }
        let mut writes = Writes::default();
        writes.plain.push((row(view.newest().number()), bulla_wire::json::to_vec(&self.envelope)));
        Ok(Step::Done(Box::new(Outcome {
            writes,
            result: Ok(Reply::json(&Done {})),
            replay: Replay::Again,
            receipts: vec![],
            alarms: vec![],
            change: Some(Change::Document(Box::new(view))),
        })))
    }
}
