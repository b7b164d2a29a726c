//! What holds whatever anybody writes: each function takes any bytes and panics where
//! an invariant breaks. The fuzz targets call them, and so do tests of the sidecar.

use serde_json::{Value, json};
use sidecar::enode::Enode;
use sidecar::geth::admin;
use sidecar::geth::frames::{Decoder, Message};
use sidecar::geth::{CloseReason, RpcError};
use sidecar::registry::entry::{Entry, MAX_LENGTH};

/// Longest line in [`ipc`], in bytes: Geth's usual answers fit, and fuzzing gets beyond.
pub const MAX_LINE: usize = 2048;

/// A text is refused in few words, or is an enode that can be dialed, and what is printed of it reads back the same.
pub fn enode(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let enode: Enode = match text.parse() {
        Ok(enode) => enode,
        Err(error) => return assert!(error.to_string().len() < 1000, "a long story: {error}"),
    };
    let printed = enode.to_string();
    assert_eq!(printed.parse(), Ok(enode), "{printed}");
    assert_eq!(serde_json::from_value::<Enode>(json!(enode)).ok(), Some(enode), "{printed}");
    assert!(text.to_lowercase().starts_with(&format!("enode://{}@", enode.key)), "{text} is taken for {printed}");
    assert_eq!(Enode::new(enode.key, enode.address), Ok(enode), "{printed}");
    // What Geth cannot read or dial (p2p/enode/urlv4.go: an IP address and a port).
    let (ip, port) = printed.rsplit_once('@').and_then(|(_, address)| address.rsplit_once(':')).unwrap_or_default();
    let ip = ip.trim_matches(['[', ']']).parse::<std::net::IpAddr>().map(|ip| ip.to_canonical());
    assert!(ip.is_ok_and(|ip| !ip.is_unspecified() && !ip.is_multicast()), "{printed}");
    assert!(port.parse::<u16>().is_ok_and(|port| port > 0), "{printed}");
}

/// A value is refused in few words, or is an entry that is written as one line and reads back the same.
pub fn entry(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let entry = match Entry::parse(text) {
        Ok(entry) => entry,
        Err(error) => return assert!(error.to_string().len() < 1000, "a long story: {error}"),
    };
    assert!(text.len() <= MAX_LENGTH, "{} bytes", text.len());
    let value = entry.to_value();
    assert!(!value.contains(['\n', '\r']), "{value}");
    // A date may be written in fewer digits than this program does.
    if value.len() <= MAX_LENGTH {
        let again = Entry::parse(&value);
        assert_eq!(again.as_ref(), Ok(&entry), "{value}");
        assert_eq!(again.map(|entry| entry.to_value()), Ok(value), "{text}");
    }
    assert_eq!(entry.mismatch(&entry), None, "{entry:?}");
    enode(entry.enode.to_string().as_bytes());
}

/// The first byte says how the others are cut; the same messages come out however they are, nothing more is kept
/// in memory than a line and what was read last, and a message that is written again is the same one.
pub fn ipc(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let (whole, reason) = decode(stream, stream.len(), MAX_LINE);
    for cut in [1, usize::from(cut)] {
        let (cut, other) = decode(stream, cut, MAX_LINE);
        assert_eq!(cut, whole);
        assert_eq!(other, reason);
    }
    for message in whole {
        let line = line(&message);
        // It may have become longer: JSON has short and long forms of one text.
        let again = decode(line.as_bytes(), line.len(), line.len());
        assert_eq!(again, (vec![message.clone()], None), "{line}");
        let (Message::Answer { outcome: Ok(value), .. } | Message::Notification { result: value, .. }) = message else {
            continue;
        };
        understand(&value);
    }
}

/// All messages of a stream that comes in pieces of `size` bytes, and why it ended early, if it did.
fn decode(stream: &[u8], size: usize, max_line: usize) -> (Vec<Message>, Option<String>) {
    let (mut decoder, mut messages) = (Decoder::new(max_line), Vec::new());
    for piece in stream.chunks(size.max(1)) {
        let kept = decoder.space();
        assert!(kept.len() <= max_line, "{} bytes are kept", kept.len());
        kept.extend_from_slice(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(reason @ (CloseReason::TooLong | CloseReason::Garbage)) => {
                    return (messages, Some(reason.to_string()));
                }
                Err(reason) => unreachable!("{reason}"),
            }
        }
    }
    (messages, None)
}

/// A message as Geth writes it.
fn line(message: &Message) -> String {
    let value = match message {
        Message::Answer { id, outcome: Ok(result) } => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Message::Answer { id, outcome: Err(RpcError { code, message }) } => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
        }
        Message::Notification { subscription, result } => {
            let subscription: Value = serde_json::from_str(subscription).unwrap_or_default();
            json!({"jsonrpc": "2.0", "method": "admin_subscription",
                   "params": {"subscription": subscription, "result": result}})
        }
    };
    format!("{value}\n")
}

/// Any JSON is understood as whatever was asked for, or not at all.
fn understand(value: &Value) {
    if let Some(peers) = admin::peers(value) {
        assert!(peers.len() <= value.as_array().map_or(0, Vec::len));
    }
    if let Some(info) = admin::node_info(value) {
        assert!(value["enode"].as_str().is_some_and(|enode| enode.to_lowercase().contains(&info.key.to_string())));
        if let Some(network) = info.network {
            assert!(network.genesis.len() == 66 && network.genesis == network.genesis.to_lowercase());
        }
    }
    let _ = admin::peer_event(value);
}
