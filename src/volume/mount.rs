//! Which mount a path lies on. Renames stay within one mount, also where two show the same file system.

use std::{fs::File, io, os::fd::AsRawFd, path::Path};

/// The kernel's number of the mount on which `path`, or what exists of it, lies (`mnt_id` in proc(5), fdinfo).
///
/// # Errors
/// As of the file system.
pub fn of(path: &Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let open = File::open(existing)?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", open.as_raw_fd()))?;
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other(format!("the kernel does not tell the mount of {}", existing.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_lies_where_it_would_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let here = of(dir.path()).unwrap();
        assert_eq!(of(&dir.path().join("not/there")).unwrap(), here);
        assert_ne!(of(Path::new("/proc/self")).unwrap(), here);
    }
}
