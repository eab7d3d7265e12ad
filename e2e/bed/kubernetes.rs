//! The API server as the bed uses it: a client, the bed's own objects, and
//! whether the nodes are well.

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node as NodeObject, ServiceAccount},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use super::layout::{Layout, Node};

/// The storage class of volumes that are bound to their node.
pub const LOCAL: &str = "local";

pub fn client(layout: &Layout) -> Result<Client> {
    let path = layout.kubeconfig();
    let hint = if layout.is_foreign() { "is it one file, and valid?" } else { "run `make bed-up`" };
    let advice = || format!("cannot use {}: {hint}", path.display());
    let text = Kubeconfig::read_from(&path).with_context(advice)?;
    let config = futures::executor::block_on(Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()));
    Ok(Client::try_from(config.with_context(advice)?)?)
}

pub async fn is_ready(client: &Client) -> Result<bool> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    Ok(client.request_text(request).await? == "ok")
}

/// Volumes are made by hand and bound when a pod comes, so that it runs where its volume is.
pub async fn register_storage(client: &Client) -> Result<()> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": { "name": LOCAL },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Retain",
    });
    let classes = Api::<StorageClass>::all(client.clone());
    classes.patch(LOCAL, &PatchParams::apply("gpheal-bed").force(), &Patch::Apply(class)).await?;
    Ok(())
}

/// Pods can be made only once the controllers have made their service account.
pub async fn controllers_work(client: &Client) -> Result<bool> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    Ok(accounts.get_opt("default").await?.is_some())
}

/// Ready, and heard of after `since`: the object alone may be older than the kubelet's death.
pub async fn node_lives(client: &Client, node: Node, since: Timestamp) -> Result<bool> {
    let name = node.to_string();
    let Some(object) = Api::<NodeObject>::all(client.clone()).get_opt(&name).await? else { return Ok(false) };
    let conditions = object.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let tainted = object.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let reachable = !tainted.iter().any(|taint| taint.key.starts_with("node.kubernetes.io/"));
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
    let renewed = leases.get_opt(&name).await?.and_then(|lease| lease.spec?.renew_time);
    Ok(ready && reachable && renewed.is_some_and(|time| time.0 > since))
}
