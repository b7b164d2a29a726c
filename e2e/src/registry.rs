//! The ConfigMap in which the Geths of a namespace find each other, read as a user would read it.

use crate::cluster::{NAME, Namespace};
use crate::geth::{Geth, public_key};
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is told of one pod; fields that these tests do not need are left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Where to reach the Geth.
    pub enode: String,
    /// The UID of its pod.
    pub pod_uid: String,
    /// When this Geth was first seen answering.
    pub since: jiff::Timestamp,
}

static READS: AtomicU64 = AtomicU64::new(0);

/// How often this program has read entries: what the API server counts beyond that was somebody else's.
pub fn reads() -> u64 {
    READS.load(Ordering::Relaxed)
}

/// The ConfigMaps of a namespace.
pub fn api(namespace: &Namespace) -> Api<ConfigMap> {
    namespace.api()
}

/// The entries, by pod. What cannot be read as an entry is none.
///
/// # Errors
/// When there is no such ConfigMap.
pub async fn entries(namespace: &Namespace) -> Result<BTreeMap<String, Entry>> {
    READS.fetch_add(1, Ordering::Relaxed);
    let map = api(namespace).get(NAME).await.context("the registry")?;
    let data = map.data.unwrap_or_default();
    Ok(data.into_iter().filter_map(|(pod, text)| Some((pod, serde_json::from_str(&text).ok()?))).collect())
}

/// Whether the registry tells of exactly these Geths, with the keys, addresses and pods that they have now.
///
/// # Errors
/// When it does not; the difference is told.
pub async fn is_exactly(namespace: &Namespace, geths: &[Geth]) -> Result<()> {
    let entries = entries(namespace).await?;
    let dead: Vec<_> = entries.keys().filter(|pod| geths.iter().all(|geth| geth.pod != **pod)).collect();
    ensure!(dead.is_empty(), "the registry tells of {dead:?}, which are gone");
    for geth in geths {
        let entry = entries.get(&geth.pod).with_context(|| format!("the registry does not tell of {}", geth.pod))?;
        let key = public_key(Some(&entry.enode.clone().into()))?;
        let address = entry.enode.rsplit('@').next().and_then(|address| address.strip_suffix(":30303"));
        ensure!(key == geth.key, "the registry has another key for {}: {}", geth.pod, entry.enode);
        ensure!(address == Some(&geth.ip), "{} is at {}, not {}", geth.pod, geth.ip, entry.enode);
        ensure!(entry.pod_uid == geth.uid, "the entry of {} is that of its predecessor", geth.pod);
    }
    Ok(())
}

/// Waits until [`is_exactly`] is so.
///
/// # Errors
/// When it is not in time.
pub async fn holds_exactly(namespace: &Namespace, geths: &[Geth]) -> Result<()> {
    let what = "the registry holds exactly the Geths that live";
    wait::until(what, wait::SOON, async || is_exactly(namespace, geths).await).await
}

/// The key of the list that one sidecar keeps for all, a second after the entries: what is written last.
const LIST: &str = "static-nodes.json";

/// Waits until nothing is left to be written: entries and list name exactly these Geths. The resource version then.
///
/// # Errors
/// When it does not come to that in time.
pub async fn at_rest(namespace: &Namespace, geths: &[Geth]) -> Result<Option<String>> {
    wait::until("the registry is at rest", wait::SOON, async || {
        is_exactly(namespace, geths).await?;
        let map = api(namespace).get(NAME).await?;
        let list = map.data.unwrap_or_default().remove(LIST).with_context(|| format!("there is no {LIST}"))?;
        let listed: BTreeSet<String> = serde_json::from_str(&list).with_context(|| list.clone())?;
        let wanted = geths.iter().map(|geth| format!("enode://{}@{}:30303", geth.key, geth.ip)).collect();
        ensure!(listed == wanted, "{LIST} is {list}");
        Ok(map.metadata.resource_version)
    })
    .await
}
