//! What a full copy has replaced: kept under its mark until the copy is proven, then taken away.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{
    Old, Original, Remembered, Volume,
    marks::{MarkError, sync_folder_of},
};

/// Mark of what is kept until the copy in its place is proven.
const KEPT: &str = "old";
/// The same mark once nobody needs it any more.
const GONE: &str = "gone";

/// What stands in the way of taking away what was replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplacedError {
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error("{path} cannot be put away: {source}")]
    Move { path: PathBuf, source: io::Error },
    #[error("{path} cannot be looked at: {source}")]
    Look { path: PathBuf, source: io::Error },
}

impl Volume {
    /// What is kept until the copy in its place is proven.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn kept(&self) -> Result<Option<Old>, MarkError> {
        self.read(KEPT)
    }

    /// What a full copy that was cut off has put aside last, while nothing stands in the data directory's place: it is what that held.
    ///
    /// # Errors
    /// [`ReplacedError`]
    pub fn last_original(&self) -> Result<Option<Original>, ReplacedError> {
        let looked = std::fs::read_dir(&self.data).and_then(|mut entries| entries.next().transpose());
        let stands = match looked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            entry => entry.map_err(|source| ReplacedError::Look { path: self.data.clone(), source })?.is_some(),
        };
        if stands { Ok(None) } else { Ok(self.originals()?.pop()) }
    }

    /// What full copies have put aside of the data directory and is kept until the one in its place is proven, the last one last.
    ///
    /// # Errors
    /// [`ReplacedError`]
    pub fn originals(&self) -> Result<Vec<Original>, ReplacedError> {
        let Some(old) = self.kept()? else { return Ok(vec![]) };
        let mut originals = vec![];
        for original in self.unremembered(&old).chain(old.originals.iter().cloned()) {
            let path = &original.directory;
            if path.try_exists().map_err(|source| ReplacedError::Look { path: path.clone(), source })? {
                originals.push(original);
            }
        }
        Ok(originals)
    }

    /// Those of a mark of an earlier version, which named no more than their paths.
    fn unremembered(&self, old: &Old) -> impl Iterator<Item = Original> {
        let named = std::iter::once(&old.directory).chain(&old.tablespaces);
        let first = Self::aside(&self.data);
        let beside = named.filter(move |path| path.to_string_lossy().starts_with(&*first.to_string_lossy()));
        let unknown = beside.filter(|path| old.originals.iter().all(|original| original.directory != **path));
        unknown.map(|directory| Original { directory: directory.clone(), remembered: Remembered::default() })
    }

    /// Writes down what is put aside, before it is: a folder that no mark names is nobody's original.
    ///
    /// # Errors
    /// [`MarkError::Io`]
    pub fn keep(&self, old: &Old) -> Result<(), MarkError> {
        self.write(KEPT, old)
    }

    /// Something is kept that the next proof makes superfluous, or may be: that is what cannot be seen.
    pub fn keeps(&self) -> bool {
        self.mark(KEPT).try_exists().unwrap_or(true)
    }

    /// The same for what is put aside while something is kept there already.
    pub fn aside_again(place: &Path, number: usize) -> PathBuf {
        super::beside(place, &format!("gpheal-old-{number}"))
    }

    /// Where a copy goes that was never more than a mirror, to be removed.
    pub fn discarded(place: &Path) -> PathBuf {
        super::beside(place, "gpheal-discarded")
    }

    /// Where `place` waits until what stands there now is proven.
    pub fn aside(place: &Path) -> PathBuf {
        super::beside(place, "gpheal-old")
    }

    /// The renames last before the mark goes: else a crash brings back what no mark names.
    fn lasts(old: &Old, gone: &Path) -> Result<(), ReplacedError> {
        for folder in changed(old, gone) {
            unless_missing(File::open(&folder).and_then(|folder| folder.sync_all()), &folder)?;
        }
        Ok(())
    }

    /// Moves everything that is kept into the one folder that is to be removed, and gives it back when there is something
    /// in it. The mark is renamed first, in one step: from then on, whatever a crash leaves where, none of it is an
    /// original that a later copy would have to spare. Under names of their own, so that nothing that is being removed is met again.
    ///
    /// # Errors
    /// [`ReplacedError`]; called again, it goes on.
    pub fn put_away(&self) -> Result<Option<PathBuf>, ReplacedError> {
        let gone = self.beside_gone();
        let renamed = std::fs::rename(self.mark(KEPT), self.mark(GONE)).and_then(|()| sync_folder_of(&self.mark(GONE)));
        unless_missing(renamed, &self.mark(KEPT))?;
        if let Some(old) = self.read::<Old>(GONE)? {
            std::fs::create_dir_all(&gone).map_err(|source| ReplacedError::Move { path: gone.clone(), source })?;
            for (number, path) in std::iter::once(&old.directory).chain(&old.tablespaces).enumerate() {
                unless_missing(std::fs::rename(path, gone.join(format!("{}-{number}", old.attempt))), path)?;
            }
            Self::lasts(&old, &gone)?;
            self.remove(GONE)?;
        }
        let left = gone.try_exists().map_err(|source| ReplacedError::Move { path: gone.clone(), source })?;
        Ok(left.then_some(gone))
    }
}

/// Folders whose entries a renaming changes.
fn changed(old: &Old, gone: &Path) -> BTreeSet<PathBuf> {
    let from = std::iter::once(&old.directory).chain(&old.tablespaces).filter_map(|path| path.parent());
    from.chain([gone]).chain(gone.parent()).map(Path::to_owned).collect()
}

fn unless_missing(result: io::Result<()>, path: &Path) -> Result<(), ReplacedError> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ReplacedError::Move { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(dir: &tempfile::TempDir) -> Volume {
        Volume::open(&dir.path().join("gpseg")).unwrap()
    }

    fn folder(path: &Path) -> PathBuf {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        path.to_owned()
    }

    fn kept(dir: &tempfile::TempDir, volume: &Volume) -> Old {
        let space = folder(&Volume::aside(&dir.path().join("space/5")));
        Old { attempt: "a1".into(), directory: folder(&volume.beside_old()), tablespaces: vec![space], originals: vec![] }
    }

    #[test]
    fn all_that_is_kept_goes_together() {
        let dir = tempfile::tempdir().unwrap();
        let volume = volume(&dir);
        assert_eq!(volume.put_away().unwrap(), None);
        let old = kept(&dir, &volume);
        volume.keep(&old).unwrap();
        assert_eq!(volume.put_away().unwrap(), Some(volume.beside_gone()));
        assert!(!old.directory.exists() && !old.tablespaces[0].exists() && !volume.keeps());
        assert_eq!(std::fs::read_dir(volume.beside_gone()).unwrap().count(), 2);
        assert_eq!(volume.put_away().unwrap(), Some(volume.beside_gone()), "until somebody has removed it");
    }

    #[test]
    fn what_a_directory_held_is_where_a_copy_that_was_cut_off_has_put_it() {
        let dir = tempfile::tempdir().unwrap();
        let volume = volume(&dir);
        let last = || volume.last_original().unwrap().map(|original| original.directory);
        assert_eq!(last(), None, "nothing is kept");
        let mut old = Old { tablespaces: vec![], ..kept(&dir, &volume) };
        volume.keep(&old).unwrap();
        assert_eq!(last(), Some(volume.beside_old()));
        std::fs::create_dir(volume.data()).unwrap();
        assert_eq!(last(), Some(volume.beside_old()), "an empty folder holds nothing");
        let second = folder(&Volume::aside_again(volume.data(), 2));
        assert_eq!(last(), Some(volume.beside_old()), "what no mark names is nobody's original");
        old.tablespaces.push(second.clone());
        volume.keep(&old).unwrap();
        assert_eq!(last(), Some(second.clone()));
        std::fs::remove_dir_all(&second).unwrap();
        assert_eq!(last(), Some(volume.beside_old()), "it was named and not moved yet");
        folder(volume.data());
        assert_eq!(last(), None);
        assert_eq!(volume.originals().unwrap().len(), 1);
    }

    #[test]
    fn every_folder_that_a_rename_changes_is_synced() {
        let old = Old {
            attempt: "a1".into(),
            directory: "/d/s.gpheal-old".into(),
            tablespaces: vec!["/t/5.gpheal-old".into()],
            originals: vec![],
        };
        let changed: Vec<_> = changed(&old, Path::new("/d/s.gpheal-gone")).into_iter().collect();
        assert_eq!(changed, [Path::new("/d"), Path::new("/d/s.gpheal-gone"), Path::new("/t")]);
    }

    #[test]
    fn what_a_crash_left_over_is_put_away_later() {
        let dir = tempfile::tempdir().unwrap();
        let volume = volume(&dir);
        let old = kept(&dir, &volume);
        volume.keep(&old).unwrap();
        std::fs::rename(volume.mark(KEPT), volume.mark(GONE)).unwrap();
        folder(&volume.beside_gone().join("a1-0")); // of an earlier life of this volume, still being removed
        std::fs::remove_dir_all(&old.directory).unwrap();
        volume.put_away().unwrap();
        assert!(!old.tablespaces[0].exists() && !volume.mark(GONE).exists());
    }
}
