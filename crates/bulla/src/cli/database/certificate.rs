//! `bulla database creds --certificate`: a key pair that is made here, and a certificate for it.

use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs, time};
use crate::session::Session;
use bulla_client::{FileOutput, Output as _};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::name::Name;
use rcgen::{KeyPair, PublicKeyData as _};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// The files in the folder, as programs that speak to PostgreSQL name them.
const KEY: &str = "client.key";
const CERTIFICATE: &str = "client.crt";

/// Gets a user by certificate; the private key is written here and sent nowhere.
pub async fn creds(
    session: &Session<'_>,
    (database, role): (&Name, &Name),
    ttl: Option<Duration>,
    folder: &Path,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot make a key pair: {error}")).hint("try again"))?;
    let key = SecretBytes::new(pair.serialize_pem().into_bytes());
    if !folder.is_dir() {
        std::fs::create_dir(folder).map_err(|error| Failure::file("cannot make", folder, &error))?;
    }
    let spki = pair.subject_public_key_info();
    let (key_path, path) = (folder.join(KEY), folder.join(CERTIFICATE));
    // Before anybody is asked, so that no user is made whose login finds no place; a pair that is there stays until both are written.
    let (mut key_file, mut file) = (begin(&key_path, 0o600)?, begin(&path, 0o644)?);
    let made = session.client()?.database_certify(database, role, &spki, ttl.map(|ttl| ttl.as_secs())).await?;
    let unwritten = |path: &Path, error| {
        Failure::file("cannot write", path, &error)
            .hint("the user is made: `bulla lease list` shows its lease, revoke it")
    };
    key_file.write_all(key.expose()).map_err(|error| unwritten(&key_path, error))?;
    file.write_all(made.certificate.as_bytes()).map_err(|error| unwritten(&path, error))?;
    // A program that looks between the two finds a pair that does not match, and tries again.
    key_file.commit().map_err(|error| unwritten(&key_path, error))?;
    file.commit().map_err(|error| unwritten(&path, error))?;
    if format == Format::Json {
        return session.screen.json(&made).map(|()| Exit::Ok);
    }
    session.screen.pairs(&[
        ("user", made.user),
        ("lease", made.lease.to_string()),
        ("expires", time(made.expires_ms)),
        ("key", key_path.display().to_string()),
        ("certificate", path.display().to_string()),
    ])?;
    Ok(Exit::Ok)
}

fn begin(path: &Path, mode: u32) -> Result<FileOutput, Failure> {
    let file = FileOutput::replacing(path).and_then(|file| file.mode(mode));
    file.map_err(|error| Failure::file("cannot write", path, &error))
}
