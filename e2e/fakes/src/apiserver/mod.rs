//! A Kubernetes API server in memory, to be used through a real [`kube::Client`].
//!
//! ```no_run
//! # use fakes::apiserver::{ApiServer, Fault, Verb};
//! # use k8s_openapi::api::core::v1::ConfigMap;
//! # use kube::api::{Api, Patch, PatchParams};
//! # async fn example() -> Result<(), kube::Error> {
//! let server = ApiServer::new();
//! let api: Api<ConfigMap> = Api::default_namespaced(server.client("ns"));
//!
//! // Faults and refused rights, by verb and plural name.
//! server.forbid(Verb::Watch, "configmaps");
//! server.fault(Verb::Patch, "configmaps", Fault::LoseAnswer, 1);
//!
//! // What somebody else does, past all faults and counters.
//! server.edit("ns", "geth-peering", |map: &mut ConfigMap| map.data = None);
//! assert!(server.get::<ConfigMap>("ns", "geth-peering").is_some());
//! server.delete::<ConfigMap>("ns", "geth-peering");
//!
//! // What the code under test did.
//! assert_eq!(server.count(Verb::Patch, "configmaps"), 0);
//! assert_eq!(server.writes(), 0);
//! # Ok(()) }
//! ```
//!
//! Like the real one it answers get, list, watch, create, update, merge patch, JSON
//! patch and delete for any kind of object, by its path, and lists in pages where that is asked, selected by labels, by name
//! or by a pod's phase. It keeps the rules that
//! lost updates hang on: a stale `resourceVersion` is 409, a failed `test` 422, a
//! patch that changes nothing writes nothing and makes no event, and a watch from a
//! version that is compacted away gets 410.
//!
//! Of what an object holds it validates ConfigMaps alone. Unlike the real one it knows no subresources, no
//! finalizers, no defaults and no `managedFields`, treats a strategic merge patch as
//! a merge patch, lets objects be made in namespaces that do not exist, and deletes
//! at once.

mod http;
mod store;
mod validation;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Resource;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use store::{Key, Store};

/// What a request asks for, as RBAC names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read many.
    List,
    /// Follow changes; a watch of one object by name is this verb too.
    Watch,
    /// Make a new object.
    Create,
    /// Replace an object.
    Update,
    /// Change an object, by a patch of any kind but apply.
    Patch,
    /// Remove an object.
    Delete,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this HTTP status, and nothing is done.
    Status(u16),
    /// It is never answered, and nothing is done.
    Hang,
    /// It is done, and never answered: what a client sees as a time-out.
    LoseAnswer,
    /// A watch that begins and ends at once, without an event.
    EndAtOnce,
}

/// A request that came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What was asked.
    pub verb: Verb,
    /// The kind of object, in plural: `configmaps`.
    pub plural: String,
    /// The namespace, or an empty text.
    pub namespace: String,
    /// The object's name, or an empty text for list, watch and create.
    pub name: String,
    /// The query of the URL as sent, such as `fieldManager=x&dryRun=All`.
    pub query: String,
    /// The body, or null.
    pub body: Value,
}

/// The server; clones share it.
#[derive(Debug, Clone, Default)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    /// Tells the watches to look again.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    calls: Vec<Call>,
    writes: usize,
    faults: Vec<Rule>,
    /// Watches begun in an earlier epoch end.
    epoch: u64,
    lag: Option<Lag>,
}

/// How slow the server is.
#[derive(Debug)]
struct Lag {
    most: Duration,
    rng: StdRng,
}

#[derive(Debug)]
struct Rule {
    verb: Verb,
    plural: String,
    fault: Fault,
    /// How many calls it still hits.
    left: usize,
}

impl ApiServer {
    /// An empty server.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of this server whose default namespace is `namespace`. Call it inside
    /// a tokio runtime.
    #[must_use]
    pub fn client(&self, namespace: &str) -> kube::Client {
        kube::Client::new(http::router(self.clone()), namespace)
    }

    /// Answers on a port for as long as it is polled, without TLS and without asking who is there: for programs that
    /// are told of their API server by a kubeconfig.
    ///
    /// # Errors
    /// When the port can no longer be listened to.
    pub async fn serve(&self, listener: TcpListener) -> std::io::Result<()> {
        axum::serve(listener, http::router(self.clone())).await
    }

    /// Lets the next `times` calls of this kind fail so. Faults set earlier come first.
    pub fn fault(&self, verb: Verb, plural: &str, fault: Fault, times: usize) {
        self.lock().faults.push(Rule { verb, plural: plural.to_owned(), fault, left: times });
    }

    /// Makes the server slow, as a busy one is: it begins each call and sends the news of each watch up to `most` later,
    /// by chance that begins with `seed`.
    pub fn lag(&self, most: Duration, seed: u64) {
        self.lock().lag = Some(Lag { most, rng: StdRng::seed_from_u64(seed) });
    }

    /// Waits for as long as the next call or news takes.
    async fn take_time(&self) {
        let time = self.lock().lag.as_mut().map(|lag| lag.rng.random_range(Duration::ZERO..=lag.most));
        if let Some(time) = time {
            tokio::time::sleep(time).await;
        }
    }

    /// Takes a right away: every such call is 403 until [`ApiServer::heal`]. Watches
    /// that are open go on; see [`ApiServer::close_watches`].
    pub fn forbid(&self, verb: Verb, plural: &str) {
        self.fault(verb, plural, Fault::Status(403), usize::MAX);
    }

    /// Forgets all faults and gives all rights back.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Ends all watches, as the real server does now and then.
    pub fn close_watches(&self) {
        self.lock().epoch += 1;
        self.changed.send_replace(());
    }

    /// Ends all watches and forgets the past: a watch from any version before now is
    /// answered with 410 Gone.
    pub fn compact(&self) {
        self.lock().store.compact();
        self.close_watches();
    }

    /// Ends all watches and restores one object from a backup made long ago, when
    /// versions were lower: `change` makes it what it was then.
    pub fn rewind<K>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut K))
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        self.lock().store.rewind();
        self.close_watches();
        self.edit(namespace, name, change);
    }

    /// The calls so far, in order; failed ones too.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// How many calls of this kind came, failed ones included.
    #[must_use]
    pub fn count(&self, verb: Verb, plural: &str) -> usize {
        self.lock().calls.iter().filter(|call| call.verb == verb && call.plural == plural).count()
    }

    /// How many calls changed anything.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// Forgets the calls and writes counted so far.
    pub fn forget_calls(&self) {
        let mut state = self.lock();
        state.calls.clear();
        state.writes = 0;
    }

    /// The object as it is now. `namespace` is empty for kinds without one.
    #[must_use]
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let object = self.lock().store.get(&key::<K>(namespace, name)).cloned();
        object.map(|object| serde_json::from_value(object).expect("an object of this kind"))
    }

    /// All objects of a kind in a namespace, by name.
    #[must_use]
    pub fn list<K>(&self, namespace: &str) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let all = self.lock().store.all(&key::<K>(namespace, ""));
        all.into_iter().map(|object| serde_json::from_value(object).expect("an object of this kind")).collect()
    }

    /// Makes or replaces an object, as somebody else would, and returns it with what
    /// the server adds.
    pub fn put<K>(&self, object: &K) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let meta = object.meta();
        let key =
            key::<K>(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().expect("a named object"));
        let object = serde_json::to_value(object).expect("an object is JSON");
        let stored = self.lock().store.put(&key, object);
        self.changed.send_replace(());
        serde_json::from_value(stored).expect("an object of this kind")
    }

    /// Changes an object, as somebody else would; fails the test if there is none.
    pub fn edit<K>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut K))
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let mut object: K = self.get(namespace, name).expect("an object to edit");
        change(&mut object);
        self.put(&object);
    }

    /// Removes an object, as somebody else would; says whether there was one.
    pub fn delete<K>(&self, namespace: &str, name: &str) -> bool
    where
        K: Resource<DynamicType = ()>,
    {
        let removed = self.lock().store.delete(&key::<K>(namespace, name), &Value::Null, false).is_ok();
        self.changed.send_replace(());
        removed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Key {
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    let path = format!("{}/{name}", K::url_path(&(), namespace));
    Key::parse(path.trim_end_matches('/')).expect("a path of the API")
}
