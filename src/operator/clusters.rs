//! One driver per cluster: begun when its object appears, ended when it goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use kube::{ResourceExt, core::DeserializeGuard, runtime::watcher::Event};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};
use tracing::Instrument;

use super::{
    driver::{Context, Driver},
    orphans, undriven,
    wakers::Wakers,
    watches::{self, Changes},
};
use crate::error;
use crate::{
    apply::Applier,
    report::metrics::{Of, Pass},
};
use api::GreenplumCluster;

/// Watches the clusters of these namespaces, of all when none is named, and drives each.
pub async fn run(context: Context, namespaces: &[String]) {
    let scopes = scopes(namespaces).into_iter();
    futures::future::select_all(scopes.map(|namespace| Box::pin(watch(context.clone(), namespace)))).await;
}

/// Each once: a cluster has one driver. Nothing but `None` stands for all namespaces, which needs rights in all of them.
fn scopes(namespaces: &[String]) -> BTreeSet<Option<String>> {
    if namespaces.is_empty() { BTreeSet::from([None]) } else { namespaces.iter().cloned().map(Some).collect() }
}

/// A set of watches and the drivers of what they show.
async fn watch(context: Context, namespace: Option<String>) {
    let wakers = Wakers::default();
    let mut watches = JoinSet::new();
    watches::begin(&mut watches, &context.client, namespace.as_deref(), &wakers);
    let mut clusters = Clusters { context: context.clone(), wakers, drivers: BTreeMap::new(), tasks: JoinSet::new(), listed: vec![] };
    let mut events = watches::stream::<DeserializeGuard<GreenplumCluster>>(&context.client, namespace.as_deref(), None);
    let mut changes = Changes::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => clusters.on(event, &mut changes),
            Err(error) => watches::broke("GreenplumClusters", &error),
        }
        while clusters.tasks.try_join_next().is_some() {}
    }
}

struct Clusters {
    context: Context,
    wakers: Wakers,
    drivers: BTreeMap<Of, AbortHandle>,
    /// Ends all drivers when it is dropped.
    tasks: JoinSet<()>,
    listed: Vec<Of>,
}

fn key(object: &DeserializeGuard<GreenplumCluster>) -> Of {
    Of { namespace: object.namespace().unwrap_or_default(), cluster: object.name_any() }
}

impl Clusters {
    fn on(&mut self, event: Event<DeserializeGuard<GreenplumCluster>>, changes: &mut Changes) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.push(key(&object));
                self.drive(key(&object), changes.is_news(&object));
            }
            Event::InitDone => {
                let gone: Vec<_> = self.drivers.keys().filter(|of| !self.listed.contains(of)).cloned().collect();
                for of in &gone {
                    self.end(of);
                }
            }
            Event::Apply(object) => self.drive(key(&object), changes.is_news(&object)),
            Event::Delete(object) => {
                changes.forget(&object);
                self.end(&key(&object));
            }
        }
    }

    /// Begins a driver, or wakes the one that there is when the object was changed by somebody else than us.
    fn drive(&mut self, of: Of, news: bool) {
        let lives = self.drivers.get(&of).is_some_and(|driver| !driver.is_finished());
        // One that is about to end has given its waker back, and looks at nothing any more.
        if lives && (!news || self.wakers.wake(Some(of.namespace.clone()), &of.cluster)) {
            return;
        }
        let (context, wake) = (self.context.clone(), self.wakers.of(&of));
        let span = tracing::info_span!("cluster", namespace = %of.namespace, cluster = %of.cluster);
        let (wakers, whose) = (self.wakers.clone(), of.clone());
        let until_it_ends = async move {
            let client = context.client.clone();
            Box::pin(drive(context, whose.clone(), wake)).await;
            wakers.forget(&whose); // what is asked for from now on wakes nobody, and has to be told so
            orphans::tell_all(&client, &whose.namespace, &whose.cluster).await;
        };
        let driver = self.tasks.spawn(until_it_ends.instrument(span));
        self.drivers.insert(of, driver);
    }

    /// At once: an object of the same name may come, and must not find two drivers.
    fn end(&mut self, of: &Of) {
        if let Some(driver) = self.drivers.remove(of) {
            driver.abort();
        }
        self.wakers.forget(of);
        let (client, of) = (self.context.client.clone(), of.clone());
        self.tasks.spawn(async move { orphans::tell_all(&client, &of.namespace, &of.cluster).await });
    }
}

/// A driver and the watch of its pods. A fault in the program ends one pass of one cluster, not the operator.
async fn drive(context: Context, of: Of, wake: Arc<Notify>) {
    loop {
        let (told, selector) = tokio::sync::watch::channel(None);
        let driver = Driver::new(context.clone(), of.clone(), wake.clone(), told);
        let pods = watches::pods(context.client.clone(), of.namespace.clone(), selector, wake.clone());
        let both = async move {
            tokio::select! {
                () = driver.run() => {}
                () = pods => {}
            }
        };
        let Err(panic) = Box::pin(AssertUnwindSafe(both).catch_unwind()).await else { return };
        context.metrics.pass(&of, Pass::Failed);
        let why = panic.downcast_ref::<&str>().map(|why| (*why).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
        say_fault(&context, &of, &why.unwrap_or_default()).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// A fault in the program: what was last seen of the cluster is not what it is now.
async fn say_fault(context: &Context, of: &Of, why: &str) {
    let message = format!(
        "the last pass ended by a fault in the operator: {why}. The next one begins in 10 s; if it goes on, report it with the operator's log"
    );
    tracing::error!("{message}");
    let applier = Applier::new(context.client.clone(), &of.namespace, None);
    if let Err(failed) = undriven::say(&applier, &of.cluster, None, "Fault", &message).await {
        tracing::warn!(error = error::chain(&failed), "that cannot be told on the cluster's object");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply::mock::Objects,
        report::{events::Sender, metrics::Metrics},
    };
    use http::{Request, Response};
    use kube::{Client, client::Body};

    /// The paths that are asked for first, each of which stays unanswered.
    async fn asked(namespaces: &[&str], count: usize) -> BTreeSet<String> {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let context = Context { events: Sender::new(client.clone(), "me"), client, metrics: Metrics::default(), image: None };
        let namespaces: Vec<_> = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let task = tokio::spawn(async move { run(context, &namespaces).await });
        let (mut paths, mut unanswered) = (BTreeSet::new(), vec![]);
        for _ in 0..count {
            let (request, reply) = handle.next_request().await.expect("one more watch");
            paths.insert(request.uri().path().to_owned());
            unanswered.push(reply);
        }
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()), "the watches go on until they are ended");
        assert!(handle.next_request().await.is_none(), "with a watch for each kind and namespace, and no more");
        paths
    }

    #[tokio::test]
    async fn each_namespace_is_watched_once_and_no_other() {
        let within = |namespace: &str| {
            [
                format!("/apis/gpheal.io/v1alpha1/namespaces/{namespace}/greenplumclusters"),
                format!("/apis/gpheal.io/v1alpha1/namespaces/{namespace}/segmentrecoveries"),
                format!("/apis/batch/v1/namespaces/{namespace}/jobs"),
                format!("/api/v1/namespaces/{namespace}/pods"),
            ]
        };
        let wanted: BTreeSet<_> = within("one").into_iter().chain(within("two")).collect();
        assert_eq!(asked(&["two", "one", "two"], 8).await, wanted);
    }

    /// A finalizer of somebody else may hold the object for days.
    #[tokio::test]
    async fn whoever_asks_for_a_recovery_of_a_cluster_whose_driver_has_ended_wakes_nobody() {
        let objects = Objects::default();
        let mut going = serde_json::to_value(api::fixtures::cluster()).unwrap();
        going["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z".into();
        objects.put("/apis/gpheal.io/v1alpha1/namespaces/demo/greenplumclusters/demo", going);
        let client = objects.client();
        let context = Context { events: Sender::new(client.clone(), "me"), client, metrics: Metrics::default(), image: None };
        let wakers = Wakers::default();
        let mut clusters = Clusters { context, wakers: wakers.clone(), drivers: BTreeMap::new(), tasks: JoinSet::new(), listed: vec![] };
        clusters.drive(Of { namespace: "demo".into(), cluster: "demo".into() }, true);
        clusters.tasks.join_next().await.unwrap().unwrap();
        assert!(!wakers.wake(Some("demo".into()), "demo"), "so it is told that nobody drives it");
    }

    #[tokio::test]
    async fn a_fault_in_the_program_is_told_on_the_object() {
        let objects = Objects::default();
        objects.put("/apis/gpheal.io/v1alpha1/namespaces/demo/greenplumclusters/demo", serde_json::json!({}));
        let client = objects.client();
        let context = Context { events: Sender::new(client.clone(), "me"), client, metrics: Metrics::default(), image: None };
        say_fault(&context, &Of { namespace: "demo".into(), cluster: "demo".into() }, "index out of bounds").await;
        let writes = objects.writes();
        let ready = &writes[0].1["status"]["conditions"][0];
        assert_eq!((&ready["status"], &ready["reason"]), (&"False".into(), &"Fault".into()), "{writes:?}");
        assert!(ready["message"].as_str().is_some_and(|said| said.contains("index out of bounds")), "{ready}");
    }

    #[tokio::test]
    async fn all_namespaces_are_watched_when_none_is_named() {
        let wanted = ["/api/v1/pods", "/apis/batch/v1/jobs"].map(str::to_owned).into_iter();
        let ours = ["greenplumclusters", "segmentrecoveries"].map(|kind| format!("/apis/gpheal.io/v1alpha1/{kind}"));
        assert_eq!(asked(&[], 4).await, wanted.chain(ours).collect());
    }
}
