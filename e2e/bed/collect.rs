//! Keeps what explains a failure: objects, logs of every container, logs of
//! every component, the audit log.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use super::{
    command::{entries, make_folder, program, run, say},
    layout::{Layout, Node},
};

const KINDS: &str = "nodes,pods,jobs,events,statefulsets,deployments,persistentvolumeclaims,persistentvolumes,services,\
                     endpointslices,leases,configmaps";
const OURS: &str = "gpheal.io";

/// `kubectl` with all rights, from any network namespace.
pub fn kubectl(layout: &Layout) -> Command {
    inside(layout, "kubectl")
}

/// One of the bed's programs with all rights, from any network namespace. Where there is no bed, kubectl is the user's.
pub fn inside(layout: &Layout, name: &str) -> Command {
    if layout.is_foreign() {
        let place = layout.program(name);
        let mut command = if name == "kubectl" { Command::new(name) } else { Command::new(place) };
        command.arg("--kubeconfig").arg(layout.kubeconfig());
        return command;
    }
    let network = format!("--net={}", Layout::network_path(layout.name()).display());
    let mut command = program("nsenter", [network]);
    command.arg(layout.program(name)).arg("--kubeconfig").arg(layout.kubeconfig());
    command
}

/// Takes what can be had: a part that cannot is said, and the rest goes on.
pub fn collect(layout: &Layout, folder: &Path) -> Result<()> {
    make_folder(folder)?;
    let folder = fs::canonicalize(folder)?;
    let of_nodes: &[fn(&Layout, &Path) -> Result<()>] = if layout.is_foreign() { &[] } else { &[container_logs, component_logs] };
    for part in [&[objects as fn(&Layout, &Path) -> Result<()>], of_nodes].concat() {
        if let Err(error) = part(layout, &folder) {
            say(format!("not collected: {error:#}"));
        }
    }
    say(format!("collected into {}", folder.display()));
    Ok(())
}

fn objects(layout: &Layout, folder: &Path) -> Result<()> {
    let folder = folder.join("objects");
    make_folder(&folder)?;
    let ask = |arguments: &[&str]| run(kubectl(layout).arg("--request-timeout=20s").args(arguments));
    let own = ask(&["api-resources", "--api-group", OURS, "--output=name"])?;
    for kind in KINDS.split(',').chain(own.lines()) {
        let order = if kind == "events" { "--sort-by=.metadata.creationTimestamp" } else { "--sort-by=.metadata.name" };
        fs::write(folder.join(format!("{kind}.yaml")), ask(&["get", kind, "-A", "-o", "yaml", order])?)?;
        fs::write(folder.join(format!("{kind}.txt")), ask(&["get", kind, "-A", "-o", "wide", order])?)?;
    }
    Ok(())
}

/// From the nodes' disks, so that the logs of a dead node are among them and
/// those of the run before a container's last start.
fn container_logs(layout: &Layout, folder: &Path) -> Result<()> {
    for node in Node::all() {
        copy(&layout.node(node).join("pod-logs"), &folder.join("containers").join(node.to_string()))?;
    }
    Ok(())
}

fn component_logs(layout: &Layout, folder: &Path) -> Result<()> {
    copy(&layout.logs(), &folder.join("components"))
}

/// A file may vanish meanwhile; the others are worth having.
fn copy(from: &Path, to: &Path) -> Result<()> {
    make_folder(to)?;
    for entry in entries(from) {
        if let Err(error) = run(program("cp", ["-rL"]).arg(&entry).arg(to)) {
            say(format!("{error:#}"));
        }
    }
    Ok(())
}
