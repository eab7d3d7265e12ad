//! `gp_segment_configuration` and `gp_configuration_history`, read by column name (reference §1.2).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Dialect, Session, SessionError};
use crate::model::{Catalog, Content, Dbid, Mode, Role, Row, Status, Timeline};

const ROWS: &str = "SELECT dbid, content, role, preferred_role, mode, status, port, hostname, address, datadir
  FROM pg_catalog.gp_segment_configuration ORDER BY content, dbid";

/// FTS writes `… for dbid 5 with contentid 0 to p, u, and n` (reference §2.5); the first `p` after the last `m` is the moment
/// at which the catalog made a mirror the primary.
const HISTORY: &str = "SELECT h.dbid, max(h.time) AS newest,
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
    /// When the catalog made it the primary; `None`: as far as is written, it always was, or it is a mirror.
    pub promoted: Option<Timestamp>,
}

/// The whole topology. Meant for a utility-mode session on the coordinator: dispatch may hang.
///
/// # Errors
/// [`SessionError`]; a letter or number that no Greenplum writes is [`SessionError::Statement`].
pub async fn catalog(session: &Session) -> Result<Catalog, SessionError> {
    let rows = session.rows(ROWS).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>();
    rows.map(|rows| Catalog { rows }).map_err(|message| SessionError::Statement { server: session.server.clone(), message, code: None })
}

fn row(row: &tokio_postgres::Row) -> Result<Row, String> {
    let text = |column: &str| row.try_get::<_, String>(column).map_err(|e| format!("column {column} of gp_segment_configuration: {e}"));
    let small = |column: &str| row.try_get::<_, i16>(column).map_err(|e| format!("column {column} of gp_segment_configuration: {e}"));
    let port: i32 = row.try_get("port").map_err(|e| e.to_string())?;
    Ok(Row {
        dbid: Dbid(small("dbid")?),
        content: Content(small("content")?),
        role: letter::<Role>(row, "role")?,
        preferred_role: letter::<Role>(row, "preferred_role")?,
        mode: letter::<Mode>(row, "mode")?,
        status: letter::<Status>(row, "status")?,
        port: u16::try_from(port).map_err(|_| format!("port {port} in gp_segment_configuration"))?,
        hostname: text("hostname")?,
        address: text("address")?,
        datadir: text("datadir")?,
    })
}

/// A `"char"` column, which the client reads as a signed byte.
fn letter<T: TryFrom<char, Error: std::fmt::Display>>(row: &tokio_postgres::Row, column: &str) -> Result<T, String> {
    let byte: i8 = row.try_get(column).map_err(|e| format!("column {column} of gp_segment_configuration: {e}"))?;
    T::try_from(char::from(byte.unsigned_abs())).map_err(|e| e.to_string())
}

/// What FTS and tools wrote about each instance.
///
/// # Errors
/// [`SessionError`]
pub async fn history(session: &Session) -> Result<BTreeMap<Dbid, Written>, SessionError> {
    let rows = session.rows(HISTORY).await?;
    let one = |row: &tokio_postgres::Row| {
        let written = Written { newest: row.try_get("newest").ok()?, promoted: row.try_get("promoted").ok()? };
        Some((Dbid(row.try_get("dbid").ok()?), written))
    };
    Ok(rows.iter().filter_map(one).collect())
}

/// The timeline of a coordinator that dispatches or could: the first eight digits of its WAL file's name.
///
/// # Errors
/// [`SessionError`]; a standby has none to tell.
pub async fn timeline(session: &Session) -> Result<Timeline, SessionError> {
    let sql = match session.dialect {
        Dialect::Six => "SELECT pg_catalog.pg_xlogfile_name(pg_catalog.pg_current_xlog_location())",
        Dialect::Seven => "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())",
    };
    let rows = session.rows(sql).await?;
    let name: String = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
    let digits = name.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    digits
        .map(Timeline)
        .ok_or_else(|| SessionError::NotGreenplum { server: session.server.clone(), message: "it does not say its timeline".into() })
}
