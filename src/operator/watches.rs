//! Watches only say when to look; what is acted upon is always read anew.

use std::{collections::BTreeMap, sync::Arc};

use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, NamespaceResourceScope, Selector},
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{driver::back_off, orphans, wakers::Wakers};
use crate::error;
use api::{SegmentRecovery, labels};

/// Events of one kind, in one namespace or in all, with a back-off of its own.
pub fn stream<K>(client: &Client, namespace: Option<&str>, selector: Option<&str>) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let api: Api<K> = namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace));
    let config = selector.map_or_else(watcher::Config::default, |selector| watcher::Config::default().labels(selector));
    patient(watcher(api, config)).boxed()
}

/// Begins a watch that fails ever more slowly. The library's own back-off forgets at each beginning, so that a watch which
/// cannot even list (no right to, a selector that cannot be) would begin again every second for ever.
fn patient<K>(events: impl Stream<Item = watcher::Result<Event<K>>>) -> impl Stream<Item = watcher::Result<Event<K>>> {
    let mut failures = 0_u32;
    events.then(move |event| {
        match &event {
            Err(_) => failures = failures.saturating_add(1),
            Ok(Event::Init) => {}
            Ok(_) => failures = 0,
        }
        let pause = event.is_err().then(|| back_off(failures));
        async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            event
        }
    })
}

/// Tells news from the echo of our own writes: a status does not move the generation.
#[derive(Debug, Default)]
pub struct Changes(BTreeMap<String, (Option<i64>, bool)>);

impl Changes {
    pub fn is_news<K: Resource>(&mut self, object: &K) -> bool {
        let meta = object.meta();
        let now = (meta.generation, meta.deletion_timestamp.is_some());
        self.0.insert(meta.uid.clone().unwrap_or_default(), now) != Some(now)
    }

    pub fn forget<K: Resource>(&mut self, object: &K) {
        self.0.remove(object.meta().uid.as_deref().unwrap_or_default());
    }
}

/// Begins the watches of recoveries, Jobs and their pods.
pub fn begin(set: &mut JoinSet<()>, client: &Client, namespace: Option<&str>, wakers: &Wakers) {
    set.spawn(recoveries(client.clone(), stream(client, namespace, None), wakers.clone()));
    set.spawn(ours::<Job>(stream(client, namespace, Some(labels::RECOVERY)), wakers.clone()));
    set.spawn(ours::<Pod>(stream(client, namespace, Some(labels::RECOVERY)), wakers.clone()));
}

async fn recoveries(
    client: Client,
    mut events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<SegmentRecovery>>>> + Unpin,
    wakers: Wakers,
) {
    let mut changes = Changes::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                if changes.is_news(&object) {
                    wake_for(&client, &wakers, &object).await;
                }
            }
            Ok(Event::Delete(object)) => {
                changes.forget(&object);
                if let Ok(recovery) = &object.0 {
                    wakers.wake(object.namespace(), &recovery.spec.cluster_ref.name);
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => broke("SegmentRecoveries", &error),
        }
    }
}

async fn wake_for(client: &Client, wakers: &Wakers, object: &DeserializeGuard<SegmentRecovery>) {
    match &object.0 {
        Ok(recovery) => {
            if !wakers.wake(object.namespace(), &recovery.spec.cluster_ref.name) {
                orphans::tell(client, recovery).await;
            }
        }
        Err(invalid) => {
            tracing::warn!(recovery = %object.name_any(), error = %invalid, "a SegmentRecovery cannot be read and is left alone");
        }
    }
}

/// Objects that carry our labels.
async fn ours<K: Resource>(mut events: impl Stream<Item = watcher::Result<Event<K>>> + Unpin, wakers: Wakers) {
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => {
                if let Some(cluster) = object.labels().get(labels::CLUSTER) {
                    wakers.wake(object.namespace(), cluster);
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => broke("Jobs", &error),
        }
    }
}

/// The pods of one cluster: a container that dies is looked at at once. Ends only when nobody tells the selector any more.
pub async fn pods(client: Client, namespace: String, mut selector: watch::Receiver<Option<LabelSelector>>, wake: Arc<Notify>) {
    loop {
        let wanted = selector.borrow_and_update().clone();
        let watched = async {
            let Some(Ok(wanted)) = wanted.map(Selector::try_from) else { return std::future::pending().await };
            let mut events = stream::<Pod>(&client, Some(&namespace), Some(&wanted.to_string()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(_) | Event::InitApply(_) | Event::Delete(_)) => wake.notify_one(),
                    Ok(Event::Init | Event::InitDone) => {}
                    Err(error) => broke("pods", &error),
                }
            }
        };
        tokio::select! {
            () = watched => {}
            moved = selector.changed() => if moved.is_err() { std::future::pending::<()>().await },
        }
    }
}

pub fn broke(what: &str, error: &watcher::Error) {
    tracing::warn!(error = error::chain(error), "the watch of {what} broke and begins again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::fixtures;

    /// A watch that can never list begins, fails, and begins again.
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_cannot_begin_is_tried_ever_more_slowly() {
        let failed = || Err(watcher::Error::NoResourceVersion);
        let endless = futures::stream::iter(0..).map(move |n| if n % 2 == 0 { Ok(Event::<Pod>::Init) } else { failed() });
        let begun = tokio::time::Instant::now();
        let mut events = std::pin::pin!(patient(endless));
        for _ in 0..20 {
            events.next().await;
        }
        assert_eq!(begun.elapsed().as_secs(), 1 + 2 + 4 + 8 + 16 + 32 + 4 * 60);
    }

    #[test]
    fn the_echo_of_our_own_status_is_no_news() {
        let mut changes = Changes::default();
        let mut object = fixtures::recovery("mend", &[5]);
        assert!(changes.is_news(&object));
        object.status = Some(api::SegmentRecoveryStatus::default());
        assert!(!changes.is_news(&object));
        object.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(changes.is_news(&object), "it is being deleted");
        object.metadata.generation = Some(2);
        assert!(changes.is_news(&object));
    }
}
