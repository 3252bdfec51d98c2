//! The log of what runs for long, on standard error.

use crate::exit::{Exit, Failure};
use clap::{Args, ValueEnum};
use std::io::IsTerminal as _;

/// What is logged, and how.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Form of the log on standard error
    #[arg(id = "log_format", long = "log-format", value_name = "FORM", value_enum, default_value_t, global = true)]
    pub format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or a filter of tracing-subscriber
    #[arg(
        id = "log",
        long = "log",
        value_name = "FILTER",
        env = "BULLA_LOG",
        hide_env_values = true,
        default_value = "info",
        global = true
    )]
    pub filter: String,
}

/// The form of a line.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl LogArgs {
    /// From here on what is logged is written.
    pub fn begin(&self) -> Result<(), Failure> {
        let filter = tracing_subscriber::EnvFilter::try_new(&self.filter).map_err(|error| {
            Failure::usage(format!("cannot log: {error}")).hint("give --log info, or another filter")
        })?;
        // What the log cannot take is lost, and nothing else. As it is without this, it would be told on standard error, which
        // is a panic in the middle of whatever was logged: on a full disk, or behind a terminal or a pipe that was closed.
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
        let begun = match self.format {
            LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
        begun.map_err(|error| Failure::new(Exit::Failed, format!("cannot log: {error}")))
    }
}
