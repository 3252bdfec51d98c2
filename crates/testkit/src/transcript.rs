//! What was typed and what was printed, as a golden file.
//!
//! ```text
//! # Alice wraps a file; a comment is kept.
//! alice$ SLIP=$(bulla wrap create --to bob note.txt)
//!   bulla:wrap:<id 1>:<wrap 1>:<id 2>
//! exit 0
//!
//! bob$ bulla open ${SLIP} -o note.txt
//! exit 0
//!
//! bob$ bulla open ${SLIP} -o again.txt
//! ! error: the wrap was opened already
//! exit 4
//! ```
//!
//! A line with `$ ` is a command of the person before it (`$ ` alone: of the only one). `NAME=$(…)` keeps its standard
//! output, without the newline, for `${NAME}` later. Lines that begin with `< ` after it are its standard input.
//! Then come standard output (two spaces before each line), standard error (`! `) and the exit code. Words are split as in a
//! shell, with single and double quotes and no other expansion. Ids, times and ports get names; equal ones equal names.
//! Who is no person but a part of the world, such as a clock, does what the test gave it for such words: `clock$ pass 2h`.
//!
//! With `BULLA_BLESS=1` the file is written with what came out. A new transcript needs only comments, commands and
//! input.

use crate::cli::{Cli, Output};
use crate::redaction::Redaction;
use std::collections::BTreeMap;
use std::path::Path;

/// One command of a transcript.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    /// Comments and empty lines before it.
    before: Vec<String>,
    person: String,
    /// As it stands after the `$ `.
    line: String,
    input: Vec<String>,
}

/// What the world does when it is told to by these words.
type Deed<'a> = dyn Fn(&[&str]) + 'a;

/// Who does what stands after a prompt.
enum Actor<'a> {
    Person(&'a Cli),
    World(Box<Deed<'a>>),
}

/// People, variables and names for a transcript.
#[derive(Default)]
pub struct Transcript<'a> {
    actors: BTreeMap<String, Actor<'a>>,
    variables: BTreeMap<String, String>,
    redaction: Redaction,
}

impl<'a> Transcript<'a> {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A person; the name stands before the `$`. An empty name is for a transcript with one person.
    #[must_use]
    pub fn person(mut self, name: &str, cli: &'a Cli) -> Self {
        let home = cli.home().display().to_string();
        self.redaction.name(&home, &if name.is_empty() { "~".to_owned() } else { format!("~{name}") });
        self.actors.insert(name.to_owned(), Actor::Person(cli));
        self
    }

    /// A part of the world, and what it does with the words of a line. It prints nothing and panics if it cannot.
    #[must_use]
    pub fn world(mut self, name: &str, deed: impl Fn(&[&str]) + 'a) -> Self {
        self.actors.insert(name.to_owned(), Actor::World(Box::new(deed)));
        self
    }

    /// A variable for commands. Its value is shown as `${NAME}` in the output too, if it is long enough (8 bytes) not
    /// to be met by chance.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        if value.len() >= 8 {
            self.redaction.name(value, &format!("${{{name}}}"));
        }
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs every command of the file and compares, or blesses.
    ///
    /// # Panics
    /// If what comes out differs, or the file cannot be understood.
    pub fn check(self, path: &Path) {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("cannot read the transcript {}: {error}", path.display()));
        let (actual, _) = self.play(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        crate::golden(path, &actual);
    }

    /// As [`Self::check`], for a test that goes on: the variables that the transcript has set.
    ///
    /// # Panics
    /// As there.
    pub fn check_then(self, path: &Path) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("cannot read the transcript {}: {error}", path.display()));
        let (actual, variables) = self.play(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        crate::golden(path, &actual);
        variables
    }

    fn play(mut self, text: &str) -> Result<(String, BTreeMap<String, String>), String> {
        let (steps, after) = parse(text)?;
        let mut actual = String::new();
        for step in &steps {
            let actor = self.actors.get(&step.person).ok_or_else(|| format!("nobody is called {:?}", step.person))?;
            let cli = match actor {
                Actor::Person(cli) => *cli,
                Actor::World(deed) => {
                    let words = split(&step.line, &self.variables)?;
                    deed(&words.iter().map(String::as_str).collect::<Vec<_>>());
                    self.write(&mut actual, step, None);
                    continue;
                }
            };
            let (keep, words) = command(&step.line, &self.variables)?;
            let mut input = step.input.join("\n");
            if !input.is_empty() {
                input.push('\n');
            }
            let output = cli.run_with(&words[1..], input.as_bytes());
            if let Some(name) = keep {
                self.variables.insert(name, output.text().trim_end_matches('\n').to_owned());
            }
            self.write(&mut actual, step, Some(&output));
        }
        after.iter().for_each(|line| actual.push_str(&format!("{line}\n")));
        Ok((actual, self.variables))
    }

    fn write(&mut self, actual: &mut String, step: &Step, output: Option<&Output>) {
        let mut line = |text: std::fmt::Arguments<'_>| {
            let text = text.to_string();
            actual.push_str(text.trim_end_matches(' '));
            actual.push('\n');
        };
        step.before.iter().for_each(|text| line(format_args!("{text}")));
        line(format_args!("{}$ {}", step.person, step.line));
        step.input.iter().for_each(|text| line(format_args!("< {text}")));
        let Some(output) = output else { return };
        for (mark, text) in [("  ", output.text()), ("! ", output.errors())] {
            let text = self.redaction.apply(&text);
            text.lines().for_each(|text| line(format_args!("{mark}{text}")));
            if !text.is_empty() && !text.ends_with('\n') {
                line(format_args!("{mark}(no newline)"));
            }
        }
        line(format_args!("exit {}", output.code));
    }
}

/// Comments, commands and input of a transcript; output and exit codes in it are not looked at. The second value are
/// the comments after the last command.
fn parse(text: &str) -> Result<(Vec<Step>, Vec<String>), String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut before = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let prompt = line.split_once("$ ").filter(|(person, _)| person.chars().all(|c| c.is_ascii_lowercase()));
        if line.is_empty() || line.starts_with('#') {
            before.push(line.to_owned());
        } else if let Some((person, line)) = prompt {
            let before = std::mem::take(&mut before);
            steps.push(Step { before, person: person.to_owned(), line: line.to_owned(), input: Vec::new() });
        } else if let (Some(input), Some(step)) = (line.strip_prefix("< "), steps.last_mut()) {
            step.input.push(input.to_owned());
        } else if !(line.starts_with("  ") || line.starts_with('!') || line.starts_with("exit ")) || steps.is_empty() {
            return Err(format!("line {}: neither command, input, output nor exit code: {line}", number + 1));
        } else {
            // Empty lines before it were output too.
            before.clear();
        }
    }
    Ok((steps, before))
}

/// The variable that keeps the output, if any, and the words.
fn command(line: &str, variables: &BTreeMap<String, String>) -> Result<(Option<String>, Vec<String>), String> {
    let kept = line.strip_suffix(')').and_then(|line| line.split_once("=$("));
    let (keep, line) = match kept {
        Some((name, line)) if name.chars().all(|c| c.is_ascii_uppercase() || c == '_') => (Some(name.to_owned()), line),
        _ => (None, line),
    };
    let words = split(line, variables)?;
    if words.first().map(String::as_str) != Some("bulla") {
        return Err(format!("not a command of bulla: {line}"));
    }
    Ok((keep, words))
}

/// Words of a command line: blanks separate, quotes hold together, `${NAME}` is a variable outside single quotes.
fn split(line: &str, variables: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, quote) {
            (' ', None) => words.extend(word.take()),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            ('$', None | Some('"')) if rest.starts_with('{') => {
                let (name, after) = rest[1..].split_once('}').ok_or("a ${ without }")?;
                let value = variables.get(name).ok_or_else(|| format!("no variable {name}"))?;
                word.get_or_insert_default().push_str(value);
                rest = after;
            }
            ('$' | '`' | '\\' | '|' | '>' | '<' | ';' | '&' | '*' | '(', None) => {
                return Err(format!("{c:?} would mean something to a shell; quote it"));
            }
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote without its end".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn words_are_split_as_in_a_shell() {
        let variables = BTreeMap::from([("A".to_owned(), "x y".to_owned())]);
        let split = |line| split(line, &variables);
        assert_eq!(
            split("bulla  open ${A} '${A}' \"${A}!\" ''"),
            Ok(["bulla", "open", "x y", "${A}", "x y!", ""].map(str::to_owned).to_vec())
        );
        assert!(split("bulla ${B}").unwrap_err().contains("no variable B"));
        assert!(split("bulla | sh").unwrap_err().contains("quote it"));
        assert!(split("bulla 'x").unwrap_err().contains("quote"));
        let (keep, words) = command("SLIP=$(bulla wrap create)", &variables).unwrap();
        assert_eq!((keep.as_deref(), words.len()), (Some("SLIP"), 3));
        assert!(command("rm -rf x", &variables).is_err());
    }

    #[test]
    fn a_transcript_is_parsed_without_its_output() {
        let text = "# Why.\n\nalice$ bulla keygen\n< yes\n  made\n\n  it\n! warning\nexit 0\n\n# The end.\n";
        let (steps, after) = parse(text).unwrap();
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].before, ["# Why.", ""]);
        assert_eq!((steps[0].person.as_str(), steps[0].line.as_str()), ("alice", "bulla keygen"));
        assert_eq!(steps[0].input, ["yes"]);
        assert_eq!(after, ["", "# The end."]);
        assert!(parse("gibberish").unwrap_err().contains("line 1"));
    }

    /// A program in the place of bulla.
    fn stand_in(folder: &Path) -> Cli {
        let path = folder.join("bulla");
        std::fs::write(
            &path,
            "#!/bin/sh\ncase $1 in\nid) printf 'Z%042d\\n' $2;;\ncat) cat;;\nlines) printf 'a\\n\\nb\\n';;\n*) echo \"no $1\" >&2; exit 2;;\nesac\n",
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Cli::new(path)
    }

    #[test]
    fn a_transcript_is_played_and_compared() {
        let folder = tempfile::tempdir().unwrap();
        let cli = stand_in(folder.path());
        let passed = std::cell::RefCell::new(Vec::new());
        let clock = |words: &[&str]| passed.borrow_mut().push(words.join(" "));
        let begun = || Transcript::new().person("", &cli).variable("N", "7").world("clock", clock);
        let play = |text: &str| begun().play(text);
        assert_eq!(play("# Time.\nclock$ pass ${N}h\n").unwrap().0, "# Time.\nclock$ pass ${N}h\n");
        assert_eq!(*passed.borrow(), ["pass 7h"]);
        let text = "$ ID=$(bulla id ${N})\n$ bulla cat\n< in\n$ bulla lines\n$ bulla id 8\n$ bulla ${ID}\n";
        let (actual, variables) = play(text).unwrap();
        let expected = "$ ID=$(bulla id ${N})\n  <id 1>\nexit 0\n$ bulla cat\n< in\n  in\nexit 0\n\
                        $ bulla lines\n  a\n\n  b\nexit 0\n$ bulla id 8\n  <id 2>\nexit 0\n$ bulla ${ID}\n! no <id 1>\nexit 2\n";
        assert_eq!(actual, expected);
        assert_eq!(variables["ID"].len(), 43);
        assert_eq!(play(&actual).unwrap().0, actual, "a blessed transcript plays as itself");
        assert!(play("bob$ bulla id 1\n").unwrap_err().contains("bob"));
    }
}
