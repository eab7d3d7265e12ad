//! gpheal itself on these servers: supervisors run them, and recoveries mend what was hurt.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use greenplum::{Session, topology};
use model::{Attempt, Catalog, Content, Dbid, FailureClass, InstanceState, Outcome, Page, Place, Repair, Role, Step};
use tokio::task::JoinHandle;
use web::read::page;

use super::{
    bench::Bench,
    product::{login, server},
    query::user,
};

const WITHIN: Duration = Duration::from_mins(1);
const CLUSTER: &str = "conformance";
const ALL: [i16; 5] = [1, 2, 3, 4, 5];

/// The coordinator begins before its segments, and nothing flips meanwhile.
pub async fn a_cold_cluster_comes_up(bench: &mut Bench) -> Result<()> {
    bench.start_again().await?;
    install(bench)?;
    ALL.into_iter().try_for_each(|dbid| bench.server(dbid).stop())?;
    supervise(bench, 1)?;
    await_page(bench, 1, "waiting for its segments", |page| page.state == InstanceState::WaitingForSegments).await?;
    for dbid in [2, 3, 4, 5] {
        supervise(bench, dbid)?;
    }
    for (dbid, role) in [(1, Role::Primary), (2, Role::Primary), (3, Role::Primary), (4, Role::Mirror), (5, Role::Mirror)] {
        await_page(bench, dbid, "its role", |page| page.serves == Some(role)).await?;
    }
    bench.await_pair(0, "2ppsu 4mmsu").await?;
    bench.await_pair(1, "3ppsu 5mmsu").await?;
    await_page(bench, 4, "receiving", |page| page.receiving).await.map(drop)
}

pub async fn ensure_supervised(bench: &mut Bench) -> Result<()> {
    if bench.server(1).is_supervised() { Ok(()) } else { a_cold_cluster_comes_up(bench).await }
}

pub async fn a_lost_primary_stays_closed_and_is_rewound(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    write(bench, 2).await?;
    bench.server(2).vanish()?;
    bench.probe().await?;
    bench.expect_pair(0, "2mpnd 4pmnu").await?;
    supervise(bench, 2)?;
    await_page(bench, 2, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    bench.await_session(4).await?;
    let outcome = recover(bench, 2, Repair::Incremental).await?;
    ensure!(outcome.failure.is_none() && outcome.note == "rewound", "the recovery ended with {outcome:?}");
    await_page(bench, 2, "receiving", |page| page.receiving).await?;
    bench.await_pair(0, "2mpsu 4pmsu").await
}

/// A standby coordinator whose catalog is from before the failover: the replaced primary would open without what was
/// acknowledged since, and the one that has it would be killed.
pub async fn an_older_catalog_neither_opens_the_replaced_primary_nor_kills_the_newer(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = acting_and_mirror(bench, 0).await?;
    bench.server(old).vanish()?;
    bench.probe().await?;
    bench.await_session(new).await?;
    bench.utility(new).await?.rows("CREATE TABLE since (i int); INSERT INTO since SELECT generate_series(1, 10000)").await?;
    supervise(bench, old)?;
    await_page(bench, old, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;

    say_roles(bench, old, new).await?;
    await_page(bench, old, "staying closed", |page| page.state == InstanceState::Replaced).await?;
    await_page(bench, new, "telling that the catalog is old", |page| page.state == InstanceState::CatalogOutdated).await?;
    let kept = bench.utility(new).await?.value("SELECT count(*) FROM since").await?;
    ensure!(kept == "10000", "the newer side does not serve what was written: {kept}");

    say_roles(bench, new, old).await?;
    await_page(bench, new, "serving", |page| page.state == InstanceState::Serving).await?;
    await_page(bench, old, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    let outcome = recover(bench, old, Repair::Incremental).await?;
    ensure!(outcome.failure.is_none(), "the recovery ended with {outcome:?}");
    await_page(bench, old, "receiving", |page| page.receiving).await.map(drop)
}

pub async fn acting_and_mirror(bench: &mut Bench, content: i16) -> Result<(i16, i16)> {
    let session = bench.utility(1).await?;
    let mut found = vec![];
    for role in ['p', 'm'] {
        let sql = format!("SELECT dbid FROM gp_segment_configuration WHERE content = {content} AND role = '{role}' AND status = 'u'");
        found.push(session.value(&sql).await?.parse()?);
    }
    Ok((found[0], found[1]))
}

/// What a coordinator would say whose catalog is another one.
pub async fn say_roles(bench: &mut Bench, primary: i16, mirror: i16) -> Result<()> {
    let update = |dbid: i16, role: char, status: char| {
        format!("UPDATE gp_segment_configuration SET role = '{role}', status = '{status}', mode = 'n' WHERE dbid = {dbid};")
    };
    let both = [update(primary, 'p', 'u'), update(mirror, 'm', 'd')].concat();
    bench.utility(1).await?.rows(&format!("SET allow_system_table_mods = true; {both}")).await.map(drop)
}

pub async fn an_emptied_mirror_is_copied(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let directory = bench.server(5).directory.clone();
    bench.server(5).vanish()?;
    fs::remove_dir_all(&directory)?;
    supervise(bench, 5)?;
    await_page(bench, 5, "needing a copy", |page| page.state == InstanceState::NeedsFull).await?;
    bench.await_pair(1, "3ppnu 5mmnd").await?;
    let outcome = recover(bench, 5, Repair::Incremental).await?;
    let class = outcome.failure.map(|failure| failure.class);
    ensure!(class == Some(FailureClass::TargetUnusable), "rewinding nothing ended with {class:?}");
    let outcome = recover(bench, 5, Repair::Full).await?;
    ensure!(outcome.failure.is_none() && outcome.bytes > 0, "the recovery ended with {outcome:?}");
    await_page(bench, 5, "receiving", |page| page.receiving).await?;
    bench.await_pair(1, "3ppsu 5mmsu").await
}

/// So that the two histories differ.
async fn write(bench: &mut Bench, dbid: i16) -> Result<()> {
    let session = bench.utility(dbid).await?;
    session.rows("CREATE TABLE written (i int); INSERT INTO written SELECT generate_series(1, 10000)").await.map(drop)
}

/// The program and the credentials, where the servers' user can read them.
pub fn install(bench: &Bench) -> Result<()> {
    let built = std::env::current_exe()?.with_file_name("gpheal");
    fs::copy(&built, program(bench)).with_context(|| format!("{} is missing: build gpheal first", built.display()))?;
    bench.owner().folder(&credentials(bench))?;
    fs::write(credentials(bench).join("username"), user())?;
    fs::write(credentials(bench).join("password"), "not asked for")?;
    let port = TcpListener::bind("127.0.1.1:0")?.local_addr()?.port();
    Ok(fs::write(page_port_file(bench), port.to_string())?)
}

fn program(bench: &Bench) -> PathBuf {
    bench.folder().join("gpheal")
}

fn credentials(bench: &Bench) -> PathBuf {
    bench.folder().join("credentials")
}

fn page_port_file(bench: &Bench) -> PathBuf {
    bench.folder().join("page-port")
}

/// Supervisors find each other's pages at their own port.
fn page_port(bench: &Bench) -> Result<u16> {
    Ok(fs::read_to_string(page_port_file(bench))?.parse()?)
}

pub fn supervise(bench: &mut Bench, dbid: i16) -> Result<()> {
    supervise_beside(bench, dbid, &[1])
}

/// With these coordinators to ask.
pub fn supervise_beside(bench: &mut Bench, dbid: i16, coordinators: &[i16]) -> Result<()> {
    supervise_with(bench, dbid, coordinators, &[])
}

/// And with these variables beside those that every one has.
pub fn supervise_with(bench: &mut Bench, dbid: i16, coordinators: &[i16], variables: &[(&str, &str)]) -> Result<()> {
    let coordinator = coordinators.iter().map(|dbid| server(bench, *dbid).to_string()).collect::<Vec<_>>().join(",");
    let port = page_port(bench)?;
    let listen = format!("{}:{port}", bench.server(dbid).address);
    let mut command = bench.program(&program(bench));
    command.args(["supervise", "--", "postgres"]).env("GPHEAL_CLUSTER", CLUSTER).env("GPHEAL_COORDINATOR", coordinator);
    command.env("GPHEAL_CREDENTIALS", credentials(bench)).env("GPHEAL_LISTEN", listen).envs(variables.iter().copied());
    let server = bench.server(dbid);
    command.env("GPHEAL_ADDRESS", &server.address).env("GPHEAL_PORT", server.port.to_string());
    command.env("GPHEAL_DATA_DIRECTORY", &server.directory).env("GPHEAL_PASSFILE", server.volume().join("passfile"));
    server.supervise(command)
}

pub async fn await_page(bench: &mut Bench, dbid: i16, what: &str, wanted: impl Fn(&Page) -> bool) -> Result<Page> {
    let (address, port) = (bench.server(dbid).address.clone(), page_port(bench)?);
    let until = Instant::now() + WITHIN;
    loop {
        let seen = match page(&address, port).await {
            Ok(page) if wanted(&page) => return Ok(page),
            Ok(page) => format!("{:?}: {}", page.state, page.detail),
            Err(error) => error.to_string(),
        };
        if Instant::now() > until {
            bail!("dbid {dbid} does not come to {what}; its page: {seen}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a Job does, as a plain process.
pub async fn recover(bench: &mut Bench, dbid: i16, repair: Repair) -> Result<Outcome> {
    let credentials = credentials(bench);
    recover_as(bench, dbid, repair, &credentials).await
}

/// In full, by a person who says that what the target holds may be lost.
pub async fn recover_waived(bench: &mut Bench, dbid: i16) -> Result<Outcome> {
    let credentials = credentials(bench);
    attempted(bench, dbid, Repair::Full, |attempt| Attempt { waives_history: true, ..attempt }, &credentials).await
}

/// By an operator that has read no page.
pub async fn recover_untold(bench: &mut Bench, dbid: i16, repair: Repair) -> Result<Outcome> {
    let credentials = credentials(bench);
    let untold = |attempt| Attempt { source_incarnations: vec![], source_followed: vec![], source_postmaster: None, ..attempt };
    attempted(bench, dbid, repair, untold, &credentials).await
}

/// As another role than the cluster's own.
pub async fn recover_as(bench: &mut Bench, dbid: i16, repair: Repair, credentials: &Path) -> Result<Outcome> {
    attempted(bench, dbid, repair, |attempt| attempt, credentials).await
}

async fn attempted(
    bench: &mut Bench,
    dbid: i16,
    repair: Repair,
    more: impl FnOnce(Attempt) -> Attempt,
    credentials: &Path,
) -> Result<Outcome> {
    let (mut command, message) = job(bench, dbid, repair, more, credentials).await?;
    tokio::task::spawn_blocking(move || ended(&mut command, &message)).await?
}

/// A Job as a plain process, beside whatever is done meanwhile.
pub async fn recovering(bench: &mut Bench, dbid: i16, repair: Repair) -> Result<JoinHandle<Result<Outcome>>> {
    let credentials = credentials(bench);
    let (mut command, message) = job(bench, dbid, repair, |attempt| attempt, &credentials).await?;
    Ok(tokio::task::spawn_blocking(move || ended(&mut command, &message)))
}

/// The program of a Job, and where it leaves its outcome. It is told what the operator knows, which has read the acting primary's page.
async fn job(
    bench: &mut Bench,
    dbid: i16,
    repair: Repair,
    more: impl FnOnce(Attempt) -> Attempt,
    credentials: &Path,
) -> Result<(Command, PathBuf)> {
    let coordinator = server(bench, 1);
    let session = Session::utility(&coordinator, &login(), None).await?;
    let attempt = attempt(&topology::read(&session).await?.catalog, dbid, repair)?;
    let attempt = match page(&bench.server(attempt.source.dbid.0).address.clone(), page_port(bench)?).await {
        Ok(page) => Attempt {
            source_incarnations: page.incarnations,
            source_followed: page.followed,
            source_postmaster: page.postmaster,
            ..attempt
        },
        Err(_) => attempt, // it has no supervisor
    };
    let message = outcome(bench, dbid);
    let mut command = bench.program(&program(bench));
    command.arg("recover").env("GPHEAL_ATTEMPT", serde_json::to_string(&more(attempt))?);
    command.env("GPHEAL_COORDINATOR", coordinator.to_string());
    command.env("GPHEAL_CREDENTIALS", credentials).env("GPHEAL_TERMINATION_MESSAGE", &message);
    command.env("GPHEAL_PASSFILE", message.with_extension("passfile"));
    command.stdout(fs::File::create(steps(bench, dbid))?);
    Ok((command, message))
}

/// Where a recovery says each second how far it is.
fn steps(bench: &Bench, dbid: i16) -> PathBuf {
    outcome(bench, dbid).with_extension("steps")
}

/// The Job at this instance, which has been begun, has come to this step.
pub async fn await_step(bench: &Bench, dbid: i16, step: Step) -> Result<()> {
    let (file, said) = (steps(bench, dbid), format!("\"step\":\"{step}\""));
    let until = Instant::now() + WITHIN;
    while !fs::read_to_string(&file)?.contains(&said) {
        ensure!(Instant::now() < until, "the recovery of dbid {dbid} does not come to {step}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn ended(command: &mut Command, message: &Path) -> Result<Outcome> {
    let said = command.output()?;
    read(message).with_context(|| format!("a recovery left no outcome: {}", String::from_utf8_lossy(&said.stderr)))
}

/// Where a recovery leaves its outcome: as in a Job not on the volume, which may be full.
pub fn outcome(bench: &Bench, dbid: i16) -> PathBuf {
    bench.folder().join(format!("outcome-{dbid}"))
}

fn attempt(catalog: &Catalog, dbid: i16, repair: Repair) -> Result<Attempt> {
    let target = catalog.row(Dbid(dbid)).context("there is no such row")?;
    let source = catalog.rows.iter().find(|row| row.content == target.content && row.role == Role::Primary);
    Ok(Attempt {
        id: format!("attempt-{dbid}-{repair}"),
        cluster: CLUSTER.into(),
        recovery: "by-hand".into(),
        number: 1,
        repair,
        content: Content(target.content.0),
        target: Place::from(target),
        source: Place::from(source.context("the content has no primary")?),
        max_rate: None,
        recovery_uid: None,
        source_incarnations: vec![],
        source_followed: vec![],
        source_postmaster: None,
        waives_history: false,
    })
}

fn read(message: &Path) -> Result<Outcome> {
    Ok(serde_json::from_slice(&fs::read(message)?)?)
}
