//! Whether a pod runs on its node's kernel: locks of two kernels do not meet, however much their volume is one.

use k8s_openapi::api::core::v1::Pod;

use super::nodes::Node;

/// Runtime classes whose usual runtimes run their containers on the node's own kernel.
const SHARING: [&str; 4] = ["runc", "crun", "youki", "nvidia"];

/// Another pod of the same node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub pod: String,
    /// It names a runtime class, so its kernel may be one of its own.
    pub classed: bool,
    pub boot: String,
}

/// The runtime class of a pod, unless its usual runtime is known to share the node's kernel.
pub fn class(pod: &Pod) -> Option<&str> {
    let class = pod.spec.as_ref()?.runtime_class_name.as_deref()?;
    Some(class).filter(|class| !SHARING.contains(class))
}

/// Why a pod is taken for one with a kernel of its own. `boot` is what its supervisor says, `neighbours` are the pods of its node.
pub fn own(pod: &Pod, boot: Option<&str>, node: &Node, neighbours: &[Neighbour]) -> Option<String> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    let class = class(pod);
    let of_node = match node {
        Node::Seen(node) => node.boot.as_deref(),
        Node::Gone | Node::Unknown(_) => None,
    };
    match (of_node, boot) {
        (Some(of_node), Some(boot)) => {
            (of_node != boot).then(|| format!("its kernel has boot id {boot}, and that of node {name} has {of_node}"))
        }
        (_, None) => {
            class.map(|class| format!("its runtimeClassName is {class}, and its supervisor does not tell the boot id of its kernel"))
        }
        (None, Some(boot)) => by_neighbours(pod, boot, name, neighbours),
    }
}

/// Where the node does not tell its boot id, another pod of it does, unless that may have a kernel of its own, too.
fn by_neighbours(pod: &Pod, boot: &str, node: &str, neighbours: &[Neighbour]) -> Option<String> {
    let own_name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut others = neighbours.iter().filter(|one| one.pod != own_name);
    if others.clone().any(|one| one.boot == boot) {
        return None; // two sandboxes never have one kernel
    }
    if let Some(class) = class(pod) {
        return Some(format!("its runtimeClassName is {class}, and neither node {node} nor another pod there tells the same boot id"));
    }
    let other = others.find(|one| !one.classed)?;
    Some(format!("its kernel has boot id {boot}, and that of pod {} on the same node has {}", other.pod, other.boot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{fixtures, nodes::NodeSeen};
    use serde_json::json;

    fn pod(class: Option<&str>) -> Pod {
        fixtures::pod("gp-mirror-0", |pod| pod["spec"]["runtimeClassName"] = json!(class))
    }

    fn node(boot: &str) -> Node {
        Node::Seen(NodeSeen { ready: true, out_of_service: false, boot: Some(boot.into()) })
    }

    fn neighbour(pod: &str, classed: bool, boot: &str) -> Neighbour {
        Neighbour { pod: pod.into(), classed, boot: boot.into() }
    }

    #[test]
    fn the_node_decides_where_it_can_be_read() {
        for class in [None, Some("kata"), Some("runc")] {
            assert_eq!(own(&pod(class), Some("b"), &node("b"), &[]), None, "{class:?} shares it, whatever it is called");
            assert!(own(&pod(class), Some("b"), &node("other"), &[]).is_some_and(|why| why.contains("other")), "{class:?}");
        }
    }

    #[test]
    fn a_supervisor_that_does_not_tell_is_believed_unless_a_runtime_class_speaks_against_it() {
        assert_eq!(own(&pod(None), None, &node("b"), &[]), None, "an older supervisor on a plain node");
        assert_eq!(own(&pod(Some("runc")), None, &node("b"), &[]), None);
        assert!(own(&pod(Some("gvisor")), None, &node("b"), &[]).is_some());
    }

    #[test]
    fn where_no_node_can_be_read_a_neighbour_tells() {
        let unknown = Node::Unknown("no right".into());
        let own = |class, others: &[Neighbour]| own(&pod(class), Some("b"), &unknown, others);
        assert_eq!(own(None, &[]), None);
        assert!(own(Some("kata"), &[]).is_some(), "nothing shows that it shares the kernel");
        assert!(own(Some("kata"), &[neighbour("gp-mirror-0", true, "b")]).is_some(), "it is no witness of itself");
        assert_eq!(own(Some("kata"), &[neighbour("gp-primary-1", true, "b")]), None);
        assert!(own(None, &[neighbour("gp-primary-1", false, "c")]).is_some(), "the default runtime may be a sandbox");
        assert_eq!(own(None, &[neighbour("gp-primary-1", true, "c")]), None, "the other one has its own");
    }
}
