//! The peering sidecar. See the library `sidecar`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

// One thread: the sidecar waits nearly all the time, and each further one costs memory.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    sidecar::run::main().await
}
