//! The acting primary: proven to be itself, and locked against a second repair of its content.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Work,
    fault::{Classified, Fault, OfSource},
};
use crate::{
    greenplum::{
        Dialect, Server, Session, SessionError,
        messages::{self, Tool},
        replication,
    },
    model::{FailureClass, Lsn, SystemIdentifier, Timeline},
};

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
}

impl Began {
    /// What ends its walsenders: both connections are opened within the checkpoint's time.
    fn orphans(&self, backups: &str) -> Option<String> {
        let (address, at) = (self.address.parse::<std::net::IpAddr>().ok()?, self.at?);
        let since = format!("backend_start BETWEEN to_timestamp({at}) AND to_timestamp({})", at + OPENED_WITHIN.as_secs());
        Some(format!("SELECT pg_catalog.pg_terminate_backend(pid) {backups} AND host(client_addr) = '{address}' AND {since}"))
    }
}

/// A base backup has opened its connections by then.
const OPENED_WITHIN: Duration = Duration::from_mins(15);

/// A kept session on the acting primary that holds the advisory lock of its content.
pub struct SourceLock {
    pub session: Session,
}

/// What the source says in the replication protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identified {
    pub system_identifier: SystemIdentifier,
    pub timeline: Timeline,
    /// How far its log is flushed.
    pub at: Lsn,
}

/// The acting primary is not what a repair needs.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("another repair of content {0} holds the lock on the acting primary")]
    Busy(i16),
    #[error("the acting primary is in recovery, so it was not promoted (yet)")]
    InRecovery,
    #[error("what answers at {server} says that it is dbid {dbid} of content {content}")]
    NotItself { server: Server, dbid: i16, content: i16 },
    #[error("the acting primary could not be identified: {said}")]
    Unidentified { said: String, class: FailureClass },
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
            Self::Unidentified { class, .. } => *class,
            Self::NotItself { .. } => FailureClass::SourceNotItself,
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
        let session = Session::utility(&server(work), &work.login, None).await.map_err(OfSource)?;
        let content = work.attempt.content.0;
        let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK_KEY}, {content})");
        let rows = session.rows(&sql).await.map_err(OfSource)?;
        match rows.first().and_then(|row| row.try_get::<_, bool>(0).ok()) {
            Some(true) => Ok(Self { session }),
            _ => Err(SourceError::Busy(content).into()),
        }
    }

    /// It is read-write, and the instance that the catalog names.
    pub async fn prove_itself(&self, work: &Work) -> Result<(), Fault> {
        let source = replication::source(&self.session).await.map_err(OfSource)?;
        if (source.dbid, source.content) != (work.attempt.source.dbid, work.attempt.content) {
            return Err(
                SourceError::NotItself { server: self.session.server.clone(), dbid: source.dbid.0, content: source.content.0 }.into()
            );
        }
        if source.in_recovery { Err(SourceError::InRecovery.into()) } else { Ok(()) }
    }

    /// Makes its control file carry its timeline, which pg_rewind reads (O §6.1): not optional.
    pub async fn checkpoint(&self) -> Result<(), Fault> {
        // A checkpoint of a busy primary takes its time; it is spread by nothing here.
        Ok(self.session.run("CHECKPOINT", Duration::from_mins(10)).await.map_err(OfSource)?)
    }

    /// One text, of a query that gives one.
    pub async fn text(&self, sql: &str) -> Result<Option<String>, Fault> {
        let rows = self.session.rows(sql).await.map_err(OfSource)?;
        Ok(rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok()).flatten())
    }

    /// Names of its log's segment files that end so.
    pub async fn log_names(&self, suffix: &str) -> Result<Vec<String>, Fault> {
        let folder = self.session.dialect.wal_folder();
        let sql = format!("SELECT name FROM pg_catalog.pg_ls_dir('{folder}') AS name WHERE name LIKE '________{suffix}'");
        let rows = self.session.rows(&sql).await.map_err(OfSource)?;
        rows.iter().map(|row| row.try_get(0).map_err(|_| unreadable("a file name"))).collect()
    }

    /// Bytes of a segment file of its log; `None`: it has been removed since it was listed.
    pub async fn log_bytes(&self, name: &str, offset: u64, length: u64) -> Result<Option<Vec<u8>>, Fault> {
        let folder = self.session.dialect.wal_folder();
        let sql = format!("SELECT pg_catalog.pg_read_binary_file('{folder}/{name}', {offset}, {length})");
        let rows = match self.session.rows(&sql).await {
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
            self.session.rows(&sql).await.map_err(OfSource)?;
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
        let sql = slot_query(self.session.dialect);
        let rows = self.session.rows(&sql).await.map_err(OfSource)?;
        let Some(row) = rows.first() else { return self.make_slot().await };
        if let Ok(Some(pid)) = row.try_get::<_, Option<i32>>("active_pid") {
            return Err(SourceError::SlotActive(pid).into());
        }
        if row.try_get::<_, bool>("lost").unwrap_or(false) {
            // It was never reserved or has lost its log already: nothing is thrown away (reference §8 #17).
            self.session.rows(&format!("SELECT pg_catalog.pg_drop_replication_slot('{SLOT}')")).await.map_err(OfSource)?;
            return self.make_slot().await;
        }
        Ok(())
    }

    async fn make_slot(&self) -> Result<(), Fault> {
        self.session.rows(&format!("SELECT pg_catalog.pg_create_physical_replication_slot('{SLOT}', true)")).await.map_err(OfSource)?;
        Ok(())
    }

    /// System identifier, timeline and position, by the replication protocol: every version tells them so.
    pub async fn identify(&self, work: &Work) -> Result<Identified, Fault> {
        let source = &work.attempt.source;
        let conninfo = format!(
            "host={} port={} user={} dbname=postgres replication=true connect_timeout=10",
            source.address, source.port, work.login.user
        );
        let mut psql = tokio::process::Command::new("psql");
        psql.args(["-X", "-A", "-t", "-w", "-F", "|", "-d", &conninfo, "-c", "IDENTIFY_SYSTEM"])
            .env("PGPASSFILE", &work.passfile)
            .envs(work.login.tls.libpq_environment())
            .kill_on_drop(true);
        let said = tokio::time::timeout(Duration::from_secs(30), psql.output()).await;
        let output = said.map_err(|_| unidentified("psql did not answer within 30 s"))?.map_err(|e| unidentified(&format!("psql: {e}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse(&text).ok_or_else(|| unidentified(&format!("{text}{}", String::from_utf8_lossy(&output.stderr))))
    }
}

/// Greenplum 6 does not say whose the slot is; a walsender that is there will do for people.
fn slot_query(dialect: Dialect) -> String {
    let user = match dialect {
        Dialect::Six => "CASE WHEN active THEN (SELECT max(pid) FROM pg_catalog.pg_stat_replication) END AS active_pid",
        Dialect::Seven => "active_pid",
    };
    format!("SELECT {user}, restart_lsn IS NULL AS lost FROM pg_catalog.pg_replication_slots WHERE slot_name = '{SLOT}'")
}

fn unreadable(what: &str) -> Fault {
    Fault::new(FailureClass::SourceNotItself, &format!("the acting primary gives something else for {what}"))
}

fn unidentified(why: &str) -> Fault {
    let lines: Vec<_> = why.lines().map(str::to_owned).collect();
    SourceError::Unidentified { said: why.trim().to_owned(), class: not_identified(messages::of_tool(Tool::Psql, &lines)) }.into()
}

/// What libpq and the server refuse by name is that; whatever else kept it from answering, it is not ready.
fn not_identified(said: FailureClass) -> FailureClass {
    let named = [FailureClass::LoginRefused, FailureClass::TlsRefused, FailureClass::SlotActive];
    if named.contains(&said) { said } else { FailureClass::SourceNotReady }
}

fn parse(text: &str) -> Option<Identified> {
    let mut fields = text.trim().split('|');
    let system_identifier = fields.next()?.parse().ok()?;
    let timeline = Timeline(fields.next()?.parse().ok()?);
    Some(Identified { system_identifier, timeline, at: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another pod may have got the address of a dead one, and run a base backup of its own.
    #[test]
    fn only_a_backup_that_began_with_the_predecessor_is_ended() {
        let began = |address: &str, at| Began { address: address.into(), at }.orphans("FROM x WHERE y");
        let sql = began("10.0.0.7", Some(1000)).unwrap();
        assert!(
            sql.ends_with("host(client_addr) = '10.0.0.7' AND backend_start BETWEEN to_timestamp(1000) AND to_timestamp(1900)"),
            "{sql}"
        );
        assert_eq!((began("", Some(1)), began("10.0.0.7", None), began("x' OR 'x", Some(1))), (None, None, None));
    }

    #[test]
    fn a_refusal_of_replication_is_called_one() {
        let class = |said: &str| unidentified(said).class;
        let no_entry =
            "psql: error: FATAL:  no pg_hba.conf entry for replication connection from host \"10.0.0.9\", user \"g\", no encryption";
        assert_eq!(class(no_entry), FailureClass::LoginRefused);
        assert_eq!(class("psql: FATAL:  must be superuser or replication role to start walsender"), FailureClass::LoginRefused);
        let full = "psql: FATAL:  number of requested standby connections exceeds max_wal_senders (currently 10)";
        assert_eq!(class(full), FailureClass::SlotActive);
        assert_eq!(class("psql: error: SSL error: certificate verify failed"), FailureClass::TlsRefused);
        for passing in ["psql: could not connect to server: Connection refused", "psql: FATAL:  the database system is starting up", "?"] {
            assert_eq!(class(passing), FailureClass::SourceNotReady, "{passing}");
        }
    }

    #[test]
    fn the_answer_of_identify_system_is_read() {
        let read = parse("7389204512345678901|2|0/40000A0|\n").unwrap();
        assert_eq!((read.timeline, read.at), (Timeline(2), Lsn(0x400_00A0)));
        assert!(parse("FATAL: no").is_none());
    }
}
