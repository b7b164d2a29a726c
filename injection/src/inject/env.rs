//! The variables of the Geth container.
//!
//! Every flag of Geth can be set by a variable `GETH_<FLAG>` (`flags.AutoEnvVars`, cmd/geth/main.go, v1.13.1 and later).
//! Geth takes a flag before a variable, and a variable before what its TOML file says (flags are applied after the
//! file), so a file that `--config` names need not be read. Variables that come by `envFrom` cannot be seen here;
//! Kubernetes takes an entry of `env` before them.

use serde_json::{Value, json};

use super::annotations::Overrides;
use super::geth::Geth;
use super::ipc::Socket;
use super::patch::{Edit, Misshapen, place};

/// Where Geth puts its socket.
pub(super) const IPC_PATH: &str = "GETH_IPCPATH";
/// Whether Geth has no socket at all.
pub(super) const IPC_DISABLE: &str = "GETH_IPCDISABLE";
/// Geth's data directory.
pub(super) const DATADIR: &str = "GETH_DATADIR";
const MAX_PEERS: &str = "GETH_MAXPEERS";
const NAT: &str = "GETH_NAT";

/// Names for the variable that holds the pod's address; the second is for pods whose `POD_IP` is something else.
const POD_IP: [&str; 2] = ["POD_IP", "PEERING_POD_IP"];

/// A container's own entry for a variable; Kubernetes takes the last of several.
pub(super) fn entry<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    container["env"].as_array()?.iter().rfind(|entry| entry["name"] == name)
}

/// The value of an entry, unless it comes from elsewhere or from another variable.
pub(super) fn literal(entry: &Value) -> Option<&str> {
    if entry["valueFrom"].is_object() {
        return None;
    }
    Some(entry["value"].as_str().unwrap_or_default()).filter(|value| !value.contains('$'))
}

/// An entry that takes its value from a field of the pod.
pub(super) fn from_field(name: &str, field: &str) -> Value {
    // The API server would add this version itself; then the object would not stay as it was patched.
    json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": field } } })
}

/// What Geth's `--maxpeers` will be, as far as it can be told.
pub(super) fn max_peers(geth: &Geth<'_>, overrides: &Overrides) -> MaxPeers {
    use super::cmdline::Flag;
    let asked = overrides.max_peers;
    // What a namespace says for all its pods is not meant for those that say it themselves.
    let in_vain = asked.filter(|_| !overrides.is_inherited("max-peers"));
    let set = match (geth.command.flag("maxpeers"), entry(geth.container, MAX_PEERS)) {
        (Some(Flag::Value(text)), _) => Some(text.parse().ok()),
        (Some(Flag::Unknown(_)), _) => Some(None),
        (None, _) if !geth.reads_variables() => Some(None),
        (None, Some(entry)) => Some(literal(entry).and_then(|text| text.parse().ok())),
        (None, None) => None,
    };
    match set {
        Some(known) => MaxPeers { known, ignored: in_vain.filter(|asked| known != Some(*asked)), add: None },
        None => MaxPeers { known: asked, ignored: None, add: asked },
    }
}

/// See [`max_peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MaxPeers {
    /// The number, if it can be told.
    pub(super) known: Option<u32>,
    /// What the annotation asks for in vain, because the user has set something else.
    pub(super) ignored: Option<u32>,
    /// What to give Geth.
    add: Option<u32>,
}

/// Gives the Geth container its variables, each only if neither a flag nor a variable of the user's sets it.
pub(super) fn add_to_geth(
    edit: &mut Edit<'_>,
    geth: &Geth<'_>,
    socket: &Socket,
    max_peers: MaxPeers,
    warnings: &mut Vec<String>,
) -> Result<(), Misshapen> {
    if !geth.reads_variables() {
        return Ok(());
    }
    let index = geth.index.to_string();
    let env = place(["spec", "containers", &index, "env"]);
    if geth.command.flag("nat").is_none() && entry(geth.container, NAT).is_none() {
        let fits = |name: &&&str| entry(geth.container, name).is_none_or(is_pod_ip);
        match POD_IP.iter().find(fits) {
            Some(name) => {
                // The address has to come first in the list: Kubernetes resolves $(X) from what stands before.
                if entry(geth.container, name).is_none() {
                    edit.append(&env, from_field(name, "status.podIP"))?;
                }
                edit.append(&env, json!({ "name": NAT, "value": format!("extip:$({name})") }))?;
            }
            None => warnings.push(format!(
                "{NAT} is not set, since {} mean something else in this pod; Geth may advertise a wrong address",
                POD_IP.join(" and ")
            )),
        }
    }
    if socket.set_variable {
        edit.append(&env, json!({ "name": IPC_PATH, "value": socket.path }))?;
    }
    if let Some(number) = max_peers.add {
        edit.append(&env, json!({ "name": MAX_PEERS, "value": number.to_string() }))?;
    }
    Ok(())
}

/// Whether an entry is the pod's one address. (`status.podIPs` is a list where there are two, which Geth cannot read.)
fn is_pod_ip(entry: &Value) -> bool {
    entry["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
}
