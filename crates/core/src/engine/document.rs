//! The chain of cluster documents: a new one enters with the signatures that the one before demands.

use crate::barrier::{Records, Writes};
use crate::directory::Change;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step};
use crate::seal::row::document_key;
use bulla_crypto::evidence::{ClusterView, VerifiedDocument};
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

/// What a document does to the documents that are there.
#[derive(Debug)]
pub enum Next {
    /// It is the newest already.
    Same,
    /// It comes after them, and leaves the seal alone.
    Plain(ClusterView),
    /// It comes after them, and changes who holds shares, how many open the seal, or the ingress key.
    Rekey(ClusterView),
}

/// The documents with one more.
///
/// # Errors
/// Why it is not taken.
pub fn next_view(before: &ClusterView, envelope: &Envelope) -> Result<Next, String> {
    if bulla_crypto::evidence::payload_digest(envelope) == before.newest().digest() {
        return Ok(Next::Same);
    }
    let mut view = before.clone();
    view.push(envelope).map_err(|reason| format!("the document does not hold: {reason}"))?;
    let same = seal_of(before.newest()).eq(seal_of(view.newest()));
    Ok(if same { Next::Plain(view) } else { Next::Rekey(view) })
}

/// Everything in a document that the shares, and what is encrypted to the cluster, depend on.
fn seal_of(document: &VerifiedDocument) -> impl Iterator<Item = String> + '_ {
    let body = document.body();
    let admins = document.admins().map(|record| record.digest().to_string());
    [format!("{:?} {}", body.mode, body.k), body.ingress.clone()].into_iter().chain(admins)
}

impl Operation for Put {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let view = match next_view(context.directory.view(), &self.envelope) {
            Ok(Next::Plain(view)) => view,
            Ok(Next::Same) => return Ok(Outcome::read(Reply::json(&Done {}))),
            Ok(Next::Rekey(_)) => return Ok(super::rekey::crossed()),
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
