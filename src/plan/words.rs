//! What a recovery is told to be doing, in one sentence for each of its instances.

use std::collections::BTreeMap;

use super::{desk::Desk, proof};
use model::{Dbid, Failure, FailureClass, InstanceNext, Missing, Phase, RecoveryInstance, Refusal, Repair, Standing};

/// The message of a recovery.
pub fn message(desk: &Desk, phase: Phase, instances: &BTreeMap<Dbid, InstanceNext>) -> String {
    if instances.is_empty() {
        return "nothing was down".into();
    }
    let said: Vec<_> =
        instances.iter().filter_map(|(dbid, next)| line(desk, *dbid, next).map(|line| format!("dbid {dbid}: {line}"))).collect();
    if said.is_empty() { phase.as_str().to_owned() } else { said.join("; ") }
}

fn line(desk: &Desk, dbid: Dbid, next: &InstanceNext) -> Option<String> {
    let state = &next.state;
    let said = match &next.standing {
        Standing::Waiting(refusal) => waiting(refusal),
        Standing::Refused(refusal) => format!("refused ({}): {refusal}; {}", refusal.code(), refusal.lifted_by()),
        Standing::BackingOff { .. } => format!("{}{}{}", backing_off(next)?, without(desk, dbid, state), in_a_row(desk, state)),
        Standing::Attempting => attempt(state),
        Standing::Stuck(refusal) => match &next.end_job {
            Some(why) => format!("{} is ended: {why}", attempt(state)),
            None => format!("{} is stuck ({}): {refusal}; {}", attempt(state), refusal.code(), refusal.lifted_by()),
        },
        Standing::Proving(missing) => format!("{}; not proven yet: {}{}", done(state), listed(missing), in_vain(desk, dbid, missing)),
        Standing::Healed => "in sync".into(),
        Standing::Failed => format!("{}{}{}", failure(state), without(desk, dbid, state), in_a_row(desk, state)),
        Standing::Over => return None,
    };
    Some(next.note.as_ref().map_or(said.clone(), |note| format!("{said}; {note}")))
}

fn listed(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Why nothing goes on with an instance just now, if so, for the status of its cluster.
pub fn trouble(next: &InstanceNext) -> Option<String> {
    let waits = || match &next.standing {
        Standing::Waiting(refusal) => Some(format!("it {}", waiting(refusal))),
        Standing::BackingOff { .. } => backing_off(next),
        Standing::Refused(_)
        | Standing::Attempting
        | Standing::Stuck(_)
        | Standing::Proving(_)
        | Standing::Healed
        | Standing::Failed
        | Standing::Over => None,
    };
    next.note.clone().or_else(waits)
}

fn waiting(refusal: &Refusal) -> String {
    format!("waits ({}): {refusal}; {}", refusal.code(), refusal.lifted_by())
}

/// What an instance waits for between two attempts, if it does, and what may be done about it meanwhile.
fn backing_off(next: &InstanceNext) -> Option<String> {
    let (Standing::BackingOff { until }, failure) = (&next.standing, next.state.failure.as_ref()) else { return None };
    let lifted = failure.map_or(String::new(), |failure| format!("; lifted {}", failure.class.lifted_by()));
    Some(format!("next attempt at {until} after {}{lifted}", self::failure(&next.state)))
}

/// What the newest attempt did.
fn done(state: &RecoveryInstance) -> &'static str {
    match (state.attempt, state.changed) {
        (0, _) => "nothing was done",
        (_, Some(false)) => "nothing had to be copied",
        (_, Some(true) | None) => "copied",
    }
}

/// Of a file that was missing: what the Job did not have that its pod has.
fn without(desk: &Desk, dbid: Dbid, state: &RecoveryInstance) -> String {
    let is_missing = |failure: &Failure| {
        let told = matches!(failure.class, FailureClass::Environment | FailureClass::Configuration | FailureClass::VersionDiffers);
        told && [&failure.message, &failure.evidence].iter().any(|text| text.contains("No such file"))
    };
    let lacks = state.failure.as_ref().filter(|failure| is_missing(failure)).and(desk.world.instances.get(&dbid));
    let what = lacks.and_then(|instance| instance.job_lacks.as_ref());
    what.map_or_else(String::new, |what| format!("; its Job lacks {what}"))
}

fn attempt(state: &RecoveryInstance) -> String {
    format!("attempt {} ({})", state.attempt, state.repair.map_or("", Repair::as_str))
}

fn failure(state: &RecoveryInstance) -> String {
    state.failure.as_ref().map_or(String::new(), |f| format!("{}: {}", f.class.as_str(), f.message))
}

/// Since when it has been tried in vain, and for how long it will be.
fn in_a_row(desk: &Desk, state: &RecoveryInstance) -> String {
    match state.failing_since {
        Some(since) if state.failures > 1 => format!(
            "; {} attempts have not begun to copy since {since}; they are repeated for some {} hours",
            state.failures,
            desk.policy.retry_for.as_hours()
        ),
        Some(_) | None => String::new(),
    }
}

/// Why points are not proven that nothing else explains: a role that may look and not dispatch, or a mirror whose connections
/// arrive from an address that is not its pod's, would leave the rest proven for ever.
fn in_vain(desk: &Desk, dbid: Dbid, missing: &[Missing]) -> String {
    let unanswered = desk.world.dispatch.unknown().filter(|_| missing == [Missing::Dispatch]);
    let row = desk.catalog.as_ref().and_then(|catalog| catalog.row(dbid)).filter(|_| missing.contains(&Missing::Walsender));
    let elsewhere = row.map(|row| proof::from_elsewhere(desk, row)).filter(|clients| !clients.is_empty());
    match (unanswered, elsewhere) {
        (Some(why), _) => format!("; a statement that the coordinator was to dispatch got no answer: {why}"),
        (None, Some(clients)) => format!(
            "; its primary streams to {}, which is not its pod's address (a proxy or a NAT?): it is proven once the WAL receiver's positions \
             are seen to go along with the walsender's, which takes half a minute",
            clients.join(", ")
        ),
        (None, None) => String::new(),
    }
}
