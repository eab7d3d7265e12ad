//! What an acting primary says of itself and of its mirror, in utility mode (reference §1.5).

use super::{Dialect, Session, SessionError};
use crate::model::{Content, Dbid, Lsn, Source, SystemIdentifier, world::Walsender};

const IDENTITY: &str = "SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
  pg_catalog.current_setting('gp_dbid')::int2 AS dbid, pg_catalog.current_setting('gp_contentid')::int2 AS content";

const WALSENDERS: &str = "SELECT application_name, state, host(client_addr) AS client FROM pg_catalog.pg_stat_replication";

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
    };
    Ok(session.rows(WALSENDERS).await?.iter().map(one).collect())
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
    let rows = session.rows(sql).await?;
    let text: String = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
    text.parse().map_err(|_| SessionError::NotGreenplum { server: session.server.clone(), message: format!("its log is at '{text}'") })
}
