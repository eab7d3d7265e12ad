//! What a person says to a supervisor: annotations of its pod, which the downward API writes into a file. A supervisor
//! has no Kubernetes credentials, and a person may have no shell in the pod.

use std::{fs, path::Path};

use super::Supervisor;
use crate::model::{Dbid, Timeline};

/// A person works here: postgres runs without being asked about, and gpheal keeps away (design §3.2).
const MAINTENANCE: &str = "gpheal.io/maintenance";
/// The named node is gone: what its pods did not give back may be taken.
const NODE_GONE: &str = "gpheal.io/node-gone";
/// The dbid of this instance: what shows that another one took its place as primary does not count.
const NOT_REPLACED: &str = "gpheal.io/not-replaced";
/// The timeline of the coordinator that is to be believed although a higher one was seen: it was put back on an older copy.
const COORDINATOR_TIMELINE: &str = "gpheal.io/coordinator-timeline";
/// What a maintenance mark says that came from the annotation. One that a person wrote is that person's to remove.
const BY_ANNOTATION: &str = "by annotation\n";

/// The annotations that concern a supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    maintenance: bool,
    pub gone_node: Option<String>,
    pub not_replaced: Option<Dbid>,
    pub coordinator_timeline: Option<Timeline>,
}

/// Reads the file of the downward API: a line `key="value"` each, the value quoted as in Go. `None`: it can not be read
/// now, which says nothing.
fn read(file: &Path) -> Option<Said> {
    let text = fs::read_to_string(file).ok()?;
    let value = |key: &str| {
        let quoted = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        serde_json::from_str::<String>(quoted).ok()
    };
    let maintenance = value(MAINTENANCE).is_some_and(|value| value != "false");
    Some(Said {
        maintenance,
        gone_node: value(NODE_GONE).filter(|node| !node.is_empty()),
        not_replaced: value(NOT_REPLACED).and_then(|dbid| dbid.parse().ok()).map(Dbid),
        coordinator_timeline: value(COORDINATOR_TIMELINE).and_then(|timeline| timeline.parse().ok()).map(Timeline),
    })
}

/// The mark stands while the annotation does. One that a person wrote stays.
fn follow(maintenance: bool, mark: &Path) -> std::io::Result<()> {
    match (maintenance, fs::read_to_string(mark)) {
        (true, Err(_)) => fs::write(mark, BY_ANNOTATION),
        (false, Ok(by)) if by == BY_ANNOTATION => fs::remove_file(mark),
        _ => Ok(()),
    }
}

impl Supervisor {
    /// Makes the volume say what the annotations say, so that a Job, which sees only the volume, is told too.
    pub(super) fn heed_person(&self) -> Said {
        let Some(said) = self.config.annotations.as_deref().and_then(read) else { return Said::default() };
        if let Err(error) = follow(said.maintenance, &self.volume.mark("maintenance")) {
            tracing::warn!(%error, "the maintenance mark does not follow the pod's annotation");
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> Said {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("annotations");
        fs::write(&file, text).unwrap();
        read(&file).unwrap()
    }

    #[test]
    fn the_mark_follows_the_annotation_and_not_a_persons_own() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("maintenance");
        follow(true, &mark).unwrap();
        assert!(mark.exists());
        follow(false, &mark).unwrap();
        assert!(!mark.exists());
        fs::write(&mark, "Ann looks at the disk").unwrap();
        follow(true, &mark).unwrap();
        follow(false, &mark).unwrap();
        assert_eq!(fs::read_to_string(&mark).unwrap(), "Ann looks at the disk");
    }

    #[test]
    fn annotations_are_read_as_the_downward_api_writes_them() {
        let other = "kubernetes.io/config.source=\"api\"\ngpheal.io/maintenance-note=\"x\"\n";
        assert_eq!(says(other), Said::default());
        assert!(says(&format!("{other}gpheal.io/maintenance=\"\"\n")).maintenance);
        assert!(says("gpheal.io/maintenance=\"disk is swapped, \\\"Ann\\\"\"\n").maintenance);
        assert!(!says("gpheal.io/maintenance=\"false\"\n").maintenance);
        assert_eq!(says("gpheal.io/node-gone=\"n2\"\n").gone_node.as_deref(), Some("n2"));
        assert_eq!(says("gpheal.io/node-gone=\"\"\n").gone_node, None);
        assert_eq!(says("gpheal.io/not-replaced=\"5\"\n").not_replaced, Some(Dbid(5)));
        assert_eq!(says("gpheal.io/not-replaced=\"yes\"\n").not_replaced, None, "it has to name the dbid");
        assert_eq!(says("gpheal.io/coordinator-timeline=\"2\"\n").coordinator_timeline, Some(Timeline(2)));
        assert_eq!(read(Path::new("/nowhere/annotations")), None, "not readable says nothing");
    }
}
