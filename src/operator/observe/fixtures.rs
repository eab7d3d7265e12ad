//! Pods and Jobs for tests, as an API server would send them.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};

/// A running segment pod of the sample that fulfils the contract.
pub fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let mut value = json!({
        "metadata": {"name": name, "namespace": "demo", "uid": format!("uid-{name}"),
            "labels": {"app.kubernetes.io/name": "greenplum", "app.kubernetes.io/instance": "demo"}},
        "spec": {
            "hostname": name, "subdomain": "gp", "nodeName": "n1", "serviceAccountName": "default",
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [{"name": "gpheal", "image": "localhost/gpheal:dev", "command": ["/gpheal", "install", "/gpheal-bin"],
                "volumeMounts": [{"name": "gpheal-bin", "mountPath": "/gpheal-bin"}]}],
            "containers": [{
                "name": "greenplum", "image": "localhost/greenplum:dev", "imagePullPolicy": "IfNotPresent",
                "command": ["/gpheal-bin/gpheal", "supervise", "--", "postgres"],
                "ports": [{"name": "gpheal", "containerPort": 8090}],
                "env": [
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "GPHEAL_COORDINATOR", "value": "gp-coordinator-0.gp:5432,gp-standby-0.gp:5432"},
                    {"name": "GPHEAL_PORT", "value": "7000"},
                    {"name": "PATH", "value": "/opt/greenplum/bin:/usr/bin"},
                ],
                "securityContext": restricted,
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "gpheal-bin", "mountPath": "/gpheal-bin"},
                    {"name": "credentials", "mountPath": "/etc/gpheal/credentials", "readOnly": true},
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
                ],
            }],
            "tolerations": [{"key": "database", "operator": "Exists"}],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{name}")}},
                {"name": "gpheal-bin", "emptyDir": {}},
                {"name": "credentials", "secret": {"secretName": "demo-gpadmin"}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "kube-api-access-x", "projected": {"sources": []}},
            ],
        },
        "status": {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}]},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

/// The Job of an attempt.
pub fn job(recovery: &str, dbid: i16, attempt: u32, change: impl FnOnce(&mut Value)) -> Job {
    let name = format!("{recovery}-d{dbid}-a{attempt}");
    let labels = json!({"gpheal.io/cluster": "demo", "gpheal.io/recovery": recovery,
        "gpheal.io/dbid": dbid.to_string(), "gpheal.io/attempt": attempt.to_string()});
    let mut value = json!({
        "metadata": {"name": name, "namespace": "demo", "uid": format!("uid-{name}"), "labels": labels,
            "ownerReferences": [{"apiVersion": "gpheal.io/v1alpha1", "kind": "SegmentRecovery", "name": recovery,
                "uid": format!("uid-{recovery}"), "controller": true}],
            "creationTimestamp": "2027-01-15T08:00:00Z"},
        "status": {"active": 1},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

/// The pod of a Job.
pub fn job_pod(recovery: &str, dbid: i16, attempt: u32, change: impl FnOnce(&mut Value)) -> Pod {
    let job = format!("{recovery}-d{dbid}-a{attempt}");
    let labels = json!({"gpheal.io/cluster": "demo", "gpheal.io/recovery": recovery, "gpheal.io/dbid": dbid.to_string(),
        "gpheal.io/attempt": attempt.to_string(), "batch.kubernetes.io/job-name": job});
    let mut value = json!({
        "metadata": {"name": format!("{job}-x"), "namespace": "demo", "labels": labels},
        "spec": {"containers": [{"name": "recover"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "recover", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"running": {"startedAt": "2027-01-15T08:00:01Z"}}}]},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}
