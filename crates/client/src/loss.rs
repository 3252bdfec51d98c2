//! Going on with a cluster that lost what this client has seen, once its user was told to by an admin.

use crate::ClientError;
use crate::builder::Client;
use crate::call::{Call, now_ms};
use crate::state::{Seen, Standing};

impl Client {
    /// Asks where the cluster stands, and judges nothing yet.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Untrusted`] if the answer names no place in a history.
    pub async fn standing(&self) -> Result<Standing, ClientError> {
        // Before the question: what others of this machine see meanwhile is no loss.
        let seen = self.trust().await?.memory.seen();
        let first = self.standing_beside(seen).await?;
        // A node may lag behind for once.
        if first.lost { self.standing_beside(seen).await } else { Ok(first) }
    }

    async fn standing_beside(&self, seen: Option<Seen>) -> Result<Standing, ClientError> {
        // A route that everybody may call, and which reads the store.
        let call = Call { judged: false, ..Call::read("/v1/wrap").with("limit", Some(1)) };
        let answer = self.call(call).await?;
        let trust = self.trust().await?;
        let told = Seen::of(&answer.state, trust.view.newest().number(), now_ms())
            .ok_or_else(|| ClientError::contradiction("the answer does not tell where the cluster stands"))?;
        let lost = match self.judge_state(seen.as_ref(), &answer.state).await {
            Err(ClientError::RolledBack(_)) => true,
            Ok(lagging) => lagging.is_some(),
            Err(error) => return Err(error),
        };
        Ok(Standing { told, seen, lost })
    }

    /// Takes the cluster to stand where it was said to, and forgets what was seen beyond. Nothing of it can be proved:
    /// whoever put an older copy of the storage in the cluster's place asks for exactly this.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn accept_loss(&self, standing: &Standing) -> Result<(), ClientError> {
        self.documents_anew().await?;
        let trust = self.trust().await?;
        trust.memory.accept_loss(Seen { doc: trust.view.newest().number(), ..standing.told })
    }
}
