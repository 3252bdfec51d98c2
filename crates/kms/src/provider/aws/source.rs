//! Where credentials of AWS come from. One source is named in the configuration; none is searched for, and the environment
//! is not read, as it is seen by whoever may look at the process.

use crate::provider::cloud::credentials::{Issued, Issuer};
use crate::provider::cloud::{self, Place, Text, answer, file, form, text_file, word};
use crate::provider::http::{Http, Origin, Reply};
use crate::provider::{Answer, Class, ProviderError};
use bulla_crypto::secret::SecretBytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Deserializer};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Where the instance's metadata service is.
const INSTANCE: &str = "http://169.254.169.254";
/// How long the token for the metadata service lasts: it is used at once.
const INSTANCE_TOKEN_SECONDS: &str = "60";
/// How long a role's credentials last, in seconds: the least that every role allows.
const ROLE_SECONDS: &str = "3600";

/// Where the credentials come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A file in the shared format of AWS, read again when it changes.
    File {
        /// The file, such as `/etc/bulla/aws-credentials`.
        path: PathBuf,
        /// The section of the file; `default` if none is named.
        #[serde(default = "default_profile")]
        profile: String,
    },
    /// A role that is taken with the token of an identity provider (IRSA: `AssumeRoleWithWebIdentity`).
    WebIdentity {
        /// The ARN of the role.
        role: String,
        /// The file with the token, read at each renewal.
        token_file: PathBuf,
        /// The session's name, which CloudTrail shows; `bulla-kms` if none is named.
        #[serde(default = "default_session")]
        session: String,
        /// The endpoint of STS; that of the key's region if none is named.
        #[serde(default, deserialize_with = "cloud::origin")]
        endpoint: Option<Origin>,
    },
    /// The role of the EC2 instance, by its metadata service (IMDSv2 only).
    Instance {
        /// The metadata service, if it is not at 169.254.169.254.
        #[serde(default, deserialize_with = "cloud::link_local")]
        endpoint: Option<Origin>,
    },
    /// The role of the container (EKS Pod Identity, ECS).
    Container {
        /// The full URL, such as `http://169.254.170.23/v1/credentials`.
        #[serde(deserialize_with = "container")]
        uri: Place,
        /// The file with the token that is shown there, read at each renewal.
        #[serde(default)]
        token_file: Option<PathBuf>,
    },
}

fn default_profile() -> String {
    "default".to_owned()
}

fn default_session() -> String {
    "bulla-kms".to_owned()
}

fn container<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Place, D::Error> {
    Place::parse(&String::deserialize(deserializer)?, Origin::link_local).map_err(serde::de::Error::custom)
}

/// A credential of AWS.
pub struct AccessKey {
    /// The access key's id, which is no secret.
    pub id: String,
    /// The secret access key.
    pub secret: Text,
    /// The session's token, for credentials that end.
    pub session: Option<Text>,
}

/// Gives credentials from one [`Source`].
pub enum Keys {
    File { path: PathBuf, profile: String, seen: Mutex<Option<Stamp>> },
    WebIdentity { http: Http, role: String, token_file: PathBuf, session: String },
    Instance { http: Http },
    Container { http: Http, path: String, token_file: Option<PathBuf> },
}

/// What tells that a file is another one than before.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let seen = std::fs::metadata(path).ok()?;
    Some((seen.ino(), seen.size(), seen.mtime(), seen.mtime_nsec()))
}

impl Keys {
    /// Makes ready to ask; `sts` is the endpoint of STS in the key's region.
    pub fn open(source: &Source, ca: Option<&Path>, sts: Result<Origin, ProviderError>) -> Result<Self, ProviderError> {
        Ok(match source.clone() {
            Source::File { path, profile } => Self::File { path, profile, seen: Mutex::new(None) },
            Source::WebIdentity { role, token_file, session, endpoint } => {
                let origin = endpoint.map_or(sts, Ok)?;
                Self::WebIdentity { http: Http::new(origin, ca, None), role, token_file, session }
            }
            Source::Instance { endpoint } => {
                let own = || Origin::link_local(INSTANCE).map_err(|text| ProviderError::new(Class::Config, text));
                Self::Instance { http: Http::new(endpoint.map_or_else(own, Ok)?, ca, None) }
            }
            Source::Container { uri, token_file } => {
                Self::Container { http: Http::new(uri.origin, ca, None), path: uri.path, token_file }
            }
        })
    }
}

impl Issuer for Keys {
    type Credential = AccessKey;

    fn issue(&self) -> Answer<'_, Issued<AccessKey>> {
        Box::pin(async move {
            if let Self::WebIdentity { http, .. } | Self::Instance { http } | Self::Container { http, .. } = self {
                http.renewed().await?;
            }
            match self {
                Self::File { path, profile, seen } => {
                    let now = stamp(path);
                    let credential = shared(path, profile, &file(path).await?)?;
                    *seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
                    Ok(Issued { credential, ends: None })
                }
                Self::WebIdentity { http, role, token_file, session } => {
                    assume(http, role, &text_file(token_file).await?, session).await
                }
                Self::Instance { http } => instance(http).await,
                Self::Container { http, path, token_file } => {
                    let mut request = Request::builder();
                    if let Some(token_file) = token_file {
                        request = request.header(AUTHORIZATION, text_file(token_file).await?.header(""));
                    }
                    given(http.origin(), &http.call(request, path, empty()).await?)
                }
            }
        })
    }

    fn changed(&self) -> bool {
        match self {
            Self::File { path, seen, .. } => *seen.lock().unwrap_or_else(PoisonError::into_inner) != stamp(path),
            _ => false,
        }
    }
}

/// Reads a profile of a file in the shared format.
pub(in crate::provider) fn shared(path: &Path, profile: &str, bytes: &SecretBytes) -> Result<AccessKey, ProviderError> {
    let unfit =
        |what: &str| ProviderError::new(Class::Config, format!("{}: the profile {profile} {what}", path.display()));
    let (mut id, mut secret, mut session, mut inside, mut found) = (None, None, None, false, false);
    for line in bytes.expose().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if let Some(name) = line.strip_prefix(b"[").and_then(|line| line.strip_suffix(b"]")) {
            inside = name.trim_ascii() == profile.as_bytes();
            found |= inside;
        } else if inside && !line.starts_with(b"#") && !line.starts_with(b";") {
            let Some(at) = line.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = line.split_at(at);
            let place = match name.trim_ascii() {
                b"aws_access_key_id" => &mut id,
                b"aws_secret_access_key" => &mut secret,
                b"aws_session_token" => &mut session,
                _ => continue,
            };
            *place = Text::new(value.strip_prefix(b"=").unwrap_or_default());
        }
    }
    if !found {
        return Err(unfit("is not in it"));
    }
    let id = id.ok_or_else(|| unfit("lacks aws_access_key_id"))?.expose().to_owned();
    Ok(AccessKey { id, secret: secret.ok_or_else(|| unfit("lacks aws_secret_access_key"))?, session })
}

/// Takes a role with a token. The answer is XML, of which four elements matter.
async fn assume(http: &Http, role: &str, token: &Text, session: &str) -> Result<Issued<AccessKey>, ProviderError> {
    let body = form(&[
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", session),
        ("DurationSeconds", ROLE_SECONDS),
        ("WebIdentityToken", token.expose()),
    ]);
    let request = Request::builder().method(Method::POST).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let reply = http.call(request, "/", body).await?;
    let origin = http.origin();
    let text = std::str::from_utf8(reply.body.expose()).unwrap_or_default();
    if reply.status != StatusCode::OK {
        let code = element(text, "Code").map_or("an unknown code", word);
        let class = match (reply.status, code) {
            (StatusCode::TOO_MANY_REQUESTS, _) | (_, "Throttling" | "ThrottlingException") => Class::Throttled,
            (_, "IDPCommunicationError") => Class::Unavailable,
            (status, _) if status.is_server_error() => Class::Unavailable,
            _ => Class::Denied,
        };
        let text = format!(
            "{origin} does not give the role {role}: {code}; its trust policy must name the token's issuer, subject and \
             audience"
        );
        return Err(ProviderError::new(class, text));
    }
    let part = |name: &str| element(text, name).and_then(|value| Text::new(value.as_bytes()));
    let ends = element(text, "Expiration").and_then(|ends| humantime::parse_rfc3339(ends.trim()).ok());
    match (part("AccessKeyId"), part("SecretAccessKey"), part("SessionToken"), ends) {
        (Some(id), Some(secret), session @ Some(_), ends @ Some(_)) => {
            Ok(Issued { credential: AccessKey { id: id.expose().to_owned(), secret, session }, ends })
        }
        _ => Err(ProviderError::new(Class::Protocol, format!("{origin} answers without a role's credentials"))),
    }
}

/// What an element of XML holds that stands once in the text, without attributes and with nothing but text in it.
pub(in crate::provider) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let (_, after) = text.split_once(&open)?;
    let (content, rest) = after.split_once(&close)?;
    let once = !rest.contains(&open) && !content.contains(['<', '&']);
    once.then_some(content)
}

/// Asks the metadata service, in its second version: with a token that another machine cannot get through a proxy.
async fn instance(http: &Http) -> Result<Issued<AccessKey>, ProviderError> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let origin = http.origin();
    let failed = |reply: &Reply, what: &str| {
        let class = match reply.status {
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Class::Config,
            status if status.is_success() => Class::Protocol,
            _ => Class::Unavailable,
        };
        ProviderError::new(class, format!("{origin} {what} (status {})", reply.status.as_u16()))
    };
    let request =
        Request::builder().method(Method::PUT).header("x-aws-ec2-metadata-token-ttl-seconds", INSTANCE_TOKEN_SECONDS);
    let reply = http.call(request, "/latest/api/token", empty()).await?;
    let token = Text::new(reply.body.expose()).filter(|_| reply.status == StatusCode::OK).ok_or_else(|| {
        failed(&reply, "gives no token: is the metadata service on, and its hop limit 2 for containers?")
    })?;
    let request = || Request::builder().header("x-aws-ec2-metadata-token", token.header(""));
    let reply = http.call(request(), ROLES, empty()).await?;
    let role = Text::new(reply.body.expose())
        .filter(|role| reply.status == StatusCode::OK && is_role(role.expose()))
        .ok_or_else(|| failed(&reply, "names no role: attach an instance profile to the instance"))?;
    let path = format!("{ROLES}{}", role.expose());
    given(origin, &http.call(request(), &path, empty()).await?)
}

/// Whether it is the name of a role (IAM's reference of RoleName).
fn is_role(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

/// Credentials as the metadata services write them.
pub(in crate::provider) fn given(from: &Origin, reply: &Reply) -> Result<Issued<AccessKey>, ProviderError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Given {
        access_key_id: Text,
        secret_access_key: Text,
        token: Text,
        expiration: String,
    }
    const FIELDS: &[&str] = &["AccessKeyId", "SecretAccessKey", "Token", "Expiration"];
    if reply.status != StatusCode::OK {
        let class = if reply.status.is_client_error() { Class::Denied } else { Class::Unavailable };
        let text = format!("{from} gives no credentials (status {})", reply.status.as_u16());
        return Err(ProviderError::new(class, text));
    }
    let given: Given = answer(from, reply, FIELDS)?;
    let ends: Option<SystemTime> = humantime::parse_rfc3339(&given.expiration).ok();
    if ends.is_none() {
        let text = format!("{from} answers with an Expiration that is no time");
        return Err(ProviderError::new(Class::Protocol, text));
    }
    let (id, session) = (given.access_key_id.expose().to_owned(), Some(given.token));
    Ok(Issued { credential: AccessKey { id, secret: given.secret_access_key, session }, ends })
}

fn empty() -> SecretBytes {
    SecretBytes::new(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_of_a_shared_file() {
        let text = "# a comment\n[other]\naws_access_key_id = AKIAOTHER\n\n[default]\r\naws_access_key_id = AKIAONE\r\n\
                    ; aws_session_token = no\n aws_secret_access_key=a/b+c=\nregion = eu-west-1\n[third]\naws_session_token=x";
        let read = |profile: &str| shared(Path::new("/f"), profile, &SecretBytes::new(text.as_bytes().to_vec()));
        let key = read("default").unwrap();
        assert_eq!((key.id.as_str(), key.secret.expose(), key.session.is_none()), ("AKIAONE", "a/b+c=", true));
        for (profile, says) in [
            ("other", "lacks aws_secret_access_key"),
            ("third", "lacks aws_access_key_id"),
            ("none", "the profile none is not in it"),
        ] {
            let error = read(profile).map(|_| ()).unwrap_err();
            assert!(error.class == Class::Config && error.text.contains(says), "{error}");
            assert!(error.text.starts_with("/f: ") && !error.text.contains("AKIA"), "{error}");
        }
    }

    #[test]
    fn an_element_stands_once() {
        assert_eq!(element("<a><Code>x y</Code></a>", "Code"), Some("x y"));
        for bad in ["", "<Code>x", "<Code>x</Code><Code>y</Code>", "<Code><b>x</b></Code>", "<Code>&lt;</Code>"] {
            assert_eq!(element(bad, "Code"), None, "{bad}");
        }
    }
}
