//! Everything at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use model::Role;
use serde_json::json;

use super::{
    Stage,
    stage::{HEALED_WITHIN, until},
};
use crate::fixture::{Catalog, NAMESPACE};

const COORDINATOR: [(&str, i32); 2] = [("gp-coordinator", 1), ("gp-standby", 1)];
const SEGMENTS: [(&str, i32); 2] = [("gp-primary", 3), ("gp-mirror", 3)];

pub async fn cold_start(stage: &mut Stage) -> Result<()> {
    let before = stage.wait_healthy().await?;
    known_in_sync(stage, &before).await?;
    all_gone(stage).await?;
    scale(stage, &SEGMENTS).await?;
    stage.mark("segments back, no coordinator");
    // With nobody to ask, each side decides by its volume and its peer.
    each_serves_its_role(stage, &before).await?;
    stage.mark("every segment serves its role without a coordinator");
    scale(stage, &COORDINATOR).await?;
    same_again(stage, &before).await?;
    all_gone(stage).await?;
    scale(stage, &COORDINATOR).await?;
    stage.mark("coordinator back, no segments");
    tokio::time::sleep(Duration::from_secs(8)).await; // longer than FTS needs to flip a cold cluster
    scale(stage, &SEGMENTS).await?;
    same_again(stage, &before).await
}

/// Every supervisor has read that its pair is in sync: that is what it goes by when there is nobody to ask.
async fn known_in_sync(stage: &mut Stage, catalog: &Catalog) -> Result<()> {
    for row in catalog.segments() {
        until(&format!("{} to know that it is in sync", row.pod()), HEALED_WITHIN, async || {
            let token: serde_json::Value = serde_json::from_slice(&stage.read_volume(row, ".gpheal/volume.json").await?)?;
            Ok(if token["peer"]["inSync"] == true { Ok(()) } else { Err(token["peer"].to_string()) })
        })
        .await?;
    }
    stage.mark("every supervisor knows that its pair is in sync");
    Ok(())
}

async fn each_serves_its_role(stage: &Stage, before: &Catalog) -> Result<()> {
    for row in before.segments() {
        let role = if row.is_acting_primary() { Role::Primary } else { Role::Mirror };
        stage.wait_page(row, "its role", |page| page.serves == Some(role)).await?;
    }
    Ok(())
}

async fn same_again(stage: &mut Stage, before: &Catalog) -> Result<()> {
    each_serves_its_role(stage, before).await?;
    // The rows are of before until FTS has looked, and a coordinator that waits for its segments has none; it is also
    // stopped once more before it serves.
    let coordinator = before.coordinator().context("no coordinator")?;
    stage.wait_page(coordinator, "dispatch", |page| page.serves == Some(Role::Primary)).await?;
    stage.cluster.request_probe().await?;
    let now = stage.wait_healthy().await?;
    stage.mark("every pair up and in sync");
    let roles = |catalog: &Catalog| catalog.segments().map(|r| (r.dbid, r.role)).collect::<Vec<_>>();
    ensure!(roles(&now) == roles(before), "roles flipped: {before} became {now}");
    ensure!(stage.all_recoveries().await?.is_empty(), "a recovery was made");
    Ok(())
}

async fn all_gone(stage: &mut Stage) -> Result<()> {
    let none = COORDINATOR.iter().chain(&SEGMENTS).map(|(name, _)| (*name, 0)).collect::<Vec<_>>();
    scale(stage, &none).await?;
    until("the pods to go away", HEALED_WITHIN, async || {
        let pods = stage.cluster.pods().list(&ListParams::default().labels("app.kubernetes.io/name=greenplum")).await?.items.len();
        Ok(if pods == 0 { Ok(()) } else { Err(format!("{pods} pods")) })
    })
    .await?;
    stage.mark("all pods gone");
    Ok(())
}

pub async fn scale(stage: &Stage, sets: &[(&str, i32)]) -> Result<()> {
    let api: Api<StatefulSet> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    let patches = sets.iter().map(|(name, replicas)| {
        let (api, patch) = (api.clone(), Patch::Merge(json!({ "spec": { "replicas": replicas } })));
        async move { api.patch_scale(name, &PatchParams::default(), &patch).await }
    });
    futures::future::try_join_all(patches).await?;
    Ok(())
}
