//! Identities and positions, each a type of its own so that they cannot be mixed up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Content id: the number of a shard; -1 is the coordinator and its standby (docs/greenplum.md#rows-of-the-catalog).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Content(pub i16);

impl Content {
    /// The coordinator's content id.
    pub const COORDINATOR: Self = Self(-1);
}

/// Unique id of one instance (one catalog row) in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dbid(pub i16);

/// Timeline id of a data directory; grows by one at each promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

/// The number that `initdb` gave to a database; equal on both sides of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(pub u64);

/// A position in the write-ahead log, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A text that is not a log position (`HIGH/LOW`, both hexadecimal).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a log position such as 0/16B3748")]
pub struct NotAnLsn(String);

impl FromStr for Lsn {
    type Err = NotAnLsn;
    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let parse = |half: &str| u64::from(u32::from_str_radix(half, 16).unwrap_or(0));
        let valid = |half: &str| !half.is_empty() && u32::from_str_radix(half, 16).is_ok();
        match text.trim().split_once('/') {
            Some((high, low)) if valid(high) && valid(low) => Ok(Self(parse(high) << 32 | parse(low))),
            _ => Err(NotAnLsn(text.to_owned())),
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

macro_rules! shown_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    )*};
}
shown_as_number!(Content, Dbid, Timeline, SystemIdentifier);

/// JSON as text: both are 64-bit numbers, which many JSON readers round.
macro_rules! serialised_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serialised_as_text!(Lsn, SystemIdentifier);

impl FromStr for SystemIdentifier {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim().parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_position_is_read_and_written_as_postgres_does() {
        let lsn: Lsn = "1/16B3748".parse().unwrap();
        assert_eq!(lsn, Lsn(0x1_016B_3748));
        assert_eq!(lsn.to_string(), "1/16B3748");
    }

    #[test]
    fn what_is_not_a_log_position_is_refused() {
        for text in ["", "16B3748", "0/", "/0", "0/xyz", "0/1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
