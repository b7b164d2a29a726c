//! Versions: which releases of Geth have a version of the `eth` protocol in common.
//!
//! Two that have none never become peers, and where they share no protocol at all
//! neither says a word about it: what the registry says of them is all there is to go by.

/// What a Geth speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// `eth/68` and older: up to v1.15.11.
    Old,
    /// Both: v1.16.0 to v1.17.0.
    Both,
    /// `eth/69` and newer: since v1.17.1 (`ProtocolVersions`, eth/protocols/eth/protocol.go).
    New,
}

/// Why two clients, as they call themselves, cannot be peers whatever is done; `None` if
/// nothing is known to keep them apart. Clients other than Geth are never judged.
pub(super) fn apart(one: &str, other: &str) -> Option<String> {
    let (a, b) = (release(one)?, release(other)?);
    let differ = matches!((dialect(a), dialect(b)), (Dialect::Old, Dialect::New) | (Dialect::New, Dialect::Old));
    let name = |(major, minor, patch)| format!("v{major}.{minor}.{patch}");
    differ.then(|| {
        format!(
            "Geth {} here and Geth {} there have no version of the eth protocol in common: v1.16.0 to v1.17.0 speak with both, so upgrade the older one to one of these first",
            name(a),
            name(b)
        )
    })
}

fn dialect(release: (u32, u32, u32)) -> Dialect {
    match release {
        release if release < (1, 16, 0) => Dialect::Old,
        release if release <= (1, 17, 0) => Dialect::Both,
        _ => Dialect::New,
    }
}

/// The release in `Geth/v1.17.5-stable/linux-amd64/go1.26.8` or, with `--identity`,
/// `Geth/name/v1.17.5-stable/…`.
fn release(client: &str) -> Option<(u32, u32, u32)> {
    let mut parts = client.split('/');
    if parts.next() != Some("Geth") {
        return None;
    }
    parts.find_map(|part| {
        let number = part.strip_prefix('v')?.split('-').next()?;
        let mut numbers = number.split('.').map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Some((major, minor, patch)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_two_releases_without_a_common_eth_protocol_named_and_others_left_in_peace() {
        let geth = |version: &str| format!("Geth/v{version}-stable/linux-amd64/go1.26.8");
        for (one, other, are_apart) in [
            ("1.13.15", "1.17.5", true),
            ("1.17.1", "1.15.11", true),
            ("1.16.0", "1.13.15", false),
            ("1.17.0", "1.17.5", false),
            ("1.17.4", "1.17.5", false),
        ] {
            assert_eq!(apart(&geth(one), &geth(other)).is_some(), are_apart, "{one} and {other}");
        }
        let named = apart("Geth/mine/v1.13.15-stable/linux", &geth("1.17.5")).unwrap();
        assert!(named.contains("Geth v1.13.15 here and Geth v1.17.5 there"), "{named}");
        for stranger in ["", "Geth", "reth/v1.0.0", "Geth/vx.y.z", "Geth/v1.13", "bor/v1.13.15"] {
            assert_eq!(apart(stranger, &geth("1.17.5")), None, "{stranger}");
        }
    }
}
