//! A few connections to each database, used again while they are fresh. They go with the keys of the node.

use super::{Client, DatabaseError, Job, User, WHOLE_TIMEOUT};
use crate::unsealed::lock;
use bulla_core::engine::database::Connection;
use bulla_wire::name::Name;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a connection waits to be used again: through a burst, and not until a firewall forgets it.
const FRESH: Duration = Duration::from_secs(30);

/// The connections of all databases.
#[derive(Default)]
pub struct Pools(Mutex<HashMap<Name, Arc<Pool>>>);

struct Pool {
    of: Connection,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<(Client, Instant)>>,
}

impl Pool {
    /// A connection that was used before and still answers, as new: what breaks under a statement leaves nobody knowing.
    async fn used(&self) -> Option<Client> {
        loop {
            let (mut client, since) = lock(&self.idle).pop()?;
            if since.elapsed() < FRESH && client.reset().await {
                return Some(client);
            }
        }
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pools")
    }
}

impl Pools {
    /// The pool of a database as it is configured now; connections made by another configuration are closed, and count
    /// as long as they are in use, unless it takes another number of them.
    fn of(&self, connection: &Connection) -> Arc<Pool> {
        let mut pools = lock(&self.0);
        match pools.get(&connection.name) {
            Some(pool) if pool.of == *connection => pool.clone(),
            before => {
                let same = before.filter(|pool| pool.of.connections == connection.connections);
                let turns = match same {
                    Some(pool) => pool.turns.clone(),
                    None => Arc::new(Semaphore::new(usize::from(connection.connections))),
                };
                let pool = Arc::new(Pool { of: connection.clone(), turns, idle: Mutex::default() });
                pools.insert(connection.name.clone(), pool.clone());
                pool
            }
        }
    }

    /// Closes what nobody used for a while, and forgets passwords of databases with which nothing is done.
    pub fn sweep(&self) {
        lock(&self.0).retain(|_, pool| {
            let mut idle = lock(&pool.idle);
            idle.retain(|(client, since)| since.elapsed() < FRESH && client.is_open());
            !idle.is_empty() || Arc::strong_count(pool) > 1
        });
    }

    /// Does something about a user, on a connection that is new or was used before, within its time. After an error
    /// the connection is closed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn run(
        &self,
        to: &Connection,
        job: Job,
        templates: &[String],
        user: User<'_>,
    ) -> Result<(), DatabaseError> {
        let pool = self.of(to);
        let deadline = tokio::time::Instant::now() + WHOLE_TIMEOUT;
        let turn = tokio::time::timeout(WHOLE_TIMEOUT / 2, pool.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(DatabaseError::Unreachable("all connections to it are taken".to_owned()));
        };
        let asked = AtomicBool::new(false);
        let done = async {
            let mut client = match pool.used().await {
                Some(client) => client,
                None => Client::connect(to).await?.0,
            };
            // A process that stood still must not ask for what nobody waits for any more.
            if tokio::time::Instant::now() >= deadline {
                return Err(DatabaseError::Unreachable("no time was left once it was reached".to_owned()));
            }
            asked.store(true, Ordering::Relaxed);
            client.run(job, templates, user).await.map(|()| client)
        };
        let late = format!("not done within {} s", WHOLE_TIMEOUT.as_secs());
        match tokio::time::timeout_at(deadline, done).await {
            Ok(client) => lock(&pool.idle).push((client?, Instant::now())),
            Err(_) if asked.load(Ordering::Relaxed) => return Err(DatabaseError::Silent(late)),
            Err(_) => return Err(DatabaseError::Unreachable(late)),
        }
        Ok(())
    }
}
