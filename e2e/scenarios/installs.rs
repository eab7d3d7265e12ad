//! The other way to install, and the samples: what a user would apply has to be accepted, and to heal.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Container, Namespace, PodSpec, Probe},
    rbac::v1::ClusterRole,
};
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};

use super::{
    Stage, copies,
    operator::{self, NAMESPACE as SYSTEM, RELEASE, path},
    rights,
    stage::{HEALED_WITHIN, until},
};
use crate::fixture::{apply, supervised};

/// Where the patch of a StatefulSet is tried.
const SCRATCH: &str = "gpheal-samples";
/// The container of postgres in the fixture.
const CONTAINER: &str = "greenplum";
const OVERLAY: &str = "config/samples/overlay";

/// Installed by kustomize for one namespace, with no right elsewhere, it heals there.
pub async fn kustomize(stage: &mut Stage) -> Result<()> {
    stage.bed.helm(&["uninstall", RELEASE, "--namespace", SYSTEM, "--wait"])?;
    stage.mark("chart uninstalled");
    let healed = heal_by_kustomize(stage).await;
    away_with_kustomize(stage).await?;
    operator::by_chart(&stage.bed).await?;
    stage.mark("installed by the chart again");
    healed
}

async fn heal_by_kustomize(stage: &mut Stage) -> Result<()> {
    let client = stage.cluster.kubernetes().clone();
    let left = stage.clusters().get(super::stage::CLUSTER).await;
    ensure!(left.is_ok(), "the uninstallation took the cluster's object with it: {left:?}");
    for folder in ["crds", OVERLAY] {
        stage.bed.kubectl(&["apply", "--kustomize", &path(folder).display().to_string()])?;
    }
    operator::ready(&client).await?;
    stage.mark("installed by kustomize for one namespace");
    let role = Api::<ClusterRole>::all(client.clone()).get_opt(RELEASE).await?;
    ensure!(role.is_none(), "there is a ClusterRole");
    rights::forbidden(&client).await?;
    for kind in ["pods", "events"] {
        ensure!(!rights::allowed(&client, ["list", "", kind, "", "default"]).await?, "{kind} of another namespace can be listed");
    }
    let (_, mirror) = stage.pair(1).await?;
    copies::empty(stage, &mirror).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    stage.wait_healthy().await.map(drop)
}

async fn away_with_kustomize(stage: &Stage) -> Result<()> {
    stage.bed.kubectl(&["delete", "--ignore-not-found", "--kustomize", &path(OVERLAY).display().to_string()])?;
    gone(stage, SYSTEM).await
}

async fn gone(stage: &Stage, namespace: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(stage.cluster.kubernetes().clone());
    until(&format!("the namespace {namespace} to go away"), HEALED_WITHIN, async || {
        Ok(if namespaces.get_opt(namespace).await?.is_none() { Ok(()) } else { Err("it is there".into()) })
    })
    .await
}

/// Everything below `config/` is what the API server accepts, and the patch makes a plain StatefulSet one of gpheal's.
pub async fn samples(stage: &mut Stage) -> Result<()> {
    let dry = ["apply", "--dry-run=server", "--warnings-as-errors"];
    for file in ["greenplumcluster", "segmentrecovery", "credentials-role"] {
        let file = path(&format!("config/samples/{file}.yaml")).display().to_string();
        stage.bed.kubectl(&[&dry[..], &["--filename", &file]].concat())?;
    }
    for folder in ["crds", "config/default", "config/namespaced", OVERLAY] {
        // What Helm applied carries no annotation of kubectl's, of which kubectl warns.
        let server_side = ["apply", "--dry-run=server", "--server-side", "--force-conflicts", "--kustomize"];
        stage.bed.kubectl(&[&server_side[..], &[&path(folder).display().to_string()]].concat())?;
    }
    stage.mark("samples and kustomizations are accepted");
    let patched = patched(stage).await;
    Api::<Namespace>::all(stage.cluster.kubernetes().clone()).delete(SCRATCH, &DeleteParams::default()).await?;
    gone(stage, SCRATCH).await?;
    as_of_the_fixture(&patched?)?;
    stage.mark("the patch makes a plain StatefulSet one that gpheal supervises");
    Ok(())
}

/// A StatefulSet as people have it, without pods, and what the patch would make of it.
async fn patched(stage: &Stage) -> Result<StatefulSet> {
    let client = stage.cluster.kubernetes();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": SCRATCH, "labels": { "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted" } } });
    apply(client, &namespace.to_string()).await?;
    apply(client, &plain()?.to_string()).await?;
    let file = path("config/samples/statefulset-patch.yaml").display().to_string();
    let arguments = ["patch", "statefulset", "gp-primary", "--namespace", SCRATCH, "--patch-file", &file];
    let answer = stage.bed.kubectl(&[&arguments[..], &["--dry-run=server", "--warnings-as-errors", "--output=json"]].concat())?;
    serde_json::from_str(&answer).context("the patched StatefulSet cannot be read")
}

/// The fixture's primaries as they would be without gpheal: the claim, and postgres' own certificate.
fn plain() -> Result<Value> {
    let mut object = supervised("gp-primary")?;
    object["metadata"]["namespace"] = json!(SCRATCH);
    object["spec"]["replicas"] = json!(0);
    let spec = &mut object["spec"]["template"]["spec"];
    for ours in ["initContainers", "terminationGracePeriodSeconds"] {
        spec.as_object_mut().context("no pod's spec")?.remove(ours);
    }
    only(&mut spec["volumes"], &["tls"])?;
    let probe = json!({ "exec": { "command": ["pg_isready", "-p", "6000"] } });
    let container = &mut spec["containers"][0];
    container["command"] = json!(["/bin/sh", "-c"]);
    container["args"] = json!(["exec postgres -D /data/gpseg -p 6000 -c gp_role=execute"]);
    container["env"] = json!([{ "name": "TZ", "value": "UTC" }]);
    container["ports"] = json!([{ "name": "postgres", "containerPort": 6000 }]);
    container["livenessProbe"] = probe.clone();
    container["readinessProbe"] = probe.clone();
    container["startupProbe"] = probe;
    only(&mut container["volumeMounts"], &["data", "tls"])?;
    Ok(object)
}

fn only(named: &mut Value, kept: &[&str]) -> Result<()> {
    let all = named.as_array_mut().context("no list")?;
    all.retain(|one| one["name"].as_str().is_some_and(|name| kept.contains(&name)));
    Ok(())
}

/// What the supervisor lives by is as in the fixture, which every scenario runs on.
fn as_of_the_fixture(patched: &StatefulSet) -> Result<()> {
    let ours: StatefulSet = serde_json::from_value(supervised("gp-primary")?)?;
    let (ours, theirs) = (pod_spec(&ours)?, pod_spec(patched)?);
    let (a, b) = (container(ours)?, container(theirs)?);
    ensure!(b.args.is_none(), "the old arguments are still there: {:?}", b.args);
    ensure!(a.command == b.command, "the command is {:?}", b.command);
    ensure!(b.startup_probe.is_none(), "the old startup probe is still there");
    let probes = |c: &Container| {
        // What the API server adds by itself is no difference.
        let asks = |probe: &Option<Probe>| probe.as_ref().and_then(|probe| probe.http_get.clone()).map(|get| (get.path, get.port));
        [asks(&c.liveness_probe), asks(&c.readiness_probe)]
    };
    ensure!(probes(a) == probes(b), "the probes are {:?}", probes(b));
    for variable in a.env.iter().flatten() {
        ensure!(b.env.iter().flatten().any(|other| other.name == variable.name), "{} is not set", variable.name);
    }
    for mount in a.volume_mounts.iter().flatten() {
        let there = b.volume_mounts.iter().flatten().any(|other| other.mount_path == mount.mount_path);
        ensure!(there, "nothing is mounted at {}", mount.mount_path);
    }
    ensure!(b.env.iter().flatten().any(|variable| variable.name == "TZ"), "the segment's own environment is gone");
    ensure!(ours.termination_grace_period_seconds == theirs.termination_grace_period_seconds, "the grace period is another");
    Ok(())
}

fn pod_spec(object: &StatefulSet) -> Result<&PodSpec> {
    object.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).context("a StatefulSet without a pod")
}

fn container(spec: &PodSpec) -> Result<&Container> {
    spec.containers.iter().find(|container| container.name == CONTAINER).context("no container of postgres")
}
