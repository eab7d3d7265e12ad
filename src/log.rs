//! Logs: lines for people, or JSON for machines.

use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How lines are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// A server that goes down says so to every session; that is told in our own words.
const STANDARD: &str = "info,tokio_postgres=warn";

/// Starts logging to standard error. What is logged is ruled by `GPHEAL_LOG`: `LEVEL` or `TARGET=LEVEL`, separated by
/// commas. The filter that knows spans and fields, too, would cost every supervisor a megabyte of regular expressions.
pub fn start(format: Format) {
    let given = std::env::var("GPHEAL_LOG").ok().and_then(|given| given.parse::<Targets>().ok());
    let targets = given.or_else(|| STANDARD.parse().ok()).unwrap_or_default();
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(true).boxed(),
    };
    // Somebody else may have started it, as tests do.
    let _ = tracing_subscriber::registry().with(lines.with_filter(targets)).try_init();
}
