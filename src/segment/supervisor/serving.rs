//! Whether the postgres beside us serves its role.

use super::Config;
use greenplum::{Session, SessionError, topology};
use model::{Role, Timeline};

/// What our own postgres answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// With its timeline, when it can tell one: a control file names it only after the next checkpoint.
    Serves(Role, Option<Timeline>),
    /// It serves as primary on this timeline, and refuses our login: why.
    ServesOthers(Timeline, String),
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
    match Session::short(&config.local(), &login, None).await {
        Ok(_) if known.is_some() => Answered::Serves(Role::Primary, known),
        Ok(session) => match session.rows("SELECT pg_catalog.pg_is_in_recovery()").await {
            Ok(rows) if rows.first().and_then(|row| row.try_get(0).ok()) == Some(false) => {
                Answered::Serves(Role::Primary, topology::timeline(&session).await.ok())
            }
            Ok(_) => Answered::Serves(Role::Mirror, None),
            Err(error) => Answered::No(error.to_string()),
        },
        // The answer of every healthy mirror (docs/greenplum.md#what-a-mirror-answers).
        Err(SessionError::InRecovery(_)) => Answered::Serves(Role::Mirror, None),
        Err(SessionError::NotYet(_)) => Answered::NotYet,
        // One that starts, stops or recovers says so before it asks who we are. A password that is being rotated is no
        // reason to call a primary down.
        Err(error @ SessionError::LoginRefused { .. }) => {
            known.map_or_else(|| Answered::No(error.to_string()), |timeline| Answered::ServesOthers(timeline, error.to_string()))
        }
        Err(error) => Answered::No(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::supervisor::config::fixtures::parsed;

    /// Asks a server that refuses every login.
    async fn refused(known: Option<Timeline>) -> Answered {
        let folder = tempfile::tempdir().unwrap();
        for (key, value) in [("username", "gpheal"), ("password", "old")] {
            std::fs::write(folder.path().join(key), value).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refuses = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut startup = [0; 1024];
            let _ = stream.read(&mut startup).await.unwrap();
            stream.write_all(b"E\0\0\0\x1cSFATAL\0C28P01\0Mold one\0\0").await.unwrap();
        };
        let config = Config { credentials: folder.path().into(), port, ..parsed("").unwrap() };
        tokio::join!(refuses, ask(&config, known)).1
    }

    #[tokio::test]
    async fn a_primary_that_refuses_our_login_serves_others() {
        let answered = refused(Some(Timeline(3))).await;
        assert!(matches!(&answered, Answered::ServesOthers(Timeline(3), why) if why.contains("refuses the login: ")), "{answered:?}");
        let answered = refused(None).await;
        assert!(matches!(&answered, Answered::No(why) if why.contains("check the credentials secret")), "{answered:?}");
    }
}
