//! What is true of Greenplum and Cloudberry with streaming replication, and of nothing else.
//!
//! Another family of mirroring (filerep) would be a sibling of this folder; `model` already
//! carries its modes.

pub mod awaited;
mod bytes;
pub mod control;
pub mod dialect;
pub mod fts;
pub mod messages;
pub mod replication;
pub mod resolve;
pub mod server_log;
pub mod session;
mod settings;
pub mod size;
pub mod tablespace;
pub mod tls;
pub mod topology;
mod unread;
pub mod wal;
pub mod wire;

pub use dialect::Dialect;
pub use session::{Login, Server, Session, SessionError};
pub use tls::{Ca, Tls, TlsFault, TlsMode};
