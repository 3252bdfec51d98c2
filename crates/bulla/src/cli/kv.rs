//! `bulla kv`: secrets under paths.

mod history;
mod values;

use values::Seal;

use super::wrap::{WrapTo, made};
use crate::exit::{Exit, Failure};
use crate::fields::Field;
use crate::output::{Format, FormatArgs};
use crate::session::Session;
use bulla_wire::api::KvNames;
use bulla_wire::name::{ParseNameError, SecretPath};
use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Subcommand, value_parser};
use std::path::PathBuf;
use std::time::Duration;

/// Names of a page of the listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Kv {
    /// Write a version; KEY=@FILE and KEY=- keep values out of the list of processes
    Put {
        /// Where, such as app/prod/db
        path: SecretPath,
        /// The fields: KEY=VALUE, KEY=@FILE, KEY=- (standard input)
        #[arg(required_unless_present = "file", conflicts_with = "file", value_name = "FIELD",
              value_parser = Field::demanded)]
        fields: Vec<Field>,
        /// Write the bytes of this file instead of fields; - is standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Encrypt it here to this reader, by name or recipient; repeatable. The server cannot read it then
        #[arg(long, value_name = "WHO")]
        to: Vec<String>,
        /// The server may read it, though the newest version is sealed to its readers
        #[arg(long, conflicts_with = "to")]
        unseal: bool,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Write a version that changes some fields of the newest; it need not be readable to you
    ///
    /// It ends when that one would have, unless --ttl says otherwise.
    Patch {
        /// Where
        path: SecretPath,
        /// The fields that become different: KEY=VALUE, KEY=@FILE, KEY=- (standard input)
        #[arg(required_unless_present = "remove", value_name = "FIELD", value_parser = Field::demanded)]
        fields: Vec<Field>,
        /// Take this field away; repeatable
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Print the newest version, or another
    Get {
        /// Where
        path: SecretPath,
        /// Another version than the newest
        #[arg(long, value_name = "NUMBER", value_parser = number())]
        version: Option<u64>,
        /// Print this field only, as it is
        #[arg(long, value_name = "KEY", conflicts_with = "wrap_to")]
        field: Option<String>,
        #[command(flatten)]
        wrap_to: WrapTo,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the names below a path; a directory ends in /
    List {
        /// Below what; the top if left out
        #[arg(value_parser = directory)]
        path: Option<SecretPath>,
        /// Go down into directories, and print whole paths
        #[arg(long, short)]
        recursive: bool,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show which versions there are, who wrote them, and what became of them
    History {
        /// Where
        path: SecretPath,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Print each new version's number and state until you stop it
    ///
    /// The first line is what lies there now. It waits for the server to tell, so it asks seldom and hears at once. A
    /// version that is deleted, destroyed or expired is a line too. Once it has the first answer it goes on waiting
    /// while the server is down or sealed, and then tells what was written meanwhile.
    Watch {
        /// Where
        path: SecretPath,
        /// Print the next change only, and end
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show which fields differ between two versions
    Diff {
        /// Where
        path: SecretPath,
        /// The older version; the one before the newer if left out
        #[arg(long, value_name = "NUMBER", value_parser = number())]
        from: Option<u64>,
        /// The newer version; the newest if left out
        #[arg(long, value_name = "NUMBER", value_parser = number())]
        to: Option<u64>,
        /// Print the values too
        #[arg(long)]
        values: bool,
    },
    /// Write the content of an earlier version as a new one
    ///
    /// It ends when that one would have, unless --ttl says otherwise, and is sealed to the readers of that one.
    Rollback {
        /// Where
        path: SecretPath,
        /// The version to go back to
        #[arg(long, value_name = "NUMBER", value_parser = number())]
        version: u64,
        /// The server may read it, as it could that version, though the newest one is sealed to its readers
        #[arg(long)]
        unseal: bool,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Seal the newest version anew to these readers; whoever can open it can
    ///
    /// The new version ends when that one would have, unless --ttl says otherwise.
    Share {
        /// Where
        path: SecretPath,
        /// A reader, by name or recipient; repeatable. Who is not named reads no later version
        #[arg(long, value_name = "WHO", required = true)]
        to: Vec<String>,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Make versions unreadable until they are undeleted
    Delete(Versions),
    /// Take deleted versions back
    Undelete(Versions),
    /// Destroy the content of versions for good, or the whole secret
    #[command(group = ArgGroup::new("which").args(["version", "all"]).required(true))]
    Destroy {
        /// Where
        path: SecretPath,
        /// Which version, such as 2 or 2,3; repeatable
        #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = number())]
        version: Vec<u64>,
        /// All versions, the settings and the name itself
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show and change a secret's settings
    #[command(subcommand)]
    Metadata(Metadata),
}

#[derive(Debug, clap::Args)]
pub struct Terms {
    /// Only if this is the version there now; 0: only if there is none
    #[arg(long, value_name = "VERSION")]
    cas: Option<u64>,
    /// Destroy the version after this time, such as 12h; 0s: never
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub struct Versions {
    /// Where
    path: SecretPath,
    /// Which version, such as 2 or 2,3; repeatable; the newest if left out
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = number())]
    version: Vec<u64>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Subcommand)]
pub enum Metadata {
    /// Show the settings and the custom metadata
    Get {
        /// Where
        path: SecretPath,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Change some of them; the secret need not have a version yet
    Set {
        /// Where
        path: SecretPath,
        /// How many versions are kept, 1 to 100
        #[arg(long, value_name = "NUMBER")]
        max_versions: Option<u32>,
        /// Whether each write must give --cas
        #[arg(long, value_name = "BOOL")]
        cas_required: Option<bool>,
        /// After which time a version is destroyed unless its write says otherwise; 0s: never
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// Words that whoever may see the history sees: KEY=VALUE; repeatable
        #[arg(long, value_name = "FIELD", value_parser = Field::demanded)]
        custom: Vec<Field>,
        /// Take this entry of the custom metadata away; repeatable
        #[arg(long, value_name = "KEY")]
        remove_custom: Vec<String>,
        #[command(flatten)]
        format: FormatArgs,
    },
}

pub async fn run(command: Kv, session: &Session<'_>) -> Result<Exit, Failure> {
    carried_out(command, session).await.map_err(|failure| {
        // So `run`, `policy check` and these messages themselves write it, but not these commands.
        match failure.message.contains("kv/kv/") {
            true => failure.hint("paths of `bulla kv` are below kv/ already: leave out the first kv/"),
            false => failure,
        }
    })
}

async fn carried_out(command: Kv, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Kv::Put { path, fields, file, to, unseal, terms, format } => {
            let content = values::typed(&fields, file)?;
            let seal = if to.is_empty() { Seal::Open { unseal } } else { Seal::To(to) };
            values::put(session, &path, content, &seal, &terms, format).await
        }
        Kv::Share { path, to, terms, format } => values::share(session, &path, &to, &terms, format).await,
        Kv::Patch { path, fields, remove, terms, format } => {
            values::patch(session, &path, &fields, remove, &terms, format).await
        }
        Kv::Get { path, version, field, wrap_to, format } => match wrap_to.outgoing(session).await? {
            Some(outgoing) => made(session, &session.client()?.kv_get_to(&path, version, outgoing).await?, format),
            None => values::get(session, &path, version, field, format).await,
        },
        Kv::List { path, recursive: false, format } => list(session, path.as_ref(), format).await,
        Kv::List { path, recursive: true, format } => list_all(session, path, format).await,
        Kv::History { path, format } => history::show(session, &path, format).await,
        Kv::Watch { path, once, format } => history::watch(session, &path, once, format).await,
        Kv::Diff { path, from, to, values } => values::diff(session, &path, from, to, values).await,
        Kv::Rollback { path, version, unseal, terms, format } => {
            values::rollback(session, &path, version, unseal, &terms, format).await
        }
        Kv::Delete(versions) => history::delete(session, versions).await,
        Kv::Undelete(versions) => history::undelete(session, versions).await,
        Kv::Destroy { path, version, all, format } => history::destroy(session, &path, version, all, format).await,
        Kv::Metadata(command) => history::metadata(session, command).await,
    }
}

/// A version's number: they begin with 1.
fn number() -> RangedU64ValueParser<u64> {
    value_parser!(u64).range(1..)
}

/// A directory, also as a listing shows it: with a slash behind.
fn directory(text: &str) -> Result<SecretPath, ParseNameError> {
    text.strip_suffix('/').unwrap_or(text).parse()
}

/// The names in one directory.
async fn names(session: &Session<'_>, below: Option<&SecretPath>) -> Result<Vec<String>, Failure> {
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
    Ok(names)
}

async fn list(
    session: &Session<'_>,
    below: Option<&SecretPath>,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let names = names(session, below).await?;
    if format == Format::Json {
        return session.screen.json(&KvNames { names, next: None }).map(|()| Exit::Ok);
    }
    names.iter().try_for_each(|name| session.screen.line(name))?;
    Ok(Exit::Ok)
}

/// Each directory is asked for by itself, and policy is asked for each: what may not be listed is told and left out.
async fn list_all(
    session: &Session<'_>,
    below: Option<SecretPath>,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let (mut paths, mut exit) = (Vec::new(), Exit::Ok);
    let mut waiting = vec![below];
    while let Some(directory) = waiting.pop() {
        let here = match names(session, directory.as_ref()).await {
            Err(Failure { exit: Exit::Denied, .. }) if directory.is_some() => {
                let directory = directory.map_or_else(String::new, |path| path.to_string());
                session.screen.warn(&format!("{directory}/ is left out: policy does not permit to list it"));
                exit = Exit::Denied;
                continue;
            }
            here => here?,
        };
        let mut deeper = Vec::new();
        for name in here {
            let whole = directory.as_ref().map_or_else(|| name.clone(), |path| format!("{path}/{name}"));
            match whole.strip_suffix('/') {
                Some(directory) => deeper.push(Some(parsed(directory)?)),
                None if format == Format::Json => paths.push(whole),
                None => session.screen.line(&whole)?,
            }
        }
        // The first of them is the next to be looked into.
        waiting.extend(deeper.into_iter().rev());
    }
    if format == Format::Json {
        session.screen.json(&KvNames { names: paths, next: None })?;
    }
    Ok(exit)
}

fn parsed(path: &str) -> Result<SecretPath, Failure> {
    path.parse().map_err(|error| {
        Failure::new(Exit::Failed, format!("the server names a directory {path:?}: {error}"))
            .hint("compare `bulla version` with the version that `bulla status` shows")
    })
}

/// Seconds of a time that was typed.
fn seconds(time: Option<Duration>) -> Option<u64> {
    // What is shorter than a second and not nothing must not become never.
    time.map(|time| time.as_secs() + u64::from(time.subsec_nanos() > 0))
}
