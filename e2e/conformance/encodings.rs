//! Names of the catalog in whatever encoding: what one row holds must not hide the others.

use anyhow::{Context, Result, ensure};
use greenplum::{Session, topology};
use model::{Content, Dbid};

use super::{
    bench::Bench,
    product::{login, server},
    query::expect_same,
};

/// In GB 18030, as a person's terminal had it: no UTF-8.
const NAME: &str = "'\\xd6d0'::bytea::text";
const MODS: &str = "SET allow_system_table_mods = true";

/// The servers' own encoding, by its number, in which a client of UTF-8 gets such bytes as they are, or an error.
pub async fn a_row_in_another_encoding_hides_no_other(bench: &mut Bench) -> Result<()> {
    for encoding in ["UTF8", "SQL_ASCII"] {
        let number = format!("pg_char_to_encoding('{encoding}')");
        let asked = bench.utility(1).await?;
        asked.rows(&format!("{MODS}; UPDATE pg_database SET encoding = {number} WHERE datname = 'postgres'")).await?;
        drop(asked);
        let read = read_with_names(bench, encoding).await.with_context(|| format!("in a database of {encoding}"));
        let asked = bench.utility(1).await?;
        asked.rows(&format!("{MODS}; UPDATE pg_database SET encoding = pg_char_to_encoding('UTF8') WHERE datname = 'postgres'")).await?;
        read?;
    }
    Ok(())
}

async fn read_with_names(bench: &mut Bench, encoding: &str) -> Result<()> {
    let asked = bench.utility(1).await?;
    expect_same("the encoding", &asked.value("SHOW server_encoding").await?, &encoding.to_owned())?;
    let (directory, address) = (bench.server(5).directory.display().to_string(), bench.server(4).address.clone());
    asked.rows(&format!("{MODS}; CREATE CAST (bytea AS text) WITHOUT FUNCTION")).await?;
    let bend = format!(
        "{MODS}; UPDATE gp_segment_configuration SET datadir = datadir || {NAME} WHERE dbid = 5;
         INSERT INTO gp_configuration_history VALUES (now(), 5::int2, 'conformance: ' || {NAME})"
    );
    asked.rows(&bend).await?;
    let read = read(bench).await;
    let mend = format!(
        "{MODS}; UPDATE gp_segment_configuration SET datadir = '{directory}' WHERE dbid = 5;
         DELETE FROM gp_configuration_history WHERE \"desc\" LIKE 'conformance: %'; DROP CAST (bytea AS text)"
    );
    asked.rows(&mend).await?;
    read?;
    let session = Session::utility(&server(bench, 1), &login(), None).await?;
    let mended = topology::read(&session).await?.catalog;
    ensure!(mended.row(Dbid(4)).is_some_and(|row| row.address == address) && mended.pair(Content(1)).is_ok(), "{mended:?}");
    Ok(())
}

async fn read(bench: &mut Bench) -> Result<()> {
    let session = Session::utility(&server(bench, 1), &login(), None).await?;
    for _ in 0..2 {
        let (answer, history) = topology::with_history(&session).await.context("the whole catalog is not read")?;
        ensure!(history.contains_key(&Dbid(5)), "its history is not read");
        answer.catalog.pair(Content(0)).map_err(anyhow::Error::msg).context("the other content is not told")?;
        let why = answer.catalog.pair(Content(1)).err().context("a directory that cannot be read is taken for one")?;
        ensure!(why.contains("datadir") && why.contains("5:1"), "{why}");
        topology::brief(&session).await.context("the rows alone")?;
    }
    Ok(())
}
