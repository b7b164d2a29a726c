//! What the sidecar answers over HTTP: `/`, `/livez`, `/readyz`, `/metrics` and `/status`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::page;
use crate::reconcile::HEARTBEAT;
use crate::status::Status;

/// How long the loop may stand still before the process counts as dead.
const STANDSTILL: Duration = HEARTBEAT.saturating_mul(4);
/// What OpenMetrics wants to be called.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the answers are made of.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// How things are.
    pub status: watch::Receiver<Status>,
    /// When the loop last turned.
    pub heartbeat: watch::Receiver<Instant>,
    /// Whether the pod is ready as far as this sidecar is concerned.
    pub ready: watch::Receiver<bool>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The routes.
pub fn router(inputs: Inputs) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(inputs)
}

async fn page(State(inputs): State<Inputs>) -> impl IntoResponse {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let html = page::render(&inputs.status.borrow(), Timestamp::now(), &nonce);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, page::policy(&nonce)),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (headers, Html(html))
}

async fn livez(State(inputs): State<Inputs>) -> impl IntoResponse {
    let still = inputs.heartbeat.borrow().elapsed();
    if still < STANDSTILL {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("the loop has stood still for {} s\n", still.as_secs()))
    }
}

async fn readyz(State(inputs): State<Inputs>) -> impl IntoResponse {
    if *inputs.ready.borrow() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let status = inputs.status.borrow();
    let why = format!(
        "this pod's Geth is not in the registry yet, or not connected to enough others\ngeth: {} ({})\nregistry: {} ({})\nlinks: {} of {}\n",
        status.geth.state,
        status.geth.reason,
        status.registry.shown.state,
        status.registry.shown.reason,
        status.connected,
        status.wanted
    );
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

async fn metrics(State(inputs): State<Inputs>) -> impl IntoResponse {
    let text = inputs.metrics.render(&inputs.status.borrow());
    ([(header::CONTENT_TYPE, OPENMETRICS)], text)
}

async fn status(State(inputs): State<Inputs>) -> impl IntoResponse {
    Json(inputs.status.borrow().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::concern::Concern;
    use crate::status::PeerStatus;
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderMap, Request};
    use jiff::SignedDuration;
    use tower::ServiceExt;

    struct Fixture {
        status: watch::Sender<Status>,
        heartbeat: watch::Sender<Instant>,
        ready: watch::Sender<bool>,
        router: Router,
    }

    fn fixture() -> Fixture {
        let status = watch::Sender::new(Status::new("geth-0", Timestamp::UNIX_EPOCH));
        let heartbeat = watch::Sender::new(Instant::now());
        let ready = watch::Sender::new(false);
        let router = router(Inputs {
            status: status.subscribe(),
            heartbeat: heartbeat.subscribe(),
            ready: ready.subscribe(),
            metrics: Arc::default(),
        });
        Fixture { status, heartbeat, ready, router }
    }

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let (status, _, body) = ask(router, path).await;
        (status, body)
    }

    async fn ask(router: &Router, path: &str) -> (StatusCode, HeaderMap, String) {
        let response = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, headers, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn does_readiness_say_what_it_waits_for() {
        let fixture = fixture();
        fixture.status.send_modify(|status| {
            status.geth.set("denied", "user 1 may not open the socket", Timestamp::now());
        });
        let (code, why) = get(&fixture.router, "/readyz").await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(why.contains("user 1 may not open the socket"), "{why}");
        fixture.ready.send_replace(true);
        assert_eq!(get(&fixture.router, "/readyz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn is_a_loop_that_stands_still_noticed() {
        let fixture = fixture();
        assert_eq!(get(&fixture.router, "/livez").await.0, StatusCode::OK);
        fixture.heartbeat.send_replace(Instant::now().checked_sub(STANDSTILL).unwrap());
        assert_eq!(get(&fixture.router, "/livez").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn do_status_and_metrics_show_the_same_state() {
        let fixture = fixture();
        fixture.status.send_modify(|status| {
            status.geth.set("up", "", Timestamp::now());
            status.wanted = 4;
        });
        let (_, json) = get(&fixture.router, "/status").await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["self"]["pod"], &json["wanted"]), (&"geth-0".into(), &4.into()));
        let (_, text) = get(&fixture.router, "/metrics").await;
        for line in [
            "geth_peering_links_wanted 4",
            "geth_peering_links_connected 0",
            "geth_peering_geth_state{state=\"up\"} 1",
            "geth_peering_geth_state{state=\"mute\"} 0",
            "geth_peering_registry_state{state=\"unread\"} 1",
            "geth_peering_concerns{concern=\"MeshTooLarge\"} 0",
            "geth_peering_links{state=\"waiting\"} 0",
            "geth_peering_time_to_mesh_seconds_count 0",
            "geth_peering_evictions_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[tokio::test]
    async fn can_nobody_who_writes_the_registry_write_the_page() {
        let fixture = fixture();
        let evil = "</td><script>alert(1)</script><img src=x onerror='a()'>\"&\u{202e}";
        fixture.status.send_modify(|status| {
            status.own.pod = evil.into();
            status.geth.set("denied", evil, Timestamp::now());
            status.registry.lost(evil.into(), Timestamp::now());
            status.concerns = vec![Concern::DuplicateNodeKey { pod: evil.into() }];
            let (pod, enode, reason) = (evil.to_owned(), Some(format!("enode://a@{evil}")), evil.to_owned());
            status.peers = vec![PeerStatus { pod, enode, state: "invalid", reason, since: Timestamp::now() }];
        });
        let (code, headers, page) = ask(&fixture.router, "/").await;
        assert_eq!(code, StatusCode::OK);
        assert!(
            !page.contains("<script") && !page.contains("<img") && !page.contains("\"&") && !page.contains('\u{202e}'),
            "{page}"
        );
        assert_eq!(page.matches("&lt;/td&gt;&lt;script&gt;alert(1)").count(), 8, "shown as it stands: {page}");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'nonce-"), "{policy}");
        let nonce = policy.split('\'').nth(3).and_then(|source| source.strip_prefix("nonce-")).unwrap();
        assert!(nonce.len() == 32 && page.contains(&format!("<style nonce=\"{nonce}\">")), "{policy}");
        let (_, again, _) = ask(&fixture.router, "/").await;
        assert_ne!(again[header::CONTENT_SECURITY_POLICY], *policy, "nobody can know the next one");
    }

    #[tokio::test]
    async fn does_the_page_show_this_node_and_why_a_link_is_missing() {
        let fixture = fixture();
        fixture.status.send_modify(|status| {
            let since = Timestamp::now() - SignedDuration::from_secs(200);
            let reason = "geth-1 dials this node and has not arrived yet".to_owned();
            status.geth.set("up", "Geth answers", since);
            status.wanted = 1;
            status.peers = vec![PeerStatus { pod: "geth-1".into(), enode: None, state: "waiting", reason, since }];
        });
        let (_, _, page) = ask(&fixture.router, "/").await;
        for words in ["geth-0", "connected to 0 of 1 others", "Geth answers", "has not arrived yet", "3 min ago"] {
            assert!(page.contains(words), "{words} in {page}");
        }
        for accessible in ["<html lang=\"en\">", "scope=\"col\"", "scope=\"row\"", "prefers-color-scheme: dark"] {
            assert!(page.contains(accessible), "{accessible} in {page}");
        }
        assert!(
            !page.contains("http://") && !page.contains("https://") && !page.contains("src="),
            "nothing from elsewhere"
        );
    }
}
