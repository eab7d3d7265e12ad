pub mod bed;
pub mod conformance;
pub mod figures;
pub mod fixture;
pub mod scenarios;
