//! The long-running programs of the bed: started apart from whoever starts
//! them, recorded by pid and start time, and found again by that record.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    cgroup::Cgroup,
    command::{run, say, write},
    layout::Layout,
    proc,
};

/// Enters the cgroups (0 is 'myself'), then becomes the program inside its
/// network namespace, as a session of its own that init adopts. `nsenter` and
/// not `ip netns exec`: the latter remounts /sys and hides the cgroups.
const LAUNCH: &str = r#"
{   for folder in $BED_CGROUPS; do echo 0 >"$folder/cgroup.procs" || exit 1; done
    unset BED_CGROUPS
    exec setsid nsenter --net="$BED_NETWORK" -- "$@"
} </dev/null >>"$BED_LOG" 2>&1 &
echo $!
"#;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One program of the bed, as it should run.
#[derive(Clone, Debug)]
pub struct Daemon {
    pub name: String,
    pub network: String,
    pub cgroup: String,
    pub command: Vec<String>,
    /// Files that it reads once, at its start.
    pub reads: Vec<PathBuf>,
}

/// What is known of a daemon's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Absent,
    /// It runs, but was started in another way than it should run now.
    Outdated,
    /// It is stopped by a signal, as a fault leaves it when its test dies.
    Suspended,
    Running,
}

#[derive(Serialize, Deserialize)]
struct Record {
    pid: i32,
    started: u64,
    way: String,
}

impl Daemon {
    /// Makes sure that it runs as described. Returns whether it was started.
    pub fn ensure(&self, layout: &Layout) -> Result<bool> {
        match self.condition(layout)? {
            Condition::Running => return Ok(false),
            Condition::Suspended => {
                say(format!("{} was suspended; it goes on", self.name));
                self.signal(layout, Signal::SIGCONT)?;
                return Ok(false);
            }
            Condition::Outdated => {
                say(format!("{} runs with older settings; restarting it", self.name));
                self.stop(layout)?;
            }
            Condition::Absent => {}
        }
        self.start(layout)?;
        Ok(true)
    }

    pub fn condition(&self, layout: &Layout) -> Result<Condition> {
        let Some(record) = self.living(layout) else { return Ok(Condition::Absent) };
        if record.way != self.way()? {
            return Ok(Condition::Outdated);
        }
        let suspended = proc::stat(record.pid).is_some_and(|stat| stat.state == 'T');
        Ok(if suspended { Condition::Suspended } else { Condition::Running })
    }

    /// The pid of its process, when that lives.
    pub fn pid(&self, layout: &Layout) -> Option<i32> {
        self.living(layout).map(|record| record.pid)
    }

    pub fn signal(&self, layout: &Layout, signal: Signal) -> Result<()> {
        let pid = self.pid(layout).with_context(|| format!("{} does not run; `make bed-up` starts it", self.name))?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Ends it: politely, then not.
    pub fn stop(&self, layout: &Layout) -> Result<()> {
        let Some(pid) = self.pid(layout) else { return Ok(()) };
        for (signal, patience) in [(Signal::SIGTERM, 5), (Signal::SIGKILL, 10)] {
            // One that is gone already is what was wanted.
            let _ = kill(Pid::from_raw(pid), signal);
            let limit = Instant::now() + Duration::from_secs(patience);
            while Instant::now() < limit {
                if !proc::lives(pid) {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        bail!("{} (pid {pid}) outlives SIGKILL; see dmesg", self.name)
    }

    fn start(&self, layout: &Layout) -> Result<()> {
        let cgroup = Cgroup::new(&self.cgroup)?;
        cgroup.make()?;
        let folders: Vec<String> = cgroup.folders().iter().map(|folder| folder.display().to_string()).collect();
        let log = self.log(layout);
        let mut command = Command::new("sh");
        command.args(["-c", LAUNCH, "sh"]).args(&self.command);
        command.env_clear().env("PATH", PATH).env("HOME", "/root");
        command.env("BED_CGROUPS", folders.join(" "));
        command.env("BED_NETWORK", Layout::network_path(&self.network));
        command.env("BED_LOG", &log);
        let pid: i32 = run(&mut command)?.trim().parse().context("the launcher printed no pid")?;
        let stat = proc::stat(pid).filter(|stat| stat.state != 'Z');
        let stat = stat.with_context(|| format!("{} ended at once; see {}", self.name, log.display()))?;
        let record = Record { pid, started: stat.started, way: self.way()? };
        write(&self.record_file(layout), &serde_json::to_string(&record)?)
    }

    /// Fails when the program ended, naming the log that says why.
    pub fn check(&self, layout: &Layout) -> Result<()> {
        let log = self.log(layout);
        ensure!(self.pid(layout).is_some(), "{} ended; {} says why", self.name, log.display());
        Ok(())
    }

    /// Where its output goes.
    pub fn log(&self, layout: &Layout) -> PathBuf {
        layout.logs().join(format!("{}.log", self.name))
    }

    fn living(&self, layout: &Layout) -> Option<Record> {
        let text = fs::read_to_string(self.record_file(layout)).ok()?;
        let record: Record = serde_json::from_str(&text).ok()?;
        let same = proc::stat(record.pid).is_some_and(|stat| stat.started == record.started);
        (same && proc::lives(record.pid)).then_some(record)
    }

    fn record_file(&self, layout: &Layout) -> PathBuf {
        layout.records().join(format!("{}.json", self.name))
    }

    /// A hash of the command line, the program and what it reads.
    fn way(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for word in &self.command {
            hash.update(word);
            hash.update([0]);
        }
        if let Ok(program) = fs::canonicalize(&self.command[0]) {
            hash.update(program.as_os_str().as_encoded_bytes());
        }
        for file in &self.reads {
            hash.update(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
        }
        Ok(hex::encode(hash.finalize()))
    }
}
