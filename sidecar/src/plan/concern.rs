//! Concerns: what keeps a network from its full mesh and only a person can put right.

use std::fmt;

use serde::{Serialize, Serializer};

use super::LinkState;
use super::dialer::DEFAULT_MAX_PEERS;
use super::listed::Listed;
use super::membership::{Link, Wanted};
use crate::registry::entry::Entry;

/// Something that a person has to act on. Its text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// The mesh is larger than the smallest `--maxpeers` in it allows.
    MeshTooLarge {
        /// How many nodes the network has.
        nodes: usize,
        /// How many of them are outside the cluster.
        external: usize,
        /// The pod with the smallest `--maxpeers`.
        pod: String,
        /// That number.
        max_peers: u32,
    },
    /// Another pod has this pod's node key.
    DuplicateNodeKey {
        /// The other pod.
        pod: String,
    },
    /// Something keeps changing this pod's entry.
    EntryContested,
}

impl Concern {
    /// Every word there is, for metrics.
    pub const WORDS: [&str; 3] = ["MeshTooLarge", "DuplicateNodeKey", "EntryContested"];

    /// One word for it, as the reason of a Kubernetes Event.
    pub fn word(&self) -> &'static str {
        match self {
            Self::MeshTooLarge { .. } => "MeshTooLarge",
            Self::DuplicateNodeKey { .. } => "DuplicateNodeKey",
            Self::EntryContested => "EntryContested",
        }
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MeshTooLarge { nodes, external, pod, max_peers } => write!(
                f,
                "a full mesh of {nodes} nodes needs --maxpeers {} or more at every Geth, and {pod} has {max_peers}: links will be missing until it is raised",
                needed(*nodes, *external)
            ),
            Self::DuplicateNodeKey { pod } => write!(
                f,
                "{pod} has the same node key as this pod, and nobody can be connected to both: give each Geth a datadir, or a --nodekey, of its own"
            ),
            Self::EntryContested => write!(
                f,
                "something keeps changing this pod's entry in the registry: is a second sidecar running under this pod's name?"
            ),
        }
    }
}

/// As its sentence.
impl Serialize for Concern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The `--maxpeers` that a full mesh of `nodes` needs at each of them: everybody has to be
/// able to dial half of the others, rounded up, and Geth dials a third of its peers at most,
/// but always one.
///
/// Of these nodes `external` are dialed by all the others, and dial none.
pub fn needed(nodes: usize, external: usize) -> usize {
    let others = nodes.saturating_sub(1);
    match others.saturating_sub(external).div_ceil(2) + external {
        0 | 1 => others,
        dials => 3 * dials,
    }
}

/// What the links and entries give reason for concern about.
pub(super) fn of_mesh(own: &Entry, wanted: &[Wanted<'_>], listed: &Listed, links: &[Link]) -> Vec<Concern> {
    let mut concerns = Vec::new();
    let (nodes, external) = (wanted.len() + 1, listed.externals());
    let registered = wanted.iter().filter(|node| listed.origin(&node.entry.enode.key).is_none());
    let all = registered.map(|node| (node.entry.as_ref(), node.pod)).chain([(own, "this pod")]);
    let smallest = all.map(|(entry, pod)| (entry.max_peers.unwrap_or(DEFAULT_MAX_PEERS), pod)).min();
    if let Some((max_peers, pod)) = smallest
        && usize::try_from(max_peers).is_ok_and(|max_peers| max_peers < needed(nodes, external))
    {
        concerns.push(Concern::MeshTooLarge { nodes, external, pod: pod.to_owned(), max_peers });
    }
    let twin =
        |link: &&Link| link.state == LinkState::Duplicate && link.enode.is_some_and(|enode| enode.key == own.enode.key);
    concerns.extend(links.iter().filter(twin).map(|link| Concern::DuplicateNodeKey { pod: link.pod.clone() }));
    concerns
}
