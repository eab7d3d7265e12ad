//! Looks at the database: catalog and history by a kept session to the coordinator, every acting primary
//! by a kept session of its own. Each look is bounded; what does not answer is unknown, not down.

use std::{collections::BTreeMap, future::Future, time::Duration};

use futures::{StreamExt, stream};

use crate::{
    greenplum::{
        Dialect, Login, Server, Session, SessionError, replication,
        topology::{self, Written},
    },
    model::{Catalog, Content, Dbid, Look, Source, Timeline},
};

/// Bound of one look at the coordinator: opening a session and one small read.
const COORDINATOR: Duration = Duration::from_secs(8);
/// Bound of one look at one primary. A stopped postmaster accepts and never answers; the look must not wait for FTS.
const PRIMARY: Duration = Duration::from_secs(4);
/// Primaries asked at once.
const AT_ONCE: usize = 32;

/// Sessions that are kept from look to look.
#[derive(Debug, Default)]
pub struct Sessions {
    coordinator: Option<Session>,
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

impl Sessions {
    /// Catalog and history.
    ///
    /// # Errors
    /// [`SessionError`]; the session is then opened anew at the next look.
    pub async fn topology(&mut self, server: &Server, login: &Login) -> Result<Topology, SessionError> {
        let kept = self.coordinator.take().filter(|session| session.serves(server, &login.tls));
        let hint = self.dialect;
        let looked = bounded(COORDINATOR, server, async {
            let session = open(kept, server, login, hint).await?;
            let (topology::Answer { catalog, timeline, .. }, history) = topology::with_history(&session).await?;
            Ok((session, Topology { catalog, timeline, history }))
        });
        let (session, topology) = looked.await?;
        self.dialect = Some(session.dialect);
        self.coordinator = Some(session);
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
