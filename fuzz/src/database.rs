//! Statements with places: whatever fills them, they stay the statement that was written.
#![expect(clippy::expect_used, clippy::panic, reason = "a target panics at what must not be")]

use bulla_core::engine::database::template::{Place, Template, Values};
use bulla_wire::api::DatabaseEngine;

/// What a server reads, by rules written a second time and apart from those of the template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Identifier(String),
    Text(String),
    Sign(String),
}

/// `engine template`, and behind zero bytes a name and a password: the engine is `m` for MariaDB.
pub fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.splitn(3, '\0');
    let (text, name, password) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or("n'\"`$$"), parts.next().unwrap_or("p'\"`\\--/*"));
    let (engine, text) = match text.strip_prefix('m') {
        Some(text) => (DatabaseEngine::Mariadb, text),
        None => (DatabaseEngine::Postgres, text),
    };
    let template = match Template::parse(engine, text, &Place::ALL) {
        Ok(template) => template,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let fill = |name, password| template.fill(Values { name, password, hash: None, expires_ms: 1_000_000 });
    let (Ok(plain), Ok(filled)) = (fill("n0", "p0"), fill(name, password)) else { return };
    let (plain, filled) = (tokens(engine, plain.as_str()), tokens(engine, filled.as_str()));
    assert_eq!(plain.len(), filled.len(), "{text:?}: another statement");
    for (plain, filled) in plain.into_iter().zip(filled) {
        if plain == filled {
            continue;
        }
        match plain {
            Token::Identifier(one) if one == "n0" => assert_eq!(filled, Token::Identifier(name.to_owned())),
            Token::Text(one) if one == "p0" => assert_eq!(filled, Token::Text(password.to_owned())),
            plain => panic!("{text:?}: {plain:?} became {filled:?}"),
        }
    }
}

fn tokens(engine: DatabaseEngine, text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let mariadb = engine == DatabaseEngine::Mariadb;
        if next.is_ascii_whitespace() {
            rest = &rest[1..];
        } else if let Some(escaped) = rest.strip_prefix("E'").filter(|_| !mariadb) {
            let (text, behind) = quoted(escaped, '\'', true);
            tokens.push(Token::Text(text));
            rest = behind;
        } else if next == '\'' {
            let (text, behind) = quoted(&rest[1..], '\'', false);
            tokens.push(Token::Text(text));
            rest = behind;
        } else if next == '"' || (mariadb && next == '`') {
            let (text, behind) = quoted(&rest[1..], next, false);
            tokens.push(if mariadb && next == '"' { Token::Text(text) } else { Token::Identifier(text) });
            rest = behind;
        } else if let Some(mark) = dollar(rest).filter(|_| !mariadb) {
            let content = &rest[mark.len()..];
            let end = content.find(mark).expect("open quotes");
            tokens.push(Token::Text(content[..end].to_owned()));
            rest = &content[end + mark.len()..];
        } else {
            assert!(!rest.starts_with("--") && !rest.starts_with("/*") && next != ';', "{text:?}");
            let word = |one: char| one.is_ascii_alphanumeric() || one == '_' || (mariadb && one == '$');
            let end = if word(next) { rest.find(|one| !word(one)).unwrap_or(rest.len()) } else { next.len_utf8() };
            tokens.push(Token::Sign(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    tokens
}

/// What stands up to the closing quote, and what comes behind it.
fn quoted(text: &str, quote: char, escapes: bool) -> (String, &str) {
    let mut read = String::new();
    let mut chars = text.char_indices();
    while let Some((at, one)) = chars.next() {
        if escapes && one == '\\' {
            read.push(chars.next().expect("an escape").1);
        } else if one != quote {
            read.push(one);
        } else if text[at + 1..].starts_with(quote) {
            chars.next();
            read.push(quote);
        } else {
            return (read, &text[at + 1..]);
        }
    }
    panic!("open quotes")
}

/// The mark that begins a text between dollars.
fn dollar(text: &str) -> Option<&str> {
    let (tag, _) = text.strip_prefix('$')?.split_once('$')?;
    let word = tag.chars().all(|one| one.is_ascii_alphanumeric() || one == '_');
    (word && !tag.starts_with(|one: char| one.is_ascii_digit())).then(|| &text[..tag.len() + 2])
}
