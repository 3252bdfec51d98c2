//! Templates: text with the names of values where the values shall stand.

use crate::exit::{Exit, Failure};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::encoding::base64;
use std::fmt::Display;
use std::str::FromStr;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// A string of JSON, in quotes.
    Json,
    /// Base64 with padding.
    Base64,
}

/// A piece of a template, in which values have names of the kind `N`.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<N> {
    /// Text that stays.
    Text(String),
    /// A value.
    Value(N, Form),
}

/// The pieces of a template, or in which line something is wrong.
pub fn parse<N: FromStr<Err = String>>(text: &str) -> Result<Vec<Part<N>>, (usize, String)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        let (before, opened) = rest.split_at(at);
        parts.push(Part::Text(before.to_owned()));
        let done = text.len().saturating_sub(opened.len());
        let line = text.get(..done).unwrap_or_default().matches('\n').count().saturating_add(1);
        if let Some(after) = opened.strip_prefix("{{{{") {
            parts.push(Part::Text("{{".to_owned()));
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
    parts.push(Part::Text(rest.to_owned()));
    Ok(parts)
}

/// The text with its values in their places.
pub fn fill<'v, N: Display>(
    parts: &[Part<N>],
    value: impl Fn(&N) -> Result<&'v [u8], Failure>,
) -> Result<SecretBytes, Failure> {
    let mut pieces: Vec<SecretBytes> = Vec::with_capacity(parts.len());
    for part in parts {
        pieces.push(match part {
            Part::Text(text) => SecretBytes::new(text.as_bytes().to_vec()),
            Part::Value(name, form) => shaped(name, *form, value(name)?)?,
        });
    }
    // Made at once, so that no half of it stays in a buffer that has grown.
    let mut content = SecretBytes::new(Vec::with_capacity(pieces.iter().map(|piece| piece.expose().len()).sum()));
    pieces.iter().for_each(|piece| content.expose_mut().extend_from_slice(piece.expose()));
    Ok(content)
}

fn shaped(name: &impl Display, form: Form, value: &[u8]) -> Result<SecretBytes, Failure> {
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
    use crate::value::ValueName;

    #[test]
    fn a_template_is_text_and_names() {
        let plain = |text: &str| Part::Text(text.to_owned());
        let value = |name: &str, form| Part::Value(name.parse().unwrap(), form);
        let text = "a {{kv/b#c}} d {{ kv/e | base64 }}\n{\"p\": {{ kv/f#g | json }}} {{{{ no }} end";
        let expected = [
            plain("a "),
            value("kv/b#c", Form::Plain),
            plain(" d "),
            value("kv/e", Form::Base64),
            plain("\n{\"p\": "),
            value("kv/f#g", Form::Json),
            plain("} "),
            plain("{{"),
            plain(" no }} end"),
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse::<ValueName>("").unwrap(), [plain("")]);
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
            assert_eq!(parse::<ValueName>(text).unwrap_err().0, line, "{text:?}");
        }
    }
}
