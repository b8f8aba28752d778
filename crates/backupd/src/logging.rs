//! The log, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// What the SDK of AWS thinks of credentials; our own errors say it in one sentence. A filter that names it has the last
/// word.
const NOT_WARNINGS: &str = "aws_config=error";

/// Starts logging.
pub fn start(log: &Log) {
    let filter = EnvFilter::new(format!("{NOT_WARNINGS},{}", log.filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
