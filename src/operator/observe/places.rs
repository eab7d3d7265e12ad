//! Which pod is the place of which catalog row, and whether it fulfils the contract of a segment pod
//! (docs/attach.md#the-contract-of-a-segment-pod).

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume, VolumeMount};
use kube::ResourceExt;

use api::labels;
use model::{Catalog, Dbid, Row, refusal::ContractPoint, world::PodSeen};

/// The pods of one row.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    One(&'a Pod),
    None,
    Several(Vec<&'a Pod>),
}

/// The place of every row.
pub fn places<'a>(catalog: &Catalog, pods: &'a [Pod]) -> BTreeMap<Dbid, Place<'a>> {
    let addresses = Addresses::of(pods);
    catalog.rows.iter().map(|row| (row.dbid, place(row, &addresses))).collect()
}

/// Pods by what they are called: with a thousand contents no row is held against every pod.
struct Addresses<'a> {
    namespace: String,
    by_name: HashMap<String, Vec<&'a Pod>>,
}

impl<'a> Addresses<'a> {
    /// Of the pods of one namespace. A Job's pod is no instance, whatever it is called.
    fn of(pods: &'a [Pod]) -> Self {
        let mut by_name: HashMap<String, Vec<&Pod>> = HashMap::new();
        for pod in pods.iter().filter(|pod| !pod.labels().contains_key(labels::RECOVERY)) {
            let mut names = ips(pod);
            if let Some(PodSpec { subdomain: Some(subdomain), hostname, .. }) = &pod.spec {
                names.extend(hostname.iter().chain([&pod.name_any()]).map(|host| format!("{host}.{subdomain}")));
            }
            names.sort_unstable();
            names.dedup();
            for name in names {
                by_name.entry(name).or_default().push(pod);
            }
        }
        Self { namespace: pods.first().and_then(ResourceExt::namespace).unwrap_or_default(), by_name }
    }

    /// The pods that have an address. What may be left out of it is tried, and the pod has the last word.
    fn at(&self, address: &str) -> Vec<&'a Pod> {
        let name = address.trim_end_matches('.').to_ascii_lowercase();
        let within = format!(".{}", self.namespace);
        let heads = name.match_indices(&within).filter_map(|(at, _)| name.get(..at));
        let mut found: Vec<&Pod> = vec![];
        for pod in heads.chain([name.as_str()]).filter_map(|name| self.by_name.get(name)).flatten() {
            if has_address(pod, address) && !found.iter().any(|known| std::ptr::eq(*known, *pod)) {
                found.push(pod);
            }
        }
        found
    }
}

fn place<'a>(row: &Row, addresses: &Addresses<'a>) -> Place<'a> {
    let by_address = addresses.at(&row.address);
    let mut found = if by_address.is_empty() { addresses.at(&row.hostname) } else { by_address };
    if found.len() > 1 {
        found.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    }
    match found[..] {
        [] => Place::None,
        [one] => Place::One(one),
        _ => Place::Several(found),
    }
}

/// A pod's addresses: `NAME.SUBDOMAIN` or `HOSTNAME.SUBDOMAIN`, either with the namespace and whatever the
/// cluster's domain is, or its IP.
pub(super) fn has_address(pod: &Pod, address: &str) -> bool {
    let address = address.trim_end_matches('.').to_ascii_lowercase();
    if ips(pod).contains(&address) {
        return true;
    }
    let spec = pod.spec.as_ref();
    let Some(subdomain) = spec.and_then(|spec| spec.subdomain.as_deref()) else { return false };
    let hostname = spec.and_then(|spec| spec.hostname.as_deref());
    let namespace = pod.namespace().unwrap_or_default();
    let matches = |host: &str| {
        let Some(rest) = address.strip_prefix(&format!("{host}.{subdomain}")) else { return false };
        let within = format!(".{namespace}");
        let qualified = format!(".{namespace}.svc");
        rest.is_empty() || rest == within || rest == qualified || rest.starts_with(&format!("{qualified}."))
    };
    hostname.is_some_and(matches) || matches(&pod.name_any())
}

/// All addresses of a pod.
pub fn ips(pod: &Pod) -> Vec<String> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.clone()).unwrap_or_default();
    let mut ips: Vec<String> = all.into_iter().map(|ip| ip.ip).collect();
    if let Some(ip) = status.and_then(|status| status.pod_ip.clone()).filter(|ip| !ips.contains(ip)) {
        ips.insert(0, ip);
    }
    ips
}

/// What the planner needs of a pod.
pub fn seen(pod: &Pod) -> PodSeen {
    PodSeen { name: pod.name_any(), ips: ips(pod), node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) }
}

/// The container in which postgres runs.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    pod.spec.as_ref()?.containers.iter().find(|container| container.name == name)
}

/// The port of the supervisor's page.
pub fn page_port(pod: &Pod) -> u16 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let named = containers.flat_map(|c| c.ports.iter().flatten()).find(|port| port.name.as_deref() == Some("gpheal"));
    named.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(8090)
}

/// The mount on which a path lies: the deepest.
pub fn mount_of<'a>(container: &'a Container, path: &str) -> Option<&'a VolumeMount> {
    let within = |mount: &&VolumeMount| {
        let root = mount.mount_path.trim_end_matches('/');
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    container.volume_mounts.iter().flatten().filter(within).max_by_key(|mount| mount.mount_path.len())
}

/// A volume of a pod, by its name there.
pub fn volume<'a>(pod: &'a Pod, name: &str) -> Option<&'a Volume> {
    pod.spec.as_ref()?.volumes.iter().flatten().find(|volume| volume.name == name)
}

/// The claim on which a row's data directory lies.
pub fn claim<'a>(pod: &'a Pod, container: &str, datadir: &str) -> Option<&'a str> {
    let mount = mount_of(self::container(pod, container)?, datadir)?;
    Some(volume(pod, &mount.name)?.persistent_volume_claim.as_ref()?.claim_name.as_str())
}

/// Points of the contract that a row's place does not fulfil.
pub fn contract(row: &Row, place: &Place, container: &str) -> Vec<ContractPoint> {
    match place {
        Place::None => vec![ContractPoint::NoPod { address: row.address.clone() }],
        Place::Several(pods) => {
            let names: Vec<_> = pods.iter().map(|pod| pod.name_any()).collect();
            vec![ContractPoint::TwoPods { pods: names.join(", ") }]
        }
        Place::One(pod) => contract_of(row, pod, container),
    }
}

fn contract_of(row: &Row, pod: &Pod, name: &str) -> Vec<ContractPoint> {
    let mut points = vec![];
    let spec = pod.spec.as_ref();
    match container(pod, name) {
        None => points.push(ContractPoint::NoSuchContainer { container: name.to_owned() }),
        Some(container) => points.extend(contract_of_container(row, pod, container)),
    }
    if spec.and_then(|spec| spec.share_process_namespace) == Some(true) {
        points.push(ContractPoint::SharedProcessNamespace);
    }
    if spec.and_then(|spec| spec.host_pid) == Some(true) {
        points.push(ContractPoint::HostPid);
    }
    points
}

/// Its command is the supervisor.
pub fn supervises(container: &Container) -> bool {
    let mut words = container.command.iter().flatten().chain(container.args.iter().flatten());
    words.any(|word| word == "supervise")
}

fn contract_of_container(row: &Row, pod: &Pod, container: &Container) -> Vec<ContractPoint> {
    let mut points = vec![];
    if !supervises(container) {
        points.push(ContractPoint::NoSupervisor);
    }
    let mount = mount_of(container, &row.datadir);
    let claimed = mount.and_then(|mount| volume(pod, &mount.name)).is_some_and(|volume| volume.persistent_volume_claim.is_some());
    if !claimed {
        points.push(ContractPoint::NoClaim);
    } else if mount.is_some_and(|mount| mount.mount_path.trim_end_matches('/') == row.datadir.trim_end_matches('/')) {
        points.push(ContractPoint::DataDirIsMountRoot);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixtures;
    use model::world::fixtures::row;
    use serde_json::{Value, json};

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        fixtures::pod("gp-mirror-0", change)
    }

    fn at(address: &str) -> Row {
        Row { address: address.into(), hostname: "elsewhere".into(), ..row("5:0mmnd") }
    }

    #[test]
    fn an_address_is_found_in_all_its_forms() {
        let pods = [pod(|_| ())];
        for address in [
            "gp-mirror-0.gp",
            "gp-mirror-0.gp.demo",
            "gp-mirror-0.gp.demo.svc",
            "gp-mirror-0.gp.demo.svc.cluster.local",
            "GP-Mirror-0.gp.demo.svc.k8s.example.org.",
            "10.244.1.5",
        ] {
            assert!(matches!(place(&at(address), &Addresses::of(&pods)), Place::One(_)), "{address}");
        }
        for address in ["gp-mirror-0", "gp-mirror-0.gpx", "gp-mirror-0.gp.other", "gp-mirror-1.gp", "gp-mirror-0.gp.demo.svcs"] {
            assert!(matches!(place(&at(address), &Addresses::of(&pods)), Place::None), "{address}");
        }
    }

    #[test]
    fn the_hostname_of_a_row_serves_when_its_address_does_not() {
        let row = Row { hostname: "gp-mirror-0.gp".into(), ..at("10.9.9.9") };
        assert!(matches!(place(&row, &Addresses::of(&[pod(|_| ())])), Place::One(_)));
    }

    #[test]
    fn two_pods_are_told_and_a_job_is_never_taken_for_the_instance() {
        let twins = [pod(|_| ()), pod(|p| p["metadata"]["name"] = json!("twin"))];
        let twins = twins.map(|mut pod| {
            pod.spec.as_mut().unwrap().hostname = Some("gp-mirror-0".into());
            pod
        });
        let row = at("gp-mirror-0.gp");
        assert_eq!(contract(&row, &place(&row, &Addresses::of(&twins)), "greenplum")[0].code(), "TwoPods");
        let job = [pod(|p| p["metadata"]["labels"][labels::RECOVERY] = json!("r"))];
        assert_eq!(contract(&row, &place(&row, &Addresses::of(&job)), "greenplum")[0].code(), "NoPod");
    }

    #[test]
    fn each_point_of_the_contract_is_checked() {
        let row = at("gp-mirror-0.gp");
        let points = |change: fn(&mut Value), container: &str| {
            let pods = [pod(change)];
            let found = contract(&row, &place(&row, &Addresses::of(&pods)), container);
            found.iter().map(ContractPoint::code).collect::<Vec<_>>().join(",")
        };
        assert_eq!(points(|_| (), "greenplum"), "");
        assert_eq!(points(|_| (), "postgres"), "NoSuchContainer");
        assert_eq!(points(|p| p["spec"]["containers"][0]["command"] = json!(["/entrypoint.sh"]), "greenplum"), "NoSupervisor");
        assert_eq!(
            points(|p| p["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] = json!("/data/gpseg"), "greenplum"),
            "DataDirIsMountRoot"
        );
        assert_eq!(points(|p| p["spec"]["volumes"][0] = json!({"name": "data", "emptyDir": {}}), "greenplum"), "NoClaim");
        assert_eq!(points(|p| p["spec"]["shareProcessNamespace"] = json!(true), "greenplum"), "SharedProcessNamespace");
        assert_eq!(points(|p| p["spec"]["hostPID"] = json!(true), "greenplum"), "HostPid");
    }

    /// Two thousand rows were held against two thousand pods, one by one, in each look.
    #[test]
    fn a_thousand_contents_find_their_pods_without_a_look_at_every_pod_for_every_row() {
        let pods: Vec<Pod> = (0..2000)
            .map(|n| fixtures::pod(&format!("gp-{n}"), |p| p["status"] = json!({"podIP": format!("10.1.{}.{}", n / 250, n % 250)})))
            .collect();
        let row = |n: i16| Row { dbid: Dbid(n), ..at(&format!("gp-{n}.gp.demo.svc.cluster.local")) };
        let catalog = Catalog { rows: (0..2000).map(row).collect() };
        let begun = std::time::Instant::now();
        let places = places(&catalog, &pods);
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
        let right = |n: &i16| matches!(places[&Dbid(*n)], Place::One(pod) if pod.name_any() == format!("gp-{n}"));
        assert!((0..2000).all(|n| right(&n)));
    }

    #[test]
    fn the_page_is_on_the_port_of_that_name() {
        assert_eq!(page_port(&pod(|_| ())), 8090);
        let moved = json!([{"name": "gpheal", "containerPort": 9999}]);
        assert_eq!(page_port(&pod(|p| p["spec"]["containers"][0]["ports"] = moved)), 9999);
    }
}
