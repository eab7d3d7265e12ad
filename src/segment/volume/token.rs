//! The token: whose volume this is. Written at the first adoption, never by a repair.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Volume, marks::MarkError};
use model::{Content, Dbid, Incarnation, SystemIdentifier, Timeline};

/// File name in the folder of marks.
pub const TOKEN: &str = "volume.json";

/// `volume.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    pub cluster: String,
    pub system_identifier: SystemIdentifier,
    pub dbid: Dbid,
    pub content: Content,
    pub address: String,
    pub port: u16,
    pub data_directory: String,
    /// Highest timeline of a coordinator that was believed; a lower one is an old coordinator.
    pub coordinator_timeline: Timeline,
    /// The other side of the pair when it was last read.
    #[serde(default)]
    pub peer: Option<Peer>,
    /// The incarnations of its acting primary that this instance followed as a mirror, as that one's page showed them.
    #[serde(default)]
    pub followed: Vec<Incarnation>,
    /// What tells the data directory that followed them from another: one that a person copied by hand has followed nobody yet.
    #[serde(default)]
    pub followed_in: Option<u64>,
    /// The same of its control file; `None`: an earlier version wrote the token, or it could not be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed_control: Option<u64>,
    /// Nonce of the last incarnation that a copy followed which a person let this one leave behind.
    #[serde(default)]
    pub waived: Option<String>,
    /// Another instance took its place as primary; stands until a repair, or until a person ends it.
    #[serde(default)]
    pub replaced: Option<Replaced>,
    /// System identifier of the coordinator's database: whose timelines count.
    #[serde(default)]
    pub coordinator: Option<SystemIdentifier>,
    /// What a person has said of coordinators that counts for this volume no more: it was heeded once, or was said of what this
    /// volume had not seen then. Forgotten once it is said no more, so that the same may be said anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator_word: Option<String>,
    pub adopted: Timestamp,
}

/// That a directory which would open as a primary was found to be a mirror's by a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// Timeline of the coordinator whose catalog said so.
    pub coordinator_timeline: Timeline,
    pub at: Timestamp,
}

#[cfg(test)]
impl Token {
    /// Of dbid 5 of content 0, which has followed nobody yet.
    pub fn of_a_test() -> Self {
        Self {
            cluster: "demo".into(),
            system_identifier: SystemIdentifier(7),
            dbid: Dbid(5),
            content: Content(0),
            address: "seg-5.gp".into(),
            port: 6000,
            data_directory: "/data/gpseg".into(),
            coordinator_timeline: Timeline(1),
            peer: None,
            followed: vec![],
            followed_in: None,
            followed_control: None,
            waived: None,
            replaced: None,
            coordinator: None,
            coordinator_word: None,
            adopted: Timestamp::UNIX_EPOCH,
        }
    }
}

impl Replaced {
    /// What tells this time from another.
    pub fn evidence(&self) -> String {
        self.at.to_string()
    }
}

impl Token {
    /// The same after a repair: nothing of what the old directory followed or was counts for the new one, which is a part of the history
    /// of these incarnations of its source.
    #[must_use]
    pub fn after_repair(self, source: &[Incarnation], directory: Directory) -> Self {
        let token = Self { replaced: None, ..self };
        if source.is_empty() { token.following_nobody() } else { token.following(source.to_vec(), directory) }
    }

    /// The same of this data directory.
    #[must_use]
    pub fn of_directory(self, directory: Directory) -> Self {
        let exchanged = |(then, now)| then != now;
        if self.followed_in == directory.version && !self.followed_control.zip(directory.control).is_some_and(exchanged) {
            self
        } else {
            self.following_nobody()
        }
    }

    /// Its instance, in this data directory, followed these incarnations.
    #[must_use]
    pub fn following(self, followed: Vec<Incarnation>, directory: Directory) -> Self {
        Self { followed, followed_in: directory.version, followed_control: directory.control, ..self }
    }

    #[must_use]
    pub fn following_nobody(self) -> Self {
        self.following(vec![], Directory::default())
    }
}

/// What tells one data directory from another at the same place: inode and birth of the first file of each, and of the one that is
/// never the same in two. Whoever puts other files in place writes that one anew where he leaves the first as it is; postgres, and
/// a rewind, write into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    version: Option<u64>,
    control: Option<u64>,
}

impl Directory {
    pub fn of(data: &Path) -> Self {
        Self { version: file(&data.join("PG_VERSION")), control: file(&data.join("global/pg_control")) }
    }
}

/// A new file gets the inode of one that was removed.
fn file(path: &Path) -> Option<u64> {
    let metadata = std::fs::metadata(path).ok()?;
    let born = metadata.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let born = born.map_or(0, |since| since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos())));
    Some(std::os::unix::fs::MetadataExt::ino(&metadata).rotate_left(40) ^ born)
}

/// The other side of the pair, as last read from the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    pub dbid: Dbid,
    pub address: String,
    pub port: u16,
    /// The pair was in sync.
    pub in_sync: bool,
}

/// Whose volume it is, as far as this place can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    Mine(Box<Token>),
    /// No token: a fresh volume, or not the one that should be mounted.
    Absent,
    /// Another instance's, or unreadable; the text says which.
    Foreign(String),
}

impl Volume {
    /// Reads the token and holds it against this place.
    pub fn token(&self, cluster: &str, address: &str, port: u16) -> TokenState {
        match self.read::<Token>(TOKEN) {
            Ok(None) => TokenState::Absent,
            Ok(Some(token)) => match self.mismatch(&token, cluster, address, port) {
                None => TokenState::Mine(Box::new(token)),
                Some(why) => TokenState::Foreign(why),
            },
            Err(error) => TokenState::Foreign(error.to_string()),
        }
    }

    fn mismatch(&self, token: &Token, cluster: &str, address: &str, port: u16) -> Option<String> {
        let here = (cluster, address, port, self.data().to_string_lossy());
        let there = (token.cluster.as_str(), token.address.as_str(), token.port, token.data_directory.as_str().into());
        (here != there).then(|| format!("the volume belongs to cluster {} {}:{} {}", there.0, there.1, there.2, there.3))
    }

    /// Writes the token.
    ///
    /// # Errors
    /// [`MarkError::Io`]
    pub fn write_token(&self, token: &Token) -> Result<(), MarkError> {
        self.write(TOKEN, token)
    }

    /// Gives the token to this place, whatever place it names, when it is of this database. All else that it remembers stays.
    ///
    /// # Errors
    /// [`MarkError`]; one that is missing, unreadable or of another database is given to nobody.
    pub fn give_token_to(&self, database: SystemIdentifier, cluster: &str, address: &str, port: u16) -> Result<(), MarkError> {
        let other = |why: String| MarkError::Content { path: self.mark(TOKEN), why };
        let token = self.read::<Token>(TOKEN)?.ok_or_else(|| other("there is none".into()))?;
        if token.system_identifier != database {
            return Err(other(format!("it is of database {}", token.system_identifier)));
        }
        let data_directory = self.data().to_string_lossy().into_owned();
        self.write_token(&Token { cluster: cluster.into(), address: address.into(), port, data_directory, ..token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Lsn;

    fn token(volume: &Volume) -> Token {
        Token {
            data_directory: volume.data().to_string_lossy().into_owned(),
            coordinator_timeline: Timeline(3),
            replaced: Some(Replaced { coordinator_timeline: Timeline(2), at: Timestamp::UNIX_EPOCH }),
            ..Token::of_a_test()
        }
    }

    #[test]
    fn a_token_is_given_to_a_new_place_of_its_own_database_and_forgets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        assert!(volume.give_token_to(SystemIdentifier(7), "demo", "a", 1).is_err(), "there is none");
        volume.write_token(&token(&volume)).unwrap();
        assert!(matches!(volume.token("demo", "seg-5.new", 7000), TokenState::Foreign(_)));
        assert!(volume.give_token_to(SystemIdentifier(8), "demo", "seg-5.new", 7000).is_err(), "another database");
        assert!(matches!(volume.token("demo", "seg-5.gp", 6000), TokenState::Mine(_)), "nothing was written");
        volume.give_token_to(SystemIdentifier(7), "demo", "seg-5.new", 7000).unwrap();
        let moved = Token { address: "seg-5.new".into(), port: 7000, ..token(&volume) };
        assert_eq!(volume.token("demo", "seg-5.new", 7000), TokenState::Mine(Box::new(moved)));
        std::fs::write(volume.mark(TOKEN), "{").unwrap();
        assert!(volume.give_token_to(SystemIdentifier(7), "demo", "a", 1).is_err(), "nobody knows whose it was");
    }

    fn following() -> Token {
        let followed = vec![Incarnation { number: 1, nonce: "a".into(), timeline: Timeline(1), began: Lsn(1) }];
        let text = r#"{"cluster":"demo","systemIdentifier":"7","dbid":5,"content":0,"address":"a","port":1,"dataDirectory":"/d",
            "coordinatorTimeline":1,"adopted":"2026-01-01T00:00:00Z"}"#;
        Token { followed, followed_in: Some(9), followed_control: Some(5), ..serde_json::from_str(text).unwrap() }
    }

    #[test]
    fn what_was_followed_counts_for_the_directory_that_did() {
        let of = |version, control| following().of_directory(Directory { version, control });
        assert_eq!(of(Some(9), Some(5)), following());
        assert!(of(Some(10), Some(5)).followed.is_empty() && of(None, Some(5)).followed.is_empty());
        assert!(of(Some(9), Some(6)).followed.is_empty(), "other files were put in its place, and the first is the same");
        assert_eq!(of(Some(9), None), following(), "that it cannot be looked at says nothing");
        let of_before = Token { followed_control: None, ..following() };
        assert_eq!(of_before.clone().of_directory(Directory { version: Some(9), control: Some(5) }), of_before);
        assert!(following().after_repair(&[], Directory::default()).followed.is_empty());
        assert_eq!(following().after_repair(&following().followed, Directory::default()).followed, following().followed);
    }

    #[test]
    fn a_directory_is_another_one_when_its_control_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("global/pg_control");
        std::fs::create_dir(dir.path().join("global")).unwrap();
        std::fs::write(dir.path().join("PG_VERSION"), "12").unwrap();
        std::fs::write(&control, "1").unwrap();
        let before = Directory::of(dir.path());
        std::fs::write(&control, "2").unwrap();
        assert_eq!(Directory::of(dir.path()), before, "postgres writes into it");
        std::fs::write(dir.path().join("global/new"), "1").unwrap();
        std::fs::rename(dir.path().join("global/new"), &control).unwrap();
        assert_ne!(Directory::of(dir.path()), before);
    }

    #[test]
    fn a_token_of_before_is_read_and_one_of_today_can_be_read_by_then() {
        let written = serde_json::to_value(following()).unwrap();
        let known =
            ["cluster", "systemIdentifier", "dbid", "content", "address", "port", "dataDirectory", "coordinatorTimeline", "adopted"];
        assert!(known.iter().all(|field| written.get(field).is_some()), "{written}");
    }
}
