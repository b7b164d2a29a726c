//! The registry: the one ConfigMap in which the sidecars of a namespace tell
//! each other which Geths there are. One key per pod, written by its owner alone.

pub mod entry;
pub mod store;
pub mod view;
