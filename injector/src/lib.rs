//! The injector: a mutating webhook that puts the peering sidecar into opted-in pods.
//!
//! What decides is pure ([`inject`], [`manifest`], [`workload`], [`prepare::index`], [`tls::ca`]); what acts decides nothing.
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
mod bodies;
pub mod check;
pub mod cli;
pub mod config;
mod connections;
pub mod decision;
pub mod events;
pub mod handler;
pub mod inject;
pub mod manifest;
pub mod metrics;
mod object;
mod owner;
pub mod prepare;
pub mod readiness;
pub mod review;
pub mod run;
pub mod scope;
pub mod server;
pub mod tls;
pub mod workload;
