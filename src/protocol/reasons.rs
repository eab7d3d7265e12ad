//! Enumerations of reasons that cannot be forgotten anywhere: the name of a variant is its stable code, its first
//! comment is its meaning, and there is an example of each. `docs/refusals.md` is written from them.

use super::{Content, Dbid, Lsn, Repair, Unread};

/// Declares an enumeration with `name`, `MEANINGS` and `examples`.
#[macro_export]
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
                vec![$(Self::$variant $({ $($field: $crate::reasons::Example::of(stringify!($variant), stringify!($field))),* })?),*]
            }
        }
    };
}

/// The words of an enumeration as a table: one entry for each variant, of which none can be forgotten.
#[macro_export]
macro_rules! sentences {
    ($enum:ident { $($variant:ident $({ $($field:ident),* })?: $nature:expr, ($($said:tt)*), ($($lifted:tt)*);)* }) => {
        #[allow(unused_variables, reason = "an entry need not use all that it is given")]
        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self { $(Self::$variant $({ $($field),* })? => write!(f, $($said)*)),* }
            }
        }

        #[allow(unused_variables, reason = "an entry need not use all that it is given")]
        impl $enum {
            /// What has to happen before something is done.
            pub fn lifted_by(&self) -> String {
                match self { $(Self::$variant $({ $($field),* })? => format!($($lifted)*)),* }
            }

            fn nature(&self) -> Nature {
                match self { $(Self::$variant $({ $($field),* })? => $nature),* }
            }
        }
    };
}

/// A value for a field of a variant, as the documents show it.
pub trait Example {
    fn of(variant: &str, field: &str) -> Self;
}

/// What texts of a variant's field look like, the first that fits; `*` fits all.
#[rustfmt::skip]
const TEXTS: &[(&str, &str, &str)] = &[
    ("CatalogInvalid", "*", "content 0 has two primaries"),
    ("PeerSuspect", "*", "it says that it is dbid 9 of content 3"),
    ("DoesNotStart", "*", "Configuration: syntax error in file \"/data/gpseg0/postgresql.conf\" line 12, near token \"=\""),
    ("FullNotAllowed", "*", "the control file is unusable"),
    ("SupervisorSays", "*", "the catalog says mirror and the directory would start as a primary: it is stale"),
    ("NotInCatalog", "*", "dbid 77"),
    ("MirrorHangs", "*", "the mirror was sent the log up to 0/C240000, and has acknowledged nothing past 0/C03B448 since; commits wait for it"),
    ("MirrorUnreachable", "*", "its supervisor does not answer (timed out), and its node n2 is not ready"),
    ("MirrorSlow", "*", "the mirror was sent the log up to 0/C240000, and has acknowledged nothing past 0/C03B448 since; its WAL receiver works"),
    ("MirrorNotReceiving", "*", "could not start WAL streaming: ERROR:  replication slot \"internal_wal_replication_slot\" is already active"),
    ("CrashLooping", "*", "last at 2026-01-01T00:00:00Z (checkpointer process (PID 318) was terminated by signal 6: Aborted, within a \
        postmaster that lives; Unclassified): its log says nothing"),
    ("MirrorUnwatched", "*", "this login does not see how far a mirror is"),
    ("TakenUpAgain", "why", "SourceBusy: another repair of this content holds the source"),
    ("AttemptStuck", "why", "its node n2 is not ready since 08:14"),
    ("PodRefused", "why", "pods \"demo-d5-3f2a9c1e-a2-x7k2p\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=9, limited: pods=9"),
    ("NotMade", "why", "cannot create SegmentRecovery demo-d5-3f2a9c1e: exceeded quota: small, requested: \
        count/segmentrecoveries.gpheal.io=1, used: 9, limited: 9"),
    ("NotMarkedUp", "why", "FTS did not end its look within 160 s"),
    ("VolumeInUse", "*", "process 32404 lives in the data directory without the lock"),
    ("PageNotBelieved", "*", "its page belongs to cluster 'other' and not to 'demo'"),
    ("CredentialsMissing", "*", "there is no Secret demo-gpadmin; make it with the keys username and password"),
    ("LoginRefused", "*", "gp:5432 refuses the login: password authentication failed for user \"gpadmin\""),
    ("NameUnresolved", "*", "the name gp cannot be resolved"),
    ("CaMissing", "*", "the authorities to trust cannot be read: there is no Secret demo-ca"),
    ("CaInvalid", "*", "key ca.crt of Secret demo-ca holds no usable certificates"),
    ("TlsNotOffered", "*", "gp:5432: the server offers no TLS"),
    ("CertificateUntrusted", "*", "gp:5432: no authority in key ca.crt of Secret demo-ca has signed the server's certificate"),
    ("CertificateNameMismatch", "*", "gp:5432: the server's certificate is not for gp"),
    ("CertificateExpired", "*", "gp:5432: the server's certificate is out of its time"),
    ("TlsHandshakeFailed", "*", "gp:5432: the TLS handshake failed"),
    ("CoordinatorSilent", "*", "gp:5432 did not answer within 5 s"),
    ("CoordinatorStarting", "*", "gp:5432 is starting up or shutting down"),
    ("CoordinatorInRecovery", "*", "gp:5432 is a mirror in recovery"),
    ("NotPostgres", "*", "gp:80: what listens there speaks no PostgreSQL; it says 'HTTP/1.1 400 Bad Request'"),
    ("NotGreenplum", "*", "gp:5432 is no Greenplum: unrecognized configuration parameter \"gp_role\""),
    ("NotCoordinator", "*", "gp:6000 is no acting coordinator: its gp_segment_configuration is empty, as that of a segment"),
    ("OldCoordinator", "*", "it is on timeline 1, older than 2 which was seen before"),
    ("CatalogUnreadable", "*", "gp:5432: database \"gp\" does not exist"),
    ("VariableMissing", "variable", "GPHEAL_PORT"),
    ("VariableMalformed", "variable", "GPHEAL_PORT"),
    ("VariableMalformed", "*", "invalid value '70000' for '--port <PORT>'"),
    ("ModeTooOpen", "mode", "2770"),
    ("NotOwner", "*", "/data/gpseg"),
    ("ModeTooOpen", "*", "/data/gpseg"),
    ("DirectoryUnreadable", "*", "/data/gpseg cannot be listed: Permission denied (os error 13)"),
    ("MarksNotWritable", "folder", "/data"),
    ("MarksNotWritable", "*", "EROFS: Read-only file system"),
    ("ProgramMissing", "program", "pg_rewind"),
    ("ProgramMissing", "*", "it is not on PATH"),
    ("VersionUnknown", "*", "PostgreSQL 11 is the base of no Greenplum that gpheal knows"),
    ("VersionDiffers", "directory", "9.4"),
    ("VersionDiffers", "*", "12.12"),
    ("CredentialsUnreadable", "*", "the credentials in /etc/gpheal/credentials cannot be read (No such file or directory)"),
    ("NameElsewhere", "ip", "10.244.2.9"),
    ("ReplicationRefused", "*", "no pg_hba.conf entry for host \"10.244.1.5\", user \"gpadmin\""),
    ("OwnKernel", "*", "its runtimeClassName is kata, and its supervisor does not tell the boot id of its kernel"),
    ("OtherCoordinator", "theirs", "gp-coordinator-0.gp:5432"),
    ("OtherCoordinator", "*", "another-coordinator-0.gp.demo.svc:5432"),
    ("ForeignSecret", "*", "demo-somebody-elses"),
    ("ClaimUnread", "why", "there is no such claim"),
    ("UntrustedLock", "*", "it is on nfs4, whose locks may be lost while files stay open"),
    ("NotToBeCopied", "why", "its log is linked to another place (/log/gpseg)"),
    ("JobLacks", "what", "the proxy of a service mesh (istio-proxy), without which strict mTLS lets nobody in"),
    ("*", "why", "connection refused"),
    ("*", "job", "demo-d5-3f2a9c1e-a2"),
    ("*", "claim", "data-gp-mirror-0"),
    ("*", "mode", "ReadWriteMany"),
    ("*", "recovery", "demo-d5-3f2a9c1e"),
    ("*", "address", "gp-mirror-0.gp"),
    ("*", "pods", "gp-mirror-0, copy-of-it"),
    ("*", "container", "greenplum"),
];

impl Example for String {
    fn of(variant: &str, field: &str) -> Self {
        let fits = |wanted: &str, name: &str| wanted == "*" || wanted == name;
        let found = TEXTS.iter().find(|(of, of_field, _)| fits(of, variant) && fits(of_field, field));
        found.map_or(MISSING, |(.., text)| text).to_owned()
    }
}

/// No document is written with it.
const MISSING: &str = "\u{2026}";

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

impl Example for jiff::SignedDuration {
    fn of(_: &str, _: &str) -> Self {
        Self::from_hours(1)
    }
}

/// What felled an instance, three times.
impl Example for Vec<String> {
    fn of(_: &str, _: &str) -> Self {
        [
            "08:02 SegmentRecovery demo-d5-3f2a9c1e (Incremental): down past its grace period",
            "08:09 SegmentRecovery demo-d5-77d01b25 (Full): down past its grace period",
            "now Starting: postgres starts up",
        ]
        .map(Into::into)
        .into()
    }
}

impl Example for bool {
    fn of(_: &str, _: &str) -> Self {
        false
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
    use crate::{FailureClass, InstanceState, Refusal, Unread, refusal::ContractPoint};

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

    /// A new text gets an example of its own.
    #[test]
    fn no_example_is_missing() {
        let told = [
            Refusal::examples().iter().map(|one| format!("{one}; {}", one.lifted_by())).collect::<Vec<_>>(),
            Unread::examples().iter().map(ToString::to_string).collect(),
            ContractPoint::examples().iter().map(ToString::to_string).collect(),
        ];
        let missing: Vec<_> = told.iter().flatten().filter(|told| told.contains(super::MISSING)).collect();
        assert!(missing.is_empty(), "{missing:?}");
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
