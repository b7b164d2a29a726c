//! The registry's I/O: one ConfigMap, watched by name, written key by key.
//!
//! No write here can lose another sidecar's: an assert is a patch of the own
//! key alone, which the API server applies to whatever the object is at that
//! moment, and a removal is a JSON Patch that first tests for the exact value that
//! was judged. Every call has a deadline of its own, because kube's client has none.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::{TryStreamExt, pin_mut};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch as JsonPatch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, Error as KubeError};
use serde_json::json;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::key;
use super::list::STATIC_NODES;
use super::view::View;
use crate::backoff::Backoff;

/// How long a call to the API server may take, unless more is said.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How long one watch lasts, in seconds; the API server ends it then. Its upper bound is 295 (kube).
const WATCH_SECONDS: u32 = 290;
/// How long a watch may be silent before it counts as dead. The API server sends a
/// bookmark about once a minute (apiserver/pkg/storage/cacher, `bookmarkFrequency`).
const WATCH_SILENCE: Duration = Duration::from_secs(75);
/// How long to wait after a watch failed.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// A watch that ends sooner than this was refused rather than served.
const WATCH_LIVES: Duration = Duration::from_secs(1);
/// How often the object is read where watching is forbidden: fast after
/// a change, slower while nothing changes.
const POLL: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// How long after watching was forbidden it is tried again: rights may be given at any time.
const WATCH_AGAIN: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
/// One name for all sidecars: with one each, `managedFields` would grow with the network.
const FIELD_MANAGER: &str = "geth-peering-sidecar";

/// Why the API server did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No answer within so long.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It ended a watch as soon as it had begun.
    #[error("the API server ended the watch at once")]
    WatchEnded,
    /// It said no, or could not be reached.
    #[error("{}", describe(.0))]
    Api(#[from] KubeError),
}

/// What a decision needs to know of a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// The service account has no right to this.
    Forbidden,
    /// Anything else; it may work the next time.
    Other,
}

/// What the API server said, or why it was not reached, without what is for programmers.
fn describe(error: &KubeError) -> String {
    if let KubeError::Api(status) = error {
        return status.message.clone();
    }
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    // Many repeat in their own words what caused them.
    words.dedup_by(|cause, error| error.contains(cause.as_str()));
    words.join(": ")
}

impl StoreError {
    /// What kind of error it is.
    pub fn kind(&self) -> StoreErrorKind {
        if self.code() == Some(403) { StoreErrorKind::Forbidden } else { StoreErrorKind::Other }
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(KubeError::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

/// What the API server says of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PodState {
    /// There is none of that name.
    Gone,
    /// It has ended and will not run again.
    Finished,
    /// It is there.
    Alive {
        /// Its UID.
        uid: String,
        /// Whether it is being deleted.
        terminating: bool,
    },
}

/// What [`Store::watch`] tells.
#[derive(Debug)]
pub enum RegistryEvent {
    /// The whole registry as it was just read: whatever was known before is void, even
    /// if it claims to be newer, as after the cluster's store was restored from a backup.
    Read(View),
    /// The registry after a change.
    Changed(View),
    /// It is being watched from now on.
    Watching,
    /// Watching is forbidden, for the reason given: the registry is read again and again instead.
    Polling(String),
    /// The registry cannot be seen at the moment, for the reason given; it is tried again.
    Lost(String),
}

/// The registry's ConfigMap. Clones share one client.
#[derive(Debug, Clone)]
pub struct Store {
    configmaps: Api<ConfigMap>,
    pods: Api<Pod>,
    namespace: String,
    name: String,
}

impl Store {
    /// The ConfigMap `name` in `namespace`, reached by `client`.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            configmaps: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Makes `pod`'s value be `value`, creating the ConfigMap if there is none, and
    /// returns the registry as it is then. Writes nothing if it is so already.
    ///
    /// # Errors
    /// If the API server does not do it within `patience`; it may have done it all the same.
    pub async fn assert(&self, pod: &str, value: &str, patience: Duration) -> Result<View, StoreError> {
        // Of a map of texts a strategic merge patch makes the same as a merge patch, for about half the work: the API server
        // need not write the whole object as JSON and read it again (apiserver/pkg/endpoints/handlers/patch.go).
        let patch = Patch::Strategic(json!({ "data": { pod: value } }));
        let params = PatchParams::apply(FIELD_MANAGER);
        let assert = || within(patience, self.configmaps.patch(&self.name, &params, &patch));
        match assert().await {
            Err(error) if error.code() == Some(404) => match self.create(pod, value).await {
                Err(error) if error.code() == Some(409) => assert().await,
                created => created,
            },
            asserted => asserted,
        }
        .map(|configmap| View::default().next(&configmap))
    }

    async fn create(&self, pod: &str, value: &str) -> Result<ConfigMap, StoreError> {
        let configmap = ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), "geth-peering".into())])),
                ..ObjectMeta::default()
            },
            // Earlier sidecars die where there is no list; it is filled by whoever keeps it.
            data: Some(BTreeMap::from([(pod.to_owned(), value.to_owned()), (STATIC_NODES.into(), "[]".into())])),
            ..ConfigMap::default()
        };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        within(DEADLINE, self.configmaps.create(&params, &configmap)).await
    }

    /// Removes `pod`'s record if it still is `value`, and returns the registry as it is
    /// then; `None` if it was another value: somebody was faster, which is as good.
    ///
    /// # Errors
    /// If the API server does not answer in time, or refuses.
    pub async fn remove(&self, pod: &str, value: &str) -> Result<Option<View>, StoreError> {
        let path = PointerBuf::from_tokens(["data", pod]);
        let patch = Patch::Json::<()>(JsonPatch(vec![
            PatchOperation::Test(TestOperation { path: path.clone(), value: value.into() }),
            PatchOperation::Remove(RemoveOperation { path }),
        ]));
        self.patch_if(&patch).await
    }

    /// Makes the list of static nodes be `value` if it still is `old`, or, with `None`, if
    /// there still is none at `version`. Returns the registry as it is then, whether it was
    /// this write that made it so or another one that was faster.
    ///
    /// # Errors
    /// If the API server does not answer in time, or refuses.
    pub async fn write_list(&self, old: Option<&str>, version: Option<u64>, value: &str) -> Result<View, StoreError> {
        let path = PointerBuf::from_tokens(["data", STATIC_NODES]);
        let operations = match old {
            Some(old) => vec![
                PatchOperation::Test(TestOperation { path: path.clone(), value: old.into() }),
                PatchOperation::Replace(ReplaceOperation { path, value: value.into() }),
            ],
            // That there is nothing cannot be tested for, but that nothing has changed.
            None => {
                let unchanged = |version: u64| {
                    let path = PointerBuf::from_tokens(["metadata", "resourceVersion"]);
                    PatchOperation::Test(TestOperation { path, value: version.to_string().into() })
                };
                let add = PatchOperation::Add(AddOperation { path, value: value.into() });
                version.map(unchanged).into_iter().chain([add]).collect()
            }
        };
        if let Some(view) = self.patch_if(&Patch::Json(JsonPatch(operations))).await? {
            return Ok(view);
        }
        let found = within(DEADLINE, self.configmaps.get_opt(&self.name)).await?;
        Ok(found.map(|configmap| View::default().next(&configmap)).unwrap_or_default())
    }

    /// Makes a JSON Patch that tests before it changes; `None` if a test failed.
    async fn patch_if(&self, patch: &Patch<()>) -> Result<Option<View>, StoreError> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match within(DEADLINE, self.configmaps.patch(&self.name, &params, patch)).await {
            Ok(configmap) => Ok(Some(View::default().next(&configmap))),
            // A failed test is 422 (apiserver/pkg/endpoints/handlers/patch.go).
            Err(error) if matches!(error.code(), Some(404 | 422)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks whether the pod with the key `pod` lives.
    ///
    /// # Errors
    /// If the API server does not answer in time, or forbids the question.
    pub async fn look(&self, pod: &str) -> Result<PodState, StoreError> {
        let (namespace, pod) = key::pod_of(pod, &self.namespace);
        let pods: Api<Pod> = Api::namespaced(self.pods.clone().into_client(), namespace);
        let Some(pod) = within(DEADLINE, pods.get_opt(pod)).await? else { return Ok(PodState::Gone) };
        let phase = pod.status.and_then(|status| status.phase);
        Ok(match phase.as_deref() {
            Some("Succeeded" | "Failed") => PodState::Finished,
            _ => PodState::Alive {
                uid: pod.metadata.uid.unwrap_or_default(),
                terminating: pod.metadata.deletion_timestamp.is_some(),
            },
        })
    }

    /// Watches the registry for as long as somebody listens to `events`: by a watch,
    /// or by polling where watching is forbidden. Returns when nobody listens.
    pub async fn watch(&self, events: mpsc::Sender<RegistryEvent>) {
        let (mut failures, mut refusals) = (0, 0);
        let mut poll = Poll::default();
        while !events.is_closed() {
            let error = match self.watch_until_error(&events, &mut failures).await {
                Ok(()) => {
                    refusals = 0;
                    continue;
                }
                Err(error) => error,
            };
            let why = format!("cannot watch ConfigMap {}: {error}", self.name);
            if error.kind() == StoreErrorKind::Forbidden {
                let _nobody_listens = events.send(RegistryEvent::Polling(why)).await;
                let until = Instant::now() + WATCH_AGAIN.after(refusals);
                refusals = refusals.saturating_add(1);
                self.poll(&events, &mut poll, until).await;
                continue;
            }
            refusals = 0;
            let _nobody_listens = events.send(RegistryEvent::Lost(why)).await;
            let wait = RECONNECT.after(failures);
            failures = failures.saturating_add(1);
            sleep(wait.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    /// Lists once, then watches from there, again and again without listing. Ends in
    /// `Ok` when a new list is due or nobody listens.
    ///
    /// kube's own watcher would do, but its list has no deadline.
    async fn watch_until_error(
        &self,
        events: &mpsc::Sender<RegistryEvent>,
        failures: &mut u32,
    ) -> Result<(), StoreError> {
        let by_name = format!("metadata.name={}", self.name);
        let list = within(DEADLINE, self.configmaps.list(&ListParams::default().fields(&by_name))).await?;
        let mut version = list.metadata.resource_version.unwrap_or_default();
        let mut view = match list.items.first() {
            Some(configmap) => View::default().next(configmap),
            None => View::missing(Some(&version)),
        };
        let _nobody_listens = events.send(RegistryEvent::Read(view.clone())).await;

        while !events.is_closed() {
            let params = WatchParams::default().fields(&by_name).timeout(WATCH_SECONDS);
            let stream = within(DEADLINE, self.configmaps.watch(&params, &version)).await?;
            let _nobody_listens = events.send(RegistryEvent::Watching).await;
            let begun = Instant::now();
            pin_mut!(stream);
            while let Ok(Some(event)) = timeout(WATCH_SILENCE, stream.try_next()).await.unwrap_or(Ok(None)) {
                view = match event {
                    WatchEvent::Added(configmap) | WatchEvent::Modified(configmap) => view.next(&configmap),
                    WatchEvent::Deleted(last) => View::missing(last.metadata.resource_version.as_deref()),
                    WatchEvent::Bookmark(bookmark) => {
                        *failures = 0;
                        version = bookmark.metadata.resource_version;
                        continue;
                    }
                    // Too old a version: list anew.
                    WatchEvent::Error(status) if status.code == 410 => {
                        debug!(%status, "the watch is too old");
                        // What was listed only now should not be.
                        return if begun.elapsed() < WATCH_LIVES { Err(StoreError::WatchEnded) } else { Ok(()) };
                    }
                    WatchEvent::Error(status) => return Err(StoreError::Api(KubeError::Api(status))),
                };
                *failures = 0;
                if let Some(seen) = view.version() {
                    version = seen.to_string();
                }
                if events.send(RegistryEvent::Changed(view.clone())).await.is_err() {
                    return Ok(());
                }
            }
            if begun.elapsed() < WATCH_LIVES {
                return Err(StoreError::WatchEnded);
            }
            *failures = 0;
        }
        Ok(())
    }

    /// Reads the registry again and again, until it is time to try watching again.
    async fn poll(&self, events: &mpsc::Sender<RegistryEvent>, poll: &mut Poll, until: Instant) {
        let mut told = false;
        while Instant::now() < until {
            let seen = match within(DEADLINE, self.configmaps.get_opt(&self.name)).await {
                Ok(Some(configmap)) => Ok(View::default().next(&configmap)),
                Ok(None) => Ok(View::default()),
                Err(error) => Err(format!("cannot read ConfigMap {}: {error}", self.name)),
            };
            let changed = poll.seen.as_ref() != Some(&seen);
            if changed {
                poll.quiet = 0;
            }
            // The first read is told in any case: meanwhile a watch was tried, and failed.
            if changed || !std::mem::replace(&mut told, true) {
                let event = match seen.clone() {
                    Ok(view) => RegistryEvent::Read(view),
                    Err(reason) => RegistryEvent::Lost(reason),
                };
                if events.send(event).await.is_err() {
                    return;
                }
                poll.seen = Some(seen);
            }
            let wait = POLL.after(poll.quiet);
            poll.quiet = poll.quiet.saturating_add(1);
            sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
        }
    }
}

/// What polling remembers from one read to the next.
#[derive(Debug, Default)]
struct Poll {
    seen: Option<Result<View, String>>,
    /// How many reads ago something changed.
    quiet: u32,
}

/// Bounds a call.
async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, KubeError>>) -> Result<T, StoreError> {
    Ok(timeout(deadline, call).await.map_err(|_elapsed| StoreError::Timeout(deadline))??)
}
