//! Whether the cluster's object and an instance's own pod agree on whom a Job asks, and as whom. Who may change the object
//! need not be one who may have a directory of that pod written over, or read a secret.

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec, Volume};
use kube::ResourceExt;

use super::places;
use api::GreenplumCluster;
use greenplum::Server;
use model::refusal::ContractPoint;

/// The variable that tells a supervisor, and a Job, whom to ask.
pub const COORDINATOR: &str = "GPHEAL_COORDINATOR";

/// Every point in which they do not agree.
pub fn points(pod: &Pod, cluster: &GreenplumCluster, ours: &Named) -> Vec<ContractPoint> {
    let container = &cluster.spec.segments.container;
    [other_coordinator(pod, container, ours), untold_coordinator(pod, container), foreign_secret(pod, cluster)]
        .into_iter()
        .flatten()
        .collect()
}

/// How a container is told whom to ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told<'a> {
    /// By a variable of its own.
    By(&'a EnvVar),
    /// By one of a ConfigMap or Secret whose variables it takes over, if at all; a Job takes them over, too.
    From,
    /// By nothing that a Job could be told.
    Nothing,
}

/// How this container is told whom to ask: a Job at its volume asks the same.
pub fn told(container: &Container) -> Told<'_> {
    let own = container.env.iter().flatten().rfind(|variable| variable.name == COORDINATOR); // of several the last one counts
    let taken_over = container.env_from.iter().flatten().next();
    own.map_or_else(|| taken_over.map_or(Told::Nothing, |_| Told::From), Told::By)
}

/// A supervisor that is told by its arguments or its image: its Job would be told by the cluster's object alone.
fn untold_coordinator(pod: &Pod, container: &str) -> Option<ContractPoint> {
    let container = places::container(pod, container).filter(|container| places::supervises(container))?;
    (told(container) == Told::Nothing).then_some(ContractPoint::CoordinatorUntold)
}

/// A Job carries a secret to where postgres of this pod could have carried it: one that the pod itself uses, or the one with
/// which the operator has asked already, which it may read.
fn foreign_secret(pod: &Pod, cluster: &GreenplumCluster) -> Option<ContractPoint> {
    let spec = &cluster.spec;
    let secret = &spec.job.credentials_secret.as_ref()?.name;
    let known = *secret == spec.coordinator.credentials_secret.name || pod.spec.as_ref().is_some_and(|spec| uses(spec, secret));
    (!known).then(|| ContractPoint::ForeignSecret { secret: secret.clone() })
}

/// Whether a pod mounts a secret or has variables of it.
fn uses(spec: &PodSpec, secret: &str) -> bool {
    let mounts = |volume: &Volume| {
        let whole = volume.secret.as_ref().and_then(|source| source.secret_name.as_deref());
        let parts = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        let mut parts = parts.filter_map(|source| Some(source.secret.as_ref()?.name.as_str()));
        whole == Some(secret) || parts.any(|name| name == secret)
    };
    let reads = |container: &Container| {
        let keys = container.env.iter().flatten().filter_map(|one| Some(&one.value_from.as_ref()?.secret_key_ref.as_ref()?.name));
        let all = container.env_from.iter().flatten().filter_map(|one| Some(&one.secret_ref.as_ref()?.name));
        keys.chain(all).any(|name| name == secret)
    };
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    spec.volumes.iter().flatten().any(mounts) || containers.any(reads)
}

/// The coordinator as the cluster names it.
#[derive(Debug)]
pub struct Named<'a> {
    /// `None`: by a Service, which leads to whom nobody here knows.
    host: Option<&'a str>,
    port: i32,
    namespace: String,
    /// The selected pods at that name or address.
    pods: Vec<&'a Pod>,
}

impl<'a> Named<'a> {
    pub fn by(cluster: &'a GreenplumCluster, pods: &'a [Pod]) -> Self {
        let host = cluster.spec.coordinator.host.as_deref();
        let at = |pod: &&Pod| host.is_some_and(|host| places::has_address(pod, host));
        let namespace = cluster.namespace().unwrap_or_default();
        Self { host, port: cluster.spec.coordinator.port, namespace, pods: pods.iter().filter(at).collect() }
    }

    /// The same by another name or by an address of the same pod.
    fn is(&self, entry: &str) -> bool {
        let Some(Server { host: name, port, .. }) = Server::parse(entry.trim()) else { return false };
        let same_name = self.host.is_some_and(|host| short(&name, &self.namespace) == short(host, &self.namespace));
        i32::from(port) == self.port && (same_name || self.pods.iter().any(|pod| places::has_address(pod, &name)))
    }
}

/// Whether a pod's supervisor asks another coordinator than the cluster names. What stands in a ConfigMap, or is made of other
/// variables, is not read.
fn other_coordinator(pod: &Pod, container: &str, ours: &Named) -> Option<ContractPoint> {
    let host = ours.host?;
    let Told::By(EnvVar { value: Some(theirs), .. }) = told(places::container(pod, container)?) else { return None };
    let same = theirs.contains("$(") || theirs.split(',').any(|entry| ours.is(entry));
    (!same).then(|| ContractPoint::OtherCoordinator { ours: format!("{host}:{}", ours.port), theirs: theirs.clone() })
}

/// A name of a cluster's DNS without what may be left out within its namespace.
fn short(host: &str, namespace: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let qualified = host.split_once(&format!(".{namespace}.svc")).map(|(head, _)| head.to_owned());
    qualified.or_else(|| host.strip_suffix(&format!(".{namespace}")).map(str::to_owned)).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observe::fixtures;

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        fixtures::pod("gp-mirror-0", change)
    }

    #[test]
    fn a_pod_that_asks_another_coordinator_than_the_cluster_is_told() {
        let differs = |theirs: Value, change: fn(&mut GreenplumCluster)| {
            let mut cluster = api::fixtures::cluster();
            change(&mut cluster);
            let segment = pod(|p| p["spec"]["containers"][0]["env"].as_array_mut().unwrap().push(theirs));
            let coordinator = fixtures::pod("gp-coordinator-0", |p| p["status"]["podIP"] = json!("10.244.1.9"));
            let pods = [segment.clone(), coordinator];
            other_coordinator(&segment, "greenplum", &Named::by(&cluster, &pods)).is_some()
        };
        let plain = |value: &str| json!({"name": "GPHEAL_COORDINATOR", "value": value});
        for same in [
            "gp-coordinator-0.gp:5432",
            "GP-coordinator-0.gp.demo:5432",
            "gp-standby-0.gp:5432,gp-coordinator-0.gp.demo.svc.cluster.local:5432",
            "10.244.1.9:5432",
            "$(COORDINATOR):5432",
        ] {
            assert!(!differs(plain(same), |_| ()), "{same}");
        }
        for other in
            ["gp-coordinator-0.gp:5433", "fake-0.gp:5432", "10.0.0.1:5432", "gp-coordinator-0.gp.elsewhere.svc:5432,fake-0.gp:5432"]
        {
            assert!(differs(plain(other), |_| ()), "{other}");
        }
        let ipv6: fn(&mut GreenplumCluster) = |cluster| cluster.spec.coordinator.host = Some("fd00::9".into());
        assert!(!differs(plain("[fd00::9]:5432"), ipv6) && differs(plain("[fd00::8]:5432"), ipv6));
        let by_address: fn(&mut GreenplumCluster) = |cluster| cluster.spec.coordinator.host = Some("10.244.1.9".into());
        assert!(!differs(plain("gp-coordinator-0.gp:5432"), by_address) && differs(plain("fake-0.gp:5432"), by_address));
        let by_service: fn(&mut GreenplumCluster) = |cluster| cluster.spec.coordinator.host = None;
        assert!(!differs(plain("fake-0.gp:5432"), by_service), "where a Service leads is not known");
        assert!(!differs(json!({"name": "GPHEAL_COORDINATOR", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}), |_| ()));
    }

    fn codes(pod: &Pod, cluster: &GreenplumCluster) -> String {
        let points = points(pod, cluster, &Named::by(cluster, &[]));
        points.iter().map(ContractPoint::code).collect::<Vec<_>>().join(",")
    }

    /// Each way in which a container may be told whom to ask, and what a Job is told by.
    #[test]
    fn whom_a_pod_asks_has_to_be_told_in_a_way_that_its_job_can_be_told_too() {
        let cluster = api::fixtures::cluster();
        let with = |env: Value, from: Value| {
            pod(|pod| {
                pod["spec"]["containers"][0]["env"] = env;
                pod["spec"]["containers"][0]["envFrom"] = from;
            })
        };
        let plain = json!([{"name": COORDINATOR, "value": "gp-coordinator-0.gp:5432"}]);
        let key = json!([{"name": COORDINATOR, "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]);
        let map = json!([{"configMapRef": {"name": "c"}}]);
        for (env, from, expected) in [
            (plain, json!([]), ""),
            (key, json!([]), ""),
            (json!([]), map, ""),
            (json!([]), json!([]), "CoordinatorUntold"),
            (json!([{"name": "GPHEAL_PORT", "value": "7000"}]), json!(null), "CoordinatorUntold"),
        ] {
            assert_eq!(codes(&with(env, from), &cluster), expected);
        }
        let unpatched = pod(|pod| {
            pod["spec"]["containers"][0]["env"] = json!([]);
            pod["spec"]["containers"][0]["command"] = json!(["/entrypoint.sh"]);
        });
        assert_eq!(codes(&unpatched, &cluster), "", "that it has no supervisor is what is told of it");
    }

    #[test]
    fn a_job_gets_no_secret_that_neither_its_pod_uses_nor_the_operator_reads() {
        let named = |secret: Option<&str>| {
            let mut cluster = api::fixtures::cluster();
            cluster.spec.coordinator.credentials_secret.name = "demo-gpheal-operator".into();
            cluster.spec.job =
                serde_json::from_value(secret.map_or(json!({}), |name| json!({"credentialsSecret": {"name": name}}))).unwrap();
            cluster
        };
        let volume = |volume: Value| pod(|pod| pod["spec"]["volumes"] = json!([volume]));
        let first = |key: &'static str, value: Value| pod(|pod| pod["spec"]["containers"][0][key].as_array_mut().unwrap().push(value));
        let from = pod(|pod| pod["spec"]["initContainers"][0]["envFrom"] = json!([{"secretRef": {"name": "demo-copy"}}]));
        let key = first("env", json!({"name": "X", "valueFrom": {"secretKeyRef": {"name": "demo-copy", "key": "k"}}}));
        for uses in [
            volume(json!({"name": "v", "secret": {"secretName": "demo-copy"}})),
            volume(json!({"name": "v", "projected": {"sources": [{"secret": {"name": "other"}}, {"secret": {"name": "demo-copy"}}]}})),
            from,
            key,
        ] {
            assert_eq!(codes(&uses, &named(Some("demo-copy"))), "");
        }
        for none in [
            volume(json!({"name": "demo-copy", "emptyDir": {}})),
            volume(json!({"name": "v", "configMap": {"name": "demo-copy"}})),
            pod(|pod| pod["spec"]["imagePullSecrets"] = json!([{"name": "demo-copy"}])),
        ] {
            assert_eq!(codes(&none, &named(Some("demo-copy"))), "ForeignSecret");
            assert_eq!(codes(&none, &named(Some("demo-gpheal-operator"))) + &codes(&none, &named(None)), "");
        }
    }
}
