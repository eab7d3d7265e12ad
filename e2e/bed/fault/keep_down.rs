//! A container that ends and does not come back until it is released.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Container, kill_until_none};
use crate::bed::{
    Layout, Node,
    command::{entries, lock, make_folder, say},
    daemon::{Condition, Daemon},
    node::Programs,
    proc,
};

/// Holds a container down. Its node's kubelet is stopped and goes on when the
/// last container that is kept down on the node is released. After
/// 20 seconds without a kubelet the node counts as not ready; the pods on it
/// that run go on running.
#[derive(Debug)]
pub struct KeptDown {
    layout: Layout,
    node: Node,
    claim: PathBuf,
}

/// Stops the kubelet of the container's node, then kills the container.
pub fn keep_down(container: &Container) -> Result<KeptDown> {
    let (layout, node) = (container.layout().clone(), container.node());
    let kept = {
        let _lock = lock_node(&layout, node)?;
        let claim = make_claim(&layout, container)?;
        suspend(&layout, node).inspect_err(|_| drop(fs::remove_file(&claim)))?;
        // From here on a failure releases.
        KeptDown { layout, node, claim }
    };
    // A runtime that does not answer has not said that nothing is left; and who was killed is there until somebody has reaped it.
    kill_until_none(&container.shown(), || container.processes())?;
    ensure!(!container.processes()?.into_iter().any(proc::lives), "{} is started again although no kubelet runs", container.shown());
    Ok(kept)
}

/// Stops the kubelet of the container's node alone: after 20 seconds the node counts as lost, while all that runs there runs on.
pub fn lose_node(container: &Container) -> Result<KeptDown> {
    let (layout, node) = (container.layout().clone(), container.node());
    let _lock = lock_node(&layout, node)?;
    let claim = make_claim(&layout, container)?;
    suspend(&layout, node).inspect_err(|_| drop(fs::remove_file(&claim)))?;
    Ok(KeptDown { layout, node, claim })
}

impl KeptDown {
    pub fn release(self) -> Result<()> {
        self.give_back()
    }

    fn give_back(&self) -> Result<()> {
        let _lock = lock_node(&self.layout, self.node)?;
        if !self.claim.exists() {
            return Ok(());
        }
        fs::remove_file(&self.claim).with_context(|| format!("cannot remove {}", self.claim.display()))?;
        let last = entries(&self.layout.kept_down(self.node)).is_empty();
        if last { kubelet(&self.layout, self.node)?.signal(&self.layout, Signal::SIGCONT) } else { Ok(()) }
    }
}

impl Drop for KeptDown {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            say(format!("{} stays suspended ({error:#}); `make bed-up` mends it", self.node));
        }
    }
}

/// A file of its own, since two may keep the same container down.
fn make_claim(layout: &Layout, container: &Container) -> Result<PathBuf> {
    let folder = layout.kept_down(container.node());
    make_folder(&folder)?;
    let file = tempfile::Builder::new().prefix(&container.key()).tempfile_in(&folder)?;
    Ok(file.into_temp_path().keep()?)
}

fn suspend(layout: &Layout, node: Node) -> Result<()> {
    let kubelet = kubelet(layout, node)?;
    kubelet.signal(layout, Signal::SIGSTOP)?;
    let limit = Instant::now() + Duration::from_secs(5);
    while kubelet.condition(layout)? == Condition::Running {
        ensure!(Instant::now() < limit, "{} does not stop on SIGSTOP", kubelet.name);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn kubelet(layout: &Layout, node: Node) -> Result<Daemon> {
    Ok(Programs::of(layout, node)?.kubelet)
}

fn lock_node(layout: &Layout, node: Node) -> Result<nix::fcntl::Flock<fs::File>> {
    lock(&layout.kept_down(node).with_extension("lock"), &format!("what is kept down on {node}"))
}
