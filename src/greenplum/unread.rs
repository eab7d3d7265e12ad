//! Why a coordinator's catalog could not be read, by what its session said.

use super::{SessionError, TlsFault};
use model::Unread;

impl SessionError {
    /// The same with a stable word, as the planner and the check have it.
    pub fn unread(&self) -> Unread {
        let why = self.to_string();
        match self {
            Self::Unresolved(_) => Unread::NameUnresolved { why },
            Self::InRecovery(_) => Unread::CoordinatorInRecovery { why },
            Self::NotYet(_) => Unread::CoordinatorStarting { why },
            Self::LoginRefused { .. } => Unread::LoginRefused { why },
            Self::Tls { fault, .. } => fault.unread(why),
            Self::TimedOut { .. } => Unread::CoordinatorSilent { why },
            Self::Unreachable { .. } => Unread::CoordinatorUnreachable { why },
            Self::Strange { .. } => Unread::NotPostgres { why },
            Self::NotGreenplum { .. } | Self::Version(_) => Unread::NotGreenplum { why },
            Self::NotCoordinator { .. } => Unread::NotCoordinator { why },
            Self::Statement { .. } => Unread::CatalogUnreadable { why },
        }
    }
}

impl TlsFault {
    /// The same; `why` may name the server too.
    pub fn unread(&self, why: String) -> Unread {
        match self {
            Self::CaMissing { .. } => Unread::CaMissing { why },
            Self::CaInvalid { .. } => Unread::CaInvalid { why },
            Self::NotOffered => Unread::TlsNotOffered { why },
            Self::Untrusted { .. } => Unread::CertificateUntrusted { why },
            Self::NameMismatch { .. } => Unread::CertificateNameMismatch { why },
            Self::Expired { .. } => Unread::CertificateExpired { why },
            Self::Handshake { .. } => Unread::TlsHandshakeFailed { why },
        }
    }
}
