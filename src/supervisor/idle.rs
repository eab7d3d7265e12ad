//! The round while postgres does not run: lock, then marks, then catalog, then start, in this order.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Round, Supervisor, Woken, ask,
    decide::{Decision, Facts, PeerHere, PrimaryHere, RowHere, by_marks, decide},
    is_dead,
};
use crate::{
    greenplum::wal,
    model::{Content, Dbid, InstanceState, Look, Role, page::Shape},
    volume::{
        Held, LockError, Marks, Token, TokenState, places,
        shape::{self, Shaped},
    },
};

/// How often the marks are looked at.
pub(super) const MARKS: Duration = Duration::from_millis(250);
/// And while an attempt works on the volume: when it is done, the mirror is to start at once.
const HELD: Duration = Duration::from_millis(100);

/// The directory and who it says that it is.
pub(super) struct Here {
    pub shaped: Shaped,
    pub dbid: Option<Dbid>,
    pub content: Option<Content>,
    pub token: TokenState,
}

impl Supervisor {
    /// One decision and what follows from it.
    pub(super) async fn round(&mut self) -> anyhow::Result<Round> {
        if self.signals.ending {
            return Ok(Round::End);
        }
        let said = self.heed_person();
        let lock = match self.volume.try_lock(&self.config.holder(), said.gone_node.as_deref()) {
            Ok(lock) => lock,
            Err(LockError::Busy(who)) => return self.stay_out(&who).await,
            Err(error @ LockError::Elsewhere(_)) => return self.stay(InstanceState::HeldElsewhere, error.to_string()).await,
            Err(error) => return self.stay(InstanceState::Deciding, error.to_string()).await,
        };
        if let Some(pid) = self.volume.squatter() {
            drop(lock);
            return self.stay(InstanceState::LockBusy, format!("process {pid} lives in the data directory without the lock")).await;
        }
        self.end_dead_hold(&lock)?;
        let marks = self.volume.marks();
        let here = self.look_here(&marks);
        if let (Some(Decision::Stay(state, why)), false) = (by_marks(&marks), marks.maintenance) {
            drop(lock);
            return self.stay(state, why).await;
        }
        let facts = self.facts(marks, &here).await;
        match decide(&facts) {
            Decision::Stay(state, why) => {
                if state == InstanceState::NeedsRecovery {
                    self.adopt_or_warn(&here);
                }
                drop(lock);
                self.stay(state, why).await
            }
            _ if self.too_soon() => {
                drop(lock);
                self.stay(InstanceState::BackingOff, self.crash_story()).await
            }
            decision => self.start(lock, &here, &facts, &decision).await,
        }
    }

    /// Somebody else has the lock: the attempt that asked for it, or one that nobody knows.
    async fn stay_out(&mut self, who: &str) -> anyhow::Result<Round> {
        match by_marks(&self.volume.marks()) {
            Some(Decision::Stay(InstanceState::Held, why)) => self.stay(InstanceState::Held, why).await,
            _ => self.stay(InstanceState::LockBusy, format!("held by: {who}")).await,
        }
    }

    /// The directory, the token, and the page's share of both.
    pub(super) fn look_here(&mut self, marks: &Marks) -> Here {
        self.forget_what_was_repaired();
        let shaped = shape::look(self.volume.data());
        let token = self.volume.token(&self.config.cluster, &self.config.address, self.config.port);
        let (mut dbid, mut content) = places::identity(self.volume.data());
        if let TokenState::Mine(token) = &token {
            (dbid, content) = (dbid.or(Some(token.dbid)), content.or(Some(token.content)));
        }
        self.show_volume(marks);
        self.board.show(|page| {
            (page.dbid, page.content, page.shape) = (dbid, content, shaped.shape);
            page.system_identifier = shaped.control.as_ref().map(|c| c.system_identifier);
            page.timeline = shaped.control.as_ref().map(crate::greenplum::control::ControlData::newest_timeline);
        });
        Here { shaped, dbid, content, token }
    }

    /// What the last end of postgres showed of this directory is no news once an attempt has changed it.
    fn forget_what_was_repaired(&mut self) {
        let attempt = self.volume.result().map(|result| result.attempt);
        if attempt != self.memory.attempt {
            (self.memory.unusable, self.memory.diverged, self.memory.crashes, self.memory.not_before) = (None, None, 0, None);
            self.memory.attempt = attempt;
        }
    }

    /// How long the other coordinator has been silent counts from the first time that it was.
    fn waited_for(&mut self, peer: &Look<PeerHere>) -> bool {
        if peer.seen().is_some() {
            self.memory.peer_silent_since = None;
            return false;
        }
        let since = *self.memory.peer_silent_since.get_or_insert_with(Instant::now);
        since.elapsed() > Duration::from_secs(self.config.coordinator_wait)
    }

    async fn facts(&mut self, marks: Marks, here: &Here) -> Facts {
        let coordinator = here.content == Some(Content::COORDINATOR);
        let row = if coordinator { Look::Unknown("it is the coordinator".into()) } else { self.row(here.dbid).await };
        let remembered = match &here.token {
            TokenState::Mine(token) => token.peer.clone(),
            _ => None,
        };
        let timeline = self.board.page().timeline;
        let peer = if coordinator {
            let peer = ask::other_coordinator(&self.config, timeline).await;
            self.remember_who_overtook(here, &peer);
            peer
        } else if row.seen().is_none() && here.shaped.shape == Shape::Primary {
            ask::peer(&self.config, remembered.as_ref()).await
        } else {
            Look::Unknown("not asked".into())
        };
        Facts {
            waited_for_peer: self.waited_for(&peer),
            primary: self.ask_primary(here, &row).await,
            marks,
            token: here.token.clone(),
            shape: here.shaped.shape,
            shape_why: here.shaped.why.clone(),
            content: here.content,
            timeline,
            row,
            peer,
            was_in_sync: remembered.is_some_and(|peer| peer.in_sync),
            unusable: self.memory.unusable.clone(),
            diverged: self.memory.diverged.clone(),
        }
    }

    /// The other coordinator may be silent the next time.
    fn remember_who_overtook(&self, here: &Here, peer: &Look<PeerHere>) {
        let (TokenState::Mine(token), Look::Seen(PeerHere::Overtook(timeline))) = (&here.token, peer) else { return };
        let token = Token { coordinator_timeline: token.coordinator_timeline.max(*timeline), ..(**token).clone() };
        if let Err(error) = self.volume.write_token(&token) {
            tracing::warn!(%error, "that the other coordinator has taken over could not be written down");
        }
    }

    /// Asked only for a mirror that may start.
    async fn ask_primary(&self, here: &Here, row: &Look<RowHere>) -> Look<PrimaryHere> {
        let (Look::Seen(RowHere::Mine { role: Role::Mirror, .. }), Shape::Mirror) = (row, here.shaped.shape) else {
            return Look::Unknown("not asked".into());
        };
        let (Some(answer), Some(content), Some(dialect)) = (&self.memory.answer, here.content, here.shaped.dialect) else {
            return Look::Unknown("the catalog was not read".into());
        };
        let log = match wal::end(&self.volume.data().join(dialect.wal_folder())) {
            Ok(log) => log,
            Err(error) => return Look::Unknown(format!("the log can not be read: {error}")),
        };
        let Some(reach) = wal::reach(here.shaped.control.as_ref(), log) else { return Look::Unknown("there is no log".into()) };
        ask::primary(&self.config, &answer.catalog, content, reach).await
    }

    async fn row(&mut self, dbid: Option<Dbid>) -> Look<RowHere> {
        match self.read_catalog().await {
            Look::Seen(answer) => Look::Seen(ask::row_here(&self.config, &answer.catalog, dbid)),
            Look::Unknown(why) => Look::Unknown(why.to_string()),
        }
    }

    async fn start(&mut self, lock: Held, here: &Here, facts: &Facts, decision: &Decision) -> anyhow::Result<Round> {
        self.memory.stays = 0;
        if let Err(error) = self.adopt(here) {
            anyhow::ensure!(matches!(here.token, TokenState::Mine(_)), "the volume can not be adopted: {error:#}");
            tracing::warn!(%error, "the token could not be brought up to date");
        }
        // Only under the lock: a pid of another namespace proves nothing, and a live postmaster whose file is gone ends itself.
        let _ = std::fs::remove_file(self.volume.data().join("postmaster.pid"));
        self.config.write_passfile()?;
        let primary = matches!(facts.row, Look::Seen(RowHere::Mine { role: Role::Primary, .. }));
        match decision {
            Decision::StartCoordinator => self.run_coordinator(lock).await,
            _ => self.run_segment(lock, primary).await,
        }
    }

    /// A stale primary that came under a supervisor after it was replaced never starts, and its repair wants the token: it
    /// has the database, dbid and place of its row, which is all that a first start asks for.
    fn adopt_or_warn(&self, here: &Here) {
        if let Err(error) = self.adopt(here) {
            tracing::warn!(%error, "the volume could not be adopted");
        }
    }

    /// Writes the token at the first start, and what was learned from the catalog since.
    pub(super) fn adopt(&self, here: &Here) -> anyhow::Result<()> {
        let (Some(dbid), Some(content), Some(control)) = (here.dbid, here.content, &here.shaped.control) else { return Ok(()) };
        if matches!(here.token, TokenState::Foreign(_)) {
            return Ok(()); // a person works here (maintenance); whose volume it is stays written
        }
        let old = match &here.token {
            TokenState::Mine(token) => Some((**token).clone()),
            _ => None,
        };
        let mut token = old.clone().unwrap_or_else(|| Token {
            cluster: self.config.cluster.clone(),
            system_identifier: control.system_identifier,
            dbid,
            content,
            address: self.config.address.clone(),
            port: self.config.port,
            data_directory: self.config.data_directory.to_string_lossy().into_owned(),
            coordinator_timeline: crate::model::Timeline(0),
            peer: None,
            followed: vec![],
            replaced: None,
            coordinator: None,
            adopted: Timestamp::now(),
        });
        if let Some(answer) = &self.memory.answer {
            token.coordinator_timeline = token.coordinator_timeline.max(answer.timeline);
            token.peer = ask::peer_of(&answer.catalog, content, dbid).or(token.peer);
        }
        if old.as_ref() != Some(&token) {
            self.volume.write_token(&token)?;
        }
        Ok(())
    }

    /// A hold whose attempt is dead: its heartbeat is old and nobody holds the lock but us.
    fn end_dead_hold(&self, _lock: &Held) -> anyhow::Result<()> {
        if let Some(hold) = self.volume.marks().hold.filter(|hold| is_dead(hold.heartbeat)) {
            tracing::warn!(attempt = hold.attempt, "its attempt is gone; the hold is ended");
            self.volume.remove("hold")?;
        }
        Ok(())
    }

    fn too_soon(&self) -> bool {
        self.memory.not_before.is_some_and(|at| at > Instant::now())
    }

    fn crash_story(&self) -> String {
        let last =
            self.memory.last_exit.as_ref().map_or(String::new(), |exit| format!("; last: {} {:?} {}", exit.how, exit.class, exit.evidence));
        format!("{} crashes in a row{last}", self.memory.crashes)
    }

    /// Shows why postgres does not run, and waits until something may have changed. The lock is free meanwhile.
    async fn stay(&mut self, state: InstanceState, why: String) -> anyhow::Result<Round> {
        if self.board.page().state != self.shown(state) {
            self.memory.stays = 0;
        }
        let shown = self.shown(state);
        self.board.show(|page| (page.state, page.detail, page.serves, page.receiving) = (shown, why, None, false));
        let until = Instant::now() + patience(state, self.memory.stays);
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
            match state {
                // A heartbeat is no change; a hold that lives is waited for without asking anybody.
                InstanceState::Held if now.hold.as_ref().is_some_and(|hold| !is_dead(hold.heartbeat)) => {}
                InstanceState::Held => return Ok(Round::Again),
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
fn patience(state: InstanceState, stays: u32) -> Duration {
    let most = match state {
        InstanceState::LockBusy | InstanceState::HeldElsewhere | InstanceState::BackingOff => 1,
        InstanceState::StayingDown
        | InstanceState::WaitingForCoordinator
        | InstanceState::WaitingForPeer
        | InstanceState::WaitingForPrimary => 2,
        InstanceState::NeedsRecovery | InstanceState::NeedsFull | InstanceState::PrimaryDataMissing => 15,
        _ => 60,
    };
    Duration::from_secs(u64::from(stays + 1).min(most))
}
