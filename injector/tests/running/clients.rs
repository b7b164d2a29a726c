//! Many clients, and one that wants too much.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fakes::apiserver::Verb;
use futures::future::join_all;
use injector::metrics::Metrics;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// Connects from another address of this machine.
async fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::from(source), 0))).unwrap();
    socket.connect(address).await.unwrap()
}

/// What comes back, until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    // A connection that is closed with something unread on it is reset.
    let _reset = stream.read_to_string(&mut text).await;
    text
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn is_another_client_served_while_two_hold_all_connections() {
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
    let metrics = Arc::new(Metrics::default());
    let bound = injector::server::Bound::bind(0, None, metrics.clone()).await.unwrap().with_connections(8);
    let address = local(bound.address().unwrap());
    tokio::spawn(bound.serve(router, CancellationToken::new(), Duration::ZERO));

    let mut greedy = Vec::new();
    for number in 0..8 {
        let mut stream = connect_from([127, 0, 0, 2 + number % 2], address).await;
        // Half a request: it will not be idle for long, but is not served yet either.
        stream.write_all(b"GET / HTT").await.unwrap();
        greedy.push(stream);
    }
    let mut too_much = connect_from([127, 0, 0, 2], address).await;
    assert_eq!(soon("the end of what is too much", rest(&mut too_much)).await, "");

    let mut other = connect_from([127, 0, 0, 1], address).await;
    other.write_all(REQUEST).await.unwrap();
    assert!(soon("an answer for another client", rest(&mut other)).await.ends_with("here"));

    // The oldest connection of one of them paid for that, and no other.
    let mut lost = Vec::new();
    for (number, stream) in greedy.iter_mut().enumerate() {
        // Writing to one that was closed may already fail.
        let _closed = stream.write_all(b"P/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        if !soon("the end of a connection", rest(stream)).await.ends_with("here") {
            lost.push(number);
        }
    }
    assert!(matches!(lost[..], [0 | 1]), "{lost:?}");
    for line in ["result=\"given-up\"} 1", "result=\"turned-away\"} 1"] {
        let line = format!("geth_peering_injector_crowded_connections_total{{{line}\n");
        assert!(metrics.text().unwrap().contains(&line), "{line}");
    }
}

#[tokio::test]
async fn do_a_thousand_pods_of_fifty_namespaces_at_once_all_get_their_sidecar() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let connections = join_all((0..100).map(|_| replica.api_server(&server))).await;
    let pod = geth_pod(json!({"geth-peering": "enabled"}));
    let ask = async |number: usize| {
        let namespace = format!("chain-{}", number / 20);
        let api_server = &connections[number % connections.len()];
        let response = api_server.review("/mutate/pods", &review(&namespace, pod.clone())).await;
        assert!(!response["warnings"].to_string().contains("rights"), "{response}");
        let injected = patched(pod.clone(), &response);
        assert_eq!(injected["spec"]["initContainers"][0]["name"], "geth-peering");
        assert_eq!(injected["spec"]["serviceAccountName"], "geth-peering");
    };
    join_all((0..1000).map(ask)).await;
    for plural in ["serviceaccounts", "rolebindings"] {
        assert_eq!(server.count(Verb::Create, plural), 50, "each namespace is prepared once: {plural}");
    }
    assert_eq!(server.count(Verb::Get, "rolebindings") + server.count(Verb::Patch, "rolebindings"), 0);
    let name = r#"geth_peering_injector_decisions_total{webhook="pods",decision="injected"}"#;
    assert_eq!(replica.metric(name).await, Some(1000.0));
}
