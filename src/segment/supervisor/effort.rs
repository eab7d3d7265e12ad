//! What a start has done so far, by the one process that works for it: its startup process, and before there is one its postmaster.
//!
//! A start that syncs or removes a million files says nothing for an hour. Nor does its title: that tells which segment it replays.

use std::path::Path;

use super::process::{Postgres, children_of, is_startup, title};
use model::page::Effort;

/// Shown in steps of so many bytes and so many ticks of the clock. Who waits for log looks for it every five seconds, which reads two
/// blocks each time (of 32 KiB on Greenplum 6) and takes next to no time: in half an hour less than one step.
const BYTES: u64 = 64 * 1024 * 1024;
const TICKS: u64 = 10;

impl Postgres {
    /// What its start has done so far; `None`: that cannot be looked at.
    pub fn effort(&self) -> Option<Effort> {
        let startup = children_of(self.pid).into_iter().find(|pid| is_startup(&title(*pid)));
        of(startup.unwrap_or(self.pid.as_raw()))
    }
}

fn of(pid: i32) -> Option<Effort> {
    let process = Path::new("/proc").join(pid.to_string());
    let stat = std::fs::read(process.join("stat")).ok()?;
    let io = std::fs::read_to_string(process.join("io")).unwrap_or_default();
    measured(pid, &String::from_utf8_lossy(&stat), &io)
}

fn measured(pid: i32, stat: &str, io: &str) -> Option<Effort> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..13)?.iter().map(|ticks| ticks.parse::<u64>().ok()).sum::<Option<u64>>()?;
    let bytes = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or_default();
    let moved = bytes("rchar:").saturating_add(bytes("wchar:"));
    Some(Effort { pid, read_or_written: moved / BYTES, computed: ticks / TICKS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ticks: u64, read: u64, written: u64) -> (u64, u64) {
        let stat = format!("7 (postgres: a) b) S 1 7 7 0 -1 4194560 100 0 0 0 {ticks} 0 0 0 20 0 1 0 100 1 1");
        let effort = measured(7, &stat, &format!("rchar: {read}\nwchar: {written}\nsyscr: 1\n")).unwrap();
        (effort.read_or_written, effort.computed)
    }

    #[test]
    fn who_only_waits_shows_nothing_and_who_works_does() {
        let looks = 30 * 60 / 5;
        assert_eq!(shown(0, 99_733, 8_715), shown(9, 99_733 + looks * 2 * 32 * 1024, 8_715 + looks * 100), "it looks for log");
        assert_ne!(shown(0, 0, 0), shown(10, 0, 0), "it syncs files, and reads nothing");
        assert_ne!(shown(0, 0, 0), shown(0, BYTES, 0));
        assert_ne!(shown(0, 0, 0), shown(0, BYTES / 2, BYTES / 2));
    }

    #[test]
    fn what_cannot_be_looked_at_shows_nothing() {
        assert_eq!((measured(7, "", ""), of(-1)), (None, None));
        assert!(of(std::process::id().cast_signed()).is_some());
    }
}
