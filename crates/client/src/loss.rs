//! Judging where the cluster says that it stands, and going on with one that lost what this client has seen: if k admins
//! accepted that, or once its user was told to by one of them.

use crate::ClientError;
use crate::builder::{Client, Trust};
use crate::call::{Call, now_ms};
use crate::state::{Loss, Seen, Standing, StateError, Verdict, Way, fewer_documents, judge, went_on};
use crate::trust::{ClusterFacts, may_have_others};
use bulla_crypto::evidence::{ClusterView, verify_consent};
use bulla_wire::api::LineageEntry;
use bulla_wire::dsse::Envelope;
use bulla_wire::state::State;

/// The number of the first document that is known and that the cluster does not show.
pub(crate) fn first_missing(known: &ClusterView, shown: &ClusterView) -> Option<u32> {
    let missing = |number: u32| shown.document(number).map(|document| document.digest());
    known.documents().find(|known| missing(known.number()) != Some(known.digest())).map(|known| known.number())
}

impl Client {
    /// Asks where the cluster stands, and judges nothing yet.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Untrusted`] if the answer names no place in a history.
    pub async fn standing(&self) -> Result<Standing, ClientError> {
        // Whoever answers is believed by the documents that it shows: what is known here is what it is judged by.
        let facts = self.shown().await?;
        let held = self.held().trust.clone();
        let known = self.known_of(held, &facts)?;
        // Before the question: what others of this machine see meanwhile is no loss.
        let seen = known.memory.seen();
        let first = self.standing_beside(&facts, &known, seen).await?;
        // A node may lag behind for once.
        if first.lost { self.standing_beside(&facts, &known, seen).await } else { Ok(first) }
    }

    async fn standing_beside(
        &self,
        facts: &ClusterFacts,
        known: &Trust,
        seen: Option<Seen>,
    ) -> Result<Standing, ClientError> {
        // A route that everybody may call, and which reads the store.
        let call = Call { judged: false, view: Some(facts.view.clone()), ..Call::read("/v1/wrap") };
        let answer = self.call(call.with("limit", Some(1))).await?;
        let no_place = || ClientError::contradiction("the answer does not tell where the cluster stands");
        let newest = answer.state.doc.ok_or_else(no_place)?;
        let told = Seen::of(&answer.state, newest, now_ms()).ok_or_else(no_place)?;
        let lost = match self.judge_state(seen.as_ref(), known.view.newest().number(), &answer.state).await {
            Err(ClientError::RolledBack(_)) => true,
            Ok(lagging) => lagging.is_some(),
            Err(error) => return Err(error),
        };
        let dropped_from = first_missing(&known.view, &facts.view);
        Ok(Standing { told, seen, lost, dropped_from })
    }

    /// Takes the cluster to stand where it was said to, and forgets what was seen beyond. Nothing of it can be proved:
    /// whoever put an older copy of the storage in the cluster's place asks for exactly this.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn accept_loss(&self, standing: &Standing) -> Result<(), ClientError> {
        self.documents_anew(standing.told.doc).await?;
        let trust = self.trust().await?;
        let told = Seen { doc: trust.view.newest().number(), ..standing.told };
        trust.memory.accept_loss(told, standing.seen.as_ref())
    }

    /// `Some` if the node lags behind; an error if the cluster fell back.
    pub(crate) async fn judge_state(
        &self,
        known: Option<&Seen>,
        newest: u32,
        told: &State,
    ) -> Result<Option<StateError>, ClientError> {
        let mut accepted = None;
        match judge(known, newest, told) {
            Verdict::Take => {}
            Verdict::Lagging(error) => return Ok(Some(error)),
            Verdict::AskHistories(error) => {
                let Some(known) = known else { return Err(error.into()) };
                let (facts, was_accepted) = Box::pin(self.look()).await?;
                // Who was an admin before the newest document that is known here has no say about its loss.
                let fewer = fewer_documents(newest.max(known.doc), told);
                let since = if fewer.is_some() { newest.max(known.doc) } else { known.doc };
                let verified = |consent: &Envelope| verify_consent(&facts.view, consent, since).ok();
                let consents: Vec<_> = facts.consents.iter().filter_map(verified).collect();
                let way = went_on(known, told, &facts.lineages, &consents, (now_ms(), fewer.is_some()));
                match way {
                    _ if was_accepted => {}
                    None => return Err(fewer.unwrap_or(error).into()),
                    Some(Way::Grew) => {}
                    Some(Way::Lost(consent)) => {
                        self.held().losses.push(Loss { consent: consent.clone(), seen: *known });
                        // Those who are admins by the documents known here accepted that documents are lost, too.
                        Box::pin(self.documents_anew(told.doc.unwrap_or_default())).await?;
                        accepted = Some(known);
                    }
                }
            }
        }
        let trust = self.trust().await?;
        match (Seen::of(told, trust.view.newest().number(), now_ms()), accepted) {
            (Some(seen), Some(lost)) => trust.memory.accept_loss(seen, Some(lost))?,
            (Some(seen), None) => trust.memory.remember(seen)?,
            (None, _) => {}
        }
        Ok(None)
    }

    /// Whether a node answers that no document known here names, and the cluster has others in their place, which are
    /// believed now: k admins accepted the loss of these.
    pub(crate) async fn has_others(&self, error: &ClientError) -> bool {
        may_have_others(error) && matches!(Box::pin(self.look()).await, Ok((_, true)))
    }

    /// The documents that the cluster shows do not go on from those that are known here. Goes on with it if the admins of
    /// these accepted that it lost what was seen of it, and tells `error` if its documents are no others. The caller holds
    /// `loading`.
    pub(crate) async fn after_others(
        &self,
        before: Option<Trust>,
        error: ClientError,
    ) -> Result<ClusterFacts, ClientError> {
        // What does not even hold from the pin on is told as it came.
        let Ok(facts) = self.shown().await else { return Err(error) };
        let known = self.known_of(before, &facts)?;
        let Some(from) = first_missing(&known.view, &facts.view) else { return Err(error) };
        let others = || Err(StateError::OtherDocuments { from }.into());
        let (Some(seen), Some(last)) = (known.memory.seen(), facts.lineages.last()) else { return others() };
        let LineageEntry { epoch, lineage, first_sequence } = *last;
        let (lineage, sequence, doc) = (Some(lineage), Some(first_sequence), Some(facts.newest));
        let told = State { epoch, lineage, sequence, doc, alarms: 0 };
        // Whoever was an admin before the newest document that is known here has no say.
        let since = known.view.newest().number();
        let consents = facts.consents.iter().filter_map(|consent| verify_consent(&known.view, consent, since).ok());
        let consents: Vec<_> = consents.collect();
        let Some(Way::Lost(consent)) = went_on(&seen, &told, &facts.lineages, &consents, (now_ms(), true)) else {
            return others();
        };
        self.held().losses.push(Loss { consent: consent.clone(), seen });
        let facts = Box::pin(self.load(None, Some(facts.newest))).await?;
        let stands = Seen::of(&told, facts.view.newest().number(), now_ms());
        stands.map_or(Ok(()), |stands| known.memory.accept_loss(stands, Some(&seen)))?;
        Ok(facts)
    }
}
