//! What the audit log says: a page of its lines, and why one request was allowed or denied.

use super::Request;
use crate::dispatch::{AuditQuery, ByNameOrId};
use crate::fair::PATIENCE;
use crate::reply::internal;
use bulla_core::audit::{Body, Filter, RequestId, RequestLine};
use bulla_core::operation::{Refusal, Reply};
use bulla_wire::api::{AuditPage, PolicyExplanation};
use bulla_wire::error::Code;
use std::path::Path;
use tokio::time::Instant;

impl Request<'_> {
    /// Gives the lines that somebody asked for.
    pub(super) async fn read_audit(&self, query: &AuditQuery) -> Result<Reply, Refusal> {
        let mut filter = Filter::default();
        if let Some(resource) = &query.resource {
            filter = filter.resource(resource, [&self.unsealed.keys.names]);
        }
        if let Some(action) = query.action {
            filter = filter.action(action);
        }
        match &query.principal {
            Some(ByNameOrId::Id(id)) => filter = filter.principal(*id),
            Some(ByNameOrId::Name(name)) => {
                let directory = self.unsealed.directory();
                let Some(principal) = directory.by_name(name) else {
                    let refusal = Refusal::new(Code::NotFound, format!("no principal is called {name}"));
                    return Err(refusal.field("principal"));
                };
                filter = filter.principal(principal.subject.id);
            }
            None => {}
        }
        let Some(path) = self.node.parts.audit_path.clone() else {
            let refusal = Refusal::new(Code::NotFound, "the audit log goes where it cannot be read again");
            return Err(refusal.hint("read it at the other end of the pipe"));
        };
        let (after, limit) = (query.after.unwrap_or_default(), query.limit);
        let _turn =
            self.unsealed.log.turn(self.verified.subject.id, Instant::now() + PATIENCE).await.ok_or_else(many_read)?;
        let read = tokio::task::spawn_blocking(move || audit_page(&path, &filter, after, limit)).await;
        let page = read.map_err(|e| internal(&e, "audit"))?.map_err(|e| internal(&e, "audit"))?;
        Ok(Reply::json(&page))
    }

    /// Looks for the line of a request. Whoever may ask sees this line and no other, so it is a smaller right than
    /// reading the log.
    pub(super) async fn explain(&self, id: RequestId) -> Result<Reply, Refusal> {
        let Some(path) = self.node.parts.audit_path.clone() else {
            let refusal = Refusal::new(Code::NotFound, "the audit log goes where it cannot be read again");
            return Err(refusal.hint("look for the id at the other end of the pipe"));
        };
        let _turn =
            self.unsealed.log.turn(self.verified.subject.id, Instant::now() + PATIENCE).await.ok_or_else(many_read)?;
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

fn many_read() -> Refusal {
    Refusal::new(Code::Overloaded, "others read the audit log, and it takes them long").hint("try again")
}

/// Lines after `after` that the filter takes, read from the files.
fn audit_page(path: &Path, filter: &Filter, after: u64, limit: usize) -> std::io::Result<AuditPage> {
    let mut page = AuditPage { lines: vec![], next: None };
    let mut last = after;
    crate::sink::lines(path, after, |found| {
        if !filter.matches(&found.line) {
            return true;
        }
        if page.lines.len() >= limit {
            page.next = Some(last.to_string());
            return false;
        }
        last = found.line.n;
        page.lines.push(String::from_utf8_lossy(&found.bytes).into_owned());
        true
    })?;
    Ok(page)
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
