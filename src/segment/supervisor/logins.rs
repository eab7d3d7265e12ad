//! The mounted secrets, and the password file that postgres' own connections take from them.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{Supervisor, TlsOptions};
use greenplum::Login;

/// The secret cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the credentials in {folder} cannot be read ({source}); mount a secret with the keys username and password")]
pub struct NoCredentials {
    folder: PathBuf,
    source: io::Error,
}

/// Reads the login from a mounted secret; read each time, so that a rotated password is taken.
///
/// # Errors
/// [`NoCredentials`]
pub fn login(folder: &Path, tls: &TlsOptions) -> Result<Login, NoCredentials> {
    let read = |key: &str| {
        let text = fs::read_to_string(folder.join(key));
        text.map(|t| t.trim_end_matches('\n').to_owned()).map_err(|source| NoCredentials { folder: folder.to_owned(), source })
    };
    Ok(Login { user: read("username")?, password: read("password")?, tls: tls.tls() })
}

/// Brings a password file up to date, which libpq of every version reads by `PGPASSFILE`, at each connection.
///
/// # Errors
/// As of the file system.
pub fn write_passfile(path: &Path, logins: &[Login]) -> io::Result<()> {
    write_lines(path, &lines(logins))
}

/// The same where one of the secrets cannot be read: whoever has a line in the file and none among `logins` keeps it.
///
/// # Errors
/// As of the file system.
pub fn add_to_passfile(path: &Path, logins: &[Login]) -> io::Result<()> {
    let fresh = lines(logins);
    let there = match fs::read_to_string(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let kept = there.lines().filter(|old| !fresh.lines().any(|line| user_of(line) == user_of(old)));
    let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
    write_lines(path, &(fresh + &kept))
}

/// The user of a line, as it is written there.
fn user_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("*:*:*:")?;
    let mut escaped = false;
    let end = rest.find(|letter| {
        let ends = letter == ':' && !escaped;
        escaped = letter == '\\' && !escaped;
        ends
    })?;
    Some(&rest[..end])
}

fn lines(logins: &[Login]) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let line = |login: &Login| ["*:*:*:", &escaped(&login.user), ":", &escaped(&login.password), "\n"].concat();
    logins.iter().map(line).collect()
}

fn write_lines(path: &Path, wanted: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    // By rename: a connection that is being made reads one or the other.
    let fresh = path.with_added_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(wanted.as_bytes())?;
        fs::rename(&fresh, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&fresh)))
}

impl Supervisor {
    /// Keeps the password file as the mounted secrets are, also for a person who repairs by hand where nothing may ever
    /// start (docs/break-glass.md). What is wrong is said once; the file stays as it was.
    pub(super) fn keep_passfile(&mut self) {
        let fault = self.config.write_passfile().err().map(|error| error.to_string());
        if let Some(error) = fault.as_ref().filter(|_| fault != self.memory.passfile_fault) {
            tracing::warn!(error, "the password file is not up to date");
        }
        self.memory.passfile_fault = fault;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::supervisor::{Config, config::fixtures::parsed};

    /// A mounted secret.
    fn secret(folder: &Path, name: &str, password: &str) -> String {
        let place = folder.join(name);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("username"), name).unwrap();
        fs::write(place.join("password"), password).unwrap();
        place.display().to_string()
    }

    fn written(config: Config, folder: &Path) -> String {
        let passfile = folder.join("pass");
        Config { passfile: passfile.clone(), ..config }.write_passfile().unwrap();
        fs::read_to_string(passfile).unwrap()
    }

    #[test]
    fn postgres_connects_as_somebody_else_when_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let [asks, first, second] = ["asks", "first", "second"].map(|name| secret(folder.path(), name, "a:b\\c\n"));
        let own = Config { credentials: asks.into(), ..parsed("").unwrap() };
        assert_eq!(written(own, folder.path()), "*:*:*:asks:a\\:b\\\\c\n");
        let others = parsed(&format!("--postgres-credentials {first},{second}")).unwrap();
        assert_eq!(written(others, folder.path()), "*:*:*:first:a\\:b\\\\c\n*:*:*:second:a\\:b\\\\c\n");
    }

    #[test]
    fn a_rotated_password_replaces_the_file_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = || fs::metadata(folder.path().join("pass")).unwrap();
        let own = Config { credentials: secret(folder.path(), "gpadmin", "old").into(), ..parsed("").unwrap() };
        assert_eq!(written(own.clone(), folder.path()), "*:*:*:gpadmin:old\n");
        let first = file().ino();
        written(own.clone(), folder.path());
        assert_eq!(file().ino(), first, "it was up to date");
        secret(folder.path(), "gpadmin", "new");
        assert_eq!(written(own.clone(), folder.path()), "*:*:*:gpadmin:new\n");
        assert_eq!(file().permissions().mode() & 0o777, 0o600);
        fs::remove_file(folder.path().join("gpadmin/password")).unwrap();
        let broken = Config { passfile: folder.path().join("pass"), ..own };
        assert!(broken.write_passfile().unwrap_err().to_string().contains("the keys username and password"));
        assert_eq!(fs::read_to_string(&broken.passfile).unwrap(), "*:*:*:gpadmin:new\n", "what worked stays");
    }

    #[test]
    fn one_secret_that_cannot_be_read_takes_no_password_from_the_others_or_from_itself() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a:b", "a:c"].map(|name| secret(folder.path(), name, "old:1"));
        let config = parsed(&format!("--postgres-credentials {first},{second}")).unwrap();
        let config = Config { passfile: folder.path().join("pass"), ..config };
        config.write_passfile().unwrap();
        secret(folder.path(), "a:b", "new:2");
        fs::remove_file(folder.path().join("a:c/password")).unwrap();
        assert!(config.write_passfile().unwrap_err().to_string().contains("a:c"));
        let both = "*:*:*:a\\:b:new\\:2\n*:*:*:a\\:c:old\\:1\n";
        assert_eq!(fs::read_to_string(&config.passfile).unwrap(), both);
        fs::remove_file(&config.passfile).unwrap(); // another container's
        config.write_passfile().unwrap_err();
        assert_eq!(fs::read_to_string(&config.passfile).unwrap(), "*:*:*:a\\:b:new\\:2\n", "what can be read is written");
        secret(folder.path(), "a:c", "new:3");
        config.write_passfile().unwrap();
        assert!(fs::read_to_string(&config.passfile).unwrap().ends_with("a\\:c:new\\:3\n"));
    }
}
