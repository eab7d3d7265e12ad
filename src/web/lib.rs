//! The little HTTP that supervisors and the operator speak: small pages, served and read within bounds of number, size
//! and time. Whoever is at the other end may be anybody.

pub mod read;
pub mod serve;
