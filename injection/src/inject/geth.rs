//! Finds the container that runs Geth.
//!
//! The user's word counts most, then a command line that starts `geth`, then an image known to have Geth for its
//! entrypoint. A container that only has the looks (its name, or a script that is a file) counts when nothing better is
//! there. Exactly one has to remain: two Geths in a pod would need two sidecars.

use serde_json::Value;

use super::annotations::Overrides;
use super::cmdline::CommandLine;
use super::{Refusal, container, text, volume};
use crate::decision::Decision;

/// Last part of an image's name, for images whose entrypoint is Geth.
const IMAGES: [&str; 4] = ["client-go", "geth", "go-ethereum", "op-geth"];

/// Those of them that are tagged with go-ethereum's versions.
const VERSIONED_IMAGES: [&str; 3] = ["client-go", "geth", "go-ethereum"];

/// An image of a fork that ended at go-ethereum 1.10 (ConsenSys/quorum).
const GOQUORUM: &str = "quorum";

/// Programs that Geth's image also has, or that keep a container idle; a container that runs one is no Geth.
const OTHER_PROGRAMS: [&str; 11] =
    ["sleep", "tail", "cat", "echo", "bootnode", "clef", "abigen", "evm", "devp2p", "ethkey", "rlpdump"];

/// The first version of Geth whose flags can be set by `GETH_` variables.
const FIRST_WITH_VARIABLES: [u32; 3] = [1, 13, 1];

/// The container that runs Geth.
#[derive(Clone, Debug)]
pub(super) struct Geth<'a> {
    /// Its place in `spec.containers`.
    pub(super) index: usize,
    pub(super) container: &'a Value,
    pub(super) command: CommandLine<'a>,
}

impl Geth<'_> {
    pub(super) fn name(&self) -> &str {
        name(self.container)
    }

    /// The published image of go-ethereum, which runs as root (its Dockerfile names no user).
    pub(super) fn is_official_image(&self) -> bool {
        let (repository, _) = repository_and_tag(self.container);
        repository == "ethereum/client-go" || repository.ends_with("/ethereum/client-go")
    }

    /// Whether this Geth's flags can be set by `GETH_` variables; an image whose version cannot be told is taken for new.
    pub(super) fn reads_variables(&self) -> bool {
        let (repository, tag) = repository_and_tag(self.container);
        let name = repository.rsplit('/').next().unwrap_or_default();
        if name == GOQUORUM {
            return false;
        }
        let version = tag.strip_prefix("alltools-").unwrap_or(tag).trim_start_matches('v');
        let numbers = version.split('-').next().unwrap_or_default().split('.').map(|part| part.parse().ok());
        let numbers: Option<Vec<u32>> = numbers.collect();
        let is_old = numbers.is_some_and(|numbers| numbers.len() == 3 && numbers[..] < FIRST_WITH_VARIABLES[..]);
        !(is_old && VERSIONED_IMAGES.contains(&name))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// It may well be Geth, but nothing says so for certain.
    Weak,
    /// It starts Geth as a node.
    Strong,
}

/// Finds it, by the name that the user gave if there is one.
pub(super) fn find<'a>(pod: &'a Value, overrides: &Overrides) -> Result<Geth<'a>, Refusal> {
    let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all: Vec<Geth<'a>> = containers
        .iter()
        .enumerate()
        .filter(|(_, candidate)| name(candidate) != container::NAME)
        .map(|(index, container)| Geth { index, container, command: CommandLine::of(container) })
        .collect();
    let names =
        |of: &[&Geth<'_>]| text::listed(&of.iter().map(|geth| text::shown(geth.name())).collect::<Vec<_>>(), ", ");
    let every: Vec<&Geth<'_>> = all.iter().collect();

    if let Some(wanted) = overrides.container.as_deref() {
        match all.iter().find(|geth| geth.name() == wanted) {
            Some(geth) => return Ok(geth.clone()),
            // A namespace names a container for those of its pods that have it.
            None if overrides.is_inherited("container") => {}
            None => {
                return Err(Refusal::new(
                    Decision::InvalidAnnotation,
                    format!(
                        "annotation geth-peering/container={wanted:?}: the pod has no such container; write one of {}",
                        names(&every)
                    ),
                ));
            }
        }
    }

    let judged: Vec<(Evidence, &Geth<'_>)> =
        all.iter().filter_map(|geth| evidence(geth).map(|evidence| (evidence, geth))).collect();
    let Some(best) = judged.iter().map(|(evidence, _)| *evidence).max() else {
        return Err(Refusal::new(
            Decision::NoGethContainer,
            format!(
                "no container of this pod can be seen to run Geth (there are: {}); \
                 if one does, name it with the annotation geth-peering/container: <name>, \
                 otherwise take the label geth-peering off the pod",
                names(&every)
            ),
        ));
    };
    let mut found: Vec<&Geth<'_>> =
        judged.into_iter().filter(|(evidence, _)| *evidence == best).map(|(_, geth)| geth).collect();
    if found.len() > 1 && found.iter().any(|geth| has_our_socket(geth)) {
        // Another webhook added a container after we were here; the choice stands.
        found.retain(|geth| has_our_socket(geth));
    }
    match found.as_slice() {
        [geth] => Ok((*geth).clone()),
        several => Err(Refusal::new(
            Decision::SeveralGethContainers,
            format!(
                "{} containers of this pod seem to run Geth ({}); \
                 say which one is to peer with the annotation geth-peering/container: <name>",
                several.len(),
                names(several)
            ),
        )),
    }
}

fn evidence(geth: &Geth<'_>) -> Option<Evidence> {
    let command = &geth.command;
    if OTHER_PROGRAMS.contains(&command.program) {
        return None;
    }
    if command.names_geth {
        return command.starts_a_node().then_some(Evidence::Strong);
    }
    let (repository, _) = repository_and_tag(geth.container);
    let image = IMAGES.contains(&repository.rsplit('/').next().unwrap_or_default());
    match (image, command.entrypoint) {
        (true, true) => command.starts_a_node().then_some(Evidence::Strong),
        // A script that the image or a ConfigMap brings along.
        (true, false) => Some(Evidence::Weak),
        (false, _) => (geth.name() == "geth").then_some(Evidence::Weak),
    }
}

fn has_our_socket(geth: &Geth<'_>) -> bool {
    volume::mounts(geth.container).any(|mount| mount["name"] == volume::IPC)
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

/// The parts of `registry:5000/path/name:tag@digest`.
fn repository_and_tag(container: &Value) -> (&str, &str) {
    let image = container["image"].as_str().unwrap_or_default();
    let image = image.split('@').next().unwrap_or_default();
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(containers: Value) -> Result<String, Decision> {
        let pod = json!({"spec": {"containers": containers}});
        find(&pod, &Overrides::default()).map(|geth| geth.name().to_owned()).map_err(|refusal| refusal.decision)
    }

    #[test]
    fn is_geth_recognised_among_other_containers() {
        for containers in [
            json!([{"name": "geth", "image": "ethereum/client-go:v1.17.5"}]),
            json!([{"name": "el", "image": "registry:5000/ethereum/client-go@sha256:00", "args": ["--http"]}]),
            json!([{"name": "el", "image": "chain", "command": ["/usr/local/bin/geth"]}, {"name": "x", "image": "y"}]),
            json!([{"name": "x", "image": "prysm/geth-prober"}, {"name": "el", "image": "a/geth:1", "command": null}]),
            json!([{"name": "el", "image": "ethereum/client-go", "command": ["sh", "/scripts/start.sh"]}]),
            json!([{"name": "x", "image": "ethereum/client-go", "command": ["sh", "-c", "geth attach /x"]},
                   {"name": "el", "image": "ethereum/client-go"}]),
            json!([{"name": "x", "image": "ethereum/client-go:alltools", "command": ["bootnode", "-nodekey", "k"]},
                   {"name": "el", "image": "ethereum/client-go:alltools", "command": ["geth"]}]),
            json!([{"name": "geth", "image": "my/chain"}, {"name": "metrics", "image": "geth-exporter"}]),
            json!([{"name": "geth", "image": "my/wrapper"}, {"name": "el", "image": "ethereum/client-go"}]),
            json!([{"name": "geth-peering", "image": "ethereum/client-go"}, {"name": "el", "image": "geth"}]),
        ] {
            let expected = if containers.to_string().contains("\"el\"") { "el" } else { "geth" };
            assert_eq!(found(containers.clone()), Ok(expected.to_owned()), "{containers}");
        }
    }

    #[test]
    fn is_a_pod_without_geth_or_with_two_refused() {
        for containers in [
            json!(null),
            json!([]),
            json!([{"name": "web", "image": "nginx"}]),
            json!([{"name": "idle", "image": "ethereum/client-go", "command": ["sleep", "9"]}]),
            json!([{"name": "init", "image": "ethereum/client-go", "args": ["init", "/genesis.json"]}]),
        ] {
            assert_eq!(found(containers.clone()), Err(Decision::NoGethContainer), "{containers}");
        }
        let two = json!([{"name": "a", "image": "geth"}, {"name": "b", "command": ["sh", "-c", "exec geth --http"]}]);
        assert_eq!(found(two), Err(Decision::SeveralGethContainers));
    }

    #[test]
    fn does_the_choice_stand_when_a_webhook_adds_another_geth_later() {
        let ours = json!({"name": "a", "image": "geth", "volumeMounts": [{"name": "geth-peering-ipc"}]});
        assert_eq!(found(json!([{"name": "new", "image": "geth"}, ours])), Ok("a".to_owned()));
    }

    #[test]
    fn is_a_geth_too_old_for_variables_noticed() {
        let reads = |image: &str| {
            let container = json!({"name": "geth", "image": image});
            Geth { index: 0, container: &container, command: CommandLine::default() }.reads_variables()
        };
        for image in
            ["ethereum/client-go:v1.13.0", "x/client-go:v1.11.6-amd64@sha256:00", "quorumengineering/quorum:22.7"]
        {
            assert!(!reads(image), "{image}");
        }
        for image in ["ethereum/client-go:v1.13.1", "ethereum/client-go", "geth:latest", "my/chain:v1.0.0", "r:5000/x"]
        {
            assert!(reads(image), "{image}");
        }
    }
}
