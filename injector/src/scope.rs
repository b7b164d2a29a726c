//! In which namespaces the injector works: in all of the cluster, or only in those in which it was given rights.

use std::collections::BTreeSet;

/// The namespaces in which accounts are made and bound, and pods looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Those in which the injector has Roles; `None` if it has a `ClusterRole` for all.
    pub only: Option<BTreeSet<String>>,
    /// Those in which nothing is made, whatever their labels.
    pub excluded: BTreeSet<String>,
}

impl Scope {
    /// All namespaces but these.
    #[must_use]
    pub fn all_but(excluded: BTreeSet<String>) -> Self {
        Self { only: None, excluded }
    }

    /// Whether anything may be made in `namespace`.
    #[must_use]
    pub fn has(&self, namespace: &str) -> bool {
        !self.excluded.contains(namespace) && self.only.as_ref().is_none_or(|only| only.contains(namespace))
    }

    /// The kind of role that sidecars get: one for all namespaces, or one in each.
    #[must_use]
    pub fn role_kind(&self) -> &'static str {
        if self.only.is_some() { "Role" } else { "ClusterRole" }
    }
}
