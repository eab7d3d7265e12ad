//! World -> Plan: the only place that decides. Pure: no client, no clock, no randomness.
//!
//! `triage` looks for what is not well, `gates` says whether an instance may be touched at all,
//! `ladder` picks the repair and what follows a failed attempt, `recovery` moves one recovery on,
//! `proof` says when an instance is healed, `follow` what an ended recovery means for the next one,
//! `coordinators` what is amiss with those that are never repaired, `aftermath` what an instance does after its repair, `breaker` when repairs of one are begun by themselves no more,
//! `keep` which old ones mean nothing any more, and `desk` finds all that they ask for at once.

pub mod aftermath;
pub mod breaker;
pub mod coordinators;
pub mod desk;
pub mod follow;
pub mod gates;
pub mod keep;
pub mod ladder;
pub mod names;
pub mod proof;
pub mod recovery;
pub mod triage;
mod words;

#[cfg(test)]
mod properties;

use jiff::Timestamp;

use self::desk::Desk;
use crate::model::{Plan, Policy, Recovery, World};

/// What to do about `world`, and why nothing is done about the rest.
pub fn plan(policy: &Policy, world: &World, now: Timestamp) -> Plan {
    let mut desk = Desk::new(policy, world, now);
    let mut plan = Plan::default();
    for item in in_turn(world) {
        plan.recoveries.insert(item.name.clone(), recovery::advance(&mut desk, item));
    }
    desk.turn(&plan);
    triage::triage(&desk, &mut plan);
    coordinators::coordinators(&desk, &mut plan);
    plan.removals = keep::removals(&desk, &plan);
    plan.probe = triage::probe(&desk, &plan);
    plan
}

/// The oldest first, and those last whose Jobs could not be made: they would take the places of others in the budget, in each pass anew.
fn in_turn(world: &World) -> impl Iterator<Item = &Recovery> {
    let live = world.recoveries.iter().filter(|recovery| !recovery.phase.is_over() && !recovery.deleting);
    let (last, first): (Vec<_>, Vec<_>) = live.partition(|recovery| world.not_made.contains(&recovery.name));
    first.into_iter().chain(last)
}
