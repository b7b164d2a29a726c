//! Many sidecars that register at the same moment, without Geths and pods: what one ConfigMap bears.
//!
//! Each is what a sidecar writes with, its store and its pauses between tries, as the account that sidecars have. All
//! are in one process, and none of them watches.

use anyhow::{Result, ensure};
use e2e::cluster::{NAME, Namespace, OPT_IN, in_namespace};
use e2e::measure::figure;
use e2e::{install, wait};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use serde_json::json;
use sidecar::plan::{patience_after, pause_after};
use sidecar::registry::store::Store;
use std::cell::Cell;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long the sidecars are given: three times of what 1,000 are to take.
const LIMIT: Duration = Duration::from_secs(90);

/// The release that the chart's FlowSchema is made for; that of the installed chart may exist.
const RELEASE: &str = "bench";

/// Registers `count` entries at once, each until the API server has taken it: first in the priority level of all service
/// accounts, then in the chart's for sidecars. Prints how long that took.
///
/// # Errors
/// If a registration was acknowledged and is lost, or if not all are in time in the chart's level.
pub(crate) async fn at_once(count: usize) -> Result<()> {
    in_namespace(async |namespace| register(namespace, count, "in the level of all accounts").await).await?;
    let registered = in_namespace(async |namespace| {
        let values = json!({"flowSchema": {"enabled": true, "namespaces": [namespace.name]}}).to_string();
        let level = install::render_template("flowschema.yaml", RELEASE, &namespace.name, &values).await?;
        install::run("kubectl", &["apply", "--filename", "-"], &level).await?;
        let registered = register(namespace, count, "in the chart's level for sidecars").await;
        install::run("kubectl", &["delete", "--filename", "-"], &level).await?;
        registered
    })
    .await?;
    ensure!(registered == count, "{registered} of {count} are registered after {} s", LIMIT.as_secs());
    Ok(())
}

/// Registers `count` entries at once, and says how many were acknowledged within [`LIMIT`].
async fn register(namespace: &Namespace, count: usize, level: &str) -> Result<usize> {
    namespace.label(json!({OPT_IN: "enabled"})).await?;
    wait::until("the namespace is prepared", wait::SOON, async || {
        namespace.api::<ServiceAccount>().get(NAME).await?;
        Ok(namespace.api::<RoleBinding>().get(NAME).await?)
    })
    .await?;
    let store = Store::new(namespace.client_of(NAME).await?, &namespace.name, NAME);

    let requests = Cell::new(0);
    let start = Instant::now();
    let mut sidecars: FuturesUnordered<_> = (0..count).map(|number| sidecar(&store, number, &requests)).collect();
    let mut acknowledged = Vec::new();
    while let Ok(Some(entry)) = timeout_at(start + LIMIT, sidecars.next()).await {
        acknowledged.push(entry);
    }
    let took = start.elapsed();
    drop(sidecars);

    let map = namespace.api::<ConfigMap>().get(NAME).await?.data.unwrap_or_default();
    let lost = acknowledged.iter().filter(|(pod, value)| map.get(pod) != Some(value)).count();
    figure(
        &format!("{count} sidecars register at once {level}"),
        format_args!(
            "{} acknowledged after {:.1} s and {} requests, {lost} of them lost",
            acknowledged.len(),
            took.as_secs_f64(),
            requests.get(),
        ),
    );
    ensure!(lost == 0, "{lost} acknowledged registrations are lost");
    Ok(acknowledged.len())
}

/// Registers one sidecar, however often that takes to be tried, and says what it wrote under which key.
async fn sidecar(store: &Store, number: usize, requests: &Cell<usize>) -> (String, String) {
    let (pod, value) = (format!("geth-{number}"), entry(number));
    let mut failures = 0;
    loop {
        requests.set(requests.get() + 1);
        if store.assert(&pod, &value, patience_after(failures)).await.is_ok() {
            return (pod, value);
        }
        failures += 1;
        sleep(pause_after(failures, &mut rand::rng())).await;
    }
}

/// An entry as a sidecar writes it.
fn entry(number: usize) -> String {
    let (high, low) = (number / 250, number % 250 + 1);
    format!(
        r#"{{"enode":"enode://{number:0128x}@10.1.{high}.{low}:30303","networkId":1337,"genesis":"0x{:064x}","podUid":"00000000-0000-4000-8000-{number:012x}","since":"2026-01-01T00:00:00Z","client":"Geth/v1.17.5-stable/linux-amd64/go1.26.8","maxPeers":50}}"#,
        1
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidecar::registry::entry::Entry;

    #[test]
    fn is_what_is_registered_an_entry() {
        assert!(Entry::parse(&entry(999)).is_ok());
    }
}
