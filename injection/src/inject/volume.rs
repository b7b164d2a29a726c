//! The two volumes and their mounts: the socket's, shared by Geth and sidecar, and the sidecar's own token.

use serde_json::{Value, json};

use super::geth::Geth;
use super::ipc::{Holder, Socket};
use super::patch::{Edit, Misshapen, place};
use super::{Refusal, container};
use crate::decision::Decision;

/// Name of the volume in which Geth puts its socket.
pub(super) const IPC: &str = "geth-peering-ipc";
/// Name of the volume with the token by which the sidecar is known to the API server.
pub(super) const TOKEN: &str = "geth-peering-token";

/// Where Kubernetes' clients look for a token. A mount of ours there keeps the API server from adding one of its own,
/// which would change the pod after us and have all webhooks called a second time.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Lifetime of a token in seconds, as the API server asks for in the volumes it adds itself
/// (`serviceaccount.WarnOnlyBoundTokenExpirationSeconds`); the kubelet renews it in time.
const TOKEN_LIFETIME: u32 = 3607;

/// Memory the socket's volume may take. A socket takes none; the limit is for whatever else somebody puts there.
const IPC_SIZE: &str = "1Mi";

/// The mounts of a container.
pub(super) fn mounts(container: &Value) -> impl Iterator<Item = &Value> {
    container["volumeMounts"].as_array().into_iter().flatten()
}

/// The mounts of the sidecar, all of them read-only: to connect, it need not write to the volume that holds the socket,
/// and where that is the user's, the chain may lie beside it.
pub(super) fn sidecar_mounts(socket: &Socket) -> [Value; 2] {
    let ipc = match &socket.holder {
        Holder::Ours { directory } => json!({ "name": IPC, "mountPath": directory, "readOnly": true }),
        Holder::Theirs { mount } => {
            let mut mount = mount.clone();
            if let Some(mount) = mount.as_object_mut() {
                // Only a privileged container may have it, and the sidecar mounts nothing.
                mount.remove("mountPropagation");
                mount.insert("readOnly".to_owned(), json!(true));
            }
            mount
        }
    };
    [ipc, json!({ "name": TOKEN, "mountPath": TOKEN_DIRECTORY, "readOnly": true })]
}

/// Refuses a pod in which a volume of the user's has a name that is needed here.
pub(super) fn check_names(pod: &Value) -> Result<(), Refusal> {
    for (name, ours) in [(IPC, "/emptyDir/medium"), (TOKEN, "/projected/sources")] {
        if find(pod, name).is_some_and(|volume| volume.pointer(ours).is_none()) {
            return Err(Refusal::new(
                Decision::NameTaken,
                format!("the pod has a volume named {name}, which is the name of a volume of the sidecar; rename it"),
            ));
        }
    }
    Ok(())
}

/// Adds the volumes that are missing, and the mount of the socket's volume in the Geth container.
pub(super) fn add(edit: &mut Edit<'_>, geth: &Geth<'_>, socket: &Socket) -> Result<(), Misshapen> {
    let volumes = place(["spec", "volumes"]);
    let needs_ipc = match &socket.holder {
        Holder::Ours { .. } => true,
        Holder::Theirs { mount } => mount["name"] == IPC,
    };
    if needs_ipc && find(edit.object(), IPC).is_none() {
        edit.append(&volumes, json!({ "name": IPC, "emptyDir": { "medium": "Memory", "sizeLimit": IPC_SIZE } }))?;
    }
    if find(edit.object(), TOKEN).is_none() {
        edit.append(&volumes, token_volume())?;
    }
    if let Holder::Ours { directory } = &socket.holder {
        let list = place(["spec", "containers", &geth.index.to_string(), "volumeMounts"]);
        edit.append(&list, json!({ "name": IPC, "mountPath": directory }))?;
    }
    Ok(())
}

/// Adds the mounts that an existing sidecar lacks.
pub(super) fn repair(edit: &mut Edit<'_>, sidecar: &container::Place, socket: &Socket) -> Result<(), Misshapen> {
    let Some(existing) = edit.object().pointer(sidecar.pointer().as_str()) else { return Ok(()) };
    for mount in sidecar_mounts(socket) {
        if !mounts(existing).any(|other| other["mountPath"] == mount["mountPath"]) {
            edit.append(&sidecar.member("volumeMounts"), mount)?;
        }
    }
    Ok(())
}

fn find<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod["spec"]["volumes"].as_array()?.iter().find(|volume| volume["name"] == name)
}

/// The same three files as in the volume that the API server adds to other containers.
fn token_volume() -> Value {
    json!({
        "name": TOKEN,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_LIFETIME, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [
                    { "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }
                ] } }
            ]
        }
    })
}
