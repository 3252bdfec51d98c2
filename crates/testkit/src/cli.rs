//! The command line, run as one person: a home of its own, a bare environment, no terminal.

use crate::process;
use std::ffi::{OsStr, OsString};
use std::io::{PipeWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

/// How long a command may take. Debug builds on a loaded machine are slow; a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command answered.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The exit code; 128 and the number of the signal if one ended it, as a shell says it.
    pub code: i32,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Its standard output without the newline at the end.
    ///
    /// # Panics
    /// If the command failed.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.code, 0, "the command failed:\n{}{}", self.text(), self.errors());
        self.text().trim_end_matches('\n').to_owned()
    }

    /// Its standard error.
    ///
    /// # Panics
    /// If it ended with another code.
    #[track_caller]
    pub fn failed(&self, code: i32) -> String {
        assert_eq!(self.code, code, "another exit code:\n{}{}", self.text(), self.errors());
        self.errors()
    }
}

/// One person at a command line.
#[derive(Debug)]
pub struct Cli {
    binary: PathBuf,
    home: TempDir,
    environment: Vec<(OsString, OsString)>,
    patience: Duration,
}

impl Cli {
    /// Somebody who has never used Bulla.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let home = tempfile::Builder::new().prefix("bulla-home-").tempdir().expect("a temporary directory");
        std::fs::create_dir(home.path().join("work")).expect("a working directory");
        Self { binary: binary.into(), home, environment: Vec::new(), patience: PATIENCE }
    }

    /// Sets how long every command from now on may take.
    pub fn patience(&mut self, patience: Duration) -> &mut Self {
        self.patience = patience;
        self
    }

    /// Sets a variable for every command from now on.
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The home directory: configuration in `.config`, state in `.local/state`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The directory in which commands run.
    pub fn work(&self) -> PathBuf {
        self.home.path().join("work")
    }

    /// Writes a file where commands find it, and gives its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.work().join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }

    /// Runs `bulla` with these arguments and standard input closed.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        self.run_with(args, b"")
    }

    /// Runs `bulla` with these arguments and this on standard input.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn run_with<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, input: &[u8]) -> Output {
        self.run_program(&self.binary, args, input)
    }

    /// Runs `bulla` with these arguments, while whoever read its standard output has gone away.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn run_unread<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        self.run_into(args, writer)
    }

    /// Runs `bulla` with these arguments, and standard output into a pipe that somebody else reads.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn run_into<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, output: PipeWriter) -> Output {
        self.execute(&self.binary, args, b"", Some(output.into()))
    }

    /// Runs another program with this person's home and environment.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn run_program<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Output {
        self.execute(program, args, input, None)
    }

    fn execute<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        input: &[u8],
        elsewhere: Option<Stdio>,
    ) -> Output {
        // Files rather than pipes: no reader threads, and nothing blocks on a full pipe.
        let file = || tempfile::tempfile().expect("a temporary file");
        let (mut stdin, mut stdout, mut stderr) = (file(), file(), file());
        stdin.write_all(input).and_then(|()| stdin.rewind()).expect("standard input can be prepared");
        let again = |file: &std::fs::File| Stdio::from(file.try_clone().expect("a temporary file"));
        let mut command = process::command(program);
        command.args(args).env_clear().envs(self.variables());
        command
            .current_dir(self.work())
            .stdin(stdin)
            .stdout(elsewhere.unwrap_or_else(|| again(&stdout)))
            .stderr(again(&stderr));
        let shown = format!("{command:?}");
        let mut child = process::spawn(command);
        let status = process::wait(&mut child, self.patience);
        if status.is_none() {
            drop(child.kill());
            drop(child.wait());
        }
        let read = |file: &mut std::fs::File| {
            let mut bytes = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("output can be read");
            bytes
        };
        let (stdout, stderr) = (read(&mut stdout), read(&mut stderr));
        let Some(status) = status else {
            panic!("{shown} did not end within {:?}:\n{}", self.patience, String::from_utf8_lossy(&stderr))
        };
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_default();
        Output { stdout, stderr, code: status.code().unwrap_or(128 + signal) }
    }

    fn variables(&self) -> Vec<(OsString, OsString)> {
        let home = self.home.path();
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let mut variables: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), path),
            ("HOME".into(), home.into()),
            ("XDG_CONFIG_HOME".into(), home.join(".config").into()),
            ("XDG_STATE_HOME".into(), home.join(".local/state").into()),
            ("TMPDIR".into(), home.into()),
            ("LC_ALL".into(), "C.UTF-8".into()),
            ("TZ".into(), "UTC".into()),
        ];
        // Where a program that counts its lines leaves them (`cargo xtask coverage`); else they would lie in the home.
        let counts = "LLVM_PROFILE_FILE";
        variables.extend(std::env::var_os(counts).map(|path| (counts.into(), path)));
        variables.extend(self.environment.iter().cloned());
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_runs_in_a_home_of_its_own_and_is_heard() {
        let mut cli = Cli::new("/bin/sh");
        cli.env("GREETING", "good day");
        let output = cli.run(["-c", "echo $GREETING $HOME; pwd; echo no >&2; exit 3"]);
        let home = cli.home().display();
        assert_eq!(output.text(), format!("good day {home}\n{home}/work\n"));
        assert_eq!(output.failed(3), "no\n");
        assert_eq!(cli.run_with(["-c", "cat"], b"\x00\xffin\n").stdout, b"\x00\xffin\n");
        assert_eq!(cli.run(["-c", "kill -9 $$"]).code, 137);
        assert_eq!(cli.run(["-c", "echo ${USER-none}"]).ok(), "none", "the environment is bare");
    }
}
