//! How a step fails: each step has its own errors; all of them come to a class with evidence.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    greenplum::SessionError,
    model::{Failure, FailureClass, Step},
    volume::marks::MarkError,
};

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

impl Classified for MarkError {
    fn class(&self) -> FailureClass {
        FailureClass::Unclassified
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
        if self.source.kind() == io::ErrorKind::StorageFull { FailureClass::NoRoom } else { FailureClass::Unclassified }
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
            _ => FailureClass::CoordinatorUnreachable,
        }
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
            SessionError::Statement { .. } => FailureClass::Unclassified,
            _ => FailureClass::SourceNotReady,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_with_the_longest_evidence_fits_into_a_termination_message() {
        let long = "ä".repeat(9000);
        let fault = Fault { class: FailureClass::Unclassified, message: long.clone(), evidence: long };
        let failure = fault.at(Step::Copying);
        assert!(serde_json::to_vec(&failure).unwrap().len() < 3 * 1024);
    }
}
