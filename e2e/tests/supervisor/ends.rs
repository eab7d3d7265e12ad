//! How postgres ends, as its page tells.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Alone, Place, serves, wait_for};

const PORT: u16 = 18_104;

/// The process below the postmaster whose title holds this.
fn child(postmaster: i32, word: &str) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).ok()?;
    let title = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid| title(pid).contains(word))
}

/// No exit tells of it: the postmaster lives, and only its processes are others.
#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_process_that_dies_within_a_living_postmaster_is_counted_and_told() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_981)?;
    let supervisor = place.supervise(&format!("127.0.0.1:{PORT}"))?;
    wait_for(PORT, "a server", serves).await?;
    let postmaster = place.postmaster()?;
    for restarts in 1..=2 {
        // Known to the supervisor by now: it looks twice a second.
        tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
        let checkpointer = child(postmaster, "checkpointer").context("there is no checkpointer")?;
        kill(Pid::from_raw(checkpointer), Signal::SIGABRT)?;
        let page = wait_for(PORT, "a restart", |page| page.restarts >= restarts && serves(page)).await?;
        let exit = page.last_exit.context("no end is told")?;
        ensure!(exit.inside && exit.since == restarts && exit.how.contains("checkpointer"), "{exit:?}");
        ensure!(exit.evidence.contains("terminated by signal 6"), "{exit:?}");
        ensure!(page.crashes == 0 && place.postmaster()? == postmaster, "the postmaster did not live on");
    }
    supervisor.end()
}
