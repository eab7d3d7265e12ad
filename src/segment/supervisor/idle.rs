//! The round while postgres does not run: lock, then marks, then catalog, then start, in this order.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Round, Supervisor, Woken,
    ask::{self, CopyHere},
    decide::{Decision, by_marks, counts, decide},
    facts::{Alone, Facts, OtherHere, PeerHere, PrimaryHere, RowHere},
    history, is_dead,
    others::{self, Own},
    peer::{self, Other},
    person::{Allowed, Said, Word},
};
use crate::volume::{
    Held, LockError, Marks, TokenState, mend, places,
    shape::{self, Shaped},
};
use model::{Begins, Content, Dbid, InstanceState, Look, Reach, Role, page::Shape};

/// How often the marks are looked at.
pub(super) const MARKS: Duration = Duration::from_millis(250);
/// And while an attempt works on the volume: when it is done, the mirror is to start at once.
const HELD: Duration = Duration::from_millis(100);

/// A coordinator that dispatched so short a time ago dispatches on: within it nobody was activated unseen.
pub(super) const IN_PLACE: Duration = Duration::from_secs(10);
/// So long the word of segments that know of a higher timeline stands.
const REFUTED: Duration = Duration::from_mins(1);

/// The directory and who it says that it is.
pub(super) struct Here {
    pub shaped: Shaped,
    pub dbid: Option<Dbid>,
    pub content: Option<Content>,
    pub token: TokenState,
}

impl Here {
    /// Which instance it is, and of which database.
    pub(super) const fn is_known(&self) -> bool {
        self.dbid.is_some() && self.content.is_some() && self.shaped.control.is_some()
    }
}

impl Supervisor {
    /// One decision and what follows from it.
    pub(super) async fn round(&mut self) -> anyhow::Result<Round> {
        if self.signals.ending {
            return Ok(Round::End);
        }
        let crashed = self.memory.crashed.take();
        let said = self.heed_person();
        let lock = match self.volume.try_lock(&self.config.holder(), said.gone.as_deref()) {
            Ok(lock) => lock,
            Err(LockError::Busy(who)) => return self.stay_out(&who).await,
            Err(error @ LockError::Elsewhere(_)) => return self.stay(InstanceState::HeldElsewhere, error.to_string()).await,
            Err(error) => return self.stay(InstanceState::Deciding, error.to_string()).await,
        };
        if let Some(over) = self.keep_from_squatters().await? {
            return Ok(over);
        }
        self.end_dead_hold(&lock);
        if let Err(error) = mend::marker(self.volume.data()) {
            drop(lock);
            return self
                .stay(InstanceState::Deciding, format!("whether a repair put the mirror's marker aside cannot be told: {error}"))
                .await;
        }
        self.heed_adoption(&said);
        self.hear_of_coordinators(&said, &mut self.token_now());
        let marks = self.marks();
        let mut here = self.look_here(&marks);
        self.show_incarnations();
        if let (Some((state, why)), false) = (by_marks(&marks), marks.maintenance) {
            drop(lock);
            return self.stay(state, why).await;
        }
        let mut told = self.signals.told();
        let facts = tokio::select! {
            facts = self.facts(marks, &here, &said, crashed) => facts,
            () = told.heard() => return Ok(Round::End), // what is asked may take long, and the volume is wanted by others
        };
        here.token = self.token_now(); // with what was learned from the answers
        self.carry_out(lock, &here, &facts).await
    }

    async fn carry_out(&mut self, lock: Held, here: &Here, facts: &Facts) -> anyhow::Result<Round> {
        match decide(facts) {
            Decision::Stay(state, why) => {
                if state == InstanceState::NeedsRecovery {
                    self.adopt_or_warn(here);
                }
                drop(lock);
                self.stay(state, why).await
            }
            Decision::Replaced(why) => {
                self.remember_replaced(here);
                drop(lock);
                self.stay(InstanceState::NeedsRecovery, why).await
            }
            Decision::Start | Decision::StartCoordinator | Decision::Dispatch if self.too_soon() => {
                drop(lock);
                self.stay(InstanceState::BackingOff, self.crash_story()).await
            }
            decision @ (Decision::Start | Decision::StartCoordinator | Decision::Dispatch) => {
                self.start(lock, here, facts, &decision).await
            }
        }
    }

    /// Somebody else has the lock: the attempt that asked for it, or one that nobody knows.
    async fn stay_out(&mut self, who: &str) -> anyhow::Result<Round> {
        match by_marks(&self.volume.marks()).filter(|(state, _)| *state == InstanceState::Held) {
            Some((held, why)) => self.stay(held, why).await,
            None => self.stay(InstanceState::LockBusy, format!("held by: {who}")).await,
        }
    }

    /// The directory, the token, and the page's share of both.
    pub(super) fn look_here(&mut self, marks: &Marks) -> Here {
        self.forget_what_was_repaired();
        let shaped = shape::look(self.volume.data());
        let token = self.token_now();
        let (mut dbid, mut content) = places::identity(self.volume.data());
        if let TokenState::Mine(token) = &token {
            (dbid, content) = (dbid.or(Some(token.dbid)), content.or(Some(token.content)));
        }
        self.show_volume(marks);
        self.board.show(|page| {
            (page.dbid, page.content, page.shape) = (dbid, content, shaped.shape);
            page.system_identifier = shaped.control.as_ref().map(|c| c.system_identifier);
        });
        let here = Here { shaped, dbid, content, token };
        let timeline = history::newest_timeline(&here, self.volume.data());
        self.board.show(|page| page.timeline = timeline);
        self.show_token(&here.token);
        here
    }

    /// What others may have to know of the token.
    pub(super) fn show_token(&self, token: &TokenState) {
        let (followed, seen) = match token {
            TokenState::Mine(token) => (token.followed.clone(), Some(token.coordinator_timeline).filter(|seen| seen.0 > 0)),
            TokenState::Absent | TokenState::Foreign(_) => (vec![], None),
        };
        self.board.show(|page| (page.followed, page.coordinator_timeline) = (followed, seen));
    }

    /// What the last end of postgres showed of this directory is no news once an attempt has changed it. A recovery that was
    /// deleted and made again gives its attempts the same names.
    fn forget_what_was_repaired(&mut self) {
        let attempt = self.volume.result().map(|result| (result.attempt, result.recovery_uid));
        if attempt != self.memory.attempt {
            (self.memory.unusable, self.memory.diverged, self.memory.crashes, self.memory.not_before) = (None, None, 0, None);
            (self.memory.ends, self.memory.restarts, self.memory.receiver_error) = (0, 0, None);
            self.memory.attempt = attempt;
        }
    }

    async fn facts(&mut self, marks: Marks, here: &Here, said: &Said, crashed: Option<SystemTime>) -> Facts {
        let in_place = crashed.is_some_and(|seen| history::goes_on(seen, here.shaped.dialect, self.volume.data()));
        let coordinator = here.content == Some(Content::COORDINATOR);
        let reaches = history::reaches(here.shaped.control.as_ref(), here.shaped.dialect, self.volume.data());
        // Shown before the other side is asked: of a primary and a mirror that start at once, one sees the other.
        self.show_reach(here.shaped.shape, &reaches);
        let begins = self.begins(here, &reaches);
        let (row, peer, other) = if coordinator {
            let itself = || "it is the coordinator".to_owned();
            (Look::Unknown(itself()), Look::Unknown(itself()), self.ask_others(here, begins).await)
        } else {
            let (row, peer) = self.row_and_peer(here, begins).await;
            (row, peer, Look::Unknown("it is no coordinator".into()))
        };
        Facts {
            alone: self.alone(&other),
            may_wait: self.may_wait(&peer, in_place),
            timeline: self.board.page().timeline.max(reaches.seen().map(|reaches| reaches.timeline)),
            primary: self.ask_primary(here, &row, reaches).await,
            unusable: self.unusable_now(&row, here.shaped.shape),
            marks,
            token: here.token.clone(),
            shape: here.shaped.shape,
            shape_why: here.shaped.why.clone(),
            content: here.content,
            row,
            peer,
            other,
            not_replaced: Word::not_replaced(here.dbid, &said.not_replaced),
            replaced: Word::replaced(here.dbid, &said.replaced),
            served_alone: self.show_alone(here.shaped.shape),
            was_in_sync: matches!(&here.token, TokenState::Mine(token) if token.peer.as_ref().is_some_and(|peer| peer.in_sync)),
            diverged: self.memory.diverged.clone(),
            allowed: self.allowed(&here.token),
        }
    }

    /// Both at once: a start must not wait for one after the other. Unless the catalog names another one than the token, or there is
    /// no token: that of a data directory which was put back on another volume is not there.
    async fn row_and_peer(&mut self, here: &Here, begins: Option<Begins>) -> (Look<RowHere>, Look<PeerHere>) {
        let (config, known) = (self.config.clone(), here.other_side());
        let ask = async |other: Option<&Other>| match here.shaped.shape {
            Shape::Primary | Shape::Mirror => peer::ask(&config, other, begins.as_ref()).await,
            Shape::Unknown | Shape::Empty | Shape::Unusable => Look::Unknown("not asked".into()),
        };
        let (row, peer) = tokio::join!(self.row(here), ask(known.as_ref()));
        let place = |other: &Other| (other.peer.dbid, other.peer.address.clone(), other.peer.port);
        match self.other_by_catalog(here, &row).filter(|now| known.as_ref().map(place) != Some(place(now))) {
            Some(now) => (row, ask(Some(&now)).await),
            None => (row, peer),
        }
    }

    /// What a person says of coordinators, as far as it counts for this volume.
    fn allowed(&self, token: &TokenState) -> Option<Allowed> {
        match token {
            TokenState::Mine(token) => Allowed::unless_spent(self.memory.allowed, token),
            TokenState::Absent | TokenState::Foreign(_) => self.memory.allowed,
        }
    }

    fn unusable_now(&self, row: &Look<RowHere>, shape: Shape) -> Option<String> {
        let left = self.memory.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        counts(self.memory.unusable.as_deref()?, row, shape, left)
    }

    pub(super) async fn ask_others(&mut self, here: &Here, begins: Option<Begins>) -> Look<OtherHere> {
        let other = others::ask(&self.config, &Own { begins, ..self.own(here) }).await;
        if let Look::Seen(OtherHere::Overtook(timeline)) = other {
            self.remember_who_overtook(timeline);
        }
        other
    }

    /// This coordinator, as others know it.
    pub(super) fn own(&self, here: &Here) -> Own {
        let system_identifier = here.shaped.control.as_ref().map(|control| control.system_identifier);
        Own { timeline: self.board.page().timeline, system_identifier, begins: None }
    }

    /// How long the other coordinators have been silent counts from the first time that one was.
    fn alone(&mut self, other: &Look<OtherHere>) -> Alone {
        if self.memory.dispatched.is_some_and(|at| at.elapsed() < IN_PLACE) {
            return Alone::InPlace;
        }
        if other.seen().is_some() {
            self.memory.peer_silent_since = None;
            return Alone::Waits;
        }
        if let Some((_, why)) = self.memory.refuted.as_ref().filter(|(at, _)| at.elapsed() < REFUTED) {
            return Alone::Refuted(why.clone());
        }
        let since = *self.memory.peer_silent_since.get_or_insert_with(Instant::now);
        if since.elapsed() > Duration::from_secs(self.config.coordinator_wait) { Alone::Waited } else { Alone::Waits }
    }

    /// Asked only for a mirror that may start: the acting primary by its row or, without a coordinator, by the row of before.
    async fn ask_primary(&self, here: &Here, row: &Look<RowHere>, reaches: Look<Reach>) -> Look<PrimaryHere> {
        let may_start = match row {
            Look::Seen(RowHere::Mine { role, .. }) => *role == Role::Mirror,
            Look::Seen(RowHere::NotMine(_)) => false,
            Look::Unknown(_) => true,
        };
        if !may_start || here.shaped.shape != Shape::Mirror {
            return Look::Unknown("not asked".into());
        }
        let reaches = match reaches {
            Look::Seen(reaches) => reaches,
            Look::Unknown(why) => return Look::Unknown(why),
        };
        let copy = CopyHere { reaches, followed: self.board.page().followed };
        if here.content == Some(Content::COORDINATOR) {
            let page = others::source(&self.config, &self.own(here)).await;
            return ask::by_page(&copy, page.seen()).unwrap_or_else(|| Look::Unknown("nothing shows another history".into()));
        }
        match self.other_by_catalog(here, row) {
            Some(primary) => ask::primary(&self.config, &primary, &copy).await,
            None => Look::Unknown("the catalog was not read".into()),
        }
    }

    /// The other side by the catalog that was just read or, without one, as it was before.
    fn other_by_catalog(&self, here: &Here, row: &Look<RowHere>) -> Option<Other> {
        let other = here.other_side();
        let (Some(answer), Some(_)) = (&self.memory.answer, row.seen()) else { return other };
        let (content, own) = (here.content?, here.dbid?);
        let peer = ask::peer_of(&answer.catalog, content, own)?;
        let system_identifier = here.shaped.control.as_ref().map(|control| control.system_identifier);
        Some(Other { peer, content, system_identifier })
    }

    async fn row(&mut self, here: &Here) -> Look<RowHere> {
        match self.read_catalog(here).await {
            Look::Seen(answer) => ask::row_here(&self.config, &answer.catalog, here.dbid),
            Look::Unknown(why) => Look::Unknown(why.to_string()),
        }
    }

    async fn start(&mut self, lock: Held, here: &Here, facts: &Facts, decision: &Decision) -> anyhow::Result<Round> {
        self.memory.stays = 0;
        if let Err(error) = self.adopt(here) {
            anyhow::ensure!(matches!(here.token, TokenState::Mine(_)), "the volume cannot be adopted: {error:#}");
            tracing::warn!(%error, "the token could not be brought up to date");
        }
        self.forget_replaced(facts);
        // Only under the lock: a pid of another namespace proves nothing, and a live postmaster whose file is gone ends itself.
        let _ = std::fs::remove_file(self.volume.data().join("postmaster.pid"));
        mend::mode(self.volume.data(), here.shaped.dialect);
        if let Some(last) = &self.memory.last_exit {
            mend::socket_lock(&last.evidence, self.config.port);
        }
        self.keep_passfile();
        self.show_starting();
        self.begin_incarnation(here);
        let primary = matches!(facts.row, Look::Seen(RowHere::Mine { role: Role::Primary, .. }));
        match decision {
            Decision::StartCoordinator => self.run_coordinator(lock, here).await,
            Decision::Start | Decision::Dispatch | Decision::Stay(..) | Decision::Replaced(_) => self.run_segment(lock, primary).await,
        }
    }

    /// A hold whose attempt is dead: its heartbeat is old and nobody holds the lock but us. One that cannot be removed
    /// stands, and is told as any other.
    fn end_dead_hold(&self, _lock: &Held) {
        if let Some(hold) = self.volume.marks().hold.filter(|hold| is_dead(hold.heartbeat)) {
            tracing::warn!(attempt = hold.attempt, "its attempt is gone; the hold is ended");
            if let Err(error) = self.volume.remove("hold") {
                tracing::warn!(%error, "the hold could not be ended");
            }
        }
    }

    fn too_soon(&self) -> bool {
        self.memory.not_before.is_some_and(|at| at > Instant::now())
    }

    fn crash_story(&self) -> String {
        let last =
            self.memory.last_exit.as_ref().map_or(String::new(), |exit| format!("; last: {} {} {}", exit.how, exit.class, exit.evidence));
        format!("{} crashes in a row{last}", self.memory.crashes)
    }

    /// Shows why postgres does not run, and waits until something may have changed. The lock is free meanwhile.
    pub(super) async fn stay(&mut self, state: InstanceState, why: String) -> anyhow::Result<Round> {
        if self.board.page().state != self.shown(state) {
            self.memory.stays = 0;
        }
        let shown = self.shown(state);
        self.board.show(|page| {
            (page.state, page.detail, page.serves, page.receiving) = (shown, why, None, false);
            page.forget_postgres();
        });
        let until = Instant::now() + jittered(patience(state, self.memory.stays));
        self.memory.stays += 1;
        let marks = self.volume.marks();
        let apart = if state == InstanceState::Held { HELD } else { MARKS };
        loop {
            tokio::select! {
                woken = self.signals.next() => match woken {
                    Woken::ToEnd => return Ok(Round::End),
                    Woken::ByChild => drop(super::process::reap(None)),
                },
                () = tokio::time::sleep(apart) => {}
            }
            self.heed_person();
            let now = self.volume.marks();
            let over = Instant::now() >= until;
            self.show_volume(&now);
            if self.is_squatted(state) {
                return Ok(Round::Again);
            }
            match state {
                // A heartbeat is no change; a hold that lives is waited for without asking anybody.
                InstanceState::Held if now.hold.as_ref().is_some_and(|hold| !is_dead(hold.heartbeat)) => {}
                InstanceState::Held if now.hold.is_none() => return Ok(Round::Again),
                // Its attempt is dead, and somebody else has the lock: as often as any other who has.
                _ if over || without_heartbeat(&now) != without_heartbeat(&marks) => return Ok(Round::Again),
                _ => {}
            }
        }
    }
}

fn without_heartbeat(marks: &Marks) -> Marks {
    let mut marks = marks.clone();
    if let Some(hold) = &mut marks.hold {
        hold.heartbeat = Timestamp::UNIX_EPOCH;
    }
    marks
}

/// How long to wait before the next look. A coordinator has a few hundred connections for everyone, so
/// what does not pass soon is asked about less and less, up to once a minute.
pub(super) fn patience(state: InstanceState, stays: u32) -> Duration {
    let most = match state {
        InstanceState::LockBusy | InstanceState::HeldElsewhere | InstanceState::BackingOff => 1,
        // Nobody is asked by one that cannot look at its own volume.
        InstanceState::Deciding
        | InstanceState::StayingDown
        | InstanceState::Held
        | InstanceState::WaitingForPeer
        | InstanceState::WaitingForPrimary
        | InstanceState::PutBack
        | InstanceState::PrimaryDataMissing => 2,
        // Right after its start a coordinator has all of them at its door.
        InstanceState::WaitingForCoordinator => 5,
        InstanceState::NeedsRecovery | InstanceState::NeedsFull | InstanceState::Replaced | InstanceState::CatalogOutdated => 15,
        InstanceState::Starting
        | InstanceState::Serving
        | InstanceState::NotAnswering
        | InstanceState::Stopping
        | InstanceState::Unkillable
        | InstanceState::CopyUnfinished
        | InstanceState::VolumeUnrecognised
        | InstanceState::NotInCatalog
        | InstanceState::Retired
        | InstanceState::Maintenance
        | InstanceState::WaitingForSegments => 60,
    };
    Duration::from_secs(u64::from(stays + 1).min(most))
}

/// Between three quarters and five quarters of it: what fell together does not ask together.
pub(super) fn jittered(pause: Duration) -> Duration {
    let spread = u64::from(Timestamp::now().subsec_nanosecond().unsigned_abs() % 512);
    pause * 3 / 4 + pause.mul_f64(0.5 * f64::from(u32::try_from(spread).unwrap_or(0)) / 512.0)
}
