//! The end of the operator itself, in the middle of whatever it does.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};

use super::{Asleep, Container, delete_pod_now, freeze, kill_until_none};
use crate::bed::Bed;

const NAMESPACE: &str = "gpheal-system";
const LEASE: &str = "gpheal";
const LABEL: &str = "app.kubernetes.io/name=gpheal";

/// Kills the operator's processes; the kubelet starts its container again.
pub async fn kill_operator(bed: &Bed) -> Result<()> {
    for pod in pods(bed).await? {
        for spec in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let container = Container::find(bed, NAMESPACE, &pod.name_any(), &spec.name).await?;
            let doomed = container.processes()?;
            kill_until_none(&container.shown(), || Ok(doomed.clone()))?;
        }
    }
    Ok(())
}

/// Deletes the operator's pods at once; its Deployment makes new ones.
pub async fn delete_operator(bed: &Bed) -> Result<()> {
    for pod in pods(bed).await? {
        delete_pod_now(bed, NAMESPACE, &pod.name_any()).await?;
    }
    Ok(())
}

/// The pod that holds the operators' lease, by its name.
pub async fn leader(bed: &Bed) -> Result<String> {
    let lease = Api::<Lease>::namespaced(bed.client()?, NAMESPACE).get(LEASE).await.context("no operator ever led")?;
    lease.spec.and_then(|spec| spec.holder_identity).context("nobody holds the operators' lease")
}

/// Stops an operator's processes.
pub async fn suspend_operator(bed: &Bed, pod: &str) -> Result<Asleep> {
    freeze(&Container::find(bed, NAMESPACE, pod, "operator").await?)
}

async fn pods(bed: &Bed) -> Result<Vec<Pod>> {
    let found = Api::<Pod>::namespaced(bed.client()?, NAMESPACE).list(&ListParams::default().labels(LABEL)).await?;
    ensure!(!found.items.is_empty(), "no operator runs: there is no pod with {LABEL} in {NAMESPACE}");
    Ok(found.items)
}
