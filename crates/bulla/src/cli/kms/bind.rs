//! `bulla kms bind`: identities that nothing opens but an RSA key on a token, or the members of a configuration.

use super::identity::{bound_failure, oaep_key};
use crate::cli::keygen::{exists, line_of, name_of, record_of, show, write_new};
use crate::exit::{Exit, Failure};
use crate::keys::key_source;
use crate::session::Session;
use bulla_client::{FileOutput, Output as _};
use bulla_crypto::random::SystemRng;
use bulla_keys::KeySource;
use bulla_kms::bound::BoundIdentity;
use bulla_kms::config::Config;
use bulla_kms::identity::{IdentityError, KmsIdentity, MAX_IDENTITY_BYTES};
use bulla_kms::plugin::Plugin;
use bulla_wire::name::Name;
use clap::Args;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long members may take, with every attempt.
const PATIENCE: Duration = Duration::from_secs(30);

/// Make an identity that nothing opens but a key on a token, or the members of a configuration
///
/// With --to an RSA key on a token opens it, such as one in a TPM; it is for files of keys. With --config the members open it,
/// for instance a key of a cloud; it is for an admin of a seal who is a machine (auto_unseal in the server's
/// configuration), and its record goes beside it, to FILE.pub.
#[derive(Debug, Args)]
pub struct Bind {
    /// The file to make
    #[arg(short = 'o', value_name = "FILE")]
    file: PathBuf,
    /// The RSA key, which decrypts by OAEP
    #[arg(long, value_name = "URI", value_parser = key_source(), conflicts_with_all = ["config", "name"])]
    to: Option<KeySource>,
    /// The name in the record; otherwise that of the file, without its ending
    #[arg(long, value_parser = crate::cli::name)]
    name: Option<Name>,
}

pub async fn run(args: Bind, config: Option<&Path>, session: &Session<'_>) -> Result<Exit, Failure> {
    let Bind { file, to, name } = args;
    match (to, config) {
        (Some(to), _) => to_token(&file, &to, session).await,
        (None, Some(config)) => to_members(&file, name, config, session).await,
        (None, None) => Err(Failure::usage("nothing is named that opens the identity").hint(
            "give --to URI for a key on a token, or --config FILE for the members of a configuration (`bulla kms sample`)",
        )),
    }
}

/// Makes an identity for files of keys.
async fn to_token(file: &Path, to: &KeySource, session: &Session<'_>) -> Result<Exit, Failure> {
    let failed = |error| unwritten(file, &error);
    // Before the token is asked: whether there is a place for it.
    let mut output = FileOutput::create(file).map_err(failed)?;
    let key = oaep_key(to, session).await?;
    let bound = BoundIdentity::make(&key, &mut SystemRng).await.map_err(|error| bound_failure(&error))?;
    output.write_all(bound.to_text().as_bytes()).and_then(|()| output.commit()).map_err(failed)?;
    session.screen.line(bound.recipient().as_str())?;
    session.screen.say(&format!("the recipient's digest is {}", bound.recipient().digest()));
    session.screen.hint("who opens the key file enrols it: `bulla kms keyfile enrol FILE --node NAME=RECIPIENT`");
    Ok(Exit::Ok)
}

/// Makes an identity for an admin of a seal, and its record.
async fn to_members(file: &Path, name: Option<Name>, config: &Path, session: &Session<'_>) -> Result<Exit, Failure> {
    let name = name.map_or_else(|| name_of(file), Ok)?;
    let record_path = file.with_extension("pub");
    if record_path == file {
        return Err(Failure::usage("the ending .pub is for the record").hint("name the identity file -o NAME.key"));
    }
    let plugin = members(config)?;
    let failed = |error| unwritten(file, &error);
    let mut output = FileOutput::create(file).map_err(failed)?;
    plugin.look_once().await;
    let made = KmsIdentity::make(&plugin, &mut SystemRng, Instant::now() + PATIENCE).await;
    let (bound, identity) = made.map_err(|error| refused(config, &error))?;
    let record = record_of(&identity, name).await?;
    write_new(&record_path, 0o644, &line_of(&record))?;
    let kept = output.write_all(bound.to_text().as_bytes()).and_then(|()| output.commit());
    kept.map_err(failed).inspect_err(|_| {
        // Nobody has the key of this record.
        drop(fs::remove_file(&record_path));
    })?;
    show(session, &identity, &record, &KeySource::File(file.to_owned()), &record_path)?;
    session.screen.say(&format!("it opens by the keys {}", bound.key_id()));
    session.screen.hint(
        "make it an admin (`bulla init`, `bulla document propose`), and name it in auto_unseal.identity of the server",
    );
    Ok(Exit::Ok)
}

/// Encrypts an identity anew.
pub async fn again(file: &Path, config: &Path, session: &Session<'_>) -> Result<Exit, Failure> {
    let before = bound_by_members(file)?;
    let plugin = members(config)?;
    plugin.look_once().await;
    let after = before.again(&plugin, Instant::now() + PATIENCE).await.map_err(|error| refused(config, &error))?;
    let failed = |error: io::Error| Failure::file("cannot write", file, &error);
    let mut output = FileOutput::replacing(file).and_then(|output| output.owned_as(file)).map_err(failed)?;
    output.write_all(after.to_text().as_bytes()).and_then(|()| output.commit()).map_err(failed)?;
    session.screen.pairs(&[("before", before.key_id().to_string()), ("after", after.key_id().to_string())])?;
    Ok(Exit::Ok)
}

/// The members that open identities. Nobody is asked.
pub fn members(path: &Path) -> Result<Plugin, Failure> {
    let parts = Config::for_identities(super::written(path)?);
    parts.map(Plugin::new).map_err(|error| super::unfit(path, &error))
}

/// A file of `bulla kms bind --config`.
pub fn bound_by_members(path: &Path) -> Result<KmsIdentity, Failure> {
    let bytes = crate::keys::read(path)?;
    if !KmsIdentity::is_meant(bytes.expose()) || bytes.expose().len() > MAX_IDENTITY_BYTES {
        return Err(Failure::usage(format!("{} is no identity that members open", path.display()))
            .hint("name a file of `bulla kms bind --config FILE`; other identities need no members"));
    }
    KmsIdentity::parse(bytes.expose()).map_err(|error| {
        Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
            .hint("take the file from a copy, or make another with `bulla kms bind` and have it made an admin")
    })
}

fn unwritten(file: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::AlreadyExists => exists(file),
        _ => Failure::file("cannot write", file, error),
    }
}

fn refused(config: &Path, error: &IdentityError) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", config.display()))
        .hint(format!("`bulla kms verify --config {}` shows how each member is", config.display()))
}
