//! `gp_segment_configuration` as values (docs/greenplum.md#rows-of-the-catalog).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Content, Dbid};

/// What an instance is now; changed by FTS alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `p`
    Primary,
    /// `m`
    Mirror,
}

/// Replication state of the pair as last recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// `s`
    InSync,
    /// `n`
    NotInSync,
    /// `r`, filerep only: resynchronising
    Resync,
    /// `c`, filerep only: change tracking
    ChangeTracking,
}

/// Whether FTS counts on the instance; not a fact about its life (docs/greenplum.md#what-fts-leaves-alone).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    /// `u`
    Up,
    /// `d`
    Down,
}

/// One row of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub dbid: Dbid,
    pub content: Content,
    pub role: Role,
    pub preferred_role: Role,
    pub mode: Mode,
    pub status: Status,
    /// TCP port of its postmaster.
    pub port: u16,
    /// Used by tools and as replication source host.
    pub hostname: String,
    /// Used by the coordinator's sessions and by FTS.
    pub address: String,
    /// Absolute path of the data directory inside its container.
    pub datadir: String,
}

impl Row {
    /// Up, and its pair in sync, as the catalog says.
    pub fn well(&self) -> bool {
        self.status == Status::Up && self.mode == Mode::InSync
    }

    /// The column of its place, if there is one, whose bytes are no UTF-8: nothing may be compared with what stands here for it.
    pub fn unread(&self) -> Option<&'static str> {
        let (address, directory) = (("address", &self.address), ("datadir", &self.datadir));
        [address, directory].into_iter().find(|(_, value)| value.contains(char::REPLACEMENT_CHARACTER)).map(|(column, _)| column)
    }

    /// `ADDRESS:PORT DIRECTORY`
    pub fn place(&self) -> String {
        format!("{}:{} {}", self.address, self.port, self.datadir)
    }
}

impl fmt::Display for Row {
    /// The notation of the field: `5:0mmnd` (dbid, content, role, preferred role, mode, status).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dbid, content) = (self.dbid, self.content);
        let letters = [char::from(self.role), char::from(self.preferred_role), char::from(self.mode), char::from(self.status)];
        write!(f, "{dbid}:{content}{}", letters.iter().collect::<String>())
    }
}

macro_rules! catalog_letters {
    ($name:ident { $($letter:literal => $variant:ident),* }) => {
        impl From<$name> for char {
            fn from(value: $name) -> char {
                match value { $($name::$variant => $letter),* }
            }
        }
        impl TryFrom<char> for $name {
            type Error = UnknownLetter;
            fn try_from(letter: char) -> Result<Self, UnknownLetter> {
                match letter {
                    $($letter => Ok(Self::$variant),)*
                    _ => Err(UnknownLetter { column: stringify!($name), letter }),
                }
            }
        }
    };
}
catalog_letters!(Role { 'p' => Primary, 'm' => Mirror });
catalog_letters!(Mode { 's' => InSync, 'n' => NotInSync, 'r' => Resync, 'c' => ChangeTracking });
catalog_letters!(Status { 'u' => Up, 'd' => Down });

/// A letter that no Greenplum writes into that column.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{letter}' is no {column} that gp_segment_configuration can hold")]
pub struct UnknownLetter {
    pub column: &'static str,
    pub letter: char,
}

/// The whole topology, read in one statement.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Catalog {
    /// Ordered by content, then dbid.
    pub rows: Vec<Row>,
}

/// The two rows of one content, told apart by what they are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    pub primary: &'a Row,
    pub mirror: &'a Row,
}

impl Catalog {
    /// The row of an instance.
    pub fn row(&self, dbid: Dbid) -> Option<&Row> {
        self.rows.iter().find(|row| row.dbid == dbid)
    }

    /// All contents of segments (not the coordinator's), ascending, each once.
    pub fn contents(&self) -> Vec<Content> {
        let mut contents: Vec<_> = self.rows.iter().map(|row| row.content).filter(|c| c.0 >= 0).collect();
        contents.sort_unstable();
        contents.dedup();
        contents
    }

    /// Whether this is the catalog of an acting coordinator: that of a segment is empty.
    ///
    /// # Errors
    /// A sentence that names the rows.
    pub fn coordinator(&self) -> Result<&Row, String> {
        let acting: Vec<_> = self.rows.iter().filter(|row| row.content == Content::COORDINATOR && row.role == Role::Primary).collect();
        match acting[..] {
            [one] => Ok(one),
            [] if self.rows.is_empty() => Err("its gp_segment_configuration is empty, as that of a segment".into()),
            [] => Err("its gp_segment_configuration has no row of an acting coordinator (content -1, role p)".into()),
            _ => Err(format!("its gp_segment_configuration has {} acting coordinators: {}", acting.len(), shown(&acting))),
        }
    }

    /// The pair of a content, or why its rows cannot be true (docs/greenplum.md#pairs-that-can-be).
    ///
    /// # Errors
    /// A sentence that names the rows.
    pub fn pair(&self, content: Content) -> Result<Pair<'_>, String> {
        let rows: Vec<_> = self.rows.iter().filter(|row| row.content == content).collect();
        self.judged(content, &rows, |_| true)
    }

    /// The same of the rows of this content, where it is known which of them may not stand alone.
    pub(super) fn judged<'a>(&'a self, content: Content, rows: &[&'a Row], suspect: impl Fn(&'a Row) -> bool) -> Result<Pair<'a>, String> {
        let all = || shown(rows);
        let [a, b] = rows[..] else {
            return Err(format!("content {content} has {} rows instead of two: {}", rows.len(), all()));
        };
        let (primary, mirror) = match (a.role, b.role) {
            (Role::Primary, Role::Mirror) => (a, b),
            (Role::Mirror, Role::Primary) => (b, a),
            (Role::Primary, Role::Primary) => return Err(format!("content {content} has two primaries: {}", all())),
            (Role::Mirror, Role::Mirror) => return Err(format!("content {content} has two mirrors and no primary: {}", all())),
        };
        for row in [primary, mirror] {
            names_an_instance(row)?;
            if suspect(row) {
                self.stands_alone(row)?;
            }
        }
        let legal = primary.preferred_role != mirror.preferred_role
            && primary.status == Status::Up
            && primary.mode == mirror.mode
            && !(mirror.status == Status::Down && mirror.mode == Mode::InSync);
        if legal { Ok(Pair { primary, mirror }) } else { Err(format!("content {content} is in a state that FTS never writes: {}", all())) }
    }

    /// Its dbid and its place are its own.
    fn stands_alone(&self, row: &Row) -> Result<(), String> {
        let content = row.content;
        let twins: Vec<_> = self.rows.iter().filter(|other| other.dbid == row.dbid).take(SHOWN + 1).collect();
        if twins.len() > 1 {
            return Err(format!("content {content} has dbid {}, which is not its own: {}", row.dbid, shown(&twins)));
        }
        let same = |other: &&Row| other.address == row.address && (other.port == row.port || other.datadir == row.datadir);
        let housemates: Vec<_> = self.rows.iter().filter(same).take(SHOWN + 1).collect();
        if housemates.len() > 1 {
            return Err(format!("content {content} has the place {}, which is not its own: {}", row.place(), shown(&housemates)));
        }
        Ok(())
    }
}

fn names_an_instance(row: &Row) -> Result<(), String> {
    let hostname = row.hostname.contains(char::REPLACEMENT_CHARACTER).then_some("hostname");
    if let Some(column) = row.unread().or(hostname) {
        return Err(format!("content {} has a row whose {column} is no UTF-8: {row} at {}", row.content, row.place()));
    }
    if row.dbid.0 <= 0 || row.port == 0 || row.address.is_empty() || !row.datadir.starts_with('/') {
        return Err(format!("content {} has a row that names no instance: {row} at {}", row.content, row.place()));
    }
    Ok(())
}

/// Most rows that a sentence names: a catalog may have any number in one place.
const SHOWN: usize = 16;

fn shown(rows: &[&Row]) -> String {
    let more = if rows.len() > SHOWN { " …" } else { "" };
    format!("{}{more}", rows.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::row;

    fn catalog(rows: &[&str]) -> Catalog {
        Catalog { rows: rows.iter().map(|text| row(text)).collect() }
    }

    #[test]
    fn the_three_legal_states_of_a_pair_are_read() {
        for rows in [["2:0ppsu", "5:0mmsu"], ["2:0ppnu", "5:0mmnu"], ["2:0ppnu", "5:0mmnd"], ["2:0mpnd", "5:0pmnu"]] {
            let catalog = catalog(&rows);
            let pair = catalog.pair(Content(0)).unwrap();
            assert_eq!((pair.primary.role, pair.mirror.role), (Role::Primary, Role::Mirror));
        }
    }

    #[test]
    fn rows_that_cannot_be_true_are_named() {
        for rows in [
            vec!["2:0ppsu", "5:0pmsu"], // two primaries
            vec!["2:0mpsu", "5:0mmsu"], // no primary
            vec!["2:0ppnd", "5:0mmnu"], // a primary marked down
            vec!["2:0ppsu", "5:0mmnu"], // modes differ
            vec!["2:0ppsu", "5:0mmsd"], // down and in sync
            vec!["2:0ppsu", "5:0mpsu"], // one preferred role twice
            vec!["2:0ppsu"],
            vec!["2:0ppsu", "5:0mmsu", "6:0mmsu"],
        ] {
            let catalog = catalog(&rows);
            let why = catalog.pair(Content(0)).unwrap_err();
            assert!(why.contains("2:0") && why.starts_with("content 0"), "{why}");
        }
    }

    #[test]
    fn a_dbid_or_a_place_that_two_rows_have_is_told_for_both() {
        let twice = catalog(&["1:-1ppsu", "2:0ppsu", "5:0mmsu", "5:1ppsu", "6:1mmsu", "3:2ppsu", "7:2mmsu"]);
        for content in [0, 1] {
            let why = twice.pair(Content(content)).unwrap_err();
            assert!(why.contains("has dbid 5") && why.contains("5:0mmsu 5:1ppsu"), "{why}");
        }
        assert!(twice.pair(Content(2)).is_ok(), "the others go on");
        let mut one_place = catalog(&["2:0ppnu", "5:0mmnd"]);
        one_place.rows[1].address = one_place.rows[0].address.clone();
        assert!(one_place.pair(Content(0)).unwrap_err().contains("2:0ppnu 5:0mmnd"), "a repair would wipe its own source");
        one_place.rows[1].port = 7000;
        assert!(one_place.pair(Content(0)).is_err(), "one directory of one host");
        one_place.rows[1].datadir = "/data/mirror".into();
        assert!(one_place.pair(Content(0)).is_ok(), "two instances of one host");
    }

    #[test]
    fn a_row_that_names_nothing_is_told() {
        let bent: [fn(&mut Row); 4] = [|r| r.dbid = Dbid(0), |r| r.port = 0, |r| r.address.clear(), |r| r.datadir = "gpseg".into()];
        for bend in bent {
            let mut catalog = catalog(&["2:0ppsu", "5:0mmsu"]);
            bend(&mut catalog.rows[1]);
            assert!(catalog.pair(Content(0)).unwrap_err().contains("names no instance"));
        }
    }

    /// As a person's terminal wrote it, in GB 18030.
    #[test]
    fn a_row_that_is_no_utf8_is_told_and_its_content_alone_is_left_alone() {
        let bent: [fn(&mut Row) -> &mut String; 3] = [|r| &mut r.address, |r| &mut r.datadir, |r| &mut r.hostname];
        for (bend, column) in bent.iter().zip(["address", "datadir", "hostname"]) {
            let mut catalog = catalog(&["2:0ppsu", "5:0mmsu", "3:1ppsu", "6:1mmsu"]);
            bend(&mut catalog.rows[1]).push_str(&String::from_utf8_lossy(b"\xd6\xd0"));
            let why = catalog.pair(Content(0)).unwrap_err();
            assert!(why.contains(&format!("whose {column} is no UTF-8: 5:0mmsu")), "{why}");
            assert!(catalog.pair(Content(1)).is_ok());
        }
    }

    #[test]
    fn only_a_catalog_with_one_acting_coordinator_is_one() {
        assert!(catalog(&["1:-1ppsu", "8:-1mmsu", "2:0ppsu"]).coordinator().is_ok());
        assert!(catalog(&[]).coordinator().unwrap_err().contains("empty"));
        assert!(catalog(&["2:0ppsu", "8:-1mmsu"]).coordinator().unwrap_err().contains("no row of an acting coordinator"));
        assert!(catalog(&["1:-1ppsu", "8:-1ppsu"]).coordinator().unwrap_err().contains("1:-1ppsu 8:-1ppsu"));
    }
}
