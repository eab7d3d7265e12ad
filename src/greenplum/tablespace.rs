//! Where the tablespaces of an instance lie: Greenplum has one location for all instances, and a folder of each
//! instance in it, named by its dbid (docs/greenplum.md#tablespaces); the PostgreSQL below has the location itself.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{Session, SessionError, bytes::Bytes};
use model::Dbid;

/// A database in another encoding than these two has the server convert what it sends: a location would come as other bytes
/// than those of its path.
const MADE_BY_USERS: &str = "SELECT oid::text AS oid, spcname::text AS name, pg_catalog.pg_tablespace_location(oid) AS location,
    pg_catalog.getdatabaseencoding() IN ('UTF8', 'SQL_ASCII') AS as_it_is
  FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid";

/// Folder of links to the tablespaces, in every data directory.
pub const LINKS: &str = "pg_tblspc";

/// A tablespace that somebody has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its oid, which names its link.
    pub oid: String,
    /// For people: in which encoding it was given nobody knows.
    pub name: String,
    /// Where it was made: the same path on every host.
    pub location: PathBuf,
    /// The location is that of the disk byte for byte, and one that can be passed on to a tool.
    pub exact: bool,
}

/// The tablespaces of one instance, asked of it in utility mode.
///
/// # Errors
/// [`SessionError`]
pub async fn made_by_users(session: &Session) -> Result<Vec<Tablespace>, SessionError> {
    let rows = session.rows_of_bytes(MADE_BY_USERS).await?;
    let one = |row: &tokio_postgres::Row| {
        let bytes = |column: &str| row.try_get::<_, Bytes>(column);
        let (name, location) = (bytes("name")?.lossy(), bytes("location")?.0);
        let exact = std::str::from_utf8(&location).is_ok() && (location.is_ascii() || row.try_get("as_it_is")?);
        Ok(Tablespace { oid: row.try_get("oid")?, name, location: OsString::from_vec(location).into(), exact })
    };
    let read: Result<_, tokio_postgres::Error> = rows.iter().map(one).collect();
    read.map_err(|error| super::session::classify(&session.server, &error))
}

impl Tablespace {
    /// Where a copy for the instance `dbid` is made before it takes its place. Named by the dbid, because several
    /// instances of one host share the location.
    pub fn fresh(&self, dbid: Dbid) -> PathBuf {
        let mut path = self.location.clone().into_os_string();
        path.push(format!(".gpheal-new-{dbid}"));
        path.into()
    }

    /// Where this instance's folder may be, in Greenplum's layout and in PostgreSQL's.
    pub fn places(&self, dbid: Dbid) -> [PathBuf; 2] {
        [self.location.join(dbid.to_string()), self.location.clone()]
    }

    /// The value of `pg_basebackup --tablespace-mapping` that makes the copy there.
    pub fn mapping(&self, dbid: Dbid) -> String {
        let escaped = |path: &Path| path.to_string_lossy().replace('=', "\\=");
        format!("{}={}", escaped(&self.location), escaped(&self.fresh(dbid)))
    }

    /// Where the folder belongs that `pg_basebackup` has linked to as `link`; `None`: it was not made by that mapping.
    /// The tool itself tells which of the two layouts it has made.
    pub fn place(&self, dbid: Dbid, link: &Path) -> Option<PathBuf> {
        match link.strip_prefix(self.fresh(dbid)) {
            Ok(rest) if rest == Path::new("") => Some(self.location.clone()),
            Ok(rest) if rest == Path::new(&dbid.to_string()) => Some(self.location.join(rest)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Tablespace {
        Tablespace { oid: "16400".into(), name: "fast".into(), location: "/data/a=b".into(), exact: true }
    }

    #[test]
    fn a_copy_is_mapped_beside_the_location_of_this_instance_alone() {
        assert_eq!(space().mapping(Dbid(5)), "/data/a\\=b=/data/a\\=b.gpheal-new-5");
        assert_ne!(space().fresh(Dbid(5)), space().fresh(Dbid(6)));
    }

    #[test]
    fn the_link_that_the_tool_made_tells_the_layout() {
        let place = |link: &str| space().place(Dbid(5), Path::new(link));
        assert_eq!(place("/data/a=b.gpheal-new-5/5"), Some("/data/a=b/5".into()), "Greenplum");
        assert_eq!(place("/data/a=b.gpheal-new-5"), Some("/data/a=b".into()), "PostgreSQL");
        assert_eq!(place("/data/a=b.gpheal-new-5/2"), None, "another instance's");
        assert_eq!(place("/data/a=b/5"), None, "it was not mapped");
    }
}
