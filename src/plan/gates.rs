//! Whether an instance may be touched at all. The order is that of the evidence: catalog, row,
//! pair, source, place, supervisor. What each keeps from happening stands in docs/never.md.

use jiff::{SignedDuration, Timestamp};

use super::{aftermath, desk::Desk};
use model::{
    CatalogIndex, Changed, Content, Dbid, HealingMode, Instance, InstanceState, Look, NoPage, Page, Pair, Refusal, Repair, Role, Row,
    Source, Status, page::Shape, refusal::ContractPoint,
};

/// FTS writes the row first and promotes then: so long a mirror may take to become what its row says.
const PROMOTION: SignedDuration = SignedDuration::from_secs(20);

/// A supervisor that is silent for so long is missed although FTS calls its instance well: nothing of it could be repaired.
const UNHEARD: SignedDuration = SignedDuration::from_mins(3);

/// An instance that may be repaired, with all that was proven about it.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'a> {
    pub pair: Pair<'a>,
    pub page: &'a Page,
}

impl<'a> Admitted<'a> {
    /// The instance to repair; by the gates it is always the mirror of its pair.
    pub fn target(&self) -> &'a Row {
        self.pair.mirror
    }
}

/// May `dbid` be repaired now?
///
/// # Errors
/// The first reason against it.
pub fn admit<'a>(desk: &Desk<'a>, dbid: Dbid) -> Result<Admitted<'a>, Refusal> {
    let catalog = catalog(desk)?;
    is_the_newest(desk)?;
    let row = catalog.row(dbid).ok_or(Refusal::NotInCatalog { what: format!("dbid {dbid}") })?;
    let pair = pair_of(catalog, row)?;
    let instance = desk.world.instances.get(&dbid).ok_or(Refusal::SupervisorSilent { why: "its pod was not looked for yet".into() })?;
    target_is_a_down_mirror(row)?;
    somebody_is_selected(desk)?;
    source_holds_every_commit(desk, &pair)?;
    place_is_fit(instance)?;
    let page = page_of(desk, row)?;
    same_database(desk, row.content, page)?;
    supervisor_allows(dbid, page)?;
    lock_is_worth_something(page)?;
    Ok(Admitted { pair, page })
}

/// The catalog, if it could be read.
///
/// # Errors
/// [`Refusal::CatalogUnread`]
pub fn catalog<'d, 'a>(desk: &'d Desk<'a>) -> Result<&'d CatalogIndex<'a>, Refusal> {
    match (&desk.catalog, &desk.world.catalog) {
        (Some(catalog), _) => Ok(catalog),
        (None, Look::Unknown(unread)) => Err(Refusal::CatalogUnread { unread: unread.clone() }),
        (None, Look::Seen(_)) => Err(Refusal::CatalogInvalid { why: "the catalog was not indexed".into() }),
    }
}

/// Nothing is begun on the word of a catalog that may be an old one.
fn is_the_newest(desk: &Desk) -> Result<(), Refusal> {
    desk.overtaken.as_ref().map_or(Ok(()), |refusal| Err(refusal.clone()))
}

fn pair_of<'a>(catalog: &CatalogIndex<'a>, row: &Row) -> Result<Pair<'a>, Refusal> {
    match catalog.pair(row.content) {
        Some(Ok(pair)) => Ok(*pair),
        Some(Err(why)) => Err(Refusal::CatalogInvalid { why: why.clone() }),
        None if row.content == Content::COORDINATOR => Err(Refusal::CoordinatorRow),
        None => Err(Refusal::CatalogInvalid { why: format!("content {} is none of a segment: {row}", row.content) }),
    }
}

fn target_is_a_down_mirror(row: &Row) -> Result<(), Refusal> {
    match (row.role, row.status) {
        (Role::Primary, _) => Err(Refusal::TargetIsActingPrimary { dbid: row.dbid }),
        (Role::Mirror, Status::Up) => Err(Refusal::TargetUp { dbid: row.dbid }),
        (Role::Mirror, Status::Down) => Ok(()),
    }
}

/// A selector that selects others says nothing about the life of ours.
fn somebody_is_selected(desk: &Desk) -> Result<(), Refusal> {
    if desk.nothing_selected { Err(Refusal::NothingSelected { selected: desk.world.selected }) } else { Ok(()) }
}

/// Whether an acting primary serves its content.
///
/// # Errors
/// Why that is not known, or that it does not.
pub fn serves_its_content(desk: &Desk, row: &Row) -> Result<(), Refusal> {
    source_holds_every_commit(desk, &pair_of(catalog(desk)?, row)?)
}

/// The acting primary answers, read-write, as itself.
fn source_holds_every_commit(desk: &Desk, pair: &Pair) -> Result<(), Refusal> {
    let primary = pair.primary.dbid;
    match desk.world.sources.get(&pair.primary.content) {
        Some(Look::Seen(source)) => source_is_itself(pair.primary, source),
        Some(Look::Unknown(why)) => Err(primary_gone(desk, pair, why)),
        None => Err(Refusal::ActingPrimaryNotAnswering { primary, why: "it was not asked yet".into() }),
    }
}

/// Why a content whose acting primary does not answer is left alone (docs/greenplum.md#both-sides-gone).
pub fn primary_gone(desk: &Desk, pair: &Pair, why: &str) -> Refusal {
    let (primary, mirror, why) = (pair.primary.dbid, pair.mirror.dbid, why.to_owned());
    let instance = desk.world.instances.get(&primary);
    if let Err(refusal) = somebody_is_selected(desk) {
        return refusal;
    }
    if let Some(two) = instance.and_then(|i| i.contract.iter().find(|point| matches!(point, ContractPoint::TwoPods { .. }))) {
        return Refusal::ContractNotFulfilled { points: vec![two.clone()] }; // it was not asked, so it was not silent
    }
    if pair.mirror.status == Status::Up && pair.mirror.well() {
        return Refusal::ActingPrimaryNotAnswering { primary, why }; // FTS will promote the mirror
    }
    if desk.page_at(primary).is_some_and(|page| page.state == InstanceState::Starting) {
        return Refusal::ActingPrimaryNotAnswering { primary, why }; // it is being promoted, or comes back by itself
    }
    let flipped = pair.mirror.status == Status::Down && instance.is_some_and(|one| never_promoted(desk.now, one));
    match (flipped, instance.is_some_and(|one| just_marked(desk.now, one))) {
        (true, true) => Refusal::ActingPrimaryNotAnswering { primary, why },
        (true, false) => Refusal::FlippedDouble { primary, mirror, why },
        (false, true | false) => Refusal::DoubleFault { primary, mirror, why },
    }
}

/// The catalog has made it the primary a moment ago: as this operator saw or, before it has looked for so long, by the coordinator's
/// clock, which may be ahead of ours.
fn just_marked(now: Timestamp, instance: &Instance) -> bool {
    let by_the_clocks = || instance.promoted_at.is_some_and(|at| now.duration_since(at).abs() < PROMOTION);
    instance.marked.and_then(|marked| marked.within(PROMOTION)).unwrap_or_else(by_the_clocks)
}

/// The catalog made it the primary, and nobody has seen it serve since: not we, and not an operator before us, by whose
/// memory it was unwell from about that moment on.
fn never_promoted(now: Timestamp, instance: &Instance) -> bool {
    let well_for = |at: Timestamp| {
        let since = instance.unwell_since?;
        Some(match instance.marked {
            Some(Changed::Ago(ago)) => ago.saturating_sub(now.duration_since(since)),
            // Nobody else was there to see it. Either answer repairs nothing and calls for a person.
            Some(Changed::NotFor(_)) | None => since.duration_since(at),
        })
    };
    !instance.seen_promoted && instance.promoted_at.is_some_and(|at| well_for(at).is_none_or(|well| well < PROMOTION))
}

fn source_is_itself(row: &Row, source: &Source) -> Result<(), Refusal> {
    let suspect = |why: String| Err(Refusal::PeerSuspect { primary: row.dbid, why });
    if (source.dbid, source.content) != (row.dbid, row.content) {
        return suspect(format!("it says that it is dbid {} of content {}", source.dbid, source.content));
    }
    if source.in_recovery {
        return suspect("it is in recovery, so it was not promoted (yet)".into());
    }
    Ok(())
}

fn place_is_fit(instance: &Instance) -> Result<(), Refusal> {
    if !instance.contract.is_empty() {
        return Err(Refusal::ContractNotFulfilled { points: instance.contract.clone() });
    }
    match &instance.access_mode {
        Some((claim, Look::Seen(mode))) => Err(Refusal::AccessMode { claim: claim.clone(), mode: mode.clone() }),
        Some((claim, Look::Unknown(why))) => Err(Refusal::ClaimUnread { claim: claim.clone(), why: why.clone() }),
        None => Ok(()),
    }
}

/// The page, if it is this instance's.
///
/// # Errors
/// [`Refusal::SupervisorSilent`], [`Refusal::PageNotBelieved`]
pub fn page_of<'a>(desk: &Desk<'a>, row: &Row) -> Result<&'a Page, Refusal> {
    desk.world.page_of(row).map_err(|none| match none {
        NoPage::Silent(why) => Refusal::SupervisorSilent { why },
        NoPage::NotBelieved(why) => Refusal::PageNotBelieved { why },
    })
}

/// Whether policy lets a repair begin that no person asked for.
///
/// # Errors
/// [`Refusal::Paused`], [`Refusal::ObserveOnly`]
pub fn acts_by_itself(desk: &Desk, would: Repair) -> Result<(), Refusal> {
    match (desk.policy.paused, desk.policy.mode) {
        (true, _) => Err(Refusal::Paused { would }),
        (false, HealingMode::Observe) => Err(Refusal::ObserveOnly { would }),
        (false, HealingMode::Automatic) => Ok(()),
    }
}

/// Why nobody can ask an instance's supervisor, where it does not only restart.
pub fn silent(desk: &Desk, row: &Row) -> Option<Refusal> {
    match desk.world.page_of(row) {
        Ok(_) => None,
        Err(NoPage::Silent(why)) => (silence(desk, row.dbid) >= desk.policy.grace).then_some(Refusal::SupervisorSilent { why }),
        Err(NoPage::NotBelieved(why)) => Some(Refusal::PageNotBelieved { why }),
    }
}

/// For how long a supervisor has been silent, as far as anybody has asked it.
pub fn silence(desk: &Desk, dbid: Dbid) -> SignedDuration {
    desk.world.instances.get(&dbid).and_then(|instance| instance.silent).unwrap_or_default()
}

/// Why an instance that is well could not be repaired once it is not, as far as that does not pass by itself.
pub fn unfit(desk: &Desk, row: &Row) -> Option<Refusal> {
    let instance = desk.world.instances.get(&row.dbid)?;
    if instance.contract.iter().any(ContractPoint::lasts) {
        return place_is_fit(instance).err();
    }
    match page_of(desk, row) {
        Ok(page) => lock_is_worth_something(page).err().or_else(|| {
            let why = page.uncopied.clone()?;
            Some(Refusal::NotToBeCopied { why })
        }),
        Err(_) => unheard(desk, row),
    }
}

/// Why nobody has heard from an instance's supervisor for longer than a pod takes to be made again.
pub fn unheard(desk: &Desk, row: &Row) -> Option<Refusal> {
    match desk.world.page_of(row) {
        Ok(_) => None,
        Err(NoPage::Silent(why)) => {
            (silence(desk, row.dbid) >= UNHEARD.max(desk.policy.grace)).then_some(Refusal::SupervisorSilent { why })
        }
        Err(NoPage::NotBelieved(why)) => Some(Refusal::PageNotBelieved { why }),
    }
}

fn same_database(desk: &Desk, content: Content, page: &Page) -> Result<(), Refusal> {
    let source = desk.world.sources.get(&content).and_then(|look| look.seen());
    let both = source.and_then(|source| Some((source.dbid, source.system_identifier?, page.system_identifier?)));
    match both {
        Some((primary, theirs, ours)) if theirs != ours => {
            Err(Refusal::PeerSuspect { primary, why: format!("its system identifier is {theirs}, the target's is {ours}") })
        }
        // Greenplum 6 has no SQL for it, an empty volume none at all. The Job reads both and refuses what it cannot read.
        Some(_) | None => Ok(()),
    }
}

fn lock_is_worth_something(page: &Page) -> Result<(), Refusal> {
    page.untrusted_lock.as_ref().map_or(Ok(()), |why| Err(Refusal::UntrustedLock { why: why.clone() }))
}

/// Each state is judged by name: what a new one means for a repair is to be decided when it is made.
fn supervisor_allows(dbid: Dbid, page: &Page) -> Result<(), Refusal> {
    match page.state {
        InstanceState::VolumeUnrecognised
        | InstanceState::LockBusy
        | InstanceState::Maintenance
        | InstanceState::HeldElsewhere
        | InstanceState::NotInCatalog
        | InstanceState::Retired
        | InstanceState::Unkillable
        // Its view of the roles is not the catalog's any more: one of the two reads is old.
        | InstanceState::PrimaryDataMissing
        | InstanceState::Replaced
        | InstanceState::PutBack
        // It may hold what no other instance does.
        | InstanceState::CatalogOutdated
        // It has not looked at its volume yet, or takes itself for a coordinator.
        | InstanceState::Deciding
        | InstanceState::WaitingForSegments => Err(says(dbid, page)),
        InstanceState::NeedsRecovery
        | InstanceState::NeedsFull
        | InstanceState::CopyUnfinished
        | InstanceState::Starting
        | InstanceState::Serving
        | InstanceState::NotAnswering
        | InstanceState::Stopping
        | InstanceState::Held
        | InstanceState::WaitingForCoordinator
        | InstanceState::WaitingForPeer
        | InstanceState::WaitingForPrimary
        | InstanceState::StayingDown
        | InstanceState::BackingOff => Ok(()),
    }
}

/// What a supervisor says that does not serve, as a reason.
pub fn says(dbid: Dbid, page: &Page) -> Refusal {
    match page.state {
        InstanceState::VolumeUnrecognised => Refusal::VolumeUnrecognised { dbid },
        InstanceState::LockBusy => Refusal::VolumeInUse { dbid, detail: page.detail.clone() },
        // Empty and without a token: nothing was ever here that could be lost, or that a person would have to find.
        InstanceState::NotInCatalog if page.shape == Shape::Empty && page.dbid.is_none() => Refusal::SpareNotTaken { dbid },
        state @ (InstanceState::NotInCatalog
        | InstanceState::Deciding
        | InstanceState::Starting
        | InstanceState::Serving
        | InstanceState::NotAnswering
        | InstanceState::Stopping
        | InstanceState::Unkillable
        | InstanceState::Held
        | InstanceState::CopyUnfinished
        | InstanceState::NeedsRecovery
        | InstanceState::NeedsFull
        | InstanceState::PrimaryDataMissing
        | InstanceState::Retired
        | InstanceState::Maintenance
        | InstanceState::WaitingForCoordinator
        | InstanceState::WaitingForPeer
        | InstanceState::WaitingForPrimary
        | InstanceState::WaitingForSegments
        | InstanceState::HeldElsewhere
        | InstanceState::StayingDown
        | InstanceState::BackingOff
        | InstanceState::Replaced
        | InstanceState::PutBack
        | InstanceState::CatalogOutdated) => Refusal::SupervisorSays { state, detail: aftermath::detail(page) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        Policy, SystemIdentifier, World,
        world::fixtures::{ago, now},
    };

    fn down() -> World {
        World::of(&["1:-1ppsu", "2:0ppnu", "5:0mmnd"])
    }

    fn code(world: &World, dbid: i16) -> &'static str {
        let policy = Policy::default();
        let desk = Desk::new(&policy, world, now());
        admit(&desk, Dbid(dbid)).map_or_else(|refusal| refusal.code(), |_| "admitted")
    }

    fn two_pods() -> Vec<ContractPoint> {
        vec![ContractPoint::TwoPods { pods: "a, b".into() }]
    }

    #[test]
    fn one_missing_pod_of_many_is_a_fault_and_no_wrong_selector() {
        let gone = down().without_pod(2).source(0, Look::Unknown("no pod has its address".into()));
        assert_eq!(code(&gone, 5), "DoubleFault");
    }

    #[test]
    fn a_foreign_page_does_not_speak_for_a_primary() {
        let starting = down().source(0, Look::Unknown("refused".into())).page(2, |p| p.state = InstanceState::Starting);
        assert_eq!(code(&starting, 5), "ActingPrimaryNotAnswering");
        assert_eq!(code(&starting.page(2, |p| p.cluster = "other".into()), 5), "DoubleFault");
    }

    #[test]
    fn what_would_keep_a_well_instance_from_being_repaired_is_known_before() {
        let well = World::of(&["1:-1ppsu", "2:0ppsu", "5:0mmsu"]);
        let unfit = |world: &World| {
            let row = world.catalog.seen().unwrap().row(Dbid(5)).unwrap();
            super::unfit(&Desk::new(&Policy::default(), world, now()), row).map(|refusal| refusal.code())
        };
        assert_eq!(unfit(&well), None);
        assert_eq!(unfit(&well.clone().without_pod(5)), None, "it is being made again");
        assert_eq!(unfit(&well.clone().silent(5)), None, "so is its supervisor");
        assert_eq!(unfit(&well.clone().instance(5, |i| i.contract = vec![ContractPoint::NoSupervisor])), Some("NoSupervisor"));
        assert_eq!(unfit(&well.clone().page(5, |p| p.untrusted_lock = Some("it is on fuse".into()))), Some("UntrustedLock"));
        assert_eq!(unfit(&well.clone().page(5, |p| p.uncopied = Some("its log is linked".into()))), Some("NotToBeCopied"));
        assert_eq!(unfit(&well.page(5, |p| p.cluster = "other".into())), Some("PageNotBelieved"));
    }

    #[test]
    fn a_down_mirror_with_a_sound_source_is_admitted() {
        assert_eq!(code(&down(), 5), "admitted");
    }

    #[test]
    fn every_reason_against_is_found() {
        let cases: Vec<(&str, World, i16)> = vec![
            ("CoordinatorSilent", down().blind(), 5),
            ("NotInCatalog", down(), 77),
            ("CoordinatorRow", down(), 1),
            ("CatalogInvalid", World::of(&["2:0ppsu", "5:0mmnd"]), 5),
            ("TargetIsActingPrimary", down(), 2),
            ("TargetUp", World::of(&["2:0ppsu", "5:0mmsu"]), 5),
            ("DoubleFault", down().source(0, Look::Unknown("refused".into())), 5),
            ("PeerSuspect", down().source_with(0, |s| s.in_recovery = true), 5),
            ("PeerSuspect", down().source_with(0, |s| s.dbid = Dbid(9)), 5),
            ("PeerSuspect", down().source_with(0, |s| s.system_identifier = Some(SystemIdentifier(8))), 5),
            ("DataDirIsMountRoot", down().instance(5, |i| i.contract = vec![ContractPoint::DataDirIsMountRoot]), 5),
            ("AccessMode", down().instance(5, |i| i.access_mode = Some(("data".into(), Look::Seen("ReadWriteMany".into())))), 5),
            ("ClaimUnread", down().instance(5, |i| i.access_mode = Some(("data".into(), Look::Unknown("none".into())))), 5),
            ("UntrustedLock", down().page(5, |p| p.untrusted_lock = Some("it is on nfs4".into())), 5),
            ("NothingSelected", down().without_pod(2).without_pod(5), 5),
            ("TwoPods", down().source(0, Look::Unknown("several".into())).instance(2, |i| i.contract = two_pods()), 5),
            ("SupervisorSilent", down().silent(5), 5),
            ("PageNotBelieved", down().instance(5, |i| i.page = Look::Unknown(NoPage::NotBelieved("nonsense".into()))), 5),
            ("PageNotBelieved", down().page(5, |p| p.cluster = "other".into()), 5),
            ("PageNotBelieved", down().page(5, |p| p.port = 1), 5),
            ("PageNotBelieved", down().page(5, |p| p.version = 99), 5),
            ("VolumeUnrecognised", down().page(5, |p| p.state = InstanceState::VolumeUnrecognised), 5),
            ("VolumeInUse", down().page(5, |p| p.state = InstanceState::LockBusy), 5),
            ("UntrustedLock", down().page(5, |p| p.untrusted_lock = Some("nfs4".into())), 5),
            ("SupervisorSays", down().page(5, |p| p.state = InstanceState::NotInCatalog), 5),
            ("SpareNotTaken", down().page(5, |p| (p.state, p.shape, p.dbid) = (InstanceState::NotInCatalog, Shape::Empty, None)), 5),
            ("SupervisorSays", down().page(5, |p| p.state = InstanceState::Replaced), 5),
            ("SupervisorSays", down().page(5, |p| p.state = InstanceState::CatalogOutdated), 5),
            ("SupervisorSays", down().page(5, |p| p.state = InstanceState::Deciding), 5),
            ("SupervisorSays", down().page(5, |p| p.state = InstanceState::Maintenance), 5),
            ("SupervisorSays", down().page(5, |p| p.state = InstanceState::Unkillable), 5),
        ];
        for (expected, world, dbid) in cases {
            assert_eq!(code(&world, dbid), expected);
        }
    }

    #[test]
    fn a_catalog_that_flipped_to_a_dead_mirror_is_told_from_a_double_fault() {
        let flipped = World::of(&["2:0mpnd", "5:0pmnu"]).source(0, Look::Unknown("refused".into()));
        let unseen = flipped.clone().instance(5, |i| i.seen_promoted = false);
        assert_eq!(code(&unseen, 2), "FlippedDouble");
        assert_eq!(code(&flipped, 2), "DoubleFault", "it was seen to serve");
        assert_eq!(code(&unseen.clone().down_for(5, 60), 2), "DoubleFault", "it was well for long after it was made the primary");
        // Roles may have been swapped before: that the preferred role is back says nothing.
        let back = World::of(&["2:0ppnu", "5:0mmnd"]).source(0, Look::Unknown("refused".into()));
        let back = back.instance(2, |i| (i.seen_promoted, i.promoted_at) = (false, Some(ago(60))));
        assert_eq!(code(&back, 5), "FlippedDouble");
    }

    #[test]
    fn a_primary_that_is_just_starting_is_no_double_fault_yet() {
        let starting = down().source(0, Look::Unknown("starts".into())).page(2, |p| p.state = InstanceState::Starting);
        assert_eq!(code(&starting, 5), "ActingPrimaryNotAnswering");
        let promoting = World::of(&["2:0mpnd", "5:0pmnu"]).source(0, Look::Unknown("starts".into()));
        let promoting = promoting.instance(5, |i| i.seen_promoted = false).page(5, |p| p.state = InstanceState::Starting);
        assert_eq!(code(&promoting, 2), "ActingPrimaryNotAnswering");
        let marked = World::of(&["2:0mpnd", "5:0pmnu"]).source(0, Look::Unknown("is a mirror in recovery".into()));
        let marked = |at| marked.clone().instance(5, |i| (i.seen_promoted, i.promoted_at) = (false, Some(ago(at))));
        assert_eq!(code(&marked(3), 2), "ActingPrimaryNotAnswering");
        assert_eq!(code(&marked(30), 2), "FlippedDouble");
    }

    /// A promotion under way was a double fault that calls for a person, and one that never came was another one, where the
    /// coordinator's clock was not ours.
    #[test]
    fn no_clock_of_the_coordinator_makes_a_promotion_under_way_a_double_fault() {
        let flipped = World::of(&["2:0mpnd", "5:0pmnu"]).source(0, Look::Unknown("is a mirror in recovery".into()));
        let (ago_of, not_for) = (|s| Changed::Ago(SignedDuration::from_secs(s)), |s| Changed::NotFor(SignedDuration::from_secs(s)));
        for offset in [0, 61, -61, 86_400, -86_400] {
            let told = |marked, since: i64, unwell: Option<i64>| {
                let world = flipped.clone().instance(5, |i| {
                    (i.seen_promoted, i.promoted_at, i.marked) = (false, Some(ago(since - offset)), Some(marked));
                    i.unwell_since = unwell.map(ago);
                });
                code(&world, 2)
            };
            assert_eq!(told(ago_of(3), 3, None), "ActingPrimaryNotAnswering", "{offset:+}");
            assert_eq!(told(ago_of(3), 3, Some(2)), "ActingPrimaryNotAnswering", "{offset:+}");
            assert_eq!(told(ago_of(30), 30, Some(29)), "FlippedDouble", "{offset:+}");
            assert_eq!(told(ago_of(300), 300, Some(30)), "DoubleFault", "{offset:+}: it was well for long after");
            assert_eq!(told(not_for(20), 23, None), "FlippedDouble", "{offset:+}: it was so when we began");
        }
    }
}
