//! `bulla kv`: secrets under paths.

use crate::exit::{Exit, Failure};
use crate::fields::{self, Field};
use crate::output::{Format, FormatArgs, time};
use crate::session::Session;
use bulla_wire::api::{KvNames, PutKv};
use bulla_wire::name::SecretPath;
use clap::Subcommand;
use std::io::IsTerminal as _;

/// Names of a page of the listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Kv {
    /// Write a version; KEY=@FILE and KEY=- keep values out of the list of processes
    Put {
        /// Where, such as app/prod/db
        path: SecretPath,
        /// The fields: KEY=VALUE, KEY=@FILE, KEY=- (standard input)
        #[arg(required = true, value_name = "FIELD", value_parser = Field::demanded)]
        fields: Vec<Field>,
        /// Only if this is the version there now; 0: only if there is none
        #[arg(long, value_name = "VERSION")]
        cas: Option<u64>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Print the newest version
    Get {
        /// Where
        path: SecretPath,
        /// Print this field only, as it is
        #[arg(long, value_name = "KEY")]
        field: Option<String>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the names below a path; a directory ends in /
    List {
        /// Below what; the top if left out
        path: Option<SecretPath>,
        #[command(flatten)]
        format: FormatArgs,
    },
}

pub async fn run(command: Kv, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Kv::Put { path, fields, cas, format } => {
            let client = session.client()?;
            let written = client.kv_put(&path, &PutKv { data: fields::read(&fields)?, cas }).await?;
            if format.format == Format::Json {
                return session.screen.json(&written).map(|()| Exit::Ok);
            }
            session.screen.say(&format!("{path} has version {} now", written.version));
            Ok(Exit::Ok)
        }
        Kv::Get { path, field, format } => get(session, &path, field, format).await,
        Kv::List { path, format } => list(session, path.as_ref(), format).await,
    }
}

async fn get(
    session: &Session<'_>,
    path: &SecretPath,
    field: Option<String>,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let kv = session.client()?.kv_get(path).await?;
    if let Some(field) = field {
        let value = kv.data.0.get(&field).ok_or_else(|| {
            let known: Vec<_> = kv.data.0.keys().map(String::as_str).collect();
            Failure::new(Exit::NotFound, format!("{path} has no field {field:?}"))
                .hint(format!("--field takes one of {}", known.join(", ")))
        })?;
        session.screen.bytes(value.as_bytes())?;
        // A prompt stands on a line of its own; a pipe gets the value and nothing else.
        if std::io::stdout().is_terminal() && !value.ends_with('\n') {
            session.screen.bytes(b"\n")?;
        }
        return Ok(Exit::Ok);
    }
    if format == Format::Json {
        return session.screen.json(&kv).map(|()| Exit::Ok);
    }
    session.screen.say(&format!("version {}, written {}", kv.version, time(kv.written_ms)));
    let pairs: Vec<_> = kv.data.0.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    session.screen.texts(&pairs)?;
    Ok(Exit::Ok)
}

async fn list(
    session: &Session<'_>,
    below: Option<&SecretPath>,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (mut names, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = client.kv_list(below, after.as_deref(), Some(PAGE)).await?;
        names.extend(page.names);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    names.sort();
    if format == Format::Json {
        return session.screen.json(&KvNames { names, next: None }).map(|()| Exit::Ok);
    }
    names.iter().try_for_each(|name| session.screen.line(name))?;
    Ok(Exit::Ok)
}
