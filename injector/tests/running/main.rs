//! The injector as a whole, against an API server in memory: real ports, real TLS, everything running.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share shall fail where something is wrong"
)]

mod admission;
mod audit;
mod certificates;
mod channels;
mod clients;
mod deadlines;
mod defaults;
mod golden;
mod namespaces;
mod stopping;
mod support;
mod told;
