//! Questions to the person at the terminal. Without one nothing is asked, and the caller says which flag answers.

use bulla_crypto::secret::SecretBytes;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::sync::OnceLock;

/// Where programs ask for a PIN.
pub const TERMINAL: &str = "/dev/tty";

/// What Ctrl-C sends.
const CTRL_C: u8 = 3;

/// The terminal, and how it was before anybody asked there.
static BEFORE: OnceLock<Option<(File, Termios)>> = OnceLock::new();

/// Whether somebody can be asked: input and the place of the question are terminals.
pub fn possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for yes or no. Anything but "yes" is no: a habit of pressing return must not approve a cluster.
pub fn yes(question: &str) -> io::Result<bool> {
    let answer = shown(&format!("{question} Type yes to go on:"))?;
    if answer.starts_with(['y', 'Y']) && answer != "yes" {
        writeln!(io::stderr(), "Only yes in full is yes.")?;
    }
    Ok(answer == "yes")
}

/// Asks for a line.
pub fn shown(prompt: &str) -> io::Result<String> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{prompt} ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Asks for something that is not shown while it is typed.
pub fn hidden(prompt: &str) -> io::Result<SecretBytes> {
    remember();
    let terminal = File::options().read(true).write(true).open(TERMINAL)?;
    let mut modes = tcgetattr(&terminal)?;
    modes.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    let (keys, mut screen) = (Keys(terminal.try_clone()?), terminal.try_clone()?);
    tcsetattr(&terminal, OptionalActions::Now, &modes)?;
    let config = rpassword::ConfigBuilder::new().input_reader(keys).output_writer(terminal).build();
    let typed = rpassword::prompt_password_with_config(prompt, config);
    restore();
    // Return was typed, and not shown either.
    screen.write_all(b"\n")?;
    typed.map(|text| SecretBytes::new(text.into_bytes()))
}

/// The keys that are pressed at the terminal while it tells no signals.
struct Keys(File);

impl Read for Keys {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(bytes)?;
        if bytes.iter().take(count).any(|byte| *byte == CTRL_C) {
            // Whoever is ended by the signal cannot put the terminal back any more.
            restore();
            self.0.write_all(b"\n")?;
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT)?;
            return Err(io::Error::other("interrupted"));
        }
        Ok(count)
    }
}

/// Remembers how the terminal is, before something asks there that may be given up: a question on another thread, a program.
pub fn remember() {
    BEFORE.get_or_init(|| {
        let terminal = File::open(TERMINAL).ok()?;
        let modes = tcgetattr(&terminal).ok()?;
        Some((terminal, modes))
    });
}

/// Puts the terminal back. Whoever was no longer waited for, or was ended, left it without echo.
pub fn restore() {
    let Some(Some((terminal, before))) = BEFORE.get() else { return };
    let modes = |of: &Termios| (of.input_modes, of.output_modes, of.control_modes, of.local_modes);
    // Where nothing changed nothing is set: a process in the background would be stopped for it.
    if tcgetattr(terminal).is_ok_and(|now| modes(&now) != modes(before)) {
        // A terminal that is gone needs no echo.
        let _: Result<(), rustix::io::Errno> = tcsetattr(terminal, OptionalActions::Now, before);
    }
}
