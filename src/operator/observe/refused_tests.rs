use serde_json::{Value, json};

use super::*;
use crate::{
    apply::mock::{Exchange, expect, finished, server},
    observe::{
        fixtures::{job, job_pod},
        jobs::{self, Asked},
    },
};
use model::Dbid;

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/demo/events";
const QUOTA: &str = "pods \"r-d5-a1-x7k2p\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=9, limited: pods=9";

fn seen(with_pod: bool) -> JobSeen {
    let job = job("r", 5, 1, |job| job["metadata"]["resourceVersion"] = json!("7"));
    let pods: Vec<_> = with_pod.then(|| job_pod("r", 5, 1, |_| ())).into_iter().collect();
    jobs::seen(&Asked { name: "r-d5-a1", recovery: "r", uid: "uid-r", dbid: Dbid(5), number: 1 }, Some(&job), &pods)
}

/// As the Job's controller writes it, in the old way.
fn event(note: &str, last: &str) -> Value {
    json!({"metadata": {"creationTimestamp": "2027-01-15T08:00:00Z"}, "reason": "FailedCreate", "type": "Warning", "note": note,
        "regarding": {"kind": "Job", "name": "r-d5-a1", "uid": "uid-r-d5-a1"}, "eventTime": null, "deprecatedLastTimestamp": last})
}

fn asked(events: &[Value]) -> Exchange {
    expect("GET", EVENTS, json!({"metadata": {}, "items": events}))
        .query("fieldSelector=regarding.uid%3Duid-r-d5-a1%2Creason%3DFailedCreate")
}

/// What is told of one Job at these seconds after it was first seen without a pod.
async fn told(script: Vec<Exchange>, seconds: &[u64], with_pod: bool) -> Vec<Option<String>> {
    let (client, task) = server(script);
    let (reader, mut refusals, mut all, mut passed) = (Reader::new(client, "demo"), Refusals::default(), vec![], 0);
    for at in seconds {
        tokio::time::advance(Duration::from_secs(at - passed)).await;
        passed = *at;
        let mut job = seen(with_pod);
        refusals.look(&reader, &mut [&mut job]).await;
        all.push(job.view.refused);
    }
    drop(reader);
    finished(task).await;
    all
}

#[tokio::test(start_paused = true)]
async fn why_the_pod_of_a_job_is_not_made_is_told_within_seconds() {
    let first = asked(&[event(&format!("Error creating: {QUOTA}"), "2027-01-15T08:00:01Z")]);
    let limits = "pods \"r-d5-a1-b\" is forbidden: minimum memory usage per Container is 128Mi, but request is 64Mi";
    let later = asked(&[
        event(&format!("(combined from similar events): Error creating: {limits}"), "2027-01-15T08:00:09Z"),
        event(&format!("Error creating: {QUOTA}"), "2027-01-15T08:00:01Z"),
    ]);
    let told = told(vec![first, later], &[0, 4, 5, 14, 15], false).await;
    let (quota, limits) = (Some(QUOTA.to_owned()), Some(limits.to_owned()));
    assert_eq!(told, [None, None, quota.clone(), quota, limits], "read when it is late, and not in every look");
}

#[tokio::test(start_paused = true)]
async fn no_events_are_read_of_a_job_that_has_its_pod() {
    assert_eq!(told(vec![], &[0, 30, 60], true).await, [None, None, None]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_forgotten_is_not_taken_back_and_one_of_another_reason_says_nothing() {
    let other = json!({"metadata": {}, "reason": "SuccessfulCreate", "note": "Created pod: r-d5-a1-x", "eventTime": null});
    let told = told(vec![asked(&[other]), asked(&[event(QUOTA, "2027-01-15T08:00:01Z")]), asked(&[])], &[0, 5, 15, 25], false).await;
    assert_eq!(told, [None, None, Some(QUOTA.to_owned()), Some(QUOTA.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_read_events_asks_once_in_ten_minutes() {
    let refused = || expect("GET", EVENTS, json!({})).refused(403, "Forbidden");
    let told = told(vec![refused(), refused()], &[0, 5, 120, 604, 605], false).await;
    assert_eq!(told, [None, None, None, None, None]);
}
