//! What can go wrong, as functions with names. What is hurt is found by the
//! pod's identity and never by a process name alone.

mod container;
mod keep_down;
mod node;
mod operator;
mod pod_network;
mod postgres;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use self::{
    container::Container,
    keep_down::{KeptDown, keep_down, lose_node},
    node::{cut_network, heal_network, start_node, stop_node},
    operator::{delete_operator, kill_operator, leader, suspend_operator},
    pod_network::{CutOff, Translated, cut_pod, translate},
    postgres::{Asleep, freeze, kill_postmaster, stop_postgres_group, wake_postgres_group},
};
use super::{Bed, Volume, proc};

/// A process that has a file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// As the host counts.
    pub pid: i32,
    pub group: i32,
}

/// Deletes a pod as a user would. Whatever has its name when this returns is
/// another pod, or the same one on its way out.
pub async fn delete_pod(bed: &Bed, namespace: &str, name: &str) -> Result<()> {
    delete(bed, namespace, name, DeleteParams::default()).await
}

/// Deletes a pod without a grace period.
pub async fn delete_pod_now(bed: &Bed, namespace: &str, name: &str) -> Result<()> {
    delete(bed, namespace, name, DeleteParams::default().grace_period(0)).await
}

async fn delete(bed: &Bed, namespace: &str, name: &str, how: DeleteParams) -> Result<()> {
    let pods = Api::<Pod>::namespaced(bed.client()?, namespace);
    let pod = pods.get(name).await.with_context(|| format!("there is no pod {namespace}/{name} to delete"))?;
    let this_one = Preconditions { uid: pod.metadata.uid, resource_version: None };
    pods.delete(name, &how.preconditions(this_one)).await.with_context(|| format!("cannot delete the pod {namespace}/{name}"))?;
    Ok(())
}

/// The processes that have the volume's lock open: one process group at most,
/// if the rule of one writer holds.
pub fn lock_holders(volume: &Volume) -> Vec<Holder> {
    holders(&volume.folder().join(".gpheal/lock"))
}

/// Containers see the file under another path, so only its identity counts.
fn holders(file: &Path) -> Vec<Holder> {
    let Ok(wanted) = fs::metadata(file) else { return Vec::new() };
    let name = file.file_name().unwrap_or_default();
    let is_it = |link: &Path, target: &Path| {
        target.file_name() == Some(name) && fs::metadata(link).is_ok_and(|open| (open.dev(), open.ino()) == (wanted.dev(), wanted.ino()))
    };
    let holds = |pid: &i32| proc::open_files(*pid).iter().any(|(link, target)| is_it(link, target));
    let found = proc::all().into_iter().filter(holds);
    found.filter_map(|pid| Some(Holder { pid, group: proc::stat(pid)?.group })).collect()
}

/// Sends a signal to a process that may be gone meanwhile.
fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Kills whatever `processes` finds until it finds nothing.
fn kill_until_none(what: &str, processes: impl Fn() -> Result<Vec<i32>>) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let left: Vec<_> = processes()?.into_iter().filter(|pid| proc::lives(*pid)).collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "processes {left:?} of {what} outlive SIGKILL; see dmesg");
        for pid in left {
            send(pid, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_an_open_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(&path, "").unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let held_by_us = || holders(&path).iter().any(|holder| holder.pid == own);
        assert!(!held_by_us());
        let file = fs::File::open(&path).unwrap();
        assert!(held_by_us());
        drop(file);
    }

    #[test]
    fn another_file_of_the_same_name_is_not_it() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, other) = (one.path().join("lock"), two.path().join("lock"));
        fs::write(&path, "").unwrap();
        fs::write(&other, "").unwrap();
        let _open = fs::File::open(&other).unwrap();
        assert_eq!(holders(&path), []);
    }
}
