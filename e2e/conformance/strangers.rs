//! Who else is at the source: roles that may not do what a Job does, people who copy it, tools that wait for it.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use greenplum::{
    Session,
    awaited::{Awaited, REWIND},
};
use model::{FailureClass, Repair};

use super::{
    bench::Bench,
    bounded::{await_mirror_down, in_sync},
    product::{login, server},
    query::connect,
    supervised::{acting_and_mirror, await_page, ensure_supervised, recover, recover_as, supervise},
};

/// One that was killed may live on, below what started it, and its walsenders with it.
async fn no_backup_runs(bench: &mut Bench, source: i16) -> Result<()> {
    let session = bench.utility(source).await?;
    session.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'pg_basebackup'").await?;
    for _ in 0..300 {
        if session.value("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_basebackup'").await? == "0" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the base backup of before runs still")
}

/// The mirror is down, and comes back as it was: none of these attempts has changed anything.
pub async fn a_job_that_may_not_says_so_and_leaves_a_persons_backup_alone(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (source, target) = acting_and_mirror(bench, 0).await?;
    bench.server(target).vanish()?;
    await_mirror_down(bench).await?;
    for (role, grants) in roles(bench) {
        let credentials = make_role(bench, role, grants).await?;
        for repair in [Repair::Incremental, Repair::Full] {
            let failure = recover_as(bench, target, repair, &credentials).await?.failure;
            let failure = failure.with_context(|| format!("{role} has made the {repair} repair"))?;
            ensure!(failure.class == FailureClass::LoginRefused, "{role}, {repair}: {failure:?}");
        }
    }
    let mut theirs = Backup::begin(bench, source).await?;
    let address = bench.utility(source).await?.value("SELECT host(inet_client_addr())").await?;
    let now = bench.utility(source).await?.value("SELECT floor(extract(epoch FROM clock_timestamp()))::bigint").await?;
    // As a dead attempt has left it that came from the same address at the same time.
    let left =
        format!(r#"{{"version":1,"attempt":"dead","address":"{address}","at":{},"ports":[1],"tablespaces":[]}}"#, now.parse::<u64>()? - 60);
    let mark = bench.server(target).volume().join(".gpheal/backup.json");
    fs::write(&mark, left)?;
    bench.owner().file(&mark, 0o600)?;
    let class = recover(bench, target, Repair::Full).await?.failure.map(|failure| failure.class);
    ensure!(class == Some(FailureClass::SourceBusy), "beside somebody else's base backup the copy ended with {class:?}");
    ensure!(theirs.runs()?, "somebody else's base backup was ended");
    drop(theirs);
    fs::remove_file(mark)?;
    no_backup_runs(bench, source).await?;
    supervise(bench, target)?;
    await_page(bench, target, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// A role that may log in, one that may replicate too, and where there are such rights one that may do what they say.
fn roles(bench: &Bench) -> Vec<(&'static str, &'static [&'static str])> {
    let mut roles: Vec<(_, &[&str])> =
        vec![("gpheal_job_login", &[]), ("gpheal_job_replicates", &["ALTER ROLE gpheal_job_replicates REPLICATION"])];
    if bench.dialect().has_monitors() {
        roles.push(("gpheal_job_monitors", &["ALTER ROLE gpheal_job_monitors REPLICATION", "GRANT pg_monitor TO gpheal_job_monitors"]));
    }
    roles
}

async fn make_role(bench: &mut Bench, role: &str, grants: &[&str]) -> Result<PathBuf> {
    for dbid in [1, acting_primary(bench, 0).await?, acting_primary(bench, 1).await?] {
        let session = bench.utility(dbid).await?;
        if session.rows(&format!("SELECT 1 FROM pg_roles WHERE rolname = '{role}'")).await?.is_empty() {
            session.rows(&format!("CREATE ROLE {role} LOGIN")).await?;
            for grant in grants {
                session.rows(grant).await?;
            }
        }
    }
    let folder = bench.folder().join(role);
    bench.owner().folder(&folder)?;
    fs::write(folder.join("username"), role)?;
    fs::write(folder.join("password"), "not asked for")?;
    Ok(folder)
}

async fn acting_primary(bench: &mut Bench, content: i16) -> Result<i16> {
    let sql = format!("SELECT dbid FROM gp_segment_configuration WHERE content = {content} AND role = 'p'");
    Ok(bench.utility(1).await?.value(&sql).await?.parse()?)
}

/// A base backup that somebody makes by hand, slowly.
struct Backup(Child);

impl Backup {
    async fn begin(bench: &mut Bench, source: i16) -> Result<Self> {
        let (port, folder) = (bench.port(source).to_string(), bench.folder().join("by-hand"));
        let mut command = bench.tool("pg_basebackup");
        command.args(["-c", "fast", "-h", "127.0.0.1", "-p", &port, "--target-gp-dbid", "9", "--max-rate", "32k", "-D"]).arg(&folder);
        let backup = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        for _ in 0..100 {
            let sql = "SELECT 1 FROM pg_stat_replication WHERE application_name = 'pg_basebackup' AND state = 'backup'";
            if !bench.utility(source).await?.rows(sql).await?.is_empty() {
                return Ok(backup);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the base backup by hand does not begin")
    }

    fn runs(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a tool waits for is seen at its server, and what only stays there is not.
pub async fn a_server_that_works_for_a_tool_is_seen_to(bench: &mut Bench) -> Result<()> {
    let session = Session::utility(&server(bench, 2), &login(), None).await?;
    for awaited in [Awaited::Rewind, Awaited::Backup] {
        ensure!(!awaited.is_worked_for(&session).await?, "{awaited:?} without a tool");
    }
    let options = format!("{} -c application_name={REWIND}", bench.dialect().utility_session());
    let tool = connect(bench.port(2), &options).await?;
    ensure!(!Awaited::Rewind.is_worked_for(&session).await?, "it is idle");
    let lists = tool.rows("SELECT pg_sleep(3)");
    let looks = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Awaited::Rewind.is_worked_for(&session).await
    };
    let (listed, works) = tokio::join!(lists, looks);
    listed?;
    ensure!(works?, "a statement that runs");
    let backup = Backup::begin(bench, 2).await?;
    ensure!(Awaited::Backup.is_worked_for(&session).await?, "a base backup");
    drop(backup);
    Ok(())
}
