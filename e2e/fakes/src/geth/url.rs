//! How Geth takes node URLs apart, in its words (`p2p/enode/urlv4.go`, `node.go:145`).

use std::net::SocketAddr;

/// The key, in lower case, and the address to dial; `None` without an address, or with
/// a host name, which nobody resolves here.
pub(super) fn parse(url: &str) -> Result<(String, Option<SocketAddr>), String> {
    let Some(rest) = url.strip_prefix("enode://") else {
        return Err(match url.strip_prefix("enr:") {
            Some(_) => "illegal base64 data at input byte 0".into(),
            None => "missing 'enr:' prefix for base64-encoded record".into(),
        });
    };
    if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok((key(rest)?, None));
    }
    let (node, endpoint) = rest.split_once('@').ok_or("does not contain node ID")?;
    let (endpoint, query) = endpoint.split_once('?').unwrap_or((endpoint, ""));
    // A colon inside brackets is part of an IPv6 address.
    let colon = endpoint.rfind(':').filter(|colon| endpoint.rfind(']').is_none_or(|end| end < *colon));
    let (host, port) = colon.map_or((endpoint, ""), |colon| (&endpoint[..colon], &endpoint[colon + 1..]));
    if port.bytes().any(|byte| !byte.is_ascii_digit()) {
        return Err(format!("parse \"{url}\": invalid port \":{port}\" after host"));
    }
    let key = key(node)?;
    let port: u16 = port.parse().map_err(|_| "invalid port")?;
    let discovery = query.split('&').find_map(|pair| pair.strip_prefix("discport="));
    if discovery.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
        return Err("invalid discport in query".into());
    }
    Ok((key, format!("{host}:{port}").parse().ok()))
}

/// `parsePubkey`. The curve is not modelled: a key of one repeated byte stands for one
/// that is not on it.
fn key(text: &str) -> Result<String, String> {
    let invalid = |why: &str| format!("invalid public key ({why})");
    if let Some(odd) = text.chars().find(|digit| !digit.is_ascii_hexdigit()) {
        return Err(invalid(&format!("encoding/hex: invalid byte: U+{:04X} '{odd}'", u32::from(odd))));
    }
    match text.len() {
        length if length % 2 == 1 => Err(invalid("encoding/hex: odd length hex string")),
        128 if text.as_bytes().chunks(2).all(|byte| byte == &text.as_bytes()[..2]) => {
            Err(invalid("invalid secp256k1 public key"))
        }
        128 => Ok(text.to_ascii_lowercase()),
        _ => Err(invalid("wrong length, want 128 hex chars")),
    }
}
