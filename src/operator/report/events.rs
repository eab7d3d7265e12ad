//! Events: one per change, made from the difference of two statuses. The recorder of kube would fold two events
//! of one reason into a series and lose the second one's note, so they are created here.

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, core::ObjectMeta};

use crate::error;
use api::{
    GreenplumClusterStatus, SegmentRecoveryStatus,
    cluster::UnwellInstance,
    condition, labels,
    recovery::{InstanceStatus, Phase},
};
use model::Repair;

/// Longest note that the API server takes.
const LONGEST: usize = 1000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    pub warning: bool,
    /// PascalCase, at most 128 characters.
    pub reason: String,
    pub note: String,
    /// To which instance, for the log.
    pub dbid: Option<i32>,
    pub content: Option<i32>,
}

impl Happened {
    /// Nothing to worry about.
    pub fn normal(reason: &str, note: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.to_owned(), note: note.into(), dbid: None, content: None }
    }

    /// Worth a look.
    pub fn warning(reason: &str, note: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(reason, note) }
    }

    fn to(self, dbid: i32, content: i32) -> Self {
        Self { dbid: Some(dbid), content: Some(content), ..self }
    }
}

/// What happened to a cluster between two statuses. Whatever was wrong before it was first looked at is told too.
pub fn of_cluster(old: Option<&GreenplumClusterStatus>, new: &GreenplumClusterStatus) -> Vec<Happened> {
    let nothing = GreenplumClusterStatus::default();
    let before = old.unwrap_or(&nothing);
    let mut happened = coordinator(before, new);
    let same = |one: &UnwellInstance, other: &UnwellInstance| one.dbid == other.dbid;
    for one in &new.instances {
        let known = before.instances.iter().find(|other| same(one, other));
        if known.is_none_or(|known| known.reason != one.reason) {
            happened.push(unwell(one));
        }
    }
    let listed_all = new.unlisted == 0 && before.unlisted == 0;
    let gone = before.instances.iter().filter(|one| listed_all && !new.instances.iter().any(|other| same(one, other)));
    let well = |one: &UnwellInstance| {
        let note = format!("dbid {} (content {}) is well again", one.dbid, one.content);
        Happened::normal("InstanceWell", note).to(one.dbid, one.content)
    };
    happened.extend(gone.map(well));
    happened
}

fn coordinator(before: &GreenplumClusterStatus, new: &GreenplumClusterStatus) -> Vec<Happened> {
    let kind = "CoordinatorReachable";
    let known = before.conditions.iter().any(|c| c.type_ == kind);
    let (was, is) = (condition::holds(&before.conditions, kind), condition::holds(&new.conditions, kind));
    let reason = new.conditions.iter().find(|c| c.type_ == kind).map_or("CoordinatorUnreachable", |c| c.reason.as_str());
    match (known, was, is) {
        (_, true, false) | (false, _, false) => vec![Happened::warning(reason, new.message.clone())],
        (true, false, true) => vec![Happened::normal("CoordinatorReachable", "the coordinator answers again")],
        _ => vec![],
    }
}

fn unwell(one: &UnwellInstance) -> Happened {
    let lifted = if one.lifted_by.is_empty() { String::new() } else { format!("; {}", one.lifted_by) };
    let note = format!("dbid {} (content {}, {}): {}{lifted}", one.dbid, one.content, one.row, one.message);
    let passing =
        matches!(one.reason.as_str(), "Recovering" | "Planned" | "CatchingUp" | "AlreadyRecovering" | "JobBudget" | "SupervisorSays");
    Happened { warning: !passing, ..Happened::normal(&one.reason, note).to(one.dbid, one.content) }
}

/// What happened to a recovery between two statuses.
pub fn of_recovery(old: Option<&SegmentRecoveryStatus>, new: &SegmentRecoveryStatus) -> Vec<Happened> {
    let mut happened = vec![];
    for one in &new.instances {
        let before = old.and_then(|old| old.instances.iter().find(|other| other.dbid == one.dbid));
        happened.extend(of_instance(before, one).into_iter().map(|happened| happened.to(one.dbid, one.content)));
    }
    let before = old.map(|old| old.phase);
    if before != Some(new.phase) {
        match new.phase {
            Phase::Succeeded => happened.push(Happened::normal("Succeeded", new.message.clone())),
            Phase::Failed => happened.push(Happened::warning("Failed", new.message.clone())),
            Phase::Refused => happened.push(Happened::warning("Refused", new.message.clone())),
            Phase::Cancelled => happened.push(Happened::normal("Cancelled", new.message.clone())),
            Phase::Pending | Phase::Running | Phase::Other => {}
        }
    }
    happened
}

fn of_instance(before: Option<&InstanceStatus>, one: &InstanceStatus) -> Vec<Happened> {
    let mut happened = vec![];
    let (dbid, attempt) = (one.dbid, one.attempt);
    if let Some(failure) = one.failure.as_ref().filter(|failure| before.and_then(|b| b.failure.as_ref()) != Some(failure)) {
        let note = format!("dbid {dbid}: attempt ended in {} with {}: {}", failure.step, failure.class, failure.message);
        happened.push(Happened::warning("AttemptFailed", note));
    }
    if attempt > before.map_or(0, |before| before.attempt) {
        let kind = one.type_.map_or("", Repair::as_str);
        let source = one.source_dbid.map_or(String::new(), |source| format!(" from dbid {source}"));
        let job = one.job.as_deref().unwrap_or_default();
        happened
            .push(Happened::normal("AttemptBegun", format!("dbid {dbid}: attempt {attempt} ({kind}{source}) as Job {job}: {}", one.why)));
    }
    if one.verifying_since.is_some() && before.is_none_or(|before| before.verifying_since.is_none()) {
        happened.push(Happened::normal("Copied", format!("dbid {dbid}: the copy is whole; FTS and replication have to prove it")));
    }
    if one.phase == Phase::Succeeded && before.is_none_or(|before| before.phase != Phase::Succeeded) {
        happened.push(Happened::normal("Healed", format!("dbid {dbid} is a mirror in sync again")));
    }
    happened
}

/// Sends events; that one cannot be sent is logged and nothing else.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    instance: String,
}

impl Sender {
    /// `instance` names this very operator, such as its pod.
    pub fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: instance.to_owned() }
    }

    pub async fn send(&self, about: &ObjectReference, all: &[Happened], now: Timestamp) {
        let namespace = about.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        for (number, happened) in all.iter().enumerate() {
            let event = self.event(about, happened, now, number);
            let sent =
                tokio::time::timeout(std::time::Duration::from_secs(10), api.create(&kube::api::PostParams::default(), &event)).await;
            match sent {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(error = error::chain(&error), reason = %happened.reason, "an event cannot be sent"),
                Err(_) => tracing::warn!(reason = %happened.reason, "no answer within 10 s when sending an event"),
            }
        }
    }

    fn event(&self, about: &ObjectReference, happened: &Happened, now: Timestamp, number: usize) -> Event {
        let name = format!("{}.{:x}{number:x}", about.name.as_deref().unwrap_or(labels::MANAGER), now.as_nanosecond());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: about.namespace.clone(), ..ObjectMeta::default() },
            action: Some("Heal".into()),
            event_time: Some(MicroTime(now)),
            note: Some(error::cut(&happened.note, LONGEST)),
            reason: Some(error::cut(&happened.reason, 128)),
            regarding: Some(about.clone()),
            reporting_controller: Some("gpheal.io/operator".into()),
            reporting_instance: Some(error::cut(&self.instance, 128)),
            type_: Some(if happened.warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::mock::{expect, finished, server};
    use api::{convert, fixtures};
    use kube::Resource;
    use model::{Dbid, JobState, world::fixtures as worlds};
    use serde_json::json;

    fn reasons(happened: &[Happened]) -> Vec<&str> {
        happened.iter().map(|one| one.reason.as_str()).collect()
    }

    fn recovery(change: impl FnOnce(&mut InstanceStatus)) -> SegmentRecoveryStatus {
        let running = worlds::running("mend", 5, 0, Repair::Full, JobState::Active);
        let mut instance = convert::instance_status(Dbid(5), &running.instances[&Dbid(5)]);
        change(&mut instance);
        SegmentRecoveryStatus { phase: Phase::Running, instances: vec![instance], ..SegmentRecoveryStatus::default() }
    }

    #[test]
    fn each_change_of_a_recovery_is_told_once() {
        let begun = recovery(|_| ());
        assert_eq!(reasons(&of_recovery(None, &begun)), ["AttemptBegun"]);
        assert_eq!(of_recovery(Some(&begun), &begun), []);
        let progressed = recovery(|one| one.bytes = Some(7));
        assert_eq!(of_recovery(Some(&begun), &progressed), []);
        let copied = recovery(|one| one.verifying_since = one.attempt_started_at.clone());
        assert_eq!(reasons(&of_recovery(Some(&begun), &copied)), ["Copied"]);
        let mut healed = recovery(|one| {
            one.verifying_since = one.attempt_started_at.clone();
            one.phase = Phase::Succeeded;
        });
        healed.phase = Phase::Succeeded;
        assert_eq!(reasons(&of_recovery(Some(&copied), &healed)), ["Healed", "Succeeded"]);
    }

    #[test]
    fn a_failed_attempt_and_the_next_are_told_in_order() {
        let failed = recovery(|one| {
            one.attempt = 2;
            one.failure = serde_json::from_value(json!({"class": "WalRemoved", "step": "Copying", "message": "gone"})).unwrap();
        });
        assert_eq!(reasons(&of_recovery(Some(&recovery(|_| ())), &failed)), ["AttemptFailed", "AttemptBegun"]);
    }

    fn cluster(instances: &serde_json::Value) -> GreenplumClusterStatus {
        let reachable = json!([{"type": "CoordinatorReachable", "status": "True", "reason": "Answers", "message": "",
            "lastTransitionTime": "2027-01-15T08:00:00Z"}]);
        serde_json::from_value(json!({"instances": instances, "conditions": reachable})).unwrap()
    }

    fn unwell(reason: &str, message: &str) -> serde_json::Value {
        json!([{"dbid": 5, "content": 0, "row": "5:0mmnd", "since": "2027-01-15T08:00:00Z", "reason": reason, "message": message}])
    }

    #[test]
    fn an_instance_is_told_when_its_reason_changes_and_when_it_is_well() {
        let (well, grace) = (cluster(&json!([])), cluster(&unwell("WithinGrace", "a")));
        assert_eq!(reasons(&of_cluster(Some(&well), &grace)), ["WithinGrace"]);
        assert_eq!(of_cluster(Some(&grace), &cluster(&unwell("WithinGrace", "b"))), []);
        let recovering = of_cluster(Some(&grace), &cluster(&unwell("Recovering", "a")));
        assert_eq!((recovering[0].reason.as_str(), recovering[0].warning), ("Recovering", false));
        assert_eq!(reasons(&of_cluster(Some(&grace), &well)), ["InstanceWell"]);
    }

    #[tokio::test]
    async fn an_event_is_created_for_the_object_in_its_namespace() {
        let object = fixtures::cluster();
        let created = expect("POST", "/apis/events.k8s.io/v1/namespaces/demo/events", json!({"metadata": {}})).body(|event| {
            assert_eq!((&event["regarding"]["uid"], &event["reason"]), (&json!("uid-cluster"), &json!("DoubleFault")));
            assert_eq!((&event["type"], event["note"].as_str().unwrap().len()), (&json!("Warning"), LONGEST));
        });
        let (client, task) = server(vec![created]);
        let sender = Sender::new(client, "gpheal-0");
        sender.send(&object.object_ref(&()), &[Happened::warning("DoubleFault", "x".repeat(2000))], worlds::now()).await;
        drop(sender);
        finished(task).await;
    }
}
