//! Whether every Geth of a selector is peered with every other, as the Geths themselves say.

use crate::cluster::Namespace;
use crate::geth::{self, Geth};
use crate::{node, pods, registry, wait};
use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// The port on which sidecars answer `/status`, and show themselves to people.
pub const SIDECAR_PORT: u16 = 9575;

/// Asks the Geths of a selector, each once.
///
/// # Errors
/// When not exactly `expected` pods live, or one of them does not answer.
pub async fn ask(namespace: &Namespace, selector: &str, expected: usize) -> Result<Vec<Geth>> {
    let pods = pods::exactly(namespace, selector, expected).await?;
    try_join_all(pods.iter().map(|pod| geth::ask(namespace, pod))).await
}

/// Waits until exactly `expected` Geths are a full mesh, and returns them.
///
/// # Errors
/// When they are not in time: with the matrix of links and what each sidecar has to say about it.
pub async fn full(namespace: &Namespace, selector: &str, expected: usize) -> Result<Vec<Geth>> {
    full_within(namespace, selector, expected, wait::PODS).await
}

/// As [`full`], with a deadline of its own.
///
/// # Errors
/// As [`full`].
pub async fn full_within(namespace: &Namespace, selector: &str, expected: usize, limit: Duration) -> Result<Vec<Geth>> {
    let what = format!("all {expected} Geths of {selector} are peered");
    match wait::until(&what, limit, async || is_full(namespace, selector, expected).await).await {
        Ok(geths) => Ok(geths),
        Err(error) => Err(error.context(statuses(namespace, selector).await)),
    }
}

/// The Geths, if there are exactly `expected` and they are a full mesh at this moment.
///
/// # Errors
/// When they are not: with the matrix of links.
pub async fn is_full(namespace: &Namespace, selector: &str, expected: usize) -> Result<Vec<Geth>> {
    let geths = ask(namespace, selector, expected).await?;
    all_linked(&geths)?;
    Ok(geths)
}

/// Whether each of these Geths is a peer of every other one.
///
/// # Errors
/// When they are not: with the matrix of links.
pub fn all_linked(geths: &[Geth]) -> Result<()> {
    let links: usize = geths.iter().map(|geth| links_within(geth, geths)).sum();
    ensure!(links == geths.len() * geths.len().saturating_sub(1), "links are missing:\n{}", matrix(geths));
    Ok(())
}

/// As [`full`], and the registry holds exactly these Geths.
///
/// # Errors
/// When either is not so in time.
pub async fn full_and_registered(namespace: &Namespace, selector: &str, expected: usize) -> Result<Vec<Geth>> {
    let geths = full(namespace, selector, expected).await?;
    registry::holds_exactly(namespace, &geths).await?;
    Ok(geths)
}

/// How many of the Geths are peers of this one.
pub fn links_within(geth: &Geth, geths: &[Geth]) -> usize {
    geths.iter().filter(|other| geth.links.contains_key(&other.key)).count()
}

/// Who lists whom: `x` a link, `-` none.
fn matrix(geths: &[Geth]) -> String {
    let mut text = String::new();
    for row in geths {
        let cell = |column: &Geth| match () {
            () if row.key == column.key => '.',
            () if row.links.contains_key(&column.key) => 'x',
            () => '-',
        };
        let cells: String = geths.iter().map(cell).collect();
        let strangers = row.links.keys().filter(|key| geths.iter().all(|geth| geth.key != **key)).count();
        let _ = write!(text, "  {cells}  {} at {}", row.pod, row.ip);
        let _ = writeln!(text, "{}", if strangers == 0 { String::new() } else { format!(" (and {strangers} others)") });
    }
    text
}

/// What the sidecar of a pod says of itself and of every link.
///
/// # Errors
/// When it does not answer.
pub async fn status(namespace: &Namespace, pod: &str) -> Result<Value> {
    let text = pods::request(namespace, pod, SIDECAR_PORT, "status", None).await?;
    serde_json::from_str(&text).with_context(|| format!("{pod} says {text}"))
}

/// The counter of all that a sidecar asks of the API server, answered or not.
const API_REQUESTS: &str = "geth_peering_api_requests_total{";

/// How many requests the sidecar beside each of these Geths has made of the API server since it started, whatever it
/// asked. Nobody but the sidecars can tell their requests from others'. Works without an API server.
///
/// # Errors
/// When one of them does not answer.
pub async fn api_requests(geths: &[Geth]) -> Result<Vec<u64>> {
    try_join_all(geths.iter().map(async |geth| {
        let address = format!("{}:{SIDECAR_PORT}", geth.ip);
        let metrics = node::shell(&geth.node, r#"curl -sfm 5 "http://$1/metrics""#, &[&address]).await?;
        let counters = metrics.lines().filter(|line| line.starts_with(API_REQUESTS));
        let counts = counters.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<u64>());
        counts.sum::<Result<_, _>>().with_context(|| format!("{} says {metrics}", geth.pod))
    }))
    .await
}

/// What the sidecars say, one line each.
pub async fn statuses(namespace: &Namespace, selector: &str) -> String {
    let pods = match pods::live(namespace, selector).await {
        Ok(pods) => pods,
        Err(error) => return error.to_string(),
    };
    let ask = async |name: String| match status(namespace, &name).await {
        Ok(status) => format!("  {name}: {status}\n"),
        Err(error) => format!("  {error}\n"),
    };
    let names = pods.iter().map(kube::ResourceExt::name_any);
    format!("the sidecars say:\n{}", join_all(names.map(ask)).await.concat())
}
