//! How the program is linked.

use std::process::Command;

/// The first glibc whose start of a static program understands packed relative relocations (DT_RELR).
const PACKED_SINCE: (u32, u32) = (2, 36);

/// A static program relocates itself at its start; packed, that is six kilobytes to read instead of half a megabyte, which
/// every supervisor would keep in memory.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if glibc().is_some_and(|version| version >= PACKED_SINCE) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// `glibc 2.36`, of the machine that links.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let said = String::from_utf8(said).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
