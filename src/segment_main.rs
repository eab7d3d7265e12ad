//! `gpheal-segment`: what `gpheal install` puts into a segment's pod, under the name gpheal. It is gpheal without the operator, so without a
//! client of Kubernetes: a supervisor lives beside every postgres, and most of what it holds is its own code.

mod log;
mod segment_commands;

use std::ffi::OsString;

use clap::Parser;
use segment_commands::{SegmentCommand, check_if_asked};

/// Heals failed Greenplum and Apache Cloudberry segments on Kubernetes: what runs in a segment's pod.
#[derive(Parser)]
#[command(name = "gpheal", version)]
struct Cli {
    #[command(subcommand)]
    command: SegmentCommand,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<OsString> = std::env::args_os().collect();
    check_if_asked(&words)?;
    Cli::parse_from(words).command.run()
}
