//! The record in the lock's file: who holds it, or held it last. An flock proves something about one kernel only; between
//! kernels this record decides.

use std::{fs::File, io, os::unix::fs::FileExt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The record's size. Written over and never cut, so that it needs no room on a full disk, and there is no moment
/// at which nothing stands there. What it says fits into its first 512 bytes as a rule, which a disk writes whole.
const SIZE: usize = 4096;
/// A person names this node when the record itself cannot tell one.
pub const UNKNOWN_NODE: &str = "unknown";

/// Who holds the lock, as its file says. A holder on another kernel counts until it is proven gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Name of the node; empty when the container was not told.
    pub node: String,
    /// Boot id of its kernel; empty when that tells none.
    pub boot: String,
    pub pod: String,
    /// `supervisor`, or the attempt.
    pub what: String,
    /// It gave the lock back itself, and left no process behind.
    #[serde(default)]
    pub released: bool,
    /// When the record was last written, by the clock of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Timestamp>,
    /// When its kernel began, by the clock as it is now. It decides for a taker alone, so it is not written down.
    #[serde(skip)]
    pub boot_began: Option<Timestamp>,
}

impl Holder {
    /// A holder on this kernel.
    pub fn here(node: &str, pod: &str, what: &str) -> Self {
        let boot = boot().unwrap_or_default();
        let boot_began = std::fs::read_to_string("/proc/stat").ok().and_then(|stat| began(&stat));
        Self { node: node.into(), boot, pod: pod.into(), what: what.into(), released: false, written: None, boot_began }
    }

    /// The same, for somebody who has no need to tell a node that was started anew from a second kernel on it: only what
    /// is proven by this kernel counts. A Job can wait until a supervisor has taken the volume over.
    #[must_use]
    pub fn of_this_boot(self) -> Self {
        Self { boot_began: None, ..self }
    }

    /// Once `taker` has the flock, nobody of this record can live any more: it ended by itself, or it was on this kernel,
    /// or on an earlier boot of this node, or a person says that it is gone.
    pub(super) fn is_gone_for(&self, taker: &Self, gone_node: Option<&str>) -> bool {
        let same_boot = !self.boot.is_empty() && self.boot == taker.boot;
        self.released || same_boot || self.was_before(taker) || gone_node.is_some_and(|gone| gone == self.named())
    }

    /// The taker's kernel is a later boot of the same node. Pods with a kernel of their own (Kata, gVisor) are on one
    /// node with different boots at the same time, so only a boot that began after the record was written is a later one;
    /// where a clock that was set leaves that open, it is none. The clock of a node that is behind after a start is put
    /// right by itself, and its boot's beginning moves with it.
    fn was_before(&self, taker: &Self) -> bool {
        let same_node = !self.node.is_empty() && self.node == taker.node;
        let later = matches!((self.written, taker.boot_began), (Some(written), Some(began)) if written < began);
        same_node && later
    }

    /// How a person names it: its node, and when it wrote this down. What is said of one holder says nothing of a later one on the
    /// same node, however long it stays said.
    pub fn named(&self) -> String {
        match self.written {
            _ if self.what.is_empty() => UNKNOWN_NODE.into(),
            Some(written) => format!("{}@{written}", self.node),
            None => self.node.clone(),
        }
    }

    /// What nobody can read.
    fn unreadable(why: &str) -> Self {
        Self { pod: why.into(), ..Self::default() }
    }

    /// What a person has to make sure of, and what to say then.
    pub fn how_to_end(&self) -> String {
        format!(
            "make sure that whoever it was is gone, with its node or its virtual machine, or has lost the volume; then annotate this pod with gpheal.io/node-gone={}",
            self.named()
        )
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.what.is_empty() {
            return write!(f, "somebody whose record cannot be read ({})", self.pod);
        }
        let node = if self.node.is_empty() { "(no NODE_NAME)" } else { &self.node };
        write!(f, "{} in pod {} on node {node}", self.what, self.pod)
    }
}

/// Boot id of this kernel.
pub fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// `btime` in `/proc/stat`, in seconds since 1970; the kernel moves it with the clock.
fn began(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Timestamp::from_second(seconds).ok()
}

/// The record of the last holder; `None` when nobody ever wrote one. What cannot be read was somebody.
///
/// # Errors
/// That the file cannot be read now.
pub(super) fn last(file: &File) -> io::Result<Option<Holder>> {
    let metadata = file.metadata()?;
    if metadata.len() == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(metadata.len()).unwrap_or(SIZE).min(SIZE)];
    file.read_exact_at(&mut bytes, 0)?;
    let mut holder: Holder = match serde_json::from_slice(&bytes) {
        Ok(holder) => holder,
        Err(error) => return Ok(Some(Holder::unreadable(&error.to_string()))),
    };
    // An earlier version did not write down when; the file knows.
    holder.written = holder.written.or_else(|| metadata.modified().ok().and_then(|at| Timestamp::try_from(at).ok()));
    Ok(Some(holder))
}

/// Writes the record over the one that stands there.
///
/// # Errors
/// As of the file system.
pub(super) fn write_down(file: &File, holder: &Holder) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(holder)?;
    if bytes.len() >= SIZE {
        return Err(io::Error::other("the names of node and pod are too long"));
    }
    bytes.resize(SIZE - 1, b' ');
    bytes.push(b'\n');
    file.write_all_at(&bytes, 0)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-01-01T12:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn last_holder() -> Holder {
        let what = "supervisor".to_owned();
        Holder { node: "n1".into(), boot: "one".into(), pod: "a".into(), what, written: Some(at(AT)), ..Holder::default() }
    }

    fn taker(boot: &str, began: Option<Timestamp>) -> Holder {
        Holder { boot: boot.into(), boot_began: began, written: None, ..last_holder() }
    }

    #[test]
    fn another_kernel_on_the_same_node_is_elsewhere_and_a_later_boot_is_not() {
        let holder = last_holder();
        let [before, after] = [at("2026-01-01T11:59:59Z"), at("2026-01-01T12:00:01Z")].map(Some);
        assert!(holder.is_gone_for(&taker("one", before), None), "the same kernel");
        assert!(!holder.is_gone_for(&taker("two", before), None), "a second kernel, which ran when the record was written");
        assert!(holder.is_gone_for(&taker("two", after), None), "the node was started anew");
        assert!(!holder.is_gone_for(&taker("two", after).of_this_boot(), None), "a Job does not go by clocks");
        assert!(!holder.is_gone_for(&taker("two", None), None), "it cannot be told");
        assert!(!holder.is_gone_for(&Holder { node: "n2".into(), ..taker("two", after) }, None), "another node");
        assert!(!holder.is_gone_for(&Holder { node: String::new(), ..taker("two", after) }, None));
        let silent = Holder { boot: String::new(), ..holder.clone() };
        assert!(!silent.is_gone_for(&taker("", before), None), "kernels that tell no boot are not the same one");
        assert!(!Holder { written: None, ..holder.clone() }.is_gone_for(&taker("two", after), None));
        assert!(Holder { released: true, ..holder.clone() }.is_gone_for(&taker("two", before), None));
        let said = |gone: &str| holder.is_gone_for(&taker("two", before), Some(gone));
        assert!(said(&holder.named()) && said("n1@2026-01-01T12:00:00Z"), "a person says it, {}", holder.named());
        assert!(!said("n1") && !said("n2@2026-01-01T12:00:00Z"), "of this holder");
        let later = Holder { written: after, ..holder.clone() };
        assert!(!later.is_gone_for(&taker("two", before), Some(&holder.named())), "and not of the next one on the same node");
    }

    #[test]
    fn a_clock_that_was_set_keeps_a_volume_from_nobody_for_ever_and_gives_it_to_nobody() {
        let day = jiff::SignedDuration::from_hours(24);
        let holder = last_holder();
        let began = at("2026-01-01T12:10:00Z");
        assert!(!holder.is_gone_for(&taker("two", began.checked_sub(day).ok()), None), "a clock that is behind after the start");
        assert!(holder.is_gone_for(&taker("two", Some(began)), None), "and was put right: the boot's beginning moves with it");
        let ahead = Holder { written: holder.written.unwrap().checked_add(day).ok(), ..holder };
        assert!(!ahead.is_gone_for(&taker("two", Some(began)), None), "written by a clock that was ahead: a person says it");
    }

    #[test]
    fn a_record_is_written_over_and_never_cut() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::options().read(true).write(true).create(true).truncate(false).open(dir.path().join("lock")).unwrap();
        assert_eq!(last(&file).unwrap(), None, "nobody ever wrote one");
        let blocks = |file: &File| std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        for pod in ["a", "a-pod-with-a-longer-name", "b"] {
            write_down(&file, &Holder { pod: pod.into(), ..last_holder() }).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 4096);
            assert_eq!(last(&file).unwrap().unwrap().pod, pod);
        }
        assert!(blocks(&file) <= 8, "one block of the disk");
        let long = Holder { pod: "p".repeat(5000), ..last_holder() };
        assert!(write_down(&file, &long).is_err());
        assert_eq!(last(&file).unwrap().unwrap().pod, "b", "what stood there stands");
    }

    #[test]
    fn what_cannot_be_read_was_somebody() {
        let dir = tempfile::tempdir().unwrap();
        for damage in ["{\"node\":", " ", "\0\0\0", "{}"] {
            let path = dir.path().join("lock");
            std::fs::write(&path, damage).unwrap();
            let holder = last(&File::open(&path).unwrap()).unwrap().unwrap();
            assert!(!holder.is_gone_for(&Holder::here("n1", "p", "supervisor"), Some("n1")), "{damage}");
            assert!(holder.is_gone_for(&Holder::here("n1", "p", "supervisor"), Some(UNKNOWN_NODE)), "{damage}: a person says it");
            assert!(holder.how_to_end().ends_with("node-gone=unknown") && holder.to_string().contains("cannot be read"));
        }
    }

    #[test]
    fn records_are_understood_by_the_versions_before_and_after() {
        let old = r#"{"node":"n1","boot":"one","pod":"a","what":"supervisor","released":true}"#;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, old).unwrap();
        let holder = last(&File::open(&path).unwrap()).unwrap().unwrap();
        assert!(holder.released && holder.written.is_some(), "the file knows when: {holder:?}");
        let newer = old.replace("\"node\"", "\"rack\":7,\"node\"");
        std::fs::write(&path, newer).unwrap();
        assert!(last(&File::open(&path).unwrap()).unwrap().unwrap().released);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        write_down(&file, &last_holder()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "an earlier version reads it as JSON");
        assert_eq!(began("cpu 1 2\nbtime 1767268800\nprocesses 7\n"), Some(at(AT)));
        assert!(Holder::here("n1", "p", "x").boot_began.is_some());
    }
}
