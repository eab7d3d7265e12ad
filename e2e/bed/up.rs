//! Brings a bed up, or mends one that is up.

use std::{
    fs::{self, File},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use nix::{fcntl::Flock, unistd::Uid};

use super::{
    command::{self, make_folder, say},
    components, control,
    daemon::Daemon,
    images, kernel, kubernetes,
    layout::{Layout, Node},
    leftovers, network,
    node::{self, Programs},
    packages, pki,
    wait::wait_for,
};

/// A kubelet renews its lease every quarter of ten seconds.
const HEARD_WITHIN: SignedDuration = SignedDuration::from_secs(8);

pub fn up(layout: &Layout) -> Result<()> {
    let started = Instant::now();
    if !Uid::effective().is_root() {
        bail!("the bed makes namespaces and mounts: run it as root");
    }
    packages::ensure()?;
    let _lock = lock(layout)?;
    if !lives(layout)? && layout.folder().exists() {
        say("clearing what an earlier bed left");
        leftovers::clear(layout)?;
    }
    components::ensure(layout)?;
    for folder in [layout.logs(), layout.records(), layout.config("")] {
        make_folder(&folder)?;
    }
    kernel::remember(layout)?;
    pki::ensure(layout)?;
    network::ensure(layout)?;
    network::inside(layout, async || start(layout).await)?;
    let names = Node::all().map(|node| node.to_string()).collect::<Vec<_>>().join(" ");
    say(format!("up: {names} ready ({:.1} s)", started.elapsed().as_secs_f32()));
    Ok(())
}

/// Held by whoever changes a bed.
pub fn lock(layout: &Layout) -> Result<Flock<File>> {
    command::lock(&layout.cache().join("locks").join(layout.name()), &layout.folder().display().to_string())
}

/// Whether there is a bed to mend: its networks exist and a process of the
/// control plane still runs. Everything else can be started again on its state.
pub fn lives(layout: &Layout) -> Result<bool> {
    if !network::exists(layout) || !layout.kubeconfig().exists() {
        return Ok(false);
    }
    let daemons = control::storage(layout)?;
    Ok(daemons.iter().any(|daemon| daemon.pid(layout).is_some()))
}

async fn start(layout: &Layout) -> Result<()> {
    let [etcd, api_server] = control::storage(layout)?;
    etcd.ensure(layout)?;
    api_server.ensure(layout)?;
    let programs = Node::all().map(|node| Ok((node, Programs::of(layout, node)?))).collect::<Result<Vec<_>>>()?;
    for (_, programs) in &programs {
        programs.runtime.ensure(layout)?;
    }
    let client = kubernetes::client(layout)?;
    let needed = [&etcd, &api_server];
    wait_for(layout, "the API server", &needed, async || kubernetes::is_ready(&client).await).await?;
    let [controllers, scheduler, dns] = control::workers(layout)?;
    for daemon in [&controllers, &scheduler, &dns] {
        daemon.ensure(layout)?;
    }
    start_nodes(layout, &client, &programs).await?;
    kubernetes::register_storage(&client).await?;
    let work = async || kubernetes::controllers_work(&client).await;
    wait_for(layout, "the controllers", &[&controllers, &scheduler], work).await?;
    wait_for(layout, "the cluster's DNS", &[&dns], async || Ok(answers(control::DNS_READY).await)).await
}

async fn start_nodes(layout: &Layout, client: &Client, programs: &[(Node, Programs)]) -> Result<()> {
    for (node, programs) in programs {
        wait_for_runtime(layout, *node, &programs.runtime).await?;
    }
    images::ensure_pause(layout)?;
    let now = Timestamp::now();
    let mut heard_since = Vec::new();
    for (node, programs) in programs {
        release_kept_down(layout, *node)?;
        let started = programs.kubelet.ensure(layout)?;
        programs.proxy.ensure(layout)?;
        heard_since.push(if started { now } else { now - HEARD_WITHIN });
    }
    for ((node, programs), since) in programs.iter().zip(heard_since) {
        wait_for_node(layout, client, *node, programs, since).await?;
    }
    Ok(())
}

/// The kubelet gives up at once when no runtime answers.
pub async fn wait_for_runtime(layout: &Layout, node: Node, runtime: &Daemon) -> Result<()> {
    let what = format!("the container runtime of {node}");
    wait_for(layout, &what, &[runtime], async || node::runtime_answers(layout, node)).await
}

pub async fn wait_for_node(layout: &Layout, client: &Client, node: Node, programs: &Programs, since: Timestamp) -> Result<()> {
    let proxy = format!("{}:10256", node.address());
    let daemons = [&programs.kubelet, &programs.proxy, &programs.runtime];
    wait_for(layout, &format!("node {node}"), &daemons, async || {
        Ok(kubernetes::node_lives(client, node, since).await? && answers(&proxy).await)
    })
    .await
}

/// A test that died cannot release what it kept down.
fn release_kept_down(layout: &Layout, node: Node) -> Result<()> {
    let folder = layout.kept_down(node);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

async fn answers(address: &str) -> bool {
    let connection = tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(address));
    matches!(connection.await, Ok(Ok(_)))
}
