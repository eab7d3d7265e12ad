//! The supervisor's configuration: environment variables of the container.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::logins::{self, NoCredentials};
use crate::volume::Holder;
use greenplum::{Ca, Login, Server, Tls, TlsMode};

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
    #[arg(long, env = "GPHEAL_COORDINATOR", value_delimiter = ',', required = true, value_parser = server)]
    pub coordinator: Vec<Server>,
    /// Absolute path of the data directory; a folder below its mount, never the mount itself.
    #[arg(long, env = "GPHEAL_DATA_DIRECTORY")]
    pub data_directory: PathBuf,
    /// TCP port of postgres, as in the catalog.
    #[arg(long, env = "GPHEAL_PORT")]
    pub port: u16,
    /// Address of this instance, as in the catalog.
    #[arg(long, env = "GPHEAL_ADDRESS")]
    pub address: String,
    /// Folder with the files `username` and `password` (a mounted secret) of the role that asks the database.
    #[arg(long, env = "GPHEAL_CREDENTIALS")]
    pub credentials: PathBuf,
    /// Folders of the same kind, for postgres' own connections: as whom it replicates, probes and dispatches. Without:
    /// GPHEAL_CREDENTIALS.
    #[arg(long, env = "GPHEAL_POSTGRES_CREDENTIALS", value_delimiter = ',')]
    pub postgres_credentials: Vec<PathBuf>,
    #[command(flatten)]
    pub tls: TlsOptions,
    /// Where the page is served.
    #[arg(long, env = "GPHEAL_LISTEN", default_value = "[::]:8090")]
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
    /// Whether the walsender to a mirror that hangs is ended, and FTS asked to look, so that commits wait for seconds and not for
    /// `wal_sender_timeout`. `false`: it is told, and nothing is done.
    #[arg(long, env = "GPHEAL_HASTEN_LOST_MIRROR", default_value_t = true, action = clap::ArgAction::Set)]
    pub hasten_lost_mirror: bool,
    /// The pod's annotations as a file (downward API): how a person speaks to the supervisor.
    #[arg(long, env = "GPHEAL_ANNOTATIONS")]
    pub annotations: Option<PathBuf>,
    /// The postgres executable; its arguments are the supervisor's business.
    #[arg(last = true, default_value = "postgres")]
    pub postgres: Vec<String>,
}

/// A server as an argument.
///
/// # Errors
/// What it should be.
pub fn server(text: &str) -> Result<Server, &'static str> {
    Server::parse(text).ok_or("it is not host:port")
}

impl Config {
    /// This instance's own postgres, by the name that its certificate carries.
    pub fn local(&self) -> Server {
        Server::new(&self.address, self.port).at(std::net::Ipv4Addr::LOCALHOST.into())
    }

    /// Who asks the database, read anew.
    ///
    /// # Errors
    /// [`NoCredentials`]
    pub fn login(&self) -> Result<Login, NoCredentials> {
        logins::login(&self.credentials, &self.tls)
    }

    /// As whom postgres itself connects, read anew.
    ///
    /// # Errors
    /// [`NoCredentials`]
    pub fn postgres_logins(&self) -> Result<Vec<Login>, NoCredentials> {
        self.each_postgres_login().collect()
    }

    /// The `number`th of those; the first is the superuser's as a rule.
    ///
    /// # Errors
    /// [`NoCredentials`]
    pub fn postgres_login(&self, number: usize) -> Result<Login, NoCredentials> {
        logins::login(self.postgres_credentials.get(number).unwrap_or(&self.credentials), &self.tls)
    }

    fn each_postgres_login(&self) -> impl Iterator<Item = Result<Login, NoCredentials>> {
        let own = std::slice::from_ref(&self.credentials);
        let folders = if self.postgres_credentials.is_empty() { own } else { &self.postgres_credentials };
        folders.iter().map(|folder| logins::login(folder, &self.tls))
    }

    /// Brings the password file up to date: what can be read is written, and whose secret cannot be keeps what was written before.
    ///
    /// # Errors
    /// What is wrong with the secrets or the file.
    pub fn write_passfile(&self) -> anyhow::Result<()> {
        let (mut logins, mut faults) = (vec![], vec![]);
        for login in self.each_postgres_login() {
            match login {
                Ok(login) => logins.push(login),
                Err(error) => faults.push(error.to_string()),
            }
        }
        if faults.is_empty() {
            return Ok(logins::write_passfile(&self.passfile, &logins)?);
        }
        logins::add_to_passfile(&self.passfile, &logins)?;
        anyhow::bail!(faults.join("; "))
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

#[cfg(test)]
pub mod fixtures {
    use clap::Parser;

    use super::Config;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    /// The supervisor of the place that the world of the tests gives to dbid 5, with more arguments.
    pub fn parsed(more: &str) -> Result<Config, clap::Error> {
        let words = format!(
            "x --cluster demo --coordinator c:1 --data-directory /data/gpseg --port 6000 --address seg-5.gp --credentials /c {more} -- postgres"
        );
        Ok(Cli::try_parse_from(words.split_whitespace())?.config)
    }

    pub fn config() -> Config {
        parsed("").unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::{fixtures::parsed, *};

    #[test]
    fn a_coordinator_that_is_none_is_an_error_that_names_it() {
        for (wrong, named) in [("c-1.gp", "'c-1.gp'"), ("c:1,d:x", "'d:x'"), (":5432", "':5432'")] {
            let error = parsed(&format!("--coordinator {wrong}")).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("it is not host:port"), "{error}");
        }
        let both: Vec<_> = parsed("--coordinator d:2,e:3").unwrap().coordinator.iter().map(ToString::to_string).collect();
        assert_eq!(both, ["c:1", "d:2", "e:3"]);
    }

    #[test]
    fn verify_full_needs_authorities() {
        assert_eq!(parsed("").unwrap().tls.tls(), Tls::Disable);
        assert!(parsed("--tls verify-full").unwrap_err().to_string().contains("--ca"));
        let tls = parsed("--tls verify-full --ca /etc/ca.crt").unwrap().tls.tls();
        assert_eq!(tls, Tls::VerifyFull(Ca::File("/etc/ca.crt".into())));
    }
}
