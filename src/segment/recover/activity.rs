//! What the processes of a tool do while it says nothing: crash recovery and a rewind over a million files are silent for an
//! hour, and read all the time.

use std::{fs, path::Path};

/// Whose doing counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// That of the tool and of all that it has started: `pg_rewind` has postgres recover the target from its crash.
    All,
    /// The tool's own. What `pg_basebackup` starts receives the log by a connection of its own, and goes on doing that while
    /// the connection of the copy is dead.
    TheToolAlone,
}

/// Bytes read and written, and CPU time, since the processes began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    pub read: u64,
    pub written: u64,
    ticks: u64,
}

impl Activity {
    /// Of the process group that `leader` leads; `None`: nothing of it can be looked at.
    pub fn of(leader: u32, whose: Whose) -> Option<Self> {
        match whose {
            Whose::TheToolAlone => one(&Path::new("/proc").join(leader.to_string())),
            Whose::All => of_group(leader),
        }
    }

    fn and(self, other: Self) -> Self {
        Self { read: self.read + other.read, written: self.written + other.written, ticks: self.ticks + other.ticks }
    }
}

fn of_group(leader: u32) -> Option<Activity> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let members = processes.filter(|process| stat(process).is_some_and(|fields| fields.get(2) == Some(&leader.to_string())));
    members.filter_map(|process| one(&process)).reduce(Activity::and)
}

fn one(process: &Path) -> Option<Activity> {
    let fields = stat(process)?;
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = ticks(11)? + ticks(12)?;
    let (read, written) = fs::read_to_string(process.join("io")).ok().and_then(|io| bytes(&io)).unwrap_or_default();
    Some(Activity { read, written, ticks })
}

/// The fields of `/proc/PID/stat` after the name, which may hold spaces and brackets: state, parent, group, …
pub fn stat(process: &Path) -> Option<Vec<String>> {
    let stat = fs::read(process.join("stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Bytes that a process has read and written, by `/proc/PID/io`.
fn bytes(io: &str) -> Option<(u64, u64)> {
    let field = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("rchar:")?, field("wchar:")?))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt,
        process::{Child, Command},
        time::{Duration, Instant},
    };

    use super::*;

    fn running(script: &str) -> Child {
        Command::new("/bin/sh").args(["-c", script]).process_group(0).spawn().unwrap()
    }

    /// Whether it changes within some seconds.
    fn moves(child: &Child, whose: Whose) -> bool {
        let (before, begun) = (Activity::of(child.id(), whose), Instant::now());
        while begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(50));
            if Activity::of(child.id(), whose) != before {
                return true;
            }
        }
        false
    }

    fn end(mut child: Child) {
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_a_tool_has_started_counts_for_the_tool() {
        let busy = running("(while :; do read -r line < /proc/self/stat; done) & wait");
        assert!(moves(&busy, Whose::All));
        end(busy);
    }

    #[test]
    fn who_only_waits_does_not_move_whatever_its_child_does() {
        let waits = running("(while :; do read -r line < /proc/self/stat; done) & wait");
        std::thread::sleep(Duration::from_millis(300)); // until it has begun to wait
        assert!(!moves(&waits, Whose::TheToolAlone));
        end(waits);
    }

    #[test]
    fn bytes_are_read_from_what_the_kernel_counts() {
        assert_eq!(bytes("rchar: 10\nwchar: 20\nsyscr: 1\nread_bytes: 4096\n"), Some((10, 20)));
        assert_eq!(bytes(""), None);
        assert!(Activity::of(std::process::id(), Whose::TheToolAlone).is_some_and(|activity| activity.read > 0));
        assert_eq!(Activity::of(u32::MAX, Whose::All), None, "there is no such group");
    }
}
