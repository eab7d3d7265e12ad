use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{keep, plan};
use model::{
    Dbid, HealingMode, InstanceState, JobState, NewRecovery, Phase, Plan, Policy, Reason, Recovery, World,
    world::fixtures::{ago, asked, now, running},
};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

fn down() -> World {
    World::of(&["2:0ppnu", "5:0mmnd"]).down_for(5, 60).page(5, |p| {
        (p.state, p.detail) = (InstanceState::NeedsRecovery, "it is stale".into());
    })
}

/// A repair of dbid 5 that is over since so long.
fn over(name: &str, automatic: bool, phase: Phase, seconds: i64) -> Recovery {
    let mut recovery = running(name, 5, 0, Repair::Incremental, JobState::Active);
    (recovery.automatic, recovery.owner) = (automatic, Some("uid".into()));
    (recovery.phase, recovery.ended) = (phase, Some(ago(seconds)));
    let state = recovery.instances.get_mut(&Dbid(5)).unwrap();
    (state.phase, state.job, state.source, state.copies) = (phase, None, Some(Dbid(2)), 1);
    state.why = format!("cause of {name}");
    recovery
}

fn healed(name: &str, seconds: i64) -> Recovery {
    over(name, true, Phase::Succeeded, seconds)
}

/// Two that ended so long ago, in seconds.
fn twice(first: i64, second: i64) -> World {
    down().recovery(healed("first", first)).recovery(healed("second", second))
}

fn refusal(world: &World) -> Option<Refusal> {
    let told = plan(&Policy::default(), world, now()).unwell.into_iter().find(|one| one.dbid == Dbid(5)).unwrap();
    told.reason.refusal().cloned()
}

fn flaps(world: &World) -> bool {
    matches!(refusal(world), Some(Refusal::Flapping { .. }))
}

#[test]
fn the_third_repair_within_an_hour_is_not_begun_by_itself_and_the_three_causes_are_told() {
    let Some(Refusal::Flapping { recovery, causes, until, .. }) = refusal(&twice(50 * MINUTE, 20 * MINUTE)) else { panic!() };
    assert_eq!((recovery.as_str(), until), ("second", ago(20 * MINUTE - HOUR)));
    assert_eq!(causes.len(), 3, "{causes:?}");
    assert!(causes[0].contains("first") && causes[0].contains("cause of first") && causes[1].contains("cause of second"), "{causes:?}");
    assert!(causes[2].contains("now NeedsRecovery: it is stale"), "{causes:?}");
    assert!(!flaps(&down().recovery(healed("first", 20 * MINUTE))), "the second is begun");
}

#[test]
fn what_felled_it_is_told_in_its_servers_words() {
    let world = twice(50 * MINUTE, 20 * MINUTE).page(5, |page| {
        let exit =
            serde_json::json!({"at": "2027-01-15T07:59:00Z", "how": "exit 1", "class": "Environment", "evidence": "FATAL:  no room"});
        (page.crashes, page.last_exit) = (3, serde_json::from_value(exit).unwrap());
    });
    let Some(Refusal::Flapping { causes, .. }) = refusal(&world) else { panic!() };
    assert!(causes[2].contains("exit 1; Environment): FATAL:  no room"), "{causes:?}");
}

#[test]
fn quiet_for_the_whole_term_lifts_it() {
    assert!(flaps(&twice(90 * MINUTE, 59 * MINUTE)), "the oldest has left the term, the newest has not");
    assert!(!flaps(&twice(90 * MINUTE, 60 * MINUTE)));
    assert!(!flaps(&twice(3 * HOUR, 20 * MINUTE)), "they were far apart");
}

#[test]
fn a_person_lifts_it_and_is_never_asked() {
    let world = || twice(50 * MINUTE, 20 * MINUTE);
    let by_hand = plan(&Policy::default(), &world().recovery(asked("mine", &[5], None)), now());
    assert!(by_hand.recoveries["mine"].instances[&Dbid(5)].create_job.is_some());
    for phase in [Phase::Succeeded, Phase::Failed] {
        assert!(!flaps(&world().recovery(over("mine", false, phase, 5 * MINUTE))), "{phase:?}");
    }
    let mut refused = over("mine", false, Phase::Refused, 5 * MINUTE);
    refused.instances.get_mut(&Dbid(5)).unwrap().attempt = 0;
    assert!(flaps(&world().recovery(refused)), "nothing was begun by it");
    let again = world().recovery(over("mine", false, Phase::Succeeded, 15 * MINUTE)).recovery(healed("third", 10 * MINUTE));
    assert!(!flaps(&again), "it counts anew since");
    assert!(flaps(&again.recovery(healed("fourth", 5 * MINUTE))));
}

#[test]
fn only_repairs_that_were_begun_count() {
    let mut by_itself = healed("second", 20 * MINUTE);
    by_itself.instances.get_mut(&Dbid(5)).unwrap().attempt = 0;
    assert!(!flaps(&down().recovery(healed("first", 50 * MINUTE)).recovery(by_itself)), "it came back by itself");
    let mut other = running("other", 2, 0, Repair::Incremental, JobState::Active);
    (other.automatic, other.phase, other.ended) = (true, Phase::Succeeded, Some(ago(20 * MINUTE)));
    assert!(!flaps(&down().recovery(healed("first", 50 * MINUTE)).recovery(other)), "the other side's");
}

#[test]
fn no_step_of_a_clock_holds_it_for_longer_than_two_terms() {
    assert!(!flaps(&twice(-24 * HOUR, -23 * HOUR)), "set back by a day");
    assert!(flaps(&twice(10, -10)), "another node's clock is some seconds behind");
    let Some(Refusal::Flapping { until, .. }) = refusal(&twice(0, 1 - HOUR)) else { panic!() };
    assert!(until.duration_since(now()) < SignedDuration::from_hours(2));
}

#[test]
fn policy_sets_how_often_and_for_how_long() {
    let told = |repairs, minutes| {
        let breaker = Breaker { repairs, within: SignedDuration::from_mins(minutes) };
        plan(&Policy { breaker, ..Policy::default() }, &twice(50 * MINUTE, 20 * MINUTE), now()).new_recoveries.len()
    };
    assert_eq!([told(2, 60), told(3, 60), told(4, 60), told(3, 20), told(2, 20), told(2, 21)], [0, 0, 1, 1, 1, 0]);
}

/// What is looked back at is as old as twice the term.
#[test]
fn old_recoveries_are_kept_for_longer_than_is_looked_back_over() {
    assert!(keep::SHORT > Breaker::LONGEST * 2);
}

/// One step of the life of a mirror that falls again and again.
#[derive(Clone, Debug)]
enum Step {
    /// So many seconds pass.
    Wait(i64),
    /// A repair takes so many seconds, and the mirror falls so many later.
    Fall { repair: i64, well: i64 },
    /// A person has it repaired, which takes so many seconds.
    ByHand(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (1..HOUR).prop_map(Step::Wait),
        5 => (1..20 * MINUTE, 1..30 * MINUTE).prop_map(|(repair, well)| Step::Fall { repair, well }),
        1 => (1..20 * MINUTE).prop_map(Step::ByHand),
    ];
    prop::collection::vec(step, 1..60)
}

/// A mirror with its recoveries; all that an operator that was restarted at each step would find.
struct Life {
    clock: i64,
    falls: u64,
    past: Vec<Recovery>,
    /// When automatic healing began, since the last person did.
    begun: Vec<i64>,
}

impl Life {
    fn world(&self) -> World {
        let world = self.past.iter().cloned().fold(down(), World::recovery);
        world.instance(5, |one| (one.written, one.unwell_since) = (Some(self.falls), Some(at(self.clock - 60))))
    }

    fn look(&self, policy: &Policy) -> Plan {
        plan(policy, &self.world(), at(self.clock))
    }

    fn repaired(&mut self, name: &str, automatic: bool, takes: i64) {
        self.clock += takes;
        let mut recovery = over(name, automatic, Phase::Succeeded, 0);
        recovery.ended = Some(at(self.clock));
        self.past.push(recovery);
    }

    fn fall(&mut self, policy: &Policy, repair: i64, well: i64) {
        let planned = self.look(policy);
        self.past.retain(|past| planned.removals.iter().all(|removal| removal.recovery != past.name));
        if let Some(NewRecovery { name, .. }) = planned.new_recoveries.into_iter().next() {
            self.begun.push(self.clock);
            self.repaired(&name, true, repair);
        }
        self.clock += well;
        self.falls += 1;
    }
}

fn at(seconds: i64) -> Timestamp {
    ago(-seconds)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Over any life: never as many repairs by itself within the term as trip it, unless a person had one made between; a
    /// person's is never kept back by it; and quiet for the term lifts it, though it is still down.
    #[test]
    fn never_more_repairs_than_policy_lets_be(steps in steps(), repairs in 2..6_u32, minutes in 1..720_i64) {
        let within = SignedDuration::from_mins(minutes);
        let policy = Policy { breaker: Breaker { repairs, within }, mode: HealingMode::Automatic, max_attempts: 1000, ..Policy::default() };
        let mut life = Life { clock: 0, falls: 0, past: vec![], begun: vec![] };
        for step in steps {
            match step {
                Step::Wait(seconds) => life.clock += seconds,
                Step::Fall { repair, well } => life.fall(&policy, repair, well),
                Step::ByHand(takes) => {
                    let name = format!("by-hand-{}", life.past.len());
                    let planned = plan(&policy, &life.world().recovery(asked(&name, &[5], None)), at(life.clock));
                    prop_assert!(planned.recoveries[&name].instances[&Dbid(5)].create_job.is_some());
                    life.repaired(&name, false, takes);
                    (life.begun, life.falls) = (vec![], life.falls + 1);
                }
            }
            let term = within.as_secs();
            let most = life.begun.iter().map(|from| life.begun.iter().filter(|to| (*from..from + term).contains(*to)).count()).max();
            prop_assert!(most.unwrap_or(0) < repairs as usize, "{:?} within {term} s", life.begun);
        }
        life.clock += within.as_secs();
        let told = life.look(&policy).unwell.into_iter().find(|one| one.dbid == Dbid(5)).unwrap().reason;
        prop_assert!(matches!(told, Reason::Planned { .. }), "{told:?}");
    }
}
