//! A node: a container runtime, a kubelet and a kube-proxy inside a network
//! namespace of their own.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    command::{make_folder, succeeds, write},
    daemon::Daemon,
    layout::{CLUSTER_DOMAIN, CONTROL_ADDRESS, Layout, Node, POD_RANGE},
};

/// The image of every pod's sandbox; the bed builds it itself.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";

/// A node's programs in the order in which they need each other.
pub struct Programs {
    pub runtime: Daemon,
    pub kubelet: Daemon,
    pub proxy: Daemon,
}

impl Programs {
    pub fn of(layout: &Layout, node: Node) -> Result<Self> {
        Ok(Self { runtime: runtime(layout, node)?, kubelet: kubelet(layout, node)?, proxy: proxy(layout, node) })
    }
}

/// The cgroup that holds all of a node: its programs and its pods.
pub fn cgroup(layout: &Layout, node: Node) -> String {
    format!("{}/{node}", layout.name())
}

/// `ctr` for the images and containers that Kubernetes uses on the node.
pub fn ctr(layout: &Layout, node: Node) -> std::process::Command {
    let mut command = std::process::Command::new("ctr");
    command.arg("-a").arg(layout.runtime_socket(node)).args(["-n", "k8s.io"]);
    command
}

pub fn runtime_answers(layout: &Layout, node: Node) -> Result<bool> {
    succeeds(ctr(layout, node).args(["--timeout", "2s", "version"]))
}

fn daemon(layout: &Layout, node: Node, name: &str, command: Vec<String>, reads: Vec<PathBuf>) -> Daemon {
    Daemon {
        name: format!("{name}-{node}"),
        network: layout.node_network(node),
        cgroup: format!("{}/system", cgroup(layout, node)),
        command,
        reads,
    }
}

fn runtime(layout: &Layout, node: Node) -> Result<Daemon> {
    let cni = layout.node(node).join("cni");
    write(&cni.join("10-pods.conflist"), &format!("{:#}\n", pod_network(layout, node)))?;
    let config = layout.node(node).join("containerd.toml");
    write(&config, &runtime_config(layout, node))?;
    let command = vec!["containerd".to_owned(), "--config".to_owned(), config.display().to_string()];
    Ok(daemon(layout, node, "containerd", command, vec![config]))
}

/// - `restrict_oom_score_adj`: runc need not be allowed to lower it.
/// - Namespaces, sockets and runc's state lie below the node's folder, so that
///   they go with it.
fn runtime_config(layout: &Layout, node: Node) -> String {
    let folder = layout.node(node).display().to_string();
    let socket = layout.runtime_socket(node).display().to_string();
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "{folder}/run"
disabled_plugins = [
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{socket}"

[ttrpc]
address = "{socket}.ttrpc"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{folder}/run/runc"
SystemdCgroup = false
"#
    )
}

/// The network is named as the node's namespace is: the CNI library keeps notes
/// under that name in a folder that all beds of a machine share.
fn pod_network(layout: &Layout, node: Node) -> Value {
    let addresses = json!({
        "type": "host-local",
        "dataDir": layout.node(node).join("addresses"),
        "ranges": [[{ "subnet": node.pod_subnet() }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": true,
        "ipam": addresses,
    });
    json!({
        "cniVersion": "1.0.0",
        "name": layout.node_network(node),
        "plugins": [bridge, { "type": "portmap", "capabilities": { "portMappings": true } }],
    })
}

fn kubelet(layout: &Layout, node: Node) -> Result<Daemon> {
    let folder = layout.node(node);
    make_folder(&folder)?;
    write(&layout.config("resolv.conf"), "# The bed has no name server outside it.\n")?;
    let config = folder.join("kubelet.json");
    write(&config, &format!("{:#}\n", kubelet_config(layout, node)))?;
    let command = vec![
        layout.program("kubelet").display().to_string(),
        format!("--kubeconfig={}", layout.kubeconfig_of(&node.to_string()).display()),
        format!("--config={}", config.display()),
        format!("--root-dir={}", folder.join("kubelet").display()),
        format!("--cert-dir={}", folder.join("kubelet-pki").display()),
        format!("--hostname-override={node}"),
        format!("--node-ip={}", node.address()),
    ];
    Ok(daemon(layout, node, "kubelet", command, vec![config]))
}

/// - Images are only those the bed loads: never collected, never pulled.
/// - No eviction for a full disk: the disk is the machine's and not the node's.
/// - A container that crashes waits seconds and not minutes.
fn kubelet_config(layout: &Layout, node: Node) -> Value {
    let folder = layout.node(node);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": layout.pki("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cgroup(layout, node)),
        "cgroupsPerQOS": true,
        "clusterDNS": [CONTROL_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "containerRuntimeEndpoint": format!("unix://{}", layout.runtime_socket(node).display()),
        "crashLoopBackOff": { "maxContainerRestartPeriod": "5s" },
        "evictionHard": { "memory.available": "100Mi" },
        "eventBurst": 200,
        "eventRecordQPS": 100,
        "failSwapOn": false,
        "featureGates": { "KubeletCrashLoopBackOffMax": true, "ReduceDefaultCrashLoopBackOffDecay": true },
        "imageGCHighThresholdPercent": 100,
        "kubeAPIBurst": 200,
        "kubeAPIQPS": 100,
        "nodeLeaseDurationSeconds": 10,
        "nodeStatusUpdateFrequency": "4s",
        "podLogsDir": folder.join("pod-logs"),
        "resolvConf": layout.config("resolv.conf"),
        "serializeImagePulls": false,
        "shutdownGracePeriod": "0s",
        "syncFrequency": "10s",
        "tlsCertFile": layout.pki(&format!("{node}.crt")),
        "tlsPrivateKeyFile": layout.pki(&format!("{node}.key")),
        "volumePluginDir": folder.join("volume-plugins"),
    })
}

fn proxy(layout: &Layout, node: Node) -> Daemon {
    let command = vec![
        layout.program("kube-proxy").display().to_string(),
        format!("--kubeconfig={}", layout.kubeconfig_of("kube-proxy").display()),
        format!("--hostname-override={node}"),
        "--proxy-mode=iptables".to_owned(),
        format!("--cluster-cidr={POD_RANGE}"),
        // The limit is the machine's, not the namespace's to set.
        "--conntrack-max-per-core=0".to_owned(),
        "--iptables-min-sync-period=200ms".to_owned(),
        "--healthz-bind-address=0.0.0.0:10256".to_owned(),
    ];
    daemon(layout, node, "kube-proxy", command, Vec::new())
}
