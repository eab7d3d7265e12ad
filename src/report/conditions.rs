//! The conditions of a cluster: three that kstatus reads, seven for people and alerts.

use crate::{
    api::{GreenplumCluster, condition::Wanted},
    model::{Catalog, HealingMode, Look, Plan, Reason, Refusal, Unread, Unwell, World},
};

/// All ten, in the order in which they are shown.
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
        ["Degraded", "InSync", "Balanced", "DoubleFault"].map(|kind| Wanted::new(kind, None, reason, "the catalog can not be read")),
    );
    all
}

fn of_instances(catalog: &Catalog, plan: &Plan) -> Vec<Wanted> {
    let contents = catalog.contents();
    let pairs: Vec<_> = contents.iter().filter_map(|content| catalog.pair(*content).ok()).collect();
    let in_sync = pairs.iter().filter(|pair| pair.mirror.well()).count();
    let all_in_sync = in_sync == contents.len();
    let balanced = catalog.rows.iter().all(|row| row.role == row.preferred_role);
    let double = first(plan, |r| matches!(r, Refusal::DoubleFault { .. } | Refusal::FlippedDouble { .. }));
    let told = |found: Option<(&Unwell, &Refusal)>| found.map_or(String::new(), |(one, refusal)| sentence(one, refusal));
    let code = |found: Option<(&Unwell, &Refusal)>, none: &'static str| found.map_or(none, |(_, refusal)| refusal.code());
    vec![
        ready(catalog, plan, all_in_sync, in_sync),
        Wanted::new("CoordinatorReachable", Some(true), "Answers", ""),
        Wanted::new(
            "Degraded",
            Some(!all_in_sync),
            if all_in_sync { "FullRedundancy" } else { "MirrorsMissing" },
            lacking(in_sync, contents.len()),
        ),
        Wanted::new("InSync", Some(all_in_sync), if all_in_sync { "InSync" } else { "NotInSync" }, ""),
        Wanted::new("Balanced", Some(balanced), if balanced { "PreferredRoles" } else { "RolesSwapped" }, ""),
        Wanted::new("DoubleFault", Some(double.is_some()), code(double, "NoDoubleFault"), told(double)),
        healing_blocked(catalog, plan),
    ]
}

/// By what stands in the way of a repair, or would in the way of the next one.
fn healing_blocked(catalog: &Catalog, plan: &Plan) -> Wanted {
    if let Some((one, refusal)) = first(plan, blocks) {
        return Wanted::new("HealingBlocked", Some(true), refusal.code(), sentence(one, refusal));
    }
    let unfit = plan.unfit.iter().find_map(|one| one.reason.refusal().map(|refusal| (one, refusal)));
    let Some((one, refusal)) = unfit else { return Wanted::new("HealingBlocked", Some(false), "NotBlocked", "") };
    let (message, lifted_by) = super::words(refusal);
    let text = format!("{}; dbid {} (content {}): {message}; {lifted_by}", unfit_of(catalog, plan), one.dbid, one.content);
    Wanted::new("HealingBlocked", Some(true), refusal.code(), text)
}

/// How many are well and without a way back once they are not, before a cluster is put under supervisors all of them.
fn unfit_of(catalog: &Catalog, plan: &Plan) -> String {
    let segments = catalog.rows.iter().filter(|row| row.content.0 >= 0).count();
    format!("{} of {segments} segments are well and could not be repaired", plan.unfit.len())
}

fn lacking(in_sync: usize, contents: usize) -> String {
    if in_sync == contents { String::new() } else { format!("{} of {contents} contents have no mirror in sync", contents - in_sync) }
}

/// Ready is: every content is served and has its mirror in sync. The reason is the worst thing that is known.
fn ready(catalog: &Catalog, plan: &Plan, all_in_sync: bool, in_sync: usize) -> Wanted {
    let contents = catalog.contents().len();
    if plan.unwell.is_empty() && all_in_sync {
        let but = if plan.unfit.is_empty() { String::new() } else { format!("; {} (HealingBlocked)", unfit_of(catalog, plan)) };
        return Wanted::new("Ready", Some(true), "InSync", format!("all {contents} contents are in sync{but}"));
    }
    let worst = first(plan, blocks).or_else(|| first(plan, |_| true));
    let mut recovering = plan.unwell.iter().filter_map(|one| match &one.reason {
        Reason::Recovering { recovery, trouble } => Some((one, recovery, trouble.as_deref())),
        Reason::Planned { recovery, .. } => Some((one, recovery, None)),
        Reason::Refused(_) => None,
    });
    let any = recovering.clone().next();
    let recovering = recovering.find(|(.., trouble)| trouble.is_some()).or(any); // one that does not go well is told first
    match (first(plan, blocks), recovering, worst) {
        (None, Some((one, recovery, trouble)), _) => {
            let works = format!("SegmentRecovery {recovery} works on dbid {}{}", one.dbid, super::and(trouble));
            Wanted::new("Ready", Some(false), "Recovering", format!("{in_sync} of {contents} contents are in sync; {works}"))
        }
        (_, _, Some((one, refusal))) => Wanted::new("Ready", Some(false), refusal.code(), sentence(one, refusal)),
        (_, _, None) => Wanted::new("Ready", Some(false), "NotInSync", lacking(in_sync, contents)),
    }
}

fn sentence(one: &Unwell, refusal: &Refusal) -> String {
    let (message, lifted_by) = super::words(refusal);
    format!("dbid {} (content {}): {message}; {lifted_by}", one.dbid, one.content)
}

fn first(plan: &Plan, keep: impl Fn(&Refusal) -> bool) -> Option<(&Unwell, &Refusal)> {
    plan.unwell.iter().find_map(|one| Some((one, one.reason.refusal().filter(|refusal| keep(refusal))?)))
}

/// Something stands in the way of a repair; what only takes its time does not.
fn blocks(refusal: &Refusal) -> bool {
    refusal.needs_a_person()
        || !matches!(
            refusal,
            Refusal::WithinGrace { .. }
                | Refusal::CatchingUp
                | Refusal::AlreadyRecovering { .. }
                | Refusal::JobBudget { .. }
                | Refusal::SupervisorSays { .. }
                | Refusal::ActingPrimaryNotAnswering { .. }
        )
}

fn reconciling(world: &World, plan: &Plan) -> Wanted {
    let live = world.recoveries.iter().filter(|recovery| !recovery.phase.is_over()).count() + plan.new_recoveries.len();
    let ended = plan.recoveries.values().filter(|next| next.phase.is_over()).count();
    match live.saturating_sub(ended) {
        0 => Wanted::new("Reconciling", Some(false), "Idle", ""),
        live => Wanted::new("Reconciling", Some(true), "Recovering", format!("{live} recoveries are not over")),
    }
}

fn stalled(world: &World, plan: &Plan) -> Wanted {
    match (first(plan, Refusal::needs_a_person), world.catalog.unknown()) {
        (Some((one, refusal)), _) => Wanted::new("Stalled", Some(true), refusal.code(), sentence(one, refusal)),
        (None, Some(unread)) if unread.needs_a_person() => {
            Wanted::new("Stalled", Some(true), unread.name(), format!("{unread}; {}", unread.lifted_by()))
        }
        (None, Some(unread)) => Wanted::new("Stalled", None, unread.name(), ""),
        (None, None) => Wanted::new("Stalled", Some(false), "NotStalled", ""),
    }
}

fn paused(cluster: &GreenplumCluster) -> Wanted {
    let healing = &cluster.spec.healing;
    let observes = crate::api::convert::policy(healing).mode == HealingMode::Observe;
    match (healing.paused, observes) {
        (true, _) => Wanted::new("Paused", Some(true), "Paused", "spec.healing.paused is true; recoveries made by hand run all the same"),
        (false, true) => {
            Wanted::new("Paused", Some(true), "ObserveOnly", "spec.healing.mode is Observe; recoveries made by hand run all the same")
        }
        (false, false) => Wanted::new("Paused", Some(false), "Automatic", ""),
    }
}
