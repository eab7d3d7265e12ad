//! What stands behind a wrong address, on real sockets: nothing of it is believed, and each says what to do.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::apply::mock::Objects;
use api::fixtures;
use greenplum::Tls;

/// Says `head` to whoever connects, then `tail` again and again as long as somebody listens.
async fn listener(head: &[u8], tail: &[u8]) -> u16 {
    let said = Arc::new((head.to_vec(), tail.to_vec()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let said = said.clone();
            tokio::spawn(async move {
                let (head, tail) = &*said;
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(head).await;
                while !tail.is_empty() && stream.write_all(tail).await.is_ok() {}
                let _ = stream.read(&mut asked).await; // open until the other side closes
            });
        }
    });
    port
}

async fn unread(port: u16) -> Unread {
    let login = Ok(Login { user: "gpadmin".into(), password: "secret".into(), tls: Tls::Disable });
    let coordinator = Coordinator { server: Server::new("127.0.0.1", port), login };
    topology(&mut Sessions::default(), &coordinator).await.unwrap_err().unread()
}

const LET_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// An error or notice as PostgreSQL sends it.
fn message(kind: u8, code: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0C{code}\0Mso it is\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
    [&[kind][..], &length, fields.as_bytes()].concat()
}

#[tokio::test]
async fn what_is_no_postgres_is_told_by_what_it_says() {
    let notices = message(b'N', "01000").repeat(10_000);
    for (head, tail, told) in [
        (&b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"[..], &b""[..], "it says 'HTTP/1.1 400 Bad Request'"),
        (b"", b"\x7fnonsense\0", "it says '.nonsense."),
        (LET_IN, &notices, "its answer does not end"),
        (LET_IN, b"D\0\0\0\x06\0\0", "does not keep to PostgreSQL's protocol"),
    ] {
        let unread = unread(listener(head, tail).await).await;
        assert!(unread.name() == "NotPostgres" && unread.why().contains(told), "{unread:?}");
    }
}

#[tokio::test]
async fn a_port_that_says_nothing_and_one_that_nobody_has_are_told_apart() {
    assert_eq!(unread(listener(b"", b"").await).await.name(), "CoordinatorSilent");
    assert_eq!(unread(listener(LET_IN, b"").await).await.name(), "CoordinatorSilent");
    assert_eq!(unread(1).await.name(), "CoordinatorUnreachable");
}

#[tokio::test]
async fn refusals_of_a_server_are_told_by_their_code() {
    for (code, name) in [
        ("28P01", "LoginRefused"),
        ("28000", "LoginRefused"),
        ("3D000", "CatalogUnreadable"),
        ("42704", "NotGreenplum"),
        ("57P03", "CoordinatorStarting"),
        ("57M02", "CoordinatorInRecovery"),
    ] {
        assert_eq!(unread(listener(&message(b'E', code), b"").await).await.name(), name);
    }
}

#[tokio::test]
async fn a_coordinator_on_a_lower_timeline_than_the_status_remembers_is_not_believed() {
    let mut observer = Observer::new(Objects::default().client(), "demo", Arc::new(Notify::new()));
    let mut cluster = fixtures::cluster();
    assert!(observer.older(&cluster, Timeline(1)).is_none(), "nothing was seen before");
    cluster.status = serde_json::from_value(serde_json::json!({"coordinatorTimeline": 2})).unwrap();
    assert!(observer.older(&cluster, Timeline(2)).is_none() && observer.older(&cluster, Timeline(3)).is_none());
    let old = observer.older(&cluster, Timeline(1)).unwrap().unread();
    assert!(old.name() == "OldCoordinator" && old.why().contains("timeline 1, older than 2"), "{old:?}");
}
