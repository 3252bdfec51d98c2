//! The open routes: health, the cluster's documents, a challenge. They tell nothing that is not public.

use crate::node::{Node, Phase};
use crate::reply::Answer;
use crate::route::{Endpoint, Query};
use crate::unsealed::{History, lock};
use bulla_core::operation::Refusal;
use bulla_crypto::evidence::{ClusterView, VerifiedDocument};
use bulla_wire::api::{ChallengeReply, Cluster, Health, SealState};
use bulla_wire::challenge::LIFETIME_MS;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;

/// Most bytes of documents in one answer, unless the first has more: a client takes 12 MiB, and approvals, histories
/// and consents stand beside them.
const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Answers an open route.
///
/// # Errors
/// What is wrong with the request.
pub fn answer(node: &Node, phase: &Phase, endpoint: Endpoint, query: &Query) -> Result<Answer, Refusal> {
    match endpoint {
        Endpoint::Health => Ok(Answer { status: status(node, phase, query)?, ..health(node, phase) }),
        Endpoint::Challenge => {
            let challenge = phase.issue(node).to_string();
            Ok(Answer::json(&ChallengeReply { challenge, lifetime_ms: LIFETIME_MS }))
        }
        Endpoint::Cluster => {
            let from = query.number("from", 0..=u64::from(u32::MAX)).map_err(|e| crate::dispatch::bad_query(&e))?;
            cluster(phase, u32::try_from(from.unwrap_or_default()).unwrap_or(u32::MAX))
        }
        _ => Err(Refusal::new(Code::UnknownRoute, "no such path")),
    }
}

fn health(node: &Node, phase: &Phase) -> Answer {
    let (state, view) = match phase {
        Phase::Uninitialised => (SealState::Uninitialised, None),
        Phase::Sealed(sealed) => (SealState::Sealed, Some(sealed.view.clone())),
        Phase::Unsealed(unsealed) => (SealState::Unsealed, Some(unsealed.directory().view().clone())),
    };
    let audit_ok = node.parts.sink.healthy().is_ok();
    let unseal = match state {
        SealState::Sealed => lock(&node.sessions).newest(node.now_ms()).map(bulla_core::seal::Session::progress),
        _ => None,
    };
    let body = Health {
        state,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node.id(),
        cluster: view.as_ref().map(ClusterView::id),
        name: view.as_ref().map(|view| view.genesis().body().name.clone()),
        transient: node.parts.transient,
        audit_ok,
        clock_ok: node.clock_is_even(),
        unseal,
    };
    Answer::json(&body)
}

/// The status says how the node is, for load balancers that look at nothing else. Each may be chosen by the query, under
/// the names that Vault gave them; of an unsealed node a blocked audit log is 503 whatever a query says.
fn status(node: &Node, phase: &Phase, query: &Query) -> Result<u16, Refusal> {
    let chosen = |name: &'static str, usual: u16| {
        let code = query.number(name, 200..=599).map_err(|e| crate::dispatch::bad_query(&e))?;
        Ok::<_, Refusal>(code.and_then(|code| u16::try_from(code).ok()).unwrap_or(usual))
    };
    // All are parsed, so that a wrong one does not show only when it counts.
    let (active, sealed) = (chosen("activecode", 200)?, chosen("sealedcode", 503)?);
    let uninitialised = chosen("uninitcode", 501)?;
    Ok(match phase {
        Phase::Uninitialised => uninitialised,
        Phase::Sealed(_) => sealed,
        Phase::Unsealed(_) if node.parts.sink.healthy().is_ok() => active,
        Phase::Unsealed(_) => 503,
    })
}

fn cluster(phase: &Phase, from: u32) -> Result<Answer, Refusal> {
    match phase {
        Phase::Uninitialised => {
            Err(Refusal::new(Code::Uninitialised, "there is no cluster yet").hint("`bulla init` makes one"))
        }
        Phase::Sealed(sealed) => Ok(describe(&sealed.view, &sealed.history, from)),
        Phase::Unsealed(unsealed) => Ok(describe(unsealed.directory().view(), &unsealed.keys.history, from)),
    }
}

fn describe(view: &ClusterView, history: &History, from: u32) -> Answer {
    let mut left = DOCUMENT_BYTES_MAX;
    let documents = view.documents().filter(|document| document.number() >= from).map(VerifiedDocument::envelope);
    let documents = documents.enumerate().take_while(|(at, document)| {
        let bytes = json_bytes(document);
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        *at == 0 || fits
    });
    Answer::json(&Cluster {
        documents: documents.map(|(_, document)| document.clone()).collect(),
        newest: view.newest().number(),
        approvals: history.approvals.clone(),
        lineages: history.lineages.clone(),
        consents: history.consents.clone(),
    })
}

/// At most so many bytes of JSON: payload and signatures in base64, and the names around them.
fn json_bytes(envelope: &Envelope) -> usize {
    let text = |bytes: usize| bytes.div_ceil(3).saturating_mul(4).saturating_add(128);
    let signatures = envelope.signatures.iter().map(|signature| text(signature.bytes.len()));
    signatures.fold(text(envelope.payload.len()), usize::saturating_add)
}
