//! World -> Plan: the only place that decides. Pure: no client, no clock, no randomness.
//!
//! `triage` looks for what is not well, `gates` says whether an instance may be touched at all,
//! `ladder` picks the repair and what follows a failed attempt, `recovery` moves one recovery on,
//! `proof` says when an instance is healed, `follow` what an ended recovery means for the next one,
//! `coordinators` what is amiss with those that are never repaired, `aftermath` what an instance does after its repair, `breaker` when repairs of one are begun by themselves no more,
//! `keep` which old ones mean nothing any more, and `desk` finds all that they ask for at once.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm, reason = "what is new has to be decided about"))]

mod aftermath;
mod breaker;
mod coordinators;
mod desk;
mod follow;
mod gates;
mod keep;
mod ladder;
pub mod names;
mod proof;
mod recovery;
mod triage;
mod words;

#[cfg(test)]
mod properties;

use jiff::Timestamp;

use self::desk::Desk;
use model::{Plan, Policy, Recovery, World};

/// What to do about `world`, and why nothing is done about the rest.
pub fn plan(policy: &Policy, world: &World, now: Timestamp) -> Plan {
    let mut desk = Desk::new(policy, world, now);
    let mut plan = Plan::default();
    let live = |r: &&Recovery| !r.phase.is_over() && !r.deleting;
    for item in world.recoveries.iter().filter(live) {
        plan.recoveries.insert(item.name.clone(), recovery::advance(&mut desk, item));
    }
    desk.others_had_their_turn();
    for (name, dbid) in &world.not_made {
        if let Some(item) = desk.recovery(name).filter(live)
            && let Some(next) = plan.recoveries.remove(name)
        {
            plan.recoveries.insert(name.clone(), recovery::advance_last(&mut desk, item, *dbid, next));
        }
    }
    desk.turn(&plan);
    triage::triage(&desk, &mut plan);
    coordinators::coordinators(&desk, &mut plan);
    plan.removals = keep::removals(&desk, &plan);
    plan.probe = triage::probe(&desk, &plan);
    plan
}
