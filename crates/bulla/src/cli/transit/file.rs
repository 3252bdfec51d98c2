//! `bulla encrypt` and `bulla decrypt`: files of any size, which never leave this machine, under a transit key.

use super::new_file;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use bulla_client::{FileOutput, Output as _};
use bulla_wire::name::Name;
use clap::Args;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

/// Encrypt a file of any size under a transit key
///
/// The file stays on this machine: the cluster makes a key for it, and keeps nothing. What is written is an age file
/// whose header names the transit key and its version.
#[derive(Debug, Args)]
pub struct EncryptFile {
    /// The transit key
    key: Name,
    /// What; standard input if left out
    file: Option<PathBuf>,
    /// Write to this new file, with mode 0600; otherwise to standard output
    #[arg(short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Decrypt what `bulla encrypt` wrote
///
/// A file appears whole or not at all. Standard output gets true bytes as they come; only the exit code says that
/// they are all.
#[derive(Debug, Args)]
pub struct DecryptFile {
    /// What `bulla encrypt` wrote; standard input if left out
    file: Option<PathBuf>,
    /// Refuse a file that is not under this transit key
    #[arg(long)]
    key: Option<Name>,
    /// Write to this new file, with mode 0600; otherwise to standard output
    #[arg(short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn encrypt_file(args: EncryptFile, session: &Session<'_>) -> Result<Exit, Failure> {
    let EncryptFile { key, file, output } = args;
    let client = session.client()?;
    let input = input(file.as_deref())?;
    match target(output.as_deref())? {
        Some((path, mut target)) => {
            client.transit_encrypt_file(&key, input, BufWriter::new(&mut target)).await?;
            target.commit().map_err(|error| Failure::file("cannot write", path, &error))?;
            session.screen.say(&format!("encrypted under {key} to {}", path.display()));
        }
        None => drop(client.transit_encrypt_file(&key, input, io::stdout()).await?),
    }
    Ok(Exit::Ok)
}

pub async fn decrypt_file(args: DecryptFile, session: &Session<'_>) -> Result<Exit, Failure> {
    let DecryptFile { file, key, output } = args;
    let client = session.client()?;
    let input = BufReader::new(input(file.as_deref())?);
    let key = key.as_ref();
    let (by, version) = match target(output.as_deref())? {
        Some((path, mut target)) => {
            let by = client.transit_decrypt_file(key, input, &mut target).await?;
            target.commit().map_err(|error| Failure::file("cannot write", path, &error))?;
            by
        }
        None => client.transit_decrypt_file(key, input, io::stdout()).await?,
    };
    session.screen.say(&format!("decrypted by version {version} of {by}"));
    Ok(Exit::Ok)
}

fn input(file: Option<&Path>) -> Result<Box<dyn Read>, Failure> {
    match file {
        Some(path) if path != Path::new("-") => {
            Ok(Box::new(File::open(path).map_err(|error| Failure::file("cannot read", path, &error))?))
        }
        _ => Ok(Box::new(io::stdin())),
    }
}

/// The new file; none for standard output, which must not be a terminal.
fn target(output: Option<&Path>) -> Result<Option<(&Path, FileOutput)>, Failure> {
    let Some(path) = output else {
        if io::stdout().is_terminal() {
            return Err(Failure::usage("standard output is a terminal").hint("write to a file with -o FILE"));
        }
        return Ok(None);
    };
    Ok(Some((path, new_file(path)?)))
}
