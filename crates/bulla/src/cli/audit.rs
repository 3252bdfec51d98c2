//! `bulla audit` and `bulla alarms`: what happened.

use crate::exit::{Exit, Failure};
use crate::names::Names;
use crate::output::{Format, FormatArgs, time, word};
use crate::session::Session;
use bulla_client::AuditOf;
use bulla_core::audit::Class;
use bulla_server::sink::{self, Expectations};
use bulla_wire::api::{Alarm, Alarms as Page};
use bulla_wire::id::{ClusterId, KeyId, PrincipalId};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::PathBuf;

/// Lines of a page.
const PAGE: u32 = 500;
/// What every line has beside its own fields: said at its beginning, or of no use to a reader.
const FRAME: [&str; 5] = ["v", "n", "prev", "at_ms", "kind"];

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Print lines of the audit log, oldest first
    Show(Show),
    /// Verify audit files, without a server: the chain, the numbers and the order; ends with 4 if something is wrong
    Verify(Verify),
}

/// A principal's name or id on the command line; the server takes either.
fn name_or_id(text: &str) -> Result<String, String> {
    match text.parse::<PrincipalId>() {
        Ok(id) => Ok(id.to_string()),
        Err(_) => super::name(text).map(|name| name.to_string()),
    }
}

#[derive(Debug, Args)]
pub struct Show {
    /// Only lines about this resource, such as kv/app/db
    resource: Option<String>,
    /// Only lines of this principal, by name or id
    #[arg(long, value_name = "NAME", value_parser = name_or_id)]
    principal: Option<String>,
    /// Only lines of this action, such as kv.get
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only lines after this number
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// A directory of audit files, or one file
    #[arg(long, value_name = "PATH")]
    file: PathBuf,
    /// The log must be of this node; repeated for each that a change of the node's key left in it
    #[arg(long, value_name = "ID")]
    node: Vec<KeyId>,
    /// The log must be of this cluster
    #[arg(long, value_name = "ID")]
    of_cluster: Option<ClusterId>,
    /// The log must begin with its first line; otherwise older files may have been put away
    #[arg(long)]
    whole: bool,
    #[command(flatten)]
    format: FormatArgs,
}

/// Read your alarms
///
/// Marks what it prints as seen only with --seen.
#[derive(Debug, Args)]
pub struct Alarms {
    /// Print those that you have seen too
    #[arg(long)]
    all: bool,
    /// Mark what is printed as seen
    #[arg(long)]
    seen: bool,
    #[command(flatten)]
    format: FormatArgs,
}

pub async fn run(command: Audit, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Audit::Show(args) => show(session, args).await,
        Audit::Verify(args) => verify(session, args),
    }
}

async fn show(session: &Session<'_>, args: Show) -> Result<Exit, Failure> {
    let Show { resource, principal, action, after, format: FormatArgs { format } } = args;
    let client = session.client()?;
    let of = AuditOf { resource, principal, action };
    let mut after = after.map(|after| after.to_string());
    loop {
        let page = client.audit(after.as_deref(), Some(PAGE), &of).await?;
        for line in &page.lines {
            match format {
                Format::Json => session.screen.line(line)?,
                Format::Table => session.screen.line(&readable(line))?,
            }
        }
        match page.next {
            // Whoever reads the head of the log alone got what it wanted.
            Some(next) if !session.screen.is_unread() => after = Some(next),
            _ => return Ok(Exit::Ok),
        }
    }
}

/// A line of the log for people. What is not a request is told by its kind and its fields, each of which is different.
fn readable(line: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("-");
    let number = |name: &str| value.get(name).and_then(Value::as_u64).unwrap_or_default();
    if text("kind") != "request" {
        let mut told = format!("{:>6}  {}  {}", number("n"), time(number("at_ms")), text("kind"));
        for (name, field) in value.as_object().into_iter().flatten().filter(|(name, _)| !FRAME.contains(&name.as_str()))
        {
            tell(name, field, &mut told);
        }
        return told;
    }
    let status =
        value.get("status").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |status| status.to_string());
    let (name, action) = (text("name"), text("action"));
    let mut resource = text("resource").to_owned();
    for name in ["demanded", "wrap_to"] {
        if let Some(more) = value.get(name) {
            tell(name, more, &mut resource);
        }
    }
    let code = value.get("code").and_then(Value::as_str).map(|code| format!(" {code}")).unwrap_or_default();
    let at = time(number("received_ms"));
    let how = if value.get("mtls").is_some() { " by mtls" } else { "" };
    format!("{:>6}  {at}  {name}  {action}  {resource}  {status}{code}  from {}{how}", number("n"), text("address"))
}

/// A field as `name=value`, and what is inside of it as `name.inner=value`.
fn tell(name: &str, field: &Value, told: &mut String) {
    let value = match field {
        Value::Object(inner) => {
            for (more, field) in inner {
                tell(&format!("{name}.{more}"), field, told);
            }
            return;
        }
        Value::Array(all) => all.iter().map(bare).collect::<Vec<_>>().join(","),
        Value::Number(number) if name.ends_with("_ms") => number.as_u64().map_or_else(|| number.to_string(), time),
        other => bare(other),
    };
    told.push_str(&format!("  {name}={value}"));
}

/// A text without its quotes, as long as it stays one word.
fn bare(value: &Value) -> String {
    match value.as_str() {
        Some(text) if text.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != ',') => text.to_owned(),
        _ => value.to_string(),
    }
}

fn verify(session: &Session<'_>, args: Verify) -> Result<Exit, Failure> {
    let Verify { file, node, of_cluster, whole, format } = args;
    let expected = Expectations { head: None, nodes: node, cluster: of_cluster, whole };
    let report = sink::verify(&file, expected).map_err(|error| Failure::file("cannot verify", &file, &error))?;
    let exit = if report.is_sound() { Exit::Ok } else { Exit::Untrusted };
    if format.format == Format::Json {
        return session.screen.json(&report).map(|()| exit);
    }
    session.screen.pairs(&[
        ("files", report.files.to_string()),
        ("lines", report.lines.to_string()),
        ("requests", report.requests.to_string()),
        ("written after a crash", report.recovered.to_string()),
        ("outcome unknown", report.unknown.to_string()),
    ])?;
    for (from, to) in &report.tail_lost {
        session.screen.warn(&format!("lines between {} and {} may be missing", time(*from), time(*to)));
    }
    for (file, line) in &report.loss_accepted {
        session
            .screen
            .warn(&format!("{file:06}.jsonl:{line}: an administrator accepted that lines before are missing"));
    }
    for finding in &report.findings {
        session.screen.line(&finding.to_string())?;
    }
    if report.findings_left_off > 0 {
        session.screen.line(&format!("and {} more", report.findings_left_off))?;
    }
    if report.is_sound() {
        session.screen.line("sound")?;
        return Ok(Exit::Ok);
    }
    let failure = Failure::new(Exit::Untrusted, format!("{} is not as its node wrote it", file.display()))
        .hint("each line above names a file, a line in it and what is wrong");
    if report.findings.iter().any(|finding| finding.class == Class::WrongNode) {
        return Err(failure.hint("after a change of the node's key name both nodes, each with a --node"));
    }
    Err(failure)
}

pub async fn alarms(args: Alarms, session: &Session<'_>) -> Result<Exit, Failure> {
    let Alarms { all, seen, format: FormatArgs { format } } = args;
    let client = session.client()?;
    let (mut alarms, mut after) = (Vec::<Alarm>::new(), None::<String>);
    loop {
        let page = client.alarms(after.as_deref(), Some(PAGE), all).await?;
        alarms.extend(page.alarms);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    match format {
        Format::Json => session.screen.json(&Page { alarms: alarms.clone(), next: None })?,
        Format::Table => {
            let mut names = Names::new(&client);
            let mut rows = Vec::with_capacity(alarms.len());
            for alarm in &alarms {
                let by = match &alarm.actor {
                    Some(actor) => names.short(&actor.principal).await,
                    None => String::new(),
                };
                let wrap = alarm.wrap.map(|wrap| wrap.to_string()).unwrap_or_default();
                rows.push(vec![time(alarm.at_ms), word(&alarm.kind), alarm.message.clone(), by, wrap]);
            }
            session.screen.table(&["TIME", "ALARM", "WHAT HAPPENED", "BY", "WRAP"], &rows)?;
        }
    }
    session.alarms_shown();
    // What nobody read is not seen.
    if let (true, Some(last)) = (seen && !session.screen.is_unread(), alarms.last()) {
        client.alarms_seen(&last.id).await?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_any_kind_is_told_in_words() {
        let cases = [
            (r#""kind":"sealed","epoch":3"#, "sealed  epoch=3"),
            (r#""kind":"stop""#, "stop"),
            (
                r#""kind":"anonymous","addresses":["::1","a b"],"from_ms":1000,"route":"GET /v1/seal""#,
                r#"anonymous  addresses=::1,"a b"  from_ms=1970-01-01T00:00:01Z  route="GET /v1/seal""#,
            ),
            (r#""kind":"consent","lost":{"sequence":4}"#, "consent  lost.sequence=4"),
        ];
        for (fields, told) in cases {
            let line = format!(r#"{{"v":1,"n":7,"prev":"sha256:x","at_ms":0,{fields}}}"#);
            assert_eq!(readable(&line), format!("     7  1970-01-01T00:00:00Z  {told}"));
        }
        assert_eq!(readable("no JSON"), "no JSON");
    }

    #[test]
    fn a_request_is_one_readable_line() {
        let line = r#"{"v":1,"n":7,"at_ms":1700000000000,"kind":"request","received_ms":1700000000000,"name":"bob","action":"kv.get","resource":"kv/a","status":403,"code":"denied","address":"127.0.0.1"}"#;
        assert_eq!(readable(line), "     7  2023-11-14T22:13:20Z  bob  kv.get  kv/a  403 denied  from 127.0.0.1");
        let by_mtls = line.replace(r#""address""#, r#""mtls":true,"address""#);
        assert!(readable(&by_mtls).ends_with("from 127.0.0.1 by mtls"));
        assert_eq!(readable("no json"), "no json");
        let line = r#"{"v":1,"n":7,"at_ms":1700000000000,"kind":"request","received_ms":1700000000000,"name":"bob","action":"lease.manage","resource":"lease","demanded":{"resource":"database/app"},"status":200,"address":"127.0.0.1"}"#;
        assert!(
            readable(line).contains("bob  lease.manage  lease  demanded.resource=database/app  200"),
            "{}",
            readable(line)
        );
        let stop = r#"{"v":1,"n":8,"at_ms":0,"kind":"stop"}"#;
        assert_eq!(readable(stop), "     8  1970-01-01T00:00:00Z  stop");
    }
}
