//! What the API server must see of each write, "nothing" included.

use std::{collections::BTreeMap, sync::Arc};

use http::Request;
use serde_json::{Value, json};

use super::{
    Applier, Written,
    mock::{Exchange, expect, finished, server},
    recovery::Moved,
};
use crate::{
    observe::{
        Seen,
        fixtures::{job, pod},
        jobs::{self, Asked, JobSeen},
    },
    report,
};
use api::{SegmentRecovery, SegmentRecoveryStatus, convert, fixtures};
use model::{Dbid, InstanceState, Plan, Policy, RecoveryNext, Removal, World, world::fixtures as worlds};
use plan;

const RECOVERIES: &str = "/apis/gpheal.io/v1alpha1/namespaces/demo/segmentrecoveries";
const STATUS: &str = "/apis/gpheal.io/v1alpha1/namespaces/demo/segmentrecoveries/mend/status";
const JOBS: &str = "/apis/batch/v1/namespaces/demo/jobs";
const JOB: &str = "/apis/batch/v1/namespaces/demo/jobs/mend-d5-a1";

fn applier(script: Vec<Exchange>) -> (Applier, tokio::task::JoinHandle<()>) {
    let (client, task) = server(script);
    (Applier::new(client, "demo", Some("gpheal:1".into())), task)
}

/// A world whose mirror needs a full copy, with a recovery by hand in it.
fn seen(object: &SegmentRecovery) -> (Seen, RecoveryNext) {
    let world = World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |p| p.state = InstanceState::NeedsFull).recovery(convert::recovery(object));
    let plan = plan::plan(&Policy::default(), &world, worlds::now());
    let next = plan.recoveries["mend"].clone();
    let pods = BTreeMap::from([(Dbid(5), Arc::new(pod("gp-mirror-0", |_| ())))]);
    (Seen { world, pods, objects: BTreeMap::new(), jobs: BTreeMap::new() }, next)
}

fn named(phase: &str) -> SegmentRecovery {
    let mut object = fixtures::recovery("mend", &[5]);
    let instances = json!([{"dbid": 5, "content": 0, "phase": "Pending"}]);
    object.status = serde_json::from_value(json!({"phase": phase, "instances": instances})).unwrap();
    object
}

/// The object as an API server answers a status write: with the status and another resourceVersion.
fn answered(version: &str) -> Value {
    let mut object = serde_json::to_value(named("Pending")).unwrap();
    object["metadata"]["resourceVersion"] = json!(version);
    object
}

async fn advance(applier: &Applier, object: &SegmentRecovery) -> Moved {
    let (seen, next) = seen(object);
    let make = |next: &RecoveryNext| report::recovery::status(object, next, &BTreeMap::new(), worlds::now());
    applier.advance(&fixtures::cluster(), &seen, object, &next, &make, &|_, _| true).await.unwrap()
}

fn begun(version: &'static str) -> Exchange {
    expect("PATCH", STATUS, answered("22")).body(move |body| {
        assert_eq!(body["metadata"]["resourceVersion"], version);
        let one = &body["status"]["instances"][0];
        assert_eq!((&one["attempt"], &one["job"], &one["type"]), (&json!(1), &json!("mend-d5-a1"), &json!("Full")));
        assert_eq!(body["status"]["phase"], "Running");
    })
}

fn made() -> Exchange {
    expect("POST", JOBS, json!({"metadata": {"name": "mend-d5-a1"}})).body(|job| assert_eq!(job["metadata"]["name"], "mend-d5-a1"))
}

fn exists() -> Exchange {
    made().refused(409, "AlreadyExists")
}

fn found(owner: &str) -> Exchange {
    let owner = json!({"apiVersion": "gpheal.io/v1alpha1", "kind": "SegmentRecovery", "name": "mend", "uid": owner});
    expect("GET", JOB, json!({"metadata": {"name": "mend-d5-a1", "ownerReferences": [owner], "labels": {"gpheal.io/dbid": "5"}}}))
}

#[tokio::test]
async fn the_instances_are_named_then_the_job_is_made_then_the_status_says_so() {
    let naming = expect("PATCH", STATUS, answered("21")).body(|body| {
        assert_eq!(body["metadata"]["resourceVersion"], "20");
        assert_eq!((&body["status"]["instances"][0]["attempt"], &body["status"]["phase"]), (&json!(0), &json!("Pending")));
    });
    let (applier, task) = applier(vec![naming, made(), begun("21")]);
    let moved = advance(&applier, &fixtures::recovery("mend", &[5])).await;
    assert!(moved.made && moved.errors.is_empty() && matches!(moved.written, Written::Now(_)));
    drop(applier);
    finished(task).await;
}

#[tokio::test]
async fn once_named_the_job_comes_first() {
    let (applier, task) = applier(vec![made(), begun("20")]);
    advance(&applier, &named("Pending")).await;
    drop(applier);
    finished(task).await;
}

#[tokio::test]
async fn a_job_that_is_there_and_ours_is_adopted() {
    let (applier, task) = applier(vec![exists(), found("uid-mend"), begun("20")]);
    assert!(advance(&applier, &named("Pending")).await.errors.is_empty());
    drop(applier);
    finished(task).await;
}

#[tokio::test]
async fn anothers_job_of_that_name_is_no_attempt() {
    let not_begun = expect("PATCH", STATUS, answered("22")).body(|body| {
        assert_eq!((&body["status"]["instances"][0]["attempt"], &body["status"]["phase"]), (&json!(0), &json!("Pending")));
        assert!(body["status"]["message"].as_str().unwrap().contains("taken by a Job that is not ours"));
    });
    let (applier, task) = applier(vec![exists(), found("uid-of-a-deleted-namesake"), not_begun]);
    assert_eq!(advance(&applier, &named("Pending")).await.errors.len(), 1);
    drop(applier);
    finished(task).await;
}

#[tokio::test]
async fn a_job_that_is_refused_leaves_the_attempt_unbegun_and_says_why() {
    let quota = made().refused(403, "exceeded quota");
    let not_begun = expect("PATCH", STATUS, answered("22")).body(|body| {
        assert_eq!(body["status"]["instances"][0]["attempt"], 0);
        assert!(body["status"]["message"].as_str().unwrap().contains("exceeded quota"), "{body}");
    });
    let (applier, task) = applier(vec![quota, not_begun]);
    assert_eq!(advance(&applier, &named("Pending")).await.errors.len(), 1);
    drop(applier);
    finished(task).await;
}

#[tokio::test]
async fn a_status_that_moved_or_went_is_looked_at_again() {
    for code in [(409, "Conflict"), (404, "NotFound")] {
        let (applier, task) = applier(vec![expect("PATCH", STATUS, json!({})).refused(code.0, code.1)]);
        let status = SegmentRecoveryStatus { message: "new".into(), ..SegmentRecoveryStatus::default() };
        let written = applier.status(&named("Pending"), None, &status).await.unwrap();
        assert_eq!(written, Written::Moved);
        drop(applier);
        finished(task).await;
    }
}

#[tokio::test]
async fn a_conflict_before_the_job_makes_no_job() {
    let (applier, task) = applier(vec![expect("PATCH", STATUS, json!({})).refused(409, "Conflict")]);
    let moved = advance(&applier, &fixtures::recovery("mend", &[5])).await;
    assert!(matches!(moved.written, Written::Moved) && !moved.made);
    drop(applier);
    finished(task).await;
}

#[tokio::test]
async fn what_says_the_same_is_not_written() {
    let (applier, task) = applier(vec![]);
    let object = named("Running");
    let same = object.status.clone().unwrap();
    assert_eq!(applier.status(&object, object.status.as_ref(), &same).await.unwrap(), Written::Unchanged);
    drop(applier);
    finished(task).await;
}

#[tokio::test]
async fn a_status_is_applied_by_force_under_our_name() {
    let (service, mut handle) = tower_test::mock::pair::<Request<kube::client::Body>, http::Response<kube::client::Body>>();
    let asked = tokio::spawn(async move {
        let (request, _) = handle.next_request().await.unwrap();
        let query = request.uri().query().unwrap_or_default().to_owned();
        (query, request.headers()[http::header::CONTENT_TYPE].to_str().unwrap().to_owned())
    });
    let applier = Applier::new(kube::Client::new(service, "demo"), "demo", None);
    let _ = applier.status(&named("Pending"), None, &SegmentRecoveryStatus::default()).await;
    let (query, kind) = asked.await.unwrap();
    assert!(query.contains("fieldManager=gpheal") && query.contains("force=true"), "{query}");
    assert_eq!(kind, "application/apply-patch+yaml");
}

fn new_recovery() -> Plan {
    let world = World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |p| p.state = InstanceState::NeedsFull);
    let plan = plan::plan(&Policy::default(), &world, worlds::now());
    assert_eq!(plan.new_recoveries.len(), 1);
    plan
}

#[tokio::test]
async fn a_recovery_is_made_for_its_cluster() {
    let made = expect("POST", RECOVERIES, serde_json::to_value(fixtures::recovery("r", &[5])).unwrap()).body(|body| {
        assert!(body["metadata"]["name"].as_str().unwrap().starts_with("demo-d5-"));
        assert_eq!(body["spec"], json!({"clusterRef": {"name": "demo"}, "targets": {"dbids": [5]}, "type": "Auto"}));
        assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "uid-cluster");
        assert_eq!(body["metadata"]["labels"]["gpheal.io/origin"], "automatic");
    });
    let (applier, task) = applier(vec![made]);
    let done = applier.new_recoveries(&fixtures::cluster(), &new_recovery()).await;
    assert_eq!((done.recoveries.len(), done.made, done.errors.len()), (1, true, 0));
    drop(applier);
    finished(task).await;
}

#[tokio::test]
async fn a_recovery_that_is_there_is_the_same_one() {
    let (applier, task) = applier(vec![expect("POST", RECOVERIES, json!({})).refused(409, "AlreadyExists")]);
    let done = applier.new_recoveries(&fixtures::cluster(), &new_recovery()).await;
    assert_eq!((done.recoveries.len(), done.made, done.errors.len()), (0, false, 0), "the next look lists it, and need not come at once");
    drop(applier);
    finished(task).await;
}

/// The Job of the first attempt, as a look saw it.
fn job_seen(begun: bool, node_gone: bool) -> JobSeen {
    let asked = Asked { name: "mend-d5-a1", recovery: "mend", uid: "uid-mend", dbid: Dbid(5), number: 1 };
    let object = job("mend", 5, 1, |job| job["metadata"]["resourceVersion"] = json!("7"));
    let mut seen = jobs::seen(&asked, Some(&object), &[]);
    (seen.view.begun, seen.view.node_gone) = (begun, node_gone);
    seen
}

async fn end(script: Vec<Exchange>, job: &JobSeen) -> Result<bool, super::ApplyError> {
    let (applier, task) = applier(script);
    let ended = applier.end_job(Dbid(5), Some(job), "its pod is not made").await;
    drop(applier);
    finished(task).await;
    ended
}

#[tokio::test]
async fn a_job_that_has_not_begun_is_ended_as_it_was_seen() {
    let deleted = || {
        expect("DELETE", JOB, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})).body(|body| {
            assert_eq!(body["preconditions"], json!({"uid": "uid-mend-d5-a1", "resourceVersion": "7"}));
            assert_eq!(body["propagationPolicy"], "Background");
        })
    };
    assert!(matches!(end(vec![deleted()], &job_seen(false, false)).await, Ok(true)));
    assert!(matches!(end(vec![deleted()], &job_seen(true, true)).await, Ok(true)), "nothing runs on a node that is gone");
    for (code, reason) in [(409, "Conflict"), (404, "NotFound")] {
        assert!(matches!(end(vec![deleted().refused(code, reason)], &job_seen(false, false)).await, Ok(false)), "it is looked at again");
    }
    assert!(end(vec![deleted().refused(403, "Forbidden")], &job_seen(false, false)).await.is_err());
}

#[tokio::test]
async fn a_job_that_may_copy_on_a_living_node_is_never_ended() {
    let refused = end(vec![], &job_seen(true, false)).await.unwrap_err();
    assert!(refused.to_string().contains("may have begun to copy"), "{refused}");
}

#[tokio::test]
async fn what_the_plan_ends_is_ended_once_and_looked_at_soon() {
    let deleted = expect("DELETE", JOB, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
    let status = expect("PATCH", STATUS, answered("22"));
    let (applier, task) = applier(vec![deleted, status]);
    let mut object = named("Running");
    let instances = json!([{"dbid": 5, "content": 0, "phase": "Running", "attempt": 1}]);
    object.status = serde_json::from_value(json!({"phase": "Running", "instances": instances})).unwrap();
    let (mut seen, mut next) = seen(&object);
    seen.jobs.insert("mend".into(), BTreeMap::from([(Dbid(5), job_seen(false, false))]));
    let instance = next.instances.get_mut(&Dbid(5)).unwrap();
    (instance.create_job, instance.end_job) = (None, Some("its pod is not made".into()));
    let make = |next: &RecoveryNext| report::recovery::status(&object, next, &BTreeMap::new(), worlds::now());
    let moved = applier.advance(&fixtures::cluster(), &seen, &object, &next, &make, &|_, _| true).await.unwrap();
    assert!(moved.made && moved.errors.is_empty(), "{moved:?}");
    drop(applier);
    finished(task).await;
}

const OLD: &str = "/apis/gpheal.io/v1alpha1/namespaces/demo/segmentrecoveries/old";

async fn remove(script: Vec<Exchange>) -> Result<(), super::ApplyError> {
    let (applier, task) = applier(script);
    let objects = BTreeMap::from([("old".to_owned(), fixtures::recovery("old", &[5]))]);
    let (seen, _) = seen(&named("Pending"));
    let removal = |name: &str| Removal { recovery: name.into(), why: "it ended long ago".into() };
    let plan = Plan { removals: vec![removal("gone"), removal("old")], ..Plan::default() };
    let removed = applier.remove(&Seen { objects, ..seen }, &plan).await;
    drop(applier);
    finished(task).await;
    removed
}

#[tokio::test]
async fn an_old_recovery_is_removed_as_it_was_seen() {
    let deleted = || {
        expect("DELETE", OLD, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            .body(|body| assert_eq!(body["preconditions"], json!({"uid": "uid-old", "resourceVersion": "20"})))
    };
    assert!(remove(vec![deleted()]).await.is_ok());
    for (code, reason) in [(409, "Conflict"), (404, "NotFound")] {
        assert!(remove(vec![deleted().refused(code, reason)]).await.is_ok(), "it is looked at again");
    }
    assert!(remove(vec![deleted().refused(403, "Forbidden")]).await.is_err());
}
