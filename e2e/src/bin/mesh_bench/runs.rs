//! One measurement each: networks of real Geths, from nothing.

use crate::moments::{self, all_answer, diaries, full_mesh, written_down};
use crate::{at_rest, logs};
use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, in_namespace, other_tests_are_gone};
use e2e::geth::{self, Geth};
use e2e::measure::figure;
use e2e::network::Network;
use e2e::{mesh, node, pods, wait};
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// Geth's own default (node/defaults.go, v1.17.5): enough for a mesh of 33.
const MAX_PEERS: usize = 50;

/// After that long a mesh that is not full counts as never full.
const NEVER: Duration = Duration::from_secs(120);

/// What a Geth may take to start when `size` of them start on two cores.
fn start(size: usize) -> Duration {
    wait::PODS + Duration::from_secs(10) * size as u32
}

/// A run that takes longer is one to look into: something waited for Geth to dial again.
const SLOW: Duration = Duration::from_secs(10);

/// How long Geths are left alone when all of them answer, before anything is asked of them.
const QUIET: Duration = Duration::from_secs(3);

/// How long a network at rest is watched on the way.
const MINUTE: Duration = Duration::from_secs(60);

/// What nodes may take to get ready for renaming sockets; on a busy machine starting a shell there takes seconds.
const PREPARED: Duration = Duration::from_secs(15);

/// For so long a Geth does not dial again whom it has dialed (`dialHistoryExpiration`, p2p/dial.go in v1.17.5).
const DIAL_HISTORY: SignedDuration = SignedDuration::from_secs(35);

/// A time until the mesh was full; `None` if it never was.
pub(crate) type Time = Option<Duration>;

/// Geths and sidecars start as they do: from the last Geth that answers to the full mesh.
pub(crate) async fn natural(size: usize, describe_at_rest: bool) -> Result<Time> {
    let network = written_down(Network::of(size).with_max_peers(MAX_PEERS).labelled());
    measure(&network, size, async |namespace| {
        all_answering(namespace, &network, size).await?;
        let Some(geths) = full(namespace, &network, size).await? else { return Ok(None) };
        let diaries = diaries(namespace, &geths).await?;
        if describe_at_rest {
            at_rest::describe(namespace, &network, &geths, MINUTE).await?;
        }
        Ok(Some(between(all_answer(&diaries)?, full_mesh(&geths, &diaries)?)))
    })
    .await
}

/// What a network costs that is left alone for so long.
pub(crate) async fn rest(size: usize, time: Duration) -> Result<()> {
    let network = Network::of(size).with_max_peers(MAX_PEERS).labelled();
    in_namespace(async |namespace| {
        network.create(namespace).await?;
        let geths = mesh::full_within(namespace, &network.selector(), size, start(size)).await?;
        at_rest::describe(namespace, &network, &geths, time).await
    })
    .await
}

/// All Geths run, and to all sidecars it seems that they begin to answer at one moment: from that to the full mesh.
///
/// The Geths open their sockets under a name at which no sidecar looks, and are renamed all at once.
pub(crate) async fn at_once(size: usize) -> Result<Time> {
    const SOCKET: &str = "/run/geth-peering/geth.ipc";
    let elsewhere = format!("/run/geth-peering/{:08x}.ipc", rand::random::<u32>());
    // The injector cannot tell what the variable means either, and takes the annotation's word for it.
    let network = written_down(Network::of(size).with_max_peers(MAX_PEERS).labelled())
        .with_annotation("geth-peering/ipc-path", SOCKET)
        .with_env("ELSEWHERE", &elsewhere)
        .with_arg("--ipcpath=$(ELSEWHERE)");
    measure(&network, size, async |namespace| {
        unpeered(namespace, &network, size).await?;
        let nodes: BTreeSet<_> = pods::exactly(namespace, &network.selector(), size)
            .await?
            .into_iter()
            .filter_map(|pod| pod.spec?.node_name)
            .collect();
        let moment = Timestamp::now() + PREPARED;
        let at = moment.as_nanosecond().to_string();
        let arguments = [&*at, &*elsewhere, SOCKET];
        let renamed = try_join_all(nodes.iter().map(|node| node::shell(node, RENAME, &arguments))).await?;
        let renamed: usize = renamed.iter().filter_map(|count| count.trim().parse::<usize>().ok()).sum();
        ensure!(renamed == size, "{renamed} sockets of {size} were renamed");
        let Some(geths) = full(namespace, &network, size).await? else { return Ok(None) };
        Ok(Some(between(moment, full_mesh(&geths, &diaries(namespace, &geths).await?)?)))
    })
    .await
}

/// Renames the sockets of all Geths of a node that have one of a certain name, at a certain moment: `MOMENT FROM TO`,
/// with the moment in nanoseconds since 1970. Prints how many there were.
const RENAME: &str = r#"
at=$1 from=$2 to=$3
set --
for socket in /proc/[0-9]*/root"$from"; do
  # Geth's and the sidecar's processes see the same one.
  if [ "$(cat "${socket%/root/*}/comm")" = geth ]; then set -- "$@" "$socket"; fi
done
left=$((at - $(date +%s%N)))
[ "$left" -gt 0 ] || { echo "the moment is over already" >&2; exit 1; }
sleep "$((left / 1000000000)).$(printf %09d $((left % 1000000000)))"
for socket; do mv "$socket" "${socket%"$from"}$to"; done
echo $#"#;

/// The limit: nobody asked for peering, and when all Geths run, `admin_addPeer` is called for each link, at all Geths
/// at once: from the first call to the full mesh.
///
/// Each Geth dials those in the half of the ring that follows it. Two that dial each other may lose 35 s, and one that
/// dials more than a third of its `--maxpeers` stops.
pub(crate) async fn bare(size: usize) -> Result<Time> {
    let network = written_down(Network::of(size).with_max_peers(MAX_PEERS));
    measure(&network, size, async |namespace| {
        let mut geths = unpeered(namespace, &network, size).await?;
        geths.sort_by(|a, b| a.key.cmp(&b.key));
        let calls = |at: usize| -> Vec<_> {
            let ahead = (1..size).filter(|ahead| 2 * ahead < size || (2 * ahead == size && at < size / 2));
            let other = ahead.map(|ahead| &geths[(at + ahead) % size]);
            other.map(|geth| ("admin_addPeer", json!([format!("enode://{}@{}:30303", geth.key, geth.ip)]))).collect()
        };
        let batches: Vec<_> = geths.iter().enumerate().map(|(at, geth)| (&geth.pod, calls(at))).collect();
        let first = Timestamp::now();
        try_join_all(batches.iter().map(|(pod, calls)| geth::batch(namespace, pod, calls))).await?;
        let called = Timestamp::now();
        let Some(geths) = full(namespace, &network, size).await? else { return Ok(None) };
        let time = between(first, full_mesh(&geths, &diaries(namespace, &geths).await?)?);
        let called = between(first, called).as_secs_f64();
        figure(&format!("{size} bare Geths: the calls were answered after"), format_args!("{called:.2} s"));
        Ok(Some(time))
    })
    .await
}

/// A pod is deleted and comes back with the same node key and another address, `runs` times: from its Geth that answers
/// to the full mesh, and from the deletion to the full mesh.
///
/// Before each, the network gets older than what Geth remembers of its dials: by then nobody dials it by itself.
pub(crate) async fn restarts(size: usize, runs: usize) -> Result<Vec<(Time, Time)>> {
    let network = written_down(Network::of(size).with_max_peers(MAX_PEERS).labelled().with_kept_keys());
    let mut times = vec![];
    measure(&network, size, async |namespace| {
        all_answering(namespace, &network, size).await?;
        let mut geths = full(namespace, &network, size).await?.context("not even the first mesh was full")?;
        for run in 1..=runs {
            let young = DIAL_HISTORY - Timestamp::now().duration_since(all_answer(&diaries(namespace, &geths).await?)?);
            tokio::time::sleep(Duration::try_from(young).unwrap_or_default() + QUIET).await;
            let before = geths[1].clone();
            let deleted = Timestamp::now();
            namespace.api::<Pod>().delete(&before.pod, &DeleteParams::default()).await?;
            wait::until("the pod is another one", wait::PODS, async || {
                let uid = namespace.api::<Pod>().get(&before.pod).await?.uid().unwrap_or_default();
                ensure!(uid != before.uid, "it is not");
                Ok(())
            })
            .await?;
            all_answering(namespace, &network, size).await?;
            let linked = wait::until("its links are new", NEVER, async || {
                let geths = mesh::full_within(namespace, &network.selector(), size, Duration::ZERO).await?;
                let diaries = diaries(namespace, &geths).await?;
                let (first, last) = moments::links_of(&geths[1], &geths, &diaries)?;
                ensure!(first > deleted, "one of them is of its predecessor");
                Ok((geths, diaries[1].answers, last))
            });
            let Ok((now, answers, last)) = linked.await else {
                times.push((None, None));
                break;
            };
            let after = &now[1];
            ensure!(before.key == after.key && before.ip != after.ip, "not the case meant: {before:?}, {after:?}");
            times.push((Some(between(answers, last)), Some(between(deleted, last))));
            figure(
                &format!("{size} Geths, one restarted, run {run} of {runs}"),
                format_args!(
                    "{:.2} s after it answers, {:.1} s after its predecessor was deleted",
                    between(answers, last).as_secs_f64(),
                    between(deleted, last).as_secs_f64()
                ),
            );
            geths = now;
        }
        Ok(None)
    })
    .await?;
    Ok(times)
}

/// Makes a network in a namespace of its own and measures it.
async fn measure(network: &Network, size: usize, run: impl AsyncFnOnce(&Namespace) -> Result<Time>) -> Result<Time> {
    let mut time = None;
    in_namespace(async |namespace| {
        if let Err(error) = other_tests_are_gone(&namespace.client).await {
            figure("others are at work on this cluster", error);
        }
        network.create(namespace).await?;
        wait::until("all pods are there", start(size), async || {
            pods::exactly(namespace, &network.selector(), size).await
        })
        .await?;
        time = run(namespace).await?;
        if time.is_none_or(|time| time > SLOW) {
            logs::keep(namespace, network, size).await?;
        }
        Ok(())
    })
    .await?;
    Ok(time)
}

/// Waits until all Geths answer, asking one at a time: they have better things to do.
async fn all_answering(namespace: &Namespace, network: &Network, size: usize) -> Result<()> {
    for pod in pods::exactly(namespace, &network.selector(), size).await? {
        let pod = pod.name_any();
        wait::until(&format!("the Geth of {pod} answers"), start(size), async || {
            geth::batch(namespace, &pod, &[("net_version", json!([]))]).await
        })
        .await?;
    }
    Ok(())
}

/// Waits until all Geths answer and have come to rest; none is anyone's peer.
async fn unpeered(namespace: &Namespace, network: &Network, size: usize) -> Result<Vec<Geth>> {
    all_answering(namespace, network, size).await?;
    tokio::time::sleep(QUIET).await;
    let geths = mesh::ask(namespace, &network.selector(), size).await?;
    ensure!(geths.iter().all(|geth| geth.links.is_empty()), "some are peers already: {geths:?}");
    Ok(geths)
}

/// Waits until the mesh is full, counting the peers of one Geth at a time; in the end all of them are asked who their
/// peers are. `None` if that never happens.
async fn full(namespace: &Namespace, network: &Network, size: usize) -> Result<Option<Vec<Geth>>> {
    let selector = network.selector();
    let outcome = async {
        for pod in pods::exactly(namespace, &selector, size).await? {
            let pod = pod.name_any();
            wait::until(&format!("{pod} has all its peers"), NEVER, async || {
                let answer = geth::batch(namespace, &pod, &[("net_peerCount", json!([]))]).await?;
                let expected = format!("{:#x}", size - 1);
                ensure!(answer[0]["result"] == *expected, "{answer} is not {expected}");
                Ok(())
            })
            .await?;
        }
        mesh::full_within(namespace, &selector, size, NEVER).await
    };
    match outcome.await {
        Ok(geths) => Ok(Some(geths)),
        Err(error) => {
            figure("a mesh that is not full", format_args!("{error:#}"));
            Ok(None)
        }
    }
}

/// From one moment to a later one; nothing if it is not later.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
