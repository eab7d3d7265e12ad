//! How much of a server a base backup would copy. Its own log is no part of that: Greenplum's copies the folder without what is in it.

use super::Dialect;

/// Bytes of all databases, wherever their files lie.
pub const DATA: &str = "SELECT sum(pg_catalog.pg_database_size(oid))::text FROM pg_catalog.pg_database";

/// Segments of 64 MB (docs/greenplum.md#folders-and-sizes), beside which history files and a folder lie; `pg_ls_waldir` is not known there.
const LOG_OF_SIX: &str = "SELECT (count(*) * 64 * 1024 * 1024)::text FROM pg_catalog.pg_ls_dir('pg_xlog') AS name WHERE length(name) = 24";
const LOG_OF_SEVEN: &str = "SELECT sum(size)::text FROM pg_catalog.pg_ls_waldir()";

/// Bytes of its write-ahead log.
pub const fn log(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Six => LOG_OF_SIX,
        Dialect::Seven => LOG_OF_SEVEN,
    }
}

/// Files of the databases in the data directory. Folders are listed for it, and no file is looked at.
pub const FILES: &str = "SELECT sum((SELECT count(*) FROM pg_catalog.pg_ls_dir('base/' || oid)))::text FROM pg_catalog.pg_database
  WHERE dattablespace = (SELECT oid FROM pg_catalog.pg_tablespace WHERE spcname = 'pg_default')";

/// Those in tablespaces: `pg_tblspc/OID/VERSION/DATABASE/FILE`.
pub const FILES_OF_SPACES: &str = "SELECT sum((SELECT count(*) FROM pg_catalog.pg_ls_dir(version.at || '/' || name)))::text
  FROM (SELECT space.at || '/' || name AS at
    FROM (SELECT 'pg_tblspc/' || oid AS at FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')) AS space,
      LATERAL pg_catalog.pg_ls_dir(space.at) AS name WHERE name ~ '^(GPDB|PG)_') AS version,
    LATERAL pg_catalog.pg_ls_dir(version.at) AS name WHERE name ~ '^[0-9]+$'";
