//! Fields of a secret on the command line: `k=v`, `k=@file`, `k=-`.
//!
//! What stands in an argument is seen by every process of the machine and kept in the shell's history, so `k=@file`
//! and `k=-` are the ways for what must stay secret; `k=v` is for what need not.

use crate::ask;
use crate::exit::{Exit, Failure};
use bulla_wire::json::StrictMap;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

/// Longest field's name in bytes: as long as any other name.
const MAX_FIELD_BYTES: usize = 128;

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
    name: String,
    source: Source,
}

impl Field {
    /// Reads `k=v`, `k=@file` or `k=-`; `None` if it is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, value) = text.split_once('=')?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > MAX_FIELD_BYTES || !name.bytes().all(known) {
            return None;
        }
        let source = match value.strip_prefix('@') {
            Some(path) => Source::File(path.into()),
            None if value == "-" => Source::Stdin,
            None => Source::Argument(value.to_owned()),
        };
        Some(Self { name: name.to_owned(), source })
    }

    /// As [`Field::parse`], for a command that takes nothing else.
    pub fn demanded(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| "expected KEY=VALUE, KEY=@FILE or KEY=- (standard input)".to_owned())
    }

    /// Whether its value stands in the argument itself.
    pub fn is_argument(&self) -> bool {
        matches!(self.source, Source::Argument(_))
    }

    fn value(&self) -> Result<String, Failure> {
        let bytes = match &self.source {
            Source::Argument(text) => return Ok(text.clone()),
            Source::File(path) => fs::read(path).map_err(|error| Failure::file("cannot read", path, &error))?,
            Source::Stdin => self.typed()?,
        };
        String::from_utf8(bytes).map_err(|_| {
            Failure::new(Exit::Failed, format!("the value of {:?} is not text", self.name))
                .hint("wrap the file itself, or encode the value, such as with base64")
        })
    }

    /// From standard input, without the end of its last line; hidden where a person types it.
    fn typed(&self) -> Result<Vec<u8>, Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}"));
        if ask::possible() {
            return Ok(ask::hidden(&format!("{}: ", self.name)).map_err(failed)?.expose().clone());
        }
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
        // Whoever pipes a password from echo does not mean the end of the line; a file is taken as it is.
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Ok(bytes)
    }
}

/// Reads the values of all fields.
pub fn read(fields: &[Field]) -> Result<StrictMap<String>, Failure> {
    let from_stdin = fields.iter().filter(|field| field.source == Source::Stdin).count();
    if from_stdin > 1 && !ask::possible() {
        return Err(Failure::usage("standard input can give one value only").hint("put the others into KEY=@FILE"));
    }
    let mut data = BTreeMap::new();
    for field in fields {
        if data.insert(field.name.clone(), field.value()?).is_some() {
            return Err(Failure::usage(format!("the field {:?} stands twice", field.name)).hint("give each once"));
        }
    }
    Ok(StrictMap(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_a_field() {
        let source = |text: &str| Field::parse(text).map(|field| field.source);
        assert_eq!(source("user=app"), Some(Source::Argument("app".into())));
        assert_eq!(source("user=a=b"), Some(Source::Argument("a=b".into())));
        assert_eq!(source("user="), Some(Source::Argument(String::new())));
        assert_eq!(source("key=@/tmp/a"), Some(Source::File("/tmp/a".into())));
        assert_eq!(source("key=-"), Some(Source::Stdin));
        assert_eq!(source("key=-x"), Some(Source::Argument("-x".into())));
        for bad in ["file", "", "=x", "./a=b", "a b=c", "-"] {
            assert_eq!(source(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_field_stands_once_and_is_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        fs::write(&path, "line\n").unwrap();
        let file = Field::parse(&format!("b=@{}", path.display())).unwrap();
        let data = read(&[Field::parse("a=1").unwrap(), file.clone()]).unwrap().0;
        assert_eq!(data.get("b").map(String::as_str), Some("line\n"), "files are taken as they are");
        let twice = [Field::parse("a=1").unwrap(), Field::parse("a=2").unwrap()];
        assert_eq!(read(&twice).unwrap_err().exit, Exit::Usage);
        fs::write(&path, b"\xff").unwrap();
        assert!(read(&[file]).unwrap_err().message.contains("not text"));
    }
}
