//! Moves one recovery on: from its status and what is seen now to its next status, and the Job to create.

use std::collections::BTreeMap;

use super::{
    Desk, gates,
    gates::Admitted,
    ladder::{self, Next},
    names,
    proof::{self, Proof},
};
use crate::model::{
    Attempt, Content, Dbid, Failure, FailureClass, InstanceNext, JobState, Missing, Outcome, Phase, Place, Recovery, RecoveryInstance,
    RecoveryNext, Refusal, Repair, Role, Standing, Status, Step, Targets, world::MOST_TARGETS,
};

/// The next state of `recovery`.
pub fn advance(desk: &mut Desk, recovery: &Recovery) -> RecoveryNext {
    let targets = match targets(desk, recovery) {
        Ok(targets) => targets,
        Err(refusal) => return unresolved(recovery, &refusal),
    };
    let mut instances = BTreeMap::new();
    for (dbid, content) in targets {
        let state = recovery.instances.get(&dbid).cloned().unwrap_or_else(|| RecoveryInstance::untouched(content));
        instances.insert(dbid, instance(desk, recovery, dbid, state));
    }
    let phase = phase_of(&instances);
    RecoveryNext { phase, message: message(desk, phase, &instances), instances }
}

/// The instances of a recovery: fixed at the first look that could name them.
fn targets(desk: &Desk, recovery: &Recovery) -> Result<Vec<(Dbid, Content)>, Refusal> {
    if !recovery.instances.is_empty() {
        return Ok(recovery.instances.iter().map(|(dbid, state)| (*dbid, state.content)).collect());
    }
    let catalog = gates::catalog(desk.world)?;
    let named = |dbid: &Dbid| match catalog.row(*dbid) {
        Some(row) => Ok((*dbid, row.content)),
        None => Err(Refusal::NotInCatalog { what: format!("dbid {dbid}") }),
    };
    let mirror_of = |content: &Content| match catalog.rows.iter().find(|row| row.content == *content && row.role == Role::Mirror) {
        Some(row) => Ok((row.dbid, row.content)),
        None => Err(Refusal::NotInCatalog { what: format!("content {content}, with a mirror,") }),
    };
    match &recovery.targets {
        Targets::Dbids(dbids) => dbids.iter().map(named).collect(),
        Targets::Contents(contents) => contents.iter().map(mirror_of).collect(),
        Targets::AllDown => {
            let down = catalog.rows.iter().filter(|row| row.content.0 >= 0 && row.status == Status::Down);
            Ok(down.map(|row| (row.dbid, row.content)).take(MOST_TARGETS).collect())
        }
    }
}

fn unresolved(recovery: &Recovery, refusal: &Refusal) -> RecoveryNext {
    let phase = if refusal.is_final() { Phase::Refused } else { recovery.phase };
    RecoveryNext { phase, instances: BTreeMap::new(), message: format!("{}: {refusal}; {}", refusal.code(), refusal.lifted_by()) }
}

fn instance(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, state: RecoveryInstance) -> InstanceNext {
    if state.phase.is_over() {
        return standing(state, Standing::Over);
    }
    if let Some(since) = state.proving_since {
        return prove(desk, recovery, dbid, state, since);
    }
    match state.job.as_ref().map(|job| job.state.clone()) {
        None => begin(desk, recovery, dbid, state),
        Some(JobState::Active) => standing(state, Standing::Attempting),
        Some(JobState::Ended(outcome)) => ended(desk, recovery, dbid, state, &outcome),
        Some(JobState::Lost(why)) => untold(desk, recovery, dbid, state, FailureClass::JobLost, why),
        Some(JobState::Garbled(why)) => untold(desk, recovery, dbid, state, FailureClass::OutcomeNotBelieved, why),
    }
}

fn standing(state: RecoveryInstance, standing: Standing) -> InstanceNext {
    InstanceNext { state, standing, create_job: None, end_job: None, note: None }
}

/// The outcome in `result.json`, which the supervisor shows: an operator that was away learns it so.
fn told_by_the_volume(desk: &Desk, dbid: Dbid, state: &RecoveryInstance) -> Option<Outcome> {
    let job = &state.job.as_ref()?.name;
    let page = desk.world.page_at(dbid)?;
    page.result.clone().filter(|outcome| outcome.attempt == *job)
}

/// The Job did not say how it ended, or not so that it can be believed; the volume may know.
fn untold(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, state: RecoveryInstance, class: FailureClass, message: String) -> InstanceNext {
    match told_by_the_volume(desk, dbid, &state) {
        Some(outcome) => ended(desk, recovery, dbid, state, &outcome),
        None => failed(desk, recovery, dbid, state, Failure { class, step: Step::Proving, message, evidence: String::new() }),
    }
}

fn ended(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance, outcome: &Outcome) -> InstanceNext {
    if let Some(failure) = outcome.failure.clone() {
        return failed(desk, recovery, dbid, state, failure);
    }
    state.proving_since = Some(desk.now);
    state.failure = None;
    prove(desk, recovery, dbid, state, desk.now)
}

fn prove(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance, since: jiff::Timestamp) -> InstanceNext {
    match proof::prove(desk.world, dbid, since, desk.now) {
        Proof::Healed => {
            state.phase = Phase::Succeeded;
            standing(state, Standing::Healed)
        }
        Proof::Missing(missing) => standing(state, Standing::Proving(missing)),
        Proof::Broken(class, message) => {
            state.proving_since = None;
            failed(desk, recovery, dbid, state, Failure { class, step: Step::Releasing, message, evidence: String::new() })
        }
    }
}

/// An attempt ended without success: the next rung, or the end.
fn failed(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance, failure: Failure) -> InstanceNext {
    let repair = state.repair.unwrap_or(Repair::Incremental);
    let next = ladder::after(desk.policy, recovery.wanted, repair, state.attempt, &failure);
    let came_back = failure.class == FailureClass::WorldMoved && failure.step == Step::Proving && is_back(desk, dbid);
    state.failure = Some(failure);
    state.job = None;
    state.attempt_ended = Some(desk.now);
    match next {
        Next::Attempt(repair) => {
            state.repair = Some(repair);
            begin(desk, recovery, dbid, state)
        }
        // Its last attempt found nothing to repair, as another one would have.
        Next::End if came_back => {
            state.proving_since = Some(desk.now);
            prove(desk, recovery, dbid, state, desk.now)
        }
        Next::End => {
            state.phase = Phase::Failed;
            standing(state, Standing::Failed)
        }
    }
}

fn is_back(desk: &Desk, dbid: Dbid) -> bool {
    matches!(gates::admit(desk.world, dbid, desk.now), Err(Refusal::TargetUp { .. } | Refusal::TargetIsActingPrimary { .. }))
}

/// Begins the next attempt, or says why not yet, or never.
fn begin(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance) -> InstanceNext {
    if let Some(until) =
        state.attempt_ended.map(|ended| ladder::not_before(ended, state.attempt, state.failure.as_ref())).filter(|until| *until > desk.now)
    {
        return standing(state, Standing::BackingOff { until });
    }
    match permit(desk, recovery, dbid, &state) {
        Ok((admitted, repair)) => {
            state.attempt += 1;
            state.phase = Phase::Running;
            state.why = why(recovery, &state, &admitted);
            state.repair = Some(repair);
            state.source = Some(admitted.pair.primary.dbid);
            state.attempt_started = Some(desk.now);
            state.attempt_ended = None;
            let attempt = attempt(desk, recovery, &admitted, repair, state.attempt);
            desk.jobs += 1;
            desk.taken.push((state.content, recovery.name.clone()));
            InstanceNext { create_job: Some(attempt), ..standing(state, Standing::Attempting) }
        }
        // It came back without us: that is to be proven, not repaired, and it holds up nobody.
        Err(Refusal::TargetUp { .. } | Refusal::TargetIsActingPrimary { .. }) if state.attempt > 0 || recovery.automatic => {
            state.phase = Phase::Running;
            state.proving_since = Some(desk.now);
            prove(desk, recovery, dbid, state, desk.now)
        }
        Err(Refusal::NotInCatalog { what }) if state.attempt > 0 => {
            let message = format!("{what} is not in the catalog any more");
            state.failure = Some(Failure { class: FailureClass::WorldMoved, step: Step::Proving, message, evidence: String::new() });
            state.phase = Phase::Failed;
            standing(state, Standing::Failed)
        }
        // Once something was begun, a person's order is not refused any more, it waits.
        Err(refusal) if refusal.is_final() && state.attempt == 0 => {
            state.phase = Phase::Refused;
            standing(state, Standing::Refused(refusal))
        }
        Err(refusal) => standing(state, Standing::Waiting(refusal)),
    }
}

/// Why this attempt is of its kind: what came before, what was asked for, or what the volume says.
fn why(recovery: &Recovery, state: &RecoveryInstance, admitted: &Admitted) -> String {
    match (&state.failure, recovery.wanted) {
        (Some(failure), _) => format!("attempt {} ended with {}: {}", state.attempt - 1, failure.class.as_str(), failure.message),
        (None, Some(wanted)) => format!("type: {wanted} was asked for"),
        (None, None) if admitted.page.state.asks_for_repair() => format!("{:?}: {}", admitted.page.state, admitted.page.detail),
        (None, None) => {
            format!("down past its grace period, while its supervisor says {:?}: {}", admitted.page.state, admitted.page.detail)
        }
    }
}

fn permit<'a>(desk: &Desk<'a>, recovery: &Recovery, dbid: Dbid, state: &RecoveryInstance) -> Result<(Admitted<'a>, Repair), Refusal> {
    let admitted = gates::admit(desk.world, dbid, desk.now)?;
    if let Some(other) = desk.taken_by_other(state.content, &recovery.name) {
        return Err(Refusal::AlreadyRecovering { content: state.content, recovery: other.to_owned() }); // [13]
    }
    desk.world.all_readable(&recovery.name, state.content)?;
    let repair = ladder::choose(desk.policy, recovery.wanted, state.repair, admitted.page)?;
    if desk.jobs >= desk.policy.max_jobs {
        return Err(Refusal::JobBudget { max: desk.policy.max_jobs });
    }
    Ok((admitted, repair))
}

fn attempt(desk: &Desk, recovery: &Recovery, admitted: &Admitted, repair: Repair, number: u32) -> Attempt {
    let target = admitted.target();
    Attempt {
        id: names::job(recovery, target.dbid, number),
        cluster: desk.world.cluster_name.clone(),
        recovery: recovery.name.clone(),
        number,
        repair,
        content: target.content,
        target: Place::from(target),
        source: Place::from(admitted.pair.primary),
        max_rate: desk.policy.max_rate,
        recovery_uid: None,
        source_incarnations: vec![],
        source_followed: vec![],
        waives_history: false,
    }
}

fn phase_of(instances: &BTreeMap<Dbid, InstanceNext>) -> Phase {
    let phases: Vec<_> = instances.values().map(|next| next.state.phase).collect();
    let any = |phase| phases.contains(&phase);
    if any(Phase::Running) || (any(Phase::Pending) && phases.iter().any(|p| p.is_over())) {
        Phase::Running
    } else if any(Phase::Pending) {
        Phase::Pending
    } else if any(Phase::Failed) {
        Phase::Failed
    } else if any(Phase::Refused) {
        Phase::Refused
    } else {
        Phase::Succeeded
    }
}

fn message(desk: &Desk, phase: Phase, instances: &BTreeMap<Dbid, InstanceNext>) -> String {
    if instances.is_empty() {
        return "nothing was down".into();
    }
    let said: Vec<_> = instances.iter().filter_map(|(dbid, next)| line(desk, next).map(|line| format!("dbid {dbid}: {line}"))).collect();
    if said.is_empty() { phase.as_str().to_owned() } else { said.join("; ") }
}

fn line(desk: &Desk, next: &InstanceNext) -> Option<String> {
    let failure = || next.state.failure.as_ref().map_or(String::new(), |f| format!("{}: {}", f.class.as_str(), f.message));
    match &next.standing {
        Standing::Waiting(refusal) => Some(format!("waits ({}): {refusal}; {}", refusal.code(), refusal.lifted_by())),
        Standing::Refused(refusal) => Some(format!("refused ({}): {refusal}; {}", refusal.code(), refusal.lifted_by())),
        Standing::BackingOff { until } => Some(format!("next attempt at {until} after {}", failure())),
        Standing::Attempting => Some(format!("attempt {} ({})", next.state.attempt, next.state.repair.map_or("", Repair::as_str))),
        Standing::Proving(missing) => Some(format!("copied; not proven yet: {missing:?}{}", in_vain(desk, missing))),
        Standing::Healed => Some("in sync".into()),
        Standing::Failed => Some(failure()),
        Standing::Over => None,
    }
}

/// Why the last point is not proven: a role that may look and not dispatch would leave the rest proven for ever.
fn in_vain(desk: &Desk, missing: &[Missing]) -> String {
    let why = desk.world.dispatch.unknown().filter(|_| missing == [Missing::Dispatch]);
    why.map_or_else(String::new, |why| format!("; a statement that the coordinator was to dispatch got no answer: {why}"))
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
