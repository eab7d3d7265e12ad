//! Whether the postgres beside us serves its role.

use super::Config;
use crate::{
    greenplum::{Session, SessionError, topology},
    model::{Role, Timeline},
};

/// What our own postgres answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// With its timeline, when it can tell one: a control file names it only after the next checkpoint.
    Serves(Role, Option<Timeline>),
    /// It starts up or shuts down.
    NotYet,
    /// It did not answer at all, or not so that we understand it.
    No(String),
}

/// Asks our own postgres, by a short utility-mode session. A postmaster that once took writes never goes back into
/// recovery, nor onto another timeline: with `known`, that it lets us in says all.
pub async fn ask(config: &Config, known: Option<Timeline>) -> Answered {
    let login = match config.login() {
        Ok(login) => login,
        Err(error) => return Answered::No(error.to_string()),
    };
    match Session::utility(&config.local(), &login, None).await {
        Ok(_) if known.is_some() => Answered::Serves(Role::Primary, known),
        Ok(session) => match session.rows("SELECT pg_catalog.pg_is_in_recovery()").await {
            Ok(rows) if rows.first().and_then(|row| row.try_get(0).ok()) == Some(false) => {
                Answered::Serves(Role::Primary, topology::timeline(&session).await.ok())
            }
            Ok(_) => Answered::Serves(Role::Mirror, None),
            Err(error) => Answered::No(error.to_string()),
        },
        // The answer of every healthy mirror (O §2).
        Err(SessionError::InRecovery(_)) => Answered::Serves(Role::Mirror, None),
        Err(SessionError::NotYet(_)) => Answered::NotYet,
        Err(error) => Answered::No(error.to_string()),
    }
}
