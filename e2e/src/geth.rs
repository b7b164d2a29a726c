//! What a Geth says about itself: its key and its peers.

use crate::cluster::Namespace;
use crate::{node, pods};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The port on which the Geths of these tests offer `admin` to the tests (`--http`; 8545 is Geth's default,
/// node/defaults.go in v1.17.5). The product never uses it.
pub const HTTP_PORT: u16 = 8545;

/// Where Geths listen for each other unless told otherwise (node/defaults.go in v1.17.5).
const P2P_PORT: u16 = 30303;

/// Arguments that open [`HTTP_PORT`] for [`ask`].
pub const HTTP_ARGS: &[&str] = &["--http", "--http.addr=0.0.0.0", "--http.vhosts=*", "--http.api=admin,eth,net"];

/// One Geth, as it describes itself.
#[derive(Clone, Debug)]
pub struct Geth {
    /// The pod that it runs in.
    pub pod: String,
    /// The UID of that pod.
    pub uid: String,
    /// The address of that pod.
    pub ip: String,
    /// The node that it runs on.
    pub node: String,
    /// Its public key, the 128 hexadecimal digits of its enode.
    pub key: String,
    /// What its own log and others' call it: the Keccak-256 of the public key.
    pub id: String,
    /// Its peers by public key, as far as the `eth` handshake is done, each with the two ends of its connection:
    /// another pair means that the link was down in between.
    pub links: BTreeMap<String, [String; 2]>,
}

impl Geth {
    /// Whether it is linked to another one, and was the one that dialed: the other end is where that one listens.
    pub fn has_dialed(&self, other: &Self) -> bool {
        self.links.get(&other.key).is_some_and(|[_, remote]| remote.ends_with(&format!(":{P2P_PORT}")))
    }
}

/// Asks the Geth in a pod, in one request through the API server.
///
/// # Errors
/// When it does not answer, or not as Geth does.
pub async fn ask(namespace: &Namespace, pod: &Pod) -> Result<Geth> {
    let name = pod.name_any();
    let answers = batch(namespace, &name, &[("admin_nodeInfo", json!([])), ("admin_peers", json!([]))]).await?;
    let told = Told::new(&answers).with_context(|| name.clone())?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let (uid, ip) = (pod.uid().unwrap_or_default(), pods::ip(pod)?.to_owned());
    Ok(Geth { uid, ip, node, pod: name, key: told.key, id: told.id, links: told.links })
}

/// Asks a Geth again, from the node that it runs on, which works without an API server.
///
/// # Errors
/// As [`ask`].
pub async fn ask_on_node(geth: &Geth) -> Result<Geth> {
    let calls = requests(&[("admin_nodeInfo", json!([])), ("admin_peers", json!([]))]).to_string();
    let ask = r#"curl -sfm 5 -H 'content-type: application/json' -d "$1" "http://$2""#;
    let answer = node::shell(&geth.node, ask, &[&calls, &format!("{}:{HTTP_PORT}", geth.ip)]).await?;
    let answers = serde_json::from_str(&answer).with_context(|| format!("{} answered {answer:?}", geth.pod))?;
    let told = Told::new(&answers).with_context(|| geth.pod.clone())?;
    Ok(Geth { key: told.key, id: told.id, links: told.links, ..geth.clone() })
}

/// What a Geth tells of itself.
struct Told {
    key: String,
    id: String,
    links: BTreeMap<String, [String; 2]>,
}

impl Told {
    /// From its answers to `admin_nodeInfo` and `admin_peers`.
    fn new(answers: &Value) -> Result<Self> {
        let key = public_key(answers.pointer("/0/result/enode")).with_context(|| format!("nodeInfo: {answers}"))?;
        let id = answers.pointer("/0/result/id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let peers = answers.pointer("/1/result").and_then(Value::as_array);
        let links = peers.with_context(|| format!("peers: {answers}"))?.iter().filter_map(link).collect();
        Ok(Self { key, id, links })
    }
}

/// Makes calls of the Geth in a pod, in one request; what it answers to each, in their order.
///
/// # Errors
/// When it does not answer, or not in JSON.
pub async fn batch(namespace: &Namespace, pod: &str, calls: &[(&str, Value)]) -> Result<Value> {
    let answer = pods::request(namespace, pod, HTTP_PORT, "", Some(serde_json::to_vec(&requests(calls))?)).await?;
    serde_json::from_str(&answer).with_context(|| format!("{pod} answered {answer:?}"))
}

/// Calls as JSON-RPC has them.
fn requests(calls: &[(&str, Value)]) -> Value {
    let calls = calls.iter().enumerate();
    calls
        .map(|(id, (method, params))| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
        .collect()
}

/// Calls a method of the Geth in a pod.
///
/// # Errors
/// When it does not answer, or with an error.
pub async fn call(namespace: &Namespace, pod: &str, method: &str, params: Value) -> Result<Value> {
    let mut answers = batch(namespace, pod, &[(method, params)]).await?;
    let result = answers.pointer_mut("/0/result").map(Value::take);
    result.with_context(|| format!("{method} of {pod}: {answers}"))
}

/// A peer, if it counts: before the handshake `protocols.eth` is the string `handshake` (eth/peer.go).
fn link(peer: &Value) -> Option<(String, [String; 2])> {
    peer.pointer("/protocols/eth").filter(|eth| eth.is_object())?;
    let end =
        |name: &str| peer.pointer(&format!("/network/{name}")).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some((public_key(peer.get("enode")).ok()?, [end("localAddress"), end("remoteAddress")]))
}

/// The key in an enode. The rest of an inbound peer's enode is the port it happened to call from.
pub(crate) fn public_key(enode: Option<&Value>) -> Result<String> {
    let enode = enode.and_then(Value::as_str).context("no enode")?;
    let key: String = enode.strip_prefix("enode://").context("not an enode")?.chars().take(128).collect();
    ensure!(key.len() == 128 && key.chars().all(|digit| digit.is_ascii_hexdigit()), "no public key in {enode}");
    Ok(key)
}
