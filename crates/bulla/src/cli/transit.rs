//! `bulla transit`: keys that stay in the cluster, and what they do for others.

mod computing;
mod file;

pub use file::{DecryptFile, EncryptFile, decrypt_file, encrypt_file};

use super::wrap::{WrapTo, made};
use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::keys::key_source;
use crate::output::{Format, FormatArgs, time};
use crate::session::Session;
use bulla_client::{FileOutput, Outgoing, Output as _, Wrapped};
use bulla_crypto::pem;
use bulla_crypto::secret::SecretBytes;
use bulla_keys::KeySource;
use bulla_wire::api::{
    ConfigureTransitKey, CreateTransitKey, DigestAlgorithm, ExportTransitKey, ImportTransitKey, KeyKind, TransitKey,
    TransitKeys,
};
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::json::MAX_JSON_BYTES;
use bulla_wire::name::Name;
use clap::{Args, Subcommand};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Largest message in bytes: what base64url makes of it, the other fields of the request and the limit of JSON.
const MAX_MESSAGE_BYTES: usize = MAX_JSON_BYTES / 4 * 3 - 1024;
/// Names of a page of the listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Transit {
    /// Make a key
    Create {
        /// Its name
        key: Name,
        /// aes256-gcm and chacha20-poly1305 encrypt, ed25519 and ecdsa-* sign, rsa-* do both, hmac-sha256 makes MACs
        #[arg(long, value_name = "KIND", default_value = "aes256-gcm")]
        kind: KeyKind,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Bring in a key that was made elsewhere
    Import {
        /// Its name
        key: Name,
        /// What it is
        #[arg(long, value_name = "KIND")]
        kind: KeyKind,
        /// The key: PKCS#8 as PEM or DER, or the bytes of a symmetric key; - for standard input
        file: PathBuf,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show a key's settings and versions
    Read {
        /// The key
        key: Name,
        /// Print the newest version's public key alone, in PEM
        #[arg(long)]
        public_key: bool,
        /// That of this version
        #[arg(long, value_name = "VERSION", requires = "public_key")]
        key_version: Option<u32>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the keys
    List {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Give a key a new version, which encrypts and signs from now on
    Rotate {
        /// The key
        key: Name,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Change a key's settings
    Configure {
        /// The key
        key: Name,
        /// Whether it may be deleted
        #[arg(long, value_name = "BOOL")]
        deletion_allowed: Option<bool>,
        /// The oldest version that decrypts and verifies
        #[arg(long, value_name = "VERSION")]
        min_decryption_version: Option<u32>,
        /// The oldest version that encrypts and signs; 0: the newest alone
        #[arg(long, value_name = "VERSION")]
        min_encryption_version: Option<u32>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Delete a key, and so all that it encrypted
    Delete {
        /// The key
        key: Name,
    },
    /// Encrypt a small file or standard input; `bulla encrypt` takes files of any size
    Encrypt {
        /// The key
        key: Name,
        /// What; standard input if left out
        file: Option<PathBuf>,
        /// What must be given again to decrypt
        #[arg(long, value_name = "TEXT")]
        associated_data: Option<String>,
        /// By this version in place of the newest
        #[arg(long, value_name = "VERSION")]
        key_version: Option<u32>,
    },
    /// Decrypt to standard output
    Decrypt {
        /// The key
        key: Name,
        /// What `encrypt` printed; standard input if left out
        ciphertext: Option<String>,
        /// What was given to encrypt
        #[arg(long, value_name = "TEXT")]
        associated_data: Option<String>,
        #[command(flatten)]
        wrap_to: WrapTo,
    },
    /// Encrypt anew by the newest version; nobody sees the plaintext
    Rewrap {
        /// The key
        key: Name,
        /// What `encrypt` printed; a line each of standard input if left out
        ciphertexts: Vec<String>,
        /// What was given to encrypt
        #[arg(long, value_name = "TEXT")]
        associated_data: Option<String>,
    },
    /// Make a data key, in clear and encrypted
    Datakey {
        /// The key that encrypts it
        key: Name,
        /// Its length in bytes: 16, 32 or 64
        #[arg(long, value_name = "NUMBER", default_value = "32")]
        bytes: u32,
        /// Encrypted alone, for whoever may decrypt
        #[arg(long, conflicts_with = "wrap_to")]
        wrapped: bool,
        #[command(flatten)]
        wrap_to: WrapTo,
        /// What must be given again to decrypt
        #[arg(long, value_name = "TEXT")]
        associated_data: Option<String>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Sign a file or standard input
    Sign {
        /// The key
        key: Name,
        #[command(flatten)]
        signed: Signed,
        /// By this version in place of the newest
        #[arg(long, value_name = "VERSION")]
        key_version: Option<u32>,
        /// Write the signature's bytes to this new file, as openssl takes them (ECDSA in DER)
        #[arg(short = 'o', value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Verify a signature
    Verify {
        /// The key
        key: Name,
        /// What `sign` printed
        signature: String,
        #[command(flatten)]
        signed: Signed,
    },
    /// Make the MAC of a file or standard input, or verify one
    Hmac {
        /// The key
        key: Name,
        /// What; standard input if left out
        file: Option<PathBuf>,
        /// Verify this one in place of making one
        #[arg(long, value_name = "MAC")]
        verify: Option<String>,
        /// By this version in place of the newest
        #[arg(long, value_name = "VERSION", conflicts_with = "verify")]
        key_version: Option<u32>,
    },
    /// Write a version of an exportable key to a new file: PKCS#8 in PEM, or the bytes of a symmetric key
    Export {
        /// The key
        key: Name,
        /// This version in place of the newest
        #[arg(long, value_name = "VERSION")]
        key_version: Option<u32>,
        /// The file, made with mode 0600
        #[arg(short = 'o', value_name = "FILE", required_unless_present = "wrap_to", conflicts_with = "wrap_to")]
        output: Option<PathBuf>,
        #[command(flatten)]
        wrap_to: WrapTo,
    },
    /// Write an exportable key with all versions to a new file, encrypted to you
    Backup {
        /// The key
        key: Name,
        /// The file
        #[arg(short = 'o', value_name = "FILE", required_unless_present = "wrap_to", conflicts_with = "wrap_to")]
        output: Option<PathBuf>,
        #[command(flatten)]
        wrap_to: WrapTo,
    },
    /// Bring a key back from a backup
    Restore {
        /// The key, by its old name
        key: Name,
        /// What `backup` wrote
        file: PathBuf,
        /// A key that you had before, for a backup made to it: an identity file, SSH private key or token; may be repeated
        #[arg(long, value_name = "KEY", value_parser = key_source())]
        old_identity: Vec<KeySource>,
        #[command(flatten)]
        format: FormatArgs,
    },
}

/// Settings that a key begins with.
#[derive(Debug, Args)]
pub struct Settings {
    /// Let it be exported and backed up, for ever
    #[arg(long)]
    exportable: bool,
    /// Let it be deleted
    #[arg(long)]
    deletion_allowed: bool,
}

/// What is signed.
#[derive(Debug, Args)]
pub struct Signed {
    /// What; standard input if left out
    file: Option<PathBuf>,
    /// The digest that is signed: sha-256, sha-384 or sha-512; RSA keys take any
    #[arg(long, value_name = "NAME")]
    digest_algorithm: Option<DigestAlgorithm>,
    /// The input is the digest itself, in bytes
    #[arg(long, requires = "digest_algorithm")]
    prehashed: bool,
}

pub async fn run(command: Transit, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Transit::Create { key, kind, settings, format } => {
            let Settings { exportable, deletion_allowed } = settings;
            let body = CreateTransitKey { kind, exportable, deletion_allowed };
            let made = session.client()?.transit_create(&key, &body).await?;
            told(session, &made, format, &format!("{key} is made"))
        }
        Transit::Import { key, kind, file, settings, format } => {
            let bytes = key_bytes(kind, read(Some(&file))?)?;
            let Settings { exportable, deletion_allowed } = settings;
            let body = ImportTransitKey { kind, key: base64url(bytes.expose()), exportable, deletion_allowed };
            let made = session.client()?.transit_import(&key, &body).await?;
            told(session, &made, format, &format!("{key} is imported"))
        }
        Transit::Read { key, public_key, key_version, format } => {
            let read = session.client()?.transit_read(&key).await?;
            if public_key { public(session, &read, key_version) } else { show(session, &read, format) }
        }
        Transit::List { format } => list(session, format).await,
        Transit::Rotate { key, format } => {
            let made = session.client()?.transit_rotate(&key).await?;
            told(session, &made, format, &format!("{key} has version {} now", made.latest_version))
        }
        Transit::Configure { key, deletion_allowed, min_decryption_version, min_encryption_version, format } => {
            let body = ConfigureTransitKey { deletion_allowed, min_decryption_version, min_encryption_version };
            if body == ConfigureTransitKey::default() {
                return Err(Failure::usage("nothing is to be changed")
                    .hint("name a setting, such as --min-decryption-version 2"));
            }
            let made = session.client()?.transit_configure(&key, &body).await?;
            told(session, &made, format, &format!("{key} is changed"))
        }
        Transit::Delete { key } => {
            session.client()?.transit_delete(&key).await?;
            session.screen.say(&format!("{key} is deleted"));
            Ok(Exit::Ok)
        }
        Transit::Export { key, key_version, output, wrap_to } => {
            let (client, body) = (session.client()?, ExportTransitKey { version: key_version });
            match target(session, &wrap_to, output).await? {
                Target::Wrap(outgoing) => handed(session, &client.transit_export_to(&key, &body, outgoing).await?),
                Target::File(output) => export(session, &key, &body, &output).await,
            }
        }
        Transit::Backup { key, output, wrap_to } => match target(session, &wrap_to, output).await? {
            Target::Wrap(outgoing) => handed(session, &session.client()?.transit_backup_to(&key, outgoing).await?),
            Target::File(output) => backup(session, &key, &output).await,
        },
        Transit::Restore { key, file, old_identity, format } => {
            let client = session.client_with(&old_identity)?;
            let backup = client.transit_open_backup(read(Some(&file))?.expose()).await?;
            let made = client.transit_restore(&key, &backup).await?;
            told(session, &made, format, &format!("{key} is back, with versions up to {}", made.latest_version))
        }
        command => computing::run(command, session).await,
    }
}

/// Where a key goes.
enum Target {
    Wrap(Outgoing),
    File(PathBuf),
}

async fn target(session: &Session<'_>, wrap_to: &WrapTo, output: Option<PathBuf>) -> Result<Target, Failure> {
    match (wrap_to.outgoing(session).await?, output) {
        (Some(outgoing), _) => Ok(Target::Wrap(outgoing)),
        (None, Some(output)) => Ok(Target::File(output)),
        (None, None) => Err(Failure::usage("no file is named").hint("give -o FILE, or --wrap-to WHO")),
    }
}

fn handed(session: &Session<'_>, wrapped: &Wrapped) -> Result<Exit, Failure> {
    made(session, wrapped, FormatArgs { format: Format::Table })
}

async fn backup(session: &Session<'_>, key: &Name, output: &Path) -> Result<Exit, Failure> {
    // Before the key leaves.
    let target = new_file(output)?;
    let file = session.client()?.transit_backup(key).await?;
    write(output, target, &file)?;
    session.screen.say(&format!("{key} is in {}, encrypted to you", output.display()));
    Ok(Exit::Ok)
}

async fn export(session: &Session<'_>, key: &Name, body: &ExportTransitKey, output: &Path) -> Result<Exit, Failure> {
    // Before the key leaves.
    let target = new_file(output)?;
    let exported = session.client()?.transit_export(key, body).await?;
    let bytes = base64url_decode(&exported.key).map(SecretBytes::new).ok_or_else(unreadable)?;
    let bytes = if exported.kind.signs() { pem::write("PRIVATE KEY", bytes.expose()) } else { bytes };
    write(output, target, bytes.expose())?;
    session.screen.say(&format!("version {} of {key} is in {}", exported.version, output.display()));
    Ok(Exit::Ok)
}

/// What goes to the cluster as it is. It is read into a buffer that does not grow, and leaves no copy behind.
fn read(file: Option<&Path>) -> Result<SecretBytes, Failure> {
    read_most(file, MAX_JSON_BYTES)
}

/// A message, of which base64url makes four bytes of three.
fn message(file: Option<&Path>) -> Result<String, Failure> {
    read_most(file, MAX_MESSAGE_BYTES).map(|bytes| base64url(bytes.expose()))
}

fn read_most(file: Option<&Path>, most: usize) -> Result<SecretBytes, Failure> {
    let larger = "encrypt large things with `bulla encrypt`, and sign their digest with --prehashed";
    let limit = Limit { bytes: most as u64, larger };
    file.map_or_else(|| input::stdin(limit), |path| input::file(path, limit)).map(SecretBytes::new)
}

/// A new file with mode 0600, which appears once it is written whole.
fn new_file(path: &Path) -> Result<FileOutput, Failure> {
    FileOutput::create(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Conflict, format!("{} exists, and nothing is overwritten", path.display()))
                .hint("choose another file with -o")
        }
        _ => Failure::file("cannot write", path, &error),
    })
}

fn write(path: &Path, mut file: FileOutput, bytes: &[u8]) -> Result<(), Failure> {
    file.write_all(bytes).and_then(|()| file.commit()).map_err(|error| Failure::file("cannot write", path, &error))
}

fn unreadable() -> Failure {
    Failure::new(Exit::Untrusted, "the cluster's answer is malformed")
        .hint("compare `bulla version` with the version that `bulla status` shows")
}

/// A private key as the API takes it.
fn key_bytes(kind: KeyKind, file: SecretBytes) -> Result<SecretBytes, Failure> {
    let begins_as_pem = file.expose().trim_ascii_start().starts_with(b"-----BEGIN ");
    if !kind.signs() || !begins_as_pem {
        return Ok(file);
    }
    let text = std::str::from_utf8(file.expose()).ok();
    text.and_then(|text| pem::read("PRIVATE KEY", text)).ok_or_else(|| {
        Failure::new(Exit::Failed, "the file is no PKCS#8 private key in PEM")
            .hint("`openssl pkcs8 -topk8 -nocrypt -in FILE` writes one of keys in other forms")
    })
}

fn told(
    session: &Session<'_>,
    key: &TransitKey,
    FormatArgs { format }: FormatArgs,
    text: &str,
) -> Result<Exit, Failure> {
    if format == Format::Json {
        return session.screen.json(key).map(|()| Exit::Ok);
    }
    session.screen.say(text);
    Ok(Exit::Ok)
}

fn show(session: &Session<'_>, key: &TransitKey, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    if format == Format::Json {
        return session.screen.json(key).map(|()| Exit::Ok);
    }
    let encrypts = match key.min_encryption_version {
        0 => "the newest alone".to_owned(),
        version => format!("from {version} on"),
    };
    session.screen.pairs(&[
        ("name", key.name.to_string()),
        ("kind", key.kind.to_string()),
        ("newest version", key.latest_version.to_string()),
        ("decrypt and verify", format!("from {} on", key.min_decryption_version)),
        ("encrypt and sign", encrypts),
        ("exportable", key.exportable.to_string()),
        ("deletion allowed", key.deletion_allowed.to_string()),
    ])?;
    let rows: Vec<Vec<String>> =
        key.versions.iter().map(|version| vec![version.version.to_string(), time(version.created_ms)]).collect();
    session.screen.table(&["VERSION", "MADE"], &rows)?;
    Ok(Exit::Ok)
}

fn public(session: &Session<'_>, key: &TransitKey, version: Option<u32>) -> Result<Exit, Failure> {
    let wanted = version.unwrap_or(key.latest_version);
    let Some(found) = key.versions.iter().find(|version| version.version == wanted) else {
        return Err(Failure::new(Exit::NotFound, format!("{} has no version {wanted}", key.name))
            .hint("`bulla transit read` shows the versions"));
    };
    let Some(text) = &found.public_key else {
        return Err(Failure::new(Exit::NotFound, format!("a key of kind {} has no public key", key.kind))
            .hint("keys of kind ed25519, ecdsa-* and rsa-* have one"));
    };
    session.screen.bytes(text.as_bytes()).map(|()| Exit::Ok)
}

async fn list(session: &Session<'_>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (mut names, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = client.transit_list(after.as_deref(), Some(PAGE)).await?;
        names.extend(page.names);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    names.sort();
    if format == Format::Json {
        return session.screen.json(&TransitKeys { names, next: None }).map(|()| Exit::Ok);
    }
    names.iter().try_for_each(|name| session.screen.line(name.as_str()))?;
    Ok(Exit::Ok)
}
