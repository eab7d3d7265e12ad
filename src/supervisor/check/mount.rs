//! The mount on which a path lies, from `/proc/self/mountinfo`, and whether a lock on it can be trusted.

use std::path::{Path, PathBuf};

use super::fault::Fault;
use crate::model::{Refusal, refusal::ContractPoint};

/// File systems of which other nodes may have the same files open: an flock proves nothing there.
const SHARED: &[&str] = &["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2", "afs"];
/// File systems that end with the pod.
const FLEETING: &[&str] = &["overlay", "tmpfs", "ramfs", "aufs"];

/// One line of `mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The folder of the file system that is mounted.
    pub root: String,
    pub point: PathBuf,
    pub kind: String,
    pub source: String,
}

/// The deepest mount above `path`.
pub fn of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let above = mountinfo.lines().filter_map(line).filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count()) // of two at one point the later, which covers the other
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

/// A data directory on this mount can be guarded, and outlives its pod.
///
/// # Errors
/// [`ContractPoint::NoClaim`], [`ContractPoint::DataDirIsMountRoot`], [`Refusal::AccessMode`]
pub fn judge(mount: Option<&Mount>, data: &Path) -> Result<String, Fault> {
    let Some(mount) = mount.filter(|mount| mount.point != Path::new("/")) else { return Err(Fault::Contract(ContractPoint::NoClaim)) };
    let network = SHARED.contains(&mount.kind.as_str()) || mount.kind.starts_with("fuse.");
    if FLEETING.contains(&mount.kind.as_str()) || mount.root.contains("kubernetes.io~empty-dir") {
        Err(Fault::Contract(ContractPoint::NoClaim))
    } else if mount.point == data {
        Err(Fault::Contract(ContractPoint::DataDirIsMountRoot))
    } else if network {
        let kind = format!("a shared file system ({})", mount.kind);
        Err(Fault::Refused(Refusal::AccessMode { claim: mount.source.clone(), mode: kind }))
    } else {
        Ok(format!("{} is {} of {}, mounted at {}", data.display(), mount.kind, mount.source, mount.point.display()))
    }
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
612 600 8:1 /kubelet/pods/1f/volumes/kubernetes.io~empty-dir/work /work rw - ext4 /dev/sda1 rw
613 600 0:91 / /memory rw - tmpfs tmpfs rw
614 600 0:92 / /gluster rw - fuse.glusterfs gluster:/vol rw
615 600 8:2 / /with\\040space rw shared:1 master:2 - xfs /dev/sdb rw";

    fn judged(data: &str) -> &'static str {
        let data = Path::new(data);
        judge(of(INFO, data).as_ref(), data).map_or_else(|fault| fault.code(), |_| "ok")
    }

    #[test]
    fn the_deepest_mount_is_found() {
        let mount = of(INFO, Path::new("/data/gpseg")).unwrap();
        assert_eq!((mount.point.to_str(), mount.kind.as_str(), mount.source.as_str()), (Some("/data"), "ext4", "/dev/sda1"));
        assert_eq!(of(INFO, Path::new("/database/gpseg")).unwrap().point, Path::new("/"));
        assert_eq!(of(INFO, Path::new("/with space/x")).unwrap().kind, "xfs");
        assert_eq!(of("", Path::new("/data")), None);
    }

    #[test]
    fn each_point_of_a_mount_is_told() {
        assert_eq!(judged("/data/gpseg"), "ok");
        assert_eq!(judged("/with space/gpseg"), "ok");
        assert_eq!(judged("/data"), "DataDirIsMountRoot");
        for fleeting in ["/var/lib/gpseg", "/work/gpseg", "/memory/gpseg"] {
            assert_eq!(judged(fleeting), "NoClaim", "{fleeting}");
        }
        for shared in ["/shared/gpseg", "/gluster/gpseg"] {
            assert_eq!(judged(shared), "AccessMode", "{shared}");
        }
    }
}
