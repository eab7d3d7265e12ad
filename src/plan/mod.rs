//! World -> Plan: the only place that decides. Pure: no client, no clock, no randomness.
//!
//! `triage` looks for what is not well, `gates` says whether an instance may be touched at all,
//! `ladder` picks the repair and what follows a failed attempt, `recovery` moves one recovery on,
//! `proof` says when an instance is healed.

pub mod gates;
pub mod ladder;
pub mod names;
pub mod proof;
pub mod recovery;
pub mod triage;

#[cfg(test)]
mod properties;

use jiff::Timestamp;

use crate::model::{Content, Plan, Policy, World};

/// What to do about `world`, and why nothing is done about the rest.
pub fn plan(policy: &Policy, world: &World, now: Timestamp) -> Plan {
    let mut desk = Desk::new(policy, world, now);
    let mut plan = Plan::default();
    for item in world.recoveries.iter().filter(|r| !r.phase.is_over() && !r.deleting) {
        plan.recoveries.insert(item.name.clone(), recovery::advance(&mut desk, item));
    }
    desk.release(&plan);
    triage::triage(&mut desk, &mut plan);
    plan.probe = triage::probe(&desk, &plan);
    plan
}

/// What one planning pass knows and has given out so far.
pub struct Desk<'a> {
    pub policy: &'a Policy,
    pub world: &'a World,
    pub now: Timestamp,
    /// Contents with a Job or a proof under way, and by which recovery.
    pub taken: Vec<(Content, String)>,
    /// Jobs that run, or were given out in this pass.
    pub jobs: usize,
}

impl<'a> Desk<'a> {
    fn new(policy: &'a Policy, world: &'a World, now: Timestamp) -> Self {
        let live = || world.recoveries.iter().filter(|r| !r.phase.is_over());
        let begun = |r: &'a crate::model::Recovery| {
            r.instances.values().filter(|i| !i.phase.is_over() && i.attempt > 0).map(|i| (i.content, r.name.clone()))
        };
        let jobs = live()
            .flat_map(|r| r.instances.values())
            .filter(|i| !i.phase.is_over())
            .filter(|i| i.job.as_ref().is_some_and(|job| job.state == crate::model::JobState::Active))
            .count();
        Self { policy, world, now, taken: live().flat_map(begun).collect(), jobs }
    }

    /// Contents whose recovery ends in this pass are free again: what comes next for them is said at once.
    fn release(&mut self, plan: &Plan) {
        self.taken.retain(|(content, name)| match plan.recoveries.get(name) {
            None => true, // it is being deleted: its Job may still run
            Some(next) => next.instances.values().any(|one| one.state.content == *content && !one.state.phase.is_over()),
        });
    }

    /// The recovery other than `name` that works on `content`.
    pub fn taken_by_other(&self, content: Content, name: &str) -> Option<&str> {
        self.taken.iter().find(|(c, by)| *c == content && by != name).map(|(_, by)| by.as_str())
    }
}
