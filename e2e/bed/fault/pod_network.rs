//! The network of one pod alone.

use anyhow::{Context, Result};

use super::Container;
use crate::bed::{
    command::{line, program, run, say},
    layout::Layout,
};

/// A pod whose cable is unplugged: it runs on, nobody reaches it, and it reaches nobody. Plugged in again by `heal`, or
/// when this is dropped.
#[derive(Debug)]
pub struct CutOff {
    network: String,
    cable: String,
}

/// Unplugs the pod of a container at its node's end, so that it keeps its address and its routes.
pub fn cut_pod(container: &Container) -> Result<CutOff> {
    let pid = container.processes()?.first().copied().with_context(|| format!("nothing runs in {}", container.shown()))?;
    let inside = format!("--net=/proc/{pid}/ns/net");
    let own = run(&mut program("nsenter", [&inside, "ip", "-o", "link", "show", "eth0"]))?;
    let number = other_end(&own).with_context(|| format!("eth0 of {} has no other end: {own}", container.shown()))?;
    let network = container.layout().node_network(container.node());
    let links = run(&mut line(&format!("ip -n {network} -o link show")))?;
    let cable = name_of(&links, number).with_context(|| format!("{network} has no interface {number}: {links}"))?.to_owned();
    let cut = CutOff { network, cable };
    cut.set("down")?;
    Ok(cut)
}

/// Everybody who connects to one port of a pod arrives from the same address, until this ends or is dropped.
#[derive(Debug)]
pub struct Translated {
    inside: String,
    rule: String,
}

/// As a proxy or a NAT in front of it would: connections that are there already stay as they are.
pub fn translate(container: &Container, port: u16, address: &str) -> Result<Translated> {
    let pid = container.processes()?.first().copied().with_context(|| format!("nothing runs in {}", container.shown()))?;
    let rule = format!("INPUT -p tcp --dport {port} -j SNAT --to-source {address}");
    let translated = Translated { inside: format!("--net=/proc/{pid}/ns/net"), rule };
    translated.set("-A")?;
    Ok(translated)
}

impl Translated {
    pub fn end(self) {}

    fn set(&self, how: &str) -> Result<()> {
        run(&mut line(&format!("nsenter {} iptables -t nat {how} {}", self.inside, self.rule))).map(drop)
    }
}

impl Drop for Translated {
    fn drop(&mut self) {
        if let Err(error) = self.set("-D") {
            say(format!("connections stay translated ({}): {error:#}", self.rule));
        }
    }
}

impl CutOff {
    pub fn heal(self) {}

    fn set(&self, state: &str) -> Result<()> {
        run(&mut line(&format!("ip -n {} link set {} {state}", self.network, self.cable))).map(drop)
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        // With its pod the cable goes, too.
        if Layout::network_path(&self.network).exists()
            && let Err(error) = self.set("up")
        {
            say(format!("{} of {} stays unplugged: {error:#}", self.cable, self.network));
        }
    }
}

/// Of `2: eth0@if7: <…`.
fn other_end(link: &str) -> Option<&str> {
    link.split_once("@if")?.1.split_once(':').map(|(number, _)| number)
}

/// Of lines such as `7: veth1a2b@if2: <…`.
fn name_of<'a>(links: &'a str, number: &str) -> Option<&'a str> {
    let rest = links.lines().find_map(|line| line.trim_start().strip_prefix(number)?.strip_prefix(": "))?;
    rest.split(['@', ':']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_cable_are_found() {
        assert_eq!(other_end("2: eth0@if17: <BROADCAST> mtu 1500"), Some("17"));
        let links = "1: lo: <LOOPBACK>\n7: veth7@if2: <UP>\n17: veth1a2b@if2: <UP>\n";
        assert_eq!(name_of(links, "17"), Some("veth1a2b"));
        assert_eq!(name_of(links, "3"), None);
    }
}
