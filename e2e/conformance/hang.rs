//! A mirror that hangs: for how long the commits of its content wait, and who ends that.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use greenplum::{
    Session,
    replication::{self, Senders},
};
use model::{InstanceState, Page};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{task::JoinHandle, time::sleep};

use super::{
    bench::{Bench, GRACE},
    product::{login, server},
    server::Asleep,
    supervised::{acting_and_mirror, await_page, ensure_supervised, supervise, supervise_with},
};

/// `wal_sender_timeout` is a minute by default, and five on Greenplum 6: for so long a commit waits where nobody ends the walsender. How
/// much less it is with gpheal is measured by `make figures`.
const LEFT_ALONE: Duration = Duration::from_secs(55);
/// Enough to fill the buffers of both sides of a connection, whatever the kernel makes of them, where a session may run so far
/// ahead of its mirror: Greenplum 6 holds it up before.
const COPIED: &str = "INSERT INTO waits SELECT generate_series(1, 300000)";

/// A mirror's node that is lost, or so slow that nothing runs there any more: its supervisor is frozen, too.
pub async fn commits_wait_for_a_frozen_mirror_no_longer_than_for_a_dead_one(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    make_table(bench, primary).await?;
    let healthy = bench.pair(1).await?;
    let begun = Instant::now();
    let asleep = bench.server(mirror).freeze(true)?;
    let insert = commit(bench, primary, "INSERT INTO waits VALUES (1)").await?;
    let hangs = |page: &Page| page.mirror_hangs.as_ref().is_some_and(|hang| hang.detail.contains("acknowledged nothing past"));
    await_page(bench, primary, "telling that its mirror hangs", hangs).await?;
    println!("       told after {:.1} s", begun.elapsed().as_secs_f32());
    let ended = |page: &Page| page.mirror_hangs.as_ref().is_some_and(|hang| hang.ended);
    let page = await_page(bench, primary, "ending its walsender", ended).await?;
    println!("       {}", page.mirror_hangs.map(|hang| hang.detail).unwrap_or_default());
    within("a commit", begun, insert).await?;
    asleep.wake();
    await_page(bench, primary, "having no mirror that hangs", |page| page.mirror_hangs.is_none()).await?;
    bench.await_pair(1, &healthy).await
}

/// With so much to send that a walsender which is told to end would wait for its mirror to read. Of another content: a pair is cut
/// once a minute at most.
pub async fn a_copy_waits_no_longer_than_a_commit(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 0).await?;
    make_table(bench, primary).await?;
    let healthy = bench.pair(0).await?;
    let begun = Instant::now();
    let asleep = bench.server(mirror).freeze(true)?;
    let copy = commit(bench, primary, COPIED).await?;
    let ended = |page: &Page| page.mirror_hangs.as_ref().is_some_and(|hang| hang.ended);
    let page = await_page(bench, primary, "ending its walsender", ended).await;
    let page = if copy.is_finished() { bail!("the copy did not wait: {:?}", copy.await) } else { page? };
    println!("       {}", page.mirror_hangs.map(|hang| hang.detail).unwrap_or_default());
    within("a copy", begun, copy).await?;
    asleep.wake();
    await_page(bench, primary, "having no mirror that hangs", |page| page.mirror_hangs.is_none()).await?;
    bench.await_pair(0, &healthy).await
}

/// It is back within FTS' grace, so commits wait for it all the while, and freezes with much of the log still to come.
pub async fn commits_wait_no_longer_for_a_mirror_that_freezes_while_it_catches_up(bench: &mut Bench) -> Result<()> {
    bench.start_again().await?; // one whose walsender was ended is not cut again for a minute
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    make_table(bench, primary).await?;
    let healthy = bench.pair(1).await?;
    let asleep = asleep_behind(bench, primary, mirror, &healthy).await?;
    let begun = Instant::now();
    let insert = commit(bench, primary, "INSERT INTO waits VALUES (7)").await?;
    let ended = |page: &Page| page.mirror_hangs.as_ref().is_some_and(|hang| hang.ended);
    let page = await_page(bench, primary, "ending its walsender", ended).await?;
    println!("       after {:.1} s: {}", begun.elapsed().as_secs_f32(), page.mirror_hangs.map(|hang| hang.detail).unwrap_or_default());
    within("a commit", begun, insert).await?;
    asleep.wake();
    await_page(bench, primary, "having no mirror that hangs", |page| page.mirror_hangs.is_none()).await?;
    bench.await_pair(1, &healthy).await
}

/// A mirror that FTS still counts on: one that came back later than its grace is none.
async fn asleep_behind(bench: &mut Bench, primary: i16, mirror: i16, healthy: &str) -> Result<Asleep> {
    let switch = if bench.dialect().log_folder() == "pg_log" { "pg_switch_xlog" } else { "pg_switch_wal" };
    for _ in 0..3 {
        bench.server(mirror).vanish()?;
        for _ in 0..8 {
            bench.utility(primary).await?.rows(&format!("SELECT pg_create_restore_point('x'); SELECT {switch}()")).await?;
        }
        supervise(bench, mirror)?;
        let asleep = freezes_behind(bench, primary, mirror).await?;
        if bench.pair(1).await?.split(' ').all(|row| row.ends_with('u')) {
            return Ok(asleep);
        }
        asleep.wake();
        bench.await_pair(1, healthy).await?;
    }
    bail!("each time it came back later than FTS' grace")
}

/// It has answered once since it connected.
async fn freezes_behind(bench: &mut Bench, primary: i16, mirror: i16) -> Result<Asleep> {
    let session = Session::utility(&server(bench, primary), &login(), None).await?;
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        let Senders::Seen(senders) = replication::senders(&session, Duration::from_secs(5)).await? else { bail!("hidden") };
        if senders.iter().any(|sender| sender.state == "catchup" && sender.position.write.is_some()) {
            return bench.server(mirror).freeze(true);
        }
    }
    bail!("it was never seen to catch up")
}

/// It is killed and started again by its own supervisor, before FTS would mark it down.
pub async fn a_mirror_whose_postgres_is_frozen_is_started_again(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    make_table(bench, primary).await?;
    let (healthy, history) = (bench.pair(1).await?, bench.history(mirror).await?);
    let before = postmaster(bench, mirror)?;
    let begun = Instant::now();
    let asleep = bench.server(mirror).freeze(false)?;
    let insert = commit(bench, primary, "INSERT INTO waits VALUES (2)").await?;
    while postmaster(bench, mirror).is_ok_and(|now| now == before) {
        ensure!(begun.elapsed() < Duration::from_mins(1), "its supervisor leaves it as it is");
        sleep(Duration::from_millis(100)).await;
    }
    let told = std::fs::read(bench.server(mirror).log())?;
    ensure!(String::from_utf8_lossy(&told).contains("has been stopped for"), "nobody was told why it was killed");
    within("a commit", begun, insert).await?;
    asleep.forget();
    await_page(bench, mirror, "receiving", |page| page.receiving && page.stalled.is_none()).await?;
    bench.probe().await?;
    bench.expect_pair(1, &healthy).await?;
    ensure!(bench.history(mirror).await? == history, "FTS has marked it down meanwhile");
    Ok(())
}

/// It stands still for a while, and moves again in time: over and over.
pub async fn a_slow_mirror_is_never_cut(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    make_table(bench, primary).await?;
    let (before, history) = (walsender(bench, primary).await?, bench.history(mirror).await?);
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        let asleep = bench.server(mirror).freeze(true)?;
        let insert = commit(bench, primary, "INSERT INTO waits SELECT generate_series(1, 1000)").await?;
        sleep(Duration::from_millis(3600)).await;
        asleep.wake();
        insert.await??;
    }
    let after = walsender(bench, primary).await?;
    ensure!(before == after, "its walsender was {before:?} and is {after:?}");
    ensure!(bench.history(mirror).await? == history, "FTS has marked it down meanwhile");
    await_page(bench, primary, "having no mirror that hangs", |page| page.mirror_hangs.is_none()).await.map(drop)
}

/// Who leaves it to `wal_sender_timeout` is told all the same.
pub async fn where_nobody_may_end_a_walsender_a_hang_is_told_and_nothing_is_cut(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 0).await?;
    bench.server(primary).stop()?;
    supervise_with(bench, primary, &[1], &[("GPHEAL_HASTEN_LOST_MIRROR", "false")])?;
    bench.await_session(primary).await?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    make_table(bench, primary).await?;
    let before = walsender(bench, primary).await?;
    let asleep = bench.server(mirror).freeze(true)?;
    let insert = commit(bench, primary, "INSERT INTO waits VALUES (5)").await?;
    let told = |page: &Page| page.mirror_hangs.as_ref().is_some_and(|hang| hang.detail.contains("GPHEAL_HASTEN_LOST_MIRROR is false"));
    let seen = await_page(bench, primary, "telling that its mirror hangs", told).await;
    sleep(Duration::from_secs(GRACE + 3)).await;
    let (after, waits) = (walsender(bench, primary).await, !insert.is_finished());
    asleep.wake();
    ensure!(!seen?.mirror_hangs.is_some_and(|hang| hang.ended) && waits, "something was ended");
    ensure!(after? == before, "its walsender is another one");
    insert.await??;
    await_page(bench, primary, "having no mirror that hangs", |page| page.mirror_hangs.is_none()).await?;
    bench.server(primary).stop()?;
    supervise(bench, primary)?;
    await_page(bench, primary, "serving", |page| page.state == InstanceState::Serving).await?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await.map(drop)
}

/// It works all the while and answers nothing: of 9.4 only when it has read all that came, or at the end of a segment, and the next
/// one is filled with zeros first. With many sessions that write and a slow disk that takes longer than a mirror may owe an answer.
pub async fn a_receiver_that_works_and_answers_nothing_is_neither_cut_nor_marked_down(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    let (healthy, history) = (bench.pair(1).await?, bench.history(mirror).await?);
    let before = walsender(bench, primary).await?;
    let until = Instant::now() + SLOW;
    let postmaster = postmaster(bench, mirror)?;
    let throttle = std::thread::spawn(move || throttled(postmaster, until));
    for number in 0..WRITERS {
        tokio::spawn(write_on(bench.utility(primary).await?, number, until));
    }
    let (mut told, mut owed, mut stood) = (std::collections::BTreeSet::new(), None, Duration::ZERO);
    let session = Session::utility(&server(bench, primary), &login(), None).await?;
    while Instant::now() < until {
        if let Senders::Seen(senders) = replication::senders(&session, BOUND).await? {
            let flush = senders.first().and_then(|one| one.position.flush);
            let since = owed.filter(|(at, _)| *at == flush).map_or_else(Instant::now, |(_, since)| since);
            owed = Some((flush, since));
            stood = stood.max(since.elapsed());
        }
        let page = await_page(bench, primary, "any", |_| true).await?;
        told.extend(page.mirror_hangs.map(|hang| hang.detail));
        sleep(Duration::from_millis(500)).await;
    }
    throttle.join().map_err(|_| anyhow::anyhow!("nobody throttles"))?;
    println!("       its flush position stood still for {:.1} s; told: {told:#?}", stood.as_secs_f32());
    let after = walsender(bench, primary).await?;
    ensure!(before == after, "its walsender was {before:?} and is {after:?}");
    await_page(bench, primary, "having no mirror that hangs", |page| page.mirror_hangs.is_none()).await?;
    let session = bench.utility(primary).await?; // what stops it next is not to wait for all that was written
    for number in 0..WRITERS {
        session.rows(&format!("DROP TABLE IF EXISTS load{number}")).await?;
    }
    session.rows("CHECKPOINT").await?;
    bench.expect_pair(1, &healthy).await?;
    ensure!(bench.history(mirror).await? == history, "FTS has marked it down meanwhile");
    Ok(())
}

const SLOW: Duration = Duration::from_mins(1);
const WRITERS: usize = 16;

/// The WAL receiver runs for some milliseconds of each half second.
fn throttled(postmaster: i32, until: Instant) {
    while Instant::now() < until {
        let Some(pid) = receiver_of(postmaster) else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        for (signal, pause) in [(Signal::SIGSTOP, 490), (Signal::SIGCONT, 6)] {
            let _ = kill(pid, signal); // it may have ended
            std::thread::sleep(Duration::from_millis(pause));
        }
    }
}

pub fn receiver_of(postmaster: i32) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).ok()?;
    let receives = |pid: &i32| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title);
        title.contains("wal receiver") || title.contains("walreceiver")
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(receives).map(Pid::from_raw)
}

async fn write_on(session: super::query::Session, number: usize, until: Instant) {
    let table = format!("DROP TABLE IF EXISTS load{number}; CREATE TABLE load{number} (i int, t text)");
    let insert = format!("INSERT INTO load{number} SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i");
    let mut next = table;
    while Instant::now() < until && session.rows(&next).await.is_ok() {
        next.clone_from(&insert);
    }
}

/// Its connection is half closed: the mirror has been started again meanwhile, and does not get its slot.
pub async fn a_stopped_walsender_that_its_mirror_has_left_is_told_of(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await?;
    make_table(bench, primary).await?;
    let healthy = bench.pair(1).await?;
    sleep(Duration::from_secs(3)).await; // it has answered all
    let before = walsender(bench, primary).await?;
    kill(Pid::from_raw(before.0), Signal::SIGSTOP)?;
    bench.server(mirror).vanish()?;
    supervise(bench, mirror)?;
    await_page(bench, mirror, "serving", |page| page.state == InstanceState::Serving).await?;
    let insert = commit(bench, primary, "INSERT INTO waits VALUES (4)").await?;
    let told = |page: &Page| page.mirror_hangs.as_ref().is_some_and(|hang| hang.detail.contains("does not work") && !hang.ended);
    let seen = await_page(bench, primary, "telling of the walsender", told).await;
    let waited = !insert.is_finished();
    let refused = await_page(bench, mirror, "not receiving", |page| !page.receiving && page.receiver_error.is_some()).await;
    kill(Pid::from_raw(before.0), Signal::SIGCONT)?;
    println!("       {}", seen?.mirror_hangs.map(|hang| hang.detail).unwrap_or_default());
    println!("       the mirror: {}", refused?.receiver_error.unwrap_or_default());
    ensure!(waited, "the commit did not wait");
    insert.await??;
    await_page(bench, primary, "having no mirror that hangs", |page| page.mirror_hangs.is_none()).await?;
    bench.await_pair(1, &healthy).await
}

/// `pg_ctl stop` and `restart` are smart by default on 6: they wait for every session, and a content whose mirror is away would
/// wait with them.
pub async fn a_smart_shutdown_does_not_wait_for_our_session(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, mirror) = acting_and_mirror(bench, 1).await?;
    make_table(bench, primary).await?;
    for away in [false, true] {
        await_page(bench, primary, "serving", |page| page.state == InstanceState::Serving).await?;
        if away {
            bench.server(mirror).vanish()?;
        }
        sleep(Duration::from_secs(4)).await; // some looks
        let before = postmaster(bench, primary)?;
        kill(Pid::from_raw(before), Signal::SIGTERM)?;
        let begun = Instant::now();
        while postmaster(bench, primary).ok().is_none_or(|now| now == before) {
            ensure!(begun.elapsed() < Duration::from_secs(10), "it has not ended within 10 s (mirror away: {away})");
            sleep(Duration::from_millis(100)).await;
        }
    }
    supervise(bench, mirror)?;
    await_page(bench, mirror, "receiving", |page| page.receiving).await.map(drop)
}

pub fn postmaster(bench: &mut Bench, dbid: i16) -> Result<i32> {
    let text = bench.server(dbid).read("postmaster.pid")?;
    Ok(text.lines().next().context("it is empty")?.trim().parse()?)
}

/// A walsender that somebody stopped, a debugger say, would keep commits waiting for ever, in a pair that looks well.
pub async fn a_stopped_walsender_is_told_of_and_left_alone(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (primary, _) = acting_and_mirror(bench, 1).await?;
    make_table(bench, primary).await?;
    let before = walsender(bench, primary).await?;
    kill(Pid::from_raw(before.0), Signal::SIGSTOP)?;
    let insert = commit(bench, primary, "INSERT INTO waits VALUES (3)").await?;
    let told = |page: &Page| page.mirror_hangs.as_ref().is_some_and(|hang| hang.detail.contains("does not work") && !hang.ended);
    let seen = await_page(bench, primary, "telling of the walsender", told).await;
    kill(Pid::from_raw(before.0), Signal::SIGCONT)?;
    seen?;
    insert.await??;
    ensure!(walsender(bench, primary).await? == before, "its walsender is another one");
    await_page(bench, primary, "having no mirror that hangs", |page| page.mirror_hangs.is_none()).await.map(drop)
}

/// The right that it needs: who may only log in does not see how far a mirror is, and says so.
pub async fn a_role_that_may_only_log_in_does_not_see_how_far_a_mirror_is(bench: &mut Bench) -> Result<()> {
    let primary = acting_and_mirror(bench, 1).await?.0;
    let own = bench.utility(primary).await?;
    if own.rows("SELECT 1 FROM pg_roles WHERE rolname = 'only_logs_in'").await?.is_empty() {
        own.rows("CREATE ROLE only_logs_in LOGIN").await?;
    }
    let who = greenplum::Login { user: "only_logs_in".into(), ..login() };
    let session = Session::utility(&server(bench, primary), &who, None).await?;
    let seen = replication::senders(&session, BOUND).await?;
    ensure!(seen == Senders::Hidden, "it sees {seen:?}");
    Ok(())
}

const BOUND: Duration = Duration::from_secs(5);

async fn walsender(bench: &mut Bench, primary: i16) -> Result<(i32, String)> {
    let session = Session::utility(&server(bench, primary), &login(), None).await?;
    match replication::senders(&session, BOUND).await? {
        Senders::Seen(senders) => senders.into_iter().next().map(|one| (one.pid, one.started)).context("no walsender"),
        Senders::Hidden => bail!("a superuser does not see the walsender"),
    }
}

async fn make_table(bench: &mut Bench, primary: i16) -> Result<()> {
    let session = bench.await_session(primary).await?;
    session.rows("DROP TABLE IF EXISTS waits; CREATE TABLE waits (i int)").await.map(drop)
}

async fn commit(bench: &mut Bench, primary: i16, sql: &str) -> Result<JoinHandle<Result<()>>> {
    let (session, sql) = (bench.utility(primary).await?, sql.to_owned());
    Ok(tokio::spawn(async move { session.rows(&sql).await.map(drop) }))
}

async fn within(what: &str, begun: Instant, commit: JoinHandle<Result<()>>) -> Result<()> {
    commit.await??;
    let took = begun.elapsed();
    println!("       {what} waited {:.1} s (FTS' grace is {GRACE} s)", took.as_secs_f32());
    ensure!(took < LEFT_ALONE, "{what} waited {:.1} s, as if it had been left alone", took.as_secs_f32());
    Ok(())
}
