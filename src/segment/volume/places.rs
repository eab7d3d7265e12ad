//! Which instance a data directory says that it is.

use std::path::Path;

use model::{Content, Dbid};

/// dbid and content as written in the directory's own settings (docs/greenplum.md#files-of-a-mirror).
pub fn identity(data: &Path) -> (Option<Dbid>, Option<Content>) {
    let dbid = setting(&data.join("internal.auto.conf"), "gp_dbid");
    let content =
        setting(&data.join("postgresql.conf"), "gp_contentid").or_else(|| setting(&data.join("internal.auto.conf"), "gp_contentid"));
    (dbid.map(Dbid), content.map(Content))
}

/// An integer in a settings file.
fn setting(file: &Path, name: &str) -> Option<i16> {
    assigned(&std::fs::read(file).ok()?, name)?.parse().ok()
}

/// The last assignment in a settings file: PostgreSQL lets the last one win.
pub(super) fn assigned(text: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(text); // a comment may be in any encoding
    let value = |line: &str| {
        let rest = line.trim_start().strip_prefix(name)?;
        let rest = rest.starts_with([' ', '\t', '=', '\'']).then(|| rest.trim_start())?; // another name may begin as this one does
        let rest = rest.strip_prefix('=').unwrap_or(rest);
        Some(rest.split('#').next()?.trim().trim_matches('\'').to_owned())
    };
    text.lines().filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_assignment_wins_in_every_spelling() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("internal.auto.conf"), "gp_dbid=5\n").unwrap();
        std::fs::write(
            dir.path().join("postgresql.conf"),
            "#gp_contentid=9\ngp_contentid = 3\ngp_contentid '-1'  # why\ngp_contentids=4\n",
        )
        .unwrap();
        assert_eq!(identity(dir.path()), (Some(Dbid(5)), Some(Content(-1))));
        let latin = b"# gr\xfc\xdfe \xd6\xd0\xce\xc4\ngp_contentid=7\n# \xd6\xd0\n";
        std::fs::write(dir.path().join("postgresql.conf"), latin).unwrap();
        assert_eq!(identity(dir.path()).1, Some(Content(7)), "its comments are in other encodings");
        std::fs::write(dir.path().join("internal.auto.conf"), "").unwrap();
        assert_eq!(identity(dir.path()).0, None);
    }
}
