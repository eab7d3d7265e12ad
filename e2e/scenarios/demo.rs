//! `make demo`: three injuries, three healings, with what `kubectl get gpc,gpr -w` would show beside them.

use std::collections::BTreeMap;

use anyhow::Result;
use api::{GreenplumCluster, SegmentRecovery};
use kube::{Api, api::ListParams};
use tokio::task::JoinHandle;

use super::{Options, runner};
use crate::{
    bed::{Bed, say},
    fixture::{self, NAMESPACE},
};

/// What is shown, and in which order.
const INJURIES: [&str; 3] = ["crash-in-place", "primary-lost", "mirror-emptied"];

/// Runs the demo; `true` when everything healed.
pub async fn demo(bed: Bed, out: std::path::PathBuf) -> Result<bool> {
    fixture::destroy(&bed).await?; // else the last one's end would be the first thing to be seen
    let watch = watch(&bed)?;
    let options =
        Options { names: INJURIES.iter().map(|name| (*name).to_owned()).collect(), sample: false, out, stop_at_failure: true, keep: false };
    let healed = runner::run(bed, &options).await;
    watch.abort();
    let healed = healed?;
    if healed {
        say("every pair is in sync again and no acknowledged row is gone; `make bed-shell` to look around, `make bed-down` to end");
    }
    Ok(healed)
}

/// Prints each change of a cluster or a recovery as a line.
fn watch(bed: &Bed) -> Result<JoinHandle<()>> {
    let clusters: Api<GreenplumCluster> = Api::namespaced(bed.client()?, NAMESPACE);
    let recoveries: Api<SegmentRecovery> = Api::namespaced(bed.client()?, NAMESPACE);
    Ok(tokio::spawn(async move {
        let mut shown: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let mut lines = vec![];
            for cluster in clusters.list(&ListParams::default()).await.map(|l| l.items).unwrap_or_default() {
                lines.push((format!("gpc/{}", name(&cluster.metadata)), of_cluster(&cluster)));
            }
            for recovery in recoveries.list(&ListParams::default()).await.map(|l| l.items).unwrap_or_default() {
                lines.push((format!("gpr/{}", name(&recovery.metadata)), of_recovery(&recovery)));
            }
            for (object, line) in lines {
                if shown.get(&object) != Some(&line) {
                    say(format!("      {object:<28} {line}"));
                    shown.insert(object, line);
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }))
}

fn name(metadata: &kube::api::ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

fn of_cluster(cluster: &GreenplumCluster) -> String {
    cluster.status.as_ref().map_or_else(String::new, |status| format!("in sync {}: {}", status.in_sync, status.message))
}

fn of_recovery(recovery: &SegmentRecovery) -> String {
    let Some(status) = &recovery.status else { return "Pending".into() };
    let percent = status.percent.map_or_else(String::new, |percent| format!(" {percent} %"));
    let left = status.time_left.as_ref().map_or_else(String::new, |left| format!(", {left} left"));
    format!("{:?} {}{percent}{left}: {}", status.phase, status.type_.clone().unwrap_or_default(), status.message)
}
