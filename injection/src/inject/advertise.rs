//! The address that a pod wants published in the place of its own: the annotation `geth-peering/advertise`.
//!
//! It may refer to an address that is known only once the pod runs. Kubernetes puts that in, from a variable of the
//! sidecar's own, so that no variable of the user's can be in its way.

use std::str::FromStr;

use serde_json::{Value, json};
use sidecar::advertise::Advertise;
use sidecar::config::env as name;

use super::env;

/// The variable that holds the address of the pod's node.
const HOST_IP: &str = "PEERING_HOST_IP";

/// What may stand in the place of an address: as it is written, the variable that holds it, and the pod's field.
const FIELDS: [(&str, &str, &str); 2] =
    [("$(HOST_IP)", HOST_IP, "status.hostIP"), ("$(POD_IP)", name::POD_IP, "status.podIP")];

/// What may be written.
const ALLOWED: &str =
    "write IP:PORT, [IPV6]:PORT, $(HOST_IP):PORT or $(POD_IP):PORT; without :PORT it is Geth's own port";

/// An address to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advertised {
    /// The value of the sidecar's variable.
    value: String,
    /// The variable that it refers to, and the field of the pod that this holds.
    source: Option<(&'static str, &'static str)>,
}

impl Advertised {
    /// The sidecar's variables, in the order in which Kubernetes can resolve them.
    pub(super) fn variables(&self) -> Vec<Value> {
        // Every sidecar has the variable with the pod's address anyway.
        let source = self.source.filter(|(variable, _)| *variable != name::POD_IP);
        let source = source.map(|(variable, field)| env::from_field(variable, field));
        source.into_iter().chain([json!({ "name": name::ADVERTISE, "value": self.value })]).collect()
    }
}

impl FromStr for Advertised {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // An address stands in until the real one is known.
        let check = |text: &str| text.parse::<Advertise>().map_err(|error| format!("{error}; {ALLOWED}"));
        for (written, variable, field) in FIELDS {
            let port = text.strip_prefix(written).or_else(|| text.strip_prefix(&format!("[{written}]")));
            if let Some(port) = port {
                check(&format!("192.0.2.1{port}"))?;
                // The brackets are for the case that it is an IPv6 address; the sidecar takes them around any.
                return Ok(Self { value: format!("[$({variable})]{port}"), source: Some((variable, field)) });
            }
        }
        Ok(Self { value: check(text)?.to_string(), source: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_an_address_passed_on_and_one_of_the_downward_api_resolved_by_kubernetes() {
        let host =
            json!({"name": HOST_IP, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}});
        for (text, value, source) in [
            ("203.0.113.7:31303", "203.0.113.7:31303", None),
            ("203.0.113.7", "203.0.113.7", None),
            ("[2001:db8::7]:31303", "[2001:db8::7]:31303", None),
            ("$(HOST_IP):31303", "[$(PEERING_HOST_IP)]:31303", Some(&host)),
            ("[$(HOST_IP)]:31303", "[$(PEERING_HOST_IP)]:31303", Some(&host)),
            ("$(HOST_IP)", "[$(PEERING_HOST_IP)]", Some(&host)),
            ("$(POD_IP):30399", "[$(PEERING_POD_IP)]:30399", None),
        ] {
            let advertise = json!({"name": "PEERING_ADVERTISE", "value": value});
            let expected: Vec<_> = source.into_iter().cloned().chain([advertise]).collect();
            assert_eq!(text.parse::<Advertised>().unwrap().variables(), expected, "{text}");
            for ip in ["10.0.0.1", "fd00::1"] {
                let resolved = value.replace("$(PEERING_HOST_IP)", ip).replace("$(PEERING_POD_IP)", ip);
                assert!(resolved.parse::<Advertise>().is_ok(), "{resolved}: the sidecar understands it");
            }
        }
    }

    #[test]
    fn is_a_reference_to_anything_else_refused() {
        for text in [
            "$(NODE_IP):30303",
            "$HOST_IP:30303",
            "$$(HOST_IP):30303",
            "$(HOST_IP)$(POD_IP)",
            "$(HOST_IP):$(PORT)",
            "$(HOST_IP):0",
            "10.0.0.1:$(PORT)",
            "[$(HOST_IP):30303",
        ] {
            let refusal = text.parse::<Advertised>().unwrap_err();
            assert!(refusal.contains("$(HOST_IP):PORT"), "{text}: {refusal}");
        }
    }
}
