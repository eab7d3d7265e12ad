//! The commands of gpheal; each is a crate, or a module of one.

mod documents;
mod install;
mod log;
mod segment_commands;

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};
use log::Format;
use segment_commands::{SegmentCommand, check_if_asked};

/// Heals failed Greenplum and Apache Cloudberry segments on Kubernetes.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watches GreenplumClusters and heals them.
    Operator {
        #[command(flatten)]
        options: operator::Options,
        /// How lines are logged.
        #[arg(long, env = "GPHEAL_LOG_FORMAT", default_value = "text")]
        log_format: Format,
    },
    #[command(flatten)]
    Segment(Box<SegmentCommand>),
    /// Copies what runs in a segment's pod into a folder (the init container of segments, and a container of Jobs).
    Install { folder: PathBuf },
    /// Prints the custom resource definitions, or writes them into a folder, one file each.
    Crds { folder: Option<PathBuf> },
    /// Writes the documents that are made from the code into a folder.
    #[command(hide = true)]
    Docs { folder: PathBuf },
}

fn main() -> anyhow::Result<()> {
    let words: Vec<OsString> = std::env::args_os().collect();
    check_if_asked(&words)?;
    match Cli::parse_from(words).command {
        Command::Operator { options, log_format } => {
            log::start(log_format);
            operator::main(options)
        }
        Command::Segment(command) => command.run(),
        Command::Install { folder } => Ok(install::install(&folder)?),
        Command::Crds { folder } => Ok(api::write_crds(folder.as_deref())?),
        Command::Docs { folder } => Ok(documents::write(&folder)?),
    }
}
