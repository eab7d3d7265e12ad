//! CRC-32C, by which both layouts of a log record are checked (`src/include/port/pg_crc32c.h`).

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let (mut index, mut byte) = (0, 0_u32);
    while index < table.len() {
        let mut value = byte;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x82F6_3B78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        (index, byte) = (index + 1, byte + 1);
    }
    table
}

/// A checksum that grows by what is added.
#[derive(Clone, Copy, Debug)]
pub struct Crc(u32);

impl Crc {
    pub fn new() -> Self {
        Self(u32::MAX)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = TABLE[usize::from(low ^ byte)] ^ (self.0 >> 8);
        }
    }

    pub fn value(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answer_is_given() {
        let mut crc = Crc::new();
        crc.add(b"1234");
        crc.add(b"56789");
        assert_eq!(crc.value(), 0xE306_9283);
    }
}
