//! Looks for what is not well, and says for each instance what is done about it or why nothing is.

use jiff::{SignedDuration, Timestamp};

use super::{Desk, gates, ladder, names, proof};
use crate::model::{
    Content, Dbid, HealingMode, Instance, InstanceState, Look, NewRecovery, Page, Pair, Plan, Reason, Refusal, Role, Row, Unwell,
    page::Shape,
};

/// A start may take long (crash recovery, a long replay queue); after this it is no start any more.
const START_PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// Adds every unwell instance, and the recoveries that automatic healing makes.
pub fn triage(desk: &mut Desk, plan: &mut Plan) {
    let Look::Seen(catalog) = &desk.world.catalog else { return };
    for content in catalog.contents() {
        match catalog.pair(content) {
            Ok(pair) => {
                pair_of(desk, plan, content, pair);
                unfit(desk, plan, pair);
            }
            Err(why) => {
                let rows = catalog.rows.iter().filter(|row| row.content == content);
                rows.for_each(|row| unwell(desk, plan, row, Reason::Refused(Refusal::CatalogInvalid { why: why.clone() })));
            }
        }
    }
}

fn pair_of(desk: &mut Desk, plan: &mut Plan, content: Content, pair: Pair) {
    if let Some(refusal) = primary_unwell(desk, content, pair) {
        unwell(desk, plan, pair.primary, Reason::Refused(refusal));
    }
    if pair.mirror.well() {
        // Both rows in sync are one of four points: until all are proven its recovery works on it.
        if let Some(recovery) = working_on(desk, plan, pair.mirror) {
            unwell(desk, plan, pair.mirror, Reason::Recovering { recovery });
        } else if let Some(refusal) = up_but_not_serving(desk, pair.mirror) {
            unwell(desk, plan, pair.mirror, Reason::Refused(refusal));
        }
    } else {
        let reason = mirror_unwell(desk, plan, pair.mirror);
        unwell(desk, plan, pair.mirror, reason);
    }
}

fn unwell(desk: &Desk, plan: &mut Plan, row: &Row, reason: Reason) {
    plan.unwell.push(told(desk, row, reason));
}

fn told(desk: &Desk, row: &Row, reason: Reason) -> Unwell {
    let since = desk.world.instances.get(&row.dbid).and_then(|i| i.unwell_since).unwrap_or(desk.now);
    Unwell { dbid: row.dbid, content: row.content, row: row.to_string(), since, reason }
}

/// What would stand in the way of a repair is said before there is one to make.
fn unfit(desk: &Desk, plan: &mut Plan, pair: Pair) {
    for row in [pair.primary, pair.mirror] {
        if let Some(refusal) = gates::unfit(desk.world, row).filter(|_| plan.unwell.iter().all(|one| one.dbid != row.dbid)) {
            plan.unfit.push(told(desk, row, Reason::Refused(refusal)));
        }
    }
}

fn page<'a>(desk: &Desk<'a>, dbid: Dbid) -> Option<&'a Page> {
    desk.world.page_at(dbid)
}

/// Why an acting primary is not well: nothing is ever done to it, but it is always said.
fn primary_unwell(desk: &Desk, content: Content, pair: Pair) -> Option<Refusal> {
    let dbid = pair.primary.dbid;
    if page(desk, dbid).is_some_and(|p| p.state == InstanceState::PrimaryDataMissing) {
        return Some(Refusal::PrimaryDataMissing { dbid });
    }
    match desk.world.sources.get(&content)? {
        Look::Unknown(why) => Some(gates::primary_gone(desk.world, &pair, why, desk.now)),
        Look::Seen(source) if source.in_recovery => Some(Refusal::PeerSuspect { primary: dbid, why: not_promoted(desk, dbid) }),
        Look::Seen(_) => up_but_not_serving(desk, pair.primary),
    }
}

fn not_promoted(desk: &Desk, dbid: Dbid) -> String {
    let mirror = page(desk, dbid).is_some_and(|p| p.shape == Shape::Mirror);
    if mirror { "it still runs as a mirror; FTS has to promote it".into() } else { "it is in recovery".into() }
}

/// Up for FTS, while its supervisor says otherwise (or, once it is down for FTS too, only the row counts).
fn up_but_not_serving(desk: &Desk, row: &Row) -> Option<Refusal> {
    let page = page(desk, row.dbid).filter(|page| page.state != InstanceState::Serving)?;
    match page.state {
        InstanceState::VolumeUnrecognised => Some(Refusal::VolumeUnrecognised { dbid: row.dbid }),
        state => Some(Refusal::SupervisorSays { state, detail: page.detail.clone() }),
    }
}

fn mirror_unwell(desk: &mut Desk, plan: &mut Plan, row: &Row) -> Reason {
    if let Some(recovery) = working_on(desk, plan, row) {
        return Reason::Recovering { recovery };
    }
    match automatic(desk, row) {
        Err(refusal) => Reason::Refused(refusal),
        Ok(new) => {
            let reason = Reason::Planned { recovery: new.name.clone(), repair: new.repair };
            desk.taken.push((new.content, new.name.clone()));
            plan.new_recoveries.push(new);
            reason
        }
    }
}

/// By its next state, which may name its instances in this very pass.
fn working_on(desk: &Desk, plan: &Plan, row: &Row) -> Option<String> {
    let live = desk.world.recoveries.iter().filter(|r| !r.phase.is_over()).map(|r| r.name.clone());
    live.into_iter().find(|name| {
        let next = plan.recoveries.get(name).and_then(|next| next.instances.get(&row.dbid));
        next.is_some_and(|next| !next.state.phase.is_over())
    })
}

/// The recovery that automatic healing makes for `row`.
///
/// # Errors
/// Why it makes none.
fn automatic(desk: &Desk, row: &Row) -> Result<NewRecovery, Refusal> {
    if row.status == crate::model::Status::Up {
        return Err(Refusal::CatchingUp);
    }
    let admitted = gates::admit(desk.world, row.dbid, desk.now)?;
    if let Some(other) = desk.taken_by_other(row.content, "") {
        return Err(Refusal::AlreadyRecovering { content: row.content, recovery: other.to_owned() });
    }
    let name = names::recovery(desk.world, row.dbid);
    desk.world.all_readable(&name, row.content)?;
    let tried = desk.world.recoveries.iter().any(|r| r.name == name);
    if !tried || admitted.page.receiving {
        still_coming(desk, admitted.page)?;
    }
    if tried {
        return Err(Refusal::RecoveryFailed { recovery: name });
    }
    let repair = ladder::choose(desk.policy, None, None, admitted.page)?;
    if desk.policy.paused {
        return Err(Refusal::Paused { would: repair });
    }
    if desk.policy.mode == HealingMode::Observe {
        return Err(Refusal::ObserveOnly { would: repair });
    }
    Ok(NewRecovery { name, dbid: row.dbid, content: row.content, repair, why: why(admitted.page) })
}

/// A mirror that may come back by itself is left alone for a while.
fn still_coming(desk: &Desk, page: &Page) -> Result<(), Refusal> {
    if page.state.asks_for_repair() {
        return Ok(());
    }
    if page.receiving {
        return Err(Refusal::SupervisorSays { state: page.state, detail: "it streams; FTS will mark it up".into() });
    }
    let patience = if page.state == InstanceState::Starting { START_PATIENCE } else { desk.policy.grace };
    let left = left(desk.now, page.since, desk.world.instances.get(&page.dbid.unwrap_or(Dbid(0))), patience);
    if left > 0 { Err(Refusal::WithinGrace { seconds_left: left }) } else { Ok(()) }
}

/// Counts from the later of the row's fall and the supervisor's last change of state.
fn left(now: Timestamp, page_since: Timestamp, instance: Option<&Instance>, patience: SignedDuration) -> i64 {
    let row_since = instance.and_then(|i| i.unwell_since).unwrap_or(now);
    patience.saturating_sub(now.duration_since(row_since.max(page_since))).as_secs()
}

fn why(page: &Page) -> String {
    if page.state.asks_for_repair() {
        format!("{:?}: {}", page.state, page.detail)
    } else {
        "the mirror is down past its grace period".into()
    }
}

/// Whether FTS should look now: its interval is a minute, a dead container is known at once.
pub fn probe(desk: &Desk, plan: &Plan) -> Option<String> {
    let catalog = desk.world.catalog.seen()?;
    let dead = catalog.rows.iter().filter(|row| row.content.0 >= 0 && row.well());
    let dead =
        dead.filter(|row| page(desk, row.dbid).is_some_and(|p| !matches!(p.state, InstanceState::Serving | InstanceState::Starting)));
    let back = plan.unwell.iter().filter(|u| !matches!(u.reason, Reason::Refused(Refusal::CatchingUp)));
    let streams = |dbid| catalog.row(dbid).is_some_and(|row| proof::streams(desk.world, row));
    let receives = |dbid| page(desk, dbid).is_some_and(|p| p.receiving && p.serves == Some(Role::Mirror));
    let back = back.filter(|u| streams(u.dbid) || receives(u.dbid));
    dead.map(|row| format!("dbid {} is up in the catalog and does not serve", row.dbid))
        .chain(back.map(|u| format!("dbid {} receives again", u.dbid)))
        .next()
}

#[cfg(test)]
#[path = "triage_tests.rs"]
mod tests;
