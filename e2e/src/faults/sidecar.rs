//! What may happen to sidecars and their pods.

use super::scene::{Scene, none, of_pod};
use super::{Fault, Healed, When};
use crate::cluster::Namespace;
use crate::geth::Geth;
use crate::network::Network;
use crate::{mesh, node, pods, registry, wait};
use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const VICTIM: &str = "geth-1";

/// How often links are looked at during a rolling restart.
const SAMPLE: Duration = Duration::from_millis(300);

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault {
            name: "sidecar-killed",
            done: "one of three sidecars gets SIGKILL",
            healed: "it runs again, no link was down, and it has written nothing to the registry",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(ended(namespace, "kill -KILL $pid")),
        },
        Fault {
            name: "sidecar-terminated",
            done: "one of three sidecars gets SIGTERM, alone",
            healed: "it runs again, no link was down, and it has written nothing to the registry",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(ended(namespace, "kill -TERM $pid")),
        },
        Fault {
            name: "sidecar-pod-deleted",
            done: "one of three pods is deleted; its successor has another key and address",
            healed: "",
            lasts: None,
            // a_pod_comes_back asks it too.
            when: When::Alone,
            deed: |namespace, _| Box::pin(pod_deleted(namespace, DeleteParams::default())),
        },
        Fault {
            name: "sidecar-pod-deleted-by-force",
            done: "the same with --grace-period=0 --force",
            healed: "",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(pod_deleted(namespace, DeleteParams::default().grace_period(0))),
        },
        Fault {
            name: "sidecar-rolling-restart",
            done: "kubectl rollout restart of ten Geths with new keys and addresses",
            healed: "counted from when the last of them was Ready; every link is another one then, as every Geth is",
            lasts: None,
            when: When::Alone,
            deed: |namespace, _| Box::pin(rolling_restart(namespace)),
        },
        Fault {
            name: "sidecar-scaled",
            done: "scaled from 3 to 33 (--maxpeers 50), and back to 3",
            healed: "counted from scaling up until all 33 are peered, starts of 30 pods included; 33 use every dial slot, so of the first three links one that was dialed by the side that steps in may be dialed anew by the other, and no other link may go; and back at 3 none is lost",
            lasts: None,
            when: When::Alone,
            deed: |namespace, _| Box::pin(scaled(namespace)),
        },
    ]
}

/// How long a restarted sidecar might take to change the registry: it lets a change of the list settle for 1.5 s at most.
const MAY_WRITE: Duration = Duration::from_secs(4);

async fn ended(namespace: &Namespace, how: &str) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let before = registry::at_rest(namespace, &scene.geths).await?;
    let start = Instant::now();
    node::and_await_restart(namespace, VICTIM, pods::SIDECAR, how).await?;
    let healed = scene.heals(start, none).await?;
    // Nothing is awaited: that nothing is written is the question.
    tokio::time::sleep(MAY_WRITE).await;
    let after = registry::at_rest(namespace, &scene.geths).await?;
    ensure!(before == after, "the registry was written to: resource version {before:?}, then {after:?}");
    Ok(healed.with_note("registry not written to"))
}

async fn pod_deleted(namespace: &Namespace, how: DeleteParams) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let start = Instant::now();
    namespace.api::<Pod>().delete(VICTIM, &how).await?;
    scene.heals(start, of_pod(VICTIM)).await
}

async fn rolling_restart(namespace: &Namespace) -> Result<Healed> {
    const SIZE: usize = 10;
    let scene = Scene::of(namespace, Network::of(SIZE).labelled()).await?;
    let start = Instant::now();
    scene.network.restart(namespace).await?;
    let (mut worst, mut pods_of_keys) = (0, BTreeMap::new());
    let old: BTreeSet<_> = scene.geths.iter().map(|geth| geth.uid.clone()).collect();
    let deadline = Instant::now() + wait::PODS * 2;
    let selector = scene.network.selector();
    loop {
        let pods = pods::live(namespace, &selector).await.unwrap_or_default();
        let geths: Vec<Geth> =
            join_all(pods.iter().map(|pod| crate::geth::ask(namespace, pod))).await.into_iter().flatten().collect();
        worst = worst.max(SIZE * (SIZE - 1) / 2 - pairs(&geths, &mut pods_of_keys));
        let new = |pod: &Pod| pod.uid().is_some_and(|uid| !old.contains(&uid)) && pods::is_ready(pod);
        if pods.len() == SIZE && pods.iter().all(new) {
            break;
        }
        ensure!(Instant::now() < deadline, "the rollout does not end: {} pods live", pods.len());
        tokio::time::sleep(SAMPLE).await;
    }
    let rollout = start.elapsed().as_secs_f64();
    // No Geth is the one of before, so no link can be.
    let (healed, _) = scene.heals_with(SIZE, Instant::now(), |_, _| true).await?;
    let figures = format!("at most {worst} of 45 links down at once (one pod has 9); the rollout took {rollout:.0} s");
    Ok(Healed { notes: vec![figures], ..healed })
}

/// How many pairs of pods are linked, as at least one of the two says. A key stays known after its pod was replaced,
/// so that a link to a Geth that is about to end counts as one to its pod.
fn pairs(geths: &[Geth], pods_of_keys: &mut BTreeMap<String, String>) -> usize {
    pods_of_keys.extend(geths.iter().map(|geth| (geth.key.clone(), geth.pod.clone())));
    let mut pairs = BTreeSet::new();
    for geth in geths {
        for other in geth.links.keys().filter_map(|key| pods_of_keys.get(key)).filter(|other| **other != geth.pod) {
            pairs.insert(if geth.pod < *other { (&geth.pod, other) } else { (other, &geth.pod) });
        }
    }
    pairs.len()
}

async fn scaled(namespace: &Namespace) -> Result<Healed> {
    const MANY: usize = 33;
    let scene = Scene::of(namespace, Network::of(3).labelled().with_max_peers(50)).await?;
    // By their numbers each of the three dials the next. The other side steps in where that took too long, and hangs up
    // once it needs the slot: with 33 nodes everybody needs all.
    let number = |geth: &Geth| geth.pod.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
    let may_go = |one: &Geth, other: &Geth| {
        let is_next = number(one).map(|number| (number + 1) % 3) == number(other);
        let (dials, dialed) = if is_next { (one, other) } else { (other, one) };
        dialed.has_dialed(dials)
    };
    let start = Instant::now();
    scene.network.scale(namespace, MANY).await?;
    let selector = scene.network.selector();
    mesh::full_within(namespace, &selector, MANY, wait::PODS * 3).await?;
    let (up, mut geths) = scene.heals_with(MANY, start, may_go).await?;
    let [one, two, three] = &*scene.geths else { bail!("three Geths became {}", scene.geths.len()) };
    let those = [(one, two), (one, three), (two, three)].into_iter().filter(|(a, b)| may_go(a, b)).count();
    let answered = registry::entries(namespace).await?.values().map(|entry| entry.since).max().context("no entry")?;
    let since_answer = jiff::Timestamp::now().duration_since(answered).as_secs_f64();

    geths.retain(|geth| scene.geths.iter().any(|first| first.pod == geth.pod));
    let scene = Scene { geths, ..scene };
    let start = Instant::now();
    scene.network.scale(namespace, 3).await?;
    let down = scene.heals(start, none).await?;
    Ok(up
        .with_note(format!("{those} of the first 3 had been dialed by the side that steps in"))
        .with_note(format!("healed at most {since_answer:.1} s after the last Geth answered"))
        .with_note(format!("back to 3 in {:.1} s", down.after.as_secs_f64())))
}
