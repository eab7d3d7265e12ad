//! `gp_segment_configuration` and its history, and who may write them.

use anyhow::Result;

use super::{
    bench::Bench,
    query::{expect_same, pairs},
};

const CONFIGURATION: [(&str, &str); 10] = [
    ("dbid", "int2"),
    ("content", "int2"),
    ("role", "char"),
    ("preferred_role", "char"),
    ("mode", "char"),
    ("status", "char"),
    ("port", "int4"),
    ("hostname", "text"),
    ("address", "text"),
    ("datadir", "text"),
];
const HISTORY: [(&str, &str); 3] = [("time", "timestamptz"), ("dbid", "int2"), ("desc", "text")];

const ROW: &str = "(9::int2, 0::int2, 'm', 'm', 'n', 'd', 9999, 'h', 'a', '/d')";

pub async fn columns_have_greenplum_types(bench: &mut Bench) -> Result<()> {
    expect_columns(bench, "gp_segment_configuration", &CONFIGURATION).await?;
    expect_columns(bench, "gp_configuration_history", &HISTORY).await
}

async fn expect_columns(bench: &mut Bench, table: &str, expected: &[(&str, &str)]) -> Result<()> {
    let query = format!(
        "SELECT attname, typname FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid \
         WHERE attrelid = 'pg_catalog.{table}'::regclass AND attnum > 0 AND NOT attisdropped"
    );
    let seen = pairs(&bench.utility(1).await?.rows(&query).await?);
    for (column, kind) in expected {
        expect_same(&format!("{table}.{column}"), &seen.get(*column).map(String::as_str), &Some(*kind))?;
    }
    Ok(())
}

pub async fn keys_are_unique(bench: &mut Bench) -> Result<()> {
    let session = bench.utility(1).await?;
    session.rows("SET allow_system_table_mods = true").await?;
    for values in [ROW.replace("(9::", "(2::").replace("0::", "7::"), ROW.to_owned()] {
        let insert = format!("INSERT INTO gp_segment_configuration VALUES {values}");
        session.refused(&insert).await?.expect("23505", "duplicate key")?;
    }
    Ok(())
}

pub async fn direct_writes_need_a_setting(bench: &mut Bench) -> Result<()> {
    let session = bench.dispatch().await?;
    for write in [
        "UPDATE gp_segment_configuration SET mode = mode",
        "DELETE FROM gp_segment_configuration WHERE dbid = 99",
        "INSERT INTO gp_configuration_history VALUES (now(), 1::int2, 'x')",
    ] {
        session.refused(write).await?.expect("42809", "is a system catalog")?;
    }
    session.rows("SET allow_system_table_mods = true").await?;
    session.rows("BEGIN; UPDATE gp_segment_configuration SET mode = mode; ROLLBACK").await.map(drop)
}

/// As a recovery to another place does it: out and in again, in one transaction.
pub async fn functions_add_and_remove_rows(bench: &mut Bench) -> Result<()> {
    let session = bench.utility(1).await?;
    let mirror = "0::int2, 'm', 'm', 's', 'u', 1234, 'h', 'a', '/d'";
    let again = format!("SELECT gp_add_segment(9::int2, {mirror})");
    session.refused(&again).await?.expect("XX000", "already has a mirror")?;
    session.rows("BEGIN").await?;
    expect_same("gp_remove_segment_mirror", &session.value("SELECT gp_remove_segment_mirror(0::int2)").await?, &"t".into())?;
    expect_same("gp_add_segment", &session.value(&again).await?, &"9".into())?;
    let added = session.value("SELECT role::text || mode::text || status::text FROM gp_segment_configuration WHERE dbid = 9");
    expect_same("the mode of an added row", &added.await?, &"mnu".into())?;
    expect_same("gp_remove_segment", &session.value("SELECT gp_remove_segment(9::int2)").await?, &"t".into())?;
    let lowest = session.value("SELECT gp_add_segment_mirror(0::int2, 'h', 'a', 1234, '/d')").await?;
    expect_same("the lowest free dbid", &lowest, &"4".into())?;
    session.rows("ROLLBACK").await?;
    let unknown = "SELECT gp_add_segment_mirror(7::int2, 'h', 'a', 1234, '/d')";
    session.refused(unknown).await?.expect("XX000", "does not point to an existing segment")?;
    let normal = bench.dispatch().await?;
    normal.refused("SELECT gp_remove_segment(99::int2)").await?.expect("XX000", "utility mode")
}
