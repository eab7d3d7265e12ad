//! Properties that hold for every world that can be thought up: what docs/never.md says of the planner.

use proptest::prelude::*;

use super::*;
use model::{
    Catalog, CatalogIndex, Content, Dbid, HealingMode, InstanceState, JobState, Look, Mode, NoPage, Reason, Refusal, Repair, Role, Row,
    Status, SystemIdentifier,
    page::Shape,
    world::{
        Recovery, Targets,
        fixtures::{ago, asked, now, running},
    },
};

/// What a supervisor says in these states keeps every repair away.
const NEVER_REPAIRED: [InstanceState; 13] = [
    InstanceState::Deciding,
    InstanceState::Unkillable,
    InstanceState::PrimaryDataMissing,
    InstanceState::VolumeUnrecognised,
    InstanceState::NotInCatalog,
    InstanceState::Retired,
    InstanceState::Maintenance,
    InstanceState::WaitingForSegments,
    InstanceState::LockBusy,
    InstanceState::HeldElsewhere,
    InstanceState::Replaced,
    InstanceState::PutBack,
    InstanceState::CatalogOutdated,
];

/// All 32 combinations of letters for both rows of a content, legal or not.
fn rows(content: i16, a: i16, b: i16) -> impl Strategy<Value = [String; 2]> {
    let letters = prop::sample::select(vec![
        "ppsu mmsu",
        "ppnu mmnu",
        "ppnu mmnd",
        "mpnd pmnu",
        "mpsu pmsu",
        "mpnu pmnu",
        "ppsu pmsu",
        "ppnd mmnu",
        "mpnd mmnd",
        "ppsu mmsd",
    ]);
    letters.prop_map(move |letters| {
        let (x, y) = letters.split_once(' ').unwrap();
        [format!("{a}:{content}{x}"), format!("{b}:{content}{y}")]
    })
}

#[derive(Clone, Debug)]
struct Twist {
    page: Option<InstanceState>,
    copy: bool,
    receiving: bool,
    since: i64,
    source: u8,
    recovery: u8,
}

fn twist() -> impl Strategy<Value = Twist> {
    (prop::option::of(prop::sample::select(InstanceState::examples())), any::<bool>(), any::<bool>(), 0..4000_i64, 0..5_u8, 0..9_u8)
        .prop_map(|(page, copy, receiving, since, source, recovery)| Twist { page, copy, receiving, since, source, recovery })
}

fn bend(world: World, content: i16, target: i16, twist: &Twist) -> World {
    let world = world.instance(target, |i| {
        i.unwell_since = Some(ago(twist.since));
        if twist.page.is_none() {
            i.page = Look::Unknown(NoPage::Silent("no answer".into()));
        }
    });
    let world = world.page(target, |p| {
        p.state = twist.page.unwrap_or(p.state);
        (p.copy, p.receiving) = (twist.copy, twist.receiving);
        p.shape = if twist.copy { Shape::Unusable } else { p.shape };
    });
    let world = match twist.source {
        0 => world.source(content, Look::Unknown("refused".into())),
        1 if world.sources.contains_key(&Content(content)) => world.source_with(content, |s| s.in_recovery = true),
        2 if world.sources.contains_key(&Content(content)) => {
            world.source_with(content, |s| s.system_identifier = Some(SystemIdentifier(8)))
        }
        _ => world,
    };
    let name = format!("r{target}");
    match twist.recovery {
        0 => world.recovery(asked(&name, &[target], Some(Repair::Full))),
        4 => world.recovery(Recovery { automatic: true, ..asked(&name, &[target], None) }),
        5 => world
            .recovery(Recovery { automatic: true, ..running(&name, target, content, Repair::Incremental, JobState::Lost("gone".into())) }),
        6 => {
            let mut rests = running(&name, target, content, Repair::Full, JobState::Active);
            let state = rests.instances.get_mut(&Dbid(target)).expect("its instance");
            (state.job, state.attempt_ended) = (None, Some(ago(600)));
            world.recovery(Recovery { automatic: true, ..rests }).recovery(asked(&format!("by-hand-{target}"), &[target], None))
        }
        1 => world.recovery(running(&name, target, content, Repair::Incremental, JobState::Active)),
        2 => world.recovery(running(&name, target, content, Repair::Full, JobState::Lost("gone".into()))),
        3 => {
            let mut stuck = running(&name, target, content, Repair::Full, JobState::Active);
            let job = stuck.instances.get_mut(&Dbid(target)).and_then(|one| one.job.as_mut()).expect("a Job");
            (job.stuck, job.begun) = (Some("its node is lost".into()), twist.copy);
            job.refused = twist.receiving.then(|| "exceeded quota".into());
            world.recovery(stuck)
        }
        _ => world,
    }
}

fn worlds() -> impl Strategy<Value = World> {
    (rows(0, 2, 5), rows(1, 3, 6), rows(2, 4, 7), prop::array::uniform3(twist())).prop_map(|(a, b, c, twists)| {
        let all: Vec<&str> = a.iter().chain(&b).chain(&c).map(String::as_str).chain(["1:-1ppsu"]).collect();
        let mirror = |rows: &[String; 2]| {
            let down = rows.iter().find(|r| r.ends_with('d')).unwrap_or(&rows[1]);
            down.split(':').next().unwrap().parse::<i16>().unwrap()
        };
        let world = World::of(&all);
        [(0, mirror(&a)), (1, mirror(&b)), (2, mirror(&c))].iter().zip(&twists).fold(world, |w, ((c, t), twist)| bend(w, *c, *t, twist))
    })
}

/// Any row that the columns can hold, and some that they cannot.
fn any_row() -> impl Strategy<Value = Row> {
    let small = || prop::sample::select(vec![-32768_i16, -1, 0, 1, 2, 3, 4, 32767]);
    let texts = || prop::sample::select(vec!["", "seg-2.gp", "seg-3.gp", "gp", "/data/gpseg", "/"]);
    let letters = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (small(), -2..3_i16, letters, prop::sample::select(vec![0_u16, 6000, 65535]), texts(), texts()).prop_map(
        |(dbid, content, (primary, preferred, in_sync, up), port, address, datadir)| Row {
            dbid: Dbid(dbid),
            content: Content(content),
            role: if primary { Role::Primary } else { Role::Mirror },
            preferred_role: if preferred { Role::Primary } else { Role::Mirror },
            mode: if in_sync { Mode::InSync } else { Mode::NotInSync },
            status: if up { Status::Up } else { Status::Down },
            port,
            hostname: address.into(),
            address: address.into(),
            datadir: datadir.into(),
        },
    )
}

/// A world that was looked at by such a catalog, with recoveries for whatever it names.
fn any_world() -> impl Strategy<Value = World> {
    (prop::collection::vec(any_row(), 0..9), any::<bool>(), any::<bool>()).prop_map(|(rows, full, all_down)| {
        let mut world = World::of_rows(rows);
        let wanted = full.then_some(Repair::Full);
        for dbid in [-32768, -1, 0, 1, 2, 3, 32767] {
            world = world.recovery(asked(&format!("r{dbid}"), &[dbid], wanted));
        }
        let targets = if all_down { Targets::AllDown } else { Targets::Contents((-2..4).map(Content).collect()) };
        world.recovery(Recovery { targets, ..asked("several", &[], wanted) })
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(paused, observe, full)| Policy {
        paused,
        mode: if observe { HealingMode::Observe } else { HealingMode::Automatic },
        full_allowed: full,
        ..Policy::default()
    })
}

fn jobs(plan: &Plan) -> Vec<model::Attempt> {
    plan.recoveries.values().flat_map(|r| r.instances.values()).filter_map(|i| i.create_job.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A Job's target is a mirror marked down of a legal pair whose acting primary answers read-write as itself.
    #[test]
    fn a_job_only_ever_writes_over_a_down_mirror_with_a_live_source(world in worlds(), policy in policies()) {
        for job in jobs(&plan(&policy, &world, now())) {
            let catalog = world.catalog.seen().unwrap();
            let pair = catalog.pair(job.content).expect("a legal pair");
            prop_assert!(job.content.0 >= 0);
            prop_assert_eq!((pair.mirror.dbid, pair.mirror.role, pair.mirror.status), (job.target.dbid, Role::Mirror, Status::Down));
            prop_assert_eq!(pair.primary.dbid, job.source.dbid);
            let source = world.sources[&job.content].seen().expect("a source that answers");
            prop_assert!(!source.in_recovery);
            let page = world.instances[&job.target.dbid].page.seen().expect("a supervisor that answers");
            prop_assert_eq!(page.system_identifier, source.system_identifier);
            prop_assert!(!NEVER_REPAIRED.contains(&page.state), "{:?}", page.state);
            prop_assert!(page.untrusted_lock.is_none());
        }
    }

    /// One recovery per content, and no more Jobs than allowed.
    #[test]
    fn one_recovery_per_content_and_a_bounded_number_of_jobs(world in worlds(), policy in policies()) {
        let plan = plan(&policy, &world, now());
        let running = world.recoveries.iter().flat_map(|r| r.instances.values()).filter(|i| i.job.as_ref().is_some_and(|j| j.state == JobState::Active && j.stuck.is_none() && j.refused.is_none())).count();
        prop_assert!(jobs(&plan).is_empty() || jobs(&plan).len() + running <= policy.max_jobs);
        for content in world.catalog.seen().unwrap().contents() {
            let begun = jobs(&plan).iter().filter(|job| job.content == content).count();
            let made = plan.new_recoveries.iter().filter(|new| new.content == content).count();
            prop_assert!(begun <= 1 && made <= 1);
        }
    }

    /// Full only by policy or a person; never incremental over a copy that was cut off.
    #[test]
    fn full_only_when_allowed_and_never_incremental_over_a_broken_copy(world in worlds(), policy in policies()) {
        for job in jobs(&plan(&policy, &world, now())) {
            let recovery = world.recoveries.iter().find(|r| r.name == job.recovery).unwrap();
            let earlier_full = recovery.instances.get(&job.target.dbid).is_some_and(|i| i.repair == Some(Repair::Full));
            prop_assert!(job.repair != Repair::Full || policy.full_allowed || recovery.wanted == Some(Repair::Full) || earlier_full);
            prop_assert!(job.repair == Repair::Full || !world.instances[&job.target.dbid].page.seen().unwrap().copy);
        }
    }

    /// A healer that stands still says why: every row that is not well is named, with a reason that can be read.
    #[test]
    fn every_row_that_is_not_well_is_accounted_for(world in worlds(), policy in policies()) {
        let plan = plan(&policy, &world, now());
        for row in world.catalog.seen().unwrap().rows.iter().filter(|row| row.content.0 >= 0 && row.role == Role::Mirror && !row.well()) {
            let named: Vec<_> = plan.unwell.iter().filter(|u| u.dbid == row.dbid).collect();
            prop_assert_eq!(named.len(), 1, "{}", row);
            if let Reason::Refused(refusal) = &named[0].reason {
                prop_assert!(!refusal.to_string().is_empty() && !refusal.lifted_by().is_empty());
            }
        }
    }

    /// No catalog makes the planner panic, and each content whose rows cannot be is named with them and left alone.
    #[test]
    fn no_catalog_is_too_strange_to_be_left_alone(world in any_world(), policy in policies()) {
        let catalog = world.catalog.seen().unwrap();
        let plan = plan(&policy, &world, now());
        let _ = (catalog.coordinator(), plan.stands_still(&world), world.restless());
        for content in catalog.contents() {
            let rows: Vec<&Row> = catalog.rows.iter().filter(|row| row.content == content).collect();
            if let Err(why) = catalog.pair(content) {
                prop_assert!(rows.iter().any(|row| why.contains(&row.to_string())), "{}", why);
                prop_assert!(jobs(&plan).iter().all(|job| job.content != content));
                prop_assert!(plan.new_recoveries.iter().all(|new| new.content != content));
                let named = |row: &Row| plan.unwell.iter().any(|one| {
                    (one.dbid, one.content) == (row.dbid, content) && matches!(one.reason, Reason::Refused(Refusal::CatalogInvalid { .. }))
                });
                prop_assert!(rows.into_iter().all(named));
            }
        }
        for job in jobs(&plan) {
            prop_assert_ne!((&job.source.address, job.source.port), (&job.target.address, job.target.port), "it would copy over its source");
        }
    }

    /// Paused and Observe make nothing by themselves, and begin nothing that was made before.
    #[test]
    fn nothing_is_made_or_begun_while_paused_or_observing(world in worlds(), policy in policies()) {
        let plan = plan(&policy, &world, now());
        let acts = !policy.paused && policy.mode == HealingMode::Automatic;
        prop_assert!(plan.new_recoveries.is_empty() || acts);
        let automatic = |job: &model::Attempt| world.recoveries.iter().any(|r| r.name == job.recovery && r.automatic);
        prop_assert!(acts || !jobs(&plan).iter().any(automatic));
    }

    /// The same world gives the same plan.
    #[test]
    fn planning_twice_gives_the_same(world in worlds(), policy in policies()) {
        prop_assert_eq!(plan(&policy, &world, now()), plan(&policy, &world, now()));
    }
}

/// What the index is held against: as one would write it who has ten rows.
mod plain {
    use super::*;

    pub fn is_pair(catalog: &Catalog, content: Content) -> bool {
        let rows: Vec<&Row> = catalog.rows.iter().filter(|row| row.content == content).collect();
        let [a, b] = rows[..] else { return false };
        let (primary, mirror) = if a.role == Role::Primary { (a, b) } else { (b, a) };
        let alone = |row: &Row| {
            let named = row.dbid.0 > 0 && row.port != 0 && !row.address.is_empty() && row.datadir.starts_with('/');
            let clashes = |other: &&Row| {
                other.dbid == row.dbid || (other.address == row.address && (other.port == row.port || other.datadir == row.datadir))
            };
            named && catalog.rows.iter().filter(clashes).count() == 1
        };
        (primary.role, mirror.role) == (Role::Primary, Role::Mirror)
            && alone(primary)
            && alone(mirror)
            && primary.preferred_role != mirror.preferred_role
            && primary.status == Status::Up
            && primary.mode == mirror.mode
            && !(mirror.status == Status::Down && mirror.mode == Mode::InSync)
    }

    /// Who works on an instance: the first live recovery whose next state of it is not over, and does not rest where another works.
    pub fn works_on<'a>(world: &'a World, plan: &Plan, dbid: Dbid) -> Option<&'a str> {
        let live = world.recoveries.iter().filter(|r| !r.phase.is_over());
        let next = |r: &Recovery| plan.recoveries.get(&r.name).and_then(|next| next.instances.get(&dbid));
        let working: Vec<_> = live.filter(|r| next(r).is_some_and(|next| !next.state.phase.is_over())).collect();
        let rests = |r: &Recovery| {
            let begun = next(r).is_some_and(|one| one.create_job.is_some() || one.state.job.is_some() || one.state.proving_since.is_some());
            r.automatic && !r.deleting && !begun
        };
        working.iter().find(|r| !rests(r)).or(working.first()).map(|r| r.name.as_str())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_says_of_every_catalog_what_a_plain_look_at_it_says(rows in prop::collection::vec(any_row(), 0..40)) {
        let catalog = Catalog { rows };
        let index = CatalogIndex::of(&catalog);
        prop_assert_eq!(index.pairs().iter().map(|(content, _)| *content).collect::<Vec<_>>(), catalog.contents());
        for content in catalog.contents() {
            prop_assert_eq!(index.pair(content), Some(&catalog.pair(content)));
            prop_assert_eq!(catalog.pair(content).is_ok(), plain::is_pair(&catalog, content));
        }
        prop_assert_eq!(index.pair(Content(7)), None);
        for row in &catalog.rows {
            prop_assert_eq!(index.row(row.dbid), catalog.row(row.dbid));
        }
    }

    #[test]
    fn the_desk_says_of_every_world_what_a_plain_look_at_it_says(world in worlds(), policy in policies()) {
        let plan = plan(&policy, &world, now());
        for row in world.catalog.seen().unwrap().rows.iter().filter(|row| row.content.0 >= 0 && row.role == Role::Mirror) {
            let told = plan.unwell.iter().find(|one| one.dbid == row.dbid).map(|one| &one.reason);
            match (told, plain::works_on(&world, &plan, row.dbid)) {
                (Some(Reason::Recovering { recovery, .. } | Reason::Waits { recovery, .. }), by) => prop_assert_eq!(Some(recovery.as_str()), by),
                (Some(Reason::Refused(Refusal::CatalogInvalid { .. })), _) => {}
                (told, by) => prop_assert!(by.is_none(), "{:?} {:?}", told, by),
            }
            let twice = plan.unwell.iter().chain(&plan.unfit).filter(|one| one.dbid == row.dbid).count();
            prop_assert!(twice <= 1, "both unwell and unfit");
        }
    }

    /// A Job is ended only where no half copy can be left, and never one that goes on.
    #[test]
    fn a_job_is_ended_only_when_it_is_stuck_and_has_not_begun(world in worlds(), policy in policies()) {
        for (name, next) in plan(&policy, &world, now()).recoveries {
            for (dbid, one) in next.instances.into_iter().filter(|(_, one)| one.end_job.is_some()) {
                let recovery = world.recoveries.iter().find(|recovery| recovery.name == name).unwrap();
                let job = recovery.instances[&dbid].job.as_ref().unwrap();
                prop_assert!(job.stuck.is_some() && (!job.begun || job.node_gone) && one.create_job.is_none());
            }
        }
    }
}

#[test]
fn the_states_that_are_never_repaired_are_these() {
    for state in InstanceState::examples() {
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |p| p.state = state).recovery(asked("r", &[5], Some(Repair::Full)));
        let made = !jobs(&plan(&Policy::default(), &world, now())).is_empty();
        assert_eq!(made, !NEVER_REPAIRED.contains(&state), "{state:?}");
    }
}

#[test]
fn a_dbid_is_never_both_repaired_and_left_alone() {
    let world = World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |p| p.state = InstanceState::NeedsFull);
    let plan = plan(&Policy::default(), &world, now());
    assert_eq!(plan.new_recoveries.len(), 1);
    assert_eq!(plan.unwell.iter().filter(|u| u.dbid == Dbid(5)).count(), 1);
}
