//! The faults as verbs, for trying by hand what the scenarios do.

use std::io;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use e2e::bed::{
    Bed, Node, Volume,
    fault::{self, Container},
    say,
};

#[derive(Args)]
pub struct Database {
    pod: String,
    #[arg(short, long, default_value = "demo")]
    namespace: String,
    #[arg(short, long, default_value = "greenplum")]
    container: String,
}

#[derive(Args)]
pub struct Disk {
    node: String,
    /// The name of the persistent volume.
    volume: String,
}

#[derive(Subcommand)]
pub enum Fault {
    /// Kill the postmaster of a pod.
    KillPostmaster(Database),
    /// Stop all postgres processes of a pod until Enter is pressed.
    StopPostgres(Database),
    /// Wake the postgres processes of a pod.
    WakePostgres(Database),
    /// Kill a pod's container and keep it down until Enter is pressed.
    KeepDown(Database),
    /// Delete a pod.
    DeletePod(Database),
    /// Remove a folder of a volume.
    RemoveDataDir {
        #[command(flatten)]
        disk: Disk,
        below: String,
    },
    /// Overwrite a file of a volume.
    DamageFile {
        #[command(flatten)]
        disk: Disk,
        below: String,
    },
    /// Remove all that a volume holds.
    EmptyVolume(Disk),
    /// Show who has the lock of a volume open.
    LockHolders(Disk),
    /// Take a node's power.
    StopNode { node: String },
    /// Boot a node.
    StartNode { node: String },
    /// Unplug a node's cable.
    CutNetwork { node: String },
    /// Plug a node's cable in again.
    HealNetwork { node: String },
    /// Kill the operator's processes.
    KillOperator,
    /// Delete the operator's pods.
    DeleteOperator,
}

impl Fault {
    pub async fn act(self, bed: &Bed) -> Result<()> {
        match self {
            Self::KillPostmaster(database) => {
                let pid = fault::kill_postmaster(&database.find(bed).await?)?;
                say(format!("killed pid {pid}"));
                Ok(())
            }
            Self::StopPostgres(database) => {
                let asleep = fault::stop_postgres_group(&database.find(bed).await?)?;
                wait_for_enter(&format!("{} processes are stopped", asleep.pids().len()))?;
                asleep.wake();
                Ok(())
            }
            Self::WakePostgres(database) => fault::wake_postgres_group(&database.find(bed).await?),
            Self::KeepDown(database) => {
                let kept = fault::keep_down(&database.find(bed).await?)?;
                wait_for_enter("the container is down")?;
                kept.release()
            }
            Self::DeletePod(database) => fault::delete_pod(bed, &database.namespace, &database.pod).await,
            Self::RemoveDataDir { disk, below } => disk.find(bed)?.remove_data_dir(&below),
            Self::DamageFile { disk, below } => disk.find(bed)?.damage_file(&below),
            Self::EmptyVolume(disk) => disk.find(bed)?.empty(),
            Self::LockHolders(disk) => {
                for holder in fault::lock_holders(&disk.find(bed)?) {
                    println!("pid {} group {}", holder.pid, holder.group);
                }
                Ok(())
            }
            Self::StopNode { node } => fault::stop_node(bed, Node::named(&node)?),
            Self::StartNode { node } => fault::start_node(bed, Node::named(&node)?).await,
            Self::CutNetwork { node } => fault::cut_network(bed, Node::named(&node)?),
            Self::HealNetwork { node } => fault::heal_network(bed, Node::named(&node)?),
            Self::KillOperator => fault::kill_operator(bed).await,
            Self::DeleteOperator => fault::delete_operator(bed).await,
        }
    }
}

impl Database {
    async fn find(&self, bed: &Bed) -> Result<Container> {
        Container::find(bed, &self.namespace, &self.pod, &self.container).await
    }
}

impl Disk {
    fn find(&self, bed: &Bed) -> Result<Volume> {
        bed.existing_volume(Node::named(&self.node)?, &self.volume)
    }
}

fn wait_for_enter(what: &str) -> Result<()> {
    say(format!("{what}; press Enter to undo"));
    io::stdin().read_line(&mut String::new()).context("cannot read from the terminal")?;
    Ok(())
}
