//! The commands of gpheal; each is a crate, or a module of one.

mod documents;
mod install;
mod log;

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};
use log::Format;
use segment::supervisor::check;

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
    /// Runs postgres as pid 1 of a segment's or coordinator's container.
    Supervise {
        #[command(flatten)]
        check: check::Options,
        #[command(flatten)]
        config: segment::supervisor::Config,
    },
    /// Repairs one instance (the command of a Job).
    Recover(segment::recover::Config),
    /// Copies this program into a folder (the init container of segments, and a container of Jobs).
    Install { folder: PathBuf },
    /// Prints the custom resource definitions, or writes them into a folder, one file each.
    Crds { folder: Option<PathBuf> },
    /// Writes the documents that are made from the code into a folder.
    #[command(hide = true)]
    Docs { folder: PathBuf },
}

fn main() -> anyhow::Result<()> {
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some((options, matches)) = check::asked(&words) {
        let well = current_thread()?.block_on(check::run(&options, &matches))?;
        std::process::exit(i32::from(!well));
    }
    match Cli::parse_from(words).command {
        Command::Operator { options, log_format } => {
            log::start(log_format);
            operator::main(options)
        }
        Command::Supervise { config, .. } => {
            log::start(Format::Text);
            current_thread()?.block_on(segment::supervisor::run(config))
        }
        Command::Recover(config) => {
            log::start(Format::Text);
            if current_thread()?.block_on(segment::recover::run(config))? { Ok(()) } else { std::process::exit(1) }
        }
        Command::Install { folder } => Ok(install::install(&folder)?),
        Command::Crds { folder } => Ok(api::write_crds(folder.as_deref())?),
        Command::Docs { folder } => Ok(crate::documents::write(&folder)?),
    }
}

/// One thread is enough for a supervisor or a Job, and it leaves the memory to postgres.
fn current_thread() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
