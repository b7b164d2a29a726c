//! What the two ports answer: the webhooks on one, probes and metrics on the other.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::bodies::{self, Bodies};
use crate::handler::{Unanswered, Webhook};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::tls::resolver::Resolver;

/// Every request is answered within this, whoever else is waited for: the API server waits for 5 s, unless the chart's value says otherwise, and an
/// answer in words helps more than its own "context deadline exceeded".
const REQUEST_DEADLINE: Duration = Duration::from_secs(4);

/// The webhooks.
pub fn router(webhook: Arc<Webhook>) -> Router {
    Router::new()
        .route("/mutate/pods", post(mutate_pods))
        .route("/mutate/workloads", post(mutate_workloads))
        .layer(middleware::from_fn(answer_in_time))
        .with_state(Shared { webhook, bodies: Bodies::new() })
}

/// What all requests share.
#[derive(Clone)]
struct Shared {
    webhook: Arc<Webhook>,
    bodies: Bodies,
}

impl FromRef<Shared> for Bodies {
    fn from_ref(shared: &Shared) -> Self {
        shared.bodies.clone()
    }
}

async fn mutate_pods(State(Shared { webhook, .. }): State<Shared>, body: bodies::Read) -> Response {
    answer(webhook.mutate_pods(&body.bytes).await)
}

async fn mutate_workloads(State(Shared { webhook, .. }): State<Shared>, body: bodies::Read) -> Response {
    answer(webhook.mutate_workloads(&body.bytes))
}

fn answer(result: Result<Vec<u8>, Unanswered>) -> Response {
    let error = match result {
        Ok(body) => return ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => error,
    };
    tracing::warn!("{error}");
    let code = match error {
        Unanswered::NoReview(_) => StatusCode::BAD_REQUEST,
        Unanswered::Stopping(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, format!("{error}\n")).into_response()
}

async fn answer_in_time(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let late = |_| {
        tracing::warn!(path, "a request had no answer in time; it was told so");
        (StatusCode::GATEWAY_TIMEOUT, "the injector could not answer in time\n").into_response()
    };
    tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await.unwrap_or_else(late)
}

/// What the plain port shows.
pub struct Inside {
    /// Behind `/readyz`.
    pub readiness: Arc<Readiness>,
    /// Behind `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Behind `/certificate`.
    pub resolver: Arc<Resolver>,
}

/// Probes and metrics.
pub fn plain_router(inside: Arc<Inside>) -> Router {
    Router::new()
        // Whoever can answer is alive: everything that could hang has a deadline, and everything that ends, ends the
        // process.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/certificate", get(certificate))
        .with_state(inside)
}

async fn readyz(State(inside): State<Arc<Inside>>) -> Response {
    let missing = inside.readiness.missing();
    if missing.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))).into_response()
    }
}

async fn metrics(State(inside): State<Arc<Inside>>) -> Response {
    match inside.metrics.text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// What is shown to everybody who connects, for those who cannot: `injector check` compares it with the caBundle.
async fn certificate(State(inside): State<Arc<Inside>>) -> String {
    inside.resolver.pem()
}
