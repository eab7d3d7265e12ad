//! The two dialects, told apart by the PostgreSQL they grew from; every difference stands here.

use serde::{Deserialize, Serialize};

/// A family of versions that speak alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dialect {
    /// Greenplum 6 (PostgreSQL 9.4): recovery.conf, pg_xlog, `gp_session_role`.
    Six,
    /// Greenplum 7 and Cloudberry (PostgreSQL 12 and later): standby.signal, pg_wal, `gp_role`.
    Seven,
}

/// A PostgreSQL that no supported Greenplum is made of.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("PostgreSQL {0} is the base of no Greenplum that gpheal knows (9.4 is Greenplum 6; 12 and later are Greenplum 7 and Cloudberry)")]
pub struct UnknownVersion(pub String);

impl Dialect {
    /// From the text of the file `PG_VERSION`: `9.4`, `12`.
    ///
    /// # Errors
    /// [`UnknownVersion`]
    pub fn from_pg_version(text: &str) -> Result<Self, UnknownVersion> {
        match text.trim() {
            "9.4" => Ok(Self::Six),
            major if major.parse::<u32>().is_ok_and(|major| major >= 12) => Ok(Self::Seven),
            other => Err(UnknownVersion(other.to_owned())),
        }
    }

    /// From the parameter `server_version` that a server tells at login: `9.4.26`, `12.12`, `14beta1`, `16.2 (Debian …)`.
    ///
    /// # Errors
    /// [`UnknownVersion`]
    pub fn from_server_version(text: &str) -> Result<Self, UnknownVersion> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        match (numbers.next(), numbers.next()) {
            (Some("9"), Some("4")) => Ok(Self::Six),
            (Some(major), _) if major.parse::<u32>().is_ok_and(|major| major >= 12) => Ok(Self::Seven),
            _ => Err(UnknownVersion(text.to_owned())),
        }
    }

    /// Startup option that makes a session see one instance only (docs/greenplum.md#utility-mode).
    pub fn utility_option(self) -> &'static str {
        match self {
            Self::Six => "-c gp_session_role=utility",
            Self::Seven => "-c gp_role=utility",
        }
    }

    /// Arguments of `postgres` for a segment, primary or mirror (docs/greenplum.md#arguments-of-a-segment).
    pub fn segment_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Six => &["-c", "gp_role=utility"],
            Self::Seven => &["-c", "gp_role=execute"],
        }
    }

    /// Arguments of `postgres` for a coordinator that only answers utility sessions (docs/greenplum.md#a-coordinators-start). Its standby
    /// receives nothing yet: of an incarnation that nobody can have written down it would be taken for a copy of another history.
    pub fn coordinator_utility_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Six => &["-c", "gp_role=utility", "-c", "max_wal_senders=0", "-m"],
            Self::Seven => &["-c", "gp_role=utility", "-c", "max_wal_senders=0"],
        }
    }

    /// Arguments of `postgres` for a coordinator in dispatch mode.
    pub fn coordinator_dispatch_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Six => &["-E"],
            Self::Seven => &["-c", "gp_role=dispatch"],
        }
    }

    /// Arguments of `postgres --single` besides the directory. A container that is not the segment's has none of the node's huge
    /// pages, whatever the settings say of them; and without them the buffers are memory of that container. What it says is read
    /// by its words, and a setting of their language would win over the environment.
    pub fn single_user_arguments(self) -> [&'static str; 8] {
        let role = match self {
            Self::Six => "gp_session_role=utility",
            Self::Seven => "gp_role=utility",
        };
        ["-c", role, "-c", "huge_pages=off", "-c", "shared_buffers=128MB", "-c", "lc_messages=C"]
    }

    /// Folder of the write-ahead log in a data directory.
    pub fn wal_folder(self) -> &'static str {
        match self {
            Self::Six => "pg_xlog",
            Self::Seven => "pg_wal",
        }
    }

    /// Folder of the server log in a data directory.
    pub fn log_folder(self) -> &'static str {
        match self {
            Self::Six => "pg_log",
            Self::Seven => "log",
        }
    }

    /// The file whose presence makes a data directory start as a mirror.
    pub fn mirror_marker(self) -> &'static str {
        match self {
            Self::Six => "recovery.conf",
            Self::Seven => "standby.signal",
        }
    }

    /// The file that holds a mirror's `primary_conninfo` and `primary_slot_name`.
    pub fn mirror_settings(self) -> &'static str {
        match self {
            Self::Six => "recovery.conf",
            Self::Seven => "postgresql.auto.conf",
        }
    }

    /// pg_basebackup's word for `--wal-method`.
    pub fn wal_method_option(self) -> &'static str {
        match self {
            Self::Six => "--xlog-method",
            Self::Seven => "--wal-method",
        }
    }

    /// What keeps pg_basebackup and pg_rewind from syncing, file by file, what they wrote; those of PostgreSQL 9.4 never do.
    pub fn no_sync_option(self) -> Option<&'static str> {
        match self {
            Self::Six => None,
            Self::Seven => Some("--no-sync"),
        }
    }

    /// What keeps pg_basebackup from verifying page checksums, as Greenplum's own tools do: files of append-optimized tables
    /// are not made of pages, and after all their bytes the copy would be given up for them. That of 9.4 verifies nothing.
    pub fn no_verify_option(self) -> Option<&'static str> {
        match self {
            Self::Six => None,
            Self::Seven => Some("--no-verify-checksums"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_and_the_rest_is_refused() {
        assert_eq!(Dialect::from_pg_version("9.4\n"), Ok(Dialect::Six));
        assert_eq!(Dialect::from_pg_version("12\n"), Ok(Dialect::Seven));
        assert_eq!(Dialect::from_pg_version("14"), Ok(Dialect::Seven));
        for other in ["8.2", "8.3", "9.6", "11", "x", ""] {
            assert!(Dialect::from_pg_version(other).is_err(), "{other}");
        }
        for (told, dialect) in
            [("9.4.26", Dialect::Six), ("12.12", Dialect::Seven), ("14beta1", Dialect::Seven), ("16.2 (x)", Dialect::Seven)]
        {
            assert_eq!(Dialect::from_server_version(told), Ok(dialect), "{told}");
        }
        for other in ["9.6.2", "8.3.23", "11.4", "", "x"] {
            assert!(Dialect::from_server_version(other).is_err(), "{other}");
        }
    }
}
