//! Which old recoveries are removed: those that automatic healing made and whose word counts for nothing any more. What a
//! person or a repository made is never removed: it would be made again from there, and repair again.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::{desk::Desk, follow};
use model::{Dbid, HealingMode, Look, Plan, Recovery, Removal, Targets, policy::KEPT};

/// Of an instance so many are kept for a while beside the newest, for whoever asks what went on.
const MANY: usize = 20;
/// That while.
const LONG: SignedDuration = SignedDuration::from_hours(7 * 24);
/// What is kept at least of each: its Jobs are gone by themselves by then, with their logs.
pub(super) const SHORT: SignedDuration = SignedDuration::from_hours(25);
/// In one look: healing does not wait for tidying.
const AT_ONCE: usize = 10;

/// The recoveries to remove now, oldest first.
pub fn removals(desk: &Desk, plan: &Plan) -> Vec<Removal> {
    let acts = desk.policy.mode == HealingMode::Automatic && !desk.policy.paused;
    // Which fault there is, whose newest recovery tells what is not to be tried again, and at which recovery a Job may be at
    // work, has to be known.
    let (true, Some(_), Look::Seen(jobs)) = (acts, &desk.catalog, &desk.world.at_work) else { return vec![] };
    let mut counts = follows(desk, plan);
    counts.extend(jobs.iter().map(|job| job.recovery.as_str()));
    let mut known: HashMap<Dbid, (usize, Option<&str>)> = HashMap::new();
    let mut old = vec![];
    for recovery in desk.world.recoveries.iter().rev() {
        let Some(dbid) = ours(recovery, &desk.world.cluster_uid) else { continue };
        let (rank, stands) = known.entry(dbid).or_insert_with(|| (0, follow::before(desk, dbid).map(|(_, past)| past.name)));
        *rank += 1;
        let counts = counts.contains(recovery.name.as_str()) || *stands == Some(recovery.name.as_str());
        if is_old(recovery, *rank, desk.now) && !counts {
            let why = format!("dbid {dbid} has {} newer ones, and it ended long ago", *rank - 1);
            old.push(Removal { recovery: recovery.name.clone(), why });
        }
    }
    old.reverse();
    old.truncate(AT_ONCE);
    old
}

/// The instance of a recovery that automatic healing made for this very cluster object.
fn ours(recovery: &Recovery, cluster_uid: &str) -> Option<Dbid> {
    let ours = recovery.automatic && !cluster_uid.is_empty() && recovery.owner.as_deref() == Some(cluster_uid);
    match &recovery.targets {
        Targets::Dbids(dbids) if ours => dbids.first().copied(),
        Targets::Dbids(_) | Targets::Contents(_) | Targets::AllDown => None,
    }
}

/// It is the `rank`th newest of its instance. An end that is not known, or lies ahead, is not long ago.
fn is_old(recovery: &Recovery, rank: usize, now: Timestamp) -> bool {
    if rank <= KEPT {
        return false;
    }
    let least = if rank <= MANY { LONG } else { SHORT };
    let over = recovery.phase.is_over() && !recovery.deleting;
    over && recovery.ended.is_some_and(|ended| now.duration_since(ended) >= least)
}

/// The recoveries with which others go on that are not over, or that are made now.
fn follows<'d>(desk: &Desk<'d>, plan: &'d Plan) -> HashSet<&'d str> {
    let live = desk.world.recoveries.iter().filter(|recovery| !recovery.phase.is_over());
    let new = plan.new_recoveries.iter().filter_map(|new| new.follows.as_deref());
    live.filter_map(|recovery| recovery.follows.as_deref()).chain(new).collect()
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
