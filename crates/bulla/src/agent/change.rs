//! Whether stored secrets have changed: the cluster is asked to tell, and looked at now and then where it does not.

use crate::value::Values;
use bulla_client::{Client, ClientError};
use bulla_wire::api::{KvState, KvWatched};
use bulla_wire::error::Code;
use bulla_wire::name::SecretPath;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Most secrets that are watched. Each keeps a connection and one of the caller's requests under way; the others are
/// looked at.
const MAX_WATCHED: usize = 32;
/// How long the cluster may keep a watch waiting.
const WAIT: Duration = Duration::from_secs(30);
/// Pause of a watch after a failure. Meanwhile the secret is looked at.
const PAUSE: Duration = Duration::from_secs(30);

/// The versions in use.
pub struct Changes {
    client: Client,
    /// Who is told that a look is worth while.
    tell: Arc<Notify>,
    seen: BTreeMap<SecretPath, Known>,
    watches: BTreeMap<SecretPath, Watch>,
    told: Shared,
    /// The caller may read and not watch.
    by_reading: bool,
}

/// What watches tell the looks.
#[derive(Debug, Default)]
struct Told {
    /// Secrets of which the cluster would tell, as it last said.
    reliable: BTreeSet<SecretPath>,
    /// Secrets that are others now, until a look has heard of it.
    changed: BTreeSet<SecretPath>,
}

type Shared = Arc<Mutex<Told>>;

fn told(shared: &Shared) -> MutexGuard<'_, Told> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task that waits for another version than this one. It ends with this.
struct Watch {
    version: u64,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Changes {
    /// Nothing is in use yet.
    pub fn new(client: Client, tell: Arc<Notify>) -> Self {
        let (seen, watches, told) = (BTreeMap::new(), BTreeMap::new(), Shared::default());
        Self { client, tell, seen, watches, told, by_reading: false }
    }

    /// These are in use now.
    pub fn seen(&mut self, values: &Values) {
        let mut before = std::mem::take(&mut self.seen);
        let now = values.newest().map(|(path, version)| {
            let mark = before.remove(path).filter(|known| known.version == version).and_then(|known| known.mark);
            (path.clone(), Known { version, mark })
        });
        self.seen = now.collect();
        for (path, known) in self.seen.iter().take(MAX_WATCHED) {
            let watched = self.watches.get(path);
            if watched.is_some_and(|watch| watch.version == known.version && !watch.task.is_finished()) {
                continue;
            }
            told(&self.told).reliable.remove(path);
            let (client, tell, shared) = (self.client.clone(), Arc::clone(&self.tell), Arc::clone(&self.told));
            let task = tokio::spawn(Box::pin(watch(client, path.clone(), known.clone(), shared, tell)));
            self.watches.insert(path.clone(), Watch { version: known.version, task });
        }
    }

    /// Whether one of them is not the newest any more. Those of which the cluster would tell are not asked for.
    pub async fn any(&mut self) -> Result<bool, ClientError> {
        for (path, known) in &mut self.seen {
            {
                let mut told = told(&self.told);
                if told.changed.remove(path) {
                    return Ok(true);
                }
                if told.reliable.contains(path) {
                    continue;
                }
            }
            let now = newest(&self.client, path, &mut self.by_reading).await?;
            if known.takes(now) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A version in use, and the mark of what lay there when it was looked at: numbers begin again where everything was
/// destroyed.
#[derive(Debug, Clone)]
struct Known {
    version: u64,
    mark: Option<String>,
}

/// What lies there.
struct Newest {
    version: u64,
    mark: String,
    live: bool,
}

impl Known {
    /// Whether something else lies there now. A version that ended is no other one. What is told so is known then, so that it
    /// is told once.
    fn takes(&mut self, now: Newest) -> bool {
        let other =
            self.version != now.version || (now.live && self.mark.as_ref().is_some_and(|mark| *mark != now.mark));
        if now.live {
            self.mark = Some(now.mark);
        }
        other
    }
}

/// The newest version, by the secret itself where policy does not permit to ask for less.
async fn newest(client: &Client, path: &SecretPath, by_reading: &mut bool) -> Result<Newest, ClientError> {
    if !*by_reading {
        match client.kv_watch(path, None, Duration::ZERO).await {
            Err(error) if error.code() == Some(Code::Denied) => *by_reading = true,
            answered => return answered.map(Newest::from),
        }
    }
    let kv = client.kv_get(path).await?;
    Ok(Newest { version: kv.version, mark: kv.written_ms.to_string(), live: true })
}

impl From<KvWatched> for Newest {
    fn from(now: KvWatched) -> Self {
        Self { version: now.version, live: now.state == Some(KvState::Live), mark: now.mark }
    }
}

/// Waits until there is another version. What prevents it, the looks will say.
async fn watch(client: Client, path: SecretPath, mut known: Known, shared: Shared, tell: Arc<Notify>) {
    // What was told last, whatever it was: the cluster keeps waiting only whoever knows it.
    let mut after: Option<String> = None;
    loop {
        match client.kv_watch(&path, after.as_deref(), WAIT).await {
            Ok(now) => {
                after = Some(now.mark.clone());
                let mut told = told(&shared);
                if known.takes(now.into()) {
                    told.reliable.remove(&path);
                    told.changed.insert(path);
                    return tell.notify_one();
                }
                told.reliable.insert(path.clone());
                continue;
            }
            Err(error) => {
                told(&shared).reliable.remove(&path);
                if error.code() == Some(Code::Denied) {
                    return;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers begin again where everything was destroyed: then the mark is another.
    #[test]
    fn another_value_under_the_same_number_is_another() {
        let now = |version, mark: &str, live| Newest { version, mark: mark.to_owned(), live };
        let mut known = Known { version: 1, mark: None };
        assert!(!known.takes(now(1, "a", true)), "the first look learns it");
        assert!(!known.takes(now(1, "a", true)));
        assert!(!known.takes(now(1, "a-deleted", false)), "a version that ended is no other value");
        assert!(!known.takes(now(1, "a", true)), "nor one that was taken back");
        assert!(known.takes(now(1, "b", true)));
        assert!(!known.takes(now(1, "b", true)), "it is told once");
        assert!(known.takes(now(2, "c", true)) && known.takes(now(0, "0", false)));
    }
}
