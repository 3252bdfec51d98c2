//! Vault's policies as rules: HCL, or the same as JSON, as Vault takes both.
//!
//! Threat: text from whoever wrote policies there. The parser bounds its depth itself; nothing of a text is taken for
//! more than a word here before it was looked at.

use super::lines;
use hcl_edit::expr::{Expression, Object};
use hcl_edit::structure::{Block, Body, Structure};
use serde_json::Value;

/// Most paths of a policy: as many statements as a policy may have here. They are compared with each other.
const MAX_RULES: usize = 1000;

/// What Vault lets somebody do below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The path as it stands there, with `*`, `+` and `{{…}}`.
    pub path: String,
    /// The words for what is allowed, each once.
    pub capabilities: Vec<String>,
    /// Words for whatever else is demanded, such as `allowed_parameters`.
    pub constraints: Vec<String>,
}

/// Reads a policy; the error says what is not understood.
pub fn rules(text: &str) -> Result<Vec<Rule>, String> {
    let rules = if text.trim_start().starts_with('{') { json(text)? } else { hcl(text)? };
    if rules.len() > MAX_RULES {
        return Err(format!(
            "it has {} paths, and {MAX_RULES} statements are the most here: make several of it",
            rules.len()
        ));
    }
    let mut merged: Vec<Rule> = Vec::new();
    for rule in rules {
        match merged.iter_mut().find(|known| known.path == rule.path) {
            Some(known) => {
                known.capabilities.extend(rule.capabilities);
                known.constraints.extend(rule.constraints);
            }
            None => merged.push(rule),
        }
    }
    for rule in &mut merged {
        for words in [&mut rule.capabilities, &mut rule.constraints] {
            words.sort_unstable();
            words.dedup();
        }
    }
    Ok(merged)
}

impl Rule {
    fn new(path: String) -> Self {
        Self { path, capabilities: Vec::new(), constraints: Vec::new() }
    }

    /// Takes one of its settings. `words` is its value, if that is a text or a list of texts.
    fn set(&mut self, name: &str, words: Option<Vec<String>>) -> Result<(), String> {
        match (name, words) {
            ("capabilities", Some(words)) => self.capabilities.extend(words),
            // The form of the first versions.
            ("policy", Some(words)) => {
                for word in &words {
                    self.capabilities.extend(older(word)?.iter().map(|word| (*word).to_owned()));
                }
            }
            ("capabilities" | "policy", None) => return Err(format!("{name} of {:?} is no list of words", self.path)),
            ("comment", _) => {}
            _ => self.constraints.push(name.to_owned()),
        }
        Ok(())
    }
}

fn older(word: &str) -> Result<&'static [&'static str], String> {
    match word {
        "deny" => Ok(&["deny"]),
        "read" => Ok(&["read", "list"]),
        "write" => Ok(&["create", "read", "update", "delete", "list"]),
        "sudo" => Ok(&["create", "read", "update", "delete", "list", "sudo"]),
        _ => Err(format!("{word:?} is no policy")),
    }
}

/// The parser reads HCL 2, and Vault HCL 1: what the parser does not take, it gets again with a line for each setting.
fn parsed(text: &str) -> Result<Body, String> {
    let parse = hcl_edit::parser::parse_body;
    parse(text).or_else(|error| {
        let again = lines::separated(text).and_then(|separated| parse(&separated).ok());
        again.ok_or_else(|| {
            let place = error.location();
            format!("it is not read as HCL, at line {} column {}", place.line(), place.column())
        })
    })
}

fn hcl(text: &str) -> Result<Vec<Rule>, String> {
    let body = parsed(text)?;
    let mut rules = Vec::new();
    for structure in &body {
        match structure {
            Structure::Block(block) if block.ident.as_str() == "path" => rules.push(of_block(block)?),
            Structure::Attribute(attribute) if attribute.key.as_str() == "path" => {
                let paths = attribute.value.as_object().ok_or("path is neither a block nor an object")?;
                for (path, settings) in paths.iter() {
                    let settings = settings.expr().as_object().ok_or("a path has no settings")?;
                    rules.push(of_object(word(path).ok_or("a path is no text")?, settings)?);
                }
            }
            Structure::Attribute(attribute) if attribute.key.as_str() == "name" => {}
            Structure::Block(block) => return Err(format!("it has {:?} beside its paths", block.ident.as_str())),
            Structure::Attribute(other) => return Err(format!("it has {:?} beside its paths", other.key.as_str())),
        }
    }
    Ok(rules)
}

fn of_block(block: &Block) -> Result<Rule, String> {
    let [label] = block.labels.as_slice() else { return Err("a path block has not one path".to_owned()) };
    let mut rule = Rule::new(label.as_str().to_owned());
    for structure in &block.body {
        match structure {
            Structure::Attribute(attribute) => rule.set(attribute.key.as_str(), words(&attribute.value))?,
            Structure::Block(inner) => rule.set(inner.ident.as_str(), None)?,
        }
    }
    Ok(rule)
}

fn of_object(path: String, settings: &Object) -> Result<Rule, String> {
    let mut rule = Rule::new(path);
    for (name, value) in settings.iter() {
        rule.set(&word(name).ok_or("a setting has no name")?, words(value.expr()))?;
    }
    Ok(rule)
}

fn word(key: &hcl_edit::expr::ObjectKey) -> Option<String> {
    let ident = key.as_ident().map(|ident| ident.as_str().to_owned());
    ident.or_else(|| key.as_expr()?.as_str().map(str::to_owned))
}

fn words(value: &Expression) -> Option<Vec<String>> {
    if let Some(text) = value.as_str() {
        return Some(vec![text.to_owned()]);
    }
    value.as_array()?.iter().map(|one| one.as_str().map(str::to_owned)).collect()
}

fn json(text: &str) -> Result<Vec<Rule>, String> {
    let malformed =
        |error: serde_json::Error| format!("it is no JSON, at line {} column {}", error.line(), error.column());
    let whole: Value = serde_json::from_str(text).map_err(malformed)?;
    let whole = whole.as_object().ok_or("it is no object")?;
    let mut rules = Vec::new();
    for (name, value) in whole {
        let lists = match (name.as_str(), value) {
            ("path", Value::Array(lists)) => lists.iter().collect(),
            ("path", one) => vec![one],
            ("name", _) => continue,
            _ => return Err(format!("it has {name:?} beside its paths")),
        };
        for paths in lists {
            for (path, settings) in paths.as_object().ok_or("path is no object")? {
                let mut rule = Rule::new(path.clone());
                for (name, value) in settings.as_object().ok_or("a path has no settings")? {
                    rule.set(name, words_of(value))?;
                }
                rules.push(rule);
            }
        }
    }
    Ok(rules)
}

fn words_of(value: &Value) -> Option<Vec<String>> {
    if let Some(text) = value.as_str() {
        return Some(vec![text.to_owned()]);
    }
    value.as_array()?.iter().map(|one| one.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, capabilities: &[&str], constraints: &[&str]) -> Rule {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Rule { path: path.to_owned(), capabilities: owned(capabilities), constraints: owned(constraints) }
    }

    #[test]
    fn hcl_and_json_say_the_same() {
        let hcl = r#"
            # Comments of three kinds.
            name = "dev"
            path "secret/data/app/*" {
              capabilities = ["read", "update"] // such
              allowed_parameters = { "*" = [] }
            }
            path "secret/{{identity.entity.id}}/+" { policy = "read" } /* and such */
            path "secret/data/app/*" { capabilities = ["create", "read"] }
        "#;
        let json = r#"{"name":"dev","path":{
            "secret/data/app/*":{"capabilities":["read","update","create"],"allowed_parameters":{"*":[]}},
            "secret/{{identity.entity.id}}/+":{"policy":"read"}}}"#;
        let wanted = [
            rule("secret/data/app/*", &["create", "read", "update"], &["allowed_parameters"]),
            rule("secret/{{identity.entity.id}}/+", &["list", "read"], &[]),
        ];
        assert_eq!(rules(hcl).unwrap(), wanted);
        assert_eq!(rules(json).unwrap(), wanted);
        let object = r#"path = { "secret/data/app/*" = { capabilities = ["deny"] } }"#;
        assert_eq!(rules(object).unwrap(), [rule("secret/data/app/*", &["deny"], &[])]);
        assert_eq!(rules("").unwrap(), []);
    }

    /// What only HCL 1 takes, as OpenBao does.
    #[test]
    fn settings_on_one_line_are_read() {
        let text = r#"path "secret/data/q" { capabilities = ["read"] min_wrapping_ttl = "1s" } path "a" { policy = "deny", comment = "}" }
            path "b" { capabilities = ["read"] allowed_parameters = { "x" = [] "*" = [] } } # path "c" { policy = "read" }"#;
        let wanted = [
            rule("secret/data/q", &["read"], &["min_wrapping_ttl"]),
            rule("a", &["deny"], &[]),
            rule("b", &["read"], &["allowed_parameters"]),
        ];
        assert_eq!(rules(text).unwrap(), wanted);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, told) in [
            ("path \"a\" {", "line 1"),
            ("path \"a\" { policy = <<E\nread\nE\n comment = \"x\" }", "line"),
            ("path \"a\" { policy = \"read\" x = 1 = 2 }", "line 1"),
            ("path { capabilities = [\"read\"] }", "one path"),
            ("path \"a\" \"b\" { }", "one path"),
            ("path \"a\" { capabilities = \"${x}\" }", "list of words"),
            ("path \"a\" { capabilities = [1] }", "list of words"),
            ("path \"a\" { policy = \"all\" }", "all"),
            ("key \"a\" { policy = \"read\" }", "beside"),
            ("ttl = 5", "beside"),
            ("path = 5", "object"),
            ("{\"path\":5}", "object"),
            ("{\"path\":{\"a\":5}}", "settings"),
            ("{\"rules\":[]}", "beside"),
            ("{", "JSON"),
        ] {
            let why = rules(text).unwrap_err();
            assert!(why.contains(told), "{text}: {why}");
        }
        let many = "path \"a\" { policy = \"read\" }\n".repeat(MAX_RULES + 1);
        assert!(rules(&many).unwrap_err().contains("1001 paths"));
        // The parser ends by itself, before the stack does.
        assert!(rules(&format!("path \"a\" {{ x = {} }}", "[".repeat(100_000))).is_err());
        assert!(rules(&format!("{{\"path\":{}", "[".repeat(100_000))).is_err());
    }
}
