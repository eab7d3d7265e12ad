//! One operator at a time: read, decide, write with the resourceVersion that was read. A lease only makes overlap
//! rare; what must never happen twice is refused by names, by resourceVersions and by the volume's lock.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::http::Health;
use crate::error;

/// How long a lease holds without being renewed.
const HOLDS: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEWED: Duration = Duration::from_secs(5);
/// After this long without a renewal the holder stops acting, whatever it waits for at that moment; a safe while before
/// others may take it.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// Bound of one call.
const CALL: Duration = Duration::from_secs(4);

/// The lease is somebody else's, or could not be renewed in time.
#[derive(Debug, PartialEq, Eq)]
pub struct LeaseLost;

/// What to do about the lease as it was read.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// There is none: make it.
    Create,
    /// It is ours: write the time.
    Renew,
    /// It is nobody's, or its holder has not renewed it for as long as it holds.
    Take,
    /// Somebody holds it.
    Wait,
}

/// `unchanged` is how long we ourselves have seen no change: clocks of other machines prove nothing.
fn decide(found: Option<&LeaseSpec>, me: &str, unchanged: Duration) -> Claim {
    let Some(spec) = found else { return Claim::Create };
    match spec.holder_identity.as_deref().unwrap_or_default() {
        "" => Claim::Take,
        holder if holder == me => Claim::Renew,
        _ if unchanged >= holds(spec) => Claim::Take,
        _ => Claim::Wait,
    }
}

fn holds(spec: &LeaseSpec) -> Duration {
    spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(HOLDS, Duration::from_secs)
}

/// The lease of this operator.
pub struct Lease {
    api: Api<Object>,
    name: String,
    me: String,
    /// The resourceVersion last seen, and since when.
    seen: Option<(String, Instant)>,
}

impl Lease {
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), me: me.to_owned(), seen: None }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&mut self, health: &Health) {
        let mut told = false;
        loop {
            match self.attempt().await {
                Ok(true) => {
                    health.reached();
                    return;
                }
                Ok(false) => {
                    health.reached();
                    if !told {
                        tracing::info!(lease = %self.name, "another operator leads; this one waits in reserve");
                        told = true;
                    }
                }
                Err(why) => tracing::warn!(lease = %self.name, error = %why, "the lease cannot be read or written"),
            }
            sleep(RENEWED / 2).await;
        }
    }

    /// Renews the lease until it is lost.
    pub async fn keep(&mut self) -> LeaseLost {
        let (mut renewed, mut pause) = (Instant::now(), RENEWED);
        loop {
            // Others count from what they see of a renewal, which is after it was begun.
            let begun = Instant::now() + pause;
            let done = timeout_at(renewed + GIVEN_UP, self.after(pause)).await;
            pause = RENEWED / 5;
            match done {
                Ok(Ok(true)) => (renewed, pause) = (begun, RENEWED),
                Ok(Ok(false)) if self.is_anothers() => return LeaseLost,
                Ok(Ok(false)) => {}
                Ok(Err(why)) => tracing::warn!(lease = %self.name, error = %why, "the lease cannot be renewed"),
                Err(_) => return LeaseLost,
            }
        }
    }

    async fn after(&mut self, pause: Duration) -> Result<bool, String> {
        sleep(pause).await;
        self.attempt().await
    }

    /// Gives the lease up, so that the next operator need not wait.
    pub async fn release(&mut self) {
        let given = async {
            let mut object = self.api.get(&self.name).await?;
            let spec = object.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.me.as_str()) {
                spec.holder_identity = None;
                self.api.replace(&self.name, &PostParams::default(), &object).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(CALL, given).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = error::chain(&error), "the lease could not be given up; it runs out by itself"),
            Err(_) => tracing::warn!("no answer within {} s when giving up the lease; it runs out by itself", CALL.as_secs()),
        }
    }

    fn is_anothers(&self) -> bool {
        self.seen.is_some()
    }

    /// One round: read, decide, write. `false`: it is not ours now.
    async fn attempt(&mut self) -> Result<bool, String> {
        match timeout(CALL, self.round()).await {
            Ok(done) => done.map_err(|error| error::chain(&error)),
            Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
        }
    }

    async fn round(&mut self) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let unchanged = self.unchanged(found.as_ref());
        let how = PostParams::default();
        let written = match decide(found.as_ref().and_then(|object| object.spec.as_ref()), &self.me, unchanged) {
            Claim::Wait => return Ok(false),
            Claim::Create => self.api.create(&how, &self.object(None)).await,
            Claim::Renew | Claim::Take => self.api.replace(&self.name, &how, &self.object(found)).await,
        };
        match written {
            Ok(_) => {
                self.seen = None;
                Ok(true)
            }
            // Somebody was faster: look again.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn unchanged(&mut self, found: Option<&Object>) -> Duration {
        let version = found.and_then(|object| object.metadata.resource_version.clone()).unwrap_or_default();
        let holder = found.and_then(|object| object.spec.as_ref()?.holder_identity.clone());
        if holder.as_deref() == Some(self.me.as_str()) {
            self.seen = None;
            return Duration::ZERO;
        }
        match &self.seen {
            Some((known, since)) if *known == version => since.elapsed(),
            _ => {
                self.seen = Some((version, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// The lease as it is ours; what was found is replaced under its own resourceVersion.
    fn object(&self, found: Option<Object>) -> Object {
        let before = found.as_ref().and_then(|object| object.spec.clone()).unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(self.me.as_str());
        let now = MicroTime(Timestamp::now());
        let metadata =
            found.map_or_else(|| ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() }, |object| object.metadata);
        let spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
            acquire_time: if ours { before.acquire_time } else { Some(now.clone()) },
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        Object { metadata, spec: Some(spec) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::mock::{expect, finished, server};
    use serde_json::{Value, json};

    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/sys/leases";
    const ONE: &str = "/apis/coordination.k8s.io/v1/namespaces/sys/leases/gpheal";

    fn object(holder: &str, version: &str) -> Value {
        json!({"metadata": {"name": "gpheal", "resourceVersion": version},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3}})
    }

    fn lease(client: Client) -> Lease {
        Lease::new(client, "sys", "gpheal", "me")
    }

    #[test]
    fn it_is_taken_only_when_nobody_holds_it() {
        let held =
            |holder: &str| LeaseSpec { holder_identity: Some(holder.into()), lease_duration_seconds: Some(15), ..LeaseSpec::default() };
        assert_eq!(decide(None, "me", Duration::ZERO), Claim::Create);
        assert_eq!(decide(Some(&held("me")), "me", Duration::ZERO), Claim::Renew);
        assert_eq!(decide(Some(&held("")), "me", Duration::ZERO), Claim::Take);
        assert_eq!(decide(Some(&held("other")), "me", Duration::from_secs(14)), Claim::Wait);
        assert_eq!(decide(Some(&held("other")), "me", Duration::from_secs(15)), Claim::Take);
    }

    #[tokio::test]
    async fn a_missing_lease_is_made() {
        let made = expect("POST", PATH, object("me", "1")).body(|body| assert_eq!(body["spec"]["holderIdentity"], "me"));
        let (client, task) = server(vec![expect("GET", ONE, json!({})).refused(404, "NotFound"), made]);
        assert_eq!(lease(client).attempt().await, Ok(true));
        finished(task).await;
    }

    #[tokio::test]
    async fn ours_is_renewed_under_the_version_that_was_read() {
        let renewed = expect("PUT", ONE, object("me", "8")).body(|body| {
            assert_eq!((&body["metadata"]["resourceVersion"], &body["spec"]["leaseTransitions"]), (&json!("7"), &json!(3)));
        });
        let (client, task) = server(vec![expect("GET", ONE, object("me", "7")), renewed]);
        assert_eq!(lease(client).attempt().await, Ok(true));
        finished(task).await;
    }

    #[tokio::test]
    async fn anothers_is_left_alone_until_it_stands_still() {
        let taken = expect("PUT", ONE, object("me", "8")).body(|body| assert_eq!(body["spec"]["leaseTransitions"], 4));
        let (client, task) = server(vec![expect("GET", ONE, object("other", "7")), expect("GET", ONE, object("other", "7")), taken]);
        let mut lease = lease(client);
        assert_eq!(lease.attempt().await, Ok(false));
        lease.seen = lease.seen.map(|(version, since)| (version, since.checked_sub(HOLDS).unwrap()));
        assert_eq!(lease.attempt().await, Ok(true));
        drop(lease);
        finished(task).await;
    }

    /// An API server that says nothing: the holder is gone before anybody may take the lease.
    #[tokio::test(start_paused = true)]
    async fn a_holder_that_cannot_renew_stops_before_others_may_take_it() {
        let (service, _handle) = tower_test::mock::pair::<http::Request<kube::client::Body>, http::Response<kube::client::Body>>();
        let (mut lease, begun) = (lease(Client::new(service, "sys")), Instant::now());
        assert_eq!(lease.keep().await, LeaseLost);
        assert!(begun.elapsed() < HOLDS, "after {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn who_is_slower_does_not_hold_it() {
        let beaten = expect("PUT", ONE, json!({})).refused(409, "Conflict");
        let (client, task) = server(vec![expect("GET", ONE, object("", "7")), beaten]);
        assert_eq!(lease(client).attempt().await, Ok(false));
        finished(task).await;
    }

    #[tokio::test]
    async fn it_is_given_up_only_when_it_is_ours() {
        let (client, task) = server(vec![expect("GET", ONE, object("other", "7"))]);
        lease(client).release().await;
        finished(task).await;
    }
}
