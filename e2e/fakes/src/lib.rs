//! Stand-ins for what the product talks to: [`apiserver::ApiServer`] for Kubernetes,
//! [`geth::FakeGeth`] for Geth, and [`original::Original`] for the sidecar before it. The first two keep their state in memory, follow tokio's clock
//! (so they work under `tokio::time::pause`), and do the same thing every time.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "only tests use this crate, and a test that misuses it shall fail where it does"
)]

pub mod apiserver;
pub mod geth;
pub mod original;
