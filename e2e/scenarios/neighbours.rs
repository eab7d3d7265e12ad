//! Another cluster that the same operator looks after.

use anyhow::Result;
use api::GreenplumCluster;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::{
    Stage, copies,
    stage::{HEALED_WITHIN, until},
};

const NEIGHBOUR: &str = "hung";

/// One cluster heals while the coordinator of another never answers.
pub async fn hung_neighbour(stage: &mut Stage) -> Result<()> {
    let neighbour: GreenplumCluster = serde_json::from_value(json!({
        "apiVersion": "gpheal.io/v1alpha1", "kind": "GreenplumCluster", "metadata": { "name": NEIGHBOUR },
        "spec": {
            // Nobody has this address on the nodes' network: what is sent there is never answered.
            "coordinator": { "host": "10.200.0.99", "credentialsSecret": { "name": "demo-gpheal-operator" } },
            "segments": { "selector": { "matchLabels": { "app.kubernetes.io/name": "nobody" } } },
        },
    }))?;
    stage.clusters().create(&PostParams::default(), &neighbour).await?;
    let healed = heal_beside(stage).await;
    stage.clusters().delete(NEIGHBOUR, &DeleteParams::default()).await?;
    healed
}

async fn heal_beside(stage: &mut Stage) -> Result<()> {
    until("the neighbour to be reported as unreachable", HEALED_WITHIN, async || {
        let status = stage.clusters().get(NEIGHBOUR).await?.status.unwrap_or_default();
        let unreachable = status.conditions.iter().any(|c| c.type_ == "CoordinatorReachable" && c.status == "False");
        Ok(if unreachable { Ok(()) } else { Err(status.message) })
    })
    .await?;
    stage.mark("the neighbour's coordinator is reported as unreachable");
    let (_, mirror) = stage.pair(1).await?;
    copies::empty(stage, &mirror).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    stage.wait_healthy().await.map(drop)
}
