//! What reads and writes the content of secrets.

use super::history::readers_of;
use super::{Terms, seconds};
use crate::exit::{Exit, Failure};
use crate::fields::{self, Field};
use crate::input::{self, Limit};
use crate::names::Names;
use crate::output::{Format, FormatArgs, time};
use crate::session::Session;
use crate::value::{Version, version_of};
use bulla_client::{Client, Resolved, SealTerms};
use bulla_wire::api::{Kv, KvMetadata, KvWritten, PatchKv, PutKv};
use bulla_wire::encoding::Base64;
use bulla_wire::error::Code;
use bulla_wire::id::PrincipalId;
use bulla_wire::json::StrictMap;
use bulla_wire::kv::KvContent;
use bulla_wire::name::SecretPath;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

/// The content that was given on the command line.
pub fn typed(fields: &[Field], file: Option<PathBuf>) -> Result<KvContent, Failure> {
    Ok(match file {
        Some(file) => KvContent { bytes: Some(Base64(input::file(&file, Limit::VALUE)?)), data: None },
        None => KvContent { data: Some(fields::read(fields, Limit::VALUE)?), bytes: None },
    })
}

/// Who can read a version.
pub enum Seal {
    /// The server, and whom policy lets; also where `unseal` says so of what was sealed.
    Open { unseal: bool },
    /// These readers alone.
    To(Vec<String>),
}

/// Terms for a sealed version that ends as another one does whose content it has, unless they say otherwise.
fn seal_terms(terms: &Terms, ends_ms: Option<u64>) -> SealTerms {
    let ttl_s = seconds(terms.ttl);
    SealTerms { cas: terms.cas, ttl_s, expires_ms: ends_ms.filter(|_| ttl_s.is_none()) }
}

pub async fn put(
    session: &Session<'_>,
    path: &SecretPath,
    content: KvContent,
    seal: &Seal,
    terms: &Terms,
    format: FormatArgs,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let to = match seal {
        Seal::To(to) => to,
        Seal::Open { unseal } => {
            let KvContent { data, bytes } = content;
            let (cas, ttl_s, unseal) = (terms.cas, seconds(terms.ttl), *unseal);
            let body = PutKv { data, bytes, cas, ttl_s, unseal, ..PutKv::default() };
            return told(session, path, &client.kv_put(path, &body).await?, format);
        }
    };
    let newest = match terms.cas {
        Some(cas) => cas,
        None => newest(&client, path).await?,
    };
    let readers = resolved(&client, to).await?;
    let terms = seal_terms(terms, None);
    told(session, path, &client.kv_put_sealed(path, newest, &readers, &content, terms).await?, format)
}

/// The newest version; 0 if there is nothing.
async fn newest(client: &Client, path: &SecretPath) -> Result<u64, Failure> {
    match client.kv_metadata(path).await {
        Ok(metadata) => Ok(metadata.version),
        Err(error) if error.proven() == Some(Code::NotFound) => Ok(0),
        Err(error) if error.code() == Some(Code::Denied) => {
            Err(Failure::from(error).hint("or give the version that it replaces yourself: --cas, 0 for a new secret"))
        }
        Err(error) => Err(error.into()),
    }
}

async fn resolved(client: &Client, names: &[String]) -> Result<Vec<Resolved>, Failure> {
    let mut readers: Vec<Resolved> = Vec::with_capacity(names.len());
    for name in names {
        let reader = client.resolve(name).await?;
        // By another name, too: who stands there twice reads it all the same.
        if readers.iter().all(|known| known.principal() != reader.principal()) {
            readers.push(reader);
        }
    }
    Ok(readers)
}

pub async fn share(
    session: &Session<'_>,
    path: &SecretPath,
    to: &[String],
    terms: &Terms,
    format: FormatArgs,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let Version { kv, content, .. } = version_of(&client, path, None).await?;
    let readers = resolved(&client, to).await?;
    let terms = seal_terms(terms, kv.expires_ms);
    told(session, path, &client.kv_put_sealed(path, kv.version, &readers, &content, terms).await?, format)
}

pub async fn patch(
    session: &Session<'_>,
    path: &SecretPath,
    fields: &[Field],
    remove: Vec<String>,
    terms: &Terms,
    format: FormatArgs,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut data: BTreeMap<_, _> =
        fields::read(fields, Limit::VALUE)?.0.into_iter().map(|(key, value)| (key, Some(value))).collect();
    for key in remove {
        if data.insert(key.clone(), None).is_some() {
            let message = format!("the field {key:?} is both given and removed");
            return Err(Failure::usage(message).hint("give it once"));
        }
    }
    let body = PatchKv { data: StrictMap(data), cas: terms.cas, ttl_s: seconds(terms.ttl) };
    let written = client.kv_patch(path, &body).await?;
    told(session, path, &written, format)
}

fn told(
    session: &Session<'_>,
    path: &SecretPath,
    written: &KvWritten,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    if format == Format::Json {
        return session.screen.json(written).map(|()| Exit::Ok);
    }
    let until = written.expires_ms.map_or_else(String::new, |at_ms| format!(", until {}", time(at_ms)));
    session.screen.say(&format!("{path} has version {} now{until}", written.version));
    Ok(Exit::Ok)
}

pub async fn get(
    session: &Session<'_>,
    path: &SecretPath,
    version: Option<u64>,
    field: Option<String>,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let Version { kv, content, sealed } = version_of(&session.client()?, path, version).await?;
    if let Some(field) = field {
        return print(session, crate::value::value(path, &content, Some(&field))?);
    }
    if format == Format::Json {
        // As the API answers, with the content where it would be had it not been sealed.
        return session.screen.json(&Kv { data: content.data, bytes: content.bytes, ..kv }).map(|()| Exit::Ok);
    }
    let by = sealed.map_or_else(String::new, |(writer, _)| format!(" by {}, sealed to its readers", writer.name()));
    let until = kv.expires_ms.map_or_else(String::new, |at_ms| format!(", until {}", time(at_ms)));
    session.screen.say(&format!("version {}, written {}{by}{until}", kv.version, time(kv.written_ms)));
    if let Some(Base64(bytes)) = &content.bytes {
        return print(session, bytes);
    }
    let data = content.data.map(|data| data.0).unwrap_or_default();
    let pairs: Vec<_> = data.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    session.screen.texts(&pairs)?;
    Ok(Exit::Ok)
}

/// Prints a value as it is. A prompt stands on a line of its own; a pipe gets the value and nothing else.
fn print(session: &Session<'_>, value: &[u8]) -> Result<Exit, Failure> {
    let terminal = io::stdout().is_terminal();
    if terminal && !crate::cli::open::is_text(value) {
        return Err(Failure::usage("the value is no text, and standard output is a terminal")
            .hint("send it to a file or a program, such as with > FILE"));
    }
    session.screen.bytes(value)?;
    if terminal && !value.ends_with(b"\n") {
        session.screen.bytes(b"\n")?;
    }
    Ok(Exit::Ok)
}

pub async fn rollback(
    session: &Session<'_>,
    path: &SecretPath,
    version: u64,
    unseal: bool,
    terms: &Terms,
    format: FormatArgs,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let known = client.kv_metadata(path).await?;
    if known.settings.cas_required && terms.cas.is_none() {
        let message = "cas_required: this secret's settings demand --cas";
        let hint = format!("the version is {0}: if that is what you saw, --cas {0}", known.version);
        return Err(Failure::new(Exit::Conflict, message).hint(hint));
    }
    // Whoever writes in between is not overwritten.
    let newest = terms.cas.unwrap_or(known.version);
    let Version { kv, content, sealed } = version_of(&client, path, Some(version)).await?;
    let terms = seal_terms(terms, kv.expires_ms);
    let ids = sealed.map(|(_, ids)| ids).unwrap_or_default();
    let written = if ids.is_empty() {
        let (KvContent { data, bytes }, SealTerms { ttl_s, expires_ms, .. }) = (content, terms);
        let body = PutKv { data, bytes, cas: Some(newest), ttl_s, expires_ms, unseal, ..PutKv::default() };
        client.kv_put(path, &body).await?
    } else {
        let mut readers = Vec::with_capacity(ids.len());
        for id in &ids {
            readers.push(client.resolve_id(id).await?);
        }
        client.kv_put_sealed(path, newest, &readers, &content, terms).await?
    };
    let exit = told(session, path, &written, format)?;
    tell_readers(session, &client, &known, written.version, &ids).await;
    Ok(exit)
}

/// Says who can open the new version if others could open the one before: a reader that somebody took away on purpose may be
/// back.
async fn tell_readers(session: &Session<'_>, client: &Client, before: &KvMetadata, version: u64, now: &[PrincipalId]) {
    let newest = before.versions.iter().find(|known| known.version == before.version);
    let then = newest.map(|known| known.readers.as_slice()).unwrap_or_default();
    if then.iter().collect::<BTreeSet<_>>() == now.iter().collect() {
        return;
    }
    let mut names = Names::new(client);
    let (now, then) = (readers_of(now, &mut names).await, readers_of(then, &mut names).await);
    session
        .screen
        .warn(&format!("readers of version {version}: {now}; of version {} they were: {then}", before.version));
}

pub async fn diff(
    session: &Session<'_>,
    path: &SecretPath,
    from: Option<u64>,
    to: Option<u64>,
    values: bool,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let newer = version_of(&client, path, to).await?;
    let Some(before) = from.or_else(|| newer.kv.version.checked_sub(1).filter(|before| *before > 0)) else {
        return Err(Failure::new(Exit::NotFound, format!("{path} has one version only"))
            .hint(format!("`bulla kv history {path}` shows its versions")));
    };
    let older = version_of(&client, path, Some(before)).await?;
    session.screen.say(&format!("version {} to version {}", older.kv.version, newer.kv.version));
    for line in changes(&older.content, &newer.content, values) {
        session.screen.line(&line)?;
    }
    Ok(Exit::Ok)
}

/// What differs, a line each: `-` is gone, `+` is new, `~` has another value.
fn changes(older: &KvContent, newer: &KvContent, values: bool) -> Vec<String> {
    if older.bytes.is_some() || newer.bytes.is_some() {
        let same = older.bytes == newer.bytes;
        return if same { Vec::new() } else { vec!["~ (bytes)".to_owned()] };
    }
    let fields = |content: &KvContent| content.data.clone().map(|data| data.0).unwrap_or_default();
    let (old, new) = (fields(older), fields(newer));
    let shown = |sign: char, name: &str, value: &str| match values {
        true => format!("{sign} {name}={value}"),
        false => format!("{sign} {name}"),
    };
    let mut lines = Vec::new();
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) if before != after && values => {
                lines.push(shown('-', name, before));
                lines.push(shown('+', name, after));
            }
            (Some(before), Some(after)) if before != after => lines.push(shown('~', name, "")),
            (Some(before), None) => lines.push(shown('-', name, before)),
            (None, Some(after)) => lines.push(shown('+', name, after)),
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(fields: &[(&str, &str)]) -> KvContent {
        let data = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        KvContent { data: Some(StrictMap(data)), bytes: None }
    }

    #[test]
    fn a_difference_tells_values_only_if_asked() {
        let (old, new) =
            (content(&[("a", "1"), ("b", "2"), ("c", "3")]), content(&[("a", "1"), ("b", "x"), ("d", "4")]));
        assert_eq!(changes(&old, &new, false), ["~ b", "- c", "+ d"]);
        assert_eq!(changes(&old, &new, true), ["- b=2", "+ b=x", "- c=3", "+ d=4"]);
        assert!(changes(&old, &old, true).is_empty());
    }
}
