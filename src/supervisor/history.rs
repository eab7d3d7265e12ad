//! Which history this instance has: as a primary it leaves its incarnations on the volume, as a mirror it remembers those of its
//! primary that it followed. Both are what a copy is judged by later, when positions say nothing any more.

use std::path::Path;

use super::{Supervisor, idle::Here, peer::Other};
use crate::{
    greenplum::{
        Dialect,
        control::ControlData,
        wal::{self, Switch},
    },
    model::{Incarnation, Lineage, Lsn, Page, Role, Timeline, incarnation::lineage, page::Shape},
    volume::{Token, TokenState},
};

/// What is written where it is not known where an incarnation began: whoever did not follow it is judged by bytes.
const UNKNOWN: Lsn = Lsn(0);

/// The newest timeline that a directory knows: a control file names that of a promotion only after the next checkpoint.
pub fn newest_timeline(here: &Here, data: &Path) -> Option<Timeline> {
    let control = here.shaped.control.as_ref().map(ControlData::newest_timeline);
    let log = here.shaped.dialect.and_then(|dialect| newest_history(&data.join(dialect.wal_folder())));
    match here.shaped.shape {
        Shape::Primary => control.max(log),
        // A mirror may have fetched the history of a timeline that it does not follow yet.
        Shape::Mirror | Shape::Unknown | Shape::Empty | Shape::Unusable => control,
    }
}

/// `0000000N.history` is there from the promotion to timeline N on.
fn newest_history(folder: &Path) -> Option<Timeline> {
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let timelines = names.filter_map(|name| u32::from_str_radix(name.strip_suffix(".history").filter(|name| name.len() == 8)?, 16).ok());
    timelines.max().map(Timeline)
}

/// Where the log of `timeline` left the one before it.
fn fork(folder: &Path, timeline: Timeline) -> Option<Lsn> {
    let text = std::fs::read_to_string(folder.join(format!("{:08X}.history", timeline.0))).ok()?;
    wal::history(&text).last().map(|Switch { switch, .. }| *switch)
}

/// What tells one data directory from another at the same place.
pub fn inode(data: &Path) -> Option<u64> {
    std::fs::metadata(data).ok().map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata))
}

impl Here {
    /// The other side of the pair, as the token has it.
    pub fn other_side(&self) -> Option<Other> {
        let TokenState::Mine(token) = &self.token else { return None };
        let system_identifier = self.shaped.control.as_ref().map(|control| control.system_identifier);
        Some(Other {
            peer: token.peer.clone()?,
            content: token.content,
            system_identifier: system_identifier.or(Some(token.system_identifier)),
        })
    }
}

impl Supervisor {
    /// Before a directory is opened as a primary: from here on it writes what nobody else has. A volume that does not take it
    /// is no reason to keep a primary down; what is then only in memory no later start knows of, so copies are judged by bytes.
    pub(super) fn begin_incarnation(&mut self, here: &Here) {
        if here.shaped.shape != Shape::Primary {
            return;
        }
        let Some(dialect) = here.shaped.dialect else { return };
        let folder = self.volume.data().join(dialect.wal_folder());
        let timeline = newest_timeline(here, self.volume.data()).unwrap_or(Timeline(1));
        self.note_promotion(&folder, timeline);
        let began = match wal::end(&folder) {
            Ok(log) => wal::reach(here.shaped.control.as_ref(), log).map_or(UNKNOWN, |(_, end)| end),
            Err(error) => {
                tracing::warn!(%error, "the end of the log can not be read, so where this incarnation begins is not known");
                UNKNOWN
            }
        };
        self.write_incarnation(timeline, began);
    }

    /// A promotion that nobody has written down yet: the supervisor ended between that and the next look.
    fn note_promotion(&mut self, folder: &Path, timeline: Timeline) {
        let known = self.volume.incarnations().ok().and_then(|all| all.last().map(|last| last.timeline));
        if timeline > Timeline(1) && known.is_none_or(|known| known < timeline) {
            self.write_incarnation(timeline, fork(folder, timeline).unwrap_or(UNKNOWN));
        }
    }

    /// The newest timeline that the log of a running postgres knows.
    pub(super) fn newest_history(&self, dialect: Dialect) -> Option<Timeline> {
        newest_history(&self.volume.data().join(dialect.wal_folder()))
    }

    /// A mirror was promoted while we watched, and serves on this timeline.
    pub(super) fn promoted(&mut self, dialect: Dialect, timeline: Timeline) {
        let folder = self.volume.data().join(dialect.wal_folder());
        self.note_promotion(&folder, timeline);
    }

    /// Crash recovery may have ended before the end that the pages showed: then its checkpoint stands there.
    pub(super) fn correct_incarnation(&mut self) {
        let Ok(control) = ControlData::read(self.volume.data()) else { return };
        if let Err(error) = self.volume.incarnation_began_by(control.checkpoint) {
            tracing::warn!(%error, "where this incarnation began could not be corrected");
        }
        self.show_incarnations();
    }

    fn write_incarnation(&mut self, timeline: Timeline, began: Lsn) {
        match self.volume.begin_incarnation(timeline, began) {
            Ok(all) => self.board.show(|page| page.incarnations = all),
            Err(error) => {
                tracing::warn!(%error, "this incarnation can not be written down");
                let unwritten = |last: Option<&Incarnation>| Incarnation {
                    number: last.map_or(1, |last| last.number + 1),
                    nonce: format!("unwritten, {}", jiff::Timestamp::now()),
                    timeline,
                    began: UNKNOWN,
                };
                self.board.show(|page| page.incarnations.push(unwritten(page.incarnations.last())));
            }
        }
    }

    pub(super) fn show_incarnations(&self) {
        if let Ok(all) = self.volume.incarnations() {
            self.board.show(|page| page.incarnations = all);
        }
    }

    /// A mirror that receives from a primary has followed each of its incarnations.
    pub(super) fn follow(&mut self, here: &mut Here, page: &Page) {
        here.token = self.volume.token(&self.config.cluster, &self.config.address, self.config.port);
        let TokenState::Mine(token) = &here.token else { return };
        // What it followed has to be known there still: a primary that was put back would erase the evidence.
        if let Lineage::Differs(why) = lineage(&token.followed, &page.incarnations, None) {
            tracing::warn!(why, "the acting primary has another history than this mirror followed");
            return;
        }
        if page.serves != Some(Role::Primary) || page.incarnations.is_empty() || token.followed == page.incarnations {
            return;
        }
        let followed_in = inode(self.volume.data());
        let token = Token { followed: page.incarnations.clone(), followed_in, ..(**token).clone() };
        match self.volume.write_token(&token) {
            Ok(()) => {
                self.board.show(|page| page.followed.clone_from(&token.followed));
                here.token = TokenState::Mine(Box::new(token));
            }
            Err(error) => tracing::warn!(%error, "which incarnations of its primary this mirror followed could not be written down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_is_known_by_its_history_file_and_begins_at_its_fork() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((newest_history(dir.path()), fork(dir.path(), Timeline(3))), (None, None));
        std::fs::write(dir.path().join("00000002.history"), "1\t0/500\tno recovery target specified\n").unwrap();
        std::fs::write(dir.path().join("00000003.history"), "1\t0/500\twhy\n\n2\t0/900\twhy\n").unwrap();
        std::fs::write(dir.path().join("00000009.history.ready"), "").unwrap();
        assert_eq!((newest_history(dir.path()), fork(dir.path(), Timeline(3))), (Some(Timeline(3)), Some(Lsn(0x900))));
    }
}
