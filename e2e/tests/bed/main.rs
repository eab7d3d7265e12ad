//! A bed from up to down, with everything that is done to it on the way. It
//! needs root and a few minutes and has a bed of its own, beside the one that
//! the scenarios use: `cargo test -p gpheal-e2e --test bed -- --ignored`.

mod faults;
mod remains;
mod workload;

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::bed::{Bed, Layout};

use crate::{remains::Remains, workload::Workload};

const FOLDER: &str = "/var/lib/gpheal-bed-test";

#[test]
#[ignore = "brings up a bed of its own: root, and a few minutes"]
fn a_bed_serves_is_hurt_is_mended_and_leaves_nothing() -> Result<()> {
    let layout = Layout::elsewhere(Path::new(FOLDER))?;
    Bed::down_at(&layout)?;
    let before = Remains::now(&layout);
    let outcome = live(&layout);
    if let (Err(_), Ok(bed)) = (&outcome, Bed::attach_to(layout.clone())) {
        bed.collect(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("bed"))?;
    }
    Bed::down_at(&layout)?;
    outcome?;
    assert_eq!(Remains::now(&layout), before, "something of the bed is left");
    assert!(!layout.folder().exists());
    Ok(())
}

fn live(layout: &Layout) -> Result<()> {
    let bed = Bed::up_at(layout.clone())?;
    let again = Instant::now();
    Bed::up_at(layout.clone())?;
    ensure!(again.elapsed() < Duration::from_secs(20), "a second `up` took {:?}", again.elapsed());

    Workload::load_image(&bed)?;
    inside(&bed, async |workload| {
        workload.deploy().await?;
        workload.resolves_names_and_reaches_services().await?;
        faults::postmaster_is_killed(workload).await?;
        faults::postgres_sleeps_and_wakes(workload).await?;
        faults::containers_are_kept_down(workload).await?;
        faults::pod_is_deleted(workload).await?;
        faults::operator_is_killed(workload).await?;
        faults::volumes_are_hurt(workload)?;
        faults::network_is_cut_and_healed(workload).await?;
        faults::node_is_lost_and_boots(workload).await
    })?;
    mends_what_died(&bed)?;
    clears_what_was_killed(&bed)
}

/// Some processes are dead: the same bed goes on, with all its objects.
fn mends_what_died(bed: &Bed) -> Result<()> {
    kill(bed, &["kube-apiserver", "kubelet-n1", "containerd-n2", "kube-proxy-n3"])?;
    Bed::up_at(bed.layout().clone())?;
    inside(bed, async |workload| workload.is_ready().await)
}

/// All its own processes are dead, containers live on: a new bed begins.
fn clears_what_was_killed(bed: &Bed) -> Result<()> {
    let mut all = vec!["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns"];
    let of_nodes: Vec<_> =
        ["containerd", "kubelet", "kube-proxy"].iter().flat_map(|name| (1..=3).map(move |node| format!("{name}-n{node}"))).collect();
    all.extend(of_nodes.iter().map(String::as_str));
    kill(bed, &all)?;
    Bed::up_at(bed.layout().clone())?;
    let namespaces = bed.kubectl(&["get", "namespaces", "-o", "name"])?;
    ensure!(!namespaces.contains(workload::NAMESPACE), "the old bed's objects are still there");
    Ok(())
}

/// Ends daemons as an outsider would, by the pids that the bed noted.
fn kill(bed: &Bed, daemons: &[&str]) -> Result<()> {
    for daemon in daemons {
        let note = std::fs::read_to_string(bed.layout().records().join(format!("{daemon}.json")))?;
        let note: serde_json::Value = serde_json::from_str(&note)?;
        let pid = note["pid"].as_i64().with_context(|| format!("no pid of {daemon} is noted"))?;
        ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success(), "{daemon} did not run");
    }
    Ok(())
}

/// On a thread of its own, since that enters the bed's network.
fn inside<W>(bed: &Bed, work: W) -> Result<()>
where
    W: AsyncFnOnce(&Workload) -> Result<()> + Send,
{
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            bed.enter_netns()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { work(&Workload::new(bed)?).await })
        });
        worker.join().expect("the worker's own message is above")
    })
}
