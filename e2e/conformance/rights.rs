//! How little gpheal's roles need, and what they are refused (`docs/rights.md`).

use anyhow::{Result, ensure};
use greenplum::{Login, Server, Session, Tls, fts, replication, topology};
use model::Dbid;

use super::{
    bench::Bench,
    query::{self, expect_same},
};

const OPERATOR: &str = "gpheal_operator";
const SUPERVISOR: &str = "gpheal_supervisor";

pub async fn the_operators_role_needs_no_superuser_where_greenplum_has_monitors(bench: &mut Bench) -> Result<()> {
    let monitors = bench.dialect().has_monitors();
    make_role(bench, OPERATOR, if monitors { "GRANT pg_monitor TO gpheal_operator" } else { "" }).await?;
    let coordinator = open(bench, 1, OPERATOR).await?;
    expect_same("rows of the catalog", &topology::with_history(&coordinator).await?.0.catalog.rows.len(), &5)?;
    topology::timeline(&coordinator).await?;
    let source = replication::source(&open(bench, 2, OPERATOR).await?).await?;
    let state = source.walsenders.first().map(|one| one.state.as_str());
    // Before there were monitors, only a superuser was told whether and from where a mirror streams.
    expect_same("state of the walsender", &state, &Some(if monitors { "streaming" } else { "" }))?;
    let dispatching = Session::dispatch(&server(bench, 1), &login(OPERATOR)).await?;
    fts::request_probe(&dispatching).await?;
    expect_same("contents that answer", &fts::dispatched_contents(&dispatching).await?.len(), &2)?;
    for beyond in ["CHECKPOINT", "SELECT pg_catalog.pg_read_file('PG_VERSION', 0, 1)", "CREATE ROLE more"] {
        refused(bench, OPERATOR, beyond).await?;
    }
    Ok(())
}

pub async fn a_supervisors_role_needs_to_log_in_and_nothing_else(bench: &mut Bench) -> Result<()> {
    make_role(bench, SUPERVISOR, "").await?;
    let coordinator = open(bench, 1, SUPERVISOR).await?;
    expect_same("rows of the catalog", &topology::read(&coordinator).await?.catalog.rows.len(), &5)?;
    topology::timeline(&coordinator).await?;
    let own = open(bench, 2, SUPERVISOR).await?;
    let rows = own.rows("SELECT pg_catalog.pg_is_in_recovery()").await?;
    ensure!(rows.first().and_then(|row| row.try_get(0).ok()) == Some(false), "it is not told whether its postgres is a mirror");
    topology::timeline(&own).await?;
    // As a mirror's asks its acting primary.
    expect_same("whose primary it is", &replication::source(&own).await?.dbid, &Dbid(2))?;
    replication::position(&own).await?;
    refused(bench, SUPERVISOR, "CHECKPOINT").await
}

/// On every primary and the coordinator: roles are not shared by instances that were made one by one.
async fn make_role(bench: &mut Bench, role: &str, grant: &str) -> Result<()> {
    for dbid in [1, 2, 3] {
        let session = bench.utility(dbid).await?;
        if session.rows(&format!("SELECT 1 FROM pg_roles WHERE rolname = '{role}'")).await?.is_empty() {
            session.rows(&format!("CREATE ROLE {role} LOGIN")).await?;
            session.rows(grant).await?;
        }
    }
    Ok(())
}

fn login(user: &str) -> Login {
    Login { user: user.to_owned(), password: String::new(), tls: Tls::Disable }
}

fn server(bench: &mut Bench, dbid: i16) -> Server {
    Server::new("127.0.0.1", bench.port(dbid))
}

async fn open(bench: &mut Bench, dbid: i16, role: &str) -> Result<Session> {
    Ok(Session::utility(&server(bench, dbid), &login(role), None).await?)
}

async fn refused(bench: &mut Bench, role: &str, sql: &str) -> Result<()> {
    let (port, options) = (bench.port(2), bench.dialect().utility_session());
    query::connect_as(role, port, options).await?.refused(sql).await?.expect("42501", "")
}
