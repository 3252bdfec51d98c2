//! From text to statements: a policy that is stored means something, can apply, and says nothing that a reader
//! would take for something else.
//!
//! Threat: text from somebody who may write policies, at most [`MAX_TEXT_BYTES`] of it. It must neither end the
//! process by its depth nor slip in a `forbid` that never holds.

use super::model::Language;
use bulla_wire::name::Name;
use cedar_policy::{Policy, PolicyId, PolicySet, ValidationMode, ValidationWarning};
use miette::Diagnostic;
use std::fmt;

/// Longest text of one policy in bytes. Some 500 statements of usual length; parsing it takes milliseconds.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Most statements in one policy, so that a number in an audit line finds its statement by eye.
pub const MAX_STATEMENTS: usize = 1000;
/// Most statements in the whole set: if all are about everybody and everything, a decision takes some 17 ms.
pub const MAX_STATEMENTS_IN_SET: usize = 10_000;
/// Most tokens (words, strings, signs) in one statement. Cedar recurses over chains of operators too: on a stack
/// of 2 MiB a chain of 4,000 (8,000 tokens) ends the process. Room for some 160 entities in a list.
pub const MAX_STATEMENT_TOKENS: usize = 1000;
/// Deepest nesting of brackets in a statement, each `if` counted as a bracket too. Cedar's parser does not bound
/// it: on a stack of 2 MiB, 160 brackets end the process.
pub const MAX_NESTING: usize = 32;

/// Why a policy set was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyError {
    /// More than [`MAX_STATEMENTS_IN_SET`] statements in all policies together.
    TooManyStatements(usize),
    /// One policy was refused.
    Refused(Box<Refusal>),
    /// This build carries a broken schema; no text is at fault.
    Language(String),
}

/// Why one policy was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which policy.
    pub policy: Name,
    /// Line of its text, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What kind of fault.
    pub fault: Fault,
    /// What was found.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Kinds of fault in a policy's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Longer, deeper or more than the limits allow.
    Limit,
    /// No statement in it.
    Empty,
    /// It is not Cedar.
    Syntax,
    /// It has slots (`?principal`, `?resource`).
    Template,
    /// It does not fit the schema.
    Schema,
    /// It names an id that no request can have.
    Id,
    /// A statement that can never apply.
    Never,
    /// It looks like something else than it is.
    Misleading,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyStatements(count) => write!(
                f,
                "{count} statements in all policies, but at most {MAX_STATEMENTS_IN_SET} are kept; grant to groups"
            ),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Language(error) => write!(f, "the policy schema of this build is broken: {error}"),
        }
    }
}
impl std::error::Error for PolicyError {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, line, column, fault: _, message, hint } = self;
        write!(f, "policy {policy}, line {line}, column {column}: {message}; {hint}")
    }
}
impl std::error::Error for Refusal {}

/// The text of one policy, and what it says.
pub(super) struct Source<'a> {
    pub(super) language: &'a Language,
    pub(super) name: &'a Name,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// The statements in the order of the text, with ids `<name>#<n>` from 0.
    pub(super) fn statements(&self) -> Result<Vec<Policy>, PolicyError> {
        if self.text.len() > MAX_TEXT_BYTES {
            return Err(self.refuse(
                0,
                Fault::Limit,
                format!("the text has {} bytes", self.text.len()),
                format!("at most {MAX_TEXT_BYTES} are taken: make two policies of it"),
            ));
        }
        self.check_size()?;
        let set: PolicySet = self.text.parse().map_err(|errors: cedar_policy::ParseErrors| {
            errors.iter().next().map_or_else(
                || self.refuse(0, Fault::Syntax, "this is no Cedar".to_owned(), SYNTAX_HINT.to_owned()),
                |error| self.diagnosed(error, Fault::Syntax, 0, SYNTAX_HINT),
            )
        })?;
        if let Some(template) = set.templates().next() {
            let start = self.text.find(template.to_cedar().trim()).unwrap_or(0);
            return Err(self.refuse(
                start,
                Fault::Template,
                "templates are not supported".to_owned(),
                "write the principal or resource in place of ?principal or ?resource; a group saves repetition"
                    .to_owned(),
            ));
        }
        let mut numbered: Vec<(usize, &Policy)> = set.policies().map(|policy| (number(policy.id()), policy)).collect();
        numbered.sort_by_key(|(number, _)| *number);
        let statements: Vec<Policy> = (0..)
            .zip(numbered)
            .map(|(n, (_, policy)): (usize, _)| policy.new_id(PolicyId::new(format!("{}#{n}", self.name))))
            .collect();
        if statements.is_empty() {
            return Err(self.refuse(
                0,
                Fault::Empty,
                "there is no statement in it".to_owned(),
                "write one, or delete the policy".to_owned(),
            ));
        }
        let starts = self.starts(&statements);
        for (statement, start) in statements.iter().zip(&starts) {
            self.check_entities(statement, *start)?;
        }
        self.validate(&statements, &starts)?;
        Ok(statements)
    }

    /// Bounds tokens, nesting and statements before anything recurses over the text.
    fn check_size(&self) -> Result<(), PolicyError> {
        let mut size = Size::default();
        for (at, token) in tokens(self.text) {
            let (limit, what) = match size.add(token) {
                Ok(()) => continue,
                Err(Excess::Tokens) => (MAX_STATEMENT_TOKENS, "words and signs in one statement"),
                Err(Excess::Nesting) => (MAX_NESTING, "brackets and ifs open at once"),
                Err(Excess::Statements) => (MAX_STATEMENTS, "statements in one policy"),
            };
            return Err(self.refuse(
                at,
                Fault::Limit,
                format!("more than {limit} {what}"),
                "make several of it".to_owned(),
            ));
        }
        Ok(())
    }

    /// Where each statement begins in the text.
    fn starts(&self, statements: &[Policy]) -> Vec<usize> {
        let mut from = 0;
        statements
            .iter()
            .map(|statement| {
                let text = statement.to_cedar().unwrap_or_default();
                let found = self.text.get(from..).and_then(|rest| rest.find(text.trim())).map_or(from, |at| from + at);
                from = (found + text.len()).min(self.text.len());
                found
            })
            .collect()
    }

    /// Refuses ids that no request can have, and attributes of anything but the caller: no request brings them,
    /// so that the statement would fail, and with it every decision.
    fn check_entities(&self, statement: &Policy, start: usize) -> Result<(), PolicyError> {
        for uid in statement.entity_literals() {
            let at = || self.text.get(start..).and_then(|rest| rest.find(&uid.to_string())).unwrap_or(0) + start;
            if let Some(qualified) = self.language.qualified(&uid) {
                let (message, hint) = (format!("unrecognized entity {uid}"), format!("write {qualified}"));
                return Err(self.refuse(at(), Fault::Schema, plain(&message), plain(&hint)));
            }
            if let Some(expected) = self.language.misspelt(&uid) {
                return Err(self.refuse(
                    at(),
                    Fault::Id,
                    format!("{uid} can be in no request"),
                    format!("expected {expected}"),
                ));
            }
        }
        let foreign = match statement.to_json() {
            Ok(json) => reads_other_than_principal(&json),
            Err(_) => true,
        };
        if foreign {
            return Err(self.refuse(
                start,
                Fault::Schema,
                "it reads an attribute or tag of something other than the caller".to_owned(),
                "only \"principal\" itself has attributes: principal.name, principal.hasTag(\"…\"), \
                 principal.getTag(\"…\")"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn validate(&self, statements: &[Policy], starts: &[usize]) -> Result<(), PolicyError> {
        let set = PolicySet::from_policies(statements.iter().cloned())
            .map_err(|error| self.refuse(0, Fault::Schema, error.to_string(), "rename the policy".to_owned()))?;
        let result = self.language.validator().validate(&set, ValidationMode::Strict);
        let start_of = |id: &PolicyId| {
            statements.iter().zip(starts).find(|(statement, _)| statement.id() == id).map_or(0, |(_, start)| *start)
        };
        if let Some(error) = result.validation_errors().next() {
            return Err(self.diagnosed(error, Fault::Schema, start_of(error.policy_id()), SCHEMA_HINT));
        }
        for warning in result.validation_warnings() {
            let (fault, id, hint) = match warning {
                // Attributes may hold any text, in more than one script.
                ValidationWarning::MixedScriptString(_) => continue,
                ValidationWarning::ImpossiblePolicy(warning) => (Fault::Never, warning.policy_id(), NEVER_HINT),
                ValidationWarning::InvalidActionApplication(warning) => (Fault::Never, warning.policy_id(), NEVER_HINT),
                _ => (Fault::Misleading, warning.policy_id(), "write it in plain ASCII"),
            };
            return Err(self.diagnosed(warning, fault, start_of(id), hint));
        }
        Ok(())
    }

    /// A fault that Cedar found, at its first label, or else at `start`.
    fn diagnosed(&self, error: &dyn Diagnostic, fault: Fault, start: usize, hint: &str) -> PolicyError {
        let at = error.labels().and_then(|mut labels| labels.next()).map_or(start, |label| label.offset());
        // Cedar's guesses at misspelt names go by letters alone, and mislead.
        let help = error.help().map(|help| help.to_string()).filter(|help| !help.starts_with("did you mean"));
        let hint = help.unwrap_or_else(|| hint.to_owned());
        self.refuse(at, fault, plain(&error.to_string()), plain(&hint))
    }

    fn refuse(&self, at: usize, fault: Fault, message: String, hint: String) -> PolicyError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        PolicyError::Refused(Box::new(Refusal { policy: self.name.clone(), line, column, fault, message, hint }))
    }
}

const SYNTAX_HINT: &str = "write permit or forbid (principal, action, resource) when { ... };";
const SCHEMA_HINT: &str = "spec/policy.md lists the types, actions and attributes";
const NEVER_HINT: &str = "the statement would never apply: compare it with the schema in spec/policy.md";

/// Cedar's words without its "for policy `team#0`", which the place says better, and with every character that
/// could hide or turn text on a terminal written out.
fn plain(text: &str) -> String {
    let said = match text.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, ")) {
        Some((_, said)) => said,
        None => text,
    };
    said.chars()
        .flat_map(|c| {
            let shown = c.is_ascii() && !c.is_ascii_control();
            let escaped = (!shown).then(|| c.escape_unicode());
            shown.then_some(c).into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

/// The number that Cedar's parser gave: `policy0`, `policy1`, … in the order of the text.
fn number(id: &PolicyId) -> usize {
    let text: &str = id.as_ref();
    text.strip_prefix("policy").and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

/// Whether an expression in Cedar's JSON form looks into anything but the variable `principal`.
fn reads_other_than_principal(json: &serde_json::Value) -> bool {
    use serde_json::Value;
    match json {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            let looks = matches!(key.as_str(), "." | "has" | "hasTag" | "getTag");
            let left = value.get("left").and_then(|left| left.get("Var")).and_then(Value::as_str);
            (looks && left != Some("principal")) || reads_other_than_principal(value)
        }),
        Value::Array(items) => items.iter().any(reads_other_than_principal),
        _ => false,
    }
}

/// What counts towards the limits. Not Cedar's own lexer: it need only never count less than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    /// Nests without a bracket, until the statement's end.
    If,
    End,
    Other,
}

/// Tokens with their place: words, string literals, and every other character for itself.
fn tokens(text: &str) -> impl Iterator<Item = (usize, Token)> {
    let mut chars = text.char_indices().peekable();
    std::iter::from_fn(move || {
        loop {
            let (at, c) = chars.next()?;
            let token = match c {
                c if c.is_whitespace() => continue,
                '/' if chars.next_if(|(_, c)| *c == '/').is_some() => {
                    // Cedar ends a comment at a carriage return too; what follows it must count.
                    while chars.next_if(|(_, c)| !matches!(c, '\n' | '\r')).is_some() {}
                    continue;
                }
                '"' => {
                    while let Some((_, c)) = chars.next_if(|(_, c)| *c != '"') {
                        if c == '\\' {
                            chars.next();
                        }
                    }
                    chars.next();
                    Token::Other
                }
                ':' | '&' | '|' | '=' | '!' | '<' | '>' => {
                    let pairs = ["::", "&&", "||", "==", "!=", "<=", ">="];
                    if text.get(at..at + 2).is_some_and(|pair| pairs.contains(&pair)) {
                        chars.next();
                    }
                    Token::Other
                }
                '(' | '{' | '[' => Token::Open,
                ')' | '}' | ']' => Token::Close,
                ';' => Token::End,
                c if c.is_ascii_digit() => {
                    while chars.next_if(|(_, c)| c.is_ascii_digit()).is_some() {}
                    Token::Other
                }
                c if c.is_ascii_alphabetic() || c == '_' => {
                    let mut end = at + 1;
                    while chars.next_if(|(_, c)| c.is_ascii_alphanumeric() || *c == '_').is_some() {
                        end += 1;
                    }
                    if text.get(at..end) == Some("if") { Token::If } else { Token::Other }
                }
                _ => Token::Other,
            };
            return Some((at, token));
        }
    })
}

#[derive(Default)]
struct Size {
    statements: usize,
    tokens: usize,
    nesting: usize,
}

enum Excess {
    Statements,
    Tokens,
    Nesting,
}

impl Size {
    fn add(&mut self, token: Token) -> Result<(), Excess> {
        self.tokens += 1;
        match token {
            Token::Open | Token::If => self.nesting += 1,
            Token::Close => self.nesting = self.nesting.saturating_sub(1),
            Token::End => {
                self.statements += 1;
                self.tokens = 0;
                self.nesting = 0;
            }
            Token::Other => {}
        }
        if self.statements > MAX_STATEMENTS {
            Err(Excess::Statements)
        } else if self.tokens > MAX_STATEMENT_TOKENS {
            Err(Excess::Tokens)
        } else if self.nesting > MAX_NESTING {
            Err(Excess::Nesting)
        } else {
            Ok(())
        }
    }
}
