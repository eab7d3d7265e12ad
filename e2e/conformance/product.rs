//! What gpheal itself makes of a Greenplum: its own sessions, queries and readings.

use anyhow::{Context, Result, ensure};
use greenplum::{Login, Server, Session, SessionError, Tls, control::ControlData, fts, replication, topology, wal};
use model::{Content, Dbid, Lsn, SystemIdentifier, Timeline};

use super::{
    bench::{Bench, succeed},
    query::{expect_same, user},
};

/// The end of a log is exact to a page; no version has longer ones.
const PAGE: u64 = 64 * 1024;

pub fn login() -> Login {
    Login { user: user(), password: String::new(), tls: Tls::default() }
}

pub fn server(bench: &mut Bench, dbid: i16) -> Server {
    let port = bench.port(dbid);
    Server::new(&bench.server(dbid).address, port)
}

async fn utility(bench: &mut Bench, dbid: i16) -> Result<Session, SessionError> {
    Session::utility(&server(bench, dbid), &login(), None).await
}

pub async fn the_coordinator_is_read(bench: &mut Bench) -> Result<()> {
    let session = utility(bench, 1).await?;
    expect_same("the dialect", &session.dialect, &bench.dialect().of_gpheal())?;
    let path = session.rows("SELECT pg_catalog.current_setting('search_path')").await?;
    expect_same("the search path", &path.first().map(|row| row.get::<_, String>(0)), &Some(String::new()))?;
    let endless = session.rows("SELECT pg_catalog.generate_series(1, 20001)").await;
    ensure!(matches!(endless, Err(SessionError::Strange { .. })), "{} rows were read", endless.map_or(0, |rows| rows.len()));
    let catalog = topology::read(&session).await?.catalog;
    expect_same("rows", &catalog.rows.len(), &5)?;
    for content in [0, 1] {
        catalog.pair(Content(content)).map_err(anyhow::Error::msg)?;
    }
    expect_same("the timeline", &topology::timeline(&session).await?, &Timeline(1))?;
    let (answer, _) = topology::with_history(&session).await?;
    expect_same("the same with the history", &answer.catalog, &catalog)
}

pub async fn a_primary_is_read(bench: &mut Bench) -> Result<()> {
    let source = replication::source(&utility(bench, 2).await?).await?;
    expect_same("who it is", &(source.dbid, source.content, source.in_recovery), &(Dbid(2), Content(0), false))?;
    let senders: Vec<_> = source.walsenders.iter().map(|sender| (sender.application_name.as_str(), sender.state.as_str())).collect();
    expect_same("its walsenders", &senders, &vec![("gp_walreceiver", "streaming")])
}

pub async fn a_mirror_is_known_by_its_refusal(bench: &mut Bench) -> Result<()> {
    let refusal = utility(bench, 4).await.err();
    ensure!(matches!(refusal, Some(SessionError::InRecovery(_))), "a mirror answers {refusal:?}");
    Ok(())
}

pub async fn fts_and_dispatch_answer(bench: &mut Bench) -> Result<()> {
    let session = Session::dispatch(&server(bench, 1), &login()).await?;
    fts::request_probe(&session).await?;
    let mut reached = fts::dispatched_contents(&session).await?;
    reached.sort_unstable();
    expect_same("contents reached", &reached, &vec![Content(0), Content(1)])
}

/// Control file, log and replication protocol name one system, and agree on how far it is.
pub async fn a_directory_is_read(bench: &mut Bench) -> Result<()> {
    // After a switch of segments nothing stands between the last record and the place that was flushed.
    bench.utility(2).await?.rows("CHECKPOINT").await?;
    let before = identify(bench, 2)?;
    let mut command = bench.tool("pg_controldata");
    command.arg(&bench.server(2).directory);
    let control = ControlData::parse(&succeed(command)?)?;
    expect_same("the state", &control.state.as_str(), &"in production")?;
    expect_same("its timeline and checksums", &(control.timeline, control.checksums > 0), &(before.1, true))?;
    let folder = bench.dialect().wal_folder();
    let folder = bench.server(2).file(folder);
    let end = wal::end(&folder)?.context("the log has no end")?;
    let after = identify(bench, 2)?;
    expect_same("the system", &(control.system_identifier, end.system_identifier), &(before.0, before.0))?;
    ensure!(control.checkpoint <= after.2, "a checkpoint at {} although the log is flushed to {}", control.checkpoint, after.2);
    ensure!(end.at_least.0 + PAGE >= before.2.0, "the log ends at {} although it was flushed to {}", end.at_least, before.2);
    ensure!(end.at_least.0 <= after.2.0 + PAGE, "the log ends at {} and is flushed to {} only", end.at_least, after.2);
    Ok(())
}

/// As a recovery asks it.
fn identify(bench: &mut Bench, dbid: i16) -> Result<(SystemIdentifier, Timeline, Lsn)> {
    let Server { host, port, .. } = server(bench, dbid);
    let mut command = bench.tool("psql");
    let place = format!("host={host} port={port} user={} dbname=postgres replication=true", user());
    command.args(["-X", "-A", "-t", "-w", "-F", "|", "-d", &place, "-c", "IDENTIFY_SYSTEM"]);
    let said = succeed(command)?;
    let mut fields = said.trim().split('|');
    let mut next = || fields.next().with_context(|| format!("IDENTIFY_SYSTEM gives {said:?}"));
    Ok((next()?.parse()?, Timeline(next()?.parse()?), next()?.parse()?))
}
