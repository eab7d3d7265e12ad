//! The supervisor's configuration: environment variables of the container.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    greenplum::{Ca, Login, Server, Tls, TlsMode},
    volume::Holder,
};

/// How the database is asked: the words are libpq's `sslmode`.
#[derive(Args, Clone, Debug)]
pub struct TlsOptions {
    /// `disable`; `require`: encrypted, the certificate is not looked at; `verify-full`: signed by an authority in
    /// GPHEAL_CA for the name that was asked for.
    #[arg(long = "tls", env = "GPHEAL_TLS", value_enum, default_value_t)]
    pub mode: TlsMode,
    /// File of the authorities to trust, in PEM (a mounted secret); read anew for each connection.
    #[arg(long, env = "GPHEAL_CA", required_if_eq("mode", "verify-full"))]
    pub ca: Option<PathBuf>,
}

impl TlsOptions {
    pub fn tls(&self) -> Tls {
        Tls::of(self.mode, || Ca::File(self.ca.clone().unwrap_or_default()))
    }
}

/// Runs postgres as pid 1 of a segment's or coordinator's container, and decides whether it may run.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Name of the GreenplumCluster that this instance belongs to.
    #[arg(long, env = "GPHEAL_CLUSTER")]
    pub cluster: String,
    /// The coordinator, and its standby if there is one: host:port[,host:port].
    #[arg(long, env = "GPHEAL_COORDINATOR", value_delimiter = ',', required = true)]
    pub coordinator: Vec<String>,
    /// Absolute path of the data directory; a folder below its mount, never the mount itself.
    #[arg(long, env = "GPHEAL_DATA_DIRECTORY")]
    pub data_directory: PathBuf,
    /// TCP port of postgres, as in the catalog.
    #[arg(long, env = "GPHEAL_PORT")]
    pub port: u16,
    /// Address of this instance, as in the catalog.
    #[arg(long, env = "GPHEAL_ADDRESS")]
    pub address: String,
    /// Folder with the files `username` and `password` (a mounted secret).
    #[arg(long, env = "GPHEAL_CREDENTIALS")]
    pub credentials: PathBuf,
    #[command(flatten)]
    pub tls: TlsOptions,
    /// Where the page is served.
    #[arg(long, env = "GPHEAL_LISTEN", default_value = "0.0.0.0:8090")]
    pub listen: SocketAddr,
    /// Seconds that a stop may take before it is made harder; less than the pod's grace period.
    #[arg(long, env = "GPHEAL_STOP_SECONDS", default_value_t = 45)]
    pub stop_seconds: u64,
    /// Seconds that a coordinator waits for a live primary of every content before it dispatches.
    #[arg(long, env = "GPHEAL_COORDINATOR_WAIT", default_value_t = 120)]
    pub coordinator_wait: u64,
    /// Where the password file for postgres' own connections is written.
    #[arg(long, env = "GPHEAL_PASSFILE", default_value = "/tmp/gpheal.pgpass")]
    pub passfile: PathBuf,
    /// Name of the pod: who holds the volume's lock.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod: String,
    /// Name of the node. Without it a volume that a holder elsewhere did not give back is never taken over by itself.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node: String,
    /// The pod's annotations as a file (downward API): how a person speaks to the supervisor.
    #[arg(long, env = "GPHEAL_ANNOTATIONS")]
    pub annotations: Option<PathBuf>,
    /// The postgres executable; its arguments are the supervisor's business.
    #[arg(last = true, required = true)]
    pub postgres: Vec<String>,
}

/// The secret can not be used.
#[derive(Debug, thiserror::Error)]
#[error("the credentials in {folder} can not be read ({source}); mount a secret with the keys username and password")]
pub struct NoCredentials {
    folder: PathBuf,
    source: std::io::Error,
}

/// Reads the login from a mounted secret; read each time, so that a rotated password is taken.
///
/// # Errors
/// [`NoCredentials`]
pub fn login(folder: &std::path::Path, tls: &TlsOptions) -> Result<Login, NoCredentials> {
    let read = |key: &str| {
        let text = std::fs::read_to_string(folder.join(key));
        text.map(|t| t.trim_end_matches('\n').to_owned()).map_err(|source| NoCredentials { folder: folder.to_owned(), source })
    };
    Ok(Login { user: read("username")?, password: read("password")?, tls: tls.tls() })
}

/// Writes a password file, which libpq of every version reads by `PGPASSFILE`.
///
/// # Errors
/// As of the file system.
pub fn write_passfile(path: &std::path::Path, login: &Login) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "*:*:*:{}:{}", escaped(&login.user), escaped(&login.password))
}

impl Config {
    /// The coordinators to ask, in their order.
    pub fn coordinators(&self) -> Vec<Server> {
        self.coordinator.iter().filter_map(|text| Server::parse(text)).collect()
    }

    /// This instance's own postgres, by the name that its certificate carries.
    pub fn local(&self) -> Server {
        Server::new(&self.address, self.port).at(std::net::Ipv4Addr::LOCALHOST.into())
    }

    /// Who asks the database, read anew.
    ///
    /// # Errors
    /// [`NoCredentials`]
    pub fn login(&self) -> Result<Login, NoCredentials> {
        login(&self.credentials, &self.tls)
    }

    /// Patience with a stop.
    pub fn stop(&self) -> Duration {
        Duration::from_secs(self.stop_seconds)
    }

    /// What the lock's file says while we hold it.
    pub fn holder(&self) -> Holder {
        Holder::here(&self.node, &self.pod, "supervisor")
    }
}
