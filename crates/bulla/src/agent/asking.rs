//! What is asked about users of databases, and their leases: each role apart from the others, for a database that hangs lets
//! its own requests hang and no other.

use super::gathered::User;
use super::plan::Term;
use super::wanted::RoleName;
use crate::exit::Failure;
use crate::session::now_ms as wall_ms;
use bulla_client::{Client, ClientError};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{Credentials, StaticCredentials};
use bulla_wire::error::Code;
use bulla_wire::id::LeaseId;
use std::collections::BTreeSet;
use tokio::task::JoinSet;

/// What a role needs now.
pub enum Ask {
    /// The user that it has, and the password of today.
    Static,
    /// A lease.
    Lease {
        /// A moment by the keeper's clock, not after the one at which it is asked.
        asked_ms: u64,
        /// Seconds that the lease is to last from now on.
        ttl_s: Option<u64>,
        /// The lease that is to last longer; without one, or if it is no more, another user is asked for.
        renew: Option<LeaseId>,
    },
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
    /// The user that is there logs in so.
    Told {
        /// With the password of today.
        user: User,
        /// When that is rotated, by the cluster's clock in Unix ms.
        rotates_ms: u64,
    },
}

/// The requests under way, at most one for each role.
#[derive(Default)]
pub struct Asking {
    tasks: JoinSet<(RoleName, Result<Answer, Failure>)>,
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
                (role, answer.map_err(explained))
            });
        }
    }

    /// The next answer; waits for ever if nothing is asked.
    pub async fn next(&mut self) -> (RoleName, Result<Answer, Failure>) {
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
        let (asked_ms, ttl_s, renew) = match self {
            Self::Static => return told(client, role).await,
            Self::Lease { asked_ms, ttl_s, renew } => (asked_ms, ttl_s, renew),
        };
        let Some(lease) = renew else { return made(client, role, asked_ms, ttl_s).await };
        match client.lease_renew(&lease, ttl_s).await {
            Ok(renewed) => Ok(Answer::Renewed { expires_ms: renewed.expires_ms }),
            Err(error) if is_gone(&error) => {
                tracing::warn!(%role, %lease, "the lease is no more; another user is asked for");
                made(client, role, asked_ms, ttl_s).await
            }
            Err(error) => Err(error),
        }
    }
}

async fn made(client: &Client, role: &RoleName, asked_ms: u64, ttl_s: Option<u64>) -> Result<Answer, ClientError> {
    let made = client.database_issue(&role.database, &role.role, ttl_s).await?;
    let Credentials { lease, user: username, password, expires_ms, max_ms } = made;
    // Without an answer the wall clock has to do: the user is there, and is not thrown away.
    let issued_ms = client.lease(&lease).await.map_or_else(|_| wall_ms(), |lease| lease.issued_ms);
    let term = Term::new(asked_ms, issued_ms, expires_ms, max_ms);
    tracing::info!(%role, %lease, user = %username, "a user of a database was made");
    let user = User { username, password: SecretBytes::new(password.into_bytes()) };
    Ok(Answer::Made { lease, user, term })
}

async fn told(client: &Client, role: &RoleName) -> Result<Answer, ClientError> {
    let told = client.database_static_creds(&role.database, &role.role).await?;
    let StaticCredentials { user: username, password, rotates_ms, .. } = told;
    let user = User { username, password: SecretBytes::new(password.into_bytes()) };
    Ok(Answer::Told { user, rotates_ms })
}

/// A refusal in the words of the agent's configuration, where the cluster's speak of commands.
fn explained(error: ClientError) -> Failure {
    let field = match &error {
        ClientError::Refused { errors, .. } => errors.first().and_then(|entry| entry.field.as_deref()),
        _ => None,
    };
    let hint = match (error.code(), field) {
        (Some(Code::Malformed), Some("role")) => Some(
            "an agent keeps users with passwords: name a role of such, or have the program get its certificate by \
             `bulla database creds --certificate DIR`",
        ),
        (Some(Code::NotFound), _) => {
            Some("compare database.role with `bulla database role list`; a static role needs static = true beside it")
        }
        _ => None,
    };
    let mut failure = Failure::from(error);
    failure.hints.splice(0..0, hint.map(str::to_owned));
    failure
}

/// Whether a lease is over.
pub fn is_gone(error: &ClientError) -> bool {
    matches!(error.proven(), Some(Code::NotFound | Code::Expired | Code::Revoked))
}
