//! The registry as one sidecar sees it: the ConfigMap's data, taken apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;

use super::entry::{Entry, EntryError};
use super::list::{EXTERNAL_NODES, NodeList, STATIC_NODES};

/// Keys that hold something else than a pod's entry.
const RESERVED: [&str; 2] = [STATIC_NODES, EXTERNAL_NODES];

/// One key of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// The value, byte for byte: what an eviction has to quote.
    pub value: String,
    /// The value taken as an entry.
    pub entry: Result<Entry, EntryError>,
}

/// What the ConfigMap held at one moment, by pod name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct View {
    records: BTreeMap<String, Arc<Record>>,
    static_nodes: Option<Arc<NodeList>>,
    external_nodes: Option<Arc<NodeList>>,
    /// The resource version at which it was so; 0 if nobody said.
    version: u64,
}

impl View {
    /// The view of `configmap`. A value that this view has too is not taken apart again.
    pub fn next(&self, configmap: &ConfigMap) -> Self {
        let record = |pod: &str, value: &str| match self.records.get(pod) {
            Some(known) if known.value == value => Arc::clone(known),
            _ => Arc::new(Record { value: value.to_owned(), entry: Entry::parse(value) }),
        };
        let records = configmap
            .data
            .iter()
            .flatten()
            .filter(|(key, _)| !RESERVED.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), record(key, value)))
            .collect();
        let list = |key: &str, known: &Option<Arc<NodeList>>| {
            let value = configmap.data.as_ref()?.get(key)?;
            Some(match known {
                Some(known) if known.value == *value => Arc::clone(known),
                _ => Arc::new(NodeList::parse(value)),
            })
        };
        let static_nodes = list(STATIC_NODES, &self.static_nodes);
        let external_nodes = list(EXTERNAL_NODES, &self.external_nodes);
        let version = configmap.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
        Self { records, static_nodes, external_nodes, version }
    }

    /// The view when the object did not exist, at resource version `version`.
    pub fn missing(version: Option<&str>) -> Self {
        Self { version: version.and_then(|v| v.parse().ok()).unwrap_or(0), ..Self::default() }
    }

    /// Takes `newer` in the place of this view unless it is the older of the two: the
    /// answer to a write and the watch may overtake each other.
    ///
    /// Versions are compared as numbers, which Kubernetes guarantees for its own
    /// resources (KEP-5504); where they are none, the last to arrive counts.
    pub fn advance(&mut self, newer: Self) {
        if newer.version == 0 || newer.version >= self.version {
            *self = newer;
        }
    }

    /// The resource version at which it was so, where known.
    pub fn version(&self) -> Option<u64> {
        (self.version != 0).then_some(self.version)
    }

    /// The list that earlier sidecars share, if there is one.
    pub fn static_nodes(&self) -> Option<&NodeList> {
        self.static_nodes.as_deref()
    }

    /// The list of nodes outside the cluster, if there is one.
    pub fn external_nodes(&self) -> Option<&NodeList> {
        self.external_nodes.as_deref()
    }

    /// The record of `pod`.
    pub fn get(&self, pod: &str) -> Option<&Record> {
        self.records.get(pod).map(Arc::as_ref)
    }

    /// The entry of `pod`, if it has a valid one.
    pub fn entry(&self, pod: &str) -> Option<&Entry> {
        self.get(pod)?.entry.as_ref().ok()
    }

    /// All valid entries, in the order of pod names.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.iter().filter_map(|(pod, record)| Some((pod, record.entry.as_ref().ok()?)))
    }

    /// All records, in the order of pod names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.records.iter().map(|(pod, record)| (pod.as_str(), record.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn configmap(version: &str, data: &[(&str, &str)]) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() },
            data: Some(data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn does_garbage_in_one_key_leave_the_others_readable() {
        let good = format!(
            r#"{{"enode":"enode://{}@10.0.0.1:30303","networkId":1,"genesis":"0x{}","since":"2026-01-01T00:00:00Z"}}"#,
            "ab".repeat(64),
            "00".repeat(32)
        );
        let view = View::default().next(&configmap(
            "7",
            &[("geth-0", &good), ("geth-1", "garbage"), ("static-nodes.json", "[]"), ("external-nodes.json", "[]")],
        ));
        assert!(view.get("geth-0").unwrap().entry.is_ok());
        assert_eq!(view.iter().map(|(pod, _)| pod).collect::<Vec<_>>(), ["geth-0", "geth-1"]);
        assert!(view.get("geth-1").unwrap().entry.is_err());
    }

    #[test]
    fn does_a_late_answer_never_hide_what_the_watch_has_told_since() {
        let old = View::default().next(&configmap("99", &[]));
        let new = View::default().next(&configmap("100", &[("geth-0", "x")]));
        let mut view = new.clone();
        view.advance(old.clone());
        assert_eq!(view, new);
        view = old;
        view.advance(new.clone());
        assert_eq!(view, new);
    }

    #[test]
    fn is_a_deleted_configmap_empty_and_a_new_one_seen() {
        let mut view = View::default().next(&configmap("100", &[("geth-0", "x")]));
        view.advance(View::missing(Some("99")));
        assert_eq!(view.iter().count(), 1, "it was missing before it was made");
        view.advance(View::missing(Some("110")));
        assert_eq!(view.iter().count(), 0);
        view.advance(View::default().next(&configmap("120", &[("geth-0", "y")])));
        assert_eq!(view.get("geth-0").unwrap().value, "y");
    }

    #[test]
    fn are_the_lists_told_from_entries_and_from_each_other() {
        let view =
            View::default().next(&configmap("1", &[("static-nodes.json", "[]"), ("external-nodes.json", "[1]")]));
        assert_eq!(view.static_nodes().unwrap().iter().count(), 0);
        assert_eq!(view.external_nodes().unwrap().iter().count(), 1);
        let next = view.next(&configmap("2", &[("static-nodes.json", "[]")]));
        assert_eq!(next.external_nodes(), None);
        assert!(Arc::ptr_eq(view.static_nodes.as_ref().unwrap(), next.static_nodes.as_ref().unwrap()));
    }

    #[test]
    fn is_a_value_that_did_not_change_not_taken_apart_again() {
        let old = View::default().next(&configmap("1", &[("geth-0", "x"), ("geth-1", "y")]));
        let new = old.next(&configmap("2", &[("geth-0", "x"), ("geth-1", "z")]));
        assert!(Arc::ptr_eq(&old.records["geth-0"], &new.records["geth-0"]));
        assert_eq!(new.get("geth-1").unwrap().value, "z");
    }
}
