//! Geths to test against: a real unix socket in front, a modelled network behind.
//!
//! ```no_run
//! # use fakes::geth::{Config, Stop, World};
//! # async fn example() {
//! let world = World::new();
//! let one = world.start(Config::new(1, "/tmp/one.ipc"));
//! let mut two = world.start(Config::new(2, "/tmp/two.ipc"));
//! // ... the code under test calls admin_addPeer on the sockets ...
//! world.until(|world| world.links() == 2).await;
//! two.restart().await; // everything it was told is forgotten
//! assert!(one.methods().contains(&"admin_addPeer".to_owned()));
//! # }
//! ```
//!
//! `net` holds the habits of Geth's p2p layer that the product's rules answer
//! to, each with the place in go-ethereum v1.17.5 that it comes from; `rpc` those of
//! its socket, `url` those of node URLs. Everything follows tokio's clock, so `tokio::time::pause` makes 35
//! seconds pass in no time, and nothing is random.
//!
//! Not modelled: discovery, the random choice among static nodes (here they are
//! dialed in the order in which they were added), protocol versions, throttling of
//! inbound connections by address, the dropper of random peers, host names, node records,
//! and the curve (a key of one repeated byte stands for one that is not on it).

mod net;
mod rpc;
mod url;

use std::fs;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use net::Net;

use crate::original::Node;

/// How a Geth is started.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--ipcpath`.
    pub socket: PathBuf,
    /// Public key: 128 lower-case hexadecimal digits.
    pub key: String,
    /// The pod's address, at which others reach it.
    pub ip: IpAddr,
    /// `--port`.
    pub port: u16,
    /// Where others reach it in the place of `ip` and `port`: through a NAT, or at an
    /// address of each family. Empty: at `ip` and `port`.
    pub reached_at: Vec<SocketAddr>,
    /// `--networkid`.
    pub network_id: u64,
    /// Hash of the genesis block, with `0x`.
    pub genesis: String,
    /// `--maxpeers`.
    pub max_peers: usize,
    /// What it believes its address to be.
    pub nat: Nat,
    /// False for `--dev`: no listener, no dials.
    pub p2p: bool,
}

/// What a Geth believes its own address to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// 127.0.0.1: nothing told it better (`p2p/server.go:434`).
    Unknown,
    /// `--nat extip:<ip>`.
    External(IpAddr),
    /// `--nat extip:0.0.0.0`: the enode has no host at all.
    Invalid,
}

impl Config {
    /// Every address at which others reach it.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match self.reached_at.as_slice() {
            [] => vec![SocketAddr::new(self.ip, self.port)],
            addresses => addresses.to_vec(),
        }
    }

    /// The `n`th Geth of a network: key, and pod IP 10.0.x.y, are made from `n`.
    pub fn new(n: u16, socket: impl Into<PathBuf>) -> Self {
        let [high, low] = n.to_be_bytes();
        Self {
            socket: socket.into(),
            key: key(n),
            ip: Ipv4Addr::new(10, 0, high, low).into(),
            port: 30303,
            reached_at: Vec::new(),
            network_id: 1337,
            genesis: format!("0x{}", "9e".repeat(32)),
            max_peers: 50,
            nat: Nat::Unknown,
            p2p: true,
        }
    }
}

/// The public key of the `n`th Geth; the same at every call.
#[must_use]
pub fn key(n: u16) -> String {
    // SplitMix64 (Steele, Lea, Flood 2014): well spread, so that the order of keys
    // has nothing to do with the order of numbers.
    let mut state = u64::from(n);
    let mut word = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("{:016x}", mixed ^ (mixed >> 31))
    };
    (0..8).map(|_| word()).collect()
}

/// Odd but possible behaviour of the socket.
#[derive(Debug, Clone, Default)]
pub struct Quirks {
    /// Requests are read and never answered, and have no effect.
    pub mute: bool,
    /// Requests are carried out, and answered this much later.
    pub answers_after: Duration,
    /// So many answers are held back and then sent last first.
    pub reorder: usize,
    /// How long each `admin_addPeer` takes; they are done one after the other.
    pub add_takes: Duration,
    /// How long `admin_removePeer` takes to see the connection end. The other side sees it at
    /// once, and is refused if it dials meanwhile.
    pub remove_takes: Duration,
    /// Methods that it does not have, such as `admin_subscribe` (reth).
    pub lacks: Vec<&'static str>,
    /// Sent in the place of the next answer, once; a newline is added.
    pub instead: Option<Vec<u8>>,
}

/// How a Geth ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM: the socket is unlinked.
    Clean,
    /// SIGKILL: the socket stays behind and refuses connections; peers notice at once.
    Kill,
    /// The node went dark: as [`Stop::Kill`], but peers notice only when their read
    /// deadline has passed.
    PowerLoss,
}

/// A call that a Geth was asked to carry out.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The method.
    pub method: String,
    /// Its parameters.
    pub params: Value,
    /// When it came.
    pub at: Instant,
}

/// The network that Geths of one test share; clones share it.
#[derive(Debug, Clone)]
pub struct World(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    net: Mutex<Net>,
    /// Tells of every change, to whoever waits for one.
    changed: watch::Sender<()>,
}

impl World {
    /// An empty network. Call it inside a tokio runtime.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it starts a task, which a default value should not")]
    pub fn new() -> Self {
        let shared = Arc::new(Shared { net: Mutex::default(), changed: watch::Sender::new(()) });
        tokio::spawn(drive(Arc::downgrade(&shared)));
        Self(shared)
    }

    /// Starts a Geth: first its p2p, then its socket (`node/node.go:267`).
    #[must_use]
    pub fn start(&self, config: Config) -> FakeGeth {
        let index = self.change(|net, _| net.add(config));
        let mut geth = FakeGeth { world: self.clone(), index, ipc: None };
        geth.start();
        geth
    }

    /// How often two Geths that dial each other at once lose both connections, for
    /// each pair; after that one of the two dials wins. Once, unless set here.
    pub fn set_collisions(&self, times: u32) {
        self.change(|net, _| net.collisions = times);
    }

    /// How long a dial takes, and then the `eth` handshake. 5 ms each, unless set here.
    pub fn set_latency(&self, latency: Duration) {
        self.change(|net, _| net.latency = latency);
    }

    /// Lets the next so many dials end after 5 s without a connection: on a busy machine two Geths do not always get
    /// through with greeting each other in time.
    pub fn lose_dials(&self, count: u32) {
        self.change(|net, _| net.to_lose = count);
    }

    /// How many of them are still to come.
    #[must_use]
    pub fn dials_to_lose(&self) -> u32 {
        self.look(|net| net.to_lose)
    }

    /// Links that are up, each counted from both ends; a full mesh has n·(n−1).
    #[must_use]
    pub fn links(&self) -> usize {
        self.look(|net| (0..net.nodes.len()).map(|index| net.peers_up(index).len()).sum())
    }

    /// Waits until `condition` holds; looks after every change. Fails the test when ten
    /// minutes of tokio's clock pass without.
    pub async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(600);
        let mut changed = self.0.changed.subscribe();
        while !condition(self) {
            let Ok(change) = timeout_at(end, changed.changed()).await else {
                panic!("what was waited for never came; {} links are up", self.links());
            };
            change.expect("the world is held here");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look<T>(&self, look: impl FnOnce(&Net) -> T) -> T {
        look(&self.lock())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Net, Instant) -> T) -> T {
        let done = change(&mut self.lock(), Instant::now());
        self.0.changed.send_replace(());
        done
    }
}

/// Lets the network's events happen when they are due, as long as there is a network.
async fn drive(world: Weak<Shared>) {
    loop {
        let Some((mut changed, next)) = world.upgrade().map(|shared| {
            let changed = shared.changed.subscribe();
            (changed, World(shared).look(Net::next))
        }) else {
            return;
        };
        let due: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = match next {
            Some(at) => Box::pin(sleep_until(at)),
            None => Box::pin(std::future::pending()),
        };
        tokio::select! {
            () = due => {
                let Some(shared) = world.upgrade() else { return };
                World(shared).change(Net::run);
            }
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

/// One Geth. Dropping it kills it.
#[derive(Debug)]
pub struct FakeGeth {
    world: World,
    index: usize,
    /// The task that serves the socket, while there is one.
    ipc: Option<JoinHandle<()>>,
}

impl FakeGeth {
    /// Its public key: 128 hexadecimal digits.
    #[must_use]
    pub fn key(&self) -> String {
        self.world.look(|net| net.nodes[self.index].config.key.clone())
    }

    /// The enode at which others reach it.
    #[must_use]
    pub fn enode(&self) -> String {
        let config = self.config();
        format!("enode://{}@{}", config.key, config.addresses()[0])
    }

    /// A hold on it for a stand-in of a sidecar.
    #[must_use]
    pub fn neighbour(&self) -> Neighbour {
        Neighbour { world: self.world.clone(), index: self.index }
    }

    /// Where its socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.config().socket
    }

    /// The keys of its peers whose `eth` is up, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<String> {
        self.world.look(|net| net.peers_up(self.index))
    }

    /// Its static nodes, in the order in which they were added.
    #[must_use]
    pub fn statics(&self) -> Vec<String> {
        let enode = |(key, address): &(String, Option<SocketAddr>)| match address {
            Some(address) => format!("enode://{key}@{address}"),
            None => format!("enode://{key}"),
        };
        self.world.look(|net| net.nodes[self.index].statics.iter().map(enode).collect())
    }

    /// The keys it trusts, in order.
    #[must_use]
    pub fn trusted(&self) -> Vec<String> {
        self.world.look(|net| net.nodes[self.index].trusted.iter().cloned().collect())
    }

    /// How many of its links it dialed itself.
    #[must_use]
    pub fn dialed(&self) -> usize {
        self.world.look(|net| net.dialed(self.index))
    }

    /// What it was asked so far, in order, since it was first started.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.world.look(|net| net.nodes[self.index].calls.clone())
    }

    /// The methods of [`FakeGeth::calls`].
    #[must_use]
    pub fn methods(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.method).collect()
    }

    /// Forgets the calls recorded so far.
    pub fn forget_calls(&self) {
        self.world.change(|net, _| net.nodes[self.index].calls.clear());
    }

    /// Changes how the socket behaves from the next request on.
    pub fn quirks(&self, change: impl FnOnce(&mut Quirks)) {
        self.world.change(|net, _| change(&mut net.nodes[self.index].quirks));
    }

    /// Changes how it is started the next time: another IP, another key.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        assert!(self.ipc.is_none(), "a Geth that runs cannot be configured");
        self.world.change(|net, _| change(&mut net.nodes[self.index].config));
    }

    /// How it was, or next will be, started.
    #[must_use]
    pub fn config(&self) -> Config {
        self.world.look(|net| net.nodes[self.index].config.clone())
    }

    /// Starts it again after [`FakeGeth::stop`]; it remembers no peer of before.
    pub fn start(&mut self) {
        assert!(self.ipc.is_none(), "it runs already");
        self.world.change(|net, _| net.start(self.index));
        let listener = listen(&self.socket()).expect("a socket path that can be bound");
        self.ipc = Some(tokio::spawn(rpc::serve(self.world.clone(), self.index, listener)));
    }

    /// Stops it: first the socket, so that every connection ends, then p2p
    /// (`node/node.go:284`).
    pub async fn stop(&mut self, how: Stop) {
        if let Some(ipc) = self.ipc.take() {
            ipc.abort();
            assert!(ipc.await.is_err_and(|ended| ended.is_cancelled()), "the socket's task failed");
        }
        if how == Stop::Clean {
            fs::remove_file(self.socket()).expect("its socket to unlink");
        }
        self.world.change(|net, now| net.stop(now, self.index, how));
    }

    /// Kills it and starts it again at once.
    pub async fn restart(&mut self) {
        self.stop(Stop::Kill).await;
        self.start();
    }
}

impl Drop for FakeGeth {
    fn drop(&mut self) {
        if let Some(ipc) = self.ipc.take() {
            ipc.abort();
            self.world.change(|net, now| net.stop(now, self.index, Stop::Kill));
        }
    }
}

/// A hold on a Geth for whoever stands beside it; it outlives the Geth.
#[derive(Debug, Clone)]
pub struct Neighbour {
    world: World,
    index: usize,
}

impl Node for Neighbour {
    async fn enode(&self) -> Option<String> {
        self.world.look(|net| {
            let node = &net.nodes[self.index];
            let address = SocketAddr::new(node.config.ip, node.config.port);
            node.listens_at(address).then(|| format!("enode://{}@{address}", node.config.key))
        })
    }

    async fn accepts(&self, address: &str) -> bool {
        let listens = |address| self.world.look(|net| net.nodes.iter().any(|node| node.listens_at(address)));
        let accepts = address.parse().is_ok_and(listens);
        // A pod that is gone does not even refuse.
        if !accepts {
            sleep(Duration::from_secs(3)).await;
        }
        accepts
    }

    async fn add_peer(&self, enode: &str) -> bool {
        let Ok((key, address)) = url::parse(enode) else { return true };
        let answers = self.enode().await.is_some();
        if answers {
            self.world.change(|net, now| net.add_static(now, self.index, key, address));
        }
        answers
    }
}

/// Removes what a killed Geth left, listens, and shuts everybody else out
/// (`rpc/ipc_unix.go:40`).
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
