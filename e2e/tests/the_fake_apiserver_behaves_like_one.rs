//! Does the API server in memory, which the fast tests rest on, answer as a real one does?
//!
//! The same calls go to both, and the answers are compared one by one: first those that the product's rules hang on,
//! then as many drawn at random. `E2E_SEED=<number>` repeats the run that failed.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, in_namespace};
use e2e::differences::{same, shorten};
use e2e::measure::figure;
use fakes::apiserver::ApiServer;
use futures::future::join_all;
use http::{Method, Request, header};
use kube::Client;
use kube::client::Body;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Repeats a run.
const SEED_VARIABLE: &str = "E2E_SEED";

/// How many runs, and how many random calls in each.
const RUNS: u64 = 3;
const RANDOM_CALLS: usize = 250;

/// Few of each, so that calls meet what others left.
const NAMES: &[&str] = &["one", "two"];
const KEYS: &[&str] = &["geth-0", "geth-1", "static-nodes.json"];
const VALUES: &[&str] = &["", "[]", "{\"enode\":\"enode://1\"}"];

/// In a body these stand for what the server in question gave the object: its version now, its first version ever,
/// and its UID.
const LATEST: &str = "<latest version>";
const FIRST: &str = "<first version>";
const UID: &str = "<uid>";

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// What is asked of both servers.
#[derive(Clone, Debug)]
struct Call {
    method: Method,
    /// Below the namespace.
    path: String,
    content_type: &'static str,
    body: Value,
}

impl Call {
    fn new(method: Method, path: impl Into<String>, body: Value) -> Self {
        Self { method, path: path.into(), content_type: "application/json", body }
    }

    fn get(name: &str) -> Self {
        Self::new(Method::GET, format!("configmaps/{name}"), Value::Null)
    }

    fn list(name: &str) -> Self {
        Self::new(Method::GET, format!("configmaps?fieldSelector=metadata.name%3D{name}"), Value::Null)
    }

    fn create(name: &str, mut object: Value) -> Self {
        object["metadata"]["name"] = name.into();
        object["apiVersion"] = "v1".into();
        object["kind"] = "ConfigMap".into();
        Self::new(Method::POST, "configmaps", object)
    }

    fn update(name: &str, object: Value) -> Self {
        Self { method: Method::PUT, path: format!("configmaps/{name}"), ..Self::create(name, object) }
    }

    fn merge(name: &str, patch: Value) -> Self {
        Self { content_type: MERGE, ..Self::new(Method::PATCH, format!("configmaps/{name}"), patch) }
    }

    /// Makes a key be `value`, as a sidecar does with its own.
    fn assert(name: &str, key: &str, value: impl Into<Value>) -> Self {
        Self { content_type: STRATEGIC, ..Self::merge(name, json!({"data": {key: value.into()}})) }
    }

    fn patch(name: &str, patch: Value) -> Self {
        Self { content_type: JSON_PATCH, ..Self::merge(name, patch) }
    }

    /// Takes a key away if it still has the value that was judged.
    fn evict(name: &str, key: &str, value: &str) -> Self {
        let path = format!("/data/{key}");
        Self::patch(name, json!([{"op": "test", "path": path, "value": value}, {"op": "remove", "path": path}]))
    }

    fn delete(name: &str, options: Value) -> Self {
        Self::new(Method::DELETE, format!("configmaps/{name}"), options)
    }

    /// The object that it is about; for a collection, the one in the body or the selector.
    fn name(&self) -> &str {
        let last = self.path.rsplit(['/', 'D']).next().unwrap_or_default();
        self.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(last)
    }

    fn random(random: &mut StdRng) -> Self {
        let [name, key, value] = [NAMES, KEYS, VALUES].map(|from| *from.choose(random).unwrap_or(&""));
        let versions = [Value::Null, LATEST.into(), FIRST.into()];
        let version = versions.choose(random).cloned().unwrap_or_default();
        match random.random_range(0..100) {
            0..10 => Self::get(name),
            10..17 => Self::list(name),
            17..30 => Self::create(name, json!({"data": {key: value}})),
            30..45 => Self::assert(name, key, value),
            45..55 => Self::merge(name, json!({"data": {key: value}})),
            55..60 => Self::merge(name, json!({"data": {key: null}})),
            60..62 => Self::merge(name, json!({"metadata": {"labels": {"a": value.len().to_string()}}})),
            62..64 => Self::merge(name, json!({"data": null})),
            64..67 => Self::merge(name, json!({"metadata": {"resourceVersion": version}, "data": {key: value}})),
            67..79 => Self::evict(name, key, value),
            79..82 => Self::patch(name, json!([{"op": "add", "path": format!("/data/{key}"), "value": value}])),
            82..85 => Self::patch(name, json!([{"op": "remove", "path": format!("/data/{key}")}])),
            85..90 => Self::update(name, json!({"metadata": {"resourceVersion": version}, "data": {key: value}})),
            90..92 => Self::merge(name, json!({"immutable": true})),
            92..93 => Self::merge(name, json!({"immutable": null})),
            93..96 => Self::delete(name, json!({"preconditions": {"resourceVersion": version}})),
            96..97 => Self::delete(name, json!({"preconditions": {"uid": UID}})),
            97..98 => Self::new(Method::GET, format!("pods/{name}"), Value::Null),
            _ => Self::delete(name, Value::Null),
        }
    }
}

/// What the product's rules hang on, each with the code that it must get; on an empty namespace.
fn what_matters() -> Vec<(u16, Call)> {
    let [name, other] = ["one", "two"];
    let [small, large, huge] = [1, 1 << 20, 3 << 20].map(|bytes| "x".repeat(bytes));
    vec![
        (404, Call::get(name)),
        (200, Call::list(name)),
        (404, Call::merge(name, json!({"data": {"a": "1"}}))),
        (404, Call::assert(name, "a", "1")),
        (404, Call::evict(name, "a", "1")),
        (404, Call::update(name, json!({"data": {"a": "1"}}))),
        (404, Call::delete(name, Value::Null)),
        (404, Call::new(Method::GET, "pods/geth-0", Value::Null)),
        (201, Call::create(name, json!({"data": {"a": "1"}}))),
        (409, Call::create(name, json!({"data": {"b": "1"}}))),
        (200, Call::list(name)),
        (200, Call::merge(name, json!({"data": {"b": "2"}}))),
        // Changes nothing, and so there is no new version.
        (200, Call::merge(name, json!({"data": {"b": "2"}}))),
        (200, Call::assert(name, "b", "2")),
        (200, Call::assert(name, "b", "3")),
        (200, Call::assert(name, "b", "2")),
        (200, Call::update(name, json!({"data": {"a": "1", "b": "2"}}))),
        (422, Call::evict(name, "a", "2")),
        (422, Call::evict(name, "c", "2")),
        (200, Call::evict(name, "a", "1")),
        // With the last key goes the field, under which nothing can then be added.
        (200, Call::evict(name, "b", "2")),
        (422, Call::patch(name, json!([{"op": "add", "path": "/data/a", "value": "1"}]))),
        (200, Call::patch(name, json!([{"op": "add", "path": "/data", "value": {"a": "1", "b": ""}}]))),
        (200, Call::merge(name, json!({"data": {"a": null, "b": null}}))),
        (200, Call::merge(name, json!({"data": {}}))),
        (400, Call::patch(name, json!({"data": {"a": "1"}}))),
        (400, Call::merge(name, json!([]))),
        (422, Call::merge(name, json!({"data": {"not a key": "1"}}))),
        (422, Call::merge(name, json!({"data": {"a": 1}}))),
        (422, Call::assert(name, "not a key", "1")),
        (400, Call::merge(name, json!({"metadata": {"name": other}}))),
        (422, Call::merge(name, json!({"metadata": {"uid": "1"}}))),
        (409, Call::merge(name, json!({"metadata": {"resourceVersion": FIRST}}))),
        (409, Call::update(name, json!({"metadata": {"resourceVersion": FIRST}}))),
        (200, Call::merge(name, json!({"metadata": {"resourceVersion": LATEST}, "data": {"a": "1"}}))),
        (200, Call::merge(name, json!({"data": {"a": large}}))),
        (422, Call::merge(name, json!({"data": {"b": small}}))),
        (422, Call::assert(name, "b", small.clone())),
        (422, Call::create(other, json!({"data": {"a": large, "b": small}}))),
        (413, Call::merge(name, json!({"data": {"b": huge}}))),
        (413, Call::create(other, json!({"data": {"a": huge}}))),
        (200, Call::merge(name, json!({"data": {"a": "1"}, "immutable": true}))),
        (422, Call::merge(name, json!({"data": {"a": "2"}}))),
        (422, Call::assert(name, "a", "2")),
        (422, Call::evict(name, "a", "1")),
        (422, Call::merge(name, json!({"immutable": null}))),
        (200, Call::merge(name, json!({"data": {"a": "1"}}))),
        (200, Call::merge(name, json!({"metadata": {"labels": {"a": "b"}}}))),
        (409, Call::delete(name, json!({"preconditions": {"uid": "1"}}))),
        (409, Call::delete(name, json!({"preconditions": {"resourceVersion": FIRST}}))),
        (200, Call::delete(name, json!({"preconditions": {"uid": UID, "resourceVersion": LATEST}}))),
        // The same name, another object.
        (201, Call::create(name, json!({"immutable": true}))),
        (200, Call::get(name)),
        (200, Call::delete(name, Value::Null)),
        (404, Call::get(name)),
    ]
}

/// One of the two servers, and what it said so far.
struct Server {
    client: Client,
    namespace: String,
    /// Versions of objects and UIDs, in the order in which they were first seen.
    versions: Vec<u64>,
    uids: Vec<String>,
    /// What the placeholders stand for, by object: latest version, first version, UID.
    known: BTreeMap<String, [String; 3]>,
    /// The version of each list, in order.
    lists: Vec<String>,
}

impl Server {
    fn new(client: Client, namespace: &str) -> Self {
        let (versions, uids, known, lists) = Default::default();
        Self { client, namespace: namespace.into(), versions, uids, known, lists }
    }

    /// Asks, and returns the answer as it can be compared.
    async fn answer(&mut self, call: &Call) -> Result<Value> {
        let [latest, first, uid] = self.known.get(call.name()).cloned().unwrap_or_default();
        let mut body = call.body.clone();
        for (pointer, placeholder, value) in [
            ("/metadata/resourceVersion", LATEST, &latest),
            ("/metadata/resourceVersion", FIRST, &first),
            ("/preconditions/resourceVersion", LATEST, &latest),
            ("/preconditions/resourceVersion", FIRST, &first),
            ("/preconditions/uid", UID, &uid),
        ] {
            if let Some(found) = body.pointer_mut(pointer).filter(|found| **found == *placeholder) {
                *found = value.clone().into();
            }
        }
        let (code, text) = self.send(call, &body).await?;
        let mut answer: Value = serde_json::from_str(&text).with_context(|| format!("{code} {text}"))?;
        match answer["kind"].as_str() {
            Some("ConfigMap") => {
                let field = |name: &str| answer["metadata"][name].as_str().unwrap_or_default().to_owned();
                let (version, uid) = (field("resourceVersion"), field("uid"));
                let known =
                    self.known.entry(call.name().into()).or_insert([String::new(), version.clone(), String::new()]);
                (known[0], known[2]) = (version, uid);
                self.rename(&mut answer)?;
            }
            Some("ConfigMapList") => self.rename_list(&mut answer)?,
            _ => {
                // Of a deletion.
                if let Some(uid) = answer.pointer_mut("/details/uid") {
                    *uid = self.uid(uid);
                }
                shorten_failure(&mut answer);
            }
        }
        Ok(json!({"code": code, "body": answer}))
    }

    /// The events of one object since the `n`th list, as they can be compared.
    async fn watch(&self, name: &str, n: usize) -> Result<Value> {
        let since = self.lists.get(n).context("no such list")?;
        let path =
            format!("configmaps?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3D{name}&resourceVersion={since}");
        let (code, text) = self.send(&Call::new(Method::GET, path, Value::Null), &Value::Null).await?;
        let (mut events, mut newest) = (Vec::new(), since.parse::<u64>()?);
        for line in text.lines() {
            let mut event: Value = serde_json::from_str(line)?;
            let version: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap_or_default().parse()?;
            ensure!(version > newest, "events out of order: {version} after {newest}");
            newest = version;
            // A deletion has a version of its own, which no answer told of.
            let index = self.versions.iter().position(|known| *known == version);
            let deletion = event["type"] == "DELETED";
            ensure!(deletion == index.is_none(), "{} with version {version}, which is {index:?}", event["type"]);
            event["object"]["metadata"]["resourceVersion"] = index.into();
            let uid = self.uids.iter().position(|known| event["object"]["metadata"]["uid"] == **known);
            event["object"]["metadata"]["uid"] = uid.into();
            forget_what_differs(&mut event["object"]);
            events.push(event);
        }
        Ok(json!({"code": code, "events": events}))
    }

    async fn send(&self, call: &Call, body: &Value) -> Result<(u16, String)> {
        let uri = format!("/api/v1/namespaces/{}/{}", self.namespace, call.path);
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = Request::builder().method(&call.method).uri(uri).header(header::CONTENT_TYPE, call.content_type);
        let answer = self.client.send(request.body(Body::from(body))?).await?;
        let (code, body) = (answer.status().as_u16(), answer.into_body().collect_bytes().await?);
        Ok((code, String::from_utf8(body.to_vec())?))
    }

    fn rename_list(&mut self, list: &mut Value) -> Result<()> {
        for item in list["items"].as_array_mut().context("a list without items")? {
            self.rename(item)?;
        }
        let version = list["metadata"]["resourceVersion"].take();
        let version = version.as_str().context("a list without a version")?;
        let newest = self.versions.last().copied().unwrap_or_default();
        ensure!(version.parse::<u64>()? >= newest, "a list as of {version}, before {newest}");
        self.lists.push(version.into());
        Ok(())
    }

    /// Gives what the server made up a name that does not depend on the server.
    fn rename(&mut self, object: &mut Value) -> Result<()> {
        let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().parse()?;
        let index = self.versions.iter().position(|known| *known == version).unwrap_or(self.versions.len());
        if index == self.versions.len() {
            let newest = self.versions.last().copied().unwrap_or_default();
            ensure!(version > newest, "version {version} came after {newest}");
            self.versions.push(version);
        }
        object["metadata"]["resourceVersion"] = index.into();
        object["metadata"]["uid"] = self.uid(&object["metadata"]["uid"]);
        forget_what_differs(object);
        Ok(())
    }

    fn uid(&mut self, uid: &Value) -> Value {
        let uid = uid.as_str().unwrap_or_default();
        let index = self.uids.iter().position(|known| known == uid).unwrap_or(self.uids.len());
        if index == self.uids.len() {
            self.uids.push(uid.into());
        }
        index.into()
    }
}

/// Namespace, time, and the bookkeeping of who wrote which field.
fn forget_what_differs(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        for field in ["namespace", "creationTimestamp"] {
            metadata.insert(field.into(), metadata.contains_key(field).into());
        }
    }
}

/// Leaves out what is said at length in words of the server's own: values in parentheses or quoted as JSON, each
/// cause, and how Go's decoder describes what it cannot decode.
fn shorten_failure(status: &mut Value) {
    if let Some(details) = status.get_mut("details").and_then(Value::as_object_mut) {
        details.remove("causes");
    }
    if let Some(status) = status.as_object_mut() {
        status.retain(|_, value| *value != json!({}));
    }
    if let Some(message) = status["message"].as_str() {
        let end = ["(", "{", "json:"].iter().filter_map(|mark| message.find(mark)).min().unwrap_or(message.len());
        status["message"] = message[..end].trim().into();
    }
}

#[tokio::test]
async fn does_the_fake_api_server_answer_a_random_sequence_of_calls_as_a_real_one() -> Result<()> {
    let given = std::env::var(SEED_VARIABLE).ok().map(|seed| seed.parse::<u64>()).transpose()?;
    let seeds = given.map_or_else(|| (0..RUNS).map(|_| u64::from(rand::random::<u32>())).collect(), |seed| vec![seed]);
    in_namespace(async |namespace| {
        for seed in seeds {
            run(namespace, seed).await.with_context(|| format!("repeat it with {SEED_VARIABLE}={seed}"))?;
        }
        Ok(())
    })
    .await
}

async fn run(namespace: &Namespace, seed: u64) -> Result<()> {
    let mut real = Server::new(namespace.client.clone(), &namespace.name);
    let mut fake = Server::new(ApiServer::new().client("ns"), "ns");
    let mut random = StdRng::seed_from_u64(seed);
    let fixed = what_matters().into_iter().map(|(code, call)| (Some(code), call));
    let drawn: Vec<_> = (0..RANDOM_CALLS).map(|_| (None, Call::random(&mut random))).collect();
    // Leaves the namespace empty for the next run.
    let last = NAMES.iter().map(|name| (None, Call::delete(name, Value::Null)));

    let mut calls = 0;
    for (n, (code, call)) in fixed.chain(drawn).chain(last).enumerate() {
        let what = || format!("call {n}: {} {} {}", call.method, call.path, shorten(&call.body.to_string()));
        let (one, other) = (real.answer(&call).await.with_context(what)?, fake.answer(&call).await.with_context(what)?);
        same(&what(), &one, &other)?;
        ensure!(code.is_none_or(|code| one["code"] == code), "{}\n  answered with {one}", what());
        calls += 1;
    }

    ensure!(real.lists.len() == fake.lists.len(), "they gave another number of lists");
    let watches = NAMES.iter().flat_map(|name| (0..real.lists.len()).step_by(5).map(move |n| (*name, n)));
    let watched = join_all(watches.map(async |(name, n)| {
        let (one, other) = tokio::try_join!(real.watch(name, n), fake.watch(name, n))?;
        same(&format!("watch of {name} since list {n}"), &one, &other)?;
        Ok(one["events"].as_array().map_or(0, Vec::len))
    }));
    let events = watched.await.into_iter().collect::<Result<Vec<_>>>()?;
    let events: usize = events.iter().sum();
    ensure!(events > 0, "no watch saw anything");
    figure("API servers that agree", format_args!("seed {seed}: {calls} answers, {events} events of watches"));
    Ok(())
}
