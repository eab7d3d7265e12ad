//! Records of a log (`src/include/access/xlogrecord.h`, in Greenplum 6 `xlog.h`): where the last whole one ends.
//!
//! As a server's recovery finds it: each record names the one before, so the bytes that a recycled segment still has after
//! the end are none, and each has a checksum, so one of which a page was torn or never came is none either.

use std::io;

use super::{
    crc::Crc,
    pages::{Header, LONG_HEADER, Log, SHORT_HEADER},
};

/// A record is never longer (MaxAllocSize).
const LONGEST: u64 = 1 << 30;
/// So much of the end is held against its checksums: many times what may be written and not yet synced.
const CHECKED: u64 = 2 << 20;
const SWITCH: (u8, u8) = (0, 0x40);
/// The resource manager of commits, prepared transactions and what ends them (`rmgrlist.h`; the same number in all versions).
const TRANSACTION: u8 = 1;

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Where the next record would be written.
    pub end: u64,
    /// End of the last whole record's own bytes: up to `end` there is only what fills up.
    pub last_byte: u64,
}

/// Where fields are in a record's header.
#[derive(Clone, Copy)]
struct Layout {
    length: usize,
    previous: usize,
    info: usize,
    checksum: usize,
}

/// Greenplum 6: after `xl_xid` comes `xl_len`, and the header is filled up to 8 bytes.
const LONG: Layout = Layout { length: 32, previous: 16, info: 12, checksum: 24 };
const SHORT: Layout = Layout { length: 24, previous: 8, info: 16, checksum: 20 };

/// Between two records.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    /// Start of the record before; `None`: not known.
    previous: Option<u64>,
    found: Option<End>,
    /// Resource manager of the record before.
    manager: Option<u8>,
}

/// What is found at a place.
enum Found {
    Record(Place),
    /// No whole record begins here; its bytes, if it has any, reach so far.
    Nothing(u64),
}

/// How far bytes of a record were read.
enum Reading {
    Done,
    Missing,
    /// The page that begins here says that the record was given up.
    Abandoned,
}

/// The end of the log by its records; `None`: none was found in the last segment, nor one that reaches into it.
///
/// # Errors
/// As of the file system.
pub fn end(log: &mut Log, last: u64, layout: &Header) -> io::Result<Option<End>> {
    let layout = if layout.has_long_records() { LONG } else { SHORT };
    if let Some(before) = last.checked_sub(log.segment)
        && let Some(begin) = begin(log, before)?
    {
        let (place, reached) = walk(log, layout, begin)?;
        // What reaches into the last segment was found, whole or not. Else the log before is another one, or damaged.
        if place.found.is_some_and(|found| found.end > last) || (reached >= last && place.at < last) {
            return Ok(place.found);
        }
    }
    let Some(begin) = begin(log, last)? else { return Ok(None) };
    Ok(walk(log, layout, begin)?.0.found)
}

/// Whether a record of a transaction begins at `at` or later and ends by `upto`. What is no whole record any more counts as one.
///
/// # Errors
/// As of the file system.
pub fn holds_transactions(log: &mut Log, layout: &Header, at: u64, upto: u64) -> io::Result<bool> {
    let layout = if layout.has_long_records() { LONG } else { SHORT };
    let mut place = Place { at, previous: None, found: None, manager: None };
    while place.at < upto {
        let next = match record(log, layout, place, true)? {
            Found::Record(next) => next,
            Found::Nothing(reached) => return Ok(upto > reached || !is_cut_off(log, place.at, reached)?),
        };
        match (next.found, next.manager) {
            (Some(found), _) if found.last_byte > upto => return Ok(false),
            (Some(_), Some(TRANSACTION)) => return Ok(true),
            (Some(_) | None, _) => place = next,
        }
    }
    Ok(false)
}

/// The record that begins at `at` goes on, by its own length, on a page that was never written. Where that page was, it is damaged.
fn is_cut_off(log: &mut Log, at: u64, reached: u64) -> io::Result<bool> {
    let goes_on = claims(log, at)?.is_some_and(|last_byte| last_byte > reached);
    Ok(goes_on && reached.is_multiple_of(log.block) && log.page(reached)?.is_none())
}

/// Where the bytes of the record that begins at `at` end by its own length, whether all of them are there or not; `None`: none begins
/// there.
fn claims(log: &mut Log, at: u64) -> io::Result<Option<u64>> {
    let (page, fresh) = (at - at % log.block, at.is_multiple_of(log.block));
    let start = match log.page(page)? {
        Some(_) if !fresh => at,
        Some((header, _)) if !header.continues() => at + header.length(),
        Some(_) | None => return Ok(None),
    };
    Ok(total(log, start)?.filter(|total| (1..=LONGEST).contains(total)).map(|total| reaches(log, start, total)))
}

/// The end of so many bytes, with the headers of the pages over which they go.
fn reaches(log: &Log, start: u64, mut left: u64) -> u64 {
    let mut at = start;
    loop {
        let here = left.min(log.block - at % log.block);
        (at, left) = (at + here, left - here);
        if left == 0 {
            return at;
        }
        at += if at.is_multiple_of(log.segment) { LONG_HEADER } else { SHORT_HEADER } as u64;
    }
}

/// The first place in a segment at which a record begins.
fn begin(log: &mut Log, segment: u64) -> io::Result<Option<Place>> {
    let Some((header, _)) = log.page(segment)? else { return Ok(None) };
    let rest = if header.continues() { u64::from(header.remaining) } else { 0 };
    let mut reader = Reader { at: segment + header.length(), left: rest };
    let continued = rest > 0;
    match reader.read(log, rest, &mut |_| ())? {
        Reading::Missing => Ok(None),
        Reading::Abandoned => Ok(Some(Place { at: reader.at, previous: None, found: None, manager: None })),
        Reading::Done => {
            let found = continued.then(|| End { end: aligned(reader.at), last_byte: reader.at });
            Ok(Some(Place { at: aligned(reader.at), previous: None, found, manager: None }))
        }
    }
}

/// Goes from record to record, then once more over the last of them with their checksums; the second number says how far
/// the bytes of what is no whole record reach.
fn walk(log: &mut Log, layout: Layout, begin: Place) -> io::Result<(Place, u64)> {
    let (mut older, mut newer, mut place) = (begin, begin, begin);
    while let Found::Record(next) = record(log, layout, place, false)? {
        place = next;
        if place.at - newer.at > CHECKED {
            (older, newer) = (newer, place);
        }
    }
    place = older;
    loop {
        match record(log, layout, place, true)? {
            Found::Record(next) => place = next,
            Found::Nothing(reached) => return Ok((place, reached)),
        }
    }
}

fn record(log: &mut Log, layout: Layout, place: Place, checked: bool) -> io::Result<Found> {
    let mut reader = Reader { at: place.at, left: 0 };
    if place.at.is_multiple_of(log.block) {
        match log.page(place.at)? {
            Some((header, _)) if !header.continues() => reader.at += header.length(),
            Some(_) | None => return Ok(Found::Nothing(place.at)),
        }
    }
    let start = reader.at;
    let Some(total) = total(log, start)? else { return Ok(Found::Nothing(start)) };
    if total < layout.length as u64 || total > LONGEST {
        return Ok(Found::Nothing(start));
    }
    reader.left = total;
    let mut head = Vec::with_capacity(layout.length);
    match reader.read(log, layout.length as u64, &mut |bytes| head.extend_from_slice(bytes))? {
        Reading::Done => {}
        Reading::Missing => return Ok(Found::Nothing(reader.at)),
        Reading::Abandoned => return Ok(Found::Record(Place { at: reader.at, ..place })),
    }
    if !follows(log, layout, place, start, &head) {
        return Ok(Found::Nothing(start));
    }
    let mut crc = Crc::new();
    let rest = reader.left;
    match reader.read(log, rest, &mut |bytes| {
        if checked {
            crc.add(bytes);
        }
    })? {
        Reading::Done => {}
        Reading::Missing => return Ok(Found::Nothing(reader.at)),
        Reading::Abandoned => return Ok(Found::Record(Place { at: reader.at, ..place })),
    }
    crc.add(&head[..layout.checksum]);
    if checked && u64_at(&head, layout.checksum) & 0xffff_ffff != u64::from(crc.value()) {
        return Ok(Found::Nothing(reader.at));
    }
    Ok(Found::Record(after(log, layout, start, &head, reader.at)))
}

/// A record's length; it stands whole on the page on which it begins.
fn total(log: &mut Log, start: u64) -> io::Result<Option<u64>> {
    let (block, offset) = (log.block, usize::try_from(start % log.block).unwrap_or_default());
    Ok(log.page(start - start % block)?.and_then(|(_, bytes)| {
        let bytes = bytes.get(offset..offset + 4)?;
        Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
    }))
}

/// It names the record before it. Where that is not known: one of this segment or the one before, since what a recycled
/// file still holds is older; or none, as the first of a log does.
fn follows(log: &Log, layout: Layout, place: Place, start: u64, head: &[u8]) -> bool {
    let named = u64_at(head, layout.previous);
    match place.previous {
        Some(previous) => named == previous,
        None => named == 0 || (named < start && named >= (start - start % log.segment).saturating_sub(log.segment)),
    }
}

/// After a switch the rest of the segment holds nothing.
fn after(log: &Log, layout: Layout, start: u64, head: &[u8], last_byte: u64) -> Place {
    let (rmgr, info) = (head[layout.info + 1], head[layout.info] & 0xf0);
    let end = aligned(last_byte);
    let end = if (rmgr, info) == SWITCH { end.next_multiple_of(log.segment) } else { end };
    Place { at: end, previous: Some(start), found: Some(End { end, last_byte }), manager: Some(rmgr) }
}

fn aligned(at: u64) -> u64 {
    at.next_multiple_of(8)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0_u8; 8];
    for (to, from) in eight.iter_mut().zip(&bytes[at..]) {
        *to = *from;
    }
    u64::from_le_bytes(eight)
}

/// Reads the bytes of one record, over the headers of its pages.
struct Reader {
    at: u64,
    /// What is left of the record; each page on which it goes on says the same.
    left: u64,
}

impl Reader {
    fn read(&mut self, log: &mut Log, count: u64, sink: &mut dyn FnMut(&[u8])) -> io::Result<Reading> {
        let (block, mut wanted) = (log.block, count);
        while wanted > 0 {
            let (page, fresh) = (self.at - self.at % block, self.at.is_multiple_of(block));
            let Some((header, bytes)) = log.page(page)? else { return Ok(Reading::Missing) };
            if fresh && header.abandons() {
                return Ok(Reading::Abandoned);
            }
            if fresh {
                if !header.continues() || u64::from(header.remaining) != self.left {
                    return Ok(Reading::Missing);
                }
                self.at += header.length();
            }
            let here = wanted.min(page + block - self.at);
            let from = usize::try_from(self.at - page).unwrap_or_default();
            let part = bytes.get(from..from + usize::try_from(here).unwrap_or_default()).unwrap_or_default();
            sink(part);
            (self.at, self.left, wanted) = (self.at + here, self.left - here, wanted - here);
        }
        Ok(Reading::Done)
    }
}
