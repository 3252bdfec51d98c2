//! TLS to databases: a certificate for the configured host, by the configured authorities or the system's.

use super::DatabaseError;
use bulla_core::engine::database::Connection;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt::Display;
use std::sync::Arc;

/// How the database's certificate is judged, and for which name.
pub fn client(connection: &Connection) -> Result<(Arc<ClientConfig>, ServerName<'static>), DatabaseError> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities(connection)? {
        roots.add(certificate).map_err(unfit)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(connection.host.clone()).map_err(unfit)?;
    Ok((Arc::new(config), name))
}

/// The authorities that may have signed its certificate. Of the system's those that cannot be read are passed over.
pub fn authorities(connection: &Connection) -> Result<Vec<CertificateDer<'static>>, DatabaseError> {
    let certificates = match &connection.ca {
        Some(pem) => CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(unfit)?,
        None => readable(rustls_native_certs::load_native_certs().certs),
    };
    if certificates.is_empty() {
        return Err(unfit("there is no authority to judge its certificate by; give its CA"));
    }
    Ok(certificates)
}

/// Those that rustls takes.
fn readable(certificates: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    certificates.into_iter().filter(|one| RootCertStore::empty().add(one.clone()).is_ok()).collect()
}

fn unfit(error: impl Display) -> DatabaseError {
    DatabaseError::Unreachable(format!("TLS: {error}"))
}
