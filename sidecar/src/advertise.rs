//! The address that a pod wants published in the place of its own: `<IP>[:<port>]`.
//!
//! For a node that others reach through something in between, such as a NodePort or a
//! load balancer. The injector reads the same text from an annotation, so both refuse
//! the same things.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// Where others dial a node, whatever its pod's own address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertise {
    /// The address.
    ip: IpAddr,
    /// The port; `None` leaves it to be the one on which Geth listens.
    port: Option<u16>,
}

/// Why a text is nothing to advertise; each reads on from the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AdvertiseError {
    /// There is no IP address in front of the port.
    #[error(
        "has no IP address, or one of IPv6 without its brackets; a host name is not taken, \
         because Geth dials addresses and a name in the shared registry could lead anywhere"
    )]
    NoAddress,
    /// What follows the address is no port.
    #[error("has no port from 1 to 65535 behind the address")]
    Port,
    /// An address at which no other pod can reach anything.
    #[error("is an address at which no other pod reaches this one")]
    Unreachable,
}

impl Advertise {
    /// Where others dial a Geth that listens on `port`.
    pub fn address(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.unwrap_or(port))
    }
}

impl FromStr for Advertise {
    type Err = AdvertiseError;

    /// Brackets may stand around an IPv4 address as well: whoever writes
    /// `[$(SOME_VARIABLE)]` need not know of which family it will be.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (ip, rest) = match bracketed {
            Some(parts) => parts,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let ip = ip.parse::<IpAddr>().map_err(|_| AdvertiseError::NoAddress)?.to_canonical();
        let port = match rest.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port != 0).ok_or(AdvertiseError::Port)?)
            }
            None if rest.is_empty() => None,
            _ => return Err(AdvertiseError::Port),
        };
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err(AdvertiseError::Unreachable);
        }
        Ok(Self { ip, port })
    }
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.ip) {
            (Some(port), ip) => SocketAddr::new(ip, port).fmt(f),
            (None, IpAddr::V4(ip)) => ip.fmt(f),
            (None, IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_an_address_with_or_without_a_port_understood() {
        for (text, shown, dialed) in [
            ("203.0.113.7:31303", "203.0.113.7:31303", "203.0.113.7:31303"),
            ("203.0.113.7", "203.0.113.7", "203.0.113.7:30303"),
            ("[2001:db8::7]:31303", "[2001:db8::7]:31303", "[2001:db8::7]:31303"),
            ("[2001:db8::7]", "[2001:db8::7]", "[2001:db8::7]:30303"),
            ("[203.0.113.7]:1", "203.0.113.7:1", "203.0.113.7:1"),
            ("[::ffff:203.0.113.7]:65535", "203.0.113.7:65535", "203.0.113.7:65535"),
        ] {
            let advertise: Advertise = text.parse().unwrap();
            assert_eq!(advertise.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(advertise), "{text}");
            assert_eq!(advertise.address(30303).to_string(), dialed, "{text}");
        }
    }

    #[test]
    fn is_everything_else_refused_with_its_reason() {
        use AdvertiseError::{NoAddress, Port, Unreachable};
        for (text, reason) in [
            ("", NoAddress),
            (":30303", NoAddress),
            ("geth-0.example.org:30303", NoAddress),
            ("geth-0.example.org", NoAddress),
            // Nobody can tell whether the last group is a port.
            ("2001:db8::7:30303", NoAddress),
            ("[fe80::1%eth0]:30303", NoAddress),
            ("[203.0.113.7:30303", NoAddress),
            ("203.0.113.7:", Port),
            ("203.0.113.7:0", Port),
            ("203.0.113.7:+1", Port),
            ("203.0.113.7:65536", Port),
            ("203.0.113.7:30303:1", Port),
            ("[2001:db8::7]30303", Port),
            ("[2001:db8::7]:http", Port),
            ("0.0.0.0:30303", Unreachable),
            ("127.0.0.1:30303", Unreachable),
            ("[::1]:30303", Unreachable),
            ("[::ffff:127.0.0.1]:30303", Unreachable),
            ("224.0.0.1:30303", Unreachable),
        ] {
            assert_eq!(text.parse::<Advertise>(), Err(reason), "{text}");
        }
    }
}
