//! The format of one registry entry: what a pod says of its Geth, as one line of JSON.
//!
//! Anybody who may edit the ConfigMap can write anything here, so a value becomes
//! an [`Entry`] only if every field is what it has to be. Unknown fields are
//! ignored: newer versions may add some.

use std::borrow::Cow;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::enode::Enode;

/// The longest value that is looked at, in bytes. What this program writes is about 400 long.
pub const MAX_LENGTH: usize = 4096;

/// How many addresses an entry may have besides the first: a pod has two, one for each family.
pub const MAX_ALTERNATES: usize = 4;

/// Why a registry value is no entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Error)]
pub enum EntryError {
    /// Longer than [`MAX_LENGTH`].
    #[error("the value is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Not the JSON of an entry; what is wrong, with its place.
    #[error("the value is not an entry: {0}")]
    Format(String),
    /// An alternate address that nobody can dial, or too many of them.
    #[error("the value is not an entry: alternates: {0}")]
    Alternates(String),
    /// The genesis is not a 32-byte hash.
    #[error("the value is not an entry: genesis is not 0x and 64 hexadecimal digits")]
    Genesis,
}

/// What the registry says of one pod's Geth.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Who it is and where it accepts connections.
    pub enode: Enode,
    /// Further addresses at which it accepts connections, at most [`MAX_ALTERNATES`]: for
    /// those who cannot dial the first, because they have no address of its family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternates: Vec<SocketAddr>,
    /// The network id, as in the `eth` handshake.
    pub network_id: u64,
    /// Hash of the genesis block, `0x` and 64 lower-case hexadecimal digits.
    pub genesis: String,
    /// UID of the pod; it tells a pod from an earlier one of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// When this run of this Geth was first seen answering.
    pub since: Timestamp,
    /// What the client calls itself, `Geth/v1.17.5-stable/linux-amd64/go1.26.8`.
    #[serde(default)]
    pub client: String,
    /// Geth's `--maxpeers`, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_peers: Option<u32>,
    /// Name of the network, where the pod names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

impl Entry {
    /// Reads a registry value.
    ///
    /// # Errors
    /// Whatever keeps the value from being an entry.
    pub fn parse(value: &str) -> Result<Self, EntryError> {
        if value.len() > MAX_LENGTH {
            return Err(EntryError::TooLong);
        }
        let mut entry: Self =
            serde_json::from_str(value).map_err(|error| EntryError::Format(clip(&error.to_string(), 200)))?;
        if entry.alternates.len() > MAX_ALTERNATES {
            return Err(EntryError::Alternates(format!("there are more than {MAX_ALTERNATES}")));
        }
        for alternate in &mut entry.alternates {
            let enode = Enode::new(entry.enode.key, *alternate);
            *alternate = enode.map_err(|error| EntryError::Alternates(error.to_string()))?.address;
        }
        let is_hash = entry.genesis.strip_prefix("0x").is_some_and(|digits| {
            digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        if is_hash { Ok(entry) } else { Err(EntryError::Genesis) }
    }

    /// The entry as the registry holds it: one line of JSON, the same bytes for the same entry.
    pub fn to_value(&self) -> String {
        // A struct of strings and numbers always serializes.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Every address at which it accepts connections, the one to prefer first.
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.enode.address).chain(self.alternates.iter().copied())
    }

    /// The first address of `other` that this node can dial: of a family of which it has an address itself.
    fn reach(&self, other: &Self) -> Option<SocketAddr> {
        other.addresses().find(|theirs| self.addresses().any(|own| own.is_ipv4() == theirs.is_ipv4()))
    }

    /// This entry as `own` has to dial it: with the address that it can reach.
    pub fn seen_by(&self, own: &Self) -> Cow<'_, Self> {
        match own.reach(self) {
            Some(address) if address != self.enode.address => {
                Cow::Owned(Self { enode: Enode { address, ..self.enode }, ..self.clone() })
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// What keeps `other` from being this entry's peer, in words; `None` if nothing does. Both sides say the same.
    pub fn mismatch(&self, other: &Self) -> Option<String> {
        let named = |network: &Option<String>| network.clone().unwrap_or_else(|| "none".into());
        if self.network != other.network {
            let (its, ours) = (named(&other.network), named(&self.network));
            Some(format!("belongs to another network: its name is {}, this node's {ours}", clip(&its, 64)))
        } else if self.network_id != other.network_id {
            Some(format!("has network id {}, this node has {}", other.network_id, self.network_id))
        } else if self.genesis != other.genesis {
            Some(format!("has genesis {}, this node has {}", other.genesis, self.genesis))
        } else if self.reach(other).is_none() {
            // Without a common family both have addresses of one only.
            let family = |entry: &Self| if entry.enode.address.is_ipv4() { "IPv4" } else { "IPv6" };
            let (its, ours) = (family(other), family(self));
            Some(format!(
                "can be dialed on {its} only, and this node on {ours} only: one of the two needs an address of both families"
            ))
        } else {
            None
        }
    }
}

/// `text`, cut to `length` characters: what a message may quote of what anybody could have written.
fn clip(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> Entry {
        Entry {
            enode: format!("enode://{}@10.9.8.7:30303", "ab".repeat(64)).parse().unwrap(),
            alternates: Vec::new(),
            network_id: 1337,
            genesis: format!("0x{}", "0d".repeat(32)),
            pod_uid: Some("c0ffee".into()),
            since: "2026-11-21T10:00:00.25Z".parse().unwrap(),
            client: "Geth/v1.17.5".into(),
            max_peers: None,
            network: None,
        }
    }

    #[test]
    fn is_an_entry_one_line_of_json_that_reads_back() {
        let value = entry().to_value();
        assert!(!value.contains('\n') && value.contains("\"networkId\":1337"), "{value}");
        assert_eq!(Entry::parse(&value), Ok(entry()));
    }

    #[test]
    fn does_a_field_of_a_newer_version_pass() {
        let value = entry().to_value().replacen('{', "{\"shard\":[1],", 1);
        assert_eq!(Entry::parse(&value), Ok(entry()));
    }

    #[test]
    fn is_anything_less_than_an_entry_refused() {
        let good = entry().to_value();
        for bad in [
            String::new(),
            "null".into(),
            "[]".into(),
            "{}".into(),
            "enode://".into(),
            good.replace("10.9.8.7", "geth-0.geth"),
            good.replace("1337", "-1"),
            good.replace("2026", "twenty"),
            good.replace("0x0d", "0xzz"),
            good.replace("0x0d0d", "0x0D"),
            format!("{good}{good}"),
            good.replace("Geth/v1.17.5", &"x".repeat(MAX_LENGTH)),
        ] {
            let error = Entry::parse(&bad).unwrap_err().to_string();
            assert!(error.len() < 300, "{error}");
        }
    }

    #[test]
    fn is_what_keeps_two_nodes_apart_told_in_words() {
        let base = entry();
        assert_eq!(base.mismatch(&base), None);
        for (other, word) in [
            (Entry { network_id: 1, ..base.clone() }, "network id 1"),
            (Entry { genesis: format!("0x{}", "11".repeat(32)), ..base.clone() }, "genesis 0x1111"),
            (Entry { network: Some("blue".into()), ..base.clone() }, "its name is blue, this node's none"),
        ] {
            let words = base.mismatch(&other).unwrap();
            assert!(words.contains(word), "{words}");
        }
    }

    /// An entry with these addresses.
    fn at(addresses: &[&str]) -> Entry {
        let mut addresses = addresses.iter().map(|address| address.parse().unwrap());
        let enode = Enode { address: addresses.next().unwrap(), ..entry().enode };
        Entry { enode, alternates: addresses.collect(), ..entry() }
    }

    #[test]
    fn does_each_side_dial_an_address_of_a_family_that_it_has() {
        let (four, six) = ("10.0.0.1:30303", "[fd00::1]:30303");
        for (own, other, dialed) in [
            (&[four][..], &[four][..], four),
            (&[six], &[six], six),
            (&[four], &[four, six], four),
            (&[four], &[six, four], four),
            (&[six], &[four, six], six),
            (&[four, six], &[six], six),
            (&[four, six], &[six, four], six),
            (&[four, six], &[four, six], four),
        ] {
            let (own, other) = (at(own), at(other));
            let seen = other.seen_by(&own);
            assert_eq!(seen.enode.address.to_string(), dialed, "{own:?} dials {other:?}");
            assert_eq!(seen.enode.key, other.enode.key);
            assert_eq!((own.mismatch(&other), other.mismatch(&own)), (None, None));
        }
    }

    #[test]
    fn are_nodes_without_a_common_family_told_apart_by_both_sides() {
        let (four, six) = (at(&["10.0.0.1:30303"]), at(&["[fd00::1]:30303"]));
        for (own, other, words) in
            [(&four, &six, "on IPv6 only, and this node on IPv4"), (&six, &four, "on IPv4 only, and this node on IPv6")]
        {
            let reason = own.mismatch(other).unwrap();
            assert!(reason.contains(words), "{reason}");
            assert_eq!(*other.seen_by(own), *other, "and not a word of an address that is not there");
        }
    }

    #[test]
    fn is_an_entry_with_several_addresses_read_back_and_one_with_an_odd_one_refused() {
        let both = at(&["10.0.0.1:30303", "[fd00::1]:30303"]);
        let value = both.to_value();
        assert!(value.contains(r#""alternates":["[fd00::1]:30303"]"#), "{value}");
        assert_eq!(Entry::parse(&value), Ok(both));
        let four = Entry::parse(&value.replace("[fd00::1]", "[::ffff:10.0.0.9]")).unwrap();
        assert_eq!(four.alternates, ["10.0.0.9:30303".parse().unwrap()], "IPv4 in the clothes of IPv6");
        let many = format!("[{}]", [r#""[fd00::1]:1""#; MAX_ALTERNATES + 1].join(","));
        for bad in [r#"["[::]:1"]"#, r#"["[fd00::1]:0"]"#, r#"["geth-0:1"]"#, r#"["10.0.0.1"]"#, "7", &many] {
            assert!(Entry::parse(&value.replace(r#"["[fd00::1]:30303"]"#, bad)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn does_no_value_make_it_panic(value in "\\PC{0,400}") {
            let _ = Entry::parse(&value);
        }

        #[test]
        fn does_a_damaged_entry_never_pass_as_another_node(at in 0usize..400, byte in any::<u8>()) {
            let good = entry().to_value();
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(Ok(damaged)) = String::from_utf8(bytes).map(|value| Entry::parse(&value)) {
                // Still a node that could exist: nothing outside the grammar got through.
                prop_assert_eq!(Entry::parse(&damaged.to_value()), Ok(damaged));
            }
        }
    }
}
