//! TLS 1.3, hybrid key exchange first.
//!
//! Any certificate is taken: who answers is proven by the signature on each answer, which a middleman cannot
//! make, and secret bytes are encrypted to keys that chain from the pin. TLS hides metadata from listeners. With
//! certificate authorities given, the certificate must be theirs besides.

use crate::ClientError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Which certificates are taken.
#[derive(Debug, Clone, Default)]
pub(crate) enum Authorities {
    /// Any.
    #[default]
    None,
    /// Those that these authorities vouch for; a PEM file.
    File(PathBuf),
}

pub(super) fn configuration(authorities: &Authorities) -> Result<ClientConfig, ClientError> {
    let provider =
        Arc::new(CryptoProvider { kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519], ..default_provider() });
    let refused = |error: Error| {
        ClientError::input(format!("cannot set up TLS: {error}"), "check the file of authorities, if one is given")
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?;
    let verifier: Arc<dyn ServerCertVerifier> = match authorities {
        Authorities::None => Arc::new(AnyCertificate(provider)),
        Authorities::File(path) => {
            let failed = |cause| ClientError::io("cannot read certificates from", path.clone(), cause);
            let mut roots = RootCertStore::empty();
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(io::Error::other(error)))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| failed(io::Error::other(error)))?;
                roots.add(certificate).map_err(|error| failed(io::Error::other(error)))?;
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            verifier.map_err(|error| failed(io::Error::other(error)))?
        }
    };
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Takes any certificate, but checks that the other side holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // TLS 1.2 is not offered.
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_first_and_nothing_below_tls_13() {
        let configuration = configuration(&Authorities::None).unwrap();
        let groups: Vec<_> = configuration.crypto_provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [rustls::NamedGroup::X25519MLKEM768, rustls::NamedGroup::X25519]);
        let missing = Authorities::File("/nonexistent/ca.pem".into());
        assert!(super::configuration(&missing).is_err());
    }
}
