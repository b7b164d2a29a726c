//! What Prometheus is told, under `/metrics`. Every label has a closed set of values:
//! nothing that stands in the registry becomes one.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::geth::CallError;
use crate::plan::concern::Concern;
use crate::status::{GETH_STATES, REGISTRY_STATES, Status};

/// Upper bounds, seconds: from what Geth itself takes to connect, over the 35 s for which it
/// does not dial a node again, to a mesh that waits for a person.
const MESH_BUCKETS: [f64; 11] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 35.0, 70.0, 300.0, 1800.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConcernLabels {
    concern: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    resource: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    outcome: &'static str,
}

/// Counts requests to the API server. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct ApiRequests(Family<RequestLabels, Counter>);

impl ApiRequests {
    /// A request for `verb` on `resource` ended in `outcome`: `ok`, `forbidden`, `refused`, `failed` or `unanswered`.
    pub fn count(&self, verb: &'static str, resource: &'static str, outcome: &'static str) {
        self.0.get_or_create(&RequestLabels { verb, resource, outcome }).inc();
    }

    /// How many did so far.
    pub fn so_far(&self, verb: &'static str, resource: &'static str, outcome: &'static str) -> u64 {
        self.0.get(&RequestLabels { verb, resource, outcome }).map_or(0, |counter| counter.get())
    }
}

/// Counts calls to Geth. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct GethCalls(Family<CallLabels, Counter>);

impl GethCalls {
    /// A call of `method` ended like this.
    pub fn count<T>(&self, method: &'static str, result: &Result<T, CallError>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(CallError::Rpc(_)) => "refused",
            Err(CallError::Timeout { .. }) => "unanswered",
            Err(CallError::Closed(_)) => "closed",
            Err(CallError::Decode { .. }) => "strange",
        };
        self.0.get_or_create(&CallLabels { method, outcome }).inc();
    }
}

/// All metrics of the sidecar.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    links: Family<StateLabels, Gauge>,
    links_wanted: Gauge,
    links_connected: Gauge,
    geth_state: Family<StateLabels, Gauge>,
    registry_state: Family<StateLabels, Gauge>,
    concerns: Family<ConcernLabels, Gauge>,
    time_to_mesh: Histogram,
    evictions: Counter,
    geth_calls: GethCalls,
    api_requests: ApiRequests,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("geth_peering"),
            links: Family::default(),
            links_wanted: Gauge::default(),
            links_connected: Gauge::default(),
            geth_state: Family::default(),
            registry_state: Family::default(),
            concerns: Family::default(),
            time_to_mesh: Histogram::new(MESH_BUCKETS),
            evictions: Counter::default(),
            geth_calls: GethCalls::default(),
            api_requests: ApiRequests::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "links",
            "Other nodes in the registry, by the state of their link: the reason why it is missing, unless connected",
            self.links.clone(),
        );
        registry.register("links_wanted", "Links that should be up", self.links_wanted.clone());
        registry.register("links_connected", "Wanted links that are up", self.links_connected.clone());
        registry.register("geth_state", "The Geth in this pod: 1 for the state it is in", self.geth_state.clone());
        registry.register("registry_state", "The registry: 1 for the state it is in", self.registry_state.clone());
        registry.register("concerns", "What a person has to act on, by kind", self.concerns.clone());
        registry.register_with_unit(
            "time_to_mesh",
            "Time from the first answer of a Geth that has just started, or from the registry gaining a node while all was up, until all links wanted by then are up; not for a link lost and found again",
            Unit::Seconds,
            self.time_to_mesh.clone(),
        );
        registry.register(
            "evictions",
            "Entries of pods that are gone which this sidecar removed from the registry",
            self.evictions.clone(),
        );
        registry.register(
            "geth_calls",
            "Calls to Geth, by method and outcome: ok, refused (an error answered), unanswered (in time), closed (the connection ended), strange (an answer without sense)",
            self.geth_calls.0.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server, by verb, resource and outcome: ok, forbidden, refused (any other 4xx), failed (429, 5xx, or no connection), unanswered (in time); a watch counts when it begins",
            self.api_requests.0.clone(),
        );
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of the sidecar", build);
        self
    }

    /// What counts calls to Geth.
    pub fn geth_calls(&self) -> GethCalls {
        self.geth_calls.clone()
    }

    /// What counts requests to the API server.
    pub fn api_requests(&self) -> ApiRequests {
        self.api_requests.clone()
    }

    /// Counts an entry of a dead pod that this sidecar removed.
    pub fn evicted(&self) {
        self.evictions.inc();
    }

    /// The mesh has become whole after `took`.
    pub fn meshed(&self, took: Duration) {
        self.time_to_mesh.observe(took.as_secs_f64());
    }

    /// All metrics at the moment of `status`, in OpenMetrics' text format.
    pub fn render(&self, status: &Status) -> String {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for (state, count) in status.links_by_state() {
            self.links.get_or_create(&StateLabels { state }).set(gauge(count));
        }
        self.links_wanted.set(gauge(status.wanted));
        self.links_connected.set(gauge(status.connected));
        for state in GETH_STATES {
            self.geth_state.get_or_create(&StateLabels { state }).set(i64::from(status.geth.state == state));
        }
        for state in REGISTRY_STATES {
            let is = status.registry.shown.state == state;
            self.registry_state.get_or_create(&StateLabels { state }).set(i64::from(is));
        }
        for concern in Concern::WORDS {
            let count = status.concerns.iter().filter(|raised| raised.word() == concern).count();
            self.concerns.get_or_create(&ConcernLabels { concern }).set(gauge(count));
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _infallible = encode(&mut text, &self.registry);
        text
    }
}
