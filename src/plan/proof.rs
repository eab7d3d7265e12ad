//! When an instance is healed. gprecoverseg's success means less than this (reference §8 #18).

use jiff::{SignedDuration, Timestamp};

use crate::model::{Dbid, FailureClass, InstanceState, Look, Missing, Role, Row, Status, World};

/// The name under which a mirror's WAL receiver connects, in all of Greenplum.
const MIRROR_APPLICATION: &str = "gp_walreceiver";

/// How long nothing may move before a proof is given up. Replay of a long queue is not a failure
/// (reference §7.3 #50), so this is long and counts only while nothing is received.
const PATIENCE: SignedDuration = SignedDuration::from_mins(30);

/// How a proof stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every point is proven.
    Healed,
    /// These points are not.
    Missing(Vec<Missing>),
    /// It will not come by waiting.
    Broken(FailureClass, String),
}

/// Is `dbid` back, in sync, and doing work?
pub fn prove(world: &World, dbid: Dbid, since: Timestamp, now: Timestamp) -> Proof {
    let row = world.catalog.seen().and_then(|catalog| catalog.row(dbid));
    if row.is_some_and(|row| row.role == Role::Primary && row.status == Status::Up) {
        return Proof::Healed; // FTS promotes only what was in sync
    }
    if let Some(broken) = broken(world, dbid) {
        return broken;
    }
    let missing = missing(world, dbid, row);
    if missing.is_empty() {
        Proof::Healed
    } else if missing.contains(&Missing::Receiving) && now.duration_since(since) > PATIENCE {
        Proof::Broken(FailureClass::ResultUnsound, format!("nothing was received for {} minutes", PATIENCE.as_mins()))
    } else {
        Proof::Missing(missing)
    }
}

/// The supervisor asks for a repair again.
fn broken(world: &World, dbid: Dbid) -> Option<Proof> {
    let page = world.page_at(dbid)?;
    let class = match page.state {
        InstanceState::NeedsFull | InstanceState::CopyUnfinished => FailureClass::TargetUnusable,
        InstanceState::NeedsRecovery => FailureClass::WorldMoved,
        _ => return None,
    };
    Some(Proof::Broken(class, format!("after the repair its supervisor says {:?}: {}", page.state, page.detail)))
}

fn missing(world: &World, dbid: Dbid, row: Option<&Row>) -> Vec<Missing> {
    let receiving = world.page_at(dbid).is_some_and(|p| p.receiving && p.serves == Some(Role::Mirror));
    let answered = row.is_some_and(|row| world.dispatch.seen().is_some_and(|contents| contents.contains(&row.content)));
    let points = [
        (Missing::CatalogInSync, row.is_some_and(Row::well)),
        (Missing::Walsender, row.is_some_and(|row| streams(world, row))),
        (Missing::Receiving, receiving),
        (Missing::Dispatch, answered),
    ];
    points.into_iter().filter(|(_, proven)| !proven).map(|(point, _)| point).collect()
}

/// The acting primary streams to it. FTS knows mirrors only by application_name; we want the one at the pod's address.
pub fn streams(world: &World, row: &Row) -> bool {
    let ips = world.instances.get(&row.dbid).and_then(|instance| instance.pod.seen()).map_or(&[][..], |pod| &pod.ips);
    let source = world.sources.get(&row.content).and_then(Look::seen);
    let walsenders = source.into_iter().flat_map(|source| &source.walsenders);
    let streaming = walsenders.filter(|w| w.application_name == MIRROR_APPLICATION && w.state == "streaming");
    streaming.filter_map(|w| w.client.as_ref()).any(|client| ips.contains(client))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Source,
        world::fixtures::{ago, now},
    };

    fn well() -> World {
        World::of(&["2:0ppsu", "5:0mmsu"])
    }

    fn prove(world: &World, seconds: i64) -> Proof {
        super::prove(world, Dbid(5), ago(seconds), now())
    }

    #[test]
    fn all_four_points_together_are_healed() {
        assert_eq!(prove(&well(), 1), Proof::Healed);
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

    #[test]
    fn a_mirror_that_asks_again_and_one_that_never_receives_are_broken() {
        let again = well().page(5, |p| p.state = InstanceState::NeedsFull);
        assert!(matches!(prove(&again, 1), Proof::Broken(FailureClass::TargetUnusable, _)));
        let deaf = well().page(5, |p| p.receiving = false);
        assert!(matches!(prove(&deaf, 3600), Proof::Broken(FailureClass::ResultUnsound, _)));
    }

    #[test]
    fn a_target_that_fts_has_promoted_since_was_in_sync() {
        assert_eq!(prove(&World::of(&["2:0mpnd", "5:0pmnu"]), 1), Proof::Healed);
    }
}
