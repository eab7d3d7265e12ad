//! Pages of a log's segment files (`src/include/access/xlog_internal.h`: XLogPageHeaderData, XLogLongPageHeaderData).

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Header of the first page of a segment; every other page has a short one.
pub const LONG_HEADER: usize = 40;
pub const SHORT_HEADER: usize = 24;
/// The page begins with the rest of a record (XLP_FIRST_IS_CONTRECORD).
const CONTINUES: u16 = 1;
const IS_LONG: u16 = 2;
/// The record before was never finished: another one stands in its place (XLP_FIRST_IS_OVERWRITE_CONTRECORD).
const ABANDONS: u16 = 8;
/// Records of PostgreSQL 9.5 and later have a shorter header.
const FIRST_SHORT_RECORDS: u16 = 0xD080;

/// One page's header; the long fields stand on the first page of a segment only.
pub struct Header {
    pub magic: u16,
    pub info: u16,
    pub timeline: u32,
    pub address: u64,
    pub remaining: u32,
    pub system_identifier: u64,
    pub segment_size: u32,
    pub block_size: u32,
}

impl Header {
    /// `None`: these bytes are no page's.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let magic = u16_at(0)?;
        // Every PostgreSQL's magic is 0xD0xx or 0xD1xx.
        let known = magic >> 8 == 0xD0 || magic >> 8 == 0xD1;
        let header = Self {
            magic,
            info: u16_at(2)?,
            timeline: u32_at(4)?,
            address: u64_at(8)?,
            remaining: u32_at(16)?,
            system_identifier: u64_at(24)?,
            segment_size: u32_at(32)?,
            block_size: u32_at(36)?,
        };
        known.then_some(header)
    }

    /// Sizes of segment and block that can be true, on the first page of a segment.
    pub fn is_sound(&self) -> bool {
        let (segment, block) = (self.segment_size, self.block_size);
        block.is_power_of_two() && (1024..=65536).contains(&block) && segment >= block && segment.is_multiple_of(block)
    }

    pub fn length(&self) -> u64 {
        if self.info & IS_LONG == 0 { SHORT_HEADER as u64 } else { LONG_HEADER as u64 }
    }

    pub fn continues(&self) -> bool {
        self.info & CONTINUES != 0
    }

    pub fn abandons(&self) -> bool {
        self.info & ABANDONS != 0
    }

    pub fn has_long_records(&self) -> bool {
        self.magic < FIRST_SHORT_RECORDS
    }
}

/// Fills `bytes` from the file; `false` when the file ends before: what was never written, or cut off, is not there. Every
/// other failure is one: a page that cannot be read may well have been written.
///
/// # Errors
/// As of the file system.
pub fn read(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The log that ends with one segment: that segment, and of each one before it the file of the newest timeline that is
/// not newer.
pub struct Log {
    pub block: u64,
    pub segment: u64,
    timeline: u32,
    files: BTreeMap<u64, PathBuf>,
    open: Option<(u64, File)>,
    page: Option<(u64, Vec<u8>)>,
}

impl Log {
    /// `names`: those of the segments in `folder`; `last`: the header of the last one's first page.
    pub fn ending_with(folder: &Path, names: &[String], timeline: u32, last: &Header) -> Self {
        let mut files = BTreeMap::new();
        for name in names {
            if let Some((of, start)) = super::position(name, last.segment_size)
                && of <= timeline
                && start <= last.address
            {
                files.insert(start, folder.join(name)); // names are in order: a newer timeline comes later
            }
        }
        let (block, segment) = (u64::from(last.block_size), u64::from(last.segment_size));
        Self { block, segment, timeline, files, open: None, page: None }
    }

    /// Header and bytes of the page at `address`; `None`: it was not written.
    ///
    /// # Errors
    /// As of the file system.
    pub fn page(&mut self, address: u64) -> io::Result<Option<(Header, &[u8])>> {
        if self.page.as_ref().is_none_or(|(held, _)| *held != address) {
            self.page = None;
            let mut bytes = vec![0_u8; usize::try_from(self.block).unwrap_or_default()];
            if !self.fill(address, &mut bytes)? {
                return Ok(None);
            }
            self.page = Some((address, bytes));
        }
        let Some((_, bytes)) = &self.page else { return Ok(None) };
        let header = Header::of(bytes).filter(|header| header.address == address && header.timeline <= self.timeline);
        Ok(header.map(|header| (header, bytes.as_slice())))
    }

    fn fill(&mut self, address: u64, bytes: &mut [u8]) -> io::Result<bool> {
        let offset = address % self.segment;
        let start = address - offset;
        if self.open.as_ref().is_none_or(|(open, _)| *open != start) {
            let Some(path) = self.files.get(&start) else { return Ok(false) };
            self.open = Some((start, File::open(path)?));
        }
        self.open.as_ref().map_or(Ok(false), |(_, file)| read(file, bytes, offset))
    }
}
