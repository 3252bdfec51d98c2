//! What shows and changes a secret without its content.

use super::{Metadata, Versions, seconds};
use crate::exit::{Exit, Failure, told};
use crate::fields;
use crate::input::Limit;
use crate::names::Names;
use crate::output::{Format, FormatArgs, time, word};
use crate::session::Session;
use bulla_client::{Client, ClientError, Untrusted};
use bulla_wire::api::{DestroyKv, KvMetadata, KvVersions, KvWatched, SetKvSettings};
use bulla_wire::error::Code;
use bulla_wire::id::PrincipalId;
use bulla_wire::json::StrictMap;
use bulla_wire::name::SecretPath;
use std::time::Duration;
use tokio::time::sleep;

pub async fn show(session: &Session<'_>, path: &SecretPath, format: FormatArgs) -> Result<Exit, Failure> {
    let metadata = session.client()?.kv_metadata(path).await?;
    versions(session, &metadata, format).await
}

async fn versions(
    session: &Session<'_>,
    metadata: &KvMetadata,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    if format == Format::Json {
        return session.screen.json(metadata).map(|()| Exit::Ok);
    }
    let mut names = Names::new(&session.client()?);
    let mut rows = Vec::with_capacity(metadata.versions.len());
    for version in &metadata.versions {
        rows.push(vec![
            version.version.to_string(),
            time(version.written_ms),
            names.short(&version.by).await,
            word(&version.state),
            readers_of(&version.readers, &mut names).await,
            version.since_ms.or(version.expires_ms).map_or_else(String::new, |at_ms| match version.since_ms {
                Some(_) => format!("since {}", time(at_ms)),
                None => format!("until {}", time(at_ms)),
            }),
        ]);
    }
    session.screen.table(&["VERSION", "WRITTEN", "BY", "STATE", "READERS", ""], &rows)?;
    Ok(Exit::Ok)
}

/// How long the server may keep a watch waiting.
const WAIT: Duration = Duration::from_secs(30);
/// Between two questions to a server that does not answer: a restart takes about a second, and nobody asks in vain all the time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

pub async fn watch(
    session: &Session<'_>,
    path: &SecretPath,
    once: bool,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut known = client.kv_watch(path, None, WAIT).await?;
    let mut tell = !once;
    while !session.screen.is_unread() {
        if tell {
            match (format, &known.state) {
                (Format::Json, _) => session.screen.json(&known)?,
                (_, Some(state)) => session.screen.line(&format!("version {} {}", known.version, word(state)))?,
                (_, None) => session.screen.line("no version")?,
            }
            if once {
                break;
            }
        }
        let now = changed(session, &client, &known).await?;
        tell = now.mark != known.mark;
        known = now;
    }
    Ok(Exit::Ok)
}

/// Asks what became of what is known. While no server answers, or it is sealed, it asks again and again: by its mark it
/// learns then what was written meanwhile.
async fn changed(session: &Session<'_>, client: &Client, known: &KvWatched) -> Result<KvWatched, Failure> {
    let mut pause = None::<Duration>;
    loop {
        let error = match client.kv_watch(&known.path, Some(&known.mark), WAIT).await {
            Ok(now) => return Ok(now),
            Err(error) if passes(&error) => error,
            Err(error) => return Err(error.into()),
        };
        let next = pause.map_or(FIRST_PAUSE, |pause| pause.saturating_mul(2).min(LONGEST_PAUSE));
        if pause.replace(next).is_none() {
            session.screen.warn(&format!("{}; waiting until the server tells", told(&error)));
        }
        sleep(next).await;
    }
}

/// Whether who waits for a change may wait for the end of this failure too.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        // What a proxy says while the server behind it is away.
        ClientError::Untrusted(Untrusted::Unsigned { status, .. }) => (502..=504).contains(status),
        _ => error
            .code()
            .is_some_and(|code| matches!(code, Code::Sealed | Code::Busy | Code::Overloaded | Code::AuditBlocked)),
    }
}

/// Who can open it, by name; for what the server reads, whoever policy lets.
pub async fn readers_of(readers: &[PrincipalId], names: &mut Names) -> String {
    if readers.is_empty() {
        return "by policy".to_owned();
    }
    let mut shown = Vec::with_capacity(readers.len());
    for reader in readers {
        shown.push(names.short(reader).await);
    }
    shown.join(",")
}

fn numbers(version: Vec<u64>) -> Option<Vec<u64>> {
    (!version.is_empty()).then_some(version)
}

pub async fn delete(session: &Session<'_>, args: Versions) -> Result<Exit, Failure> {
    let body = KvVersions { versions: numbers(args.version) };
    let metadata = session.client()?.kv_delete(&args.path, &body).await?;
    versions(session, &metadata, args.format).await
}

pub async fn undelete(session: &Session<'_>, args: Versions) -> Result<Exit, Failure> {
    let body = KvVersions { versions: numbers(args.version) };
    let metadata = session.client()?.kv_undelete(&args.path, &body).await?;
    versions(session, &metadata, args.format).await
}

pub async fn destroy(
    session: &Session<'_>,
    path: &SecretPath,
    version: Vec<u64>,
    all: bool,
    format: FormatArgs,
) -> Result<Exit, Failure> {
    let body = DestroyKv { versions: numbers(version), all };
    let metadata = session.client()?.kv_destroy(path, &body).await?;
    if all && format.format == Format::Table {
        session.screen.say(&format!("{path} is destroyed"));
        return Ok(Exit::Ok);
    }
    versions(session, &metadata, format).await
}

pub async fn metadata(session: &Session<'_>, command: Metadata) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (metadata, FormatArgs { format }) = match command {
        Metadata::Get { path, format } => (client.kv_metadata(&path).await?, format),
        Metadata::Set { path, max_versions, cas_required, ttl, custom, remove_custom, format } => {
            let mut entries: std::collections::BTreeMap<_, _> =
                fields::read(&custom, Limit::VALUE)?.0.into_iter().map(|(key, value)| (key, Some(value))).collect();
            entries.extend(remove_custom.into_iter().map(|key| (key, None)));
            let custom = (!entries.is_empty()).then_some(StrictMap(entries));
            let body = SetKvSettings { max_versions, cas_required, ttl_s: seconds(ttl), custom };
            (client.kv_configure(&path, &body).await?, format)
        }
    };
    if format == Format::Json {
        return session.screen.json(&metadata).map(|()| Exit::Ok);
    }
    let settings = &metadata.settings;
    let ttl = match settings.ttl_s {
        0 => "never".to_owned(),
        ttl_s => format!("after {}", humantime::format_duration(Duration::from_secs(ttl_s))),
    };
    let mut pairs = vec![
        ("newest version", metadata.version.to_string()),
        ("versions kept", settings.max_versions.to_string()),
        ("writes need --cas", if settings.cas_required { "yes" } else { "no" }.to_owned()),
        ("versions expire", ttl),
    ];
    pairs.extend(settings.custom.0.iter().map(|(key, value)| (key.as_str(), value.clone())));
    session.screen.pairs(&pairs)?;
    Ok(Exit::Ok)
}
