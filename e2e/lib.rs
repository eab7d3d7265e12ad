pub mod bed;
pub mod conformance;
pub mod fixture;
pub mod scenarios;
