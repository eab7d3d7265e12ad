//! The round while postgres runs: watches its life, its answers, the marks and its catalog row.

use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Round, Supervisor, Woken, ask,
    crash::{self, Again},
    decide::{Watch, believed, watch},
    facts::{Alone, Facts, OtherHere, PeerHere, PrimaryHere, RowHere},
    frozen::Frozen,
    idle::{Here, IN_PLACE, MARKS},
    mirror::MirrorWatch,
    person::Word,
    process::{self, End, Generation, Postgres},
    questions::{OthersRead, RowRead, SourceRead},
    serving::Answered,
};
use crate::volume::{Held, marks::Ack};
use greenplum::Dialect;
use model::{
    InstanceState, Look, Reach, Role, Timeline,
    page::{ExitClass, Shape},
};

/// FTS' retries after a primary died: 5 x 1 s, and some; until then the row may still flip (docs/greenplum.md#a-primary-that-is-gone).
pub(super) const FLIP_WINDOW: Duration = Duration::from_secs(15);
/// A fast stop of a mirror that takes longer is made immediate: it has nothing to lose.
const MIRROR_STOP: Duration = Duration::from_secs(5);

/// A postgres that runs, and what is being asked about it.
pub(super) struct Running {
    pub(super) postgres: Postgres,
    pub(super) lock: Held,
    pub(super) here: Here,
    pub(super) dialect: Dialect,
    pub(super) started: Instant,
    pub(super) serving_since: Option<Instant>,
    pub(super) was_primary: bool,
    /// Its timeline, once it has told as a primary.
    pub(super) timeline: Option<Timeline>,
    pub(super) row: Look<RowHere>,
    /// What the other side said when that row was asked for.
    pub(super) peer: Look<PeerHere>,
    /// When it last said something, or it was given up that it had.
    pub(super) peer_seen: Instant,
    /// When both were asked.
    pub(super) row_asked: Instant,
    /// What the other coordinators said last.
    pub(super) other: Look<OtherHere>,
    /// When what the row is held against last turned: read-only to read-write, no hold to hold.
    pub(super) turned: Instant,
    pub(super) turned_from: (Shape, bool),
    pub(super) probe: Option<JoinHandle<Answered>>,
    pub(super) next_probe: Instant,
    pub(super) read: Option<JoinHandle<RowRead>>,
    pub(super) read_begun: Instant,
    pub(super) next_read: Instant,
    /// Reads in a row that nobody answered.
    pub(super) unread: u32,
    pub(super) others: Option<JoinHandle<OthersRead>>,
    pub(super) next_others: Instant,
    pub(super) next_witnesses: Instant,
    /// When they were last asked and none had taken over; a start asks, too.
    pub(super) others_asked: Instant,
    /// The page of the acting primary that a mirror follows.
    pub(super) source: Option<JoinHandle<SourceRead>>,
    pub(super) next_source: Instant,
    pub(super) next_look: Instant,
    /// How far a mirror's log reached when it last received from nobody.
    pub(super) reached: Option<Reach>,
    /// When its log had last been written to then.
    pub(super) log_known: Option<SystemTime>,
    /// When a primary's log was last seen to be written.
    pub(super) log_written: Option<SystemTime>,
    /// Its receiver when its source was last asked, and the newest incarnation that was shown.
    pub(super) fed_by: (Option<i32>, Option<String>),
    /// A receiver that is older than that incarnation: its connection is dead, if nobody has noticed yet.
    pub(super) outlived: Option<i32>,
    /// How its history stands to that of the acting primary.
    pub(super) source_here: Look<PrimaryHere>,
    pub(super) refused: Option<String>,
    /// Why the catalog that calls it a mirror is not believed.
    pub(super) outdated: Option<String>,
    /// It began as a primary, by crash recovery that has not ended yet.
    pub(super) recovers: bool,
    /// By whom a postmaster that began anew is known, and when they are looked at again.
    pub(super) generation: Generation,
    pub(super) next_generation: Instant,
    /// When its WAL receiver's words are looked for again.
    pub(super) next_receiver_error: Instant,
    /// A primary's look at its mirror.
    pub(super) mirror: MirrorWatch,
    /// Since when a mirror's own processes have been stopped.
    pub(super) frozen: Frozen,
}

/// What the watch ended with.
enum Outcome {
    Ended(End),
    Told,
    Stop { acknowledge: bool, why: String },
    Kill { why: String, fence: bool },
}

impl Supervisor {
    /// Runs postgres as a segment until it ends or has to.
    pub(super) async fn run_segment(&mut self, lock: Held, primary: bool) -> anyhow::Result<Round> {
        let marks = self.volume.marks();
        let here = self.look_here(&marks);
        let dialect = here.shaped.dialect.unwrap_or(Dialect::Seven);
        let coordinator = here.content == Some(model::Content::COORDINATOR);
        let role = if coordinator { dialect.coordinator_dispatch_arguments() } else { dialect.segment_arguments() };
        let postgres = self.spawn(role, &lock)?;
        let now = Instant::now();
        let running = Running {
            postgres,
            lock,
            dialect,
            started: now,
            serving_since: None,
            was_primary: primary || here.shaped.shape == Shape::Primary,
            timeline: None,
            row: Look::Unknown("not read since the start".into()),
            peer: Look::Unknown("not asked since the start".into()),
            peer_seen: now,
            row_asked: now,
            other: Look::Unknown("not asked since the start".into()),
            turned: now,
            turned_from: (Shape::Mirror, false),
            read_begun: now,
            probe: None,
            next_probe: now,
            read: None,
            next_read: if coordinator { far_away() } else { now + Duration::from_secs(1) },
            unread: 0,
            others: None,
            next_others: now,
            next_witnesses: now,
            others_asked: now,
            source: None,
            next_source: now,
            next_look: now,
            reached: self.board.page().reaches,
            log_known: None,
            log_written: None,
            fed_by: (None, None),
            outlived: None,
            source_here: Look::Unknown("not asked since the start".into()),
            refused: None,
            outdated: None,
            generation: Generation::default(),
            next_generation: now,
            next_receiver_error: now,
            mirror: MirrorWatch::default(),
            frozen: Frozen::default(),
            recovers: here.shaped.shape == Shape::Primary && here.shaped.control.as_ref().is_some_and(|control| !control.was_shut_down()),
            here,
        };
        self.watch_over(running).await
    }

    /// Also before it is spawned: a mirror that starts at the same time goes by it.
    pub(super) fn show_starting(&self) {
        let state = self.shown(InstanceState::Starting);
        self.board.show(|page| {
            (page.state, page.detail, page.serves, page.receiving) = (state, "postgres was started".into(), None, false);
            page.forget_postgres();
        });
    }

    pub(super) fn spawn(&mut self, role: &[&str], lock: &Held) -> anyhow::Result<Postgres> {
        self.board.counts.starts.inc();
        self.show_starting();
        let executable = self.config.postgres.first().map_or("postgres", String::as_str);
        Ok(process::spawn(executable, self.volume.data(), self.config.port, role, &self.config.passfile, lock)?)
    }

    async fn watch_over(&mut self, mut running: Running) -> anyhow::Result<Round> {
        let outcome = self.watch_until(&mut running).await;
        running.ask_no_more();
        match outcome {
            Outcome::Ended(end) => {
                self.ended(&running, end).await;
                Ok(Round::Again)
            }
            Outcome::Told => {
                self.stop(&running.postgres, running.was_primary).await;
                Ok(Round::End)
            }
            Outcome::Kill { why, fence } => {
                tracing::warn!(%why, fence, "postgres is killed at once");
                if fence {
                    self.board.counts.fences.inc();
                }
                self.board.show(|page| (page.state, page.detail, page.serves) = (InstanceState::Stopping, why, None));
                self.kill_all(&running.postgres).await;
                Ok(Round::Again)
            }
            Outcome::Stop { acknowledge, why } => {
                tracing::info!(why, "stopping postgres");
                let gone = self.stop(&running.postgres, running.was_primary).await;
                drop(running.lock);
                if acknowledge && gone {
                    self.acknowledge(None);
                }
                Ok(Round::Again)
            }
        }
    }

    async fn watch_until(&mut self, running: &mut Running) -> Outcome {
        let mut tick = tokio::time::interval(MARKS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                woken = self.signals.next() => if woken == Woken::ToEnd { return Outcome::Told },
                _ = tick.tick() => {}
                answered = join(&mut running.probe) => self.answered(running, answered),
                look = join(&mut running.read) => self.read_done(running, look),
                look = join(&mut running.others) => self.others_said(running, look),
                look = join(&mut running.source) => self.source_said(running, look),
                errand = join(&mut running.mirror.errand) => self.mirror_looked(running, errand),
                page = join(&mut running.mirror.page) => self.mirror_page_read(running, page),
                asked = join(&mut running.mirror.asking) => Self::fts_looked(running, asked),
            }
            if let Some(end) = running.postgres.reap() {
                return Outcome::Ended(end);
            }
            self.ask_again(running);
            self.look_inside(running);
            self.watch_mirror(running);
            if let Some(outcome) = self.judge(running) {
                return outcome;
            }
            if let Some(why) = self.mirror_is_frozen(running) {
                self.board.counts.frozen.inc();
                return Outcome::Kill { why, fence: false };
            }
        }
    }

    /// Marks and row against a running postgres.
    fn judge(&mut self, running: &mut Running) -> Option<Outcome> {
        let said = self.heed_person();
        if self.hear_of_coordinators(&said, &mut running.here.token) && running.here.content != Some(model::Content::COORDINATOR) {
            running.next_read = Instant::now(); // that coordinator may wait for this one to hear of it
        }
        self.look_after(&mut running.lock);
        let marks = self.marks();
        self.show_volume(&marks);
        let shape = self.shape_now(running.dialect);
        // What cannot be looked at has not turned.
        let known = if shape == Shape::Unknown { running.turned_from.0 } else { shape };
        Self::notice_turn(running, (known, marks.hold.is_some()));
        let facts = Facts {
            marks,
            token: running.here.token.clone(),
            shape,
            shape_why: String::new(),
            content: running.here.content,
            timeline: self.timeline_now(running, shape),
            row: believed(&running.row, running.row_asked, running.turned),
            peer: running.peer.clone(),
            other: running.other.clone(),
            primary: running.source_here.clone(),
            alone: Alone::Waits,
            not_replaced: Word::not_replaced(running.here.dbid, &said.not_replaced),
            replaced: Word::replaced(running.here.dbid, &said.replaced),
            served_alone: self.alone_now(running, shape),
            was_in_sync: false,
            unusable: None,
            diverged: None,
            may_wait: false,
            allowed: None,
        };
        let verdict = watch(&facts);
        self.say_outdated(running, if let Watch::NotOverruled(why) = &verdict { Some(why) } else { None });
        match verdict {
            Watch::LetRun => self.forget_old(running),
            Watch::NotOverruled(why) if facts.marks.hold.is_some() => self.disobey(running, why),
            Watch::NotOverruled(_) => {}
            Watch::Fence(why) => return Some(Outcome::Kill { why, fence: true }),
            Watch::Kill(why) => return Some(Outcome::Kill { why, fence: false }),
            Watch::Obey => {
                self.board.counts.holds.inc();
                return Some(Outcome::Stop { acknowledge: true, why: "an attempt asked for the volume".into() });
            }
            Watch::Disobey(why) => self.disobey(running, why),
            Watch::Stop(why) => return Some(Outcome::Stop { acknowledge: false, why }),
        }
        None
    }

    /// A promotion is known by its history file before postgres has told its timeline.
    fn timeline_now(&self, running: &Running, shape: Shape) -> Option<Timeline> {
        let told = running.timeline.or(self.board.page().timeline);
        match (shape, running.row.seen()) {
            (Shape::Primary, Some(RowHere::Mine { role: Role::Mirror, .. })) => told.max(self.newest_history(running.dialect)),
            (Shape::Primary | Shape::Mirror | Shape::Empty | Shape::Unusable | Shape::Unknown, _) => told,
        }
    }

    /// Looked at where a catalog calls it a mirror.
    fn alone_now(&self, running: &Running, shape: Shape) -> Look<Option<String>> {
        match running.row.seen() {
            Some(RowHere::Mine { role: Role::Mirror, .. }) => self.served_alone(shape),
            Some(RowHere::Mine { role: Role::Primary, .. } | RowHere::NotMine(_)) | None => Look::Seen(None),
        }
    }

    /// A catalog that the pair itself contradicts is told for as long as it does.
    fn say_outdated(&self, running: &mut Running, why: Option<&String>) {
        if running.outdated.as_ref() == why {
            return;
        }
        running.outdated = why.cloned();
        if let Some(why) = why {
            let state = self.shown(InstanceState::CatalogOutdated);
            self.board.show(|page| (page.state, page.detail) = (state, why.clone()));
        } else {
            running.next_probe = Instant::now(); // what it serves as is told anew
        }
    }

    /// A row that was asked for before it turned says nothing about what it turned into: ask at once.
    fn notice_turn(running: &mut Running, now: (Shape, bool)) {
        if running.turned_from == now {
            return;
        }
        (running.turned_from, running.turned, running.refused) = (now, Instant::now(), None);
        running.next_probe = Instant::now();
        if running.here.content != Some(model::Content::COORDINATOR) {
            running.read.take().inspect(JoinHandle::abort);
            running.next_read = Instant::now();
        }
    }

    fn disobey(&mut self, running: &mut Running, why: String) {
        if running.refused.as_ref() != Some(&why) {
            tracing::warn!(why, "a hold is not obeyed");
            self.acknowledge(Some(why.clone()));
            running.refused = Some(why);
        }
    }

    /// Answers the hold that stands. Without the answer a free lock is one, and a refusal comes to the same after a while.
    fn acknowledge(&self, refused: Option<String>) {
        let Some(hold) = self.volume.marks().hold else { return };
        if let Err(error) = self.volume.write("ack", &Ack { attempt: hold.attempt, refused }) {
            tracing::warn!(%error, "the answer to a hold could not be left on the volume");
        }
    }

    /// Removes what a full copy has replaced, once the new one is proven: in sync by the catalog, and receiving.
    fn forget_old(&mut self, running: &Running) {
        let page = self.board.page();
        let in_sync = running.row == Look::Seen(RowHere::Mine { role: Role::Mirror, in_sync: true }) && page.receiving;
        // FTS promotes only what was in sync.
        let promoted = matches!(running.row, Look::Seen(RowHere::Mine { role: Role::Primary, .. })) && page.serves == Some(Role::Primary);
        let removing = self.memory.removal.as_ref().is_some_and(|removal| !removal.is_finished());
        if !(in_sync || promoted) || removing {
            return;
        }
        let gone = match self.volume.put_away() {
            Ok(None) => return,
            Ok(Some(gone)) => gone,
            Err(error) => {
                tracing::warn!(%error, "what a full copy has replaced stays for now");
                self.volume.beside_gone()
            }
        };
        tracing::info!(folder = %gone.display(), "proven: what was replaced is removed");
        match std::thread::Builder::new().spawn(move || remove_old(&gone)) {
            Ok(removal) => self.memory.removal = Some(removal),
            Err(error) => tracing::warn!(%error, "what was replaced is removed later"),
        }
    }

    /// postgres ended and nobody had asked for it.
    async fn ended(&mut self, running: &Running, end: End) {
        self.board.counts.crashes.inc();
        self.memory.crashes += 1;
        self.memory.crashed = running.log_written;
        self.board.show(|page| {
            (page.state, page.detail, page.serves, page.receiving) =
                (InstanceState::Deciding, format!("postgres ended: {end}"), None, false);
            page.forget_postgres();
        });
        self.kill_all(&running.postgres).await; // orphans of a killed postmaster
        let lines = running.postgres.last_lines(self.volume.data(), running.dialect);
        let (class, evidence) = self.why_ended(end, &lines);
        match class {
            ExitClass::DataUnusable => self.memory.unusable = Some(evidence.clone()),
            ExitClass::TimelineDiverged => self.memory.diverged = Some(evidence.clone()),
            ExitClass::Killed | ExitClass::Configuration | ExitClass::Environment | ExitClass::Unclassified => {}
        }
        let in_sync = self.memory.answer.as_ref().is_some_and(|answer| {
            matches!(ask::row_here(&self.config, &answer.catalog, running.here.dbid), Look::Seen(RowHere::Mine { in_sync: true, .. }))
        });
        // A catalog that still says so after FTS has told it to commit alone has nobody promoted that has all.
        let in_sync = in_sync && !matches!(self.served_alone(self.shape_now(running.dialect)), Look::Seen(Some(_)));
        // One that died of its data is given up to FTS at once, where that can promote its mirror.
        let crashes = self.memory.crashes.max(if class == ExitClass::DataUnusable { crash::ENOUGH } else { 0 });
        self.memory.not_before = match crash::again(crashes, running.was_primary, in_sync) {
            Again::AtOnce => None,
            // FTS needs its retries; if it has not failed over by then, nobody else will serve.
            Again::StayDown => Some(Instant::now() + FLIP_WINDOW * 2),
            Again::After(delay) => Some(Instant::now() + delay),
        };
        // What was told of a timeline took writes.
        if running.timeline.is_some() && running.others_asked.elapsed() < IN_PLACE {
            self.memory.dispatched = Some(Instant::now());
        }
        tracing::warn!(%end, ?class, evidence, crashes = self.memory.crashes, "postgres ended");
        self.remember_end(end.to_string(), class, evidence, false);
    }

    /// Stops postgres: fast, then immediate, then by SIGKILL of everything that came of it. Whether all of it is gone.
    pub(super) async fn stop(&mut self, postgres: &Postgres, primary: bool) -> bool {
        let patience = if primary { self.config.stop() } else { MIRROR_STOP };
        self.board.show(|page| {
            (page.state, page.detail, page.serves, page.receiving) =
                (InstanceState::Stopping, "postgres is being stopped".into(), None, false);
        });
        let ladder = [(Signal::SIGINT, patience), (Signal::SIGQUIT, Duration::from_secs(5))];
        for (signal, patience) in ladder {
            postgres.signal(signal);
            let until = Instant::now() + patience;
            while Instant::now() < until {
                if postgres.reap().is_some() || postgres.has_ended() {
                    return self.kill_all(postgres).await;
                }
                tokio::select! { _ = self.signals.next() => {}, () = tokio::time::sleep(MARKS) => {} }
            }
        }
        self.kill_all(postgres).await
    }
}

/// Terabytes take their time; what is left when this is cut off is found again.
fn remove_old(folder: &std::path::Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "a replaced directory could not be removed");
        std::thread::sleep(Duration::from_mins(1)); // before it is tried again
    }
}

impl Running {
    /// A mirror that answers nobody because its postmaster is still to begin its recovery.
    pub(super) const fn is_mirror_before_recovery(&self) -> bool {
        !self.was_primary && self.generation.is_to_come()
    }

    /// What is still being asked concerns nobody any more.
    fn ask_no_more(&mut self) {
        self.probe.take().inspect(JoinHandle::abort);
        self.read.take().inspect(JoinHandle::abort);
        self.others.take().inspect(JoinHandle::abort);
        self.source.take().inspect(JoinHandle::abort);
        self.mirror.stop();
    }
}

/// The end of a question, if one is being asked.
async fn join<T>(question: &mut Option<JoinHandle<T>>) -> Option<T> {
    match question {
        Some(handle) => handle.await.ok(),
        None => std::future::pending().await,
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_hours(10 * 365 * 24)
}
