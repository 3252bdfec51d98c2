//! Why an earlier request was allowed or denied: what the audit log says of it.

use super::Request;
use crate::reply::internal;
use bulla_core::audit::{Body, RequestId, RequestLine};
use bulla_core::operation::{Refusal, Reply};
use bulla_wire::api::PolicyExplanation;
use bulla_wire::error::Code;
use std::path::Path;

impl Request<'_> {
    /// Looks for the line of a request. Whoever may ask sees this line and no other, so it is a smaller right than
    /// reading the log.
    pub(super) async fn explain(&self, id: RequestId) -> Result<Reply, Refusal> {
        let Some(path) = self.node.parts.audit_path.clone() else {
            let refusal = Refusal::new(Code::NotFound, "the audit log goes where it cannot be read again");
            return Err(refusal.hint("look for the id at the other end of the pipe"));
        };
        let found = tokio::task::spawn_blocking(move || find(&path, id)).await;
        let found = found.map_err(|e| internal(&e, "audit"))?.map_err(|e| internal(&e, "audit"))?;
        let line = found.ok_or_else(|| {
            let refusal = Refusal::new(Code::NotFound, "no line of the audit log has this id").field("id");
            refusal.hint("requests without a valid signature are only counted")
        })?;
        Ok(Reply::json(&PolicyExplanation {
            id: line.id.to_string(),
            received_ms: line.received_ms,
            principal: line.principal,
            name: line.name.as_str().to_owned(),
            action: line.action.map(|action| action.as_str().to_owned()),
            resource: line.resource.map(|resource| resource.as_str().to_owned()),
            allowed: line.allowed,
            reasons: line.reasons.iter().map(|reason| reason.as_str().to_owned()).collect(),
            status: line.outcome.status,
            code: line.outcome.code,
        }))
    }
}

fn find(path: &Path, id: RequestId) -> std::io::Result<Option<RequestLine>> {
    let mut found = None;
    crate::sink::lines(path, 0, |line| {
        if let Body::Request(line) = line.line.body
            && line.id == id
        {
            found = Some(*line);
        }
        found.is_none()
    })?;
    Ok(found)
}
