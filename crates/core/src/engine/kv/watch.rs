//! Waiting for a secret to change. What is decided here is what lies there now; who waits is woken by the server.

use super::versions::is_over;
use super::{Found, entry_key};
use crate::barrier::Records;
use crate::operation::{Context, Fault, Operation, Outcome, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_wire::api::{KvState, KvWatched};
use bulla_wire::name::SecretPath;
use std::time::Duration;

/// `GET /v1/kv/{path}:watch`.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Where.
    pub path: SecretPath,
    /// The mark of what the caller knows; none answers at once.
    pub after: Option<String>,
    /// How long the answer may keep the caller waiting.
    pub patience: Duration,
}

impl Watch {
    /// Whether the caller waits for something else than this.
    pub fn is_known(&self, now: &KvWatched) -> bool {
        self.after.as_ref() == Some(&now.mark)
    }
}

impl Operation for Watch {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { path, .. } = self;
        let Some(found) = Found::read(records, path)? else { return Ok(Step::need([entry_key(path)])) };
        let newest = found.secret.as_ref().and_then(|secret| secret.find(path, None).ok());
        let path = path.clone();
        let watched = match newest {
            None => KvWatched { path, version: 0, state: None, expires_ms: None, mark: "0".to_owned() },
            Some(newest) => {
                let over = newest.state == KvState::Live && is_over(newest, context.now.earliest_ms());
                let state = if over { KvState::Expired } else { newest.state };
                // Numbers begin again once everything was destroyed, and times may be the same, but hardly both.
                let mark = format!("{}-{}-{}", newest.version, newest.written_ms, number(state));
                KvWatched { path, version: newest.version, state: Some(state), expires_ms: newest.expires_ms, mark }
            }
        };
        Ok(Outcome::read(Reply::json(&watched)))
    }
}

/// How a state stands in a mark.
const fn number(state: KvState) -> u8 {
    match state {
        KvState::Live => 0,
        KvState::Deleted => 1,
        KvState::Destroyed => 2,
        KvState::Expired => 3,
    }
}
