//! Asks for a PIN by a pinentry program, as GnuPG does: the Assuan protocol over its standard input and output.

use crate::pin::PinError;
use crate::wait::{Running, within};
use bulla_crypto::secret::SecretBytes;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Lines of Assuan have at most 1000 bytes without their end.
const MAX_LINE_BYTES: u64 = 1002;
/// How many lines a program may answer with. Ours asks little; more is a program that speaks something else.
const MAX_LINES: usize = 64;
/// The codes of libgpg-error for a person who pressed Cancel and for one who did nothing, in the low 16 bits.
const CANCELLED: u32 = 99;
const TIMED_OUT: u32 = 62;
/// How long a person may take, who may have to look the PIN up. Whoever does not come by then has gone away.
pub const LIMIT: Duration = Duration::from_secs(300);
/// How long the program may take besides, to put its terminal or window away and say that nobody came.
const GRACE: Duration = Duration::from_secs(2);

/// Asks for the PIN of the token with this label. `terminal` is where a program without windows asks. It is waited for no
/// longer than `limit`.
///
/// # Errors
/// [`PinError::Cancelled`], [`PinError::TimedOut`], or [`PinError::Pinentry`] with what went wrong.
pub fn ask(program: &OsStr, token: &str, terminal: Option<&Path>, limit: Duration) -> Result<SecretBytes, PinError> {
    let failed = |error| PinError::Pinentry(format!("{}: {error}", program.display()));
    let mut command = Command::new(program);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut running = Running(child);
    let (Some(input), Some(output)) = (input, output) else { return Err(PinError::Cancelled) };
    let program = program.display().to_string();
    let (token, terminal, named) = (token.to_owned(), terminal.map(Path::to_path_buf), program.clone());
    let conversation = move || converse(input, output, &token, terminal.as_deref(), &named, limit);
    let asked = within(limit.saturating_add(GRACE), conversation);
    if asked.is_some() {
        running.farewell();
    }
    asked.unwrap_or(Err(PinError::TimedOut { program, limit }))
}

/// What [`ask`] says to the program and makes of its answers, whatever stands at the other end: `input` takes what is
/// said, `output` gives the answers, and nothing here waits by itself. Errors tell of `program` by this name, and of
/// `limit`.
///
/// # Errors
/// As [`ask`].
pub fn converse(
    input: impl Write,
    output: impl Read,
    token: &str,
    terminal: Option<&Path>,
    program: &str,
    limit: Duration,
) -> Result<SecretBytes, PinError> {
    let (output, program) = (BufReader::new(output), program.to_owned());
    Conversation { input, output, program, limit }.pin(token, terminal)
}

struct Conversation<I, O> {
    input: I,
    output: BufReader<O>,
    program: String,
    limit: Duration,
}

impl<I: Write, O: Read> Conversation<I, O> {
    /// All of it. The input ends with this, and so does the program.
    fn pin(mut self, token: &str, terminal: Option<&Path>) -> Result<SecretBytes, PinError> {
        self.reply()?;
        // What a program does not know is refused, and no harm done.
        if let Some(terminal) = terminal {
            self.try_to(&format!("OPTION ttyname={}", escaped(&terminal.to_string_lossy())))?;
            if let Ok(kind) = std::env::var("TERM") {
                self.try_to(&format!("OPTION ttytype={}", escaped(&kind)))?;
            }
        }
        self.try_to(&format!("SETTIMEOUT {}", self.limit.as_secs().max(1)))?;
        self.set("SETTITLE", "Bulla")?;
        self.set("SETDESC", &format!("PIN of the token {token:?}"))?;
        self.set("SETPROMPT", "PIN:")?;
        self.say("GETPIN")?;
        let pin = self.reply();
        // The PIN counts, not whether the program takes its leave.
        drop(self.say("BYE"));
        pin
    }

    fn try_to(&mut self, line: &str) -> Result<(), PinError> {
        self.say(line)?;
        match self.reply() {
            Err(PinError::Pinentry(what)) if !what.starts_with("ERR") => Err(PinError::Pinentry(what)),
            _ => Ok(()),
        }
    }

    fn set(&mut self, what: &str, text: &str) -> Result<(), PinError> {
        self.say(&format!("{what} {}", escaped(text)))?;
        self.reply().map(drop)
    }

    fn say(&mut self, line: &str) -> Result<(), PinError> {
        let written = self.input.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.input.flush());
        written.map_err(|error| PinError::Pinentry(error.to_string()))
    }

    /// What stood in the data lines before `OK`.
    fn reply(&mut self) -> Result<SecretBytes, PinError> {
        let mut data = SecretBytes::new(Vec::with_capacity(MAX_LINE_BYTES as usize));
        for _ in 0..MAX_LINES {
            let mut line = SecretBytes::new(Vec::with_capacity(MAX_LINE_BYTES as usize + 1));
            let read = (&mut self.output).take(MAX_LINE_BYTES).read_until(b'\n', line.expose_mut());
            read.map_err(|error| PinError::Pinentry(error.to_string()))?;
            let Some(said) = line.expose().strip_suffix(b"\n") else {
                return Err(PinError::Pinentry("the program ended, or speaks another protocol".to_owned()));
            };
            match said {
                b"OK" => return Ok(data),
                _ if said.starts_with(b"OK ") => return Ok(data),
                _ if said.starts_with(b"ERR ") => return Err(self.refusal(&String::from_utf8_lossy(said))),
                _ => {
                    if let Some(part) = said.strip_prefix(b"D ") {
                        decode(part, data.expose_mut());
                    }
                }
            }
        }
        Err(PinError::Pinentry("the program does not come to an end".to_owned()))
    }

    fn refusal(&self, line: &str) -> PinError {
        let code = line.split(' ').nth(1).and_then(|code| code.parse::<u32>().ok());
        match code.map(|code| code & 0xffff) {
            Some(CANCELLED) => PinError::Cancelled,
            Some(TIMED_OUT) => PinError::TimedOut { program: self.program.clone(), limit: self.limit },
            _ => PinError::Pinentry(line.to_owned()),
        }
    }
}

/// Percent signs and line ends are written `%XX`.
fn escaped(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect::<String>().replace('%', "%25")
}

fn decode(part: &[u8], into: &mut Vec<u8>) {
    let mut rest = part;
    while let [first, after @ ..] = rest {
        rest = after;
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                if let (Some(high), Some(low)) = (digit(high), digit(low)) {
                    into.push((high << 4) | low);
                    rest = after;
                } else {
                    into.push(b'%');
                }
            }
            _ => into.push(*first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    fn program(folder: &Path, answer: &str) -> std::path::PathBuf {
        let path = folder.join("pinentry");
        let script = format!(
            "#!/bin/sh\nexec 3>\"{}\"\necho 'OK Pleased to meet you'\nwhile read -r line; do echo \"$line\" >&3\n\
             case $line in GETPIN) {answer};; OPTION*) echo 'ERR 83886254 Unknown option <Pinentry>';; BYE) exit 0;; *) echo OK;; esac; done\n",
            folder.join("heard").display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[test]
    fn a_program_is_asked_and_its_answer_decoded() {
        let folder = tempfile::tempdir().unwrap();
        let path = program(folder.path(), "echo 'S hint'; echo 'D 12%2534%0a'; echo OK");
        let pin = ask(path.as_os_str(), "ops 100%", Some(Path::new("/dev/tty")), LIMIT).unwrap();
        assert_eq!(pin.expose(), b"12%34\n");
        let heard = fs::read_to_string(folder.path().join("heard")).unwrap();
        assert!(heard.contains("SETDESC PIN of the token \"ops 100%25\"\n"), "{heard}");
        assert!(heard.contains("OPTION ttyname=/dev/tty\n") && heard.contains("SETTIMEOUT 300\n"), "{heard}");
        assert!(heard.ends_with("GETPIN\nBYE\n"), "{heard}");
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let asked = |answer| ask(program(folder.path(), answer).as_os_str(), "ops", None, LIMIT);
        assert!(matches!(asked("echo 'ERR 83886179 Operation cancelled <Pinentry>'"), Err(PinError::Cancelled)));
        for (answer, told) in [
            ("echo 'ERR 83886340 Invalid IPC response'", "Invalid IPC"),
            ("exit 1", "ended"),
            ("while echo 'S x'; do :; done", "come to an end"),
            ("head -c 5000 /dev/zero", "another protocol"),
        ] {
            let error = asked(answer).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let error = ask(OsStr::new("/nonexistent/pinentry"), "ops", None, LIMIT).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/pinentry"), "{error}");
    }

    /// One that says itself that nobody came, and one that hangs: it is told which, and the program ends.
    #[test]
    fn nobody_is_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(1);
        for answer in ["sleep 1; echo 'ERR 83886142 Timeout <Pinentry>'", "echo $$ > $0.pid; exec sleep 600"] {
            let (path, started) = (program(folder.path(), answer), Instant::now());
            let error = ask(path.as_os_str(), "ops", None, limit).unwrap_err();
            assert!(matches!(error, PinError::TimedOut { .. }), "{error}");
            let told = format!("{} gave no PIN within 1 s", path.display());
            assert!(error.to_string() == told && started.elapsed() < Duration::from_secs(60), "{error}");
        }
        let pid = fs::read_to_string(folder.path().join("pinentry.pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it still runs");
    }
}
