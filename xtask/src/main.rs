//! Development tasks: `cargo xtask help` lists them.

mod bench;
mod coverage;
mod deb;
mod docs;
mod fuzz;
mod groups;
mod mutants;
mod release;
mod setup;
mod tally;
mod test;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tasks of those who work on Bulla.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test, or those of some groups.
    Test(test::Arguments),
    /// Measure the release binary: speed, memory, start. Prints tables and a JSON line for each measurement.
    Bench(bench::Arguments),
    /// Count the lines of the product that the tests run.
    Coverage(coverage::Arguments),
    /// Make the Debian package.
    Deb,
    /// Run the parsers under libFuzzer, which is built for that.
    Fuzz(fuzz::Arguments),
    /// Change the source to see whether a test notices.
    Mutants(mutants::Arguments),
    /// Run a test program until its first failure.
    #[command(hide = true)]
    UntilFailure(mutants::Program),
    /// Hold the policy on the source: sizes, names, dependencies, links, coverage.
    Tidy,
    /// Write the generated files anew, or check that they are up to date.
    Docs {
        /// Only compare; fail if something is out of date.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test(arguments) => test::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Coverage(arguments) => coverage::run(&arguments),
        Task::Deb => deb::run(),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Mutants(arguments) => mutants::run(&arguments),
        Task::UntilFailure(program) => mutants::until_failure(&program),
        Task::Tidy => tidy::run().map(|tally| tally.failed == 0),
        Task::Docs { check } => docs::run(check),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
