//! The peering sidecar: keeps the Geth in its pod peered with every other Geth
//! of its network.
//!
//! What decides is pure ([`enode`], [`registry::entry`], [`plan`]); what acts
//! ([`geth`], [`registry::store`], [`reconcile`]) decides nothing.
#![forbid(unsafe_code)]

pub mod advertise;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod departure;
pub mod enode;
pub mod events;
pub mod geth;
pub mod http;
pub mod identity;
pub mod jobs;
pub mod metrics;
pub mod page;
pub mod plan;
pub mod reconcile;
pub mod registry;
pub mod repeats;
pub mod requests;
pub mod run;
pub mod session;
pub mod status;
pub mod stopwatch;
pub mod telemetry;
