//! The control plane: etcd, API server, controllers, scheduler and DNS, as
//! plain processes of one network namespace.

use anyhow::Result;
use serde_json::json;

use super::{
    command::write,
    daemon::Daemon,
    layout::{CLUSTER_DOMAIN, CONTROL_ADDRESS, Layout, POD_RANGE, SERVICE_RANGE},
};

const ETCD: &str = "http://127.0.0.1:2379";

/// Open once DNS knows the cluster's objects.
pub const DNS_READY: &str = "127.0.0.1:8181";

/// The API server, and what it stores its objects in.
pub fn storage(layout: &Layout) -> Result<[Daemon; 2]> {
    Ok([etcd(layout), api_server(layout)?])
}

/// What works on the API server's objects.
pub fn workers(layout: &Layout) -> Result<[Daemon; 3]> {
    Ok([controllers(layout), scheduler(layout), dns(layout)?])
}

fn daemon(layout: &Layout, program: &str, arguments: Vec<String>) -> Daemon {
    let mut command = vec![layout.program(program).display().to_string()];
    command.extend(arguments);
    Daemon {
        name: program.to_owned(),
        network: layout.name().to_owned(),
        cgroup: format!("{}/control", layout.name()),
        command,
        reads: Vec::new(),
    }
}

/// Nothing here is worth an fsync: a bed does not outlive its machine.
fn etcd(layout: &Layout) -> Daemon {
    let arguments = vec![
        format!("--data-dir={}", layout.folder().join("etcd").display()),
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--name=bed".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    daemon(layout, "etcd", arguments)
}

fn api_server(layout: &Layout) -> Result<Daemon> {
    let policy = layout.config("audit-policy.json");
    write(&policy, &audit_policy())?;
    let pki = |file: &str| layout.pki(file).display().to_string();
    let arguments = vec![
        format!("--etcd-servers={ETCD}"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        format!("--advertise-address={CONTROL_ADDRESS}"),
        "--secure-port=6443".to_owned(),
        format!("--tls-cert-file={}", pki("kube-apiserver.crt")),
        format!("--tls-private-key-file={}", pki("kube-apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}"),
        format!("--service-account-key-file={}", pki("service-accounts.key")),
        format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        // Added to the default ones, of which Pod Security is one. The second is on in some distributions.
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement".to_owned(),
        // Has pods changed on their way in, as a webhook would, without one that is served.
        "--feature-gates=MutatingAdmissionPolicy=true".to_owned(),
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true".to_owned(),
        format!("--kubelet-client-certificate={}", pki("admin.crt")),
        format!("--kubelet-client-key={}", pki("admin.key")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--allow-privileged".to_owned(),
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", layout.audit_log().display()),
        // One file: whoever reads it need not look for rotated ones.
        "--audit-log-maxsize=10000".to_owned(),
    ];
    let mut daemon = daemon(layout, "kube-apiserver", arguments);
    daemon.reads = vec![policy];
    Ok(daemon)
}

/// Everything is noted with who, what and when; what checkers look into also
/// with its content: all of this project's kinds, and writes of pods, Jobs and
/// leases.
fn audit_policy() -> String {
    let writes = ["create", "update", "patch", "delete", "deletecollection"];
    let contents = json!([
        { "group": "", "resources": ["pods", "pods/*"] },
        { "group": "batch", "resources": ["jobs", "jobs/*"] },
        { "group": "coordination.k8s.io", "resources": ["leases"] },
    ]);
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": true,
        "rules": [
            { "level": "RequestResponse", "resources": [{ "group": "gpheal.io" }] },
            { "level": "Request", "verbs": writes, "resources": contents },
            { "level": "Metadata" },
        ],
    });
    format!("{policy:#}\n")
}

fn controllers(layout: &Layout) -> Daemon {
    let program = "kube-controller-manager";
    let pki = |file: &str| layout.pki(file).display().to_string();
    let arguments = vec![
        format!("--kubeconfig={}", layout.kubeconfig_of(program).display()),
        format!("--service-account-private-key-file={}", pki("service-accounts.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
        "--use-service-account-credentials".to_owned(),
        "--allocate-node-cidrs=false".to_owned(),
        format!("--cluster-cidr={POD_RANGE}"),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        "--node-monitor-period=2s".to_owned(),
        "--node-monitor-grace-period=20s".to_owned(),
    ];
    daemon(layout, program, arguments)
}

fn scheduler(layout: &Layout) -> Daemon {
    let program = "kube-scheduler";
    let arguments = vec![
        format!("--kubeconfig={}", layout.kubeconfig_of(program).display()),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ];
    daemon(layout, program, arguments)
}

/// A short life of names: a pod that comes back has another address at once.
fn dns(layout: &Layout) -> Result<Daemon> {
    let corefile = layout.config("Corefile");
    let kubeconfig = layout.kubeconfig_of("coredns");
    let text = format!(
        ".:53 {{\n    errors\n    ready {DNS_READY}\n    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{\n        \
         kubeconfig {}\n        pods insecure\n        ttl 1\n    }}\n    cache 1\n}}\n",
        kubeconfig.display()
    );
    write(&corefile, &text)?;
    let mut daemon = daemon(layout, "coredns", vec!["-conf".to_owned(), corefile.display().to_string()]);
    daemon.reads = vec![corefile];
    Ok(daemon)
}
