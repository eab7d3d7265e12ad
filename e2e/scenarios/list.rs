//! Every scenario by name.

use anyhow::Result;
use futures::future::LocalBoxFuture;

use super::{
    Stage, asked, bad, cold, contract, copies, crashes, doubles, hands, installs, jobs, leaders, neighbours, passwords, person, policy,
    rights, tablespaces, tls, volumes,
};

/// One way to hurt a cluster.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// What is done and what must be seen, in a line.
    pub what: &'static str,
    pub run: for<'a> fn(&'a mut Stage) -> LocalBoxFuture<'a, Result<()>>,
}

macro_rules! scenarios {
    ($($name:literal, $function:path, $what:literal;)*) => {
        vec![$(Scenario { name: $name, what: $what, run: |stage| Box::pin($function(stage)) }),*]
    };
}

/// All scenarios, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    scenarios![
        "contract", contract::contract, "supervise --check in every pod: passes; told by its code when something is made wrong";
        "crash-in-place", crashes::crash_in_place, "postmaster of a primary killed: serves again without failover";
        "mirror-crash", crashes::mirror_crash, "postmaster of a mirror killed: back by itself";
        "primary-lost", crashes::primary_lost, "primary kept down until its mirror is promoted: never opens, incremental, roles swapped";
        "sleeper", crashes::sleeper, "primary stopped (SIGSTOP) until failover, then woken: fenced, incremental";
        "mirror-emptied", copies::mirror_emptied, "mirror's directory removed: full copy beside, healed";
        "mirror-corrupt", copies::mirror_corrupt, "mirror's control file overwritten: full, the old directory stays until the proof";
        "tablespace", tablespaces::tablespace, "mirror's directory removed beside its tablespace: both copied beside, healed, the rows served";
        "two-at-once", copies::two_at_once, "mirrors of two contents lost: healed side by side";
        "not-mounted", volumes::not_mounted, "mirror's volume replaced by an empty one: VolumeUnrecognised, nothing touched";
        "ahead", volumes::ahead, "primary's volume replaced by an older copy: TargetAheadOfSource, nothing overwritten";
        "unadopted", volumes::unadopted, "a primary without a token is replaced, as while a cluster is attached: adopted, incremental";
        "break-glass", hands::break_glass, "maintenance and retired: gpheal keeps away, a person copies by hand, all is well again";
        "by-hand", asked::by_hand, "recoveries for a healthy mirror and an acting primary refused, for a down mirror while paused healed";
        "observe-only", policy::observe_only, "mode Observe: the plan in status, no act";
        "paused", policy::paused, "healing paused: the reason in status, no act";
        "maintenance", person::maintenance, "a person works on a mirror: started without being asked about, never repaired, until the annotation ends";
        "held-elsewhere", person::held_elsewhere, "a volume whose last holder was on another node: nothing starts until a person says that the node is gone";
        "job-killed", jobs::job_killed, "Job pod deleted at each step: truthful marks each time, healed by the next attempt";
        "operator-killed", jobs::operator_killed, "operator killed in the middle of a copy: the same Job adopted, one Job in all";
        "leader-killed", leaders::leader_killed, "two operators, the leading one's pod killed at four steps of a repair: one recovery, one Job, one attempt";
        "leader-asleep", leaders::leader_asleep, "leading operator stopped (SIGSTOP) until the other leads, then woken in the middle of its work: it gives up, nothing is done twice";
        "leader-leaves", leaders::leader_leaves, "leading operator told to end: its lease is given up at once";
        "uninstalled", leaders::uninstalled, "operator taken away in the middle of a copy: it ends, segments go on; put back, it goes on";
        "upgraded", leaders::upgraded, "operators replaced in the middle of a copy: one recovery, one Job, one attempt, no pod of the cluster restarted";
        "cancelled", jobs::cancelled, "recovery deleted in the middle of its copy: the Job ends with truthful marks";
        "rights", rights::rights, "a fresh operator heals with the chart's rights: each is used, none is missing, and what it must not do is forbidden";
        "samples", installs::samples, "everything below config/ is accepted; the patch makes a plain StatefulSet one that gpheal supervises";
        "kustomize", installs::kustomize, "chart uninstalled, installed by kustomize for one namespace: heals, with no right elsewhere";
        "hung-neighbour", neighbours::hung_neighbour, "another cluster's coordinator never answers: this one heals all the same";
        "bad-input", bad::bad_input, "everything that can be wrong side by side: rejected or told what to do, nothing touched, no hot loop";
        "double-fault", doubles::double_fault, "mirror down, then the primary: nothing touched, heals when the primary returns";
        "flipped-double", doubles::flipped_double, "both killed at once in sync: the reason names it, heals when FTS can promote";
        "tls-rotated", tls::rotated, "authorities and certificates replaced, the old authority dropped: nobody restarted, a mirror heals afterwards";
        "password-rotated", passwords::rotated, "the superuser's password replaced: nobody restarted, every WAL receiver connects with the new one";
        "cold-start", cold::cold_start, "all pods gone at once, coordinator back last, then first: no role flipped, no recovery";
    ]
}
