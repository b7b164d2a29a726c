//! The API server: one ConfigMap with its resource versions, and the requests that
//! the registry's store makes of it, each cut into the steps that take effect apart.
//!
//! What a watch or a list shows is the real [`View`] of the ConfigMap.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sidecar::registry::list::STATIC_NODES;
use sidecar::registry::view::View;

/// The ConfigMap's `data`.
pub(crate) type Data = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    version: u64,
    data: Option<Data>,
    /// What there was to be seen at each version that somebody may yet be shown; the last is now.
    past: Vec<View>,
}

/// A request, or what is left of it to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    /// The merge patch of one key of the ConfigMap; `again` if creating it has failed.
    Patch { pod: String, value: String, again: bool },
    /// Makes the ConfigMap, which was missing.
    Create { pod: String, value: String },
    /// The JSON patch that tests for `value` and then removes it. An eviction if `evicts`.
    Remove { pod: String, value: String, evicts: bool },
    /// The JSON patch of the list of static nodes, which tests that it still is `old`; or, of
    /// none, that nothing has changed since there was none.
    WriteList { old: Option<String>, version: Option<u64>, value: String },
    /// Asks whether the pod lives.
    Look { pod: String, value: String },
    /// What the earlier sidecar does instead of a patch: reads everything …
    ReadAll { pod: String, value: String },
    /// … and writes everything back, whatever it has become meanwhile.
    WriteAll { pod: String, value: String, data: Data },
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Written {
    /// It takes one more call.
    Next(Request),
    /// Over, with the answer that the store gives.
    Over(Result<Option<View>, ()>),
}

/// A write that changed what it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Damage {
    /// It took or changed the entry of somebody else, and was no eviction.
    LostUpdate,
    /// It evicted another value than the one that was judged.
    Misjudged,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self { version: 1, data: None, past: vec![View::missing(Some("1"))] }
    }

    pub(crate) fn data(&self) -> Option<&Data> {
        self.data.as_ref()
    }

    /// What a reader is shown now.
    pub(crate) fn view(&self) -> View {
        self.past.last().cloned().unwrap_or_default()
    }

    /// What a reader was shown one version ago.
    pub(crate) fn stale_view(&self) -> Option<View> {
        self.past.iter().rev().nth(1).cloned()
    }

    /// What a watch that has come to `version` tells next; the latest at once if `merged`.
    pub(crate) fn after(&self, version: u64, merged: bool) -> Option<View> {
        let mut later = self.past.iter().filter(|view| view.version() > Some(version));
        if merged { later.nth(1).and(self.past.last()).cloned() } else { later.next().cloned() }
    }

    /// How much of the past nobody will be shown: all up to `version`, but for `stale` earlier ones.
    fn forgettable(&self, version: u64, stale: usize) -> usize {
        let later = self.past.iter().filter(|view| view.version() > Some(version)).count();
        self.past.len().saturating_sub(later.max(1 + stale))
    }

    pub(crate) fn remembers_too_much(&self, version: u64, stale: usize) -> bool {
        self.forgettable(version, stale) > 0
    }

    pub(crate) fn forget(&mut self, version: u64, stale: usize) {
        self.past.drain(..self.forgettable(version, stale));
    }

    pub(crate) fn delete(&mut self) {
        self.become_(None);
    }

    fn become_(&mut self, data: Option<Data>) {
        if data == self.data {
            return; // A patch that changes nothing makes no version.
        }
        self.version += 1;
        let view = match &data {
            None => View::missing(Some(&self.version.to_string())),
            Some(data) => self.view().next(&ConfigMap {
                metadata: ObjectMeta { resource_version: Some(self.version.to_string()), ..ObjectMeta::default() },
                data: Some(data.clone()),
                ..ConfigMap::default()
            }),
        };
        self.data = data;
        self.past.push(view);
    }

    /// Lets a write take effect. `tested` as long as the API server honours the test in a removal.
    pub(crate) fn write(&mut self, request: Request, tested: bool) -> (Written, Option<Damage>) {
        let before = self.data.clone().unwrap_or_default();
        let (writer, judged) = match &request {
            Request::Remove { pod, value, evicts: true } => (None, Some((pod.clone(), value.clone()))),
            Request::WriteList { .. } => (Some(STATIC_NODES.to_owned()), None),
            Request::Patch { pod, .. }
            | Request::Create { pod, .. }
            | Request::Remove { pod, .. }
            | Request::Look { pod, .. }
            | Request::ReadAll { pod, .. }
            | Request::WriteAll { pod, .. } => (Some(pod.clone()), None),
        };
        let written = self.apply(request, tested);
        let after = self.data.clone().unwrap_or_default();
        let damage = before.iter().find_map(|(pod, value)| {
            let untouched = after.get(pod) == Some(value) || writer.as_ref() == Some(pod);
            match &judged {
                _ if untouched => None,
                None => Some(Damage::LostUpdate),
                Some((evicted, condemned)) => {
                    (evicted != pod || condemned != value || after.contains_key(pod)).then_some(Damage::Misjudged)
                }
            }
        });
        (written, damage)
    }

    fn apply(&mut self, request: Request, tested: bool) -> Written {
        let data = self.data.clone();
        match (request, data) {
            (Request::Patch { pod, value, .. }, Some(mut data)) => {
                data.insert(pod, value);
                self.become_(Some(data));
                Written::Over(Ok(Some(self.view())))
            }
            (Request::Patch { pod, value, again: false }, None) => Written::Next(Request::Create { pod, value }),
            (Request::Patch { again: true, .. }, None) => Written::Over(Err(())),
            (Request::Create { pod, value }, Some(_)) => Written::Next(Request::Patch { pod, value, again: true }),
            (Request::Create { pod, value }, None) => {
                self.become_(Some(Data::from([(pod, value)])));
                Written::Over(Ok(Some(self.view())))
            }
            (Request::Remove { pod, value, .. }, Some(mut data))
                if data.get(&pod).is_some_and(|v| !tested || *v == value) =>
            {
                data.remove(&pod);
                self.become_(Some(data));
                Written::Over(Ok(Some(self.view())))
            }
            (Request::WriteList { old, version, value }, Some(mut data)) => {
                let unchanged = match &old {
                    Some(old) => data.get(STATIC_NODES) == Some(old),
                    None => version.is_none_or(|version| version == self.version),
                };
                if unchanged {
                    data.insert(STATIC_NODES.to_owned(), value);
                    self.become_(Some(data));
                }
                Written::Over(Ok(Some(self.view())))
            }
            (Request::WriteList { .. }, None) => Written::Over(Ok(Some(View::default()))),
            (Request::Remove { .. } | Request::Look { .. }, _) => Written::Over(Ok(None)),
            (Request::ReadAll { pod, value }, data) => {
                Written::Next(Request::WriteAll { pod, value, data: data.unwrap_or_default() })
            }
            (Request::WriteAll { pod, value, mut data }, _) => {
                data.insert(pod, value);
                self.become_(Some(data));
                Written::Over(Ok(Some(self.view())))
            }
        }
    }
}
