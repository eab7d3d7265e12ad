//! Removes all that a bed is made of, however it was left.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use super::{
    cgroup::Cgroup,
    command::{entries, say},
    kernel,
    layout::{Layout, Node},
    network, proc,
};

/// Where the container runtime's helpers and the kubelet leave things outside
/// of the folders they are given.
const RUNTIME_SOCKETS: &str = "/run/containerd/s";
const CNI_NOTES: &str = "/var/lib/cni/results";
const LOG_LINKS: &str = "/var/log/containers";

/// Ends and removes everything of the bed but the cache.
pub fn clear(layout: &Layout) -> Result<()> {
    let cgroup = Cgroup::new(layout.name())?;
    cgroup.kill()?;
    for node in Node::all() {
        forget_node(layout, node)?;
    }
    unmount(layout.folder())?;
    network::remove(layout)?;
    cgroup.remove()?;
    kernel::restore(layout)?;
    remove_empty(Path::new(RUNTIME_SOCKETS));
    remove_empty(Path::new("/run/containerd"));
    remove_folder(layout.folder())?;
    warn_of_guests(layout);
    Ok(())
}

/// Removes what of a node lies outside its folder and would outlive its
/// processes, as a reboot would.
pub fn forget_node(layout: &Layout, node: Node) -> Result<()> {
    let folder = layout.node(node);
    remove_sockets(&folder.join("run"))?;
    unmount(&folder)?;
    remove_folder(&folder.join("run"))?;
    let notes = format!("{}-", layout.node_network(node));
    remove_where(Path::new(CNI_NOTES), |path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&notes)))?;
    remove_where(Path::new(LOG_LINKS), |path| fs::read_link(path).is_ok_and(|target| target.starts_with(&folder)))
}

/// A shim that was killed leaves its socket; the task's folder says which it was.
fn remove_sockets(state: &Path) -> Result<()> {
    for task in entries(&state.join("io.containerd.runtime.v2.task/k8s.io")) {
        let Ok(address) = fs::read_to_string(task.join("address")) else { continue };
        let socket = Path::new(address.trim().trim_start_matches("unix://"));
        if socket.starts_with(RUNTIME_SOCKETS) && socket.exists() {
            fs::remove_file(socket).with_context(|| format!("cannot remove {}", socket.display()))?;
        }
    }
    Ok(())
}

fn unmount(folder: &Path) -> Result<()> {
    for point in proc::mounts_below(folder) {
        let problem = || format!("cannot unmount {}", point.display());
        umount2(&point, MntFlags::MNT_DETACH).with_context(problem)?;
    }
    Ok(())
}

fn remove_where(folder: &Path, unwanted: impl Fn(&PathBuf) -> bool) -> Result<()> {
    for path in entries(folder).into_iter().filter(unwanted) {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Others may use the folder too; then it is not empty and stays.
fn remove_empty(folder: &Path) {
    let _ = fs::remove_dir(folder);
}

/// A shell that somebody opened inside keeps a namespace that has no name any more.
fn warn_of_guests(layout: &Layout) {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let first = fs::read_link("/proc/1/ns/net").ok();
    let guests = proc::all().into_iter().filter(|pid| {
        let network = fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let kubeconfig = format!("KUBECONFIG={}", layout.kubeconfig().display());
        network != own && network != first && environment.split(|byte| *byte == 0).any(|entry| entry == kubeconfig.as_bytes())
    });
    for pid in guests {
        say(format!("a shell opened inside the bed is still there (pid {pid}); leave it to free its network"));
    }
}
