//! `conformance`: asks the stand-in, or the Greenplum at `GPHOME`, for all that
//! gpheal relies on.

use std::process::ExitCode;

use clap::Parser;
use e2e::conformance;

/// Checks a Greenplum, or the stand-in of one, against what gpheal relies on.
///
/// With GPHOME set it uses that installation; else it builds the stand-in.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only the checks whose name holds this.
    #[arg(default_value = "")]
    filter: String,
    /// Only those of one shift.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::try_from(conformance::shifts()).unwrap_or(1)))]
    shift: Option<u8>,
    /// The shifts side by side, each in a network namespace of its own; needs root.
    #[arg(long, conflicts_with = "shift")]
    side_by_side: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { filter, shift, side_by_side } = Arguments::parse();
    let content =
        if side_by_side { conformance::side_by_side(&filter, conformance::shifts()) } else { alone(&filter, shift.map(usize::from)).await };
    match content {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn alone(filter: &str, shift: Option<usize>) -> anyhow::Result<bool> {
    let (passed, failed) = conformance::run(filter, shift).await?;
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}
