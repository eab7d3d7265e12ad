//! FTS and dispatch: the two things for which the operator needs a dispatch-mode session.

use std::time::Duration;

use super::{Session, SessionError};
use model::{Content, world::Undispatched};

/// A probe of a hung primary takes (timeout + 1 s) x retries: 130 s with Greenplum's defaults (docs/greenplum.md#what-fts-asks).
const PROBE: Duration = Duration::from_secs(150);
/// A statement to all segments; it waits behind nothing when they are well.
const DISPATCH: Duration = Duration::from_secs(20);

/// Asks FTS for a complete scan and waits for it. That it returns does not mean that the catalog changed
/// (docs/greenplum.md#a-scan-on-demand).
///
/// # Errors
/// [`SessionError`]
pub async fn request_probe(session: &Session) -> Result<(), SessionError> {
    session.rows_within("SELECT pg_catalog.gp_request_fts_probe_scan()", PROBE).await.map(|_| ())
}

/// Why no dispatched statement was answered, with the contents that the error names.
pub fn undispatched(error: &SessionError) -> Undispatched {
    let why = error.to_string();
    let failed = named(&why);
    Undispatched::tried(why, failed)
}

/// Errors of dispatch name each instance as `(seg3 10.0.0.7:6000)`, in the message or its detail.
fn named(error: &str) -> Vec<Content> {
    let numbers = error.split("seg").skip(1).filter_map(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, then) = rest.split_at(digits);
        Some(Content(number.parse().ok().filter(|_| then.starts_with([' ', ':']))?))
    });
    let mut contents: Vec<_> = numbers.collect();
    contents.sort_unstable();
    contents.dedup();
    contents
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contents_that_a_failed_dispatch_names_are_read() {
        let six =
            "failed to acquire resources on one or more segments: could not connect to server: Connection refused (seg3 10.0.0.7:6000)";
        assert_eq!(named(six), [Content(3)]);
        assert_eq!(named("FTS detected one or more segments are down (seg1 a:6000) (seg0 b:6000 pid=7)"), [Content(0), Content(1)]);
        assert_eq!(named("password authentication failed for seg-2.gp, user \"seg\" of segment 4"), []);
    }
}
