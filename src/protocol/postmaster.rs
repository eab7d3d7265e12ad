//! One run of a server.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One run of a server, as its `postmaster.pid` names it: what is proven of one says nothing of the next, which may have been started
/// on an older copy of the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Postmaster {
    /// Process id in its own pod.
    pub pid: i32,
    /// When it was started, in seconds since 1970.
    pub started: i64,
}

impl Postmaster {
    /// Of the bytes of `postmaster.pid`: its first line is the process id, its third one the time (`src/include/miscadmin.h`, later
    /// `src/include/utils/pidfile.h`). The second one is a path, in any encoding. `None`: it is not written yet, or of something else.
    pub fn of_pid_file(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| str::from_utf8(line).ok().map(str::trim));
        Some(Self { pid: lines.next()??.parse().ok()?, started: lines.nth(1)??.parse().ok()? })
    }
}

impl fmt::Display for Postmaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_second(self.started).map_or_else(|_| self.started.to_string(), |at| at.to_string());
        write!(f, "process {} of {at}", self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_names_process_and_time() {
        let six = b"4711\n/data/\xd6\xd0/gpseg0\n1764388800\n6000\n/tmp\n*\n  6000001    123\n";
        assert_eq!(Postmaster::of_pid_file(six), Some(Postmaster { pid: 4711, started: 1_764_388_800 }));
        let shown = Postmaster { pid: 1, started: 1_764_388_800 }.to_string();
        assert_eq!(shown, "process 1 of 2025-11-29T04:00:00Z");
        for other in [&b""[..], b"4711\n", b"4711\n/data\n", b"x\n/data\n1\n", b"4711\n/data\nsoon\n"] {
            assert_eq!(Postmaster::of_pid_file(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
