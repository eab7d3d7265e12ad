//! Faults of a database's processes.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{Container, kill_until_none, send};
use crate::bed::proc::{self, Stat};

/// Kills the postmaster with SIGKILL. Its children end by themselves, as they
/// do after a real crash. Returns its pid on the host.
pub fn kill_postmaster(container: &Container) -> Result<i32> {
    let postmaster = container.postmaster()?;
    let started = proc::stat(postmaster).map(|stat| stat.started);
    let same = || proc::stat(postmaster).map(|stat| stat.started) == started;
    kill_until_none(&container.shown(), || Ok(if same() { vec![postmaster] } else { Vec::new() }))?;
    Ok(postmaster)
}

/// Processes that are stopped until `wake`, or until this is dropped.
#[derive(Debug)]
pub struct Asleep {
    processes: Vec<(i32, u64)>,
}

impl Asleep {
    pub fn wake(self) {}

    pub fn pids(&self) -> Vec<i32> {
        self.processes.iter().map(|(pid, _)| *pid).collect()
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        let same = |(pid, started): &&(i32, u64)| proc::stat(*pid).is_some_and(|stat| stat.started == *started);
        self.processes.iter().filter(same).for_each(|(pid, _)| send(*pid, Signal::SIGCONT));
    }
}

/// Stops every postgres process of the container with SIGSTOP; what supervises
/// them goes on.
pub fn stop_postgres_group(container: &Container) -> Result<Asleep> {
    // The one that starts others first.
    send(container.postmaster()?, Signal::SIGSTOP);
    stop_all(container, Container::postgres)
}

/// Stops every process of the container with SIGSTOP, as a machine does that runs out of time.
pub fn freeze(container: &Container) -> Result<Asleep> {
    stop_all(container, Container::processes)
}

/// Stops these processes of the container, until all of them are.
pub(super) fn stop_all(container: &Container, which: fn(&Container) -> Result<Vec<i32>>) -> Result<Asleep> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let all = stats(&which(container)?);
        let awake: Vec<_> = all.iter().filter(|(_, stat)| stat.state != 'T').collect();
        if awake.is_empty() {
            return Ok(Asleep { processes: all.into_iter().map(|(pid, stat)| (pid, stat.started)).collect() });
        }
        ensure!(Instant::now() < limit, "the processes of {} do not stop", container.shown());
        for (pid, _) in awake {
            send(*pid, Signal::SIGSTOP);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Wakes whatever is stopped, for who has no `Asleep` at hand.
pub fn wake_postgres_group(container: &Container) -> Result<()> {
    container.postgres()?.into_iter().for_each(|pid| send(pid, Signal::SIGCONT));
    Ok(())
}

fn stats(pids: &[i32]) -> Vec<(i32, Stat)> {
    let living = |pid: &i32| Some((*pid, proc::stat(*pid).filter(|stat| !matches!(stat.state, 'Z' | 'X'))?));
    pids.iter().filter_map(living).collect()
}
