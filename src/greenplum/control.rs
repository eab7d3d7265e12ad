//! The control file in the words of the image's own `pg_controldata`.

use std::{
    collections::HashMap,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
};

use nix::sys::signal::Signal;

use super::wal::Crc;
use model::{Lsn, SystemIdentifier, Timeline};

/// What gpheal needs of a control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    pub system_identifier: SystemIdentifier,
    /// `in production`, `shut down`, `shut down in recovery`, `in archive recovery`, …
    pub state: String,
    pub checkpoint: Lsn,
    pub timeline: Timeline,
    /// How far a mirror has to replay to be consistent; zero on a primary.
    pub min_recovery: Lsn,
    pub min_recovery_timeline: Timeline,
    /// Data page checksum version; 0 is off.
    pub checksums: u32,
}

/// Why the control file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("pg_controldata cannot be run ({0}); is it on PATH in this image?")]
    NoTool(io::Error),
    /// It was not read: that says nothing of what it holds.
    #[error("the control file cannot be looked at now: {0}")]
    Unknown(String),
    #[error("the control file is unusable: {0}")]
    Unusable(String),
}

/// No version's control file is shorter.
const SHORTEST: usize = 200;

impl ControlData {
    /// Runs `pg_controldata` on a directory, whose control file is read here first: the tool says "could not read" of a
    /// damaged file and of a disk that fails alike.
    ///
    /// # Errors
    /// [`ControlError::Unusable`] when the file is missing, cut off or damaged (its checksum differs);
    /// [`ControlError::Unknown`] when it could not be read, or the tool did not come to its end.
    pub fn read(data: &Path) -> Result<Self, ControlError> {
        Self::by(Path::new("pg_controldata"), data)
    }

    fn by(tool: &Path, data: &Path) -> Result<Self, ControlError> {
        let bytes = bytes(&data.join("global/pg_control"))?;
        let output = Command::new(tool).arg(data).env("LC_ALL", "C").output().map_err(ControlError::NoTool)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(failed(output.status, &complaint, &bytes));
        }
        Self::parse(&format!("{said}\n{complaint}"))
    }

    /// Reads what `pg_controldata` said.
    ///
    /// # Errors
    /// [`ControlError::Unusable`]
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        // It exits with 0 after these warnings.
        if let Some(warning) = text.lines().find(|line| line.contains("WARNING")) {
            return Err(ControlError::Unusable(warning.trim().to_owned()));
        }
        let fields: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect();
        let field = |name: &str| fields.get(name).copied().ok_or_else(|| ControlError::Unusable(format!("it has no field '{name}'")));
        let bad = |name: &str| ControlError::Unusable(format!("its field '{name}' cannot be read"));
        let lsn = |name: &str| field(name)?.parse().map_err(|_| bad(name));
        let number = |name: &str| field(name)?.parse::<u32>().map_err(|_| bad(name));
        let min_timeline = fields.get("Min recovery ending loc's timeline").and_then(|v| v.parse().ok()).unwrap_or(0);
        Ok(Self {
            system_identifier: field("Database system identifier")?.parse().map_err(|_| bad("Database system identifier"))?,
            state: field("Database cluster state")?.to_owned(),
            checkpoint: lsn("Latest checkpoint location")?,
            timeline: Timeline(number("Latest checkpoint's TimeLineID")?),
            min_recovery: lsn("Minimum recovery ending location")?,
            min_recovery_timeline: Timeline(min_timeline),
            checksums: number("Data page checksum version")?,
        })
    }

    /// It was stopped cleanly, so there is nothing to replay.
    pub fn was_shut_down(&self) -> bool {
        self.state == "shut down" || self.state == "shut down in recovery"
    }

    /// The timeline that the directory is on: a mirror's may be ahead of its last checkpoint.
    pub fn newest_timeline(&self) -> Timeline {
        self.timeline.max(self.min_recovery_timeline)
    }
}

/// The file is there, can be read to its end, and has the length of one.
fn bytes(file: &Path) -> Result<Vec<u8>, ControlError> {
    match std::fs::read(file) {
        Ok(bytes) if bytes.len() >= SHORTEST => Ok(bytes),
        Ok(bytes) => Err(ControlError::Unusable(format!("{} has {} bytes", file.display(), bytes.len()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(ControlError::Unusable(format!("{}: {error}", file.display())))
        }
        Err(error) => Err(ControlError::Unknown(format!("{}: {error}", file.display()))),
    }
}

/// What ends the tool says nothing of the file, which was read a moment before: a library may be broken. But Greenplum 6's dies
/// without a word of what it cannot show, say a time that is none; then the file's own checksum tells.
fn failed(status: ExitStatus, complaint: &str, file: &[u8]) -> ControlError {
    let said = complaint.trim();
    let crashed = status.signal().is_some_and(|number| CRASHES.iter().any(|signal| *signal as i32 == number));
    if crashed && !is_whole(file) {
        return ControlError::Unusable(
            format!("its checksum differs, and pg_controldata cannot read it ({status}) {said}").trim_end().to_owned(),
        );
    }
    ControlError::Unknown(format!("pg_controldata failed ({status}) {said}").trim_end().to_owned())
}

/// Of what a program does itself; killed it is by others.
const CRASHES: [Signal; 4] = [Signal::SIGSEGV, Signal::SIGFPE, Signal::SIGBUS, Signal::SIGABRT];

/// It ends with the checksum of all that stands before it, at a place that differs between versions; zeros follow.
fn is_whole(file: &[u8]) -> bool {
    let end = file.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // A checksum may itself end in zeros.
    (end..end + 4).filter_map(|end| file.get(..end)?.split_last_chunk::<4>()).any(|(all, sum)| {
        let mut crc = Crc::new();
        crc.add(all);
        crc.value() == u32::from_le_bytes(*sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "pg_control version number:            1300
Database system identifier:           7389204512345678901
Database cluster state:               in archive recovery
Latest checkpoint location:           0/3000110
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/40000A0
Min recovery ending loc's timeline:   2
Data page checksum version:           1
";

    #[test]
    fn the_fields_are_read() {
        let control = ControlData::parse(SAID).unwrap();
        assert_eq!(control.system_identifier, SystemIdentifier(7_389_204_512_345_678_901));
        assert_eq!((control.checkpoint, control.min_recovery), (Lsn(0x300_0110), Lsn(0x400_00A0)));
        assert_eq!((control.timeline, control.newest_timeline()), (Timeline(1), Timeline(2)));
        assert!(!control.was_shut_down());
    }

    /// A directory with a control file of this length, and what a tool that does this says of it.
    fn said_by(script: &str, length: usize) -> Result<ControlData, ControlError> {
        said_of(script, &vec![1; length])
    }

    fn said_of(script: &str, bytes: &[u8]) -> Result<ControlData, ControlError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("global")).unwrap();
        std::fs::write(dir.path().join("global/pg_control"), bytes).unwrap();
        let tool = dir.path().join("tool");
        // By another process: what this one has open for writing, a child of another test holds, and it is "text file busy".
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
        assert!(Command::new("/bin/sh").args(["-c", write, "sh"]).arg(&tool).arg(script).status().unwrap().success());
        ControlData::by(&tool, dir.path())
    }

    /// All of them were "unusable": terabytes copied anew because a tool was killed.
    #[test]
    fn a_tool_that_did_not_come_to_its_end_says_nothing_of_the_file() {
        for script in ["kill -KILL $$", "kill -TERM $$", "echo 'could not open file: Too many open files' >&2; exit 1", "exit 127"] {
            assert!(matches!(said_by(script, 8192), Err(ControlError::Unknown(_))), "{script}");
        }
    }

    /// A library that is broken kills it, too, whatever the file holds.
    #[test]
    fn a_tool_that_dies_is_believed_where_the_files_own_checksum_differs() {
        let (mut whole, mut crc) = (vec![7; 296], Crc::new());
        crc.add(&whole);
        whole.extend(crc.value().to_le_bytes());
        whole.resize(8192, 0);
        for signal in ["SEGV", "FPE", "ABRT"] {
            let died = |bytes: &[u8]| said_of(&format!("kill -{signal} $$"), bytes);
            let unread = died(&whole);
            assert!(matches!(&unread, Err(ControlError::Unknown(why)) if why.contains(signal)), "{unread:?}");
            let mut damaged = whole.clone();
            damaged[100] ^= 1;
            let died = died(&damaged);
            assert!(matches!(&died, Err(ControlError::Unusable(why)) if why.contains(signal)), "{died:?}");
        }
    }

    #[test]
    fn a_file_that_is_missing_or_short_is_unusable_and_one_that_cannot_be_read_is_unknown() {
        assert!(matches!(said_by("exit 0", 10), Err(ControlError::Unusable(why)) if why.contains("10 bytes")));
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ControlData::read(dir.path()), Err(ControlError::Unusable(_))));
        std::fs::create_dir_all(dir.path().join("global/pg_control")).unwrap();
        assert!(matches!(ControlData::read(dir.path()), Err(ControlError::Unknown(_))), "reading a folder fails otherwise");
    }

    #[test]
    fn a_damaged_file_is_not_believed() {
        let warned = format!("WARNING: Calculated CRC checksum does not match value stored in file.\n{SAID}");
        assert!(matches!(ControlData::parse(&warned), Err(ControlError::Unusable(_))));
        assert!(ControlData::parse("").is_err());
        assert!(ControlData::parse(&SAID.replace("0/3000110", "zero")).is_err());
    }
}
