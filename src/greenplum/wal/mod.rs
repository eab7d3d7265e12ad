//! How far the write-ahead log of a directory reaches, read from its pages and records, with no server running and no
//! control file needed.

mod crc;
mod pages;
mod records;
#[cfg(any(test, feature = "fixtures"))]
pub mod written;

use std::{fs::File, io, path::Path};

pub(super) use self::crc::Crc;
use self::{
    pages::{Header, LONG_HEADER, Log},
    records::End,
};
use super::control::ControlData;
use model::{Lsn, Reach, SystemIdentifier, Timeline};

/// So often a log is listed that changes meanwhile.
const LOOKS: u32 = 5;

/// The end of a directory's write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalEnd {
    pub timeline: Timeline,
    /// Start of the last page that was written.
    pub at_least: Lsn,
    /// Where the next record would be written: what stands after it is no whole record.
    pub end: Lsn,
    /// End of the last whole record's own bytes; up to `end` there is only what fills up.
    pub last_byte: Lsn,
    pub system_identifier: SystemIdentifier,
    /// Bytes of one segment file.
    pub segment_size: u32,
}

/// The end of the log in the folder `wal`; `None` when it holds no segment that was written.
///
/// # Errors
/// As of the file system: what cannot be read may have been written.
pub fn end(wal: &Path) -> io::Result<Option<WalEnd>> {
    let mut looks = 1..=LOOKS;
    loop {
        match newest(wal, &segments(wal)?) {
            // A server that runs there has taken a segment away since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && looks.next() != Some(LOOKS) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(io::Error::other(error)),
            other => return other,
        }
    }
}

fn newest(wal: &Path, names: &[String]) -> io::Result<Option<WalEnd>> {
    for name in names.iter().rev() {
        if let Some(end) = end_of_segment(wal, names, name)? {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

/// Names of the segments in a folder, oldest timeline first and then by position: the newest is last.
fn segments(wal: &Path) -> io::Result<Vec<String>> {
    let mut names = vec![];
    for entry in std::fs::read_dir(wal)? {
        names.extend(segment_name(&entry?.file_name()));
    }
    names.sort_unstable();
    Ok(names)
}

fn segment_name(name: &std::ffi::OsStr) -> Option<String> {
    let name = name.to_str()?;
    (name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit())).then(|| name.to_owned())
}

/// A recycled or preallocated file has the wrong address, or none, on its first page.
fn end_of_segment(wal: &Path, names: &[String], name: &str) -> io::Result<Option<WalEnd>> {
    let file = File::open(wal.join(name))?;
    let Some(first) = header(&file, 0)?.filter(Header::is_sound) else { return Ok(None) };
    let Some((timeline, start)) = position(name, first.segment_size).filter(|(_, start)| first.address == *start) else {
        return Ok(None);
    };
    let at_least = start + last_page(&file, &first, timeline)? * u64::from(first.block_size);
    let mut log = Log::ending_with(wal, names, timeline, &first);
    let nothing = End { end: start, last_byte: start };
    let End { end, last_byte } = records::end(&mut log, start, &first)?.unwrap_or(nothing);
    Ok(Some(WalEnd {
        timeline: Timeline(timeline),
        at_least: Lsn(at_least),
        end: Lsn(end),
        last_byte: Lsn(last_byte),
        system_identifier: SystemIdentifier(first.system_identifier),
        segment_size: first.segment_size,
    }))
}

/// Whether the log that ends at `end` holds a record of a transaction between `from`, where a record begins, and `upto`: without one
/// nothing was acknowledged there. What cannot be read as a record, or is not there any more, may have been one.
///
/// # Errors
/// As of the file system.
pub fn holds_transactions(wal: &Path, end: WalEnd, from: Lsn, upto: Lsn) -> io::Result<bool> {
    let last = Lsn(end.at_least.0 - end.at_least.0 % u64::from(end.segment_size));
    let Some(name) = segment_of(wal, last, end.segment_size, end.timeline)? else { return Ok(true) };
    let Some(first) = header(&File::open(wal.join(name))?, 0)?.filter(Header::is_sound) else { return Ok(true) };
    let mut log = Log::ending_with(wal, &segments(wal)?, end.timeline.0, &first);
    records::holds_transactions(&mut log, &first, from.0, upto.0)
}

/// Number of the last page in a row that belongs to its segment.
fn last_page(file: &File, first: &Header, timeline: u32) -> io::Result<u64> {
    let (block, pages) = (u64::from(first.block_size), u64::from(first.segment_size / first.block_size));
    for page in 1..pages {
        let written = |h: &Header| h.address == first.address + page * block && h.timeline <= timeline;
        if !header(file, page * block)?.as_ref().is_some_and(written) {
            return Ok(page - 1);
        }
    }
    Ok(pages - 1)
}

fn header(file: &File, offset: u64) -> io::Result<Option<Header>> {
    let mut bytes = [0_u8; LONG_HEADER];
    Ok(if pages::read(file, &mut bytes, offset)? { Header::of(&bytes) } else { None })
}

/// The file that holds the segment of `lsn`, as `timeline` goes on in it: of that timeline, or of the newest older one.
///
/// # Errors
/// As of the file system.
pub fn segment_of(wal: &Path, lsn: Lsn, segment_size: u32, timeline: Timeline) -> io::Result<Option<String>> {
    let suffix = segment_suffix(lsn, segment_size);
    let fits = |name: &String| name.ends_with(&suffix) && timeline_of(name).is_some_and(|of| of <= timeline);
    Ok(segments(wal)?.into_iter().rfind(fits))
}

/// Timeline and start of a segment by its name: `TTTTTTTTHHHHHHHHLLLLLLLL`.
fn position(name: &str, segment_size: u32) -> Option<(u32, u64)> {
    let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
    (segment_size > 0).then_some(())?;
    Some((part(0)?, (u64::from(part(8)?) << 32) + u64::from(part(16)?) * u64::from(segment_size)))
}

/// The timeline of a segment, by its name.
pub fn timeline_of(name: &str) -> Option<Timeline> {
    let all_digits = name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(name.get(..8)?, 16).ok().filter(|_| all_digits).map(Timeline)
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

/// Reads a timeline history file (`0000000N.history`), whose reasons may hold the name of a restore point in any encoding.
/// `None`: PostgreSQL would not read it either.
pub fn history(bytes: &[u8]) -> Option<Vec<Switch>> {
    let text = String::from_utf8_lossy(bytes);
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        Some(Switch { timeline: Timeline(fields.next()?.parse().ok()?), switch: fields.next()?.parse().ok()? })
    };
    text.lines().filter(|line| !line.trim_start().is_empty() && !line.trim_start().starts_with('#')).map(line).collect()
}

/// Where a history leaves `timeline`; `None`: it does not, or not yet.
pub fn fork(history: &[Switch], timeline: Timeline) -> Option<Lsn> {
    history.iter().find(|switch| switch.timeline == timeline).map(|switch| switch.switch)
}

/// Timeline and end of a directory, by whatever of control file and log can be read; the later of both.
pub fn reach(control: Option<&ControlData>, log: Option<WalEnd>) -> Option<Reach> {
    let control = control.map(|c| (c.newest_timeline(), c.min_recovery.max(c.checkpoint)));
    control.max(log.map(|end| (end.timeline, end.end))).map(|(timeline, end)| Reach { timeline, end })
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
    match fork(history, timeline) {
        Some(fork) if end <= fork => Standing::Follows,
        Some(_) | None => Standing::Diverged,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod end_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_follows_diverged_or_is_ahead() {
        let history = history(b"1\t0/500\tno recovery target specified\n\n# a comment\n2\t0/900\tat restore point \"\xd6\xd0\"\n").unwrap();
        assert_eq!(super::history(b"1\t0/500\tx\nnothing\n"), None, "cut off, or overwritten");
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
