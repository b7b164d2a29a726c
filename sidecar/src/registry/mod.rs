//! The registry: the one ConfigMap in which the sidecars of a namespace tell
//! each other which Geths there are. One key per pod, written by its owner alone,
//! and two lists of nodes that have no sidecar of this kind.

pub mod entry;
pub mod key;
pub mod list;
pub mod store;
pub mod view;
