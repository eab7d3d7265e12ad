//! May postgres start on this volume, may it go on? The table of design §3.3 as one pure function:
//! lock (held by whoever asks), then marks, then catalog, then start.

use tokio::time::Instant;

use crate::{
    model::{Content, InstanceState, Look, Role, Timeline, page::Shape},
    volume::{Marks, TokenState},
};

/// What the catalog says of this place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowHere {
    /// The row of this dbid has this address, port and directory.
    Mine { role: Role, in_sync: bool },
    /// No row names this place with this dbid; the text says what there is instead.
    NotMine(String),
}

/// What the other side of the pair says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerHere {
    /// It runs as a mirror, so it was not promoted.
    InRecovery,
    /// It serves as a primary, or could.
    Promoted,
    /// The other coordinator serves on this timeline, which is higher than ours.
    Overtook(Timeline),
}

/// How a mirror's log stands to that of its acting primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrimaryHere {
    HasAll,
    /// It lacks what the mirror has, so it was put back on an older copy of itself; the text says how far both are.
    Lacks(String),
}

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct Facts {
    pub marks: Marks,
    pub token: TokenState,
    pub shape: Shape,
    /// Why the directory is unusable, or its control file, for people.
    pub shape_why: String,
    pub content: Option<Content>,
    /// The newest timeline that the directory knows.
    pub timeline: Option<Timeline>,
    pub row: Look<RowHere>,
    /// Asked only when there is no coordinator to ask.
    pub peer: Look<PeerHere>,
    /// Asked only for a mirror that may start.
    pub primary: Look<PrimaryHere>,
    /// The other coordinator has been silent for as long as one waits for it.
    pub waited_for_peer: bool,
    /// The pair was in sync when the catalog was last read.
    pub was_in_sync: bool,
    /// postgres died on this directory in a way that a start can not mend.
    pub unusable: Option<String>,
    /// It followed a history that is not its primary's.
    pub diverged: Option<String>,
}

/// What to do with a postgres that does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Start,
    /// The coordinator is started in two steps (O §8).
    StartCoordinator,
    Stay(InstanceState, String),
}

fn stay(state: InstanceState, why: impl Into<String>) -> Decision {
    Decision::Stay(state, why.into())
}

/// The decision for a postgres that does not run. The caller holds the lock.
pub fn decide(facts: &Facts) -> Decision {
    if facts.marks.maintenance {
        return Decision::Start; // a person works here and knows
    }
    if facts.shape == Shape::Unknown {
        return stay(InstanceState::Deciding, facts.shape_why.clone());
    }
    if let Some(stop) = by_marks(&facts.marks) {
        return stop;
    }
    if let TokenState::Foreign(why) = &facts.token {
        return stay(InstanceState::VolumeUnrecognised, why.clone());
    }
    if facts.token == TokenState::Absent && facts.shape == Shape::Empty {
        return stay(
            InstanceState::VolumeUnrecognised,
            "the volume has neither a token nor a database; is it the right one, is it mounted?",
        );
    }
    if facts.content == Some(Content::COORDINATOR) {
        return coordinator(facts);
    }
    match &facts.row {
        Look::Seen(RowHere::Mine { role: Role::Mirror, in_sync }) => mirror(facts, *in_sync),
        Look::Seen(RowHere::Mine { role: Role::Primary, in_sync }) => primary(facts, *in_sync),
        Look::Seen(RowHere::NotMine(why)) => stay(InstanceState::NotInCatalog, why.clone()),
        Look::Unknown(why) => blind(facts, why),
    }
}

/// Marks that keep postgres down whatever the catalog says.
pub fn by_marks(marks: &Marks) -> Option<Decision> {
    if let Some(why) = &marks.unknown {
        return Some(stay(InstanceState::Deciding, format!("the marks can not be looked at: {why}")));
    }
    if let Some(why) = &marks.unreadable {
        return Some(stay(InstanceState::CopyUnfinished, format!("a mark can not be read, so it stands: {why}")));
    }
    if marks.retired {
        return Some(stay(InstanceState::Retired, "the mark retired stands: a person keeps postgres down, or this place was moved away"));
    }
    if let Some(hold) = &marks.hold {
        return Some(stay(InstanceState::Held, format!("held for {}: {}", hold.attempt, hold.reason)));
    }
    let copy = marks.copy.as_ref()?;
    Some(stay(InstanceState::CopyUnfinished, format!("{} began a copy at {} and did not finish it", copy.attempt, copy.since)))
}

fn mirror(facts: &Facts, in_sync: bool) -> Decision {
    match (facts.shape, &facts.unusable, &facts.diverged) {
        (Shape::Empty | Shape::Unusable | Shape::Unknown, ..) => stay(InstanceState::NeedsFull, facts.shape_why.clone()),
        (_, Some(why), _) => stay(InstanceState::NeedsFull, why.clone()),
        (Shape::Primary, ..) => {
            stay(InstanceState::NeedsRecovery, "the catalog says mirror and the directory would start as a primary: it is stale")
        }
        (Shape::Mirror, _, Some(why)) => stay(InstanceState::NeedsRecovery, why.clone()),
        (Shape::Mirror, None, None) => beside_primary(&facts.primary, in_sync),
    }
}

/// A mirror asks for the log from the start of a segment on, so one that is ahead would have its own written over, and be
/// called in sync. What FTS may have to promote starts at once; what it may not promote can wait for an answer.
fn beside_primary(primary: &Look<PrimaryHere>, in_sync: bool) -> Decision {
    match primary {
        Look::Seen(PrimaryHere::Lacks(why)) => stay(InstanceState::NeedsRecovery, why.clone()),
        Look::Unknown(why) if !in_sync => {
            stay(InstanceState::WaitingForPrimary, format!("whether the acting primary has all that this mirror has is not known: {why}"))
        }
        _ => Decision::Start,
    }
}

fn primary(facts: &Facts, in_sync: bool) -> Decision {
    let lost = |why: &str| {
        if in_sync {
            stay(InstanceState::StayingDown, format!("{why}; the mirror is in sync, so FTS can promote it"))
        } else {
            stay(InstanceState::PrimaryDataMissing, why)
        }
    };
    match (facts.shape, &facts.unusable) {
        (Shape::Empty | Shape::Unusable | Shape::Unknown, _) => lost(&facts.shape_why),
        (_, Some(why)) => lost(why),
        // A mirror's shape under a primary's row: FTS is about to promote it.
        (Shape::Primary | Shape::Mirror, None) => Decision::Start,
    }
}

/// No coordinator to ask: unknown is not yes.
fn blind(facts: &Facts, why: &str) -> Decision {
    let no_coordinator = format!("the coordinator can not be asked ({why})");
    match facts.shape {
        Shape::Mirror if facts.unusable.is_none() && facts.diverged.is_none() => Decision::Start,
        Shape::Empty | Shape::Unusable | Shape::Unknown | Shape::Mirror => stay(InstanceState::WaitingForCoordinator, no_coordinator),
        Shape::Primary => match &facts.peer {
            Look::Seen(PeerHere::InRecovery) if facts.was_in_sync && facts.unusable.is_none() => Decision::Start,
            Look::Seen(PeerHere::InRecovery) => stay(InstanceState::WaitingForCoordinator, no_coordinator),
            Look::Seen(PeerHere::Promoted | PeerHere::Overtook(_)) => {
                stay(InstanceState::WaitingForPeer, format!("{no_coordinator} and the peer was promoted"))
            }
            Look::Unknown(peer) => stay(InstanceState::WaitingForPeer, format!("{no_coordinator} and the peer is silent: {peer}")),
        },
    }
}

/// The coordinator asks nobody but its standby; what follows is in `coordinator.rs`. That it was overtaken is not
/// forgotten when the other one falls silent: two catalogs would each lead the segments.
fn coordinator(facts: &Facts) -> Decision {
    let overtaken_by = match (&facts.peer, &facts.token) {
        (Look::Seen(PeerHere::Overtook(timeline)), _) => Some(*timeline),
        (_, TokenState::Mine(token)) => Some(token.coordinator_timeline).filter(|seen| facts.timeline.is_some_and(|own| own < *seen)),
        _ => None,
    };
    match (facts.shape, &facts.unusable, &facts.peer) {
        (Shape::Primary, None, _) if let Some(Timeline(theirs)) = overtaken_by => {
            let why =
                format!("the other coordinator has taken over on timeline {theirs}, higher than this one's; make this one its standby");
            stay(InstanceState::WaitingForPeer, why)
        }
        (Shape::Empty | Shape::Unusable | Shape::Unknown, ..) => stay(InstanceState::PrimaryDataMissing, facts.shape_why.clone()),
        (_, Some(why), _) => stay(InstanceState::PrimaryDataMissing, why.clone()),
        (Shape::Mirror, ..) => Decision::Start,
        (Shape::Primary, _, Look::Unknown(why)) if !facts.waited_for_peer => {
            stay(InstanceState::WaitingForPeer, format!("the other coordinator may have taken over and is silent: {why}"))
        }
        (Shape::Primary, ..) => Decision::StartCoordinator,
    }
}

/// What to do with a postgres that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    LetRun,
    /// The catalog says mirror while it runs read-write: kill the whole group at once.
    Fence(String),
    /// There is nothing left that it could run on, or be stopped on in order: the same, but nobody wrote what he may not.
    Kill(String),
    /// Stop for the hold, acknowledge, give up the lock.
    Obey,
    /// A hold that is not obeyed, and why.
    Disobey(String),
    /// A mark forbids it to run: stop.
    Stop(String),
}

/// What a row is worth: it was true when it was asked for, and nothing that it is held against may have turned since.
/// A mirror that FTS has just promoted runs read-write, and the row that was read a minute ago still says mirror.
pub fn believed(row: &Look<RowHere>, asked: Instant, turned: Instant) -> Look<RowHere> {
    if asked >= turned { row.clone() } else { Look::Unknown("the row was not read since things turned".into()) }
}

/// The decision for a postgres that runs. Shaped as a primary, without a mirror's marker, it is open for writing or about to be.
pub fn watch(facts: &Facts) -> Watch {
    if facts.marks.maintenance || facts.marks.unknown.is_some() {
        return Watch::LetRun;
    }
    let mirror_by_catalog = matches!(facts.row, Look::Seen(RowHere::Mine { role: Role::Mirror, .. }));
    match facts.shape {
        Shape::Primary if mirror_by_catalog => return Watch::Fence("the catalog says mirror and postgres runs read-write".into()),
        Shape::Empty if mirror_by_catalog => return Watch::Kill("this mirror's data directory was removed while postgres ran".into()),
        _ => {}
    }
    if facts.marks.hold.is_some() {
        return match &facts.row {
            Look::Seen(RowHere::Mine { role: Role::Mirror, in_sync: true }) => {
                Watch::Disobey("the catalog says that it is up and in sync".into())
            }
            Look::Seen(RowHere::Mine { role: Role::Mirror, in_sync: false }) => Watch::Obey,
            Look::Seen(RowHere::Mine { role: Role::Primary, .. }) => Watch::Disobey("the catalog says primary".into()),
            Look::Seen(RowHere::NotMine(why)) => Watch::Disobey(why.clone()),
            Look::Unknown(_) => Watch::LetRun, // unknown is not yes, and not no either: the row is being asked for
        };
    }
    match by_marks(&facts.marks) {
        Some(Decision::Stay(_, why)) => Watch::Stop(why),
        _ => Watch::LetRun,
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
