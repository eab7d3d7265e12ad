//! `gpheal supervise --check`: whether this container fulfils the contract of a segment pod
//! (docs/attach.md#the-contract-of-a-segment-pod), point by point, each with what to do. It writes nothing and
//! starts nothing, so it may be run beside a living postgres.

mod environment;
pub mod fault;
mod image;
mod mount;
mod network;
mod place;
mod print;

use clap::{ArgMatches, Args, ValueEnum};
use nix::unistd::Uid;

pub use environment::asked;

use self::fault::{Fault, Shortcoming};
use super::ask::{self, Answer};
use crate::{
    supervisor::Config,
    volume::{TokenState, places, shape},
};
use greenplum::{Login, topology::Scope};
use model::{Dbid, Look, Timeline};

/// How a check is asked for.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only check whether this container fulfils the contract of a segment pod: writes nothing, starts nothing.
    #[arg(long)]
    pub check: bool,
    /// How the check answers.
    #[arg(long, value_enum, default_value_t = Output::Text, requires = "check")]
    pub output: Output,
    /// The pod's terminationGracePeriodSeconds, which cannot be seen from inside: the check holds the time of a stop against it.
    #[arg(long, requires = "check")]
    pub grace_seconds: Option<u64>,
}

/// Form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line for each point.
    Text,
    /// One object.
    Json,
}

/// What was found at one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// With what was seen.
    Ok(String),
    /// It cannot be told now, and why.
    Skipped(String),
    NotOk(Fault),
}

impl From<Result<String, Fault>> for Verdict {
    fn from(result: Result<String, Fault>) -> Self {
        result.map_or_else(Self::NotOk, Self::Ok)
    }
}

/// A point by its stable name, and what was found there.
#[derive(Clone, Debug)]
pub struct Finding {
    pub point: &'static str,
    pub verdict: Verdict,
}

/// Checks and prints; `true` when nothing is wrong.
///
/// # Errors
/// That the answer cannot be printed.
pub async fn run(options: &Options, matches: &ArgMatches) -> std::io::Result<bool> {
    let findings = match environment::config(matches) {
        Ok(config) => Check { findings: vec![], config }.all(options.grace_seconds).await,
        Err(faults) => without_config(faults),
    };
    print::print(&findings, options.output, &mut std::io::stdout())?;
    Ok(!findings.iter().any(|finding| matches!(finding.verdict, Verdict::NotOk(_))))
}

fn without_config(faults: Vec<Shortcoming>) -> Vec<Finding> {
    let point = |fault| Finding { point: "Environment", verdict: Verdict::NotOk(Fault::Seen(fault)) };
    let mut findings: Vec<_> = faults.into_iter().map(point).collect();
    findings.push(Finding { point: "Processes", verdict: place::processes(&place::Processes::look()) });
    let rest = Verdict::Skipped("the other points need a whole environment".into());
    findings.push(Finding { point: "Rest", verdict: rest });
    findings
}

struct Check {
    config: Config,
    findings: Vec<Finding>,
}

impl Check {
    /// Every point, from the nearest to the farthest.
    async fn all(mut self, grace: Option<u64>) -> Vec<Finding> {
        self.note("Environment", Verdict::Ok("every variable is set and can be understood".into()));
        self.note("StopTime", stop_time(self.config.stop_seconds, grace));
        self.note("User", place::user(&self.config.data_directory, Uid::effective()));
        self.note("Processes", place::processes(&place::Processes::look()));
        let supervised = place::is_supervised();
        self.note("Supervisor", place::supervisor(supervised));
        let token = self.volume(supervised);
        self.image();
        self.network(&token).await;
        self.findings
    }

    fn note(&mut self, point: &'static str, verdict: Verdict) {
        self.findings.push(Finding { point, verdict });
    }

    fn volume(&mut self, supervised: bool) -> TokenState {
        let (volume, verdict) = place::volume(&self.config.data_directory);
        self.note("Volume", verdict);
        let Some(volume) = volume else { return TokenState::Absent };
        let shaped = shape::look(volume.data());
        self.note("DataDirectory", place::directory(&shaped));
        self.note("FullCopy", place::copied(&volume));
        self.note("MarksFolder", place::marks_folder(&volume));
        self.note("Marks", place::marks(&volume.marks()));
        let token = volume.token(&self.config.cluster, &self.config.address, self.config.port);
        self.note("Token", place::token(&token, shaped.shape));
        self.note("Lock", place::lock(&volume, supervised));
        token
    }

    fn image(&mut self) {
        let postgres = self.config.postgres.first().map_or("postgres", String::as_str).to_owned();
        self.note("Programs", image::programs(&postgres));
        let made_by = std::fs::read(self.config.data_directory.join("PG_VERSION")).ok();
        self.note("Version", image::version(&postgres, made_by.as_deref().map(String::from_utf8_lossy).as_deref()));
    }

    async fn network(&mut self, token: &TokenState) {
        self.note("Name", network::name(&self.config.address).await);
        let login = match self.config.login() {
            Ok(login) => login,
            Err(error) => {
                self.note("Credentials", Verdict::NotOk(Fault::Seen(Shortcoming::CredentialsUnreadable { why: error.to_string() })));
                return self.skip(&["Coordinator", "CatalogRow", "Login", "Replication"], "needs the credentials");
            }
        };
        self.note("Credentials", Verdict::Ok(format!("user {}", login.user)));
        let (seen, coordinator, dbid) = match token {
            TokenState::Mine(token) => (token.coordinator_timeline, token.coordinator, Some(token.dbid)),
            TokenState::Absent | TokenState::Foreign(_) => (Timeline(0), None, None),
        };
        let look = ask::catalog(&self.config, ask::Known { seen, coordinator, spent: None, scope: Scope::All }).await;
        self.note("Coordinator", network::coordinator(&look));
        let dbid = places::identity(&self.config.data_directory).0.or(dbid);
        match look {
            Look::Seen(answer) => self.pair(&answer, dbid, &login).await,
            Look::Unknown(_) => self.skip(&["CatalogRow", "Login", "Replication"], "needs the catalog"),
        }
    }

    async fn pair(&mut self, answer: &Answer, dbid: Option<Dbid>, login: &Login) {
        let (verdict, pair) = network::rows(&self.config, answer, dbid);
        self.note("CatalogRow", verdict);
        let (verdict, primary) = network::logins(&pair, login).await;
        self.note("Login", verdict);
        match primary {
            Some(primary) => {
                let verdict = match self.config.postgres_logins() {
                    Ok(logins) => network::replication(&primary, &logins).await,
                    Err(error) => Verdict::NotOk(Fault::Seen(Shortcoming::CredentialsUnreadable { why: error.to_string() })),
                };
                self.note("Replication", verdict);
            }
            None => self.skip(&["Replication"], "no primary to ask"),
        }
    }

    fn skip(&mut self, points: &[&'static str], why: &str) {
        for point in points {
            self.note(point, Verdict::Skipped(why.into()));
        }
    }
}

/// A stop that has to be made harder takes 5 s more (`watch.rs`), and then everything is killed.
fn stop_time(seconds: u64, grace: Option<u64>) -> Verdict {
    let needed = seconds + 5;
    match grace {
        None => Verdict::Skipped(format!(
            "terminationGracePeriodSeconds cannot be seen from inside; it has to be more than {needed} (say --grace-seconds)"
        )),
        Some(grace) if grace <= needed => Verdict::NotOk(Fault::Seen(Shortcoming::StopTooLong { seconds: needed, grace })),
        Some(grace) => Verdict::Ok(format!("a stop takes {needed} s at most, the pod has {grace} s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_has_to_fit_into_the_grace_period() {
        assert!(matches!(stop_time(45, Some(60)), Verdict::Ok(_)));
        assert!(matches!(stop_time(45, Some(50)), Verdict::NotOk(fault) if fault.code() == "StopTooLong"));
        assert!(matches!(stop_time(45, None), Verdict::Skipped(_)));
    }
}
