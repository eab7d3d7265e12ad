//! One postgres as a plain process.

use std::{
    fs::{self, File, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User, chown},
};

/// Who runs the servers: postgres refuses root.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    ids: Option<(u32, u32)>,
}

const ACCOUNT: &str = "postgres";
/// Half a minute, in looks.
const PATIENCE: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);

impl Owner {
    pub fn of_this_machine() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { ids: None });
        }
        let user = User::from_name(ACCOUNT)?.with_context(|| format!("there is no user {ACCOUNT} to run servers as"))?;
        Ok(Self { ids: Some((user.uid.as_raw(), user.gid.as_raw())) })
    }

    /// A folder that the servers may write to.
    pub fn folder(self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        if let Some((user, group)) = self.ids {
            chown(path, Some(user.into()), Some(group.into()))?;
        }
        Ok(())
    }

    /// A file that is the servers' own.
    pub fn file(self, path: &Path, mode: u32) -> Result<()> {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        if let Some((user, group)) = self.ids {
            chown(path, Some(user.into()), Some(group.into()))?;
        }
        Ok(())
    }

    pub fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        command
    }
}

/// A place for an instance, with a server in it or not.
pub struct Server {
    pub dbid: i16,
    pub content: i16,
    pub port: u16,
    /// One for each, so that what serves at a fixed port can do so beside each.
    pub address: String,
    pub directory: PathBuf,
    child: Option<Child>,
    /// The child is a supervisor, which stops its server when it is told to end.
    supervised: bool,
}

impl Server {
    pub fn new(folder: &Path, name: &str, dbid: i16, content: i16, port: u16) -> Self {
        let (address, directory) = (format!("127.0.1.{dbid}"), folder.join(name).join("data"));
        Self { dbid, content, port, address, directory, child: None, supervised: false }
    }

    /// The folder that holds the data directory and nothing of others.
    pub fn volume(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    pub fn log(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    pub fn log_text(&self) -> Result<String> {
        fs::read_to_string(self.log()).with_context(|| format!("cannot read {}", self.log().display()))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.file(name)).with_context(|| format!("cannot read {name} of dbid {}", self.dbid))
    }

    pub fn run(&mut self, command: Command) -> Result<()> {
        self.supervised = false;
        self.spawn(command)
    }

    pub fn supervise(&mut self, command: Command) -> Result<()> {
        self.supervised = true;
        self.spawn(command)
    }

    pub fn is_supervised(&self) -> bool {
        self.supervised && self.child.is_some()
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("cannot start dbid {}", self.dbid))?);
        Ok(())
    }

    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().with_context(|| format!("dbid {} does not run", self.dbid))?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Kills the postmaster alone, and waits until its children have noticed and followed: before, nobody
    /// else can start on the directory.
    pub fn crash(&mut self) -> Result<()> {
        self.end_by(Signal::SIGKILL)?;
        self.await_empty(|_| {})
    }

    /// Kills everything at once, the supervisor first, as the end of a container does.
    pub fn vanish(&mut self) -> Result<()> {
        self.end_by(Signal::SIGKILL)?;
        self.await_empty(|pid| {
            // It may be gone already.
            let _ = kill(pid, Signal::SIGKILL);
        })
    }

    /// Stops its processes with SIGSTOP; with the supervisor as a node does that is lost, else as a postgres that hangs.
    pub fn freeze(&self, supervisor: bool) -> Result<Asleep> {
        let mut asleep = Asleep(vec![]);
        // Who is started meanwhile is stopped in the next round.
        for _ in 0..3 {
            let own = supervisor.then(|| self.pid()).transpose()?;
            for pid in own.into_iter().chain(living_in(&self.directory)).collect::<Vec<_>>() {
                // It may be gone already.
                if kill(pid, Signal::SIGSTOP).is_ok() && !asleep.0.contains(&pid) {
                    asleep.0.push(pid);
                }
            }
        }
        Ok(asleep)
    }

    fn await_empty(&self, each: impl Fn(Pid)) -> Result<()> {
        for _ in 0..PATIENCE {
            let living = living_in(&self.directory);
            if living.is_empty() {
                return Ok(());
            }
            living.into_iter().for_each(&each);
            std::thread::sleep(PAUSE);
        }
        let living: Vec<_> = living_in(&self.directory).into_iter().map(title).collect();
        bail!("children of the killed postmaster of dbid {} live on: {}", self.dbid, living.join("; "))
    }

    /// Fast: sessions are ended, everything is written.
    pub fn stop(&mut self) -> Result<()> {
        self.end_by(if self.supervised { Signal::SIGTERM } else { Signal::SIGINT })
    }

    fn end_by(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let mut child = self.child.take().context("it does not run")?;
        for _ in 0..PATIENCE {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        self.child = Some(child);
        bail!("dbid {} did not end within 30 s of {signal}", self.dbid)
    }
}

/// Processes that are stopped until this is dropped.
pub struct Asleep(Vec<Pid>);

impl Asleep {
    pub fn wake(self) {
        drop(self);
    }

    /// They were killed meanwhile: their numbers may be others'.
    pub fn forget(mut self) {
        self.0.clear();
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

/// The processes that work in that folder, as every process of a server does in its data directory.
fn living_in(folder: &Path) -> Vec<Pid> {
    let works_there = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|place| place == folder);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.filter(works_there).map(Pid::from_raw).collect()
}

/// What a process says that it is.
fn title(pid: Pid) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&words).replace('\0', " ").trim())
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing is left to be said to: the suite is over.
        let _ = self.end_by(if self.supervised { Signal::SIGTERM } else { Signal::SIGQUIT });
    }
}
