//! Which labelled namespace is prepared next: the background works on several at once, and on those that failed ever less
//! often. Pure: the time is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Resource, ResourceExt as _};
use tokio::time::Instant;

/// The first pause after a failed preparation; doubled up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between attempts.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Which namespaces are being prepared, and when those whose preparation failed may be tried again.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    busy: BTreeSet<String>,
    waiting: BTreeMap<String, (Duration, Instant)>,
}

/// What to do about labelled namespaces.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Prepare this namespace.
    Prepare(String),
    /// Nothing before then.
    Wait(Instant),
    /// Nothing.
    Rest,
}

impl Pauses {
    /// What to do at `now` about `unprepared` namespaces; the others are forgotten. One that is to be prepared is busy until
    /// that failed or succeeded.
    pub(super) fn next(&mut self, unprepared: &[String], now: Instant) -> Next {
        self.waiting.retain(|namespace, _| unprepared.contains(namespace));
        let until = |namespace: &String| self.waiting.get(namespace).map_or(now, |(_, until)| *until);
        let idle = unprepared.iter().filter(|namespace| !self.busy.contains(*namespace));
        match idle.min_by_key(|namespace| until(namespace)) {
            None => Next::Rest,
            Some(namespace) if until(namespace) <= now => {
                self.busy.insert(namespace.clone());
                Next::Prepare(namespace.clone())
            }
            Some(namespace) => Next::Wait(until(namespace)),
        }
    }

    /// Preparing it failed; it rests, for longer each time.
    pub(super) fn failed(&mut self, namespace: &str, now: Instant) {
        self.busy.remove(namespace);
        let pause = self.waiting.get(namespace).map_or(FIRST_PAUSE, |(pause, _)| (*pause * 2).min(MAX_PAUSE));
        self.waiting.insert(namespace.to_owned(), (pause, now + pause));
    }

    /// Whoever deletes an object may do so because it was in the way: no reason to go on waiting.
    pub(super) fn interrupt(&mut self, event: &watcher::Event<impl Resource>) {
        if let watcher::Event::Delete(object) = event {
            self.waiting.remove(&object.namespace().unwrap_or_default());
        }
    }

    /// It is prepared.
    pub(super) fn succeeded(&mut self, namespace: &str) {
        self.busy.remove(namespace);
        self.waiting.remove(namespace);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::RoleBinding;
    use serde_json::json;

    use super::*;

    #[test]
    fn is_a_failed_namespace_tried_ever_less_often_and_never_in_the_way_of_others() {
        let (mut pauses, start) = (Pauses::default(), Instant::now());
        let (a, b) = ("a".to_owned(), "b".to_owned());
        let both = [a.clone(), b.clone()];
        pauses.failed(&a, start);
        assert_eq!(pauses.next(&both, start), Next::Prepare(b.clone()));
        pauses.failed(&b, start);
        assert_eq!(pauses.next(&both, start), Next::Wait(start + FIRST_PAUSE));
        assert_eq!(pauses.next(&both, start + FIRST_PAUSE), Next::Prepare(a.clone()));
        for _ in 0..20 {
            pauses.failed(&a, start);
        }
        pauses.succeeded(&b);
        assert_eq!(pauses.next(std::slice::from_ref(&a), start), Next::Wait(start + MAX_PAUSE));
        assert_eq!(pauses.next(&[], start), Next::Rest);
        assert_eq!(pauses.next(std::slice::from_ref(&a), start), Next::Prepare(a), "it was away, so it begins anew");
    }

    #[test]
    fn is_a_namespace_that_is_being_prepared_left_to_whoever_does_it() {
        let (mut pauses, start) = (Pauses::default(), Instant::now());
        let both = ["a".to_owned(), "b".to_owned()];
        assert_eq!(pauses.next(&both, start), Next::Prepare("a".to_owned()));
        assert_eq!(pauses.next(&both, start), Next::Prepare("b".to_owned()));
        assert_eq!(pauses.next(&both, start), Next::Rest);
        pauses.failed("a", start);
        pauses.succeeded("b");
        assert_eq!(pauses.next(&both, start), Next::Prepare("b".to_owned()), "somebody has taken it apart again");
        assert_eq!(pauses.next(&both, start), Next::Wait(start + FIRST_PAUSE));
    }

    #[test]
    fn does_a_deletion_end_the_pause_of_its_namespace() {
        let (mut pauses, start) = (Pauses::default(), Instant::now());
        let namespaces = ["a".to_owned()];
        let binding = |namespace: &str| -> RoleBinding {
            let metadata = json!({"name": "geth-peering", "namespace": namespace});
            serde_json::from_value(json!({"metadata": metadata, "roleRef": {"apiGroup": "", "kind": "", "name": ""}}))
                .unwrap()
        };
        pauses.failed("a", start);
        pauses.interrupt(&watcher::Event::Apply(binding("a")));
        pauses.interrupt(&watcher::Event::Delete(binding("b")));
        assert_eq!(pauses.next(&namespaces, start), Next::Wait(start + FIRST_PAUSE));
        pauses.interrupt(&watcher::Event::Delete(binding("a")));
        assert_eq!(pauses.next(&namespaces, start), Next::Prepare("a".to_owned()));
    }
}
