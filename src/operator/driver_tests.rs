use std::collections::BTreeMap;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};

use super::*;
use crate::{
    apply::mock::Objects,
    observe::{
        cluster::Reader,
        fixtures::{job, job_pod, pod},
        jobs, recoveries,
    },
};
use api::fixtures;
use model::{Dbid, JobState, Look, Repair, world::fixtures as worlds};

const CLUSTER: &str = "/apis/gpheal.io/v1alpha1/namespaces/demo/greenplumclusters/demo";
const CLUSTER_STATUS: &str = "PATCH /apis/gpheal.io/v1alpha1/namespaces/demo/greenplumclusters/demo/status";
const RECOVERIES: &str = "/apis/gpheal.io/v1alpha1/namespaces/demo/segmentrecoveries";
const EVENTS: &str = "POST /apis/events.k8s.io/v1/namespaces/demo/events";

/// A cluster whose credentials are missing, so that its coordinator cannot be asked.
fn objects() -> Objects {
    let objects = Objects::default();
    objects.put(CLUSTER, serde_json::to_value(fixtures::cluster()).unwrap());
    let empty = json!({"metadata": {}, "items": []});
    for list in ["/api/v1/namespaces/demo/pods", "/apis/batch/v1/namespaces/demo/jobs", RECOVERIES] {
        objects.put(list, empty.clone());
    }
    objects
}

fn driver(objects: &Objects) -> Driver {
    let (client, image) = (objects.client(), Some("gpheal:1".to_owned()));
    let context = Context { client: client.clone(), metrics: Metrics::default(), events: Sender::new(client, "me"), image };
    let of = Of { namespace: "demo".into(), cluster: "demo".into() };
    Driver::new(context, of, Arc::new(Notify::new()), watch::channel(None).0)
}

async fn paths(driver: &mut Driver, objects: &Objects) -> Vec<String> {
    driver.pass().await.unwrap();
    objects.writes().into_iter().map(|(path, _)| path).collect()
}

#[test]
fn failures_in_a_row_are_tried_again_ever_more_slowly() {
    assert_eq!([1, 2, 3, 7, 100].map(|n| back_off(n).as_secs()), [1, 2, 4, 60, 60]);
    let (all, some) = (DriveError::TimedOut { name: "demo".into() }, DriveError::NotDone(vec![]));
    assert_eq!([3, 7].map(|n| (pause(&all, n).as_secs(), pause(&some, n).as_secs())), [(4, 4), (60, 10)]);
}

#[tokio::test]
async fn what_has_just_fallen_is_looked_at_twice_a_second_and_what_is_well_twice_a_minute() {
    let mut driver = driver(&Objects::default());
    let mut due = |rows: &[&str], since: i64| {
        let mut world = World::of(rows);
        world.dispatch = model::Look::Unknown("not asked".into());
        let mut plan = plan::plan(&model::Policy::default(), &world, worlds::now());
        plan.unwell.iter_mut().for_each(|one| one.since = worlds::ago(since));
        plan.new_recoveries.clear();
        driver.due(&world, &plan, false, worlds::now())
    };
    assert_eq!(due(&["2:0ppsu", "5:0mmsu"], 0), WELL);
    assert_eq!(due(&["2:0ppnu", "5:0mmnu"], 5), SOON);
    assert_eq!(due(&["2:0ppnu", "5:0mmnu"], 60), RESTLESS);
}

#[tokio::test]
async fn what_changed_is_written_and_told_once_and_then_nothing() {
    let objects = objects();
    let mut driver = driver(&objects);
    driver.pass().await.unwrap();
    let writes = objects.writes();
    let [(status, body), (event, told)] = &writes[..] else { panic!("{writes:?}") };
    assert_eq!((status.as_str(), event.as_str()), (CLUSTER_STATUS, EVENTS));
    assert!(body["status"]["message"].as_str().unwrap().contains("there is no Secret demo-gpadmin"), "{body}");
    assert_eq!(told["reason"], "CredentialsMissing");
    assert_eq!(paths(&mut driver, &objects).await, [""; 0], "an idle look writes nothing");
}

#[tokio::test]
async fn another_operator_finds_the_status_as_it_is_and_writes_nothing() {
    let objects = objects();
    driver(&objects).pass().await.unwrap();
    objects.writes();
    assert_eq!(paths(&mut driver(&objects), &objects).await, [""; 0]);
}

#[tokio::test]
async fn an_object_that_is_gone_ends_its_driver() {
    let objects = objects();
    let mut driver = driver(&objects);
    let mut going: Value = serde_json::to_value(fixtures::cluster()).unwrap();
    going["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:00Z");
    objects.put(CLUSTER, going.clone());
    assert!(matches!(driver.pass().await, Ok(Ended::Gone)));
    assert!(objects.writes().is_empty());
    going["metadata"]["finalizers"] = json!(["example.com/archive"]);
    objects.put(CLUSTER, going.clone());
    assert!(matches!(driver.pass().await, Ok(Ended::Gone)));
    let writes = objects.writes();
    let ready = &writes[0].1["status"]["conditions"][0];
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("Deleting")), "{writes:?}");
    assert!(ready["message"].as_str().unwrap().contains("example.com/archive"), "{ready}");
    going["status"] = writes[0].1["status"].clone();
    objects.put(CLUSTER, going);
    assert!(matches!(driver.pass().await, Ok(Ended::Gone)));
    assert!(objects.writes().is_empty(), "it was said");
}

#[tokio::test]
async fn a_look_without_its_objects_is_an_error_and_says_so() {
    let objects = objects();
    objects.put(RECOVERIES, json!("no list"));
    assert!(matches!(driver(&objects).pass().await, Err(DriveError::Observe(_))));
    let writes = objects.writes();
    let ready = &writes[0].1["status"]["conditions"][0];
    assert_eq!((writes[0].0.as_str(), &ready["reason"]), (CLUSTER_STATUS, &json!("NotObserved")));
}

#[tokio::test]
async fn a_bad_recovery_does_not_blind_the_driver_for_the_others() {
    let objects = objects();
    let running = worlds::running("mend", 5, 0, Repair::Full, JobState::Active);
    let mut good = fixtures::recovery("mend", &[5]);
    let instance = convert::instance_status(Dbid(5), &running.instances[&Dbid(5)]);
    good.status = serde_json::from_value(json!({"phase": "Running", "instances": [instance]})).unwrap();
    let mut bad = serde_json::to_value(fixtures::recovery("bad", &[6])).unwrap();
    bad["spec"] = json!({"clusterRef": 7});
    objects.put(RECOVERIES, json!({"metadata": {}, "items": [bad, good]}));
    objects.put(&format!("{RECOVERIES}/mend"), serde_json::to_value(&good).unwrap());
    let written = paths(&mut driver(&objects), &objects).await;
    // Its Job is gone, so the attempt is lost; without a catalog the next one waits.
    assert!(written.contains(&format!("PATCH {RECOVERIES}/mend/status")), "{written:?}");
    assert!(!written.iter().any(|path| path.contains("bad") || path.contains("/jobs")));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_so_once() {
    let objects = objects();
    let mut wrong = serde_json::to_value(fixtures::cluster()).unwrap();
    wrong["spec"]["healing"] = json!({"mode": "Telepathic"});
    wrong["status"] = json!({"coordinatorTimeline": 7});
    objects.put(CLUSTER, wrong);
    let mut driver = driver(&objects);
    for _ in 0..2 {
        assert!(matches!(driver.pass().await, Err(DriveError::Invalid { .. })));
    }
    let writes = objects.writes();
    let [(path, body)] = &writes[..] else { panic!("{writes:?}") };
    assert_eq!((path.as_str(), body["status"].get("coordinatorTimeline")), (CLUSTER_STATUS, None), "what it remembers stays");
    let ready = &body["status"]["conditions"][0];
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("Invalid")));
    assert!(ready["message"].as_str().unwrap().contains("Telepathic"), "{ready}");
}

#[tokio::test]
async fn a_selector_that_cannot_be_one_is_told_and_stalls() {
    let objects = objects();
    let mut wrong = serde_json::to_value(fixtures::cluster()).unwrap();
    wrong["spec"]["segments"]["selector"] = json!({"matchExpressions": [{"key": "a", "operator": "Likes", "values": ["b"]}]});
    objects.put(CLUSTER, wrong);
    assert!(driver(&objects).pass().await.is_err());
    let conditions = objects.writes()[0].1["status"]["conditions"].clone();
    for (at, kind, status) in [(0, "Ready", "False"), (1, "Stalled", "True")] {
        let one = &conditions[at];
        assert_eq!((&one["type"], &one["status"], &one["reason"]), (&json!(kind), &json!(status), &json!("SelectorInvalid")));
    }
}

/// Looks at a cluster whose credentials are missing, one after the other, for a virtual hour.
#[tokio::test(start_paused = true)]
async fn what_only_a_person_can_change_is_looked_at_ever_less_often() {
    let objects = objects();
    let mut driver = driver(&objects);
    let mut rests = vec![];
    for _ in 0..8 {
        let Ok(Ended::Next { after, .. }) = driver.pass().await else { panic!("the look failed") };
        rests.push(after.as_secs());
    }
    assert_eq!(rests, [2, 4, 8, 16, 30, 30, 30, 30]);
    assert_eq!(objects.writes().len(), 2, "one status and one event");
    // Its pods may do what they want: they wake nobody before five seconds are over.
    let begun = tokio::time::Instant::now();
    driver.wake.notify_one();
    driver.rest(WELL, WELL / 6).await;
    assert_eq!(begun.elapsed().as_secs(), 5);
}

/// Looks at a mirror that needs a full copy, one after the other, for ten virtual seconds; how often, and what is told of it.
async fn ten_seconds(objects: &Objects) -> (usize, Value) {
    let (mut driver, reader) = (driver(objects), Reader::new(objects.client(), "demo"));
    let (cluster, begun, mut looks) = (fixtures::cluster(), tokio::time::Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(10) {
        let listed = reader.recoveries("demo").await.unwrap();
        let mut world = needs_full();
        world.recoveries = listed.ours.iter().map(convert::recovery).collect();
        world.unreadable = [listed.unreadable, listed.foreign].concat();
        let seen = Seen { world, pods: BTreeMap::new(), objects: BTreeMap::new(), jobs: BTreeMap::new() };
        let Ok(Ended::Next { after, .. }) = driver.act(&cluster, &seen, worlds::now()).await else { panic!("the look failed") };
        looks += 1;
        driver.rest(after, APART).await;
    }
    let told = objects.writes().into_iter().rev().find(|(path, _)| path == CLUSTER_STATUS).expect("a status");
    (looks, told.1["status"]["instances"][0].clone())
}

fn needs_full() -> World {
    World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |page| (page.state, page.receiving) = (model::InstanceState::NeedsFull, false))
}

/// A recovery of the name that the next one of this mirror would have.
fn namesake(objects: &Objects, change: impl FnOnce(&mut Value)) {
    let name = plan::names::recovery(&plan::names::fault(&needs_full(), Dbid(5)), 1);
    let mut object = serde_json::to_value(fixtures::recovery(&name, &[5])).unwrap();
    change(&mut object);
    objects.put(&format!("{RECOVERIES}/{name}"), object.clone());
    objects.put(RECOVERIES, json!({"metadata": {}, "items": [object]}));
}

/// What makes an object one that this version cannot read.
type Change = Box<dyn FnOnce(&mut Value)>;

#[tokio::test(start_paused = true)]
async fn a_recovery_that_this_version_cannot_read_keeps_its_name_and_its_fault_is_told_without_a_hot_loop() {
    let spec = |o: &mut Value| o["spec"]["targets"] = json!("all of them");
    let of_recovery = |o: &mut Value| o["status"] = json!({"phase": "Approving"});
    let instances = |phase: &str| json!({"phase": "Running", "instances": [{"dbid": 5, "content": 0, "phase": phase}]});
    let of_instance = move |o: &mut Value| o["status"] = instances("Pausing");
    let of_another = |o: &mut Value| o["spec"]["clusterRef"]["name"] = json!("another");
    let changes: [Change; 4] = [Box::new(spec), Box::new(of_recovery), Box::new(of_instance), Box::new(of_another)];
    for change in changes {
        let objects = objects();
        namesake(&objects, change);
        let (looks, told) = ten_seconds(&objects).await;
        assert_eq!(told["reason"], "RecoveryUnreadable", "{told}");
        assert!(told["liftedBy"].as_str().unwrap().contains("by deleting it") && told["recovery"].is_string(), "{told}");
        assert!(looks < 10, "{looks} looks in ten seconds");
    }
}

#[tokio::test(start_paused = true)]
async fn words_of_another_version_in_a_failure_do_not_hide_the_recovery() {
    let objects = objects();
    namesake(&objects, |object| {
        let failure = json!({"class": "Newer", "step": "Pondering", "message": "of another version"});
        let instance = json!({"dbid": 5, "content": 0, "phase": "Failed", "attempt": 1, "type": "Differential", "failure": failure});
        object["status"] = json!({"phase": "Failed", "instances": [instance]});
    });
    let (looks, told) = ten_seconds(&objects).await;
    assert_eq!(told["reason"], "RecoveryFailed", "{told}");
    assert!(looks < 10, "{looks} looks in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_and_listed_by_nobody_is_not_tried_ten_times_a_second() {
    let objects = objects();
    namesake(&objects, |_| ());
    objects.put(RECOVERIES, json!({"metadata": {}, "items": []}));
    let (looks, _) = ten_seconds(&objects).await;
    assert!(looks <= 41, "{looks} looks in ten seconds");
}

/// What became of a pass over a world in which the API server refuses something: the error, the cluster's status, its warnings, and
/// the metrics.
async fn refused(objects: &Objects, seen: &Seen) -> (String, Value, Vec<String>, String) {
    let mut driver = driver(objects);
    let Err(error) = driver.act(&fixtures::cluster(), seen, worlds::now()).await else { panic!("nothing was refused") };
    assert_eq!(driver.observer.not_made.is_empty(), seen.objects.is_empty(), "whose Job was refused goes last in the next pass");
    let writes = objects.writes();
    let status = writes.iter().rev().find(|(path, _)| path == CLUSTER_STATUS).expect("a status").1["status"].clone();
    let warned = |(path, event): &(String, Value)| (path == EVENTS && event["type"] == "Warning").then(|| event["reason"].to_string());
    (crate::error::chain(&error), status, writes.iter().filter_map(warned).collect(), driver.context.metrics.text())
}

fn condition(status: &Value, kind: &str) -> (String, String) {
    let one = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == kind).unwrap();
    (one["status"].as_str().unwrap().into(), one["reason"].as_str().unwrap().into())
}

fn is_told_to_stand_still(told: &(String, Value, Vec<String>, String), why: &str) {
    let (_, status, warned, metrics) = told;
    let one = &status["instances"][0];
    assert_eq!(one["reason"], "NotMade", "{status}");
    assert!(one["message"].as_str().unwrap().contains(why) && one["liftedBy"].as_str().unwrap().contains("the operator's role"), "{one}");
    for (kind, holds) in [("Ready", "False"), ("HealingBlocked", "True"), ("Stalled", "True")] {
        assert_eq!(condition(status, kind), (holds.into(), "NotMade".into()), "{kind}");
    }
    assert_eq!(warned, &["\"NotMade\""]);
    assert!(metrics.contains("code=\"NotMade\"} 1"), "{metrics}");
}

/// It was called `Planned`, for ever, and nothing stood in the way of a repair.
#[tokio::test]
async fn a_recovery_that_the_api_server_refuses_is_told_as_what_stands_in_the_way() {
    let objects = objects();
    objects.refuse(&format!("POST {RECOVERIES}"), 403, "exceeded quota: recoveries");
    let rows = ["2:0ppnu", "3:1ppnu", "5:0mmnd", "6:1mmnd"];
    let needs = |world: World, dbid| world.page(dbid, |page| page.state = model::InstanceState::NeedsFull);
    let seen = |world| Seen { world, pods: BTreeMap::new(), objects: BTreeMap::new(), jobs: BTreeMap::new() };
    let told = refused(&objects, &seen(needs(World::of(&rows), 5))).await;
    is_told_to_stand_still(&told, "exceeded quota: recoveries");
    assert_eq!(condition(&told.1, "Reconciling").0, "False", "there is no recovery");
    let (error, ..) = refused(&objects, &seen([5, 6].into_iter().fold(World::of(&rows), needs))).await;
    assert_eq!(error.matches("cannot create SegmentRecovery").count(), 2, "each is named: {error}");
    objects.refuse(&format!("POST {RECOVERIES}"), 503, "the server is busy");
    let (_, status, ..) = refused(&objects, &seen(needs(World::of(&rows), 5))).await;
    assert_eq!((status["instances"][0]["reason"].as_str(), condition(&status, "Stalled").0.as_str()), (Some("NotMade"), "False"));
}

/// The cluster said that a recovery worked on it, and the recovery named a Job that was never there.
#[tokio::test]
async fn a_job_that_the_api_server_refuses_is_told_as_what_stands_in_the_way() {
    let objects = objects();
    objects.refuse("POST /apis/batch/v1/namespaces/demo/jobs", 403, "exceeded quota: jobs");
    let mut object = fixtures::recovery("mend", &[5]);
    let instances = json!([{"dbid": 5, "content": 0, "phase": "Pending"}]);
    object.status = serde_json::from_value(json!({"phase": "Pending", "instances": instances})).unwrap();
    objects.put(&format!("{RECOVERIES}/mend"), serde_json::to_value(&object).unwrap());
    let world = needs_full().recovery(recoveries::join(&object, &[], &[]).recovery);
    let pods = BTreeMap::from([(Dbid(5), Arc::new(pod("gp-mirror-0", |_| ())))]);
    let seen = Seen { world, pods, objects: BTreeMap::from([("mend".into(), object)]), jobs: BTreeMap::new() };
    let told = refused(&objects, &seen).await;
    is_told_to_stand_still(&told, "exceeded quota: jobs");
    assert_eq!(told.1["instances"][0]["recovery"], "mend");
    let reader = Reader::new(objects.client(), "demo");
    objects.put(RECOVERIES, json!({"metadata": {}, "items": [objects.get(&format!("{RECOVERIES}/mend"))]}));
    let status = serde_json::to_value(reader.recoveries("demo").await.unwrap().ours.remove(0).status).unwrap();
    let one = &status["instances"][0];
    assert_eq!((&one["step"], one.get("job"), &one["attempt"]), (&json!("Waiting"), None, &json!(0)), "{one}");
    assert_eq!(condition(&status, "Stalled"), ("True".into(), "NotMade".into()));
    assert!(status["message"].as_str().unwrap().contains("waits (NotMade): cannot create Job"), "{status}");
}

/// Whether a Job is made for a recovery that was just asked for, and what its status says, beside these Jobs and pods.
async fn asked_for_beside(jobs: &[Job], pods: &[Pod]) -> (bool, Value) {
    let objects = objects();
    let mut object = fixtures::recovery("second", &[5]);
    object.status =
        serde_json::from_value(json!({"phase": "Pending", "instances": [{"dbid": 5, "content": 0, "phase": "Pending"}]})).unwrap();
    objects.put(&format!("{RECOVERIES}/second"), serde_json::to_value(&object).unwrap());
    let joined = recoveries::join(&object, jobs, pods);
    let mut world = needs_full().recovery(joined.recovery);
    world.at_work = Look::Seen(jobs::at_work(jobs, pods));
    let segment = BTreeMap::from([(Dbid(5), Arc::new(pod("gp-mirror-0", |_| ())))]);
    let seen = Seen { world, pods: segment, objects: BTreeMap::from([("second".into(), object)]), jobs: BTreeMap::new() };
    driver(&objects).act(&fixtures::cluster(), &seen, worlds::now()).await.unwrap();
    let writes = objects.writes();
    let status = writes.iter().rev().find(|(path, _)| *path == format!("PATCH {RECOVERIES}/second/status")).expect("a status");
    (writes.iter().any(|(path, _)| path.starts_with("POST") && path.ends_with("/jobs")), status.1["status"].clone())
}

/// A Job's container has said how it ended; that its Job has ended is not counted yet, or its pod is still being stopped.
#[tokio::test]
async fn a_content_gets_no_job_before_the_job_before_it_and_its_pod_have_ended() {
    let ended = |phase: &'static str| {
        move |pod: &mut Value| {
            pod["status"]["phase"] = json!(phase);
            pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 1, "message": "{}"}});
        }
    };
    let uncounted = job("first", 5, 1, |_| ());
    let counted = job("first", 5, 1, |job| job["status"] = json!({"conditions": [{"type": "Failed", "status": "True"}]}));
    for (jobs, pods) in [
        (vec![uncounted.clone()], vec![job_pod("first", 5, 1, ended("Failed"))]),
        (vec![uncounted], vec![]),
        (vec![counted.clone()], vec![job_pod("first", 5, 1, ended("Running"))]),
        (vec![], vec![job_pod("first", 5, 1, |_| ())]), // its recovery was deleted, and its Job with it
    ] {
        let (made, told) = asked_for_beside(&jobs, &pods).await;
        let message = told["message"].as_str().unwrap();
        assert!(!made && message.contains("JobNotEnded") && message.contains("first-d5-a1"), "{message}");
    }
    let (made, _) = asked_for_beside(&[counted], &[job_pod("first", 5, 1, ended("Failed"))]).await;
    assert!(made, "nothing of the first is left");
    let (made, _) = asked_for_beside(&[job("first", 6, 1, |_| ())], &[]).await;
    assert!(made, "that is at another content");
}

/// The role may be one of before, without the right to delete recoveries.
#[tokio::test(start_paused = true)]
async fn old_recoveries_that_cannot_be_removed_hold_up_nothing_and_are_not_tried_in_each_look() {
    let objects = objects();
    let mut driver = driver(&objects);
    let mut world = World::of(&["2:0ppsu", "5:0mmsu"]);
    for number in 0..7 {
        let mut old = worlds::asked(&format!("old-{number}"), &[5], None);
        (old.automatic, old.owner, old.phase) = (true, Some("uid".into()), model::Phase::Succeeded);
        old.ended = Some(worlds::ago(100 * 86_400));
        world = world.recovery(old);
    }
    let listed = world.recoveries.iter().map(|old| (old.name.clone(), fixtures::recovery(&old.name, &[5]))).collect();
    let seen = Seen { world, pods: BTreeMap::new(), objects: listed, jobs: BTreeMap::new() };
    for tried in [1, 0, 1] {
        assert!(matches!(driver.act(&fixtures::cluster(), &seen, worlds::now()).await, Ok(Ended::Next { .. })));
        let asked: Vec<_> = objects.writes().into_iter().map(|(path, _)| path).filter(|path| path.starts_with("DELETE")).collect();
        assert_eq!(asked.len(), tried, "{asked:?}");
        tokio::time::advance(if tried == 1 { Duration::from_mins(9) } else { Duration::from_mins(2) }).await;
    }
}
