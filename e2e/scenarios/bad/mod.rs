//! Bad input of every kind side by side, beside a healthy cluster: each is rejected or told what to do, nothing of it is
//! touched, nothing of it is looked at in a hot loop, and the healthy cluster heals meanwhile.

mod audit;
mod garbage;
mod strangers;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::{GreenplumCluster, SegmentRecovery, recovery::Phase};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::{Value, json};

use self::strangers::Strangers;
use super::{
    Stage, copies,
    stage::{CLUSTER, HEALED_WITHIN, until},
};
use crate::fixture::{NAMESPACE, Nature};

/// The Secret with the operator's login.
const OPERATOR: &str = "demo-gpheal-operator";
/// Longest name that the definitions allow.
const LONGEST: usize = 40;
/// How long the looks at the bad ones are counted.
const COUNTED: Duration = Duration::from_mins(1);
/// Looks at one of them in that time: one each 30 s once it is known to be hopeless, and at most one each 5 s for
/// those whose selector selects pods of the healthy cluster, which come and go.
const LOOKS: u64 = 4;
const LOOKS_BESIDE_LIVE_PODS: u64 = 14;

/// A cluster that cannot be healed.
struct Bad {
    name: String,
    coordinator: Value,
    selector: Value,
    /// The condition that tells it, with its value and reason.
    told: (&'static str, &'static str, &'static str),
    /// It selects pods that live.
    live_pods: bool,
}

pub async fn bad_input(stage: &mut Stage) -> Result<()> {
    rejected(stage).await?;
    let strangers = Strangers::start().await?;
    let all = clusters(stage, &strangers).await?;
    let mut result = beside(stage, &all).await;
    for bad in &all {
        let _ = stage.clusters().delete(&bad.name, &DeleteParams::default()).await;
    }
    if result.is_ok() {
        result = is_left_behind(stage).await;
    }
    garbage::gpheal_again(stage).await?;
    let elsewhere: Api<SegmentRecovery> = Api::namespaced(stage.cluster.kubernetes().clone(), "default");
    let _ = elsewhere.delete("nowhere", &DeleteParams::default()).await;
    strangers::no_secret(stage).await?;
    result
}

async fn beside(stage: &mut Stage, all: &[Bad]) -> Result<()> {
    let audit = audit::Audit::from_now(&stage.bed)?;
    for bad in all {
        let spec = json!({ "coordinator": bad.coordinator, "segments": { "selector": bad.selector } });
        apply::<GreenplumCluster>(stage, NAMESPACE, &bad.name, &spec).await?;
    }
    remember_a_higher_timeline(stage).await?;
    recoveries_are_told(stage).await?;
    for bad in all {
        is_told(stage, bad).await?;
    }
    stage.mark(format!("{} bad clusters are told what to do", all.len()));
    settled(stage, all).await?;
    let (before, begun) = (looks(stage)?, Instant::now());
    let (_, mirror) = stage.pair(1).await?;
    let garbled = garbage::instead_of_gpheal(stage, 2).await?;
    copies::empty(stage, &mirror).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    garbage::is_told_and_lifted(stage, &garbled).await?;
    tokio::time::sleep(COUNTED.saturating_sub(begun.elapsed())).await; // what is counted is how often nothing happens
    no_hot_loop(stage, all, &before, &looks(stage)?, begun.elapsed())?;
    let names: Vec<_> = all.iter().map(|bad| bad.name.as_str()).collect();
    let written = audit.nothing_but_statuses(&names)?;
    stage.mark(format!("nothing but {written} statuses was written for them"));
    Ok(())
}

/// What the API server itself refuses, with the sentence that says why.
async fn rejected(stage: &mut Stage) -> Result<()> {
    let good = json!({
        "coordinator": { "host": "gp", "credentialsSecret": { "name": OPERATOR } },
        "segments": { "selector": { "matchLabels": { "app": "nobody" } } },
    });
    let with = |pointer: &str, value: Value| {
        let mut spec = good.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap_or_default();
        spec.pointer_mut(parent).and_then(Value::as_object_mut).map(|object| object.insert(field.to_owned(), value));
        spec
    };
    let fine = "fine".to_owned();
    let clusters = [
        ("a".repeat(LONGEST + 1), good.clone(), "at most 40 characters"),
        (fine.clone(), with("/coordinator/prot", json!(5432)), "field not declared in schema"),
        (fine.clone(), with("/coordinator/service", json!("gp")), "exactly one of service and host"),
        (fine.clone(), with("/coordinator/port", json!(70000)), "should be less than or equal to 65535"),
        (fine.clone(), with("/coordinator/credentialsSecret", json!({ "name": "../../kube-system/secrets/x" })), "should match"),
        (fine.clone(), with("/healing", json!({ "gracePeriod": "2000000h" })), "at most a week"),
        (fine.clone(), with("/healing", json!({ "breaker": { "within": "13h" } })), "one minute (1m) to 12 hours (12h)"),
        (fine.clone(), with("/healing", json!({ "breaker": { "repairs": 1 } })), "should be greater than or equal to 2"),
        (fine.clone(), with("/healing", json!({ "mode": "Telepathic" })), "Unsupported value"),
        (fine.clone(), with("/job", json!({ "resources": { "limits": { "memory": "lots" } } })), "should match"),
    ];
    for (name, spec, told) in &clusters {
        refused::<GreenplumCluster>(stage, name, spec, told).await?;
    }
    let recovery = |targets: Value| json!({ "clusterRef": { "name": CLUSTER }, "targets": targets });
    let recoveries = [
        ("a".repeat(LONGEST + 1), recovery(json!({ "dbids": [5] })), "at most 40 characters"),
        (fine.clone(), recovery(json!({})), "exactly one of contents, dbids and allDown"),
        (fine.clone(), recovery(json!({ "dbids": [0] })), "should be greater than or equal to 1"),
        (fine.clone(), recovery(json!({ "contents": [-1] })), "should be greater than or equal to 0"),
        (fine, recovery(json!({ "segments": [5] })), "field not declared in schema"),
    ];
    for (name, spec, told) in &recoveries {
        refused::<SegmentRecovery>(stage, name, spec, told).await?;
    }
    stage.mark(format!("{} objects rejected", clusters.len() + recoveries.len()));
    Ok(())
}

async fn refused<K: kube::Resource<DynamicType = ()>>(stage: &Stage, name: &str, spec: &Value, told: &str) -> Result<()> {
    let Err(error) = apply::<K>(stage, NAMESPACE, name, spec).await else {
        anyhow::bail!("{} {name} was not rejected: {spec}", K::kind(&()));
    };
    let said = format!("{error:#}");
    ensure!(said.contains(told), "{} {name} was rejected without '{told}': {said}", K::kind(&()));
    Ok(())
}

/// As `kubectl apply` does: fields that nobody knows are an error.
async fn apply<K: kube::Resource<DynamicType = ()>>(stage: &Stage, namespace: &str, name: &str, spec: &Value) -> Result<()> {
    let kind = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(stage.cluster.kubernetes().clone(), namespace, &kind);
    let object = json!({ "apiVersion": kind.api_version, "kind": kind.kind, "metadata": { "name": name }, "spec": spec });
    api.patch(name, &PatchParams::apply("gpheal-e2e").validation_strict(), &Patch::Apply(object)).await?;
    Ok(())
}

async fn clusters(stage: &Stage, strangers: &Strangers) -> Result<Vec<Bad>> {
    let (primary, _) = stage.pair(0).await?;
    let host = |pod: &str| format!("{pod}.gp.{NAMESPACE}.svc");
    let at = |host: &str, port: u16, secret: &str| json!({ "host": host, "port": port, "credentialsSecret": { "name": secret } });
    let with_tls = |mut coordinator: Value, mode: &str, key: &str| {
        coordinator["tls"] = json!({ "mode": mode, "caSecretRef": { "name": "demo-tls", "key": key } });
        coordinator
    };
    // As the cluster's own object does, where its servers can.
    let (mode, any_name) = if Nature::chosen()?.tls { ("verify-full", "require") } else { ("disable", "disable") };
    let known = |host: &str, port: u16| with_tls(at(host, port, OPERATOR), mode, "ca.crt");
    let (right, demo) = (host("gp-coordinator-0"), OPERATOR);
    let (nobody, everybody) =
        (json!({ "matchLabels": { "app": "nobody" } }), json!({ "matchLabels": { "app.kubernetes.io/name": "greenplum" } }));
    let unreachable = |reason| ("CoordinatorReachable", "False", reason);
    strangers::wrong_secret(stage).await?;
    let bad = |name: &str, coordinator, told| Bad { name: name.to_owned(), coordinator, selector: nobody.clone(), told, live_pods: false };
    let stranger = &strangers.address;
    let mut all = vec![
        bad("wrong-port", at(&right, 5433, demo), unreachable("CoordinatorUnreachable")),
        bad("wrong-name", at(&host("nobody"), 5432, demo), unreachable("NameUnresolved")),
        bad("no-secret", at(&right, 5432, strangers::NO_SECRET), unreachable("CredentialsMissing")),
        bad("wrong-password", at(&right, 5432, strangers::WRONG_SECRET), unreachable("LoginRefused")),
        bad("web-server", at(&host(primary.pod()), 8090, demo), unreachable("NotPostgres")),
        bad("says-nothing", at(stranger, strangers.silent, demo), unreachable("CoordinatorSilent")),
        bad("never-ends", at(stranger, strangers.endless, demo), unreachable("NotPostgres")),
        bad("plain-postgres", at(stranger, strangers.plain, strangers::WRONG_SECRET), unreachable("NotGreenplum")),
        bad("no-tls", with_tls(at(stranger, strangers.plain, demo), "require", "ca.crt"), unreachable("TlsNotOffered")),
        bad("no-authority", with_tls(at(&right, 5432, demo), "verify-full", "another.crt"), unreachable("CaMissing")),
        bad("a-segment", with_tls(at(&host(primary.pod()), primary.port, demo), any_name, "ca.crt"), unreachable("NotCoordinator")),
        bad("old", known(&right, 5432), unreachable("OldCoordinator")),
        bad("selects-nothing", known(&right, 5432), ("Stalled", "True", "NothingSelected")),
        bad(&"a".repeat(LONGEST), at(&right, 5433, demo), unreachable("CoordinatorUnreachable")),
    ];
    // Its pages belong to another cluster, and its selector takes in whatever is a Greenplum.
    let twin = bad("twin", known(&right, 5432), ("HealingBlocked", "True", "PageNotBelieved"));
    all.push(Bad { selector: everybody, live_pods: true, ..twin });
    Ok(all)
}

/// What another operator would have left for a coordinator that was promoted 98 times.
async fn remember_a_higher_timeline(stage: &Stage) -> Result<()> {
    let patch = Patch::Merge(json!({ "status": { "coordinatorTimeline": 99 } }));
    stage.clusters().patch_status("old", &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn is_told(stage: &Stage, bad: &Bad) -> Result<()> {
    let (kind, value, reason) = bad.told;
    until(&format!("cluster {} to be told {kind} {value} {reason}", bad.name), HEALED_WITHIN, async || {
        let status = stage.clusters().get(&bad.name).await?.status.unwrap_or_default();
        let Some(found) = status.conditions.iter().find(|c| c.type_ == kind) else { return Ok(Err("no such condition".into())) };
        let as_told = (found.status.as_str(), found.reason.as_str()) == (value, reason) && found.message.contains("lifted ");
        Ok(if as_told { Ok(()) } else { Err(format!("{} {}: {}", found.status, found.reason, found.message)) })
    })
    .await
}

/// Recoveries of what is not there: refused, or told to wait for what.
async fn recoveries_are_told(stage: &mut Stage) -> Result<()> {
    for (name, targets) in [("unknown-dbid", json!({ "dbids": [77] })), ("unknown-content", json!({ "contents": [42] }))] {
        stage.ask(name, targets, "Auto").await?;
        let status = stage.wait_over(name).await?.status.unwrap_or_default();
        ensure!(
            status.phase == Phase::Refused && status.message.contains("NotInCatalog"),
            "{name} ended {:?}: {}",
            status.phase,
            status.message
        );
    }
    let longest = "b".repeat(LONGEST);
    for (namespace, name, cluster, told) in [
        ("default", "nowhere", CLUSTER, "there is no GreenplumCluster"),
        (NAMESPACE, longest.as_str(), "wrong-port", "CoordinatorUnreachable"),
    ] {
        apply::<SegmentRecovery>(stage, namespace, name, &json!({ "clusterRef": { "name": cluster }, "targets": { "dbids": [5] } }))
            .await?;
        let api: Api<SegmentRecovery> = Api::namespaced(stage.cluster.kubernetes().clone(), namespace);
        until(&format!("recovery {name} to be told '{told}'"), HEALED_WITHIN, async || {
            let status = api.get(name).await?.status.unwrap_or_default();
            let waits = status.phase == Phase::Pending && status.message.contains(told);
            Ok(if waits { Ok(()) } else { Err(format!("{:?}: {}", status.phase, status.message)) })
        })
        .await?;
    }
    stage.mark("recoveries of what is not there are refused or told what they wait for");
    Ok(())
}

/// A recovery that was asked for by hand outlives its cluster, and says so.
async fn is_left_behind(stage: &mut Stage) -> Result<()> {
    let name = "b".repeat(LONGEST);
    until(&format!("recovery {name} to be told that its cluster is gone"), HEALED_WITHIN, async || {
        let status = stage.recoveries().get(&name).await?.status.unwrap_or_default();
        let told = status.conditions.iter().any(|c| (c.type_.as_str(), c.reason.as_str()) == ("Stalled", "NoCluster"));
        Ok(if told { Ok(()) } else { Err(status.message) })
    })
    .await?;
    stage.mark("the recovery of a cluster that was deleted says so");
    Ok(())
}

/// Looks at each cluster so far, as the operator counts them.
fn looks(stage: &Stage) -> Result<BTreeMap<String, u64>> {
    let pods = ["get", "pods", "-n", "gpheal-system", "-l", "app.kubernetes.io/name=gpheal", "-o", "name"];
    let mut all = BTreeMap::new();
    for pod in stage.bed.kubectl(&pods)?.lines() {
        let name = pod.trim_start_matches("pod/");
        let text = stage.bed.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/gpheal-system/pods/{name}:8080/proxy/metrics")])?;
        for line in text.lines().filter(|line| line.starts_with("gpheal_reconciles_total{")) {
            let cluster = line.split("cluster=\"").nth(1).and_then(|rest| rest.split('"').next()).context("a count without a cluster")?;
            let count: u64 = line.rsplit(' ').next().and_then(|count| count.parse().ok()).context("a count that is none")?;
            *all.entry(cluster.to_owned()).or_default() += count;
        }
    }
    Ok(all)
}

/// Each has been looked at often enough to be known as hopeless: 2, 4, 8 and 16 s apart.
async fn settled(stage: &mut Stage, all: &[Bad]) -> Result<()> {
    until("the looks at the bad clusters to be far apart", HEALED_WITHIN, async || {
        let now = looks(stage)?;
        let few = all.iter().find(|bad| now.get(&bad.name).copied().unwrap_or_default() < 5);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(few.map_or(Ok(()), |bad| Err(format!("{}: {:?} looks", bad.name, now.get(&bad.name)))))
    })
    .await?;
    stage.mark("looks at them are 30 s apart");
    Ok(())
}

fn no_hot_loop(
    stage: &mut Stage,
    all: &[Bad],
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    within: Duration,
) -> Result<()> {
    let minutes = within.as_secs().div_ceil(60);
    let mut told = vec![];
    for bad in all {
        let count = |at: &BTreeMap<String, u64>| at.get(&bad.name).copied().unwrap_or_default();
        let (looks, most) = (count(after) - count(before), if bad.live_pods { LOOKS_BESIDE_LIVE_PODS } else { LOOKS } * minutes);
        ensure!(looks <= most, "{} was looked at {looks} times within {} s, more than {most}", bad.name, within.as_secs());
        told.push(format!("{} {looks}", bad.name));
    }
    stage.mark(format!("looks within {} s: {}", within.as_secs(), told.join(", ")));
    Ok(())
}
