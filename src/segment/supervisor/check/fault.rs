//! What a point of the check can find wrong. Where the operator refuses or the supervisor waits for the same
//! reason, it is that reason.

use std::fmt;

use model::{InstanceState, Refusal, Unread, refusal::ContractPoint};

/// What is wrong, with a stable code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operator would observe the pod and not repair it.
    Contract(ContractPoint),
    /// The operator would refuse.
    Refused(Refusal),
    /// Why each of the coordinators that are named is not to be asked, in their order.
    Coordinator(Unread, Vec<Unread>),
    /// The supervisor would keep postgres down in this state.
    State(InstanceState, String),
    /// The check alone sees it.
    Seen(Shortcoming),
}

model::reasons! {
    /// What only a look from inside the container finds.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Shortcoming {
        /// A variable that the supervisor needs is not set, or empty.
        VariableMissing { variable: String },
        /// A variable has a value that cannot be understood.
        VariableMalformed { variable: String, why: String },
        /// A stop may take longer than the pod's grace period, so it would end in a crash.
        StopTooLong { seconds: u64, grace: u64 },
        /// postgres refuses to run as root.
        RunsAsRoot,
        /// postgres refuses a data directory that is not its user's.
        NotOwner { directory: String, owner: u32, user: u32 },
        /// postgres refuses a data directory that others may enter; a volume whose files are changed at each mount comes to that.
        ModeTooOpen { directory: String, mode: String },
        /// The data directory cannot be looked at.
        DirectoryUnreadable { why: String },
        /// The folder of marks cannot be written.
        MarksNotWritable { folder: String, why: String },
        /// A program that supervisor or Job runs is not in this image.
        ProgramMissing { program: String, why: String },
        /// No dialect of Greenplum that is known.
        VersionUnknown { why: String },
        /// The directory was made by another major version than this image has.
        VersionDiffers { directory: String, server: String },
        /// The files of the credentials secret cannot be read.
        CredentialsUnreadable { why: String },
        /// The instance's own address has no answer in DNS.
        NameUnresolved { why: String },
        /// The instance's own address leads to somebody else.
        NameElsewhere { address: String, ip: String },
        /// A login over the pod network is refused.
        LoginRefused { why: String },
        /// A login for replication over the pod network is refused: neither a mirror nor a repair could copy.
        ReplicationRefused { why: String },
    }
}

impl Fault {
    /// Stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Contract(point) => point.code(),
            Self::Refused(refusal) => refusal.code(),
            Self::Coordinator(first, _) => first.name(),
            Self::State(state, _) => state.name(),
            Self::Seen(seen) => seen.name(),
        }
    }

    /// What to do.
    pub fn answer(&self) -> String {
        match self {
            Self::Contract(point) => answer_to_point(point).to_owned(),
            Self::Refused(refusal) => refusal.lifted_by(),
            Self::Coordinator(first, _) => answer_to_unread(first).into(),
            Self::State(InstanceState::NotInCatalog, _) => {
                "give GPHEAL_ADDRESS, GPHEAL_PORT and GPHEAL_DATA_DIRECTORY exactly as this instance's row of gp_segment_configuration has them"
                    .into()
            }
            Self::State(state, _) => state.lifted_by().into(),
            Self::Seen(seen) => seen.answer().into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contract(point) => write!(f, "{point}"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::Coordinator(first, rest) => {
                write!(f, "{first}")?;
                rest.iter().try_for_each(|one| write!(f, "; {}", one.why()))
            }
            Self::State(_, why) => write!(f, "{why}"),
            Self::Seen(seen) => write!(f, "{seen}"),
        }
    }
}

fn answer_to_point(point: &ContractPoint) -> &'static str {
    match point {
        ContractPoint::NoClaim => "mount a persistent volume claim and put the data directory into a folder of it",
        ContractPoint::DataDirIsMountRoot => "mount the claim one level higher, so that the data directory is a folder of it",
        ContractPoint::HostPid | ContractPoint::SharedProcessNamespace => "give the pod a process namespace for each container",
        ContractPoint::OwnKernel { .. } => "give the pod a runtime that shares its node's kernel",
        ContractPoint::OtherCoordinator { .. } => "let GPHEAL_COORDINATOR name the coordinator that the GreenplumCluster names",
        ContractPoint::CoordinatorUntold => "give the container the variable GPHEAL_COORDINATOR",
        ContractPoint::ForeignSecret { .. } => "mount the secret that spec.job.credentialsSecret names",
        ContractPoint::NoSupervisor => "make `gpheal supervise -- postgres` the container's command",
        ContractPoint::NoPod { .. } | ContractPoint::TwoPods { .. } | ContractPoint::NoSuchContainer { .. } => {
            "mend what the GreenplumCluster selects"
        }
    }
}

/// In a container it is set elsewhere than in a `GreenplumCluster`.
fn answer_to_unread(unread: &Unread) -> &'static str {
    match unread {
        Unread::CredentialsMissing { .. } => "mount the secret with the keys username and password at GPHEAL_CREDENTIALS",
        Unread::LoginRefused { .. } => "check the password in GPHEAL_CREDENTIALS, the role, and the coordinator's pg_hba.conf",
        Unread::NameUnresolved { .. } => "name the coordinator in GPHEAL_COORDINATOR so that this pod can resolve it",
        Unread::CoordinatorUnreachable { .. } | Unread::CoordinatorSilent { .. } => {
            "check host and port in GPHEAL_COORDINATOR, the coordinator's pod, and network policies"
        }
        Unread::CoordinatorStarting { .. } => "check again when the coordinator accepts sessions",
        Unread::CaMissing { .. } | Unread::CaInvalid { .. } | Unread::CertificateUntrusted { .. } => {
            "put the authority that signed the coordinator's certificate into the file of GPHEAL_CA, in PEM"
        }
        Unread::TlsNotOffered { .. } => "turn ssl on at the coordinator, or set GPHEAL_TLS to disable",
        Unread::CertificateNameMismatch { .. } => "give the certificate the name in GPHEAL_COORDINATOR as a subjectAltName",
        Unread::CertificateExpired { .. } | Unread::TlsHandshakeFailed { .. } => {
            "look at the coordinator's certificate, its log, and the clocks"
        }
        Unread::CoordinatorInRecovery { .. }
        | Unread::NotPostgres { .. }
        | Unread::NotGreenplum { .. }
        | Unread::NotCoordinator { .. }
        | Unread::OldCoordinator { .. } => "let GPHEAL_COORDINATOR lead to the acting coordinator, and to its standby after a comma",
        Unread::CatalogUnreadable { .. } => {
            "give the role the right to read gp_segment_configuration (docs/rights.md), and look at its rows"
        }
    }
}

impl Shortcoming {
    /// What to do.
    pub fn answer(&self) -> &'static str {
        match self {
            Self::VariableMissing { .. } | Self::VariableMalformed { .. } => "set it in the container's environment (docs/attach.md)",
            Self::StopTooLong { .. } => "lower GPHEAL_STOP_SECONDS or raise terminationGracePeriodSeconds",
            Self::RunsAsRoot => "set runAsUser to the owner of the data directory",
            Self::NotOwner { .. } => "set runAsUser to the owner, or change the owner of the directory and all in it",
            Self::ModeTooOpen { .. } => "chmod 0700, and set fsGroupChangePolicy: OnRootMismatch, so that it stays",
            Self::DirectoryUnreadable { .. } => "look at the volume and its mount",
            Self::MarksNotWritable { .. } => "check fsGroup, the volume's owner, and that it is not mounted read-only",
            Self::ProgramMissing { .. } => "put the bin folder of Greenplum onto PATH of the container",
            Self::VersionUnknown { .. } => "use Greenplum 6, Greenplum 7 or Apache Cloudberry",
            Self::VersionDiffers { .. } => "use an image of the version that made the directory",
            Self::CredentialsUnreadable { .. } => "mount the secret with the keys username and password at GPHEAL_CREDENTIALS",
            Self::NameUnresolved { .. } => "put the pod into a headless service with publishNotReadyAddresses: true",
            Self::NameElsewhere { .. } => "set GPHEAL_ADDRESS to this pod's own name in the headless service",
            Self::LoginRefused { .. } => "check the password, and let the pod network in by pg_hba.conf with it",
            Self::ReplicationRefused { .. } => "let the pod network in for replication by pg_hba.conf, and give the role REPLICATION",
        }
    }
}

impl fmt::Display for Shortcoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VariableMissing { variable } => write!(f, "{variable} is not set"),
            Self::VariableMalformed { variable, why } => write!(f, "{variable}: {why}"),
            Self::StopTooLong { seconds, grace } => write!(f, "a stop may take {seconds} s and the pod has {grace} s"),
            Self::RunsAsRoot => write!(f, "the container runs as root"),
            Self::NotOwner { directory, owner, user } => write!(f, "{directory} belongs to user {owner}, the container runs as {user}"),
            Self::ModeTooOpen { directory, mode } => write!(f, "{directory} has mode {mode}"),
            Self::MarksNotWritable { folder, why } => write!(f, "{folder} cannot be written: {why}"),
            Self::ProgramMissing { program, why } => write!(f, "{program} cannot be run: {why}"),
            Self::VersionDiffers { directory, server } => write!(f, "PG_VERSION is {directory}, postgres is {server}"),
            Self::NameElsewhere { address, ip } => write!(f, "{address} leads to {ip}, which is no address of this pod"),
            Self::DirectoryUnreadable { why }
            | Self::VersionUnknown { why }
            | Self::CredentialsUnreadable { why }
            | Self::NameUnresolved { why }
            | Self::LoginRefused { why }
            | Self::ReplicationRefused { why } => write!(f, "{why}"),
        }
    }
}
