//! The Job: one attempt at one instance. prove -> hold -> prove again -> copy -> configure -> release.
//!
//! It trusts nobody: what the operator saw is proven here, and proven again under the volume's lock
//! before the first destructive byte. It has no Kubernetes credentials; its outcome stands in the
//! termination message and beside the marks.

mod activity;
mod configure;
mod connections;
mod coordinator;
mod disk;
mod fault;
mod full;
mod history;
mod hold;
mod identify;
mod incremental;
mod kept;
mod layout;
mod progress;
mod prove;
mod room;
mod source;
mod spaces;
mod swap;
mod tool;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    fault::{Classified, Fault},
    hold::Holding,
    progress::Reporter,
    source::SourceLock,
};
use crate::{
    supervisor::{self, NoCredentials},
    volume::{Held, Holder, Volume, VolumeError, mend, mount, token::Directory},
};
use greenplum::{Ca, Login, Server, Tls, TlsMode};
use model::{Attempt, FailureClass, Outcome, Repair, Step};

/// Repairs one instance (the command of a Job; told everything by the operator).
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// The attempt, as JSON.
    #[arg(long, env = "GPHEAL_ATTEMPT")]
    pub attempt: String,
    /// The coordinator: host:port, and its standby after a comma.
    #[arg(long, env = "GPHEAL_COORDINATOR", value_delimiter = ',', required = true, value_parser = supervisor::config::server)]
    pub coordinator: Vec<Server>,
    /// Those that the instance's own pod names; they alone are asked where it names some.
    #[arg(long, env = "GPHEAL_POD_COORDINATORS", value_delimiter = ',', value_parser = supervisor::config::server)]
    pub pod_coordinators: Vec<Server>,
    /// Folder with the files `username` and `password` (a mounted secret).
    #[arg(long, env = "GPHEAL_CREDENTIALS")]
    pub credentials: PathBuf,
    #[command(flatten)]
    pub tls: supervisor::TlsOptions,
    /// How the mirror's postgres asks its primary, in the words of GPHEAL_TLS; unset: as libpq does by itself.
    #[arg(long, env = "GPHEAL_MIRROR_TLS")]
    pub mirror_tls: Option<TlsMode>,
    /// File of the authorities that the mirror's postgres trusts, in its own pod.
    #[arg(long, env = "GPHEAL_MIRROR_CA", required_if_eq("mirror_tls", "verify-full"))]
    pub mirror_ca: Option<PathBuf>,
    /// Where the password file for the tools is written.
    #[arg(long, env = "GPHEAL_PASSFILE", default_value = "/tmp/gpheal.pgpass")]
    pub passfile: PathBuf,
    /// Name of the Job's pod and node: who holds the volume's lock.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod: String,
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node: String,
    /// Where the outcome is written for the kubelet.
    #[arg(long, env = "GPHEAL_TERMINATION_MESSAGE", default_value = "/dev/termination-log")]
    pub termination_message: PathBuf,
}

/// Everything that the steps share.
struct Work {
    attempt: Attempt,
    coordinators: Vec<Server>,
    login: Login,
    /// How the mirror will ask its primary.
    mirror_tls: Option<Tls>,
    passfile: PathBuf,
    volume: Volume,
    pod: String,
    node: String,
    report: Reporter,
}

/// What keeps an attempt from its first step.
#[derive(Debug, thiserror::Error)]
enum CannotBegin {
    #[error(transparent)]
    Credentials(#[from] NoCredentials),
    #[error("the password file {path} cannot be written: {source}")]
    Passfile { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

impl Classified for CannotBegin {
    fn class(&self) -> FailureClass {
        match self {
            Self::Credentials(_) => FailureClass::LoginRefused,
            Self::Passfile { source, .. } => fault::of_file_system(source),
            Self::Volume(error) => error.class(),
        }
    }
}

/// Runs the attempt; the outcome is written before this returns.
///
/// # Errors
/// When there is nothing to attempt: the environment cannot be understood.
pub async fn run(config: Config) -> anyhow::Result<bool> {
    let attempt: Attempt = serde_json::from_str(&config.attempt)?;
    let termination_message = config.termination_message.clone();
    let work = match Work::new(config, attempt.clone()) {
        Ok(work) => work,
        Err(error) => {
            let outcome = outcome_of(&attempt, (Err(error.into()), Step::Proving), 0, 0);
            say(&outcome, &termination_message);
            return Ok(false);
        }
    };
    let (begun, mut holds) = (Instant::now(), Holds::default());
    let result = work.until_told_to_end(&mut holds).await;
    let seconds = begun.elapsed().as_secs();
    let outcome = outcome_of(&work.attempt, (result, work.report.current()), work.report.bytes(), seconds);
    // Whoever finds the volume free finds the outcome on it.
    work.publish(&outcome, &termination_message);
    holds.give_back();
    Ok(outcome.failure.is_none())
}

/// A repair that is done.
struct Done {
    /// How it went, for people.
    note: String,
    /// It changed anything but settings.
    changed: bool,
}

/// What an attempt holds of the volume.
#[derive(Default)]
struct Holds {
    holding: Option<Holding>,
    lock: Option<Held>,
}

impl Holds {
    /// Ends the hold under the lock, then gives the lock back by closing it. The outcome stands by now: a hold that cannot
    /// be ended costs the supervisor the time until its heartbeat is old.
    fn give_back(self) {
        drop(self.holding);
        drop(self.lock);
    }
}

impl Work {
    fn new(config: Config, attempt: Attempt) -> Result<Self, CannotBegin> {
        let login = supervisor::login(&config.credentials, &config.tls)?;
        let written = supervisor::write_passfile(&config.passfile, std::slice::from_ref(&login));
        written.map_err(|source| CannotBegin::Passfile { path: config.passfile.clone(), source })?;
        let volume = Volume::open(attempt.target.data_directory.as_ref())?;
        let mirror_tls = config.mirror_tls.map(|mode| Tls::of(mode, || Ca::File(config.mirror_ca.clone().unwrap_or_default())));
        let (passfile, report, pod, node) = (config.passfile, Reporter::start(), config.pod, config.node);
        let coordinators = if config.pod_coordinators.is_empty() { config.coordinator } else { config.pod_coordinators };
        Ok(Self { attempt, coordinators, login, mirror_tls, passfile, volume, pod, node, report })
    }

    /// SIGTERM drops whatever is being done; the guards on the way out leave truthful marks.
    async fn until_told_to_end(&self, holds: &mut Holds) -> Result<Done, Fault> {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| Fault::new(FailureClass::Unclassified, &e.to_string()))?;
        tokio::select! {
            result = self.repair(holds) => result,
            _ = terminate.recv() => Err(Fault::new(FailureClass::Interrupted, "the Job was told to end")),
        }
    }

    async fn repair(&self, holds: &mut Holds) -> Result<Done, Fault> {
        self.step(Step::Proving).await;
        if let Some(why) = mount::worthless_lock(self.volume.data()) {
            return Err(Fault::new(FailureClass::LockUntrusted, &why)); // it would be all that keeps postgres and us apart
        }
        prove::named(self).await?;
        let source_lock = SourceLock::take(self).await?;
        prove::prove(self, &source_lock).await?;
        self.step(Step::Holding).await;
        let holding = holds.holding.insert(Holding::begin(self)?);
        let lock = &*holds.lock.insert(holding.take_lock(self).await?);
        mend::marker(self.volume.data()).map_err(fault::FileError::at(self.volume.data()))?;
        self.step(Step::ProvingAgain).await;
        let proven = prove::prove(self, &source_lock).await?;
        prove::not_ahead(self, &proven)?;
        history::prove(self, &source_lock, &proven).await?;
        kept::prove(self, &source_lock, &proven).await?;
        history::not_alone(self, &proven)?;
        history::not_behind(self, &proven)?;
        let done = match self.attempt.repair {
            Repair::Incremental => incremental::repair(self, &source_lock, &proven, lock).await?,
            Repair::Full => Done { note: full::repair(self, &source_lock, &proven, lock).await?, changed: true },
        };
        self.step(Step::Releasing).await;
        Ok(done)
    }

    /// From now on the marks are of what the repair has put into the place. Written while the copy mark stands: beside those of what was
    /// there before, nothing is to be started or judged.
    fn settle(&self, proven: &prove::Proven) -> Result<(), Fault> {
        self.volume.abandon_incarnations(proven.identified.timeline)?;
        let source = history::source_incarnations(&self.attempt, proven.identified.timeline);
        self.volume.write_token(&proven.token.clone().after_repair(source, Directory::of(self.volume.data())))?;
        Ok(self.volume.forget_acknowledged()?)
    }

    /// Begins a step. While the mark `pause-at` names it, the Job waits there with everything that it holds: for a
    /// person who wants to look, and for tests that end a Job at every step.
    async fn step(&self, step: Step) {
        self.report.step(step);
        let pause = self.volume.mark("pause-at");
        while std::fs::read_to_string(&pause).is_ok_and(|named| named.trim() == step.to_string()) {
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.report.moved(); // it stands still for whoever asked for it
        }
    }

    /// What the lock's file says while the attempt holds it.
    fn holder(&self) -> Holder {
        Holder::here(&self.node, &self.pod, &format!("attempt {}", self.attempt.id)).of_this_boot()
    }

    /// Kubelet cuts a termination message at 4 KiB; evidence is bounded so that it fits.
    fn publish(&self, outcome: &Outcome, termination_message: &std::path::Path) {
        if let Err(error) = self.volume.write("result.json", outcome) {
            tracing::warn!(%error, "the result could not be left on the volume");
        }
        say(outcome, termination_message);
    }
}

fn outcome_of(attempt: &Attempt, (result, step): (Result<Done, Fault>, Step), bytes: u64, seconds: u64) -> Outcome {
    let (failure, note, changed) = match result {
        Ok(Done { note, changed }) => (None, note, Some(changed)),
        Err(fault) => (Some(fault.at(step)), String::new(), None),
    };
    let (id, recovery_uid) = (attempt.id.clone(), attempt.recovery_uid.clone());
    Outcome { attempt: id, repair: attempt.repair, failure, bytes, seconds, note, changed, recovery_uid }
}

/// In the log, and where the kubelet takes it from.
fn say(outcome: &Outcome, termination_message: &std::path::Path) {
    match &outcome.failure {
        None => tracing::info!(note = outcome.note, "done"),
        Some(failure) => {
            tracing::error!(class = failure.class.as_str(), step = %failure.step, evidence = failure.evidence, "{}", failure.message);
        }
    }
    let said = serde_json::to_vec(outcome).map_err(std::io::Error::from).and_then(|text| std::fs::write(termination_message, text));
    if let Err(error) = said {
        tracing::warn!(%error, "the termination message could not be written");
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::Path};

    use clap::Parser;

    use super::*;
    use model::world::fixtures::attempt;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        config: Config,
    }

    /// A Job that did not come to its first step left nothing behind, and was taken for one that is lost.
    #[tokio::test]
    async fn what_keeps_an_attempt_from_its_first_step_is_its_outcome() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, message) = (dir.path().join("secret"), dir.path().join("message"));
        let ended = async |passfile: &Path| {
            run(config(&secret, passfile, &message)).await.unwrap();
            let outcome: Outcome = serde_json::from_slice(&std::fs::read(&message).unwrap()).unwrap();
            let failure = outcome.failure.unwrap();
            (outcome.attempt, failure.class, failure.step, failure.message)
        };
        let (attempt, class, step, said) = ended(&dir.path().join("pgpass")).await;
        assert_eq!((attempt.as_str(), class, step), ("mend-d5-a1", FailureClass::LoginRefused, Step::Proving));
        assert!(said.contains("secret"), "{said}");
        std::fs::create_dir(&secret).unwrap();
        for (name, text) in [("username", "gpadmin"), ("password", "x")] {
            std::fs::write(secret.join(name), text).unwrap();
        }
        let (_, class, _, said) = ended(Path::new("/proc/gpheal/pgpass")).await;
        assert!(said.contains("/proc/gpheal/pgpass cannot be written"), "{said}");
        assert_ne!(class.answer(), model::Answer::GoFull);
        assert_eq!(std::fs::metadata(&message).unwrap().permissions().mode() & 0o400, 0o400);
    }

    fn config(secret: &Path, passfile: &Path, message: &Path) -> Config {
        let attempt = serde_json::to_string(&attempt(Repair::Incremental)).unwrap();
        let paths = [("--credentials", secret), ("--passfile", passfile), ("--termination-message", message)];
        let paths = paths.iter().flat_map(|(option, path)| [(*option).to_owned(), path.to_string_lossy().into_owned()]);
        let words = ["recover", "--attempt", &attempt, "--coordinator", "127.0.0.1:1"].map(str::to_owned);
        Command::parse_from(words.into_iter().chain(paths)).config
    }
}
