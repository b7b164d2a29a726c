//! Geth's `admin_*` methods, typed.
//!
//! Decoding takes only what is needed and forgives the rest: field sets differ
//! between versions and clients, and a field that nobody here reads must not cost a
//! node its peers. Geth's `ip` may be `"invalid IP"`, its `listenAddr` empty.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::error::{CallError, CloseReason, ConnectError};
use super::ipc::{Connection, Notifications};
use crate::enode::{Enode, PublicKey};
use crate::metrics::GethCalls;

/// What a Geth says of itself, from `admin_nodeInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Who it is.
    pub key: PublicKey,
    /// The client's name and version, such as `Geth/v1.17.5-stable/linux-amd64/go1.26.8`.
    pub client: String,
    /// Where it accepts connections.
    pub listen: Listen,
    /// The address it believes others see; 127.0.0.1 unless `--nat extip:…` is set
    /// (`p2p/server.go`, v1.17.5), so never an address to publish.
    pub ip: Option<IpAddr>,
    /// Which network it is of; `None` while the `eth` protocol does not run.
    pub network: Option<Network>,
}

/// Where a Geth accepts p2p connections, from `listenAddr`: the port really bound,
/// whereas `ports.listener` may be one that a router maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere: p2p is off, as with `--dev`.
    Off,
    /// On this port, but only for its own pod.
    Loopback(u16),
    /// On this port.
    Port(u16),
}

/// What two nodes must share to be peers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// The network ID.
    pub id: u64,
    /// Hash of the genesis block: `0x` and 64 lower-case hexadecimal digits.
    pub genesis: String,
}

/// One connection of Geth's, from `admin_peers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who is at the other end. An inbound peer's enode holds the connection's
    /// temporary port (`p2p/server.go` `nodeFromConn`), so only the key is taken from it.
    pub key: PublicKey,
    /// The other end's client name and version.
    pub name: String,
    /// The other end of the TCP connection.
    pub remote: Option<SocketAddr>,
    /// Whether the other end dialed.
    pub inbound: bool,
    /// Whether this Geth dialed it as a static node; on the accepting side always false.
    pub static_node: bool,
    /// Whether this Geth trusts it.
    pub trusted: bool,
    /// How far the `eth` protocol has come.
    pub eth: Eth,
    /// Protocols the other end offers, such as `eth/72`.
    pub caps: Vec<String>,
}

/// How far the `eth` protocol has come on a connection. Only [`Eth::Up`] is a peer:
/// another genesis or network shows for a blink as [`Eth::Handshake`], then drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eth {
    /// The two do not run `eth` together.
    Absent,
    /// Not yet greeted (`"handshake"`, `p2p/peer.go` `Info`).
    Handshake,
    /// Greeted: same network, same genesis, compatible forks.
    Up,
}

/// A connection that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerEvent {
    /// What happened.
    pub kind: PeerEventKind,
    /// Whom it concerns: [`PublicKey::node_id`].
    pub node_id: String,
    /// Why a connection ended, in Geth's words.
    pub error: Option<String>,
}

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEventKind {
    /// It was made; `eth` has not greeted yet.
    Add,
    /// It ended.
    Drop,
}

/// Connections that come and go, as Geth tells of them.
#[derive(Debug)]
pub struct PeerEvents(Notifications);

impl PeerEvents {
    /// The next event; `None` once the connection to Geth is over. Cancel safe.
    pub async fn recv(&mut self) -> Option<PeerEvent> {
        loop {
            // Geth also tells of single messages if it was started for tests so.
            if let Some(event) = peer_event(&self.0.recv().await?) {
                return Some(event);
            }
        }
    }

    /// All events that have arrived already.
    pub fn queued(&mut self) -> Vec<PeerEvent> {
        std::iter::from_fn(|| self.0.try_recv()).filter_map(|event| peer_event(&event)).collect()
    }
}

/// Geth's admin API; clones share one connection.
#[derive(Debug, Clone)]
pub struct Admin {
    connection: Connection,
    calls: GethCalls,
}

impl Admin {
    /// Connects to Geth's socket; `deadline` bounds the connecting and each call.
    ///
    /// # Errors
    /// [`ConnectError`], which says what a user can do about it.
    pub async fn connect(path: &Path, deadline: Duration) -> Result<Self, ConnectError> {
        Connection::connect(path, deadline).await.map(Self::new)
    }

    /// The admin API on a connection that is there already.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self { connection, calls: GethCalls::default() }
    }

    /// The same, with its calls counted by `calls`.
    #[must_use]
    pub fn counting(self, calls: GethCalls) -> Self {
        Self { calls, ..self }
    }

    /// Waits until the connection is over, and says why. Cancel safe.
    pub async fn closed(&self) -> CloseReason {
        self.connection.closed().await
    }

    /// `admin_nodeInfo`.
    ///
    /// # Errors
    /// [`CallError`]; of the decoding kind only if the public key is missing.
    pub async fn node_info(&self) -> Result<NodeInfo, CallError> {
        let lacking = CallError::Decode { method: "admin_nodeInfo", what: "it holds no enode with a public key" };
        let call = self.connection.call("admin_nodeInfo", json!([]));
        self.counted("admin_nodeInfo", async { node_info(&call.await?).ok_or(lacking) }).await
    }

    /// `admin_peers`. Peers without a readable public key are left out.
    ///
    /// # Errors
    /// [`CallError`]; of the decoding kind only if the answer is no list.
    pub async fn peers(&self) -> Result<Vec<Peer>, CallError> {
        let lacking = CallError::Decode { method: "admin_peers", what: "it is no list" };
        let call = self.connection.call("admin_peers", json!([]));
        self.counted("admin_peers", async { peers(&call.await?).ok_or(lacking) }).await
    }

    /// `admin_addPeer`: puts the node into the static set, whose members Geth dials
    /// until they are connected. Success says only that Geth could read the enode. A
    /// key that is in the set already stays as it is, *even at another address*
    /// (`p2p/dial.go`, v1.17.5): remove it first.
    ///
    /// # Errors
    /// [`CallError`]; Geth refuses a key that is not on the curve.
    pub async fn add_peer(&self, enode: &Enode) -> Result<(), CallError> {
        self.change("admin_addPeer", enode).await
    }

    /// `admin_removePeer`: takes the key out of the static set and ends its
    /// connection. Geth answers when the connection has ended; the key is out of the
    /// set before that, so a call that timed out has still done so.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn remove_peer(&self, enode: &Enode) -> Result<(), CallError> {
        self.change("admin_removePeer", enode).await
    }

    /// `admin_addTrustedPeer`: the key is let in although Geth is full, and never
    /// dropped at random (`eth/dropper.go`, since v1.15.9). Does not dial.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn add_trusted_peer(&self, enode: &Enode) -> Result<(), CallError> {
        self.change("admin_addTrustedPeer", enode).await
    }

    /// `admin_removeTrustedPeer`. Does not disconnect.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn remove_trusted_peer(&self, enode: &Enode) -> Result<(), CallError> {
        self.change("admin_removeTrustedPeer", enode).await
    }

    /// Subscribes to `peerEvents`. Events may be dropped when they are not read for
    /// long; whoever calls [`Admin::peers`] after the last one misses nothing. Geth has
    /// no event for [`Eth::Up`]: look again shortly after [`PeerEventKind::Add`].
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Rpc`] where the client has no such events, as reth and erigon.
    pub async fn subscribe_peer_events(&self) -> Result<PeerEvents, CallError> {
        let call = self.connection.subscribe("admin_subscribe", json!(["peerEvents"]));
        self.counted("admin_subscribe", call).await.map(PeerEvents)
    }

    /// The boolean that these calls answer is always true in Geth and says nothing.
    async fn change(&self, method: &'static str, enode: &Enode) -> Result<(), CallError> {
        self.counted(method, self.connection.call(method, json!([enode]))).await.map(drop)
    }

    /// Waits for a call, and counts how it ended.
    async fn counted<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let result = call.await;
        self.calls.count(method, &result);
        result
    }
}

/// The text at `pointer` (RFC 6901), or an empty one.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether `pointer` (RFC 6901) holds `true`.
fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The key in front of whatever address an enode has, a host name or none included.
fn key_of(enode: &str) -> Option<PublicKey> {
    let rest = enode.strip_prefix("enode://")?;
    rest.split(['@', '?']).next()?.parse().ok()
}

fn listen(address: &str) -> Listen {
    // A Geth that has bound its port prints the address it got, with an IP; the bare
    // `:30303` is what it was configured with.
    let socket = address.parse::<SocketAddr>().ok();
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    match (socket, port) {
        (_, None | Some(0)) => Listen::Off,
        (Some(socket), Some(port)) if socket.ip().is_loopback() => Listen::Loopback(port),
        (_, Some(port)) => Listen::Port(port),
    }
}

fn network(eth: &Value) -> Option<Network> {
    let id = eth.pointer("/network")?.as_u64()?;
    let genesis = text(eth, "/genesis").to_ascii_lowercase();
    let digits = genesis.strip_prefix("0x")?;
    let hash = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hash.then_some(Network { id, genesis })
}

/// Reads the answer to `admin_nodeInfo`; `None` if it names no node.
pub fn node_info(answer: &Value) -> Option<NodeInfo> {
    Some(NodeInfo {
        key: key_of(text(answer, "/enode"))?,
        client: text(answer, "/name").to_owned(),
        listen: listen(text(answer, "/listenAddr")),
        ip: text(answer, "/ip").parse().ok(),
        network: answer.pointer("/protocols/eth").and_then(network),
    })
}

/// Reads the answer to `admin_peers`, without those that have no readable key; `None` if it is no list.
pub fn peers(answer: &Value) -> Option<Vec<Peer>> {
    // A list that is empty may be null: Geth is written in Go.
    match answer {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => Some(list.iter().filter_map(peer).collect()),
        _ => None,
    }
}

fn peer(answer: &Value) -> Option<Peer> {
    let caps = answer.pointer("/caps").and_then(Value::as_array);
    Some(Peer {
        key: key_of(text(answer, "/enode"))?,
        name: text(answer, "/name").to_owned(),
        remote: text(answer, "/network/remoteAddress").parse().ok(),
        inbound: flag(answer, "/network/inbound"),
        static_node: flag(answer, "/network/static"),
        trusted: flag(answer, "/network/trusted"),
        eth: match answer.pointer("/protocols/eth") {
            Some(Value::Object(_)) => Eth::Up,
            Some(Value::String(_)) => Eth::Handshake,
            _ => Eth::Absent,
        },
        caps: caps.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

/// Reads a notification of `peerEvents`; `None` if it is of something else than a connection.
pub fn peer_event(event: &Value) -> Option<PeerEvent> {
    let kind = match text(event, "/type") {
        "add" => PeerEventKind::Add,
        "drop" => PeerEventKind::Drop,
        _ => return None,
    };
    let error = Some(text(event, "/error")).filter(|error| !error.is_empty());
    Some(PeerEvent { kind, node_id: text(event, "/peer").to_owned(), error: error.map(str::to_owned) })
}

#[cfg(test)]
mod tests;
