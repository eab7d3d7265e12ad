//! Whether the mount of the data directory is one that the contract asks for.

use std::path::Path;

use super::fault::Fault;
use crate::volume::mount::{Locks, Mount};
use model::{Refusal, refusal::ContractPoint};

/// File systems that end with the pod.
const FLEETING: &[&str] = &["overlay", "tmpfs", "ramfs", "aufs"];

/// A data directory on this mount can be guarded, and outlives its pod.
///
/// # Errors
/// [`ContractPoint::NoClaim`], [`ContractPoint::DataDirIsMountRoot`], [`Refusal::AccessMode`]
pub fn judge(mount: Option<&Mount>, data: &Path) -> Result<String, Fault> {
    let Some(mount) = mount.filter(|mount| mount.point != Path::new("/")) else { return Err(Fault::Contract(ContractPoint::NoClaim)) };
    if FLEETING.contains(&mount.kind.as_str()) || mount.root.contains("kubernetes.io~empty-dir") {
        return Err(Fault::Contract(ContractPoint::NoClaim));
    }
    if mount.point == data {
        return Err(Fault::Contract(ContractPoint::DataDirIsMountRoot));
    }
    let worthless = |what: &str| {
        let kind = format!("{what} ({})", mount.kind);
        Err(Fault::Refused(Refusal::AccessMode { claim: mount.source.clone(), mode: kind }))
    };
    match mount.locks() {
        Locks::Shared => worthless("a shared file system"),
        Locks::Unknown => worthless("a file system that is not known to be of one node alone"),
        Locks::Proves => Ok(format!("{} is {} of {}, mounted at {}", data.display(), mount.kind, mount.source, mount.point.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::mount::find;

    /// As of a container whose claim is a folder of the node's disk.
    const INFO: &str = "\
600 500 0:70 / / rw,relatime - overlay overlay rw,lowerdir=/a
610 600 8:1 /var/lib/volumes/data-gp-mirror-0 /data rw,relatime - ext4 /dev/sda1 rw
611 600 0:90 / /shared rw - nfs4 nas:/export rw
612 600 8:1 /kubelet/pods/1f/volumes/kubernetes.io~empty-dir/work /work rw - ext4 /dev/sda1 rw
613 600 0:91 / /memory rw - tmpfs tmpfs rw
614 600 0:92 / /gluster rw - fuse.glusterfs gluster:/vol rw
615 600 8:2 / /with\\040space rw shared:1 master:2 - xfs /dev/sdb rw
616 600 0:93 / /ntfs rw - fuseblk /dev/sdc rw
617 600 0:94 / /plain rw - fuse daemon rw
618 600 0:95 / /new rw - tomorrowfs from rw";

    fn judged(data: &str) -> &'static str {
        let data = Path::new(data);
        judge(find(INFO, data).as_ref(), data).map_or_else(|fault| fault.code(), |_| "ok")
    }

    #[test]
    fn each_point_of_a_mount_is_told() {
        assert_eq!(judged("/data/gpseg"), "ok");
        assert_eq!(judged("/with space/gpseg"), "ok");
        assert_eq!(judged("/data"), "DataDirIsMountRoot");
        for fleeting in ["/var/lib/gpseg", "/work/gpseg", "/memory/gpseg"] {
            assert_eq!(judged(fleeting), "NoClaim", "{fleeting}");
        }
        for shared in ["/shared/gpseg", "/gluster/gpseg", "/ntfs/gpseg", "/plain/gpseg", "/new/gpseg"] {
            assert_eq!(judged(shared), "AccessMode", "{shared}");
        }
    }
}
