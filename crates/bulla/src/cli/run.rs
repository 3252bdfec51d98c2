//! `bulla run`: a command with secrets in its environment, and no shell in between.

use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::value::{ValueName, Values};
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Run a command with secrets in its environment
///
/// Reads all of them, then becomes the command: signals and exit code are its own, and this program is gone. Nothing
/// is written to disk, and no shell sees a value.
#[derive(Debug, Args)]
pub struct Run {
    /// Set this variable to a value: NAME=kv/PATH#FIELD, or NAME=kv/PATH for bytes; may be repeated
    #[arg(long, value_name = "NAME=VALUE", required = true, value_parser = variable)]
    env: Vec<(String, ValueName)>,
    /// The command and its arguments, after --
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub async fn run(args: Run, session: &Session<'_>) -> Result<Exit, Failure> {
    let Run { env, command } = args;
    let [program, arguments @ ..] = command.as_slice() else { return Err(Failure::usage("no command is given")) };
    let values = Values::read(&session.client()?, env.iter().map(|(_, name)| name)).await?;
    let mut child = Command::new(program);
    child.args(arguments);
    for (variable, name) in &env {
        let value = values.get(name)?;
        if value.contains(&0) {
            return Err(Failure::new(Exit::Failed, format!("{name} holds a zero byte, which no variable can"))
                .hint("write it to a file with `bulla kv get` or `bulla template`"));
        }
        child.env(variable, OsStr::from_bytes(value));
    }
    // Nothing of this program is left to tell it afterwards.
    session.finish()?;
    let error = child.exec();
    let failure = Failure::new(Exit::Failed, format!("cannot run {}: {error}", program.display()));
    Err(match error.kind() {
        io::ErrorKind::NotFound => failure.hint("give a path, or a program that PATH leads to"),
        _ => failure,
    })
}

/// `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, ValueName), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=kv/PATH#FIELD")?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.bytes().all(word) || name.bytes().next().is_none_or(|first| first.is_ascii_digit()) {
        return Err("the name of a variable has letters, digits and _, and begins with no digit".to_owned());
    }
    Ok((name.to_owned(), value.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name_that_a_shell_can_use() {
        for name in ["A", "_", "db_password2"] {
            assert_eq!(variable(&format!("{name}=kv/a#b")).unwrap().0, name);
        }
        for name in ["", "A B", "2A", "a.b", "a-b", "\0", "ä"] {
            assert!(variable(&format!("{name}=kv/a#b")).unwrap_err().contains("variable"), "{name:?}");
        }
    }
}
