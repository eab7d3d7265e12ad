//! What the planner decided, and for everything that it leaves alone, why.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{Attempt, Content, Dbid, Phase, Progress, RecoveryInstance, Refusal, Repair, World};

/// The decision about one look. It leaves nothing to choose to whoever carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[must_use = "a plan that nobody reads heals nothing and explains nothing"]
pub struct Plan {
    /// Recoveries to create, at most one per content.
    pub new_recoveries: Vec<NewRecovery>,
    /// The next state of every recovery that is not over, by name.
    pub recoveries: BTreeMap<String, RecoveryNext>,
    /// Every instance that is not well, each with its reason or its recovery.
    pub unwell: Vec<Unwell>,
    /// Instances that are well, with what would keep them from being repaired once they are not.
    pub unfit: Vec<Unwell>,
    /// Acting primaries that cannot tell whether their mirror hangs, well or not.
    pub unwatched: Vec<Unwell>,
    /// Acting primaries from whose supervisors nothing is heard, so that nobody knows whether they can tell.
    pub unheard: Vec<Unwell>,
    /// Instances, well or not, at which a Job would lack what their pods have.
    pub lacking: Vec<Unwell>,
    /// Old recoveries that count for nothing any more, to be removed.
    pub removals: Vec<Removal>,
    /// FTS should look now instead of at its next interval; the text says why.
    pub probe: Option<String>,
}

/// What fell or is being proven since less than this will soon look different.
const YOUNG: SignedDuration = SignedDuration::from_secs(30);

impl Plan {
    /// Something has just fallen, was just repaired or nearly is: the next steps come within moments.
    pub fn is_lively(&self, now: Timestamp) -> bool {
        let instances = || self.recoveries.values().flat_map(|recovery| recovery.instances.values());
        let proving = instances().filter_map(|one| one.state.proving_since.filter(|_| matches!(one.standing, Standing::Proving(_))));
        let attempting = instances().filter(|one| one.standing == Standing::Attempting).filter_map(|one| one.state.job.as_ref());
        let mut progress = attempting.filter_map(|job| job.progress.as_ref());
        let young = self.unwell.iter().map(|one| one.since).chain(proving).any(|since| now.duration_since(since) < YOUNG);
        young || progress.any(Progress::nears_its_end)
    }

    /// The coordinator that gave the catalog is not believed: it is not to be asked again by the session that is there.
    pub fn doubts_the_coordinator(&self) -> bool {
        self.unwell.iter().any(|one| matches!(one.reason.refusal(), Some(Refusal::CoordinatorMayBeOvertaken { .. })))
    }

    /// What was planned for an instance did not come about: it is not told as if it had.
    pub fn was_not_made(&mut self, dbid: Dbid, by: &str, refusal: &Refusal) {
        self.new_recoveries.retain(|new| new.name != by);
        for one in self.unwell.iter_mut().filter(|one| one.dbid == dbid) {
            match &one.reason {
                Reason::Planned { recovery, .. } if recovery == by => one.reason = Reason::Refused(refusal.clone()),
                Reason::Recovering { recovery, .. } | Reason::Waits { recovery, .. } if recovery == by => {
                    one.reason = Reason::Waits { recovery: by.to_owned(), refusal: refusal.clone() };
                }
                Reason::Planned { .. } | Reason::Recovering { .. } | Reason::Waits { .. } | Reason::Refused(_) => {}
            }
        }
    }

    /// Whose Jobs are still not made, of those that were not before this pass and those whose was refused in it: the one tried last is
    /// the last. What is over, or was made, is none of them.
    pub fn still_not_made(&self, before: &[(String, Dbid)], refused: &[(Dbid, String, Refusal)]) -> Vec<(String, Dbid)> {
        let next = |(name, dbid): &(String, Dbid)| self.recoveries.get(name).and_then(|next| next.instances.get(dbid));
        let refused: Vec<_> = refused.iter().map(|(dbid, name, _)| (name.clone(), *dbid)).filter(|one| next(one).is_some()).collect();
        let waits = |one: &&(String, Dbid)| next(one).is_some_and(|next| next.create_job.is_none() && !next.state.phase.is_over());
        before.iter().filter(waits).filter(|one| !refused.contains(one)).chain(&refused).cloned().collect()
    }

    /// Nothing of this moves before a person or the cluster's pods do: no attempt runs, waits for its time or is being
    /// proven, and the catalog is not known or all that is not well needs a person.
    pub fn stands_still(&self, world: &World) -> bool {
        let instances = self.recoveries.values().flat_map(|recovery| recovery.instances.values());
        let moves = |one: &InstanceNext| matches!(one.standing, Standing::Attempting | Standing::Proving(_) | Standing::BackingOff { .. });
        let moving = !self.new_recoveries.is_empty() || instances.into_iter().any(moves);
        let for_a_person = |one: &Unwell| one.reason.refusal().is_some_and(Refusal::needs_a_person);
        // That a coordinator is not well makes nobody look at the segments less often.
        let mut segments = self.unwell.iter().filter(|one| one.content != Content::COORDINATOR).peekable();
        let stuck = segments.peek().is_some() && segments.all(for_a_person);
        !moving && (world.catalog.seen().is_none() || stuck)
    }
}

/// A recovery that automatic healing makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecovery {
    /// Deterministic, so that a restarted operator finds its own.
    pub name: String,
    pub dbid: Dbid,
    pub content: Content,
    /// What the first attempt will be, for people.
    pub repair: Repair,
    pub why: String,
    /// The recovery that it goes on with.
    pub follows: Option<String>,
}

/// A recovery whose object is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub recovery: String,
    pub why: String,
}

/// The next state of one recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryNext {
    pub phase: Phase,
    pub instances: BTreeMap<Dbid, InstanceNext>,
    pub message: String,
}

/// The next state of one instance in a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceNext {
    pub state: RecoveryInstance,
    pub standing: Standing,
    /// The Job to create, if this is its moment.
    pub create_job: Option<Attempt>,
    /// The Job of the newest attempt is to be deleted, and why: it makes no progress, and its end can be no half copy.
    pub end_job: Option<String>,
    /// What people should know beside the standing.
    pub note: Option<String>,
}

/// Where an instance of a recovery stands, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is done for a reason that can pass.
    Waiting(Refusal),
    /// Nothing will be done.
    Refused(Refusal),
    /// The next attempt begins then.
    BackingOff { until: Timestamp },
    /// A Job is at work.
    Attempting,
    /// Its Job makes no progress.
    Stuck(Refusal),
    /// The Job is done; these points are not proven yet.
    Proving(Vec<Missing>),
    /// The pair is proven to be in sync.
    Healed,
    /// It ended without success; the failure stands in the state.
    Failed,
    /// Ended before this look.
    Over,
}

impl Standing {
    /// What keeps it from going on.
    pub fn waits_for(&self) -> Option<&Refusal> {
        match self {
            Self::Waiting(refusal) | Self::Stuck(refusal) => Some(refusal),
            Self::Refused(_) | Self::BackingOff { .. } | Self::Attempting | Self::Proving(_) | Self::Healed | Self::Failed | Self::Over => {
                None
            }
        }
    }
}

/// What is missing to call an instance healed (docs/greenplum.md#gprecoverseg).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Missing {
    /// FTS has not marked the mirror up and both rows in sync.
    CatalogInSync,
    /// No walsender of the acting primary streams to the target pod's address.
    Walsender,
    /// The target's supervisor does not see its postgres receive.
    Receiving,
    /// A dispatched statement got no answer from this content.
    Dispatch,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CatalogInSync => "FTS does not call the pair in sync",
            Self::Walsender => "no walsender of the acting primary streams to it",
            Self::Receiving => "its supervisor does not see it receive",
            Self::Dispatch => "no dispatched statement was answered by its content",
        })
    }
}

/// An instance that is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwell {
    pub dbid: Dbid,
    pub content: Content,
    /// The catalog row in the notation of the field.
    pub row: String,
    pub since: Timestamp,
    pub reason: Reason,
}

/// What is done about an instance that is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This recovery works on it; what keeps it from being proven, or what its next attempt waits for, if something does.
    Recovering { recovery: String, trouble: Option<String> },
    /// This recovery works on it, and does not go on, because.
    Waits { recovery: String, refusal: Refusal },
    /// This recovery is about to be made.
    Planned { recovery: String, repair: Repair },
    /// Nothing, because.
    Refused(Refusal),
}

impl Reason {
    /// Why nothing is done, if nothing is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Waits { refusal, .. } => Some(refusal),
            Self::Recovering { .. } | Self::Planned { .. } => None,
        }
    }
}
