//! The reference of the command line, written from what the command line is made of.

use crate::cli;
use crate::exit::{Exit, reference_of};
use bulla_wire::error::Code;
use clap::Command;
use std::fmt::Write as _;
use std::path::Path;

/// The whole page.
fn page() -> String {
    let mut text = String::from(
        "# Command line\n\n\
         Written from the program by its tests (`cargo xtask docs`); change it there.\n\n\
         What is left out of a command is taken from the environment (`BULLA_CONTEXT`, `BULLA_ADDR`, `BULLA_CLUSTER`,\n\
         `BULLA_IDENTITY`, `BULLA_PASSPHRASE_FILE`), then from the context in `$XDG_CONFIG_HOME/bulla/config.toml`.\n\
         Global options, and those of `bulla server`, stand before or after the verbs below them; each is told once.\n\n\
         ## Exit codes\n\n| code | meaning |\n| ---: | --- |\n",
    );
    for (number, meaning) in Exit::ALL {
        let _ = writeln!(text, "| {number} | {} |", meaning.trim());
    }
    text.push_str(
        "\nA server that a signal ends without its consent has the code that the shell gives it. `bulla agent` ends\n\
         with the code of its program.\n",
    );
    text.push_str(
        "\n## Error codes\n\n\
         What a command ends with when the cluster refuses, and its hint where the server has no better one for the case.\n\
         What the codes mean is told in [errors](errors.md).\n\n\
         | error | exit code | hint |\n| --- | ---: | --- |\n",
    );
    for code in Code::ALL {
        let (exit, hint) = reference_of(*code);
        let _ = writeln!(text, "| `{code}` | {} | {hint} |", exit.number());
    }
    for (name, command) in cli::all() {
        let depth = "#".repeat(name.split(' ').count().max(2));
        let _ = write!(text, "\n{depth} {name}\n\n```text\n{}\n```\n", help(command));
    }
    text
}

fn help(mut command: Command) -> String {
    let text = command.render_long_help().to_string();
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[test]
fn the_reference_is_what_the_program_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    bulla_testkit::golden(&path, &page());
}

/// Every command as it is declared, before the options of one reach those below it; with how the help of each of its
/// arguments begins.
fn declared(command: &Command, name: &str, all: &mut Vec<(String, Vec<String>)>) {
    let begin = |arg: &clap::Arg| match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) if arg.is_required_set() => format!("<{}>", arg.get_value_names().unwrap()[0]),
        (None, None) => format!("[{}]", arg.get_value_names().unwrap()[0]),
    };
    all.push((name.to_owned(), command.get_arguments().map(begin).collect()));
    command.get_subcommands().for_each(|verb| declared(verb, &format!("{name} {}", verb.get_name()), all));
}

#[test]
fn the_reference_holds_every_command_with_every_argument_of_its_own() {
    let page = page();
    let mut all = Vec::new();
    declared(&cli::program(), "bulla", &mut all);
    assert!(all.len() > 60 && all.iter().any(|(name, arguments)| name == "bulla server" && arguments.len() > 10));
    for (name, arguments) in all {
        let (_, section) = page.split_once(&format!("# {name}\n\n```text\n")).unwrap_or_else(|| panic!("{name}"));
        let (section, _) = section.split_once("\n```").unwrap();
        for argument in arguments {
            let told = section.lines().any(|line| {
                line.trim_start()
                    .strip_prefix(argument.as_str())
                    .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            });
            assert!(told, "{name} {argument} is not in the reference");
        }
    }
}
