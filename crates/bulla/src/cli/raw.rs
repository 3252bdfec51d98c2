//! `bulla curl`: any request, signed.

use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::output::plain_json;
use crate::session::Session;
use clap::Args;
use serde::de::IgnoredAny;
use std::io::IsTerminal as _;

/// Sign any request, send it, and print the answer
///
/// The answer's signature is verified before it is printed. Bodies with secrets, such as those of PUT /v1/kv/…, are
/// encrypted to the cluster first. What the cluster encrypts to you is printed as it came: an age file.
#[derive(Debug, Args)]
pub struct Curl {
    /// GET, PUT, PATCH, POST or DELETE
    #[arg(value_parser = ["GET", "PUT", "PATCH", "POST", "DELETE"], ignore_case = true)]
    method: String,
    /// Path and query, such as /v1/whoami or '/v1/wrap?limit=10'
    path: String,
    /// The body: JSON, @FILE, or @- for standard input
    #[arg(short, long, value_name = "BODY")]
    data: Option<String>,
}

pub async fn run(args: Curl, session: &Session<'_>) -> Result<Exit, Failure> {
    let Curl { method, path, data } = args;
    let body = data.as_deref().map(body_of).transpose()?;
    let (path, query) = path.split_once('?').unwrap_or((path.as_str(), ""));
    let answer = session.client()?.request(&method.to_uppercase(), path, query, body).await?;
    let json = answer.media == bulla_wire::signature::JSON_MEDIA_TYPE;
    if std::io::stdout().is_terminal() {
        // A server may call anything JSON.
        let text = std::str::from_utf8(&answer.body).ok().filter(|_| json);
        if let Some(text) = text.filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok()) {
            session.screen.bytes(format!("{}\n", plain_json(text)).as_bytes())?;
            return Ok(Exit::Ok);
        }
        return Err(Failure::new(
            Exit::Failed,
            format!("the answer of type {} is no JSON, and standard output is a terminal", answer.media),
        )
        .hint("send it to a file or a program, such as age -d -i FILE"));
    }
    session.screen.bytes(&answer.body)?;
    if json {
        session.screen.bytes(b"\n")?;
    }
    Ok(Exit::Ok)
}

fn body_of(text: &str) -> Result<Vec<u8>, Failure> {
    match text.strip_prefix('@') {
        None => Ok(text.as_bytes().to_vec()),
        Some(path) => input::file(path.as_ref(), Limit::BODY),
    }
}
