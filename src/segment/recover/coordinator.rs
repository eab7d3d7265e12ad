//! Whom the Job asks for the catalog: the coordinators that the instance's own pod names, all at once, and whoever is on the
//! highest timeline is believed.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::Work;
use greenplum::{
    Server, Session, SessionError,
    topology::{self, Answer},
};
use model::SystemIdentifier;

/// So long others may still answer when one has: a standby says at once what it is, and one that is away says nothing.
const PATIENCE: Duration = Duration::from_secs(1);

type Asked = Result<Answer, Box<SessionError>>;

/// The catalog of the acting coordinator, whose database is `whose` where that is known.
///
/// # Errors
/// [`SessionError`] of the one that comes first, as a rule the acting one.
pub async fn ask(work: &Work, whose: Option<SystemIdentifier>) -> Asked {
    let numbered = work.coordinators.iter().enumerate();
    let mut asked: FuturesUnordered<_> =
        numbered.map(|(place, server)| async move { (place, one(work, server, whose).await.map_err(Box::new)) }).collect();
    let (mut answers, mut until) = (vec![], None);
    loop {
        let next = match until {
            None => asked.next().await,
            Some(until) => timeout_at(until, asked.next()).await.unwrap_or_default(),
        };
        let Some((place, answer)) = next else { break };
        if answer.is_ok() {
            until.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
        answers.push((place, answer));
    }
    answers.sort_by_key(|(place, _)| *place);
    newest(answers.into_iter().map(|(_, answer)| answer))
}

async fn one(work: &Work, server: &Server, whose: Option<SystemIdentifier>) -> Result<Answer, SessionError> {
    let session = Session::utility(server, &work.login, None).await?;
    let answer = topology::read(&session).await?;
    match (answer.system_identifier, whose) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(SessionError::NotCoordinator {
            server: server.clone(),
            message: format!("its system identifier is {theirs}, that of the coordinator is {ours}"),
        }),
        (Some(_) | None, Some(_) | None) => Ok(answer),
    }
}

/// A standby that says what it is explains nothing where the other one has something to say.
fn newest(answers: impl Iterator<Item = Asked>) -> Asked {
    let mut best: Option<Asked> = None;
    for answer in answers {
        let better = match (&best, &answer) {
            (None, _) | (Some(Err(_)), Ok(_)) => true,
            (Some(Ok(best)), Ok(answer)) => answer.timeline > best.timeline,
            (Some(Err(best)), Err(_)) => matches!(**best, SessionError::InRecovery(_)),
            (Some(Ok(_)), Err(_)) => false,
        };
        if better {
            best = Some(answer);
        }
    }
    let none = || SessionError::NotCoordinator { server: Server::new("", 0), message: "none is named".into() };
    best.unwrap_or_else(|| Err(Box::new(none())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Catalog, Timeline};

    fn server(name: &str) -> Server {
        Server::new(name, 5432)
    }

    fn on(timeline: u32) -> Answer {
        Answer { catalog: Catalog { rows: vec![] }, timeline: Timeline(timeline), system_identifier: None }
    }

    #[test]
    fn the_coordinator_on_the_highest_timeline_is_believed_and_a_standby_explains_nothing() {
        let standby = || Err(Box::new(SessionError::InRecovery(server("standby"))));
        let away = || Err(Box::new(SessionError::Unreachable { server: server("coordinator"), message: "refused".into() }));
        let told = |answers: Vec<Asked>| match newest(answers.into_iter()) {
            Ok(answer) => answer.timeline.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(told(vec![Ok(on(1)), standby()]), "1");
        assert_eq!(told(vec![away(), Ok(on(2))]), "2");
        assert_eq!(told(vec![Ok(on(1)), Ok(on(2))]), "2", "the first came back, and was overtaken");
        assert_eq!(told(vec![Ok(on(2)), Ok(on(1))]), "2");
        assert!(told(vec![standby(), away()]).contains("coordinator:5432"));
        assert!(told(vec![away(), standby()]).contains("coordinator:5432"));
        assert!(told(vec![standby()]).contains("in recovery"));
        assert!(told(vec![]).contains("none is named"));
    }
}
