//! What the Geth in this pod is, made of what it says of itself and of what the pod knows.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use crate::config::Config;
use crate::enode::Enode;
use crate::geth::{Listen, Network, NodeInfo};
use crate::registry::entry::{Entry, MAX_ALTERNATES};

/// Hash of Ethereum mainnet's genesis block (params/config.go `MainnetGenesisHash`, v1.17.5).
const MAINNET_GENESIS: &str = "0xd4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3";
/// Ethereum mainnet's network id.
const MAINNET_ID: u64 = 1;

/// The entry of a Geth that says `info` of itself, first seen answering at `since`.
///
/// Only key and port are Geth's own words: of its address it knows nothing, and
/// says 127.0.0.1 unless it is told (p2p/server.go, v1.17.5).
///
/// # Errors
/// Why this Geth cannot have peers, in a sentence that says what to change.
pub fn entry(info: &NodeInfo, config: &Config, since: Timestamp) -> Result<Entry, String> {
    let port = match info.listen {
        Listen::Port(port) => port,
        Listen::Off => {
            return Err("Geth has p2p switched off, so it cannot have peers: start it without --dev".into());
        }
        Listen::Loopback(port) => {
            return Err(format!(
                "Geth accepts peers only from its own pod (127.0.0.1:{port}): let it listen on all addresses"
            ));
        }
    };
    let Some(Network { id, genesis }) = &info.network else {
        return Err("Geth does not speak the eth protocol, so it cannot have peers".into());
    };
    let pod = SocketAddr::new(config.pod_ip, port);
    let enode = Enode::new(info.key, config.advertise.map_or(pod, |advertise| advertise.address(port)))
        .map_err(|error| format!("this node has no address that others could dial: {error}"))?;
    // Whoever advertises an address says that others cannot use the pod's own.
    let more = config.more_pod_ips.iter().filter(|_| config.advertise.is_none());
    let alternates = more.filter_map(|ip| Enode::new(info.key, SocketAddr::new(*ip, port)).ok());
    Ok(Entry {
        enode,
        alternates: alternates.map(|enode| enode.address).take(MAX_ALTERNATES).collect(),
        network_id: *id,
        genesis: genesis.clone(),
        pod_uid: config.pod_uid.clone(),
        since,
        client: info.client.clone(),
        max_peers: config.max_peers,
        network: config.network.clone(),
    })
}

/// What is wrong with a Geth that can have peers all the same, if anything.
pub fn doubt(entry: &Entry) -> Option<String> {
    let failed_init = entry.genesis == MAINNET_GENESIS && entry.network_id != MAINNET_ID;
    failed_init.then(|| {
        format!(
            "Geth runs on the genesis of Ethereum mainnet under network id {}: `geth init` failed or was never run on its datadir",
            entry.network_id
        )
    })
}

/// The address this host has towards `target`, as the kernel's routes have it. Sends nothing.
pub fn local_ip(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    // Any port will do: connecting a UDP socket only looks up the route.
    socket.connect((target, 443)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        config_with(&[])
    }

    fn config_with(more: &[(&str, &str)]) -> Config {
        let variables = |name: &str| match name {
            "PEERING_POD_NAME" => Some("geth-0".into()),
            "PEERING_POD_UID" => Some("c0ffee".into()),
            "PEERING_POD_IP" => Some("10.1.2.3".into()),
            _ => more.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned()),
        };
        Config::read(variables, |_| None).unwrap()
    }

    fn info(listen: Listen, network: Option<(u64, &str)>) -> NodeInfo {
        NodeInfo {
            key: "ab".repeat(64).parse().unwrap(),
            client: "Geth/v1.17.5".into(),
            listen,
            ip: Some([127, 0, 0, 1].into()),
            network: network.map(|(id, genesis)| Network { id, genesis: genesis.into() }),
        }
    }

    #[test]
    fn is_the_pods_address_published_and_never_geths_own_idea_of_it() {
        let entry = entry(&info(Listen::Port(30303), Some((7, "0x00"))), &config(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(entry.enode.address.to_string(), "10.1.2.3:30303");
        assert_eq!(entry.pod_uid.as_deref(), Some("c0ffee"));
    }

    #[test]
    fn is_what_a_pod_advertises_published_and_without_it_all_its_addresses() {
        for (variables, address, alternates) in [
            (&[("PEERING_POD_IPS", "10.1.2.3,fd00::3")][..], "10.1.2.3:30303", "[fd00::3]:30303"),
            (&[("PEERING_POD_IPS", "10.1.2.3,::")], "10.1.2.3:30303", ""),
            (&[("PEERING_ADVERTISE", "203.0.113.7:31303")], "203.0.113.7:31303", ""),
            (&[("PEERING_ADVERTISE", "[2001:db8::7]")], "[2001:db8::7]:30303", ""),
            (
                &[("PEERING_POD_IPS", "10.1.2.3,fd00::3"), ("PEERING_ADVERTISE", "203.0.113.7:31303")],
                "203.0.113.7:31303",
                "",
            ),
        ] {
            let info = info(Listen::Port(30303), Some((7, "0x00")));
            let entry = entry(&info, &config_with(variables), Timestamp::UNIX_EPOCH).unwrap();
            let shown: Vec<_> = entry.alternates.iter().map(ToString::to_string).collect();
            let published = (entry.enode.address.to_string(), shown.join(","));
            assert_eq!(published, (address.to_owned(), alternates.to_owned()), "{variables:?}");
        }
    }

    #[test]
    fn is_a_geth_that_cannot_have_peers_told_what_to_change() {
        for (info, word) in [
            (info(Listen::Off, Some((7, "0x00"))), "--dev"),
            (info(Listen::Loopback(30303), Some((7, "0x00"))), "listen on all addresses"),
            (info(Listen::Port(30303), None), "eth protocol"),
        ] {
            let reason = entry(&info, &config(), Timestamp::UNIX_EPOCH).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn is_a_failed_geth_init_called_by_its_name() {
        let of = |id, genesis| {
            let entry = entry(&info(Listen::Port(1), Some((id, genesis))), &config(), Timestamp::UNIX_EPOCH);
            doubt(&entry.unwrap())
        };
        assert!(of(1337, MAINNET_GENESIS).unwrap().contains("geth init"));
        assert_eq!(of(1, MAINNET_GENESIS), None);
        assert_eq!(of(1337, "0x00"), None);
    }
}
