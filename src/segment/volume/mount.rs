//! Which mount a path lies on, and whether an flock there proves anything. Renames stay within one mount, also where two
//! show the same file system.

use std::{
    fs::OpenOptions,
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

/// File systems of one kernel alone: who has a file of theirs locked is known to everybody who could open it.
const LOCAL: &[&str] = &[
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "nilfs2", "reiserfs", "reiser4", "bcachefs", "ntfs3", "overlay", "aufs",
    "tmpfs", "ramfs",
];
/// File systems of which others may have the same files open: other nodes, the host of a virtual machine, or a daemon
/// that keeps the locks of each mount for itself. More of them begin with `fuse`.
const SHARED: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb2",
    "smb3",
    "smbfs",
    "ceph",
    "9p",
    "virtiofs",
    "lustre",
    "gpfs",
    "beegfs",
    "ocfs2",
    "gfs2",
    "afs",
    "orangefs",
    "pvfs2",
    "coda",
    "glusterfs",
    "wekafs",
    "panfs",
    "vboxsf",
    "vmhgfs",
    "prl_fs",
];

/// One line of `mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The folder of the file system that is mounted.
    pub root: String,
    pub point: PathBuf,
    pub kind: String,
    pub source: String,
}

/// What a lock on a file system is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    Proves,
    /// Others may have the same files open, and the lock too.
    Shared,
    /// Nobody has said so far.
    Unknown,
}

impl Mount {
    /// What a lock on it is worth, by its kind.
    pub fn locks(&self) -> Locks {
        let kind = self.kind.as_str();
        if LOCAL.contains(&kind) {
            Locks::Proves
        } else if SHARED.contains(&kind) || kind.starts_with("fuse") {
            Locks::Shared
        } else {
            Locks::Unknown
        }
    }
}

/// What is mounted here. Paths are bytes, and one that is no UTF-8 hides no other.
///
/// # Errors
/// As of the file system.
pub fn mountinfo() -> io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read("/proc/self/mountinfo")?).into_owned())
}

/// Why a lock beside `data` is worth nothing, or not known to be worth anything; `None` when it proves what it should.
pub fn worthless_lock(data: &Path) -> Option<String> {
    match mountinfo() {
        Ok(mountinfo) => why_worthless(find(&mountinfo, &resolved(data)).as_ref(), data),
        Err(error) => Some(format!("the file system of {} is not known, as /proc/self/mountinfo cannot be read: {error}", data.display())),
    }
}

fn why_worthless(mount: Option<&Mount>, data: &Path) -> Option<String> {
    let data = data.display();
    let Some(mount) = mount else { return Some(format!("the file system of {data} is not known: no mount above it is to be seen")) };
    let (kind, from) = (&mount.kind, &mount.source);
    match mount.locks() {
        Locks::Proves => None,
        Locks::Shared => {
            Some(format!("{data} lies on a shared file system ({kind}, {from}), where a lock does not keep other nodes or kernels out"))
        }
        Locks::Unknown => Some(format!("{data} lies on a file system that is not known to be of this node alone ({kind}, {from})")),
    }
}

/// As others resolve it: a folder above may be a link.
pub fn resolved(data: &Path) -> PathBuf {
    let parent = data.parent().and_then(|parent| parent.canonicalize().ok());
    data.canonicalize().ok().or_else(|| Some(parent?.join(data.file_name()?))).unwrap_or_else(|| data.to_owned())
}

/// The deepest mount above `path`.
pub fn find(mountinfo: &str, path: &Path) -> Option<Mount> {
    let above = mountinfo.lines().filter_map(line).filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count()) // of two at one point the later, which covers the other
}

/// All that is mounted somewhere below `folder`: a folder in which something is mounted cannot be renamed.
///
/// # Errors
/// When that cannot be looked at.
pub fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(mounted_below(&mountinfo()?, &resolved(folder)))
}

fn mounted_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    mountinfo.lines().filter_map(line).map(|mount| mount.point).filter(|point| point != folder && point.starts_with(folder)).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue` (proc_pid_mountinfo(5)).
fn line(text: &str) -> Option<Mount> {
    let (head, tail) = text.split_once(" - ")?;
    let mut head = head.split(' ').skip(3);
    let mut tail = tail.split(' ');
    Some(Mount {
        root: unescape(head.next()?),
        point: unescape(head.next()?).into(),
        kind: tail.next()?.to_owned(),
        source: unescape(tail.next()?),
    })
}

/// Spaces and their like stand as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The kernel's number of the mount on which `path`, or what exists of it, lies (`mnt_id` in proc(5), fdinfo).
///
/// # Errors
/// As of the file system.
pub fn of(path: &Path) -> io::Result<u64> {
    let existing = what_exists(path)?;
    let open = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(existing)?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", open.as_raw_fd()))?;
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other(format!("the kernel does not tell the mount of {}", existing.display())))
}

/// The deepest folder of `path` that there is. One that cannot be looked at is not missing.
fn what_exists(path: &Path) -> io::Result<&Path> {
    for folder in path.ancestors() {
        if folder.try_exists()? {
            return Ok(folder);
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As of a container whose claim is a folder of the node's disk.
    const INFO: &str = "\
600 500 0:70 / / rw,relatime - overlay overlay rw,lowerdir=/a
601 600 0:75 / /proc rw,nosuid - proc proc rw
610 600 8:1 /var/lib/volumes/data-gp-mirror-0 /data rw,relatime - ext4 /dev/sda1 rw
611 600 0:90 / /shared rw - nfs4 nas:/export rw
615 600 8:2 / /with\\040space rw shared:1 master:2 - xfs /dev/sdb rw";

    #[test]
    fn what_is_mounted_below_a_folder_is_found() {
        let info = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /data rw - xfs /dev/b rw\n\
                    3 2 8:3 /f /data/gpseg/postgresql.conf ro - xfs /dev/b rw\n4 2 8:2 / /data/gpseg0 rw - xfs /dev/c rw";
        assert_eq!(mounted_below(info, Path::new("/data/gpseg")), [Path::new("/data/gpseg/postgresql.conf")]);
        assert_eq!(mounted_below(info, Path::new("/data/gpseg0")), Vec::<PathBuf>::new(), "its own mount");
        assert_eq!(mounted_below(info, Path::new("/data/gpse")), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_does_not_exist_lies_where_it_would_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let here = of(dir.path()).unwrap();
        assert_eq!(of(&dir.path().join("not/there")).unwrap(), here);
        assert_ne!(of(Path::new("/proc/self")).unwrap(), here);
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_taken_for_missing() {
        let dir = tempfile::tempdir().unwrap();
        let looped = dir.path().join("loop");
        std::os::unix::fs::symlink(&looped, &looped).unwrap();
        assert!(of(&looped.join("gpseg")).is_err());
    }

    #[test]
    fn the_deepest_mount_is_found() {
        let mount = find(INFO, Path::new("/data/gpseg")).unwrap();
        assert_eq!((mount.point.to_str(), mount.kind.as_str(), mount.source.as_str()), (Some("/data"), "ext4", "/dev/sda1"));
        assert_eq!(find(INFO, Path::new("/database/gpseg")).unwrap().point, Path::new("/"));
        assert_eq!(find(INFO, Path::new("/with space/x")).unwrap().kind, "xfs");
        assert_eq!(find("", Path::new("/data")), None);
    }

    #[test]
    fn a_lock_is_worth_something_on_a_file_system_of_one_kernel_alone() {
        let worth = |kind: &str| {
            let mount = Mount { root: "/".into(), point: "/data".into(), kind: kind.into(), source: "from".into() };
            (mount.locks(), why_worthless(Some(&mount), Path::new("/data/gpseg")))
        };
        for local in ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs"] {
            assert_eq!(worth(local), (Locks::Proves, None), "{local}");
        }
        for shared in ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "fuse", "fuseblk", "fuse.glusterfs", "fuse.juicefs"] {
            let (locks, why) = worth(shared);
            assert_eq!(locks, Locks::Shared, "{shared}");
            assert!(why.unwrap().contains(shared));
        }
        let (locks, why) = worth("tomorrowfs");
        assert!(locks == Locks::Unknown && why.unwrap().contains("not known to be of this node alone (tomorrowfs, from)"));
        assert!(why_worthless(None, Path::new("/data/gpseg")).is_some());
        let here = tempfile::tempdir().unwrap();
        assert_eq!(worthless_lock(&here.path().join("gpseg")), None, "of the machine that runs this");
    }
}
