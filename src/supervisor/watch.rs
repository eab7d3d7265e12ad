//! The round while postgres runs: watches its life, its answers, the marks and its catalog row.

use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Round, Supervisor, Woken, ask,
    ask::{Answer, NotRead},
    crash::{self, Again},
    decide::{Facts, RowHere, Watch, believed, watch},
    idle::{Here, MARKS},
    process::{self, End, Postgres},
    serving::{self, Answered},
};
use crate::{
    greenplum::Dialect,
    model::{
        InstanceState, Look, Role, Timeline,
        page::{ExitClass, LastExit, Shape},
    },
    volume::{Held, marks::Ack},
};

/// FTS' retries after a primary died: 5 x 1 s, and some; until then the row may still flip (reference §2.3).
const FLIP_WINDOW: Duration = Duration::from_secs(15);
/// A postgres that served for so long has left its crashes behind.
const SETTLED: Duration = Duration::from_mins(1);
/// Between two questions to a postgres that serves, to one that does not, and to one that has just been started.
const CALM: Duration = Duration::from_secs(5);
const UNEASY: Duration = Duration::from_millis(500);
const BEGINNING: Duration = MARKS;
/// So long it has just been started.
const BEGINS: Duration = Duration::from_secs(5);
/// A fast stop of a mirror that takes longer is made immediate: it has nothing to lose.
const MIRROR_STOP: Duration = Duration::from_secs(5);

/// A postgres that runs, and what is being asked about it.
struct Running {
    postgres: Postgres,
    lock: Held,
    here: Here,
    dialect: Dialect,
    started: Instant,
    serving_since: Option<Instant>,
    was_primary: bool,
    /// Its timeline, once it has told as a primary.
    timeline: Option<Timeline>,
    row: Look<RowHere>,
    /// When that row was asked for.
    row_asked: Instant,
    /// When what the row is held against last turned: read-only to read-write, no hold to hold.
    turned: Instant,
    turned_from: (Shape, bool),
    probe: Option<JoinHandle<Answered>>,
    next_probe: Instant,
    read: Option<JoinHandle<Look<Answer, NotRead>>>,
    read_begun: Instant,
    next_read: Instant,
    refused: Option<String>,
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
        let coordinator = here.content == Some(crate::model::Content::COORDINATOR);
        let role = if coordinator { dialect.coordinator_dispatch_arguments() } else { dialect.segment_arguments() };
        let postgres = self.spawn(role)?;
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
            row_asked: now,
            turned: now,
            turned_from: (Shape::Mirror, false),
            read_begun: now,
            probe: None,
            next_probe: now,
            read: None,
            next_read: if coordinator { far_away() } else { now + Duration::from_secs(1) },
            refused: None,
            here,
        };
        self.watch_over(running).await
    }

    pub(super) fn spawn(&mut self, role: &[&str]) -> anyhow::Result<Postgres> {
        self.board.counts.starts.inc();
        self.board.show(|page| (page.state, page.detail, page.serves) = (InstanceState::Starting, "postgres was started".into(), None));
        let executable = self.config.postgres.first().map_or("postgres", String::as_str);
        Ok(process::spawn(executable, self.volume.data(), self.config.port, role, &self.config.passfile)?)
    }

    async fn watch_over(&mut self, mut running: Running) -> anyhow::Result<Round> {
        let outcome = self.watch_until(&mut running).await;
        running.probe.take().inspect(JoinHandle::abort);
        running.read.take().inspect(JoinHandle::abort);
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
                self.kill_all(Some(running.postgres.pid)).await;
                Ok(Round::Again)
            }
            Outcome::Stop { acknowledge, why } => {
                tracing::info!(why, "stopping postgres");
                let gone = self.stop(&running.postgres, running.was_primary).await;
                drop(running.lock);
                if acknowledge && gone {
                    self.acknowledge(None)?;
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
            }
            if let Some(end) = process::reap(Some(running.postgres.pid)) {
                return Outcome::Ended(end);
            }
            self.ask_again(running);
            if let Some(outcome) = self.judge(running) {
                return outcome;
            }
        }
    }

    /// Starts the questions that are due; none is waited for.
    fn ask_again(&mut self, running: &mut Running) {
        let now = Instant::now();
        if running.probe.is_none() && now >= running.next_probe {
            self.keep_passfile();
            if self.still_follows(running) {
                running.next_probe = now + CALM;
            } else {
                let (config, known) = (self.config.clone(), running.timeline);
                running.probe = Some(tokio::spawn(async move { serving::ask(&config, known).await }));
            }
        }
        if running.read.is_none() && now >= running.next_read {
            let (config, seen) = (self.config.clone(), self.seen_timeline());
            self.board.counts.catalog_reads.inc();
            running.read_begun = now;
            running.read = Some(tokio::spawn(async move { ask::catalog(&config, seen).await }));
        }
    }

    /// A mirror that receives needs no question, as long as its page says what it should: each would be a FATAL in its log.
    fn still_follows(&self, running: &Running) -> bool {
        let page = self.board.page();
        page.receiving
            && page.state == self.shown(InstanceState::Serving)
            && self.shape_now(running.dialect) == Shape::Mirror
            && running.postgres.receives()
    }

    fn answered(&mut self, running: &mut Running, answered: Option<Answered>) {
        running.probe = None;
        let answered = answered.unwrap_or_else(|| Answered::No("the question was broken off".into()));
        let (serves, timeline) = match answered {
            Answered::Serves(role, timeline) => (Some(role), timeline),
            Answered::ServesOthers(timeline, _) => (Some(Role::Primary), Some(timeline)),
            Answered::NotYet | Answered::No(_) => (None, None),
        };
        let receiving = serves == Some(Role::Mirror) && running.postgres.receives();
        let uneasy = if running.started.elapsed() < BEGINS { BEGINNING } else { UNEASY };
        running.next_probe = Instant::now() + if receiving || serves == Some(Role::Primary) { CALM } else { uneasy };
        if serves.is_some() {
            let since = *running.serving_since.get_or_insert_with(Instant::now);
            running.was_primary |= serves == Some(Role::Primary);
            running.timeline = timeline;
            if since.elapsed() > SETTLED {
                (self.memory.crashes, self.memory.not_before) = (0, None);
            }
        } else if running.serving_since.take().is_some() {
            running.next_read = Instant::now(); // it served and does not any more: ask what became of its role
        }
        let (state, detail) = state_of(&answered, running.started.elapsed());
        let state = self.shown(state);
        let shape = self.shape_now(running.dialect);
        self.board.show(|page| {
            (page.state, page.detail, page.serves, page.receiving, page.shape) = (state, detail, serves, receiving, shape);
            page.timeline = timeline.or(page.timeline);
        });
    }

    /// Whether it is shaped as a mirror now: promotion takes the marker away. What can not be looked at is not gone.
    fn shape_now(&self, dialect: Dialect) -> Shape {
        let data = self.volume.data();
        let gone = data.join("PG_VERSION").try_exists().is_ok_and(|there| !there);
        match (gone, data.join(dialect.mirror_marker()).exists()) {
            (true, _) => Shape::Empty,
            (false, true) => Shape::Mirror,
            (false, false) => Shape::Primary,
        }
    }

    fn read_done(&mut self, running: &mut Running, look: Option<Look<Answer, NotRead>>) {
        running.read = None;
        running.row_asked = running.read_begun;
        running.row = match &look {
            Some(Look::Seen(answer)) => Look::Seen(ask::row_here(&self.config, &answer.catalog, running.here.dbid)),
            Some(Look::Unknown(why)) => Look::Unknown(why.to_string()),
            None => Look::Unknown("the question was broken off".into()),
        };
        if let Some(look) = look {
            self.remember(&look);
        }
        running.here.token = self.volume.token(&self.config.cluster, &self.config.address, self.config.port);
        if let Err(error) = self.adopt(&running.here) {
            tracing::warn!(%error, "the token could not be brought up to date");
        }
        running.next_read = Instant::now() + self.next_read(running);
    }

    /// Once a minute while all is well; every second or two while the row may change under us.
    fn next_read(&self, running: &Running) -> Duration {
        let flip_window = running.was_primary && running.started.elapsed() < FLIP_WINDOW;
        let uneasy = running.serving_since.is_none() || running.row.seen().is_none() || self.volume.mark("hold").exists();
        // Whether the pair was in sync is what decides when there is no coordinator to ask.
        let degraded = matches!(running.row, Look::Seen(RowHere::Mine { in_sync: false, .. }));
        match (flip_window, uneasy || self.volume.keeps(), degraded) {
            (true, ..) => Duration::from_secs(1),
            (false, true, _) => Duration::from_secs(2),
            (false, false, true) => Duration::from_secs(10),
            (false, false, false) => Duration::from_mins(1),
        }
    }

    /// Marks and row against a running postgres.
    fn judge(&mut self, running: &mut Running) -> Option<Outcome> {
        self.heed_person();
        let marks = self.volume.marks();
        self.show_volume(&marks);
        let shape = self.shape_now(running.dialect);
        Self::notice_turn(running, (shape, marks.hold.is_some()));
        let facts = Facts {
            marks,
            token: running.here.token.clone(),
            shape,
            shape_why: String::new(),
            content: running.here.content,
            timeline: None,
            row: believed(&running.row, running.row_asked, running.turned),
            peer: Look::Unknown("not asked".into()),
            primary: Look::Unknown("not asked".into()),
            waited_for_peer: false,
            was_in_sync: false,
            unusable: None,
            diverged: None,
        };
        match watch(&facts) {
            Watch::LetRun => self.forget_old(running),
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

    /// A row that was asked for before it turned says nothing about what it turned into: ask at once.
    fn notice_turn(running: &mut Running, now: (Shape, bool)) {
        if running.turned_from == now {
            return;
        }
        (running.turned_from, running.turned, running.refused) = (now, Instant::now(), None);
        if running.here.content != Some(crate::model::Content::COORDINATOR) {
            running.read.take().inspect(JoinHandle::abort);
            running.next_read = Instant::now();
        }
    }

    fn disobey(&mut self, running: &mut Running, why: String) {
        if running.refused.as_ref() != Some(&why) {
            tracing::warn!(why, "a hold is not obeyed");
            if let Err(error) = self.acknowledge(Some(why.clone())) {
                tracing::warn!(%error, "the refusal could not be left on the volume");
            }
            running.refused = Some(why);
        }
    }

    /// Answers the hold that stands.
    fn acknowledge(&self, refused: Option<String>) -> anyhow::Result<()> {
        if let Some(hold) = self.volume.marks().hold {
            self.volume.write("ack", &Ack { attempt: hold.attempt, refused })?;
        }
        Ok(())
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
        self.memory.removal = Some(std::thread::spawn(move || remove_old(&gone)));
    }

    /// postgres ended and nobody had asked for it.
    async fn ended(&mut self, running: &Running, end: End) {
        self.board.counts.crashes.inc();
        self.memory.crashes += 1;
        self.kill_all(None).await; // orphans of a killed postmaster
        let lines = running.postgres.last_lines(self.volume.data(), running.dialect);
        let (class, evidence) = crash::classify(end.signal(), &lines);
        match class {
            ExitClass::DataUnusable => self.memory.unusable = Some(evidence.clone()),
            ExitClass::TimelineDiverged => self.memory.diverged = Some(evidence.clone()),
            _ => {}
        }
        let in_sync = self.memory.answer.as_ref().is_some_and(|answer| {
            matches!(ask::row_here(&self.config, &answer.catalog, running.here.dbid), RowHere::Mine { in_sync: true, .. })
        });
        self.memory.not_before = match crash::again(self.memory.crashes, running.was_primary, in_sync) {
            Again::AtOnce => None,
            // FTS needs its retries; if it has not failed over by then, nobody else will serve.
            Again::StayDown => Some(Instant::now() + FLIP_WINDOW * 2),
            Again::After(delay) => Some(Instant::now() + delay),
        };
        tracing::warn!(%end, ?class, evidence, crashes = self.memory.crashes, "postgres ended");
        self.memory.last_exit = Some(LastExit { at: Timestamp::now(), how: end.to_string(), class, evidence });
    }

    /// Stops postgres: fast, then immediate, then by SIGKILL of everything that holds the lock. Whether all of it is gone.
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
                if process::reap(Some(postgres.pid)).is_some() || !postgres.exists() {
                    return self.kill_all(None).await;
                }
                tokio::select! { _ = self.signals.next() => {}, () = tokio::time::sleep(MARKS) => {} }
            }
        }
        self.kill_all(Some(postgres.pid)).await
    }
}

/// Terabytes take their time; what is left when this is cut off is found again.
fn remove_old(folder: &std::path::Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "a replaced directory could not be removed");
        std::thread::sleep(Duration::from_mins(1)); // before it is tried again
    }
}

fn state_of(answered: &Answered, running: Duration) -> (InstanceState, String) {
    match answered {
        Answered::Serves(Role::Primary, _) => (InstanceState::Serving, "serves as primary".into()),
        Answered::Serves(Role::Mirror, _) => (InstanceState::Serving, "serves as mirror".into()),
        Answered::ServesOthers(_, why) => (InstanceState::Serving, format!("serves as primary; {why}")),
        Answered::NotYet => (InstanceState::Starting, "postgres starts up".into()),
        Answered::No(why) if running < Duration::from_secs(10) => (InstanceState::Starting, why.clone()),
        Answered::No(why) => (InstanceState::NotAnswering, why.clone()),
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
