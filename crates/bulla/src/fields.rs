//! Fields of a secret on the command line: `k=v`, `k=@file`, `k=-`.
//!
//! What stands in an argument is seen by every process of the machine and kept in the shell's history, so `k=@file`
//! and `k=-` are the ways for what must stay secret; `k=v` is for what need not.

use crate::ask;
use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use bulla_wire::json::StrictMap;
use bulla_wire::kv::FieldName;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// Where a field's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Argument(String),
    File(PathBuf),
    Stdin,
}

/// A field as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    name: FieldName,
    source: Source,
}

impl Field {
    /// Reads `k=v`, `k=@file` or `k=-` where a file could stand as well; `None` if it rather looks like one.
    pub fn parse(text: &str) -> Option<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        Self::demanded(text).ok().filter(|field| field.name.as_str().bytes().all(known))
    }

    /// Reads `k=v`, `k=@file` or `k=-`, for a command that takes nothing else. What is wrong is told without the text: it
    /// may be the secret.
    pub fn demanded(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected KEY=VALUE, KEY=@FILE or KEY=- (standard input)";
        let (name, value) = text.split_once('=').ok_or(FORM)?;
        let name = name.parse().map_err(|error| format!("{error}"))?;
        let source = match value.strip_prefix('@') {
            Some("-") => Source::Stdin,
            Some(path) => Source::File(path.into()),
            None if value == "-" => Source::Stdin,
            None => Source::Argument(value.to_owned()),
        };
        Ok(Self { name, source })
    }

    /// Whether its value stands in the argument itself.
    pub fn is_argument(&self) -> bool {
        matches!(self.source, Source::Argument(_))
    }

    fn value(&self, limit: Limit) -> Result<String, Failure> {
        let bytes = match &self.source {
            Source::Argument(text) => return Ok(text.clone()),
            Source::File(path) => input::file(path, limit)?,
            Source::Stdin => self.typed(limit)?,
        };
        String::from_utf8(bytes).map_err(|_| {
            Failure::new(Exit::Failed, format!("the value of {:?} is not text", self.name.as_str()))
                .hint("wrap the file itself, or encode the value, such as with base64")
        })
    }

    /// From standard input, without the end of its last line; hidden where a person types it.
    fn typed(&self, limit: Limit) -> Result<Vec<u8>, Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}"));
        if ask::possible() {
            return Ok(ask::hidden(&format!("{}: ", self.name.as_str())).map_err(failed)?.expose().clone());
        }
        let mut bytes = input::stdin(limit)?;
        // What should have written it failed, or there is no input: an empty password is seldom meant.
        if bytes.is_empty() {
            let name = self.name.as_str();
            return Err(Failure::new(Exit::Failed, format!("standard input is empty, and so would {name:?} be"))
                .hint("look at what should have written there; `KEY=` makes an empty value"));
        }
        // Whoever pipes a password from echo does not mean the end of the line; a file is taken as it is.
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Ok(bytes)
    }
}

/// Reads the values of all fields, each of them up to this limit.
pub fn read(fields: &[Field], limit: Limit) -> Result<StrictMap<String>, Failure> {
    let from_stdin = fields.iter().filter(|field| field.source == Source::Stdin).count();
    if from_stdin > 1 && !ask::possible() {
        return Err(Failure::usage("standard input can give one value only").hint("put the others into KEY=@FILE"));
    }
    let mut data = BTreeMap::new();
    for field in fields {
        if data.insert(field.name.as_str().to_owned(), field.value(limit)?).is_some() {
            let name = field.name.as_str();
            return Err(Failure::usage(format!("the field {name:?} stands twice")).hint("give each once"));
        }
    }
    Ok(StrictMap(data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_three_forms_of_a_field() {
        let source = |text: &str| Field::parse(text).map(|field| field.source);
        assert_eq!(source("user=app"), Some(Source::Argument("app".into())));
        assert_eq!(source("user=a=b"), Some(Source::Argument("a=b".into())));
        assert_eq!(source("user="), Some(Source::Argument(String::new())));
        assert_eq!(source("key=@/tmp/a"), Some(Source::File("/tmp/a".into())));
        assert_eq!(source("key=@-"), Some(Source::Stdin), "which gives one value only");
        assert_eq!(source("key=-"), Some(Source::Stdin));
        assert_eq!(source("key=-x"), Some(Source::Argument("-x".into())));
        for bad in ["file", "", "=x", "./a=b", "a b=c", "-"] {
            assert_eq!(source(bad), None, "{bad}");
        }
        // Where no file can stand, every name that a secret may have is one.
        for name in ["./a", "a b", "tls/crt", "größe", &"x".repeat(128)] {
            let field = Field::demanded(&format!("{name}=b")).unwrap();
            assert_eq!((field.name.as_str(), field.source), (name, Source::Argument("b".into())));
        }
        for bad in ["=hunter2", "hunter2", "a\n=hunter2", &format!("{}=hunter2", "x".repeat(129))] {
            let error = Field::demanded(bad).unwrap_err();
            assert!(!error.contains("hunter2") && (error.contains("KEY=VALUE") || error.contains("128")), "{error}");
        }
    }

    #[test]
    fn a_field_stands_once_and_is_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let read = |fields: &[Field]| read(fields, Limit::VALUE);
        fs::write(&path, "line\n").unwrap();
        let file = Field::parse(&format!("b=@{}", path.display())).unwrap();
        let data = read(&[Field::parse("a=1").unwrap(), file.clone()]).unwrap().0;
        assert_eq!(data.get("b").map(String::as_str), Some("line\n"), "files are taken as they are");
        let twice = [Field::parse("a=1").unwrap(), Field::parse("a=2").unwrap()];
        assert_eq!(read(&twice).unwrap_err().exit, Exit::Usage);
        fs::write(&path, b"\xff").unwrap();
        assert!(read(&[file]).unwrap_err().message.contains("not text"));
        let endless = read(&[Field::demanded("a=@/dev/zero").unwrap()]).unwrap_err();
        assert_eq!(endless.message, "/dev/zero has more than 262144 bytes");
    }
}
