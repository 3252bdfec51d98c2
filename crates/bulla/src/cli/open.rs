//! `bulla open`: a wrap, once.

use super::wrap::{proven, whence};
use crate::exit::{Exit, Failure, told};
use crate::keys::key_source;
use crate::output::{Screen, time};
use crate::session::Session;
use bulla_client::{Client, ClientError, FileOutput, MemoryOutput, Opened, Output};
use bulla_keys::KeySource;
use bulla_wire::error::Code;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::wrap::{ReceiptKind, Slip};
use clap::Args;
use serde::Deserialize;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

/// Open a wrap: it works once
///
/// Verifies who wrote it, opens it, decrypts it, and tells the cluster that it arrived only once the output is safe.
/// If something breaks before that, run the same command again: it goes on where it was. After that it is gone.
#[derive(Debug, Args)]
pub struct Open {
    /// The slip that the writer gave you
    slip: Slip,
    /// Write the content to this new file, with mode 0600; otherwise to standard output
    #[arg(short = 'o', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write the encrypted file as it is, to be decrypted elsewhere with age or rage
    #[arg(long)]
    raw: bool,
    /// Write only this field of a content that was made from KEY=VALUE
    #[arg(long, value_name = "KEY", conflicts_with = "raw")]
    field: Option<String>,
    /// A key that you had before, for a wrap made to it: an identity file, SSH private key or token; may be repeated
    #[arg(long, value_name = "KEY", value_parser = key_source(), conflicts_with = "raw")]
    old_identity: Vec<KeySource>,
}

pub async fn run(args: Open, session: &Session<'_>) -> Result<Exit, Failure> {
    let Open { slip, file, raw, field, old_identity } = args;
    if raw && file.is_none() && io::stdout().is_terminal() {
        return Err(Failure::usage("an encrypted file is no text, and standard output is a terminal")
            .hint("write it to a file with -o FILE"));
    }
    let client = session.client_with(&old_identity)?;
    let target: Box<dyn Output + '_> = match &file {
        Some(path) => Box::new(FileOutput::create(path).map_err(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    Failure::new(Exit::Conflict, format!("{} exists, and nothing is overwritten", path.display()))
                        .hint("nothing was opened; choose another file with -o")
                }
                _ => Failure::file("cannot write", path, &error).hint("nothing was opened"),
            }
        })?),
        None => Box::new(Stdout(session.screen)),
    };
    let mut output = Held { content: MemoryOutput::new(), field, target };
    let opened = match raw {
        true => client.wrap_open_raw(&slip, &mut output).await,
        false => client.wrap_open(&slip, &mut output).await,
    };
    match opened {
        Ok(opened) => report(session, &opened, file.as_deref()),
        Err(error) => Err(explained(&client, &slip, error).await),
    }
}

fn report(session: &Session<'_>, opened: &Opened, file: Option<&std::path::Path>) -> Result<Exit, Failure> {
    let Opened { statement: _, writer, origin, receipt, acked } = opened;
    session.screen.say(&format!("from {} {}", writer.name(), writer.principal()));
    if let Some(origin) = origin {
        session.screen.say(&format!("content: {}", whence(origin)));
    }
    session.screen.say(&format!("opened {}", time(receipt.receipt.at_ms)));
    if let Some(file) = file {
        session.screen.say(&format!("written to {}", file.display()));
    }
    if let Err(error) = acked {
        session.screen.warn(&format!("the content is safe, but the cluster does not know yet: {}", told(error)));
        session.screen.hint("tell it with `bulla wrap ack`, before the time for that is over");
    }
    Ok(Exit::Ok)
}

/// Adds what a refusal proves, and what to do after an output that failed.
async fn explained(client: &Client, slip: &Slip, error: ClientError) -> Failure {
    if matches!(&error, ClientError::Io { what, .. } if what.contains("content")) {
        let until = ack_deadline(client, slip).await;
        return Failure::from(error)
            .instead(format!(
                "the wrap waits for this machine until {until}, then it is gone; open it again with -o FILE"
            ))
            .hint("or say with `bulla wrap nack` that it did not arrive: then nobody gets it");
    }
    if matches!(&error, ClientError::Refused { verified: true, .. })
        && error.code() == Some(Code::NotYet)
        && let Ok(inspected) = client.wrap_inspect(slip).await
    {
        let from = time(inspected.statement.statement.nbf_ms);
        let mut failure = Failure::from(error);
        failure.message = format!("not_yet: it may not be opened before {from}");
        return failure;
    }
    proven(client, slip, error).await
}

/// Until when the wrap can be had again by whoever opened it here.
async fn ack_deadline(client: &Client, slip: &Slip) -> String {
    let inspected = client.wrap_inspect(slip).await.ok();
    let opened = inspected.as_ref().and_then(|wrap| {
        let receipts = wrap.slots.iter().flat_map(|slot| &slot.receipts).map(|receipt| &receipt.receipt);
        let opened =
            receipts.filter(|receipt| receipt.kind == ReceiptKind::Opened).map(|receipt| receipt.at_ms).max()?;
        Some(opened.saturating_add(u64::from(wrap.statement.statement.ack_s).saturating_mul(1000)))
    });
    opened.map_or_else(|| "the time to acknowledge it is over".to_owned(), time)
}

/// Holds the content until all of it is verified, then hands it on in one piece: half a secret is never printed.
struct Held<'a> {
    content: MemoryOutput,
    field: Option<String>,
    target: Box<dyn Output + 'a>,
}

impl Write for Held<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Held<'_> {
    fn commit(&mut self) -> io::Result<()> {
        let Self { content, field, target } = self;
        match field {
            None => target.write_all(content.content())?,
            Some(field) => target.write_all(field_of(content.content(), field)?.as_bytes())?,
        }
        target.flush()?;
        target.commit()
    }
}

/// What a content that was made from fields holds, or an answer of the cluster, such as the times of a database's user.
#[derive(Deserialize)]
#[serde(untagged)]
enum Field {
    Text(String),
    Number(u64),
}

/// The value of a field.
fn field_of(content: &[u8], field: &str) -> io::Result<String> {
    let none = || io::Error::other("the content was not made from fields, so it has none; leave out --field");
    let fields: StrictMap<Field> = json::parse(content, content.len()).map_err(|_| none())?;
    let mut fields = fields.0;
    let found = fields.remove(field).ok_or_else(|| {
        let known: Vec<_> = fields.keys().map(String::as_str).collect();
        io::Error::other(format!("there is no field {field:?}; there are {}", known.join(", ")))
    })?;
    Ok(match found {
        Field::Text(text) => text,
        Field::Number(number) => number.to_string(),
    })
}

/// Standard output. Bytes that are no text do not go to a terminal, which would obey them.
struct Stdout<'a>(&'a Screen);

impl Write for Stdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.settle();
        let mut stdout = io::stdout().lock();
        if stdout.is_terminal() && !is_text(bytes) {
            return Err(io::Error::other("the content is no text, and standard output is a terminal"));
        }
        stdout.write_all(bytes)?;
        // The content comes in one piece, so this is its end; what is said next begins a line of its own.
        if stdout.is_terminal() && !bytes.ends_with(b"\n") {
            stdout.write_all(b"\n")?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

impl Output for Stdout<'_> {
    /// A file behind standard output is made durable before the wrap is gone; a pipe has done what it can.
    fn commit(&mut self) -> io::Result<()> {
        self.flush()?;
        let stdout = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
        if stdout.metadata()?.is_file() { stdout.sync_all() } else { Ok(()) }
    }
}

pub(super) fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes)
        .is_ok_and(|text| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_text_only() {
        assert!(is_text("user\tpassword\nä\n".as_bytes()));
        for bad in [&b"\x1b[2J"[..], b"\xff\xfe", b"a\0b", b"\x08"] {
            assert!(!is_text(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_field_is_taken_from_fields_only() {
        assert_eq!(field_of(br#"{"a":"1","b":"2\n"}"#, "b").unwrap(), "2\n");
        assert!(field_of(br#"{"a":"1"}"#, "c").unwrap_err().to_string().contains("there are a"));
        let answer = br#"{"password":"x","expires_ms":1800000000000}"#;
        assert_eq!(field_of(answer, "password").unwrap(), "x");
        assert_eq!(field_of(answer, "expires_ms").unwrap(), "1800000000000");
        assert!(field_of(br#"{"a":{"b":"1"}}"#, "a").is_err());
        assert!(field_of(b"text", "a").unwrap_err().to_string().contains("--field"));
    }

    #[test]
    fn nothing_is_handed_on_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let target = Box::new(FileOutput::create(&path).unwrap());
        let mut held = Held { content: MemoryOutput::new(), field: None, target };
        held.write_all(b"half").unwrap();
        assert!(!path.exists());
        held.write_all(b" and half").unwrap();
        held.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"half and half");
    }

    /// A field that is not there leaves no file, and nothing is told as received: the wrap can be opened again.
    #[test]
    fn a_field_that_is_not_there_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let held = |field: &str| {
            let target = Box::new(FileOutput::create(&path).unwrap());
            let mut held = Held { content: MemoryOutput::new(), field: Some(field.to_owned()), target };
            held.write_all(br#"{"a":"1","b":"2"}"#).unwrap();
            held.commit()
        };
        assert!(held("c").unwrap_err().to_string().contains("there are a, b"));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        held("b").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
    }
}
