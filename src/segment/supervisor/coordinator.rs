//! A coordinator's start in two steps, like gpstart: first in utility mode, so that segments can ask
//! for their rows, then in dispatch mode. Dispatching at once makes FTS flip every content of a cold
//! cluster within seconds (docs/greenplum.md#a-coordinators-start).

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Round, Supervisor, Woken, ask,
    facts::OtherHere,
    idle::Here,
    others::{self, Witnesses},
    process::{self, Postgres},
};
use crate::volume::Held;
use greenplum::{Dialect, Server, Session, SessionError};
use model::{Content, InstanceState, Look, Role};

/// Between two looks at the segments.
const LOOK: Duration = Duration::from_millis(500);

/// Between two looks of a coordinator that may not dispatch yet.
const UNSURE: Duration = Duration::from_secs(2);

/// How the first step ended.
enum First {
    Ready,
    Told,
    Ended(process::End),
    /// Another coordinator has taken over, or may have: it is to be decided anew.
    Doubtful,
}

/// Whether it may dispatch.
enum May<T> {
    Dispatch,
    /// Another one may have taken over.
    Not,
    /// Not enough is known: why, or how long to wait until it is asked again.
    NotYet(T),
}

impl Supervisor {
    /// Runs the coordinator: utility mode until the segments live, then dispatch mode.
    pub(super) async fn run_coordinator(&mut self, lock: Held, here: &Here) -> anyhow::Result<Round> {
        let dialect = here.shaped.dialect.unwrap_or(Dialect::Seven);
        let postgres = self.spawn(dialect.coordinator_utility_arguments(), &lock)?;
        let first = self.wait_for_segments(&postgres, here).await;
        match first {
            First::Ended(end) => {
                tracing::warn!(%end, "the coordinator ended in utility mode");
                self.kill_all(&postgres).await;
                self.memory.crashes += 1;
                self.memory.not_before = Some(Instant::now() + Duration::from_secs(2));
                Ok(Round::Again)
            }
            First::Told => {
                self.stop(&postgres, true).await;
                Ok(Round::End)
            }
            First::Doubtful => {
                self.stop(&postgres, true).await;
                Ok(if self.signals.ending { Round::End } else { Round::Again })
            }
            First::Ready => {
                self.stop(&postgres, true).await;
                if self.signals.ending {
                    return Ok(Round::End);
                }
                if let Some(timeline) = self.board.page().timeline {
                    self.heed_of_coordinators(timeline);
                }
                self.run_segment(lock, true).await
            }
        }
    }

    async fn wait_for_segments(&mut self, postgres: &Postgres, here: &Here) -> First {
        let mut told = self.signals.told();
        let deadline = Instant::now() + Duration::from_secs(self.config.coordinator_wait);
        loop {
            // What is asked may take long; the end of the pod does not wait for it.
            let pause = tokio::select! {
                () = told.heard() => return First::Told,
                may = self.may_go_on(here, deadline) => match may {
                    May::Dispatch => return First::Ready,
                    May::Not => return First::Doubtful,
                    May::NotYet(pause) => pause,
                },
            };
            tokio::select! {
                woken = self.signals.next() => if woken == Woken::ToEnd { return First::Told },
                () = tokio::time::sleep(pause) => {}
            }
            if let Some(end) = postgres.reap() {
                return First::Ended(end);
            }
        }
    }

    /// One look at the segments, or, when they all live or have been waited for, at the other coordinators.
    async fn may_go_on(&mut self, here: &Here, deadline: Instant) -> May<Duration> {
        let missing = self.missing_segments().await;
        let (state, why, pause) = if missing.is_empty() || Instant::now() >= deadline {
            match self.may_dispatch(here).await {
                May::Dispatch => return May::Dispatch,
                May::Not => return May::Not,
                May::NotYet(why) => (InstanceState::WaitingForPeer, why, UNSURE),
            }
        } else {
            (InstanceState::WaitingForSegments, missing.join("; "), LOOK)
        };
        self.board.show(|page| (page.state, page.detail) = (state, why));
        May::NotYet(pause)
    }

    /// Asked once more right before it dispatches: much may have happened since it was started.
    async fn may_dispatch(&mut self, here: &Here) -> May<String> {
        let silent = match self.ask_others(here, None).await {
            Look::Seen(OtherHere::Overtook(_) | OtherHere::Rivals(_)) => return May::Not,
            // What a standby holds is judged before postgres is started.
            Look::Seen(OtherHere::Behind | OtherHere::HoldsMore(_)) => return May::Dispatch,
            Look::Unknown(silent) => silent,
        };
        let own = others::own_catalog(&self.config).await.and_then(|catalog| match ask::row_here(&self.config, &catalog, here.dbid) {
            Look::Seen(row) => Ok((catalog, row)),
            Look::Unknown(why) => Err(why),
        });
        let (catalog, row) = match own {
            Ok(own) => own,
            Err(why) => {
                return May::NotYet(format!("the other coordinator is silent ({silent}), and the own catalog cannot be read: {why}"));
            }
        };
        if !others::is_acting(&row) {
            return May::NotYet(format!(
                "the other coordinator is silent ({silent}), and by its own catalog this one is not the acting one"
            ));
        }
        let Some(timeline) = self.board.page().timeline else { return May::NotYet("its own timeline is not known".into()) };
        self.hear(others::witnesses(&self.config, &catalog, timeline).await, &silent)
    }

    fn hear(&mut self, witnesses: Witnesses, silent: &str) -> May<String> {
        match witnesses {
            Witnesses::ForUs => May::Dispatch,
            Witnesses::TooFew { answer, contents } => May::NotYet(format!(
                "the other coordinator is silent ({silent}); of {contents} contents {answer} say that they have seen none on a higher timeline, \
                 a majority has to"
            )),
            // A person lets it be believed nevertheless: while it answers, the segments learn that.
            Witnesses::Against(why) if self.memory.allowed.is_some() => May::NotYet(why),
            Witnesses::Against(why) => {
                self.memory.refuted = Some((Instant::now(), why));
                May::Not
            }
        }
    }

    /// The contents whose acting primary does not live yet; not being able to read the catalog is one too.
    async fn missing_segments(&self) -> Vec<String> {
        let catalog = match others::own_catalog(&self.config).await {
            Ok(catalog) => catalog,
            Err(why) => return vec![why],
        };
        let primaries = catalog.rows.iter().filter(|row| row.content != Content::COORDINATOR && row.role == Role::Primary);
        let looks = primaries.map(|row| {
            let server = Server::new(&row.address, row.port);
            let (this, dbid) = (&*self, row.dbid);
            async move { this.lives(&server).await.err().map(|why| format!("dbid {dbid}: {why}")) }
        });
        futures::future::join_all(looks).await.into_iter().flatten().collect()
    }

    /// Lives: it answers, or it is a mirror in recovery that FTS has to promote once we dispatch.
    async fn lives(&self, server: &Server) -> Result<(), String> {
        let login = self.config.login().map_err(|e| e.to_string())?;
        match Session::short(server, &login, None).await {
            Ok(_) | Err(SessionError::InRecovery(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}
