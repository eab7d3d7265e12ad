//! The Debian packages that the bed uses.

use std::{collections::HashSet, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::command::{line, program, run, say};

const NEEDED: [&str; 12] = [
    "buildah",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "ethtool",
    "iproute2",
    "ipset",
    "iptables",
    "mmdebstrap",
    "openssl",
    "runc",
    "socat",
];

/// Installs what is missing.
pub fn ensure() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    say(format!("installing Debian packages: {}", missing.join(" ")));
    apt(&["update", "-q"])?;
    apt(&[&["install", "-qy", "--no-install-recommends"], missing.as_slice()].concat())?;
    if missing.contains(&"containerd") {
        disable_service()?;
    }
    Ok(())
}

fn missing() -> Result<Vec<&'static str>> {
    let query = ["-W", "-f", "${Package} ${db:Status-Status}\n"];
    let listed = Command::new("dpkg-query").args(query).args(NEEDED).output();
    // dpkg-query complains about those it does not know; the others are listed all the same.
    let listed = listed.context("cannot run dpkg-query: the bed is for Debian 12")?.stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let installed: HashSet<&str> = listed.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(NEEDED.into_iter().filter(|package| !installed.contains(package)).collect())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = program("apt-get", arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    match run(&mut command) {
        Ok(_) => Ok(()),
        Err(error) => bail!("{error:#}\nthe bed needs root and a Debian mirror for: {}", NEEDED.join(" ")),
    }
}

/// The package starts a containerd of its own, which the bed has no use for.
/// One that was here before is somebody's and stays.
fn disable_service() -> Result<()> {
    if Path::new("/run/systemd/system").exists() {
        run(&mut line("systemctl disable --now containerd.service"))?;
    }
    Ok(())
}
