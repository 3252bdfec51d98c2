//! The chain of cluster documents: a new one enters with the signatures that the one before demands.

use crate::barrier::{Records, Writes};
use crate::directory::Change;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step};
use crate::seal::row::document_key;
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::random::Rng;
use bulla_wire::api::Done;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;

/// `POST /v1/document`.
#[derive(Debug, Clone)]
pub struct Put {
    /// The document with its signatures.
    pub envelope: Envelope,
}

/// The documents with one more, `None` if it is the newest already.
///
/// # Errors
/// Why it is not taken.
pub fn next_view(before: &ClusterView, envelope: &Envelope) -> Result<Option<ClusterView>, String> {
    if bulla_crypto::evidence::payload_digest(envelope) == before.newest().digest() {
        return Ok(None);
    }
    let mut view = before.clone();
    view.push(envelope).map_err(|reason| format!("the document does not hold: {reason}"))?;
    let (old, new) = (before.newest().body(), view.newest().body());
    let seal_same = old.admins == new.admins && old.mode == new.mode && old.k == new.k && old.ingress == new.ingress;
    if !seal_same {
        return Err("admins, mode, k and ingress change by a rekey of the seal, not by a document alone".into());
    }
    Ok(Some(view))
}

impl Operation for Put {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let view = match next_view(context.directory.view(), &self.envelope) {
            Ok(Some(view)) => view,
            Ok(None) => return Ok(Outcome::read(Reply::json(&Done {}))),
            Err(reason) => {
                let refusal = Refusal::new(Code::BadStatement, reason).field("envelope");
                return Ok(Outcome::refuse(refusal.hint("make it from the newest document, signed by k admins")));
            }
        };
        let mut writes = Writes::default();
        let key = document_key(view.newest().number())
            .map_err(|e| Fault::Record { kind: "document", reason: e.to_string() })?;
        writes.plain.push((key, bulla_wire::json::to_vec(&self.envelope)));
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
