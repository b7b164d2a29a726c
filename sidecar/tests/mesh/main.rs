//! Do sidecars make a mesh, and keep it? Whole sidecars, each with a fake Geth on a
//! real socket, on one in-memory API server, in tokio's paused time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall fail where it stands")]

mod addresses;
mod large;
mod lists;
mod logs;
mod network;
mod peering;
mod readiness;
mod registry_trouble;
mod told;
mod twins;
