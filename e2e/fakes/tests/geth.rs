//! Does the fake Geth have the real one's habits, those that the peering rules answer to?
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail their test")]

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fakes::geth::{Config, FakeGeth, Nat, Stop, World, key};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

const HISTORY: Duration = Duration::from_secs(35);

/// Geths 1 to n on sockets in a folder of their own.
struct Network {
    world: World,
    folder: TempDir,
    geths: Vec<FakeGeth>,
}

impl Network {
    fn new(n: u16, change: impl Fn(u16, &mut Config)) -> Self {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let geths = (1..=n).map(|number| {
            let mut config = Config::new(number, folder.path().join(number.to_string()));
            change(number, &mut config);
            world.start(config)
        });
        Self { geths: geths.collect(), world, folder }
    }

    fn plain(n: u16) -> Self {
        Self::new(n, |_, _| ())
    }

    /// `from` is told of `to`, both counted from 0.
    async fn add(&self, from: usize, to: usize) {
        let answer = call(&self.geths[from], "admin_addPeer", json!([self.geths[to].enode()])).await;
        assert_eq!(answer["result"], true);
    }

    /// Waits until there are so many links, and says how long that took.
    async fn until_links(&self, count: usize) -> Duration {
        let begun = Instant::now();
        self.world.until(|world| world.links() == 2 * count).await;
        begun.elapsed()
    }
}

async fn call(geth: &FakeGeth, method: &str, params: Value) -> Value {
    Raw::connect(geth).await.unwrap().call(method, params).await
}

/// A connection without any comfort.
struct Raw(BufReader<UnixStream>);

impl Raw {
    async fn connect(geth: &FakeGeth) -> io::Result<Self> {
        UnixStream::connect(geth.socket()).await.map(|socket| Self(BufReader::new(socket)))
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        self.0.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        self.next().await.unwrap()
    }

    /// The next line; `None` at the end. Fails when none comes for an hour of virtual time.
    async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        timeout(Duration::from_secs(3600), self.0.read_line(&mut line)).await.unwrap().unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn is_a_static_node_kept_at_its_old_address_until_it_is_removed() {
    let mut network = Network::plain(2);
    network.add(0, 1).await;
    network.until_links(1).await;
    let old = network.geths[0].statics();

    let moved: IpAddr = [10, 0, 9, 9].into();
    network.geths[1].stop(Stop::Kill).await;
    network.geths[1].configure(|config| config.ip = moved);
    network.geths[1].start();
    network.add(0, 1).await;
    assert_eq!(network.geths[0].statics(), old);

    // Not in an hour either; only removing helps, and then at the new address at once,
    // as the last dial is long ago.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(network.world.links(), 0);
    call(&network.geths[0], "admin_removePeer", json!([network.geths[1].enode()])).await;
    network.add(0, 1).await;
    assert!(network.until_links(1).await <= HISTORY);
}

#[tokio::test(start_paused = true)]
async fn is_a_node_not_dialed_again_within_35_seconds_even_after_success_and_by_a_newcomer_at_once() {
    let mut network = Network::plain(2);
    network.add(0, 1).await;
    network.until_links(1).await;

    // The old one has to wait, although its dial had succeeded.
    network.geths[1].restart().await;
    assert_eq!(network.world.links(), 0);
    let waited = network.until_links(1).await;
    assert!(waited > Duration::from_secs(34) && waited <= HISTORY + Duration::from_secs(1), "{waited:?}");

    // The new one has no history.
    network.geths[1].restart().await;
    network.add(1, 0).await;
    assert!(network.until_links(1).await < Duration::from_secs(1));

    // A link older than the history comes back at once, by whoever dialed it.
    tokio::time::sleep(HISTORY * 2).await;
    network.geths[0].restart().await;
    assert!(network.until_links(1).await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn does_removing_a_node_not_clear_its_dial_history() {
    let network = Network::plain(2);
    network.add(0, 1).await;
    network.until_links(1).await;
    call(&network.geths[0], "admin_removePeer", json!([network.geths[1].enode()])).await;
    assert_eq!(network.world.links(), 0);
    network.add(0, 1).await;
    assert!(network.until_links(1).await > Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn does_a_pair_that_dials_each_other_at_once_lose_35_seconds() {
    let network = Network::plain(2);
    let mut one = Raw::connect(&network.geths[0]).await.unwrap();
    let mut two = Raw::connect(&network.geths[1]).await.unwrap();
    let to = |index: usize| json!([network.geths[index].enode()]);
    tokio::join!(one.call("admin_addPeer", to(1)), two.call("admin_addPeer", to(0)));
    assert!(network.until_links(1).await > Duration::from_secs(34));
}

#[tokio::test(start_paused = true)]
async fn is_a_dial_to_an_old_address_no_collision_with_that_of_the_node_that_moved() {
    let network = Network::plain(2);
    let old = format!("enode://{}@10.9.9.9:30303", network.geths[1].key());
    call(&network.geths[0], "admin_addPeer", json!([old])).await;
    network.add(1, 0).await;
    assert!(network.until_links(1).await < Duration::from_secs(1));
}

#[tokio::test]
async fn are_the_requests_of_a_batch_answered_in_order() {
    let network = Network::plain(1);
    let mut raw = Raw::connect(&network.geths[0]).await.unwrap();
    raw.0
        .write_all(b"[{\"id\":1,\"method\":\"admin_peers\"},{\"id\":\"2\",\"method\":\"nonsense\"}]\n[]\n")
        .await
        .unwrap();
    let both = raw.next().await.unwrap();
    assert_eq!((&both[0]["id"], &both[0]["result"]), (&json!(1), &json!([])));
    assert_eq!((&both[1]["id"], &both[1]["error"]["code"]), (&json!("2"), &json!(-32601)));
    assert_eq!(raw.next().await.unwrap()["error"]["code"], -32600);
}

#[tokio::test(start_paused = true)]
async fn does_one_of_two_dials_win_where_collisions_are_switched_off() {
    let network = Network::plain(2);
    network.world.set_collisions(0);
    network.add(0, 1).await;
    network.add(1, 0).await;
    assert!(network.until_links(1).await < Duration::from_secs(1));
    assert_eq!(network.geths[0].dialed() + network.geths[1].dialed(), 1);
}

#[tokio::test(start_paused = true)]
async fn does_an_address_without_a_pod_keep_its_dial_slot_for_15_seconds_and_addpeer_say_true() {
    let network = Network::new(4, |_, config| config.max_peers = 3);
    // One slot, so at most two dials under way.
    for n in [100, 101] {
        let nobody = json!([format!("enode://{}@10.0.0.{n}:30303", key(n))]);
        assert_eq!(call(&network.geths[0], "admin_addPeer", nobody).await["result"], true);
    }
    network.add(0, 1).await;
    let waited = network.until_links(1).await;
    assert!(waited >= Duration::from_secs(14) && waited < Duration::from_secs(17), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn is_nothing_connected_beyond_the_dial_slots_and_trust_no_help_with_that() {
    // maxpeers 9: 3 dial slots, a burst of 6.
    let network = Network::new(10, |_, config| config.max_peers = 9);
    network.add(0, 1).await;
    network.add(0, 2).await;
    network.add(0, 3).await;
    network.until_links(3).await;
    for other in 4..10 {
        call(&network.geths[0], "admin_addTrustedPeer", json!([network.geths[other].enode()])).await;
        network.add(0, other).await;
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(network.geths[0].dialed(), 3);
    // A slot that is freed is used, by as many dials as there are slots, twice over.
    call(&network.geths[0], "admin_removePeer", json!([network.geths[1].enode()])).await;
    network.world.until(|_| network.geths[0].dialed() > 2).await;
    assert_eq!(network.geths[0].dialed(), 4);
    assert!(!network.geths[0].peers().contains(&network.geths[1].key()));
}

#[tokio::test(start_paused = true)]
async fn is_a_full_geth_open_to_those_it_trusts() {
    // maxpeers 3: 1 dial slot, 2 inbound.
    let network = Network::new(5, |_, config| config.max_peers = 3);
    for other in 1..5 {
        network.add(other, 0).await;
    }
    network.until_links(2).await;
    tokio::time::sleep(HISTORY * 3).await;
    assert_eq!(network.world.links(), 4);
    for other in 1..5 {
        call(&network.geths[0], "admin_addTrustedPeer", json!([network.geths[other].enode()])).await;
    }
    network.until_links(4).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_stranger_show_for_a_blink_and_then_drop() {
    for change in [(|config: &mut Config| config.network_id = 2) as fn(&mut Config), |config| {
        config.genesis = format!("0x{}", "11".repeat(32))
    }] {
        let network = Network::new(2, |n, config| {
            if n == 2 {
                change(config)
            }
        });
        network.world.set_latency(Duration::from_millis(100));
        let mut events = Raw::connect(&network.geths[0]).await.unwrap();
        let subscription = events.call("admin_subscribe", json!(["peerEvents"])).await["result"].clone();
        network.add(0, 1).await;
        let added = events.next().await.unwrap();
        assert_eq!((&added["method"], &added["params"]["subscription"]), (&json!("admin_subscription"), &subscription));
        assert_eq!(added["params"]["result"]["type"], "add");
        let seen = call(&network.geths[0], "admin_peers", json!([])).await;
        assert_eq!(seen["result"][0]["protocols"]["eth"], "handshake");
        let dropped = events.next().await.unwrap()["params"]["result"].clone();
        assert_eq!((&dropped["type"], dropped["error"].is_string()), (&json!("drop"), true));
        assert_eq!(call(&network.geths[0], "admin_peers", json!([])).await["result"], json!([]));
        assert_eq!(network.world.links(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_restart_forget_everything_and_a_new_key_make_a_new_node() {
    let mut network = Network::plain(2);
    network.add(0, 1).await;
    call(&network.geths[0], "admin_addTrustedPeer", json!([network.geths[1].enode()])).await;
    network.until_links(1).await;
    let mut connection = Raw::connect(&network.geths[0]).await.unwrap();
    connection.call("admin_nodeInfo", json!([])).await;
    network.geths[0].restart().await;
    assert_eq!(connection.next().await, None);
    assert_eq!((network.geths[0].statics().len(), network.geths[0].trusted().len()), (0, 0));
    assert_eq!(network.world.links(), 0);

    // Whoever dials the old key at the address of the new one gets nobody.
    let enode = network.geths[0].enode();
    network.geths[0].stop(Stop::Clean).await;
    network.geths[0].configure(|config| config.key = key(77));
    network.geths[0].start();
    call(&network.geths[1], "admin_addPeer", json!([enode])).await;
    tokio::time::sleep(HISTORY * 2).await;
    assert_eq!(network.world.links(), 0);
}

#[tokio::test(start_paused = true)]
async fn is_a_geth_that_lost_power_listed_for_30_seconds_and_its_return_refused_so_long() {
    let mut network = Network::plain(2);
    network.add(0, 1).await;
    network.until_links(1).await;
    network.geths[1].stop(Stop::PowerLoss).await;
    network.geths[1].start();
    network.add(1, 0).await;
    assert_eq!(network.geths[0].peers(), [network.geths[1].key()]);
    network.world.until(|_| network.geths[0].peers().is_empty()).await;
    assert!(network.until_links(1).await < HISTORY);
}

#[tokio::test(start_paused = true)]
async fn is_the_socket_private_left_behind_by_a_kill_and_gone_after_a_clean_stop() {
    let mut network = Network::plain(1);
    let geth = &mut network.geths[0];
    assert_eq!(std::fs::metadata(geth.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    geth.stop(Stop::Kill).await;
    assert_eq!(Raw::connect(geth).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    geth.start();
    Raw::connect(geth).await.unwrap();
    geth.stop(Stop::Clean).await;
    assert_eq!(Raw::connect(geth).await.err().unwrap().kind(), io::ErrorKind::NotFound);
    assert!(network.folder.path().exists());
}

#[tokio::test(start_paused = true)]
async fn are_errors_worded_as_geth_words_them() {
    let network = Network::plain(1);
    let geth = &network.geths[0];
    for (method, params, code, message) in [
        ("admin_nope", json!([]), -32601, "the method admin_nope does not exist/is not available"),
        ("admin_subscribe", json!(["nope"]), -32601, "no \"nope\" subscription in admin namespace"),
        ("admin_addPeer", json!([]), -32602, "missing value for required argument 0"),
        ("admin_addPeer", json!(["enode://zz"]), -32000, "invalid enode: does not contain node ID"),
        (
            "admin_addPeer",
            json!([format!("enode://{}@10.0.0.1:30303", "ab".repeat(64))]),
            -32000,
            "invalid enode: invalid public key (invalid secp256k1 public key)",
        ),
    ] {
        assert_eq!(call(geth, method, params).await["error"], json!({ "code": code, "message": message }));
    }
    let mut connection = Raw::connect(geth).await.unwrap();
    connection.0.write_all(b"garbage\n").await.unwrap();
    assert_eq!(connection.next().await.unwrap()["error"]["code"], -32700);
    assert_eq!(connection.next().await, None);
}

/// Every path to a value in `json`, without what depends on the chain's configuration.
fn shape(json: &Value, path: &str, into: &mut BTreeSet<String>) {
    match json {
        Value::Object(fields) if path != "/protocols/eth/config" => {
            fields.iter().for_each(|(name, value)| shape(value, &format!("{path}/{name}"), into));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| shape(item, path, into));
        }
        _ => drop(into.insert(path.to_owned())),
    }
}

#[tokio::test(start_paused = true)]
async fn do_answers_have_the_shape_of_a_real_geths() {
    let network = Network::plain(2);
    network.add(0, 1).await;
    network.until_links(1).await;
    let dev = Network::new(1, |_, config| config.p2p = false);
    for (captured, geth, method) in [
        ("geth-1.17.5-node-info", &network.geths[0], "admin_nodeInfo"),
        ("geth-1.17.5-peers-of-dialer", &network.geths[0], "admin_peers"),
        ("geth-1.17.5-peers-of-listener", &network.geths[1], "admin_peers"),
        ("geth-1.17.5-node-info-dev", &dev.geths[0], "admin_nodeInfo"),
    ] {
        let path = format!("{}/../../sidecar/tests/answers/{captured}.json", env!("CARGO_MANIFEST_DIR"));
        let real: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let fake = call(geth, method, json!([])).await["result"].clone();
        let [mut expected, mut found] = [BTreeSet::new(), BTreeSet::new()];
        shape(&real, "", &mut expected);
        shape(&fake, "", &mut found);
        assert_eq!(found, expected, "{captured}");
    }
    assert_eq!(call(&dev.geths[0], "admin_nodeInfo", json!([])).await["result"]["listenAddr"], "");
}

#[tokio::test(start_paused = true)]
async fn does_an_enode_look_as_odd_as_geths() {
    let external = [10, 9, 8, 7].into();
    for (nat, end) in [
        (Nat::Unknown, "@127.0.0.1:30303?discport=0"),
        (Nat::External(external), "@10.9.8.7:30303?discport=0"),
        (Nat::External("fd00::5".parse().unwrap()), "@[fd00::5]:30303?discport=0"),
        (Nat::Invalid, ""),
    ] {
        let network = Network::new(1, |_, config| config.nat = nat);
        let info = call(&network.geths[0], "admin_nodeInfo", json!([])).await;
        assert_eq!(info["result"]["enode"], format!("enode://{}{end}", network.geths[0].key()));
    }
}

#[tokio::test(start_paused = true)]
async fn does_one_sided_balanced_dialing_connect_33_with_16_dials_each() {
    let network = Network::plain(33);
    for from in 0..33 {
        for step in 1..=16 {
            network.add(from, (from + step) % 33).await;
        }
    }
    assert!(network.until_links(33 * 16).await < Duration::from_secs(1));
    assert!(network.geths.iter().all(|geth| geth.dialed() == 16));
}
