//! What has to be asked: the name, the coordinator, the catalog, logins over the pod network.

use std::{net::UdpSocket, time::Duration};

use super::{
    Verdict,
    fault::{Fault, Shortcoming},
};
use crate::supervisor::{
    Config,
    ask::{Answer, NotRead, row_here},
    facts::RowHere,
};
use greenplum::{Login, Server, Session, SessionError, resolve::resolve};
use model::{Dbid, InstanceState, Look, Refusal, Role, Row};

/// The instance's own name leads to this pod.
pub async fn name(address: &str) -> Verdict {
    match resolve(address).await {
        Err(error) => not_ok(Shortcoming::NameUnresolved { why: error.to_string() }),
        // Only an address of our own can be bound.
        Ok(ip) if UdpSocket::bind((ip, 0)).is_ok() => Verdict::Ok(format!("{address} is {ip}, an address of this pod")),
        Ok(ip) => not_ok(Shortcoming::NameElsewhere { address: address.into(), ip: ip.to_string() }),
    }
}

/// A coordinator answers, and has a catalog.
pub fn coordinator(look: &Look<Answer, NotRead>) -> Verdict {
    match look {
        Look::Seen(answer) => {
            Verdict::Ok(format!("answers in utility mode, {} rows in its catalog, timeline {}", answer.catalog.rows.len(), answer.timeline))
        }
        Look::Unknown(NotRead(each)) => match each.split_first() {
            Some((first, rest)) => Verdict::NotOk(Fault::Coordinator(first.clone(), rest.to_vec())),
            None => Verdict::Skipped("GPHEAL_COORDINATOR names nobody".into()),
        },
    }
}

/// The row of this place, and the rows of its pair.
pub fn rows<'a>(config: &Config, answer: &'a Answer, dbid: Option<Dbid>) -> (Verdict, Vec<&'a Row>) {
    match row_here(config, &answer.catalog, dbid) {
        Look::Seen(RowHere::Mine { .. }) => {}
        Look::Seen(RowHere::NotMine(why)) => return (Verdict::NotOk(Fault::State(InstanceState::NotInCatalog, why)), vec![]),
        Look::Unknown(why) => return (Verdict::NotOk(Fault::Refused(Refusal::CatalogInvalid { why })), vec![]),
    }
    let rows = &answer.catalog.rows;
    let Some(own) = rows.iter().find(|row| row.address == config.address && row.port == config.port) else {
        return (Verdict::Skipped("the row of this place is gone".into()), vec![]);
    };
    let said = format!("dbid {} of content {} is {own}", own.dbid, own.content);
    (Verdict::Ok(said), rows.iter().filter(|row| row.content == own.content).collect())
}

/// What came of logging in at the instances of a pair.
pub async fn logins(pair: &[&Row], login: &Login) -> (Verdict, Option<Server>) {
    let (mut said, mut primary) = (vec![], None);
    for row in pair {
        let server = Server::new(&row.address, row.port);
        match Session::utility(&server, login, None).await {
            Ok(_) => {
                said.push(format!("dbid {} lets {} in from here", row.dbid, login.user));
                primary = (row.role == Role::Primary).then_some(server).or(primary);
            }
            Err(SessionError::LoginRefused { message, .. }) => {
                return (not_ok(Shortcoming::LoginRefused { why: format!("{server} refuses {}: {message}", login.user) }), None);
            }
            // A mirror refuses everybody alike, before it looks at pg_hba.conf.
            Err(SessionError::InRecovery(_)) => said.push(format!("dbid {} is a mirror and tells nothing", row.dbid)),
            Err(error) => said.push(error.to_string()),
        }
    }
    let said = said.join("; ");
    (if primary.is_some() { Verdict::Ok(said) } else { Verdict::Skipped(format!("no primary to ask: {said}")) }, primary)
}

/// The acting primary lets one of `logins` in for replication, as a mirror and the tools of a repair need it.
pub async fn replication(primary: &Server, logins: &[Login]) -> Verdict {
    let mut refusals = vec![];
    for login in logins {
        match identify(primary, login).await {
            Ok(()) => return Verdict::Ok(format!("{primary} lets {} in from here", login.user)),
            Err(why) => refusals.push(why),
        }
    }
    not_ok(Shortcoming::ReplicationRefused { why: refusals.join("; ") })
}

async fn identify(primary: &Server, login: &Login) -> Result<(), String> {
    let (host, port, user) = (&primary.host, primary.port, &login.user);
    let conninfo = format!("host={host} port={port} user={user} dbname=postgres replication=true connect_timeout=10");
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["-X", "-A", "-t", "-w", "-d", &conninfo, "-c", "IDENTIFY_SYSTEM"]).env("PGPASSWORD", &login.password).env("LC_ALL", "C");
    psql.envs(login.tls.libpq_environment()).kill_on_drop(true);
    match tokio::time::timeout(Duration::from_secs(30), psql.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")),
        Ok(Err(error)) => Err(format!("psql: {error}")),
        Err(_) => Err(format!("{primary} did not answer within 30 s")),
    }
}

fn not_ok(shortcoming: Shortcoming) -> Verdict {
    Verdict::NotOk(Fault::Seen(shortcoming))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::config::fixtures::config;
    use model::{Timeline, Unread, world::fixtures::row};

    #[tokio::test]
    async fn an_address_of_somebody_else_is_told() {
        assert!(matches!(name("127.0.0.1").await, Verdict::Ok(_)));
        let elsewhere = name("192.0.2.1").await; // an address for documents, nobody's
        assert!(matches!(&elsewhere, Verdict::NotOk(fault) if fault.code() == "NameElsewhere"), "{elsewhere:?}");
        let unresolved = name("no.such.name.invalid").await;
        assert!(matches!(&unresolved, Verdict::NotOk(fault) if fault.code() == "NameUnresolved"), "{unresolved:?}");
    }

    #[test]
    fn a_place_that_the_catalog_does_not_name_is_told() {
        let mut config = config();
        let catalog = model::Catalog { rows: ["2:0ppsu", "5:0mmsu", "3:1ppsu"].map(row).into() };
        let answer = Answer { catalog, timeline: Timeline(1), system_identifier: None };
        let (verdict, pair) = rows(&config, &answer, Some(Dbid(5)));
        assert!(matches!(verdict, Verdict::Ok(_)) && pair.len() == 2, "{verdict:?}");
        let (other, _) = rows(&config, &answer, Some(Dbid(3)));
        assert!(matches!(&other, Verdict::NotOk(fault) if fault.code() == "NotInCatalog"), "{other:?}");
        config.port = 6001;
        let (elsewhere, pair) = rows(&config, &answer, None);
        assert!(matches!(&elsewhere, Verdict::NotOk(fault) if fault.code() == "NotInCatalog") && pair.is_empty(), "{elsewhere:?}");
    }

    #[test]
    fn each_cause_of_blindness_is_told_in_the_operators_words_with_what_to_do_in_a_container() {
        for unread in Unread::examples() {
            let standby = Unread::CoordinatorInRecovery { why: "gp-standby:5432 is a mirror in recovery".into() };
            let Verdict::NotOk(fault) = coordinator(&Look::Unknown(NotRead(vec![unread.clone(), standby]))) else { panic!("{unread:?}") };
            assert_eq!(fault.code(), unread.name());
            let told = fault.to_string();
            assert!(told.contains(unread.why()) && told.ends_with("gp-standby:5432 is a mirror in recovery"), "{told}");
            assert!(!fault.answer().contains("spec."), "a container has no spec: {}", fault.answer());
        }
    }
}
