//! Measures networks of real Geths on the cluster: `mesh_bench [RUNS [SIZE...]]`, by default 5 runs of 5 and 10.
//!
//! Prints a table: seconds from the last Geth answering its sidecar to the last link up, the memory of sidecars and
//! injectors, and what the API server was asked in a minute in which nothing happened.

use anyhow::{Context, Result, ensure};
use e2e::api_requests::Requests;
use e2e::cluster::{Namespace, in_namespace, other_tests_are_gone};
use e2e::measure::{figure, median_and_worst};
use e2e::network::Network;
use e2e::{install, mesh, node, pods, wait};
use futures::future::try_join_all;
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use std::io::Write;
use std::time::Duration;

/// How long a stable network is watched.
const MINUTE: Duration = Duration::from_secs(60);

/// The part of a sidecar's `/status` that is measured.
#[derive(Deserialize)]
struct Status {
    #[serde(rename = "self")]
    own: Since,
    peers: Vec<Since>,
}

#[derive(Deserialize)]
struct Since {
    since: Timestamp,
    state: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments =
        std::env::args().skip(1).map(|argument| argument.parse().with_context(|| format!("not a number: {argument}")));
    let runs = arguments.next().transpose()?.unwrap_or(5);
    let sizes: Vec<usize> = arguments.collect::<Result<_>>()?;
    let sizes = if sizes.is_empty() { vec![5, 10] } else { sizes };
    let mut table = String::from("Geths  runs  median s  worst s\n");
    for size in sizes {
        let mut times = vec![];
        for run in 1..=runs {
            let time = mesh_time(size, run == runs).await?;
            figure(&format!("{size} Geths, run {run} of {runs}"), format_args!("{:.2} s", time.as_secs_f64()));
            times.push(time);
        }
        let (median, worst) = median_and_worst(times).context("no runs")?;
        table += &format!("{size:>5}  {runs:>4}  {:>8.2}  {:>7.2}\n", median.as_secs_f64(), worst.as_secs_f64());
    }
    std::io::stdout().write_all(table.as_bytes())?;
    Ok(())
}

/// One network from nothing: from the last Geth answering to the last link up; at rest it is looked at if asked.
async fn mesh_time(size: usize, at_rest: bool) -> Result<Duration> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    in_namespace(async |namespace| {
        other_tests_are_gone(namespace).await?;
        let network = Network::of(size).labelled();
        network.create(namespace).await?;
        mesh::full_and_registered(namespace, &network.selector(), size).await?;
        let statuses = statuses(namespace, &network, size).await?;
        let links = || statuses.iter().flat_map(|status| &status.peers);
        let connected = links().filter(|link| link.state.as_deref() == Some("connected")).count();
        ensure!(connected == size * (size - 1), "the Geths are a mesh, and the sidecars tell of {connected} links");
        let answered = statuses.iter().map(|status| status.own.since).max().context("no Geth")?;
        let linked = links().map(|link| link.since).max().context("no link")?;
        // The last link may be older than the last answer only by the clock of another sidecar.
        let time = Duration::try_from(linked.duration_since(answered)).unwrap_or_default();
        let _ = sender.send(time);
        if at_rest { describe_at_rest(namespace, &network, size).await } else { Ok(()) }
    })
    .await?;
    Ok(receiver.await?)
}

async fn statuses(namespace: &Namespace, network: &Network, size: usize) -> Result<Vec<Status>> {
    let pods = pods::exactly(namespace, &network.selector(), size).await?;
    let ask =
        async |name: String| -> Result<Status> { Ok(serde_json::from_value(mesh::status(namespace, &name).await?)?) };
    try_join_all(pods.iter().map(|pod| ask(pod.name_any()))).await
}

/// Memory, and requests to the API server in a minute.
async fn describe_at_rest(namespace: &Namespace, network: &Network, size: usize) -> Result<()> {
    wait::until("all pods are Ready", wait::PODS, async || {
        let pods = pods::exactly(namespace, &network.selector(), size).await?;
        ensure!(pods.iter().all(pods::is_ready), "some are not");
        Ok(())
    })
    .await?;
    let before = Requests::so_far(&namespace.client).await?;
    tokio::time::sleep(MINUTE).await;
    let asked = Requests::so_far(&namespace.client).await?.since(&before);
    let asked: Vec<_> = asked.iter().map(|((resource, verb), count)| format!("{count} {verb} {resource}")).collect();
    figure(&format!("{size} Geths at rest, requests a minute in the whole cluster"), asked.join(", "));
    for pod in pods::live(namespace, &network.selector()).await? {
        let name = pod.name_any();
        let kib = node::resident_kib(namespace, &name, pods::SIDECAR).await?;
        figure(&format!("resident memory of the sidecar of {name}"), format_args!("{:.1} MiB", kib as f64 / 1024.0));
    }
    let injectors = install::namespace(&namespace.client);
    for pod in install::injector_pods(&namespace.client).await? {
        for container in pods::containers(&pod) {
            let kib = node::resident_kib(&injectors, &pod.name_any(), &container.name).await?;
            figure(&format!("resident memory of {}", pod.name_any()), format_args!("{:.1} MiB", kib as f64 / 1024.0));
        }
    }
    Ok(())
}
