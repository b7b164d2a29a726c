//! The registry's I/O: one ConfigMap, watched by name, written key by key.
//!
//! No write here can lose another sidecar's: an assert is a merge patch of the own
//! key alone, which the API server applies to whatever the object is at that
//! moment, and a removal is a JSON Patch that first tests for the exact value that
//! was judged. Every call has a deadline of its own, because kube's client has none.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::{TryStreamExt, pin_mut};
use json_patch::jsonptr::PointerBuf;
use json_patch::{Patch as JsonPatch, PatchOperation, RemoveOperation, TestOperation};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, Error as KubeError};
use serde_json::json;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::view::View;
use crate::backoff::Backoff;

/// How long a call to the API server may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How long one watch lasts, in seconds; the API server ends it then. Its upper bound is 295 (kube).
const WATCH_SECONDS: u32 = 290;
/// How long a watch may be silent before it counts as dead. The API server sends a
/// bookmark about once a minute (apiserver/pkg/storage/cacher, `bookmarkFrequency`).
const WATCH_SILENCE: Duration = Duration::from_secs(150);
/// How long to wait after a watch failed.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// How often the object is read where watching is forbidden: fast after
/// a change, slower while nothing changes.
const POLL: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// One name for all sidecars: with one each, `managedFields` would grow with the network.
const FIELD_MANAGER: &str = "geth-peering-sidecar";

/// Why the API server did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No answer within [`DEADLINE`].
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Timeout,
    /// It said no, or could not be reached.
    #[error(transparent)]
    Api(#[from] KubeError),
}

/// What a decision needs to know of a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The service account has no right to this.
    Forbidden,
    /// Anything else; it may work the next time.
    Other,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
pub enum Sight {
    /// The registry as it is now.
    Seen(View),
    /// The registry cannot be seen at the moment, for the reason given; it is tried again.
    Blind(String),
}

/// The registry's ConfigMap. Clones share one client.
#[derive(Debug, Clone)]
pub struct Store {
    configmaps: Api<ConfigMap>,
    pods: Api<Pod>,
    name: String,
}

impl Store {
    /// The ConfigMap `name` in `namespace`, reached by `client`.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            configmaps: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
            name: name.to_owned(),
        }
    }

    /// Makes `pod`'s value be `value`, creating the ConfigMap if there is none, and
    /// returns the registry as it is then. Writes nothing if it is so already.
    ///
    /// # Errors
    /// If the API server does not do it in time; it may have done it all the same.
    pub async fn assert(&self, pod: &str, value: &str) -> Result<View, StoreError> {
        let patch = Patch::Merge(json!({ "data": { pod: value } }));
        let params = PatchParams::apply(FIELD_MANAGER);
        let assert = || within(self.configmaps.patch(&self.name, &params, &patch));
        match assert().await {
            Err(error) if error.code() == Some(404) => match self.create(pod, value).await {
                Err(error) if error.code() == Some(409) => assert().await,
                created => created,
            },
            asserted => asserted,
        }
        .map(|configmap| View::new(Some(&configmap)))
    }

    async fn create(&self, pod: &str, value: &str) -> Result<ConfigMap, StoreError> {
        let configmap = ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), "geth-peering".into())])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(pod.to_owned(), value.to_owned())])),
            ..ConfigMap::default()
        };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        within(self.configmaps.create(&params, &configmap)).await
    }

    /// Removes `pod`'s record if it still is `value`. Returns whether it did; if not,
    /// somebody was faster, which is as good.
    ///
    /// # Errors
    /// If the API server does not answer in time, or refuses.
    pub async fn remove(&self, pod: &str, value: &str) -> Result<bool, StoreError> {
        let path = PointerBuf::from_tokens(["data", pod]);
        let patch = Patch::Json::<()>(JsonPatch(vec![
            PatchOperation::Test(TestOperation { path: path.clone(), value: value.into() }),
            PatchOperation::Remove(RemoveOperation { path }),
        ]));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match within(self.configmaps.patch(&self.name, &params, &patch)).await {
            Ok(_) => Ok(true),
            // A failed test is 422 (apiserver/pkg/endpoints/handlers/patch.go).
            Err(error) if matches!(error.code(), Some(404 | 422)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks whether `pod` lives.
    ///
    /// # Errors
    /// If the API server does not answer in time, or forbids the question.
    pub async fn look(&self, pod: &str) -> Result<PodState, StoreError> {
        let Some(pod) = within(self.pods.get_opt(pod)).await? else { return Ok(PodState::Gone) };
        let phase = pod.status.and_then(|status| status.phase);
        Ok(match phase.as_deref() {
            Some("Succeeded" | "Failed") => PodState::Finished,
            _ => PodState::Alive {
                uid: pod.metadata.uid.unwrap_or_default(),
                terminating: pod.metadata.deletion_timestamp.is_some(),
            },
        })
    }

    /// Watches the registry for as long as somebody listens to `sights`: by a watch,
    /// or by polling where watching is forbidden. Returns when nobody listens.
    pub async fn watch(&self, sights: mpsc::Sender<Sight>) {
        let mut failures = 0;
        while !sights.is_closed() {
            let error = match self.watch_until_error(&sights, &mut failures).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            if error.kind() == StoreErrorKind::Forbidden {
                debug!(%error, "watching is forbidden, polling instead");
                self.poll(&sights).await;
                continue;
            }
            let blind = format!("cannot watch ConfigMap {}: {error}", self.name);
            let _nobody_listens = sights.send(Sight::Blind(blind)).await;
            let wait = RECONNECT.after(failures);
            failures = failures.saturating_add(1);
            sleep(wait.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    /// Lists once, then watches from there, again and again without listing. Ends in
    /// `Ok` when a new list is due or nobody listens.
    ///
    /// kube's own watcher would do, but its list has no deadline.
    async fn watch_until_error(&self, sights: &mpsc::Sender<Sight>, failures: &mut u32) -> Result<(), StoreError> {
        let by_name = format!("metadata.name={}", self.name);
        let list = within(self.configmaps.list(&ListParams::default().fields(&by_name))).await?;
        let mut version = list.metadata.resource_version.unwrap_or_default();
        let view = match list.items.first() {
            Some(configmap) => View::new(Some(configmap)),
            None => View::missing(Some(&version)),
        };
        let _nobody_listens = sights.send(Sight::Seen(view)).await;

        while !sights.is_closed() {
            let params = WatchParams::default().fields(&by_name).timeout(WATCH_SECONDS);
            let events = within(self.configmaps.watch(&params, &version)).await?;
            *failures = 0;
            pin_mut!(events);
            while let Ok(Some(event)) = timeout(WATCH_SILENCE, events.try_next()).await.unwrap_or(Ok(None)) {
                let view = match event {
                    WatchEvent::Added(configmap) | WatchEvent::Modified(configmap) => View::new(Some(&configmap)),
                    WatchEvent::Deleted(last) => View::missing(last.metadata.resource_version.as_deref()),
                    WatchEvent::Bookmark(bookmark) => {
                        version = bookmark.metadata.resource_version;
                        continue;
                    }
                    // Too old a version (410), most of the time: list anew.
                    WatchEvent::Error(error) => {
                        debug!(%error, "the watch ended");
                        return Ok(());
                    }
                };
                if let Some(seen) = view.version() {
                    version = seen.to_string();
                }
                if sights.send(Sight::Seen(view)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads the registry again and again, until watching may be allowed again.
    async fn poll(&self, sights: &mpsc::Sender<Sight>) {
        const WATCH_AGAIN: u32 = 40;
        let (mut seen, mut quiet) = (None, 0);
        for _ in 0..WATCH_AGAIN {
            let sight = match within(self.configmaps.get_opt(&self.name)).await {
                Ok(configmap) => Ok(View::new(configmap.as_ref())),
                Err(error) => Err(format!("cannot read ConfigMap {}: {error}", self.name)),
            };
            if seen.as_ref() != Some(&sight) {
                quiet = 0;
                let told = match sight.clone() {
                    Ok(view) => Sight::Seen(view),
                    Err(reason) => Sight::Blind(reason),
                };
                if sights.send(told).await.is_err() {
                    return;
                }
                seen = Some(sight);
            }
            let wait = POLL.after(quiet);
            quiet += 1;
            sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
        }
    }
}

/// Bounds a call by [`DEADLINE`].
async fn within<T>(call: impl Future<Output = Result<T, KubeError>>) -> Result<T, StoreError> {
    Ok(timeout(DEADLINE, call).await.map_err(|_elapsed| StoreError::Timeout)??)
}
