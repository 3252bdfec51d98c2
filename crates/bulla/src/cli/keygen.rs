//! `bulla keygen`: an identity, and its record.

use crate::exit::{Exit, Failure};
use crate::keys::key_source;
use crate::session::Session;
use bulla_client::{ClientError, FileOutput, Output as _};
use bulla_crypto::envelope;
use bulla_crypto::evidence::{self, PrincipalKey, Record, record_payload};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SystemRng;
use bulla_crypto::sign::Signer as _;
use bulla_keys::{KeySource, Make};
use bulla_wire::json;
use bulla_wire::name::Name;
use clap::Args;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What is sealed to see whether it opens.
const TRIAL: &[u8] = b"trial";

/// Make an identity, and the record that an enroller admits
///
/// The identity file is an age identity file with mode 0600: whoever has it is you. The record (.pub) holds your name
/// and public keys, signed; give it to an enroller. Nothing is overwritten.
#[derive(Debug, Args)]
pub struct Keygen {
    /// The identity file to make, such as alice.key; the record goes beside it, to alice.pub
    #[arg(short = 'o', value_name = "FILE")]
    file: Option<PathBuf>,
    /// The name to ask for; otherwise that of the file, without its ending
    #[arg(long, value_parser = super::name)]
    name: Option<Name>,
    /// Make an X25519 key, for age programs before 1.3, in place of a post-quantum one
    #[arg(long, conflicts_with = "from")]
    classical: bool,
    /// Use this SSH private key (Ed25519 or RSA), the keys on this token or that of the agent (ssh-agent:…) as they are, and
    /// write their record only
    #[arg(long, value_name = "KEY", value_parser = key_source())]
    from: Option<KeySource>,
    /// Make the keys on this token, where they stay, and write their record: P-256 keys, one that signs and one that
    /// decrypts (none with --decrypt-with), beside which the token keeps an ML-KEM seed (none with --classical)
    #[arg(long, value_name = "URI", value_parser = key_source(), conflicts_with = "from")]
    pkcs11: Option<KeySource>,
}

pub async fn run(args: Keygen, session: &Session<'_>) -> Result<Exit, Failure> {
    let Keygen { file, name, classical, from, pkcs11 } = args;
    let name = match (name, &file) {
        (Some(name), _) => name,
        (None, Some(file)) => name_of(file)?,
        (None, None) => return Err(Failure::usage("nothing says where to write").hint("give -o FILE, or --name NAME")),
    };
    if let Some(key) = from {
        let record_path = file.unwrap_or_else(|| format!("{name}.pub").into());
        let identity = session.read_identity(&key, session.global.decrypt_with.as_ref())?;
        let record = record_of(&identity, name).await?;
        write_new(&record_path, 0o644, &line_of(&record))?;
        return report(session, &identity, &record, &key, &record_path);
    }
    if let Some(place) = pkcs11 {
        return on_token(session, name, &place, file, classical).await;
    }
    let path = file.unwrap_or_else(|| format!("{name}.key").into());
    let record_path = path.with_extension("pub");
    if record_path == path {
        return Err(Failure::usage("the ending .pub is for the record").hint("name the identity file -o NAME.key"));
    }
    if record_path.symlink_metadata().is_ok() {
        return Err(exists(&record_path));
    }
    let kind = if classical { IdentityKind::Classical } else { IdentityKind::Hybrid };
    let failed = |error| Failure::new(Exit::Failed, format!("cannot make an identity: {error}"));
    let identity = Identity::generate(kind, &mut SystemRng).map_err(failed)?;
    let record = record_of(&identity, name).await?;
    let line = line_of(&record);
    let shown = String::from_utf8_lossy(&line);
    let text = identity.to_file_text(Some(record.name().as_str()), Some(shown.trim_end())).map_err(failed)?;
    write_new(&path, 0o600, text.expose())?;
    write_new(&record_path, 0o644, &line).inspect_err(|_| {
        // Nobody knows the key yet. If it stays, the next try names it.
        drop(fs::remove_file(&path));
    })?;
    report(session, &identity, &record, &KeySource::File(path), &record_path)
}

/// Makes keys on a token, and their record.
async fn on_token(
    session: &Session<'_>,
    name: Name,
    place: &KeySource,
    file: Option<PathBuf>,
    classical: bool,
) -> Result<Exit, Failure> {
    let KeySource::Token(uri) = place else {
        return Err(Failure::usage(format!("{place} is no URI of a token")).hint("give pkcs11:token=…;object=…"));
    };
    let record_path = file.unwrap_or_else(|| format!("{name}.pub").into());
    if record_path.symlink_metadata().is_ok() {
        return Err(exists(&record_path));
    }
    let opens = session.global.decrypt_with.as_ref();
    let make = match (opens, classical) {
        (Some(_), _) => Make::Signing,
        (None, true) => Make::Classical,
        (None, false) => Make::Hybrid,
    };
    let identity = session.make_on_token(uri, make)?;
    let left = |failure: Failure| {
        failure.hint(format!("the keys are on the token; `bulla keygen --from '{uri}'` writes their record"))
    };
    let identity = match opens {
        Some(opens) => session.read_identity(place, Some(opens)).map_err(left)?,
        None => identity,
    };
    let record = record_of(&identity, name).await.map_err(left)?;
    write_new(&record_path, 0o644, &line_of(&record)).map_err(left)?;
    report(session, &identity, &record, place, &record_path)
}

/// Shows what was made, and what is done with it.
fn report(
    session: &Session<'_>,
    identity: &Identity,
    record: &Record,
    key: &KeySource,
    record_path: &Path,
) -> Result<Exit, Failure> {
    show(session, identity, record, key, record_path)?;
    session.screen.hint(&format!("give {} to an enroller, who runs `bulla principal add`", record_path.display()));
    Ok(Exit::Ok)
}

/// Shows what was made.
pub fn show(
    session: &Session<'_>,
    identity: &Identity,
    record: &Record,
    key: &KeySource,
    record_path: &Path,
) -> Result<(), Failure> {
    session.screen.pairs(&[
        ("name", record.name().to_string()),
        ("principal", record.principal().to_string()),
        ("key", identity.public_key().key_id().to_string()),
        ("identity", key.to_string()),
        ("record", record_path.display().to_string()),
    ])
}

/// The name in a file's name.
pub fn name_of(file: &Path) -> Result<Name, Failure> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.parse().map_err(|error| {
        Failure::usage(format!("{} gives no name: {error}", file.display())).hint("give one with --name NAME")
    })
}

/// The first record of an identity, verified as strangers will.
pub async fn record_of(identity: &Identity, name: Name) -> Result<Record, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("cannot make the record: {error}"));
    demand_opens(identity).await?;
    let payload = record_payload(name, None, &[key_of(identity)]).ok_or_else(|| failed(&"no version is left"))?;
    let envelope = evidence::sign(&payload, &[identity]).await.map_err(|error| failed(&error))?;
    Record::open(&envelope, None).map_err(|error| failed(&error))
}

/// Refuses an identity to which nobody could encrypt: a record needs a recipient, and one that this identity opens. A
/// comment in a file names that of a plugin, and what is encrypted to a wrong one is lost.
pub async fn demand_opens(identity: &Identity) -> Result<(), Failure> {
    if identity.recipients().is_empty() {
        let failure = Failure::from(ClientError::SignsOnly);
        return Err(failure.instead("--decrypt-with names the key to which others encrypt for you"));
    }
    let failed = |why: String| {
        Failure::new(Exit::Failed, format!("what is encrypted for this identity does not open: {why}"))
            .hint("check the recipient in the file of a plugin's identity: it must be that of its key")
    };
    let sealed = envelope::seal(identity.recipients(), None, TRIAL).map_err(|error| failed(error.to_string()))?;
    let opened = envelope::open(&[identity], &sealed, TRIAL.len()).await;
    opened.map(drop).map_err(|error| failed(error.to_string()))
}

/// The entry of an identity in a record.
pub fn key_of(identity: &Identity) -> PrincipalKey {
    PrincipalKey {
        public: identity.public_key().clone(),
        recipients: identity.recipients().to_vec(),
        dual_use: identity.dual_use(),
    }
}

/// A record as its file holds it.
pub fn line_of(record: &Record) -> Vec<u8> {
    let mut line = json::to_vec(record.envelope());
    line.push(b'\n');
    line
}

/// A file is there already.
pub fn exists(path: &Path) -> Failure {
    Failure::new(Exit::Conflict, format!("{} exists, and nothing is overwritten", path.display()))
        .hint("choose another file with -o")
}

/// Writes a file that is not there yet: whole, durable, or not at all.
pub fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::file("cannot write", path, &error),
    };
    let mut file = FileOutput::create(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.commit()).map_err(failed)?;
    if mode != 0o600 {
        // A file system without modes, such as a stick's, has none to set.
        drop(fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    }
    Ok(())
}
