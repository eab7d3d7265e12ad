//! The swap of a full copy: what stands there is put aside, the copy takes its place, by renames alone.
//!
//! It is a list of acts, made from what is there; a crash may come between any two of them. The `copy` mark stands
//! over all that change a place, and the next attempt makes its list from what the crash has left.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

use super::fault::{Fault, FileError};
use crate::volume::{Copy, Old, Original, Remembered, Volume, marks::sync_folder_of};
use greenplum::Dialect;

/// A tablespace's folder of this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Where it belongs.
    pub place: PathBuf,
    /// Its copy; `None`: the source has it no more.
    pub copy: Option<CopiedSpace>,
}

/// The copy of a tablespace's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedSpace {
    pub folder: PathBuf,
    /// The link to it in the copied data directory.
    pub link: PathBuf,
}

/// One step of the swap.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    /// A link of the copy is set to the place that its tablespace will have.
    Aim {
        link: PathBuf,
        place: PathBuf,
    },
    /// From here on a place may not be what it was.
    Begin(Copy),
    Remove(PathBuf),
    RemoveEmpty(PathBuf),
    /// What is about to be put aside is written down.
    Keep(Old),
    Move {
        from: PathBuf,
        to: PathBuf,
    },
    /// Renames in the folder of this path last.
    Sync(PathBuf),
}

/// What stands in a place.
enum There {
    Nothing,
    Empty,
    /// A copy that never was more than a mirror: all that it holds its source holds too, and its original is kept aside.
    Unproven,
    /// It goes to the path.
    Original(PathBuf),
}

/// Puts the copy `fresh` with its tablespaces into place; gives back what became of what was there. `remembered`: of the data directory.
/// `settle`: what is written down once everything is in its place, before the copy mark goes.
pub fn swap(
    volume: &Volume,
    copy: &Copy,
    (fresh, spaces): (&Path, &[Space]),
    remembered: &Remembered,
    settle: impl FnOnce() -> Result<(), Fault>,
) -> Result<&'static str, Fault> {
    let seen = Seen::of(volume)?;
    let note = match seen.at(volume.data())? {
        There::Nothing => "there was no old directory",
        There::Empty => "the old directory was empty",
        There::Unproven => "what was there held nothing that was ever proven",
        There::Original(_) => "the old directory is kept until the new one is in sync",
    };
    for act in acts(volume, copy, (fresh, spaces), remembered)? {
        act.run(volume)?;
    }
    settle()?;
    Ok(volume.remove("copy").map(|()| note)?)
}

fn acts(volume: &Volume, copy: &Copy, (fresh, spaces): (&Path, &[Space]), remembered: &Remembered) -> Result<Vec<Act>, Fault> {
    let copied = || spaces.iter().filter_map(|space| Some((space, space.copy.as_ref()?)));
    let mut acts: Vec<Act> = copied().map(|(space, copy)| Act::Aim { link: copy.link.clone(), place: space.place.clone() }).collect();
    acts.push(Act::Begin(copy.clone()));
    acts.extend(put_aside(volume, &copy.attempt, spaces, remembered)?);
    acts.extend(copied().map(|(space, copy)| Act::Move { from: copy.folder.clone(), to: space.place.clone() }));
    acts.push(Act::Move { from: fresh.to_owned(), to: volume.data().to_owned() });
    let changed: BTreeSet<&Path> = spaces.iter().map(|space| space.place.as_path()).chain([volume.data()]).collect();
    acts.extend(changed.into_iter().map(|place| Act::Sync(place.to_owned())));
    Ok(acts)
}

/// What makes every place free. Nothing is put aside before it is written down, and nothing is written down while a
/// leftover has the name that it will have: whatever is named and exists is an original.
fn put_aside(volume: &Volume, attempt: &str, spaces: &[Space], remembered: &Remembered) -> Result<Vec<Act>, Fault> {
    let seen = Seen::of(volume)?;
    let (mut leftovers, mut acts, mut aside_now) = (vec![], vec![], vec![]);
    for place in std::iter::once(volume.data()).chain(spaces.iter().map(|space| space.place.as_path())) {
        leftovers.push(Act::Remove(Volume::discarded(place)));
        match seen.at(place)? {
            There::Nothing => {}
            There::Empty => acts.push(Act::RemoveEmpty(place.to_owned())),
            // In one act: the half of a copy that is being removed is no copy any more, and has no marker that says so.
            There::Unproven => {
                let to = Volume::discarded(place);
                acts.extend([Act::Move { from: place.to_owned(), to: to.clone() }, Act::Remove(to)]);
            }
            There::Original(aside) => {
                leftovers.push(Act::Remove(aside.clone()));
                acts.push(Act::Move { from: place.to_owned(), to: aside.clone() });
                aside_now.push((place, aside));
            }
        }
    }
    if !aside_now.is_empty() {
        leftovers.push(Act::Keep(kept_then(volume, attempt, aside_now, (seen.kept, remembered))?));
    }
    Ok(leftovers.into_iter().chain(acts).collect())
}

/// What is kept once each place has been put aside too; of a place that was named before, and not moved yet, what is known now counts.
fn kept_then(
    volume: &Volume,
    attempt: &str,
    aside_now: Vec<(&Path, PathBuf)>,
    (kept, remembered): (Option<Old>, &Remembered),
) -> Result<Old, Fault> {
    let directory = volume.beside_old();
    let mut originals = volume.originals()?;
    for (_, aside) in aside_now.iter().filter(|(place, _)| *place == volume.data()) {
        originals.retain(|original| original.directory != *aside);
        originals.push(Original { directory: aside.clone(), remembered: remembered.clone() });
    }
    let mut tablespaces: BTreeSet<PathBuf> = aside_now.into_iter().map(|(_, aside)| aside).filter(|aside| *aside != directory).collect();
    for folder in kept.into_iter().flat_map(|old| old.tablespaces) {
        if is_there(&folder)? {
            tablespaces.insert(folder);
        }
    }
    Ok(Old { attempt: attempt.to_owned(), directory, tablespaces: tablespaces.into_iter().collect(), originals })
}

/// What is known of a volume before its places are judged.
struct Seen {
    kept: Option<Old>,
    /// Whether what stands there now may have been a primary since it was copied. Then it may hold commits of its own,
    /// however long the mark of what it replaced has stood: a supervisor that sees no catalog proves nothing.
    may_have_acted: bool,
}

impl Seen {
    fn of(volume: &Volume) -> Result<Self, Fault> {
        Ok(Self { kept: volume.kept()?, may_have_acted: may_have_acted(volume)? })
    }

    fn names(&self, aside: &PathBuf) -> bool {
        self.kept.as_ref().is_some_and(|old| old.directory == *aside || old.tablespaces.contains(aside))
    }

    fn at(&self, place: &Path) -> Result<There, Fault> {
        match fs::read_dir(place).and_then(|mut entries| entries.next().transpose()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(There::Nothing),
            Err(error) => Err(FileError::at(place)(error).into()),
            Ok(None) => Ok(There::Empty),
            Ok(Some(_)) => self.filled(place),
        }
    }

    /// An original that is named and not there was not moved yet: it is the one in the place.
    fn filled(&self, place: &Path) -> Result<There, Fault> {
        let mut aside = Volume::aside(place);
        let mut number = 1;
        while self.names(&aside) && is_there(&aside)? {
            if !self.may_have_acted && !self.names(&Volume::aside_again(place, number + 1)) {
                return Ok(There::Unproven);
            }
            number += 1;
            aside = Volume::aside_again(place, number);
        }
        Ok(There::Original(aside))
    }
}

/// What was copied has a mirror's marker until it is promoted. Of a directory that is gone only a copy that was cut off
/// says that nobody used it.
fn may_have_acted(volume: &Volume) -> Result<bool, Fault> {
    for dialect in [Dialect::Six, Dialect::Seven] {
        if is_there(&volume.data().join(dialect.mirror_marker()))? {
            return Ok(false);
        }
    }
    Ok(is_there(volume.data())? || volume.marks().copy.is_none())
}

fn is_there(path: &Path) -> Result<bool, Fault> {
    Ok(path.try_exists().map_err(FileError::at(path))?)
}

impl Act {
    fn run(&self, volume: &Volume) -> Result<(), Fault> {
        let file = |path: &Path, done: io::Result<()>| Ok(done.map_err(FileError::at(path))?);
        match self {
            Self::Aim { link, place } => file(link, fs::remove_file(link).and_then(|()| symlink(place, link))),
            Self::Begin(copy) => Ok(volume.write("copy", copy)?),
            Self::Remove(path) => file(path, remove_folder(path)),
            Self::RemoveEmpty(path) => file(path, fs::remove_dir(path)),
            Self::Keep(old) => Ok(volume.keep(old)?),
            Self::Move { from, to } => file(from, move_folder(from, to)),
            Self::Sync(path) => file(path, sync_folder_of(path)),
        }
    }
}

/// A volume that was emptied has lost the location of its tablespaces, too.
fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    fs::rename(from, to)
}

/// Removes a folder; that it is not there is as good.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
