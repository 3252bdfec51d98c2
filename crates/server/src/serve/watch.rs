//! Requests that wait for a secret to change. They wait before they are decided, so that what they are told is permitted,
//! written to the audit log, and true when they are told it.

use super::{Request, heard};
use bulla_core::action::{Action, Resource};
use bulla_core::engine::kv::Watch;
use bulla_core::operation::Reply;
use bulla_wire::api::KvWatched;
use bulla_wire::json::{self, MAX_JSON_BYTES};
use std::time::Duration;
use tokio::time::{Instant, timeout};

impl Request<'_> {
    /// Waits until something else lies there than the caller knows, its patience ends, or the node must not wait for it.
    pub(super) async fn await_change(&self, watch: &Watch, action: Action, resource: &Resource) {
        let until = Instant::now() + watch.patience;
        // Who may not know does not wait, or the time of the refusal would tell.
        while self.may(action, resource)
            && let Some(changed) = self.unsealed.watchers.listen(&watch.path)
            && let Some(now) = self.look(watch).await
            && watch.is_known(&now)
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            // Time changes a secret too, and wakes nobody.
            let lives = now.expires_ms.and_then(|at_ms| at_ms.checked_sub(self.node.now_ms()));
            let lives = lives.filter(|lives| *lives > 0).map_or(left, Duration::from_millis);
            // Whether it was woken or its time is over, it looks.
            let _ = self.aside(timeout(left.min(lives), changed)).await;
        }
    }

    /// Whether the caller is permitted to do it now. What it asks for is decided anew once it has waited.
    pub(super) fn may(&self, action: Action, resource: &Resource) -> bool {
        let directory = self.unsealed.directory();
        let Some((principal, _)) = directory.by_key(&self.verified.asked.key) else { return false };
        heard(&directory, principal, Some(action))
            && directory.policies().decide(&principal.subject, action, resource).allowed
    }

    /// What lies there. Whatever prevents a look is said when the request is decided.
    async fn look(&self, watch: &Watch) -> Option<KvWatched> {
        match self.drive(watch, None).await.ok()?.result.ok()? {
            Reply::Json(bytes) => json::parse(&bytes, MAX_JSON_BYTES).ok(),
            _ => None,
        }
    }
}
