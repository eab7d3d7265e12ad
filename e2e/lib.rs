pub mod bed;
pub mod fixture;
