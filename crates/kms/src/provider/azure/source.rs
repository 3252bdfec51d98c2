//! How tokens of Entra ID are obtained. One source is named in the configuration; none is searched for.

use crate::provider::cloud::credentials::{Issued, Issuer};
use crate::provider::cloud::oauth::token;
use crate::provider::cloud::{self, Text, file, form, text_file};
use crate::provider::http::{Http, Origin};
use crate::provider::{Answer, Class, ProviderError};
use bulla_crypto::digest::sha256;
use bulla_crypto::jwt::{Algorithm, JwtKey};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::encoding::base64url;
use http::{Method, Request};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where the machine's metadata service is.
const METADATA: &str = "http://169.254.169.254";
/// How long an assertion is good for, in seconds.
const ASSERTION_SECONDS: u64 = 300;
/// The kind of an assertion that is a JSON Web Token (RFC 7523 §2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How tokens are obtained.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// An application with a client secret.
    ClientSecret {
        /// The tenant's id.
        tenant: Id,
        /// The application's (client) id.
        client: Id,
        /// The file with the secret, read at each renewal.
        secret_file: PathBuf,
        /// The authority, if it is not the one of the vault's cloud.
        #[serde(default, deserialize_with = "cloud::origin")]
        authority: Option<Origin>,
    },
    /// An application with a certificate.
    Certificate {
        /// The tenant's id.
        tenant: Id,
        /// The application's (client) id.
        client: Id,
        /// The PEM file with the certificate, read at each renewal.
        certificate: PathBuf,
        /// The PEM file with its RSA key, read at each renewal.
        key: PathBuf,
        /// The authority, if it is not the one of the vault's cloud.
        #[serde(default, deserialize_with = "cloud::origin")]
        authority: Option<Origin>,
    },
    /// An application, or a managed identity, that trusts the tokens of another issuer.
    WorkloadIdentity {
        /// The tenant's id.
        tenant: Id,
        /// The client id.
        client: Id,
        /// The file with the issuer's token, read at each renewal.
        token_file: PathBuf,
        /// The authority, if it is not the one of the vault's cloud.
        #[serde(default, deserialize_with = "cloud::origin")]
        authority: Option<Origin>,
    },
    /// The machine's managed identity, by its metadata service.
    ManagedIdentity {
        /// The client id of one that is assigned by a user; the machine's own if none is named.
        #[serde(default)]
        client: Option<Id>,
        /// The metadata service, if it is not at 169.254.169.254.
        #[serde(default, deserialize_with = "cloud::link_local")]
        endpoint: Option<Origin>,
    },
}

/// The id of a tenant or an application: a UUID or a domain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Id(String);

impl TryFrom<String> for Id {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text)) } else { Err("expected the id of a tenant or an application") }
    }
}

/// Gives tokens for a vault.
pub struct Tokens {
    http: Http,
    audience: Origin,
    from: Asker,
}

enum Asker {
    Application { tenant: String, client: String, proof: Proof },
    Machine { client: Option<String> },
}

/// What shows that it is the application who asks.
enum Proof {
    Secret(PathBuf),
    Certificate { certificate: PathBuf, key: PathBuf },
    Token(PathBuf),
}

impl Tokens {
    /// Makes ready to ask for tokens for `audience`.
    pub fn open(source: &Source, audience: &Origin, ca: Option<&Path>) -> Result<Self, ProviderError> {
        let (authority, from) = match source.clone() {
            Source::ClientSecret { tenant, client, secret_file, authority } => {
                (authority, application(tenant, client, Proof::Secret(secret_file)))
            }
            Source::Certificate { tenant, client, certificate, key, authority } => {
                (authority, application(tenant, client, Proof::Certificate { certificate, key }))
            }
            Source::WorkloadIdentity { tenant, client, token_file, authority } => {
                (authority, application(tenant, client, Proof::Token(token_file)))
            }
            Source::ManagedIdentity { client, endpoint } => {
                (endpoint, Asker::Machine { client: client.map(|client| client.0) })
            }
        };
        let own = || match &from {
            Asker::Machine { .. } => Origin::link_local(METADATA),
            Asker::Application { .. } => match audience.as_str().rsplit_once("azure.cn") {
                Some((_, "")) => "https://login.partner.microsoftonline.cn",
                _ if audience.as_str().ends_with(".usgovcloudapi.net") => "https://login.microsoftonline.us",
                _ => "https://login.microsoftonline.com",
            }
            .parse(),
        };
        let authority = authority.map_or_else(own, Ok).map_err(|text| ProviderError::new(Class::Config, text))?;
        Ok(Self { http: Http::new(authority, ca, None), audience: audience.clone(), from })
    }

    async fn of_application(&self, tenant: &str, client: &str, proof: &Proof) -> Result<Issued<Text>, ProviderError> {
        let path = format!("/{tenant}/oauth2/v2.0/token");
        let scope = format!("{}/.default", self.audience);
        let shown = match proof {
            Proof::Secret(path) | Proof::Token(path) => text_file(path).await?,
            Proof::Certificate { certificate, key } => {
                by_certificate(certificate, key, client, &format!("{}{path}", self.http.origin())).await?
            }
        };
        let mut fields = vec![("grant_type", "client_credentials"), ("client_id", client), ("scope", &scope)];
        match proof {
            Proof::Secret(_) => fields.push(("client_secret", shown.expose())),
            Proof::Token(_) | Proof::Certificate { .. } => {
                fields.extend([("client_assertion_type", JWT_BEARER), ("client_assertion", shown.expose())]);
            }
        }
        let request = Request::builder().method(Method::POST);
        token(&self.http, request, &path, form(&fields), &format!("the application {client}")).await
    }

    async fn of_machine(&self, client: Option<&str>) -> Result<Issued<Text>, ProviderError> {
        let resource = form(&[("resource", self.audience.as_str())]);
        let resource = std::str::from_utf8(resource.expose()).unwrap_or_default();
        let client = client.map_or_else(String::new, |client| format!("&client_id={client}"));
        let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&{resource}{client}");
        let request = Request::builder().header("metadata", "true");
        token(&self.http, request, &path, SecretBytes::new(Vec::new()), "this machine's identity").await
    }
}

fn application(tenant: Id, client: Id, proof: Proof) -> Asker {
    Asker::Application { tenant: tenant.0, client: client.0, proof }
}

impl Issuer for Tokens {
    type Credential = Text;

    fn issue(&self) -> Answer<'_, Issued<Text>> {
        Box::pin(async move {
            self.http.renewed().await?;
            match &self.from {
                Asker::Application { tenant, client, proof } => self.of_application(tenant, client, proof).await,
                Asker::Machine { client } => self.of_machine(client.as_deref()).await,
            }
        })
    }
}

/// A token that shows the certificate's key to Entra ID, good for a few minutes and for `audience` alone.
async fn by_certificate(certificate: &Path, key: &Path, client: &str, audience: &str) -> Result<Text, ProviderError> {
    let unfit = |path: &Path, what: &str| ProviderError::new(Class::Config, format!("{}: {what}", path.display()));
    let chain = file(certificate).await?;
    let shown = CertificateDer::from_pem_slice(chain.expose());
    let thumbprint = base64url(&sha256(&[&shown.map_err(|_| unfit(certificate, "there is no certificate in it"))?]));
    let signs = file(key).await?;
    let signs = std::str::from_utf8(signs.expose()).ok().and_then(|text| JwtKey::from_pem(text).ok());
    let signs = signs.ok_or_else(|| unfit(key, "there is no RSA key of 2048 bits or more alone in it"))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let claims = serde_json::json!({
        "aud": audience, "iss": client, "sub": client, "jti": base64url(&draw::<16>(&mut SystemRng)),
        "nbf": now, "iat": now, "exp": now.saturating_add(ASSERTION_SECONDS),
    });
    let token = signs.token(Algorithm::Ps256, ("x5t#S256", &thumbprint), claims.to_string().as_bytes());
    let token = token.map_err(|error| unfit(key, &error.to_string()))?;
    Text::new(token.expose()).ok_or_else(|| unfit(key, "its token is too long"))
}
