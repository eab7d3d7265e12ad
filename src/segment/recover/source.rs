//! The acting primary: proven to be itself, and locked against a second repair of its content.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Work,
    fault::{Classified, Fault, OfSource},
    progress::Reporter,
};
use greenplum::{Dialect, Login, Server, Session, SessionError, replication};
use model::{Dbid, FailureClass, Lsn, Postmaster};

/// First key of the advisory lock, "gphe"; the second is the content.
const LOCK_KEY: i32 = 0x6770_6865;
/// The slot through which a mirror streams, in all of Greenplum.
pub const SLOT: &str = "internal_wal_replication_slot";

/// What a server says of a file that is not there.
const UNDEFINED_FILE: &str = "58P01";

/// How a base backup is known on the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Began {
    /// Its address as the source sees it; empty once the backup has ended.
    pub address: String,
    /// The source's clock before it began, in seconds; none was written down by earlier versions.
    #[serde(default)]
    pub at: Option<u64>,
    /// The ports of its connections. Those of others who come by the same address, through a proxy, are not ours to end.
    #[serde(default)]
    pub ports: Vec<u16>,
}

impl Began {
    /// What ends its walsenders: both connections are opened within the checkpoint's time.
    fn orphans(&self, backups: &str) -> Option<String> {
        let (address, at) = (self.address.parse::<std::net::IpAddr>().ok()?, self.at?);
        let ports: Vec<_> = self.ports.iter().map(ToString::to_string).collect();
        let ports = (!ports.is_empty()).then(|| format!("client_port IN ({})", ports.join(", ")))?;
        let since = format!("backend_start BETWEEN to_timestamp({at}) AND to_timestamp({})", at + OPENED_WITHIN.as_secs());
        Some(format!("SELECT pg_catalog.pg_terminate_backend(pid) {backups} AND host(client_addr) = '{address}' AND {ports} AND {since}"))
    }
}

/// A base backup has opened its connections by then.
const OPENED_WITHIN: Duration = Duration::from_mins(15);

/// How often the kept session is asked whether it is still there: sooner than anything on the way forgets a silent one.
const PING: Duration = Duration::from_secs(15);
/// How long it is tried to take a lock again that nobody else holds.
const TAKEN_AGAIN: Duration = Duration::from_secs(20);
/// A statement may take as long as it takes, while its server lets others in; of one that lets in nobody for so long nothing
/// is expected any more.
const SILENT: Duration = Duration::from_mins(5);
const LOOK: Duration = Duration::from_secs(30);
/// Between two tries to reach one that is away.
const AGAIN: Duration = Duration::from_secs(2);
/// Bound of a statement that looks at a folder or two, however full they are.
const STATEMENT: Duration = Duration::from_mins(1);
/// More than any checkpoint takes; what ends a wait for one is a server that has gone silent.
const MAY_TAKE: Duration = Duration::from_hours(24);

/// A kept session on the acting primary that holds the advisory lock of its content. Lost, it is opened anew, and the lock
/// taken again, before anything needs it.
pub struct SourceLock {
    pub dialect: Dialect,
    server: Server,
    login: Login,
    dbid: Dbid,
    content: i16,
    /// The run of its postgres of which everything is proven: another one may have been started on an older copy of itself.
    postmaster: Postmaster,
    kept: Mutex<Kept>,
    report: Reporter,
}

struct Kept {
    session: Arc<Session>,
    /// How the server knows our sessions that held the lock: one that was cut off may live on there.
    ours: Vec<String>,
}

/// How the server knows a session: a pid alone is used again.
const WHO: &str = "a.pid::text || '@' || extract(epoch FROM a.backend_start)::text";

/// The acting primary is not what a repair needs.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("another repair of content {0} holds the lock on the acting primary")]
    Busy(i16),
    #[error("the acting primary is in recovery, so it was not promoted (yet)")]
    InRecovery,
    #[error("what answers at {server} says that it is dbid {dbid} of content {content}")]
    NotItself { server: Server, dbid: i16, content: i16 },
    #[error("the acting primary was started again: {now} serves now, and what was looked at was {before}")]
    Restarted { before: Postmaster, now: Postmaster },
    #[error("somebody else's base backup of this content is running on the acting primary")]
    ForeignBackup,
    #[error("replication slot {SLOT} is in use by pid {0}")]
    SlotActive(i32),
}

impl Classified for SourceError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Busy(_) | Self::ForeignBackup => FailureClass::SourceBusy,
            Self::InRecovery => FailureClass::SourceNotReady,
            Self::NotItself { .. } => FailureClass::SourceNotItself,
            Self::Restarted { .. } => FailureClass::SourceRestarted,
            Self::SlotActive(_) => FailureClass::SlotActive,
        }
    }
}

/// The acting primary as a server.
pub fn server(work: &Work) -> Server {
    let source = &work.attempt.source;
    Server::new(&source.address, source.port)
}

impl SourceLock {
    /// Opens the session and takes the lock, which ends with it.
    pub async fn take(work: &Work) -> Result<Self, Fault> {
        let (server, content) = (server(work), work.attempt.content.0);
        let session = Session::utility(&server, &work.login, None).await.map_err(OfSource)?;
        if !has_locked(&session, content).await? {
            return Err(SourceError::Busy(content).into());
        }
        let ours = vec![who(&session).await?];
        let (dialect, postmaster) = (session.dialect, postmaster(&session).await?);
        same(work.attempt.source_postmaster.unwrap_or(postmaster), postmaster)?;
        let kept = Mutex::new(Kept { session: Arc::new(session), ours });
        let (login, dbid, report) = (work.login.clone(), work.attempt.source.dbid, work.report.clone());
        Ok(Self { dialect, server, login, dbid, content, postmaster, kept, report })
    }

    /// Does it while the kept session is pinged and, where it was lost, the lock taken again. Only somebody else who holds the
    /// lock, or another run of the source, ends it: a source that cannot be reached now is not there for others either.
    pub async fn kept_while<T, E>(&self, doing: impl Future<Output = Result<T, E>>) -> Result<T, Fault>
    where
        Fault: From<E>,
    {
        tokio::select! {
            done = Box::pin(doing) => Ok(done?),
            fault = Box::pin(self.keep()) => Err(fault),
        }
    }

    async fn keep(&self) -> Fault {
        loop {
            tokio::time::sleep(PING).await;
            match self.renew().await {
                Err(fault) if is_final(&fault) => return fault,
                Err(fault) => tracing::warn!(class = fault.class.as_str(), "the session that holds the lock on the source was lost"),
                Ok(()) => self.report.works(&self.kept()).await,
            }
        }
    }

    /// Looks whether the kept session is there, and opens it anew where it is not: afterwards the source is the run that was proven.
    pub async fn renew(&self) -> Result<(), Fault> {
        let there = self.kept().rows("SELECT 1").await;
        if there.is_ok() { Ok(()) } else { Box::pin(self.take_again()).await }
    }

    /// The same of one that may be away for a moment: it is waited for as long as for a silent server, since what is done must not be
    /// done anew for that.
    pub async fn back(&self) -> Result<(), Fault> {
        let until = Instant::now() + SILENT;
        loop {
            match self.renew().await {
                Err(fault) if !is_final(&fault) && Instant::now() < until => tokio::time::sleep(AGAIN).await,
                done => return done,
            }
        }
    }

    /// How far its log goes, flushed or not, once it serves, in whichever run.
    pub async fn inserted(&self) -> Result<Lsn, Fault> {
        let until = Instant::now() + SILENT;
        loop {
            match self.inserted_now().await {
                Err(fault) if !is_final(&fault) && Instant::now() < until => tokio::time::sleep(AGAIN).await,
                done => return done,
            }
        }
    }

    async fn inserted_now(&self) -> Result<Lsn, Fault> {
        let session = Session::utility(&self.server, &self.login, Some(self.dialect)).await.map_err(OfSource)?;
        self.is_itself(&session).await?;
        Ok(replication::inserted(&session).await.map_err(OfSource)?)
    }

    fn kept(&self) -> Arc<Session> {
        Arc::clone(&self.kept.lock().unwrap_or_else(PoisonError::into_inner).session)
    }

    fn known_as(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).ours.clone()
    }

    /// The session; anew where its connection is known to have ended.
    pub async fn session(&self) -> Result<Arc<Session>, Fault> {
        let session = self.kept();
        if !session.client.is_closed() {
            return Ok(session);
        }
        Box::pin(self.take_again()).await?;
        Ok(self.kept())
    }

    async fn take_again(&self) -> Result<(), Fault> {
        let session = Session::utility(&self.server, &self.login, Some(self.dialect)).await.map_err(OfSource)?;
        self.is_itself(&session).await?; // whoever listens there by now
        same(self.postmaster, postmaster(&session).await?)?;
        let until = Instant::now() + TAKEN_AGAIN;
        while !has_locked(&session, self.content).await? {
            self.end_ours(&session).await?;
            if Instant::now() >= until {
                return Err(SourceError::Busy(self.content).into());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let known = who(&session).await?;
        tracing::info!("the lock on the source is held again, by a session of its own");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.ours.push(known);
        kept.session = Arc::new(session);
        Ok(())
    }

    /// Whoever holds the lock and is none of our earlier sessions is somebody else. Those the server may not have missed yet.
    async fn end_ours(&self, session: &Session) -> Result<(), Fault> {
        let ours = self.known_as();
        for holder in texts(session, &holders(self.content)).await? {
            let pid = ours.contains(&holder).then(|| holder.split('@').next().and_then(|pid| pid.parse::<i32>().ok())).flatten();
            let Some(pid) = pid else { return Err(SourceError::Busy(self.content).into()) };
            session.rows(&format!("SELECT pg_catalog.pg_terminate_backend({pid})")).await.map_err(OfSource)?;
        }
        Ok(())
    }

    /// Rows of a statement, in a session that is there.
    pub async fn rows(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>, Fault> {
        Ok(self.session().await?.rows_within(sql, STATEMENT).await.map_err(OfSource)?)
    }

    /// What takes as long as it takes. Another session looks now and then whether the server lets anybody in.
    pub async fn patiently<T>(&self, doing: impl Future<Output = Result<T, SessionError>>) -> Result<T, Fault> {
        tokio::select! {
            done = doing => Ok(done.map_err(OfSource)?),
            silent = Box::pin(self.silent()) => Err(OfSource(silent).into()),
        }
    }

    /// Ends when the server has let in nobody for long.
    async fn silent(&self) -> SessionError {
        let mut heard = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            match Session::utility(&self.server, &self.login, Some(self.dialect)).await {
                Ok(_) => {
                    heard = Instant::now();
                    self.report.moved(); // it works as long as it may take, and nothing else shows that
                }
                Err(error) if heard.elapsed() >= SILENT => return error,
                Err(error) => tracing::warn!(%error, "the source does not answer while it is waited for"),
            }
        }
    }

    /// What the tools' own sessions with the source are told at login, so that nothing bounds them.
    pub fn tool_options(&self) -> String {
        self.kept().tool_options.clone()
    }

    /// It is read-write, and the instance that the catalog names.
    pub async fn prove_itself(&self) -> Result<(), Fault> {
        let session = self.session().await?;
        self.is_itself(&session).await
    }

    async fn is_itself(&self, session: &Session) -> Result<(), Fault> {
        let source = replication::source(session).await.map_err(OfSource)?;
        if (source.dbid, source.content.0) != (self.dbid, self.content) {
            return Err(SourceError::NotItself { server: self.server.clone(), dbid: source.dbid.0, content: source.content.0 }.into());
        }
        if source.in_recovery { Err(SourceError::InRecovery.into()) } else { Ok(()) }
    }

    /// Makes its control file carry its timeline, which pg_rewind reads (docs/greenplum.md#pg_rewind): not optional.
    pub async fn checkpoint(&self) -> Result<(), Fault> {
        // A checkpoint of a busy primary takes its time; it is spread by nothing here.
        let session = self.session().await?;
        self.patiently(session.run("CHECKPOINT", MAY_TAKE)).await
    }

    /// One text, of a query that gives one.
    pub async fn text(&self, sql: &str) -> Result<Option<String>, Fault> {
        let rows = self.rows(sql).await?;
        Ok(rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok()).flatten())
    }

    /// Names of its log's segment files that end so.
    pub async fn log_names(&self, suffix: &str) -> Result<Vec<String>, Fault> {
        let folder = self.dialect.wal_folder();
        let sql = format!("SELECT name FROM pg_catalog.pg_ls_dir('{folder}') AS name WHERE name LIKE '________{suffix}'");
        let rows = self.rows(&sql).await?;
        rows.iter().map(|row| row.try_get(0).map_err(|_| unreadable("a file name"))).collect()
    }

    /// Bytes of a file of its log's folder; `None`: it has been removed since it was listed. Not its text: that a person gave
    /// reasons for may be in any encoding, and the server would refuse to give it.
    pub async fn log_bytes(&self, name: &str, offset: u64, length: u64) -> Result<Option<Vec<u8>>, Fault> {
        let folder = self.dialect.wal_folder();
        let sql = format!("SELECT pg_catalog.pg_read_binary_file('{folder}/{name}', {offset}, {length})");
        let rows = match self.session().await?.rows(&sql).await {
            Err(SessionError::Statement { code: Some(code), .. }) if code == UNDEFINED_FILE => return Ok(None),
            rows => rows.map_err(OfSource)?,
        };
        rows.first().map(|row| row.try_get(0).map_err(|_| unreadable("bytes"))).transpose()
    }

    /// Ends base backups that a dead predecessor left on the source, known by the address that it wrote down.
    /// and by when they began: another pod may have got that address since.
    pub async fn end_orphans(&self, predecessor: Option<&Began>) -> Result<(), Fault> {
        let backups = "FROM pg_catalog.pg_stat_replication WHERE application_name = 'pg_basebackup'";
        if let Some(sql) = predecessor.and_then(|began| began.orphans(backups)) {
            self.rows(&sql).await?;
        }
        for _ in 0..50 {
            if self.text(&format!("SELECT pid::text {backups} LIMIT 1")).await?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await; // a terminated backend ends by itself, soon
        }
        Err(SourceError::ForeignBackup.into())
    }

    /// The slot is there, free, and still has its log. On Greenplum 6 pg_basebackup makes a missing one by itself, pg_rewind does not.
    pub async fn ready_slot(&self) -> Result<(), Fault> {
        let sql = slot_query(self.dialect);
        let rows = self.rows(&sql).await?;
        let Some(row) = rows.first() else { return self.make_slot().await };
        if let Ok(Some(pid)) = row.try_get::<_, Option<i32>>("active_pid") {
            return Err(SourceError::SlotActive(pid).into());
        }
        if row.try_get::<_, bool>("lost").unwrap_or(false) {
            // It was never reserved or has lost its log already: nothing is thrown away.
            self.rows(&format!("SELECT pg_catalog.pg_drop_replication_slot('{SLOT}')")).await?;
            return self.make_slot().await;
        }
        Ok(())
    }

    async fn make_slot(&self) -> Result<(), Fault> {
        self.rows(&format!("SELECT pg_catalog.pg_create_physical_replication_slot('{SLOT}', true)")).await?;
        Ok(())
    }
}

/// Waiting longer changes nothing.
fn is_final(fault: &Fault) -> bool {
    matches!(fault.class, FailureClass::SourceBusy | FailureClass::SourceRestarted)
}

/// The run of the server that this session is with.
async fn postmaster(session: &Session) -> Result<Postmaster, Fault> {
    let sql = "SELECT pg_catalog.pg_read_binary_file('postmaster.pid', 0, 4096)";
    let rows = session.rows(sql).await.map_err(OfSource)?;
    let bytes = rows.first().and_then(|row| row.try_get::<_, Vec<u8>>(0).ok());
    bytes.as_deref().and_then(Postmaster::of_pid_file).ok_or_else(|| unreadable("its postmaster.pid"))
}

fn same(before: Postmaster, now: Postmaster) -> Result<(), SourceError> {
    if before == now { Ok(()) } else { Err(SourceError::Restarted { before, now }) }
}

async fn has_locked(session: &Session, content: i16) -> Result<bool, Fault> {
    let rows = session.rows(&format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK_KEY}, {content})")).await.map_err(OfSource)?;
    Ok(rows.first().and_then(|row| row.try_get::<_, bool>(0).ok()) == Some(true))
}

/// How the server knows this session.
async fn who(session: &Session) -> Result<String, Fault> {
    let sql = format!("SELECT {WHO} FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = pg_catalog.pg_backend_pid()");
    Ok(texts(session, &sql).await?.into_iter().next().unwrap_or_default())
}

/// Who holds the advisory lock of a content; a key is shown there as a number without a sign.
fn holders(content: i16) -> String {
    let content = i32::from(content).cast_unsigned();
    format!(
        "SELECT {WHO} FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {LOCK_KEY} AND l.objid = {content} AND l.objsubid = 2"
    )
}

async fn texts(session: &Session, sql: &str) -> Result<Vec<String>, Fault> {
    let rows = session.rows(sql).await.map_err(OfSource)?;
    Ok(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())
}

/// Greenplum 6 does not say whose the slot is; a walsender that is there will do for people.
fn slot_query(dialect: Dialect) -> String {
    let user = match dialect {
        Dialect::Six => "CASE WHEN active THEN (SELECT max(pid) FROM pg_catalog.pg_stat_replication) END AS active_pid",
        Dialect::Seven => "active_pid",
    };
    format!("SELECT {user}, restart_lsn IS NULL AS lost FROM pg_catalog.pg_replication_slots WHERE slot_name = '{SLOT}'")
}

pub fn unreadable(what: &str) -> Fault {
    Fault::new(FailureClass::SourceNotItself, &format!("the acting primary gives something else for {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another pod may have got the address of a dead one, and run a base backup of its own.
    #[test]
    fn only_a_backup_that_began_with_the_predecessor_is_ended() {
        let began = |address: &str, at, ports: &[u16]| Began { address: address.into(), at, ports: ports.into() }.orphans("FROM x WHERE y");
        let sql = began("10.0.0.7", Some(1000), &[40_001, 40_002]).unwrap();
        assert!(
            sql.ends_with(
                "host(client_addr) = '10.0.0.7' AND client_port IN (40001, 40002) AND backend_start BETWEEN to_timestamp(1000) AND to_timestamp(1900)"
            ),
            "{sql}"
        );
        assert_eq!((began("", Some(1), &[1]), began("10.0.0.7", None, &[1]), began("x' OR 'x", Some(1), &[1])), (None, None, None));
        assert_eq!(began("127.0.0.6", Some(1), &[]), None, "by an address alone a proxy shows everybody");
    }
}
