//! Under which user the sidecar runs: Geth's.
//!
//! Geth makes its socket with mode 0600 (rpc/ipc_unix.go, v1.17.5), so nobody else can connect to it; a group does not
//! help, nor does root without its capabilities.

use serde_json::{Value, json};

use super::annotations::Overrides;
use super::geth::Geth;
use super::{Refusal, text};
use crate::decision::Decision;

/// User and group of the Geth process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    uid: i64,
    /// None leaves it to the image; it plays no part in the right to connect.
    gid: Option<i64>,
    /// Neither the pod nor an annotation says the user, and the image is not known; so this is a guess.
    pub(super) guessed: bool,
    /// The pod wants no container to run as root, and Geth's own is an exception to that.
    exempt: bool,
}

/// Finds out as which user Geth will run: by annotation, the container's setting, the pod's setting, the namespace's
/// annotation, or the image.
pub(super) fn of(pod: &Value, geth: &Geth<'_>, overrides: &Overrides) -> Result<User, Refusal> {
    let (own, pods) = (&geth.container["securityContext"], &pod["spec"]["securityContext"]);
    let number = |field: &str| own[field].as_i64().or_else(|| pods[field].as_i64());
    let non_root = own["runAsNonRoot"].as_bool().or_else(|| pods["runAsNonRoot"].as_bool()).unwrap_or(false);
    let told = |annotation: &str, value: Option<i64>, field: &str| {
        if overrides.is_inherited(annotation) { number(field).or(value) } else { value.or_else(|| number(field)) }
    };
    let uid = told("run-as-user", overrides.run_as_user, "runAsUser");
    let gid = told("run-as-group", overrides.run_as_group, "runAsGroup");
    let exempt = pods["runAsNonRoot"] == true;
    match uid {
        Some(uid) => Ok(User { uid, gid, guessed: false, exempt }),
        None if non_root => Err(Refusal::new(
            Decision::UserUnknown,
            format!(
                "container {} must not run as root, but nothing says as which user it runs, and only that user can \
                 connect to Geth's IPC socket; set runAsUser, or write the user's ID into the annotation \
                 geth-peering/run-as-user",
                text::shown(geth.name())
            ),
        )),
        None => Ok(User { uid: 0, gid: gid.or(Some(0)), guessed: !geth.is_official_image(), exempt }),
    }
}

/// The security context of the sidecar: what Pod Security's level `restricted` asks for, except that it is root where
/// Geth is.
pub(super) fn security_context(user: &User) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
        "runAsUser": user.uid,
        "seccompProfile": { "type": "RuntimeDefault" }
    });
    if let Some(gid) = user.gid {
        context["runAsGroup"] = json!(gid);
    }
    if user.uid != 0 {
        context["runAsNonRoot"] = json!(true);
    } else if user.exempt {
        context["runAsNonRoot"] = json!(false);
    }
    context
}
