//! Versions of secrets, and values in them by name, as `bulla run` and `bulla template` take them: `kv/app/db#password`.
//!
//! A secret is read once, however many of its values are named, so all of them are of one version.

use crate::exit::{Exit, Failure};
use bulla_client::{Client, OpenedKv, Resolved};
use bulla_wire::api::Kv;
use bulla_wire::encoding::Base64;
use bulla_wire::id::PrincipalId;
use bulla_wire::kv::KvContent;
use bulla_wire::name::SecretPath;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A version with its content, opened if it is sealed.
pub struct Version {
    /// What was answered, without its content.
    pub kv: Kv,
    /// The fields or bytes.
    pub content: KvContent,
    /// By whom it is sealed, and to whom; none if the server can read it.
    pub sealed: Option<(Resolved, Vec<PrincipalId>)>,
}

/// Reads a version, or the newest, and opens it if it is sealed to the caller.
pub async fn version_of(client: &Client, path: &SecretPath, version: Option<u64>) -> Result<Version, Failure> {
    let mut kv = match version {
        Some(version) => client.kv_get_version(path, version).await?,
        None => client.kv_get(path).await?,
    };
    Ok(match client.kv_open(&kv).await? {
        Some(OpenedKv { content, writer, readers }) => Version { kv, content, sealed: Some((writer, readers)) },
        None => {
            let content = KvContent { data: kv.data.take(), bytes: kv.bytes.take() };
            Version { kv, content, sealed: None }
        }
    })
}

/// Where a value lies: `kv/<path>[?version=<number>][#<field>]`, without a field if the secret holds bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueName {
    secret: SecretName,
    field: Option<String>,
}

/// A secret, and which version of it if not the newest.
type SecretName = (SecretPath, Option<u64>);

impl FromStr for ValueName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected kv/PATH#FIELD, or kv/PATH for a secret that holds bytes";
        let rest = text.strip_prefix("kv/").ok_or(FORM)?;
        let (rest, field) = match rest.split_once('#') {
            Some((_, "")) => return Err(FORM.to_owned()),
            Some((rest, field)) => (rest, Some(field.to_owned())),
            None => (rest, None),
        };
        let (path, version) = match rest.split_once('?') {
            Some((path, query)) => {
                let number = query.strip_prefix("version=").and_then(|number| number.parse().ok());
                (path, Some(number.filter(|number| *number > 0).ok_or("a version is given as ?version=3")?))
            }
            None => (rest, None),
        };
        let path = path.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { secret: (path, version), field })
    }
}

impl fmt::Display for ValueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, version) = &self.secret;
        write!(f, "kv/{path}")?;
        if let Some(version) = version {
            write!(f, "?version={version}")?;
        }
        self.field.as_ref().map_or(Ok(()), |field| write!(f, "#{field}"))
    }
}

/// Secrets that were read, each with its version.
pub struct Values(BTreeMap<SecretName, (u64, KvContent)>);

impl Values {
    /// Reads all secrets that are named, each once. Nothing is used before all of them are there.
    pub async fn read(client: &Client, names: impl IntoIterator<Item = &ValueName>) -> Result<Self, Failure> {
        let mut secrets = BTreeMap::new();
        for ValueName { secret, .. } in names {
            if !secrets.contains_key(secret) {
                let (path, version) = secret;
                let Version { kv, content, .. } = version_of(client, path, *version).await?;
                secrets.insert(secret.clone(), (kv.version, content));
            }
        }
        Ok(Self(secrets))
    }

    /// A value. The secret was named when they were read.
    pub fn get(&self, name: &ValueName) -> Result<&[u8], Failure> {
        let (path, _) = &name.secret;
        let read = self.0.get(&name.secret);
        let (_, content) = read.ok_or_else(|| Failure::new(Exit::Failed, format!("{name} was not read")))?;
        value(path, content, name.field.as_deref())
    }

    /// The versions of those whose newest was asked for.
    pub fn newest(&self) -> impl Iterator<Item = (&SecretPath, u64)> {
        self.0.iter().filter(|((_, asked), _)| asked.is_none()).map(|((path, _), (version, _))| (path, *version))
    }
}

/// A field of a secret, or its bytes.
pub fn value<'a>(path: &SecretPath, content: &'a KvContent, field: Option<&str>) -> Result<&'a [u8], Failure> {
    match (content, field) {
        (KvContent { bytes: Some(Base64(bytes)), .. }, None) => Ok(bytes),
        (KvContent { data: Some(data), .. }, Some(field)) if data.0.contains_key(field) => {
            Ok(data.0.get(field).map(String::as_bytes).unwrap_or_default())
        }
        (KvContent { data: Some(data), .. }, field) => {
            let known: Vec<_> = data.0.keys().map(String::as_str).collect();
            let what =
                field.map_or_else(|| "holds fields, no bytes".to_owned(), |field| format!("has no field {field:?}"));
            let failure = Failure::new(Exit::NotFound, format!("{path} {what}"));
            Err(failure.hint(format!("name one of its fields: {}", known.join(", "))))
        }
        (_, _) => {
            Err(Failure::new(Exit::NotFound, format!("{path} holds bytes, no fields")).hint("leave the field out"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        for text in ["kv/app/db#password", "kv/app/tls", "kv/a?version=3#b c", "kv/a@b?version=1"] {
            assert_eq!(text.parse::<ValueName>().unwrap().to_string(), text);
        }
        for text in ["app/db#password", "kv/", "kv/a#", "kv/a?version=0", "kv/a?version=x", "kv/a?v=1", "kv/a b#c", ""]
        {
            assert!(!text.parse::<ValueName>().unwrap_err().is_empty(), "{text}");
        }
    }
}
