//! What an instance does after its repair: how often its postgres ended since, of what, and what that says about the next step.
//! Only damage leads to a further copy. What is not in the directory a copy does not mend, and what nobody knows is shown.

use jiff::{SignedDuration, Timestamp};

use super::{desk::Desk, names};
use model::{
    Dbid, FailureClass, InstanceState, Page, Recovery, RecoveryInstance,
    page::{ExitClass, LastExit},
};

/// How long a postgres that ends again and again of what a copy does not mend is given for its cause to pass.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// And how many ends that are at least, as a clock may be set forward.
const ENOUGH: u32 = 3;
/// Ends within a living postmaster, which tries again by itself, after which damage is believed.
const TWICE: u32 = 2;
/// Letters of a log's line that a message gives.
const LONGEST: usize = 800;

/// What the end of a postgres says of the repair before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The directory cannot be used.
    Damage,
    /// Its history is not its primary's.
    OtherHistory,
    /// What is around the directory, or what its settings say: another copy meets the same.
    Outside,
    /// Nobody knows.
    Unknown,
}

/// The one place where the classes of an end are given a meaning for repairs.
fn meaning(class: ExitClass) -> Meaning {
    match class {
        ExitClass::DataUnusable => Meaning::Damage,
        ExitClass::TimelineDiverged => Meaning::OtherHistory,
        ExitClass::Killed | ExitClass::Configuration | ExitClass::Environment => Meaning::Outside,
        ExitClass::Unclassified => Meaning::Unknown,
    }
}

/// A repair that is done, and whose instance is to show that it is well.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    pub dbid: Dbid,
    /// The newest attempt, of a recovery with this uid.
    pub attempt: &'a str,
    pub uid: &'a str,
    /// Whether it changed anything but settings, if that was said.
    pub changed: Option<bool>,
    pub since: Timestamp,
}

impl<'a> Done<'a> {
    /// `attempt` is the name of its Job.
    pub fn of(recovery: &'a Recovery, dbid: Dbid, state: &RecoveryInstance, attempt: &'a str, since: Timestamp) -> Self {
        Self { dbid, attempt, uid: &recovery.uid, changed: state.changed, since }
    }

    /// How its postgres ended last, if it did since this very attempt.
    fn exit<'p>(&self, page: &'p Page) -> Option<&'p LastExit> {
        let ours = |exit: &&LastExit| {
            exit.after.as_ref().is_some_and(|after| after.attempt == self.attempt && after.recovery_uid.as_deref() == Some(self.uid))
        };
        page.last_exit.as_ref().filter(ours)
    }
}

/// The name of the Job of the newest attempt.
pub fn attempt(recovery: &Recovery, dbid: Dbid, state: &RecoveryInstance) -> String {
    names::job(recovery, dbid, state.attempt)
}

/// Whether the repair is to be given up, by how its instance dies; the class says what follows.
pub fn judge(desk: &Desk, done: &Done) -> Option<(FailureClass, String)> {
    let page = desk.page_at(done.dbid).filter(|page| !page.receiving)?;
    let exit = done.exit(page)?;
    let told = |head: &str| format!("{head}: {}", ends(exit));
    let believed = exit.since >= if exit.inside { TWICE } else { 1 };
    let patience_is_over = exit.since >= ENOUGH && desk.now.duration_since(done.since) > PATIENCE;
    match meaning(exit.class) {
        Meaning::Damage if believed => Some((FailureClass::TargetUnusable, told("after the repair its postgres ended of its own files"))),
        // The same repair would do nothing again.
        Meaning::OtherHistory if done.changed == Some(false) && page.state == InstanceState::NeedsRecovery => {
            Some((FailureClass::CannotRewind, told("the repair changed nothing, and its history is still not its primary's")))
        }
        Meaning::Outside if patience_is_over => Some((FailureClass::MirrorDies, told("its postgres ends of what a copy does not mend"))),
        Meaning::Unknown if patience_is_over => Some((FailureClass::MirrorDies, told("its postgres ends, and nobody knows why"))),
        Meaning::Damage | Meaning::OtherHistory | Meaning::Outside | Meaning::Unknown => None,
    }
}

/// How an instance that was healed fell again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fell {
    /// Of what the next rung mends.
    OfDamage,
    /// Its supervisor says that only a repair brings it back.
    AsksForRepair,
    /// What ended its postgres from outside, or nobody knows of, a full copy meets again.
    Otherwise,
}

/// By what its supervisor says since.
pub fn fell(page: &Page, done: &Done) -> Fell {
    let asks = page.state.asks_for_repair();
    match (done.exit(page).map(|exit| meaning(exit.class)), asks) {
        (Some(Meaning::Damage), _) => Fell::OfDamage,
        (Some(Meaning::OtherHistory | Meaning::Outside | Meaning::Unknown) | None, true) if done.changed == Some(false) => Fell::OfDamage,
        (Some(Meaning::OtherHistory | Meaning::Outside | Meaning::Unknown) | None, true) => Fell::AsksForRepair,
        (Some(Meaning::OtherHistory | Meaning::Outside | Meaning::Unknown) | None, false) => Fell::Otherwise,
    }
}

/// What keeps a repair that is done from being proven, as its supervisor tells.
pub fn trouble(desk: &Desk, done: &Done) -> Option<String> {
    let page = desk.page_at(done.dbid).filter(|page| !page.receiving)?;
    let died = match (done.exit(page), page.crashes) {
        (Some(exit), _) => Some(ends(exit)),
        (None, 0) => None,
        // Of a supervisor that does not tell since when: shown, and not judged by.
        (None, crashes) => {
            let last = page.last_exit.as_ref().map_or_else(String::new, |exit| format!("; {}", last(exit)));
            Some(format!("its supervisor counts {crashes} crashes{last}"))
        }
    };
    let told = [died, receiver(page)].into_iter().flatten().collect::<Vec<_>>().join("; ");
    (!told.is_empty()).then_some(told)
}

/// Why a mirror whose postgres runs does not receive, in its receiver's own words.
pub fn receiver(page: &Page) -> Option<String> {
    let error = page.receiver_error.as_ref().filter(|_| !page.receiving)?;
    Some(format!("its WAL receiver says: {}", model::error::cut(error, LONGEST)))
}

/// What a supervisor says.
pub fn told(page: &Page) -> String {
    format!("{}: {}", page.state, detail(page))
}

/// What a supervisor says of its state, and how its postgres ended last where that is no old story.
pub fn detail(page: &Page) -> String {
    let (said, fresh) = (page.detail.clone(), page.last_exit.as_ref().filter(|_| page.ends() > 0));
    match fresh {
        Some(exit) if exit.evidence.is_empty() || !said.contains(&exit.evidence) => format!("{said}; {}", last(exit)),
        Some(_) | None => said,
    }
}

fn ends(exit: &LastExit) -> String {
    let times = if exit.since == 1 { "once".to_owned() } else { format!("{} times", exit.since) };
    format!("its postgres has ended {times} since the repair, {}", last(exit))
}

/// How a postgres ended.
pub fn last(exit: &LastExit) -> String {
    let inside = if exit.inside { ", within a postmaster that lives" } else { "" };
    let evidence = model::error::cut(&exit.evidence, LONGEST);
    let evidence = if evidence.is_empty() { "its log says nothing".to_owned() } else { evidence };
    format!("last at {:.0} ({}{inside}; {}): {evidence}", exit.at, exit.how, exit.class)
}

#[cfg(test)]
#[path = "aftermath_tests.rs"]
mod tests;
