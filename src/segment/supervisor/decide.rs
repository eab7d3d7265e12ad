//! May postgres start on this volume, may it go on? A table as one pure function:
//! lock (held by whoever asks), then marks, then catalog, then start.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm, reason = "a new state has to be decided about"))]

use std::time::Duration;

use tokio::time::Instant;

use super::{
    alone,
    facts::{Alone, Facts, HoldsMore, OtherHere, PeerRole, PrimaryHere, RowHere},
    person::Allowed,
};
use crate::volume::{Marks, TokenState};
use model::{Content, InstanceState, Look, Role, Timeline, page::Shape};

/// What to do with a postgres that does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Start,
    /// The coordinator is started in two steps (docs/greenplum.md#a-coordinators-start); it dispatches without an answer of the others
    /// only with witnesses.
    StartCoordinator,
    /// The coordinator crashed while it dispatched: it dispatches again at once.
    Dispatch,
    Stay(InstanceState, String),
    /// A stale primary, which its volume has to remember: the next catalog may be an older one.
    Replaced(String),
}

/// Whether that postgres died of its data still counts, `left` before its back-off is over. What an acting primary died of may
/// have passed, and nobody else serves: its row alone keeps it down no longer than that.
pub fn counts(unusable: &str, row: &Look<RowHere>, shape: Shape, left: Duration) -> Option<String> {
    let acting = match row {
        Look::Seen(RowHere::Mine { role: Role::Primary, .. }) => true,
        Look::Seen(RowHere::Mine { role: Role::Mirror, .. } | RowHere::NotMine(_)) => false,
        Look::Unknown(_) => shape == Shape::Primary,
    };
    match (acting, left) {
        (false, _) => Some(unusable.to_owned()),
        (true, Duration::ZERO) => None,
        (true, left) => Some(format!("{unusable}; it is tried again in {} s", left.as_secs() + 1)),
    }
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
    if let Some((state, why)) = by_marks(&facts.marks) {
        return stay(state, why);
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

/// Marks that keep postgres down whatever the catalog says: the state in which they do, and why.
pub fn by_marks(marks: &Marks) -> Option<(InstanceState, String)> {
    if let Some(why) = &marks.unknown {
        return Some((InstanceState::Deciding, format!("the marks cannot be looked at: {why}")));
    }
    if let Some(why) = &marks.unreadable {
        return Some((InstanceState::CopyUnfinished, format!("a mark cannot be read, so it stands: {why}")));
    }
    if marks.retired {
        let why = "the mark retired stands: a person keeps postgres down, or this place was moved away";
        return Some((InstanceState::Retired, why.into()));
    }
    if let Some(hold) = &marks.hold {
        return Some((InstanceState::Held, format!("held for {}: {}", hold.attempt, hold.reason)));
    }
    let copy = marks.copy.as_ref()?;
    Some((InstanceState::CopyUnfinished, format!("{} began a copy at {} and did not finish it", copy.attempt, copy.since)))
}

fn mirror(facts: &Facts, in_sync: bool) -> Decision {
    match (facts.shape, &facts.unusable, &facts.diverged) {
        (Shape::Empty | Shape::Unusable | Shape::Unknown, ..) => stay(InstanceState::NeedsFull, facts.shape_why.clone()),
        (_, Some(why), _) => stay(InstanceState::NeedsFull, why.clone()),
        (Shape::Primary, ..) => match outdated(facts) {
            Some(why) => stay(InstanceState::CatalogOutdated, why),
            None => Decision::Replaced(format!(
                "the catalog says mirror and the directory would start as a primary: it is stale{}",
                alone::untold(facts)
            )),
        },
        (Shape::Mirror, _, Some(why)) => stay(InstanceState::NeedsRecovery, why.clone()),
        (Shape::Mirror, None, None) => beside_primary(&facts.primary, in_sync),
    }
}

/// A mirror asks for the log from the start of a segment on, so one that is ahead would have its own written over, and be
/// called in sync. What FTS may have to promote starts at once; what it may not promote can wait for an answer, and so can
/// any mirror of a primary that serves.
fn beside_primary(primary: &Look<PrimaryHere>, in_sync: bool) -> Decision {
    match primary {
        Look::Seen(PrimaryHere::HasAll) => Decision::Start,
        Look::Seen(PrimaryHere::Lacks(why)) => stay(InstanceState::NeedsRecovery, why.clone()),
        Look::Seen(PrimaryHere::Unproven(why)) => stay(InstanceState::WaitingForPrimary, why.clone()),
        Look::Unknown(_) if in_sync => Decision::Start,
        Look::Unknown(why) => {
            stay(InstanceState::WaitingForPrimary, format!("whether the acting primary has all that this mirror has is not known: {why}"))
        }
    }
}

/// Why a catalog that calls a primary a mirror is older than that one's directory.
fn outdated(facts: &Facts) -> Option<String> {
    newer_than_peer(facts).or_else(|| alone::catalog_is_older(facts))
}

/// Why a catalog that calls it a mirror is older than the last failover: only a promotion makes a higher timeline.
fn newer_than_peer(facts: &Facts) -> Option<String> {
    let theirs = facts.peer.seen().filter(|peer| peer.role != PeerRole::Idle)?.timeline?;
    let own = facts.timeline.filter(|own| *own > theirs)?;
    Some(format!(
        "the catalog says mirror, and this one is on timeline {own} of its content, the other side on {theirs}: the catalog is older than the last failover"
    ))
}

/// Why a directory that would open as a primary may hold less than the other side.
fn was_replaced(facts: &Facts) -> Option<String> {
    if let Some(why) = other_was_promoted(facts) {
        return Some(why);
    }
    let TokenState::Mine(token) = &facts.token else { return None };
    let replaced = token.replaced.as_ref().filter(|replaced| !facts.not_replaced.lifts(&replaced.evidence()))?;
    Some(format!(
        "at {} a coordinator on timeline {} called it a mirror, and it was not repaired since{}",
        replaced.at,
        replaced.coordinator_timeline,
        facts.not_replaced.how(&replaced.evidence())
    ))
}

/// Why the other side is the newer one: only a promotion makes a higher timeline, and this one has followed nobody there.
fn other_was_promoted(facts: &Facts) -> Option<String> {
    let peer = facts.peer.seen().filter(|peer| peer.role == PeerRole::Promoted)?;
    let theirs = peer.timeline.filter(|theirs| facts.timeline.is_some_and(|own| own < *theirs))?;
    let evidence = peer.promotion.clone().unwrap_or_else(|| format!("timeline-{theirs}"));
    let why = || format!("the other side is a primary on timeline {theirs} of this content, higher than this one's");
    (!facts.not_replaced.lifts(&evidence)).then(|| format!("{}{}", why(), facts.not_replaced.how(&evidence)))
}

/// What the other side holds, and a directory that would open as a primary lacks: it was put back on an older copy.
fn was_put_back(facts: &Facts) -> Option<String> {
    more_than_counts(facts, facts.peer.seen()?.holds_more.as_ref()?)
}

/// Why what another copy holds keeps this one closed, unless a person knows better.
fn more_than_counts(facts: &Facts, more: &HoldsMore) -> Option<String> {
    (!facts.not_replaced.lifts(&more.copy)).then(|| format!("{}{}", more.why, facts.not_replaced.how(&more.copy)))
}

/// Why it cannot be told yet whether it was; that is waited for a few seconds, by one whose volume may have been exchanged.
fn unsettled(facts: &Facts) -> Option<&str> {
    facts.peer.seen()?.unsettled.as_deref().filter(|_| facts.may_wait)
}

fn primary(facts: &Facts, in_sync: bool) -> Decision {
    let lost = |why: &str| match (in_sync, alone::incarnation(facts)) {
        (true, None) => stay(InstanceState::StayingDown, format!("{why}; the mirror is in sync, so FTS can promote it")),
        (true, Some(_)) => stay(
            InstanceState::PrimaryDataMissing,
            format!(
                "{why}; the catalog says that the mirror is in sync, and is older than what FTS last told this one: to commit without it"
            ),
        ),
        (false, _) => stay(InstanceState::PrimaryDataMissing, why),
    };
    match (facts.shape, &facts.unusable) {
        (Shape::Empty | Shape::Unusable | Shape::Unknown, _) => lost(&facts.shape_why),
        (Shape::Primary, _) if let Some(why) = was_replaced(facts) => {
            stay(InstanceState::Replaced, format!("the catalog says primary, but {why}"))
        }
        (Shape::Primary | Shape::Mirror, Some(why)) => lost(why),
        // Where FTS may promote the other side, nothing is lost that was acknowledged. Where it may not, somebody has decided
        // already to go on with this one, and what the other side holds is kept by its own supervisor.
        (Shape::Primary, None) if in_sync && let Some(why) = was_put_back(facts) => {
            stay(InstanceState::PutBack, format!("{why} The mirror is in sync, so FTS can promote it"))
        }
        (Shape::Primary, None) if in_sync && let Some(why) = unsettled(facts) => stay(InstanceState::WaitingForPeer, why),
        (Shape::Primary, None) => Decision::Start,
        (Shape::Mirror, None) => to_be_promoted(facts),
    }
}

/// A mirror's shape under a primary's row: FTS is about to promote it in place of a primary that is lost. That one, where it can be
/// asked, is a primary still, on no higher timeline, and its commits waited for this mirror. A copy that followed this one as a primary
/// has seen what this volume has forgotten.
fn to_be_promoted(facts: &Facts) -> Decision {
    if let Some(why) = other_was_promoted(facts) {
        return stay(InstanceState::Replaced, format!("the catalog says primary, but {why}"));
    }
    if let Some(why) = alone::other_side(facts) {
        return stay(InstanceState::CatalogOutdated, why);
    }
    match (was_put_back(facts), unsettled(facts)) {
        (Some(why), _) => stay(InstanceState::PutBack, why),
        (None, Some(why)) => stay(InstanceState::WaitingForPeer, why),
        (None, None) => Decision::Start,
    }
}

/// No coordinator to ask: unknown is not yes.
fn blind(facts: &Facts, why: &str) -> Decision {
    let no_coordinator = format!("the coordinator cannot be asked ({why})");
    match facts.shape {
        Shape::Mirror if let Some(why) = was_put_back(facts) => stay(InstanceState::PutBack, format!("{no_coordinator}, and {why}")),
        // Who has just read an older catalog would have it promoted as soon as it runs.
        Shape::Mirror if alone::of_other(facts).is_some() => {
            stay(InstanceState::WaitingForCoordinator, format!("{no_coordinator}, and the other side commits without this mirror"))
        }
        Shape::Mirror if facts.unusable.is_none() && facts.diverged.is_none() => beside_primary(&facts.primary, facts.was_in_sync),
        Shape::Empty | Shape::Unusable | Shape::Unknown | Shape::Mirror => stay(InstanceState::WaitingForCoordinator, no_coordinator),
        Shape::Primary if let Some(why) = was_replaced(facts) => stay(InstanceState::Replaced, format!("{no_coordinator}, and {why}")),
        Shape::Primary if let Some(why) = was_put_back(facts) => stay(InstanceState::PutBack, format!("{no_coordinator}, and {why}")),
        Shape::Primary => match facts.peer.seen().map(|peer| peer.role) {
            Some(PeerRole::Idle) => {
                stay(InstanceState::WaitingForPeer, format!("{no_coordinator} and the peer has a mirror's directory and does not run"))
            }
            Some(PeerRole::InRecovery) if let Some(why) = unsettled(facts) => stay(InstanceState::WaitingForPeer, why),
            Some(PeerRole::InRecovery) if facts.was_in_sync && facts.unusable.is_none() => Decision::Start,
            Some(PeerRole::InRecovery) => stay(InstanceState::WaitingForCoordinator, no_coordinator),
            Some(PeerRole::Promoted) => stay(InstanceState::WaitingForPeer, format!("{no_coordinator} and the peer was promoted")),
            None => {
                let silent = facts.peer.unknown().map_or("", String::as_str);
                stay(InstanceState::WaitingForPeer, format!("{no_coordinator} and the peer is silent: {silent}"))
            }
        },
    }
}

/// The coordinator asks nobody but the other ones; what follows is in `coordinator.rs`. That it was overtaken is not
/// forgotten when the other one falls silent: two catalogs would each lead the segments.
fn coordinator(facts: &Facts) -> Decision {
    match (facts.shape, &facts.unusable) {
        // Nobody repairs it, so it goes after what shows another history alone.
        (Shape::Mirror, None) => match &facts.primary {
            Look::Seen(PrimaryHere::Lacks(why)) => stay(InstanceState::NeedsRecovery, why.clone()),
            Look::Seen(PrimaryHere::HasAll | PrimaryHere::Unproven(_)) | Look::Unknown(_) => Decision::Start,
        },
        (Shape::Primary, _) if let Some(why) = overtaken(facts) => stay(InstanceState::WaitingForPeer, why),
        (Shape::Primary, _) if let Look::Seen(OtherHere::Rivals(timeline)) = facts.other => {
            stay(InstanceState::WaitingForPeer, rivals(timeline))
        }
        (Shape::Primary, None)
            if let Look::Seen(OtherHere::HoldsMore(more)) = &facts.other
                && let Some(why) = more_than_counts(facts, more) =>
        {
            stay(InstanceState::PutBack, why)
        }
        (Shape::Empty | Shape::Unusable | Shape::Unknown, _) => stay(InstanceState::PrimaryDataMissing, facts.shape_why.clone()),
        (Shape::Primary | Shape::Mirror, Some(why)) => stay(InstanceState::PrimaryDataMissing, why.clone()),
        (Shape::Primary, None) => beside_others(facts),
    }
}

fn overtaken(facts: &Facts) -> Option<String> {
    let told = match facts.other {
        Look::Seen(OtherHere::Overtook(timeline)) => Some(timeline),
        Look::Seen(OtherHere::Behind | OtherHere::HoldsMore(_) | OtherHere::Rivals(_)) | Look::Unknown(_) => None,
    };
    let took_over = |theirs: Timeline| {
        format!(
            "the other coordinator has taken over on timeline {theirs}, higher than this one's. What this one committed and the other \
             lacks is on this volume alone: look for that, and save it, before you make this one the other's standby"
        )
    };
    if let Some(theirs) = told {
        return Some(took_over(theirs));
    }
    let token = match &facts.token {
        TokenState::Mine(token) => token,
        TokenState::Absent | TokenState::Foreign(_) => return None,
    };
    let (seen, spent) = (token.coordinator_timeline, token.coordinator_word.as_deref().and_then(Allowed::parse));
    let own = facts.timeline.filter(|own| *own < Allowed::floor(facts.allowed, seen))?;
    Some(format!("{}, or let it be believed ({})", took_over(seen), Allowed::how(own, seen, spent)))
}

/// What a person is told of two that take writes, of which none is older.
pub fn rivals(timeline: Timeline) -> String {
    format!(
        "another coordinator takes writes on timeline {timeline}, which is this one's, too: a person has to say which of them goes on, \
         and end the other for good"
    )
}

fn beside_others(facts: &Facts) -> Decision {
    match (&facts.other, &facts.alone) {
        (_, Alone::InPlace) => Decision::Dispatch,
        (Look::Seen(_), Alone::Waits | Alone::Waited | Alone::Refuted(_)) | (Look::Unknown(_), Alone::Waited) => Decision::StartCoordinator,
        (Look::Unknown(why), Alone::Waits) => stay(
            InstanceState::WaitingForPeer,
            format!("whether the other coordinator has taken over, and what it holds, is not known: {why}"),
        ),
        (Look::Unknown(why), Alone::Refuted(seen)) => {
            stay(InstanceState::WaitingForPeer, format!("the other coordinator is silent ({why}), and {seen}"))
        }
    }
}

/// What to do with a postgres that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    LetRun,
    /// The catalog says mirror while it runs read-write, or another coordinator has taken over: kill the whole group at once.
    Fence(String),
    /// The catalog says mirror, and the pair itself shows that the catalog is old: it runs on, and that is told.
    NotOverruled(String),
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
    if let Look::Seen(OtherHere::Overtook(timeline)) = facts.other {
        return Watch::Fence(format!("the other coordinator has taken over on timeline {timeline}, higher than this one's"));
    }
    let (mirror_by_catalog, primary_by_catalog) = match facts.row {
        Look::Seen(RowHere::Mine { role, .. }) => (role == Role::Mirror, role == Role::Primary),
        Look::Seen(RowHere::NotMine(_)) | Look::Unknown(_) => (false, false),
    };
    match facts.shape {
        Shape::Primary if mirror_by_catalog => {
            let stale = || Watch::Fence(format!("the catalog says mirror and postgres runs read-write{}", alone::untold(facts)));
            return outdated(facts).map_or_else(stale, Watch::NotOverruled);
        }
        Shape::Mirror if let Look::Seen(PrimaryHere::Lacks(why)) = &facts.primary => return Watch::Stop(why.clone()),
        Shape::Mirror if primary_by_catalog && let Some(why) = alone::other_side(facts) => return Watch::Stop(why),
        Shape::Empty if mirror_by_catalog => return Watch::Kill("this mirror's data directory was removed while postgres ran".into()),
        Shape::Primary | Shape::Empty | Shape::Mirror | Shape::Unusable | Shape::Unknown => {}
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
    by_marks(&facts.marks).map_or(Watch::LetRun, |(_, why)| Watch::Stop(why))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
