//! The commands that run in a segment's pod.

use std::ffi::OsString;

use clap::Subcommand;
use segment::{
    recover,
    supervisor::{self, check},
};

use crate::log::{self, Format};

#[derive(Subcommand)]
pub enum SegmentCommand {
    /// Runs postgres as pid 1 of a segment's or coordinator's container.
    Supervise {
        #[command(flatten)]
        check: check::Options,
        #[command(flatten)]
        config: supervisor::Config,
    },
    /// Repairs one instance (the command of a Job).
    Recover(recover::Config),
}

impl SegmentCommand {
    pub fn run(self) -> anyhow::Result<()> {
        log::start(Format::Text);
        match self {
            Self::Supervise { config, .. } => current_thread()?.block_on(supervisor::run(config)),
            Self::Recover(config) => {
                if current_thread()?.block_on(recover::run(config))? {
                    Ok(())
                } else {
                    std::process::exit(1)
                }
            }
        }
    }
}

/// `supervise --check` looks at a container that may lack what `supervise` needs, so it is told before all else is.
pub fn check_if_asked(words: &[OsString]) -> anyhow::Result<()> {
    let Some((options, matches)) = check::asked(words) else { return Ok(()) };
    let well = current_thread()?.block_on(check::run(&options, &matches))?;
    std::process::exit(i32::from(!well))
}

/// One thread is enough for a supervisor or a Job, and it leaves the memory to postgres.
fn current_thread() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
