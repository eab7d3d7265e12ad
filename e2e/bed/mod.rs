//! A real Kubernetes of three nodes on one machine, to hurt and to heal.
//!
//! Each node is a network namespace with its own container runtime, kubelet
//! and proxy; the control plane lives in one more. Everything a bed is made of
//! lies in one folder (`GPHEAL_BED`), below one cgroup and in namespaces that
//! carry its name, so that taking it down leaves nothing.
//!
//! A program that talks to pods or to the API server enters the control
//! plane's namespace first, before it starts any thread:
//!
//! ```no_run
//! # use e2e::bed::Bed;
//! # fn main() -> anyhow::Result<()> {
//! let bed = Bed::attach()?;
//! bed.enter_netns()?;
//! let runtime = tokio::runtime::Runtime::new()?;
//! runtime.block_on(async { bed.client() })?;
//! # Ok(())
//! # }
//! ```

mod cache;
mod cgroup;
mod collect;
mod command;
mod components;
mod control;
mod daemon;
pub mod fault;
mod images;
mod kernel;
mod kubernetes;
mod layout;
mod leftovers;
mod network;
mod node;
mod packages;
mod pki;
pub(crate) mod proc;
mod up;
mod volume;
mod wait;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use kube::Client;

pub use self::{
    cache::{Inputs, entry},
    command::{run, say},
    images::build as build_image,
    layout::{Layout, Node},
    volume::{Claim, Snapshot, Volume},
};

/// The program of Helm, built when it is not in the cache. For what asks no cluster.
pub fn helm_program() -> Result<PathBuf> {
    components::helm(&Layout::from_env()?)
}

/// A bed that is up.
#[derive(Clone, Debug)]
pub struct Bed {
    layout: Layout,
}

impl Bed {
    /// Brings the bed up, or mends what is missing of one that is up. Call it
    /// outside of an asynchronous runtime: it waits with one of its own.
    pub fn up() -> Result<Self> {
        Self::up_at(Layout::from_env()?)
    }

    /// The bed that is up already.
    pub fn attach() -> Result<Self> {
        Self::attach_to(Layout::from_env()?)
    }

    /// A cluster of the user's in the bed's place: what can be done through its API server can be done.
    pub fn foreign(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = std::path::absolute(kubeconfig)?;
        ensure!(kubeconfig.is_file(), "KUBECONFIG has to name one file, which {} is not", kubeconfig.display());
        Ok(Self { layout: Layout::from_env()?.of_foreign(kubeconfig) })
    }

    /// Whether there are no nodes to reach into.
    pub fn is_foreign(&self) -> bool {
        self.layout.is_foreign()
    }

    /// Takes the bed down and leaves nothing of it but the cache.
    pub fn down() -> Result<()> {
        Self::down_at(&Layout::from_env()?)
    }

    pub fn up_at(layout: Layout) -> Result<Self> {
        up::up(&layout)?;
        Ok(Self { layout })
    }

    pub fn attach_to(layout: Layout) -> Result<Self> {
        ensure!(up::lives(&layout)?, "no bed is up in {}: run `make bed-up`", layout.folder().display());
        Ok(Self { layout })
    }

    pub fn down_at(layout: &Layout) -> Result<()> {
        let _lock = up::lock(layout)?;
        leftovers::clear(layout)
    }

    /// Takes the calling thread into the control plane's network, where the API
    /// server and all pods can be reached. Threads started later follow, so
    /// call it before the runtime starts.
    pub fn enter_netns(&self) -> Result<()> {
        if self.is_foreign() {
            return Ok(());
        }
        network::enter(&self.layout)
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// A client with all rights. Works inside the network namespace only.
    pub fn client(&self) -> Result<Client> {
        kubernetes::client(&self.layout)
    }

    /// One JSON object for each line: everything the API server was asked.
    pub fn audit_log(&self) -> PathBuf {
        self.layout.audit_log()
    }

    /// Loads an archive on all nodes under the name it was built with.
    pub fn load_image(&self, archive: &Path, name: &str) -> Result<()> {
        images::load(&self.layout, archive, name)
    }

    /// Loads an archive on all nodes under whatever name it has.
    pub fn load_archive(&self, archive: &Path) -> Result<()> {
        self.load_image(archive, &images::name_of(archive)?)
    }

    /// The folder on the host of a node's volume; made when it is missing.
    pub fn volume_dir(&self, node: Node, name: &str) -> Result<PathBuf> {
        Ok(self.volume(node, name)?.folder().to_owned())
    }

    pub fn volume(&self, node: Node, name: &str) -> Result<Volume> {
        ensure!(!self.is_foreign(), "the volumes of a cluster that is no bed cannot be reached");
        Volume::ensure(&self.layout, node, name)
    }

    /// A volume that was made earlier.
    pub fn existing_volume(&self, node: Node, name: &str) -> Result<Volume> {
        let folder = self.layout.volume(node, name);
        ensure!(folder.exists(), "there is no volume {name:?} on {node}: {} does not exist", folder.display());
        self.volume(node, name)
    }

    /// Runs kubectl with all rights and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        command::run(collect::kubectl(&self.layout).args(arguments))
    }

    /// Builds Helm, or finds it built, and puts it beside kubectl. Not from inside the bed's network, which has no Go proxy.
    pub fn ensure_helm(&self) -> Result<()> {
        command::make_folder(&self.layout.programs())?;
        components::link(&components::helm(&self.layout)?, &self.layout.program("helm"))
    }

    /// Runs Helm with all rights and returns what it printed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        command::run(collect::inside(&self.layout, "helm").args(arguments))
    }

    /// Writes everything that explains a failure below `folder`.
    pub fn collect(&self, folder: &Path) -> Result<()> {
        collect::collect(&self.layout, folder)
    }
}
