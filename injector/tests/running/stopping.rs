//! What happens when the process is told to end, and what it says of itself meanwhile.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use fakes::apiserver::Verb;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::support::*;

#[tokio::test]
async fn is_it_ready_only_when_everything_it_needs_is_there() {
    let server = cluster();
    server.forbid(Verb::Patch, "mutatingwebhookconfigurations");
    server.forbid(Verb::List, "rolebindings");
    let replica = Replica::launch(&server).await;
    until("a certificate", async || replica.get("/readyz").await.1 == "not ready: caBundle, namespaces\n").await;
    assert_eq!(replica.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(replica.get("/livez").await, (StatusCode::OK, "ok\n".to_owned()), "restarting it would not help");
    server.heal();
    replica.until_ready().await;
    assert_eq!(replica.get("/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
}

/// Begins a request whose body is still to come.
async fn begin(replica: &Replica, bundle: &str, body: &str) -> TlsStream<TcpStream> {
    let mut stream = replica.connect(bundle, b"http/1.1").await.unwrap();
    let head = format!(
        "POST /mutate/pods HTTP/1.1\r\nHost: {SERVER_NAME}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body, so the request is under way.
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[tokio::test]
async fn is_a_request_that_is_under_way_answered_before_the_end() {
    let server = cluster();
    let mut replica = Replica::start(&server).await;
    let body = review("chain", geth_pod(json!({"geth-peering": "enabled"}))).to_string();
    let mut stream = begin(&replica, &bundle(&server).unwrap(), &body).await;
    let (https, address) = (replica.https, replica.http);
    let idle = replica.api_server(&server).await;
    assert_eq!(idle.post("/mutate/pods", body.clone()).await.0, StatusCode::OK);
    replica.terminate();
    until("no new connections", async || TcpStream::connect(https).await.is_err()).await;
    // As long as an answer is owed, the process stays and says that it is stopping.
    for _ in 0..5 {
        let (code, text) = replica.get("/readyz").await;
        assert_eq!((code, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not ready: stopping\n"));
    }

    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("JSONPatch"), "{answer}");
    replica.ended().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn does_an_injector_that_stops_promise_nobody_rights_that_it_cannot_give_any_more() {
    let server = cluster();
    let mut replica = Replica::start(&server).await;
    let (https, bundle) = (replica.https, bundle(&server).unwrap());
    // Two requests that are under way when it is told to stop: of one the rights are there, of the other they cannot be had.
    let mut waiting = Vec::new();
    for namespace in ["ready", "bare"] {
        let body = review(namespace, geth_pod(json!({"geth-peering": "enabled"}))).to_string();
        if namespace == "ready" {
            let api_server = replica.api_server(&server).await;
            assert_eq!(api_server.post("/mutate/pods", body.clone()).await.0, StatusCode::OK);
        }
        let stream = begin(&replica, &bundle, &body).await;
        waiting.push((stream, body));
    }
    server.forbid(Verb::Create, "serviceaccounts");
    replica.terminate();
    until("no new connections", async || TcpStream::connect(https).await.is_err()).await;
    for (stream, body) in &mut waiting {
        stream.write_all(body.as_bytes()).await.unwrap();
    }
    let mut answers = Vec::new();
    for (mut stream, _) in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answers.push(answer);
    }
    assert!(answers[0].starts_with("HTTP/1.1 200 OK"), "{}", answers[0]);
    assert!(answers[1].starts_with("HTTP/1.1 503") && answers[1].contains("is stopping"), "{}", answers[1]);
    replica.ended().await.unwrap();
}

#[tokio::test]
async fn does_a_request_on_a_connection_that_is_about_to_end_still_succeed() {
    let server = cluster();
    let mut replica = Replica::start(&server).await;
    let body = review("chain", geth_pod(json!({"geth-peering": "enabled"}))).to_string();
    let api_server = replica.api_server(&server).await;
    assert_eq!(api_server.post("/mutate/pods", body.clone()).await.0, StatusCode::OK);
    let https = replica.https;
    replica.terminate();
    until("no new connections", async || TcpStream::connect(https).await.is_err()).await;
    // An API server that is told to go only now has nothing to lose.
    assert_eq!(api_server.post("/mutate/pods", body).await.0, StatusCode::OK);
    replica.ended().await.unwrap();
}

#[tokio::test]
async fn does_a_client_that_only_connects_keep_nobody_from_being_served() {
    let server = cluster();
    let mut replica = Replica::start(&server).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(replica.https).await.unwrap());
    }
    let pod = geth_pod(json!({"geth-peering": "enabled"}));
    let api_server = replica.api_server(&server).await;
    patched(pod.clone(), &api_server.review("/mutate/pods", &review("chain", pod)).await);
    // Nor from stopping.
    replica.terminate();
    replica.ended().await.unwrap();
}

#[tokio::test]
async fn does_an_old_connection_end_once_what_was_asked_on_it_is_answered() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let answer = async move || {
        let _permit = opened.acquire().await.unwrap();
        "here"
    };
    let router = axum::Router::new().route("/", axum::routing::get(answer));
    let (most, last_request) = (Duration::from_millis(100), Duration::from_millis(100));
    let bound = injector::server::Bound::bind(0, None, Arc::default()).await.unwrap().with_ages(most, last_request);
    let address = local(bound.address().unwrap());
    tokio::spawn(bound.serve(router, CancellationToken::new(), Duration::ZERO));

    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut text = String::new();
    for _ in 0..2 {
        let mut idle = TcpStream::connect(address).await.unwrap();
        soon("the end of an idle connection", idle.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "");
    }
    // The first one is by far too old now, and still owed its answer.
    gate.add_permits(1);
    soon("the end of the other", busy.read_to_string(&mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("here"), "{text}");
}

#[tokio::test]
async fn does_a_connection_that_grew_old_while_idle_end_with_an_answer_and_not_under_a_request() {
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
    let bound = injector::server::Bound::bind(0, None, Arc::default()).await.unwrap();
    let bound = bound.with_ages(Duration::ZERO, Duration::from_secs(3600));
    let address = local(bound.address().unwrap());
    tokio::spawn(bound.serve(router, CancellationToken::new(), Duration::ZERO));

    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let told_to_go = async {
        loop {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "it ends without an answer: {head}");
            }
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
            stream.read_exact(&mut [0; "here".len()]).await.unwrap();
            if head.contains("connection: close") {
                return;
            }
        }
    };
    soon("an answer that tells to go", told_to_go).await;
    assert_eq!(soon("the end", stream.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn is_a_port_that_is_taken_an_error_at_start() {
    let taken = injector::server::Bound::bind(0, None, Arc::default()).await.unwrap();
    let port = taken.address().unwrap().port();
    let error = injector::server::Bound::bind(port, None, Arc::default()).await.err().unwrap();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}
