//! The segment's side: `supervisor` (pid 1) and `recover` (the Job), which meet at the `volume`.

pub mod recover;
pub mod supervisor;
pub mod volume;
