//! The watches of what namespaces have of ours, each as one stream whether it is one watch or one for each namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watch_object, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::NAME;
use crate::api::steady;
use crate::inject::KEY;
use crate::scope::Scope;

/// The namespaces that have the label, whatever it says. Who may not see all of them is told of none.
pub(super) fn labelled(client: &Client, scope: &Scope) -> BoxStream<'static, Event<PartialObjectMeta<Namespace>>> {
    if scope.only.is_some() {
        return stream::pending().boxed();
    }
    let labelled = watcher::Config::default().labels(KEY);
    steady("namespaces", watcher(Api::all(client.clone()), labelled))
}

/// The objects of our name.
pub(super) fn named<K>(client: &Client, scope: &Scope, what: &'static str) -> BoxStream<'static, Event<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let Some(only) = &scope.only else {
        let named = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        return steady(what, watcher(Api::all(client.clone()), named));
    };
    let each = only.iter().map(|namespace| {
        let objects = watch_object(Api::<K>::namespaced(client.clone(), namespace), NAME);
        let namespace = namespace.clone();
        steady(what, objects).map(move |object| (namespace.clone(), object))
    });
    let mut all = Together { missing: only.clone(), current: BTreeMap::new() };
    let events = stream::select_all(each).map(move |(namespace, object)| stream::iter(all.see(namespace, object)));
    // A watch does not end, not even one of nothing.
    events.flatten().chain(stream::once(future::pending())).boxed()
}

/// The objects of several watches, of which each shows one or none.
struct Together<K> {
    /// The namespaces that have not shown what they have.
    missing: BTreeSet<String>,
    current: BTreeMap<String, K>,
}

impl<K: Clone> Together<K> {
    /// What a single watch of all would say when `namespace` shows `object`: nothing before every namespace has.
    fn see(&mut self, namespace: String, object: Option<K>) -> Vec<Event<K>> {
        let was_complete = self.missing.is_empty();
        self.missing.remove(&namespace);
        let event = match object {
            Some(object) => {
                self.current.insert(namespace, object.clone());
                Some(Event::Apply(object))
            }
            None => self.current.remove(&namespace).map(Event::Delete),
        };
        if was_complete {
            return event.into_iter().collect();
        }
        if !self.missing.is_empty() {
            return Vec::new();
        }
        let listed = self.current.values().cloned().map(Event::InitApply);
        [Event::Init].into_iter().chain(listed).chain([Event::InitDone]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(all: &mut Together<u8>, namespace: &str, object: Option<u8>) -> Vec<String> {
        all.see(namespace.to_owned(), object).iter().map(|event| format!("{event:?}")).collect()
    }

    #[test]
    fn do_the_watches_of_several_namespaces_look_like_one() {
        let mut all = Together { missing: ["a", "b", "c"].map(str::to_owned).into(), current: BTreeMap::new() };
        assert!(said(&mut all, "b", Some(1)).is_empty() && said(&mut all, "a", None).is_empty());
        assert!(said(&mut all, "b", Some(2)).is_empty(), "c is still missing");
        assert_eq!(said(&mut all, "c", Some(3)), ["Init", "InitApply(2)", "InitApply(3)", "InitDone"]);
        assert_eq!(said(&mut all, "a", Some(4)), ["Apply(4)"]);
        assert_eq!(said(&mut all, "b", None), ["Delete(2)"]);
        assert!(said(&mut all, "b", None).is_empty());
    }
}
