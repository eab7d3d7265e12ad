//! What an ended recovery means for the next one: a fault whose cause passed is taken up again, and a pair that falls back
//! soon after a repair goes on where that one stopped.

use jiff::Timestamp;

use super::{
    aftermath::{self, Done, Fell},
    desk::{Desk, Past},
    gates::Admitted,
    names,
};
use model::{Answer, Content, Dbid, Failure, FailureClass, Phase, Policy, RecoveryInstance, Refusal, Repair, page::Shape};

/// The recovery that automatic healing makes next for a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    pub name: String,
    /// The one whose work it goes on with.
    pub follows: Option<String>,
    /// Where it begins: nothing to go by is what the volume asks for.
    pub begins: Begins,
}

/// Where a recovery begins that goes on with another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Begins {
    pub repair: Option<Repair>,
    /// Copies that count in its budget already.
    pub copies: u32,
}

/// What came before for this fault, if anything did: the newest recovery that bears its name.
pub fn before<'d, 'a>(desk: &'d Desk<'a>, dbid: Dbid) -> Option<(u32, &'d Past<'a>)> {
    let past = desk.past(dbid);
    if past.is_empty() {
        return None;
    }
    let fault = names::fault(desk.world, dbid);
    past.iter().filter_map(|past| Some((names::number(&fault, past.name)?, past))).max_by_key(|(number, _)| *number)
}

/// The next recovery of a fault.
///
/// # Errors
/// Why there is none now.
pub fn next(desk: &Desk, admitted: &Admitted) -> Result<Next, Refusal> {
    let fault = names::fault(desk.world, admitted.target().dbid);
    if let Some(recovery) = desk.world.unreadable.iter().find(|name| names::number(&fault, name).is_some()) {
        return Err(Refusal::RecoveryUnreadable { recovery: recovery.clone() });
    }
    let (number, past) = match before(desk, admitted.target().dbid) {
        Some((number, past)) => (number + 1, Some(past)),
        None => (1, fell_back(desk, admitted)),
    };
    let Some(past) = past else { return Ok(Next { name: names::recovery(&fault, 1), follows: None, begins: Begins::default() }) };
    again(desk, admitted.target().content, past)?;
    let begins = begin(desk, Some(past.name), admitted.target().dbid);
    if begins.copies >= desk.policy.max_attempts {
        return Err(Refusal::FallsBack { recovery: past.name.to_owned(), copies: begins.copies });
    }
    Ok(Next { name: names::recovery(&fault, number), follows: Some(past.name.to_owned()), begins })
}

/// May the work of a recovery that ended be taken up again?
fn again(desk: &Desk, content: Content, past: &Past) -> Result<(), Refusal> {
    let failed = || Refusal::RecoveryFailed { recovery: past.name.to_owned() };
    match past.phase {
        Phase::Succeeded => Ok(()),
        Phase::Refused => rested(desk, past, "it was refused, and what stood against it does not any more"),
        Phase::Failed => {
            let state = past.state.as_deref().ok_or_else(failed)?;
            let failure = state.failure.as_ref().ok_or_else(failed)?;
            if counts_on(failure) && state.copies >= desk.policy.max_attempts {
                return Err(failed());
            }
            match (failure.class.answer(), state.repair) {
                (Answer::Retry, _) => rested(desk, past, &told(failure)),
                // Policy stood against it when it ended, and may not any more.
                (Answer::GoFull, Some(Repair::Incremental) | None) if desk.policy.full_allowed => rested(desk, past, &told(failure)),
                (Answer::GoFull | Answer::Stop, _) => Err(failed()),
            }
        }
        Phase::Cancelled => Err(failed()),
        Phase::Pending | Phase::Running => Err(Refusal::AlreadyRecovering { content, recovery: past.name.to_owned() }),
    }
}

/// What it had begun to copy counts in the recoveries after it: a volume that is too small ends every copy, after hours.
fn counts_on(failure: &Failure) -> bool {
    failure.class == FailureClass::NoRoom
}

fn told(failure: &Failure) -> String {
    format!("{}: {}", failure.class.as_str(), failure.message)
}

/// One recovery follows the other at a bounded rate. An end that lies ahead is of a clock that was set back since.
fn rested(desk: &Desk, past: &Past, why: &str) -> Result<(), Refusal> {
    let ended = past.state.as_deref().and_then(|state| state.attempt_ended).or(past.ended).filter(|ended| *ended <= desk.now);
    let until = ended.and_then(|ended| ended.saturating_add(desk.policy.again_after).ok());
    match until.filter(|until| *until > desk.now) {
        Some(until) => Err(Refusal::TakenUpAgain { recovery: past.name.to_owned(), why: why.to_owned(), until }),
        None => Ok(()),
    }
}

/// The recovery after which this mirror has fallen back: the newest one of its content, of the same direction, that healed
/// it just before it fell. One that was promoted in between had become sound.
fn fell_back<'d, 'a>(desk: &'d Desk<'a>, admitted: &Admitted) -> Option<&'d Past<'a>> {
    let row = admitted.target();
    let past = desk.past(row.dbid).iter().rev().find(|past| past.phase.is_over())?;
    let state = past.state.as_deref().filter(|state| state.phase == Phase::Succeeded)?;
    let same = desk.newest_of(row.content) == Some(row.dbid)
        && state.source == Some(admitted.pair.primary.dbid)
        && admitted.page.shape != Shape::Primary;
    let fell = desk.world.instances.get(&row.dbid).and_then(|instance| instance.unwell_since).unwrap_or(desk.now);
    (same && is_soon(desk.policy, past.ended?, fell, desk.now)).then_some(past)
}

fn is_soon(policy: &Policy, ended: Timestamp, fell: Timestamp, now: Timestamp) -> bool {
    ended <= now && fell.duration_since(ended) <= policy.watched_for
}

/// Where the recovery after one that ended so begins, by how the instance fell since.
fn begins(policy: &Policy, phase: Phase, state: &RecoveryInstance, fell: Fell) -> Begins {
    let up = |repair| if policy.full_allowed { Repair::Full } else { repair };
    let repair = state.repair.unwrap_or(Repair::Incremental);
    let copies = state.failure.as_ref().filter(|failure| counts_on(failure)).map_or(0, |_| state.copies);
    match (phase, state.failure.as_ref().map(|failure| failure.class.answer())) {
        // It was healed by this repair, and that did not last: the same budget.
        (Phase::Succeeded, _) => {
            let repair = match fell {
                Fell::OfDamage => Some(up(repair)),
                Fell::AsksForRepair => Some(repair),
                Fell::Otherwise => None,
            };
            Begins { repair, copies: state.copies }
        }
        (_, Some(Answer::GoFull)) => Begins { repair: Some(up(repair)), copies: 0 },
        (_, Some(Answer::Retry | Answer::Stop) | None) => Begins { repair: state.repair, copies },
    }
}

/// Where a recovery that was made to go on with another one begins.
pub fn begin(desk: &Desk, follows: Option<&str>, dbid: Dbid) -> Begins {
    let before = follows.and_then(|name| desk.recovery(name)).filter(|before| before.phase.is_over());
    let Some((before, state)) = before.and_then(|before| Some((before, before.instances.get(&dbid)?))) else { return Begins::default() };
    let attempt = names::job(before, dbid, state.attempt);
    let done = Done::of(before, dbid, state, &attempt, before.ended.unwrap_or(desk.now));
    let fell = desk.page_at(dbid).map_or(Fell::Otherwise, |page| aftermath::fell(page, &done));
    begins(desk.policy, before.phase, state, fell)
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
