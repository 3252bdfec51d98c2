//! Asks for a PIN by a pinentry program, as GnuPG does: the Assuan protocol over its standard input and output.

use crate::pin::PinError;
use bulla_crypto::secret::SecretBytes;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Lines of Assuan have at most 1000 bytes without their end.
const MAX_LINE_BYTES: u64 = 1002;
/// How many lines a program may answer with. Ours asks little; more is a program that speaks something else.
const MAX_LINES: usize = 64;
/// The code of libgpg-error for a person who pressed Cancel, in the low 16 bits.
const CANCELLED: u32 = 99;

/// Asks for the PIN of the token with this label. `terminal` is where a program without windows asks.
///
/// # Errors
/// [`PinError::Cancelled`], or [`PinError::Pinentry`] with what went wrong.
pub fn ask(program: &OsStr, token: &str, terminal: Option<&Path>) -> Result<SecretBytes, PinError> {
    let failed = |error| PinError::Pinentry(format!("{}: {error}", program.display()));
    let mut command = Command::new(program);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(PinError::Cancelled);
    };
    let mut conversation = Conversation { child, input: Some(input), output: BufReader::new(output) };
    conversation.reply()?;
    if let Some(terminal) = terminal {
        // An option that a program does not know is refused, and no harm done.
        conversation.option("ttyname", &terminal.to_string_lossy())?;
        if let Ok(kind) = std::env::var("TERM") {
            conversation.option("ttytype", &kind)?;
        }
    }
    conversation.set("SETTITLE", "Bulla")?;
    conversation.set("SETDESC", &format!("PIN of the token {token:?}"))?;
    conversation.set("SETPROMPT", "PIN:")?;
    conversation.say("GETPIN")?;
    conversation.reply()
}

struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    fn option(&mut self, name: &str, value: &str) -> Result<(), PinError> {
        self.say(&format!("OPTION {name}={}", escaped(value)))?;
        match self.reply() {
            Ok(_) | Err(PinError::Cancelled) => Ok(()),
            Err(PinError::Pinentry(what)) if what.starts_with("ERR") => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn set(&mut self, what: &str, text: &str) -> Result<(), PinError> {
        self.say(&format!("{what} {}", escaped(text)))?;
        self.reply().map(drop)
    }

    fn say(&mut self, line: &str) -> Result<(), PinError> {
        let Some(input) = &mut self.input else { return Err(PinError::Cancelled) };
        let written = input.write_all(format!("{line}\n").as_bytes()).and_then(|()| input.flush());
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
                _ if said.starts_with(b"ERR ") => return Err(refusal(&String::from_utf8_lossy(said))),
                _ => {
                    if let Some(part) = said.strip_prefix(b"D ") {
                        decode(part, data.expose_mut());
                    }
                }
            }
        }
        Err(PinError::Pinentry("the program does not come to an end".to_owned()))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        drop(self.say("BYE"));
        // Without input the program ends; one that does not is ended, since nobody would see it.
        self.input = None;
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(std::time::Duration::from_millis(20));
            if !matches!(self.child.try_wait(), Ok(Some(_))) {
                drop(self.child.kill());
            }
            drop(self.child.wait());
        }
    }
}

fn refusal(line: &str) -> PinError {
    let code = line.split(' ').nth(1).and_then(|code| code.parse::<u32>().ok());
    match code {
        Some(code) if code & 0xffff == CANCELLED => PinError::Cancelled,
        _ => PinError::Pinentry(line.to_owned()),
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
        let pin = ask(path.as_os_str(), "ops 100%", Some(Path::new("/dev/tty"))).unwrap();
        assert_eq!(pin.expose(), b"12%34\n");
        let heard = fs::read_to_string(folder.path().join("heard")).unwrap();
        assert!(heard.contains("SETDESC PIN of the token \"ops 100%25\"\n"), "{heard}");
        assert!(heard.contains("OPTION ttyname=/dev/tty\n") && heard.ends_with("GETPIN\nBYE\n"), "{heard}");
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let asked = |answer| ask(program(folder.path(), answer).as_os_str(), "ops", None);
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
        let error = ask(OsStr::new("/nonexistent/pinentry"), "ops", None).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/pinentry"), "{error}");
    }
}
