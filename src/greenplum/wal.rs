//! How far the write-ahead log of a directory reaches, read from its pages, with no server running
//! and no control file needed (`src/include/access/xlog_internal.h`: XLogLongPageHeaderData).

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::control::ControlData;
use crate::model::{Lsn, SystemIdentifier, Timeline};

/// The end of a directory's write-ahead log, exact to one page: the log reaches at least into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalEnd {
    pub timeline: Timeline,
    /// Start of the last page that was written.
    pub at_least: Lsn,
    pub system_identifier: SystemIdentifier,
    /// Bytes of one segment file.
    pub segment_size: u32,
}

/// One page's header; the long fields stand on the first page of a segment only.
struct Header {
    timeline: u32,
    address: u64,
    system_identifier: u64,
    segment_size: u32,
    block_size: u32,
}

const LONG_HEADER: usize = 40;

fn header(file: &File, offset: u64) -> Option<Header> {
    let mut bytes = [0_u8; LONG_HEADER];
    file.read_exact_at(&mut bytes, offset).ok()?;
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
    // Every PostgreSQL's magic is 0xD0xx or 0xD1xx.
    let known = magic >> 8 == 0xD0 || magic >> 8 == 0xD1;
    let header = Header {
        timeline: u32_at(4)?,
        address: u64_at(8)?,
        system_identifier: u64_at(24)?,
        segment_size: u32_at(32)?,
        block_size: u32_at(36)?,
    };
    known.then_some(header)
}

/// The end of the log in the folder `wal`; `None` when it holds no segment that was written.
///
/// # Errors
/// As of the file system.
pub fn end(wal: &Path) -> io::Result<Option<WalEnd>> {
    let mut names: Vec<String> = std::fs::read_dir(wal)?.flatten().filter_map(|entry| segment_name(&entry.file_name())).collect();
    names.sort_unstable(); // timeline first, then position: the newest is last
    for name in names.iter().rev() {
        if let Some(end) = end_of_segment(&File::open(wal.join(name))?, name) {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

fn segment_name(name: &std::ffi::OsStr) -> Option<String> {
    let name = name.to_str()?;
    (name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit())).then(|| name.to_owned())
}

/// A recycled or preallocated file has the wrong address, or none, on its first page.
fn end_of_segment(file: &File, name: &str) -> Option<WalEnd> {
    let first = header(file, 0)?;
    let (timeline, start) = position(name, first.segment_size)?;
    let sound = first.block_size.is_power_of_two() && first.segment_size % first.block_size == 0;
    if !sound || first.address != start {
        return None;
    }
    let block = u64::from(first.block_size);
    let pages = u64::from(first.segment_size) / block;
    let written = |page: &u64| header(file, page * block).is_some_and(|h| h.address == start + page * block && h.timeline <= timeline);
    let last = (1..pages).take_while(written).last().unwrap_or(0);
    Some(WalEnd {
        timeline: Timeline(timeline),
        at_least: Lsn(start + last * block),
        system_identifier: SystemIdentifier(first.system_identifier),
        segment_size: first.segment_size,
    })
}

/// Timeline and start of a segment by its name: `TTTTTTTTHHHHHHHHLLLLLLLL`.
fn position(name: &str, segment_size: u32) -> Option<(u32, u64)> {
    let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
    (segment_size > 0).then_some(())?;
    Some((part(0)?, (u64::from(part(8)?) << 32) + u64::from(part(16)?) * u64::from(segment_size)))
}

/// The part of a segment's name that is the same on every timeline, for the segment that holds `lsn`.
pub fn segment_suffix(lsn: Lsn, segment_size: u32) -> String {
    let low = (lsn.0 & 0xffff_ffff) / u64::from(segment_size.max(1));
    format!("{:08X}{low:08X}", lsn.0 >> 32)
}

/// One line of a timeline history file: the log of `timeline` ends at `switch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    pub timeline: Timeline,
    pub switch: Lsn,
}

/// Reads a timeline history file (`0000000N.history`); lines that are none are passed over, as PostgreSQL does with comments.
pub fn history(text: &str) -> Vec<Switch> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        Some(Switch { timeline: Timeline(fields.next()?.parse().ok()?), switch: fields.next()?.parse().ok()? })
    };
    text.lines().filter_map(line).collect()
}

/// Timeline and end of a directory, by whatever of control file and log can be read; the later of both.
pub fn reach(control: Option<&ControlData>, log: Option<WalEnd>) -> Option<(Timeline, Lsn)> {
    let control = control.map(|c| (c.newest_timeline(), c.min_recovery.max(c.checkpoint)));
    control.max(log.map(|end| (end.timeline, end.at_least)))
}

/// How a directory stands to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that it has, the source has too: it can follow.
    Follows,
    /// It has something of an older timeline that the source left behind: it has to be rewound.
    Diverged,
    /// It has something of the source's own timeline, or a newer one, that the source does not have.
    Ahead,
}

/// Holds a directory's `timeline` and `end` against a source's timeline, position and history.
pub fn standing(timeline: Timeline, end: Lsn, source: Timeline, source_at: Lsn, history: &[Switch]) -> Standing {
    if timeline > source || (timeline == source && end > source_at) {
        return Standing::Ahead;
    }
    if timeline == source {
        return Standing::Follows;
    }
    match history.iter().find(|switch| switch.timeline == timeline) {
        Some(fork) if end <= fork.switch => Standing::Follows,
        _ => Standing::Diverged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u32 = 8192;
    const SEGMENT: u32 = 16 * BLOCK;

    /// A segment file whose first `pages` pages belong to `start`.
    fn segment(folder: &Path, name: &str, start: u64, timeline: u32, pages: u32) {
        let mut bytes = vec![0_u8; SEGMENT as usize];
        for page in 0..pages {
            let at = (page * BLOCK) as usize;
            bytes[at..at + 2].copy_from_slice(&0xD110_u16.to_le_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&timeline.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&(start + u64::from(page * BLOCK)).to_le_bytes());
            bytes[at + 24..at + 32].copy_from_slice(&77_u64.to_le_bytes());
            bytes[at + 32..at + 36].copy_from_slice(&SEGMENT.to_le_bytes());
            bytes[at + 36..at + 40].copy_from_slice(&BLOCK.to_le_bytes());
        }
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    #[test]
    fn the_end_is_the_last_page_that_belongs_to_its_segment() {
        let dir = tempfile::tempdir().unwrap();
        let second = u64::from(SEGMENT);
        segment(dir.path(), "000000010000000000000000", 0, 1, 16);
        segment(dir.path(), "000000010000000000000001", second, 1, 3);
        segment(dir.path(), "000000010000000000000002", 0, 1, 16); // recycled: its pages are the first segment's
        std::fs::write(dir.path().join("00000002.history"), "1\t0/1\twhy\n").unwrap();
        let end = end(dir.path()).unwrap().unwrap();
        assert_eq!((end.timeline, end.at_least), (Timeline(1), Lsn(second + u64::from(2 * BLOCK))));
        assert_eq!((end.system_identifier, end.segment_size), (SystemIdentifier(77), SEGMENT));
    }

    #[test]
    fn a_folder_with_nothing_written_has_no_end() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(end(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("000000010000000000000001"), vec![0; SEGMENT as usize]).unwrap();
        assert_eq!(end(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_directory_follows_diverged_or_is_ahead() {
        let history = history("1\t0/500\tno recovery target specified\n\n# a comment\n2\t0/900\tx\n");
        let stands = |timeline, end| standing(Timeline(timeline), Lsn(end), Timeline(3), Lsn(0xA00), &history);
        assert_eq!(stands(3, 0xA00), Standing::Follows);
        assert_eq!(stands(3, 0xA01), Standing::Ahead);
        assert_eq!(stands(4, 0x100), Standing::Ahead);
        assert_eq!(stands(2, 0x900), Standing::Follows);
        assert_eq!(stands(2, 0x901), Standing::Diverged);
        assert_eq!(stands(1, 0x501), Standing::Diverged);
        assert_eq!(standing(Timeline(2), Lsn(1), Timeline(3), Lsn(9), &[]), Standing::Diverged, "no common history known");
    }

    #[test]
    fn a_segment_is_named_as_postgres_does() {
        assert_eq!(segment_suffix(Lsn(0x1_0345_6789), 16 << 20), "0000000100000003");
        assert_eq!(segment_suffix(Lsn(0x1_0845_6789), 64 << 20), "0000000100000002");
    }
}
