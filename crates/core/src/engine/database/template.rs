//! Statements as an administrator writes them, with places for what differs from user to user.
//!
//! A place is a word of its own: `{{name}}` becomes a quoted identifier, `{{password}}` and `{{expiration}}` quoted
//! literals. A template is taken only if nothing in it can change what a quote means: one statement, no comment, no
//! backslash, no prefix before a string, and no place inside or beside one. So whatever name and password are, they
//! stay one identifier and one literal, and the statement is the one that was stored.

use super::sql::{self, QuoteError};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::DatabaseEngine;
use std::fmt;

/// Longest template in bytes, and most of all those of one purpose together: room for a long list of grants. Each lease
/// keeps those by which its user is dropped.
pub const MAX_TEMPLATE_BYTES: usize = 4096;
/// Most templates of one purpose.
pub const MAX_TEMPLATES: usize = 16;
/// Longest part of a template that an error repeats, in characters.
const SHOWN_CHARS: usize = 40;

/// What differs from user to user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// `{{name}}`: the user, as an identifier.
    Name,
    /// `{{password}}`: the password, as a literal; for PostgreSQL what the server keeps of it, and for MariaDB too behind
    /// `IDENTIFIED BY`.
    Password,
    /// `{{expiration}}`: when the lease ends, as a literal.
    Expiration,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 3] = [Self::Name, Self::Password, Self::Expiration];

    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "{{name}}",
            Self::Password => "{{password}}",
            Self::Expiration => "{{expiration}}",
        }
    }
}

/// What a template may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It is empty.
    Empty,
    /// It is longer than [`MAX_TEMPLATE_BYTES`].
    TooLong,
    /// Braces that are no place.
    Braces,
    /// A place that this purpose does not have.
    NotHere,
    /// A place inside quotes.
    InQuotes,
    /// A place that touches something.
    Glued,
    /// A literal beside a string, with which the server would join it.
    BesideString,
    /// A comment.
    Comment,
    /// More than one statement.
    Semicolon,
    /// A backslash, which some settings make an escape.
    Backslash,
    /// A string with something in front that changes its meaning.
    Prefix,
    /// Quotes that are not closed.
    Unclosed,
    /// A character that has no business outside of quotes.
    Character,
    /// The statement does not name the user.
    Nameless,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "there is no statement",
            Self::TooLong => "a statement has at most 4096 bytes",
            Self::Braces => "braces outside of quotes are for {{name}}, {{password}} and {{expiration}} alone",
            Self::NotHere => "a statement of this purpose does not have this place",
            Self::InQuotes => "a place stands outside of quotes: it is quoted when it is filled",
            Self::Glued => "a place stands by itself, between spaces, brackets, commas or after =",
            Self::BesideString => "a literal does not stand beside a string, with which the server would join it",
            Self::Comment => "a statement holds no comment",
            Self::Semicolon => "each statement stands by itself, without a semicolon",
            Self::Backslash => "a statement holds no backslash: what it means depends on settings",
            Self::Prefix => "a string has nothing directly in front, which would change what it means",
            Self::Unclosed => "the quotes are not closed",
            Self::Character => {
                "outside of quotes stand printable characters of ASCII alone, and nowhere other control characters"
            }
            Self::Nameless => "none of the statements holds {{name}}",
        })
    }
}

/// Why a template is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// What it breaks.
    pub rule: Rule,
    /// The part that does.
    pub part: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rule)?;
        if self.part.is_empty() { Ok(()) } else { write!(f, ", near {:?}", self.part) }
    }
}
impl std::error::Error for TemplateError {}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
    /// The password behind `IDENTIFIED BY`, where MariaDB takes a hash as well.
    Identified,
}

/// A statement with places, which was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    engine: DatabaseEngine,
    parts: Vec<Part>,
}

/// What fills the places.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// The user.
    pub name: &'a str,
    /// The password, or what the server keeps of it.
    pub password: &'a str,
    /// The hash that a server keeps of it, if it takes `IDENTIFIED BY PASSWORD`: there it stands in the password's place.
    pub hash: Option<&'a str>,
    /// When the lease ends, Unix milliseconds.
    pub expires_ms: u64,
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({:?})", self.name)
    }
}

/// A statement that is ready to be sent. It may hold a password, so it does not print.
pub struct Statement(SecretBytes);

impl Statement {
    /// Its text.
    pub fn as_str(&self) -> &str {
        // It was made of text.
        std::str::from_utf8(self.0.expose()).unwrap_or_default()
    }
}

impl From<String> for Statement {
    fn from(text: String) -> Self {
        Self(SecretBytes::new(text.into_bytes()))
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Statement({} bytes)", self.0.expose().len())
    }
}

/// What stood last, spaces left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    String,
    Literal,
    Introducer,
    /// The word `IDENTIFIED`.
    Identified,
    /// `IDENTIFIED BY`.
    IdentifiedBy,
    Other,
}

struct Scanner<'a> {
    engine: DatabaseEngine,
    text: &'a str,
    at: usize,
    last: Last,
    /// Where the text began that no part holds yet.
    begun: usize,
    parts: Vec<Part>,
}

impl Template {
    /// Reads a template that may have these places.
    ///
    /// # Errors
    /// What it breaks, and where.
    pub fn parse(engine: DatabaseEngine, text: &str, allowed: &[Place]) -> Result<Self, TemplateError> {
        let refuse = |rule| Err(TemplateError { rule, part: String::new() });
        if text.len() > MAX_TEMPLATE_BYTES {
            return refuse(Rule::TooLong);
        }
        if text.trim().is_empty() {
            return refuse(Rule::Empty);
        }
        // In a stored record each would take six bytes, and nobody reads a statement that hides one.
        let control = |one: char| one.is_control() && !matches!(one, '\t' | '\n' | '\r');
        if let Some((lead, _)) = text.split_once(control) {
            let part = lead.chars().rev().take(SHOWN_CHARS).collect::<Vec<_>>().into_iter().rev().collect();
            return Err(TemplateError { rule: Rule::Character, part });
        }
        let mut scanner = Scanner { engine, text, at: 0, last: Last::Nothing, begun: 0, parts: vec![] };
        while let Some(next) = scanner.rest().chars().next() {
            scanner.step(next, allowed)?;
        }
        scanner.flush(text.len());
        Ok(Self { engine, parts: scanner.parts })
    }

    /// Whether it has this place.
    pub fn has(&self, place: Place) -> bool {
        let identified = place == Place::Password && self.parts.contains(&Part::Identified);
        identified || self.parts.contains(&Part::Place(place))
    }

    /// The statement for one user.
    ///
    /// # Errors
    /// If a value cannot stand in a statement of this server.
    pub fn fill(&self, values: Values<'_>) -> Result<Statement, QuoteError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Place(Place::Name) => text.push_str(&sql::identifier(self.engine, values.name)?),
                Part::Identified => text.push_str(&match values.hash {
                    Some(hash) => format!("PASSWORD {}", sql::literal(self.engine, hash)?),
                    None => sql::literal(self.engine, values.password)?,
                }),
                Part::Place(Place::Password) => text.push_str(&sql::literal(self.engine, values.password)?),
                Part::Place(Place::Expiration) => {
                    text.push_str(&sql::literal(self.engine, &sql::time(self.engine, values.expires_ms))?);
                }
            }
        }
        Ok(text.into())
    }
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn before(&self) -> Option<char> {
        self.text.get(..self.at).and_then(|text| text.chars().next_back())
    }

    fn refuse<T>(&self, rule: Rule) -> Result<T, TemplateError> {
        // A few characters of what leads there, then what is wrong.
        let lead = self.text.get(..self.at).unwrap_or_default();
        let from = lead.char_indices().rev().nth(11).map_or(0, |(at, _)| at);
        let part = self.text.get(from..).unwrap_or_default().chars().take(SHOWN_CHARS).collect();
        Err(TemplateError { rule, part })
    }

    fn flush(&mut self, to: usize) {
        if let Some(text) = self.text.get(self.begun..to).filter(|text| !text.is_empty()) {
            self.parts.push(Part::Text(text.to_owned()));
        }
    }

    /// Reads what begins with `next`.
    fn step(&mut self, next: char, allowed: &[Place]) -> Result<(), TemplateError> {
        let rest = self.rest();
        let mariadb = self.engine == DatabaseEngine::Mariadb;
        match next {
            ' ' | '\t' | '\n' | '\r' => self.at += 1,
            '{' | '}' => return self.place(allowed),
            '\'' | '"' => return self.quoted(next),
            '`' if mariadb => return self.quoted(next),
            '$' if !mariadb => return self.dollar_quoted(),
            ';' => return self.refuse(Rule::Semicolon),
            '\\' => return self.refuse(Rule::Backslash),
            '#' => return self.refuse(Rule::Comment),
            _ if rest.starts_with("--") || rest.starts_with("/*") => return self.refuse(Rule::Comment),
            _ if is_word(next) => {
                let end = rest.find(|one: char| !(is_word(one) || mariadb && one == '$')).unwrap_or(rest.len());
                self.last = self.word(rest.get(..end).unwrap_or_default());
                self.at += end;
            }
            _ if next.is_ascii_graphic() => {
                self.last = Last::Other;
                self.at += 1;
            }
            _ => return self.refuse(Rule::Character),
        }
        Ok(())
    }

    /// What a word is for what comes behind it.
    fn word(&self, word: &str) -> Last {
        match self.last {
            _ if self.engine != DatabaseEngine::Mariadb => Last::Other,
            // `_utf8mb4 'x'` gives a string another set of characters.
            _ if word.starts_with('_') => Last::Introducer,
            Last::Identified if word.eq_ignore_ascii_case("by") => Last::IdentifiedBy,
            _ if word.eq_ignore_ascii_case("identified") => Last::Identified,
            _ => Last::Other,
        }
    }

    fn place(&mut self, allowed: &[Place]) -> Result<(), TemplateError> {
        let Some(place) = Place::ALL.into_iter().find(|place| self.rest().starts_with(place.as_str())) else {
            return self.refuse(Rule::Braces);
        };
        if !allowed.contains(&place) {
            return self.refuse(Rule::NotHere);
        }
        let behind = self.rest().get(place.as_str().len()..).unwrap_or_default();
        let host = place == Place::Name && self.engine == DatabaseEngine::Mariadb;
        let free_before = self.before().is_none_or(|one| one.is_ascii_whitespace() || "(,=".contains(one));
        let free_behind = behind
            .chars()
            .next()
            .is_none_or(|one| one.is_ascii_whitespace() || "),;".contains(one) || (host && one == '@'));
        if !free_before || !free_behind {
            return self.refuse(Rule::Glued);
        }
        if place != Place::Name {
            let next = behind.trim_start().chars().next();
            let joined = matches!(self.last, Last::String | Last::Literal | Last::Introducer);
            if joined || matches!(next, Some('\'' | '"')) {
                return self.refuse(Rule::BesideString);
            }
        }
        self.flush(self.at);
        let identified = place == Place::Password && self.last == Last::IdentifiedBy;
        self.parts.push(if identified { Part::Identified } else { Part::Place(place) });
        self.at += place.as_str().len();
        self.begun = self.at;
        self.last = if place == Place::Name { Last::Other } else { Last::Literal };
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> Result<(), TemplateError> {
        if self.before().is_some_and(|one| is_word(one) || "$&'\"`".contains(one)) {
            return self.refuse(Rule::Prefix);
        }
        let start = self.at;
        self.at += 1;
        while let Some(next) = self.rest().chars().next() {
            if next == '\\' {
                return self.refuse(Rule::Backslash);
            }
            if self.rest().starts_with("{{") {
                return self.refuse(Rule::InQuotes);
            }
            self.at += next.len_utf8();
            if next != quote {
                continue;
            }
            if !self.rest().starts_with(quote) {
                // What `"` holds is a string for one of the servers, so it counts as one for both.
                self.last = if quote == '`' { Last::Other } else { Last::String };
                return Ok(());
            }
            self.at += 1;
        }
        self.at = start;
        self.refuse(Rule::Unclosed)
    }

    fn dollar_quoted(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let tag = rest.get(1..).and_then(|rest| rest.split_once('$')).map(|(tag, _)| tag).unwrap_or("0");
        let fits = tag.chars().all(is_word) && !tag.starts_with(|one: char| one.is_ascii_digit());
        if !fits || self.before().is_some_and(|one| is_word(one) || one == '$') {
            return self.refuse(Rule::Prefix);
        }
        let mark = format!("${tag}$");
        let Some((content, _)) = rest.get(mark.len()..).and_then(|rest| rest.split_once(mark.as_str())) else {
            return self.refuse(Rule::Unclosed);
        };
        if let Some(at) = content.find("{{") {
            self.at += mark.len() + at;
            return self.refuse(Rule::InQuotes);
        }
        self.at += content.len() + 2 * mark.len();
        self.last = Last::String;
        Ok(())
    }
}

fn is_word(one: char) -> bool {
    one.is_ascii_alphanumeric() || one == '_'
}

#[cfg(test)]
mod tests {
    use super::DatabaseEngine::{Mariadb, Postgres};
    use super::*;

    const VALUES: Values<'_> = Values { name: "a\"`'b", password: "p'\"`--x", hash: None, expires_ms: 0 };

    fn parse(engine: DatabaseEngine, text: &str) -> Result<Template, TemplateError> {
        Template::parse(engine, text, &Place::ALL)
    }

    #[test]
    fn places_become_one_identifier_and_one_literal() {
        let filled = |engine, text| parse(engine, text).unwrap().fill(VALUES).unwrap().as_str().to_owned();
        assert_eq!(
            filled(Postgres, "CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}"),
            "CREATE ROLE \"a\"\"`'b\" LOGIN PASSWORD 'p''\"`--x' VALID UNTIL '1970-01-01 00:00:00+00'"
        );
        assert_eq!(
            filled(Mariadb, "CREATE USER {{name}}@'%' IDENTIFIED BY {{password}}"),
            "CREATE USER `a\"``'b`@'%' IDENTIFIED BY 'p''\"`--x'"
        );
        assert_eq!(filled(Postgres, "SELECT f({{name}},{{password}})"), "SELECT f(\"a\"\"`'b\",'p''\"`--x')");
        assert_eq!(filled(Postgres, "DO $x$ BEGIN; END $x$"), "DO $x$ BEGIN; END $x$");
        assert_eq!(filled(Postgres, "SELECT 'it''s {a}', \"b\"\"\""), "SELECT 'it''s {a}', \"b\"\"\"");
    }

    #[test]
    fn behind_identified_by_stands_the_hash_where_there_is_one() {
        let hashed = Values { hash: Some("*AB'"), ..VALUES };
        let filled = |engine, text| parse(engine, text).unwrap().fill(hashed).unwrap().as_str().to_owned();
        for text in
            ["IDENTIFIED BY {{password}}", "identified\n by\t{{password}}", "x IDENTIFIED IDENTIFIED BY {{password}}"]
        {
            assert!(parse(Mariadb, text).unwrap().has(Place::Password));
            assert!(filled(Mariadb, text).ends_with("PASSWORD '*AB'''"), "{text}");
        }
        for text in [
            "IDENTIFIED WITH caching_sha2_password BY {{password}}",
            "IDENTIFIED VIA ed25519 USING PASSWORD({{password}})",
            "IDENTIFIED 'x' BY {{password}}",
            "IDENTIFIED BY ({{password}}",
            "IDENTIFIED , BY {{password}}",
            "IDENTIFIED BY PASSWORD {{password}}",
            "_IDENTIFIED BY {{password}}",
        ] {
            assert!(filled(Mariadb, text).contains("'p''"), "{text}");
        }
        assert_eq!(filled(Postgres, "IDENTIFIED BY {{password}}"), "IDENTIFIED BY 'p''\"`--x'");
    }

    #[test]
    fn what_could_change_the_meaning_of_a_quote_is_refused() {
        for (text, rule) in [
            ("", Rule::Empty),
            (" \n", Rule::Empty),
            ("CREATE ROLE \"{{name}}\"", Rule::InQuotes),
            ("CREATE ROLE x PASSWORD '{{password}}'", Rule::InQuotes),
            ("DO $$ {{name}} $$", Rule::InQuotes),
            ("DO $a$ $b$ {{name}} $b$ $a$", Rule::InQuotes),
            ("DROP ROLE {{name}} -- x", Rule::Comment),
            ("DROP ROLE /* {{name}} */ x", Rule::Comment),
            ("DROP ROLE # {{name}}", Rule::Comment),
            ("DROP ROLE {{name}}; DROP ROLE x", Rule::Semicolon),
            ("DROP ROLE pre{{name}}", Rule::Glued),
            ("DROP ROLE {{name}}post", Rule::Glued),
            ("DROP ROLE {{name}}{{name}}", Rule::Glued),
            ("DROP ROLE {{name}}.x", Rule::Glued),
            ("DROP ROLE x.{{name}}", Rule::Glued),
            ("SELECT E{{password}}", Rule::Glued),
            ("SELECT U&{{name}}", Rule::Glued),
            ("SELECT 'x'{{password}}", Rule::Glued),
            ("SELECT 'x'\n{{password}}", Rule::BesideString),
            ("SELECT {{password}}\n'x'", Rule::BesideString),
            ("SELECT {{password}} {{password}}", Rule::BesideString),
            ("SELECT $$x$$ {{password}}", Rule::BesideString),
            ("SELECT E'x'", Rule::Prefix),
            ("SELECT U&\"x\"", Rule::Prefix),
            ("SELECT 'a\\' {{password}}", Rule::Backslash),
            ("SELECT \\", Rule::Backslash),
            ("SELECT 'x", Rule::Unclosed),
            ("DO $a$ x", Rule::Unclosed),
            ("SELECT $1", Rule::Prefix),
            ("SELECT {name}", Rule::Braces),
            ("SELECT {{ name }}", Rule::Braces),
            ("SELECT {{host}}", Rule::Braces),
            ("SELECT }}", Rule::Braces),
            ("SELECT \u{a0}1", Rule::Character),
            ("SELECT \0", Rule::Character),
            ("SELECT '\u{1}'", Rule::Character),
            ("DO $$\u{7f}$$", Rule::Character),
        ] {
            let error = parse(Postgres, text).map_err(|error| error.rule);
            assert_eq!(error, Err(rule), "{text}");
        }
        for (text, rule) in [
            ("CREATE USER '{{name}}'@'%'", Rule::InQuotes),
            ("CREATE USER `{{name}}`@'%'", Rule::InQuotes),
            ("CREATE USER x IDENTIFIED BY _gbk {{password}}", Rule::BesideString),
            ("CREATE USER x IDENTIFIED BY {{password}}@'%'", Rule::Glued),
        ] {
            assert_eq!(parse(Mariadb, text).map_err(|error| error.rule), Err(rule), "{text}");
        }
        let not_here = Template::parse(Postgres, "DROP ROLE {{password}}", &[Place::Name]);
        assert_eq!(not_here.map_err(|error| error.rule), Err(Rule::NotHere));
    }

    #[test]
    fn the_part_at_fault_is_told() {
        let error = parse(Postgres, "CREATE ROLE x PASSWORD '{{password}}' LOGIN").unwrap_err();
        assert!(error.to_string().contains("'{{password}}'"), "{error}");
    }

    #[test]
    fn a_statement_does_not_print() {
        let statement = parse(Postgres, "SELECT {{password}}").unwrap().fill(VALUES).unwrap();
        assert!(!format!("{statement:?} {VALUES:?}").contains("--x"));
    }

    #[test]
    fn the_longest_statement_and_quotes_of_dollars() {
        assert!(parse(Postgres, &"x".repeat(MAX_TEMPLATE_BYTES)).is_ok());
        let long = parse(Postgres, &"x".repeat(MAX_TEMPLATE_BYTES + 1));
        assert_eq!(long.map(drop).map_err(|error| error.rule), Err(Rule::TooLong));
        assert!(parse(Postgres, "SELECT\r\n\t1").is_ok());
        // In names `$` is a letter, and a tag neither begins with a digit nor holds anything but letters and digits.
        for text in ["SELECT x$a$;$a$", "SELECT $$x$$$a$;$a$", "SELECT $1$;$1$", "SELECT $a-b$;$a-b$"] {
            assert_eq!(parse(Postgres, text).map(drop).map_err(|error| error.rule), Err(Rule::Prefix), "{text}");
        }
    }

    /// What is a quote for one server is a sign like any other for the other one.
    #[test]
    fn each_server_has_its_own_quotes() {
        // An operator of PostgreSQL, and a letter of MariaDB.
        for (engine, text) in [(Postgres, "SELECT ` {{password}}"), (Mariadb, "SELECT $a$ , {{password}}")] {
            assert_eq!(parse(engine, text).map(drop), Ok(()), "{text}");
        }
        let error = parse(Mariadb, "SELECT `x").map(drop).map_err(|error| error.rule);
        assert_eq!(error, Err(Rule::Unclosed));
        // PostgreSQL knows no hosts of users.
        let error = parse(Postgres, "DROP ROLE {{name}}@x").map(drop).map_err(|error| error.rule);
        assert_eq!(error, Err(Rule::Glued));
    }

    #[test]
    fn a_statement_has_the_places_that_stand_in_it() {
        let has = |engine: DatabaseEngine, text: &str| {
            let template = parse(engine, text).unwrap();
            Place::ALL.map(|place| template.has(place))
        };
        assert_eq!(has(Postgres, "DROP ROLE {{name}}"), [true, false, false]);
        assert_eq!(has(Postgres, "SELECT {{password}}, {{expiration}}"), [false, true, true]);
        assert_eq!(has(Mariadb, "ALTER USER x IDENTIFIED BY {{password}}"), [false, true, false]);
    }

    #[test]
    fn the_part_at_fault_is_told_out_of_quotes_of_dollars() {
        let error = parse(Postgres, "DO $a$ BEGIN PERFORM {{name}}; END $a$").unwrap_err();
        assert_eq!((error.rule, error.part.as_str()), (Rule::InQuotes, "GIN PERFORM {{name}}; END $a$"));
    }

    #[test]
    fn each_rule_has_words_of_its_own() {
        let rules = [
            Rule::Empty,
            Rule::TooLong,
            Rule::Braces,
            Rule::NotHere,
            Rule::InQuotes,
            Rule::Glued,
            Rule::BesideString,
            Rule::Comment,
            Rule::Semicolon,
            Rule::Backslash,
            Rule::Prefix,
            Rule::Unclosed,
            Rule::Character,
            Rule::Nameless,
        ];
        let told: std::collections::BTreeSet<String> = rules.iter().map(ToString::to_string).collect();
        assert!(told.len() == rules.len() && !told.contains(""), "{told:?}");
        assert!(Rule::TooLong.to_string().contains(&MAX_TEMPLATE_BYTES.to_string()));
    }
}
