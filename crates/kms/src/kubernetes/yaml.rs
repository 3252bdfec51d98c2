//! YAML as a tree, with limits.
//!
//! Threat: such files hold keys and tokens. So what is wrong is told by its place alone, never by what stands there.

use serde_json::Value;

/// Largest file in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Largest numbers of parts, of references, and of what references come to.
const MAX_EVENTS: usize = 100_000;
const MAX_ALIASES: usize = 100;

/// The only document of a text, which may be JSON as well. A name that stands twice in one table is an error.
///
/// # Errors
/// Where it is wrong.
pub fn parse(text: &str) -> Result<Value, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("larger than {MAX_BYTES} bytes"));
    }
    let mut options = serde_saphyr::Options::default();
    if let Some(budget) = &mut options.budget {
        budget.max_events = MAX_EVENTS;
        budget.max_aliases = MAX_ALIASES;
        budget.max_anchors = MAX_ALIASES;
    }
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| match error.location() {
        Some(at) => format!("no YAML, or a name that stands twice, at line {}, column {}", at.line(), at.column()),
        None => "no YAML, or more than one document".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_a_tree() {
        assert_eq!(parse("a: 1\nb: [x, {c: true}]\n").unwrap(), json!({"a": 1, "b": ["x", {"c": true}]}));
        assert_eq!(parse("---\n{\"a\": null}").unwrap(), json!({"a": null}));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_place_alone() {
        for bad in ["a: hunter2\na: hunter2", "a: [hunter2", "hunter2: {", "a: 1\n---\na: hunter2\n", "\thunter2"] {
            let error = parse(bad).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(parse("a: 1\na: 2").unwrap_err().contains("line 2"));
        assert!(parse(&" ".repeat(MAX_BYTES + 1)).is_err());
        let doubling: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)).collect();
        assert!(parse(&format!("a0: &a0 [x]\n{doubling}")).is_err());
    }
}
