//! Why a key of an agent could not be used, and what to do about it.

use bulla_crypto::openssh::agent::{AgentKeyError, Fingerprint};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a key of an agent could not be used.
#[derive(Debug)]
pub enum AgentError {
    /// The environment names no agent.
    NoSocket,
    /// Nobody answers at the socket.
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The agent ended the conversation.
    Io(io::Error),
    /// The agent did not answer in time.
    TimedOut {
        /// How long it had.
        limit: Duration,
    },
    /// The agent shows no key: it has none, or is locked.
    Empty,
    /// The agent has other keys.
    NoKey {
        /// Which one is meant.
        wanted: Fingerprint,
        /// The keys that are there.
        there: Vec<String>,
    },
    /// Which of several keys is not said.
    Several {
        /// Those that can be used.
        there: Vec<String>,
    },
    /// None of several keys can be used.
    NoneUsable {
        /// The keys that are there.
        there: Vec<String>,
    },
    /// The key cannot be used.
    Unusable {
        /// Which key.
        key: Fingerprint,
        /// Why.
        cause: AgentKeyError,
    },
    /// The file that names the key cannot be read.
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file that names the key is no SSH public key.
    NotPublic {
        /// Which file.
        path: PathBuf,
    },
    /// The key was there and no longer is, or the agent was locked.
    Gone {
        /// Which key.
        key: Fingerprint,
    },
    /// The agent has the key and does not sign.
    Refused {
        /// Which key.
        key: Fingerprint,
    },
    /// The message is longer than agents sign.
    TooLong,
    /// The agent answers what is no answer.
    Protocol(&'static str),
    /// An agent was to decrypt.
    Decrypts,
}

impl AgentError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSocket => "start one: eval \"$(ssh-agent)\", then `ssh-add FILE`",
            Self::Unreachable { .. } | Self::Io(_) => "check that the agent at SSH_AUTH_SOCK runs: `ssh-add -l`",
            Self::TimedOut { .. } => "run it again, and confirm where the agent asks",
            Self::Empty | Self::Gone { .. } => "`ssh-add FILE` gives it the key; `ssh-add -X` unlocks it",
            Self::NoKey { .. } => "`ssh-add FILE` gives it the key; `ssh-add -l` shows its keys",
            Self::Several { .. } => "say which one with ssh-agent:SHA256:… or ssh-agent:FILE.pub",
            Self::Unusable { cause: AgentKeyError::Rsa, .. } => {
                "name the private key's file as the identity, or take an Ed25519 key"
            }
            Self::NoneUsable { .. } | Self::Unusable { .. } => "take an Ed25519, P-256 or P-384 key",
            Self::File { .. } | Self::NotPublic { .. } => "name the key's .pub file, or its fingerprint: `ssh-add -l`",
            Self::Refused { .. } => {
                "confirm where the agent asks (`ssh-add -c`); a key that was added for certain hosts (`ssh-add -h`) signs \
                 for nothing else"
            }
            Self::TooLong => "sign this with a key in a file",
            Self::Protocol(_) => "try OpenSSH's own agent",
            Self::Decrypts => "name the file of a key that decrypts, or keys on a token",
        }
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSocket => f.write_str("there is no SSH agent: SSH_AUTH_SOCK is not set"),
            Self::Unreachable { socket, .. } => write!(f, "no SSH agent answers at {}", socket.display()),
            Self::Io(_) => f.write_str("the SSH agent ended the conversation"),
            Self::TimedOut { limit } => write!(f, "the SSH agent did not answer within {} s", limit.as_secs()),
            Self::Empty => f.write_str("the SSH agent shows no key: it has none, or is locked"),
            Self::NoKey { wanted, there } => {
                write!(f, "the SSH agent does not have the key {wanted}; its keys are: {}", there.join(", "))
            }
            Self::Several { there } => write!(f, "the SSH agent has several keys: {}", there.join(", ")),
            Self::NoneUsable { there } => {
                write!(f, "none of the SSH agent's keys can sign here: {}", there.join(", "))
            }
            Self::Unusable { key, cause } => write!(f, "the SSH agent's key {key} cannot be used: {cause}"),
            Self::File { path, .. } => write!(f, "cannot read {}", path.display()),
            Self::NotPublic { path } => write!(f, "{} is no SSH public key", path.display()),
            Self::Gone { key } => write!(f, "the SSH agent no longer shows the key {key}: it was taken out, or locked"),
            Self::Refused { key } => write!(f, "the SSH agent has the key {key} and refused to sign with it"),
            Self::TooLong => f.write_str("this is longer than an SSH agent signs"),
            Self::Protocol(what) => write!(f, "the SSH agent answered with {what}, which is not to be used"),
            Self::Decrypts => f.write_str("an SSH agent signs and does not decrypt"),
        }
    }
}

impl std::error::Error for AgentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { cause, .. } | Self::File { cause, .. } | Self::Io(cause) => Some(cause),
            _ => None,
        }
    }
}
