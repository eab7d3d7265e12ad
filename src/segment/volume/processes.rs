//! Processes of this pid namespace, by what they have open. What could not be looked at is told apart from what is not
//! there: a process that nobody could ask is not one less.

use std::{
    collections::BTreeSet,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

/// A file by its identity: whatever happens to its path, who has it open is found by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Who was found, and what kept the look from being whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub pids: Vec<i32>,
    /// A process of ours, or the list itself, could not be looked at: nobody knows whether these are all.
    pub unknown: Option<String>,
}

impl Found {
    /// All were looked at, and it is none of them.
    pub fn is_nobody(&self) -> bool {
        self.pids.is_empty() && self.unknown.is_none()
    }

    fn unknown(why: String) -> Self {
        Self { pids: vec![], unknown: Some(why) }
    }
}

/// A process by its number and the moment of its start: the number alone is given to another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    pub pid: i32,
    start: u64,
}

impl Process {
    /// The process that has this number now, if one lives.
    pub fn at(pid: i32) -> Option<Self> {
        stat(pid).ok().filter(|stat| !stat.is_dead()).map(|stat| Self { pid, start: stat.start })
    }

    /// It has not ended. What cannot be looked at now is not gone.
    pub fn lives(self) -> bool {
        match stat(self.pid) {
            Ok(stat) => !stat.is_dead() && stat.start == self.start,
            Err(error) => !is_gone(&error),
        }
    }
}

/// Processes other than ourselves that have this very file open.
pub fn having_open(file: FileId) -> Found {
    look(|pid| {
        let mut has = false;
        for_each_open(pid, |link| {
            has |= fs::metadata(link).is_ok_and(|open| FileId::from(&open) == file);
        })?;
        Ok(has)
    })
}

/// Processes other than ourselves that work in one of `folders`, or have a file below one open for writing. A reader, as
/// one who follows a log, changes nothing and is none of them.
pub fn writing_below(folders: &[PathBuf]) -> Found {
    let below = |path: &Path| folders.iter().any(|folder| path.starts_with(folder));
    look(|pid| {
        let cwd = match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(cwd) => below(&cwd),
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut writes = cwd;
        for_each_open(pid, |link| {
            writes |= fs::read_link(link).is_ok_and(|target| below(&target)) && may_write(pid, link);
        })?;
        Ok(writes)
    })
}

/// All processes below `ancestor`, while it lives itself: a child of one that has ended belongs to pid 1.
pub fn descendants(ancestor: i32) -> BTreeSet<Process> {
    let all: Vec<_> = pids().map(|pids| pids.filter_map(|pid| Some((pid, stat(pid).ok()?))).collect()).unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for (pid, stat) in all.iter().filter(|(_, stat)| stat.parent == parent && !stat.is_dead()) {
            if found.insert(Process { pid: *pid, start: stat.start }) {
                parents.push(*pid);
            }
        }
    }
    found
}

/// Processes by pid, state and title, for people: `123 (D, postgres: checkpointer)`.
pub fn describe(pids: &[i32]) -> String {
    let one = |pid: &i32| {
        let state = stat(*pid).map_or_else(|_| "gone".into(), |stat| stat.state.to_string());
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        format!("{pid} ({state}, {})", title.trim())
    };
    pids.iter().take(5).map(one).collect::<Vec<_>>().join(", ")
}

/// Every process but ourselves for which `wanted` is true. One that ends meanwhile is none. One that the kernel lets nobody
/// with our rights look at has another user's, or more of them: it came of nothing that we started, and is no postgres
/// that could open this directory, whose owner we are. To wait for its end would let anybody keep postgres down. Any
/// other failure leaves it unknown.
fn look(wanted: impl Fn(i32) -> io::Result<bool>) -> Found {
    let me = std::process::id().cast_signed();
    let list = match pids() {
        Ok(list) => list,
        Err(error) => return Found::unknown(format!("/proc cannot be listed: {error}")),
    };
    let mut found = Found::default();
    for pid in list.filter(|pid| *pid != me) {
        match wanted(pid) {
            Ok(true) => found.pids.push(pid),
            Ok(false) => {}
            Err(error) if is_nobodys(pid, &error) => {}
            Err(error) => found.unknown = Some(format!("what process {pid} has open cannot be looked at: {error}")),
        }
    }
    found
}

fn pids() -> io::Result<impl Iterator<Item = i32>> {
    Ok(fs::read_dir("/proc")?.collect::<io::Result<Vec<_>>>()?.into_iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Calls `each` with the link of every descriptor. One that is closed meanwhile is none.
fn for_each_open(pid: i32, mut each: impl FnMut(&Path)) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        each(&entry?.path());
    }
    Ok(())
}

/// The descriptor was not opened for reading alone (`flags` in fdinfo, octal: the last digit's two bits).
fn may_write(pid: i32, link: &Path) -> bool {
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{name}")) else { return true };
    let flags = info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_none_or(|flags| flags & 0o3 != 0)
}

/// It ended while it was looked at.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// It ended, waits only to be reaped, or is not ours to look at.
fn is_nobodys(pid: i32, error: &io::Error) -> bool {
    let dead = || stat(pid).map_or_else(|error| is_gone(&error), |stat| stat.is_dead());
    is_gone(error) || error.kind() == io::ErrorKind::PermissionDenied || dead()
}

/// What `/proc/PID/stat` says of a process.
struct Stat {
    state: char,
    parent: i32,
    /// In clock ticks since boot.
    start: u64,
}

impl Stat {
    /// Ended, and not reaped yet at most.
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

fn stat(pid: i32) -> io::Result<Stat> {
    let text = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat"))?).into_owned();
    let fields = || -> Option<Stat> {
        // After the name, which may hold anything.
        let mut rest = text.rsplit_once(')')?.1.split_whitespace();
        let (state, parent) = (rest.next()?.chars().next()?, rest.next()?.parse().ok()?);
        Some(Stat { state, parent, start: rest.nth(17)?.parse().ok()? })
    };
    fields().ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as it should be")))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A child that is gone when the test is.
    struct Gone(Child);

    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn shell(script: &str, folder: &Path) -> Gone {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script}; echo ready; read x")]).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut ready = [0; 6];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Gone(child)
    }

    impl Gone {
        fn pid(&self) -> i32 {
            self.0.id().cast_signed()
        }
    }

    #[test]
    fn a_writer_is_who_works_there_or_may_write_there_and_not_who_reads() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap().join("gpseg");
        fs::create_dir_all(data.join("base/1")).unwrap();
        fs::write(data.join("log"), "").unwrap();
        let found = || writing_below(std::slice::from_ref(&data));
        assert_eq!(found(), Found::default());
        let beside = dir.path();
        let reader = shell(&format!("exec 5<{}", data.join("log").display()), beside);
        assert_eq!(found(), Found::default(), "it only reads");
        let writer = shell(&format!("exec 5>{}", data.join("base/1/1259").display()), beside);
        assert_eq!(found().pids, [writer.pid()]);
        drop(writer);
        let lives = shell("true", &data.join("base"));
        assert_eq!(found().pids, [lives.pid()]);
        drop((lives, reader));
        let neighbour = dir.path().join("gpseg2");
        fs::create_dir(&neighbour).unwrap();
        let _other = shell("true", &neighbour);
        assert_eq!(found(), Found::default(), "a name that begins alike");
    }

    #[test]
    fn descendants_are_all_below_and_know_themselves_by_their_start() {
        let dir = tempfile::tempdir().unwrap();
        let top = shell("sleep 60 & sh -c 'sleep 60 & wait' >/dev/null 2>&1 & sleep 0.2", dir.path());
        let below = descendants(top.pid());
        assert!(below.len() >= 3, "{below:?}");
        assert!(below.iter().all(|process| process.lives()));
        for process in &below {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        let me = Process::at(std::process::id().cast_signed()).unwrap();
        assert!(me.lives() && !Process { start: me.start + 1, ..me }.lives(), "another one of that number");
    }

    #[test]
    fn what_has_ended_and_waits_to_be_reaped_is_gone() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !stat(pid).unwrap().is_dead() {
            assert!(std::time::Instant::now() < until, "it does not end");
            std::thread::yield_now();
        }
        assert_eq!(Process::at(pid), None);
        assert!(is_nobodys(pid, &io::Error::from_raw_os_error(Errno::EIO as i32)));
        child.wait().unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = other.id().cast_signed();
        assert!(is_nobodys(pid, &io::Error::from_raw_os_error(Errno::EACCES as i32)), "it has other rights than we");
        for unasked in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EIO] {
            assert!(!is_nobodys(pid, &io::Error::from_raw_os_error(unasked as i32)), "{unasked}: it could not be asked");
        }
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
