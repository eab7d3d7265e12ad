//! Objects for tests: the cluster of the sample, and recoveries of it.
#![allow(clippy::unwrap_used, reason = "of tests")]

use serde_json::json;

use super::{GreenplumCluster, SegmentRecovery};

/// The sample's cluster, in namespace `demo`.
pub fn cluster() -> GreenplumCluster {
    serde_json::from_value(json!({
        "apiVersion": "gpheal.io/v1alpha1", "kind": "GreenplumCluster",
        "metadata": {"name": "demo", "namespace": "demo", "uid": "uid-cluster", "resourceVersion": "10", "generation": 1},
        "spec": {
            "coordinator": {"host": "gp-coordinator-0.gp.demo.svc", "credentialsSecret": {"name": "demo-gpadmin"}},
            "segments": {"selector": {"matchLabels": {"app.kubernetes.io/instance": "demo"}}},
        },
    }))
    .unwrap()
}

/// A recovery made by hand, not begun.
pub fn recovery(name: &str, dbids: &[i32]) -> SegmentRecovery {
    serde_json::from_value(json!({
        "apiVersion": "gpheal.io/v1alpha1", "kind": "SegmentRecovery",
        "metadata": {"name": name, "namespace": "demo", "uid": format!("uid-{name}"), "resourceVersion": "20", "generation": 1},
        "spec": {"clusterRef": {"name": "demo"}, "targets": {"dbids": dbids}},
    }))
    .unwrap()
}
