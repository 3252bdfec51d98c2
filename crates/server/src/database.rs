//! Databases as the server reaches them: connections by kind of engine, users made, kept and dropped.
//!
//! Only what is configured is ever contacted. Each step has its time, so that a database that hangs holds up nobody
//! for long. What a database says of an error is told without what it was asked, since that may hold a password.

pub mod authority;
pub mod mariadb;
mod pool;
mod postgres;
mod tls;
mod turn;

pub use pool::Pools;
pub use turn::{Look, Turn, Turns};

use bulla_core::engine::database::sql::QuoteError;
use bulla_core::engine::database::template::{Statement, Template, TemplateError};
use bulla_core::engine::database::{Connection, Password};
use bulla_wire::api::DatabaseEngine;
use std::fmt;
use std::time::Duration;

/// How long a connection may take, TLS and login included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one statement may take. The database is told too, so that it does not go on by itself.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long everything about one user may take, the wait for a connection included. A pending lease waits longer than
/// this and a statement.
pub const WHOLE_TIMEOUT: Duration = Duration::from_secs(45);

const _: () = assert!(
    (WHOLE_TIMEOUT.as_millis() + STATEMENT_TIMEOUT.as_millis()) * 2 <= bulla_core::engine::lease::PENDING_MS as u128,
    "a user could come into being after its lease was given up"
);

/// Why a database did not do what it was asked for. Its words hold no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseError {
    /// It was not reached, so it was asked for nothing.
    Unreachable(String),
    /// It takes neither user nor password, so it was asked for nothing.
    Login(String),
    /// It refused, and nothing of it is under way any more.
    Refused(String),
    /// It did not answer in time, or the connection broke: it may have done it.
    Silent(String),
}

impl DatabaseError {
    /// Whether it was asked for nothing.
    pub const fn before_anything(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Login(_))
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the database is not reached: {why}"),
            Self::Login(why) => write!(f, "the database does not take the configured user: {why}"),
            Self::Refused(why) => write!(f, "the database refuses: {why}"),
            Self::Silent(why) => write!(f, "the database did not answer: {why}"),
        }
    }
}
impl std::error::Error for DatabaseError {}

impl From<QuoteError> for DatabaseError {
    fn from(error: QuoteError) -> Self {
        Self::Refused(error.to_string())
    }
}
impl From<TemplateError> for DatabaseError {
    fn from(error: TemplateError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Whether nobody is logged in as a user that is dropped, if dropping may go on. A role's own statements may do what the
/// administering user has no right to do by itself; sessions that do not end would outlive the lease.
fn nobody_is(closed: Result<bool, DatabaseError>, templates: &[String]) -> Result<bool, DatabaseError> {
    match closed {
        Ok(false) => Err(DatabaseError::Refused("sessions of the user do not end".to_owned())),
        Err(DatabaseError::Refused(_)) if !templates.is_empty() => Ok(false),
        closed => closed,
    }
}

/// A connection that is open.
pub enum Client {
    /// To PostgreSQL.
    Postgres(Box<postgres::Client>),
    /// To MariaDB or MySQL.
    Mariadb(mariadb::Client),
}

/// A user as statements see it.
#[derive(Clone, Copy)]
pub struct User<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its password, where one is set.
    pub password: &'a str,
    /// When its lease ends.
    pub expires_ms: u64,
}

/// What is done about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// It is made.
    Create,
    /// It lives until its lease ends.
    Renew,
    /// It is dropped and its sessions end. One who is not there is dropped.
    Drop,
    /// It gets another password. One who is not there is an error.
    Password,
}

impl Client {
    /// Connects with the current password, and where that does not do with one that a rotation may have set: servers
    /// have many ways to refuse one. Which of them it was: true for the second.
    ///
    /// # Errors
    /// [`DatabaseError`], about the current password.
    pub async fn connect(connection: &Connection) -> Result<(Self, bool), DatabaseError> {
        let refused = match Self::login(connection, connection.password.expose()).await {
            Ok(client) => return Ok((client, false)),
            Err(refused) => refused,
        };
        let Some(next) = &connection.next else { return Err(refused) };
        Self::login(connection, next.expose()).await.map(|client| (client, true)).map_err(|_| refused)
    }

    /// Connects, and looks whether the user has the rights that dropping needs and whose lack would not be noticed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn connect_and_check(connection: &Connection) -> Result<(), DatabaseError> {
        match Self::connect(connection).await?.0 {
            Self::Postgres(_) => Ok(()),
            Self::Mariadb(mut client) => client.check().await,
        }
    }

    /// Gives the administering user the next password, unless it has it already, and looks whether that logs in: the
    /// current one is forgotten then.
    ///
    /// # Errors
    /// [`DatabaseError`]; either password may work.
    pub async fn rotate(connection: &Connection, next: &Password) -> Result<(), DatabaseError> {
        let (mut client, has_next) = Self::connect(connection).await?;
        if has_next {
            return Ok(());
        }
        client.set_own_password(next.expose()).await?;
        Self::login(connection, next.expose()).await.map(drop)
    }

    async fn login(connection: &Connection, password: &str) -> Result<Self, DatabaseError> {
        let connecting = async {
            match connection.engine {
                DatabaseEngine::Postgres => {
                    postgres::Client::connect(connection, password).await.map(|client| Self::Postgres(Box::new(client)))
                }
                DatabaseEngine::Mariadb => mariadb::Client::connect(connection, password).await.map(Self::Mariadb),
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(client) => client,
            Err(_) => Err(DatabaseError::Unreachable(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    /// Does something about a user.
    pub async fn run(&mut self, job: Job, templates: &[String], user: User<'_>) -> Result<(), DatabaseError> {
        match (self, job) {
            (Self::Postgres(client), Job::Create) => client.create(templates, user).await,
            (Self::Postgres(client), Job::Renew) => client.renew(templates, user).await,
            (Self::Postgres(client), Job::Drop) => client.drop_user(templates, user).await,
            (Self::Postgres(client), Job::Password) => client.set_password(user.name, user.password).await,
            (Self::Mariadb(client), Job::Password) => client.set_password(user.name, user.password).await,
            (Self::Mariadb(client), Job::Create) => client.create(templates, user).await,
            (Self::Mariadb(client), Job::Renew) => client.renew(templates, user).await,
            (Self::Mariadb(client), Job::Drop) => client.drop_user(templates, user).await,
        }
    }

    /// Gives the connection's own user another password.
    async fn set_own_password(&mut self, password: &str) -> Result<(), DatabaseError> {
        match self {
            Self::Postgres(client) => client.set_own_password(password).await,
            Self::Mariadb(client) => client.set_own_password(password).await,
        }
    }

    /// Makes a used session as a new one is, so that nothing which one role's statements set reaches another's. False if
    /// the other side does not answer.
    pub async fn reset(&mut self) -> bool {
        match self {
            Self::Postgres(client) => client.reset().await,
            Self::Mariadb(client) => client.reset().await,
        }
    }

    /// Whether it can be used again.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Postgres(client) => client.is_open(),
            Self::Mariadb(client) => client.is_open(),
        }
    }
}

/// The statements of one purpose for one user, with a hash of the password where the server takes one. The templates
/// were checked when they were stored.
fn fill(
    engine: DatabaseEngine,
    templates: &[String],
    user: User<'_>,
    hash: Option<&str>,
) -> Result<Vec<Statement>, DatabaseError> {
    use bulla_core::engine::database::template::{Place, Values};
    let values = Values { name: user.name, password: user.password, hash, expires_ms: user.expires_ms };
    let filled = templates.iter().map(|text| Ok(Template::parse(engine, text, &Place::ALL)?.fill(values)?));
    filled.collect()
}

/// What a database said, in one short line without control characters.
fn line(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).take(MAX_CHARS).collect()
}
