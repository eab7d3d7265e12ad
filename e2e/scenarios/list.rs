//! Every scenario by name.

use anyhow::Result;
use futures::future::LocalBoxFuture;

use super::{
    Stage, ahead, asked, bad, cold, contract, coordinators, copies, crashes, doubles, flapping, frozen, hands, installs, jobs, leaders,
    neighbours, network, passwords, person, policy, rights, squatters, surroundings, tablespaces, tls, volumes,
};

/// With what a scenario, or a check of the conformance suite, runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// With every change: `make test`, which has to be over in forty minutes.
    Sample,
    /// When all are asked for: `make e2e-all`.
    All,
}

/// One way to hurt a cluster.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// What is done and what must be seen, in a line.
    pub what: &'static str,
    /// Whether it runs with every change.
    pub when: When,
    pub run: for<'a> fn(&'a mut Stage) -> LocalBoxFuture<'a, Result<()>>,
}

macro_rules! scenarios {
    ($($name:literal, $function:path, $when:ident, $what:literal;)*) => {
        vec![$(Scenario { name: $name, what: $what, when: When::$when, run: |stage| Box::pin($function(stage)) }),*]
    };
}

/// All scenarios, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    scenarios![
        "contract", contract::contract, Sample, "supervise --check in every pod: passes; told by its code when something is made wrong";
        "crash-in-place", crashes::crash_in_place, Sample, "postmaster of a primary killed: serves again without failover";
        "mirror-crash", crashes::mirror_crash, Sample, "postmaster of a mirror killed: back by itself";
        "primary-lost", crashes::primary_lost, Sample, "primary kept down until its mirror is promoted: never opens, incremental, roles swapped";
        "sleeper", crashes::sleeper, Sample, "primary stopped (SIGSTOP) until failover, then woken: fenced, incremental";
        "mirror-emptied", copies::mirror_emptied, Sample, "mirror's directory removed: full copy beside, healed";
        "mirror-corrupt", copies::mirror_corrupt, Sample, "mirror's control file overwritten: full, the old directory stays until the proof";
        "damage-in-redo", flapping::damage_in_redo, Sample, "a folder of the mirror that every start needs removed: it dies of its own files, full copy within minutes";
        "settings-broken", flapping::settings_broken, All, "a setting of the mirror that no server takes: told, no repair is begun for it, well once it is mended";
        "flapping", flapping::flapping, All, "checkpointer of a mirror aborted again and again, in three rounds: the third repair is not begun by itself, a person's is";
        "crash-looping", flapping::crash_looping, All, "checkpointer of a mirror aborted each time that it streams: up and in sync for FTS, told of all the same";
        "mode-open", surroundings::mode_open, All, "data directories opened by a kubelet's fsGroup: a mirror closes its own and is back, a lost primary is rewound";
        "socket-lock", surroundings::socket_lock, All, "stale locks of a mirror's socket, empty and with a stranger's number: back by itself";
        "settings-in-gbk", surroundings::settings_in_gbk, All, "settings that are no UTF-8: the pod comes back, a full copy carries them along";
        "settings-outside", surroundings::settings_outside, All, "settings that an init container writes: crash recovery in the Job of a lost primary reads them, incremental";
        "cordoned", surroundings::cordoned, All, "the mirror's node is cordoned: its Job runs there all the same, healed";
        "mesh", network::mesh, All, "everybody reaches the primary from one address, as through a mesh: told, and proven by both sides' positions";
        "mirror-cut-off", network::mirror_cut_off, All, "the mirror's pod without network, its node lost: told while the row is up, commits go on when FTS' grace is over";
        "role-with-bounds", network::role_with_bounds, All, "statement_timeout, lock_timeout and search_path set for the role of Jobs: incremental all the same";
        "replication-refused", network::replication_refused, All, "pg_hba.conf lets nobody replicate: LoginRefused at the first attempt, healed when it does again";
        "tablespace", tablespaces::tablespace, All, "mirror's directory removed beside its tablespace: both copied beside, healed, the rows served";
        "two-at-once", copies::two_at_once, Sample, "mirrors of two contents lost: healed side by side";
        "not-mounted", volumes::not_mounted, All, "mirror's volume replaced by an empty one: VolumeUnrecognised, nothing touched";
        "ahead", ahead::ahead, All, "primary on an older copy of its volume, far beyond its mirror by now: HistoryDiffers three ways, nothing overwritten";
        "unadopted", volumes::unadopted, All, "a primary without a token is replaced, as while a cluster is attached: adopted, incremental";
        "break-glass", hands::break_glass, All, "maintenance and retired: gpheal keeps away, a person copies by hand, all is well again";
        "by-hand", asked::by_hand, All, "recoveries for a healthy mirror and an acting primary refused, for a down mirror while paused healed";
        "observe-only", policy::observe_only, All, "mode Observe: the plan in status, no act";
        "paused", policy::paused, All, "healing paused: the reason in status, no act";
        "maintenance", person::maintenance, Sample, "a person works on a mirror: started without being asked about, never repaired, until the annotation ends";
        "held-elsewhere", person::held_elsewhere, All, "a volume whose last holder was on another node: nothing starts until a person says that the node is gone";
        "job-killed", jobs::job_killed, Sample, "Job pod deleted at each step: truthful marks each time, healed by the next attempt";
        "pod-refused", jobs::pod_refused, All, "a quota leaves no place for the Job's pod: PodRefused with the API server's words, healed once it is gone";
        "operator-killed", jobs::operator_killed, Sample, "operator killed in the middle of a copy: the same Job adopted, one Job in all";
        "leader-killed", leaders::leader_killed, All, "two operators, the leading one's pod killed at four steps of a repair: one recovery, one Job, one attempt";
        "leader-asleep", leaders::leader_asleep, Sample, "leading operator stopped (SIGSTOP) until the other leads, then woken in the middle of its work: it gives up, nothing is done twice";
        "leader-leaves", leaders::leader_leaves, All, "leading operator told to end: its lease is given up at once";
        "uninstalled", leaders::uninstalled, All, "operator taken away in the middle of a copy: it ends, segments go on; put back, it goes on";
        "upgraded", leaders::upgraded, All, "operators replaced in the middle of a copy: one recovery, one Job, one attempt, no pod of the cluster restarted";
        "cancelled", jobs::cancelled, All, "recovery deleted in the middle of its copy: the Job ends with truthful marks";
        "rights", rights::rights, Sample, "a fresh operator heals with the chart's rights: each is used, none is missing, and what it must not do is forbidden";
        "samples", installs::samples, Sample, "everything below config/ is accepted; the patch makes a plain StatefulSet one that gpheal supervises";
        "kustomize", installs::kustomize, All, "chart uninstalled, installed by kustomize for one namespace: heals, with no right elsewhere";
        "hung-neighbour", neighbours::hung_neighbour, All, "another cluster's coordinator never answers: this one heals all the same";
        "bad-input", bad::bad_input, All, "everything that can be wrong side by side: rejected or told what to do, nothing touched, no hot loop";
        "double-fault", doubles::double_fault, Sample, "mirror down, then the primary: nothing touched, heals when the primary returns";
        "flipped-double", doubles::flipped_double, Sample, "both killed at once in sync: the reason names it, heals when FTS can promote";
        "tls-rotated", tls::rotated, All, "authorities and certificates replaced, the old authority dropped: nobody restarted, a mirror heals afterwards";
        "password-rotated", passwords::rotated, All, "the superuser's password replaced: nobody restarted, every WAL receiver connects with the new one";
        "cold-start", cold::cold_start, All, "all pods gone at once, coordinator back last, then first: no role flipped, no recovery";
        "squatter", squatters::squatter, Sample, "postgres started by hand in the pod of a stale primary: nothing is written beside it, healed when it ends";
        "node-frozen", frozen::node_frozen, All, "the nodes of two Jobs lost in the middle of a copy: told, and a third content is healed";
        "coordinator-crash", coordinators::crash, Sample, "postmaster of the coordinator killed while its standby's pod is away: dispatches again at once";
        "coordinator-overtaken", coordinators::overtaken, Sample, "standby activated while the coordinator crash-loops, and while it is cut off: the old one is fenced";
        "coordinator-cold", coordinators::cold, All, "the old coordinator is up before the one that was activated: it asks the segments, and waits";
        "replaced", coordinators::replaced, Sample, "a standby that has not seen a failover is activated: the stale primary stays closed, the other one is not killed";
    ]
}
