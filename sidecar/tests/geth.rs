//! Does the admin client keep its promises over a real unix socket, against a fake
//! Geth that keeps, breaks or delays its own?
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail their test")]

use std::path::PathBuf;
use std::time::Duration;

use fakes::geth::{Config, FakeGeth, Nat, Stop, World, key};
use serde_json::json;
use sidecar::enode::Enode;
use sidecar::geth::{Admin, CallError, CloseReason, ConnectError, Connection, Eth, Listen, PeerEventKind};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::time::{Instant, timeout};

/// Longer than anything here takes unless it never ends; virtual time anyway.
const DEADLINE: Duration = Duration::from_secs(5);

/// Geths on sockets in a folder of their own.
struct Fixture {
    world: World,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { world: World::new(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, n: u16) -> Config {
        Config::new(n, self.path(&format!("{n}.ipc")))
    }

    fn geth(&self, n: u16) -> FakeGeth {
        self.world.start(self.config(n))
    }
}

async fn admin(geth: &FakeGeth) -> Admin {
    Admin::connect(&geth.socket(), DEADLINE).await.unwrap()
}

async fn connection(geth: &FakeGeth) -> Connection {
    Connection::connect(&geth.socket(), DEADLINE).await.unwrap()
}

fn enode(geth: &FakeGeth) -> Enode {
    geth.enode().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn do_two_geths_become_peers_and_do_both_sides_see_it() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.geth(1), fixture.geth(2));
    let (first, second) = (admin(&one).await, admin(&two).await);
    let mut events = second.subscribe_peer_events().await.unwrap();
    first.add_peer(&enode(&two)).await.unwrap();
    assert_eq!(events.recv().await.unwrap().kind, PeerEventKind::Add);
    fixture.world.until(|world| world.links() == 2).await;

    let [seen] = first.peers().await.unwrap().try_into().unwrap();
    assert_eq!((seen.key, seen.eth, seen.inbound, seen.static_node), (enode(&two).key, Eth::Up, false, true));
    let [seen] = second.peers().await.unwrap().try_into().unwrap();
    assert_eq!((seen.key, seen.eth, seen.inbound, seen.static_node), (enode(&one).key, Eth::Up, true, false));

    first.add_trusted_peer(&enode(&two)).await.unwrap();
    assert!(first.peers().await.unwrap()[0].trusted);
    first.remove_trusted_peer(&enode(&two)).await.unwrap();
    assert!(!first.peers().await.unwrap()[0].trusted);

    first.remove_peer(&enode(&two)).await.unwrap();
    assert_eq!(events.recv().await.unwrap().kind, PeerEventKind::Drop);
    assert_eq!(second.peers().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn is_what_geth_says_of_itself_understood_in_every_mode() {
    let fixture = Fixture::new();
    let ordinary = fixture.geth(1);
    let info = admin(&ordinary).await.node_info().await.unwrap();
    assert_eq!(info.key.to_string(), ordinary.key());
    assert_eq!((info.listen, info.ip), (Listen::Port(30303), Some([127, 0, 0, 1].into())));
    assert_eq!(info.network.unwrap().id, 1337);

    let dev = fixture.world.start(Config { p2p: false, ..fixture.config(2) });
    assert_eq!(admin(&dev).await.node_info().await.unwrap().listen, Listen::Off);

    let hostless = fixture.world.start(Config { nat: Nat::Invalid, ..fixture.config(3) });
    let info = admin(&hostless).await.node_info().await.unwrap();
    assert_eq!((info.key.to_string(), info.ip), (hostless.key(), None));
}

#[tokio::test(start_paused = true)]
async fn does_a_call_without_an_answer_end_at_its_deadline_and_spare_the_next() {
    let fixture = Fixture::new();
    let geth = fixture.geth(1);
    let admin = admin(&geth).await;
    geth.quirks(|quirks| quirks.mute = true);
    let begun = Instant::now();
    let error = admin.node_info().await.unwrap_err();
    assert!(matches!(error, CallError::Timeout { method: "admin_nodeInfo", after } if after == DEADLINE));
    assert_eq!(begun.elapsed().as_secs(), DEADLINE.as_secs());

    geth.quirks(|quirks| quirks.mute = false);
    admin.node_info().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn is_a_late_answer_dropped_and_not_taken_for_another_calls() {
    let fixture = Fixture::new();
    let geth = fixture.geth(1);
    let connection = connection(&geth).await;
    geth.quirks(|quirks| quirks.answers_after = Duration::from_secs(2));
    let short = Duration::from_secs(1);
    let late = connection.call_within("admin_nodeInfo", json!([]), short).await;
    assert!(matches!(late, Err(CallError::Timeout { .. })));
    // The late answer arrives while this call waits.
    assert_eq!(connection.call("admin_peers", json!([])).await.unwrap(), json!([]));
}

#[tokio::test(start_paused = true)]
async fn does_a_cancelled_call_leave_the_connection_as_it_was() {
    let fixture = Fixture::new();
    let geth = fixture.geth(1);
    let admin = admin(&geth).await;
    geth.quirks(|quirks| quirks.answers_after = Duration::from_secs(1));
    tokio::select! {
        biased;
        answer = admin.node_info() => panic!("{answer:?}"),
        () = tokio::time::sleep(Duration::from_millis(10)) => {}
    }
    assert_eq!(admin.peers().await.unwrap(), []);
    assert_eq!(geth.methods(), ["admin_nodeInfo", "admin_peers"]);
}

#[tokio::test(start_paused = true)]
async fn are_answers_out_of_order_given_to_the_calls_they_belong_to() {
    let fixture = Fixture::new();
    let geth = fixture.geth(1);
    let connection = connection(&geth).await;
    geth.quirks(|quirks| quirks.reorder = 3);
    let (info, peers, lacking) = tokio::join!(
        connection.call("admin_nodeInfo", json!([])),
        connection.call("admin_peers", json!([])),
        connection.call("admin_lacking", json!([])),
    );
    assert!(info.unwrap().is_object());
    assert!(peers.unwrap().is_array());
    assert!(matches!(lacking.unwrap_err(), CallError::Rpc(_)));
}

#[tokio::test(start_paused = true)]
async fn does_a_slow_remove_hold_up_nobody() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.geth(1), fixture.geth(2));
    let admin = admin(&one).await;
    admin.add_peer(&enode(&two)).await.unwrap();
    fixture.world.until(|world| world.links() == 2).await;
    one.quirks(|quirks| quirks.remove_takes = Duration::from_secs(3));
    let remove = tokio::spawn({
        let (admin, enode) = (admin.clone(), enode(&two));
        async move { admin.remove_peer(&enode).await }
    });
    fixture.world.until(|_| one.methods().contains(&"admin_removePeer".into())).await;
    assert_eq!(admin.peers().await.unwrap().len(), 1);
    assert!(!remove.is_finished());
    remove.await.unwrap().unwrap();
    assert_eq!(admin.peers().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn does_a_restart_of_geth_fail_every_call_at_once_and_allow_a_new_connection_at_once() {
    let fixture = Fixture::new();
    let mut geth = fixture.geth(1);
    let connection = connection(&geth).await;
    let mut events = Admin::new(connection.clone()).subscribe_peer_events().await.unwrap();
    geth.quirks(|quirks| quirks.mute = true);
    let begun = Instant::now();
    let calls = tokio::spawn({
        let connection = connection.clone();
        async move {
            let call = || connection.call("admin_peers", json!([]));
            tokio::join!(call(), call(), call())
        }
    });
    fixture.world.until(|_| geth.calls().len() == 4).await;
    geth.restart().await;
    let (one, two, three) = calls.await.unwrap();
    for outcome in [one, two, three] {
        assert!(matches!(outcome, Err(CallError::Closed(CloseReason::Eof))), "{outcome:?}");
    }
    assert!(matches!(connection.closed().await, CloseReason::Eof));
    assert!(events.recv().await.is_none());
    let after = connection.call("admin_peers", json!([])).await;
    assert!(matches!(after, Err(CallError::Closed(CloseReason::Eof))));

    geth.quirks(|quirks| quirks.mute = false);
    admin(&geth).await.node_info().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn is_a_line_of_17_mib_refused_and_one_of_15_taken() {
    let fixture = Fixture::new();
    let geth = fixture.geth(1);
    let long = |mib: usize| {
        let text = "x".repeat(mib << 20);
        Some(format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{text}"}}"#).into_bytes())
    };
    let connection = connection(&geth).await;
    geth.quirks(|quirks| quirks.instead = long(15));
    let answer = connection.call("admin_peers", json!([])).await.unwrap();
    assert_eq!(answer.as_str().unwrap().len(), 15 << 20);

    geth.quirks(|quirks| quirks.instead = long(17));
    let refused = connection.call("admin_peers", json!([])).await;
    assert!(matches!(refused, Err(CallError::Closed(CloseReason::TooLong))), "{refused:?}");
    assert!(matches!(connection.closed().await, CloseReason::TooLong));
}

#[tokio::test(start_paused = true)]
async fn does_garbage_end_the_connection_with_that_reason() {
    let fixture = Fixture::new();
    let geth = fixture.geth(1);
    for garbage in [&b"HTTP/1.1 400 Bad Request"[..], b"\xff\xfe", b"", b"{\"id\":1"] {
        let connection = connection(&geth).await;
        geth.quirks(|quirks| quirks.instead = Some(garbage.to_vec()));
        let refused = connection.call("admin_peers", json!([])).await;
        assert!(matches!(refused, Err(CallError::Closed(CloseReason::Garbage))), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn is_an_error_of_geths_told_with_its_code_and_words() {
    let fixture = Fixture::new();
    let geth = fixture.geth(1);
    let admin = admin(&geth).await;
    let off_the_curve: Enode = format!("enode://{}@10.0.0.9:30303", "ab".repeat(64)).parse().unwrap();
    match admin.add_peer(&off_the_curve).await.unwrap_err() {
        CallError::Rpc(error) => {
            assert_eq!(error.code, -32000);
            assert!(error.message.starts_with("invalid enode: invalid public key"), "{}", error.message);
        }
        other => panic!("{other:?}"),
    }
    // And the connection goes on.
    admin.node_info().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn is_a_client_without_peer_events_told_apart() {
    let fixture = Fixture::new();
    let geth = fixture.geth(1);
    geth.quirks(|quirks| quirks.lacks = vec!["admin_subscribe"]);
    assert!(matches!(admin(&geth).await.subscribe_peer_events().await.unwrap_err(), CallError::Rpc(_)));
}

#[tokio::test(start_paused = true)]
async fn does_every_missing_socket_say_what_is_missing() {
    let fixture = Fixture::new();
    let connect = async |path: PathBuf| Connection::connect(&path, DEADLINE).await.unwrap_err();

    let missing = connect(fixture.path("none.ipc")).await;
    assert!(matches!(missing, ConnectError::Missing(_)), "{missing:?}");

    let mut geth = fixture.geth(1);
    geth.stop(Stop::Kill).await;
    let refused = connect(geth.socket()).await;
    assert!(matches!(refused, ConnectError::Refused(_)), "{refused:?}");
    geth.start();
    admin(&geth).await.node_info().await.unwrap();
    geth.stop(Stop::Clean).await;
    assert!(matches!(connect(geth.socket()).await, ConnectError::Missing(_)));

    let file = fixture.path("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(connect(file).await, ConnectError::NotASocket(_)));

    let long = connect(fixture.path(&"x".repeat(200))).await;
    assert!(matches!(long, ConnectError::PathTooLong(length) if length > 200), "{long:?}");
}

#[tokio::test(start_paused = true)]
async fn does_dropping_the_last_handle_end_the_connection() {
    let fixture = Fixture::new();
    let path = fixture.path("raw.ipc");
    let listener = UnixListener::bind(&path).unwrap();
    let connection = Connection::connect(&path, DEADLINE).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let clone = connection.clone();
    drop(connection);
    assert!(clone.call_within("admin_peers", json!([]), Duration::from_secs(1)).await.is_err());
    drop(clone);
    // The other end reads what was asked, and then the end.
    let mut read = vec![0; 4096];
    loop {
        socket.readable().await.unwrap();
        match socket.try_read(&mut read) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_geth_that_reads_nothing_bound_what_waits_and_end_every_call() {
    let fixture = Fixture::new();
    let path = fixture.path("raw.ipc");
    let listener = UnixListener::bind(&path).unwrap();
    let connection = Connection::connect(&path, DEADLINE).await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    let params = json!([key(1).repeat(100)]);
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let (connection, params) = (connection.clone(), params.clone());
            tokio::spawn(async move { connection.call("admin_addPeer", params).await })
        })
        .collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(CallError::Timeout { .. })));
    }
    // Now that it reads: most of the 200 were never queued for it, and with their
    // callers gone they never will be.
    let mut read = vec![0; 1 << 20];
    let mut lines = 0;
    while let Ok(bytes) = timeout(DEADLINE, socket.read(&mut read)).await {
        lines += read[..bytes.unwrap()].iter().filter(|&&byte| byte == b'\n').count();
    }
    assert!((1..100).contains(&lines), "{lines} lines");
    drop(connection);
}
