//! A stand-in for the sidecar whose place this product takes: it reads and writes one
//! list of enodes, `static-nodes.json`, as a whole.
//!
//! Every 1 to 15 s it reads the list, joins it with the list that it remembers, tries
//! each node's port, tells its Geth of those that answer and forgets the others. If its
//! own enode is missing in what it read, or a dead one is there, it writes the whole
//! list, without looking whether somebody else has written meanwhile. Where the key is
//! missing or an enode has a query, it dies, and is started again as by Kubernetes.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The key of the list.
pub const KEY: &str = "static-nodes.json";
/// How long Kubernetes waits at first before it starts a container again.
const RESTART: Duration = Duration::from_secs(10);

/// The Geth beside the sidecar, and the network as seen from there.
pub trait Node: Clone + Send + Sync + 'static {
    /// Its own enode, with the address of the pod; `None` while it does not answer.
    fn enode(&self) -> impl Future<Output = Option<String>> + Send;
    /// Whether something accepts TCP connections there, within 3 s.
    fn accepts(&self, address: &str) -> impl Future<Output = bool> + Send;
    /// `admin_addPeer`; says whether Geth answered.
    fn add_peer(&self, enode: &str) -> impl Future<Output = bool> + Send;
}

/// One such sidecar. Dropping it kills it.
#[derive(Debug)]
pub struct Original<N: Node> {
    configmaps: Api<ConfigMap>,
    name: String,
    node: N,
    deaths: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// It came to its end by itself.
struct Died;

impl<N: Node> Original<N> {
    /// Starts one beside `node`, on the ConfigMap `name`. `wait` says how long it waits
    /// between two looks at the list.
    pub fn start(
        configmaps: Api<ConfigMap>,
        name: &str,
        node: N,
        mut wait: impl FnMut() -> Duration + Send + 'static,
    ) -> Self {
        let deaths = Arc::new(AtomicUsize::new(0));
        let (api, counter, beside, object) = (configmaps.clone(), deaths.clone(), node.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let Err(Died) = live(&api, &object, &beside, &mut wait).await;
                counter.fetch_add(1, Ordering::Relaxed);
                sleep(RESTART).await;
            }
        });
        Self { configmaps, name: name.to_owned(), node, deaths, task }
    }

    /// How often it died of what it read.
    #[must_use]
    pub fn deaths(&self) -> usize {
        self.deaths.load(Ordering::Relaxed)
    }

    /// SIGTERM: it takes its own enode from the list.
    pub async fn terminate(self) {
        self.task.abort();
        if let (Some(own), Ok(list)) = (self.node.enode().await, read(&self.configmaps, &self.name).await) {
            let others: BTreeSet<String> = list.into_iter().filter(|enode| *enode != own).collect();
            let _whoever_ends_does_not_ask = write(&self.configmaps, &self.name, &others).await;
        }
    }
}

impl<N: Node> Drop for Original<N> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The program, up to its death.
async fn live<N: Node>(
    api: &Api<ConfigMap>,
    name: &str,
    node: &N,
    wait: &mut (impl FnMut() -> Duration + Send),
) -> Result<std::convert::Infallible, Died> {
    let own = loop {
        match node.enode().await {
            Some(own) => break own,
            None => sleep(Duration::from_secs(1)).await,
        }
    };
    if api.get_opt(name).await.map_err(|_| Died)?.is_none() {
        let configmap = ConfigMap {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some([(KEY.to_owned(), json!([own]).to_string())].into()),
            ..ConfigMap::default()
        };
        match api.create(&PostParams::default(), &configmap).await {
            // Another one was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            created => drop(created.map_err(|_| Died)?),
        }
    }
    let mut known = BTreeSet::from([own.clone()]);
    loop {
        let read = read(api, name).await?;
        let mut live = BTreeSet::from([own.clone()]);
        for enode in known.union(&read).filter(|enode| **enode != own) {
            let (_, address) = enode.rsplit_once('@').ok_or(Died)?;
            // It takes all that follows the colon for a number.
            address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).ok_or(Died)?;
            if node.accepts(address).await {
                if !node.add_peer(enode).await {
                    return Err(Died);
                }
                live.insert(enode.clone());
            }
        }
        if !read.contains(&own) || !read.is_subset(&live) {
            write(api, name, &live).await?;
        }
        known = live;
        sleep(wait()).await;
    }
}

async fn read(api: &Api<ConfigMap>, name: &str) -> Result<BTreeSet<String>, Died> {
    let data = api.get(name).await.map_err(|_| Died)?.data.unwrap_or_default();
    serde_json::from_str(data.get(KEY).ok_or(Died)?).map_err(|_| Died)
}

async fn write(api: &Api<ConfigMap>, name: &str, list: &BTreeSet<String>) -> Result<(), Died> {
    let patch = Patch::Merge(json!({ "data": { KEY: json!(list).to_string() } }));
    api.patch(name, &PatchParams::default(), &patch).await.map(drop).map_err(|_| Died)
}
