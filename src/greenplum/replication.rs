//! What an acting primary says of itself and of its mirror, in utility mode (docs/greenplum.md#walsender-and-slot).

use std::time::Duration;

use super::{Dialect, Session, SessionError};
use model::{
    Content, Dbid, Lsn, Source, SystemIdentifier,
    world::{MIRROR_APPLICATION, Walsender},
};

const IDENTITY: &str = "SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
  pg_catalog.current_setting('gp_dbid')::int2 AS dbid, pg_catalog.current_setting('gp_contentid')::int2 AS content";

fn walsenders_query(dialect: Dialect) -> String {
    let flush = match dialect {
        Dialect::Six => "flush_location",
        Dialect::Seven => "flush_lsn",
    };
    format!("SELECT application_name, state, host(client_addr) AS client, pid, {flush}::text AS flush FROM pg_catalog.pg_stat_replication")
}

/// Greenplum 6 has no SQL for it; there the Job reads it through the replication protocol.
const SYSTEM_IDENTIFIER: &str = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";

/// Looks at one instance through its own utility-mode session.
///
/// # Errors
/// [`SessionError`]
pub async fn source(session: &Session) -> Result<Source, SessionError> {
    let missing =
        |what: &str| SessionError::NotGreenplum { server: session.server.clone(), message: format!("it does not say its {what}") };
    let rows = session.rows(IDENTITY).await?;
    let row = rows.first().ok_or_else(|| missing("identity"))?;
    Ok(Source {
        dbid: Dbid(row.try_get("dbid").map_err(|_| missing("gp_dbid"))?),
        content: Content(row.try_get("content").map_err(|_| missing("gp_contentid"))?),
        in_recovery: row.try_get("in_recovery").map_err(|_| missing("recovery state"))?,
        system_identifier: system_identifier(session).await?,
        walsenders: walsenders(session).await?,
    })
}

async fn walsenders(session: &Session) -> Result<Vec<Walsender>, SessionError> {
    let text = |row: &tokio_postgres::Row, column: &str| row.try_get::<_, Option<String>>(column).ok().flatten();
    let one = |row: &tokio_postgres::Row| Walsender {
        application_name: text(row, "application_name").unwrap_or_default(),
        state: text(row, "state").unwrap_or_default(),
        client: text(row, "client"),
        pid: row.try_get("pid").ok(),
        flush: text(row, "flush").and_then(|flush| flush.parse().ok()),
    };
    Ok(session.rows(&walsenders_query(session.dialect)).await?.iter().map(one).collect())
}

async fn system_identifier(session: &Session) -> Result<Option<SystemIdentifier>, SessionError> {
    if session.dialect == Dialect::Six {
        return Ok(None);
    }
    let rows = session.rows(SYSTEM_IDENTIFIER).await?;
    Ok(rows.first().and_then(|row| row.try_get::<_, String>(0).ok()).and_then(|text| text.parse().ok()))
}

/// How far the log of a server that takes writes is written.
///
/// # Errors
/// [`SessionError`]; one in recovery has none.
pub async fn position(session: &Session) -> Result<Lsn, SessionError> {
    let sql = match session.dialect {
        Dialect::Six => "SELECT pg_catalog.pg_current_xlog_location()::text",
        Dialect::Seven => "SELECT pg_catalog.pg_current_wal_lsn()::text",
    };
    at(session, sql).await
}

async fn at(session: &Session, sql: &str) -> Result<Lsn, SessionError> {
    let rows = session.rows(sql).await?;
    let text: String = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
    text.parse().map_err(|_| SessionError::NotGreenplum { server: session.server.clone(), message: format!("its log is at '{text}'") })
}

/// How far the log of a server that takes writes goes, with what it has not flushed yet.
///
/// # Errors
/// [`SessionError`]; one in recovery has none.
pub async fn inserted(session: &Session) -> Result<Lsn, SessionError> {
    let sql = match session.dialect {
        Dialect::Six => "SELECT pg_catalog.pg_current_xlog_insert_location()::text",
        Dialect::Seven => "SELECT pg_catalog.pg_current_wal_insert_lsn()::text",
    };
    at(session, sql).await
}

/// How far a mirror is by its walsender's word; what it has not said is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// How far the acting primary's own log is written: a walsender that does not work sends none of it.
    pub own: Option<Lsn>,
    pub sent: Option<Lsn>,
    pub write: Option<Lsn>,
    pub flush: Option<Lsn>,
}

/// The walsender that sends to a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    pub pid: i32,
    /// When it began, as the server writes it: with the pid it is this one and no later one.
    pub started: String,
    pub state: String,
    /// Address and port from which the mirror is connected.
    pub client: Option<(String, u16)>,
    pub position: Position,
}

/// What an acting primary says of the walsenders to its mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Senders {
    Seen(Vec<Sender>),
    /// There is one, and the role that asks may not see how far it is.
    Hidden,
}

/// The walsenders to the mirror, with their positions. One that makes a base backup is none.
///
/// # Errors
/// [`SessionError`]
pub async fn senders(session: &Session, bound: Duration) -> Result<Senders, SessionError> {
    let (suffix, own) = match session.dialect {
        Dialect::Six => ("location", "pg_current_xlog_location"),
        Dialect::Seven => ("lsn", "pg_current_wal_flush_lsn"),
    };
    let sql = format!(
        "SELECT pid, backend_start::text AS started, state, pg_catalog.host(client_addr) AS client, client_port,
           sent_{suffix}::text AS sent, write_{suffix}::text AS write, flush_{suffix}::text AS flush,
           pg_catalog.{own}()::text AS own
         FROM pg_catalog.pg_stat_replication WHERE application_name = '{MIRROR_APPLICATION}'"
    );
    let rows = session.rows_within(&sql, bound).await?;
    Ok(rows.iter().map(sender).collect::<Option<_>>().map_or(Senders::Hidden, Senders::Seen))
}

/// Who may not see a walsender's position sees neither its state.
fn sender(row: &tokio_postgres::Row) -> Option<Sender> {
    let text = |column: &str| row.try_get::<_, Option<String>>(column).ok().flatten();
    let at = |column: &str| text(column)?.parse().ok();
    let port = row.try_get::<_, Option<i32>>("client_port").ok().flatten().and_then(|port| u16::try_from(port).ok());
    Some(Sender {
        pid: row.try_get("pid").ok()?,
        started: text("started")?,
        state: text("state")?,
        client: text("client").zip(port),
        position: Position { own: at("own"), sent: at("sent"), write: at("write"), flush: at("flush") },
    })
}

/// How long FTS waits for a mirror that is gone before it marks it down: the acting primary's own setting.
///
/// # Errors
/// [`SessionError`]
pub async fn mirror_grace(session: &Session, bound: Duration) -> Result<Option<Duration>, SessionError> {
    let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'gp_fts_mark_mirror_down_grace_period'";
    let rows = session.rows_within(sql, bound).await?;
    let text: Option<String> = rows.first().and_then(|row| row.try_get(0).ok());
    Ok(text.and_then(|text| text.parse().ok()).map(Duration::from_secs))
}
