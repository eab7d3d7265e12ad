//! The incarnations of this instance as a primary, on its own volume: what a copy of the volume takes with it.

use super::{Volume, marks::MarkError};
use model::{Incarnation, Lsn, Timeline};
use serde::{Deserialize, Serialize};

/// File name in the folder of marks.
const FILE: &str = "incarnations.json";
/// As many are kept; each is a crash or a restart, and a mirror that missed so many has to be judged by its bytes.
const KEPT: usize = 32;

#[derive(Default, Serialize, Deserialize)]
struct Written {
    incarnations: Vec<Incarnation>,
}

impl Volume {
    /// Those that stand on the volume, oldest first.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn incarnations(&self) -> Result<Vec<Incarnation>, MarkError> {
        Ok(self.read::<Written>(FILE)?.unwrap_or_default().incarnations)
    }

    /// Writes down another one, which begins at `began` of `timeline`. It has to last before postgres takes a write.
    ///
    /// # Errors
    /// [`MarkError`]; the nonce that the kernel does not give is an error of the file that gives it.
    pub fn begin_incarnation(&self, timeline: Timeline, began: Lsn) -> Result<Vec<Incarnation>, MarkError> {
        let mut incarnations = self.incarnations()?;
        let number = incarnations.last().map_or(1, |last| last.number + 1);
        incarnations.push(Incarnation { number, nonce: nonce()?, timeline, began });
        let surplus = incarnations.len().saturating_sub(KEPT);
        incarnations.drain(..surplus);
        let written = Written { incarnations };
        self.write(FILE, &written)?;
        Ok(written.incarnations)
    }

    /// The directory follows a primary on this timeline now: what it began itself on that one, or on a later, belongs to a history
    /// that was given up, and its next promotion may make a timeline of the same number. A list that cannot be read begins anew.
    ///
    /// # Errors
    /// [`MarkError`]: it cannot be written.
    pub fn abandon_incarnations(&self, followed: Timeline) -> Result<(), MarkError> {
        let known = self.incarnations();
        if matches!(&known, Ok(all) if all.iter().all(|one| one.timeline < followed)) {
            return Ok(());
        }
        let incarnations = known.unwrap_or_default().into_iter().filter(|one| one.timeline < followed).collect();
        self.write(FILE, &Written { incarnations })
    }

    /// The newest one began at `position` at the latest.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn incarnation_began_by(&self, position: Lsn) -> Result<(), MarkError> {
        let mut incarnations = self.incarnations()?;
        match incarnations.last_mut().filter(|last| last.began > position) {
            Some(last) => last.began = position,
            None => return Ok(()),
        }
        self.write(FILE, &Written { incarnations })
    }
}

fn nonce() -> Result<String, MarkError> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(path).map_err(|source| MarkError::Io { path: path.into(), source })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_number_and_a_nonce_of_its_own_and_old_ones_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        assert_eq!(volume.incarnations().unwrap(), []);
        for position in 1..=40 {
            volume.begin_incarnation(Timeline(1), Lsn(position)).unwrap();
        }
        let all = volume.incarnations().unwrap();
        volume.incarnation_began_by(Lsn(41)).unwrap();
        assert_eq!((all.len(), all[0].number, all[31].number, all[31].began), (32, 9, 40, Lsn(40)));
        let nonces: std::collections::BTreeSet<_> = all.iter().map(|one| &one.nonce).collect();
        assert_eq!(nonces.len(), 32);
        volume.incarnation_began_by(Lsn(39)).unwrap();
        assert_eq!(volume.incarnations().unwrap()[31], Incarnation { began: Lsn(39), ..all[31].clone() });
    }

    #[test]
    fn what_cannot_be_read_is_no_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        std::fs::write(volume.mark(FILE), "{").unwrap();
        assert!(volume.incarnations().is_err() && volume.begin_incarnation(Timeline(1), Lsn(1)).is_err());
    }

    #[test]
    fn one_that_follows_again_gives_up_what_it_began_on_that_timeline_and_later() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        volume.abandon_incarnations(Timeline(1)).unwrap();
        for timeline in [1, 2, 3] {
            volume.begin_incarnation(Timeline(timeline), Lsn(u64::from(timeline))).unwrap();
        }
        let left = |followed| {
            volume.abandon_incarnations(Timeline(followed)).unwrap();
            volume.incarnations().unwrap().iter().map(|one| one.timeline.0).collect::<Vec<_>>()
        };
        assert_eq!((left(4), left(2)), (vec![1, 2, 3], vec![1]));
        std::fs::write(volume.mark(FILE), "{").unwrap();
        assert_eq!(left(2), Vec::<u32>::new(), "of the directory that was replaced");
    }
}
