//! MariaDB and MySQL. Of an error only the number is told, since its words quote statements.
//!
//! MariaDB writes statements about users into its logs as they are, the one for replicas too, so it is sent a hash in
//! place of a password: the one that it keeps anyway. MySQL takes no such hash, and hides passwords by itself.
//!
//! Statements about users end transactions here, so half of a role's statements may have been carried out; the lease is
//! there, and drops whatever there is.

use super::{DatabaseError, STATEMENT_TIMEOUT, User, WHOLE_TIMEOUT, fill, line, nobody_is, tls};
use bulla_core::engine::database::Connection;
use bulla_core::engine::database::sql::{identifier, literal};
use bulla_crypto::digest::sha1;
use bulla_wire::api::{DatabaseEngine, DatabaseTls};
use mysql_async::prelude::{FromValue, Queryable as _};
use mysql_async::{Conn, Error, IoError, OptsBuilder, ServerError, SslOpts, Value};
use std::fmt::Write as _;
use zeroize::Zeroizing;

const ENGINE: DatabaseEngine = DatabaseEngine::Mariadb;
/// Largest packet either way in bytes: far above any statement or list of hosts, and no server fills our memory.
const MAX_PACKET_BYTES: usize = 64 * 1024;
/// Most rows of an answer: no user has as many hosts, sessions are listed by as many, and no server fills our memory.
const MAX_ROWS: usize = 256;
/// There is no such session any more.
const UNKNOWN_THREAD: u16 = 1094;
/// Nobody with this name and password.
const ACCESS_DENIED: u16 = 1045;
/// The variable is MariaDB's alone.
const UNKNOWN_VARIABLE: u16 = 1193;

/// A session.
pub struct Client {
    session: Conn,
    open: bool,
    /// It is MariaDB, which takes hashes, and not MySQL.
    takes_hashes: bool,
}

impl Client {
    /// Logs in, and settles what quotes mean and how long anything may take.
    pub async fn connect(connection: &Connection, password: &str) -> Result<Self, DatabaseError> {
        let tls = match connection.tls {
            DatabaseTls::Off => None,
            DatabaseTls::Verify => {
                let roots = tls::authorities(connection)?.into_iter().map(|der| der.to_vec().into());
                Some(SslOpts::default().with_disable_built_in_roots(true).with_root_certs(roots.collect()))
            }
        };
        let options = OptsBuilder::default()
            .ip_or_hostname(connection.host.as_str())
            .tcp_port(connection.port)
            .user(Some(connection.user.as_str()))
            .pass(Some(password))
            .db_name(connection.database.as_deref())
            // Otherwise a server on this machine is reached by its socket, whatever was configured.
            .prefer_socket(false)
            .max_allowed_packet(Some(MAX_PACKET_BYTES))
            // Asked for else, and of use for the library's own pool alone.
            .wait_timeout(Some(WHOLE_TIMEOUT.as_secs() as usize))
            .stmt_cache_size(0)
            .ssl_opts(tls);
        let session = Conn::new(options).await.map_err(|error| login(&error))?;
        let mut client = Self { session, open: true, takes_hashes: false };
        client.settle().await.map_err(|error| DatabaseError::Unreachable(error.to_string()))?;
        Ok(client)
    }

    async fn settle(&mut self) -> Result<(), DatabaseError> {
        let seconds = STATEMENT_TIMEOUT.as_secs();
        self.run("SET NAMES utf8mb4").await?;
        self.run("SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES'").await?;
        self.run(&format!("SET SESSION lock_wait_timeout = {seconds}")).await?;
        // A session that is lost on the way ends before its lease is given up.
        self.run(&format!("SET SESSION wait_timeout = {}", WHOLE_TIMEOUT.as_secs())).await?;
        // By a variable and not by its version, which a server may be told to lie about.
        self.takes_hashes =
            self.unless(UNKNOWN_VARIABLE, &format!("SET SESSION max_statement_time = {seconds}")).await?;
        Ok(())
    }

    /// Whether the session goes on.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Makes the session as a new one is. Whether it still answers.
    pub async fn reset(&mut self) -> bool {
        if !std::mem::replace(&mut self.open, false) {
            return false;
        }
        match tokio::time::timeout(STATEMENT_TIMEOUT, self.session.reset()).await {
            Ok(Ok(true)) => {
                self.open = true;
                self.settle().await.is_ok()
            }
            _ => false,
        }
    }

    /// Whether the user sees sessions of others; without that right, sessions of dropped users would go on unnoticed.
    pub async fn check(&mut self) -> Result<(), DatabaseError> {
        let grants: Vec<String> = self.rows("SHOW GRANTS").await?;
        let sees = |grant: &String| {
            let global = grant.split_once(" ON *.* ").map(|(rights, _)| rights);
            global.is_some_and(|rights| rights.contains("PROCESS") || rights.contains("ALL PRIVILEGES"))
        };
        if grants.iter().any(sees) {
            return Ok(());
        }
        Err(DatabaseError::Refused("the user lacks the right PROCESS, so sessions of others would not end".to_owned()))
    }

    /// Sends a statement and reads what it came to. Whatever breaks on the way ends the session.
    async fn ask<T: FromValue>(&mut self, text: &str) -> Result<Result<Vec<T>, ServerError>, DatabaseError> {
        self.open = false;
        let outcome = match tokio::time::timeout(STATEMENT_TIMEOUT, answer(&mut self.session, text)).await {
            Ok(Ok(rows)) => {
                Ok(rows.ok_or_else(|| DatabaseError::Silent("an answer is not of the form it has".into()))?)
            }
            Ok(Err(Error::Server(error))) => Err(error),
            Ok(Err(_)) => return Err(DatabaseError::Silent("the connection broke".to_owned())),
            Err(_) => {
                let limit = STATEMENT_TIMEOUT.as_secs();
                return Err(DatabaseError::Silent(format!("a statement took more than {limit} s")));
            }
        };
        self.open = true;
        Ok(outcome)
    }

    async fn rows<T: FromValue>(&mut self, text: &str) -> Result<Vec<T>, DatabaseError> {
        self.ask(text).await?.map_err(|error| DatabaseError::Refused(told(&error)))
    }

    async fn run(&mut self, text: &str) -> Result<(), DatabaseError> {
        self.rows::<Value>(text).await.map(drop)
    }

    /// Runs a statement that may fail with this error; whether it did not.
    async fn unless(&mut self, code: u16, text: &str) -> Result<bool, DatabaseError> {
        match self.ask::<Value>(text).await? {
            Err(error) if error.code != code => Err(DatabaseError::Refused(told(&error))),
            done => Ok(done.is_ok()),
        }
    }

    async fn fill_and_run(&mut self, templates: &[String], user: User<'_>) -> Result<(), DatabaseError> {
        let hash = self.takes_hashes.then(|| hash(user.password));
        for statement in fill(ENGINE, templates, user, hash.as_deref())? {
            self.run(statement.as_str()).await?;
        }
        Ok(())
    }

    /// Makes a user.
    pub async fn create(&mut self, templates: &[String], user: User<'_>) -> Result<(), DatabaseError> {
        self.fill_and_run(templates, user).await
    }

    /// Lets a user live longer. Users have no end of their own here, so by default there is nothing to do.
    pub async fn renew(&mut self, templates: &[String], user: User<'_>) -> Result<(), DatabaseError> {
        self.fill_and_run(templates, user).await
    }

    /// Drops a user at each host: first nobody logs in as it, then its sessions end, then it goes by the role's
    /// statements or ours. One who is not there is dropped once these have run.
    pub async fn drop_user(&mut self, templates: &[String], user: User<'_>) -> Result<(), DatabaseError> {
        let text = literal(ENGINE, user.name)?;
        let accounts = self.accounts(user.name).await?;
        nobody_is(self.close(&accounts, &text).await, templates)?;
        if templates.is_empty() {
            for account in &accounts {
                self.run(&format!("DROP USER IF EXISTS {account}")).await?;
            }
            return Ok(());
        }
        match self.fill_and_run(templates, user).await {
            Err(DatabaseError::Refused(_)) if accounts.is_empty() => Ok(()),
            done => done,
        }
    }

    /// Nobody logs in as the user any more; whether nobody is, either.
    async fn close(&mut self, accounts: &[String], text: &str) -> Result<bool, DatabaseError> {
        for account in accounts {
            self.run(&format!("ALTER USER {account} ACCOUNT LOCK")).await?;
        }
        // A user may have more sessions than an answer has rows. Numbers rise, and nobody logs in any more.
        let listed = format!("FROM information_schema.PROCESSLIST WHERE BINARY USER = {text} AND ID >");
        let mut last = 0;
        loop {
            let sessions: Vec<u64> =
                self.rows(&format!("SELECT ID {listed} {last} ORDER BY ID LIMIT {MAX_ROWS}")).await?;
            let Some(newest) = sessions.last() else { return Ok(true) };
            last = *newest;
            for session in sessions {
                self.unless(UNKNOWN_THREAD, &format!("KILL CONNECTION {session}")).await?;
            }
        }
    }

    /// Gives the connection's own user another password.
    pub async fn set_own_password(&mut self, password: &str) -> Result<(), DatabaseError> {
        // MariaDB takes `ALTER USER CURRENT_USER()` and changes nothing, so the account is named.
        let own: Vec<String> = self.rows("SELECT CURRENT_USER()").await?;
        let Some((user, host)) = own.first().and_then(|own| own.rsplit_once('@')) else {
            return Err(DatabaseError::Refused("the server does not say who is logged in".to_owned()));
        };
        let account = format!("{}@{}", identifier(ENGINE, user)?, literal(ENGINE, host)?);
        self.identify(&account, password).await
    }

    async fn identify(&mut self, account: &str, password: &str) -> Result<(), DatabaseError> {
        if self.takes_hashes {
            let hash = literal(ENGINE, &hash(password))?;
            return self.run(&format!("ALTER USER {account} IDENTIFIED BY PASSWORD {hash}")).await;
        }
        let password = Zeroizing::new(literal(ENGINE, password)?);
        let text = Zeroizing::new(format!("ALTER USER {account} IDENTIFIED BY {}", password.as_str()));
        self.run(&text).await
    }

    /// Gives a user another password, at each of its hosts. Once one has it, whatever goes wrong with the others leaves
    /// nobody knowing which password the user has.
    pub async fn set_password(&mut self, user: &str, password: &str) -> Result<(), DatabaseError> {
        let accounts = self.accounts(user).await?;
        if accounts.is_empty() {
            return Err(DatabaseError::Refused("no such user".to_owned()));
        }
        let own: Vec<String> = self.rows("SELECT CURRENT_USER()").await?;
        if own.iter().any(|own| own.rsplit_once('@').is_some_and(|(own, _)| own == user)) {
            return Err(DatabaseError::Refused("this user is the administering one".to_owned()));
        }
        for (done, account) in accounts.iter().enumerate() {
            match self.identify(account, password).await {
                Err(DatabaseError::Refused(why)) if done > 0 => {
                    return Err(DatabaseError::Silent(format!(
                        "some of the user's hosts have the next password: {why}"
                    )));
                }
                set => set?,
            }
        }
        Ok(())
    }

    /// The user at each host that it has.
    async fn accounts(&mut self, user: &str) -> Result<Vec<String>, DatabaseError> {
        let (name, text) = (identifier(ENGINE, user)?, literal(ENGINE, user)?);
        let hosts: Vec<String> = self.rows(&format!("SELECT Host FROM mysql.user WHERE User = {text}")).await?;
        hosts.iter().map(|host| Ok(format!("{name}@{}", literal(ENGINE, host)?))).collect()
    }
}

/// What MariaDB keeps of a password (`mysql_native_password`).
fn hash(password: &str) -> String {
    sha1(&sha1(password.as_bytes())).iter().fold("*".to_owned(), |mut text, byte| {
        let _written = write!(text, "{byte:02X}");
        text
    })
}

/// The first column of an answer; none if it has too many rows or a value of another kind.
async fn answer<T: FromValue>(session: &mut Conn, text: &str) -> Result<Option<Vec<T>>, Error> {
    let mut result = session.query_iter(text).await?;
    let mut rows = Vec::new();
    while let Some(mut row) = result.next().await? {
        match row.take_opt(0) {
            Some(Ok(value)) if rows.len() < MAX_ROWS => rows.push(value),
            _ => return Ok(None),
        }
    }
    Ok(Some(rows))
}

/// Why there is no session.
fn login(error: &Error) -> DatabaseError {
    match error {
        Error::Server(error) if error.code == ACCESS_DENIED => DatabaseError::Login(told(error)),
        Error::Server(error) => DatabaseError::Unreachable(told(error)),
        // The library puts "Input/output error" before these, twice.
        Error::Io(IoError::Io(error)) => DatabaseError::Unreachable(line(&error.to_string())),
        Error::Io(IoError::Tls(error)) => DatabaseError::Unreachable(line(&error.to_string())),
        error => DatabaseError::Unreachable(line(&error.to_string())),
    }
}

/// What the server says, by its number: its own words quote statements.
fn told(error: &ServerError) -> String {
    let meaning = match error.code {
        ACCESS_DENIED => "access denied for this user and password",
        1044 | 1142 | 1227 | 1410 => "the user lacks the right",
        1049 => "no such database",
        1064 => "a statement has a fault of syntax",
        1146 => "no such table",
        1290 => "an option of the server forbids it: it is read-only, or takes no hashes (strict_password_validation)",
        1205 => "a lock was not released in time",
        1396 => "a user could not be made, changed or dropped",
        1819 => "the password does not meet the server's rules",
        1969 | 3024 => "a statement took too long",
        _ => "see the server's manual",
    };
    let ServerError { code, state, .. } = error;
    format!("error {code} ({state}): {meaning}")
}
