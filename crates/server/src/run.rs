//! Assembly: from a configuration to a node that serves, and back down in order.

mod error;

pub use error::RunError;

use crate::bundle;
use crate::clock::Clock;
use crate::config::{AuditNames, AuditSync, AuditTarget, Config, StoreKind};
use crate::gate::Gate;
use crate::lease;
use crate::listen::{self, BodyBudget, Handler, Limits, Listeners};
use crate::metrics::{Metrics, serve_metrics};
use crate::node::{Node, Parts, Phase};
use crate::plain::read_phase;
use crate::sink::{self, AuditConfig, Sink, SyncMode, SystemDisk, Target};
use crate::snapshot::is_unfinished;
use crate::tick;
use crate::tls::Tls;
use crate::webhook::Webhook;
use bulla_crypto::evidence::{Record, VerifiedDocument};
use bulla_crypto::random::{SystemRng, secret_key};
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_crypto::sign::SigningKey;
use bulla_store::{OnFatal, Store};
use bulla_wire::dsse::Envelope;
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::evidence::{Bytes, NodeState};
use bulla_wire::id::KeyId;
use serde::Serialize;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use zeroize::Zeroizing;

/// The layout of the data directory. A server refuses a newer one.
const DATA_VERSION: &str = "1";
/// The store in the data directory.
pub const STORE_FILE: &str = "bulla.redb";
/// What `node.key` begins with.
const NODE_KEY_PREFIX: &str = "BULLA-NODE-KEY-1 ";
/// Largest file that is read whole at start, in bytes: an admin's record.
const SMALL_FILE_BYTES: u64 = 256 * 1024;

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RunError {
    let what = path.display().to_string();
    move |source| RunError::Io { action, what, source }
}

/// What the ready file says.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    /// Where the API answers.
    pub address: SocketAddr,
    /// Where the metrics are.
    pub metrics: Option<SocketAddr>,
    /// The node's key, which a client pins until there is a cluster.
    pub node: KeyId,
    /// The same key itself, by which a document names the node.
    pub spki: Bytes,
    /// The process.
    pub pid: u32,
}

/// A server that serves.
pub struct Running {
    /// Where and who.
    pub ready: Ready,
    /// The node, for tests that run it in their own process.
    pub node: Arc<Node>,
    tls: Arc<Tls>,
    stop: tokio::sync::watch::Sender<bool>,
    served: tokio::task::JoinHandle<bool>,
    store: Store,
    // Held until the end: another server must not use the directory.
    _lock: Option<File>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({})", self.ready.address)
    }
}

impl Running {
    /// Reads certificate files again and opens the audit file by its name again.
    pub async fn reload(&self) {
        if let Err(error) = self.tls.reload() {
            tracing::error!(%error, "the certificate was not read again; the old one stays");
        }
        if let Err(error) = self.node.parts.sink.reopen().await {
            tracing::error!(%error, "the audit log was not opened again");
        }
    }

    /// Resolves when the audit log failed for good, which stops the server.
    pub async fn failed(&self) -> String {
        self.node.parts.sink.failed().await
    }

    /// Stops accepting, drains, flushes the audit log, closes the store, in this order. True if nothing was cut off.
    pub async fn stop(self) -> bool {
        // Who only waits keeps nobody waiting.
        if let Phase::Unsealed(unsealed) = self.node.phase() {
            unsealed.watchers.end();
        }
        let _ = self.stop.send(true);
        let drained = self.served.await.unwrap_or(false);
        let flushed = self.node.parts.sink.flush_and_close().await;
        if let Err(error) = &flushed {
            tracing::error!(%error, "the audit log was not closed in order");
        }
        self.store.close().await;
        drained && flushed.is_ok()
    }
}

/// Starts a server.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: &Config, clock: Arc<dyn Clock>) -> Result<Running, RunError> {
    let lock = config.data.as_deref().map(prepare_directory).transpose()?;
    config.data.as_deref().map(refuse_unfinished).transpose()?;
    refuse_beside_a_store(config)?;
    if let Some(path) = &config.ready_file {
        forget_ready(path)?;
    }
    let key = node_key(config.data.as_deref())?;
    let init_admins = admins(&config.init.admins)?;
    if config.data.is_none() && init_admins.is_empty() {
        let hint = "give --admin FILE with the record of each who may; `bulla keygen` writes them";
        return Err(RunError::unfit("--transient", "nobody may make the cluster", hint));
    }
    let bundle = config.init.bundle.as_deref();
    let bundle = bundle.map(|path| bundle::read(path, &init_admins, clock.unix_ms())).transpose()?;
    bundle.iter().for_each(bundle::announce);
    let webhook = Webhook::open(&config.alarms)?;
    let store = open_store(config)?;
    let opened = match read_phase(&store).await {
        Ok(phase) => open_sink(config, &key, &phase, clock.clone()).await.map(|sink| (phase, sink)),
        Err(error) => Err(RunError::Phase(error)),
    };
    let (phase, sink) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // The file stays locked until its thread has ended, and whoever repairs the fault starts again at once.
            store.close().await;
            return Err(error);
        }
    };
    let metrics = Arc::new(Metrics::new());
    let parts = Parts {
        bodies: BodyBudget::new(config.limits.body_mib.saturating_mul(1024 * 1024)),
        requests_per_s: config.limits.requests_per_s,
        key,
        store: store.clone(),
        sink,
        clock,
        metrics: metrics.clone(),
        transient: config.store == StoreKind::Memory,
        webhook: config.alarms.webhook.is_some(),
        hash_names: config.audit.names == AuditNames::Hashed,
        audit_path: audit_path(config),
        init_admins,
        bundle,
        leases_each: config.limits.leases,
    };
    let node = Arc::new(Node::new(parts, phase));
    let tls = Arc::new(Tls::open(&config.tls, config.data.as_deref()).map_err(RunError::Tls)?);
    let (network, address) = bind_network(config.listen).await?;
    let local = config.data.as_deref().map(bind_local).transpose()?;
    let metrics_address = match config.metrics_listen {
        Some(address) => Some(start_metrics(address, metrics.clone()).await?),
        None => None,
    };
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let gate: Arc<dyn Handler> = Arc::new(Gate::new(node.clone()));
    let listeners = Listeners { network: Some((network, tls.config())), local };
    let limits = Limits { connections: config.limits.connections, ..Limits::default() };
    let served = tokio::spawn(listen::serve(listeners, gate, metrics, limits, async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    work_by_time(&node, webhook);
    warn_after_a_restore(&node);
    let spki = Bytes(node.parts.key.public_key().spki().to_vec());
    let ready = Ready { address, metrics: metrics_address, node: node.id(), spki, pid: std::process::id() };
    if let Some(path) = &config.ready_file {
        write_ready(path, &ready)?;
    }
    Ok(Running { ready, node, tls, stop, served, store, _lock: lock })
}

/// Begins what nobody asks for: it ends with the process.
fn work_by_time(node: &Arc<Node>, webhook: Option<Webhook>) {
    tokio::spawn(tick::run(node.clone()));
    tokio::spawn(lease::run(node.clone()));
    if let Some(webhook) = webhook {
        tokio::spawn(webhook.run(node.clone()));
    }
}

async fn bind_network(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), RunError> {
    let failed = |action| move |source| RunError::Io { action, what: listen.to_string(), source };
    let network = TcpListener::bind(listen).await.map_err(failed("listen on"))?;
    let address = network.local_addr().map_err(failed("read the address of"))?;
    Ok((network, address))
}

fn bind_local(data: &Path) -> Result<tokio::net::UnixListener, RunError> {
    let path = data.join("bulla.sock");
    listen::bind_local(&path).map_err(io("listen on", &path))
}

async fn start_metrics(address: SocketAddr, metrics: Arc<Metrics>) -> Result<SocketAddr, RunError> {
    let failed = |source| RunError::Io { action: "listen for metrics on", what: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tokio::spawn(serve_metrics(listener, metrics));
    Ok(address)
}

/// Makes or takes the data directory: 0700, one server, a known layout.
pub(crate) fn prepare_directory(data: &Path) -> Result<File, RunError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(io("make", data))?;
    let versioned = look_at_directory(data)?;
    let path = data.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io("open", &path))?;
    if lock.try_lock().is_err() {
        return Err(RunError::unfit(data.display(), "another server uses this directory", "stop it first"));
    }
    if !versioned {
        write_private(&data.join("VERSION"), format!("{DATA_VERSION}\n").as_bytes())?;
    }
    Ok(lock)
}

/// Looks at the data directory and changes nothing. `false` if nothing says its layout yet.
pub(crate) fn look_at_directory(data: &Path) -> Result<bool, RunError> {
    let unfit = |reason: String, hint: &str| Err(RunError::unfit(data.display(), reason, hint));
    let found = std::fs::metadata(data).map_err(io("look at", data))?;
    if !found.is_dir() {
        return unfit("is no directory".into(), "name another one");
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return unfit(format!("has mode {mode:04o}, so others may read it"), "set it to 0700");
    }
    let path = data.join("VERSION");
    match std::fs::read_to_string(&path) {
        Ok(version) if version.trim() == DATA_VERSION => Ok(true),
        Ok(version) => unfit(
            format!("is of layout {:?}, and this server knows {DATA_VERSION}", version.trim()),
            "start the version that wrote it",
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io("read", &path)(error)),
    }
}

/// A store in memory beside a file would be another cluster, and the audit log of both would be one.
pub(crate) fn refuse_beside_a_store(config: &Config) -> Result<(), RunError> {
    let file = config.data.as_deref().map(|data| data.join(STORE_FILE));
    match file.filter(|file| config.store == StoreKind::Memory && file.exists()) {
        None => Ok(()),
        Some(file) => Err(RunError::unfit(
            file.display(),
            "is a store, and store is \"memory\", which would leave it out",
            "start with --store file, or name another directory with --data",
        )),
    }
}

/// A restore that did not end left a store that is not whole, and no other is there.
pub(crate) fn refuse_unfinished(data: &Path) -> Result<(), RunError> {
    if !is_unfinished(data) {
        return Ok(());
    }
    let what = data.display().to_string();
    let hint = format!("run `bulla snapshot restore FILE --data {what}` again");
    Err(RunError::unfit(what, "a restore into it did not end", hint))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(io("make", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io("write", path))
}

fn read_small(path: &Path) -> Result<SecretBytes, RunError> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let mut bytes = SecretBytes::new(Vec::new());
    (&mut file).take(SMALL_FILE_BYTES).read_to_end(bytes.expose_mut()).map_err(io("read", path))?;
    Ok(bytes)
}

/// The node's key: made once and kept in the data directory, or for this process.
pub(crate) fn node_key(data: Option<&Path>) -> Result<SigningKey, RunError> {
    let unfit = |path: &Path, reason: String, hint: &str| RunError::unfit(path.display(), reason, hint);
    let no_key = "put the right file back, or begin with an empty data directory";
    let signing = |seed: &SecretKey| SigningKey::from_seed(seed);
    let Some(data) = data else {
        let seed = secret_key(&mut SystemRng);
        return signing(&seed).map_err(|e| unfit(Path::new("node key"), e.to_string(), "start it again"));
    };
    let path = data.join("node.key");
    if !path.exists() {
        let seed = secret_key(&mut SystemRng);
        let text = Zeroizing::new(format!("{NODE_KEY_PREFIX}{}\n", base64url(seed.expose())));
        write_private(&path, text.as_bytes())?;
        return signing(&seed).map_err(|e| unfit(&path, e.to_string(), no_key));
    }
    let mode = std::fs::metadata(&path).map_err(io("look at", &path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(unfit(&path, format!("has mode {mode:04o}, so others may read it"), "set it to 0600"));
    }
    let bytes = read_small(&path)?;
    let seed = std::str::from_utf8(bytes.expose())
        .ok()
        .and_then(|text| base64url_decode(text.trim_end().strip_prefix(NODE_KEY_PREFIX)?))
        .map(Zeroizing::new)
        .and_then(|bytes| SecretKey::from_slice(&bytes))
        .ok_or_else(|| unfit(&path, "is no node key".into(), no_key))?;
    signing(&seed).map_err(|e| unfit(&path, e.to_string(), no_key))
}

/// Clients take no answer from a node that is not active in the newest document. After a restore without `node.key` a
/// new key was made, and it is the admins' to take it in. A store that is empty beside the log of a cluster is not the
/// one that was meant.
fn warn_after_a_restore(node: &Node) {
    let Phase::Sealed(sealed) = node.phase() else {
        if let Some(quote) = node.parts.sink.last_quoted().filter(|_| !node.parts.transient) {
            tracing::warn!(
                cluster = %quote.cluster,
                "the store is empty, and the audit log tells of a cluster: if that one was to be served, stop this server, \
                 look whether --data names its directory, or put a snapshot back with `bulla snapshot restore`"
            );
        }
        return;
    };
    if sealed.stored.is_restored() {
        tracing::warn!("the store was filled from a snapshot: unsealing it will ask k admins for their consent");
    }
    let (document, key) = (sealed.view.newest(), node.parts.key.public_key());
    let number = document.number();
    match document.node(&node.id()).map(|found| found.state) {
        Some(NodeState::Active) => {}
        Some(state) => tracing::warn!(
            node = %node.id(), document = number, ?state,
            "the newest document says that this node is no longer active, so clients refuse its answers"
        ),
        None => tracing::warn!(
            node = %node.id(), document = number,
            "no document names this node's key, so clients refuse its answers; if node.key is new here, an admin runs \
             `bulla document propose --add-node {}{} -o FILE`, k admins sign the file, and one submits it before the \
             unseal; --compromise-node in the place of --retire-node if somebody else may have the old key",
            base64url(key.spki()),
            retired(document)
        ),
    }
}

/// The words that take out the nodes whose key this one has lost.
fn retired(document: &VerifiedDocument) -> String {
    let active = document.nodes().iter().filter(|node| node.state == NodeState::Active);
    active.map(|node| format!(" --retire-node {}", node.key.key_id())).collect()
}

pub(crate) fn admins(files: &[PathBuf]) -> Result<Vec<KeyId>, RunError> {
    let mut keys = Vec::new();
    for path in files {
        let bytes = read_small(path)?;
        let unfit = |reason: String, hint: &str| RunError::unfit(path.display(), reason, hint);
        let envelope: Envelope =
            bulla_wire::json::parse(bytes.expose(), usize::try_from(SMALL_FILE_BYTES).unwrap_or(usize::MAX))
                .map_err(|e| unfit(format!("is no record: {e}"), "give NAME.pub, which `bulla keygen` writes"))?;
        let record = Record::open(&envelope, None)
            .map_err(|e| unfit(format!("is no record that holds: {e}"), "ask its holder for it again"))?;
        keys.extend(record.public_keys().map(bulla_crypto::sign::PublicKey::key_id));
    }
    Ok(keys)
}

fn open_store(config: &Config) -> Result<Store, RunError> {
    match (config.store, &config.data) {
        (StoreKind::Memory, _) | (_, None) => Ok(Store::memory()),
        (StoreKind::File, Some(data)) => {
            Store::file(data.join(STORE_FILE), OnFatal::default()).map_err(RunError::Store)
        }
    }
}

/// Where the audit log can be read again; none if it goes to standard output, a pipe or a device.
fn audit_path(config: &Config) -> Option<PathBuf> {
    match &config.audit.target {
        AuditTarget::Directory(path) | AuditTarget::File(path) => {
            Some(path.clone()).filter(|path| sink::can_be_read_again(path))
        }
        AuditTarget::Stdout => None,
    }
}

async fn open_sink(
    config: &Config,
    key: &SigningKey,
    phase: &Phase,
    clock: Arc<dyn Clock>,
) -> Result<Arc<Sink>, RunError> {
    let target = match &config.audit.target {
        AuditTarget::Directory(path) => Target::Directory(path.clone()),
        AuditTarget::File(path) => Target::File(path.clone()),
        AuditTarget::Stdout => Target::Stdout,
    };
    let mut audit = AuditConfig::new(target);
    audit.max_size_bytes = config.audit.max_size_mib.saturating_mul(1024 * 1024);
    audit.danger_accept_loss = config.accept_audit_loss;
    if config.audit.sync == AuditSync::Each {
        audit.sync = SyncMode::Each;
    }
    let opening = phase.log_opening(key.public_key().key_id(), clock, Box::new(SystemDisk));
    let opened = tokio::task::spawn_blocking(move || Sink::open(audit, opening)).await;
    match opened {
        Ok(sink) => sink.map(Arc::new).map_err(RunError::Audit),
        Err(error) => Err(RunError::unfit("audit log", error.to_string(), "start it again")),
    }
}

/// What a server of before wrote would send whoever waits for this one to an address where nobody is.
fn forget_ready(path: &Path) -> Result<(), RunError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn write_ready(path: &Path, ready: &Ready) -> Result<(), RunError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::write(&temporary, bulla_wire::json::to_vec(ready)).map_err(io("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(io("make", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flag, layer};

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// What the manual says of the data directory: its owner's alone, one server, a layout that is known.
    #[test]
    fn a_data_directory_has_one_owner_one_server_and_one_layout() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("new/data");
        let lock = prepare_directory(&data).unwrap();
        assert_eq!((mode(&data), mode(&data.join("VERSION")), mode(&data.join("lock"))), (0o700, 0o600, 0o600));
        let error = prepare_directory(&data).unwrap_err();
        assert!(error.to_string().ends_with("another server uses this directory"), "{error}");
        drop(lock);
        drop(prepare_directory(&data).unwrap());
        for wide in [0o750, 0o701] {
            std::fs::set_permissions(&data, std::fs::Permissions::from_mode(wide)).unwrap();
            let error = prepare_directory(&data).unwrap_err();
            assert!(error.to_string().ends_with("so others may read it"), "{error}");
            assert_eq!(mode(&data), wide, "a refused start changes nothing");
        }
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(data.join("VERSION"), "2\n").unwrap();
        let error = prepare_directory(&data).unwrap_err();
        assert!(error.to_string().contains("is of layout \"2\""), "{error}");
        assert_eq!(std::fs::read_to_string(data.join("VERSION")).unwrap(), "2\n");
    }

    /// Clients take no answer from another key, so a key that cannot be read is never replaced by a new one.
    #[test]
    fn a_node_key_is_made_once_and_kept_from_others() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("node.key");
        let own = node_key(Some(data.path())).unwrap().public_key().key_id();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(node_key(Some(data.path())).unwrap().public_key().key_id(), own);
        assert_ne!(node_key(None).unwrap().public_key().key_id(), own);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = node_key(Some(data.path())).err().unwrap();
        assert!(error.to_string().ends_with("has mode 0640, so others may read it"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for broken in ["", "AAAA", "BULLA-NODE-KEY-1 AAAA\n", "BULLA-NODE-KEY-2 AAAA\n"] {
            std::fs::write(&path, broken).unwrap();
            let error = node_key(Some(data.path())).err().unwrap();
            assert!(error.to_string().ends_with("is no node key"), "{broken}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
        }
    }

    /// A store in memory beside that of a cluster would write the cluster's log; the other way round is a new cluster.
    #[test]
    fn no_store_in_memory_begins_beside_a_file() {
        let data = tempfile::tempdir().unwrap();
        let set = |store: &str| {
            let place = Flag { key: "data", value: data.path().display().to_string() };
            layer(None, [], &[place, Flag { key: "store", value: store.to_owned() }]).unwrap()
        };
        refuse_beside_a_store(&set("memory")).unwrap();
        std::fs::write(data.path().join(STORE_FILE), b"").unwrap();
        assert!(refuse_beside_a_store(&set("memory")).is_err());
        refuse_beside_a_store(&set("file")).unwrap();
    }

    /// Whoever waits for a server must not be sent to the one before; nobody reads half of what is written.
    #[test]
    fn a_ready_file_of_before_is_gone_before_anything_begins() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("ready.json");
        forget_ready(&path).unwrap();
        std::fs::write(&path, b"{}").unwrap();
        forget_ready(&path).unwrap();
        assert!(!path.exists());
        let key = node_key(None).unwrap();
        let ready = Ready {
            address: "127.0.0.1:1".parse().unwrap(),
            metrics: None,
            node: key.public_key().key_id(),
            spki: Bytes(key.public_key().spki().to_vec()),
            pid: 7,
        };
        write_ready(&path, &ready).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((told["address"].as_str(), told["pid"].as_u64()), (Some("127.0.0.1:1"), Some(7)));
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 1, "nothing else stays");
    }
}
