//! The server's configuration: a TOML file, over it the environment, over it flags.
//!
//! Every key stands once, in [`KEYS`]; file, environment, flags, the sample and each error message take its name, kind
//! and meaning from there. An unknown key is refused wherever it comes from: a misspelt `require_pq` must not be
//! taken for a default.

mod keys;
mod layer;

pub use crate::webhook::WebhookUrl;
pub use keys::{KEYS, Key, Kind, sample};
pub use layer::{ConfigError, Flag, Source, layer, load};

use bulla_wire::id::ClusterId;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// `bulla.redb` in the data directory.
    File,
    /// In memory, until the process ends.
    Memory,
}

/// The certificate, and how strict the handshake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM files of the certificate chain and its private key; without them the node makes a certificate of its own.
    pub files: Option<CertificateFiles>,
    /// Refuse clients that cannot do X25519MLKEM768.
    pub require_pq: bool,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate chain, the server's own first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Where audit lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// Numbered files in this directory.
    Directory(PathBuf),
    /// This one file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// When audit lines are synced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditSync {
    /// Every 100 ms.
    Interval,
    /// Before each answer.
    Each,
}

/// How names stand in audit lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditNames {
    /// As they are.
    Clear,
    /// As keyed hashes.
    Hashed,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Where lines go.
    pub target: AuditTarget,
    /// When they are synced.
    pub sync: AuditSync,
    /// How names stand in them.
    pub names: AuditNames,
    /// Size in MiB at which the next numbered file begins.
    pub max_size_mib: u64,
}

/// Where alarms go besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarms {
    /// Who is called with each alarm.
    pub webhook: Option<WebhookUrl>,
    /// PEM file of the authorities that vouch for the webhook's certificate; without it the system's do.
    pub webhook_ca: Option<PathBuf>,
}

/// Who may make the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    /// Record files (`.pub`) of those who may do it over the network.
    pub admins: Vec<PathBuf>,
    /// The bundle that the cluster of a transient server begins with.
    pub bundle: Option<PathBuf>,
}

/// Whose share the server gives by itself when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoUnseal {
    /// To this cluster alone.
    pub cluster: ClusterId,
    /// The file of an identity, or a `pkcs11:` URI.
    pub identity: String,
    /// The configuration of the members that open the identity.
    pub kms: Option<PathBuf>,
    /// The file of its token's PIN.
    pub pin_file: Option<PathBuf>,
    /// Where it is remembered what was seen of the cluster.
    pub memory: PathBuf,
}

/// How much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections over the network.
    pub connections: usize,
    /// Memory for request bodies, in MiB.
    pub body_mib: usize,
    /// Requests of one principal within a second; 0 for any number.
    pub requests_per_s: u32,
    /// Leases of one principal.
    pub leases: u64,
}

/// The whole configuration. Only [`layer`] and [`load`] make one from text, and they check what must fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The data directory; none for a transient server, which keeps nothing.
    pub data: Option<PathBuf>,
    /// Where records are kept.
    pub store: StoreKind,
    /// Address of the API.
    pub listen: SocketAddr,
    /// Address of the metrics; none for no metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// TLS.
    pub tls: Tls,
    /// Audit.
    pub audit: Audit,
    /// Alarms.
    pub alarms: Alarms,
    /// Init.
    pub init: Init,
    /// Whose share is given at start; none where admins do that.
    pub auto_unseal: Option<AutoUnseal>,
    /// Limits.
    pub limits: Limits,
    /// A file that is written once the server answers: address, node and process id as JSON.
    pub ready_file: Option<PathBuf>,
    /// Start although the audit file lacks lines that the store remembers.
    pub accept_audit_loss: bool,
}
