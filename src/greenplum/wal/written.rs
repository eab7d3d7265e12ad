//! For tests: a log as a server writes it, record by record, and what of it stands in a folder.
#![allow(clippy::unwrap_used, reason = "of tests")]

use std::path::Path;

use super::{
    crc::Crc,
    pages::{Header, LONG_HEADER},
};

/// The bytes of a log from the start of a segment on.
#[derive(Clone)]
pub struct Written {
    magic: u16,
    pub block: u64,
    pub segment: u64,
    pub timeline: u32,
    pub start: u64,
    bytes: Vec<u8>,
    previous: u64,
}

pub const SIX: u16 = 0xD07E;
pub const TWELVE: u16 = 0xD101;

impl Written {
    /// Begins with segment 1, as every log does.
    pub fn new(magic: u16, block: u64, segment: u64) -> Self {
        Self { magic, block, segment, timeline: 1, start: segment, bytes: vec![], previous: 0 }
    }

    /// Where the next record would be written.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn page(&mut self, info: u16, remaining: u64) {
        let address = self.end();
        let long = address.is_multiple_of(self.segment);
        let mut header = vec![0_u8; if long { LONG_HEADER } else { 24 }];
        header[0..2].copy_from_slice(&self.magic.to_le_bytes());
        header[2..4].copy_from_slice(&(info | if long { 2 } else { 0 }).to_le_bytes());
        header[4..8].copy_from_slice(&self.timeline.to_le_bytes());
        header[8..16].copy_from_slice(&address.to_le_bytes());
        header[16..20].copy_from_slice(&u32::try_from(remaining).unwrap().to_le_bytes());
        if long {
            header[24..32].copy_from_slice(&77_u64.to_le_bytes());
            header[32..36].copy_from_slice(&u32::try_from(self.segment).unwrap().to_le_bytes());
            header[36..40].copy_from_slice(&u32::try_from(self.block).unwrap().to_le_bytes());
        }
        self.bytes.extend(header);
    }

    fn put(&mut self, record: &[u8]) {
        for (done, byte) in record.iter().enumerate() {
            if self.end().is_multiple_of(self.block) {
                self.page(u16::from(done > 0), if done > 0 { (record.len() - done) as u64 } else { 0 });
            }
            self.bytes.push(*byte);
        }
    }

    fn record(&mut self, rmgr: u8, info: u8, data: &[u8]) {
        if self.end().is_multiple_of(self.block) {
            self.page(0, 0);
        }
        let (long, start) = (self.magic < 0xD080, self.end());
        let (size, previous, kind, checksum) = if long { (32, 16, 12, 24) } else { (24, 8, 16, 20) };
        let mut head = vec![0_u8; size];
        head[0..4].copy_from_slice(&u32::try_from(size + data.len()).unwrap().to_le_bytes());
        head[previous..previous + 8].copy_from_slice(&self.previous.to_le_bytes());
        head[kind..kind + 2].copy_from_slice(&[info, rmgr]);
        let mut crc = Crc::new();
        crc.add(data);
        crc.add(&head[..checksum]);
        head[checksum..checksum + 4].copy_from_slice(&crc.value().to_le_bytes());
        self.previous = start;
        self.put(&[&head, data].concat());
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// One record with this content; gives back where its own bytes end.
    pub fn append(&mut self, data: &[u8]) -> u64 {
        self.append_of(10, data)
    }

    /// The same of a transaction's end.
    pub fn commit(&mut self, data: &[u8]) -> u64 {
        self.append_of(1, data)
    }

    fn append_of(&mut self, manager: u8, data: &[u8]) -> u64 {
        self.record(manager, 0, data);
        let last_byte = self.end();
        self.align();
        last_byte
    }

    /// The rest of the segment stays empty.
    pub fn switch(&mut self) -> u64 {
        self.record(0, 0x40, &[]);
        let last_byte = self.end();
        let full = (self.end() - self.start).next_multiple_of(self.segment);
        self.bytes.resize(usize::try_from(full).unwrap(), 0);
        last_byte
    }

    /// The server died within a record of which `left` lasted, and goes on behind it, as PostgreSQL 15 does.
    pub fn abandon(&mut self, data: &[u8]) {
        let (previous, before) = (self.previous, self.bytes.len());
        self.append(data);
        let page = (before as u64).next_multiple_of(self.block);
        self.bytes.truncate(usize::try_from(page).unwrap());
        self.previous = previous;
        self.page(8, 0);
        self.append(b"it was given up");
    }

    /// A promotion: pages from the next one on are of another timeline.
    #[must_use]
    pub fn promoted(mut self) -> Self {
        self.timeline += 1;
        self.append(b"a new timeline");
        self
    }

    /// The bytes up to `end`, in files of `timeline` from the segment of `from` on; behind them `filler` to the segments' end.
    pub fn leave(&self, folder: &Path, timeline: u32, from: u64, end: u64, filler: &[u8]) {
        std::fs::create_dir_all(folder).unwrap();
        let mut at = from - from % self.segment;
        while at < end {
            let have = usize::try_from(at - self.start).unwrap();
            let upto = usize::try_from(end.min(at + self.segment) - self.start).unwrap();
            let mut file = self.bytes[have..upto.min(self.bytes.len())].to_vec();
            let written = file.len();
            file.resize(usize::try_from(self.segment).unwrap(), 0);
            for (place, byte) in file.iter_mut().enumerate().skip(written) {
                *byte = filler.get(place).copied().unwrap_or(0);
            }
            let low = (at & 0xffff_ffff) / self.segment;
            std::fs::write(folder.join(format!("{timeline:08X}{:08X}{low:08X}", at >> 32)), file).unwrap();
            at += self.segment;
        }
    }

    pub fn header(&self) -> Header {
        Header::of(&self.bytes[..LONG_HEADER]).unwrap()
    }
}
