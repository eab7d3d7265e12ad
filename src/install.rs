//! `gpheal install`: the program puts itself where another container finds it.

use std::{io, os::unix::fs::PermissionsExt, path::Path};

use protocol::INSTALLING;

/// Copies the running program into `folder` as `gpheal`, by rename, so that nobody executes half of it.
///
/// # Errors
/// As of the file system.
pub fn install(folder: &Path) -> io::Result<()> {
    let fresh = folder.join(INSTALLING);
    std::fs::copy(std::env::current_exe()?, &fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(fresh, folder.join("gpheal"))
}
