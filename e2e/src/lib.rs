//! What the tests share: a cluster, networks of real Geths as people write them, and readers of the truth.
//!
//! Whether Geths are peered is asked of the Geths themselves, never of the sidecars under test; a sidecar's own
//! view is shown only where a test fails. Every test lives in a namespace of its own ([`cluster::in_namespace`]).

pub mod admission;
pub mod api_requests;
pub mod away;
pub mod cluster;
pub mod definitions;
pub mod differences;
pub mod faults;
pub mod geth;
pub mod hostile;
pub mod install;
pub mod ipc;
pub mod manifest;
pub mod measure;
pub mod mesh;
pub mod network;
pub mod node;
pub mod pods;
pub mod registry;
pub mod report;
pub mod wait;
