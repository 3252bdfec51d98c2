//! How a database is reached, and the passwords for it.

use crate::operation::{Context, Refusal};
use bulla_crypto::secret::Secret;
use bulla_wire::api::{self, DatabaseEngine, DatabaseTls, PutDatabase};
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::IpAddr;

/// Longest host, database or user in bytes: what DNS and the servers take.
const MAX_TEXT_BYTES: usize = 253;
/// Longest password in bytes. Nobody types one as long, and a handshake takes it.
const MAX_PASSWORD_BYTES: usize = 1024;
/// Longest PEM of authorities in bytes: a few certificates.
const MAX_CA_BYTES: usize = 64 * 1024;
/// Most connections to one database: it has better things to do.
pub const MAX_CONNECTIONS: u8 = 32;
/// Most former addresses that are remembered: leases made at an older one are shown as stuck.
const MAX_FORMERLY: usize = 8;

/// A password for a database: it does not print, and is wiped.
pub struct Password(Secret<String>);

impl Password {
    /// Takes what somebody wrote or drew.
    pub fn new(text: String) -> Self {
        Self(Secret::new(text))
    }

    /// Lends it for reading.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl Clone for Password {
    fn clone(&self) -> Self {
        Self(self.0.copy())
    }
}
impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}
impl Eq for Password {}
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}
impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}
impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// How a database is reached, as it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
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
    /// Its password.
    pub password: Password,
    /// The password that a rotation which did not end may have set.
    pub next: Option<Password>,
    /// A role without rights that gets what dropped users own.
    pub owner: Option<String>,
    /// How the connection is protected.
    pub tls: DatabaseTls,
    /// PEM of the authorities.
    pub ca: Option<String>,
    /// Most connections at once.
    pub connections: u8,
    /// When it was configured.
    pub configured_ms: u64,
    /// When its password was last rotated.
    pub rotated_ms: Option<u64>,
    /// Other addresses under which it was reached: leases made there are its own.
    pub formerly: Vec<String>,
    /// How often the store had lost commits when somebody last said that it is right to act on the database.
    pub losses: u32,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({}, {:?} at {}:{})", self.name, self.engine, self.host, self.port)
    }
}

impl Connection {
    /// Checks what somebody wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(name: Name, body: PutDatabase, now_ms: u64) -> Result<Self, Refusal> {
        Self::check(&body)?;
        let PutDatabase { engine, host, port, database, user, password, owner, tls, ca, connections, .. } = body;
        Ok(Self {
            name,
            engine,
            host,
            port,
            database,
            user,
            password: Password::new(password),
            next: None,
            owner,
            tls,
            ca,
            connections,
            configured_ms: now_ms,
            rotated_ms: None,
            formerly: vec![],
            losses: 0,
        })
    }

    /// What of it can be told without a database. A refusal repeats nothing that was written, since what was is encrypted
    /// and this is not.
    ///
    /// # Errors
    /// What is wrong with it, and in which field.
    pub fn check(body: &PutDatabase) -> Result<(), Refusal> {
        let hint = "`bulla database configure --help` tells what each option takes";
        let bad = |field: &str, reason: String| Err(Refusal::new(Code::Malformed, reason).field(field).hint(hint));
        for (field, text) in [
            ("host", Some(&body.host)),
            ("user", Some(&body.user)),
            ("database", body.database.as_ref()),
            ("owner", body.owner.as_ref()),
        ] {
            let fits =
                |text: &String| !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
            if text.is_some_and(|text| !fits(text)) {
                return bad(
                    field,
                    format!("the {field} has 1 to {MAX_TEXT_BYTES} bytes, none of them a control character"),
                );
            }
        }
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if body.host.parse::<IpAddr>().is_err() && !body.host.bytes().all(named) {
            return bad(
                "host",
                "the host is a name or an IP address alone; a path to a socket is not taken".to_owned(),
            );
        }
        if body.port == 0 {
            return bad("port", "the port is 1 to 65535".to_owned());
        }
        if body.password.is_empty() || body.password.len() > MAX_PASSWORD_BYTES || body.password.contains('\0') {
            return bad("password", format!("the password has 1 to {MAX_PASSWORD_BYTES} bytes, none of them zero"));
        }
        if !(1..=MAX_CONNECTIONS).contains(&body.connections) {
            return bad("connections", format!("the most connections at once are 1 to {MAX_CONNECTIONS}"));
        }
        if body.owner.is_some() && body.engine != DatabaseEngine::Postgres {
            return bad("owner", "an owner is for PostgreSQL alone".to_owned());
        }
        let local = body.host == "localhost" || body.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if body.tls == DatabaseTls::Off && !local {
            let refusal = Refusal::new(Code::Malformed, "without TLS everybody on the way reads the password");
            return Err(refusal
                .field("tls")
                .hint("leave tls as it is (no --no-tls), or reach the database at localhost"));
        }
        if body.ca.as_ref().is_some_and(|ca| ca.len() > MAX_CA_BYTES || !ca.contains("-----BEGIN CERTIFICATE-----")) {
            return bad("ca", format!("the authorities (ca) are PEM certificates of at most {MAX_CA_BYTES} bytes"));
        }
        Ok(())
    }

    /// Host and port: which server it is.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether a lease that was made at this address is for this server.
    pub fn was_at(&self, address: &str) -> bool {
        self.address() == address || self.formerly.iter().any(|former| former == address)
    }

    /// Takes over what holds on after it was configured anew. At the same server the password that a rotation may have
    /// set meanwhile is still tried.
    pub(super) fn follow(&mut self, before: Self, same_server: bool) {
        if !same_server {
            return;
        }
        let address = before.address();
        if before.user == self.user {
            self.next = before.next;
        }
        self.formerly = before.formerly;
        if address != self.address() {
            self.formerly.push(address);
        }
        let more = self.formerly.len().saturating_sub(MAX_FORMERLY);
        self.formerly.drain(..more);
    }

    /// Why nothing is done with it: what the store knows of it is older than what happened there.
    pub fn parked(&self, context: &Context<'_>) -> Option<Refusal> {
        (self.losses < context.losses).then(|| {
            let message = format!("{} waits for its release: a restore put back what is known of its users", self.name);
            Refusal::new(Code::Parked, message)
                .hint("compare its users with `bulla lease list --all`, then `bulla database release`")
        })
    }

    pub(super) fn view(self, context: &Context<'_>) -> api::Database {
        let parked = self.parked(context).is_some();
        api::Database {
            name: self.name,
            engine: self.engine,
            host: self.host,
            port: self.port,
            database: self.database,
            user: self.user,
            owner: self.owner,
            tls: self.tls,
            ca: self.ca,
            connections: self.connections,
            configured_ms: self.configured_ms,
            rotated_ms: self.rotated_ms,
            rotating: self.next.is_some(),
            parked,
        }
    }
}
