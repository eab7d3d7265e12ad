//! How a step fails: each step has its own errors; all of them come to a class with evidence.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use crate::volume::{VolumeError, marks::MarkError, replaced::ReplacedError};
use greenplum::{SessionError, messages};
use model::{Failure, FailureClass, Step};

/// Longest evidence, in bytes: the whole outcome has to fit into a termination message.
const LONGEST: usize = 1024;

/// A failed step.
#[derive(Debug)]
pub struct Fault {
    pub class: FailureClass,
    message: String,
    evidence: String,
}

/// The error of a step, which knows its class.
pub trait Classified: std::error::Error {
    fn class(&self) -> FailureClass;
    fn evidence(&self) -> String {
        String::new()
    }
}

impl Fault {
    pub fn new(class: FailureClass, message: &str) -> Self {
        Self { class, message: message.to_owned(), evidence: String::new() }
    }

    /// The failure as it is reported.
    pub fn at(self, step: Step) -> Failure {
        Failure { class: self.class, step, message: bounded(&self.message), evidence: bounded(&self.evidence) }
    }
}

impl<E: Classified> From<E> for Fault {
    fn from(error: E) -> Self {
        Self { class: error.class(), message: error.to_string(), evidence: error.evidence() }
    }
}

/// The end of a long text: a tool's last words say most.
fn bounded(text: &str) -> String {
    let mut start = text.len().saturating_sub(LONGEST);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

/// Errors of the file system by what they mean, whatever was being done.
const BY_ERRNO: &[(FailureClass, &[Errno])] = &[
    (FailureClass::NoRoom, &[Errno::ENOSPC, Errno::EDQUOT]),
    (FailureClass::ToolKilled, &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EAGAIN]),
    (FailureClass::Environment, &[Errno::EACCES, Errno::EPERM, Errno::EROFS, Errno::EBUSY, Errno::ETXTBSY]),
    // The disk, its bus or its file system.
    (FailureClass::Environment, &[Errno::EIO, Errno::EUCLEAN, Errno::ENXIO, Errno::ENODEV]),
    // What a file system of the network says when its server is away.
    (FailureClass::Environment, &[Errno::ESTALE, Errno::ESHUTDOWN, Errno::ENOTCONN, Errno::ETIMEDOUT]),
];

/// What a failure of the file system means.
pub fn of_file_system(error: &io::Error) -> FailureClass {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let family = errno.and_then(|errno| BY_ERRNO.iter().find(|(_, family)| family.contains(&errno)));
    family.map_or(FailureClass::Unclassified, |(class, _)| *class)
}

impl Classified for ReplacedError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Mark(error) => error.class(),
            Self::Move { source, .. } | Self::Look { source, .. } => of_file_system(source),
        }
    }
}

impl Classified for MarkError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Io { source, .. } => of_file_system(source),
            Self::Content { .. } => FailureClass::Unclassified,
        }
    }
}

impl Classified for VolumeError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Marks { source, .. } | Self::Look { source, .. } => of_file_system(source),
            Self::NotAbsolute(_) | Self::DataDirIsMountRoot(_) => FailureClass::VolumeUnrecognised,
        }
    }
}

/// A file or folder of the volume could not be read, written or moved.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// What makes an error of the file system one of this path.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self { path: path.to_owned(), source }
    }
}

impl Classified for FileError {
    fn class(&self) -> FailureClass {
        of_file_system(&self.source)
    }
}

/// An error while talking to the coordinator.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator: {0}")]
pub struct OfCoordinator(#[source] pub SessionError);

impl Classified for OfCoordinator {
    fn class(&self) -> FailureClass {
        match &self.0 {
            SessionError::LoginRefused { .. } => FailureClass::LoginRefused,
            SessionError::Tls { .. } => FailureClass::TlsRefused,
            SessionError::Statement { code: Some(code), message, .. } if code == NO_RIGHT && !messages::is_refused(message) => {
                FailureClass::LoginRefused
            }
            _ => FailureClass::CoordinatorUnreachable,
        }
    }
}

/// The role may not do it.
const NO_RIGHT: &str = "42501";

/// What a statement's failure on the acting primary means, by its SQLSTATE. A file that its server may not open has the code of
/// a right that the role has not.
fn of_statement(code: &str, message: &str) -> FailureClass {
    let (full, failing) = ("53100", "58030");
    let passes = ["08", "53", "57"]; // a connection, something that is short, somebody who intervened
    if code == NO_RIGHT && messages::is_refused(message) {
        FailureClass::SourceEnvironment
    } else if code == NO_RIGHT {
        FailureClass::LoginRefused
    } else if code == full || code == failing {
        FailureClass::SourceEnvironment
    } else if code == "XX001" || code == "XX002" {
        FailureClass::SourceDamaged
    } else if passes.iter().any(|class| code.starts_with(class)) || code == "55P03" {
        FailureClass::SourceNotReady
    } else {
        FailureClass::Unclassified
    }
}

/// An error while talking to the acting primary.
#[derive(Debug, thiserror::Error)]
#[error("the acting primary: {0}")]
pub struct OfSource(#[source] pub SessionError);

impl Classified for OfSource {
    fn class(&self) -> FailureClass {
        match &self.0 {
            SessionError::LoginRefused { .. } => FailureClass::LoginRefused,
            SessionError::Tls { .. } => FailureClass::TlsRefused,
            SessionError::NotGreenplum { .. } | SessionError::Version(_) => FailureClass::SourceNotItself,
            SessionError::Statement { code, message, .. } => of_statement(code.as_deref().unwrap_or_default(), message),
            _ => FailureClass::SourceNotReady,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_volume_and_a_dead_disk_are_told_apart_from_the_unknown() {
        for (errno, class) in [
            (Errno::ENOSPC, FailureClass::NoRoom),
            (Errno::EDQUOT, FailureClass::NoRoom),
            (Errno::EROFS, FailureClass::Environment),
            (Errno::EIO, FailureClass::Environment),
            (Errno::EUCLEAN, FailureClass::Environment),
            (Errno::EACCES, FailureClass::Environment),
            (Errno::EPERM, FailureClass::Environment),
            (Errno::EBUSY, FailureClass::Environment),
            (Errno::ESTALE, FailureClass::Environment),
            (Errno::EMFILE, FailureClass::ToolKilled),
            (Errno::ENFILE, FailureClass::ToolKilled),
            (Errno::ENOENT, FailureClass::Unclassified),
            (Errno::EXDEV, FailureClass::Unclassified),
        ] {
            let error = || io::Error::from_raw_os_error(errno as i32);
            assert_eq!(FileError::at(Path::new("/x"))(error()).class(), class, "{errno}");
            assert_eq!(MarkError::Io { path: "/x".into(), source: error() }.class(), class, "{errno}");
            assert_eq!(VolumeError::Marks { path: "/x".into(), source: error() }.class(), class, "{errno}");
        }
        assert_eq!(of_file_system(&io::Error::other("x")), FailureClass::Unclassified);
    }

    #[test]
    fn a_statement_that_fails_is_classified_by_its_sqlstate() {
        let said = |code: &str, message: &str| {
            let (server, message) = (greenplum::Server::new("a", 1), message.to_owned());
            OfSource(SessionError::Statement { server, message, code: Some(code.into()) }).class()
        };
        let failed = |code: &str| said(code, "");
        assert_eq!(failed("42501"), FailureClass::LoginRefused);
        assert_eq!(said("42501", "db error: ERROR: permission denied for function pg_ls_dir"), FailureClass::LoginRefused);
        let unread =
            "db error: ERROR: could not access status of transaction 712\nDETAIL: Could not open file \"pg_clog/0000\": Permission denied.";
        assert_eq!(said("42501", unread), FailureClass::SourceEnvironment);
        assert_eq!((failed("53100"), failed("58030")), (FailureClass::SourceEnvironment, FailureClass::SourceEnvironment));
        assert_eq!(failed("XX001"), FailureClass::SourceDamaged);
        for passes in ["53300", "57014", "57P01", "08006", "55P03"] {
            assert_eq!(failed(passes), FailureClass::SourceNotReady, "{passes}");
        }
        assert_eq!(failed("XX000"), FailureClass::Unclassified);
    }

    #[test]
    fn an_outcome_with_the_longest_evidence_fits_into_a_termination_message() {
        let long = "ä".repeat(9000);
        let fault = Fault { class: FailureClass::Unclassified, message: long.clone(), evidence: long };
        let failure = fault.at(Step::Copying);
        assert!(serde_json::to_vec(&failure).unwrap().len() < 3 * 1024);
    }
}
