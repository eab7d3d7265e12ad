//! The conditions of a cluster: three that kstatus reads, nine for people and alerts.

use api::{GreenplumCluster, condition::Wanted};
use model::{Catalog, Content, Dbid, HealingMode, Look, Plan, Reason, Refusal, Role, Unread, Unwell, World};

/// All twelve, in the order in which they are shown.
pub fn wanted(cluster: &GreenplumCluster, world: &World, plan: &Plan) -> Vec<Wanted> {
    let mut all = match &world.catalog {
        Look::Seen(catalog) => of_instances(catalog, plan),
        Look::Unknown(unread) => unreachable(unread),
    };
    all.push(reconciling(world, plan));
    all.push(stalled(world, plan));
    all.push(paused(cluster));
    all
}

fn unreachable(unread: &Unread) -> Vec<Wanted> {
    let (reason, lifted_by) = (unread.name(), unread.lifted_by());
    let mut all = vec![
        Wanted::new("Ready", Some(false), reason, format!("{unread}; {lifted_by}")),
        Wanted::new("CoordinatorReachable", Some(false), reason, format!("{}; {lifted_by}", unread.why())),
        Wanted::new("HealingBlocked", Some(true), reason, lifted_by),
    ];
    all.extend(
        ["Degraded", "InSync", "Balanced", "DoubleFault", "MirrorsWatched", "JobsEquipped"]
            .map(|kind| Wanted::new(kind, None, reason, "the catalog cannot be read")),
    );
    all
}

fn of_instances(catalog: &Catalog, plan: &Plan) -> Vec<Wanted> {
    let contents = catalog.contents();
    let lacking: Vec<_> =
        contents.iter().copied().filter(|content| catalog.pair(*content).map_or(true, |pair| !pair.mirror.well())).collect();
    let in_sync = contents.len() - lacking.len();
    let all_in_sync = lacking.is_empty();
    let swapped = swapped(catalog);
    let balanced = swapped.is_empty();
    let double = first(plan, |r| matches!(r, Refusal::DoubleFault { .. } | Refusal::FlippedDouble { .. }));
    let told = |found: Option<(&Unwell, &Refusal)>, none: &str| found.map_or(none.to_owned(), |(one, refusal)| sentence(one, refusal));
    let code = |found: Option<(&Unwell, &Refusal)>, none: &'static str| found.map_or(none, |(_, refusal)| refusal.code());
    vec![
        ready(catalog, plan, &lacking, in_sync),
        Wanted::new("CoordinatorReachable", Some(true), "Answers", "the catalog was read"),
        Wanted::new(
            "Degraded",
            Some(!all_in_sync),
            if all_in_sync { "FullRedundancy" } else { "MirrorsMissing" },
            without_mirror(&lacking, contents.len()),
        ),
        Wanted::new(
            "InSync",
            Some(all_in_sync),
            if all_in_sync { "InSync" } else { "NotInSync" },
            without_mirror(&lacking, contents.len()),
        ),
        Wanted::new("Balanced", Some(balanced), if balanced { "PreferredRoles" } else { "RolesSwapped" }, balance(&swapped)),
        Wanted::new(
            "DoubleFault",
            Some(double.is_some()),
            code(double, "NoDoubleFault"),
            told(double, "every content has an acting primary that answers, or a mirror in sync"),
        ),
        mirrors_watched(catalog, plan),
        jobs_equipped(catalog, plan),
        healing_blocked(catalog, plan),
    ]
}

/// By what stands in the way of a repair, or would in the way of the next one.
fn healing_blocked(catalog: &Catalog, plan: &Plan) -> Wanted {
    if let Some((one, refusal)) = first(plan, |refusal| refusal.blocks() && !is_of_a_standby(refusal)) {
        return Wanted::new("HealingBlocked", Some(true), refusal.code(), sentence(one, refusal));
    }
    let Some((one, refusal)) = told_first(&plan.unfit) else { return not_blocked() };
    let (message, lifted_by) = super::words(refusal);
    let text = format!("{}; dbid {} (content {}): {message}; {lifted_by}", unfit_of(catalog, plan), one.dbid, one.content);
    Wanted::new("HealingBlocked", Some(true), refusal.code(), text)
}

/// It is nobody's to repair, and keeps no segment from being repaired.
const fn is_of_a_standby(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::StandbyCoordinatorDown { .. })
}

/// How many are well and without a way back once they are not, before a cluster is put under supervisors all of them.
fn unfit_of(catalog: &Catalog, plan: &Plan) -> String {
    let segments = catalog.rows.iter().filter(|row| row.content.0 >= 0).count();
    format!("{} of {segments} segments are well and could not be repaired", plan.unfit.len())
}

/// No alarm of its own: all may be well. But a mirror that hangs would look so, too.
fn mirrors_watched(catalog: &Catalog, plan: &Plan) -> Wanted {
    let (kind, contents) = ("MirrorsWatched", catalog.contents().len());
    match (told_first(&plan.unwatched), told_first(&plan.unheard)) {
        (Some((one, refusal)), _) => {
            let text = format!("{}; {}", unwatched_of(catalog, plan), sentence(one, refusal));
            Wanted::new(kind, Some(false), refusal.code(), text)
        }
        (None, Some((one, refusal))) => {
            let counted = format!("nothing is heard of {} of {contents} acting primaries", plan.unheard.len());
            Wanted::new(kind, None, refusal.code(), format!("{counted}; {}", sentence(one, refusal)))
        }
        (None, None) => Wanted::new(kind, Some(true), "Watched", "no acting primary says that it cannot tell whether its mirror hangs"),
    }
}

fn told_first(all: &[Unwell]) -> Option<(&Unwell, &Refusal)> {
    all.iter().find_map(|one| Some((one, one.reason.refusal()?)))
}

/// No alarm either: whether a Job gets by without it is seen on the day.
fn jobs_equipped(catalog: &Catalog, plan: &Plan) -> Wanted {
    match told_first(&plan.lacking) {
        None => Wanted::new("JobsEquipped", Some(true), "Equipped", "nothing is seen of a segment's pod that a Job at it would lack"),
        Some((one, refusal)) => {
            let segments = catalog.rows.iter().filter(|row| row.content.0 >= 0).count();
            let counted = format!("Jobs at {} of {segments} segments would lack something of their pods", plan.lacking.len());
            Wanted::new("JobsEquipped", Some(false), refusal.code(), format!("{counted}; {}", sentence(one, refusal)))
        }
    }
}

fn unwatched_of(catalog: &Catalog, plan: &Plan) -> String {
    format!("{} of {} acting primaries cannot tell whether their mirror hangs", plan.unwatched.len(), catalog.contents().len())
}

fn not_blocked() -> Wanted {
    Wanted::new("HealingBlocked", Some(false), "NotBlocked", "nothing stands in the way of a repair")
}

fn without_mirror(lacking: &[Content], contents: usize) -> String {
    match lacking {
        [] => format!("all {contents} contents have their mirror in sync"),
        some => format!("{} of {contents} contents have no mirror in sync: {}", some.len(), named(some.iter())),
    }
}

/// The acting primaries that should be mirrors, by content. Of the coordinator, no role but its own is preferred.
fn swapped(catalog: &Catalog) -> Vec<(Content, Dbid)> {
    let swapped = catalog.rows.iter().filter(|row| row.role != row.preferred_role);
    let mut swapped: Vec<_> = swapped.map(|row| (row.content, row.role != Role::Primary, row.dbid)).collect();
    swapped.sort_unstable(); // the acting primary first, where the catalog is sound
    swapped.dedup_by_key(|(content, ..)| *content);
    swapped.into_iter().map(|(content, _, dbid)| (content, dbid)).collect()
}

fn balance(swapped: &[(Content, Dbid)]) -> String {
    if swapped.is_empty() {
        return "every instance has its preferred role".into();
    }
    let words: Vec<_> = swapped.iter().map(|(content, dbid)| format!("{content} (dbid {dbid})")).collect();
    let plural = if swapped.len() == 1 { "content" } else { "contents" };
    format!("the roles of {} {plural} are swapped: {}; gprecoverseg -r gives them back", swapped.len(), named(words.iter()))
}

/// Contents that a message names, the rest by number.
const NAMED: usize = 20;

fn named<T: std::fmt::Display>(all: impl ExactSizeIterator<Item = T>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let words: Vec<_> = all.take(NAMED).map(|one| one.to_string()).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", words.join(", "))
}

/// Ready is: every content is served and has its mirror in sync, and nothing is amiss with the coordinators. The reason is the worst thing that is known.
fn ready(catalog: &Catalog, plan: &Plan, lacking: &[Content], in_sync: usize) -> Wanted {
    let contents = catalog.contents().len();
    if plan.unwell.is_empty() && lacking.is_empty() {
        let but = if plan.unfit.is_empty() { String::new() } else { format!("; {} (HealingBlocked)", unfit_of(catalog, plan)) };
        let unseen = if plan.unwatched.is_empty() { String::new() } else { format!("; {} (MirrorsWatched)", unwatched_of(catalog, plan)) };
        return Wanted::new("Ready", Some(true), "InSync", format!("all {contents} contents are in sync{but}{unseen}"));
    }
    let worst = first(plan, Refusal::blocks).or_else(|| first(plan, |_| true));
    let mut recovering = plan.unwell.iter().filter_map(|one| match &one.reason {
        Reason::Recovering { recovery, trouble } => Some((one, recovery, trouble.as_deref())),
        Reason::Planned { recovery, .. } => Some((one, recovery, None)),
        Reason::Refused(_) | Reason::Waits { .. } => None,
    });
    let any = recovering.clone().next();
    let recovering = recovering.find(|(.., trouble)| trouble.is_some()).or(any); // one that does not go well is told first
    match (first(plan, Refusal::blocks), recovering, worst) {
        (None, Some((one, recovery, trouble)), _) => {
            let works = format!("SegmentRecovery {recovery} works on dbid {}{}", one.dbid, super::and(trouble));
            Wanted::new("Ready", Some(false), "Recovering", format!("{in_sync} of {contents} contents are in sync; {works}"))
        }
        (_, _, Some((one, refusal))) => Wanted::new("Ready", Some(false), refusal.code(), sentence(one, refusal)),
        (_, _, None) => Wanted::new("Ready", Some(false), "NotInSync", without_mirror(lacking, contents)),
    }
}

fn sentence(one: &Unwell, refusal: &Refusal) -> String {
    let (message, lifted_by) = super::words(refusal);
    format!("dbid {} (content {}): {message}; {lifted_by}", one.dbid, one.content)
}

fn first(plan: &Plan, keep: impl Fn(&Refusal) -> bool) -> Option<(&Unwell, &Refusal)> {
    plan.unwell.iter().find_map(|one| Some((one, one.reason.refusal().filter(|refusal| keep(refusal))?)))
}

fn reconciling(world: &World, plan: &Plan) -> Wanted {
    let live = world.recoveries.iter().filter(|recovery| !recovery.phase.is_over()).count() + plan.new_recoveries.len();
    let ended = plan.recoveries.values().filter(|next| next.phase.is_over()).count();
    match live.saturating_sub(ended) {
        0 => Wanted::new("Reconciling", Some(false), "Idle", "no recovery is under way"),
        live => Wanted::new("Reconciling", Some(true), "Recovering", format!("{live} recoveries are not over")),
    }
}

fn stalled(world: &World, plan: &Plan) -> Wanted {
    match (first(plan, Refusal::needs_a_person), world.catalog.unknown()) {
        (Some((one, refusal)), _) => Wanted::new("Stalled", Some(true), refusal.code(), sentence(one, refusal)),
        (None, Some(unread)) if unread.needs_a_person() => {
            Wanted::new("Stalled", Some(true), unread.name(), format!("{unread}; {}", unread.lifted_by()))
        }
        (None, Some(unread)) => Wanted::new("Stalled", None, unread.name(), format!("{unread}; {}", unread.lifted_by())),
        (None, None) => Wanted::new("Stalled", Some(false), "NotStalled", "nothing waits for a person"),
    }
}

fn paused(cluster: &GreenplumCluster) -> Wanted {
    let healing = &cluster.spec.healing;
    let observes = api::convert::policy(healing).mode == HealingMode::Observe;
    match (healing.paused, observes) {
        (true, _) => Wanted::new("Paused", Some(true), "Paused", "spec.healing.paused is true; recoveries made by hand run all the same"),
        (false, true) => {
            Wanted::new("Paused", Some(true), "ObserveOnly", "spec.healing.mode is Observe; recoveries made by hand run all the same")
        }
        (false, false) => Wanted::new("Paused", Some(false), "Automatic", "what falls is repaired without being asked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::fixtures;
    use model::{
        InstanceState, Policy,
        world::fixtures::{asked, now},
    };
    use plan;

    fn all(world: &World, policy: &Policy) -> Vec<Wanted> {
        let mut cluster = fixtures::cluster();
        cluster.spec.healing.paused = policy.paused;
        wanted(&cluster, world, &plan::plan(policy, world, now()))
    }

    /// Worlds that make each condition true, false and unknown.
    fn worlds() -> Vec<World> {
        let well = || World::of(&["1:-1ppsu", "2:0ppsu", "5:0mmsu", "3:1ppsu", "6:1mmsu"]);
        let down = || World::of(&["1:-1ppsu", "2:0ppnu", "5:0mmnd", "3:1ppsu", "6:1mmsu"]);
        let mut unread: Vec<_> = Unread::examples().into_iter().map(|why| World { catalog: Look::Unknown(why), ..well() }).collect();
        unread.extend([
            well(),
            World::of(&["2:0mpsu", "5:0pmsu", "3:1ppsu", "6:1mmsu"]),
            World::of(&["2:0ppsu", "5:0mmsu", "3:1ppnu", "6:1mmnd"]).down_for(6, 5),
            World::of(&["2:0ppsu"]),
            World::of(&[]),
            down().page(5, |p| p.state = InstanceState::NeedsFull),
            down().recovery(asked("r", &[5], None)),
            down().page(5, |p| p.state = InstanceState::Retired),
            down().source(0, Look::Unknown("refused".into())),
            well().page(5, |p| p.cluster = "other".into()),
        ]);
        unread
    }

    /// "Balanced=False" and no word of what is swapped.
    #[test]
    fn every_condition_says_something_whatever_it_is() {
        let mut seen = std::collections::BTreeSet::new();
        for policy in [Policy::default(), Policy { paused: true, ..Policy::default() }] {
            for world in worlds() {
                for one in all(&world, &policy) {
                    assert!(!one.message.trim().is_empty(), "{}={:?} ({}) of {:?}", one.kind, one.holds, one.reason, world.catalog);
                    assert!(!one.reason.is_empty(), "{}", one.kind);
                    seen.insert((one.kind, one.holds));
                }
            }
        }
        for kind in ["Ready", "CoordinatorReachable", "Degraded", "InSync", "Balanced", "DoubleFault", "HealingBlocked"] {
            assert!(seen.contains(&(kind, Some(true))) && seen.contains(&(kind, Some(false))), "{kind} was not tried both ways");
        }
    }

    #[test]
    fn what_is_amiss_with_the_coordinators_is_told_and_a_standby_blocks_no_repair() {
        let of = |world: &World| {
            let all = all(world, &Policy::default());
            ["Ready", "Stalled", "HealingBlocked"]
                .map(|kind| all.iter().find(|one| one.kind == kind).map(|one| one.reason.clone()).unwrap())
        };
        let world = || World::of(&["1:-1ppsu", "8:-1mmsu", "2:0ppsu", "5:0mmsu"]);
        assert_eq!(of(&world()), ["InSync", "NotStalled", "NotBlocked"]);
        let standby = world().page(8, |page| (page.state, page.serves) = (InstanceState::NeedsRecovery, None));
        assert_eq!(of(&standby), ["StandbyCoordinatorDown", "StandbyCoordinatorDown", "NotBlocked"]);
        let overtaken = world().page(2, |page| page.coordinator_timeline = Some(model::Timeline(2)));
        assert_eq!(of(&overtaken), ["CoordinatorMayBeOvertaken"; 3]);
    }

    /// With the documented least right nothing was watched, and nobody was told.
    #[test]
    fn a_primary_that_cannot_tell_whether_its_mirror_hangs_is_told_and_hides_nothing() {
        let of = |world: &World, kind| all(world, &Policy::default()).into_iter().find(|one| one.kind == kind).unwrap();
        let well = World::of(&["2:0ppsu", "5:0mmsu", "3:1ppsu", "6:1mmsu"]);
        let watched = of(&well, "MirrorsWatched");
        assert_eq!((watched.holds, watched.reason.as_str()), (Some(true), "Watched"));
        let blind = |world: World| world.page(2, |p| p.mirror_unwatched = Some("this login sees nothing".into()));
        let told = of(&blind(well.clone()), "MirrorsWatched");
        assert_eq!((told.holds, told.reason.as_str()), (Some(false), "MirrorUnwatched"));
        let counted = "1 of 2 acting primaries cannot tell whether their mirror hangs";
        assert!(told.message.starts_with(&format!("{counted}; dbid 2 (content 0): ")) && told.message.contains("this login sees nothing"));
        let ready = of(&blind(well), "Ready");
        assert_eq!((ready.holds, ready.message), (Some(true), format!("all 2 contents are in sync; {counted} (MirrorsWatched)")));
        let down = blind(World::of(&["2:0ppnu", "5:0mmnd", "3:1ppsu", "6:1mmsu"]).page(5, |p| p.state = InstanceState::Retired));
        assert_eq!(of(&down, "HealingBlocked").reason, "SupervisorSays");
        assert_eq!(of(&down, "Ready").reason, "SupervisorSays");
    }

    /// A policy of the network closed the port of all pages: a cluster that nobody could heal was well, and watched, for weeks.
    #[test]
    fn supervisors_from_whom_nothing_is_heard_are_missed_although_all_is_well() {
        let of = |world: &World, kind| all(world, &Policy::default()).into_iter().find(|one| one.kind == kind).unwrap();
        let silent = |dbid: i16, seconds| {
            let world = World::of(&["2:0ppsu", "5:0mmsu", "3:1ppsu", "6:1mmsu"]).silent(dbid);
            world.instance(dbid, move |one| one.silent = Some(jiff::SignedDuration::from_secs(seconds)))
        };
        for dbid in [2, 5] {
            let restarts = silent(dbid, 179);
            assert_eq!((of(&restarts, "HealingBlocked").holds, of(&restarts, "MirrorsWatched").holds), (Some(false), Some(true)));
            let missed = silent(dbid, 180);
            let blocked = of(&missed, "HealingBlocked");
            assert_eq!((blocked.holds, blocked.reason.as_str()), (Some(true), "SupervisorSilent"));
            assert!(blocked.message.contains(&format!("dbid {dbid}")), "{}", blocked.message);
            assert!(of(&missed, "Ready").message.contains("(HealingBlocked)") && of(&missed, "Ready").holds == Some(true));
            let watched = of(&missed, "MirrorsWatched");
            let expected = if dbid == 2 { (None, "SupervisorSilent") } else { (Some(true), "Watched") };
            assert_eq!((watched.holds, watched.reason.as_str()), expected);
        }
        let told = of(&silent(2, 999), "MirrorsWatched").message;
        assert!(told.starts_with("nothing is heard of 1 of 2 acting primaries; dbid 2 (content 0): "), "{told}");
    }

    /// A repair may do without: it is told, and is no reason to call the cluster anything else.
    #[test]
    fn what_a_job_would_lack_is_told_before_one_is_made() {
        let of = |world: &World, kind| all(world, &Policy::default()).into_iter().find(|one| one.kind == kind).unwrap();
        let well = World::of(&["2:0ppsu", "5:0mmsu", "3:1ppsu", "6:1mmsu"]);
        assert_eq!(of(&well, "JobsEquipped").holds, Some(true));
        let lacks = well.instance(5, |one| one.job_lacks = Some("the proxy of a service mesh (istio-proxy)".into()));
        let told = of(&lacks, "JobsEquipped");
        assert_eq!((told.holds, told.reason.as_str()), (Some(false), "JobLacks"));
        assert!(told.message.starts_with("Jobs at 1 of 4 segments would lack something of their pods; dbid 5 (content 0): "), "{told:?}");
        assert_eq!((of(&lacks, "Ready").holds, of(&lacks, "HealingBlocked").holds), (Some(true), Some(false)));
    }

    /// Its log lies elsewhere: whatever an incremental repair does not mend stays as it is.
    #[test]
    fn a_directory_that_no_copy_could_replace_is_not_called_repairable() {
        let of = |world: &World, kind| all(world, &Policy::default()).into_iter().find(|one| one.kind == kind).unwrap();
        let linked = World::of(&["2:0ppsu", "5:0mmsu"]).page(5, |p| p.uncopied = Some("its log is linked to another place (/log)".into()));
        let blocked = of(&linked, "HealingBlocked");
        assert_eq!((blocked.holds, blocked.reason.as_str()), (Some(true), "NotToBeCopied"));
        assert!(blocked.message.contains("/log"), "{}", blocked.message);
        assert!(of(&linked, "Ready").message.contains("(HealingBlocked)"));
    }

    #[test]
    fn what_is_swapped_and_what_has_no_mirror_is_named_by_content() {
        let of = |world: &World, kind| all(world, &Policy::default()).into_iter().find(|one| one.kind == kind).unwrap().message;
        let world = World::of(&["2:0mpsu", "5:0pmsu", "3:1ppnu", "6:1mmnd", "4:2mpnd", "7:2pmnu"]);
        assert_eq!(of(&world, "Balanced"), "the roles of 2 contents are swapped: 0 (dbid 5), 2 (dbid 7); gprecoverseg -r gives them back");
        for kind in ["InSync", "Degraded"] {
            assert_eq!(of(&world, kind), "2 of 3 contents have no mirror in sync: 1, 2");
        }
        assert_eq!(named(0..22), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 2 more");
    }
}
