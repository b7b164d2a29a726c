//! Geth's p2p layer as far as it decides who gets connected: a simulation of events
//! in time, without any waiting of its own. File and line numbers are go-ethereum
//! v1.17.5's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use sha3::{Digest, Keccak256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Call, Config, Quirks, Stop};

/// After any dial to a node, however it went, it is not dialed again for so long
/// (`p2p/dial.go:43`: `inboundThrottleTime` + 5 s).
const DIAL_HISTORY: Duration = Duration::from_secs(35);
/// How long a dial to an address that nobody has takes to fail (`p2p/server.go:46`).
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the two ends of a connection may take to greet each other (`p2p/transport.go:39`).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Dials that may be under way at once (`p2p/server.go:54`).
const MAX_ACTIVE_DIALS: usize = 50;
/// How long a peer that went dark stays listed: pings every 15 s, read deadline 30 s
/// (`p2p/peer.go:48`, `p2p/server.go:57`).
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// What both sides learn of the end of a connection that one of them wanted (`p2p/peer_error.go`).
const HUNG_UP: &str = "disconnect requested";
/// What each step of a connection takes unless a test says otherwise.
const LATENCY: Duration = Duration::from_millis(5);

/// One Geth's part.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) quirks: Quirks,
    pub(super) calls: Vec<Call>,
    /// Where peer events of this run go.
    pub(super) subscribers: Vec<mpsc::UnboundedSender<Value>>,
    /// Key and address, the address being the one it was added with first; without one
    /// it is never dialed.
    pub(super) statics: Vec<(String, Option<SocketAddr>)>,
    pub(super) trusted: BTreeSet<String>,
    /// When the last `admin_addPeer` that takes time is done.
    adding_until: Option<Instant>,
    running: bool,
    /// Tells this run's events from those of runs before.
    run: u64,
    /// Until when a key is not dialed again.
    history: BTreeMap<String, Instant>,
    /// Dials under way, by key.
    dialing: BTreeMap<String, Dial>,
    /// The link to each peer.
    peers: BTreeMap<String, u64>,
}

/// A dial under way.
#[derive(Debug)]
struct Dial {
    address: SocketAddr,
    /// Whether it comes to nothing, as when it has lost against a dial from the other side.
    lost: bool,
}

/// A connection, seen from above.
#[derive(Debug, Clone)]
struct Link {
    dialer: End,
    listener: End,
    /// Whether `eth` has greeted.
    up: bool,
}

/// One end of a connection.
#[derive(Debug, Clone)]
struct End {
    node: usize,
    key: String,
    address: SocketAddr,
}

#[derive(Debug, Clone)]
enum Event {
    DialEnds { node: usize, run: u64, key: String, address: SocketAddr },
    HistoryEnds { node: usize, run: u64 },
    EthGreets { link: u64 },
    ReadTimesOut { link: u64 },
}

/// All Geths of a test and what is between them.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    pub(super) latency: Duration,
    pub(super) collisions: u32,
    /// So many dials from now on come to nothing.
    pub(super) to_lose: u32,
    links: BTreeMap<u64, Link>,
    events: BTreeMap<(Instant, u64), Event>,
    /// Collisions so far, by pair.
    collided: BTreeMap<[usize; 2], u32>,
    serial: u64,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            latency: LATENCY,
            collisions: 1,
            to_lose: 0,
            links: BTreeMap::new(),
            events: BTreeMap::new(),
            collided: BTreeMap::new(),
            serial: 0,
        }
    }
}

impl Node {
    /// When an `admin_addPeer` that comes `now` and takes so long is done, after those before it.
    pub(super) fn turn_to_add(&mut self, now: Instant, takes: Duration) -> Instant {
        let at = self.adding_until.map_or(now, |until| until.max(now)) + takes;
        self.adding_until = Some(at);
        at
    }

    pub(super) fn listens_at(&self, address: SocketAddr) -> bool {
        self.running && self.config.p2p && self.config.addresses().contains(&address)
    }

    /// Without an address of a family, nothing of that family can be dialed.
    fn has_family_of(&self, address: SocketAddr) -> bool {
        self.config.ip.is_ipv4() == address.is_ipv4()
            || self.config.addresses().iter().any(|own| own.is_ipv4() == address.is_ipv4())
    }
}

impl Net {
    pub(super) fn add(&mut self, config: Config) -> usize {
        self.nodes.push(Node {
            config,
            quirks: Quirks::default(),
            calls: Vec::new(),
            subscribers: Vec::new(),
            statics: Vec::new(),
            trusted: BTreeSet::new(),
            adding_until: None,
            running: false,
            run: 0,
            history: BTreeMap::new(),
            dialing: BTreeMap::new(),
            peers: BTreeMap::new(),
        });
        self.nodes.len() - 1
    }

    pub(super) fn start(&mut self, node: usize) {
        self.nodes[node].running = true;
    }

    /// Everything a Geth was told lives in memory (`p2p/dial.go:125`) and is gone.
    pub(super) fn stop(&mut self, now: Instant, index: usize, how: Stop) {
        let node = &mut self.nodes[index];
        node.running = false;
        node.run += 1;
        node.statics.clear();
        node.trusted.clear();
        node.history.clear();
        node.dialing.clear();
        node.subscribers.clear();
        for link in std::mem::take(&mut node.peers).into_values() {
            match how {
                Stop::PowerLoss => self.later(now + READ_TIMEOUT, Event::ReadTimesOut { link }),
                Stop::Clean | Stop::Kill => self.end(now, link, "EOF"),
            }
        }
    }

    /// A key that is in the set already stays as it is, with its old address
    /// (`p2p/dial.go:314-320`).
    pub(super) fn add_static(&mut self, now: Instant, node: usize, key: String, address: Option<SocketAddr>) {
        let statics = &mut self.nodes[node].statics;
        if statics.iter().all(|(known, _)| *known != key) {
            statics.push((key, address));
            self.dial(now, node);
        }
    }

    /// Does not clear the dial history (`p2p/dial.go:327-336`).
    pub(super) fn remove_static(&mut self, node: usize, key: &str) {
        self.nodes[node].statics.retain(|(known, _)| known != key);
    }

    /// Tells the other end of a connection, if there is one, that it ends. This end forgets
    /// it only in [`Self::disconnect`], and until then refuses a new one.
    pub(super) fn announce_end(&mut self, now: Instant, node: usize, key: &str) -> bool {
        let Some(id) = self.nodes[node].peers.get(key).copied() else { return false };
        let Link { dialer, listener, .. } = self.links[&id].clone();
        let (own, other) = if dialer.node == node { (dialer, listener) } else { (listener, dialer) };
        self.end_at(now, id, &other, &own, HUNG_UP);
        true
    }

    pub(super) fn disconnect(&mut self, now: Instant, node: usize, key: &str) {
        if let Some(&link) = self.nodes[node].peers.get(key) {
            self.end(now, link, HUNG_UP);
        }
    }

    pub(super) fn peers_up(&self, node: usize) -> Vec<String> {
        let up = self.nodes[node].peers.iter().filter(|(_, link)| self.links[link].up);
        up.map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn dialed(&self, node: usize) -> usize {
        self.nodes[node].peers.values().filter(|link| self.links[link].dialer.node == node).count()
    }

    /// The answer to `admin_peers` (`p2p/peer.go:568`), sorted by ID as Geth's.
    pub(super) fn peers(&self, index: usize) -> Value {
        let node = &self.nodes[index];
        let mut peers: Vec<Value> = node.peers.values().map(|link| self.peer(node, index, &self.links[link])).collect();
        peers.sort_by_key(|peer| peer["id"].to_string());
        Value::Array(peers)
    }

    fn peer(&self, node: &Node, index: usize, link: &Link) -> Value {
        let inbound = link.listener.node == index;
        let (own, other) = if inbound { (&link.listener, &link.dialer) } else { (&link.dialer, &link.listener) };
        json!({
            // An inbound peer's has the connection's temporary port (`p2p/server.go:956`).
            "enode": format!("enode://{}@{}", other.key, other.address),
            "id": id(&other.key),
            "name": super::rpc::CLIENT,
            "caps": ["eth/69", "eth/70", "eth/71", "eth/72", "snap/1"],
            "network": {
                "localAddress": own.address, "remoteAddress": other.address,
                "inbound": inbound, "trusted": node.trusted.contains(&other.key),
                // Set by the dialing side alone.
                "static": !inbound,
            },
            "protocols": if link.up {
                json!({ "eth": { "version": 72, "earliestBlock": 0, "latestBlock": 0,
                    "latestBlockHash": node.config.genesis }, "snap": { "version": 1 } })
            } else {
                json!({ "eth": "handshake", "snap": "handshake" })
            },
        })
    }

    /// When the next event is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets happen what is due.
    pub(super) fn run(&mut self, now: Instant) {
        while let Some(first) = self.events.first_entry()
            && first.key().0 <= now
        {
            match first.remove() {
                Event::DialEnds { node, run, key, address } if self.nodes[node].run == run => {
                    let dial = self.nodes[node].dialing.remove(&key);
                    if dial.is_some_and(|dial| !dial.lost) {
                        self.connect(now, node, &key, address);
                    }
                    self.dial(now, node);
                }
                Event::HistoryEnds { node, run } if self.nodes[node].run == run => self.dial(now, node),
                Event::DialEnds { .. } | Event::HistoryEnds { .. } => {}
                Event::EthGreets { link } => self.greet(now, link),
                Event::ReadTimesOut { link } => self.end(now, link, "read timeout"),
            }
        }
    }

    fn later(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial), event);
    }

    /// Dials what may be dialed (`p2p/dial.go:432` `checkDial`) while there are slots.
    fn dial(&mut self, now: Instant, index: usize) {
        loop {
            let free = self.free_dials(index);
            let node = &self.nodes[index];
            let candidate = node.statics.iter().find_map(|(key, address)| {
                let may = *key != node.config.key
                    && !node.dialing.contains_key(key)
                    && !node.peers.contains_key(key)
                    && node.history.get(key).is_none_or(|&until| until <= now);
                Some((key.clone(), (*address).filter(|_| may)?))
            });
            let Some((key, address)) = candidate.filter(|_| free > 0 && node.running) else {
                return;
            };
            let run = node.run;
            // A pod without a listener refuses at once; an address without a pod is silent.
            let pod = self.nodes.iter().any(|node| node.config.addresses().iter().any(|own| own.ip() == address.ip()));
            let lost = pod && self.to_lose > 0;
            self.to_lose -= u32::from(lost);
            let takes = match (pod, lost) {
                (false, _) => DIAL_TIMEOUT,
                (true, true) => HANDSHAKE_TIMEOUT,
                (true, false) => self.latency,
            };
            self.nodes[index].history.insert(key.clone(), now + DIAL_HISTORY);
            self.nodes[index].dialing.insert(key.clone(), Dial { address, lost });
            self.later(now + DIAL_HISTORY, Event::HistoryEnds { node: index, run });
            self.later(now + takes, Event::DialEnds { node: index, run, key, address });
        }
    }

    /// Twice the dial slots that are left, less the dials under way
    /// (`p2p/dial.go:402`), so a burst can overshoot.
    fn free_dials(&self, index: usize) -> usize {
        let left = max_dialed(&self.nodes[index].config).saturating_sub(self.dialed(index));
        (left * 2).min(MAX_ACTIVE_DIALS).saturating_sub(self.nodes[index].dialing.len())
    }

    /// A dial has reached its address.
    fn connect(&mut self, now: Instant, from: usize, key: &str, address: SocketAddr) {
        let Some(to) = self.nodes.iter().position(|node| node.listens_at(address)) else { return };
        if !self.nodes[from].has_family_of(address) {
            return;
        }
        let own = self.nodes[from].config.key.clone();
        // RLPx greets a key, not an address.
        if self.nodes[to].config.key != key || !self.accepts(from, key, false) || !self.accepts(to, &own, true) {
            return;
        }
        self.serial += 1;
        let port = 40_000 + u16::try_from(self.serial % 20_000).unwrap_or_default();
        let dialer = End { node: from, key: own.clone(), address: SocketAddr::new(self.ip(from), port) };
        let listener = End { node: to, key: key.to_owned(), address };
        let link = self.serial;
        self.links.insert(link, Link { dialer: dialer.clone(), listener: listener.clone(), up: false });
        for (end, other) in [(&dialer, &listener), (&listener, &dialer)] {
            self.nodes[end.node].peers.insert(other.key.clone(), link);
            self.tell(end, other, "add", None);
        }
        if self.collides(from, to, &own) {
            // Each side keeps its own connection and refuses the other's, so both end
            // (`p2p/server.go:756`, DiscAlreadyConnected).
            if let Some(dial) = self.nodes[to].dialing.get_mut(&own) {
                dial.lost = true;
            }
            self.end(now, link, "already connected");
        } else {
            self.later(now + self.latency, Event::EthGreets { link });
        }
    }

    fn ip(&self, node: usize) -> IpAddr {
        self.nodes[node].config.ip
    }

    /// Whether the other side is dialing back just now, and this time both lose.
    fn collides(&mut self, from: usize, to: usize, own: &str) -> bool {
        // A dial to where it is not, such as its old address, meets nobody.
        let meets = |dial: &Dial| !dial.lost && self.nodes[from].listens_at(dial.address);
        let dials_back = self.nodes[to].dialing.get(own).is_some_and(meets);
        let times = self.collided.entry([from.min(to), from.max(to)]).or_default();
        let collides = dials_back && *times < self.collisions;
        *times += u32::from(collides);
        collides
    }

    /// `postHandshakeChecks` (`p2p/server.go:756`): trusted nodes pass a full house.
    fn accepts(&self, index: usize, key: &str, inbound: bool) -> bool {
        let node = &self.nodes[index];
        let inbounds = node.peers.len() - self.dialed(index);
        let room = node.peers.len() < node.config.max_peers
            && (!inbound || inbounds < node.config.max_peers - max_dialed(&node.config));
        (room || node.trusted.contains(key)) && !node.peers.contains_key(key) && node.config.key != key
    }

    /// `eth` compares network and genesis (`eth/protocols/eth/handshake.go:71`), and a
    /// stranger is dropped.
    fn greet(&mut self, now: Instant, id: u64) {
        let Some(link) = self.links.get(&id) else { return };
        let [dialer, listener] = [&link.dialer, &link.listener].map(|end| &self.nodes[end.node].config);
        let bare = |config: &Config| config.genesis.trim_start_matches("0x").to_owned();
        let error = if dialer.network_id != listener.network_id {
            format!("network ID mismatch: {} (!= {})", listener.network_id, dialer.network_id)
        } else if dialer.genesis != listener.genesis {
            format!("genesis mismatch: {} (!= {})", bare(listener), bare(dialer))
        } else {
            if let Some(link) = self.links.get_mut(&id) {
                link.up = true;
            }
            return;
        };
        // Both notice, and the first to say so leaves the other with this; here the dialer is.
        self.end_with(now, id, [&error, "subprotocol error"]);
    }

    /// Ends a connection at every end that still has it.
    fn end(&mut self, now: Instant, id: u64, error: &str) {
        self.end_with(now, id, [error; 2]);
    }

    /// As [`Self::end`], with what the dialer and what the listener learns of it.
    fn end_with(&mut self, now: Instant, id: u64, errors: [&str; 2]) {
        let Some(Link { dialer, listener, .. }) = self.links.remove(&id) else { return };
        for ((end, other), error) in [(&dialer, &listener), (&listener, &dialer)].into_iter().zip(errors) {
            self.end_at(now, id, end, other, error);
        }
    }

    /// Ends a connection at one end, if that still has it.
    fn end_at(&mut self, now: Instant, id: u64, end: &End, other: &End, error: &str) {
        let peers = &mut self.nodes[end.node].peers;
        if peers.get(&other.key) == Some(&id) {
            peers.remove(&other.key);
            self.tell(end, other, "drop", Some(error));
            self.dial(now, end.node);
        }
    }

    /// Sends a peer event (`p2p/server.go:1003`) to whoever has subscribed.
    fn tell(&mut self, end: &End, other: &End, what: &str, error: Option<&str>) {
        let mut event = json!({
            "type": what, "peer": id(&other.key), "local": end.address, "remote": other.address,
        });
        if let Some(error) = error {
            event["error"] = json!(error);
        }
        self.nodes[end.node].subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }
}

/// `MaxDialedConns` (`p2p/server.go:552`): a third, and static nodes are no exception.
fn max_dialed(config: &Config) -> usize {
    match config.max_peers {
        _ if !config.p2p => 0,
        0 => 0,
        max => (max / 3).max(1),
    }
}

/// Keccak-256 of the key (`p2p/enode/idscheme.go`).
pub(super) fn id(key: &str) -> String {
    let digit = |at: usize| key.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or_default();
    let bytes: Vec<u8> = (0..key.len()).step_by(2).map(digit).collect();
    Keccak256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
