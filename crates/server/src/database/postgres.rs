//! PostgreSQL. All statements of one purpose are one transaction, so half of them is nothing.
//!
//! A password is never sent in a statement: what stands there is the SCRAM verifier that the server keeps anyway
//! (RFC 5802), so neither its log nor an error can tell the password.

use super::{DatabaseError, STATEMENT_TIMEOUT, User, fill, line, nobody_is, tls};
use bulla_core::engine::database::Connection;
use bulla_core::engine::database::sql::{identifier, literal, time};
use bulla_wire::api::{DatabaseEngine, DatabaseTls};
use postgres_protocol::password::scram_sha_256;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, NoTls, TlsConnect, TlsStream};
use tokio_postgres::{Config, Error, SimpleQueryMessage};
use tokio_rustls::TlsConnector;

const ENGINE: DatabaseEngine = DatabaseEngine::Postgres;
/// The database that every installation has, for connections that name none.
const DEFAULT_DATABASE: &str = "postgres";

/// How often it is looked whether sessions have ended, and the wait between: a server ends them within milliseconds.
const SESSION_LOOKS: u32 = 20;
const SESSION_WAIT: Duration = Duration::from_millis(50);
/// How often a transaction is tried that loses races with others.
const TRIES: u32 = 5;

/// How long a session has to say goodbye. One whose server hangs would stay for ever.
const FAREWELL: Duration = Duration::from_millis(250);
/// Most bytes that a server may send to one statement, or until it has let us in: each answer has a line or none.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// A session.
pub struct Client {
    client: tokio_postgres::Client,
    /// Bytes that came since the last statement.
    received: Arc<AtomicUsize>,
    /// Its end is the end of the session.
    _gone: oneshot::Sender<()>,
    own_user: String,
    owner: Option<String>,
}

impl Client {
    /// Logs in, and settles what quotes mean and how long anything may take.
    pub async fn connect(connection: &Connection, password: &str) -> Result<Self, DatabaseError> {
        let unreachable = |error: io::Error| DatabaseError::Unreachable(line(&error.to_string()));
        let stream = TcpStream::connect((connection.host.as_str(), connection.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let received = Arc::new(AtomicUsize::new(0));
        let stream = Bounded { stream, received: received.clone() };
        let (_gone, gone) = oneshot::channel();
        let mut config = Config::new();
        config
            .user(&connection.user)
            .password(password)
            .dbname(connection.database.as_deref().unwrap_or(DEFAULT_DATABASE))
            .application_name("bulla");
        let client = match connection.tls {
            DatabaseTls::Off => {
                config.ssl_mode(SslMode::Disable);
                let (client, session) = config.connect_raw(stream, NoTls).await.map_err(|error| login(&error))?;
                tokio::spawn(until_gone(session, gone));
                client
            }
            DatabaseTls::Verify => {
                config.ssl_mode(SslMode::Require);
                let tls = Encrypting(tls::client(connection)?);
                let (client, session) = config.connect_raw(stream, tls).await.map_err(|error| login(&error))?;
                tokio::spawn(until_gone(session, gone));
                client
            }
        };
        let (own_user, owner) = (connection.user.clone(), connection.owner.clone());
        let client = Self { client, received, _gone, own_user, owner };
        client.settle().await.map_err(|error| DatabaseError::Unreachable(error.to_string()))?;
        Ok(client)
    }

    async fn settle(&self) -> Result<(), DatabaseError> {
        let limit_ms = STATEMENT_TIMEOUT.as_millis();
        self.run(&format!(
            "SET standard_conforming_strings = on; SET statement_timeout = {limit_ms}; SET lock_timeout = {limit_ms}; \
             SET idle_in_transaction_session_timeout = {limit_ms}"
        ))
        .await
    }

    /// Whether the session goes on.
    pub fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    /// Makes the session as a new one is. Whether it still answers.
    pub async fn reset(&self) -> bool {
        self.is_open() && self.run("DISCARD ALL").await.is_ok() && self.settle().await.is_ok()
    }

    async fn ask(&self, text: &str) -> Result<(), Failed> {
        self.received.store(0, Ordering::Relaxed);
        match tokio::time::timeout(STATEMENT_TIMEOUT, self.client.batch_execute(text)).await {
            Ok(done) => done.map_err(Failed::Sql),
            Err(_) => Err(Failed::Slow),
        }
    }

    async fn run(&self, text: &str) -> Result<(), DatabaseError> {
        self.ask(text).await.map_err(DatabaseError::from)
    }

    /// All of the statements or none. Rights on one thing that are granted to many users at once get in each other's
    /// way, so what lost such a race is tried again.
    async fn transaction(&self, statements: &[&str]) -> Result<(), DatabaseError> {
        self.transaction_as(None, statements).await
    }

    /// The same as a member of a user. Whoever is no superuser may end sessions of roles that it is a member of, and give
    /// away what they own.
    async fn transaction_as(&self, member_of: Option<&Named>, statements: &[&str]) -> Result<(), DatabaseError> {
        let mut tries = 1;
        loop {
            match self.attempt(member_of, statements).await {
                Err(Failed::Slow) => return Err(too_slow()),
                Err(failed) => {
                    // What comes next in this session is no part of it.
                    self.run("ROLLBACK").await?;
                    if tries == TRIES || !failed.lost_a_race() {
                        return Err(failed.into());
                    }
                    tries += 1;
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// The membership does not outlive the transaction, whatever becomes of the user: by one that stays, what
    /// `pg_hba.conf` says of the user's groups would hold for the administering user, and might lock it out.
    async fn attempt(&self, member_of: Option<&Named>, statements: &[&str]) -> Result<(), Failed> {
        self.ask("BEGIN").await?;
        if let Some(Named { name, own, .. }) = member_of {
            self.ask(&format!("GRANT {name} TO {own}")).await?;
        }
        for statement in statements {
            self.ask(statement).await?;
        }
        if let Some(Named { name, own, quoted, .. }) = member_of
            && self.finds(&format!("SELECT 1 WHERE pg_catalog.to_regrole({quoted}) IS NOT NULL")).await?
        {
            self.ask(&format!("REVOKE {name} FROM {own}")).await?;
        }
        self.ask("COMMIT").await
    }

    async fn fill_and_run(
        &self,
        templates: &[String],
        user: User<'_>,
        member_of: Option<&Named>,
    ) -> Result<(), DatabaseError> {
        let statements = fill(ENGINE, templates, user, None)?;
        let texts: Vec<&str> = statements.iter().map(|statement| statement.as_str()).collect();
        self.transaction_as(member_of, &texts).await
    }

    /// Makes a user.
    pub async fn create(&self, templates: &[String], user: User<'_>) -> Result<(), DatabaseError> {
        let verifier = scram_sha_256(user.password.as_bytes());
        self.fill_and_run(templates, User { password: &verifier, ..user }, None).await
    }

    /// Lets a user live longer, by default by its own clock.
    pub async fn renew(&self, templates: &[String], user: User<'_>) -> Result<(), DatabaseError> {
        if !templates.is_empty() {
            return self.fill_and_run(templates, user, None).await;
        }
        let (name, until) = (identifier(ENGINE, user.name)?, literal(ENGINE, &time(ENGINE, user.expires_ms))?);
        self.run(&format!("ALTER ROLE {name} VALID UNTIL {until}")).await
    }

    /// Drops a user: first nobody logs in as it, then its sessions end, then it goes by the role's statements or ours.
    /// One who is not there is dropped once these have run.
    pub async fn drop_user(&self, templates: &[String], user: User<'_>) -> Result<(), DatabaseError> {
        let named = Named::new(user.name, &self.own_user)?;
        // Nothing here means what another schema makes of it.
        self.run("SET search_path = pg_catalog").await?;
        let there = self.any(&format!("SELECT 1 FROM pg_roles WHERE rolname = {}", named.text)).await?;
        let closed = nobody_is(if there { self.close(&named).await } else { Ok(true) }, templates)?;
        if templates.is_empty() {
            return if there { self.drop_closed(&named).await } else { Ok(()) };
        }
        self.run("RESET search_path").await?;
        let member_of = (there && closed).then_some(&named);
        match self.fill_and_run(templates, user, member_of).await {
            Err(DatabaseError::Refused(_)) if !there => Ok(()),
            done => done,
        }
    }

    /// Nobody logs in as the user any more; whether nobody is, either.
    async fn close(&self, user: &Named) -> Result<bool, DatabaseError> {
        let sessions = format!("FROM pg_stat_activity WHERE usename = {} AND pid <> pg_backend_pid()", user.text);
        let end = format!("SELECT pg_terminate_backend(pid) {sessions}");
        // A session that has begun to change its own password holds the user's row, and would keep the next statement waiting
        // for as long as it likes.
        match self.transaction_as(Some(user), &[&end]).await {
            Ok(()) | Err(DatabaseError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        self.run(&format!("ALTER ROLE {} NOLOGIN", user.name)).await?;
        self.transaction_as(Some(user), &[&end]).await?;
        for _ in 0..SESSION_LOOKS {
            if !self.any(&format!("SELECT 1 {sessions} LIMIT 1")).await? {
                return Ok(true);
            }
            tokio::time::sleep(SESSION_WAIT).await;
        }
        Ok(false)
    }

    /// Drops a user that has no sessions. What it owns goes to the configured owner, who has no rights: a function or a
    /// view of the user would else run with those of whoever gets it. It is nobody's to delete here.
    async fn drop_closed(&self, user: &Named) -> Result<(), DatabaseError> {
        let Named { name, text, .. } = user;
        let (revoke, drop) = (format!("DROP OWNED BY {name}"), format!("DROP ROLE {name}"));
        if let Some(owner) = &self.owner {
            let give = format!("REASSIGN OWNED BY {name} TO {}", identifier(ENGINE, owner)?);
            return self.transaction_as(Some(user), &[&give, &revoke, &drop]).await;
        }
        // Rights by default and mappings of users are no data, and go with the rights.
        let owns = format!(
            "SELECT 1 FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o' \
             AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = {text}) \
             AND classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass) LIMIT 1"
        );
        if self.any(&owns).await? {
            let hint = "the user owns things; drop them, or configure the database with an owner for them (--owner)";
            return Err(DatabaseError::Refused(hint.to_owned()));
        }
        self.transaction_as(Some(user), &[&revoke, &drop]).await
    }

    /// Whether a question has an answer.
    async fn any(&self, text: &str) -> Result<bool, DatabaseError> {
        self.finds(text).await.map_err(DatabaseError::from)
    }

    async fn finds(&self, text: &str) -> Result<bool, Failed> {
        self.received.store(0, Ordering::Relaxed);
        match tokio::time::timeout(STATEMENT_TIMEOUT, self.client.simple_query(text)).await {
            Ok(Ok(answer)) => Ok(answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(_)))),
            Ok(Err(error)) => Err(Failed::Sql(error)),
            Err(_) => Err(Failed::Slow),
        }
    }

    /// Gives the connection's own user another password.
    pub async fn set_own_password(&self, password: &str) -> Result<(), DatabaseError> {
        self.set_password(&self.own_user, password).await
    }

    /// Gives a user another password.
    pub async fn set_password(&self, name: &str, password: &str) -> Result<(), DatabaseError> {
        let (name, verifier) = (identifier(ENGINE, name)?, literal(ENGINE, &scram_sha_256(password.as_bytes()))?);
        self.transaction(&[&format!("ALTER ROLE {name} PASSWORD {verifier}")]).await
    }
}

/// Serves a session until its client is gone. By itself it would wait for whatever was asked last, client or no client.
async fn until_gone(session: impl Future<Output = Result<(), Error>>, gone: oneshot::Receiver<()>) {
    let left = async {
        drop(gone.await);
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        _ = session => {}
        () = left => {}
    }
}

/// A connection over which no more comes than a statement may be answered, since an answer is collected in memory.
struct Bounded {
    stream: TcpStream,
    received: Arc<AtomicUsize>,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buf);
        let more = buf.filled().len().saturating_sub(before);
        if self.received.fetch_add(more, Ordering::Relaxed) > ANSWER_BYTES_MAX {
            return Poll::Ready(Err(io::Error::other("the database sends more than an answer may have")));
        }
        read
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A user who is dropped, and by whom, as statements name them.
struct Named {
    /// Its identifier.
    name: String,
    /// Its name as a text.
    text: String,
    /// Its identifier as a text.
    quoted: String,
    /// The identifier of the connection's own user.
    own: String,
}

impl Named {
    fn new(user: &str, own: &str) -> Result<Self, DatabaseError> {
        let name = identifier(ENGINE, user)?;
        let (text, quoted) = (literal(ENGINE, user)?, literal(ENGINE, &name)?);
        Ok(Self { name, text, quoted, own: identifier(ENGINE, own)? })
    }
}

/// Why a statement failed.
enum Failed {
    Slow,
    Sql(Error),
}

impl Failed {
    /// Whether another session was in the way: serialisation, deadlock, and what the catalogue calls "tuple concurrently
    /// updated".
    fn lost_a_race(&self) -> bool {
        let races = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::INTERNAL_ERROR];
        matches!(self, Self::Sql(error) if error.code().is_some_and(|code| races.contains(code)))
    }
}

impl From<Failed> for DatabaseError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Slow => too_slow(),
            Failed::Sql(error) => refused(&error),
        }
    }
}

fn too_slow() -> DatabaseError {
    DatabaseError::Silent(format!("a statement took more than {} s", STATEMENT_TIMEOUT.as_secs()))
}

/// What PostgreSQL says. A syntax error quotes the text where it stopped, which may be a verifier.
fn told(error: &Error) -> Option<String> {
    let said = error.as_db_error()?;
    let (code, message) = (said.code().code(), line(said.message()));
    Some(if message.contains("SCRAM-") { format!("SQLSTATE {code}") } else { format!("{message} (SQLSTATE {code})") })
}

fn refused(error: &Error) -> DatabaseError {
    match told(error) {
        Some(told) => DatabaseError::Refused(told),
        None => DatabaseError::Silent("the connection broke".to_owned()),
    }
}

fn login(error: &Error) -> DatabaseError {
    let of_user = [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
    match (told(error), error.code()) {
        (Some(told), Some(code)) if of_user.contains(code) => DatabaseError::Login(told),
        (Some(told), _) => DatabaseError::Unreachable(told),
        (None, _) => DatabaseError::Unreachable(line(&causes(error))),
    }
}

/// An error and its causes; it is one of connection, TLS or protocol, in which no statement stands.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Begins TLS where the protocol says so.
struct Encrypting((Arc<rustls::ClientConfig>, rustls::pki_types::ServerName<'static>));

impl TlsConnect<Bounded> for Encrypting {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, stream: Bounded) -> Self::Future {
        let Self((config, name)) = self;
        Box::pin(async move { TlsConnector::from(config).connect(name, stream).await.map(Encrypted) })
    }
}

/// A stream inside TLS.
struct Encrypted(tokio_rustls::client::TlsStream<Bounded>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate is verified for the configured host, so nobody stands between.
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Job, Pools};
    use bulla_wire::api::PutDatabase;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::Notify;

    const SOON: Duration = Duration::from_secs(10);
    /// What [`Says`] is asked where somebody logs in.
    const LOGIN: &str = "login";

    /// What a server answers to a statement; nothing if it hangs.
    type Says = fn(&str) -> Option<Vec<u8>>;

    /// A server of somebody else, as far as its protocol goes that is spoken here (PostgreSQL's manual, 53.7).
    #[derive(Default)]
    struct Fake {
        /// Sessions that were begun, that are there, and that were there at most.
        made: AtomicUsize,
        open: AtomicUsize,
        most: AtomicUsize,
        hangs: Notify,
        ended: Notify,
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn welcome() -> Vec<u8> {
        [message(b'R', &[0; 4]), message(b'Z', b"I")].concat()
    }

    fn done() -> Vec<u8> {
        [message(b'C', b"SET\0"), message(b'Z', b"I")].concat()
    }

    fn refuses(code: &str, text: &str) -> Vec<u8> {
        let error = message(b'E', format!("SERROR\0VERROR\0C{code}\0M{text}\0\0").as_bytes());
        [error, message(b'Z', b"I")].concat()
    }

    impl Fake {
        async fn start(says: Says) -> (Arc<Self>, Connection) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let fake = Arc::new(Self::default());
            let serving = fake.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let fake = serving.clone();
                    tokio::spawn(async move {
                        fake.made.fetch_add(1, Ordering::SeqCst);
                        let open = fake.open.fetch_add(1, Ordering::SeqCst) + 1;
                        fake.most.fetch_max(open, Ordering::SeqCst);
                        // Whoever hangs up ends it.
                        let _ = fake.session(stream, says).await;
                        fake.open.fetch_sub(1, Ordering::SeqCst);
                        fake.ended.notify_one();
                    });
                }
            });
            let body = PutDatabase {
                engine: ENGINE,
                host: "127.0.0.1".into(),
                port,
                database: None,
                user: "bulla".into(),
                password: "anything".into(),
                owner: None,
                moved: false,
                tls: DatabaseTls::Off,
                ca: None,
                connections: 2,
                check: true,
            };
            (fake, Connection::new("app".parse().unwrap(), body, 0).unwrap())
        }

        async fn session(&self, mut stream: TcpStream, says: Says) -> io::Result<()> {
            let mut tag = None;
            loop {
                let length = stream.read_u32().await?;
                let mut body = vec![0; usize::try_from(length).unwrap() - 4];
                stream.read_exact(&mut body).await?;
                let text = match tag {
                    None => LOGIN.to_owned(),
                    Some(b'X') => return Ok(()),
                    Some(_) => String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned(),
                };
                match says(&text) {
                    Some(answer) => stream.write_all(&answer).await?,
                    None => self.hangs.notify_one(),
                }
                tag = Some(stream.read_u8().await?);
            }
        }
    }

    fn willing(text: &str) -> Option<Vec<u8>> {
        Some(if text == LOGIN { welcome() } else { done() })
    }

    /// Whoever waits gives up after a while, and each try would leave a socket and a task behind, above all that
    /// `connections` allows, until the server has no file descriptor left for anybody.
    #[tokio::test]
    async fn a_session_that_never_answers_ends_with_its_client() {
        let (fake, to) = Fake::start(|text| if text.starts_with("ALTER") { None } else { willing(text) }).await;
        let client = Client::connect(&to, "x").await.unwrap();
        tokio::select! {
            set = client.set_password("app", "secret") => panic!("{set:?}"),
            () = fake.hangs.notified() => {}
        }
        drop(client);
        tokio::time::timeout(SOON, fake.ended.notified()).await.expect("the session ends");
        assert_eq!(fake.open.load(Ordering::SeqCst), 0);
    }

    /// So many as are configured, used again as long as they are fresh.
    #[tokio::test]
    async fn no_more_connections_are_made_than_are_configured() {
        let (fake, to) = Fake::start(willing).await;
        let pools = Pools::default();
        let user = User { name: "app", password: "secret", expires_ms: 0 };
        let set = || Box::pin(pools.run(&to, Job::Password, &[], user));
        let (one, two, three, four, five) = tokio::join!(set(), set(), set(), set(), set());
        [one, two, three, four, five].into_iter().collect::<Result<(), _>>().unwrap();
        assert_eq!((fake.made.load(Ordering::SeqCst), fake.most.load(Ordering::SeqCst)), (2, 2));
    }

    /// What a server says is told in one short line, but for what quotes a verifier, by which a password can be tried.
    #[tokio::test]
    async fn what_a_server_quotes_of_a_verifier_is_not_told() {
        let (_fake, to) = Fake::start(|text| match text {
            text if text.contains("quoted") => {
                Some(refuses("42601", "syntax error at or near \"SCRAM-SHA-256$4096:s3cret\""))
            }
            text if text.contains("absent") => Some(refuses("42704", "no such\nrole")),
            text => willing(text),
        })
        .await;
        let client = Client::connect(&to, "x").await.unwrap();
        let told = |result: Result<(), DatabaseError>| result.unwrap_err();
        let quoted = told(client.set_password("quoted", "secret").await);
        assert_eq!(quoted, DatabaseError::Refused("SQLSTATE 42601".to_owned()));
        let absent = told(client.set_password("absent", "secret").await);
        assert_eq!(absent, DatabaseError::Refused("no such role (SQLSTATE 42704)".to_owned()));
        client.set_password("there", "secret").await.unwrap();
    }

    /// A user who is refused is somebody's mistake; a server that is not ready is waited for. Neither was asked for anything.
    #[tokio::test]
    async fn a_login_that_is_refused_is_told_from_a_server_that_is_not_ready() {
        let (_fake, to) = Fake::start(|_| Some(refuses("28P01", "password authentication failed"))).await;
        let refused = Client::connect(&to, "x").await.err().unwrap();
        assert!(matches!(&refused, DatabaseError::Login(_)) && refused.before_anything(), "{refused}");
        let (_fake, to) = Fake::start(|_| Some(refuses("57P03", "the database system is starting up"))).await;
        let starts = Client::connect(&to, "x").await.err().unwrap();
        assert!(matches!(&starts, DatabaseError::Unreachable(_)) && starts.before_anything(), "{starts}");
    }
}
