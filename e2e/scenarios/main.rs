//! `e2e`: scenarios on the bed.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use e2e::{
    bed::{Bed, say},
    figures,
    fixture::{self, Elsewhere, product::Profile},
    scenarios::{self, Options},
};

/// Hurts a real cluster on the bed, and sees it heal.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run scenarios by name, or all.
    Run {
        names: Vec<String>,
        /// Without names: those that run with every change.
        #[arg(long)]
        sample: bool,
        /// Where the report and what explains a failure are kept.
        #[arg(long, default_value = "e2e/out")]
        out: PathBuf,
        /// Stop at the first failure and leave everything as it is.
        #[arg(long)]
        stop_at_failure: bool,
        /// Go on with the cluster that is there, instead of a fresh one.
        #[arg(long)]
        keep: bool,
        /// With the operator and supervisors as they are shipped, which takes minutes to compile.
        #[arg(long)]
        release: bool,
    },
    /// Three injuries and three healings, for people.
    Demo {
        #[arg(long, default_value = "e2e/out")]
        out: PathBuf,
    },
    /// What healing costs, beside the same commands by hand; writes docs/performance.md.
    Figures {
        /// How often each is measured; the median counts.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Size of the full copy, in GiB.
        #[arg(long, default_value_t = 4)]
        gibibytes: u64,
        /// How long the idle cluster is looked at, in minutes.
        #[arg(long, default_value_t = 10)]
        idle_minutes: u64,
        #[arg(long, default_value = "docs/performance.md")]
        page: PathBuf,
    },
    /// List the scenarios.
    List,
}

fn main() -> ExitCode {
    match act(Arguments::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<bool> {
    match verb {
        Verb::List => {
            for scenario in scenarios::all() {
                let mark = if scenario.when == scenarios::When::Sample { '*' } else { ' ' };
                println!("{mark} {:<21} {}", scenario.name, scenario.what);
            }
            Ok(true)
        }
        Verb::Run { names, sample, out, stop_at_failure, keep, release } => {
            let options = Options { names, sample, out, stop_at_failure, keep };
            match Elsewhere::from_env()? {
                None => {
                    on_the_bed(if release { Profile::Release } else { Profile::Dev }, async move |bed| scenarios::run(bed, &options).await)
                }
                Some(_) => on_a_cluster(async move |bed| scenarios::run(bed, &options).await),
            }
        }
        Verb::Figures { runs, gibibytes, idle_minutes, page } => {
            let options = figures::Options { runs, gibibytes, idle_minutes, page };
            on_the_bed(Profile::Release, async move |bed| figures::run(bed, &options).await)
        }
        Verb::Demo { out } => on_the_bed(Profile::Dev, async move |bed| scenarios::demo(bed, out).await),
    }
}

/// On the cluster of `KUBECONFIG`, with images that its nodes can pull; no bed is started.
fn on_a_cluster(act: impl AsyncFnOnce(Bed) -> Result<bool>) -> Result<bool> {
    let kubeconfig = std::env::var_os("KUBECONFIG").context("set KUBECONFIG beside IMAGE: the cluster to run on")?;
    let bed = Bed::foreign(std::path::Path::new(&kubeconfig))?;
    bed.ensure_helm()?;
    tokio::runtime::Runtime::new()?.block_on(act(bed))
}

fn on_the_bed(profile: Profile, act: impl AsyncFnOnce(Bed) -> Result<bool>) -> Result<bool> {
    let bed = Bed::up()?;
    // Built with the machine's own network, which the bed's does not lead to.
    fixture::load_image(&bed)?;
    fixture::product::load(&bed, profile)?;
    bed.ensure_helm()?;
    bed.enter_netns()?;
    tokio::runtime::Runtime::new()?.block_on(act(bed))
}
