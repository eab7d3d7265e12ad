//! Looks for what is not well, and says for each instance what is done about it or why nothing is.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::{aftermath, breaker, desk::Desk, follow, gates, gates::Admitted, ladder, proof};
use model::{
    CatalogIndex, Content, Dbid, Instance, InstanceState, Look, NewRecovery, NoPage, Page, Pair, Plan, Reason, Refusal, Role, Row, Status,
    Unwell,
    page::{ExitClass, Shape},
    world::{MIRROR_APPLICATION, Walsender},
};

/// A start may take long (crash recovery, a long replay queue); when nothing of it has moved for so long it is no start any more.
const START_PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// FTS looks once a minute, and when it is asked to: a mirror that streams is marked up within that.
const MARKED: SignedDuration = SignedDuration::from_mins(5);

/// So long the last of them was a moment ago.
const MOMENT: SignedDuration = SignedDuration::from_mins(1);

/// So many ends within half an hour are no accident, however long its postgres serves between two of them.
const OFTEN: u32 = 5;
/// Nor is it over before the next one of so many is overdue.
const OVERDUE: SignedDuration = SignedDuration::from_mins(6);

/// A supervisor that is silent for so long does not only restart: its node is frozen, or it is.
const SILENT: SignedDuration = SignedDuration::from_secs(15);

/// Adds every unwell instance, and the recoveries that automatic healing makes.
pub fn triage(desk: &Desk, plan: &mut Plan) {
    let Some(catalog) = &desk.catalog else { return };
    let invalid = invalid(catalog);
    for (content, pair) in catalog.pairs() {
        match pair {
            Ok(pair) => {
                let before = plan.unwell.len();
                pair_of(desk, plan, *content, *pair);
                unfit(desk, plan, *pair, before);
                unwatched(desk, plan, *pair);
                lacking(desk, plan, *pair);
            }
            Err(why) => {
                let rows = invalid.get(content).into_iter().flatten();
                rows.for_each(|row| unwell(desk, plan, row, Reason::Refused(Refusal::CatalogInvalid { why: why.clone() })));
            }
        }
    }
}

/// A primary that cannot tell is told of beside whatever else it is: a mirror that hangs would look well.
fn unwatched(desk: &Desk, plan: &mut Plan, pair: Pair) {
    if let Some(why) = desk.page_at(pair.primary.dbid).and_then(|page| page.mirror_unwatched.clone()) {
        plan.unwatched.push(told(desk, pair.primary, Reason::Refused(Refusal::MirrorUnwatched { why })));
    }
    if let Some(refusal) = gates::unheard(desk, pair.primary) {
        plan.unheard.push(told(desk, pair.primary, Reason::Refused(refusal)));
    }
}

/// Nothing keeps a Job from being made; what it lacks may make it fail.
fn lacking(desk: &Desk, plan: &mut Plan, pair: Pair) {
    for row in [pair.primary, pair.mirror] {
        if let Some(what) = desk.world.instances.get(&row.dbid).and_then(|instance| instance.job_lacks.clone()) {
            plan.lacking.push(told(desk, row, Reason::Refused(Refusal::JobLacks { what })));
        }
    }
}

/// The rows of the contents whose rows cannot be true.
fn invalid<'a>(catalog: &CatalogIndex<'a>) -> HashMap<Content, Vec<&'a Row>> {
    let mut invalid: HashMap<_, Vec<_>> =
        catalog.pairs().iter().filter(|(_, pair)| pair.is_err()).map(|(content, _)| (*content, vec![])).collect();
    if !invalid.is_empty() {
        for row in catalog.rows() {
            if let Some(rows) = invalid.get_mut(&row.content) {
                rows.push(row);
            }
        }
    }
    invalid
}

fn pair_of(desk: &Desk, plan: &mut Plan, content: Content, pair: Pair) {
    if let Some(refusal) = primary_unwell(desk, content, pair) {
        unwell(desk, plan, pair.primary, Reason::Refused(refusal));
    }
    if pair.mirror.well() {
        // Both rows in sync are one of four points: until all are proven its recovery works on it.
        if let Some(reason) = worked_on(desk, pair.mirror) {
            unwell(desk, plan, pair.mirror, reason);
        } else if let Some(refusal) = up_and_of_no_use(desk, pair) {
            unwell(desk, plan, pair.mirror, Reason::Refused(refusal));
        }
    } else {
        let reason = mirror_unwell(desk, plan, pair.mirror);
        // Of one that is up and not in sync, too, FTS does not see what becomes of it between two looks.
        let catches_up = matches!(reason, Reason::Refused(Refusal::CatchingUp));
        let of_no_use = catches_up.then(|| up_and_of_no_use(desk, pair)).flatten();
        unwell(desk, plan, pair.mirror, of_no_use.map_or(reason, Reason::Refused));
    }
}

pub(super) fn unwell(desk: &Desk, plan: &mut Plan, row: &Row, reason: Reason) {
    plan.unwell.push(told(desk, row, reason));
}

fn told(desk: &Desk, row: &Row, reason: Reason) -> Unwell {
    // What lies ahead is of a clock that was set back: it would be waited for.
    let since = desk.world.instances.get(&row.dbid).and_then(|i| i.unwell_since).unwrap_or(desk.now).min(desk.now);
    Unwell { dbid: row.dbid, content: row.content, row: row.to_string(), since, reason }
}

/// What would stand in the way of a repair is said before there is one to make, of those that were not told to be unwell.
fn unfit(desk: &Desk, plan: &mut Plan, pair: Pair, told_before: usize) {
    for row in [pair.primary, pair.mirror] {
        if plan.unwell.iter().skip(told_before).any(|one| one.dbid == row.dbid) {
            continue;
        }
        if let Some(refusal) = gates::unfit(desk, row) {
            plan.unfit.push(told(desk, row, Reason::Refused(refusal)));
        }
    }
}

/// Why an acting primary is not well: nothing is ever done to it, but it is always said.
fn primary_unwell(desk: &Desk, content: Content, pair: Pair) -> Option<Refusal> {
    let dbid = pair.primary.dbid;
    let page = desk.page_at(dbid);
    if page.is_some_and(|p| p.state == InstanceState::PrimaryDataMissing) {
        return Some(Refusal::PrimaryDataMissing { dbid });
    }
    if let Some(replaced) = page.filter(|p| matches!(p.state, InstanceState::Replaced | InstanceState::PutBack)) {
        return Some(gates::says(dbid, replaced)); // that it does not answer follows from it
    }
    match desk.world.sources.get(&content)? {
        Look::Unknown(why) => {
            let gone = gates::primary_gone(desk, &pair, why);
            let passing = matches!(gone, Refusal::ActingPrimaryNotAnswering { .. });
            Some(crash_loops(desk, pair.primary).filter(|_| passing).unwrap_or(gone))
        }
        Look::Seen(source) if source.in_recovery => Some(Refusal::PeerSuspect { primary: dbid, why: not_promoted(page) }),
        Look::Seen(_) => not_as_up_as_it_looks(desk, pair.primary),
    }
}

/// Why a mirror that FTS calls up is none.
fn up_and_of_no_use(desk: &Desk, pair: Pair) -> Option<Refusal> {
    holds_up_commits(desk, pair).or_else(|| not_as_up_as_it_looks(desk, pair.mirror))
}

fn not_as_up_as_it_looks(desk: &Desk, row: &Row) -> Option<Refusal> {
    crash_loops(desk, row).or_else(|| up_but_not_serving(desk, row)).or_else(|| crash_loops_slowly(desk, row))
}

/// FTS looks once a minute, and a postgres that begins anew at once is up and in sync at each of its looks.
fn crash_loops(desk: &Desk, row: &Row) -> Option<Refusal> {
    let (page, instance) = (desk.page_at(row.dbid)?, desk.world.instances.get(&row.dbid));
    let last = aftermath::last(page.last_exit.as_ref()?);
    match falls(desk.now, instance, page) {
        Falls::Yes | Falls::NotKnown => Some(Refusal::CrashLooping { times: page.ends(), serves_between: false, last }),
        Falls::No => None,
    }
}

/// One that serves for more than a minute each time has left its ends behind for its supervisor, which counts those in a row alone.
fn crash_loops_slowly(desk: &Desk, row: &Row) -> Option<Refusal> {
    let (page, instance) = (desk.page_at(row.dbid)?, desk.world.instances.get(&row.dbid)?);
    let again = instance.ends_lately >= OFTEN && instance.ended.and_then(|ended| ended.within(OVERDUE)) == Some(true);
    let last = aftermath::last(page.last_exit.as_ref().filter(|_| again)?);
    Some(Refusal::CrashLooping { times: instance.ends_lately, serves_between: true, last })
}

fn not_promoted(page: Option<&Page>) -> String {
    let mirror = page.is_some_and(|p| p.shape == Shape::Mirror);
    if mirror { "it still runs as a mirror; FTS has to promote it".into() } else { "it is in recovery".into() }
}

/// Up for FTS, while its supervisor says otherwise (or, once it is down for FTS too, only the row counts).
fn up_but_not_serving(desk: &Desk, row: &Row) -> Option<Refusal> {
    let page = desk.page_at(row.dbid).filter(|page| page.state != InstanceState::Serving)?;
    Some(gates::says(row.dbid, page))
}

/// Up for FTS, and somebody sees that it does not answer. FTS believes the walsender, which may take minutes to give it up.
fn holds_up_commits(desk: &Desk, pair: Pair) -> Option<Refusal> {
    let primary = pair.primary.dbid;
    let told = desk.page_at(primary).and_then(|page| page.mirror_hangs.as_ref());
    let instance = desk.world.instances.get(&pair.mirror.dbid)?;
    let silent = match &instance.page {
        Look::Unknown(NoPage::Silent(why)) => Some(why),
        Look::Unknown(NoPage::NotBelieved(_)) | Look::Seen(_) => None,
    };
    let unreachable =
        |silent: &str, sign: &str| Refusal::MirrorUnreachable { why: format!("its supervisor does not answer ({silent}), and {sign}") };
    match (silent, instance.node_lost.as_ref(), told) {
        (Some(silent), Some(lost), _) => Some(unreachable(silent, lost)),
        (Some(silent), None, Some(hang)) => Some(unreachable(silent, &hang.detail)),
        (Some(silent), None, None) => {
            let blind = desk.page_at(primary)?.mirror_unwatched.as_ref().filter(|_| instance.silent >= Some(SILENT))?;
            Some(unreachable(silent, &format!("its primary cannot tell whether it hangs: {blind}")))
        }
        (None, _, Some(hang)) if hang.slow => Some(Refusal::MirrorSlow { primary, detail: hang.detail.clone() }),
        (None, _, Some(hang)) => Some(Refusal::MirrorHangs { primary, detail: hang.detail.clone() }),
        (None, _, None) => {
            let page = desk.page_at(pair.mirror.dbid)?;
            let stalled = page.stalled.clone().map(|detail| Refusal::MirrorHangs { primary, detail });
            stalled.or_else(|| receives_nothing(desk, instance, page))
        }
    }
}

/// It comes up, serves, and is kept from its primary for longer than a start takes: by a slot that another walsender holds, say.
fn receives_nothing(desk: &Desk, instance: &Instance, page: &Page) -> Option<Refusal> {
    let why = page.is_deaf().filter(|_| instance.deaf > Some(desk.policy.grace))?;
    Some(Refusal::MirrorNotReceiving { why: why.clone() })
}

fn mirror_unwell(desk: &Desk, plan: &mut Plan, row: &Row) -> Reason {
    if let Some(reason) = worked_on(desk, row) {
        return reason;
    }
    match automatic(desk, row) {
        Err(refusal) => Reason::Refused(refusal),
        Ok(new) => {
            let reason = Reason::Planned { recovery: new.name.clone(), repair: new.repair };
            plan.new_recoveries.push(new);
            reason
        }
    }
}

/// A recovery works on it, or something keeps it from going on.
fn worked_on(desk: &Desk, row: &Row) -> Option<Reason> {
    let working = desk.working_on(row.dbid)?;
    Some(match &working.stuck {
        None => Reason::Recovering { recovery: working.recovery.clone(), trouble: working.trouble.clone() },
        Some(refusal) => Reason::Waits { recovery: working.recovery.clone(), refusal: refusal.clone() },
    })
}

/// The recovery that automatic healing makes for `row`.
///
/// # Errors
/// Why it makes none.
fn automatic(desk: &Desk, row: &Row) -> Result<NewRecovery, Refusal> {
    if row.status == Status::Up {
        return Err(Refusal::CatchingUp);
    }
    let admitted = gates::admit(desk, row.dbid)?;
    desk.is_left_by_others("", row.content)?;
    match follow::before(desk, row.dbid) {
        None => still_coming(desk, &admitted)?,
        Some(_) => comes_by_itself(desk, &admitted)?, // no grace for a fault that was worked on
    }
    copying_would_mend(desk, row.dbid, admitted.page)?;
    let next = follow::next(desk, &admitted)?;
    breaker::lets(desk, &admitted)?;
    desk.is_free(&next.name, row.content)?;
    let repair = ladder::choose(desk.policy, None, next.begins.repair, admitted.page)?;
    gates::acts_by_itself(desk, repair)?;
    let why = why(admitted.page, next.follows.as_deref());
    Ok(NewRecovery { name: next.name, dbid: row.dbid, content: row.content, repair, why, follows: next.follows })
}

/// What its machine or a setting keeps from starting is whole, as far as anybody knows: the same would keep the copy from it.
/// A start that lasts is another matter.
fn copying_would_mend(desk: &Desk, dbid: Dbid, page: &Page) -> Result<(), Refusal> {
    let again = || falls(desk.now, desk.world.instances.get(&dbid), page) != Falls::No;
    let starts = page.state == InstanceState::BackingOff || (page.state == InstanceState::Starting && again());
    let Some(last) = page.last_exit.as_ref().filter(|_| starts && page.crashes > 0) else { return Ok(()) };
    match last.class {
        ExitClass::Environment | ExitClass::Configuration => {
            Err(Refusal::DoesNotStart { dbid, why: format!("{}: {}", last.class, last.evidence) })
        }
        ExitClass::Killed | ExitClass::DataUnusable | ExitClass::TimelineDiverged | ExitClass::Unclassified => Ok(()),
    }
}

/// A mirror that may come back by itself is left alone for a while.
fn still_coming(desk: &Desk, admitted: &Admitted) -> Result<(), Refusal> {
    comes_by_itself(desk, admitted)?;
    let (page, instance) = (admitted.page, desk.world.instances.get(&admitted.target().dbid));
    if page.state.asks_for_repair() {
        return Ok(());
    }
    let (falls, starts) = (falls(desk.now, instance, page) == Falls::Yes, page.state == InstanceState::Starting);
    within(match (falls, starts) {
        (true, _) => left(desk.now, instance, desk.policy.grace, SignedDuration::MAX),
        (false, true) => 0,
        (false, false) => left(desk.now, instance, desk.policy.grace, changed(desk.now, instance, page)),
    })
}

/// One that streams, or replays, is what a repair would bring about: it is not stopped by one, however long it was waited for.
///
/// # Errors
/// [`Refusal::SupervisorSays`], [`Refusal::WithinGrace`]
pub(super) fn comes_by_itself(desk: &Desk, admitted: &Admitted) -> Result<(), Refusal> {
    let (page, instance) = (admitted.page, desk.world.instances.get(&admitted.target().dbid));
    if page.state.asks_for_repair() {
        return Ok(());
    }
    if page.receiving {
        let coming = || Refusal::SupervisorSays { state: page.state, detail: "it streams; FTS will mark it up".into() };
        return Err(not_marked_up(desk, admitted.target()).unwrap_or_else(coming));
    }
    if page.state != InstanceState::Starting || falls(desk.now, instance, page) == Falls::Yes {
        return Ok(());
    }
    within(left(desk.now, instance, START_PATIENCE, moved(desk.now, instance, page)))
}

/// It streams, and FTS should have marked it up long since: its primary commits alone meanwhile.
pub(super) fn not_marked_up(desk: &Desk, row: &Row) -> Option<Refusal> {
    desk.world.instances.get(&row.dbid)?.unmarked.filter(|lasts| *lasts >= MARKED)?;
    let walsenders = desk.world.sources.get(&row.content).and_then(Look::seen).map(|source| &source.walsenders);
    // A name that this login may not see may be the right one.
    let others = walsenders.filter(|all| all.iter().all(|one| !["", MIRROR_APPLICATION].contains(&one.application_name.as_str())));
    let why = match (others, &desk.world.unprobed) {
        (Some(others), _) => format!("its primary has no walsender of {MIRROR_APPLICATION}{}", named(others)),
        (None, Some(why)) => why.clone(),
        (None, None) => "it looks, and does not find it".into(),
    };
    Some(Refusal::NotMarkedUp { why })
}

/// Under which names others are connected.
fn named(walsenders: &[Walsender]) -> String {
    let mut names: Vec<_> = walsenders.iter().map(|one| format!("'{}'", one.application_name)).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { String::new() } else { format!(", but of {}", names.join(", ")) }
}

fn within(seconds_left: i64) -> Result<(), Refusal> {
    if seconds_left > 0 { Err(Refusal::WithinGrace { seconds_left }) } else { Ok(()) }
}

/// Whether a postgres ends again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Falls {
    Yes,
    /// It did, and whether it still does nobody has looked for long enough to know: that is told, and nothing is done for it.
    NotKnown,
    No,
}

/// Its postgres ends again and again, as a whole or within its postmaster, and did a moment ago: that it always has just changed is
/// no sign of life. One that replays since may have left that behind. When it was, this operator has seen; before it has looked
/// for a moment, its node's clock may show that it does, and never that it does not.
fn falls(now: Timestamp, instance: Option<&Instance>, page: &Page) -> Falls {
    if !page.keeps_ending() {
        return Falls::No;
    }
    let told = page.last_exit.as_ref().is_some_and(|exit| now.duration_since(exit.at).abs() < MOMENT);
    match instance.and_then(|one| one.ended).map(|ended| ended.within(MOMENT)) {
        Some(Some(true)) => Falls::Yes,
        Some(None) | None if told => Falls::Yes,
        Some(None) => Falls::NotKnown,
        Some(Some(false)) | None => Falls::No,
    }
}

/// Counts from the later of the row's fall and what happened there `quiet` ago. Never more than the patience: a fall that
/// lies ahead is of a clock that was set back.
fn left(now: Timestamp, instance: Option<&Instance>, patience: SignedDuration, quiet: SignedDuration) -> i64 {
    let fell = instance.and_then(|i| i.unwell_since).unwrap_or(now);
    let down = now.duration_since(fell).max(SignedDuration::ZERO);
    patience.saturating_sub(down.min(quiet)).min(patience).as_secs()
}

/// For how long its supervisor has said the same: by that one's clock, which may be wrong in both directions, or for as long
/// as it was seen to.
pub(super) fn changed(now: Timestamp, instance: Option<&Instance>, page: &Page) -> SignedDuration {
    let seen = instance.and_then(|i| i.still).unwrap_or(SignedDuration::ZERO);
    match now.duration_since(page.since) {
        // Nobody has looked for long enough to know better, and by its own clock it has yet to happen.
        ahead if ahead.is_negative() => {
            if instance.and_then(|i| i.still).is_some() {
                seen
            } else {
                SignedDuration::MAX
            }
        }
        told => told.max(seen),
    }
}

/// For how long its replay has not moved, as far as anybody looked: a replay that goes on is not stopped by a repair.
fn moved(now: Timestamp, instance: Option<&Instance>, page: &Page) -> SignedDuration {
    instance.and_then(|i| i.still).unwrap_or_else(|| changed(now, instance, page))
}

fn why(page: &Page, follows: Option<&str>) -> String {
    let why = if page.state.asks_for_repair() {
        format!("{}: {}", page.state, page.detail)
    } else {
        "the mirror is down past its grace period".into()
    };
    follows.map_or(why.clone(), |before| format!("{why}; it goes on with SegmentRecovery {before}"))
}

/// Whether FTS should look now: its interval is a minute, a dead container is known at once.
pub fn probe(desk: &Desk, plan: &Plan) -> Option<String> {
    let catalog = desk.catalog.as_ref()?;
    let serves = |page: &Page| matches!(page.state, InstanceState::Serving | InstanceState::Starting);
    let up = |row: &&Row| row.content.0 >= 0 && (row.well() || (row.role == Role::Mirror && row.status == Status::Up));
    let mut dead = catalog.rows().iter().filter(up).filter(|row| desk.world.page_of(row).is_ok_and(|page| !serves(page)));
    if let Some(row) = dead.next() {
        return Some(format!("dbid {} is up in the catalog and does not serve", row.dbid));
    }
    let given_up = |row: &&Row| desk.page_at(row.dbid).and_then(|page| page.mirror_hangs.as_ref()).is_some_and(|hang| hang.ended);
    if let Some(row) = catalog
        .rows()
        .iter()
        .filter(|row| row.content.0 >= 0)
        .filter(|row| row.role == Role::Primary && row.status == Status::Up)
        .find(given_up)
    {
        return Some(format!("the walsender of dbid {} to a mirror that hangs was ended", row.dbid));
    }
    let streams = |dbid| catalog.row(dbid).is_some_and(|row| proof::streams(desk, row));
    let receives = |dbid| desk.page_at(dbid).is_some_and(|p| p.receiving && p.serves == Some(Role::Mirror));
    let waited_for = |reason: &Reason| !reason.refusal().is_some_and(is_of_a_mirror_that_is_up);
    let back = plan.unwell.iter().filter(|u| u.content.0 >= 0).find(|u| waited_for(&u.reason) && (streams(u.dbid) || receives(u.dbid)));
    back.map(|u| format!("dbid {} receives again", u.dbid))
}

/// FTS calls it up already, so that it streams is no news.
fn is_of_a_mirror_that_is_up(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::CatchingUp
            | Refusal::MirrorHangs { .. }
            | Refusal::MirrorSlow { .. }
            | Refusal::CrashLooping { .. }
            | Refusal::MirrorNotReceiving { .. }
            | Refusal::MirrorUnreachable { .. }
    )
}

#[cfg(test)]
#[path = "triage_tests.rs"]
mod tests;
