//! Does an answer come in time, whatever hangs? Time is tokio's, which passes only while everybody waits.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use fakes::apiserver::{ApiServer, Fault, Verb};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use injector::events;
use injector::handler::Webhook;
use injector::inject::Settings;
use injector::metrics::Metrics;
use injector::prepare::Preparer;
use injector::scope::Scope;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::support::*;

/// How long API servers wait for an answer (`timeoutSeconds` of the webhooks).
const PATIENCE: Duration = Duration::from_secs(5);

/// The webhooks, without the ports and the certificates before them.
fn webhooks(server: &ApiServer) -> Router {
    let (client, metrics) = (server.client(OWN_NAMESPACE), Arc::new(Metrics::default()));
    let settings = Settings {
        image: "geth-peering/sidecar:0.1.0".into(),
        image_pull_policy: "IfNotPresent".into(),
        cpu_request: "10m".into(),
        memory_request: "16Mi".into(),
        memory_limit: "64Mi".into(),
        log_level: "INFO".into(),
        configmap_names: vec!["geth-peering".into()],
        registry_namespaces: vec!["shared".into()],
        native_sidecars: true,
        disable_service_links: true,
        version: "0.1.0".into(),
    };
    let preparer = Arc::new(Preparer::new(client.clone(), ROLE, Scope::default(), metrics.clone()));
    let (notices, reporter) = events::channel(client, "injector-0");
    tokio::spawn(reporter.run());
    injector::routes::router(Arc::new(Webhook::new(settings, preparer, notices, metrics)))
}

/// An API server that answers nothing that the injector asks it.
fn silent() -> ApiServer {
    let server = cluster();
    for verb in [Verb::Get, Verb::List, Verb::Watch, Verb::Create, Verb::Update, Verb::Patch, Verb::Delete] {
        for plural in ["namespaces", "serviceaccounts", "rolebindings", "events", "mutatingwebhookconfigurations"] {
            server.fault(verb, plural, Fault::Hang, usize::MAX);
        }
    }
    server
}

/// Asks, and returns the answer if it came in time.
async fn ask(webhooks: &Router, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
    let start = Instant::now();
    let request = Request::post(path).header("content-type", "application/json").body(body.into()).unwrap();
    let answer = webhooks.clone().oneshot(request).await.unwrap();
    let code = answer.status();
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    assert!(start.elapsed() < PATIENCE, "{:?} for {code}", start.elapsed());
    (code, String::from_utf8(body.to_vec()).unwrap())
}

fn pod(account: &str, annotations: Value, variables: usize) -> Value {
    let mut pod = geth_pod(json!({"geth-peering": "enabled"}));
    pod["metadata"]["annotations"] = annotations;
    pod["spec"]["serviceAccountName"] = json!(account);
    let all: Vec<_> = (0..variables).map(|number| json!({"name": format!("A{number}")})).collect();
    pod["spec"]["containers"][0]["env"] = json!(all);
    pod
}

#[tokio::test(start_paused = true)]
async fn does_every_pod_get_its_sidecar_in_time_though_the_api_server_answers_nothing() {
    let server = silent();
    let webhooks = webhooks(&server);
    let shared = json!({"geth-peering/registry-namespace": "shared"});
    let pods = [
        ("fresh", pod("default", json!({}), 0)),
        ("fresh", pod("mine", json!({}), 0)),
        ("elsewhere", pod("default", shared, 0)),
        ("large", pod("default", json!({}), 20_000)),
    ];
    let asked = pods.iter().map(async |(namespace, pod)| {
        let (code, text) = ask(&webhooks, "/mutate/pods", review(namespace, pod.clone()).to_string()).await;
        assert_eq!(code, StatusCode::OK, "{text}");
        let response = &serde_json::from_str::<Value>(&text).unwrap()["response"];
        let injected = patched(pod.clone(), response);
        assert_eq!(injected["spec"]["initContainers"][0]["name"], "geth-peering");
        assert_eq!(injected["spec"]["serviceAccountName"], pod["spec"]["serviceAccountName"], "none was made");
        assert!(response["warnings"].to_string().contains("rights"), "{response}");
    });
    join_all(asked).await;
}

#[tokio::test(start_paused = true)]
async fn is_there_an_answer_in_time_whoever_else_is_waited_for() {
    let server = silent();
    let webhooks = &webhooks(&server);
    let review = |namespace: &str, variables| review(namespace, pod("default", json!({}), variables)).to_string();
    // Large pods are read one at a time, and each waits for the API server.
    let mut large: Vec<BoxFuture<'_, (StatusCode, String)>> = Vec::new();
    for number in 0..5 {
        large.push(ask(webhooks, "/mutate/pods", review(&format!("large-{number}"), 20_000)).boxed());
    }
    let never_sent = || Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let unsent = ["/mutate/pods", "/mutate/workloads"].map(|path| ask(webhooks, path, never_sent()));
    let small = ask(webhooks, "/mutate/pods", review("small", 0));
    let (large, unsent, small) = tokio::join!(join_all(large), join_all(unsent), small);
    assert_eq!(small.0, StatusCode::OK, "{}", small.1);
    assert_eq!(large[0].0, StatusCode::OK);
    for (code, text) in large.iter().chain(&unsent) {
        let late = *code == StatusCode::GATEWAY_TIMEOUT && text.contains("could not answer in time");
        assert!(late || *code == StatusCode::OK, "{code} {text}");
    }
    assert!(large.iter().chain(&unsent).any(|(code, _)| *code == StatusCode::GATEWAY_TIMEOUT));
    // Nothing is left behind of those that gave up waiting.
    server.heal();
    let next = ask(webhooks, "/mutate/pods", review("next", 20_000)).await;
    assert_eq!(next.0, StatusCode::OK, "{}", next.1);
}
