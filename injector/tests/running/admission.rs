//! Requests as the API server makes them, and the answers.

use axum::http::StatusCode;
use fakes::apiserver::{Fault, Verb};
use k8s_openapi::api::events::v1::Event;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn does_a_labelled_pod_get_its_sidecar() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let pod = geth_pod(json!({"geth-peering": "enabled"}));
    let response = api_server.review("/mutate/pods", &review("chain", pod.clone())).await;
    let injected = patched(pod, &response);
    assert_eq!(injected["spec"]["initContainers"][0]["name"], "geth-peering");
    assert_eq!(injected["spec"]["initContainers"][0]["image"], "geth-peering/sidecar:0.1.0");
    assert_eq!(injected["spec"]["serviceAccountName"], "geth-peering");
    assert_eq!(response["auditAnnotations"]["decision"], "injected");
    let name = r#"geth_peering_injector_decisions_total{webhook="pods",decision="injected"}"#;
    assert_eq!(replica.metric(name).await, Some(1.0));
}

#[tokio::test]
async fn is_a_pod_that_cannot_be_injected_refused_and_its_owner_told() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let mut pod = geth_pod(json!({"geth-peering": "enabled"}));
    pod["spec"]["containers"][0] = json!({"name": "web", "image": "nginx"});
    for _ in 0..3 {
        let response = api_server.review("/mutate/pods", &review("chain", pod.clone())).await;
        assert_eq!(response["allowed"], false);
        assert!(response["status"]["message"].as_str().unwrap().len() > 20, "{response}");
    }
    until("an Event", async || !server.list::<Event>("chain").is_empty()).await;
    let event = server.list::<Event>("chain").remove(0);
    assert_eq!(event.reason.as_deref(), Some("no-geth-container"));
    let owner = event.regarding.unwrap();
    assert_eq!((owner.kind.as_deref(), owner.name.as_deref()), (Some("StatefulSet"), Some("geth")));
    assert_eq!(server.count(Verb::Create, "events"), 1, "once, however often the controller tries");
}

#[tokio::test]
async fn does_the_same_pod_pass_where_only_its_namespace_is_labelled() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let mut pod = geth_pod(json!({}));
    pod["spec"]["containers"][0] = json!({"name": "web", "image": "nginx"});
    let response = api_server.review("/mutate/pods", &review("chain", pod.clone())).await;
    assert_eq!(patched(pod.clone(), &response), pod);
    assert_eq!(response.get("warnings"), None, "most pods of a namespace are no Geth");
}

#[tokio::test]
async fn is_a_dry_run_free_of_side_effects() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let injectable = geth_pod(json!({"geth-peering": "enabled"}));
    let mut refused = injectable.clone();
    refused["spec"]["containers"][0]["name"] = json!("web");
    refused["spec"]["containers"][0]["image"] = json!("nginx");
    server.forget_calls();
    let mut allowed = Vec::new();
    for pod in [injectable.clone(), refused] {
        let mut review = review("chain", pod);
        review["request"]["dryRun"] = json!(true);
        allowed.push(api_server.review("/mutate/pods", &review).await);
    }
    assert_eq!(allowed[1]["allowed"], false);
    assert_eq!(server.writes(), 0);
    assert!(server.calls().is_empty(), "{:?}", server.calls());
    let dry = patched(injectable, &allowed[0]);
    assert_eq!(dry["spec"]["serviceAccountName"], "default", "an account that does not exist would fail the dry run");
    assert_eq!(dry["metadata"]["annotations"].get("geth-peering/unbound"), None, "nobody owes it anything");
}

#[tokio::test]
async fn is_anything_but_the_creation_of_a_pod_left_alone() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    for (pointer, value) in [
        ("/request/operation", json!("UPDATE")),
        ("/request/operation", json!("DELETE")),
        ("/request/resource/resource", json!("services")),
    ] {
        let mut review = review("chain", geth_pod(json!({"geth-peering": "enabled"})));
        *review.pointer_mut(pointer).unwrap() = value;
        let response = api_server.review("/mutate/pods", &review).await;
        assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None), "{pointer}");
    }
}

#[tokio::test]
async fn does_an_annotated_workload_get_the_label() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let workload = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "geth", "annotations": {"geth-peering": "enabled"}},
        "spec": {"template": {"metadata": {"labels": {"app": "geth"}}, "spec": geth_pod(json!({}))["spec"]}},
    });
    let mut review = review("chain", workload.clone());
    review["request"]["operation"] = json!("UPDATE");
    review["request"]["resource"] = json!({"group": "apps", "version": "v1", "resource": "statefulsets"});
    let response = api_server.review("/mutate/workloads", &review).await;
    let labelled = patched(workload, &response);
    assert_eq!(labelled["spec"]["template"]["metadata"]["labels"]["geth-peering"], "enabled");
}

#[tokio::test]
async fn is_what_is_no_review_refused_with_a_reason() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let mut of_the_past = review("chain", geth_pod(json!({})));
    of_the_past["apiVersion"] = json!("admission.k8s.io/v1beta1");
    for (path, body, expected) in [
        ("/mutate/pods", "hello".to_owned(), StatusCode::BAD_REQUEST),
        ("/mutate/workloads", "{}".to_owned(), StatusCode::BAD_REQUEST),
        ("/mutate/pods", of_the_past.to_string(), StatusCode::BAD_REQUEST),
        ("/mutate/pods", " ".repeat(4 * 1024 * 1024 + 1), StatusCode::PAYLOAD_TOO_LARGE),
        ("/mutate", "{}".to_owned(), StatusCode::NOT_FOUND),
        ("/readyz", "{}".to_owned(), StatusCode::NOT_FOUND),
    ] {
        let (code, text) = api_server.post(path, body).await;
        assert_eq!(code, expected, "{path}: {text}");
    }
    let (_, text) = api_server.post("/mutate/pods", of_the_past.to_string()).await;
    assert!(text.contains("v1beta1"), "{text}");
    // A body as large as a review can be is read to its end.
    let mut pod = geth_pod(json!({"geth-peering": "enabled"}));
    pod["metadata"]["annotations"]["large"] = json!("x".repeat(3 * 1024 * 1024));
    let response = api_server.review("/mutate/pods", &review("chain", pod.clone())).await;
    assert_eq!(patched(pod, &response)["spec"]["serviceAccountName"], "geth-peering");
}

#[tokio::test]
async fn does_a_pod_keep_its_account_and_start_where_none_can_be_made() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    server.forbid(Verb::Create, "serviceaccounts");
    let pod = geth_pod(json!({"geth-peering": "enabled"}));
    let response = api_server.review("/mutate/pods", &review("chain", pod.clone())).await;
    let injected = patched(pod.clone(), &response);
    assert_eq!(injected["spec"]["serviceAccountName"], "default");
    assert_eq!(injected["spec"]["initContainers"][0]["name"], "geth-peering");
    assert!(
        response["warnings"][0].as_str().unwrap().contains("create the ServiceAccount chain/geth-peering"),
        "{response}"
    );
    until("an Event", async || !server.list::<Event>("chain").is_empty()).await;
    assert_eq!(server.list::<Event>("chain")[0].reason.as_deref(), Some("not-prepared"));

    // An API server that does not answer is no reason to keep the pod waiting until its own deadline is over.
    server.heal();
    server.fault(Verb::Create, "serviceaccounts", Fault::Hang, 1);
    let response = api_server.review("/mutate/pods", &review("other", pod.clone())).await;
    assert_eq!(patched(pod.clone(), &response)["spec"]["serviceAccountName"], "default");
    let response = api_server.review("/mutate/pods", &review("other", pod.clone())).await;
    assert_eq!(patched(pod, &response)["spec"]["serviceAccountName"], "geth-peering", "the next one gets it");
}

#[tokio::test]
async fn are_many_large_pods_at_once_all_answered_and_small_ones_meanwhile() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let pod = |variables: usize| {
        let mut pod = geth_pod(json!({"geth-peering": "enabled"}));
        let all: Vec<_> = (0..variables).map(|number| json!({"name": format!("A{number}")})).collect();
        pod["spec"]["containers"][0]["env"] = json!(all);
        pod
    };
    let (large, small) = (pod(20_000), pod(1));
    let ask = async |pod: &serde_json::Value| {
        let response = api_server.review("/mutate/pods", &review("chain", pod.clone())).await;
        assert_eq!(patched(pod.clone(), &response)["metadata"]["annotations"]["geth-peering/injected"], "0.1.0");
    };
    let asked = (0..20).map(|number| ask(if number % 2 == 0 { &large } else { &small }));
    futures::future::join_all(asked).await;
}
