//! `bulla database`: users of databases, made for as long as a lease; passwords of others, rotated.

mod certificate;
mod static_role;

use super::wrap::{WrapTo, made};
use crate::exit::{Exit, Failure};
use crate::fields::{self, Field};
use crate::input::{self, Limit};
use crate::output::{Format, FormatArgs, time, word};
use crate::session::Session;
use bulla_client::Wrapped;
use bulla_core::engine::database::{Connection, MAX_CONNECTIONS};
use bulla_core::operation::Refusal;
use bulla_wire::api::{DatabaseEngine, DatabaseNames, DatabaseTls, PutDatabase, PutDatabaseRole};
use bulla_wire::name::Name;
use clap::{Args, Subcommand, ValueEnum};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

/// Names of a page of a listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Database {
    Configure(Box<Configure>),
    /// Show how a database is reached; never its password
    Read {
        /// Its name
        #[arg(value_parser = super::name)]
        name: Name,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the databases
    List(FormatArgs),
    /// Delete a database that has neither roles nor leases
    Delete {
        /// Its name
        #[arg(value_parser = super::name)]
        name: Name,
    },
    /// Let a database be acted on that waits since a restore
    ///
    /// What the cluster knows of its users is then as old as the snapshot or the store that was put back. Compare
    /// first, with `bulla lease list --all --resource database/NAME` and the users in the database.
    Release {
        /// The database
        #[arg(value_parser = super::name)]
        name: Name,
    },
    /// Give the administering user a password that only the cluster knows
    ///
    /// Whatever crashes under way, one of the two passwords works, and both are kept until it is known which.
    RotateRoot {
        /// The database
        #[arg(value_parser = super::name)]
        name: Name,
    },
    /// Print the certificate that a database must trust for users by certificate
    ///
    /// Put it into the file that `ssl_ca_file` of PostgreSQL names. It is made with the first such role
    /// (`bulla database role put --certificate`); its private key stays in the cluster.
    Ca {
        /// The database
        #[arg(value_parser = super::name)]
        database: Name,
    },
    /// Say how users are made, and for how long
    #[command(subcommand)]
    Role(Role),
    /// Have passwords of users who are there rotated
    #[command(subcommand)]
    Static(static_role::Static),
    /// Get a user of a role, for as long as its lease
    Creds {
        /// The database
        #[arg(value_parser = super::name)]
        database: Name,
        /// The role
        #[arg(value_parser = super::name)]
        role: Name,
        /// For how long, such as 30m; the role's own time if left out
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// Make a key pair, and write client.key and the user's client.crt to this folder
        ///
        /// For roles whose users log in by certificate. The private key never leaves this machine; files of a former
        /// user are replaced.
        #[arg(long, value_name = "DIR", conflicts_with_all = ["field", "wrap_to"])]
        certificate: Option<PathBuf>,
        /// Print the user or the password only, as it is
        #[arg(long, value_name = "FIELD", conflicts_with = "wrap_to")]
        field: Option<CredsField>,
        #[command(flatten)]
        wrap_to: WrapTo,
        #[command(flatten)]
        format: FormatArgs,
    },
}

/// What is printed of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CredsField {
    User,
    Password,
    Lease,
}

/// The kinds of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    Postgres,
    /// Or MySQL
    Mariadb,
}

/// Write how a database is reached, in the place of what is there
///
/// The password goes to the cluster encrypted, and no command shows it again. A connection is made before anything is
/// stored. Afterwards `bulla database rotate-root` gives the user a password that no person knows.
#[derive(Debug, Args)]
pub struct Configure {
    /// Its name here
    #[arg(value_parser = super::name)]
    name: Name,
    /// What kind of server it is
    #[arg(long)]
    engine: Engine,
    /// Its name or IP address alone
    #[arg(long)]
    host: String,
    /// Its port; the engine's own if left out
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The database in it to which connections are made
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The user who makes and drops others
    #[arg(long)]
    user: String,
    /// PostgreSQL: a role without rights that gets what dropped users own
    #[arg(long, value_name = "ROLE")]
    owner: Option<String>,
    /// Connect without TLS, to this machine alone
    #[arg(long)]
    no_tls: bool,
    /// PEM file of the authorities that vouch for its certificate, in place of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "no_tls")]
    ca: Option<PathBuf>,
    /// Most connections at once, 1 to 32
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = connections())]
    connections: u8,
    /// Store it without connecting first
    #[arg(long)]
    no_check: bool,
    /// The address is another one of the same server, with its users
    #[arg(long)]
    moved: bool,
    /// Its password: password=@FILE, or password=- for standard input
    #[arg(value_name = "PASSWORD", value_parser = Field::demanded)]
    password: Field,
}

#[derive(Debug, Subcommand)]
pub enum Role {
    Put(Put),
    /// Show a role
    Read {
        /// The database
        #[arg(value_parser = super::name)]
        database: Name,
        /// The role
        #[arg(value_parser = super::name)]
        role: Name,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the roles of a database
    List {
        /// The database
        #[arg(value_parser = super::name)]
        database: Name,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Delete a role; its users stay until their leases end
    Delete {
        /// The database
        #[arg(value_parser = super::name)]
        database: Name,
        /// The role
        #[arg(value_parser = super::name)]
        role: Name,
    },
}

/// Write a role, in the place of what is there
///
/// A statement holds {{name}}, {{password}} and {{expiration}} outside of quotes: the server quotes what it fills in.
/// Each option takes one statement and may be repeated; @FILE takes a file with one statement.
#[derive(Debug, Args)]
pub struct Put {
    /// The database
    #[arg(value_parser = super::name)]
    database: Name,
    /// The role
    #[arg(value_parser = super::name)]
    role: Name,
    /// A statement that makes a user
    #[arg(long, value_name = "SQL", required = true)]
    creation: Vec<String>,
    /// A statement that drops it; the engine's own way if left out
    #[arg(long, value_name = "SQL")]
    revocation: Vec<String>,
    /// A statement that lets it live longer; the engine's own way if left out
    #[arg(long, value_name = "SQL")]
    renewal: Vec<String>,
    /// How long a lease lasts that asks for nothing else
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// How long a lease lasts at most, renewals included
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    max_ttl: Duration,
    /// PostgreSQL: users have no password and log in by a certificate, which `bulla database creds --certificate` gets
    #[arg(long)]
    certificate: bool,
}

pub async fn run(command: Database, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Database::Configure(args) => configure(session, *args).await,
        Database::Read { name, format } => read(session, &name, format).await,
        Database::List(format) => list(session, Of::Databases, format).await,
        Database::Delete { name } => {
            session.client()?.database_delete(&name).await?;
            session.screen.say(&format!("{name} is deleted"));
            Ok(Exit::Ok)
        }
        Database::Release { name } => {
            session.client()?.database_release(&name).await?;
            session.screen.say(&format!("{name} is released: leases that are over end now"));
            Ok(Exit::Ok)
        }
        Database::RotateRoot { name } => {
            session.client()?.database_rotate(&name).await?;
            session.screen.say(&format!("only the cluster knows the password of {name} now"));
            Ok(Exit::Ok)
        }
        Database::Role(role) => role_run(session, role).await,
        Database::Static(command) => static_role::run(command, session).await,
        Database::Ca { database } => {
            let certificate = session.client()?.database_ca(&database).await?;
            session.screen.bytes(certificate.as_bytes())?;
            Ok(Exit::Ok)
        }
        Database::Creds { database, role, ttl, certificate: Some(folder), format, .. } => {
            certificate::creds(session, (&database, &role), ttl, &folder, format).await
        }
        Database::Creds { database, role, ttl, field, wrap_to, format, certificate: None } => {
            let ttl_s = ttl.map(|ttl| ttl.as_secs());
            if let Some(outgoing) = wrap_to.outgoing(session).await? {
                let outlives = ttl_s.is_some_and(|ttl_s| ttl_s < outgoing.life_s);
                let wrapped = session.client()?.database_issue_to(&database, &role, ttl_s, outgoing).await;
                // The user is made before the wrap is.
                let left = "if a user was made, `bulla lease list` shows its lease: revoke it";
                let wrapped = wrapped.map_err(|error| Failure::from(error).hint(left))?;
                if outlives {
                    session.screen.warn("the slip may be opened for longer than its user lives: --expires shortens it");
                }
                return handed_on(session, &wrapped, format);
            }
            let made = session.client()?.database_issue(&database, &role, ttl_s).await?;
            let lease = made.lease.to_string();
            if let Some(field) = field {
                let value = match field {
                    CredsField::User => &made.user,
                    CredsField::Password => &made.password,
                    CredsField::Lease => &lease,
                };
                self::field(session, value)?;
            } else if format.format == Format::Json {
                session.screen.json(&made)?;
            } else {
                session.screen.pairs(&[
                    ("user", made.user),
                    ("password", made.password),
                    ("lease", lease.clone()),
                    ("expires", time(made.expires_ms)),
                    ("at most until", time(made.max_ms)),
                ])?;
            }
            if session.screen.is_unread() {
                return Err(Failure::new(Exit::Failed, "the user was made, but nobody read who it is")
                    .hint(format!("`bulla lease revoke {lease}` ends it")));
            }
            Ok(Exit::Ok)
        }
    }
}

/// Prints the slip of a wrap with a user, whose lease is the caller's.
fn handed_on(session: &Session<'_>, wrapped: &Wrapped, format: FormatArgs) -> Result<Exit, Failure> {
    let exit = made(session, wrapped, format)?;
    session.screen.hint("the user's lease is yours: `bulla lease list` shows it, and it ends as any other");
    Ok(exit)
}

/// Prints a value as it is, with the end of a line where a person reads it.
fn field(session: &Session<'_>, value: &str) -> Result<Exit, Failure> {
    session.screen.bytes(value.as_bytes())?;
    if std::io::stdout().is_terminal() {
        session.screen.bytes(b"\n")?;
    }
    Ok(Exit::Ok)
}

fn connections() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=i64::from(MAX_CONNECTIONS))
}

/// What the server would refuse, said by the option before anything is sent.
fn wrong(refusal: &Refusal) -> Failure {
    let option = match refusal.field.as_deref() {
        Some("tls") => "--no-tls".to_owned(),
        Some("password") => "password=".to_owned(),
        field => format!("--{}", field.unwrap_or_default()),
    };
    let hint = match refusal.field.as_deref() {
        Some("tls") => "leave --no-tls out, or reach the database at localhost",
        _ => "`bulla database configure --help` tells what each option takes",
    };
    Failure::usage(format!("{option}: {}", refusal.message)).hint(hint)
}

async fn configure(session: &Session<'_>, args: Configure) -> Result<Exit, Failure> {
    if args.password.is_argument() {
        let failure = Failure::usage("a password in an argument is seen by every process and kept by the shell");
        return Err(failure.hint("give password=@FILE, or password=- for standard input"));
    }
    let password =
        fields::read(std::slice::from_ref(&args.password), Limit::VALUE)?.0.remove("password").ok_or_else(|| {
            Failure::usage("there is no password").hint("give password=@FILE, or password=- for standard input")
        })?;
    let ca = args.ca.as_ref().map(|path| input::text(path, Limit::TEXT));
    let (engine, port) = match args.engine {
        Engine::Postgres => (DatabaseEngine::Postgres, 5432),
        Engine::Mariadb => (DatabaseEngine::Mariadb, 3306),
    };
    let body = PutDatabase {
        engine,
        host: args.host,
        port: args.port.unwrap_or(port),
        database: args.database,
        user: args.user,
        // A file's last line has an end, and no password has.
        password: password.trim_end_matches(['\r', '\n']).to_owned(),
        owner: args.owner,
        tls: if args.no_tls { DatabaseTls::Off } else { DatabaseTls::Verify },
        ca: ca.transpose()?,
        connections: args.connections,
        check: !args.no_check,
        moved: args.moved,
    };
    Connection::check(&body).map_err(|refusal| wrong(&refusal))?;
    session.client()?.database_put(&args.name, &body).await?;
    session.screen.say(&format!("{} is configured", args.name));
    Ok(Exit::Ok)
}

async fn read(session: &Session<'_>, name: &Name, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let database = session.client()?.database(name).await?;
    if format == Format::Json {
        return session.screen.json(&database).map(|()| Exit::Ok);
    }
    let mut pairs = vec![
        ("name", database.name.to_string()),
        ("engine", word(&database.engine)),
        ("address", format!("{}:{}", database.host, database.port)),
        ("user", database.user),
        ("tls", word(&database.tls)),
        ("connections", database.connections.to_string()),
        ("configured", time(database.configured_ms)),
    ];
    if let Some(inside) = database.database {
        pairs.insert(3, ("database", inside));
    }
    if let Some(owner) = database.owner {
        pairs.push(("owner", owner));
    }
    if let Some(rotated_ms) = database.rotated_ms {
        pairs.push(("rotated", time(rotated_ms)));
    }
    session.screen.pairs(&pairs)?;
    if database.parked {
        session.screen.hint("it waits since a restore: nothing is made or dropped until `bulla database release`");
    }
    if database.rotating {
        session.screen.hint("a rotation did not end: both passwords are tried; `bulla database rotate-root` ends it");
    }
    Ok(Exit::Ok)
}

/// What is listed.
#[derive(Clone, Copy)]
enum Of<'a> {
    Databases,
    Roles(&'a Name),
    Static(&'a Name),
}

async fn list(session: &Session<'_>, of: Of<'_>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (mut names, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = match of {
            Of::Databases => client.database_list(None, after.as_deref(), Some(PAGE)).await?,
            Of::Roles(name) => client.database_list(Some(name), after.as_deref(), Some(PAGE)).await?,
            Of::Static(name) => client.database_static_list(name, after.as_deref(), Some(PAGE)).await?,
        };
        names.extend(page.names);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    names.sort_unstable();
    if format == Format::Json {
        return session.screen.json(&DatabaseNames { names, next: None }).map(|()| Exit::Ok);
    }
    names.iter().try_for_each(|name| session.screen.line(name.as_str()))?;
    Ok(Exit::Ok)
}

async fn role_run(session: &Session<'_>, command: Role) -> Result<Exit, Failure> {
    match command {
        Role::Put(put) => {
            let body = PutDatabaseRole {
                creation: statements(&put.creation)?,
                revocation: statements(&put.revocation)?,
                renewal: statements(&put.renewal)?,
                ttl_s: put.ttl.as_secs(),
                max_ttl_s: put.max_ttl.as_secs(),
                certificate: put.certificate,
            };
            session.client()?.database_role_put(&put.database, &put.role, &body).await?;
            session.screen.say(&format!("{} has the role {} now", put.database, put.role));
            Ok(Exit::Ok)
        }
        Role::Read { database, role, format } => {
            let role = session.client()?.database_role(&database, &role).await?;
            if format.format == Format::Json {
                return session.screen.json(&role).map(|()| Exit::Ok);
            }
            let life = |seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string();
            let mut pairs = vec![("ttl", life(role.ttl_s)), ("max ttl", life(role.max_ttl_s))];
            if role.certificate {
                pairs.push(("login", "by certificate".to_owned()));
            }
            pairs.extend(role.creation.into_iter().map(|text| ("creation", text)));
            pairs.extend(role.revocation.into_iter().map(|text| ("revocation", text)));
            pairs.extend(role.renewal.into_iter().map(|text| ("renewal", text)));
            session.screen.texts(&pairs)?;
            Ok(Exit::Ok)
        }
        Role::List { database, format } => list(session, Of::Roles(&database), format).await,
        Role::Delete { database, role } => {
            session.client()?.database_role_delete(&database, &role).await?;
            session.screen.say(&format!("{database} has no role {role} any more"));
            Ok(Exit::Ok)
        }
    }
}

/// Statements as they stand in arguments, or in the files that these name.
fn statements(texts: &[String]) -> Result<Vec<String>, Failure> {
    let read = |text: &String| match text.strip_prefix('@') {
        Some(path) => Ok(input::text(path.as_ref(), Limit::TEXT)?.trim_end().to_owned()),
        None => Ok(text.clone()),
    };
    texts.iter().map(read).collect()
}
