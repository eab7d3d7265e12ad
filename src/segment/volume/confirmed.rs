//! How far the log is that an acting primary's mirror has confirmed to have on its disk, on the primary's own volume: what a
//! mirror that was put back on an older copy has forgotten, when it is promoted and its primary is the only one left to tell.

use serde::{Deserialize, Serialize};

use super::{Volume, commits::Alone, marks::MarkError};
use model::{Lsn, Reach, Timeline};

/// File name in the folder of marks.
const FILE: &str = "confirmed.json";

#[derive(Serialize, Deserialize)]
struct Written {
    timeline: Timeline,
    end: Lsn,
}

impl Volume {
    /// The highest position of the newest timeline that was confirmed; `None`: none was ever seen to be.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn confirmed(&self) -> Result<Option<Reach>, MarkError> {
        Ok(self.read::<Written>(FILE)?.map(|Written { timeline, end }| Reach { timeline, end }))
    }

    /// Writes down that a mirror has confirmed all up to there. A position never goes back on its timeline, whatever a mirror says
    /// later: what it confirmed once was acknowledged.
    ///
    /// # Errors
    /// [`MarkError`]; over what cannot be read nothing is written, as it may say more.
    pub fn confirm(&self, Reach { timeline, end }: Reach) -> Result<(), MarkError> {
        match self.confirmed()? {
            Some(known) if known.timeline == timeline && known.end >= end => Ok(()),
            Some(_) | None => self.write(FILE, &Written { timeline, end }),
        }
    }

    /// What a mirror had confirmed is of a history that a person leaves behind; what was acknowledged alone is here all the same.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn forget_confirmed(&self) -> Result<(), MarkError> {
        self.remove(FILE)
    }

    /// Nothing of what was acknowledged counts any more.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn forget_acknowledged(&self) -> Result<(), MarkError> {
        self.note_alone(Alone::Nothing)?;
        self.forget_confirmed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_confirmed_once_is_never_less_on_its_timeline() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let at = |timeline, end| Reach { timeline: Timeline(timeline), end: Lsn(end) };
        assert_eq!(volume.confirmed().unwrap(), None);
        for (seen, stands) in [(at(1, 50), at(1, 50)), (at(1, 40), at(1, 50)), (at(1, 60), at(1, 60)), (at(2, 10), at(2, 10))] {
            volume.confirm(seen).unwrap();
            assert_eq!(volume.confirmed().unwrap(), Some(stands));
        }
        std::fs::write(volume.mark(FILE), "{\"timeline\":").unwrap();
        volume.confirm(at(2, 5)).unwrap_err();
        volume.confirmed().unwrap_err();
        volume.forget_acknowledged().unwrap();
        assert_eq!(volume.confirmed().unwrap(), None);
    }
}
