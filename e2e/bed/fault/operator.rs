//! The end of the operator itself, in the middle of whatever it does.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};

use super::{Container, delete_pod_now, kill_until_none};
use crate::bed::Bed;

const NAMESPACE: &str = "gpheal-system";
const LABEL: &str = "app.kubernetes.io/name=gpheal";

/// Kills the operator's processes; the kubelet starts its container again.
pub async fn kill_operator(bed: &Bed) -> Result<()> {
    for pod in pods(bed).await? {
        for spec in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let container = Container::find(bed, NAMESPACE, &pod.name_any(), &spec.name).await?;
            let doomed = container.processes()?;
            kill_until_none(&container.shown(), || doomed.clone())?;
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

async fn pods(bed: &Bed) -> Result<Vec<Pod>> {
    let found = Api::<Pod>::namespaced(bed.client()?, NAMESPACE).list(&ListParams::default().labels(LABEL)).await?;
    ensure!(!found.items.is_empty(), "no operator runs: there is no pod with {LABEL} in {NAMESPACE}");
    Ok(found.items)
}
