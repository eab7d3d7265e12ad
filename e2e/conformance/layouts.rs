//! Directories that are not as a fresh one is: files that are not made of pages, links, settings in another encoding.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Result, ensure};
use model::Repair;

use super::{
    bench::Bench,
    bounded::{await_mirror_down, in_sync},
    supervised::{acting_and_mirror, await_page, ensure_supervised, recover, supervise},
};

/// "中文" in GBK, which is no UTF-8.
const COMMENT: &[u8] = b"# \xd6\xd0\xce\xc4\n";

pub async fn a_copy_takes_what_is_no_page_and_leaves_links_and_bytes_as_they_are(bench: &mut Bench) -> Result<()> {
    ensure_supervised(bench).await?;
    let (source, target) = acting_and_mirror(bench, 0).await?;
    let oid = bench.utility(source).await?.value("SELECT oid FROM pg_database WHERE datname = 'postgres'").await?;
    let appended = format!("base/{oid}/99999.1");
    let of_source = bench.server(source).directory.join(&appended);
    // As a block of an append-optimized table may be: it reads as a page that is older than any, and its checksum is none.
    fs::write(&of_source, [vec![0; 8], vec![1; 8184]].concat())?;
    bench.owner().file(&of_source, 0o600)?;
    // Somebody else's, which a base backup that verifies pages takes for one of a relation.
    let foreign = format!("base/{oid}/123.0");
    let of_nobody = bench.server(source).directory.join(&foreign);
    fs::write(&of_nobody, vec![1; 8192])?;
    bench.owner().file(&of_nobody, 0o600)?;
    bench.server(target).vanish()?;
    await_mirror_down(bench).await?;
    for dbid in [source, target] {
        let settings = bench.server(dbid).directory.join("postgresql.conf");
        fs::write(&settings, [fs::read(&settings)?, COMMENT.to_vec()].concat())?;
    }
    let log = bench.dialect().log_folder().to_owned();
    let (folder, elsewhere) = (bench.server(target).directory.join(&log), bench.server(target).volume().join("log-elsewhere"));
    fs::rename(&folder, &elsewhere)?;
    symlink(&elsewhere, &folder)?;
    let outcome = recover(bench, target, Repair::Full).await?;
    ensure!(outcome.failure.is_none(), "the copy ended with {outcome:?}");
    for (name, file) in [(&appended, &of_source), (&foreign, &of_nobody)] {
        let copied = fs::read(bench.server(target).directory.join(name))?;
        ensure!(copied == fs::read(file)?, "{name} was not copied as it is");
    }
    ensure!(leads_to(&folder)? == elsewhere, "the server's log does not lie where it was");
    let settings = fs::read(bench.server(target).directory.join("postgresql.conf"))?;
    ensure!(settings.windows(COMMENT.len()).any(|window| window == COMMENT), "the settings are not the source's byte for byte");
    supervise(bench, target)?;
    await_page(bench, target, "receiving", |page| page.receiving).await?;
    fs::remove_file(&of_source)?;
    fs::remove_file(&of_nobody)?;
    in_sync(bench).await
}

fn leads_to(link: &Path) -> Result<std::path::PathBuf> {
    Ok(fs::read_link(link)?)
}
