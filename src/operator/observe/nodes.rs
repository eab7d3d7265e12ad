//! Nodes, where the operator may read them. Only those on which something is amiss or at work are asked for, by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use tokio::time::Instant;

use super::cluster::bounded;

/// How long what a node said is used: its kubelet tells it every ten seconds.
const KEPT: Duration = Duration::from_secs(10);
/// How long it is not tried again where the operator has no right to read nodes.
const FORBIDDEN_KEPT: Duration = Duration::from_mins(10);
/// Set by a person, or by what fences nodes: whatever ran there does not run any more.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A node, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Seen(NodeSeen),
    /// There is no such node any more.
    Gone,
    /// It could not be read; this says why.
    Unknown(String),
}

/// What matters of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its kubelet lives and says that it can run pods.
    pub ready: bool,
    /// Marked as out of service.
    pub out_of_service: bool,
    /// Boot id of its kernel.
    pub boot: Option<String>,
}

impl Node {
    /// Nothing runs there any more, by the word of whoever took it away.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Gone => true,
            Self::Seen(node) => node.out_of_service,
            Self::Unknown(_) => false,
        }
    }

    /// Its kubelet tells the truth about its pods.
    pub fn lives(&self) -> bool {
        match self {
            Self::Seen(node) => node.ready && !node.out_of_service,
            Self::Gone | Self::Unknown(_) => false,
        }
    }
}

impl From<&v1::Node> for NodeSeen {
    fn from(node: &v1::Node) -> Self {
        let status = node.status.as_ref();
        let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let mut taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
        Self {
            ready: conditions.any(|one| one.type_ == "Ready" && one.status == "True"),
            out_of_service: taints.any(|taint| taint.key == OUT_OF_SERVICE),
            boot: status.and_then(|status| status.node_info.as_ref()).map(|info| info.boot_id.clone()).filter(|boot| !boot.is_empty()),
        }
    }
}

/// What nodes said lately.
#[derive(Debug, Default)]
pub struct Nodes {
    known: BTreeMap<String, (Instant, Node)>,
    forbidden: Option<Instant>,
}

impl Nodes {
    /// Asks for those of `names` about which nothing was read lately, and forgets all others.
    pub async fn look(&mut self, client: &Client, names: &BTreeSet<String>) {
        self.known.retain(|name, (read, _)| names.contains(name) && read.elapsed() < KEPT);
        for name in names {
            if self.forbidden.is_some_and(|since| since.elapsed() < FORBIDDEN_KEPT) {
                return;
            }
            if !self.known.contains_key(name) {
                let node = self.ask(client, name).await;
                self.known.insert(name.clone(), (Instant::now(), node));
            }
        }
    }

    async fn ask(&mut self, client: &Client, name: &str) -> Node {
        match bounded("a node", Api::<v1::Node>::all(client.clone()).get_opt(name)).await {
            Ok(Some(node)) => Node::Seen(NodeSeen::from(&node)),
            Ok(None) => Node::Gone,
            Err(error) => {
                if error.is_forbidden() {
                    tracing::info!("nodes cannot be read with this operator's rights: whether one is lost is not known");
                    self.forbidden = Some(Instant::now());
                }
                Node::Unknown(crate::error::chain(&error))
            }
        }
    }

    /// What is known of a node.
    pub fn get(&self, name: &str) -> Node {
        match (self.known.get(name), self.forbidden) {
            (Some((_, node)), _) => node.clone(),
            (None, Some(_)) => Node::Unknown("this operator has no right to read nodes".into()),
            (None, None) => Node::Unknown("it was not asked yet".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::mock::{Objects, expect, finished, server};
    use serde_json::json;

    const N1: &str = "/api/v1/nodes/n1";

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_read_every_ten_seconds_and_its_absence_is_not_its_silence() {
        let objects = Objects::default();
        let (client, mut nodes) = (objects.client(), Nodes::default());
        let ready = json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"bootID": "b1", "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}});
        objects.put(N1, ready.clone());
        nodes.look(&client, &names(&["n1", "n2"])).await;
        let seen = NodeSeen { ready: true, out_of_service: false, boot: Some("b1".into()) };
        assert_eq!((nodes.get("n1"), nodes.get("n2")), (Node::Seen(seen), Node::Gone));
        let mut lost = ready;
        lost["status"]["conditions"][0]["status"] = json!("Unknown");
        lost["spec"] = json!({"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]});
        objects.put(N1, lost);
        nodes.look(&client, &names(&["n1"])).await;
        assert!(nodes.get("n1").lives(), "it was read just now");
        tokio::time::advance(KEPT).await;
        nodes.look(&client, &names(&["n1"])).await;
        assert!(nodes.get("n1").is_gone() && !nodes.get("n1").lives());
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_read_nodes_asks_once_in_ten_minutes_and_knows_nothing() {
        let refused = || expect("GET", N1, json!({})).refused(403, "Forbidden");
        let (client, task) = server(vec![refused(), refused()]);
        let mut nodes = Nodes::default();
        for after in [0, 60, 300, 300] {
            tokio::time::advance(Duration::from_secs(after)).await;
            nodes.look(&client, &names(&["n1"])).await;
            assert!(matches!(nodes.get("n1"), Node::Unknown(_)));
        }
        drop(client);
        finished(task).await;
    }
}
