//! A coordinator in utility mode, whose rows the tests set.

use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Alone, Place};

pub struct Coordinator {
    place: Place,
    child: Child,
}

impl Coordinator {
    /// With the rows `DBID:CONTENT:ROLE:ADDRESS:PORT:DIRECTORY` beside its own.
    pub fn start(alone: &Alone, port: u16, rows: &[String]) -> Result<Self> {
        let place = Place::empty(alone, port)?;
        let own = format!("1:-1:p:127.0.0.1:{port}:{}", place.at("volume/gpseg").display());
        let all: Vec<&str> = std::iter::once(own.as_str()).chain(rows.iter().map(String::as_str)).collect();
        place.bootstrap("bootstrap-coordinator", 1, -1, &all)?;
        let mut postgres = place.command(&place.at("home/bin/postgres"));
        postgres.arg("-D").arg(place.at("volume/gpseg")).args(["-p", &port.to_string(), "-c", "gp_role=utility"]);
        let child = postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let coordinator = Self { place, child };
        coordinator.until_it_answers()?;
        Ok(coordinator)
    }

    fn psql(&self) -> Command {
        let mut psql = self.place.command(&self.place.at("home/bin/psql"));
        psql.args(["-X", "-q", "-w", "-h", "127.0.0.1", "-p", &self.place.port.to_string(), "-U", "gpadmin", "-d", "postgres"]);
        psql.env("PGPASSWORD", "secret").env("PGOPTIONS", "-c gp_role=utility").stdin(Stdio::null());
        psql
    }

    fn until_it_answers(&self) -> Result<()> {
        for _ in 0..200 {
            if self.psql().args(["-c", "SELECT 1"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        anyhow::bail!("the coordinator does not answer")
    }

    /// As a person or FTS would change the catalog.
    pub fn set(&self, statement: &str) -> Result<()> {
        ensure!(self.psql().args(["-c", "SET allow_system_table_mods = true", "-c", statement]).status()?.success(), "{statement} failed");
        Ok(())
    }

    /// The pair of content 0 changes its roles, as after a failover from dbid 2 to 5.
    pub fn fail_over(&self) -> Result<()> {
        self.set(
            "UPDATE gp_segment_configuration SET role = CASE role WHEN 'p' THEN 'm' ELSE 'p' END::\"char\", \
             status = CASE role WHEN 'p' THEN 'd' ELSE 'u' END::\"char\" WHERE content = 0",
        )
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGQUIT);
        let _ = self.child.wait();
    }
}
