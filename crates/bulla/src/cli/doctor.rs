//! `bulla doctor`: what is wrong between a user and a cluster, or on a server's machine.
//!
//! What is there is observed in `client` and `server`; what it means is said by functions over values in `judge` and
//! `machine`. A check that fails stops no other; what cannot be looked at without it is left out.

mod client;
mod judge;
mod machine;
mod server;

use super::Variables;
use super::server::Flags;
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs};
use crate::session::Session;
use clap::Args;
use serde::Serialize;

/// What to do about a failure that brings no hint of its own.
const AGAIN: &str = "mend what the message names, then run `bulla doctor` again";

/// Find what is wrong between you and the cluster, or on a server's machine
///
/// Prints one line for each check: OK, WARN or FAIL, and what was found; under each WARN and FAIL what to do. Ends with
/// 1 if a check failed. Nothing is changed, and a server is not disturbed.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Look at this machine as a server's: configuration, files, disks, audit log
    #[arg(long)]
    server: bool,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten, next_help_heading = "With --server, as of `bulla server`")]
    flags: Flags,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// What was found; lower case, no full stop.
    pub found: String,
    /// What to do about it: there for all but `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), hint: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), hint: Some(hint.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), hint: Some(hint.into()) }
    }

    /// What was tried failed.
    fn failed(name: &'static str, failure: &Failure) -> Self {
        let hint = if failure.hints.is_empty() { AGAIN.to_owned() } else { failure.hints.join("; ") };
        Self::fail(name, failure.message.clone(), hint)
    }
}

pub async fn run(args: Doctor, session: &Session<'_>, variables: Variables) -> Result<Exit, Failure> {
    let Doctor { server, format, flags } = args;
    let checks = if server {
        server::checks(&flags.config(variables)?)
    } else if flags == Flags::default() {
        Box::pin(client::checks(session)).await
    } else {
        return Err(Failure::usage("options of a server are given, and it is not to be looked at").hint("add --server"));
    };
    show(&checks, format, session)
}

/// Prints checks, and ends with 1 if one failed.
pub(super) fn show(checks: &[Check], format: FormatArgs, session: &Session<'_>) -> Result<Exit, Failure> {
    match format.format {
        Format::Json => session.screen.json(&checks)?,
        Format::Table => lines(checks).iter().try_for_each(|line| session.screen.line(line))?,
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn lines(checks: &[Check]) -> Vec<String> {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for Check { name, verdict, found, hint } in checks {
        let word = match verdict {
            Verdict::Ok => "OK",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        lines.push(format!("{word:4}  {name:width$}  {found}"));
        lines.extend(hint.as_ref().map(|hint| format!("{:4}  {:width$}  hint: {hint}", "", "")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_under_what_needs_one() {
        let checks = [Check::ok("clock", "right"), Check::fail("tls", "gone", "come back")];
        let wanted = ["OK    clock  right", "FAIL  tls    gone", "             hint: come back"];
        assert_eq!(lines(&checks), wanted);
        let json = serde_json::to_value(&checks).unwrap();
        assert_eq!(json[0], serde_json::json!({ "name": "clock", "verdict": "ok", "found": "right" }));
        assert_eq!(json[1]["hint"], "come back");
    }

    #[test]
    fn no_failure_is_told_without_a_hint() {
        let check = Check::failed("x", &Failure::new(Exit::Failed, "no"));
        assert!(check.hint.is_some_and(|hint| hint == AGAIN));
    }
}
