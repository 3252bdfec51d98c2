//! How tokens of Google are obtained. One source is named in the configuration; none is searched for.

use crate::provider::cloud::credentials::{Issued, Issuer};
use crate::provider::cloud::oauth::token;
use crate::provider::cloud::{self, Place, Text, file, form, text_file, word};
use crate::provider::http::{Http, Origin};
use crate::provider::{Answer, Class, ProviderError};
use bulla_crypto::jwt::{Algorithm, JwtKey};
use bulla_crypto::secret::{Secret, SecretBytes};
use http::{Method, Request};
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::SystemTime;

/// Where the machine's metadata service is; its name, which Google's own libraries use, would need a resolver.
const METADATA: &str = "http://169.254.169.254";
/// What a token allows.
const SCOPE: &str = "https://www.googleapis.com/auth/cloudkms";
/// How long an assertion is good for, in seconds.
const ASSERTION_SECONDS: u64 = 3600;

/// How tokens are obtained.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A file of Google's: the key of a service account, or the configuration of a workload identity federation whose
    /// token lies in a file.
    File {
        /// The file, read at each renewal.
        path: PathBuf,
    },
    /// The service account of the machine, by its metadata service.
    Metadata {
        /// The account, if the machine has several.
        #[serde(default = "default_account")]
        account: String,
        /// The metadata service, if it is not at 169.254.169.254.
        #[serde(default, deserialize_with = "cloud::link_local")]
        endpoint: Option<Origin>,
    },
}

fn default_account() -> String {
    "default".to_owned()
}

/// Gives tokens.
pub enum Tokens {
    File { path: PathBuf, ca: Option<PathBuf> },
    Metadata { http: Box<Http>, path: String },
}

/// Longest email of a service account, in bytes: 30 of its name, 30 of the project, and the domain.
const MAX_ACCOUNT_BYTES: usize = 128;

impl Tokens {
    /// Makes ready to ask.
    pub fn open(source: &Source, ca: Option<&Path>) -> Result<Self, ProviderError> {
        match source.clone() {
            Source::File { path } => Ok(Self::File { path, ca: ca.map(Path::to_owned) }),
            Source::Metadata { account, endpoint } => {
                let config = |text: &str| ProviderError::new(Class::Config, text);
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
                if !(1..=MAX_ACCOUNT_BYTES).contains(&account.len()) || !account.bytes().all(plain) {
                    return Err(config("account: expected default, or the email of a service account"));
                }
                let own = || Origin::link_local(METADATA).map_err(config);
                let path = format!("/computeMetadata/v1/instance/service-accounts/{account}/token");
                let http = Box::new(Http::new(endpoint.map_or_else(own, Ok)?, ca, None));
                Ok(Self::Metadata { http, path })
            }
        }
    }
}

impl Issuer for Tokens {
    type Credential = Text;

    fn issue(&self) -> Answer<'_, Issued<Text>> {
        Box::pin(async move {
            match self {
                Self::Metadata { http, path } => {
                    http.renewed().await?;
                    let request = Request::builder().header("metadata-flavor", "Google");
                    token(http, request, path, SecretBytes::new(Vec::new()), "this machine's account").await
                }
                Self::File { path, ca } => {
                    let of = Of { path, ca: ca.as_deref() };
                    match of.parse(&file(path).await?)? {
                        Known::ServiceAccount(account) => of.account(&account).await,
                        Known::ExternalAccount(external) => of.external(&external).await,
                    }
                }
            }
        })
    }
}

/// What a file of Google's holds, as far as it is used.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(in crate::provider) enum Known {
    ServiceAccount(ServiceAccount),
    ExternalAccount(ExternalAccount),
}

#[derive(Deserialize)]
pub(in crate::provider) struct ServiceAccount {
    client_email: String,
    private_key_id: String,
    #[serde(deserialize_with = "secret")]
    private_key: Secret<String>,
    token_uri: String,
}

#[derive(Deserialize)]
pub(in crate::provider) struct ExternalAccount {
    audience: String,
    subject_token_type: String,
    token_url: String,
    credential_source: CredentialSource,
    service_account_impersonation_url: Option<String>,
}

#[derive(Deserialize)]
struct CredentialSource {
    file: Option<PathBuf>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Format {
    #[default]
    Text,
    Json {
        subject_token_field_name: String,
    },
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// A file of Google's, and who judges the certificates of what it names.
pub(in crate::provider) struct Of<'a> {
    pub path: &'a Path,
    pub ca: Option<&'a Path>,
}

impl Of<'_> {
    fn unfit(&self, what: &str) -> ProviderError {
        ProviderError::new(Class::Config, format!("{}: {what}", self.path.display()))
    }

    pub fn parse(&self, bytes: &SecretBytes) -> Result<Known, ProviderError> {
        serde_json::from_slice(bytes.expose()).map_err(|error| {
            // What serde says of a wrong value would repeat it.
            let what = format!(
                "neither the key of a service account nor an external_account of Google's (line {} column {})",
                error.line(),
                error.column()
            );
            self.unfit(&what)
        })
    }

    fn http(&self, field: &str, url: &str) -> Result<(Http, String), ProviderError> {
        let place = Place::parse(url, Origin::from_str).map_err(|text| self.unfit(&format!("{field}: {text}")))?;
        Ok((Http::new(place.origin, self.ca, None), place.path))
    }

    /// A token for an assertion that the account's key signs (RFC 7523 §2.1).
    async fn account(&self, account: &ServiceAccount) -> Result<Issued<Text>, ProviderError> {
        let (http, path) = self.http("token_uri", &account.token_uri)?;
        let signs = JwtKey::from_pem(account.private_key.expose());
        let signs = signs.map_err(|error| self.unfit(&format!("private_key: {error}")))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let claims = serde_json::json!({
            "iss": account.client_email, "scope": SCOPE, "aud": account.token_uri,
            "iat": now, "exp": now.saturating_add(ASSERTION_SECONDS),
        });
        let header = ("kid", word(&account.private_key_id));
        let assertion = signs
            .token(Algorithm::Rs256, header, claims.to_string().as_bytes())
            .map_err(|error| self.unfit(&format!("private_key: {error}")))?;
        let assertion = std::str::from_utf8(assertion.expose()).unwrap_or_default();
        let body = form(&[("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)]);
        let request = Request::builder().method(Method::POST);
        token(&http, request, &path, body, &format!("the account of {}", self.path.display())).await
    }

    /// A token for that of another issuer (RFC 8693 §2.1).
    async fn external(&self, external: &ExternalAccount) -> Result<Issued<Text>, ProviderError> {
        if external.service_account_impersonation_url.is_some() {
            return Err(self.unfit(
                "service_account_impersonation_url: not done; give the rights on the key to the federated identity itself",
            ));
        }
        let source = external.credential_source.file.as_deref();
        let source = source.ok_or_else(|| self.unfit("credential_source: only a file is read"))?;
        let subject = match &external.credential_source.format {
            Format::Text => text_file(source).await?,
            Format::Json { subject_token_field_name } => {
                let document = file(source).await?;
                let mut fields: std::collections::BTreeMap<String, serde_json::Value> =
                    serde_json::from_slice(document.expose())
                        .map_err(|_| self.unfit("credential_source: its file is no JSON object"))?;
                let field = fields.remove(subject_token_field_name);
                let subject = field.as_ref().and_then(|field| Text::new(field.as_str()?.as_bytes()));
                subject.ok_or_else(|| self.unfit("credential_source: its file lacks the field of the token"))?
            }
        };
        let (http, path) = self.http("token_url", &external.token_url)?;
        let body = form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", &external.audience),
            ("scope", SCOPE),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("subject_token_type", &external.subject_token_type),
            ("subject_token", subject.expose()),
        ]);
        let request = Request::builder().method(Method::POST);
        token(&http, request, &path, body, &format!("the identity of {}", self.path.display())).await
    }
}
