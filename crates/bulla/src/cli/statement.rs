//! Statements that several admins sign one after the other, in a file that goes between them. Signing needs no
//! network, so it also works on a machine that has none.

use crate::ask;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use bulla_crypto::dsse;
use bulla_crypto::evidence::Payload;
use bulla_wire::dsse::Envelope;
use bulla_wire::json;
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

/// How a statement is signed.
#[derive(Debug, Args)]
pub struct Sign {
    /// The statement, signed by others or by nobody yet; your signature is added to this file
    pub file: PathBuf,
    /// Sign without being asked
    #[arg(short, long)]
    pub yes: bool,
}

/// Reads a signed statement.
pub fn read(path: &Path) -> Result<Envelope, Failure> {
    let bytes = fs::read(path).map_err(|error| Failure::file("cannot read", path, &error))?;
    json::parse(&bytes, json::MAX_JSON_BYTES).map_err(|error| unfit(path, &error.to_string()))
}

/// Writes a statement to a new file.
pub fn write(path: &Path, envelope: &Envelope) -> Result<(), Failure> {
    super::keygen::write_new(path, 0o644, &text(envelope))
}

/// Shows what the statement says, asks, and adds the caller's signature. What should not be signed at all, `shown`
/// refuses.
pub async fn sign<P: Payload>(
    session: &Session<'_>,
    Sign { file, yes }: Sign,
    shown: impl FnOnce(&Envelope, &P) -> Result<Vec<String>, Failure>,
) -> Result<Exit, Failure> {
    let envelope = add(session, &file, yes, shown).await?;
    session.screen.say(&format!("{} has {} now", file.display(), count(&envelope)));
    Ok(Exit::Ok)
}

/// As [`sign`], without a word about how many signatures there are then.
pub async fn add<P: Payload>(
    session: &Session<'_>,
    file: &Path,
    yes: bool,
    shown: impl FnOnce(&Envelope, &P) -> Result<Vec<String>, Failure>,
) -> Result<Envelope, Failure> {
    let bytes = fs::read(file).map_err(|error| Failure::file("cannot read", file, &error))?;
    let mut envelope = json::parse::<Envelope>(&bytes, json::MAX_JSON_BYTES).or_else(|_| {
        // What nobody signed yet is the payload itself.
        let payload: P =
            json::parse(&bytes, json::MAX_STATEMENT_BYTES).map_err(|error| unfit(file, &error.to_string()))?;
        Ok::<_, Failure>(Envelope {
            payload_type: P::TYPE.to_owned(),
            payload: json::to_vec(&payload),
            signatures: Vec::new(),
        })
    })?;
    if envelope.payload_type != P::TYPE {
        return Err(unfit(file, &format!("it is of type {}, not {}", envelope.payload_type, P::TYPE)));
    }
    let payload: P =
        json::parse(&envelope.payload, json::MAX_STATEMENT_BYTES).map_err(|error| unfit(file, &error.to_string()))?;
    let identity = session.identity()?;
    for line in shown(&envelope, &payload)? {
        session.screen.say(&line);
    }
    demand_yes("Sign this?", yes)?;
    dsse::add_signature(&mut envelope, &*identity).await.map_err(bulla_client::ClientError::from)?;
    let new = file.with_extension("new");
    super::keygen::write_new(&new, 0o644, &text(&envelope))?;
    fs::rename(&new, file).map_err(|error| Failure::file("cannot replace", file, &error))?;
    Ok(envelope)
}

/// Asks unless the answer is given; without a terminal it must be.
pub fn demand_yes(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !ask::possible() {
        return Err(Failure::usage("nobody can answer here").hint("look at what is asked, then give --yes"));
    }
    match ask::yes(question) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(Exit::Failed, "nothing was done").hint("type yes, or give --yes")),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot ask: {error}")).hint("give --yes")),
    }
}

/// How many signatures there are, in words.
pub fn count(envelope: &Envelope) -> String {
    match envelope.signatures.len() {
        1 => "1 signature".to_owned(),
        count => format!("{count} signatures"),
    }
}

fn text(envelope: &Envelope) -> Vec<u8> {
    let mut text = json::to_vec(envelope);
    text.push(b'\n');
    text
}

fn unfit(path: &Path, problem: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{} is no such statement: {problem}", path.display()))
        .hint("check that it is the right file, whole and as it was signed")
}
