//! HCL 1 as HCL 2 takes it: each setting of a block on a line of its own.
//!
//! Vault reads HCL 1, to which the end of a line says nothing but in a string and after a comment, and which takes a comma
//! after a setting. HCL 2 wants each setting on its own line. So lines are broken between settings, where HCL 1 sees
//! nothing, and a comma between two of them becomes such a break; everything else stays as it is. What is not certain to
//! mean the same is left to a person.

use std::iter::Peekable;
use std::str::CharIndices;

/// What a text is made of, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Blank,
    /// A string, a number or a name.
    Word,
    /// One of `{}[],=`.
    Mark(char),
}

/// The text with its settings on lines of their own; `None` if that is not certain to mean the same.
pub fn separated(text: &str) -> Option<String> {
    let mut separated = String::with_capacity(text.len().saturating_mul(2));
    let mut rest = text.char_indices().peekable();
    let mut open = Vec::new();
    // Whether the setting that stands before has its value, and whether it still waits for one.
    let (mut ended, mut waits) = (false, false);
    while let Some((begin, first)) = rest.next() {
        let token = token(first, &mut rest)?;
        let end = rest.peek().map_or(text.len(), |(end, _)| *end);
        let written = text.get(begin..end)?;
        let in_list = open.last() == Some(&'[');
        match token {
            Token::Blank | Token::Mark('[' | '=') => separated.push_str(written),
            Token::Mark(',') if in_list => separated.push_str(written),
            Token::Mark(',') if ended && !open.is_empty() => separated.push('\n'),
            Token::Mark('{') => separated.push_str("{\n"),
            Token::Mark('}') => separated.push_str("\n}"),
            Token::Word if ended && !in_list => {
                separated.push('\n');
                separated.push_str(written);
            }
            Token::Word | Token::Mark(']') => separated.push_str(written),
            Token::Mark(_) => return None,
        }
        match token {
            Token::Blank => {}
            Token::Mark(mark @ ('{' | '[')) => {
                open.push(mark);
                (ended, waits) = (false, false);
            }
            Token::Mark('}') => {
                (open.pop() == Some('{')).then_some(())?;
                (ended, waits) = (true, false);
            }
            Token::Mark(']') => {
                (open.pop() == Some('[')).then_some(())?;
                (ended, waits) = (true, false);
            }
            Token::Mark(mark) => (ended, waits) = (false, mark == '='),
            Token::Word => (ended, waits) = (waits, false),
        }
    }
    open.is_empty().then_some(separated)
}

/// Takes the rest of what begins with this; `None` for a heredoc, a string that is more than text, and what has no end.
fn token(first: char, rest: &mut Peekable<CharIndices<'_>>) -> Option<Token> {
    let next = rest.peek().map(|(_, next)| *next);
    match (first, next) {
        ('"', _) => string(rest),
        ('#', _) | ('/', Some('/')) => {
            while rest.next_if(|(_, c)| *c != '\n').is_some() {}
            Some(Token::Blank)
        }
        ('/', Some('*')) => {
            rest.next();
            let mut before = ' ';
            for (_, c) in rest.by_ref() {
                if (before, c) == ('*', '/') {
                    return Some(Token::Blank);
                }
                before = c;
            }
            None
        }
        ('<', _) => None,
        ('{' | '}' | '[' | ']' | ',' | '=', _) => Some(Token::Mark(first)),
        (' ' | '\t' | '\r' | '\n', _) => Some(Token::Blank),
        _ => {
            while rest.next_if(|(_, c)| c.is_ascii_alphanumeric() || "_-.+".contains(*c)).is_some() {}
            (first.is_ascii_alphanumeric() || "_-.+".contains(first)).then_some(Token::Word)
        }
    }
}

fn string(rest: &mut Peekable<CharIndices<'_>>) -> Option<Token> {
    while let Some((_, c)) = rest.next() {
        match c {
            '"' => return Some(Token::Word),
            '\\' => drop(rest.next()?),
            '\n' => return None,
            // What may be filled in reaches further than HCL 2 and HCL 1 agree.
            '$' | '%' if rest.peek().is_some_and(|(_, next)| *next == '{') => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::separated;

    /// Without blanks, since only these may differ.
    fn marks(text: &str) -> String {
        text.chars().filter(|c| !c.is_whitespace() && *c != ',').collect()
    }

    #[test]
    fn lines_are_broken_between_settings_alone() {
        for (text, wanted) in [
            (r#"path "a" { x = ["r"] y = "1s" }"#, "path \"a\" {\n x = [\"r\"] \ny = \"1s\" \n}"),
            (r#"path "a" { x = 1, y = 2 } path "b" {}"#, "path \"a\" {\n x = 1\n y = 2 \n} \npath \"b\" {\n\n}"),
            (r#"a { x = { "k" = [] "l" = ["{", "b"] } }"#, "a {\n x = {\n \"k\" = [] \n\"l\" = [\"{\", \"b\"] \n} \n}"),
        ] {
            assert_eq!(separated(text).as_deref(), Some(wanted));
            assert_eq!(marks(text), marks(wanted));
        }
    }

    #[test]
    fn nothing_in_strings_and_comments_is_a_setting() {
        for text in [
            "a = \"x = 1 y = 2 { \\\" }\" # b = 1 c = 2 {\n",
            "a = 1 // b = \"\n/* c = 1 d = 2 \" } * / **/",
            "path \"a/{{identity.entity.id}}\" {\n a = [ 1, 2 ]\n}",
        ] {
            let separated = separated(text).unwrap();
            assert_eq!(marks(text), marks(&separated), "{text}");
            assert_eq!(text.matches("x = 1 y = 2").count(), separated.matches("x = 1 y = 2").count());
            assert_eq!(text.matches("c = 1 d = 2").count(), separated.matches("c = 1 d = 2").count());
        }
    }

    #[test]
    fn what_is_not_certain_is_left() {
        for text in [
            "a = <<E\nb = 1 c = 2\nE\n",
            "a = \"${b} c\"",
            "a = \"%{b} c\"",
            "a = \"open",
            "a = \"two\nlines\"",
            "/* no end",
            "a { ",
            "a ]",
            "{ a [ }",
            "a = 1, b = 2",
            "x { , }",
            "a = (1)",
            "a = b ? c : d",
        ] {
            assert_eq!(separated(text), None, "{text}");
        }
    }
}
