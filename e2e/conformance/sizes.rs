//! How much a full copy takes: what the source says of itself is held against its files.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use greenplum::{Session, SessionError, size};

use super::{
    bench::Bench,
    product::{login, server},
    query::expect_same,
};

pub async fn what_a_copy_takes_is_measured(bench: &mut Bench) -> Result<()> {
    let (directory, log) = (bench.server(2).directory.clone(), bench.dialect().wal_folder());
    let session = Session::utility(&server(bench, 2), &login(), None).await?;
    make_space(bench).await?;
    let told = async |sql: &str| -> Result<u64> {
        let rows = session.rows(sql).await?;
        Ok(rows.first().and_then(|row| row.get::<_, Option<String>>(0)).unwrap_or_default().parse()?)
    };
    let segments = || entries(&directory.join(log)).map(|names| names.iter().filter(|name| name.len() == 24).count() as u64);
    let first = fs::read_dir(directory.join(log))?.flatten().find(|entry| entry.file_name().len() == 24);
    let length = first.map_or(0, |entry| entry.metadata().map_or(0, |file| file.len()));
    expect_same("bytes of its log", &(told(size::log(session.dialect)).await? / length), &segments()?)?;
    let bytes = told(size::DATA).await?;
    ensure!(bytes > 8 << 20, "three databases of {bytes} bytes");
    let databases = entries(&directory.join("base"))?.into_iter().filter(|name| name.parse::<u32>().is_ok());
    let files = databases.map(|name| Ok(entries(&directory.join("base").join(name))?.len() as u64)).sum::<Result<u64>>()?;
    expect_same("files of its databases", &told(size::FILES).await?, &files)?;
    let of_space = told(size::FILES_OF_SPACES).await?;
    ensure!((1..10).contains(&of_space), "{of_space} files in a tablespace that holds one table");
    bench.utility(2).await?.rows("DROP TABLE in_spare").await?;
    bench.utility(2).await?.rows("DROP TABLESPACE spare").await?;
    Ok(())
}

/// Nobody waits for it, and the session is as good as before.
pub async fn what_takes_too_long_is_given_up_at_the_server_too(bench: &mut Bench) -> Result<()> {
    let session = Session::utility(&server(bench, 2), &login(), None).await?;
    let slow = session.rows_within("SELECT pg_catalog.pg_sleep(30)", Duration::from_secs(1)).await;
    ensure!(matches!(slow, Err(SessionError::TimedOut { .. })), "{slow:?}");
    let looks = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND state = 'active' AND pid <> pg_backend_pid()";
    for _ in 0..40 {
        if bench.utility(2).await?.rows(looks).await?.is_empty() {
            return session.rows("SELECT 1").await.map(drop).map_err(Into::into);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!("the server goes on with it")
}

/// With one table in it. Elsewhere than below the data directory only Greenplum lets two instances of one machine have one.
async fn make_space(bench: &mut Bench) -> Result<()> {
    let session = bench.utility(2).await?;
    if session.rows("SET allow_in_place_tablespaces = on").await.is_ok() {
        session.rows("CREATE TABLESPACE spare LOCATION ''").await?;
    } else {
        let folder = bench.folder().join("spare");
        bench.owner().folder(&folder)?;
        session.rows(&format!("CREATE TABLESPACE spare LOCATION '{}'", folder.display())).await?;
    }
    session.rows("CREATE TABLE in_spare (i int) TABLESPACE spare").await.map(drop)
}

fn entries(folder: &Path) -> Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
