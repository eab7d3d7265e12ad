//! The volume's lock: whoever holds it may run postgres or write. An flock on a descriptor that
//! postgres and all its children inherit, so it is free only when the last of them is gone (O §8).

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::fd::{AsRawFd, RawFd},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::{Deserialize, Serialize};

use super::Volume;

/// Who holds the lock, as its file says. An flock proves something about one kernel only, so what decides between
/// nodes is this record: a holder on another node counts until it is proven gone (design §3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Name of the node; empty when the container was not told.
    pub node: String,
    /// Boot id of its kernel.
    pub boot: String,
    pub pod: String,
    /// `supervisor`, or the attempt.
    pub what: String,
    /// It gave the lock back itself, and left no process behind.
    #[serde(default)]
    pub released: bool,
}

impl Holder {
    /// A holder on this kernel.
    pub fn here(node: &str, pod: &str, what: &str) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { node: node.into(), boot: boot.trim().into(), pod: pod.into(), what: what.into(), released: false }
    }

    /// Once `taker` has the flock, nobody of this record can live any more: it ended by itself, or it was on this kernel,
    /// or on an earlier boot of this node, or a person says that its node is gone.
    fn is_gone_for(&self, taker: &Self, gone_node: Option<&str>) -> bool {
        let same_node = !self.node.is_empty() && self.node == taker.node;
        self.released || self.boot == taker.boot || same_node || gone_node.is_some_and(|gone| gone == self.node)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let node = if self.node.is_empty() { "(no NODE_NAME)" } else { &self.node };
        write!(f, "{} in pod {} on node {node}", self.what, self.pod)
    }
}

/// The lock, held. Given back by closing alone: an unlock would take it from every process that inherited it.
#[derive(Debug)]
pub struct Held {
    file: File,
    path: PathBuf,
    holder: Holder,
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
    /// It is free on this node, and its last holder was on another one that may still write.
    #[error(
        "the last holder, {0}, did not give the volume back, and a lock says nothing about another node; make sure that node {node} \
         is down or has lost the volume, then annotate this pod with gpheal.io/node-gone={node}", node = .0.node
    )]
    Elsewhere(Holder),
    #[error("the lock {path} can not be used")]
    Io { path: PathBuf, source: io::Error },
}

impl Volume {
    /// Takes the lock if it is free, and writes down who holds it. `gone_node`: a node that a person knows to be gone.
    ///
    /// # Errors
    /// [`LockError::Busy`] when it is not free, [`LockError::Elsewhere`] when its last holder may live on another node.
    pub fn try_lock(&self, holder: &Holder, gone_node: Option<&str>) -> Result<Held, LockError> {
        let path = self.mark("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Busy(said_by(&path))),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        if !is_at(&file, &path) {
            return Err(LockError::Busy("its file was replaced while it was taken".into()));
        }
        if let Some(last) = last_holder(&path).filter(|last| !last.is_gone_for(holder, gone_node)) {
            return Err(LockError::Elsewhere(last));
        }
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| io(e.into()))?; // children keep it
        let held = Held { file, path, holder: holder.clone() };
        held.write_down();
        Ok(held)
    }

    /// Whether somebody holds the lock now. Writes nothing; a free one is held for the moment of the look, which a taker
    /// answers by looking again.
    ///
    /// # Errors
    /// As of the file system.
    pub fn lock_seen(&self) -> io::Result<LockSeen> {
        let path = self.mark("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LockSeen::Never),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(LockSeen::Free),
            Err(TryLockError::WouldBlock) => Ok(LockSeen::Held(said_by(&path))),
            Err(TryLockError::Error(error)) => Err(error),
        }
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
        std::fs::metadata(self.mark("lock")).map_or_else(|_| vec![], |lock| holders_of(&lock))
    }
}

fn holders_of(lock: &std::fs::Metadata) -> Vec<i32> {
    let me = std::process::id().cast_signed();
    pids().filter(|pid| *pid != me && has_open(*pid, lock.dev(), lock.ino())).collect()
}

/// The record of the last holder. One that was cut off while it was written is no record: the flock alone counts then.
fn last_holder(path: &Path) -> Option<Holder> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn said_by(path: &Path) -> String {
    last_holder(path).map_or_else(|| "nobody knows who".into(), |holder| holder.to_string())
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

    /// A full disk must not keep a segment down, so that it can not be written is no error.
    fn write_down(&self) {
        let text = serde_json::to_vec(&self.holder).unwrap_or_default();
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all_at(&text, 0)).and_then(|()| self.file.sync_all());
    }
}

impl Drop for Held {
    /// Says that the volume was given back, when no process is left that inherited the lock.
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|m| holders_of(&m).is_empty()) {
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
        let last = Holder { boot: "other".into(), ..Holder::here("n2", "a", "supervisor") };
        let left = |last: &Holder| std::fs::write(volume.mark("lock"), serde_json::to_vec(last).unwrap()).unwrap();
        left(&last);
        assert!(matches!(volume.try_lock(&here("b"), None), Err(LockError::Elsewhere(who)) if who == last));
        assert!(matches!(volume.try_lock(&here("b"), Some("n3")), Err(LockError::Elsewhere(_))), "another node's end says nothing");
        assert!(matches!(volume.try_lock(&Holder { node: String::new(), ..here("b") }, None), Err(LockError::Elsewhere(_))));
        volume.try_lock(&here("b"), Some("n2")).expect("a person says that the node is gone");
        for gone in [
            Holder { released: true, ..last.clone() },
            Holder { boot: here("b").boot, ..last.clone() },
            Holder { node: "n1".into(), ..last.clone() },
        ] {
            left(&gone);
            volume.try_lock(&here("b"), None).unwrap_or_else(|e| panic!("{gone:?}: {e}"));
        }
        std::fs::write(volume.mark("lock"), "{\"node\":").unwrap();
        volume.try_lock(&here("b"), None).expect("a record that was cut off");
    }

    #[test]
    fn it_is_given_back_in_writing_only_when_nobody_is_left() {
        let (_alone, _dir, volume) = volume();
        let held = volume.try_lock(&here("a"), None).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        drop(held);
        assert!(!last_holder(&volume.mark("lock")).unwrap().released, "a child has it yet");
        child.kill().unwrap();
        child.wait().unwrap();
        drop(volume.try_lock(&here("b"), None).unwrap());
        assert!(last_holder(&volume.mark("lock")).unwrap().released);
    }

    fn here(pod: &str) -> Holder {
        Holder::here("n1", pod, "supervisor")
    }

    #[test]
    fn who_lives_in_the_directory_without_the_lock_is_found() {
        let (_alone, _dir, volume) = volume();
        std::fs::create_dir(volume.data()).unwrap();
        assert_eq!(volume.squatter(), None);
        let mut sleep = Command::new("sleep").arg("60").current_dir(volume.data()).spawn().unwrap();
        assert_eq!(volume.squatter(), Some(sleep.id().cast_signed()));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
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
        assert_eq!(volume.lock_holders(), [pid]);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while volume.try_lock(&here("second"), None).is_err() {
            assert!(std::time::Instant::now() < deadline, "the lock did not become free");
            std::thread::yield_now();
        }
    }
}
