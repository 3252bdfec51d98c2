//! `cargo xtask test`: builds, runs groups of tests, counts, and says how long each took.
//!
//! Test programs are built once for all groups and then run directly, one at a time; their output goes to
//! `target/xtask/*.log` and is shown when they fail.

use crate::groups::{FAILPOINTS, GROUPS, Group, Step, Target, Waiting};
use crate::setup::Tools;
use crate::tally::Tally;
use crate::workspace::{Package, Stop, cargo, packages, root, target};
use serde::Deserialize;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long one test program may take. Far more than any does, so that a hang ends and says where it was.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// The same with `--long`, for a night.
const PATIENCE_LONG: Duration = Duration::from_secs(6 * 3600);

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Install missing programs without asking.
    #[arg(long)]
    install: bool,
    /// Use the numbers of a night instead of those of a change.
    #[arg(long)]
    long: bool,
    /// List the groups and end.
    #[arg(long)]
    list: bool,
    /// Only these groups; all if none is named.
    #[arg(value_name = "GROUP")]
    groups: Vec<String>,
}

/// Runs the tests; whether all passed.
pub fn run(arguments: &Arguments) -> Result<bool, Stop> {
    if arguments.list {
        GROUPS.iter().for_each(|group| println!("{:12} {}", group.name, group.about));
        return Ok(true);
    }
    let chosen = choose(&arguments.groups)?;
    let tools = Tools::new();
    // What is installed without a question comes from the network, which leaves the processor to the build.
    let whole = arguments.install && arguments.groups.is_empty();
    let ahead = if whole { Some(ahead()?) } else { None };
    std::fs::create_dir_all(logs()).map_err(|error| Stop(format!("cannot make {}: {error}", logs().display())))?;
    if whole {
        warn_of_little_room();
    }
    tools.prepare(arguments.install, whole)?;
    let later = if whole { tools.begin(&logs().join("setup.log"))? } else { None };
    if let Some(mut ahead) = ahead {
        // Whether it succeeded, the first group that needs it finds out.
        ahead.wait().map_err(|error| Stop(format!("cannot wait for cargo: {error}")))?;
    }
    let no_skip =
        ["CI", "BULLA_TEST_NO_SKIP"].iter().any(|name| std::env::var(name).is_ok_and(|v| v == "true" || v == "1"));
    let mut runner = Runner {
        packages: packages()?,
        environment: environment(&tools, no_skip, arguments.long),
        tools,
        no_skip,
        later,
        patience: if arguments.long { PATIENCE_LONG } else { PATIENCE },
        long: arguments.long,
        built: None,
        building: Duration::ZERO,
        named: !arguments.groups.is_empty(),
        whole,
        release: None,
    };

    let mut sum = Tally::default();
    let mut times = Vec::new();
    for group in chosen {
        println!("{}: {}", group.name, group.about);
        let (begun, built_before) = (Instant::now(), runner.building);
        let mut tally = Tally::default();
        for step in group.steps {
            tally.add(runner.step(*step)?);
        }
        let building = runner.building - built_before;
        times.push((group.name, tally.line(), begun.elapsed().saturating_sub(building)));
        sum.add(tally);
    }
    times.push(("building", String::new(), runner.building));
    report(&sum, &times);
    Ok(sum.failed == 0 && !(no_skip && sum.skipped > 0))
}

/// What a machine without anything needs for everything: cargo's and Go's builds, their caches, and the tools.
const ROOM_GIB: u64 = 20;

/// A disk that fills up ends a build in words that nobody looks for there.
fn warn_of_little_room() {
    if let Some(free) = free_gib().filter(|free| *free < ROOM_GIB) {
        println!(
            "warning: {free} GiB of disk are free, and all of it takes up to {ROOM_GIB} where nothing is built yet\n"
        );
    }
}

/// What is free where cargo builds, by POSIX `df`; `None` where that says nothing.
fn free_gib() -> Option<u64> {
    let output = Command::new("df").args(["-P", "-k"]).arg(root()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let kib: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kib / (1024 * 1024))
}

fn choose(names: &[String]) -> Result<Vec<&'static Group>, Stop> {
    for name in names {
        if !GROUPS.iter().any(|group| group.name == name) {
            let known: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
            return Err(Stop(format!("there is no group {name}; there are {}", known.join(", "))));
        }
    }
    Ok(GROUPS.iter().filter(|group| names.is_empty() || names.iter().any(|name| name == group.name)).collect())
}

fn environment(tools: &Tools, no_skip: bool, long: bool) -> Vec<(&'static str, OsString)> {
    let mut variables = tools.environment();
    if no_skip {
        variables.push(("BULLA_TEST_NO_SKIP", "1".into()));
    }
    if long {
        variables.push(("BULLA_TEST_LONG", "1".into()));
    }
    variables
}

fn report(sum: &Tally, times: &[(&str, String, Duration)]) {
    println!();
    for (name, line, time) in times {
        println!("{:>8.1} s  {name:12} {line}", time.as_secs_f64());
    }
    if !sum.skips.is_empty() {
        println!("\nskipped; `cargo xtask test --install` installs what is missing:");
        sum.skips.iter().for_each(|skip| println!("  {skip}"));
    }
    if !sum.failures.is_empty() {
        println!("\nfailed:");
        sum.failures.iter().for_each(|failure| println!("  {failure}"));
    }
    println!("\n{}", sum.line());
}

fn logs() -> PathBuf {
    target().join("xtask")
}

/// A test program.
#[derive(Debug, Clone)]
struct Program {
    package: String,
    target: String,
    /// Whether it is a file of tests, not the tests inside a library or binary.
    separate: bool,
    executable: PathBuf,
    folder: PathBuf,
}

/// What building gave.
#[derive(Debug, Clone)]
struct Built {
    programs: Vec<Program>,
    /// Whether a lint fired.
    linted: bool,
}

struct Runner {
    packages: Vec<Package>,
    environment: Vec<(&'static str, OsString)>,
    tools: Tools,
    /// Whether a test that is skipped has failed.
    no_skip: bool,
    /// What the last groups need, while it is built.
    later: Option<Child>,
    patience: Duration,
    long: bool,
    built: Option<Built>,
    building: Duration,
    /// Whether somebody named the groups.
    named: bool,
    /// Whether everything runs, on a machine that may be ours alone.
    whole: bool,
    /// The release build, while the tests run.
    release: Option<Child>,
}

impl Runner {
    fn step(&mut self, step: Step) -> Result<Tally, Stop> {
        match step {
            Step::Cargo(args) => {
                let mut command = cargo();
                command.args(args);
                let name = format!("cargo {}", args.first().unwrap_or(&""));
                let (status, log) = self.run(&name, command)?;
                if !status.success() {
                    show(&log);
                }
                Ok(Tally::check(&name, status.success()))
            }
            Step::Tidy => crate::tidy::run(),
            Step::Lints => Ok(Tally::check("no lint fires", self.build()?.is_some_and(|built| !built.linted))),
            Step::Units => self.programs(|program| !program.separate, &[]),
            Step::DocTests => {
                let mut command = linting();
                command.args(["test", "--quiet", "--workspace", "--doc", "--features", FAILPOINTS]);
                self.tests("doc tests", command)
            }
            Step::Tests { package, target, args } => {
                let tally = self.programs(|program| program.separate && program.is(package, target), args)?;
                Ok(some(tally, package, target))
            }
            Step::Beside { busy, lanes } => {
                self.build()?;
                self.settle()?;
                self.beside(busy, lanes)
            }
            Step::Remaining => self.programs(|program| program.separate && !named(program), &[]),
            Step::Fuzz if self.long => crate::fuzz::run_all(crate::fuzz::SECONDS),
            Step::Mutants if self.long => crate::mutants::check(),
            Step::Coverage if self.long => crate::coverage::check(),
            Step::Fuzz | Step::Mutants | Step::Coverage => Ok(Tally::default()),
            // Fifteen minutes of a processor, for what seldom changes; whoever names the group means it.
            Step::Release if !self.named && !self.long => Ok(Tally::default()),
            Step::Release => {
                if let Some(mut release) = self.release.take() {
                    // Whether it succeeded, the same build tells once more.
                    release.wait().map_err(|error| Stop(format!("cannot wait for cargo: {error}")))?;
                }
                crate::release::run()
            }
        }
    }

    /// Runs those programs that `wanted` picks.
    fn programs(&mut self, wanted: impl Fn(&Program) -> bool, args: &[&str]) -> Result<Tally, Stop> {
        let Some(Built { programs, .. }) = self.build()? else {
            return Ok(Tally::check("the tests build", false));
        };
        let mut tally = Tally::default();
        for program in programs.iter().filter(|program| wanted(program)) {
            tally.add(self.program(program, Command::new(&program.executable), args)?);
        }
        Ok(tally)
    }

    fn program(&self, program: &Program, mut command: Command, args: &[&str]) -> Result<Tally, Stop> {
        command.arg("--show-output").args(args);
        command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        let Program { package, target, .. } = program;
        let name = if program.separate { format!("{package} {target}") } else { package.clone() };
        self.tests(&[&[name.as_str()], args].concat().join(" "), command)
    }

    /// Waits for what was left to be built. If it failed the tests that need it say so.
    fn settle(&mut self) -> Result<(), Stop> {
        let Some(mut later) = self.later.take() else { return Ok(()) };
        let begun = Instant::now();
        let status = later.wait().map_err(|error| Stop(format!("cannot wait for what is built: {error}")))?;
        println!("  the rest of the set-up was waited for {:.1} s", begun.elapsed().as_secs_f64());
        if !status.success() {
            show(&logs().join("setup.log"));
        }
        self.environment = environment(&self.tools, self.no_skip, self.long);
        Ok(())
    }

    /// One program with less right to the processors, and lanes of others at the same time.
    fn beside(&mut self, busy: Target, lanes: &[&[Waiting]]) -> Result<Tally, Stop> {
        let Some(Built { programs, .. }) = self.build()? else {
            return Ok(Tally::check("the tests build", false));
        };
        let find = |(package, target): Target| programs.iter().find(|one| one.separate && one.is(package, target));
        let (runner, find) = (&*self, &find);
        let one = |target: Target, args: &[&str], nice: bool| {
            let Some(program) = find(target) else { return Ok(some(Tally::default(), target.0, target.1)) };
            let command = if nice {
                let mut command = Command::new("nice");
                command.arg(&program.executable);
                command
            } else {
                Command::new(&program.executable)
            };
            runner.program(program, command, args).map(|tally| some(tally, target.0, target.1))
        };
        let one = &one;
        std::thread::scope(|scope| {
            let running: Vec<_> = lanes
                .iter()
                .map(|lane| {
                    scope.spawn(move || lane.iter().map(|(target, args)| one(*target, args, false)).collect::<Vec<_>>())
                })
                .collect();
            let mut tally = one(busy, &[], true)?;
            for lane in running {
                let done = lane.join().map_err(|_| Stop("a lane of tests ended by itself".to_owned()))?;
                for part in done {
                    tally.add(part?);
                }
            }
            Ok(tally)
        })
    }

    /// Builds all test programs, once; `None` if that fails. Clippy compiles the workspace, which costs no more than rustc
    /// and far less than a second look at everything.
    fn build(&mut self) -> Result<Option<Built>, Stop> {
        if self.built.is_some() {
            return Ok(self.built.clone());
        }
        let begun = Instant::now();
        let output = building()
            .args(["--message-format", "json"])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| Stop(format!("cannot run cargo: {error}")))?;
        self.building += begun.elapsed();
        let messages = String::from_utf8_lossy(&output.stdout);
        diagnostics(&messages).for_each(|diagnostic| eprint!("{}", diagnostic.rendered.unwrap_or_default()));
        if !output.status.success() {
            return Ok(None);
        }
        self.built = Some(Built { programs: self.read(&messages), linted: linted(&messages) });
        if self.whole && self.long {
            self.release = Some(crate::release::ahead()?);
        }
        Ok(self.built.clone())
    }

    /// The test programs among cargo's messages.
    fn read(&self, messages: &str) -> Vec<Program> {
        #[derive(Deserialize)]
        struct Artifact {
            manifest_path: PathBuf,
            target: crate::workspace::Target,
            profile: Profile,
            executable: Option<PathBuf>,
        }
        #[derive(Deserialize)]
        struct Profile {
            test: bool,
        }
        let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
        let mut programs: Vec<Program> = artifacts
            .filter(|artifact| artifact.profile.test)
            .filter_map(|artifact| {
                let package = self.packages.iter().find(|package| package.manifest_path == artifact.manifest_path)?;
                Some(Program {
                    package: package.name.clone(),
                    separate: artifact.target.kind.iter().any(|kind| kind == "test"),
                    target: artifact.target.name,
                    executable: artifact.executable?,
                    folder: package.folder().to_owned(),
                })
            })
            .collect();
        programs.sort_by(|left, right| (&left.package, &left.target).cmp(&(&right.package, &right.target)));
        programs
    }

    /// Runs a program of Rust's harness and counts.
    fn tests(&self, name: &str, command: Command) -> Result<Tally, Stop> {
        let begun = Instant::now();
        let (status, log) = self.run(name, command)?;
        let output = std::fs::read(&log).map_err(|error| Stop(format!("cannot read {}: {error}", log.display())))?;
        let tally = Tally::parse(name, &String::from_utf8_lossy(&output), status.success());
        if tally != Tally::default() {
            println!("  {:30} {}, {:.1} s", name, tally.line(), begun.elapsed().as_secs_f64());
        }
        if !status.success() {
            show(&log);
        }
        Ok(tally)
    }

    /// Runs a command with its output in a file.
    fn run(&self, name: &str, mut command: Command) -> Result<(ExitStatus, PathBuf), Stop> {
        let failed = |error: std::io::Error| Stop(format!("cannot run {name}: {error}"));
        let log = logs().join(format!("{}.log", name.replace([' ', '/'], "-")));
        let file = File::create(&log).map_err(failed)?;
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(failed)?).stderr(file);
        // A test compares; what writes goldens is `cargo xtask docs`, or a person who means it.
        command
            .env_remove("BULLA_BLESS")
            .env("CARGO_TERM_COLOR", "never")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().map_err(failed)?;
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Ok((status, log));
            }
            if Instant::now() >= deadline {
                println!("  {name} did not end within {} s and is killed", self.patience.as_secs());
                child.kill().map_err(failed)?;
                return Ok((child.wait().map_err(failed)?, log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Program {
    fn is(&self, package: &str, target: &str) -> bool {
        self.package == package && self.target == target
    }
}

/// Begins to build the tests.
fn ahead() -> Result<Child, Stop> {
    let mut command = building();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().map_err(|error| Stop(format!("cannot run cargo: {error}")))
}

/// The one build of all tests.
fn building() -> Command {
    let mut command = linting();
    command.args(["test", "--workspace", "--no-run", "--features", FAILPOINTS]);
    command
}

/// Cargo, with clippy in rustc's place for the packages of the workspace.
pub fn linting() -> Command {
    let mut command = cargo();
    let root = Command::new("rustc").args(["--print", "sysroot"]).output();
    let root = root.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let driver = Path::new(&root).join("bin/clippy-driver");
    command.env("RUSTC_WORKSPACE_WRAPPER", if driver.exists() { driver } else { "clippy-driver".into() });
    command
}

/// What the compiler says of the source.
#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    /// For people.
    rendered: Option<String>,
}

/// The diagnostics among cargo's messages: it repeats those of what is not compiled anew. Cargo shows none of them itself where it
/// gives them as JSON, and where it shows them they are not among its messages.
fn diagnostics(messages: &str) -> impl Iterator<Item = Diagnostic> + '_ {
    #[derive(Deserialize)]
    struct Line {
        message: Option<Diagnostic>,
    }
    let lines = messages.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.filter_map(|line| line.message)
}

/// Whether cargo's messages tell of a warning.
fn linted(messages: &str) -> bool {
    diagnostics(messages).any(|message| message.level == "warning")
}

/// A named step that runs nothing shows nothing: a filter that matches no test, a target that is gone.
fn some(tally: Tally, package: &str, target: &str) -> Tally {
    if tally == Tally::default() { Tally::check(&format!("{package} {target} has tests"), false) } else { tally }
}

/// Whether a step names this file of tests.
fn named(program: &Program) -> bool {
    let mut targets = GROUPS.iter().flat_map(|group| group.steps).flat_map(Step::targets);
    targets.any(|(package, target)| program.is(package, target))
}

/// Prints the output of something that failed.
fn show(log: &Path) {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    // Rust's harness prints what passed first.
    let interesting = text.find("\nfailures:").and_then(|at| text.get(at..)).unwrap_or(&text);
    interesting.lines().filter(|line| !line.ends_with(" ... ok")).for_each(|line| println!("    {line}"));
    println!("    (all of it in {})", log.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_from_other_messages() {
        assert!(!linted("{\"reason\":\"compiler-artifact\"}\n{\"reason\":\"build-finished\",\"success\":true}\n"));
        assert!(linted(
            "{\"reason\":\"compiler-message\",\"message\":{\"level\":\"warning\",\"message\":\"unused\"}}\n"
        ));
    }

    #[test]
    fn groups_are_chosen_by_name_in_the_order_of_the_table() {
        let names = |chosen: Vec<&Group>| chosen.iter().map(|group| group.name).collect::<Vec<_>>();
        assert_eq!(names(choose(&[]).unwrap()).len(), GROUPS.len());
        assert_eq!(names(choose(&["unit".to_owned(), "fmt".to_owned()]).unwrap()), ["fmt", "unit"]);
        assert!(choose(&["nothing".to_owned()]).err().unwrap().0.contains("there is no group nothing"));
    }
}
