//! Faults of whole nodes and of their network.

use anyhow::Result;
use jiff::Timestamp;

use super::kill_until_none;
use crate::bed::{
    Bed, Node,
    cgroup::Cgroup,
    leftovers, network,
    node::{self, Programs},
    up,
};

/// Takes a node's power: its cable is dead, nothing of it runs, and what it
/// kept in memory is gone. Its disk stays.
pub fn stop_node(bed: &Bed, node: Node) -> Result<()> {
    let layout = bed.layout();
    network::cut(layout, node)?;
    let cgroup = Cgroup::new(node::cgroup(layout, node))?;
    kill_until_none(&format!("node {node}"), || Ok(cgroup.processes()))?;
    leftovers::forget_node(layout, node)?;
    cgroup.remove()
}

/// Boots a node and waits until it is ready.
pub async fn start_node(bed: &Bed, node: Node) -> Result<()> {
    let layout = bed.layout();
    let booted = Timestamp::now();
    network::heal(layout, node)?;
    let programs = Programs::of(layout, node)?;
    programs.runtime.ensure(layout)?;
    up::wait_for_runtime(layout, node, &programs.runtime).await?;
    programs.kubelet.ensure(layout)?;
    programs.proxy.ensure(layout)?;
    up::wait_for_node(layout, &bed.client()?, node, &programs, booted).await
}

/// Unplugs a node's cable: it runs on, alone.
pub fn cut_network(bed: &Bed, node: Node) -> Result<()> {
    network::cut(bed.layout(), node)
}

pub fn heal_network(bed: &Bed, node: Node) -> Result<()> {
    network::heal(bed.layout(), node)
}
