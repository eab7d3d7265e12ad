//! What keeps postgres from starting and can be put right under the volume's lock: the mode of the data directory, which
//! kubelet opens at each mount of a volume with an fsGroup, and the lock of a socket that an ended postmaster has left in a
//! folder that outlives its container. Each is told; what cannot be put right is left to postgres, which says so.

use std::{
    fs::{Permissions, metadata, remove_file, rename, set_permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use greenplum::Dialect;

/// Takes group and others the rights to the data directory that its postgres would refuse to start with.
pub fn mode(data: &Path, dialect: Option<Dialect>) {
    let Ok(mode) = metadata(data).map(|seen| seen.permissions().mode()) else { return };
    if !refused(mode, dialect) {
        return;
    }
    match set_permissions(data, Permissions::from_mode(mode & 0o7700)) {
        Ok(()) => tracing::warn!(was = format!("{:o}", mode & 0o7777), "group or others had rights to the data directory: taken away"),
        Err(error) => tracing::warn!(%error, "group or others have rights to the data directory, which cannot be taken away"),
    }
}

/// PostgreSQL 9.4 wants the owner alone; from 11 on the group may read.
fn refused(mode: u32, dialect: Option<Dialect>) -> bool {
    match dialect {
        Some(Dialect::Seven) => mode & 0o027 != 0,
        Some(Dialect::Six) | None => mode & 0o077 != 0,
    }
}

/// Where a repair puts the marker of a mirror that it rewinds.
pub fn marker_aside(data: &Path, dialect: Dialect) -> PathBuf {
    data.join(format!("{}.gpheal", dialect.mirror_marker()))
}

/// Puts the marker of a mirror back that a repair had put aside, and then came to no rewind: without it the directory would be taken for
/// that of a primary. One that has another one by now needs it no more.
///
/// # Errors
/// As of the file system: what the directory is, is not known then.
pub fn marker(data: &Path) -> io::Result<()> {
    for dialect in [Dialect::Six, Dialect::Seven] {
        let (aside, marker) = (marker_aside(data, dialect), data.join(dialect.mirror_marker()));
        match (aside.try_exists()?, marker.try_exists()?) {
            (false, _) => {}
            (true, true) => remove_file(aside)?,
            (true, false) => rename(aside, marker)?,
        }
    }
    Ok(())
}

/// Removes the socket's lock that the last end was for, `lock file "/tmp/.s.PGSQL.6000.lock" is empty` or `already exists`:
/// nobody listens at the socket, and whoever may write into the data directory holds the volume's lock, which is ours.
pub fn socket_lock(evidence: &str, port: u16) {
    let Some(lock) = named(evidence, port) else { return };
    if !nobody_listens(&lock.with_extension("")) {
        return;
    }
    match remove_file(&lock) {
        Ok(()) => tracing::warn!(lock = %lock.display(), "an ended postmaster had left the lock of its socket: removed"),
        Err(error) => tracing::warn!(lock = %lock.display(), %error, "the lock of a socket, left by an ended postmaster, stays"),
    }
}

/// The lock of our own socket, if it is what the line names.
fn named(evidence: &str, port: u16) -> Option<PathBuf> {
    let (_, path) = evidence.split_once("lock file \"")?;
    let (path, said) = path.split_once('"')?;
    let path = Path::new(path);
    let ours = path.file_name()?.to_str()? == format!(".s.PGSQL.{port}.lock");
    let stale = said.starts_with(" is empty") || said.starts_with(" already exists");
    (ours && stale && path.is_absolute()).then(|| path.to_owned())
}

/// Only a socket that refuses, or none, is nobody's. Not waited for: a listener that is stopped lets nobody in once its queue is full.
fn nobody_listens(socket: &Path) -> bool {
    let connect = || {
        let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        stream.set_nonblocking(true)?;
        stream.connect(&SockAddr::unix(socket)?)
    };
    match connect() {
        Ok(()) => false,
        Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("gpheal-mend-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_marker_that_a_repair_put_aside_is_put_back_unless_there_is_another() {
        let dir = tempfile::tempdir().unwrap();
        for dialect in [Dialect::Six, Dialect::Seven] {
            let (aside, marker_of) = (marker_aside(dir.path(), dialect), dir.path().join(dialect.mirror_marker()));
            marker(dir.path()).unwrap();
            assert!(!marker_of.exists());
            std::fs::write(&aside, "before").unwrap();
            marker(dir.path()).unwrap();
            assert!(!aside.exists() && std::fs::read_to_string(&marker_of).unwrap() == "before");
            std::fs::write(&marker_of, "after").unwrap();
            std::fs::write(&aside, "before").unwrap();
            marker(dir.path()).unwrap();
            assert!(!aside.exists() && std::fs::read_to_string(&marker_of).unwrap() == "after");
        }
    }

    #[test]
    fn a_mode_that_postgres_refuses_is_put_right_and_another_is_left() {
        let data = folder("mode");
        for (mode, dialect, after) in [
            (0o2770, Some(Dialect::Six), 0o2700),
            (0o2770, Some(Dialect::Seven), 0o2700),
            (0o755, None, 0o700),
            (0o750, Some(Dialect::Six), 0o700),
            (0o750, Some(Dialect::Seven), 0o750),
            (0o700, Some(Dialect::Six), 0o700),
        ] {
            set_permissions(&data, Permissions::from_mode(mode)).unwrap();
            super::mode(&data, dialect);
            let seen = metadata(&data).unwrap().permissions().mode() & 0o7777;
            assert_eq!(seen, after, "{mode:o} of {dialect:?}");
        }
        std::fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn the_lock_of_our_own_socket_is_removed_while_nobody_listens() {
        let folder = folder("socket");
        let lock = folder.join(".s.PGSQL.6000.lock");
        let said = |how: &str| format!("x UTC [9] FATAL:  lock file \"{}\" {how}", lock.display());
        for how in ["is empty", "already exists"] {
            std::fs::write(&lock, "").unwrap();
            socket_lock(&said(how), 7000);
            assert!(lock.try_exists().unwrap(), "another port's");
            socket_lock(&said("could not be read"), 6000);
            assert!(lock.try_exists().unwrap(), "nobody said that it is stale");
            socket_lock(&said(how), 6000);
            assert!(!lock.try_exists().unwrap(), "{how}");
        }
        std::fs::write(&lock, "1").unwrap();
        let listens = UnixListener::bind(folder.join(".s.PGSQL.6000")).unwrap();
        socket_lock(&said("already exists"), 6000);
        assert!(lock.try_exists().unwrap(), "somebody listens");
        drop(listens);
        socket_lock(&said("already exists"), 6000);
        assert!(!lock.try_exists().unwrap(), "its socket is left, and refuses");
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// A blocking look would hold up its supervisor until the listener is woken.
    #[test]
    fn a_listener_that_lets_nobody_in_any_more_is_somebody_and_is_not_waited_for() {
        let folder = folder("full");
        let path = folder.join(".s.PGSQL.6000");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let begun = std::time::Instant::now();
        let streams: Vec<_> = (0..4).map(|_| Socket::new(Domain::UNIX, Type::STREAM, None).unwrap()).collect();
        for stream in &streams {
            stream.set_nonblocking(true).unwrap();
            let _ = stream.connect(&SockAddr::unix(&path).unwrap()); // the queue is full at some point
        }
        assert!(!nobody_listens(&path));
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
