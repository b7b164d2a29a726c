//! When something happened, as the Geths themselves wrote it down.
//!
//! Every Geth measured here logs in JSON, with times to the nanosecond, that its socket is open and that the `eth`
//! handshake with a peer is through. Nobody has to ask it for that while it is being measured: the logs are read
//! once the mesh is full. All nodes of a kind cluster share one clock, that of the machine.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Namespace;
use e2e::geth::Geth;
use e2e::network::Network;
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Logged when Geth listens on its socket (node/rpcstack.go, v1.17.5).
const ANSWERS: &str = "IPC endpoint opened";

/// Logged when the `eth` handshake is through, at the level of debugging (eth/handler.go, v1.17.5).
const CONNECTED: &str = "Ethereum peer connected";

/// A network whose Geths write down what is needed here: the links are told of by that one file, which says little else.
pub(crate) fn written_down(network: Network) -> Network {
    network.with_arg("--log.format=json").with_arg("--log.vmodule=eth/handler.go=4")
}

/// What one Geth wrote down.
pub(crate) struct Diary {
    /// Since when it answers on its socket.
    pub(crate) answers: Timestamp,
    /// Since when it is connected to whom, by node ID; only the last connection counts.
    links: BTreeMap<String, Timestamp>,
}

#[derive(Deserialize)]
struct Line {
    t: Timestamp,
    msg: String,
    #[serde(default)]
    id: String,
}

impl Diary {
    /// Reads what the Geth of a pod wrote since its container was started.
    ///
    /// # Errors
    /// When there is no log, or it does not say when Geth began to answer.
    pub(crate) async fn of(namespace: &Namespace, pod: &str) -> Result<Self> {
        let parameters = LogParams { container: Some("geth".into()), ..LogParams::default() };
        let log = namespace.api::<Pod>().logs(pod, &parameters).await?;
        let (mut answers, mut links) = (None, BTreeMap::new());
        // A few lines of Geth's are not JSON.
        for line in log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            match &*line.msg {
                ANSWERS => answers = Some(line.t),
                CONNECTED => drop(links.insert(line.id, line.t)),
                _ => {}
            }
        }
        Ok(Self { answers: answers.with_context(|| format!("{pod} does not say when it began to answer"))?, links })
    }
}

/// What Geths wrote down, in their order.
///
/// # Errors
/// As [`Diary::of`].
pub(crate) async fn diaries(namespace: &Namespace, geths: &[Geth]) -> Result<Vec<Diary>> {
    try_join_all(geths.iter().map(|geth| Diary::of(namespace, &geth.pod))).await
}

/// Since when all of them answer.
///
/// # Errors
/// When there are none.
pub(crate) fn all_answer(diaries: &[Diary]) -> Result<Timestamp> {
    diaries.iter().map(|diary| diary.answers).max().context("no Geth")
}

/// Since when each of them is linked to each other one. A link that went and came again counts from then on.
///
/// # Errors
/// When one of them did not write down a link that should be there.
pub(crate) fn full_mesh(geths: &[Geth], diaries: &[Diary]) -> Result<Timestamp> {
    let mut last = None;
    for (geth, diary) in geths.iter().zip(diaries) {
        for other in geths.iter().filter(|other| other.key != geth.key) {
            let since = diary.links.get(&other.id);
            ensure!(since.is_some(), "{} wrote nothing of its link with {}", geth.pod, other.pod);
            last = last.max(since.copied());
        }
    }
    last.context("no links")
}

/// Since when `one` is linked to all others, as both ends have it.
///
/// # Errors
/// As [`full_mesh`].
pub(crate) fn links_of(one: &Geth, geths: &[Geth], diaries: &[Diary]) -> Result<(Timestamp, Timestamp)> {
    let mut times = vec![];
    for (geth, diary) in geths.iter().zip(diaries) {
        let ids = geths.iter().filter(|other| (other.key == one.key) != (geth.key == one.key)).map(|other| &other.id);
        for id in ids {
            times.push(*diary.links.get(id).with_context(|| format!("{} wrote nothing of {id}", geth.pod))?);
        }
    }
    Ok((times.iter().min().copied().context("no links")?, times.iter().max().copied().context("no links")?))
}
