//! The volume's lock: whoever holds it may run postgres or write. An flock on a descriptor that
//! postgres and all its children inherit, so it is free only when the last of them is gone (O §8).

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write},
    os::fd::{AsRawFd, RawFd},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::Volume;

/// The lock, held. Given back by closing alone: an unlock would take it from every process that inherited it.
#[derive(Debug)]
pub struct Held {
    file: File,
    path: PathBuf,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody lives there.
    #[error("somebody else holds the volume's lock ({0})")]
    Busy(String),
    #[error("the lock {path} can not be used")]
    Io { path: PathBuf, source: io::Error },
}

impl Volume {
    /// Takes the lock if it is free, and writes down who holds it.
    ///
    /// # Errors
    /// [`LockError::Busy`] when it is not free.
    pub fn try_lock(&self, holder: &str) -> Result<Held, LockError> {
        let path = self.mark("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Busy(std::fs::read_to_string(&path).unwrap_or_default())),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        if !is_at(&file, &path) {
            return Err(LockError::Busy("its file was replaced while it was taken".into()));
        }
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| io(e.into()))?; // children keep it
        // Only for people: a full disk must not keep a segment down.
        let _ = file.set_len(0).and_then(|()| (&file).write_all(holder.as_bytes()));
        Ok(Held { file, path })
    }

    /// A process of this pid namespace, other than ourselves, that lives in the data directory without the lock:
    /// a postgres that a person started by hand. postgres works in its data directory.
    pub fn squatter(&self) -> Option<i32> {
        let here = std::fs::metadata(&self.data).ok()?;
        let me = std::process::id().cast_signed();
        let lives_here =
            |pid: &i32| std::fs::metadata(format!("/proc/{pid}/cwd")).is_ok_and(|m| (m.dev(), m.ino()) == (here.dev(), here.ino()));
        pids().filter(|pid| *pid != me).find(lives_here)
    }

    /// Processes of this pid namespace, other than ourselves, that have the lock's file open.
    pub fn lock_holders(&self) -> Vec<i32> {
        let Ok(lock) = std::fs::metadata(self.mark("lock")) else { return vec![] };
        let me = std::process::id().cast_signed();
        pids().filter(|pid| *pid != me && has_open(*pid, lock.dev(), lock.ino())).collect()
    }
}

fn pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The file is still the one that the path names.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => identity(ours) == identity(there),
        _ => false,
    }
}

fn has_open(pid: i32, dev: u64, inode: u64) -> bool {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"));
    fds.into_iter().flatten().flatten().any(|fd| std::fs::metadata(fd.path()).is_ok_and(|m| (m.dev(), m.ino()) == (dev, inode)))
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
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn volume() -> (tempfile::TempDir, Volume) {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        (dir, volume)
    }

    #[test]
    fn a_second_taker_is_told_who_holds_it() {
        let (_dir, volume) = volume();
        let held = volume.try_lock("pod a").unwrap();
        assert!(matches!(volume.try_lock("pod b"), Err(LockError::Busy(who)) if who == "pod a"));
        drop(held);
        volume.try_lock("pod b").unwrap();
    }

    #[test]
    fn who_lives_in_the_directory_without_the_lock_is_found() {
        let (_dir, volume) = volume();
        std::fs::create_dir(volume.data()).unwrap();
        assert_eq!(volume.squatter(), None);
        let mut sleep = Command::new("sleep").arg("60").current_dir(volume.data()).spawn().unwrap();
        assert_eq!(volume.squatter(), Some(sleep.id().cast_signed()));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
    }

    #[test]
    fn it_outlives_its_taker_in_a_grandchild_and_is_free_when_that_is_gone() {
        let (_dir, volume) = volume();
        let held = volume.try_lock("first").unwrap();
        // The shell ends at once; what it left behind holds the inherited descriptor.
        let mut shell = Command::new("sh").args(["-c", "sleep 60 >/dev/null 2>&1 & echo $!"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        io::Read::read_to_string(shell.stdout.as_mut().unwrap(), &mut pid).unwrap();
        shell.wait().unwrap();
        let pid: i32 = pid.trim().parse().unwrap();
        drop(held);
        assert!(matches!(volume.try_lock("second"), Err(LockError::Busy(_))));
        assert_eq!(volume.lock_holders(), [pid]);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while volume.try_lock("second").is_err() {
            assert!(std::time::Instant::now() < deadline, "the lock did not become free");
            std::thread::yield_now();
        }
    }
}
