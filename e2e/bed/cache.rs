//! Built things, kept outside the checkout by the hash of what they are made of.

use std::{
    cmp::Reverse,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{
    command::{entries, lock, make_folder},
    layout::Layout,
};

/// How many builds of one thing are kept.
const KEPT: usize = 4;

/// What a built thing depends on.
pub struct Inputs(Sha256);

impl Inputs {
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.0.update(text.len().to_le_bytes());
        self.0.update(text);
        self
    }

    /// A file's content and whether it may be run; not its name or age.
    pub fn file(&mut self, path: &Path) -> Result<&mut Self> {
        let problem = || format!("cannot read {}", path.display());
        let mut file = File::open(path).with_context(problem)?;
        let about = file.metadata().with_context(problem)?;
        self.0.update(about.len().to_le_bytes());
        self.0.update([u8::from(about.permissions().mode() & 0o111 != 0)]);
        io::copy(&mut file, &mut Feed(&mut self.0)).with_context(problem)?;
        Ok(self)
    }

    /// Every file of a folder with its path below it, in a fixed order.
    pub fn folder(&mut self, path: &Path) -> Result<&mut Self> {
        let mut inner = entries(path);
        inner.sort();
        for entry in inner {
            let name = entry.strip_prefix(path)?.display().to_string();
            self.text(&name);
            if entry.is_symlink() {
                self.text(&fs::read_link(&entry)?.display().to_string());
            } else if entry.is_dir() {
                self.folder(&entry)?;
            } else {
                self.file(&entry)?;
            }
        }
        Ok(self)
    }

    pub fn hash(&self) -> String {
        hex::encode(self.0.clone().finalize())
    }
}

impl Default for Inputs {
    fn default() -> Self {
        Self::new()
    }
}

struct Feed<'a>(&'a mut Sha256);

impl Write for Feed<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file `name` made of `inputs`: from the cache, or made by `build` at the
/// path it is given. Two that want the same thing at once build it once.
pub fn entry<B>(layout: &Layout, name: &str, inputs: &Inputs, build: B) -> Result<PathBuf>
where
    B: FnOnce(&Path) -> Result<()>,
{
    let folder = layout.cache().join(name);
    let place = folder.join(&inputs.hash()[..20]);
    if place.exists() {
        mark_used(&place);
        return Ok(place);
    }
    let _lock = lock(&layout.cache().join("locks").join(name), name)?;
    if place.exists() {
        return Ok(place);
    }
    make_folder(&folder)?;
    let draft = folder.join("draft");
    if draft.exists() {
        fs::remove_file(&draft).with_context(|| format!("cannot remove {}", draft.display()))?;
    }
    build(&draft)?;
    fs::rename(&draft, &place).with_context(|| format!("cannot keep {}", place.display()))?;
    prune(&folder);
    Ok(place)
}

/// So that `prune` knows what is wanted. A cache that may only be read serves too.
fn mark_used(place: &Path) {
    let _ = File::open(place).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Leaves the few that were used last; whoever needs another builds it again.
fn prune(folder: &Path) {
    let used = |path: &PathBuf| fs::metadata(path).and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut old = entries(folder);
    old.sort_by_key(|path| Reverse(used(path)));
    for path in old.into_iter().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_follows_content_and_names() {
        let folder = tempfile::tempdir().unwrap();
        let hash = || Inputs::new().folder(folder.path()).unwrap().hash();
        fs::write(folder.path().join("a"), "1").unwrap();
        let first = hash();
        assert_eq!(first, hash());
        fs::write(folder.path().join("a"), "2").unwrap();
        let second = hash();
        assert_ne!(first, second);
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert_ne!(second, hash());
    }

    #[test]
    fn the_builds_used_last_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for age in 0..=KEPT {
            let path = folder.path().join(age.to_string());
            fs::write(&path, "").unwrap();
            let used = SystemTime::now() - std::time::Duration::from_secs(60 * u64::try_from(age).unwrap());
            File::open(&path).unwrap().set_modified(used).unwrap();
        }
        mark_used(&folder.path().join(KEPT.to_string()));
        prune(folder.path());
        let unused = folder.path().join((KEPT - 1).to_string());
        assert!(!unused.exists());
        assert_eq!(entries(folder.path()).len(), KEPT);
    }
}
