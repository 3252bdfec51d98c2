//! Making a client.

use crate::ClientError;
use crate::memory::{Memory, Names};
use crate::progress::{Progress, Watch};
use crate::resolve::{Me, Resolved};
use crate::state::Loss;
use crate::transport::{Address, Authorities, Transport};
use bulla_crypto::envelope::Decrypter;
use bulla_crypto::evidence::{AdminSet, ClusterView};
use bulla_crypto::sign::Signer;
use bulla_wire::challenge::Challenge;
use bulla_wire::id::{ClusterId, KeyId, PrincipalId};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a call may take with all its retries, unless the builder says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest time in which a call is tried again: afterwards its nonce may be outside the server's window.
const MAX_TIMEOUT: Duration = Duration::from_secs(240);

/// Somebody's key: it signs, and it opens what is sealed to its holder.
pub trait Key: Signer + Decrypter {}

impl<T: Signer + Decrypter> Key for T {}

/// Where belief begins.
#[derive(Debug, Clone)]
pub enum Pin {
    /// The cluster with this id.
    Cluster(ClusterId),
    /// The node with this key, before it belongs to a cluster: for `init` alone.
    Node(KeyId),
    /// Any cluster of these admins that k of them approved. Each run looks anew which one answers.
    Admins(AdminSet),
}

/// Where the client remembers what it saw.
#[derive(Debug, Clone, Default)]
pub enum State {
    /// In memory: a rollback between two runs is not seen, and a wrap whose opening was interrupted by the process'
    /// end is lost.
    #[default]
    Memory,
    /// In a directory below this one, named after the cluster.
    Directory(PathBuf),
}

/// A client in the making.
pub struct Builder {
    address: String,
    identity: Option<Arc<dyn Key>>,
    old: Vec<Arc<dyn Decrypter>>,
    pin: Option<Pin>,
    state: State,
    timeout: Duration,
    authorities: Authorities,
    watch: Watch,
    withhold: Option<Withhold>,
}

/// Whether a call of this method and path is not to be sent.
pub(crate) type Withhold = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

impl Builder {
    /// Who calls. Without it only the open routes can be asked.
    #[must_use]
    pub fn identity(mut self, identity: Arc<dyn Key>) -> Self {
        self.identity = Some(identity);
        self
    }

    /// A key that the caller had before: it no longer signs, and wraps to it are opened with it. May be repeated.
    #[must_use]
    pub fn also_opens(mut self, key: Arc<dyn Decrypter>) -> Self {
        self.old.push(key);
        self
    }

    /// Whom to believe. Without it only [`Client::discover`] and [`Client::health`] work.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pin = Some(pin);
        self
    }

    /// Where to remember.
    #[must_use]
    pub fn state(mut self, state: State) -> Self {
        self.state = state;
        self
    }

    /// How long a call may take with all its retries; at most four minutes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(MAX_TIMEOUT);
        self
    }

    /// Demands besides that the server's certificate be vouched for by the authorities in this PEM file.
    #[must_use]
    pub fn ca_file(mut self, path: PathBuf) -> Self {
        self.authorities = Authorities::File(path);
        self
    }

    /// Whom to tell how far the content of large wraps is. It is called between pieces of the content, so it should
    /// not take long.
    #[must_use]
    pub fn progress(mut self, watch: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.watch = Watch::new(watch);
        self
    }

    /// Calls for which `withhold` says so, by method and path, are not sent and fail with [`ClientError::Withheld`]: to
    /// see what something would ask for.
    #[must_use]
    pub fn withhold(mut self, withhold: impl Fn(&str, &str) -> bool + Send + Sync + 'static) -> Self {
        self.withhold = Some(Box::new(withhold));
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Input`] for an address that is none; [`ClientError::Io`] for the file of authorities.
    pub fn build(self) -> Result<Client, ClientError> {
        let Self { address, identity, old, pin, state, timeout, authorities, watch, withhold } = self;
        let address: Address = address.parse()?;
        let transport = Transport::new(&address, authorities, watch)?;
        Ok(Client(Arc::new(Inner {
            address,
            transport,
            identity,
            old,
            pin,
            state,
            timeout,
            withhold,
            held: Mutex::default(),
            loading: tokio::sync::Mutex::new(()),
            alarms: AtomicU32::new(0),
        })))
    }
}

/// A cluster, as somebody who may call it. Cheap to clone; clones share connections and memory.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub address: Address,
    pub transport: Transport,
    pub identity: Option<Arc<dyn Key>>,
    /// Keys that open and no longer sign.
    pub old: Vec<Arc<dyn Decrypter>>,
    pub pin: Option<Pin>,
    pub state: State,
    pub timeout: Duration,
    pub withhold: Option<Withhold>,
    held: Mutex<Held>,
    /// One task reads documents; the others wait for it.
    pub loading: tokio::sync::Mutex<()>,
    pub alarms: AtomicU32,
}

/// What is learnt on the way.
#[derive(Default)]
pub(crate) struct Held {
    pub trust: Option<Trust>,
    pub challenge: Option<(Challenge, Instant)>,
    pub me: Option<Arc<Me>>,
    /// Writers of wraps, so that opening many by one writer does not look it up each time.
    pub writers: HashMap<PrincipalId, Resolved>,
    /// What is remembered of each cluster that was met.
    pub memories: HashMap<ClusterId, Arc<Memory>>,
    /// Names that last over the clusters of the pinned admins.
    pub lasting: Option<Arc<Names>>,
    pub losses: Vec<Loss>,
}

/// What is believed of the cluster, and what is remembered of it.
#[derive(Clone)]
pub(crate) struct Trust {
    pub view: Arc<ClusterView>,
    pub memory: Arc<Memory>,
}

impl Client {
    /// Begins a client of the server at `https://host:port`, `host:port` or `unix:/path/to/bulla.sock`.
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder {
            address: address.into(),
            identity: None,
            old: Vec::new(),
            pin: None,
            state: State::default(),
            timeout: DEFAULT_TIMEOUT,
            authorities: Authorities::default(),
            watch: Watch::default(),
            withhold: None,
        }
    }

    /// Alarms that the caller has not seen, by the last answer.
    pub fn alarms_waiting(&self) -> u32 {
        self.0.alarms.load(Ordering::Relaxed)
    }

    /// Losses that k admins accepted and that this client met since it was made. To be shown to the user.
    pub fn losses(&self) -> Vec<Loss> {
        self.held().losses.clone()
    }

    /// Writes what is remembered but not yet on disk. Dropping the last clone does so too.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn flush(&self) -> Result<(), ClientError> {
        let memories: Vec<_> = self.held().memories.values().cloned().collect();
        memories.iter().try_for_each(|memory| memory.flush())
    }

    /// Reads the file of authorities ([`Builder::ca_file`]) again, for whoever runs long enough to see it change. What was learnt
    /// of the cluster stays. Blocks.
    ///
    /// # Errors
    /// [`ClientError`] for the file; the authorities that were read before stay then.
    pub fn read_authorities_again(&self) -> Result<(), ClientError> {
        self.0.transport.read_again()
    }

    pub(crate) fn key(&self) -> Result<&Arc<dyn Key>, ClientError> {
        self.0.identity.as_ref().ok_or(ClientError::NoIdentity)
    }

    /// The caller's key where it must decrypt: told before anything is asked for that could not be read.
    pub(crate) fn opening_key(&self) -> Result<&dyn Decrypter, ClientError> {
        let own: &dyn Decrypter = &**self.key()?;
        if own.recipients().is_empty() { Err(ClientError::SignsOnly) } else { Ok(own) }
    }

    /// All keys that can open a wrap: the caller's own, then the older ones.
    pub(crate) fn decrypters(&self) -> Result<Vec<&dyn Decrypter>, ClientError> {
        let own: &dyn Decrypter = &**self.key()?;
        Ok(std::iter::once(own).chain(self.0.old.iter().map(|key| &**key)).collect())
    }

    /// No code panics while it holds the lock, and if it did, the values would still be whole.
    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.0.address)
    }
}
