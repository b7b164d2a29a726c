//! The format of one registry entry: what a pod says of its Geth, as one line of JSON.
//!
//! Anybody who may edit the ConfigMap can write anything here, so a value becomes
//! an [`Entry`] only if every field is what it has to be. Unknown fields are
//! ignored: newer versions may add some.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::enode::Enode;

/// The longest value that is looked at, in bytes. What this program writes is about 400 long.
pub const MAX_LENGTH: usize = 4096;

/// Why a registry value is no entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Longer than [`MAX_LENGTH`].
    #[error("the value is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Not the JSON of an entry; what is wrong, with its place.
    #[error("the value is not an entry: {0}")]
    Format(String),
    /// The genesis is not a 32-byte hash.
    #[error("the value is not an entry: genesis is not 0x and 64 hexadecimal digits")]
    Genesis,
}

/// What the registry says of one pod's Geth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Who it is and where it accepts connections.
    pub enode: Enode,
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
        let entry: Self =
            serde_json::from_str(value).map_err(|error| EntryError::Format(clip(&error.to_string(), 200)))?;
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

    /// What keeps `other` from being of this entry's network, in words; `None` if nothing does.
    pub fn mismatch(&self, other: &Self) -> Option<String> {
        let named = |network: &Option<String>| network.clone().unwrap_or_else(|| "none".into());
        if self.network != other.network {
            let (its, ours) = (named(&other.network), named(&self.network));
            Some(format!("belongs to another network: its name is {}, this node's {ours}", clip(&its, 64)))
        } else if self.network_id != other.network_id {
            Some(format!("has network id {}, this node has {}", other.network_id, self.network_id))
        } else if self.genesis != other.genesis {
            Some(format!("has genesis {}, this node has {}", other.genesis, self.genesis))
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
