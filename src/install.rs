//! `gpheal install`: what runs in a segment's pod is put where its container finds it.

use std::{io, os::unix::fs::PermissionsExt, path::Path};

use protocol::INSTALLING;

/// The program for a segment's pod, beside this one. Where it is not (an image of somebody's own), this one can do all that it can.
const FOR_PODS: &str = "gpheal-segment";

/// Copies the program into `folder` as `gpheal`, by rename, so that nobody executes half of it.
///
/// # Errors
/// As of the file system.
pub fn install(folder: &Path) -> io::Result<()> {
    let own = std::env::current_exe()?;
    let for_pods = own.with_file_name(FOR_PODS);
    let program = if for_pods.try_exists()? { for_pods } else { own };
    let fresh = folder.join(INSTALLING);
    std::fs::copy(program, &fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(fresh, folder.join("gpheal"))
}
