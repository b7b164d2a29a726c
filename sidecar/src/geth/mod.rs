//! Geth's admin API over its unix socket.
//!
//! [`frames`] turns bytes into messages. [`ipc`] owns one connection: ids, deadlines,
//! subscriptions. [`admin`] owns the meaning: typed calls, and lenient decoding of
//! what any version of Geth answers. [`error`] says what went wrong and what a user
//! can do about it.
//!
//! A connection is never revived. Geth forgets every peer it was told of when it
//! restarts, so whoever sees [`ipc::Connection::closed`] must connect anew and
//! start from nothing, and a connection that hid a restart would hide that. One made
//! right after a kill may still reach the dying process and end at once.

pub mod admin;
pub mod error;
pub mod frames;
pub mod ipc;

pub use admin::{Admin, Eth, Listen, Network, NodeInfo, Peer, PeerEvent, PeerEventKind, PeerEvents};
pub use error::{CallError, CloseReason, ConnectError, RpcError};
pub use ipc::Connection;
