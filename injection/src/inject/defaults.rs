//! Annotations of a namespace, which hold for its pods.
//!
//! They are defaults: whatever a pod says itself, by an annotation or in what Geth and its container are told, comes
//! before them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::annotations::{INJECTED, PREFIX, UNBOUND, UNDO};
use super::text;

/// What a namespace says for its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    namespace: String,
    annotations: BTreeMap<String, String>,
}

impl Defaults {
    /// What `annotations` of `namespace` say. Only those of ours are kept, since they are kept for as long as the namespace
    /// is there; the injector's own marks say nothing.
    #[must_use]
    pub fn of(namespace: &str, annotations: &BTreeMap<String, String>) -> Self {
        let ours = |key: &str| key.starts_with(PREFIX) && ![INJECTED, UNBOUND, UNDO].contains(&key);
        let kept = annotations.iter().filter(|(key, _)| ours(key));
        Self {
            namespace: namespace.to_owned(),
            annotations: kept.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// What the annotation `key` says.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// The annotations that hold for `pod`: its own, and those of its namespace that it does not have.
    pub(super) fn with<'a>(&'a self, pod: &'a Value) -> impl Iterator<Item = Written<'a>> {
        let own = pod["metadata"]["annotations"].as_object();
        let inherited = self.annotations.iter().filter(move |(key, _)| own.is_none_or(|own| !own.contains_key(*key)));
        let own = own.into_iter().flatten().map(|(key, value)| {
            // The API server lets nothing but strings through.
            (key, value.as_str().unwrap_or_default(), None)
        });
        let inherited = inherited.map(|(key, value)| (key, value.as_str(), Some(self.namespace.as_str())));
        own.chain(inherited)
            .filter_map(|(key, value, namespace)| Some(Written { name: key.strip_prefix(PREFIX)?, value, namespace }))
    }
}

/// An annotation that holds for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written<'a> {
    /// Without the prefix.
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    /// The namespace that has it, where it is not the pod's own.
    pub(super) namespace: Option<&'a str>,
}

/// What follows an annotation of `namespace` in a sentence.
pub(super) fn of_namespace(namespace: &str) -> String {
    format!(" of namespace {}", text::shown(namespace))
}

/// Whether the pod itself has an annotation of ours that the user wrote.
pub(super) fn has_own(pod: &Value) -> bool {
    let own = pod["metadata"]["annotations"].as_object().into_iter().flatten();
    own.into_iter().any(|(key, _)| key.starts_with(PREFIX) && key != INJECTED && key != UNDO)
}
