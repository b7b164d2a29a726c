//! The Geths of one of the two worlds, asked in the same way.

use super::PORT;
use super::cast::Role;
use anyhow::{Context, Result, ensure};
use e2e::cluster::Namespace;
use e2e::ipc::{Ipc, Socket};
use e2e::{node, wait};
use fakes::geth::{FakeGeth, Stop};
use futures::future::try_join_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Where a Geth's socket is, and the IP at which others reach it.
pub(super) type Place = (Socket, String);

/// A Geth of one of the two worlds.
pub(super) struct Node {
    pub(super) ipc: Ipc,
    socket: Socket,
    /// Where others reach it.
    pub(super) enode: String,
    id: String,
}

impl Node {
    pub(super) fn key(&self) -> &str {
        &self.enode[8..136]
    }
}

/// What the Geths are.
pub(super) enum World {
    Fakes(Vec<FakeGeth>),
    Pods,
}

/// The Geths of one of the two worlds, and what was seen of them.
pub(super) struct Geths<'a> {
    namespace: &'a Namespace,
    cast: &'static [Role],
    world: World,
    pub(super) nodes: Vec<Node>,
    pub(super) steps: Vec<(String, Value)>,
    /// What keys, addresses and the like are called where answers are compared.
    names: Vec<(String, String)>,
}

impl<'a> Geths<'a> {
    /// Connects to Geths at these sockets, with the addresses at which others reach them.
    pub(super) async fn connect(
        namespace: &'a Namespace,
        cast: &'static [Role],
        world: World,
        places: Vec<Place>,
    ) -> Result<Self> {
        let nodes = places.into_iter().map(async |(socket, address)| {
            let connect = async || Ipc::connect(namespace, &socket).await;
            let mut ipc = wait::until("a Geth answers", wait::PODS, connect).await?;
            let info = ipc.result("admin_nodeInfo", json!([])).await?;
            let text = |field: &str| info[field].as_str().map(str::to_owned).with_context(|| format!("{info}"));
            let enode = format!("{}@{address}:{PORT}", &text("enode")?[..136]);
            let genesis = info["protocols"]["eth"]["genesis"].as_str().unwrap_or_default().to_owned();
            Ok::<_, anyhow::Error>((Node { ipc, socket, enode, id: text("id")? }, address, genesis))
        });
        let nodes = try_join_all(nodes).await?;
        let mut names = Vec::new();
        for ((node, address, genesis), Role { name, .. }) in nodes.iter().zip(cast) {
            // With and without 0x, as Geth quotes it in errors.
            let bare = genesis.trim_start_matches("0x");
            for (raw, what) in [(node.key(), "key"), (&node.id, "id"), (address, "ip"), (bare, "genesis")] {
                if names.iter().all(|(known, _)| known != raw) {
                    names.push((raw.to_owned(), format!("<{what} of {name}>")));
                }
            }
        }
        names.sort_by_key(|(raw, _)| std::cmp::Reverse(raw.len()));
        let nodes = nodes.into_iter().map(|(node, ..)| node).collect();
        Ok(Self { namespace, cast, world, nodes, steps: Vec::new(), names })
    }

    pub(super) fn record(&mut self, what: &str, seen: Value) {
        self.steps.push((what.into(), self.normal(&seen)));
    }

    /// What was seen, with names in the place of what is by chance.
    fn normal(&self, seen: &Value) -> Value {
        let text = self.names.iter().fold(seen.to_string(), |text, (raw, name)| text.replace(raw, name));
        let mut seen = serde_json::from_str(&text).unwrap_or(Value::Null);
        rename(&mut seen);
        seen
    }

    pub(super) async fn step(&mut self, what: &str, node: usize, method: &str, params: Value) -> Result<()> {
        let what = format!("{what}, asked of {}", self.cast[node].name);
        let mut answer = self.nodes[node].ipc.call(method, params).await.with_context(|| what.clone())?;
        if let Some(peers) = answer["result"].as_array_mut() {
            // By ID, which is another one in each world.
            ensure!(peers.is_sorted_by_key(|peer| peer["id"].to_string()), "{what}: not in order: {peers:?}");
            peers.sort_by_key(|peer| self.normal(&peer["id"]).to_string());
        }
        self.record(&what, answer);
        Ok(())
    }

    pub(super) async fn subscribe(&mut self, node: usize) -> Result<()> {
        let answer = self.nodes[node].ipc.call("admin_subscribe", json!(["peerEvents"])).await?;
        let is_text = answer["result"].as_str().is_some_and(|id| id.starts_with("0x"));
        self.record("a subscription", is_text.into());
        Ok(())
    }

    pub(super) async fn broken_line(&mut self, node: usize) -> Result<()> {
        let mut ipc = Ipc::connect(self.namespace, &self.nodes[node].socket).await?;
        let answer = ipc.raw("}").await?;
        let ended = ipc.has_ended().await;
        self.record("a line that is no JSON", json!({"answer": answer, "then it hangs up": ended}));
        Ok(())
    }

    /// How a Geth lists another one, if it does.
    async fn listed(&mut self, node: usize, other: usize) -> Result<Option<Value>> {
        let peers = self.nodes[node].ipc.result("admin_peers", json!([])).await?;
        let id = &self.nodes[other].id;
        Ok(peers.as_array().and_then(|peers| peers.iter().find(|peer| peer["id"] == **id)).cloned())
    }

    /// Whether both have shaken hands, or neither lists the other at all.
    async fn are_peers(&mut self, one: usize, other: usize) -> Result<Option<bool>> {
        let ends = [self.listed(one, other).await?, self.listed(other, one).await?];
        Ok(match ends {
            [None, None] => Some(false),
            [Some(one), Some(other)] => {
                (one["protocols"]["eth"].is_object() && other["protocols"]["eth"].is_object()).then_some(true)
            }
            _ => None,
        })
    }

    pub(super) async fn until(
        &mut self,
        what: &str,
        one: usize,
        other: usize,
        wanted: bool,
        limit: Duration,
    ) -> Result<()> {
        let start = Instant::now();
        let mut found = self.are_peers(one, other).await?;
        while found != Some(wanted) && start.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(100)).await;
            found = self.are_peers(one, other).await?;
        }
        self.record(what, found.into());
        Ok(())
    }

    pub(super) async fn until_trusted(&mut self, what: &str, node: usize, other: usize, wanted: bool) -> Result<()> {
        let start = Instant::now();
        let mut found = self.listed(node, other).await?;
        let trusted = |found: &Option<Value>| found.as_ref().map(|peer| peer["network"]["trusted"] == true);
        while trusted(&found) != Some(wanted) && start.elapsed() < wait::SOON {
            found = self.listed(node, other).await?;
        }
        self.record(what, found.into());
        Ok(())
    }

    /// Waits until both have been told that their connection has ended.
    pub(super) async fn until_dropped(&mut self, one: usize, other: usize) -> Result<()> {
        let start = Instant::now();
        let told = |events: Vec<Value>| events.iter().any(|event| event["type"] == "drop");
        while !(told(self.events(one, other)) && told(self.events(other, one))) && start.elapsed() < wait::SOON {
            self.listed(one, other).await?;
            self.listed(other, one).await?;
        }
        Ok(())
    }

    /// Looks again and again whether any two are peers.
    pub(super) async fn apart(&mut self, what: &str, end: Instant) -> Result<()> {
        let mut found = Vec::new();
        while Instant::now() < end {
            for node in 0..self.nodes.len() {
                let peers = self.nodes[node].ipc.result("admin_peers", json!([])).await?;
                let up = peers.as_array().into_iter().flatten().filter(|peer| peer["protocols"]["eth"].is_object());
                found.extend(up.cloned());
            }
        }
        self.record(what, found.into());
        Ok(())
    }

    /// Looks again and again whether two are peers, or about to be.
    pub(super) async fn apart_for(&mut self, what: &str, one: usize, other: usize, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let mut apart = true;
        while apart && Instant::now() < end {
            apart = self.are_peers(one, other).await? == Some(false);
        }
        self.record(what, (!apart).into());
        Ok(())
    }

    /// Waits until a Geth has no peer at all.
    pub(super) async fn until_alone(&mut self, what: &str, node: usize) -> Result<()> {
        let start = Instant::now();
        let mut alone = false;
        while !alone && start.elapsed() < wait::SOON {
            let peers = self.nodes[node].ipc.result("admin_peers", json!([])).await?;
            alone = peers.as_array().is_some_and(Vec::is_empty);
        }
        self.record(what, alone.into());
        Ok(())
    }

    /// Kills a Geth, and takes note of what becomes of a connection to its socket and of what a new one is told.
    pub(super) async fn kill(&mut self, node: usize) -> Result<()> {
        match &mut self.world {
            World::Fakes(geths) => geths[node].stop(Stop::Kill).await,
            World::Pods => {
                let kill = r#"crictl exec "$id" sh -c 'kill -KILL $(pidof geth)'"#;
                node::beside(self.namespace, self.cast[node].name, "geth", kill).await?;
            }
        }
        let Node { ipc, socket, .. } = &mut self.nodes[node];
        let ended = tokio::time::timeout(wait::SOON, ipc.has_ended()).await.unwrap_or(false);
        let refusal = socket.refusal(self.namespace).await?;
        self.record("a connection to who was killed", json!({"ends": ended, "a new one": refusal}));
        Ok(())
    }

    /// Starts a Geth that was killed, and connects to it.
    pub(super) async fn start(&mut self, node: usize) -> Result<()> {
        match &mut self.world {
            World::Fakes(geths) => geths[node].start(),
            World::Pods => {
                let start = "touch /proc/$pid/root/data/again";
                node::beside(self.namespace, self.cast[node].name, "geth", start).await?;
            }
        }
        let Node { ipc, socket, .. } = &mut self.nodes[node];
        let connect = async || Ipc::connect(self.namespace, socket).await;
        *ipc = wait::until("who was killed answers again", wait::PODS, connect).await?;
        Ok(())
    }

    /// What every Geth was told about every other one, in order.
    pub(super) async fn all_events(&mut self) -> Result<()> {
        for node in 0..self.nodes.len() {
            self.nodes[node].ipc.call("admin_peers", json!([])).await?;
        }
        for (one, Role { name, .. }) in self.cast.iter().enumerate() {
            for (other, Role { name: name_of_other, .. }) in self.cast.iter().enumerate() {
                let mut events = self.events(one, other);
                let back = self.events(other, one);
                let mut reasons: BTreeSet<_> = events.iter().chain(&back).filter_map(reason).collect();
                // Of two strangers whoever finds out first says so, which is all that the other one learns.
                if reasons.iter().any(|reason| reason.contains("mismatch")) {
                    reasons.remove("subprotocol error");
                    events
                        .iter_mut()
                        .filter(|event| reason(event).is_some())
                        .for_each(|event| event["error"] = "a mismatch".into());
                }
                let what = format!("what {name} was told about {name_of_other}");
                self.record(&what, json!({"events": events, "reasons of both": reasons}));
            }
        }
        Ok(())
    }

    fn events(&self, one: usize, other: usize) -> Vec<Value> {
        let events = self.nodes[one].ipc.events().iter();
        events.filter(|event| event["peer"] == *self.nodes[other].id).cloned().collect()
    }
}

/// Why a connection ended, without what differs from one end to the other.
fn reason(event: &Value) -> Option<String> {
    Some(event["error"].as_str()?.split(':').next().unwrap_or_default().to_owned())
}

/// Gives versions, records and temporary ports a name of their own.
fn rename(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(rename),
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value.as_str()) {
                    ("enr", Some(_)) => *value = "<record>".into(),
                    // What the chain's rules are.
                    ("config", None) => *value = value.is_object().into(),
                    ("name", Some(client)) => {
                        *value = client.split(['-', '/']).take(2).collect::<Vec<_>>().join("/").into()
                    }
                    ("enode" | "local" | "remote" | "localAddress" | "remoteAddress", Some(address)) => {
                        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
                        let temporary = port.parse::<u16>().is_ok_and(|port| port != PORT && port != 0);
                        if temporary {
                            *value = format!("{host}:<temporary port>").into();
                        }
                    }
                    _ => rename(value),
                }
            }
        }
        _ => {}
    }
}
