//! What a real API server refuses of an object's content, as far as the product can meet
//! it: all of a ConfigMap (`ValidateConfigMap` and `ValidateConfigMapUpdate` of
//! pkg/apis/core/validation in Kubernetes v1.34), and a new UID of anything.

use serde_json::Value;

use super::store::{Failure, Key};

/// All values of a ConfigMap together, in bytes (`MaxSecretSize`).
const MAX_DATA: usize = 1 << 20;

const IMMUTABLE: &str = "Forbidden: field is immutable when `immutable` is set";

/// Refuses what cannot be read as an object of its kind at all.
pub(super) fn readable(key: &Key, object: &Value) -> Result<(), Failure> {
    let texts = |field: &str| object[field].as_object().is_none_or(|data| data.values().all(Value::is_string));
    if key.plural == "configmaps" && !texts("data") {
        let why = format!("\"\" is invalid: patch: Invalid value: \"{object}\": json: not a string");
        return Err(Failure::new(422, why));
    }
    Ok(())
}

/// Refuses an object that is wrong in itself, or that must not follow the one `before`.
pub(super) fn valid(key: &Key, before: Option<&Value>, object: &Value) -> Result<(), Failure> {
    let mut faults = Vec::new();
    if let Some(before) = before {
        let uid = &object["metadata"]["uid"];
        if !uid.is_null() && *uid != before["metadata"]["uid"] {
            faults.push(format!("metadata.uid: Invalid value: {uid}: field is immutable"));
        }
    }
    if key.plural == "configmaps" {
        if let Some(before) = before.filter(|before| before["immutable"] == true) {
            if object["immutable"] != true {
                faults.push(format!("immutable: {IMMUTABLE}"));
            }
            let changed = ["data", "binaryData"].into_iter().filter(|field| before[field] != object[field]);
            faults.extend(changed.map(|field| format!("{field}: {IMMUTABLE}")));
        }
        let data = || ["data", "binaryData"].into_iter().filter_map(|field| object[field].as_object()).flatten();
        let allowed = |name: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !name.is_empty() && name.len() <= 253 && name.bytes().all(plain) && !name.starts_with("..") && name != "."
        };
        let odd = data().map(|(name, _)| name).filter(|name| !allowed(name));
        faults.extend(odd.map(|name| {
            format!("data[{name}]: Invalid value: \"{name}\": a valid config key must consist of alphanumeric characters, '-', '_' or '.'")
        }));
        if data().filter_map(|(_, value)| value.as_str()).map(str::len).sum::<usize>() > MAX_DATA {
            faults.push(format!("[]: Too long: may not be more than {MAX_DATA} bytes"));
        }
    }
    let faults = match faults.as_slice() {
        [] => return Ok(()),
        [fault] => fault.clone(),
        faults => format!("[{}]", faults.join(", ")),
    };
    let kind = key.kind();
    Err(Failure::new(422, format!("{kind} \"{}\" is invalid: {faults}", key.name)).about(kind, &key.name))
}
