//! What of a bed can be seen on the machine.

use std::{fs, path::Path};

use e2e::bed::Layout;

/// Everything that a bed might leave behind, outside its folder too.
#[derive(Debug, PartialEq, Eq)]
pub struct Remains {
    processes: Vec<String>,
    mounts: Vec<String>,
    namespaces: Vec<String>,
    cgroups: Vec<String>,
    runtime_sockets: Vec<String>,
    network_notes: Vec<String>,
    log_links: Vec<String>,
    kernel_settings: Vec<String>,
}

impl Remains {
    pub fn now(layout: &Layout) -> Self {
        let (folder, name) = (layout.folder().display().to_string(), layout.name().to_owned());
        let carries_name = |entries: Vec<String>| entries.into_iter().filter(|entry| entry.contains(&name)).collect();
        Self {
            processes: processes(&folder, &name),
            mounts: lines("/proc/self/mountinfo").into_iter().filter(|line| line.contains(&folder)).collect(),
            namespaces: carries_name(listed("/run/netns")),
            cgroups: listed("/sys/fs/cgroup").iter().flat_map(|one| carries_name_below(one, &name)).collect(),
            runtime_sockets: listed("/run/containerd/s"),
            network_notes: carries_name(listed("/var/lib/cni/results")),
            log_links: links_into("/var/log/containers", &folder),
            kernel_settings: ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"].map(setting).to_vec(),
        }
    }
}

fn processes(folder: &str, name: &str) -> Vec<String> {
    let pids = listed("/proc").into_iter().filter(|entry| entry.parse::<i32>().is_ok());
    let of_bed = |pid: &String| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&format!("{folder}/")) || cgroups.contains(&format!("/{name}/"))
    };
    pids.filter(of_bed).collect()
}

fn carries_name_below(hierarchy: &str, name: &str) -> Vec<String> {
    let place = Path::new("/sys/fs/cgroup").join(hierarchy);
    let place = place.display().to_string();
    listed(&place).into_iter().filter(|entry| entry == name).map(|entry| format!("{place}/{entry}")).collect()
}

fn links_into(place: &str, folder: &str) -> Vec<String> {
    let target = |name: &String| fs::read_link(Path::new(place).join(name));
    listed(place).into_iter().filter(|name| target(name).is_ok_and(|target| target.starts_with(folder))).collect()
}

fn setting(name: &str) -> String {
    format!("{name}={}", fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default().trim())
}

fn lines(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn listed(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
