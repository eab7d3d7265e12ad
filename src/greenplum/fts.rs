//! FTS and dispatch: the two things for which the operator needs a dispatch-mode session.

use std::time::Duration;

use super::{Session, SessionError};
use crate::model::Content;

/// A probe of a hung primary takes (timeout + 1 s) x retries: 130 s with Greenplum's defaults (O §4).
const PROBE: Duration = Duration::from_secs(150);
/// A statement to all segments; it waits behind nothing when they are well.
const DISPATCH: Duration = Duration::from_secs(20);

/// Asks FTS for a complete scan and waits for it. That it returns does not mean that the catalog changed (O §6.7).
///
/// # Errors
/// [`SessionError`]
pub async fn request_probe(session: &Session) -> Result<(), SessionError> {
    session.rows_within("SELECT pg_catalog.gp_request_fts_probe_scan()", PROBE).await.map(|_| ())
}

/// The contents that answer a dispatched statement. One dead primary fails it for all.
///
/// # Errors
/// [`SessionError`]
pub async fn dispatched_contents(session: &Session) -> Result<Vec<Content>, SessionError> {
    let rows = session.rows_within("SELECT DISTINCT gp_segment_id::int4 AS content FROM gp_dist_random('gp_id')", DISPATCH).await?;
    let one = |row: &tokio_postgres::Row| i16::try_from(row.try_get::<_, i32>("content").ok()?).ok().map(Content);
    Ok(rows.iter().filter_map(one).collect())
}
