//! Many sidecars that register at the same moment, without Geths and pods: what one ConfigMap bears.

use anyhow::{Result, ensure};
use e2e::cluster::in_namespace;
use e2e::measure::figure;
use futures::future::join_all;
use sidecar::backoff::Backoff;
use sidecar::registry::entry::Entry;
use sidecar::registry::store::Store;
use std::time::{Duration, Instant};

/// The ConfigMap's name.
const REGISTRY: &str = "geth-peering";

/// How long a sidecar waits after so many refusals before it tries again: half of this, spread over as much again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));

/// Registers `count` entries at once, as sidecars do it, each until the API server has taken it; prints how long that took,
/// and fails if one is missing then.
pub(crate) async fn at_once(count: usize) -> Result<()> {
    let entries: Vec<_> = (0..count).map(|number| (format!("geth-{number}"), entry(number))).collect();
    for (_, value) in &entries {
        Entry::parse(value)?;
    }
    in_namespace(async |namespace| {
        let store = Store::new(namespace.client.clone(), &namespace.name, REGISTRY);
        let start = Instant::now();
        let tries = join_all(entries.iter().map(async |(pod, value)| {
            let mut refused = 0;
            while store.assert(pod, value).await.is_err() {
                tokio::time::sleep((RETRY.after(refused) / 2).mul_f64(1.0 + rand::random::<f64>())).await;
                refused += 1;
            }
            refused as usize + 1
        }))
        .await;
        let took = start.elapsed();
        // To assert what is there already changes nothing, and shows all.
        let Some((pod, value)) = entries.first() else { return Ok(()) };
        let seen = store.assert(pod, value).await?;
        let registered = entries.iter().filter(|(pod, _)| seen.entry(pod).is_some()).count();
        figure(
            &format!("{count} sidecars register at once"),
            format_args!(
                "{:.1} s until the last is told so, {} requests, {registered} registered",
                took.as_secs_f64(),
                tries.iter().sum::<usize>()
            ),
        );
        ensure!(registered == count, "{} of {count} registrations are lost", count - registered);
        Ok(())
    })
    .await
}

/// An entry as a sidecar writes it.
fn entry(number: usize) -> String {
    let (high, low) = (number / 250, number % 250 + 1);
    format!(
        r#"{{"enode":"enode://{number:0128x}@10.1.{high}.{low}:30303","networkId":1337,"genesis":"0x{:064x}","podUid":"00000000-0000-4000-8000-{number:012x}","since":"2026-01-01T00:00:00Z","client":"Geth/v1.17.5-stable/linux-amd64/go1.26.8","maxPeers":50}}"#,
        1
    )
}
