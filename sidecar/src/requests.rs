//! Counting what is asked of the API server: a layer around the client, so that no
//! request can be forgotten.

use std::task::{Context, Poll};

use axum::http::{Method, Request, Response, StatusCode};
use futures::future::BoxFuture;
use tower::{Layer, Service};

use crate::metrics::ApiRequests;

/// Counts the requests that pass through it.
#[derive(Debug, Clone)]
pub struct Counting(pub ApiRequests);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.0.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    requests: ApiRequests,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let (verb, resource) = kind(request.method(), request.uri().path(), query);
        let mut asked = Asked { requests: self.requests.clone(), verb, resource, outcome: "unanswered" };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            asked.ended(answer.as_ref().map_or("failed", |response| outcome(response.status())));
            answer
        })
    }
}

/// A request on its way. Whoever asks gives up by dropping it, after a deadline.
struct Asked {
    requests: ApiRequests,
    verb: &'static str,
    resource: &'static str,
    outcome: &'static str,
}

impl Asked {
    fn ended(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.requests.count(self.verb, self.resource, self.outcome);
    }
}

/// Verb and resource of a request, as RBAC names them.
fn kind(method: &Method, path: &str, query: &str) -> (&'static str, &'static str) {
    let mut segments = path.split('/').skip_while(|segment| *segment != "namespaces").skip(2);
    let resource = match segments.next() {
        Some("configmaps") => "configmaps",
        Some("pods") => "pods",
        Some("events") => "events",
        _ => "other",
    };
    let verb = match *method {
        Method::GET if query.split('&').any(|pair| pair == "watch=true") => "watch",
        Method::GET if segments.next().is_some() => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PATCH => "patch",
        _ => "other",
    };
    (verb, resource)
}

/// How a request with this answer ended. A conflict is an answer like any other, and `refused`.
fn outcome(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "forbidden",
        429 | 500.. => "failed",
        400.. => "refused",
        _ => "ok",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_every_request_counted_under_the_verb_that_rbac_knows() {
        let map = "/api/v1/namespaces/pods/configmaps";
        for (method, path, query, expected) in [
            (Method::GET, map.to_owned(), "fieldSelector=a", ("list", "configmaps")),
            (Method::GET, map.to_owned(), "x=y&watch=true", ("watch", "configmaps")),
            (Method::GET, format!("{map}/a"), "", ("get", "configmaps")),
            (Method::PATCH, format!("{map}/a"), "", ("patch", "configmaps")),
            (Method::POST, "/api/v1/namespaces/chain/events".to_owned(), "", ("create", "events")),
            (Method::GET, "/api/v1/namespaces/chain/pods/events".to_owned(), "", ("get", "pods")),
        ] {
            assert_eq!(kind(&method, &path, query), expected, "{method} {path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_a_request_counted_by_how_it_ended_even_if_it_never_did() {
        let requests = ApiRequests::default();
        let answers = tower::service_fn(|request: Request<u16>| async move {
            match request.into_body() {
                0 => std::future::pending().await,
                1 => Err("no route to host"),
                status => Ok(Response::builder().status(status).body(()).unwrap()),
            }
        });
        let mut counted = Counting(requests.clone()).layer(answers);
        for body in [200, 200, 403, 409, 422, 429, 500, 1, 0] {
            let request = Request::get("/api/v1/namespaces/chain/pods/geth-1").body(body).unwrap();
            let _ended = tokio::time::timeout(std::time::Duration::from_secs(5), counted.call(request)).await;
        }
        let count = |outcome| requests.so_far("get", "pods", outcome);
        assert_eq!(["ok", "forbidden", "refused", "failed", "unanswered"].map(count), [2, 1, 2, 3, 1]);
    }
}
