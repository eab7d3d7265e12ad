//! The status of a cluster: a pure function of what was seen, what is planned, and what the status said before.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use api::{
    GreenplumCluster, GreenplumClusterStatus,
    cluster::{Counts, LISTED, UnwellInstance},
    condition::{self, seconds},
};
use model::{Catalog, Plan, Reason, Refusal, Status, Unwell, World, error::cut};

/// Longest message of a status and of one of its instances: they may quote what anybody says.
const LONGEST_MESSAGE: usize = 4096;
const LONGEST_REASON: usize = 1024;

/// The new status. While the catalog cannot be read, what was last known of instances stands, and the conditions say so.
pub fn status(cluster: &GreenplumCluster, world: &World, plan: &Plan, now: Timestamp) -> GreenplumClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    let wanted = conditions::wanted(cluster, world, plan);
    let conditions = condition::merge(&old.conditions, &wanted, generation, now);
    let message = wanted.iter().find(|one| one.kind == "Ready").map(|ready| ready.message.clone()).unwrap_or_default();
    let message = cut(&message, LONGEST_MESSAGE);
    let coordinator_timeline = old.coordinator_timeline.max(world.vouched_timeline().map(|timeline| timeline.0.into()));
    let status = GreenplumClusterStatus { observed_generation: generation, conditions, message, coordinator_timeline, ..old };
    match world.catalog.seen() {
        None => status,
        Some(catalog) => {
            let counts = counts(catalog, plan);
            GreenplumClusterStatus {
                in_sync: format!("{}/{}", counts.in_sync, counts.contents),
                counts,
                instances: plan.unwell.iter().take(LISTED).map(unwell).collect(),
                unlisted: number(plan.unwell.len().saturating_sub(LISTED)),
                ..status
            }
        }
    }
}

/// The status after a look that failed altogether: everything stands, but whether it is so is unknown. `lasts`: waiting
/// alone does not change it.
pub fn unseen(cluster: &GreenplumCluster, code: &str, why: &str, lasts: bool, now: Timestamp) -> GreenplumClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let wanted = not_seen(code, why, lasts);
    let mut conditions = old.conditions.clone();
    conditions.retain(|one| wanted.iter().all(|want| want.kind != one.type_));
    conditions.extend(condition::merge(&old.conditions, &wanted, cluster.metadata.generation, now));
    GreenplumClusterStatus { conditions, message: cut(why, LONGEST_MESSAGE), ..old }
}

/// Conditions of a cluster that could not be looked at.
pub fn not_seen(code: &str, why: &str, lasts: bool) -> Vec<condition::Wanted> {
    let stalled = lasts.then(|| condition::Wanted::new("Stalled", Some(true), code, why));
    let ready = condition::Wanted::new("Ready", if lasts { Some(false) } else { None }, code, why);
    [Some(ready), stalled].into_iter().flatten().collect()
}

fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Instances in numbers.
pub fn counts(catalog: &Catalog, plan: &Plan) -> Counts {
    let rows: Vec<_> = catalog.rows.iter().filter(|row| row.content.0 >= 0).collect();
    let count = |keep: &dyn Fn(&model::Row) -> bool| number(rows.iter().filter(|row| keep(row)).count());
    let contents = catalog.contents();
    let in_sync = contents.iter().filter(|content| catalog.pair(**content).is_ok_and(|pair| pair.mirror.well())).count();
    Counts {
        contents: number(contents.len()),
        in_sync: number(in_sync),
        instances: number(rows.len()),
        up: count(&|row| row.status == Status::Up),
        down: count(&|row| row.status == Status::Down),
        swapped: count(&|row| row.role != row.preferred_role),
        recovering: number(plan.unwell.iter().filter(|one| matches!(one.reason, Reason::Recovering { .. })).count()),
    }
}

fn unwell(unwell: &Unwell) -> UnwellInstance {
    let bare = UnwellInstance {
        dbid: unwell.dbid.0.into(),
        content: unwell.content.0.into(),
        row: unwell.row.clone(),
        since: Time(seconds(unwell.since)),
        reason: String::new(),
        message: String::new(),
        lifted_by: String::new(),
        would: None,
        recovery: None,
    };
    let text = String::from;
    match &unwell.reason {
        Reason::Recovering { recovery, trouble } => UnwellInstance {
            reason: text("Recovering"),
            message: cut(&format!("SegmentRecovery {recovery} works on it{}", super::and(trouble.as_deref())), LONGEST_REASON),
            recovery: Some(recovery.clone()),
            ..bare
        },
        Reason::Planned { recovery, repair } => UnwellInstance {
            reason: text("Planned"),
            message: format!("SegmentRecovery {recovery} is being made ({repair})"),
            recovery: Some(recovery.clone()),
            ..bare
        },
        Reason::Refused(refusal) => refused(refusal, bare),
        Reason::Waits { recovery, refusal } => UnwellInstance { recovery: Some(recovery.clone()), ..refused(refusal, bare) },
    }
}

fn refused(refusal: &Refusal, bare: UnwellInstance) -> UnwellInstance {
    let (message, lifted_by) = super::words(refusal);
    let recovery = match refusal {
        Refusal::RecoveryFailed { recovery }
        | Refusal::FallsBack { recovery, .. }
        | Refusal::Flapping { recovery, .. }
        | Refusal::RecoveryUnreadable { recovery }
        | Refusal::AlreadyRecovering { recovery, .. } => Some(recovery.clone()),
        _ => None,
    };
    let would = match refusal {
        Refusal::ObserveOnly { would } | Refusal::Paused { would } => Some(would.to_string()),
        _ => None,
    };
    let message = cut(&message, LONGEST_REASON);
    UnwellInstance { reason: refusal.code().to_owned(), message, lifted_by, would, recovery, ..bare }
}

/// Whether `new` says more than other words for the same: such a change is written at once.
pub fn matters(old: Option<&GreenplumClusterStatus>, new: &GreenplumClusterStatus) -> bool {
    old.map(without_words) != Some(without_words(new))
}

fn without_words(status: &GreenplumClusterStatus) -> GreenplumClusterStatus {
    let mut bare = status.clone();
    bare.message.clear();
    bare.conditions.iter_mut().for_each(|condition| condition.message.clear());
    for one in &mut bare.instances {
        one.message.clear();
        one.lifted_by.clear();
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::fixtures;
    use model::{Content, Dbid, InstanceState, Look, Policy, world::fixtures::now};
    use plan;

    fn told(world: &World) -> GreenplumClusterStatus {
        let plan = plan::plan(&Policy::default(), world, now());
        status(&fixtures::cluster(), world, &plan, now())
    }

    fn condition<'a>(status: &'a GreenplumClusterStatus, kind: &str) -> (&'a str, &'a str) {
        status.conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.as_str(), c.reason.as_str())).unwrap()
    }

    #[test]
    fn a_well_cluster_is_ready_and_says_so() {
        let status = told(&World::of(&["1:-1ppsu", "2:0ppsu", "5:0mmsu"]));
        assert_eq!(condition(&status, "Ready"), ("True", "InSync"));
        assert_eq!((status.in_sync.as_str(), status.counts.down, status.instances.len()), ("1/1", 0, 0));
        for (kind, value) in [("Degraded", "False"), ("Balanced", "True"), ("Stalled", "False"), ("CoordinatorReachable", "True")] {
            assert_eq!(condition(&status, kind).0, value, "{kind}");
        }
    }

    #[test]
    fn a_down_mirror_in_its_grace_is_told_in_words_that_stand_still() {
        let world = |seconds| World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, seconds).page(5, |p| p.receiving = false);
        let (first, later) = (told(&world(5)), told(&world(9)));
        assert_eq!(first.instances[0].reason, "WithinGrace");
        assert_eq!(first.instances[0].message, later.instances[0].message);
        assert_eq!(condition(&first, "Degraded").0, "True");
        assert_eq!((first.counts.down, first.in_sync.as_str()), (1, "0/1"));
    }

    #[test]
    fn a_planned_repair_and_an_observed_one_are_told_apart() {
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |p| p.state = model::InstanceState::NeedsFull);
        assert_eq!(told(&world).instances[0].reason, "Planned");
        let observe = Policy { mode: model::HealingMode::Observe, ..Policy::default() };
        let plan = plan::plan(&observe, &world, now());
        let status = status(&fixtures::cluster(), &world, &plan, now());
        assert_eq!((status.instances[0].reason.as_str(), status.instances[0].would.as_deref()), ("ObserveOnly", Some("Full")));
    }

    #[test]
    fn what_was_known_stands_while_the_coordinator_is_away() {
        let mut cluster = fixtures::cluster();
        let mut world = World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 5);
        cluster.status = Some(told(&world));
        world = world.blind();
        let blind = status(&cluster, &world, &Plan::default(), now());
        assert_eq!(condition(&blind, "CoordinatorReachable"), ("False", "CoordinatorSilent"));
        assert_eq!((condition(&blind, "InSync").0, blind.instances.len()), ("Unknown", 1));
        assert_eq!(condition(&blind, "Ready").0, "False");
    }

    #[test]
    fn what_keeps_a_repair_from_being_proven_is_told_where_a_person_looks_first() {
        let mut recovery = model::world::fixtures::running("r", 5, 0, model::Repair::Incremental, model::JobState::Active);
        let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
        (state.job, state.proving_since) = (None, Some(now()));
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).recovery(recovery).page(5, |page| {
            let exit = serde_json::json!({"at": now(), "how": "exit 1", "class": "Environment", "evidence": "FATAL:  no room"});
            (page.receiving, page.crashes, page.last_exit) = (false, 2, serde_json::from_value(exit).unwrap());
        });
        let status = told(&world);
        assert_eq!(status.instances[0].reason, "Recovering");
        for said in [&status.message, &status.instances[0].message] {
            assert!(said.contains("2 crashes") && said.contains("FATAL:  no room"), "{said}");
        }
    }

    /// Alerts on conditions and metrics stayed silent for ever, as the recovery was said to go on.
    #[test]
    fn what_a_recovery_needs_a_person_for_stalls_like_what_none_works_on() {
        let mut recovery = model::world::fixtures::running("r", 5, 0, model::Repair::Full, model::JobState::Active);
        recovery.instances.get_mut(&Dbid(5)).unwrap().job = None;
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).recovery(recovery).page(5, |page| page.state = InstanceState::VolumeUnrecognised);
        let status = told(&world);
        for kind in ["Stalled", "HealingBlocked"] {
            assert_eq!(condition(&status, kind), ("True", "VolumeUnrecognised"), "{kind}");
        }
        assert_eq!(condition(&status, "Ready"), ("False", "VolumeUnrecognised"));
        let one = &status.instances[0];
        assert_eq!((one.reason.as_str(), one.recovery.as_deref()), ("VolumeUnrecognised", Some("r")));
        assert!(one.lifted_by.contains("the right volume"), "{}", one.lifted_by);
        let events = crate::report::events::of_cluster(None, &status);
        assert!(events.iter().any(|event| event.warning && event.reason == "VolumeUnrecognised"), "{events:?}");
        let plan = plan::plan(&Policy::default(), &world, now());
        let (metrics, of) = (crate::report::metrics::Metrics::default(), ("demo".to_owned(), "demo".to_owned()));
        let of = crate::report::metrics::Of { namespace: of.0, cluster: of.1 };
        metrics.cluster(&of, &status.counts, &plan, &mut std::collections::BTreeSet::new());
        assert!(metrics.text().contains("code=\"VolumeUnrecognised\"} 1"), "{}", metrics.text());
    }

    #[test]
    fn a_double_fault_stalls() {
        let status = told(&World::of(&["2:0ppnu", "5:0mmnd"]).source(0, Look::Unknown("refused".into())));
        assert_eq!(condition(&status, "DoubleFault").0, "True");
        assert_eq!(condition(&status, "Stalled").0, "True");
        assert_eq!(condition(&status, "HealingBlocked").0, "True");
        assert_eq!(status.instances.len(), 2, "both sides are named");
    }

    #[test]
    fn what_only_a_person_can_change_stalls_whoever_says_it() {
        for state in [InstanceState::HeldElsewhere, InstanceState::NotInCatalog, InstanceState::Retired, InstanceState::Unkillable] {
            let status = told(&World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |page| page.state = state));
            for kind in ["Stalled", "HealingBlocked"] {
                assert_eq!(condition(&status, kind).0, "True", "{kind} {state:?}");
            }
        }
        let passing = told(&World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 5).page(5, |page| page.state = InstanceState::Starting));
        assert_eq!((condition(&passing, "Stalled").0, condition(&passing, "HealingBlocked").0), ("False", "False"));
    }

    #[test]
    fn the_list_is_bounded_and_says_how_many_it_leaves_out() {
        let world = World::of(&["2:0ppsu", "5:0mmsu"]);
        let one = |n: i16| Unwell {
            dbid: Dbid(n),
            content: Content(0),
            row: String::new(),
            since: now(),
            reason: Reason::Refused(Refusal::CatchingUp),
        };
        let plan = Plan { unwell: (1..=60).map(one).collect(), ..Plan::default() };
        let status = status(&fixtures::cluster(), &world, &plan, now());
        assert_eq!((status.instances.len(), status.unlisted), (50, 10));
    }

    #[test]
    fn other_words_do_not_matter_and_another_reason_does() {
        let old = told(&World::of(&["2:0ppnu", "5:0mmnd"]).source(0, Look::Unknown("refused".into())));
        let reworded = told(&World::of(&["2:0ppnu", "5:0mmnd"]).source(0, Look::Unknown("timed out".into())));
        assert!(old != reworded && !matters(Some(&old), &reworded));
        assert!(matters(Some(&old), &told(&World::of(&["2:0ppnu", "5:0mmnd"]))) && matters(None, &old));
    }

    #[test]
    fn a_look_that_failed_leaves_what_was_known() {
        let mut cluster = fixtures::cluster();
        cluster.status = Some(told(&World::of(&["2:0ppsu", "5:0mmsu"])));
        let unseen = unseen(&cluster, "NotObserved", "cannot read pods", false, now());
        assert_eq!((condition(&unseen, "Ready").0, unseen.in_sync.as_str()), ("Unknown", "1/1"));
        assert_eq!(unseen.conditions.len(), cluster.status.unwrap().conditions.len());
    }

    #[test]
    fn each_cause_of_blindness_is_a_reason_with_what_to_do() {
        for unread in model::Unread::examples() {
            let mut world = World::of(&["2:0ppsu", "5:0mmsu"]);
            world.catalog = Look::Unknown(unread.clone());
            let status = told(&world);
            assert_eq!(condition(&status, "CoordinatorReachable"), ("False", unread.name()));
            assert_eq!(condition(&status, "Stalled").0, if unread.needs_a_person() { "True" } else { "Unknown" });
            assert!(status.message.contains(unread.why()) && status.message.ends_with(unread.lifted_by()), "{}", status.message);
        }
    }

    #[test]
    fn the_highest_timeline_is_kept_and_a_blind_look_keeps_it_too() {
        let mut cluster = fixtures::cluster();
        let mut world = World::of(&["2:0ppsu", "5:0mmsu"]);
        for (seen, kept) in [(Some(2), 2), (Some(1), 2), (None, 2), (Some(5), 5)] {
            world.coordinator_timeline = seen.map(model::Timeline);
            let next = status(&cluster, &world, &Plan::default(), now());
            assert_eq!(next.coordinator_timeline, Some(kept));
            cluster.status = Some(next);
        }
    }

    /// One look at another cluster's coordinator, on a higher timeline, made the real one an old one for ever.
    #[test]
    fn a_timeline_for_which_no_segment_vouches_is_not_kept() {
        use model::Timeline;
        let kept = |asked, told: Option<Timeline>, foreign: bool| {
            let mut world = World::of(&["2:0ppsu", "5:0mmsu"]);
            for dbid in [2, 5] {
                world = world.page(dbid, |page| page.coordinator_timeline = told);
                world = if foreign { world.page(dbid, |page| page.cluster = "other".into()) } else { world };
            }
            world.coordinator_timeline = Some(Timeline(asked));
            let mut cluster = fixtures::cluster();
            cluster.status = Some(GreenplumClusterStatus { coordinator_timeline: Some(3), ..GreenplumClusterStatus::default() });
            status(&cluster, &world, &Plan::default(), now()).coordinator_timeline
        };
        assert_eq!(kept(9, Some(Timeline(3)), false), Some(3), "its segments know of no such coordinator");
        assert_eq!(kept(9, None, true), Some(3), "its segments are none of ours");
        assert_eq!(kept(4, Some(Timeline(4)), false), Some(4), "its standby was activated");
        assert_eq!(kept(4, None, false), Some(4), "of a supervisor that does not tell");
    }

    #[test]
    fn what_would_block_the_next_repair_is_told_of_a_cluster_that_is_well() {
        let foreign = World::of(&["2:0ppsu", "5:0mmsu"]).page(5, |page| page.cluster = "other".into());
        let status = told(&foreign);
        assert_eq!((condition(&status, "Ready").0, status.instances.len()), ("True", 0));
        assert_eq!(condition(&status, "HealingBlocked"), ("True", "PageNotBelieved"));
        let message = &status.conditions.iter().find(|c| c.type_ == "HealingBlocked").unwrap().message;
        assert!(message.contains("dbid 5") && message.contains("cluster 'other'") && message.contains("GPHEAL_CLUSTER"), "{message}");
    }

    /// A cluster that was handed over and has no supervisors yet.
    #[test]
    fn how_many_could_not_be_repaired_is_told_where_a_person_looks_first() {
        let bare = |world: World, dbid| world.instance(dbid, |one| one.contract = vec![model::refusal::ContractPoint::NoSupervisor]);
        let world = World::of(&["1:-1ppsu", "2:0ppsu", "5:0mmsu", "3:1ppsu", "6:1mmsu"]);
        let status = told(&[2, 5, 3].into_iter().fold(world.clone(), bare));
        assert_eq!((condition(&status, "Ready").0, condition(&status, "HealingBlocked")), ("True", ("True", "NoSupervisor")));
        let told_so = "3 of 4 segments are well and could not be repaired";
        assert_eq!(status.message, format!("all 2 contents are in sync; {told_so} (HealingBlocked)"));
        let blocked = &status.conditions.iter().find(|c| c.type_ == "HealingBlocked").unwrap().message;
        assert!(blocked.starts_with(told_so) && blocked.contains("gpheal supervise"), "{blocked}");
        assert_eq!(told(&world).message, "all 2 contents are in sync");
    }

    #[test]
    fn what_others_say_at_length_is_cut() {
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).instance(5, |one| {
            one.page = Look::Unknown(model::NoPage::NotBelieved("x".repeat(1 << 20)));
        });
        let status = told(&world);
        assert!(serde_json::to_string(&status).unwrap().len() < 32 * 1024);
    }
}
