//! Logging in by each method: which file, which path, which body, and what a refusal means.
//!
//! Threat: a credential is sent to one path of one server and nowhere else; a refusal repeats nothing that was sent.

use super::answer::{self, TokenState};
use super::api::{Api, Call, refused};
use super::settings::{Approle, Auth, Jwt, SecretId};
use crate::provider::files::{self, Reader};
use crate::provider::{Class, ProviderError};
use bulla_crypto::digest::sha256;
use bulla_crypto::secret::SecretBytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// The secret of a role that a wrapping token gave, which gives it once.
pub struct Unwrapped {
    /// The SHA-256 of the wrapping token.
    by: [u8; 32],
    secret: SecretBytes,
}

#[derive(Serialize)]
struct ByCertificate<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
struct ByJwt<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Serialize)]
struct ByApprole<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Serialize)]
struct OfToken<'a> {
    token: &'a str,
}

#[derive(Serialize)]
struct Renewal {
    #[serde(skip_serializing_if = "Option::is_none")]
    increment: Option<String>,
}

/// The one line of a file, read beside the runtime.
async fn line(reader: &Reader, path: &Path) -> Result<SecretBytes, ProviderError> {
    let path = path.to_owned();
    reader.read(move || files::line(&path)).await
}

/// Logs in. What a wrapping token gave is kept in `unwrapped` at once, since it is not given again.
///
/// # Errors
/// [`Class::Denied`] if the credential is refused, [`Class::Config`] if there is none; others as the call says.
pub async fn login(
    auth: &Auth,
    (api, reader): (&Api, &Reader),
    unwrapped: &mut Option<Unwrapped>,
) -> Result<TokenState, ProviderError> {
    let mount = auth.mount();
    match auth {
        Auth::Certificate(own) => {
            let body = ByCertificate { name: own.role.as_ref().map(|role| role.as_str()) };
            ask(api, mount, &body, b"", "the certificate, and the role that it fits").await
        }
        Auth::Kubernetes(own) | Auth::Jwt(own) => by_jwt(own, mount, (api, reader)).await,
        Auth::Approle(own) => by_approle(own, mount, (api, reader), unwrapped).await,
        Auth::Token(own) => by_file(&own.file, (api, reader)).await,
    }
}

async fn by_jwt(own: &Jwt, mount: &str, (api, reader): (&Api, &Reader)) -> Result<TokenState, ProviderError> {
    let jwt = line(reader, &own.file).await?;
    let body = ByJwt { role: own.role.as_str(), jwt: text(&jwt)? };
    let what = format!("the role {} and the token in {}", own.role, own.file.display());
    ask(api, mount, &body, jwt.expose(), &what).await
}

async fn by_approle(
    own: &Approle,
    mount: &str,
    (api, reader): (&Api, &Reader),
    unwrapped: &mut Option<Unwrapped>,
) -> Result<TokenState, ProviderError> {
    let (file, secret) = match &own.secret {
        SecretId::Plain(file) => (file, line(reader, file).await?),
        SecretId::Wrapped(file) => (file, unwrap(file, mount, (api, reader), unwrapped).await?),
    };
    let body = ByApprole { role_id: own.role_id.as_str(), secret_id: text(&secret)? };
    let what = format!("role_id, and whether the secret of {} has ended or was used up", file.display());
    ask(api, mount, &body, secret.expose(), &what).await
}

/// The secret that the wrapping token in a file gives, or gave before.
async fn unwrap(
    file: &Path,
    mount: &str,
    (api, reader): (&Api, &Reader),
    unwrapped: &mut Option<Unwrapped>,
) -> Result<SecretBytes, ProviderError> {
    let token = line(reader, file).await?;
    let by = sha256(&[token.expose()]);
    if let Some(before) = unwrapped.as_ref().filter(|before| before.by == by) {
        return Ok(before.secret.copy());
    }
    let lost = |_| {
        let text = format!(
            "the wrapping token in {} was used already, or has ended: put another one there. If nobody here used it, \
             somebody else has the secret; the audit log of Vault tells who",
            file.display()
        );
        ProviderError::new(Class::Denied, text)
    };
    let body = OfToken { token: text(&token)? };
    let reply = api.send(Call::post("sys/wrapping/lookup", None, &body, token.expose().len())?).await?;
    let about = yes_or(reply.status, reply.body, "sys/wrapping/lookup", lost)?;
    // Whoever took the secret and wrapped it again could not do it at this path.
    let path = answer::creation_path(&about)?;
    let role = within(&path, api)
        .strip_prefix(&format!("auth/{mount}/role/"))
        .and_then(|rest| rest.strip_suffix("/secret-id"));
    if role.is_none_or(|role| role.is_empty() || role.contains('/')) {
        let text = format!(
            "the wrapping token in {} was not made by auth/{mount}/role/ROLE/secret-id, so somebody may have put it in the \
             place of another: find out who made it",
            file.display()
        );
        return Err(ProviderError::new(Class::Denied, text));
    }
    let header = header(&token, file)?;
    let reply = api.send(Call::post("sys/wrapping/unwrap", Some(&header), &Renewal { increment: None }, 0)?).await?;
    let secret = answer::secret_id(&yes_or(reply.status, reply.body, "sys/wrapping/unwrap", lost)?)?;
    *unwrapped = Some(Unwrapped { by, secret: secret.copy() });
    Ok(secret)
}

/// A path without the namespace, which may stand before it.
fn within<'a>(path: &'a str, api: &Api) -> &'a str {
    let namespace = api.namespace.as_ref().and_then(|namespace| namespace.to_str().ok());
    let inner = namespace.and_then(|namespace| path.strip_prefix(namespace)).and_then(|rest| rest.strip_prefix('/'));
    inner.unwrap_or(path)
}

fn yes_or(
    status: StatusCode,
    body: SecretBytes,
    path: &str,
    no: impl FnOnce(StatusCode) -> ProviderError,
) -> Result<SecretBytes, ProviderError> {
    match status.as_u16() {
        200 => Ok(body),
        400 | 403 | 404 => Err(no(status)),
        _ => Err(refused(status, path, "")),
    }
}

/// A token that somebody else made. One that may not look at itself is taken as it is.
async fn by_file(file: &Path, (api, reader): (&Api, &Reader)) -> Result<TokenState, ProviderError> {
    let token = header(&line(reader, file).await?, file)?;
    let known = match lookup(api, &token).await {
        // Its own TTL it may learn by a renewal.
        Err(error) if error.class == Class::Denied => match renew(api, &token, None).await {
            Err(error) if error.class.passes() => return Err(error),
            Err(_) => TokenState { token: None, ttl: None, whole: None, renewable: false, periodic: false },
            Ok(state) => state,
        },
        other => other?,
    };
    Ok(TokenState { token: Some(token), ..known })
}

async fn ask(
    api: &Api,
    mount: &str,
    body: &impl Serialize,
    secret: &[u8],
    compare: &str,
) -> Result<TokenState, ProviderError> {
    let path = format!("auth/{mount}/login");
    let reply = api.send(Call::post(&path, None, body, secret.len())?).await?;
    if reply.status == StatusCode::OK {
        return answer::login(&reply.body);
    }
    let said = answer::said(&reply.body, secret);
    match reply.status.as_u16() {
        400 | 401 | 403 => {
            let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
            let text = format!("{path} refuses the login{said}: compare mount, {compare}");
            Err(ProviderError::new(Class::Denied, text))
        }
        404 => {
            let text = format!("there is no auth method at auth/{mount}: compare mount and namespace");
            Err(ProviderError::new(Class::Config, text))
        }
        _ => Err(refused(reply.status, &path, &said)),
    }
}

/// What a token says of itself; [`Class::Denied`] if it is none, or may not look.
///
/// # Errors
/// As said.
pub async fn lookup(api: &Api, token: &HeaderValue) -> Result<TokenState, ProviderError> {
    answer::lookup(&api.demand(Call::get("auth/token/lookup-self", Some(token))).await?)
}

/// Renews a token by as long as it lived at first.
///
/// # Errors
/// [`Class::Denied`] if it is none, or may not be renewed by itself.
pub async fn renew(api: &Api, token: &HeaderValue, whole: Option<Duration>) -> Result<TokenState, ProviderError> {
    let body = Renewal { increment: whole.map(|whole| format!("{}s", whole.as_secs())) };
    answer::login(&api.demand(Call::post("auth/token/renew-self", Some(token), &body, 0)?).await?)
}

fn text(secret: &SecretBytes) -> Result<&str, ProviderError> {
    std::str::from_utf8(secret.expose()).map_err(|_| ProviderError::new(Class::Protocol, "a credential is not text"))
}

fn header(token: &SecretBytes, file: &Path) -> Result<HeaderValue, ProviderError> {
    answer::header(token.expose())
        .ok_or_else(|| ProviderError::new(Class::Config, format!("{} holds no token", file.display())))
}
