//! The operator on the bed, installed as a user would: by the chart, with the cluster that it looks after.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use api::GreenplumCluster;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};

use super::stage::CLUSTER;
use crate::{
    bed::Bed,
    fixture::{self, apply, must_be_ours, product, wait_until},
};

/// Where the operator is installed; also the name of the release, and of what the chart makes.
pub const NAMESPACE: &str = "gpheal-system";
pub const RELEASE: &str = "gpheal";
const READY_WITHIN: Duration = Duration::from_mins(2);
/// What Helm writes on all that is its own.
const HELM: &str = "meta.helm.sh/release-name";

/// Installs the operator from this checkout's chart and hands it the fixture.
pub async fn install(bed: &Bed) -> Result<()> {
    by_chart(bed).await?;
    let client = bed.client()?;
    apply(&client, &text("config/samples/greenplumcluster.yaml")?).await?;
    let clusters: Api<GreenplumCluster> = Api::namespaced(client, fixture::NAMESPACE);
    let patch = Patch::Merge(json!({ "spec": { "healing": { "breaker": breaker() } } }));
    clusters.patch(CLUSTER, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// One instance is hurt more often within an hour here than the default lets it be repaired.
pub fn breaker() -> Value {
    json!({ "repairs": 100, "within": "1h" })
}

/// Installs or upgrades the release, and waits until every replica is ready and of this build.
pub async fn by_chart(bed: &Bed) -> Result<()> {
    let client = bed.client()?;
    if bed.is_foreign() {
        must_be_ours(&client, NAMESPACE).await?;
    }
    apply(&client, &text("config/namespace/namespace.yaml")?).await?;
    forget_other_ways(&client).await?;
    let image = product::image();
    let (repository, tag) = image.rsplit_once(':').context("the image has no tag")?;
    let values = format!(
        "image.repository={repository},image.tag={tag},secrets[0].namespace=demo,secrets[0].names={{demo-gpheal-operator,demo-tls}}"
    );
    let chart = path("charts/gpheal").display().to_string();
    let arguments = ["upgrade", "--install", RELEASE, &chart, "--namespace", NAMESPACE, "--take-ownership", "--set", &values];
    bed.helm(&arguments)?;
    // The tag is the same for every build, so that nothing of the deployment may have changed.
    deployments(&client).restart(RELEASE).await.context("the operator's deployment cannot be restarted")?;
    ready(&client).await
}

/// Waits until every replica is as it was wanted last, and ready.
pub async fn ready(client: &Client) -> Result<()> {
    let deployments = deployments(client);
    wait_until("the operators to be ready", READY_WITHIN, async || {
        let found = deployments.get(RELEASE).await?;
        let wanted = found.spec.and_then(|spec| spec.replicas);
        let (generation, status) = (found.metadata.generation, found.status.unwrap_or_default());
        let counts = [status.updated_replicas, status.ready_replicas, status.replicas];
        Ok(status.observed_generation >= generation && counts.iter().all(|count| *count == wanted))
    })
    .await
}

/// A deployment that was not made by Helm may select its pods in another way, which can never be changed.
async fn forget_other_ways(client: &Client) -> Result<()> {
    let deployments = deployments(client);
    let Some(found) = deployments.get_opt(RELEASE).await? else { return Ok(()) };
    if found.metadata.annotations.unwrap_or_default().contains_key(HELM) {
        return Ok(());
    }
    let with_pods = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    deployments.delete(RELEASE, &with_pods).await?;
    wait_until("the earlier operator to be gone", READY_WITHIN, async || Ok(deployments.get_opt(RELEASE).await?.is_none())).await
}

fn deployments(client: &Client) -> Api<Deployment> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// Takes the operators away, as a user does; definitions and objects stay.
pub async fn remove(bed: &Bed) -> Result<()> {
    bed.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE])?;
    wait_until("the operators to be gone", READY_WITHIN, async || Ok(pods(bed)?.list(&ListParams::default()).await?.items.is_empty())).await
}

/// The operators' pods.
pub fn pods(bed: &Bed) -> Result<Api<Pod>> {
    Ok(Api::namespaced(bed.client()?, NAMESPACE))
}

/// A path of this checkout.
pub fn path(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(below)
}

pub fn text(below: &str) -> Result<String> {
    let path = path(below);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}
