//! Who is woken when something of a cluster has changed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::report::metrics::Of;

/// Who is woken for which cluster.
#[derive(Clone, Debug, Default)]
pub struct Wakers(Arc<Mutex<BTreeMap<Of, Arc<Notify>>>>);

impl Wakers {
    /// Has a cluster looked at now. `false`: nobody drives a cluster of that name.
    pub fn wake(&self, namespace: Option<String>, cluster: &str) -> bool {
        let of = Of { namespace: namespace.unwrap_or_default(), cluster: cluster.to_owned() };
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&of).map(|waker| waker.notify_one()).is_some()
    }

    /// The waker of a cluster, made when it is first asked for.
    pub fn of(&self, of: &Of) -> Arc<Notify> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(of.clone()).or_default().clone()
    }

    /// Nobody drives it any more.
    pub fn forget(&self, of: &Of) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(of);
    }
}
