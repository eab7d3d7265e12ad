//! Settings that make a directory the mirror of this source, at its own port and dbid (O §2).

use std::{io, path::Path};

use super::{
    Work,
    fault::{Fault, FileError},
    source::SLOT,
};
use crate::greenplum::{Dialect, Tls};

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
            write(&data.join("standby.signal"), "")?;
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
    let old = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(FileError::at(file)(error)),
    };
    write(file, &merged(&old, settings))
}

fn merged(old: &str, settings: &[(&str, &str)]) -> String {
    let assigns = |line: &str| {
        let name = line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        settings.iter().any(|(setting, _)| *setting == name)
    };
    let mut text: String = old.lines().filter(|line| !assigns(line)).flat_map(|line| [line, "\n"]).collect();
    for (setting, value) in settings {
        let number = value.bytes().all(|b| b.is_ascii_digit());
        let shown = if number { (*value).to_owned() } else { format!("'{}'", value.replace('\'', "''")) };
        text.extend([setting, "=", &shown, "\n"]);
    }
    text
}

/// By rename: a server must never start with half of its settings.
fn write(file: &Path, text: &str) -> Result<(), FileError> {
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
        let old = "# port = 1\nport = 6000\n  primary_conninfo='x'\nport=7\nportable = 1\n";
        let new = merged(old, &[("port", "7000"), ("primary_conninfo", "user=o'b")]);
        assert_eq!(new, "# port = 1\nportable = 1\nport=7000\nprimary_conninfo='user=o''b'\n");
    }
}
