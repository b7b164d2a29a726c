//! Is it noticed that pods lack their sidecar?

use std::sync::Arc;
use std::time::Duration;

use injector::audit::Audit;
use injector::metrics::Metrics;
use injector::prepare::Preparer;
use injector::scope::Scope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

use crate::support::*;

fn put_pod(server: &fakes::apiserver::ApiServer, name: &str, labels: Value, annotations: Value) {
    server.put::<Pod>(&object(json!({
        "metadata": {
            "name": name, "namespace": "chain", "labels": labels, "annotations": annotations,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "geth", "uid": "s-1", "controller": true}],
        },
        "spec": {"containers": [{"name": "geth"}]},
    })));
}

#[tokio::test(start_paused = true)]
async fn are_pods_without_their_sidecar_counted_and_their_owner_told_once() {
    let server = cluster();
    let enabled = || json!({"geth-peering": "enabled"});
    put_pod(&server, "geth-0", enabled(), json!({}));
    put_pod(&server, "geth-1", enabled(), json!({}));
    put_pod(&server, "geth-2", enabled(), json!({"geth-peering/injected": env!("CARGO_PKG_VERSION")}));
    put_pod(&server, "geth-3", enabled(), json!({"geth-peering/injected": "0.0.1"}));
    put_pod(&server, "web", json!({}), json!({}));

    let metrics = Arc::new(Metrics::default());
    let client = server.client(OWN_NAMESPACE);
    let preparer = Arc::new(Preparer::new(client.clone(), ROLE, Scope::default(), metrics.clone()));
    let audits = [0, 1].map(|replica| {
        let audit = Audit::new(client.clone(), preparer.clone(), metrics.clone(), &format!("injector-{replica}"));
        tokio::spawn(audit.run())
    });
    let counted = async |line: &str| {
        let line = format!("geth_peering_injector_flawed_pods{{flaw={line}");
        until(&line, async || metrics.text().unwrap().contains(&line)).await;
    };
    tokio::time::sleep(Duration::from_secs(31)).await;
    counted("\"uninjected\"} 2").await;
    counted("\"outdated\"} 1").await;

    // Once for each owner and flaw, however many replicas look however often.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let mut events: Vec<_> = server.list::<Event>("chain").into_iter().filter_map(|event| event.reason).collect();
    events.sort();
    assert_eq!(events, ["outdated", "uninjected"]);

    server.delete::<Pod>("chain", "geth-0");
    server.delete::<Pod>("chain", "geth-1");
    tokio::time::sleep(Duration::from_secs(301)).await;
    counted("\"uninjected\"} 0").await;
    audits.iter().for_each(|audit| audit.abort());
}
