//! The bed's cgroups. Every process of a bed lives below one cgroup that
//! carries its name, so what must be killed is known without a guess.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::command::{entries, make_folder};

/// A cgroup by its path, in every hierarchy of this machine: one for each
/// controller with version 1, a single one with version 2. A hybrid machine
/// has both and its controllers with version 1; the container runtime then
/// makes a folder in the other one too.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: String,
    /// Where the controllers are.
    roots: Vec<PathBuf>,
    all_roots: Vec<PathBuf>,
}

impl Cgroup {
    pub fn new(path: impl Into<String>) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        let (first, second) = (hierarchies(&mounts, "cgroup"), hierarchies(&mounts, "cgroup2"));
        let all_roots = [first.clone(), second.clone()].concat();
        let roots = if first.is_empty() { second } else { first };
        ensure!(!roots.is_empty(), "no cgroup hierarchy is mounted below /sys/fs/cgroup; the bed needs one");
        Ok(Self { path: path.into(), roots, all_roots })
    }

    /// The folders that a process enters.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.join(&self.path)).collect()
    }

    fn everywhere(&self) -> Vec<PathBuf> {
        self.all_roots.iter().map(|root| root.join(&self.path)).collect()
    }

    /// Makes the cgroup where it is missing. The folders on the way to it get
    /// what a new one lacks: CPUs with version 1, controllers with version 2.
    pub fn make(&self) -> Result<()> {
        for root in &self.roots {
            let mut parent = root.clone();
            for part in self.path.split('/') {
                hand_down_controllers(&parent)?;
                let folder = parent.join(part);
                make_folder(&folder)?;
                hand_down_processors(&parent, &folder)?;
                parent = folder;
            }
        }
        Ok(())
    }

    /// Every process below this cgroup.
    pub fn processes(&self) -> Vec<i32> {
        let lists = self.everywhere().into_iter().flat_map(|folder| below(&folder));
        let texts = lists.filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
        let mut pids: Vec<i32> = texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills every process below this cgroup and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "processes {left:?} of cgroup {} outlive SIGKILL; see dmesg", self.path);
            for pid in left {
                // Gone meanwhile is what was wanted.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes the cgroup and all below it; its processes must be gone.
    pub fn remove(&self) -> Result<()> {
        for folder in self.everywhere().into_iter().filter(|folder| folder.exists()) {
            for inner in below(&folder).iter().rev() {
                remove_emptied(inner).with_context(|| format!("cannot remove the cgroup {}", inner.display()))?;
            }
        }
        Ok(())
    }
}

/// A process on its way out is in no list any more and keeps its cgroup busy for a moment.
fn remove_emptied(folder: &Path) -> io::Result<()> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < limit => thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

/// The folder and all below it, each before what it holds.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let inner = entries(&found[next]).into_iter().filter(|path| path.is_dir());
        found.extend(inner);
        next += 1;
    }
    found
}

/// Where the hierarchies of one version are mounted.
fn hierarchies(mounts: &str, version: &str) -> Vec<PathBuf> {
    mounts.lines().filter_map(|line| mount_point(line, version)).map(PathBuf::from).collect()
}

fn mount_point<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    let (place, source) = line.split_once(" - ")?;
    let point = place.split(' ').nth(4)?;
    (source.split(' ').next() == Some(kind) && point.starts_with("/sys/fs/cgroup")).then_some(point)
}

/// Version 2: a folder's children have the controllers that the folder names.
fn hand_down_controllers(parent: &Path) -> Result<()> {
    let Ok(available) = fs::read_to_string(parent.join("cgroup.controllers")) else { return Ok(()) };
    let control = parent.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    for controller in available.split_whitespace().filter(|name| !enabled.contains(name)) {
        fs::write(&control, format!("+{controller}")).with_context(|| format!("cannot enable {controller} in {}", control.display()))?;
    }
    Ok(())
}

/// Version 1: a new folder of the cpuset hierarchy has no CPU and takes no process.
fn hand_down_processors(parent: &Path, folder: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let target = folder.join(file);
        let empty = fs::read_to_string(&target).is_ok_and(|text| text.trim().is_empty());
        if empty && !folder.join("cgroup.controllers").exists() {
            let inherited = fs::read_to_string(parent.join(file))?;
            fs::write(&target, inherited.trim()).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 29 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                          31 29 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                          32 22 0:32 / /tmp rw - tmpfs tmpfs rw\n";

    #[test]
    fn the_versions_are_told_apart() {
        assert_eq!(hierarchies(HYBRID, "cgroup"), [PathBuf::from("/sys/fs/cgroup/cpu")]);
        assert_eq!(hierarchies(HYBRID, "cgroup2"), [PathBuf::from("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn a_unified_machine_has_one_hierarchy() {
        let mounts = "30 29 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(hierarchies(mounts, "cgroup2"), [PathBuf::from("/sys/fs/cgroup")]);
        assert!(hierarchies(mounts, "cgroup").is_empty());
    }
}
