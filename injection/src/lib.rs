//! What becomes of an object under review: the decision, and the patch that carries it out.
//!
//! Pure, and a crate of its own for two reasons: nothing in it can reach a cluster, and it is what the injector does for
//! every pod, so that it is compiled for speed while all else is compiled to be small.
#![forbid(unsafe_code)]

pub mod decision;
pub mod inject;
mod object;
pub mod review;
pub mod workload;
