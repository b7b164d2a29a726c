//! The injector: a mutating webhook that puts the peering sidecar into opted-in pods.
//!
//! What decides is pure ([`injection`], [`manifest`], [`prepare::index`], [`tls::ca`]); what acts decides nothing.
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
mod bodies;
pub mod check;
pub mod cli;
pub mod config;
mod connections;
pub mod events;
pub mod handler;
pub mod manifest;
pub mod metrics;
mod owner;
pub mod prepare;
pub mod readiness;
pub mod routes;
pub mod run;
pub mod scope;
pub mod server;
pub mod tls;

pub use injection::{decision, inject, review, workload};
