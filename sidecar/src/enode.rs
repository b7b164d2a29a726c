//! Who a Geth is and where it can be dialed: the enode URL, taken strictly.
//!
//! Only the one form that Geth itself prints for a reachable node is accepted:
//! `enode://<128 hex digits>@<IP address>:<TCP port>[?discport=<UDP port>]`.
//! Host names are refused on purpose: Geth before 1.15 resolves them once, at
//! `addPeer`, and a name in a shared registry would let one entry point anywhere.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha3::{Digest, Keccak256};
use thiserror::Error;

const SCHEME: &str = "enode://";

/// Why a text is no enode that can be dialed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Error)]
pub enum EnodeError {
    /// It does not begin with `enode://`.
    #[error("does not begin with enode://")]
    Scheme,
    /// The public key is not 128 hexadecimal digits.
    #[error("the public key is not 128 hexadecimal digits")]
    Key,
    /// There is no `@host:port` behind the key.
    #[error("has no address behind the public key")]
    NoAddress,
    /// The address is no IP address with a port.
    #[error("{0:?} is no IP address with a port")]
    Address(String),
    /// An address or port that nobody can dial: unspecified, multicast, port 0, or with
    /// a zone (`%1`), which means something on one machine only and nothing to Geth.
    #[error("{0} cannot be dialed")]
    Undialable(SocketAddr),
    /// A query other than `discport=<number>`.
    #[error("the query {0:?} is not discport=<port>")]
    Query(String),
}

/// A node's secp256k1 public key, uncompressed without its leading byte: the
/// 64 bytes before the `@` of an enode. This, not an address, is a node's identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 64]);

impl PublicKey {
    /// Geth's node ID of it: the Keccak-256 of the key, as hexadecimal digits
    /// (`p2p/enode/idscheme.go`, v1.17.5).
    pub fn node_id(&self) -> String {
        Keccak256::digest(self.0).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for PublicKey {
    type Err = EnodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 128 {
            return Err(EnodeError::Key);
        }
        let mut key = [0; 64];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| (digit as char).to_digit(16));
            let (Some(high), Some(low)) = (high, low) else {
                return Err(EnodeError::Key);
            };
            *byte = (high * 16 + low) as u8;
        }
        Ok(Self(key))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    /// The first four bytes, as logs of Geth shorten it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

/// A node's identity and the address at which it accepts connections.
///
/// [`fmt::Display`] prints the canonical form: lower-case key, no `discport`
/// (Geth ignores the UDP port when it dials a static peer).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Enode {
    /// Who it is.
    pub key: PublicKey,
    /// Where it listens, TCP.
    pub address: SocketAddr,
}

impl Enode {
    /// The enode of `key` at `address`; an IPv4 address in the clothes of IPv6 is taken
    /// for what it is, as Geth does.
    ///
    /// # Errors
    /// [`EnodeError::Undialable`].
    pub fn new(key: PublicKey, address: SocketAddr) -> Result<Self, EnodeError> {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let has_zone = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
        if ip.is_unspecified() || ip.is_multicast() || has_zone || port == 0 {
            return Err(EnodeError::Undialable(address));
        }
        Ok(Self { key, address: SocketAddr::new(ip, port) })
    }
}

impl FromStr for Enode {
    type Err = EnodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix(SCHEME).ok_or(EnodeError::Scheme)?;
        let (key, rest) = rest.split_once('@').ok_or(EnodeError::NoAddress)?;
        let (address, query) = match rest.split_once('?') {
            Some((address, query)) => (address, Some(query)),
            None => (rest, None),
        };
        if let Some(query) = query {
            query
                .strip_prefix("discport=")
                .and_then(|port| port.parse::<u16>().ok())
                .ok_or_else(|| EnodeError::Query(shorten(query)))?;
        }
        let key = key.parse()?;
        let address = address.parse().map_err(|_| EnodeError::Address(shorten(address)))?;
        Self::new(key, address)
    }
}

impl fmt::Display for Enode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}@{}", self.key, self.address)
    }
}

impl Serialize for Enode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Enode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a message may quote of a text that anybody could have written.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(fill: &str) -> String {
        fill.repeat(64)
    }

    #[test]
    fn is_what_geth_prints_understood() {
        for (text, canonical) in [
            (format!("enode://{}@10.9.8.7:30303", key("ab")), None),
            (format!("enode://{}@10.9.8.7:30303?discport=0", key("ab")), Some("10.9.8.7:30303")),
            (format!("enode://{}@[fd00::5]:30303?discport=30301", key("ab")), Some("[fd00::5]:30303")),
            (format!("enode://{}@10.9.8.7:30303", key("AB")), Some("10.9.8.7:30303")),
            (format!("enode://{}@[::ffff:10.9.8.7]:30303", key("ab")), Some("10.9.8.7:30303")),
        ] {
            let enode: Enode = text.parse().unwrap();
            let expected = canonical.map_or(text, |address| format!("enode://{}@{address}", key("ab")));
            assert_eq!(enode.to_string(), expected);
        }
    }

    #[test]
    fn is_everything_else_refused_with_its_reason() {
        let ok = key("ab");
        for (text, reason) in [
            (String::new(), EnodeError::Scheme),
            (format!("http://{ok}@10.0.0.1:1"), EnodeError::Scheme),
            (format!("enode://{ok}"), EnodeError::NoAddress),
            (format!("enode://{}@10.0.0.1:1", key("a")), EnodeError::Key),
            (format!("enode://{}@10.0.0.1:1", key("zz")), EnodeError::Key),
            (format!("enode://{}é@10.0.0.1:1", &ok[2..]), EnodeError::Key),
            (format!("enode://{ok}@geth-0.geth:30303"), EnodeError::Address("geth-0.geth:30303".into())),
            (format!("enode://{ok}@10.0.0.1"), EnodeError::Address("10.0.0.1".into())),
            (format!("enode://{ok}@10.0.0.1:99999"), EnodeError::Address("10.0.0.1:99999".into())),
            (format!("enode://{ok}@0.0.0.0:30303"), EnodeError::Undialable("0.0.0.0:30303".parse().unwrap())),
            (format!("enode://{ok}@[::ffff:0.0.0.0]:1"), EnodeError::Undialable("[::ffff:0.0.0.0]:1".parse().unwrap())),
            (format!("enode://{ok}@[fe80::1%2]:1"), EnodeError::Undialable("[fe80::1%2]:1".parse().unwrap())),
            (format!("enode://{ok}@10.0.0.1:0"), EnodeError::Undialable("10.0.0.1:0".parse().unwrap())),
            (format!("enode://{ok}@10.0.0.1:1?x=1"), EnodeError::Query("x=1".into())),
            (format!("enode://{ok}@10.0.0.1:1?discport=0&x=1"), EnodeError::Query("discport=0&x=1".into())),
        ] {
            assert_eq!(text.parse::<Enode>(), Err(reason), "{text}");
        }
    }

    proptest! {
        #[test]
        fn are_parse_and_print_inverse(bytes in any::<[u8; 32]>(), ip in any::<std::net::IpAddr>(), port in 1u16..) {
            let mut key = [0; 64];
            key[..32].copy_from_slice(&bytes);
            if let Ok(enode) = Enode::new(PublicKey(key), SocketAddr::new(ip, port)) {
                prop_assert_eq!(enode.to_string().parse::<Enode>(), Ok(enode));
            }
        }

        #[test]
        fn does_any_text_pass_without_panic_and_never_with_anything_beside_the_grammar(text in ".{0,300}") {
            if let Ok(enode) = text.parse::<Enode>() {
                prop_assert!(text.to_lowercase().starts_with(&enode.to_string()));
            }
        }

        #[test]
        fn does_a_long_host_never_fill_a_message(host in "[a-z]{100,5000}") {
            let error = format!("enode://{}@{host}:1", key("ab")).parse::<Enode>().unwrap_err();
            prop_assert!(error.to_string().len() < 200);
        }
    }
}
