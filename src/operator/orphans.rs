//! Recoveries of a cluster that does not exist: nobody drives them, so somebody has to say so.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, Client, Resource, ResourceExt, api::ListParams, core::DeserializeGuard};
use tokio::time::timeout;

use crate::apply::Applier;
use crate::error;
use api::{
    GreenplumCluster, SegmentRecovery, SegmentRecoveryStatus,
    condition::{self, Wanted},
    convert,
};
use model::Phase;

/// Bound of one call.
const CALL: Duration = Duration::from_secs(15);

/// Says in the status that there is no such cluster, if that is so. It stays Pending: the cluster may yet come.
pub async fn tell(client: &Client, object: &SegmentRecovery) {
    let over = object.status.as_ref().is_some_and(|status| Phase::from(status.phase).is_over());
    if over || convert::unknown(object).is_some() || object.metadata.deletion_timestamp.is_some() {
        return;
    }
    let namespace = object.namespace().unwrap_or_default();
    let clusters: Api<DeserializeGuard<GreenplumCluster>> = Api::namespaced(client.clone(), &namespace);
    let name = &object.spec.cluster_ref.name;
    match timeout(CALL, clusters.get_opt(name)).await {
        Ok(Ok(Some(cluster))) if cluster.meta().deletion_timestamp.is_none() => return,
        Ok(Ok(_)) => {}
        Ok(Err(failed)) => return tracing::warn!(error = error::chain(&failed), cluster = %name, "a recovery's cluster cannot be read"),
        Err(_) => return tracing::warn!(cluster = %name, "no answer within {} s when reading a recovery's cluster", CALL.as_secs()),
    }
    let status = status(object, Timestamp::now());
    let written = Applier::new(client.clone(), &namespace, None).status(object, object.status.as_ref(), &status).await;
    match written {
        Ok(_) => tracing::warn!(recovery = %object.name_any(), "{}", status.message),
        Err(failed) => tracing::warn!(recovery = %object.name_any(), error = error::chain(&failed), "a recovery cannot be told about"),
    }
}

/// Says so to every recovery of a cluster that has just gone. Those of automatic healing go with it, by their owner.
pub async fn tell_all(client: &Client, namespace: &str, cluster: &str) {
    let recoveries: Api<DeserializeGuard<SegmentRecovery>> = Api::namespaced(client.clone(), namespace);
    let list = match timeout(CALL, recoveries.list(&ListParams::default())).await {
        Ok(Ok(list)) => list,
        Ok(Err(failed)) => {
            return tracing::warn!(error = error::chain(&failed), %cluster, "the recoveries of a cluster that is gone cannot be read");
        }
        Err(_) => {
            return tracing::warn!(%cluster, "no answer within {} s when reading the recoveries of a cluster that is gone", CALL.as_secs());
        }
    };
    for object in list.items.into_iter().filter_map(|object| object.0.ok()).filter(|one| one.spec.cluster_ref.name == cluster) {
        tell(client, &object).await;
    }
}

fn status(object: &SegmentRecovery, now: Timestamp) -> SegmentRecoveryStatus {
    let old = object.status.clone().unwrap_or_default();
    let name = &object.spec.cluster_ref.name;
    let message = format!(
        "there is no GreenplumCluster {name} in this namespace, or it is being deleted; make it, or delete this recovery and name another one"
    );
    let wanted = [
        Wanted::new("Ready", Some(false), "NoCluster", message.clone()),
        Wanted::new("Reconciling", Some(false), "NoCluster", "nothing more is begun for it"),
        Wanted::new("Stalled", Some(true), "NoCluster", message.clone()),
    ];
    let generation = object.metadata.generation;
    let conditions = condition::merge(&old.conditions, &wanted, generation, now);
    SegmentRecoveryStatus { observed_generation: generation, conditions, message, ..old }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::mock::{expect, finished, server};
    use api::fixtures;
    use serde_json::json;

    const CLUSTER: &str = "/apis/gpheal.io/v1alpha1/namespaces/demo/greenplumclusters/demo";
    const ALL: &str = "/apis/gpheal.io/v1alpha1/namespaces/demo/segmentrecoveries";
    const STATUS: &str = "/apis/gpheal.io/v1alpha1/namespaces/demo/segmentrecoveries/mend/status";

    #[tokio::test]
    async fn it_is_said_once_that_there_is_no_such_cluster() {
        let mut object = fixtures::recovery("mend", &[5]);
        let said = expect("PATCH", STATUS, serde_json::to_value(&object).unwrap()).body(|body| {
            assert_eq!(body["status"]["phase"], "Pending");
            assert!(body["status"]["message"].as_str().unwrap().starts_with("there is no GreenplumCluster demo"));
        });
        let none = || expect("GET", CLUSTER, json!({})).refused(404, "NotFound");
        let (client, task) = server(vec![none(), said, none()]);
        tell(&client, &object).await;
        object.status = Some(status(&object, Timestamp::now()));
        tell(&client, &object).await;
        drop(client);
        finished(task).await;
    }

    #[tokio::test]
    async fn the_recoveries_of_a_cluster_that_has_gone_are_told_and_no_others() {
        let (object, other) = (fixtures::recovery("mend", &[5]), {
            let mut other = fixtures::recovery("elsewhere", &[5]);
            other.spec.cluster_ref.name = "another".into();
            other
        });
        let list = json!({ "apiVersion": "gpheal.io/v1alpha1", "kind": "SegmentRecoveryList", "metadata": {}, "items": [other, object] });
        let said = expect("PATCH", STATUS, serde_json::to_value(&object).unwrap()).body(|body| {
            assert!(body["status"]["message"].as_str().unwrap().starts_with("there is no GreenplumCluster demo"));
        });
        let none = expect("GET", CLUSTER, json!({})).refused(404, "NotFound");
        let (client, task) = server(vec![expect("GET", ALL, list), none, said]);
        tell_all(&client, "demo", "demo").await;
        drop(client);
        finished(task).await;
    }

    #[tokio::test]
    async fn one_that_is_being_deleted_heals_nobody() {
        let mut going = serde_json::to_value(fixtures::cluster()).unwrap();
        going["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:00Z");
        let object = fixtures::recovery("mend", &[5]);
        let said = expect("PATCH", STATUS, serde_json::to_value(&object).unwrap());
        let (client, task) = server(vec![expect("GET", CLUSTER, going), said]);
        tell(&client, &object).await;
        drop(client);
        finished(task).await;
    }

    #[tokio::test]
    async fn nothing_is_said_when_there_is_one() {
        let (client, task) = server(vec![expect("GET", CLUSTER, serde_json::to_value(fixtures::cluster()).unwrap())]);
        tell(&client, &fixtures::recovery("mend", &[5])).await;
        drop(client);
        finished(task).await;
    }
}
