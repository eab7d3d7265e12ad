//! Supervisors on a bare machine. Killed with -9, its postgres survives it: nobody starts a second one. A process that
//! SIGKILL does not end is said on its page, and keeps the lock. The check of the contract finds what was broken, and
//! changes nothing.

mod adopt;
mod askers;
mod catalog;
mod coordinator;
mod ends;
mod faults;
mod fence;
mod pages;
mod squatter;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    conformance::Owner,
    fixture::image::{build_home, install_tools},
};
use model::{InstanceState, Page, Role};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use segment::volume::Holder;
use tempfile::TempDir;

/// One test at a time: a program that is being written cannot be run, and whoever starts a process meanwhile hands on
/// the descriptor that writes. A place is only made by who holds this, so that no test forgets it.
struct Alone(#[expect(dead_code, reason = "held until the test ends")] tokio::sync::MutexGuard<'static, ()>);

impl Alone {
    async fn wait() -> Self {
        static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        Self(ONE.lock().await)
    }
}

/// A supervisor that does not outlive the test, however that ends.
struct Supervisor(Child);

impl Supervisor {
    /// Tells it to end, and waits until it has.
    fn end(mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM)?;
        ensure!(self.0.wait()?.success(), "SIGTERM did not end the supervisor");
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

struct Place {
    folder: TempDir,
    owner: Owner,
    port: u16,
}

impl Place {
    /// A volume with a database that a person keeps in maintenance, so that no coordinator is asked.
    fn make(alone: &Alone, port: u16) -> Result<Self> {
        let place = Self::empty(alone, port)?;
        place.maintain()?;
        place.bootstrap("bootstrap-primary", 2, 0, &[])?;
        Ok(place)
    }

    /// A volume with nothing on it, and the tools.
    fn empty(_: &Alone, port: u16) -> Result<Self> {
        install_tools()?;
        let owner = Owner::of_this_machine()?;
        let place = Self { folder: TempDir::new()?, owner, port };
        owner.folder(place.folder.path())?;
        build_home(&place.at("home"))?;
        for folder in ["volume", "volume/.gpheal", "credentials"] {
            owner.folder(&place.at(folder))?;
        }
        fs::write(place.at("credentials/username"), "gpadmin")?;
        fs::write(place.at("credentials/password"), "secret")?;
        Ok(place)
    }

    fn maintain(&self) -> Result<()> {
        Ok(fs::write(self.at("volume/.gpheal/maintenance"), "")?)
    }

    fn bootstrap(&self, script: &str, dbid: i16, content: i16, arguments: &[&str]) -> Result<()> {
        let mut bootstrap = self.command(&self.at("home/bin").join(script));
        bootstrap.args(arguments).env("DATA_DIRECTORY", self.at("volume/gpseg")).env("CREDENTIALS", self.at("credentials"));
        bootstrap.env("PORT", self.port.to_string()).env("DBID", dbid.to_string()).env("CONTENT", content.to_string());
        ensure!(bootstrap.status()?.success(), "no database was made");
        Ok(())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = self.owner.command(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.at("home/bin").display())).env("TMPDIR", self.folder.path());
        command
    }

    /// `gpheal supervise` with the environment of this volume's instance.
    fn gpheal(&self) -> Result<Command> {
        let program = self.at("gpheal");
        if !program.exists() {
            let built = Path::new(env!("CARGO_BIN_EXE_bed")).with_file_name("gpheal");
            fs::copy(&built, &program).with_context(|| format!("build {} first", built.display()))?;
        }
        let mut command = self.command(&program);
        command.arg("supervise").env("GPHEAL_CLUSTER", "test").env("GPHEAL_COORDINATOR", "127.0.0.1:1");
        command
            .env("GPHEAL_DATA_DIRECTORY", self.at("volume/gpseg"))
            .env("GPHEAL_PORT", self.port.to_string())
            .env("GPHEAL_ADDRESS", "127.0.0.1");
        command.env("GPHEAL_CREDENTIALS", self.at("credentials")).env("GPHEAL_PASSFILE", self.at("volume/pass"));
        Ok(command)
    }

    /// A supervisor of this volume whose page is served at `listen`.
    fn supervise(&self, listen: &str) -> Result<Supervisor> {
        self.supervise_with(listen, &[])
    }

    fn supervise_with(&self, listen: &str, environment: &[(&str, &str)]) -> Result<Supervisor> {
        let mut command = self.gpheal()?;
        command.args(["--", "postgres"]).env("GPHEAL_LISTEN", listen).envs(environment.iter().copied());
        Ok(Supervisor(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }

    /// What `--check` finds: the code, or what the verdict is, by point.
    fn check(&self, arguments: &[&str]) -> Result<BTreeMap<String, String>> {
        let output = self.gpheal()?.args(["--check", "--output", "json"]).args(arguments).stdin(Stdio::null()).output()?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.success() == (answer["ok"] == true), "{} beside {answer}", output.status);
        let word = |point: &serde_json::Value, field: &str| point[field].as_str().map(str::to_owned);
        let points = answer["points"].as_array().context("no points")?;
        let found = points.iter().map(|point| Some((word(point, "point")?, word(point, "code").or_else(|| word(point, "verdict"))?)));
        found.collect::<Option<_>>().context("a point without a verdict")
    }

    /// Everything on the volume, with its size and when it was last written.
    fn everything(&self) -> Result<Vec<String>> {
        let output = Command::new("find").arg(self.at("volume")).args(["-printf", "%p %s %T@ %C@\\n"]).output()?;
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    }

    fn postmaster(&self) -> Result<i32> {
        let text = fs::read_to_string(self.at("volume/gpseg/postmaster.pid"))?;
        text.lines().next().and_then(|line| line.parse().ok()).context("postmaster.pid names no process")
    }

    /// Processes that have the lock open and are postgres.
    fn postgres(&self) -> Vec<i32> {
        let volume = segment::volume::Volume::open(&self.at("volume/gpseg"));
        let holders = volume.map(|volume| volume.lock_holders()).unwrap_or_default();
        holders
            .pids
            .into_iter()
            .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("postgres")))
            .collect()
    }
}

/// A person works there, and the page says so; postgres serves all the same.
fn serves(page: &Page) -> bool {
    page.state == InstanceState::Maintenance && page.serves == Some(Role::Primary)
}

async fn wait_for(port: u16, what: &str, wanted: impl Fn(&Page) -> bool) -> Result<Page> {
    wait_at("127.0.0.1", port, what, wanted).await
}

async fn wait_at(host: &str, port: u16, what: &str, wanted: impl Fn(&Page) -> bool) -> Result<Page> {
    let until = Instant::now() + Duration::from_mins(1);
    let mut last = String::new();
    while Instant::now() < until {
        match web::read::page(host, port).await {
            Ok(page) if wanted(&page) => return Ok(page),
            Ok(page) => last = format!("{:?}: {}", page.state, page.detail),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("no page of {what}; last: {last}")
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn no_second_postmaster_while_a_child_of_the_first_lives() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_999)?;
    let mut first = place.supervise("127.0.0.1:18090")?;
    wait_for(18090, "a first postgres that serves", serves).await?;
    let (postmaster, before) = (place.postmaster()?, place.postgres());
    ensure!(before.len() > 3 && before.contains(&postmaster), "postgres does not hold the lock: {before:?}");

    first.0.kill()?;
    first.0.wait()?;
    let mut second = place.supervise("127.0.0.1:18091")?;
    wait_for(18091, "a second supervisor that stays out", |page| page.detail.starts_with("held by")).await?;
    ensure!(place.postgres() == before, "another postgres was started: {:?}", place.postgres());

    // The postmaster alone dies; its children follow, and only when the last is gone is the lock free.
    kill(Pid::from_raw(postmaster), Signal::SIGKILL)?;
    wait_for(18091, "a second postgres that serves", serves).await?;
    let after = place.postgres();
    ensure!(after.iter().all(|pid| !before.contains(pid)), "children of the first postmaster live beside the second: {before:?} {after:?}");

    kill(Pid::from_raw(second.0.id().cast_signed()), Signal::SIGTERM)?;
    ensure!(second.0.wait()?.success() && place.postgres().is_empty(), "SIGTERM did not stop postgres");
    Ok(())
}

/// Processes that SIGKILL does not end until this goes away, as in a system call that does not return.
struct Frozen(PathBuf);

impl Frozen {
    /// The freezer of cgroup version 1: what is frozen there dies only when it is thawed.
    fn freeze(pid: i32) -> Result<Self> {
        let folder = PathBuf::from(format!("/sys/fs/cgroup/freezer/gpheal-test-{pid}"));
        fs::create_dir(&folder).with_context(|| format!("{} cannot be made; it takes root and cgroup version 1", folder.display()))?;
        let frozen = Self(folder);
        fs::write(frozen.0.join("cgroup.procs"), pid.to_string())?;
        fs::write(frozen.0.join("freezer.state"), "FROZEN")?;
        Ok(frozen)
    }

    fn thaw(&self) -> Result<()> {
        Ok(fs::write(self.0.join("freezer.state"), "THAWED")?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.thaw();
        let until = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn a_process_that_cannot_be_killed_is_said_and_keeps_the_lock() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_998)?;
    let mut supervisor = place.supervise("127.0.0.1:18092")?;
    wait_for(18092, "a postgres that serves", serves).await?;
    let postmaster = place.postmaster()?;
    let child = *place.postgres().iter().find(|pid| **pid != postmaster).context("the postmaster has no children")?;
    let frozen = Frozen::freeze(child)?;
    kill(Pid::from_raw(postmaster), Signal::SIGKILL)?;
    let page = wait_for(18092, "saying who does not end", |page| page.detail.contains("do not end")).await?;
    ensure!(page.detail.contains(&format!("{child} (D, ")), "it does not name process {child}: {}", page.detail);
    ensure!(place.postgres() == [child], "another postgres was started: {:?}", place.postgres());
    let volume = segment::volume::Volume::open(&place.at("volume/gpseg"))?;
    ensure!(volume.try_lock(&Holder::here("", "", "a test"), None).is_err(), "the lock is free while a process of postgres lives");

    frozen.thaw()?;
    wait_for(18092, "a new postgres that serves", serves).await?;
    ensure!(place.postmaster()? != postmaster && !place.postgres().contains(&child), "the frozen process lives on");
    kill(Pid::from_raw(supervisor.0.id().cast_signed()), Signal::SIGTERM)?;
    ensure!(supervisor.0.wait()?.success(), "SIGTERM did not end the supervisor");
    Ok(())
}

/// Whoever repairs by hand needs it where nothing was ever started (docs/break-glass.md).
#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn the_password_file_is_there_although_nothing_may_start() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::empty(&alone, 25_994)?;
    let supervisor = place.supervise("127.0.0.1:18094")?;
    wait_for(18094, "an empty volume", |page| page.state == InstanceState::VolumeUnrecognised).await?;
    ensure!(fs::read_to_string(place.at("volume/pass"))? == "*:*:*:gpadmin:secret\n", "it does not hold the login");
    supervisor.end()
}

/// What is well with this volume, whatever the machine is like.
const WELL: [&str; 12] = [
    "Environment",
    "User",
    "DataDirectory",
    "FullCopy",
    "MarksFolder",
    "Marks",
    "Token",
    "Lock",
    "Programs",
    "Version",
    "Name",
    "Credentials",
];

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn the_check_finds_what_is_broken_and_changes_nothing() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_997)?;
    let before = place.everything()?;
    ensure!(before.len() > 100, "nothing is there: {before:?}");
    let found = place.check(&[])?;
    ensure!(place.everything()? == before, "the check changed something");
    for point in WELL {
        ensure!(found.get(point).is_some_and(|word| word == "ok"), "{point}: {found:?}");
    }
    ensure!(found["Coordinator"] == "CoordinatorUnreachable" && found["Login"] == "skipped", "{found:?}");

    ensure!(place.check(&["--port", "70000"])?["Environment"] == "VariableMalformed");
    ensure!(place.check(&["--stop-seconds", "30", "--grace-seconds", "30"])?["StopTime"] == "StopTooLong");
    ensure!(place.check(&["--", "postmaster"])?["Programs"] == "ProgramMissing");
    fs::write(place.at("volume/gpseg/PG_VERSION"), "9.4\n")?;
    ensure!(place.check(&[])?["Version"] == "VersionDiffers");
    fs::write(place.at("volume/gpseg/PG_VERSION"), "15\n")?;
    fs::set_permissions(place.at("volume/gpseg"), fs::Permissions::from_mode(0o2770))?;
    ensure!(place.check(&[])?["User"] == "ModeTooOpen");
    fs::set_permissions(place.at("volume/gpseg"), fs::Permissions::from_mode(0o700))?;
    fs::remove_file(place.at("credentials/password"))?;
    ensure!(place.check(&[])?["Credentials"] == "CredentialsUnreadable");
    fs::write(place.at("credentials/password"), "secret")?;
    fs::write(place.at("volume/.gpheal/copy"), "cut off")?;
    ensure!(place.check(&[])?["Marks"] == "CopyUnfinished");
    fs::remove_file(place.at("volume/.gpheal/copy"))?;

    fs::rename(place.at("volume/gpseg/pg_wal"), place.at("volume/log"))?;
    symlink(place.at("volume/log"), place.at("volume/gpseg/pg_wal"))?;
    ensure!(place.check(&[])?["FullCopy"] == "NotToBeCopied");

    let _supervisor = place.supervise("127.0.0.1:18095")?;
    let page = wait_for(18095, "a postgres that serves", serves).await?;
    ensure!(page.uncopied.as_ref().is_some_and(|why| why.contains("volume/log")), "its page says {:?}", page.uncopied);
    let postmaster = place.postmaster()?;
    ensure!(place.check(&[])?["Lock"] == "ok", "a lock that postgres holds is as it should be");
    ensure!(place.postmaster()? == postmaster, "the check disturbed postgres");
    Ok(())
}
