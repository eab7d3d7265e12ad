//! Pid 1 of an instance's container: decides whether postgres may start, and whether it may go on.
//!
//! `decide` is the table (pure), `idle` is the loop while postgres does not run, `watch` the one
//! while it does, `coordinator` the coordinator's start in two steps. Without Kubernetes credentials;
//! it knows the volume, the catalog and, when there is no catalog, the peer.

mod acknowledged;
mod alone;
mod ask;
pub mod board;
pub mod check;
pub mod config;
mod coordinator;
pub mod crash;
pub mod decide;
mod effort;
mod ends;
mod facts;
mod faults;
mod frozen;
mod hang;
mod history;
mod idle;
mod killing;
pub mod logins;
mod mirror;
mod others;
mod peer;
mod person;
mod process;
mod questions;
mod remember;
mod serving;
mod squatter;
mod walsender;
mod watch;
mod works;

use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use ask::{Known, catalog as ask_for_catalog};
pub use config::{Config, TlsOptions};
pub use logins::{NoCredentials, login, write_passfile};

use self::{
    ask::{Answer, NotRead},
    board::Board,
};
use crate::volume::Volume;
use greenplum::topology::Scope;
use model::{Dbid, InstanceState, Look, Timeline, page::LastExit};

/// How long a place that has waited so often for a coordinator waits before it asks once more.
pub fn before_it_asks_again(waits: u32) -> Duration {
    idle::jittered(idle::patience(InstanceState::WaitingForCoordinator, waits))
}

/// Everything that the two loops share.
struct Supervisor {
    config: Config,
    volume: Volume,
    board: Board,
    signals: Signals,
    memory: Memory,
}

/// What is remembered while the process lives; all that must outlive it stands on the volume.
#[derive(Default)]
struct Memory {
    /// Ends of postgres that nobody asked for, since it last served for a while.
    crashes: u32,
    /// The directory cannot be started from, as its last end showed.
    unusable: Option<String>,
    /// It follows a history that is not its primary's, as its last end showed.
    diverged: Option<String>,
    last_exit: Option<LastExit>,
    /// Restarts within a postmaster that lives, since it last served for a while.
    restarts: u32,
    /// Ends of both kinds since the newest attempt, however long it served in between.
    ends: u32,
    /// Why its WAL receiver does not stream, as that said.
    receiver_error: Option<String>,
    /// Not to be started before.
    not_before: Option<tokio::time::Instant>,
    /// The newest answer of a coordinator.
    answer: Option<Answer>,
    /// The attempt whose result stands on the volume, as last seen, with the uid of its recovery.
    attempt: Option<(String, Option<String>)>,
    /// When this coordinator crashed while it dispatched, and had asked the others a moment before.
    dispatched: Option<tokio::time::Instant>,
    /// When segments were found to know, or perhaps to know, of a higher timeline than this coordinator's, and what was seen.
    refuted: Option<(tokio::time::Instant, String)>,
    /// The timeline down to which a person allows a coordinator to be believed, whether or not that counts any more.
    allowed: Option<person::Allowed>,
    /// postgres has just ended by itself as a primary: when its log was last seen to be written. The next round takes it, so that it
    /// says nothing once postgres was kept down for any other reason, and somebody may have put other files there.
    crashed: Option<std::time::SystemTime>,
    /// Since when the other side does not tell how far its log reaches.
    unsettled_since: Option<tokio::time::Instant>,
    /// Since when the other coordinator has not answered.
    peer_silent_since: Option<tokio::time::Instant>,
    /// Removes the directory that a full copy replaced.
    removal: Option<std::thread::JoinHandle<()>>,
    /// How often in a row the same decision to stay down was made; the next look is later each time.
    stays: u32,
    /// Why the password file is not up to date, as last said.
    passfile_fault: Option<String>,
    /// Why a lock on this volume proves nothing, wherever it is.
    shared_volume: Option<String>,
    /// When a mirror's postgres was last killed because it was stopped.
    frozen: Option<tokio::time::Instant>,
    /// Rounds in a row that something kept from being carried out.
    faults: u32,
}

struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// We were told to end, however long ago.
    ending: bool,
    /// The same for who waits for something else.
    told: tokio::sync::watch::Receiver<bool>,
}

/// Whether we were told to end, for as long as something else is waited for.
struct Told(tokio::sync::watch::Receiver<bool>);

impl Told {
    /// Ends when we were told to.
    async fn heard(&mut self) {
        if self.0.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let (tell, told) = tokio::sync::watch::channel(false);
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            let _ = tell.send(true);
        });
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            ending: false,
            told,
        })
    }

    fn told(&self) -> Told {
        Told(self.told.clone())
    }

    /// The next signal that concerns us.
    async fn next(&mut self) -> Woken {
        let woken = tokio::select! {
            _ = self.child.recv() => Woken::ByChild,
            _ = self.terminate.recv() => Woken::ToEnd,
            _ = self.interrupt.recv() => Woken::ToEnd,
        };
        self.ending |= woken == Woken::ToEnd;
        woken
    }
}

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    ByChild,
    ToEnd,
}

/// What comes after a round of either loop.
enum Round {
    Again,
    /// We were told to end, and nothing runs any more.
    End,
}

/// Runs until told to end. Once postgres may run, nothing else ends this process: every process of the container dies with it.
///
/// # Errors
/// When the volume cannot be guarded at all: kubelet shows it and tries again.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let board = Board::new(&config);
    let mut signals = Signals::new()?;
    let page = board::serve(board.clone(), config.listen);
    let guarded = async {
        let Some(volume) = faults::open(&config, &board, &mut signals).await? else { return Ok(()) };
        let mut supervisor = Supervisor { signals, config: config.clone(), volume, board: board.clone(), memory: Memory::default() };
        supervisor.rounds().await;
        Ok(())
    };
    tokio::select! {
        never = page => match never {},
        ended = guarded => ended,
    }
}

impl Supervisor {
    async fn rounds(&mut self) {
        self.volume.sweep();
        loop {
            self.keep_passfile();
            self.judge_mount();
            let round = match self.round().await {
                Ok(round) => {
                    self.memory.faults = 0;
                    round
                }
                Err(error) => self.after_fault(&error).await,
            };
            match round {
                Round::Again => {}
                Round::End => return,
            }
        }
    }

    /// Reads the catalog and remembers the answer.
    async fn read_catalog(&mut self, here: &idle::Here) -> Look<Answer, NotRead> {
        self.board.counts.catalog_reads.inc();
        let look = ask::catalog(&self.config, self.known(here)).await;
        self.remember(&look, here.dbid);
        look
    }

    /// What the coordinators' answers are held against, and which rows are asked for.
    fn known(&self, here: &idle::Here) -> ask::Known {
        let scope = here.content.zip(here.dbid).map_or(Scope::All, |(content, dbid)| Scope::Of(content, dbid));
        match self.volume.token(&self.config.cluster, &self.config.address, self.config.port) {
            // A coordinator that was put back on an older copy of itself is believed when a person says so.
            crate::volume::TokenState::Mine(token) => ask::Known {
                seen: person::Allowed::floor(person::Allowed::unless_spent(self.memory.allowed, &token), token.coordinator_timeline),
                coordinator: token.coordinator,
                spent: token.coordinator_word.as_deref().and_then(person::Allowed::parse),
                scope,
            },
            crate::volume::TokenState::Absent | crate::volume::TokenState::Foreign(_) => {
                ask::Known { seen: Timeline(0), coordinator: None, spent: None, scope }
            }
        }
    }

    /// Of a coordinator that does not know this place nothing is learned.
    fn remember(&mut self, look: &Look<Answer, NotRead>, dbid: Option<Dbid>) {
        let Look::Seen(answer) = look else { return };
        self.memory.answer = Some(answer.clone());
        match ask::row_here(&self.config, &answer.catalog, dbid) {
            Look::Seen(facts::RowHere::Mine { .. }) => self.heed_of_coordinators(answer.timeline),
            Look::Seen(facts::RowHere::NotMine(_)) | Look::Unknown(_) => {}
        }
    }

    /// While a person works here the page says so and nothing else, so that everybody keeps away.
    fn shown(&self, state: model::InstanceState) -> model::InstanceState {
        // A mark that cannot be looked at now says what it said before.
        let before = || self.board.page().state == model::InstanceState::Maintenance;
        let works = self.volume.stands("maintenance").unwrap_or_else(|_| before());
        if works { model::InstanceState::Maintenance } else { state }
    }

    /// Puts what stands on the volume onto the page.
    fn show_volume(&self, marks: &crate::volume::Marks) {
        let result = self.volume.result();
        self.board.show(|page| {
            page.hold = marks.hold.as_ref().map(|h| model::page::HoldSeen { attempt: h.attempt.clone(), heartbeat: h.heartbeat });
            page.copy = marks.copy.is_some();
            page.result = result;
            page.crashes = self.memory.crashes;
            page.last_exit.clone_from(&self.memory.last_exit);
            page.restarts = self.memory.restarts;
            page.receiver_error.clone_from(&self.memory.receiver_error);
        });
    }
}

/// How old a hold's heartbeat has to be before nobody stands behind it. A Job renews it every 5 s and
/// holds the lock while it works, so an old heartbeat together with a free lock means that it is gone.
const DEAD_HOLD: Duration = Duration::from_mins(1);

fn is_dead(heartbeat: Timestamp) -> bool {
    // In either direction: a clock may have been set back.
    Timestamp::now().duration_since(heartbeat).abs().as_secs() > DEAD_HOLD.as_secs().cast_signed()
}
