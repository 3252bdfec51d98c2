//! How an agent fares: for its log and for whoever asks on the socket.

use crate::exit::Failure;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How it fares. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

/// The answer to who asks.
#[derive(Debug, Clone, Default, Serialize)]
pub struct State {
    /// All values were there once: files are written, and the child was started.
    pub started: bool,
    /// What fails now and is tried again. No values, and no errors, which may say more than everybody should know.
    pub failing: BTreeSet<String>,
}

impl Health {
    /// As it is now.
    pub fn state(&self) -> State {
        self.with(|state| state.clone())
    }

    /// All values are there.
    pub fn started(&self) {
        self.with(|state| state.started = true);
    }

    /// Something goes as it should.
    pub fn well(&self, what: &str) {
        if self.with(|state| state.failing.remove(what)) {
            tracing::info!(what, "works again");
        }
    }

    /// Something failed, and is tried again.
    pub fn failed(&self, what: &str, failure: &Failure, again_ms: u64) {
        let started = self.with(|state| {
            state.failing.insert(what.to_owned());
            state.started
        });
        let again = humantime::format_duration(Duration::from_millis(again_ms)).to_string();
        let meanwhile = if started { "what is there stays in use" } else { "nothing is started yet" };
        let hint = failure.hints.first().map(String::as_str).unwrap_or_default();
        tracing::warn!(what, error = %failure.message, hint, again, "failed; {meanwhile}");
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
