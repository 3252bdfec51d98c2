//! `bulla template`: a file with secrets in it, from one with their names.

use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::value::{ValueName, Values};
use bulla_client::{FileOutput, Output as _};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::encoding::base64;
use clap::Args;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Largest template in bytes: any configuration, and no file by mistake.
const MAX_TEMPLATE_BYTES: u64 = 1024 * 1024;

/// Write a file with secrets in it, from a template with their names
///
/// Where `{{ kv/PATH#FIELD }}` stands its value is written; `| json` makes it a string of JSON, in quotes, and
/// `| base64` encodes it. `{{{{` stands for two braces. All values are read before anything is written, and the file
/// replaces what was there whole.
#[derive(Debug, Args)]
pub struct Template {
    /// The template; - for standard input
    template: PathBuf,
    /// Write to this file, with mode 0600; otherwise to standard output
    #[arg(short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(args: Template, session: &Session<'_>) -> Result<Exit, Failure> {
    let Template { template, output } = args;
    let text = read(&template)?;
    let parts = parse(&text)
        .map_err(|(line, why)| Failure::new(Exit::Failed, format!("{}, line {line}: {why}", template.display())))
        .map_err(|failure| failure.hint("write {{ kv/PATH#FIELD }}, and {{{{ for two braces"))?;
    let named = parts.iter().filter_map(|part| if let Part::Value(name, _) = part { Some(name) } else { None });
    let values = Values::read(session, named).await?;
    let content = fill(&parts, &values)?;
    let Some(path) = output else {
        if io::stdout().is_terminal() && !crate::cli::open::is_text(content.expose()) {
            return Err(Failure::usage("a value is no text, and standard output is a terminal")
                .hint("write to a file with -o FILE"));
        }
        return session.screen.bytes(content.expose()).map(|()| Exit::Ok);
    };
    let failed = |error: io::Error| Failure::file("cannot write", &path, &error);
    let mut file = FileOutput::replacing(&path).map_err(failed)?;
    file.write_all(content.expose()).and_then(|()| file.commit()).map_err(failed)?;
    session.screen.say(&format!("written to {}", path.display()));
    Ok(Exit::Ok)
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::file("cannot read", path, &error);
    let source: Box<dyn io::Read> =
        if path == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(File::open(path).map_err(failed)?) };
    let mut bytes = Vec::new();
    source.take(MAX_TEMPLATE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_TEMPLATE_BYTES {
        return Err(Failure::usage(format!("{} has more than {MAX_TEMPLATE_BYTES} bytes", path.display())));
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{} is no UTF-8 text", path.display())))
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Json,
    Base64,
}

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Value(ValueName, Form),
}

/// The pieces of a template, or in which line something is wrong.
fn parse(text: &str) -> Result<Vec<Part<'_>>, (usize, String)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        let (before, opened) = rest.split_at(at);
        parts.push(Part::Text(before));
        let done = text.len().saturating_sub(opened.len());
        let line = text.get(..done).unwrap_or_default().matches('\n').count().saturating_add(1);
        if let Some(after) = opened.strip_prefix("{{{{") {
            parts.push(Part::Text("{{"));
            rest = after;
            continue;
        }
        let inside = opened.strip_prefix("{{").unwrap_or_default();
        let (named, after) = inside.split_once("}}").ok_or_else(|| (line, "{{ is not closed by }}".to_owned()))?;
        let (name, form) = match named.rsplit_once('|') {
            Some((name, form)) => (name, form.trim()),
            None => (named, ""),
        };
        let form = match form {
            "" if !named.contains('|') => Form::Plain,
            "json" => Form::Json,
            "base64" => Form::Base64,
            other => return Err((line, format!("{other:?} is no form of a value; there are json and base64"))),
        };
        parts.push(Part::Value(name.trim().parse().map_err(|why| (line, why))?, form));
        rest = after;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

fn fill(parts: &[Part<'_>], values: &Values) -> Result<SecretBytes, Failure> {
    let mut pieces: Vec<SecretBytes> = Vec::with_capacity(parts.len());
    for part in parts {
        pieces.push(match part {
            Part::Text(text) => SecretBytes::new(text.as_bytes().to_vec()),
            Part::Value(name, form) => shaped(name, *form, values.get(name)?)?,
        });
    }
    // Made at once, so that no half of it stays in a buffer that has grown.
    let mut content = SecretBytes::new(Vec::with_capacity(pieces.iter().map(|piece| piece.expose().len()).sum()));
    pieces.iter().for_each(|piece| content.expose_mut().extend_from_slice(piece.expose()));
    Ok(content)
}

fn shaped(name: &ValueName, form: Form, value: &[u8]) -> Result<SecretBytes, Failure> {
    Ok(SecretBytes::new(match form {
        Form::Plain => value.to_vec(),
        Form::Base64 => base64(value).into_bytes(),
        Form::Json => {
            let text = std::str::from_utf8(value).map_err(|_| {
                Failure::new(Exit::Failed, format!("{name} is no text")).hint("write it as {{ … | base64 }}")
            })?;
            bulla_wire::json::to_vec(&text)
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_text_and_names() {
        let value = |name: &str, form| Part::Value(name.parse().unwrap(), form);
        let text = "a {{kv/b#c}} d {{ kv/e | base64 }}\n{\"p\": {{ kv/f#g | json }}} {{{{ no }} end";
        let expected = [
            Part::Text("a "),
            value("kv/b#c", Form::Plain),
            Part::Text(" d "),
            value("kv/e", Form::Base64),
            Part::Text("\n{\"p\": "),
            value("kv/f#g", Form::Json),
            Part::Text("} "),
            Part::Text("{{"),
            Part::Text(" no }} end"),
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), [Part::Text("")]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line) in [
            ("{{ kv/a#b", 1),
            ("x\n\n{{ a#b }}", 3),
            ("\n{{ }}", 2),
            ("{{ kv/a#b | yaml }}", 1),
            ("{{ kv/a#b | }}", 1),
            ("{{ kv/a#b }}\n{{ kv/a#\n", 2),
        ] {
            assert_eq!(parse(text).unwrap_err().0, line, "{text:?}");
        }
    }
}
