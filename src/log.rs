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
    let given = std::env::var("GPHEAL_LOG").ok();
    let (targets, wrong) = targets(given.as_deref());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(true).boxed(),
    };
    // Somebody else may have started it, as tests do.
    let _ = tracing_subscriber::registry().with(lines.with_filter(targets)).try_init();
    if let Some(wrong) = wrong {
        tracing::warn!("{wrong}");
    }
}

/// The filter, and what to say of one that cannot be read: a log that is silent for a typing error helps nobody.
fn targets(given: Option<&str>) -> (Targets, Option<String>) {
    let standard = || STANDARD.parse().unwrap_or_default();
    match given.map(|given| (given, given.parse())) {
        None => (standard(), None),
        Some((_, Ok(targets))) => (targets, None),
        Some((given, Err(error))) => (
            standard(),
            Some(format!(
                "GPHEAL_LOG '{given}' is no filter ({error}), so it is '{STANDARD}'; write LEVEL or TARGET=LEVEL, separated by commas"
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_is_taken_as_given_and_one_that_is_none_is_told() {
        let (standard, wrong) = targets(None);
        assert!(wrong.is_none() && standard.would_enable("gpheal", &Level::INFO));
        assert!(!standard.would_enable("gpheal", &Level::DEBUG) && !standard.would_enable("tokio_postgres", &Level::INFO));
        let (given, wrong) = targets(Some("warn,plan=trace"));
        assert!(wrong.is_none() && given.would_enable("plan", &Level::TRACE) && !given.would_enable("gpheal", &Level::INFO));
        let (fallen_back, wrong) = targets(Some("gpheal=loud"));
        assert!(wrong.unwrap().contains("GPHEAL_LOG 'gpheal=loud'") && fallen_back == standard);
    }
}
