//! A cluster of bare processes: a coordinator and two mirrored contents, made
//! by hand as `initdb`, SQL and `pg_basebackup` do it on any Greenplum.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{
    dialect::Dialect,
    query::{Session, connect},
    server::{Owner, Server},
};
use crate::fixture::image;

pub const SLOT: &str = "internal_wal_replication_slot";
/// dbid of the coordinator's standby, while there is one: a check makes it.
pub const STANDBY: i16 = 6;
/// Of a mirror that is gone, in seconds: short, for the suite's sake, but longer than the 5 s after which
/// the WAL receiver of a mirror whose primary was away tries again.
pub const GRACE: u64 = 7;
const READY_WITHIN: Duration = Duration::from_mins(1);

pub struct Bench {
    home: PathBuf,
    dialect: Dialect,
    owner: Owner,
    /// The coordinator, then primaries and mirrors by dbid.
    servers: Vec<Server>,
    folder: TempDir,
}

impl Bench {
    pub async fn start() -> Result<Self> {
        let owner = Owner::of_this_machine()?;
        let folder = tempfile::Builder::new().prefix("conformance").tempdir()?;
        owner.folder(folder.path())?;
        let home = home(folder.path())?;
        let dialect = Dialect::of(&home)?;
        let mut bench = Self { home, dialect, owner, servers: Vec::new(), folder };
        bench.build().await?;
        Ok(bench)
    }

    /// A new cluster in place of one that a failed check left in an unknown state.
    pub async fn start_again(&mut self) -> Result<()> {
        self.servers.clear();
        self.build().await
    }

    pub fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The folder outlives the suite, for somebody to look at.
    pub fn keep(mut self) -> PathBuf {
        self.servers.clear();
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    pub fn server(&mut self, dbid: i16) -> &mut Server {
        let place = self.servers.iter().position(|server| server.dbid == dbid);
        let place = place.unwrap_or_default();
        &mut self.servers[place]
    }

    pub fn port(&mut self, dbid: i16) -> u16 {
        self.server(dbid).port
    }

    /// A program of the installation, as the servers' user.
    pub fn tool(&self, name: &str) -> Command {
        self.program(&self.home.join("bin").join(name))
    }

    /// Any program as the servers' user, for whom the installation's own come first.
    pub fn program(&self, path: &Path) -> Command {
        let mut command = self.owner.command(path);
        let others = env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{others}", self.home.join("bin").display()));
        command.env_remove("LANG").env("LC_ALL", "C").env("GPHOME", &self.home);
        // Not the home of whoever runs the suite: libpq looks there for certificates.
        command.env("HOME", self.folder.path()).current_dir(self.folder.path());
        if env::var_os("GPHOME").is_some() {
            command.env("LD_LIBRARY_PATH", self.home.join("lib"));
        }
        command
    }

    pub fn start_segment(&mut self, dbid: i16) -> Result<()> {
        let mode = self.dialect.segment();
        self.start_server(dbid, mode)
    }

    /// Stopped and started at once: FTS does not notice.
    pub async fn restart(&mut self, dbid: i16) -> Result<()> {
        self.server(dbid).stop()?;
        self.start_segment(dbid)?;
        self.await_session(dbid).await.map(drop)
    }

    pub async fn start_coordinator(&mut self) -> Result<()> {
        let mode = self.dialect.coordinator();
        self.start_server(1, mode)?;
        self.await_session(1).await.map(drop)
    }

    pub async fn start_lone_coordinator(&mut self) -> Result<()> {
        let mode = self.dialect.lone_coordinator();
        self.start_server(1, mode)?;
        self.await_session(1).await.map(drop)
    }

    /// The coordinator's standby is started as it is: that it follows stands in its directory.
    pub fn start_standby(&mut self) -> Result<()> {
        let mode = self.dialect.coordinator();
        self.start_server(STANDBY, mode)
    }

    fn start_server(&mut self, dbid: i16, mode: &[&str]) -> Result<()> {
        let mut command = self.tool("postgres");
        let server = self.server(dbid);
        command.arg("-D").arg(&server.directory).arg("-p").arg(server.port.to_string()).args(mode);
        server.run(command)
    }

    /// A session with one instance alone.
    pub async fn utility(&mut self, dbid: i16) -> Result<Session> {
        let port = self.port(dbid);
        connect(port, self.dialect.utility_session()).await.with_context(|| format!("no session with dbid {dbid}"))
    }

    pub async fn dispatch(&mut self) -> Result<Session> {
        let port = self.port(1);
        connect(port, "").await.context("no dispatch session with the coordinator")
    }

    pub async fn await_session(&mut self, dbid: i16) -> Result<Session> {
        let begun = Instant::now();
        loop {
            match self.utility(dbid).await {
                Ok(session) => return Ok(session),
                Err(error) if begun.elapsed() > READY_WITHIN || !self.server(dbid).runs() => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub async fn probe(&mut self) -> Result<()> {
        self.dispatch().await?.rows("SELECT gp_request_fts_probe_scan()").await.map(drop)
    }

    /// The pair of a content as `2ppsu 4mmsu`: dbid, role, preferred role, mode, status.
    pub async fn pair(&mut self, content: i16) -> Result<String> {
        let rows = "SELECT dbid || role::text || preferred_role::text || mode::text || status::text \
             FROM gp_segment_configuration WHERE content = ";
        let session = self.utility(1).await?;
        Ok(session.rows(&format!("{rows}{content} ORDER BY dbid")).await?.join(" "))
    }

    pub async fn history(&mut self, dbid: i16) -> Result<String> {
        let newest = format!("SELECT \"desc\" FROM gp_configuration_history WHERE dbid = {dbid} ORDER BY time DESC LIMIT 1");
        self.utility(1).await?.value(&newest).await
    }

    /// Probes until the pair is as said.
    pub async fn await_pair(&mut self, content: i16, expected: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.probe().await?;
            let seen = self.pair(content).await?;
            if seen == expected {
                return Ok(());
            }
            ensure!(begun.elapsed() < READY_WITHIN, "content {content} should become {expected}, but is {seen}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub async fn expect_pair(&mut self, content: i16, expected: &str) -> Result<()> {
        let seen = self.pair(content).await?;
        ensure!(seen == expected, "content {content} should be {expected}, but is {seen}");
        Ok(())
    }

    async fn build(&mut self) -> Result<()> {
        self.servers = places(self.folder.path())?;
        for server in &self.servers {
            if server.volume().exists() {
                fs::remove_dir_all(server.volume())?; // what gpheal left there is of another place
            }
            self.owner.folder(server.volume())?;
        }
        for dbid in [1, 2, 3] {
            self.make_instance(dbid)?;
        }
        self.register().await?;
        for dbid in [2, 3] {
            self.start_segment(dbid)?;
            self.await_session(dbid).await?;
        }
        self.start_coordinator().await?;
        for dbid in [4, 5] {
            self.copy_from_primary(dbid, dbid - 2)?;
            self.start_segment(dbid)?;
        }
        self.await_pair(0, "2ppsu 4mmsu").await?;
        self.await_pair(1, "3ppsu 5mmsu").await
    }

    fn make_instance(&mut self, dbid: i16) -> Result<()> {
        let directory = self.server(dbid).directory.clone();
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        let mut command = self.tool("initdb");
        command.arg("-D").arg(&directory).args(["--data-checksums", "--locale=C", "-E", "UTF8"]);
        succeed(command)?;
        let log_folder = directory.join(self.dialect.log_folder());
        self.owner.folder(&log_folder)?;
        let server = self.server(dbid);
        let settings = settings(server.port, server.content);
        append(&directory.join("postgresql.conf"), &settings)?;
        fs::write(directory.join("internal.auto.conf"), format!("gp_dbid={dbid}\n"))?;
        fs::write(directory.join("pg_hba.conf"), TRUST)?;
        Ok(())
    }

    /// The rows, by the functions that exist for it.
    async fn register(&mut self) -> Result<()> {
        self.start_lone_coordinator().await?;
        let session = self.utility(1).await?;
        for dbid in [1, 2, 3] {
            let Server { content, port, address, directory, .. } = self.server(dbid);
            let place = format!("{port}, '{address}', '{address}', '{}'", directory.display());
            session.rows(&format!("SELECT gp_add_segment({dbid}::int2, {content}::int2, 'p', 'p', 's', 'u', {place})")).await?;
        }
        for dbid in [4, 5] {
            let Server { content, port, address, directory, .. } = self.server(dbid);
            let place = format!("'{address}', '{address}', {port}, '{}'", directory.display());
            let given = session.value(&format!("SELECT gp_add_segment_mirror({content}::int2, {place})")).await?;
            ensure!(given == dbid.to_string(), "gp_add_segment_mirror gave dbid {given}, not the lowest free one, {dbid}");
        }
        drop(session);
        self.server(1).stop()
    }

    /// Its row; what was made of it before is forgotten.
    pub async fn add_standby(&mut self) -> Result<()> {
        let Server { port, address, directory, .. } = self.server(STANDBY);
        let (sql, directory) =
            (format!("SELECT gp_add_master_standby('{address}', '{address}', '{}', {port})", directory.display()), directory.clone());
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        let given = self.utility(1).await?.value(&sql).await?;
        ensure!(given == STANDBY.to_string(), "gp_add_master_standby gave dbid {given}, not the one after the highest, {STANDBY}");
        Ok(())
    }

    /// A copy of the coordinator; unlike a mirror it has no slot.
    pub fn copy_coordinator(&mut self) -> Result<()> {
        let (port, directory) = (self.port(1), self.server(STANDBY).directory.clone());
        let mut command = self.tool("pg_basebackup");
        command.args(["-c", "fast", "-h", "127.0.0.1", "-p", &port.to_string(), "-D"]).arg(directory);
        command.args([self.dialect.wal_method(), "--write-recovery-conf", "--target-gp-dbid", &STANDBY.to_string()]);
        succeed(command)?;
        self.adapt_port(STANDBY)
    }

    fn copy_from_primary(&mut self, dbid: i16, source: i16) -> Result<()> {
        let directory = self.server(dbid).directory.clone();
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        let mut command = self.base_backup(dbid, source);
        command.args(self.dialect.create_slot());
        succeed(command)?;
        self.adapt_port(dbid)
    }

    /// The copy command of a full recovery, with what every run of it has.
    pub fn base_backup(&mut self, dbid: i16, source: i16) -> Command {
        let (port, directory) = (self.port(source), self.server(dbid).directory.clone());
        let mut command = self.tool("pg_basebackup");
        command.args(["-c", "fast", "-h", "127.0.0.1", "-p", &port.to_string(), "-D"]).arg(directory);
        command.args(["--slot", SLOT, self.dialect.wal_method(), "--write-recovery-conf"]);
        command.args(["--target-gp-dbid", &dbid.to_string()]);
        command
    }

    pub fn rewind(&mut self, dbid: i16, source: i16) -> Command {
        let mut command = self.bare_rewind(dbid, source);
        command.args(["--write-recovery-conf", "--slot", SLOT, "--progress"]);
        command
    }

    /// With nothing that asks for a file: Greenplum 6 writes its settings in a dry run too, when it is told to.
    pub fn dry_rewind(&mut self, dbid: i16, source: i16) -> Command {
        let mut command = self.bare_rewind(dbid, source);
        command.arg("--dry-run");
        command
    }

    fn bare_rewind(&mut self, dbid: i16, source: i16) -> Command {
        let (port, directory) = (self.port(source), self.server(dbid).directory.clone());
        let mut command = self.tool("pg_rewind");
        command.env("PGOPTIONS", self.dialect.utility_session());
        command.arg(format!("--source-server=host=127.0.0.1 port={port} dbname=template1"));
        command.arg(format!("--target-pgdata={}", directory.display()));
        command
    }

    /// Both copy tools leave the source's port.
    pub fn adapt_port(&mut self, dbid: i16) -> Result<()> {
        let server = self.server(dbid);
        append(&server.file("postgresql.conf"), &format!("port = {}\n", server.port))
    }

    /// Makes the stopped ex-primary a mirror again, and its pair healthy.
    pub async fn recover(&mut self, dbid: i16, source: i16, healed: &str) -> Result<()> {
        self.await_session(source).await?.rows("CHECKPOINT").await?;
        let pid_file = self.server(dbid).file("postmaster.pid");
        if pid_file.exists() {
            fs::remove_file(pid_file)?;
        }
        let command = self.rewind(dbid, source);
        succeed(command)?;
        self.adapt_port(dbid)?;
        self.start_segment(dbid)?;
        let content = self.server(dbid).content;
        self.await_pair(content, healed).await
    }
}

const TRUST: &str = "local all all trust\nlocal replication all trust\n\
     host all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n";

fn settings(port: u16, content: i16) -> String {
    format!(
        "\nport = {port}\nlisten_addresses = '*'\nunix_socket_directories = '/tmp'\n\
         shared_buffers = 16MB\nmax_connections = 40\nlogging_collector = off\n\
         gp_contentid = {content}\ngp_fts_probe_interval = 60\ngp_fts_probe_timeout = 3\n\
         gp_fts_mark_mirror_down_grace_period = {GRACE}\n"
    )
}

/// `GPHOME`, or a fresh build of the stand-in.
fn home(folder: &Path) -> Result<PathBuf> {
    if let Some(home) = env::var_os("GPHOME") {
        return Ok(home.into());
    }
    image::install_tools()?;
    let home = folder.join("home");
    image::build_home(&home)?;
    Ok(home)
}

fn places(folder: &Path) -> Result<Vec<Server>> {
    // Held together until all are chosen, so that they differ.
    let listeners = (0..6).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
    let kinds = [("coordinator", -1), ("primary0", 0), ("primary1", 1), ("mirror0", 0), ("mirror1", 1), ("standby", -1)];
    let places = (1..).zip(kinds).zip(ports);
    Ok(places.map(|((dbid, (name, content)), port)| Server::new(folder, name, dbid, content, port)).collect())
}

pub fn append(path: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(fs::write(path, old + text)?)
}

/// Everything that the tool said, which must have ended well.
pub fn succeed(mut command: Command) -> Result<String> {
    let (output, said) = finish(&mut command)?;
    if !output.status.success() {
        bail!("{} failed ({}): {said}", command.get_program().to_string_lossy(), output.status);
    }
    Ok(said)
}

/// What it said when it failed, as it must.
pub fn fail(mut command: Command) -> Result<String> {
    let (output, said) = finish(&mut command)?;
    ensure!(!output.status.success(), "{} succeeded: {said}", command.get_program().to_string_lossy());
    Ok(said)
}

fn finish(command: &mut Command) -> Result<(Output, String)> {
    let output = command.output().with_context(|| format!("{} did not start", command.get_program().display()))?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((output, String::from_utf8_lossy(&said).into_owned()))
}
