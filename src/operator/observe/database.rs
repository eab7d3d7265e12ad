//! Looks at the database: catalog and history by a kept session to the coordinator, every acting primary
//! by a kept session of its own. Each look is bounded; what does not answer is unknown, not down.

use std::{collections::BTreeMap, future::Future, time::Duration};

use futures::{StreamExt, stream};
use tokio::time::Instant;

use greenplum::{
    Dialect, Login, Server, Session, SessionError, replication,
    topology::{self, Written},
};
use model::{Catalog, Content, Dbid, Look, Row, Source, Timeline};

/// Bound of one look at the coordinator: opening a session and one small read.
const COORDINATOR: Duration = Duration::from_secs(8);
/// Bound of one look at one primary. A stopped postmaster accepts and never answers; the look must not wait for FTS.
const PRIMARY: Duration = Duration::from_secs(4);
/// Primaries asked at once.
const AT_ONCE: usize = 32;

/// How long a history is taken for the whole while the catalog's rows stand as they did. Who writes the one writes the other,
/// in one transaction; only what came and went between two looks shows in the history alone.
const HISTORY_STANDS: Duration = Duration::from_mins(1);

/// Sessions that are kept from look to look.
#[derive(Debug, Default)]
pub struct Sessions {
    coordinator: Option<Session>,
    /// What that session read last of the history.
    history: Option<History>,
    primaries: BTreeMap<Dbid, Session>,
    /// Learned from the coordinator; all instances speak alike.
    pub dialect: Option<Dialect>,
}

/// What the coordinator knows.
#[derive(Debug)]
pub struct Topology {
    pub catalog: Catalog,
    /// Of the coordinator that gave it.
    pub timeline: Timeline,
    pub history: BTreeMap<Dbid, Written>,
}

/// A history, and the rows beside which it was read.
#[derive(Debug)]
struct History {
    rows: Vec<Row>,
    read: Instant,
    written: BTreeMap<Dbid, Written>,
}

impl History {
    /// Nothing was written since, as far as the catalog shows.
    fn stands(&self, catalog: &Catalog) -> bool {
        self.is_young() && self.rows == catalog.rows
    }

    fn is_young(&self) -> bool {
        self.read.elapsed() < HISTORY_STANDS
    }
}

impl Sessions {
    /// Catalog and history. The history is read when the catalog has changed, and once a minute: it grows without end.
    ///
    /// # Errors
    /// [`SessionError`]; the session is then opened anew at the next look.
    pub async fn topology(&mut self, server: &Server, login: &Login) -> Result<Topology, SessionError> {
        let kept = self.coordinator.take().filter(|session| session.serves(server, &login.tls));
        let known = self.history.take().filter(|history| kept.is_some() && history.is_young());
        let hint = self.dialect;
        let looked = bounded(COORDINATOR, server, async {
            let session = open(kept, server, login, hint).await?;
            let (topology::Answer { catalog, timeline, .. }, history) = catalog_and_history(&session, known).await?;
            Ok((session, Topology { catalog, timeline, history: history.written.clone() }, history))
        });
        let (session, topology, history) = looked.await?;
        self.dialect = Some(session.dialect);
        (self.coordinator, self.history) = (Some(session), Some(history));
        Ok(topology)
    }

    /// The coordinator is asked by a new session next time, at whatever address its name has then.
    pub fn forget_coordinator(&mut self) {
        self.coordinator = None;
    }

    /// Every acting primary, asked at its pod's address.
    pub async fn sources(&mut self, asked: Vec<(Content, Dbid, Result<Server, String>)>, login: &Login) -> BTreeMap<Content, Look<Source>> {
        let hint = self.dialect;
        let mut kept = std::mem::take(&mut self.primaries);
        let asked: Vec<_> = asked.into_iter().map(|(content, dbid, server)| (content, dbid, server, kept.remove(&dbid))).collect();
        let looks = stream::iter(asked).map(|(content, dbid, server, session)| async move {
            match server {
                Err(why) => (content, dbid, None, Look::Unknown(why)),
                Ok(server) => match primary(session, &server, login, hint).await {
                    Ok((session, source)) => (content, dbid, Some(session), Look::Seen(source)),
                    Err(error) => (content, dbid, None, Look::Unknown(error.to_string())),
                },
            }
        });
        let looks: Vec<_> = looks.buffer_unordered(AT_ONCE).collect().await;
        let mut sources = BTreeMap::new();
        for (content, dbid, session, look) in looks {
            sources.insert(content, look);
            if let Some(session) = session {
                self.primaries.insert(dbid, session);
            }
        }
        sources
    }
}

async fn catalog_and_history(session: &Session, known: Option<History>) -> Result<(topology::Answer, History), SessionError> {
    if let Some(known) = known {
        let answer = topology::brief(session).await?;
        if known.stands(&answer.catalog) {
            return Ok((answer, known));
        }
    }
    let (answer, written) = topology::with_history(session).await?;
    let rows = answer.catalog.rows.clone();
    Ok((answer, History { rows, read: Instant::now(), written }))
}

async fn primary(kept: Option<Session>, server: &Server, login: &Login, hint: Option<Dialect>) -> Result<(Session, Source), SessionError> {
    bounded(PRIMARY, server, async {
        let kept = kept.filter(|session| session.serves(server, &login.tls));
        let session = open(kept, server, login, hint).await?;
        let source = replication::source(&session).await?;
        Ok((session, source))
    })
    .await
}

async fn open(kept: Option<Session>, server: &Server, login: &Login, hint: Option<Dialect>) -> Result<Session, SessionError> {
    match kept {
        Some(session) => Ok(session),
        None => Session::utility(server, login, hint).await,
    }
}

async fn bounded<T>(bound: Duration, server: &Server, look: impl Future<Output = Result<T, SessionError>>) -> Result<T, SessionError> {
    let timed_out = |_| SessionError::TimedOut { server: server.clone(), seconds: bound.as_secs() };
    tokio::time::timeout(bound, look).await.map_err(timed_out)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::world::fixtures::row;

    #[tokio::test(start_paused = true)]
    async fn the_history_is_read_again_when_the_catalog_has_changed_and_once_a_minute() {
        let catalog = |rows: &[&str]| Catalog { rows: rows.iter().map(|text| row(text)).collect() };
        let well = catalog(&["2:0ppsu", "5:0mmsu"]);
        let history = History { rows: well.rows.clone(), read: Instant::now(), written: BTreeMap::new() };
        assert!(history.stands(&well));
        for changed in [["2:0ppnu", "5:0mmnd"], ["2:0ppsu", "6:0mmsu"], ["2:0mpsu", "5:0pmsu"]] {
            assert!(!history.stands(&catalog(&changed)), "{changed:?}");
        }
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(history.stands(&well));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!history.stands(&well), "what came and went between two looks shows there alone");
    }
}
