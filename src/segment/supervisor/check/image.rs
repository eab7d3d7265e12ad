//! The programs of this image: all are there, and postgres is of the version that made the directory.

use std::process::Command;

use super::{
    Verdict,
    fault::{Fault, Shortcoming},
};
use greenplum::Dialect;

/// What supervisor and Job run besides postgres.
const PROGRAMS: &[&str] = &["pg_controldata", "pg_rewind", "pg_basebackup", "psql"];

/// The programs can be run.
pub fn programs(postgres: &str) -> Verdict {
    for program in [&[postgres], PROGRAMS].concat() {
        if let Err(why) = said(program) {
            return not_ok(Shortcoming::ProgramMissing { program: program.into(), why });
        }
    }
    Verdict::Ok(format!("{postgres}, {} are on PATH", PROGRAMS.join(", ")))
}

/// The server's version is a known dialect, and the directory's. `directory`: the text of `PG_VERSION`.
pub fn version(postgres: &str, directory: Option<&str>) -> Verdict {
    match said(postgres) {
        Ok(text) => judge(&text, directory),
        Err(why) => not_ok(Shortcoming::ProgramMissing { program: postgres.into(), why }),
    }
}

/// What a program answers to `--version`, the one argument with which none of them does anything.
fn said(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()) } else { Err(output.status.to_string()) }
}

fn judge(said: &str, directory: Option<&str>) -> Verdict {
    let Some(server) = major(said) else { return unknown(format!("postgres says '{said}', which names no version")) };
    if let Err(error) = Dialect::from_pg_version(&server) {
        return unknown(error.to_string());
    }
    match directory.map(str::trim) {
        Some(made_by) if made_by != server => not_ok(Shortcoming::VersionDiffers { directory: made_by.into(), server }),
        Some(_) => Verdict::Ok(format!("{said}, as PG_VERSION")),
        None => Verdict::Ok(format!("{said}; the directory names none")),
    }
}

/// `postgres (Greenplum Database) 9.4.26` is 9.4, `postgres (PostgreSQL) 15.14 (Debian …)` is 15: as `PG_VERSION` has it.
fn major(said: &str) -> Option<String> {
    let number = said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map(str::to_owned);
    let first = parts.next()?;
    let old = first.parse::<u32>().ok()? < 10;
    Some(if old { format!("{first}.{}", parts.next()?) } else { first })
}

fn unknown(why: String) -> Verdict {
    not_ok(Shortcoming::VersionUnknown { why })
}

fn not_ok(shortcoming: Shortcoming) -> Verdict {
    Verdict::NotOk(Fault::Seen(shortcoming))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(said: &str, directory: Option<&str>) -> &'static str {
        match judge(said, directory) {
            Verdict::NotOk(fault) => fault.code(),
            _ => "ok",
        }
    }

    #[test]
    fn versions_are_held_against_each_other() {
        assert_eq!(code("postgres (Greenplum Database) 9.4.26", Some("9.4\n")), "ok");
        assert_eq!(code("postgres (Greenplum Database) 12.12", Some("12\n")), "ok");
        assert_eq!(code("postgres (Apache Cloudberry) 14.4", None), "ok");
        assert_eq!(code("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some("15")), "ok");
        assert_eq!(code("postgres (Greenplum Database) 12.12", Some("9.4")), "VersionDiffers");
        assert_eq!(code("postgres (PostgreSQL) 11.3", Some("11")), "VersionUnknown");
        assert_eq!(code("postgres", Some("12")), "VersionUnknown");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let Verdict::NotOk(fault) = programs("/nowhere/postgres") else { panic!("it is there") };
        assert!(fault.code() == "ProgramMissing" && fault.to_string().starts_with("/nowhere/postgres"), "{fault}");
    }
}
