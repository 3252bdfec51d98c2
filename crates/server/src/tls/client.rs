//! Client certificates: whoever makes a connection may show that it holds a key.
//!
//! Any certificate is taken, by whomever it was issued, and says nothing but its key: whether that key is anybody's is
//! asked by the gate, for each request. So the handshake goes the same way for strangers and for callers.

use bulla_crypto::certificate::{Certificate, CertificateError};
use bulla_wire::id::KeyId;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    ServerConnection, SignatureScheme,
};

/// The schemes of the four algorithms that a record's keys can have; the first that a client has a key for is used.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// The key of the certificate with which the other side made the connection. Only the first certificate counts: the
/// handshake was signed with its key.
pub fn key(connection: &ServerConnection) -> Option<KeyId> {
    let first = connection.peer_certificates()?.first()?;
    Certificate::parse(first).ok().map(|certificate| certificate.key_id())
}

/// Takes no certificate, or any for whose key the handshake is signed.
#[derive(Debug)]
pub struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyKey {
    /// Verifies with these algorithms, as far as records take them.
    pub const fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { algorithms }
    }
}

impl ClientCertVerifier for AnyKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let judged = Certificate::parse(end_entity).and_then(|certificate| certificate.check_time(now.as_secs()));
        judged.map(|()| ClientCertVerified::assertion()).map_err(|error| {
            Error::InvalidCertificate(match error {
                CertificateError::Malformed => TlsCertificateError::BadEncoding,
                CertificateError::NotYet => TlsCertificateError::NotValidYet,
                CertificateError::Expired => TlsCertificateError::Expired,
            })
        })
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        // Never asked: the listener speaks TLS 1.3 alone.
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        if !SCHEMES.contains(&signature.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let malformed = |_| Error::InvalidCertificate(TlsCertificateError::BadEncoding);
        let certificate = Certificate::parse(certificate).map_err(malformed)?;
        // The bytes whose digest is the key id, so nothing can be verified with another key than is named.
        let key = SubjectPublicKeyInfoDer::from(certificate.spki());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::digest::sha256;
    use bulla_crypto::random::{Rng, SeededRng};
    use bulla_testkit::tls::{certificate, key_pair};
    use rcgen::PublicKeyData as _;

    /// A number below this one.
    fn below(rng: &mut SeededRng, end: usize) -> usize {
        let mut bytes = [0; 8];
        rng.fill(&mut bytes);
        usize::try_from(u64::from_be_bytes(bytes) % u64::try_from(end).expect("small")).expect("small")
    }

    /// Changes some bytes, cuts some out, or puts some in.
    fn mutate(rng: &mut SeededRng, bytes: &mut Vec<u8>) {
        let at = below(rng, bytes.len());
        let length = 1 + below(rng, 8).min(bytes.len() - at - 1);
        let mut fresh = vec![0; length];
        rng.fill(&mut fresh);
        match below(rng, 4) {
            0 => bytes[at] ^= 1 << below(rng, 8),
            1 => bytes[at..at + length].copy_from_slice(&fresh),
            2 => drop(bytes.drain(at..at + length)),
            _ => drop(bytes.splice(at..at, fresh)),
        }
    }

    /// Whatever is done to a certificate: it never names another's key, and its own only if the key is as it was.
    #[test]
    fn no_altered_certificate_names_a_known_key() {
        let mut rng = SeededRng::from_u64(8250);
        let keys: Vec<_> = (0..3).map(|_| bulla_crypto::sign::SigningKey::generate(&mut rng).expect("a key")).collect();
        let pairs: Vec<_> = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384]
            .map(|algorithm| rcgen::KeyPair::generate_for(algorithm).expect("a key"))
            .into_iter()
            .chain(keys.iter().map(key_pair))
            .collect();
        let made: Vec<_> = pairs
            .iter()
            .map(|pair| rcgen::CertificateParams::default().self_signed(pair).expect("a certificate").der().to_vec())
            .collect();
        let known: Vec<_> = pairs.iter().map(|pair| KeyId::new(sha256(&[&pair.subject_public_key_info()]))).collect();
        let rounds = if bulla_testkit::long() { 1_000_000 } else { 50_000 };
        let (mut refused, mut nobodys, mut own) = (0, 0, 0);
        for round in 0..rounds {
            let which = round % pairs.len();
            let spki = pairs[which].subject_public_key_info();
            let mut bytes = made[which].clone();
            assert_eq!(Certificate::parse(&bytes).expect("a certificate").key_id(), known[which]);
            let begin = bytes.windows(spki.len()).position(|window| window == spki).expect("its key");
            // One change in its key alone, or some anywhere.
            let aimed = round % 3 == 0;
            if aimed {
                bytes[begin + below(&mut rng, spki.len())] ^= 1 << below(&mut rng, 8);
            } else {
                (0..=below(&mut rng, 3)).for_each(|_| mutate(&mut rng, &mut bytes));
            }
            match Certificate::parse(&bytes).map(|certificate| certificate.key_id()) {
                Err(_) => refused += 1,
                Ok(key) if key == known[which] => {
                    own += 1;
                    assert!(!aimed && bytes.windows(spki.len()).any(|window| window == spki), "{bytes:02x?}");
                }
                Ok(key) => {
                    nobodys += 1;
                    assert!(!known.contains(&key), "{bytes:02x?}");
                }
            }
        }
        assert!(refused > rounds / 10 && nobodys > rounds / 50 && own > rounds / 50, "{refused} {nobodys} {own}");
    }

    #[test]
    fn another_scheme_is_not_taken() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let verifier = AnyKey::new(provider.signature_verification_algorithms);
        assert_eq!(verifier.supported_verify_schemes().len(), 4);
        assert!(verifier.offer_client_auth() && !verifier.client_auth_mandatory());
        let key = bulla_crypto::sign::SigningKey::generate(&mut SeededRng::from_u64(1)).expect("a key");
        let shown = certificate(&key, |_| {});
        assert!(verifier.verify_client_cert(&shown.cert[0], &[], UnixTime::now()).is_ok());
        assert!(verifier.verify_client_cert(&CertificateDer::from(vec![0x30]), &[], UnixTime::now()).is_err());
    }
}
