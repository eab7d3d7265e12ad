use super::*;
use crate::observe::fixtures::{job, job_pod};
use model::{FailureClass, Repair, Step};
use serde_json::{Value, json};

fn view(job: Option<&Job>, pods: &[Pod]) -> JobSeen {
    seen(&Asked { name: "r-d5-a2", recovery: "r", uid: "uid-r", dbid: Dbid(5), number: 2 }, job, pods)
}

/// The pod of an attempt of the recovery with this uid, which has ended well.
fn ended_well(uid: &str, outcome_of: &str) -> Pod {
    let place = json!({"dbid": 5, "hostname": "", "address": "", "port": 1, "dataDirectory": ""});
    let attempt = json!({"id": "r-d5-a2", "cluster": "demo", "recovery": "r", "number": 2, "repair": "Full", "content": 0,
        "target": place, "source": place, "recoveryUid": uid});
    let said = json!({"attempt": "r-d5-a2", "repair": "Full", "recoveryUid": outcome_of}).to_string();
    job_pod("r", 5, 2, |pod| {
        pod["spec"]["containers"][0]["env"] = json!([{"name": "GPHEAL_ATTEMPT", "value": attempt.to_string()}]);
        pod["status"]["phase"] = json!("Succeeded");
        pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0, "message": said}});
    })
}

#[test]
fn an_attempt_of_a_deleted_recovery_of_the_same_name_is_not_believed() {
    let job = job("r", 5, 2, |_| ());
    let state = |pod: Pod| view(Some(&job), &[pod]).view.state;
    assert!(matches!(state(ended_well("uid-r", "uid-r")), JobState::Ended(_)));
    assert_eq!(state(ended_well("uid-of-the-one-before", "uid-of-the-one-before")), JobState::Active, "its pod is none of ours");
    let JobState::Garbled(why) = state(ended_well("uid-r", "uid-of-the-one-before")) else { panic!("it was believed") };
    assert!(why.contains("deleted recovery"), "{why}");
}

fn ended(message: &str) -> impl FnOnce(&mut Value) {
    let message = message.to_owned();
    move |pod| {
        pod["status"]["phase"] = json!("Failed");
        let end = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": message}});
        pod["status"]["containerStatuses"][0]["state"] = end;
    }
}

fn failed(job: &mut Value) {
    job["status"] = json!({"failed": 1, "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]});
}

#[test]
fn the_newest_attempt_of_the_instance_is_found() {
    let jobs = [job("r", 5, 1, |_| ()), job("r", 5, 10, |_| ()), job("r", 6, 11, |_| ()), job("s", 5, 12, |_| ())];
    let jobs: Vec<_> = jobs.iter().collect();
    assert_eq!(newest(&jobs, "r", Dbid(5)).map(|(n, _)| n), Some(10));
    assert_eq!(newest(&jobs, "r", Dbid(7)), None);
}

#[test]
fn a_running_pod_is_active_even_without_its_job() {
    let pods = [job_pod("r", 5, 2, |_| ())];
    let seen = view(None, &pods);
    assert_eq!((seen.view.state, seen.running_pod.as_deref()), (JobState::Active, Some("r-d5-a2-x")));
}

#[test]
fn the_outcome_is_believed_before_the_job_counts_it() {
    let said = json!({"attempt": "r-d5-a2", "repair": "Full", "failure": {"class": "NoRoom", "step": "Proving", "message": "full"}});
    let pods = [job_pod("r", 5, 2, ended(&said.to_string()))];
    let state = view(Some(&job("r", 5, 2, |_| ())), &pods).view.state;
    let JobState::Ended(outcome) = state else { panic!("{state:?}") };
    assert_eq!((outcome.repair, outcome.failure.unwrap().class), (Repair::Full, FailureClass::NoRoom));
}

/// A second pod of an attempt that said that the source is busy, which it was with the first one, made that one's copy count
/// for nothing.
#[test]
fn what_a_second_pod_says_counts_only_once_no_other_one_works_on() {
    let said = |name: &'static str, failure: Value| {
        let text = json!({"attempt": "r-d5-a2", "repair": "Full", "failure": failure}).to_string();
        job_pod("r", 5, 2, move |pod| {
            pod["metadata"]["name"] = json!(name);
            pod["status"]["phase"] = json!("Failed");
            let ended = json!({"exitCode": i32::from(!failure.is_null()), "message": text});
            pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": ended});
        })
    };
    let failure = |class: &str, step: &str| json!({"class": class, "step": step, "message": ""});
    let busy = || said("second", failure("SourceBusy", "Proving"));
    let state = |pods: &[Pod]| view(None, pods);
    for pods in [[busy(), job_pod("r", 5, 2, |_| ())], [job_pod("r", 5, 2, |_| ()), busy()]] {
        let seen = state(&pods);
        assert_eq!((seen.view.state, seen.waits, seen.running_pod.as_deref()), (JobState::Active, None, Some("r-d5-a2-x")));
    }
    let class = |pods: &[Pod]| match state(pods).view.state {
        JobState::Ended(outcome) => outcome.failure.map(|failure| failure.class),
        other => panic!("{other:?}"),
    };
    for turned in [false, true] {
        let pods = |first: Pod| if turned { [first, busy()] } else { [busy(), first] };
        assert_eq!(class(&pods(said("first", Value::Null))), None, "it has copied");
        assert_eq!(class(&pods(said("first", failure("NoRoom", "Copying")))), Some(FailureClass::NoRoom));
    }
}

fn garbled(exit_code: i32, message: &str) -> String {
    let pods = [job_pod("r", 5, 2, |pod| {
        pod["status"]["phase"] = json!("Failed");
        pod["status"]["containerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": exit_code, "reason": "Error", "message": message}});
    })];
    match view(Some(&job("r", 5, 2, failed)), &pods).view.state {
        JobState::Garbled(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_the_outcome_of_this_attempt_is_not_believed() {
    let success = json!({"attempt": "r-d5-a2", "repair": "Full"});
    let others = json!({"attempt": "r-d5-a1", "repair": "Full"});
    let unknown = json!({"attempt": "r-d5-a2", "repair": "Full", "failure": {"class": "Bored", "step": "Proving", "message": ""}});
    for (exit_code, message, told) in [
        (1, "Segmentation fault".to_owned(), "'Segmentation fault'"),
        (0, "done!".to_owned(), "'done!'"),
        (1, success.to_string(), "speaks of success, and its exit code is 1"),
        (0, others.to_string(), "speaks of attempt 'r-d5-a1'"),
        (1, unknown.to_string(), "unknown variant `Bored`"),
        (1, "\u{0}\u{1}\u{fffd}x".repeat(1365), "'...x...x"),
    ] {
        let why = garbled(exit_code, &message);
        assert!(why.contains(told) && why.len() < 2 * SHOWN + 200, "{why}");
    }
}

#[test]
fn progress_that_is_none_or_lies_is_no_harm() {
    assert_eq!(progress("\u{fffd}\u{0}\n{}\n[[[[\n{\"step\":\"Levitating\"}"), None);
    let boast = progress(&format!("{{\"step\":\"Copying\",\"bytes\":{0},\"total\":1,\"rate\":{0},\"secondsLeft\":{0}}}", u64::MAX));
    assert_eq!(boast.unwrap().percent(), Some(100));
}

#[test]
fn an_end_without_outcome_is_lost_with_its_last_words() {
    let pods = [job_pod("r", 5, 2, ended("no JSON"))];
    let JobState::Lost(why) = view(Some(&job("r", 5, 2, failed)), &pods).view.state else { panic!() };
    assert!(why.contains("BackoffLimitExceeded") && why.contains("OOMKilled") && why.contains("no JSON"), "{why}");
    assert!(matches!(view(None, &[]).view.state, JobState::Lost(_)));
}

#[test]
fn an_init_container_that_failed_is_named() {
    let pod = job_pod("r", 5, 2, |pod| {
        pod["status"] = json!({"phase": "Failed", "initContainerStatuses": [{"name": "settings", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]});
    });
    let JobState::Lost(why) = view(Some(&job("r", 5, 2, failed)), &[pod]).view.state else { panic!() };
    assert!(why.contains("init container settings") && why.contains("exit code 3") && why.contains("Omit"), "{why}");
}

#[test]
fn a_job_whose_end_is_not_counted_yet_is_active() {
    assert_eq!(view(Some(&job("r", 5, 2, |_| ())), &[job_pod("r", 5, 2, ended("no JSON"))]).view.state, JobState::Active);
    let fresh = view(Some(&job("r", 5, 2, |_| ())), &[job_pod("r", 5, 1, |_| ())]);
    assert_eq!((fresh.view.state, fresh.waits.as_deref()), (JobState::Active, Some("its pod is not made yet")));
}

#[test]
fn why_a_pod_does_not_run_is_told() {
    let pending = job_pod("r", 5, 2, |p| {
        p["status"] = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]});
    });
    assert_eq!(view(None, &[pending]).waits.as_deref(), Some("0/3 nodes are available"));
    let no_image = job_pod("r", 5, 2, |p| {
        p["status"]["phase"] = json!("Pending");
        p["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
    });
    assert_eq!(view(None, &[no_image]).waits.as_deref(), Some("ErrImagePull: no such image"));
}

#[test]
fn what_keeps_gpheal_from_a_pod_that_waits_for_it_is_told() {
    let beside = |state: Value| {
        let pod = job_pod("r", 5, 2, |pod| {
            let installer = json!({"name": "gpheal", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            pod["status"]["containerStatuses"].as_array_mut().unwrap().push(installer);
        });
        view(None, &[pod]).waits
    };
    let pulled = beside(json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}));
    assert_eq!(pulled.as_deref(), Some("ImagePullBackOff: no such image"));
    let failed = beside(json!({"terminated": {"exitCode": 1, "reason": "Error"}}));
    assert_eq!(
        failed.as_deref(),
        Some("its container gpheal ended with exit code 1: Error; see to its image and delete the Job for another attempt")
    );
    assert_eq!(beside(json!({"running": {}})), None);
    assert_eq!(beside(json!({"terminated": {"exitCode": 0, "reason": "Completed"}})), None);
}

#[test]
fn progress_is_the_newest_line_that_is_one() {
    let log = "{\"step\":\"Holding\"}\n{\"step\":\"Copying\",\"bytes\":5,\"total\":10}\nsomething for people\n{\"step\":\"Cop";
    let progress = progress(log).unwrap();
    assert_eq!((progress.step, progress.percent()), (Step::Copying, Some(50)));
}
