//! Namespaces whose label is neither `enabled` nor `disabled`: it has no effect, which whoever wrote it should know. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;

use crate::decision::Decision;
use crate::events::Notice;
use crate::inject::{DISABLED, ENABLED, KEY};
use crate::scope::Scope;

/// What a namespace's label says.
pub(super) fn value(namespace: &PartialObjectMeta<Namespace>) -> Option<&str> {
    namespace.metadata.labels.as_ref()?.get(KEY).map(String::as_str)
}

/// An event of the namespaces that have the label as one of those whose label asks for peering: another value is as none.
pub(super) fn asking(event: Event<PartialObjectMeta<Namespace>>) -> Option<Event<PartialObjectMeta<Namespace>>> {
    match event {
        Event::Apply(namespace) if value(&namespace) != Some(ENABLED) => Some(Event::Delete(namespace)),
        Event::InitApply(namespace) if value(&namespace) != Some(ENABLED) => None,
        other => Some(other),
    }
}

/// The namespaces that were told, each with its UID and the value that it was told of: a new list shows them again.
#[derive(Debug, Default)]
pub(super) struct Mislabelled(BTreeMap<String, (Option<String>, String)>);

impl Mislabelled {
    /// What is to be said about the namespace of an event, once for each value: one in which anything would be made, were its
    /// label right.
    pub(super) fn see(&mut self, event: &Event<PartialObjectMeta<Namespace>>, scope: &Scope) -> Option<Notice> {
        let namespace = match event {
            Event::Apply(namespace) | Event::InitApply(namespace) => namespace,
            Event::Delete(namespace) => {
                self.0.remove(&namespace.name_any());
                return None;
            }
            Event::Init | Event::InitDone => return None,
        };
        let name = namespace.name_any();
        let ending = namespace.metadata.deletion_timestamp.is_some();
        let odd = value(namespace).filter(|value| ![ENABLED, DISABLED].contains(value));
        let Some(value) = odd.filter(|_| !ending && scope.has(&name)) else {
            self.0.remove(&name);
            return None;
        };
        let state = (namespace.uid(), value.to_owned());
        if self.0.get(&name) == Some(&state) {
            return None;
        }
        self.0.insert(name.clone(), state);
        Some(notice(&name, namespace.uid(), value))
    }
}

fn notice(name: &str, uid: Option<String>, value: &str) -> Notice {
    let word = Decision::BadLabel.word();
    let note = format!(
        "namespace {name} has the label {KEY}={value}, which has no effect: write {KEY}={ENABLED} if its Geths are to peer, \
         or take the label off"
    );
    // A namespace is in none; but only an Event that names itself the namespace about which it is can be written there,
    // where people look.
    let owner = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Namespace".to_owned()),
        name: Some(name.to_owned()),
        uid,
        namespace: Some(name.to_owned()),
        ..ObjectReference::default()
    };
    // Values may have letters that names may not.
    let letters: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    Notice { owner, word, note, name: Some(format!("{name}.{word}.{letters}")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, value: &str) -> PartialObjectMeta<Namespace> {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": "u", "labels": {KEY: value}}})).unwrap()
    }

    #[test]
    fn is_only_a_value_without_effect_told_and_once() {
        let (mut told, scope) = (Mislabelled::default(), Scope::all_but(["kube-system".to_owned()].into()));
        let mut see = |event: Event<_>| told.see(&event, &scope);
        for (name, value) in [("a", ENABLED), ("b", DISABLED), ("kube-system", "true")] {
            assert_eq!(see(Event::Apply(namespace(name, value))), None, "{name}");
        }
        let first = see(Event::Apply(namespace("chain", "true"))).unwrap();
        for word in ["chain", "geth-peering=true", "geth-peering=enabled"] {
            assert!(first.note.contains(word), "{word} in {}", first.note);
        }
        assert_eq!(first.word, "bad-label");
        assert_eq!(see(Event::InitApply(namespace("chain", "true"))), None, "a new list is no news");
        let second = see(Event::Apply(namespace("chain", "Enabled"))).unwrap();
        assert_ne!(first.name, second.name, "both are written");
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        assert!(second.name.unwrap().chars().all(allowed), "what an Event may be called");
        assert_eq!(see(Event::Apply(namespace("chain", ENABLED))), None);
        assert!(see(Event::Apply(namespace("chain", "true"))).is_some(), "it is wrong anew");
    }

    #[test]
    fn does_another_value_count_as_no_label() {
        let shown = |event| format!("{:?}", asking(event).map(|event| std::mem::discriminant(&event)));
        let as_it_is =
            |event: Event<PartialObjectMeta<Namespace>>| format!("{:?}", Some(std::mem::discriminant(&event)));
        let right = || namespace("chain", ENABLED);
        assert_eq!(shown(Event::Apply(right())), as_it_is(Event::Apply(right())));
        assert_eq!(shown(Event::InitApply(right())), as_it_is(Event::InitApply(right())));
        for value in ["true", DISABLED] {
            assert!(asking(Event::InitApply(namespace("chain", value))).is_none());
            let left = asking(Event::Apply(namespace("chain", value)));
            assert!(matches!(left, Some(Event::Delete(_))), "{value}: it had the label until now");
        }
    }
}
