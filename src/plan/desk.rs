//! What one planning pass knows and has given out so far, in such a shape that no question takes a look at everything.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, hash_map::Entry},
};

use jiff::{SignedDuration, Timestamp};

use super::{coordinators, recovery, words};
use model::{
    CatalogIndex, Content, Dbid, InstanceNext, JobState, JobView, Page, Phase, Plan, Policy, Recovery, RecoveryInstance, Refusal, Standing,
    Targets, World, world::AtWork,
};

/// So long a recovery waits for what passes by itself before that is said to stand in its way.
const LONG: SignedDuration = SignedDuration::from_mins(5);

/// One planning pass.
pub struct Desk<'a> {
    pub policy: &'a Policy,
    pub world: &'a World,
    pub now: Timestamp,
    /// `None`: the catalog could not be read.
    pub catalog: Option<CatalogIndex<'a>>,
    /// Why the catalog may be that of a coordinator which was taken over.
    pub overtaken: Option<Refusal>,
    /// Not one segment has a pod among those that are selected.
    pub nothing_selected: bool,
    /// Jobs that run and go on, or were given out in this pass.
    pub jobs: usize,
    /// All but those whose Jobs could not be made have had their turn.
    last_turn: bool,
    /// Contents with a Job or a proof under way, and by which recoveries.
    taken: HashMap<Content, Vec<Taken>>,
    /// Jobs that have not ended, whatever their recoveries say.
    at_work: HashMap<Content, Vec<&'a AtWork>>,
    /// Contents to which a dispatched statement got an answer.
    dispatched: HashSet<Content>,
    /// The recoveries that had this instance, oldest first.
    past: HashMap<Dbid, Vec<Past<'a>>>,
    /// The instance that the newest recovery of a content was for, of those that are over.
    newest: HashMap<Content, Dbid>,
    working: HashMap<Dbid, Working>,
    by_name: HashMap<&'a str, &'a Recovery>,
}

/// A recovery that has begun to work on a content.
struct Taken {
    recovery: String,
    /// One of automatic healing, between two attempts: a person's order need not wait until it has rested, or is not paused.
    rests: bool,
}

/// A recovery's part in one instance, as of this pass.
#[derive(Clone, Debug)]
pub struct Past<'a> {
    pub name: &'a str,
    pub automatic: bool,
    pub phase: Phase,
    pub ended: Option<Timestamp>,
    /// `None`: its instances were never named.
    pub state: Option<Cow<'a, RecoveryInstance>>,
}

/// Who works on an instance, and what keeps the work from going on.
#[derive(Clone, Debug)]
pub struct Working {
    pub recovery: String,
    rests: bool,
    pub stuck: Option<Refusal>,
    /// What keeps a repair that is done from being proven, or what its next attempt waits for.
    pub trouble: Option<String>,
}

impl<'a> Desk<'a> {
    pub fn new(policy: &'a Policy, world: &'a World, now: Timestamp) -> Self {
        let live = || world.recoveries.iter().filter(|r| !r.phase.is_over());
        let mut taken: HashMap<Content, Vec<Taken>> = HashMap::new();
        let mut jobs = 0;
        for recovery in live() {
            for one in recovery.instances.values().filter(|one| !one.phase.is_over()) {
                jobs += usize::from(runs(one));
                if one.attempt > 0 {
                    taken.entry(one.content).or_default().push(Taken { recovery: recovery.name.clone(), rests: rests(recovery, one) });
                }
            }
        }
        let catalog = world.catalog.seen().map(CatalogIndex::of);
        let mut at_work: HashMap<Content, Vec<&AtWork>> = HashMap::new();
        for job in world.at_work.seen().into_iter().flatten() {
            if let Some(row) = catalog.as_ref().and_then(|catalog| catalog.row(job.dbid)) {
                at_work.entry(row.content).or_default().push(job);
            }
        }
        Self {
            policy,
            world,
            now,
            overtaken: catalog.as_ref().and_then(|catalog| coordinators::may_be_overtaken(world, catalog)),
            catalog,
            nothing_selected: world.nothing_selected(),
            jobs,
            last_turn: false,
            taken,
            at_work,
            dispatched: world.dispatch.seen().into_iter().flatten().copied().collect(),
            past: HashMap::new(),
            newest: HashMap::new(),
            working: HashMap::new(),
            by_name: world.recoveries.iter().map(|recovery| (recovery.name.as_str(), recovery)).collect(),
        }
    }

    /// Its Job could not be made when that was last tried, and others have not had their turn yet.
    pub fn goes_last(&self, recovery: &str, dbid: Dbid) -> bool {
        !self.last_turn && self.world.not_made.iter().any(|(name, one)| name == recovery && *one == dbid)
    }

    pub fn others_had_their_turn(&mut self) {
        self.last_turn = true;
    }

    /// From the recoveries to what they leave undone: contents whose recovery ends in this pass are free again, so that what
    /// comes next for them is said at once.
    pub fn turn(&mut self, plan: &Plan) {
        let live = |name: &String, content: Content| match plan.recoveries.get(name) {
            None => true, // it is being deleted: its Job may still run
            Some(next) => next.instances.values().any(|one| one.state.content == content && !one.state.phase.is_over()),
        };
        for (content, by) in &mut self.taken {
            by.retain(|taken| live(&taken.recovery, *content));
        }
        for recovery in &self.world.recoveries {
            self.works(recovery, plan);
            self.remember(recovery, plan);
        }
    }

    /// By its next state, which may name its instances in this very pass. One that is being deleted has none.
    fn works(&mut self, recovery: &Recovery, plan: &Plan) {
        for (dbid, _, job) in outlived_by(recovery) {
            self.shows(dbid, Working { recovery: recovery.name.clone(), rests: false, stuck: Some(waited_for(job)), trouble: None });
        }
        let next = plan.recoveries.get(&recovery.name).filter(|_| !recovery.phase.is_over());
        let instances = next.into_iter().flat_map(|next| &next.instances).filter(|(_, one)| !one.state.phase.is_over());
        for (dbid, one) in instances {
            let stuck = self.held_up(*dbid, one);
            let trouble = words::trouble(one);
            let rests = rests(recovery, &one.state) && one.create_job.is_none();
            self.shows(*dbid, Working { recovery: recovery.name.clone(), rests, stuck, trouble });
        }
    }

    /// The oldest that works on an instance; one that rests is shown where none does.
    fn shows(&mut self, dbid: Dbid, working: Working) {
        match self.working.entry(dbid) {
            Entry::Vacant(free) => drop(free.insert(working)),
            Entry::Occupied(mut shown) if shown.get().rests && !working.rests => drop(shown.insert(working)),
            Entry::Occupied(_) => {}
        }
    }

    /// What keeps a recovery from going on with an instance, as far as that is more than its turn or a moment.
    fn held_up(&self, dbid: Dbid, one: &InstanceNext) -> Option<Refusal> {
        let refusal = one.standing.waits_for()?;
        let told = matches!(one.standing, Standing::Stuck(_)) || self.is_told(dbid, &one.state, refusal);
        told.then(|| refusal.clone())
    }

    /// What a person has to do, or has done, is told at once; what passes by itself, once it should have.
    fn is_told(&self, dbid: Dbid, state: &RecoveryInstance, refusal: &Refusal) -> bool {
        let fell = self.world.instances.get(&dbid).map_or(Some(self.now), |instance| instance.unwell_since);
        let moved = [fell, state.attempt_started, state.attempt_ended, state.proving_since].into_iter().flatten().max();
        let lasts = moved.is_some_and(|moved| self.now.duration_since(moved) >= LONG);
        let of_a_person = refusal.needs_a_person() || matches!(refusal, Refusal::Paused { .. } | Refusal::ObserveOnly { .. });
        of_a_person || (lasts && refusal.blocks())
    }

    fn remember(&mut self, recovery: &'a Recovery, plan: &Plan) {
        let next = plan.recoveries.get(&recovery.name);
        let phase = next.map_or(recovery.phase, |next| next.phase);
        let ended = recovery.ended.or_else(|| phase.is_over().then_some(self.now));
        let past = |state| Past { name: &recovery.name, automatic: recovery.automatic, phase, ended, state };
        let states: Vec<(Dbid, Cow<'a, RecoveryInstance>)> = match next {
            Some(next) => next.instances.iter().map(|(dbid, one)| (*dbid, Cow::Owned(one.state.clone()))).collect(),
            None => recovery.instances.iter().map(|(dbid, state)| (*dbid, Cow::Borrowed(state))).collect(),
        };
        if states.is_empty()
            && let Targets::Dbids(dbids) = &recovery.targets
        {
            for dbid in dbids {
                self.past.entry(*dbid).or_default().push(past(None));
            }
        }
        for (dbid, state) in states {
            if phase.is_over() {
                self.newest.insert(state.content, dbid);
            }
            self.past.entry(dbid).or_default().push(past(Some(state)));
        }
    }

    /// The page of an instance, if it is believed.
    pub fn page_at(&self, dbid: Dbid) -> Option<&'a Page> {
        self.world.page_of(self.catalog.as_ref()?.row(dbid)?).ok()
    }

    /// Whether no recovery other than `name` works on `content`. One that is being deleted is not moved on any more, and is gone
    /// once its Job is: that is what is waited for, and a Job that makes no progress may be waited for in vain.
    ///
    /// # Errors
    /// [`Refusal::AlreadyRecovering`], [`Refusal::JobNotEnded`], [`Refusal::AttemptStuck`], [`Refusal::PodRefused`]
    pub fn is_left_by_others(&self, name: &str, content: Content) -> Result<(), Refusal> {
        let of_a_person = self.recovery(name).is_some_and(|recovery| !recovery.automatic);
        let in_the_way = |by: &&Taken| by.recovery != name && !(by.rests && of_a_person);
        let Some(Taken { recovery: other, .. }) = self.taken.get(&content).and_then(|by| by.iter().find(in_the_way)) else { return Ok(()) };
        let mut jobs = self.recovery(other).into_iter().flat_map(outlived_by).filter(|(_, at, _)| *at == content);
        Err(jobs.next().map_or_else(|| Refusal::AlreadyRecovering { content, recovery: other.clone() }, |(.., job)| waited_for(job)))
    }

    /// Whether a recovery named `name` may begin anything at `content`: not under a name, nor beside a Job, that nobody can
    /// judge, and not beside a Job that has not ended, whoever made it.
    ///
    /// # Errors
    /// [`Refusal::RecoveryUnreadable`], [`Refusal::JobNotEnded`]
    pub fn is_free(&self, name: &str, content: Content) -> Result<(), Refusal> {
        let jobs = self.at_work.get(&content).map_or(&[][..], Vec::as_slice);
        let unreadable = |name: &str| self.world.unreadable.iter().find(|taken| *taken == name);
        if let Some(recovery) = unreadable(name).or_else(|| jobs.iter().find_map(|job| unreadable(&job.recovery))) {
            return Err(Refusal::RecoveryUnreadable { recovery: recovery.clone() });
        }
        jobs.first().map_or(Ok(()), |job| Err(Refusal::JobNotEnded { job: job.job.clone() }))
    }

    pub fn take(&mut self, content: Content, recovery: &str) {
        self.taken.entry(content).or_default().push(Taken { recovery: recovery.to_owned(), rests: false });
    }

    /// Whether a dispatched statement got an answer from `content`.
    pub fn dispatched(&self, content: Content) -> bool {
        self.dispatched.contains(&content)
    }

    /// Who works on an instance; known once the recoveries were moved on.
    pub fn working_on(&self, dbid: Dbid) -> Option<&Working> {
        self.working.get(&dbid)
    }

    /// What recoveries did about an instance, oldest first; known once the recoveries were moved on.
    pub fn past(&self, dbid: Dbid) -> &[Past<'a>] {
        self.past.get(&dbid).map_or(&[], Vec::as_slice)
    }

    /// Whether no other instance of the content was repaired since.
    pub fn newest_of(&self, content: Content) -> Option<Dbid> {
        self.newest.get(&content).copied()
    }

    pub fn recovery(&self, name: &str) -> Option<&'a Recovery> {
        self.by_name.get(name).copied()
    }
}

/// Automatic healing has begun nothing that is not over, and may not for as long as it is paused.
fn rests(recovery: &Recovery, one: &RecoveryInstance) -> bool {
    recovery.automatic && !recovery.deleting && one.job.is_none() && one.proving_since.is_none()
}

/// Its Job runs and goes on: one that makes no progress, or gets no pod, takes nothing that another one could use.
fn runs(one: &RecoveryInstance) -> bool {
    one.job.as_ref().is_some_and(|job| job.state == JobState::Active && job.stuck.is_none() && job.refused.is_none())
}

/// Jobs at work of a recovery that is being deleted: it stays for as long as their pods do where it is deleted in the foreground.
fn outlived_by(recovery: &Recovery) -> impl Iterator<Item = (Dbid, Content, &JobView)> {
    let deleted = recovery.deleting && !recovery.phase.is_over();
    let live = recovery.instances.iter().filter(move |(_, one)| deleted && !one.phase.is_over());
    let at_work = |one: &&JobView| one.state == JobState::Active;
    live.filter_map(move |(dbid, one)| Some((*dbid, one.content, one.job.as_ref().filter(at_work)?)))
}

fn waited_for(job: &JobView) -> Refusal {
    match &job.stuck {
        Some(why) => recovery::held_up(job, why),
        None => recovery::refused(job).unwrap_or_else(|| Refusal::JobNotEnded { job: job.name.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use crate::plan;
    use model::{
        Dbid, InstanceState, JobState, Policy, Reason, Recovery, Refusal, Repair, World,
        world::fixtures::{ago, asked, now, running},
    };

    /// The dbids whose Jobs are to be made, pass by pass, where those of 5 and 6 are refused each time and those of others run.
    fn passes(mut world: World) -> Vec<Vec<i16>> {
        let policy = Policy { max_jobs: 1, ..Policy::default() };
        let mut passes = vec![];
        for _ in 0..6 {
            let plan = plan(&policy, &world, now());
            let planned = plan.recoveries.iter().flat_map(|(name, next)| next.instances.iter().map(move |(dbid, one)| (name, *dbid, one)));
            let begun: Vec<_> = planned.filter(|(.., one)| one.create_job.is_some()).map(|(name, dbid, _)| (name.clone(), dbid)).collect();
            let refused = begun.iter().filter(|(_, dbid)| dbid.0 < 7);
            let refused: Vec<_> = refused.map(|(name, dbid)| (*dbid, name.clone(), Refusal::JobBudget { max: 0 })).collect();
            world.not_made = plan.still_not_made(&world.not_made, &refused);
            passes.push(begun.into_iter().map(|(_, dbid)| dbid.0).collect());
        }
        passes
    }

    fn three_down() -> World {
        let world = World::of(&["2:0ppnu", "3:1ppnu", "4:2ppnu", "5:0mmnd", "6:1mmnd", "7:2mmnd"]);
        [5, 6, 7].into_iter().fold(world, |world, dbid| world.page(dbid, |page| page.state = InstanceState::NeedsFull))
    }

    /// Those whose Jobs a policy refuses were the oldest: in each pass they took the budget, and nobody else ever began.
    #[test]
    fn whose_job_could_not_be_made_takes_no_place_from_others() {
        let apart = [5, 6, 7].into_iter().fold(three_down(), |world, dbid| world.recovery(asked(&format!("r{dbid}"), &[dbid], None)));
        let together = three_down().recovery(asked("r", &[5, 6, 7], None));
        for world in [apart, together] {
            let passes = passes(world);
            assert_eq!(passes[..2], [[5], [6]]);
            assert!(passes[2..].iter().all(|begun| *begun == [7]), "{passes:?}");
        }
    }

    #[test]
    fn what_could_not_be_made_is_tried_again_where_there_is_room() {
        let world = three_down().recovery(asked("r5", &[5], None)).recovery(asked("r6", &[6], None));
        assert_eq!(passes(world)[..5], [[5], [6], [5], [6], [5]], "in turn");
        let mut world = three_down().recovery(asked("r5", &[5], None)).recovery(running("r7", 7, 2, Repair::Full, JobState::Active));
        world.not_made = vec![("r5".into(), Dbid(5)), ("gone".into(), Dbid(5))];
        assert_eq!(passes(world)[0], [0; 0], "another one runs");
    }

    /// An automatic one that paused, or waits for its next attempt, was the older one.
    #[test]
    fn who_works_on_an_instance_is_shown_before_who_rests() {
        let mut rests = Recovery { automatic: true, ..running("automatic", 5, 0, Repair::Incremental, JobState::Active) };
        let state = rests.instances.get_mut(&Dbid(5)).unwrap();
        (state.job, state.attempt_ended) = (None, Some(ago(600)));
        let mut by_hand = running("by-hand", 5, 0, Repair::Full, JobState::Active);
        let job = by_hand.instances.get_mut(&Dbid(5)).unwrap().job.as_mut().unwrap();
        job.stuck = Some("its node is lost".into());
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).recovery(rests).recovery(by_hand);
        let plan = plan(&Policy { paused: true, ..Policy::default() }, &world, now());
        let told = plan.unwell.iter().find(|one| one.dbid == Dbid(5)).map(|one| &one.reason);
        let Some(Reason::Waits { recovery, refusal }) = told else { panic!("{plan:?}") };
        assert_eq!((recovery.as_str(), refusal.code()), ("by-hand", "AttemptStuck"));
    }
}
