//! The reference of the command line, written from what the command line is made of.

use crate::cli::Arguments;
use crate::exit::Exit;
use clap::{Command, CommandFactory as _};
use std::fmt::Write as _;
use std::path::Path;

/// The whole page.
fn page() -> String {
    let mut text = String::from(
        "# Command line\n\n\
         Written from the program by its tests (`BULLA_BLESS=1 cargo test -p bulla reference`); change it there.\n\n\
         What is left out of a command is taken from the environment (`BULLA_CONTEXT`, `BULLA_ADDR`, `BULLA_CLUSTER`,\n\
         `BULLA_IDENTITY`, `BULLA_PASSPHRASE_FILE`), then from the context in `$XDG_CONFIG_HOME/bulla/config.toml`.\n\
         Global options stand before or after the command.\n\n\
         ## Exit codes\n\n| code | meaning |\n| ---: | --- |\n",
    );
    for (number, meaning) in Exit::ALL {
        let _ = writeln!(text, "| {number} | {} |", meaning.trim());
    }
    text.push_str("\nA server that a signal ends without its consent has the code that the shell gives it.\n");
    let mut command = Arguments::command().term_width(100);
    command.build();
    let _ = write!(text, "\n## bulla\n\n```text\n{}\n```\n", help(&mut command.clone()));
    for verb in command.get_subcommands() {
        section(&mut text, verb.clone(), "bulla", 2);
    }
    text
}

fn section(text: &mut String, mut command: Command, above: &str, depth: usize) {
    let name = format!("{above} {}", command.get_name());
    let inner: Vec<Command> = command.get_subcommands().cloned().collect();
    // Global options stand once, above.
    command = command.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    let _ = write!(text, "\n{} {name}\n\n```text\n{}\n```\n", "#".repeat(depth), help(&mut command));
    for verb in inner {
        section(text, verb, &name, depth + 1);
    }
}

fn help(command: &mut Command) -> String {
    let text = command.clone().term_width(100).render_long_help().to_string();
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[test]
fn the_reference_is_what_the_program_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    bulla_testkit::golden(&path, &page());
}
