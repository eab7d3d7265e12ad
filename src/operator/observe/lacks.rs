//! What a Job at an instance would lack of what its pod has: told before the day on which one is made.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume, VolumeMount};

use super::places;
use api::{GreenplumCluster, cluster::InitContainers};

/// What meshes call the container through which the connections of a pod go.
const PROXIES: &[&str] = &["istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"];

/// What its Jobs would lack, in words; `None`: nothing that can be seen here.
pub fn lacks(pod: &Pod, cluster: &GreenplumCluster) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let container = places::container(pod, &cluster.spec.segments.container)?;
    let all: Vec<_> = left_out(spec, container, cluster).into_iter().chain(outside_of_mesh(spec, cluster)).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Nothing is left out that the cluster's object says is not needed.
fn left_out(spec: &PodSpec, container: &Container, cluster: &GreenplumCluster) -> Option<String> {
    match cluster.spec.job.init_containers {
        InitContainers::Omit => return None,
        InitContainers::Copy => {}
    }
    let (_, left_out) = fillers(spec, container.volume_mounts.as_deref().unwrap_or_default());
    let names: Vec<_> = left_out.iter().map(|container| container.name.as_str()).collect();
    let names = (!names.is_empty()).then(|| names.join(", "))?;
    Some(format!(
        "what the init containers of its pod have put into folders that its postgres has mounted ({names}): a Job runs none that is \
         privileged, or has mounted what outlives the pod"
    ))
}

/// Where only members of the mesh are let in, a Job that is none reaches nobody.
fn outside_of_mesh(spec: &PodSpec, cluster: &GreenplumCluster) -> Option<String> {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let proxy = all.map(|container| container.name.as_str()).find(|name| PROXIES.contains(name))?;
    let job = &cluster.spec.job;
    let is_said = job.annotations.keys().chain(job.labels.keys()).any(|key| key.contains("inject"));
    (!is_said).then(|| format!("the proxy of a service mesh ({proxy}), without which strict mTLS lets nobody in"))
}

/// Whether an init container installs gpheal: a Job has an installer of its own.
pub fn installs(container: &Container) -> bool {
    let words = container.command.iter().flatten().chain(container.args.iter().flatten());
    words.clone().any(|word| word == "install") && words.clone().any(|word| word.ends_with("gpheal"))
}

/// The init containers that have filled a folder which is mounted: those that could do nothing else, and the others. One that
/// mounts the volume of the data, too, has prepared it for a postgres that was about to start, and a Job's pod begins beside
/// one that may run.
pub fn fillers<'a>(theirs: &'a PodSpec, mounted: &[VolumeMount]) -> (Vec<&'a Container>, Vec<&'a Container>) {
    let all = theirs.init_containers.iter().flatten();
    let fills = |container: &&Container| {
        let mut mounts = container.volume_mounts.iter().flatten().filter(|mount| mount.read_only != Some(true));
        mounts.any(|mount| is_of(theirs, mount, |volume| volume.empty_dir.is_some()) && mounted.iter().any(|one| one.name == mount.name))
    };
    let needed = all.filter(|container| !installs(container) && container.restart_policy.is_none()).filter(fills);
    needed.partition(|container| is_harmless(theirs, container))
}

fn is_of(theirs: &PodSpec, mount: &VolumeMount, holds: impl Fn(&Volume) -> bool) -> bool {
    theirs.volumes.iter().flatten().any(|volume| volume.name == mount.name && holds(volume))
}

/// It writes to nothing that outlives its pod, and is not the node's master.
fn is_harmless(theirs: &PodSpec, container: &Container) -> bool {
    let passing = |volume: &Volume| {
        volume.empty_dir.is_some()
            || volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some()
    };
    let privileged = container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
    let devices = container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty());
    !privileged && !devices && container.volume_mounts.iter().flatten().all(|mount| is_of(theirs, mount, passing))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observe::fixtures;
    use api;

    fn told(change: impl FnOnce(&mut Value), job: Value) -> Option<String> {
        let pod = fixtures::pod("gp-mirror-0", |pod| {
            pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "etc", "emptyDir": {}}));
            pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "etc", "mountPath": "/etc/gp"}));
            change(pod);
        });
        let mut cluster = api::fixtures::cluster();
        cluster.spec.job = serde_json::from_value(job).unwrap();
        lacks(&pod, &cluster)
    }

    fn initialised(by: Value) -> impl FnOnce(&mut Value) {
        move |pod: &mut Value| pod["spec"]["initContainers"].as_array_mut().unwrap().push(by)
    }

    /// The usual one makes the database and the settings.
    #[test]
    fn an_init_container_that_a_job_does_not_run_is_told() {
        let mounts = |names: &[&str]| names.iter().map(|name| json!({"name": name, "mountPath": "/x"})).collect::<Vec<_>>();
        let of = |names: &[&str]| json!({"name": "prepare", "image": "x", "volumeMounts": mounts(names)});
        let lacked = told(initialised(of(&["etc", "data"])), json!({})).unwrap();
        assert!(lacked.contains("(prepare)"), "{lacked}");
        assert_eq!(told(initialised(of(&["etc", "data"])), json!({"initContainers": "Omit"})), None, "it is known not to be needed");
        assert_eq!(told(initialised(of(&["etc"])), json!({})), None, "a Job runs it, too");
        assert_eq!(told(initialised(of(&["data"])), json!({})), None, "the volume is what it was for");
        assert_eq!(told(|_| (), json!({})), None);
    }

    #[test]
    fn the_proxy_of_a_mesh_is_told_until_the_spec_says_whether_a_job_has_one() {
        let proxy = || json!({"name": "istio-proxy", "image": "x", "restartPolicy": "Always"});
        let beside =
            |pod: &mut Value| pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "linkerd-proxy", "image": "x"}));
        assert!(told(initialised(proxy()), json!({})).unwrap().contains("istio-proxy"));
        assert!(told(beside, json!({})).unwrap().contains("linkerd-proxy"));
        for said in [json!({"annotations": {"sidecar.istio.io/inject": "false"}}), json!({"labels": {"sidecar.istio.io/inject": "true"}})] {
            assert_eq!(told(initialised(proxy()), said), None);
        }
        assert!(told(initialised(proxy()), json!({"annotations": {"team": "dba"}})).is_some());
    }
}
