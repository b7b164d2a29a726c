//! What namespaces say for their pods, as a running injector sees it.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn do_annotations_of_a_namespace_hold_for_its_pods_from_the_moment_they_are_seen() {
    let server = cluster();
    put_namespace(&server, "chain", true);
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let annotate = |value: Option<&str>| {
        let annotation = value.map(|value| ("geth-peering/network".to_owned(), value.to_owned()));
        server.edit("", "chain", |namespace: &mut Namespace| {
            namespace.metadata.annotations = Some(annotation.clone().into_iter().collect());
        });
    };
    let network = async |namespace: &str| {
        let response = api_server.review("/mutate/pods", &review(namespace, geth_pod(json!({})))).await;
        let sidecar = patched(geth_pod(json!({})), &response)["spec"]["initContainers"][0].clone();
        let variables = sidecar["env"].as_array().cloned().unwrap_or_default();
        variables.into_iter().find(|variable| variable["name"] == "PEERING_NETWORK").map(|found| found["value"].clone())
    };
    assert_eq!(network("chain").await, None);
    for value in [Some("one"), Some("two"), None] {
        annotate(value);
        until("the annotation holds", async || network("chain").await == value.map(Value::from)).await;
    }
    assert_eq!(network("other").await, None);

    annotate(Some("not a name"));
    let ask = async || {
        let pod = geth_pod(json!({"geth-peering": "enabled"}));
        api_server.review("/mutate/pods", &review("chain", pod)).await
    };
    until("the mistake counts", async || ask().await["allowed"] == false).await;
    let message = ask().await["status"]["message"].to_string();
    assert!(message.contains("of namespace chain"), "{message}");

    server.edit("", "chain", |namespace: &mut Namespace| namespace.metadata.labels = None);
    until("a namespace without the label says nothing", async || ask().await["allowed"] == true).await;
    server.forget_calls();
    ask().await;
    assert_eq!(server.calls(), [], "what a namespace says is known without a call");
}
