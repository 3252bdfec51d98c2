//! `bulla template`: a file with secrets in it, from one with their names.

use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::session::Session;
use crate::template::{self, Part};
use crate::value::{ValueName, Values};
use bulla_client::{FileOutput, Output as _};
use clap::Args;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

/// Write a file with secrets in it, from a template with their names
///
/// Where `{{ kv/PATH#FIELD }}` stands its value is written; `| json` makes it a string of JSON, in quotes, and
/// `| base64` encodes it. `{{{{` stands for two braces. All values are read before anything is written, and the file
/// replaces what was there whole.
#[derive(Debug, Args)]
pub struct Template {
    /// The template; - for standard input
    template: PathBuf,
    /// Write to this file, with mode 0600; otherwise to standard output
    #[arg(short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(args: Template, session: &Session<'_>) -> Result<Exit, Failure> {
    let Template { template: path, output } = args;
    let text = input::text(&path, Limit::TEXT)?;
    let parts = template::parse::<ValueName>(&text)
        .map_err(|(line, why)| Failure::new(Exit::Failed, format!("{}, line {line}: {why}", path.display())))
        .map_err(|failure| failure.hint("write {{ kv/PATH#FIELD }}, and {{{{ for two braces"))?;
    let named = parts.iter().filter_map(|part| if let Part::Value(name, _) = part { Some(name) } else { None });
    let values = Values::read(&session.client()?, named).await?;
    let content = template::fill(&parts, |name| values.get(name))?;
    let Some(path) = output else {
        if io::stdout().is_terminal() && !crate::cli::open::is_text(content.expose()) {
            return Err(Failure::usage("a value is no text, and standard output is a terminal")
                .hint("write to a file with -o FILE"));
        }
        return session.screen.bytes(content.expose()).map(|()| Exit::Ok);
    };
    let failed = |error: io::Error| Failure::file("cannot write", &path, &error);
    let mut file = FileOutput::replacing(&path).map_err(failed)?;
    file.write_all(content.expose()).and_then(|()| file.commit()).map_err(failed)?;
    session.screen.say(&format!("written to {}", path.display()));
    Ok(Exit::Ok)
}
