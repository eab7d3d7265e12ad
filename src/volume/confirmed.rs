//! How far the log is that an acting primary's mirror has confirmed to have on its disk, on the primary's own volume: what a
//! mirror that was put back on an older copy has forgotten, when it is promoted and its primary is the only one left to tell.

use serde::{Deserialize, Serialize};

use super::{Volume, marks::MarkError};
use crate::model::{Lsn, Reach, Timeline};

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

    /// Writes down that a mirror has confirmed all up to there.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn write_confirmed(&self, Reach { timeline, end }: Reach) -> Result<(), MarkError> {
        self.write(FILE, &Written { timeline, end })
    }

    /// Nothing of what was confirmed counts any more.
    ///
    /// # Errors
    /// [`MarkError`]
    pub fn forget_confirmed(&self) -> Result<(), MarkError> {
        self.remove(FILE)
    }
}
