//! `conformance`: asks the stand-in, or the Greenplum at `GPHOME`, for all that
//! gpheal relies on.

use std::process::ExitCode;

use clap::Parser;

/// Checks a Greenplum, or the stand-in of one, against what gpheal relies on.
///
/// With GPHOME set it uses that installation; else it builds the stand-in.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only the checks whose name holds one of these.
    parts: Vec<String>,
    /// Of those the ones that run with every change.
    #[arg(long)]
    sample: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { parts, sample } = Arguments::parse();
    match e2e::conformance::run(&parts, sample).await {
        Ok((passed, failed)) => {
            println!("{passed} passed, {failed} failed");
            if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}
