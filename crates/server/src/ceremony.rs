//! Ceremonies: making a cluster, opening its seal, closing it. Each holds [`Node::ceremony`] from reading the store
//! to the change of phase, so two of them cannot cross.

mod sealing;

pub use sealing::{enter_without_keys, seal};

use sealing::{sealed, sealed_beside};

use crate::clock::MAX_START_GAP_MS;
use crate::drive::DriveError;
use crate::failpoint;
use crate::node::{Node, Phase, Sealed};
use crate::plain::{read_history, read_phase};
use crate::recovery::recover_audit;
use crate::restore;
use crate::unsealed::{HeadKeeper, History, Keys, Unsealed, lock};
use bulla_core::audit::{AuditPosition, Body, NameKey, Names, Quote};
use bulla_core::barrier::{Barrier, Kind, Query};
use bulla_core::directory::{Directory, Principal, StoredPrincipal};
use bulla_core::engine::document::{Next, next_view};
use bulla_core::engine::policy as policy_engine;
use bulla_core::founding::{self, Bundle, BundleError};
use bulla_core::head::Head;
use bulla_core::operation::{Fault, parse_record};
use bulla_core::record::{Revision, SCAN_ENTRIES_MAX, Table};
use bulla_core::seal::{
    self, Accounted, AdvanceRequest, Give, GiveOutcome, InitError, InitRequest, Lost, RootKey, SealError, SessionError,
    StoredSeal, row,
};
use bulla_core::seen::minute_of;
use bulla_crypto::message::ChallengeKey;
use bulla_crypto::random::SystemRng;
use bulla_store::{CommitError, StoreError};
use bulla_wire::api::{Init, Initialised, SealState, ShareGiven, UnsealSession};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::Consent;
use bulla_wire::id::{Digest, KeyId, PrincipalId};
use bulla_wire::name::Name;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Why a ceremony did not come to its end.
#[derive(Debug)]
pub enum CeremonyError {
    /// The node is in another phase.
    Phase(SealState),
    /// The cluster was not made.
    Init(InitError),
    /// The bundle is for another cluster than this one would be.
    Bundle(BundleError),
    /// The session did not take it.
    Session(SessionError),
    /// Rows of the store do not open the seal.
    Seal(SealError),
    /// Somebody else was faster.
    Conflict,
    /// The store lost commits.
    Lost(Box<Consent>),
    /// A document does not hold, or changes what only a rekey may.
    Document(String),
    /// Nothing was lost that could be consented to.
    NothingLost,
    /// The store does not answer, or not as it should.
    Store(String),
    /// The commit's outcome is unknown.
    Unknown(String),
    /// A record does not parse.
    Fault(Fault),
}

impl fmt::Display for CeremonyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(state) => write!(f, "the cluster is {state:?}"),
            Self::Init(error) => write!(f, "{error}"),
            Self::Bundle(error) => write!(f, "{error}"),
            Self::Session(error) => write!(f, "{error}"),
            Self::Seal(error) => write!(f, "{error}"),
            Self::Conflict => f.write_str("another ceremony was faster"),
            Self::Lost(_) => f.write_str("the store holds less than the audit log remembers"),
            Self::Document(reason) => f.write_str(reason),
            Self::NothingLost => f.write_str("nothing was lost"),
            Self::Store(detail) => write!(f, "the store failed: {detail}"),
            Self::Unknown(detail) => write!(f, "the commit's outcome is unknown: {detail}"),
            Self::Fault(fault) => write!(f, "{fault}"),
        }
    }
}
impl std::error::Error for CeremonyError {}

impl From<StoreError> for CeremonyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}
impl From<SealError> for CeremonyError {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}
impl From<SessionError> for CeremonyError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}
impl From<Fault> for CeremonyError {
    fn from(error: Fault) -> Self {
        Self::Fault(error)
    }
}
impl From<DriveError> for CeremonyError {
    fn from(error: DriveError) -> Self {
        Self::Store(error.to_string())
    }
}
impl From<CommitError> for CeremonyError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => Self::Conflict,
            CommitError::Unknown { detail } => Self::Unknown(detail),
            error => Self::Store(error.to_string()),
        }
    }
}

/// The position that stands in a head when the log is no file.
pub const NO_POSITION: AuditPosition = AuditPosition { file: 0, offset: 0, n: 0, hash: Digest::new([0; 32]) };

/// Makes the cluster. The node stays sealed.
///
/// # Errors
/// See [`CeremonyError`].
pub async fn init(node: &Node, body: &Init, signer: KeyId) -> Result<Initialised, CeremonyError> {
    let _guard = node.ceremony.lock().await;
    if !matches!(node.phase(), Phase::Uninitialised) {
        return Err(CeremonyError::Phase(SealState::Sealed));
    }
    let request = InitRequest {
        init: body,
        signer,
        node: node.parts.key.public_key(),
        audit: node.parts.sink.position().unwrap_or(NO_POSITION),
        now_ms: node.now_ms(),
    };
    let mut rng = SystemRng;
    let made = seal::init(&request, &mut rng).map_err(CeremonyError::Init)?;
    let mut batch = made.batch;
    let barrier = made.keyring.barrier(made.cluster).ok_or(SealError::Keyring)?;
    let bundle = node.parts.bundle.as_ref();
    let writes = founding::rows(&made.view, bundle, request.now_ms).map_err(CeremonyError::Bundle)?;
    let data = barrier.batch(&writes, &mut rng).map_err(|e| CeremonyError::Store(e.to_string()))?;
    batch.append(data);
    failpoint::hit(failpoint::INIT_BEFORE_COMMIT);
    node.parts.store.commit(batch).await?;
    failpoint::hit(failpoint::INIT_AFTER_COMMIT);
    let committed = Quote { cluster: made.cluster, lineage: made.head.lineage, sequence: made.head.sequence.0 };
    drop(node.parts.sink.note(Body::Initialised { committed, bundle: bundle.map(Bundle::line) }));
    node.enter(read_phase(&node.parts.store).await?);
    Ok(Initialised { cluster: made.cluster, genesis: made.genesis })
}

/// Opens an unseal session, or joins the running one.
///
/// # Errors
/// See [`CeremonyError`].
pub async fn session(node: &Node) -> Result<UnsealSession, CeremonyError> {
    let sealed = sealed_beside(node).await?;
    let mut sessions = lock(&node.sessions);
    Ok(sessions.open(node.now_ms(), &sealed.stored, &mut SystemRng)?.describe())
}

/// The caller's encrypted intermediate key.
///
/// # Errors
/// See [`CeremonyError`].
pub async fn key(
    node: &Node,
    id: &str,
    admin: &PrincipalId,
) -> Result<bulla_wire::api::EncryptedShareKey, CeremonyError> {
    sealed_beside(node).await?;
    Ok(lock(&node.sessions).get(node.now_ms(), id)?.key_for(admin)?)
}

/// Takes a share; with the last one needed, unseals.
///
/// # Errors
/// See [`CeremonyError`].
pub async fn give(node: &Arc<Node>, id: &str, give: &Give<'_>) -> Result<ShareGiven, CeremonyError> {
    let _guard = node.ceremony.lock().await;
    let sealed = sealed(node).await?;
    let (outcome, progress, approvals) = {
        let mut sessions = lock(&node.sessions);
        let session = sessions.get(node.now_ms(), id)?;
        let outcome = session.give(give, &sealed.view)?;
        (outcome, session.progress(), session.approvals())
    };
    let GiveOutcome::Complete(root) = outcome else {
        return Ok(ShareGiven { state: SealState::Sealed, progress, consent_needed: None });
    };
    match unseal(node, &sealed, &root, &approvals, None).await {
        Ok(()) => Ok(ShareGiven { state: SealState::Unsealed, progress, consent_needed: None }),
        Err(CeremonyError::Lost(consent)) => {
            Ok(ShareGiven { state: SealState::Sealed, progress, consent_needed: Some(*consent) })
        }
        Err(error) => Err(error),
    }
}

/// Takes the next cluster document while sealed.
///
/// # Errors
/// See [`CeremonyError`].
pub async fn document(node: &Arc<Node>, envelope: &Envelope) -> Result<(), CeremonyError> {
    let _guard = node.ceremony.lock().await;
    let sealed = sealed(node).await?;
    let view = match next_view(&sealed.view, envelope).map_err(CeremonyError::Document)? {
        Next::Same => return Ok(()),
        Next::Plain(view) => view,
        Next::Rekey(_) => {
            let reason = "admins, their keys, mode, k and ingress change while the cluster is unsealed";
            return Err(CeremonyError::Document(reason.into()));
        }
    };
    let key = row::document_key(view.newest().number()).map_err(SealError::from)?;
    let value = row::encode(&bulla_wire::json::to_vec(envelope), &mut SystemRng).map_err(SealError::from)?;
    let mut batch = bulla_core::record::Batch::default();
    batch.create(Table::Plain, key, value);
    node.parts.store.commit(batch).await?;
    node.enter(read_phase(&node.parts.store).await?);
    Ok(())
}

/// Takes the admins' consent to lost commits, and unseals with the shares that were given.
///
/// # Errors
/// See [`CeremonyError`].
pub async fn consent(node: &Arc<Node>, envelope: &Envelope) -> Result<ShareGiven, CeremonyError> {
    let _guard = node.ceremony.lock().await;
    let sealed = sealed(node).await?;
    if lock(&node.lost).is_none() {
        return Err(CeremonyError::NothingLost);
    }
    let (root, progress, approvals) = {
        let sessions = lock(&node.sessions);
        let session = sessions.newest(node.now_ms()).ok_or(SessionError::Unknown)?;
        (session.root_key().ok_or(SessionError::Unknown)??, session.progress(), session.approvals())
    };
    unseal(node, &sealed, &root, &approvals, Some(envelope)).await?;
    Ok(ShareGiven { state: SealState::Unsealed, progress, consent_needed: None })
}

/// Opens the seal and advances the epoch. The caller holds the ceremony.
async fn unseal(
    node: &Arc<Node>,
    sealed: &Sealed,
    root: &RootKey,
    approvals: &[(u8, Envelope)],
    consent: Option<&Envelope>,
) -> Result<(), CeremonyError> {
    let opened = seal::open(root, &sealed.stored)?;
    let cluster = opened.cluster();
    let quoted = node.parts.sink.last_quoted().filter(|quote| quote.cluster == cluster).map(|quote| quote.position());
    let mut accounted_loss = None;
    let found = match seal::lost_commits(&opened, quoted) {
        Ok(_) if node.parts.sink.has_loss() => Err(Lost::unknown(&opened)),
        found => found,
    };
    let accounted = match (found, consent) {
        (Ok(accounted), _) => accounted,
        (Err(lost), Some(envelope)) => {
            accounted_loss = Some(lost);
            lost.accept(&sealed.view, restore::earlier_losses(node, &opened, lost).await?, envelope, node.now_ms())?
        }
        (Err(lost), None) => {
            let wanted = lost.consent(cluster, restore::earlier_losses(node, &opened, lost).await?);
            *lock(&node.lost) = Some(lost);
            return Err(CeremonyError::Lost(Box::new(wanted)));
        }
    };
    let (before, restored) = (opened.head, opened.is_restored());
    // Before the advance, which moves the head: a crash in between must find the same lines to write again.
    let barrier = opened.keyring.barrier(cluster).ok_or(SealError::Keyring)?;
    let held = recover_audit(node, &barrier, before.mark).await?;
    let advanced = advance(node, sealed, opened, accounted, approvals).await?;
    let entered =
        enter_unsealed(node, sealed, advanced, before, accounted_loss.map(|lost| (lost, restored, held))).await;
    if entered.is_err() {
        // The epoch has advanced, so the seal in memory is no longer the one to open.
        enter_without_keys(node).await;
    }
    entered
}

/// Takes the new epoch's keys into use. The caller holds the ceremony. With a loss comes whether a snapshot was put back, and of
/// which requests the store holds what they did.
async fn enter_unsealed(
    node: &Arc<Node>,
    sealed: &Sealed,
    advanced: seal::Advance,
    before: Head,
    lost: Option<(Lost, bool, HashSet<Revision>)>,
) -> Result<(), CeremonyError> {
    let cluster = advanced.cluster;
    let barrier = advanced.keyring.barrier(cluster).ok_or(SealError::Keyring)?;
    let unsealed = load(node, sealed, advanced, barrier).await?;
    let gap = node.now_ms().abs_diff(before.commit_ms) > MAX_START_GAP_MS;
    if gap && node.doubt_clock(before.commit_ms) {
        tracing::warn!(
            "the clock is more than a day from the store's last commit: nothing is deleted until an admin confirms the time"
        );
    }
    node.parts.store.set_head(Some(unsealed.keys.head.clone()));
    if let Some((lost, restored, held)) = lost {
        restore::account(node, &unsealed, &lost, restored, held).await?;
        if restored {
            // Whoever asks again with a nonce of before must read the state: a snapshot lacks what its row would tell of.
            let after = minute_of(before.commit_ms).saturating_add(1);
            unsealed.keys.head.raise_floor(after.min(minute_of(node.now_ms())));
        }
    }
    let committed = Quote { cluster, lineage: unsealed.keys.lineage, sequence: unsealed.keys.head.sequence() };
    failpoint::hit(failpoint::UNSEAL_BEFORE_LINE);
    let line = node.parts.sink.note(Body::Unsealed { epoch: unsealed.keys.epoch, committed });
    line.await.map_err(|e| CeremonyError::Store(e.to_string()))?;
    failpoint::hit(failpoint::UNSEAL_AFTER_LINE);
    lock(&node.sessions).clear();
    *lock(&node.lost) = None;
    let epoch = unsealed.keys.epoch;
    node.enter(Phase::Unsealed(Arc::new(unsealed)));
    tracing::info!(epoch, "unsealed");
    if epoch >= seal::TERMS_MAX.into() {
        tracing::warn!(
            "the last barrier term is in use for ever: a rekey no longer keeps new records from former shares"
        );
    }
    Ok(())
}

async fn advance(
    node: &Node,
    sealed: &Sealed,
    opened: seal::Opened,
    accounted: Accounted,
    approvals: &[(u8, Envelope)],
) -> Result<seal::Advance, CeremonyError> {
    let request = AdvanceRequest {
        view: &sealed.view,
        documents_from: sealed.view.newest().number().saturating_add(1),
        approvals,
        consents_from: u32::try_from(sealed.history.consents.len()).unwrap_or(u32::MAX),
        audit: node.parts.sink.position().unwrap_or(NO_POSITION),
        now_ms: node.now_ms(),
    };
    let mut advance = seal::advance(opened, accounted, &request, &mut SystemRng)?;
    failpoint::hit(failpoint::UNSEAL_BEFORE_COMMIT);
    let committed = node.parts.store.commit(std::mem::take(&mut advance.batch)).await;
    failpoint::hit(failpoint::UNSEAL_AFTER_COMMIT);
    if let Err(error) = committed {
        // Whatever the store did, the seal in memory is no longer the one to open.
        node.enter(read_phase(&node.parts.store).await?);
        return Err(error.into());
    }
    Ok(advance)
}

/// Everything of one directory, page by page.
async fn scan_all(
    node: &Node,
    barrier: &Barrier,
    kind: Kind,
) -> Result<Vec<bulla_core::barrier::Record>, CeremonyError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let query = [Query::Scan { kind, dir: vec![], after: after.take(), limit: SCAN_ENTRIES_MAX }];
        let snapshot = node.parts.store.read(barrier.reads(&query).map_err(DriveError::from)?).await?;
        let (_, mut records) = barrier.records(&query, snapshot).map_err(DriveError::from)?;
        let [query] = query;
        let Some((page, more)) = records.take_page(&query) else { return Ok(all) };
        after = page.last().map(|record| record.cursor.clone());
        all.extend(page);
        if !more || after.is_none() {
            return Ok(all);
        }
    }
}

/// What a node holds under the keys of a new epoch.
///
/// # Errors
/// If the store does not answer, or a record does not parse.
pub async fn load(
    node: &Node,
    sealed: &Sealed,
    advanced: seal::Advance,
    barrier: Barrier,
) -> Result<Unsealed, CeremonyError> {
    let mut principals = Vec::new();
    for record in scan_all(node, &barrier, Kind::Principal).await? {
        principals.push(Principal::from_stored(&parse_record::<StoredPrincipal>("principal", &record.bytes)?)?);
    }
    let policies = load_policies(scan_all(node, &barrier, Kind::Policy).await?)?;
    let directory = Directory::new(sealed.view.clone(), principals, policies)
        .map_err(|e| Fault::Record { kind: "policy", reason: e.to_string() })?;
    let seal::Advance { keyring, head, lineage, epoch, cluster, config_sha256, .. } = advanced;
    let names = if node.parts.hash_names { Names::Hashed(NameKey::new(keyring.audit.copy())) } else { Names::Clear };
    // The advance has just written approvals and consents.
    let store = &node.parts.store;
    let now = match StoredSeal::parse(store.read(StoredSeal::reads()?).await?)? {
        Some(stored) => {
            let history = read_history(store, &stored).await?;
            // Whoever was an admin before these is none once the node is sealed, be the store readable then or not.
            let (stored, view) = (Arc::new(stored), sealed.view.clone());
            node.remember_sealed(Arc::new(Sealed { stored, view, history: history.clone() }));
            history
        }
        None => History::default(),
    };
    let keys = Keys {
        cluster,
        epoch,
        lineage: lineage.lineage,
        challenge: ChallengeKey::of_epoch(keyring.challenge.copy(), epoch),
        ingress: keyring.ingress_identities()?,
        names,
        head: Arc::new(HeadKeeper::new(
            keyring.head.copy(),
            cluster,
            &head,
            node.parts.clock.clone(),
            node.parts.sink.clone(),
        )),
        history: History { lineages: keyring.lineages.clone(), ..now },
        barrier,
        config_sha256,
        keyring,
    };
    Ok(Unsealed::new(keys, directory, node.parts.sink.clone(), node.parts.metrics.clone()))
}

fn load_policies(records: Vec<bulla_core::barrier::Record>) -> Result<BTreeMap<Name, String>, CeremonyError> {
    let mut policies = BTreeMap::new();
    for record in records {
        let stored: policy_engine::StoredPolicy = parse_record("policy", &record.bytes)?;
        policies.insert(stored.name, stored.text);
    }
    Ok(policies)
}
