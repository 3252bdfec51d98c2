//! What is asked about the leases of users of databases: each role apart from the others, for a database that hangs lets
//! its own requests hang and no other.

use super::gathered::User;
use super::plan::Term;
use super::wanted::RoleName;
use crate::session::now_ms as wall_ms;
use bulla_client::{Client, ClientError};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::Credentials;
use bulla_wire::error::Code;
use bulla_wire::id::LeaseId;
use std::collections::BTreeSet;
use tokio::task::JoinSet;

/// What a role needs now.
pub struct Ask {
    /// A moment by the keeper's clock, not after the one at which it is asked.
    pub asked_ms: u64,
    /// Seconds that the lease is to last from now on.
    pub ttl_s: Option<u64>,
    /// The lease that is to last longer; without one, or if it is no more, another user is asked for.
    pub renew: Option<LeaseId>,
}

/// What came of it.
pub enum Answer {
    /// The lease lasts until then, by the cluster's clock.
    Renewed {
        /// In Unix ms.
        expires_ms: u64,
    },
    /// There is another user.
    Made {
        /// What ends it.
        lease: LeaseId,
        /// How it logs in.
        user: User,
        /// When it is over.
        term: Term,
    },
}

/// The requests under way, at most one for each role.
#[derive(Default)]
pub struct Asking {
    tasks: JoinSet<(RoleName, Result<Answer, ClientError>)>,
    roles: BTreeSet<RoleName>,
}

impl Asking {
    /// Whether something is asked for the role.
    pub fn about(&self, role: &RoleName) -> bool {
        self.roles.contains(role)
    }

    /// Begins to ask, unless it is asked already.
    pub fn begin(&mut self, client: &Client, role: &RoleName, ask: Ask) {
        if self.roles.insert(role.clone()) {
            let (client, role) = (client.clone(), role.clone());
            self.tasks.spawn(async move {
                let answer = Box::pin(ask.answer(&client, &role)).await;
                (role, answer)
            });
        }
    }

    /// The next answer; waits for ever if nothing is asked.
    pub async fn next(&mut self) -> (RoleName, Result<Answer, ClientError>) {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((role, answer))) => {
                    self.roles.remove(&role);
                    return (role, answer);
                }
                // Nothing takes a task away but its own end.
                Some(Err(error)) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl Ask {
    async fn answer(self, client: &Client, role: &RoleName) -> Result<Answer, ClientError> {
        let Some(lease) = self.renew else { return self.made(client, role).await };
        match client.lease_renew(&lease, self.ttl_s).await {
            Ok(renewed) => Ok(Answer::Renewed { expires_ms: renewed.expires_ms }),
            Err(error) if is_gone(&error) => {
                tracing::warn!(%role, %lease, "the lease is no more; another user is asked for");
                self.made(client, role).await
            }
            Err(error) => Err(error),
        }
    }

    async fn made(&self, client: &Client, role: &RoleName) -> Result<Answer, ClientError> {
        let made = client.database_issue(&role.database, &role.role, self.ttl_s).await?;
        let Credentials { lease, user: username, password, expires_ms, max_ms } = made;
        // Without an answer the wall clock has to do: the user is there, and is not thrown away.
        let issued_ms = client.lease(&lease).await.map_or_else(|_| wall_ms(), |lease| lease.issued_ms);
        let term = Term::new(self.asked_ms, issued_ms, expires_ms, max_ms);
        tracing::info!(%role, %lease, user = %username, "a user of a database was made");
        let user = User { username, password: SecretBytes::new(password.into_bytes()) };
        Ok(Answer::Made { lease, user, term })
    }
}

/// Whether a lease is over.
pub fn is_gone(error: &ClientError) -> bool {
    matches!(error.code(), Some(Code::NotFound | Code::Expired | Code::Revoked))
}
