//! Enumerations of reasons that can not be forgotten anywhere: the name of a variant is its stable code, its first
//! comment is its meaning, and there is an example of each. `docs/refusals.md` is written from them.

use super::{Content, Dbid, Lsn, Repair, Unread};

/// Declares an enumeration with `name`, `MEANINGS` and `examples`.
macro_rules! reasons {
    ($(#[$attribute:meta])* pub enum $enum:ident {
        $($(#[doc = $doc:literal])+ $variant:ident $({ $($field:ident: $type:ty),* $(,)? })?),* $(,)?
    }) => {
        $(#[$attribute])*
        pub enum $enum { $($(#[doc = $doc])+ $variant $({ $($field: $type),* })?),* }

        impl $enum {
            /// Name and meaning of every variant.
            pub const MEANINGS: &'static [(&'static str, &'static str)] = &[$((stringify!($variant), concat!($($doc),+))),*];

            /// The variant's name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => stringify!($variant)),* }
            }

            /// One of each, in the order of `MEANINGS`.
            pub fn examples() -> Vec<Self> {
                vec![$(Self::$variant $({ $($field: $crate::model::reasons::Example::of(stringify!($variant), stringify!($field))),* })?),*]
            }
        }
    };
}
pub(crate) use reasons;

/// A value for a field of a variant, as the documents show it.
pub trait Example {
    fn of(variant: &str, field: &str) -> Self;
}

impl Example for String {
    fn of(variant: &str, field: &str) -> Self {
        let text = match (variant, field) {
            ("CatalogInvalid", _) => "content 0 has two primaries",
            ("PeerSuspect", _) => "it says that it is dbid 9 of content 3",
            ("FullNotAllowed", _) => "the control file is unusable",
            ("SupervisorSays", _) => "the catalog says mirror and the directory would start as a primary: it is stale",
            ("NotInCatalog", _) => "dbid 77",
            ("TakenUpAgain", "why") => "SourceBusy: another repair of this content holds the source",
            ("AttemptStuck", "why") => "its node n2 is not ready since 08:14",
            ("VolumeInUse", _) => "process 32404 lives in the data directory without the lock",
            ("PageNotBelieved", _) => "its page belongs to cluster 'other' and not to 'demo'",
            ("CredentialsMissing", _) => "there is no Secret demo-gpadmin; make it with the keys username and password",
            ("LoginRefused", _) => "gp:5432 refuses the login: password authentication failed for user \"gpadmin\"",
            ("NameUnresolved", _) => "the name gp can not be resolved",
            ("CaMissing", _) => "the authorities to trust can not be read: there is no Secret demo-ca",
            ("CaInvalid", _) => "key ca.crt of Secret demo-ca holds no usable certificates",
            ("TlsNotOffered", _) => "gp:5432: the server offers no TLS",
            ("CertificateUntrusted", _) => "gp:5432: no authority in key ca.crt of Secret demo-ca has signed the server's certificate",
            ("CertificateNameMismatch", _) => "gp:5432: the server's certificate is not for gp",
            ("CertificateExpired", _) => "gp:5432: the server's certificate is out of its time",
            ("TlsHandshakeFailed", _) => "gp:5432: the TLS handshake failed",
            ("CoordinatorSilent", _) => "gp:5432 did not answer within 5 s",
            ("CoordinatorStarting", _) => "gp:5432 is starting up or shutting down",
            ("CoordinatorInRecovery", _) => "gp:5432 is a mirror in recovery",
            ("NotPostgres", _) => "gp:80: what listens there speaks no PostgreSQL; it says 'HTTP/1.1 400 Bad Request'",
            ("NotGreenplum", _) => "gp:5432 is no Greenplum: unrecognized configuration parameter \"gp_role\"",
            ("NotCoordinator", _) => "gp:6000 is no acting coordinator: its gp_segment_configuration is empty, as that of a segment",
            ("OldCoordinator", _) => "it is on timeline 1, older than 2 which was seen before",
            ("CatalogUnreadable", _) => "gp:5432: database \"gp\" does not exist",
            ("VariableMissing" | "VariableMalformed", "variable") => "GPHEAL_PORT",
            ("VariableMalformed", _) => "invalid value '70000' for '--port <PORT>'",
            ("ModeTooOpen", "mode") => "2770",
            ("NotOwner" | "ModeTooOpen", _) => "/data/gpseg",
            ("DirectoryUnreadable", _) => "/data/gpseg can not be listed: Permission denied (os error 13)",
            ("MarksNotWritable", "folder") => "/data",
            ("MarksNotWritable", _) => "EROFS: Read-only file system",
            ("ProgramMissing", "program") => "pg_rewind",
            ("ProgramMissing", _) => "it is not on PATH",
            ("VersionUnknown", _) => "PostgreSQL 11 is the base of no Greenplum that gpheal knows",
            ("VersionDiffers", "directory") => "9.4",
            ("VersionDiffers", _) => "12.12",
            ("CredentialsUnreadable", _) => "the credentials in /etc/gpheal/credentials can not be read (No such file or directory)",
            ("NameElsewhere", "ip") => "10.244.2.9",
            ("ReplicationRefused", _) => "no pg_hba.conf entry for host \"10.244.1.5\", user \"gpadmin\"",
            ("OwnKernel", _) => "its runtimeClassName is kata, and its supervisor does not tell the boot id of its kernel",
            ("OtherCoordinator", "theirs") => "gp-coordinator-0.gp:5432",
            ("OtherCoordinator", _) => "another-coordinator-0.gp.demo.svc:5432",
            ("ForeignSecret", _) => "demo-somebody-elses",
            ("ClaimUnread", "why") => "there is no such claim",
            ("UntrustedLock", _) => "it is on nfs4, whose locks may be lost while files stay open",
            (_, "why") => "connection refused",
            (_, "job") => "demo-d5-3f2a9c1e-a2",
            (_, "claim") => "data-gp-mirror-0",
            (_, "mode") => "ReadWriteMany",
            (_, "recovery") => "demo-d5-3f2a9c1e",
            (_, "address") => "gp-mirror-0.gp",
            (_, "pods") => "gp-mirror-0, copy-of-it",
            (_, "container") => "greenplum",
            _ => "…",
        };
        text.to_owned()
    }
}

impl Example for Dbid {
    fn of(variant: &str, field: &str) -> Self {
        Self(if field == "primary" || variant.contains("Primary") { 2 } else { 5 })
    }
}

impl Example for Content {
    fn of(_: &str, _: &str) -> Self {
        Self(0)
    }
}

impl Example for Lsn {
    fn of(_: &str, _: &str) -> Self {
        Self(0x300_0060)
    }
}

impl Example for Repair {
    fn of(_: &str, _: &str) -> Self {
        Self::Incremental
    }
}

impl Example for Unread {
    fn of(_: &str, _: &str) -> Self {
        Self::CoordinatorUnreachable { why: "connection refused".into() }
    }
}

impl Example for jiff::Timestamp {
    fn of(_: &str, _: &str) -> Self {
        Self::from_second(1_800_000_000).unwrap_or(Self::UNIX_EPOCH)
    }
}

impl Example for i64 {
    fn of(_: &str, _: &str) -> Self {
        25
    }
}

impl Example for u64 {
    fn of(_: &str, field: &str) -> Self {
        if field == "grace" { 30 } else { 50 }
    }
}

impl Example for u32 {
    fn of(_: &str, field: &str) -> Self {
        if field == "owner" { 0 } else { 1000 }
    }
}

impl Example for usize {
    fn of(_: &str, _: &str) -> Self {
        2
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{FailureClass, InstanceState, Refusal, Unread, refusal::ContractPoint};

    #[test]
    fn every_reason_has_a_meaning_and_says_what_lifts_it() {
        let refusals: Vec<_> = Refusal::examples().into_iter().map(|r| (r.name(), r.to_string(), r.lifted_by())).collect();
        assert_eq!(refusals.len(), Refusal::MEANINGS.len());
        for (name, sentence, lifted_by) in refusals {
            assert!(sentence.len() > 8 && lifted_by.len() > 8, "{name}: {sentence}; {lifted_by}");
        }
        for unread in Unread::examples() {
            assert!(unread.to_string().contains(unread.why()) && unread.lifted_by().starts_with("lifted "), "{}", unread.name());
        }
        for point in ContractPoint::examples() {
            assert!(point.to_string().len() > 8, "{}", point.name());
        }
        for state in InstanceState::examples() {
            assert_eq!(state.name(), format!("{state:?}"));
            assert!(!state.lifted_by().is_empty(), "{state:?}");
        }
        for class in FailureClass::ALL {
            assert!(!class.meaning().is_empty() && !class.lifted_by().is_empty(), "{}", class.as_str());
        }
    }

    #[test]
    fn codes_are_unique_over_all_enumerations_that_name_an_instances_state() {
        let mut codes: Vec<_> =
            [Refusal::MEANINGS, Unread::MEANINGS, ContractPoint::MEANINGS].concat().into_iter().map(|(code, _)| code).collect();
        codes.sort_unstable();
        let all = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }
}
