//! Pods with volumes and names, of an image made from the machine's own
//! shell: a first process that starts one called `postgres`.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use e2e::bed::{Bed, Claim, Node, Volume, build_image, fault::Container};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::Job,
    core::v1::{Namespace, PersistentVolume, Pod},
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};

pub const NAMESPACE: &str = "trial";
pub const CONTAINER: &str = "main";
const IMAGE: &str = "localhost/trial:1";
const REPLICAS: usize = 3;

/// The first process starts its children again when they end, as a supervisor
/// would, and ends itself when told.
const FIRST: &str = "trap 'exit 0' TERM; echo started; date > /data/since; \
                     while :; do postgres 100000 & postgres 100001 & wait %1; done";

pub struct Workload<'a> {
    pub bed: &'a Bed,
    client: Client,
}

impl<'a> Workload<'a> {
    pub fn new(bed: &'a Bed) -> Result<Self> {
        Ok(Self { bed, client: bed.client()? })
    }

    pub fn load_image(bed: &Bed) -> Result<()> {
        let context = tempfile::tempdir()?;
        for (program, name) in [
            ("bash", "bash"),
            ("bash", "sh"),
            ("sleep", "postgres"),
            ("sleep", "sleep"),
            ("getent", "getent"),
            ("date", "date"),
            ("cat", "cat"),
        ] {
            add_program(context.path(), program, name)?;
        }
        let containerfile = context.path().join("Containerfile");
        fs::write(&containerfile, "FROM scratch\nCOPY root /\nENV PATH=/bin\nUSER 1000:1000\n")?;
        let archive = build_image(bed.layout(), &containerfile, context.path(), IMAGE)?;
        bed.load_image(&archive, IMAGE)
    }

    pub async fn deploy(&self) -> Result<()> {
        let enforced = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE, "labels": enforced } });
        let namespace: Namespace = serde_json::from_value(namespace)?;
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        for (number, node) in Node::all().enumerate() {
            let claim = Claim { namespace: NAMESPACE.to_owned(), name: format!("data-w-{number}") };
            let volume = self.volume(node)?.persistent_volume(&claim, "1Gi")?;
            Api::<PersistentVolume>::all(self.client.clone()).create(&PostParams::default(), &volume).await?;
        }
        let service = json!({ "clusterIP": "None", "selector": { "app": "w" }, "publishNotReadyAddresses": true });
        self.create(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "w" }, "spec": service }))?;
        self.create(&stateful_set())?;
        self.is_ready().await?;
        self.refuses_what_is_not_restricted()
    }

    /// Names of pods, and the API server by its service's address.
    pub async fn resolves_names_and_reaches_services(&self) -> Result<()> {
        let script = "set -e; for i in 0 1 2; do getent hosts w-$i.w; done; \
                      getent hosts kubernetes.default.svc; exec 3<>/dev/tcp/10.96.0.1/443; echo reached";
        let template = json!({ "spec": pod_spec(script, "Never", &json!([])) });
        let spec = json!({ "backoffLimit": 0, "template": template });
        self.create(&json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "look" }, "spec": spec }))?;
        let jobs = Api::<Job>::namespaced(self.client.clone(), NAMESPACE);
        let ended = async || {
            let status = jobs.get("look").await?.status.unwrap_or_default();
            Ok(status.succeeded == Some(1) || status.failed.is_some_and(|failed| failed > 0))
        };
        self.until("the Job's end", Duration::from_mins(1), ended).await?;
        let log = self.bed.kubectl(&["logs", "-n", NAMESPACE, "job/look"])?;
        ensure!(log.contains("w-2.w.trial.svc.cluster.local") && log.contains("reached"), "the Job saw only: {log}");
        let seen = self.bed.kubectl(&["exec", "-n", NAMESPACE, "w-0", "--", "cat", "/data/since"])?;
        ensure!(!seen.is_empty(), "the container has not written to its volume");
        Ok(())
    }

    fn refuses_what_is_not_restricted(&self) -> Result<()> {
        let spec = json!({ "containers": [{ "name": "c", "image": IMAGE }] });
        let refused = self.create(&json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "free" }, "spec": spec }));
        let why = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(why.contains("violates PodSecurity"), "Pod Security let an unrestricted pod in; it said {why:?}");
        Ok(())
    }

    pub async fn is_ready(&self) -> Result<()> {
        self.until("three ready pods", Duration::from_mins(2), async || {
            let set = Api::<StatefulSet>::namespaced(self.client.clone(), NAMESPACE).get("w").await?;
            let running = self.pods().list(&kube::api::ListParams::default().labels("app=w")).await?;
            let ready = running.items.iter().filter(|pod| is_ready(pod)).count();
            Ok(ready == REPLICAS && set.status.is_some_and(|status| status.ready_replicas == Some(3)))
        })
        .await
    }

    pub async fn restarts(&self, pod: &str) -> Result<i32> {
        Ok(restarts_of(&self.pods().get(pod).await?))
    }

    pub async fn container(&self, pod: &str) -> Result<Container> {
        Container::find(self.bed, NAMESPACE, pod, CONTAINER).await
    }

    pub fn volume(&self, node: Node) -> Result<Volume> {
        self.bed.volume(node, &format!("{NAMESPACE}-{node}"))
    }

    /// Waits for a condition. An error of the condition is only told at the end.
    pub async fn until(&self, what: &str, limit: Duration, condition: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let answer = condition().await;
            if matches!(answer, Ok(true)) {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                answer.with_context(|| format!("waited for {what}"))?;
                bail!("{what}: not seen within {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Makes an object, in the trial's namespace unless it names another.
    pub fn create(&self, object: &Value) -> Result<String> {
        let mut object = object.clone();
        let namespace = &mut object["metadata"]["namespace"];
        if namespace.is_null() {
            *namespace = json!(NAMESPACE);
        }
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), object.to_string())?;
        self.bed.kubectl(&["create", "-f", &file.path().display().to_string()])
    }

    pub fn pods_of(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        self.pods_of(NAMESPACE)
    }

    pub fn nodes(&self) -> Api<k8s_openapi::api::core::v1::Node> {
        Api::all(self.client.clone())
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none() && conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

pub fn restarts_of(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|container| container.restart_count).sum()
}

fn stateful_set() -> Value {
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "resources": { "requests": { "storage": "1Gi" } } },
    });
    let mounts = json!([{ "name": "data", "mountPath": "/data" }]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": { "name": "w" },
        "spec": {
            "serviceName": "w",
            "replicas": REPLICAS,
            "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": "w" } },
            "template": { "metadata": { "labels": { "app": "w" } }, "spec": pod_spec(FIRST, "Always", &mounts) },
            "volumeClaimTemplates": [claim],
        },
    })
}

/// As strict as the namespace wants it.
pub fn pod_spec(script: &str, restart: &str, mounts: &Value) -> Value {
    let container = json!({
        "name": CONTAINER,
        "image": IMAGE,
        "command": ["sh", "-c", script],
        "volumeMounts": mounts,
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    });
    json!({
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": 2,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container],
    })
}

/// Copies a program of this machine, under another name perhaps, and the libraries it needs.
fn add_program(root: &Path, program: &str, name: &str) -> Result<()> {
    let found = output("sh", &["-c", &format!("readlink -f $(command -v {program})")])?;
    let found = found.trim();
    copy(Path::new(found), &root.join("root/bin").join(name))?;
    for word in output("ldd", &[found])?.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(word), &root.join("root").join(word.trim_start_matches('/')))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("no folder")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    Ok(String::from_utf8(Command::new(program).args(arguments).output()?.stdout)?)
}
