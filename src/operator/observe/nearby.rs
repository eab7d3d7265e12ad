//! What is learned of the nodes: whether attempts that run are stuck, and whether pods have kernels of their own.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{
    Observer, Seen,
    kernel::{self, Neighbour},
    nodes::Node,
    stuck::Facts,
};
use model::{Dbid, JobState, Look, NoPage, Row, World, refusal::ContractPoint};

impl Observer {
    /// Adds it to what was seen.
    pub(super) async fn nearby(&mut self, seen: &mut Seen) {
        let names = asked_for(seen);
        self.nodes.look(&self.reader.client, &names).await;
        let mut jobs: Vec<_> = seen.jobs.values_mut().flat_map(BTreeMap::values_mut).collect();
        self.refusals.look(&self.reader, &mut jobs).await;
        self.stuck(seen);
        self.lost(seen);
        self.kernels(seen);
    }

    fn stuck(&mut self, seen: &mut Seen) {
        let Seen { world, jobs, .. } = seen;
        for (recovery, jobs) in jobs {
            for (dbid, job) in jobs {
                let node = job.node.as_deref().map_or_else(|| Node::Unknown("it has none yet".into()), |name| self.nodes.get(name));
                let instance_on = world.instances.get(dbid).and_then(|one| one.pod.seen()?.node.as_deref());
                let row = world.catalog.seen().and_then(|catalog| catalog.row(*dbid));
                let page = row.and_then(|row| world.page_of(row).ok());
                let hold = page.and_then(|page| page.hold.as_ref()).filter(|hold| hold.attempt == job.view.name);
                let heartbeat = hold.map(|hold| hold.heartbeat);
                self.memory.signs.judge(job, &Facts { node: &node, instance_on, heartbeat });
                let known = world.recoveries.iter_mut().find(|one| one.name == *recovery);
                if let Some(state) = known.and_then(|one| one.instances.get_mut(dbid)) {
                    state.job = Some(job.view.clone());
                }
            }
        }
    }

    /// A node that is known not to run pods, of an instance whose supervisor is silent.
    fn lost(&self, seen: &mut Seen) {
        for (dbid, pod) in &seen.pods {
            let (Some(name), Some(instance)) = (node_of(pod), seen.world.instances.get_mut(dbid)) else { continue };
            if matches!(instance.page, Look::Unknown(NoPage::Silent(_))) {
                instance.node_lost = match self.nodes.get(name) {
                    Node::Gone => Some(format!("its node {name} is not there any more")),
                    Node::Seen(node) if node.out_of_service => Some(format!("its node {name} is out of service")),
                    Node::Seen(node) if !node.ready => Some(format!("its node {name} is not ready")),
                    Node::Seen(_) | Node::Unknown(_) => None,
                };
            }
        }
    }

    fn kernels(&self, seen: &mut Seen) {
        let rows = seen.world.catalog.seen().map_or_else(Vec::new, |catalog| catalog.rows.clone());
        let boot = |world: &World, row: &Row| world.page_of(row).ok().and_then(|page| page.boot.clone());
        let neighbour = |row: &Row| {
            let (pod, boot) = (seen.pods.get(&row.dbid)?, boot(&seen.world, row)?);
            Some((node_of(pod)?.to_owned(), Neighbour { pod: pod.name_any(), classed: kernel::class(pod).is_some(), boot }))
        };
        let mut neighbours = BTreeMap::<String, Vec<Neighbour>>::new();
        for (node, one) in rows.iter().filter_map(neighbour) {
            neighbours.entry(node).or_default().push(one);
        }
        for row in rows.iter().filter(|row| row.content.0 >= 0) {
            let Some(pod) = seen.pods.get(&row.dbid) else { continue };
            let node = node_of(pod).map_or_else(|| Node::Unknown("it has none yet".into()), |name| self.nodes.get(name));
            let beside = node_of(pod).and_then(|name| neighbours.get(name)).map_or(&[][..], Vec::as_slice);
            let why = kernel::own(pod, boot(&seen.world, row).as_deref(), &node, beside);
            if let (Some(why), Some(instance)) = (why, seen.world.instances.get_mut(&row.dbid)) {
                instance.contract.push(ContractPoint::OwnKernel { why });
            }
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Those on which an attempt is at work, an instance is not well or its supervisor silent, or a runtime class may hide a kernel.
fn asked_for(seen: &Seen) -> BTreeSet<String> {
    let jobs = seen.jobs.values().flat_map(|jobs| jobs.values()).filter(|job| job.view.state == JobState::Active);
    let unwell = |dbid: &Dbid| seen.world.catalog.seen().and_then(|catalog| catalog.row(*dbid)).is_some_and(|row| !row.well());
    let silent = |dbid: &Dbid| seen.world.instances.get(dbid).is_some_and(|one| matches!(one.page, Look::Unknown(NoPage::Silent(_))));
    let pods = seen.pods.iter().filter(|(dbid, pod)| unwell(dbid) || silent(dbid) || kernel::class(pod).is_some());
    let of_pods = pods.filter_map(|(_, pod)| node_of(pod).map(str::to_owned));
    jobs.filter_map(|job| job.node.clone()).chain(of_pods).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tokio::{sync::Notify, time::Duration};

    use super::*;
    use crate::{
        apply::mock::Objects,
        observe::{
            fixtures::{self, job, job_pod},
            jobs::{self, Asked},
        },
    };
    use model::{Refusal, Repair, world::fixtures::running};

    fn node(boot: &str, ready: &str) -> serde_json::Value {
        json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": ready}],
            "nodeInfo": {"bootID": boot, "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}})
    }

    /// A down mirror on n1, whose supervisor tells boot id `b`, and an attempt at it that copies; its primary is on n2.
    fn seen() -> Seen {
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).page(5, |page| page.boot = Some("b".into()));
        let world = world.recovery(running("r", 5, 0, Repair::Full, JobState::Active));
        let primary = fixtures::pod("gp-primary-0", |pod| pod["spec"]["nodeName"] = json!("n2"));
        let asked = Asked { name: "r-d5-a1", recovery: "r", uid: "uid-r", dbid: Dbid(5), number: 1 };
        let worker = job_pod("r", 5, 1, |pod| pod["spec"]["nodeName"] = json!("n1"));
        let job = jobs::seen(&asked, Some(&job("r", 5, 1, |_| ())), &[worker]);
        Seen {
            world,
            pods: [(Dbid(2), Arc::new(primary)), (Dbid(5), Arc::new(fixtures::pod("gp-mirror-0", |_| ())))].into(),
            objects: BTreeMap::new(),
            jobs: [("r".to_owned(), [(Dbid(5), job)].into())].into(),
        }
    }

    fn contract(seen: &Seen) -> Vec<&'static str> {
        seen.world.instances[&Dbid(5)].contract.iter().map(ContractPoint::code).collect()
    }

    /// From the event of its controller to what the planner reads.
    #[tokio::test(start_paused = true)]
    async fn a_job_whose_pod_a_quota_refuses_says_so_within_seconds() {
        let objects = Objects::default();
        let note = "Error creating: pods \"r-d5-a1-x\" is forbidden: exceeded quota: small, requested: pods=1";
        let event = json!({"metadata": {}, "reason": "FailedCreate", "note": note, "eventTime": null});
        objects.put("/apis/events.k8s.io/v1/namespaces/demo/events", json!({"metadata": {}, "items": [event]}));
        let mut observer = Observer::new(objects.client(), "demo", Arc::new(Notify::new()));
        let podless = || {
            let asked = Asked { name: "r-d5-a1", recovery: "r", uid: "uid-r", dbid: Dbid(5), number: 1 };
            let made = job("r", 5, 1, |job| job["metadata"]["resourceVersion"] = json!("7"));
            Seen { jobs: [("r".to_owned(), [(Dbid(5), jobs::seen(&asked, Some(&made), &[]))].into())].into(), ..seen() }
        };
        let mut last = podless();
        observer.nearby(&mut last).await;
        let view = |seen: &Seen| seen.world.recoveries[0].instances[&Dbid(5)].job.clone().unwrap();
        assert_eq!(view(&last).refused, None, "it may yet be made");
        tokio::time::advance(Duration::from_secs(5)).await;
        last = podless();
        observer.nearby(&mut last).await;
        assert!(view(&last).refused.unwrap().starts_with("pods \"r-d5-a1-x\" is forbidden: exceeded quota"));
        let reasons = plan::plan(&model::Policy::default(), &last.world, jiff::Timestamp::now()).unwell;
        let codes: Vec<_> = reasons.iter().filter_map(|one| one.reason.refusal()).map(Refusal::code).collect();
        assert_eq!(codes, ["PodRefused"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_node_and_a_kernel_of_its_own_are_seen_and_only_nodes_that_matter_are_asked_for() {
        let objects = Objects::default();
        objects.put("/api/v1/nodes/n1", node("b", "True"));
        let mut observer = Observer::new(objects.client(), "demo", Arc::new(Notify::new()));
        assert_eq!(asked_for(&seen()), ["n1", "n2"].map(str::to_owned).into(), "both sides of a pair that is not in sync");
        let mut first = seen();
        observer.nearby(&mut first).await;
        assert!(contract(&first).is_empty());
        objects.put("/api/v1/nodes/n1", node("of the node", "Unknown"));
        let mut last = seen();
        for _ in 0..20 {
            tokio::time::advance(Duration::from_secs(10)).await;
            last = seen();
            observer.nearby(&mut last).await;
        }
        assert_eq!(contract(&last), ["OwnKernel"]);
        let told = last.world.recoveries[0].instances[&Dbid(5)].job.clone().unwrap();
        assert_eq!((told.stuck.as_deref(), told.begun), (Some("its node n1 is not ready"), true));
        let refusal = Refusal::ContractNotFulfilled { points: last.world.instances[&Dbid(5)].contract.clone() };
        assert!(refusal.needs_a_person() && !refusal.is_final(), "a person's order waits, for one of two reads may be old");
    }
}
