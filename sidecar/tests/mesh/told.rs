//! What are people told: by Events on the pod, and by numbers?

use std::sync::Arc;
use std::time::Duration;

use fakes::apiserver::{Fault, Verb};
use fakes::geth::Config as GethConfig;
use k8s_openapi::api::core::v1::Event;
use sidecar::clock::Clock;
use sidecar::events::{self, OwnPod};
use sidecar::metrics::Metrics;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::network::{NAMESPACE, Network, PodUnderTest};

const HOUR: Duration = Duration::from_secs(3600);

/// Writes the Events of `pod`.
pub(crate) fn write_events(network: &Network, pod: &PodUnderTest) -> JoinHandle<()> {
    let number = pod.number;
    let own = OwnPod { namespace: NAMESPACE.into(), name: format!("geth-{number}"), uid: format!("uid-{number}") };
    let status = pod.sidecar.status.clone();
    tokio::spawn(events::run(network.server.client(NAMESPACE), own, status, Clock::system()))
}

#[tokio::test(start_paused = true)]
async fn is_a_geth_without_p2p_said_by_one_event_on_its_pod() {
    let network = Network::new();
    let dev = network.start_with(0, GethConfig { p2p: false, ..network.geth_config(0) });
    let _writer = write_events(&network, &dev);
    let all = || network.server.list::<Event>(NAMESPACE);
    network.until("an Event", || !all().is_empty()).await;
    // Another run of the sidecar does not say it again while the API server remembers.
    let _restarted = write_events(&network, &dev);
    sleep(HOUR).await;
    assert_eq!(all().len(), 1);
    let event = all().remove(0);
    let about = (event.involved_object.kind.as_deref(), event.involved_object.uid.as_deref());
    assert_eq!(about, (Some("Pod"), Some("uid-0")));
    assert_eq!((event.type_.as_deref(), event.reason.as_deref()), (Some("Warning"), Some("GethUnpeerable")));
    assert!(event.message.unwrap().contains("--dev"));
    assert_eq!(network.server.count(Verb::Create, "events"), 2, "once by each run in this hour");
}

#[tokio::test(start_paused = true)]
async fn is_an_event_without_the_right_to_it_tried_only_as_often_as_it_would_be_written() {
    let network = Network::new();
    network.server.forbid(Verb::Create, "events");
    let dev = network.start_with(0, GethConfig { p2p: false, ..network.geth_config(0) });
    let _writer = write_events(&network, &dev);
    sleep(2 * HOUR).await;
    assert_eq!(network.server.count(Verb::Create, "events"), 2);
    network.server.heal();
    sleep(HOUR).await;
    assert_eq!(network.server.list::<Event>(NAMESPACE).len(), 1, "the right has come");
}

#[tokio::test(start_paused = true)]
async fn is_an_event_written_though_the_api_server_was_silent_when_it_was_due() {
    let network = Network::new();
    network.server.fault(Verb::Create, "events", Fault::Hang, 3);
    let dev = network.start_with(0, GethConfig { p2p: false, ..network.geth_config(0) });
    let _writer = write_events(&network, &dev);
    network.until("an Event", || !network.server.list::<Event>(NAMESPACE).is_empty()).await;
    assert_eq!(network.server.count(Verb::Create, "events"), 4);
}

#[tokio::test(start_paused = true)]
async fn does_a_healthy_network_write_no_event() {
    let network = Network::new();
    let pods = network.start_many(3);
    let _writers: Vec<_> = pods.iter().map(|pod| write_events(&network, pod)).collect();
    network.mesh(3).await;
    sleep(HOUR).await;
    assert_eq!(network.server.count(Verb::Create, "events"), 0);
}

/// The value of a metric.
fn value(metrics: &Arc<Metrics>, pod: &PodUnderTest, name: &str) -> f64 {
    let text = metrics.render(&pod.sidecar.status.borrow());
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn do_the_numbers_tell_what_happened() {
    let network = Network::new();
    let mut pods = network.start_many(3);
    network.mesh(3).await;
    sleep(Duration::from_secs(60)).await;
    let number = |pods: &[PodUnderTest], name| value(&pods[0].sidecar.metrics, &pods[0], name);
    assert_eq!(number(&pods, "geth_peering_links_connected"), 2.0);
    let meshes = number(&pods, "geth_peering_time_to_mesh_seconds_count");
    assert!(meshes >= 1.0);
    assert!(number(&pods, "geth_peering_time_to_mesh_seconds_sum") < 10.0);
    assert!(number(&pods, r#"geth_peering_geth_calls_total{method="admin_peers",outcome="ok"}"#) >= 1.0);

    pods.push(network.start(3));
    network.mesh(4).await;
    network.until("another mesh", || number(&pods, "geth_peering_time_to_mesh_seconds_count") > meshes).await;

    let mut lost = pods.remove(1);
    lost.geth.stop(fakes::geth::Stop::Kill).await;
    drop(lost.sidecar);
    network.server.delete::<k8s_openapi::api::core::v1::Pod>(NAMESPACE, "geth-1");
    network.until("the entry's removal", || network.value(1).is_none()).await;
    let evictions = || pods.iter().map(|pod| value(&pod.sidecar.metrics, pod, "geth_peering_evictions_total")).sum();
    network
        .until("that it is counted", || {
            let sum: f64 = evictions();
            sum > 0.0
        })
        .await;
    assert_eq!(evictions(), 1.0, "one of them did it");
}
