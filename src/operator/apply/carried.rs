//! What a Job takes over from the segment's pod besides its container: folders that are named by the pod, and what init
//! containers have put into folders that live as long as the pod.

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec, VolumeMount};
use kube::ResourceExt;

use crate::observe::lacks;

/// The mounts of a container as they are in the segment's pod. `subPathExpr` may be made of the pod's name; in the Job's pod it
/// would name another folder, and an empty one is made where there is none.
pub fn mounts(pod: &Pod, container: &Container) -> Vec<VolumeMount> {
    let one = |mount: &VolumeMount| match mount.sub_path_expr.as_deref().map(|text| expanded(text, |name| variable(pod, container, name))) {
        None => mount.clone(),
        Some(Expanded::Whole(path)) => VolumeMount { sub_path: Some(path), sub_path_expr: None, ..mount.clone() },
        Some(Expanded::Left(expression)) => VolumeMount { sub_path_expr: Some(expression), ..mount.clone() },
    };
    container.volume_mounts.iter().flatten().map(one).collect()
}

/// The variables of which a container's mounts are still made, so that its environment has to have them.
pub fn names_in(mounts: &[VolumeMount], name: &str) -> bool {
    mounts.iter().filter_map(|mount| mount.sub_path_expr.as_ref()).any(|text| text.contains(&format!("$({name})")))
}

/// Copies of the init containers that have filled a folder which the segment's container has mounted: settings or libraries
/// that its postgres wants. What the others have filled, a Job lacks, and the cluster's status says so.
pub fn fillers(pod: &Pod, theirs: &PodSpec, mounted: &[VolumeMount], token: &str) -> Vec<Container> {
    let (run, _) = lacks::fillers(theirs, mounted);
    run.into_iter().map(|container| copied(pod, container, token)).collect()
}

/// It is told of the segment's pod what it was told there: what it fills is for that one. It gets no token.
fn copied(pod: &Pod, container: &Container, token: &str) -> Container {
    let told = |variable: &EnvVar| {
        let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
        match field.and_then(|field| field_of(pod, &field.field_path)) {
            Some(value) => EnvVar { name: variable.name.clone(), value: Some(value), value_from: None },
            None => variable.clone(),
        }
    };
    let env = container.env.as_ref().map(|env| env.iter().map(told).collect());
    let mounts = mounts(pod, container).into_iter().filter(|mount| mount.mount_path.trim_end_matches('/') != token);
    Container { env, volume_mounts: Some(mounts.collect()), ..container.clone() }
}

/// The value of a container's variable, where it is known without asking for a ConfigMap or a Secret.
fn variable(pod: &Pod, container: &Container, name: &str) -> Option<String> {
    let env = container.env.as_deref().unwrap_or_default();
    let at = env.iter().rposition(|variable| variable.name == name)?; // of several the last one counts
    match (&env[at].value, &env[at].value_from) {
        (Some(text), _) => {
            let before = Container { env: Some(env[..at].to_vec()), ..Container::default() };
            match expanded(text, |name| variable(pod, &before, name)) {
                Expanded::Whole(value) => Some(value),
                Expanded::Left(_) => None,
            }
        }
        (None, Some(from)) => field_of(pod, &from.field_ref.as_ref()?.field_path),
        (None, None) => Some(String::new()),
    }
}

/// A field of a pod as the downward API gives it.
fn field_of(pod: &Pod, path: &str) -> Option<String> {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let key = |map: &str| path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = key("metadata.labels") {
        return Some(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = key("metadata.annotations") {
        return Some(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => spec?.service_account_name.clone(),
        "status.podIP" => status?.pod_ip.clone(),
        "status.hostIP" => status?.host_ip.clone(),
        _ => None, // a field of a Kubernetes to come: the kubelet knows it
    }
}

/// What became of a text with `$(NAME)` in it.
#[derive(Debug, PartialEq, Eq)]
enum Expanded {
    Whole(String),
    /// Not every name is known; those that are have been replaced, and the kubelet is left the rest.
    Left(String),
}

/// As Kubernetes does it: `$$` is a `$` that begins nothing.
fn expanded(text: &str, value: impl Fn(&str) -> Option<String>) -> Expanded {
    let (mut whole, mut left, mut rest, mut known) = (String::new(), String::new(), text, true);
    while let Some((before, from)) = rest.split_once('$') {
        whole.push_str(before);
        left.push_str(before);
        let named = from.strip_prefix('(').and_then(|from| from.split_once(')'));
        (rest, known) = match (from.strip_prefix('$'), named) {
            (Some(after), _) => {
                whole.push('$');
                left.push_str("$$");
                (after, known)
            }
            (None, Some((name, after))) => {
                let found = value(name);
                left.push_str(&found.as_ref().map_or_else(|| format!("$({name})"), |value| value.replace('$', "$$")));
                whole.push_str(found.as_deref().unwrap_or_default());
                (after, known && found.is_some())
            }
            (None, None) => {
                whole.push('$');
                left.push('$');
                (from, known)
            }
        };
    }
    whole.push_str(rest);
    left.push_str(rest);
    if known { Expanded::Whole(whole) } else { Expanded::Left(left) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observe::fixtures;

    #[test]
    fn an_expression_is_expanded_as_kubernetes_does_it() {
        let known = |name: &str| (name == "A").then(|| "a$".to_owned());
        for (text, whole) in [("x", "x"), ("$(A)/x", "a$/x"), ("$$(A)", "$(A)"), ("$A$", "$A$"), ("$(A", "$(A"), ("$$$(A)", "$a$")] {
            assert_eq!(expanded(text, known), Expanded::Whole(whole.into()), "{text}");
        }
        assert_eq!(expanded("$(A)/$(B)/$$", known), Expanded::Left("a$$/$(B)/$$".into()));
    }

    fn pod_with(env: Value, expression: &str) -> Pod {
        fixtures::pod("gp-mirror-0", |pod| {
            pod["spec"]["containers"][0]["env"] = env;
            pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data", "subPathExpr": expression}]);
        })
    }

    fn mount(env: Value, expression: &str) -> (Option<String>, Option<String>) {
        let pod = pod_with(env, expression);
        let mount = mounts(&pod, &pod.spec.as_ref().unwrap().containers[0]).remove(0);
        (mount.sub_path, mount.sub_path_expr)
    }

    #[test]
    fn a_folder_that_the_pods_name_is_part_of_is_that_of_the_segment() {
        let field = |path: &str| json!({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let within = |env| mount(env, "of/$(X)");
        assert_eq!(within(json!([field("metadata.name")])), (Some("of/gp-mirror-0".into()), None));
        assert_eq!(within(json!([field("metadata.labels['app.kubernetes.io/name']")])), (Some("of/greenplum".into()), None));
        assert_eq!(within(json!([field("spec.nodeName")])), (Some("of/n1".into()), None));
        let named = json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}});
        assert_eq!(within(json!([named, {"name": "X", "value": "$(A)-x"}])), (Some("of/demo-x".into()), None));
        let key = json!({"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}});
        assert_eq!(within(json!([key])), (None, Some("of/$(X)".into())), "the Job's container has the same variable");
        assert_eq!(within(json!([])), (None, Some("of/$(X)".into())));
    }

    fn fill(change: impl FnOnce(&mut Value)) -> Vec<Container> {
        let pod = fixtures::pod("gp-mirror-0", |pod| {
            let filler = json!({"name": "settings", "image": "x", "env": [
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "volumeMounts": [{"name": "etc", "mountPath": "/etc/gp"}, {"name": "credentials", "mountPath": "/c", "readOnly": true},
                    {"name": "kube-api-access-x", "mountPath": "/token"}]});
            pod["spec"]["initContainers"].as_array_mut().unwrap().push(filler);
            pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "etc", "emptyDir": {}}));
            let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
            mounts.push(json!({"name": "etc", "mountPath": "/etc/gp"}));
            change(pod);
        });
        let spec = pod.spec.as_ref().unwrap();
        fillers(&pod, spec, &mounts(&pod, &spec.containers[0]), "/token")
    }

    #[test]
    fn what_an_init_container_fills_for_postgres_it_fills_for_the_job_too() {
        let fillers = fill(|_| ());
        let names: Vec<_> = fillers.iter().map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["settings"], "gpheal's own installer is no filler");
        assert_eq!(fillers[0].env.as_ref().unwrap()[0].value.as_deref(), Some("gp-mirror-0"), "as who the segment is");
        let mounts: Vec<_> = fillers[0].volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
        assert_eq!(mounts, ["etc", "credentials"], "no token");
    }

    /// Beside a postgres that may run.
    #[test]
    fn an_init_container_that_could_touch_the_data_is_not_run() {
        let changed = |change: fn(&mut Value)| fill(|pod| change(&mut pod["spec"]["initContainers"][1])).len();
        let data = json!({"name": "data", "mountPath": "/data"});
        assert_eq!(fill(|pod| pod["spec"]["initContainers"][1]["volumeMounts"].as_array_mut().unwrap().push(data)).len(), 0);
        assert_eq!(changed(|container| container["securityContext"] = json!({"privileged": true})), 0);
        assert_eq!(changed(|container| container["restartPolicy"] = json!("Always")), 0, "a sidecar");
        assert_eq!(changed(|container| container["volumeMounts"] = json!([])), 0, "it fills nothing");
        assert_eq!(
            changed(|container| container["volumeMounts"] = json!([{"name": "gpheal-bin", "mountPath": "/b", "readOnly": true}])),
            0
        );
        let host = json!([{"name": "etc", "hostPath": {"path": "/etc"}}]);
        assert_eq!(fill(|pod| pod["spec"]["volumes"] = host).len(), 0);
    }
}
