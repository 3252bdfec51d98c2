//! Statements that several admins sign one after the other, in a file that goes between them. Signing needs no
//! network, so it also works on a machine that has none.

use crate::ask;
use crate::exit::{Exit, Failure, told};
use crate::input::{self, Limit};
use crate::session::Session;
use bulla_client::{FileOutput, Output as _};
use bulla_crypto::dsse;
use bulla_crypto::evidence::{ClusterView, Payload, VerifiedDocument};
use bulla_crypto::identity::Identity;
use bulla_crypto::sign::Signer as _;
use bulla_wire::dsse::Envelope;
use bulla_wire::json;
use clap::Args;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
pub fn read<P: Payload>(path: &Path) -> Result<Envelope, Failure> {
    let bytes = input::file(path, Limit::TEXT)?;
    json::parse(&bytes, json::MAX_JSON_BYTES).map_err(|error| {
        if json::parse::<P>(&bytes, json::MAX_STATEMENT_BYTES).is_ok() {
            let message = format!("nobody has signed {} yet", path.display());
            return Failure::new(Exit::Failed, message)
                .hint("each admin adds a signature to it first, then one sends it");
        }
        unfit(path, &error.to_string())
    })
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
    let envelope = add(session, &file, yes, |_| (), shown).await?;
    session.screen.say(&format!("{} has {} now", file.display(), count(&envelope)));
    Ok(Exit::Ok)
}

/// As [`sign`], without a word about how many signatures there are then. What nobody signed yet, `amend` may change.
pub async fn add<P: Payload>(
    session: &Session<'_>,
    file: &Path,
    yes: bool,
    amend: impl FnOnce(&mut P),
    shown: impl FnOnce(&Envelope, &P) -> Result<Vec<String>, Failure>,
) -> Result<Envelope, Failure> {
    if file == Path::new("-") {
        return Err(Failure::usage("a statement is signed in its file, not on the way").hint("name the file"));
    }
    let bytes = input::file(file, Limit::TEXT)?;
    let mut envelope = json::parse::<Envelope>(&bytes, json::MAX_JSON_BYTES).or_else(|_| {
        // What nobody signed yet is the payload itself.
        let mut payload: P =
            json::parse(&bytes, json::MAX_STATEMENT_BYTES).map_err(|error| unfit(file, &error.to_string()))?;
        amend(&mut payload);
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
    replace(file, &bytes, &envelope)?;
    Ok(envelope)
}

/// Puts a statement with one more signature in the place of what was read of it. Not if it is another one meanwhile: somebody
/// else signed the same file, and that signature would be lost.
pub fn replace(file: &Path, read: &[u8], envelope: &Envelope) -> Result<(), Failure> {
    let failed = |error| Failure::file("cannot replace", file, &error);
    // Whoever signs at the same moment waits here, and then finds another file.
    let there = File::open(file).map_err(failed)?;
    rustix::fs::flock(&there, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    if input::file(file, Limit::TEXT)? != read {
        return Err(Failure::new(Exit::Conflict, format!("somebody changed {} meanwhile", file.display()))
            .hint("sign it again, as it is now"));
    }
    let replaced = FileOutput::replacing(file).and_then(|new| new.mode(0o644)).and_then(|mut new| {
        new.write_all(&text(envelope))?;
        new.commit()
    });
    replaced.map_err(failed)
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

/// The documents that a former run kept, without a network; none if it kept none or nothing is pinned.
pub fn kept_view(session: &Session<'_>) -> Result<Option<Arc<ClusterView>>, Failure> {
    match session.trust()? {
        Some(_) => Ok(session.offline_client()?.kept_view()?),
        None => Ok(None),
    }
}

/// Warns whoever is about to sign if the signature counts for nothing, as far as the documents known here tell.
/// It is no refusal: a newer document may have made the signer an admin.
pub fn warn_signer(session: &Session<'_>, identity: &Identity, known: Option<&ClusterView>) {
    let key = identity.public_key().key_id();
    let Some(newest) = known.map(ClusterView::newest) else {
        session.screen.warn("no document of this cluster is known here, so neither is whether your signature counts");
        return;
    };
    if newest.admin_by_key(&key).is_none() {
        let number = newest.number();
        session.screen.warn(&format!(
            "your key {key} is not that of an admin in document {number}, the newest known here: by it your signature \
             does not count"
        ));
    }
}

/// Says how many of the signatures count by the newest document known here, and who else tells.
pub fn tell_count<P: Payload>(
    session: &Session<'_>,
    file: &Path,
    envelope: &Envelope,
    known: Option<&ClusterView>,
    sent_by: &str,
) -> Result<(), Failure> {
    let file = file.display();
    match known.map(ClusterView::newest) {
        Some(newest) => {
            let count = counted::<P>(newest, envelope)?;
            session.screen.say(&format!("{file} has {count} by document {}", newest.number()));
        }
        None => {
            session.screen.say(&format!("{file} has {} now", count(envelope)));
            session.screen.hint(&format!("`{sent_by}` tells whose count"));
        }
    }
    Ok(())
}

/// How many admins of `document` signed, of how many that must.
pub fn counted<P: Payload>(document: &VerifiedDocument, envelope: &Envelope) -> Result<String, Failure> {
    let signed = signers::<P>(document, envelope)?;
    Ok(format!("{signed} signature{} of {} needed", if signed == 1 { "" } else { "s" }, document.quorum()))
}

/// How many admins of `document` signed.
pub fn signers<P: Payload>(document: &VerifiedDocument, envelope: &Envelope) -> Result<usize, Failure> {
    let signers = document.signed_by_admins(envelope, P::TYPE).map_err(|error| {
        Failure::new(Exit::Failed, format!("a signature does not hold: {}", told(&error)))
            .hint("make it anew from the newest state, and have it signed again")
    })?;
    Ok(signers.len())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two who sign one shared file at the same time the later one is told, and takes no signature away.
    #[test]
    fn a_file_that_changed_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("statement.json");
        let of = |payload: &str| Envelope {
            payload_type: "x".into(),
            payload: payload.as_bytes().to_vec(),
            signatures: Vec::new(),
        };
        std::fs::write(&path, "as it was read").unwrap();
        let failure = replace(&path, b"as it was", &of("mine")).unwrap_err();
        assert_eq!(failure.exit, Exit::Conflict);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "as it was read");
        replace(&path, b"as it was read", &of("mine")).unwrap();
        assert_eq!(json::parse::<Envelope>(&std::fs::read(&path).unwrap(), 4096).unwrap(), of("mine"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
