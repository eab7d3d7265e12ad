//! A Job in whose pod something else runs than gpheal: an admission policy changes its command, as a webhook of anybody's may.

use std::{fs, path::Path, time::SystemTime};

use anyhow::{Context, Result, ensure};
use api::{labels, recovery::Phase};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use model::{FailureClass, InstanceState, Repair};
use serde_json::{Value, json};

use super::{super::stage::instance_of, HEALED_WITHIN, Stage, until};
use crate::{
    bed::fault::kill_postmaster,
    fixture::{DATA_DIRECTORY, IMAGE, NAMESPACE, Row, apply},
};

/// Of the policy and of its binding.
const NAME: &str = "gpheal-e2e-garbage";
const GROUP: &str = "admissionregistration.k8s.io";
const VERSION: &str = "v1beta1";
const KINDS: [&str; 2] = ["MutatingAdmissionPolicyBinding", "MutatingAdmissionPolicy"];
/// Speaks of itself with bytes that are no text, in its log and in its last words, and ends as if all were well.
const NONSENSE: &str = r"printf '\377\000{{\n'; printf '\377\001done, believe me' > /dev/termination-log";

/// An instance whose Jobs are not gpheal's, and the files of its data directory before the first of them.
pub struct Garbled {
    row: Row,
    files: Vec<File>,
}

/// Path, size, time of the last change.
type File = (String, u64, SystemTime);

/// From now on the Jobs of this content's mirror run nonsense; and it needs one.
pub async fn instead_of_gpheal(stage: &mut Stage, content: i16) -> Result<Garbled> {
    let (_, row) = stage.pair(content).await?;
    for object in policy(row.dbid)? {
        apply(stage.cluster.kubernetes(), &object.to_string()).await?;
    }
    acts(stage, row.dbid, true).await?;
    let volume = stage.volume(&row)?;
    volume.damage_file(&format!("{DATA_DIRECTORY}/global/pg_control"))?;
    kill_postmaster(&stage.container(&row).await?)?;
    stage.wait_page(&row, "need a repair", |page| page.state == InstanceState::NeedsFull).await?;
    let files = files(&volume.folder().join(DATA_DIRECTORY))?;
    stage.mark(format!("{} needs a repair, and its Jobs run nonsense", row.pod()));
    Ok(Garbled { row, files })
}

fn policy(dbid: i16) -> Result<[Value; 2]> {
    let command = serde_json::to_string(&["/bin/sh", "-c", NONSENSE])?;
    let expression = format!("[JSONPatch{{op: \"replace\", path: \"/spec/containers/0/command\", value: {command}}}]");
    let version = format!("{GROUP}/{VERSION}");
    let object = |kind: &str, spec: Value| json!({ "apiVersion": version, "kind": kind, "metadata": { "name": NAME }, "spec": spec });
    let pods = json!({ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] });
    let constraints = json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": NAMESPACE } },
        "objectSelector": { "matchLabels": { labels::DBID: dbid.to_string() } },
        "resourceRules": [pods],
    });
    let policy = json!({
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": constraints,
        "mutations": [{ "patchType": "JSONPatch", "jsonPatch": { "expression": expression } }],
    });
    Ok([object(KINDS[1], policy), object(KINDS[0], json!({ "policyName": NAME }))])
}

/// Waits until the API server goes by the policy, or does no more: a pod that is never made gets another command, or its own.
async fn acts(stage: &Stage, dbid: i16, wanted: bool) -> Result<()> {
    let container = json!({
        "name": "x", "image": IMAGE, "command": ["true"],
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    });
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": NAME, "labels": { labels::DBID: dbid.to_string() } },
        "spec": {
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [container],
        },
    }))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    until(&format!("pods to be changed: {wanted}"), HEALED_WITHIN, async || {
        let made = stage.cluster.pods().create(&dry, &pod).await?;
        let command = made.spec.and_then(|spec| spec.containers.into_iter().next()?.command).unwrap_or_default();
        let changed = command.iter().any(|word| word == NONSENSE);
        Ok(if changed == wanted { Ok(()) } else { Err(format!("the API server makes one that runs {command:?}")) })
    })
    .await
}

/// Takes the policy away, if there is one.
pub async fn gpheal_again(stage: &Stage) -> Result<()> {
    for kind in KINDS {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, kind));
        let api: Api<DynamicObject> = Api::all_with(stage.cluster.kubernetes().clone(), &kind);
        match api.delete(NAME, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// It ended after one Job, typed, with what to do; nothing of the directory was touched. Lifted as it says, it heals.
pub async fn is_told_and_lifted(stage: &mut Stage, garbled: &Garbled) -> Result<()> {
    let row = &garbled.row;
    let over = |r: &api::SegmentRecovery, _: &_| r.status.as_ref().is_some_and(|s| s.phase == Phase::Failed);
    let recovery = stage.wait_recovery(row.dbid, "a failure", over).await?;
    let instance = instance_of(&recovery, row.dbid).context("the recovery has lost its instance")?;
    let failure = instance.failure.context("it failed without a class")?;
    ensure!(failure.class == FailureClass::OutcomeNotBelieved, "it failed as {:?}: {}", failure.class, failure.message);
    ensure!(failure.message.contains("believe me"), "what the Job said is not shown: {}", failure.message);
    ensure!(instance.attempt == 1, "it was tried {} times", instance.attempt);
    let unwell = stage.wait_reason(row.dbid, "RecoveryFailed").await?;
    let name = recovery.metadata.name.context("a recovery without a name")?;
    ensure!(unwell.lifted_by.contains(&name), "what lifts it is not told: {}", unwell.lifted_by);
    stage.mark(format!("{}: {}", failure.class, failure.message));
    let volume = stage.volume(row)?;
    ensure!(files(&volume.folder().join(DATA_DIRECTORY))? == garbled.files, "the data directory was touched");
    let marks = volume.folder().join(".gpheal");
    ensure!(!marks.join("hold").exists() && !marks.join("copy").exists(), "there are marks of a Job that never ran");
    gpheal_again(stage).await?;
    acts(stage, row.dbid, false).await?;
    forget(stage, &name).await?;
    let healed = stage.wait_succeeded(row.dbid).await?;
    ensure!(healed.type_ == Some(Repair::Full), "it was repaired by {:?}", healed.type_);
    // That what such a repair leaves can serve is seen of the other instance.
    stage.healed.retain(|dbid| *dbid != row.dbid);
    stage.wait_healthy().await.map(drop)
}

async fn forget(stage: &Stage, recovery: &str) -> Result<()> {
    let uid = stage.recoveries().get(recovery).await?.metadata.uid;
    stage.recoveries().delete(recovery, &DeleteParams::default()).await?;
    until(&format!("SegmentRecovery {recovery} to go away"), HEALED_WITHIN, async || {
        let there = stage.recoveries().get_opt(recovery).await?.is_some_and(|one| one.metadata.uid == uid);
        Ok(if there { Err("it is there".into()) } else { Ok(()) })
    })
    .await
}

fn files(folder: &Path) -> Result<Vec<File>> {
    let mut all = vec![];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_dir() {
            all.extend(files(&entry.path())?);
        }
        all.push((entry.path().display().to_string(), about.len(), about.modified()?));
    }
    all.sort();
    Ok(all)
}
