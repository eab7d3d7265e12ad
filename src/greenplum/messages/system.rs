//! Errors of the operating system, in the words of the C library. What could not be opened, read or written for one of them
//! is not damaged: a disk that is away for a moment costs no copy.

use std::path::Path;

use super::{Cause, Message, first, said, says};

/// All versions say them alike: they are `strerror`'s.
const ALL: &str = "6, 7, 15";

pub const ROWS: &[(Cause, &[Message])] = &[
    (
        Cause::Room,
        &[
            said("No space left on device", ALL, "could not write to file \"pg_xlog/xlogtemp.7\": No space left on device"),
            said("Disk quota exceeded", ALL, "could not extend file \"base/1/2\": Disk quota exceeded"),
        ],
    ),
    (
        Cause::Scarce,
        &[
            said("Too many open files", ALL, "could not open file \"global/pg_control\": Too many open files in system"),
            said("Cannot allocate memory", ALL, "could not map anonymous shared memory: Cannot allocate memory"),
            said("Resource temporarily unavailable", ALL, "could not fork startup process: Resource temporarily unavailable"),
        ],
    ),
    (
        Cause::Environment,
        &[
            said("Permission denied", ALL, "could not open file \"global/pg_control\": Permission denied"),
            said("Operation not permitted", ALL, "could not open file \"postgresql.conf\": Operation not permitted"),
            said("Read-only file system", ALL, "could not create file \"postmaster.pid\": Read-only file system"),
            said("Input/output error", ALL, "could not read file \"global/pg_control\": Input/output error"),
            said("Remote I/O error", ALL, "could not read file \"base/1/2\": Remote I/O error"),
            said("Structure needs cleaning", ALL, "could not open file \"base/1/2\": Structure needs cleaning"),
            said("Stale file handle", ALL, "could not open directory \"base\": Stale file handle"),
            said("Stale NFS file handle", ALL, "could not open directory \"base\": Stale NFS file handle"),
            said("Transport endpoint is not connected", ALL, "could not stat file \"base\": Transport endpoint is not connected"),
            said("Device or resource busy", ALL, "could not rename file \"a\" to \"b\": Device or resource busy"),
            said("Text file busy", ALL, "could not open file \"postgres\": Text file busy"),
            said("Connection timed out", ALL, "could not read file \"base/1/2\": Connection timed out"),
            said("No such device", ALL, "could not open file \"base/1/2\": No such device or address"),
            said("File too large", ALL, "could not extend file \"base/1/2\": File too large"),
            said("Too many levels of symbolic links", ALL, "could not open file \"pg_wal\": Too many levels of symbolic links"),
            said("Function not implemented", ALL, "could not fsync file \"base/1/2\": Function not implemented"),
            said("Operation not supported", ALL, "could not fallocate file \"base/1/2\": Operation not supported"),
            said("Key was rejected by service", ALL, "could not open file \"base/1/2\": Key was rejected by service"),
            said("Required key not available", ALL, "could not open file \"base/1/2\": Required key not available"),
        ],
    ),
];

pub fn of(message: &str) -> Option<Cause> {
    first(ROWS, |words| says(message, words))
}

/// What the machine refused, as the DETAIL of a server's message tells it: `Could not open file "pg_xact/0000": Permission
/// denied.` A DETAIL of another form may quote a client (`Failed process was running: …`).
pub fn of_detail(detail: &str) -> Option<Cause> {
    detail.starts_with("Could not ").then(|| of(detail)).flatten()
}

/// Servers name what belongs to them by its path in the data directory; what a setting names has a path from the root.
/// Said in a message, or in a DETAIL, which is a sentence.
fn gone(said: &str) -> Option<&str> {
    const SAYS: [&str; 3] = ["could not ", "Could not ", "The database subdirectory "];
    const GONE: [&str; 4] = ["No such file or directory", "Not a directory", "Is a directory", " is missing"];
    let path = SAYS.iter().find_map(|begin| said.strip_prefix(begin))?.split('"').nth(1)?;
    let is_gone = GONE.iter().any(|words| said.trim_end().trim_end_matches('.').ends_with(words));
    is_gone.then_some(path)
}

/// A file of the data directory itself is not there, or is no file: the directory is incomplete. Tablespaces and the log may lie
/// behind links, on volumes that are not mounted just now: of those nothing is known by words. The folder of those links is none.
pub fn missing(said: &str) -> Option<Cause> {
    let path = gone(said)?;
    let is_settings = Path::new(path).extension().is_some_and(|of| of == "conf");
    let behind_links = [LINKS_WITHIN, "pg_wal", "pg_xlog"].iter().any(|folder| path.starts_with(folder));
    let is_own = !behind_links && (path.starts_with("base/") || path.starts_with("global/") || path.starts_with("pg_"));
    (is_own && !is_settings).then_some(Cause::Damage)
}

const LINKS_WITHIN: &str = "pg_tblspc/";

/// The oid of the tablespace behind whose link it missed something; what is behind that, the disk has to tell.
pub fn space(said: &str) -> Option<&str> {
    gone(said)?.strip_prefix(LINKS_WITHIN)?.split('/').next()
}
