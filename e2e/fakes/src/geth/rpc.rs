//! Geth's side of the socket: JSON-RPC as `rpc/` of go-ethereum v1.17.5 speaks it, in
//! the words that a real one answered.
//!
//! Requests must end with a newline here; a real Geth takes them in any form.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::net::{Node, id};
use super::url;
use super::{Call, Nat, Quirks, World};

/// How it calls itself.
pub(super) const CLIENT: &str = "Geth/v1.17.5-stable/linux-amd64/go1.26.8";

/// Serves the socket until dropped; then every connection ends.
pub(super) async fn serve(world: World, node: usize, listener: UnixListener) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(Client { world: world.clone(), node }.serve(socket));
    }
}

/// One connection to one Geth.
#[derive(Debug, Clone)]
struct Client {
    world: World,
    node: usize,
}

impl Client {
    async fn serve(self, mut socket: UnixStream) {
        let (reader, mut writer) = socket.split();
        let mut lines = BufReader::new(reader).lines();
        let (answers, mut ready) = mpsc::unbounded_channel::<Vec<u8>>();
        // Ended with the connection.
        let mut requests = JoinSet::new();
        let mut held = Vec::new();
        loop {
            let line = tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => line,
                    _ => return,
                },
                Some(answer) = ready.recv() => {
                    held.push(answer);
                    if held.len() >= self.look(|node| node.quirks.reorder) {
                        for line in held.drain(..).rev() {
                            if writer.write_all(&line).await.is_err() {
                                return;
                            }
                        }
                    }
                    continue;
                }
            };
            let Ok(request) = serde_json::from_str::<Value>(&line) else {
                // Geth says so and hangs up (`rpc/server.go`).
                let first = line.trim_start().chars().next().unwrap_or_default();
                let error = failure(-32700, &format!("invalid character '{first}' looking for beginning of value"));
                let _ = writer.write_all(&bytes(&answer(&Value::Null, Err(error)))).await;
                return;
            };
            // Requests of one connection run side by side (`rpc/handler.go`).
            requests.spawn(self.clone().answer(request, answers.clone()));
        }
    }

    /// Answers a request, or those of a batch one after another.
    async fn answer(self, message: Value, answers: mpsc::UnboundedSender<Vec<u8>>) {
        let Value::Array(batch) = message else { return self.answer_one(message, answers).await };
        let mut all = Vec::new();
        for request in &batch {
            if let Some(outcome) = self.outcome(request).await {
                all.push(answer(&request["id"], outcome));
            }
        }
        let line = match batch.as_slice() {
            [] => answer(&Value::Null, Err(failure(-32600, "empty batch"))),
            _ if all.is_empty() => return,
            _ => Value::Array(all),
        };
        let _ = answers.send(bytes(&line));
    }

    async fn answer_one(self, request: Value, answers: mpsc::UnboundedSender<Vec<u8>>) {
        let Some(outcome) = self.outcome(&request).await else { return };
        let mut events = None;
        if request["method"] == "admin_subscribe" && outcome.is_ok() {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.change(|node, _| node.subscribers.push(sender));
            events = Some((outcome.clone().unwrap_or_default(), receiver));
        }
        let line = self.change(|node, _| node.quirks.instead.take()).map_or_else(
            || bytes(&answer(&request["id"], outcome)),
            |mut line| {
                line.push(b'\n');
                line
            },
        );
        // Sending fails only when the connection has ended.
        let _ = answers.send(line);
        let Some((subscription, mut events)) = events else { return };
        while let Some(event) = events.recv().await {
            let params = json!({ "subscription": subscription, "result": event });
            let note = json!({ "jsonrpc": "2.0", "method": "admin_subscription", "params": params });
            let _ = answers.send(bytes(&note));
        }
    }

    /// Carries a request out, and says what came of it, if it is to be answered at all.
    async fn outcome(&self, request: &Value) -> Option<Result<Value, Value>> {
        let params = &request["params"];
        let Some(method) = request["method"].as_str().filter(|method| !method.is_empty()) else {
            return Some(Err(failure(-32600, "invalid request")));
        };
        let quirks = self.change(|node, at| {
            node.calls.push(Call { method: method.to_owned(), params: params.clone(), at });
            node.quirks.clone()
        });
        if quirks.mute {
            return None;
        }
        let outcome = match quirks.lacks.contains(&method) {
            true => Err(unknown(method)),
            false => self.perform(method, params, &quirks).await,
        };
        if quirks.answers_after > Duration::ZERO {
            sleep(quirks.answers_after).await;
        }
        Some(outcome)
    }

    async fn perform(&self, method: &str, params: &Value, quirks: &Quirks) -> Result<Value, Value> {
        let node = self.node;
        match method {
            "admin_nodeInfo" => Ok(self.look(node_info)),
            "admin_peers" => Ok(self.world.look(|net| net.peers(node))),
            "admin_addPeer" => {
                let (key, address) = enode(params)?;
                if quirks.add_takes > Duration::ZERO {
                    sleep_until(self.change(|node, now| node.turn_to_add(now, quirks.add_takes))).await;
                }
                self.world.change(|net, now| net.add_static(now, node, key, address));
                Ok(json!(true))
            }
            "admin_removePeer" => {
                let (key, _) = enode(params)?;
                self.world.change(|net, _| net.remove_static(node, &key));
                // Answers when the connection has ended, not before (`p2p/server.go:246`).
                if self.world.change(|net, now| net.announce_end(now, node, &key)) {
                    sleep(quirks.remove_takes).await;
                    self.world.change(|net, now| net.disconnect(now, node, &key));
                }
                Ok(json!(true))
            }
            "admin_addTrustedPeer" => {
                let (key, _) = enode(params)?;
                self.change(|node, _| node.trusted.insert(key));
                Ok(json!(true))
            }
            "admin_removeTrustedPeer" => {
                let (key, _) = enode(params)?;
                self.change(|node, _| node.trusted.remove(&key));
                Ok(json!(true))
            }
            "admin_subscribe" if params[0] == "peerEvents" => {
                let serial = self.look(|node| node.subscribers.len());
                Ok(json!(format!("0x{serial:032x}")))
            }
            "admin_subscribe" => {
                let what = format!("no {} subscription in admin namespace", params[0]);
                Err(failure(-32601, &what))
            }
            _ => Err(unknown(method)),
        }
    }

    fn look<T>(&self, look: impl FnOnce(&Node) -> T) -> T {
        self.world.look(|net| look(&net.nodes[self.node]))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Node, Instant) -> T) -> T {
        self.world.change(|net, now| change(&mut net.nodes[self.node], now))
    }
}

fn bytes(message: &Value) -> Vec<u8> {
    format!("{message}\n").into_bytes()
}

fn answer(id: &Value, outcome: Result<Value, Value>) -> Value {
    match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
    }
}

fn failure(code: i64, message: &str) -> Value {
    json!({ "code": code, "message": message })
}

fn unknown(method: &str) -> Value {
    failure(-32601, &format!("the method {method} does not exist/is not available"))
}

/// The node that the first parameter names.
fn enode(params: &Value) -> Result<(String, Option<SocketAddr>), Value> {
    let found = match &params[0] {
        Value::String(url) => return url::parse(url).map_err(|why| failure(-32000, &format!("invalid enode: {why}"))),
        Value::Null => return Err(failure(-32602, "missing value for required argument 0")),
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let why = format!("invalid argument 0: json: cannot unmarshal {found} into Go value of type string");
    Err(failure(-32602, &why))
}

/// The answer to `admin_nodeInfo` (`p2p/server.go:1022`).
fn node_info(node: &Node) -> Value {
    let config = &node.config;
    let port = if config.p2p { config.port } else { 0 };
    let (ip, host) = match config.nat {
        Nat::Unknown => ("127.0.0.1".to_owned(), "@127.0.0.1".to_owned()),
        Nat::External(ip) if ip.is_ipv6() => (ip.to_string(), format!("@[{ip}]")),
        Nat::External(ip) => (ip.to_string(), format!("@{ip}")),
        Nat::Invalid => ("invalid IP".to_owned(), String::new()),
    };
    let endpoint = match (host.is_empty(), config.p2p) {
        (true, _) => String::new(),
        (false, true) => format!("{host}:{port}?discport=0"),
        (false, false) => format!("{host}:0"),
    };
    json!({
        "id": id(&config.key),
        "name": CLIENT,
        "enode": format!("enode://{}{endpoint}", config.key),
        "enr": "enr:-fake",
        "ip": ip,
        "ports": { "discovery": 0, "listener": port },
        "listenAddr": if config.p2p { format!("[::]:{port}") } else { String::new() },
        "protocols": {
            "eth": {
                "network": config.network_id, "genesis": config.genesis,
                "config": { "chainId": config.network_id, "terminalTotalDifficulty": 0 }, "head": config.genesis,
            },
            "snap": {},
        },
    })
}
