//! YAML as a tree, with limits.
//!
//! Threat: such files hold keys and tokens. So what is wrong is told by its place alone, never by what stands there.

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Largest file in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Most tables and lists within one another.
const MAX_DEPTH: usize = 32;

/// A table or a list whose end was not seen yet.
enum Open {
    List(Vec<Value>),
    /// With the name whose value comes next.
    Table(Map<String, Value>, Option<String>),
}

/// The only document of a text, which may be JSON as well. A name that stands twice in one table is an error, and so are
/// references, by which a small text becomes a large one.
///
/// # Errors
/// Where it is wrong.
pub fn parse(text: &str) -> Result<Value, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("larger than {MAX_BYTES} bytes"));
    }
    let mut open: Vec<Open> = Vec::new();
    let mut document = None;
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| format!("no YAML at line {}", error.marker().line()))?;
        let wrong = |what: &str| format!("{what} at line {}", span.start.line());
        let done = match event {
            Event::Scalar(_, _, anchor, ref tag)
            | Event::SequenceStart(_, anchor, ref tag)
            | Event::MappingStart(_, anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return Err(wrong("an anchor or a tag, which is not read here,"));
            }
            Event::Alias(_) => return Err(wrong("a reference, which is not read here,")),
            Event::DocumentStart(..) if document.is_some() => return Err(wrong("a second document")),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= MAX_DEPTH => {
                return Err(wrong("too many levels"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Table(Map::new(), None));
                continue;
            }
            Event::Scalar(text, style, ..) => {
                if let Some(Open::Table(table, name @ None)) = open.last_mut() {
                    if table.contains_key(text.as_ref()) || text == "<<" {
                        return Err(wrong("a name that stands twice, or <<,"));
                    }
                    *name = Some(text.into_owned());
                    continue;
                }
                scalar(&text, style)
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => Value::Array(list),
                Some(Open::Table(table, _)) => Value::Object(table),
                None => return Err(wrong("no YAML")),
            },
            _ => continue,
        };
        match open.last_mut() {
            None => document = Some(done),
            Some(Open::List(list)) => list.push(done),
            Some(Open::Table(table, name)) => {
                let name = name.take().ok_or_else(|| wrong("a name that is no text"))?;
                table.insert(name, done);
            }
        }
    }
    Ok(document.unwrap_or(Value::Null))
}

/// What is not quoted may be more than text (YAML 1.2, core schema).
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::from(text);
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        other => other.parse::<i64>().map_or_else(|_| Value::from(other), Value::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_a_tree() {
        assert_eq!(parse("a: 1\nb: [x, {c: true}]\n").unwrap(), json!({"a": 1, "b": ["x", {"c": true}]}));
        assert_eq!(parse("---\n{\"a\": null}").unwrap(), json!({"a": null}));
        assert_eq!(
            parse("# only a comment\na:\n- 'true'\n- ~\n- |\n  x\n").unwrap(),
            json!({"a": ["true", null, "x\n"]})
        );
        assert_eq!(parse("").unwrap(), Value::Null);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_place_alone() {
        for bad in [
            "a: hunter2\na: hunter2",
            "a: [hunter2",
            "hunter2: {",
            "a: 1\n---\na: hunter2\n",
            "a: &hunter2 x\nb: *hunter2\n",
            "a: *hunter2",
            "a: !hunter2 x",
            "<<: {a: hunter2}",
            "[hunter2]: x",
            "? {a: hunter2}\n: x",
            &"[".repeat(40),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(!error.contains("hunter2") && error.contains("at line"), "{bad}: {error}");
        }
        assert!(parse("a: 1\na: 2").unwrap_err().contains("line 2"));
        assert!(parse(&" ".repeat(MAX_BYTES + 1)).is_err());
    }
}
