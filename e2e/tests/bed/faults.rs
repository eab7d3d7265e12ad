//! Each fault, seen to do what its name says and to be undone.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use e2e::bed::{Node, fault};
use k8s_openapi::api::core::v1::Node as NodeObject;
use serde_json::json;

use crate::workload::{self, NAMESPACE, Workload, is_ready, pod_spec};

const SOON: Duration = Duration::from_secs(30);

/// The postmaster has another pid, its container has not ended.
pub async fn postmaster_is_killed(workload: &Workload<'_>) -> Result<()> {
    let container = workload.container("w-0").await?;
    let restarts = workload.restarts("w-0").await?;
    let killed = fault::kill_postmaster(&container)?;
    workload.until("another postmaster", SOON, async || Ok(container.postmaster()? != killed)).await?;
    ensure!(workload.restarts("w-0").await? == restarts, "the container ended with its postmaster");
    Ok(())
}

pub async fn postgres_sleeps_and_wakes(workload: &Workload<'_>) -> Result<()> {
    let container = workload.container("w-1").await?;
    let asleep = fault::stop_postgres_group(&container)?;
    let pids = asleep.pids();
    ensure!(pids.len() >= 2, "only {pids:?} were stopped");
    ensure!(pids.iter().all(|pid| state(*pid) == Some('T')), "not all of {pids:?} are stopped");
    asleep.wake();
    workload.until("all awake", SOON, async || Ok(pids.iter().all(|pid| state(*pid) == Some('S')))).await
}

/// Two containers of one node: the kubelet wakes with the last release.
pub async fn containers_are_kept_down(workload: &Workload<'_>) -> Result<()> {
    let container = workload.container("w-0").await?;
    let restarts = workload.restarts("w-0").await?;
    let first = fault::keep_down(&container)?;
    let second = fault::keep_down(&container)?;
    first.release()?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(container.processes()?.is_empty(), "the container came back while it was kept down");
    drop(second);
    let back = async || Ok(workload.restarts("w-0").await? > restarts && container.postmaster().is_ok());
    workload.until("the container's return", SOON, back).await?;
    workload.is_ready().await
}

pub async fn pod_is_deleted(workload: &Workload<'_>) -> Result<()> {
    let uid = async || Ok::<_, anyhow::Error>(workload.pods().get("w-2").await?.metadata.uid);
    let old = uid().await?;
    fault::delete_pod(workload.bed, NAMESPACE, "w-2").await?;
    workload.until("another pod", SOON, async || Ok(uid().await? != old)).await?;
    workload.is_ready().await
}

/// A pod with the operator's name and label, in its namespace.
pub async fn operator_is_killed(workload: &Workload<'_>) -> Result<()> {
    let (name, labels) = ("gpheal-system", json!({ "app.kubernetes.io/name": "gpheal" }));
    workload.bed.kubectl(&["create", "namespace", name])?;
    ensure!(fault::kill_operator(workload.bed).await.is_err(), "an operator was found where none is");
    let spec = pod_spec("exec sleep 100000", "Always", &json!([]));
    let metadata = json!({ "name": "operator", "namespace": name, "labels": labels });
    workload.create(&json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }))?;
    let pods = workload.pods_of(name);
    workload.until("the operator", SOON, async || Ok(is_ready(&pods.get("operator").await?))).await?;
    fault::kill_operator(workload.bed).await?;
    let restarted = async || Ok(workload::restarts_of(&pods.get("operator").await?) > 0);
    workload.until("the operator's restart", SOON, restarted).await?;
    fault::delete_operator(workload.bed).await?;
    workload.until("the operator's end", SOON, async || Ok(pods.get_opt("operator").await?.is_none())).await
}

pub fn volumes_are_hurt(workload: &Workload<'_>) -> Result<()> {
    let volume = workload.volume(Node::named("n3")?)?;
    let (file, folder) = (volume.folder().join("inner/file"), volume.folder().join("inner"));
    fs::create_dir(&folder)?;
    fs::write(&file, "good")?;
    let copy = volume.copy()?;
    volume.damage_file("inner/file")?;
    ensure!(fs::read(&file)? == [0xA5; 4], "the file is as it was");
    volume.remove_data_dir("inner")?;
    ensure!(!folder.exists() && volume.folder().join("since").exists(), "not the folder alone is gone");
    ensure!(volume.remove_data_dir("../n2").is_err(), "a path out of the volume was taken");
    volume.empty()?;
    ensure!(fs::read_dir(volume.folder())?.next().is_none(), "the volume is not empty");
    volume.restore(&copy)?;
    ensure!(fs::read_to_string(&file)? == "good", "the copy is not back");
    let open = fs::File::open(&file)?;
    fs::create_dir_all(volume.folder().join(".gpheal"))?;
    ensure!(fault::lock_holders(&volume).is_empty(), "somebody holds a lock that does not exist");
    fs::hard_link(&file, volume.folder().join(".gpheal/lock"))?;
    drop(open);
    let _held = fs::File::open(volume.folder().join(".gpheal/lock"))?;
    ensure!(fault::lock_holders(&volume).len() == 1, "the holder of the lock is not seen");
    Ok(())
}

pub async fn network_is_cut_and_healed(workload: &Workload<'_>) -> Result<()> {
    let node = Node::named("n2")?;
    let address = format!("{}:10256", node.address());
    let answers = async || matches!(tokio::time::timeout(Duration::from_secs(1), connect(&address)).await, Ok(Ok(_)));
    ensure!(answers().await, "{node} does not answer before the cut");
    fault::cut_network(workload.bed, node)?;
    ensure!(!answers().await, "{node} answers over a cut cable");
    fault::heal_network(workload.bed, node)?;
    workload.until("the node's answer", SOON, async || Ok(answers().await)).await
}

pub async fn node_is_lost_and_boots(workload: &Workload<'_>) -> Result<()> {
    let node = Node::named("n2")?;
    let restarts = workload.restarts("w-1").await?;
    fault::stop_node(workload.bed, node)?;
    workload.until("the loss of the node", Duration::from_secs(40), async || Ok(!ready(workload, node).await?)).await?;
    fault::start_node(workload.bed, node).await?;
    ensure!(ready(workload, node).await?, "{node} is not ready after its start");
    workload.until("the pod's return", Duration::from_mins(1), async || Ok(workload.restarts("w-1").await? > restarts)).await?;
    workload.is_ready().await
}

async fn connect(address: &str) -> std::io::Result<tokio::net::TcpStream> {
    tokio::net::TcpStream::connect(address).await
}

async fn ready(workload: &Workload<'_>, node: Node) -> Result<bool> {
    let object: NodeObject = workload.nodes().get(&node.to_string()).await?;
    let conditions = object.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim().chars().next()
}
