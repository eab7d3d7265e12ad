use serde_json::{Value, json};

use super::*;
use crate::observe::{
    fixtures::{job, job_pod},
    jobs::{self, Asked, Said},
    nodes::NodeSeen,
};
use model::{Dbid, Progress};

const ASKED: Asked<'_> = Asked { name: "r-d5-a1", recovery: "r", uid: "uid-r", dbid: Dbid(5), number: 1 };

/// A Job that is bound to node n1.
fn seen(pod: Option<&dyn Fn(&mut Value)>) -> JobSeen {
    let bound = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}});
    let job = job("r", 5, 1, |job| {
        job["spec"] = json!({"template": {"spec": {"affinity": bound, "containers": [{"name": "recover"}]}}});
        job["metadata"]["resourceVersion"] = json!("7");
    });
    let pods: Vec<_> = pod.into_iter().map(|change| job_pod("r", 5, 1, change)).collect();
    jobs::seen(&ASKED, Some(&job), &pods)
}

/// One that has ended, and nobody knows how.
fn seen_lost(pod: Option<&dyn Fn(&mut Value)>) -> JobSeen {
    let failed = job("r", 5, 1, |job| job["status"] = json!({"failed": 1, "conditions": [{"type": "Failed", "status": "True"}]}));
    let pods: Vec<_> = pod.into_iter().map(|change| job_pod("r", 5, 1, change)).collect();
    let seen = jobs::seen(&ASKED, Some(&failed), &pods);
    assert!(matches!(seen.view.state, JobState::Lost(_)));
    seen
}

/// One whose container runs, and which has said this.
fn running(step: Option<Step>, last: &str) -> JobSeen {
    let on_node = |pod: &mut Value| pod["spec"]["nodeName"] = json!("n1");
    let progress =
        step.map(|step| Progress { step, bytes: 1, total: None, rate: 0, seconds_left: None, read: None, written: None, moves: None });
    JobSeen { said: Said { answered: true, last: last.into(), progress }, ..seen(Some(&on_node)) }
}

fn pending(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]});
}

fn node(ready: bool) -> Node {
    Node::Seen(NodeSeen { ready, out_of_service: false, boot: None })
}

/// What is told of a Job that stays as it is for so many seconds.
async fn after(seconds: u64, job: &JobSeen, facts: &Facts<'_>) -> JobSeen {
    let (mut signs, mut job) = (Signs::default(), job.clone());
    signs.judge(&mut job, facts);
    assert_eq!(job.view.stuck, None, "nothing is believed at first sight");
    tokio::time::advance(Duration::from_secs(seconds)).await;
    signs.judge(&mut job, facts);
    job
}

async fn told(seconds: u64, job: &JobSeen, node: &Node, instance_on: Option<&str>) -> Option<String> {
    after(seconds, job, &Facts { node, instance_on, heartbeat: None }).await.view.stuck
}

#[tokio::test(start_paused = true)]
async fn what_keeps_a_job_from_going_on_is_told_when_it_lasts() {
    let placed = |pod: &mut Value| {
        pod["spec"]["nodeName"] = json!("n1");
        pod["status"] = json!({"phase": "Pending", "containerStatuses": [{"name": "recover", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]});
    };
    let (fine, lost) = (node(true), node(false));
    let cases: [(JobSeen, &Node, Option<&str>, u64, &str); 7] = [
        (running(Some(Step::Copying), "a"), &lost, Some("n1"), 120, "its node n1 is not ready"),
        (running(Some(Step::Copying), "a"), &Node::Gone, Some("n2"), 30, "its node n1 is not there any more"),
        (seen(Some(&pending)), &fine, Some("n2"), 30, "the instance's pod is on node n2, and the Job is bound to n1"),
        (seen(None), &fine, Some("n1"), 120, "kubectl describe job r-d5-a1 says why"),
        (seen(Some(&pending)), &fine, Some("n1"), 120, "its pod is on no node: 0/3 nodes are available"),
        (seen(Some(&placed)), &fine, Some("n1"), 300, "its pod does not start: ErrImagePull: no such image"),
        (running(Some(Step::Copying), "a"), &fine, Some("n1"), 300, "it runs and says nothing"),
    ];
    for (job, node, instance_on, seconds, expected) in cases {
        assert_eq!(told(seconds - 1, &job, node, instance_on).await, None, "{expected}");
        let stuck = told(seconds, &job, node, instance_on).await.expect(expected);
        assert!(stuck.contains(expected), "{stuck}");
    }
}

/// After how many minutes a Job is called stuck, and by what words, of which these things move.
async fn stuck_after(change: impl Fn(&mut Progress, u64), says: bool, beats: Option<bool>) -> Option<(u64, String)> {
    let (live, mut signs) = (node(true), Signs::default());
    for minute in 0..120 {
        let mut job = running(Some(Step::Copying), &if says { format!("line {minute}") } else { "the same".into() });
        let progress = job.said.progress.as_mut().unwrap();
        progress.moves = Some(0);
        change(progress, minute);
        let at = |minute| Timestamp::from_second(1_800_000_000 + i64::try_from(minute).unwrap()).unwrap();
        let heartbeat = beats.map(|beats| at(if beats { minute } else { 0 }));
        signs.judge(&mut job, &Facts { node: &live, instance_on: None, heartbeat });
        if let Some(why) = job.view.stuck {
            return Some((minute, why));
        }
        tokio::time::advance(Duration::from_mins(1)).await;
    }
    None
}

/// A line is printed each second, and a heartbeat written, by threads of their own: a Job whose work hung on the storage of its volume
/// was never called stuck while its process lived, and two of those kept all other contents waiting.
#[tokio::test(start_paused = true)]
async fn what_moves_of_the_work_is_a_sign_of_life_and_no_line_and_no_heartbeat_is() {
    let rate = |progress: &mut Progress, minute| progress.rate = minute;
    for beats in [None, Some(true)] {
        let (after, why) = stuck_after(rate, true, beats).await.unwrap();
        assert_eq!((after, why.as_str()), (30, "it says that it runs, and nothing of its work in step Copying moves"));
    }
    let (after, why) = stuck_after(rate, true, Some(false)).await.unwrap();
    assert!(after == 15 && why.contains("nor does the heartbeat"), "{after}: {why}");
    assert_eq!(stuck_after(|progress, _| progress.moves = None, true, None).await, None, "a Job of an older version");
    let (after, why) = stuck_after(rate, false, Some(false)).await.unwrap();
    assert!(after == 5 && why.contains("says nothing"), "{after}: {why}");
    for moves in [
        &|progress: &mut Progress, minute| progress.bytes = minute,
        &|progress: &mut Progress, minute| progress.read = Some(minute),
        &|progress: &mut Progress, minute| progress.written = Some(minute),
        &|progress: &mut Progress, minute| progress.moves = Some(minute / 14),
        &|progress: &mut Progress, minute| progress.step = [Step::Copying, Step::Configuring][usize::try_from(minute / 14 % 2).unwrap()],
    ] as [&dyn Fn(&mut Progress, u64); 5]
    {
        for beats in [None, Some(true), Some(false)] {
            assert_eq!(stuck_after(moves, true, beats).await, None);
        }
    }
}

/// The wall clock of this operator or of a node may be set by a day: it is not asked.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_tomorrow_is_a_heartbeat() {
    let (live, mut signs) = (node(true), Signs::default());
    for day in [0, 1, -1, 0] {
        let mut job = running(Some(Step::Copying), "the same");
        let heartbeat = Timestamp::from_second(1_800_000_000 + day * 86_400).ok();
        signs.judge(&mut job, &Facts { node: &live, instance_on: None, heartbeat });
        assert_eq!(job.view.stuck, None);
        tokio::time::advance(Duration::from_mins(4)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_has_not_begun_to_copy_only_where_that_is_known() {
    let begun = |job: JobSeen, node: Node| async move {
        after(0, &job, &Facts { node: &node, instance_on: None, heartbeat: None }).await.view.begun
    };
    let placed = |pod: &mut Value| {
        pod["spec"]["nodeName"] = json!("n1");
        pod["status"] = json!({"phase": "Pending"});
    };
    let unread = JobSeen { said: Said::default(), ..running(None, "") };
    let unknown = || Node::Unknown("no right".into());
    for (job, node, expected) in [
        (seen(None), unknown(), false),
        (seen(Some(&pending)), unknown(), false),
        (seen(Some(&placed)), node(true), false),
        (seen(Some(&placed)), node(false), true),
        (seen(Some(&placed)), unknown(), true),
        (running(Some(Step::Analysing), "a"), node(true), false),
        (running(Some(Step::Copying), "a"), node(true), true),
        (running(None, ""), node(true), false),
        (running(None, "nonsense"), node(true), true),
        (unread, node(true), true),
    ] {
        let (pod, step) = (job.pod, job.said.clone());
        assert_eq!(begun(job, node.clone()).await, expected, "{pod:?} {step:?} {node:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_rights_to_it_is_unknown_and_told_so() {
    let stuck = told(300, &running(None, ""), &Node::Unknown("this operator has no right to read nodes".into()), None).await.unwrap();
    assert!(stuck.ends_with("whether its node lives is not known: this operator has no right to read nodes"), "{stuck}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_has_ended_is_not_stuck() {
    let mut job = running(None, "");
    job.view.state = JobState::Lost("gone".into());
    assert_eq!(told(3600, &job, &Node::Gone, None).await, None);
}

/// One that a quota kept from having a pod is ended after minutes, and is no attempt that copied: eight of them end nothing.
#[tokio::test(start_paused = true)]
async fn a_job_that_was_ended_before_it_began_has_not_begun_once_it_is_gone() {
    let live = node(true);
    let facts = Facts { node: &live, instance_on: None, heartbeat: None };
    let lost = || JobSeen { object: None, ..seen_lost(None) };
    let begun = |signs: &mut Signs, mut job: JobSeen| {
        signs.judge(&mut job, &facts);
        job.view
    };
    let mut signs = Signs::default();
    assert!(begun(&mut signs, lost()).begun, "who deleted it nobody knows");
    let waiting = begun(&mut signs, seen(None));
    signs.ends(&waiting);
    assert!(!begun(&mut signs, lost()).begun);
    assert!(!begun(&mut signs, lost()).begun, "it is looked at again before the status says so");
    signs.ends(&waiting);
    let copying = begun(&mut signs, running(Some(Step::Copying), "a"));
    signs.ends(&copying);
    assert!(begun(&mut signs, lost()).begun, "it was faster than the deletion");
    signs.keep_only(&[]);
    assert!(signs.ended.is_empty() && signs.since.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_job_whose_container_never_ran_has_not_begun() {
    let evicted = |placed: bool| {
        move |pod: &mut Value| {
            pod["spec"]["nodeName"] = json!(placed.then_some("n1"));
            pod["status"] = json!({"phase": "Failed", "reason": "Evicted"});
        }
    };
    for (placed, ready, expected) in [(false, true, false), (true, true, false), (true, false, true)] {
        let (mut job, node) = (seen_lost(Some(&evicted(placed))), node(ready));
        Signs::default().judge(&mut job, &Facts { node: &node, instance_on: None, heartbeat: None });
        assert_eq!((job.view.begun, job.view.stuck), (expected, None), "{placed} {ready}");
    }
}

/// Once it is gone, nothing else says why it never began; and what one Job was refused is no news of the next.
#[tokio::test(start_paused = true)]
async fn who_refused_the_pod_of_a_job_is_known_as_long_as_the_job_is_asked_for() {
    let live = node(true);
    let facts = Facts { node: &live, instance_on: None, heartbeat: None };
    let mut refused = seen(None);
    refused.view.refused = Some("exceeded quota: small".into());
    let refused = after(120, &refused, &facts).await;
    assert_eq!(refused.view.stuck.as_deref(), Some("its pod is not made: exceeded quota: small"));
    let mut signs = Signs::default();
    signs.ends(&refused.view);
    let mut lost = JobSeen { object: None, ..seen_lost(None) };
    signs.judge(&mut lost, &facts);
    assert_eq!((lost.view.refused.as_deref(), lost.view.begun), (Some("exceeded quota: small"), false));
    signs.keep_only(&[]);
    let mut other = JobSeen { object: None, ..seen_lost(None) };
    signs.judge(&mut other, &facts);
    assert_eq!((other.view.refused, other.view.begun), (None, true));
}
