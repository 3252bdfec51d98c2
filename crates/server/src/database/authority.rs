//! Certificates of a database's users: made by the authority of the database for a key that the client holds.

use bulla_core::engine::database::{Authority, Password};
use bulla_core::operation::{Fault, Refusal};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::sign::{Algorithm, PublicKey, RsaMinimum};
use bulla_wire::encoding::{base32, base64url_decode};
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm,
};
use std::time::Duration;

/// How long before it is made a certificate is valid, in milliseconds: clocks of databases may be a little behind.
const BEFORE_MS: u64 = 60_000;
/// Longest public key in bytes of base64url: those of the kinds that are taken have half of it.
const MAX_KEY_TEXT: usize = 256;

/// A key that somebody wants a certificate for.
pub struct ClientKey {
    key: PublicKey,
    algorithm: &'static SignatureAlgorithm,
}

impl ClientKey {
    /// Reads base64url of a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// If it is none, or of a kind that is not taken.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = |reason: String| {
            let hint = "give base64url of the DER of a public key of P-256, P-384 or Ed25519 (SubjectPublicKeyInfo)";
            Refusal::new(Code::Malformed, reason).field("public_key").hint(hint)
        };
        let spki = if text.len() > MAX_KEY_TEXT { None } else { base64url_decode(text) };
        let spki = spki.ok_or_else(|| bad("the public key is not base64url of a few bytes".to_owned()))?;
        let key = PublicKey::from_spki(&spki, RsaMinimum::Bits3072).map_err(|error| bad(error.to_string()))?;
        let algorithm = match key.algorithm() {
            Algorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Algorithm::Ed25519 => &rcgen::PKCS_ED25519,
            Algorithm::RsaPssSha512 => return Err(bad("keys of RSA are not taken".to_owned())),
        };
        Ok(Self { key, algorithm })
    }
}

impl PublicKeyData for ClientKey {
    fn der_bytes(&self) -> &[u8] {
        self.key.ec_point().or_else(|| self.key.ed25519().map(<[u8; 32]>::as_slice)).unwrap_or_default()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

fn named(subject: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, subject);
    parameters
}

/// What the authority's own certificate says. It signs users and no other authorities. It ends with its database and
/// not by a date, so it names none (RFC 5280 §4.1.2.5).
fn own(subject: &str) -> CertificateParams {
    let mut parameters = named(subject);
    parameters.not_before = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(9999, 12, 31);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters
}

fn fault(_: rcgen::Error) -> Fault {
    Fault::Key("authority of a database")
}

/// A new authority, which is stored if the database has none.
///
/// # Errors
/// If no key can be made.
pub fn make(database: &Name) -> Result<Authority, Fault> {
    // Another database of this name elsewhere has another one, and a server may trust both.
    let subject = format!("bulla {database} {}", base32(&draw::<5>(&mut SystemRng)));
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(fault)?;
    let certificate = own(&subject).self_signed(&key).map_err(fault)?.pem();
    Ok(Authority { subject, certificate, key: Password::new(key.serialize_pem()) })
}

/// A certificate for a user and the key of whoever asked for it, until its lease ends; PEM.
///
/// # Errors
/// If the authority's key does not work.
pub fn sign(authority: &Authority, user: &str, key: &ClientKey, now_ms: u64, until_ms: u64) -> Result<String, Fault> {
    let signing = KeyPair::from_pem(authority.key.expose()).map_err(fault)?;
    let own = own(&authority.subject);
    let issuer = Issuer::from_params(&own, signing);
    let at = |ms: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(ms / 1000);
    let mut parameters = named(user);
    let mut serial = draw::<16>(&mut SystemRng);
    // A positive number (RFC 5280 §4.1.2.2) of this length.
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.not_before = at(now_ms.saturating_sub(BEFORE_MS));
    parameters.not_after = at(until_ms);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters.signed_by(key, &issuer).map_err(fault)?.pem())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::certificate::Certificate;
    use bulla_wire::encoding::base64url;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    #[test]
    fn a_certificate_is_for_the_key_and_the_time_of_the_lease() {
        let authority = make(&"app".parse().unwrap()).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let spki = pair.subject_public_key_info();
            let key = ClientKey::parse(&base64url(&spki)).unwrap();
            let pem = sign(&authority, "bulla_reader_x", &key, 1_800_000_000_999, 1_800_000_600_999).unwrap();
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let certificate = Certificate::parse(&der).unwrap();
            assert_eq!(certificate.spki(), spki);
            for (second, valid) in [(-61, false), (-60, true), (600, true), (601, false)] {
                let at = 1_800_000_000_i64 + second;
                assert_eq!(certificate.check_time(u64::try_from(at).unwrap()).is_ok(), valid, "{second}");
            }
        }
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072).unwrap();
        let p256 = base64url(&KeyPair::generate().unwrap().subject_public_key_info());
        for text in ["", "x y", "AAAA", &p256[..p256.len() - 4], &base64url(&rsa.subject_public_key_info())] {
            let refusal = ClientKey::parse(text).err().unwrap();
            assert_eq!(refusal.field.as_deref(), Some("public_key"), "{text}");
        }
    }
}
