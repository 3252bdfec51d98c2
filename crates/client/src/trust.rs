//! From the pin to the newest document.

use crate::answer::{OpenRequest, refused, verify_open};
use crate::builder::{Client, Held, Pin, State, Trust};
use crate::disk::Directory;
use crate::error::{ClientError, GENESIS, Untrusted, demand};
use crate::memory::{Memory, Names};
use crate::state::StateError;
use bulla_crypto::evidence::{AdminSet, ClusterView, EvidenceError, payload_digest};
use bulla_crypto::message::ResponseError;
use bulla_wire::api::{Cluster, LineageEntry};
use bulla_wire::dsse::Envelope;
use bulla_wire::id::{ClusterId, Digest};
use bulla_wire::json;
use std::sync::Arc;

/// How a document after genesis is called in [`Untrusted::Statement`].
const DOCUMENT: &str = "a cluster document";
const OTHER_DOCUMENT: &str = "the cluster shows another document than it did before";
/// Largest answer of `GET /v1/cluster`: 8 MiB of documents, and what stands beside them.
const MAX_CLUSTER_BYTES: usize = 12 * 1024 * 1024;

/// What the cluster tells about itself besides its documents, signed by a node of the pinned cluster.
#[derive(Debug, Clone)]
pub struct ClusterFacts {
    /// The documents, verified.
    pub view: Arc<ClusterView>,
    /// Number of the newest one that the cluster has. It is lower than those of `view` if it lost some of them.
    pub newest: u32,
    /// Admins' approvals of genesis, as they came: [`bulla_crypto::evidence::verify_approvals`] counts them.
    pub approvals: Vec<Envelope>,
    /// Histories of the store, oldest first.
    pub lineages: Vec<LineageEntry>,
    /// Consents to lost commits, as they came: whom [`bulla_crypto::evidence::verify_consent`] takes them from depends
    /// on what was seen before.
    pub consents: Vec<Envelope>,
}

impl ClusterFacts {
    /// The documents, if the cluster has all of them.
    ///
    /// # Errors
    /// [`ClientError::RolledBack`].
    pub fn whole(&self) -> Result<&Arc<ClusterView>, ClientError> {
        let seen = self.view.newest().number();
        match self.newest < seen {
            true => Err(StateError::Document { seen, told: self.newest }.into()),
            false => Ok(&self.view),
        }
    }
}

impl Pin {
    /// What is known of a cluster that has this genesis, if it is the pinned one.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn begin(&self, genesis: &Envelope, approvals: &[Envelope]) -> Result<ClusterView, EvidenceError> {
        match self {
            Self::Cluster(cluster) => ClusterView::pinned(*cluster, genesis),
            Self::Admins(admins) => ClusterView::pinned_admins(admins, genesis, approvals),
            Self::Node(_) => Err(EvidenceError::OtherPin),
        }
    }
}

fn facts(view: Arc<ClusterView>, page: Cluster) -> ClusterFacts {
    let Cluster { documents: _, newest, approvals, lineages, consents } = page;
    ClusterFacts { view, newest, approvals, lineages, consents }
}

/// Puts kept documents behind the one that they follow, as far as they hold.
fn go_on(view: &mut ClusterView, kept: &[Envelope]) {
    let next = usize::try_from(view.newest().number()).unwrap_or(usize::MAX).saturating_add(1);
    for document in kept.iter().skip(next) {
        if view.push(document).is_err() {
            break;
        }
    }
}

/// What is shown after genesis and not known yet. What is known has to be shown as it is, as far as anything is shown.
fn beyond<'d>(view: &ClusterView, shown: &'d [Envelope]) -> Result<&'d [Envelope], ClientError> {
    let known = view.documents().skip(1).map(|document| document.digest());
    let differs = known.zip(shown).any(|(known, shown)| known != payload_digest(shown));
    demand(!differs, OTHER_DOCUMENT)?;
    let known = usize::try_from(view.newest().number()).unwrap_or(usize::MAX);
    Ok(shown.get(known..).unwrap_or_default())
}

/// The cluster and the digest of its newest document, where somebody agreed to these in the place of what is known. They
/// are shown by an open route, whose answer may be an old one: what was agreed to was compared with a signed one.
pub(crate) type Agreed = (ClusterId, Digest);

/// Whether the cluster may have other documents in the place of those that are known here: what it shows does not follow
/// them, or a node answers that they do not name.
pub(crate) fn may_have_others(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Untrusted(
            Untrusted::Statement { what: DOCUMENT, .. }
                | Untrusted::Contradiction { what: OTHER_DOCUMENT }
                | Untrusted::Signature(ResponseError::UnknownNode(_))
        )
    )
}

impl Client {
    /// The cluster's documents, from the pin to the newest known here. Asks only if none is known yet.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn view(&self) -> Result<Arc<ClusterView>, ClientError> {
        Ok(self.trust().await?.view)
    }

    /// Reads the newest documents, and what else the cluster tells about itself.
    ///
    /// Documents prove themselves, so those in an answer are kept even if the node that gave it is in none of them.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Untrusted`] for the answer of such a node.
    pub async fn cluster(&self) -> Result<ClusterFacts, ClientError> {
        Ok(self.look().await?.0)
    }

    /// The same, and whether the admins' consent to a loss was taken for it: then other documents are known than before,
    /// and the position is another.
    pub(crate) async fn look(&self) -> Result<(ClusterFacts, bool), ClientError> {
        let loading = self.0.loading.lock().await;
        let held = self.held().trust.clone();
        // What a former run kept holds as well: a server that shows fewer documents makes nobody forget the others.
        let known = if held.is_some() { held } else { self.kept()? };
        let before = known.clone();
        let mut loaded = Box::pin(self.load(known, None)).await;
        if loaded.as_ref().is_err_and(|error| self.moved_on(error)) {
            loaded = Box::pin(self.load(None, None)).await;
        }
        // What is asked next is a call, which may look by itself.
        drop(loading);
        self.judge_loaded(before, loaded).await
    }

    /// What was loaded, or what takes the place of what was known `before`.
    async fn judge_loaded(
        &self,
        before: Option<Trust>,
        loaded: Result<ClusterFacts, ClientError>,
    ) -> Result<(ClusterFacts, bool), ClientError> {
        match loaded {
            Ok(facts) => match facts.whole().map(drop) {
                Ok(()) => Ok((facts, false)),
                // Told by whoever asks for them.
                Err(fewer) => {
                    Ok(Box::pin(self.after_others(before, fewer)).await.map_or((facts, false), |new| (new, true)))
                }
            },
            Err(error) if may_have_others(&error) => {
                Box::pin(self.after_others(before, error)).await.map(|facts| (facts, true))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the documents that the cluster shows in the place of those that are known here, also if they are fewer. Only
    /// for a loss that was accepted: documents were lost with it, and others may have their numbers.
    pub(crate) async fn documents_anew(&self, agreed: Agreed) -> Result<ClusterFacts, ClientError> {
        let _loading = self.0.loading.lock().await;
        Box::pin(self.load(None, Some(agreed))).await
    }

    /// Reads the documents of whatever cluster answers, without a pin: to show its id to somebody who compares it.
    /// Nothing of it is believed afterwards.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn discover(&self) -> Result<ClusterView, ClientError> {
        let begin = |genesis: &Envelope, _: &[Envelope]| ClusterView::unpinned(genesis);
        let (view, _, signed) = self.read_documents(None, begin).await?;
        Ok(signed.map(|()| view)?)
    }

    /// What is believed now; read first if nothing is.
    pub(crate) async fn trust(&self) -> Result<Trust, ClientError> {
        if let Some(trust) = self.held().trust.clone() {
            return Ok(trust);
        }
        let loading = self.0.loading.lock().await;
        if let Some(trust) = self.held().trust.clone() {
            return Ok(trust);
        }
        if let Some(trust) = self.kept()? {
            self.held().trust = Some(trust.clone());
            return Ok(trust);
        }
        let loaded = Box::pin(self.load(None, None)).await;
        drop(loading);
        self.judge_loaded(None, loaded).await?;
        self.held().trust.clone().ok_or(ClientError::NoPin)
    }

    /// The documents that a former run kept, without asking anybody; `None` if it kept none.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn kept_view(&self) -> Result<Option<Arc<ClusterView>>, ClientError> {
        Ok(self.kept()?.map(|trust| trust.view))
    }

    /// Documents that a former run kept, if they still hold.
    fn kept(&self) -> Result<Option<Trust>, ClientError> {
        let Some(Pin::Cluster(cluster)) = &self.0.pin else { return Ok(None) };
        let memory = self.memory(cluster)?;
        let documents = memory.documents();
        let Some(genesis) = documents.first() else { return Ok(None) };
        let Ok(mut view) = ClusterView::pinned(*cluster, genesis) else { return Ok(None) };
        go_on(&mut view, &documents);
        Ok(Some(Trust { view: Arc::new(view), memory }))
    }

    /// What is known of the cluster that shows `facts`: as it was believed `before`, or else as a former run kept it.
    pub(crate) fn known_of(&self, before: Option<Trust>, facts: &ClusterFacts) -> Result<Trust, ClientError> {
        if let Some(trust) = before.filter(|trust| trust.view.id() == facts.view.id()) {
            return Ok(trust);
        }
        let pin = self.0.pin.as_ref().ok_or(ClientError::NoPin)?;
        let memory = self.memory(&facts.view.id())?;
        let begun = pin.begin(facts.view.genesis().envelope(), &facts.approvals);
        let mut view = begun.map_err(ClientError::statement(GENESIS))?;
        go_on(&mut view, &memory.documents());
        Ok(Trust { view: Arc::new(view), memory })
    }

    /// What is remembered of a cluster. It stays while the client lives, also when another cluster came meanwhile.
    pub(crate) fn memory(&self, cluster: &ClusterId) -> Result<Arc<Memory>, ClientError> {
        if let Some(memory) = self.held().memories.get(cluster) {
            return Ok(Arc::clone(memory));
        }
        let memory = match &self.0.state {
            State::Memory => Memory::volatile(),
            State::Directory(base) => {
                let directory = Directory::of_cluster(base, cluster);
                Memory::of_directory(
                    directory.map_err(|error| ClientError::io("cannot make a directory in", base.clone(), error))?,
                )?
            }
        };
        let memory = Arc::new(match &self.0.pin {
            Some(Pin::Admins(admins)) => memory.with_lasting(self.lasting(admins)?),
            _ => memory,
        });
        Ok(Arc::clone(self.held().memories.entry(*cluster).or_insert(memory)))
    }

    /// Names that last over the clusters of these admins.
    fn lasting(&self, admins: &AdminSet) -> Result<Arc<Names>, ClientError> {
        if let Some(names) = self.held().lasting.clone() {
            return Ok(names);
        }
        let names = Arc::new(match &self.0.state {
            State::Memory => Names::volatile(),
            State::Directory(base) => Names::Kept(
                Directory::of_admins(base, admins)
                    .map_err(|error| ClientError::io("cannot make a directory in", base.clone(), error))?,
            ),
        });
        Ok(Arc::clone(self.held().lasting.get_or_insert(names)))
    }

    /// Whether an answer shows that another cluster of the pinned admins may be there now. Then what was believed of the
    /// one before is forgotten, and the next call looks anew.
    pub(crate) fn moved_on(&self, error: &ClientError) -> bool {
        let stranger = matches!(error, ClientError::Untrusted(Untrusted::Signature(ResponseError::UnknownNode(_))));
        let mut held = self.held();
        if !stranger || held.trust.is_none() || !matches!(self.0.pin, Some(Pin::Admins(_))) {
            return false;
        }
        *held = Held {
            losses: std::mem::take(&mut held.losses),
            memories: std::mem::take(&mut held.memories),
            lasting: held.lasting.take(),
            ..Held::default()
        };
        true
    }

    /// Reads on from `known`, verifies, keeps. The caller holds `loading`. Without `agreed` what was kept of the cluster that
    /// answers is known, too; with it nothing is.
    async fn load(&self, known: Option<Trust>, agreed: Option<Agreed>) -> Result<ClusterFacts, ClientError> {
        let pin = self.0.pin.clone().ok_or(ClientError::NoPin)?;
        let begin = move |genesis: &Envelope, approvals: &[Envelope]| {
            let mut view = pin.begin(genesis, approvals)?;
            // A memory that cannot be read is told below.
            let kept = if agreed.is_some() {
                Ok(Vec::new())
            } else {
                self.memory(&view.id()).map(|memory| memory.documents())
            };
            go_on(&mut view, &kept.unwrap_or_default());
            Ok(view)
        };
        let before = known.as_ref().map(|trust| trust.view.newest().number());
        let (view, page, signed) =
            self.read_documents(known.as_ref().map(|trust| ClusterView::clone(&trust.view)), begin).await?;
        // What takes the place of something else is verified before.
        let signed = match agreed {
            Some(agreed) => {
                signed?;
                let shown = (view.id(), view.newest().digest());
                demand(agreed == shown, "the cluster shows other documents than a moment ago")?;
                Ok(())
            }
            None => signed,
        };
        let memory = match known {
            Some(trust) => trust.memory,
            None => self.memory(&view.id())?,
        };
        if before != Some(view.newest().number()) {
            let envelopes: Vec<_> = view.documents().map(|document| document.envelope()).collect();
            // Whoever consented before these were known did not consent to their loss.
            let consents: Vec<Digest> = page.consents.iter().map(payload_digest).collect();
            memory.keep_documents(&envelopes, &consents, agreed.is_some())?;
        }
        let view = Arc::new(view);
        self.held().trust = Some(Trust { view: Arc::clone(&view), memory });
        signed?;
        Ok(facts(view, page))
    }

    /// What the cluster shows, whatever is known here, and nothing of it is kept: to work with one that went back on purpose.
    pub(crate) async fn shown(&self) -> Result<ClusterFacts, ClientError> {
        let pin = self.0.pin.clone().ok_or(ClientError::NoPin)?;
        let begin = move |genesis: &Envelope, approvals: &[Envelope]| pin.begin(genesis, approvals);
        let (view, page, signed) = self.read_documents(None, begin).await?;
        signed?;
        Ok(facts(Arc::new(view), page))
    }

    /// The documents that the cluster shows, whatever is known here and whichever node answers, to build the next one on:
    /// documents prove themselves.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shown_to_build_on(&self) -> Result<Arc<ClusterView>, ClientError> {
        let pin = self.0.pin.clone().ok_or(ClientError::NoPin)?;
        let begin = move |genesis: &Envelope, approvals: &[Envelope]| pin.begin(genesis, approvals);
        Ok(Arc::new(self.read_documents(None, begin).await?.0))
    }

    /// Reads documents from the one after `view`'s newest on, page by page. The last page's signature is checked by
    /// the documents that were read, since only they tell which nodes are to be believed: what came of it is told
    /// apart, because the documents hold whoever shows them.
    async fn read_documents(
        &self,
        mut view: Option<ClusterView>,
        begin: impl Fn(&Envelope, &[Envelope]) -> Result<ClusterView, EvidenceError>,
    ) -> Result<(ClusterView, Cluster, Result<(), Untrusted>), ClientError> {
        loop {
            let from = view.as_ref().map_or(0, |view| view.newest().number().saturating_add(1));
            let query = format!("from={from}");
            let request = OpenRequest { method: "GET", path: "/v1/cluster", query: &query, limit: MAX_CLUSTER_BYTES };
            let received = self.exchange_open(&request).await?;
            if received.status != 200 {
                let active = view.as_ref();
                let checked = active.map(|view| verify_open(&request, &received, |key| view.active_node(key).cloned()));
                return Err(refused(&received, matches!(checked, Some(Ok(_)))));
            }
            let page: Cluster = json::parse(&received.body, MAX_CLUSTER_BYTES)
                .map_err(|_| ClientError::contradiction("the cluster's description is malformed"))?;
            let (next, rest) = match view.take() {
                // Whoever shows more than was asked for shows what is known.
                Some(view) => {
                    let known =
                        |shown: &Envelope| view.documents().any(|known| known.digest() == payload_digest(shown));
                    let known = page.documents.iter().take_while(|shown| known(shown)).count();
                    (view, page.documents.get(known..).unwrap_or_default())
                }
                None => {
                    let (genesis, rest) = page
                        .documents
                        .split_first()
                        .ok_or_else(|| ClientError::contradiction("the cluster does not show its genesis"))?;
                    let view = begin(genesis, &page.approvals).map_err(ClientError::statement(GENESIS))?;
                    let rest = beyond(&view, rest)?;
                    (view, rest)
                }
            };
            let mut next = next;
            for document in rest {
                next.push(document).map_err(ClientError::statement(DOCUMENT))?;
            }
            if next.newest().number() >= page.newest {
                let signed = verify_open(&request, &received, |key| next.active_node(key).cloned());
                return Ok((next, page, signed));
            }
            // Each page brings something, or it would be asked for without end.
            demand(next.newest().number() >= from, "the cluster does not show all its documents")?;
            view = Some(next);
        }
    }
}
