//! Why a plugin did not serve.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why a plugin did not serve.
#[derive(Debug)]
pub enum PluginError {
    /// No such program is on `PATH`.
    NotFound {
        /// The program's name.
        name: String,
    },
    /// It could not be started.
    Start(io::Error),
    /// It ended, or closed the conversation, too early.
    Ended,
    /// It did not come to an end in time.
    TimedOut {
        /// How long it had.
        limit: Duration,
    },
    /// It said that it cannot.
    Refused(String),
    /// It said something that cannot be understood; what.
    Malformed(&'static str),
}

impl PluginError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "install the plugin in a folder of PATH",
            _ => "try the plugin with age: age -d -i FILE",
        }
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { name } => write!(f, "no program {name} is on PATH"),
            Self::Start(cause) => write!(f, "it cannot be started: {cause}"),
            Self::Ended => f.write_str("it ended without an answer; try it with age: age -d -i FILE"),
            Self::TimedOut { limit } => write!(f, "it gave no answer within {} s", limit.as_secs()),
            Self::Refused(why) => write!(f, "it says: {why}"),
            Self::Malformed(what) => write!(f, "it does not keep to the protocol: {what}"),
        }
    }
}

impl std::error::Error for PluginError {}
