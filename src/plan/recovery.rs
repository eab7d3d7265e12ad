//! Moves one recovery on: from its status and what is seen now to its next status, and the Job to create.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    aftermath::{self, Done},
    desk::Desk,
    follow, gates,
    gates::Admitted,
    ladder::{self, Next},
    names,
    proof::{self, Proof},
    triage, words,
};
use model::{
    Attempt, Content, Dbid, Failure, FailureClass, InstanceNext, JobState, JobView, Outcome, Phase, Place, Recovery, RecoveryInstance,
    RecoveryNext, Refusal, Repair, Role, Standing, Status, Step, Targets, world::MOST_TARGETS,
};

/// The next state of `recovery`.
pub fn advance(desk: &mut Desk, recovery: &Recovery) -> RecoveryNext {
    let targets = match targets(desk, recovery) {
        Ok(targets) => targets,
        Err(refusal) => return unresolved(desk, recovery, &refusal),
    };
    let mut instances = BTreeMap::new();
    for (dbid, content) in targets {
        let state = recovery.instances.get(&dbid).cloned().unwrap_or_else(|| RecoveryInstance::untouched(content));
        instances.insert(dbid, instance(desk, recovery, dbid, state));
    }
    of(desk, instances)
}

/// The same with an instance whose Job could not be made before, once all others have had their turn: it would take the place of one
/// of them in the budget, in each pass anew.
pub fn advance_last(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, next: RecoveryNext) -> RecoveryNext {
    let Some(InstanceNext { state, standing: Standing::Waiting(Refusal::JobBudget { .. }), .. }) = next.instances.get(&dbid) else {
        return next;
    };
    let again = begin(desk, recovery, dbid, state.clone());
    let mut instances = next.instances;
    instances.insert(dbid, again);
    of(desk, instances)
}

fn of(desk: &Desk, instances: BTreeMap<Dbid, InstanceNext>) -> RecoveryNext {
    let phase = phase_of(&instances);
    RecoveryNext { phase, message: words::message(desk, phase, &instances), instances }
}

/// The instances of a recovery: fixed at the first look that could name them.
fn targets(desk: &Desk, recovery: &Recovery) -> Result<Vec<(Dbid, Content)>, Refusal> {
    if !recovery.instances.is_empty() {
        return Ok(recovery.instances.iter().map(|(dbid, state)| (*dbid, state.content)).collect());
    }
    let catalog = gates::catalog(desk)?;
    let named = |dbid: &Dbid| match catalog.row(*dbid) {
        Some(row) => Ok((*dbid, row.content)),
        None => Err(Refusal::NotInCatalog { what: format!("dbid {dbid}") }),
    };
    let mirror_of = |content: &Content| match catalog.rows().iter().find(|row| row.content == *content && row.role == Role::Mirror) {
        Some(row) => Ok((row.dbid, row.content)),
        None => Err(Refusal::NotInCatalog { what: format!("content {content}, with a mirror,") }),
    };
    match &recovery.targets {
        Targets::Dbids(dbids) => dbids.iter().map(named).collect(),
        Targets::Contents(contents) => contents.iter().map(mirror_of).collect(),
        Targets::AllDown => {
            let down = catalog.rows().iter().filter(|row| row.content.0 >= 0 && row.status == Status::Down);
            Ok(down.map(|row| (row.dbid, row.content)).take(MOST_TARGETS).collect())
        }
    }
}

fn unresolved(desk: &Desk, recovery: &Recovery, refusal: &Refusal) -> RecoveryNext {
    let phase = if refusal.is_final() && !perhaps_of_others(desk, refusal) { Phase::Refused } else { recovery.phase };
    RecoveryNext { phase, instances: BTreeMap::new(), message: format!("{}: {refusal}; {}", refusal.code(), refusal.lifted_by()) }
}

/// That a dbid or content is not in a catalog of which no segment is known to be ours says nothing: a Service may lead astray.
fn perhaps_of_others(desk: &Desk, refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NotInCatalog { .. }) && !desk.world.is_of_this_cluster()
}

fn instance(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance) -> InstanceNext {
    if state.phase.is_over() {
        return standing(state, Standing::Over);
    }
    not_ahead(&mut state, desk.now);
    if let Some(since) = state.proving_since {
        return prove(desk, recovery, dbid, state, since);
    }
    let Some(job) = state.job.clone() else { return begin(desk, recovery, dbid, state) };
    match (job.state.clone(), &job.stuck) {
        (JobState::Active, None) => standing(state, refused(&job).map_or(Standing::Attempting, Standing::Stuck)),
        (JobState::Active, Some(why)) => stuck(state, &job, why),
        (JobState::Ended(outcome), _) => ended(desk, recovery, dbid, state, &outcome),
        (JobState::Lost(why), _) => match refused(&job) {
            Some(refusal) => untold(desk, recovery, dbid, state, FailureClass::PodRefused, refusal.to_string()),
            None => untold(desk, recovery, dbid, state, FailureClass::JobLost, why),
        },
        (JobState::Garbled(why), _) => untold(desk, recovery, dbid, state, FailureClass::OutcomeNotBelieved, why),
    }
}

/// What lies ahead is of a clock that was set back since: it would be waited for.
fn not_ahead(state: &mut RecoveryInstance, now: Timestamp) {
    for at in [&mut state.attempt_ended, &mut state.proving_since, &mut state.failing_since] {
        *at = at.map(|at| at.min(now));
    }
}

/// Its Job is ended where that can leave no half copy behind, or where nobody is left to end it by itself. Elsewhere the
/// marks tell the truth too, but the hours of a copy that may go on are a person's to give up.
fn stuck(state: RecoveryInstance, job: &JobView, why: &str) -> InstanceNext {
    let end_job = match (job.begun, job.node_gone) {
        (_, true) => Some(format!("its node is gone: {why}")),
        (false, false) => Some(format!("it has not begun to copy: {why}")),
        (true, false) => None,
    };
    InstanceNext { end_job, ..standing(state, Standing::Stuck(held_up(job, why))) }
}

/// Of a Job that makes no progress.
pub(super) fn held_up(job: &JobView, why: &str) -> Refusal {
    refused(job).unwrap_or_else(|| Refusal::AttemptStuck { job: job.name.clone(), why: why.to_owned() })
}

/// Its pod was never made, and somebody says why: known within seconds, and not believed to pass while it is watched.
pub(super) fn refused(job: &JobView) -> Option<Refusal> {
    let why = job.refused.clone().filter(|_| !job.begun)?;
    Some(Refusal::PodRefused { job: job.name.clone(), why })
}

fn standing(state: RecoveryInstance, standing: Standing) -> InstanceNext {
    InstanceNext { state, standing, create_job: None, end_job: None, note: None }
}

/// How long a supervisor that is silent is waited for, before an attempt of which it may know the outcome is given up.
const MAY_TELL: SignedDuration = SignedDuration::from_mins(5);

/// Why nobody can ask the volume how an attempt ended, for as long as that may pass.
fn may_tell_yet(desk: &Desk, dbid: Dbid) -> Option<Refusal> {
    let catalog = match gates::catalog(desk) {
        Ok(catalog) => catalog,
        Err(refusal) => return Some(refusal),
    };
    let Some(row) = catalog.row(dbid) else {
        let missing = Refusal::NotInCatalog { what: format!("dbid {dbid}") };
        return Some(missing).filter(|missing| perhaps_of_others(desk, missing));
    };
    let silent = gates::page_of(desk, row).err()?;
    (gates::silence(desk, dbid) < MAY_TELL).then_some(silent)
}

/// The outcome in `result.json`, which the supervisor shows: an operator that was away learns it so. One that was deleted
/// and made again gave its attempts the same names.
fn told_by_the_volume(desk: &Desk, recovery: &Recovery, dbid: Dbid, state: &RecoveryInstance) -> Option<Outcome> {
    let job = &state.job.as_ref()?.name;
    let page = desk.page_at(dbid)?;
    page.result.clone().filter(|outcome| outcome.attempt == *job && outcome.recovery_uid.as_deref() == Some(recovery.uid.as_str()))
}

/// The Job did not say how it ended, or not so that it can be believed; the volume may know.
fn untold(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, state: RecoveryInstance, class: FailureClass, message: String) -> InstanceNext {
    if let Some(outcome) = told_by_the_volume(desk, recovery, dbid, &state) {
        return ended(desk, recovery, dbid, state, &outcome);
    }
    if let Some(refusal) = may_tell_yet(desk, dbid) {
        return standing(state, Standing::Waiting(refusal));
    }
    let step = if may_have_copied(desk, dbid, &state) { Step::Copying } else { Step::Proving };
    failed(desk, recovery, dbid, state, Failure { class, step, message, evidence: String::new() })
}

/// By its last words or by the mark on its volume, which is of another attempt where this one never had a pod.
fn may_have_copied(desk: &Desk, dbid: Dbid, state: &RecoveryInstance) -> bool {
    if state.job.as_ref().and_then(refused).is_some() {
        return false;
    }
    let said = state.job.as_ref().is_some_and(|job| job.begun || job.step.is_some_and(ladder::begins_to_copy));
    said || desk.page_at(dbid).is_some_and(|page| page.copy)
}

fn ended(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance, outcome: &Outcome) -> InstanceNext {
    if let Some(failure) = outcome.failure.clone() {
        return failed(desk, recovery, dbid, state, failure);
    }
    state.proving_since = Some(desk.now);
    state.changed = outcome.changed;
    state.failure = None;
    prove(desk, recovery, dbid, state, desk.now)
}

fn prove(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance, since: Timestamp) -> InstanceNext {
    let attempt = aftermath::attempt(recovery, dbid, &state);
    let done = Done::of(recovery, dbid, &state, &attempt, since);
    match proof::prove(desk, &done) {
        Proof::Healed(note) => {
            state.phase = Phase::Succeeded;
            state.copies += u32::from(state.attempt > 0);
            (state.failures, state.failing_since) = (0, None);
            InstanceNext { note, ..standing(state, Standing::Healed) }
        }
        Proof::Missing(missing) => {
            let note = aftermath::trouble(desk, &done);
            InstanceNext { note, ..standing(state, Standing::Proving(missing)) }
        }
        Proof::Waits(refusal) => standing(state, Standing::Waiting(refusal)),
        Proof::Broken(class, message) => {
            state.proving_since = None;
            failed(desk, recovery, dbid, state, Failure { class, step: Step::Releasing, message, evidence: String::new() })
        }
    }
}

/// An attempt ended without success: the next rung, or the end.
fn failed(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance, failure: Failure) -> InstanceNext {
    let copied = ladder::begins_to_copy(failure.step);
    let came_back = failure.class == FailureClass::WorldMoved && failure.step == Step::Proving && is_back(desk, dbid);
    let class = failure.class;
    ladder::count(&mut state, failure, copied, desk.now);
    state.job = None;
    match ladder::after(desk.policy, recovery.wanted, &state, class) {
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
    matches!(gates::admit(desk, dbid), Err(Refusal::TargetUp { .. } | Refusal::TargetIsActingPrimary { .. }))
}

/// Begins the next attempt, or says why not yet, or never.
fn begin(desk: &mut Desk, recovery: &Recovery, dbid: Dbid, mut state: RecoveryInstance) -> InstanceNext {
    if let Some(until) = state.attempt_ended.map(|ended| ladder::not_before(ended, &state)).filter(|until| *until > desk.now) {
        return standing(state, Standing::BackingOff { until });
    }
    if desk.goes_last(&recovery.name, dbid) {
        return standing(state, Standing::Waiting(Refusal::JobBudget { max: desk.policy.max_jobs }));
    }
    match permit(desk, recovery, dbid, &state) {
        Ok((admitted, repair)) => {
            if state.attempt == 0 {
                state.copies = follow::begin(desk, recovery.follows.as_deref(), dbid).copies;
            }
            state.attempt += 1;
            state.phase = Phase::Running;
            state.why = why(recovery, &state, &admitted);
            state.repair = Some(repair);
            state.source = Some(admitted.pair.primary.dbid);
            state.attempt_started = Some(desk.now);
            state.attempt_ended = None;
            state.changed = None;
            let attempt = attempt(desk, recovery, &admitted, repair, state.attempt);
            desk.jobs += 1;
            desk.take(state.content, &recovery.name);
            InstanceNext { create_job: Some(attempt), ..standing(state, Standing::Attempting) }
        }
        // It came back without us: that is to be proven, not repaired, and it holds up nobody.
        Err(Refusal::TargetUp { .. } | Refusal::TargetIsActingPrimary { .. }) if state.attempt > 0 || recovery.automatic => {
            state.phase = Phase::Running;
            state.proving_since = Some(desk.now);
            prove(desk, recovery, dbid, state, desk.now)
        }
        Err(refusal) if perhaps_of_others(desk, &refusal) => standing(state, Standing::Waiting(refusal)),
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
        (None, None)
            if let Some(before) = &recovery.follows
                && state.attempt == 1 =>
        {
            format!("it goes on with SegmentRecovery {before}; its supervisor says {}", aftermath::told(admitted.page))
        }
        (None, None) if admitted.page.state.asks_for_repair() => aftermath::told(admitted.page),
        (None, None) => format!("down past its grace period, while its supervisor says {}", aftermath::told(admitted.page)),
    }
}

fn permit<'a>(desk: &Desk<'a>, recovery: &Recovery, dbid: Dbid, state: &RecoveryInstance) -> Result<(Admitted<'a>, Repair), Refusal> {
    let admitted = gates::admit(desk, dbid)?;
    desk.is_left_by_others(&recovery.name, state.content)?;
    desk.is_free(&recovery.name, state.content)?;
    let earlier = state.repair.or_else(|| follow::begin(desk, recovery.follows.as_deref(), dbid).repair);
    let repair = ladder::choose(desk.policy, recovery.wanted, earlier, admitted.page)?;
    if recovery.automatic {
        gates::acts_by_itself(desk, repair)?;
        triage::comes_by_itself(desk, &admitted)?;
    }
    if desk.jobs >= desk.policy.max_jobs {
        return Err(Refusal::JobBudget { max: desk.policy.max_jobs });
    }
    Ok((admitted, repair))
}

fn attempt(desk: &Desk, recovery: &Recovery, admitted: &Admitted, repair: Repair, number: u32) -> Attempt {
    let (target, source) = (admitted.target(), admitted.pair.primary);
    let page = desk.page_at(source.dbid);
    Attempt {
        id: names::job(recovery, target.dbid, number),
        cluster: desk.world.cluster_name.clone(),
        recovery: recovery.name.clone(),
        number,
        repair,
        content: target.content,
        target: Place::from(target),
        source: Place::from(source),
        max_rate: desk.policy.max_rate,
        recovery_uid: Some(recovery.uid.clone()).filter(|uid| !uid.is_empty()),
        source_incarnations: page.map(|page| page.incarnations.clone()).unwrap_or_default(),
        source_followed: page.map(|page| page.followed.clone()).unwrap_or_default(),
        source_postmaster: page.and_then(|page| page.postmaster),
        waives_history: waives_history(recovery, target.dbid),
    }
}

/// Only a person who names the instance knows it well enough: neither a content nor all that is down does.
fn waives_history(recovery: &Recovery, dbid: Dbid) -> bool {
    let named = match &recovery.targets {
        Targets::Dbids(dbids) => dbids.contains(&dbid),
        Targets::Contents(_) | Targets::AllDown => false,
    };
    named && recovery.wanted == Some(Repair::Full) && !recovery.automatic
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

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
