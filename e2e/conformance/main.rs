//! `conformance`: asks the stand-in, or the Greenplum at `GPHOME`, for all that
//! gpheal relies on.

use std::process::ExitCode;

use clap::Parser;
use e2e::conformance::{self, Lane};

/// Checks a Greenplum, or the stand-in of one, against what gpheal relies on.
///
/// With GPHOME set it uses that installation; else it builds the stand-in.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only the checks whose name holds this.
    #[arg(default_value = "")]
    filter: String,
    /// Only every Nth of them, beginning with number K: K/N.
    #[arg(long)]
    lane: Option<Lane>,
    /// In so many processes side by side, each in a network namespace of its own; needs root.
    #[arg(long, conflicts_with = "lane")]
    side_by_side: Option<usize>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { filter, lane, side_by_side } = Arguments::parse();
    let content = match side_by_side {
        Some(processes) => conformance::side_by_side(&filter, processes),
        None => alone(&filter, lane.unwrap_or(Lane::ALL)).await,
    };
    match content {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn alone(filter: &str, lane: Lane) -> anyhow::Result<bool> {
    let (passed, failed) = conformance::run(filter, lane).await?;
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}
