//! The objects, their versions and their history; no HTTP, no time, no waiting.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::validation;

/// Names an object, or with an empty name all objects of a kind in a namespace (an
/// empty namespace: in all of them).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// `v1`, or group and version such as `apps/v1`.
    pub(super) api: String,
    pub(super) plural: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    /// Reads the path of a request.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (api, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, plural, name) = match rest {
            ["namespaces", namespace, plural] => (*namespace, *plural, ""),
            ["namespaces", namespace, plural, name] => (*namespace, *plural, *name),
            [plural] => ("", *plural, ""),
            [plural, name] => ("", *plural, *name),
            _ => return None,
        };
        Some(Self { api, plural: plural.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The kind of the objects; `List` with nothing before it for a kind that the product
    /// does not use.
    pub(super) fn kind(&self) -> &'static str {
        match self.plural.as_str() {
            "configmaps" => "ConfigMap",
            "deployments" => "Deployment",
            "events" => "Event",
            "mutatingwebhookconfigurations" => "MutatingWebhookConfiguration",
            "namespaces" => "Namespace",
            "pods" => "Pod",
            "replicasets" => "ReplicaSet",
            "rolebindings" => "RoleBinding",
            "secrets" => "Secret",
            "serviceaccounts" => "ServiceAccount",
            "statefulsets" => "StatefulSet",
            _ => "",
        }
    }

    /// Whether this names a collection that `other` lies in.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.api == other.api
            && self.plural == other.plural
            && (self.namespace.is_empty() || self.namespace == other.namespace)
    }
}

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// `details` of the `Status`.
    pub(super) details: Value,
}

impl Failure {
    /// A failure with the reason that the real server gives with this code.
    pub(super) fn new(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            409 => "Conflict",
            410 => "Expired",
            413 => "RequestEntityTooLarge",
            415 => "UnsupportedMediaType",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    /// Says which object it is about; `kind` is a kind or a plural, as the real server has it.
    pub(super) fn about(self, kind: &str, name: &str) -> Self {
        Self { details: json!({ "name": name, "kind": kind }), ..self }
    }

    /// The `Status` object that carries it.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// A change to one object: `before` is missing when it was made, `after` when it was deleted.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
    /// The server's version after the change.
    pub(super) revision: u64,
}

/// How a patch is to be understood.
#[derive(Debug)]
pub(super) enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Json(json_patch::Patch),
}

#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Value>,
    history: Vec<Change>,
    revision: u64,
    /// Watches from an earlier version than this are refused.
    compacted: u64,
    made: u64,
}

impl Default for Store {
    /// Empty. The first version is 1, as etcd's: a watch from 0 means another thing.
    fn default() -> Self {
        Self { objects: BTreeMap::new(), history: Vec::new(), revision: 1, compacted: 0, made: 0 }
    }
}

impl Store {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Goes back to the first version: what comes now has lower ones than what was.
    pub(super) fn rewind(&mut self) {
        self.revision = 1;
        self.compacted = 0;
        self.history.clear();
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    pub(super) fn all(&self, collection: &Key) -> Vec<Value> {
        let covered = self.objects.iter().filter(|(key, _)| collection.covers(key));
        covered.map(|(_, object)| object.clone()).collect()
    }

    /// The changes after `revision`, or a failure if they are forgotten.
    pub(super) fn since(&self, revision: u64) -> Result<&[Change], Failure> {
        if revision < self.compacted {
            let message = format!("too old resource version: {revision} ({})", self.compacted);
            return Err(Failure::new(410, message));
        }
        if revision > self.revision {
            // storage.NewTooLargeResourceVersionError (apiserver/pkg/storage/errors.go).
            let message = format!("Too large resource version: {revision}, current: {}", self.revision);
            return Err(Failure::new(504, message));
        }
        let first = self.history.partition_point(|change| change.revision <= revision);
        Ok(&self.history[first..])
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
    }

    pub(super) fn read(&self, key: &Key) -> Result<Value, Failure> {
        let missing =
            || Failure::new(404, format!("{} \"{}\" not found", key.plural, key.name)).about(&key.plural, &key.name);
        self.get(key).cloned().ok_or_else(missing)
    }

    pub(super) fn create(&mut self, collection: &Key, mut object: Value, dry: bool) -> Result<Value, Failure> {
        self.made += 1;
        let meta = &object["metadata"];
        let name = match (meta["name"].as_str(), meta["generateName"].as_str()) {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, Some(prefix)) if !prefix.is_empty() => format!("{prefix}{:05}", self.made),
            _ => return Err(Failure::new(422, "metadata.name: Required value: name or generateName is required")),
        };
        let key = Key { name, ..collection.clone() };
        if meta["namespace"].as_str().is_some_and(|namespace| namespace != key.namespace) {
            return Err(Failure::new(400, "the namespace of the object does not match the namespace on the request"));
        }
        normalise(&key, &mut object);
        validation::valid(&key, None, &object)?;
        if self.objects.contains_key(&key) {
            let message = format!("{} \"{}\" already exists", key.plural, key.name);
            let exists = Failure { reason: "AlreadyExists", ..Failure::new(409, message) };
            return Err(exists.about(&key.plural, &key.name));
        }
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.made));
        Ok(self.commit(&key, object, dry))
    }

    pub(super) fn update(&mut self, key: &Key, object: Value, dry: bool) -> Result<Value, Failure> {
        let current = self.read(key)?;
        self.replace(key, &current, object, dry)
    }

    pub(super) fn patch(&mut self, key: &Key, patch: &Patch, dry: bool) -> Result<Value, Failure> {
        let current = self.read(key)?;
        let mut object = current.clone();
        match patch {
            Patch::Merge(patch) => json_patch::merge(&mut object, patch),
            // A failed test and an operation that cannot be applied look the same.
            Patch::Json(patch) => json_patch::patch(&mut object, patch).map_err(|_| Failure {
                details: json!({}),
                ..Failure::new(422, "the server rejected our request due to an error in our request")
            })?,
        }
        validation::readable(key, &object)?;
        self.replace(key, &current, object, dry)
    }

    pub(super) fn delete(&mut self, key: &Key, options: &Value, dry: bool) -> Result<Value, Failure> {
        let current = self.read(key)?;
        for (field, name) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let (wanted, found) = (&options["preconditions"][field], &current["metadata"][field]);
            if !wanted.is_null() && wanted != found {
                let why =
                    format!("the {name} in the precondition ({wanted}) does not match the {name} in record ({found})");
                return Err(conflict(key.kind(), &key.name, &why));
            }
        }
        if !dry {
            self.revision += 1;
            self.objects.remove(key);
            let mut last = current.clone();
            // A deletion has a version of its own.
            last["metadata"]["resourceVersion"] = json!(self.revision.to_string());
            self.record(key, Some(last), None);
        }
        let details = json!({ "name": key.name, "kind": key.plural, "uid": current["metadata"]["uid"] });
        Ok(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details }))
    }

    /// Makes or replaces without any question.
    pub(super) fn put(&mut self, key: &Key, mut object: Value) -> Value {
        match self.get(key).cloned() {
            Some(current) => {
                object["metadata"]["resourceVersion"] = Value::Null;
                self.replace(key, &current, object, false)
            }
            None => self.create(key, object, false),
        }
        .unwrap_or_else(|failure| panic!("{}", failure.message))
    }

    /// Puts `object` in the place of `current` if it may.
    fn replace(&mut self, key: &Key, current: &Value, mut object: Value, dry: bool) -> Result<Value, Failure> {
        let meta = &object["metadata"];
        if let Some(name) = meta["name"].as_str().filter(|name| *name != key.name) {
            let why = format!("the name of the object ({name}) does not match the name on the URL ({})", key.name);
            return Err(Failure::new(400, why));
        }
        if meta["resourceVersion"].as_str().is_some_and(|version| current["metadata"]["resourceVersion"] != version) {
            return Err(conflict(
                &key.plural,
                &key.name,
                "the object has been modified; please apply your changes to the latest version and try again",
            ));
        }
        if key.plural.ends_with("rolebindings") && object["roleRef"] != current["roleRef"] {
            return Err(Failure::new(422, "roleRef: Invalid value: cannot change roleRef"));
        }
        normalise(key, &mut object);
        validation::valid(key, Some(current), &object)?;
        for field in ["uid", "creationTimestamp", "resourceVersion"] {
            object["metadata"][field] = current["metadata"][field].clone();
        }
        if object == *current {
            return Ok(object);
        }
        Ok(self.commit(key, object, dry))
    }

    fn commit(&mut self, key: &Key, mut object: Value, dry: bool) -> Value {
        if !dry {
            self.revision += 1;
            object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
            let before = self.objects.insert(key.clone(), object.clone());
            self.record(key, before, Some(object.clone()));
        }
        object
    }

    fn record(&mut self, key: &Key, before: Option<Value>, after: Option<Value>) {
        self.history.push(Change { key: key.clone(), before, after, revision: self.revision });
    }
}

/// Takes from the URL what an object need not repeat, and drops what is empty, as the real
/// server does when it reads an object into its types and writes it again: a ConfigMap
/// whose last key is removed has no `data` at all.
fn normalise(key: &Key, object: &mut Value) {
    object["metadata"]["name"] = json!(key.name);
    if !key.namespace.is_empty() {
        object["metadata"]["namespace"] = json!(key.namespace);
    }
    let empty = |value: &Value| {
        value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty) || *value == json!([])
    };
    for (parent, fields) in [
        ("", ["data", "binaryData", "stringData", "immutable"]),
        ("/metadata", ["labels", "annotations", "ownerReferences", "finalizers"]),
    ] {
        if let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
            parent.retain(|name, value| !(fields.contains(&name.as_str()) && empty(value)));
        }
    }
}

fn conflict(kind: &str, name: &str, why: &str) -> Failure {
    let message = format!("Operation cannot be fulfilled on {kind} \"{name}\": {why}");
    Failure::new(409, message).about(kind, name)
}
