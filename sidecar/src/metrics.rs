//! What Prometheus is told, under `/metrics`.

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::plan::{Action, Call};
use crate::status::Status;

/// All metrics of the sidecar.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    links: Family<LinkLabels, Gauge>,
    links_wanted: Gauge,
    geth_up: Gauge,
    registry_in_sight: Gauge,
    actions: Family<ActionLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: ActionLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are printed as they stand")]
enum ActionLabel {
    add_peer,
    remove_peer,
    add_trusted_peer,
    remove_trusted_peer,
    assert,
    withdraw,
    look,
    evict,
    write_list,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("geth_peering");
        let (links, actions) = (Family::default(), Family::default());
        let (links_wanted, geth_up, registry_in_sight) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("links", "Other pods in the registry, by the state of their link", links.clone());
        registry.register("links_wanted", "Links that should be up", links_wanted.clone());
        registry.register("geth_up", "Whether the Geth in this pod answers", geth_up.clone());
        registry.register(
            "registry_in_sight",
            "Whether the registry can be seen and written",
            registry_in_sight.clone(),
        );
        registry.register("actions", "What this sidecar did, to its Geth and to the registry", actions.clone());
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of the sidecar", build);
        Self { registry, links, links_wanted, geth_up, registry_in_sight, actions }
    }
}

impl Metrics {
    /// Counts an action that is begun.
    pub fn count(&self, action: &Action) {
        let count = |action| {
            self.actions.get_or_create(&ActionLabels { action }).inc();
        };
        match action {
            Action::Tell { calls, .. } => calls.iter().for_each(|call| {
                count(match call {
                    Call::Add(_) => ActionLabel::add_peer,
                    Call::Remove(_) => ActionLabel::remove_peer,
                    Call::Trust(_) => ActionLabel::add_trusted_peer,
                    Call::Distrust(_) => ActionLabel::remove_trusted_peer,
                });
            }),
            Action::Assert(_) => count(ActionLabel::assert),
            Action::Withdraw { .. } => count(ActionLabel::withdraw),
            Action::Look { .. } => count(ActionLabel::look),
            Action::Evict { .. } => count(ActionLabel::evict),
            Action::WriteList { .. } => count(ActionLabel::write_list),
        }
    }

    /// All metrics at the moment of `status`, in OpenMetrics' text format.
    pub fn render(&self, status: &Status) -> String {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for (state, count) in status.links_by_state() {
            self.links.get_or_create(&LinkLabels { state }).set(gauge(count));
        }
        self.links_wanted.set(gauge(status.wanted));
        self.geth_up.set(i64::from(status.geth.state == "up"));
        self.registry_in_sight.set(i64::from(matches!(status.registry.shown.state, "watching" | "polling")));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _infallible = encode(&mut text, &self.registry);
        text
    }
}
