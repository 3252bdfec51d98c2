//! JSON bodies about databases: connections, roles, credentials.

use crate::id::LeaseId;
use crate::name::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of server it is, by which statements are quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseEngine {
    /// PostgreSQL.
    Postgres,
    /// MariaDB or MySQL.
    Mariadb,
}

/// How the connection is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseTls {
    /// TLS, with a certificate for the host by the authorities of `ca`, or by those that the server's system trusts.
    #[default]
    Verify,
    /// None: for a database on the server's own machine alone.
    Off,
}

fn default_connections() -> u8 {
    4
}

fn default_check() -> bool {
    true
}

/// Plaintext of the body of `PUT /v1/database/{name}`, after the ingress line.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutDatabase {
    /// What kind of server it is.
    pub engine: DatabaseEngine,
    /// Its name or IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database in it to which connections are made; what the engine takes if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The user who makes and drops others.
    pub user: String,
    /// Its password. No route tells it again.
    pub password: String,
    /// PostgreSQL: a role without rights that gets what dropped users own. Without one, a user who owns something is
    /// not dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// How the connection is protected.
    #[serde(default)]
    pub tls: DatabaseTls,
    /// PEM of the authorities that vouch for its certificate, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Most connections at once.
    #[serde(default = "default_connections")]
    pub connections: u8,
    /// Whether a connection is made before anything is stored.
    #[serde(default = "default_check")]
    pub check: bool,
    /// Whether another address is that of the same server: the users of its leases are there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
}

impl fmt::Debug for PutDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutDatabase({:?}, {}@{}:{})", self.engine, self.user, self.host, self.port)
    }
}

/// `GET /v1/database/{name}`: everything but the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Its name here.
    pub name: Name,
    /// What kind of server it is.
    pub engine: DatabaseEngine,
    /// Its name or IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database in it.
    pub database: Option<String>,
    /// The user who makes and drops others.
    pub user: String,
    /// The role that gets what dropped users own.
    pub owner: Option<String>,
    /// How the connection is protected.
    pub tls: DatabaseTls,
    /// PEM of the authorities that vouch for its certificate.
    pub ca: Option<String>,
    /// Most connections at once.
    pub connections: u8,
    /// When it was configured, Unix milliseconds.
    pub configured_ms: u64,
    /// When its password was last rotated.
    pub rotated_ms: Option<u64>,
    /// A rotation was begun and is not known to have ended: both passwords are tried.
    pub rotating: bool,
    /// A restore put back what is known of its users: nothing is done until it is released.
    pub parked: bool,
}

/// `GET /v1/database`, `GET /v1/database/{name}:list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatabaseNames {
    /// Names of databases, or of the roles of one. Sorted within the page.
    pub names: Vec<Name>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// `PUT /v1/database/{database}/{role}`: how users of this role are made and dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutDatabaseRole {
    /// Statements that make a user, with `{{name}}`, `{{password}}` and `{{expiration}}`.
    pub creation: Vec<String>,
    /// Statements that drop it, with `{{name}}`; the engine's own if left out.
    #[serde(default)]
    pub revocation: Vec<String>,
    /// Statements that let it live longer, with `{{name}}` and `{{expiration}}`; the engine's own if left out.
    #[serde(default)]
    pub renewal: Vec<String>,
    /// How long a lease lasts that asks for nothing else, in seconds.
    pub ttl_s: u64,
    /// How long a lease lasts at most, renewals included, in seconds.
    pub max_ttl_s: u64,
    /// PostgreSQL: its users have no password and log in by a certificate of the database's authority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certificate: bool,
}

/// `GET /v1/database/{database}/{role}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatabaseRole {
    /// The database.
    pub database: Name,
    /// The role.
    pub role: Name,
    /// Statements that make a user.
    pub creation: Vec<String>,
    /// Statements that drop it; none for the engine's own.
    pub revocation: Vec<String>,
    /// Statements that let it live longer; none for the engine's own.
    pub renewal: Vec<String>,
    /// How long a lease lasts that asks for nothing else, in seconds.
    pub ttl_s: u64,
    /// How long a lease lasts at most, in seconds.
    pub max_ttl_s: u64,
    /// Its users log in by a certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certificate: bool,
}

/// `GET /v1/database/{name}:ca`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatabaseAuthority {
    /// The certificate that the database must trust for logins, PEM: `ssl_ca_file` of PostgreSQL.
    pub certificate: String,
}

/// `POST /v1/database/{database}/{role}:certify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertifyCredentials {
    /// The public key of the caller's own pair: base64url of its SubjectPublicKeyInfo; P-256, P-384 or Ed25519.
    pub public_key: String,
    /// How long the lease lasts, in seconds; the role's own time if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// The answer of `POST /v1/database/{database}/{role}:certify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateCredentials {
    /// The lease, at whose end the user is dropped.
    pub lease: LeaseId,
    /// The user, whom the certificate names.
    pub user: String,
    /// The certificate, PEM.
    pub certificate: String,
    /// When lease and certificate end, Unix milliseconds. They are not renewed.
    pub expires_ms: u64,
}

/// `POST /v1/database/{database}/{role}:issue`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueCredentials {
    /// How long the lease lasts, in seconds; the role's own time if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// Plaintext of the answer of `POST /v1/database/{database}/{role}:issue`, encrypted to the caller.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The lease, at whose end the user is dropped.
    pub lease: LeaseId,
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
    /// When the lease ends unless it is renewed, Unix milliseconds.
    pub expires_ms: u64,
    /// When it ends whatever happens, Unix milliseconds.
    pub max_ms: u64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, {})", self.lease, self.user)
    }
}

/// `PUT /v1/database/{database}/{role}:static`: a user who is there, whose password the cluster owns from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutStaticRole {
    /// The user in the database.
    pub user: String,
    /// How often its password is rotated, in seconds.
    pub rotate_every_s: u64,
}

/// `GET /v1/database/{database}/{role}:static`: everything but the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticRole {
    /// The database.
    pub database: Name,
    /// The role.
    pub role: Name,
    /// The user in the database.
    pub user: String,
    /// How often its password is rotated, in seconds.
    pub rotate_every_s: u64,
    /// When it was rotated last, Unix milliseconds.
    pub rotated_ms: Option<u64>,
    /// When it is rotated next, or tried again, Unix milliseconds.
    pub rotates_ms: u64,
    /// A rotation was begun and is not known to have ended: the password is not told until it is.
    pub rotating: bool,
    /// What is known of its password is older than a restore: it is rotated once the database is released.
    pub outdated: bool,
    /// How often the rotation failed.
    pub attempts: u32,
    /// Why it failed last.
    pub error: Option<String>,
}

/// Plaintext of the answer of `GET /v1/database/{database}/{role}:creds`, encrypted to the caller.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticCredentials {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
    /// When it was rotated last, Unix milliseconds.
    pub rotated_ms: u64,
    /// When it is rotated next, Unix milliseconds.
    pub rotates_ms: u64,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticCredentials({})", self.user)
    }
}
