//! Requests in, answers and watch streams out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::store::{Change, Failure, Key, Patch};
use super::{ApiServer, Call, Fault, Verb};

/// Larger bodies are refused, as by the real server.
const MAX_BODY: usize = 3 << 20;

/// The service that [`kube::Client`] talks to.
pub(super) fn router(server: ApiServer) -> Router {
    Router::new().fallback(handle).with_state(server)
}

async fn handle(State(server): State<ApiServer>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return failure(&Failure::new(413, "Request entity too large: limit is 3145728"));
    };
    let request = match Parsed::new(&parts.method, &parts.uri, &parts.headers, &body) {
        Ok(request) => request,
        Err(refused) => return failure(&refused),
    };
    server.take_time().await;
    let (fault, outcome) = {
        let mut state = server.lock();
        state.calls.push(request.call());
        let (verb, plural) = (request.verb, &request.key.plural);
        let rule = state.faults.iter_mut().find(|rule| rule.left > 0 && rule.verb == verb && rule.plural == *plural);
        let fault = rule.map(|rule| {
            rule.left -= 1;
            rule.fault
        });
        let outcome = match fault {
            Some(Fault::Status(code)) => Err(Failure::new(code, format!("{verb:?} of {plural} fails by order"))),
            Some(Fault::Hang | Fault::EndAtOnce) => Ok(Value::Null),
            Some(Fault::LoseAnswer) | None => {
                let before = state.store.revision();
                let outcome = request.perform(&mut state);
                state.writes += usize::from(state.store.revision() > before);
                outcome
            }
        };
        (fault, outcome)
    };
    server.changed.send_replace(());
    match (fault, outcome) {
        (Some(Fault::Hang | Fault::LoseAnswer), _) => future::pending().await,
        (_, Err(refused)) => failure(&refused),
        (Some(Fault::EndAtOnce), _) => StatusCode::OK.into_response(),
        (_, Ok(_)) if request.verb == Verb::Watch => watch_stream(&server, request),
        (_, Ok(answer)) => {
            let code = if request.verb == Verb::Create { StatusCode::CREATED } else { StatusCode::OK };
            json_response(code, &answer)
        }
    }
}

fn failure(failure: &Failure) -> Response {
    let code = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_response(code, &failure.status())
}

fn json_response(code: StatusCode, body: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// A request that makes sense.
#[derive(Debug)]
struct Parsed {
    verb: Verb,
    key: Key,
    query: String,
    parameters: BTreeMap<String, String>,
    selector: Selector,
    /// Whether only metadata is wanted (`as=PartialObjectMetadata`).
    metadata_only: bool,
    content_type: String,
    body: Value,
}

impl Parsed {
    fn new(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Self, Failure> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let key = Key::parse(uri.path()).ok_or_else(|| Failure::new(404, "the server could not find the resource"))?;
        let Query(parameters) = Query::<BTreeMap<String, String>>::try_from_uri(uri)
            .map_err(|error| Failure::new(400, error.to_string()))?;
        let is_true = |name| parameters.get(name).is_some_and(|value| value == "true" || value == "1");
        let verb = match (method.as_str(), key.name.is_empty()) {
            ("GET", true) if is_true("watch") => Verb::Watch,
            ("GET", true) => Verb::List,
            ("GET", false) => Verb::Get,
            ("POST", true) => Verb::Create,
            ("PUT", false) => Verb::Update,
            ("PATCH", false) => Verb::Patch,
            ("DELETE", false) => Verb::Delete,
            _ => return Err(Failure::new(405, "the server does not allow this method on the requested resource")),
        };
        if is_true("sendInitialEvents") {
            return Err(Failure::new(422, "sendInitialEvents is forbidden without the WatchList feature gate"));
        }
        Ok(Self {
            verb,
            selector: Selector::new(&parameters)?,
            metadata_only: header("accept").contains("as=PartialObjectMetadata"),
            content_type: header("content-type").to_owned(),
            body: match body {
                [] => Value::Null,
                body => serde_json::from_slice(body).map_err(|error| Failure::new(400, error.to_string()))?,
            },
            query: uri.query().unwrap_or_default().to_owned(),
            key,
            parameters,
        })
    }

    fn call(&self) -> Call {
        let Key { plural, namespace, name, .. } = self.key.clone();
        Call { verb: self.verb, plural, namespace, name, query: self.query.clone(), body: self.body.clone() }
    }

    fn perform(&self, state: &mut super::State) -> Result<Value, Failure> {
        let (key, store) = (&self.key, &mut state.store);
        let dry = self.parameters.get("dryRun").is_some_and(|value| value == "All");
        let object = match self.verb {
            // The stream itself is made by whoever answers.
            Verb::Watch => return Ok(Value::Null),
            Verb::List => {
                let number = |name| self.parameters.get(name).and_then(|text| text.parse::<usize>().ok());
                let items = store.all(key).into_iter().filter(|object| self.selector.matches(object));
                let first = number("continue").unwrap_or_default();
                let mut items: Vec<Value> = items.skip(first).map(|object| self.listed(object)).collect();
                let mut meta = json!({ "resourceVersion": store.revision().to_string() });
                if let Some(limit) = number("limit").filter(|limit| (1..items.len()).contains(limit)) {
                    items.truncate(limit);
                    // The real one's token is opaque, too, and names the version that the first page showed.
                    meta["continue"] = json!((first + limit).to_string());
                }
                return Ok(json!({
                    "kind": format!("{}List", key.kind()), "apiVersion": key.api, "metadata": meta, "items": items,
                }));
            }
            Verb::Get => store.read(key),
            Verb::Create => store.create(key, self.body.clone(), dry),
            Verb::Update => store.update(key, self.body.clone(), dry),
            Verb::Patch => store.patch(key, &self.patch()?, dry),
            Verb::Delete => return store.delete(key, &self.body, dry),
        }?;
        Ok(self.shown(object))
    }

    fn patch(&self) -> Result<Patch, Failure> {
        let undecodable = |why: &str| Failure::new(400, format!("error decoding patch: json: {why}"));
        match self.content_type.as_str() {
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => match self.body.is_object() {
                true => Ok(Patch::Merge(self.body.clone())),
                false => Err(undecodable("not an object")),
            },
            "application/json-patch+json" => serde_json::from_value(self.body.clone())
                .map(Patch::Json)
                .map_err(|error| undecodable(&error.to_string())),
            other => Err(Failure::new(415, format!("{other} is not supported here"))),
        }
    }

    /// The object, or as much of it as was asked for.
    fn shown(&self, object: Value) -> Value {
        if !self.metadata_only {
            return object;
        }
        json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
        })
    }

    /// As [`Self::shown`], without what the list says for all.
    fn listed(&self, object: Value) -> Value {
        let mut object = self.shown(object);
        if let Some(object) = object.as_object_mut().filter(|_| !self.metadata_only) {
            object.remove("kind");
            object.remove("apiVersion");
        }
        object
    }

    /// What a change looks like through the selector, if it is seen at all.
    fn event(&self, change: &Change) -> Option<Value> {
        if !self.key.covers(&change.key) {
            return None;
        }
        let seen = |object: &Option<Value>| object.clone().filter(|object| self.selector.matches(object));
        let (kind, object) = match (seen(&change.before), seen(&change.after)) {
            (None, None) => return None,
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", change.after.clone().unwrap_or(before)),
        };
        Some(json!({ "type": kind, "object": self.shown(object) }))
    }
}

/// Fields that can be selected by. Most kinds know the name alone.
const SELECTABLE: [(&str, &str); 2] = [("metadata.name", "/metadata/name"), ("status.phase", "/status/phase")];

/// Field and label selector.
#[derive(Debug, Default)]
struct Selector {
    /// Where the field is, its value, and whether it must be so or must not.
    fields: Vec<(&'static str, String, bool)>,
    /// Label key, value (`None`: any), and whether it must be so or must not.
    labels: Vec<(String, Option<String>, bool)>,
}

impl Selector {
    fn new(parameters: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let terms = |name| parameters.get(name).into_iter().flat_map(|text| text.split(','));
        let mut selector = Self::default();
        for term in terms("fieldSelector").filter(|term| !term.is_empty()) {
            let unknown = || Failure::new(400, format!("field selector not supported here: {term}"));
            let (name, value) = term.split_once('=').ok_or_else(unknown)?;
            let wanted = !name.ends_with('!');
            let field = SELECTABLE.iter().find(|(field, _)| *field == name.trim_end_matches('!'));
            let (_, pointer) = field.ok_or_else(unknown)?;
            selector.fields.push((pointer, value.trim_start_matches('=').to_owned(), wanted));
        }
        for term in terms("labelSelector").map(str::trim).filter(|term| !term.is_empty()) {
            if term.contains(['(', ')', ' ']) {
                return Err(Failure::new(400, format!("label selector not supported here: {term}")));
            }
            selector.labels.push(if let Some((key, value)) = term.split_once("!=") {
                (key.to_owned(), Some(value.to_owned()), false)
            } else if let Some((key, value)) = term.split_once('=') {
                (key.to_owned(), Some(value.trim_start_matches('=').to_owned()), true)
            } else {
                (term.trim_start_matches('!').to_owned(), None, !term.starts_with('!'))
            });
        }
        Ok(selector)
    }

    fn matches(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        let has = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        self.fields.iter().all(|(pointer, value, wanted)| *wanted == (has(pointer) == value))
            && self.labels.iter().all(|(key, value, wanted)| {
                let has = meta["labels"][key].as_str();
                *wanted == has.is_some_and(|has| value.as_ref().is_none_or(|value| value == has))
            })
    }
}

/// What a watch remembers between two looks.
struct Watching {
    server: ApiServer,
    changed: watch::Receiver<()>,
    request: Parsed,
    epoch: u64,
    /// The version up to which everything is sent; `None` before the first look of a
    /// watch that begins with what there is.
    sent: Option<u64>,
    ends: Option<Instant>,
}

fn watch_stream(server: &ApiServer, request: Parsed) -> Response {
    let number = |name| request.parameters.get(name).and_then(|text| text.parse::<u64>().ok());
    let watching = Watching {
        changed: server.changed.subscribe(),
        epoch: server.lock().epoch,
        sent: number("resourceVersion").filter(|&version| version > 0),
        ends: number("timeoutSeconds").map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        server: server.clone(),
        request,
    };
    let lines = stream::unfold(watching, |mut watching| async move {
        loop {
            watching.server.take_time().await;
            match watching.look()? {
                lines if lines.is_empty() => watching.wait().await?,
                lines => return Some((Ok::<_, Infallible>(lines), watching)),
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

impl Watching {
    /// The events since the last look, one a line; `None` when the watch is over.
    fn look(&mut self) -> Option<String> {
        let state = self.server.lock();
        if state.epoch != self.epoch {
            return None;
        }
        let events: Vec<Value> = match self.sent {
            None => {
                let all = state.store.all(&self.request.key).into_iter();
                let seen = all.filter(|object| self.request.selector.matches(object));
                seen.map(|object| json!({ "type": "ADDED", "object": self.request.shown(object) })).collect()
            }
            Some(revision) => match state.store.since(revision) {
                Ok(changes) => changes.iter().filter_map(|change| self.request.event(change)).collect(),
                Err(gone) => {
                    // Said once, inside the stream, which then ends.
                    self.epoch = u64::MAX;
                    vec![json!({ "type": "ERROR", "object": gone.status() })]
                }
            },
        };
        self.sent = Some(state.store.revision());
        Some(events.iter().map(|event| format!("{event}\n")).collect())
    }

    /// Waits for a change; `None` when the watch's time is up.
    async fn wait(&mut self) -> Option<()> {
        match self.ends {
            Some(end) => timeout_at(end, self.changed.changed()).await.ok()?.ok(),
            None => self.changed.changed().await.ok(),
        }
    }
}
