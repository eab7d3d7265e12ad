//! `bed`: brings the test bed up and down, and lets a person into it.

mod cli;

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use e2e::bed::{self, Bed, say};

/// A real three-node Kubernetes on this machine, to hurt and to heal.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring the bed up, or mend what is missing of one that is up.
    Up,
    /// Take the bed down: nothing of it stays but the cache.
    Down,
    /// Open a shell inside the bed's network, with kubectl.
    Shell,
    /// Run kubectl inside the bed's network.
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run Helm: inside the bed's network when one is up, without a cluster otherwise.
    Helm {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Load an image archive on all nodes.
    Load { archive: PathBuf },
    /// Hurt something.
    #[command(subcommand)]
    Fault(cli::Fault),
    /// Write objects and logs that explain a failure into a folder.
    Collect { folder: PathBuf },
}

fn main() -> ExitCode {
    match act(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<()> {
    match verb {
        Verb::Up => Bed::up().map(drop),
        Verb::Down => Bed::down(),
        Verb::Shell => {
            let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/bash".into());
            become_program(&Bed::attach()?, Path::new(&shell), &[])
        }
        Verb::Kubectl { arguments } => {
            let bed = Bed::attach()?;
            become_program(&bed, &bed.layout().program("kubectl"), &arguments)
        }
        Verb::Helm { arguments } => {
            let helm = bed::helm_program()?;
            match Bed::attach() {
                Ok(bed) => become_program(&bed, &helm, &arguments),
                Err(_) => Err(Command::new(&helm).args(arguments).exec()).with_context(|| format!("cannot run {}", helm.display())),
            }
        }
        Verb::Load { archive } => Bed::attach()?.load_archive(&archive),
        Verb::Fault(fault) => {
            let bed = Bed::attach()?;
            bed.enter_netns()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(fault.act(&bed))
        }
        Verb::Collect { folder } => Bed::attach()?.collect(&folder),
    }
}

/// Replaces this process by a program inside the bed.
fn become_program(bed: &Bed, program: &Path, arguments: &[OsString]) -> Result<()> {
    bed.enter_netns()?;
    let mut path = bed.layout().programs().into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.args(arguments).env("KUBECONFIG", bed.kubeconfig()).env("PATH", path);
    Err(command.exec()).with_context(|| format!("cannot run {}", program.display()))
}
