//! A container of a pod, and its processes as the host sees them.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::bed::{Bed, Layout, Node, command::run, node::ctr, proc};

/// A container by the identity of its pod; it stays the same when the kubelet
/// starts the container anew.
#[derive(Clone, Debug)]
pub struct Container {
    layout: Layout,
    node: Node,
    pod: String,
    uid: String,
    name: String,
}

impl Container {
    pub async fn find(bed: &Bed, namespace: &str, pod: &str, name: &str) -> Result<Self> {
        let object = Api::<Pod>::namespaced(bed.client()?, namespace).get(pod).await;
        let object = object.with_context(|| format!("cannot read the pod {namespace}/{pod}"))?;
        let spec = object.spec.unwrap_or_default();
        ensure!(spec.containers.iter().any(|container| container.name == name), "the pod {namespace}/{pod} has no container {name:?}");
        let node = spec.node_name.with_context(|| format!("the pod {namespace}/{pod} has no node yet"))?;
        let uid = object.metadata.uid.unwrap_or_default();
        Ok(Self { layout: bed.layout().clone(), node: Node::named(&node)?, pod: pod.to_owned(), uid, name: name.to_owned() })
    }

    pub fn node(&self) -> Node {
        self.node
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// For messages.
    pub fn shown(&self) -> String {
        format!("{} of pod {} on {}", self.name, self.pod, self.node)
    }

    /// What tells this container from all others in a file name.
    pub fn key(&self) -> String {
        format!("{}-{}", self.uid, self.name)
    }

    /// The pids of all its processes, of a run that ends and of one that
    /// begins too. The runtime knows them, whatever the kubelet has reported.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let runs = self.runs()?;
        let of_pod = format!("pod{}/", self.uid);
        let is_ours = |pid: &i32| runs.iter().any(|run| proc::in_cgroup(*pid, &format!("{of_pod}{run}")));
        Ok(proc::all().into_iter().filter(is_ours).collect())
    }

    /// Its processes that run the program `postgres`.
    pub fn postgres(&self) -> Result<Vec<i32>> {
        let all = self.processes()?.into_iter();
        Ok(all.filter(|pid| proc::program(*pid).as_deref() == Some("postgres")).collect())
    }

    /// The postgres process that the container's first process started.
    pub fn postmaster(&self) -> Result<i32> {
        let first: HashSet<i32> = self.processes()?.into_iter().filter(|pid| proc::inner_pid(*pid) == Some(1)).collect();
        let started_by_first = |pid: &i32| first.contains(pid) || proc::stat(*pid).is_some_and(|stat| first.contains(&stat.parent));
        let found = self.postgres()?.into_iter().find(started_by_first);
        found.with_context(|| format!("no postmaster runs in the container {}", self.shown()))
    }

    fn runs(&self) -> Result<Vec<String>> {
        let filter = format!("labels.\"io.kubernetes.pod.uid\"=={},labels.\"io.kubernetes.container.name\"=={}", self.uid, self.name);
        let listed = run(ctr(&self.layout, self.node).args(["containers", "list", "--quiet", &filter]));
        let listed = listed.with_context(|| format!("the container runtime of {} does not answer", self.node))?;
        Ok(listed.lines().map(str::to_owned).collect())
    }
}
