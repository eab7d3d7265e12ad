//! Why the catalog is not known. Each cause has a code that stands in the conditions, and a sentence that says what to do.

use std::fmt;

crate::reasons! {
    /// Why the catalog could not be read, or is not believed.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Unread {
        /// The Secret with user and password, or one of its keys, is not there or cannot be read.
        CredentialsMissing { why: String },
        /// The coordinator refuses the login: password, role, database or pg_hba.conf.
        LoginRefused { why: String },
        /// The name of the coordinator has no address.
        NameUnresolved { why: String },
        /// No connection to the coordinator's address and port.
        CoordinatorUnreachable { why: String },
        /// The coordinator takes a connection, or may have, and says nothing in time.
        CoordinatorSilent { why: String },
        /// The coordinator starts up or shuts down.
        CoordinatorStarting { why: String },
        /// What answers is a standby or mirror in recovery.
        CoordinatorInRecovery { why: String },
        /// The authorities to trust for TLS cannot be read.
        CaMissing { why: String },
        /// What should be the authorities to trust for TLS holds no usable certificates.
        CaInvalid { why: String },
        /// TLS is asked for and the coordinator offers none.
        TlsNotOffered { why: String },
        /// The coordinator's certificate is signed by no authority that is trusted.
        CertificateUntrusted { why: String },
        /// The coordinator's certificate is for another name than the one that was asked for.
        CertificateNameMismatch { why: String },
        /// The coordinator's certificate is out of its time.
        CertificateExpired { why: String },
        /// Any other fault of TLS.
        TlsHandshakeFailed { why: String },
        /// What answers speaks another protocol than PostgreSQL's.
        NotPostgres { why: String },
        /// What answers is a PostgreSQL, but no Greenplum or Cloudberry that gpheal knows.
        NotGreenplum { why: String },
        /// What answers is a Greenplum, but not the acting coordinator: it has no row of its own in its catalog.
        NotCoordinator { why: String },
        /// The coordinator is on a lower timeline than one that was seen before: an old one runs again.
        OldCoordinator { why: String },
        /// The coordinator answers, and its catalog cannot be read or holds what no Greenplum writes.
        CatalogUnreadable { why: String },
    }
}

impl Unread {
    /// What was seen, for people.
    pub fn why(&self) -> &str {
        match self {
            Self::CredentialsMissing { why }
            | Self::LoginRefused { why }
            | Self::NameUnresolved { why }
            | Self::CoordinatorUnreachable { why }
            | Self::CoordinatorSilent { why }
            | Self::CoordinatorStarting { why }
            | Self::CoordinatorInRecovery { why }
            | Self::CaMissing { why }
            | Self::CaInvalid { why }
            | Self::TlsNotOffered { why }
            | Self::CertificateUntrusted { why }
            | Self::CertificateNameMismatch { why }
            | Self::CertificateExpired { why }
            | Self::TlsHandshakeFailed { why }
            | Self::NotPostgres { why }
            | Self::NotGreenplum { why }
            | Self::NotCoordinator { why }
            | Self::OldCoordinator { why }
            | Self::CatalogUnreadable { why } => why,
        }
    }

    /// What has to happen before anything is done.
    pub fn lifted_by(&self) -> &'static str {
        match self {
            Self::CredentialsMissing { .. } => {
                "lifted when the Secret of spec.coordinator.credentialsSecret is in this namespace with the keys username and password"
            }
            Self::LoginRefused { .. } => {
                "lifted when the login of spec.coordinator.credentialsSecret is let in; check its password, the role and pg_hba.conf"
            }
            Self::NameUnresolved { .. } => {
                "lifted when spec.coordinator.service or spec.coordinator.host can be resolved from the operator's namespace"
            }
            Self::CoordinatorUnreachable { .. } => {
                "lifted when the coordinator accepts connections; check its pod, spec.coordinator.port and network policies"
            }
            Self::CoordinatorSilent { .. } => {
                "lifted when the coordinator answers; check that its postgres is not stopped, spec.coordinator.port and network policies"
            }
            Self::CoordinatorStarting { .. } => "lifted by itself when the coordinator accepts sessions",
            Self::CoordinatorInRecovery { .. } => {
                "lifted when spec.coordinator leads to the acting coordinator; a standby is made to act by gpactivatestandby"
            }
            Self::CaMissing { .. } | Self::CaInvalid { .. } => {
                "lifted when the Secret of spec.coordinator.tls.caSecretRef holds the authorities' certificates in PEM"
            }
            Self::TlsNotOffered { .. } => "lifted by ssl = on at the coordinator, or by spec.coordinator.tls.mode: disable",
            Self::CertificateUntrusted { .. } => {
                "lifted when spec.coordinator.tls.caSecretRef holds the authority that signed the coordinator's certificate"
            }
            Self::CertificateNameMismatch { .. } => {
                "lifted by a certificate with the name of spec.coordinator.service or host as a subjectAltName"
            }
            Self::CertificateExpired { .. } => "lifted by a certificate that is valid now; look at the clocks, too",
            Self::TlsHandshakeFailed { .. } => "lifted when the coordinator's TLS agrees with gpheal's (1.2 and 1.3); see its log",
            Self::NotPostgres { .. } => "lifted when spec.coordinator leads to the coordinator's postmaster; check service, host and port",
            Self::NotGreenplum { .. } => "lifted when spec.coordinator leads to the coordinator of a Greenplum 6 or 7, or of a Cloudberry",
            Self::NotCoordinator { .. } => {
                "lifted when spec.coordinator leads to the acting coordinator, whose catalog has its row (content -1, role p)"
            }
            Self::OldCoordinator { .. } => {
                "lifted when spec.coordinator leads to the coordinator that acted last; after a restore of the whole cluster, \
                 by removing status.coordinatorTimeline (kubectl patch --subresource=status)"
            }
            Self::CatalogUnreadable { .. } => {
                "lifted when gp_segment_configuration can be read; check spec.coordinator.database, the role's rights and the rows"
            }
        }
    }

    /// Waiting alone does not lift it: a person has to change something.
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::CredentialsMissing { .. }
                | Self::LoginRefused { .. }
                | Self::CaMissing { .. }
                | Self::CaInvalid { .. }
                | Self::TlsNotOffered { .. }
                | Self::CertificateUntrusted { .. }
                | Self::CertificateNameMismatch { .. }
                | Self::CertificateExpired { .. }
                | Self::TlsHandshakeFailed { .. }
                | Self::NotPostgres { .. }
                | Self::NotGreenplum { .. }
                | Self::NotCoordinator { .. }
                | Self::OldCoordinator { .. }
        )
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if matches!(self, Self::OldCoordinator { .. }) { "coordinator is not believed" } else { "catalog cannot be read" };
        write!(f, "the {what}: {}", self.why())
    }
}
