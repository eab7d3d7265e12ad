//! The control file in the words of the image's own `pg_controldata`.

use std::{
    collections::HashMap,
    path::Path,
    process::{Command, ExitStatus},
};

use crate::model::{Lsn, SystemIdentifier, Timeline};

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

/// Why the control file can not be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("pg_controldata can not be run ({0}); is it on PATH in this image?")]
    NoTool(std::io::Error),
    #[error("the control file is unusable: {0}")]
    Unusable(String),
}

impl ControlData {
    /// Runs `pg_controldata` on a directory.
    ///
    /// # Errors
    /// [`ControlError::Unusable`] when the file is missing, damaged (its checksum differs) or of another version.
    pub fn read(data: &Path) -> Result<Self, ControlError> {
        let output = Command::new("pg_controldata").arg(data).env("LC_ALL", "C").output().map_err(ControlError::NoTool)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(ControlError::Unusable(why(output.status, &complaint)));
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
        let bad = |name: &str| ControlError::Unusable(format!("its field '{name}' can not be read"));
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

/// Greenplum 6's tool dies without a word of what it can not show, say a time that is none.
fn why(status: ExitStatus, complaint: &str) -> String {
    match complaint.trim() {
        "" => format!("pg_controldata can not read it ({status})"),
        said => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

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

    #[test]
    fn a_tool_that_died_without_a_word_is_named() {
        assert_eq!(why(ExitStatus::from_raw(11), " \n"), "pg_controldata can not read it (signal: 11 (SIGSEGV))");
        assert_eq!(why(ExitStatus::from_raw(512), "no file\n"), "no file");
    }

    #[test]
    fn a_damaged_file_is_not_believed() {
        let warned = format!("WARNING: Calculated CRC checksum does not match value stored in file.\n{SAID}");
        assert!(matches!(ControlData::parse(&warned), Err(ControlError::Unusable(_))));
        assert!(ControlData::parse("").is_err());
        assert!(ControlData::parse(&SAID.replace("0/3000110", "zero")).is_err());
    }
}
