//! A whole installation in the test's own process: a server with clocks that the test moves, admins who have
//! unsealed it, and people who were admitted. The server is the real one, over real TLS.

use bulla_client::{Admit, Client, Key, Pin, Unseal};
use bulla_client::{Outgoing, Wrapped, content};
use bulla_crypto::evidence::{self, Payload, PrincipalKey, record_payload};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SystemRng;
use bulla_crypto::sign::Signer;
use bulla_server::clock::Clock;
use bulla_server::config::{Alarms, Audit, AuditNames, AuditSync, AuditTarget, Config, Init, Limits, StoreKind, Tls};
use bulla_server::{Running, run};
use bulla_wire::api;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{MinKem, SealMode};
use bulla_wire::id::ClusterId;
use bulla_wire::name::Name;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that runs with the machine's and can be moved besides.
#[derive(Debug)]
pub struct MovableClock {
    began: Instant,
    unix_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl Default for MovableClock {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let unix_ms = u64::try_from(now.as_millis()).expect("a clock before the year 584 million");
        Self { began: Instant::now(), unix_ms: AtomicU64::new(unix_ms), monotonic_ms: AtomicU64::new(0) }
    }
}

impl MovableClock {
    /// At this Unix time in milliseconds, or now if that is later.
    pub fn at(unix_ms: u64) -> Self {
        let clock = Self::default();
        clock.pass(unix_ms.saturating_sub(clock.unix_ms()));
        clock
    }
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).expect("a short test")
    }
    /// Time passes: both clocks go on.
    pub fn pass(&self, ms: u64) {
        self.unix_ms.fetch_add(ms, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
    }
    /// The wall clock steps, forwards or backwards, and the monotonic one does not.
    pub fn step(&self, ms: i64) {
        if ms >= 0 {
            self.unix_ms.fetch_add(ms.unsigned_abs(), Ordering::SeqCst);
        } else {
            self.unix_ms.fetch_sub(ms.unsigned_abs(), Ordering::SeqCst);
        }
    }
}

impl Clock for MovableClock {
    fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::SeqCst).saturating_add(self.elapsed_ms())
    }
    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst).saturating_add(self.elapsed_ms())
    }
}

/// Somebody with a key and a record of it.
#[derive(Clone)]
pub struct Person {
    /// The name.
    pub name: Name,
    /// The key.
    pub identity: Arc<Identity>,
    /// The record.
    pub record: Envelope,
}

impl Person {
    /// Somebody new with a hybrid key.
    pub fn new(name: &str) -> Self {
        Self::with_kind(name, IdentityKind::Hybrid)
    }

    /// Somebody new.
    pub fn with_kind(name: &str, kind: IdentityKind) -> Self {
        let identity = Identity::generate(kind, &mut SystemRng).expect("a key");
        let name: Name = name.parse().expect("a name");
        let key = PrincipalKey {
            public: identity.public_key().clone(),
            recipients: identity.recipients().to_vec(),
            dual_use: false,
        };
        let payload = record_payload(name.clone(), None, &[key]).expect("a first record");
        let record = evidence::sign_in_memory(&payload, &[identity.signing_key().expect("in memory")]).expect("signs");
        Self { name, identity: Arc::new(identity), record }
    }

    /// A client of theirs, with its memory in this process.
    pub fn client(&self, address: &str, pin: Pin) -> Client {
        let key: Arc<dyn Key> = self.identity.clone();
        Client::builder(address).identity(key).pin(pin).build().expect("a client")
    }

    /// Something that they sign.
    pub fn sign(&self, payload: &impl Payload) -> Envelope {
        evidence::sign_in_memory(payload, &[self.identity.signing_key().expect("in memory")]).expect("signs")
    }
}

/// What kind of installation.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Where records are kept.
    pub store: StoreKind,
    /// Any or quorum.
    pub mode: SealMode,
    /// How many admins open the seal.
    pub k: u8,
    /// How many there are.
    pub n: u8,
    /// When audit lines are synced.
    pub sync: AuditSync,
}

impl Default for Shape {
    fn default() -> Self {
        Self { store: StoreKind::Memory, mode: SealMode::Any, k: 1, n: 1, sync: AuditSync::Interval }
    }
}

impl Shape {
    /// On the embedded store.
    pub fn durable() -> Self {
        Self { store: StoreKind::File, ..Self::default() }
    }
}

/// A running installation.
pub struct World {
    /// The server; none while it is stopped.
    pub server: Option<Running>,
    /// Its clock.
    pub clock: Arc<MovableClock>,
    /// Its configuration.
    pub config: Config,
    /// The admins, in the order of their shares.
    pub admins: Vec<Person>,
    /// The cluster.
    pub cluster: ClusterId,
    shape: Shape,
    dir: tempfile::TempDir,
}

impl World {
    /// An unsealed installation.
    pub async fn new(shape: Shape) -> Self {
        let world = Self::sealed(shape).await;
        world.unseal().await;
        world
    }

    /// A server that is there, and no cluster yet: its id is zeros until somebody makes it.
    pub async fn bare(shape: &Shape) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let admins: Vec<Person> = (0..shape.n).map(|i| Person::new(&format!("admin{i}"))).collect();
        let mut config = config(dir.path(), shape);
        config.init.admins = admins.iter().map(|admin| record_file(dir.path(), admin)).collect();
        let clock = Arc::new(MovableClock::default());
        let server = run(&config, clock.clone()).await.expect("a server that starts");
        let cluster = ClusterId::new([0; 32]);
        Self { server: Some(server), clock, config, admins, cluster, shape: shape.clone(), dir }
    }

    /// An installation that was made and never unsealed.
    pub async fn sealed(shape: Shape) -> Self {
        let mut world = Self::bare(&shape).await;
        let first = world.admins[0].client(&world.address(), Pin::Node(world.server().ready.node));
        world.cluster = first.init(&world.init(&shape)).await.expect("init").id();
        world
    }

    /// What makes the cluster.
    pub fn init(&self, shape: &Shape) -> api::Init {
        api::Init {
            name: "test".parse().expect("a name"),
            admins: self.admins.iter().map(|admin| admin.record.clone()).collect(),
            mode: shape.mode,
            k: shape.k,
            min_kem: MinKem::Hybrid,
        }
    }

    /// A copy of a stopped installation, with the same people: what happens to one does not happen to the other. Its
    /// clock begins at this Unix time in milliseconds.
    ///
    /// # Panics
    /// If the server runs, which would write under way.
    pub fn copied(&self, unix_ms: u64) -> Self {
        assert!(self.server.is_none(), "the server runs");
        let dir = tempfile::tempdir().expect("a directory");
        copy_directory(self.dir.path(), dir.path());
        let clock = MovableClock::at(unix_ms);
        let (config, shape) = (config(dir.path(), &self.shape), self.shape.clone());
        let (admins, cluster) = (self.admins.clone(), self.cluster);
        Self { server: None, clock: Arc::new(clock), config, admins, cluster, shape, dir }
    }

    /// Enough admins give their shares.
    pub async fn unseal(&self) {
        for admin in &self.admins {
            let approve: &(dyn Fn(&evidence::ClusterView) -> bool + Send + Sync) = &|_| true;
            let how = Unseal { approve, danger_older_epoch: false };
            let outcome = self.client(admin).unseal(&how).await.expect("a share is taken");
            if outcome.given.state == api::SealState::Unsealed {
                return;
            }
        }
        panic!("the admins' shares did not unseal");
    }

    /// The server.
    pub fn server(&self) -> &Running {
        self.server.as_ref().expect("a running server")
    }

    /// Its address as a client takes it.
    pub fn address(&self) -> String {
        address_of(self.server())
    }

    /// A client of somebody, pinned to the cluster.
    pub fn client(&self, person: &Person) -> Client {
        person.client(&self.address(), Pin::Cluster(self.cluster))
    }

    /// Admits somebody new.
    pub async fn admit(&self, name: &str) -> Person {
        let person = Person::new(name);
        self.admit_person(&person, &[]).await;
        person
    }

    /// Admits somebody into groups.
    pub async fn admit_person(&self, person: &Person, groups: &[&str]) {
        let groups = groups.iter().map(|group| group.parse().expect("a name")).collect();
        let admit = Admit { groups, ..Admit::default() };
        self.client(&self.admins[0]).admit(&person.record, admit).await.expect("admission");
    }

    /// A wrap from one to another for an hour.
    pub async fn wrap(&self, from: &Client, to: &Person, bytes: &[u8]) -> Wrapped {
        let to = from.resolve(to.name.as_str()).await.expect("resolves");
        from.wrap_create(Outgoing::new(vec![to], 3600), content(bytes.to_vec())).await.expect("a wrap")
    }

    /// Stops the server in order.
    pub async fn stop(&mut self) {
        let server = self.server.take().expect("a running server");
        assert!(server.stop().await, "it stops in order");
    }

    /// Starts it again on the same data, sealed.
    pub async fn start(&mut self) {
        self.server = Some(run(&self.config, self.clock.clone()).await.expect("a server that starts again"));
    }

    /// Where everything lies.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.config.data.clone().expect("a durable installation")
    }
}

fn address_of(server: &Running) -> String {
    format!("https://{}", server.ready.address)
}

fn record_file(dir: &Path, person: &Person) -> PathBuf {
    let path = dir.join(format!("{}.pub", person.name));
    std::fs::write(&path, bulla_wire::json::to_vec(&person.record)).expect("a record file");
    path
}

/// Copies a file, or a directory with everything in it.
///
/// # Panics
/// If something cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        copy_directory(from, to);
    } else {
        std::fs::copy(from, to).expect("a copy of a file");
    }
}

/// Copies a directory with everything in it.
///
/// # Panics
/// If something cannot be copied.
pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    let mode = std::fs::metadata(from).expect("a directory to copy").permissions();
    std::fs::set_permissions(to, mode).expect("the directory's mode");
    for entry in std::fs::read_dir(from).expect("a directory to copy") {
        let entry = entry.expect("an entry");
        let (kind, to) = (entry.file_type().expect("its type"), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_directory(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).expect("a copy of a file");
        }
    }
}

/// How a server in this directory is configured, once it has its cluster.
pub fn config(dir: &Path, shape: &Shape) -> Config {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    Config {
        data: (shape.store == StoreKind::File).then(|| dir.join("data")),
        store: shape.store,
        listen: loopback,
        metrics_listen: None,
        tls: Tls { files: None, require_pq: false },
        audit: Audit {
            target: AuditTarget::Directory(dir.join("audit")),
            sync: shape.sync,
            names: AuditNames::Clear,
            max_size_mib: 64,
        },
        alarms: Alarms { webhook: None, webhook_ca: None },
        auto_unseal: None,
        init: Init { admins: vec![], bundle: None },
        limits: Limits { connections: 4096, body_mib: 256, requests_per_s: 0, leases: 1000 },
        ready_file: None,
        accept_audit_loss: false,
    }
}
