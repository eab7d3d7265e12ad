//! `gp_segment_configuration` and `gp_configuration_history`, read by column name (docs/greenplum.md#rows-of-the-catalog).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Dialect, Session, SessionError, bytes::Bytes};
use model::{Catalog, Content, Dbid, Mode, Role, Row, Status, SystemIdentifier, Timeline};

/// The columns of the catalog; the name of the current WAL file comes in the same statement, as a coordinator is asked often.
const ROWS: &str = "dbid, content, role, preferred_role, mode, status, port, hostname, address, datadir";

/// FTS writes `… for dbid 5 with contentid 0 to p, u, and n` (docs/greenplum.md#history-of-the-catalog); the first `p` after the
/// last `m` is the moment at which the catalog made a mirror the primary.
/// The count tells one fault from the next, so it is of all rows: a bound by time or number would let it shrink, or stand still.
const HISTORY: &str = "SELECT h.dbid, max(h.time) AS newest, count(*) AS written,
    min(CASE WHEN h.\"desc\" LIKE '% to p, %' AND h.time > m.last THEN h.time END) AS promoted
  FROM pg_catalog.gp_configuration_history h
  LEFT JOIN (SELECT dbid, max(time) AS last FROM pg_catalog.gp_configuration_history WHERE \"desc\" LIKE '% to m, %' GROUP BY dbid) m
    ON m.dbid = h.dbid
  GROUP BY h.dbid";

/// What the history says of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// When FTS or a tool last wrote about it.
    pub newest: Timestamp,
    /// How many rows it has written: what a clock that was set back does not move.
    pub rows: u64,
    /// When the catalog made it the primary; `None`: as far as is written, it always was, or it is a mirror.
    pub promoted: Option<Timestamp>,
}

/// The topology, or a part of it, with the timeline of the coordinator that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub catalog: Catalog,
    pub timeline: Timeline,
    /// Of the coordinator's database. Greenplum 6 has no SQL for it.
    pub system_identifier: Option<SystemIdentifier>,
}

/// Which rows an instance needs: with a thousand contents each of its supervisors asks, right when the coordinator comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every row.
    All,
    /// The coordinators', those of this content, and that of this dbid wherever it lives.
    Of(Content, Dbid),
}

impl Scope {
    fn condition(self) -> String {
        match self {
            Self::All => String::new(),
            Self::Of(content, dbid) => format!("WHERE content IN ({}, {content}) OR dbid = {dbid}", Content::COORDINATOR),
        }
    }
}

/// Reads the topology. Meant for a utility-mode session on the coordinator: dispatch may hang.
///
/// # Errors
/// [`SessionError`]; a letter or number that no Greenplum writes is [`SessionError::Statement`], a catalog that is not
/// an acting coordinator's is [`SessionError::NotCoordinator`]. A standby has no timeline to tell.
pub async fn read(session: &Session) -> Result<Answer, SessionError> {
    read_of(session, Scope::All).await
}

/// The same of some rows only, with whose database it is.
///
/// # Errors
/// As [`read`].
pub async fn read_of(session: &Session, scope: Scope) -> Result<Answer, SessionError> {
    let (wal, whose, which) = (wal_file(session.dialect), identity(session.dialect), scope.condition());
    let sql =
        format!("SELECT {ROWS}, {wal} AS wal, {whose} AS whose FROM pg_catalog.gp_segment_configuration {which} ORDER BY content, dbid");
    answer(session, &session.rows_of_bytes(&sql).await?).map_err(|error| *error)
}

/// The rows and the timeline alone: what is asked many times a minute.
///
/// # Errors
/// As [`read`].
pub async fn brief(session: &Session) -> Result<Answer, SessionError> {
    let wal = wal_file(session.dialect);
    let sql = format!("SELECT {ROWS}, {wal} AS wal FROM pg_catalog.gp_segment_configuration ORDER BY content, dbid");
    answer(session, &session.rows_of_bytes(&sql).await?).map_err(|error| *error)
}

/// The same with what FTS and tools wrote about each instance, in one statement. It goes through the whole history, which has
/// no index and no end: not in every look.
///
/// # Errors
/// As [`read`].
pub async fn with_history(session: &Session) -> Result<(Answer, BTreeMap<Dbid, Written>), SessionError> {
    let wal = wal_file(session.dialect);
    let sql = format!(
        "SELECT {ROWS}, {wal} AS wal, newest, written, promoted
         FROM pg_catalog.gp_segment_configuration LEFT JOIN ({HISTORY}) history USING (dbid) ORDER BY content, dbid"
    );
    let rows = session.rows_of_bytes(&sql).await?;
    let answer = answer(session, &rows).map_err(|error| *error)?;
    Ok((answer, rows.iter().filter_map(written).collect()))
}

fn answer(session: &Session, rows: &[tokio_postgres::Row]) -> Result<Answer, Box<SessionError>> {
    let server = || session.server.clone();
    let catalog = rows.iter().map(row).collect::<Result<_, _>>().map(|rows| Catalog { rows });
    let catalog = catalog.map_err(|message| SessionError::Statement { server: server(), message, code: None })?;
    catalog.coordinator().map_err(|message| SessionError::NotCoordinator { server: server(), message })?;
    let timeline = timeline_of(rows.first()).ok_or_else(|| no_timeline(session))?;
    Ok(Answer { catalog, timeline, system_identifier: identifier_of(rows.first()) })
}

/// An instance about which nothing was written has no history.
fn written(row: &tokio_postgres::Row) -> Option<(Dbid, Written)> {
    let rows: i64 = row.try_get("written").ok()?;
    let rows = u64::try_from(rows).unwrap_or_default();
    let written = Written { newest: row.try_get("newest").ok()?, rows, promoted: row.try_get("promoted").ok()? };
    Some((Dbid(row.try_get("dbid").ok()?), written))
}

fn row(row: &tokio_postgres::Row) -> Result<Row, String> {
    let dbid: i16 = row.try_get("dbid").map_err(|e| format!("column dbid of gp_segment_configuration: {e}"))?;
    values(row, Dbid(dbid)).map_err(|why| format!("the row of dbid {dbid} in gp_segment_configuration cannot be: {why}"))
}

fn values(row: &tokio_postgres::Row, dbid: Dbid) -> Result<Row, String> {
    // One name that is no UTF-8 hides no other row; whoever needs it sees that it could not be read (`Row::unread`).
    let text = |column: &str| row.try_get::<_, Bytes>(column).map(|bytes| bytes.lossy()).map_err(|e| format!("{column}: {e}"));
    let port: i32 = row.try_get("port").map_err(|e| format!("port: {e}"))?;
    Ok(Row {
        dbid,
        content: Content(row.try_get("content").map_err(|e| format!("content: {e}"))?),
        role: letter::<Role>(row, "role")?,
        preferred_role: letter::<Role>(row, "preferred_role")?,
        mode: letter::<Mode>(row, "mode")?,
        status: letter::<Status>(row, "status")?,
        port: u16::try_from(port).map_err(|_| format!("port {port}"))?,
        hostname: text("hostname")?,
        address: text("address")?,
        datadir: text("datadir")?,
    })
}

/// A `"char"` column, which the client reads as a signed byte.
fn letter<T: TryFrom<char, Error: std::fmt::Display>>(row: &tokio_postgres::Row, column: &str) -> Result<T, String> {
    let byte: i8 = row.try_get(column).map_err(|e| format!("{column}: {e}"))?;
    T::try_from(char::from(byte.cast_unsigned())).map_err(|e| e.to_string())
}

/// The timeline of a coordinator that dispatches or could: the first eight digits of its WAL file's name.
///
/// # Errors
/// [`SessionError`]; a standby has none to tell.
pub async fn timeline(session: &Session) -> Result<Timeline, SessionError> {
    let rows = session.rows(&format!("SELECT {} AS wal", wal_file(session.dialect))).await?;
    timeline_of(rows.first()).ok_or_else(|| no_timeline(session))
}

fn wal_file(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Six => "pg_catalog.pg_xlogfile_name(pg_catalog.pg_current_xlog_location())",
        Dialect::Seven => "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())",
    }
}

fn identity(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Six => "NULL::text",
        Dialect::Seven => "(SELECT system_identifier::text FROM pg_catalog.pg_control_system())",
    }
}

fn identifier_of(row: Option<&tokio_postgres::Row>) -> Option<SystemIdentifier> {
    row?.try_get::<_, Option<String>>("whose").ok()??.parse().ok()
}

/// Timeline and, where SQL tells it, system identifier of a server that takes writes.
///
/// # Errors
/// [`SessionError`]; one in recovery has no timeline to tell.
pub async fn whose(session: &Session) -> Result<(Timeline, Option<SystemIdentifier>), SessionError> {
    let rows = session.rows(&format!("SELECT {} AS wal, {} AS whose", wal_file(session.dialect), identity(session.dialect))).await?;
    Ok((timeline_of(rows.first()).ok_or_else(|| no_timeline(session))?, identifier_of(rows.first())))
}

/// The first eight digits of a WAL file's name.
fn timeline_of(row: Option<&tokio_postgres::Row>) -> Option<Timeline> {
    let name: String = row?.try_get("wal").ok()?;
    u32::from_str_radix(name.get(..8)?, 16).ok().map(Timeline)
}

fn no_timeline(session: &Session) -> SessionError {
    SessionError::NotGreenplum { server: session.server.clone(), message: "it does not say its timeline".into() }
}
