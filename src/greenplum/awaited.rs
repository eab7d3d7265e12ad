//! Whether a server works for a tool that waits for it and does nothing itself meanwhile: the list of a million files that nobody
//! has looked at for long, a checkpoint, the size of a base backup.

use super::{Dialect, Session, SessionError};

/// The name of a rewind's sessions, by which Greenplum's own tools know that one runs (docs/greenplum.md#pg_rewind).
pub const REWIND: &str = "__gprecoverseg_pg_rewind__";

/// What a tool waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// `pg_rewind`: for the statement that lists all files.
    Rewind,
    /// `pg_basebackup`: for the checkpoint at which it begins, and for the size of what it is to send.
    Backup,
}

/// Whoever began longer ago is not believed to work any more: a process that hangs is active, too.
const AT_MOST: &str = "pg_catalog.clock_timestamp() - interval '24 hours'";

impl Awaited {
    /// The sessions that work for it, of the asking role. One that cannot get rid of what it has found does not work: 6 does not tell
    /// those apart, and gives such a connection up by itself. A role that is no superuser does not see what a walsender does.
    fn sessions(self, dialect: Dialect) -> String {
        let own = "usename = current_user";
        match self {
            Self::Rewind => {
                let sends = match dialect {
                    Dialect::Six => "",
                    Dialect::Seven => " AND wait_event_type IS DISTINCT FROM 'Client'",
                };
                format!(
                    "SELECT 1 FROM pg_catalog.pg_stat_activity \
                     WHERE application_name = '{REWIND}' AND {own} AND state = 'active' AND query_start > {AT_MOST}{sends}"
                )
            }
            Self::Backup => format!(
                "SELECT 1 FROM pg_catalog.pg_stat_replication \
                 WHERE application_name = 'pg_basebackup' AND {own} AND coalesce(state, 'backup') = 'backup' AND backend_start > {AT_MOST}"
            ),
        }
    }

    /// Whether the server works for it now.
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn is_worked_for(self, session: &Session) -> Result<bool, SessionError> {
        let rows = session.rows(&format!("{} LIMIT 1", self.sessions(session.dialect))).await?;
        Ok(!rows.is_empty())
    }
}
