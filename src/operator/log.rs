//! Logs: lines for people, or JSON for machines.

use tracing_subscriber::{EnvFilter, fmt};

/// How lines are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// A server that goes down says so to every session; that is told in our own words.
const STANDARD: &str = "info,tokio_postgres=warn";

/// Starts logging to standard error. What is logged is ruled by `GPHEAL_LOG`, in the notation of `RUST_LOG`.
pub fn start(format: Format) {
    let filter = EnvFilter::try_from_env("GPHEAL_LOG").unwrap_or_else(|_| STANDARD.into());
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Somebody else may have started it, as tests do.
    let _ = match format {
        Format::Text => lines.with_ansi(false).with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(true).try_init(),
    };
}
