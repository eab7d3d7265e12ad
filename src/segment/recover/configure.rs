//! Settings that make a directory the mirror of this source, at its own port and dbid (docs/greenplum.md#files-of-a-mirror).

use std::{io, path::Path};

use super::{
    Work,
    fault::{Fault, FileError},
    source::SLOT,
};
use greenplum::{Dialect, Tls};

/// What is replaced in any repair.
pub fn files(dialect: Dialect) -> [&'static str; 4] {
    [dialect.mirror_settings(), dialect.mirror_marker(), "postgresql.conf", "internal.auto.conf"]
}

/// Writes replication settings, port and dbid. The tools leave the source's port, and their own idea of a connection
/// (with their password in it); the mirror's password comes by PGPASSFILE from its supervisor.
pub fn configure(work: &Work, data: &Path, dialect: Dialect) -> Result<(), Fault> {
    let conninfo = conninfo(work);
    let replication = [("primary_conninfo", conninfo.as_str()), ("primary_slot_name", SLOT)];
    match dialect {
        Dialect::Six => {
            let more = [("standby_mode", "on"), ("recovery_target_timeline", "latest")];
            set(&data.join("recovery.conf"), &[&more[..], &replication[..]].concat())?;
        }
        Dialect::Seven => {
            set(&data.join("postgresql.auto.conf"), &replication)?;
            write(&data.join("standby.signal"), b"")?;
        }
    }
    set(&data.join("postgresql.conf"), &[("port", &work.attempt.target.port.to_string())])?;
    set(&data.join("internal.auto.conf"), &[("gp_dbid", &work.attempt.target.dbid.to_string())])?;
    Ok(())
}

/// How the mirror reaches its primary. The name is that of the catalog, so that a certificate can be held against it.
fn conninfo(work: &Work) -> String {
    let source = &work.attempt.source;
    let conninfo = format!("user={} host={} port={} application_name=gp_walreceiver", work.login.user, source.hostname, source.port);
    let tls = work.mirror_tls.as_ref().map(Tls::conninfo);
    [Some(conninfo), tls].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Sets each of `settings` once in `file`, in place of every earlier assignment.
fn set(file: &Path, settings: &[(&str, &str)]) -> Result<(), FileError> {
    let old = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(FileError::at(file)(error)),
    };
    write(file, &merged(&old, settings))
}

/// Lines are bytes: a comment may be in any encoding, and what is not ours stays as it is.
fn merged(old: &[u8], settings: &[(&str, &str)]) -> Vec<u8> {
    let assigns = |line: &[u8]| {
        let name = line.trim_ascii_start().split(|byte| *byte == b'=' || byte.is_ascii_whitespace()).next().unwrap_or_default();
        settings.iter().any(|(setting, _)| name.eq_ignore_ascii_case(setting.as_bytes()))
    };
    let mut text: Vec<u8> = old.split_inclusive(|byte| *byte == b'\n').filter(|line| !assigns(line)).flatten().copied().collect();
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    for (setting, value) in settings {
        let number = value.bytes().all(|b| b.is_ascii_digit());
        let shown = if number { (*value).to_owned() } else { format!("'{}'", value.replace('\'', "''")) };
        text.extend(format!("{setting}={shown}\n").into_bytes());
    }
    text
}

/// By rename: a server must never start with half of its settings.
fn write(file: &Path, text: &[u8]) -> Result<(), FileError> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".gpheal");
    let written =
        std::fs::write(&fresh, text).and_then(|()| std::fs::File::open(&fresh)?.sync_all()).and_then(|()| std::fs::rename(&fresh, file));
    written.map_err(FileError::at(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_replaced_and_the_rest_stays() {
        let old = b"# port = 1\nport = 6000\n  primary_conninfo='x'\nPort=7\nportable = 1\n";
        let new = merged(old, &[("port", "7000"), ("primary_conninfo", "user=o'b")]);
        assert_eq!(String::from_utf8(new).unwrap(), "# port = 1\nportable = 1\nport=7000\nprimary_conninfo='user=o''b'\n");
    }

    #[test]
    fn what_is_not_ours_stays_byte_for_byte() {
        let old = b"# \xd6\xd0\xce\xc4\r\nport=1\r\nlc_messages = '\xfc'";
        assert_eq!(merged(old, &[("port", "7000")]), b"# \xd6\xd0\xce\xc4\r\nlc_messages = '\xfc'\nport=7000\n");
        assert_eq!(merged(b"", &[("port", "7000")]), b"port=7000\n");
    }
}
