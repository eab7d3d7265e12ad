//! Where everything of a bed lies and what it is called.

use std::{
    env,
    fmt::{self, Display},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

const DEFAULT_FOLDER: &str = "/var/lib/gpheal-bed";
const DEFAULT_CACHE: &str = "/var/cache/gpheal";
const NODES: u8 = 3;

/// The address of the control plane, on the bridge that joins the nodes.
pub const CONTROL_ADDRESS: &str = "10.200.0.1";
pub const POD_RANGE: &str = "10.244.0.0/16";
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// One of the bed's nodes, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(u8);

impl Node {
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        (1..=NODES).map(Self)
    }

    /// The node called `name`, as in a pod's `spec.nodeName`.
    pub fn named(name: &str) -> Result<Self> {
        Self::all()
            .find(|node| node.to_string() == name)
            .with_context(|| format!("the bed has no node {name:?}: its nodes are n1 to n{NODES}"))
    }

    pub fn number(self) -> u8 {
        self.0
    }

    pub fn address(self) -> String {
        format!("10.200.0.1{}", self.0)
    }

    pub fn pod_subnet(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }
}

impl Display for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "n{}", self.0)
    }
}

/// The folder of a bed, the cache it shares with others, and the name that its
/// namespaces and cgroups carry so that two beds can live on one machine.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
    cache: PathBuf,
    name: String,
    /// The kubeconfig of a cluster that is no bed of ours.
    foreign: Option<PathBuf>,
}

impl Layout {
    /// The bed that `GPHEAL_BED` and `GPHEAL_CACHE` point at.
    pub fn from_env() -> Result<Self> {
        let folder = absolute("GPHEAL_BED", DEFAULT_FOLDER)?;
        let cache = absolute("GPHEAL_CACHE", DEFAULT_CACHE)?;
        Ok(Self { name: name_of(&folder), folder, cache, foreign: None })
    }

    /// A bed of its own in another folder, with the same cache.
    pub fn elsewhere(folder: &Path) -> Result<Self> {
        Ok(Self { name: name_of(folder), folder: folder.to_owned(), ..Self::from_env()? })
    }

    /// Of a cluster that is reached by its kubeconfig alone.
    #[must_use]
    pub fn of_foreign(self, kubeconfig: PathBuf) -> Self {
        Self { foreign: Some(kubeconfig), ..self }
    }

    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The name of the bed, of its control plane's network namespace, of its cgroup.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn node_network(&self, node: Node) -> String {
        format!("{}-{node}", self.name)
    }

    pub fn network_path(network: &str) -> PathBuf {
        Path::new("/run/netns").join(network)
    }

    pub fn networks(&self) -> Vec<String> {
        let nodes = Node::all().map(|node| self.node_network(node));
        std::iter::once(self.name.clone()).chain(nodes).collect()
    }

    pub fn programs(&self) -> PathBuf {
        self.folder.join("bin")
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    pub fn pki(&self, file: &str) -> PathBuf {
        self.folder.join("pki").join(file)
    }

    pub fn config(&self, file: &str) -> PathBuf {
        self.folder.join("config").join(file)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.foreign.clone().unwrap_or_else(|| self.folder.join("kubeconfig"))
    }

    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.config(&format!("{user}.kubeconfig"))
    }

    pub fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub fn audit_log(&self) -> PathBuf {
        self.logs().join("audit.json")
    }

    /// Small files that say what runs: one for each process of the bed.
    pub fn records(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Claims of faults that keep a container down; see `KeptDown`.
    pub fn kept_down(&self, node: Node) -> PathBuf {
        self.folder.join("kept-down").join(node.to_string())
    }

    pub fn node(&self, node: Node) -> PathBuf {
        self.folder.join(node.to_string())
    }

    /// The runtime's socket. A unix socket's path is short by law (108 bytes).
    pub fn runtime_socket(&self, node: Node) -> PathBuf {
        self.node(node).join("containerd.sock")
    }

    pub fn volume(&self, node: Node, name: &str) -> PathBuf {
        self.node(node).join("volumes").join(name)
    }
}

fn absolute(variable: &str, default: &str) -> Result<PathBuf> {
    let path = PathBuf::from(env::var_os(variable).unwrap_or_else(|| default.into()));
    ensure!(path.is_absolute(), "{variable} must be an absolute path, not {}", path.display());
    Ok(path)
}

fn name_of(folder: &Path) -> String {
    if folder == Path::new(DEFAULT_FOLDER) {
        return "gpbed".to_owned();
    }
    let hash = hex::encode(Sha256::digest(folder.as_os_str().as_encoded_bytes()));
    format!("gpbed-{}", &hash[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beds_in_other_folders_have_other_names() {
        assert_eq!(name_of(Path::new(DEFAULT_FOLDER)), "gpbed");
        let (second, third) = (name_of(Path::new("/bed2")), name_of(Path::new("/bed3")));
        assert_ne!(second, third);
        assert!(second.starts_with("gpbed-"));
    }

    #[test]
    fn nodes_are_found_by_name() {
        assert_eq!(Node::named("n2").unwrap().address(), "10.200.0.12");
        assert!(Node::named("n9").is_err());
    }
}
