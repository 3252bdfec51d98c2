//! TLS 1.3, and nothing older. What is secret lies in an envelope of its own, and clients judge an answer by the
//! node's signature under it; TLS keeps paths, names and timing from the line, and proxies out of the middle.
//!
//! No session tickets and no early data: nothing of a connection outlives it, and nothing can be replayed into one. So
//! who is known by a client certificate has shown its key in each connection.

pub mod client;

use crate::config;
use bulla_crypto::secret::SecretBytes;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Name of the node's own certificate and key in the data directory.
pub const OWN_FILE: &str = "tls.pem";

/// Why there is no TLS.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file does not hold the PEM that it should.
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Others may read the file with the private key.
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Certificate and key do not fit each other, or the library does not take them.
    Unfit(rustls::Error),
    /// The node's own certificate cannot be made.
    Own(rcgen::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, .. } => write!(f, "TLS: cannot read or write {}", path.display()),
            Self::Pem { path, problem } => write!(f, "TLS: {}: {problem}", path.display()),
            Self::Mode { path, mode } => {
                write!(f, "TLS: {} has mode {mode:04o}, so others may read its key", path.display())
            }
            Self::Unfit(_) => f.write_str("TLS: the certificate and its key are not taken"),
            Self::Own(_) => f.write_str("TLS: cannot make a certificate"),
        }
    }
}
impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Unfit(source) => Some(source),
            Self::Own(source) => Some(source),
            Self::Pem { .. } | Self::Mode { .. } => None,
        }
    }
}

/// Where the certificate comes from.
#[derive(Debug)]
enum Origin {
    /// The operator's files.
    Files(config::CertificateFiles),
    /// Made once, kept in the data directory.
    Own(PathBuf),
    /// Made for this process.
    Memory,
}

/// The listener's TLS, whose certificate can be read again while it serves.
#[derive(Debug)]
pub struct Tls {
    origin: Origin,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the certificate that `settings` names; without one the node's own in `data`, made if it is not there, or
    /// without a data directory one for this process.
    pub fn open(settings: &config::Tls, data: Option<&Path>) -> Result<Self, TlsError> {
        let origin = match (&settings.files, data) {
            (Some(files), _) => Origin::Files(files.clone()),
            (None, Some(data)) => Origin::Own(data.join(OWN_FILE)),
            (None, None) => Origin::Memory,
        };
        let provider = Arc::new(provider(settings.require_pq));
        let signatures = provider.signature_verification_algorithms;
        let current = Arc::new(Current(RwLock::new(read(&origin, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(TlsError::Unfit)?
            .with_client_cert_verifier(Arc::new(client::AnyKey::new(signatures)))
            .with_cert_resolver(Arc::<Current>::clone(&current));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self { origin, current, config: Arc::new(config) })
    }

    /// What the listener takes.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reads the operator's files again; connections made from now on see them. After an error the old certificate
    /// stays. The node's own certificate does not change.
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Origin::Files(_) = self.origin {
            let fresh = read(&self.origin, self.config.crypto_provider())?;
            *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        Ok(())
    }
}

/// The certificate in use.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// X25519MLKEM768 first; plain X25519 second, since what is secret lies in a hybrid envelope anyway, unless the
/// operator forbids it.
fn provider(require_pq: bool) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    if !require_pq {
        provider.kx_groups.push(aws_lc_rs::kx_group::X25519);
    }
    provider
}

fn read(origin: &Origin, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, key) = match origin {
        Origin::Files(files) => {
            let chain = read_file(&files.cert)?;
            let key = SecretBytes::new(read_file(&files.key)?);
            (certificates(&files.cert, &chain)?, private_key(&files.key, key.expose())?)
        }
        Origin::Own(path) => {
            let pem = match std::fs::metadata(path) {
                Ok(found) => {
                    let mode = found.permissions().mode() & 0o777;
                    if mode & 0o077 != 0 {
                        return Err(TlsError::Mode { path: path.clone(), mode });
                    }
                    SecretBytes::new(read_file(path)?)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let pem = make()?;
                    keep(path, pem.expose()).map_err(|source| TlsError::Io { path: path.clone(), source })?;
                    pem
                }
                Err(source) => return Err(TlsError::Io { path: path.clone(), source }),
            };
            (certificates(path, pem.expose())?, private_key(path, pem.expose())?)
        }
        Origin::Memory => {
            let (path, pem) = (Path::new("memory"), make()?);
            (certificates(path, pem.expose())?, private_key(path, pem.expose())?)
        }
    };
    // Checks as well that the key is the certificate's.
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(TlsError::Unfit)?;
    Ok(Arc::new(certified))
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Io { path: path.to_owned(), source })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |problem: String| TlsError::Pem { path: path.to_owned(), problem };
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| fault(e.to_string()))?;
    if chain.is_empty() { Err(fault("no \"BEGIN CERTIFICATE\" in it".into())) } else { Ok(chain) }
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| TlsError::Pem { path: path.to_owned(), problem: format!("no private key in it: {error}") })
}

/// A P-256 key and a certificate for it that names nobody: no client of ours looks at what it says.
fn make() -> Result<SecretBytes, TlsError> {
    let key = rcgen::KeyPair::generate().map_err(TlsError::Own)?;
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).map_err(TlsError::Own)?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "bulla");
    let certificate = parameters.self_signed(&key).map_err(TlsError::Own)?;
    let mut pem = certificate.pem().into_bytes();
    let key = SecretBytes::new(key.serialize_pem().into_bytes());
    pem.reserve_exact(key.expose().len());
    pem.extend_from_slice(key.expose());
    Ok(SecretBytes::new(pem))
}

/// Written beside and renamed, so that a crash leaves either no file or a whole one.
fn keep(path: &Path, pem: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("pem.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(pem)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(files: Option<config::CertificateFiles>) -> config::Tls {
        config::Tls { files, require_pq: false }
    }

    fn leaf(tls: &Tls) -> Vec<u8> {
        tls.current.0.read().expect("a lock").cert[0].to_vec()
    }

    #[test]
    fn keeps_its_own_certificate() {
        let data = tempfile::tempdir().expect("a directory");
        let first = Tls::open(&settings(None), Some(data.path())).expect("TLS");
        let path = data.path().join(OWN_FILE);
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Tls::open(&settings(None), Some(data.path())).expect("TLS");
        assert_eq!(leaf(&first), leaf(&second));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("a mode");
        let refused = Tls::open(&settings(None), Some(data.path()));
        assert!(matches!(refused, Err(TlsError::Mode { mode: 0o640, .. })));
        let memory = Tls::open(&settings(None), None).expect("TLS");
        assert_ne!(leaf(&memory), leaf(&first));
    }

    #[test]
    fn reads_files_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = config::CertificateFiles {
            cert: directory.path().join("server.crt"),
            key: directory.path().join("server.key"),
        };
        let write = || {
            let pem = make().expect("a certificate");
            std::fs::write(&files.cert, pem.expose()).expect("a file");
            std::fs::write(&files.key, pem.expose()).expect("a file");
        };
        write();
        let tls = Tls::open(&settings(Some(files.clone())), None).expect("TLS");
        let before = leaf(&tls);
        tls.reload().expect("the same");
        assert_eq!(leaf(&tls), before);
        write();
        tls.reload().expect("another");
        let after = leaf(&tls);
        assert_ne!(after, before);
        // A certificate without its key is refused, and the old one stays.
        let other = make().expect("a certificate");
        std::fs::write(&files.cert, other.expose()).expect("a file");
        assert!(matches!(tls.reload(), Err(TlsError::Unfit(_))));
        std::fs::write(&files.cert, "nothing").expect("a file");
        assert!(matches!(tls.reload(), Err(TlsError::Pem { .. })));
        assert_eq!(leaf(&tls), after);
    }
}
