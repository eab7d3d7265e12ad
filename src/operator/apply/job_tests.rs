use serde_json::{Value, json};

use super::*;
use crate::observe::fixtures::pod;
use api::fixtures;
use model::{Repair, world::fixtures as worlds};

const CORDONED: &str = "node.kubernetes.io/unschedulable";

fn attempt() -> Attempt {
    worlds::attempt(Repair::Full)
}

fn made_from(cluster: &GreenplumCluster, pod: &Pod, image: Option<&str>) -> Result<Value, JobError> {
    let (recovery, attempt) = (fixtures::recovery("mend", &[5]), attempt());
    let job = job(&Plan { cluster, recovery: &recovery, attempt: &attempt, pod, image })?;
    Ok(serde_json::to_value(job).unwrap())
}

fn made(change: impl FnOnce(&mut Value)) -> Value {
    made_from(&fixtures::cluster(), &pod("gp-mirror-0", change), Some("gpheal:1")).unwrap()
}

fn names<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap()).collect()
}

#[test]
fn it_is_ours_runs_once_and_goes_with_its_recovery() {
    let job = made(|_| ());
    assert_eq!(job["metadata"]["name"], "mend-d5-a1");
    let owner = &job["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"], &owner["controller"]), (&json!("SegmentRecovery"), &json!("uid-mend"), &json!(true)));
    assert_eq!(owner["blockOwnerDeletion"], true);
    let spec = &job["spec"];
    assert_eq!((&spec["backoffLimit"], &spec["podReplacementPolicy"]), (&json!(0), &json!("Failed")));
    let pod = &spec["template"]["spec"];
    assert_eq!((&pod["restartPolicy"], &pod["automountServiceAccountToken"]), (&json!("Never"), &json!(false)));
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    let labels = spec["template"]["metadata"]["labels"].as_object().unwrap();
    assert_eq!(labels["app.kubernetes.io/name"], "gpheal", "never the segment's labels");
    assert!(!labels.contains_key("app.kubernetes.io/instance"));
    assert_eq!((&labels[labels::DBID], &labels[labels::ATTEMPT]), (&json!("5"), &json!("1")));
}

#[test]
fn it_runs_where_and_as_who_the_segment_is() {
    let pod = &made(|_| ())["spec"]["template"]["spec"];
    let term = &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0];
    assert_eq!(term["matchFields"][0], json!({"key": "metadata.name", "operator": "In", "values": ["n1"]}));
    assert!(pod["nodeName"].is_null() && pod["hostname"].is_null() && pod["subdomain"].is_null());
    assert_eq!((&pod["securityContext"]["runAsUser"], &pod["securityContext"]["fsGroup"]), (&json!(1000), &json!(1000)));
    let work = &pod["containers"][0];
    assert_eq!((&work["image"], &work["name"]), (&json!("localhost/greenplum:dev"), &json!("recover")));
    let mounts = names(&work["volumeMounts"], "mountPath");
    assert_eq!(mounts, ["/data", "/tmp", "/gpheal-bin", "/gpheal-run", "/etc/gpheal/credentials"]);
    assert_eq!(names(&pod["volumes"], "name"), ["data", "tmp", "gpheal-job-bin", "gpheal-job-run", "gpheal-job-credentials"]);
    assert!(pod["initContainers"].is_null(), "gpheal's installer runs beside the work");
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-gp-mirror-0");
}

/// The worker's command as it runs in its pod, with the folder of the binary moved here.
fn awaiting(bin: &std::path::Path) -> std::process::Command {
    let command = &made(|_| ())["spec"]["template"]["spec"]["containers"][0]["command"];
    let words: Vec<String> =
        command.as_array().unwrap().iter().map(|word| word.as_str().unwrap().replace(BIN, &bin.to_string_lossy())).collect();
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

#[test]
fn the_worker_becomes_gpheal_as_soon_as_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let waiting = awaiting(dir.path()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Not written by this process: a test beside starts others, which would hold it open, and it could not be run.
    let install = "printf '#!/bin/sh\necho told $1' > fresh && chmod 755 fresh && mv fresh gpheal";
    assert!(std::process::Command::new("/bin/sh").args(["-c", install]).current_dir(dir.path()).status().unwrap().success());
    let ended = waiting.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &*String::from_utf8_lossy(&ended.stdout)), (Some(0), "told recover\n"));
}

#[test]
fn a_worker_that_waits_ends_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut waiting = awaiting(dir.path()).spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(waiting.id().cast_signed());
    // A signal before the trap is set ends it, too: then it has no exit code.
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(matches!(waiting.wait().unwrap().code(), None | Some(143)));
}

/// Runs the worker's command with shorter times, and sees it give up.
fn gives_up(dir: &std::path::Path, long: &str, short: &str) {
    let awaiting = awaiting(dir);
    let script = awaiting.get_args().last().unwrap().to_string_lossy().replace(long, short);
    let ended = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
    assert_eq!(ended.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("has installed nothing"), "{ended:?}");
}

#[test]
fn a_worker_that_has_waited_for_a_day_says_so_and_ends() {
    gives_up(tempfile::tempdir().unwrap().path(), "86400", "2");
}

#[test]
fn a_worker_whose_installer_died_in_the_middle_does_not_wait_for_a_day() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(protocol::INSTALLING), "half").unwrap();
    assert!(AWAITED.contains(&format!("/{} ]", protocol::INSTALLING)), "else this test would wait for a day, too");
    gives_up(dir.path(), "300", "2");
}

#[test]
fn it_would_pass_pod_security_restricted_even_where_the_segment_would_not() {
    let loose = made(|pod| {
        pod["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsNonRoot": true});
        pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true, "capabilities": {"add": ["SYS_ADMIN"]}});
    });
    let pod = &loose["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in [&pod["containers"][0], &pod["containers"][1]] {
        let context = &container["securityContext"];
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!((&context["allowPrivilegeEscalation"], &context["privileged"]), (&json!(false), &Value::Null));
    }
}

#[test]
fn the_environment_is_the_segments_without_what_its_supervisor_is_told() {
    let job = made(|_| ());
    let env = &job["spec"]["template"]["spec"]["containers"][0]["env"];
    let (asks, says) =
        (["GPHEAL_POD_COORDINATORS", "GPHEAL_COORDINATOR"], ["GPHEAL_ATTEMPT", "GPHEAL_CREDENTIALS", "GPHEAL_PASSFILE", "GPHEAL_TLS"]);
    assert_eq!(names(env, "name"), [&["PATH", "POD_NAME", "POD_UID", "NODE_NAME"][..], &asks, &says].concat());
    assert_eq!(serde_json::from_str::<Attempt>(env[6]["value"].as_str().unwrap()).unwrap(), attempt());
    assert_eq!(env[5]["value"], "gp-coordinator-0.gp.demo.svc:5432");
    let read: Job = serde_json::from_value(job).unwrap();
    assert_eq!(jobs::told(&read), Some(attempt()), "what was told can be read back");
}

/// Who may change the cluster's object does not choose whom a Job believes.
#[test]
fn it_asks_the_coordinators_that_its_own_pod_names() {
    let mut cluster = fixtures::cluster();
    cluster.spec.coordinator.host = Some("fake-0.gp".into());
    let asked = |env: Value, from: Value| {
        let pod = pod("gp-mirror-0", |pod| {
            pod["spec"]["containers"][0]["env"] = env;
            pod["spec"]["containers"][0]["envFrom"] = from;
        });
        let job = made_from(&cluster, &pod, Some("gpheal:1"))?;
        let work = job["spec"]["template"]["spec"]["containers"][0].clone();
        let told = |name: &str| work["env"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned();
        Ok((told("GPHEAL_POD_COORDINATORS"), told("GPHEAL_COORDINATOR").is_some(), work["envFrom"].clone()))
    };
    let key = json!({"configMapKeyRef": {"name": "c", "key": "k"}});
    let own = asked(json!([{"name": "GPHEAL_COORDINATOR", "value": "a.gp:1,b.gp:1"}]), json!(null));
    assert_eq!(own, Ok((Some(json!({"name": "GPHEAL_POD_COORDINATORS", "value": "a.gp:1,b.gp:1"})), true, json!(null))));
    let of_a_key = asked(json!([{"name": "GPHEAL_COORDINATOR", "valueFrom": key}]), json!(null));
    assert_eq!(of_a_key, Ok((Some(json!({"name": "GPHEAL_POD_COORDINATORS", "valueFrom": key})), true, json!(null))));
    let made = json!([{"name": "GPHEAL_HOST", "value": "a.gp"}, {"name": "GPHEAL_COORDINATOR", "value": "$(GPHEAL_HOST):1"}]);
    let parts = made_from(&cluster, &pod("gp-mirror-0", |pod| pod["spec"]["containers"][0]["env"] = made), Some("gpheal:1")).unwrap();
    assert_eq!(parts["spec"]["template"]["spec"]["containers"][0]["env"][0], json!({"name": "GPHEAL_HOST", "value": "a.gp"}));
    let map = json!([{"configMapRef": {"name": "c"}}]);
    assert_eq!(asked(json!([]), map.clone()), Ok((None, false, map)), "its own would stand in the way of that one");
    assert_eq!(asked(json!([]), json!(null)), Err(JobError::NoCoordinator { pod: "gp-mirror-0".into() }));
}

#[test]
fn it_logs_in_as_its_own_role_when_it_has_one() {
    let secret = |cluster: &GreenplumCluster| {
        let job = made_from(cluster, &pod("gp-mirror-0", |_| ()), Some("gpheal:1")).unwrap();
        let volumes = job["spec"]["template"]["spec"]["volumes"].as_array().unwrap().clone();
        volumes.into_iter().find(|one| one["name"] == "gpheal-job-credentials").unwrap()["secret"]["secretName"].clone()
    };
    let mut cluster = fixtures::cluster();
    assert_eq!(secret(&cluster), "demo-gpadmin");
    cluster.spec.job = serde_json::from_value(json!({"credentialsSecret": {"name": "demo-copy"}})).unwrap();
    assert_eq!(secret(&cluster), "demo-copy");
}

#[test]
fn it_trusts_whom_the_cluster_says_and_its_mirror_whom_its_own_pod_says() {
    let mut cluster = fixtures::cluster();
    cluster.spec.coordinator.tls =
        serde_json::from_value(json!({"mode": "verify-full", "caSecretRef": {"name": "demo-ca", "key": "root.pem"}})).unwrap();
    let segment = pod("gp-mirror-0", |pod| {
        let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
        env.push(json!({"name": "GPHEAL_TLS", "value": "verify-full"}));
        env.push(json!({"name": "GPHEAL_CA", "value": "/etc/greenplum/tls/ca.crt"}));
    });
    let job = made_from(&cluster, &segment, Some("gpheal:1")).unwrap();
    let pod = &job["spec"]["template"]["spec"];
    let work = &pod["containers"][0];
    let told = |name: &str| work["env"].as_array().unwrap().iter().find(|one| one["name"] == name).map(|one| one["value"].clone());
    assert_eq!((told("GPHEAL_TLS"), told("GPHEAL_CA")), (Some(json!("verify-full")), Some(json!("/etc/gpheal/ca/ca.crt"))));
    assert_eq!((told("GPHEAL_MIRROR_TLS"), told("GPHEAL_MIRROR_CA")), (told("GPHEAL_TLS"), Some(json!("/etc/greenplum/tls/ca.crt"))));
    let secret = pod["volumes"].as_array().unwrap().iter().find(|one| one["name"] == "gpheal-job-ca").unwrap();
    assert_eq!(secret["secret"], json!({"secretName": "demo-ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}));
    assert!(names(&work["volumeMounts"], "mountPath").contains(&"/etc/gpheal/ca"));
}

#[test]
fn the_image_of_gpheal_is_the_operators_or_the_segments() {
    let segment = pod("gp-mirror-0", |_| ());
    let image = |job: Value| job["spec"]["template"]["spec"]["containers"][1]["image"].clone();
    assert_eq!(image(made(|_| ())), "gpheal:1");
    assert_eq!(image(made_from(&fixtures::cluster(), &segment, None).unwrap()), "localhost/gpheal:dev");
    let bare = pod("gp-mirror-0", |p| _ = p["spec"]["initContainers"].take());
    assert!(matches!(made_from(&fixtures::cluster(), &bare, None), Err(JobError::NoImage { .. })));
}

#[test]
fn what_cannot_be_made_says_why() {
    let unscheduled = pod("gp-mirror-0", |p| _ = p["spec"]["nodeName"].take());
    assert!(matches!(made_from(&fixtures::cluster(), &unscheduled, None), Err(JobError::NoNode { .. })));
    let other = pod("gp-mirror-0", |p| p["spec"]["containers"][0]["name"] = json!("postgres"));
    assert!(matches!(made_from(&fixtures::cluster(), &other, None), Err(JobError::NoContainer { .. })));
}

/// A quota may demand a limit of every container.
#[test]
fn it_is_bounded_as_the_segment_is() {
    let resources = |change: fn(&mut Value)| {
        let containers = made(change)["spec"]["template"]["spec"]["containers"].clone();
        (containers[0]["resources"].clone(), containers[1]["resources"].clone())
    };
    let tiny = json!({"cpu": "50m", "memory": "64Mi"});
    assert_eq!(resources(|_| ()), (json!({"requests": tiny}), json!({"requests": tiny})));
    let bounded = resources(|pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "4", "memory": "64Gi"}, "requests": {"memory": "64Gi"}});
    });
    let work = json!({"requests": tiny, "limits": {"cpu": "4", "memory": "64Gi"}});
    assert_eq!(bounded, (work, json!({"requests": tiny, "limits": {"cpu": "1", "memory": "128Mi"}})));
}

/// The node has given them to the segment's pod, which is there while the Job runs: a claim to as many finds no place.
#[test]
fn it_claims_no_huge_pages_and_mounts_none() {
    let job = made(|pod| {
        let pages = json!({"hugepages-2Mi": "1Gi", "memory": "4Gi"});
        pod["spec"]["containers"][0]["resources"] = json!({"limits": pages, "requests": pages});
        pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "huge", "emptyDir": {"medium": "HugePages-2Mi"}}));
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
        mounts.push(json!({"name": "huge", "mountPath": "/dev/hugepages"}));
    });
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["resources"]["limits"], json!({"memory": "4Gi"}));
    assert!(!names(&pod["volumes"], "name").contains(&"huge"));
    for dialect in [greenplum::Dialect::Six, greenplum::Dialect::Seven] {
        assert!(dialect.single_user_arguments().contains(&"huge_pages=off"), "its postgres does without");
    }
}

/// The root may be read-only, and so may be where the segment has its own.
#[test]
fn its_password_file_lies_in_a_folder_of_its_own() {
    let job = made(|pod| {
        let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
        env.push(json!({"name": "GPHEAL_PASSFILE", "value": "/run/gp/pgpass"}));
        pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = json!(true);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    });
    let pod = &job["spec"]["template"]["spec"];
    let work = &pod["containers"][0];
    let told: Vec<_> = work["env"].as_array().unwrap().iter().filter(|one| one["name"] == "GPHEAL_PASSFILE").collect();
    assert_eq!(told, [&json!({"name": "GPHEAL_PASSFILE", "value": "/gpheal-run/pgpass"})]);
    let own = |mount: &&Value| mount["mountPath"] == "/gpheal-run" && mount["readOnly"] != true;
    assert_eq!(work["volumeMounts"].as_array().unwrap().iter().find(own).unwrap()["name"], "gpheal-job-run");
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "gpheal-job-run").unwrap();
    assert_eq!(volume["emptyDir"]["medium"], "Memory");
}

#[test]
fn labels_of_the_spec_are_there_for_policies_and_ours_win() {
    let mut cluster = fixtures::cluster();
    cluster.spec.job = serde_json::from_value(json!({"labels": {"network": "database", labels::DBID: "1"}})).unwrap();
    let job = made_from(&cluster, &pod("gp-mirror-0", |_| ()), Some("gpheal:1")).unwrap();
    let of_pod = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!((&of_pod["network"], &of_pod[labels::DBID]), (&json!("database"), &json!("5")));
    assert_eq!(job["metadata"]["labels"], *of_pod);
}

#[test]
fn a_mesh_injects_nothing_unless_the_spec_says_so() {
    let mut cluster = fixtures::cluster();
    let annotated = |cluster: &GreenplumCluster| {
        let job = made_from(cluster, &pod("gp-mirror-0", |_| ()), Some("gpheal:1")).unwrap();
        job["spec"]["template"]["metadata"]["annotations"].clone()
    };
    assert_eq!(annotated(&cluster)["sidecar.istio.io/inject"], json!("false"));
    cluster.spec.job = serde_json::from_value(json!({"annotations": {"sidecar.istio.io/inject": "true", "team": "dba"}})).unwrap();
    let both = annotated(&cluster);
    assert_eq!((&both["sidecar.istio.io/inject"], &both["team"]), (&json!("true"), &json!("dba")));
    assert_eq!(both["cluster-autoscaler.kubernetes.io/safe-to-evict"], json!("false"));
}

#[test]
fn a_folder_that_the_pods_name_is_part_of_is_that_of_the_segment() {
    let job = made(|pod| {
        let mounts = json!([{"name": "data", "mountPath": "/data", "subPathExpr": "$(POD_NAME)"}]);
        pod["spec"]["containers"][0]["volumeMounts"] = mounts;
    });
    let mount = &job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!((&mount["subPath"], &mount["subPathExpr"]), (&json!("gp-mirror-0"), &Value::Null));
}

#[test]
fn init_containers_that_fill_what_postgres_reads_run_before_the_work() {
    let segment = pod("gp-mirror-0", |pod| {
        let filler = json!({"name": "settings", "image": "x", "volumeMounts": [{"name": "etc", "mountPath": "/fill"},
            {"name": "from", "mountPath": "/from"}]});
        pod["spec"]["initContainers"].as_array_mut().unwrap().push(filler);
        let volumes = [json!({"name": "etc", "emptyDir": {}}), json!({"name": "from", "configMap": {"name": "c"}})];
        pod["spec"]["volumes"].as_array_mut().unwrap().extend(volumes);
        pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "etc", "mountPath": "/etc/gp"}));
    });
    let mut cluster = fixtures::cluster();
    let made = |cluster: &GreenplumCluster| made_from(cluster, &segment, Some("gpheal:1")).unwrap()["spec"]["template"]["spec"].clone();
    let job = made(&cluster);
    assert_eq!(names(&job["initContainers"], "name"), ["settings"]);
    let volumes = names(&job["volumes"], "name");
    assert!(volumes.contains(&"etc") && volumes.contains(&"from"), "{volumes:?}");
    cluster.spec.job = serde_json::from_value(json!({"initContainers": "Omit"})).unwrap();
    assert!(made(&cluster)["initContainers"].is_null());
}

#[test]
fn resources_and_tolerations_of_the_spec_are_used() {
    let mut cluster = fixtures::cluster();
    cluster.spec.job = serde_json::from_value(json!({
        "resources": {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "tolerations": [{"key": "database", "operator": "Exists"}, {"key": "more", "operator": "Exists"}],
    }))
    .unwrap();
    let job = made_from(&cluster, &pod("gp-mirror-0", |_| ()), None).unwrap();
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["resources"]["requests"], json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(names(&pod["tolerations"], "key"), ["database", "more", CORDONED], "each once");
}

/// A drain waits for the pair to be in sync, where a budget says so, and the pair for its Job.
#[test]
fn it_runs_on_a_node_that_is_being_drained_for_its_volume_is_there() {
    let tolerations = |change: fn(&mut Value)| made(change)["spec"]["template"]["spec"]["tolerations"].clone();
    let cordoned = json!({"key": CORDONED, "operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(tolerations(|_| ()), json!([{"key": "database", "operator": "Exists"}, cordoned]));
    assert_eq!(tolerations(|pod| pod["spec"]["tolerations"] = json!(null)), json!([cordoned]));
}

/// On a node with `SELinux` a pod of other categories would relabel the volume under a postgres that runs.
#[test]
fn labels_of_selinux_are_those_of_the_segment() {
    let of_pod = json!({"level": "s0:c123,c456"});
    let of_container = json!({"level": "s0:c123,c456", "type": "container_t", "user": "system_u", "role": "system_r"});
    let job = made(|pod| {
        pod["spec"]["securityContext"]["seLinuxOptions"] = of_pod.clone();
        pod["spec"]["securityContext"]["seLinuxChangePolicy"] = json!("MountOption");
        pod["spec"]["containers"][0]["securityContext"]["seLinuxOptions"] = of_container.clone();
    });
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["seLinuxOptions"], of_pod);
    assert_eq!(pod["securityContext"]["seLinuxChangePolicy"], "MountOption");
    for container in pod["containers"].as_array().unwrap() {
        assert_eq!(container["securityContext"]["seLinuxOptions"], of_container, "{}", container["name"]);
    }
}

#[test]
fn libraries_that_an_init_container_brings_are_there_for_the_job_too() {
    let job = made(|pod| {
        let brings = json!({"name": "extensions", "image": "postgis", "command": ["cp", "-r", "/built", "/lib/gp"],
            "volumeMounts": [{"name": "lib", "mountPath": "/lib/gp"}]});
        pod["spec"]["initContainers"].as_array_mut().unwrap().push(brings);
        pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "lib", "emptyDir": {}}));
        let segment = &mut pod["spec"]["containers"][0];
        segment["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "lib", "mountPath": "/usr/lib/gp", "readOnly": true}));
        segment["env"].as_array_mut().unwrap().push(json!({"name": "LD_LIBRARY_PATH", "value": "/usr/lib/gp"}));
    });
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!((names(&pod["initContainers"], "name"), &pod["initContainers"][0]["image"]), (vec!["extensions"], &json!("postgis")));
    let work = &pod["containers"][0];
    assert!(names(&work["volumeMounts"], "mountPath").contains(&"/usr/lib/gp"));
    assert!(work["env"].as_array().unwrap().contains(&json!({"name": "LD_LIBRARY_PATH", "value": "/usr/lib/gp"})));
}

#[test]
fn a_coordinator_by_an_address_of_ipv6_is_named_in_brackets() {
    let mut cluster = fixtures::cluster();
    let named = |cluster: &GreenplumCluster| {
        let job = made_from(cluster, &pod("gp-mirror-0", |_| ()), Some("gpheal:1")).unwrap();
        let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        env.iter().find(|variable| variable["name"] == "GPHEAL_COORDINATOR").unwrap()["value"].clone()
    };
    cluster.spec.coordinator.host = Some("fd00::7".into());
    assert_eq!(named(&cluster), "[fd00::7]:5432");
    cluster.spec.coordinator.host = Some("10.0.0.7".into());
    assert_eq!(named(&cluster), "10.0.0.7:5432");
}

/// A limit range may say how far limit and request lie apart at most; nobody can ask it, so whoever has one says both.
#[test]
fn a_small_request_under_the_segments_limit_is_replaced_by_what_the_spec_says() {
    let limited = pod("gp-mirror-0", |pod| {
        pod["spec"]["containers"][0]["resources"] =
            json!({"limits": {"memory": "4Gi", "hugepages-2Mi": "1Gi"}, "requests": {"memory": "4Gi"}});
    });
    let resources = |cluster: &GreenplumCluster| {
        let job = made_from(cluster, &limited, Some("gpheal:1")).unwrap();
        job["spec"]["template"]["spec"]["containers"][0]["resources"].clone()
    };
    let mut cluster = fixtures::cluster();
    assert_eq!(resources(&cluster), json!({"limits": {"memory": "4Gi"}, "requests": {"cpu": "50m", "memory": "64Mi"}}));
    let both = json!({"limits": {"memory": "4Gi"}, "requests": {"memory": "4Gi"}});
    cluster.spec.job = serde_json::from_value(json!({"resources": both})).unwrap();
    assert_eq!(resources(&cluster), both);
}
