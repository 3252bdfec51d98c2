//! Certificates for OpenBao and its clients, all ECDSA P-256 as our server's own, and TLS that uses them.

use crate::Fault;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite::TLS13_AES_256_GCM_SHA384};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// Who signs them.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A client's certificate and key.
pub struct Credential {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self, Fault> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "bench");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = parameters.self_signed(&key)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Ok(Self { issuer: Issuer::new(parameters, key), certificate: der, pem })
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate and key.
    pub fn server(&self) -> Result<(String, String), Fault> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok((parameters.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// A client's.
    pub fn client(&self, name: &str) -> Result<Credential, Fault> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Credential { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
    }

    /// TLS of a client that knows this authority, and remembers no session. What it offers is what our server chooses
    /// when our client asks: TLS 1.3, one cipher suite, and the groups of our client, the hybrid one first.
    pub fn tls(&self, credential: Option<&Credential>) -> Result<Arc<ClientConfig>, Fault> {
        let provider =
            CryptoProvider { cipher_suites: vec![TLS13_AES_256_GCM_SHA384], ..aws_lc_rs::default_provider() };
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        Ok(Arc::new(match credential {
            Some(Credential { certificate, key }) => {
                config.with_client_auth_cert(vec![certificate.clone()], key.clone_key())?
            }
            None => config.with_no_client_auth(),
        }))
    }
}
