//! A node: one server process, in one of three phases.

use crate::bundle::Bundle;
use crate::clock::{Clock, Steady, Watch};
use crate::drive::Machine;
use crate::listen::BodyBudget;
use crate::metrics::Metrics;
use crate::sink::{self, Sink};
use crate::unsealed::{History, Unsealed, alarm_name, lock};
use crate::webhook::Noticed;
use bulla_core::audit::{Body, Label, Names};
use bulla_core::seal::{Lost, Sessions, StoredSeal};
use bulla_core::seen::{in_window, next_mark};
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::message::ChallengeKey;
use bulla_crypto::random::{SystemRng, secret_key};
use bulla_crypto::sign::SigningKey;
use bulla_store::Store;
use bulla_wire::api::{Alarm, AlarmKind, Initialised, SealState};
use bulla_wire::challenge::Challenge;
use bulla_wire::evidence::Actor;
use bulla_wire::id::{Digest, KeyId};
use bulla_wire::signature::Audience;
use bulla_wire::state::State;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

/// What a sealed node may know: everything in the plain table, nothing of which it can authenticate.
#[derive(Debug)]
pub struct Sealed {
    /// The seal as it was read.
    pub stored: Arc<StoredSeal>,
    /// The documents.
    pub view: ClusterView,
    /// Approvals, histories and consents.
    pub history: History,
}

/// Where the node stands. The drawn machine is in `bulla_core::seal`.
#[derive(Debug, Clone)]
pub enum Phase {
    /// There is no cluster yet.
    Uninitialised,
    /// The keys are not here.
    Sealed(Arc<Sealed>),
    /// It serves.
    Unsealed(Arc<Unsealed>),
}

/// What a node is made of.
pub struct Parts {
    /// The node's key.
    pub key: SigningKey,
    /// The store.
    pub store: Store,
    /// The audit log.
    pub sink: Arc<Sink>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Nothing survives the process.
    pub transient: bool,
    /// Alarms go to a webhook too.
    pub webhook: bool,
    /// Names are hashed in the audit log.
    pub hash_names: bool,
    /// Where the audit log can be read again; none if it cannot.
    pub audit_path: Option<PathBuf>,
    /// Memory for the bodies of requests and for large answers, in all.
    pub bodies: BodyBudget,
    /// Requests of one principal within a second; 0 for any number.
    pub requests_per_s: u32,
    /// Keys whose holders may make the cluster over the network.
    pub init_admins: Vec<KeyId>,
    /// What the cluster begins with besides its founders and the first policy set.
    pub bundle: Option<Bundle>,
    /// Most leases of one principal.
    pub leases_each: u64,
}

/// One server process.
pub struct Node {
    /// What it is made of.
    pub parts: Parts,
    /// Held by whoever changes the phase, from reading the store to the change.
    pub ceremony: tokio::sync::Mutex<()>,
    /// Unseal sessions.
    pub sessions: Mutex<Sessions>,
    /// The store lost commits, and admins are asked for consent.
    pub lost: Mutex<Option<Lost>>,
    /// Alarms that could not be stored, for the webhook.
    pub noticed: Mutex<Noticed>,
    /// The init that made the cluster in this process: nonce, request and answer, for a retry whose answer was lost.
    made: OnceLock<(Digest, Digest, Initialised)>,
    /// Nonces whose effects no store remembers: of sealed routes, of sealing, of confirming the clock.
    nonces: Mutex<HashMap<Digest, Used>>,
    phase: RwLock<Phase>,
    /// What it is without keys, as the store said last in this process.
    last_sealed: Mutex<Option<Arc<Sealed>>>,
    /// It is that, and the store was not asked or could not be read.
    behind: AtomicBool,
    challenge: ChallengeKey,
    names: Names,
    clock_even: AtomicBool,
    opened: AtomicBool,
    steady: Steady,
}

/// A nonce that was used.
#[derive(Debug)]
struct Used {
    until_ms: u64,
    minute: u32,
    request: Digest,
}

/// The nonce was used for another request.
#[derive(Debug)]
pub struct NonceReused;

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.parts.key.public_key().key_id())
    }
}

impl Node {
    /// A node that begins in `phase`.
    pub fn new(parts: Parts, phase: Phase) -> Self {
        let mut rng = SystemRng;
        let names = if parts.hash_names { Names::Hidden } else { Names::Clear };
        let node = Self {
            ceremony: tokio::sync::Mutex::new(()),
            sessions: Mutex::default(),
            lost: Mutex::default(),
            noticed: Mutex::default(),
            made: OnceLock::new(),
            nonces: Mutex::default(),
            phase: RwLock::new(Phase::Uninitialised),
            last_sealed: Mutex::default(),
            behind: AtomicBool::new(false),
            challenge: ChallengeKey::of_process(secret_key(&mut rng)),
            names,
            clock_even: AtomicBool::new(true),
            opened: AtomicBool::new(false),
            steady: Steady::new(parts.clock.as_ref()),
            parts,
        };
        node.enter(phase);
        node
    }

    /// The node's key id.
    pub fn id(&self) -> KeyId {
        self.parts.key.public_key().key_id()
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Enters a phase. The caller holds [`Node::ceremony`].
    pub fn enter(&self, phase: Phase) {
        self.set_phase(phase);
        self.behind.store(false, Ordering::Release);
    }

    /// Enters the phase in which it has no keys, as the store said last, whatever it says now. The caller holds
    /// [`Node::ceremony`].
    pub fn enter_last_sealed(&self) {
        self.behind.store(true, Ordering::Release);
        let last = lock(&self.last_sealed).clone();
        self.set_phase(last.map_or(Phase::Uninitialised, Phase::Sealed));
    }

    fn set_phase(&self, phase: Phase) {
        let (state, epoch) = match &phase {
            Phase::Uninitialised => (SealState::Uninitialised, 0),
            Phase::Sealed(sealed) => (SealState::Sealed, sealed.stored.config().epoch),
            Phase::Unsealed(unsealed) => (SealState::Unsealed, unsealed.keys.epoch),
        };
        if let Phase::Sealed(sealed) = &phase {
            *lock(&self.last_sealed) = Some(Arc::clone(sealed));
        }
        self.parts.metrics.set_seal(state, epoch);
        self.opened.fetch_or(state == SealState::Unsealed, Ordering::Relaxed);
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// What it will be without the keys that it takes into use.
    pub fn remember_sealed(&self, sealed: Arc<Sealed>) {
        *lock(&self.last_sealed) = Some(sealed);
    }

    /// Whether the store has to be read before anybody gives shares to what it is.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    /// Whether it was unsealed at some time since the process began.
    pub fn was_unsealed(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    /// Tells of an alarm that is not stored, for lack of keys or of a store that takes it: metric, log, audit log, and the
    /// webhook if there is a cluster to tell it of.
    pub fn notice(&self, kind: AlarmKind, actor: Option<Actor>, message: &str) {
        let principal = actor.as_ref().map(|actor| actor.principal);
        tracing::warn!(kind = alarm_name(kind), admin = principal.map(|id| id.to_string()), message, "alarm");
        self.parts.metrics.alarm_raised(kind);
        let alarm = Label::lossy(alarm_name(kind));
        drop(self.parts.sink.note(Body::Alarm { alarm, principal, resource: None }));
        let cluster = match self.phase() {
            Phase::Uninitialised => return,
            Phase::Sealed(sealed) => sealed.view.id(),
            Phase::Unsealed(unsealed) => unsealed.keys.cluster,
        };
        if self.parts.webhook {
            let (id, at_ms, message) = (String::new(), self.now_ms(), message.to_owned());
            let alarm = Alarm { id, kind, at_ms, wrap: None, actor, receipt: None, message };
            if !lock(&self.noticed).add(cluster, alarm) {
                tracing::error!("too many alarms wait for the webhook, so this one is not told");
            }
        }
    }

    /// What operations need.
    pub fn machine(&self) -> Machine<'_> {
        Machine {
            store: &self.parts.store,
            clock: self.parts.clock.as_ref(),
            steady: &self.steady,
            node: &self.parts.key,
            bodies: &self.parts.bodies,
            webhook: self.parts.webhook,
        }
    }

    /// Now, Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.parts.clock.unix_ms()
    }

    /// Whether the clock runs evenly; if not, nothing is deleted by time.
    pub fn clock_is_even(&self) -> bool {
        self.clock_even.load(Ordering::Acquire)
    }

    /// The clock stepped, or an admin confirmed the time. Whether that is news.
    pub fn set_clock_even(&self, even: bool) -> bool {
        self.clock_even.swap(even, Ordering::AcqRel) != even
    }

    /// The wall clock is right as it is. Whether deleting had waited for that.
    pub fn confirm_clock(&self) -> bool {
        self.steady.believe(self.parts.clock.as_ref());
        self.set_clock_even(true)
    }

    /// The wall clock is far from the store's last commit, so either may be right.
    pub fn doubt_clock(&self, commit_ms: u64) -> bool {
        self.steady.begin(commit_ms, self.parts.clock.as_ref());
        self.set_clock_even(false)
    }

    /// The clock ran evenly until now; nothing is believed anew while a step waits for its confirmation.
    pub fn clock_ran_evenly(&self, watch: &Watch) {
        if self.clock_is_even() {
            self.steady.follow(watch);
        }
    }

    /// Watches the clock from now on.
    pub fn watch(&self) -> Watch {
        Watch::new(self.parts.clock.as_ref())
    }

    /// Whether this nonce comes for the first time, for effects that no store remembers.
    ///
    /// # Errors
    /// If it came with another request.
    pub fn first_time(&self, key: Digest, minute: u32, request: Digest) -> Result<bool, NonceReused> {
        match lock(&self.nonces).entry(key) {
            Entry::Occupied(used) if used.get().request == request => Ok(false),
            Entry::Occupied(_) => Err(NonceReused),
            Entry::Vacant(place) => {
                let until_ms = self.now_ms().saturating_add(crate::unsealed::REFUSAL_MS);
                place.insert(Used { until_ms, minute, request });
                Ok(true)
            }
        }
    }

    /// Remembers the init that made the cluster. There is one in a process's life.
    pub fn remember_init(&self, key: Digest, request: Digest, answer: &Initialised) {
        drop(self.made.set((key, request, answer.clone())));
    }

    /// The answer to the init that made the cluster, if this is it again.
    pub fn init_again(&self, key: &Digest, request: &Digest) -> Option<&Initialised> {
        let (made_key, made_request, answer) = self.made.get()?;
        (made_key == key && made_request == request).then_some(answer)
    }

    /// Takes a nonce back whose effect did not happen, so that it may be tried again.
    pub fn forget(&self, key: &Digest) {
        lock(&self.nonces).remove(key);
    }

    /// Forgets nonces that nobody can use any more: their challenge is dead, and a retry under another one would find
    /// their minute over.
    pub fn sweep_nonces(&self) {
        let now_ms = self.now_ms();
        let mark = match self.phase() {
            Phase::Unsealed(unsealed) => unsealed.keys.head.floor(),
            Phase::Uninitialised | Phase::Sealed(_) => next_mark(now_ms),
        };
        lock(&self.nonces).retain(|_, used| now_ms < used.until_ms || in_window(mark, used.minute, now_ms));
    }
}

impl Phase {
    /// Whom requests must be for.
    pub fn audience(&self, node: &Node) -> Audience {
        match self {
            Self::Uninitialised => Audience::Node(node.id()),
            Self::Sealed(sealed) => Audience::Cluster(sealed.view.id()),
            Self::Unsealed(unsealed) => Audience::Cluster(unsealed.keys.cluster),
        }
    }

    /// With what the audit log is opened on what a store holds: which cluster's it is, and up to which line the store
    /// says that it goes.
    pub fn log_opening(&self, node: KeyId, clock: Arc<dyn Clock>, disk: Box<dyn sink::Disk>) -> sink::Opening {
        let (cluster, head) = match self {
            Self::Sealed(sealed) => (Some(sealed.view.id()), sealed.stored.head_unverified().ok()),
            Self::Uninitialised | Self::Unsealed(_) => (None, None),
        };
        sink::Opening {
            node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster,
            head: head.map(|head| head.audit).filter(|at| at.n > 0),
            clock: Arc::new(move || clock.unix_ms()),
            disk,
        }
    }

    /// Makes and checks challenges.
    pub fn challenge_key<'a>(&'a self, node: &'a Node) -> &'a ChallengeKey {
        match self {
            Self::Unsealed(unsealed) => &unsealed.keys.challenge,
            Self::Uninitialised | Self::Sealed(_) => &node.challenge,
        }
    }

    /// A fresh challenge.
    pub fn issue(&self, node: &Node) -> Challenge {
        self.challenge_key(node).issue(&self.audience(node), node.now_ms(), &node.id(), &mut SystemRng)
    }

    /// How names are written into the audit log.
    pub fn names<'a>(&'a self, node: &'a Node) -> &'a Names {
        match self {
            Self::Unsealed(unsealed) => &unsealed.keys.names,
            Self::Uninitialised | Self::Sealed(_) => &node.names,
        }
    }

    /// The state that goes with an answer.
    pub fn state(&self, sequence: Option<u64>, alarms: u32) -> State {
        match self {
            Self::Uninitialised => State::UNINITIALISED,
            Self::Sealed(sealed) => {
                let head = sealed.stored.head_unverified().ok();
                State {
                    epoch: sealed.stored.config().epoch,
                    lineage: head.map(|head| head.lineage),
                    sequence: head.map(|head| head.sequence.0),
                    doc: Some(sealed.view.newest().number()),
                    alarms,
                }
            }
            Self::Unsealed(unsealed) => State {
                epoch: unsealed.keys.epoch,
                lineage: Some(unsealed.keys.lineage),
                sequence,
                doc: Some(unsealed.directory().view().newest().number()),
                alarms,
            },
        }
    }
}
