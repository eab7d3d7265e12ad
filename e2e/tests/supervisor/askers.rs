//! A cluster of a thousand contents whose coordinator comes back: everybody asks for its row, and the coordinator's own
//! supervisor has to get in among them to see its segments.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use greenplum::{
    Session,
    topology::{self, Scope},
};
use model::{Content, Dbid, Look, Timeline};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use segment::supervisor::{Config, Known, ask_for_catalog, before_it_asks_again};
use tokio::time::sleep;

use super::{Alone, Place};

const PORT: u16 = 25_994;
const CONTENTS: i16 = 1000;
const ASKERS: u32 = 2000;
/// So long they have waited for a coordinator before it comes back.
const AWAY: Duration = Duration::from_secs(20);
/// A coordinator has a few hundred connections for everyone; the others are refused.
const CONNECTIONS: &str = "max_connections = 150";
/// Each waits 5 s, a quarter more or less.
const A_SECOND: u32 = 500;
const WITHIN: Duration = Duration::from_mins(2);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

fn config(place: &Place) -> Result<Config> {
    let credentials = place.at("credentials").display().to_string();
    let words = ["x", "--cluster", "test", "--coordinator", "127.0.0.1:25994", "--data-directory", "/data/gpseg", "--port", "25994"];
    let more = ["--address", "127.0.0.1", "--credentials", &credentials];
    Ok(Cli::try_parse_from(words.into_iter().chain(more))?.config)
}

/// A coordinator with the rows of a thousand mirrored contents.
fn coordinator(alone: &Alone) -> Result<Place> {
    let place = Place::empty(alone, PORT)?;
    let row = |dbid: i16, content: i16, role: char| format!("{dbid}:{content}:{role}:127.0.0.1:{}:/data/{dbid}", 30_000 + i32::from(dbid));
    let mut rows = vec![format!("1:-1:p:127.0.0.1:{PORT}:{}", place.at("volume/gpseg").display())];
    rows.extend((0..CONTENTS).map(|content| row(content + 2, content, 'p')));
    rows.extend((0..CONTENTS).map(|content| row(content + 2 + CONTENTS, content, 'm')));
    let rows: Vec<_> = rows.iter().map(String::as_str).collect();
    place.bootstrap("bootstrap-coordinator", 1, -1, &rows)?;
    let file = place.at("volume/gpseg/postgresql.conf");
    let settings = std::fs::read_to_string(&file)? + CONNECTIONS + "\n";
    std::fs::write(file, settings)?;
    Ok(place)
}

/// As the supervisors' loop does: asks, and waits before it asks again, until it is answered.
async fn one(config: Config, number: u32, asked: Arc<AtomicU32>) -> u32 {
    let dbid = i16::try_from(number + 2).unwrap_or_default();
    let scope = Scope::Of(Content((dbid - 2) % CONTENTS), Dbid(dbid));
    for waits in 0.. {
        asked.fetch_add(1, Ordering::Relaxed);
        match ask_for_catalog(&config, Known { seen: Timeline(0), coordinator: None, spent: None, scope }).await {
            Look::Seen(answer) => return u32::try_from(answer.catalog.rows.len()).unwrap_or_default(),
            Look::Unknown(_) => sleep(before_it_asks_again(waits)).await,
        }
    }
    0
}

/// The coordinator's own supervisor, which looks every half second and reads every row.
async fn own_session(config: &Config) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let login = config.login()?;
        let last = match Session::utility(&config.local(), &login, None).await {
            Ok(session) => match topology::read(&session).await {
                Ok(_) => return Ok(began.elapsed()),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        ensure!(began.elapsed() < WITHIN, "the coordinator's own supervisor does not get in: {last}");
        sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn two_thousand_ask_a_coordinator_that_comes_back_and_its_own_supervisor_gets_in() -> Result<()> {
    let alone = Alone::wait().await;
    let place = coordinator(&alone)?;
    let config = config(&place)?;
    let asked = Arc::new(AtomicU32::new(0));
    let askers: Vec<_> = (0..ASKERS).map(|number| tokio::spawn(one(config.clone(), number, Arc::clone(&asked)))).collect();
    sleep(AWAY / 2).await;
    let before = asked.load(Ordering::Relaxed);
    sleep(AWAY / 2).await;
    let a_second = (asked.load(Ordering::Relaxed) - before) / u32::try_from((AWAY / 2).as_secs())?;

    let mut postgres = place.command(&place.at("home/bin/postgres"));
    postgres.arg("-D").arg(place.at("volume/gpseg")).args(["-p", &PORT.to_string(), "-c", "gp_role=utility"]);
    let mut postgres = postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let began = Instant::now();
    let answered = async {
        let own = own_session(&config).await?;
        let mut rows = vec![];
        for asker in askers {
            rows.push(tokio::time::timeout(WITHIN, asker).await.context("somebody is never answered")??);
        }
        Ok::<_, anyhow::Error>((own, rows))
    };
    let answered = answered.await;
    kill(Pid::from_raw(postgres.id().cast_signed()), Signal::SIGQUIT)?;
    postgres.wait()?;
    let (own, rows) = answered?;
    println!("{a_second} questions a second; own session after {own:?}, {ASKERS} answered after {:?}", began.elapsed());
    ensure!(rows.iter().all(|rows| *rows == 3), "somebody read more than the coordinator's and its own content's rows");
    ensure!(a_second <= A_SECOND, "{a_second} questions a second");
    Ok(())
}
