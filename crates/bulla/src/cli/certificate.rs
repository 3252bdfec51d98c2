//! `bulla certificate`: an identity's signing key for programs that know keys by X.509.

use super::keygen::write_new;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use bulla_crypto::secret::SecretBytes;
use clap::Args;
use rcgen::{CertificateParams, DnType, KeyPair};
use std::path::PathBuf;

/// Write your signing key and a certificate for it, for programs such as curl
///
/// The file has mode 0600: whoever has it signs as you. What the server answers in secret is opened with the identity
/// file; only the one key of an SSH identity does both. Nothing is overwritten.
#[derive(Debug, Args)]
pub struct Certificate {
    /// The file to make, such as alice.pem: PEM, the certificate first, then the private key
    #[arg(short = 'o', value_name = "FILE")]
    file: PathBuf,
}

pub fn run(args: &Certificate, session: &Session<'_>) -> Result<Exit, Failure> {
    let Certificate { file } = args;
    let identity = session.identity()?;
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("cannot make a certificate: {error}")).hint("make it with openssl instead")
    };
    let held = || {
        Failure::new(Exit::Failed, "somebody else holds this key and gives it to nobody")
            .hint("have curl use the key where it is, with a certificate that its own tools make")
    };
    let signing = identity.signing_key().ok_or_else(held)?;
    let pkcs8 = signing.to_pkcs8().map_err(|error| failed(&error))?;
    let key = KeyPair::try_from(pkcs8.expose().as_slice()).map_err(|error| failed(&error))?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, identity.name().unwrap_or("bulla"));
    // The key ends when it is rotated or disabled and not by a date, so the certificate names none (RFC 5280 §4.1.2.5).
    parameters.not_before = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let certificate = parameters.self_signed(&key).map_err(|error| failed(&error))?.pem();
    let key = SecretBytes::new(key.serialize_pem().into_bytes());
    let mut text = SecretBytes::new(Vec::with_capacity(certificate.len().saturating_add(key.expose().len())));
    text.expose_mut().extend_from_slice(certificate.as_bytes());
    text.expose_mut().extend_from_slice(key.expose());
    write_new(file, 0o600, text.expose())?;
    session
        .screen
        .pairs(&[("key", signing.public_key().key_id().to_string()), ("certificate", file.display().to_string())])?;
    Ok(Exit::Ok)
}
