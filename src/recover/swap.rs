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
use crate::volume::{Copy, Old, Volume, marks::sync_folder_of};

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
    /// Everything is in its place.
    End,
}

/// What stands in a place.
enum There {
    Nothing,
    Empty,
    /// A copy that was never proven: its original is kept aside.
    Unproven,
    Original,
}

/// Puts the copy `fresh` with its tablespaces into place; gives back what became of what was there.
pub fn swap(volume: &Volume, copy: &Copy, fresh: &Path, spaces: &[Space]) -> Result<&'static str, Fault> {
    let note = match there(volume.data(), volume.kept()?.as_ref())? {
        There::Nothing => "there was no old directory",
        There::Empty => "the old directory was empty",
        There::Unproven => "what was there held nothing that was ever proven",
        There::Original => "the old directory is kept until the new one is in sync",
    };
    for act in acts(volume, copy, fresh, spaces)? {
        act.run(volume)?;
    }
    Ok(note)
}

fn acts(volume: &Volume, copy: &Copy, fresh: &Path, spaces: &[Space]) -> Result<Vec<Act>, Fault> {
    let copied = || spaces.iter().filter_map(|space| Some((space, space.copy.as_ref()?)));
    let mut acts: Vec<Act> = copied().map(|(space, copy)| Act::Aim { link: copy.link.clone(), place: space.place.clone() }).collect();
    acts.push(Act::Begin(copy.clone()));
    acts.extend(put_aside(volume, &copy.attempt, spaces)?);
    acts.extend(copied().map(|(space, copy)| Act::Move { from: copy.folder.clone(), to: space.place.clone() }));
    acts.push(Act::Move { from: fresh.to_owned(), to: volume.data().to_owned() });
    let changed: BTreeSet<&Path> = spaces.iter().map(|space| space.place.as_path()).chain([volume.data()]).collect();
    acts.extend(changed.into_iter().map(|place| Act::Sync(place.to_owned())));
    acts.push(Act::End);
    Ok(acts)
}

/// What makes every place free. Nothing is put aside before it is written down, and nothing is written down while a
/// leftover has the name that it will have: whatever is named and exists is an original.
fn put_aside(volume: &Volume, attempt: &str, spaces: &[Space]) -> Result<Vec<Act>, Fault> {
    let kept = volume.kept()?;
    let (mut leftovers, mut acts, mut originals) = (vec![], vec![], vec![]);
    for place in std::iter::once(volume.data()).chain(spaces.iter().map(|space| space.place.as_path())) {
        let aside = Volume::aside(place);
        match there(place, kept.as_ref())? {
            There::Nothing => {}
            There::Empty => acts.push(Act::RemoveEmpty(place.to_owned())),
            There::Unproven => acts.push(Act::Remove(place.to_owned())),
            There::Original => {
                leftovers.push(Act::Remove(aside.clone()));
                acts.push(Act::Move { from: place.to_owned(), to: aside.clone() });
                originals.push(aside);
            }
        }
    }
    if !originals.is_empty() {
        let directory = volume.beside_old();
        let earlier = kept.into_iter().flat_map(|old| old.tablespaces).filter(|folder| folder.exists());
        let tablespaces: BTreeSet<PathBuf> = earlier.chain(originals.into_iter().filter(|aside| *aside != directory)).collect();
        leftovers.push(Act::Keep(Old { attempt: attempt.to_owned(), directory, tablespaces: tablespaces.into_iter().collect() }));
    }
    Ok(leftovers.into_iter().chain(acts).collect())
}

fn there(place: &Path, kept: Option<&Old>) -> Result<There, Fault> {
    let aside = Volume::aside(place);
    let named = kept.is_some_and(|old| old.directory == aside || old.tablespaces.contains(&aside));
    let found = fs::read_dir(place).and_then(|mut entries| entries.next().transpose());
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(There::Nothing),
        Err(error) => Err(FileError::at(place)(error).into()),
        Ok(None) => Ok(There::Empty),
        Ok(Some(_)) if named && aside.exists() => Ok(There::Unproven),
        Ok(Some(_)) => Ok(There::Original),
    }
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
            Self::End => Ok(volume.remove("copy")?),
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
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
