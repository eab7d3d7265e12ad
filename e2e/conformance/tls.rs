//! TLS as gpheal asks for it: its own sessions and the image's tools against a primary of the cluster.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use greenplum::{Ca, Login, Server, Session, SessionError, Tls};
use nix::sys::signal::Signal;

use super::{
    bench::{Bench, append, fail, succeed},
    query::{expect_same, user},
};
use crate::fixture::{Authority, Issued};

/// The primary that is asked, and the mirror that must not notice.
const DBID: i16 = 2;
const HEALTHY: &str = "2ppsu 4mmsu";
/// The name in the certificate; nobody resolves it.
const NAME: &str = "gp-primary-0.gp";
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

pub async fn a_server_without_it_is_told_apart(bench: &mut Bench) -> Result<()> {
    expect_fault(&open(bench, NAME, Tls::Require).await, "TlsNotOffered")
}

pub async fn each_mode_holds_what_libpq_says_of_it(bench: &mut Bench) -> Result<()> {
    let place = Place::of(bench)?;
    let (ours, other) = (place.authority("ours")?, place.authority("other")?);
    place.serve(&ours.issue(NAME, &[NAME.into()])?)?;
    switch_on(bench, &place).await?;
    fs::write(&place.ca, ours.pem()?)?;
    for tls in [Tls::Require, place.verify_full()] {
        let session = open(bench, NAME, tls.clone()).await?;
        expect_encrypted(bench, &session).await?;
        let kept = |mode: &Tls| session.serves(&session.server, mode);
        ensure!(kept(&tls) && !kept(&Tls::Disable), "a session is not opened anew when the mode changes");
    }
    expect_fault(&open(bench, "gp-primary-1.gp", place.verify_full()).await, "CertificateNameMismatch")?;
    ensure!(open(bench, "gp-primary-1.gp", Tls::Require).await.is_ok(), "require looks at the name");
    fs::write(&place.ca, other.pem()?)?;
    expect_fault(&open(bench, NAME, place.verify_full()).await, "CertificateUntrusted")?;
    fs::write(&place.ca, "no certificate")?;
    expect_fault(&open(bench, NAME, place.verify_full()).await, "CaInvalid")?;
    fs::remove_file(&place.ca)?;
    expect_fault(&open(bench, NAME, place.verify_full()).await, "CaMissing")?;
    bench.await_pair(0, HEALTHY).await
}

pub async fn an_expired_certificate_is_told_as_that(bench: &mut Bench) -> Result<()> {
    let place = Place::of(bench)?;
    let ours = place.authority("ours")?;
    place.serve(&ours.issue_expired(NAME, &[NAME.into()])?)?;
    switch_on(bench, &place).await?;
    fs::write(&place.ca, ours.pem()?)?;
    expect_fault(&open(bench, NAME, place.verify_full()).await, "CertificateExpired")?;
    ensure!(open(bench, NAME, Tls::Require).await.is_ok(), "require looks at the time");
    let said = fail(ask(bench, &place, NAME))?;
    ensure!(said.contains("certificate verify failed"), "the tools refuse it by other words: {said}");
    bench.await_pair(0, HEALTHY).await
}

pub async fn tools_are_told_by_the_environment(bench: &mut Bench) -> Result<()> {
    let place = Place::of(bench)?;
    place.serve(&place.authority("ours")?.issue(NAME, &[NAME.into()])?)?;
    switch_on(bench, &place).await?;
    fs::write(&place.ca, place.authority("ours")?.pem()?)?;
    expect_same("an answer over TLS", &succeed(ask(bench, &place, NAME))?.trim().to_owned(), &DBID.to_string())?;
    let said = fail(ask(bench, &place, "gp-primary-1.gp"))?;
    ensure!(said.contains("does not match host name"), "a wrong name is refused by other words: {said}");
    fs::write(&place.ca, place.authority("other")?.pem()?)?;
    let said = fail(ask(bench, &place, NAME))?;
    ensure!(said.contains("certificate verify failed"), "a wrong authority is refused by other words: {said}");
    bench.await_pair(0, HEALTHY).await
}

pub async fn authorities_are_replaced_under_one_login(bench: &mut Bench) -> Result<()> {
    let place = Place::of(bench)?;
    let (old, new) = (place.authority("ours")?, place.authority("new")?);
    place.serve(&old.issue(NAME, &[NAME.into()])?)?;
    switch_on(bench, &place).await?;
    let login = login(place.verify_full());
    fs::write(&place.ca, old.pem()?)?;
    open_as(bench, NAME, &login).await.context("before")?;
    fs::write(&place.ca, old.pem()? + &new.pem()?)?;
    open_as(bench, NAME, &login).await.context("both are trusted, the old one signed")?;
    place.serve(&new.issue(NAME, &[NAME.into()])?)?;
    bench.take_certificate().await?;
    fs::write(&place.ca, new.pem()?)?;
    await_open(bench, &login).await.context("the old one is gone")?;
    fs::write(&place.ca, old.pem()?)?;
    expect_fault(&open_as(bench, NAME, &login).await, "CertificateUntrusted")?;
    bench.await_pair(0, HEALTHY).await
}

/// Files of the server and of whoever asks it.
struct Place {
    folder: PathBuf,
    owner: super::Owner,
    ca: PathBuf,
}

impl Place {
    fn of(bench: &Bench) -> Result<Self> {
        let folder = bench.folder().join("tls");
        bench.owner().folder(&folder)?;
        let ca = bench.folder().join("trusted.pem"); // tools run as the servers' user, who owns that folder
        Ok(Self { folder, owner: bench.owner(), ca })
    }

    fn authority(&self, name: &str) -> Result<Authority> {
        Authority::of(&self.folder.join("authorities"), name)
    }

    fn verify_full(&self) -> Tls {
        Tls::VerifyFull(Ca::File(self.ca.clone()))
    }

    /// By rename, as a mounted secret changes.
    fn serve(&self, issued: &Issued) -> Result<()> {
        for (name, text) in [("server.key", &issued.key), ("server.crt", &issued.certificate)] {
            let fresh = self.folder.join("fresh");
            fs::write(&fresh, text)?;
            self.owner.file(&fresh, 0o600)?;
            fs::rename(&fresh, self.folder.join(name))?;
        }
        Ok(())
    }

    fn settings(&self) -> String {
        let file = |name: &str| self.folder.join(name).display().to_string();
        format!("ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n", file("server.crt"), file("server.key"))
    }
}

/// Short enough for FTS not to notice, and for the mirror to be back before its grace is over.
async fn switch_on(bench: &mut Bench, place: &Place) -> Result<()> {
    if !bench.server(DBID).read("postgresql.conf")?.contains("ssl_cert_file = '/") {
        append(&bench.server(DBID).file("postgresql.conf"), &place.settings())?;
    }
    bench.restart(DBID).await?;
    bench.await_pair(0, HEALTHY).await
}

impl Bench {
    /// Greenplum 6 reads certificates only when it starts.
    async fn take_certificate(&mut self) -> Result<()> {
        if self.dialect().reads_certificates_once() { self.restart(DBID).await } else { self.server(DBID).signal(Signal::SIGHUP) }
    }
}

/// The image's own client, told as a Job tells its tools.
fn ask(bench: &mut Bench, place: &Place, host: &str) -> Command {
    let conninfo = format!("host={host} hostaddr=127.0.0.1 port={} dbname=postgres", bench.port(DBID));
    let mut psql = bench.tool("psql");
    psql.envs(place.verify_full().libpq_environment()).env("PGOPTIONS", bench.dialect().utility_session());
    psql.args(["-X", "-A", "-t", "-w", "-d", &conninfo, "-c", "SHOW gp_dbid"]);
    psql
}

fn login(tls: Tls) -> Login {
    Login { user: user(), password: String::new(), tls }
}

async fn open(bench: &mut Bench, name: &str, tls: Tls) -> Result<Session, SessionError> {
    open_as(bench, name, &login(tls)).await
}

async fn open_as(bench: &mut Bench, name: &str, login: &Login) -> Result<Session, SessionError> {
    let server = Server::new(name, bench.port(DBID)).at(std::net::Ipv4Addr::LOCALHOST.into());
    Session::utility(&server, login, None).await
}

async fn await_open(bench: &mut Bench, login: &Login) -> Result<()> {
    let begun = Instant::now();
    loop {
        match open_as(bench, NAME, login).await {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > TAKEN_WITHIN => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// By the server's own word, where it has one for it.
async fn expect_encrypted(bench: &Bench, session: &Session) -> Result<()> {
    if bench.dialect().reads_certificates_once() {
        return Ok(()); // Greenplum 6 has no pg_stat_ssl
    }
    let rows = session.rows("SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()").await?;
    ensure!(rows.first().and_then(|row| row.try_get(0).ok()) == Some(true), "the session is not encrypted");
    Ok(())
}

fn expect_fault(opened: &Result<Session, SessionError>, code: &str) -> Result<()> {
    match opened {
        Err(SessionError::Tls { fault, .. }) => expect_same("the fault", &fault.code(), &code),
        Err(other) => anyhow::bail!("expected {code}, failed with {other}"),
        Ok(_) => anyhow::bail!("expected {code}, a session was opened"),
    }
}
