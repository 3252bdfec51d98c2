//! Questions to the person at the terminal. Without one nothing is asked, and the caller says which flag answers.

use bulla_crypto::secret::SecretBytes;
use std::io::{self, IsTerminal as _, Write as _};

/// Whether somebody can be asked: input and the place of the question are terminals.
pub fn possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for yes or no. Anything but "yes" is no: a habit of pressing return must not approve a cluster.
pub fn yes(question: &str) -> io::Result<bool> {
    shown(&format!("{question} Type yes to go on:")).map(|answer| answer == "yes")
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
    rpassword::prompt_password(prompt).map(|text| SecretBytes::new(text.into_bytes()))
}
