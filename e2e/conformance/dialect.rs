//! Where Greenplum 6 and 7 differ in what the suite does.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

#[derive(Clone, Debug)]
pub struct Dialect {
    version: String,
    six: bool,
}

impl Dialect {
    pub fn of(home: &Path) -> Result<Self> {
        let program = home.join("bin/postgres");
        let output = Command::new(&program)
            .arg("--gp-version")
            .env("LD_LIBRARY_PATH", home.join("lib"))
            .output()
            .with_context(|| format!("{} does not run", program.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { six: version.contains("Greenplum Database) 6."), version })
    }

    /// What gpheal has to take it for.
    pub fn of_gpheal(&self) -> greenplum::Dialect {
        if self.six { greenplum::Dialect::Six } else { greenplum::Dialect::Seven }
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn segment(&self) -> &'static [&'static str] {
        if self.six { &["-c", "gp_role=utility"] } else { &["-c", "gp_role=execute"] }
    }

    pub fn coordinator(&self) -> &'static [&'static str] {
        if self.six { &["-E"] } else { &["-c", "gp_role=dispatch"] }
    }

    pub fn lone_coordinator(&self) -> &'static [&'static str] {
        if self.six { &["-c", "gp_role=utility", "-m"] } else { &["-c", "gp_role=utility"] }
    }

    pub fn utility_session(&self) -> &'static str {
        if self.six { "-c gp_session_role=utility" } else { "-c gp_role=utility" }
    }

    /// Of a normal session by a segment that was started with `segment()`.
    pub fn segment_refusal(&self) -> &'static str {
        if self.six { "master-only utility mode" } else { "connections to primary segments are not allowed" }
    }

    pub fn lone_refusal(&self) -> &'static str {
        if self.six { "master-only utility mode" } else { "single node mode" }
    }

    pub fn wal_method(&self) -> &'static str {
        if self.six { "--xlog-method=stream" } else { "--wal-method=stream" }
    }

    /// Greenplum 6 makes the slot when it is missing and has no option for it.
    pub fn create_slot(&self) -> &'static [&'static str] {
        if self.six { &[] } else { &["--create-slot"] }
    }

    /// Says that a directory is a mirror's.
    pub fn mirror_file(&self) -> &'static str {
        if self.six { "recovery.conf" } else { "standby.signal" }
    }

    /// Where `primary_conninfo` stands.
    pub fn recovery_settings(&self) -> &'static str {
        if self.six { "recovery.conf" } else { "postgresql.auto.conf" }
    }

    /// TLS settings are the postmaster's alone before Greenplum 7.
    pub fn reads_certificates_once(&self) -> bool {
        self.six
    }

    /// Roles that may look at everything came with PostgreSQL 10.
    pub fn has_monitors(&self) -> bool {
        !self.six
    }

    pub fn wal_folder(&self) -> &'static str {
        if self.six { "pg_xlog" } else { "pg_wal" }
    }

    pub fn log_folder(&self) -> &'static str {
        if self.six { "pg_log" } else { "log" }
    }
}
