//! Which history this instance has: as a primary it leaves its incarnations on the volume, as a mirror it remembers those of its
//! primary that it followed. Both are what a copy is judged by later, when positions say nothing any more.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    Supervisor,
    facts::{PeerHere, PrimaryHere},
    idle::Here,
    peer::Other,
};
use crate::volume::{Token, TokenState, token::Directory};
use greenplum::{
    Dialect,
    control::ControlData,
    wal::{self, Switch},
};
use model::{
    Begins, Content, Incarnation, InstanceState, Lineage, Look, Lsn, Page, Reach, Role, Timeline, incarnation::lineage, page::Shape,
};

/// So long a primary waits for its mirror to tell how far its log reaches.
const UNSETTLED: Duration = Duration::from_secs(10);
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
    let bytes = std::fs::read(folder.join(format!("{:08X}.history", timeline.0))).ok()?;
    wal::history(&bytes)?.last().map(|Switch { switch, .. }| *switch)
}

/// How far the log of a directory reaches that nobody writes now.
pub fn reaches(control: Option<&ControlData>, dialect: Option<Dialect>, data: &Path) -> Look<Reach> {
    let Some(dialect) = dialect else { return Look::Unknown("there is no log".into()) };
    match wal::end(&data.join(dialect.wal_folder())) {
        Ok(log) => wal::reach(control, log).map_or_else(|| Look::Unknown("there is no log".into()), Look::Seen),
        Err(error) => Look::Unknown(format!("the log cannot be read: {error}")),
    }
}

/// How far it reaches, unless nobody has written to it since `known`, and when somebody last did. Whether it is written now is only
/// looked at now and then: what was received between two looks shows in the times of its files.
pub fn reaches_since(known: Option<SystemTime>, dialect: Dialect, data: &Path) -> Option<(Look<Reach>, Option<SystemTime>)> {
    let written = last_written(&data.join(dialect.wal_folder()));
    (written.is_none() || written != known).then(|| (reaches(None, Some(dialect), data), written))
}

/// It is the log that was seen to be written then: nobody has put an older one in its place, beneath a running postgres perhaps.
pub fn goes_on(seen: SystemTime, dialect: Option<Dialect>, data: &Path) -> bool {
    dialect.and_then(|dialect| last_written(&data.join(dialect.wal_folder()))).is_some_and(|written| written >= seen)
}

/// When somebody last wrote to a log.
pub fn last_written(folder: &Path) -> Option<SystemTime> {
    let files = std::fs::read_dir(folder).ok()?;
    files.map(|file| file?.metadata()?.modified()).collect::<Result<Vec<_>, _>>().ok()?.into_iter().max()
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
        self.forget_followed(here);
        let folder = self.volume.data().join(dialect.wal_folder());
        let timeline = newest_timeline(here, self.volume.data()).unwrap_or(Timeline(1));
        self.note_promotion(&folder, timeline);
        let began = match reaches(here.shaped.control.as_ref(), here.shaped.dialect, self.volume.data()) {
            Look::Seen(Reach { end, .. }) => end,
            Look::Unknown(why) => {
                tracing::warn!(why, "where this incarnation begins is not known");
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

    /// How far a mirror's log reaches; whoever would open as its primary is held against it.
    pub(super) fn show_reach(&self, shape: Shape, reaches: &Look<Reach>) {
        let reaches = reaches.seen().copied().filter(|_| shape == Shape::Mirror);
        self.board.show(|page| page.reaches = reaches);
    }

    /// How long the other side has not told what it holds counts from the first time that it did not. One that crashed `in_place`
    /// does not wait: what is shown already is held against it all the same.
    pub(super) fn may_wait(&mut self, peer: &Look<PeerHere>, in_place: bool) -> bool {
        if in_place {
            return false;
        }
        if peer.seen().is_none_or(|peer| peer.unsettled.is_none()) {
            self.memory.unsettled_since = None;
            return true;
        }
        self.memory.unsettled_since.get_or_insert_with(Instant::now).elapsed() < UNSETTLED
    }

    /// What would open as a primary, or be promoted as soon as it runs.
    pub(super) fn begins(&self, here: &Here, reaches: &Look<Reach>) -> Option<Begins> {
        let may = match here.shaped.shape {
            Shape::Primary => true,
            Shape::Mirror => here.content != Some(Content::COORDINATOR),
            Shape::Unknown | Shape::Empty | Shape::Unusable => false,
        };
        let at = reaches.seen().copied().filter(|_| may)?;
        let waived = match self.token_now() {
            TokenState::Mine(token) => token.waived,
            TokenState::Absent | TokenState::Foreign(_) => None,
        };
        Some(Begins { incarnations: self.board.page().incarnations, at, waived })
    }

    /// A coordinator that was promoted is nobody's standby any more. A person makes it one again, perhaps in place.
    pub(super) fn forget_followed(&self, here: &Here) {
        let TokenState::Mine(token) = self.token_now() else { return };
        if here.content != Some(Content::COORDINATOR) || token.followed.is_empty() {
            return;
        }
        if let Err(error) = self.volume.write_token(&token.following_nobody()) {
            tracing::warn!(%error, "that it follows nobody any more could not be written down");
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
                tracing::warn!(%error, "this incarnation cannot be written down");
                let unwritten = |last: Option<&Incarnation>| Incarnation {
                    number: last.map_or(1, |last| last.number + 1),
                    nonce: format!("unwritten-{}", jiff::Timestamp::now()),
                    timeline,
                    began: UNKNOWN,
                };
                self.board.show(|page| page.incarnations.push(unwritten(page.incarnations.last())));
            }
        }
    }

    /// The token as it is now, of the directory as it is now.
    pub(super) fn token_now(&self) -> TokenState {
        match self.volume.token(&self.config.cluster, &self.config.address, self.config.port) {
            TokenState::Mine(token) => TokenState::Mine(Box::new(token.of_directory(Directory::of(self.volume.data())))),
            other @ (TokenState::Absent | TokenState::Foreign(_)) => other,
        }
    }

    pub(super) fn show_incarnations(&self) {
        if let Ok(all) = self.volume.incarnations() {
            self.board.show(|page| page.incarnations = all);
        }
    }

    /// Remembers the incarnations of the acting primary that this mirror follows, as its page has them: those that its log,
    /// which reached `reaches` before it received from the newest of them, is a part of. It is known *before* the mirror
    /// receives, wherever that is possible: one that died between the two would be taken for a copy of another history.
    pub(super) fn follow(&mut self, here: &mut Here, page: &Page, reaches: Option<Reach>, receives: bool) -> Look<PrimaryHere> {
        here.token = self.token_now();
        let TokenState::Mine(token) = here.token.clone() else { return Look::Unknown("the volume has no token".into()) };
        match lineage(&token.followed, &page.incarnations, reaches) {
            // What it followed has to be known there still: a primary that was put back would erase the evidence.
            Lineage::Differs(why) if !opens(page) => return Look::Unknown(why),
            Lineage::Differs(why) => return Look::Seen(PrimaryHere::Lacks(other_history(page, &why))),
            Lineage::Unknown(why) if !receives => return Look::Unknown(why),
            Lineage::Same | Lineage::Unknown(_) => {}
        }
        if page.serves == Some(Role::Primary) && !page.incarnations.is_empty() && token.followed != page.incarnations {
            self.remember_followed(here, *token, page);
        }
        Look::Seen(PrimaryHere::HasAll)
    }

    fn remember_followed(&self, here: &mut Here, token: Token, page: &Page) {
        let token = token.following(page.incarnations.clone(), Directory::of(self.volume.data()));
        match self.volume.write_token(&token) {
            Ok(()) => {
                self.board.show(|page| page.followed.clone_from(&token.followed));
                here.token = TokenState::Mine(Box::new(token));
            }
            Err(error) => tracing::warn!(%error, "which incarnations of its primary this mirror followed could not be written down"),
        }
    }
}

/// It is open as a primary, or about to be. One that stays closed has nobody follow it, and its mirror may be all that is left.
pub fn opens(page: &Page) -> bool {
    let runs = matches!(page.state, InstanceState::Starting | InstanceState::Serving | InstanceState::NotAnswering);
    page.serves == Some(Role::Primary) || (runs && page.shape == Shape::Primary)
}

/// What people read of a primary that lacks what its mirror has.
pub fn other_history(page: &Page, why: &str) -> String {
    let dbid = page.dbid.map_or_else(|| "?".into(), |dbid| dbid.to_string());
    format!("the acting primary, dbid {dbid}, has another history than this mirror: {why}; was it restored from an older copy?")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver that came and went between two looks was seen by none of them.
    #[test]
    fn a_log_is_looked_at_again_once_somebody_has_written_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(Dialect::Seven.wal_folder());
        std::fs::create_dir(&folder).unwrap();
        let log = std::fs::File::create(folder.join("000000010000000000000001")).unwrap();
        let look = |known| reaches_since(known, Dialect::Seven, dir.path());
        let (_, first) = look(None).unwrap();
        assert!(first.is_some() && look(first).is_none(), "nobody has written since");
        log.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
        assert!(look(first).is_some_and(|(_, written)| written > first));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(look(first).is_some(), "what cannot be looked at is not known");
    }

    /// A roll-back of the volume beneath a running postgres makes it crash, and leaves its files the same ones.
    #[test]
    fn a_log_that_is_older_than_it_was_seen_to_be_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(Dialect::Six.wal_folder());
        std::fs::create_dir(&folder).unwrap();
        let log = std::fs::File::create(folder.join("000000010000000000000001")).unwrap();
        let seen = last_written(&folder).unwrap();
        let goes_on = || goes_on(seen, Some(Dialect::Six), dir.path());
        assert!(goes_on());
        log.set_modified(seen + Duration::from_secs(9)).unwrap();
        assert!(goes_on(), "it wrote until it crashed");
        log.set_modified(seen - Duration::from_secs(1)).unwrap();
        assert!(!goes_on());
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!goes_on(), "what cannot be looked at is not known");
    }

    #[test]
    fn a_promotion_is_known_by_its_history_file_and_begins_at_its_fork() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((newest_history(dir.path()), fork(dir.path(), Timeline(3))), (None, None));
        std::fs::write(dir.path().join("00000002.history"), "1\t0/500\tno recovery target specified\n").unwrap();
        std::fs::write(dir.path().join("00000003.history"), b"1\t0/500\twhy\n\n2\t0/900\tat restore point \"\xd6\xd0\"\n").unwrap();
        std::fs::write(dir.path().join("00000009.history.ready"), "").unwrap();
        assert_eq!((newest_history(dir.path()), fork(dir.path(), Timeline(3))), (Some(Timeline(3)), Some(Lsn(0x900))));
    }
}
