//! When an instance is healed. gprecoverseg's success means less than this (docs/greenplum.md#gprecoverseg).

use jiff::{SignedDuration, Timestamp};

use super::{
    aftermath::{self, Done},
    desk::Desk,
    gates, triage,
};
use model::{
    CatalogIndex, Content, Dbid, FailureClass, InstanceState, Look, Missing, Refusal, Role, Row, Source, Status, world::Walsender,
};

/// How long nothing may move before a proof is given up. Replay of a long queue is not a failure, so this is long and counts only
/// while nothing is received and nothing replayed.
const PATIENCE: SignedDuration = SignedDuration::from_mins(30);

/// How a proof stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every point is proven; or what stands in for the one that cannot be, in words.
    Healed(Option<String>),
    /// These points are not.
    Missing(Vec<Missing>),
    /// Nobody can look, so nothing is judged; or it waits for what no repair brings about.
    Waits(Refusal),
    /// It will not come by waiting.
    Broken(FailureClass, String),
}

/// Is `dbid` back, in sync, and doing work?
pub fn prove(desk: &Desk, done: &Done) -> Proof {
    let dbid = done.dbid;
    let row = match gates::catalog(desk) {
        Ok(catalog) => catalog.row(dbid),
        Err(refusal) => return Proof::Waits(refusal),
    };
    if let Some(row) = row.filter(|row| row.role == Role::Primary && row.status == Status::Up) {
        // FTS promotes only what was in sync; of two that died it flips the rows, and promotes nobody.
        return gates::serves_its_content(desk, row).map_or_else(Proof::Waits, |()| Proof::Healed(None));
    }
    if let Some((class, why)) = aftermath::judge(desk, done) {
        return Proof::Broken(class, why);
    }
    if let Some(broken) = broken(desk, dbid) {
        return broken;
    }
    let missing = missing(desk, dbid, row);
    if missing.is_empty() {
        return Proof::Healed(None);
    }
    if missing == [Missing::Dispatch]
        && let Some(instead) = row.and_then(|row| instead_of_dispatch(desk, row.content))
    {
        return Proof::Healed(Some(instead));
    }
    if let Some(refusal) = row.and_then(|row| gates::silent(desk, row)) {
        return Proof::Waits(refusal);
    }
    if let Some(refusal) = row.and_then(|row| triage::not_marked_up(desk, row)) {
        return Proof::Waits(refusal);
    }
    if missing.contains(&Missing::Receiving)
        && let Some(broken) = stands_still(desk, dbid, row, done.since)
    {
        return broken;
    }
    Proof::Missing(missing)
}

/// Nothing of it has moved for long. Both clocks have to say so, as one of them may have been set, and it has to have been seen:
/// one that cannot be asked may replay all the while.
fn stands_still(desk: &Desk, dbid: Dbid, row: Option<&Row>, since: Timestamp) -> Option<Proof> {
    if desk.now.duration_since(since) <= PATIENCE {
        return None;
    }
    if row.is_none() {
        // The catalog was read, and is ours: whether there is anything left to repair, the next attempt finds.
        let moved = || Proof::Broken(FailureClass::WorldMoved, format!("dbid {dbid} is not in the catalog any more"));
        return desk.world.is_of_this_cluster().then(moved);
    }
    let page = desk.page_at(dbid)?;
    desk.world.instances.get(&dbid)?.still.filter(|still| *still > PATIENCE)?;
    let said = aftermath::receiver(page).map_or_else(String::new, |said| format!("; {said}"));
    let why = format!("nothing was received or replayed for {} minutes{said}", PATIENCE.as_mins());
    Some(Proof::Broken(FailureClass::ResultUnsound, why))
}

/// The supervisor asks for a repair again.
fn broken(desk: &Desk, dbid: Dbid) -> Option<Proof> {
    let page = desk.page_at(dbid)?;
    let class = match page.state {
        InstanceState::NeedsFull | InstanceState::CopyUnfinished => FailureClass::TargetUnusable,
        InstanceState::NeedsRecovery => FailureClass::WorldMoved,
        InstanceState::Deciding
        | InstanceState::Starting
        | InstanceState::Serving
        | InstanceState::NotAnswering
        | InstanceState::Stopping
        | InstanceState::Unkillable
        | InstanceState::Held
        | InstanceState::PrimaryDataMissing
        | InstanceState::VolumeUnrecognised
        | InstanceState::NotInCatalog
        | InstanceState::Retired
        | InstanceState::Maintenance
        | InstanceState::WaitingForCoordinator
        | InstanceState::WaitingForPeer
        | InstanceState::WaitingForPrimary
        | InstanceState::WaitingForSegments
        | InstanceState::LockBusy
        | InstanceState::HeldElsewhere
        | InstanceState::StayingDown
        | InstanceState::BackingOff
        | InstanceState::Replaced
        | InstanceState::PutBack
        | InstanceState::CatalogOutdated => return None,
    };
    Some(Proof::Broken(class, format!("after the repair its supervisor says {}: {}", page.state, page.detail)))
}

fn missing(desk: &Desk, dbid: Dbid, row: Option<&Row>) -> Vec<Missing> {
    let receiving = desk.page_at(dbid).is_some_and(|p| p.receiving && p.serves == Some(Role::Mirror));
    let answered = row.is_some_and(|row| desk.dispatched(row.content));
    let points = [
        (Missing::CatalogInSync, row.is_some_and(Row::well)),
        (Missing::Walsender, row.is_some_and(|row| streams(desk, row))),
        (Missing::Receiving, receiving),
        (Missing::Dispatch, answered),
    ];
    points.into_iter().filter(|(_, proven)| !proven).map(|(point, _)| point).collect()
}

/// A dispatched statement goes to all contents, so another content's failure fails it for this one, too. Then its acting
/// primary has to answer read-write as itself when it is asked alone. `None`: nobody else's failure explains it.
fn instead_of_dispatch(desk: &Desk, content: Content) -> Option<String> {
    let failed = desk.world.dispatch.unknown().filter(|failed| failed.tried)?;
    let mut others: Vec<Content> = failed.failed.iter().copied().chain(not_answering(desk)).collect();
    others.sort_unstable();
    others.dedup();
    let primary = desk.catalog.as_ref()?.pair(content)?.as_ref().ok()?.primary;
    let serves = desk.world.sources.get(&content).and_then(Look::seen).is_some_and(|source| is_itself(source, primary));
    if others.is_empty() || others.contains(&content) || !serves {
        return None;
    }
    let others: Vec<_> = others.iter().take(8).map(ToString::to_string).collect();
    Some(format!(
        "no dispatched statement was answered, as content {} does not answer; instead dbid {}, asked alone, answers read-write as itself",
        others.join(", "),
        primary.dbid
    ))
}

/// Contents whose acting primary does not answer read-write as itself.
fn not_answering<'d>(desk: &'d Desk) -> impl Iterator<Item = Content> + 'd {
    let pairs = desk.catalog.iter().flat_map(CatalogIndex::pairs);
    let away = |content: &Content, primary: &Row| match desk.world.sources.get(content) {
        Some(Look::Seen(source)) => !is_itself(source, primary),
        Some(Look::Unknown(_)) | None => true,
    };
    pairs.filter(move |(content, pair)| pair.as_ref().map_or(true, |pair| away(content, pair.primary))).map(|(content, _)| *content)
}

fn is_itself(source: &Source, primary: &Row) -> bool {
    (source.dbid, source.content, source.in_recovery) == (primary.dbid, primary.content, false)
}

/// The acting primary streams to it. FTS knows mirrors only by application_name; we want the one at the pod's address, or
/// the one whose positions its receiver's go along with, where connections arrive from another address.
pub fn streams(desk: &Desk, row: &Row) -> bool {
    let instance = desk.world.instances.get(&row.dbid);
    let ips = instance.and_then(|instance| instance.pod.seen()).map_or(&[][..], |pod| &pod.ips);
    let known = instance.and_then(|instance| instance.walsender);
    let is_its = |w: &Walsender| w.client.as_ref().is_some_and(|client| ips.contains(client)) || known.is_some() && w.pid == known;
    streaming(desk, row.content).any(is_its)
}

/// Where the walsenders' clients are that stream to some mirror of this content, when none is known to be its.
pub fn from_elsewhere(desk: &Desk, row: &Row) -> Vec<String> {
    let clients = streaming(desk, row.content).map(|w| w.client.clone().unwrap_or_else(|| "no address that may be seen".into()));
    if streams(desk, row) { vec![] } else { clients.collect() }
}

fn streaming<'d>(desk: &'d Desk, content: Content) -> impl Iterator<Item = &'d Walsender> {
    desk.world.sources.get(&content).and_then(Look::seen).into_iter().flat_map(Source::streaming)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        Policy, World,
        world::{
            Undispatched,
            fixtures::{ago, now},
        },
    };

    fn well() -> World {
        World::of(&["2:0ppsu", "5:0mmsu"])
    }

    fn prove(world: &World, seconds: i64) -> Proof {
        let done = Done { dbid: Dbid(5), attempt: "r-a1", uid: "uid-of-r", changed: None, since: ago(seconds) };
        super::prove(&Desk::new(&Policy::default(), world, now()), &done)
    }

    #[test]
    fn all_four_points_together_are_healed() {
        assert_eq!(prove(&well(), 1), Proof::Healed(None));
    }

    #[test]
    fn each_point_alone_is_missed() {
        let elsewhere = |w: &mut Source| w.walsenders[0].client = Some("10.9.9.9".into());
        let mut undispatched = well();
        undispatched.dispatch = Look::Unknown("hangs".into());
        let mut unsynced = World::of(&["2:0ppnu", "5:0mmnu"]);
        unsynced.dispatch = well().dispatch;
        for (world, point) in [
            (unsynced, Missing::CatalogInSync),
            (well().source_with(0, elsewhere), Missing::Walsender),
            (well().source_with(0, |s| s.walsenders[0].state = "catchup".into()), Missing::Walsender),
            (well().page(5, |p| p.receiving = false), Missing::Receiving),
            (undispatched, Missing::Dispatch),
        ] {
            assert_eq!(prove(&world, 1), Proof::Missing(vec![point]));
        }
    }

    /// Through a mesh every connection arrives from the proxy's address.
    #[test]
    fn a_walsender_at_another_address_is_its_by_its_positions_alone() {
        let meshed = || well().source_with(0, |s| (s.walsenders[0].client, s.walsenders[0].pid) = (Some("127.0.0.6".into()), Some(7)));
        assert_eq!(prove(&meshed(), 1), Proof::Missing(vec![Missing::Walsender]));
        assert_eq!(prove(&meshed().instance(5, |one| one.walsender = Some(8)), 1), Proof::Missing(vec![Missing::Walsender]));
        assert_eq!(prove(&meshed().instance(5, |one| one.walsender = Some(7)), 1), Proof::Healed(None));
        assert_eq!(prove(&well().source_with(0, |s| s.walsenders[0].client = None), 1), Proof::Missing(vec![Missing::Walsender]));
    }

    #[test]
    fn a_mirror_that_asks_again_and_one_that_never_receives_are_broken() {
        let again = well().page(5, |p| p.state = InstanceState::NeedsFull);
        assert!(matches!(prove(&again, 1), Proof::Broken(FailureClass::TargetUnusable, _)));
        let deaf = well().page(5, |p| p.receiving = false).instance(5, |i| i.still = Some(SignedDuration::from_secs(3600)));
        assert!(matches!(prove(&deaf, 3600), Proof::Broken(FailureClass::ResultUnsound, _)));
    }

    /// A copy of hours was called a failure for good, because one look found the coordinator, or a node, away.
    #[test]
    fn nothing_is_judged_by_a_look_that_saw_nothing() {
        let hours = |hours| SignedDuration::from_hours(hours);
        let deaf = || well().page(5, |p| p.receiving = false).instance(5, move |i| i.still = Some(hours(2)));
        let missing = Proof::Missing(vec![Missing::Receiving]);
        assert!(matches!(prove(&deaf(), 7200), Proof::Broken(FailureClass::ResultUnsound, _)));
        let mut blind = deaf().blind();
        assert!(matches!(prove(&blind, 7200), Proof::Waits(Refusal::CatalogUnread { .. })));
        blind.instances.clear();
        assert!(matches!(prove(&blind, 7200), Proof::Waits(Refusal::CatalogUnread { .. })));
        let restarted = deaf().instance(5, |i| i.still = None);
        assert_eq!(prove(&restarted, 7200), missing, "nobody has seen it stand still");
        let silent = |for_s: Option<i64>| deaf().silent(5).instance(5, move |i| i.silent = for_s.map(SignedDuration::from_secs));
        for moment in [None, Some(0), Some(20)] {
            assert_eq!(prove(&silent(moment), 7200), missing, "it may only restart");
        }
        let told = prove(&silent(Some(1900)), 7200);
        assert!(matches!(&told, Proof::Waits(Refusal::SupervisorSilent { .. })), "{told:?}");
        let foreign = deaf().page(5, |p| p.cluster = "other".into());
        assert!(matches!(prove(&foreign, 7200), Proof::Waits(Refusal::PageNotBelieved { .. })));
        let away = World::of(&["2:0ppsu", "6:0mmsu"]);
        assert!(matches!(prove(&away, 60), Proof::Missing(_)), "a look at another catalog passes");
        assert!(matches!(prove(&away, 7200), Proof::Broken(FailureClass::WorldMoved, _)));
        assert!(matches!(prove(&away.silent(2).silent(6), 7200), Proof::Missing(_)), "it may be another cluster's catalog");
    }

    #[test]
    fn a_target_that_fts_has_promoted_since_was_in_sync() {
        let promoted = World::of(&["2:0mpnd", "5:0pmnu"]);
        assert_eq!(prove(&promoted, 1), Proof::Healed(None));
        let dead = promoted.clone().source(0, Look::Unknown("refused".into())).instance(5, |i| i.seen_promoted = false);
        assert!(matches!(prove(&dead, 1), Proof::Waits(Refusal::FlippedDouble { .. })), "{:?}", prove(&dead, 1));
        assert!(matches!(prove(&promoted.source_with(0, |s| s.in_recovery = true), 1), Proof::Waits(Refusal::PeerSuspect { .. })));
    }

    #[test]
    fn a_replay_that_goes_on_is_no_failure_and_no_step_of_a_clock_makes_it_one() {
        let deaf = |still| well().page(5, |p| p.receiving = false).instance(5, |i| i.still = Some(SignedDuration::from_secs(still)));
        assert_eq!(prove(&deaf(20), 3600), Proof::Missing(vec![Missing::Receiving]), "it replays");
        assert_eq!(prove(&deaf(20), 86_400), Proof::Missing(vec![Missing::Receiving]), "the operator's clock was set forward");
        assert_eq!(prove(&deaf(4000), -86_400), Proof::Missing(vec![Missing::Receiving]), "and back");
        assert!(matches!(prove(&deaf(4000), 4000), Proof::Broken(FailureClass::ResultUnsound, _)));
    }

    /// FTS hangs, or knows no walsender of that name: the proof waited for ever, and said that it went on.
    #[test]
    fn a_mirror_that_fts_does_not_mark_up_is_told_of_and_is_no_failure() {
        let down = |seconds| {
            let row = World::of(&["2:0ppnu", "5:0mmnd"]);
            row.instance(5, move |i| i.unmarked = Some(SignedDuration::from_secs(seconds))).source_with(0, |source| {
                source.walsenders = vec![model::world::fixtures::walsender(5)];
            })
        };
        assert_eq!(prove(&down(299), 7200), Proof::Missing(vec![Missing::CatalogInSync]));
        let told = |world: World| match prove(&world, 7200) {
            Proof::Waits(refusal @ Refusal::NotMarkedUp { .. }) => refusal.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(told(down(300)).contains("it looks, and does not find it"));
        let hangs = World { unprobed: Some("FTS did not end its look within 160 s".into()), ..down(300) };
        assert!(told(hangs.clone()).contains("did not end its look"));
        let by_hand = hangs.source_with(0, |source| source.walsenders[0].application_name = "walreceiver".into());
        assert!(told(by_hand).contains("no walsender of gp_walreceiver, but of 'walreceiver'"));
        assert!(told(down(300).source_with(0, |source| source.walsenders.clear())).ends_with("no walsender of gp_walreceiver"));
        assert_eq!(prove(&well().instance(5, |i| i.unmarked = None), 7200), Proof::Healed(None));
    }

    /// One dead primary anywhere kept every repair of the cluster from ever being proven.
    #[test]
    fn another_contents_failure_does_not_fail_the_proof_and_is_named() {
        let two = || {
            let mut world = World::of(&["2:0ppsu", "5:0mmsu", "3:1ppnu", "6:1mmnd"]);
            world.dispatch = Look::Unknown(Undispatched::tried("FTS detected one or more segments are down".into(), vec![]));
            world
        };
        let gone = two().source(1, Look::Unknown("refused".into()));
        let Proof::Healed(Some(told)) = prove(&gone, 1) else { panic!("{:?}", prove(&gone, 1)) };
        assert!(told.contains("as content 1 does not answer; instead dbid 2, asked alone"), "{told}");
        let named = |failed: &[i16]| {
            let failed = failed.iter().map(|c| Content(*c)).collect();
            World { dispatch: Look::Unknown(Undispatched::tried("(seg1 a:6000)".into(), failed)), ..two() }
        };
        assert!(matches!(prove(&named(&[1]), 1), Proof::Healed(Some(_))), "the coordinator names it");
        let unproven = Proof::Missing(vec![Missing::Dispatch]);
        let unasked = World { dispatch: Look::Unknown("asked just now".into()), ..gone.clone() };
        assert_eq!(prove(&unasked, 1), unproven, "it may be answered yet");
        assert_eq!(prove(&two(), 1), unproven, "nobody else's failure explains it");
        assert_eq!(prove(&named(&[0, 1]), 1), unproven, "its own content is named");
        assert_eq!(prove(&gone.clone().source_with(0, |s| s.in_recovery = true), 1), unproven, "its primary does not stand in");
        let unsynced = gone.source_with(0, |s| s.walsenders.clear());
        assert_eq!(prove(&unsynced, 1), Proof::Missing(vec![Missing::Walsender, Missing::Dispatch]), "the other points hold all the same");
    }
}
