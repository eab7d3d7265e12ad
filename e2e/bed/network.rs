//! The bed's network: one namespace for the control plane with a bridge, one
//! for each node with a cable to it. Nothing leads out of the machine.

use std::{
    fs::{self, File},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::{
    command::{line, program, run},
    layout::{CONTROL_ADDRESS, Layout, Node},
};

const BRIDGE: &str = "br0";

/// Whether all the namespaces are there.
pub fn exists(layout: &Layout) -> bool {
    layout.networks().iter().all(|network| Layout::network_path(network).exists())
}

/// Makes what is missing and heals what a fault cut.
pub fn ensure(layout: &Layout) -> Result<()> {
    ensure_control(layout.name())?;
    for node in Node::all() {
        ensure_node(layout, node)?;
        heal(layout, node)?;
    }
    Ok(())
}

/// Takes the calling thread, and those it starts later, into the control
/// plane's namespace.
pub fn enter(layout: &Layout) -> Result<()> {
    let path = Layout::network_path(layout.name());
    let file = File::open(&path).with_context(|| format!("there is no network namespace {}: run `make bed-up`", layout.name()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}; this needs root", path.display()))
}

/// Runs a piece of work that waits inside the control plane's namespace, on a
/// thread of its own, so that the caller stays where it is.
pub fn inside<T, W>(layout: &Layout, work: W) -> Result<T>
where
    T: Send,
    W: AsyncFnOnce() -> Result<T> + Send,
{
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            enter(layout)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        });
        worker.join().map_err(|_| anyhow!("the bed's worker panicked; its message is above"))?
    })
}

/// Unplugs the node's cable.
pub fn cut(layout: &Layout, node: Node) -> Result<()> {
    run(&mut line(&format!("ip -n {} link set {} down", layout.name(), cable(node)))).map(drop)
}

pub fn heal(layout: &Layout, node: Node) -> Result<()> {
    run(&mut line(&format!("ip -n {} link set {} up", layout.name(), cable(node)))).map(drop)
}

/// Deletes the namespaces and with them every interface and rule inside.
pub fn remove(layout: &Layout) -> Result<()> {
    for network in layout.networks() {
        if Layout::network_path(&network).exists() {
            run(&mut line(&format!("ip netns del {network}")))?;
        }
    }
    Ok(())
}

fn ensure_control(network: &str) -> Result<()> {
    if Layout::network_path(network).exists() {
        return Ok(());
    }
    run(&mut line(&format!("ip netns add {network}")))?;
    configure(
        network,
        &[
            "link set lo up".to_owned(),
            format!("link add {BRIDGE} type bridge"),
            format!("addr add {CONTROL_ADDRESS}/24 dev {BRIDGE}"),
            format!("link set {BRIDGE} up"),
        ],
    )?;
    let routes: Vec<_> = Node::all().map(|node| format!("route add {} via {}", node.pod_subnet(), node.address())).collect();
    configure(network, &routes)?;
    forward_packets(network)
}

fn ensure_node(layout: &Layout, node: Node) -> Result<()> {
    let (control, network) = (layout.name(), layout.node_network(node));
    if Layout::network_path(&network).exists() {
        return Ok(());
    }
    run(&mut line(&format!("ip netns add {network}")))?;
    let cable = cable(node);
    run(&mut line(&format!("ip link add {cable} netns {control} type veth peer name eth0 netns {network}")))?;
    run(&mut line(&format!("ip -n {control} link set {cable} master {BRIDGE}")))?;
    let mut steps = vec![
        "link set lo up".to_owned(),
        format!("addr add {}/24 dev eth0", node.address()),
        "link set eth0 up".to_owned(),
        format!("route add default via {CONTROL_ADDRESS}"),
    ];
    let others = Node::all().filter(|other| *other != node);
    steps.extend(others.map(|other| format!("route add {} via {}", other.pod_subnet(), other.address())));
    configure(&network, &steps)?;
    forward_packets(&network)
}

fn configure(network: &str, steps: &[String]) -> Result<()> {
    for step in steps {
        run(&mut line(&format!("ip -n {network} {step}")))?;
    }
    Ok(())
}

/// Packets go from node to pod, and those between pods of one node pass the
/// service rules too (the second setting exists only with the bridge filter).
fn forward_packets(network: &str) -> Result<()> {
    let inside = format!("--net={}", Layout::network_path(network).display());
    for setting in ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables"] {
        let file = format!("/proc/sys/net/{setting}");
        if fs::exists(&file)? {
            run(&mut program("nsenter", [&inside, "sh", "-c", &format!("echo 1 >{file}")]))?;
        }
    }
    Ok(())
}

fn cable(node: Node) -> String {
    format!("veth{}", node.number())
}
