//! postgres as a child of pid 1: spawned with the lock's descriptor, reaped with every orphan,
//! stopped by signals, killed whole when it must be.

use std::{
    cell::Cell,
    collections::{BTreeSet, VecDeque},
    io::{self, BufRead, BufReader, PipeReader, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::volume::{
    Held,
    processes::{self, FileId, Found, Process},
};
use greenplum::{Dialect, server_log::Log};
use model::{
    Lsn,
    page::{Received, Work},
};

/// Lines of postgres' output that are kept for the classification of its end.
const KEPT_LINES: usize = 200;

/// A running postmaster.
pub struct Postgres {
    pub pid: Pid,
    /// The file of the lock that it inherited, by which all that came of it is found.
    lock: FileId,
    /// It was reaped: its number may be another process' by now.
    reaped: Cell<bool>,
    started: SystemTime,
    tail: Arc<Mutex<VecDeque<String>>>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

impl End {
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Exit(_) => None,
            Self::Signal(number) => Some(number),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal(number) => write!(f, "signal {number}"),
        }
    }
}

/// Starts postgres. It inherits every descriptor that is not closed on exec: the lock's.
///
/// # Errors
/// That it cannot be executed, or that there is no room for one more process.
pub fn spawn(executable: &str, data: &Path, port: u16, role: &[&str], passfile: &Path, lock: &Held) -> io::Result<Postgres> {
    let (lock, tail) = (lock.id()?, Arc::new(Mutex::new(VecDeque::new())));
    // Whoever reads is there before anybody writes.
    let (stdout, out) = io::pipe()?;
    let (stderr, err) = io::pipe()?;
    forward(stdout, Arc::clone(&tail))?;
    forward(stderr, Arc::clone(&tail))?;
    let mut command = Command::new(executable);
    command.arg("-D").arg(data).arg("-p").arg(port.to_string()).args(role);
    command.env("PGPASSFILE", passfile).env("LC_MESSAGES", "C").stdin(Stdio::null()).stdout(out).stderr(err);
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    Ok(Postgres { pid, lock, reaped: Cell::new(false), started: SystemTime::now(), tail })
}

/// Forwards output line by line to our own, and keeps the last lines. A thread: it must go on when the loop is busy.
fn forward(stream: PipeReader, tail: Arc<Mutex<VecDeque<String>>>) -> io::Result<()> {
    let read = move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let _ = writeln!(io::stderr(), "{line}");
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.len() == KEPT_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    };
    std::thread::Builder::new().spawn(read).map(drop)
}

impl Postgres {
    pub fn signal(&self, signal: Signal) {
        if !self.reaped.get() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Reaps every child that has ended; how the postmaster did, when it was among them.
    pub fn reap(&self) -> Option<End> {
        let end = reap(Some(self.pid));
        self.reaped.set(self.reaped.get() || end.is_some() || kill(self.pid, None) == Err(Errno::ESRCH));
        end
    }

    /// It has ended, as far as the last reaping showed.
    pub fn has_ended(&self) -> bool {
        self.reaped.get()
    }

    /// Kills everything that came of it, and tells who is left: the postmaster, whose number is known; what is below it
    /// now and was when `known` was last looked at; and who has the lock's descriptor, whatever the lock's path names. A
    /// stopped process ignores every other signal, and backends have sessions of their own.
    pub fn kill_all(&self, known: &mut BTreeSet<Process>) -> Found {
        if !self.has_ended() {
            known.extend(processes::descendants(self.pid.as_raw()));
            self.signal(Signal::SIGKILL);
        }
        let holders = processes::having_open(self.lock);
        known.extend(holders.pids.iter().filter_map(|pid| Process::at(*pid)));
        known.retain(|process| process.lives());
        for process in known.iter() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        self.reap();
        let postmaster = (!self.has_ended()).then_some(self.pid.as_raw());
        let others = known.iter().map(|process| process.pid).filter(|pid| Some(*pid) != postmaster);
        Found { pids: postmaster.into_iter().chain(others).collect(), unknown: holders.unknown }
    }

    /// The last lines that it wrote: its own output, and the newest server log's.
    pub fn last_lines(&self, data: &Path, dialect: Dialect) -> Log {
        let output = self.tail.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let (csv, file) = newest_log(&data.join(dialect.log_folder()), self.started).unwrap_or_default();
        Log { postmaster: self.pid.as_raw().unsigned_abs(), output, file, csv }
    }

    /// One of its processes is a WAL receiver that works. A mirror refuses sessions, so its processes are the
    /// only witnesses: the title says `walreceiver streaming 0/3000060` (7) or `wal receiver process   streaming
    /// 0/C0000A0` (6) once something came, and nothing while the primary is idle; but one that cannot stream ends as
    /// soon as its primary has told it so, so one that stays connected for a while streams too.
    pub fn receives(&self) -> bool {
        self.receiver().is_some()
    }

    /// Its WAL receiver, once that streams.
    pub fn receiver(&self) -> Option<i32> {
        children_of(self.pid).into_iter().find(|pid| {
            let title = title(*pid);
            let receiver = title.split_once("receiver").filter(|(head, _)| head.trim_end().ends_with("wal"));
            // A title stays when the connection has ended and nobody has noticed.
            let stays = || age(*pid).is_some_and(|age| age > ACCEPTED);
            receiver.is_some_and(|(_, tail)| tail.contains("streaming") || stays()) && is_connected(*pid)
        })
    }

    /// Its WAL receiver, once that streams and says how far it is.
    pub fn received(&self) -> Option<Received> {
        let pid = self.receiver()?;
        received(&title(pid)).map(|position| Received { pid, position })
    }

    /// What its WAL receiver has done so far, connected or not.
    pub fn receiver_work(&self, data: &Path) -> Option<Work> {
        let progress = children_of(self.pid).into_iter().filter(|pid| is_receiver(&title(*pid))).find_map(Progress::of)?;
        let disk = if progress.state == 'D' { sectors_written(data) } else { None };
        Some(Work { pid: progress.pid, written: Some(progress.written), disk })
    }

    /// By whom it is known that its postmaster has not begun anew.
    pub fn generation(&self) -> Generation {
        let titles: Vec<_> = children_of(self.pid).into_iter().map(|pid| (pid, title(pid))).collect();
        let find = |is: fn(&str) -> bool| titles.iter().find(|(_, title)| is(title)).map(|(pid, _)| *pid);
        Generation { startup: find(is_startup), checkpointer: find(is_checkpointer) }
    }

    /// How a process without which a mirror does nothing is doing: one that is stopped, else the WAL receiver.
    pub fn halted(&self) -> Option<Progress> {
        let needed = |pid: &i32| {
            let title = title(*pid);
            title.contains("startup") || is_receiver(&title)
        };
        let children = children_of(self.pid).into_iter().filter(needed);
        let all: Vec<_> = std::iter::once(self.pid.as_raw()).chain(children).filter_map(Progress::of).collect();
        let stopped = all.iter().find(|one| one.state == 'T');
        stopped.or_else(|| all.iter().find(|one| one.title.contains("receiver"))).cloned()
    }

    /// What its startup process replays: `startup recovering 0000…0A` (7), `startup process   recovering 0000…0A` (6).
    pub fn replays(&self) -> Option<String> {
        children_of(self.pid).into_iter().find_map(|pid| replayed(&title(pid)))
    }
}

/// Two processes that a server has once, or has no more, until its postmaster begins anew: every other one comes and goes. A
/// checkpointer that dies as soon as it begins is hardly ever seen; a primary has no startup process once it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    startup: Option<i32>,
    checkpointer: Option<i32>,
}

impl Generation {
    /// None of them has been seen: a postmaster first takes away what temporary files it finds, and answers nobody meanwhile.
    pub const fn is_to_come(&self) -> bool {
        self.startup.is_none() && self.checkpointer.is_none()
    }

    /// Takes down who is there now. Whether they are others than before.
    pub fn turns_into(&mut self, now: Self) -> bool {
        let other = |before: Option<i32>, now: Option<i32>| before.is_some() && now.is_some() && before != now;
        let anew = other(self.startup, now.startup) || other(self.checkpointer, now.checkpointer);
        let known = if anew { Self::default() } else { *self };
        *self = Self { startup: now.startup.or(known.startup), checkpointer: now.checkpointer.or(known.checkpointer) };
        anew
    }
}

/// A process as far as its own work shows whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub pid: i32,
    pub title: &'static str,
    /// As in `/proc/PID/stat`: `T` stopped, `D` in the kernel, `S` waiting, `R` running.
    pub state: char,
    /// Bytes that it has written so far.
    pub written: u64,
    /// Its processor time so far, in clock ticks: one that is throttled is stopped at most looks, and works between them.
    pub ticks: u64,
}

impl Progress {
    fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let state = fields.first()?.chars().next()?;
        let ticks = fields.get(11..13)?.iter().map(|ticks| ticks.parse::<u64>().ok()).sum::<Option<u64>>()?;
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("wchar:")?.trim().parse().ok()).unwrap_or_default();
        let title = title(pid);
        // What it is, without what it replays or has received.
        let kinds = [("startup", "startup process"), ("receiver", "WAL receiver")];
        let title = kinds.iter().find(|(word, _)| title.contains(word)).map_or("postmaster", |(_, name)| name);
        Some(Self { pid, title, state, written, ticks })
    }
}

/// A WAL receiver that lives for longer was let in and told to go on: what its primary cannot give it ends it at once.
const ACCEPTED: Duration = Duration::from_millis(500);

pub(super) fn title(pid: i32) -> String {
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&title).replace('\0', " ")
}

/// `postgres: 6001, checkpointer` (7), `postgres:  6001, checkpointer process` (6). A session names itself before its database.
fn is_checkpointer(title: &str) -> bool {
    let title = title.trim_end();
    title.starts_with("postgres:") && title.strip_suffix(" process").unwrap_or(title).ends_with(" checkpointer")
}

/// `postgres: 6001, startup   recovering 0000…0A` (7), `postgres:  6001, startup process   waiting for 0000…0A` (6). A session that is
/// being let in ends in the same word, behind its role, its database and its client.
pub(super) fn is_startup(title: &str) -> bool {
    let Some(words) = title.strip_prefix("postgres:") else { return false };
    let words: Vec<_> = words.split_whitespace().filter(|word| *word != "process").collect();
    let named = words.first().is_some_and(|first| first.ends_with([',', ':']));
    matches!(&words[usize::from(named)..], ["startup"] | ["startup", "recovering", _] | ["startup", "waiting", "for", _])
}

/// `wal receiver process` (6), `walreceiver` (7).
fn is_receiver(title: &str) -> bool {
    title.split_once("receiver").is_some_and(|(head, _)| head.trim_end().ends_with("wal"))
}

/// Sectors that the disk below a folder has written so far (`Documentation/block/stat.rst`); `None` where no one disk is below it.
fn sectors_written(folder: &Path) -> Option<u64> {
    let device = std::fs::metadata(folder).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_whitespace().nth(6)?.parse().ok()
}

fn replayed(title: &str) -> Option<String> {
    let (head, file) = title.split_once(" recovering ")?;
    let file = file.split_whitespace().next()?;
    (head.contains("startup") && file.len() == 24).then(|| file.to_owned())
}

/// `postgres:  6001, walreceiver   streaming 0/3000060` (7), `postgres:  6001, wal receiver process   streaming 0/C0000A0` (6).
fn received(title: &str) -> Option<Lsn> {
    let (_, position) = title.split_once("receiver")?.1.split_once("streaming ")?;
    position.split_whitespace().next()?.parse().ok()
}

pub(super) fn children_of(parent: Pid) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// It has a TCP connection to somewhere, by the kernel's tables (`man 5 proc_pid_net`; state 01 is established).
fn is_connected(pid: i32) -> bool {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().filter_map(|fd| fd.path().read_link().ok());
    let sockets: Vec<String> = links.filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).any(|line| {
        let mut fields = line.split_whitespace().skip(3);
        fields.next() == Some("01") && fields.nth(5).is_some_and(|inode| sockets.iter().any(|socket| socket == inode))
    })
}

/// How long a process has lived (field 22 of `/proc/PID/stat`, in clock ticks since boot).
fn age(pid: i32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??.unsigned_abs();
    let uptime: f64 = std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime).ok()?.checked_sub(Duration::from_millis(ticks * 1000 / per_second))
}

/// The end of the newest file in a log folder that was written since `since`, and whether it is CSV; Greenplum's logging
/// collector writes there.
fn newest_log(folder: &Path, since: SystemTime) -> io::Result<(bool, Vec<String>)> {
    use std::io::{Read, Seek, SeekFrom};
    let files = std::fs::read_dir(folder)?.flatten();
    let newest = files.filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path()))).filter(|(at, _)| *at >= since).max();
    let Some((_, path)) = newest else { return Ok((false, vec![])) };
    let mut file = std::fs::File::open(&path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(16 * 1024)))?;
    let mut bytes = vec![];
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    let csv = path.extension().is_some_and(|extension| extension == "csv");
    Ok((csv, lines[lines.len().saturating_sub(KEPT_LINES)..].to_vec()))
}

/// Reaps every child that has ended, orphans of the postmaster included; `Some` when `postmaster` was among them.
pub fn reap(postmaster: Option<Pid>) -> Option<End> {
    let mut ended = None;
    loop {
        let (pid, end) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, End::Exit(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, End::Signal(signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => continue,
        };
        if Some(pid) == postmaster {
            ended = Some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_connected_while_it_has_a_connection_of_its_own() {
        let mut alone = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(is_connected(std::process::id().cast_signed()));
        assert!(!is_connected(alone.id().cast_signed()), "another's connection is not its own");
        alone.kill().unwrap();
        alone.wait().unwrap();
    }

    #[test]
    fn a_receivers_title_says_how_far_it_is() {
        let seven = "postgres:  6001, walreceiver   streaming 0/3000060";
        let six = "postgres:  6001, wal receiver process   streaming 1/C0000A0 ";
        assert_eq!((received(seven), received(six)), (Some(Lsn(0x300_0060)), Some(Lsn(0x1_0C00_00A0))));
        for silent in ["postgres:  6001, walreceiver  ", "postgres: walsender gpadmin 10.0.0.5(4711) streaming 0/3000060"] {
            assert_eq!(received(silent), None, "{silent}");
        }
    }

    #[test]
    fn a_checkpointer_is_known_by_its_title() {
        for title in ["postgres: checkpointer ", "postgres:  6001, checkpointer process   ", "postgres: name: checkpointer"] {
            assert!(is_checkpointer(title), "{title}");
        }
        for title in ["postgres: checkpointer postgres 10.0.0.1(4711) idle", "postgres: background writer", "x checkpointer"] {
            assert!(!is_checkpointer(title), "{title}");
        }
    }

    #[test]
    fn a_startup_process_is_known_by_its_title_and_no_session_for_one() {
        for title in [
            "postgres: startup ",
            "postgres:  6001, startup   recovering 00000001000000000000000A ",
            "postgres:  6001, startup process   waiting for 00000001000000000000000A",
            "postgres: name: startup waiting for 00000001000000000000000A",
        ] {
            assert!(is_startup(title), "{title}");
        }
        for title in [
            "postgres: mallory postgres 10.0.0.1(4711) startup",
            "postgres:  6001, mallory postgres 10.0.0.1(4711) con5 seg0 startup",
            "postgres: startup postgres [local] idle",
            "postgres: startup recovering [local] idle",
            "postgres:  6001, startup process 10.0.0.1(4711) con5 cmd3 idle",
            "postgres: walsender startup 10.0.0.1(4711) streaming 0/3000060",
            "startup",
        ] {
            assert!(!is_startup(title), "{title}");
        }
    }

    #[test]
    fn a_postmaster_that_begins_anew_is_counted_once_however_little_of_it_is_seen() {
        let of = |startup, checkpointer| Generation { startup, checkpointer };
        let counted = |seen: &[(Option<i32>, Option<i32>)]| {
            let mut generation = Generation::default();
            seen.iter().filter(|(startup, checkpointer)| generation.turns_into(of(*startup, *checkpointer))).count()
        };
        assert_eq!(counted(&[(Some(1), None), (Some(1), Some(2)), (Some(1), Some(2))]), 0, "a mirror");
        assert_eq!(counted(&[(Some(1), Some(2)), (None, Some(2)), (None, Some(2))]), 0, "promoted");
        assert_eq!(counted(&[(Some(1), Some(2)), (None, None), (Some(3), None), (Some(3), Some(4))]), 1, "a mirror anew");
        assert_eq!(counted(&[(Some(1), Some(2)), (Some(3), None), (Some(4), None), (Some(5), None)]), 3, "no checkpointer is seen again");
        assert_eq!(counted(&[(Some(1), Some(2)), (None, Some(2)), (Some(3), None), (None, Some(4))]), 1, "a primary anew");
        assert_eq!(counted(&[(None, Some(2)), (None, Some(4)), (Some(3), Some(4)), (None, Some(4))]), 1, "its checkpointer comes first");
    }

    #[test]
    fn what_a_startup_process_replays_is_read_from_its_title() {
        let seven = "postgres:  6001, startup   recovering 00000001000000000000000A ";
        let six = "postgres:  6001, startup process   recovering 00000001000000030000000B";
        assert_eq!(replayed(seven).as_deref(), Some("00000001000000000000000A"));
        assert_eq!(replayed(six).as_deref(), Some("00000001000000030000000B"));
        assert_eq!(replayed("postgres:  6001, startup   waiting for 00000001000000000000000A"), None);
        assert_eq!(replayed("psql recovering 00000001000000000000000A"), None);
    }
}
