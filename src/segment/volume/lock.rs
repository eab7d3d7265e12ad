//! The volume's lock: whoever holds it may run postgres or write. An flock on a descriptor that
//! postgres and all its children inherit, so it is free only when the last of them is gone (docs/greenplum.md#processes).

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::fd::{AsRawFd, RawFd},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{
    Volume,
    holder::{self, Holder},
    processes::{self, FileId, Found},
};

/// The lock, held. Given back by closing alone: an unlock would take it from every process that inherited it.
#[derive(Debug)]
pub struct Held {
    file: File,
    path: PathBuf,
    holder: Holder,
    /// Why the record could not be written.
    unwritten: Option<String>,
    /// The file that stands at the lock's path now, where ours was taken away from under us.
    instead: Option<File>,
}

/// The lock, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockSeen {
    /// Nobody ever took it.
    Never,
    Free,
    /// Somebody holds it; the text is what they wrote down.
    Held(String),
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody lives there.
    #[error("somebody else holds the volume's lock ({0})")]
    Busy(String),
    /// It is free on this kernel, and its last holder was on another one that may still write.
    #[error("the last holder, {who}, did not give the volume back, and a lock says nothing about another kernel; {how}", who = .0, how = .0.how_to_end())]
    Elsewhere(Box<Holder>),
    #[error("the lock {path} cannot be used: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl Volume {
    /// Takes the lock if it is free, and writes down who holds it. `gone`: the last holder ([`Holder::named`]) that a
    /// person knows to be gone.
    ///
    /// # Errors
    /// [`LockError::Busy`] when it is not free, [`LockError::Elsewhere`] when its last holder may live on another kernel.
    pub fn try_lock(&self, holder: &Holder, gone: Option<&str>) -> Result<Held, LockError> {
        let path = self.mark("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let file = open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Busy(said_by(&file))),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        if !is_at(&file, &path).map_err(io)? {
            return Err(LockError::Busy("its file was replaced while it was taken".into()));
        }
        if let Some(last) = holder::last(&file).map_err(io)?.filter(|last| !last.is_gone_for(holder, gone)) {
            return Err(LockError::Elsewhere(Box::new(last)));
        }
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| io(e.into()))?; // children keep it
        let mut held = Held { file, path, holder: holder.clone(), unwritten: None, instead: None };
        held.write_down();
        Ok(held)
    }

    /// Whether somebody holds the lock now. Writes nothing; a free one is held for the moment of the look, which a taker
    /// answers by looking again.
    ///
    /// # Errors
    /// As of the file system.
    pub fn lock_seen(&self) -> io::Result<LockSeen> {
        let file = match File::open(self.mark("lock")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LockSeen::Never),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(LockSeen::Free),
            Err(TryLockError::WouldBlock) => Ok(LockSeen::Held(said_by(&file))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Processes of this pid namespace, other than ourselves, that live in the data directory or write below it, its
    /// tablespaces and its log included. Where we hold the lock and run no postgres, somebody else's: a postgres that a
    /// person started by hand, or a tool.
    pub fn squatters(&self) -> Found {
        match self.folders() {
            Ok(folders) => processes::writing_below(&folders),
            Err(error) => Found { pids: vec![], unknown: Some(format!("{} cannot be looked at: {error}", self.data.display())) },
        }
    }

    /// The data directory and all that its links lead to, as the kernel names them.
    fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders: Vec<_> = unless_missing(self.data.canonicalize())?.into_iter().collect();
        let spaces = unless_missing(std::fs::read_dir(self.data.join("pg_tblspc")))?.into_iter().flatten();
        let spaces = spaces.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        for link in spaces.into_iter().chain(["pg_wal", "pg_xlog"].map(|log| self.data.join(log))) {
            let there = unless_missing(link.canonicalize())?;
            folders.extend(there.filter(|there| !folders.iter().any(|folder| there.starts_with(folder))));
        }
        Ok(folders)
    }

    /// Processes of this pid namespace, other than ourselves, that have the file open which stands at the lock's path.
    pub fn lock_holders(&self) -> Found {
        match std::fs::metadata(self.mark("lock")) {
            Ok(lock) => processes::having_open(FileId::from(&lock)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::default(),
            Err(error) => Found { pids: vec![], unknown: Some(format!("the lock cannot be looked at: {error}")) },
        }
    }
}

fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(there) => Ok(Some(there)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn said_by(file: &File) -> String {
    match holder::last(file) {
        Ok(Some(holder)) => holder.to_string(),
        Ok(None) => "nobody knows who".into(),
        Err(error) => format!("its record cannot be read: {error}"),
    }
}

/// The file is still the one that the path names.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = FileId::from(&file.metadata()?);
    Ok(unless_missing(std::fs::metadata(path))?.is_some_and(|there| FileId::from(&there) == ours))
}

impl Held {
    /// The descriptor that children inherit.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Where the lock's file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that is held, whatever its path names now.
    ///
    /// # Errors
    /// As of the file system.
    pub fn id(&self) -> io::Result<FileId> {
        Ok(FileId::from(&self.file.metadata()?))
    }

    /// What keeps this lock from guarding the volume. Who comes next looks at the path alone, so where its file was
    /// removed or replaced the one that stands there is taken, too, for as long as we live; but postgres holds the old one.
    pub fn fault(&mut self) -> Option<String> {
        match is_at(&self.file, &self.path) {
            Ok(true) => self.still_unwritten().map(|why| format!("who holds the volume's lock cannot be written down: {why}")),
            Ok(false) => Some(self.fault_of_path()),
            Err(error) => Some(format!("the volume's lock {} cannot be looked at: {error}", self.path.display())),
        }
    }

    /// A disk that was full may have room by now.
    fn still_unwritten(&mut self) -> Option<String> {
        if self.unwritten.is_some() {
            self.write_down();
        }
        self.unwritten.clone()
    }

    fn fault_of_path(&mut self) -> String {
        let instead = match self.hold_path_too() {
            Ok(()) => "the one that stands there now was taken, too".into(),
            Err(why) => why,
        };
        let path = self.path.display();
        format!(
            "the file of the volume's lock {path} was removed or replaced while postgres runs ({instead}); postgres has to be started anew to hold it"
        )
    }

    fn hold_path_too(&mut self) -> Result<(), String> {
        if let Some(instead) = &self.instead
            && is_at(instead, &self.path).map_err(|error| error.to_string())?
        {
            return Ok(());
        }
        let file = open(&self.path).map_err(|error| format!("a new one cannot be made: {error}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(format!("somebody else holds the one that stands there now: {}", said_by(&file))),
            Err(TryLockError::Error(error)) => return Err(format!("the one that stands there now cannot be taken: {error}")),
        }
        let _ = holder::write_down(&file, &self.holder);
        self.instead = Some(file);
        Ok(())
    }

    /// A full disk must not keep a segment down, so that it cannot be written is told, and no error.
    fn write_down(&mut self) {
        self.holder.written = Some(jiff::Timestamp::now());
        let files = std::iter::once(&self.file).chain(&self.instead);
        let failed = files.map(|file| holder::write_down(file, &self.holder)).find_map(Result::err);
        self.unwritten = failed.map(|error| error.to_string());
    }
}

impl Drop for Held {
    /// Says that the volume was given back, when no process is left that inherited the lock.
    fn drop(&mut self) {
        if self.id().is_ok_and(|lock| processes::having_open(lock).is_nobody()) {
            self.holder.released = true;
            self.write_down();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use super::*;

    /// The lock is inherited by every child, so also by those that another test starts meanwhile.
    static ALONE: Mutex<()> = Mutex::new(());

    fn volume() -> (MutexGuard<'static, ()>, tempfile::TempDir, Volume) {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        (alone, dir, volume)
    }

    #[test]
    fn a_second_taker_is_told_who_holds_it() {
        let (_alone, _dir, volume) = volume();
        assert_eq!(volume.lock_seen().unwrap(), LockSeen::Never);
        let held = volume.try_lock(&here("a"), None).unwrap();
        assert!(matches!(volume.try_lock(&here("b"), None), Err(LockError::Busy(who)) if who == "supervisor in pod a on node n1"));
        assert_eq!(volume.lock_seen().unwrap(), LockSeen::Held("supervisor in pod a on node n1".into()));
        drop(held);
        assert_eq!(volume.lock_seen().unwrap(), LockSeen::Free);
        volume.try_lock(&here("b"), None).unwrap();
    }

    /// The last holder was killed with its node, or without it: its record stands as it was.
    #[test]
    fn a_holder_on_another_node_counts_until_it_is_proven_gone() {
        let (_alone, _dir, volume) = volume();
        let last = Holder { boot: "other".into(), boot_began: None, ..Holder::here("n2", "a", "supervisor") };
        let left = |last: &Holder| std::fs::write(volume.mark("lock"), serde_json::to_vec(last).unwrap()).unwrap();
        left(&last);
        let Err(LockError::Elsewhere(who)) = volume.try_lock(&here("b"), None) else { panic!("it may live") };
        assert_eq!(who.pod, last.pod);
        for other in ["n2", &who.named().replacen("n2", "n3", 1)] {
            assert!(
                matches!(volume.try_lock(&here("b"), Some(other)), Err(LockError::Elsewhere(_))),
                "{other}: another's end says nothing"
            );
        }
        assert!(matches!(volume.try_lock(&Holder { node: String::new(), ..here("b") }, None), Err(LockError::Elsewhere(_))));
        volume.try_lock(&here("b"), Some(&who.named())).expect("a person says that it is gone");
        for gone in [
            Holder { released: true, ..last.clone() },
            Holder { boot: here("b").boot, ..last.clone() },
            Holder { node: "n1".into(), written: Some(jiff::Timestamp::UNIX_EPOCH), ..last.clone() },
        ] {
            left(&gone);
            volume.try_lock(&here("b"), None).unwrap_or_else(|e| panic!("{gone:?}: {e}"));
        }
        left(&Holder { node: "n1".into(), ..last.clone() });
        assert!(matches!(volume.try_lock(&here("b"), None), Err(LockError::Elsewhere(_))), "a second kernel on this node");
        std::fs::write(volume.mark("lock"), "{\"node\":").unwrap();
        assert!(matches!(volume.try_lock(&here("b"), None), Err(LockError::Elsewhere(_))), "a record that was cut off was somebody's");
        std::fs::write(volume.mark("lock"), "").unwrap();
        volume.try_lock(&here("b"), None).expect("nobody ever wrote one");
    }

    #[test]
    fn it_is_given_back_in_writing_only_when_nobody_is_left() {
        let (_alone, _dir, volume) = volume();
        let held = volume.try_lock(&here("a"), None).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        drop(held);
        assert!(!last(&volume).released, "a child has it yet");
        child.kill().unwrap();
        child.wait().unwrap();
        drop(volume.try_lock(&here("b"), None).unwrap());
        assert!(last(&volume).released);
    }

    fn last(volume: &Volume) -> Holder {
        holder::last(&File::open(volume.mark("lock")).unwrap()).unwrap().unwrap()
    }

    fn here(pod: &str) -> Holder {
        Holder::here("n1", pod, "supervisor")
    }

    #[test]
    fn who_lives_in_the_directory_or_writes_its_tablespace_without_the_lock_is_found() {
        let (_alone, dir, volume) = volume();
        assert_eq!(volume.squatters(), Found::default(), "there is no directory");
        let space = dir.path().join("space/5");
        std::fs::create_dir_all(volume.data().join("pg_tblspc")).unwrap();
        std::fs::create_dir_all(&space).unwrap();
        std::os::unix::fs::symlink(&space, volume.data().join("pg_tblspc/16384")).unwrap();
        assert_eq!(volume.squatters(), Found::default());
        let writing = format!("exec 5>{}; read x", space.join("file").display());
        for (folder, script) in [(volume.data(), "read x"), (dir.path(), writing.as_str())] {
            let mut shell = Command::new("sh").args(["-c", script]).current_dir(folder).stdin(Stdio::piped()).spawn().unwrap();
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while volume.squatters().pids != [shell.id().cast_signed()] {
                assert!(std::time::Instant::now() < until, "{script} is not found: {:?}", volume.squatters());
                std::thread::yield_now();
            }
            shell.kill().unwrap();
            shell.wait().unwrap();
        }
    }

    /// Whoever comes next looks at the path.
    #[test]
    fn a_lock_whose_file_is_removed_or_replaced_is_told_and_its_path_kept() {
        let (_alone, _dir, volume) = volume();
        let mut held = volume.try_lock(&here("a"), None).unwrap();
        assert_eq!(held.fault(), None);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = held.id().unwrap();
        std::fs::remove_file(volume.mark("lock")).unwrap();
        assert!(held.fault().is_some_and(|why| why.contains("removed or replaced") && why.contains("was taken, too")));
        assert!(matches!(volume.try_lock(&here("b"), None), Err(LockError::Busy(_))), "the new file is held, too");
        assert_eq!(volume.lock_holders(), Found::default(), "no child has that one");
        assert_eq!(processes::having_open(id).pids, [child.id().cast_signed()], "by what is held it is found");
        std::fs::remove_file(volume.mark("lock")).unwrap();
        let other = volume.try_lock(&here("b"), None).unwrap();
        assert!(held.fault().is_some_and(|why| why.contains("somebody else holds") && why.contains("pod b")));
        child.kill().unwrap();
        child.wait().unwrap();
        drop((other, held));
    }

    #[test]
    fn it_outlives_its_taker_in_a_grandchild_and_is_free_when_that_is_gone() {
        let (_alone, _dir, volume) = volume();
        let held = volume.try_lock(&here("first"), None).unwrap();
        // The shell ends at once; what it left behind holds the inherited descriptor.
        let mut shell = Command::new("sh").args(["-c", "sleep 60 >/dev/null 2>&1 & echo $!"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        io::Read::read_to_string(shell.stdout.as_mut().unwrap(), &mut pid).unwrap();
        shell.wait().unwrap();
        let pid: i32 = pid.trim().parse().unwrap();
        drop(held);
        assert!(matches!(volume.try_lock(&here("second"), None), Err(LockError::Busy(_))));
        assert_eq!(volume.lock_holders().pids, [pid]);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while volume.try_lock(&here("second"), None).is_err() {
            assert!(std::time::Instant::now() < deadline, "the lock did not become free");
            std::thread::yield_now();
        }
    }
}
