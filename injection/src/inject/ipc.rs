//! Where Geth's IPC socket will be, and through which volume the sidecar gets at it.
//!
//! By default that is a small memory volume of the injector's own, at a directory nobody else uses: the data directory
//! holds the chain, and a volume mounted over it would hide that. A path that the user has set is kept.

use serde_json::Value;
use sidecar::config::MAX_SOCKET_PATH;

use super::annotations::Overrides;
use super::cmdline::Flag;
use super::geth::Geth;
use super::text::{quoted, shown};
use super::{Refusal, env, volume};
use crate::decision::Decision;

/// Where the volume of the injector's own is mounted.
pub(super) const DIRECTORY: &str = "/run/geth-peering";
/// The socket in it.
pub(super) const DEFAULT_SOCKET: &str = "/run/geth-peering/geth.ipc";

/// The socket's name in the data directory, unless Geth is told another (`clientIdentifier`, cmd/geth/main.go).
const DEFAULT_NAME: &str = "geth.ipc";

/// Geth's data directory in its image, where it runs as root (`node.DefaultDataDir`, node/defaults.go).
const DEFAULT_DATADIR: &str = "/root/.ethereum";
/// Networks whose default data directory lies below that (`utils.SetDataDir`, cmd/utils/flags.go, v1.17.5).
const TESTNETS: [&str; 3] = ["sepolia", "holesky", "hoodi"];

/// Directories in which images keep programs; a volume over one of them leaves nothing to run.
const SYSTEM_DIRECTORIES: [&str; 9] = ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/usr"];
/// Directories that images and their programs share for different things.
const SHARED_DIRECTORIES: [&str; 11] =
    ["/tmp", "/run", "/var", "/var/lib", "/var/run", "/var/tmp", "/opt", "/root", "/srv", "/mnt", "/home"];
/// Every pod has its token here; a volume above it hides nothing, since mounts are made from the top down.
const TOKENS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

const ADVICE: &str = "say where the socket is with the annotation geth-peering/ipc-path: <absolute path>, \
                      or take the setting out and leave the place to the injector";

/// The socket, and how to reach it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Socket {
    /// Absolute path, the same in Geth and sidecar.
    pub(super) path: String,
    /// Geth has to be told the path by a variable.
    pub(super) set_variable: bool,
    pub(super) holder: Holder,
}

/// The volume in which the socket lies.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Holder {
    /// The injector's own volume, mounted in both containers.
    Ours {
        /// Where.
        directory: String,
    },
    /// A volume that Geth has mounted anyway; the sidecar gets the same mount.
    Theirs {
        /// The mount as Geth has it.
        mount: Value,
    },
}

/// What the user has set, in Geth's order: the flag, then the variable.
enum Setting {
    Nothing,
    Path(String),
    Unknown(String),
}

/// Finds out where the socket will be.
pub(super) fn locate(geth: &Geth<'_>, overrides: &Overrides) -> Result<Socket, Refusal> {
    let setting = setting(geth);
    let (path, set_variable) = match (overrides.ipc_path.as_deref(), &setting) {
        (Some(_), Setting::Path(path)) if overrides.is_inherited("ipc-path") => (path.clone(), false),
        (Some(annotated), Setting::Path(path)) if annotated != path => {
            return Err(Refusal::new(
                Decision::InvalidAnnotation,
                format!(
                    "annotation geth-peering/ipc-path={}: Geth itself is told {}; take one of the two out",
                    quoted(annotated),
                    shown(path)
                ),
            ));
        }
        (Some(annotated), setting) => (annotated.to_owned(), matches!(setting, Setting::Nothing)),
        (None, Setting::Path(path)) => (path.clone(), false),
        (None, Setting::Unknown(why)) => {
            return Err(Refusal::new(Decision::IpcPathUnknown, format!("{why}; {ADVICE}")));
        }
        (None, Setting::Nothing) => (DEFAULT_SOCKET.to_owned(), true),
    };
    if path.len() > MAX_SOCKET_PATH {
        return Err(Refusal::new(
            Decision::IpcPathImpossible,
            format!(
                "the path {} of Geth's IPC socket is longer than the {MAX_SOCKET_PATH} bytes a socket can have",
                shown(&path)
            ),
        ));
    }
    let holder = holder(geth, &path)?;
    Ok(Socket { path, set_variable, holder })
}

fn setting(geth: &Geth<'_>) -> Setting {
    let variable = env::entry(geth.container, env::IPC_PATH).filter(|_| geth.reads_variables());
    let (origin, text) = match (geth.command.flag("ipcpath"), variable) {
        (Some(Flag::Value(text)), _) => ("--ipcpath", text),
        (Some(Flag::Unknown(text)), _) => {
            let text = shown(&text);
            return Setting::Unknown(format!("what --ipcpath {text} means is known only when the pod runs"));
        }
        (None, Some(entry)) => match env::literal(entry) {
            Some(text) => (env::IPC_PATH, text.to_owned()),
            None => {
                return Setting::Unknown(format!("the value of {} is known only when the pod runs", env::IPC_PATH));
            }
        },
        (None, None) if geth.reads_variables() => return Setting::Nothing,
        // It cannot be told another path, so the socket will be where it always was.
        (None, None) => ("the name that a Geth before 1.13.1 gives its socket", DEFAULT_NAME.to_owned()),
    };
    match resolve(geth, &text) {
        Ok(path) => Setting::Path(path),
        Err(why) => Setting::Unknown(format!("{origin} is {}, and {why}", quoted(&text))),
    }
}

/// Makes a path absolute as Geth does (`Config.IPCEndpoint`, node/config.go): a bare name lies in the data directory,
/// any other relative path starts at the working directory.
fn resolve(geth: &Geth<'_>, text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("that is empty".to_owned());
    }
    if text.contains('$') || text.starts_with('~') {
        return Err("what that means is known only when the pod runs".to_owned());
    }
    if text.starts_with('/') {
        return Ok(clean(text));
    }
    let (directory, what) = if text.contains('/') {
        (geth.container["workingDir"].as_str().map(ToOwned::to_owned), "working directory")
    } else {
        (datadir(geth), "data directory")
    };
    match directory {
        Some(directory) if directory.starts_with('/') => Ok(clean(&format!("{directory}/{text}"))),
        _ => Err(format!("the {what} of Geth is not known")),
    }
}

/// Geth's data directory, if it can be told.
fn datadir(geth: &Geth<'_>) -> Option<String> {
    let text = match (geth.command.flag("datadir"), env::entry(geth.container, env::DATADIR)) {
        (Some(Flag::Value(text)), _) => text,
        (Some(Flag::Unknown(_)), _) => return None,
        (None, Some(entry)) => env::literal(entry)?.to_owned(),
        (None, None) => {
            let testnet = TESTNETS.iter().find(|name| geth.command.switch(name));
            return Some(testnet.map_or(DEFAULT_DATADIR.to_owned(), |name| format!("{DEFAULT_DATADIR}/{name}")));
        }
    };
    (text.starts_with('/') && !text.contains('$')).then(|| clean(&text))
}

fn holder(geth: &Geth<'_>, path: &str) -> Result<Holder, Refusal> {
    let directory = parent(path);
    let mounted_at = |mount: &Value| mount["mountPath"].as_str().map(clean).unwrap_or_default();
    if directory == DIRECTORY {
        // Nobody keeps anything here, so a volume of its own does no harm, even below another mount.
        let own = volume::mounts(geth.container).find(|mount| mounted_at(mount) == DIRECTORY);
        return Ok(own.map_or(Holder::Ours { directory }, |mount| Holder::Theirs { mount: mount.clone() }));
    }
    let holds = volume::mounts(geth.container).filter(|mount| is_within(&directory, &mounted_at(mount)));
    if let Some(mount) = holds.max_by_key(|mount| mounted_at(mount).len()) {
        return Ok(Holder::Theirs { mount: mount.clone() });
    }
    let below = |path: &String| is_within(path, &directory) && path != TOKENS;
    let obstacle = if directory == "/" {
        Some("would hide the whole file system of the image".to_owned())
    } else if let Some(datadir) = datadir(geth).filter(|datadir| is_within(datadir, &directory)) {
        Some(format!("would hide the data directory {}", shown(&datadir)))
    } else if let Some(inner) = volume::mounts(geth.container).map(mounted_at).find(below) {
        Some(format!("would lie over the volume mounted at {}", shown(&inner)))
    } else if SYSTEM_DIRECTORIES.iter().any(|system| is_within(&directory, system)) {
        Some("would hide programs of the image".to_owned())
    } else if SHARED_DIRECTORIES.contains(&directory.as_str()) || parent(&directory) == "/home" {
        Some("would hide what else the image and its programs keep there".to_owned())
    } else {
        let started_from = working_places(geth).into_iter().find(|own| is_within(own, &directory));
        started_from.map(|own| format!("would hide the directory {} that the container starts from", shown(&own)))
    };
    match obstacle {
        None => Ok(Holder::Ours { directory }),
        Some(why) => Err(Refusal::new(
            Decision::IpcPathImpossible,
            format!(
                "Geth's IPC socket {path} is in none of the volumes that Geth mounts, and a volume at {directory} \
                 {why}; put the socket into a directory of its own or into a volume, for example with \
                 --ipcpath={DEFAULT_SOCKET}, or drop --ipcpath and leave the place to the injector"
            ),
        )),
    }
}

/// The directories of the container's program and of its work, as far as it says them.
fn working_places(geth: &Geth<'_>) -> Vec<String> {
    let program = geth.container["command"][0].as_str().filter(|path| path.starts_with('/'));
    let work = geth.container["workingDir"].as_str().filter(|path| path.starts_with('/'));
    program.map(|path| parent(&clean(path))).into_iter().chain(work.map(clean)).collect()
}

/// Whether something else in the pod talks to Geth by the socket's usual place: a probe or hook of Geth's own, or another
/// container.
pub(super) fn has_other_clients(pod: &Value, geth: &Geth<'_>, socket: &Socket) -> bool {
    const OWN: [&str; 4] = ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"];
    let own = OWN.iter().map(|field| &geth.container[*field]);
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let others = containers
        .enumerate()
        .filter(|(index, _)| *index != geth.index)
        .flat_map(|(_, container)| [&container["command"], &container["args"]]);
    own.chain(others).any(|part| {
        let text = part.to_string();
        // Without an address, `geth attach` takes the socket in the data directory.
        let attaches = text.contains("geth") && text.contains("attach") && !text.contains("://");
        let names_socket = text.contains("geth.ipc") || attaches;
        names_socket && !text.contains(&socket.path)
    })
}

/// Whether `path` is `directory` or lies in it; both clean.
fn is_within(path: &str, directory: &str) -> bool {
    directory == "/" || path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn parent(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/".to_owned(),
        Some((directory, _)) => directory.to_owned(),
    }
}

/// A path without `.`, `..` and repeated or trailing slashes, as Go's `filepath.Clean` makes it of an absolute one.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::cmdline::CommandLine;
    use serde_json::json;

    fn located(container: Value, annotation: Option<&str>) -> Result<Socket, Refusal> {
        let overrides = Overrides { ipc_path: annotation.map(str::to_owned), ..Overrides::default() };
        locate(&Geth { index: 0, command: CommandLine::of(&container), container: &container }, &overrides)
    }

    fn ours(path: &str) -> Socket {
        Socket { path: path.into(), set_variable: false, holder: Holder::Ours { directory: parent(path) } }
    }

    #[test]
    fn is_the_socket_where_geth_will_put_it() {
        let data = json!([{"name": "data", "mountPath": "/data/"}]);
        for (container, path) in [
            (json!({"args": ["--ipcpath=/data/geth.ipc"], "volumeMounts": data}), "/data/geth.ipc"),
            (json!({"args": ["--ipcpath", "/data/../data//x.ipc"], "volumeMounts": data}), "/data/x.ipc"),
            (json!({"args": ["--ipcpath=x.ipc", "--datadir=/data/g"], "volumeMounts": data}), "/data/g/x.ipc"),
            (json!({"args": ["--ipcpath=./x.ipc"], "workingDir": "/data", "volumeMounts": data}), "/data/x.ipc"),
            (
                json!({"args": ["--ipcpath=x.ipc"], "env": [{"name": "GETH_DATADIR", "value": "/data"}],
                       "volumeMounts": data}),
                "/data/x.ipc",
            ),
            (json!({"env": [{"name": "GETH_IPCPATH", "value": "/data/e.ipc"}], "volumeMounts": data}), "/data/e.ipc"),
            (
                json!({"env": [{"name": "GETH_IPCPATH", "value": "/early"}, {"name": "GETH_IPCPATH", "value": "/data/l.ipc"}],
                       "volumeMounts": data}),
                "/data/l.ipc",
            ),
            (
                json!({"args": ["--ipcpath=/data/flag.ipc"], "volumeMounts": data,
                       "env": [{"name": "GETH_IPCPATH", "value": "/data/variable.ipc"}]}),
                "/data/flag.ipc",
            ),
            (
                json!({"args": ["--sepolia", "--ipcpath=x.ipc"],
                       "volumeMounts": [{"name": "data", "mountPath": "/root/.ethereum"}]}),
                "/root/.ethereum/sepolia/x.ipc",
            ),
        ] {
            let socket = located(container.clone(), None).unwrap();
            assert_eq!((socket.path.as_str(), socket.set_variable), (path, false), "{container}");
            assert!(matches!(socket.holder, Holder::Theirs { .. }), "{container}");
        }
    }

    #[test]
    fn does_the_injectors_own_volume_hold_a_socket_that_no_other_holds() {
        assert_eq!(located(json!({}), None), Ok(Socket { set_variable: true, ..ours(DEFAULT_SOCKET) }));
        for path in ["/ipc/geth.ipc", "/tmp/geth/geth.ipc", "/var/run/geth/geth.ipc", "/home/geth/ipc/geth.ipc"] {
            let container = json!({"args": [format!("--ipcpath={path}")], "command": ["/app/geth"], "workingDir": "/app",
                                   "volumeMounts": [{"name": "t", "mountPath": TOKENS}, {"name": "d", "mountPath": "/data"}]});
            assert_eq!(located(container, None), Ok(ours(path)));
        }
    }

    #[test]
    fn is_a_geth_that_reads_no_variables_found_where_it_puts_its_socket_by_itself() {
        let container = |args: Value| {
            json!({"image": "ethereum/client-go:v1.11.6", "args": args, "volumeMounts": [{"name": "d", "mountPath": "/d"}],
                   "env": [{"name": "GETH_IPCPATH", "value": "/ignored/geth.ipc"}]})
        };
        let socket = located(container(json!(["--datadir=/d/chain"])), None).unwrap();
        assert_eq!((socket.path.as_str(), socket.set_variable), ("/d/chain/geth.ipc", false));
        let refusal = located(container(json!(["--datadir=/elsewhere"])), None).unwrap_err();
        assert!(refusal.message.contains("--ipcpath=/run/geth-peering/geth.ipc"), "{}", refusal.message);
        assert_eq!(located(container(json!(["--ipcpath=/d/x.ipc"])), None).unwrap().path, "/d/x.ipc");
    }

    #[test]
    fn is_the_longest_mount_the_one_that_holds_the_socket() {
        let container = json!({"args": ["--ipcpath=/data/ipc/geth.ipc"], "volumeMounts": [
            {"name": "a", "mountPath": "/data"}, {"name": "b", "mountPath": "/data/ipc", "subPath": "s"},
            {"name": "c", "mountPath": "/data/ip"}, {"name": "e", "mountPath": "/data/ipcx"}, {"name": "d", "mountPath": "/data/ipc/geth.ipc"}]});
        let Holder::Theirs { mount } = located(container, None).unwrap().holder else { panic!("held by a mount") };
        assert_eq!(mount, json!({"name": "b", "mountPath": "/data/ipc", "subPath": "s"}));
        let beside =
            json!({"args": ["--ipcpath=/data/geth.ipc"], "volumeMounts": [{"name": "a", "mountPath": "/dat"}]});
        assert_eq!(located(beside, None), Ok(ours("/data/geth.ipc")), "/data is not in /dat");
    }

    #[test]
    fn does_the_annotation_help_where_the_path_cannot_be_told() {
        let container = json!({"args": ["--ipcpath=$(DIR)/geth.ipc"]});
        assert_eq!(located(container, Some("/ipc/geth.ipc")), Ok(ours("/ipc/geth.ipc")));
        let set = Socket { set_variable: true, ..ours("/ipc/geth.ipc") };
        assert_eq!(located(json!({}), Some("/ipc/geth.ipc")), Ok(set));
        let same = json!({"args": ["--ipcpath=/ipc/geth.ipc"]});
        assert_eq!(located(same, Some("/ipc/geth.ipc")), Ok(ours("/ipc/geth.ipc")));
    }

    #[test]
    fn is_an_impossible_place_refused_with_advice() {
        let long = format!("--ipcpath=/{}", "x".repeat(107));
        let mounts = json!([{"name": "data", "mountPath": "/srv/chain"}]);
        for (container, decision, hint) in [
            (json!({"args": ["--ipcpath=$(X)/geth.ipc"]}), Decision::IpcPathUnknown, "geth-peering/ipc-path"),
            (json!({"args": ["--ipcpath"]}), Decision::IpcPathUnknown, "geth-peering/ipc-path"),
            (json!({"args": ["--ipcpath="]}), Decision::IpcPathUnknown, "empty"),
            (json!({"args": ["--ipcpath=~/geth.ipc"]}), Decision::IpcPathUnknown, "geth-peering/ipc-path"),
            (json!({"args": ["--ipcpath=ipc/geth.ipc"]}), Decision::IpcPathUnknown, "working directory"),
            (json!({"args": ["--ipcpath=x", "--datadir=$(D)"]}), Decision::IpcPathUnknown, "data directory"),
            (
                json!({"env": [{"name": "GETH_IPCPATH", "valueFrom": {"configMapKeyRef": {}}}]}),
                Decision::IpcPathUnknown,
                "GETH_IPCPATH",
            ),
            (json!({"args": [long]}), Decision::IpcPathImpossible, "107"),
            (json!({"args": ["--ipcpath=/geth.ipc"]}), Decision::IpcPathImpossible, "whole file system"),
            (json!({"args": ["--ipcpath=/root/.ethereum/geth.ipc"]}), Decision::IpcPathImpossible, "data directory"),
            (json!({"args": ["--ipcpath=x.ipc"]}), Decision::IpcPathImpossible, "data directory"),
            (json!({"args": ["--datadir=/d/e", "--ipcpath=/d/x.ipc"]}), Decision::IpcPathImpossible, "/d/e"),
            (
                json!({"args": ["--ipcpath=/srv/x.ipc"], "volumeMounts": mounts}),
                Decision::IpcPathImpossible,
                "/srv/chain",
            ),
            (json!({"args": ["--ipcpath=/usr/local/bin/x.ipc"]}), Decision::IpcPathImpossible, "programs"),
            (json!({"args": ["--ipcpath=/tmp/geth.ipc"]}), Decision::IpcPathImpossible, "drop --ipcpath"),
            (json!({"args": ["--ipcpath=/var/run/geth.ipc"]}), Decision::IpcPathImpossible, "of its own"),
            (
                json!({"args": ["--ipcpath=/home/geth/x.ipc"], "env": [{"name": "GETH_DATADIR", "value": "/d"}]}),
                Decision::IpcPathImpossible,
                "at /home/geth would hide",
            ),
            (
                json!({"command": ["/app/bin/geth"], "args": ["--ipcpath=/app/x.ipc"]}),
                Decision::IpcPathImpossible,
                "/app/bin",
            ),
            (
                json!({"command": ["geth"], "workingDir": "/app/", "args": ["--ipcpath=/app/x.ipc"]}),
                Decision::IpcPathImpossible,
                "/app",
            ),
        ] {
            let refusal = located(container.clone(), None).unwrap_err();
            assert_eq!(refusal.decision, decision, "{container}: {}", refusal.message);
            assert!(refusal.message.contains(hint), "{container}: {}", refusal.message);
        }
        let conflict = located(json!({"args": ["--ipcpath=/a/b"]}), Some("/c/d")).unwrap_err();
        assert_eq!(conflict.decision, Decision::InvalidAnnotation);
        assert!(conflict.message.contains("/a/b") && conflict.message.contains("/c/d"), "{}", conflict.message);
    }
}
