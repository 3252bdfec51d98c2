//! Judging where the cluster says that it stands, and going on with one that lost what this client has seen: if k admins
//! accepted that, or once its user was told to by one of them.

use crate::ClientError;
use crate::builder::{Client, Trust};
use crate::call::{Call, now_ms};
use crate::error::demand;
use crate::state::{Loss, Seen, Standing, StateError, Verdict, Way, fewer_documents, judge, went_on};
use crate::trust::{ClusterFacts, may_have_others};
use bulla_crypto::evidence::{ClusterView, payload_digest, verify_consent};
use bulla_wire::state::State;
use std::collections::BTreeSet;

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
        let facts = Box::pin(self.shown()).await?;
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
        let answer = self.call(where_it_stands(facts)).await?;
        let no_place = || ClientError::contradiction("the answer does not tell where the cluster stands");
        let newest = answer.state.doc.ok_or_else(no_place)?;
        let told = Seen::of(&answer.state, newest, now_ms()).ok_or_else(no_place)?;
        demand(facts.newest >= newest, "the cluster shows fewer documents than its answer told")?;
        let dropped_from = first_missing(&known.view, &facts.view);
        // Nothing is remembered of it: those who show these documents may be nobody.
        let lost = match judge(seen.as_ref(), known.view.newest().number(), &answer.state) {
            Verdict::Take if dropped_from.is_none() => false,
            Verdict::Lagging(_) => true,
            _ => match &seen {
                Some(seen) => explained(known, facts, seen, &answer.state, dropped_from.is_some()).is_none(),
                None => true,
            },
        };
        let shown = (facts.view.id(), facts.view.newest().digest());
        Ok(Standing { told, seen, lost, dropped_from, shown })
    }

    /// Takes the cluster to stand where it was said to, and forgets what was seen beyond. Nothing of it can be proved:
    /// whoever put an older copy of the storage in the cluster's place asks for exactly this.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn accept_loss(&self, standing: &Standing) -> Result<(), ClientError> {
        let facts = self.documents_anew(standing.shown).await?;
        let told = Seen { doc: facts.view.newest().number(), ..standing.told };
        self.memory(&facts.view.id())?.accept_loss(told, standing.seen.as_ref())
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
                // Other documents are believed now, and the answer was judged by those of before.
                if was_accepted {
                    return Ok(Some(error));
                }
                // That documents are missing was judged with them.
                if let Some(fewer) = fewer_documents(newest.max(known.doc), told) {
                    return Err(fewer.into());
                }
                let trust = self.trust().await?;
                match explained(&trust, &facts, known, told, false) {
                    None => return Err(error.into()),
                    Some(Explained::Grew) => {}
                    Some(Explained::Lost(loss)) => {
                        // With what was lost documents may have gone whose numbers others have now.
                        if first_missing(&trust.view, &Box::pin(self.shown()).await?.view).is_some() {
                            Box::pin(self.after_others(Some(trust), error.clone().into())).await?;
                            return Ok(Some(error));
                        }
                        self.held().losses.push(loss);
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
    /// these accepted that it lost what was seen of it, and tells `error` if its documents are no others.
    pub(crate) async fn after_others(
        &self,
        before: Option<Trust>,
        error: ClientError,
    ) -> Result<ClusterFacts, ClientError> {
        // What does not even hold from the pin on is told as it came.
        let Ok(facts) = Box::pin(self.shown()).await else { return Err(error) };
        let known = self.known_of(before, &facts)?;
        let Some(from) = first_missing(&known.view, &facts.view) else { return Err(error) };
        let others = || Err(StateError::OtherDocuments { from }.into());
        // An answer to an open route may be an old one that somebody kept. A node of these documents has to be there.
        let (Some(seen), Ok(answer)) = (known.memory.seen(), self.call(where_it_stands(&facts)).await) else {
            return others();
        };
        let told = answer.state;
        if told.doc.is_none_or(|newest| facts.newest < newest) {
            return others();
        }
        let Some(Explained::Lost(loss)) = explained(&known, &facts, &seen, &told, true) else { return others() };
        let facts = self.documents_anew((facts.view.id(), facts.view.newest().digest())).await?;
        self.held().losses.push(loss);
        let stands = Seen::of(&told, facts.view.newest().number(), now_ms());
        stands.map_or(Ok(()), |stands| known.memory.accept_loss(stands, Some(&seen)))?;
        Ok(facts)
    }
}

/// A call that everybody may make, and which reads the store, to whoever shows these documents.
fn where_it_stands(facts: &ClusterFacts) -> Call {
    Call { judged: false, view: Some(facts.view.clone()), ..Call::read("/v1/wrap") }.with("limit", Some(1))
}

/// How the cluster came to where it stands.
enum Explained {
    Grew,
    Lost(Loss),
}

/// Whether what the cluster shows explains that it stands elsewhere than it was seen, and without documents that are known
/// if some are missing. Then who was an admin before the newest of these has no say, nor has a consent that was shown when
/// they were learnt: it was about another loss.
fn explained(known: &Trust, facts: &ClusterFacts, seen: &Seen, told: &State, is_missing: bool) -> Option<Explained> {
    let since = if is_missing { known.view.newest().number() } else { seen.doc };
    let old = if is_missing { known.memory.consents() } else { BTreeSet::new() };
    let new = facts.consents.iter().filter(|consent| !old.contains(&payload_digest(consent)));
    let consents: Vec<_> = new.filter_map(|consent| verify_consent(&known.view, consent, since).ok()).collect();
    let way = went_on(seen, told, &facts.lineages, &consents, (now_ms(), is_missing));
    way.map(|way| match way {
        Way::Grew => Explained::Grew,
        Way::Lost(consent) => Explained::Lost(Loss { consent: consent.clone(), seen: *seen }),
    })
}
