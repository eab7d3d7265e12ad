//! What a role has set for its sessions bounds none of gpheal's, and a session that is lost is noticed before it is needed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use greenplum::{Login, Server, Session, Tls, fts};
use model::{FailureClass, InstanceState, Outcome, Repair};

use super::{
    bench::Bench,
    product,
    supervised::{acting_and_mirror, await_page, ensure_supervised, outcome, recover_as, supervise},
};

/// A superuser, as a Job's is.
const ROLE: &str = "gpheal_bounded";
/// Shorter than anything takes. The first two would end the statement that sets the rest.
const BOUNDS: &[(&str, &str)] = &[
    ("statement_timeout", "'1ms'"),
    ("lock_timeout", "'1ms'"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "'serializable'"),
    ("default_transaction_deferrable", "on"),
    ("search_path", "nowhere, pg_catalog"),
    ("client_encoding", "'LATIN1'"),
    ("idle_in_transaction_session_timeout", "'1s'"),
    ("idle_session_timeout", "'1s'"),
    ("lc_messages", "'POSIX'"), // another name of the same, where no other language is installed
];
const LOCK: &str = "classid = 1735420005 AND locktype = 'advisory'";

pub async fn what_a_role_has_set_bounds_no_session(bench: &mut Bench) -> Result<()> {
    make_role(bench, &[1, 2]).await?;
    let login = Login { user: ROLE.into(), password: String::new(), tls: Tls::Disable };
    for dbid in [1, 2] {
        let session = Session::utility(&Server::new("127.0.0.1", bench.port(dbid)), &login, None).await?;
        session.rows("SELECT pg_catalog.pg_sleep(1.2)").await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        session.rows("CREATE TEMPORARY TABLE written (i int)").await.context("after it was idle")?;
        let language = session.rows("SELECT 1 WHERE pg_catalog.current_setting('lc_messages') = 'C'").await?;
        ensure!(
            language.len() == 1 && session.tool_options.contains("-c lc_messages=C"),
            "neither speaks English: {}",
            session.tool_options
        );
    }
    let dispatching = Session::dispatch(&Server::new("127.0.0.1", bench.port(1)), &login).await?;
    dispatching.rows("SELECT pg_catalog.pg_sleep(1.2)").await.context("a session that dispatches")?;
    fts::request_probe(&dispatching).await.map_err(Into::into)
}

/// What is known to be at login is overruled there, and the rest after it.
pub async fn what_is_set_for_a_database_or_all_of_a_server_bounds_no_session(bench: &mut Bench) -> Result<()> {
    let (database, server) = (login_of(bench, 2), login_of(bench, 3));
    let set = |session: Session| async move {
        for (name, value) in BOUNDS {
            let _ = session.rows(&format!("ALTER DATABASE postgres SET {name} = {value}")).await; // a server that does not know it refuses it
        }
    };
    set(Session::utility(&database.0, &database.1, None).await?).await;
    let settings = bench.server(3).file("postgresql.conf");
    let before = fs::read(&settings)?;
    let known = Session::utility(&server.0, &server.1, None).await?;
    let mut lines = vec![String::new()];
    for (name, value) in BOUNDS {
        if !known.rows(&format!("SELECT 1 FROM pg_catalog.pg_settings WHERE name = '{name}'")).await?.is_empty() {
            lines.push(format!("{name} = '{}'\n", value.trim_matches('\'')));
        }
    }
    fs::write(&settings, [&before[..], lines.join("\n").as_bytes()].concat())?;
    known.rows("SELECT pg_catalog.pg_reload_conf()").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (of_database, of_server) = tokio::join!(unbounded(&database), unbounded(&server));
    fs::write(&settings, before)?;
    Session::utility(&server.0, &server.1, None).await?.rows("SELECT pg_catalog.pg_reload_conf()").await?;
    Session::utility(&database.0, &database.1, None).await?.rows("ALTER DATABASE postgres RESET ALL").await?;
    of_database.context("what was set for the database")?;
    of_server.context("what was set in postgresql.conf")
}

fn login_of(bench: &mut Bench, dbid: i16) -> (Server, Login) {
    (Server::new("127.0.0.1", bench.port(dbid)), product::login())
}

/// A session does what takes longer than any of the bounds.
async fn unbounded((server, login): &(Server, Login)) -> Result<()> {
    let session = Session::utility(server, login, None).await?;
    session.rows("SELECT pg_catalog.pg_sleep(1.2)").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    session.rows("CREATE TEMPORARY TABLE written (i int)").await.context("after it was idle")?;
    let path = session.rows("SELECT pg_catalog.current_setting('search_path')").await?;
    ensure!(path.first().map(|row| row.get::<_, String>(0)).as_deref() == Some(""), "a search path of its own");
    Ok(())
}

/// A rewind and a copy that stands still for longer than the source lets a session be idle.
pub async fn what_a_role_has_set_bounds_no_repair(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (old, new) = acting_and_mirror(bench, 0).await?;
    make_role(bench, &[1, 2, 3]).await?;
    write(bench, old).await?;
    bench.server(old).vanish()?;
    bench.probe().await?;
    supervise(bench, old)?;
    await_page(bench, old, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    bench.await_session(new).await?;
    let credentials = credentials(bench)?;
    let outcome = recover_as(bench, old, Repair::Incremental, &credentials).await?;
    ensure!(outcome.failure.is_none() && outcome.note == "rewound", "the rewind ended with {outcome:?}");
    await_page(bench, old, "receiving", |page| page.receiving).await?;
    in_sync(bench).await?;
    empty(bench, old).await?;
    let outcome = held_up(bench, old, ("Copying", &credentials), async || Ok(())).await?;
    ensure!(outcome.failure.is_none(), "the copy ended with {outcome:?}");
    await_page(bench, old, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// The server ends the session that holds the lock before a rewind writes, and while a copy stands still.
pub async fn a_lost_lock_on_the_source_is_taken_again_and_only_another_holder_stops_a_copy(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (target, source) = acting_and_mirror(bench, 0).await?;
    make_role(bench, &[1, 2, 3]).await?;
    write(bench, target).await?;
    bench.server(target).vanish()?;
    bench.probe().await?;
    supervise(bench, target)?;
    await_page(bench, target, "being stale", |page| page.state == InstanceState::NeedsRecovery).await?;
    bench.await_session(source).await?;
    let credentials = credentials(bench)?;
    let other = bench.utility(source).await?;
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE {LOCK} AND pid <> pg_backend_pid()");
    let ends = async || {
        let ended = other.rows(&end).await?.len();
        ensure!(ended > 0, "nobody held the lock");
        Ok(())
    };
    let outcome = held_up_in(bench, target, (Repair::Incremental, "Copying", &credentials), ends).await?;
    ensure!(outcome.failure.is_none() && outcome.note == "rewound", "without its session the rewind ended with {outcome:?}");
    await_page(bench, target, "receiving", |page| page.receiving).await?;
    in_sync(bench).await?;
    empty(bench, target).await?;
    let stopped = held_up(bench, target, ("Copying", &credentials), async || {
        ends().await?;
        other.rows("SELECT pg_advisory_lock(1735420005, 0)").await.map(drop)
    });
    let class = stopped.await?.failure.map(|failure| failure.class);
    ensure!(class == Some(FailureClass::SourceBusy), "beside another holder the copy ended with {class:?}");
    other.rows("SELECT pg_advisory_unlock_all()").await?;
    let outcome = held_up(bench, target, ("Copying", &credentials), ends).await?;
    ensure!(outcome.failure.is_none(), "without its session the copy ended with {outcome:?}");
    await_page(bench, target, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// What lies beside the old directory is of no use then, and may be what fills the volume.
pub async fn a_copy_that_was_made_in_vain_is_taken_away(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (_, target) = acting_and_mirror(bench, 0).await?;
    make_role(bench, &[1, 2, 3]).await?;
    empty(bench, target).await?;
    let (credentials, volume) = (credentials(bench)?, bench.server(target).volume().to_owned());
    let fresh = |volume: &Path| -> Result<Option<PathBuf>> {
        let found = fs::read_dir(volume)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        Ok(found.into_iter().find(|path| path.to_string_lossy().contains("gpheal-new")))
    };
    let outcome = held_up(bench, target, ("Configuring", &credentials), async || {
        let copied = |folder: &Path| ["recovery.conf", "standby.signal"].iter().any(|file| folder.join(file).is_file());
        for _ in 0..300 {
            if let Some(folder) = fresh(&volume)?.filter(|folder| copied(folder)) {
                fs::remove_file(folder.join("postgresql.conf"))?;
                return Ok(fs::create_dir(folder.join("postgresql.conf"))?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("nothing was copied")
    });
    let outcome = outcome.await?;
    ensure!(outcome.failure.is_some(), "settings were written into a folder");
    ensure!(fresh(&volume)?.is_none(), "the copy is left");
    let outcome = recover_as(bench, target, Repair::Full, &credentials).await?;
    ensure!(outcome.failure.is_none(), "the next copy ended with {outcome:?}");
    await_page(bench, target, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// Each of its three databases takes seconds to size, as one of a million files does; no statement of gpheal's own is given as long.
pub async fn a_source_that_is_slow_to_measure_is_waited_for(bench: &mut Bench) -> Result<()> {
    // Under an oid of its own: what is built in is run as it was built in, whatever the catalog says of it.
    const SLOW: &str = "SET allow_system_table_mods = true; ALTER FUNCTION pg_catalog.pg_database_size(oid) RENAME TO own_size;
        CREATE FUNCTION pg_catalog.pg_database_size(oid) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint FROM pg_catalog.pg_sleep(4)'";
    const OWN: &str = "SET allow_system_table_mods = true; DROP FUNCTION pg_catalog.pg_database_size(oid);
        ALTER FUNCTION pg_catalog.own_size(oid) RENAME TO pg_database_size";
    ensure_supervised(bench).await?;
    let (source, target) = acting_and_mirror(bench, 0).await?;
    make_role(bench, &[1, 2, 3]).await?;
    empty(bench, target).await?;
    let credentials = credentials(bench)?;
    let session = bench.utility(source).await?;
    session.rows(SLOW).await?;
    let begun = Instant::now();
    let outcome = recover_as(bench, target, Repair::Full, &credentials).await;
    let took = begun.elapsed();
    session.rows(OWN).await?;
    let outcome = outcome?;
    ensure!(outcome.failure.is_none(), "the copy ended with {outcome:?}");
    ensure!(took > Duration::from_secs(11), "it was measured in {took:?}, for which the function was to take twelve seconds");
    await_page(bench, target, "receiving", |page| page.receiving).await?;
    in_sync(bench).await
}

/// Roles are not shared by instances that were made one by one; a mirror has its primary's. A server that does not know a
/// setting refuses it.
async fn make_role(bench: &mut Bench, dbids: &[i16]) -> Result<()> {
    let primaries = [1, acting_and_mirror(bench, 0).await?.0, acting_and_mirror(bench, 1).await?.0];
    for dbid in if dbids.len() == 3 { &primaries } else { dbids } {
        let session = bench.utility(*dbid).await?;
        if session.rows(&format!("SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'")).await?.is_empty() {
            session.rows(&format!("CREATE ROLE {ROLE} LOGIN SUPERUSER REPLICATION")).await?;
        }
        for (name, value) in BOUNDS {
            let _ = session.rows(&format!("ALTER ROLE {ROLE} SET {name} = {value}")).await;
        }
    }
    Ok(())
}

fn credentials(bench: &Bench) -> Result<PathBuf> {
    let folder = bench.folder().join("credentials-bounded");
    bench.owner().folder(&folder)?;
    fs::write(folder.join("username"), ROLE)?;
    fs::write(folder.join("password"), "not asked for")?;
    Ok(folder)
}

/// So that the two histories differ.
async fn write(bench: &mut Bench, dbid: i16) -> Result<()> {
    bench
        .utility(dbid)
        .await?
        .rows("CREATE TABLE IF NOT EXISTS bounded (i int); INSERT INTO bounded SELECT generate_series(1, 10000)")
        .await
        .map(drop)
}

async fn empty(bench: &mut Bench, dbid: i16) -> Result<()> {
    let directory = bench.server(dbid).directory.clone();
    bench.server(dbid).vanish()?;
    fs::remove_dir_all(&directory)?;
    supervise(bench, dbid)?;
    await_page(bench, dbid, "needing a copy", |page| page.state == InstanceState::NeedsFull).await?;
    await_mirror_down(bench).await
}

/// The mirror of content 0 is marked down.
pub async fn await_mirror_down(bench: &mut Bench) -> Result<()> {
    for _ in 0..120 {
        bench.probe().await?;
        let sql = "SELECT dbid FROM gp_segment_configuration WHERE content = 0 AND role = 'm' AND status = 'd'";
        if !bench.utility(1).await?.rows(sql).await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!("the mirror of content 0 is not marked down")
}

pub async fn in_sync(bench: &mut Bench) -> Result<()> {
    for _ in 0..240 {
        bench.probe().await?;
        let sql = "SELECT count(*) FROM gp_segment_configuration WHERE content = 0 AND mode = 's' AND status = 'u'";
        if bench.utility(1).await?.value(sql).await? == "2" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!("content 0 does not come in sync")
}

/// A full copy that stands still for some seconds before this step, while something happens.
async fn held_up(
    bench: &mut Bench,
    dbid: i16,
    (step, credentials): (&str, &Path),
    meanwhile: impl AsyncFnOnce() -> Result<()>,
) -> Result<Outcome> {
    held_up_in(bench, dbid, (Repair::Full, step, credentials), meanwhile).await
}

async fn held_up_in(
    bench: &mut Bench,
    dbid: i16,
    (repair, step, credentials): (Repair, &str, &Path),
    meanwhile: impl AsyncFnOnce() -> Result<()>,
) -> Result<Outcome> {
    let (marks, result) = (bench.server(dbid).volume().join(".gpheal"), outcome(bench, dbid));
    fs::write(marks.join("pause-at"), step)?;
    let _ = fs::remove_file(result);
    let pause = marks.join("pause-at");
    let happens = async {
        for _ in 0..300 {
            if fs::read_to_string(marks.join("hold")).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let done = meanwhile().await;
        fs::remove_file(&pause)?;
        done
    };
    let (outcome, done) = tokio::join!(recover_as(bench, dbid, repair, credentials), happens);
    done?;
    outcome
}
