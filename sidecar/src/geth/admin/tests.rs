//! What the decoders make of answers captured from real Geths (`tests/answers`), of those
//! that other clients' sources promise, and of the oddities that a captured answer happens not to have.

use super::*;

/// An answer in a file.
fn captured(name: &str) -> Value {
    let path = format!("{}/tests/answers/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Geth 1.17.5's `admin_nodeInfo` with one field changed.
fn info_with(pointer: &str, value: Value) -> Option<NodeInfo> {
    let mut answer = captured("geth-1.17.5-node-info");
    *answer.pointer_mut(pointer).unwrap() = value;
    node_info(&answer)
}

/// Geth 1.17.5's only peer with one field changed.
fn peer_with(pointer: &str, value: Value) -> Vec<Peer> {
    let mut answer = captured("geth-1.17.5-peers-of-dialer");
    *answer[0].pointer_mut(pointer).unwrap() = value;
    peers(&answer).unwrap()
}

#[test]
fn is_a_real_geth_understood_whatever_its_version() {
    for (version, key, port, genesis) in [
        ("1.17.5", "3fee9c55", 40302, "0xc3efce81cd2529a782cf7071ad35e44c87b40aa73cedfea7343a0f19b6fbf03b"),
        ("1.13.15", "51954232", 40312, "0x8bf9d631e786922a8f13b92896bcfd3a773c1a8d1676546edc20cbaf479da4b9"),
    ] {
        let info = node_info(&captured(&format!("geth-{version}-node-info"))).unwrap();
        assert!(info.key.to_string().starts_with(key), "{version}");
        assert!(info.client.starts_with(&format!("Geth/v{version}-stable")), "{}", info.client);
        assert_eq!(info.listen, Listen::Port(port));
        assert_eq!(info.ip, Some([127, 0, 0, 1].into()));
        assert_eq!(info.network, Some(Network { id: 424242, genesis: genesis.into() }));

        let dialer = peers(&captured(&format!("geth-{version}-peers-of-dialer"))).unwrap();
        let [of_dialer] = dialer.as_slice() else { panic!("{dialer:?}") };
        assert_eq!((of_dialer.key, of_dialer.eth), (info.key, Eth::Up));
        assert_eq!((of_dialer.inbound, of_dialer.static_node, of_dialer.trusted), (false, true, false));
        assert_eq!(of_dialer.remote, Some(([127, 0, 0, 1], port).into()));
        assert!(of_dialer.caps.iter().any(|cap| cap.starts_with("eth/")));

        let listener = peers(&captured(&format!("geth-{version}-peers-of-listener"))).unwrap();
        let [of_listener] = listener.as_slice() else { panic!("{listener:?}") };
        assert_eq!((of_listener.inbound, of_listener.static_node, of_listener.eth), (true, false, Eth::Up));
    }
}

/// Other clients' answers are not captured. They are written by hand after these sources: op-geth v1.101411.0, bsc v1.7.3 and
/// bor v2.2.11 (p2p/peer.go, p2p/server.go and eth/peer.go in each), and reth v2.4.0 (crates/rpc/rpc/src/admin.rs). The first
/// three answer as Geth does, with protocols and fields of their own, and numbers too large for 64 bits. In reth the ID is a
/// compressed public key, a node that listens says one of its addresses, and a peer is listed only once `eth` has greeted.
#[test]
fn is_every_relative_of_geth_understood_as_its_source_has_it() {
    for (name, key, client, port, second) in [
        ("op-geth-1.101411.0", "1b", "Geth/v1.101411.0-stable-50b3422b/linux-amd64/go1.22.8", 30303, Eth::Handshake),
        ("bsc-1.7.3", "2b", "Geth/v1.7.3-6b0cb5e2/linux-amd64/go1.24.11", 30311, Eth::Handshake),
        ("bor-2.2.11", "3b", "bor/v2.2.11/linux-amd64/go1.24.6", 30303, Eth::Handshake),
        ("reth-2.4.0", "4b", "reth/v2.4.0-5f1a7d3/x86_64-unknown-linux-gnu", 30303, Eth::Up),
    ] {
        let info = node_info(&captured(&format!("{name}-after-source-node-info"))).unwrap();
        assert_eq!((info.key.to_string(), info.client.as_str()), (key.repeat(64), client));
        assert_eq!(info.listen, Listen::Port(port), "{name}");
        assert_eq!(info.network, Some(Network { id: 424242, genesis: format!("0x{}", "c3".repeat(32)) }), "{name}");

        let peers = peers(&captured(&format!("{name}-after-source-peers"))).unwrap();
        let [dialed, arrived] = peers.as_slice() else { panic!("{name}: {peers:?}") };
        assert_eq!((dialed.key.to_string(), dialed.eth), ("5b".repeat(64), Eth::Up), "{name}");
        assert_eq!((dialed.inbound, dialed.static_node, dialed.trusted), (false, true, true), "{name}");
        assert_eq!(dialed.remote, Some(([10, 0, 0, 5], port).into()), "{name}");
        assert_eq!((arrived.key.to_string(), arrived.eth), ("6b".repeat(64), second), "{name}");
        assert_eq!((arrived.inbound, arrived.static_node, arrived.trusted), (true, false, false), "{name}");
        assert!(dialed.caps.iter().any(|cap| cap.starts_with("eth/")), "{name}");
    }
}

#[test]
fn is_a_geth_in_dev_mode_seen_to_have_no_p2p() {
    assert_eq!(node_info(&captured("geth-1.17.5-node-info-dev")).unwrap().listen, Listen::Off);
}

#[test]
fn is_the_listener_told_by_every_form_of_listen_addr() {
    for (address, expected) in [
        ("[::]:30303", Listen::Port(30303)),
        (":30303", Listen::Port(30303)),
        ("0.0.0.0:30304", Listen::Port(30304)),
        ("10.0.0.7:30303", Listen::Port(30303)),
        ("127.0.0.1:30303", Listen::Loopback(30303)),
        ("[::1]:30303", Listen::Loopback(30303)),
        ("", Listen::Off),
        ("[::]:0", Listen::Off),
        ("nonsense", Listen::Off),
    ] {
        assert_eq!(info_with("/listenAddr", json!(address)).unwrap().listen, expected, "{address}");
    }
}

#[test]
fn is_the_key_found_whatever_stands_behind_it() {
    let key = "5a".repeat(64);
    for rest in ["", "@127.0.0.1:30303", "@10.0.0.1:1?discport=0", "@[fd00::5]:30303", "@geth-0.geth:30303", "?x"] {
        let info = info_with("/enode", json!(format!("enode://{key}{rest}"))).unwrap();
        assert_eq!(info.key.to_string(), key, "{rest}");
    }
    for enode in [json!("enode://5a@10.0.0.1:1"), json!(key), json!("enr:-abc"), json!(""), json!(7), Value::Null] {
        assert_eq!(info_with("/enode", enode.clone()), None, "{enode}");
    }
}

#[test]
fn do_odd_fields_cost_only_themselves() {
    assert_eq!(info_with("/ip", json!("invalid IP")).unwrap().ip, None);
    assert_eq!(info_with("/name", json!(7)).unwrap().client, "");
    assert_eq!(info_with("/protocols", json!({})).unwrap().network, None);
    assert_eq!(info_with("/protocols/eth", json!("handshake")).unwrap().network, None);
    assert_eq!(info_with("/protocols/eth/genesis", json!("0x12")).unwrap().network, None);
    assert_eq!(info_with("/protocols/eth/network", json!(-1)).unwrap().network, None);
    let upper = info_with("/protocols/eth/genesis", json!(format!("0x{}", "AB".repeat(32)))).unwrap();
    assert_eq!(upper.network.unwrap().genesis, format!("0x{}", "ab".repeat(32)));
    let big = info_with("/protocols/eth/network", json!(u64::MAX)).unwrap();
    assert_eq!(big.network.unwrap().id, u64::MAX);
}

#[test]
fn is_a_peer_counted_only_when_eth_has_greeted() {
    let eth = |protocols| peer_with("/protocols", protocols)[0].eth;
    assert_eq!(eth(json!({ "eth": { "version": 68 } })), Eth::Up);
    assert_eq!(eth(json!({ "eth": "handshake", "snap": "handshake" })), Eth::Handshake);
    assert_eq!(eth(json!({ "snap": { "version": 1 } })), Eth::Absent);
    assert_eq!(eth(Value::Null), Eth::Absent);
}

#[test]
fn does_an_unreadable_peer_hide_no_other() {
    assert_eq!(peer_with("/enode", json!("enode://zz@1.2.3.4:5")), []);
    let two = json!([{}, captured("geth-1.17.5-peers-of-dialer")[0]]);
    assert_eq!(peers(&two).unwrap().len(), 1);
    assert_eq!(peer_with("/network", json!({}))[0].remote, None);
    assert_eq!(peer_with("/caps", Value::Null)[0].caps, Vec::<String>::new());
    assert_eq!(peers(&Value::Null), Some(Vec::new()));
    assert_eq!(peers(&json!("no list")), None);
}

#[test]
fn are_peer_events_understood_and_others_passed_over() {
    // As Geth 1.17.5 sent them.
    let added = json!({ "type": "add", "peer": "2ac8", "local": "127.0.0.1:41306", "remote": "127.0.0.1:40302" });
    let event = PeerEvent { kind: PeerEventKind::Add, node_id: "2ac8".into(), error: None };
    assert_eq!(peer_event(&added), Some(event.clone()));
    let dropped = json!({ "type": "drop", "peer": "2ac8", "error": "disconnect requested" });
    let expected = PeerEvent { kind: PeerEventKind::Drop, error: Some("disconnect requested".into()), ..event };
    assert_eq!(peer_event(&dropped), Some(expected));
    assert_eq!(peer_event(&json!({ "type": "msgsend", "peer": "2ac8" })), None);
    assert_eq!(peer_event(&json!("a text, from reth")), None);
}
