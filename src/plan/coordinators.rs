//! The coordinator and its standby. FTS watches neither, nothing is ever done to one, and what is amiss with them is said.

use super::{desk::Desk, triage};
use model::{CatalogIndex, Content, Instance, Look, NoPage, Page, Plan, Reason, Refusal, Role, Row, World, refusal::ContractPoint};

/// Adds what is amiss with the coordinators to what is not well.
pub fn coordinators(desk: &Desk, plan: &mut Plan) {
    for row in rows(desk) {
        let refusal = match row.role {
            Role::Primary => desk.overtaken.clone(),
            Role::Mirror => of_no_use(desk, row),
        };
        if let Some(refusal) = refusal {
            triage::unwell(desk, plan, row, Reason::Refused(refusal));
        }
    }
}

fn rows<'a>(desk: &Desk<'a>) -> impl Iterator<Item = &'a Row> {
    let all = desk.catalog.as_ref().map_or(&[][..], CatalogIndex::rows);
    all.iter().filter(|row| row.content == Content::COORDINATOR)
}

/// Segments have believed a coordinator on a higher timeline than that of the one which gave the catalog: either that one was taken
/// over and this catalog is old, or a person has put this one back.
pub fn may_be_overtaken(world: &World, catalog: &CatalogIndex) -> Option<Refusal> {
    let asked = world.coordinator_timeline?;
    let seen = |instance: &Instance| instance.page.seen()?.coordinator_timeline.filter(|seen| *seen > asked);
    let heard = world.instances.iter().filter_map(|(dbid, instance)| Some((seen(instance)?, catalog.row(*dbid)?)));
    let segments = heard.filter(|(_, row)| row.content != Content::COORDINATOR && world.page_of(row).is_ok());
    let (seen, row) = segments.max_by_key(|(seen, _)| *seen)?;
    let why =
        format!("dbid {} of content {} has believed a coordinator on timeline {seen}, and this one is on {asked}", row.dbid, row.content);
    Some(Refusal::CoordinatorMayBeOvertaken { why })
}

/// Why nothing would be left to activate if the coordinator were lost.
fn of_no_use(desk: &Desk, row: &Row) -> Option<Refusal> {
    let instance = desk.world.instances.get(&row.dbid)?;
    let why = match desk.world.page_of(row) {
        Ok(page) => does_not_follow(desk, instance, page),
        Err(NoPage::NotBelieved(why)) => Some(format!("its supervisor's page is not believed: {why}")),
        Err(NoPage::Silent(why)) => is_watched(desk, instance)
            .then_some(instance.silent)
            .flatten()
            .filter(|silent| *silent >= desk.policy.grace)
            .map(|silent| format!("its supervisor cannot be asked, for {silent:#}: {why}")),
    }?;
    Some(Refusal::StandbyCoordinatorDown { dbid: row.dbid, why })
}

fn does_not_follow(desk: &Desk, instance: &Instance, page: &Page) -> Option<String> {
    let says = || format!("its supervisor says {}: {}", page.state, super::aftermath::detail(page));
    let still = triage::changed(desk.now, Some(instance), page);
    match page.serves {
        Some(Role::Primary) => Some("it takes writes: it was activated, or opened by hand".into()),
        Some(Role::Mirror) if page.receiving => None,
        Some(Role::Mirror) => {
            let why = page.is_deaf().filter(|_| instance.deaf > Some(desk.policy.grace))?;
            Some(format!("it receives nothing; its WAL receiver says: {why}"))
        }
        None => (page.state.asks_for_repair() || page.state.needs_a_person() || still > desk.policy.grace).then(says),
    }
}

/// Its pod is to be among those that are selected, and under a supervisor: a coordinator need not be.
fn is_watched(desk: &Desk, instance: &Instance) -> bool {
    let selected = || rows(desk).filter_map(|row| desk.world.instances.get(&row.dbid)).any(|one| matches!(one.pod, Look::Seen(_)));
    instance.contract.iter().all(|point| match point {
        ContractPoint::NoPod { .. } => selected(),
        ContractPoint::NoSuchContainer { .. } | ContractPoint::NoSupervisor => false,
        ContractPoint::TwoPods { .. }
        | ContractPoint::DataDirIsMountRoot
        | ContractPoint::NoClaim
        | ContractPoint::SharedProcessNamespace
        | ContractPoint::HostPid
        | ContractPoint::OwnKernel { .. }
        | ContractPoint::CoordinatorUntold
        | ContractPoint::ForeignSecret { .. }
        | ContractPoint::OtherCoordinator { .. } => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;
    use model::{
        Dbid, InstanceState, Policy, Repair, Timeline,
        world::fixtures::{asked, now},
    };

    fn world() -> World {
        World::of(&["1:-1ppsu", "8:-1mmsu", "2:0ppsu", "5:0mmsu"])
    }

    fn told(world: &World, dbid: i16) -> &'static str {
        let plan = plan(&Policy::default(), world, now());
        assert_eq!(plan.probe, None, "FTS has nothing to do with a coordinator");
        assert!(dbid != 8 || !plan.stands_still(world), "segments are looked at as soon as ever");
        let one = plan.unwell.iter().find(|one| one.dbid == Dbid(dbid));
        one.map_or("well", |one| one.reason.refusal().map_or("not refused", Refusal::code))
    }

    /// FTS does not watch it, and nobody else says that there is nothing left to activate.
    #[test]
    fn a_standby_coordinator_that_is_of_no_use_is_told_of() {
        assert_eq!(told(&world(), 8), "well");
        let grace = Policy::default().grace;
        for state in InstanceState::examples() {
            let down = |state| world().page(8, |p| (p.state, p.serves, p.receiving) = (state, None, false));
            let lasts = |lasts| down(state).page(8, |p| p.since = now()).instance(8, |one| one.still = lasts);
            assert_eq!(told(&lasts(Some(grace * 2)), 8), "StandbyCoordinatorDown", "{state:?}");
            let at_once = state.asks_for_repair() || state.needs_a_person();
            assert_eq!(told(&lasts(None), 8), if at_once { "StandbyCoordinatorDown" } else { "well" }, "{state:?}");
        }
        assert_eq!(told(&world().page(8, |p| p.serves = Some(Role::Primary)), 8), "StandbyCoordinatorDown");
        let refused = |p: &mut Page| (p.receiving, p.receiver_error) = (false, Some("no pg_hba.conf entry".into()));
        let deaf = |lasts| world().page(8, refused).instance(8, |one| one.deaf = lasts);
        assert_eq!((told(&deaf(Some(grace * 2)), 8), told(&deaf(None), 8)), ("StandbyCoordinatorDown", "well"));
    }

    #[test]
    fn a_standby_coordinator_that_is_silent_is_told_of_where_it_should_be_heard() {
        let silent = |world: World| world.silent(8).instance(8, |one| one.silent = Some(Policy::default().grace));
        assert_eq!(told(&silent(world()), 8), "StandbyCoordinatorDown");
        assert_eq!(told(&world().silent(8), 8), "well", "for a moment");
        assert_eq!(told(&silent(world().without_pod(8)), 8), "StandbyCoordinatorDown");
        let no_pod = |world: World, dbid| world.without_pod(dbid).instance(dbid, |one| one.pod = Look::Unknown("none".into()));
        assert_eq!(told(&silent(no_pod(no_pod(world(), 8), 1)), 8), "well", "coordinators are not selected");
        let bare = silent(world()).instance(8, |one| one.contract = vec![ContractPoint::NoSupervisor]);
        assert_eq!(told(&bare, 8), "well");
    }

    /// Segments have seen a coordinator on a higher timeline, and this one cannot ask it.
    #[test]
    fn a_coordinator_that_may_have_been_overtaken_is_told_of_and_nothing_is_begun_on_its_word() {
        let world = |seen| {
            let down = World::of(&["1:-1ppsu", "2:0ppsu", "5:0mmsu", "3:1ppnu", "6:1mmnd"]).page(6, |p| {
                (p.state, p.serves, p.receiving) = (InstanceState::NeedsFull, None, false);
            });
            down.page(2, |p| p.coordinator_timeline = Some(Timeline(seen)))
        };
        assert_eq!((told(&world(1), 1), told(&world(1), 6)), ("well", "not refused"));
        assert_eq!((told(&world(2), 1), told(&world(2), 6)), ("CoordinatorMayBeOvertaken", "CoordinatorMayBeOvertaken"));
        assert_eq!(told(&world(2).page(2, |p| p.cluster = "other".into()), 1), "well", "nobody's word");
        let asked_anew = |seen| plan(&Policy::default(), &world(seen), now()).doubts_the_coordinator();
        assert!(asked_anew(2) && !asked_anew(1), "where its name leads by now is found by a new session alone");
        let by_hand = plan(&Policy::default(), &world(2).recovery(asked("r", &[6], Some(Repair::Full))), now());
        assert!(by_hand.recoveries["r"].instances.values().all(|one| one.create_job.is_none()));
    }
}
